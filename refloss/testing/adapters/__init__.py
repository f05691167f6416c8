"""Calling somebody's kernel in its own framework, and getting float64 NumPy stages back.

The adapter hands out private copies, bit for bit what the case says in the kernel's dtype, and looks at the
same bits again after the call. What the kernel does wrong is a `Problem` of the outcome; a call that cannot
be made at all is an `UnfitImplementation`. A framework is imported when an adapter for it is made, never before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from refloss.cases.case import Case
from refloss.precision.dtypes import DTYPES
from refloss.testing.adapters.call import LOST, Call, Outcome, Problem
from refloss.testing.adapters.foreign import Foreign, Framework
from refloss.testing.adapters.jax import JAX
from refloss.testing.adapters.loading import FROM_FILE, load, named_object
from refloss.testing.adapters.numpy import NumPy
from refloss.testing.adapters.signature import Takes, taken_by
from refloss.testing.adapters.torch import Torch
from refloss.testing.adapters.words import UnfitImplementation, described, kind_of, quiet

FRAMEWORKS: dict[str, type[NumPy]] = {"numpy": NumPy, "torch": Torch, "jax": JAX}


class Adapter:
    """Calls kernels with arrays of one framework and dtype on one device.

    framework  "numpy", "torch", "jax", a `Framework`, or "FILE.py:NAME" of one
    """

    stopped = ""  # why nothing more is called
    notes: Iterable[str] = ()  # what is worth a note in the report

    def __init__(self, framework: Any = "numpy", dtype: str = "float32", device: str | None = None) -> None:
        if dtype not in DTYPES:
            raise UnfitImplementation(f"dtype must be one of {_listed(DTYPES)}, got {dtype!r}")
        own = _own(framework)
        if own is None and not (isinstance(framework, str) and framework in FRAMEWORKS):
            words = f"framework must be one of {_listed(FRAMEWORKS)}, a Framework or FILE.py:NAME of one"
            raise UnfitImplementation(f"{words}, got {framework!r}")
        self.framework, self.dtype, self.device = framework if own is None else own.name, dtype, device
        with quiet():
            self._in: NumPy = Foreign(own, dtype, device) if own else FRAMEWORKS[framework](dtype, device)
        self._last: Call | None = None

    def signature(
        self, kernel: Any, bare: bool = False, arguments: Mapping[str, str] | None = None, returns: int | None = None,
        mutates: Sequence[str] = (),
    ) -> Takes:  # fmt: skip
        """How it is called; raises unless it can be called as f(x, W, labels), bare: f(logits, targets).

        arguments  what is given → the kernel's name for it, and by position their order
        returns    which of the tuple that comes back
        mutates    what it may overwrite
        """
        takes = taken_by(kernel, bare, arguments, returns, mutates)
        if takes.out and not self._in.has_layouts:
            raise UnfitImplementation(f"out is not for framework {self.framework!r}: its arrays cannot be written")
        return takes

    def call(
        self, kernel: Any, case: Case, takes: Takes, *, per_sample: bool,
        out_shapes: Mapping[str, tuple[int, ...]] | None = None, upstream_scale: float = 1.0,
        between: Case | None = None,
    ) -> Outcome:  # fmt: skip
        """One call on one case; what autograd has to give is taken as well.

        per_sample      the loss is not reduced: a vector arrives at it, `case.upstreams`
        out_shapes      stage → shape of the buffers that a kernel with `out` is given
        upstream_scale  times what arrives
        between         another case, which is run after the forward call and before it is differentiated
        """
        with quiet(), self._in.context():
            now = Call(self._in, kernel, case, takes, per_sample, out_shapes, upstream_scale)
            if between is not None:
                now.between = Call(self._in, kernel, between, takes, per_sample, None, 1.0).run
            outcome = self._run(now)
        outcome.problems += self.finish()
        self._last = now
        return outcome

    def _run(self, call: Call) -> Outcome:
        return call.run()

    def finish(self) -> list[Problem]:
        """What is wrong after the last call: what it returned is no longer what it was."""
        last, self._last = self._last, None
        changed = last.changed_since() if last is not None else []
        words = "changed after it had come back: a later call, or something left running, wrote into it"
        return [Problem("overwritten", stage, f"{stage} {words}") for stage in changed]

    def close(self) -> None:
        """Ends what was started for it."""

    def along(
        self, kernel: Any, case: Case, takes: Takes, way: Mapping[str, Any], *, per_sample: bool, second: bool
    ) -> tuple[dict[str, Any], str]:
        """(derivatives along `way`, what was raised instead): {"loss": …} by forward mode, or second ones by input."""
        try:
            with quiet(), self._in.context():
                return Call(self._in, kernel, case, takes, per_sample, None, 1.0).along(way, second), ""
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            return {}, described(error)


def _own(framework: Any) -> Framework | None:
    """The user's own framework, itself or found by its name."""
    if isinstance(framework, Framework):
        return framework
    if not isinstance(framework, str) or ":" not in framework:
        return None
    found = named_object(framework, "a framework of your own is named FILE.py:NAME or package.module:NAME")
    if not isinstance(found, Framework):
        raise UnfitImplementation(f"framework {framework!r} must be a refloss.testing.Framework, got {kind_of(found)}")
    return found


def _listed(known: Iterable[str]) -> str:
    return ", ".join(map(repr, known))


__all__ = ["FROM_FILE", "LOST", "Adapter", "Call", "Framework", "Outcome", "Problem", "Takes", "UnfitImplementation",
           "load", "named_object"]  # fmt: skip
