"""segmentation-models-pytorch's cross-entropy, on pixels."""

from __future__ import annotations

from typing import Any

from asked import Check, Facts, Lazy

REQUIRES = ("segmentation-models-pytorch==0.6.0", "torch==2.13.0")
torch = Lazy("torch")
losses = Lazy("segmentation_models_pytorch.losses", part=True)
facts = Facts()


def smoothed(logits: Any, targets: Any) -> Any:
    return losses.SoftCrossEntropyLoss(smooth_factor=0.1, ignore_index=None)(logits, targets)


@facts("`SoftCrossEntropyLoss()` with its default arguments raises")
def defaults() -> tuple[bool, str]:
    try:
        losses.SoftCrossEntropyLoss()(torch.zeros(1, 3, 2, 2), torch.zeros(1, 2, 2, dtype=torch.int64))
    except TypeError as error:
        return True, f"TypeError: {error}"
    return False, "a loss came"


@facts("its mean counts ignored pixels: with half of them ignored it is half as large")
def ignored() -> tuple[bool, str]:
    z, y = torch.zeros(1, 3, 1, 2), torch.tensor([[[0, 255]]])
    loss = float(losses.SoftCrossEntropyLoss(smooth_factor=0.0, ignore_index=255)(z, y))
    due = float(torch.nn.functional.cross_entropy(z, y, ignore_index=255))
    return abs(loss - due / 2) < 1e-6, f"{loss:.4f}; {due:.4f} over the valid one"


CHECKS = [
    Check(smoothed, "`SoftCrossEntropyLoss(smooth_factor=0.1, ignore_index=None)`",
          ("CrossEntropy", {"axis": 1, "label_smoothing": 0.1}), "torch", ("float64", "float32", "float16")),
]  # fmt: skip
