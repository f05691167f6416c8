"""The public names of `refloss.testing`, which hands them out when they are first asked for."""

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
