"""`refloss.testing.Framework`: three functions in place of an adapter, with HIPS autograd as somebody's framework."""

from __future__ import annotations

from dataclasses import replace

import autograd
import autograd.numpy as anp
import numpy as np
import pytest
from autograd.extend import defvjp, primitive

import refloss
from refloss.testing import Framework, UnfitImplementation, check
from refloss.testing.adapters import Adapter


def vjp(function, arrays):
    back, value = autograd.make_vjp(lambda given: function(*given))(tuple(arrays))
    return value, back


HIPS = Framework(to_array=lambda array, dtype: array.copy(), from_array=lambda array: array, vjp=vjp, name="hips")


def softmax(x, W, labels, b=None):
    """nn.Linear and the mean cross-entropy, by the textbook."""
    z = anp.dot(x, W.T) if b is None else anp.dot(x, W.T) + b
    z = z - anp.max(z, axis=1, keepdims=True)
    return anp.mean(anp.log(anp.sum(anp.exp(z), axis=1)) - z[np.arange(len(x)), labels])


@primitive
def times(x, W):
    return np.dot(x, W.T)


# the factor x is forgotten to be W's on the way back: its columns in reverse
defvjp(times, lambda ans, x, W: lambda g: np.dot(g, W), lambda ans, x, W: lambda g: np.dot(g.T, x[:, ::-1]))


def wrong_backward(x, W, labels):
    z = times(x, W)
    z = z - anp.max(z, axis=1, keepdims=True)
    return anp.mean(anp.log(anp.sum(anp.exp(z), axis=1)) - z[np.arange(len(x)), labels])


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_right_kernel(dtype):
    """It passes, its gradients were taken by the framework, and what it would not have told was looked for."""
    report = check(softmax, refloss.Softmax(), dtype=dtype, framework=HIPS, cases="quick")
    assert report.passed
    assert report.grade <= "C"
    assert {"loss", "grad_x", "grad_W", "grad_b"} <= set(report.stages)
    assert not report.not_checked
    assert f"· hips {dtype}" in str(report)


def test_wrong_backward_of_the_kernel():
    report = check(wrong_backward, refloss.Softmax(), framework=HIPS, cases="quick")
    assert {failure.stage for failure in report.failures} == {"grad_W"}
    assert report.first_divergent_stage == "grad_W"
    assert "framework = ...  # yours" in report.reproducer
    assert "framework=framework" in report.reproducer


def test_wrong_vjp():
    """One that is right where it was tried, and 1 % off elsewhere, is found by the check, and only in gradients."""

    def off(function, arrays):
        value, back = vjp(function, arrays)
        factor = 1.0 if np.ndim(value) else 1.01
        return value, lambda upstream: [factor * gradient for gradient in back(upstream)]

    report = check(softmax, refloss.Softmax(), framework=replace(HIPS, vjp=off), cases="quick")
    assert {failure.stage for failure in report.failures} == {"grad_x", "grad_W", "grad_b"}
    assert not check(softmax, refloss.Softmax(), framework=HIPS, cases="quick").failures


def test_losses_of_the_samples_and_a_mapping():
    """A vector arrives at (N,); a mapping may have gradients of its own."""

    def losses(logits, targets):
        z = logits - anp.max(logits, axis=1, keepdims=True)
        return anp.log(anp.sum(anp.exp(z), axis=1)) - z[np.arange(len(targets)), targets]

    assert check(losses, refloss.CrossEntropy(reduction="none"), framework=HIPS, cases=["typical"]).passed
    with_value = check(lambda z, y: {"losses": losses(z, y)}, refloss.CrossEntropy(reduction="none"),
                       framework=HIPS, cases=["typical"])  # fmt: skip
    assert with_value.passed
    assert "grad_logits" in with_value.stages


def test_what_the_kernel_overwrites_is_seen():
    def kernel(logits, targets):
        loss = softmax_of(logits, targets)
        if isinstance(logits, np.ndarray):
            logits *= 2
        return loss

    def softmax_of(z, targets):
        z = z - anp.max(z, axis=1, keepdims=True)
        return anp.mean(anp.log(anp.sum(anp.exp(z), axis=1)) - z[np.arange(len(targets)), targets])

    same = replace(HIPS, to_array=lambda array, dtype: array)
    report = check(kernel, refloss.CrossEntropy(), framework=same, cases=["typical"])
    assert "mutated" in {failure.kind for failure in report.failures}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"to_array": lambda array, dtype: 1 / 0}, "to_array of the Framework raises ZeroDivisionError"),
        ({"from_array": lambda array: array.tolist()}, "from_array must return a NumPy array, got python list"),
        ({"to_array": lambda array, dtype: array.astype(float)}, "dtype float32 came shape (2, 3) and dtype float64"),
        ({"from_array": lambda array: array[:1]}, "shape (2, 3) and dtype float32 came shape (1, 3) and dtype float32"),
        ({"from_array": np.atleast_1d}, "shape () and dtype float32 came shape (1,)"),
        ({"to_array": lambda array, dtype: array + array.dtype.type(1)}, "with other values"),
        ({"vjp": lambda function, arrays: 1 / 0}, "vjp of the Framework raises ZeroDivisionError"),
        (
            {"vjp": lambda function, arrays: function(*arrays)},
            "vjp must return (value, function of upstream), got nump",
        ),
        ({"vjp": lambda f, arrays: (f(*arrays), lambda g: g)}, "must return 2 gradients, one for each array, got nump"),
        ({"vjp": lambda f, arrays: (f(*arrays), lambda g: (g,))}, "one for each array, got a tuple of 1"),
        ({"vjp": lambda f, arrays: (f(*arrays), lambda g: (g, None))}, "of its gradient in a, [[3.0, -2.0, 1.0]"),
        (
            {"vjp": lambda f, a: (f(*a), lambda g: (None, g * a[0]))},
            "vjp is wrong for a * b: there is no gradient in a",
        ),
        ({"vjp": lambda f, a: (f(*a), lambda g: (g * a[0], g * a[1]))}, "vjp is wrong for a * b: of its gradient in a"),
        ({"vjp": lambda f, a: (f(*a), lambda g: (a[1], a[0]))}, "vjp is wrong for a * b: of its gradient in a"),
        ({"vjp": lambda f, a: (a[0], lambda g: (g * a[1], g * a[0]))}, "vjp is wrong for a * b: of its value"),
    ],
)
def test_bad_functions_are_named(changes, words):
    with pytest.raises(UnfitImplementation) as raised:
        check(softmax, refloss.Softmax(), framework=replace(HIPS, **changes), cases=["typical"])
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("to_array", None, "to_array must be a function, got None"),
        ("from_array", "numpy", "from_array must be a function, got python str"),
        ("vjp", 3, "vjp must be a function, got python int"),
        ("name", 3, "name must be a string, got python int"),
    ],
)
def test_what_is_no_function(name, value, words):
    with pytest.raises(TypeError, match=f"^Framework: {words}$"):
        replace(HIPS, **{name: value})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"device": "cpu"}, "device must be None for a Framework: its to_array says where, got 'cpu'"),
        ({"isolated": True}, "isolated=True needs a framework that its process can find"),
        ({"second": True}, "second needs a loss that torch or jax differentiates, and is not for framework 'hips'"),
        ({"forward_mode": True}, "forward_mode needs a loss that torch or jax differentiates"),
        ({"framework": f"{__name__}:nothing"}, "there is no 'nothing'"),
        ({"framework": f"{__name__}:softmax"}, "must be a refloss.testing.Framework, got python function"),
        ({"framework": ["numpy"]}, "a Framework or FILE.py:NAME of one, got ['numpy']"),
    ],
)
def test_what_it_is_not_for(options, words):
    with pytest.raises(
        UnfitImplementation if "second" not in options and "forward_mode" not in options else ValueError
    ) as raised:
        check(softmax, refloss.Softmax(), **{"framework": HIPS, "cases": ["typical"], **options})
    assert words in str(raised.value)


def test_out_is_not_for_it():
    with pytest.raises(UnfitImplementation, match="out is not for framework 'hips': its arrays cannot be written"):
        check(lambda x, W, labels, out: None, refloss.Softmax(), framework=HIPS, cases=["typical"])


def test_by_its_name_and_in_a_process_of_its_own():
    """As the command line takes it: FILE.py:NAME, for the kernel and for the framework."""
    report = check(
        f"{__file__}:softmax", refloss.Softmax(), framework=f"{__file__}:HIPS", isolated=True, cases=["typical"]
    )
    assert report.passed
    assert "grad_W" in report.stages


def test_bits_there_and_back():
    """The largest and smallest numbers, signed zeros and infinities come back as they were."""
    values = np.array([[1 + 2.0**-23, -3.4028234663852886e38, 2.0**-149, 0.0, -0.0, np.inf]])
    from calling import Case

    case = Case(inputs={"x": values, "W": np.ones((4, 6))}, labels=np.array([0]), upstreams=np.ones(1))
    kernel = lambda x, W, y: {"logits": x}  # noqa: E731
    adapter = Adapter(HIPS, "float32")
    outcome = adapter.call(kernel, case, adapter.signature(kernel), per_sample=False)
    assert outcome.stages["logits"].tobytes() == values.tobytes()
    assert outcome.dtypes["logits"] == "float32"
