"""The checks of others: each is the real one, accepts what is right, and lets pass what it is known to let pass."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers import need

import refloss
from refloss.precision.dtypes import DTYPES, rounded
from refloss.score.rivals import RIVALS, Run, available, control, eager, gaussian, reference
from refloss.testing.diagnosis.suspects import SUSPECTS, wrong

WEIGHTS = tuple(np.linspace(0.5, 2.0, 7))
LOSSES = {
    "softmax": refloss.Softmax(),
    "softmax-weighted": refloss.Softmax(class_weights=WEIGHTS, reduction="weighted_mean", label_smoothing=0.1),
    "l2_softmax-sum": refloss.L2Softmax(reduction="sum"),
    "a_softmax": refloss.ASoftmax(),
    "am_softmax-none": refloss.AMSoftmax(reduction="none", ignore_index=-100),
    "arcface": refloss.ArcFace(),
    "arcface-class-ignored": refloss.ArcFace(past_pi="linear", ignore_index=3),
    "cross_entropy": refloss.CrossEntropy(ignore_index=-100),
    "cross_entropy-images": refloss.CrossEntropy(axis=1, reduction="none"),
}
AGAINST_TRUTH = (
    "allclose_default", "allclose_1e-3", "allclose_1e-2", "assert_close", "flash_attention_2x", "torchtitan",
    "gpuemu", "webnn", "tosa",
)  # fmt: skip
AGAINST_ITSELF = ("gradcheck", "check_grads", "chex")


def asked(name: str) -> Any:
    """The check, or the test is skipped."""
    need(RIVALS[name].package)
    return RIVALS[name]


def making(suspect: str, loss: Any) -> Run:
    """The suspect as an implementation."""

    def run(inputs: Mapping[str, np.ndarray], labels: np.ndarray, upstream: Any) -> dict[str, np.ndarray]:
        return wrong(SUSPECTS[suspect], loss, inputs, labels, upstream)

    return run


def passes(name: str, suspect: str, loss: Any, dtype: str = "float64") -> bool | None:
    return asked(name).accepts(making(suspect, loss), loss, dtype)


def dtype_of(name: str) -> str:
    """Where it lets ordinary float64, which the wrong copies are made in, pass at least."""
    return "float32" if name in AGAINST_TRUTH else "float64"


def changed(loss: Any, change: Any) -> Run:
    """The reference's stages after change(stages)."""

    def run(inputs: Mapping[str, np.ndarray], labels: np.ndarray, upstream: Any) -> Any:
        stages = reference(loss)(inputs, labels, upstream)
        change(stages)
        return stages

    return run


# -- what is right ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", RIVALS)
def test_the_reference_is_accepted(name: str, dtype: str) -> None:
    """Rounded to the dtype; but the checks by differences have no place in 16 bits, gradcheck not in 32 either.

    In float32 check_grads accepts some and rejects some: its step of 1e-4 leaves of a loss near 20 a quotient that is
    off by 1e-2, where it allows 2e-3.
    """
    asked(name)
    narrow = {"gradcheck": 64, "check_grads": 32, "chex": 32}.get(name, 16)
    bits = 16 if DTYPES[dtype].is_half else int(dtype[-2:])
    losses = [*LOSSES.values(), refloss.LSoftmax(), refloss.FNormSphereFace(scale=8.0)]
    accepted = {control(name, loss, dtype) for loss in losses}
    if (name, dtype) == ("check_grads", "float32"):
        assert accepted == {True, False}
    else:
        assert accepted == {True if bits >= narrow else None}


def test_detached_margins_have_no_gradient_of_their_own() -> None:
    loss = refloss.ArcFace(detach_margin=True)
    for name in ("gradcheck", "check_grads"):
        asked(name)
        assert control(name, loss, "float64") is False


@pytest.mark.parametrize("name", LOSSES)
def test_the_eager_baseline(name: str) -> None:
    """It is the loss, in every dtype as good as that can be; assert_close has no room for it in 16 bits."""
    need("torch")
    loss = LOSSES[name]
    for dtype, kind in DTYPES.items():
        given = gaussian(loss, dtype, randn_upstream=True)
        got = eager(loss, dtype)(given.inputs, given.labels, given.upstream)
        assert got.keys() == given.due.keys()
        for stage, due in given.due.items():
            assert got[stage].shape == due.shape
            np.testing.assert_array_equal(rounded(got[stage], kind), got[stage])
            size = np.max(np.abs(due))
            # some 300 roundings; stages below 1e-2 come of terms, logits and x, of size 1
            np.testing.assert_allclose(got[stage], due, rtol=0, atol=300 * kind.u * max(size, 1e-2))
        assert RIVALS["flash_attention_2x"].accepts(eager(loss, dtype), loss, dtype)
    assert RIVALS["assert_close"].accepts(eager(loss, "float64"), loss, "float64")
    assert not RIVALS["assert_close"].accepts(eager(loss, "bfloat16"), loss, "bfloat16")


# -- what is wrong ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RIVALS)
def test_a_wrong_sign_is_noticed_where_gradients_are_large(name: str) -> None:
    loss = refloss.ArcFace(scale=3000.0, reduction="sum")
    asked(name)
    assert control(name, loss, "float64")
    assert passes(name, "gradient_of_wrong_sign", loss) is False


@pytest.mark.parametrize("name", AGAINST_TRUTH)
def test_a_wrong_formula_is_noticed_against_the_truth(name: str) -> None:
    for dtype in DTYPES:
        for suspect in ("margin_of_wrong_sign", "scale_squared", "gradient_zero"):
            assert passes(name, suspect, refloss.ArcFace(), dtype) is False


@pytest.mark.parametrize("name", AGAINST_ITSELF)
def test_a_wrong_formula_with_its_own_gradient_passes(name: str) -> None:
    for suspect in ("margin_of_wrong_sign", "cosine_margin_for_angle"):
        assert passes(name, suspect, refloss.ArcFace(), "float64")
    assert passes(name, "no_branches", refloss.ASoftmax(), "float64")


def test_chex_passes_any_gradient_at_usual_sizes() -> None:
    """Its tolerance is 0.01 times the size of x, 20 here."""
    for loss in (refloss.Softmax(), refloss.ArcFace()):
        for suspect in ("gradient_zero", "gradient_of_wrong_sign", "gradient_doubled"):
            assert passes("chex", suspect, loss, "float32")
            assert passes("check_grads", suspect, loss, "float32") is False


@pytest.mark.parametrize("name", [name for name in RIVALS if name != "gradcheck"])  # its D is small
def test_random_input_reaches_no_branch(name: str) -> None:
    """In 64 dimensions no target angle comes near π − m."""
    for suspect in ("linear_past_pi", "mirrored_past_pi", "zero_past_pi", "slope_clamped"):
        assert passes(name, suspect, refloss.ArcFace(), dtype_of(name))


def test_an_upstream_of_one_hides_the_upstream() -> None:
    """Only the checks that send another one down see whether it arrives."""
    noticed = {name for name in RIVALS if not passes(name, "upstream_ignored", refloss.ArcFace(), dtype_of(name))}
    assert noticed == {"flash_attention_2x", "torchtitan", "gradcheck", "check_grads"}
    assert passes("gradcheck", "upstream_squared", refloss.ArcFace())  # it sends 0 and 1


def test_tolerances_that_do_not_fit() -> None:
    """Gradients of p/N are below 1e-2, and 2 % of them below anything absolute."""
    loss = refloss.CrossEntropy()
    assert passes("allclose_1e-2", "gradient_two_percent_too_large", loss)
    assert not passes("allclose_default", "gradient_two_percent_too_large", loss)


@pytest.mark.parametrize("name", AGAINST_TRUTH)
def test_every_gradient_counts(name: str) -> None:
    for loss, stages in (
        (refloss.L2Softmax(), ("loss", "grad_x", "grad_W", "grad_b", "grad_alpha")),
        (refloss.ArcFace(), ("loss", "grad_x", "grad_W", "grad_scale", "grad_margin")),
    ):
        for stage in stages:
            run = changed(loss, lambda got, stage=stage: got.update({stage: 3.0 * got[stage]}))
            assert asked(name).accepts(run, loss, "float64") is False
        run = changed(loss, lambda got: got.update(logits=0 * got["logits"]))
        assert asked(name).accepts(run, loss, "float64")  # nobody looks


# -- implementations that go astray ----------------------------------------------------------------


@pytest.mark.parametrize("name", RIVALS)
def test_raising_is_noticed(name: str) -> None:
    """In the forward, or in the backward alone."""
    loss, calls = refloss.Softmax(), []

    def late(stages: dict[str, Any]) -> None:
        calls.append(None)
        if len(calls) > 1:
            raise FloatingPointError("not now")

    def at_once(stages: dict[str, Any]) -> None:
        raise FloatingPointError("no")

    assert asked(name).accepts(changed(loss, at_once), loss, "float64") is False
    if name in AGAINST_ITSELF:
        assert RIVALS[name].accepts(changed(loss, late), loss, "float64") is False


@pytest.mark.parametrize("name", RIVALS)
def test_nan_is_noticed(name: str) -> None:
    loss = refloss.Softmax()
    run = changed(loss, lambda stages: stages.update(grad_W=np.full_like(stages["grad_W"], np.nan)))
    assert asked(name).accepts(run, loss, "float64") is False


@pytest.mark.parametrize("name", RIVALS)
def test_a_wrong_shape_is_noticed(name: str) -> None:
    loss = refloss.Softmax()
    run = changed(loss, lambda stages: stages.update(grad_W=stages["grad_W"].T))
    assert asked(name).accepts(run, loss, "float64") is False


def test_losses_stand_for_the_loss_where_nothing_is_reduced() -> None:
    loss = refloss.AMSoftmax(reduction="none")
    for name in available():
        assert RIVALS[name].accepts(changed(loss, lambda stages: stages.pop("loss")), loss, "float64")
    loss = replace(loss, reduction="sum")
    with pytest.raises(ValueError, match="run must give loss"):
        RIVALS["allclose_1e-2"].accepts(changed(loss, lambda stages: stages.pop("loss")), loss, "float64")


# -- the rest --------------------------------------------------------------------------------------


def test_the_input() -> None:
    """A fifth of the rows is ignored, classes are as many as weights, numbers are of the dtype and stay as they are."""
    given = gaussian(LOSSES["am_softmax-none"], "bfloat16")
    assert np.sum(given.labels == -100) == 6
    assert given.due["loss"].shape == given.upstream.shape == (32,)
    assert {name: v.shape for name, v in given.inputs.items()} == {"x": (32, 64), "W": (16, 64)}
    np.testing.assert_array_equal(rounded(given.inputs["x"], DTYPES["bfloat16"]), given.inputs["x"])
    with pytest.raises(ValueError, match="read-only"):
        given.inputs["x"][0, 0] = 0.0
    assert gaussian(LOSSES["softmax-weighted"], "float32").inputs["W"].shape == (7, 64)
    assert gaussian(LOSSES["cross_entropy-images"], "float32").inputs["logits"].shape == (2, 16, 16)
    assert gaussian(refloss.CrossEntropy(axis=0), "float32", few=True).inputs["logits"].shape == (10, 4)


def test_the_list() -> None:
    """Each says what it does, with which tolerances, and where that is public."""
    assert {*AGAINST_TRUTH, *AGAINST_ITSELF} == set(RIVALS)
    assert set(available()) <= set(RIVALS)
    for name, rival in RIVALS.items():
        assert rival.name == name
        assert rival.package in ("numpy", "torch", "jax", "chex")
        assert any(f" {digit}" in rival.description for digit in "0123456789")
        assert rival.description.split()[-1].count(":") == 1


def test_the_descriptions_have_the_installed_defaults() -> None:
    torch, chex = need("torch"), need("chex")
    import inspect

    from jax._src import public_test_util
    from torch.testing._comparison import default_tolerances

    of = {name: inspect.signature(f).parameters for name, f in {
        "numpy": np.allclose, "torch": torch.autograd.gradcheck, "chex": chex.assert_numerical_grads,
    }.items()}  # fmt: skip
    assert (of["numpy"]["rtol"].default, of["numpy"]["atol"].default) == (1e-5, 1e-8)
    assert [of["torch"][k].default for k in ("eps", "atol", "rtol", "nondet_tol")] == [1e-6, 1e-5, 1e-3, 0.0]
    assert of["chex"]["atol"].default == 0.01
    for dtype, tolerances in (
        ("float64", (1e-7, 1e-7)), ("float32", (1.3e-6, 1e-5)), ("float16", (1e-3, 1e-5)), ("bfloat16", (1.6e-2, 1e-5)),
    ):  # fmt: skip
        assert default_tolerances(getattr(torch, dtype)) == tolerances
    assert public_test_util.EPS == 1e-4
    gradient = public_test_util.default_gradient_tolerance
    assert (gradient[np.dtype("float32")], gradient[np.dtype("float64")]) == (2e-3, 1e-5)


def test_nothing_escapes() -> None:
    """No warning, and JAX's precision is as it was."""
    loss = refloss.ArcFace()
    before = need("jax").config.jax_enable_x64
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in available():
            for dtype in DTYPES:
                RIVALS[name].accepts(making("pole_gives_nan", loss), loss, dtype)
                RIVALS[name].accepts(changed(loss, lambda got: got.update(loss=got["loss"] * np.inf)), loss, dtype)
    assert need("jax").config.jax_enable_x64 == before
