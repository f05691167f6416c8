"""`refloss matrix honest` and `refloss matrix kill`: is the oracle itself any good?"""

from __future__ import annotations

import argparse
from typing import Any

from refloss.cli.shared import add_common, finish, nothing_ran, of_a_checkout, run_jobs
from refloss.cli.status import ORACLE, CallError


def add_to(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "matrix",
        help="the oracle's own score, in a checkout of the repository",
        description="honest: honest implementations × dtypes × losses × seeds, where every alarm is false. kill: every "
        "suspect × dtypes × losses, where every survivor is a hole; --rivals asks the checks that people use today.",
        epilog="Exit status: 0 all well, 2 the call was wrong, 3 a false alarm or a survivor, 5 nothing ran.",
    )
    parser.add_argument("which", choices=("honest", "kill"))
    parser.add_argument("--loss", action="append", metavar="NAME", help="only losses whose name starts so")
    parser.add_argument("--dtype", action="append", metavar="NAME", help="only this dtype (all four by default)")
    parser.add_argument(
        "--seeds",
        type=int,
        default=1,
        metavar="N",
        help="honest: seeds of the cases (default 1); the first takes all cases, the others the quick ones",
    )
    parser.add_argument("--quick", action="store_true", help="the most telling dozen of cases of each loss")
    parser.add_argument("--rivals", action="store_true", help="kill: ask allclose, gradcheck and others too (slow)")
    add_common(parser, "json", "markdown", jobs=1)
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """The command. Returns its exit status."""
    from refloss.cases.configurations import objects
    from refloss.precision.dtypes import DTYPES

    with of_a_checkout("refloss matrix"):
        from refloss.score.honest_matrix import HonestReport, honest_job, honest_jobs
        from refloss.score.kill_matrix import KillReport, configurations, kill_job, kill_jobs
    if options.seeds < 1:
        raise CallError(f"--seeds must be at least 1, got {options.seeds}")
    dtypes = options.dtype or list(DTYPES)
    for dtype in dtypes:
        if dtype not in DTYPES:
            raise CallError(f"--dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    honest = options.which == "honest"
    every = list(objects() if honest else configurations())
    names = [name for name in every if not options.loss or name.startswith(tuple(options.loss))]
    if not names:
        raise CallError(f"no loss starts with {', '.join(options.loss)}; there are {'; '.join(every)}")
    function: Any = honest_job if honest else kill_job
    jobs: Any = (
        honest_jobs(dtypes, names, options.seeds, options.quick)
        if honest
        else kill_jobs(dtypes, names, options.quick, options.rivals)
    )
    rows = [row for part in run_jobs(function, jobs, options.jobs, f"matrix {options.which}") for row in part]
    if not rows:
        return nothing_ran()
    report = HonestReport(rows, options.seeds) if honest else KillReport(rows)
    return finish(report, options, wrong=ORACLE)
