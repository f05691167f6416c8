"""Calling a kernel through the adapters: a small case, kernels of each framework, and what is due."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from helpers import need

import refloss
from refloss.record import BACKWARD_STAGES, FORWARD_STAGES
from refloss.testing.adapters import Adapter

KNOWN = (*FORWARD_STAGES, *BACKWARD_STAGES)
FRAMEWORKS = ["numpy", "torch", "jax"]
DTYPES = ["float64", "float32", "float16", "bfloat16"]
LOSS = refloss.Softmax(reduction="mean")


@dataclass
class Case:
    """What an adapter reads of a case; every number is exact in 8 bits."""

    name: str = "small"
    inputs: dict = field(default_factory=lambda: {
        "x": np.array([[1.0, -0.5], [0.25, 2.0], [-1.5, 0.75]]),
        "W": np.array([[0.5, 1.0], [-1.0, 0.25], [0.75, -0.5], [2.0, 1.5]]),
        "b": np.array([0.5, -0.25, 0.0, 1.0]),
    })  # fmt: skip
    labels: np.ndarray = field(default_factory=lambda: np.array([2, 0, 3]))
    upstream: float = -1.375
    upstreams: np.ndarray = field(default_factory=lambda: np.array([0.75, -1.5, 2.25]))
    layout: str = "contiguous"


def without_b(**options):
    case = Case(**options)
    del case.inputs["b"]
    return case


def bare():
    z = np.array([[1.0, 2.0, -0.5, 0.25], [0.0, -1.0, 3.0, 0.5], [1.5, 1.0, 0.0, -2.0]])
    return Case(inputs={"logits": z})


def call(kernel, case=None, framework="numpy", dtype="float64", per_sample=False, **options):
    """One call; the test is skipped where the framework, or NumPy's bfloat16, is not installed."""
    need(framework)
    if (framework, dtype) == ("numpy", "bfloat16"):
        need("ml_dtypes")
    adapter, case = Adapter(framework, dtype), case or Case()
    takes = adapter.signature(kernel, bare="logits" in case.inputs)
    return adapter.call(kernel, case, takes, per_sample=per_sample, **options)


def only(outcome, kind):
    """Its one problem, which is of this kind."""
    assert [problem.kind for problem in outcome.problems] == [kind], outcome.problems
    return outcome.problems[0]


def torch_loss(x, W, labels, b=None):
    import torch

    return torch.nn.functional.cross_entropy(torch.nn.functional.linear(x, W, b), labels)


def torch_losses(x, W, labels, b=None):
    import torch

    z = torch.nn.functional.linear(x, W, b)
    return torch.nn.functional.cross_entropy(z, labels, reduction="none")


def jax_losses(x, W, labels, b=None):
    import jax

    z = x @ W.T + (0 if b is None else b)
    return -jax.nn.log_softmax(z)[jax.numpy.arange(len(x)), labels]


def jax_loss(x, W, labels, b=None):
    return jax_losses(x, W, labels, b).mean()


def due(case, per_sample=False, scale=1.0):
    """The stages of the reference."""
    loss = refloss.Softmax(reduction="none" if per_sample else "mean")
    out = loss.forward(case.inputs["x"], case.inputs["W"], case.labels, b=case.inputs.get("b"))
    grads = loss.backward(out, (case.upstreams if per_sample else case.upstream) * scale)
    return {**out.stages(), **grads.stages()}


def assert_gradients(outcome, case, **options):
    expected = due(case, **options)
    for name in case.inputs:
        got = outcome.stages[f"grad_{name}"]
        due_here = expected[f"grad_{name}"]
        # entries cancel: relative to the largest, and never more than 1e-15
        np.testing.assert_allclose(got, due_here, rtol=0, atol=1e-15 * min(np.max(np.abs(due_here)), 1.0))
