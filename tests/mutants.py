"""Wrong copies of refloss' own backward passes, made from their source one change at a time.

Every assignment, every `+=`-like statement and every returned gradient of a backward function is changed in turn:
its sign, a factor, 0.05 %, lost altogether. To these come the mistakes that a person makes, each at the one place of
the source that its pattern fits.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import itertools
import sys
import textwrap
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import refloss
from refloss.losses import LOSSES
from refloss.steps import angle, cross_entropy, linear, margin, normalise, psi

CHANGES = {"sign": -1.0, "0.05 %": 1.0005, "doubled": 2.0, "lost": 0.0}


@dataclass(frozen=True)
class Mutant:
    """`owner` is a loss class or a steps module; `function` its function; `source` the changed source of it.

    `missing` says why there is no such source: a mistake by hand whose place is not found.
    """

    name: str
    owner: object
    function: str
    source: str
    missing: str = ""


# (loss name or steps module, function, what stands there, what a mistake would put, what the mistake is).
# An expression or a statement; terms and factors may stand in any order. A name that the function does not have stands
# for whatever is there, so that a local name may change.
BY_HAND = [
    ("softmax", "backward_logits", "linear_backward(g, kept.x.v, kept.W.v)", "linear_backward(g, kept.x.v, kept.W.v[::-1])", "W reversed"),
    ("w_norm_softmax", "backward_logits", "normalise_backward(grad_W_hat, kept.W.norm, kept.W.hat)", "grad_W_hat", "no ŵ"),
    ("w_norm_softmax", "backward_logits", "combine(g, kept.W.hat)", "combine(g, kept.W.v)", "W for ŵ"),
    ("w_norm_softmax", "backward_logits", "kept.x.norm[:, None] * g", "g", "‖x‖ forgotten"),
    ("l2_softmax", "backward_logits", "self.alpha * u", "u", "α forgotten in x"),
    ("l2_softmax", "backward_logits", "g * kept.W.norm", "g", "‖W‖ forgotten in x"),
    ("l2_softmax", "backward_logits", "combine(g.T, self.alpha * kept.x.hat)", "combine(g.T, kept.x.hat)", "α forgotten in W"),
    ("l2_softmax", "backward_logits", "np.sum(g * kept.along)", "np.sum(g * kept.along) / len(g)", "α averaged"),
    ("l_softmax", "backward_logits", "linear_backward(g_others, kept.x.v, kept.W.v)", "linear_backward(g, kept.x.v, kept.W.v)", "target twice"),
    ("l_softmax", "backward_logits", "g_y * x_norm * kept.psi.value", "g_y * w_norm * kept.psi.value", "norms swapped in W"),
    ("l_softmax", "backward_logits", "g_y * w_norm * kept.psi.slope", "g_y * kept.psi.slope", "‖W‖ forgotten"),
    ("a_softmax", "backward_logits", "(g_y * kept.psi.value)[:, None] * kept.x.hat[rows]", "0.0", "radial part lost"),
    ("a_softmax", "backward_logits", "normalise_backward(grad_W_hat, kept.W.norm, kept.W.hat)", "grad_W_hat / kept.W.norm[:, None]", "no projection"),
    ("f_norm_sphereface", "backward_logits", "s * g_y * kept.psi.slope", "g_y * kept.psi.slope", "s forgotten at the target"),
    ("f_norm_sphereface", "backward_logits", "g * kept.logits", "(g - g_others) * kept.logits", "s: off-target terms lost"),
    ("am_softmax", "backward_logits", "s * g_others", "s * g", "target twice"),
    ("am_softmax", "backward_logits", "s * g_others", "0 * g_others", "off-target terms lost"),
    ("am_softmax", "backward_logits", "np.sum(g * kept.logits) / s", "np.sum(g * kept.logits) / s + np.sum(g_y) * self.margin", "s without margin"),
    ("am_softmax", "backward_logits", "add_at_pairs(grad_x, grad_W, kept.pairs, pair_x, pair_W)", "None", "target term lost"),
    ("arcface", "backward_logits", "kept.psi.slope", "-np.sin(kept.angles.theta)", "margin detached"),
    ("arcface", "backward_logits", "kept.psi.in_margin", "kept.psi.slope * s", "m scaled twice"),
    ("arcface", "backward_logits", "add_at_pairs(grad_x, grad_W, kept.pairs, pair_x, pair_W)",
     "(grad_x.__setitem__(kept.pairs.rows, grad_x[kept.pairs.rows] + pair_x), grad_W.__setitem__(kept.pairs.y, grad_W[kept.pairs.y] + pair_W))", "duplicates overwritten"),
    ("arcface", "backward_logits", "normalise_backward(grad_x_hat, kept.x.norm, kept.x.hat)", "grad_x_hat / kept.x.norm[:, None]", "no projection of x"),
    ("arcface", "backward_logits", "normalise_backward(grad_W_hat, kept.W.norm, kept.W.hat)", "grad_W_hat / kept.W.norm[:, None]", "no projection of W"),
    (normalise, "normalise_backward", "across(grad_unit, unit)", "grad_unit", "projection lost"),
    (normalise, "across", "v - unit * np.einsum('rd,rd->r', unit, v)[:, None]", "v + unit * np.einsum('rd,rd->r', unit, v)[:, None]", "projection's sign"),
    (normalise, "normalise_backward", "over_norm(across(grad_unit, unit), norm)", "over_norm(across(grad_unit, unit), norm**2)", "1/‖v‖ squared"),
    (normalise, "normalise_backward", "over_norm(across(grad_unit, unit), norm)", "across(grad_unit, unit)", "1/‖v‖ forgotten"),
    (angle, "angle_backward", "over_norm(back * angles.t_x, angles.x_norm)", "over_norm(back * angles.t_w, angles.x_norm)", "tangents swapped"),
    (angle, "angle_backward", "over_norm(back * angles.t_w, angles.w_norm)", "over_norm(back * angles.t_w, angles.x_norm)", "norms swapped"),
    (angle, "cosines_backward", "combine(far.T, x.hat)", "combine(far.T, x.hat[::-1])", "samples reversed"),
    (angle, "cosines_backward", "near.split(grad_cos)", "(near.split(grad_cos)[0], grad_cos)", "near pairs twice"),
    (angle, "cosines_backward", "h[at] * angles.sin", "h[at]", "sin θ forgotten near a pole"),
    (angle, "cosines_backward", "add_at(grad_x_hat, i, turn * angles.t_x)", "grad_x_hat.__setitem__(i, turn * angles.t_x)", "near pairs overwritten in x"),
    (angle, "cosines_backward", "add_at(grad_W_hat, j, turn * angles.t_w)", "grad_W_hat.__setitem__(j, turn * angles.t_w)", "near pairs overwritten in W"),
    (angle, "cosines_backward", "turn * angles.t_w", "turn * angles.t_x", "tangents swapped near a pole"),
    (angle, "cosines_backward", "range(0, len(felt), PAIRS_AT_ONCE)", "range(0, 0)", "near pairs dropped"),
    (linear, "linear_backward", "g.sum(axis=0)", "g.mean(axis=0)", "bias averaged"),
    (psi, "multiplied_angle", "np.abs(sin_m)", "sin_m", "(−1)^k forgotten in the slope"),
    (psi, "multiplied_angle", "slope = -m * sin_m", "slope = -sin_m", "m forgotten in the slope"),
    (psi, "multiplied_angle", "own_slope(per_angle(slope_of_D(beyond, xp), theta, 'dD'), angles)", "-m * sin_m", "slope of D forgotten"),
    (margin, "arc_margin", "Psi(cos, -sin, -sin)", "Psi(cos, -np.sin(angles.theta), -sin)", "slope without the margin"),
    (margin, "arc_margin", "sin_m + m * cos_m", "sin_m", "half of ∂/∂m of the linear tail"),
    (margin, "cosine_margin", "np.full_like(angles.cos, -1.0)", "np.full_like(angles.cos, 1.0)", "sign of ∂/∂m"),
    (margin, "anneal", "like(annealing, angles.cos) + 1.0", "like(annealing, angles.cos) + 2.0", "λ off by one"),
    (margin, "detach", "-angles.sin", "psi.slope", "not detached"),
    (cross_entropy, "cross_entropy_backward", "_divide(arriving, divisor, empty)", "arriving", "1/N forgotten"),
    (cross_entropy, "cross_entropy_backward", "_divide(arriving, divisor, empty)", "_divide(arriving, divisor**2, empty)", "1/N twice"),
    (cross_entropy, "cross_entropy_backward", "_divide(arriving, divisor, empty)", "_divide(np.ones(len(z)), divisor, empty)", "upstream ignored"),
    (cross_entropy, "cross_entropy_backward", "_divide(arriving, divisor, empty)", "_divide(arriving, len(z), empty)", "N counts ignored rows"),
    (cross_entropy, "cross_entropy_backward", "share * mass.total", "np.where(end.setting.targets.ignored, 1.0, share * mass.total)", "ignored rows with gradient"),
    (cross_entropy, "cross_entropy_backward", "(share[:, None] * a) * left", "0.0", "target's −1 lost"),
    (cross_entropy, "cross_entropy_backward", "share[a.pairs.rows] * a.own", "0.0", "a label's −1 lost"),
    (cross_entropy, "cross_entropy_backward", "-(share[a.pairs.rows] * a.own) * left", "(share[a.pairs.rows] * a.own) * left", "a label's sign"),
    (cross_entropy, "cross_entropy_backward", "e * (share * mass.total)[:, None]", "0.0 * e", "a label's off-target terms lost"),
    (cross_entropy, "cross_entropy_backward", "share * mass.total", "share", "a label's weight forgotten"),
    (cross_entropy, "cross_entropy_backward", "e * (share[:, None] * mass.without(a, block))", "0.0 * e", "off-target terms lost"),
    (cross_entropy, "cross_entropy_backward", "mass.without(a, block)", "1.0", "weights and soft sums forgotten"),
]  # fmt: skip


def all_mutants() -> list[Mutant]:
    """Every mutant, systematic ones first."""
    found = []
    for name, cls in LOSSES.items():
        if "backward_logits" in vars(cls):
            found += _systematic(name, cls, "backward_logits")
    for module, functions in (
        (normalise, ["normalise_backward"]),
        (angle, ["cosines_backward", "angle_backward"]),
        (linear, ["linear_backward"]),
        (cross_entropy, ["cross_entropy_backward"]),
    ):
        for function in functions:
            found += _systematic(module.__name__.rpartition(".")[2], module, function)
    found += [by_hand(*mistake) for mistake in BY_HAND]
    return found


def by_hand(where: str | types.ModuleType, function: str, old: str, new: str, what: str) -> Mutant:
    owner = LOSSES[where] if isinstance(where, str) else where
    label = where if isinstance(where, str) else where.__name__.rpartition(".")[2]
    tree = ast.parse(_source(owner, function))
    found = places(tree, old)
    if len(found) != 1:
        missing = f"{label}.{function} has {len(found)} places like {old!r}, not one: mend its line in BY_HAND"
        return Mutant(f"{label}: {what}", owner, function, "", missing)
    [(place, bound)] = found
    filled = _Put(lambda node: bound.get(getattr(node, "id", ""))).visit(_parsed(new))
    tree = _Put(lambda node: filled if node is place else None).visit(tree)
    return Mutant(f"{label}: {what}", owner, function, ast.unparse(ast.fix_missing_locations(tree)))


def places(tree: ast.Module, old: str) -> list[tuple[ast.AST, dict]]:
    """Every node that a pattern fits, with what its loose names stand for."""
    known = {getattr(node, "id", getattr(node, "arg", "")) for node in ast.walk(tree)}
    pattern = _parsed(old)
    names = {node.id for node in ast.walk(pattern) if isinstance(node, ast.Name)}
    loose = dict.fromkeys(names - known)
    return [(node, bound) for node in ast.walk(tree) for bound in _fits(pattern, node, loose)]


def _parsed(text: str) -> ast.AST:
    [statement] = ast.parse(text).body
    return statement.value if isinstance(statement, ast.Expr) else statement


class _Put(ast.NodeTransformer):
    """Puts new nodes where `new_of` gives one."""

    def __init__(self, new_of: Callable[[ast.AST], ast.AST | None]):
        self.new_of = new_of

    def visit(self, node: ast.AST) -> ast.AST:
        return self.new_of(node) or self.generic_visit(node)


def _fits(pattern: Any, node: Any, bound: dict[str, ast.AST | None]) -> Iterator[dict]:
    """Each way to bind the loose names so that the pattern is the node, whatever the order of terms and factors."""
    match pattern, node:
        case ast.Name(id=name), ast.expr() if name in bound:
            if bound[name] is None or ast.dump(bound[name]) == ast.dump(node):
                yield bound | {name: node}
        case ast.BinOp(op=ast.Mult() | ast.Add()), ast.BinOp():
            ours, theirs = _operands(pattern, type(pattern.op)), _operands(node, type(pattern.op))
            if len(ours) == len(theirs) > 1:
                ways = [way for order in itertools.permutations(theirs) for way in _fits(ours, list(order), bound)]
                yield from (way for k, way in enumerate(ways) if way not in ways[:k])
        case [first, *rest], [its_first, *its_rest]:
            for way in _fits(first, its_first, bound):
                yield from _fits(rest, its_rest, way)
        case ast.AST(), ast.AST() if type(pattern) is type(node):
            fields = [name for name in pattern._fields if name != "ctx"]
            yield from _fits(*([getattr(part, name, None) for name in fields] for part in (pattern, node)), bound)
        case _ if not isinstance(pattern, ast.AST) and pattern == node:
            yield bound


def _operands(node: ast.AST, op: type) -> list[ast.AST]:
    """The factors of a product, the terms of a sum."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, op):
        return _operands(node.left, op) + _operands(node.right, op)
    return [node]


def _source(owner: object, function: str) -> str:
    """Of the function; empty if there is none of that name."""
    return textwrap.dedent(inspect.getsource(getattr(owner, function))) if hasattr(owner, function) else ""


def _systematic(label: str, owner: object, function: str) -> Iterator[Mutant]:
    """One mutant a change and gradient-carrying expression of the function."""
    source = _source(owner, function)
    if not source:
        yield Mutant(
            f"{label}.{function}", owner, function, "", f"{label} has no function {function}: mend all_mutants"
        )
    for k, expression in enumerate(_expressions(ast.parse(source))):
        for change, factor in CHANGES.items():
            tree = ast.parse(source)
            place = list(_expressions(tree))[k]
            changed = ast.BinOp(place, ast.Mult(), ast.Constant(factor))
            tree = _Put(lambda node, place=place, changed=changed: changed if node is place else None).visit(tree)
            source_of_mutant = ast.unparse(ast.fix_missing_locations(tree))
            what = ast.unparse(expression)[:60]
            yield Mutant(f"{label}.{function}: {what} {change}", owner, function, source_of_mutant)


# names that carry no gradient of their own
STRUCTURE = {"rows", "s", "r", "x_norm", "w_norm", "zero", "near", "angles", "felt", "at", "a"}


def _expressions(tree: ast.Module) -> Iterator[ast.expr]:
    for node in ast.walk(tree):
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                if name not in STRUCTURE and not isinstance(value, ast.Dict) and not _makes_record(value):
                    yield value.body if isinstance(value, ast.IfExp) else value
            case ast.AugAssign():
                yield node.value
            case ast.Return(value=ast.Tuple(elts=parts)) | ast.Dict(values=parts):
                yield from parts
            case ast.Return(value=ast.Call() | ast.BinOp()) if not _holds_dict(node.value):
                yield node.value
            case ast.Call(func=ast.Name(id=called)) if called.endswith("backward"):
                yield node.args[0]


def _makes_record(node: ast.expr) -> bool:
    """Whether it is the call of a step that returns a record."""
    return isinstance(node, ast.Call) and getattr(node.func, "id", "") == "angle"


def _holds_dict(node: ast.AST) -> bool:
    return any(isinstance(part, ast.Dict) or getattr(part, "id", "") == "grads" for part in ast.walk(node))


@contextlib.contextmanager
def installed(mutant: Mutant) -> Iterator[None]:
    """refloss with this mutant in place, wherever the function is used."""
    module = sys.modules[mutant.owner.__module__] if isinstance(mutant.owner, type) else mutant.owner
    scope = types.ModuleType("mutant")
    scope.__dict__.update(module.__dict__)
    exec(compile(mutant.source, f"<{mutant.name}>", "exec"), scope.__dict__)
    wrong, right = scope.__dict__[mutant.function], getattr(mutant.owner, mutant.function)
    if isinstance(mutant.owner, type):
        users = [(mutant.owner, mutant.function)]
    else:
        users = [
            (m, mutant.function)
            for name, m in sys.modules.items()
            if name.startswith("refloss") and getattr(m, mutant.function, None) is right
        ]
    for user, name in users:
        setattr(user, name, wrong)
    try:
        yield
    finally:
        for user, name in users:
            setattr(user, name, right)


def losses_with(mutant: Mutant) -> list[str]:
    """The losses that a mutant can spoil."""
    if isinstance(mutant.owner, type):
        return [name for name, cls in LOSSES.items() if cls is mutant.owner]
    return list(refloss.losses())
