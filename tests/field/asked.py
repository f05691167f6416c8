"""What is asked of a library: kernels that `refloss.testing.check` judges, and single facts.

A file of `libraries/` says what it is made with (`REQUIRES`, for pip), hands over arguments and nothing else, and
imports its library when it is called: the file itself can be read without it.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import sys
import time
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

ALL = ("float64", "float32", "float16", "bfloat16")
HALF = ("float16", "bfloat16")


class Lazy:
    """A module that is imported when something in it is asked for.

    part  without what its package imports besides: torchvision, say, of which there is no wheel for torch without CUDA
    """

    def __init__(self, name: str, part: bool = False) -> None:
        self._name, self._part = name, part

    def __getattr__(self, attribute: str) -> Any:
        package = self._name.partition(".")[0]
        if self._part and package not in sys.modules:
            spec: Any = importlib.util.find_spec(package)
            sys.modules[package] = module = types.ModuleType(package)
            module.__path__ = list(spec.submodule_search_locations)
        return getattr(importlib.import_module(self._name), attribute)


@dataclass(frozen=True)
class Check:
    """A kernel, and the refloss object that it is.

    kernel   a function of its file
    title    for readers
    loss     class name and parameters: ("CrossEntropy", {"axis": 1})
    dtypes   that it is tried in
    options  of `check`, besides these; quick cases unless it says `cases`
    """

    kernel: Callable[..., Any]
    title: str
    loss: tuple[str, Mapping[str, Any]]
    framework: Any
    dtypes: tuple[str, ...] = ("float32",)
    options: Mapping[str, Any] = field(default_factory=dict)

    def made(self) -> Any:
        import refloss

        name, parameters = self.loss
        return getattr(refloss, name)(**parameters)

    def require(self, dtype: str) -> str:
        return "E" if dtype in HALF else "C"

    def command(self, library: str, dtype: str) -> str:
        """The same on the command line."""
        file = f"tests/field/libraries/with_{library}.py"
        framework = self.framework if isinstance(self.framework, str) else f"{file}:framework"
        words = ["refloss check", f"{file}:{self.kernel.__name__}", f"--loss {self.made().name}"]
        words += [f"--set {name}={_shown(value)}" for name, value in self.loss[1].items()]
        words += [f"--framework {framework}", f"--dtype {dtype}"]
        words += ["--require E"] * (dtype in HALF)
        chosen = self.options.get("cases", "quick")
        words += ["--quick"] if chosen == "quick" else [f"--case {name}" for name in chosen if chosen != "all"]
        words += ["--soft-targets"] * self.options.get("soft_targets", False)
        words += ["--nondeterministic"] * (not self.options.get("deterministic", True))
        words += [f"--without {flag}" for flag in self.options.get("without", ())]
        return " ".join(words)

    def result(self, dtype: str) -> dict[str, Any]:
        """What `check` says, in short."""
        import refloss

        began = time.perf_counter()
        report = refloss.testing.check(
            self.kernel, self.made(), dtype=dtype, framework=self.framework, require=self.require(dtype),
            **{"cases": "quick", **self.options},
        )  # fmt: skip
        wrong = [result.name for result in report.results if result.failures]
        stages = {failure.stage: failure.message for failure in reversed(report.failures)}
        first = report.first_divergent_stage
        if len(wrong) == len(report.results) and {f.kind for f in report.failures} == {"exception"}:
            raise RuntimeError(
                f"nothing ran: {report.failures[0].message}"
            )  # of the library's installation, most likely
        return {
            "kernel": self.kernel.__name__, "title": self.title, "dtype": dtype, "passed": report.passed,
            "grade": report.grade, "cases": len(report.results), "wrong": wrong, "first": first,
            "message": stages.get(first), "suspects": [suspect.name for suspect in report.suspects[:1]],
            "not_checked": list(report.not_checked), "seconds": round(time.perf_counter() - began, 1),
        }  # fmt: skip


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)


@dataclass(frozen=True)
class Fact:
    """One thing that is true, or no longer true, of a release.

    claim   what was said of it
    look    returns (is it so, what was seen)
    kind    "fault" · "design": the library means it so, or says so · "numbers": what one may want to know
    """

    claim: str
    look: Callable[[], tuple[bool, str]]
    kind: str = "fault"

    def result(self) -> dict[str, Any]:
        holds, seen = self.look()
        return {"claim": self.claim, "kind": self.kind, "holds": bool(holds), "seen": seen}


@dataclasses.dataclass
class Facts:
    """Collects the facts of a file: a decorator."""

    every: list[Fact] = field(default_factory=list)

    def __call__(self, claim: str, kind: str = "fault") -> Callable[[Callable[[], tuple[bool, str]]], Any]:
        def add(look: Callable[[], tuple[bool, str]]) -> Any:
            self.every.append(Fact(claim, look, kind))
            return look

        return add
