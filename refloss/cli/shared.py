"""What the commands share: arguments, reading arrays and parameters, processes, progress, files, how they end."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import difflib
import os
import sys
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any

import numpy as np

import refloss
from refloss.cli.status import NOTHING_RAN, OK, WRONG, CallError
from refloss.losses import LOSSES
from refloss.report import BaseReport
from refloss.writing import write_whole

INPUTS = ("x", "W", "labels", "b")
EVERY = 10.0  # seconds between two lines about progress where there is no terminal
WORDS = {"true": "True", "false": "False"}


# -- arguments -------------------------------------------------------------------------------------


def add_common(parser: Any, *formats: str, jobs: int | None = None, seed: bool | str = False) -> None:
    """--format, --output, and where they make sense --seed (of what) and -j with its default, 0 for every core."""
    parser.add_argument("--format", choices=("text", *formats), default="text", help="of the result")
    parser.add_argument("--output", metavar="F", help="write the result to this file instead of standard output")
    if seed:
        of = seed if isinstance(seed, str) else "of the cases"
        parser.add_argument("--seed", type=int, default=0, help=f"seed {of} (default 0)")
    if jobs is not None:
        words = f"processes (default{f' {jobs}' if jobs else ': all cores'})"
        parser.add_argument("-j", "--jobs", type=int, default=jobs or os.cpu_count() or 1, metavar="N", help=words)


def add_set(parser: Any, when: str = "") -> None:
    """--set."""
    words = f"a parameter of the loss{when}"
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help=words)


def checked(options: argparse.Namespace) -> argparse.Namespace:
    """The options, of which those that several commands have are legal; a loss named twice is asked once."""
    if getattr(options, "jobs", 1) < 1:
        raise CallError(f"-j must be at least 1, got {options.jobs}")
    if getattr(options, "seed", 0) < 0:
        raise CallError(f"--seed must not be negative, got {options.seed}")
    if hasattr(options, "losses"):
        options.losses = list(dict.fromkeys(options.losses))
    return options


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


def numbers(text: str | None, option: str) -> list[int] | None:
    """0,5-9 as [0, 5, 6, 7, 8, 9]; None stays None."""
    if text is None:
        return None
    found: list[int] = []
    for part in filter(None, text.replace(" ", "").split(",")):
        first, _, last = part.partition("-")
        among = range(int(first), int(last or first) + 1) if (first + last).isdecimal() and first else range(0)
        if not among or part.endswith("-"):
            raise CallError(f"{option} takes whole numbers and ranges such as 0,5-9, got {part!r}")
        found += among
    return found


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


def those_that_fit(losses: Iterable[Any], do: Callable[[Any], Any], path: str, asked: bool) -> list[Any]:
    """do(loss) of every loss that takes the arrays of the file; the others are left out with a word.

    asked: the losses were named, and one that does not fit is an error
    """
    done, left_out = [], []
    for loss in losses:
        try:
            done.append(do(loss))
        except (ValueError, TypeError) as error:
            if asked:
                raise CallError(f"{path}: {error}") from error
            left_out.append(f"{path}: {loss.name} left out: {error}")
    if left_out and not done:
        raise CallError(left_out[0])
    for line in left_out:
        print(f"refloss: {line}", file=sys.stderr)
    return done


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


def run_jobs(function: Callable, jobs: Sequence[tuple], processes: int, command: str) -> list[Any]:
    """function(*job) of every job, in order, on this many processes, with a progress bar."""
    if processes == 1:
        return list(progress((function(*arguments) for arguments in jobs), len(jobs), command))
    # never forked: threads (of a progress bar, of JAX) do not survive that
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        chunk = max(len(jobs) // (4 * processes), 1)
        return list(progress(pool.map(function, *zip(*jobs, strict=True), chunksize=chunk), len(jobs), command))


def progress(things: Iterable[Any], total: int, command: str) -> Iterator[Any]:
    """The same things, with a bar on standard error if that is a terminal, else a line there every ten seconds."""
    with bar(total, command) as shown:
        for done, thing in enumerate(things, 1):
            shown.reached(done)
            yield thing


@contextmanager
def bar(total: int, command: str) -> Iterator[Bar]:
    """A bar on standard error if that is a terminal, else a line there every ten seconds; of a short run nothing."""
    if not sys.stderr.isatty():
        yield Bar(total, command)
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as drawn:
        yield DrawnBar(total, command, drawn)


class Bar:
    """How far `total` things are, in lines for those who read a log."""

    def __init__(self, total: int, command: str) -> None:
        self.total, self.command = total, command
        self.began = self.told = time.monotonic()

    def reached(self, done: float) -> None:
        """So many of them are done; the last may be so in part."""
        now = time.monotonic()
        if now - self.told >= EVERY and done < self.total:
            whole = f"{done} of {self.total}" if isinstance(done, int) else f"{done / self.total:.0%}"
            self.say(f"{whole}, {now - self.began:.0f} s")
            self.told = now

    def say(self, words: str) -> None:
        """A line of its own."""
        print(f"refloss {self.command}: {words}", file=sys.stderr, flush=True)


class DrawnBar(Bar):
    """The same, drawn by rich."""

    def __init__(self, total: int, command: str, drawn: Any) -> None:
        super().__init__(total, command)
        self.drawn, self.task = drawn, drawn.add_task(command, total=total)

    def reached(self, done: float) -> None:
        """So many of them are done."""
        self.drawn.update(self.task, completed=done)

    def say(self, words: str) -> None:
        """A line above the bar."""
        self.drawn.console.print(f"refloss {self.command}: {words}", markup=False, highlight=False)


# -- the end ---------------------------------------------------------------------------------------


def finish(report: BaseReport, options: argparse.Namespace, wrong: int = WRONG) -> int:
    """Writes the report as --format and --output say, in colour on a terminal. Returns the exit status."""
    if options.format == "text" and options.output is None and sys.stdout.isatty():
        from rich.console import Console

        report.print(Console())
    else:
        write(text_of(report, options.format), options.output)
    return OK if report else wrong


def text_of(report: BaseReport, form: str) -> str:
    """The report in that format."""
    forms = {"json": report.to_json, "junit": report.to_junit, "markdown": report.to_markdown}
    return forms.get(form, report.__str__)()


def nothing_ran() -> int:
    """Says so. Returns the exit status."""
    print("refloss: nothing ran", file=sys.stderr)
    return NOTHING_RAN


def write(text: str, path: str | None, option: str = "--output") -> None:
    """To standard output, or the whole file or none of it; an error names the option that gave the path."""
    if path is None:
        print(text)
        return
    try:
        write_whole(path, text + "\n")
    except OSError as error:
        raise CallError(f"{option} {path}: {error.strerror}") from error
