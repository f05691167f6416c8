"""What a kernel takes."""

from __future__ import annotations

import inspect
import sys
from dataclasses import dataclass
from functools import partial
from typing import Any

from refloss.testing.adapters.words import UnfitImplementation, kind_of, one_line


@dataclass(frozen=True)
class Takes:
    """What a kernel takes by keyword."""

    b: bool
    upstream: bool
    out: bool


def taken_by(kernel: Any, bare: bool) -> Takes:
    """What it takes by keyword; raises unless it can be called as f(x, W, labels), bare: f(logits, targets).

    A keyword that a `functools.partial` has bound already is not taken. Without a signature that can be read it gets
    its arguments by position and nothing else.
    """
    due = ("logits", "targets") if bare else ("x", "W", "labels")
    words = f"the kernel must be callable as f({', '.join(due)})"
    if isinstance(kernel, type):
        name = kernel.__name__
        raise UnfitImplementation(f"{words}, but {name} is a class: pass an instance or a function")
    if not callable(kernel):
        raise UnfitImplementation(f"{words}, got {kind_of(kernel)}")
    bound, inner = set[str](), kernel
    while isinstance(inner, partial):
        bound |= inner.keywords.keys()
        inner = inner.func
    try:
        signature = _signature(kernel)
    except (ValueError, TypeError):  # builtins
        return Takes(False, False, False)
    parameters = list(signature.parameters.values())
    positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    filled = {*positional[: len(due)], *bound}  # a second argument called b is W
    named = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)} - filled
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        named |= {"b", "upstream"} - filled
    takes = Takes("b" in named, "upstream" in named, "out" in named)
    try:
        signature.bind(*due, **{name: None for name, taken in vars(takes).items() if taken})
    except TypeError as error:
        raise UnfitImplementation(f"{words}, but it takes {signature}: {one_line(error)}") from None
    return takes


def _signature(kernel: Any) -> inspect.Signature:
    """Of what takes the arguments in the end: torch's modules and functions hide theirs behind `*args, **kwargs`."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(kernel, torch.nn.Module):
        return inspect.signature(getattr(kernel, "_orig_mod", kernel).forward)
    owner: Any = getattr(kernel, "__self__", None)
    if torch is not None and isinstance(owner, type) and issubclass(owner, torch.autograd.Function):
        function: Any = owner  # kernel is its `apply`, which takes no keywords
        parameters = list(inspect.signature(function.forward).parameters.values())
        if function.setup_context is torch.autograd.Function.setup_context:
            parameters = parameters[1:]  # ctx
        parameters = [p for p in parameters if p.kind not in (p.KEYWORD_ONLY, p.VAR_KEYWORD)]
        return inspect.Signature(
            [p if p.kind is p.VAR_POSITIONAL else p.replace(kind=p.POSITIONAL_ONLY) for p in parameters]
        )
    return inspect.signature(kernel)
