"""The knots kπ/m of ψ, and the kink of a user's continuation, by name: derivations/singular_points.md."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import (
    PSI,
    ROUNDINGS,
    UNIT,
    assert_close,
    assert_same,
    example,
    gradients,
    make,
    natural_scales,
    passes,
    steep,
    steep_slope,
)

# -- knots kπ/m of ψ -------------------------------------------------------------------------------

KNOTS = [(m, k) for m in (2, 3, 4, 7) for k in range(1, m)]


def psi_and_slope(name, theta, m, **options):
    """ψ(θ) and ψ'(θ) as the loss gives them, from the target's logit and the gradient of x alone.

    The other class is at a right angle to the plane, so that its part of the gradient is apart too.
    """
    x, W = np.array([[np.cos(theta), np.sin(theta), 0]]), np.array([[1.0, 0, 0], [0, 0, 1.0]])
    loss = make(name, margin=m, reduction="none", **{"scale": 1} if name == "f_norm_sphereface" else {}, **options)
    out = loss.forward(x, W, [0])
    g = loss.backward(out).logits[0, 0]
    grad = loss.backward(out, 1 / g).x[0]
    return out.logits[0, 0], grad @ [-np.sin(theta), np.cos(theta), 0]


@pytest.mark.parametrize("name", PSI)
@pytest.mark.parametrize(("m", "k"), KNOTS)
def test_value_at_a_knot(name, m, k, precision):
    """ψ(kπ/m) = 1 − 2k, whichever branch rounding takes."""
    value, slope = psi_and_slope(name, k * np.pi / m, m, precision=precision)
    assert_close(value, 1.0 - 2 * k, 2 * m, ROUNDINGS, "ψ against its range 2m")
    assert_close(slope, 0.0, m**2, ROUNDINGS, "ψ' = 0, against ψ'' = m²")


@pytest.mark.parametrize("name", PSI)
@pytest.mark.parametrize(("m", "k"), KNOTS)
def test_both_sides_of_a_knot_agree(name, m, k, precision):
    """ψ is C¹: at ±h from kπ/m the values and slopes are 1 − 2k + O(h²m²/2) and O(hm²)."""
    for h in (1e-4, 1e-7, 1e-10):
        for side in (-1, 1):
            value, slope = psi_and_slope(name, k * np.pi / m + side * h, m, precision=precision)
            # ψ''(knot) is +m² after a knot and −m² before: ψ is flat there and falls on both sides
            due = 1 - 2 * k - side * (m * h) ** 2 / 2
            assert_close(value, due, 1.0, (m * h) ** 4 + m * ROUNDINGS, "ψ beside the knot")
            assert_close(slope, -(m**2) * h, 1.0, (m * h) ** 2 * m**2 * h + m**2 * ROUNDINGS, "ψ' beside the knot")


@pytest.mark.parametrize("name", PSI)
@pytest.mark.parametrize("m", [1, 2, 3, 4, 7])
def test_psi_falls_from_1_to_1_minus_2m(name, m):
    """ψ decreases over [0, π], from 1 to (−1)^(m−1) cos(mπ) − 2(m−1) = 1 − 2m."""
    theta = np.linspace(0, np.pi, 201)
    values, slopes = np.transpose([psi_and_slope(name, t, m) for t in theta])
    assert (np.diff(values) < 0).all()
    assert (slopes <= m**2 * ROUNDINGS).all()
    assert_close(values[[0, -1]], [1, 1 - 2 * m], 2 * m, ROUNDINGS, "ψ(0) and ψ(π) against 2m")


@pytest.mark.parametrize("name", PSI)
@pytest.mark.parametrize(
    ("m", "x", "w"),
    [
        (2, [0.0, 7.0, 3.0], [5.0, 3.0, -7.0]),  # 90°
        (4, [1.0, 0.0, 0.0], [3.0, 3.0, 0.0]),  # 45°
        (4, [3.0, -1.0, 0.0], [1.0, 3.0, 0.0]),  # 90°
        (3, [1.0, 1.0, 0.0], [0.0, 5.0, 5.0]),  # 60°
        (3, [1.0, 1.0, 0.0], [-5.0, 0.0, 5.0]),  # 120°
        (6, [1.0, 1.0, 0.0], [0.0, 5.0, 5.0]),  # 60°
    ],
    ids=str,
)
def test_slope_at_an_exact_knot_is_exactly_0(name, m, x, w, precision):
    """θ = kπ/m exactly: ψ' = 0, not a rounding, and no tangential part of the target; ψ = 1 − 2k; no cone."""
    loss = make(name, margin=m, precision=precision, reduction="none")
    out, grads = passes(loss, [x], [w, [1.0, -2.0, 4.0]], [0])
    assert not out.cone.any()
    g = grads.logits[0]
    x, w, other = np.array(x), np.array(w), np.array([1.0, -2.0, 4.0])
    # along ŵ less its part along x̂: the other class's part alone
    r = {"l_softmax": np.linalg.norm(other)}.get(name, 1.0) * (
        loss.scale / np.linalg.norm(x) if name == "f_norm_sphereface" else 1.0
    )
    across = w - (w @ x) / (x @ x) * x
    due = r * g[1] * (other @ across) / np.linalg.norm(other)
    scale = natural_scales(loss, x[None], np.stack([w, other]), np.abs(grads.logits))["x"][0, 0]
    assert_close(
        grads.x[0] @ across, due, abs(r * g[1]) * np.linalg.norm(across) + scale * UNIT, 64 * UNIT, "grad_x across"
    )
    k = round(m * out.theta[0] / np.pi)
    radius = {"f_norm_sphereface": getattr(loss, "scale", 1.0), "a_softmax": np.linalg.norm(x)}.get(
        name, np.linalg.norm(x) * np.linalg.norm(w)
    )
    assert_close(out.logits[0, 0] / radius, 1.0 - 2 * k, 2 * m, ROUNDINGS, "ψ at the knot")


# -- a user's continuation -------------------------------------------------------------------------


@pytest.mark.parametrize("name", PSI)
def test_kink_of_a_continuation_has_its_right_derivative(name, precision):
    """θ = π/m exactly, D'(π/m) ≠ 0: the right derivative, D', is used; the value is −1."""
    loss = make(
        name,
        precision=precision,
        margin=2,
        continuation=(steep, steep_slope),
        **{"scale": 1} if name == "f_norm_sphereface" else {},
    )
    out = loss.forward([[0.0, 1.0, 0.0]], [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], [0])
    assert out.theta[0] == np.pi / 2
    assert_close(out.logits[0, 0], -1.0, 1.0, ROUNDINGS, "D(π/m)")
    grads = loss.backward(out)
    # θ grows against the x axis
    assert_same(grads.x[0, 0], 2 * grads.logits[0, 0], np.abs(2 * grads.logits[0, 0]), out, "slope")
    assert not out.cone.any()


@pytest.mark.parametrize("name", PSI)
def test_beside_the_kink_each_side_has_its_own_slope(name, precision):
    """Left of π/m ψ' = −m sin mθ, right of it D'."""
    for step, due in ((-1e-7, 4e-7), (1e-7, 2.0)):
        _, slope = psi_and_slope(name, np.pi / 2 + step, 2, continuation=(steep, steep_slope), precision=precision)
        assert_close(slope, -due, 2.0, 1e-9 if step > 0 else 1e-6, "slope")


@pytest.mark.parametrize("name", PSI)
def test_continuation_is_used_beyond_pi_over_m_only(name, precision):
    """ψ(θ) = cos mθ up to π/m, D(θ) from there on."""
    for theta in (0.2, 1.0, 1.5, 1.6, 2.5, 3.1):
        value, slope = psi_and_slope(name, theta, 2, continuation=(steep, steep_slope), precision=precision)
        inner = theta < np.pi / 2
        due = (np.cos(2 * theta), -2 * np.sin(2 * theta)) if inner else (steep(theta, np), -2.0)
        assert_close((value, slope), due, 5.0, ROUNDINGS, "ψ and ψ' against D(π)")


@pytest.mark.parametrize("name", PSI)
def test_the_papers_branches_as_a_continuation(name, rng, precision):
    """ψ's own branches given as D change nothing."""
    inputs = example(name, rng, n=8)
    branch = {
        "D": lambda t, xp: xp.where(t < 2 * np.pi / 3, -xp.cos(3 * t) - 2, xp.cos(3 * t) - 4),
        "dD": lambda t, xp: xp.where(t < 2 * np.pi / 3, 3 * xp.sin(3 * t), -3 * xp.sin(3 * t)),
    }
    loss, same = (
        make(name, precision=precision, margin=3),
        make(name, precision=precision, margin=3, continuation=(branch["D"], branch["dD"])),
    )
    out, other = loss.forward(**inputs), same.forward(**inputs)
    grads, other_grads = gradients(loss.backward(out)), gradients(same.backward(other))
    scales = natural_scales(loss, inputs["x"], inputs["W"], np.abs(grads["logits"]))
    assert_same(other.losses, out.losses, np.abs(out.losses), out, "losses")
    for field, value in other_grads.items():
        assert_same(value, grads[field], scales[field], out, field)
