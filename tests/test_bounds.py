"""refloss.bounds: the papers' printed values, the losses that reach each bound, and searches that never get past it.

Every bound is met three times: as printed; through a loss's own forward, in the configuration that reaches it; and by a
search over all configurations (scipy.optimize, or angles on a grid), which knows nothing of the formula.
"""

from __future__ import annotations

import inspect
import math

import numpy as np
import pytest
from agreement import in_the_plane
from helpers import assert_printed, near
from scipy.optimize import brentq, minimize
from scipy.special import logsumexp

import refloss
from refloss import bounds

PI = math.pi


def simplex(n):
    """(n, n) unit vectors with cosines −1/(n − 1) to each other."""
    v = np.eye(n) - 1 / n
    return v / np.linalg.norm(v, axis=1)[:, None]


def one_of_a_simplex(n):
    """x (1, 2) and W (n, 2): one sample of a simplex. Its logits depend on the angles only, so a plane holds it."""
    others = np.repeat(in_the_plane(math.acos(-1 / (n - 1))), n - 1, axis=0)
    return in_the_plane(0.0), np.vstack([in_the_plane(0.0), others])


def least(function, shape, seed, tries=2):
    """The least value that BFGS finds from random starts; `function` of an array of this shape."""
    rng = np.random.default_rng(seed)
    starts = rng.normal(size=(tries, int(np.prod(shape))))
    return min(minimize(lambda v: function(v.reshape(shape)), v, options={"gtol": 1e-9}).fun for v in starts)


def unit_rows(v):
    return v / np.linalg.norm(v, axis=1, keepdims=True)


# -- α of L2-constrained softmax -------------------------------------------------------------------

ALPHA = {  # C: the paper's bound and the exact one for p = 0.9
    10: (4.2767, 4.2784),
    100: (6.7822, 6.7822),
    1000: (9.1030, 9.1030),
    10572: (11.4630, 11.4630),
    13403: (11.7003, 11.7003),
    58207: (13.1690, 13.1690),
    100000: (13.7101, 13.7101),
}


@pytest.mark.parametrize("opposite", [False, True], ids=["paper", "exact"])
@pytest.mark.parametrize("C", ALPHA)
def test_l2_softmax_smallest_alpha_as_printed(C, opposite):
    value = bounds.l2_softmax_smallest_alpha(0.9, C, opposite_class=opposite)
    assert_printed(value, ALPHA[C][opposite], 1e-4)


@pytest.mark.parametrize("opposite", [False, True], ids=["paper", "exact"])
@pytest.mark.parametrize("C", [3, 10, 1000])
@pytest.mark.parametrize("p", [0.5, 0.9, 0.999])
def test_l2_softmax_reaches_p_at_the_smallest_alpha(p, C, opposite):
    """Own class aligned, C − 2 orthogonal, and one opposite (exact) or none (the paper's): the loss itself."""
    aligned, away, orthogonal = in_the_plane(0.0, PI, PI / 2)
    orthogonal[0] = away[1] = 0.0  # exactly
    rest = np.repeat(orthogonal[None], C - 2, axis=0)
    W = np.vstack([aligned, away, rest] if opposite else [aligned, rest])
    alpha = bounds.l2_softmax_smallest_alpha(p, C, opposite_class=opposite)
    if alpha <= 0:  # p = 0.5 of two classes at right angles
        assert (p, C, opposite) == (0.5, 3, False)
        return
    out = refloss.L2Softmax(alpha=alpha).forward(7.0 * aligned[None], W, [0])
    # a rounding of α moves p by α p (1 − p) of it
    assert out.probabilities[0, 0] == near(p, 1e-14)


def test_two_classes_are_each_others_opposite():
    """C = 2: p = e^α/(e^α + e^−α), so α = log(p/(1 − p))/2."""
    value = bounds.l2_softmax_smallest_alpha(0.9, 2, opposite_class=True)
    assert value == near(math.log(9) / 2, 1e-15)


# -- NormFace --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "printed"), [(10, 1.3769), (1000, 5.9085)], ids=["n10", "n1000"])
def test_normface_smallest_loss_on_a_simplex(n, printed):
    """Features on the weights of a regular simplex, ℓ = 1: AM-Softmax without a margin and s = 1, and W-Norm softmax
    with ‖x‖ = 1, have the least loss."""
    W, labels = simplex(n), np.arange(n)
    bound = bounds.normface_smallest_loss(n, scale=1)
    assert_printed(bound, printed, 1e-4)
    for loss in (refloss.AMSoftmax(margin=0, scale=1), refloss.WNormSoftmax()):
        # the simplex's own cosines are right to a few roundings
        assert loss.forward(W, W, labels).loss == near(bound, 1e-13)


NORMFACE_10575 = {  # s = ℓ² against the bound for the 10575 identities of CASIA; figure 5 of NormFace
    0: (9.2662, 1e-4),
    1: (8.2663, 1e-4),
    2: (7.2667, 1e-4),
    5: (4.2796, 1e-4),
    10: (0.39178, 1e-5),
    16: (1.187e-3, 1e-6),
    20: (2.175e-5, 1e-8),
    30: (9.87e-10, 1e-12),
}


@pytest.mark.parametrize("s", NORMFACE_10575, ids=lambda s: f"s{s}")
def test_normface_smallest_loss_of_casia(s):
    n, (printed, last_digit) = 10575, NORMFACE_10575[s]
    bound = bounds.normface_smallest_loss(n, scale=s)
    assert_printed(bound, printed, last_digit)
    x, W = one_of_a_simplex(n)
    value = refloss.WNormSoftmax().forward(s * x, W, [0]).loss  # ‖x‖ in the place of s
    # a logit is rounded to 2^-53 of s, and the loss moves as much, relative to itself where it is small
    assert value == near(bound, 1e-12)


@pytest.mark.parametrize("s", [1.0, 4.0], ids=lambda s: f"s{s:g}")
@pytest.mark.parametrize(("C", "D"), [(2, 2), (3, 2), (4, 3), (4, 5)])
def test_no_features_and_weights_are_below_normfaces_loss(C, D, s):
    """The least loss over all unit x and W, found by BFGS: the bound where a simplex fits, C ≤ D + 1. The paper fixes
    x = W; the features here are free."""

    def loss(v):
        z = s * unit_rows(v[:C]) @ unit_rows(v[C:]).T
        return np.mean(logsumexp(z, axis=1) - np.diag(z))

    # a minimum found with a gradient of 1e-9 (BFGS' own differences: 1e-7) is off by that squared over the curvature
    assert least(loss, (2 * C, D), seed=C) == near(bounds.normface_smallest_loss(C, scale=s), 1e-9)


def test_normfaces_loss_is_not_reached_without_room_for_a_simplex():
    """Five classes in the plane: the least loss lies above the bound."""

    def loss(v):
        z = 4 * unit_rows(v[:5]) @ unit_rows(v[5:]).T
        return np.mean(logsumexp(z, axis=1) - np.diag(z))

    assert least(loss, (10, 2), seed=1) > 1.05 * bounds.normface_smallest_loss(5, scale=4)


@pytest.mark.parametrize("s", [1.0, 5.0, 30.0], ids=lambda s: f"s{s:g}")
def test_normface_bound_is_a_lower_bound(s):
    """A balanced batch of three samples a class, features anywhere, is never below it; 50 random W and x."""
    rng, n = np.random.default_rng(3), 10
    loss = refloss.AMSoftmax(margin=0, scale=s)
    labels = np.tile(np.arange(n), 3)
    for _ in range(50):
        W = rng.normal(size=(n, 12))
        x = W[labels] + rng.uniform(0, 1) * rng.normal(size=(3 * n, 12))
        assert loss.forward(x, W, labels).loss > bounds.normface_smallest_loss(n, scale=s)


@pytest.mark.parametrize(
    ("n", "printed", "last_digit"), [(10, 0.4509, 1e-4), (1000, 0.00734, 1e-5)], ids=["n10", "n1000"]
)
def test_normface_largest_probability_without_a_scale(n, printed, last_digit):
    """ℓ = 1, own class at cosine 1 and all others at −1; 0.45 and 0.007 in the paper."""
    bound = bounds.normface_largest_probability(n)
    assert_printed(bound, printed, last_digit)
    W = np.vstack([in_the_plane(0.0), np.repeat(in_the_plane(PI), n - 1, axis=0)])
    p = refloss.AMSoftmax(margin=0, scale=1).forward(in_the_plane(0.0), W, [0]).probabilities[0, 0]
    assert p == near(bound, 1e-14)


# -- CosFace ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "printed"),
    [(10, 3.9550), (100, 6.7244), (1000, 9.0949), (10575, 11.4623), (85742, 13.5562)],
    ids=["C10", "C100", "C1000", "C10575", "C85742"],
)
def test_cosface_smallest_scale(n, printed):
    """The s at which a simplex reaches P = 0.9: as printed, and as a root found with the loss."""
    bound = bounds.cosface_smallest_scale(0.9, n)
    assert_printed(bound, printed, 1e-4)
    x, W = one_of_a_simplex(n)

    def excess(s):
        return float(refloss.CosFace(margin=0, scale=s).forward(x, W, [0]).probabilities[0, 0]) - 0.9

    # p is rounded, and its slope in s is p (1 − p) or so
    assert brentq(excess, 1.0, 40.0, xtol=1e-12) == near(bound, 2.5e-12)


@pytest.mark.parametrize(("C", "D"), [(3, 2), (4, 3)])
def test_below_cosfaces_scale_no_arrangement_reaches_p(C, D):
    """At the bound itself, the largest probability that the worst class can have, over all unit x and W, is P."""
    P, sharpness = 0.9, 20.0

    def worst_loss(v):
        z = bounds.cosface_smallest_scale(P, C) * unit_rows(v[:C]) @ unit_rows(v[C:]).T
        losses = logsumexp(z, axis=1) - np.diag(z)
        # a smooth maximum, above the largest by at most log(C)/sharpness, and by that much where all are equal
        return logsumexp(sharpness * losses) / sharpness - math.log(C) / sharpness

    assert least(worst_loss, (2 * C, D), seed=0) == near(-math.log(P), 1e-9)


def test_cosface_largest_margin_as_printed():
    """8 identities in the plane: "about 0.29" (the paper's section 3.4); a simplex: C/(C − 1)."""
    assert_printed(bounds.cosface_largest_margin(8, 2), 0.29289, 1e-5)
    assert bounds.cosface_largest_margin(8, 2) == near(1 - math.cos(PI / 4), 1e-15)
    assert bounds.cosface_largest_margin(3, 2) == 1.5
    assert bounds.cosface_largest_margin(3, 2) == near(1 - math.cos(2 * PI / 3), 1e-15)
    assert bounds.cosface_largest_margin(10, 9) == near(10 / 9, 1e-15)
    assert bounds.cosface_largest_margin(11, 9) == 1.0


@pytest.mark.parametrize(
    ("C", "D", "reached"), [(5, 2, True), (8, 2, True), (4, 3, True), (5, 3, True), (6, 3, True), (8, 3, False)]
)
def test_no_weights_leave_more_room_than_cosfaces_margin(C, D, reached):
    """The smallest largest cosine of C unit vectors in D dimensions, by BFGS on a soft maximum of growing sharpness."""
    upper = np.triu_indices(C, 1)

    def largest(v, sharpness):
        cosines = (unit_rows(v) @ unit_rows(v).T)[upper]
        return logsumexp(sharpness * cosines) / sharpness

    rng, best = np.random.default_rng(C + D), math.inf
    for v in rng.normal(size=(8, C * D)):
        for sharpness in (10.0, 100.0, 1000.0):
            v = minimize(lambda v, k=sharpness: largest(v.reshape(C, D), k), v).x
        w = unit_rows(v.reshape(C, D))
        best = min(best, float(np.max((w @ w.T)[upper])))
    found, bound = 1 - best, bounds.cosface_largest_margin(C, D)
    assert found <= bound * (1 + 1e-12)
    # the soft maximum exceeds the largest cosine by up to log(28)/1000
    assert (found > bound - 4e-3) == reached


def test_cosface_meets_its_largest_margin():
    """Features on equally spaced weights in the plane: at the bound the target's logit equals the neighbour's."""
    W = in_the_plane(*np.arange(8) * PI / 4)
    out = refloss.CosFace(scale=1, margin=bounds.cosface_largest_margin(8, 2)).forward(W, W, np.arange(8))
    own = np.diag(out.logits)
    others = np.where(np.eye(8, dtype=bool), -np.inf, out.logits).max(axis=1)
    # cosines of unit rows, rounded a few times, relative to s = 1
    np.testing.assert_allclose(own, others, rtol=0, atol=4e-16)


# -- A-Softmax -------------------------------------------------------------------------------------


def arc(m, t, way):
    """How far class 1's region reaches from W₁ at angle 0 in the plane, W₂ at t: the first angle on this side
    (way = ±1) where m θ₁ = θ₂, on a grid. For real m; up to θ₁ = π/m that is A-Softmax's boundary, ψ = cos mθ."""
    theta_1 = np.linspace(0, PI / m, 200_001)
    at = way * theta_1
    theta_2 = np.abs(np.angle(np.exp(1j * (at - t))))
    outside = m * theta_1 > theta_2
    return theta_1[np.argmax(outside)] if outside.any() else PI / m


def gap_less_width_of_two(m, t):
    """The smallest angle between features of two classes less the largest within one: may it be negative?"""
    towards, away = arc(m, t, 1), arc(m, t, -1)
    between = min(t - 2 * towards, 2 * PI - t - 2 * away)
    return between - (towards + away)


@pytest.mark.parametrize("degrees", [20, 60, 90, 130, 160, 179])
def test_a_softmax_smallest_margin_of_two_classes_by_brute_force(degrees):
    """Just above 2 + √3 the condition holds at every angle between the weights; just below it fails where the far
    boundary is t/(m − 1)."""
    t, bound = math.radians(degrees), bounds.a_softmax_smallest_margin(2)
    assert_printed(bound, 3.7321, 1e-4)
    # the grid's angles are off by π/(m · 200000) = 5e-6; 1 % of m moves the difference by more
    assert gap_less_width_of_two(1.01 * bound, t) > 0
    if t <= 0.99 * (bound - 1) * PI / bound:
        assert gap_less_width_of_two(0.99 * bound, t) < 0


@pytest.mark.parametrize("degrees", [20, 60, 130])
def test_a_softmax_of_integers_keeps_four_and_not_three(degrees):
    """Through the loss: with two classes m = 4 meets the condition, m = 3 does not."""
    t = math.radians(degrees)
    W = in_the_plane(0.0, t)
    for m, holds in ((3, False), (4, True)):
        loss = refloss.ASoftmax(margin=m)

        def edge(way, loss=loss):
            return brentq(lambda a: float(loss.decision_boundary(in_the_plane(way * a), W)[0]), 0.0, PI)

        towards, away = edge(1), edge(-1)
        assert (towards + away <= t - 2 * towards) == holds


@pytest.mark.parametrize("C", [3, 4, 7, 12])
def test_a_softmax_smallest_margin_of_many_classes_by_brute_force(C):
    """C weights around the circle: class 1 keeps the features that every other class's condition leaves to it."""
    others = 2 * PI * np.arange(1, C) / C

    def gap_less_width(m):
        edge = min(arc(m, t, 1) for t in others)
        return 2 * PI / C - 2 * edge - 2 * edge

    bound = bounds.a_softmax_smallest_margin(C)
    assert bound == 3
    assert gap_less_width(1.01 * bound) > 0
    assert gap_less_width(0.99 * bound) < 0


# -- what is refused -------------------------------------------------------------------------------

CALLS = {
    "alpha": (bounds.l2_softmax_smallest_alpha, {"probability": 0.9, "classes": 10}),
    "loss": (bounds.normface_smallest_loss, {"classes": 10, "scale": 1.0}),
    "probability": (bounds.normface_largest_probability, {"classes": 10, "scale": 1.0}),
    "scale": (bounds.cosface_smallest_scale, {"probability": 0.9, "classes": 10}),
    "cosine margin": (bounds.cosface_largest_margin, {"classes": 10, "dimensions": 3}),
    "multiplier": (bounds.a_softmax_smallest_margin, {"classes": 10}),
}
BAD = {
    "probability": [0, 1, -0.1, 1.5, math.nan, math.inf, "0.9", True, [0.9]],
    "classes": [1, 0, -3, 2**53 + 1, 10.0, "10", True, None],
    "scale": [-1, math.nan, math.inf, "1", True],
    "dimensions": [1, 0, 2.0, True],
}


@pytest.mark.parametrize("call", CALLS)
def test_bad_arguments_are_named(call):
    """Each argument outside its domain: an error that begins with its name."""
    function, good = CALLS[call]
    assert math.isfinite(function(**good))
    for name in good:
        for value in BAD[name]:
            with pytest.raises((ValueError, TypeError), match=f"^{name} must"):
                function(**{**good, name: value})
    assert set(good) <= set(inspect.signature(function).parameters)


def test_two_classes_need_the_opposite_one():
    with pytest.raises(ValueError, match=r"^classes must be an integer from 3"):
        bounds.l2_softmax_smallest_alpha(0.9, 2)
    with pytest.raises(TypeError, match=r"^opposite_class must be True or False"):
        bounds.l2_softmax_smallest_alpha(0.9, 5, opposite_class=1)


def test_every_bound_is_called_here():
    assert {function.__name__ for function, _ in CALLS.values()} == set(bounds.__all__)
