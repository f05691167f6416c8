"""Arrays: copied to float64 or refused, with the first offending index."""

from __future__ import annotations

from typing import Any

import numpy as np

EXACT_INTEGER = 2**53  # beyond it float64 skips integers


def itself(*index: Any) -> tuple[int, ...]:
    return tuple(int(i) for i in index)


def indexed(name: str, at: tuple[int, ...]) -> str:
    return f"{name}[{', '.join(map(str, at))}]" if at else name


def first(bad: np.ndarray) -> tuple[int, ...]:
    """The index of the first True."""
    return itself(*np.argwhere(bad)[0])


def real_array(value: Any, name: str, allow_minus_inf: bool = False, place: Any = itself) -> np.ndarray:
    """A float64 copy of an array of real, finite numbers."""
    array = as_array(value, name)
    kind = array.dtype.kind
    if kind == "c":
        raise TypeError(f"{name} must be real, got complex dtype {array.dtype}")
    if not _is_number(array.dtype):
        raise TypeError(f"{name} must hold real numbers, got dtype {array.dtype}")
    if kind in "iu" and array.size and max(abs(int(array.min())), int(array.max())) > EXACT_INTEGER:
        raise ValueError(f"{name} holds integers beyond 2**53, which float64 cannot represent")
    if array.dtype == np.float64:
        copy = np.array(array, dtype=np.float64, order="C")
    else:
        with np.errstate(over="ignore"):  # a longdouble beyond float64 is reported as inf below
            copy = np.array(array, dtype=np.float64, order="C")
    finite = np.isfinite(copy)
    bad = None if finite.all() else ~finite
    if bad is not None and allow_minus_inf:
        bad &= copy != -np.inf
    if bad is not None and bad.any():
        at = first(bad)
        due = "finite or -inf (a masked class)" if allow_minus_inf else "finite"
        raise ValueError(f"{indexed(name, place(*at))} is {copy[at]}; {name} must be {due}")
    return copy


def matrix(value: Any, name: str, shape: str) -> np.ndarray:
    """A real 2-D array; `shape` is how the message calls its axes, e.g. "(N, D)"."""
    array = real_array(value, name)
    if array.ndim != 2:
        raise ValueError(f"{name} must be 2-D {shape}, got shape {array.shape}")
    return array


def as_array(value: Any, name: str) -> np.ndarray:
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} must be a plain array: the mask of a masked array would be lost")
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} must be an array with rows of one length: {error}") from None
    except Exception as error:  # whatever another library's tensor raises, e.g. while it tracks gradients
        raise TypeError(f"{name} must be an array that NumPy can read: {error}") from error


def _is_number(dtype: np.dtype) -> bool:
    """Real numbers, extension types such as ml_dtypes' bfloat16 among them."""
    return dtype.kind in "fiu" or (dtype.kind == "V" and dtype.fields is None and dtype.type is not np.void)


def integers(array: np.ndarray, name: str, place: Any = itself) -> np.ndarray:
    if array.dtype.kind in "iu":
        return array
    if array.size == 0:  # an empty list is float64 to NumPy
        return array.astype(np.intp)
    where = ""
    if array.dtype.kind == "f" and (array != np.floor(array)).any():
        at = first(array != np.floor(array))
        where = f" ({indexed(name, place(*at))} is {array[at]})"
    raise TypeError(f"{name} must be integers, got dtype {array.dtype}{where}")
