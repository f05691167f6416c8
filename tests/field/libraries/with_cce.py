"""cut-cross-entropy, through Triton's interpreter on the CPU; its way back takes 16 bits only."""

from __future__ import annotations

import importlib
from typing import Any

from asked import Check, Facts, Lazy

REQUIRES = ("cut-cross-entropy==25.1.1", "triton==3.9.0", "torch==2.13.0")
ENVIRONMENT = {"TRITON_INTERPRET": "1"}
torch = Lazy("torch")
cce = Lazy("cut_cross_entropy")
facts = Facts()


def kernels() -> Any:
    """The interpreter knows no libdevice: log1p gives None there, and is log(1 + x) here, of x in (0, 1]."""
    inner, tl = importlib.import_module("cut_cross_entropy.tl_utils"), importlib.import_module("triton.language")
    inner.tl_log1p = lambda a: tl.log(1.0 + a)
    return cce


def unfiltered(x: Any, W: Any, labels: Any) -> Any:
    return kernels().linear_cross_entropy(x, W, labels, filter_eps=None)


@facts("in 16 bits the target's product is rounded before it is summed: losses below 0 on sure tokens")
def negative() -> tuple[bool, str]:
    make = torch.Generator().manual_seed(0)
    W = torch.randn(16, 32, generator=make).half()
    x = (W[:8] * 0.8 + torch.randn(8, 32, generator=make).half() * 0.1).half()
    losses = kernels().linear_cross_entropy(x, W, torch.arange(8), reduction="none", filter_eps=None)
    return bool((losses < 0).any()), f"smallest of 8 losses {float(losses.min()):.4f}"


CHECKS = [
    Check(unfiltered, "`linear_cross_entropy(filter_eps=None)`", ("Softmax", {"ignore_index": -100}), "torch",
          ("float16",)),
]  # fmt: skip
