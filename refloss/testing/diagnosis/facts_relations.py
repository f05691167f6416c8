"""got = c · Q, got = due + c · Q or got = due + c · Q + d · R, with quantities Q, R and factors c, d that have a name.

A relation is fitted case by case and holds only where it explains every unit that is wrong and leaves every other one
right; its factor's name must give the fitted number in every one of those cases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from refloss.testing.diagnosis.facts_known import View, candidates, factors
from refloss.testing.diagnosis.match import spread
from refloss.testing.judging import units

CLEAR = 8.0  # an error of so many tolerances tells what it is; a smaller one fits anything
UNSURE = 0.02  # a factor that is known no better has no name
ENOUGH = 0.8  # of the clear cases
TRIED = 16  # cases that each quantity is tried on
FEWEST = 5  # wrong numbers: fewer fit anything
PAIRED = 80  # quantities of which every two are tried


@dataclass
class Relation:
    """words: what stands behind the stage's name. held: the cases. simple: the smaller the simpler."""

    words: str
    held: list[str]
    clear: int
    simple: float
    only_wrong: bool = False
    named: bool = True


def relation(failing: Sequence[View]) -> Relation | None:
    """The simplest of one stage that holds in nearly all its failing cases."""
    with np.errstate(all="ignore"):
        clear = [v for v in failing if np.isfinite(v.got).all() and np.max(v.off / v.room, initial=0.0) >= CLEAR]
        if not clear:
            return None
        few = spread(clear, TRIED)
        known = [candidates(v) for v in few]
        named = [factors(v.plain) for v in few]
        found: list[Relation] = []
        for only_wrong in (False, True):
            found += _single(few, known, named, only_wrong)
            if found:
                break
        if not found:
            found = _double(few, known, named)
        return min(found, key=lambda r: r.simple, default=None)


def _single(
    few: Sequence[View], known: Sequence[Mapping[str, np.ndarray]], named: Sequence[Mapping[str, float]], only: bool
) -> list[Relation]:
    found = []
    names = list(dict.fromkeys(name for k in known for name in k))
    for place, name in enumerate(names):
        for from_due in (False, True):
            if from_due and name == "what is due":
                continue
            held, fits, missing = [], [], 0
            for v, k, f in zip(few, known, named, strict=True):
                fit = _fit(v, v.got - v.due if from_due else v.got, [k[name]], only) if name in k else None
                if fit is None:
                    missing += 1
                    if missing > (1 - ENOUGH) * len(few):
                        break
                    continue
                held.append(v.o.case)
                fits.append((fit[0][0], fit[1][0], f))
            if missing > (1 - ENOUGH) * len(few) or not fits:
                continue
            if sum(_numbers(v) for v in few if v.o.case in held) < FEWEST:
                continue
            factor, cost, agree = factor_name(fits)
            held = [case for case, agrees in zip(held, agree, strict=True) if agrees]
            if factor is None and (name != "what is due" or few[0].due.ndim == 0 or len(held) < 2):
                continue
            words = _words(name, factor, fits, from_due)
            simple = cost + (3 if from_due else 0) + (0 if name == "what is due" else 4 + place / 10) + 8 * only
            found.append(Relation(words, held, len(few), simple, only, named=factor is not None))
    return found


def _words(name: str, factor: str | None, fits: Sequence[tuple[float, float, Mapping]], from_due: bool) -> str:
    if factor == "0":
        return "0"
    if factor is None:
        low, high = min(c for c, _, _ in fits), max(c for c, _, _ in fits)
        return f"{name} times a number that differs from case to case ({low:.3g} to {high:.3g})"
    minus = factor.startswith("−")
    size = factor.removeprefix("−")
    called = f"({name})" if " − " in name or " + " in name else name
    times = name if size == "1" else size if name == "1" else f"{size} × {called}"
    if from_due:
        return f"what is due {'less' if minus else 'plus'} {times}"
    return f"−{times}" if minus and size != "1" else f"minus {times}" if minus else times


def _double(
    few: Sequence[View], known: Sequence[Mapping[str, np.ndarray]], named: Sequence[Mapping[str, float]]
) -> list[Relation]:
    """got − due as a sum of two quantities; tried on the case with the most numbers first."""
    if few[0].due.ndim == 0:
        return []
    k = int(np.argmax([v.due.size for v in few]))
    v, left = few[k], few[k].got - few[k].due
    names = [n for n in known[k] if all(n in other for other in known)][:PAIRED]
    if v.due.size < 12 or len(names) < 2:
        return []
    scale = 1 / _floor(v)
    Q = np.array([(known[k][n] * scale).ravel() for n in names])
    length = np.linalg.norm(Q, axis=1)
    Q = Q[length > 0] / length[length > 0, None]
    names = [n for n, kept in zip(names, length > 0, strict=True) if kept]
    target = (left * scale).ravel()
    gram, along = Q @ Q.T, Q @ target
    i, j = np.triu_indices(len(names), 1)
    det = 1 - gram[i, j] ** 2
    explained = (along[i] ** 2 + along[j] ** 2 - 2 * gram[i, j] * along[i] * along[j]) / np.where(
        det > 1e-9, det, np.inf
    )
    rest = target @ target - explained
    order = np.argsort(rest)[:6]
    found = []
    for place in order:
        pair = [names[i[place]], names[j[place]]]
        held, fits = [], []
        for w, q, f in zip(few, known, named, strict=True):
            fit = _fit(w, w.got - w.due, [q[n] for n in pair], False)
            if fit is not None:
                held.append(w.o.case)
                fits.append((fit, f))
        if len(held) < ENOUGH * len(few) or len(held) < min(2, len(few)):
            continue
        if sum(_numbers(w) for w in few if w.o.case in held) < FEWEST:
            continue
        made = [factor_name([(fit[0][t], fit[1][t], f) for fit, f in fits]) for t in (0, 1)]
        if any(factor in (None, "0") for factor, _, _ in made):
            continue
        terms = []
        for (factor, _, _), name in zip(made, pair, strict=True):
            size = str(factor).removeprefix("−")
            terms.append(f"{'less' if str(factor)[0] == '−' else 'plus'} {name if size == '1' else f'{size} × {name}'}")
        found.append(Relation(f"what is due {' '.join(terms)}", held, len(few), 20 + sum(c for _, c, _ in made)))
    return found


def _numbers(v: View) -> int:
    """How many wrong numbers a factor is told from: one a row, since what differs from row to row is fitted with it."""
    return int(np.count_nonzero(v.wrong.reshape(len(v.wrong), -1).any(axis=1))) if v.wrong.ndim else int(v.wrong)


def _floor(v: View) -> np.ndarray:
    """Tolerances to weigh with: one entry that allows nothing must not outweigh the others."""
    typical = float(np.median(v.tol)) if v.tol.size else 1.0
    return np.maximum(v.tol, max(typical, np.finfo(float).tiny))


def _fit(v: View, left: np.ndarray, terms: Sequence[np.ndarray], only: bool) -> tuple[np.ndarray, np.ndarray] | None:
    """(factors, how far off each may be) or None where it does not hold."""
    among = v.wrong if only else np.ones_like(v.wrong)
    entries = np.broadcast_to(units.spread(v.stage, among), v.due.shape)
    w = (1 / _floor(v))[entries]
    Q = np.array([(q[entries] * w).ravel() for q in terms])
    if not Q.size:
        return None
    gram = Q @ Q.T
    if not (np.isfinite(gram).all() and (np.max(np.abs(Q), axis=1) >= CLEAR).all()):
        return None
    if len(terms) == 1:
        c = (Q @ (left[entries] * w).ravel()) / gram[0, 0]
    else:
        if np.linalg.det(gram) <= 1e-6 * gram[0, 0] * gram[1, 1]:
            return None
        c = np.linalg.solve(gram, Q @ (left[entries] * w).ravel())
    size, off = 1 + np.abs(c).sum(), v.off
    rest = units.size(v.stage, left - sum(a * q for a, q in zip(c, terms, strict=True)))
    allowed = np.where(v.wrong, np.minimum(size * v.room, off / 4), size * v.room)
    if not (rest[among] <= np.maximum(allowed, 1e-3 * np.where(v.wrong, off, 0.0))[among]).all():
        return None
    return c, size / np.max(np.abs(Q), axis=1)


def factor_name(fits: Sequence[tuple[float, float, Mapping[str, float]]]) -> tuple[str | None, float, list[bool]]:
    """(the simplest name that gives the fitted factor in nearly all cases, how simple it is, in which cases), of
    (factor, error, names)."""
    known = [d <= UNSURE * max(abs(c), 0.05) for c, d, _ in fits]
    sure = [fit for fit, is_sure in zip(fits, known, strict=True) if is_sure]
    everywhere = [True] * len(fits)
    if not sure:
        return None, 0.0, everywhere
    for missing in (0, int((1 - ENOUGH) * len(sure))):
        for place, (name, (sign, minus)) in enumerate(product(sure[0][2], ((1, ""), (-1, "−")))):
            if name == "0" and minus:
                continue
            agree = [
                not is_sure or (name in f and abs(c - sign * f[name]) <= d + 1e-9 * abs(c))
                for (c, d, f), is_sure in zip(fits, known, strict=True)
            ]
            if agree.count(False) <= missing:
                if name.startswith(("1 + ", "1 − ", "√(", "(")) and len({f.get(name) for _, _, f in fits}) == 1:
                    name = f"{sure[0][2][name]:.4g} ({name})"  # the same in all cases: it may be chance
                return minus + name, place // 2 / 20 + (0.5 if minus else 0.0), agree
    values = np.array([c for c, _, _ in sure])
    errors = np.array([d for _, d, _ in sure])
    middle = values[np.argmin(errors)]
    if len(values) > 2 and (np.abs(values - middle) <= errors + np.min(errors)).all():
        return f"{middle:.4g}".replace("-", "−"), 10.0, everywhere
    return None, 12.0, everywhere
