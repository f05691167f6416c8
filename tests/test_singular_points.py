"""Every singular point, decided once in derivations/singular_points.md, tested here by name."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
from helpers import (
    NAMES,
    NORMALISES_W,
    NORMALISES_X,
    PSI,
    ROUNDINGS,
    SINGULAR_W,
    SINGULAR_X,
    UNIT,
    VARIANTS,
    assert_close,
    assert_finite,
    assert_same,
    bits,
    example,
    gradients,
    make,
    natural_scales,
    near,
    passes,
    relative_error_of,
    steep,
    steep_slope,
    unit,
)

import refloss

ZERO = {"zero_norm": "zero"}


def at_angle(theta):
    """x at θ from W_0 in the plane, θ in radians: (1, 2) and (2, 2); W_1 is another class."""
    return np.array([[np.cos(theta), np.sin(theta)]]), np.array([[1.0, 0.0], [0.6, -0.8]])


# -- zero rows: refused by default -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "argument"),
    [(name, "x") for name in SINGULAR_X] + [(name, "W") for name in SINGULAR_W],  # L-Softmax: W_y
)
def test_zero_row_is_refused_by_default(name, argument, rng, precision):
    """A zero row has no direction: zero_norm='error', the default, names the rows and the way out."""
    inputs = example(name, rng)
    inputs[argument][[1, 3]] = 0
    message = rf"{argument}\[1\] is a zero row \(zero rows: 1, 3\).*singular.*zero_norm='zero'"
    with pytest.raises(ValueError, match=message):
        make(name, precision=precision).forward(**inputs)


@pytest.mark.parametrize(
    ("name", "argument"),
    [(name, "x") for name in NAMES if name not in SINGULAR_X]
    + [(name, "W") for name in NAMES if name not in SINGULAR_W],
)
def test_zero_row_is_ordinary(name, argument, rng, precision):
    """Smooth there: ∂L/∂x_i = Σ_j g_ij ∂z_ij/∂x_i, and ∂L/∂W_j = Σ_i g_ij ∂z_ij/∂W_j."""
    loss, inputs = make(name, precision=precision), example(name, rng)
    inputs[argument][1] = 0
    out, grads = passes(loss, **inputs)
    W = unit(inputs["W"]) if name == "w_norm_softmax" else inputs["W"]
    x = loss.alpha * unit(inputs["x"]) if name == "l2_softmax" else inputs["x"]
    g, other = (grads.logits[1], W) if argument == "x" else (grads.logits[:, 1], x)
    scale = np.abs(g) @ np.linalg.norm(other, axis=1)
    assert_same(getattr(grads, argument)[1], g @ other, scale, out, "gradient against Σ|g| times the other norm")
    assert (g @ other).any()


def test_l_softmax_allows_zero_rows_that_are_no_target(rng, precision):
    """L-Softmax is singular at target rows of W only: another zero row is plain, W_j·x."""
    loss, inputs = make("l_softmax", precision=precision), example("l_softmax", rng)
    inputs["labels"] = np.array([0, 2, 3, 0, 2, 3])
    inputs["W"][1] = 0
    out, grads = passes(loss, **inputs)
    assert not out.logits[:, 1].any()
    scale = np.abs(grads.logits[:, 1]) @ np.linalg.norm(inputs["x"], axis=1)
    assert_same(grads.W[1], grads.logits[:, 1] @ inputs["x"], scale, out, "grad_W against Σ|g|‖x‖")


@pytest.mark.parametrize("options", [{}, {"annealing": 2.0}, {"detach_margin": True}], ids=str)
def test_l_softmax_of_margin_1_is_plain_at_zero_rows(options, rng, precision):
    """L-Softmax with m = 1 has no margin and no singular point: it is the softmax, zero rows included."""
    loss, inputs = refloss.LSoftmax(precision=precision, margin=1, **options), example("l_softmax", rng)
    inputs["x"][1], inputs["W"][2] = 0, 0
    out, due = loss.forward(**inputs), refloss.Softmax().forward(**inputs)
    grads, due_grads = gradients(loss.backward(out)), gradients(refloss.Softmax().backward(due))
    assert_same(out.losses, due.losses, due.losses, out, "losses against themselves")
    r = np.outer(np.linalg.norm(inputs["x"], axis=1), np.linalg.norm(inputs["W"], axis=1))
    assert_same(out.logits, due.logits, r, out, "logits against r")
    G = np.abs(due_grads["logits"])
    # plain logits: ‖∇_x z‖ = ‖W‖ and ‖∇_W z‖ = ‖x‖, also at zero rows
    sizes = {
        "logits": G,
        "x": (G @ np.linalg.norm(inputs["W"], axis=1))[:, None],
        "W": (G.T @ np.linalg.norm(inputs["x"], axis=1))[:, None],
    }
    for field, value in grads.items():
        assert_same(value, due_grads[field], sizes[field], out, field)


@pytest.mark.parametrize("margin", [1, 2])
def test_a_softmax_is_singular_at_zero_rows_for_every_margin(margin, precision):
    """A-Softmax divides by ‖W‖ whatever m is."""
    with pytest.raises(ValueError, match=r"W\[1\] is a zero row"):
        refloss.ASoftmax(precision=precision, margin=margin).forward([[1.0, 2.0]], [[1.0, 0.0], [0.0, 0.0]], [0])


@pytest.mark.parametrize("options", [{}, {"continuation": "steep"}], ids=["papers", "steep"])
def test_zero_row_has_no_slope_in_the_angle(options, precision):
    """θ = π/2 at a zero row of x is a convention, not an angle: no margin's slope arrives anywhere, no cone."""
    if options:
        options = {"continuation": (steep, steep_slope)}
    loss = refloss.FNormSphereFace(scale=2, margin=2, precision=precision, **ZERO, **options)
    out, grads = passes(loss, [[0.0, 0.0], [1.0, 2.0]], [[1.0, 0.0], [0.6, -0.8]], [0, 1])
    np.testing.assert_array_equal(grads.x[0], [0, 0])
    # the row gives nothing to W either: what W gets is that of the other sample alone
    alone = loss.backward(loss.forward([[1.0, 2.0]], [[1.0, 0.0], [0.6, -0.8]], [1]))
    assert_same(grads.W, alone.W / 2, 4 * np.abs(alone.logits).sum(), out, "grad_W")
    assert not out.cone.any()


# -- zero rows: zero_norm="zero" -------------------------------------------------------------------


@pytest.mark.parametrize("name", SINGULAR_X)
def test_zero_row_of_x_has_angle_90_degrees(name, rng, precision):
    """zero_norm='zero': x̂ is the zero vector, cos θ = 0, θ = π/2, and the formula goes on, all finite."""
    loss, inputs = make(name, precision=precision, **ZERO), example(name, rng)
    inputs["x"][1] = 0
    out, grads = passes(loss, **inputs)
    assert_finite(out, grads)
    assert out.x_norm[1] == 0
    if name == "l2_softmax":
        np.testing.assert_array_equal(out.logits[1], inputs["b"])
        return
    assert not out.cos_theta[1].any()
    assert out.theta[1] == np.pi / 2
    s = getattr(loss, "scale", 0.0)  # r = 0 in L-Softmax and A-Softmax
    margin = getattr(loss, "margin", 0)
    # row 1 has label 1; ψ(π/2) = 1 − 2·2 = −3 for m = 4: k = 2 and cos 2π = 1
    target = {"f_norm_sphereface": -3 * s, "am_softmax": -s * margin, "arcface": -s * np.sin(margin)}.get(name, 0.0)
    assert_same(out.logits[1], np.array([0, target, 0, 0]), max(s, 1), out, "logits against s")


@pytest.mark.parametrize(
    ("options", "due"),
    [
        ({"easy_margin": True, "margin": 0.5}, 0.0),  # cos θ = 0 is not cos θ > 0
        ({"past_pi": "linear", "margin": 0.5}, -np.sin(0.5)),  # π/2 < π − m
        ({"past_pi": "linear", "margin": 2.0}, -2 * np.sin(2.0)),  # π/2 > π − m: the tail
    ],
    ids=str,
)
@pytest.mark.parametrize("argument", ["x", "W"])
def test_zero_row_of_arcface_takes_the_side_of_90_degrees(argument, options, due, precision):
    """zero_norm='zero': the options decide at θ = π/2 as at any angle."""
    inputs = {"x": np.array([[1.0, 2.0]]), "W": np.array([[2.0, 1.0], [0.6, -0.8]])}
    inputs[argument][0] = 0
    loss = refloss.ArcFace(scale=8, precision=precision, **options, **ZERO)
    out = loss.forward(**inputs, labels=[0])
    assert_close(out.logits[0, 0], 8 * due, 8.0, ROUNDINGS, "logit against s")
    assert_finite(out, loss.backward(out))
    assert not out.cone.any()


@pytest.mark.parametrize("name", NORMALISES_X)
def test_nothing_flows_back_to_a_zero_row_of_x(name, rng, precision):
    """Where x enters by x̂ alone, a zero row gets a gradient of exactly 0; others are not touched."""
    loss, inputs = make(name, precision=precision, **ZERO, reduction="none"), example(name, rng)
    ordinary = loss.backward(loss.forward(**inputs))
    inputs["x"][1] = 0
    grads = loss.backward(loss.forward(**inputs))
    np.testing.assert_array_equal(grads.x[1], np.zeros(3))
    others = [0, 2, 3, 4, 5]
    scale = natural_scales(loss, inputs["x"], inputs["W"], np.abs(grads.logits))["x"]
    assert_close(grads.x[others], ordinary.x[others], scale[others], 64 * ROUNDINGS, "other rows of grad_x")


@pytest.mark.parametrize("name", ["l_softmax", "a_softmax"])
def test_plain_logits_still_flow_to_a_zero_row_of_x(name, rng, precision):
    """L- and A-Softmax: logits of other classes are plain inner products and flow to x_i = 0; the
    target's does not."""
    loss, inputs = make(name, precision=precision, **ZERO), example(name, rng)
    inputs["x"][1] = 0
    out, grads = passes(loss, **inputs)
    W = unit(inputs["W"]) if name == "a_softmax" else inputs["W"]
    others = [0, 2, 3]  # the label is 1
    due = grads.logits[1, others] @ W[others]
    assert due.any()
    assert_same(grads.x[1], due, np.abs(grads.logits[1, others]).sum(), out, "grad_x against Σ|g|")


@pytest.mark.parametrize("name", SINGULAR_X)
def test_zero_row_of_x_gives_nothing_to_W(name, rng, precision):
    """A batch of zero rows gives W a gradient of exactly 0; b still gets its own."""
    inputs = example(name, rng)
    inputs["x"][...] = 0
    loss = make(name, precision=precision, **ZERO)
    grads = loss.backward(loss.forward(**inputs))
    np.testing.assert_array_equal(grads.W, np.zeros((4, 3)))
    if grads.b is not None:
        assert grads.b.any()


@pytest.mark.parametrize("name", NORMALISES_W)
def test_zero_row_of_W_gets_and_gives_nothing(name, rng, precision):
    """W_j = 0 under 'zero': cos θ = 0 for that class, its gradient exactly 0, everything finite."""
    inputs = example(name, rng)
    inputs["W"][1] = 0
    loss = make(name, precision=precision, **ZERO)
    out, grads = passes(loss, **inputs)
    assert_finite(out, grads)
    assert out.W_norm[1] == 0
    np.testing.assert_array_equal(grads.W[1], np.zeros(3))
    if out.cos_theta is not None:
        assert not out.cos_theta[:, 1].any()
        np.testing.assert_array_equal(out.theta[inputs["labels"] == 1], np.pi / 2)


def test_zero_target_row_of_l_softmax(rng, precision):
    """L-Softmax, W_y = 0 under 'zero': nothing through its own samples' targets, plain W_j·x of the others."""
    loss, inputs = make("l_softmax", precision=precision, **ZERO), example("l_softmax", rng)
    inputs["W"][1] = 0
    out, grads = passes(loss, **inputs)
    assert_finite(out, grads)
    assert not out.logits[:, 1].any()
    others = inputs["labels"] != 1
    due = grads.logits[others, 1] @ inputs["x"][others]
    scale = np.abs(grads.logits[:, 1]) @ np.linalg.norm(inputs["x"], axis=1)
    assert_same(grads.W[1], due, scale, out, "grad_W against Σ|g|‖x‖")


@pytest.mark.parametrize("variant", [v for v, (cls, _) in VARIANTS.items() if hasattr(cls, "zero_norm")])
def test_zero_x_and_zero_W_together(variant, rng, precision):
    """Zero rows of x and of W at once, meeting as target pair and apart: finite, and marked as no cone."""
    inputs = example(variant, rng)
    inputs["x"][[0, 1]], inputs["W"][[1, 2]] = 0, 0
    loss = make(variant, precision=precision, **ZERO)
    out = loss.forward(**inputs)
    assert_finite(out, loss.backward(out))
    if out.cone is not None:
        assert not out.cone[[0, 1, 2, 5]].any()


@pytest.mark.parametrize("variant", VARIANTS)
def test_zero_norm_changes_nothing_without_zero_rows(variant, rng, precision):
    """zero_norm='zero' gives the bits of 'error' on ordinary input."""
    if not hasattr(make(variant, precision=precision), "zero_norm"):
        with pytest.raises(TypeError, match="zero_norm"):
            make(variant, precision=precision, **ZERO)
        return
    inputs = example(variant, rng)
    outs = [
        loss.forward(**inputs)
        for loss in (make(variant, precision=precision), make(variant, precision=precision, **ZERO))
    ]
    assert bits(outs[0]) == bits(outs[1])


@pytest.mark.parametrize("name", SINGULAR_X)
def test_zero_row_that_is_ignored_is_no_error(name, rng, precision):
    """An ignored row may be zero under 'error' too: loss, theta and gradient 0, no cone."""
    inputs = example(name, rng)
    inputs["x"][[1, 4]], inputs["labels"][[1, 4]] = 0, -1
    loss = make(name, precision=precision, ignore_index=-1)
    out, grads = passes(loss, **inputs)
    assert_finite(out, grads)
    for value in (out.losses, out.theta, out.cone, grads.x, grads.logits):
        if value is not None:
            assert not value[[1, 4]].any()


def test_zero_target_row_of_an_ignored_sample_is_no_error(rng, precision):
    """L-Softmax: the class of an ignored sample is no target."""
    inputs = example("l_softmax", rng)
    inputs["labels"] = np.array([0, 1, 3, 2, 2, 3])
    inputs["W"][2] = 0
    out = refloss.LSoftmax(precision=precision, ignore_index=2).forward(**inputs)
    assert_finite(out)


def test_inference_has_no_target_to_be_singular():
    """L-Softmax without labels has no target row: zero rows give zero logits."""
    logits = refloss.LSoftmax().inference_logits([[0.0, 0.0], [1.0, 2.0]], [[0.0, 0.0], [3.0, 4.0]])
    np.testing.assert_array_equal(logits[[0, 0, 1], [0, 1, 0]], 0)
    assert logits[1, 1] == near(11, ROUNDINGS)


# -- cones -----------------------------------------------------------------------------------------

# x exactly parallel to its target's row: whole numbers, not of unit length, whose quotients do not
# all round exactly
ROW = np.array([3.0, -1.0, 7.0])
POLES = {"at_0": (3.0 * ROW, 0.0), "at_pi": (-5.0 * ROW, np.pi)}
OTHERS = np.array([[1.0, 2.0, -1.0], [0.5, -3.0, 2.0]])


def at_pole(pole):
    """Row 0 at the pole; row 1, of another class, ordinary."""
    x = np.stack([POLES[pole][0], [1.0, -2.0, 0.5]])
    return {"x": x, "W": np.stack([ROW, *OTHERS]), "labels": np.array([0, 1])}


CONES = {  # loss and where it has a cone; D ≥ 2, m > 0
    "arcface": ({}, {"at_0", "at_pi"}),
    "arcface-small_margin": ({"margin": 1e-14}, {"at_0", "at_pi"}),
    "arcface-large_margin": ({"margin": 3.0}, {"at_0", "at_pi"}),
    "arcface-easy": ({"easy_margin": True}, {"at_0"}),
    "arcface-linear": ({"past_pi": "linear"}, {"at_0"}),
    "arcface-easy-linear": ({"easy_margin": True, "past_pi": "linear"}, {"at_0"}),
    "arcface-m_0": ({"margin": 0}, set()),
    "arcface-m_0-linear": ({"margin": 0, "past_pi": "linear"}, set()),
    "arcface-detached": ({"detach_margin": True}, set()),
}


@pytest.mark.parametrize("pole", POLES)
@pytest.mark.parametrize("case", CONES)
def test_cones_of_arcface_are_marked(case, pole, precision):
    """out.cone marks exactly the samples at a cone; theta is exactly 0 or π; everything is finite."""
    options, where = CONES[case]
    loss = refloss.ArcFace(precision=precision, **options)
    out = loss.forward(**at_pole(pole))
    assert_finite(out, loss.backward(out))
    assert out.theta[0] == POLES[pole][1]
    np.testing.assert_array_equal(out.cone, [pole in where, False])


@pytest.mark.parametrize("pole", POLES)
@pytest.mark.parametrize("margin", [0.1, 0.5, 3.0])
def test_gradient_at_a_cone_is_its_centre(pole, margin, precision):
    """At a cone the target adds no tangential part: grad_x_0 and grad_W_0 are those of the other logits."""
    loss, inputs = refloss.ArcFace(precision=precision, margin=margin, scale=8), at_pole(pole)
    out, grads = passes(loss, **inputs)
    x_hat, W_hat, g = unit(inputs["x"]), unit(inputs["W"]), grads.logits
    cos = x_hat @ W_hat.T
    # s (ŵ_j − cos θ x̂) / ‖x‖ over the other classes
    tangents = W_hat[1:] - cos[0, 1:, None] * x_hat[0]
    due = 8 * g[0, 1:] @ tangents / np.linalg.norm(inputs["x"][0])
    scales = natural_scales(loss, inputs["x"], inputs["W"], np.abs(g))
    assert_same(grads.x[0], due, scales["x"][0], out, "grad_x against its terms")
    # row 1 is no sample of class 0
    due = 8 * g[1, 0] * (x_hat[1] - cos[1, 0] * W_hat[0]) / np.linalg.norm(inputs["W"][0])
    assert_same(grads.W[0], due, scales["W"][0], out, "grad_W against its terms")


@pytest.mark.parametrize("pole", POLES)
def test_gradient_at_a_cone_is_in_the_generalised_gradient(pole, rng, precision):
    """One-sided slopes at the cone: L(x ± hv) − L(x) = ±h ⟨grad, v⟩ + h |g_y| s sin m/‖x‖, so that their
    mean is the gradient and their distance the cone's slope."""
    loss, inputs = refloss.ArcFace(precision=precision, scale=4), at_pole(pole)
    out, grads = passes(loss, **inputs)
    x_norm = np.linalg.norm(inputs["x"][0])
    # cos(m + δ) beside θ = 0 and −cos(m − δ) beside π both fall with δ, by sin m
    bend = -grads.logits[0, 0] * 4 * np.sin(0.5) / x_norm
    assert_bend(loss, inputs, "x", out, grads, bend, rng)


def assert_bend(loss, inputs, argument, out, grads, bend, rng):
    """One-sided slopes of the loss in row 0 of x or W: their mean is the gradient, half their distance is `bend`."""
    h = 1e-6 * np.linalg.norm(inputs[argument][0])
    scale = natural_scales(loss, inputs["x"], inputs["W"], np.abs(grads.logits))[argument][0, 0]
    for v in rng.normal(size=(5, 3)):
        v -= (v @ ROW) / (ROW @ ROW) * ROW  # ⟂ x and W_y
        step = np.zeros_like(inputs[argument])
        step[0] = h * v / np.linalg.norm(v)
        ahead, back = (loss.forward(**(inputs | {argument: inputs[argument] + k * step})).loss for k in (1, -1))
        along = getattr(grads, argument)[0] @ step[0] / h
        # rounding of the loss over h is 1e-10 of the scale, the next term of Taylor h over the length, 1e-6
        assert_close((ahead - back) / (2 * h), along, scale, 1e-5, "mean slope")
        assert_close((ahead + back - 2 * out.loss) / (2 * h), bend, scale, 1e-5, "bend")


@pytest.mark.parametrize("pole", POLES)
def test_balls_of_samples_at_one_cone_add_up(pole, rng, precision):
    """In W_y the cones of all samples at the pole add up: one-sided slopes of the loss differ by
    Σ_i |g_iy| s sin m/‖W_y‖, and their mean is the gradient."""
    loss, inputs = refloss.ArcFace(scale=4, precision=precision), at_pole(pole)
    inputs["x"] = np.concatenate([inputs["x"], inputs["x"][:1] / 4])
    inputs["labels"] = np.array([0, 1, 0])
    out, grads = passes(loss, **inputs)
    np.testing.assert_array_equal(out.cone, [True, False, True])
    bend = -(grads.logits[0, 0] + grads.logits[2, 0]) * 4 * np.sin(0.5) / np.linalg.norm(ROW)
    assert_bend(loss, inputs, "W", out, grads, bend, rng)


@pytest.mark.parametrize("pole", POLES)
@pytest.mark.parametrize("name", [*PSI, "arcface", "margin_softmax-scale", "margin_softmax-x_norm"])
def test_a_detached_margin_has_no_cone(name, pole, precision):
    """detach_margin: the slope is −sin θ, 0 at both poles, whatever the margin."""
    options = {"margin": 2, "continuation": (steep, steep_slope)} if name in PSI else {}
    for detached in (False, True):
        loss = make(name, precision=precision, detach_margin=detached, **options)
        out = loss.forward(**at_pole(pole))
        assert_finite(out, loss.backward(out))
        # a continuation's cone is at π only
        np.testing.assert_array_equal(out.cone, [not detached and (pole == "at_pi" or name not in PSI), False])


@pytest.mark.parametrize("pole", POLES)
@pytest.mark.parametrize("name", [*PSI, "am_softmax"])
@pytest.mark.parametrize("margin", [1, 2])
def test_other_margins_are_smooth_at_the_poles(name, margin, pole, precision):
    """L-/A-Softmax, F-Norm SphereFace and CosFace have no cone; dψ/dcos θ = m² (1 for CosFace)."""
    loss, inputs = make(name, precision=precision, margin=margin), at_pole(pole)
    out = loss.forward(**inputs)
    assert_finite(out, loss.backward(out))
    assert not out.cone.any()
    # ψ at a small angle δ from the pole: ψ(pole) ∓ m² δ²/2, to δ⁴
    slopes = (margin if name in PSI else 1) ** 2
    delta = 1e-4
    turned = {"x": inputs["x"] + [delta * np.linalg.norm(inputs["x"][0]) * unit(np.array([1.0, 3.0, 0.0])), [0, 0, 0]]}
    r = {"l_softmax": out.x_norm[0] * out.W_norm[0], "a_softmax": out.x_norm[0]}.get(name) or loss.scale
    before, after = out.logits[0, 0] / r, loss.forward(**(inputs | turned)).logits[0, 0]
    after /= r * (np.linalg.norm(turned["x"][0]) / out.x_norm[0] if name in ("l_softmax", "a_softmax") else 1)
    sign = 1 if pole == "at_0" else (-1) ** (margin if name in PSI and margin == 1 else 1)
    assert_close(after - before, -sign * slopes * delta**2 / 2, slopes * delta**2 / 2, 1e-3, "ψ near the pole")


@pytest.mark.parametrize("variant", [v for v, (cls, _) in VARIANTS.items() if cls.has_margin])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_one_dimension_has_no_cone(variant, sign, precision):
    """D = 1: every sample lies at θ = 0 or π, no direction is tangent, nothing is marked."""
    loss = make(variant, precision=precision)
    out = loss.forward([[2.0 * sign], [-3.0]], [[0.7], [-0.3]], [0, 1])
    assert_finite(out, loss.backward(out))
    assert not out.cone.any()
    np.testing.assert_array_equal(out.theta, [0 if sign > 0 else np.pi, 0])


@pytest.mark.parametrize("pole", POLES)
def test_ignored_sample_at_a_pole_is_not_marked(pole, precision):
    """An ignored row has no margin, and so no cone; its theta is 0."""
    inputs = at_pole(pole) | {"labels": [-1, 1]}
    out = refloss.ArcFace(precision=precision, ignore_index=-1).forward(**inputs)
    np.testing.assert_array_equal(out.cone, [False, False])
    assert out.theta[0] == 0


@pytest.mark.parametrize("pole", POLES)
@pytest.mark.parametrize("nudge", [2.0**-52, 1e-12, 1e-6])
def test_one_ulp_off_the_pole_is_no_cone(pole, nudge, precision):
    """The nearest x that is not parallel has a tangent: of full length, |g_y| s sin m/‖x‖, along the
    true direction, and is not marked."""
    loss, inputs = refloss.ArcFace(precision=precision, scale=8), at_pole(pole)
    inputs["x"][0, 1] *= 1 + nudge
    out, grads = passes(loss, **inputs)
    assert not out.cone.any()
    with mpmath.workdps(50):
        x, w = ([mpmath.mpf(float(v)) for v in inputs[a][0]] for a in "xW")
        along = mpmath.fdot(x, w) / mpmath.fdot(x, x)
        t = [b - along * a for a, b in zip(x, w, strict=True)]
        length = mpmath.sqrt(mpmath.fdot(t, t))
        tangent = np.array([float(v / length) for v in t])
        theta = mpmath.atan2(length * mpmath.sqrt(mpmath.fdot(x, x)), mpmath.fdot(x, w))
        assert_close(out.theta[0], float(theta), float(theta), ROUNDINGS, "theta against itself")
    x_norm = np.linalg.norm(inputs["x"][0])
    plain = loss.backward(loss.forward(**at_pole(pole))).x[0]  # the other classes' part
    slope = 8 * grads.logits[0, 0] * np.sin(out.theta[0] + 0.5) / x_norm
    scale = natural_scales(loss, inputs["x"], inputs["W"], np.abs(grads.logits))["x"][0]
    assert_close(grads.x[0] - plain, slope * tangent, scale, 10 * nudge + relative_error_of(out), "target's part")


def test_a_sine_below_the_range_is_no_cone(precision):
    """sin θ = 2^-1075 rounds to 0, and yet there is a tangent, along which the target pulls."""
    out, grads = passes(refloss.ArcFace(precision=precision), [[2.0, 2.0**-1074]], [[1.0, 0.0], [-1.0, 0.0]], [0])
    assert out.theta[0] == 0
    assert not out.cone[0]
    assert grads.x[0, 1] > 0


@pytest.mark.parametrize("radius", ["scale", "x_norm", "both_norms"])
@pytest.mark.parametrize("pole", POLES)
def test_cones_of_a_users_margin_are_marked(radius, pole, precision):
    """MarginSoftmax: ψ' ≠ 0 at a pole is a cone, ψ' = 0 is none."""
    inputs = at_pole(pole)
    for psi, dpsi, cone in (
        (lambda t, xp: 1 - t, lambda t, xp: -1 + 0 * t, True),
        (lambda t, xp: xp.cos(t), lambda t, xp: -xp.sin(t), False),
    ):
        loss = refloss.MarginSoftmax(precision=precision, psi=psi, dpsi=dpsi, radius=radius, scale=4)
        out = loss.forward(**inputs)
        assert_finite(out, loss.backward(out))
        np.testing.assert_array_equal(out.cone, [cone, False])


def flat(theta, xp):
    """D = −1 + cos θ: a kink at π/2, no cone at π."""
    return -1 + xp.cos(theta)


def flat_slope(theta, xp):
    return -xp.sin(theta)


@pytest.mark.parametrize("name", PSI)
@pytest.mark.parametrize(
    ("D", "cone"), [((steep, steep_slope), True), ((flat, flat_slope), False)], ids=["steep", "flat"]
)
def test_cone_of_a_continuation_at_pi(name, D, cone, precision):
    """D'(π) ≠ 0 is a cone at π, marked and finite; D'(π) = 0 is none, nor is θ = 0."""
    loss = make(name, precision=precision, margin=2, continuation=D)
    for pole in POLES:
        out = loss.forward(**at_pole(pole))
        assert_finite(out, loss.backward(out))
        np.testing.assert_array_equal(out.cone, [cone and pole == "at_pi", False])


# -- jumps -----------------------------------------------------------------------------------------

SIDES = (-1e-9, 1e-9)  # a step to either side of a jump, and what an angle there may differ by


def arc_logit(theta, **options):
    x, W = at_angle(theta)
    return refloss.ArcFace(scale=1, **options).forward(x, W, [0]).logits[0, 0]


@pytest.mark.parametrize("margin", [0.1, 0.5, 1.0, 2.5])
def test_jump_of_past_pi_linear(margin, precision):
    """Before θ = π − m: cos(θ + m); from there on: cos θ − m sin m."""
    edge = np.pi - margin
    before, after = (arc_logit(edge + step, past_pi="linear", margin=margin, precision=precision) for step in SIDES)
    assert_close(before, np.cos(edge + margin), 1.0, 1e-9, "cos(θ + m) against 1")
    assert_close(after, np.cos(edge) - margin * np.sin(margin), 1.0, 1e-9, "linear against 1")


def test_equality_of_past_pi_is_linear():
    """θ = π − m as doubles have them (both π/2): the linear branch, value −m sin m, slope −sin θ, and no cone."""
    loss = refloss.ArcFace(scale=1, margin=np.pi / 2, past_pi="linear")
    out = loss.forward([[0.0, 2.0]], [[3.0, 0.0], [1.0, 1.0]], [0])
    assert out.theta[0] == np.pi / 2
    assert_close(out.logits[0, 0], -np.pi / 2, 1.0, ROUNDINGS, "the linear branch")
    grads = loss.backward(out)
    # ∂z_y/∂x = ŵ/‖x‖ here, where cos(θ + m) would have slope −sin π = 0
    others = grads.logits[0, 1] * np.array([1, 0]) / np.sqrt(2) / 2
    due = grads.logits[0, 0] * np.array([1.0, 0.0]) / 2 + others
    assert_same(grads.x[0], due, np.abs(grads.logits[0]).sum(), out, "grad_x")
    # ∂(−m sin m)/∂m
    due = grads.logits[0, 0] * (-np.sin(np.pi / 2) - np.pi / 2 * np.cos(np.pi / 2))
    assert_same(grads.margin, due, np.abs(grads.logits).sum(), out, "grad_margin")


def test_extended_precision_sees_the_side_of_the_jump():
    """The double π/2 is 6e-17 below π/2: with that margin θ = π/2 lies just before π − m, and extended knows it."""
    loss = refloss.ArcFace(precision="extended", scale=1, margin=np.pi / 2, past_pi="linear")
    out = loss.forward([[0.0, 2.0]], [[3.0, 0.0], [1.0, 1.0]], [0])
    assert out.logits[0, 0] == -1.0


@pytest.mark.parametrize("margin", [0.1, 0.5, 2.0])
def test_jump_of_easy_margin(margin, precision):
    """The margin where cos θ > 0, else cos θ."""
    before, after = (
        arc_logit(np.pi / 2 + step, easy_margin=True, margin=margin, precision=precision) for step in SIDES
    )
    assert_close(before, np.cos(np.pi / 2 + margin), 1.0, 2e-9, "cos(θ + m) against 1")
    assert_close(after, 0.0, 1.0, 2e-9, "cos θ against 1")


def test_equality_of_easy_margin_is_plain(precision):
    """cos θ = 0 exactly is not cos θ > 0: no margin, value 0, slope −1."""
    loss = refloss.ArcFace(precision=precision, scale=1, easy_margin=True)
    out = loss.forward([[0.0, 2.0]], [[3.0, 0.0], [1.0, 1.0]], [0])
    assert_close(out.logits[0, 0], 0.0, 1.0, UNIT, "cos(π/2) against 1")
    grads = loss.backward(out)
    due = grads.logits[0, 0] * np.array([1.0, 0.0]) / 2 + grads.logits[0, 1] * np.array([1, 0]) / np.sqrt(2) / 2
    assert_same(grads.x[0], due, np.abs(grads.logits[0]).sum(), out, "grad_x")
    assert grads.margin == 0


@pytest.mark.parametrize(
    ("options", "edge"),
    [({"past_pi": "linear", "margin": 0.5}, np.pi - 0.5), ({"easy_margin": True, "margin": 0.5}, np.pi / 2)],
    ids=["past_pi", "easy_margin"],
)
@pytest.mark.parametrize("side", SIDES, ids=["before", "after"])
def test_gradient_beside_a_jump_is_that_of_its_side(options, edge, side, precision):
    """No derivative of the jump is taken: the slope in θ is that of the branch taken, and no cone."""
    x, W = at_angle(edge + side)
    loss = refloss.ArcFace(precision=precision, scale=1, **options)
    out, grads = passes(loss, x, W, [0])
    slope = -np.sin(edge + 0.5) if side < 0 else -np.sin(edge)
    # along the unit vector in which θ grows; W_1 lies at −arccos 0.6
    growing = np.array([-np.sin(edge), np.cos(edge)])
    due = grads.logits[0, 0] * slope + grads.logits[0, 1] * -np.sin(edge + np.arccos(0.6))
    assert_close(grads.x[0] @ growing, due, np.abs(grads.logits[0]).sum(), 1e-8, "slope in θ")
    assert not out.cone.any()


@pytest.mark.parametrize("theta", [0.3, 1.2, 1.8, 2.9])
def test_easy_margin_and_past_pi_together(theta, precision):
    """Easy margin decides first: beyond π/2 the logit is cos θ; below, past_pi applies at π − m."""
    margin = 2.2  # π − m = 0.94 < π/2
    value = arc_logit(theta, margin=margin, easy_margin=True, past_pi="linear", precision=precision)
    due = np.cos(theta)
    if theta < np.pi / 2:
        due = np.cos(theta + margin) if theta < np.pi - margin else np.cos(theta) - margin * np.sin(margin)
    assert_close(value, due, 1.0, ROUNDINGS, "logit against s = 1")
