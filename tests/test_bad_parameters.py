"""Bad parameters of the losses get a ValueError or TypeError that names them."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import MARGIN, NAMES, NORMALISES_W, PSI, example, make, refused

import refloss


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


# -- shared parameters -----------------------------------------------------------------------------

BAD_OPTIONS = {
    "reduction": {ValueError: ["average", None, "Mean"]},
    "empty_mean": {ValueError: ["raise", None]},
    "precision": {ValueError: ["single", 64]},
    "label_smoothing": {ValueError: [-0.1, 1.1, np.nan], TypeError: ["0.1", True, 0.1j, None, [0.1, 0.2]]},
    "ignore_index": {TypeError: [1.5, -1.0, True, "1", [1]]},
    "class_weights": {
        ValueError: [[1, -0.5, 1, 1], [1, np.nan, 1, 1], [1, np.inf, 1, 1], [], 1.0, [[1, 1, 1, 1]]],
        TypeError: [[1j, 1, 1, 1], "balanced", ["1", "2"]],
    },
}
OPTIONS = [
    pytest.param(option, value, error, id=f"{option}={value!r}")
    for option, values in BAD_OPTIONS.items()
    for error, bad in values.items()
    for value in bad
]


@pytest.mark.parametrize(("option", "value", "error"), OPTIONS)
def test_bad_shared_option_is_refused(name, option, value, error):
    """The options of the cross-entropy are checked when a loss is made, and named."""
    with pytest.raises(error, match=option):
        make(name, **{option: value})


@pytest.mark.parametrize(("option", "value", "error"), OPTIONS)
def test_bad_option_of_CrossEntropy_is_refused(option, value, error):
    """CrossEntropy checks the same options."""
    with pytest.raises(error, match=option):
        refloss.CrossEntropy(**{option: value})


@pytest.mark.parametrize("option", ["reduction", "empty_mean", "precision"])
def test_choice_given_as_an_array_is_refused(name, option):
    """An array is no choice: it would make the loss unhashable."""
    good = {"reduction": "mean", "empty_mean": "error", "precision": "double"}[option]
    with pytest.raises((TypeError, ValueError), match=option):
        make(name, **{option: np.array(good)})


def test_first_negative_class_weight_is_shown(name):
    """The message for negative class_weights gives the first index and its value."""
    with pytest.raises(ValueError, match=r"class_weights\[1\] is -0.5; class_weights must be ≥ 0"):
        make(name, class_weights=[1, -0.5, -2, 1])


def test_weighted_softmax_needs_its_weights():
    """WeightedSoftmax without class_weights is refused."""
    for given in ({}, {"class_weights": None}):
        with pytest.raises(TypeError, match="class_weights"):
            refloss.WeightedSoftmax(**given)


def test_positional_and_unknown_parameters_are_refused(name):
    """Parameters are keyword-only, and an unknown one is named."""
    cls = type(make(name))
    with pytest.raises(TypeError, match="positional"):
        cls(1.0)
    with pytest.raises(TypeError, match="marginn"):
        make(name, marginn=1)


@pytest.mark.parametrize("unknown", ["cosface2", "ArcFace", "", None, 3])
def test_unknown_loss_is_refused(unknown):
    """refloss.get lists the names it knows."""
    with pytest.raises(ValueError, match="name must be one of softmax, weighted_softmax"):
        refloss.get(unknown)


# -- the losses' own parameters --------------------------------------------------------------------

NOT_POSITIVE = {ValueError: [0, -1.0, np.nan, np.inf], TypeError: ["64", None, True, 64j, [64.0]]}
COUNT = {ValueError: [0, -1], TypeError: [1.5, 4.0, np.nan, "4", True, None]}
MARGIN_VALUES = {ValueError: [-0.1, np.nan], TypeError: ["0.5", None, 1j]}
BAD_PARAMETERS = [  # parameter, the losses, the values by error
    ("scale", ["f_norm_sphereface", "am_softmax", "arcface"], NOT_POSITIVE),
    ("alpha", ["l2_softmax"], NOT_POSITIVE),
    ("margin", PSI, COUNT),
    ("margin", ["am_softmax", "arcface"], MARGIN_VALUES),
    ("margin", ["am_softmax"], {ValueError: [2.0000001, 20]}),
    ("margin", ["arcface"], {ValueError: [np.pi, 28.6]}),
    ("annealing", PSI, {ValueError: [-0.1, np.inf], TypeError: ["1"]}),
    ("easy_margin", ["arcface"], {TypeError: [1, "yes"]}),
    ("past_pi", ["arcface"], {ValueError: ["tail", None]}),
    ("detach_margin", MARGIN, {TypeError: [1, "yes", None]}),
    ("zero_norm", [*NORMALISES_W, "l_softmax", "l2_softmax"], {ValueError: ["nan", None]}),
]


@pytest.mark.parametrize(
    ("name", "parameter", "value", "error"),
    [
        pytest.param(name, parameter, value, error, id=f"{name}-{parameter}={value!r}")
        for parameter, names, values in BAD_PARAMETERS
        for name in names
        for error, bad in values.items()
        for value in bad
    ],
)
def test_bad_parameter_is_refused(name, parameter, value, error):
    """A parameter out of its range or of a wrong type is refused by name."""
    with pytest.raises(error, match=parameter):
        make(name, **{parameter: value})


@pytest.mark.parametrize(("degrees", "radians"), [(28.6, "0.499164"), (30, "0.523599"), (45.0, "0.785398")])
def test_degrees_are_told_their_radians(degrees, radians):
    """A margin that looks like degrees is refused and told its radians."""
    for name in ("arcface", "am_softmax"):
        with pytest.raises(ValueError, match=rf"margin.*degrees.*{radians}"):
            make(name, margin=degrees)


def test_margins_at_their_bounds_are_accepted():
    """0 ≤ m < π for ArcFace, 0 ≤ m ≤ 2 for CosFace, m ≥ 1 for ψ."""
    for margin in (0, np.nextafter(np.pi, 0)):
        assert refloss.ArcFace(margin=margin).margin == margin
    for margin in (0, 2):
        assert refloss.CosFace(margin=margin).margin == margin
    for name in PSI:
        assert make(name, margin=np.int8(1)).margin == 1


@pytest.mark.parametrize("name", PSI)
def test_margin_beyond_floats_is_refused(name):
    """An integer that no float can hold is refused when the loss is made, not in its forward."""
    with pytest.raises(ValueError, match="margin"):
        make(name, margin=10**400)


# -- continuation: D(θ) beyond π/m, here for m = 4 -------------------------------------------------

KNOT = np.pi / 4


def good(theta, xp):
    return -1 - 2 * (theta - KNOT)


def good_slope(theta, xp):
    return -2 + 0 * theta


def raises(theta, xp):
    raise ZeroDivisionError("in the user's D")


BAD_CONTINUATIONS = refused(
    TypeError,
    one_function=(good, r"continuation must be a pair \(D, dD\)"),
    one_in_a_tuple=((good,), r"continuation must be a pair"),
    three=((good, good_slope, good), r"continuation must be a pair"),
    not_callable=((good, -2), r"continuation must be a pair"),
    complex=((lambda t, xp: good(t, xp) + 0j, good_slope), r"continuation D must be real"),
) | refused(
    ValueError,
    not_at_minus_one=(
        (lambda t, xp: -t, lambda t, xp: -1 + 0 * t),
        r"continuation: D\(π/m\) must be cos\(π\) = −1.*D\(0.785398\) = -0.785398",
    ),
    the_surveys_slip=(
        (lambda t, xp: np.cos(KNOT) - (t - KNOT), lambda t, xp: -1 + 0 * t),
        r"continuation: D\(π/m\) must be cos\(π\) = −1",
    ),
    rising=((lambda t, xp: -1 + (t - KNOT), lambda t, xp: 1 + 0 * t), r"continuation: D must be decreasing"),
    constant=((lambda t, xp: -1 + 0 * t, lambda t, xp: 0 * t), r"continuation: D must be decreasing"),
    rising_at_the_end=(
        (
            lambda t, xp: xp.where(t < 3.1, good(t, xp), good(3.1, xp) + (t - 3.1)),
            lambda t, xp: xp.where(t < 3.1, -2.0, 1.0),
        ),
        r"continuation: D must be decreasing on \[π/m, π\]; D\(3.1",
    ),
    torn=(
        (lambda t, xp: good(t, xp) - 0.5 * (t > 2), good_slope),
        r"continuation: D must be continuous with derivative dD; from theta = (1.99|2)",
    ),
    wrong_sign=((good, lambda t, xp: 2 + 0 * t), r"continuation: D"),
    wrong_factor=((good, lambda t, xp: -2.001 + 0 * t), r"continuation: d?D"),
    wrong_somewhere=(
        (good, lambda t, xp: xp.where((t > 2) & (t < 2.01), -2.1, -2.0)),
        r"continuation: d?D must be .*theta = (1.99|2)",
    ),
    nan=((lambda t, xp: np.nan * t, good_slope), r"continuation D\[0\] is nan"),
    nan_slope=((good, lambda t, xp: xp.where(t > 3, np.nan, -2.0)), r"continuation dD\[\d+\] is nan"),
    shape=((lambda t, xp: good(t, xp)[:3], good_slope), r"continuation: D and dD must.*\(1001,\)"),
)


@pytest.mark.parametrize("name", PSI)
@pytest.mark.parametrize("bad", BAD_CONTINUATIONS)
def test_bad_continuation_is_refused(name, bad):
    """A D that is not decreasing, continuous and −1 at π/m, or whose dD is not D', is refused."""
    value, error, message = BAD_CONTINUATIONS[bad]
    with pytest.raises(error, match=message):
        make(name, continuation=value)


@pytest.mark.parametrize("name", PSI)
def test_continuation_with_a_kink_is_accepted(name):
    """A kink at π/m, and a kink inside, are allowed: D is continuous and decreasing."""
    make(name, continuation=(good, good_slope))
    bent = (
        lambda t, xp: xp.where(t < 2, good(t, xp), good(2, xp) - 5 * (t - 2)),
        lambda t, xp: xp.where(t < 2, -2.0, -5.0),
    )
    make(name, continuation=bent)


@pytest.mark.parametrize("name", PSI)
def test_continuation_of_m_1_is_refused(name):
    """m = 1 has no angle beyond π/m."""
    with pytest.raises(ValueError, match="continuation: margin=1"):
        make(name, margin=1, continuation=(good, good_slope))


@pytest.mark.parametrize("name", PSI)
def test_error_of_the_users_own_function_is_not_hidden(name):
    """An exception inside D reaches the user as it is."""
    with pytest.raises(ZeroDivisionError, match="in the user's D"):
        make(name, continuation=(raises, good_slope))


# -- MarginSoftmax ---------------------------------------------------------------------------------


def psi(theta, xp):
    return xp.cos(theta)


def dpsi(theta, xp):
    return -xp.sin(theta)


BAD_PARTS = refused(
    TypeError,
    psi=({"psi": 1.0}, r"psi must be a function called as psi\(theta, xp\)"),
    dpsi=({"dpsi": None}, r"dpsi must be a function"),
) | refused(
    ValueError,
    radius=({"radius": "norm"}, r"radius must be one of 'scale', 'x_norm', 'both_norms'"),
    scale=({"scale": 0}, r"scale must be > 0"),
)


@pytest.mark.parametrize("bad", BAD_PARTS)
def test_bad_parameter_of_MarginSoftmax_is_refused(bad):
    """MarginSoftmax checks its functions and its radius."""
    parameters, error, message = BAD_PARTS[bad]
    with pytest.raises(error, match=message):
        refloss.MarginSoftmax(**{"psi": psi, "dpsi": dpsi, **parameters})


BAD_FUNCTIONS = {
    "nan": lambda t, xp: np.nan * t,
    "inf": lambda t, xp: np.inf + t,
    "complex": lambda t, xp: t + 0j,
    "shape": lambda t, xp: np.ones(len(t) + 1),
    "strings": lambda t, xp: t.astype(str),
    "none": lambda t, xp: None,
}


@pytest.mark.parametrize("argument", ["psi", "dpsi"])
@pytest.mark.parametrize("bad", BAD_FUNCTIONS)
def test_bad_values_of_a_users_margin_are_refused(argument, bad, rng):
    """What psi and dpsi return is checked, and the function named: never NaN, never silent."""
    loss = refloss.MarginSoftmax(**({"psi": psi, "dpsi": dpsi} | {argument: BAD_FUNCTIONS[bad]}))
    with pytest.raises((ValueError, TypeError), match=rf"\b{argument}\b"):
        loss.forward(**example("arcface", rng))
