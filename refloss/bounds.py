"""The family's bounds as functions: which α, scale or margin can work at all, and how low a loss can go.

Each is a number that a paper derives for unit class weights in an ideal configuration; what it assumes and when it is
reached is in each docstring. Derivation: derivations/bounds.md, steps (B1)–(B8).
"""

from __future__ import annotations

import math
from typing import Any

from refloss import validation as check

__all__ = [
    "a_softmax_smallest_margin",
    "cosface_largest_margin",
    "cosface_smallest_scale",
    "l2_softmax_smallest_alpha",
    "normface_largest_probability",
    "normface_smallest_loss",
]


def l2_softmax_smallest_alpha(probability: float, classes: int, *, opposite_class: bool = False) -> float:
    """The α at which a feature in the direction of its class weight reaches a wanted probability::

        log(p (C − 2) / (1 − p))                             (B2), the paper's
        log(q + √(q² + p/(1 − p))), q = p(C − 2)/(2(1 − p))  (B1), opposite_class=True

    Assumes ‖W_j‖ = 1, no bias, and besides the own class one at the opposite pole and C − 2 at right angles. The paper
    drops the opposite class, e^−α, from the sum, so that its value is a little too small. `refloss.L2Softmax` does not
    normalise W: longer rows need a smaller α. And classes on a regular simplex do with less: `cosface_smallest_scale`.

    Source:
        Ranjan et al., "L2-constrained Softmax Loss for Discriminative Face Verification" (arXiv 1703.09507), the
        lower bound of α.

    Args:
        probability (float): p in (0, 1), what the feature is to reach.
        classes (int): C ≥ 3; C ≥ 2 with opposite_class=True.
        opposite_class (bool): True keeps e^−α of the class at the opposite pole, which is exact for this configuration.

    Returns:
        float: α, the length of the features; not above 0 where p is so small that every α reaches it.

    Raises:
        ValueError: probability not in (0, 1), or too few classes.
        TypeError: classes is no integer, opposite_class no boolean.

    Example:
        >>> print(f"{l2_softmax_smallest_alpha(probability=0.9, classes=10):.4f}")
        4.2767
        >>> print(f"{l2_softmax_smallest_alpha(0.9, 10, opposite_class=True):.4f}")
        4.2784
    """
    p = _probability(probability)
    opposite_class = check.boolean(opposite_class, "opposite_class")
    C = check.count(classes, "classes", 2 if opposite_class else 3)
    if opposite_class:
        # (B1) the positive root e^α of (1 − p) t² − p (C − 2) t − p = 0
        q = p * (C - 2) / (2 * (1 - p))
        return math.log(q + math.sqrt(q**2 + p / (1 - p)))
    return math.log(p * (C - 2) / (1 - p))  # (B2) the same without e^−α


def normface_smallest_loss(classes: int, scale: float) -> float:
    """The least mean loss of normalised features and weights, log(1 + (C − 1) e^(−s C/(C − 1))): step (B3).

    Assumes logits s cos θ without a margin and as many samples of every class; x and W are any. The bound is reached
    where every feature lies on the weight of its class and the weights form a regular simplex, cos θ = −1/(C − 1)
    between any two, which needs C ≤ D + 1; nowhere else if s > 0.

    Source:
        Wang et al., "NormFace" (arXiv 1704.06369), proposition 2, which assumes features on their class weights (not
        needed: derivations/bounds.md) and normalises both to the length ℓ: s = ℓ².

    Args:
        classes (int): C ≥ 2, the paper's n.
        scale (float): s ≥ 0, what cosines are multiplied by. At 0 all classes are equally likely: log C.

    Returns:
        float: the least value of `forward(…).loss` with reduction="mean", natural logarithm.

    Raises:
        ValueError: classes < 2, or scale negative or not finite.
        TypeError: classes is no integer, or scale no real number.

    Example:
        >>> print([round(normface_smallest_loss(classes=C, scale=1), 4) for C in (10, 10575)])
        [1.3769, 8.2663]
    """
    C = check.count(classes, "classes", 2)
    s = check.not_negative(scale, "scale")
    # (B3) every other cosine is −1/(C − 1): the gap of the logits is s + s/(C − 1) = s C/(C − 1)
    return math.log1p((C - 1) * math.exp(-s * C / (C - 1)))


def normface_largest_probability(classes: int, scale: float = 1.0) -> float:
    """The largest probability that logits s cos θ allow, 1 / (1 + (C − 1) e^(−2s)): step (B4).

    Own class at cosine 1, all others at −1. With s = 1, that is without a scale, it is far from 1 for many classes, and
    the loss cannot become small: NormFace's reason for a scale. One sample reaches it where W_j = −W_y for all j; every
    class at once only if C = 2 (otherwise `normface_smallest_loss` says how near they come).

    Source:
        Wang et al., "NormFace" (arXiv 1704.06369), the text before proposition 2.

    Args:
        classes (int): C ≥ 2, the paper's n.
        scale (float): s ≥ 0, the paper's ℓ².

    Returns:
        float: the probability, in [1/C, 1].

    Raises:
        ValueError: classes < 2, or scale negative or not finite.
        TypeError: classes is no integer, or scale no real number.

    Example:
        >>> print([round(normface_largest_probability(classes=C), 5) for C in (10, 1000)])
        [0.45085, 0.00734]
    """
    C = check.count(classes, "classes", 2)
    s = check.not_negative(scale, "scale")
    return 1 / (1 + (C - 1) * math.exp(-2 * s))  # (B4) e^s / (e^s + (C − 1) e^−s)


def cosface_smallest_scale(probability: float, classes: int) -> float:
    """The least s at which all classes can reach a wanted probability, (C − 1)/C log((C − 1) P/(1 − P)): step (B5).

    Assumes logits s cos θ without a margin. Reached by features on their class weights that form a regular simplex,
    which needs C ≤ D + 1; with fewer dimensions more is needed.

    Source:
        Wang et al., "CosFace" (arXiv 1801.09414), eq. (6).

    Args:
        probability (float): P in (0, 1), the least over the classes.
        classes (int): C ≥ 2.

    Returns:
        float: the scale; not above 0 where P ≤ 1/C, which every s reaches.

    Raises:
        ValueError: probability not in (0, 1), or classes < 2.
        TypeError: classes is no integer, or probability no real number.

    Example:
        >>> print([round(cosface_smallest_scale(probability=0.9, classes=C), 4) for C in (10, 10575)])
        [3.955, 11.4623]
    """
    P = _probability(probability)
    C = check.count(classes, "classes", 2)
    return (C - 1) / C * math.log((C - 1) * P / (1 - P))  # (B5) from (B3), solved for s


def cosface_largest_margin(classes: int, dimensions: int) -> float:
    """The largest cosine margin that features on their class weights can meet, 1 − max_{i≠j} cos θ_ij: step (B6)::

        1 − cos(2π/C)     D = 2
        C/(C − 1)         C ≤ D + 1
        1                 C > D + 1 > 3

    The first two are reached, by C directions at equal angles in the plane, and by a regular simplex. Of the third case
    the paper says only "≪ C/(C − 1)"; 1 follows from Rankin's bound, and is reached for C ≤ 2D by D axes and their
    opposites. With more classes the largest margin is smaller still, and no formula is known.

    Source:
        Wang et al., "CosFace" (arXiv 1801.09414), eq. (7); for C > D + 1 Rankin, "The closest packing of spherical
        caps in n dimensions", 1955.

    Args:
        classes (int): C ≥ 2.
        dimensions (int): D ≥ 2, of the features; the paper's K.

    Returns:
        float: the margin as an offset of the cosine, in (0, 2].

    Raises:
        ValueError: classes < 2 or dimensions < 2.
        TypeError: no integers.

    Example:
        >>> print(f"{cosface_largest_margin(classes=8, dimensions=2):.5f}")
        0.29289
        >>> cosface_largest_margin(3, 2), cosface_largest_margin(10575, 512)
        (1.5, 1.0)
    """
    C = check.count(classes, "classes", 2)
    D = check.count(dimensions, "dimensions", 2)
    # (B6) 1 − the least possible largest cosine between two class weights
    if C <= D + 1:
        return C / (C - 1)
    if D == 2:
        return 2 * math.sin(math.pi / C) ** 2  # 1 − cos(2π/C) without cancellation
    return 1.0


def a_softmax_smallest_margin(classes: int) -> float:
    """The least m with which the widest class of A-Softmax is narrower than its nearest neighbour is far::

        2 + √3    C = 2    (B7)
        3         C ≥ 3    (B8)

    Assumes unit class weights, features in their plane, λ = 0; for C ≥ 3 weights at equal angles 2π/C. At the least m
    the two angles are equal. A-Softmax takes integers: the next ones are 4 and 3.

    Source:
        Liu et al., "SphereFace" (arXiv 1704.08063), properties 2 and 3.

    Args:
        classes (int): C ≥ 2.

    Returns:
        float: m, what θ is multiplied by.

    Raises:
        ValueError: classes < 2.
        TypeError: classes is no integer.

    Example:
        >>> print([round(a_softmax_smallest_margin(classes=C), 4) for C in (2, 10575)])
        [3.7321, 3.0]
    """
    C = check.count(classes, "classes", 2)
    if C == 2:
        return 2 + math.sqrt(3)  # (B7) the larger root of m² − 4m + 1 = 0
    return 3.0  # (B8) 2/(m + 1) = (m − 1)/(m + 1)


def _probability(value: Any) -> float:
    p = check.real_number(value, "probability")
    if not 0 < p < 1:
        raise ValueError(f"probability must lie in (0, 1), got {value!r}")
    return p
