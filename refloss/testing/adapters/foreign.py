"""Any framework that can be said in three functions: arrays there, arrays back, a vector–Jacobian product."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from refloss.testing.adapters.numpy import NumPy, to_bits
from refloss.testing.adapters.words import UnfitImplementation, described, kind_of

TRIED = np.array([[1.0, -2.0, 3.0], [0.5, 0.0, -4.0]])  # exact in every dtype, and so are its products


@dataclass(frozen=True)
class Framework:
    """A framework that `refloss.testing.check` does not know by name, for its argument `framework`.

    Each function is tried on small numbers before the kernel is called.

    Args:
        to_array: f(array, dtype): a new array of the framework, with the values, shape and dtype of a NumPy array;
            dtype is its name, "float32" say, or "int64" for labels (which may become shorter integers). "bfloat16"
            comes as `ml_dtypes.bfloat16`.
        from_array: f(array): the NumPy array with the values, shape and dtype of the framework's.
        vjp: f(function, arrays): (value, back) with value = ``function(*arrays)``, an array, and back(upstream)
            the gradients of Σ upstream · value, one for each of the arrays; None where value does not depend on it.
        name (str): for the report.

    Raises:
        TypeError: for what is not a function, in one line.
        UnfitImplementation: by `check`, in one line that names the function that gives something else.

    Example:
        >>> import autograd
        >>> import autograd.numpy as np
        >>> import refloss
        >>> def vjp(function, arrays):
        ...     back, value = autograd.make_vjp(lambda given: function(*given))(tuple(arrays))
        ...     return value, back
        >>> hips = Framework(to_array=lambda array, dtype: array.copy(), from_array=lambda array: array, vjp=vjp)
        >>> def kernel(logits, targets):
        ...     z = logits - np.max(logits, axis=1, keepdims=True)
        ...     return np.mean(np.log(np.sum(np.exp(z), axis=1)) - z[np.arange(len(targets)), targets])
        >>> refloss.testing.check(kernel, refloss.CrossEntropy(), framework=hips, cases=["typical"]).passed
        True
    """

    to_array: Callable[[np.ndarray, str], Any]
    from_array: Callable[[Any], Any]
    vjp: Callable[[Callable[..., Any], Sequence[Any]], tuple[Any, Callable[[Any], Sequence[Any]]]]
    name: str = "custom"

    def __post_init__(self) -> None:
        for name in ("to_array", "from_array", "vjp"):
            if not callable(getattr(self, name)):
                raise TypeError(f"Framework: {name} must be a function, got {kind_of(getattr(self, name))}")
        if not isinstance(self.name, str):
            raise TypeError(f"Framework: name must be a string, got {kind_of(self.name)}")


class Foreign(NumPy):
    """The adapter of a `Framework`; raises unless its functions do on small numbers what they must."""

    differentiates = True
    has_layouts = False

    def __init__(self, framework: Framework, dtype: str, device: str | None) -> None:
        self.framework = framework
        if device is not None:
            raise UnfitImplementation(f"device must be None for a Framework: its to_array says where, got {device!r}")
        super().__init__(dtype, None)
        self._try_arrays()
        self._try_vjp()

    def array(self, bits: np.ndarray, dtype: str) -> Any:
        return self.framework.to_array(super().array(bits, dtype), dtype)

    def bits(self, array: Any, dtype: str) -> np.ndarray:
        return super().bits(self.readable(array), dtype)

    def readable(self, value: Any) -> Any:
        # what is NumPy's or Python's already comes of a kernel that leaves the framework
        return value if isinstance(value, (np.ndarray, np.generic, int, float)) else self.framework.from_array(value)

    def no_gradient_of(self, value: Any) -> str:
        return ""  # vjp says so

    def gradients(
        self, value: Any, wanted: Mapping[str, Any], give: Callable[[str], Any], again: Callable[[Any], Any]
    ) -> dict[str, Any]:
        def function(*arrays: Any) -> Any:
            return again(dict(zip(wanted, arrays, strict=True)))

        value, back = self._back(function, list(wanted.values()))
        return dict(zip(wanted, self._of(back, give(self.readable(value).dtype.name), len(wanted)), strict=True))

    # -- what the three functions give --------------------------------------------------------------

    def _back(self, function: Callable[..., Any], arrays: list[Any]) -> tuple[Any, Callable[[Any], Any]]:
        found = self.framework.vjp(function, arrays)
        if not (isinstance(found, (tuple, list)) and len(found) == 2 and callable(found[1])):
            raise UnfitImplementation(f"vjp must return (value, function of upstream), got {_shown(found)}")
        return found[0], found[1]

    def _of(self, back: Callable[[Any], Any], upstream: Any, count: int) -> list[Any]:
        found = back(upstream)
        if not (isinstance(found, (tuple, list)) and len(found) == count):
            words = f"vjp: its function of upstream must return {count} gradients, one for each array"
            raise UnfitImplementation(f"{words}, got {_shown(found)}")
        return list(found)

    def _try_arrays(self) -> None:
        """There and back: the same values, shape and dtype."""
        for values, dtype in ((TRIED, self.dtype), (TRIED[0, 0], self.dtype), (np.arange(3), "int64")):
            given = NumPy.array(self, to_bits(np.asarray(values), dtype), dtype)
            made = _tried("to_array", self.framework.to_array, given.copy(), dtype)
            back = _tried("from_array", self.framework.from_array, made)
            if not isinstance(back, (np.ndarray, np.generic)):
                raise UnfitImplementation(f"from_array must return a NumPy array, got {kind_of(back)}")
            kept = back.dtype.kind in "iu" if dtype == "int64" else back.dtype == given.dtype
            if not kept or back.shape != given.shape or not np.array_equal(back, given):
                words = f"from_array(to_array(a, {dtype!r})) must be a: of shape {given.shape} and dtype {given.dtype}"
                raise UnfitImplementation(
                    f"{words} came shape {back.shape} and dtype {back.dtype}"
                    + (", with other values" if kept and back.shape == given.shape else "")
                )

    def _try_vjp(self) -> None:
        """Of a · b, whose gradients are upstream · b and upstream · a."""
        a, b, upstream = TRIED, TRIED[::-1], TRIED[:, ::-1]
        arrays = [self.array(to_bits(values, self.dtype), self.dtype) for values in (a, b, upstream)]

        def both() -> tuple[Any, list[Any]]:
            value, back = self._back(lambda a, b: a * b, arrays[:2])
            return value, self._of(back, arrays[2], 2)

        value, gradients = _tried("vjp", both)
        for what, got, due in (
            ("value", value, a * b), ("gradient in a", gradients[0], upstream * b),
            ("gradient in b", gradients[1], upstream * a),
        ):  # fmt: skip
            if got is None:
                raise UnfitImplementation(f"vjp is wrong for a * b: there is no {what}")
            found = np.asarray(_tried("from_array", self.readable, got))
            if found.shape != due.shape or not np.array_equal(found.astype(np.float64), due):
                shown = f"{found.astype(np.float64).tolist()} came, {due.tolist()} is due"
                raise UnfitImplementation(f"vjp is wrong for a * b: of its {what}, {shown}")


def _tried(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except UnfitImplementation:
        raise
    except Exception as error:
        raise UnfitImplementation(f"{name} of the Framework raises {described(error)}") from error


def _shown(found: Any) -> str:
    return f"a {type(found).__name__} of {len(found)}" if isinstance(found, (tuple, list)) else kind_of(found)
