"""Liger Kernel's cross-entropies, through Triton's interpreter on the CPU."""

from __future__ import annotations

from typing import Any

from asked import Check, Facts, Lazy

REQUIRES = ("liger-kernel==0.8.5", "triton==3.9.0", "torch==2.13.0")
ENVIRONMENT = {"TRITON_INTERPRET": "1"}
torch = Lazy("torch")
liger = Lazy("liger_kernel.transformers.functional")
facts = Facts()


def rows(logits: Any, targets: Any, **options: Any) -> Any:
    """(N, C), and a copy: the gradient is written into the logits, by design."""
    copy = (logits * 1).reshape(-1, logits.shape[-1])
    return liger.liger_cross_entropy(copy, targets.reshape(-1), **options)


def cross_entropy(logits: Any, targets: Any) -> Any:
    return rows(logits, targets)


def smoothed(logits: Any, targets: Any) -> Any:
    return rows(logits, targets, label_smoothing=0.1)


def fused_linear(x: Any, W: Any, labels: Any, b: Any = None) -> Any:
    return liger.liger_fused_linear_cross_entropy(x, W, labels, bias=b)


@facts("logits whose last stride is not 1: the gradient that comes back is the logits")
def strides() -> tuple[bool, str]:
    z = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    (view := (z * 1).t()).retain_grad()
    y = torch.arange(4) % 6
    loss = liger.liger_cross_entropy(view, y)
    [got] = torch.autograd.grad(loss, z)
    other = z.detach().clone().requires_grad_()
    right = torch.nn.functional.cross_entropy(other.t(), y)
    right.backward()
    shown = f"gradient[0, 0] {got[0, 0]:.4f}, logit {z[0, 0]:.4f}, due {other.grad[0, 0]:.4f}"
    return bool(torch.allclose(got, z)) and abs((loss - right).item()) < 1e-5, shown


IGNORED = {"ignore_index": -100}
CHECKS = [
    Check(cross_entropy, "`liger_cross_entropy`, rows in a copy", ("CrossEntropy", IGNORED), "torch",
          ("float32", "float16")),
    Check(smoothed, "the same, `label_smoothing=0.1`", ("CrossEntropy", {"label_smoothing": 0.1, **IGNORED}), "torch",
          ("float32",)),
    Check(fused_linear, "`liger_fused_linear_cross_entropy`", ("Softmax", IGNORED), "torch", ("float32",)),
]  # fmt: skip
