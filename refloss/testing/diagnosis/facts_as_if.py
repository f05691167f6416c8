"""What came back is what comes out of the formula if one of its quantities were another.

Each quantity of the plain loss (a length, cos θ, ψ, the radius, log Σ e^z, p, the target, what arrives at a row …) is
changed by each of a few operations that know nothing of any bug, and each parameter is fitted. What explains all
stages of all cases is a fact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from refloss.precision.dtypes import DTYPES, rounded
from refloss.testing.diagnosis.facts_known import numbers
from refloss.testing.diagnosis.match import Observed
from refloss.testing.judging import units
from refloss.testing.judging.truth import Grade
from refloss.testing.plain_loss import PlainLoss

Change = Callable[[PlainLoss], None]
TRIED = 12  # cases that a change which explains the first is verified on
# method of PlainLoss → words
SITES = {
    "share": "what arrives at a row", "grad_logits": "the gradient of a row's loss in its logits",
    "slope": "dψ/dcos θ", "softmax": "p", "logsumexp": "log Σ e^z", "radius": "the radius r of the logits",
    "values": "cos θ and ψ", "psi": "ψ", "angles": "θ", "cosines": "cos θ", "x_length": "‖x‖", "W_length": "‖W_c‖",
    "x_unit": "x̂", "W_unit": "Ŵ", "x_growth": "x̂ in the projection", "W_growth": "Ŵ in the projection",
    "logits": "z", "bias": "b", "smoothed": "t", "weighted": "w_c t_c", "sample_losses": "the loss of a row",
    "divisor": "the divisor of the mean",
}  # fmt: skip
OF_BARE = (
    "share", "grad_logits", "softmax", "logsumexp", "smoothed", "weighted", "sample_losses", "divisor",
)  # fmt: skip


@dataclass(frozen=True)
class AsIf:
    """words: "‖x‖ were 0". held: the cases that it explains; tried: of so many."""

    words: str
    held: tuple[str, ...]
    tried: int


def as_if(failing: Sequence[Observed], passing: Sequence[Observed], grade: Grade) -> AsIf | None:
    """The change of one quantity that explains all that came back in nearly all cases."""
    clear = sorted((o for o in failing if _clear(o, grade)), key=lambda o: o.size)
    if len(clear) < 2:
        return None
    middle = len(clear) // 3
    first, second = clear[middle], clear[2 * len(clear) // 3]
    few = [clear[i] for i in np.unique(np.linspace(0, len(clear) - 1, TRIED).astype(int))]
    right = [passing[i] for i in np.unique(np.linspace(0, len(passing) - 1, 4).astype(int))] if passing else []
    best: AsIf | None = None
    for words, change in (*_operations(first.truth.plain), *_fitted([first, clear[0]], grade)):
        if not (explains(first, change, grade) or explains(second, change, grade)):
            continue
        held = tuple(o.case for o in few if explains(o, change, grade))
        wrong = sum(not explains(o, change, grade) for o in right)
        if len(held) >= 0.8 * len(few) and not wrong and (best is None or len(held) > len(best.held)):
            best = AsIf(words, held, len(few))
            if len(held) == len(few):
                break
    return best


def _clear(o: Observed, grade: Grade) -> bool:
    """Whether an error is large enough to tell what it is."""
    with np.errstate(all="ignore"):
        ratios = [
            np.max(units.size(s, g - o.truth.stages[s]) / o.truth.room(s, grade)) for s, g in o.got.items() if g.size
        ]
    return bool(ratios) and all(np.isfinite(ratios)) and max(ratios) > 8


def made(o: Observed, change: Change) -> dict[str, np.ndarray] | None:
    """The stages of the changed loss."""
    t = o.truth
    plain = PlainLoss(t.loss, t.inputs, t.labels, t.upstream, o.previous)
    try:
        with np.errstate(all="ignore"):
            change(plain)
            return plain.run()
    except (ValueError, IndexError, ZeroDivisionError, FloatingPointError, AttributeError):
        return None


def explains(o: Observed, change: Change, grade: Grade) -> bool:
    """Whether the changed loss gives all that came back, as nearly as rounding allows."""
    stages = made(o, change)
    if stages is None:
        return False
    for stage, got in o.got.items():
        if stage not in stages or np.shape(stages[stage]) != np.shape(got):
            return False
        due, room = o.truth.stages[stage], o.truth.room(stage, grade)
        with np.errstate(all="ignore"):
            copy = o.truth.as_wrong(stage, stages[stage])
            off, left = (units.size(stage, got - v) for v in (due, copy))
            moved = units.size(stage, copy - due)
            if not np.isfinite(moved).all():
                return False
            allowed = np.where(off > room, np.minimum(4 * room, off / 4), 2 * room)
            if not (left <= np.maximum(allowed, 1e-3 * moved)).all():
                return False
    return True


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
    m = float(np.real(getattr(plain.q, "margin", 0.0)))
    yield "every class carried the margin", to("on", lambda p: np.ones_like(p.on))
    yield "every class but the target carried the margin", to("on", lambda p: ~p.on)
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
        for name, of in k_of.items():
            others[f"(−1)^k cos mθ − 2k with {name} in place of k"] = partial(_by_k, m, of)
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
    yield "the margin's slope were left out (ψ detached)", lambda p: setattr(p, "slope", lambda: np.ones_like(p.cos))


def _beyond(plain: PlainLoss, psi: Callable[[Any], Any], turn: float, beyond: bool) -> Callable[[Any], Any]:
    """Another ψ on one side of an angle."""
    own = plain.psi
    return lambda t: np.where((np.real(t) > turn) == beyond, psi(t), own(t))


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


def _by_k(m: float, of: Callable[[Any], Any], theta: Any) -> Any:
    """(−1)^k cos mθ − 2k with k = of(mθ/π)."""
    k = of(m * np.real(theta) / np.pi)
    return (-1.0) ** k * np.cos(m * theta) - 2 * k


def _times(name: str, v: Any, p: PlainLoss) -> Any:
    return v * numbers(p)[name]


def _over(name: str, v: Any, p: PlainLoss) -> Any:
    return v / numbers(p)[name]


def _stored(dtype: str, v: Any, p: PlainLoss) -> Any:
    return rounded(np.real(v), DTYPES[dtype]) + (1j * np.imag(v) if np.iscomplexobj(v) else 0.0)


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
        yield SITES[site] + " were at least {}", 0.0, small, _set(site, np.maximum)
        yield "{} were added to " + SITES[site], 0.0, small, _set(site, np.add)
        yield (
            "{} were added to " + SITES[site] + "²",
            0.0,
            small,
            _set(site, lambda v, e: np.sqrt(v * v + np.maximum(e, 0))),
        )
    yield "cos θ were kept within ±(1 − {})", 0.0, small, _set("cosines", lambda v, e: np.clip(v, e - 1, 1 - e))
    yield "z were at most {}", np.inf, (5.0, 20.0, 50.0, 80.0), _set("logits", np.minimum)
    yield "dψ/dcos θ were at most {}", np.inf, (1.0, 2.0, 5.0, 10.0), _set("slope", np.minimum)


def _scaled(at: int) -> Callable[[PlainLoss, float], None]:
    """The radius of every class, of the target (1) or of the others (−1), times a number."""

    def times(v: np.ndarray, p: PlainLoss, value: float) -> np.ndarray:
        chosen = np.ones_like(v, dtype=bool) if not at else (p.target > 0) == (at > 0)
        return np.where(chosen, value * v, v)

    return lambda plain, value: _changed("radius", lambda v, p: times(v, p, value))(plain)


def _set(site: str, operation: Callable[[Any, float], Any]) -> Callable[[PlainLoss, float], None]:
    return lambda plain, value: _changed(site, lambda v, p: operation(v, value))(plain)


def _fitted(few: Sequence[Observed], grade: Grade) -> Iterator[tuple[str, Change]]:
    """Every parameter at the value that fits these cases best."""

    def rest(setter: Callable, value: float) -> np.ndarray | None:
        parts = []
        for o in few:
            stages = made(o, partial(_at, setter, value))
            for stage, got in o.got.items():
                if stages is None or stage not in stages or np.shape(stages[stage]) != np.shape(got):
                    return None
                parts.append(((stages[stage] - got) / np.maximum(o.truth.tolerance(stage, grade), 1e-300)).ravel())
        every = np.concatenate(parts)
        return every if np.isfinite(every).all() else None

    for words, true, starts, setter in _parameters(few[0].truth.plain):
        tried = [(np.linalg.norm(r), v) for v in starts if (r := rest(setter, v)) is not None]
        if not tried:
            continue
        value = float(min(tried)[1])
        now = rest(setter, value)
        for _ in range(12):
            step = 1e-6 * value
            beyond = rest(setter, value + step)
            if now is None or beyond is None or not np.any(slope := (beyond - now) / step):
                break
            move = -float(slope @ now) / float(slope @ slope)
            move = max(min(move, value), -0.8 * value)
            after = rest(setter, value + move)
            if after is None or not np.linalg.norm(after) < np.linalg.norm(now):
                break
            value, now = value + move, after
            if abs(move) < 1e-9 * abs(value):
                break
        if now is not None and value != true:
            instead = f" in place of {true:.6g}" if true and np.isfinite(true) else ""
            yield words.format(f"{value:.5g}") + instead, partial(_at, setter, value)
