"""Arithmetic in which every operation errs by ±u of a dtype: the `perturbed` witness.

A namespace that runs the textbook formulas on many copies at once (the draws, axis 0), each with its own signs, and
differentiates them in reverse, every step of that nudged as well. Dot products and sums of n terms err by their
accumulated bound, n u Σ|terms|, which sums of like terms one after the other do reach. What the dtype cannot hold
overflows to inf; what is smaller than its numbers errs by their spacing, or is flushed where hardware flushes.

People write one formula in several forms. `Noise` says which: whether the lengths are divided out before the inner
product or after it, whether p = e^z / Σe^z or e^(z − lse) of a rounded lse, and whether unit vectors, cosines and
products, and the gradients that arrive there, are stored in a narrower dtype in between.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from refloss.precision.dtypes import DType
from refloss.precision.numbers import Array
from refloss.steps.angle import angle
from refloss.textbook.tape import in_order

Vjp = Callable[[np.ndarray], np.ndarray]
IN_CACHE = 8192  # numbers; larger arrays go in parts
SIGNS = 1 << 14  # made at a time
EIGHT_SIGNS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1) * 2.0 - 1  # of each byte


class Noise:
    """The roundings of one dtype, in `draws` copies and `lossy` more that lose clamped gradients; fixed by the seed.

    divides_after  the lengths of a normalised product are divided out after it
    keeps_lse      probabilities come of the rounded log Σe^z
    storage        what stands between two steps is stored in this dtype; None: in the dtype itself
    """

    def __init__(
        self, dtype: DType, draws: int, seed: int, lossy: int = 0, *, divides_after: bool = False,
        keeps_lse: bool = False, storage: DType | None = None,
    ) -> None:  # fmt: skip
        self.dtype, self.u, self.draws = dtype, dtype.u, draws + lossy
        self.loses = np.arange(draws + lossy) >= draws
        self.rng = np.random.default_rng(seed)
        self.fresh: np.ndarray = np.zeros(0)
        self.divides_after, self.keeps_lse, self.storage = divides_after, keeps_lse, storage

    def of(self, value: Any, size: Any = None, terms: int = 1) -> np.ndarray:
        """value ± (u · size + the spacing of what is tiny); size: |value|, or Σ|terms| of a sum of so many terms."""
        return self._in(self.dtype, value, size, terms)

    def stored(self, value: np.ndarray) -> np.ndarray:
        """The value as it is found again by the next step."""
        return value if self.storage is None else self._in(self.storage, value)

    def _in(self, dtype: DType, value: Any, size: Any = None, terms: int = 1) -> np.ndarray:
        value = np.asarray(value, dtype=float)
        signs = self._signs(value.size)
        if value.size <= IN_CACHE:
            return _moved(dtype, value, value if size is None else size, terms, signs.reshape(value.shape))
        moved = np.empty(value.size)
        flat = value.reshape(-1)
        sizes = flat if size is None else np.broadcast_to(size, value.shape).reshape(-1)
        for at in range(0, value.size, IN_CACHE):
            part = slice(at, at + IN_CACHE)
            moved[part] = _moved(dtype, flat[part], sizes[part], terms, signs[part])
        return moved.reshape(value.shape)

    def _signs(self, count: int) -> np.ndarray:
        """Fresh ones; many are made at a time."""
        if count > len(self.fresh):
            made = max(count, SIGNS)
            self.fresh = EIGHT_SIGNS[np.frombuffer(self.rng.bytes(-(-made // 8)), np.uint8)].reshape(-1)
        found, self.fresh = self.fresh[:count], self.fresh[count:]
        return found


def _moved(dtype: DType, value: np.ndarray, size: np.ndarray, terms: int, signs: np.ndarray) -> np.ndarray:
    size = np.abs(size)
    # what is below the normal numbers may be flushed, but not in float16, which has few others
    least = dtype.smallest_subnormal / 2 if dtype.name == "float16" else dtype.smallest_normal
    off = (terms * dtype.u) * size
    off += least * (size > 0)
    moved = signs * off
    moved += value
    if size.size and np.maximum.reduce(size, axis=None) <= dtype.largest / (2 + terms * dtype.u):  # at least |value|
        return np.asarray(moved)
    return np.where(np.abs(moved) > dtype.largest, np.copysign(np.inf, moved), moved)


class Noisy:
    """An array of draws (K, …) that remembers how it was made.

    quotient  (numerator, lengths) of normalised rows (K, R, D)
    pair      the two factors, where both are normalised rows
    anew      the same numbers computed a second time, by which the way back goes; None: they were kept
    """

    __array_ufunc__ = None  # NumPy's arrays leave mixed operations to this class
    __slots__ = ("anew", "noise", "pair", "parents", "quotient", "value")

    def __init__(self, value: np.ndarray, noise: Noise, parents: Sequence[tuple[Noisy, Vjp]] = ()) -> None:
        self.value, self.noise, self.parents = value, noise, tuple(parents)
        self.quotient: tuple[Noisy, Noisy] | None = None
        self.pair: tuple[Noisy, Noisy] | None = None
        self.anew: np.ndarray | None = None

    @property
    def ndim(self) -> int:
        return self.value.ndim

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape

    def made(self, value: np.ndarray, *parents: tuple[Any, Vjp]) -> Noisy:
        return Noisy(value, self.noise, [(node, vjp) for node, vjp in parents if isinstance(node, Noisy)])

    def stored(self) -> Noisy:
        """As the next step finds it; what arrives there is stored as well."""
        noise = self.noise
        return self if noise.storage is None else self.made(noise.stored(self.value), (self, noise.stored))

    def __neg__(self) -> Noisy:
        return self.made(-self.value, (self, lambda g: -g))

    def __add__(self, other: Any) -> Noisy:
        a, b = self.value, _value(other)
        total = a + b
        exact = (a == 0) | (np.asarray(b) == 0)
        return self.made(np.where(exact, total, self.noise.of(total)), (self, lambda g: g), (other, lambda g: g))

    __radd__ = __add__

    def __sub__(self, other: Any) -> Noisy:
        return self + (-other)

    def __rsub__(self, other: Any) -> Noisy:
        return -self + other

    def __mul__(self, other: Any) -> Noisy:
        a, b, noise = self.value, _value(other), self.noise
        if not isinstance(other, Noisy) and ((b == 0) | (np.abs(b) == 1)).all():
            with np.errstate(invalid="ignore"):  # a value that overflowed, and is not wanted
                return self.made(np.where(b == 0, 0.0, a * b), (self, lambda g: g * b))
        out = self.made(noise.of(a * b), (self, lambda g: noise.of(g * b)), (other, lambda g: noise.of(g * a)))
        if isinstance(other, Noisy) and other.quotient:
            if self.quotient:
                out.pair = self, other
            elif noise.divides_after and self.shape[1:] == (1, 1):  # α x̂ = (α x) / ‖x‖
                rows, lengths = other.quotient
                out.quotient = self * rows, lengths
        return out

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Noisy:
        a, b, noise = self.value, _value(other), self.noise
        q = noise.of(a / b)
        out = self.made(q, (self, lambda g: noise.of(g / b)), (other, lambda g: noise.of(noise.of(-g * q) / b)))
        if isinstance(other, Noisy) and self.ndim == 3 and other.shape[-1] == 1:
            out = out.stored()
            out.quotient = self, other
        return out

    def __rtruediv__(self, other: Any) -> Noisy:
        return Noisy(np.broadcast_to(np.asarray(other, dtype=float), self.shape), self.noise) / self

    def __pow__(self, power: int) -> Noisy:
        a, noise = self.value, self.noise
        return self.made(noise.of(a**power), (self, lambda g: noise.of(g * power * a ** (power - 1))))

    def __getitem__(self, index: Any) -> Noisy:
        """Only new axes and full slices, as the formulas need them."""
        return self.made(self.value[index], (self, lambda g: g.reshape(self.shape)))

    def __lt__(self, other: Any) -> Any:
        return self.value < _value(other)

    def __ge__(self, other: Any) -> Any:
        return self.value >= _value(other)


def _value(v: Any) -> Any:
    return v.value if isinstance(v, Noisy) else np.asarray(v, dtype=float)


def variable(value: Any, noise: Noise) -> Noisy:
    """An exact input, once for every draw."""
    value = np.asarray(value, dtype=float)
    return Noisy(np.broadcast_to(value, (noise.draws, *value.shape)), noise)


def namespace(noise: Noise, arccos: Callable[[Noisy], Noisy] | None = None) -> SimpleNamespace:
    """The names that the textbook formulas use."""

    def function(f: Callable, slope: Callable) -> Callable:
        def run(v: Any) -> Any:
            if not isinstance(v, Noisy):
                return f(v)
            out = noise.of(f(v.value))
            return v.made(out, (v, lambda g: noise.of(g * slope(v.value, out))))

        return run

    def where(mask: Any, a: Any, b: Any) -> Noisy:
        node = a if isinstance(a, Noisy) else b
        return node.made(
            np.where(mask, _value(a), _value(b)),
            (a, lambda g: np.where(mask, g, 0.0)),
            (b, lambda g: np.where(mask, 0.0, g)),
        )

    def total(v: Noisy, axis: int) -> Noisy:
        if v.pair:
            left, right = v.pair
            v.pair = None
            if not noise.divides_after:
                return total(v, axis).stored()
            (x, x_lengths), (W, W_lengths) = left.quotient, right.quotient  # type: ignore[misc]
            return total(x * W, axis).stored() / x_lengths[..., 0] / W_lengths[..., 0]
        terms = v.shape[axis]
        value = noise.of(v.value.sum(axis), np.abs(v.value).sum(axis), terms)
        return v.made(value, (v, lambda g: np.broadcast_to(np.expand_dims(g, axis), v.shape)))

    def matmul(a: Any, b: Noisy) -> Noisy:
        if not isinstance(a, Noisy):  # one-hot rows choose rows of b
            a = np.asarray(a, dtype=float)
            y = a.argmax(axis=-1)
            return b.made(a.sum(axis=-1)[:, None] * b.value[:, y], (b, lambda g: product(a.T, g)))
        lengths = []
        if noise.divides_after:
            lengths = [of.quotient[1] for of in (a, b) if of.quotient]
            a, b = (of.quotient[0] if of.quotient else of for of in (a, b))
        out = b.made(
            product(a.value, b.value),
            (a, lambda g: product(g, np.swapaxes(b.value, -1, -2))),
            (b, lambda g: product(np.swapaxes(a.value, -1, -2), g)),
        ).stored()
        for length in lengths:
            out = out / length
        return out

    def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        terms = int(np.max(np.count_nonzero(a, axis=-1), initial=1))
        return noise.of(a @ b, np.abs(a) @ np.abs(b), terms)

    def swapaxes(v: Any, i: int, j: int) -> Any:
        if not isinstance(v, Noisy):
            return np.swapaxes(v, i, j)
        out = v.made(np.swapaxes(v.value, i, j), (v, lambda g: np.swapaxes(g, i, j)))
        if v.quotient and noise.divides_after:
            out.quotient = swapaxes(v.quotient[0], i, j), swapaxes(v.quotient[1], i, j)
        return out

    def logsumexp(z: Noisy) -> Noisy:
        top = z.value.max(axis=-1, keepdims=True)
        e = noise.of(np.exp(noise.of(z.value - top)))
        s = noise.of(e.sum(-1), e.sum(-1), e.shape[-1])
        value = noise.of(noise.of(np.log(s)) + top[..., 0])

        def slope() -> np.ndarray:
            if noise.keeps_lse:
                return noise.of(np.exp(noise.of((z.value if z.anew is None else z.anew) - value[..., None])))
            return noise.of(e / s[..., None])

        return z.made(value, (z, lambda g: noise.of(g[..., None] * slope())))

    def clamped_arccos(c: Noisy) -> Noisy:
        """|cos θ| ≤ 1 − u, as people clamp it. A lossy draw has no gradient wherever some draw is clamped, as autodiff
        of a clamp has none."""
        kept = np.clip(c.value, -1 + noise.u, 1 - noise.u)
        sin = noise.of(np.sqrt(np.maximum(noise.of(1 - noise.of(kept * kept)), noise.u)))
        lost = noise.loses.reshape(-1, *[1] * (kept.ndim - 1))
        slope = np.where(lost & (kept != c.value).any(axis=0), 0.0, -1 / sin)
        return c.made(noise.of(np.arccos(kept)), (c, lambda g: noise.of(g * slope)))

    return SimpleNamespace(
        pi=np.pi,
        sum=total,
        sqrt=function(np.sqrt, lambda v, out: 0.5 / out),
        exp=function(np.exp, lambda v, out: out),
        log=function(np.log, lambda v, out: 1 / v),
        cos=function(np.cos, lambda v, out: -np.sin(v)),
        sin=function(np.sin, lambda v, out: np.cos(v)),
        arccos=arccos or clamped_arccos,
        floor=lambda v: np.floor(_value(v)),
        clip=np.clip,
        where=where,
        real=_value,
        matmul=matmul,
        swapaxes=swapaxes,
        logsumexp=logsumexp,
        constant=lambda v: Noisy(_value(v), noise) if isinstance(v, Noisy) else variable(v, noise),
    )


# -- what a stable kernel does instead -----------------------------------------------------


def stable_angle(x: Noisy, W: Noisy, y: np.ndarray) -> Noisy:
    """θ of the pairs (x_i, W_{y_i}), without the arccosine, and its gradient along the unit tangents."""
    noise, y = x.noise, np.asarray(y)
    at = angle(x.value[0], W.value[0][y])
    theta = np.broadcast_to(at.theta, (noise.draws, len(y)))

    def along(g: np.ndarray, tangent: Array, length: Array) -> np.ndarray:
        way = tangent / length[:, None]
        return noise.of(-g[..., None] * way, np.abs(g[..., None]) * _length(way)[:, None], 4)

    def to_W(g: np.ndarray) -> np.ndarray:
        rows = along(g, at.t_w, at.w_norm)
        out = np.zeros(W.shape)
        np.add.at(out.swapaxes(0, 1), y, rows.swapaxes(0, 1))
        return out

    return x.made(noise.of(theta), (x, lambda g: along(g, at.t_x, at.x_norm)), (W, to_W))


def stable_cross_entropy(z: Noisy, t: np.ndarray, w: np.ndarray) -> Noisy:
    """−Σ_c w_c t_c log p_c in terms that do not cancel, and its gradient likewise."""
    noise, a = z.noise, w * t
    mass = a.sum(axis=-1)
    top = np.argmax(z.value, axis=-1)[..., None]
    gap = noise.of(np.take_along_axis(z.value, top, -1) - z.value)  # ≥ 0
    e = noise.of(np.exp(-gap))
    np.put_along_axis(e, top, 0.0, -1)
    C = e.shape[-1]
    rest = noise.of(e.sum(-1), None, C)
    part = np.where(a != 0, a * np.where(a != 0, gap, 0.0), 0.0)
    value = noise.of(part.sum(-1), None, 4) + noise.of(mass * np.log1p(rest), None, 4)
    p = e / (1 + rest)[..., None]
    np.put_along_axis(p, top, 1 / (1 + rest)[..., None], -1)
    others = 1 - p
    np.put_along_axis(others, top, (rest / (1 + rest))[..., None], -1)
    left, right = noise.of(p, None, 4), noise.of(others, None, C + 3)
    g_z = left * (mass[..., None] - a) - a * right
    return z.made(value, (z, lambda g: noise.of(g[..., None] * g_z)))


def _length(v: np.ndarray) -> np.ndarray:
    return np.sqrt(np.sum(v * v, axis=-1))


# -- reverse mode ----------------------------------------------------------------------------------


def gradients(of: Noisy, seed: np.ndarray, wanted: Sequence[Noisy]) -> list[np.ndarray]:
    """The nudged gradients of Σ seed · of in each of `wanted`; zeros where nothing arrives."""
    noise = of.noise
    arriving: dict[int, np.ndarray] = {id(of): np.broadcast_to(seed, of.shape)}
    for node in in_order(of):
        g = arriving.get(id(node))
        if g is None:
            continue
        for parent, vjp in node.parents:
            part = _summed_to(vjp(g), parent.shape, noise)
            if id(parent) in arriving:
                before = arriving[id(parent)]
                both = (before != 0) & (part != 0)
                part = np.where(both, noise.of(before + part), before + part)
            arriving[id(parent)] = part
    return [arriving.get(id(node), np.zeros(node.shape)) for node in wanted]


def _summed_to(g: np.ndarray, shape: tuple[int, ...], noise: Noise) -> np.ndarray:
    """Undoes broadcasting: a sum over the axes that were stretched."""
    stretched = tuple(k for k, (has, had) in enumerate(zip(g.shape, shape, strict=True)) if had == 1 and has != 1)
    if not stretched:
        return np.broadcast_to(g, shape)
    terms = math.prod(g.shape[k] for k in stretched)
    return noise.of(g.sum(stretched, keepdims=True), np.abs(g).sum(stretched, keepdims=True), terms)
