"""refloss against pytorch-metric-learning ("PML") in float64: losses, and gradients in x and W.

What its source says (`losses/large_margin_softmax_loss.py` and its subclasses, 2.6 … 2.9), in our words:

    ArcFaceLoss             s cos(θ + m), m in degrees; cos θ − m sin m beyond θ = π − m: past_pi="linear"
    CosFaceLoss             s (cos θ − m)
    LargeMarginSoftmaxLoss  s ‖W_j‖‖x‖ ψ(θ), cos mθ as a polynomial of cos θ, no annealing
    SphereFaceLoss          s ‖x‖ ψ(θ), the same ψ
    NormalizedSoftmaxLoss   cos θ / T: by default it normalises x as well

W is (D, C) there. θ comes from arccos, v̂ from v / max(‖v‖, 1e-12). The agreement tests aim at every
branch; every difference has a test of its own below that shows it with numbers.
"""

from __future__ import annotations

import warnings

import mpmath
import numpy as np
import pytest
from agreement import (
    assert_rows_agree,
    assert_values_agree,
    in_the_plane,
    logit_terms,
    one_thread_of_torch,
    piecewise_psi,
    polar_sizes,
    worst_of_rows,
)
from helpers import assert_printed, near, need

import refloss
from refloss.cases.angles import place

PI = np.pi


def pml(name, x, W, labels, upstream=None, *, reducer=None, distance=None, unit_x=False, **parameters):
    """(losses, grad_x, grad_W) of a PML loss on (x, W), with W set to W.T; arrays in, arrays out.

    The gradients are those of Σ upstream · losses. unit_x: the loss is given x / ‖x‖.
    """
    torch = one_thread_of_torch()
    need("pytorch_metric_learning")
    losses = need("pytorch_metric_learning.losses")
    reducers = need("pytorch_metric_learning.reducers")
    distances = need("pytorch_metric_learning.distances")
    if distance == "plain_dot":
        parameters["distance"] = distances.DotProductSimilarity(normalize_embeddings=False)
    with warnings.catch_warnings():
        # init_margin hands torch integers to scipy.special.binom: torch's matter, not ours
        warnings.filterwarnings("ignore", "__array_wrap__ must accept context", DeprecationWarning)
        module = getattr(losses, name)(
            num_classes=len(W),
            embedding_size=W.shape[1],
            reducer=reducers.DoNothingReducer() if reducer is None else reducer,
            **parameters,
        )
    module.W.data = torch.tensor(np.asarray(W).T.copy())
    given = torch.tensor(np.asarray(x), requires_grad=True)
    embeddings = torch.nn.functional.normalize(given) if unit_x else given
    result = module(embeddings, torch.tensor(labels))
    per_sample = result["loss"]["losses"] if reducer is None else result
    per_sample.backward(torch.ones_like(per_sample) if upstream is None else torch.tensor(upstream))
    return per_sample.detach().numpy(), given.grad.numpy(), module.W.grad.numpy().T


# -- inputs, aimed at every branch -----------------------------------------------------------------

# each a list of target angles; the others follow from W
ANGLES = {
    "acute": np.linspace(0.02, PI / 2 - 0.02, 24),
    "obtuse": np.linspace(PI / 2 + 0.02, PI - 0.02, 24),
    "every_twentieth_of_pi": np.arange(1, 20) * PI / 20 + 1e-3,
    "knots_from_both_sides": np.sort(
        np.concatenate([np.arange(1, m) * PI / m + d for m in (2, 3, 4, 5) for d in (-1e-6, 1e-6)])
    ),
    "near_the_poles": np.array([1e-3, 2e-3, 1e-2, PI - 1e-2, PI - 2e-3, PI - 1e-3]),
}
DIMENSIONS = (2, 3, 16)


def aimed(angles, D, norms=(0.5, 3.0)):
    """x (N, D), W (5, D), labels and upstream (N,): x_i lies at angles[i] from its class's row.

    The rows of W lie 0.2 rad apart in a small cone, so that at scale 64, too, no sample is confident:
    where 1 − p_y is tiny, torch's gradient has no digits left (see test_torch.py).
    """
    rng = np.random.default_rng([D, len(angles)])
    axis = np.eye(D)[0]
    W = axis + 0.4 * np.linspace(-1, 1, 5)[:, None] * np.eye(D)[1] + 0.02 * rng.normal(size=(5, D))
    W *= rng.uniform(*norms, 5)[:, None] / np.linalg.norm(W, axis=1)[:, None]
    labels = np.arange(len(angles)) % 4  # class 4 is absent
    x = place(rng, W, labels, angles, rng.uniform(*norms, len(angles)))
    upstream = rng.normal(size=len(angles)) * 10.0 ** rng.integers(-2, 3, len(angles))
    upstream[3] = 0.0
    return x, W, labels, upstream


def compare(ours, theirs, data, radius, psi, dpsi, scale=1.0):
    """Losses and both gradients of one sample set, under a non-uniform upstream gradient."""
    x, W, labels, upstream = data
    out = ours.forward(x, W, labels)
    grads = ours.backward(out, upstream)
    losses, grad_x, grad_W = theirs
    assert out.complement.min() > 1e-7, "torch's p_y - 1 has too few digits here"
    assert out.complement.min() > 1e-7, "torch's p_y - 1 has too few digits here"
    assert_values_agree(out.losses, losses, "losses")
    G = logit_terms(out.logits, np.eye(len(W))[labels], share=upstream)
    in_x, in_W = polar_sizes(x, W, labels, radius, psi, dpsi, scale)
    assert_rows_agree(grads.x, grad_x, (G * in_x).sum(axis=1), "gradient in x")
    assert_rows_agree(grads.W, grad_W, (G * in_W).sum(axis=0), "gradient in W")
    return out


aimed_inputs = pytest.mark.parametrize("angles", ANGLES)
dimensions = pytest.mark.parametrize("D", DIMENSIONS, ids=lambda D: f"D{D}")
scales = pytest.mark.parametrize("scale", [1.0, 16.0, 64.0], ids=lambda s: f"s{s:g}")
multipliers = pytest.mark.parametrize("m", [1, 2, 3, 4, 5], ids=lambda m: f"m{m}")


# -- agreement -------------------------------------------------------------------------------------


@pytest.mark.parametrize("degrees", [0.0, 10.0, 28.6, 60.0, 90.0, 150.0], ids=lambda d: f"{d:g}deg")
@scales
@dimensions
@aimed_inputs
def test_arcface_agrees(angles, D, scale, degrees):
    """ArcFace(past_pi="linear") is ArcFaceLoss, its degrees converted, on both sides of θ = π − m."""
    m = np.radians(degrees)
    data = aimed(ANGLES[angles], D)
    x, W, labels, upstream = data
    theirs = pml("ArcFaceLoss", x, W, labels, upstream, margin=degrees, scale=scale)
    compare(
        refloss.ArcFace(scale=scale, margin=m, past_pi="linear", reduction="none"),
        theirs,
        data,
        "scale",
        lambda t: np.where(t < PI - m, np.cos(t + m), np.cos(t) - m * np.sin(m)),
        lambda t: -np.where(t < PI - m, np.sin(t + m), np.sin(t)),
        scale,
    )


@pytest.mark.parametrize("m", [0.0, 0.35, 1.0], ids=lambda m: f"m{m:g}")
@scales
@dimensions
@aimed_inputs
def test_cosface_agrees(angles, D, scale, m):
    """AMSoftmax is CosFaceLoss."""
    data = aimed(ANGLES[angles], D)
    x, W, labels, upstream = data
    compare(
        refloss.AMSoftmax(scale=scale, margin=m, reduction="none"),
        pml("CosFaceLoss", x, W, labels, upstream, margin=m, scale=scale),
        data,
        "scale",
        lambda t: np.cos(t) - m,
        lambda t: -np.sin(t),
        scale,
    )


@multipliers
@dimensions
@aimed_inputs
def test_l_softmax_agrees(angles, D, m):
    """LSoftmax is LargeMarginSoftmaxLoss with its scale of 1, in every branch of ψ."""
    data = aimed(ANGLES[angles], D)
    x, W, labels, upstream = data
    theirs = pml("LargeMarginSoftmaxLoss", x, W, labels, upstream, margin=m, scale=1)
    ours = refloss.LSoftmax(margin=m, reduction="none")
    compare(ours, theirs, data, "both_norms", *piecewise_psi(m))


@multipliers
@dimensions
@aimed_inputs
def test_a_softmax_agrees(angles, D, m):
    """ASoftmax is SphereFaceLoss with its scale of 1, in every branch of ψ."""
    data = aimed(ANGLES[angles], D)
    x, W, labels, upstream = data
    theirs = pml("SphereFaceLoss", x, W, labels, upstream, margin=m, scale=1)
    compare(refloss.ASoftmax(margin=m, reduction="none"), theirs, data, "x_norm", *piecewise_psi(m))


@dimensions
@aimed_inputs
def test_w_norm_softmax_agrees(angles, D):
    """WNormSoftmax is NormalizedSoftmaxLoss at temperature 1 with a distance that leaves x as it is."""
    data = aimed(ANGLES[angles], D)
    x, W, labels, upstream = data
    theirs = pml("NormalizedSoftmaxLoss", x, W, labels, upstream, temperature=1.0, distance="plain_dot")
    compare(refloss.WNormSoftmax(reduction="none"), theirs, data, "x_norm", *piecewise_psi(1))


@multipliers
@scales
@dimensions
def test_f_norm_sphereface_agrees(D, scale, m):
    """FNormSphereFace is SphereFaceLoss(scale=s) on x / ‖x‖, differentiated through that division."""
    data = aimed(np.concatenate(list(ANGLES.values())), D)
    x, W, labels, upstream = data
    theirs = pml("SphereFaceLoss", x, W, labels, upstream, unit_x=True, margin=m, scale=scale)
    ours = refloss.FNormSphereFace(scale=scale, margin=m, reduction="none")
    compare(ours, theirs, data, "scale", *piecewise_psi(m), scale)


@pytest.mark.parametrize("temperature", [1.0, 0.05], ids=lambda t: f"T{t:g}")
@dimensions
@aimed_inputs
def test_normalized_softmax_of_unit_features_agrees(angles, D, temperature):
    """NormalizedSoftmaxLoss as it comes, which normalises x, is AMSoftmax with m = 0 and s = 1/T."""
    data = aimed(ANGLES[angles], D)
    x, W, labels, upstream = data
    theirs = pml("NormalizedSoftmaxLoss", x, W, labels, upstream, temperature=temperature)
    ours = refloss.AMSoftmax(margin=0, scale=1 / temperature, reduction="none")
    compare(ours, theirs, data, "scale", *piecewise_psi(1), 1 / temperature)


@pytest.mark.parametrize("scale", [0.25, 3.0], ids=lambda s: f"s{s:g}")
@multipliers
@pytest.mark.parametrize("name", ["LargeMarginSoftmaxLoss", "SphereFaceLoss"])
def test_psi_losses_with_a_scale_agree(name, m, scale):
    """PML's s ‖x‖ ψ(θ) is ours on the features s x, with s times the gradient in x; and MarginSoftmax, given
    ψ and the radius, agrees with both at s = 1 on those features."""
    data = aimed(np.concatenate(list(ANGLES.values())), 3)
    x, W, labels, upstream = data
    losses, grad_x, grad_W = pml(name, x, W, labels, upstream, margin=m, scale=scale)
    cls, radius = {
        "LargeMarginSoftmaxLoss": (refloss.LSoftmax, "both_norms"),
        "SphereFaceLoss": (refloss.ASoftmax, "x_norm"),
    }[name]
    psi, dpsi = piecewise_psi(m)
    generic = refloss.MarginSoftmax(
        psi=lambda theta, xp: psi(theta), dpsi=lambda theta, xp: dpsi(theta), radius=radius, reduction="none"
    )
    for ours in (cls(margin=m, reduction="none"), generic):
        scaled = scale * x, W, labels, upstream
        compare(ours, (losses, grad_x / scale, grad_W), scaled, radius, psi, dpsi)


@pytest.mark.parametrize("temperature", [0.05, 2.0], ids=lambda t: f"T{t:g}")
def test_normalized_softmax_with_a_temperature_agrees(temperature):
    """ŵ·x / T is WNormSoftmax on the features x / T, with 1/T times the gradient in x."""
    # short features: at T = 0.05 longer ones are confident, where torch has no digits
    x, W, labels, upstream = aimed(np.concatenate(list(ANGLES.values())), 3, norms=(0.3, 1.0))
    losses, grad_x, grad_W = pml(
        "NormalizedSoftmaxLoss", x, W, labels, upstream, temperature=temperature, distance="plain_dot"
    )
    compare(
        refloss.WNormSoftmax(reduction="none"),
        (losses, grad_x * temperature, grad_W),
        (x / temperature, W, labels, upstream),
        "x_norm",
        *piecewise_psi(1),
    )


@pytest.mark.parametrize(
    ("name", "parameters", "ours"),
    [
        ("ArcFaceLoss", {"margin": 28.6}, refloss.ArcFace(margin=np.radians(28.6), past_pi="linear")),
        ("CosFaceLoss", {}, refloss.CosFace(scale=64)),
        ("LargeMarginSoftmaxLoss", {}, refloss.LSoftmax()),
        ("SphereFaceLoss", {}, refloss.SphereFace()),
        ("NormalizedSoftmaxLoss", {}, refloss.AMSoftmax(margin=0, scale=20)),
    ],
    ids=["arcface", "cosface", "l_softmax", "sphereface", "normalized_softmax"],
)
def test_the_defaults_and_the_mean_agree(name, parameters, ours):
    """PML's default reducer is the mean over samples, our "mean"; and these are its defaults in our terms."""
    reducers = need("pytorch_metric_learning.reducers")
    x, W, labels, _ = aimed(np.concatenate(list(ANGLES.values())), 3)
    loss, grad_x, grad_W = pml(name, x, W, labels, reducer=reducers.MeanReducer(), **parameters)
    value, grads = ours.value_and_grad(x, W, labels)
    assert_values_agree(value, loss, "loss")
    G = logit_terms(ours.forward(x, W, labels).logits, np.eye(len(W))[labels], share=1 / len(x))
    radius, psi = {
        refloss.ArcFace: ("scale", None),
        refloss.AMSoftmax: ("scale", piecewise_psi(1)),
        refloss.LSoftmax: ("both_norms", piecewise_psi(4)),
        refloss.ASoftmax: ("x_norm", piecewise_psi(4)),
    }[type(ours)]
    m = np.radians(28.6)
    psi = psi or (
        lambda t: np.where(t < PI - m, np.cos(t + m), np.cos(t) - m * np.sin(m)),
        lambda t: -np.where(t < PI - m, np.sin(t + m), np.sin(t)),
    )
    in_x, in_W = polar_sizes(x, W, labels, radius, *psi, getattr(ours, "scale", 1.0))
    assert_rows_agree(grads.x, grad_x, (G * in_x).sum(axis=1), "gradient in x")
    assert_rows_agree(grads.W, grad_W, (G * in_W).sum(axis=0), "gradient in W")


@pytest.mark.parametrize("D", DIMENSIONS, ids=lambda D: f"D{D}")
def test_the_aimed_inputs_reach_every_branch(D):
    """The inputs above have samples in every branch of ψ for m = 1 … 5, within 2e-6 on both sides of each of
    its knots, and on both sides of ArcFace's θ = π − m; Gaussian features in 16 dimensions would not."""
    x, W, labels, _ = aimed(np.concatenate(list(ANGLES.values())), D)
    theta = refloss.ArcFace().forward(x, W, labels).theta
    for m in (1, 2, 3, 4, 5):
        assert set(np.floor(m * theta / PI).astype(int)) == set(range(m))
        for knot in np.arange(1, m) * PI / m:
            assert np.any((theta > knot) & (theta < knot + 2e-6))
            assert np.any((theta < knot) & (theta > knot - 2e-6))
    for degrees in (10.0, 28.6, 60.0, 90.0, 150.0):
        beyond = theta > PI - np.radians(degrees)
        assert beyond.any()
        assert not beyond.all()
    rng = np.random.default_rng(0)
    gaussian = refloss.ArcFace().forward(rng.normal(size=(2000, 16)), rng.normal(size=(1, 16)), [0] * 2000)
    assert not np.any(gaussian.theta > PI - 0.5)


# -- the differences, by name ----------------------------------------------------------------------


def test_difference_arcface_margin_is_in_degrees():
    """Difference: PML's margin is in degrees, and its default of 28.6 is 0.49916 rad, not the paper's 0.5.
    At θ = 60° and s = 64 the target logit differs by 64 (cos(θ + 0.49916) − cos(θ + 0.5)) = 0.0535. The
    margin 0.5 taken for degrees would be 0.0087 rad; we refuse 28.6 and say what it is in radians."""
    assert np.radians(28.6) == near(0.49916416607037828, 1e-15)
    # the other class at 90°: its logit is 0, and the loss is log(1 + e^{−z_y})
    x, W, labels = in_the_plane(0.0), in_the_plane(PI / 3, PI / 2), np.array([0])
    default = pml("ArcFaceLoss", x, W, labels)[0][0]
    half = refloss.ArcFace(scale=64, margin=0.5).forward(x, W, labels)
    exact = refloss.ArcFace(scale=64, margin=np.radians(28.6)).forward(x, W, labels)
    assert exact.loss == near(default, 1e-12)
    assert_printed(exact.logits[0, 0] - half.logits[0, 0], 0.0535, 1e-4)
    assert abs(half.loss - default) > 0.009
    with pytest.raises(ValueError, match=r"if these are degrees, pass margin=0\.499164"):
        refloss.ArcFace(margin=28.6)


def test_difference_arcface_falls_back_beyond_pi_minus_m():
    """Difference: beyond θ = π − m PML takes cos θ − m sin m, our past_pi="linear"; the paper's cos(θ + m),
    our default, turns and rises again. At m = 0.5 and θ = π − 0.25: −1.20863 against −0.96891."""
    m = 0.5
    x, W, labels = in_the_plane(0.0), in_the_plane(PI - 0.25, PI / 2), np.array([0])
    # one class at 90°, so the loss is log(1 + e^{−z_y})
    theirs = pml("ArcFaceLoss", x, W, labels, margin=np.degrees(m), scale=1)[0][0]
    logit = -np.log(np.expm1(theirs))
    assert logit == near(np.cos(PI - 0.25) - m * np.sin(m), 1e-12)
    assert_printed(logit, -1.20863, 1e-5)
    linear = refloss.ArcFace(margin=m, scale=1, past_pi="linear").forward(x, W, labels)
    formula = refloss.ArcFace(margin=m, scale=1).forward(x, W, labels)
    assert linear.logits[0, 0] == near(logit, 1e-12)
    assert_printed(formula.logits[0, 0], -0.96891, 1e-5)


def test_difference_arcface_at_exactly_pi_minus_m():
    """Difference: at θ = π − m itself PML still takes cos(θ + m) = −1; we take the fall-back there, as
    derivations/margins.md decides (and the original code: `cos > cos(π − m)` for the formula). m = 90°, θ = 90°: −1 and
    −π/2. The value jumps there, so no derivative is at stake."""
    x, W, labels = in_the_plane(0.0), np.array([[0.0, 1.0], [0.0, -1.0]]), np.array([0])
    theirs = pml("ArcFaceLoss", x, W, labels, margin=90.0, scale=1)[0][0]
    assert -np.log(np.expm1(theirs)) == near(-1.0, 1e-12)
    ours = refloss.ArcFace(margin=np.radians(90.0), scale=1, past_pi="linear").forward(x, W, labels)
    assert ours.logits[0, 0] == near(-PI / 2, 1e-15)


@pytest.mark.parametrize("pole", ["theta_0", "theta_pi"])
def test_difference_arcface_gradient_is_nan_at_a_pole(pole):
    """Difference: where cos θ is exactly ±1, the derivative of arccos is −∞ and PML's gradient is NaN in x
    and in W. Ours is finite: the centre of the cone at θ = 0, marked in `out.cone`."""
    sign = 1.0 if pole == "theta_0" else -1.0
    x, W, labels = np.array([[2.0, 0.0]]), np.array([[sign, 0.0], [0.6, 0.8]]), np.array([0])
    losses, grad_x, grad_W = pml("ArcFaceLoss", x, W, labels, margin=np.degrees(0.5), scale=4)
    ours = refloss.ArcFace(margin=0.5, scale=4, past_pi="linear", reduction="none")
    out = ours.forward(x, W, labels)
    grads = ours.backward(out)
    assert_values_agree(out.losses, losses, "losses")
    assert np.isnan(grad_x).any()
    assert np.isnan(grad_W).any()
    assert np.isfinite(grads.x).all()
    assert np.isfinite(grads.W).all()
    # a cone at 0; at π the fall-back has slope −sin π = 0, and none
    assert out.cone[0] == (pole == "theta_0")


@pytest.mark.parametrize(("theta", "lost"), [(1e-5, 1e-8), (1e-7, 1e-4)], ids=["1e-5", "1e-7"])
def test_difference_arcface_loses_digits_near_zero(theta, lost):
    """Difference: near θ = 0 cos θ rounds to within 1e-16 of 1, so arccos is off by 1e-16/sin θ, and its
    derivative 1/sin θ by as much of itself. PML's gradient in W_y is off by more than `lost` of the natural
    scale, ours by less than 1e-14 (mpmath)."""
    s, m = 4.0, 0.5
    x, W, labels = 2 * in_the_plane(0.3), in_the_plane(0.3 + theta, 0.3 - 1.1), np.array([0])
    got = refloss.ArcFace(margin=m, scale=s).value_and_grad(x, W, labels)[1].W[0]
    theirs = pml("ArcFaceLoss", x, W, labels, margin=np.degrees(m), scale=s)[2][0]
    with mpmath.workdps(50):
        (x0, x1), (w0, w1), (v0, v1) = ([mpmath.mpf(float(c)) for c in row] for row in (x[0], *W))
        angle = mpmath.atan2(x0 * w1 - x1 * w0, x0 * w0 + x1 * w1)  # > 0: W_y is turned away from x
        other = (x0 * v0 + x1 * v1) / mpmath.hypot(x0, x1) / mpmath.hypot(v0, v1)
        g_y = -1 / (1 + mpmath.exp(s * mpmath.cos(angle + m) - s * other))
        # ∂L/∂W_y = g_y z_y'(θ) ∇θ, and ∇θ = (−w₁, w₀)/‖W_y‖²
        along = -g_y * s * mpmath.sin(angle + m)
        size = mpmath.hypot(w0, w1)
        due = np.array([float(-along * w1 / size**2), float(along * w0 / size**2)])
        scale = np.array([float(abs(along) / size)])
    assert worst_of_rows(got[None], due[None], scale) < 1e-14
    assert not worst_or_inf(theirs[None], due[None], scale) < lost


def worst_or_inf(got, want, scale):
    """worst_of_rows, or inf if got is not finite."""
    return worst_of_rows(got, want, scale) if np.isfinite(got).all() else np.inf


@pytest.mark.parametrize("name", ["LargeMarginSoftmaxLoss", "SphereFaceLoss"])
def test_difference_psi_picks_a_branch_too_far_next_to_pi(name):
    """Difference: where cos θ rounds to −1 (θ within 1e-8 of π), PML's k = ⌊mθ/π⌋ is m, one branch too many.
    ψ(π) = 1 − 2m comes out right all the same, but dψ/dcos θ is −m² in place of m²: at θ = π − 8e-9 and
    m = 4 the tangential part of the gradient, 16 sin θ, points the wrong way."""
    m = 4
    # along the axes, so that no rounding hides the tangential part
    x, W, labels = np.array([[1.0, 0.0]]), np.array([[-1.0, 8e-9], [0.6, 0.8]]), np.array([0])
    losses, _, theirs = pml(name, x, W, labels, margin=m, scale=1)
    cls = refloss.LSoftmax if name == "LargeMarginSoftmaxLoss" else refloss.ASoftmax
    ours = cls(margin=m, reduction="none")
    out = ours.forward(x, W, labels)
    got = ours.backward(out).W
    assert_values_agree(out.losses, losses, "losses")
    # in W_y's second coordinate, with x = e₀ and W_y = (−1, δ): ∂L/∂W_y1 = g_y ‖W_y‖^{0 or 1} …
    with mpmath.workdps(50):
        d = mpmath.mpf(8e-9)
        w_norm = mpmath.hypot(1, d)
        theta = mpmath.pi - mpmath.atan(d)
        r = w_norm if cls is refloss.LSoftmax else 1
        # … tangential: r ψ'(θ) ∂θ/∂W_y1, with ψ' = −(−1)^3 4 sin 4θ and ∂θ/∂W_y1 = −1/‖W_y‖²
        tangential = r * 4 * mpmath.sin(4 * theta) * -1 / w_norm**2
        # … and, for L-Softmax, radial: ψ(θ) ∂‖W_y‖/∂W_y1
        psi = -mpmath.cos(4 * theta) - 6
        radial = psi * d / w_norm if cls is refloss.LSoftmax else 0
        g_y = -mpmath.mpf(float(out.complement[0]))
        due, wrong_sign = float(g_y * (tangential + radial)), float(g_y * (radial - tangential))
    assert got[0, 1] == near(due, 1e-13)
    assert theirs[0, 1] == near(wrong_sign, 1e-7)
    assert due * wrong_sign < 0


def test_difference_a_tiny_feature_is_not_normalised():
    """Difference: torch divides by max(‖v‖, 1e-12). At ‖x‖ = 1e-13 PML's cos θ is a tenth of the cosine (here
    0.06 for 0.6), and at x = 0 its gradient is that of x · 1e12. Ours has no ε: cos θ is 0.6, and x = 0 is an
    error, or, with zero_norm="zero", passes nothing back."""
    x, W, labels = np.array([[6e-14, 8e-14]]), np.array([[1.0, 0.0], [0.0, -1.0]]), np.array([0])
    ours = refloss.AMSoftmax(margin=0, scale=1, zero_norm="zero", reduction="none")
    theirs = pml("CosFaceLoss", x, W, labels, margin=0, scale=1)[0][0]
    assert theirs == near(np.log1p(np.exp(-0.06 - 0.08)), 1e-12)
    out = ours.forward(x, W, labels)
    assert out.cos_theta[0] == near([0.6, -0.8], 1e-15)
    assert out.losses[0] == near(np.log1p(np.exp(-0.6 - 0.8)), 1e-12)

    losses, grad_x, _ = pml("CosFaceLoss", 0 * x, W, labels, margin=0, scale=1)
    out = ours.forward(0 * x, W, labels)
    assert_values_agree(out.losses, losses, "losses")  # log 2: every cosine is 0
    np.testing.assert_allclose(grad_x, [[-0.5e12, -0.5e12]], rtol=1e-12)
    assert not ours.backward(out).x.any()
    with pytest.raises(ValueError, match=r"x\[0\] is a zero row"):
        refloss.AMSoftmax(margin=0, scale=1).forward(0 * x, W, labels)


@pytest.mark.parametrize("margin", [1.35, 1.9])
def test_difference_a_fractional_multiplier_is_cut_to_an_integer(margin):
    """Difference: SphereFaceLoss(margin=1.35) computes int(1.35) = 1, that is no margin at all, without a
    word. ψ needs an integer; we refuse, and MarginSoftmax takes cos(1.35 θ) as it is."""
    x, W, labels, _ = aimed(ANGLES["acute"], 3)
    theirs = pml("SphereFaceLoss", x, W, labels, margin=margin)[0]
    none = refloss.WNormSoftmax(reduction="none").forward(x, W, labels).losses
    assert_values_agree(theirs, none, "losses without a margin")
    with pytest.raises(TypeError, match="margin must be an integer"):
        refloss.ASoftmax(margin=margin)
    own = refloss.MarginSoftmax(
        psi=lambda t, xp: xp.cos(margin * t),
        dpsi=lambda t, xp: -margin * xp.sin(margin * t),
        radius="x_norm",
        reduction="none",
    )
    assert np.all(own.forward(x, W, labels).losses > none)


def test_difference_normalized_softmax_normalises_x_and_has_a_temperature():
    """Difference: "modified softmax" leaves ‖x‖ in the logit; NormalizedSoftmaxLoss takes it out (its default
    distance normalises both sides) and divides by T = 0.05. x of length 3 at 60° and 90°: logits (1.5, 0)
    here, (10, 0) there, so losses of 0.2014 and 4.5e-5."""
    x, W, labels = 3 * in_the_plane(0.0), in_the_plane(PI / 3, PI / 2), np.array([0])
    ours = refloss.WNormSoftmax().forward(x, W, labels).loss
    theirs = pml("NormalizedSoftmaxLoss", x, W, labels)[0][0]
    assert ours == near(np.log1p(np.exp(-1.5)), 1e-14)
    assert theirs == near(np.log1p(np.exp(-10.0)), 1e-11)
    assert theirs < 3e-4 * ours


def test_difference_cosface_scale():
    """Difference: the default scale of CosFaceLoss is 64 (CosFace), ours 30 (AM-Softmax); m = 0.35 in both.
    A target at 60° against a class at 90°: logits 64·0.15 = 9.6 there and 30·0.15 = 4.5 here."""
    x, W, labels = in_the_plane(0.0), in_the_plane(PI / 3, PI / 2), np.array([0])
    assert pml("CosFaceLoss", x, W, labels)[0][0] == near(np.log1p(np.exp(-9.6)), 1e-10)
    assert refloss.AMSoftmax().forward(x, W, labels).loss == near(np.log1p(np.exp(-4.5)), 1e-12)


def test_difference_psi_has_no_annealing_there():
    """Difference: the papers train L-Softmax and SphereFace with (λ cos θ + ψ(θ))/(1 + λ); PML has no λ.
    ψ for m = 4 at 60° is −1.5, with λ = 5 it is (2.5 − 1.5)/6 = 1/6."""
    x, W, labels = in_the_plane(0.0), in_the_plane(PI / 3, PI / 2), np.array([0])
    theirs = pml("SphereFaceLoss", x, W, labels, margin=4)[0][0]
    assert -np.log(np.expm1(theirs)) == near(-1.5, 1e-12)
    assert refloss.ASoftmax(margin=4).forward(x, W, labels).logits[0, 0] == near(-1.5, 1e-14)
    annealed = refloss.ASoftmax(margin=4, annealing=5).forward(x, W, labels)
    assert annealed.logits[0, 0] == near(1 / 6, 1e-14)


def test_difference_w_is_rounded_to_the_features_dtype():
    """Difference: PML casts W to the dtype of the embeddings, in place: float32 features round a float64 W
    for good. Here everything is computed in float64 and no input changes."""
    torch = one_thread_of_torch()
    losses = need("pytorch_metric_learning.losses")
    x, W, labels, _ = aimed(ANGLES["acute"], 3)
    module = losses.CosFaceLoss(num_classes=len(W), embedding_size=3)
    module.W.data = torch.tensor(W.T.copy())
    module(torch.tensor(x.astype(np.float32)), torch.tensor(labels))
    after = module.W.detach().numpy().T
    assert after.dtype == np.float32
    np.testing.assert_array_equal(after, W.astype(np.float32))
    assert np.any(after.astype(float) != W)
    before = W.copy()
    out = refloss.CosFace().forward(x.astype(np.float32), W, labels)
    assert out.loss.dtype == np.float64
    np.testing.assert_array_equal(W, before)
