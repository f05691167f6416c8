"""What `import refloss` costs beside NumPy: both in fresh interpreters, side by side, several times.

python tests/benchmarks/import_time.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys

CODE = "import time, numpy; t = time.perf_counter(); import refloss; print(time.perf_counter() - t)"
NUMPY = "import time; t = time.perf_counter(); import numpy; print(time.perf_counter() - t)"


def seconds(code: str) -> float:
    """The time that the code says it took, in an interpreter of its own."""
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


if __name__ == "__main__":
    runs = [(seconds(NUMPY), seconds(CODE)) for _ in range(15)]
    numpy, refloss = (1000 * statistics.median(column) for column in zip(*runs, strict=True))
    print(f"numpy {numpy:.0f} ms, refloss on top {refloss:.0f} ms, ratio {refloss / numpy:.2f}")
