"""Numbers that papers and released code print, reproduced through refloss' public interface.

Each test names the paper or the repository. A number printed to d digits is compared to half a unit of the last.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from agreement import in_the_plane
from helpers import UNIT, assert_printed, near
from scipy.optimize import brentq

import refloss

PI = math.pi
ANGLE = 1e-12  # of the boundaries, in radians or as a cosine: brentq's 1e-14 and roundings that a slope of 1/m enlarges


def degrees(*values):
    return np.radians(np.array(values, dtype=float))


def target_logits(loss, theta):
    """z_y of unit features at the angles theta (N,) to class 0, through `forward`."""
    theta = np.ravel(theta)
    W = in_the_plane(0.0, -PI / 2)
    return loss.forward(in_the_plane(*theta), W, np.zeros(len(theta), dtype=int)).logits[:, 0]


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
    return {1: c, 2: 2 * s0 * c**2 - 1, 3: s1 * (4 * c**3 - 3 * c) + s2, 4: s3 * (8 * c**4 - 8 * c**2 + 1) + s4}[m]


@pytest.mark.parametrize("m", [2, 3, 4], ids=lambda m: f"m{m}")
def test_psi_equals_its_polynomial_form(m):
    """ψ on 0, 1, … 180 degrees is the polynomial of cos θ with the authors' signs."""
    theta = degrees(*range(181))
    value = target_logits(refloss.FNormSphereFace(scale=1, margin=m), theta)
    # 10 u, of a polynomial whose terms reach 8 c⁴ = 8 and 2k = 6
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
        "lambda_5": (refloss.FNormSphereFace(scale=1, margin=4, annealing=5), (5 * c + polynomial_psi(4, c)) / 6, -2),
        "am_softmax": (refloss.AMSoftmax(scale=1, margin=0.35), c - 0.35, -1.35),
    }
    for name, (loss, curve, at_180) in curves.items():
        value = target_logits(loss, theta)
        # as the polynomial above, and the value at 180° itself up to 7
        np.testing.assert_allclose(value, curve, rtol=0, atol=2e-15, err_msg=name)
        assert value[-1] == near(at_180, 8 * UNIT), name
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
    "sphereface_4_lambda_5": (refloss.FNormSphereFace(scale=1, margin=4, annealing=5), (0.6384, 0.1667, -0.5)),
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
    # both are rounded a few times, relative to s = 1
    np.testing.assert_allclose(combined, target_logits(loss, theta), rtol=0, atol=4 * UNIT)


# -- 4. decision boundaries of Table 1 -------------------------------------------------------------


def boundary(loss, theta_2, low=1e-9, high=None):
    """The θ₁ at which x, between W₁ and W₂ and θ₂ away from W₂, lies on class 1's boundary."""

    def difference(theta_1):
        x, W = in_the_plane(theta_1), in_the_plane(0.0, theta_1 + theta_2)
        return float(loss.decision_boundary(x, W)[0])

    return brentq(difference, low, high or PI - 1e-9, xtol=1e-14, rtol=1e-14)


THETA_2 = pytest.mark.parametrize("theta_2", degrees(20, 40, 60, 90, 120), ids=lambda t: f"{math.degrees(t):.0f}")


@THETA_2
@pytest.mark.parametrize("m", [0.1, 0.3], ids=lambda m: f"m{m:g}")
def test_arcface_boundary(m, theta_2):
    """ArcFace: θ₁ = θ₂ − m, a constant angle."""
    assert boundary(refloss.ArcFace(margin=m), theta_2) == pytest.approx(theta_2 - m, abs=ANGLE)


@THETA_2
@pytest.mark.parametrize("m", [0.05, 0.35], ids=lambda m: f"m{m:g}")
def test_cosface_boundary(m, theta_2):
    """CosFace: cos θ₁ = cos θ₂ + m, a constant cosine; no boundary where that exceeds 1."""
    if math.cos(theta_2) + m > 1:
        with pytest.raises(ValueError, match="different signs"):
            boundary(refloss.CosFace(margin=m), theta_2)
        return
    theta_1 = boundary(refloss.CosFace(margin=m), theta_2)
    assert math.cos(theta_1) == pytest.approx(math.cos(theta_2) + m, abs=ANGLE)


@THETA_2
@pytest.mark.parametrize("m", [2, 3, 4], ids=lambda m: f"m{m}")
@pytest.mark.parametrize("loss", [refloss.ASoftmax, refloss.FNormSphereFace, refloss.LSoftmax])
def test_sphereface_boundary(loss, m, theta_2):
    """SphereFace, with and without ‖x‖, and L-Softmax of equal norms: θ₁ = θ₂/m, an angle that shrinks."""
    assert boundary(loss(margin=m), theta_2) == pytest.approx(theta_2 / m, abs=ANGLE)


@THETA_2
def test_boundaries_without_a_margin(theta_2):
    """W-Norm softmax: θ₁ = θ₂; softmax: ‖W₁‖ cos θ₁ = ‖W₂‖ cos θ₂ (here of equal norms, then the same)."""
    for loss in (refloss.WNormSoftmax(), refloss.Softmax(), refloss.L2Softmax()):
        assert boundary(loss, theta_2) == pytest.approx(theta_2, abs=ANGLE)


def test_boundary_intercepts():
    """As θ₂ → 0 the angular margin θ₂ − θ₁ of SphereFace vanishes, (1 − 1/m) θ₂; ArcFace's is m for every θ₂
    and its boundary starts at θ₂ = m; CosFace's starts at cos θ₂ = 1 − m (49.46° for 0.35)."""
    sphereface = refloss.SphereFace(margin=4)
    for theta_2 in (1e-1, 1e-2, 1e-4):  # below, cos θ₁ − cos θ₂ has too few digits
        theta_1 = boundary(sphereface, theta_2, low=theta_2 / 100)
        assert theta_2 - theta_1 == near(0.75 * theta_2, 1e-6)
    m = 0.5
    for beyond in (1e-3, 0.5, 1.5):
        theta_1 = boundary(refloss.ArcFace(margin=m), m + beyond, low=1e-6)
        assert theta_1 == pytest.approx(beyond, abs=ANGLE)
    with pytest.raises(ValueError, match="different signs"):
        boundary(refloss.ArcFace(margin=m), m - 1e-3, low=1e-6)
    start = math.acos(1 - 0.35)
    assert_printed(math.degrees(start), 49.46, 1e-2)
    assert boundary(refloss.CosFace(margin=0.35), start + 1e-6, low=1e-6) < 2e-3
    with pytest.raises(ValueError, match="different signs"):
        boundary(refloss.CosFace(margin=0.35), start - 1e-6, low=1e-6)


@pytest.mark.parametrize("m", [2, 3, 4], ids=lambda m: f"m{m}")
def test_the_arc_of_class_1_under_a_softmax(m):
    """Two classes at an angle t: A-Softmax accepts class 1 on the arc [−t/(m−1), t/(m+1)] around W₁ (from
    m θ₁ = θ₂ with θ₂ = t ± θ₁, after the SphereFace paper's property 1)."""
    t, loss = math.radians(50), refloss.ASoftmax(margin=m)
    W = in_the_plane(0.0, t)

    def at(angle):
        return float(loss.decision_boundary(in_the_plane(angle), W)[0])

    assert brentq(at, 0.0, t, xtol=1e-14) == pytest.approx(t / (m + 1), abs=ANGLE)
    # ψ falls strictly, so that the far end is found from W₁ outwards
    far = brentq(at, -min(1.2 * t / (m - 1), PI - t), 0.0, xtol=1e-14)
    assert far == pytest.approx(-t / (m - 1), abs=ANGLE)


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
    assert factor == near(math.sin(theta + 0.5) / math.sin(theta), 1e-12)


def test_the_example_of_oneflow():
    """oneflow's documentation of CombinedMarginLoss, m = (0.3, 0.5, 0.4): three rows of cosines and their
    labels, printed to four digits. A third coordinate makes unit features of the cosines."""
    cosines = np.array([[-0.7027179, 0.0230609], [-0.02721931, -0.16056311], [-0.4565852, -0.64471215]])
    x = np.hstack([cosines, np.sqrt(1 - np.sum(cosines**2, axis=1, keepdims=True))])
    out = combined_margin(0.3, 0.5, 0.4).forward(x, np.eye(3)[:2], [0, 1, 1])
    assert_printed(out.logits, [[-0.0423, 0.0231], [-0.0272, 0.1237], [-0.4566, -0.0204]], 1e-4)


@pytest.mark.parametrize(
    ("floor", "printed"), [(float(np.finfo(np.float32).tiny), 87.3365), (1e-30, 69.0776)], ids=["caffe", "partial_fc"]
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
