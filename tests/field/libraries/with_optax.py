"""optax and jax: what is in neither of them a loss of its own, and the options."""

from __future__ import annotations

from typing import Any

from asked import ALL, Check, Facts, Lazy

REQUIRES = ("optax==0.2.8", "jax==0.10.2")
jax = Lazy("jax")
jnp = Lazy("jax.numpy")
losses = Lazy("optax.losses")
facts = Facts()


def integer(logits: Any, targets: Any) -> Any:
    return losses.softmax_cross_entropy_with_integer_labels(logits, targets).mean()


def soft(logits: Any, targets: Any) -> Any:
    return losses.safe_softmax_cross_entropy(logits, targets).mean()


def by_log_softmax(logits: Any, targets: Any) -> Any:
    """As jax's own examples write it."""
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.expand_dims(targets, -1), -1)
    return -picked.mean()


CHECKS = [
    Check(integer, "`softmax_cross_entropy_with_integer_labels`", ("CrossEntropy", {}), "jax", ALL),
    Check(soft, "`safe_softmax_cross_entropy`", ("CrossEntropy", {}), "jax", ALL, {"soft_targets": True}),
    Check(by_log_softmax, "`jax.nn.log_softmax`, target picked", ("CrossEntropy", {}), "jax", ALL),
]
