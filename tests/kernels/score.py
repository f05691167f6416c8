"""Are the wrong kernels named? In tests/, `python -m kernels.score --format markdown -j 2` checks all of them.

Each kernel is checked on the quick cases, and on all where its suspect is not among the first three there.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Iterator
from typing import NamedTuple

from kernels.first import FIRST
from kernels.second import SECOND
from kernels.third import THIRD
from refloss.testing import check

SETS = {"first": FIRST, "second": SECOND, "third": THIRD}
UNNAMED = {  # and why
    "softmax-probability_clamped": "log(p + 1e-7) is closer to a suspect that came with the third set",
    "arcface-margin_added_to_all_angles_in_value_only": "no suspect has the margin on every class in "
    "the value and on the target alone in the slope",
    "a_softmax-log_of_softmax": "its gradient is NaN where its loss is inf, as that of exp_without_maximum",
}
AT_FIRST_SIGHT = {"first": 60, "second": 34, "third": 29}  # named before any suspect got a variant for its set


HEAD = """Wrong torch kernels in float32, written from the formula and a one-line description of the mistake, without
sight of the suspects: three sets, one after the other. After each set some suspects got another variant, so that blind
is what was named at first sight. *named*: the mistake is among the first three suspects of the report, on the quick
cases or else on all. Made in `tests/` by `python -m kernels.score --format markdown`.
"""


class Result(NamedTuple):
    """What a check says of a wrong kernel."""

    kernel: str
    due: str
    failed: bool
    suspects: list[str]  # the first three
    cases: str  # "quick" or "all"

    @property
    def named(self) -> str:
        if self.due not in self.suspects:
            return "no"
        return "yes" if self.cases == "quick" else "on all cases"


def result_of(kernel) -> Result:
    """On the quick cases, or else on all."""
    loss = kernel.loss()
    for cases in ("quick", "all"):
        report = check(kernel.make(loss), loss, dtype="float32", framework="torch", cases=cases)
        names = [match.name for match in report.suspects[:3]]
        if kernel.suspect in names or kernel.name in UNNAMED:
            break
    return Result(kernel.name, kernel.suspect, not report.passed, names, cases)


def _job(place: tuple[str, int]) -> Result:
    name, k = place
    return result_of(SETS[name][k])


def markdown(results: dict[str, list[Result]]) -> Iterator[str]:
    """The page docs/blind_kernels.md."""
    yield "# Blind kernels\n"
    yield HEAD
    for name, found in results.items():
        named = sum(result.named != "no" for result in found)
        blind = AT_FIRST_SIGHT[name]
        yield f"- {name} set: {len(found)} kernels, {blind} named at first sight, {named} now"
    yield from (f"- not named: `{kernel}`; {reason}" for kernel, reason in UNNAMED.items())
    yield "\n| set | kernel | named | first three suspects |"
    yield "|---|---|---|---|"
    for name, found in results.items():
        for result in found:
            yield f"| {name} | `{result.kernel}` | {result.named} | {', '.join(result.suspects) or 'none'} |"


def text(results: dict[str, list[Result]]) -> Iterator[str]:
    for name, found in results.items():
        for result in found:
            yield f"{name:7} {result.named:13} {result.kernel:60} {', '.join(result.suspects)}"
        yield f"{name} set: {sum(result.named != 'no' for result in found)} of {len(found)} named"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--format", choices=("text", "markdown"), default="text")
    parser.add_argument("-j", type=int, default=1, metavar="N", help="processes")
    options = parser.parse_args()
    places = [(name, k) for name, kernels in SETS.items() for k in range(len(kernels))]
    with multiprocessing.get_context("spawn").Pool(options.j) as pool:
        found = pool.map(_job, places, chunksize=1)
    results = {name: [r for (its, _), r in zip(places, found, strict=True) if its == name] for name in SETS}
    print("\n".join({"text": text, "markdown": markdown}[options.format](results)))
    unseen = [r.kernel for r in found if not r.failed or (r.named == "no" and r.kernel not in UNNAMED)]
    if unseen:
        sys.exit(f"not caught, or not named: {', '.join(unseen)}")


if __name__ == "__main__":
    main()
