"""derivations/second_derivatives.md: its Hessian-vector product runs from the page, and its claims are tried.

The product stands against differences of refloss' gradients and against 80 digits; what the page says of poles, knots,
the cone and detached margins is tried through the losses.

The displayed formulas are evaluated in test_formulas.py.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import math
from dataclasses import replace

import many_digits
import mpmath
import numpy as np
import pytest
from agreement import one_thread_of_torch
from helpers import logits_pass, near
from pages.markdown import derivation

import refloss
from refloss import validation as check
from refloss.cases.angles import place
from refloss.witnesses.problem import loss_problem

PI = math.pi


def of_the_page():
    """The functions that the page defines."""
    text = derivation("second_derivatives.md")
    names: dict = {}
    with contextlib.redirect_stdout(io.StringIO()):
        for example in doctest.DocTestParser().get_examples(text):
            exec(compile(example.source, "second_derivatives.md", "single"), names)
    return names


PAGE = of_the_page()
hessian_vector, both, scale, arc, multiplied = (
    PAGE[name] for name in ("hessian_vector", "both", "scale", "arc", "multiplied")
)


def plain(theta):
    return np.cos(theta), -np.sin(theta), -np.cos(theta)


def offset(theta):
    return np.cos(theta) - 0.35, -np.sin(theta), -np.cos(theta)


def tail(theta, m=0.5):
    beyond = theta >= PI - m
    linear = np.cos(theta) - m * math.sin(m), -np.sin(theta), -np.cos(theta)
    return tuple(np.where(beyond, a, b) for a, b in zip(linear, arc(theta, m), strict=True))


def annealed(theta, share=2.5, m=3):
    return tuple((share * a + b) / (1 + share) for a, b in zip(plain(theta), multiplied(theta, m), strict=True))


def of_x(rho, omega):
    return rho + 0 * omega, 1, 0, 0


def of_w(alpha):
    return lambda rho, omega: (alpha * omega + 0 * rho, 0, alpha + 0 * omega, 0)


# the loss, and its radius and ψ by the page's tables
LOSSES = {
    "softmax": (refloss.Softmax(), both, plain),
    "w_norm_softmax": (refloss.WNormSoftmax(), of_x, plain),
    "l_softmax-2": (refloss.LSoftmax(margin=2), both, lambda theta: multiplied(theta, 2)),
    "l_softmax-4": (refloss.LSoftmax(margin=4), both, lambda theta: multiplied(theta, 4)),
    "l_softmax-annealed": (refloss.LSoftmax(margin=3, annealing=2.5), both, annealed),
    "a_softmax": (refloss.ASoftmax(margin=4), of_x, lambda theta: multiplied(theta, 4)),
    "f_norm_sphereface": (refloss.FNormSphereFace(scale=8, margin=3), scale(8), multiplied),
    "l2_softmax": (refloss.L2Softmax(alpha=4), of_w(4), plain),
    "am_softmax": (refloss.AMSoftmax(scale=8, margin=0.35), scale(8), offset),
    "arcface": (refloss.ArcFace(scale=8, margin=0.5), scale(8), arc),
    "arcface-linear": (refloss.ArcFace(scale=8, margin=0.5, past_pi="linear"), scale(8), tail),
}
ANGLES = np.array([0.5, 1.2, 2.0, 2.8])  # every branch of m = 4, and the linear tail; 0.09 and more from knots and jump


def inputs(D, seed=0):
    rng = np.random.default_rng(seed)
    W, labels = rng.normal(size=(3, D)), np.array([0, 2, 1, 0])
    x = place(rng, W, labels, ANGLES, [0.7, 1.5, 1.1, 0.9])
    return x, W, labels, rng.normal(size=x.shape), rng.normal(size=W.shape)


@pytest.mark.parametrize("D", [2, 5])
@pytest.mark.parametrize("name", LOSSES)
def test_hessian_vector_product_against_differences_of_the_gradient(name, D):
    """Central differences of refloss' own backward, extrapolated twice over three steps."""
    loss, radius, psi = LOSSES[name]
    x, W, labels, v_x, v_W = inputs(D)
    h, rounding = 2e-3, {"x": 0.0, "W": 0.0}

    def difference(step):
        ahead, back = (loss.value_and_grad(x + d * v_x, W + d * v_W, labels)[1] for d in (step, -step))
        for given in rounding:
            bound = max(g.error_bound[f"grad_{given}"].max() for g in (ahead, back))
            rounding[given] = max(rounding[given], float(bound))
        return {given: (getattr(ahead, given) - getattr(back, given)) / (2 * step) for given in rounding}

    coarse, middle, fine = difference(h), difference(h / 2), difference(h / 4)
    for given, got in zip(("x", "W"), hessian_vector(x, W, labels, radius, psi, v_x, v_W), strict=True):
        once = (4 * middle[given] - coarse[given]) / 3
        again = (4 * fine[given] - middle[given]) / 3
        # what the extrapolation still changes bounds its truncation, h⁴; the proven errors of the gradients, which
        # include the rounding of x + hv, enter with (4/(h/4) + 1/(h/2))/3; and 1e-12 for the product's own roundings
        due = np.abs(once - again).max() + 6 * rounding[given] / h + 1e-12 * np.abs(got).max()
        assert due < 1e-6 * np.abs(got).max(), "the differences see nothing"
        np.testing.assert_allclose(got, again, rtol=0, atol=due)


@pytest.mark.parametrize("name", LOSSES)
def test_hessian_vector_product_against_80_digits(name):
    """Second differences of the textbook form in mpmath: off by step² = 1e-30 and by 1e-80 / step² = 1e-50."""
    loss, radius, psi = LOSSES[name]
    x, W, labels, v_x, v_W = inputs(3)
    problem = loss_problem(loss, x, W, check.targets(labels, len(x), len(W), loss), None, np.asarray(1.0))
    step, everyone = mpmath.mpf(10) ** -15, np.arange(len(x))
    with mpmath.workdps(many_digits.DIGITS):
        given = {k: many_digits.exact(v) if np.ndim(v) else mpmath.mpf(float(v)) for k, v in problem.inputs.items()}
        along = {"x": many_digits.exact(v_x), "W": many_digits.exact(v_W)}

        def value(place, sign, sign_of_v):
            there = dict(given)
            for k, direction in along.items():
                there[k] = given[k] + sign_of_v * step * direction
            k, index = place
            there[k][index] += sign * step
            return np.sum(problem.terms(many_digits.namespace, there, everyone))

        def second(place):
            total = value(place, 1, 1) - value(place, 1, -1) - value(place, -1, 1) + value(place, -1, -1)
            return float(problem.weight * total / (4 * step**2))

        due = {k: np.array([second((k, i)) for i in np.ndindex(v.shape)]).reshape(v.shape) for k, v in along.items()}
    for k, got in zip(("x", "W"), hessian_vector(x, W, labels, radius, psi, v_x, v_W), strict=True):
        # some hundred roundings of terms that logits of 8 and 1/sin θ = 3 enlarge: 1e-12 of the largest entry
        np.testing.assert_allclose(got, due[k], rtol=0, atol=1e-12 * np.abs(due[k]).max(), err_msg=k)


@pytest.mark.parametrize("part", ["curvature", "ψ''", "(H2)"])
def test_a_slip_in_the_product_would_be_noticed(part):
    """The control: without the curvature of the logits, with ψ'' off by 0.05 %, or without the mean in (H2)."""
    _, radius, psi = LOSSES["arcface"]
    x, W, labels, v_x, v_W = inputs(5)
    text = derivation("second_derivatives.md")
    source = next(e.source for e in doctest.DocTestParser().get_examples(text) if "def hessian_vector" in e.source)
    slip = {
        "curvature": ("g * (along_u * u", "0 * g * (along_u * u"),
        "ψ''": ("own * r_own * psi) / own**2 * b\n", "own * r_own * psi) / own**2 * b * 1.0005\n"),
        "(H2)": (" - np.sum(p * z_dot, axis=1, keepdims=True)", ""),
    }[part]
    assert slip[0] in source
    wrong = {"np": np}
    exec(source.replace(*slip), wrong)
    got = wrong["hessian_vector"](x, W, labels, radius, psi, v_x, v_W)[0]
    right = hessian_vector(x, W, labels, radius, psi, v_x, v_W)[0]
    assert np.abs(got - right).max() > 1e-6 * np.abs(right).max()


# -- poles, knots, cones ---------------------------------------------------------------------------


def gradient_of_the_target(loss, x, W):
    """∇_x z_y and what belongs to it, of one sample and one class."""
    return loss.backward_logits(logits_pass(loss, x, W, [0]), np.ones((1, 1)))


@pytest.mark.parametrize("m", [2, 3, 4])
@pytest.mark.parametrize("pole", [1.0, -1.0])
def test_curvature_of_l_softmax_at_its_poles(m, pole):
    """(H9) with ψ'cos θ/sin θ → ψ'': across x it is (ψ + ψ'')‖w‖/‖x‖, 1 − m² times that at 0, (m − 1)² at π."""
    x, W = np.array([[2.0, 0.0, 0.0]]), pole * np.array([[3.0, 0.0, 0.0]])
    h, across = 1e-6, np.array([[0.0, 0.6, -0.8]])
    loss = refloss.LSoftmax(margin=m)
    rate = (gradient_of_the_target(loss, x + h * across, W)["x"] - gradient_of_the_target(loss, x, W)["x"]) / h
    due = (1 - m**2 if pole > 0 else (m - 1) ** 2) * 3 / 2 * across
    # next order m⁴h, rounding 1e-15 m²/h
    np.testing.assert_allclose(rate, due, rtol=0, atol=m**4 * 1e-5)


@pytest.mark.parametrize("m", [2, 3, 4])
def test_second_derivative_of_psi_jumps_at_every_inner_knot(m):
    """(H8): ψ'' is m² before kπ/m and −m² after it: 2m² apart."""
    h, loss = 1e-6, refloss.FNormSphereFace(scale=1, margin=m)

    def slope(theta):
        return logits_pass(loss, [[math.cos(theta), math.sin(theta)]], [[1.0, 0.0]], [0]).psi.slope[0]

    for k in range(1, m):
        knot = k * PI / m
        before, after = (slope(knot) - slope(knot - h)) / h, (slope(knot + h) - slope(knot)) / h
        # next order: m⁴h²; rounding of θ: 1e-16 m²/h
        assert before == near(m**2, 1e-8)
        assert after == near(-(m**2), 1e-8)
        # (H8) on the inside of both branches
        for theta in (knot - 0.2, knot + 0.2):
            branch = math.floor(m * theta / PI)
            value = logits_pass(loss, [[math.cos(theta), math.sin(theta)]], [[1.0, 0.0]], [0]).psi.value[0]
            rate = (slope(theta + h) - slope(theta - h)) / (2 * h)
            assert rate == near(-(m**2) * (value + 2 * branch), 1e-8)


def test_curvature_at_the_cone_of_arcface():
    """The page's −30739: across the plane of x and w at θ = 1e-3, s = 64, m = 0.5."""
    theta, h = 1e-3, 1e-7
    x, W = np.array([[1.0, 0.0, 0.0]]), np.array([[math.cos(theta), math.sin(theta), 0.0]])
    loss = refloss.ArcFace(scale=64, margin=0.5)
    ahead, back = (gradient_of_the_target(loss, x + np.array([[0.0, 0.0, d]]), W)["x"] for d in (h, -h))
    # next order: (h/θ)²
    assert (ahead - back)[0, 2] / (2 * h) == near(-30739, 1e-4)


@pytest.mark.parametrize(
    ("loss", "slope_in_m", "in_m_twice"),
    [
        (refloss.ArcFace(scale=3, margin=0.5), lambda t, m: -math.cos(t + m), lambda t, m: -math.cos(t + m)),
        (refloss.AMSoftmax(scale=3, margin=0.35), lambda t, m: 0.0, lambda t, m: 0.0),
        (
            refloss.ArcFace(scale=3, margin=1.5, past_pi="linear"),
            lambda t, m: 0.0,
            lambda t, m: m * math.sin(m) - 2 * math.cos(m),
        ),
    ],
    ids=["arcface", "am_softmax", "linear tail"],
)
def test_second_derivatives_in_scale_and_margin(loss, slope_in_m, in_m_twice):
    """(H8), (H11): how ∇_x z_y, ∂z_y/∂s and ∂z_y/∂m change with s and m, at 2.2 radians and ‖x‖ = 2."""
    theta, h, s, m = 2.2, 1e-5, loss.scale, loss.margin
    x, W = 2 * np.array([[1.0, 0.0]]), np.array([[math.cos(theta), math.sin(theta)]])
    t_x = np.array([[0.0, 1.0]])
    here = logits_pass(loss, x, W, [0]).psi

    def rate(parameter, of):
        value = getattr(loss, parameter)
        ahead, back = (gradient_of_the_target(replace(loss, **{parameter: value + d}), x, W)[of] for d in (h, -h))
        return (ahead - back) / (2 * h)

    # the next order, h² = 1e-10, and rounding, 1e-15/h
    close = {"rtol": 0, "atol": 1e-9}
    np.testing.assert_allclose(rate("scale", "x"), -here.slope[0] / 2 * t_x, **close)
    np.testing.assert_allclose(rate("margin", "x"), -s * slope_in_m(theta, m) / 2 * t_x, **close)
    np.testing.assert_allclose(rate("margin", "scale"), here.in_margin[0], **close)
    np.testing.assert_allclose(rate("scale", "scale"), 0, **close)
    np.testing.assert_allclose(rate("margin", "margin"), s * in_m_twice(theta, m), **close)


@pytest.mark.parametrize("detached", [False, True])
def test_a_detached_margin_has_no_hessian(detached):
    """The Jacobian of the gradient in x is symmetric, as a Hessian is; that of the detached one is not."""
    x, W, labels, *_ = inputs(3)
    loss, h = refloss.ArcFace(scale=8, margin=0.5, detach_margin=detached), 1e-6
    sample = 0

    def gradient(d, sign):
        moved = x.copy()
        moved[sample, d] += sign * h
        return loss.value_and_grad(moved, W, labels)[1].x[sample]

    jacobian = np.array([(gradient(d, 1) - gradient(d, -1)) / (2 * h) for d in range(3)])
    asymmetry = np.abs(jacobian - jacobian.T).max() / np.abs(jacobian).max()
    # differences are right to 1e-9
    assert asymmetry > 1e-2 if detached else asymmetry < 1e-7


def test_gradgradcheck_fails_at_a_knot_for_a_right_kernel():
    """The page's warning: torch's check of a double backward passes between knots and fails at one."""
    torch = one_thread_of_torch()
    loss, m = refloss.LSoftmax(margin=2), 2

    def kernel(x, W):
        norms = x.norm(dim=1) * W[0].norm()
        c = x @ W[0] / norms
        z_y = norms * torch.where(c >= 0, 2 * c**2 - 1, -2 * c**2 - 1)
        return torch.nn.functional.softplus(x @ W[1] - z_y).sum()

    for theta, passes in ((1.0, True), (PI / m, False)):
        x = torch.tensor([[math.cos(theta), math.sin(theta), 0.0]], dtype=torch.float64, requires_grad=True)
        W = torch.tensor([[1.0, 0.0, 0.0], [0.2, 0.3, 0.4]], dtype=torch.float64, requires_grad=True)
        kernel(x, W).backward()
        grads = loss.value_and_grad(x.detach().numpy(), W.detach().numpy(), [0])[1]
        # the kernel is right: its gradients are refloss' (unit vectors, some roundings)
        np.testing.assert_allclose(x.grad, grads.x, rtol=0, atol=1e-14)
        np.testing.assert_allclose(W.grad, grads.W, rtol=0, atol=1e-14)
        assert torch.autograd.gradgradcheck(kernel, (x, W), raise_exception=False) == passes
