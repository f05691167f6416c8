"""The vectors of one loss in one dtype: which cases, what is due on each, and which known bugs die there."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from refloss.cases.case import Case
from refloss.cases.oracle import cases as all_cases
from refloss.losses import LOSSES, CrossEntropy, construct
from refloss.precision.dtypes import DTYPES, rounded
from refloss.testing.diagnosis.suspects import Suspect, suspects
from refloss.testing.diagnosis.suspects import wrong as made_by
from refloss.testing.judging.selfcheck import VOID, fates
from refloss.testing.judging.truth import Truth, computed_in, required, truth_on
from refloss.testing.vectors.judge import bounds, cone, wrong
from refloss.testing.vectors.tensors import Tensor
from refloss.validation import one_of

SIZE = 270_000  # bytes of a loss in a dtype, so that nine losses in four dtypes stay below 10 MB
MOST = 700  # numbers of the inputs and the logits together: larger cases are for callers, not for files
ENTRY, WORDS, NAME, ABOUT = (
    90,
    1400,
    60,
    400,
)  # bytes that words take: a tensor's, a case's, a bug's name, its explanation
LEFT_OUT = {
    "layout": "about memory layout, which a file has not",
    "nonfinite": "with NaN or inf in ignored rows, or where NaN is due",
    "large": f"with more than {MOST} numbers",
    "room": "for which there was no room",
}


def loss_of(name: str, parameters: Mapping[str, Any]) -> Any:
    """The loss that a file names; ValueError or TypeError if there is none."""
    kinds: dict[str, Any] = {"cross_entropy": CrossEntropy, **LOSSES}
    return construct(kinds[one_of(name, "loss", tuple(kinds))], name, dict(parameters))


def name_of(loss: Any) -> str:
    return "cross_entropy" if isinstance(loss, CrossEntropy) else loss.name


def parameters_of(loss: Any) -> dict[str, Any]:
    """Every parameter as JSON has it; ValueError for a function, which no file can hold."""
    found = {}
    for each in dataclasses.fields(loss):
        value = getattr(loss, each.name)
        if callable(value) or (isinstance(value, tuple) and any(map(callable, value))):
            raise ValueError(f"{each.name} is a function of your own, and vectors hold numbers")
        if each.name != "precision":
            found[each.name] = list(value) if isinstance(value, tuple) else value
    return found


@dataclass
class Vector:
    """One case.

    dies     suspect → the first stage in which what it gives is refused at the required grade
    void     gradient stage → the wrong copies that this case could not tell from the truth
    """

    id: str
    case: Case
    truth: Truth
    tensors: dict[str, Tensor]
    dies: dict[str, str] = field(default_factory=dict)
    void: dict[str, list[str]] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes, about."""
        words = WORDS + NAME * len(self.dies)
        return words + sum(ENTRY + tensor.bits.nbytes for tensor in self.tensors.values())


@dataclass
class Vectors:
    """Those of one loss in one dtype. path: of the JSON file, once they are written."""

    loss: Any
    dtype: str
    seed: int
    vectors: list[Vector]
    left_out: dict[str, int]
    survivors: list[str]
    path: str = ""

    @property
    def grades(self) -> list[str]:
        return list("ABCDE" if computed_in(self.dtype) != self.dtype else "ABC")

    @property
    def require(self) -> str:
        return str(required(None, self.dtype))

    def tensors(self) -> dict[str, Tensor]:
        """By name, id/what."""
        return {f"{v.id}/{name}": tensor for v in self.vectors for name, tensor in v.tensors.items()}


def upstream_of(loss: Any, case: Case) -> Any:
    return case.upstreams if loss.reduction == "none" else np.float64(case.upstream)


def id_of(loss: Any, case: Case, dtype: str) -> str:
    """The case's name and eight digits of what it holds: an id means the same numbers for ever."""
    digest = hashlib.sha256()
    for name, tensor in inputs_of(loss, case, dtype).items():
        digest.update(f"{name}{tensor.dtype}{tensor.shape}".encode() + tensor.data())
    return f"{case.name}-{digest.hexdigest()[:8]}"


def inputs_of(loss: Any, case: Case, dtype: str) -> dict[str, Tensor]:
    """What a kernel is given: x, W, b or logits, labels, upstream."""
    labels = Tensor.of(case.labels, "int64" if case.labels.dtype.kind in "iu" else dtype)
    found = {name: Tensor.of(value, dtype) for name, value in case.inputs.items()}
    return found | {"labels": labels, "upstream": Tensor.of(upstream_of(loss, case), dtype)}


def truth_of(loss: Any, case: Case, dtype: str) -> Truth:
    return truth_on(loss, case.inputs, case.labels, upstream_of(loss, case), dtype)


def make_vector(loss: Any, case: Case, dtype: str) -> Vector:
    """Everything of one case."""
    truth = truth_of(loss, case, dtype)
    tensors = inputs_of(loss, case, dtype)
    for stage, due in truth.stages.items():
        tensors[stage] = Tensor.of(due)
        for grade, bound in bounds(truth, stage).items():
            tensors[f"{stage}/bound_{grade}"] = Tensor.of(bound)
        if (radius := cone(truth, stage)) is not None:
            tensors[f"{stage}/cone"] = Tensor.of(radius)
    made = Vector(id_of(loss, case, dtype), case, truth, tensors)
    require = str(required(None, dtype))
    for suspect in suspects(loss):
        if stage := dies_at(suspect, made, require):
            made.dies[suspect.name] = stage
    for (stage, mutant), fate in fates(truth, truth.stages, require).items():
        if fate == VOID and stage.startswith("grad_"):
            made.void.setdefault(stage, []).append(mutant)
    return made


def dies_at(suspect: Suspect, vector: Vector, grade: str) -> str:
    """The first stage in which the suspect, in its first form and with nothing remembered, is refused; '' if none."""
    truth = vector.truth
    try:
        made = made_by(suspect, truth.loss, truth.inputs, truth.labels, truth.upstream)
    except (ValueError, IndexError, FloatingPointError, ZeroDivisionError):
        return ""  # a bug that cannot happen on this input
    for stage, want in truth.stages.items():
        if stage not in made:
            continue
        if np.shape(made[stage]) != np.shape(want):
            return stage
        got = rounded(truth.as_wrong(stage, made[stage]), truth.dtype)
        tensors = vector.tensors
        across = tensors[f"{stage}/cone"].values if f"{stage}/cone" in tensors else None
        if wrong(want, tensors[f"{stage}/bound_{grade}"].values, got, across).any():
            return stage
    return ""


# -- which cases -----------------------------------------------------------------------------------


def make_vectors(
    loss: Any, dtype: str = "float32", *, seed: int = 0, size: int = SIZE, keep: Sequence[str] = ()
) -> Vectors:
    """The vectors of a loss: of the small cases, those on which most known bugs die, then as many as there is room for.

    Args:
        loss (Loss or CrossEntropy): the object, its parameters numbers and words.
        dtype (str): what the inputs are in.
        seed (int): of the cases.
        size (int): bytes that all may take, about; the known bugs come first.
        keep: ids that come first, in this order: those that were published.

    Raises:
        ValueError: a parameter that is a function; an id to be kept that these cases do not give.
    """
    parameters_of(loss)
    one_of(dtype, "dtype", tuple(DTYPES))
    fit, left_out = fitting(loss, dtype, seed)
    chosen = [make_vector(loss, case, dtype) for case in fit]
    finite = [v for v in chosen if all(np.isfinite(due[due != -np.inf]).all() for due in v.truth.stages.values())]
    left_out["nonfinite"] += len(chosen) - len(finite)
    by_id = {vector.id: vector for vector in finite}
    if lost := [each for each in keep if each not in by_id]:
        raise ValueError(f"{lost[0]} was published and is no longer among the cases: write into another folder")
    order = _by_worth(finite, [by_id[each] for each in keep], size)
    left_out["room"] = len(finite) - len(order)
    return Vectors(loss, dtype, seed, order, left_out, living(loss, order))


def living(loss: Any, vectors: Sequence[Vector]) -> list[str]:
    """The known bugs that die on none of these."""
    dead = {name for vector in vectors for name in vector.dies}
    return [suspect.name for suspect in suspects(loss) if suspect.name not in dead]


def fitting(loss: Any, dtype: str, seed: int) -> tuple[list[Case], dict[str, int]]:
    """The cases that a file can hold, but for those that say nothing in this dtype; and how many others, by reason."""
    fit, left_out = [], dict.fromkeys(LEFT_OUT, 0)
    for case in all_cases(loss, dtype, seed):
        if why := _unfit(loss, case):
            left_out[why] += 1
        elif not ("float32_inside" in case.flags and computed_in(dtype) == dtype):
            fit.append(case)
    return fit, left_out


def _unfit(loss: Any, case: Case) -> str:
    """Why a case is left out, '' if it is not."""
    if case.layout != "contiguous":
        return "layout"
    shapes = [np.shape(value) for value in case.inputs.values()]
    logits = 0 if "logits" in case.inputs else len(case.inputs["x"]) * len(case.inputs["W"])
    if sum(int(np.prod(shape)) for shape in shapes) + logits > MOST:
        return "large"
    bare = isinstance(loss, CrossEntropy)
    if any(np.isnan(v).any() or (np.isposinf(v) if bare else np.isinf(v)).any() for v in case.inputs.values()):
        return "nonfinite"
    return ""


def _by_worth(vectors: Sequence[Vector], kept: Sequence[Vector], size: int) -> list[Vector]:
    """Those to be kept; each time the one on which most bugs die that lived so far; quick ones; the smallest others.

    The new ones stand in the order of the cases.
    """
    found, rest = list(kept), [vector for vector in vectors if vector not in kept]
    dead = {name for vector in found for name in vector.dies}
    left = size - sum(vector.size for vector in found) - ABOUT * len({name for v in vectors for name in v.dies})
    while rest:
        best = max(rest, key=lambda v: (len(v.dies.keys() - dead), v.case.quick, -v.size))
        rest.remove(best)
        if best.size > left:
            continue
        left -= best.size
        dead |= best.dies.keys()
        found.append(best)
    new = found[len(kept) :]
    return [*kept, *(vector for vector in vectors if vector in new)]
