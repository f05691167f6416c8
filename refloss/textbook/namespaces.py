"""Array namespaces `xp` that can run the textbook formulas.

A namespace offers, under NumPy's names: pi, sum, sqrt, exp, log, cos, sin, arccos, floor, clip, where, real,
matmul, swapaxes; logsumexp(z) = log Σ_j e^{z_j} over the last axis; constant(v), a float64 array as numbers of
the namespace that carry no derivative. `real` gives the ordinary number on which a formula may branch. Any
library with these names can be added the same way (the tests run the formulas in 50 digits and under JAX).
"""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np

NAMES = (
    "pi", "sum", "sqrt", "exp", "log", "cos", "sin", "arccos", "floor", "clip", "where", "real", "matmul", "swapaxes",
)  # fmt: skip


def from_module(module: Any, **own: Any) -> SimpleNamespace:
    """A namespace from a module with NumPy's names; `own` adds or replaces functions."""
    names = {name: getattr(module, name) for name in NAMES if name not in own}
    return SimpleNamespace(**({"constant": _as_it_is} | names | own))


def _as_it_is(v: Any) -> Any:
    return v


def _logsumexp(z: np.ndarray) -> np.ndarray:
    """log Σ_j e^{z_j} of real or complex z, shifted by the largest real part so that e^z exists."""
    shift = np.max(np.real(z), axis=-1, keepdims=True)
    return np.log(np.sum(np.exp(z - shift), axis=-1)) + shift[..., 0]


numpy_namespace = from_module(np, logsumexp=_logsumexp)
complex_namespace = numpy_namespace  # NumPy's functions take complex arrays as they are


@cache
def autograd_namespace() -> SimpleNamespace:
    """HIPS autograd's NumPy: every result remembers how to differentiate itself."""
    import autograd.numpy as anp
    from autograd.scipy.special import logsumexp

    return from_module(anp, logsumexp=lambda z: logsumexp(z, axis=-1))
