"""The command line: `refloss list`, `gradcheck`, `check`, `cases`, `precision`, `suspects`, `matrix`,
`certify`, `vectors`, `figures`.

Exit status: 0 all well · 1 something is wrong with what was checked · 2 the call was wrong · 3 the oracle's own
self-check failed · 4 the result could not be written (a full disk, a pipe that nobody reads) · 5 nothing ran.
Results go to standard output, progress bars to standard error and only on a terminal.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import os
import sys
from collections.abc import Sequence
from typing import Any

import refloss
from refloss.cli import cases, certify, check, figures, gradcheck, matrix, precision, vectors
from refloss.cli.shared import checked, in_own_words, tell, write
from refloss.cli.status import INTERRUPTED, OK, UNWRITTEN, USAGE, CallError, UnwrittenError
from refloss.writing import docstring


def run() -> None:
    """Entry point of the console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal without θ shows its code point
    status: Any = UNWRITTEN
    try:
        status = main(sys.argv[1:])
    except SystemExit as end:  # --help, --version, and what argparse refuses
        status = end.code
    for number, stream in enumerate((sys.stdout, sys.stderr), 1):
        try:
            if stream is not None:
                stream.flush()
        except OSError as error:  # what is still held back would be written, and fail, once more at the end of Python
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)
            if number == 1 and status != UNWRITTEN:
                tell(f"standard output: {error.strerror}")
                status = UNWRITTEN
    sys.exit(status)


def main(arguments: Sequence[str]) -> int:
    """Runs one command. Returns its exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        return options.command(checked(options))
    except CallError as error:
        tell(in_own_words(str(error)))
        return USAGE
    except UnwrittenError as error:
        tell(str(error))
        return UNWRITTEN
    except MemoryError as error:
        tell(f"not enough memory: {error}")
        return USAGE
    except KeyboardInterrupt:
        tell("interrupted")
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
    from refloss.losses import ALIASES, LOSSES

    lines = []
    for name, cls in LOSSES.items():
        fields = {f.name: f.default for f in dataclasses.fields(cls)}
        own = [key for key in ("scale", "margin", "alpha", "annealing") if key in fields]
        required = [f"{key}=…" for key, default in fields.items() if default is dataclasses.MISSING]
        defaults = ", ".join(required + [f"{key}={fields[key]:g}" for key in own])
        formula = docstring(cls).split("\n\n")[1]
        aliases = "".join(f", alias {alias}" for alias, of in ALIASES.items() if of is cls)
        lines.append(f"{name}: refloss.{cls.__name__}({defaults}){aliases}\n{formula}\n")
    write("\n".join(lines))
    return OK
