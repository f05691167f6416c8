"""What the commands share: reading arrays and parameters, processes, progress, files."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import operator
import os
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any

import numpy as np

import refloss
from refloss.cli.status import CallError
from refloss.losses import LOSSES
from refloss.report import BaseReport
from refloss.writing import write_whole

INPUTS = ("x", "W", "labels", "b")
WORDS = {"true": "True", "false": "False"}


# -- reading ---------------------------------------------------------------------------------------


def read_arrays(path: str) -> dict[str, np.ndarray]:
    """x, W, labels and b of an .npz file, read without pickle."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except OSError as error:
        raise CallError(f"--input {path}: {error.strerror or error}") from error
    except (ValueError, TypeError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise CallError(f"--input {path} is not an .npz file of plain arrays") from error
    missing = [name for name in INPUTS[:3] if name not in arrays]
    unknown = [name for name in arrays if name not in INPUTS]
    if missing or unknown:
        raise CallError(
            f"--input {path} must hold x (N, D), W (C, D), labels (N,) and optionally b (C,)"
            + (f"; missing: {', '.join(missing)}" if missing else "")
            + (f"; not known: {', '.join(unknown)}" if unknown else "")
        )
    return arrays


def make_loss(name: str, settings: list[str], weights: Sequence[float], bare: bool = False) -> Any:
    """The loss of that name with its --set parameters; `weights` where it must have class weights.

    bare: cross_entropy, on bare logits, is one of them.
    """
    classes: dict[str, Any] = LOSSES | ({"cross_entropy": refloss.CrossEntropy} if bare else {})
    parameters: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise CallError(f"--set takes NAME=VALUE, got {setting!r}")
        try:
            parameters[key] = ast.literal_eval(WORDS.get(value, value))
        except (ValueError, SyntaxError):
            parameters[key] = value  # a word, such as past_pi=linear
    if name == "weighted_softmax":
        parameters.setdefault("class_weights", weights)
    if name in classes:
        known = [field.name for field in dataclasses.fields(classes[name])]
        unknown = [key for key in parameters if key not in known]
        if unknown:
            raise CallError(f"{name} has no parameter {', '.join(unknown)}; it has {', '.join(known)}")
    try:
        return classes[name](**parameters) if name in classes else refloss.get(name, **parameters)
    except (ValueError, TypeError) as error:
        raise CallError(str(error)) from error


def named(things: list[Any], names: list[str], what: str) -> list[Any]:
    """Those of these names. Some unknown: an error; all unknown: none, and a word about it."""
    known = sorted({thing.name for thing in things})
    unknown = [name for name in names if name not in known]
    if unknown:
        shown = known if len(known) <= 80 else difflib.get_close_matches(unknown[0], known, cutoff=0.3)
        words = "there are" if shown is known else "similar names are"
        message = f"no {what} called {', '.join(unknown)}; {words} {', '.join(shown)}"
        if len(unknown) < len(names):
            raise CallError(message)
        print(f"refloss: {message}", file=sys.stderr)
    return [thing for thing in things if thing.name in names]


@contextmanager
def of_a_checkout(what: str) -> Iterator[None]:
    """For imports from refloss.score, which is no part of the installed package."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != "refloss.score":
            raise
        raise CallError(
            f"{what} is not in the installed package: run `python -m refloss` in a checkout of the repository"
        ) from error


# -- running ---------------------------------------------------------------------------------------


def run_jobs(function: Callable, jobs: Sequence[tuple], processes: int) -> Iterator[Any]:
    """function(*job) of every job, in order, on this many processes."""
    if processes == 1:
        yield from (function(*arguments) for arguments in jobs)
        return
    # never forked: threads (of a progress bar, of JAX) do not survive that
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        yield from pool.map(function, *zip(*jobs, strict=True), chunksize=max(len(jobs) // (4 * processes), 1))


def progress(things: Iterable[Any], total: int, command: str) -> Iterator[Any]:
    """The same things, with a bar on standard error if that is a terminal."""
    if not sys.stderr.isatty():
        yield from things
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(things, description=command, total=total, console=Console(stderr=True), transient=True)


# -- writing ---------------------------------------------------------------------------------------


def add_common(parser: Any, *formats: str, jobs: int | None = None, seed: bool = False) -> None:
    """--format, --output, and where they make sense --seed and -j with its default, 0 for every core."""
    parser.add_argument("--format", choices=("text", *formats), default="text", help="of the result")
    parser.add_argument("--output", metavar="F", help="write the result to this file instead of standard output")
    if seed:
        parser.add_argument("--seed", type=int, default=0, help="seed of the cases (default 0)")
    if jobs is not None:
        words = f"processes (default{f' {jobs}' if jobs else ': all cores'})"
        parser.add_argument("-j", "--jobs", type=int, default=jobs or os.cpu_count() or 1, metavar="N", help=words)


def add_set(parser: Any, when: str = "") -> None:
    """--set."""
    words = f"a parameter of the loss{when}"
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help=words)


def write_report(report: BaseReport, form: str, output: str | None, write: Callable[[Any], str] | None = None) -> None:
    """The report in this form (or as `write` makes it), to a file or standard output; text in colour on a terminal."""
    if form == "text" and output is None and sys.stdout.isatty():
        from rich.console import Console

        report.print(Console())
        return
    plain = str if form == "text" else operator.methodcaller(f"to_{form}")
    write_text((write or plain)(report), output)


def write_text(text: str, output: str | None) -> None:
    """To a file or standard output."""
    if output is None:
        print(text)
    else:
        write_atomically(output, text + "\n")


def write_atomically(path: str, text: str) -> None:
    """The whole file or none of it."""
    try:
        write_whole(path, text)
    except OSError as error:
        raise CallError(f"--output {path}: {error.strerror}") from error
