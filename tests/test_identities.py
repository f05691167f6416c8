"""Identities: between losses, and between calls of one loss whose inputs are related.

None of them knows how a gradient is computed; each holds for the formula itself.
"""

from __future__ import annotations

import dataclasses

import mpmath
import numpy as np
import pytest
from helpers import (
    BIAS,
    NAMES,
    NORMALISES_W,
    NORMALISES_X,
    PSI,
    ROUNDINGS,
    SOFT,
    VARIANTS,
    assert_close,
    bits,
    example,
    gradients,
    logits_pass,
    make,
    natural_scales,
    radius,
    relative_error_of,
)

import refloss

# A related call rounds differently from the first: twice the passes' own error, and once more for
# the arithmetic of the relation
RELATED = 4


def passes(loss, inputs, upstream=1.0):
    """(out, gradients by field, natural scales) of one call."""
    out = loss.forward(**inputs)
    grads = gradients(loss.backward(out, upstream))
    return out, grads, natural_scales(loss, inputs["x"], inputs["W"], np.abs(grads["logits"]))


def assert_same_passes(one, other, map_gradients=lambda field, value: value, fields=None):
    """Losses of `other` are those of `one`; its gradients are the mapped ones, to the natural scale."""
    (out, grads, scales), (other_out, other_grads, _) = one, other
    relative = RELATED * max(relative_error_of(out), relative_error_of(other_out))
    # a loss that is nearly 0 is right relative to itself: z_y rounded by u|z| shifts it by that much
    assert_close(other_out.losses, out.losses, out.losses, relative, "losses against themselves")
    for field in fields or grads:
        due, scale = (map_gradients(field, grads[field]), map_gradients(field, scales[field] + 0 * grads[field]))
        assert_close(other_grads[field], due, np.abs(scale), relative, field)


@pytest.fixture(params=VARIANTS)
def variant(request):
    return request.param


# -- between losses --------------------------------------------------------------------------------

SAME_LOSSES = {
    "l_softmax(m=1) is softmax": (refloss.LSoftmax(margin=1), refloss.Softmax()),
    "weights 1 are softmax": (refloss.WeightedSoftmax(class_weights=[1] * 4), refloss.Softmax()),
    "a_softmax(m=1) is w_norm_softmax": (refloss.ASoftmax(margin=1), refloss.WNormSoftmax()),
    "am_softmax(m=0) is arcface(m=0)": (refloss.AMSoftmax(scale=20, margin=0), refloss.ArcFace(scale=20, margin=0)),
    "f_norm_sphereface(m=1) is arcface(m=0)": (
        refloss.FNormSphereFace(scale=20, margin=1),
        refloss.ArcFace(scale=20, margin=0),
    ),
    "arcface(m=0) has no tail": (refloss.ArcFace(margin=0), refloss.ArcFace(margin=0, past_pi="linear")),
    "arcface(m=0) is always easy": (refloss.ArcFace(margin=0), refloss.ArcFace(margin=0, easy_margin=True)),
    "cosface detached is cosface": (refloss.CosFace(), refloss.CosFace(detach_margin=True)),
    "arcface(m=0) detached is itself": (refloss.ArcFace(margin=0), refloss.ArcFace(margin=0, detach_margin=True)),
    "l_softmax(m=1) detached is itself": (refloss.LSoftmax(margin=1), refloss.LSoftmax(margin=1, detach_margin=True)),
    "annealing does nothing to m=1": (refloss.ASoftmax(margin=1), refloss.ASoftmax(margin=1, annealing=3)),
    "a user's cos θ is w_norm_softmax": (
        refloss.MarginSoftmax(psi=lambda t, xp: xp.cos(t), dpsi=lambda t, xp: -xp.sin(t), radius="x_norm"),
        refloss.WNormSoftmax(),
    ),
    "a user's cos θ is softmax": (
        refloss.MarginSoftmax(psi=lambda t, xp: xp.cos(t), dpsi=lambda t, xp: -xp.sin(t), radius="both_norms"),
        refloss.Softmax(),
    ),
    "a user's cos(θ + m) is arcface": (
        refloss.MarginSoftmax(psi=lambda t, xp: xp.cos(t + 0.5), dpsi=lambda t, xp: -xp.sin(t + 0.5)),
        refloss.ArcFace(),
    ),
    "a user's cos θ − m is cosface": (
        refloss.MarginSoftmax(psi=lambda t, xp: xp.cos(t) - 0.35, dpsi=lambda t, xp: -xp.sin(t), scale=30),
        refloss.CosFace(),
    ),
}


@pytest.mark.parametrize("identity", SAME_LOSSES)
@pytest.mark.parametrize("options", [{}, {"reduction": "sum", "label_smoothing": 0.2}], ids=["plain", "smoothed"])
def test_two_losses_are_one(identity, options, rng):
    """Losses that coincide have the same losses and the same gradients of x and W (and s)."""
    one, other = (dataclasses.replace(loss, **options) for loss in SAME_LOSSES[identity])
    inputs = example("arcface", rng, n=9)
    first, second = passes(one, inputs), passes(other, inputs)
    common = [field for field in first[1] if field in second[1] and field != "margin"]
    # under smoothing g has terms that cancel: p Σt + t instead of |g|
    G = first[0].probabilities + 1 if options else np.abs(first[1]["logits"])
    first = (*first[:2], natural_scales(one, inputs["x"], inputs["W"], G))
    assert_same_passes(first, second, fields=common)


def test_w_norm_softmax_is_softmax_of_unit_rows(rng):
    """On W of unit rows the two have the same loss and the same gradient of x."""
    inputs = example("w_norm_softmax", rng)
    unit = inputs | {"W": inputs["W"] / np.linalg.norm(inputs["W"], axis=1, keepdims=True)}
    assert_same_passes(passes(refloss.Softmax(), unit), passes(refloss.WNormSoftmax(), inputs), fields=["logits", "x"])


def test_l2_softmax_is_softmax_on_the_sphere(rng):
    """On x of length α the two have the same loss and the same gradients of W and b."""
    inputs = example("l2_softmax", rng)
    sphere = inputs | {"x": 16 * inputs["x"] / np.linalg.norm(inputs["x"], axis=1, keepdims=True)}
    one, other = passes(refloss.Softmax(), sphere), passes(refloss.L2Softmax(alpha=16), inputs)
    assert_same_passes(one, other, fields=["logits", "W", "b"])


def test_l2_softmax_of_unit_rows_is_cosface_without_margin(rng):
    """α Ŵ x̂ = s cos θ: the same loss and gradient of x, and α's gradient is s's."""
    inputs = example("am_softmax", rng)
    unit = inputs | {"W": inputs["W"] / np.linalg.norm(inputs["W"], axis=1, keepdims=True)}
    one, other = passes(refloss.L2Softmax(alpha=9), unit), passes(refloss.CosFace(scale=9, margin=0), unit)
    assert_same_passes(one, other, fields=["logits", "x"])
    assert_close(
        other[1]["scale"], one[1]["alpha"], one[2]["alpha"], RELATED * relative_error_of(one[0]), "∂L/∂α and ∂L/∂s"
    )


def test_margins_only_shift_the_targets_logit(rng):
    """CosFace's logits are those of m = 0 less s m at the target."""
    inputs = example("am_softmax", rng)
    out, plain = refloss.CosFace().forward(**inputs), refloss.CosFace(margin=0).forward(**inputs)
    due = plain.logits - 30 * 0.35 * np.eye(4)[inputs["labels"]]
    assert_close(out.logits, due, 30.0, ROUNDINGS, "logits against s")


@pytest.mark.parametrize("name", PSI)
def test_much_annealing_is_no_margin(name, rng):
    """λ → ∞: the loss of m = 1, to 1/λ of the range of ψ."""
    inputs = example(name, rng)
    annealed, plain = make(name, annealing=1e12, margin=3), make(name, margin=1)
    first, second = passes(plain, inputs), passes(annealed, inputs)
    # z_y differs by r |ψ − cos θ|/(1 + λ) ≤ 6 r/λ
    r = radius(plain, inputs["x"], inputs["W"]).max()
    relative = 6e-12 * r + RELATED * relative_error_of(first[0])
    assert_close(second[0].losses, first[0].losses, first[0].losses, relative, "losses against themselves")
    for field, value in second[1].items():
        assert_close(value, first[1][field], first[2][field], 10 * relative, field)


@pytest.mark.parametrize("name", PSI)
@pytest.mark.parametrize("annealing", [0.1, 1.0, 5.0, 1000.0])
def test_annealing_is_a_mean_of_two_logits(name, annealing, rng):
    """z_y = (λ · plain + margin)/(1 + λ)."""
    inputs = example(name, rng)
    out, margin, plain = (make(name, **o).forward(**inputs) for o in ({"annealing": annealing}, {}, {"margin": 1}))
    due = (annealing * plain.logits + margin.logits) / (1 + annealing)
    r = radius(make(name), inputs["x"], inputs["W"])
    assert_close(out.logits, due, 8 * r, ROUNDINGS, "logits against r |ψ|")


def test_no_annealing_is_none(rng):
    """λ = 0 and −0 are the margin alone, to the bit."""
    inputs = example("l_softmax", rng)
    due = bits(refloss.LSoftmax().forward(**inputs))
    for annealing in (0, 0.0, -0.0):
        assert bits(refloss.LSoftmax(annealing=annealing).forward(**inputs)) == due


@pytest.mark.parametrize("name", [n for n in NAMES if n in PSI or n in ("am_softmax", "arcface")])
def test_detached_margin_has_the_same_values(name, rng):
    """detach_margin changes no stage of the forward."""
    inputs = example(name, rng)
    one, other = make(name).forward(**inputs), make(name, detach_margin=True).forward(**inputs)
    assert {k: v for k, v in bits(one).items() if k != "cone"} == {k: v for k, v in bits(other).items() if k != "cone"}


@pytest.mark.parametrize("name", ["a_softmax", "f_norm_sphereface", "arcface"])
def test_detached_margin_has_the_plain_slope(name, rng):
    """With the offset ψ − cos θ held still, x moves the target's logit as without margin: the gradient
    is that of the plain logits for the same g, tangentially."""
    inputs = example(name, rng)
    loss = make(name, detach_margin=True)
    plain = make(name, margin=0 if name == "arcface" else 1)
    out, grads, scales = passes(loss, inputs)
    # plain logits, the same ∂L/∂z: reached through an upstream of a linear functional Σ g z
    at = logits_pass(plain, inputs["x"], inputs["W"], inputs["labels"])
    due = plain.backward_logits(at, grads["logits"])
    x_hat = inputs["x"] / np.linalg.norm(inputs["x"], axis=1, keepdims=True)
    difference = grads["x"] - due["x"]
    tangential = difference - np.sum(difference * x_hat, axis=1, keepdims=True) * x_hat
    assert_close(tangential, 0 * tangential, scales["x"], RELATED * relative_error_of(out), "tangential part")
    assert_close(grads["W"], due["W"], scales["W"], RELATED * relative_error_of(out), "grad_W")


# -- weights, soft targets, smoothing --------------------------------------------------------------


@pytest.mark.parametrize("weight", [0.25, 2.0, 3.7])
def test_equal_weights_only_scale(variant, weight, rng):
    """Equal weights w: w times the losses and gradients; under weighted_mean no change at all."""
    inputs = example(variant, rng)
    plain = passes(make(variant, class_weights=[1] * 4), inputs)
    weighted = passes(make(variant, class_weights=[weight] * 4), inputs)
    assert_close(weighted[0].losses, weight * plain[0].losses, plain[0].losses, ROUNDINGS * weight, "losses")
    for field, value in weighted[1].items():
        assert_close(value, weight * plain[1][field], weight * plain[2][field], ROUNDINGS, field)
    mean = passes(make(variant, class_weights=[weight] * 4, reduction="weighted_mean"), inputs)
    assert_close(mean[0].loss, plain[0].loss, plain[0].loss, ROUNDINGS, "weighted mean")
    for field, value in mean[1].items():
        assert_close(value, plain[1][field], plain[2][field], ROUNDINGS, field)


def test_no_weights_are_weights_of_one(variant, rng):
    """class_weights=None and ones give the same bits."""
    inputs = example(variant, rng)
    if "weighted" in variant:
        one, other = refloss.Softmax(), refloss.WeightedSoftmax(class_weights=[1] * 4)
    else:
        one, other = make(variant), make(variant, class_weights=[1] * 4)
    for loss in (one, other):
        out = loss.forward(**inputs)
        assert bits(out, loss.backward(out)) == bits(one.forward(**inputs), one.backward(one.forward(**inputs)))


@pytest.mark.parametrize("reduction", ["sum", "weighted_mean"])
def test_whole_weights_are_repetition(variant, reduction, rng):
    """A class of weight k counts as k copies of its rows."""
    inputs, times = example(variant, rng, n=8), np.array([1, 2, 0, 3])
    weighted = passes(make(variant, class_weights=times, reduction=reduction), inputs)
    rows = np.repeat(np.arange(8), times[inputs["labels"]])
    copies = inputs | {"x": inputs["x"][rows], "labels": inputs["labels"][rows]}
    repeated = passes(make(variant, class_weights=[1] * 4, reduction=reduction), copies)
    relative = RELATED * relative_error_of(weighted[0])
    assert_close(weighted[0].loss, repeated[0].loss, repeated[0].loss, relative, "loss")
    for field, value in weighted[1].items():
        due = repeated[1][field]
        if field in ("x", "logits"):
            due = np.zeros_like(value)
            np.add.at(due, rows, repeated[1][field])
        assert_close(value, due, weighted[2][field], relative, field)


@pytest.mark.parametrize("reduction", ["mean", "sum", "weighted_mean"])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("name", SOFT)
def test_one_hot_soft_targets_are_labels(name, smoothing, reduction, rng):
    """A soft target on one class gives the bits of its label; only complement is not known."""
    loss, inputs = make(name, label_smoothing=smoothing, reduction=reduction), example(name, rng)
    out, soft = loss.forward(**inputs), loss.forward(**(inputs | {"labels": np.eye(4)[inputs["labels"]]}))
    due = bits(out, loss.backward(out))
    del due["complement"]
    assert bits(soft, loss.backward(soft)) == due


def soft_scales(loss, inputs, out, targets):
    """The natural scale for soft or smoothed targets: G = (p Σ a + a) / N."""
    w = np.ones(4) if loss.class_weights is None else np.array(loss.class_weights)
    a = w * targets
    G = (out.probabilities * a.sum(axis=1, keepdims=True) + a) / len(a)
    return natural_scales(loss, inputs["x"], inputs["W"], G)


@pytest.mark.parametrize("name", SOFT)
def test_soft_targets_are_a_mixture_of_labels(name, rng):
    """The loss and gradients of a soft target are the mixture of those of its labels."""
    loss, inputs = make(name), example(name, rng)
    soft = rng.random((6, 4))
    out = loss.forward(**(inputs | {"labels": soft}))
    grads = gradients(loss.backward(out))
    due = dict.fromkeys(["losses", *grads], 0.0)
    for c in range(4):
        labelled = make(name, reduction="none").forward(**(inputs | {"labels": np.full(6, c)}))
        due["losses"] = due["losses"] + soft[:, c] * labelled.losses
        for field, value in gradients(make(name, reduction="none").backward(labelled, soft[:, c] / 6)).items():
            due[field] = due[field] + value
    scales = soft_scales(loss, inputs, out, soft)
    relative = RELATED * relative_error_of(out)
    assert_close(out.losses, due["losses"], due["losses"], relative, "losses against themselves")
    for field, value in grads.items():
        assert_close(value, due[field], scales[field], relative, field)


@pytest.mark.parametrize("smoothing", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("name", SOFT)
def test_smoothing_is_a_soft_target(name, smoothing, rng):
    """label_smoothing ε is the soft target (1 − ε) y + ε/C."""
    inputs = example(name, rng)
    soft = (1 - smoothing) * np.eye(4)[inputs["labels"]] + smoothing / 4
    smoothed, plain = make(name, label_smoothing=smoothing), make(name)
    out, due = smoothed.forward(**inputs), plain.forward(**(inputs | {"labels": soft}))
    scales = soft_scales(plain, inputs, due, soft)
    relative = RELATED * relative_error_of(out)
    assert_close(out.losses, due.losses, due.losses, relative, "losses against themselves")
    due_grads = gradients(plain.backward(due))
    for field, value in gradients(smoothed.backward(out)).items():
        assert_close(value, due_grads[field], scales[field], relative, field)


def test_smoothing_is_linear(variant, rng):
    """ℓ(ε) = (1 − ε) ℓ(0) + ε ℓ(1), margins included: the logits do not know of ε."""
    inputs = example(variant, rng)
    none, some, full = (make(variant, label_smoothing=e).forward(**inputs) for e in (0.0, 0.3, 1.0))
    due = 0.7 * none.losses + 0.3 * full.losses
    assert_close(some.losses, due, due, relative_error_of(some), "losses against themselves")
    np.testing.assert_array_equal(some.logits, none.logits)


# -- reductions and rows ---------------------------------------------------------------------------


def test_reductions_agree(variant, rng):
    """mean, sum, none and weighted_mean are one another's multiples, in value and in every gradient."""
    inputs, weights = example(variant, rng), np.array([0.5, 2.0, 0.0, 3.0])
    inputs["labels"][4] = -1
    divisors = {"none": 1.0, "sum": 1.0, "mean": 5.0, "weighted_mean": weights[inputs["labels"][[0, 1, 2, 3, 5]]].sum()}
    due = passes(make(variant, class_weights=weights, ignore_index=-1, reduction="sum"), inputs)
    for reduction, divisor in divisors.items():
        loss = make(variant, class_weights=weights, ignore_index=-1, reduction=reduction)
        out, grads, _ = passes(loss, inputs)
        assert_close(np.sum(out.loss), due[0].loss / divisor, due[0].loss / divisor, ROUNDINGS, reduction)
        for field, value in grads.items():
            assert_close(value, due[1][field] / divisor, due[2][field] / divisor, ROUNDINGS, f"{reduction} {field}")


def test_ignoring_rows_is_leaving_them_out(variant, rng):
    """Ignored rows and rows that are not there give the same loss and the same gradients."""
    inputs, kept = example(variant, rng, n=8), np.array([0, 2, 3, 6])
    fewer = inputs | {"x": inputs["x"][kept], "labels": inputs["labels"][kept]}
    labels = np.full(8, -9)
    labels[kept] = inputs["labels"][kept]
    ignoring = make(variant, ignore_index=-9)
    first, second = passes(ignoring, fewer), passes(ignoring, inputs | {"labels": labels})
    relative = RELATED * relative_error_of(first[0])
    assert_close(second[0].loss, first[0].loss, first[0].loss, relative, "loss")
    for field, value in second[1].items():
        value = value[kept] if field in ("x", "logits") else value
        assert_close(value, first[1][field], first[2][field], relative, field)


def test_rows_do_not_know_of_each_other(variant, rng):
    """A row's loss and its gradient of x are what it gets alone; gradients of W and the rest add up."""
    loss, inputs = make(variant, reduction="sum"), example(variant, rng)
    together = passes(loss, inputs)
    alone = [passes(loss, inputs | {"x": inputs["x"][[i]], "labels": inputs["labels"][[i]]}) for i in range(6)]
    relative = RELATED * relative_error_of(together[0])
    losses = np.concatenate([out.losses for out, *_ in alone])
    assert_close(together[0].losses, losses, losses, relative, "losses against themselves")
    for field, value in together[1].items():
        parts = [grads[field] for _, grads, _ in alone]
        due = np.concatenate(parts) if field in ("x", "logits") else sum(parts)
        assert_close(value, due, together[2][field], relative, field)


def test_permuting_rows_permutes_gradients(variant, rng):
    """The order of the samples does not matter."""
    loss, inputs, order = make(variant), example(variant, rng), rng.permutation(6)
    other = passes(loss, inputs | {"x": inputs["x"][order], "labels": inputs["labels"][order]})
    one = passes(loss, inputs)
    relative = RELATED * relative_error_of(one[0])
    assert_close(other[0].loss, one[0].loss, one[0].loss, relative, "loss")
    for field, value in other[1].items():
        by_row = field in ("x", "logits")
        due, scale = ((v[order] if by_row else v) for v in (one[1][field], one[2][field]))
        assert_close(value, due, scale, relative, field)


def test_permuting_classes_permutes_gradients(variant, rng):
    """The numbering of the classes does not matter."""
    loss, inputs, order = make(variant), example(variant, rng), rng.permutation(4)
    permuted = {"x": inputs["x"], "W": inputs["W"][order], "labels": np.argsort(order)[inputs["labels"]]}
    if "b" in inputs:
        permuted["b"] = inputs["b"][order]
    weights = None if loss.class_weights is None else np.array(loss.class_weights)[order]
    other = passes(make(variant, class_weights=weights) if weights is not None else loss, permuted)
    one = passes(loss, inputs)
    mapped = {"W": lambda v: v[order], "b": lambda v: v[order], "logits": lambda v: v[:, order]}
    assert_same_passes(one, other, lambda field, value: mapped.get(field, lambda v: v)(value))


def test_duplicated_rows_share_the_gradient(variant, rng):
    """Each row twice: the same mean loss, half the gradient of x for each, the same gradient of the rest."""
    loss, inputs = make(variant), example(variant, rng)
    one = passes(loss, inputs)
    twice = inputs | {"x": np.tile(inputs["x"], (2, 1)), "labels": np.tile(inputs["labels"], 2)}
    other = passes(loss, twice)
    relative = RELATED * relative_error_of(one[0])
    assert_close(other[0].loss, one[0].loss, one[0].loss, relative, "loss")
    for field, value in other[1].items():
        due = np.tile(one[1][field], (2, 1)) / 2 if field in ("x", "logits") else one[1][field]
        scale = np.tile(one[2][field], (2, 1)) / 2 if field in ("x", "logits") else one[2][field]
        assert_close(value, due, scale, relative, field)


def test_an_absent_label_is_a_class_like_others(variant, rng):
    """A class that is nobody's target still gets its gradient: that of p, pushing away."""
    loss, inputs = make(variant), example(variant, rng)
    inputs["labels"] %= 3
    out, grads, _ = passes(loss, inputs)
    weights = np.ones(4) if loss.class_weights is None else np.array(loss.class_weights)
    due = out.probabilities[:, 3] * weights[inputs["labels"]] / 6
    assert_close(grads["logits"][:, 3], due, due, ROUNDINGS, "g of the absent class against itself")
    assert grads["W"][3].any()


# -- symmetries of the formula ---------------------------------------------------------------------


def test_gradient_of_logits_sums_to_zero(variant, rng):
    """Σ_j ∂L/∂z_ij = 0 for a label, whatever its weight: p sums to 1."""
    out, grads, _ = passes(make(variant), example(variant, rng))
    g = grads["logits"]
    assert_close(g.sum(axis=1), np.zeros(6), np.abs(g).sum(axis=1), relative_error_of(out), "Σ g against Σ |g|")


@pytest.mark.parametrize("shift", [-3.0, 0.7, 100.0])
@pytest.mark.parametrize("name", BIAS)
def test_shifting_the_bias_changes_nothing(name, shift, rng):
    """A constant added to every b_j is a constant added to every logit."""
    loss, inputs = make(name), example(name, rng)
    assert_same_passes(passes(loss, inputs), passes(loss, inputs | {"b": inputs["b"] + shift}))


@pytest.mark.parametrize("name", ["softmax", "weighted_softmax"])
def test_shifting_every_row_of_W_changes_no_loss(name, rng):
    """W_j + v adds v·x to every logit of a row: the same losses and gradient of W."""
    loss, inputs = make(name), example(name, rng)
    shifted = inputs | {"W": inputs["W"] + rng.normal(size=3)}
    assert_same_passes(passes(loss, inputs), passes(loss, shifted), fields=["logits", "W", "b"])


def test_rotating_x_and_W_rotates_gradients(variant, rng):
    """Only angles and lengths matter: x Q, W Q have the same losses, and gradients times Q."""
    loss, inputs = make(variant), example(variant, rng)
    Q = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    one, other = passes(loss, inputs), passes(loss, inputs | {"x": inputs["x"] @ Q, "W": inputs["W"] @ Q})
    relative = RELATED * max(relative_error_of(one[0]), relative_error_of(other[0]))
    assert_close(other[0].losses, one[0].losses, one[0].losses, relative, "losses against themselves")
    for field, value in other[1].items():
        due = one[1][field] @ Q if field in ("x", "W") else one[1][field]
        assert_close(value, due, one[2][field], relative, field)


@pytest.mark.parametrize("upstream", [1.0, -2.5])
@pytest.mark.parametrize("variant", [v for v in VARIANTS if v.split("-")[0] in NORMALISES_X] + ["margin_softmax-scale"])
def test_gradient_of_x_is_orthogonal_to_x(variant, upstream, rng):
    """Where only the direction of x counts, x_i · ∂L/∂x_i = 0."""
    inputs = example(variant, rng)
    out, grads, scales = passes(make(variant), inputs, upstream)
    along = np.sum(inputs["x"] * grads["x"], axis=1)
    scale = np.linalg.norm(inputs["x"], axis=1) * scales["x"][:, 0]
    assert_close(along, np.zeros(6), scale, relative_error_of(out), "x·grad_x against ‖x‖ Σ G‖∇z‖")


@pytest.mark.parametrize(
    "variant",
    [v for v in VARIANTS if v.split("-")[0] in NORMALISES_W] + ["margin_softmax-scale", "margin_softmax-x_norm"],
)
def test_gradient_of_W_is_orthogonal_to_W(variant, rng):
    """Where only the direction of W_j counts, W_j · ∂L/∂W_j = 0."""
    inputs = example(variant, rng)
    out, grads, scales = passes(make(variant), inputs)
    along = np.sum(inputs["W"] * grads["W"], axis=1)
    scale = np.linalg.norm(inputs["W"], axis=1) * scales["W"][:, 0]
    assert_close(along, np.zeros(4), scale, relative_error_of(out), "W·grad_W against ‖W‖ Σ G‖∇z‖")


HOMOGENEOUS_IN_X = ["softmax", "w_norm_softmax", "l_softmax", "a_softmax"]


@pytest.mark.parametrize(
    "variant",
    [v for v in VARIANTS if v.split("-")[0] in HOMOGENEOUS_IN_X]
    + ["margin_softmax-x_norm", "margin_softmax-both_norms"],
)
def test_x_times_its_gradient_is_the_logits_times_theirs(variant, rng):
    """Where z is proportional to the length of x (Euler): x_i·∂L/∂x_i = Σ_j g_ij z_ij."""
    loss, inputs = make(variant), example(variant, rng)
    inputs.pop("b", None)
    out, grads, scales = passes(loss, inputs)
    along, due = np.sum(inputs["x"] * grads["x"], axis=1), np.sum(grads["logits"] * out.logits, axis=1)
    scale = np.linalg.norm(inputs["x"], axis=1) * scales["x"][:, 0]
    assert_close(along, due, scale, relative_error_of(out), "x·grad_x against ‖x‖ Σ G‖∇z‖")


@pytest.mark.parametrize("variant", ["softmax", "l_softmax", "l_softmax-annealed", "margin_softmax-both_norms"])
def test_W_times_its_gradient_is_the_logits_times_theirs(variant, rng):
    """Where z_j is proportional to the length of W_j: W_j·∂L/∂W_j = Σ_i g_ij z_ij."""
    loss, inputs = make(variant), example(variant, rng)
    inputs.pop("b", None)
    out, grads, scales = passes(loss, inputs)
    along, due = np.sum(inputs["W"] * grads["W"], axis=1), np.sum(grads["logits"] * out.logits, axis=0)
    scale = np.linalg.norm(inputs["W"], axis=1) * scales["W"][:, 0]
    assert_close(along, due, scale, relative_error_of(out), "W·grad_W against ‖W‖ Σ G‖∇z‖")


@pytest.mark.parametrize(
    "variant",
    [v for v in VARIANTS if v.split("-")[0] in ("f_norm_sphereface", "am_softmax", "arcface")]
    + ["margin_softmax-scale"],
)
def test_scale_times_its_gradient_is_the_logits_times_theirs(variant, rng):
    """z is proportional to s: s ∂L/∂s = Σ g z, with the value with margin (also when detached)."""
    loss = make(variant)
    out, grads, scales = passes(loss, example(variant, rng))
    due = np.sum(grads["logits"] * out.logits)
    assert_close(loss.scale * grads["scale"], due, loss.scale * scales["scale"], relative_error_of(out), "s ∂L/∂s")


def test_alpha_times_its_gradient_is_the_logits_times_theirs(rng):
    """z − b is proportional to α: α ∂L/∂α = Σ g (z − b)."""
    loss, inputs = make("l2_softmax"), example("l2_softmax", rng)
    out, grads, scales = passes(loss, inputs)
    due = np.sum(grads["logits"] * (out.logits - inputs["b"]))
    assert_close(loss.alpha * grads["alpha"], due, loss.alpha * scales["alpha"], relative_error_of(out), "α ∂L/∂α")


def test_gradient_of_cosfaces_margin_is_minus_s_times_the_targets(rng):
    """z_y = s (cos θ − m): ∂L/∂m = −s Σ_i g_iy."""
    loss, inputs = make("am_softmax"), example("am_softmax", rng)
    out, grads, scales = passes(loss, inputs)
    due = -30 * grads["logits"][np.arange(6), inputs["labels"]].sum()
    assert_close(grads["margin"], due, scales["margin"], relative_error_of(out), "∂L/∂m")


@pytest.mark.parametrize("theta", [0.1, 0.8, 1.5, 2.0, 2.7, 3.1])
@pytest.mark.parametrize("options", [{}, {"easy_margin": True}, {"past_pi": "linear"}], ids=str)
def test_gradient_of_arcfaces_margin_is_that_of_the_angle(options, theta):
    """cos(θ + m): turning x away from W_y by δ does what m + δ does, so ∂L/∂m is the slope of L in θ,
    wherever the margin is inside the cosine; where easy_margin drops it, ∂L/∂m = 0; in the linear tail
    it is that of −m sin m. The other class is at a right angle to the plane in which x turns."""
    x, W = [[np.cos(theta), np.sin(theta), 0]], [[1, 0, 0], [0, 0, 1]]
    loss = refloss.ArcFace(scale=4, margin=0.6, **options)
    out = loss.forward(x, W, [0])
    grads = loss.backward(out)
    due = grads.x[0] @ [-np.sin(theta), np.cos(theta), 0]
    if options.get("easy_margin") and theta > np.pi / 2:
        due = 0.0
    if options.get("past_pi") and theta > np.pi - 0.6:
        due = -4 * grads.logits[0, 0] * float(mpmath.diff(lambda m: m * mpmath.sin(m), 0.6))
    assert_close(grads.margin, due, 4 * np.abs(grads.logits[0, 0]), relative_error_of(out), "∂L/∂m against s |g_y|")


@pytest.mark.parametrize("factor", [0.3, 7.0, 1e6])
@pytest.mark.parametrize("variant", [v for v in VARIANTS if v.split("-")[0] in NORMALISES_X] + ["margin_softmax-scale"])
def test_scaling_x_scales_its_gradient_back(variant, factor, rng):
    """Where only the direction of x counts, k x has the same losses and 1/k of the gradient of x."""
    loss, inputs = make(variant), example(variant, rng)
    one, other = passes(loss, inputs), passes(loss, inputs | {"x": factor * inputs["x"]})
    assert_same_passes(one, other, lambda field, value: value / factor if field == "x" else value)


@pytest.mark.parametrize(
    "variant",
    [v for v in VARIANTS if v.split("-")[0] in NORMALISES_W] + ["margin_softmax-scale", "margin_softmax-x_norm"],
)
def test_scaling_rows_of_W_scales_their_gradient_back(variant, rng):
    """Where only the direction of W_j counts, every row may have its own length."""
    loss, inputs, factors = make(variant), example(variant, rng), np.array([[0.1], [3.0], [1e5], [0.7]])
    one, other = passes(loss, inputs), passes(loss, inputs | {"W": factors * inputs["W"]})
    assert_same_passes(one, other, lambda field, value: value / factors if field == "W" else value)


@pytest.mark.parametrize("name", ["softmax", "l_softmax"])
def test_lengths_of_x_and_W_trade(name, rng):
    """‖W_j‖‖x‖: k x with W/k has the same losses."""
    loss, inputs = make(name), example(name, rng)
    one, other = passes(loss, inputs), passes(loss, inputs | {"x": 3 * inputs["x"], "W": inputs["W"] / 3})
    assert_same_passes(
        one, other, lambda field, value: value / 3 if field == "x" else 3 * value if field == "W" else value
    )


def test_turning_every_vector_round_changes_nothing(variant, rng):
    """−x with −W has the same angles: the same losses, gradients turned round."""
    loss, inputs = make(variant), example(variant, rng)
    one, other = passes(loss, inputs), passes(loss, inputs | {"x": -inputs["x"], "W": -inputs["W"]})
    assert_same_passes(one, other, lambda field, value: -value if field in ("x", "W") else value)


def test_padding_with_zeros_changes_nothing(variant, rng):
    """Dimensions in which every vector is 0 are not there, and get a gradient of exactly 0."""
    loss, inputs = make(variant), example(variant, rng)
    padded = inputs | {
        a: np.hstack([np.zeros((len(inputs[a]), 1)), inputs[a], np.zeros((len(inputs[a]), 2))]) for a in "xW"
    }
    one, other = passes(loss, inputs), passes(loss, padded)
    for field in ("x", "W"):
        assert not other[1][field][:, [0, 4, 5]].any()
        other[1][field] = other[1][field][:, 1:4]
    assert_same_passes(one, other)


def test_two_classes_are_the_logistic_loss(variant, rng):
    """C = 2: ℓ = log(1 + e^−(z_y − z_other)), and g = ∓1/(1 + e^(z_y − z_other))."""
    loss, inputs = (make(variant, classes=2, reduction="none", class_weights=[1, 1]), example(variant, rng, classes=2))
    out = loss.forward(**inputs)
    rows, y = np.arange(6), inputs["labels"]
    gap = out.logits[rows, y] - out.logits[rows, 1 - y]
    due = np.logaddexp(0, -gap)
    assert_close(out.losses, due, due, relative_error_of(out), "losses against themselves")
    g = loss.backward(out).logits
    assert_close(g[rows, 1 - y], np.exp(-due - gap), np.exp(-due - gap), 4 * relative_error_of(out), "g against itself")
    assert_close(g[rows, y], -g[rows, 1 - y], g[rows, 1 - y], ROUNDINGS, "g_y against itself")
