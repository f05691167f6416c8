"""Evaluates trees of latex.py, at many digits, in a world that knows the symbols.

The world (worlds.py) says what the symbols mean and how they depend on each other. Nothing here knows a derivative:
∂A/∂B is the central difference of A when B, and nothing before B, is moved.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import mpmath
import numpy as np

from pages.latex import (
    Call,
    Derivative,
    Equivalent,
    Node,
    Number,
    Range,
    Relation,
    Statement,
    Symbol,
    Unreadable,
    text_of,
)

mp = mpmath.MPContext()
mp.dps = 60
# Central differences are off by about STEP² = 1e-36 and by 1e-60 / STEP = 1e-42 of rounding; the second derivative
# by 1e-60 / STEP² = 1e-24. TOLERANCE, relative to 1 + the sizes, leaves room for factors in front of these.
STEP = mp.mpf(10) ** -18
TOLERANCE = mp.mpf(10) ** -20


IDENTITY = "the identity matrix, of any size"


def array(values: Iterable[Any]) -> np.ndarray:
    """Of numbers with 60 digits; of rows, a matrix."""
    return np.array(list(values), dtype=object)


def slope(function: Callable[[Any], Any], at: Any = mp.zero, order: int = 1) -> Any:
    """The central difference, of numbers or arrays."""
    if order == 0:
        return function(at)
    return (slope(function, at + STEP, order - 1) - slope(function, at - STEP, order - 1)) / (2 * STEP)


def is_vector(value: Any) -> bool:
    return np.ndim(value) == 1


def is_number(value: Any) -> bool:
    return not isinstance(value, np.ndarray | str)


def multiply(left: Any, right: Any) -> Any:
    """Of arrays by their shapes; a transposed vector is a matrix of one row."""
    if isinstance(left, str) or isinstance(right, str):
        raise Unreadable("I stands alone, without a difference around it")
    if is_number(left) or is_number(right):
        return left * right
    if is_vector(left):
        if is_vector(right) or len(right) != 1:
            raise Unreadable("a product of two vectors needs \\cdot or ^\\top")
        return np.outer(left, right)
    product = left @ right
    return product[0] if product.shape == (1,) else product


def dot(left: Any, right: Any) -> Any:
    if is_vector(left) and is_vector(right):
        return left @ right
    if is_number(left) or is_number(right):
        return multiply(left, right)
    raise Unreadable("\\cdot between things that have no inner product")


def divide(left: Any, right: Any) -> Any:
    if not is_number(right):
        raise Unreadable("divided by something that is no number")
    return multiply(left, 1 / right)


def add(left: Any, right: Any) -> Any:
    for one, other in ((left, right), (right, left)):
        if isinstance(one, str) and np.ndim(other) == 2:
            return other + np.diag([mp.one] * len(other))
    if np.shape(left) != np.shape(right) or isinstance(left, str) or isinstance(right, str):
        raise Unreadable("a sum of things of different shapes")
    return left + right


def power(base: Any, exponent: Any) -> Any:
    if is_vector(base) and is_number(exponent) and exponent == 2:
        raise Unreadable("the square of a vector")
    if not is_number(base) or not is_number(exponent):
        raise Unreadable("a power of or by something that is no number")
    return base ** int(exponent) if exponent == int(exponent) else base**exponent


def transposed(value: Any) -> Any:
    if not is_vector(value):
        raise Unreadable("\\top on something that is no vector")
    return value[None]


OPERATORS: dict[str, Callable[..., Any]] = {
    "plus": add, "times": multiply, "dot": dot, "over": divide, "power": power, "transposed": transposed,
    "negative": lambda value: multiply(-1, value), "vector": lambda *entries: array(entries),
    "max": lambda *values: max(values), "min": lambda *values: min(values),
}  # fmt: skip
OF_VECTORS: dict[str, Callable[[np.ndarray], Any]] = {
    "norm": lambda row: mp.sqrt(row @ row),
    "softmax": lambda row: array(map(mp.exp, row)) / sum(map(mp.exp, row)),
    "diag": np.diag,
}
OF_NUMBERS: dict[str, Callable[..., Any]] = {
    **{
        name: getattr(mp, name) for name in ("sin", "cos", "tan", "cot", "log", "exp", "sqrt", "floor", "ceil", "atan2")
    },
    "arccos": mp.acos,
    "arcsin": mp.asin,
    "arctan": mp.atan,
    "log2": lambda value: mp.log(value) / mp.log(2),
    "size": abs,
}


def largest(value: Any) -> Any:
    return max((abs(entry) for entry in np.ravel(value)), default=mp.zero) if np.ndim(value) else abs(value)


def close(left: Any, right: Any, tolerance: Any = TOLERANCE) -> bool:
    """Equal to TOLERANCE, relative to 1 + the sizes; numbers in the worlds have sizes around 1."""
    if isinstance(left, str) or isinstance(right, str):
        return False
    if np.ndim(left) and is_number(right) and right == 0:
        right = 0 * left  # v = 0 for the zero vector
    if np.shape(left) != np.shape(right):
        return False
    off, size = largest(left - right), 1 + largest(left) + largest(right)
    return bool(mp.isfinite(off) and mp.isfinite(size) and off <= tolerance * size)


def as_integer(value: Any) -> int:
    nearest = int(mp.nint(value))
    if abs(value - nearest) > TOLERANCE:
        raise Unreadable("an index that is no integer")
    return nearest


def resolution(node: Node) -> Any:
    """Half a unit in the last digit shown, entry by entry for a vector; None for what is no decimal number."""
    match node:
        case Number(text):
            return mp.mpf(10) ** -len(text.partition(".")[2]) / 2
        case Call("negative", (of,)):
            return resolution(of)
        case Call("times" | "dot", (left, Call("power", (Number("10"), exponent)))):  # 1.23 \\cdot 10^{-4}
            step = resolution(left)
            sign, digits = (-1, exponent.arguments[0]) if isinstance(exponent, Call) else (1, exponent)
            return None if step is None else step * mp.mpf(10) ** (sign * int(text_of(digits)))
        case Call("vector", entries):
            steps = [resolution(entry) for entry in entries]
            return None if None in steps else array(steps)
    return None


# -- the evaluator ---------------------------------------------------------------------------------


class Evaluator:
    """Values and verdicts in one world. `place` maps index letters to integers, from 0."""

    def __init__(self, world: Any) -> None:
        self.world = world

    # indices

    def index(self, node: Node, place: dict[str, int]) -> Any:
        """A position: a letter that is bound, or a symbol like y that the world can place; None otherwise."""
        if isinstance(node, Symbol):
            if not node.subs and node.name in place:
                return place[node.name]
            if node.name in self.world.positions:
                inner = dict(place)
                for part in node.subs:  # y_i: the label of sample i
                    inner["i"] = self.index(part, place)
                if inner.get("i") not in self.world.ranges["i"]:
                    raise Unreadable(f"{node.name} of no sample")
                return self.world.positions[node.name](self.world, inner)
        return None

    def letters(self, node: Node, bare: bool = False) -> set[str]:
        """The free index letters, those that no sum binds: in subscripts, and where `bare` outside of them, too."""
        found: set[str] = set()
        if isinstance(node, Symbol) and not node.subs:
            bound = node.name not in self.world.ranges or node.name in self.world.positions
            return found if bound or not bare else {node.name}
        if isinstance(node, Symbol) and self.world.knows(node.full_name):
            return found
        bare = bare or isinstance(node, Symbol)  # k - 1 in a subscript
        for child in node.children():
            found |= self.letters(child, bare or (isinstance(node, Range) and child in node.conditions))
        return found - set(node.letters) if isinstance(node, Range) else found

    def places(self, statement: Statement) -> Iterator[dict[str, int]]:
        free = self.letters(statement.relation)
        for condition in statement.conditions:
            free |= self.letters(condition, bare=True)
        free |= {"i"} & set(self.world.ranges)  # x alone means x_i
        names = sorted(free)
        for values in itertools.product(*(self.world.ranges[name] for name in names)):
            place = dict(zip(names, values, strict=True))
            if all(self.holds(condition, place) for condition in statement.conditions):
                yield place

    # values

    def value(self, node: Node, place: dict[str, int]) -> Any:
        match node:
            case Number(text):
                return mp.mpf(text)
            case Symbol():
                return self.symbol(node, place)
            case Call("d", (of,)):
                return self.differential(of, place)
            case Call(name, arguments):
                return self.call(name, [self.value(argument, place) for argument in arguments], place)
            case Range():
                return self.over_range(node, place)
            case Derivative(of, by):
                return self.derivative(of, by, place)
        raise Unreadable(f"no value: {type(node).__name__}")

    def symbol(self, node: Symbol, place: dict[str, int]) -> Any:
        world = self.world
        if node.name == "pi" and not node.subs:
            return +mp.pi
        if node.name == "I" and not node.subs:
            return IDENTITY
        if node.name == "delta" and len(node.subs) == 2 and not world.knows("delta"):
            one, other = (self.index(part, place) for part in node.subs)
            return mp.mpf(one == other)
        name, subs = node.name, node.subs
        for length in range(len(subs), 0, -1):  # t_x, \psi_c: the subscript belongs to the name
            whole = Symbol(name, subs[:length]).full_name
            plain = not any(isinstance(part, Symbol) and part.subs for part in subs[:length])
            if plain and world.knows(whole):
                name, subs = whole, subs[length:]
                break
        if not subs and name in place:  # a letter that is an index here, as k in 2 P u_{k-1}
            return mp.mpf(place[name])
        if not world.knows(name):
            raise Unreadable(f"the world does not know {node.full_name}")
        if name in world.sequences:
            (part,) = subs
            position = self.index(part, place)
            return world.sequences[name](
                world, as_integer(self.value(part, place)) if position is None else position, place
            )
        quantity, index = self.locate(name, subs, place)
        array = world[quantity.key]
        return array[index] if quantity.axes else array

    def locate(self, name: str, subs: tuple[Node, ...], place: dict[str, int]) -> tuple[Any, tuple[Any, ...]]:
        """The quantity and where in it: each subscript goes to its axis, an absent sample is the one in place."""
        kinds = [self.kind(part) for part in subs]
        for quantity in self.world.quantities(name):
            index = self.fit(quantity, subs, kinds, place)
            if index is not None:
                return quantity, index
        raise Unreadable(f"indices of {name}: {', '.join(map(str, kinds)) or 'none'}")

    def kind(self, part: Node) -> str:
        if isinstance(part, Number):
            return "number"
        if isinstance(part, Symbol) and part.name in self.world.kinds:
            return self.world.kinds[part.name]
        raise Unreadable("an index that is no letter")

    def fit(self, quantity: Any, subs: tuple[Node, ...], kinds: list[str], place: dict[str, int]) -> Any:
        index: list[Any] = []
        rest = list(zip(subs, kinds, strict=True))
        for axis in quantity.axes:
            if rest and rest[0][1] == axis:
                index.append(self.index(rest.pop(0)[0], place))
            elif rest and rest[0][1] == "number" and (axis != "i" or self.world.numbered_samples):
                number = int(text_of(rest.pop(0)[0])) - self.world.first_number
                index.append(number if number in range(self.world.sizes[axis]) else None)
            elif axis == "i":
                if "i" not in place:
                    raise Unreadable("a sample is missing")
                index.append(place["i"])
            elif axis == "j" and quantity.default is not None:
                index.append(self.index(Symbol(quantity.default), place))
            else:
                index.append(slice(None))
        return None if rest or None in index else tuple(index)

    def call(self, name: str, values: list[Any], place: dict[str, int]) -> Any:
        if name in {"psi", "psi'", "psi''"} and not is_number(values[0]):
            # \psi' (a matrix) is a product
            return multiply(self.symbol(Symbol(name), place), values[0])
        if name in self.world.functions:
            return self.world.functions[name](self.world, values, place)
        if name in OPERATORS:
            return OPERATORS[name](*values)
        if name in OF_VECTORS and is_vector(values[0]):
            return OF_VECTORS[name](values[0])
        if name not in OF_NUMBERS or not all(is_number(value) for value in values):
            raise Unreadable(f"{name} of these arguments")
        if (name in {"sqrt", "log"} and values[0] < 0) or (name in {"arccos", "arcsin"} and abs(values[0]) > 1):
            raise ArithmeticError(f"{name} outside its domain")
        return OF_NUMBERS[name](*values)

    def over_range(self, node: Range, place: dict[str, int]) -> Any:
        terms = [self.value(node.body, inner) for inner in self.range_of(node, place)]
        if node.name == "sum":
            if not terms:
                return mp.zero  # an empty sum; close() takes it for a zero vector, too
            return functools.reduce(add, terms)
        return {"max": max, "min": min}[node.name](terms)

    def range_of(self, node: Range, place: dict[str, int]) -> Iterator[dict[str, int]]:
        if node.first is not None and node.letters[0] in self.world.kinds:
            # c = 1 … C is all classes, and nothing else
            (letter,) = node.letters
            first, last = self.value(node.first, place), self.value(node.last, place)
            if (first, last) != (1, len(self.world.ranges[letter])):
                raise ArithmeticError("a sum that misses some of its range")
            ranges = [self.world.ranges[letter]]
        elif node.first is not None:
            first, last = as_integer(self.value(node.first, place)), as_integer(self.value(node.last, place))
            ranges = [range(first, last + 1)]
        else:
            try:
                ranges = [self.world.ranges[letter] for letter in node.letters]
            except KeyError as unknown:
                raise Unreadable(f"the range of {unknown}") from None
        for values in itertools.product(*ranges):
            inner = {**place, **dict(zip(node.letters, values, strict=True))}
            if all(self.holds(condition, inner) for condition in node.conditions):
                yield inner

    # derivatives

    def derivative(self, of: Node, by: tuple[Node, ...], place: dict[str, int]) -> Any:
        known = self.world.derivatives
        key: Any = (of, by, tuple(sorted(place.items())))
        if of == Symbol("L") and len(by) == 1:  # L depends on no index; anything else may depend on all of them
            key = str(self.mover(by[0], place))
        if key not in known:
            known[key] = self.difference(of, by, place)
        return known[key]

    def difference(self, of: Node, by: tuple[Node, ...], place: dict[str, int]) -> Any:
        key, index, size = self.mover(by[0], place)

        def along(*where: Any) -> Any:
            def value(step: Any) -> Any:
                there = Evaluator(self.world.moved(key, where, step / size))
                return there.difference(of, by[1:], place) if by[1:] else there.value(of, place)

            return slope(value)

        if slice(None) not in index:
            return along(*index)
        axis = index.index(slice(None))
        columns = [along(*index[:axis], n, *index[axis + 1 :]) for n in range(self.world[key].shape[axis])]
        # the Jacobian of a vector has a row for each of its entries; ∇_x ∇_w f has the entries ∂²f / ∂x_a ∂w_b
        found = array(columns)
        return found.T if is_vector(columns[0]) and not isinstance(of, Derivative) else found

    def mover(self, node: Node, place: dict[str, int]) -> tuple[str, tuple[Any, ...], Any]:
        """What a ∂ moves, by the step over a number: a quantity with its indices, or a length, or a cosine."""
        match node:
            case Call("times" | "dot", (left, right)):
                size = self.value(left, place)
                if not is_number(size):
                    raise Unreadable("∂ by a product")
                return (*self.mover(right, place)[:2], size)
            case Call("cos", (Symbol() as angle,)):
                return "cos", self.mover(angle, place)[1], mp.one
            case Call("norm", (Symbol("x" | "W" as letter, subs),)):
                node = Symbol(f"{letter}_norm", subs or ((Symbol("y"),) if letter == "W" else ()))
        if not isinstance(node, Symbol):
            raise Unreadable("∂ by something that is no quantity")
        if not self.world.knows(node.name):
            raise Unreadable(f"the world does not know {node.name}")
        quantity, index = self.locate(node.name, node.subs, place)
        if quantity.key not in self.world.given and quantity.key not in self.world.graph:
            raise Unreadable(f"∂ by {node.name}: nothing depends on it in this world")
        if index.count(slice(None)) > 1:
            raise Unreadable("∂ by a matrix")
        return quantity.key, index, mp.one

    def differential(self, of: Node, place: dict[str, int]) -> Any:
        """dA: what A does when the world's variable moves along its direction."""
        key, direction = self.world.direction

        def value(step: Any) -> Any:
            return Evaluator(self.world.replaced({key: self.world[key] + step * direction})).value(of, place)

        return slope(value)

    # verdicts

    def holds(self, relation: Node, place: dict[str, int]) -> bool:
        if isinstance(relation, Equivalent):
            return len({self.holds(one, place) for one in relation.relations}) == 1
        return all(self.compare(left, name, right, place) for left, name, right in links(relation))

    def compare(self, left: Node, name: str, right: Node, place: dict[str, int]) -> bool:
        if name in {"=", "!=", "in"}:
            positions = [self.index(side, place) for side in (left, right)]
            if name == "in" and isinstance(right, Symbol) and right.full_name in self.world.sets:
                return positions[0] in self.world.sets[right.full_name]
            if None not in positions:
                return (positions[0] == positions[1]) is (name == "=")
        if name == "in":
            return self.is_element(left, right, place)
        if name == "gives":
            return self.depends(left, right, place)
        if name == "tends":
            return bool(self.world.near) and all(
                close(*(Evaluator(there).value(side, place) for side in (left, right)), self.world.nearness)
                for there in self.world.near
            )
        here = self.value(left, place)
        if name == "becomes":
            # what it becomes is in the world after the step
            here = Evaluator(self.world.after or self.world).value(left, place)
        there = self.value(right, place)
        if name in {"=", "becomes"}:
            return close(here, there)
        if name == "~":
            step = resolution(right)
            if step is None and self.world.near:
                return self.alike(left, right, place)
            if step is None:
                raise Unreadable("\\approx something that is no decimal number, in a world without a limit")
            step = np.where(np.equal(step, 0.5), TOLERANCE, step)  # a whole number, or 0 in a vector, is exact
            return np.shape(here) == np.shape(there) and largest((here - there) / step) <= 1
        if name == "perp":
            return is_vector(here) and is_vector(there) and close(here @ there, mp.zero)
        if not (is_number(here) and is_number(there)):
            raise Unreadable(f"{name} between things that are no numbers")
        if name == "!=":
            return not close(here, there)
        # an equality that is meant may miss by the rounding of 60 digits
        slack = TOLERANCE**2 * (abs(here) + abs(there))
        return {"<=": here <= there + slack, ">=": here >= there - slack, "<": here < there, ">": here > there}[name]

    def alike(self, left: Node, right: Node, place: dict[str, int]) -> bool:
        """≈ where a limit is near: to `nearness` of themselves."""
        for there in self.world.near:
            here, other = (Evaluator(there).value(side, place) for side in (left, right))
            if not abs(here - other) <= self.world.nearness * max(abs(here), abs(other)):
                return False
        return True

    def is_element(self, left: Node, right: Node, place: dict[str, int]) -> bool:
        here = self.value(left, place)
        if isinstance(right, Call) and right.name == "range":
            first, last = (as_integer(self.value(side, place)) for side in right.arguments)
            return as_integer(here) in range(first, last + 1)
        if isinstance(right, Call) and right.name == "set":
            return any(close(here, self.value(entry, place)) for entry in right.arguments)
        raise Unreadable("\\in this")

    def depends(self, left: Node, right: Node, place: dict[str, int]) -> bool:
        """A ↦ B: B moves with A; and with A fixed, nothing before A moves B."""
        if not isinstance(left, Symbol):
            raise Unreadable("\\mapsto from something that is no symbol")
        key = self.world.quantities(left.name)[0].key
        moved = self.world.replaced({key: self.world.disturbed(key)})
        inputs = self.world.inputs - {key}
        fixed = {key: self.world[key]} | {name: self.world.disturbed(name) for name in inputs}
        before = self.value(right, place)
        after = Evaluator(self.world.replaced(fixed)).value(right, place)
        return close(before, after) and not close(before, Evaluator(moved).value(right, place))


def links(relation: Relation) -> Iterator[tuple[Node, str, Node]]:
    """Side, relation, side; what follows a limit in a chain is claimed in the limit, too: A → B = C."""
    names = list(relation.relations)
    if "tends" in names:
        start = names.index("tends")
        names[start:] = ["tends"] * len(names[start:])
    yield from zip(relation.sides, names, relation.sides[1:], strict=False)
