"""`refloss.certify`: how far float64 results are from the truth, proven stage by stage.

An error is the distance from a float64 number to everything that its enclosure holds, at the worst; the enclosures are
made narrower until that tells (`enclose_decided`). Each entry gets one smallest subnormal of slack, because nothing
finer can be stored. Errors are given

    in u = 2^-53 of the natural scale     normwise along the rows of grad_x and grad_W, entrywise elsewhere
    in ulp                                of the true value, entrywise: what `loss` and `losses` are limited by
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from flint import arb, ctx

from refloss.losses.loss import Loss
from refloss.proof.enclosures import LOWEST_BITS, Enclosures, enclose
from refloss.proof.tape import NOTHING, asks, each, exact, is_zero, total
from refloss.report import BaseReport, Grid, MismatchError
from refloss.textbook.rows import row_norm

CertifyError = MismatchError  # the name that it had

MOST_BITS = 8192
ROWWISE = ("grad_x", "grad_W")
BY_SAMPLE = ("logits", "probabilities", "losses", "complement", "grad_logits", "grad_x")
ALWAYS_OWED = ("x_norm", "W_norm", "cos_theta", "theta")

NOT_OWED = "nothing is owed here"
SPARE = 1 + 2.0**-40  # for the rounding of a length
_U = arb(2) ** -53
_SHARP = arb(2) ** -12  # an enclosure tells enough when it is this part of a unit wide
_TINY: Any = arb(2) ** -1074

_upper, _lower, _radius = each(arb.abs_upper), each(arb.abs_lower), each(arb.rad)
_finite, _sharp = asks(arb.is_finite), asks(lambda width, due: width <= due, 2)


@dataclass(frozen=True)
class Limit:
    """The error that a stage may have, in u of its natural scale or in ulp."""

    value: float
    unit: str = "u"


def extended_limits(stages: Iterable[str]) -> dict[str, Limit]:
    """What precision="extended" owes: losses and loss 4 ulp, every other stage 8 u of its natural scale."""
    return {name: Limit(4.0, "ulp") if name in ("losses", "loss") else Limit(8.0) for name in stages}


@dataclass(frozen=True)
class StageError:
    """The proven worst error of one stage.

    Attributes:
        stage (str): its name.
        worst_u (float): upper bound, in u = 2^-53 of the natural scale; inf where NaN or Inf came, or where 0 was due.
            What a jump leaves undecided is not in it.
        worst_ulp (float): upper bound in ulp of the true value, over the entries that are known to 53 bits or more.
        index (tuple): of the worst entry.
        got (float): that entry, as it came.
        expected (str): the ball that holds the truth.
        limit (float): what is allowed, in `unit`; None: nothing is owed.
        unit (str): "u", "ulp", or "bound" (the record's own, absolute).
        of_limit (float): largest error as a part of its limit.
        within (bool): nothing is proven to be over the limit, NaN or Inf, and nothing is open that must not be.
        undecided (int): entries (rows of grad_x and grad_W) on which the truth is not one number.
        reason (str): why they are undecided, or what is wrong.
    """

    stage: str
    worst_u: float
    worst_ulp: float
    index: tuple[int, ...]
    got: float
    expected: str
    limit: float | None
    unit: str
    of_limit: float
    within: bool
    undecided: int
    reason: str


@dataclass(frozen=True)
class Certificate(BaseReport):
    """What was proven of one loss at one input. Its truth value is `passed`, its text a table.

    Attributes:
        made_by (str): repr of the loss.
        precision (str): the loss's precision, which decides the limits.
        stages (Mapping): name → `StageError`, in the project's order, complement after loss.
        bits (int): the precision that the balls needed.
    """

    made_by: str
    precision: str
    stages: Mapping[str, StageError]
    bits: int

    @property
    def passed(self) -> bool:
        """Whether every stage is within its limit."""
        return all(stage.within for stage in self.stages.values())

    @property
    def undecided(self) -> int:
        """The number of entries, of all stages, on which the truth is not one number."""
        return sum(stage.undecided for stage in self.stages.values())

    def to_dict(self) -> dict[str, Any]:
        return {"passed": self.passed, "undecided": self.undecided} | asdict(self)

    def __repr__(self) -> str:
        return f"<certificate of {self.made_by}: {self.verdict()}>"

    def grid(self) -> Grid:
        """One line for each stage.

        Returns:
            Grid: header and rows.
        """
        return Grid(
            ("stage", "worst, u of scale", "worst, ulp", "limit", "of limit", "undecided"),
            [
                [
                    stage.stage,
                    f"{stage.worst_u:.3g}",
                    f"{stage.worst_ulp:.3g}",
                    "" if stage.limit is None else f"{stage.limit:.3g} {stage.unit}",
                    "" if stage.limit is None else f"{stage.of_limit:.2g}",
                    str(stage.undecided),
                ]
                for stage in self.stages.values()
            ],
            "lrrrrr",
            [not stage.within for stage in self.stages.values()],
        )

    def details(self) -> list[str]:
        """The stages that are over their limit or undecided, and why.

        Returns:
            list of str: the lines.
        """
        lines = []
        for stage in self.stages.values():
            if stage.reason:
                word = "UNDECIDED" if stage.within else "FAILED"
                where = f"{stage.stage}[{', '.join(map(str, stage.index))}]" if stage.index else stage.stage
                lines.append(f"{word} {where}: {stage.reason}; got {stage.got:.17g}, the truth is {stage.expected}")
        return lines

    @property
    def _heading(self) -> str:
        return f"{self.made_by}, precision {self.precision!r}"

    def verdict(self) -> str:
        """The stages that failed, or how many passed; and how many entries are undecided.

        Returns:
            str: the line.
        """
        wrong = [name for name, stage in self.stages.items() if not stage.within]
        verdict = f"FAILED: {', '.join(wrong)}" if wrong else f"PASSED: {len(self.stages)} stages"
        limited = any(stage.limit is not None for stage in self.stages.values())
        verdict += f", {self.undecided} undecided" + ("" if limited else ", measured against no limit")
        unlimited = sum(NOT_OWED in stage.reason for stage in self.stages.values())
        verdict += f", nothing is owed of {unlimited} stages" if unlimited else ""
        return f"{verdict} (proven with {self.bits} bits)"


# -- certifying ------------------------------------------------------------------------------------


def certify(
    loss: Any, x: Any, W: Any, labels: Any, b: Any = None, *, upstream: Any = 1.0, enclosures: Enclosures | None = None
) -> Certificate:
    """Proves how far every stage of a loss is from the truth at these inputs.

    The limits are the bounds that the records state (`error_bound`); with precision="extended" besides 4 ulp for losses
    and loss and 8 u of its natural scale for every other stage, on rows with ``r + |b| ≤ 2^40`` (and, with a margin
    of one's own, not within 2^-45 of π). Every entry is allowed one smallest subnormal.

    Args:
        loss (Loss): a loss of refloss on x and W.
        x (N, D): features.
        W (C, D): class weights.
        labels (N,): classes, or soft targets (N, C).
        b (C,): the bias, or None.
        upstream (scalar or (N,)): the gradient arriving at the loss, as `refloss.Loss.backward` takes it.
        enclosures (Enclosures): those of `enclose_decided` at the same inputs, if they are at hand.

    Returns:
        Certificate: the worst error of each stage, in u = 2^-53 of its natural scale and in ulp.

    Singular points:
        At a cone (x ∥ W_y, ψ' ≠ 0) any element of the generalised gradient is accepted, and the row is counted as
        undecided; nothing else may stay open but a point of a jump.

    Raises:
        TypeError: what is no such loss.
        ValueError: what the loss raises for its inputs.
        ImportError: without python-flint (``pip install python-flint``).

    Example:
        >>> import refloss
        >>> x, W = [[1.0, 2.0, 0.5], [0.3, -1.0, 2.0]], [[1.0, 0.0, 1.0], [0.0, 1.0, -1.0]]
        >>> certificate = refloss.certify(refloss.ArcFace(scale=8), x, W, labels=[0, 1])
        >>> certificate.passed, certificate.stages["grad_x"].worst_u < 8
        (True, True)
    """
    if not (enclosures is None or isinstance(enclosures, Enclosures)):
        raise TypeError(f"enclosures must be what enclose_decided returns, or None, got {enclosures!r}")
    if enclosures is None and not isinstance(loss, Loss):
        got = f"the class {loss.__name__}" if isinstance(loss, type) else repr(loss)
        raise TypeError(f"certify takes a loss of refloss on x and W, such as refloss.ArcFace(), got {got}")
    out = loss.forward(x, W, labels, b)
    grads = loss.backward(out, upstream)
    stages = dict(out.stages())
    if out.complement is not None:
        stages["complement"] = out.complement
    stages |= grads.stages()
    if enclosures is None:
        enclosures = enclose_decided(loss, x, W, labels, b, upstream=upstream)
    measured = measure(enclosures, stages, {**out.error_bound, **grads.error_bound})
    if loss.precision == "extended":
        owed = measure(enclosures, stages, extended_limits(stages))
        # what goes beyond the record's own bound is wrong whatever is owed
        measured = {
            name: owed[name] if stage.within and NOT_OWED not in owed[name].reason else stage
            for name, stage in measured.items()
        }
    return Certificate(repr(loss), loss.precision, measured, enclosures.bits)


def enclose_decided(
    loss: Any, x: Any, W: Any, labels: Any, b: Any = None, *, upstream: Any = 1.0, most_bits: int = MOST_BITS
) -> Enclosures:
    """Enclosures narrow enough to measure any float64 result: 2^-12 u of the natural scale, or 2^-1086.

    128 bits, and more only as far as the point asks for it, up to `most_bits`. Where even that does not do (between the
    branches of a jump), the widest precision's enclosures come back as they are.
    """
    bits = LOWEST_BITS
    while True:
        enclosures = enclose(loss, x, W, labels, b, upstream=upstream, bits=bits)
        missing = _missing_bits(enclosures)
        if missing <= 0 or bits >= most_bits:
            return enclosures
        needed = bits + missing if np.isfinite(missing) else 2 * bits
        bits = min(max(2 * bits, 64 * int(np.ceil(needed / 64))), most_bits)


def _missing_bits(e: Enclosures) -> float:
    """How many more bits would make every stage sharp; inf if that cannot be told."""
    missing = 0.0
    with ctx.workprec(e.bits):
        for name, value in e.stages.items():
            if e.undefined and not _finite(value).all():
                continue
            if not _measures(e.scales[name]).all():
                return np.inf
            width = _radius(value)
            due = np.broadcast_to(_due_width(e, name), value.shape)
            for w, d in zip(*(v[~_sharp(width, due)] for v in (width, due)), strict=True):
                missing = max(missing, _log2(w / d) + 16 if w.is_finite() else np.inf)
    return missing


# a scale is good to 2^-12, or so small that only the slack counts
_measures = asks(lambda s: s.rel_accuracy_bits() >= 12 or s.abs_upper() * _U <= _SHARP * _TINY)


def _due_width(e: Enclosures, name: str) -> np.ndarray:
    """The radius at which an enclosure tells; broadcasts against the stage."""
    scale = _lower(e.scales[name])
    if name in ROWWISE:
        scale = scale[:, None] / arb(e.stages[name].shape[1]).sqrt()
    return each(lambda s: _SHARP * max(_U * s, _TINY) if s.is_finite() else _SHARP * _TINY)(scale)


def _log2(value: arb) -> float:
    return float(value.log() / arb(2).log())


# -- measuring -------------------------------------------------------------------------------------


def measure(
    enclosures: Enclosures, stages: Mapping[str, Any], limits: Mapping[str, Any] | None = None
) -> dict[str, StageError]:
    """The proven worst error of anyone's float64 results, stage by stage.

    stages  name → array shaped like the stage (any of the vocabulary, and `complement`); read as float64
    limits  name → `Limit`, or an array of absolute bounds that broadcasts against the stage; none: errors are only
            measured

    NaN and Inf have the error inf and are never within, limit or not. Raises ValueError for a name that the loss has no
    stage of.
    """
    limits = limits or {}
    unknown = [name for name in stages if name not in enclosures.stages]
    if unknown:
        raise ValueError(f"stages: no stage {', '.join(unknown)} here; there are {', '.join(enclosures.stages)}")
    with ctx.workprec(enclosures.bits):
        return {name: _Measured(enclosures, name, value).judged(limits.get(name)) for name, value in stages.items()}


class _Measured:
    """One stage of somebody's beside its enclosure.

    A *unit* is what one error is stated of: a row of grad_x and grad_W, an entry of every other stage.
    """

    def __init__(self, e: Enclosures, name: str, value: Any) -> None:
        self.e, self.name, self.rowwise = e, name, name in ROWWISE
        self.got, self.truth = np.asarray(value, dtype=float), e.stages[name]
        if self.got.shape != self.truth.shape:
            return
        finite, known, zero = np.isfinite(self.got), _finite(self.truth), NOTHING
        # NaN is the truth of a mean over nothing, and of nothing else
        due_nan = ~known if e.undefined else np.zeros(self.got.shape, dtype=bool)
        self.wrong = np.where(due_nan, ~np.isnan(self.got), ~finite)
        here, there = exact(np.where(finite, self.got, 0.0)), np.where(due_nan, zero, self.truth)
        error = np.where(finite & ~due_nan, here - there, zero)
        self.cone = self._leave_out_cones(error) if self.rowwise else np.zeros(self.got.shape, dtype=bool)
        # where nothing can arrive a gradient is exactly 0: no slack
        scale = e.scales[name][:, None] if self.rowwise else e.scales[name]
        slack = np.where(is_zero(scale) & name.startswith("grad"), zero, _TINY)
        self.most, self.least = (each(lambda v, t: max(v - t, zero), 2)(end(error), slack) for end in (_upper, _lower))
        self.parts = _ceil(self.most)  # by which the worst entry of a row is told
        self.blurred = ~due_nan & ~_sharp(_radius(self.truth), _due_width(e, name))

    def judged(self, limit: Any) -> StageError:
        """The worst error, against `limit`: a `Limit`, an array of absolute bounds, or None."""
        name, got = self.name, self.got
        if got.shape != self.truth.shape:
            reason = f"has shape {got.shape}, due {self.truth.shape}"
            return StageError(name, np.inf, np.inf, (), np.nan, "", None, "u", np.inf, False, 0, reason)
        wrong, blurred = self._any(self.wrong), self._any(self.blurred)
        worst_u = np.where(wrong, np.inf, _ceil(self._in_u(self.most, _lower)))
        worst_ulp = np.where(wrong, np.inf, self._max(self._in_ulp(self.most)))
        most, least = self._of_limit(limit, worst_u, worst_ulp)
        refuted = wrong | (least > 1) | ((most > 1) & ~blurred)
        open_ = blurred & ~refuted & ((most > 1) | (limit is None))
        torn = self._torn(open_.shape)
        stuck = open_ & ~torn & ~self.cone
        undecided, aside = open_ | self.cone, open_ & torn
        ranked = most if limit is not None and most.any() else worst_u
        index = self._index(np.where(refuted | stuck, np.inf, ranked) if ranked.size else ranked)
        value, unit = self._stated(limit, index)
        reasons = {
            "is not finite" if not np.isfinite(got[index]).all() else "is over the limit": refuted.any(),
            f"is not decided with {self.e.bits} bits": stuck.any(),
            "cone: x ∥ W_y, the gradient is any of a ball": self.cone.any(),
            "a jump or kink: balls cannot tell the branches apart": (open_ & torn).any(),
            NOT_OWED: limit is not None and not self._owes(limit),
        }
        return StageError(
            stage=name,
            worst_u=float(np.max(np.where(aside, 0.0, worst_u), initial=0.0)),
            worst_ulp=float(np.max(np.where(aside, 0.0, worst_ulp), initial=0.0)),
            index=index,
            got=float(got[index]) if got.size else 0.0,
            expected=self.truth[index].str(20) if got.size else "",
            limit=value,
            unit=unit,
            of_limit=float(np.max(np.where(wrong, np.inf, np.where(aside, 0.0, most)), initial=0.0)),
            within=not (refuted.any() or stuck.any()),
            undecided=int(np.count_nonzero(undecided)),
            reason="; ".join(reason for reason, holds in reasons.items() if holds),
        )

    # -- errors, a unit each -----------------------------------------------------------------------

    def _in_u(self, error: np.ndarray, end: Callable) -> np.ndarray:
        """In u of the natural scale, of which `end` gives the careful end."""
        if self.rowwise:
            error = each(arb.sqrt)(total(error * error, axis=1))
        return each(lambda v, s: _ratio(v, _U * s), 2)(error, end(self.e.scales[self.name]))

    def _in_ulp(self, error: np.ndarray) -> np.ndarray:
        """Entries in units in the last place of the true value, where that is known to 53 bits."""
        ulp = each(lambda v: arb(float(np.spacing(_float(v.abs_lower())))))(self.truth)
        known = each(arb.rel_accuracy_bits)(self.truth).astype(float) >= 53
        return np.where(known | is_zero(self.truth), _ceil(each(_ratio, 2)(error, ulp)), 0.0)

    def _of_limit(self, limit: Any, worst_u: np.ndarray, worst_ulp: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The errors as parts of the limit: at most, and at least."""
        if limit is None:
            return np.zeros(worst_u.shape), np.zeros(worst_u.shape)
        if isinstance(limit, Limit):
            if limit.unit == "ulp":
                most, least = worst_ulp, self._max(self._in_ulp(self.least))
            else:
                most, least = worst_u, _floor(self._in_u(self.least, _upper))
            owed = self._owed(most.shape)
            return np.where(owed, most / limit.value, 0.0), np.where(owed, least / limit.value, 0.0)
        stated = np.array(np.broadcast_to(np.asarray(limit, dtype=float), self.got.shape))
        if self.rowwise:  # at a cone the entries were turned into one direction, within the length of the row's bound
            stated[self.cone] = SPARE * row_norm(stated[self.cone])[:, None]
        bounds = exact(stated)
        # a bound may be tighter than the enclosure is wide (0, where the record knows that it is exact)
        told = bounds + 2 * _due_width(self.e, self.name)
        least = _floor(each(_ratio, 2)(self.least, bounds))
        self.parts = np.maximum(_ceil(each(_ratio, 2)(self.most, told)), least)
        return self._max(self.parts), self._max(least)

    def _owes(self, limit: Any) -> bool:
        """Whether the limit says anything: no bound is infinite, and extended precision owes its limits here."""
        if isinstance(limit, Limit):
            return not self.got.size or bool(self._owed(self._any(self.wrong).shape).all())
        return bool(np.isfinite(limit).all())

    def _stated(self, limit: Any, index: tuple[int, ...]) -> tuple[float | None, str]:
        if limit is None:
            return None, "u"
        if isinstance(limit, Limit):
            return limit.value, limit.unit
        return float(np.broadcast_to(limit, self.got.shape)[index]) if self.got.size else 0.0, "bound"

    def _index(self, ranked: np.ndarray) -> tuple[int, ...]:
        """The worst entry, in the worst row where rows are judged."""
        if not ranked.size:
            return ()
        unit = np.unravel_index(np.argmax(ranked), ranked.shape)
        if self.rowwise:
            row = np.where(self.wrong[unit], np.inf, self.parts[unit])
            unit = (*unit, np.argmax(row))
        return tuple(int(i) for i in unit)

    # -- layout ------------------------------------------------------------------------------------

    def _any(self, mask: np.ndarray) -> np.ndarray:
        return np.asarray(mask.any(axis=1) if self.rowwise else mask)

    def _max(self, values: np.ndarray) -> np.ndarray:
        return np.max(values, axis=1, initial=0.0) if self.rowwise else values

    def _by_sample(self, samples: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """A mark of samples (N,) on the units that they enter."""
        marked = np.zeros(shape, dtype=bool)
        if self.name in BY_SAMPLE or (self.name == "loss" and shape):
            marked[samples] = True
        else:
            marked[...] = samples.any()
        return marked

    def _torn(self, shape: tuple[int, ...]) -> np.ndarray:
        return self._by_sample(self.e.torn, shape)

    def _owed(self, shape: tuple[int, ...]) -> np.ndarray:
        if self.name in ALWAYS_OWED:
            return np.ones(shape, dtype=bool)
        return ~self._by_sample(~self.e.owed, shape)

    def _leave_out_cones(self, error: np.ndarray) -> np.ndarray:
        """Takes from each row at a cone what its generalised gradient allows; those rows, as bool (rows,)."""
        rows = self.e.x if self.name == "grad_x" else self.e.W
        spread = self.e.spread[self.name]
        for i in np.flatnonzero(~is_zero(spread)):
            direction = exact(rows[i])
            direction = direction / total(direction * direction).item().sqrt()
            along = direction * total(direction * error[i]).item()
            across, allowed = error[i] - along, spread[i].abs_lower()
            longest = total(_upper(across) ** 2).item().sqrt()
            if not longest <= allowed:
                along = along + across * (1 - allowed / longest)
            error[i] = along
        if self.name == "grad_x":
            return self.e.cone.copy()
        cone = np.zeros(len(rows), dtype=bool)
        cone[self.e.labels[self.e.cone] if self.e.labels is not None else []] = True
        return cone


def _ratio(error: arb, unit: arb) -> arb:
    """error/unit, where no error of nothing is none, and any error of nothing is infinite."""
    if error == 0:
        return NOTHING
    return error / unit if unit > 0 else arb.pos_inf()


def _float(value: arb) -> float:
    """The nearest float64; inf beyond."""
    return float(value.mid()) if value.is_finite() else np.inf


def _ceil(values: np.ndarray) -> np.ndarray:
    """float64 numbers that are not less; inf where a ball has no end."""
    return each(lambda v: np.nextafter(_float(v.abs_upper()), np.inf) if v != 0 else 0.0)(values).astype(float)


def _floor(values: np.ndarray) -> np.ndarray:
    """float64 numbers that are not more."""
    return each(lambda v: np.nextafter(_float(v.abs_lower()), 0.0))(values).astype(float)
