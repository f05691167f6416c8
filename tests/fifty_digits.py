"""The textbook formulas in 50-digit arithmetic (mpmath), and their gradients by complex step there.

The namespace is made of mpmath's own functions over object arrays; the formulas are refloss' textbook forms, the
arithmetic and the differentiation are independent of every pass and of every float64 witness.
"""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np

from refloss.textbook.namespaces import from_module

DIGITS = 80  # a complex function is right normwise: a part of size STEP keeps DIGITS − 30 of them
STEP = mpmath.mpf(10) ** -30  # truncation of the complex step: its square, 1e-60


def _each(function: Any) -> Any:
    return np.frompyfunc(function, 1, 1)


def _log_sum_exp(z: np.ndarray) -> np.ndarray:
    return namespace.log(np.sum(namespace.exp(z), axis=-1))


def exact(array: Any) -> np.ndarray:
    """A float64 array, converted without rounding."""
    return _each(mpmath.mpf)(np.asarray(array, dtype=float))


namespace = from_module(
    np,
    constant=exact,
    pi=mpmath.pi,
    sqrt=_each(mpmath.sqrt),
    exp=_each(mpmath.exp),
    log=_each(mpmath.log),
    cos=_each(mpmath.cos),
    sin=_each(mpmath.sin),
    arccos=_each(mpmath.acos),
    floor=_each(mpmath.floor),
    real=_each(mpmath.re),
    logsumexp=_log_sum_exp,
)


def value_and_gradients(problem: Any) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(terms, name → gradient of their sum), rounded to float64 at the end, of a witnesses' Problem."""
    with mpmath.workdps(DIGITS):
        inputs = {name: exact(value) if np.ndim(value) else mpmath.mpf(float(value))
                  for name, value in problem.inputs.items()}  # fmt: skip
        everyone = np.arange(problem.samples)
        terms = problem.terms(namespace, inputs, everyone)
        gradients = {name: problem.weight * _gradient(problem, inputs, name, everyone) for name in inputs}
        return problem.weight * _floats(_each(mpmath.re)(terms)), gradients


def _gradient(problem: Any, inputs: dict, name: str, everyone: np.ndarray) -> np.ndarray:
    step = mpmath.mpc(0, STEP)

    def change(moved: Any) -> np.ndarray:
        terms = problem.terms(namespace, inputs | {name: moved}, everyone)
        return _each(lambda v: mpmath.im(v) / STEP)(terms)

    value = inputs[name]
    if not np.ndim(value):
        return np.float64(float(np.sum(change(value + step))))
    gradient = np.empty(value.shape, dtype=object)
    if name in problem.rowwise:
        for d in range(value.shape[1]):
            moved = value.copy()
            moved[:, d] = moved[:, d] + step
            gradient[:, d] = change(moved)
    else:
        for entry in np.ndindex(value.shape):
            moved = value.copy()
            moved[entry] = moved[entry] + step
            gradient[entry] = np.sum(change(moved))
    return _floats(gradient)


def _floats(values: np.ndarray) -> np.ndarray:
    return np.asarray(values, dtype=object).astype(float)
