"""The quantities of a case that what came back is compared with: numbers, and arrays of a stage's shape, by name.

Simplest first in each: of two that agree everywhere the first one is told.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from refloss.testing.diagnosis.facts_common import DUE
from refloss.testing.diagnosis.match import Observed
from refloss.testing.judging import units
from refloss.testing.judging.truth import Grade
from refloss.testing.plain_loss import PlainLoss, inverse

CONSTANTS = {
    "0": 0.0, "1": 1.0, "2": 2.0, "1/2": 0.5, "4": 4.0, "1/4": 0.25, "3": 3.0, "1/3": 1 / 3, "8": 8.0, "1/8": 0.125,
    "ln 2": float(np.log(2)), "1/ln 2": float(1 / np.log(2)), "π": float(np.pi), "π/180": float(np.pi / 180),
}  # fmt: skip
ENTRIES = ("logits", "probabilities", "grad_logits", "cos_theta")  # (N, C)
OF_CLASSES = ("grad_W", "grad_b", "W_norm")  # the first axis is the classes'
Arrays = dict[str, np.ndarray]


@dataclass
class View:
    """One stage of one case, flat: (N, C), (N,), (N, D), (C, D), (C,) or ().

    got, due    what came back and what was due
    tol         what is allowed at each entry; room: in each unit of judgement, rows of grad_x and grad_W, else entries
    wrong       which units are wrong
    """

    o: Observed
    stage: str
    got: np.ndarray
    due: np.ndarray
    tol: np.ndarray
    room: np.ndarray
    wrong: np.ndarray
    grade: Grade

    @property
    def plain(self) -> PlainLoss:
        return self.o.truth.plain

    @property
    def off(self) -> np.ndarray:
        return units.size(self.stage, self.got - self.due)


def view(o: Observed, stage: str, grade: Grade) -> View:
    """One stage of one case."""
    t, got = o.truth, o.got[stage]
    with np.errstate(all="ignore"):
        excess, allowed = t.judged(stage, got, grade)
        wrong = ~(excess <= allowed)
        made = (got, t.stages[stage], t.tolerance(stage, grade), t.room(stage, grade), wrong)
    came, due, tol, room, wrong = (flat(t.plain, np.asarray(v)) for v in made)
    return View(o, stage, came, due, tol, room, wrong, grade)


def flat(plain: PlainLoss, value: np.ndarray) -> np.ndarray:
    """Bare logits' stages as (N, C), (N,) or ()."""
    if not plain.bare or not value.ndim:
        return value
    if value.shape == plain.logits_given.shape:
        return np.moveaxis(value, plain.axis, -1).reshape(plain.N, plain.C)
    return value.ravel()


def numbers(plain: PlainLoss) -> dict[str, float]:
    """What has one value in a case."""
    w_y = float(plain.w[plain.y][plain.valid].sum())
    found = {"upstream": float(plain.upstream)} if plain.upstream.ndim == 0 else {}
    found |= {"the number of rows that count": float(plain.valid.sum()), "N": float(plain.N), "C": float(plain.C)}
    if plain.hard:
        of_0 = float(np.count_nonzero(plain.valid & (plain.y == 0)))
        found["the number of rows that count and are not of class 0"] = float(plain.valid.sum()) - of_0
        found["the number of labels that occur"] = float(len(np.unique(plain.y[plain.valid])))
    if plain.loss.class_weights is not None:
        found |= {"Σ w_y": w_y, "Σ w": float(plain.w.sum())}
        for name, w in (("w_0", plain.w[0]), ("the last class's w", plain.w[-1])):
            found[f"Σ w_y with {name} of ignored rows"] = w_y + float(w * np.count_nonzero(~plain.valid))
    if not plain.bare:
        found["D"] = float(plain.x.shape[1])
        for name in ("scale", "alpha", "margin", "annealing"):
            if getattr(plain.q, name, None):
                found[name] = float(np.real(getattr(plain.q, name)))
    if plain.smoothing:
        found |= {"label_smoothing": plain.smoothing, "1 − label_smoothing": 1 - plain.smoothing}
    found["log C"] = float(np.log(plain.C))
    found["N − 1"], found["C − 1"] = plain.N - 1.0, plain.C - 1.0
    return found


def factors(plain: PlainLoss) -> dict[str, float]:
    """Every number that a factor is compared with: constants, the case's numbers, their inverses, and products."""
    own = numbers(plain)
    single = {}
    for name, v in own.items():
        single[name] = v
        single[f"1/({name})" if " " in name else f"1/{name}"] = 1 / v if v else np.inf
    for name, v in own.items():
        single[f"({name})²"] = v * v
        single[f"1/({name})²"] = 1 / (v * v) if v else np.inf
        single[f"√({name})"] = float(np.sqrt(v)) if v > 0 else np.inf
        single[f"1 + {name}"] = 1 + v
        single[f"1 − {name}"] = 1 - v
    for k in (2, 4, 8, 16, 32, 64, 128):
        single[f"N / (N up to a multiple of {k})"] = plain.N / (-(-plain.N // k) * k) if plain.N else np.inf
    many = CONSTANTS | single
    names = list(own)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            many[f"{a} · {b}"] = own[a] * own[b]
            many[f"{a} / {b}"] = own[a] / own[b] if own[b] else np.inf
            many[f"{b} / {a}"] = own[b] / own[a] if own[a] else np.inf
    return many


def of_rows(plain: PlainLoss) -> Arrays:
    """(N,) of each sample."""
    at = np.arange(plain.N), plain.y
    found: Arrays = {}
    if plain.upstream.ndim:
        found["the row's upstream"] = plain.upstream.ravel()
    if plain.loss.class_weights is not None:
        found["w_y"] = plain.w[plain.y]
    if not plain.hard or plain.smoothing:
        found["Σ_c w_c t_c"] = plain.a.sum(axis=1)
    if not plain.bare:
        found |= {"‖x‖": plain.x_norm, "‖W_y‖": plain.W_norm[plain.y], "cos θ_y": plain.cos[at]}
        if plain.loss.has_margin:
            found |= {"θ_y": plain.theta[at], "ψ(θ_y)": plain.value[at], "the slope dψ/dcos θ_y": plain.rise[at]}
    found |= {"p_y": plain.p[at], "1 − p_y": plain.others[at], "z_y": plain.z[at], "log Σ e^z": plain.lse}
    found |= {"max z": plain.z.max(axis=1), "the mean of z": plain.z.mean(axis=1)}
    found["the number of the label's rows"] = np.bincount(plain.y, minlength=plain.C)[plain.y].astype(float)
    return found


def of_classes(plain: PlainLoss) -> Arrays:
    """(C,) of each class."""
    found: Arrays = {}
    if plain.loss.class_weights is not None:
        found["w_c"] = plain.w
    if not plain.bare:
        found["‖W_c‖"] = plain.W_norm
    found["the number of the class's rows"] = np.bincount(plain.y[plain.valid], minlength=plain.C).astype(float)
    return found


def _ratios(arrays: Arrays) -> Iterator[tuple[str, np.ndarray]]:
    """Each that is not the same throughout, its inverse and square."""
    with np.errstate(all="ignore"):
        for name, v in arrays.items():
            if v.size and (v != v.flat[0]).any():
                yield name, v
                yield f"1/({name})" if " " in name else f"1/{name}", 1 / v
                yield f"({name})²", v * v


def candidates(v: View) -> Arrays:
    """Arrays of the stage's shape: "what is due" first, then that by rows and classes, then everything else."""
    plain, stage, due = v.plain, v.stage, v.due
    made: Arrays = {"what is due": due}
    if due.ndim:
        tail = (slice(None), None) if due.ndim == 2 else (slice(None),)
        rows = dict(_ratios(of_classes(plain) if stage in OF_CLASSES else of_rows(plain)))
        made |= {f"{name} × what is due": q[tail] * due for name, q in rows.items()}
        if stage in ENTRIES:
            made |= {f"{name} × what is due": q * due for name, q in _ratios(of_classes(plain))}
        with np.errstate(all="ignore"):
            made |= dict(_of_stage(v))
        made["the next row's value"] = np.roll(due, -1, axis=0)
        made["the last row's value"] = np.roll(due, 1, axis=0)
        made["the value of the row counted from the end"] = due[::-1]
        if due.ndim == 2:
            made |= {"the value one column on": np.roll(due, -1, 1), "the value one column back": np.roll(due, 1, 1)}
            if due.shape[0] == due.shape[1]:
                made["its transpose"] = due.T
            made["its values in column-major order"] = due.ravel(order="F").reshape(due.shape)
        if due.ndim == 1:
            made |= rows
            made["1"] = np.ones_like(due)
    else:
        made |= _of_scalar(v)
    for name, before in (("the last call's value", v.o.previous), ("the first call's value", plain.earliest)):
        if before is not None and before is not plain and stage in before.stages:
            old = flat(before, before.stages[stage])
            if old.shape == due.shape:
                made[name] = old
    return {name: q for name, q in made.items() if np.shape(q) == due.shape and np.isfinite(q).all()}


def _of_scalar(v: View) -> Arrays:
    """Of the loss and the gradients in scale, alpha and margin."""
    plain = v.plain
    losses = flat(plain, plain.stages["losses"])
    made: dict[str, Any] = {"1": 1.0}
    if v.stage == "loss":
        made |= {
            "the sum of the losses": losses.sum(), "the largest loss": losses.max(), "the first loss": losses[0],
            "the last loss": losses[-1], "the mean of lse²": np.mean(plain.lse**2), "the mean of lse": plain.lse.mean(),
            "the mean of z_y": np.mean(plain.z[np.arange(plain.N), plain.y]),
        }  # fmt: skip
    return {name: np.asarray(q) for name, q in made.items()}


def _of_stage(v: View) -> Iterator[tuple[str, np.ndarray]]:
    """What stands in the formula of a stage."""
    plain, stage = v.plain, v.stage
    onehot = np.zeros_like(plain.p)
    onehot[np.arange(plain.N), plain.y] = plain.valid
    share = plain.share()[:, None]
    if stage in ENTRIES:
        yield "the one-hot target", onehot
        yield "p", plain.p
        if not plain.bare:
            yield "cos θ", plain.cos
            yield "θ", plain.theta
        if stage != "grad_logits":
            yield "z", plain.z
            yield "max z", plain.z.max(axis=1)[:, None] + 0 * plain.z
            yield "1", np.ones_like(plain.z)
            return
        g = plain.grad_logits()
        yield "p − t", plain.p - plain.target
        yield "the gradient of the row's loss", g
        top = np.eye(plain.C)[plain.z.argmax(axis=1)]
        with_share = {
            "the one-hot of the largest logit": top,
            "p": plain.p,
            "the one-hot target": onehot,
            "t": plain.a,
            "1": np.ones_like(g),
        }
        with_share |= {"p²": plain.p**2, "p (1 − p)": plain.p * plain.others, "z": plain.z, "w_c p": plain.w * plain.p}
        with_share["lse · p"] = plain.lse[:, None] * plain.p
        if plain.on.any():
            with np.errstate(all="ignore"):
                with_share["the one-hot target / (dψ/dcos θ_y)"] = np.where(plain.on, onehot / plain.rise, 0.0)
        yield from ((f"{name} × the row's share", q * share) for name, q in with_share.items())
        yield "what is due × the one-hot target", v.due * onehot
        return
    if stage == "losses":
        yield "lse²", plain.lse**2
        yield "−mean of log p", plain.lse - plain.z.mean(axis=1)
        return
    if stage not in ("grad_x", "grad_W"):
        return
    of_x = stage == "grad_x"
    turn = (lambda m: m) if of_x else (lambda m: m.T)
    own, other = (plain.x, plain.W) if of_x else (plain.W, plain.x)
    own_hat, other_hat = (plain.x_hat, plain.W_hat) if of_x else (plain.W_hat, plain.x_hat)
    length = plain.x_norm if of_x else plain.W_norm
    over = inverse(length)[:, None]
    hat, others_hat = ("x̂", "Ŵ") if of_x else ("Ŵ", "x̂")
    radial = np.sum(v.due * own_hat, axis=1, keepdims=True) * own_hat
    yield "its part along " + hat, radial
    yield f"‖{'x' if of_x else 'W_c'}‖ × its part along {hat}", radial * length[:, None]
    A, B = plain.g * plain.r * plain.rise, plain.g * plain.r * plain.value
    along = turn(A * plain.cos).sum(axis=1, keepdims=True) * own_hat * over
    removed = f"the part along {hat} that going back through the norm removes"
    yield removed, along
    yield f"‖{'x' if of_x else 'W_c'}‖ × {removed}", along * length[:, None]
    with_y = turn(A * np.where(onehot > 0, plain.cos, 0.0).sum(axis=1, keepdims=True)).sum(axis=1, keepdims=True)
    yield f"{removed}, with cos θ_y in place of every cos θ", with_y * own_hat * over
    brings = "brings" if (plain.p_x if of_x else plain.p_W) else "would bring"
    yield (
        f"the part along {hat} that the norm as a factor of the logits {brings}",
        (turn(B).sum(axis=1, keepdims=True) * own_hat * over),
    )
    yield f"the gradient in {hat}", turn(A) @ other_hat
    yield f"the gradient in {hat} without its part along {hat}", v.due * length[:, None]
    yield f"grad_logits × {'W' if of_x else 'x'}", turn(plain.g) @ other
    if not of_x and plain.N != plain.C:
        yield "grad_logits (N, C) reshaped to (C, N), not transposed, × x", plain.g.reshape(plain.C, plain.N) @ other
    yield f"grad_logits × {others_hat}", turn(plain.g) @ other_hat
    target = plain.a * share
    for what, matrix in (("target", target), ("probabilities", plain.p * share)):
        yield (
            f"the {what}' part of the gradient" if what[-1] == "s" else f"the {what}'s part of the gradient",
            (turn(matrix * plain.r * plain.rise) @ other_hat * over),
        )
        yield f"the {what} × {'W' if of_x else 'x'}", turn(matrix) @ other
    is_target = turn((A - plain.g * plain.r) * onehot)
    yield (
        "the margin's slope on the target",
        (is_target @ other_hat - (is_target * turn(plain.cos)).sum(axis=1, keepdims=True) * own_hat) * over,
    )
    yield hat, own_hat
    yield "x" if of_x else "W", own
    yield f"{'W_y' if of_x else 'the sum of the x of the class'}", turn(onehot) @ other


def facts_about_rows(v: View, margin: Any) -> dict[str, np.ndarray]:
    """What the units of a stage may have in common, bool or a number; shaped like the units, or to go with them."""
    plain = v.plain
    counts = np.bincount(plain.y[plain.valid], minlength=plain.C)
    classes: Arrays = {
        "no row has the class as its label": counts == 0,
        "more than one row has the class as its label": counts > 1,
        "class": np.arange(plain.C), "class 0": np.arange(plain.C) == 0,
        "the last class": np.arange(plain.C) == plain.C - 1,
    }  # fmt: skip
    if plain.loss.class_weights is not None:
        classes |= {"w_c": plain.w, "w_c = 0": plain.w == 0}
    if not plain.bare:
        classes["‖W_c‖"] = plain.W_norm
    due = {DUE: units.size(v.stage, v.due)}
    if v.stage in OF_CLASSES:
        return classes | due
    at = np.arange(plain.N), plain.y
    row = np.arange(plain.N)
    rows: Arrays = {"ignored": ~plain.valid, "row": row, "the last row": row == plain.N - 1}
    if plain.hard:
        seen = np.zeros(plain.N, bool)
        seen[np.unique(plain.y, return_index=True)[1]] = True
        rows |= {
            "label 0": plain.y == 0, "the last class as label": plain.y == plain.C - 1, "label": plain.y,
            "the class C/2 as label": plain.y == plain.C // 2,
            "a label that another row has too": counts[plain.y] > 1, "a label that an earlier row has": ~seen,
        }  # fmt: skip
    if plain.upstream.ndim:
        up = plain.upstream.ravel()
        rows |= {"an upstream below 0": up < 0, "upstream 0": up == 0, "|upstream|": np.abs(up), "upstream": up}
    if not plain.bare:
        rows |= {"‖x‖": plain.x_norm, "cos θ_y": plain.cos[at], "θ_y": plain.theta[at], "‖W_y‖": plain.W_norm[plain.y]}
        if margin and plain.loss.has_margin:
            rows["dψ/dcos θ_y"] = plain.rise[at]
            rows["θ_y > π − m"] = plain.theta[at] > np.pi - margin
            rows["⌊m θ_y/π⌋"] = np.floor(margin * plain.theta[at] / np.pi)
            rows["an odd ⌊m θ_y/π⌋"] = rows["⌊m θ_y/π⌋"] % 2 == 1
    rows |= {
        "p_y": plain.p[at],
        "loss": flat(plain, plain.stages["losses"]),
        "the row's max |z|": np.abs(plain.z).max(1),
    }
    rows |= {
        "max z": plain.z.max(1),
        "z_y": plain.z[at],
        "the largest logit in another class": plain.z.argmax(1) != plain.y,
    }
    if v.stage not in ENTRIES:
        return rows | due
    made = {name: value[:, None] for name, value in rows.items()} | {name: q[None, :] for name, q in classes.items()}
    onehot = np.zeros_like(plain.p, dtype=bool)
    onehot[at] = plain.valid
    made |= {"the target": onehot, "a class that is not the target": ~onehot, "p": plain.p, "z": plain.z}
    before = np.cumsum(onehot, axis=0) - onehot > 0
    made |= {"a class that is an earlier row's label": before & ~onehot}
    made |= {"a class that is another row's label": onehot.any(axis=0) & ~onehot}
    top = np.zeros_like(onehot)
    top[row, plain.z.argmax(1)] = True
    made |= due | {"the largest logit": top, "a masked class": np.isneginf(plain.z)}
    if not plain.bare:
        made |= {"cos θ": plain.cos, "‖W_c‖": plain.W_norm[None, :]}
    return made
