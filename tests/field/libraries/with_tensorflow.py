"""TensorFlow on the CPU, through three functions."""

from __future__ import annotations

from typing import Any

import numpy as np
from asked import Check, Facts, Lazy

import refloss

REQUIRES = ("tensorflow-cpu==2.21.0",)
ENVIRONMENT = {"TF_CPP_MIN_LOG_LEVEL": "3"}
tf = Lazy("tensorflow")
facts = Facts()


def vjp(function, arrays):
    with tf.GradientTape() as tape:
        tape.watch(arrays)
        value = function(*arrays)
    return value, lambda upstream: tape.gradient(value, arrays, upstream)


framework = refloss.testing.Framework(
    to_array=lambda array, dtype: tf.constant(array), from_array=lambda array: array.numpy(), vjp=vjp, name="tensorflow"
)


def sparse(logits: Any, targets: Any) -> Any:
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits))


def soft(logits: Any, targets: Any) -> Any:
    return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(targets, logits))


@facts("soft targets: the gradient is p − t, right only where Σt = 1, as the documentation asks", "design")
def targets() -> tuple[bool, str]:
    z, t = tf.constant([[0.0, 0.0]]), tf.constant([[0.5, 0.0]])
    with tf.GradientTape() as tape:
        tape.watch(z)
        loss = tf.nn.softmax_cross_entropy_with_logits(t, z)
    got = tape.gradient(loss, z).numpy()[0]
    return bool(np.allclose(got, [0.0, 0.5])), f"{got.tolist()} for t = (0.5, 0), p = (0.5, 0.5); [-0.25, 0.25] is due"


CHECKS = [
    Check(sparse, "`sparse_softmax_cross_entropy_with_logits`", ("CrossEntropy", {}), framework,
          ("float64", "float32", "float16", "bfloat16")),
    Check(soft, "`softmax_cross_entropy_with_logits`", ("CrossEntropy", {}), framework, ("float64", "float32"),
          {"soft_targets": True}),
]  # fmt: skip
