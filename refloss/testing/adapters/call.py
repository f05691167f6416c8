"""One call of a kernel: what it is handed, what it returns, and the gradients that autograd has to give."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from refloss.cases.case import Case
from refloss.record import BACKWARD_STAGES, STAGES
from refloss.testing.adapters.numpy import BITS, UNWRITTEN, NumPy, laid_out, to_bits, to_values
from refloss.testing.adapters.signature import Takes
from refloss.testing.adapters.words import UnfitImplementation, described, kind_of, one_line, unknown
from refloss.testing.places import entry, first


@dataclass(frozen=True)
class Problem:
    """What went wrong in a call, apart from the numbers.

    kind   "exception" · "exited" · "memory" · "mutated" · "overwritten" · "wrong_type" · "unwritten" · "no_gradient";
           of a process of its own also "crashed" · "timeout" · "not_run" · "global_state"
    stage  where it shows: of an exception, what would have come next
    """

    kind: str
    stage: str
    message: str


LOST = ("exception", "exited", "memory", "crashed", "timeout", "not_run")  # kinds after which nothing came back


@dataclass
class Outcome:
    """What came back from one call.

    stages          float64, by name in the project's order
    dtypes, bits    stage → the name of the dtype that it came in; its bytes as they came
    problems        in the order in which they were found
    reduced         "loss" if it is one number, "losses" if there is one for each sample: what was differentiated, or
                    else what came back; None without either
    differentiated  the gradients that the adapter took through the framework; the kernel gave the others
    """

    stages: dict[str, np.ndarray] = field(default_factory=dict)
    dtypes: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    bits: dict[str, bytes] = field(default_factory=dict)
    reduced: str | None = None
    differentiated: tuple[str, ...] = ()

    def note(self, kind: str, stage: str, message: str) -> None:
        self.problems.append(Problem(kind, stage, message))

    def add(self, stage: str, value: Any, readable: Callable[[Any], Any]) -> None:
        try:
            self.stages[stage], self.dtypes[stage], self.bits[stage] = read(readable(value))
        except TypeError as error:
            self.note("wrong_type", stage, f"{stage} came as {one_line(error)}; real numbers are due")
        except Exception as error:  # whatever a framework says about its own arrays
            self.note("wrong_type", stage, f"{stage} cannot be read: {described(error)}")

    def ordered(self) -> Outcome:
        order = [stage for stage in STAGES if stage in self.stages]
        self.stages = {stage: self.stages[stage] for stage in order}
        self.dtypes = {stage: self.dtypes[stage] for stage in order}
        self.bits = {stage: self.bits[stage] for stage in order}
        return self


def read(value: Any) -> tuple[np.ndarray, str, bytes]:
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
    if isinstance(value, np.ndarray) and type(value).__array_ufunc__ is not np.ndarray.__array_ufunc__:
        raise TypeError(f"{kind_of(value)}, an array whose arithmetic is its own")
    try:
        array = np.asarray(value)
    except ValueError:
        raise TypeError(f"{kind_of(value)} with rows of different lengths") from None
    name = array.dtype.name if hasattr(value, "dtype") else f"python {type(value).__name__}"
    extension = array.dtype.kind == "V" and array.dtype.fields is None and array.dtype.type is not np.void
    if array.dtype.kind not in "fiu" and not extension:
        raise TypeError(kind_of(value) if not hasattr(value, "dtype") else f"an array of {name}")
    return np.array(array, dtype=np.float64), name, array.tobytes()


def shape_of(value: Any) -> tuple[int, ...]:
    try:
        return tuple(value.shape) if hasattr(value, "shape") else np.shape(value)
    except Exception:  # ragged: `read` says so
        return ()


@dataclass
class Given:
    """An array that was handed out. bits: the memory behind it before the call; view: its part of that memory."""

    name: str
    dtype: str
    bits: np.ndarray
    whole: Any
    view: Callable[[Any], Any]


class Call:
    def __init__(
        self, framework: NumPy, kernel: Any, case: Case, takes: Takes, per_sample: bool,
        out_shapes: Mapping[str, tuple[int, ...]] | None, scale: float,
    ) -> None:  # fmt: skip
        self.framework, self.kernel, self.case, self.takes = framework, kernel, case, takes
        self.per_sample, self.scale = per_sample, scale
        self.between: Callable[[], Any] | None = None  # done after the forward call and before it is differentiated
        self.out_shapes = out_shapes if takes.out else None
        # those that are passed, and so may have a gradient
        self.inputs = [name for name in case.inputs if name != "b" or takes.b]
        self.frozen = case.layout.removeprefix("frozen_") if case.layout.startswith("frozen_") else ""
        self.whole = "losses" if per_sample else "loss"  # where a problem of the whole call is noted
        self.outcome = Outcome()
        self.values: dict[str, Any] = {}  # what came back, as the framework has it

    def run(self) -> Outcome:
        try:
            return self._run()
        except UnfitImplementation:
            raise
        except Exception as error:  # what came back is no honest array or mapping: asking it for its shape raised
            self.outcome = Outcome()
            self.outcome.note("wrong_type", self.whole, f"what came back cannot be read: {described(error)}")
            return self.outcome

    def changed_since(self) -> list[str]:
        """The stages that no longer are what they were when they came back."""
        kept = {stage: bits for stage, bits in self.outcome.bits.items() if stage in self.values}
        return [stage for stage, bits in kept.items() if _bits_of(self.values[stage], self.framework.readable) != bits]

    def _run(self) -> Outcome:
        track = self.framework.has_graph and self.out_shapes is None
        returned, error = self._attempt(track)
        if error is not None and track and minds_tracking(error):
            # a kernel with gradients of its own may go where autograd cannot follow: raw memory, in place
            again, failed = self._attempt(False)
            if failed is None and isinstance(self._one_of(again), Mapping):
                returned, error = again, None
        if error is not None:
            self.outcome.note(kind_of_error(error), self.whole, described(error))
            return self.outcome
        returned = self._one_of(returned)
        if self.between is not None:
            self.between()
        values = self.values = self._named(returned)
        for stage, value in values.items():
            self.outcome.add(stage, value, self.framework.readable)
            self._unwritten(stage, value)
        self.outcome.reduced = next((s for s in ("loss", "losses") if s in self.outcome.stages), None)
        if self.framework.differentiates and self.out_shapes is None:
            self._differentiate(values, bare=not isinstance(returned, Mapping))
        for given in self.given:
            self._mutated(given)
        return self.outcome.ordered()

    def along(self, way: Mapping[str, np.ndarray], second: bool) -> dict[str, np.ndarray]:
        """The derivative of what `way` moves: of the loss (per sample, or whole), by forward mode; or second ones.

        Raises what the kernel raises, or the framework.
        """
        dtype = self.framework.dtype
        self._prepare(second and self.framework.has_graph)
        moving = {name: self.framework.array(to_bits(way[name], dtype), dtype) for name in self.inputs}

        def value(inputs: Mapping[str, Any]) -> Any:
            returned = self._one_of(self._once(inputs))
            if isinstance(returned, Mapping):
                returned = next(returned[stage] for stage in ("loss", "losses") if stage in returned)
            self.shape = shape_of(returned)
            return returned

        def arriving(kind: str) -> Any:
            return self._give("upstream", self._arriving(self._each(self.shape)), kind)

        if not second:
            moved = read(self.framework.tangent(value, self.arrays, moving))[0]
            return {"loss": np.sum(self._arriving(self._each(self.shape)) * moved)}
        found = self.framework.second(value, self.leaves, moving, arriving)
        return {name: read(array)[0] for name, array in found.items()}

    def _attempt(self, track: bool) -> tuple[Any, BaseException | None]:
        """(what came back, what was raised), of new arrays. track: the inputs are leaves of torch's graph."""
        self._prepare(track)
        try:
            return self._once({}), None
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit is the kernel's doing as well
            return None, error

    def _prepare(self, track: bool) -> None:
        """New arrays."""
        dtype = self.framework.dtype
        self.given: list[Given] = []
        self.arrays = {name: self._give(name, self.case.inputs[name], dtype) for name in self.inputs}
        self.leaves = dict(self.arrays)
        if track:
            self.leaves = {name: array.detach().requires_grad_(name != self.frozen)
                           for name, array in self.arrays.items()}  # fmt: skip
            # torch writes into no leaf, but into what was computed of one
            self.arrays = {name: leaf.clone() if name in self.takes.mutates else leaf
                           for name, leaf in self.leaves.items()}  # fmt: skip
        labels = np.asarray(self.case.labels)
        self.labels = self._give("labels", labels, "int64" if labels.dtype.kind in "iu" else dtype)
        self.keywords: dict[str, Any] = {}
        if self.takes.needs_b and "b" not in self.inputs:  # a loss without a bias
            self.keywords["b"] = self._give("b", np.zeros(len(self.case.inputs["W"])), dtype)
        if self.takes.upstream:
            self.keywords["upstream"] = self._give("upstream", self._arriving(self.per_sample), dtype)
        self.buffers: dict[str, Any] = {}
        if self.out_shapes is not None:
            for stage, shape in self.out_shapes.items():
                bits = np.full(shape, UNWRITTEN[dtype], dtype=BITS[dtype])
                self.buffers[stage] = self.framework.array(bits, dtype)
            self.keywords["out"] = dict(self.buffers)

    def _once(self, others: Mapping[str, Any]) -> Any:
        """One call; `others` in place of the inputs of those names."""
        given = {**self.arrays, "labels": self.labels, **self.keywords, **others}
        positions, names = self.takes.positions, self.takes.names
        if positions is None:
            positions = (*(name for name in self.inputs if name != "b"), "labels")
        first = [given.pop(name) for name in positions]
        return self.kernel(*first, **{names.get(name, name): value for name, value in given.items()})

    def _one_of(self, returned: Any) -> Any:
        """Of a tuple, what was declared to be the result."""
        at = self.takes.returns
        fits = isinstance(returned, (tuple, list)) and at is not None and -len(returned) <= at < len(returned)
        return returned[at] if fits else returned

    def _arriving(self, each: bool) -> np.ndarray:
        return np.asarray((self.case.upstreams if each else self.case.upstream) * self.scale)

    # -- handing out -------------------------------------------------------------------------------

    def _give(self, name: str, values: np.ndarray, dtype: str) -> Any:
        """A private copy in the framework, laid out as the case says."""
        layout = self.case.layout
        wrong_one = (name == "upstream") != layout.startswith("upstream_") and layout != "read_only"
        if layout == "channels_last":
            wrong_one |= np.ndim(values) != np.ndim(self.case.inputs["logits"])  # labels have no channels
        if wrong_one or not self.framework.has_layouts or (layout == "read_only" and name in self.takes.mutates):
            layout = "contiguous"
        bits, view = laid_out(to_bits(np.asarray(values), dtype), layout, dtype)
        whole = self.framework.array(bits, dtype)
        array = view(whole)
        if layout == "read_only" and isinstance(array, np.ndarray):
            array.flags.writeable = False
        self.given.append(Given(name, dtype, bits, whole, view))
        return array

    def _mutated(self, given: Given) -> None:
        if given.name in self.takes.mutates:
            return
        now = self.framework.bits(given.whole, given.dtype)
        if np.array_equal(now, given.bits):
            return
        before, after = given.view(given.bits), given.view(now)
        changed = before != after
        if not np.any(changed):
            message = f"memory between the entries of {given.name} was written: its strides were ignored"
        else:
            at = first(changed)
            old, new = (to_values(part[at], given.dtype) for part in (before, after))
            message = f"{entry(given.name, at)} was {old:.9g} and is {new:.9g} after the call"
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
            due = "the loss, or a mapping from stage names, is due"
            if returned is not None:
                at = self.takes.returns
                due += " (returns=0 if its first entry is that)" if at is None else f"; it has no entry {at}"
            self.outcome.note("wrong_type", self.whole, f"{what} came back; {due}")
        elif returned is not None:
            values["losses" if self._each(shape_of(returned)) else "loss"] = returned
        if isinstance(returned, Mapping) and not values:
            words = "an empty mapping came back; at least one stage is due"
            self.outcome.note("wrong_type", self.whole, words)
        for stage in values:
            if stage not in STAGES:
                raise UnfitImplementation(f"the kernel returned {unknown(stage)}")
        if "b" in self.keywords:
            values.pop("grad_b", None)  # this loss has no bias: it was given zeros, because it needs one
        # no gradient where there is no bias, or where none is wanted
        for name in ("b", *filter(None, [self.frozen])):
            if values.get(f"grad_{name}", self) is None and (name == self.frozen or name not in self.inputs):
                del values[f"grad_{name}"]
        return values

    def _unwritten(self, stage: str, value: Any) -> None:
        if value is not self.buffers.get(stage, self):
            return
        dtype = self.framework.dtype
        left = self.framework.bits(value, dtype) == UNWRITTEN[dtype]
        if left.any():
            message = f"{np.count_nonzero(left)} of {left.size} entries of {stage} were never written"
            if left.ndim:
                message += f", first at index {first(left)}"
            self.outcome.note("unwritten", stage, message)

    # -- gradients through the framework -----------------------------------------------------------

    def _differentiate(self, values: Mapping[str, Any], bare: bool) -> None:
        """Adds the gradients that the kernel leaves to the framework."""
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
            return  # the kernel's own gradients are those of the reduced loss
        missing = [name for name in self.inputs if f"grad_{name}" not in values and name != self.frozen]
        wanted = {name: self.leaves[name] for name in missing}
        on_the_way = values.get("logits")
        if self.framework.has_graph and "grad_logits" not in values and not self.framework.no_gradient_of(on_the_way):
            wanted.setdefault("logits", on_the_way)
        if not wanted:
            return
        arriving = self._arriving(each)
        if own and not self.takes.upstream:  # then its own are those of upstream 1
            arriving = np.ones_like(arriving)

        def again(inputs: Mapping[str, Any]) -> Any:
            returned = self._one_of(self._once(inputs))
            return returned if bare else returned[source]

        try:
            found = self.framework.gradients(values[source], wanted, partial(self._give, "upstream", arriving), again)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            if missing:
                words = f"while it was differentiated: {described(error)}"
                self.outcome.note(kind_of_error(error), f"grad_{missing[0]}", words)
            return
        self.outcome.reduced = "losses" if each else "loss"
        for name, gradient in found.items():
            stage = f"grad_{name}"
            if gradient is not None:
                self.outcome.add(stage, gradient, self.framework.readable)
                self.outcome.differentiated += (stage,)
            elif name in missing:
                words = f"no {stage}: in torch's graph the loss does not depend on {name}"
                self.outcome.note("no_gradient", stage, words)


def kind_of_error(error: BaseException) -> str:
    """As what kind of problem it is told."""
    kinds = {SystemExit: "exited", MemoryError: "memory"}
    return next((kind for type_, kind in kinds.items() if isinstance(error, type_)), "exception")


def _bits_of(value: Any, readable: Callable[[Any], Any]) -> bytes | None:
    try:
        return read(readable(value))[2]
    except Exception:
        return None


def minds_tracking(error: BaseException) -> bool:
    """Whether torch complains that an input requires grad."""
    return isinstance(error, RuntimeError) and any(
        words in str(error) for words in ("requires grad", "requires_grad", "automatic differentiation")
    )
