"""Proofs: the textbook form over Arb balls, and how far float64 results are from it. Needs python-flint.

`balls`       an array namespace whose numbers are proven enclosures, with a reverse-mode tape
`enclosures`  every stage of a loss as balls, with the natural scale that its error is measured against
`certify`     `refloss.certify` and `measure`: the proven worst error of a record, or of anyone's results
`witness`     the "ball" witness of `refloss.gradcheck`
"""

from __future__ import annotations

from typing import Any


def needs_flint(*arguments: Any, **options: Any) -> Any:
    """Stands for `refloss.certify` where python-flint is not installed."""
    raise ImportError("refloss.certify needs python-flint: pip install python-flint")
