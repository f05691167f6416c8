"""The shared step pairs, each on its own before the witnesses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from refloss.losses import get
from refloss.losses.bare import BareLogits
from refloss.precision.numbers import Array, nearest
from refloss.steps.angle import angle, angle_backward, cosines_backward, near_poles
from refloss.steps.linear import linear_backward
from refloss.steps.margin import arc_margin, cosine_margin
from refloss.steps.normalise import Rows, normalise, normalise_backward
from refloss.steps.psi import multiplied_angle
from refloss.steps.targets import Setting, Targets
from refloss.textbook import formulas
from refloss.textbook.family import parameters
from refloss.textbook.namespaces import numpy_namespace
from refloss.textbook.rows import as_rows, or_one, row_norm
from refloss.witnesses.compare import compare, usable
from refloss.witnesses.problem import Problem, rounding_of
from refloss.witnesses.report import CaseResult

N, C, D = 5, 4, 6


def check_steps(witnesses: Sequence[str] | None = None, seed: int = 0) -> list[CaseResult]:
    """One result per step pair."""
    witnesses = usable(witnesses)
    results = []
    for name, problem, gradients in step_problems(seed):
        step, _, case = name.partition(" ")
        plain = {of: nearest(gradient) for of, gradient in gradients.items()}
        results.append(CaseResult(f"step {step}", case or "typical", step, compare(problem, plain, witnesses)))
    return results


def step_problems(seed: int = 0) -> Iterator[tuple[str, Problem, dict[str, Array]]]:
    """(name, what the textbook says of the step, what the step's backward says)."""
    rng = np.random.default_rng([seed, 77])
    x, W = rng.normal(size=(N, D)), rng.normal(size=(C, D))
    g, a = rng.normal(size=(N, C)), rng.normal(size=(N, D))
    every = np.abs(g)

    grads = dict(zip(("x", "W", "b"), linear_backward(g, x, W), strict=True))
    yield "linear", _problem(
        {"x": x, "W": W, "b": rng.normal(size=C)},
        lambda xp, v, rows: xp.sum(g[rows] * formulas.softmax(xp, None, v["x"], v["W"], v["b"], None), axis=-1),
        scale={"x": every @ row_norm(W), "W": every.T @ row_norm(x), "b": every.sum(axis=0)},
        rowwise={"x"},
    ), grads  # fmt: skip

    v = x * np.logspace(-30, 30, N)[:, None]
    norm, unit = normalise(v)
    yield "normalise lengths 1e-30 … 1e30", _problem(
        {"x": v},
        lambda xp, v, rows: xp.sum(a[rows] * formulas.unit(xp, v["x"]), axis=-1),
        scale={"x": row_norm(a) / nearest(norm)},
        rowwise={"x"},
    ), {"x": normalise_backward(a, norm, unit)}  # fmt: skip

    x_hat, W_hat = nearest(normalise(x)[1]), nearest(normalise(W)[1])
    grads = dict(
        zip(("x", "W"), cosines_backward(g, Rows(x_hat), Rows(W_hat), near_poles(x_hat @ W_hat.T)), strict=True)
    )
    yield "cosines", _problem(
        {"x": x_hat, "W": W_hat},
        lambda xp, v, rows: xp.sum(g[rows] * formulas.inner(xp, v["x"], v["W"]), axis=-1),
        scale={"x": every.sum(axis=1), "W": every.sum(axis=0)},
        rowwise={"x"},
    ), grads  # fmt: skip

    theta = np.array([1e-3, 0.3, 1.2, 2.2, np.pi - 1e-3])
    w_hat = normalise(W[np.arange(N) % C])[1]
    across = normalise(a - w_hat * np.sum(a * w_hat, axis=1, keepdims=True))[1]
    x_at, w_at = 2 * (np.cos(theta)[:, None] * w_hat + np.sin(theta)[:, None] * across), 3 * w_hat
    weight = g[:, 0]

    def theta_of(xp: Any, v: dict, rows: Any) -> Any:
        x, w = v["pair"][..., :D], v["pair"][..., D:]
        return weight[rows] * xp.arccos(xp.sum(formulas.unit(xp, x) * formulas.unit(xp, w), axis=-1))

    yield "angle", _problem(
        {"pair": np.hstack([x_at, w_at])},
        theta_of,
        scale={"pair": np.abs(weight) * np.hypot(1 / 2, 1 / 3)},
        rowwise={"pair"},
        unsure=1 + 1 / np.sin(theta) ** 2,
        step=np.sin(theta) / 16,
    ), {"pair": np.hstack(angle_backward(weight, angle(x_at, w_at)))}  # fmt: skip

    yield from _margins(rng)
    yield from _cross_entropies(rng)


def _margins(rng: np.random.Generator) -> Iterator[tuple[str, Problem, dict[str, Array]]]:
    """ψ and the additive margins, as functions of θ."""
    for m in (1, 2, 3, 4, 7):
        theta = (np.arange(2 * m) + 0.5) * np.pi / (2 * m)  # both halves of every branch
        q = parameters(get("f_norm_sphereface", margin=m))
        yield _of_angle(
            f"psi m = {m}", theta, rng,
            lambda angles, m=m: multiplied_angle(angles, m),
            lambda xp, angle, q=q: formulas.psi(xp, q, angle), m,
        )  # fmt: skip
    theta = np.linspace(0.05, np.pi - 0.05, 9)
    cosface, arcface = parameters(get("am_softmax")), parameters(get("arcface"))
    yield _of_angle(
        "cosine_margin", theta, rng,
        lambda angles: cosine_margin(angles, cosface.margin),
        lambda xp, angle: formulas.cosine_margin(xp, cosface, angle), 1,
    )  # fmt: skip
    yield _of_angle(
        "arc_margin", theta, rng,
        lambda angles: arc_margin(angles, arcface.margin, False, "cos"),
        lambda xp, angle: formulas.arc_margin(xp, arcface, angle), 1,
    )  # fmt: skip


def _of_angle(
    name: str, theta: np.ndarray, rng: np.random.Generator, step: Callable, formula: Callable, slope: float
) -> tuple[str, Problem, dict[str, Array]]:
    weight = rng.normal(size=len(theta))
    angles = angle(np.stack([np.cos(theta), np.sin(theta)], axis=1), np.tile([1.0, 0.0], (len(theta), 1)))
    theta = nearest(angles.theta)
    problem = _problem(
        {"theta": theta[:, None]},
        lambda xp, v, rows: weight[rows] * formula(xp, v["theta"][..., 0]),
        scale={"theta": np.abs(weight) * slope},
        rowwise={"theta"},
        step=np.full(len(theta), 0.05 / slope),
    )
    return name, problem, {"theta": (weight * step(angles).slope)[:, None]}


def _cross_entropies(rng: np.random.Generator) -> Iterator[tuple[str, Problem, dict[str, Array]]]:
    """Labels and soft targets; weights and smoothing; a row that is wrong by 1e4."""
    z = rng.normal(size=(N, C)) * 3
    z[-1] = [0.0, 1e4, -1e4, 5.0]
    labels = np.array([0, 1, 3, 1, 0])
    weights = np.array([0.5, 2.0, 1.0, 3.0])
    soft = rng.dirichlet(np.ones(C), size=N) * 1.25
    upstream = rng.normal(size=N)
    for name, target, of, w, smoothing in (
        ("labels", np.eye(C)[labels], labels, np.ones(C), 0.0),
        ("labels, weights, smoothing", np.eye(C)[labels], labels, weights, 0.1),
        ("soft targets, weights", soft, None, weights, 0.0),
    ):
        targets = Targets(of, None if of is not None else target, np.zeros(N, dtype=bool), C)
        passes = BareLogits(z, -1, Setting(targets, "none", w, smoothing, "error"), "double")
        passes.forward()
        t = (1 - smoothing) * target + smoothing / C
        p = np.exp(z - numpy_namespace.logsumexp(z)[:, None])
        felt = p * np.sum(w * t, axis=1, keepdims=True) + w * t
        problem = _problem(
            {"logits": z},
            lambda xp, v, rows, t=t, w=w: upstream[rows] * formulas.cross_entropy(xp, v["logits"], t[rows], w),
            scale={"logits": np.abs(upstream) * felt.sum(axis=1)},
            rowwise={"logits"},
            loud=np.maximum(np.abs(z).max(axis=1), 1.0),
            step=0.25 / np.maximum(row_norm(z), 1.0),
        )
        yield f"cross_entropy {name}", problem, {**passes.backward(upstream)}


def _problem(
    inputs: dict[str, np.ndarray], terms: Callable, scale: dict[str, np.ndarray], rowwise: set[str],
    unsure: Any = 1.0, loud: Any = 1.0, step: Any = None,
) -> Problem:  # fmt: skip
    """A Problem of a step; its rounding is a small multiple of the natural scale."""
    c = rounding_of(D, C)
    unit = {name: or_one(row_norm(v)) for name, v in inputs.items()}
    rounding = {name: c * s * unsure * loud for name, s in scale.items()}
    steps = {name: np.full(len(as_rows(v)), 1 / 64) if step is None else step for name, v in inputs.items()}
    samples = len(next(iter(inputs.values())))
    noise = c * np.broadcast_to(loud, samples) * max(float(np.max(s * unit[name])) for name, s in scale.items())
    return Problem(inputs, terms, frozenset(rowwise), scale, rounding, unit, steps, noise)
