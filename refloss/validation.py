"""What is accepted, and the errors for the rest: each names the argument, where, and what was due.

Arrays are copied (the caller's are neither changed nor kept), to float64 in C order, so that the
same numbers give the same bits whatever their strides or byte order were.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np

from refloss.steps.cross_entropy import Targets

_EXACT_INTEGER = 2**53


# -- arrays ----------------------------------------------------------------------------------------


def real_array(value: Any, name: str, allow_minus_inf: bool = False) -> np.ndarray:
    """A float64 copy of an array of real, finite numbers."""
    array = _as_array(value, name)
    kind = array.dtype.kind
    if kind == "c":
        raise TypeError(f"{name} must be real, got complex dtype {array.dtype}")
    if kind not in "fiu":
        raise TypeError(f"{name} must hold real numbers, got dtype {array.dtype}")
    if kind in "iu" and array.size and max(abs(int(array.min())), int(array.max())) > _EXACT_INTEGER:
        raise ValueError(f"{name} holds integers beyond 2**53, which float64 cannot represent")
    with np.errstate(over="ignore"):  # a longdouble beyond float64 is reported as inf below
        copy = np.array(array, dtype=np.float64, order="C", copy=True)
    bad = ~np.isfinite(copy)
    if allow_minus_inf:
        bad &= copy != -np.inf
    if bad.any():
        at = tuple(int(i) for i in np.argwhere(bad)[0])
        due = "finite or -inf (a masked class)" if allow_minus_inf else "finite"
        raise ValueError(f"{indexed(name, at)} is {copy[at]}; {name} must be {due}")
    return copy


def matrix(value: Any, name: str, shape: str) -> np.ndarray:
    """A real 2-D array; `shape` is how the message calls its axes, e.g. "(N, D)"."""
    array = real_array(value, name)
    if array.ndim != 2:
        raise ValueError(f"{name} must be 2-D {shape}, got shape {array.shape}")
    return array


def features_and_weights(x: Any, W: Any) -> tuple[np.ndarray, np.ndarray]:
    """x (N, D) and W (C, D), with at least one class and one dimension."""
    x, W = matrix(x, "x", "(N, D)"), matrix(W, "W", "(C, D)")
    if x.shape[1] != W.shape[1]:
        raise ValueError(
            "x (N, D) and W (C, D) must have the same number of columns D, "
            f"got x of shape {x.shape} and W of shape {W.shape}"
        )
    if W.shape[0] == 0 or W.shape[1] == 0:
        raise ValueError(f"W needs at least one class and one dimension, got shape {W.shape}")
    return x, W


def bias(b: Any, classes: int, loss: Any) -> np.ndarray | None:
    if b is None:
        return None
    if not loss.has_bias:
        raise ValueError(f"{type(loss).__name__} has no bias: b must be None")
    b = real_array(b, "b")
    if b.shape != (classes,):
        raise ValueError(f"b must have shape (C,) = ({classes},), got {b.shape}")
    return b


def logits(value: Any, axis: int) -> np.ndarray:
    """Bare logits of any shape with classes on `axis`; −inf masks a class."""
    array = real_array(value, "logits", allow_minus_inf=True)
    if not -array.ndim <= axis < array.ndim:
        raise ValueError(f"logits must have the class axis {axis}, got shape {array.shape}")
    if array.shape[axis] == 0:
        raise ValueError(f"logits need at least one class on axis {axis}, got shape {array.shape}")
    return array


def flat_targets(value: Any, shape: tuple[int, ...], axis: int, loss: Any) -> Targets:
    """Targets of logits of this shape as one row a prediction; soft if they have all its axes."""
    array = _as_array(value, "targets")
    classes = shape[axis]
    axis = axis % len(shape)
    labels_shape = shape[:axis] + shape[axis + 1 :]
    due = f"the logits' shape without the class axis, {labels_shape}, or, for soft targets, {shape}"
    if array.shape not in (labels_shape, shape):
        raise ValueError(f"targets must have {due}, got {array.shape}")
    rows = math.prod(labels_shape)
    if array.ndim == len(shape):
        array = np.moveaxis(array, axis, -1).reshape(rows, classes)
        return targets(array, rows, classes, loss, "targets")
    return targets(array.reshape(rows), rows, classes, loss, "targets")


def unmasked_targets(z: np.ndarray, rows: Targets, loss: Any) -> None:
    """A class masked by −inf cannot carry probability of the target. An ignored row has no target."""
    masked = z == -np.inf
    if not masked.any():
        return
    wanted = (rows.target > 0) | (loss.label_smoothing > 0)
    bad = masked & wanted & ~rows.ignored[:, None]
    if bad.any():
        i, c = (int(k) for k in np.argwhere(bad)[0])
        why = "label_smoothing gives every class a share" if rows.target[i, c] == 0 else "the target is on it"
        raise ValueError(
            f"logits: class {c} of prediction {i} is masked (-inf), but {why}: its loss is infinite"
        )


def finite_logits(logits: np.ndarray) -> np.ndarray:
    """The logits, unless the inputs were so large that one left the range of float64."""
    bad = ~np.isfinite(logits)
    if bad.any():
        at = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ValueError(
            f"{indexed('logits', at)} leaves the range of float64: x[{at[0]}] and W[{at[1]}] are too large"
        )
    return logits


def finite_losses(losses: np.ndarray) -> None:
    """Refuses a loss that left the range of float64 (logits more than 1.8e308 apart)."""
    bad = np.flatnonzero(~np.isfinite(losses))
    if bad.size:
        raise ValueError(f"losses[{bad[0]}] leaves the range of float64: its logits are too far apart")


def finite_gradients(gradients: dict[str, np.ndarray]) -> None:
    """Refuses a gradient that left the range of float64 (a row so short that 1/‖x‖ is too large)."""
    for name, gradient in gradients.items():
        bad = ~np.isfinite(gradient)
        if bad.any():
            at = tuple(int(i) for i in np.argwhere(bad)[0])
            raise ValueError(
                f"{indexed('grad_' + name, at)} leaves the range of float64: "
                f"the rows of x or W are too short or too long, or upstream is too large"
            )


def no_zero_rows(v: np.ndarray, name: str, rows: np.ndarray, loss: Any) -> None:
    """Refuses a zero row among `rows` of v where the loss has no value or derivative there."""
    zero = rows[~v[rows].any(axis=1)]
    if zero.size and loss.zero_norm == "error":
        shown = ", ".join(map(str, zero[:8])) + (", …" if len(zero) > 8 else "")
        raise ValueError(
            f"{name}[{zero[0]}] is a zero row (zero rows: {shown}), where {type(loss).__name__} is singular: "
            "have no zero row, or pass zero_norm='zero' to take the zero vector for its direction"
        )


def targets(value: Any, rows: int, classes: int, loss: Any, name: str = "labels") -> Targets:
    """Labels (M,) or soft targets (M, C), told apart by their number of axes."""
    array = _as_array(value, name)
    if array.ndim == 2 and getattr(loss, "has_margin", False):
        raise ValueError(
            f"{name} must be classes of shape (N,), got shape {array.shape}: "
            f"{type(loss).__name__} puts its margin on one class, and a soft target has none"
        )
    if array.ndim == 2:
        return _soft_targets(array, rows, classes, loss, name)
    if array.ndim != 1:
        raise ValueError(
            f"{name} must be classes of shape (N,) or soft targets of shape (N, C), got shape {array.shape}"
        )
    if array.shape != (rows,):
        raise ValueError(f"{name} must have one entry a row, shape ({rows},), got {array.shape}")
    array = _integers(array, name)
    ignored = np.zeros(rows, dtype=bool)
    if loss.ignore_index is not None:
        ignored = array == loss.ignore_index
    bad = np.flatnonzero(~ignored & ((array < 0) | (array >= classes)))
    if bad.size:
        raise ValueError(
            f"{name}[{bad[0]}] is {array[bad[0]]}; {name} must lie in 0 … {classes - 1} (C = {classes})"
        )
    classes_of = np.where(ignored, 0, array).astype(np.intp)
    target = np.zeros((rows, classes))
    target[np.flatnonzero(~ignored), classes_of[~ignored]] = 1.0
    return Targets(target, _frozen(ignored), classes_of)


def _integers(array: np.ndarray, name: str) -> np.ndarray:
    if array.dtype.kind in "iu":
        return array
    if array.size == 0:  # an empty list is float64 to NumPy
        return array.astype(np.intp)
    where = ""
    if array.dtype.kind == "f" and (array != np.floor(array)).any():
        at = tuple(int(i) for i in np.argwhere(array != np.floor(array))[0])
        where = f" ({indexed(name, at)} is {array[at]})"
    raise TypeError(f"{name} must be integers, got dtype {array.dtype}{where}")


def _soft_targets(array: np.ndarray, rows: int, classes: int, loss: Any, name: str) -> Targets:
    if loss.ignore_index is not None:
        raise ValueError(f"ignore_index needs class labels: soft targets ({name} with axis C) have no index")
    if array.shape != (rows, classes):
        raise ValueError(f"soft {name} must have shape (N, C) = ({rows}, {classes}), got {array.shape}")
    soft = real_array(array, name)
    if (soft < 0).any():
        at = tuple(int(i) for i in np.argwhere(soft < 0)[0])
        raise ValueError(f"{indexed(name, at)} is {soft[at]}; soft {name} must not be negative")
    return Targets(soft, _frozen(np.zeros(rows, dtype=bool)), None)


def edge_map(value: Any, ignore_index: int | None) -> np.ndarray:
    """The valid labels of an edge map, flat: integers, all of them 0 or 1."""
    array = _integers(_as_array(value, "labels"), "labels")
    if ignore_index is not None:
        ignore_index = integer(ignore_index, "ignore_index")
    bad = (array != 0) & (array != 1) & (array != ignore_index)
    if bad.any():
        at = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ValueError(f"{indexed('labels', at)} is {array[at]}; labels must be 0 (non-edge) or 1 (edge)")
    return array[array != ignore_index]


def class_weights(loss: Any, classes: int) -> np.ndarray | None:
    """The loss's class weights (C,), now that C is known."""
    if loss.class_weights is None:
        return None
    if len(loss.class_weights) != classes:
        raise ValueError(
            f"class_weights must have shape (C,) = ({classes},), got {len(loss.class_weights)} weights"
        )
    return np.array(loss.class_weights)


def upstream_gradient(value: Any, shape: tuple[int, ...], reduction: str) -> np.ndarray:
    """The gradient arriving at out.loss: a scalar, or one a sample under reduction="none"."""
    array = real_array(value, "upstream")
    if array.ndim == 0 or (reduction == "none" and array.shape == shape):
        return array
    due = f"a scalar or shape {shape}" if reduction == "none" else "a scalar"
    raise ValueError(f"upstream must be {due} under reduction={reduction!r}, got shape {array.shape}")


# -- parameters ------------------------------------------------------------------------------------


def real_number(value: Any, name: str) -> float:
    if isinstance(value, (bool, np.bool_, str, bytes)):
        raise TypeError(f"{name} must be a real number, got {value!r}")
    array = np.asarray(value)
    if array.ndim != 0 or array.dtype.kind not in "fiu":
        raise TypeError(f"{name} must be a real number, got {value!r}")
    number = float(array)
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, got {value!r}")
    return number


def positive(value: Any, name: str) -> float:
    number = real_number(value, name)
    if number <= 0:
        raise ValueError(f"{name} must be > 0, got {value!r}")
    return number


def not_negative(value: Any, name: str) -> float:
    number = real_number(value, name)
    if number < 0:
        raise ValueError(f"{name} must be ≥ 0, got {value!r}")
    return number


def fraction(value: Any, name: str) -> float:
    number = real_number(value, name)
    if not 0 <= number <= 1:
        raise ValueError(f"{name} must lie in [0, 1], got {value!r}")
    return number


def angle_margin(value: Any) -> float:
    """0 ≤ m < π, radians."""
    m = not_negative(value, "margin")
    if m >= math.pi:
        raise ValueError(
            f"margin must be an angle in radians, 0 ≤ margin < π, got {value!r}; "
            f"if these are degrees, pass margin={math.radians(m):.6g}"
        )
    return m


def cosine_offset(value: Any) -> float:
    """0 ≤ m ≤ 2, an offset of the cosine."""
    m = not_negative(value, "margin")
    if m > 2:
        raise ValueError(
            f"margin must be an offset of the cosine, 0 ≤ margin ≤ 2, got {value!r}; if these are degrees, "
            f"they are {math.radians(m):.6g} radians, an angle, and belong to ArcFace, not to a cosine margin"
        )
    return m


def multiplier(value: Any) -> int:
    """An integer m ≥ 1."""
    m = integer(value, "margin")
    if m < 1:
        raise ValueError(f"margin must be an integer ≥ 1 (θ is multiplied by it), got {value!r}")
    return m


def integer(value: Any, name: str) -> int:
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None


def boolean(value: Any, name: str) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def function(value: Any, name: str) -> Any:
    if not callable(value):
        raise TypeError(f"{name} must be a function called as {name}(theta, xp), got {value!r}")
    return value


def per_angle(value: Any, theta: np.ndarray, name: str) -> np.ndarray:
    """What a user's function of θ gave: real, finite, one number an angle."""
    array = real_array(value, f"{name}(theta, xp)")
    if array.shape != theta.shape:
        raise ValueError(f"{name}(theta, xp) must keep the shape of theta {theta.shape}, got {array.shape}")
    return array


def one_of(value: Any, name: str, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
    return value


def weights_tuple(value: Any) -> tuple[float, ...] | None:
    """Class weights as a tuple, so that a loss stays hashable; their number is checked against C."""
    if value is None:
        return None
    weights = real_array(value, "class_weights")
    if weights.ndim != 1 or weights.size == 0:
        raise ValueError(f"class_weights must have shape (C,), got shape {weights.shape}")
    if (weights < 0).any():
        at = int(np.flatnonzero(weights < 0)[0])
        raise ValueError(f"class_weights[{at}] is {weights[at]}; class_weights must be ≥ 0")
    return tuple(weights.tolist())


def continuation(value: Any, m: int) -> tuple | None:
    """(D, D'): D(π/m) = −1, decreasing on [π/m, π], continuous, D' its derivative; 1001 points."""
    if value is None:
        return None
    if m == 1:
        raise ValueError("continuation: margin=1 has no branch beyond π/m = π, so it takes no continuation")
    if not isinstance(value, (tuple, list)) or len(value) != 2 or not all(map(callable, value)):
        raise TypeError("continuation must be a pair (D, dD) of functions, each called as f(theta, xp)")
    D, slope_of_D = value
    theta = np.linspace(math.pi / m, math.pi, 1001)
    d, slope = (
        real_array(f(theta, np), f"continuation {what}") for f, what in ((D, "D"), (slope_of_D, "dD"))
    )
    if d.shape != theta.shape or slope.shape != theta.shape:
        raise ValueError(
            f"continuation: D and dD must keep the shape of theta {theta.shape}, got {d.shape}, {slope.shape}"
        )
    if abs(d[0] + 1) > 1e-9:  # cos(m·π/m) = −1, with room for a D that rounds
        raise ValueError(
            f"continuation: D(π/m) must be cos(π) = −1, where cos(mθ) ends; D({theta[0]:.6g}) = {d[0]:.12g}"
        )
    step, h = np.diff(d), theta[1] - theta[0]
    rising = np.flatnonzero(step >= 0)
    if rising.size:
        i = rising[0]
        raise ValueError(
            f"continuation: D must be decreasing on [π/m, π]; D({theta[i]:.6g}) = {d[i]:.6g} but "
            f"D({theta[i + 1]:.6g}) = {d[i + 1]:.6g}"
        )
    # within one step a continuous D with slope dD moves by the trapezoid, up to a kink's h·|dD|
    steepest = np.maximum(np.abs(slope[:-1]), np.abs(slope[1:]))
    torn = np.flatnonzero(np.abs(step - h * (slope[:-1] + slope[1:]) / 2) > h * steepest + 1e-9)
    if torn.size:
        i = torn[0]
        raise ValueError(
            f"continuation: D must be continuous with derivative dD; from theta = {theta[i]:.6g} "
            f"to {theta[i + 1]:.6g} D moves by {step[i]:.6g}, "
            f"and dD says {h * (slope[i] + slope[i + 1]) / 2:.6g}"
        )
    _slope_is_derivative(D, slope, theta)
    return D, slope_of_D


def _slope_is_derivative(D: Any, slope: np.ndarray, theta: np.ndarray) -> None:
    """Compares dD with central differences of D at the 999 inner points, a kink allowed for."""
    h = (theta[-1] - theta[0]) * 1e-6
    inner = theta[1:-1]
    forward = (D(inner + h, np) - D(inner, np)) / h
    backward = (D(inner, np) - D(inner - h, np)) / h
    central = (forward + backward) / 2
    # rounding of D over h, and half the step's change of slope
    room = 1e-7 * np.maximum(1.0, np.abs(central)) + np.abs(forward - backward)
    off = np.flatnonzero(np.abs(slope[1:-1] - central) > room)
    if off.size:
        i = off[0]
        raise ValueError(
            f"continuation: dD must be the derivative of D; at theta = {inner[i]:.6g} "
            f"dD is {slope[1:-1][i]:.9g} and D's difference quotient {central[i]:.9g}"
        )


# -- helpers ---------------------------------------------------------------------------------------


def indexed(name: str, at: tuple[int, ...]) -> str:
    return f"{name}[{', '.join(map(str, at))}]" if at else name


def _as_array(value: Any, name: str) -> np.ndarray:
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} must be a plain array: the mask of a masked array would be lost")
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} must be an array with rows of one length: {error}") from None


def _frozen(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array
