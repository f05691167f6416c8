"""`decision_boundary` is Table 1 of the survey wherever the table's formula is the loss's own.

Table 1 (Deng et al., arXiv 1801.07698v1), class 1 of two, θ_j the angle between x and W_j:

    softmax             (W₁ − W₂)·x + b₁ − b₂          CosFace  s (cos θ₁ − m − cos θ₂)
    W-Norm softmax      ‖x‖ (cos θ₁ − cos θ₂)          ArcFace  s (cos(θ₁ + m) − cos θ₂)
    SphereFace          ‖x‖ (cos mθ₁ − cos θ₂)
    F-Norm SphereFace   s (cos mθ₁ − cos θ₂)

SphereFace's rows hold for θ₁ ≤ π/m and λ = 0, ArcFace's for θ₁ ≤ π − m or past_pi="cos". Everything
is compared with mpmath, at 40 digits, from the formulas alone.
"""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
from agreement import in_the_plane
from scipy.optimize import brentq

import refloss
from refloss.cases.angles import place

PI = np.pi

# loss, whether it has a bias
LOSSES = {
    "softmax": (refloss.Softmax(), False),
    "softmax_bias": (refloss.Softmax(), True),
    "weighted_softmax_bias": (refloss.WeightedSoftmax(class_weights=[0.2, 5.0]), True),
    "w_norm_softmax": (refloss.WNormSoftmax(), False),
    "w_norm_softmax_weighted": (refloss.WNormSoftmax(class_weights=[0.2, 5.0]), False),
    "l2_softmax": (refloss.L2Softmax(alpha=16), False),
    "l2_softmax_bias": (refloss.L2Softmax(alpha=16), True),
    "cosface": (refloss.CosFace(scale=30, margin=0.35), False),
    "cosface_weighted": (refloss.CosFace(scale=30, margin=0.35, class_weights=[0.2, 5.0]), False),
    "arcface": (refloss.ArcFace(scale=64, margin=0.5), False),
    "arcface_weighted": (refloss.ArcFace(scale=64, margin=0.5, class_weights=[0.2, 5.0]), False),
    "arcface_linear": (refloss.ArcFace(scale=64, margin=0.5, past_pi="linear"), False),
    "arcface_easy": (refloss.ArcFace(scale=64, margin=0.5, easy_margin=True), False),
    "arcface_detached": (refloss.ArcFace(scale=64, margin=0.5, detach_margin=True), False),
}
for _m in (1, 2, 3, 4):
    LOSSES[f"l_softmax_{_m}"] = (refloss.LSoftmax(margin=_m), False)
    LOSSES[f"sphereface_{_m}"] = (refloss.SphereFace(margin=_m), False)
    LOSSES[f"f_norm_sphereface_{_m}"] = (refloss.FNormSphereFace(scale=64, margin=_m), False)
LOSSES["l_softmax_4_weighted"] = (refloss.LSoftmax(margin=4, class_weights=[0.2, 5.0]), False)
LOSSES["sphereface_4_lambda_5"] = (refloss.SphereFace(margin=4, annealing=5), False)
LOSSES["f_norm_sphereface_4_lambda_5"] = (refloss.FNormSphereFace(scale=64, margin=4, annealing=5), False)

every_loss = pytest.mark.parametrize("name", LOSSES)


# -- the formulas, in mpmath -----------------------------------------------------------------------


def exact(row):
    return [mpmath.mpf(float(v)) for v in row]


def dot(u, v):
    return mpmath.fsum(a * b for a, b in zip(u, v, strict=True))


def norm(v):
    return mpmath.sqrt(dot(v, v))


def angle(x, w):
    """θ without arccos' loss of digits: 2 atan2(‖x̂ − ŵ‖, ‖x̂ + ŵ‖), Kahan."""
    x_norm, w_norm = norm(x), norm(w)
    minus = norm([a / x_norm - b / w_norm for a, b in zip(x, w, strict=True)])
    plus = norm([a / x_norm + b / w_norm for a, b in zip(x, w, strict=True)])
    return 2 * mpmath.atan2(minus, plus)


def angles_to(w, x):
    """(N,) the angles of the rows of x to w."""
    return np.array([float(angle(exact(row), exact(w))) for row in x])


def radii(loss, x, w1, w2):
    """r(‖x‖, ‖W₁‖) and r(‖x‖, ‖W₂‖)."""
    match loss:
        case refloss.L2Softmax():
            return loss.alpha * norm(w1), loss.alpha * norm(w2)
        case refloss.Softmax() | refloss.LSoftmax():
            return norm(x) * norm(w1), norm(x) * norm(w2)
        case refloss.WNormSoftmax() | refloss.ASoftmax():
            return norm(x), norm(x)
        case _:
            return loss.scale, loss.scale


def target_psi(loss, theta):
    """ψ(θ₁) of the loss, options included."""
    cos = mpmath.cos(theta)
    match loss:
        case refloss.AMSoftmax():
            return cos - loss.margin
        case refloss.ArcFace():
            m = mpmath.mpf(loss.margin)
            if loss.easy_margin and theta >= mpmath.pi / 2:
                return cos
            if loss.past_pi == "linear" and theta >= mpmath.pi - m:
                return cos - m * mpmath.sin(m)
            return mpmath.cos(theta + m)
        case refloss.LSoftmax() | refloss.ASoftmax() | refloss.FNormSphereFace():
            k = min(int(mpmath.floor(loss.margin * theta / mpmath.pi)), loss.margin - 1)
            psi = (-1) ** k * mpmath.cos(loss.margin * theta) - 2 * k
            annealing = mpmath.mpf(loss.annealing)
            return (annealing * cos + psi) / (1 + annealing)
        case _:
            return cos


def formula_of_table_1(loss, x, w1, w2, b1, b2):
    """Table 1 as it stands, with L-Softmax's and L2-softmax's rows in its manner."""
    r1, r2 = radii(loss, x, w1, w2)
    theta1, theta2 = angle(x, w1), angle(x, w2)
    match loss:
        case refloss.L2Softmax():
            return loss.alpha / norm(x) * (dot(w1, x) - dot(w2, x)) + b1 - b2
        case refloss.Softmax():
            return dot([a - b for a, b in zip(w1, w2, strict=True)], x) + b1 - b2
        case refloss.AMSoftmax():
            return loss.scale * (mpmath.cos(theta1) - loss.margin - mpmath.cos(theta2))
        case refloss.ArcFace():
            return loss.scale * (mpmath.cos(theta1 + loss.margin) - mpmath.cos(theta2))
        case refloss.WNormSoftmax():
            return norm(x) * (mpmath.cos(theta1) - mpmath.cos(theta2))
        case _:
            return r1 * mpmath.cos(loss.margin * theta1) - r2 * mpmath.cos(theta2)


def own_difference(loss, x, w1, w2, b1, b2):
    """r₁ψ(θ₁) + b₁ − (r₂ cos θ₂ + b₂): target logit minus the other plain logit."""
    r1, r2 = radii(loss, x, w1, w2)
    return r1 * target_psi(loss, angle(x, w1)) + b1 - r2 * mpmath.cos(angle(x, w2)) - b2


def in_mpmath(formula, loss, x, W, b):
    """(N,) of a formula above, rounded from 40 digits."""
    with mpmath.workdps(40):
        w1, w2 = exact(W[0]), exact(W[1])
        b1, b2 = exact([0, 0] if b is None else b)
        return np.array([float(formula(loss, exact(row), w1, w2, b1, b2)) for row in x])


def rounding_bound(loss, x, W, b):
    """(N,) |decision_boundary − its real value|, stated generously: (D + 16) roundings of both logits' sizes,
    (1 + 2m) r with m the multiplier of the angle, which stretches the rounding of θ by m and |ψ| to 2m − 1."""
    m = loss.margin if isinstance(loss, (refloss.LSoftmax, refloss.ASoftmax, refloss.FNormSphereFace)) else 1
    with mpmath.workdps(40):
        w1, w2 = exact(W[0]), exact(W[1])
        r = np.array([float(sum(radii(loss, exact(row), w1, w2))) for row in x])
    size = (1 + 2 * m) * r + (0 if b is None else np.abs(b).sum())
    return (x.shape[1] + 16) * np.finfo(float).eps / 2 * size


# -- the inputs ------------------------------------------------------------------------------------


def pairs_of_rows(D):
    """Three W (2, D): at 50°, at 2.9 rad, nearly parallel; of different norms."""
    rng = np.random.default_rng(D)
    for between in (np.radians(50), 2.9, 1e-3):
        w1 = rng.normal(size=(1, D))
        w2 = place(rng, w1, np.array([0]), between, 1.0)
        yield np.vstack([1.3 * w1, 0.7 * w2])


def features_around(W, rng):
    """x at 39 angles to W₁ between 0 and π, of norms 0.1 … 10, in random directions, and 21 Gaussian ones."""
    theta = np.linspace(0.02, PI - 0.02, 39)
    x = place(rng, W, np.zeros(39, dtype=int), theta, 10.0 ** rng.uniform(-1, 1, 39))
    return np.vstack([x, rng.normal(size=(21, W.shape[1]))])


def inputs(name, D):
    """(loss, x, W, b) for each pair of rows."""
    loss, has_bias = LOSSES[name]
    rng = np.random.default_rng(1)
    for W in pairs_of_rows(D):
        yield loss, features_around(W, rng), W, np.array([0.3, -0.45]) if has_bias else None


dimensions = pytest.mark.parametrize("D", [2, 6], ids=["D2", "D6"])


def multiplier(loss):
    return getattr(loss, "margin", 1) if isinstance(getattr(loss, "margin", None), int) else 1


def where_table_1_holds(loss, x, W):
    """(N,) bool: the table's formula is the loss's own there."""
    theta1 = angles_to(W[0], x)
    if getattr(loss, "annealing", 0):
        return np.zeros(len(x), dtype=bool)
    if isinstance(loss, refloss.ArcFace):
        holds = np.ones(len(x), dtype=bool)
        if loss.past_pi == "linear":
            holds &= theta1 < PI - loss.margin
        if loss.easy_margin:
            holds &= theta1 < PI / 2
        return holds
    return theta1 <= PI / multiplier(loss)


# -- the properties --------------------------------------------------------------------------------


@dimensions
@every_loss
def test_sign_is_that_of_target_logit_minus_other_logit(name, D):
    """Its sign is the sign of (target logit − other logit), of the loss's own forward and of the formula in
    mpmath, wherever that difference is beyond the rounding bound; and its value is within that bound."""
    decided = total = 0
    for loss, x, W, b in inputs(name, D):
        got = loss.decision_boundary(x, W, b)
        assert got.shape == (len(x),)
        bound = rounding_bound(loss, x, W, b)
        due = in_mpmath(own_difference, loss, x, W, b)
        z = loss.forward(x, W, np.zeros(len(x), dtype=int), b).logits
        for difference in (due, z[:, 0] - z[:, 1]):
            beyond = np.abs(difference) > bound
            np.testing.assert_array_equal(np.sign(got[beyond]), np.sign(difference[beyond]))
            assert np.all(np.abs(got - difference) <= bound)
        decided, total = decided + np.count_nonzero(np.abs(due) > bound), total + len(x)
    assert decided == total  # no row of these inputs hides behind the bound


@every_loss
def test_sign_changes_where_the_real_difference_does(name):
    """Within 1e-9 of the boundary, on either side: x on the arc from W₁ to W₂, the boundary found on
    decision_boundary itself, the signs those of the formula in mpmath."""
    loss, has_bias = LOSSES[name]
    W = np.vstack([1.3 * in_the_plane(0.0), 0.7 * in_the_plane(1.9)])
    b = np.array([0.3, -0.45]) if has_bias else None

    def difference(theta):
        return float(loss.decision_boundary(2 * in_the_plane(theta), W, b)[0])

    root = brentq(difference, 0.0, 1.9, xtol=1e-15, rtol=1e-15)
    x = 2 * in_the_plane(root - 1e-9, root + 1e-9)
    due = in_mpmath(own_difference, loss, x, W, b)
    assert np.all(np.abs(due) > rounding_bound(loss, x, W, b))
    np.testing.assert_array_equal(np.sign(due), [1, -1])
    np.testing.assert_array_equal(np.sign(loss.decision_boundary(x, W, b)), [1, -1])


@dimensions
@every_loss
def test_equals_table_1_where_its_formula_is_the_losss_own(name, D):
    """Within the rounding bound of Table 1's formula for θ₁ ≤ π/m and λ = 0 (ψ), θ₁ ≤ π − m or past_pi="cos"
    (ArcFace), θ₁ < π/2 (easy_margin), and everywhere for the losses without such a limit."""
    compared = total = 0
    for loss, x, W, b in inputs(name, D):
        holds = where_table_1_holds(loss, x, W)
        got = loss.decision_boundary(x, W, b)
        due = in_mpmath(formula_of_table_1, loss, x, W, b)
        assert np.all(np.abs(got - due)[holds] <= rounding_bound(loss, x, W, b)[holds])
        compared, total = compared + np.count_nonzero(holds), total + len(x)
    loss = LOSSES[name][0]
    if getattr(loss, "annealing", 0):
        assert compared == 0
    elif multiplier(loss) > 1 or "linear" in name or "easy" in name:
        assert 0 < compared < total
    else:
        assert compared == total


@pytest.mark.parametrize("name", ["sphereface_2", "sphereface_3", "sphereface_4", "l_softmax_4", "f_norm_sphereface_3"])
def test_cosine_of_the_multiplied_angle_is_not_the_loss_beyond_pi_over_m(name):
    """Beyond π/m the loss's target logit is at most −r, so decision_boundary is negative for rows of W of equal
    norms, while cos mθ₁ − cos θ₂ has no fixed sign: at x half a turn from W₁ and θ₁ = 2π/m it is positive."""
    loss, _ = LOSSES[name]
    m = loss.margin
    W = in_the_plane(0.0, -1.0)
    theta = np.linspace(PI / m + 1e-3, PI - 1e-3, 200)
    x = in_the_plane(*theta)
    assert np.all(loss.decision_boundary(x, W) < 0)
    table = in_mpmath(formula_of_table_1, loss, x, W, None)
    assert np.any(table > 0)


def test_table_1_taken_beyond_its_range_errs_at_three_eighths_of_the_angles():
    """cos 4θ₁ − cos θ₂ has the wrong sign at 37 % of random angles: both uniform, as Gaussian x and W in a
    plane give them. Beyond π/m the true sign is −, the formula's is + half of the time: (1 − 1/m)/2, which
    is 25 %, 33 % and 37.5 % for m = 2, 3, 4. In 32 dimensions, where nearly all angles are near π/2 and
    cos 4θ₁ near 1, it is 97 %."""

    def wrong(m, D, draws=400, per_draw=100):
        rng, count = np.random.default_rng(0), 0
        loss = refloss.FNormSphereFace(scale=1, margin=m)
        for _ in range(draws):
            x, W = rng.normal(size=(per_draw, D)), rng.normal(size=(2, D))
            cos1, cos2 = (x @ w / np.linalg.norm(w) / np.linalg.norm(x, axis=1) for w in W)
            table = np.cos(m * np.arccos(cos1)) - cos2
            count += np.count_nonzero(np.sign(table) != np.sign(loss.decision_boundary(x, W)))
        return count / (draws * per_draw)

    # the rows of a draw share W; over 400 draws the share moves by about 0.006
    for m, share in ((2, 0.25), (3, 1 / 3), (4, 0.375)):
        assert wrong(m, 2) == pytest.approx(share, abs=0.02)
    assert wrong(4, 32) == pytest.approx(0.967, abs=0.01)


def test_arcface_beyond_pi_minus_m_is_not_table_1_under_past_pi_linear():
    """m = 0.5, θ₁ = π − 0.1 and θ₂ = 2.82: cos(θ₁ + m) − cos θ₂ is +0.0279 and so is decision_boundary with
    past_pi="cos"; with "linear" the target logit is cos θ₁ − m sin m = −1.2347, and the sign is −."""
    x, W = in_the_plane(PI - 0.1), in_the_plane(0.0, PI - 0.1 - 2.82)
    cos = refloss.ArcFace(scale=1, margin=0.5).decision_boundary(x, W)
    linear = refloss.ArcFace(scale=1, margin=0.5, past_pi="linear").decision_boundary(x, W)
    # a few roundings, relative to s = 1
    assert cos == pytest.approx(np.cos(PI + 0.4) - np.cos(2.82), abs=1e-15)
    assert cos > 0
    assert linear == pytest.approx(np.cos(PI - 0.1) - 0.5 * np.sin(0.5) - np.cos(2.82), abs=1e-15)
    assert linear < 0


@every_loss
def test_swapped_rows_give_the_boundary_of_class_2(name):
    """W's rows (and b's entries) swapped: class 2's target logit minus class 1's plain logit. Without a margin
    each is the other's negative. A margin takes from both sides, so that no x lies within both boundaries;
    only cos(θ + m) exceeds cos θ again, beyond θ = π − m/2 (past_pi="cos")."""
    for loss, x, W, b in inputs(name, 6):
        first = loss.decision_boundary(x, W, b)
        second = loss.decision_boundary(x, W[::-1], None if b is None else b[::-1])
        z = loss.forward(x, W, np.ones(len(x), dtype=int), b).logits
        bound = rounding_bound(loss, x, W, b)
        assert np.all(np.abs(second - (z[:, 1] - z[:, 0])) <= bound)
        if not loss.has_margin or loss.margin == 1:
            assert np.all(np.abs(first + second) <= 2 * bound)
            continue
        regular = np.ones(len(x), dtype=bool)
        if isinstance(loss, refloss.ArcFace) and loss.past_pi == "cos" and not loss.easy_margin:
            regular = np.all([angles_to(w, x) < PI - loss.margin / 2 for w in W], axis=0)
        assert np.all((first + second)[regular] <= 2 * bound[regular])
        assert not np.any((first[regular] > bound[regular]) & (second[regular] > bound[regular]))
        assert np.any(first + second < -1e-3)


@pytest.mark.parametrize("name", ["softmax_bias", "weighted_softmax_bias", "l2_softmax_bias"])
def test_a_bias_moves_the_boundary(name):
    """b is part of the logits: decision_boundary with b is that without plus b₁ − b₂."""
    for loss, x, W, b in inputs(name, 6):
        plain, moved = loss.decision_boundary(x, W), loss.decision_boundary(x, W, b)
        assert np.all(np.abs(moved - plain - (b[0] - b[1])) <= rounding_bound(loss, x, W, b))


@pytest.mark.parametrize(
    ("weighted", "plain", "bias"),
    [
        ("weighted_softmax_bias", "softmax_bias", True),
        ("w_norm_softmax_weighted", "w_norm_softmax", False),
        ("cosface_weighted", "cosface", False),
        ("arcface_weighted", "arcface", False),
        ("l_softmax_4_weighted", "l_softmax_4", False),
    ],
    ids=["softmax", "w_norm_softmax", "cosface", "arcface", "l_softmax"],
)
def test_class_weights_do_not_move_the_boundary(weighted, plain, bias):
    """Class weights act on the loss, not on the logits: the boundary is the same to the last bit."""
    for (with_weights, x, W, b), (without, *_) in zip(inputs(weighted, 6), inputs(plain, 6), strict=True):
        assert (b is not None) == bias
        np.testing.assert_array_equal(with_weights.decision_boundary(x, W, b), without.decision_boundary(x, W, b))


@every_loss
def test_needs_exactly_two_classes(name):
    """Table 1 is about two classes; anything else is refused by name."""
    loss, _ = LOSSES[name]
    for classes in (1, 3):
        with pytest.raises(ValueError, match="W must have two rows"):
            loss.decision_boundary(np.ones((1, 2)), np.ones((classes, 2)))
