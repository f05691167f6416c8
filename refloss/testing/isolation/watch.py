"""What a kernel changes around itself: functions replaced, random numbers reseeded, settings that others feel."""

from __future__ import annotations

import gc
import os
import random
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from refloss.testing.adapters.words import of_a_library

# of these and of refloss every name is watched
MODULES = (
    "builtins", "math", "random", "time", "os", "sys", "json", "numpy", "numpy.linalg", "numpy.random", "numpy.testing",
    "torch", "torch.autograd", "torch.linalg", "torch.special", "torch.nn", "torch.nn.functional", "torch._C._nn",
    "jax", "jax.numpy", "jax.nn", "jax.lax", "jax.scipy.special",
)  # fmt: skip

DEPTH = sys.getrecursionlimit()  # a higher one harms nobody; torch sets it when it compiles
OWN = ("refloss.testing.adapters", "refloss.testing.isolation")  # what runs in this process: its classes as well


class Watch:
    """Told by name once, where it happens: what is compared is what was there after the call before."""

    def __init__(self) -> None:
        self.numbers = 0
        self.ends: dict[str, Any] = {}
        self.names: dict[str, dict[str, Any]] = {}
        self.settings: dict[str, Any] = {}
        self.environment: dict[str, str] = {}
        self.look()

    def look(self) -> None:
        """The names as they are now are due later."""
        self.names = {name: dict(vars(owner)) for name, owner in _owners()}

    def before(self) -> None:
        """Random generators start elsewhere at each call: one that ends where it did before was reseeded."""
        self.numbers += 1
        random.seed(self.numbers)
        np.random.seed(self.numbers)  # noqa: NPY002 - kernels use it
        torch = sys.modules.get("torch")
        if torch is not None:
            torch.default_generator.manual_seed(self.numbers)
        self.starts = _generators()
        self.settings, self.environment = _settings(), dict(os.environ)

    def after(self) -> tuple[list[str], list[str]]:
        """(what is wrong, what is worth a note) since `before`, in words."""
        wrong: list[str] = []
        notes: list[str] = []
        settings = _settings()
        for name, value in settings.items():
            if name in self.settings and value != self.settings[name]:
                wrong.append(f"{name} was {self.settings[name]} and is {value} after the call")
        now, was = dict(os.environ), self.environment
        if changed := [name for name in was if now.get(name) != was[name]]:
            wrong.append(f"the environment variable {changed[0]} was changed")
        if added := [name for name in now if name not in was]:
            notes.append(f"the kernel sets the environment variable {added[0]}")
        ends = _generators()
        for name, end in ends.items():
            if end == self.starts.get(name, end):  # torch may have been imported meanwhile
                continue
            if end == self.ends.get(name):
                wrong.append(f"the random numbers of {name} were reseeded: every call leaves the same state")
            else:
                notes.append(f"the kernel draws from the global random numbers of {name}")
            self.ends[name] = end
        if "torch" in self.starts and sys.modules["torch"].default_generator.initial_seed() != self.numbers:
            wrong.append("the random numbers of torch were reseeded")
        wrong += self.replaced()  # last: some are the settings' doing
        self.look()
        return list(dict.fromkeys(wrong)), notes

    def replaced(self) -> list[str]:
        """The functions and other names that were replaced by what is of no library."""
        found = []
        for name, owner in _owners():
            before, now = self.names.get(name, {}), vars(owner)
            for key, value in before.items():
                new = now.get(key, Watch)
                if new is not value and (callable(value) or key.isupper()) and not _of_its_own(key, new):
                    found.append(f"{name}.{key} was {'removed' if new is Watch else 'replaced'}")
        return found


def _of_its_own(key: str, new: Any) -> bool:
    """Whether a library put its own new version of this name there: lazily loaded, or wrapped."""
    code = getattr(new, "__code__", None)
    same = getattr(new, "__name__", None) == key
    return same and code is not None and of_a_library(code.co_filename)


def _owners() -> Iterator[tuple[str, Any]]:
    for name, module in list(sys.modules.items()):
        if module is not None and (name in MODULES or name.partition(".")[0] == "refloss"):
            yield name, module
            if name.startswith(OWN):
                for key, value in list(vars(module).items()):
                    if isinstance(value, type) and value.__module__ == name:
                        yield f"{name}.{key}", value
    torch = sys.modules.get("torch")
    if torch is not None:
        yield "torch.Tensor", torch.Tensor


def _generators() -> dict[str, Any]:
    found: dict[str, Any] = {"Python": hash(random.getstate()), "NumPy": _of_numpy(np.random.get_state())}  # noqa: NPY002
    torch = sys.modules.get("torch")
    if torch is not None:
        found["torch"] = hash(torch.default_generator.get_state().numpy().tobytes())
    return found


def _of_numpy(state: Any) -> Any:
    return hash((state[0], state[1].tobytes(), *state[2:]))


def _settings() -> dict[str, Any]:
    found = {
        "np.geterr()": np.geterr(),
        "the current folder": _said(os.getcwd),
        "sys.getrecursionlimit()": min(sys.getrecursionlimit(), DEPTH),
        "sys.gettrace()": repr(sys.gettrace()),
        "gc.isenabled()": gc.isenabled(),
        "floating-point arithmetic": _arithmetic(),
        "the file mode mask": _mask(),
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        found |= {f"torch.{f.__name__}()": _said(f) for f in (
            torch.get_default_dtype, torch.get_default_device, torch.get_num_threads, torch.is_grad_enabled,
            torch.are_deterministic_algorithms_enabled, torch.get_float32_matmul_precision,
            torch.is_inference_mode_enabled, torch.is_anomaly_enabled,
        )}  # fmt: skip
    jax = sys.modules.get("jax")
    if jax is not None:
        found |= {f"jax.config.{name}": value for name, value in dict(getattr(jax.config, "values", {})).items()}
    return found


def _said(ask: Callable[[], Any]) -> str:
    try:
        return str(ask())
    except Exception as error:
        return f"unknown ({type(error).__name__})"


def _arithmetic() -> str:
    """Whether numbers below the normal ones are kept, and how sums and quotients are rounded."""
    one, three, tiny = np.array([1.0, 3.0, 5e-324])
    due = (5e-324, 0.3333333333333333, -0.3333333333333333, 1.0)
    with np.errstate(all="ignore"):
        is_due = (tiny * one, one / three, -one / three, one + 2.0**-53) == due
    return "ordinary" if is_due else "rounded otherwise, or without the smallest numbers"


def _mask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
