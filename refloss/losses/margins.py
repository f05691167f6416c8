"""What the losses with a margin on the target's logit share: their options on ψ."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from refloss import validation as check
from refloss.losses.loss import NormalisingLoss
from refloss.losses.options import SHARED
from refloss.steps.angle import Angle
from refloss.steps.margin import Psi, anneal, detach
from refloss.steps.psi import Continuation


@dataclass(frozen=True, kw_only=True, repr=False)
class MarginLoss(NormalisingLoss):
    """A loss with a margin on the target's logit. Soft targets are refused: they have no one class."""

    has_margin: ClassVar[bool] = True

    detach_margin: bool = field(default=False, metadata=SHARED)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(detach_margin=check.boolean(self.detach_margin, "detach_margin"))

    def _with_options(self, psi: Psi, angles: Angle) -> Psi:
        """ψ after the options that are no part of the loss's own formula."""
        return detach(psi, angles) if self.detach_margin else psi


@dataclass(frozen=True, kw_only=True, repr=False)
class PsiMarginLoss(MarginLoss):
    """A loss whose margin multiplies the angle: ψ(θ) = (−1)^k cos(mθ) − 2k. Its parameters: see `refloss.LSoftmax`."""

    margin: int = 4
    annealing: float = 0.0
    continuation: Continuation | None = field(default=None, metadata=SHARED)

    def __post_init__(self) -> None:
        super().__post_init__()
        m = check.multiplier(self.margin)
        self._set(
            margin=m,
            annealing=check.not_negative(self.annealing, "annealing"),
            continuation=check.continuation(self.continuation, m),
        )

    def _with_options(self, psi: Psi, angles: Angle) -> Psi:
        if self.annealing:
            psi = anneal(psi, angles, self.annealing)
        return super()._with_options(psi, angles)
