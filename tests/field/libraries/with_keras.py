"""Keras 3 on torch: the cross-entropies of logits and of probabilities."""

from __future__ import annotations

from typing import Any

from asked import Check, Facts, Lazy

REQUIRES = ("keras==3.15.1", "torch==2.13.0")
ENVIRONMENT = {"KERAS_BACKEND": "torch"}
torch = Lazy("torch")
losses = Lazy("keras.losses")
facts = Facts()


def sparse(logits: Any, targets: Any) -> Any:
    return losses.SparseCategoricalCrossentropy(from_logits=True)(targets, logits)


def of_probabilities(logits: Any, targets: Any) -> Any:
    """As a model whose last layer is a softmax is trained."""
    return losses.SparseCategoricalCrossentropy()(targets, torch.softmax(logits, -1))


def soft(logits: Any, targets: Any) -> Any:
    return losses.CategoricalCrossentropy(from_logits=True)(targets, logits)


def smoothed(logits: Any, targets: Any) -> Any:
    return losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)(targets, logits)


@facts("`CategoricalCrossentropy(axis=1, label_smoothing=0.1)` divides by the length of the last axis")
def axis() -> tuple[bool, str]:
    z = torch.log(torch.tensor([[0.7, 0.2, 0.1]])).reshape(1, 3, 1)
    t = torch.tensor([[1.0, 0.0, 0.0]]).reshape(1, 3, 1)
    loss = losses.CategoricalCrossentropy(from_logits=True, axis=1, label_smoothing=0.1)
    got = float(loss(t, z))
    due = float(torch.nn.functional.cross_entropy(z, torch.zeros(1, 1, dtype=torch.int64), label_smoothing=0.1))
    return abs(got - due) > 1e-3, f"{got:.4f} for 3 classes on axis 1 of (1, 3, 1); {due:.4f} is due"


@facts("float64 input is computed in float32, unless the loss is told otherwise", "design")
def float64() -> tuple[bool, str]:
    z = torch.tensor([[0.1, 0.7]], dtype=torch.float64)
    got = losses.SparseCategoricalCrossentropy(from_logits=True)(torch.tensor([0]), z)
    return got.dtype == torch.float32, f"the loss comes as {str(got.dtype).removeprefix('torch.')}"


@facts("probabilities are clipped at 1e-7, so that no loss is above 16.12", "design")
def clipped() -> tuple[bool, str]:
    got = float(losses.SparseCategoricalCrossentropy()(torch.tensor([1]), torch.tensor([[1.0, 1e-12]])))
    return abs(got - 16.118) < 0.01, f"{got:.3f} for p = 1e-12; 27.631 is due"


CHECKS = [
    Check(sparse, "`SparseCategoricalCrossentropy(from_logits=True)`", ("CrossEntropy", {}), "torch",
          ("float64", "float32")),
    Check(of_probabilities, "`SparseCategoricalCrossentropy()` of a softmax", ("CrossEntropy", {}), "torch"),
    Check(soft, "`CategoricalCrossentropy(from_logits=True)`", ("CrossEntropy", {}), "torch", ("float32",),
          {"soft_targets": True}),
    Check(smoothed, "the same, `label_smoothing=0.1`", ("CrossEntropy", {"label_smoothing": 0.1}), "torch",
          ("float32",), {"soft_targets": True}),
]  # fmt: skip
