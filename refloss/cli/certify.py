"""`refloss certify`: the adversarial grid, or your own arrays, with errors proven by balls."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import refloss
from refloss.cli.shared import (
    add_common,
    add_set,
    finish,
    make_loss,
    named,
    nothing_ran,
    of_a_checkout,
    progress,
    read_arrays,
    run_jobs,
    those_that_fit,
    write,
)
from refloss.cli.status import NOTHING_RAN, OK, WRONG, CallError
from refloss.losses.passes import PRECISIONS

FLINT_MISSING = "certify needs python-flint: pip install python-flint"


def add_to(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "certify",
        help="prove how far values and gradients are from the truth",
        description="Runs every loss (or those named) over the adversarial grid, or over your own arrays, and proves "
        "by ball arithmetic how far every stage is from the truth.",
        epilog="Exit status: 0 everything within what refloss owes, 1 something is not, 2 the call was wrong, "
        "5 nothing ran.",
    )
    parser.add_argument("losses", nargs="*", metavar="LOSS", help=f"of: {', '.join(refloss.losses())}, margin_softmax")
    parser.add_argument(
        "--precision", choices=("double", "extended", "both"), default="both", help="of refloss (default both)"
    )
    parser.add_argument(
        "--peers", action="store_true", help="torch, JAX and pytorch-metric-learning on the same points (in a checkout)"
    )
    parser.add_argument("--quick", action="store_true", help="only the quick points, about a quarter of the grid")
    parser.add_argument("--point", action="append", metavar="NAME", help="only the point of this name")
    parser.add_argument("--list-points", action="store_true", help="name the points and what they provoke")
    parser.add_argument("--input", metavar="F.npz", help="your own arrays: x, W, labels and optionally b")
    add_set(parser, ", with --input")
    parser.add_argument("--memory-limit", type=float, default=4096, metavar="MIB", help="for --input (default 4096)")
    add_common(parser, "json", "markdown", jobs=0)
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """The command. Returns its exit status."""
    points = _on_input(options) if options.input is not None else _of_the_grid(options)
    if options.list_points:
        return _list(points)
    try:
        from refloss.proof.grid_report import GridReport, run_point
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "flint":
            raise
        raise CallError(FLINT_MISSING) from error
    if not points:
        return nothing_ran()
    page = _page_writer(options) if options.format == "markdown" else None
    precisions = PRECISIONS if options.precision == "both" else (options.precision,)
    peers, versions = _peers() if options.peers else ({}, {})
    jobs = [(point, precisions, peers) for point in points]
    lists = run_jobs(run_point, jobs, options.jobs, "certify")
    report = GridReport([outcome for outcomes in lists for outcome in outcomes], versions)
    if page is None:
        return finish(report, options)
    write(page(report), options.output)
    return OK if report else WRONG


def _peers() -> tuple[dict[str, Any], dict[str, str]]:
    """Those whose package is installed: the functions that run them, and the versions of the packages."""
    with of_a_checkout("--peers"):
        from refloss.score.peers import available, run_peer
    versions = available()
    if not versions:
        raise CallError("--peers needs torch, JAX or pytorch-metric-learning: pip install one of them")
    return {name: partial(run_peer, name) for name in versions}, versions


def _of_the_grid(options: argparse.Namespace) -> list[Any]:
    from refloss.cases.configurations import GROUPS
    from refloss.cases.grid import grid

    if options.set:
        raise CallError("--set needs --input: the points of the grid set their own parameters")
    unknown = [name for name in options.losses if name not in GROUPS]
    if unknown:
        raise CallError(f"LOSS must be one of {', '.join(GROUPS)}, got {', '.join(unknown)}")
    if not options.point:
        return grid(options.losses or None, options.quick)
    # a point's name begins with its loss: no need to make the others
    wanted = list(dict.fromkeys(name.partition(".")[0] for name in options.point))
    names = options.losses or (wanted if set(wanted) <= set(GROUPS) else None)
    return named(grid(names, options.quick), options.point, "point")


def _on_input(options: argparse.Namespace) -> list[Any]:
    """The user's arrays as a point of each loss that takes them."""
    from refloss.cases.grid import own_point

    for name in ("point", "quick", "list_points"):
        if getattr(options, name):
            raise CallError(
                f"--{name.replace('_', '-')} chooses among the grid's points; with --input there is only yours"
            )
    if options.set and not options.losses:
        raise CallError("--set needs the name of a loss of refloss")
    arrays = read_arrays(options.input, options.memory_limit)
    ones = (1.0,) * max(len(np.atleast_1d(arrays["W"])), 1)
    losses = [make_loss(name, options.set, ones) for name in options.losses or refloss.losses()]

    def point(loss: Any) -> Any:
        return own_point(loss, Path(options.input).name, **arrays)

    shown = progress(losses, len(losses), "certify")
    return those_that_fit(shown, point, options.input, bool(options.losses))


def _list(points: Sequence[Any]) -> int:
    lines = [f"{point.name}{'' if point.quick else ' (full grid)'}: {point.reason}" for point in points]
    if lines:
        write("\n".join(lines))
    return OK if points else NOTHING_RAN


def _page_writer(options: argparse.Namespace) -> Callable[[Any], str]:
    """What makes the page of a report; with the section on the bounds where it is about all of refloss."""
    with of_a_checkout("--format markdown"):
        from refloss.score import proofs_page, sharpness
    part = options.losses or options.point or options.input is not None or options.quick
    return lambda report: proofs_page.page(report, _command(options), () if part else sharpness.sharpness())


def _command(options: argparse.Namespace) -> str:
    """The call that makes this page again; -j and the file's place do not change what is in it."""
    words = ["refloss", "certify", *options.losses]
    for name in options.point or ():
        words += ["--point", name]
    if options.input is not None:
        words += ["--input", options.input, *(word for setting in options.set for word in ("--set", setting))]
    if options.precision != "both":
        words += ["--precision", options.precision]
    words += [f"--{name}" for name in ("peers", "quick") if getattr(options, name)]
    words += ["--format", options.format] + (["--output", options.output] if options.output else [])
    return shlex.join(words)
