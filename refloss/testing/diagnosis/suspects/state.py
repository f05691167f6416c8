"""What is kept from an earlier call."""

# mypy: disable-error-code="method-assign, attr-defined"
from __future__ import annotations

import numpy as np

from refloss.testing.diagnosis.suspects import conditions as when
from refloss.testing.diagnosis.suspects.changes import after, from_cosine
from refloss.testing.diagnosis.suspects.registry import Group
from refloss.testing.plain_loss import PlainLoss

suspect = Group("state")


@suspect(when.through_W_norm, variants=("ŵ of the first call", "‖W‖ of the last call"))
def stale_cache(k: PlainLoss, what: str) -> None:
    """ŵ or ‖W_j‖ is kept from an earlier call by W's shape, though W has changed since."""
    if k.previous is None:
        return
    from_cosine(k)
    first = k.previous.earliest or k.previous
    unit, norm = first.W_hat, k.previous.W_norm
    if what == "ŵ of the first call":
        k.W_unit = lambda: unit
    else:
        k.W_length = lambda: norm


@suspect(when.every)
def stale_gradient_buffer(k: PlainLoss) -> None:
    """Gradients are added to those of an earlier call: a buffer is not cleared."""
    if k.previous is not None and k.previous.alike(k):
        before, added = k.previous.stages, ("grad_logits",) if k.bare else ("grad_x", "grad_W", "grad_b")
        after(
            k, "_backward", lambda found: found | {name: found[name] + before[name] for name in added if name in found}
        )


@suspect(when.every, "flashinfer-ai/flashinfer-bench-starter-kit#21")
def result_of_earlier_call(k: PlainLoss) -> None:
    """The arrays returned are those of an earlier call: its memory is used again, or its result kept."""
    if k.previous is not None and k.previous.alike(k):
        stages = {name: np.array(value) for name, value in k.previous.stages.items()}
        k.run = lambda: stages
