"""transformers: the losses that a causal language model and the trainer's smoothing take."""

from __future__ import annotations

from typing import Any

from asked import Check, Facts, Lazy

REQUIRES = ("transformers==5.23.0", "torch==2.13.0")
losses = Lazy("transformers.loss.loss_utils")
trainer = Lazy("transformers.trainer_pt_utils")
facts = Facts()


def causal(logits: Any, targets: Any) -> Any:
    """The labels are shifted already."""
    return losses.ForCausalLMLoss(logits, None, logits.shape[-1], shift_labels=targets)


def smoother(logits: Any, targets: Any) -> Any:
    return trainer.LabelSmoother(0.1)({"logits": logits}, targets)


IGNORED = {"ignore_index": -100}
CHECKS = [
    Check(causal, "`ForCausalLMLoss`, labels shifted", ("CrossEntropy", IGNORED), "torch", ("float32", "bfloat16")),
    Check(smoother, "`LabelSmoother(0.1)`", ("CrossEntropy", {"label_smoothing": 0.1, **IGNORED}), "torch",
          ("float64", "float32", "bfloat16")),
]  # fmt: skip
