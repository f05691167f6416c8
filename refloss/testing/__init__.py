"""The oracle kit: somebody's kernel against the truth, with a grade, the first wrong stage and the bug's name::

    report = refloss.testing.check(kernel, refloss.ArcFace(), dtype="float32", framework="torch")
    print(report)

What each part is worth: docs/oracle.md.
"""

from refloss.cases.case import Case
from refloss.cases.oracle import cases
from refloss.report import MismatchError
from refloss.testing.adapters import Framework, UnfitImplementation
from refloss.testing.check import assert_matches, check
from refloss.testing.diagnosis.suspects import SUSPECTS, Suspect, suspects
from refloss.testing.report import Report
from refloss.testing.rounding import PrecisionReport, precision

__all__ = [
    "SUSPECTS",
    "Case",
    "Framework",
    "MismatchError",
    "PrecisionReport",
    "Report",
    "Suspect",
    "UnfitImplementation",
    "assert_matches",
    "cases",
    "check",
    "precision",
    "suspects",
]
