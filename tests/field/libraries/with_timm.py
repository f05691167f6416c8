"""timm's losses."""

from __future__ import annotations

from typing import Any

from asked import ALL, Check, Facts, Lazy

REQUIRES = ("timm==1.0.31", "torch==2.13.0")
timm_loss = Lazy("timm.loss", part=True)
facts = Facts()


def smoothing(logits: Any, targets: Any) -> Any:
    """Of rows, as it takes them."""
    return timm_loss.LabelSmoothingCrossEntropy(0.1)(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1))


def soft(logits: Any, targets: Any) -> Any:
    return timm_loss.SoftTargetCrossEntropy()(logits, targets)


CHECKS = [
    Check(smoothing, "`LabelSmoothingCrossEntropy(0.1)`, rows", ("CrossEntropy", {"label_smoothing": 0.1}), "torch",
          ALL),
    Check(soft, "`SoftTargetCrossEntropy`", ("CrossEntropy", {}), "torch", ALL, {"soft_targets": True}),
]  # fmt: skip
