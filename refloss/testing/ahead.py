"""The truths of cases to come, computed in other processes while the kernel is called on those before."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

from refloss.testing.judging.truth import Truth, truth_on


class Ahead:
    """Truths by case and key. A truth is a function of what is asked alone: where it is computed changes no number.

    processes  how many; the loss must be one that pickle takes
    reach      how many cases are worth asking for in advance
    """

    def __init__(self, processes: int) -> None:
        # never forked: threads (of a progress bar, of JAX) do not survive that
        self.pool = ProcessPoolExecutor(processes, mp_context=get_context("spawn"))
        self.reach = 2 * processes
        self.found: dict[str, dict[Hashable, Future[Truth]]] = {}

    def expect(self, case: str, key: Hashable, asked: Iterable[Any]) -> None:
        """`truth_on(*asked)` is likely to be due."""
        of_case = self.found.setdefault(case, {})
        if key not in of_case:
            of_case[key] = self.pool.submit(truth_on, *asked)

    def truth(self, case: str, key: Hashable) -> Truth | None:
        """It, waited for; None if it was not expected."""
        future = self.found.get(case, {}).get(key)
        return None if future is None else future.result()

    def done(self, case: str) -> None:
        """Nothing more is due of this case."""
        self.found.pop(case, None)

    def close(self) -> None:
        """Ends the processes."""
        self.pool.shutdown(cancel_futures=True)
