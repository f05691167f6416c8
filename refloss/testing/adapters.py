"""Calling somebody's implementation in its own framework, and getting float64 NumPy stages back.

The adapter hands out private copies, bit for bit what the case says in the implementation's dtype, and looks at the
same bits again after the call. What the implementation does wrong is a `Problem` of the outcome; a call that cannot
be made at all is an `UnfitImplementation`. A framework is imported when an adapter for it is made, never before.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import os
import sys
import sysconfig
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from refloss.precision.dtypes import DTYPES, rounded
from refloss.record import BACKWARD_STAGES, STAGES

FROM_FILE = "refloss_checked_"  # before the name of a module that `load` made of a file
BITS = {"float64": np.int64, "float32": np.int32, "float16": np.int16, "bfloat16": np.int16}
# a NaN that no computation makes: where it is still found in a buffer, nothing was written
UNWRITTEN = {"float64": 0x7FF8_0BAD_0BAD_0BAD, "float32": 0x7FC0_0BAD, "float16": 0x7E5D, "bfloat16": 0x7FDD}


class UnfitImplementation(ValueError):
    """An implementation that `check` cannot call, or a call that asks for what is not there; a ValueError."""


@dataclass(frozen=True)
class Takes:
    """What an implementation takes by keyword."""

    b: bool
    upstream: bool
    out: bool


@dataclass(frozen=True)
class Problem:
    """What went wrong in a call, apart from the numbers.

    kind   "exception" · "mutated" · "wrong_type" · "unwritten" · "no_gradient"
    stage  where it shows: of an exception, what would have come next
    """

    kind: str
    stage: str
    message: str


@dataclass
class Outcome:
    """What came back from one call.

    stages          float64, by name in the project's order
    dtypes, bits    stage → the name of the dtype that it came in; its bytes as they came
    problems        in the order in which they were found
    reduced         "loss" if it is one number, "losses" if there is one for each sample: what was differentiated, or
                    else what came back; None without either
    differentiated  the gradients that the adapter took through the framework; the implementation gave the others
    """

    stages: dict[str, np.ndarray] = field(default_factory=dict)
    dtypes: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    bits: dict[str, bytes] = field(default_factory=dict)
    reduced: str | None = None
    differentiated: tuple[str, ...] = ()

    def note(self, kind: str, stage: str, message: str) -> None:
        self.problems.append(Problem(kind, stage, message))

    def add(self, stage: str, value: Any) -> None:
        try:
            self.stages[stage], self.dtypes[stage], self.bits[stage] = _read(value)
        except Exception as error:  # TypeError of ours, or whatever a framework says about its own arrays
            self.note("wrong_type", stage, f"{stage} came as {_one_line(error)}; real numbers are due")

    def ordered(self) -> Outcome:
        order = [stage for stage in STAGES if stage in self.stages]
        self.stages = {stage: self.stages[stage] for stage in order}
        self.dtypes = {stage: self.dtypes[stage] for stage in order}
        self.bits = {stage: self.bits[stage] for stage in order}
        return self


class Adapter:
    """Calls implementations with arrays of one framework ("numpy", "torch", "jax") and dtype on one device."""

    def __init__(self, framework: str = "numpy", dtype: str = "float32", device: str | None = None) -> None:
        for value, name, known in ((framework, "framework", FRAMEWORKS), (dtype, "dtype", DTYPES)):
            if value not in known:
                shown = ", ".join(map(repr, known))
                raise UnfitImplementation(f"{name} must be one of {shown}, got {value!r}")
        self.framework, self.dtype, self.device = framework, dtype, device
        with _quiet():
            self._in: _Framework = FRAMEWORKS[framework](dtype, device)

    def signature(self, implementation: Any, bare: bool = False) -> Takes:
        """What it takes by keyword; raises unless it can be called as f(x, W, labels), bare: f(logits, targets).

        A keyword that a `functools.partial` has bound already is not taken. Without a signature that can be read
        it gets its arguments by position and nothing else.
        """
        due = ("logits", "targets") if bare else ("x", "W", "labels")
        words = f"the implementation must be callable as f({', '.join(due)})"
        if isinstance(implementation, type):
            name = implementation.__name__
            raise UnfitImplementation(f"{words}, but {name} is a class: pass an instance or a function")
        if not callable(implementation):
            raise UnfitImplementation(f"{words}, got {_a(implementation)}")
        bound, inner = set[str](), implementation
        while isinstance(inner, partial):
            bound |= inner.keywords.keys()
            inner = inner.func
        try:
            signature = _signature(implementation)
        except (ValueError, TypeError):  # builtins
            return Takes(False, False, False)
        parameters = list(signature.parameters.values())
        positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        filled = {*positional[: len(due)], *bound}  # a second argument called b is W
        named = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)} - filled
        if any(p.kind is p.VAR_KEYWORD for p in parameters):
            named |= {"b", "upstream"} - filled
        takes = Takes("b" in named, "upstream" in named, "out" in named)
        try:
            signature.bind(*due, **{name: None for name, taken in vars(takes).items() if taken})
        except TypeError as error:
            raise UnfitImplementation(f"{words}, but it takes {signature}: {_one_line(error)}") from None
        if takes.out and self.framework == "jax":
            raise UnfitImplementation("out is not for framework 'jax': its arrays cannot be written")
        return takes

    def call(
        self, implementation: Any, case: Any, takes: Takes, *, per_sample: bool,
        out_shapes: Mapping[str, tuple[int, ...]] | None = None, upstream_scale: float = 1.0,
    ) -> Outcome:  # fmt: skip
        """One call on one case; what autograd has to give is taken as well.

        per_sample      the loss is not reduced: a vector arrives at it, `case.upstreams`
        out_shapes      stage → shape of the buffers that an implementation with `out` is given
        upstream_scale  times what arrives
        """
        with _quiet(), self._in.context():
            return _Call(self._in, implementation, case, takes, per_sample, out_shapes, upstream_scale).run()


# -- one call --------------------------------------------------------------------------------------


@dataclass
class _Given:
    """An array that was handed out. bits: the memory behind it before the call; view: its part of that memory."""

    name: str
    dtype: str
    bits: np.ndarray
    whole: Any
    view: Callable[[Any], Any]


class _Call:
    def __init__(
        self, framework: _Framework, implementation: Any, case: Any, takes: Takes, per_sample: bool,
        out_shapes: Mapping[str, tuple[int, ...]] | None, scale: float,
    ) -> None:  # fmt: skip
        self.framework, self.implementation, self.case, self.takes = framework, implementation, case, takes
        self.per_sample, self.scale = per_sample, scale
        self.out_shapes = out_shapes if takes.out else None
        # those that are passed, and so may have a gradient
        self.inputs = [name for name in case.inputs if name != "b" or takes.b]
        self.whole = "losses" if per_sample else "loss"  # where a problem of the whole call is noted
        self.outcome = Outcome()

    def run(self) -> Outcome:
        track = self.framework.has_graph and self.out_shapes is None
        returned, error = self._attempt(track)
        if error is not None and track and _minds_tracking(error):
            # a kernel with gradients of its own may go where autograd cannot follow: raw memory, in place
            again, failed = self._attempt(False)
            if failed is None and isinstance(again, Mapping):
                returned, error = again, None
        if error is not None:
            self.outcome.note("exception", self.whole, _described(error))
            return self.outcome
        values = self._named(returned)
        for stage, value in values.items():
            self.outcome.add(stage, value)
            self._unwritten(stage, value)
        self.outcome.reduced = next((s for s in ("loss", "losses") if s in self.outcome.stages), None)
        if self.framework.differentiates and self.out_shapes is None:
            self._differentiate(values, bare=not isinstance(returned, Mapping))
        for given in self.given:
            self._mutated(given)
        return self.outcome.ordered()

    def _attempt(self, track: bool) -> tuple[Any, Exception | None]:
        """(what came back, what was raised), of new arrays. track: the inputs are leaves of torch's graph."""
        dtype = self.framework.dtype
        self.given: list[_Given] = []
        self.arrays = {name: self._give(name, self.case.inputs[name], dtype) for name in self.inputs}
        if track:
            self.arrays = {name: array.detach().requires_grad_() for name, array in self.arrays.items()}
        labels = np.asarray(self.case.labels)
        self.labels = self._give("labels", labels, "int64" if labels.dtype.kind in "iu" else dtype)
        self.keywords: dict[str, Any] = {}
        if self.takes.upstream:
            self.keywords["upstream"] = self._give("upstream", self._arriving(self.per_sample), dtype)
        self.buffers: dict[str, Any] = {}
        if self.out_shapes is not None:
            for stage, shape in self.out_shapes.items():
                bits = np.full(shape, UNWRITTEN[dtype], dtype=BITS[dtype])
                self.buffers[stage] = self.framework.array(bits, dtype)
            self.keywords["out"] = dict(self.buffers)
        try:
            return self._once({}), None
        except Exception as error:
            return None, error

    def _once(self, others: Mapping[str, Any]) -> Any:
        """One call; `others` in place of the inputs of those names."""
        arrays = {**self.arrays, **others}
        b = {"b": arrays.pop("b")} if "b" in arrays else {}
        return self.implementation(*arrays.values(), self.labels, **b, **self.keywords)

    def _arriving(self, each: bool) -> np.ndarray:
        return np.asarray((self.case.upstreams if each else self.case.upstream) * self.scale)

    # -- handing out -------------------------------------------------------------------------------

    def _give(self, name: str, values: np.ndarray, dtype: str) -> Any:
        """A private copy in the framework, laid out as the case says."""
        layout = self.case.layout
        wrong_one = (name == "upstream") != (layout == "upstream_strided") and layout != "read_only"
        if wrong_one or not self.framework.has_layouts:
            layout = "contiguous"
        bits, view = _laid_out(_bits(np.asarray(values), dtype), layout, dtype, self.framework.has_graph)
        whole = self.framework.array(bits, dtype)
        array = view(whole)
        if layout == "read_only" and isinstance(array, np.ndarray):
            array.flags.writeable = False
        self.given.append(_Given(name, dtype, bits, whole, view))
        return array

    def _mutated(self, given: _Given) -> None:
        now = self.framework.bits(given.whole, given.dtype)
        if np.array_equal(now, given.bits):
            return
        before, after = given.view(given.bits), given.view(now)
        changed = before != after
        if not np.any(changed):
            message = f"memory between the entries of {given.name} was written: its strides were ignored"
        else:
            at = _first(changed)
            old, new = (_values(part[at], given.dtype) for part in (before, after))
            message = f"{_at(given.name, at)} was {old:.9g} and is {new:.9g} after the call"
        message += f"; {np.count_nonzero(now != given.bits)} of {now.size} entries in its memory changed"
        self.outcome.note("mutated", self.whole, message)

    # -- what came back ----------------------------------------------------------------------------

    def _each(self, shape: tuple[int, ...]) -> bool:
        """Whether a loss of this shape is one number for each sample."""
        return shape == self.case.upstreams.shape and (shape != () or self.per_sample)

    def _named(self, returned: Any) -> dict[str, Any]:
        """Stage → what came back for it, in the framework."""
        values = dict(self.keywords.get("out", {}))
        if isinstance(returned, Mapping):
            values.update(returned)
        elif isinstance(returned, tuple) or (returned is None and not values):
            what = "None" if returned is None else f"a tuple of {len(returned)}"
            words = f"{what} came back; the loss, or a mapping from stage names, is due"
            self.outcome.note("wrong_type", self.whole, words)
        elif returned is not None:
            values["losses" if self._each(_shape_of(returned)) else "loss"] = returned
        for stage in values:
            if stage not in STAGES:
                raise UnfitImplementation(f"the implementation returned {_unknown(stage)}")
        if values.get("grad_b", self) is None and "b" not in self.inputs:
            del values["grad_b"]  # no gradient where there is no bias
        return values

    def _unwritten(self, stage: str, value: Any) -> None:
        if value is not self.buffers.get(stage, self):
            return
        dtype = self.framework.dtype
        left = self.framework.bits(value, dtype) == UNWRITTEN[dtype]
        if left.any():
            message = f"{np.count_nonzero(left)} of {left.size} entries of {stage} were never written"
            if left.ndim:
                message += f", first at index {_first(left)}"
            self.outcome.note("unwritten", stage, message)

    # -- gradients through the framework -----------------------------------------------------------

    def _differentiate(self, values: Mapping[str, Any], bare: bool) -> None:
        """Adds the gradients that the implementation leaves to the framework."""
        readable = [stage for stage in ("loss", "losses") if stage in self.outcome.stages]
        unfit = {stage: self.framework.no_gradient_of(values[stage]) for stage in readable}
        source = next((stage for stage in readable if bare or not unfit[stage]), None)
        if source is None:
            return
        if unfit[source]:
            self.outcome.note("no_gradient", f"grad_{self.inputs[0]}", f"no gradient: {unfit[source]}")
            return
        shape = self.outcome.stages[source].shape
        each = self._each(shape)
        own = any(stage in values for stage in BACKWARD_STAGES)
        if not each and shape != ():
            return  # no loss at all: its shape is refused by whoever looks at the stages
        if own and each and not self.per_sample:
            return  # the implementation's own gradients are those of the reduced loss
        missing = [name for name in self.inputs if f"grad_{name}" not in values]
        wanted = {name: self.arrays[name] for name in missing}
        on_the_way = values.get("logits")
        if (
            self.framework.has_graph
            and "grad_logits" not in values
            and not self.framework.no_gradient_of(on_the_way)
        ):
            wanted.setdefault("logits", on_the_way)
        if not wanted:
            return
        arriving = self._arriving(each)
        if own and not self.takes.upstream:  # then its own are those of upstream 1
            arriving = np.ones_like(arriving)

        def again(inputs: Mapping[str, Any]) -> Any:
            returned = self._once(inputs)
            return returned if bare else returned[source]

        try:
            found = self.framework.gradients(
                values[source], wanted, partial(self._give, "upstream", arriving), again
            )
        except Exception as error:
            if missing:
                words = f"while it was differentiated: {_described(error)}"
                self.outcome.note("exception", f"grad_{missing[0]}", words)
            return
        self.outcome.reduced = "losses" if each else "loss"
        for name, gradient in found.items():
            stage = f"grad_{name}"
            if gradient is not None:
                self.outcome.add(stage, gradient)
                self.outcome.differentiated += (stage,)
            elif name in missing:
                words = f"no {stage}: in torch's graph the loss does not depend on {name}"
                self.outcome.note("no_gradient", stage, words)


# -- the frameworks --------------------------------------------------------------------------------


class _Framework:
    """NumPy, and what the others do like it. bits: signed integers of the dtype's width."""

    differentiates = False
    has_graph = False  # torch: inputs are marked as leaves, and any tensor on the way has a gradient
    has_layouts = True

    def __init__(self, dtype: str, device: str | None) -> None:
        self.dtype, self.device = dtype, device
        if device not in (None, "cpu"):
            words = f"device {device!r} is not available: framework 'numpy' has the CPU only"
            raise UnfitImplementation(words)
        self.kind(dtype)

    def kind(self, dtype: str) -> Any:
        """The NumPy dtype of this name."""
        if dtype != "bfloat16":
            return np.dtype(dtype)
        try:
            return np.dtype(importlib.import_module("ml_dtypes").bfloat16)
        except ImportError:
            words = "dtype 'bfloat16' with framework 'numpy' needs ml_dtypes: pip install ml_dtypes"
            raise UnfitImplementation(words) from None

    def context(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def array(self, bits: np.ndarray, dtype: str) -> Any:
        """A new array of these bits."""
        return bits.view(self.kind(dtype)).copy()

    def bits(self, array: Any, dtype: str) -> np.ndarray:
        values = np.asarray(array)
        return values.astype(np.int64) if dtype == "int64" else values.view(BITS[dtype])

    def no_gradient_of(self, value: Any) -> str:
        """'' or why nothing can be differentiated through it."""
        raise NotImplementedError

    def gradients(
        self, value: Any, wanted: Mapping[str, Any], give: Callable[[str], Any], again: Callable[[Any], Any]
    ) -> dict[str, Any]:
        """Of sum(upstream * value), by name; None where there is none.

        give(dtype): the upstream, of value's dtype; again(inputs): the value of a new call
        """
        raise NotImplementedError


class _Torch(_Framework):
    differentiates = has_graph = True

    def __init__(self, dtype: str, device: str | None) -> None:
        self.dtype, self.device, self.torch = dtype, device, _framework("torch")
        try:
            self.torch.zeros(1, dtype=getattr(self.torch, dtype), device=device).cpu()
        except Exception as error:
            words = f"device {device!r} is not available in torch for {dtype}: {_one_line(error)}"
            raise UnfitImplementation(words) from None

    def context(self) -> AbstractContextManager[Any]:
        return self.torch.enable_grad()

    def array(self, bits: np.ndarray, dtype: str) -> Any:
        return self.torch.from_numpy(bits.copy()).to(self.device or "cpu").view(getattr(self.torch, dtype))

    def bits(self, array: Any, dtype: str) -> np.ndarray:
        kind = np.dtype(BITS.get(dtype, np.int64)).name
        return array.detach().cpu().view(getattr(self.torch, kind)).numpy()

    def no_gradient_of(self, value: Any) -> str:
        if not isinstance(value, self.torch.Tensor):
            return f"the loss came back as {_a(value)}, not as a tensor"
        if not value.requires_grad:
            return "the loss that came back does not require grad (detached, under no_grad, or not from x)"
        return ""

    def gradients(
        self, value: Any, wanted: Mapping[str, Any], give: Callable[[str], Any], again: Callable[[Any], Any]
    ) -> dict[str, Any]:
        arriving = give(str(value.dtype).removeprefix("torch."))
        found = self.torch.autograd.grad(value, list(wanted.values()), arriving, allow_unused=True)
        return dict(zip(wanted, found, strict=True))


class _JAX(_Framework):
    differentiates = True
    has_layouts = False

    def __init__(self, dtype: str, device: str | None) -> None:
        self.dtype, self.device, self.jax = dtype, device, _framework("jax")
        self.place = None
        if device is not None:
            kind, _, index = device.partition(":")
            try:
                self.place = self.jax.devices(kind)[int(index or 0)]
            except Exception as error:
                words = f"device {device!r} is not available in jax: {_one_line(error)}"
                raise UnfitImplementation(words) from None

    def context(self) -> AbstractContextManager[Any]:
        # jax.experimental had it first
        place = self.jax if hasattr(self.jax, "enable_x64") else importlib.import_module("jax.experimental")
        return place.enable_x64(self.dtype == "float64")

    def array(self, bits: np.ndarray, dtype: str) -> Any:
        return self.jax.device_put(self.jax.numpy.array(bits.view(self.kind(dtype))), self.place)

    def no_gradient_of(self, value: Any) -> str:
        if isinstance(value, self.jax.Array):
            return ""
        return f"the loss came back as {_a(value)}, not as an array of jax"

    def gradients(
        self, value: Any, wanted: Mapping[str, Any], give: Callable[[str], Any], again: Callable[[Any], Any]
    ) -> dict[str, Any]:
        traced, back = self.jax.vjp(again, dict(wanted))
        return back(give(traced.dtype.name))[0]


FRAMEWORKS: dict[str, type[_Framework]] = {"numpy": _Framework, "torch": _Torch, "jax": _JAX}


def _framework(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise UnfitImplementation(f"framework {name!r} cannot be imported: {_one_line(error)}") from error
        words = f"framework {name!r} is not installed: pip install refloss[{name}]"
        raise UnfitImplementation(words) from None
    except Exception as error:
        raise UnfitImplementation(f"framework {name!r} cannot be imported: {_one_line(error)}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """What a framework or an implementation has to say about its own numerics is no result."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


# -- bits and layouts ------------------------------------------------------------------------------


def _bits(values: np.ndarray, dtype: str) -> np.ndarray:
    """The values in the dtype, as signed integers; labels are their own."""
    if dtype == "int64":
        return np.array(values, dtype=np.int64)
    held = rounded(values, DTYPES[dtype])
    if dtype != "bfloat16":
        return np.ascontiguousarray(held.astype(dtype)).view(BITS[dtype]).reshape(values.shape)
    # the upper half of a float32
    upper = np.asarray(held.astype(np.float32)).view(np.uint32) >> np.uint32(16)
    return np.asarray(upper).astype(np.uint16).view(np.int16).reshape(values.shape)


def _values(bits: Any, dtype: str) -> Any:
    """float64, from bits."""
    bits = np.asarray(bits)
    if dtype == "int64":
        return bits[()]
    if dtype == "bfloat16":
        return np.asarray(bits.astype(np.int32) << 16).view(np.float32).astype(np.float64)[()]
    return bits.view(dtype).astype(np.float64)[()]


def _laid_out(
    bits: np.ndarray, layout: str, dtype: str, torch: bool
) -> tuple[np.ndarray, Callable[[Any], Any]]:
    """(contiguous memory, what makes the array of it); the same for arrays of every framework that is strided."""
    if layout == "upstream_strided" and torch and bits.size > 1 and (bits == bits.flat[0]).all():
        # the gradient of a sum: one number with stride 0
        one, shape = bits.reshape(-1)[:1].copy(), bits.shape
        return one, lambda a: np.broadcast_to(a, shape) if isinstance(a, np.ndarray) else a.expand(shape)
    if layout in ("strided", "upstream_strided") and bits.ndim:
        whole = np.empty((*bits.shape[:-1], 2 * bits.shape[-1]), dtype=bits.dtype)
        whole[..., ::2] = bits
        # between labels lie other labels: what reads them goes wrong and not astray
        whole[..., 1::2] = np.roll(bits, 1) if dtype == "int64" else _bits(np.array(np.nan), dtype)
        return whole, lambda a: a[..., ::2]
    if layout == "transposed" and bits.ndim >= 2:
        return np.ascontiguousarray(bits.swapaxes(-1, -2)), lambda a: a.swapaxes(-1, -2)
    return np.ascontiguousarray(bits).reshape(bits.shape), lambda a: a


def _read(value: Any) -> tuple[np.ndarray, str, bytes]:
    """(float64 array, name of the dtype, bytes); TypeError says what it is if it holds no real numbers."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        tensor, name = value.detach().cpu(), str(value.dtype).removeprefix("torch.")
        if value.dtype.is_complex or value.dtype == torch.bool:
            raise TypeError(f"a tensor of {name}")
        bits = tensor.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()
        return tensor.to(torch.float64).numpy().copy(), name, bits
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError("a masked array")
    try:
        array = np.asarray(value)
    except ValueError:
        raise TypeError(f"{_a(value)} with rows of different lengths") from None
    name = array.dtype.name if hasattr(value, "dtype") else f"python {type(value).__name__}"
    extension = array.dtype.kind == "V" and array.dtype.fields is None and array.dtype.type is not np.void
    if array.dtype.kind not in "fiu" and not extension:
        raise TypeError(_a(value) if not hasattr(value, "dtype") else f"an array of {name}")
    return np.array(array, dtype=np.float64), name, array.tobytes()


def _shape_of(value: Any) -> tuple[int, ...]:
    try:
        return tuple(value.shape) if hasattr(value, "shape") else np.shape(value)
    except Exception:  # ragged: `_read` says so
        return ()


# -- signatures, names and places ------------------------------------------------------------------


def _signature(implementation: Any) -> inspect.Signature:
    """Of what takes the arguments in the end: torch's modules and functions hide theirs behind `*args, **kwargs`."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(implementation, torch.nn.Module):
        return inspect.signature(getattr(implementation, "_orig_mod", implementation).forward)
    owner: Any = getattr(implementation, "__self__", None)
    if torch is not None and isinstance(owner, type) and issubclass(owner, torch.autograd.Function):
        function: Any = owner  # implementation is its `apply`, which takes no keywords
        parameters = list(inspect.signature(function.forward).parameters.values())
        if function.setup_context is torch.autograd.Function.setup_context:
            parameters = parameters[1:]  # ctx
        parameters = [p for p in parameters if p.kind not in (p.KEYWORD_ONLY, p.VAR_KEYWORD)]
        return inspect.Signature([
            p if p.kind is p.VAR_POSITIONAL else p.replace(kind=p.POSITIONAL_ONLY) for p in parameters
        ])  # fmt: skip
    return inspect.signature(implementation)


def _minds_tracking(error: Exception) -> bool:
    """Whether torch complains that an input requires grad."""
    return isinstance(error, RuntimeError) and any(
        words in str(error) for words in ("requires grad", "requires_grad", "automatic differentiation")
    )


def _a(value: Any) -> str:
    kind = type(value)
    package = "python" if kind.__module__ == "builtins" else kind.__module__.partition(".")[0]
    return "None" if value is None else f"{package} {kind.__name__}"


def _one_line(error: BaseException, limit: int = 300) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _first(mask: np.ndarray) -> tuple[int, ...]:
    return tuple(int(i) for i in np.argwhere(mask)[0])


def _at(name: str, index: tuple[int, ...]) -> str:
    return f"{name}[{', '.join(map(str, index))}]" if index else name


def _unknown(name: Any) -> str:
    close = [stage for stage in STAGES if stage.lower() == str(name).lower()]
    close = close or difflib.get_close_matches(str(name), STAGES, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return f"the unknown stage {name!r}{hint}; known are {', '.join(STAGES)}"


def _described(error: Exception) -> str:
    """Type, message and the innermost line that is of the user: not of Python, a framework or this package."""
    place = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        file = frame.f_code.co_filename
        if not file.startswith("<frozen") and not _of_a_library(file):
            place = f" ({file.removeprefix(os.getcwd() + os.sep)}:{line})"
    return f"{type(error).__name__}: {_one_line(error)}{place}"


def _of_a_library(file: str) -> bool:
    if file.startswith(sysconfig.get_path("stdlib")) and "-packages" not in file:
        return True
    loaded = (sys.modules.get(name) for name in ("refloss", "numpy", "torch", "jax", "jaxlib", "triton"))
    files = [getattr(module, "__file__", None) for module in loaded]
    return any(file.startswith(os.path.dirname(f) + os.sep) for f in files if f)


# -- what the command line names -------------------------------------------------------------------


def load(where: str) -> Any:
    """The implementation "FILE.py:FUNCTION" or "package.module:FUNCTION"; FUNCTION may have dots."""
    place, colon, path = where.rpartition(":")
    if not colon or not place or not path:
        raise UnfitImplementation(
            f"an implementation is named FILE.py:FUNCTION or package.module:FUNCTION, got {where!r}"
        )
    found = _imported(place)
    for name in path.split("."):
        if not hasattr(found, name):
            known = [n for n, v in getattr(found, "__dict__", {}).items() if callable(v)]
            close = difflib.get_close_matches(name, known, cutoff=0.5)
            hint = f"; similar names are {', '.join(close)}" if close else ""
            raise UnfitImplementation(f"{where}: there is no {name!r}{hint}")
        found = getattr(found, name)
    if isinstance(found, type):
        raise UnfitImplementation(f"{where} is a class: name an instance or a function")
    if not callable(found):
        raise UnfitImplementation(f"{where} is {_a(found)}, and not callable")
    return found


def _imported(place: str) -> Any:
    """The module of a file, or of that name; its folder, or the current one, is on sys.path meanwhile."""
    is_file = place.endswith(".py") or os.sep in place
    path = os.path.abspath(place)
    if is_file and not (place.endswith(".py") and os.path.isfile(path)):
        raise UnfitImplementation(
            f"{place} {'is no Python file' if os.path.exists(path) else 'does not exist'}"
        )
    folder = os.path.dirname(path) if is_file else os.getcwd()
    name = FROM_FILE + os.path.basename(path).removesuffix(".py") if is_file else place
    sys.path.insert(0, folder)
    try:
        with _quiet():
            return _executed(name, path) if is_file else importlib.import_module(name)
    except (Exception, SystemExit) as error:  # SystemExit: a script that ends itself
        lines = [line for f, line in traceback.walk_tb(error.__traceback__) if f.f_code.co_filename == path]
        if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
            raise UnfitImplementation(f"there is no module {error.name!r}") from None
        words = f"{type(error).__name__}: {_one_line(error)}"
        if isinstance(error, SyntaxError) and error.filename == path:
            lines, words = [error.lineno or 1], f"{type(error).__name__}: {error.msg}"
        at = f", line {lines[-1]}" if lines else ""
        raise UnfitImplementation(f"{place} fails on import{at}: {words}") from error
    finally:
        if folder in sys.path:
            sys.path.remove(folder)


def _executed(name: str, path: str) -> Any:
    """The file as a module that others find by name (dataclasses do); not a failed one."""
    spec: Any = importlib.util.spec_from_file_location(name, path)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
