"""What the tests share: a small example for every loss, natural scales, and optional packages."""

from __future__ import annotations

import copy
import importlib
import os
import shutil
from types import ModuleType
from typing import Any, NoReturn

import numpy as np
import pytest

import refloss
from refloss.cases.configurations import linear_psi, linear_psi_slope, parabola, parabola_slope
from refloss.losses import LOSSES, blocks
from refloss.steps.normalise import Rows
from refloss.steps.targets import Pairs
from refloss.textbook.family import FAMILY, POWERS, member_of, radius_of


def need(name: str) -> ModuleType:
    """The optional package `name`; without it the test is skipped, or fails if it must run.

    REFLOSS_REQUIRE_OPTIONAL=1 (set by .ci/run) turns the skip into a failure, so that a test of
    the optional parts cannot stop running unseen.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        _lacking(name, str(error))


def need_program(name: str) -> str:
    """The path of a program, on PATH or where Rust's installer puts its own; without it as `need`."""
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), os.path.expanduser("~/.cargo/bin")))
    return shutil.which(name, path=path) or _lacking(name, "there is no such program")


def _lacking(name: str, reason: str) -> NoReturn:
    if os.environ.get("REFLOSS_REQUIRE_OPTIONAL") == "1":
        pytest.fail(f"{name} is required by REFLOSS_REQUIRE_OPTIONAL=1, but: {reason}")
    pytest.skip(f"needs {name}", allow_module_level=True)


# -- the losses, and an ordinary input for each ----------------------------------------------------


NAMES = refloss.losses()

# by readable id: the survey's losses at their defaults, then each option that changes a pass
VARIANTS: dict[str, tuple[type, dict[str, Any]]] = {
    **{name: (cls, {}) for name, cls in LOSSES.items()},
    "l_softmax-annealed": (refloss.LSoftmax, {"margin": 3, "annealing": 2.5}),
    "l_softmax-continued": (refloss.LSoftmax, {"continuation": (parabola, parabola_slope)}),
    "a_softmax-annealed": (refloss.ASoftmax, {"margin": 2, "annealing": 0.5}),
    "a_softmax-detached": (refloss.ASoftmax, {"detach_margin": True}),
    "f_norm_sphereface-annealed": (refloss.FNormSphereFace, {"scale": 8, "margin": 3, "annealing": 1}),
    "am_softmax-detached": (refloss.AMSoftmax, {"detach_margin": True}),
    "arcface-easy": (refloss.ArcFace, {"easy_margin": True}),
    "arcface-linear": (refloss.ArcFace, {"past_pi": "linear", "margin": 1.0}),
    "arcface-detached": (refloss.ArcFace, {"detach_margin": True}),
    **{
        f"margin_softmax-{radius}": (
            refloss.MarginSoftmax,
            {"psi": linear_psi, "dpsi": linear_psi_slope, "radius": radius, "scale": 8},
        )
        for radius in ("scale", "x_norm", "both_norms")
    },
}

_MEMBERS = {name: FAMILY[name] for name in NAMES if name in FAMILY}  # a test of its own says who is missing
PSI = [name for name, member in _MEMBERS.items() if member.multiplies_angle]
MARGIN = [name for name in NAMES if LOSSES[name].has_margin]
SOFT = [name for name in NAMES if name not in MARGIN]  # soft targets have a meaning
BIAS = [name for name in NAMES if LOSSES[name].has_bias]
NORMALISES_X = [name for name, member in _MEMBERS.items() if not POWERS[member.radius][0]]  # the logits see x̂ only
NORMALISES_W = [name for name, member in _MEMBERS.items() if not POWERS[member.radius][1]]
SINGULAR_X = [name for name, member in _MEMBERS.items() if "x" in member.zero_rows]  # at x_i = 0
SINGULAR_W = [name for name, member in _MEMBERS.items() if "W" in member.zero_rows]  # at W_y = 0


def make(variant: str, classes: int = 4, **options: Any) -> Any:
    """The loss with this id; weights of the weighted softmax fit the number of classes."""
    cls, parameters = VARIANTS[variant]
    if cls is refloss.WeightedSoftmax:
        parameters = {"class_weights": [0.5 + c for c in range(classes)]}
    return cls(**{**parameters, **options})


def example(variant: str, rng: np.random.Generator, n: int = 6, classes: int = 4, d: int = 3) -> dict[str, np.ndarray]:
    """Arguments of forward: ordinary features, every class a label, b where the loss has one."""
    inputs = {"x": rng.normal(size=(n, d)), "W": rng.normal(size=(classes, d)), "labels": np.arange(n) % classes}
    if VARIANTS[variant][0].has_bias:
        inputs["b"] = rng.normal(size=classes)
    return inputs


def steep(theta, xp):
    """A continuation of cos 2θ: a kink at π/2, D' = −2 against 0, and a cone at π."""
    return -1 - 2 * (theta - np.pi / 2)


def steep_slope(theta, xp):
    return -2 + 0 * theta


# -- comparing -------------------------------------------------------------------------------------

UNIT = 2.0**-53  # the unit roundoff of float64
SUBNORMAL = 5e-324  # every bound gets one smallest subnormal

# Two ways to compute the same number differ by a few roundings a step. With N, C, D ≤ 8 no path
# through a pass has more than about 50 of them, each of UNIT relative to the terms that are added.
ROUNDINGS = 128 * UNIT  # 1.4e-14


def relative_error_of(out: Any) -> float:
    """What rounding may do to p, ℓ and g: a logit is rounded relative to its size, and e^z turns
    an absolute error of z into a relative one."""
    return ROUNDINGS * max(1.0, float(np.max(np.abs(out.logits), initial=0.0)))


def assert_close(actual: Any, due: Any, scale: Any, relative: float, what: str = "") -> None:
    """|actual − due| ≤ relative · scale, element by element; the message gives the worst one."""
    actual, due = np.asarray(actual), np.asarray(due)
    assert actual.shape == due.shape, f"{what}: shape {actual.shape}, due {due.shape}"
    bound = np.broadcast_to(relative * np.asarray(scale) + SUBNORMAL, actual.shape)
    error = np.abs(actual - due)
    bad = ~(error <= bound)  # NaN is bad
    if bad.any():
        at = np.unravel_index(np.argmax(np.where(bad, error / bound, 0)), actual.shape)
        pytest.fail(
            f"{what} at {tuple(map(int, at))}: {actual[at]!r}, due {due[at]!r}, "
            f"error {error[at]:.3g} over the bound {bound[at]:.3g}"
        )


def assert_printed(values: Any, printed: Any, last_digit: float) -> None:
    """Each value rounds to the number printed: within half a unit of its last digit."""
    np.testing.assert_allclose(values, printed, rtol=0, atol=0.5 * last_digit * (1 + 1e-9))


def unit(v):
    """v̂, and 0 for a zero row."""
    norm = np.linalg.norm(v, axis=-1, keepdims=True)
    return v / np.where(norm == 0, 1, norm)


def assert_finite(*records):
    for record in records:
        for stage, value in record.stages().items():
            assert np.isfinite(value).all(), f"{stage} is not finite: {value}"


def assert_same(actual, due, scale, out, what):
    assert_close(actual, due, scale, relative_error_of(out), what)


def near(due: Any, relative: float) -> Any:
    """Equal to `due` up to this share of it; pytest.approx alone would let any two numbers below 1e-12 pass."""
    return pytest.approx(due, rel=relative, abs=0)


def radius(loss: Any, x: np.ndarray, W: np.ndarray) -> np.ndarray:
    """r(‖x_i‖, ‖W_j‖) (N, C), the size of a logit without its bias."""
    return radius_of(loss).of(np.linalg.norm(x, axis=1), np.linalg.norm(W, axis=1))


def natural_scales(loss: Any, x: np.ndarray, W: np.ndarray, G: np.ndarray) -> dict[str, np.ndarray]:
    """The natural scale Σ G ‖∇z‖ by gradient, with a bound for ‖∇z‖: (r/‖x‖) (|ψ| + |ψ'|).

    G (N, C): the terms of ∂L/∂z before they cancel; |∂L/∂z| for labels without smoothing.
    """
    m = loss.margin if member_of(loss).multiplies_angle else 1
    terms = 3 * m * G * radius(loss, x, W)  # |ψ| + |ψ'| ≤ 2m + m; without multiplied angle ≤ 3
    x_norm, W_norm = np.linalg.norm(x, axis=1), np.linalg.norm(W, axis=1)
    return {
        "logits": G,
        "x": (terms.sum(axis=1) / np.where(x_norm == 0, 1, x_norm))[:, None],
        "W": (terms.sum(axis=0) / np.where(W_norm == 0, 1, W_norm))[:, None],
        "b": G.sum(axis=0),
        "scale": terms.sum() / getattr(loss, "scale", 1.0),
        "margin": terms.sum(),
        "alpha": terms.sum() / getattr(loss, "alpha", 1.0),
    }


def gradients(grads: Any) -> dict[str, np.ndarray]:
    """grads.logits, grads.x, … that apply, by field."""
    return {name.removeprefix("grad_"): value for name, value in grads.stages().items()}


def bits(*records: Any) -> dict[str, tuple]:
    """Every stage of the records as shape, dtype and bytes."""
    values = {}
    for record in records:
        values.update(record.stages())
        for name in ("complement", "ignored", "cone"):
            if getattr(record, name, None) is not None:
                values[name] = getattr(record, name)
    return {name: (np.shape(v), np.asarray(v).dtype.str, np.asarray(v).tobytes()) for name, v in values.items()}


def with_stage(record: Any, field: str, value: Any) -> Any:
    """A copy of a record with another array in one field."""
    twin = copy.copy(record)
    vars(twin)[field] = value
    return twin


def in_blocks(monkeypatch: pytest.MonkeyPatch, entries: int) -> None:
    """From now on a block of classes has so few that its largest array has this many numbers; at least one class."""
    monkeypatch.setattr(blocks, "ENTRIES", entries)
    monkeypatch.setattr(blocks, "NARROWEST", 1)


def passes(loss: Any, *args: Any, **inputs: Any) -> tuple[Any, Any]:
    """The records of a forward and its backward."""
    out = loss.forward(*args, **inputs)
    return out, loss.backward(out)


def logits_pass(loss, x, W, labels):
    """A loss's logits with what its backward consumes, all classes at once."""
    x, W = np.asarray(x, dtype=float), np.asarray(W, dtype=float)
    return loss.forward_logits(Rows(x), Rows(W), None, Pairs(np.arange(len(x)), np.asarray(labels)))


def refused(error: type[Exception], **cases: tuple[Any, str]) -> dict[str, tuple[Any, type[Exception], str]]:
    """Bad input by id → (what is given, the error, what its message says)."""
    return {name: (given, error, message) for name, (given, message) in cases.items()}


# reductions, weights, smoothing and ignored rows, of four classes
WEIGHTS = (0.7, 1.3, 0.1, 2.9)
SETTINGS = {
    "mean": {},
    "sum-smoothed": {"reduction": "sum", "label_smoothing": 0.1},
    "weighted_mean": {"reduction": "weighted_mean", "class_weights": WEIGHTS},
    "none-ignored": {"reduction": "none", "ignore_index": 1, "label_smoothing": 0.3},
}
