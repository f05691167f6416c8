"""The command line: `refloss list` and `refloss gradcheck`.

Exit status: 0 all well · 1 something is wrong with what was checked · 2 the call was wrong · 5 nothing ran.
Results go to standard output, progress bars to standard error and only on a terminal.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import sys
from collections.abc import Sequence

import refloss

OK, WRONG, USAGE, NOTHING_RAN = 0, 1, 2, 5


class CallError(Exception):
    """The call was wrong; the message says how."""


def run() -> None:
    """Entry point of the console script."""
    sys.exit(main(sys.argv[1:]))


def main(arguments: Sequence[str]) -> int:
    """Runs one command. Returns its exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        return options.command(options)
    except CallError as error:
        print(f"refloss: {error}", file=sys.stderr)
        return USAGE
    except BrokenPipeError:  # `refloss … | head`: nobody reads on
        sys.stderr.close()
        return OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="refloss",
        description="A NumPy reference for the softmax-loss family, checked by independent witnesses.",
    )
    parser.add_argument("--version", action="version", version=f"refloss {refloss.__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    listing = commands.add_parser("list", help="the losses, their logits and parameters")
    listing.set_defaults(command=_list)

    from refloss.cli import gradcheck

    gradcheck.add_to(commands)
    return parser


def _list(options: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    from refloss.losses import LOSSES

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("name", "class", "defaults", "formula"):
        table.add_column(column, no_wrap=column == "name")
    for name in refloss.losses():
        cls = LOSSES[name]
        formula = " ".join((inspect.getdoc(cls) or "").split("\n\n")[1].split())
        own = [f for f in dataclasses.fields(cls) if f.name in ("scale", "margin", "alpha", "annealing")]
        table.add_row(name, cls.__name__, ", ".join(f"{f.name}={f.default:g}" for f in own), formula)
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    return OK
