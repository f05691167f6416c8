"""An array namespace of Arb balls: numbers that enclose the truth, and remember how to differentiate themselves.

A ball is an interval [m ± r] of arbitrary precision (Johansson, "Arb: efficient arbitrary-precision midpoint-radius
interval arithmetic", 2017); whatever is computed from enclosures encloses the truth. `Balls` are arrays of them on a
reverse-mode tape; `namespace()` offers the names that `refloss.textbook.formulas` needs, so that the formulas run
as they stand. Three things are special:

- arccos has no derivative at ±1 and no sharp enclosure beside them. `Angle` stays symbolic and remembers its cosine c:
  cos(mθ) is the Chebyshev polynomial T_m(c), cos(θ + a) is c cos a − √(1 − c²) sin a, and θ is compared with t by
  comparing c with cos t. Only a formula that needs θ itself gets it, with the derivative −1/√(1 − c²).
- Where a ball cannot decide between branches, every branch that it cannot exclude is carried on, as an
  *alternative* (`fork`), until `join` takes the union. In reverse, what arrives at a number that all alternatives
  share is the union of what arrives from each.
- At an exact pole c = ±1 the derivatives of √(1 − c²) and of θ count as 0: the centre of the generalised
  gradient of a cone, and the truth where ψ'(θ) = 0 there.

Everything is computed at flint's working precision: wrap calls in `flint.ctx.workprec(bits)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from functools import reduce
from types import SimpleNamespace
from typing import Any

import numpy as np
from flint import arb, arb_mat, ctx, fmpq

from refloss.textbook.tape import in_order

__all__ = ["Angle", "Balls", "ball", "constant", "ctx", "gradients", "join", "namespace", "variable"]


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
_sqrt, _exp, _log, _cos, _sin = (each(getattr(arb, name)) for name in ("sqrt", "exp", "log", "cos", "sin"))
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


# -- the tape --------------------------------------------------------------------------------------


class Balls:
    """An array of balls on the tape.

    value    object array of arb; with a fork its first axis holds the alternatives, and `shape` does not count it
    parents  (Balls, f) pairs: f takes the adjoint of this array to what it adds to the parent's
    fork     identity of the alternatives, or None
    """

    __array_ufunc__ = None  # so that ndarray ∘ Balls is left to Balls
    __hash__ = None  # type: ignore[assignment]

    def __init__(
        self, value: np.ndarray, parents: Iterable[tuple[Balls, Callable]] = (), fork: object = None
    ) -> None:
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
        inner = (
            index if self.fork is None else (slice(None), *(index if isinstance(index, tuple) else (index,)))
        )
        value = np.asarray(self.value[inner], dtype=object)

        def back(g: np.ndarray) -> np.ndarray:
            full = np.full(self.value.shape, NOTHING, dtype=object)
            np.add.at(full, inner, g)
            return full

        return Balls(value, [(self, back)], self.fork)

    # -- arithmetic --------------------------------------------------------------------------------

    def __add__(self, other: Any) -> Balls:
        if isinstance(other, Angle):
            return NotImplemented
        a, b = _aligned(self, lift(other))
        return _result(a.value + b.value, a, b, [lambda g: g, lambda g: g])

    def __sub__(self, other: Any) -> Balls:
        if isinstance(other, Angle):
            return NotImplemented
        a, b = _aligned(self, lift(other))
        return _result(a.value - b.value, a, b, [lambda g: g, lambda g: -g])

    def __mul__(self, other: Any) -> Balls:
        if isinstance(other, Angle):
            return NotImplemented
        a, b = _aligned(self, lift(other))
        return _result(a.value * b.value, a, b, [lambda g: g * b.value, lambda g: g * a.value])

    def __truediv__(self, other: Any) -> Balls:
        if isinstance(other, Angle):
            other = other.theta
        a, b = _aligned(self, lift(other))
        value = a.value / b.value
        return _result(value, a, b, [lambda g: g / b.value, lambda g: -g * value / b.value])

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

    def __radd__(self, other: Any) -> Balls:
        return self + other

    def __rsub__(self, other: Any) -> Balls:
        return -self + other

    def __rmul__(self, other: Any) -> Balls:
        return self * other

    def __rtruediv__(self, other: Any) -> Balls:
        return lift(other) / self

    def __pos__(self) -> Balls:
        return self

    def __abs__(self) -> Balls:
        return where(self < 0, -self, self)

    # -- comparisons, which may stay open ----------------------------------------------------------

    def __lt__(self, other: Any) -> Truth:
        if isinstance(other, Angle):
            return other > self
        a, b = _aligned(self, lift(other))
        return Truth(less(a.value, b.value), ~at_most(b.value, a.value), a.fork)

    def __le__(self, other: Any) -> Truth:
        if isinstance(other, Angle):
            return other >= self
        a, b = _aligned(self, lift(other))
        return Truth(at_most(a.value, b.value), ~less(b.value, a.value), a.fork)

    def __gt__(self, other: Any) -> Truth:
        return lift(other) < self if not isinstance(other, Angle) else other < self

    def __ge__(self, other: Any) -> Truth:
        return lift(other) <= self if not isinstance(other, Angle) else other <= self


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
    if isinstance(value, Angle):
        return value.theta
    if isinstance(value, Turn):
        return Balls(np.asarray(value.ball(), dtype=object))
    return constant(value)


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


def _result(value: np.ndarray, a: Balls, b: Balls, backs: list[Callable]) -> Balls:
    return Balls(value, zip((a, b), backs, strict=True), a.fork or b.fork)


# -- alternatives ----------------------------------------------------------------------------------


class Fork:
    """The identity of a set of alternatives."""


class Truth:
    """The answer to a comparison, entry by entry: certainly true, possibly true."""

    __array_ufunc__ = None

    def __init__(self, certain: np.ndarray, possible: np.ndarray, fork: object = None) -> None:
        self.certain, self.possible, self.fork = certain, possible, fork

    def __and__(self, other: Any) -> Truth:
        return self._with(other, np.logical_and)

    def __or__(self, other: Any) -> Truth:
        return self._with(other, np.logical_or)

    def __invert__(self) -> Truth:
        return Truth(~self.possible, ~self.certain, self.fork)

    __rand__, __ror__ = __and__, __or__

    def _with(self, other: Any, both: Callable) -> Truth:
        other = other if isinstance(other, Truth) else Truth(np.asarray(other), np.asarray(other))
        if self.fork is not other.fork:
            raise TypeError("balls cannot combine conditions on values that have branches of their own")
        return Truth(both(self.certain, other.certain), both(self.possible, other.possible), self.fork)


def where(condition: Any, a: Any, b: Any) -> Balls:
    """a or b, entry by entry; both, as alternatives, where the condition is open."""
    a, b = _aligned(lift(a), lift(b))
    if not isinstance(condition, Truth):
        condition = Truth(np.asarray(condition, dtype=bool), np.asarray(condition, dtype=bool))
    if condition.fork is not None and condition.fork is not a.fork and condition.fork is not b.fork:
        raise TypeError("balls cannot branch on a value that has branches of its own")
    zero, yes, maybe = NOTHING, condition.certain, condition.possible
    if (yes == maybe).all():
        backs = [lambda g: np.where(yes, g, zero), lambda g: np.where(yes, zero, g)]
        return _result(np.where(yes, a.value, b.value), a, b, backs)
    if a.fork is None and b.fork is None:
        backs = [
            lambda g: np.stack([np.where(yes, g[0], zero), np.where(maybe, g[1], zero)]),
            lambda g: np.stack([np.where(yes, zero, g[0]), np.where(maybe, zero, g[1])]),
        ]
        value = np.stack([np.where(yes, a.value, b.value), np.where(maybe, a.value, b.value)])
        return Balls(value, zip((a, b), backs, strict=True), Fork())
    # alternatives within alternatives: an open condition is one more pair of them
    pair = Balls(exact([[1.0], [0.0]]).reshape((2,) + (1,) * max(a.ndim, b.ndim)), fork=Fork())
    chosen = where(Truth(yes, yes, condition.fork), a, b), where(Truth(maybe, maybe, condition.fork), a, b)
    return pair * chosen[0] + (1 - pair) * chosen[1]


def _aligned(a: Balls, b: Balls) -> tuple[Balls, Balls]:
    """Both with the same alternatives, if either has any, and with axes that broadcast beside them."""
    if a.fork is not None and b.fork is not None and a.fork is not b.fork:
        fork, na, nb = (
            Fork(),
            len(a.value),
            len(b.value),
        )  # every alternative of one with every one of the other
        return _aligned(
            _picked(a, np.repeat(np.arange(na), nb), fork), _picked(b, np.tile(np.arange(nb), na), fork)
        )
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


# -- functions of an array -------------------------------------------------------------------------


def sqrt(v: Balls) -> Balls:
    root = _sqrt(v.value)
    return Balls(root, [(v, lambda g: g / (2 * root))], v.fork)


def exp(v: Any) -> Balls:
    v = lift(v)
    value = _exp(v.value)
    return Balls(value, [(v, lambda g: g * value)], v.fork)


def log(v: Any) -> Balls:
    v = lift(v)
    return Balls(_log(v.value), [(v, lambda g: g / v.value)], v.fork)


def cos(v: Any) -> Balls:
    if isinstance(v, Angle):
        return v.cos()
    v = lift(v)
    return Balls(_cos(v.value), [(v, lambda g: -g * _sin(v.value))], v.fork)


def sin(v: Any) -> Balls:
    if isinstance(v, Angle):
        return v.sin()
    v = lift(v)
    return Balls(_sin(v.value), [(v, lambda g: g * _cos(v.value))], v.fork)


def summed(v: Any, axis: int | None = None) -> Balls:
    """Σ over the last axis, or over all."""
    v = lift(v)
    if axis not in (None, -1):
        raise ValueError(f"balls sum over the last axis or over all, got axis={axis}")
    if axis is None:
        v = join(v)
    value = total(v.value, axis)

    def back(g: np.ndarray) -> np.ndarray:
        return np.broadcast_to(g if axis is None else g[..., None], v.value.shape)

    return Balls(value, [(v, back)], v.fork)


def matmul(a: Any, b: Any) -> Balls:
    """a (n, k) · b (k, m). A constant one-hot `a` picks rows of b, exactly and at no cost."""
    if not isinstance(a, Balls) and _picks_rows(np.asarray(a)):
        return lift(b)[np.argmax(a, axis=1)]
    a, b = lift(a), lift(b)
    if a.fork is not None or b.fork is not None:
        raise TypeError("balls multiply matrices without alternatives only")
    backs = [lambda g: product(g, b.value.T), lambda g: product(a.value.T, g)]
    return _result(product(a.value, b.value), a, b, backs)


def _picks_rows(a: np.ndarray) -> bool:
    return bool(((a == 0) | (a == 1)).all() and (np.count_nonzero(a, axis=1) == 1).all())


def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The matrix product of object arrays of balls (n, k) and (k, m)."""
    (n, k), m = a.shape, b.shape[1]
    if not n * k * m:
        return np.full((n, m), NOTHING, dtype=object)
    ab = arb_mat(n, k, list(a.ravel())) * arb_mat(k, m, list(b.ravel()))
    result = np.empty(n * m, dtype=object)
    result[:] = ab.entries()
    return result.reshape(n, m)


def swapaxes(v: Any, first: int, second: int) -> Balls:
    v = lift(v)
    return Balls(np.swapaxes(v.value, first, second), [(v, lambda g: np.swapaxes(g, first, second))], v.fork)


def logsumexp(z: Balls) -> Balls:
    """log Σ_j e^{z_j}, shifted by the exact midpoint of the largest, so that the shift costs no width."""
    z = join(z)
    middle = each(arb.mid)(z.value)
    shift = np.max(middle, axis=-1, keepdims=True)
    value = _log(total(_exp(z.value - shift), axis=-1)) + shift[..., 0]
    return Balls(value, [(z, lambda g: g[..., None] * _exp(z.value - value[..., None]))])


def floor(v: Any) -> Balls:
    """⌊v⌋, with every integer that a ball cannot exclude as an alternative. No derivative."""
    low, high = v.floors() if isinstance(v, Turns) else _floors(lift(v))
    return _integers(low, high)


def _floors(v: Balls) -> tuple[np.ndarray, np.ndarray]:
    if v.fork is not None:
        raise TypeError("balls cannot branch on a value that has branches of its own")
    ends = [each(end)(v.value) for end in (arb.lower, arb.upper)]
    return tuple(each(lambda e: int(e.floor().unique_fmpz()))(end).astype(float) for end in ends)  # type: ignore


def _integers(low: np.ndarray, high: np.ndarray) -> Balls:
    alternatives = int(np.max(high - low, initial=0)) + 1
    if alternatives == 1:
        return constant(low)
    return Balls(exact(np.stack([np.minimum(low + a, high) for a in range(alternatives)])), fork=Fork())


def clip(v: Balls, low: Any, high: Any) -> Balls:
    """Of exact integers: the branch numbers of ψ."""
    low, high = ball(low), ball(high)
    return Balls(each(lambda k: min(max(k, low), high))(v.value), fork=v.fork)


def real(v: Any) -> Any:
    """Balls are real: a formula may branch on them, and gets every branch that they cannot exclude."""
    return v


# -- angles ----------------------------------------------------------------------------------------


class Turn:
    """A rational multiple of π, kept as such: its cosine is exact at multiples of π/2 and π/3."""

    __array_ufunc__ = None

    def __init__(self, times: Fraction) -> None:
        self.times = times

    def ball(self) -> arb:
        return arb.pi() * arb(fmpq(self.times.numerator, self.times.denominator))

    def cos(self) -> arb:
        return arb.cos_pi_fmpq(fmpq(self.times.numerator, self.times.denominator))

    def __mul__(self, other: Any) -> Any:
        return Turn(self.times * Fraction(other)) if _rational(other) else lift(self) * other

    def __truediv__(self, other: Any) -> Any:
        return Turn(self.times / Fraction(other)) if _rational(other) else lift(self) / other

    def __add__(self, other: Any) -> Any:
        return lift(self) + other

    def __sub__(self, other: Any) -> Any:
        return lift(self) - other

    def __rsub__(self, other: Any) -> Any:
        return -lift(self) + other

    def __rtruediv__(self, other: Any) -> Any:
        return lift(other) / lift(self)

    def __neg__(self) -> Turn:
        return Turn(-self.times)

    __rmul__, __radd__ = __mul__, __add__


def _rational(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and np.isfinite(value)


PI = Turn(Fraction(1))


class Arc:
    """θ = arccos c, known by its cosine c; sin θ ≥ 0 and θ itself are formed when a formula needs them."""

    def __init__(self, c: Balls, sine: Balls | None = None, theta: Balls | None = None) -> None:
        self.c = c
        self._sine, self._theta = sine, theta

    @property
    def sine(self) -> Balls:
        """√(1 − c²), with derivative −c/√(1 − c²) in c."""
        if self._sine is None:
            s = sine_of(self.c.value)
            self._sine = Balls(s, [(self.c, lambda g: _slope(-g * self.c.value, s, self.c.value))])
        return self._sine

    @property
    def theta(self) -> Balls:
        """θ, with derivative −1/√(1 − c²) in c."""
        if self._theta is None:
            s = self.sine.value
            theta = angle_of(self.c.value, s)
            self._theta = Balls(theta, [(self.c, lambda g: _slope(-g, s, self.c.value))])
        return self._theta


sine_of = each(lambda c: ((1 - c) * (1 + c)).nonnegative_part().sqrt())


_slope = each(lambda g, s, c: NOTHING if g == 0 or c == 1 or c == -1 else g / s, 3)


def _angle(c: arb, s: arb) -> arb:
    """atan2(s, c) for s ≥ 0, without its cut."""
    if c > 0.5:
        return (s / c).atan()
    if c < -0.5:
        return arb.pi() - (s / -c).atan()
    return c.acos()


angle_of = each(_angle, 2)


class Angle:
    """t·θ + a, of an arc θ: an integer t (the papers' m) and an offset a, on which cos and sin are polynomials."""

    __array_ufunc__ = None
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, arc: Arc, times: int = 1, plus: Balls | None = None) -> None:
        self.arc, self.times, self.plus = arc, times, plus

    @property
    def shape(self) -> tuple[int, ...]:
        return self.arc.c.shape

    @property
    def ndim(self) -> int:
        return self.arc.c.ndim

    @property
    def theta(self) -> Balls:
        """The number itself."""
        turned = self.arc.theta if self.times == 1 else self.arc.theta * self.times
        return turned if self.plus is None else turned + self.plus

    # -- trigonometry ------------------------------------------------------------------------------

    def cos(self) -> Balls:
        """T_t(c) cos a − sin θ U_{t−1}(c) sin a."""
        turned = chebyshev(self.arc.c, abs(self.times))
        if self.plus is None:
            return turned
        return turned * cos(self.plus) - self._sine() * sin(self.plus)

    def sin(self) -> Balls:
        """sin θ U_{t−1}(c) cos a + T_t(c) sin a."""
        if self.plus is None:
            return self._sine()
        return self._sine() * cos(self.plus) + chebyshev(self.arc.c, abs(self.times)) * sin(self.plus)

    def _sine(self) -> Balls:
        """sin tθ = sin θ U_{t−1}(c)."""
        t, c = abs(self.times), self.arc.c
        before, now = 0 * c, 0 * c + 1 if t else 0 * c
        for _ in range(t - 1):
            before, now = now, 2 * c * now - before
        return self.arc.sine * now * (1 if self.times > 0 else -1)

    # -- arithmetic --------------------------------------------------------------------------------

    def __add__(self, other: Any) -> Any:
        if isinstance(other, Angle):
            return self.theta + other.theta
        other = lift(other)
        return Angle(self.arc, self.times, other if self.plus is None else self.plus + other)

    def __sub__(self, other: Any) -> Any:
        return self + -(other.theta if isinstance(other, Angle) else lift(other))

    def __mul__(self, other: Any) -> Any:
        if _rational(other) and other == int(other):
            return Angle(
                self.arc, self.times * int(other), None if self.plus is None else self.plus * int(other)
            )
        return self.theta * other

    def __truediv__(self, other: Any) -> Any:
        if isinstance(other, Turn) and self.plus is None:
            return Turns(self, other)
        return self.theta / other

    def __neg__(self) -> Angle:
        return self * -1

    def __pow__(self, n: int) -> Balls:
        return self.theta**n

    def __rsub__(self, other: Any) -> Any:
        return -self + other

    def __rtruediv__(self, other: Any) -> Balls:
        return lift(other) / self.theta

    __rmul__, __radd__ = __mul__, __add__

    # -- comparisons: the cosine decreases on [0, π] -----------------------------------------------

    def _cosine_of(self, bound: Any) -> Balls | None:
        """The cosine of the θ at which tθ + a is the bound, where that is in [0, π] for certain."""
        if self.times != 1 or isinstance(bound, Angle):
            return None
        if self.plus is None and isinstance(bound, Turn):
            return Balls(np.asarray(bound.cos(), dtype=object)) if 0 <= bound.times <= 1 else None
        at = lift(bound) if self.plus is None else lift(bound) - self.plus
        inside = at.fork is None and (less(exact(0), at.value) & less(at.value, np.asarray(arb.pi()))).all()
        return cos(at) if inside else None

    def __lt__(self, other: Any) -> Truth:
        cosine = self._cosine_of(other)
        return self.theta < lift(other) if cosine is None else cosine < self.arc.c

    def __le__(self, other: Any) -> Truth:
        cosine = self._cosine_of(other)
        return self.theta <= lift(other) if cosine is None else cosine <= self.arc.c

    def __gt__(self, other: Any) -> Truth:
        return ~(self <= other)

    def __ge__(self, other: Any) -> Truth:
        return ~(self < other)


class Turns:
    """tθ in units of a turn; what ψ takes the floor of."""

    __array_ufunc__ = None

    def __init__(self, angle: Angle, turn: Turn) -> None:
        self.angle, self.turn = angle, turn

    def floors(self) -> tuple[np.ndarray, np.ndarray]:
        """Smallest and largest ⌊tθ/turn⌋ that cannot be excluded: θ ≥ k turn/t wherever c ≤ cos(k turn/t)."""
        t, c = self.angle.times, self.angle.arc.c.value
        if t <= 0 or self.turn.times <= 0:
            return _floors(lift(self.angle.theta) / self.turn)
        low, high = np.zeros(c.shape), np.zeros(c.shape)
        for k in range(1, int(t / self.turn.times) + 1):
            knot = np.asarray(Turn(k * self.turn.times / t).cos())
            low += at_most(c, knot)
            high += ~less(knot, c)
        return low, high

    def __add__(self, other: Any) -> Balls:
        return self.angle.theta / lift(self.turn) + other

    def __mul__(self, other: Any) -> Balls:
        return self.angle.theta / lift(self.turn) * other

    def __rsub__(self, other: Any) -> Balls:
        return -(self * 1) + other

    def __sub__(self, other: Any) -> Balls:
        return self + -other

    def __neg__(self) -> Balls:
        return self * -1

    def __truediv__(self, other: Any) -> Balls:
        return self * 1 / other

    def __pow__(self, n: int) -> Balls:
        return (self * 1) ** n

    __radd__, __rmul__ = __add__, __mul__


def chebyshev(c: Balls, n: int) -> Balls:
    """T_n(c), with derivative n U_{n−1}(c)."""
    if n == 1:
        return c
    value = each(lambda v: v.chebyshev_t(n))(c.value)
    slope = each(lambda v: n * v.chebyshev_u(n - 1) if n else NOTHING)
    return Balls(value, [(c, lambda g: g * slope(c.value))], c.fork)


def namespace(known_cosines: np.ndarray | None = None) -> SimpleNamespace:
    """The names that the textbook formulas need.

    known_cosines: (N,) the cosines of arccos' argument that are known exactly (−1, 0 or 1), NaN where not; a ball
    that encloses such a cosine is replaced by it, its derivative is not.
    """
    possible = arb(0, 1)

    def arccos(c: Balls) -> Angle:
        c = lift(c)
        value = each(lambda v: v if -1 < v < 1 else v.intersection(possible))(c.value)
        if known_cosines is not None:
            value = np.where(np.isnan(known_cosines), value, exact(np.nan_to_num(known_cosines)))
        return Angle(Arc(Balls(value, [(c, lambda g: g)], c.fork)))

    return SimpleNamespace(
        pi=PI, sum=summed, sqrt=sqrt, exp=exp, log=log, cos=cos, sin=sin, arccos=arccos, floor=floor, clip=clip,
        where=where, real=real, matmul=matmul, swapaxes=swapaxes, logsumexp=logsumexp, constant=constant,
    )  # fmt: skip
