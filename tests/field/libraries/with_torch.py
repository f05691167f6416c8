"""torch: F.linear_cross_entropy of 2.13, whole and in chunks by each policy."""

from __future__ import annotations

from typing import Any

from asked import ALL, Check, Facts, Lazy

REQUIRES = ("torch==2.13.0",)
torch = Lazy("torch")
F = Lazy("torch.nn.functional")
SOFTMAX = ("Softmax", {"ignore_index": -100})
facts = Facts()


def whole(x: Any, W: Any, labels: Any, b: Any = None) -> Any:
    return F.linear_cross_entropy(x, W, labels, linear_bias=b)


def chunked(x: Any, W: Any, labels: Any, b: Any, policy: str) -> Any:
    """Two rows a chunk, so that small batches have chunks and a last one."""
    options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=2, chunking_method=None, acc_policy=policy)
    return F.linear_cross_entropy(x, W, labels, linear_bias=b, options=options)


def accurate(x: Any, W: Any, labels: Any, b: Any = None) -> Any:
    return chunked(x, W, labels, b, "accurate")


def balanced(x: Any, W: Any, labels: Any, b: Any = None) -> Any:
    return chunked(x, W, labels, b, "balanced")


def compact(x: Any, W: Any, labels: Any, b: Any = None) -> Any:
    return chunked(x, W, labels, b, "compact")


def auto(x: Any, W: Any, labels: Any, b: Any = None) -> Any:
    return chunked(x, W, labels, b, "auto")


@facts("`F.nll_loss` of a permuted 4-D view raises on the way back")
def permuted_view() -> tuple[bool, str]:
    log_p = torch.randn(2, 4, 5, 3).requires_grad_()
    try:
        F.nll_loss(log_p.permute(0, 3, 1, 2), torch.zeros(2, 4, 5, dtype=torch.int64)).backward()
    except RuntimeError as error:
        return True, " ".join(str(error).split())[:110]
    return False, "the gradient came"


CHECKS = [
    Check(whole, "`linear_cross_entropy`, no options", SOFTMAX, "torch", ALL),
    Check(accurate, "in chunks of two rows, `accurate`", SOFTMAX, "torch", ALL),
    Check(balanced, "in chunks of two rows, `balanced`", SOFTMAX, "torch", ALL),
    Check(compact, "in chunks of two rows, `compact`", SOFTMAX, "torch", ALL),
    Check(auto, "in chunks of two rows, `auto`", SOFTMAX, "torch", ALL),
]
