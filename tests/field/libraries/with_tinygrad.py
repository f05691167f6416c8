"""tinygrad on the CPU, for which it needs clang, through three functions."""

from __future__ import annotations

from typing import Any

from asked import Check, Facts, Lazy

import refloss

REQUIRES = ("tinygrad==0.14.0",)
tinygrad = Lazy("tinygrad")
facts = Facts()


def vjp(function, arrays):
    value = function(*arrays)
    return value, lambda upstream: value.gradient(*arrays, gradient=upstream)


framework = refloss.testing.Framework(
    to_array=lambda array, dtype: tinygrad.Tensor(array),
    from_array=lambda array: array.numpy(),
    vjp=vjp,
    name="tinygrad",
)


def sparse(logits: Any, targets: Any) -> Any:
    return logits.sparse_categorical_crossentropy(targets)


def soft(logits: Any, targets: Any) -> Any:
    return logits.cross_entropy(targets)


CHECKS = [
    Check(sparse, "`sparse_categorical_crossentropy`", ("CrossEntropy", {}), framework, ("float32",),
          {"cases": ["typical", "confident", "logits_1e4", "anti_confident"]}),
    Check(soft, "`cross_entropy` of soft targets, axis 1", ("CrossEntropy", {"axis": 1}), framework, ("float32",),
          {"cases": ["typical", "confident", "logits_1e4", "anti_confident"], "soft_targets": True}),
]  # fmt: skip
