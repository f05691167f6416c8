"""Arrays of numbers that are more than one double, under NumPy's own operators and functions.

The passes of the losses are written once, with NumPy's names. `np.sqrt(v)`, `np.where(c, v, w)` or `v * w` mean
the same for an array of doubles, of pairs (`pair`) or of doubles with a running error bound (`bounded`): a subclass
of `Numbers` says in `RULES` what each NumPy function does to it (NumPy's protocols NEP 13 and NEP 18).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, ClassVar, TypeAlias

import numpy as np


class Numbers(np.lib.mixins.NDArrayOperatorsMixin):
    """The base: shape and indexing follow the parts, arithmetic the subclass's rules.

    PARTS     the attributes that hold a subclass's arrays, all of one shape
    RULES     function of NumPy, or of this package → what it does here
    extended  whether the numbers are of more bits than a double
    around    whether they hold numbers of another kind (`scaled`) and say what becomes of both together
    """

    extended: bool = False
    around: ClassVar[bool] = False

    PARTS: ClassVar[tuple[str, ...]]
    RULES: ClassVar[dict[Any, Callable]]

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **options: Any) -> Any:
        if not self.around and any(isinstance(v, Numbers) and v.around for v in inputs):
            return NotImplemented
        if method != "__call__" or options:
            raise TypeError(f"{ufunc}: only plain calls are known for {type(self).__name__}")
        result = self._rule(ufunc)(*inputs)
        if out is None:
            return result
        out[0][...] = result
        return out[0]

    def __array__(self, *args: Any, **options: Any) -> np.ndarray:
        raise TypeError(f"{type(self).__name__} is no plain array of doubles: use nearest()")

    def __array_function__(self, function: Any, types: Any, args: Any, options: Any) -> Any:
        return self._rule(function)(*args, **options)

    def _rule(self, function: Any) -> Callable:
        if function not in self.RULES:
            names = (getattr(f, "__name__", "") for f in self.RULES)
            known = sorted(name for name in names if getattr(np, name, None) in self.RULES)
            raise TypeError(
                f"numpy.{function.__name__} has no rule for extended precision and error bounds; "
                f"these functions have: {', '.join(known)}"
            )
        return self.RULES[function]

    def _each(self, change: Callable) -> Any:
        """The same rearrangement of every part."""
        return type(self)(*(change(getattr(self, part)) for part in self.PARTS))

    @property
    def _first(self) -> Any:
        return getattr(self, self.PARTS[0])

    @property
    def shape(self) -> tuple[int, ...]:
        return self._first.shape

    @property
    def ndim(self) -> int:
        return self._first.ndim

    @property
    def size(self) -> int:
        return self._first.size

    @property
    def T(self) -> Any:
        return self._each(lambda part: part.T)

    def __len__(self) -> int:
        return len(self._first)

    def __getitem__(self, index: Any) -> Any:
        return self._each(lambda part: part[index])

    def __setitem__(self, index: Any, value: Any) -> None:
        value = self.lifted(value)
        for part in self.PARTS:
            getattr(self, part)[index] = getattr(value, part)

    def copy(self) -> Any:
        return self._each(lambda part: part.copy())

    def sum(self, axis: int | None = None) -> Any:
        return self.RULES[np.sum](self, axis=axis)

    def lifted(self, value: Any) -> Any:
        """Doubles as numbers of this kind, exactly."""
        raise NotImplementedError

    def nearest(self) -> np.ndarray:
        """The doubles nearest to the values."""
        raise NotImplementedError


Array: TypeAlias = np.ndarray | Numbers  # what the passes take: doubles, pairs, or either with an error bound


def nearest(value: Array | float) -> Any:
    """Plain doubles: of any numbers the nearest, of an array itself."""
    return value.nearest() if isinstance(value, Numbers) else value


def like(value: Array | float, numbers: Array) -> Any:
    """`value` (doubles) as numbers of the kind of `numbers`."""
    return numbers.lifted(value) if isinstance(numbers, Numbers) else value


def is_extended(numbers: Array) -> bool:
    """Whether they are of more bits than doubles."""
    return isinstance(numbers, Numbers) and numbers.extended


def by_kind(of_doubles: Callable) -> Callable:
    """A function of doubles that other numbers have a rule of their own for, in RULES."""

    @wraps(of_doubles)
    def function(*args: Any) -> Any:
        for value in args:
            if isinstance(value, Numbers):
                return value.RULES[function](*args)
        return of_doubles(*args)

    return function


@by_kind
def from_pair(high: np.ndarray, low: np.ndarray, numbers: Array) -> Any:
    """The number high + low, right to a few u² of itself, in the kind of `numbers`."""
    return high + low


@by_kind
def argmax(values: np.ndarray) -> np.ndarray:
    """(M,) the column of each row's (first) largest number."""
    return values.argmax(axis=1)


@by_kind
def error_of(value: Array) -> Any:
    """The bound of the error of `value`: 0 for numbers that carry none."""
    return 0.0


@by_kind
def widened(value: Array, by: Any) -> Any:
    """`value` with its error bound larger by `by`, for a decision that an error may have changed."""
    return value


def joined(values: Sequence[Numbers]) -> Any:
    """The rows of all, of one kind, one below the other."""
    kind = type(values[0])
    return kind(*(np.concatenate([getattr(v, part) for v in values]) for part in kind.PARTS))


def power(a: Numbers, n: int) -> Any:
    """a^n for a whole n > 0, by multiplication."""
    if not isinstance(n, int) or n < 1:
        raise TypeError(f"extended precision and error bounds know whole powers from 1 on, not {n!r}")
    result = a
    for _ in range(n - 1):
        result = result * a
    return result


class _Functions:
    """NumPy's functions for a user's f(theta, xp), with a π of the kind of `numbers`."""

    def __init__(self, numbers: Any) -> None:
        self.pi = from_pair(np.float64(np.pi), np.float64(1.2246467991473532e-16), numbers)

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


def functions_of(numbers: Array) -> Any:
    """The array namespace in which a user's function of these numbers is called."""
    return _Functions(numbers) if isinstance(numbers, Numbers) else np
