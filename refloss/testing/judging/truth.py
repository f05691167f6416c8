"""The truth on a case, and how far a correct kernel in a dtype may be off it: derived, never chosen.

The truth is refloss's own pass in float64 at the inputs as the dtype holds them. Around it stand nested envelopes, one
a grade:

    A   one unit in the last place of the output's dtype, and the reference's own bound
    B   that, and what a stable formula errs by in the compute dtype
    C   that, and what the textbook formula errs by in the compute dtype
    D   that, with what the steps hand on stored in the 16 bits of the inputs
    E   that, and what the textbook formula errs by in the storage dtype throughout

What a formula errs by is the largest over the forms that people write it in (`judging.draws.Form`): four times the
largest of 16 draws of the `perturbed` witness each, and never less than two roundings of the natural scale (the terms
before they cancel). Two more draws lose the gradient where cos θ is clamped, which counts once. Errors are judged in
the `units` of their stage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from refloss.losses import CrossEntropy
from refloss.precision.dtypes import DTYPES, DType, rounded, ulp
from refloss.record import STAGES
from refloss.testing.judging import units
from refloss.testing.judging.conventions import Conventions, conventions, defined
from refloss.testing.judging.draws import STABLE, TEXTBOOK, Envelope, Known, draw, envelope_of, unexplained
from refloss.testing.judging.scales import cones, natural_scale
from refloss.testing.plain_loss import PlainLoss
from refloss.textbook.rows import row_norm
from refloss.validation import one_of

GRADES = "ABCDE"  # and F; D and E are C where nothing is stored in 16 bits


Grade = str | Mapping[str, str]  # one for all stages, or each its own


def grade_at(stage: str, grade: Grade) -> str:
    """The one of this stage."""
    return grade if isinstance(grade, str) else grade[stage]


def required(require: Any, dtype: str) -> Grade:
    """What a caller asks for; by default what an ordinary implementation in the dtype reaches."""
    default = "D" if DTYPES[dtype].is_half else "C"
    if require is None:
        return default
    if not isinstance(require, Mapping):
        return one_of(require, "require", tuple(GRADES))
    for stage, grade in require.items():
        one_of(stage, "a stage of require", STAGES)
        one_of(grade, f"require[{stage!r}]", tuple(GRADES))
    return dict.fromkeys(STAGES, default) | dict(require)


def computed_in(dtype: str) -> str:
    """What the formulas of grades B and C are computed in, unless somebody says otherwise."""
    return "float32" if DTYPES[dtype].is_half else dtype


@dataclass
class Truth:
    """What is due on one case, and how far off each grade may be.

    stages     name → float64, the reference's
    bound      name → what the reference itself may be off by, entry by entry
    compute    what B and C are computed in
    envelope   grade → what a formula may err by in each unit; inf where the formula itself overflows in that dtype
    untrusted  the stages where the reference lies far outside all draws of the stable form
    cone       name → (rows,) how long a part across the row is accepted besides: at x ∥ W_y the loss has no gradient
    plain      the plain loss on this case, run once: for wrong copies
    """

    loss: Any
    dtype: DType
    compute: DType
    inputs: Mapping[str, np.ndarray]
    labels: np.ndarray
    upstream: Any
    out: Any
    stages: dict[str, np.ndarray]
    bound: dict[str, np.ndarray]
    envelope: dict[str, Envelope]
    plain: PlainLoss
    slack: float = 1.0
    cone: dict[str, np.ndarray] = field(default_factory=dict)
    untrusted: tuple[str, ...] = ()
    conventions: Conventions = field(default_factory=Conventions)

    def as_wrong(self, stage: str, made: np.ndarray) -> np.ndarray:
        """A wrong copy that a plain loss made, rounded to the dtype, without the plain loss's own rounding."""
        due, plain = self.stages[stage], self.plain.stages.get(stage)
        if plain is None or np.shape(made) != np.shape(due):
            return rounded(made, self.dtype)
        with np.errstate(invalid="ignore", over="ignore"):
            made = np.where(made == plain, due, np.where(np.isfinite(made), due + (made - plain), made))
        return rounded(made, self.dtype)

    # -- judging -----------------------------------------------------------------------------------

    def excess(self, stage: str, got: np.ndarray) -> np.ndarray:
        """What of the error grade A does not explain, in each unit."""
        due = self.stages[stage]
        with np.errstate(invalid="ignore", over="ignore"):
            error = np.abs(got - due)
            # a masked logit is −inf
            same = (got == due) | (np.isnan(got) & np.isnan(due))  # a mean over nothing may be NaN
            error = np.where(same, 0.0, np.where(np.isnan(error), np.inf, error))
            flushed = (got == 0) & (np.abs(due) < self.dtype.smallest_normal) & (self.dtype.name != "float16")
            rest = np.maximum(error - ulp(due, self.dtype) - self.bound[stage], 0.0)
            rest = np.where(flushed | same, 0.0, rest)
        if stage in self.cone and self.cone[stage].any():
            rest = self._off_the_cone(stage, got - due, rest)
        return units.size(stage, rest)

    def _off_the_cone(self, stage: str, error: np.ndarray, rest: np.ndarray) -> np.ndarray:
        """The error without a part across the row that is no longer than the cone is wide."""
        along = self.row_directions(stage)
        radial = np.sum(error * along, axis=1, keepdims=True) * along
        across = row_norm(error - radial)
        kept = np.maximum(across - self.cone[stage] * (1 + 1e-9), 0.0)
        left = np.hypot(row_norm(radial), kept)
        # as much of it as is left, spread over the row as it was
        share = np.where(across > 0, left / np.where(across > 0, row_norm(error), 1.0), 1.0)
        return np.where(self.cone[stage][:, None] > 0, rest * np.minimum(share, 1.0)[:, None], rest)

    def allowed(self, stage: str, grade: Grade) -> np.ndarray:
        """What `excess` may be at this grade."""
        grade = grade_at(stage, grade)
        if grade == "A":
            return np.zeros(np.shape(self.envelope["B"].largest[stage]))
        return self.slack * self.envelope[grade].largest[stage]

    def judged(self, stage: str, got: np.ndarray, grade: Grade) -> tuple[np.ndarray, np.ndarray]:
        """`excess` and what is allowed of it, in each unit; less where too little of what is due came out."""
        return self.excess(stage, got), self._allowed_of(stage, got, grade)

    def _allowed_of(self, stage: str, got: np.ndarray, grade: Grade) -> np.ndarray:
        grade, allowed, due = grade_at(stage, grade), self.allowed(stage, grade), self.stages[stage]
        if grade == "A":
            return allowed
        least = self.envelope[grade].least[stage]
        with np.errstate(all="ignore"):
            short = (least > 0) & (units.times(stage, got, due) < least)
            missing = self.slack * (1 - least) * units.size(stage, due)
            allowed = np.where(short, np.minimum(allowed, missing), allowed)
            if stage in units.ROWWISE:
                way, far = self.envelope[grade].losing[stage], self.slack * self.envelope[grade].far[stage]
                turned = np.sum((got - due) * way, axis=-1) > far + units.size(stage, self.last_place(stage))
                allowed = np.where(turned, np.minimum(allowed, far), allowed)
        return allowed

    def grade_of(self, stage: str, got: np.ndarray) -> str:
        """The best grade whose envelope holds all of it, or F."""
        excess = self.excess(stage, got)
        return next((g for g in GRADES if (excess <= self._allowed_of(stage, got, g)).all()), "F")

    def passes(self, stage: str, got: np.ndarray, grade: Grade) -> bool:
        excess, allowed = self.judged(stage, got, grade)
        return bool((excess <= allowed).all())

    def last_place(self, stage: str) -> np.ndarray:
        """What storing an entry costs, and the reference's own bound: grade A."""
        return ulp(self.stages[stage], self.dtype) + self.bound[stage]

    def room(self, stage: str, grade: Grade) -> np.ndarray:
        """The largest error accepted in each unit."""
        return self.allowed(stage, grade) + units.size(stage, self.last_place(stage))

    def tolerance(self, stage: str, grade: Grade) -> np.ndarray:
        """The largest error accepted at each entry, the others of its unit being right."""
        return self.last_place(stage) + units.spread(stage, self.allowed(stage, grade))

    def row_directions(self, stage: str) -> np.ndarray:
        """The unit vectors of the rows that grad_x or grad_W belong to."""
        return self.plain.x_hat if stage == "grad_x" else self.plain.W_hat


def truth_on(
    loss: Any, inputs: Mapping[str, np.ndarray], labels: np.ndarray, upstream: Any, dtype: str,
    compute: str | None = None, slack: float = 1.0,
) -> Truth:  # fmt: skip
    """The truth on one input and what each grade allows around it.

    inputs: x (N, D), W (C, D) and b (C,) or None, or logits; read as they are, so round them to the dtype before.
        An ignored row may hold NaN and inf.
    upstream: () or the losses' shape under reduction="none". compute: what B and C are computed in.
    """
    storage, inner = DTYPES[dtype], DTYPES[compute or computed_in(dtype)]
    inputs, undefined = defined(loss, inputs, labels)
    if isinstance(loss, CrossEntropy):
        out = loss.forward(inputs["logits"], labels)
    else:
        out = loss.forward(inputs["x"], inputs["W"], labels, inputs.get("b"))
    grads = loss.backward(out, upstream)
    stages = {name: np.asarray(v) for name, v in {**out.stages(), **grads.stages()}.items()}
    plain = PlainLoss(loss, inputs, labels, upstream)
    plain.run()
    scale = natural_scale(plain, stages)
    known: Known = {}
    stable = draw(plain, STABLE, inner, known=known)
    envelope = {"B": envelope_of(stable, stages, scale, inner)}
    envelope["C"] = envelope["B"] | envelope_of(draw(plain, TEXTBOOK, inner, known=known), stages, scale, inner)
    envelope["D"] = envelope["E"] = envelope["C"]
    if inner is not storage:
        handed_on = envelope_of(draw(plain, TEXTBOOK, inner, storage), stages, scale, storage)
        envelope["D"] = envelope["C"] | handed_on
        envelope["E"] = envelope["D"] | envelope_of(draw(plain, TEXTBOOK, storage), stages, scale, storage)
    return Truth(
        loss, storage, inner, inputs, labels, upstream, out, stages, _own_bound(out, grads, stages, storage), envelope,
        plain, slack, cones(plain, out, stages), unexplained(stable[0], stages, scale, inner),
        conventions(loss, inputs, labels, stages, undefined),
    )  # fmt: skip


def _own_bound(out: Any, grads: Any, stages: Mapping[str, np.ndarray], storage: DType) -> dict[str, np.ndarray]:
    """The reference's proven bound in float64; in the other dtypes it is far below the last place, and 0 here."""
    known = {**out.error_bound, **grads.error_bound} if storage.name == "float64" else {}
    return {name: np.asarray(known[name] if known else np.zeros(np.shape(value))) for name, value in stages.items()}
