"""flash-linear-attention's cross-entropies, through Triton's interpreter on the CPU."""

from __future__ import annotations

from typing import Any

from asked import Check, Facts, Lazy

REQUIRES = ("flash-linear-attention==0.6.0", "triton==3.9.0", "torch==2.13.0")
ENVIRONMENT = {"TRITON_INTERPRET": "1"}
torch = Lazy("torch")
modules = Lazy("fla.modules")
ops = Lazy("fla.modules.fused_cross_entropy.ops")
facts = Facts()


def fused(logits: Any, targets: Any) -> Any:
    """The function: `FusedCrossEntropyLoss`, which calls it, wants tensors of a GPU."""
    return ops.cross_entropy_loss(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1))[0].reshape(targets.shape)


def fused_linear(x: Any, W: Any, labels: Any, b: Any = None) -> Any:
    return modules.FusedLinearCrossEntropyLoss()(x, labels, W, b)


IGNORED = {"ignore_index": -100}
CHECKS = [
    Check(fused, "`cross_entropy_loss`, rows", ("CrossEntropy", {"reduction": "none", **IGNORED}), "torch",
          ("float32",)),
    Check(fused_linear, "`FusedLinearCrossEntropyLoss`", ("Softmax", IGNORED), "torch", ("float32",)),
]  # fmt: skip
