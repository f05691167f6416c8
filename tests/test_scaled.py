"""Numbers that carry a power of two along: right to the last bit where the plain ones leave the range."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

import refloss
from refloss.precision.bounded import Bounded
from refloss.precision.numbers import Array, nearest
from refloss.precision.pair import Pair
from refloss.precision.scaled import HEADROOM, Scaled, at, beside, exponential

pytestmark = pytest.mark.filterwarnings("error")


def truth(v: Array | float, i: int = 0) -> Fraction:
    """Entry i of Pairs, or of Scaled ones, as the number that it stands for."""
    if isinstance(v, Scaled):
        power = int(np.broadcast_to(v.power, v.shape)[i])
        return truth(v.value, i) / Fraction(2) ** power
    return Fraction(float(v.high[i])) + Fraction(float(v.low[i]))


def scaled(*values: float, power: int = HEADROOM) -> Scaled:
    """Doubles as Scaled ones, times 2^−power."""
    return Scaled(Pair(np.array(values)), power)


def near(got: Fraction, due: Fraction) -> bool:
    return abs(got - due) <= abs(due) / 2**100


HUGE = 2.0**800
TINY = scaled(3 * 2.0**-60, 5.0, 7 * 2.0**200)  # 3 · 2^-960, 5 · 2^-900, 7 · 2^-700


@pytest.mark.parametrize(
    "other",
    [Pair(np.array([HUGE, 3.0, 2.0**-500])), scaled(HUGE, 1.0, 2.0**-40), 3.0],
    ids=["pairs", "scaled", "double"],
)
def test_products_keep_to_the_range(other):
    for product in (TINY * other, other * TINY):
        for i in range(3):
            due = truth(TINY, i) * (Fraction(other) if isinstance(other, float) else truth(other, i))
            assert near(truth(product, i), due)


def test_the_same_without_room_would_overflow():
    """The control: the values alone have no room for the factor."""
    with np.errstate(over="ignore", invalid="ignore"):
        assert not np.isfinite((scaled(2.0**900).value * Pair(np.array([HUGE]))).high).any()
    assert near(truth(scaled(2.0**900) * Pair(np.array([HUGE]))), Fraction(HUGE))


def test_quotients_subtract_the_powers():
    quotient = TINY / scaled(3.0, 3.0, 3.0, power=-5)
    for i in range(3):
        assert near(truth(quotient, i), truth(TINY, i) / 96)


def test_a_sum_keeps_the_power_only_beside_small_numbers():
    """1 + r is a plain number, 2^-961 + r is not."""
    for term, kept in ((1.0, 0), (2.0**-60, 0), (2.0**-961, HEADROOM)):
        total = term + TINY
        assert (total.power == kept).all()
        assert near(truth(total, 0), truth(TINY, 0) + Fraction(term))


def test_places_and_choices_go_by_the_power_of_what_is_there():
    v = scaled(1.0, 1.0, 1.0)
    v[[0, 1]] = scaled(3.0, 5.0, power=HEADROOM + 7)
    v[2] = 1.0
    assert [truth(v, i) for i in range(3)] == [Fraction(3, 2**907), Fraction(5, 2**907), 1]
    chosen = np.where(np.array([True, False, True]), TINY, scaled(1.0, 1.0, 1.0, power=3))
    assert [truth(chosen, i) for i in (0, 1, 2)] == [truth(TINY, 0), Fraction(1, 8), truth(TINY, 2)]
    assert np.greater_equal(TINY, scaled(1.0, 1.0, 2.0**300)).tolist() == [False, True, False]


def test_log1p_keeps_a_tiny_number_and_its_power():
    """log(1 + r) = r below 2^-120; as plain numbers 2^-1800 would be 0."""
    r = scaled(2.0**-900, 2.0**850)  # 2^-1800 and 2^-50
    log = np.log1p(r)
    assert truth(log, 0) == Fraction(1, 2**1800)
    due = Fraction(1, 2**50) - Fraction(1, 2**101) + Fraction(1, 3 * 2**150)
    assert abs(truth(log, 1) - due) <= due / 2**68
    assert log.power.tolist() == [HEADROOM, 0]
    assert nearest(at(0, r))[0] == 0
    # beside an ordinary number the power is of no use
    assert beside(r, Pair(np.array([1.0, 1.0]))).power.tolist() == [0, 0]
    assert beside(r, Pair(np.array([0.0, 1.0]))).power.tolist() == [HEADROOM, 0]


def test_doubles_carry_no_power():
    for numbers in (np.array([-1000.0]), Bounded(np.array([-1000.0]))):
        assert not isinstance(exponential(numbers), Scaled)
        assert at(0, numbers) is numbers
    assert isinstance(exponential(Bounded(Pair(np.array([-1000.0])))), Scaled)


def test_a_tiny_loss_beside_a_heavy_class():
    """A row's tiny log(1 + r) has all its digits whatever another class weighs."""
    for heavy in (1.0, 1e300):
        loss = refloss.CrossEntropy(precision="extended", reduction="none", class_weights=[1.0, heavy])
        light, weighed = loss.forward([[700.0, 0.0], [0.0, 700.0]], [0, 1]).losses
        assert abs(light / np.exp(-700.0) - 1) < 2.0**-50
        assert abs(weighed / heavy / light - 1) < 2.0**-50
