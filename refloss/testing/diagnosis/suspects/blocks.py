"""Kernels over blocks of classes or rows, and over shards of the classes."""

# mypy: disable-error-code="method-assign, attr-defined"
from __future__ import annotations

import numpy as np

from refloss.testing.diagnosis.suspects import conditions as when
from refloss.testing.diagnosis.suspects.changes import after, from_cosine
from refloss.testing.diagnosis.suspects.registry import Group
from refloss.testing.plain_loss import PlainLoss

suspect = Group("blocks")
BLOCKS = (8, 32, 64, 128, 256, 1024)  # columns or rows of a tile
SHARDS = (2, 4, 8)  # parts of the classes, one per device
SHARDS_BY_HAND_OR_NOT = [(parts, way) for way in ("by hand", "autograd") for parts in SHARDS]


def complete(size: int, block: int) -> int:
    """How many of `size` entries lie in whole blocks; all, where there is but one block."""
    return size - size % block if size > block else size


def classes_counted(k: PlainLoss, times: np.ndarray) -> None:
    """Each class counts so often (C,) in the softmax's sum."""

    def logsumexp(z: np.ndarray) -> np.ndarray:
        seen = np.where(times > 0, z, -np.inf)
        top = seen.max(axis=1)
        return top + np.log(np.sum(times * np.exp(seen - top[:, None]), axis=1))

    if (times != 1).any():
        k.logsumexp = logsumexp
        k.softmax = lambda: np.where(times > 0, np.exp(k.z - k.lse[:, None]), 0.0)
        k.grad_logits = lambda: np.where(times > 0, times * k.p * k.a.sum(axis=1, keepdims=True) - k.a, 0.0)


@suspect(when.every, variants=BLOCKS)
def last_class_block_dropped(k: PlainLoss, block: int) -> None:
    """The classes beyond the last whole block (C mod block) are left out of the softmax, and get no gradient."""
    classes_counted(k, (np.arange(k.C) < complete(k.C, block)) * 1.0)


@suspect(when.every, variants=BLOCKS)
def last_class_block_counted_twice(k: PlainLoss, block: int) -> None:
    """The last block is moved back to end at C, and the classes that it shares with the one before count twice."""
    classes = np.arange(k.C)
    shared = (classes < complete(k.C, block)) & (classes >= k.C - block) & (block < k.C) & (k.C % block != 0)
    classes_counted(k, 1.0 + shared)


def rows_dropped(k: PlainLoss, kept: int) -> None:
    """Rows from `kept` on are never written."""
    rows = np.arange(k.N) < kept
    k.reached &= rows
    after(k, "sample_losses", lambda losses: np.where(rows, losses, 0.0))


@suspect(when.every, "verl-project/verl#2899", BLOCKS)
def padding_counted(k: PlainLoss, block: int) -> None:
    """The last block is padded with logits of 0, and each adds e⁰ to the softmax's sum: probabilities are too
    small."""
    padding, right = -k.C % block, k.logsumexp
    if padding:
        k.logsumexp = lambda z: right(np.pad(z, ((0, 0), (0, padding))))


@suspect(when.every)
def last_row_dropped(k: PlainLoss) -> None:
    """The last sample has loss 0 and gradient 0 (an index runs to N − 1)."""
    rows_dropped(k, k.N - 1)


@suspect(when.every, variants=BLOCKS)
def last_row_block_dropped(k: PlainLoss, block: int) -> None:
    """The samples beyond the last whole block (N mod block) have loss 0 and gradient 0."""
    rows_dropped(k, complete(k.N, block))


@suspect(when.has_features, variants=BLOCKS)
def last_feature_block_dropped(k: PlainLoss, block: int) -> None:
    """Dot products leave out the features beyond the last whole block (D mod block): their gradient is wrong too."""
    D = k.x.shape[1]
    kept = np.arange(D) < complete(D, block)
    if not kept.all():
        from_cosine(k)
        product = k.product
        k.cosines = lambda: (k.x_hat * kept) @ k.W_hat.T
        k.product = lambda left, right: product(left, right) * kept


@suspect(when.every, variants=[(block, way) for way in ("p", "autograd") for block in BLOCKS])
def online_softmax_without_rescaling(k: PlainLoss, variant: tuple[int, str]) -> None:
    """The running sum of exponentials is not rescaled when a later block has a larger logit: the loss is too
    large wherever the largest logit is not in the first block."""
    block, way = variant
    seen: list[tuple[np.ndarray, np.ndarray]] = []  # of each block: e^{z − its maximum}, and where that lies

    def logsumexp(z: np.ndarray) -> np.ndarray:
        seen.clear()
        for start in range(0, k.C, block):
            so_far = z[:, : start + block]
            top = so_far.max(axis=1, keepdims=True)
            seen.append((np.exp(z[:, start : start + block] - top), so_far.argmax(axis=1)))
        return top[:, 0] + np.log(sum(e.sum(axis=1) for e, _ in seen))

    def slope() -> np.ndarray:
        """Through the sum and through every maximum, as automatic differentiation goes."""
        total = sum(e.sum(axis=1) for e, _ in seen)
        p = np.concatenate([e for e, _ in seen], axis=1) / total[:, None]
        rows = np.arange(k.N)
        p[rows, seen[-1][1]] += 1
        for e, at in seen:
            p[rows, at] -= e.sum(axis=1) / total
        return p

    if block < k.C:
        k.logsumexp = logsumexp
        if way == "autograd":
            k.softmax = slope


def shards(k: PlainLoss, parts: int) -> list[np.ndarray]:
    """The classes of every shard."""
    return [part for part in np.array_split(np.arange(k.C), parts) if part.size]


def on_first(k: PlainLoss, parts: int) -> np.ndarray:
    """(C,) bool: the classes of the first shard."""
    return np.arange(k.C) < len(shards(k, parts)[0])


@suspect(when.every, variants=SHARDS_BY_HAND_OR_NOT)
def maxima_added_over_shards(k: PlainLoss, variant: tuple[int, str]) -> None:
    """Classes on several devices: the largest logits are reduced by a sum where it should be a maximum, and
    the sums of exponentials belong to each device's own."""
    parts, way = variant

    def logsumexp(z: np.ndarray) -> np.ndarray:
        tops = [z[:, own].max(axis=1) for own in shards(k, parts)]
        return np.sum(tops, axis=0) + np.log(np.sum([e.sum(axis=1) for e in terms(z)], axis=0))

    def terms(z: np.ndarray) -> list[np.ndarray]:
        return [np.exp(z[:, own] - z[:, own].max(axis=1, keepdims=True)) for own in shards(k, parts)]

    def softmax() -> np.ndarray:
        """The maxima are constants: each term over the sum of all."""
        e = terms(k.z)
        return np.concatenate(e, axis=1) / sum(part.sum(axis=1, keepdims=True) for part in e)

    k.logsumexp = logsumexp
    if way == "autograd":
        k.softmax = softmax


@suspect(
    when.every, "NVIDIA/Megatron-LM#7452", [(parts, where) for where in ("p too", "loss alone") for parts in SHARDS]
)
def loss_plus_log_shards(k: PlainLoss, variant: tuple[int, str]) -> None:
    """Classes on several devices: the sum of exponentials is reduced twice, so that the loss is too large by
    the logarithm of their number and every probability too small by it."""
    parts, where = variant
    right = k.logsumexp
    if where == "p too":
        k.logsumexp = lambda z: right(z) + np.log(len(shards(k, parts)))
    else:
        after(k, "sample_losses", lambda losses: losses + k.a.sum(axis=1) * np.log(parts))


@suspect(when.every, variants=BLOCKS)
def classes_beyond_block_without_gradient(k: PlainLoss, block: int) -> None:
    """The backward writes the first block of classes only: the columns beyond are 0."""
    after(k, "grad_logits", lambda g: np.where(np.arange(k.C) < block, g, 0.0))


@suspect(when.every, variants=SHARDS)
def one_hot_on_first_shard_only(k: PlainLoss, parts: int) -> None:
    """Classes on several devices: the −1 of the target is subtracted only where the class lies on the first
    device."""
    first = on_first(k, parts)
    after(k, "grad_logits", lambda g: np.where(first, g, k.p * k.a.sum(axis=1, keepdims=True)))


@suspect(when.every, "modelscope/ms-swift#9947", SHARDS)
def gradient_on_owner_shard_only(k: PlainLoss, parts: int) -> None:
    """Classes on several devices: only the device that has a sample's class gets a gradient for that sample."""
    owner = np.concatenate([np.full(len(own), part) for part, own in enumerate(shards(k, parts))])
    after(k, "grad_logits", lambda g: np.where(owner == owner[k.y][:, None], g, 0.0))


@suspect(when.has_smoothing, "NVIDIA/Megatron-LM#737", SHARDS)
def smoothing_over_shard(k: PlainLoss, parts: int) -> None:
    """Classes on several devices: label smoothing takes the first device's classes for all of them."""
    first = on_first(k, parts)
    k.smoothed = lambda: (1 - k.smoothing) * k.target + k.smoothing / np.count_nonzero(first) * first


@suspect(when.every, variants=SHARDS_BY_HAND_OR_NOT)
def target_logit_not_reduced(k: PlainLoss, variant: tuple[int, str]) -> None:
    """Classes on several devices: the target's logit is not shared, and counts as 0 unless the first device
    has it."""
    parts, way = variant
    first = on_first(k, parts)
    if way == "autograd":
        after(k, "grad_logits", lambda g: g + np.where(first, 0.0, (1 - k.smoothing) * k.w * k.target))

    def lacking() -> np.ndarray:
        return np.sum(np.where(first, 0.0, k.a * np.where(k.a != 0, k.z, 0)), axis=1)

    after(k, "sample_losses", lambda losses: losses + lacking())
