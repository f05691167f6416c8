"""What precision="extended" costs: forward and backward beside double's, and beside one matrix product, in one run.

python tests/benchmarks/extended.py            # 64×128×1000 and 256×512×2000
python tests/benchmarks/extended.py --large    # 256×512×20000 as well: about a minute
python tests/benchmarks/extended.py --profile  # where extended's time goes at 256×512×2000

Times are the best of several runs taken in turns, so that a busy machine disturbs all three alike. The threads of BLAS
count: OMP_NUM_THREADS=1 compares arithmetic with arithmetic.
"""

from __future__ import annotations

import cProfile
import pstats
import sys
import time
from collections.abc import Callable

import numpy as np
from rich.console import Console
from rich.table import Table

import refloss

SIZES = [(64, 128, 1000), (256, 512, 2000)]  # N, D, C
LARGE = [(256, 512, 20000)]
LOSSES = {"softmax": refloss.Softmax, "arcface": refloss.ArcFace}


def problem(N: int, D: int, C: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(N, D)) / np.sqrt(D), rng.normal(size=(C, D)), rng.integers(0, C, size=N)


def both_passes(loss: refloss.Loss, x: np.ndarray, W: np.ndarray, labels: np.ndarray) -> Callable[[], object]:
    return lambda: loss.value_and_grad(x, W, labels)


def fastest(*functions: Callable[[], object], runs: int) -> list[float]:
    """Seconds of the fastest run of each, the functions taking turns."""
    best = [np.inf] * len(functions)
    for _ in range(runs):
        for i, function in enumerate(functions):
            start = time.perf_counter()
            function()
            best[i] = min(best[i], time.perf_counter() - start)
    return best


def compare(sizes: list[tuple[int, int, int]]) -> Table:
    table = Table(box=None, header_style="bold")
    table.add_column("loss")
    for column in ("N × D × C", "one GEMM, ms", "double, ms", "extended, ms", "/ double", "/ GEMM"):
        table.add_column(column, justify="right")
    for N, D, C in sizes:
        x, W, labels = problem(N, D, C)
        for name, kind in LOSSES.items():
            double, extended = (both_passes(kind(precision=p), x, W, labels) for p in ("double", "extended"))
            runs = 1 if C > 5000 else 3
            gemm, plain, more = fastest(lambda x=x, W=W: x @ W.T, double, extended, runs=runs)
            table.add_row(
                name,
                f"{N}×{D}×{C}",
                f"{1000 * gemm:.2f}",
                f"{1000 * plain:.1f}",
                f"{1000 * more:.0f}",
                f"{more / plain:.0f}",
                f"{more / gemm:.0f}",
            )
    return table


def profile(N: int = 256, D: int = 512, C: int = 2000) -> None:
    """The functions in which most time is spent, for each loss."""
    for name, kind in LOSSES.items():
        run = both_passes(kind(precision="extended"), *problem(N, D, C))
        run()
        seen = cProfile.Profile()
        seen.runcall(run)
        print(f"{name} {N}×{D}×{C}")
        pstats.Stats(seen).sort_stats("tottime").print_stats(14)


if __name__ == "__main__":
    if "--profile" in sys.argv:
        profile()
    else:
        Console().print(compare(SIZES + (LARGE if "--large" in sys.argv else [])))
