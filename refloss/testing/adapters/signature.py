"""What a kernel takes."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from refloss.testing.adapters.words import UnfitImplementation, kind_of, one_line


@dataclass(frozen=True)
class Takes:
    """How a kernel is called.

    b, upstream, out  whether it gets them
    positions         what it gets by position, in order; None: the inputs and the labels
    names             its keyword for what it gets by keyword, where that is not the name it has here
    needs_b           b has no default: it is always given
    returns           which of the tuple that comes back, or None
    mutates           what it may overwrite
    """

    b: bool
    upstream: bool
    out: bool
    positions: tuple[str, ...] | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    needs_b: bool = False
    returns: int | None = None
    mutates: tuple[str, ...] = ()

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Takes:
        """From its fields, as another process told them; LookupError or TypeError if they are not."""
        positions, returns = given["positions"], given["returns"]
        return cls(
            bool(given["b"]), bool(given["upstream"]), bool(given["out"]),
            None if positions is None else tuple(map(str, positions)),
            {str(key): str(name) for key, name in dict(given["names"]).items()},
            bool(given["needs_b"]),
            None if returns is None else int(returns),
            tuple(map(str, given["mutates"])),
        )  # fmt: skip


def taken_by(
    kernel: Any, bare: bool, arguments: Mapping[str, str] | None = None, returns: int | None = None, mutates: Any = ()
) -> Takes:
    """How it is called; raises unless it can be called as f(x, W, labels), bare: f(logits, targets).

    A keyword that a `functools.partial` has bound already is not taken. Without a signature that can be read it gets
    its arguments by position and nothing else.

    arguments: what is given → the kernel's name for it, and by position their order
    """
    own = ("logits", "labels") if bare else ("x", "W", "labels")
    due = ("logits", "targets") if bare else own
    words = f"the kernel must be callable as f({', '.join(due)})"
    if isinstance(kernel, type):
        name = kernel.__name__
        raise UnfitImplementation(f"{words}, but {name} is a class: pass an instance or a function")
    if not callable(kernel):
        raise UnfitImplementation(f"{words}, got {kind_of(kernel)}")
    known = (*own, *(() if bare else ("b",)), "upstream", "out")
    declared: dict[str, Any] = {"returns": _index(returns), "mutates": _inputs(mutates, known[:-1])}
    renamed = _renamed(arguments, known)
    bound, inner = set[str](), kernel
    while isinstance(inner, partial):
        bound |= inner.keywords.keys()
        inner = inner.func
    try:
        signature = _signature(kernel)
    except (ValueError, TypeError):  # builtins
        return replace(_in_order(renamed, own) if renamed else Takes(False, False, False), **declared)
    parameters = {p.name: p for p in signature.parameters.values() if p.name not in bound}
    if renamed:
        return replace(_by_name(signature, parameters, renamed, own), **declared)
    positional = [p.name for p in parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    filled = {*positional[: len(due)], *bound}  # a second argument called b is W
    named = {p.name for p in parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)} - filled
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        named |= {"b", "upstream"} - filled
    rest = [parameters[name] for name in positional[len(due) :]]
    placed = tuple(p.name for p in rest if p.kind is p.POSITIONAL_ONLY and p.default is p.empty and p.name in known)
    named |= set(placed)
    takes = Takes("b" in named, "upstream" in named, "out" in named, (*own, *placed) if placed else None)
    try:
        rest_named = {name: None for name in ("b", "upstream", "out") if getattr(takes, name) and name not in placed}
        signature.bind(*due, *placed, **rest_named)
    except TypeError as error:
        raise UnfitImplementation(f"{words}, but it takes {signature}: {one_line(error)}") from None
    return replace(takes, needs_b=takes.b and _is_required(parameters, "b"), **declared)


def _is_required(parameters: Mapping[str, inspect.Parameter], name: str) -> bool:
    return name in parameters and parameters[name].default is inspect.Parameter.empty


# -- what is declared ------------------------------------------------------------------------------


def _index(returns: Any) -> int | None:
    if returns is not None and (isinstance(returns, bool) or not isinstance(returns, int)):
        raise TypeError(f"returns must be the index of the result in the tuple that comes back, got {returns!r}")
    return returns


def _inputs(mutates: Any, known: tuple[str, ...]) -> tuple[str, ...]:
    names = (mutates,) if isinstance(mutates, str) else tuple(mutates)
    for name in names:
        if name not in (*known, "targets"):
            raise ValueError(f"mutates must name arguments of {', '.join(known)}, got {name!r}")
    return tuple("labels" if name == "targets" else name for name in names)


def _renamed(arguments: Any, known: tuple[str, ...]) -> dict[str, str]:
    """What is given → the kernel's name for it."""
    if arguments is None:
        return {}
    if not isinstance(arguments, Mapping) or not all(isinstance(name, str) for name in arguments.values()):
        raise TypeError(f"arguments must map {', '.join(known)} to the kernel's names, got {arguments!r}")
    renamed = {"labels" if key == "targets" else key: name for key, name in arguments.items()}
    for key in renamed:
        if key not in known:
            raise ValueError(f"arguments: there is no {key!r} to be given; there are {', '.join(known)}")
    if len(set(renamed.values())) < len(renamed):
        raise ValueError(f"arguments: two of them go to one name, {arguments!r}")
    return renamed


def _in_order(renamed: Mapping[str, str], own: tuple[str, ...]) -> Takes:
    """Where names are of no use: by position, in the order of the mapping."""
    missing = [key for key in own if key not in renamed]
    if missing or "out" in renamed:
        words = f"{', '.join(missing)} is missing" if missing else "out goes by keyword only"
        raise UnfitImplementation(f"arguments: the kernel takes no names, so their order counts, and {words}")
    return Takes("b" in renamed, "upstream" in renamed, False, tuple(renamed), needs_b="b" in renamed)


def _by_name(
    signature: inspect.Signature, parameters: Mapping[str, inspect.Parameter], renamed: Mapping[str, str],
    own: tuple[str, ...],
) -> Takes:  # fmt: skip
    """By keyword, or at its place where a parameter goes by position only."""
    any_name = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    free = {n: p for n, p in parameters.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    foreign = [name for name in renamed.values() if name not in free and not any_name]
    if foreign and any(p.kind is p.VAR_POSITIONAL for p in parameters.values()):
        return _in_order(renamed, own)
    if foreign:
        raise UnfitImplementation(f"arguments: the kernel has no parameter {foreign[0]!r}; it takes {signature}")
    names = dict(renamed)
    others = ("upstream", "out") if "logits" in own else ("b", "upstream", "out")

    def take(keys: tuple[str, ...]) -> None:
        for key in keys:
            same = [key, "targets"] if key == "labels" else [key]
            found = next((name for name in same if name in free and name not in names.values()), None)
            if key not in names and found is not None:
                names[key] = found

    take(own)
    # what has no name yet goes to the first parameters that are left: a second one called b is W
    left = [name for name, p in free.items() if name not in names.values() and p.kind is not p.KEYWORD_ONLY]
    names.update(zip((key for key in own if key not in names), left, strict=False))
    take(others)
    if any_name:
        names.update({key: key for key in others[:-1] if key not in names})
    keys = {name: key for key, name in names.items()}
    positions = tuple(keys[n] for n, p in free.items() if p.kind is p.POSITIONAL_ONLY and n in keys)
    by_keyword = {name: None for name, key in keys.items() if key not in positions}
    try:
        if missing := [key for key in own if key not in names]:
            raise TypeError(f"{missing[0]} has no parameter")
        signature.bind(*positions, **by_keyword)
    except TypeError as error:
        words = f"arguments {dict(renamed)}: the kernel takes {signature}: {one_line(error)}"
        raise UnfitImplementation(words) from None
    needs_b = "b" in names and ("b" in positions or _is_required(free, names["b"]))
    return Takes("b" in names, "upstream" in names, "out" in names, positions, names, needs_b)


# -- signatures ------------------------------------------------------------------------------------


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
