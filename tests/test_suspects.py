"""The wrong implementations: each is really wrong, and the plain loss that they are made of is right."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import refloss
from refloss.cases.angles import place
from refloss.cases.configurations import default_upstream, make, parabola, parabola_slope
from refloss.cases.gradcheck import all_cases
from refloss.testing.diagnosis.suspects import GROUPS, SLIP, SUSPECTS, Suspect, suspects, wrong
from refloss.testing.plain_loss import PlainLoss

N, C, D = 11, 10, 9  # one more, or a few more, than a block of 8
VISIBLE = {False: 1e-6, True: 1e-9}  # relative to the stage's largest number; of a suspect, of one of precision


@dataclass
class Input:
    """One input for one loss. inputs: x, W and perhaps b; or logits."""

    loss: Any
    inputs: dict[str, np.ndarray]
    labels: np.ndarray
    upstream: Any

    @functools.cached_property
    def reference(self) -> dict[str, np.ndarray]:
        out = self.loss.forward(*self.inputs.values(), self.labels) if self.bare else self.forward()
        grads = self.loss.backward(out, self.upstream)
        return {name: np.asarray(value) for name, value in (*out.stages().items(), *grads.stages().items())}

    @property
    def bare(self) -> bool:
        return isinstance(self.loss, refloss.CrossEntropy)

    def forward(self) -> Any:
        bias = {"b": self.inputs["b"]} if "b" in self.inputs else {}
        return self.loss.forward(self.inputs["x"], self.inputs["W"], self.labels, **bias)

    @functools.cached_property
    def previous(self) -> PlainLoss:
        """An earlier call on other numbers."""
        other = {name: 1.5 * value + 0.25 for name, value in self.inputs.items()}
        plain = PlainLoss(self.loss, other, self.labels, self.upstream)
        plain.run()
        return plain


def difference(got: dict[str, np.ndarray], expected: dict[str, np.ndarray], stages: Any = None) -> float:
    """The largest difference of a stage, relative to the stage's largest number; inf where only one is finite."""
    assert list(got) == list(expected)
    worst = 0.0
    for name in stages or expected:
        a, b = got[name], expected[name]
        assert a.shape == b.shape, name
        if not np.array_equal(np.isfinite(a), np.isfinite(b)):
            return np.inf
        off = np.max(np.abs(np.where(np.isfinite(b), a - b, 0.0)), initial=0.0)
        if off:
            worst = max(worst, off / max(np.max(np.abs(b), where=np.isfinite(b), initial=0.0), 1e-300))
    return worst


# -- the plain loss --------------------------------------------------------------------------------

# The plain loss sees a logit as r cos θ, with everything about ‖x‖ in r; at a row of length 0 it passes nothing on.
# Where the loss's logit is a plain product of x (W_j), as in these, that row's own gradient is W_j's (x's) share.
PLAIN_AT_ZERO = {
    "w_norm_softmax": ("grad_x",),
    "l_softmax": ("grad_x", "grad_W"),
    "a_softmax": ("grad_x",),
    "l2_softmax": ("grad_W",),
}


def test_where_a_suspect_stands_is_its_code():
    """File and line lead to the function, under its decorators."""
    root = Path(refloss.__file__).parents[1]
    for name, suspect in SUSPECTS.items():
        file, _, line = suspect.where.rpartition(":")
        below = (root / file).read_text(encoding="utf-8").splitlines()[int(line) - 1 :]
        assert next(text for text in below if text.startswith("def ")).startswith(f"def {name}(")


@pytest.mark.parametrize("name", refloss.losses())
def test_the_untouched_plain_loss_is_the_reference(name: str) -> None:
    """On every aimed case of gradcheck, in every stage."""
    for case in all_cases([name]):
        given = Input(
            case.loss, {"x": case.x, "W": case.W}, case.labels, 1.0 if case.upstream is None else case.upstream
        )
        if case.b is not None:
            given.inputs["b"] = case.b
        got = PlainLoss(case.loss, given.inputs, case.labels, given.upstream).run()
        expected = given.reference
        stages = list(expected)
        if case.name == "zero_rows":
            stages = [stage for stage in stages if stage not in PLAIN_AT_ZERO.get(name, ())]
        if case.name == "one_dimension":  # nothing can turn: exactly 0, and a rounding error in the plain loss
            still = {f"grad_{v}" for v in "xW" if getattr(case.loss, f"normalises_{v}", False)}
            stages = [stage for stage in stages if stage not in still]
            for stage in still:
                np.testing.assert_allclose(
                    got[stage], expected[stage], rtol=0, atol=1e-12 * np.max(np.abs(got["logits"]))
                )
        assert difference(got, expected, stages) < 1e-10, case.name


# -- the suspects ----------------------------------------------------------------------------------

WEIGHTS = tuple(np.resize((0.5, 2.0, 1.0, 0.25, 3.5), C))
OPTIONS: dict[str, dict[str, Any]] = {
    "weights": {"class_weights": WEIGHTS},
    "weighted_mean": {"class_weights": WEIGHTS, "reduction": "weighted_mean"},
    "smoothing": {"label_smoothing": 0.2},
    "weights-smoothing-ignore": {"class_weights": WEIGHTS, "label_smoothing": 0.2, "ignore_index": -100},
    "sum": {"reduction": "sum"},
    "none": {"reduction": "none"},
    "ignore": {"ignore_index": -100},
    "none-ignore": {"ignore_index": -100, "reduction": "none"},
}


def own_psi(theta: Any, xp: Any) -> Any:
    return 1.0 - 2.0 * theta / np.pi


def own_slope(theta: Any, xp: Any) -> Any:
    return -2.0 / np.pi + 0.0 * theta


def objects() -> dict[str, Any]:
    """Loss objects by readable id: the defaults, each option of the cross-entropy, each option of a margin."""
    found: dict[str, Any] = {name: make(name) for name in refloss.losses()}
    found["weighted_softmax"] = refloss.WeightedSoftmax(class_weights=WEIGHTS)
    found |= {"cross_entropy": refloss.CrossEntropy(), "cross_entropy-axis1": refloss.CrossEntropy(axis=1)}
    for name in ("cross_entropy-axis1", "l2_softmax", "arcface"):
        found |= {f"{name}-{words}": replace(found[name], **options) for words, options in OPTIONS.items()}
    for name in ("l_softmax", "a_softmax", "f_norm_sphereface"):
        loss = found[name]
        found[f"{name}-annealed"] = replace(loss, annealing=5.0, margin=3)
        found[f"{name}-detached"] = replace(loss, annealing=0.5, detach_margin=True)
        found[f"{name}-m1"] = replace(loss, margin=1)
        found[f"{name}-own_D"] = replace(loss, continuation=(parabola, parabola_slope))
        found[f"{name}-zero"] = replace(loss, zero_norm="zero")
    arc, cosine = found["arcface"], found["am_softmax"]
    found |= {
        "arcface-easy": replace(arc, easy_margin=True),
        "arcface-easy-far": replace(arc, easy_margin=True, margin=2.0),
        "arcface-linear": replace(arc, past_pi="linear"),
        "arcface-linear-detached": replace(arc, past_pi="linear", detach_margin=True),
        "arcface-quiet": replace(arc, scale=8.0),
        "arcface-m0": replace(arc, margin=0.0),
        "arcface-zero": replace(arc, zero_norm="zero"),
        "am_softmax-detached": replace(cosine, detach_margin=True),
        "am_softmax-m0": replace(cosine, margin=0.0),
        "am_softmax-none": replace(cosine, reduction="none"),
        "w_norm_softmax-zero": replace(found["w_norm_softmax"], zero_norm="zero"),
        "l2_softmax-zero": replace(found["l2_softmax"], zero_norm="zero"),
    }
    for radius in ("scale", "x_norm", "both_norms"):
        found[f"margin_softmax-{radius}"] = refloss.MarginSoftmax(psi=own_psi, dpsi=own_slope, radius=radius, scale=8.0)
    return found


LOSSES = objects()


@functools.cache
def inputs_of(name: str) -> list[Input]:
    """Inputs that between them show every mistake that the loss can have."""
    loss = LOSSES[name]
    return list(_bare(loss) if isinstance(loss, refloss.CrossEntropy) else _features(loss))


def _upstream(loss: Any, shape: tuple[int, ...]) -> Any:
    """Not 1, and one per sample where there is no reduction."""
    return default_upstream(loss.reduction, int(np.prod(shape))).reshape(shape) if loss.reduction == "none" else -1.375


def _some_ignored(loss: Any, y: np.ndarray) -> np.ndarray:
    return y if loss.ignore_index is None else np.where(y == 1, loss.ignore_index, y)


def _bare(loss: Any) -> Iterator[Input]:
    rng = np.random.default_rng(2)
    shape = (4, C, 3) if loss.axis == 1 else (N, C)
    labels_shape = (4, 3) if loss.axis == 1 else (N,)
    y = _some_ignored(loss, rng.integers(0, C, labels_shape))
    logits = rng.normal(size=shape)
    for size in (1.0, 40.0, 2000.0):
        yield Input(loss, {"logits": size * logits}, y, _upstream(loss, labels_shape))
    if loss.ignore_index is None:
        yield Input(loss, {"logits": logits}, rng.random(shape), _upstream(loss, labels_shape))


def _features(loss: Any) -> Iterator[Input]:
    rng = np.random.default_rng(1)
    W = rng.normal(size=(C, D)) * np.linspace(0.5, 2, C)[:, None]
    y = rng.permutation(np.arange(N) % (C - 1))  # the last class is absent, two classes come twice
    bias = {"b": rng.normal(size=C)} if loss.has_bias else {}
    upstream = _upstream(loss, (N,))

    def given(x: np.ndarray, W: np.ndarray = W, y: np.ndarray = y) -> Input:
        return Input(loss, {"x": x, "W": W, **bias}, _some_ignored(loss, y), upstream)

    lengths, angles = np.linspace(0.5, 3, N), np.linspace(0.1, 3.0, N)
    x = place(rng, W, y, angles, lengths)
    yield given(x)
    yield given(place(rng, W, (y + 1) % C, 0.3, lengths))  # another class has it all
    yield given(40 * x)
    yield given(1e4 * x)
    yield given(1e-3 * x, 1e-3 * W)
    yield given(place(rng, W, y, np.resize([1e-4, np.pi - 1e-4, 3e-3, np.pi - 3e-3, 1.0, 2.5], N), lengths))
    basis = np.vstack([np.eye(D), np.ones(D)])
    turned = place(rng, basis, y, angles, lengths)
    turned[0], turned[1] = (basis[(y[0] + 1) % D], 2 * basis[(y[1] + 1) % D])  # exactly perpendicular, on another's row
    yield given(turned, basis)
    if not loss.has_margin and loss.ignore_index is None:
        yield given(x, y=rng.random((N, C)))
    if getattr(loss, "zero_norm", "error") == "zero":
        x, W = x.copy(), W.copy()
        x[2], W[3] = 0.0, 0.0
        yield given(x, W)


def shown(suspect: Suspect, given: Input, variant: Any) -> bool:
    got = wrong(suspect, given.loss, given.inputs, given.labels, given.upstream, given.previous, variant)
    return difference(got, given.reference) > VISIBLE[suspect.only_precision]


def coarsest_first(suspect: Suspect) -> list[Any]:
    """Its variants, the ones that show soonest first: the largest ε, the smallest block."""
    return list(suspect.variants if suspect.group == "blocks" else suspect.variants[::-1])


@pytest.mark.parametrize("name", LOSSES)
def test_every_suspect_is_wrong(name: str) -> None:
    """On some input, in some stage, for every loss that it applies to."""
    unseen = [
        suspect.name
        for suspect in suspects(LOSSES[name])
        if not any(shown(suspect, given, v) for v in coarsest_first(suspect) for given in inputs_of(name))
    ]
    assert not unseen


def test_every_variant_is_wrong() -> None:
    """On some input of some loss."""
    for suspect in SUSPECTS.values():
        names = [name for name in LOSSES if suspect.applies(LOSSES[name])]
        for variant in suspect.variants:
            assert any(shown(suspect, given, variant) for name in names for given in inputs_of(name)), variant


# from last_class_block_dropped on: kernels over blocks and shards, whose backward takes p = exp(z − lse)
BACKWARD_ALONE = """
    W_gradient_transposed W_gradient_on_present_classes_only duplicates_overwritten all_overwritten
    off_target_dropped one_hot_forgotten target_row_only gradient_zero gradient_of_wrong_sign
    gradient_two_percent_too_large gradient_doubled bias_gradient_missing bias_gradient_averaged
    raw_W_in_gradient raw_x_in_gradient W_gradient_ignores_margin x_gradient_ignores_margin
    sphereface_released_backward margin_gradient_of_wrong_sign mean_missing_in_gradient gradient_averaged
    upstream_ignored upstream_averaged upstream_squared upstream_of_first_row upstream_reversed
    soft_targets_sum_taken_for_one weights_missing_in_gradient smoothing_missing_in_gradient
    ignored_rows_with_gradient x_projection_missing W_projection_missing both_projections_missing
    gradient_of_unit_W norm_factor_missing W_norm_factor_missing radial_gradient_missing slope_clamped
    eps_missing_in_backward clamp_value_only margin_detached margin_rounded_in_degrees
    multiplier_missing_in_slope scale_missing_in_gradient alpha_missing_in_gradient
    scale_gradient_without_margin scale_gradient_averaged
    last_class_block_dropped online_softmax_without_rescaling maxima_added_over_shards loss_plus_log_shards
    classes_beyond_block_without_gradient one_hot_on_first_shard_only gradient_on_owner_shard_only
    target_logit_not_reduced log2_for_log
"""


def quiet() -> Iterator[Input]:
    """Inputs on which no gradient is tiny, for differences."""
    rng = np.random.default_rng(3)
    every = {"class_weights": WEIGHTS, "label_smoothing": 0.2}
    W = rng.normal(size=(C, D))
    y = rng.permutation(np.arange(N) % (C - 1))
    x = place(rng, W, y, np.linspace(0.02, 3.1, N), np.linspace(0.5, 2, N))
    x[0], W[0] = 0.01 * x[0], 0.01 * W[0]
    for loss in (
        refloss.L2Softmax(alpha=3.0, **every),
        refloss.WNormSoftmax(reduction="none", ignore_index=-100),
        refloss.LSoftmax(margin=3, annealing=2.0),
        refloss.ASoftmax(),
        refloss.FNormSphereFace(scale=4.0, annealing=0.5),
        refloss.AMSoftmax(scale=4.0, reduction="sum"),
        refloss.ArcFace(scale=4.0, **every, reduction="weighted_mean", ignore_index=-100),
        refloss.ArcFace(scale=4.0, past_pi="linear"),
        refloss.ArcFace(scale=4.0, easy_margin=True),
    ):
        bias = {"b": rng.normal(size=C)} if loss.has_bias else {}
        upstream = _upstream(loss, (N,))
        yield Input(loss, {"x": x, "W": W, **bias}, _some_ignored(loss, y), upstream)
        if not loss.has_margin and loss.ignore_index is None:
            yield Input(loss, {"x": x, "W": W, **bias}, rng.random((N, C)), upstream)
    image = {"logits": rng.normal(size=(4, C, 3))}
    labels = np.where(rng.random((4, 3)) < 0.3, -100, rng.integers(0, C, (4, 3)))
    for options in ({}, {"reduction": "none"}, every):
        loss = refloss.CrossEntropy(axis=1, ignore_index=-100, **options)
        yield Input(loss, image, labels, _upstream(loss, (4, 3)))


def slopes(suspect: Suspect, given: Input, variant: Any) -> Iterator[tuple[float, float, float]]:
    """The gradient along a random direction, the difference quotient of the loss, and their size, input by input."""

    def run(inputs: dict[str, np.ndarray], loss: Any = given.loss) -> dict[str, np.ndarray]:
        return wrong(suspect, loss, inputs, given.labels, given.upstream, None, variant)

    def value(inputs: dict[str, np.ndarray], loss: Any = given.loss) -> float:
        return float(np.sum(given.upstream * run(inputs, loss)["loss"]))

    rng, h, stages = np.random.default_rng(4), 1e-6, run(given.inputs)
    for name, at in given.inputs.items():
        gradient, direction = stages[f"grad_{name}"], rng.normal(size=at.shape) * np.abs(at)
        ahead, behind = (value({**given.inputs, name: at + side * h * direction}) for side in (1, -1))
        size = np.linalg.norm(gradient * direction) + abs(value(given.inputs)) * 1e-3
        yield float(np.sum(gradient * direction)), (ahead - behind) / (2 * h), float(size)
    for name in ("scale", "margin", "alpha"):
        if f"grad_{name}" in stages:
            at = getattr(given.loss, name)
            ahead, behind = (value(given.inputs, replace(given.loss, **{name: at + side * h})) for side in (1, -1))
            gradient = float(stages[f"grad_{name}"])
            yield gradient, (ahead - behind) / (2 * h), abs(gradient) + abs(value(given.inputs)) * 1e-3


def test_a_wrong_forward_has_its_own_gradient() -> None:
    """Against difference quotients of the wrong loss: only mistakes of the backward alone disagree."""
    disagree = set()
    for given in quiet():
        for suspect in suspects(given.loss):
            if suspect.only_precision or suspect.group == "state":
                continue
            for variant in dict.fromkeys((suspect.variants[0], suspect.variants[-1])):
                for gradient, quotient, size in slopes(suspect, given, variant):
                    both_finite = np.isfinite(gradient) and np.isfinite(quotient)
                    if both_finite and abs(gradient - quotient) > 1e-5 * size:
                        disagree.add(suspect.name)
    assert disagree == set(BACKWARD_ALONE.split())


def test_inputs_are_not_changed() -> None:
    for name in ("cross_entropy-axis1", "softmax", "l_softmax-annealed", "arcface-none-ignore"):
        for given in inputs_of(name)[:2]:
            before = [value.copy() for value in (*given.inputs.values(), given.labels, np.asarray(given.upstream))]
            earlier = {stage: value.copy() for stage, value in given.previous.stages.items()}
            for suspect in suspects(given.loss):
                shown(suspect, given, suspect.variants[0])
            for value, kept in zip(
                (*given.inputs.values(), given.labels, np.asarray(given.upstream)), before, strict=True
            ):
                np.testing.assert_array_equal(value, kept)
            for stage, value in given.previous.stages.items():
                np.testing.assert_array_equal(value, earlier[stage])


def test_the_list() -> None:
    """Every suspect says what it is and where it was seen; every group has some; every one applies somewhere."""
    assert len(SUSPECTS) >= 70
    assert all(name == suspect.name and name.isidentifier() for name, suspect in SUSPECTS.items())
    assert {suspect.group for suspect in SUSPECTS.values()} == set(GROUPS)
    source = re.compile(r"[\w.-]+/[\w.-]+(#\d+|:[\w./-]+\w)")
    for suspect in SUSPECTS.values():
        assert suspect.explanation.endswith("."), suspect.name
        assert suspect.seen_in == SLIP or source.fullmatch(suspect.seen_in), suspect.seen_in
        assert suspect.only_precision == (suspect.group == "precision")
        assert any(suspect.applies(loss) for loss in LOSSES.values()), suspect.name


def test_a_loss_of_ones_own_has_no_suspects() -> None:
    class Own:
        pass

    assert suspects(Own()) == []
