"""refloss: a NumPy reference for the softmax-loss family, checked by independent witnesses::

    loss = refloss.ArcFace(scale=64, margin=0.5)
    out = loss.forward(x, W, labels)
    grads = loss.backward(out)

Importing refloss loads NumPy and nothing heavier; the witnesses load SciPy and autograd on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from refloss import bounds, schedules
from refloss.losses import *  # noqa: F403  (its __all__ is the public list)
from refloss.losses import __all__ as _losses
from refloss.losses.loss import Loss
from refloss.record import Forward, Gradients

__version__ = "0.9.0"
__all__ = [
    *_losses,
    "Forward",
    "Gradients",
    "Loss",
    "__version__",
    "bounds",
    "certify",
    "gradcheck",
    "schedules",
    "testing",
]

if TYPE_CHECKING:
    from refloss import testing
    from refloss.proof.certify import certify
    from refloss.witnesses.gradcheck import gradcheck
else:

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})

    def __getattr__(name: str) -> Any:
        if name == "gradcheck":
            from refloss.witnesses.gradcheck import gradcheck

            globals()["gradcheck"] = gradcheck
            return gradcheck
        if name == "certify":
            try:
                from refloss.proof.certify import certify
            except ModuleNotFoundError as error:
                if error.name != "flint":
                    raise
                from refloss.proof import needs_flint as certify

            globals()["certify"] = certify
            return certify
        if name == "testing":
            return importlib.import_module("refloss.testing")
        raise AttributeError(f"module 'refloss' has no attribute {name!r}")
