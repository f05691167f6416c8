"""Hypothesis strategies of losses and their inputs, aimed as the cases of `refloss.testing.check` are.

Hypothesis is an extra: ``pip install hypothesis``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from refloss.cases.case import Case
from refloss.cases.fuzz import LOSSES, draw, drawn_loss
from refloss.cases.oracle import refuse
from refloss.precision.dtypes import DTYPES
from refloss.validation import one_of

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy


class Draw(NamedTuple):
    """One example.

    Attributes:
        loss (Loss or CrossEntropy): the loss, of which parameters were drawn if only its name was given.
        case (Case): inputs for it, as `refloss.testing.check` takes them.
    """

    loss: Any
    case: Case


def inputs(
    loss: Any, *, dtype: str = "float32", soft_targets: bool = False, extreme: bool = False
) -> SearchStrategy[Draw]:
    """A strategy of inputs: shapes, labels, angles, lengths, logits, bias, what arrives, and layout in memory.

    Examples shrink to few rows, classes and dimensions, to quarters, ordinary rows, an upstream of 1 and contiguous
    arrays.

    Args:
        loss (Loss, CrossEntropy or str): the object; or a name, and then its parameters are drawn as well.
        dtype (str): "float64", "float32", "float16" or "bfloat16": the inputs are exact in it.
        soft_targets (bool): soft targets in place of labels, for a loss object that takes them.
        extreme (bool): lengths and angles as far as float64 goes, where a kernel in dtype owes nothing.

    Returns:
        SearchStrategy: of `Draw`.

    Raises:
        ModuleNotFoundError: Hypothesis is not installed.
        ValueError: an unknown dtype, or name of a loss; soft targets where the loss takes none.

    Example:
        >>> import hypothesis, refloss
        >>> @hypothesis.settings(max_examples=5, database=None, deadline=None)
        ... @hypothesis.given(inputs(refloss.ArcFace()))
        ... def test_kernel(draw):
        ...     loss, case = draw
        ...     out = loss.forward(case.inputs["x"], case.inputs["W"], case.labels)
        ...     assert out.loss >= 0
        >>> test_kernel()
    """
    try:
        from hypothesis import strategies as st
    except ModuleNotFoundError as error:
        if error.name != "hypothesis":
            raise
        words = "refloss.testing.strategies needs Hypothesis: pip install hypothesis"
        raise ModuleNotFoundError(words, name="hypothesis") from None
    if isinstance(loss, str):
        one_of(loss, "loss", LOSSES)
        one_of(dtype, "dtype", tuple(DTYPES))
        if soft_targets:
            raise ValueError("soft_targets needs a loss object, got a name")
    else:
        refuse(loss, dtype, 0, soft_targets)

    @st.composite
    def drawn(choose: Any) -> Draw:
        def whole(low: int, high: int) -> int:
            return choose(st.integers(low, high))

        made = drawn_loss(whole, loss) if isinstance(loss, str) else loss
        return Draw(made, draw(whole, made, dtype, soft_targets, extreme))

    return drawn()


__all__ = ["Draw", "inputs"]
