"""docs/findings.md: every grade and every number of it, computed again on the cases that decide it."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
from agreement import one_thread_of_torch
from helpers import assert_printed, near, need
from pages.markdown import read, section, tables
from released import ALL, HALF, RELEASED, pml_arcface, pml_cosface, pml_sphereface

import refloss
from refloss.testing import Case
from refloss.testing.report import CaseResult, Failure

PAGE = read("docs/findings.md")
POLE = ("typical_one_dimension", "pole")
POLES = (*POLE, "near_poles", "near_poles_turned")
WRITTEN = {
    "float64": POLE,
    "float32": POLES,
    "float16": POLES,
    "bfloat16": (*POLES, "typical_two_dimensions", "past_pi", "anti_confident", "two_equal_maxima"),
}
LIBRARY = WRITTEN | {"bfloat16": (*POLES, "past_pi", "anti_confident")}
MASKED = dict.fromkeys(ALL, ("masked_classes", "masked_all_but_target", "masked_first_block", "masked_without_a_share"))
# the cases that are wrong, by implementation and dtype; nowhere else is one
WRONG: dict[str, dict[str, tuple[str, ...]]] = {
    "pml_arcface": LIBRARY,
    "pml_subcenter": LIBRARY,
    "pml_sphereface": {"float32": ("near_poles", "near_poles_turned")},
    "pml_large_margin": {"float32": ("near_poles", "near_poles_turned")},
    "arcface_acos": WRITTEN,
    "arcface_acos_clamped": {"float64": POLES} | {dtype: WRITTEN[dtype] for dtype in HALF},
    "arcface_sqrt": WRITTEN,
    "torch_linear_options": {"float16": ("logits_1e4",)},
    "torch_linear_options_sum": {"float16": ("logits_1e4",)},
    "torch_linear_options_none": {"float16": ("logits_1e4",)},
    "torch_cross_entropy_smoothed": {
        "float16": (
            "blocks_5000",
            "logits_1e4",
            "ascending_logits",
            "descending_logits",
            "classes_beyond_32767",
            "classes_beyond_65535",
        )
    },
    "torch_cross_entropy_soft": MASKED,
    "optax_soft": MASKED,
}
# where the worst grade of all cases comes from; the others' from "confident"
DECISIVE = {
    ("optax_soft_safe", "float64"): "volume",
    ("optax_soft_safe", "float16"): "volume",
    ("pml_sphereface", "bfloat16"): "blocks_5000",
    ("pml_large_margin", "float16"): "blocks_5000",
    ("pml_large_margin", "bfloat16"): "blocks_1000",
    ("torch_linear_soft", "float16"): "blocks_1000",
    ("torch_linear_soft", "bfloat16"): "blocks_1000",
    ("torch_linear_soft", "float64"): "chunk_edge_1023x2",
    ("torch_cross_entropy_smoothed", "bfloat16"): "ragged_image",
}


def needed(name: str) -> Any:
    """The implementation of that name, or the test is skipped."""
    released = RELEASED[name]
    need(released.framework)
    need(released.package)
    if released.framework == "torch":
        one_thread_of_torch()
    return released


def table() -> dict[tuple[str, str], str]:
    """(implementation, dtype) → its cell on the page."""
    _, *rows = tables(PAGE)[0]
    return {
        (name.strip("`"), dtype): cell
        for name, _, *cells in rows
        for dtype, cell in zip(ALL, cells, strict=True)
        if cell
    }


def paragraph(heading: str) -> str:
    """The text under a heading, on one line, with ASCII minus signs."""
    return " ".join(section(PAGE, heading).replace("−", "-").split())


def says(heading: str, *numbers: str) -> None:
    """Each of these stands in the paragraph."""
    for number in numbers:
        assert number.replace("−", "-") in paragraph(heading), number


def failure(name: str, dtype: str, case: str, stage: str, require: str | None = None) -> Failure:
    [result] = needed(name).results(dtype, [case], require)
    [found] = [f for f in result.failures if f.stage == stage]
    return found


def stages(name: str, dtype: str, case: str, require: str | None = None) -> CaseResult:
    [result] = needed(name).results(dtype, [case], require)
    return result


# -- the table -------------------------------------------------------------------------------------


def test_the_table_is_of_the_list() -> None:
    assert set(table()) == {(name, dtype) for name, released in RELEASED.items() for dtype in released.dtypes}


@pytest.mark.parametrize("name", RELEASED)
def test_grades(name: str) -> None:
    """A cell's grade is that of the case that decides it; where cases are wrong, these are."""
    released = needed(name)
    for dtype in released.dtypes:
        cell, wrong = table()[name, dtype], WRONG.get(name, {}).get(dtype, ())
        if not wrong:
            [result] = released.results(dtype, [DECISIVE.get((name, dtype), "confident")])
            assert (result.grade, result.failures) == (cell[0], []), dtype
            assert cell in "ABCDE"
            continue
        if released.framework == "jax":
            wrong = wrong[:1]  # each compiles
        results = released.results(dtype, wrong)
        assert [result.name for result in results if result.failures] == [result.name for result in results], dtype
        every = len(released.checker(dtype).cases)
        grade, count = cell.split()
        assert count == f"{len(WRONG[name][dtype])}/{every}", dtype
        assert (grade == "F") == any(result.grade == "F" for result in results), dtype


def test_what_could_not_be_told() -> None:
    checker = needed("pml_sphereface").checker("bfloat16", "quick")
    assert not [result.failures for result in checker.run() if result.failures]
    assert set(checker.self_check.not_checked()) == {"grad_logits", "grad_x", "grad_W"}


def test_other_cases_near_the_wrong_ones_are_right() -> None:
    for name, dtype, cases in (
        ("pml_arcface", "float64", ("near_poles", "near_poles_turned", "past_pi", "at_pi_minus_m")),
        ("pml_arcface", "float32", ("past_pi", "anti_confident", "every_angle")),
        ("pml_arcface", "bfloat16", ("typical_two_dimensions", "two_equal_maxima")),
        ("arcface_acos_clamped", "float32", POLES),
        ("torch_cross_entropy_smoothed", "float32", ("blocks_5000", "logits_1e4")),
        ("torch_cross_entropy_smoothed", "bfloat16", ("logits_1e4",)),
    ):
        assert not [r.failures for r in needed(name).results(dtype, cases) if r.failures], (name, dtype)


# -- 16 bits ---------------------------------------------------------------------------------------


def test_sixteen_bits() -> None:
    """torch's own losses are of grade D, with float32 inside they are of grade C."""
    heading = "16 bits throughout, under autocast, and float32 inside"
    worst = {}
    for name, grade in (("torch_linear", "E"), ("torch_autocast", "D"), ("torch_float32_inside", "C")):
        assert table()[name, "bfloat16"] == table()[name, "float16"] == grade
        for case in ("typical", "overflow_float32"):
            worst[name, case] = stages(name, "bfloat16", case, "A")
    at = failure("torch_linear", "bfloat16", "overflow_float32", "grad_x", "C")
    same = failure("torch_autocast", "bfloat16", "overflow_float32", "grad_x", "C")
    assert (at.index, at.got, at.expected) == (same.index, same.got, same.expected)
    assert at.index == (2, 5)
    says(heading, f"{at.got:.4f}", f"{at.expected:.4f}", f"{abs(at.got / at.expected - 1):.0%}")
    assert worst["torch_float32_inside", "typical"].grade == "A"
    assert worst["torch_linear", "typical"].grade == "D"
    assert worst["torch_autocast", "typical"].grade == "D"
    says(heading, "grade E at worst", "they have D", "the grade is C, and A on Gaussian input")


WORST = {  # a sentence of the page, and what the table must then have: (row, dtype) → whether a cell may stand there
    "torch's own losses with their default options have grade E at worst in bfloat16 and float16": (
        r"torch_(linear|cross_entropy)(_soft)?", ("bfloat16", "float16"), "[ABCDE].*"
    ),
    "With label smoothing some cases are wrong in float16": (
        r"torch_(linear_options.*|cross_entropy_smoothed)", ("float16",), "F .*"
    ),
    "Under autocast, where the cross-entropy is taken in float32, they have D": (
        "torch_autocast", ("bfloat16", "float16"), "D"
    ),
    "Labels have grade C and not B in float32 and float64": (
        "(torch|optax)_(linear|cross_entropy|integer)", ("float32", "float64"), "C"
    ),
}  # fmt: skip


def contradicted(sentence: str, cells: dict[tuple[str, str], str]) -> list[tuple[str, str]]:
    """The cells of the table that such a sentence does not allow."""
    names, dtypes, allowed = WORST[sentence]
    spoken = [at for at in cells if re.fullmatch(names, at[0]) and at[1] in dtypes]
    assert spoken, names
    return [at for at in spoken if not re.fullmatch(allowed, cells[at])]


@pytest.mark.parametrize("sentence", WORST)
def test_no_sentence_contradicts_the_table(sentence: str) -> None:
    assert sentence in " ".join(PAGE.split())
    assert contradicted(sentence, table()) == []
    assert contradicted(sentence, dict.fromkeys(table(), "F 4/42" if WORST[sentence][2] != "F .*" else "E"))


# -- angles near the poles -------------------------------------------------------------------------


def is_finite(theta: float, dtype: str) -> bool:
    """Whether the gradient is, with x at this angle to its class's row in the plane."""
    torch = one_thread_of_torch()
    kind = getattr(torch, dtype)
    x = torch.tensor([[math.cos(theta), math.sin(theta)]], dtype=kind, requires_grad=True)
    W = torch.tensor([[1.0, 0.0], [0.6, 0.8]], dtype=kind)
    pml_arcface(x, W, torch.tensor([0]))["loss"].backward()
    return bool(x.grad.isfinite().all())


def test_nan_next_to_a_pole() -> None:
    heading = "NaN where x is parallel to its class's row"
    need("pytorch_metric_learning")
    for dtype, edge in zip(ALL, (1.29e-8, 3.0e-4, 0.0221, 0.0626), strict=True):
        assert not any(is_finite(edge * share, dtype) for share in (0.05, 0.3, 0.7, 0.95))
        assert all(is_finite(edge * share, dtype) for share in (1.05, 1.5, 3.0))
    says(heading, "1.3e-8", "3.0e-4", "0.022", "0.063", "3.6°")
    assert round(math.degrees(0.0626), 1) == 3.6
    at = failure("pml_arcface", "float32", "near_poles", "grad_x")
    assert at.kind == "nan"
    assert at.index[0] == 2
    assert_printed(at.expected, -0.6938, 1e-4)
    assert "θ = 1e-05" in at.role
    says(heading, "−0.6938")
    assert stages("pml_arcface", "float32", "near_poles").grades["loss"] < "D"
    assert failure("pml_arcface", "float32", "near_poles", "grad_W").kind == "nan"
    [found] = (m.name for m in needed("pml_arcface").check("float32", ["near_poles"]).suspects[:1])
    assert found == "pole_gives_nan"
    says(heading, found)


def test_nan_from_another_class() -> None:
    """Where arccos is taken of every class and one is chosen later, any class will do."""
    heading = "NaN where x is parallel to another class's row"
    at = failure("arcface_acos", "bfloat16", "typical_two_dimensions", "grad_x")
    assert at.kind == "nan"
    assert "θ = 1.282" in at.role
    assert_printed(at.expected, 11.57, 1e-2)
    says(heading, "1.282", "11.57")
    assert not stages("pml_arcface", "bfloat16", "typical_two_dimensions").failures


def test_clamps() -> None:
    heading = "A clamp of 1e-7"
    torch = one_thread_of_torch()
    need("torch")
    at = failure("arcface_acos_clamped", "float64", "near_poles", "logits")
    says(heading, f"{at.got:.3f}", f"{at.expected:.3f}")
    assert at.error == near(64 * math.sin(0.5) * math.sqrt(2e-7), 0.03)
    at = failure("arcface_acos_clamped", "float64", "near_poles", "grad_x")
    says(heading, f"{at.got:.2f}", f"{at.expected:.2f}")
    assert table()["arcface_acos_clamped", "float32"] == "C"
    for dtype, held in (("float16", True), ("bfloat16", True), ("float32", False)):
        assert bool(torch.tensor(1 - 1e-7, dtype=getattr(torch, dtype)) == 1) is held


# -- the slope of ψ at π ---------------------------------------------------------------------------


def next_to_pi(offset: float) -> Case:
    return Case(
        name="next_to_pi", reason="θ is `offset` from π", flags=(), labels=np.array([0]), upstream=1.0,
        inputs={"x": np.array([[1.0, 0.0]]), "W": np.array([[-1.0, offset], [0.6, 0.8]])}, upstreams=np.ones(1),
    )  # fmt: skip


# scipy's binom is given torch's integers
@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept context:DeprecationWarning")
def test_psi_next_to_pi() -> None:
    heading = "The slope of ψ next to π"
    released = needed("pml_sphereface")
    for dtype, offset, grade, got, due in (
        ("float64", 8e-9, "F", "1.28e-7", "−1.28e-7"),
        ("float32", 1e-4, "F", "0.0016", "−0.0016"),
        ("bfloat16", 0.06, "E", "0.96", "−0.95"),
    ):
        [result] = released.results(dtype, [next_to_pi(offset)], "C")
        [at] = (f for f in result.failures if f.stage == "grad_W")
        assert (at.index, at.grade, result.grade) == ((0, 1), grade, grade)
        for value, words in ((at.got, got), (at.expected, due)):
            assert value == near(float(words.replace("−", "-")), 0.01)
        says(heading, got, due)
        assert {f.stage for f in result.failures} == {"grad_x", "grad_W"}
    [found] = (m.name for m in released.check("float32", [next_to_pi(1e-4)], "C").suspects[:1])
    assert found == "k_off_by_one_at_pi"
    says(heading, found)
    torch = one_thread_of_torch()
    for offset, wrong in ((1e-4, True), (5e-4, False)):
        W = torch.tensor([[-1.0, offset], [0.6, 0.8]], requires_grad=True)
        pml_sphereface(torch.tensor([[1.0, 0.0]]), W, torch.tensor([0]))["loss"].backward()
        assert bool(W.grad[0, 1] > 0) is wrong


# -- masked classes, smoothing, zero rows ----------------------------------------------------------


def test_masked_classes_under_soft_targets() -> None:
    heading = "Masked classes under soft targets"
    for name, stage in (("torch_cross_entropy_soft", "loss"), ("optax_soft", "losses")):
        result = stages(name, "float32", "masked_classes")
        assert {f.kind for f in result.failures} == {"convention"}
        assert next(f.stage for f in result.failures) == stage
        assert result.grades["grad_logits"] == "B"
    at = failure("torch_cross_entropy_soft", "float32", "masked_classes", "loss")
    says(heading, f"{at.expected:.4f}", "grade B")
    assert not stages("optax_soft_safe", "float32", "masked_classes").failures


def test_smoothing_in_float16() -> None:
    heading = "Label smoothing in float16"
    F = need("torch.nn.functional")
    torch = one_thread_of_torch()

    def loss(C: int, dtype: Any) -> float:
        return float(F.cross_entropy(torch.zeros(1, C, dtype=dtype), torch.tensor([0]), label_smoothing=0.1))

    assert np.isfinite(loss(7356, torch.float16))
    assert loss(7357, torch.float16) == loss(10_000, torch.float16) == np.inf
    assert loss(7357, torch.float32) == near(math.log(7357), 1e-5)
    says(heading, "7357", f"{math.log(7357):.3f}", "65504")
    each = float(np.float16(math.log(7357)))
    assert 7356 * each < 65520 < 7357 * each  # which rounds to inf
    at = failure("torch_cross_entropy_smoothed", "float16", "blocks_5000", "loss")
    says(heading, f"{at.expected:.2f}")
    assert at.kind == "inf"
    assert stages("torch_cross_entropy_smoothed", "float16", "blocks_5000").grades["grad_logits"] == "D"
    at = failure("torch_linear_options_none", "float16", "logits_1e4", "losses")
    says(heading, f"{at.expected:.1f}")
    assert at.index == (0,)


def test_zero_rows() -> None:
    heading = "Rows of zeros"
    torch, _ = one_thread_of_torch(), need("pytorch_metric_learning")
    loss = refloss.CosFace(scale=64, zero_norm="zero")
    for dtype, kind in (("float32", "value"), ("float16", "nan")):
        report = refloss.testing.check(
            pml_cosface, loss, dtype=dtype, framework="torch", cases="zero_rows", require="E"
        )
        at = next(f for f in report.failures if f.stage == "grad_x")
        assert at.kind == kind
        if dtype == "float32":
            assert at.index[0] == 2
            assert at.expected == 0
            assert {f.stage for f in report.failures} == {"grad_x", "grad_W"}
            assert f"{at.got:.1e}" == "-5.1e+12"
            says(heading, "−5.1e12")
        else:
            assert report.first_divergent_stage == "logits"
            says(heading, "64 of 64")
            assert "64 of 64 not finite" in at.message
    zero = torch.zeros(1, 4)
    assert torch.nn.functional.normalize(zero.half()).isnan().all()
    assert not torch.nn.functional.normalize(zero.bfloat16()).any()


# -- confident samples -----------------------------------------------------------------------------


def test_confident_samples() -> None:
    heading = "Confident samples"
    at = failure("torch_linear", "float32", "confident", "grad_logits", "B")
    assert at.got == 0
    says(heading, f"{at.expected:.2e}".replace("e-0", "e-"))
    at = failure("torch_linear", "float32", "very_confident", "loss", "B")
    assert at.got == 0
    says(heading, f"{at.expected:.1e}")
    assert stages("torch_linear_soft", "float32", "confident").grade == "B"
    assert stages("torch_linear_soft", "float64", "confident").grade == "A"
