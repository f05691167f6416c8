"""Anyone's loss: an object with forward and backward, or a function and its gradient."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from refloss.cases.configurations import default_upstream
from refloss.losses import CrossEntropy
from refloss.textbook.namespaces import numpy_namespace
from refloss.textbook.rows import or_one, row_norm
from refloss.witnesses.autograd_tape import autograd, sweep
from refloss.witnesses.problem import Problem, U

INPUTS = ("x", "W", "b")
DRAWS = 8  # of `_rounding`


def described(loss: Any) -> tuple[str, str]:
    """(name, how to call it in a message) of a loss of somebody's own; TypeError if it is none."""
    if isinstance(loss, (tuple, list)) and len(loss) == 2 and all(map(callable, loss)):
        name = "/".join(getattr(f, "__name__", type(f).__name__) for f in loss)
        return name, name
    if isinstance(loss, type):
        raise TypeError(f"loss must be an object, got the class {loss.__name__}: pass {loss.__name__}(…)")
    if isinstance(loss, CrossEntropy):
        raise TypeError(
            "loss must have x and W, and CrossEntropy has bare logits: with W the identity, x are the logits of Softmax"
        )
    if not (callable(getattr(loss, "forward", None)) and callable(getattr(loss, "backward", None))):
        raise TypeError(f"loss must have forward and backward, or be a pair (function, gradient), got {loss!r}")
    name = str(getattr(loss, "name", None) or type(loss).__name__)
    plain = type(loss).__repr__ is object.__repr__
    return name, name if plain else repr(loss)


def foreign_gradients(
    loss: Any, x: np.ndarray, W: np.ndarray, labels: np.ndarray, b: np.ndarray | None, upstream: Any
) -> tuple[np.ndarray, dict[str, Any], np.ndarray]:
    """(loss value, name → gradient, the upstream used) from one forward and backward of the loss."""
    given = [x, W, labels] + ([] if b is None else [b])
    arguments = [v.copy() for v in given]
    if isinstance(loss, (tuple, list)):
        f, gradient = loss
        value = _value(f(*arguments), len(x))
        takes_upstream = "upstream" in inspect.signature(gradient).parameters
        upstream = _upstream(upstream, value) if takes_upstream else np.float64(1.0)
        keywords = {"upstream": upstream} if takes_upstream else {}
        gradients = _named(gradient(*arguments, **keywords))
    else:
        out = loss.forward(*arguments)
        value = _value(out, len(x))
        upstream = _upstream(upstream, value)
        gradients = _named(loss.backward(out, upstream))
    for name, before, after in zip(("x", "W", "labels", "b"), given, arguments, strict=False):
        if not np.array_equal(before, after):
            raise ValueError(f"loss must not change its input, but {name} was changed in place")
    return value, gradients, upstream


def foreign_problem(
    loss: Any, x: np.ndarray, W: np.ndarray, labels: np.ndarray, b: np.ndarray | None,
    upstream: np.ndarray, value: np.ndarray,
) -> Problem:  # fmt: skip
    """Σ upstream · loss from the loss's own textbook form, or from its forward on real arrays."""
    inputs = {"x": x, "W": W} | ({} if b is None else {"b": b})
    textbook = getattr(loss, "textbook", None)
    terms: Callable[..., Any]
    if textbook is not None:
        share = np.broadcast_to(upstream * _share(textbook(numpy_namespace, x, W, labels, b), value), len(x))

        def terms(xp: Any, given: Mapping[str, Any], rows: Any) -> Any:
            return share[rows] * textbook(xp, given["x"], given["W"], labels[rows], given.get("b"))

        rowwise, samples = frozenset({"x"}), len(x)
    else:
        run = loss[0] if isinstance(loss, (tuple, list)) else loss.forward

        def terms(xp: Any, given: Mapping[str, Any], rows: Any) -> Any:
            arguments = [np.array(given[name]) for name in INPUTS if name in given]
            value = run(*arguments[:2], labels.copy(), *arguments[2:])
            return np.atleast_1d(upstream * np.asarray(getattr(value, "loss", value), dtype=float))

        rowwise, samples = frozenset(), value.size if value.ndim else 1
    units = {name: or_one(row_norm(v)) for name, v in inputs.items()}
    size = 64 * (x.shape[1] + len(W)) * U
    problem = Problem(
        inputs,
        terms,
        rowwise=rowwise,
        unit=units,
        step={name: np.full(len(units[name]), 1 / 256) for name in inputs},
        noise=np.broadcast_to(size * np.abs(upstream) * np.maximum(np.abs(value), 1e-300), samples),
        runs_everywhere=textbook is not None,
    )
    if textbook is not None:

        def measure() -> None:
            problem.rounding = _rounding(problem)

        def try_measure(rows: np.ndarray) -> None:
            for _ in range(1 + DRAWS):
                sweep(problem, rows)

        problem.measure, problem.try_measure = measure, try_measure
    return problem


def _share(losses: np.ndarray, value: np.ndarray) -> float:
    """What each of the textbook's losses counts in the loss: 1 in a sum or without reduction, 1/N in a mean."""
    if np.shape(losses) != (len(losses),):
        raise ValueError(f"textbook must return one loss per sample, shape (N,), got {np.shape(losses)}")
    if value.ndim:
        return 1.0
    total = float(np.sum(losses))
    for share in (1.0 / len(losses), 1.0):
        if abs(value - share * total) <= 1e-9 * abs(value):
            return share
    raise ValueError(
        f"the loss must be the mean or the sum of its textbook losses, here {total / len(losses):.9g} or "
        f"{total:.9g}; it is {float(value):.9g}"
    )


def _rounding(problem: Problem, factor: float = 8.0) -> dict[str, np.ndarray]:
    """How far rounding moves the textbook form's gradient, row by row.

    Nothing is known of an unknown formula, so it is tried: inputs moved by a few units in the last place, at random,
    reroll every rounding error inside. `factor` times the largest change, and never less than (D + C + 8) roundings of
    the largest row: an honest pass may form a small row as a difference of larger terms.
    """
    rng = np.random.default_rng(0)
    quiet = replace(problem, tell=lambda what, pairs: None)
    here = autograd(quiet)
    width = sum(np.shape(v)[-1] for v in problem.inputs.values()) + 8
    worst = {}
    for name, estimate in here.items():
        size = row_norm(estimate.gradient)
        worst[name] = np.full(len(size), 8 * width * U * np.max(size, initial=0.0))
    for _ in range(DRAWS):
        problem.tell("measure", problem.batch * problem.classes / DRAWS)
        moved = {name: v * (1 + 4 * U * rng.integers(-2, 3, v.shape)) for name, v in problem.inputs.items()}
        there = autograd(replace(quiet, inputs=moved))
        for name in worst:
            change = row_norm(there[name].gradient - here[name].gradient)
            worst[name] = np.maximum(worst[name], factor * change)
    return worst


def _value(out: Any, samples: int) -> np.ndarray:
    """The loss, a scalar or one per sample."""
    loss = getattr(out, "loss", out)
    try:
        value = np.asarray(loss, dtype=float)
    except (TypeError, ValueError):
        raise TypeError(f"loss must give a number or an array (N,) of losses, got {type(loss).__name__}") from None
    if value.shape not in ((), (samples,)):
        raise ValueError(f"loss must give a scalar or shape (N,) = ({samples},), got shape {value.shape}")
    if not np.isfinite(value).all():
        raise ValueError("loss must give finite values, got NaN or Inf")
    return value


def _upstream(upstream: Any, value: np.ndarray) -> np.ndarray:
    if upstream is None:
        upstream = np.asarray(default_upstream("none" if value.ndim else "mean", value.size))
        # without a natural scale nothing can be said of a row on which nothing arrives
        upstream = np.where(upstream == 0, 0.5, upstream)
    return np.asarray(upstream, dtype=float)


def _named(gradients: Any) -> dict[str, Any]:
    """Gradients as a mapping, whatever came: a mapping, a sequence in the order x, W, b, or attributes."""
    if isinstance(gradients, Mapping):
        return {name.removeprefix("grad_"): value for name, value in gradients.items()}
    if isinstance(gradients, (tuple, list)) and not hasattr(gradients, "x"):
        return dict(zip(INPUTS, gradients, strict=False))
    return {name: getattr(gradients, name, None) for name in INPUTS}
