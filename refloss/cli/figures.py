"""`refloss figures`: the pictures of docs/figures.md, drawn."""

from __future__ import annotations

import argparse
import os
from typing import Any

from refloss.cli.shared import progress, write, written
from refloss.cli.status import OK, CallError
from refloss.writing import write_whole


def add_to(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "figures",
        help="the survey's pictures, drawn and trained by refloss itself",
        description="Draws the pictures of the documentation, the same bytes on every run. Those that train a network "
        "on scikit-learn's digits take most of the time, about half a minute in all.",
        epilog="Exit status: 0 all written, 2 the call was wrong.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these figures (all by default)")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--out", metavar="DIR", help="the folder to write to; made if it is not there")
    what.add_argument("--list", action="store_true", help="print the names and what each figure shows")
    parser.add_argument("--format", default="svg,png", metavar="F,…", help="svg, png or both (the default)")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """The command. Returns its exit status."""
    from refloss import figures

    unknown = [name for name in options.names if name not in figures.FIGURES]
    if unknown:
        raise CallError(f"no figure called {', '.join(unknown)}; there are {', '.join(figures.FIGURES)}")
    forms = options.format.split(",")
    if not set(forms) <= set(figures.FORMATS):
        raise CallError(f"--format must be one or more of {','.join(figures.FORMATS)}, got {options.format!r}")
    names = [name for name in figures.FIGURES if name in (options.names or figures.FIGURES)]
    if options.list:
        write("\n".join(f"{name}: {figures.about(name)}" for name in names))
        return OK
    try:
        with written(f"--out {options.out}"):
            os.makedirs(options.out, exist_ok=True)
        for name in names:
            figure = figures.draw(name, progress)
            for form in forms:
                path = os.path.join(options.out, f"{name}.{form}")
                with written(f"--out {path}"):
                    write_whole(path, figures.render(figure, form))
                write(path)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "sklearn":
            raise
        raise CallError(
            f"{name} is drawn from scikit-learn's digits: pip install scikit-learn; "
            f"these need none: {' '.join(figures.COMPUTED)}"
        ) from error
    return OK
