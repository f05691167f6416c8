"""Numbers that papers and released code print, reproduced through refloss' public interface.

Source of every number, unless a line says otherwise: the project's notes on released code, section 9,
which name the paper or repository. A number printed to d digits is compared to half a unit of the last.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from agreement import in_the_plane
from scipy.optimize import brentq

import refloss

PI = math.pi


def degrees(*values):
    return np.radians(np.array(values, dtype=float))


def target_logits(loss, theta):
    """z_y of unit features at the angles theta (N,) to class 0, through `forward`."""
    theta = np.ravel(theta)
    W = in_the_plane(0.0, -PI / 2)
    return loss.forward(in_the_plane(*theta), W, np.zeros(len(theta), dtype=int)).logits[:, 0]


def assert_printed(values, printed, last_digit):
    """Each value rounds to the number printed: within half a unit of its last digit."""
    np.testing.assert_allclose(values, printed, rtol=0, atol=0.5 * last_digit * (1 + 1e-9))


# -- 1. ψ at its knots, its polynomial forms, and the authors' gradients ------------------------------


@pytest.mark.parametrize("m", range(1, 9), ids=lambda m: f"m{m}")
@pytest.mark.parametrize("loss", [refloss.FNormSphereFace, refloss.LSoftmax, refloss.ASoftmax])
def test_psi_at_its_knots(loss, m):
    """ψ(kπ/m) = 1 − 2k for k = 0 … m, so that ψ(π) = 1 − 2m: −3, −5, −7 for m = 2, 3, 4."""
    parameters = {"scale": 1} if loss is refloss.FNormSphereFace else {}
    k = np.arange(m + 1)
    value = target_logits(loss(margin=m, **parameters), k * PI / m)
    # unit vectors at kπ/m are right to 1e-16, where ψ is flat (ψ' = 0) and worth at most 2m − 1
    np.testing.assert_allclose(value, 1 - 2 * k, rtol=0, atol=4e-16 * 2 * m)


def polynomial_psi(m, c):
    """ψ as the L-Softmax authors' layer computes it, from c = cos θ and signs (their sign(0) = 0).

    wy1iu/LargeMargin_Softmax_Loss, largemargin_inner_product_layer.cpp.
    """
    s0, s1 = np.sign(c), np.sign(np.abs(c) - 0.5)
    s2 = s0 * (1 + s1) - 2
    s3 = s0 * np.sign(2 * c**2 - 1)
    s4 = 2 * s0 + s3 - 3
    return {
        1: c,
        2: 2 * s0 * c**2 - 1,
        3: s1 * (4 * c**3 - 3 * c) + s2,
        4: s3 * (8 * c**4 - 8 * c**2 + 1) + s4,
    }[m]


@pytest.mark.parametrize("m", [2, 3, 4], ids=lambda m: f"m{m}")
def test_psi_equals_its_polynomial_form(m):
    """ψ on 0, 1, … 180 degrees is the polynomial of cos θ with the authors' signs."""
    theta = degrees(*range(181))
    value = target_logits(refloss.FNormSphereFace(scale=1, margin=m), theta)
    # as the notes found; the polynomial's own terms reach 8 c⁴ = 8 and 2k = 6
    np.testing.assert_allclose(value, polynomial_psi(m, np.cos(theta)), rtol=0, atol=2e-15)


@pytest.mark.parametrize("m", [2, 3, 4], ids=lambda m: f"m{m}")
def test_l_softmax_gradient_equals_the_authors_backward(m):
    """∇_W and ∇_x of ‖W‖‖x‖ψ(θ) are the authors' coefficients (backward of the same layer, for r = ‖x‖/‖W‖
    and r = ‖W‖/‖x‖), in every branch, two-dimensional vectors at 1 … 179 degrees."""
    theta = degrees(*range(1, 180))
    for t in theta:
        w, x = 1.7 * in_the_plane(0.4), 0.6 * in_the_plane(0.4 + t)
        # class 0 is the target, class 1 has weight zero: grad_W[0] is g_y ∇z_y, and so is grad_x
        W = np.vstack([w, np.zeros(2)])
        grads = refloss.LSoftmax(margin=m).value_and_grad(x, W, [0])[1]
        g_y = grads.logits[0, 0]
        c = np.cos(t)
        s0, s1 = np.sign(c), np.sign(abs(c) - 0.5)
        s2 = s0 * (1 + s1) - 2
        s3 = s0 * np.sign(2 * c**2 - 1)
        s4 = 2 * s0 + s3 - 3
        across, along = {
            2: (4 * s0 * c, 2 * s0 * c**2 + 1),
            3: (s1 * (12 * c**2 - 3), 8 * s1 * c**3 - s2),
            4: (s3 * (32 * c**3 - 16 * c), s3 * (24 * c**4 - 8 * c**2 - 1) - s4),
        }[m]
        r = np.linalg.norm(x) / np.linalg.norm(w)
        due_W, due_x = across * x - r * along * w, across * w - along / r * x
        for got, due, size in ((grads.W[:1], due_W, 0.6), (grads.x, due_x, 1.7)):
            # both sums have terms of up to 16 + 23 times `size`
            np.testing.assert_allclose(got / g_y, due, rtol=0, atol=1e-14 * 40 * size)


# -- 2. the figure of AM-Softmax -------------------------------------------------------------------


def test_the_figure_of_am_softmax():
    """The five curves of the AM-Softmax paper's figure of ψ on 0, 1, … 180 degrees: cos θ, ψ of m = 2 and 4,
    (5 cos θ + ψ₄)/6 (λ = 5), cos θ − 0.35 (happynear/AMSoftmax, draw/draw_psi_curve.m)."""
    theta = degrees(*range(181))
    c = np.cos(theta)
    curves = {
        "softmax": (refloss.AMSoftmax(scale=1, margin=0), c, -1),
        "psi_2": (refloss.FNormSphereFace(scale=1, margin=2), polynomial_psi(2, c), -3),
        "psi_4": (refloss.FNormSphereFace(scale=1, margin=4), polynomial_psi(4, c), -7),
        "lambda_5": (
            refloss.FNormSphereFace(scale=1, margin=4, annealing=5),
            (5 * c + polynomial_psi(4, c)) / 6,
            -2,
        ),
        "am_softmax": (refloss.AMSoftmax(scale=1, margin=0.35), c - 0.35, -1.35),
    }
    for name, (loss, curve, at_180) in curves.items():
        value = target_logits(loss, theta)
        np.testing.assert_allclose(value, curve, rtol=0, atol=2e-15, err_msg=name)
        assert value[-1] == pytest.approx(at_180, abs=1e-15 * 8), name
        assert np.all(np.diff(value) < 0), name


# -- 3. the figure of ArcFace: target logits at 30, 60, 90 degrees ----------------------------------


def combined_margin(m1, m2, m3):
    """cos(m₁θ + m₂) − m₃, ArcFace's combined margin, as a margin of one's own."""
    return refloss.MarginSoftmax(
        psi=lambda theta, xp: xp.cos(m1 * theta + m2) - m3,
        dpsi=lambda theta, xp: -m1 * xp.sin(m1 * theta + m2),
        scale=1,
    )


ARCFACE_FIGURE = {
    "softmax": (refloss.AMSoftmax(scale=1, margin=0), (0.8660, 0.5, 0.0)),
    "sphereface_4_lambda_5": (
        refloss.FNormSphereFace(scale=1, margin=4, annealing=5),
        (0.6384, 0.1667, -0.5),
    ),
    "sphereface_1.35": (combined_margin(1.35, 0, 0), (0.7604, 0.1564, -0.5225)),
    "arcface_0.5": (refloss.ArcFace(scale=1, margin=0.5), (0.5203, 0.0236, -0.4794)),
    "cosface_0.35": (refloss.CosFace(scale=1, margin=0.35), (0.5160, 0.15, -0.35)),
    "combined_1_0.3_0.2": (combined_margin(1, 0.3, 0.2), (0.4796, 0.0217, -0.4955)),
    "combined_0.9_0.4_0.15": (combined_margin(0.9, 0.4, 0.15), (0.4939, 0.0763, -0.3905)),
}


@pytest.mark.parametrize("curve", ARCFACE_FIGURE)
def test_the_figure_of_arcface(curve):
    """Target logits of the ArcFace paper's figure at 30, 60 and 90 degrees, to four digits."""
    loss, printed = ARCFACE_FIGURE[curve]
    assert_printed(target_logits(loss, degrees(30, 60, 90)), printed, 1e-4)


@pytest.mark.parametrize("curve", ARCFACE_FIGURE)
def test_the_curves_of_arcface_fall(curve):
    """On the figure's 20 … 100 degrees every target logit decreases, and lies below softmax's."""
    theta = degrees(*range(20, 101))
    value = target_logits(ARCFACE_FIGURE[curve][0], theta)
    assert np.all(np.diff(value) < 0)
    if curve != "softmax":
        assert np.all(value < np.cos(theta))


@pytest.mark.parametrize(
    ("m1", "m2", "m3", "loss"),
    [
        (1, 0.5, 0, refloss.ArcFace(scale=1, margin=0.5)),
        (1, 0, 0.35, refloss.CosFace(scale=1, margin=0.35)),
        (1, 0, 0, refloss.AMSoftmax(scale=1, margin=0)),
    ],
    ids=["arcface", "cosface", "softmax"],
)
def test_combined_margin_contains_the_others(m1, m2, m3, loss):
    """cos(m₁θ + m₂) − m₃ with two of the three margins absent is the loss of the third, everywhere."""
    theta = degrees(*range(1, 180))
    combined = target_logits(combined_margin(m1, m2, m3), theta)
    np.testing.assert_allclose(combined, target_logits(loss, theta), rtol=0, atol=4e-16)


# -- 4. decision boundaries of Table 1 -------------------------------------------------------------


def boundary(loss, theta_2, low=1e-9, high=None):
    """The θ₁ at which x, between W₁ and W₂ and θ₂ away from W₂, lies on class 1's boundary."""

    def difference(theta_1):
        x, W = in_the_plane(theta_1), in_the_plane(0.0, theta_1 + theta_2)
        return float(loss.decision_boundary(x, W)[0])

    return brentq(difference, low, high or PI - 1e-9, xtol=1e-14, rtol=1e-14)


THETA_2 = pytest.mark.parametrize(
    "theta_2", degrees(20, 40, 60, 90, 120), ids=lambda t: f"{math.degrees(t):.0f}"
)


@THETA_2
@pytest.mark.parametrize("m", [0.1, 0.3], ids=lambda m: f"m{m:g}")
def test_arcface_boundary(m, theta_2):
    """ArcFace: θ₁ = θ₂ − m, a constant angle."""
    assert boundary(refloss.ArcFace(margin=m), theta_2) == pytest.approx(theta_2 - m, abs=1e-12)


@THETA_2
@pytest.mark.parametrize("m", [0.05, 0.35], ids=lambda m: f"m{m:g}")
def test_cosface_boundary(m, theta_2):
    """CosFace: cos θ₁ = cos θ₂ + m, a constant cosine; no boundary where that exceeds 1."""
    if math.cos(theta_2) + m > 1:
        with pytest.raises(ValueError, match="different signs"):
            boundary(refloss.CosFace(margin=m), theta_2)
        return
    theta_1 = boundary(refloss.CosFace(margin=m), theta_2)
    assert math.cos(theta_1) == pytest.approx(math.cos(theta_2) + m, abs=1e-12)


@THETA_2
@pytest.mark.parametrize("m", [2, 3, 4], ids=lambda m: f"m{m}")
@pytest.mark.parametrize("loss", [refloss.ASoftmax, refloss.FNormSphereFace, refloss.LSoftmax])
def test_sphereface_boundary(loss, m, theta_2):
    """SphereFace, with and without ‖x‖, and L-Softmax of equal norms: θ₁ = θ₂/m, an angle that shrinks."""
    assert boundary(loss(margin=m), theta_2) == pytest.approx(theta_2 / m, abs=1e-12)


@THETA_2
def test_boundaries_without_a_margin(theta_2):
    """W-Norm softmax: θ₁ = θ₂; softmax: ‖W₁‖ cos θ₁ = ‖W₂‖ cos θ₂ (here of equal norms, then the same)."""
    for loss in (refloss.WNormSoftmax(), refloss.Softmax(), refloss.L2Softmax()):
        assert boundary(loss, theta_2) == pytest.approx(theta_2, abs=1e-12)


def test_boundary_intercepts():
    """As θ₂ → 0 the angular margin θ₂ − θ₁ of SphereFace vanishes, (1 − 1/m) θ₂; ArcFace's is m for every θ₂
    and its boundary starts at θ₂ = m; CosFace's starts at cos θ₂ = 1 − m (49.46° for 0.35)."""
    sphereface = refloss.SphereFace(margin=4)
    for theta_2 in (1e-1, 1e-2, 1e-4):  # below, cos θ₁ − cos θ₂ has too few digits
        theta_1 = boundary(sphereface, theta_2, low=theta_2 / 100)
        assert theta_2 - theta_1 == pytest.approx(0.75 * theta_2, rel=1e-6)
    m = 0.5
    for beyond in (1e-3, 0.5, 1.5):
        theta_1 = boundary(refloss.ArcFace(margin=m), m + beyond, low=1e-6)
        assert theta_1 == pytest.approx(beyond, abs=1e-12)
    with pytest.raises(ValueError, match="different signs"):
        boundary(refloss.ArcFace(margin=m), m - 1e-3, low=1e-6)
    start = math.acos(1 - 0.35)
    assert math.degrees(start) == pytest.approx(49.46, abs=5e-3)
    assert boundary(refloss.CosFace(margin=0.35), start + 1e-6, low=1e-6) < 2e-3
    with pytest.raises(ValueError, match="different signs"):
        boundary(refloss.CosFace(margin=0.35), start - 1e-6, low=1e-6)


@pytest.mark.parametrize("m", [2, 3, 4], ids=lambda m: f"m{m}")
def test_the_arc_of_class_1_under_a_softmax(m):
    """Two classes at an angle t: A-Softmax accepts class 1 on the arc [−t/(m−1), t/(m+1)] around W₁ (from
    m θ₁ = θ₂ with θ₂ = t ± θ₁; the notes' section 3, after the SphereFace paper's property 1)."""
    t, loss = math.radians(50), refloss.ASoftmax(margin=m)
    W = in_the_plane(0.0, t)

    def at(angle):
        return float(loss.decision_boundary(in_the_plane(angle), W)[0])

    assert brentq(at, 0.0, t, xtol=1e-14) == pytest.approx(t / (m + 1), abs=1e-12)
    # ψ falls strictly, so that the far end is found from W₁ outwards
    assert brentq(at, -min(1.2 * t / (m - 1), PI - t), 0.0, xtol=1e-14) == pytest.approx(
        -t / (m - 1), abs=1e-12
    )


# -- 5. NormFace's lower bound ----------------------------------------------------------------------


def simplex(n):
    """(n, n) unit vectors with cosines −1/(n − 1) to each other."""
    v = np.eye(n) - 1 / n
    return v / np.linalg.norm(v, axis=1)[:, None]


def normface_bound(n, s):
    """log(1 + (n − 1) e^{−s n/(n−1)}), NormFace, proposition 2, s = ℓ²."""
    return math.log1p((n - 1) * math.exp(-s * n / (n - 1)))


@pytest.mark.parametrize(("n", "printed"), [(10, 1.3769), (1000, 5.9085)], ids=["n10", "n1000"])
def test_normface_bound_on_a_simplex(n, printed):
    """Features on the weights of a regular simplex, ℓ = 1: the loss is NormFace's lower bound, for AM-Softmax
    without a margin and s = 1 and for W-Norm softmax with ‖x‖ = 1 alike."""
    W, labels = simplex(n), np.arange(n)
    for loss in (refloss.AMSoftmax(margin=0, scale=1), refloss.WNormSoftmax()):
        value = loss.forward(W, W, labels).loss
        assert_printed(value, printed, 1e-4)
        assert value == pytest.approx(normface_bound(n, 1), rel=1e-13)


NORMFACE_10575 = {  # s = ℓ² against the bound for the 10575 identities of CASIA; figure 5 of NormFace
    1: (8.2663, 1e-4),
    2: (7.2667, 1e-4),
    5: (4.2796, 1e-4),
    10: (0.39178, 1e-5),
    16: (1.187e-3, 1e-6),
    20: (2.175e-5, 1e-8),
    30: (9.87e-10, 1e-12),
}


@pytest.mark.parametrize("s", NORMFACE_10575, ids=lambda s: f"s{s}")
def test_normface_bound_of_casia(s):
    """n = 10575: one sample of the simplex, whose logits are s and 10574 times −s/(n − 1). Its loss depends
    on nothing else, so that a plane holds it: all other classes share the angle arccos(−1/(n − 1))."""
    n, (printed, last_digit) = 10575, NORMFACE_10575[s]
    W = np.vstack([in_the_plane(0.0), np.repeat(in_the_plane(math.acos(-1 / (n - 1))), n - 1, axis=0)])
    x, labels = in_the_plane(0.0), [0]
    fixed_scale = refloss.AMSoftmax(margin=0, scale=s).forward(x, W, labels).loss
    length = refloss.WNormSoftmax().forward(s * x, W, labels).loss  # ‖x‖ in the place of s
    for value in (fixed_scale, length):
        assert_printed(value, printed, last_digit)
        assert value == pytest.approx(normface_bound(n, s), rel=1e-12)


def test_normface_bound_without_a_norm():
    """ℓ → 0: every class is equally likely and the loss is log n = 9.2662, for n = 10575."""
    value = (
        refloss.WNormSoftmax().forward(np.zeros((1, 2)), in_the_plane(*np.linspace(0, 6, 10575)), [0]).loss
    )
    assert_printed(value, 9.2662, 1e-4)


@pytest.mark.parametrize(
    ("n", "printed", "last_digit"), [(10, 0.4509, 1e-4), (1000, 0.00734, 1e-5)], ids=["n10", "n1000"]
)
def test_normface_best_probability_without_a_scale(n, printed, last_digit):
    """ℓ = 1, own class at cosine 1 and all others at −1: p = e/(e + (n−1)/e), 0.45 for n = 10 and 0.007 for
    n = 1000, NormFace's reason for a scale."""
    W = np.vstack([in_the_plane(0.0), np.repeat(in_the_plane(PI), n - 1, axis=0)])
    p = refloss.AMSoftmax(margin=0, scale=1).forward(in_the_plane(0.0), W, [0]).probabilities[0, 0]
    assert_printed(p, printed, last_digit)


@pytest.mark.parametrize("s", [1.0, 5.0, 30.0], ids=lambda s: f"s{s:g}")
def test_normface_bound_is_a_lower_bound(s):
    """Proposition 2 itself: with features on their class weights, a balanced batch is never below the bound;
    50 random W in 12 dimensions."""
    rng, n = np.random.default_rng(3), 10
    loss = refloss.AMSoftmax(margin=0, scale=s)
    values = [loss.forward(W, W, np.arange(n)).loss for W in rng.normal(size=(50, n, 12))]
    assert min(values) > normface_bound(n, s)


@pytest.mark.parametrize(
    ("n", "printed"),
    [(10, 3.9550), (100, 6.7244), (1000, 9.0949), (10575, 11.4623), (85742, 13.5562)],
    ids=["C10", "C100", "C1000", "C10575", "C85742"],
)
def test_cosface_lower_bound_of_the_scale(n, printed):
    """CosFace, s ≥ (C−1)/C log((C−1)P/(1−P)): the s at which the simplex reaches P = 0.9
    (section 9, item 7)."""
    W = np.vstack([in_the_plane(0.0), np.repeat(in_the_plane(math.acos(-1 / (n - 1))), n - 1, axis=0)])

    def excess(s):
        out = refloss.CosFace(margin=0, scale=s).forward(in_the_plane(0.0), W, [0])
        return float(out.probabilities[0, 0]) - 0.9

    assert_printed(brentq(excess, 1.0, 40.0, xtol=1e-10), printed, 1e-4)


# -- 6. the lower bound of α of L2-constrained softmax ----------------------------------------------


@pytest.mark.parametrize(
    ("classes", "printed", "with_opposite"),
    [
        (10, 4.2767, 4.2784),
        (100, 6.7822, 6.7822),
        (1000, 9.1030, 9.1030),
        (10572, 11.4630, 11.4630),
        (13403, 11.7003, 11.7003),
        (58207, 13.1690, 13.1690),
        (100000, 13.7101, 13.7101),
    ],
    ids=["C10", "C100", "C1000", "C10572", "C13403", "C58207", "C100000"],
)
def test_l2_softmax_alpha_low(classes, printed, with_opposite):
    """p = e^α/(e^α + e^−α + C − 2): own class aligned, one opposite, C − 2 orthogonal. The paper drops e^−α,
    the opposite class, and gets α_low = log(p (C−2)/(1−p)) for p = 0.9; both roots found with L2Softmax."""
    aligned, opposite, orthogonal = in_the_plane(0.0, PI, PI / 2)
    orthogonal[0] = opposite[1] = 0.0  # exactly
    rest = np.repeat(orthogonal[None], classes - 2, axis=0)

    def alpha(W):
        def excess(a):
            out = refloss.L2Softmax(alpha=a).forward(7.0 * aligned[None], W, [0])
            return float(out.probabilities[0, 0]) - 0.9

        return brentq(excess, 0.5, 40.0, xtol=1e-11)

    without = alpha(np.vstack([aligned, rest]))
    assert without == pytest.approx(math.log(0.9 * (classes - 2) / 0.1), abs=1e-9)
    assert_printed(without, printed, 1e-4)
    assert_printed(alpha(np.vstack([aligned, opposite, rest])), with_opposite, 1e-4)


# -- 9. annealing schedules ------------------------------------------------------------------------


def schedule(iteration, base, gamma, power, minimum):
    """λ = max(λ_min, base (1 + γ it)^−power), as the L-Softmax and SphereFace layers compute it."""
    return max(minimum, base * (1 + gamma * iteration) ** -power)


SCHEDULES = {  # wy1iu/LargeMargin_Softmax_Loss myexamples; wy1iu/sphereface sphereface_model.prototxt
    "mnist_first": (1, (1000, 2.5e-5, 35, 0), 4, 999.125, 1e-3),
    "mnist_last": (30000, (1000, 2.5e-5, 35, 0), 4, 3.117e-6, 1e-9),
    "cifar10_last": (30000, (1000, 2e-5, 45, 0), 2, 6.525e-7, 1e-10),
    "cifar10+_last": (30000, (1000, 1e-5, 45, 0), 2, 7.457e-3, 1e-6),
    "sphereface_first": (1, (1000, 0.12, 1, 5), 4, 892.857, 1e-3),
    "sphereface_floor": (1659, (1000, 0.12, 1, 5), 4, 5.0, 1e-12),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_annealing_schedules(name):
    """λ of the released schedules, and refloss' target logit (λ cos θ + ψ(θ))/(1 + λ) at that λ."""
    iteration, parameters, m, printed, last_digit = SCHEDULES[name]
    annealing = schedule(iteration, *parameters)
    assert_printed(annealing, printed, last_digit)
    theta = degrees(*range(0, 181, 5))
    plain, margin = np.cos(theta), polynomial_psi(m, np.cos(theta))
    for loss in (
        refloss.LSoftmax(margin=m, annealing=annealing),
        refloss.ASoftmax(margin=m, annealing=annealing),
        refloss.FNormSphereFace(scale=1, margin=m, annealing=annealing),
    ):
        due = (annealing * plain + margin) / (1 + annealing)
        np.testing.assert_allclose(target_logits(loss, theta), due, rtol=0, atol=2e-15)


def test_sphereface_reaches_its_floor_at_1659():
    """SphereFace's λ = 1000/(1 + 0.12 it) is above 5 until iteration 1658 and stays 5 from 1659 on."""
    assert schedule(1658, 1000, 0.12, 1, 5) > 5
    assert schedule(1659, 1000, 0.12, 1, 5) == 5


# -- 10. what detaching the margin drops; oneflow's example; two caps ----------------------------------


@pytest.mark.parametrize(
    ("angle", "printed", "last_digit"),
    [
        (10, 3.5965, 1e-4),
        (30, 1.7080, 1e-4),
        (60, 1.1544, 1e-4),
        (90, 0.87758, 1e-5),
        (120, 0.60079, 1e-5),
        (150, 0.04719, 1e-5),
    ],
    ids=["10deg", "30deg", "60deg", "90deg", "120deg", "150deg"],
)
def test_the_gradient_factor_that_detaching_drops(angle, printed, last_digit):
    """ArcFace's gradient in W_y is sin(θ + m)/sin θ times that of detach_margin=True, m = 0.5; values, losses
    and ∂L/∂z are the same."""
    x = 3 * in_the_plane(math.radians(angle))
    W, labels = np.vstack([2 * in_the_plane(0.0), [[0.3, -0.8]]]), [0]
    true, detached = (refloss.ArcFace(scale=8, margin=0.5, detach_margin=d) for d in (False, True))
    loss, grads = true.value_and_grad(x, W, labels)
    same_loss, without = detached.value_and_grad(x, W, labels)
    assert loss == same_loss
    np.testing.assert_array_equal(grads.logits, without.logits)
    # the target's row has no other term, and is tangential
    factor = grads.W[0] @ without.W[0] / (without.W[0] @ without.W[0])
    np.testing.assert_allclose(grads.W[0], factor * without.W[0], rtol=1e-12)
    assert_printed(factor, printed, last_digit)
    theta = math.radians(angle)
    assert factor == pytest.approx(math.sin(theta + 0.5) / math.sin(theta), rel=1e-12)


def test_the_example_of_oneflow():
    """oneflow's documentation of CombinedMarginLoss, m = (0.3, 0.5, 0.4): three rows of cosines and their
    labels, printed to four digits. A third coordinate makes unit features of the cosines."""
    cosines = np.array([[-0.7027179, 0.0230609], [-0.02721931, -0.16056311], [-0.4565852, -0.64471215]])
    x = np.hstack([cosines, np.sqrt(1 - np.sum(cosines**2, axis=1, keepdims=True))])
    out = combined_margin(0.3, 0.5, 0.4).forward(x, np.eye(3)[:2], [0, 1, 1])
    assert_printed(out.logits, [[-0.0423, 0.0231], [-0.0272, 0.1237], [-0.4566, -0.0204]], 1e-4)


@pytest.mark.parametrize(
    ("floor", "printed"),
    [(float(np.finfo(np.float32).tiny), 87.3365), (1e-30, 69.0776)],
    ids=["caffe", "partial_fc"],
)
def test_the_caps_of_released_losses_are_not_ours(floor, printed):
    """Caffe clamps p_y at FLT_MIN and Partial FC at 1e-30, so that their losses stop at 87.3365 (the famous
    "loss 87") and 69.0776. Ours is the gap of the logits, 100; the gradient, which both leave unclamped, is
    the same p − 1 as ours. Sources: s9xie/hed softmax_loss_layer.cpp, insightface partial_fc_v2.py."""
    out = refloss.Softmax().forward([[1.0]], [[0.0], [100.0]], [0])
    grads = refloss.Softmax().backward(out)
    p_y = out.probabilities[0, 0]
    assert 0 < p_y < floor
    assert_printed(-math.log(max(p_y, floor)), printed, 1e-4)
    assert out.loss == 100.0  # log(1 + e^−100) is below half an ulp of it
    np.testing.assert_array_equal(grads.logits, [[-1.0, 1.0]])
