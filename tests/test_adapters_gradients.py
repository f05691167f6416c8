"""The adapters differentiate what comes back: torch and JAX, losses and mappings, and what a kernel returns itself."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from calling import (
    Case,
    assert_gradients,
    bare,
    call,
    due,
    jax_loss,
    jax_losses,
    only,
    torch_loss,
    torch_losses,
    without_b,
)
from helpers import need

import refloss

# -- gradients through torch -----------------------------------------------------------------------


def test_torch_loss_is_differentiated():
    outcome = call(torch_loss, framework="torch", upstream_scale=2.0)
    assert list(outcome.stages) == ["loss", "grad_x", "grad_W", "grad_b"]
    assert (outcome.reduced, outcome.differentiated) == ("loss", ("grad_x", "grad_W", "grad_b"))
    assert not outcome.problems
    assert_gradients(outcome, Case(), scale=2.0)
    plain = call(torch_loss, without_b(), framework="torch")
    assert list(plain.stages) == ["loss", "grad_x", "grad_W"]


@pytest.mark.parametrize("layout", ["contiguous", "strided", "transposed", "read_only", "upstream_strided", "padded"])
def test_torch_losses_are_differentiated_with_each_upstream(layout):
    outcome = call(torch_losses, Case(layout=layout), framework="torch")
    assert (outcome.reduced, next(iter(outcome.stages)), outcome.problems) == ("losses", "losses", [])
    assert_gradients(outcome, Case(), per_sample=True)


def test_torch_mapping_is_completed():
    """What it lacks is differentiated, grad_logits too if its logits are on the way."""
    torch = need("torch")

    def kernel(x, W, labels, b=None, off=False):
        z = torch.nn.functional.linear(x, W, b)
        loss = torch.nn.functional.cross_entropy(z, labels)
        return {"logits": z.detach() if off else z, "loss": loss}

    outcome = call(kernel, framework="torch")
    assert list(outcome.stages) == ["logits", "loss", "grad_logits", "grad_x", "grad_W", "grad_b"]
    assert_gradients(outcome, Case())
    np.testing.assert_allclose(outcome.stages["grad_logits"], due(Case())["grad_logits"], rtol=1e-13)
    assert "grad_logits" not in call(functools.partial(kernel, off=True), framework="torch").stages


def test_torch_own_gradients_stay():
    """Those that are missing belong to the same upstream: 1 where it is not taken."""
    torch = need("torch")

    def kernel(x, W, labels, b=None):
        return {"loss": torch_loss(x, W, labels, b), "grad_x": torch.full_like(x, 7)}

    def taking(x, W, labels, b=None, upstream=None):
        return kernel(x, W, labels, b)

    for one, scale in ((kernel, 1 / Case().upstream), (taking, 1.0)):
        outcome = call(one, framework="torch")
        assert outcome.differentiated == ("grad_W", "grad_b")
        assert (outcome.stages["grad_x"] == 7).all()
        np.testing.assert_allclose(outcome.stages["grad_W"], due(Case(), scale=scale)["grad_W"], rtol=1e-13)


def test_torch_own_gradients_and_losses_of_samples():
    """Own gradients are of the reduced loss: nothing is added to them through the losses of the samples."""
    torch = need("torch")

    def kernel(x, W, labels, b=None):
        return {"losses": torch_losses(x, W, labels, b), "grad_x": torch.zeros_like(x)}

    assert not call(kernel, framework="torch").differentiated
    assert call(kernel, framework="torch", per_sample=True).differentiated == ("grad_W", "grad_b")


def test_torch_own_backward():
    """A kernel that calls backward itself has used up its graph; nothing more is asked of it."""

    def kernel(x, W, labels):
        z = x @ W.T
        loss = z.logsumexp(1).mean()
        loss.backward()
        return {"logits": z, "loss": loss, "grad_x": x.grad, "grad_W": W.grad}

    outcome = call(kernel, without_b(), framework="torch")
    assert not outcome.problems
    assert not outcome.differentiated


@pytest.mark.parametrize(
    ("kernel", "words"),
    [
        (lambda x, W, y: torch_loss(x, W, y).detach(), "does not require grad"),
        (lambda x, W, y: torch_loss(x, W, y).item(), "came back as python float, not as a tensor"),
    ],
)
def test_torch_loss_without_a_graph(kernel, words):
    outcome = call(kernel, framework="torch")
    problem = only(outcome, "no_gradient")
    assert (problem.stage, list(outcome.stages)) == ("grad_x", ["loss"])
    assert words in problem.message


def test_torch_gradient_that_is_missing():
    outcome = call(lambda x, W, y: torch_loss(x, W.detach(), y), without_b(), framework="torch")
    problem = only(outcome, "no_gradient")
    assert problem.message == "no grad_W: in torch's graph the loss does not depend on W"
    assert (problem.stage, list(outcome.stages)) == ("grad_W", ["loss", "grad_x"])


def test_torch_values_without_gradients():
    """A mapping without a live loss has what it has."""
    torch = need("torch")

    def kernel(x, W, labels):
        with torch.no_grad():
            return {"logits": x @ W.T, "loss": torch_loss(x, W, labels)}

    outcome = call(kernel, framework="torch")
    assert not outcome.problems
    assert list(outcome.stages) == ["logits", "loss"]


def test_torch_kernel_that_autograd_cannot_follow():
    """NumPy's view of the memory, out=: such a kernel has gradients of its own, and gets plain tensors."""
    torch = need("torch")

    def kernel(x, W, labels):
        z = torch.empty(len(x), len(W), dtype=x.dtype)
        torch.mm(x, W.T, out=z)
        return {"logits": z, "grad_x": torch.from_numpy(2 * x.numpy())}

    outcome = call(kernel, framework="torch")
    assert not outcome.problems
    np.testing.assert_array_equal(outcome.stages["grad_x"], 2 * Case().inputs["x"])
    # but a loss alone is to be differentiated
    bare_loss = call(lambda x, W, y: x.numpy().sum(), framework="torch")
    assert "Can't call numpy() on Tensor that requires grad" in only(bare_loss, "exception").message


def test_torch_half_inputs_with_a_float32_loss():
    outcome = call(lambda x, W, y: torch_losses(x.float(), W.float(), y), framework="torch", dtype="bfloat16")
    assert outcome.dtypes == {"losses": "float32", "grad_x": "bfloat16", "grad_W": "bfloat16"}


def test_torch_custom_function_sees_the_upstream():
    torch = need("torch")
    seen = []

    class Sum(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, W, labels):
            ctx.save_for_backward(x, W)
            return x.sum(1) * W.sum()

        @staticmethod
        def backward(ctx, g):
            x, W = ctx.saved_tensors
            seen.append((g.stride(), g.clone()))
            return (g * W.sum())[:, None].expand(x.shape), (g * x.sum(1)).sum().expand(W.shape), None

    case = without_b(layout="upstream_strided")
    assert not call(Sum.apply, case, framework="torch").problems
    case.upstreams, case.layout = np.full(3, 0.5), "upstream_expanded"  # what a sum sends back
    assert not call(Sum.apply, case, framework="torch").problems
    assert [stride for stride, _ in seen] == [(2,), (0,)]
    np.testing.assert_array_equal(seen[0][1], Case().upstreams)
    np.testing.assert_array_equal(seen[1][1], case.upstreams)


def test_torch_bare_logits():
    torch = need("torch")
    outcome = call(lambda z, y: torch.nn.functional.cross_entropy(z, y), bare(), framework="torch")
    assert list(outcome.stages) == ["loss", "grad_logits"]
    loss = refloss.CrossEntropy()
    out = loss.forward(bare().inputs["logits"], bare().labels)
    np.testing.assert_allclose(outcome.stages["grad_logits"], loss.backward(out, bare().upstream).logits, rtol=1e-13)


def test_torch_grad_mode_of_the_caller_does_not_matter():
    torch = need("torch")
    with torch.no_grad():
        assert not call(torch_loss, framework="torch").problems


# -- gradients through jax -------------------------------------------------------------------------


def test_jax_is_differentiated():
    """A bare loss, jitted or not, losses of samples, and a mapping; float64 whatever the setting outside."""
    jax = need("jax")
    before = jax.config.jax_enable_x64
    for kernel in (jax_loss, jax.jit(jax_loss), lambda x, W, y, b=None: {"loss": jax_loss(x, W, y, b)}):
        outcome = call(kernel, framework="jax", upstream_scale=2.0)
        assert list(outcome.stages) == ["loss", "grad_x", "grad_W", "grad_b"]
        assert sorted(outcome.differentiated) == ["grad_W", "grad_b", "grad_x"]
        assert set(outcome.dtypes.values()) == {"float64"}
        assert not outcome.problems
        assert_gradients(outcome, Case(), scale=2.0)
    outcome = call(jax_losses, framework="jax")
    assert outcome.reduced == "losses"
    assert_gradients(outcome, Case(), per_sample=True)
    assert jax.config.jax_enable_x64 == before


def test_jax_mapping_is_completed():
    jax = need("jax")

    def kernel(x, W, labels):
        return {"logits": x @ W.T, "loss": jax_loss(x, W, labels), "grad_x": 7 * jax.numpy.ones_like(x)}

    outcome = call(kernel, without_b(), framework="jax")
    assert outcome.differentiated == ("grad_W",)
    assert (outcome.stages["grad_x"] == 7).all()
    np.testing.assert_allclose(
        outcome.stages["grad_W"], due(without_b(), scale=1 / Case().upstream)["grad_W"], rtol=1e-13
    )


def test_jax_is_not_differentiated_where_it_need_not():
    """A kernel with gradients of its own may leave jax on its way."""
    jax = need("jax")

    def kernel(x, W, labels):
        z = jax.numpy.asarray(np.asarray(x) @ np.asarray(W).T)
        return {"loss": z.sum(), "grad_x": x, "grad_W": W}

    assert not call(kernel, without_b(), framework="jax").problems
    message = only(call(lambda x, W, y: jax.numpy.sum(np.asarray(x)), framework="jax"), "exception").message
    assert message.startswith("while it was differentiated: TracerArrayConversionError")
    assert "test_adapters_gradients.py" in message
    outcome = call(lambda x, W, y: float(x.sum()), framework="jax")
    assert only(outcome, "no_gradient").message.endswith("came back as python float, not as an array of jax")


def test_jax_below_float64_is_without_x64():
    jax = need("jax")
    kinds = []
    with jax.enable_x64(True):
        call(lambda x, W, y: kinds.append(jax.numpy.arange(3.0).dtype.name) or {}, framework="jax", dtype="float32")
    assert kinds == ["float32"]
