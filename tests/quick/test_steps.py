"""Every numbered step of steps/ and losses/ against the textbook, the shared ones first: read its first failure.

`pytest tests/quick -x` takes seconds, and its first failure names the file, the line and the number of the step that is
wrong. What is due comes from the formulas alone: plain NumPy, and their derivative by a complex step.
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

import numpy as np
import pytest
from helpers import BIAS, VARIANTS, make

import refloss
import refloss.steps
from quick.traced import SEEN, check, numbered_lines
from refloss import validation
from refloss.steps.normalise import Rows
from refloss.steps.targets import Pairs
from refloss.textbook.family import differentiable, parameters, radius_of
from refloss.textbook.namespaces import complex_namespace

rng = np.random.default_rng(20)
N, C, D = 4, 5, 3
X, W, B, G = (rng.normal(size=size) for size in ((N, D), (C, D), C, (N, C)))
Y = np.array([2, 0, 3, 1])  # no class twice: a target's part of ∂L/∂W is a row
ROWS = np.arange(N)


def step(name):
    """The function or method of this name, in whichever file of steps/ it stands."""
    head, *rest = name.split(".")
    for module in pkgutil.iter_modules(refloss.steps.__path__):
        found = vars(importlib.import_module(f"refloss.steps.{module.name}")).get(head)
        if found is not None and found.__module__ == f"refloss.steps.{module.name}":
            return vars(found)[rest[0]] if rest else found
    return pytest.fail(f"no file of refloss/steps has {name}")


# -- the textbook ----------------------------------------------------------------------------------


def norm(v):
    return np.sqrt(np.sum(v * v, axis=-1))


def unit(v):
    return v / norm(v)[..., None]


def across(v, u):
    """v without its part along the unit rows u."""
    return v - u * np.sum(u * v, axis=-1, keepdims=True)


def theta_of(x, w):
    return np.arccos(np.sum(unit(x) * unit(w), axis=-1))


def psi_of(m, theta):
    """(−1)^k cos mθ − 2k."""
    k = np.clip(np.floor(m * theta.real / np.pi), 0, m - 1)
    return (-1) ** k * np.cos(m * theta) - 2 * k


def arc_of(m, theta, easy=False, past_pi="cos"):
    value = np.cos(theta + m)
    if past_pi == "linear":
        value = np.where(theta.real < np.pi - np.real(m), value, np.cos(theta) - m * np.sin(m))
    return np.where(theta.real < np.pi / 2, value, np.cos(theta)) if easy else value


def slope(f, v):
    """f′(v) of a function that works entry by entry."""
    return np.imag(f(v + 1e-30j)) / 1e-30


def pulled(f, v, g):
    """The gradient of Σ g f(v) in v, entry by entry."""
    v, gradient = np.asarray(v, dtype=float), np.zeros(np.shape(v))
    for k in np.ndindex(v.shape):
        moved = v.astype(complex)
        moved[k] += 1e-30j
        gradient[k] = np.sum(g * np.imag(f(moved))) / 1e-30
    return gradient


# -- the shared steps, each after those it uses -----------------------------------------------------


def test_normalise():
    v, g = X * [[3.0], [0.05], [700.0], [1.0]], G[:, :D]
    e = np.frexp(np.abs(v).max(axis=1))[1]
    check(step("across"), g, unit(v), due=across(g, unit(v)))
    check(step("over_norm"), g, np.array([0.0, 2.0, 3.0, 4.0]), due=g * [[0], [1 / 2], [1 / 3], [1 / 4]])
    scaled = v / 2.0 ** e[:, None]
    check(step("normalise"), v, known=[v, norm(v) ** 2, norm(v), unit(v)], due=(norm(v), unit(v)))
    far = 2.0**600  # the squares of v * far are beyond the range
    known = [scaled, norm(scaled) ** 2, norm(scaled), unit(v), norm(v) * far]
    check(step("normalise"), v * far, known=known, due=(norm(v) * far, unit(v)))
    check(step("normalise_backward"), g, norm(v), unit(v), due=pulled(unit, v, g))


def test_linear():
    def plain(x, W, b):
        return x @ W.T + b

    check(step("linear"), X, W, B, known=[plain(X, W, 0), plain(X, W, B)], due=plain(X, W, B))
    due = (
        pulled(lambda x: plain(x, W, B), X, G),
        pulled(lambda W: plain(X, W, B), W, G),
        pulled(lambda b: plain(X, W, b), B, G),
    )
    check(step("linear_backward"), G, X, W, known=[*due], due=due)


def angle_of(x, w):
    """What an Angle holds: x and w times powers of two, cos θ, sin θ, both tangents and lengths."""
    high, wide = (v * 2.0 ** (480 - np.frexp(np.abs(v).max(axis=1))[1])[:, None] for v in (x, w))
    tangents = unit(across(unit(w), unit(x))), unit(across(unit(x), unit(w)))
    return high, wide, np.cos(theta_of(x, w)), np.sin(theta_of(x, w)), *tangents, norm(x), norm(w)


def test_angle():
    x, w = X * [[3.0], [0.05], [700.0], [1.0]], W[Y]
    check(step("cosines"), unit(x), unit(W), known=[unit(x) @ unit(W).T], due=unit(x) @ unit(W).T)
    due = high, wide, cos, sin, *_ = angle_of(x, w)
    p = np.abs(x).argmax(axis=1)
    r = wide - (wide[ROWS, p] / high[ROWS, p])[:, None] * high
    lengths = [norm(wide) * sin, norm(wide) * cos, norm(wide), norm(high)]
    at = check(step("angle"), x, w, known=[*due, x, w, unit(x), r, *lengths], due=due)
    check(step("Angle.theta"), at, due=theta_of(x, w))
    g = G[:, 0]
    due = pulled(lambda x: theta_of(x, w), x, g), pulled(lambda w: theta_of(x, w), w, g)
    check(step("angle_backward"), g, at, known=[-g[:, None]], due=due)
    near = np.vstack([W[:2] * [[2.0], [-3.0]] + 0.01 * X[:2], X[2:]])  # near both poles, and far
    due = pulled(lambda x: unit(x) @ unit(W).T, near, G), pulled(lambda W: unit(near) @ unit(W).T, W, G)
    units = unit(near), unit(W)

    def through_norms(got):
        return [across(v, u) / norm(rows)[:, None] for v, u, rows in zip(got, units, (near, W), strict=True)]

    near_pairs = check(step("near_poles"), unit(near) @ unit(W).T)
    rows = step("Rows")
    check(step("cosines_backward"), G, rows(near), rows(W), near_pairs, due=due, view=through_norms)


def placed(theta):
    """The Angle of pairs with these θ."""
    x = np.stack([np.cos(theta), np.sin(theta), 0 * theta], axis=1)
    return step("angle")(2 * x, np.tile([[3.0, 0, 0]], (len(theta), 1)))


THETA = np.array([0.2, 0.9, 1.4, 1.8, 2.5, 3.0])


@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_psi(m):
    due = psi_of(m, THETA), slope(lambda t: psi_of(m, t), THETA), 0 * THETA
    k = np.clip(np.floor(m * THETA / np.pi), 0, m - 1)
    known = [np.cos(m * THETA), np.abs(np.sin(m * THETA)), THETA, k]
    check(step("multiplied_angle"), placed(THETA), m, known=[*known, *due[:2]], due=due)


def test_psi_with_a_continuation():
    def tail(theta, xp):
        return -1 - (theta - xp.pi / 3) ** 2

    def f(theta):
        return np.where(theta.real < np.pi / 3, np.cos(3 * theta), tail(theta, np))

    due = f(THETA), slope(f, THETA), 0 * THETA
    beyond = np.where(np.pi / 3 > THETA, np.pi, THETA)
    known = [np.cos(3 * THETA), np.abs(np.sin(3 * THETA)), THETA, np.pi / 3 - THETA, beyond, *due[:2]]
    continuation = tail, lambda t, xp: -2 * (t - xp.pi / 3)
    check(step("multiplied_angle"), placed(THETA), 3, continuation, known=known, due=due)


def test_margins():
    at = placed(THETA)

    def due(f, m=0.7):
        return f(m, THETA), slope(lambda t: f(m, t), THETA), np.imag(f(m + 1e-30j, THETA + 0j)) / 1e-30

    plain = due(lambda m, t: np.cos(t) + 0 * m)
    check(step("plain_cosine"), at, due=plain)
    check(step("cosine_margin"), at, 0.7, due=due(lambda m, t: np.cos(t) - m))
    for easy in (False, True):
        for past_pi in ("cos", "linear"):
            arc = due(lambda m, t, easy=easy, past_pi=past_pi: arc_of(m, t, easy, past_pi))
            check(step("arc_margin"), at, 0.7, easy, past_pi, due=arc)
    given = step("cosine_margin")(at, 0.7)
    check(step("anneal"), given, at, 3.0, due=due(lambda m, t: (3 * np.cos(t) + np.cos(t) - m) / 4))
    check(step("detach"), given, at, due=(given[0], plain[1], 0 * THETA))
    poles = placed(np.array([0.0, 1.0]))
    arc = step("arc_margin")(poles, 0.7, False, "cos")
    check(step("cone"), arc, poles, due=np.array([1.0, 0.0]), view=lambda got: got * 1.0)


@pytest.mark.parametrize("epsilon", [0.1, 0.0])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none", "weighted_mean"])
def test_cross_entropy(reduction, epsilon):
    w = np.array([0.5, 2.0, 1.0, 0.25, 3.0])
    loss = refloss.Softmax(reduction=reduction, class_weights=w, label_smoothing=epsilon, ignore_index=9)
    labels = np.where(ROWS == 1, 9, Y)
    setting = loss._setting(validation.targets(labels, N, C, loss))
    block, z, valid = slice(0, C), 3 * G, ROWS != 1
    a = w * ((1 - epsilon) * np.eye(C)[Y] + epsilon / C) * valid[:, None]
    own = w[Y[valid]]  # without smoothing a is made of these alone
    check(step("Setting.weighted"), setting, block, z, due=a if epsilon else own)
    top, z_max = z.argmax(axis=1), z.max(axis=1)
    gap, e = z_max[:, None] - z, np.exp(z - z_max[:, None])
    check(step("_below"), z, z_max, top, known=[-gap, e], due=(-gap, e))
    total, whole = e.sum(axis=1), a.sum(axis=1)
    check(step("mass_of"), e, top, block, due=(e.max(axis=1), total - 1))
    due = z_max, e.max(axis=1), total - 1, (a * gap).sum(axis=1), a.max(axis=1), whole - a.max(axis=1)
    gathered = check(step("gather"), z, setting.weighted(block, z), block, known=[*due, -gap, e], due=due)
    left, right = (step("gather")(z[:, part], setting.weighted(part, z), part) for part in (slice(0, 2), slice(2, C)))
    check(step("join"), left, right, due=due)
    losses = (a * (gap + np.log(total)[:, None])).sum(axis=1)
    divisor = {"mean": 3.0, "weighted_mean": w[Y[valid]].sum()}.get(reduction, 1.0)
    reduced = losses if reduction == "none" else losses.sum() / divisor
    due = losses, divisor, reduced
    known = [*due, np.log(total), whole, total]
    end = check(
        step("finish"), gathered, setting, known=known, due=due, view=lambda end: (end.losses, end.divisor, end.loss)
    )
    p = e / total[:, None]
    others = np.array([np.delete(p, j, axis=1).sum(axis=1) for j in range(C)]).T
    check(step("softmax"), z, end.gathered, block, due=(p, others))
    upstream = B[:N] if reduction == "none" else np.array(-1.5)
    share = np.broadcast_to(upstream / divisor, N)

    def plain(z):
        return np.sum(a * (np.log(np.sum(np.exp(z), axis=1, keepdims=True)) - z), axis=1)

    g, due = pulled(plain, z, 1.0 * np.ones(N)), pulled(plain, z, share)
    left = others * total[:, None]
    known = [upstream * np.ones(N), share, share * valid, share * valid / total, e, left, left[valid, Y[valid]]]
    known += [a, g, own, due]
    check(step("cross_entropy_backward"), z, end, upstream, block, known=known, due=due)


# -- the losses --------------------------------------------------------------------------------------


def logits_of(loss, x, W, b, **numbers):
    """The logits by the textbook's formula."""
    q = parameters(loss, **{name: v for name, v in numbers.items() if v is not None})
    y = np.eye(C)[Y]
    if loss.has_margin:
        q.frozen = psi_on(loss, theta_of(X, W[Y].real)) - np.cos(theta_of(X, W[Y].real))
    return q.logits(complex_namespace, q, x, W, b, y)


def psi_on(loss, theta, **numbers):
    """ψ(θ) of a margin loss, but for detaching."""
    q = parameters(loss, **numbers)
    return q.target(complex_namespace, q, theta)


def gradients_of(loss, inputs, g):
    """The gradient of Σ g z in each input that has one."""
    owed = {"x", "W", *differentiable(loss)} | ({"b"} if inputs["b"] is not None else set())
    return {name: pulled(lambda v: logits_of(loss, **inputs | {name: v}), inputs[name], g) for name in owed}  # noqa: B023


CASES = [*VARIANTS, *(f"{name} without b" for name in BIAS)]


@pytest.mark.parametrize("case", CASES)
def test_loss(case):
    variant, *without_b = case.split(" ")
    loss = make(variant, classes=C)
    inputs = {"x": X, "W": W, "b": B if loss.has_bias and not without_b else None}
    inputs |= {name: getattr(loss, name, None) for name in ("scale", "margin", "alpha")}
    w, y, x_hat, W_hat, z = W[Y], (ROWS, Y), unit(X), unit(W), logits_of(loss, **inputs)
    cos, r = x_hat @ W_hat.T, radius_of(loss).of(norm(X), norm(W))
    known = [v for v in inputs.values() if isinstance(v, float)]
    known += [X, W, norm(X), norm(W), norm(w), x_hat, W_hat, cos, x_hat @ W.T, z]
    known += [r, r / norm(X)[:, None], r / norm(W), G.sum(axis=0)]
    if loss.has_margin:
        theta = theta_of(X, w)
        psi, psi_slope = (
            psi_on(loss, theta),
            slope(np.cos if loss.detach_margin else lambda t: psi_on(loss, t), theta),
        )
        in_margin = 0 * theta
        if "margin" in differentiable(loss) and not loss.detach_margin:
            in_margin = slope(lambda m: psi_on(loss, theta + 0j, margin=m), loss.margin)
        known += [*angle_of(X, w), theta, psi, psi_slope, in_margin]
        check(type(loss).psi_of, loss, step("angle")(X, w), known=known, due=(psi, psi_slope, in_margin))
    passed = check(type(loss).forward_logits, loss, Rows(X), Rows(W), inputs["b"], Pairs(*y), known=known, due=z,
                   view=lambda passed: passed.logits)  # fmt: skip

    one_hot = np.eye(C)[Y] if loss.has_margin else np.zeros((N, C))
    others, target, due = (gradients_of(loss, inputs, g) for g in ((1 - one_hot) * G, one_hot * G, G))
    factor = loss.alpha if loss.name == "l2_softmax" else 1.0
    at_hat = {"x": norm(X)[:, None] * others["x"] / factor, "W": norm(W)[:, None] * others["W"]}
    known = [*known, *others.values(), *due.values(), (at_hat["x"], x_hat), (at_hat["W"], W_hat)]
    if loss.has_margin:
        at_x, at_W = target["x"], target["W"][Y]
        turn_x, turn_W = across(target["x"], x_hat), across(target["W"], W_hat)
        known += [G[y], (1 - one_hot) * G, at_x, at_W, turn_x, turn_W[Y], -G[y] * psi_slope]
        # a margin of one's own: first every tangential part, then what comes by the radius
        known += [
            across(others["x"], x_hat),
            across(due["x"], x_hat),
            across(others["W"], W_hat),
            across(due["W"], W_hat),
        ]
        known += [G * np.where(one_hot == 1, psi[:, None], cos)]
    got = check(type(loss).backward_logits, loss, passed, G, known=known, due=list(due.values()),
                view=lambda got: [got[name] for name in due])  # fmt: skip
    assert got.keys() == due.keys()


def test_no_step_is_left_out():
    """Every number of every file has run, here or in the tests above."""
    for run in (test_normalise, test_linear, test_angle, test_psi_with_a_continuation, test_margins):
        run()
    test_psi(3)
    test_cross_entropy("mean", 0.1)
    test_cross_entropy("mean", 0.0)
    for case in CASES:
        test_loss(case)
    for room in ("steps", "losses"):
        for file in sorted((Path(refloss.__file__).parent / room).glob("*.py")):
            for line, text in numbered_lines(file.read_text(encoding="utf-8").splitlines()).items():
                assert (str(file), line) in SEEN, f"{file.name}:{line}: {text}"
