"""The right formula in fewer digits."""

# mypy: disable-error-code="method-assign, attr-defined"
from __future__ import annotations

import numpy as np

from refloss.precision.dtypes import DTYPES, DType, rounded
from refloss.testing.diagnosis.suspects import conditions as when
from refloss.testing.diagnosis.suspects.changes import after, from_cosine, only_while
from refloss.testing.diagnosis.suspects.registry import Group
from refloss.testing.plain_loss import PlainLoss

suspect = Group("precision")
BF16, FP16, FP32 = DTYPES["bfloat16"], DTYPES["float16"], DTYPES["float32"]
TF32 = DType("tf32", 11, -126, (2 - 2.0**-10) * 2.0**127)


def accumulated(left: np.ndarray, right: np.ndarray, dtype: DType, chunk: int) -> np.ndarray:
    """left @ right whose running sum is rounded after every chunk of terms."""
    total = np.zeros((len(left), right.shape[1]))
    for start in range(0, left.shape[1], chunk):
        part = slice(start, start + chunk)
        total = rounded(total + left[:, part] @ right[part], dtype)
    return total


@suspect(when.has_features, "pytorch/pytorch#53635")
def tf32(k: PlainLoss) -> None:
    """Matrix products read their operands with 11 digits (TF32): cosines are off by up to 1e-3."""
    from_cosine(k)
    k.product = lambda left, right: rounded(left, TF32) @ rounded(right, TF32)


@suspect(when.has_features, variants=(1, 32))
def bf16_accumulation(k: PlainLoss, chunk: int) -> None:
    """Dot products are accumulated in bfloat16: errors grow with the number of terms."""
    from_cosine(k)
    k.product = lambda left, right: accumulated(left, right, BF16, chunk)


@suspect(when.has_features, "linkedin/Liger-Kernel#830", (1, 32))
def bf16_gradient_accumulation(k: PlainLoss, chunk: int) -> None:
    """grad_W is accumulated over blocks of samples in bfloat16: small contributions are lost."""
    only_while(k, "grad_W", product=lambda: lambda left, right: accumulated(left, right, BF16, chunk))


def round_after(k: PlainLoss, dtype: DType, *steps: str) -> None:
    for step in steps:
        after(k, step, lambda result: rounded(result, dtype))


def round_logits(k: PlainLoss, dtype: DType) -> None:
    if k.bare:
        k.logits_given = rounded(k.logits_given, dtype)
    else:
        round_after(k, dtype, "logits")


@suspect(when.every, "ydwen/opensphere:opensphere/module/head/arcface.py")
def fp16_logits(k: PlainLoss) -> None:
    """The logits are stored in float16 before the softmax: probabilities are off by 3 % at a logit of 64."""
    round_logits(k, FP16)


@suspect(when.every)
def bf16_logits(k: PlainLoss) -> None:
    """The logits are stored in bfloat16 before the softmax: probabilities are off by up to 28 % at a logit of 64."""
    round_logits(k, BF16)


@suspect(when.every, "linkedin/Liger-Kernel#1268", ("bfloat16", "float16"))
def p_rounded(k: PlainLoss, dtype: str) -> None:
    """The probabilities are rounded before the one-hot is subtracted: the target's gradient has no digit left
    on confident samples."""
    round_after(k, DTYPES[dtype], "softmax")


@suspect(when.has_features)
def cos_in_bf16(k: PlainLoss) -> None:
    """The cosines are rounded to bfloat16 before margin and scale: logits are off by 0.2 % of the scale."""
    from_cosine(k)
    round_after(k, BF16, "cosines")


def round_gradients(k: PlainLoss, dtype: DType) -> None:
    after(k, "_backward", lambda found: {name: rounded(grad, dtype) for name, grad in found.items()})


@suspect(when.every, variants=("results", "grad_logits too"))
def bf16_gradients(k: PlainLoss, what: str) -> None:
    """Gradients are stored in bfloat16: the results, or grad_logits before the matrix products too."""
    if not k.bare and what == "grad_logits too":
        after(k, "grad_logits", lambda g: _rounded_share(k, g))
    round_gradients(k, BF16)


def _rounded_share(k: PlainLoss, g: np.ndarray) -> np.ndarray:
    """g such that its product with the sample's share is a bfloat16."""
    share = k.share()[:, None]
    return rounded(share * g, BF16) / np.where(share != 0, share, 1.0)


@suspect(when.every, "linkedin/Liger-Kernel#1372")
def bf16_loss(k: PlainLoss) -> None:
    """The losses and their sum are stored in bfloat16: three digits are left."""
    round_after(k, BF16, "sample_losses", "reduce")


@suspect(when.every)
def float32_inside(k: PlainLoss) -> None:
    """float64 input is computed in float32: seven digits are left."""
    round_logits(k, FP32)
    if not k.bare:
        from_cosine(k)
        k.x, k.W = rounded(k.x, FP32), rounded(k.W, FP32)
        round_after(k, FP32, "cosines")
    round_after(k, FP32, "logsumexp", "softmax", "sample_losses", "reduce")
    round_gradients(k, FP32)
