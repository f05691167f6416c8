"""The record of a pass, and the loss objects that make it."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import numpy as np
import pytest
from helpers import (
    BIAS,
    NAMES,
    PSI,
    SOFT,
    VARIANTS,
    assert_close,
    bits,
    example,
    gradients,
    make,
    natural_scales,
    relative_error_of,
)

import refloss

VOCABULARY = [
    "x_norm",
    "W_norm",
    "cos_theta",
    "theta",
    "logits",
    "probabilities",
    "losses",
    "loss",
    "grad_logits",
    "grad_x",
    "grad_W",
    "grad_b",
    "grad_scale",
    "grad_margin",
    "grad_alpha",
]
TAIL = ["logits", "probabilities", "losses", "loss"]
ANGULAR = ["x_norm", "W_norm", "cos_theta", "theta", *TAIL]
CORE = ["grad_logits", "grad_x", "grad_W"]
# the stages of each loss: forward, backward
STAGES = {
    "softmax": (TAIL, [*CORE, "grad_b"]),
    "weighted_softmax": (TAIL, [*CORE, "grad_b"]),
    "w_norm_softmax": (["W_norm", *TAIL], CORE),
    "l_softmax": (ANGULAR, CORE),
    "a_softmax": (ANGULAR, CORE),
    "f_norm_sphereface": (ANGULAR, [*CORE, "grad_scale"]),
    "l2_softmax": (["x_norm", *TAIL], [*CORE, "grad_b", "grad_alpha"]),
    "am_softmax": (ANGULAR, [*CORE, "grad_scale", "grad_margin"]),
    "arcface": (ANGULAR, [*CORE, "grad_scale", "grad_margin"]),
}
SHAPES = {
    "x_norm": (6,),
    "W_norm": (4,),
    "cos_theta": (6, 4),
    "theta": (6,),
    "logits": (6, 4),
    "probabilities": (6, 4),
    "losses": (6,),
    "loss": (),
    "grad_logits": (6, 4),
    "grad_x": (6, 3),
    "grad_W": (4, 3),
    "grad_b": (4,),
    "grad_scale": (),
    "grad_margin": (),
    "grad_alpha": (),
}


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture(params=VARIANTS)
def variant(request):
    return request.param


def passes(variant, rng, upstream=1.0, **options):
    loss, inputs = make(variant, **options), example(variant, rng)
    out = loss.forward(**inputs)
    return loss, inputs, out, loss.backward(out, upstream)


# -- stages ----------------------------------------------------------------------------------------


def test_stages_are_those_of_the_loss(name, rng):
    """stages() holds exactly the stages of the loss, forward and backward."""
    _, _, out, grads = passes(name, rng)
    assert (list(out.stages()), list(grads.stages())) == STAGES[name]


def test_stages_come_in_the_projects_order(variant, rng):
    """Names of stages are of the one vocabulary, in its order."""
    _, _, out, grads = passes(variant, rng)
    names = [*out.stages(), *grads.stages()]
    assert names == [stage for stage in VOCABULARY if stage in names]


def test_stages_have_their_shapes_and_are_float64(variant, rng):
    """Every stage has the shape of the vocabulary, in float64."""
    _, _, out, grads = passes(variant, rng)
    for stage, value in {**out.stages(), **grads.stages()}.items():
        assert np.shape(value) == SHAPES[stage], stage
        assert np.asarray(value).dtype == np.float64, stage


def test_stages_are_the_fields(variant, rng):
    """stages() holds the fields themselves; a field whose stage does not apply is None."""
    _, _, out, grads = passes(variant, rng)
    for record, prefix in ((out, ""), (grads, "grad_")):
        stages = record.stages()
        for stage in VOCABULARY:
            if stage.startswith("grad_") == bool(prefix):
                value = getattr(record, stage.removeprefix("grad_"))
                assert value is stages.get(stage), stage


@pytest.mark.parametrize("name", BIAS)
def test_no_bias_no_gradient_of_it(name, rng):
    """Without b, grads.b is None and grad_b no stage."""
    inputs = example(name, rng)
    del inputs["b"]
    _, grads = make(name).value_and_grad(**inputs)
    assert grads.b is None
    assert "grad_b" not in grads.stages()


def test_stages_of_CrossEntropy(rng):
    """Bare logits have no x: logits … loss and grad_logits, in the logits' own layout."""
    loss = refloss.CrossEntropy(axis=1)
    out = loss.forward(rng.normal(size=(2, 3, 5)), rng.integers(0, 3, size=(2, 5)))
    grads = loss.backward(out)
    assert (list(out.stages()), list(grads.stages())) == (TAIL, ["grad_logits"])
    assert [np.shape(v) for v in out.stages().values()] == [(2, 3, 5), (2, 3, 5), (2, 5), ()]
    assert (out.complement.shape, out.ignored.shape, grads.logits.shape) == ((2, 5), (2, 5), (2, 3, 5))
    assert grads.x is grads.W is grads.b is None


def test_repr_shows_every_stage_with_its_shape(variant, rng):
    """repr names the loss, every stage, the shapes of arrays and the digits of scalars."""
    loss, _, out, grads = passes(variant, rng)
    for record in (out, grads):
        text = repr(record)
        assert repr(loss) in text
        for stage, value in record.stages().items():
            (line,) = [line for line in text.splitlines() if line.split()[0] == stage]
            if np.shape(value):
                assert str(np.shape(value)) in line
            else:
                assert float(line.split()[-1]) == value


def test_arrays_of_a_record_are_read_only(variant, rng):
    """What a pass left behind cannot be changed by accident."""
    _, _, out, grads = passes(variant, rng, reduction="none")
    extra = {"complement": out.complement, "ignored": out.ignored}
    for stage, value in {**out.stages(), **grads.stages(), **extra}.items():
        if np.ndim(value):
            with pytest.raises(ValueError, match="read-only"):
                value[...] = 0
            assert not value.flags.writeable, stage


def test_fields_of_a_record_cannot_be_replaced(name, rng):
    """Both records are frozen."""
    _, _, out, grads = passes(name, rng)
    for record in (out, grads):
        with pytest.raises(dataclasses.FrozenInstanceError):
            record.logits = None


# -- what the stages hold --------------------------------------------------------------------------


def test_norms_and_cosines_are_those_of_the_input(variant, rng):
    """x_norm, W_norm and cos_theta are what they are called."""
    _, inputs, out, _ = passes(variant, rng)
    x_norm, W_norm = (np.linalg.norm(inputs[v], axis=1) for v in ("x", "W"))
    if out.x_norm is not None:
        np.testing.assert_allclose(out.x_norm, x_norm, rtol=1e-15, atol=0)
    if out.W_norm is not None:
        np.testing.assert_allclose(out.W_norm, W_norm, rtol=1e-15, atol=0)
    if out.cos_theta is not None:
        cos = inputs["x"] @ inputs["W"].T / np.outer(x_norm, W_norm)
        assert_close(out.cos_theta, cos, 1.0, relative_error_of(out), "cos_theta against 1")


@pytest.mark.parametrize("variant", [v for v, (cls, _) in VARIANTS.items() if cls.has_margin])
def test_theta_is_the_targets_angle_without_any_margin(variant, rng):
    """theta is arccos of the target's cosine, whatever the margin does to the logit."""
    _, inputs, out, _ = passes(variant, rng)
    cos = out.cos_theta[np.arange(6), inputs["labels"]]
    assert_close(np.cos(out.theta), cos, 1.0, relative_error_of(out), "cos(theta) against 1")


def test_probabilities_are_the_softmax_of_the_logits(variant, rng):
    """p = e^z / Σ e^z, and a row sums to 1."""
    _, _, out, _ = passes(variant, rng)
    e = np.exp(out.logits - out.logits.max(axis=1, keepdims=True))
    p = e / e.sum(axis=1, keepdims=True)
    assert_close(out.probabilities, p, p, relative_error_of(out), "p against itself")


def test_complement_is_one_minus_p_of_the_target(variant, rng):
    """complement is Σ_{j≠y} p_j."""
    _, inputs, out, _ = passes(variant, rng)
    others = np.where(np.eye(4, dtype=bool)[inputs["labels"]], 0.0, out.probabilities).sum(axis=1)
    assert_close(out.complement, others, others, relative_error_of(out), "complement against itself")


@pytest.mark.parametrize("name", SOFT)
def test_soft_targets_have_no_complement(name, rng):
    """complement is None where there is no one target; nothing is ignored."""
    out = make(name).forward(**(example(name, rng) | {"labels": rng.random((6, 4))}))
    assert out.complement is None
    assert not out.ignored.any()


def test_ignored_rows_count_for_nothing(variant, rng):
    """Ignored rows: marked, losses, theta, complement 0, gradient of logits and of x exactly 0."""
    loss, inputs = make(variant, ignore_index=-7), example(variant, rng)
    inputs["labels"][[1, 4]] = -7
    out = loss.forward(**inputs)
    grads = loss.backward(out)
    np.testing.assert_array_equal(out.ignored, [False, True, False, False, True, False])
    for value in (out.losses, out.complement, out.theta, grads.logits, grads.x):
        if value is not None:
            assert not value[out.ignored].any()
            assert value[~out.ignored].any()


def test_ignored_rows_have_no_margin(variant, rng):
    """The logits of an ignored row are those of inference."""
    loss, inputs = make(variant, ignore_index=-7), example(variant, rng)
    inputs["labels"][[1, 4]] = -7
    out = loss.forward(**inputs)
    del inputs["labels"]
    np.testing.assert_array_equal(out.logits[out.ignored], loss.inference_logits(**inputs)[out.ignored])


@pytest.mark.parametrize("label", [0, 3, 255, -1, 2**40, -(2**63)])
def test_any_integer_may_be_the_ignored_label(name, label, rng):
    """ignore_index may be a class, or any other integer."""
    inputs = example(name, rng)
    inputs["labels"] = np.array([1, label, 2, 1, 2, label])
    out = make(name, ignore_index=label).forward(**inputs)
    np.testing.assert_array_equal(out.ignored, inputs["labels"] == label)


def test_losses_are_reduced_to_the_loss(variant, rng):
    """loss is the mean of losses, their sum, or losses themselves."""
    inputs = example(variant, rng)
    outs = {r: make(variant, reduction=r).forward(**inputs) for r in ("mean", "sum", "none")}
    losses = outs["none"].losses
    for out in outs.values():
        np.testing.assert_array_equal(out.losses, losses)
    np.testing.assert_array_equal(outs["none"].loss, losses)
    assert_close(outs["sum"].loss, losses.sum(), losses.sum(), relative_error_of(outs["sum"]))
    assert_close(outs["mean"].loss, losses.mean(), losses.mean(), relative_error_of(outs["sum"]))


def test_inference_logits_have_no_margin(name, rng):
    """inference_logits are the logits of the loss with m = 0, or m = 1 where m multiplies the angle."""
    inputs = example(name, rng)
    no_margin = {"am_softmax": {"margin": 0}, "arcface": {"margin": 0}} | {psi: {"margin": 1} for psi in PSI}
    plain = make(name, **no_margin.get(name, {}))
    due = plain.forward(**inputs)
    del inputs["labels"]
    scale = np.abs(due.logits).max()
    assert_close(make(name).inference_logits(**inputs), due.logits, scale, relative_error_of(due), "logits")


# -- backward --------------------------------------------------------------------------------------


def test_backward_may_be_repeated_and_leaves_the_record(variant, rng):
    """backward gives the same bits each time, other upstreams in between, and does not change out."""
    loss, _, out, grads = passes(variant, rng)
    before = bits(out)
    for upstream in (1.0, -3.0, 0.0, 1.0):
        last = loss.backward(out, upstream)
    assert bits(last) == bits(grads)
    assert bits(out) == before


def test_record_of_another_loss_is_refused(name, rng):
    """backward takes only records of an equal loss, and names both."""
    _, inputs, out, grads = passes(name, rng)
    other = make(name, label_smoothing=0.25)
    with pytest.raises(ValueError, match=r"out was made by .*, not by .*label_smoothing=0.25"):
        other.backward(out)
    for another in (n for n in NAMES if n != name):
        with pytest.raises(ValueError, match="out was made by"):
            make(another).backward(out)
    with pytest.raises(ValueError, match="out was made by"):
        refloss.CrossEntropy().backward(out)
    with pytest.raises(TypeError, match="out must be the record that forward returned"):
        make(name).backward(grads)
    assert bits(make(name).backward(make(name).forward(**inputs))) == bits(make(name).backward(out))


@pytest.mark.parametrize("reduction", ["mean", "sum", "weighted_mean"])
def test_scalar_upstream_may_be_anything_scalar(name, reduction, rng):
    """A Python number, a NumPy scalar and a 0-d array are the same upstream."""
    loss = make(name, reduction=reduction)
    out = loss.forward(**example(name, rng))
    due = bits(loss.backward(out, -2.0))
    for upstream in (-2, np.float32(-2), np.int8(-2), np.array(-2.0), np.array(-2, ">i4")):
        assert bits(loss.backward(out, upstream)) == due


def test_scalar_upstream_means_every_sample(variant, rng):
    """Under reduction='none' a scalar stands for (N,) copies of it."""
    loss, _, out, _ = passes(variant, rng, reduction="none")
    assert bits(loss.backward(out, 1.75)) == bits(loss.backward(out, np.full(6, 1.75)))


def test_upstream_of_none_is_the_sum_of_its_samples(variant, rng):
    """backward with (N,) upstream is Σ_i upstream_i times the gradient of ℓ_i alone."""
    loss, inputs, out, _ = passes(variant, rng, reduction="none")
    upstream = np.array([1.0, -2.0, 0.0, 0.5, 3.0, -1.0])
    together = gradients(loss.backward(out, upstream))
    alone = [gradients(loss.backward(out, row)) for row in np.diag(upstream)]
    scales = natural_scales(loss, inputs["x"], inputs["W"], np.abs(together["logits"]))
    for field, value in together.items():
        due = sum(grads[field] for grads in alone)
        assert_close(value, due, scales[field], relative_error_of(out), field)


def test_backward_is_linear_in_upstream(variant, rng):
    """A power of two scales every gradient exactly; a·u + b·v gives a·grads(u) + b·grads(v)."""
    loss, inputs, out, _ = passes(variant, rng, reduction="none")
    u, v = rng.normal(size=(2, 6))
    of_u, of_v = gradients(loss.backward(out, u)), gradients(loss.backward(out, v))
    for field, value in gradients(loss.backward(out, -8 * u)).items():
        np.testing.assert_array_equal(value, -8 * of_u[field])
    mixed = loss.backward(out, 3 * u - 0.7 * v)
    G = 3 * np.abs(of_u["logits"]) + 0.7 * np.abs(of_v["logits"])
    scales = natural_scales(loss, inputs["x"], inputs["W"], G)
    for field, value in gradients(mixed).items():
        due = 3 * of_u[field] - 0.7 * of_v[field]
        assert_close(value, due, scales[field], relative_error_of(out), field)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none", "weighted_mean"])
def test_zero_upstream_gives_exactly_zero(variant, reduction, rng):
    """A zero upstream gives gradients that are 0 and nothing near it."""
    loss, _, out, grads = passes(variant, rng, reduction=reduction)
    for field, value in gradients(loss.backward(out, 0.0)).items():
        np.testing.assert_array_equal(value, np.zeros_like(gradients(grads)[field]), err_msg=field)


def test_zero_upstream_of_a_sample_gives_it_exactly_zero(variant, rng):
    """Samples with upstream 0 get no gradient of x, to the last bit."""
    loss, _, out, _ = passes(variant, rng, reduction="none")
    grads = loss.backward(out, [0.0, 1, 1, 0, 1, 0])
    for value in (grads.logits, grads.x):
        assert not value[[0, 3, 5]].any()
        assert value[[1, 2, 4]].any(axis=1).all()


def test_value_and_grad_is_forward_and_backward(variant, rng):
    """value_and_grad gives the bits of forward and backward, upstream included."""
    loss, inputs, out, _ = passes(variant, rng, reduction="none")
    upstream = rng.normal(size=6)
    value, grads = loss.value_and_grad(**inputs, upstream=upstream)
    np.testing.assert_array_equal(value, out.loss)
    assert bits(grads) == bits(loss.backward(out, upstream))


def test_value_and_grad_of_CrossEntropy(rng):
    """The same for bare logits."""
    loss = refloss.CrossEntropy(axis=0, reduction="none")
    logits, targets, upstream = rng.normal(size=(3, 5)), rng.integers(0, 3, size=5), rng.normal(size=5)
    out = loss.forward(logits, targets)
    value, grads = loss.value_and_grad(logits, targets, upstream=upstream)
    np.testing.assert_array_equal(value, out.loss)
    assert bits(grads) == bits(loss.backward(out, upstream))


@pytest.mark.parametrize("name", ["am_softmax", "arcface"])
def test_detached_margin_has_no_gradient(name, rng):
    """detach_margin: grads.margin is 0, grads.scale uses the value with its margin."""
    _, _, out, grads = passes(name, rng, detach_margin=True)
    assert grads.margin == 0
    due = np.sum(grads.logits * out.logits) / 30 if name == "am_softmax" else np.sum(grads.logits * out.logits) / 64
    assert_close(grads.scale, due, np.sum(np.abs(grads.logits)), relative_error_of(out), "scale")


# -- the loss objects ------------------------------------------------------------------------------


def test_losses_are_frozen(variant):
    """A loss's parameters cannot be set."""
    loss = make(variant)
    for field in dataclasses.fields(loss):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(loss, field.name, None)


def test_losses_are_equal_by_their_parameters(variant):
    """Equal parameters make equal losses with equal hashes; another class or parameter does not."""
    loss, same, other = make(variant), make(variant), make(variant, label_smoothing=0.5)
    assert loss == same
    assert hash(loss) == hash(same)
    assert len({loss, same, other}) == 2
    assert loss != other
    assert all((make(v) == loss) == (v == variant) for v in VARIANTS)
    assert loss != refloss.CrossEntropy()
    assert loss != "loss"


def test_losses_can_be_pickled_and_copied(variant, rng):
    """A pickled, copied, deep-copied or re-made loss is equal and gives the same bits."""
    loss, inputs, out, grads = passes(variant, rng)
    for twin in (pickle.loads(pickle.dumps(loss)), copy.copy(loss), copy.deepcopy(loss), dataclasses.replace(loss)):
        assert twin == loss
        assert hash(twin) == hash(loss)
        assert bits(twin.forward(**inputs), twin.backward(out)) == bits(out, grads)


def test_a_changed_copy_is_checked_again(variant):
    """dataclasses.replace makes a new loss, with the checks of a new loss."""
    loss = make(variant)
    assert dataclasses.replace(loss, reduction="sum").reduction == "sum"
    with pytest.raises(ValueError, match="reduction must be one of"):
        dataclasses.replace(loss, reduction="total")


def test_repr_makes_the_loss_again(name):
    """repr is the call that makes an equal loss."""
    for loss in (make(name), make(name, reduction="sum", ignore_index=-1, class_weights=[1, 2.5])):
        assert eval(repr(loss), vars(refloss).copy()) == loss


def test_repr_of_many_weights_is_short():
    """A thousand class weights are counted, not printed."""
    assert repr(refloss.WeightedSoftmax(class_weights=[1.0] * 1000)) == "WeightedSoftmax(class_weights=<1000 weights>)"


def test_records_and_gradients_can_be_copied(name, rng):
    """A deep copy or a pickle of a record is a record of the same bits."""
    loss, _, out, grads = passes(name, rng)
    for twin in (copy.deepcopy(out), pickle.loads(pickle.dumps(out))):
        assert bits(loss.backward(twin)) == bits(grads)
    assert bits(pickle.loads(pickle.dumps(grads))) == bits(grads)


# -- names -----------------------------------------------------------------------------------------


def test_losses_lists_the_survey_in_its_order():
    """losses() is the survey's list."""
    assert refloss.losses() == list(STAGES)


def test_the_list_of_losses_is_the_callers_own():
    """Changing the returned list changes nothing."""
    refloss.losses().clear()
    assert refloss.losses() == list(STAGES)


def test_get_makes_the_loss_of_that_name(name):
    """get(name, …) is the class called with the same parameters."""
    parameters = {"class_weights": [1, 2]} if name == "weighted_softmax" else {}
    loss = refloss.get(name, reduction="sum", **parameters)
    assert loss.name == name
    assert loss == type(loss)(reduction="sum", **parameters)


@pytest.mark.parametrize(
    ("alias", "cls"), [("ModifiedSoftmax", "WNormSoftmax"), ("SphereFace", "ASoftmax"), ("CosFace", "AMSoftmax")]
)
def test_aliases_are_the_same_class(alias, cls):
    """The field's other names are the same objects."""
    assert getattr(refloss, alias) is getattr(refloss, cls)


def test_defaults_are_the_surveys():
    """The defaults that the docstrings give: values of the papers, no option chosen."""
    for name in ("l_softmax", "a_softmax", "f_norm_sphereface"):
        loss = refloss.get(name)
        assert (loss.margin, loss.annealing, loss.continuation, loss.detach_margin) == (4, 0.0, None, False)
    assert refloss.get("f_norm_sphereface").scale == 64
    assert refloss.get("l2_softmax").alpha == 16
    assert (refloss.CosFace().scale, refloss.CosFace().margin) == (30, 0.35)
    arcface = refloss.ArcFace()
    assert (arcface.scale, arcface.margin, arcface.easy_margin, arcface.past_pi) == (64, 0.5, False, "cos")
    for loss in (arcface, refloss.CrossEntropy()):
        assert (loss.reduction, loss.label_smoothing, loss.ignore_index, loss.empty_mean) == ("mean", 0, None, "error")
    assert refloss.CrossEntropy().axis == -1


def test_everything_public_is_listed():
    """refloss.__all__ names what exists, and the promised names are among it."""
    assert all(hasattr(refloss, name) for name in refloss.__all__ if name != "gradcheck")
    due = {"CrossEntropy", "hed_class_weights", "losses", "get", "gradcheck", "MarginSoftmax", "CosFace", "ArcFace"}
    assert due <= set(refloss.__all__)
