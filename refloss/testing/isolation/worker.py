"""The process in which the kernel runs: it loads the file, calls it and says what came back. It judges nothing."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from refloss.cases.case import Case
from refloss.testing.adapters import Adapter, Call, Outcome, Problem, Takes, UnfitImplementation, load
from refloss.testing.adapters.words import one_line
from refloss.testing.isolation.serving import limit_memory
from refloss.testing.isolation.watch import Watch
from refloss.testing.isolation.wire import KINDS


class WatchedAdapter(Adapter):
    """Watches what is around the kernel during each call."""

    watch: Watch

    def _run(self, call: Call) -> Outcome:
        self.watch.before()
        outcome = super()._run(call)
        wrong, self.notes = self.watch.after()
        outcome.problems += [Problem("global_state", call.whole, words) for words in wrong]
        return outcome


class Worker:
    def __init__(self) -> None:
        self.adapter: Any = None
        self.kernel: Any = None
        self.pending: list[Problem] = []  # still to be told

    def answer(self, message: dict[str, Any]) -> dict[str, Any]:
        try:
            return getattr(self, f"_{message['do']}")(message)
        except UnfitImplementation as error:
            return {"unfit": str(error)}
        except BaseException as error:  # after what the kernel did here, or KeyboardInterrupt that it raised
            failed = Outcome(problems=[Problem("exception", "loss", f"{type(error).__name__}: {one_line(error)}")])
            return self._said(failed)

    def _start(self, message: dict[str, Any]) -> dict[str, Any]:
        """The framework, and from here on the limit of memory."""
        self.adapter = WatchedAdapter(message["framework"], message["dtype"], message["device"])
        limit_memory(message["memory"])
        return {}

    def _load(self, message: dict[str, Any]) -> dict[str, Any]:
        watch = Watch()
        sys.path.insert(0, message["folder"])  # for what the function imports when it runs
        self.kernel = load(message["kernel"])
        declared = (message[name] for name in ("arguments", "returns", "mutates"))
        takes = self.adapter.signature(self.kernel, message["bare"], *declared)
        # other packages that it imports may do such things; the file itself may not
        words = [f"{words} while the file was imported" for words in watch.replaced()]
        self.pending = [Problem("global_state", "loss", line) for line in words]
        self.adapter.watch = Watch()
        return {"takes": vars(takes), "name": getattr(self.kernel, "__qualname__", None) or type(self.kernel).__name__}

    def _call(self, message: dict[str, Any]) -> dict[str, Any]:
        shapes = message["out_shapes"]
        outcome = self.adapter.call(
            self.kernel, _case(message["case"]), Takes.read(message["takes"]), per_sample=message["per_sample"],
            out_shapes=shapes and {stage: tuple(shape) for stage, shape in shapes.items()},
            upstream_scale=message["upstream_scale"], between=message["between"] and _case(message["between"]),
        )  # fmt: skip
        return self._said(outcome)

    def _along(self, message: dict[str, Any]) -> dict[str, Any]:
        found, raised = self.adapter.along(
            self.kernel, _case(message["case"]), Takes.read(message["takes"]), message["way"],
            per_sample=message["per_sample"], second=message["second"],
        )  # fmt: skip
        return {"along": {name: np.asarray(value, dtype=np.float64) for name, value in found.items()}, "raised": raised}

    def _finish(self, message: dict[str, Any]) -> dict[str, Any]:
        outcome = Outcome(problems=self.adapter.finish())
        outcome.problems += [Problem("global_state", "loss", words) for words in self.adapter.watch.replaced()]
        return self._said(outcome)

    def _said(self, outcome: Outcome) -> dict[str, Any]:
        told, self.pending = [*outcome.problems, *self.pending], []
        return {
            "stages": [self._stage(outcome, stage) for stage in outcome.stages],
            "problems": [(p.kind, p.stage, p.message) for p in told],
            "notes": list(self.adapter.notes) if self.adapter is not None else [],
            "reduced": outcome.reduced,
            "differentiated": list(outcome.differentiated),
        }

    def _stage(self, outcome: Outcome, stage: str) -> dict[str, Any]:
        values, dtype = outcome.stages[stage], outcome.dtypes[stage]
        held = {"bfloat16": "int16", "python float": "float64", "python int": "int64"}.get(dtype, dtype)
        if held not in KINDS:  # one that only a framework knows
            held, bits = "float64", np.ascontiguousarray(values).tobytes()
        else:
            bits = outcome.bits[stage]
        return {"stage": stage, "dtype": dtype, "bits": np.frombuffer(bits, dtype=held).reshape(values.shape)}


def _case(told: dict[str, Any]) -> Case:
    return Case("", "", (), told["inputs"], told["labels"], told["upstream"][()], told["upstreams"],
                layout=told["layout"])  # fmt: skip
