"""What is said of a kernel that cannot be called or goes wrong, and the quiet in which it runs."""

from __future__ import annotations

import difflib
import os
import sys
import sysconfig
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from refloss.record import STAGES


class UnfitImplementation(ValueError):
    """A kernel that `check` cannot call, or a call that asks for what is not there; a ValueError."""


def kind_of(value: Any) -> str:
    kind = type(value)
    package = "python" if kind.__module__ == "builtins" else kind.__module__.partition(".")[0]
    return "None" if value is None else f"{package} {kind.__name__}"


def one_line(error: Any, limit: int = 300) -> str:
    """Its words, of which a terminal and a file show every character as it is."""
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(str(error).split()))
    return text if len(text) <= limit else text[: limit - 1] + "…"


def unknown(name: Any) -> str:
    close = [stage for stage in STAGES if stage.lower() == str(name).lower()]
    close = close or difflib.get_close_matches(str(name), STAGES, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return f"the unknown stage {name!r}{hint}; known are {', '.join(STAGES)}"


def described(error: BaseException) -> str:
    """Type, message and the innermost line that is of the user: not of Python, a framework or this package."""
    place = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        file = frame.f_code.co_filename
        if not file.startswith("<frozen") and not of_a_library(file):
            place = f" ({file.removeprefix(os.getcwd() + os.sep)}:{line})"
    return f"{type(error).__name__}: {one_line(error)}{place}"


def of_a_library(file: str) -> bool:
    if file.startswith(sysconfig.get_path("stdlib")) and "-packages" not in file:
        return True
    loaded = (sys.modules.get(name) for name in ("refloss", "numpy", "torch", "jax", "jaxlib", "triton"))
    files = [getattr(module, "__file__", None) for module in loaded]
    return any(file.startswith(os.path.dirname(f) + os.sep) for f in files if f)


@contextmanager
def quiet() -> Iterator[None]:
    """What a framework or a kernel has to say about its own numerics is no result."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield
