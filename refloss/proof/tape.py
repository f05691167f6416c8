"""Arrays of Arb balls on a reverse-mode tape, and what becomes of them where a ball cannot decide between branches.

A ball is an interval [m ± r] of arbitrary precision; whatever is computed from enclosures encloses the truth.
Where a ball cannot decide, every branch that it cannot exclude is carried on, as an *alternative* (`Fork`), until
`join` takes the union. In reverse, what arrives at a number that all alternatives share is the union of what arrives
from each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from typing import Any

import numpy as np
from flint import arb, arb_mat

from refloss.textbook.tape import in_order


def ball(number: Any) -> arb:
    """An ordinary number as a ball, without rounding."""
    return number if isinstance(number, arb) else arb(number if isinstance(number, float) else int(number))


NOTHING: Any = arb(0)
ONE: Any = arb(1)


def each(function: Callable, inputs: int = 1) -> Callable:
    """A function of balls, for object arrays of them."""
    ufunc = np.frompyfunc(function, inputs, 1)
    return lambda *arrays: np.asarray(ufunc(*arrays), dtype=object)


def asks(function: Callable, inputs: int = 1) -> Callable:
    """A question about balls, for object arrays of them."""
    ufunc = np.frompyfunc(function, inputs, 1)
    return lambda *arrays: np.asarray(ufunc(*arrays), dtype=bool)


_balls = each(ball)
_union = each(arb.union, 2)
is_zero = asks(lambda v: v == 0)
less = asks(lambda a, b: a < b, 2)
at_most = asks(lambda a, b: a <= b, 2)


def exact(array: Any) -> np.ndarray:
    """A float64 array (or number) as balls of radius 0."""
    return _balls(np.asarray(array, dtype=object))


def total(values: np.ndarray, axis: int | None = None) -> np.ndarray:
    """Σ over an axis of an object array, 0 where there is nothing to add."""
    return np.asarray(np.sum(values, axis=axis, initial=NOTHING), dtype=object)


def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The matrix product of object arrays of balls (n, k) and (k, m)."""
    (n, k), m = a.shape, b.shape[1]
    if not n * k * m:
        return np.full((n, m), NOTHING, dtype=object)
    ab = arb_mat(n, k, list(a.ravel())) * arb_mat(k, m, list(b.ravel()))
    result = np.empty(n * m, dtype=object)
    result[:] = ab.entries()
    return result.reshape(n, m)


# -- the tape --------------------------------------------------------------------------------------


class _Reflected:
    """The arithmetic of Balls and symbols that follows from that of their left operand."""

    __array_ufunc__ = None  # so that ndarray ∘ Balls is left to Balls
    __hash__ = None  # type: ignore[assignment]

    def __neg__(self) -> Any:
        return -1 * self

    def __radd__(self, other: Any) -> Any:
        return self + other

    def __rsub__(self, other: Any) -> Any:
        return -self + other

    def __rmul__(self, other: Any) -> Any:
        return self * other

    def __rtruediv__(self, other: Any) -> Balls:
        return lift(other) / self


class Balls(_Reflected):
    """An array of balls on the tape.

    value    object array of arb; with a fork its first axis holds the alternatives, and `shape` does not count it
    parents  (Balls, f) pairs: f takes the adjoint of this array to what it adds to the parent's
    fork     identity of the alternatives, or None
    """

    def __init__(self, value: np.ndarray, parents: Iterable[tuple[Balls, Callable]] = (), fork: object = None) -> None:
        self.value = np.asarray(value, dtype=object)
        self.parents = [(parent, f) for parent, f in parents if parent.varies]
        self.varies: bool = bool(self.parents)
        self.fork = fork

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape if self.fork is None else self.value.shape[1:]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __getitem__(self, index: Any) -> Balls:
        inner = index if self.fork is None else (slice(None), *(index if isinstance(index, tuple) else (index,)))
        value = np.asarray(self.value[inner], dtype=object)

        def back(g: np.ndarray) -> np.ndarray:
            full = np.full(self.value.shape, NOTHING, dtype=object)
            np.add.at(full, inner, g)
            return full

        return Balls(value, [(self, back)], self.fork)

    # -- arithmetic --------------------------------------------------------------------------------

    def __add__(self, other: Any) -> Balls:
        if isinstance(other, Symbolic):
            return NotImplemented
        a, b = _aligned(self, lift(other))
        return result(a.value + b.value, a, b, [lambda g: g, lambda g: g])

    def __sub__(self, other: Any) -> Balls:
        if isinstance(other, Symbolic):
            return NotImplemented
        a, b = _aligned(self, lift(other))
        return result(a.value - b.value, a, b, [lambda g: g, lambda g: -g])

    def __mul__(self, other: Any) -> Balls:
        if isinstance(other, Symbolic):
            return NotImplemented
        a, b = _aligned(self, lift(other))
        return result(a.value * b.value, a, b, [lambda g: g * b.value, lambda g: g * a.value])

    def __truediv__(self, other: Any) -> Balls:
        a, b = _aligned(self, lift(other))
        value = a.value / b.value
        return result(value, a, b, [lambda g: g / b.value, lambda g: -g * value / b.value])

    def __neg__(self) -> Balls:
        return Balls(-self.value, [(self, lambda g: -g)], self.fork)

    def __pow__(self, n: int) -> Balls:
        if n != int(n):
            raise TypeError(f"balls take integer powers, got {n!r}")
        n = int(n)
        return Balls(self.value**n, [(self, lambda g: g * (n * self.value ** (n - 1)))], self.fork)

    def __mod__(self, n: int) -> Balls:
        """Of exact integers: the branch numbers of ψ."""
        return Balls(each(lambda v: arb(v.unique_fmpz() % n))(self.value), fork=self.fork)

    def __pos__(self) -> Balls:
        return self

    def __abs__(self) -> Balls:
        return where(self < 0, -self, self)

    # -- comparisons, which may stay open ----------------------------------------------------------

    def __lt__(self, other: Any) -> Ternary:
        if isinstance(other, Symbolic):
            return other > self
        a, b = _aligned(self, lift(other))
        return Ternary(less(a.value, b.value), ~at_most(b.value, a.value), a.fork)

    def __le__(self, other: Any) -> Ternary:
        if isinstance(other, Symbolic):
            return other >= self
        a, b = _aligned(self, lift(other))
        return Ternary(at_most(a.value, b.value), ~less(b.value, a.value), a.fork)

    def __gt__(self, other: Any) -> Ternary:
        return other < self if isinstance(other, Symbolic) else lift(other) < self

    def __ge__(self, other: Any) -> Ternary:
        return other <= self if isinstance(other, Symbolic) else lift(other) <= self


class Symbolic(_Reflected):
    """A number that is kept as what it is, an angle say; where a formula needs the number, `number` gives its ball.

    A subclass replaces what it can do without the ball.
    """

    def number(self) -> Balls:
        raise NotImplementedError

    def __add__(self, other: Any) -> Any:
        return self.number() + other

    def __sub__(self, other: Any) -> Any:
        return self + -lift(other)

    def __mul__(self, other: Any) -> Any:
        return self.number() * other

    def __truediv__(self, other: Any) -> Any:
        return self.number() / other

    def __pow__(self, n: int) -> Balls:
        return self.number() ** n

    def __lt__(self, other: Any) -> Ternary:
        return self.number() < lift(other)

    def __le__(self, other: Any) -> Ternary:
        return self.number() <= lift(other)

    def __gt__(self, other: Any) -> Ternary:
        return ~(self <= other)

    def __ge__(self, other: Any) -> Ternary:
        return ~(self < other)


def variable(array: Any) -> Balls:
    """Exact numbers that a gradient will be asked for."""
    leaf = constant(array)
    leaf.varies = True
    return leaf


def constant(array: Any) -> Balls:
    """Exact numbers that carry no derivative."""
    return Balls(exact(array))


def lift(value: Any) -> Balls:
    """Anything that a formula may combine with Balls."""
    if isinstance(value, Balls):
        return value
    return value.number() if isinstance(value, Symbolic) else constant(value)


def gradients(output: Balls, adjoint: Any, wanted: Sequence[Balls]) -> list[np.ndarray]:
    """∂(Σ adjoint · output)/∂v for every v of `wanted`, as object arrays of balls shaped like v."""
    arrived = {id(output): np.broadcast_to(np.asarray(adjoint, dtype=object), output.value.shape)}
    for node in in_order(output):
        if id(node) not in arrived:
            continue
        for parent, back in node.parents:
            g = _like(back(arrived[id(node)]), node, parent)
            arrived[id(parent)] = np.asarray(arrived[id(parent)] + g) if id(parent) in arrived else g
    return [arrived.get(id(v), np.full(v.value.shape, NOTHING, dtype=object)) for v in wanted]


def _like(g: np.ndarray, node: Balls, parent: Balls) -> np.ndarray:
    """What arrives at `parent`: the union over alternatives that it does not have, summed where it was broadcast."""
    g = np.asarray(g, dtype=object)
    if node.fork is not None and parent.fork is None:
        g = np.asarray(reduce(_union, g), dtype=object)
    shape = parent.value.shape
    while g.ndim > len(shape):
        g = total(g, axis=0)
    for axis, length in enumerate(shape):
        if length == 1 and g.shape[axis] != 1:
            g = np.expand_dims(total(g, axis=axis), axis)
    return g


def result(value: np.ndarray, a: Balls, b: Balls, backs: list[Callable]) -> Balls:
    return Balls(value, zip((a, b), backs, strict=True), a.fork or b.fork)


# -- alternatives ----------------------------------------------------------------------------------


class Fork:
    """The identity of a set of alternatives."""


class Ternary:
    """The answer to a comparison, entry by entry: certainly true, possibly true."""

    __array_ufunc__ = None

    def __init__(self, certain: np.ndarray, possible: np.ndarray, fork: object = None) -> None:
        self.certain, self.possible, self.fork = certain, possible, fork

    def __and__(self, other: Any) -> Ternary:
        return self._with(other, np.logical_and)

    def __or__(self, other: Any) -> Ternary:
        return self._with(other, np.logical_or)

    def __invert__(self) -> Ternary:
        return Ternary(~self.possible, ~self.certain, self.fork)

    __rand__, __ror__ = __and__, __or__

    def _with(self, other: Any, both: Callable) -> Ternary:
        other = other if isinstance(other, Ternary) else Ternary(np.asarray(other), np.asarray(other))
        if self.fork is not other.fork:
            raise TypeError("balls cannot combine conditions on values that have branches of their own")
        return Ternary(both(self.certain, other.certain), both(self.possible, other.possible), self.fork)


def where(condition: Any, a: Any, b: Any) -> Balls:
    """a or b, entry by entry; both, as alternatives, where the condition is open."""
    a, b = _aligned(lift(a), lift(b))
    if not isinstance(condition, Ternary):
        condition = Ternary(np.asarray(condition, dtype=bool), np.asarray(condition, dtype=bool))
    if condition.fork is not None and condition.fork is not a.fork and condition.fork is not b.fork:
        raise TypeError("balls cannot branch on a value that has branches of its own")
    zero, yes, maybe = NOTHING, condition.certain, condition.possible
    if (yes == maybe).all():
        backs = [lambda g: np.where(yes, g, zero), lambda g: np.where(yes, zero, g)]
        return result(np.where(yes, a.value, b.value), a, b, backs)
    if a.fork is None and b.fork is None:
        backs = [
            lambda g: np.stack([np.where(yes, g[0], zero), np.where(maybe, g[1], zero)]),
            lambda g: np.stack([np.where(yes, zero, g[0]), np.where(maybe, zero, g[1])]),
        ]
        value = np.stack([np.where(yes, a.value, b.value), np.where(maybe, a.value, b.value)])
        return Balls(value, zip((a, b), backs, strict=True), Fork())
    # alternatives within alternatives: an open condition is one more pair of them
    pair = Balls(exact([[1.0], [0.0]]).reshape((2,) + (1,) * max(a.ndim, b.ndim)), fork=Fork())
    chosen = (where(Ternary(yes, yes, condition.fork), a, b), where(Ternary(maybe, maybe, condition.fork), a, b))
    return pair * chosen[0] + (1 - pair) * chosen[1]


def _aligned(a: Balls, b: Balls) -> tuple[Balls, Balls]:
    """Both with the same alternatives, if either has any, and with axes that broadcast beside them."""
    if a.fork is not None and b.fork is not None and a.fork is not b.fork:
        fork, na, nb = (Fork(), len(a.value), len(b.value))  # every alternative of one with every one of the other
        return _aligned(_picked(a, np.repeat(np.arange(na), nb), fork), _picked(b, np.tile(np.arange(nb), na), fork))
    axes = max(a.ndim, b.ndim)
    return _padded(a, axes), _padded(b, axes)


def _picked(v: Balls, which: np.ndarray, fork: Fork) -> Balls:
    """The alternatives `which` of v (each at least once) as those of another fork."""

    def back(g: np.ndarray) -> np.ndarray:
        return np.stack([reduce(_union, g[which == k]) for k in range(len(v.value))])

    return Balls(v.value[which], [(v, back)], fork)


def _padded(v: Balls, axes: int) -> Balls:
    """Alternatives stay the first axis when the other operand has more axes."""
    if v.fork is None or v.ndim >= axes:
        return v
    shape = (len(v.value),) + (1,) * (axes - v.ndim) + v.shape
    return Balls(v.value.reshape(shape), [(v, lambda g: g.reshape(v.value.shape))], v.fork)


def join(v: Balls) -> Balls:
    """The union of all alternatives."""
    if v.fork is None:
        return v
    return Balls(reduce(_union, v.value), [(v, lambda g: np.broadcast_to(g, v.value.shape))])
