"""`refloss vectors`: what the oracle knows, in files for programs in any language; and whether such files are right."""

from __future__ import annotations

import argparse
import os
from typing import Any

from refloss.cli.shared import add_set, make_loss, nothing_ran, progress
from refloss.cli.status import OK, CallError
from refloss.losses import LOSSES


def add_to(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "vectors",
        help="test vectors for kernels in any language: inputs, what is due, and how far off it may be",
        description="Writes, of each loss and dtype, a file of tensors (inputs in the dtype; every stage that is due, "
        "in float64; for each grade the largest error that it explains) and a JSON file that describes them. The whole "
        "of a verifier is |got - want| <= bound. The same bytes on every run; ids that a folder has already are kept.",
        epilog="Exit status: 0 all written, or all right; 2 the call was wrong, or a file is not what it says; 5 there "
        "was nothing to check.",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--out", metavar="DIR", help="the folder to write to; made if it is not there")
    what.add_argument("--check", metavar="DIR", help="make everything again that the files of this folder claim")
    parser.add_argument("--loss", metavar="NAME", help="only this one; see `refloss list`; or cross_entropy")
    add_set(parser, " (with --loss)")
    parser.add_argument(
        "--dtype", default="float32", metavar="NAME,…", help="of float64, float32 (default), float16, bfloat16"
    )
    parser.add_argument("--format", choices=("safetensors", "npz"), default="safetensors", help="of the tensors")
    parser.add_argument("--seed", type=int, default=0, help="seed of the cases (default 0)")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """The command. Returns its exit status."""
    from refloss.testing.vectors import VectorsError

    try:
        return _check(options.check) if options.check is not None else _write(options)
    except VectorsError as error:
        raise CallError(str(error)) from error


def _write(options: argparse.Namespace) -> int:
    from refloss.cases.configurations import WEIGHTS
    from refloss.testing.vectors import write

    if options.set and options.loss is None:
        raise CallError("--set needs --loss")
    names = list(LOSSES) if options.loss is None else [options.loss]
    losses = [make_loss(name, options.set, WEIGHTS, bare=True) for name in names]
    asked = [(loss, dtype) for loss in losses for dtype in dict.fromkeys(options.dtype.split(","))]
    try:
        for loss, dtype in progress(asked, len(asked), "vectors"):
            made = write(options.out, loss, dtype, form=options.format, seed=options.seed)
            left = ", ".join(f"{count} {word}" for word, count in made.left_out.items() if count)
            print(f"{made.path}: {len(made.vectors)} cases; left out: {left or 'none'}", flush=True)
    except OSError as error:
        raise CallError(f"--out {options.out}: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise CallError(" ".join(str(error).split())) from error
    return OK


def _check(folder: str) -> int:
    from refloss.testing.vectors.files import check, described_in

    paths = described_in(folder)
    try:
        for path in progress(paths, len(paths), "vectors"):
            found = check(path)
            print(f"{os.path.normpath(path)}: right; {found['count']} cases, {len(found['suspects'])} bugs die there")
    except ModuleNotFoundError as error:
        if error.name != "jsonschema":
            raise
        raise CallError("--check needs jsonschema: pip install jsonschema") from error
    return OK if paths else nothing_ran(f"{folder} holds no vectors")
