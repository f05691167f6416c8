"""What every reverse-mode tape over the textbook formulas walks along."""

from __future__ import annotations

from typing import Any


def in_order(output: Any) -> list[Any]:
    """Every node that `output` is made of, each before its own `parents` (pairs that begin with a node)."""
    order: list[Any] = []
    seen: set[int] = set()
    stack: list[tuple[Any, bool]] = [(output, False)]
    while stack:
        node, done = stack.pop()
        if done:
            order.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            stack.append((node, True))
            stack += [(parent, False) for parent, _ in node.parents]
    return order[::-1]
