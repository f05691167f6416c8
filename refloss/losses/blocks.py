"""Blocks of classes that stay in the cache, and threads to go through them."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from threading import Lock
from typing import Any, TypeVar

import numpy as np

ENTRIES = 1 << 18  # numbers in the largest array of a block: 2 MiB of doubles
NARROWEST = 64  # classes in a block, for the sake of its matrix products
LARGEST_SEEN = (1 << 25) - (1 << 16)  # bytes, just below the limit of glibc
WORK = 1 << 17  # multiplications below which one thread is enough, and below which BLAS starts none of its own

Result = TypeVar("Result")


def blocks_of(classes: int, rows: int) -> list[slice]:
    """Slices of the classes, so wide that a block's arrays (rows, width) have at most ENTRIES numbers.

    Where one is not enough, they are as equal as can be, and a multiple of four if the widths allow: so the threads end
    together.
    """
    width = max(min(NARROWEST, classes), min(classes, ENTRIES // max(rows, 1)))
    if width < classes:
        width = max(NARROWEST, -(-classes // (4 * -(-classes // (4 * width)))))
    return [slice(start, min(start + width, classes)) for start in range(0, classes, width)]


def silent() -> np.errstate:
    """Underflow is exact enough, and what overflows is reported by name after the pass."""
    return np.errstate(over="ignore", under="ignore", invalid="ignore")


def in_order(function: Callable[[int], Result], count: int, work: int) -> Iterator[Result]:
    """function(0), function(1), … in this order, computed on as many threads as BLAS may use.

    While they run, BLAS itself has one thread, so that its sums do not depend on how many there are. work: the
    multiplications of one call's matrix products.
    """
    if work < WORK:
        yield from map(function, range(count))
        return
    _keep_freed_memory()
    with _ONE_THREAD_OF_BLAS.held() as threads:
        if threads == 1 or count == 1:
            yield from map(function, range(count))
            return

        def quietly(k: int) -> Result:
            with silent():
                return function(k)

        with ThreadPoolExecutor(min(threads, count)) as pool:
            waiting: deque = deque()
            try:
                for k in range(count):
                    waiting.append(pool.submit(quietly, k))
                    if len(waiting) > 2 * threads:  # no more results at once than are being made
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for later in waiting:
                    later.cancel()


def on_terminal(after: float = 2.0) -> Callable[[int, int], None] | None:
    """What shows (done, total) in a line on stderr once a run has taken `after` seconds; None if it is no terminal."""
    if not sys.stderr.isatty():
        return None
    start = time.monotonic()

    def show(done: int, total: int) -> None:
        if time.monotonic() - start > after:
            sys.stderr.write(f"\r{done} of {total} blocks" + ("\n" if done == total else ""))
            sys.stderr.flush()

    return show


@cache
def _keep_freed_memory() -> None:
    """Lets the C library hold on to the memory of a block for the next one.

    glibc gives freed memory back to the system, which then clears every page anew (a fifth of all time for Softmax of
    128 × 128 × 10,000), until it has seen an array of 32 MiB, its limit, come and go: mallopt(3), M_MMAP_THRESHOLD.
    Nothing is written into this one, so it costs nothing; with another C library it has no effect.
    """
    with suppress(MemoryError):  # of a process that may not have so much: then nothing is gained
        np.empty(LARGEST_SEEN, dtype=np.uint8)


class _OneThreadOfBlas:
    """Holds BLAS at one thread while any caller needs it; the last one to leave gives back what was there before."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.callers = 0
        self.limits: Any = None
        self.threads = 1

    @contextmanager
    def held(self) -> Iterator[int]:
        """As a context whose value is the number of threads that BLAS had."""
        with self.lock:
            if not self.callers:
                blas = _blas()
                self.threads = max((library.num_threads for library in blas.lib_controllers), default=1)
                self.limits = blas.limit(limits=1)
            self.callers += 1
            threads = self.threads
        try:
            yield threads
        finally:
            with self.lock:
                self.callers -= 1
                if not self.callers:
                    self.limits.restore_original_limits()


@cache
def _blas() -> Any:
    """The BLAS that NumPy has loaded."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")


_ONE_THREAD_OF_BLAS = _OneThreadOfBlas()
