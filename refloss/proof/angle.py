"""Angles whose cosine is known: multiples of θ, multiples of π, and their sines and cosines without arccos.

arccos has no derivative at ±1 and no sharp enclosure beside them. `Angle` stays symbolic and remembers its cosine c:
cos(mθ) is the Chebyshev polynomial T_m(c), cos(θ + a) is c cos a − √(1 − c²) sin a, and θ is compared with t by
comparing c with cos t. Only a formula that needs θ itself gets it, with the derivative −1/√(1 − c²). At an exact pole
c = ±1 the derivatives of √(1 − c²) and of θ count as 0: the centre of the generalised gradient of a cone, and the truth
where ψ'(θ) = 0 there.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
from flint import arb, fmpq

from refloss.proof.tape import NOTHING, Balls, Fork, Symbolic, Ternary, at_most, constant, each, exact, less, lift

_cos, _sin = each(arb.cos), each(arb.sin)


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


class Turn(Symbolic):
    """A rational multiple of π: its cosine is exact at multiples of π/2 and π/3."""

    def __init__(self, times: Fraction) -> None:
        self.times = times

    def number(self) -> Balls:
        return Balls(np.asarray(arb.pi() * arb(self._fmpq()), dtype=object))

    def cos(self) -> arb:
        return arb.cos_pi_fmpq(self._fmpq())

    def _fmpq(self) -> fmpq:
        return fmpq(self.times.numerator, self.times.denominator)

    def __mul__(self, other: Any) -> Any:
        return Turn(self.times * Fraction(other)) if _rational(other) else super().__mul__(other)

    def __truediv__(self, other: Any) -> Any:
        return Turn(self.times / Fraction(other)) if _rational(other) else super().__truediv__(other)


def _rational(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and np.isfinite(value)


PI = Turn(Fraction(1))


class Arc:
    """θ = arccos c, known by its cosine c; sin θ ≥ 0 and θ itself are formed when a formula needs them."""

    def __init__(self, c: Balls) -> None:
        self.c = c

    @cached_property
    def sine(self) -> Balls:
        """√(1 − c²), with derivative −c/√(1 − c²) in c."""
        s = sine_of(self.c.value)
        return Balls(s, [(self.c, lambda g: _slope(-g * self.c.value, s, self.c.value))])

    @cached_property
    def theta(self) -> Balls:
        """θ, with derivative −1/√(1 − c²) in c."""
        s = self.sine.value
        return Balls(angle_of(self.c.value, s), [(self.c, lambda g: _slope(-g, s, self.c.value))])


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


class Angle(Symbolic):
    """t·θ + a, of an arc θ: an integer t (the papers' m) and an offset a, on which cos and sin are polynomials."""

    def __init__(self, arc: Arc, times: int = 1, plus: Balls | None = None) -> None:
        self.arc, self.times, self.plus = arc, times, plus

    @property
    def shape(self) -> tuple[int, ...]:
        return self.arc.c.shape

    @property
    def ndim(self) -> int:
        return self.arc.c.ndim

    def number(self) -> Balls:
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

    # -- arithmetic that leaves an angle -----------------------------------------------------------

    def __add__(self, other: Any) -> Any:
        if isinstance(other, Angle):
            return self.number() + other.number()
        other = lift(other)
        return Angle(self.arc, self.times, other if self.plus is None else self.plus + other)

    def __mul__(self, other: Any) -> Any:
        if not (_rational(other) and other == int(other)):
            return super().__mul__(other)
        return Angle(self.arc, self.times * int(other), None if self.plus is None else self.plus * int(other))

    def __truediv__(self, other: Any) -> Any:
        if isinstance(other, Turn) and self.plus is None:
            return Turns(self, other)
        return super().__truediv__(other)

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

    def __lt__(self, other: Any) -> Ternary:
        cosine = self._cosine_of(other)
        return super().__lt__(other) if cosine is None else cosine < self.arc.c

    def __le__(self, other: Any) -> Ternary:
        cosine = self._cosine_of(other)
        return super().__le__(other) if cosine is None else cosine <= self.arc.c


class Turns(Symbolic):
    """tθ in units of a turn; what ψ takes the floor of."""

    def __init__(self, angle: Angle, turn: Turn) -> None:
        self.angle, self.turn = angle, turn

    def number(self) -> Balls:
        return self.angle.number() / self.turn

    def floors(self) -> tuple[np.ndarray, np.ndarray]:
        """Smallest and largest ⌊tθ/turn⌋ that cannot be excluded: θ ≥ k turn/t wherever c ≤ cos(k turn/t)."""
        t, c = self.angle.times, self.angle.arc.c.value
        if t <= 0 or self.turn.times <= 0:
            return _floors(self.number())
        low, high = np.zeros(c.shape), np.zeros(c.shape)
        for k in range(1, int(t / self.turn.times) + 1):
            knot = np.asarray(Turn(k * self.turn.times / t).cos())
            low += at_most(c, knot)
            high += ~less(knot, c)
        return low, high


def chebyshev(c: Balls, n: int) -> Balls:
    """T_n(c), with derivative n U_{n−1}(c)."""
    if n == 1:
        return c
    value = each(lambda v: v.chebyshev_t(n))(c.value)
    slope = each(lambda v: n * v.chebyshev_u(n - 1) if n else NOTHING)
    return Balls(value, [(c, lambda g: g * slope(c.value))], c.fork)


def floor(v: Any) -> Balls:
    """⌊v⌋, with every integer that a ball cannot exclude as an alternative. No derivative."""
    low, high = v.floors() if isinstance(v, Turns) else _floors(lift(v))
    alternatives = int(np.max(high - low, initial=0)) + 1
    if alternatives == 1:
        return constant(low)
    return Balls(exact(np.stack([np.minimum(low + a, high) for a in range(alternatives)])), fork=Fork())


def _floors(v: Balls) -> tuple[np.ndarray, np.ndarray]:
    if v.fork is not None:
        raise TypeError("balls cannot branch on a value that has branches of its own")
    ends = [each(end)(v.value) for end in (arb.lower, arb.upper)]
    return tuple(each(lambda e: int(e.floor().unique_fmpz()))(end).astype(float) for end in ends)  # type: ignore
