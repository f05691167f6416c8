"""What the symbols of the derivations mean, and how they depend on each other, at many digits.

A world holds random inputs and a graph of quantities, each defined from those before it, straight from the papers'
formulas and from no page and no pass of refloss. A quantity can be moved: then everything after it follows, and what
comes before stays. So ∂A/∂B needs no formula. There is one kind of world for each loss, and one for each shared step.
"""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from pages.evaluator import array, mp, slope

Array = np.ndarray
Rule = Callable[["World"], Any]

# which axis a letter counts along: i samples, j classes, d dimensions
KINDS = {**dict.fromkeys("i", "i"), **dict.fromkeys([*"jkcy", "max"], "j"), **dict.fromkeys("dabp", "d")}


class Quantity(NamedTuple):
    """Where a symbol's numbers are: the key in the graph, the axes in order, and the class meant if none is given."""

    key: str
    axes: str = ""
    default: str | None = None


@functools.cache
def quantities(spec: str) -> list[Quantity]:
    """Reads "theta:ij:y": of samples and classes, where θ alone is that of class y; or "z_max:i|z:ij": one or other."""
    return [Quantity(*one.split(":")) for one in spec.split("|")]


@dataclass(eq=False)
class World:
    """Inputs, the graph that follows from them, and what the letters of a page stand for."""

    given: dict[str, Any]
    graph: dict[str, Rule]
    symbols: dict[str, str]  # name → what `quantities` reads
    labels: list[int]
    sizes: dict[str, int]  # by axis
    functions: dict[str, Callable[..., Any]] = field(default_factory=dict)
    sequences: dict[str, Callable[..., Any]] = field(default_factory=dict)
    positions: dict[str, Callable[..., int]] = field(
        default_factory=lambda: {"y": lambda world, place: world.labels[place["i"]]}
    )
    ranges: dict[str, Iterable[int]] = field(default_factory=dict)
    sets: dict[str, set[int]] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=lambda: KINDS)
    direction: tuple[str, Array] | None = None  # what d moves, and where to
    numbered_samples: bool = False  # x_1 is an entry of x; or sample 1
    first_number: int = 1  # classes and dimensions count from here where a page writes W_1
    after: World | None = None  # what "becomes" (\leftarrow) leads to
    meanings: list[Any] = field(default_factory=list)  # what expressions mean that stand alone
    near: list[World] = field(default_factory=list)  # where "tends to" (\longrightarrow) has arrived
    nearness: Any = mp.mpf(10) ** -12  # up to this

    def __post_init__(self) -> None:
        letters = {letter for letter in KINDS if letter not in {*self.positions, "max"}}
        self.ranges = {letter: range(self.sizes[KINDS[letter]]) for letter in letters} | self.ranges
        self._known: dict[str, Any] = {}
        self.derivatives: dict[Any, Any] = {}

    def __getitem__(self, key: str) -> Any:
        if key in self.given:
            return self.given[key]
        if key not in self._known:
            self._known[key] = self.graph[key](self)
        return self._known[key]

    @property
    def inputs(self) -> set[str]:
        """What stands before the logits; the rest of what is given are settings."""
        return set(self.given) & {"x", "W", "b", "s", "m", "alpha"}

    def quantities(self, name: str) -> list[Quantity]:
        return quantities(self.symbols[name])

    def knows(self, name: str) -> bool:
        return name in self.symbols or name in self.sequences

    def extended(self, **changes: Any) -> World:
        """A copy with more in its tables, and with other settings."""
        there = copy.copy(self)
        there._known, there.derivatives = {}, {}
        for name, value in changes.items():
            old = getattr(self, name)
            setattr(there, name, {**old, **value} if isinstance(old, dict) else value)
        return there

    def replaced(self, values: dict[str, Any]) -> World:
        """The world in which these quantities have other values, and everything after them follows."""
        return self.extended(given=values)

    def moved(self, key: str, index: tuple[int, ...], step: Any) -> World:
        value = self[key]
        if not index:
            return self.replaced({key: value + step})
        value = value.copy()
        if key == "cos":  # the angle and its cosine are one thing
            angles = self["theta"].copy()
            value[index] = mp.cos(angles[index]) + step
            angles[index] = mp.acos(value[index])
            return self.replaced({"cos": value, "theta": angles})
        value[index] += step
        return self.replaced({key: value})

    def disturbed(self, key: str) -> Any:
        """Another value of a quantity, which changes whatever depends on it."""
        value = self[key]
        if not np.ndim(value):
            return value + mp.mpf("0.0123")
        return value + array(mp.mpf("0.01") * (3 + n % 7) for n in range(value.size)).reshape(value.shape)


# -- building blocks -------------------------------------------------------------------------------


def reals(seed: int | np.random.Generator, *shape: int) -> Any:
    """Random numbers with 60 digits, not 16: halves of two draws put together."""
    draws = np.random.default_rng(seed).normal(size=(2, *shape))
    return np.frompyfunc(lambda a, b: mp.mpf(float(a)) + mp.mpf(float(b)) * mp.mpf(2) ** -60 / 3, 2, 1)(*draws)


def vector(*entries: Any) -> Array:
    return array(map(mp.mpf, entries))


def length(row: Array) -> Any:
    return mp.sqrt(sum(entry * entry for entry in row))


def lengths(rows: Array) -> Array:
    return array(length(row) for row in rows)


def angle_of(x: Array, w: Array) -> Any:
    return mp.acos(sum(x * w) / (length(x) * length(w)))


def across(x: Array, w: Array) -> Array:
    """The part of w across x."""
    return w - sum(x * w) / sum(x * x) * x


def unit(row: Array) -> Array:
    return row / length(row)


def softmax(z: Array) -> Array:
    powers = np.frompyfunc(mp.exp, 1, 1)(z)
    return powers / powers.sum(axis=1)[:, None]


def gradient(world: World, of: str, by: str) -> Array:
    """The numeric gradient of a number by an array."""
    found = np.empty(world[by].shape, dtype=object)
    for index in itertools.product(*map(range, found.shape)):
        found[index] = slope(lambda step, index=index: world.moved(by, index, step)[of])
    return found


def each(function: Callable[[World, int], Any]) -> Rule:
    """Of every sample."""
    return lambda w: array(function(w, i) for i in range(w.sizes["i"]))


def pairs(function: Callable[[Array, Array], Any]) -> Rule:
    """Of the target pair of every sample."""
    return each(lambda w, i: function(w["x"][i], w["w"][i]))


def at_targets(world: World, everything: Array, value: Callable[[int], Any]) -> Array:
    """An array of all pairs with other entries for the targets."""
    found = everything.copy()
    for i, y in enumerate(world.labels):
        found[i, y] = value(i)
    return found


def targets_angle(world: World, i: int) -> Any:
    return world["theta"][i, world.labels[i]]


def one_hot(world: World) -> Array:
    none = np.full((world.sizes["i"], world.sizes["j"]), mp.zero, dtype=object)
    return at_targets(world, none, lambda i: mp.one)


CROSS_ENTROPY: dict[str, Rule] = {
    "class_weights": lambda w: array([mp.one] * w.sizes["j"]),
    "p": lambda w: softmax(w["z"]),
    "onehot": one_hot,
    "t": lambda w: (1 - w["varepsilon"]) * w["onehot"] + w["varepsilon"] / w.sizes["j"],
    "a": lambda w: w["t"] * w["class_weights"],
    "ell": each(lambda w, i: -sum(a * mp.log(p) for a, p in zip(w["a"][i], w["p"][i], strict=True))),
    "n": lambda w: mp.mpf(w.sizes["i"]),
    "L": lambda w: sum(w["ell"]) / w["n"],
    "g": lambda w: w["upstream"] * gradient(w, "L", "z"),
    "upstreams": each(lambda w, i: w["upstream"]),
}


def angles(world: World) -> Array:
    """Of all pairs; a target's angle is that of its pair x, w."""
    found = array([angle_of(x, row) for row in world["W"]] for x in world["x"])
    return at_targets(world, found, lambda i: angle_of(world["x"][i], world["w"][i]))


def band(world: World, theta: Any) -> Any:
    """The branch k of the papers' ψ."""
    return min(max(mp.floor(world["m"] * theta / mp.pi), mp.zero), world["m"] - 1)


def slope_in_cosine(world: World, i: int) -> Any:
    """dψ/dcos θ of the target."""
    return slope(lambda c: world["psi_function"](world, mp.acos(c)), mp.cos(targets_angle(world, i)))


FEATURES: dict[str, Rule] = {
    "x_norm": lambda w: lengths(w["x"]),
    "W_norm": lambda w: lengths(w["W"]),
    "hat x": lambda w: w["x"] / lengths(w["x"])[:, None],
    "hat w": lambda w: w["W"] / lengths(w["W"])[:, None],
    "cos": lambda w: w["hat x"] @ w["hat w"].T,
    "w": lambda w: w["W"][w.labels].copy(),  # the target's row of every sample
    "theta": angles,
    # tangents of the target pairs
    "t_x": pairs(lambda x, w: unit(across(x, w))),
    "t_w": pairs(lambda x, w: unit(across(w, x))),
    "f": lambda w: w["alpha"] * w["hat x"],
    "u": lambda w: gradient(w, "L", "f"),
    "k": each(lambda w, i: band(w, targets_angle(w, i))),
    "psi_c": each(slope_in_cosine),
    # dz_ij/dcos θ_ij over the radius: 1, and ψ's slope for the target
    "F": lambda w: at_targets(w, 1 + 0 * w["onehot"], lambda i: w["psi_c"][i]),
    "N": lambda w: mp.mpf(w.sizes["i"]),
    "C": lambda w: mp.mpf(w.sizes["j"]),
    "D": lambda w: mp.mpf(w.sizes["d"]),
}


def papers_psi(world: World, theta: Any) -> Any:
    """Liu et al. 2016, eq. 6, and 2017, eq. 7."""
    k = int(band(world, theta))
    return (-1) ** k * mp.cos(world["m"] * theta) - 2 * k


PSI: dict[str, Callable[[World, Any], Any]] = {
    "papers": papers_psi,
    "none": lambda w, theta: mp.cos(theta),
    "cosine": lambda w, theta: mp.cos(theta) - w["m"],
    "angle": lambda w, theta: mp.cos(theta + w["m"]),
    "tail": lambda w, theta: mp.cos(theta) - w["m"] * mp.sin(w["m"]),
    # a user's own: what no paper has
    "own": lambda w, theta: mp.cos(theta) - w["m"] * theta**2,
}


def targets_psi(order: int) -> Rule:
    return each(lambda w, i: slope(lambda t: w["psi_function"](w, t), targets_angle(w, i), order))


def psi_call(order: int) -> Callable[..., Any]:
    return lambda w, values, place: slope(lambda t: w["psi_function"](w, t), values[0], order)


def logits(world: World) -> Array:
    """r cos θ, and for the target r ψ(θ): by its own angle, not by the product of the directions."""

    def of_target(i: int) -> Any:
        return world["r"][i, world.labels[i]] * world["target_function"](world, targets_angle(world, i))

    return at_targets(world, world["r"] * world["cos"], of_target)


# Of all pairs, by the lengths of x and W; "w_norm" has α for s.
RADIUS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "s": lambda rho, omega, s: s,
    "x_norm": lambda rho, omega, s: rho,
    "both": lambda rho, omega, s: rho * omega,
    "w_norm": lambda rho, omega, s: s * omega,
}


def indexed(axes: str, *names: str) -> dict[str, str]:
    """Symbols that are the names of their quantities."""
    return {name: f"{name}:{axes}" for name in names}


SYMBOLS = {
    **indexed("id", "x", "hat x", "f", "u", "t_x", "t_w"),
    **indexed("i", "x_norm", "k", "psi", "psi'", "psi''", "psi_c", "ell"),
    **indexed("j", "b", "W_norm"),
    **indexed("ij", "F", "z", "p", "t", "a", "g"),
    **indexed("", "L", "s", "m", "alpha", "lambda", "varepsilon", "n", "N", "C", "D", "upstream"),
    "W": "W:jd",
    "hat w": "hat w:jd:y",
    "theta": "theta:ij:y",
    "c": "cos:ij:y",
    "r": "r:ij:y",
    "y": "onehot:ij",
    "w": "class_weights:j",
    "v": "upstreams:i|upstream",
    "loss": "L",
}

# Two samples of one class, one of another, and a class without a sample.
LABELS = [0, 2, 0]


def inputs(seed: int, margin: Any, shape: tuple[int, int, int] = (3, 3, 3)) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    n, c, d = shape
    rows = {"x": reals(rng, n, d), "W": reals(rng, c, d), "b": reals(rng, c)}
    settings = {"s": "1.7", "m": margin, "alpha": "1.3", "lambda": 0, "varepsilon": 0, "upstream": 1}
    return rows | {name: mp.mpf(value) for name, value in settings.items()}


def margin_world(seed: int, radius: str, psi: str, m: Any, labels: list[int] | None = None, **changes: Any) -> World:
    """A loss with z_j = r cos θ_j and z_y = r ψ(θ_y)."""

    def r(w: World) -> Array:
        return array([RADIUS[radius](rho, omega, w["s"]) for omega in w["W_norm"]] for rho in w["x_norm"])

    graph = {
        **FEATURES,
        **CROSS_ENTROPY,
        **{"psi" + "'" * order: targets_psi(order) for order in range(3)},
        "r": r,
        "z": logits,
        "psi_function": lambda w: PSI[psi],
        "target_function": lambda w: w["psi_function"],
    }
    given = {**inputs(seed, m), **changes}
    functions = {
        **{"psi" + "'" * order: psi_call(order) for order in range(3)},
        "angle": lambda w, at, place: angle_of(*at),
        "T": lambda w, at, place: mp.chebyt(int(at[0]), at[1]),
        "T'": lambda w, at, place: slope(lambda c: mp.chebyt(int(at[0]), c), at[1]),
    }
    sizes = {"i": len(given["x"]), "j": len(given["W"]), "d": len(given["x"][0])}
    return World(given, graph, {**SYMBOLS, "w": "w:id"}, labels or LABELS, sizes, functions)


def linear_world(
    seed: int, features: str, weights: str, bias: bool, labels: list[int] | None = None, **changes: Any
) -> World:
    """Logits that are inner products: z = weights · features (+ b), for every class alike."""

    def z(world: World) -> Array:
        products = world[features] @ world[weights].T
        return products + world["b"][None, :] if bias else products

    world = margin_world(seed, "s", "none", 0, labels, **changes).extended(graph={"z": z})
    world.symbols = {name: spec for name, spec in SYMBOLS.items() if not name.startswith(("psi", "k", "r", "m"))}
    return world


# -- the worlds of the shared steps ----------------------------------------------------------------


def top(row: Array) -> int:
    """Where the largest entry is."""
    return max(range(len(row)), key=row.__getitem__)


WEIGHTS = array(map(mp.mpf, ("0.8", "1.9", "1.1")))


def cross_entropy_world(seed: int, **changes: Any) -> World:
    """Class weights, smoothing, an upstream gradient; the names of (C2) to (C5); two blocks of classes, A and B."""
    given = {"varepsilon": mp.mpf("0.13"), "upstream": mp.mpf("0.7"), "class_weights": WEIGHTS}
    world = linear_world(seed, "x", "W", True, **given | changes)
    blocks = {"A": {0, 2}, "B": {1}}

    def largest(classes: Iterable[int]) -> Rule:
        return lambda w: array(max(row[c] for c in classes) for row in w["z"])

    graph: dict[str, Rule] = {
        "z_max": largest(range(world.sizes["j"])),
        "z_A": largest(blocks["A"]),
        "z_B": largest(blocks["B"]),
        "kappa_A": lambda w: w["z_max"] - w["z_A"],
        "kappa_B": lambda w: w["z_max"] - w["z_B"],
        "d": lambda w: w["z_max"][:, None] - w["z"],
        "e": lambda w: np.frompyfunc(mp.exp, 1, 1)(-w["d"]),
        "r": lambda w: array(sum(sorted(row)[:-1]) for row in w["e"]),  # the powers without the largest
        "q": lambda w: w["p"].sum(axis=1)[:, None] - w["p"],
    }
    symbols = indexed("i", "z_A", "z_B", "kappa_A", "kappa_B", "r") | indexed("ij", "d", "e", "q")
    return world.extended(
        graph=graph,
        symbols=symbols | {"z": "z_max:i|z:ij"},
        positions={"max": lambda w, place: top(w["z"][place["i"]])},
        sets=blocks,
    )


def chebyshev(world: World, k: int, place: dict[str, int]) -> Any:
    """U_k = sin (k + 1)θ / sin θ of the sample's angle."""
    theta = targets_angle(world, place["i"])
    return mp.sin((k + 1) * theta) / mp.sin(theta)


def psi_world(seed: int, m: int, psi: str = "papers", **changes: Any) -> World:
    """A ψ with P, B and Chebyshev's U_k; u_k = B^(k/2) U_k. k in a subscript is any number from 2 on."""
    world = margin_world(seed, "s", psi, m, **changes)
    world = world.extended(
        graph={"P": pairs(lambda x, w: sum(x * w)), "B": pairs(lambda x, w: sum(x * x) * sum(w * w))},
        sequences={"U": chebyshev, "u": lambda w, k, place: mp.sqrt(w["B"][place["i"]]) ** k * chebyshev(w, k, place)},
        ranges={"k": range(2, 7)},
    )
    world.symbols = {name: SYMBOLS[name] for name in ("x", "theta", "k", "psi", "psi'", "psi''", "m")}
    world.symbols |= {"w": "w:id", **indexed("i", "P", "B")}
    near = (mp.mpf(10) ** -7, mp.pi - mp.mpf(10) ** -7, mp.mpf(10) ** -8)
    world.near = [world.replaced({"theta": at_targets(world, world["theta"], lambda i: near[i])})]
    return world


def annealed_world(seed: int, m: int) -> World:
    """(M4): before the step ψ is the papers', after it the mean with the cosine."""
    return annealed(margin_world(seed, "both", "papers", m, **{"lambda": mp.mpf("0.6")}))


def annealed(before: World) -> World:
    def mean(world: World, theta: Any) -> Any:
        share = world["lambda"] / (1 + world["lambda"])
        return share * mp.cos(theta) + (1 - share) * papers_psi(world, theta)

    # the logits are those after the step
    before = before.extended(graph={"target_function": lambda w: mean})
    before.after = before.extended(graph={"psi_function": lambda w: mean})
    return before


# -- a page's own letters --------------------------------------------------------------------------


def plain_world(
    values: dict[str, Any], axes: dict[str, str] | None = None, meanings: Iterable[Any] = (), **settings: Any
) -> World:
    """Letters with a value each, and nothing that depends on anything; arrays have `axes`, as in "ij", vectors "d".

    `meanings` are the values of the expressions that stand in the block without an equation, in order.
    """
    given = {name: mp.mpf(value) if isinstance(value, int | str) else value for name, value in values.items()}
    axes = {name: "d" * np.ndim(value) for name, value in values.items()} | (axes or {})
    sizes = {"i": 1, "j": 1, "d": 1}
    for name, letters in axes.items():
        sizes.update(zip(letters, np.shape(given[name]), strict=True))
    symbols = {name: f"{name}:{axes[name]}" for name in values}
    return World(given, {}, symbols, [0] * sizes["i"], sizes, meanings=list(meanings), **settings)
