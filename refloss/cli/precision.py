"""`refloss precision`: which step of a loss needs float32, and which may be kept in 16 bits."""

from __future__ import annotations

import argparse
from typing import Any

from refloss.cli.shared import add_common, add_set, finish, make_loss, progress
from refloss.cli.status import ORACLE, CallError


def add_to(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "precision",
        help="which step of a loss needs float32, and which may be kept in 16 bits",
        description="Rounds one step of a plain kernel at a time to a coarser dtype, then every step but one, and "
        "grades losses and gradients as `refloss check` does.",
        epilog="Exit status: 0 all well, 2 the call was wrong, 3 the kernel misses grade C without any rounding.",
    )
    parser.add_argument("loss", metavar="LOSS", help="see `refloss list`; or cross_entropy")
    add_set(parser)
    parser.add_argument("--dtype", default="bfloat16", metavar="NAME", help="what a step is kept in (default bfloat16)")
    parser.add_argument("--compute", metavar="DTYPE", help="what it is computed in: float32 or float64")
    parser.add_argument("--case", action="append", metavar="NAME", help="only cases of this name")
    parser.add_argument("--all", action="store_true", help="every case, not only the most telling dozen")
    add_common(parser, "json", "markdown", seed=True)
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """The command. Returns its exit status."""
    from refloss.cases.configurations import WEIGHTS
    from refloss.testing.rounding import Study

    if options.all and options.case:
        raise CallError("--all and --case exclude each other")
    loss = make_loss(options.loss, options.set, WEIGHTS, bare=True)
    chosen = options.case or ("all" if options.all else "quick")
    try:
        study = Study(loss, dtype=options.dtype, compute=options.compute, cases=chosen, seed=options.seed)
    except (ValueError, TypeError) as error:
        raise CallError(" ".join(str(error).split())) from error
    for _ in progress(study.run(), len(study.steps), "precision"):
        pass
    return finish(study.report, options, wrong=ORACLE)
