"""What came back is what comes out of the formula if one of its quantities were another.

Each quantity of the plain loss (a length, cos θ, ψ, the radius, log Σ e^z, p, the target, what arrives at a row …) is
changed by each of a few operations that know nothing of any bug, and each parameter is fitted. What explains the stage
where it starts in nearly all cases is a fact, and says which other stages it explains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from refloss.precision.dtypes import DTYPES, rounded
from refloss.record import BACKWARD_STAGES, STAGES
from refloss.testing.diagnosis.facts_known import numbers
from refloss.testing.diagnosis.facts_relations import CLEAR
from refloss.testing.diagnosis.match import Observed, spread
from refloss.testing.judging import units
from refloss.testing.judging.truth import Grade
from refloss.testing.plain_loss import PlainLoss
from refloss.textbook import formulas

Change = Callable[[PlainLoss], None]
BLOCKS = (2, 3, 4, 8, 16, 32, 64, 128, 256, 512, 1024)  # that rows and classes go in
FAR = 1e60  # of a misfit, in tolerances: squares of it stay finite
OUTLIER = 5.0  # times the middle misfit
NAMED = 1e-4  # of a fitted number
TRIED = 12  # cases that a change which explains the first is verified on
# method of PlainLoss → words
SITES = {
    "share": "what arrives at a row", "grad_logits": "the gradient of a row's loss in its logits",
    "shared_gradient": "grad_logits", "slope": "dψ/dcos θ", "softmax": "p", "log_probabilities": "log p",
    "logsumexp": "log Σ e^z", "radius": "the radius r of the logits", "values": "cos θ and ψ", "psi": "ψ",
    "angles": "θ", "cosines": "cos θ", "x_length": "‖x‖", "W_length": "‖W_c‖", "x_unit": "x̂", "W_unit": "Ŵ",
    "x_growth": "x̂ in the projection", "W_growth": "Ŵ in the projection", "logits": "z", "bias": "b",
    "smoothed": "t", "weighted": "w_c t_c", "sample_losses": "the loss of a row",
    "divisor": "the divisor of the mean",
}  # fmt: skip
OF_BARE = (
    "logits", "share", "shared_gradient", "grad_logits", "softmax", "log_probabilities", "logsumexp", "smoothed",
    "weighted", "sample_losses", "divisor",
)  # fmt: skip


@dataclass(frozen=True)
class AsIf:
    """words: "‖x‖ were 0". stages: that it explains; whole: all that came back. held: the cases; tried: of so many."""

    words: str
    stages: tuple[str, ...]
    whole: bool
    held: tuple[str, ...]
    tried: int


def as_if(failing: Sequence[Observed], passing: Sequence[Observed], grade: Grade, focus: str) -> AsIf | None:
    """The change of one quantity that explains the stage `focus`, and most others, in nearly all cases.

    All, if the kernel goes back through the changed quantity as the formula does.
    """
    clear = sorted((o for o in failing if _clear(o, grade)), key=lambda o: o.size)
    clear = [o for o in clear if focus in o.got]
    if len(clear) < 2:
        return None
    middle = len(clear) // 3
    first, second = clear[middle], clear[2 * len(clear) // 3]
    few, right, many = spread(clear, TRIED), spread(passing, 4), spread(clear, 2 * TRIED)
    fitted = list({id(o): o for o in (first, second, clear[0])}.values())
    best: AsIf | None = None
    changes = chain(_operations(first.truth.plain), _fitted(fitted, grade, focus), _fitted_psi(many, grade, focus))
    for words, change in changes:
        if not (focus in explained(first, change, grade, focus) or focus in explained(second, change, grade, focus)):
            continue
        found = {o.case: explained(o, change, grade) for o in few}
        untouched = [explained(o, change, grade) for o in right]
        stages = tuple(
            stage
            for stage in STAGES
            if any(stage in o.got for o in few)
            and sum(stage in its or stage not in o.got for its, o in zip(untouched, right, strict=True))
            >= 0.7 * len(right)
            and sum(stage in found[o.case] or stage not in o.got for o in few) >= 0.8 * len(few)
        )
        held = tuple(case for case, its in found.items() if focus in its)
        whole = all(set(o.got) <= set(stages) for o in few)
        if focus in stages and (best is None or len(stages) > len(best.stages)):
            best = AsIf(words, stages, whole, held, len(few))
            if whole and len(held) == len(few):
                break
    return best


def _clear(o: Observed, grade: Grade) -> bool:
    """Whether an error is large enough to tell what it is."""
    with np.errstate(all="ignore"):
        ratios = [
            np.max(units.size(s, g - o.truth.stages[s]) / o.truth.room(s, grade)) for s, g in o.got.items() if g.size
        ]
    return bool(ratios) and all(np.isfinite(ratios)) and max(ratios) > CLEAR


def made(o: Observed, change: Change) -> dict[str, np.ndarray] | None:
    """The stages of the changed loss."""
    plain = copy(o.truth.plain)  # a change sets attributes, of the loss and of its parameters; the arrays stay
    plain.previous = o.previous
    if not plain.bare:
        plain.q = copy(plain.q)
    try:
        with np.errstate(all="ignore"):
            change(plain)
            return plain.run()
    except (ValueError, IndexError, ZeroDivisionError, FloatingPointError, AttributeError):
        return None


def explained(o: Observed, change: Change, grade: Grade, only: str = "") -> set[str]:
    """The stages of which the changed loss gives what came back, as nearly as rounding allows."""
    stages, found = made(o, change), set()
    for stage, got in o.got.items():
        if stages is None or (only and stage != only):
            continue
        if stage not in stages or np.shape(stages[stage]) != np.shape(got):
            continue
        due, room = o.truth.stages[stage], o.truth.room(stage, grade)
        with np.errstate(all="ignore"):
            copy = o.truth.as_wrong(stage, stages[stage])
            off, left = (units.size(stage, got - v) for v in (due, copy))
            moved = units.size(stage, copy - due)
            allowed = np.where(off > room, np.minimum(4 * room, off / 4), 2 * room)
            near = left <= np.maximum(allowed, 1e-3 * moved)
            if (near & np.isfinite(moved)).all():
                found.add(stage)
    return found


def _operations(plain: PlainLoss) -> Iterator[tuple[str, Change]]:
    """Every site with every operation."""
    sites = OF_BARE if plain.bare else [s for s in SITES if s != "bias" or plain.b is not None]
    for site in sites:
        for words, operation in _of_arrays(plain).items():
            yield words.format(SITES[site]), _changed(site, operation)
    yield from _switches(plain)
    if plain.upstream.ndim == 0:
        yield "what arrives were 1", lambda p: setattr(p, "upstream", np.ones_like(p.upstream))


def _switches(plain: PlainLoss) -> Iterator[tuple[str, Change]]:
    """What the loss takes from its options, one at a time."""

    def to(name: str, value: Callable[[PlainLoss], Any]) -> Change:
        return lambda p: setattr(p, name, value(p))

    yield "there were no class weights", to("w", lambda p: np.ones_like(p.w))
    yield "there were no label smoothing", to("smoothing", lambda p: 0.0)
    yield "ignored rows counted in the divisor", to("counts", lambda p: np.ones_like(p.counts))
    yield "ignored rows had a gradient", to("reached", lambda p: np.ones_like(p.reached))
    for reduction in ("mean", "sum", "weighted_mean"):
        if plain.loss.reduction != "none":
            yield f"reduction were {reduction!r}", to("reduction", _constant(reduction))
    if plain.hard:
        yield "the target were every class that is some row's label", to("target", _labels_of_all_rows)
    for k in BLOCKS:
        for axis, parts in enumerate(("rows", "classes")):
            for where, kept in _blocks(k).items():
                yield f"the gradient in the logits were 0 in {parts} {where}", _cut(axis, kept)
        words = f"the sum of e^z over blocks of {k} classes were not scaled anew where a later block has a larger z"
        yield words, _changed("logsumexp", partial(_not_scaled_anew, k))
        yield f"classes were padded to a multiple of {k} with logits of 0", _padded(k)
        if plain.upstream.ndim:
            words = f"what arrives at a row were taken by its number in its block of {k}"
            yield words, _changed("share", partial(_by_number_in_block, k))
        if plain.reduction == "mean":
            yield f"the mean were that of the means of blocks of {k} rows", partial(_mean_of_means, k, False)
        if plain.reduction in ("mean", "weighted_mean"):
            words = f"the mean were that of the means of blocks of {k} rows, each by its number of rows"
            yield words, partial(_mean_of_means, k, True)
    if plain.hard:
        for words, label in (("class 0", 0), ("the last class", -1)):
            yield f"rows with {words} as their label were ignored", partial(_ignored, label, False)
            yield f"rows with {words} as their label had no loss, and counted", partial(_ignored, label, True)
    if plain.loss.class_weights is not None:
        by_row = _changed("weighted", lambda a, p: p.w[np.arange(p.N) % p.C][:, None] * p.smoothed())
        yield "the weight of a row were that of the class of its number", by_row
        for words, weight in (("w_c in place of w_y", _w_c_over_w_y), ("w_y once more", _w_y)):
            yield f"the gradient in the logits had {words}", _changed("grad_logits", partial(_weighed, weight))
    if not plain.bare:
        for k in BLOCKS:
            for where, kept in _blocks(k).items():
                yield f"the cosines left out the features {where}", _changed("cosines", partial(_of_features, kept))
    if not plain.bare and plain.b is not None:
        yield "p were that of logits without b", _softmax_of(lambda p: p.z - (0.0 if p.b is None else p.b))
    yield "every label were one class on", to("target", lambda p: np.roll(p.target, 1, axis=1))
    yield "every label were one class back", to("target", lambda p: np.roll(p.target, -1, axis=1))
    if plain.bare:
        return
    for side, name in (("x", "‖x‖"), ("W", "‖W_c‖")):
        yield f"{name} were a constant for the gradient", to(f"passes_{side}", lambda p: False)
        yield (
            f"{name} as a factor of the logits were a constant for the gradient",
            to(f"radial_{side}", lambda p: False),
        )
        without = bool(getattr(plain, f"p_{side}"))
        words = f"{name} were {'no' if without else 'a'} factor of the logits"
        yield words, to(f"p_{side}", _constant(int(not without)))
    if not plain.loss.has_margin:
        return
    yield "p were that of logits without a margin", _softmax_of(lambda p: p.r * p.cos)
    for whose, on in (("target's logit", True), ("other classes' logits", False)):
        for name, length in (("‖x‖", lambda p: p.x_norm[:, None]), ("‖W_c‖", lambda p: p.W_norm[None, :])):
            for does, power in (("had another factor", 1), ("were divided by", -1)):
                yield f"the {whose} {does} {name}", _changed("radius", partial(_scaled_by, length, power, on))
            if plain.factor() != 1:
                words = f"the {whose} had {name} in place of {plain.factor_name}"
                yield words, _changed("radius", partial(_scaled_by, partial(_over_factor, length), 1, on))
    yield "the margin were on the class of the largest cosine", _changed("cosines", _margin_on_largest)
    yield "the margin were on every class that is some row's label", to("on", lambda p: _labels_of_all_rows(p) > 0)
    m = float(np.real(getattr(plain.q, "margin", 0.0)))
    yield "every class carried the margin", to("on", lambda p: np.ones_like(p.on))
    yield "every class but the target carried the margin", to("on", lambda p: ~p.on)
    for k in BLOCKS:
        words = f"the margin were on the labels of the rows {k}, {2 * k} … before as well"
        yield words, to("on", partial(_also_before, k))
    yield "the margin were on the next class", to("on", lambda p: np.roll(p.on, 1, axis=1))
    others: dict[str, Callable[[Any], Any]] = {
        "cos θ, without a margin": np.cos, "cos(θ + m)": lambda t: np.cos(t + m), "cos(θ − m)": lambda t: np.cos(t - m),
        "cos θ − m": lambda t: np.cos(t) - m, "cos θ + m": lambda t: np.cos(t) + m, "cos mθ": lambda t: np.cos(m * t),
        "cos θ − m sin m": lambda t: np.cos(t) - m * np.sin(m), "−1": lambda t: -1 + 0 * t,
    }  # fmt: skip
    if m >= 1:
        k_of: dict[str, Callable[[Any], Any]] = {
            "k": np.floor,
            "k rounded": np.round,
            "k + 1": lambda v: np.floor(v) + 1,
            "k − 1": lambda v: np.floor(v) - 1,
        }
        for most in range(int(m) - 1):
            k_of[f"min(k, {most})"] = partial(_at_most, most)
        for name, of in k_of.items():
            others[f"(−1)^k cos mθ − 2k with {name} in place of k"] = partial(_by_k, m, of)
        for n in {1, 2, 3, 4, 5} - {int(m)}:
            others[f"(−1)^k cos {n}θ − 2k, k as it is"] = partial(_by_k, m, np.floor, times=n)
        others["cos mθ − 2k, without (−1)^k"] = lambda t: np.cos(m * t) - 2 * np.floor(m * np.real(t) / np.pi)
        others["(−1)^k cos mθ, without −2k"] = lambda t: (-1.0) ** np.floor(m * np.real(t) / np.pi) * np.cos(m * t)
    turns = {"π − m": np.pi - m, "π/2": np.pi / 2, "π/m": np.pi / m if m else np.inf}
    for words, psi in others.items():
        yield f"ψ(θ) were {words}", to("psi", _constant(psi))
        for where, turn in turns.items():
            for sign, beyond in ((">", True), ("<", False)):
                yield (
                    f"ψ(θ) were {words} where θ {sign} {where}",
                    to("psi", partial(_beyond, psi=psi, turn=turn, beyond=beyond)),
                )
    for where, turn in turns.items():
        for sign, beyond in ((">", True), ("<", False)):
            words = f"ψ(θ) were what it is at {where} where θ {sign} {where}"
            yield words, to("psi", partial(_held, turn=turn, beyond=beyond))
    if plain.smoothing:
        yield "the uniform part of the smoothed target were of logits without a margin", _uniform_without_margin
    if plain.q.target is formulas.annealed_psi and plain.q.annealing:
        yield "the annealed cosine of the target's logit were without its factor r", _annealed_cosine_without_r
    yield "the margin's slope were left out (ψ detached)", lambda p: setattr(p, "slope", lambda: np.ones_like(p.cos))


def _beyond(plain: PlainLoss, psi: Callable[[Any], Any], turn: float, beyond: bool) -> Callable[[Any], Any]:
    """Another ψ on one side of an angle."""
    own = plain.psi
    return lambda t: np.where((np.real(t) > turn) == beyond, psi(t), own(t))


def _held(plain: PlainLoss, turn: float, beyond: bool) -> Callable[[Any], Any]:
    """Its value there on one side of an angle."""
    there = np.real(plain.psi(np.array(turn + 0j)))
    return _beyond(plain, lambda t: there, turn, beyond)


def _softmax_of(logits: Callable[[PlainLoss], np.ndarray]) -> Change:
    """p of other logits than the loss's."""
    return _changed("softmax", lambda p_, p: np.exp((z := logits(p)) - p.logsumexp(z)[:, None]))


def _changed(site: str, operation: Callable[[Any, PlainLoss], Any]) -> Change:
    def change(plain: PlainLoss) -> None:
        method = getattr(plain, site)
        setattr(plain, site, lambda *a: operation(method(*a), plain))

    return change


def _of_arrays(plain: PlainLoss) -> dict[str, Callable[[Any, PlainLoss], Any]]:
    def rows(operation: Callable[[np.ndarray], np.ndarray]) -> Callable[[Any, PlainLoss], Any]:
        return lambda v, p: operation(v) if np.ndim(v) else v

    def on_target(inside: float, outside: float) -> Callable[[Any, PlainLoss], Any]:
        return lambda v, p: np.where(p.target > 0, inside, outside) * v if np.shape(v) == p.target.shape else v

    made: dict[str, Callable[[Any, PlainLoss], Any]] = {
        "{} were 0": lambda v, p: 0 * v,
        "{} were 1": lambda v, p: 0 * v + 1,
        "{} had the other sign": lambda v, p: -v,
        "{} were twice as large": lambda v, p: 2 * v,
        "{} were half as large": lambda v, p: v / 2,
        "{} were squared": lambda v, p: v * v,
        "{} were its square root": lambda v, p: np.sqrt(np.abs(v)),
        "{} were its inverse": lambda v, p: np.where(np.asarray(v) != 0, 1 / np.where(np.asarray(v) != 0, v, 1), 0),
        "{} were its absolute value": lambda v, p: np.abs(v),
        "{} were cut off below 0": lambda v, p: np.maximum(v, 0),
        "{} were cut off above 1": lambda v, p: np.minimum(v, 1),
        "{} were taken from 1": lambda v, p: 1 - v,
        "{} were that of the next row": rows(lambda v: np.roll(v, -1, axis=0)),
        "{} were that of the row before": rows(lambda v: np.roll(v, 1, axis=0)),
        "{} were in reverse order of rows": rows(lambda v: v[::-1]),
        "{} were the first row's in all rows": rows(lambda v: np.broadcast_to(v[:1], v.shape).copy()),
        "{} were its mean over the rows": rows(lambda v: np.broadcast_to(v.mean(axis=0), v.shape).copy()),
        "{} were 0 in all rows but the first": rows(lambda v: _only(v, slice(0, 1))),
        "{} were 0 in the last row": rows(lambda v: _only(v, slice(0, -1))),
        "{} were 0 on the target": on_target(0, 1),
        "{} were 0 off the target": on_target(1, 0),
        "{} had the other sign on the target": on_target(-1, 1),
        "{} were twice as large on the target": on_target(2, 1),
    }  # fmt: skip
    for dtype in ("bfloat16", "float16"):
        made["{} were stored in " + dtype] = partial(_stored, dtype)
        made["{} were stored in " + dtype + " on the target"] = partial(_stored_on_target, dtype)
    made["{} were the next class's"] = lambda v, p: np.roll(v, -1, axis=1) if np.shape(v) == p.target.shape else v
    made["{} were the class's before"] = lambda v, p: np.roll(v, 1, axis=1) if np.shape(v) == p.target.shape else v
    for name in numbers(plain):
        if name in ("N − 1", "C − 1"):
            continue
        made["{} were multiplied by " + name] = partial(_times, name)
        made["{} were divided by " + name] = partial(_over, name)
    return made


def _constant(value: Any) -> Callable[[PlainLoss], Any]:
    return lambda p: value


def _by_k(m: float, of: Callable[[Any], Any], theta: Any, times: float | None = None) -> Any:
    """(−1)^k cos mθ − 2k with k = of(mθ/π); times: in place of m in the cosine."""
    k = of(m * np.real(theta) / np.pi)
    return (-1.0) ** k * np.cos((m if times is None else times) * theta) - 2 * k


def _at_most(most: int, v: Any) -> Any:
    return np.minimum(np.floor(v), most)


def _uniform_without_margin(p: PlainLoss) -> None:
    def losses(own: np.ndarray, p: PlainLoss) -> np.ndarray:
        z = p.r * p.cos
        moved = (p.logsumexp(z) - z.mean(axis=1)) - (p.lse - p.z.mean(axis=1))
        return own + p.smoothing * moved

    _changed("sample_losses", losses)(p)


def _annealed_cosine_without_r(p: PlainLoss) -> None:
    part = p.q.annealing / (1 + p.q.annealing)

    def moved(p: PlainLoss) -> np.ndarray:
        return np.where(p.on, part * (1 / p.r - 1), 0.0)

    _changed("values", lambda v, p: v + moved(p) * p.cos)(p)
    _changed("slope", lambda v, p: v + moved(p))(p)


def _labels_of_all_rows(p: PlainLoss) -> np.ndarray:
    """(N, C) 1 for every class that some row has as its label."""
    return np.broadcast_to(p.target.max(axis=0), p.target.shape).copy()


def _also_before(k: int, p: PlainLoss) -> np.ndarray:
    """As where a buffer of k rows is used again without being cleared."""
    on = p.on.copy()
    for i in range(k, p.N):
        on[i] |= on[i - k]
    return on


def _margin_on_largest(cos: np.ndarray, p: PlainLoss) -> np.ndarray:
    p.on = np.arange(p.C) == cos.argmax(axis=1)[:, None]
    return cos


def _scaled_by(length: Callable[[PlainLoss], np.ndarray], power: int, on: bool, r: np.ndarray, p: PlainLoss) -> Any:
    return np.where((p.target > 0) == on, r * length(p) ** power, r)


def _over_factor(length: Callable[[PlainLoss], np.ndarray], p: PlainLoss) -> np.ndarray:
    return length(p) / p.factor()


def _blocks(k: int) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """words → which of the indices (n,) are not left out."""
    return {
        f"from {k} on": lambda i: i < k,
        f"beyond the last whole block of {k}": lambda i: i < len(i) // k * k,
        f"before the last block of {k}": lambda i: i >= (len(i) - 1) // k * k,
    }


def _cut(axis: int, kept: Callable[[np.ndarray], np.ndarray]) -> Change:
    """The gradient of the logits without some rows or classes."""

    def cut(g: np.ndarray, p: PlainLoss) -> np.ndarray:
        here = kept(np.arange(g.shape[axis]))
        return np.where(here if axis else here[:, None], g, 0.0)

    return _changed("grad_logits", cut)


def _of_features(kept: Callable[[np.ndarray], np.ndarray], cos: np.ndarray, p: PlainLoss) -> np.ndarray:
    here = kept(np.arange(p.x_hat.shape[1]))
    return np.asarray(p.x_hat[:, here] @ p.W_hat[:, here].T)


def _w_y(p: PlainLoss) -> np.ndarray:
    return p.w[p.y][:, None]


def _w_c_over_w_y(p: PlainLoss) -> np.ndarray:
    return p.w / np.where(_w_y(p) == 0, 1.0, _w_y(p))


def _weighed(weight: Callable[[PlainLoss], np.ndarray], g: np.ndarray, p: PlainLoss) -> np.ndarray:
    return g * weight(p)


def _by_number_in_block(k: int, share: np.ndarray, p: PlainLoss) -> np.ndarray:
    each = np.ravel(p.upstream)
    return np.asarray(np.where(p.reached, each[np.arange(p.N) % k], 0.0))


def _mean_of_means(k: int, by_rows: bool, p: PlainLoss) -> None:
    """Each block's mean is its sum over its own divisor; the blocks count alike, or by their rows."""
    block = np.arange(p.N) // k
    counted = (p.target * p.w).sum(axis=1) * p.counts if p.reduction == "weighted_mean" else p.counts.astype(float)
    own = np.bincount(block, weights=counted)[block]
    part = np.bincount(block)[block] / p.N if by_rows else 1 / (block[-1] + 1 if p.N else 1)
    each = np.where(own > 0, part * p.divisor() / np.where(own > 0, own, 1.0), 0.0)
    reduce, share = p.reduce, p.share
    p.reduce = lambda losses: reduce(losses * each)  # type: ignore[method-assign]
    p.share = lambda: share() * each  # type: ignore[method-assign]


def _ignored(label: int, counted: bool, p: PlainLoss) -> None:
    here = p.valid & (p.y != label % p.C)
    p.valid, p.reached = here, here.copy()
    if not counted:
        p.counts = here.copy()


def _not_scaled_anew(k: int, lse: np.ndarray, p: PlainLoss) -> np.ndarray:
    """Each block's e^(z − the largest so far), summed as they are."""
    largest = np.maximum.accumulate(p.z, axis=1)
    last = np.minimum(np.arange(p.C) // k * k + k, p.C) - 1  # of the block
    total: np.ndarray = largest[:, -1] + np.log(np.exp(p.z - largest[:, last]).sum(axis=1))
    return total


def _padded(k: int) -> Change:
    def padded(lse: np.ndarray, p: PlainLoss) -> np.ndarray:
        return np.logaddexp(lse, np.log(-p.C % k)) if p.C % k else lse

    return _changed("logsumexp", padded)


def _times(name: str, v: Any, p: PlainLoss) -> Any:
    return v * numbers(p)[name]


def _over(name: str, v: Any, p: PlainLoss) -> Any:
    return v / numbers(p)[name]


def _stored(dtype: str, v: Any, p: PlainLoss) -> Any:
    return rounded(np.real(v), DTYPES[dtype]) + (1j * np.imag(v) if np.iscomplexobj(v) else 0.0)


def _stored_on_target(dtype: str, v: Any, p: PlainLoss) -> Any:
    return np.where(p.target > 0, _stored(dtype, v, p), v) if np.shape(v) == p.target.shape else v


def _set_parameter(name: str, plain: PlainLoss, value: float) -> None:
    setattr(plain.q, name, float(value))


def _at(setter: Callable[[PlainLoss, float], None], value: float, plain: PlainLoss) -> None:
    setter(plain, value)


def _only(v: np.ndarray, rows: slice) -> np.ndarray:
    """These rows of it, and 0."""
    kept = np.zeros_like(v)
    kept[rows] = v[rows]
    return kept


# -- parameters ----------------------------------------------------------------------------------------


def _parameters(plain: PlainLoss) -> Iterator[tuple[str, float, Sequence[float], Callable[[PlainLoss, float], None]]]:
    """(words, the true value, where to start, how to set it)."""
    small = [float(v) for v in 10.0 ** np.arange(-12, 0, 1.5)]
    if plain.smoothing or plain.C > 1:
        yield "label smoothing were {}", plain.smoothing, (0.05, 0.3), lambda p, v: setattr(p, "smoothing", v)
    yield "p were at least {}", 0.0, small, _set("softmax", np.maximum)
    yield "{} were added to p", 0.0, small, _set("softmax", np.add)
    yield "z were c tanh(z/c) with c = {}", np.inf, (5.0, 20.0, 50.0), _set("logits", lambda z, c: c * np.tanh(z / c))
    yield "z were at most {}", np.inf, (5.0, 20.0, 50.0, 80.0), _set("logits", np.minimum)
    if plain.bare:
        return
    for name in ("scale", "alpha", "margin", "annealing"):
        true = getattr(plain.q, name, None)
        if isinstance(true, (int, float)) and true and not (name == "margin" and isinstance(true, int)):
            starts = [true * f for f in (0.3, 0.8, 1.1, 2.0)]
            yield name + " were {}", float(true), starts, partial(_set_parameter, name)
    for words, at in (("", 0), (" on the target", 1), (" on the other classes", -1)):
        yield f"the factor of the logits{words} were {{}} times as large", 1.0, (0.1, 0.7, 1.4, 5.0), _scaled(at)
    for site in ("x_length", "W_length"):
        yield SITES[site] + " were at least {}", 0.0, (*small, 1.0), _set(site, np.maximum)
        yield "{} were added to " + SITES[site], 0.0, small, _set(site, np.add)
        yield (
            "{} were added to " + SITES[site] + "²",
            0.0,
            small,
            _set(site, lambda v, e: np.sqrt(v * v + np.maximum(e, 0))),
        )
    yield "cos θ were kept within ±(1 − {})", 0.0, small, _set("cosines", lambda v, e: np.clip(v, e - 1, 1 - e))
    if plain.loss.has_margin:
        yield (
            "cos θ_y were kept within ±(1 − {}) in ψ, with no slope beyond",
            0.0,
            (*small, 0.1),
            lambda p, e: setattr(p, "psi", partial(_kept_within, p.psi, e)),
        )
        yield "dψ/dcos θ_y were {}", np.inf, (0.3, 1.0, 3.0), _constant_slope
    if plain.loss.has_margin and plain.q.target is formulas.arc_margin:
        yield (
            "{} were added to sin² θ in cos θ cos m − sin θ sin m",
            0.0,
            small,
            lambda p, e: setattr(p, "psi", partial(_with_another_sine, float(np.real(p.q.margin)), e)),
        )
    yield "dψ/dcos θ were at most {}", np.inf, (1.0, 2.0, 5.0, 10.0), _set("slope", np.minimum)


def _kept_within(psi: Callable[[Any], Any], e: float, theta: Any) -> Any:
    c = np.cos(np.real(theta))
    return np.where(np.abs(c) > 1 - e, psi(np.arccos(np.clip(c, e - 1, 1 - e))), psi(theta))


def _with_another_sine(m: float, e: float, theta: Any) -> Any:
    return np.cos(theta) * np.cos(m) - np.sqrt(np.sin(theta) ** 2 + e) * np.sin(m)


def _constant_slope(p: PlainLoss, value: float) -> None:
    p.slope = lambda: np.where(p.on, value, 1.0)  # type: ignore[method-assign]


def _scaled(at: int) -> Callable[[PlainLoss, float], None]:
    """The radius of every class, of the target (1) or of the others (−1), times a number."""

    def times(v: np.ndarray, p: PlainLoss, value: float) -> np.ndarray:
        chosen = np.ones_like(v, dtype=bool) if not at else (p.target > 0) == (at > 0)
        return np.where(chosen, value * v, v)

    return lambda plain, value: _changed("radius", lambda v, p: times(v, p, value))(plain)


def _set(site: str, operation: Callable[[Any, float], Any]) -> Callable[[PlainLoss, float], None]:
    return lambda plain, value: _changed(site, lambda v, p: operation(v, value))(plain)


def _misfit(
    few: Sequence[Observed], grade: Grade, stage: str, of_due: float = 0.0
) -> Callable[[Change], np.ndarray | None]:
    """How far a change is from what came back of one stage of these cases, in tolerances and parts of what is due."""

    def rest(change: Change) -> np.ndarray | None:
        parts = []
        for o in few:
            stages, got = made(o, change), o.got[stage]
            if stages is None or stage not in stages or np.shape(stages[stage]) != np.shape(got):
                return None
            unit = o.truth.tolerance(stage, grade) + of_due * np.abs(o.truth.stages[stage])
            parts.append(((stages[stage] - got) / np.maximum(unit, 1e-300)).ravel())
        every = np.concatenate(parts)
        return np.clip(every, -FAR, FAR) if np.isfinite(every).all() else None

    return rest


def _fitted(few: Sequence[Observed], grade: Grade, stage: str) -> Iterator[tuple[str, Change]]:
    """Every parameter at the value that fits this stage of these cases best."""
    n, rest = sum(o.got[stage].size for o in few), _misfit(few, grade, stage)
    for words, true, starts, setter in _parameters(few[0].truth.plain):
        tried = [(np.linalg.norm(r), v) for v in starts if (r := rest(partial(_at, setter, v))) is not None]
        if not tried:
            continue

        def at(log: np.ndarray, setter: Callable = setter) -> np.ndarray:
            found = rest(partial(_at, setter, float(np.exp(log[0]))))
            return np.full(n, FAR) if found is None else found

        with np.errstate(all="ignore"):
            start = np.log(min(tried)[1])
            fit = least_squares(
                at, [start], bounds=(start - 9, start + 9), xtol=1e-12, ftol=None, gtol=1e-15, max_nfev=40
            )
        value = float(np.exp(fit.x[0]))
        if value != true:
            instead = f" in place of {true:.6g}" if true and np.isfinite(true) else ""
            called = _name(value, few[0].truth.plain)
            yield (
                words.format(f"{value:.5g}" + (f" ({called})" if called else "")) + instead,
                partial(_at, setter, value),
            )


def _fitted_psi(few: Sequence[Observed], grade: Grade, stage: str) -> Iterator[tuple[str, Change]]:
    """ψ(θ) as another sum of what it is a sum of: of cos θ, sin θ and 1, or of (−1)^k cos^j θ and k."""
    plain = few[0].truth.plain
    if stage in BACKWARD_STAGES or plain.bare or not plain.loss.has_margin:
        return
    terms = _terms(plain)
    n = sum(o.got[stage].size for o in few)
    if n < 2 * len(terms):
        return
    theta = np.linspace(0.05, 3.1, 200)
    each = np.stack([np.real(term(theta)) for term in terms.values()], axis=1)
    due = start = np.linalg.lstsq(each, np.real(plain.psi(theta)), rcond=None)[0]
    rest = _misfit(few, grade, stage, of_due=0.01)

    kept = np.ones(n, dtype=bool)

    def at(factors: np.ndarray) -> np.ndarray:
        found = rest(partial(_with_psi, list(terms.values()), factors))
        return np.where(kept, FAR if found is None else found, 0.0)

    with np.errstate(all="ignore"):
        for _ in range(2):  # the second time without those far off: they have an error of their own, or lie at a knot
            fit = least_squares(at, start, x_scale=0.1, max_nfev=30)
            start, off = fit.x, np.abs(at(fit.x))
            kept = off <= OUTLIER * np.median(off)
    found = [
        f"{_term(v, name)} in place of {_term(v_due, name)}"
        for v, v_due, name in zip(fit.x, due, terms, strict=True)
        if abs(v - v_due) > NAMED * max(1, abs(v_due))
    ]
    yield f"ψ(θ) had {', '.join(found)}", partial(_with_psi, list(terms.values()), fit.x)


def _term(factor: float, name: str) -> str:
    if abs(factor) <= NAMED:
        return "0"
    size = f"{factor:.4g}".replace("-", "−")
    return size if name == "1" else name if size == "1" else f"−{name}" if size == "−1" else f"{size} {name}"


def _terms(plain: PlainLoss) -> dict[str, Callable[[Any], Any]]:
    """words → a function of θ, which may be complex."""
    target, m = plain.q.target, float(np.real(getattr(plain.q, "margin", 0.0)))
    cos: dict[str, Callable[[Any], Any]] = {"cos θ": np.cos, "1": lambda t: 1 + 0 * t}
    if target is formulas.cosine_margin:
        return cos
    if target is formulas.arc_margin and not plain.q.easy_margin and plain.q.past_pi != "linear":
        return {"cos θ": np.cos, "sin θ": np.sin, "1": cos["1"]}
    if target not in (formulas.psi, formulas.annealed_psi) or plain.q.continuation is not None:
        return {"ψ(θ)": plain.psi, **cos}

    def k(t: Any) -> Any:
        return np.clip(np.floor(m * np.real(t) / np.pi), 0, m - 1)

    made = {"(−1)^k": lambda t: (-1.0) ** k(t)}
    for j in range(1, int(m) + 1):
        made[f"(−1)^k cos{'' if j == 1 else f'^{j}'} θ"] = partial(lambda j, t: (-1.0) ** k(t) * np.cos(t) ** j, j)
    return made | {"k": lambda t: k(t) + 0 * t} | ({"cos θ": np.cos} if target is formulas.annealed_psi else {})


def _with_psi(terms: Sequence[Callable[[Any], Any]], factors: np.ndarray, plain: PlainLoss) -> None:
    plain.psi = lambda theta: sum(a * f(theta) for a, f in zip(factors, terms, strict=True))  # type: ignore


def _name(value: float, plain: PlainLoss) -> str:
    """What a fitted number is in terms of the loss's own parameters, or ""."""
    if plain.bare:
        return ""
    own = {n: float(np.real(getattr(plain.q, n))) for n in ("scale", "alpha", "margin") if getattr(plain.q, n, None)}
    known: dict[str, float] = {}
    for n, v in own.items():
        known |= {f"1 − {n}": 1 - v, f"{n}²": v * v, f"{n} · π/180": v * np.pi / 180, f"{n} · 180/π": v * 180 / np.pi}
        known |= {
            f"cos {n}": np.cos(v),
            f"sin {n}": np.sin(v),
            f"2 {n}": 2 * v,
            f"{n}/2": v / 2,
            f"√{n}": np.sqrt(abs(v)),
        }
        known |= {f"{n} / {other}": v / w for other, w in own.items() if other != n}
        if plain.smoothing:
            known[f"{n} · (1 − label_smoothing)"] = v * (1 - plain.smoothing)
    return next((name for name, v in known.items() if abs(value - v) <= NAMED * abs(v)), "")
