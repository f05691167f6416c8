"""What the symbols of the derivations mean, and how they depend on each other, at many digits.

A world holds random inputs and a graph of quantities, each defined from those before it, straight from the papers'
formulas and from no page and no pass of refloss. A quantity can be moved: then everything after it follows, and what
comes before stays. So ∂A/∂B needs no formula. There is one kind of world for each loss, and one for each shared step.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from pages.formula_evaluator import STEP, mp

Array = np.ndarray


class Quantity(NamedTuple):
    """Where a symbol's numbers are: the key in the graph, the axes in order, and the class meant if none is given."""

    key: str
    axes: tuple[str, ...] = ()
    default: str | None = None


SHORT = {"i": "sample", "j": "class", "d": "dimension"}
KINDS = {
    "i": "sample", "j": "class", "k": "class", "c": "class", "y": "class", "max": "class",
    "d": "dimension", "a": "dimension", "b": "dimension", "p": "dimension",
}  # fmt: skip


def quantity(key: str, axes: str = "", default: str | None = None) -> Quantity:
    """quantity("theta", "ij", "y"): samples and classes; θ alone is that of class y."""
    return Quantity(key, tuple(SHORT[axis] for axis in axes), default)


class World:
    """Inputs, the graph that follows from them, and what the letters of a page stand for."""

    def __init__(
        self,
        given: dict[str, Any],
        graph: dict[str, Callable[[World], Any]],
        symbols: dict[str, list[Quantity]],
        labels: list[int],
        sizes: tuple[int, int, int],
        functions: dict[str, Callable[..., Any]] | None = None,
        sequences: dict[str, Callable[..., Any]] | None = None,
        positions: dict[str, Callable[..., int]] | None = None,
        ranges: dict[str, Iterable[int]] | None = None,
        sets: dict[str, set[int]] | None = None,
        direction: tuple[str, Array] | None = None,
    ) -> None:
        self.given, self.graph, self.symbols, self.labels = given, graph, symbols, labels
        self.sizes = sizes
        self.functions, self.sequences, self.sets = functions or {}, sequences or {}, sets or {}
        self.direction = direction
        self.kinds = KINDS
        axes = dict(zip(("sample", "class", "dimension"), sizes, strict=True))
        self.positions = {"y": lambda world, place: world.labels[place["i"]], **(positions or {})}
        self.ranges = {
            letter: range(axes[kind])
            for letter, kind in KINDS.items()
            if letter not in self.positions and letter != "max"
        } | (ranges or {})
        # what stands before the logits; the rest of what is given are settings
        self.inputs = set(given) & {"x", "W", "b", "s", "m", "alpha"}
        self.movable = set(given) | set(graph)
        self.derivatives: dict[Any, Any] = {}
        self._known = dict(given)
        self.numbered_samples = False  # x_1 is an entry of x; or sample 1
        self.first_number = 1  # classes and dimensions count from here where a page writes W_1
        self.after: World = self  # what "becomes" (\leftarrow) leads to
        self.meanings: list[Any] = []  # what expressions mean that stand alone
        self.near: list[World] = []  # where "tends to" (\longrightarrow) has arrived, up to `nearness`
        self.nearness = mp.mpf(10) ** -12

    def __getitem__(self, key: str) -> Any:
        if key not in self._known:
            self._known[key] = self.graph[key](self)
        return self._known[key]

    def size_of(self, axis: str) -> int:
        return dict(zip(("sample", "class", "dimension"), self.sizes, strict=True))[axis]

    def knows(self, name: str) -> bool:
        return name in self.symbols or name in self.sequences

    def replaced(self, values: dict[str, Any]) -> World:
        """The world in which these quantities have other values, and everything after them follows."""
        there = World.__new__(World)
        there.__dict__.update(self.__dict__)
        there.given = {**self.given, **values}
        there._known = dict(there.given)
        there.derivatives = {}
        return there

    def moved(self, key: str, index: tuple[int, ...], step: Any) -> World:
        value = self[key]
        if not index:
            return self.replaced({key: value + step})
        array = value.copy()
        if key == "cos":  # the angle and its cosine are one thing
            angles = self["theta"].copy()
            array[index] = mp.cos(angles[index]) + step
            angles[index] = mp.acos(array[index])
            return self.replaced({"cos": array, "theta": angles})
        array[index] += step
        return self.replaced({key: array})

    def disturbance(self, shape: tuple[int, ...]) -> Any:
        """Something to add that changes whatever depends on it."""
        if not shape:
            return mp.mpf("0.0123")
        return np.array(
            [mp.mpf("0.01") * (3 + n % 7) for n in range(int(np.prod(shape)))], dtype=object
        ).reshape(shape)


# -- building blocks -------------------------------------------------------------------------------


def reals(rng: np.random.Generator, *shape: int) -> Any:
    """Random numbers with 60 digits, not 16: halves of two draws put together."""
    draws = rng.normal(size=(2, *shape))
    return np.frompyfunc(lambda a, b: mp.mpf(float(a)) + mp.mpf(float(b)) * mp.mpf(2) ** -60 / 3, 2, 1)(
        *draws
    )


def length(row: Array) -> Any:
    return mp.sqrt(sum(entry * entry for entry in row))


def lengths(rows: Array) -> Array:
    return np.array([length(row) for row in rows], dtype=object)


def angle_of(x: Array, w: Array) -> Any:
    return mp.acos(sum(x * w) / (length(x) * length(w)))


def across(x: Array, w: Array) -> Array:
    """The part of w across x."""
    return w - sum(x * w) / sum(x * x) * x


def unit(row: Array) -> Array:
    return row / length(row)


def softmax(z: Array) -> Array:
    powers = np.array([[mp.exp(entry) for entry in row] for row in z], dtype=object)
    return powers / powers.sum(axis=1)[:, None]


def one_hot(world: World) -> Array:
    n, c, _ = world.sizes
    return np.array([[mp.mpf(world.labels[i] == j) for j in range(c)] for i in range(n)], dtype=object)


CROSS_ENTROPY: dict[str, Callable[[World], Any]] = {
    "class_weights": lambda w: np.array([mp.one] * w.sizes[1], dtype=object),
    "p": lambda w: softmax(w["z"]),
    "onehot": one_hot,
    "t": lambda w: (1 - w["eps"]) * w["onehot"] + w["eps"] / w.sizes[1],
    "a": lambda w: w["t"] * w["class_weights"],
    "ell": lambda w: np.array(
        [-sum(w["a"][i, c] * mp.log(w["p"][i, c]) for c in range(w.sizes[1])) for i in range(w.sizes[0])],
        dtype=object,
    ),
    "n": lambda w: mp.mpf(w.sizes[0]),
    "L": lambda w: sum(w["ell"]) / w["n"],
    "g": lambda w: w["upstream"] * gradient(w, "L", "z"),
}


def gradient(world: World, of: str, by: str) -> Array:
    """The numeric gradient of a number by an array."""
    shape = world[by].shape
    found = np.empty(shape, dtype=object)
    for index in itertools.product(*map(range, shape)):
        ends = [world.moved(by, index, sign * STEP)[of] for sign in (1, -1)]
        found[index] = (ends[0] - ends[1]) / (2 * STEP)
    return found


FEATURES: dict[str, Callable[[World], Any]] = {
    "x_norm": lambda w: lengths(w["x"]),
    "W_norm": lambda w: lengths(w["W"]),
    "x_hat": lambda w: w["x"] / lengths(w["x"])[:, None],
    "W_hat": lambda w: w["W"] / lengths(w["W"])[:, None],
    "cos": lambda w: w["x_hat"] @ w["W_hat"].T,
    "w": lambda w: w["W"][w.labels].copy(),  # the target's row of every sample
    "theta": lambda w: angles(w),
    # tangents of the target pairs
    "t_x": lambda w: np.array(
        [unit(across(x, w["W"][y])) for x, y in zip(w["x"], w.labels, strict=True)], dtype=object
    ),
    "t_w": lambda w: np.array(
        [unit(across(w["W"][y], x)) for x, y in zip(w["x"], w.labels, strict=True)], dtype=object
    ),
    "feature": lambda w: w["alpha"] * w["x_hat"],
    "feature_gradient": lambda w: gradient(w, "L", "feature"),
    "bands": lambda w: np.array([band(w, w["theta"][i, y]) for i, y in enumerate(w.labels)], dtype=object),
    "psi_c": lambda w: np.array([slope_in_cosine(w, i) for i in range(w.sizes[0])], dtype=object),
    # dz_ij/dcos θ_ij over the radius: 1, and ψ's slope for the target
    "factor": lambda w: np.array(
        [[w["psi_c"][i] if j == y else mp.one for j in range(w.sizes[1])] for i, y in enumerate(w.labels)],
        dtype=object,
    ),
    "samples": lambda w: mp.mpf(w.sizes[0]),
    "classes": lambda w: mp.mpf(w.sizes[1]),
    "dimensions": lambda w: mp.mpf(w.sizes[2]),
}


def angles(world: World) -> Array:
    """Of all pairs; a target's angle is that of its pair x, w."""
    found = np.array([[angle_of(x, row) for row in world["W"]] for x in world["x"]], dtype=object)
    for i, y in enumerate(world.labels):
        found[i, y] = angle_of(world["x"][i], world["w"][i])
    return found


def band(world: World, theta: Any) -> Any:
    """The branch k of the papers' ψ."""
    return min(max(mp.floor(world["m"] * theta / mp.pi), mp.zero), world["m"] - 1)


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


def slope(function: Callable[[Any], Any], at: Any, order: int = 1) -> Any:
    if order == 0:
        return function(at)
    return (slope(function, at + STEP, order - 1) - slope(function, at - STEP, order - 1)) / (2 * STEP)


def slope_in_cosine(world: World, i: int) -> Any:
    """dψ/dcos θ of the target."""
    theta = world["theta"][i, world.labels[i]]
    return slope(lambda c: world["psi_function"](world, mp.acos(c)), mp.cos(theta))


def targets_psi(world: World, order: int) -> Array:
    angles = [world["theta"][i, y] for i, y in enumerate(world.labels)]
    return np.array(
        [slope(lambda t: world["psi_function"](world, t), angle, order) for angle in angles], dtype=object
    )


MARGIN: dict[str, Callable[[World], Any]] = {
    "psi": lambda w: targets_psi(w, 0),
    "psi'": lambda w: targets_psi(w, 1),
    "psi''": lambda w: targets_psi(w, 2),
}


def psi_call(order: int) -> Callable[..., Any]:
    def called(world: World, values: list[Any], place: dict[str, int]) -> Any:
        return slope(lambda t: world["psi_function"](world, t), values[0], order)

    return called


def logits(world: World) -> Array:
    """r cos θ, and for the target r ψ(θ): by its own angle, not by the product of the directions."""
    z = world["r"] * world["cos"]
    for i, y in enumerate(world.labels):
        z[i, y] = world["r"][i, y] * world["target_function"](world, world["theta"][i, y])
    return z


RADIUS: dict[str, Callable[[World], Any]] = {
    "s": lambda w: np.full(w.sizes[:2], w["s"], dtype=object),
    "x_norm": lambda w: np.outer(w["x_norm"], np.full(w.sizes[1], mp.one, dtype=object)),
    "both": lambda w: np.outer(w["x_norm"], w["W_norm"]),
}

SYMBOLS: dict[str, list[Quantity]] = {
    "x": [quantity("x", "id")],
    "W": [quantity("W", "jd")],
    "b": [quantity("b", "j")],
    "f": [quantity("feature", "id")],
    "u": [quantity("feature_gradient", "id")],
    "hat x": [quantity("x_hat", "id")],
    "hat w": [quantity("W_hat", "jd", "y")],
    "x_norm": [quantity("x_norm", "i")],
    "W_norm": [quantity("W_norm", "j")],
    "theta": [quantity("theta", "ij", "y")],
    "c": [quantity("cos", "ij", "y")],
    "k": [quantity("bands", "i")],
    "psi": [quantity("psi", "i")],
    "psi'": [quantity("psi'", "i")],
    "psi''": [quantity("psi''", "i")],
    "psi_c": [quantity("psi_c", "i")],
    "F": [quantity("factor", "ij")],
    "t_x": [quantity("t_x", "id")],
    "t_w": [quantity("t_w", "id")],
    "r": [quantity("r", "ij", "y")],
    "z": [quantity("z", "ij")],
    "p": [quantity("p", "ij")],
    "y": [quantity("onehot", "ij")],
    "t": [quantity("t", "ij")],
    "a": [quantity("a", "ij")],
    "w": [quantity("class_weights", "j")],
    "ell": [quantity("ell", "i")],
    "L": [quantity("L")],
    "g": [quantity("g", "ij")],
    "v": [quantity("upstreams", "i"), quantity("upstream")],
    "s": [quantity("s")],
    "m": [quantity("m")],
    "alpha": [quantity("alpha")],
    "lambda": [quantity("lambda")],
    "varepsilon": [quantity("eps")],
    "n": [quantity("n")],
    "N": [quantity("samples")],
    "C": [quantity("classes")],
    "D": [quantity("dimensions")],
    "upstream": [quantity("upstream")],
    "loss": [quantity("L")],
}

# Two samples of one class, one of another, and a class without a sample.
LABELS = [0, 2, 0]
SIZES = (3, 3, 3)


def inputs(seed: int, margin: Any, sizes: tuple[int, int, int] = SIZES) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    n, c, d = sizes
    return {
        "x": reals(rng, n, d) + 0,
        "W": reals(rng, c, d) + 0,
        "b": reals(rng, c),
        "s": mp.mpf("1.7"),
        "m": margin,
        "alpha": mp.mpf("1.3"),
        "lambda": mp.zero,
        "eps": mp.zero,
        "upstream": mp.one,
    }


def sizes_of(given: dict[str, Any]) -> tuple[int, int, int]:
    return len(given["x"]), len(given["W"]), len(given["x"][0])


def margin_world(
    seed: int, radius: str, psi: str, m: Any, labels: list[int] | None = None, **changes: Any
) -> World:
    """A loss with z_j = r cos θ_j and z_y = r ψ(θ_y)."""
    graph = {
        **FEATURES, **MARGIN, **CROSS_ENTROPY, "r": RADIUS[radius], "z": logits,
        "upstreams": lambda w: np.full(w.sizes[0], w["upstream"], dtype=object),
        "psi_function": lambda w: PSI[psi],
        "target_function": lambda w: w["psi_function"],
    }  # fmt: skip
    given = {**inputs(seed, mp.mpf(m)), **changes}
    functions = {
        "psi": psi_call(0), "psi'": psi_call(1), "psi''": psi_call(2), "angle": angle_call,
        "T": lambda w, at, place: mp.chebyt(int(at[0]), at[1]),
        "T'": lambda w, at, place: slope(lambda c: mp.chebyt(int(at[0]), c), at[1]),
    }  # fmt: skip
    return World(
        given, graph, {**SYMBOLS, "w": [quantity("w", "id")]}, labels or LABELS, sizes_of(given), functions
    )


def angle_call(world: World, values: list[Any], place: dict[str, int]) -> Any:
    return angle_of(*values)


def linear_world(
    seed: int, features: str, weights: str, bias: bool, labels: list[int] | None = None, **changes: Any
) -> World:
    """Logits that are inner products: z = weights · features (+ b), for every class alike."""

    def z(world: World) -> Array:
        products = world[features] @ world[weights].T
        return products + world["b"][None, :] if bias else products

    graph = {
        **FEATURES, **CROSS_ENTROPY, "z": z, "upstreams": lambda w: np.full(w.sizes[0], w["upstream"], dtype=object)
    }  # fmt: skip
    given = {**inputs(seed, mp.zero), **changes}
    symbols = {name: where for name, where in SYMBOLS.items() if not name.startswith(("psi", "k", "r", "m"))}
    return World(given, graph, symbols, labels or LABELS, sizes_of(given), {"angle": angle_call})


# -- the worlds of the shared steps ----------------------------------------------------------------


def largest_logit(world: World, place: dict[str, int]) -> int:
    row = world["z"][place["i"]]
    return max(range(len(row)), key=row.__getitem__)


def cross_entropy_world(seed: int, **changes: Any) -> World:
    """Class weights, smoothing, an upstream gradient; the names of (C2) to (C5); two blocks of classes, A and B."""
    given = {
        "eps": mp.mpf("0.13"),
        "upstream": mp.mpf("0.7"),
        "class_weights": np.array([mp.mpf("0.8"), mp.mpf("1.9"), mp.mpf("1.1")], dtype=object),
    }
    world = linear_world(seed, "x", "W", True, **given | changes)
    blocks = {"A": {0, 2}, "B": {1}}

    def top(classes: Iterable[int]) -> Callable[[World], Array]:
        return lambda w: np.array([max(row[c] for c in classes) for row in w["z"]], dtype=object)

    def below(name: str) -> Callable[[World], Array]:
        return lambda w: w["z_max"] - w[name]

    everything = range(world.sizes[1])
    world.graph = {
        **world.graph,
        "z_max": top(everything),
        "z_A": top(blocks["A"]),
        "z_B": top(blocks["B"]),
        "delta_A": below("z_A"),
        "delta_B": below("z_B"),
        "distance": lambda w: w["z_max"][:, None] - w["z"],
        "powers": lambda w: np.frompyfunc(mp.exp, 1, 1)(w["z"] - w["z_max"][:, None]),
        # the sum of the powers without the largest term
        "rest": lambda w: np.array([sum(sorted(row)[:-1]) for row in w["powers"]], dtype=object),
        "others": lambda w: np.array([[sum(row) - entry for entry in row] for row in w["p"]], dtype=object),
    }
    world.symbols = {
        **world.symbols,
        "z": [quantity("z_max", "i"), quantity("z", "ij")],
        "z_A": [quantity("z_A", "i")],
        "z_B": [quantity("z_B", "i")],
        "delta_A": [quantity("delta_A", "i")],
        "delta_B": [quantity("delta_B", "i")],
        "d": [quantity("distance", "ij")],
        "e": [quantity("powers", "ij")],
        "r": [quantity("rest", "i")],
        "q": [quantity("others", "ij")],
    }
    world.positions = {**world.positions, "max": largest_logit}
    world.sets = blocks
    return world


def normalisation_world(seed: int, **changes: Any) -> World:
    """Rows v, a loss that sees only their directions, and a direction dv to move in."""
    world = linear_world(seed, "x_hat", "W", False, **changes)
    world.graph = {
        **world.graph,
        # v̂ scaled so that the largest entry lies in [1/2, 1)
        "exponent": lambda w: np.array(
            [mp.floor(mp.log(max(abs(row)), 2)) + 1 for row in w["x"]], dtype=object
        ),
        "scaled": lambda w: (
            w["x"] * np.array([mp.mpf(2) ** -int(e) for e in w["exponent"]], dtype=object)[:, None]
        ),
        "scaled_hat": lambda w: w["scaled"] / lengths(w["scaled"])[:, None],
    }
    world.symbols = {
        "v": [quantity("x", "id")],
        "hat v": [quantity("x_hat", "id")],
        "tilde v": [quantity("scaled", "id")],
        "e": [quantity("exponent", "i")],
        "L": [quantity("L")],
    }
    world.direction = ("x", reals(np.random.default_rng(seed + 100), *world["x"].shape))
    return world


def pivot(world: World, place: dict[str, int]) -> int:
    row = abs(world["x"][place["i"]])
    return int(max(range(len(row)), key=row.__getitem__))


def angle_world(seed: int, **changes: Any) -> World:
    """Pairs x, w = W_y, and a loss of the cosines of all pairs."""
    world = margin_world(seed, "s", "none", 0, **changes)

    def pairs(function: Callable[[Array, Array, int], Any]) -> Callable[[World], Array]:
        return lambda w: np.array(
            [function(w["x"][i], w["w"][i], pivot(w, {"i": i})) for i in range(w.sizes[0])], dtype=object
        )

    world.graph = {
        **world.graph,
        "z": lambda w: w["s"] * w["cos"],
        "h_ij": lambda w: gradient(w, "L", "cos"),
        "rejected": pairs(lambda x, w, p: w - w[p] / x[p] * x),  # the multiple of x that clears entry p
        "leg": pairs(lambda x, w, p: across(x, w)),
        "along": pairs(lambda x, w, p: sum((w - w[p] / x[p] * x) * unit(x))),
        "hypotenuse": pairs(lambda x, w, p: length(w)),
    }
    world.symbols = {
        **{name: world.symbols[name] for name in ("x", "hat x", "hat w", "theta", "t_x", "t_w", "L", "D")},
        "w": [quantity("w", "id")],
        "r": [quantity("rejected", "id")],
        "e": [quantity("leg", "id")],
        "a": [quantity("along", "i")],
        "h": [quantity("hypotenuse", "i"), quantity("h_ij", "ij")],
    }
    world.positions = {**world.positions, "p": pivot}
    return world


def chebyshev(world: World, k: int, place: dict[str, int]) -> Any:
    """U_k = sin (k + 1)θ / sin θ of the sample's angle."""
    theta = world["theta"][place["i"], world.labels[place["i"]]]
    return mp.sin((k + 1) * theta) / mp.sin(theta)


def psi_world(seed: int, m: int, **changes: Any) -> World:
    """The papers' ψ with P, B and Chebyshev's U_k; u_k = B^(k/2) U_k. k in a subscript is any number from 2 on."""
    world = margin_world(seed, "s", "papers", m, **changes)

    def pairs(function: Callable[[Array, Array], Any]) -> Callable[[World], Array]:
        return lambda w: np.array(
            [function(x, w["W"][y]) for x, y in zip(w["x"], w.labels, strict=True)], dtype=object
        )

    world.graph = {
        **world.graph,
        "P": pairs(lambda x, w: sum(x * w)),
        "B": pairs(lambda x, w: sum(x * x) * sum(w * w)),
    }
    world.symbols = {
        **{name: world.symbols[name] for name in ("x", "theta", "k", "psi", "psi'", "psi''", "m")},
        "w": [quantity("w", "id")],
        "P": [quantity("P", "i")],
        "B": [quantity("B", "i")],
    }
    world.sequences = {
        "U": chebyshev,
        "u": lambda w, k, place: mp.sqrt(w["B"][place["i"]]) ** k * chebyshev(w, k, place),
    }
    world.ranges = {**world.ranges, "k": range(2, 7)}
    near = (mp.mpf(10) ** -7, mp.pi - mp.mpf(10) ** -7, mp.mpf(10) ** -8)
    world.near = [at_angles(world, near[: world.sizes[0]])]
    return world


def at_angles(world: World, angles: Iterable[Any]) -> World:
    """The same world with other angles between the target pairs."""
    theta = world["theta"].copy()
    for i, angle in enumerate(angles):
        theta[i, world.labels[i]] = angle
    return world.replaced({"theta": theta})


def continuation_world(seed: int, m: int) -> World:
    """ψ = cos mθ up to π/m, then a D of one's own: here curved, with D(π/m) = −1 and a slope of −0.3 there."""

    def D(world: World, theta: Any) -> Any:
        past = theta - mp.pi / world["m"]
        return -1 - mp.mpf("0.3") * past - past**2 / 5

    def psi(world: World, theta: Any) -> Any:
        return mp.cos(world["m"] * theta) if theta < mp.pi / world["m"] else D(world, theta)

    world = psi_world(seed, m)
    world.graph = {**world.graph, "psi_function": lambda w: psi}
    world.functions = {
        **world.functions,
        "D": lambda w, values, place: D(w, values[0]),
        "D'": lambda w, values, place: slope(lambda t: D(w, t), values[0]),
    }
    return world


def pair_margin_world(seed: int, psi: str, m: Any) -> World:
    """(M1) to (M3): a margin on the target's angle, with P, B and the rows of the pairs."""
    world = psi_world(seed, 1)
    world = world.replaced({"m": mp.mpf(m)})
    world.graph = {**world.graph, "psi_function": lambda w: PSI[psi]}
    return world


def annealed_world(seed: int, m: int) -> World:
    """(M4): before the step ψ is the papers', after it the mean with the cosine."""
    return annealed(margin_world(seed, "both", "papers", m, **{"lambda": mp.mpf("0.6")}))


def annealed(before: World) -> World:
    def mean(world: World, theta: Any) -> Any:
        share = world["lambda"] / (1 + world["lambda"])
        return share * mp.cos(theta) + (1 - share) * papers_psi(world, theta)

    # the logits are those after the step
    before.graph = {**before.graph, "target_function": lambda w: mean}
    before.after = before.replaced({})
    before.after.graph = {**before.graph, "psi_function": lambda w: mean}
    return before


def detached_world(seed: int, m: Any) -> World:
    """(M5): after the step the offset ψ − cos θ is a number that nothing moves."""
    before = margin_world(seed, "s", "angle", m)
    frozen = [before["psi"][i] - mp.cos(before["theta"][i, y]) for i, y in enumerate(before.labels)]
    after = before.replaced({})
    after.graph = {
        **before.graph,
        "psi": lambda w: np.array(
            [mp.cos(w["theta"][i, y]) + frozen[i] for i, y in enumerate(w.labels)], dtype=object
        ),
        "psi'": lambda w: np.array(
            [slope(lambda t, i=i: mp.cos(t) + frozen[i], w["theta"][i, y]) for i, y in enumerate(w.labels)],
            dtype=object,
        ),
    }  # fmt: skip
    before.functions = {**before.functions, "stop": lambda w, values, place: values[0]}
    before.after = after
    return before


def polar_world(seed: int, radius: str) -> World:
    """(G1) to (G10): any ψ, one of three radii; z alone is the target's logit."""
    world = margin_world(seed, radius, "own", "0.4")
    world.symbols = {
        **world.symbols, "z": [quantity("z", "ij", "y")], "h": [quantity("radius_gradient", "ij")]
    }  # fmt: skip
    world.graph = {**world.graph, "radius_gradient": lambda w: gradient(w, "L", "r")}
    return world


def weighted_world(seed: int) -> World:
    """The linear layer with a weight a class."""
    weights = np.array([mp.mpf("0.8"), mp.mpf("1.9"), mp.mpf("1.1")], dtype=object)
    return linear_world(seed, "x", "W", True, class_weights=weights)


def hed_world(seed: int) -> World:
    """Pixels of two classes, 0 and 1; the loss is their sum, each weighted by the share of the other class."""
    world = linear_world(seed, "x", "W", True)
    labels = [1, 0, 0, 1, 0]
    given = inputs(seed, mp.zero, (len(labels), 2, 3))
    edges = mp.mpf(sum(labels)) / len(labels)
    given["class_weights"] = np.array([edges, 1 - edges], dtype=object)
    world = World(given, world.graph, world.symbols, labels, (len(labels), 2, 3))
    world.graph = {**world.graph, "sum": lambda w: sum(w["ell"])}
    counts = {"Y": len(labels), "Y_+": sum(labels), "Y_-": len(labels) - sum(labels)}
    world = world.replaced({name: mp.mpf(count) for name, count in counts.items()})
    world.symbols = {
        **world.symbols, "ell": [quantity("sum")], **{name: [quantity(name)] for name in counts}
    }  # fmt: skip
    world.sets = {
        sign: {i for i, label in enumerate(labels) if label == n} for sign, n in (("Y_+", 1), ("Y_-", 0))
    }
    world.first_number = 0
    return world


# -- second derivatives ----------------------------------------------------------------------------


def pairs_world(seed: int, radius: str, psi: str, m: Any) -> World:
    """Single pairs x, w, each with an angle, a radius r(ρ, ω) and a logit z = r ψ(θ), and a direction v."""
    N, D = 2, 3
    radii: dict[str, Callable[[Any, Any, Any], Any]] = {
        "both": lambda rho, omega, s: rho * omega,
        "x_norm": lambda rho, omega, s: rho,
        "s": lambda rho, omega, s: s,
        "w_norm": lambda rho, omega, s: s * omega,  # with α for s
    }
    r = radii[radius]

    def each(function: Callable[[World, int], Any]) -> Callable[[World], Array]:
        return lambda w: np.array([function(w, i) for i in range(N)], dtype=object)

    def derived(by: str) -> Callable[[World], Array]:
        """r_ρ, r_ω and r_ρω."""

        def at(w: World, i: int) -> Any:
            rho, omega = length(w["x"][i]), length(w["w"][i])
            if by == "rho":
                return slope(lambda t: r(t, omega, w["s"]), rho)
            if by == "omega":
                return slope(lambda t: r(rho, t, w["s"]), omega)
            return slope(lambda t: slope(lambda u: r(u, t, w["s"]), rho), omega)

        return each(at)

    def plane(w: World, i: int) -> Array:
        """The projection on what is orthogonal to x and w: from a third vector, made orthogonal to both."""
        x, t = w["x"][i], across(w["x"][i], w["w"][i])
        third = np.cross(x, t)
        return np.outer(unit(third), unit(third))

    def along(name: str, of: str) -> Callable[[World], Array]:
        return each(lambda w, i: sum(w[name][i] * w[of][i]))

    graph: dict[str, Callable[[World], Any]] = {
        "rho": each(lambda w, i: length(w["x"][i])),
        "omega": each(lambda w, i: length(w["w"][i])),
        "x_hat": each(lambda w, i: unit(w["x"][i])),
        "w_hat": each(lambda w, i: unit(w["w"][i])),
        "t_x": each(lambda w, i: unit(across(w["x"][i], w["w"][i]))),
        "t_w": each(lambda w, i: unit(across(w["w"][i], w["x"][i]))),
        "theta": each(lambda w, i: angle_of(w["x"][i], w["w"][i])),
        "c": each(lambda w, i: mp.cos(w["theta"][i])),
        "P": each(plane),
        "r": each(lambda w, i: r(length(w["x"][i]), length(w["w"][i]), w["s"])),
        **{f"r_{by}": derived(by) for by in ("rho", "omega", "rhoomega")},
        **{
            "psi" + "'" * n: each(lambda w, i, n=n: slope(lambda t: PSI[psi](w, t), w["theta"][i], n)) for n in range(3)
        },
        "z": each(lambda w, i: w["r"][i] * w["psi"][i]),
        "k": each(lambda w, i: band(w, w["theta"][i])),
        "a": along("x_hat", "v_x"), "b": along("t_x", "v_x"), "a'": along("w_hat", "v_w"), "b'": along("t_w", "v_w"),
        "rate": lambda w: slope(
            lambda t: w.replaced({"x": w["x"] + t * w["v_x"], "w": w["w"] + t * w["v_w"]})["z"], mp.zero
        ),
    }  # fmt: skip
    rng = np.random.default_rng(seed)
    given = {"x": reals(rng, N, D), "w": reals(rng, N, D), "v_x": reals(rng, N, D), "v_w": reals(rng, N, D)}
    given |= {"s": mp.mpf("1.7"), "m": mp.mpf(m)}
    names = {"hat x": "x_hat", "hat w": "w_hat", "t_x": "t_x", "t_w": "t_w", "x": "x", "w": "w"}
    symbols = {name: [quantity(key, "id")] for name, key in names.items()}
    symbols |= {name: [quantity(name, "i")] for name in graph if name not in {*names.values(), "P", "rate"}}
    symbols |= {
        "P": [quantity("P", "idd")],
        "dot z": [quantity("rate", "i")],
        "s": [quantity("s")],
        "alpha": [quantity("s")],
        "m": [quantity("m")],
    }
    world = World(given, graph, symbols, [0] * N, (N, 1, D))
    world.kinds = {**KINDS, "c": "dimension"}
    world.ranges = {"i": range(N), **dict.fromkeys("abcd", range(D))}
    return world


def curvature_world(seed: int) -> World:
    """Cross-entropy with weights and smoothing, and a direction ż of the logits."""
    world = cross_entropy_world(seed)
    world.graph = {**world.graph, "A": lambda w: w["a"].sum(axis=1)}
    world = world.replaced({"direction": reals(np.random.default_rng(seed), *world.sizes[:2])})
    world.symbols = {name: SYMBOLS[name] for name in ("z", "p", "a", "ell", "L")}
    world.symbols |= {"A": [quantity("A", "i")], "dot z": [quantity("direction", "ij")]}
    return world


# -- a page's own letters --------------------------------------------------------------------------


def plain_world(
    values: dict[str, Any],
    axes: dict[str, str] | None = None,
    ranges: dict[str, Iterable[int]] | None = None,
    functions: dict[str, Callable[..., Any]] | None = None,
    positions: dict[str, Callable[..., int]] | None = None,
    meanings: Iterable[Any] = (),
) -> World:
    """Letters with a value each, and nothing that depends on anything; arrays have `axes`, as in "ij".

    `meanings` are the values of the expressions that stand in the block without an equation, in order.
    """
    axes = axes or {}
    given = {name: mp.mpf(value) if isinstance(value, int) else value for name, value in values.items()}
    symbols = {name: [quantity(name, axes.get(name, ""))] for name in values}
    sizes = {"i": 1, "j": 1, "d": 1}
    for name, letters in axes.items():
        sizes.update(dict(zip(letters, np.shape(values[name]), strict=True)))
    plain = {
        name: (lambda f: lambda w, at, place: f(*at))(function)
        for name, function in (functions or {}).items()
    }
    world = World(
        given, {}, symbols, [0] * sizes["i"], tuple(sizes.values()), plain, positions=positions, ranges=ranges
    )
    world.meanings = list(meanings)
    return world
