"""Calling kernels: what they are handed, what is read back, and what is said of those that misbehave."""

from __future__ import annotations

import functools
import subprocess
import sys
import warnings

import numpy as np
import pytest
from calling import DTYPES, FRAMEWORKS, KNOWN, Case, assert_gradients, bare, call, jax_loss, only, torch_loss, without_b
from helpers import need

from refloss.testing.adapters import Adapter, Takes, UnfitImplementation

# -- what is handed out ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_arguments_are_of_framework_and_dtype(framework, dtype):
    """x, W and labels by position, b and upstream by keyword; int64 labels (int32 in jax without x64)."""
    seen = {}

    def kernel(x, W, labels, b=None, upstream=None):
        seen.update(x=x, W=W, labels=labels, b=b, upstream=upstream)
        return {"logits": x}

    case = Case()
    call(kernel, case, framework, dtype)
    for name, array in seen.items():
        assert type(array).__module__.split(".")[0].removesuffix("lib") == framework
        kind = str(array.dtype).removeprefix("torch.")
        if name == "labels":
            assert kind == ("int32" if framework == "jax" and dtype != "float64" else "int64")
        else:
            assert kind == dtype
        given = case.labels if name == "labels" else {**case.inputs, "upstream": case.upstream}[name]
        assert array.shape == np.shape(given)
        held = array.detach().double() if framework == "torch" else np.asarray(array).astype(float)
        np.testing.assert_array_equal(held, given)


def test_soft_targets_come_in_the_dtype():
    targets = np.full((3, 4), 0.25)
    case = Case(labels=targets)
    kinds = []
    call(lambda x, W, t: kinds.append(t.dtype) or {"logits": t}, case, dtype="float32")
    assert kinds == [np.float32]


def test_values_between_the_numbers_of_the_dtype_are_rounded():
    case = without_b()
    case.inputs["x"] = np.array([[1 + 2.0**-12, 1e6]])
    np.testing.assert_array_equal(
        call(lambda x, W, y: {"logits": x}, case, dtype="float16").stages["logits"], [[1.0, np.inf]]
    )


@pytest.mark.parametrize(("per_sample", "given"), [(False, -2.75), (True, [1.5, -3.0, 4.5])])
def test_upstream(per_sample, given):
    """A scalar at a reduced loss, a vector at the losses; scaled."""
    seen = []

    def kernel(x, W, labels, upstream):
        seen.append(upstream)
        return {"loss": 0.0}

    call(kernel, per_sample=per_sample, upstream_scale=2.0)
    assert isinstance(seen[0], np.ndarray)
    np.testing.assert_array_equal(seen[0], given)


def test_b_only_if_taken_and_there():
    seen = []

    def kernel(x, W, labels, **keywords):
        seen.append(sorted(keywords))
        return {}

    call(kernel)
    call(kernel, without_b())
    assert seen == [["b", "upstream"], ["upstream"]]
    assert not call(lambda x, W, y: {"loss": 0.0}).problems


def test_bare_logits():
    seen = []
    outcome = call(lambda logits, targets: seen.append((logits, targets)) or logits.sum(), bare())
    np.testing.assert_array_equal(seen[0][0], bare().inputs["logits"])
    np.testing.assert_array_equal(seen[0][1], bare().labels)
    assert outcome.stages["loss"] == bare().inputs["logits"].sum()


# -- signatures ------------------------------------------------------------------------------------


class Object:
    def __call__(self, x, W, labels, *, upstream=1.0): ...

    def method(self, x, W, labels, b=None, out=None): ...


def keyworded(x, W, labels, **keywords): ...


def everything(x, W, labels, b=None, upstream=1.0, out=None): ...


@pytest.mark.parametrize(
    ("kernel", "takes"),
    [
        (lambda x, W, y: 0, ""),
        (lambda *args: 0, ""),
        (lambda a, b, y: 0, ""),  # W by another name
        (lambda x, W, y, scale=64: 0, ""),
        (everything, "b upstream out"),
        (keyworded, "b upstream"),
        (Object(), "upstream"),
        (Object().method, "b out"),
        (functools.partial(everything, b=None), "upstream out"),  # bound already
        (functools.partial(keyworded, upstream=2.0, margin=0.5), "b"),
        (functools.partial(lambda s, x, W, y, upstream: 0, 64), "upstream"),
        (min, ""),  # a builtin without a signature
    ],
)
def test_what_is_taken(kernel, takes):
    taken = takes.split()
    assert Adapter().signature(kernel) == Takes(*(name in taken for name in ("b", "upstream", "out")))


@pytest.mark.parametrize(
    ("kernel", "words"),
    [
        (3, "callable as f(x, W, labels), got python int"),
        (None, "got None"),
        (Object, "Object is a class: pass an instance or a function"),
        (lambda x, labels: 0, "but it takes (x, labels): too many positional arguments"),
        (lambda x, W, b, labels: 0, "but it takes (x, W, b, labels): missing a required argument: 'labels'"),
        (lambda x, W, labels, margin: 0, "missing a required argument: 'margin'"),
        (lambda x, W, labels, *, margin: 0, "missing a required argument: 'margin'"),
        (lambda *, x, W, labels: 0, "too many positional arguments"),
    ],
)
def test_wrong_kernels(kernel, words):
    with pytest.raises(UnfitImplementation) as raised:
        Adapter().signature(kernel)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_bare_logits_need_two_arguments():
    words = r"f\(logits, targets\), but it takes \(x, W, labels\)"
    with pytest.raises(UnfitImplementation, match=words):
        Adapter().signature(lambda x, W, labels: 0, bare=True)
    assert Adapter().signature(lambda z, y, upstream=1: 0, bare=True) == Takes(False, True, False)


def test_modules_and_functions_of_torch():
    """nn.Module: of its forward. Function.apply: of forward without ctx, and never by keyword."""
    torch = need("torch")

    class Module(torch.nn.Module):
        def forward(self, x, W, labels, b=None): ...

    class Old(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, W, labels, b=None): ...

    class New(torch.autograd.Function):
        @staticmethod
        def forward(x, W, labels): ...

        @staticmethod
        def setup_context(ctx, inputs, output): ...

    class Long(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, W, labels, margin): ...

    adapter = Adapter("torch")
    assert adapter.signature(Module()) == Takes(True, False, False)
    assert adapter.signature(Old.apply) == adapter.signature(New.apply) == Takes(False, False, False)
    with pytest.raises(UnfitImplementation, match="margin"):
        adapter.signature(Long.apply)


def test_jitted_functions_of_jax():
    jax = need("jax")
    assert Adapter("jax").signature(jax.jit(jax_loss)) == Takes(True, False, False)
    with pytest.raises(UnfitImplementation, match="out is not for framework 'jax'"):
        Adapter("jax").signature(everything)


# -- frameworks, dtypes, devices -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"framework": "tensorflow"},
            "framework must be one of 'numpy', 'torch', 'jax', a Framework or FILE.py:NAME of one, got 'tensorflow'",
        ),
        ({"dtype": "float8"}, "dtype must be one of 'float64', 'float32', 'float16', 'bfloat16', got 'float8'"),
        ({"device": "cuda"}, "device 'cuda' is not available: framework 'numpy' has the CPU only"),
    ],
)
def test_wrong_adapters(options, words):
    with pytest.raises(UnfitImplementation, match=f"^{words}$"):
        Adapter(**options)


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_framework_that_is_not_installed(framework, monkeypatch):
    monkeypatch.setitem(sys.modules, framework, None)
    with pytest.raises(UnfitImplementation) as raised:
        Adapter(framework)
    assert str(raised.value) == f"framework {framework!r} is not installed: pip install {framework}"


def test_bfloat16_in_numpy_needs_ml_dtypes(monkeypatch):
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(UnfitImplementation, match="needs ml_dtypes: pip install ml_dtypes"):
        Adapter("numpy", "bfloat16")


@pytest.mark.parametrize(
    ("framework", "device"), [("torch", "nonsense"), ("torch", "meta"), ("jax", "nonsense"), ("jax", "cpu:99")]
)
def test_device_that_is_not_there(framework, device):
    need(framework)
    with pytest.raises(UnfitImplementation) as raised:
        Adapter(framework, device=device)
    assert str(raised.value).startswith(f"device '{device}' is not available in {framework}")
    assert "\n" not in str(raised.value)


def test_cuda_without_cuda():
    torch = need("torch")
    if torch.cuda.is_available():
        pytest.skip("needs a machine without CUDA")
    with pytest.raises(UnfitImplementation, match="device 'cuda' is not available in torch"):
        Adapter("torch", device="cuda")


@pytest.mark.parametrize(("framework", "kernel"), [("torch", torch_loss), ("jax", jax_loss)])
def test_device_that_is_there(framework, kernel):
    need(framework)
    adapter = Adapter(framework, "float64", device="cpu")
    outcome = adapter.call(kernel, Case(), adapter.signature(kernel), per_sample=False)
    assert_gradients(outcome, Case())


def test_importing_needs_numpy_only():
    code = "import sys, refloss.testing.adapters as a; a.Adapter('numpy', 'float16'); " \
           "sys.exit(bool({'torch', 'jax', 'ml_dtypes'} & set(sys.modules)))"  # fmt: skip
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -- reading ---------------------------------------------------------------------------------------


def test_stages_come_in_the_projects_order():
    outcome = call(lambda x, W, y: {"grad_W": W, "loss": 1.5, "logits": x @ W.T, "x_norm": [1, 2, 3.0]})
    assert list(outcome.stages) == list(outcome.dtypes) == list(outcome.bits) == ["x_norm", "logits", "loss", "grad_W"]
    assert all(isinstance(v, np.ndarray) and v.dtype == np.float64 for v in outcome.stages.values())
    assert outcome.dtypes == {"x_norm": "python list", "logits": "float64", "loss": "python float", "grad_W": "float64"}
    assert outcome.reduced == "loss"
    assert not outcome.problems
    assert not outcome.differentiated


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_conversion_is_exact(framework, dtype):
    """Bit for bit there and back: the largest and smallest numbers, signed zeros, infinities and NaN."""
    from refloss.precision.dtypes import DTYPES as KINDS

    kind = KINDS[dtype]
    values = [1 + 2 * kind.u, -kind.largest, kind.smallest_subnormal, 0.0, -0.0, np.inf, -np.inf, np.nan]
    case = Case(inputs={"x": np.array([values]), "W": np.ones((4, 8))}, labels=np.array([0]), upstreams=np.ones(1))
    outcome = call(lambda x, W, y: {"logits": x}, case, framework, dtype)
    assert outcome.stages["logits"].tobytes() == np.array([values]).tobytes()
    assert outcome.dtypes["logits"] == dtype
    assert len(outcome.bits["logits"]) == 8 * (2 if kind.is_half else 4 if dtype == "float32" else 8)


def test_bits_tell_two_runs_apart():
    a, b, c = (call(lambda x, W, y, v=v: {"loss": v}) for v in (1.0, 1.0, np.nextafter(1.0, 2)))
    assert a.bits == b.bits != c.bits
    assert call(lambda x, W, y: {"loss": -0.0}).bits != call(lambda x, W, y: {"loss": 0.0}).bits


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "loss came as None"),
        ("0.5", "loss came as python str"),
        ({"a": 1}, "loss came as python dict"),
        (1j, "loss came as python complex"),
        (np.ones(3, dtype=complex), "loss came as an array of complex128"),
        (np.ones(3, dtype=bool), "loss came as an array of bool"),
        (np.array([1, None]), "loss came as an array of object"),
        ([[1.0], [2.0, 3.0]], "loss came as python list with rows of different lengths"),
        (np.ma.masked_array([1.0], [True]), "loss came as a masked array"),
    ],
)
def test_wrong_types(value, words):
    outcome = call(lambda x, W, y: {"loss": value, "logits": x})
    problem = only(outcome, "wrong_type")
    assert (problem.stage, problem.message) == ("loss", f"{words}; real numbers are due")
    assert list(outcome.stages) == ["logits"]


def test_wrong_types_of_torch():
    torch = need("torch")
    for value, words in ((torch.ones(2, dtype=torch.complex64), "complex64"), (torch.ones(2) > 0, "bool")):
        outcome = call(lambda x, W, y, value=value: {"logits": value}, framework="torch")
        assert only(outcome, "wrong_type").message == f"logits came as a tensor of {words}; real numbers are due"


@pytest.mark.parametrize(
    ("value", "words"), [(None, "None came back; {}"), ((1.0, 2.0), "a tuple of 2 came back; {} (returns=0 if …)")]
)
def test_neither_loss_nor_mapping(value, words):
    outcome = call(lambda x, W, y: value)
    due = "the loss, or a mapping from stage names, is due"
    words = words.format(due).replace("…", "its first entry is that")
    assert only(outcome, "wrong_type").message == words
    assert not outcome.stages


def test_no_gradient_of_a_bias_that_is_not_there():
    assert not call(lambda x, W, y: {"grad_b": None}, without_b()).problems
    assert only(call(lambda x, W, y, b: {"grad_b": None}), "wrong_type").stage == "grad_b"


@pytest.mark.parametrize(
    ("name", "hint"), [("grad_w", "'grad_W'"), ("probabilites", "'probabilities'"), ("zzz", None), (3, None)]
)
def test_unknown_stages(name, hint):
    with pytest.raises(UnfitImplementation) as raised:
        call(lambda x, W, y: {name: x})
    message = str(raised.value)
    assert message.startswith(f"the kernel returned the unknown stage {name!r}")
    assert message.endswith(f"known are {', '.join(KNOWN)}")
    assert (f"did you mean {hint}?" in message) == (hint is not None)


def test_numpy_losses_have_values_only():
    scalar = call(lambda x, W, y: x.sum())
    assert (list(scalar.stages), scalar.reduced, scalar.problems) == (["loss"], "loss", [])
    vector = call(lambda x, W, y: x.sum(axis=1))
    assert (list(vector.stages), vector.reduced, vector.problems) == (["losses"], "losses", [])
    assert list(call(lambda x, W, y: [0.5, 0.25, 1.0]).stages) == ["losses"]


# -- out= ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("framework", ["numpy", "torch"])
def test_out(framework, dtype):
    """Buffers full of NaN; what is left of it is named, and a NaN that was computed is no such thing."""
    whole = []

    def kernel(x, W, labels, out=None):
        whole.append(all((a != a).all() for a in out.values()))
        out["grad_W"][...] = 2 * W
        out["grad_x"][:2] = x[:2]
        out["grad_x"][0, 1] = float("nan")
        out["loss"][...] = 0.5

    shapes = {"loss": (), "grad_x": (3, 2), "grad_W": (4, 2), "grad_b": (4,)}
    outcome = call(kernel, framework=framework, dtype=dtype, out_shapes=shapes)
    assert whole == [True]
    assert set(outcome.dtypes.values()) == {dtype}
    assert list(outcome.stages) == ["loss", "grad_x", "grad_W", "grad_b"]
    assert outcome.stages["loss"] == 0.5
    np.testing.assert_array_equal(outcome.stages["grad_W"], 2 * Case().inputs["W"])
    assert [(p.kind, p.stage, p.message) for p in outcome.problems] == [
        ("unwritten", "grad_x", "2 of 6 entries of grad_x were never written, first at index (2, 0)"),
        ("unwritten", "grad_b", "4 of 4 entries of grad_b were never written, first at index (0,)"),
    ]


def test_out_and_something_returned():
    """What is returned wins for its names; a new array in the mapping is read as well."""

    def kernel(x, W, labels, out):
        out["grad_x"] = x
        return {"loss": 0.25}

    outcome = call(kernel, out_shapes={"loss": (), "grad_x": (3, 2)})
    assert not outcome.problems
    assert outcome.stages["loss"] == 0.25
    np.testing.assert_array_equal(outcome.stages["grad_x"], Case().inputs["x"])
    # the same mapping, untouched
    same = call(lambda x, W, y, out: out, out_shapes={"loss": ()})
    assert only(same, "unwritten").message == "1 of 1 entries of loss were never written"
    loss = call(lambda x, W, y, out: 0.5, out_shapes={"loss": ()})
    assert (loss.stages["loss"], loss.problems) == (0.5, [])


def test_out_with_a_new_name():
    def kernel(x, W, labels, out):
        out["gradx"] = x

    with pytest.raises(UnfitImplementation, match=r"unknown stage 'gradx' \(did you mean 'grad_x'\?\)"):
        call(kernel, out_shapes={"loss": ()})


def test_out_is_not_passed_without_shapes():
    assert call(lambda x, W, y, out=None: {"loss": float(out is None)}).stages["loss"] == 1.0


# -- problems --------------------------------------------------------------------------------------


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_exceptions_are_problems(framework):

    def inner():
        raise ZeroDivisionError("over\n   two lines")

    def kernel(x, W, labels):
        inner()

    outcome = call(kernel, framework=framework)
    line = inner.__code__.co_firstlineno + 1
    message = only(outcome, "exception").message
    assert message.startswith("ZeroDivisionError: over two lines (")
    assert message.endswith(f"test_testing_adapters.py:{line})")
    assert outcome.problems[0].stage == "loss"
    assert call(kernel, framework=framework, per_sample=True).problems[0].stage == "losses"
    assert not outcome.stages


def test_exceptions_inside_a_framework_name_the_users_line():
    torch = need("torch")

    def kernel(x, W, labels):
        return torch.nn.functional.linear(x, W[:, :1])

    message = only(call(kernel, framework="torch"), "exception").message
    assert f"test_testing_adapters.py:{kernel.__code__.co_firstlineno + 1})" in message


def test_exceptions_in_the_backward():
    """The values stay, and the line is that of the backward."""
    torch = need("torch")

    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, W, labels):
            return x.sum()

        @staticmethod
        def backward(ctx, g):
            raise ValueError("nothing here")

    outcome = call(Broken.apply, framework="torch")
    problem = only(outcome, "exception")
    assert (problem.stage, list(outcome.stages)) == ("grad_x", ["loss"])
    assert problem.message.startswith("while it was differentiated: ValueError: nothing here (")
    assert f"test_testing_adapters.py:{Broken.backward.__code__.co_firstlineno + 2})" in problem.message


def test_interrupts_pass():
    def kernel(x, W, labels):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        call(kernel)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_warnings_do_not_escape(framework):

    def kernel(x, W, labels):
        warnings.warn("noise", stacklevel=1)
        np.array([1.0]) / np.array([0.0])
        return {"loss": 0.0}

    assert not call(kernel, framework=framework).problems


@pytest.mark.parametrize("layout", ["contiguous", "strided", "transposed"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("framework", ["numpy", "torch"])
def test_changed_inputs(framework, dtype, layout):
    case = Case(layout=layout)

    def kernel(x, W, labels, b=None):
        W[1, 1] += 1  # 0.25
        return {"logits": x}

    message = only(call(kernel, case, framework, dtype), "mutated").message
    assert message.startswith("W[1, 1] was 0.25 and is 1.25 after the call; 1 of ")
    np.testing.assert_array_equal(case.inputs["W"], Case().inputs["W"])  # copies were handed out


def test_changed_labels_and_upstream():
    def kernel(x, W, labels, upstream):
        labels[2] = -1
        upstream[...] = 0
        return {"logits": x}

    messages = [p.message for p in call(kernel).problems]
    assert messages == [
        "labels[2] was 3 and is -1 after the call; 1 of 3 entries in its memory changed",
        "upstream was -1.375 and is 0 after the call; 1 of 1 entries in its memory changed",
    ]


def test_writing_between_the_entries():
    def kernel(x, W, labels):
        x.base[...] = np.where(np.isnan(x.base), 0, x.base)
        return {"logits": x}

    message = only(call(kernel, Case(layout="strided")), "mutated").message
    assert message.startswith("memory between the entries of x was written: its strides were ignored; 6 of 12")


def test_backward_that_changes_what_arrives():
    torch = need("torch")

    class Scaled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, W, labels):
            return x.sum(1) + W.sum()

        @staticmethod
        def backward(ctx, g):
            g.mul_(2)
            return g[:, None].expand(3, 2), g.sum().expand(4, 2), None

    assert only(call(Scaled.apply, framework="torch"), "mutated").message.startswith("upstream[0] was 0.75 and is 1.5")


def test_torch_input_changed_in_place():
    """An error of autograd's where there is a loss to differentiate, else a changed input."""

    def kernel(x, W, labels, own=False):
        x /= x.norm(dim=1, keepdim=True)
        return {"grad_x": x} if own else x.sum()

    assert "in-place operation" in only(call(kernel, framework="torch"), "exception").message
    own = call(functools.partial(kernel, own=True), framework="torch")
    assert only(own, "mutated").message.startswith("x[0, 0] was 1 and is 0.894")


# -- layouts ---------------------------------------------------------------------------------------


def stride(array):
    """In entries."""
    return array.stride() if hasattr(array, "stride") else tuple(s // array.itemsize for s in array.strides)


@pytest.mark.parametrize(
    ("layout", "x", "W", "upstream"),
    [
        ("contiguous", (2, 1), (2, 1), (1,)),
        ("strided", (4, 2), (4, 2), (1,)),
        ("transposed", (1, 3), (1, 4), (1,)),
        ("read_only", (2, 1), (2, 1), (1,)),
        ("upstream_strided", (2, 1), (2, 1), (2,)),
        ("padded", (4, 1), (4, 1), (1,)),
    ],
)
@pytest.mark.parametrize("framework", ["numpy", "torch"])
def test_layouts(framework, layout, x, W, upstream):
    seen = {}

    def kernel(x, W, labels, b=None, upstream=None):
        seen.update(x=x, W=W, labels=labels, b=b, upstream=upstream)
        return {"logits": x}

    call(kernel, Case(layout=layout), framework, per_sample=True)
    assert [stride(seen[name]) for name in ("x", "W", "upstream")] == [x, W, upstream]
    for name, array in {**Case().inputs, "labels": Case().labels, "upstream": Case().upstreams}.items():
        np.testing.assert_array_equal(seen[name].detach() if framework == "torch" else seen[name], array)
        if framework == "numpy":
            assert seen[name].flags.writeable == (layout != "read_only")
    if layout == "strided" and framework == "numpy":
        assert np.isnan(seen["x"].base[:, 1::2]).all()
        assert set(seen["labels"].base) <= set(Case().labels)


def test_writing_to_read_only_arrays():
    def kernel(x, W, labels):
        x *= 2

    assert "read-only" in only(call(kernel, Case(layout="read_only")), "exception").message


def test_jax_has_no_layouts():
    assert_gradients(call(jax_loss, Case(layout="transposed"), "jax"), Case())
