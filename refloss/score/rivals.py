"""The checks that people use today for such kernels, each run as its users run it, and asked about one implementation.

They stand beside the oracle in the kill matrix: which of the wrong implementations do they let pass? Input is random
and Gaussian, as in most test suites; nothing here knows which implementation it sees. What it sees is at its best: the
implementation computes in float64, on inputs of the dtype, and its results are rounded to the dtype only once.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import numpy as np

from refloss.losses import CrossEntropy
from refloss.precision.dtypes import DTYPES, rounded, ulp
from refloss.testing.adapters.jax import JAX
from refloss.testing.judging.scales import natural_scale
from refloss.testing.plain_loss import PlainLoss
from refloss.textbook import formulas
from refloss.textbook.family import differentiable, parameters
from refloss.textbook.namespaces import from_module
from refloss.writing import docstring

# run(inputs, labels, upstream) → stages. inputs: x, W and perhaps b, or logits. Read are `loss` (or `losses`, where
# nothing is reduced) and its gradients
Run = Callable[[Mapping[str, np.ndarray], np.ndarray, Any], Mapping[str, np.ndarray]]

N, C, D = 32, 16, 64
FEW, CLASSES, SHORT = 4, 10, 8  # N, C, D where every number is moved by itself
# N, C, D and the factor of randn: an ordinary shape, the smallest batch, the edges of a tile of 128, extreme logits
SHAPES = ((N, C, D, 1.0), (1, 2, D, 1.0), (127, 127, 127, 1.0), (129, 129, 129, 1.0), (N, C, D, 30.0))


@dataclass(frozen=True)
class Rival:
    """One check.

    description  the rule, its input and its tolerances, and where they are public
    package      what it needs: numpy, torch, jax, chex
    accepts      accepts(run, loss, dtype): True if it lets the implementation pass, False also where the implementation
                 raises; None if the check is not made for the dtype
    """

    name: str
    description: str
    package: str
    accepts: Callable[[Run, Any, str], bool | None]
    only_float64: bool = False


RIVALS: dict[str, Rival] = {}


def available() -> list[str]:
    """The names of those whose package is installed."""
    return [name for name, rival in RIVALS.items() if find_spec(rival.package)]


def control(name: str, loss: Any, dtype: str) -> bool | None:
    """Whether the check accepts the reference itself, rounded to the dtype: one that rejects all is no better."""
    return RIVALS[name].accepts(reference(loss), loss, dtype)


def rival(
    name: str, package: str, only_float64: bool = False
) -> Callable[[Callable[..., bool | None]], Callable[..., bool | None]]:
    """Registers a rule under a name; its docstring is the description."""

    def register(rule: Callable[..., bool | None]) -> Callable[..., bool | None]:
        def accepts(run: Run, loss: Any, dtype: str) -> bool | None:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                try:
                    return rule(_guarded(run, loss, dtype), loss, dtype)
                except _Raised:
                    return False

        RIVALS[name] = Rival(name, " ".join(docstring(rule).split()), package, accepts, only_float64)
        return rule

    return register


class _Raised(Exception):
    """The implementation raised."""


def _guarded(run: Run, loss: Any, dtype: str) -> Run:
    """The implementation with results rounded to the dtype; whatever it raises is `_Raised`."""

    def guarded(inputs: Mapping[str, np.ndarray], labels: np.ndarray, upstream: Any) -> dict[str, np.ndarray]:
        try:
            stages = dict(run(inputs, labels, upstream))
        except Exception as error:
            raise _Raised(str(error)) from error
        if loss.reduction == "none" and "losses" in stages:
            stages.setdefault("loss", stages["losses"])
        if "loss" not in stages:
            raise ValueError(f"run must give loss, got {', '.join(stages) or 'nothing'}")
        return {name: rounded(stages[name], DTYPES[dtype]) for name in _compared(loss, stages)}

    return guarded


# -- the inputs, and what is due -------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Given:
    """Random input of one loss, rounded to a dtype, and the reference's loss and gradients, rounded too.

    exact: the same without the rounding
    """

    inputs: dict[str, np.ndarray]
    labels: np.ndarray
    upstream: np.ndarray
    due: dict[str, np.ndarray]
    exact: dict[str, np.ndarray]


@lru_cache(maxsize=64)
def gaussian(
    loss: Any, dtype: str, few: bool = False, randn_upstream: bool = False, shape: tuple[Any, ...] = SHAPES[0],
    seed: int = 0,
) -> Given:  # fmt: skip
    """randn x (N, D), W (C, D) and b, or logits; random labels, a fifth of them ignored where the loss ignores any.

    upstream is 1 for every loss, as `.backward()` or `.sum().backward()` have it, or randn. shape: one of `SHAPES`.
    """
    n, classes, d, factor = (FEW, CLASSES, SHORT, 1.0) if few else shape
    rng = np.random.default_rng(seed)
    classes = classes if loss.class_weights is None else len(loss.class_weights)
    if isinstance(loss, CrossEntropy):
        rows = _rows(loss.axis, n)
        inputs = {"logits": np.moveaxis(rng.normal(size=(*rows, classes)), -1, loss.axis)}
    else:
        rows = (n,)
        inputs = {"x": rng.normal(size=(n, d)), "W": rng.normal(size=(classes, d))}
        if loss.has_bias:
            inputs["b"] = rng.normal(size=classes)
    labels = rng.integers(0, classes, n)
    if loss.ignore_index is not None:
        labels[rng.permutation(n)[: max(n > 1, n // 5)]] = loss.ignore_index
    labels = labels.reshape(rows)
    inputs = {name: rounded(factor * value, DTYPES[dtype]) for name, value in inputs.items()}
    each = rows if loss.reduction == "none" else ()
    upstream = rounded(rng.normal(size=each), DTYPES[dtype]) if randn_upstream else np.ones(each)
    stages = reference(loss)(inputs, labels, upstream)
    exact = {name: np.array(stages[name]) for name in _compared(loss, stages)}
    due = {name: rounded(value, DTYPES[dtype]) for name, value in exact.items()}
    for array in (*inputs.values(), labels, upstream, *due.values(), *exact.values()):
        array.setflags(write=False)  # shared by all that ask
    return Given(inputs, labels, upstream, due, exact)


def _rows(axis: int, n: int) -> tuple[int, ...]:
    """The shape of n predictions whose classes can lie on the axis: (n,), or images, of which there are two if n is
    even."""
    return (n,) if axis in (0, -1) else (2 - n % 2, n // (2 - n % 2), *(1,) * (abs(axis) - 2))


def _compared(loss: Any, stages: Mapping[str, Any]) -> list[str]:
    """The loss, and the gradients of what goes in: those that a user gets to see."""
    inner = () if isinstance(loss, CrossEntropy) else ("grad_logits",)
    return [name for name in stages if name == "loss" or (name.startswith("grad_") and name not in inner)]


def reference(loss: Any) -> Run:
    """The reference as an implementation."""

    def run(inputs: Mapping[str, np.ndarray], labels: np.ndarray, upstream: Any) -> dict[str, np.ndarray]:
        arrays = [inputs[name] for name in ("logits", "x", "W") if name in inputs]
        bias = {"b": inputs["b"]} if "b" in inputs else {}
        out = loss.forward(*arrays, labels, **bias)
        return {**out.stages(), **loss.backward(out, upstream).stages()}

    return run


# -- comparing with the truth ----------------------------------------------------------------------


def _all_close(
    run: Run, given: Given, due: Mapping[str, np.ndarray] | None, close: Callable[[str, np.ndarray, np.ndarray], bool]
) -> bool:
    """close(name, got, due) for the loss and every gradient that the implementation gives; due: the rounded ones."""
    got = run(given.inputs, given.labels, given.upstream)
    due = due or given.due
    return all(got[name].shape == v.shape and close(name, got[name], v) for name, v in due.items() if name in got)


def _allclose(rtol: str, atol: str) -> Callable[[Run, Any, str], bool]:
    allowed: dict[str, Any] = {"rtol": float(rtol), "atol": float(atol)}

    def rule(run: Run, loss: Any, dtype: str) -> bool:
        return _all_close(run, gaussian(loss, dtype), None, lambda name, a, b: np.allclose(a, b, **allowed))

    rule.__doc__ = (
        f"numpy.allclose of loss and gradients with the reference rounded to the dtype, rtol {rtol}, atol {atol}"
        f"{' (its defaults)' if atol == '1e-8' else ''}, equal_nan=False; randn x ({N}, {D}), W ({C}, {D}), upstream 1."
        " numpy/numpy:numpy/_core/numeric.py"
    )
    return rule


for _name, _rtol, _atol in (
    ("allclose_default", "1e-5", "1e-8"),
    ("allclose_1e-3", "1e-3", "1e-3"),
    ("allclose_1e-2", "1e-2", "1e-2"),
):
    rival(_name, "numpy")(_allclose(_rtol, _atol))


@rival("assert_close", "torch")
def _assert_close(run: Run, loss: Any, dtype: str) -> bool:
    """torch.testing.assert_close of loss and gradients with the reference rounded to the dtype, and its defaults (rtol,
    atol): float64 1e-7, 1e-7; float32 1.3e-6, 1e-5; float16 1e-3, 1e-5; bfloat16 1.6e-2, 1e-5; equal_nan=False; randn
    x (32, 64), W (16, 64), upstream 1. pytorch/pytorch:torch/testing/_comparison.py
    """
    torch = _torch()
    kind = getattr(torch, dtype)

    def close(name: str, a: np.ndarray, b: np.ndarray) -> bool:
        try:
            torch.testing.assert_close(torch.tensor(a, dtype=kind), torch.tensor(b, dtype=kind))
        except AssertionError:
            return False
        return True

    return _all_close(run, gaussian(loss, dtype), None, close)


@rival("flash_attention_2x", "torch")
def _twice_the_eager_error(run: Run, loss: Any, dtype: str) -> bool:
    """max|got − due| ≤ 2 max|eager − due| + 1e-5 for the loss and each gradient, eager: the textbook formula in torch,
    every operation in the dtype; randn x (32, 64), W (16, 64), randn upstream.
    Dao-AILab/flash-attention:tests/test_flash_attn.py
    """
    given, naive = gaussian(loss, dtype, randn_upstream=True), _eager_stages(loss, dtype, True, SHAPES[0], 0)
    got = run(given.inputs, given.labels, given.upstream)
    return all(
        got[name].shape == due.shape and _off(got[name], due) <= 2 * _off(naive[name], due) + 1e-5
        for name, due in given.due.items()
        if name in got
    )


def _off(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.max(np.where(a == b, 0.0, np.abs(a - b)), initial=0.0))


@lru_cache(maxsize=64)
def _eager_stages(
    loss: Any, dtype: str, randn_upstream: bool, shape: tuple[Any, ...], seed: int
) -> Mapping[str, np.ndarray]:
    given = gaussian(loss, dtype, False, randn_upstream, shape, seed)
    return eager(loss, dtype)(given.inputs, given.labels, given.upstream)


@rival("torchtitan", "torch")
def _torchtitan(run: Run, loss: Any, dtype: str) -> bool:
    """max|got − golden| ≤ 2 max|eager − golden| + max|golden in the dtype − golden| for the loss and each gradient,
    golden: float64; eager: the textbook formula in torch in the dtype. Where max|eager − golden| is above 10 % of
    max|golden| the gate is not used (0.1 is its trigger for an inconclusive verdict), and such a tensor is let pass.
    randn x (32, 64) with W (16, 64), N = 1, every size 127, every size 129, randn times 30; randn upstream; what
    else its text asks for in words is left to its reader.
    pytorch/torchtitan:.claude/skills/kernel-numerics-verifier/SKILL.md
    """
    for shape in SHAPES:
        given, naive = gaussian(loss, dtype, False, True, shape), _eager_stages(loss, dtype, True, shape, 0)
        got = run(given.inputs, given.labels, given.upstream)
        for name, golden in given.exact.items():
            if name not in got:
                continue
            if got[name].shape != golden.shape or (np.isfinite(got[name]) != np.isfinite(given.due[name])).any():
                return False
            off, floor = _off(naive[name], golden), _off(given.due[name], golden)
            inconclusive = not off <= 0.1 * max(float(np.max(np.abs(golden), initial=0.0)), floor)
            if not inconclusive and _off(got[name], golden) > 2 * off + floor:
                return False
    return True


@rival("gpuemu", "torch")
def _gpuemu(run: Run, loss: Any, dtype: str) -> bool:
    """max|got − due| ≤ 1.5 times the 0.95 quantile of max|control − due| over its controls, one number for the loss and
    one for each gradient; controls: the textbook formula in torch in the dtype, on 4 seeds of each input. Its operators
    have no backward; gradients count as outputs here. Its fuzzer's input is its own; here randn x (32, 64) with
    W (16, 64), N = 1, every size 127, every size 129, randn times 30; upstream 1.
    Skelf-Research/gpuemu:crates/gpuemu-common/src/calibration.rs
    """
    allowed = _calibrated(loss, dtype)
    for shape in SHAPES:
        given = gaussian(loss, dtype, shape=shape)
        if not _all_close(run, given, None, lambda name, a, b: _off(a, b) <= allowed[name]):
            return False
    return True


@lru_cache(maxsize=64)
def _calibrated(loss: Any, dtype: str) -> dict[str, float]:
    """Its envelope: the entry at the rounded index 0.95 (n − 1) of the sorted errors, times 1.5."""
    errors: dict[str, list[float]] = {}
    for shape in SHAPES:
        for seed in range(4):
            given = gaussian(loss, dtype, False, False, shape, seed)
            for name, value in _eager_stages(loss, dtype, False, shape, seed).items():
                off = _off(value, given.exact[name])
                errors.setdefault(name, []).append(np.inf if np.isnan(off) else off)
    return {name: 1.5 * sorted(of)[round(0.95 * (len(of) - 1))] for name, of in errors.items()}


@rival("webnn", "numpy")
def _webnn(run: Run, loss: Any, dtype: str) -> bool:
    """|got − due| ≤ 3 C + 3 units in the last place of each entry of a gradient, WebNN's formula for softmax, and
    2 C + 18 of the loss, its formula for reduceLogSumExp. It has no losses and no gradients: the formulas are taken for
    the operators that these consist of. randn x (32, 64), W (16, 64), upstream 1.
    web-platform-tests/wpt:webnn/resources/utils.js
    """
    given = gaussian(loss, dtype)
    classes = given.inputs["logits"].shape[loss.axis] if "logits" in given.inputs else len(given.inputs["W"])

    def close(name: str, a: np.ndarray, b: np.ndarray) -> bool:
        units = 2 * classes + 18 if name == "loss" else 3 * classes + 3
        return bool(np.all(np.abs(a - b) <= units * ulp(b, DTYPES[dtype])))

    return _all_close(run, given, None, close)


@rival("tosa", "numpy")
def _tosa(run: Run, loss: Any, dtype: str) -> bool:
    """Three statistics of each tensor's T errors, in units of u times its bound, the sum of the terms' sizes: max ≤
    2 ksb, Σ err² ≤ 1.6 ksb T, |Σ err| ≤ √(10 · 1.6 ksb T), the rule for dot products of ksb terms. It has no losses and
    no gradients: the bound is what p, the target and each later term add up to, ksb = N + C + D.
    randn x (32, 64), W (16, 64), upstream 1.
    arm/tosa-reference-model:reference_model/src/verify/verify_dot_product.cc
    """
    given, kind = gaussian(loss, dtype), DTYPES[dtype]
    plain = PlainLoss(loss, given.inputs, given.labels, given.upstream)
    plain.run()
    plain.others = np.ones_like(plain.p)  # 1 − p_y is two terms here: the rule takes the sizes before they cancel
    bounds, terms = natural_scale(plain, given.exact), sum(SHAPES[0][:3])

    def close(name: str, a: np.ndarray, b: np.ndarray) -> bool:
        bound = np.asarray(bounds[name])
        bound = bound[:, None] if bound.ndim < b.ndim else bound  # one of a row
        errors = (a - b) / np.maximum(bound * kind.u, kind.smallest_normal)
        variance = 1.6 * terms
        return bool(
            np.all(np.abs(errors) <= 2 * terms)
            and np.sum(errors**2) <= variance * errors.size
            and abs(np.sum(errors)) <= np.sqrt(10 * variance * errors.size)
        )

    return _all_close(run, given, given.exact, close)


# -- comparing the implementation with itself ------------------------------------------------------

# They never see the truth: a wrong formula with its own gradient passes. A detached margin has no gradient of its own,
# and they reject it.


def _gradients(stages: Mapping[str, np.ndarray], given: Given) -> list[np.ndarray]:
    """Of every input, in their shapes."""
    found = [stages.get(f"grad_{name}", np.full(0, np.nan)) for name in given.inputs]
    if any(gradient.shape != v.shape for gradient, v in zip(found, given.inputs.values(), strict=True)):
        raise _Raised("a gradient is missing, or has another shape than its input")
    return found


@rival("gradcheck", "torch", only_float64=True)
def _gradcheck(run: Run, loss: Any, dtype: str) -> bool | None:
    """torch.autograd.gradcheck in float64 alone, as its documentation asks: the backward against central differences of
    the implementation's own loss, input by input, and against 0 where 0 arrives; eps 1e-6, atol 1e-5, rtol 1e-3,
    nondet_tol 0, fast_mode=False (its defaults); randn x (4, 8), W (10, 8). Parameters (s, m, α) are constants.
    pytorch/pytorch:torch/autograd/gradcheck.py
    """
    if dtype != "float64":
        return None
    torch = _torch()
    given = gaussian(loss, dtype, few=True)

    def stages(arrays: tuple[Any, ...], upstream: Any) -> Mapping[str, np.ndarray]:
        inputs = dict(zip(given.inputs, (v.detach().numpy() for v in arrays), strict=True))
        return run(inputs, given.labels, upstream)

    class Implementation(torch.autograd.Function):  # type: ignore[name-defined, misc]
        @staticmethod
        def forward(ctx: Any, *arrays: Any) -> Any:
            ctx.save_for_backward(*arrays)
            return torch.tensor(stages(arrays, given.upstream)["loss"])

        @staticmethod
        def backward(ctx: Any, arrives: Any) -> tuple[Any, ...]:
            found = stages(ctx.saved_tensors, arrives.detach().numpy())
            return tuple(torch.tensor(gradient) for gradient in _gradients(found, given))

    inputs = tuple(torch.tensor(value, requires_grad=True) for value in given.inputs.values())
    return bool(torch.autograd.gradcheck(Implementation.apply, inputs, raise_exception=False))


@rival("check_grads", "jax")
def _check_grads(run: Run, loss: Any, dtype: str) -> bool | None:
    """jax.test_util.check_grads(f, args, order=1, modes=["rev"]), f a custom_vjp: the backward against one central
    difference of the implementation's own loss, along one direction drawn by RandomState(0), with a randn upstream; eps
    1e-4, rtol = atol = 2e-3 in float32, 1e-5 in float64, times the number of outputs (its defaults); randn x (32, 64),
    W (16, 64). Parameters (s, m, α) are constants. Not for 16 bits, where the step is lost in rounding.
    jax-ml/jax:jax/_src/public_test_util.py
    """
    from jax.test_util import check_grads

    return _by_difference(lambda f, args: check_grads(f, args, order=1, modes=["rev"]), run, loss, dtype)


@rival("chex", "chex")
def _chex(run: Run, loss: Any, dtype: str) -> bool | None:
    """chex.assert_numerical_grads(f, f_args, order=1, modes=["rev"]), f a custom_vjp: jax.test_util.check_grads with
    atol = 0.01 (its default) times the size of the first argument, 20.48 for the randn x (32, 64) with W (16, 64); rtol
    2e-3 in float32, 1e-5 in float64. Parameters (s, m, α) are constants. google-deepmind/chex:chex/_src/asserts.py
    """
    import chex

    return _by_difference(
        lambda f, args: chex.assert_numerical_grads(f, args, order=1, modes=["rev"]), run, loss, dtype
    )


def _by_difference(
    check: Callable[[Callable[..., Any], tuple[Any, ...]], None], run: Run, loss: Any, dtype: str
) -> bool | None:
    """A check of JAX's, on the implementation as a function with a backward of its own.

    It is not traced: the checks call it on numbers, and NumPy computes.
    """
    if DTYPES[dtype].is_half:
        return None
    import jax

    given = gaussian(loss, dtype)

    def stages(arrays: tuple[Any, ...], upstream: Any) -> Mapping[str, np.ndarray]:
        inputs = {k: np.asarray(v, dtype=float) for k, v in zip(given.inputs, arrays, strict=True)}
        return run(inputs, given.labels, upstream)

    @jax.custom_vjp
    def f(*arrays: Any) -> Any:
        return jax.numpy.asarray(stages(arrays, given.upstream)["loss"], dtype=dtype)

    def forward(*arrays: Any) -> tuple[Any, Any]:
        return f(*arrays), arrays

    def backward(arrays: tuple[Any, ...], arrives: Any) -> tuple[Any, ...]:
        found = stages(arrays, np.asarray(arrives, dtype=float))
        return tuple(jax.numpy.asarray(gradient, dtype=dtype) for gradient in _gradients(found, given))

    f.defvjp(forward, backward)
    with JAX(dtype, device=None).context():
        try:
            check(f, tuple(value.astype(dtype) for value in given.inputs.values()))
        except AssertionError:
            return False
    return True


# -- the baseline of the 2× rule -------------------------------------------------------------------


def eager(loss: Any, dtype: str) -> Run:
    """The textbook formula in eager torch, every operation in the dtype: what the simplest code would give."""

    def run(inputs: Mapping[str, np.ndarray], labels: np.ndarray, upstream: Any) -> dict[str, np.ndarray]:
        torch = _torch()
        kind = getattr(torch, dtype)
        leaves = {name: torch.tensor(value, dtype=kind, requires_grad=True) for name, value in inputs.items()}
        # 0-dimensional parameters leave the dtype as it is, as Python's numbers would
        for name in [] if isinstance(loss, CrossEntropy) else differentiable(loss):
            leaves[name] = torch.tensor(getattr(loss, name), dtype=torch.float64, requires_grad=True)
        y = labels.ravel()
        valid = np.ones(len(y), dtype=bool) if loss.ignore_index is None else y != loss.ignore_index
        with torch.enable_grad():
            losses = torch.zeros(len(y), dtype=kind)
            losses[torch.tensor(valid)] = _textbook_losses(torch, loss, leaves, y, valid)
            value = losses.reshape(labels.shape)
            if loss.reduction != "none":
                weights = np.ones(len(y)) if loss.class_weights is None else np.array(loss.class_weights)[y * valid]
                share = {"sum": 1.0, "mean": valid.sum(), "weighted_mean": weights[valid].sum()}
                value = losses.sum() / float(share[loss.reduction])
            value.backward(torch.tensor(upstream, dtype=value.dtype))
        grads = {name: torch.zeros_like(v) if v.grad is None else v.grad for name, v in leaves.items()}
        found = {"loss": value.detach(), **{f"grad_{name}": grad for name, grad in grads.items()}}
        return {name: rounded(tensor.double().numpy(), DTYPES[dtype]) for name, tensor in found.items()}

    return run


def _textbook_losses(torch: Any, loss: Any, leaves: dict[str, Any], y: np.ndarray, valid: np.ndarray) -> Any:
    """ℓ of the valid rows."""
    rows, labels = torch.tensor(valid), torch.tensor(y[valid])
    xp = from_module(torch, logsumexp=lambda z: torch.logsumexp(z, -1), constant=lambda v: v.detach(), real=lambda v: v)
    if isinstance(loss, CrossEntropy):
        z = torch.movedim(leaves["logits"], loss.axis, -1)
        z = z.reshape(len(y), -1)[rows]
        hot = torch.nn.functional.one_hot(labels, z.shape[1]).to(z.dtype)
    else:
        x, W = leaves["x"][rows], leaves["W"]
        hot = torch.nn.functional.one_hot(labels, len(W)).to(x.dtype)
        q: SimpleNamespace = parameters(loss, **{name: leaves[name] for name in differentiable(loss)})
        if q.detach_margin:
            q.frozen = formulas.frozen_offset(xp, q, x, W, hot).detach()
        z = q.logits(xp, q, x, W, leaves.get("b"), hot)
    t = (1 - loss.label_smoothing) * hot + loss.label_smoothing / z.shape[1]
    w = torch.ones(z.shape[1]) if loss.class_weights is None else torch.tensor(loss.class_weights)
    return formulas.cross_entropy(xp, z, t, w.to(z.dtype))


def _torch() -> Any:
    import torch

    torch.set_num_threads(1)  # on inputs this small threads only wait for each other
    return torch
