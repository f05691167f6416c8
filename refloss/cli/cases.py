"""`refloss cases`: the cases on which `refloss check` runs a kernel, and what each is for."""

from __future__ import annotations

import argparse
from textwrap import fill
from typing import Any

from refloss.cli.shared import add_common, add_set, make_loss, write
from refloss.cli.status import OK, CallError
from refloss.report import strict_json


def add_to(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "cases",
        help="the cases of check for a loss: names, flags, shapes, reasons",
        description="Lists the cases on which `refloss check` runs a kernel of this loss. `check --case NAME` runs one "
        "of them, `check --without FLAG` leaves out those of a flag.",
    )
    parser.add_argument("loss", metavar="LOSS", help="see `refloss list`; or cross_entropy")
    add_set(parser)
    parser.add_argument(
        "--dtype", default="float32", metavar="NAME", help="float64, float32 (default), float16, bfloat16"
    )
    parser.add_argument("--soft-targets", action="store_true", help="soft targets in place of labels")
    add_common(parser, "json", seed=True)
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """The command. Returns its exit status."""
    from refloss.cases.configurations import WEIGHTS
    from refloss.cases.oracle import cases

    loss = make_loss(options.loss, options.set, WEIGHTS, bare=True)
    try:
        found = [_as_dict(case) for case in cases(loss, options.dtype, options.seed, options.soft_targets)]
    except ValueError as error:
        raise CallError(str(error)) from error
    if options.format == "json":
        text = strict_json({"loss": repr(loss), "dtype": options.dtype, "cases": found})
    else:
        quick = sum(case["quick"] for case in found)
        text = "\n".join([*map(_shown, found), f"{len(found)} cases of {loss!r}, {quick} of them quick"])
    write(text, options.output)
    return OK


def _as_dict(case: Any) -> dict[str, Any]:
    shapes = {name: list(value.shape) for name, value in {**case.inputs, "labels": case.labels}.items()}
    return {"name": case.name, "reason": case.reason, "flags": list(case.flags), "quick": case.quick,
            "layout": case.layout, "shapes": shapes}  # fmt: skip


def _shown(case: dict[str, Any]) -> str:
    shapes = ", ".join(f"{name} {tuple(shape)}" for name, shape in case["shapes"].items())
    flags = " ".join([*case["flags"], *(["(quick)"] if case["quick"] else [])])
    reason = fill(case["reason"], 76, initial_indent="    ", subsequent_indent="    ")
    return f"{case['name']} · {flags}\n    {shapes}\n{reason}"
