"""A kernel in a process of its own: it is called there and judged here, where its file is never imported."""

from __future__ import annotations

from refloss.testing.isolation.process import IsolatedAdapter, NamedKernel

__all__ = ["IsolatedAdapter", "NamedKernel"]
