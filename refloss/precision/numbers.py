"""Arrays of numbers that are more than one double, under NumPy's own operators and functions.

The passes of the losses are written once, with NumPy's names. `np.sqrt(v)`, `np.where(c, v, w)` or `v * w` mean
the same for an array of doubles, of pairs (`pair`) or of doubles with a running error bound (`bounded`): a subclass
of `Numbers` says in `RULES` what each NumPy function does to it (NumPy's protocols NEP 13 and NEP 18).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np


class Numbers(np.lib.mixins.NDArrayOperatorsMixin):
    """The base: shape and indexing follow the parts, arithmetic the subclass's rules.

    PARTS  the attributes that hold a subclass's arrays, all of one shape
    RULES  NumPy function → what it does here
    """

    PARTS: ClassVar[tuple[str, ...]]
    RULES: ClassVar[dict[Callable, Callable]]

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **options: Any) -> Any:
        rule = self.RULES.get(ufunc)
        if rule is None or method != "__call__" or options:
            return NotImplemented
        result = rule(*inputs)
        if out is None:
            return result
        out[0][...] = result
        return out[0]

    def __array_function__(self, function: Any, types: Any, args: Any, options: Any) -> Any:
        rule = self.RULES.get(function)
        return NotImplemented if rule is None else rule(*args, **options)

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
        return np.sum(self, axis=axis)

    @classmethod
    def lifted(cls, value: Any) -> Any:
        """A number of another kind as one of this kind, exactly."""
        raise NotImplementedError

    def nearest(self) -> np.ndarray:
        """The doubles nearest to the values."""
        raise NotImplementedError


def nearest(value: Any) -> Any:
    """Plain doubles: of any numbers the nearest, of an array itself."""
    return value.nearest() if isinstance(value, Numbers) else value


def like(value: Any, numbers: Any) -> Any:
    """`value` (doubles) as numbers of the kind of `numbers`."""
    return numbers.lifted(value) if isinstance(numbers, Numbers) else value
