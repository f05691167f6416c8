"""Wrong copies of refloss' own backward passes, made from their source one change at a time.

Every assignment, every `+=`-like statement and every returned gradient of a backward function is changed in turn:
its sign, a factor, 0.05 %, lost altogether. To these come the mistakes that a person makes, by exact source text.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import sys
import textwrap
import types
from collections.abc import Iterator
from dataclasses import dataclass

import refloss
from refloss.losses import LOSSES
from refloss.steps import angle, cross_entropy, linear, margin, normalise, psi

CHANGES = {"sign": -1.0, "0.05 %": 1.0005, "doubled": 2.0, "lost": 0.0}


@dataclass(frozen=True)
class Mutant:
    """`owner` is a loss class or a steps module; `function` its function; `source` the changed source of it."""

    name: str
    owner: object
    function: str
    source: str


# (loss name or steps module, function, what stands there, what a mistake would put, what the mistake is)
BY_HAND = [
    ("softmax", "backward_logits", "linear_backward(g, kept.x, kept.W)", "linear_backward(g, kept.x, kept.W[::-1])", "W reversed"),
    ("w_norm_softmax", "backward_logits", "normalise_backward(grad_W_hat, kept.W_norm, kept.W_hat)", "grad_W_hat", "no ŵ"),
    ("w_norm_softmax", "backward_logits", "combine(g, kept.W_hat)", "combine(g, kept.W)", "W for ŵ"),
    ("w_norm_softmax", "backward_logits", "x_norm[:, None] * g", "g", "‖x‖ forgotten"),
    ("l2_softmax", "backward_logits", "self.alpha * grad_x_hat", "grad_x_hat", "α forgotten in x"),
    ("l2_softmax", "backward_logits", "g * W_norm", "g", "‖W‖ forgotten in x"),
    ("l2_softmax", "backward_logits", "combine(g.T, self.alpha * kept.x_hat)", "combine(g.T, kept.x_hat)", "α forgotten in W"),
    ("l2_softmax", "backward_logits", "np.sum(g * kept.along)", "np.sum(g * kept.along) / len(g)", "α averaged"),
    ("l_softmax", "backward_logits", "linear_backward(g_others, kept.x, kept.W)", "linear_backward(g, kept.x, kept.W)", "target twice"),
    ("l_softmax", "backward_logits", "pair_W += (g_y * x_norm *", "pair_W += (g_y * w_norm *", "norms swapped in W"),
    ("l_softmax", "backward_logits", "pair_x = -(g_y * w_norm * kept.psi.slope)", "pair_x = -(g_y * kept.psi.slope)", "‖W‖ forgotten"),
    ("a_softmax", "backward_logits", "pair_x += (g_y * kept.psi.value)[:, None] * kept.x_hat[rows]", "pass", "radial part lost"),
    ("a_softmax", "backward_logits", "normalise_backward(grad_W_hat, kept.W_norm, kept.W_hat)", "grad_W_hat / kept.W_norm[:, None]", "no projection"),
    ("f_norm_sphereface", "backward_logits", "s * g_y * kept.psi.slope", "g_y * kept.psi.slope", "s forgotten at the target"),
    ("f_norm_sphereface", "backward_logits", "np.sum(g_others * kept.cos_theta) +", "", "s: off-target terms lost"),
    ("am_softmax", "backward_logits", "cosines_backward(s * g_others,", "cosines_backward(s * g,", "target twice"),
    ("am_softmax", "backward_logits", "cosines_backward(s * g_others,", "cosines_backward(0 * g_others,", "off-target terms lost"),
    ("am_softmax", "backward_logits", "+ np.sum(g_y * kept.psi.value)", "+ np.sum(g_y * np.cos(kept.angles.theta))", "s without margin"),
    ("am_softmax", "backward_logits", "add_at_pairs(grad_x, grad_W, kept.pairs, pair_x, pair_W)", "pass", "target term lost"),
    ("arcface", "backward_logits", "kept.psi.slope", "-np.sin(kept.angles.theta)", "margin detached"),
    ("arcface", "backward_logits", "kept.psi.in_margin", "kept.psi.slope * s", "m scaled twice"),
    ("arcface", "backward_logits", "add_at_pairs(grad_x, grad_W, kept.pairs, pair_x, pair_W)",
     "grad_x[kept.pairs.rows] += pair_x; grad_W[kept.pairs.y] = grad_W[kept.pairs.y] + pair_W", "duplicates overwritten"),
    ("arcface", "backward_logits", "normalise_backward(grad_x_hat, kept.x_norm, kept.x_hat)", "grad_x_hat / kept.x_norm[:, None]", "no projection of x"),
    ("arcface", "backward_logits", "normalise_backward(grad_W_hat, kept.W_norm, kept.W_hat)", "grad_W_hat / kept.W_norm[:, None]", "no projection of W"),
    (normalise, "normalise_backward", "across(grad_unit, unit)", "grad_unit", "projection lost"),
    (normalise, "across", "v - unit *", "v + unit *", "projection's sign"),
    (normalise, "normalise_backward", "across(grad_unit, unit), norm)", "across(grad_unit, unit), norm**2)", "1/‖v‖ squared"),
    (normalise, "normalise_backward", "over_norm(across(grad_unit, unit), norm)", "across(grad_unit, unit)", "1/‖v‖ forgotten"),
    (angle, "angle_backward", "over_norm(back * angles.t_x, angles.x_norm)", "over_norm(back * angles.t_w, angles.x_norm)", "tangents swapped"),
    (angle, "angle_backward", "over_norm(back * angles.t_w, angles.w_norm)", "over_norm(back * angles.t_w, angles.x_norm)", "norms swapped"),
    (angle, "cosines_backward", "combine(far.T, x_hat)", "combine(far.T, x_hat[::-1])", "samples reversed"),
    (angle, "cosines_backward", "np.where(near, 0.0, grad_cos)", "grad_cos", "near pairs twice"),
    (angle, "cosines_backward", "* angles.sin)", ")", "sin θ forgotten near a pole"),
    (angle, "cosines_backward", "add_at(grad_x_hat, i, ", "grad_x_hat.__setitem__(i, ", "near pairs overwritten in x"),
    (angle, "cosines_backward", "add_at(grad_W_hat, j, ", "grad_W_hat.__setitem__(j, ", "near pairs overwritten in W"),
    (angle, "cosines_backward", "turn * angles.t_w", "turn * angles.t_x", "tangents swapped near a pole"),
    (angle, "cosines_backward", "range(0, len(rows), PAIRS_AT_ONCE)", "range(0, 0)", "near pairs dropped"),
    (linear, "linear_backward", "g.sum(axis=0)", "g.mean(axis=0)", "bias averaged"),
    (psi, "multiplied_angle", "np.abs(sin_m), m", "sin_m, m", "(−1)^k forgotten in the slope"),
    (psi, "multiplied_angle", "slope = -m * sin_m", "slope = -sin_m", "m forgotten in the slope"),
    (psi, "multiplied_angle", "own_slope(per_angle(slope_of_D(beyond, xp), theta, \"dD\"), angles)", "-m * sin_m", "slope of D forgotten"),
    (margin, "arc_margin", "Psi(cos, -sin, -sin)", "Psi(cos, -np.sin(angles.theta), -sin)", "slope without the margin"),
    (margin, "arc_margin", "(sin_m + m * cos_m)", "sin_m", "half of ∂/∂m of the linear tail"),
    (margin, "cosine_margin", "np.full_like(angles.cos, -1.0)", "np.full_like(angles.cos, 1.0)", "sign of ∂/∂m"),
    (margin, "anneal", "like(annealing, angles.cos) + 1.0", "like(annealing, angles.cos) + 2.0", "λ off by one"),
    (margin, "detach", "Psi(psi.value, -angles.sin,", "Psi(psi.value, psi.slope,", "not detached"),
    (cross_entropy, "cross_entropy_backward", "_divide(arriving, end.divisor_below_one, end.setting.empty_mean)", "arriving", "1/N forgotten"),
    (cross_entropy, "cross_entropy_backward", "_divide(arriving, end.divisor_below_one, end.setting.empty_mean)", "_divide(arriving, end.divisor_below_one**2, end.setting.empty_mean)", "1/N twice"),
    (cross_entropy, "cross_entropy_backward", "_divide(arriving, end.divisor_below_one, end.setting.empty_mean)", "_divide(np.ones(len(z)), end.divisor_below_one, end.setting.empty_mean)", "upstream ignored"),
    (cross_entropy, "cross_entropy_backward", "_divide(arriving, end.divisor_below_one, end.setting.empty_mean)", "_divide(arriving, len(z), end.setting.empty_mean)", "N counts ignored rows"),
    (cross_entropy, "cross_entropy_backward", "np.where(end.setting.targets.ignored[:, None], 0.0, share[:, None] * g)", "share[:, None] * (g + end.setting.targets.ignored[:, None] * p)", "ignored rows with gradient"),
    (cross_entropy, "cross_entropy_backward", "- a * others", "", "target's −1 lost"),
    (cross_entropy, "cross_entropy_backward", "p * end.gathered.weight.without(a, block) - a * others", "-a * others", "off-target terms lost"),
    (cross_entropy, "cross_entropy_backward", "end.gathered.weight.without(a, block)", "1.0", "weights and soft sums forgotten"),
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
    for where, function, old, new, what in BY_HAND:
        owner = LOSSES[where] if isinstance(where, str) else where
        source = _source(owner, function)
        assert old in source, f"{where}.{function} no longer contains {old!r}"
        label = where if isinstance(where, str) else where.__name__.rpartition(".")[2]
        found.append(Mutant(f"{label}: {what}", owner, function, source.replace(old, new, 1)))
    return found


def _source(owner: object, function: str) -> str:
    return textwrap.dedent(inspect.getsource(getattr(owner, function)))


def _systematic(label: str, owner: object, function: str) -> Iterator[Mutant]:
    """One mutant a change and gradient-carrying expression of the function."""
    source = _source(owner, function)
    targets = [_describe(node) for node in _expressions(ast.parse(source))]
    for k, what in enumerate(targets):
        for change, factor in CHANGES.items():
            tree = ast.parse(source)
            place = list(_expressions(tree))[k]
            place.replace(factor)
            yield Mutant(
                f"{label}.{function}: {what} {change}",
                owner,
                function,
                ast.unparse(ast.fix_missing_locations(tree)),
            )


@dataclass
class _Place:
    """An expression inside a statement: parent, field, and index if the field is a list."""

    parent: ast.AST
    field: str
    index: int | None

    @property
    def expression(self) -> ast.expr:
        value = getattr(self.parent, self.field)
        return value if self.index is None else value[self.index]

    def replace(self, factor: float) -> None:
        new = ast.BinOp(self.expression, ast.Mult(), ast.Constant(factor))
        if self.index is None:
            setattr(self.parent, self.field, new)
        else:
            getattr(self.parent, self.field)[self.index] = new


STRUCTURE = {
    "rows",
    "s",
    "r",
    "x_norm",
    "w_norm",
    "zero",
    "near",
    "angles",
}  # names that carry no gradient of their own


def _expressions(tree: ast.Module) -> Iterator[_Place]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            if node.targets[0].id not in STRUCTURE and not isinstance(node.value, ast.Dict):
                yield _Place(node, "value", None)
        elif isinstance(node, ast.AugAssign):
            yield _Place(node, "value", None)
        elif isinstance(node, ast.Return):
            if isinstance(node.value, ast.Tuple):
                for k in range(len(node.value.elts)):
                    yield _Place(node.value, "elts", k)
            elif isinstance(node.value, ast.Call | ast.BinOp) and not _holds_dict(node.value):
                yield _Place(node, "value", None)
        elif isinstance(node, ast.Dict):
            for k in range(len(node.values)):
                yield _Place(node, "values", k)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "").endswith("backward"):
            yield _Place(node, "args", 0)


def _holds_dict(node: ast.AST) -> bool:
    return any(isinstance(part, ast.Dict) or getattr(part, "id", "") == "grads" for part in ast.walk(node))


def _describe(place: _Place) -> str:
    return ast.unparse(place.expression)[:60]


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
