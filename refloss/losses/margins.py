"""What the losses with a margin on the target's logit share: options on ψ, and what they keep of the target pairs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from refloss import validation as check
from refloss.losses.loss import NormalisingLoss
from refloss.losses.options import SHARED
from refloss.steps.angle import Angle
from refloss.steps.margin import Psi, anneal, cone, detach
from refloss.steps.psi import Continuation
from refloss.steps.targets import Pairs


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
    """A loss whose margin multiplies the angle: ψ(θ) = (−1)^k cos(mθ) − 2k.

    Args:
        margin (int): m ≥ 1.
        annealing (float): λ ≥ 0: the target logit is (λ · plain + margin) / (1 + λ).
        continuation (pair of functions): (D, dD), each called as f(theta, xp): your own decreasing D for θ > π/m with
            D(π/m) = −1 and its derivative; xp is the array namespace to compute with.
    """

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


def target_stages(psi: Psi, angles: Angle, pairs: Pairs) -> dict[str, Any]:
    """What a margin loss records of its target pairs."""
    return {"pairs": pairs, "angles": angles, "psi": psi, "cone": cone(psi, angles)}
