r"""Reads the LaTeX of the derivations: `statements(latex)` turns one displayed formula into trees.

What is understood: sums, products by juxtaposition, \cdot (inner product of two vectors), \frac, /, powers, \sqrt,
\sum and \max with a range, norms, sizes, \hat, \top, sin, cos, log, e^…, \psi(…), \partial, \nabla, the
differential d, Kronecker's \delta, vectors (a, b). What only a reader could resolve (two vectors side by side,
a / b c) is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields


class Unreadable(ValueError):
    """The formula is outside the notation that the parser knows, or has a symbol that the world does not know."""


# -- the tree --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Node:
    def children(self) -> Iterator[Node]:
        for field in fields(self):
            value = getattr(self, field.name)
            for part in value if isinstance(value, tuple) else (value,):
                if isinstance(part, Node):
                    yield part


@dataclass(frozen=True)
class Number(Node):
    text: str


@dataclass(frozen=True)
class Symbol(Node):
    """A letter with its accents and primes; subscripts are indices, or part of the name if the world says so."""

    name: str
    subs: tuple[Node, ...] = ()

    @property
    def full_name(self) -> str:
        parts = (part.name if isinstance(part, Symbol) else getattr(part, "text", "?") for part in self.subs)
        return self.name + "_" + "".join(parts) if self.subs else self.name


@dataclass(frozen=True)
class Call(Node):
    """A function or an operation and what it is of: sin, log, psi, norm …; plus, times, dot, over, vector, set, d …"""

    name: str
    arguments: tuple[Node, ...]


@dataclass(frozen=True)
class Range(Node):
    """\\sum or \\max over the letters, where every condition holds; from `first` to `last` if these are given."""

    name: str
    letters: tuple[str, ...]
    conditions: tuple[Node, ...]
    first: Node | None
    last: Node | None
    body: Node


@dataclass(frozen=True)
class Derivative(Node):
    of: Node
    by: tuple[Node, ...]


@dataclass(frozen=True)
class Relation(Node):
    """side, relation, side, relation, side …"""

    sides: tuple[Node, ...]
    relations: tuple[str, ...]


@dataclass(frozen=True)
class Equivalent(Node):
    """Relations joined by \\iff."""

    relations: tuple[Relation, ...]


@dataclass(frozen=True)
class Statement(Node):
    """A chain of relations, or relations joined by \\iff, with the conditions under which it is claimed."""

    relation: Relation | Equivalent
    conditions: tuple[Node, ...] = ()


# -- the parser ------------------------------------------------------------------------------------

_TOKEN = re.compile(
    r"\\(?:mathrm|text|operatorname)\{[^}]*\}|\\[a-zA-Z]+|\\[,;:!% ]|\d+(?:\.\d+)?|[A-Za-z]|\S", re.ASCII
)
_SIZES = {r"\left", r"\right", r"\big", r"\Big", r"\bigl", r"\bigr", r"\Bigl", r"\Bigr", r"\displaystyle"}
_BLANK = {r"\,", r"\;", r"\:", r"\!", r"\ "}
_RELATIONS = {
    "=": "=", r"\ne": "!=", r"\neq": "!=", r"\le": "<=", r"\ge": ">=", r"\lt": "<", r"\gt": ">", r"\approx": "~",
    r"\ni": "contains", r"\in": "in", r"\mapsto": "gives", r"\leftarrow": "becomes", r"\perp": "perp",
    r"\longrightarrow": "tends", r"\to": "tends",
}  # fmt: skip
_GREEK = (
    "alpha beta gamma delta epsilon varepsilon eta theta kappa lambda mu nu pi rho sigma tau varphi phi psi"
    + " ell omega"
)
_LETTERS = {"\\" + name: name for name in _GREEK.split()}
_TRIG = {"\\" + name: name for name in ("sin", "cos", "tan", "cot")}
_FUNCTIONS = _TRIG | {"\\" + name: name for name in ("log", "exp", "arccos", "arcsin", "arctan")}
_PAIRS = {r"\lVert": (r"\rVert", "norm"), r"\lvert": (r"\rvert", "size"), r"\lfloor": (r"\rfloor", "floor"),
          r"\lceil": (r"\rceil", "ceil")}  # fmt: skip
_ACCENTS = {r"\hat": "hat", r"\tilde": "tilde", r"\bar": "bar", r"\dot": "dot"}
_CLOSING = {r"\iff", ")", "]", "}", ",", ";", ":", r"\rbrace", r"\quad", r"\qquad", "+", "-", "/", r"\cdot", r"\times",
            *_RELATIONS, *(closing for closing, _ in _PAIRS.values())}  # fmt: skip
_SEPARATORS = {",", ";", ".", r"\quad", r"\qquad"}
_ANGLES = {r"\theta", r"\varphi", r"\phi", r"\pi"}
_COEFFICIENTS = {"m", "k", "n"}
_CALLABLE = {"psi", "psi'", "psi''", "D", "D'"}
# names that are words on the pages, not separators between statements
_WORDS = {"upstream", "loss"}


def tokens_of(latex: str) -> list[str]:
    return [token for token in _TOKEN.findall(latex) if token not in _SIZES and token not in _BLANK]


class Parser:
    def __init__(self, latex: str) -> None:
        self.tokens = tokens_of(latex)
        self.at = 0

    # tokens

    @property
    def next(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self, expected: str = "") -> str:
        token = self.next
        if not token or (expected and token != expected):
            here = " ".join(self.tokens[max(0, self.at - 4) : self.at + 3])
            raise Unreadable(f"expected {expected or 'more'}, got {token or 'the end'} at: {here}")
        self.at += 1
        return token

    def accept(self, token: str) -> bool:
        if self.next == token:
            self.at += 1
            return True
        return False

    # statements

    def statements(self) -> list[Statement]:
        """Conditions in brackets hold for what stands before them, back to the last \\qquad or semicolon."""
        found: list[Statement] = []
        joined = 0  # statements since then
        while self.next:
            if self.next in {";", r"\qquad"}:
                joined = 0
            if self.next == r"\iff" and joined:
                self.take()
                while self.next in {r"\quad", r"\qquad"}:
                    self.take()
                last = found[-1].relation
                before = last.relations if isinstance(last, Equivalent) else (last,)
                found[-1] = Statement(Equivalent((*before, self.relation())))
            elif self.next in _SEPARATORS or self._is_separating_text():
                self.take()
            elif self.next == "(" and joined and self._group_is_condition():
                self.take("(")
                conditions = self.listed(self.relation)
                found[-joined:] = [Statement(one.relation, one.conditions + conditions) for one in found[-joined:]]
            else:
                found.append(Statement(self.relation()))
                joined += 1
                if self.next and self.next not in {*_SEPARATORS, r"\iff"} and not self._is_separating_text():
                    raise Unreadable(f"cannot go on at {self.next!r}")
        return found

    def _is_separating_text(self) -> bool:
        return self.next.startswith(r"\text{") and self.next[6:-1] not in _WORDS

    def _group_is_condition(self) -> bool:
        depth = 0
        for token in self.tokens[self.at :]:
            depth += (token == "(") - (token == ")")
            if depth == 1 and token in _RELATIONS:
                return True
            if depth == 0:
                return False
        return False

    def relation(self) -> Relation:
        sides, relations = [self.expression()], []
        while self.next in _RELATIONS:
            relations.append(_RELATIONS[self.take()])
            sides.append(self.expression())
            if relations[-1] == "=" and self.tokens[self.at : self.at + 2] == [",", r"\ldots"]:
                # k = 0, \ldots, m - 1
                self.take(), self.take(), self.take(",")
                sides[-1] = Call("range", (sides[-1], self.expression()))
                relations[-1] = "in"
        return Relation(tuple(sides), tuple(relations))

    # expressions

    def expression(self) -> Node:
        if self.accept("-"):
            value: Node = Call("negative", (self.term(),))
        else:
            self.accept("+")
            value = self.term()
        return self.sum(value, self.term)

    def sum(self, value: Node, item: Callable[[], Node]) -> Node:
        while self.next and self.next in "+-":
            sign, right = self.take(), item()
            value = Call("plus", (value, Call("negative", (right,)) if sign == "-" else right))
        return value

    def term(self) -> Node:
        value = self.factor()
        divided = False
        while True:
            if self.accept(r"\cdot"):
                value = Call("dot", (value, self.factor()))
                divided = False
            elif self.accept(r"\times"):
                value = Call("times", (value, self.factor()))
            elif self.accept("/"):
                if divided:
                    raise Unreadable("a / b / c: use \\frac or parentheses")
                value = Call("over", (value, self.factor()))
                divided = True
            elif self.next and self.next not in _CLOSING and self.next != "." and not self._is_separating_text():
                if divided:
                    raise Unreadable("a / b c: use \\frac or parentheses")
                value = Call("times", (value, self.factor()))
            else:
                return value

    def factor(self) -> Node:
        value = self.base()
        while self.accept("^"):
            if self.accept(r"\top"):
                value = Call("transposed", (value,))
            else:
                value = Call("power", (value, self.argument()))
        return value

    def argument(self) -> Node:
        """{…}, or one token."""
        if self.accept("{"):
            value = self.expression()
            self.take("}")
            return value
        if self.next[:1].isdigit() and len(self.next) > 1:
            raise Unreadable(f"braces around {self.next}: without them LaTeX takes the first digit")
        return self.base()

    def base(self) -> Node:
        token = self.take()
        if token[0].isdigit():
            return Number(token)
        if token == "(":
            entries = self.listed()
            return entries[0] if len(entries) == 1 else Call("vector", entries)
        if token == "{":
            value = self.expression()
            self.take("}")
            return value
        if token == r"\lbrace":
            members: list[Node] = []
            while not self.accept(r"\rbrace"):
                if self.next in {",", r"\quad", r"\qquad"}:
                    self.take()
                else:
                    members.append(self.expression())
            return Call("set", tuple(members))
        if token in _PAIRS:
            closing, name = _PAIRS[token]
            value = self.expression()
            self.take(closing)
            return Call(name, (value,))
        if token == r"\frac":
            return self.fraction()
        if token == r"\sqrt":
            return Call("sqrt", (self.argument(),))
        if token in {r"\sum", r"\max", r"\min"} and self.next == "_":
            return self.range_over(token[1:])
        if token in {r"\max", r"\min"} and self.next == "(":
            return Call(token[1:], self.arguments())
        if token == r"\partial":  # \partial L / \partial x
            of = self.factor()
            self.take("/")
            self.take(r"\partial")
            return Derivative(of, (self.factor(),))
        if token == r"\nabla":
            order = int(text_of(self.argument())) if self.accept("^") else 1
            if order not in {1, 2}:
                raise Unreadable(f"\\nabla^{order}")
            self.take("_")
            by = self.argument()
            return Derivative(self.factor(), (by,) * order)
        if token in _FUNCTIONS:
            return self.function(token)
        if token.startswith((r"\mathrm{", r"\operatorname{")):
            return Call(token[token.index("{") + 1 : -1], self.arguments())
        if token.startswith(r"\text{"):
            return Symbol(token[6:-1])
        if token == "e" and self.next == "^":
            self.take("^")
            return Call("exp", (self.argument(),))
        if token == "d" and (self.next in {r"\hat", r"\lVert", *_LETTERS} or self.next in set("vxwWb")):
            return Call("d", (self.base(),))
        return self.symbol(token)

    def symbol(self, token: str) -> Node:
        if token in _ACCENTS:
            braces = self.accept("{")
            name = f"{_ACCENTS[token]} {self._letter(self.take())}"
            if braces:
                self.take("}")
        else:
            name = self._letter(token)
        while self.accept("'"):
            name += "'"
        subs: tuple[Node, ...] = ()
        if self.accept("_"):
            subs = self.subscript()
        while self.accept("'"):
            name += "'"
        if not subs and name in _CALLABLE and self.next == "(":
            return Call(name, self.arguments())
        if subs and name in {"T", "T'"} and self.next == "(":  # Chebyshev's T_m(c)
            return Call(name, (*subs, *self.arguments()))
        return Symbol(name, subs)

    def _letter(self, token: str) -> str:
        if token in _LETTERS:
            return _LETTERS[token]
        if re.fullmatch("[A-Za-z]", token):
            return token
        raise Unreadable(f"unknown symbol {token!r}")

    def subscript(self) -> tuple[Node, ...]:
        if not self.accept("{"):  # no prime belongs to it: T_m'
            token = self.take()
            if token[0].isdigit():
                return (Number(token),)
            return (Symbol("max" if token == r"\max" else self._letter(token)),)
        parts: list[Node] = []
        while not self.accept("}"):
            if self.accept(","):
                continue
            parts.append(self.sum(self.index(), self.index))
        return tuple(parts)

    def index(self) -> Node:
        token = self.take()
        if token[0].isdigit():
            return Number(token)
        if token == r"\max":
            return Symbol("max")
        if token in {"+", "-"} and self.next == "}":  # Y_{+}
            return Symbol(token)
        return self.symbol(token)

    def arguments(self) -> tuple[Node, ...]:
        self.take("(")
        return self.listed()

    def listed(self, item: Callable[[], Node] | None = None) -> tuple[Node, ...]:
        """What stands up to the closing bracket, between commas."""
        item = item or self.expression
        found = [item()]
        while self.accept(","):
            found.append(item())
        self.take(")")
        return tuple(found)

    def function(self, token: str) -> Node:
        """\\cos m\\theta, \\cos(k+1)\\theta, \\sin^2\\theta, \\log p_c: how far an argument without brackets goes."""
        name = _FUNCTIONS[token]
        power = None
        if name == "log" and self.accept("_"):
            self.take("2")
            name = "log2"
        if self.accept("^"):
            power = self.argument()
        trig = token in _TRIG
        coefficients: list[Node] = []
        if trig:
            while self.next == "(" or self.next in _COEFFICIENTS or self.next[:1].isdigit():
                coefficients.append(self.base())
                if self.next in _ANGLES and any(_has_angle(part) for part in coefficients):
                    break  # \cos(\theta + m)\theta is a product, if anything
        if not coefficients or (trig and self.next in _ANGLES and not _has_angle(coefficients[0])):
            argument = self.base()
            for coefficient in reversed(coefficients):
                argument = Call("times", (coefficient, argument))
        elif len(coefficients) == 1:
            argument = coefficients[0]
        else:
            raise Unreadable(f"how far does the argument of {token} go?")
        value: Node = Call(name, (argument,))
        return value if power is None else Call("power", (value, power))

    def fraction(self) -> Node:
        start, upper = self.at, self.tokens[self.at + 1]
        if upper in {r"\partial", "d"}:
            try:
                return self.derivative()
            except Unreadable:
                if upper != "d":
                    raise
                self.at = start  # d is a letter here
        return Call("over", (self.argument(), self.argument()))

    def derivative(self) -> Node:
        self.take("{")
        mark = self.take()
        order = int(text_of(self.argument())) if self.accept("^") else 1
        of = None if self.next == "}" else self.expression()
        self.take("}")
        self.take("{")
        by: list[Node] = []
        while not self.accept("}"):
            self.take(mark)
            match self.factor():
                case Call("power", (base, times)):
                    by += [base] * int(text_of(times))
                case part:
                    by.append(part)
        if len(by) != order:
            raise Unreadable(f"a derivative of order {order} by {len(by)} things")
        return Derivative(self.factor() if of is None else of, tuple(by))

    def range_over(self, name: str) -> Node:
        self.take("_")
        letters: list[str] = []
        conditions: list[Node] = []
        first = last = None
        if self.accept("{"):
            while re.fullmatch("[a-z]", self.next):
                letters.append(self.take())
                self.accept(",")
            if self.accept(":"):
                conditions.append(self.relation())
            elif self.next == "=":
                self.take("=")
                first = self.expression()
            elif self.next in _RELATIONS:
                self.at -= 1
                conditions.append(self.index_relation())
                if conditions == [Relation((Symbol("i"), Symbol("j")), ("!=",))]:
                    letters.append("j")  # i \ne j: all pairs; j \ne i: all j but i
            self.take("}")
        else:
            letters.append(self.take())
        if self.accept("^"):
            last = self.argument()
        if (first is None) != (last is None):
            raise Unreadable(f"\\{name} from … or to … alone")
        body = self.term()
        return Range(name, tuple(letters), tuple(conditions), first, last, body)

    def index_relation(self) -> Relation:
        left = self.index()
        relation = _RELATIONS[self.take()]
        return Relation((left, self.index()), (relation,))


def text_of(node: Node) -> str:
    if not isinstance(node, Number):
        raise Unreadable("an order that is no number")
    return node.text


def _has_angle(node: Node) -> bool:
    if isinstance(node, Symbol) and node.name in {"theta", "varphi", "phi", "pi"}:
        return True
    return any(_has_angle(child) for child in node.children())


def statements(latex: str) -> list[Statement]:
    """The statements of one displayed formula."""
    parser = Parser(latex)
    found = parser.statements()
    if not found:
        raise Unreadable("nothing there")
    return found
