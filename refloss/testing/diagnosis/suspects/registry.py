"""What a suspect is, how one is registered, and how it is run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from refloss.losses import CrossEntropy
from refloss.testing.plain_loss import PlainLoss
from refloss.textbook.family import formula_of
from refloss.writing import docstring

SLIP = "a common slip; no public report known"
Change = Callable[..., None]


@dataclass(frozen=True)
class Suspect:
    """One wrong implementation.

    Attributes:
        name (str): as `report.suspects` and ``refloss suspects`` call it.
        explanation (str): what the code does wrong, and what to look for.
        seen_in (str): owner/repo#number or owner/repo:path; or that no report is known.
        change (function): change(k), or change(k, variant) where there are variants; k is a `PlainLoss`.
        applies (function): applies(loss), whether the mistake can be made in this loss with its parameters.
        group (str): the kind of mistake, such as "margin" or "upstream".
        variants (tuple): what stands for the mistake's constant: an ε, a block's size, a dtype.
    """

    name: str
    explanation: str
    seen_in: str
    change: Change
    applies: Callable[[Any], bool]
    group: str
    variants: tuple[Any, ...] = (None,)

    @property
    def only_precision(self) -> bool:
        """Whether the formula is right and only computed in fewer digits."""
        return self.group == "precision"

    @property
    def where(self) -> str:
        """File and line of its code, as 'refloss/testing/diagnosis/suspects/margin.py:30'."""
        code = self.change.__code__
        return f"refloss{code.co_filename.rpartition('refloss')[2]}:{code.co_firstlineno}"


SUSPECTS: dict[str, Suspect] = {}


@dataclass(frozen=True)
class Group:
    """Registers the suspects of one kind."""

    name: str

    def __call__(
        self, applies: Callable[[Any], bool], seen_in: str = SLIP, variants: Sequence[Any] = (None,)
    ) -> Callable[[Change], Change]:
        """A decorator: the function is the change, and its docstring the explanation."""

        def register(change: Change) -> Change:
            name, explanation = change.__name__, " ".join(docstring(change).split())
            SUSPECTS[name] = Suspect(name, explanation, seen_in, change, applies, self.name, tuple(variants))
            return change

        return register


def suspects(loss: Any) -> list[Suspect]:
    """The suspects that this loss, with its parameters, could be confused with.

    Args:
        loss (Loss or CrossEntropy): the object; none for a loss that is not one of refloss.

    Returns:
        list of Suspect: in the order of `SUSPECTS`.

    Example:
        >>> import refloss
        >>> "margin_in_degrees" in [suspect.name for suspect in suspects(refloss.ArcFace())]
        True
    """
    if not isinstance(loss, CrossEntropy) and not formula_of(loss):
        return []
    return [suspect for suspect in SUSPECTS.values() if suspect.applies(loss)]


def wrong(
    suspect: Suspect,
    loss: Any,
    inputs: Mapping[str, np.ndarray],
    labels: np.ndarray,
    upstream: Any,
    previous: PlainLoss | None = None,
    variant: Any = None,
) -> dict[str, np.ndarray]:
    """The stages that the wrong implementation gives.

    inputs    x, W and perhaps b; or logits
    previous  an earlier call, for the suspects that remember one; without it they have nothing to remember
    variant   one of suspect.variants; None is the first
    """
    with np.errstate(all="ignore"):  # a mistake may well leave the numbers
        k = PlainLoss(loss, inputs, labels, upstream, previous)
        if previous is not None and not hasattr(previous, "stages"):
            previous.run()
        if suspect.variants == (None,):
            suspect.change(k)
        else:
            suspect.change(k, suspect.variants[0] if variant is None else variant)
        return k.run()
