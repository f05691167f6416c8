"""A kernel in a process of its own: it is called there and judged here, where its file is never imported."""

from __future__ import annotations

from refloss.testing.isolation.process import FRAMEWORK, ONLY_ISOLATED, Died, IsolatedAdapter, NamedKernel, Process

__all__ = ["FRAMEWORK", "ONLY_ISOLATED", "Died", "IsolatedAdapter", "NamedKernel", "Process"]
