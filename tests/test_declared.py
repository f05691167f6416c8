"""What a kernel may declare about how it is called, and the cases about how arrays are handed out."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import need

import refloss
from refloss.testing import UnfitImplementation, cases, check

SOFTMAX, BARE = refloss.Softmax(), refloss.CrossEntropy()


def softmax(x, W, labels, b=None, upstream=1.0, loss=SOFTMAX):
    """refloss's own pass, in the dtype of x."""
    out = loss.forward(x, W, labels, b)
    grads = loss.backward(out, upstream)
    made = {"loss": out.loss, "grad_x": grads.x, "grad_W": grads.W}
    if loss.has_bias and b is not None:
        made["grad_b"] = grads.b
    return {name: np.asarray(value).astype(x.dtype) for name, value in made.items()}


def torch_head(x, W, labels, b=None):
    import torch

    return torch.nn.functional.cross_entropy(torch.nn.functional.linear(x, W, b), labels)


def quick(kernel, loss=SOFTMAX, chosen=("typical", "upstream_mixed", "no_bias"), **options):
    return check(kernel, loss, cases=list(chosen), **options)


def words_of(error, *arguments, **options):
    with pytest.raises(error) as raised:
        quick(*arguments, **options)
    assert "\n" not in str(raised.value)
    return str(raised.value)


# -- names -----------------------------------------------------------------------------------------


def only_positions(a, b, c, d, e, /):
    return softmax(b, a, d, c, e)


@pytest.mark.parametrize(
    ("kernel", "arguments"),
    [
        (lambda features, weight, target, bias=None, dout=1: softmax(features, weight, target, bias, dout),
         {"x": "features", "W": "weight", "labels": "target", "b": "bias", "upstream": "dout"}),
        (lambda x, W, bias, target, upstream: softmax(x, W, target, bias, upstream), {"b": "bias", "labels": "target"}),
        (lambda target, x, W, *, dout: softmax(x, W, target, None, dout), {"labels": "target", "upstream": "dout"}),
        (lambda a, b, y, dout: softmax(a, b, y, None, dout), {"upstream": "dout"}),  # W by another name
        (lambda y, **given: softmax(given["f"], given["W"], y, given.get("b"), given["upstream"]),
         {"x": "f", "W": "W", "labels": "y"}),
        (only_positions, {"W": "a", "x": "b", "b": "c", "labels": "d", "upstream": "e"}),
        (lambda *given: softmax(given[1], given[0], *given[2:]),
         {"W": "?", "x": "any", "labels": "name", "b": "", "upstream": "will do"}),
    ],
    ids=["names", "some", "labels_first", "second_called_b", "kwargs", "by_position", "in_order"],
)  # fmt: skip
def test_arguments(kernel, arguments):
    report = quick(kernel, arguments=arguments)
    assert report.passed, report


def test_arguments_of_bare_logits():
    def kernel(input, target):
        out = BARE.forward(input, target)
        return {"loss": out.loss.astype(input.dtype), "grad_logits": BARE.backward(out).logits.astype(input.dtype)}

    names = {"logits": "input", "targets": "target"}
    assert quick(kernel, BARE, ["typical", "upstream_mixed"], arguments=names).passed
    assert "input" in words_of(UnfitImplementation, kernel, BARE, ["typical"], arguments={"logits": "inputs"})


def test_arguments_that_cannot_be():
    assert "no parameter 'bias'" in words_of(UnfitImplementation, softmax, arguments={"b": "bias"})
    assert "there is no 'bias' to be given" in words_of(ValueError, softmax, arguments={"bias": "b"})
    assert words_of(TypeError, softmax, arguments=["x", "W"]).startswith("arguments must map")
    assert "two of them" in words_of(ValueError, softmax, arguments={"x": "b", "b": "b"})
    assert "W, labels is missing" in words_of(UnfitImplementation, lambda *given: 0, arguments={"x": "features"})
    assert "margin" in words_of(UnfitImplementation, lambda x, W, y, margin: 0, arguments={"labels": "y"})


def test_arguments_stand_in_the_reproducer():
    def kernel(x, W, target):
        return {"loss": np.float32(0)}

    report = quick(kernel, chosen=["typical"], arguments={"labels": "target"})
    assert "arguments={'labels': 'target'}" in report.reproducer


# -- a bias without default ------------------------------------------------------------------------


def test_a_bias_without_default_is_always_given():
    report = quick(lambda x, W, labels, b, upstream: softmax(x, W, labels, b, upstream))
    assert report.passed, report
    assert {result.name: "grad_b" in result.grades for result in report.results}["no_bias"]


def test_gradient_of_a_bias_that_is_not_there():
    """It is that of a zero bias, and may be wrong."""

    def kernel(x, W, labels, b=None, upstream=1.0, factor=1.0):
        made = softmax(x, W, labels, np.zeros(len(W)) if b is None else b, upstream)
        return {**made, "grad_b": (factor * made["grad_b"]).astype(x.dtype)}

    assert quick(kernel).passed
    wrong = quick(lambda x, W, labels, b=None, upstream=1.0: kernel(x, W, labels, b, upstream, 2.0))
    assert {failure.stage for failure in wrong.failures if failure.case == "no_bias"} == {"grad_b"}


@pytest.mark.parametrize("framework", ["numpy", "torch"])
def test_a_bias_without_default_and_a_loss_without(framework):
    need(framework)
    loss = refloss.AMSoftmax(scale=8, margin=0.2)

    def kernel(x, W, labels, b, upstream):
        assert not b.any()
        return {**softmax(x, W, labels, None, upstream, loss), "grad_b": np.full(len(W), 7, x.dtype)}

    def torch_kernel(x, W, labels, b):
        import torch

        cos = torch.nn.functional.normalize(x) @ torch.nn.functional.normalize(W).T
        z = 8 * (cos - 0.2 * torch.nn.functional.one_hot(labels, len(W)))
        return torch.nn.functional.cross_entropy(z + b, labels)

    chosen = ["typical", "upstream_mixed", "duplicate_labels"]
    report = quick(kernel if framework == "numpy" else torch_kernel, loss, chosen, framework=framework)
    assert report.passed, report
    assert any("it was given zeros" in note for note in report.notes)


# -- results ---------------------------------------------------------------------------------------


def test_returns():
    need("torch")
    assert quick(lambda x, W, y, b=None: (None, torch_head(x, W, y, b)), framework="torch", returns=1).passed
    assert quick(lambda x, W, y, b=None, upstream=1: (softmax(x, W, y, b, upstream), 3), returns=-2).passed
    report = quick(lambda x, W, y: (softmax(x, W, y), 3), returns=2)
    assert "it has no entry 2" in report.failures[0].message
    assert "returns=0" in quick(lambda x, W, y: (softmax(x, W, y), 3)).failures[0].message
    assert words_of(TypeError, softmax, returns="loss").startswith("returns must be the index")


def test_nothing_came_back():
    report = quick(lambda x, W, y: {})
    assert not report.passed
    assert report.failures[0].message == "an empty mapping came back; at least one stage is due"


@pytest.mark.parametrize("chosen", [["typical", "layout_read_only", "layout_padded"]])
def test_mutates(chosen):
    def kernel(logits, targets, upstream=1.0):
        out = BARE.forward(logits, targets)
        logits[...] = BARE.backward(out, upstream).logits
        return {"loss": out.loss.astype(logits.dtype), "grad_logits": logits}

    assert {f.kind for f in quick(kernel, BARE, chosen).failures} == {"mutated", "exception"}
    report = quick(kernel, BARE, chosen, mutates=["logits"])
    assert report.passed, report
    assert "may overwrite logits" in str(report.notes)
    assert quick(kernel, BARE, chosen, mutates="logits").passed
    assert "got 'z'" in words_of(ValueError, kernel, BARE, chosen, mutates=["z"])


def test_torch_differentiates_through_what_is_overwritten():
    torch = need("torch")

    def kernel(logits, targets):
        logits.sub_(logits.detach().amax(1, keepdim=True))
        return torch.nn.functional.cross_entropy(logits, targets)

    chosen = ["typical", "upstream_mixed"]
    assert not quick(kernel, BARE, chosen, framework="torch").passed
    report = quick(kernel, BARE, chosen, framework="torch", mutates=["logits"])
    assert report.passed, report
    assert "grad_logits" in report.results[0].grades


def test_not_deterministic():
    """A sum in another order each time is right each time; a second call that is wrong is wrong."""
    calls = []

    def kernel(x, W, labels, b=None, upstream=1.0, off=lambda n: 0.0):
        calls.append(0)
        made = softmax(x, W, labels, b, upstream)
        return made | {"loss": np.asarray(np.nextafter(made["loss"], np.float32(len(calls) % 2) * 9))
                               + np.float32(off(len(calls)))}  # fmt: skip

    chosen = ["typical_again", "upstream_strided", "no_bias"]
    assert {f.kind for f in quick(kernel, chosen=chosen).failures} == {"nondeterministic"}
    report = quick(kernel, chosen=chosen, deterministic=False)
    assert report.passed, report
    assert "not deterministic" in str(report.notes)
    calls.clear()
    even = quick(lambda x, W, y, b=None: kernel(x, W, y, b, off=lambda n: 1.0 - n % 2), chosen=["duplicate_labels"],
                 deterministic=False)  # fmt: skip
    assert ("loss", "value") in {(f.stage, f.kind) for f in even.failures}
    assert even.results[0].grades["loss"] == "F"
    assert words_of(TypeError, kernel, deterministic="no").startswith("deterministic must be")


# -- cases -----------------------------------------------------------------------------------------


def test_without():
    def kernel(logits, targets, upstream=1.0):
        assert np.isfinite(logits).all()
        out = BARE.forward(logits, targets)
        grads = BARE.backward(out, upstream)
        return {"loss": out.loss.astype(logits.dtype), "grad_logits": grads.logits.astype(logits.dtype)}

    chosen = ["typical", "upstream_mixed", "masked_classes"]
    assert not quick(kernel, BARE, chosen).passed
    report = quick(kernel, BARE, chosen, without=["masked"])
    assert report.passed, report
    assert "left out: cases flagged masked (1)" in report.notes
    assert quick(kernel, BARE, chosen, without="masked").passed
    message = words_of(ValueError, kernel, BARE, chosen, without=["maskd"])
    assert "unknown for this loss: maskd; there are" in message
    assert "masked" in message
    assert "leaves no case" in words_of(ValueError, kernel, BARE, ["masked_classes"], without=["masked"])


@pytest.mark.parametrize(("chosen", "error"), [([], ValueError), ("", ValueError), (None, TypeError), (3, TypeError)])
def test_no_cases(chosen, error):
    with pytest.raises(error, match=r"^cases must"):
        check(softmax, SOFTMAX, cases=chosen)


def test_gradcheck_refuses_nonsense():
    x, W = [[1.0, 2.0]], [[1.0, 0.0], [0.0, 1.0]]
    with pytest.raises(ValueError, match=r"^witnesses must not be empty"):
        refloss.gradcheck(SOFTMAX, x, W, [0], witnesses=[])
    with pytest.raises(TypeError, match=r"^strict must be True or False, got 'no'"):
        refloss.gradcheck(SOFTMAX, x, W, [0], strict="no")


# -- how arrays are handed out ---------------------------------------------------------------------


def flat(tensor):
    """The memory from the first entry on, as if the tensor were contiguous."""
    return tensor.detach().as_strided(tensor.shape, tensor.contiguous().stride())


IMAGES = refloss.CrossEntropy(axis=1, reduction="none")


@pytest.mark.parametrize("name", ["image_strided", "image_transposed", "image_padded", "image_channels_last"])
def test_layouts_of_images(name):
    """A kernel that reads images as if they were contiguous is right but for these."""
    torch = need("torch")

    def right(logits, targets):
        return torch.nn.functional.cross_entropy(logits, targets, reduction="none")

    def wrong(logits, targets):
        return right(logits + (flat(logits) - logits).detach(), targets)

    assert quick(right, IMAGES, [name, "image_large"], framework="torch").passed
    report = quick(wrong, IMAGES, [name, "image_large"], framework="torch")
    assert {failure.case for failure in report.failures} == {name}
    case = next(case for case in cases(IMAGES) if case.name == name)
    assert min(case.inputs["logits"].shape[2:]) > 1


@pytest.mark.parametrize("key", ["x", "W"])
def test_padded_rows(key):
    need("torch")

    def kernel(x, W, labels, b=None):
        given = {"x": x, "W": W}
        assert given[key].stride(-1) == 1
        given[key] = given[key] + (flat(given[key]) - given[key]).detach()
        return torch_head(given["x"], given["W"], labels, b)

    report = quick(kernel, chosen=["layout_padded", "typical"], framework="torch")
    assert {failure.case for failure in report.failures} == {"layout_padded"}
    assert quick(torch_head, chosen=["layout_padded", "typical"], framework="torch").passed


def test_an_upstream_of_stride_0():
    torch = need("torch")
    loss = refloss.CrossEntropy(reduction="none")
    strides = []

    class Own(torch.autograd.Function):
        @staticmethod
        def forward(ctx, logits, targets):
            ctx.save_for_backward(logits.softmax(1) - torch.nn.functional.one_hot(targets, logits.shape[1]))
            return torch.nn.functional.cross_entropy(logits, targets, reduction="none")

        @staticmethod
        def backward(ctx, g):
            strides.append(g.stride())
            return ctx.saved_tensors[0] * g[:, None], None

    names = ["typical", "upstream_expanded", "upstream_masked"]
    assert quick(Own.apply, loss, names, framework="torch").passed
    assert (0,) in strides
    assert (1,) in strides


def test_a_gradient_for_rows_that_are_not_used():
    """Kernels that take the first row's upstream for all, or average it."""
    loss = refloss.CrossEntropy(reduction="none")

    def kernel(logits, targets, upstream=1.0):
        out = loss.forward(logits, targets)
        grads = loss.backward(out, np.full(upstream.shape, upstream.mean()))
        return {"losses": out.loss.astype(logits.dtype), "grad_logits": grads.logits.astype(logits.dtype)}

    report = quick(kernel, loss, ["upstream_ones", "upstream_expanded", "upstream_masked"])
    assert {failure.case for failure in report.failures} == {"upstream_masked"}


def test_frozen_inputs():
    torch = need("torch")
    wanted = set()

    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, W):
            ctx.save_for_backward(x, W)
            return x @ W.T

        @staticmethod
        def backward(ctx, g):
            x, W = ctx.saved_tensors
            wanted.add(ctx.needs_input_grad)
            # right unless x alone is frozen
            return (g @ W if ctx.needs_input_grad[0] else None), g.T @ x * (1 if ctx.needs_input_grad[0] else 2)

    def kernel(x, W, labels):
        return torch.nn.functional.cross_entropy(Product.apply(x, W), labels)

    report = quick(kernel, chosen=["typical", "frozen_x", "frozen_W"], framework="torch")
    assert wanted == {(True, True), (True, False), (False, True)}
    assert {(failure.case, failure.stage) for failure in report.failures} == {("frozen_x", "grad_W")}
    grades = {result.name: set(result.grades) for result in report.results}
    assert grades["frozen_x"] == {"loss", "grad_W"}
    assert grades["frozen_W"] == {"loss", "grad_x"}


def test_frozen_inputs_and_a_kernel_with_gradients_of_its_own():
    need("torch")

    def kernel(x, W, labels):
        loss = torch_head(x, W, labels)
        loss.backward()
        return {"loss": loss, "grad_x": x.grad, "grad_W": W.grad}

    assert quick(kernel, chosen=["typical", "duplicate_labels", "frozen_x", "frozen_W"], framework="torch").passed


def test_state_kept_from_call_to_call():
    """A backward that reads what the last forward left behind is right as long as nothing comes between."""
    torch = need("torch")
    kept = {}

    class Own(torch.autograd.Function):
        @staticmethod
        def forward(ctx, logits, targets):
            p = logits.softmax(1) - torch.nn.functional.one_hot(targets, logits.shape[1])
            ctx.save_for_backward(p)
            kept["p"] = p / len(p)
            return torch.nn.functional.cross_entropy(logits, targets)

        @staticmethod
        def backward(ctx, g):
            return kept["p"].reshape(-1)[: ctx.saved_tensors[0].numel()].reshape_as(ctx.saved_tensors[0]) * g, None

    report = quick(Own.apply, BARE, ["ragged_classes", "typical"], framework="torch")
    assert [(f.case, f.kind) for f in report.failures] == [("typical", "nondeterministic")]
    assert "something is kept from call to call" in report.failures[0].message


def test_names_of_cases_are_their_own():
    for loss in (SOFTMAX, BARE, IMAGES):
        names = [case.name for case in cases(loss)]
        assert len(set(names)) == len(names)
        assert {"layout_padded", "upstream_expanded", "upstream_masked"} <= set(names)
        assert ("image_channels_last" in names) == (loss is IMAGES)


# -- other derivatives -----------------------------------------------------------------------------

FEW = ("typical", "no_bias", "mixed_x", "frozen_x")


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("asked", ["second", "forward_mode"])
def test_other_derivatives(asked, dtype):
    """Through torch's own functions they are right."""
    need("torch")
    report = quick(torch_head, chosen=FEW, framework="torch", dtype=dtype, **{asked: True})
    assert report.passed, report
    report = quick(lambda z, y: torch_head_of(z, y).sum(), refloss.CrossEntropy(reduction="sum"),
                   ["typical", "upstream_mixed", "masked_classes"], framework="torch", dtype=dtype,
                   **{asked: True})  # fmt: skip
    assert report.passed, report


def torch_head_of(z, y):
    import torch

    return torch.nn.functional.cross_entropy(z, y, reduction="none")


@pytest.mark.parametrize("asked", ["second", "forward_mode"])
def test_other_derivatives_of_each_sample(asked):
    """With an upstream for each, in a mapping."""
    need("torch")
    loss = refloss.CrossEntropy(reduction="none")
    report = quick(lambda logits, targets: {"losses": torch_head_of(logits, targets)}, loss,
                   ["typical", "upstream_mixed", "upstream_masked"], framework="torch", **{asked: True})  # fmt: skip
    assert report.passed, report


def test_jax_has_them_too():
    jax = need("jax")

    def kernel(logits, targets, power=1.0):
        return -(jax.nn.log_softmax(logits)[jax.numpy.arange(len(logits)), targets]).mean()

    @jax.custom_jvp
    def value(logits, targets):
        return kernel(logits, targets)

    @value.defjvp
    def rule(primals, tangents):
        return value(*primals), 1.5 * jax.jvp(lambda z: kernel(z, primals[1]), primals[:1], tangents[:1])[1]

    options = {"framework": "jax", "chosen": ["typical", "upstream_mixed"], "second": True, "forward_mode": True}
    assert quick(lambda logits, targets: kernel(logits, targets), BARE, **options).passed
    wrong = quick(lambda logits, targets: value(logits, targets), BARE, **options)
    assert any(failure.message.startswith("forward mode gives") for failure in wrong.failures)


def test_wrong_other_derivatives():
    """Gradients that are right, with a constant in place of p in the backward of the backward, and half a jvp."""
    torch = need("torch")

    class Own(torch.autograd.Function):
        @staticmethod
        def forward(ctx, logits, targets):
            ctx.save_for_backward(logits, targets)
            ctx.save_for_forward(logits, targets)
            return torch.nn.functional.cross_entropy(logits, targets)

        @staticmethod
        def backward(ctx, g):
            logits, targets = ctx.saved_tensors
            p = logits.detach().softmax(1) * (1 + (logits - logits.detach()))
            return g * (p - torch.nn.functional.one_hot(targets, logits.shape[1])) / len(p), None

        @staticmethod
        def jvp(ctx, moved, _):
            logits, targets = ctx.saved_tensors
            grad = logits.softmax(1) - torch.nn.functional.one_hot(targets, logits.shape[1])
            return (grad * moved).sum() / len(grad) / 2

    chosen = ["typical", "upstream_mixed"]
    assert quick(Own.apply, BARE, chosen, framework="torch").passed
    for asked, words in (("second", "second derivatives: grad_logits along"), ("forward_mode", "forward mode gives")):
        report = quick(Own.apply, BARE, chosen, framework="torch", **{asked: True})
        assert {(failure.case, failure.kind) for failure in report.failures} == {(name, "law") for name in chosen}
        assert report.failures[0].message.startswith(words)
        assert f"{asked}=True" in report.reproducer


def test_no_other_derivatives():
    torch = need("torch")

    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, logits, targets):
            p = logits.softmax(1)
            ctx.save_for_backward((p - torch.nn.functional.one_hot(targets, p.shape[1])) / len(p))
            return torch.nn.functional.cross_entropy(logits, targets)

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, g):
            return ctx.saved_tensors[0] * g, None

    chosen = ["typical", "upstream_mixed"]
    assert quick(Once.apply, BARE, chosen, framework="torch").passed
    for asked, words in (("second", "second derivatives: "), ("forward_mode", "forward mode: ")):
        report = quick(Once.apply, BARE, chosen, framework="torch", **{asked: True})
        assert {failure.kind for failure in report.failures} == {"exception"}
        assert report.failures[0].message.startswith(words)
        assert words_of(ValueError, softmax, **{asked: True}).startswith(f"{asked} needs a loss that torch or jax")
        assert words_of(TypeError, softmax, **{asked: "no"}).startswith(f"{asked} must be True or False")
