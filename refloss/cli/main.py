"""The command line: `refloss list`, `gradcheck`, `check`, `cases`, `precision`, `suspects`, `matrix`,
`certify`, `vectors`, `figures`.

Exit status: 0 all well · 1 something is wrong with what was checked · 2 the call was wrong · 3 the oracle's own
self-check failed · 5 nothing ran.
Results go to standard output, progress bars to standard error and only on a terminal.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import io
import os
import sys
from collections.abc import Sequence

import refloss
from refloss.cli import cases, certify, check, figures, gradcheck, matrix, precision, vectors
from refloss.cli.shared import checked
from refloss.cli.status import INTERRUPTED, OK, UNREAD, USAGE, CallError

VERDICTS = ("gradcheck", "check", "certify", "matrix")  # a closed pipe must not make them look well


def run() -> None:
    """Entry point of the console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal without θ shows its code point
    status = UNREAD if sys.argv[1:2] and sys.argv[1] in VERDICTS else OK
    try:
        status = main(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # `refloss … | head`: nobody reads on; the verdict stays, if there was one
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)


def main(arguments: Sequence[str]) -> int:
    """Runs one command. Returns its exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        return options.command(checked(options))
    except CallError as error:
        print(f"refloss: {error}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        print("refloss: interrupted", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="refloss", description="A NumPy reference for the softmax-loss family, checked by independent witnesses."
    )
    parser.add_argument("--version", action="version", version=f"refloss {refloss.__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    listing = commands.add_parser("list", help="the losses, their logits and parameters")
    listing.set_defaults(command=_list)

    gradcheck.add_to(commands)
    check.add_to(commands)
    cases.add_to(commands)
    precision.add_to(commands)
    matrix.add_to(commands)
    certify.add_to(commands)
    vectors.add_to(commands)
    figures.add_to(commands)
    return parser


def _list(options: argparse.Namespace) -> int:
    from refloss.losses import LOSSES

    for name, cls in LOSSES.items():
        fields = {f.name: f.default for f in dataclasses.fields(cls)}
        own = [key for key in ("scale", "margin", "alpha", "annealing") if key in fields]
        required = [f"{key}=…" for key, default in fields.items() if default is dataclasses.MISSING]
        defaults = ", ".join(required + [f"{key}={fields[key]:g}" for key in own])
        formula = (inspect.getdoc(cls) or "").split("\n\n")[1]
        print(f"{name}: refloss.{cls.__name__}({defaults})\n{formula}\n")
    return OK
