"""PaddlePaddle on the CPU, through three functions."""

from __future__ import annotations

from typing import Any

import numpy as np
from asked import Check, Facts, Lazy

import refloss

REQUIRES = ("paddlepaddle==3.3.1",)
paddle = Lazy("paddle")
F = Lazy("paddle.nn.functional")
facts = Facts()


def vjp(function, arrays):
    arrays = [paddle.assign(array) for array in arrays]
    for array in arrays:
        array.stop_gradient = False
    value = function(*arrays)
    return value, lambda upstream: paddle.grad([value], arrays, [upstream], allow_unused=True)


framework = refloss.testing.Framework(
    to_array=lambda array, dtype: paddle.to_tensor(array),
    from_array=lambda array: array.numpy(),
    vjp=vjp,
    name="paddle",
)


def cross_entropy(logits: Any, targets: Any) -> Any:
    return F.cross_entropy(logits, targets)


def of_axis_1(logits: Any, targets: Any) -> Any:
    return F.cross_entropy(logits, targets, axis=1)


def soft(logits: Any, targets: Any) -> Any:
    return F.cross_entropy(logits, targets, soft_label=True)


@facts("on the CPU the loss stops at 64")
def stops() -> tuple[bool, str]:
    z = paddle.to_tensor(np.array([[0.0, 100.0]], np.float32))
    got = float(F.cross_entropy(z, paddle.to_tensor(np.array([0]))))
    return abs(got - 64) < 1e-3, f"{got:.4f} for logits (0, 100), target 0; 100 is due"


@facts("labels of the default `ignore_index=-100` are counted in the mean")
def counted() -> tuple[bool, str]:
    z = paddle.to_tensor(np.zeros((2, 4), np.float32))
    got = float(F.cross_entropy(z, paddle.to_tensor(np.array([0, -100]))))
    return abs(got - np.log(4) / 2) < 1e-6, f"{got:.4f} for one valid row of two; {np.log(4):.4f} is due"


@facts("`label_smoothing` with `axis=1` divides by the length of the last axis")
def smoothing() -> tuple[bool, str]:
    p = np.log(np.array([0.7, 0.2, 0.1]))
    z = paddle.to_tensor(p.reshape(1, 3, 1).astype(np.float32))
    one_hot = paddle.to_tensor(np.array([1.0, 0.0, 0.0], np.float32).reshape(1, 3, 1))
    got = float(F.cross_entropy(z, one_hot, soft_label=True, axis=1, label_smoothing=0.1))
    due = -(0.9 * p[0] + 0.1 * p.mean())
    return abs(got - due) > 1e-3, f"{got:.4f} for 3 classes on axis 1 of (1, 3, 1); {due:.4f} is due"


@facts("soft targets: the gradient is p − t, right only where Σt = 1", "design")
def targets() -> tuple[bool, str]:
    z = paddle.to_tensor(np.array([[0.0, 0.0]], np.float32), stop_gradient=False)
    t = paddle.to_tensor(np.array([[0.5, 0.0]], np.float32))
    F.cross_entropy(z, t, soft_label=True, reduction="sum").backward()
    got = z.grad.numpy()[0]
    return bool(np.allclose(got, [0.0, 0.5])), f"{got.tolist()} for t = (0.5, 0), p = (0.5, 0.5); [-0.25, 0.25] is due"


CHECKS = [
    Check(cross_entropy, "`F.cross_entropy`", ("CrossEntropy", {}), framework, ("float64", "float32")),
    Check(of_axis_1, "`F.cross_entropy(axis=1)`", ("CrossEntropy", {"axis": 1}), framework, ("float32",)),
    Check(soft, "`F.cross_entropy(soft_label=True)`", ("CrossEntropy", {}), framework, ("float32",),
          {"soft_targets": True}),
]  # fmt: skip
