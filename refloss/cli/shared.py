"""What the commands share: arguments, reading arrays and parameters, processes, progress, files, how they end."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import difflib
import errno
import math
import os
import re
import sys
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from typing import Any

import numpy as np

import refloss
from refloss.cli.status import NOTHING_RAN, OK, WRONG, CallError, UnwrittenError
from refloss.losses import ALIASES, LOSSES, construct
from refloss.report import BaseReport
from refloss.writing import write_whole

INPUTS = ("x", "W", "labels", "b")
WIDTH = 80  # of text that goes to a file or a pipe
EVERY = 10.0  # seconds between two lines about progress where there is no terminal
WORDS = {"true": "True", "false": "False"}
NO_SUCH_PLACE = {  # what a wrong --output raises; a full disk, say, is not the call's fault
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EACCES, errno.EPERM, errno.EROFS,
    errno.ENAMETOOLONG, errno.ELOOP,
}  # fmt: skip
BARE = {"cross_entropy": refloss.CrossEntropy}  # on logits
PARAMETERS = {field.name for loss in (*LOSSES.values(), *BARE.values()) for field in dataclasses.fields(loss)}
# what an argument of Python's is on the command line: --NAME, and these
OPTIONS = {
    "cases": "--case", "arguments": "--argument", "witnesses": "--witness", "deterministic": "--nondeterministic",
    "without": "--without",
} | {
    name: f"--{name.replace('_', '-')}" for name in (
        "framework", "dtype", "device", "require", "compute", "slack", "returns", "mutates", "second", "forward_mode",
        "soft_targets", "time_limit", "memory_limit", "seed", "strict", "rows", "classes",
    )
}  # fmt: skip
OPENING = re.compile(r"^\w+(?= must )")  # of an error that names an argument
KEYWORD = re.compile(  # NAME=VALUE outside of a call such as ArcFace(margin=0.3)
    r"(?P<call>[\w.]+\([^()]*\))|(?<!--set )(?<![\w-])(?P<name>[a-z_A-Z]+)=(?P<value>'[^']*'|\"[^\"]*\"|\w[\w.+-]*\b|)"
)


# -- arguments -------------------------------------------------------------------------------------


def add_common(parser: Any, *formats: str, jobs: int | None = None, seed: bool | str = False) -> None:
    """--format, --output, and where they make sense --seed (of what) and -j with its default, 0 for every core."""
    parser.add_argument("--format", choices=("text", *formats), default="text", help="of the result")
    parser.add_argument("--output", metavar="F", help="write the result to this file; - is standard output")
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
    for name in ("time_limit", "memory_limit"):
        if not 0 < (limit := getattr(options, name, 1.0)) < float("inf"):
            raise CallError(f"--{name.replace('_', '-')} must be a positive number, got {limit:g}")
    if hasattr(options, "losses"):
        options.losses = list(dict.fromkeys(map(own_name, options.losses)))
    if isinstance(given := getattr(options, "loss", None), str):
        options.loss = own_name(given)
    elif given:
        options.loss = [own_name(name) for name in given]
    if getattr(options, "output", None) == "-":
        options.output = None
    return options


def own_name(loss: str) -> str:
    """refloss's own name of a loss: am_softmax for cosface."""
    return ALIASES[loss].name if loss in ALIASES else loss


# -- reading ---------------------------------------------------------------------------------------


def read_arrays(path: str, limit: float) -> dict[str, np.ndarray]:
    """x, W, labels and b of an .npz file, read without pickle, once their sizes are known to be right and allowed.

    limit: MiB for the arrays, for their copies as doubles and for the gradients.
    """
    try:
        with zipfile.ZipFile(path) as file:
            members = {info.filename.removesuffix(".npy"): info for info in file.infolist()}
            _refuse_names(path, members)
            sizes = [_claimed(file, info, path) for info in members.values()]
            need = sum(number * (width + 16) for number, width in sizes) / 2**20
            if need > limit:
                raise CallError(
                    f"--input {path} claims {sum(number for number, _ in sizes):,} numbers, for which {need:,.0f} MiB "
                    f"are needed, and --memory-limit is {limit:g}"
                )
            arrays = {}
            for name, info in members.items():
                with file.open(info) as part:
                    arrays[name] = np.lib.format.read_array(part, allow_pickle=False)
    except OSError as error:
        raise CallError(f"--input {path}: {error.strerror or error}") from error
    except (
        ValueError,
        TypeError,
        EOFError,
        zipfile.BadZipFile,
        zlib.error,
        NotImplementedError,
        RuntimeError,
    ) as error:
        raise CallError(f"--input {path} is not an .npz file of plain arrays") from error
    return arrays


def _refuse_names(path: str, given: Iterable[str]) -> None:
    missing = [name for name in INPUTS[:3] if name not in given]
    unknown = [name for name in given if name not in INPUTS]
    if missing or unknown:
        raise CallError(
            f"--input {path} must hold x (N, D), W (C, D), labels (N,) and optionally b (C,)"
            + (f"; missing: {', '.join(missing)}" if missing else "")
            + (f"; not known: {', '.join(unknown)}" if unknown else "")
        )


def _claimed(file: zipfile.ZipFile, info: zipfile.ZipInfo, path: str) -> tuple[int, int]:
    """How many numbers the header of an array claims, and the bytes of one; so many bytes must follow it."""
    with file.open(info) as part:
        version = np.lib.format.read_magic(part)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(part)
        if dtype.hasobject:
            raise ValueError("pickles")
        follow = info.file_size - part.tell()
    if math.prod(shape) * dtype.itemsize != follow:
        raise CallError(
            f"--input {path}: {info.filename} claims shape {shape} of {dtype}, which is not the {follow:,} bytes in it"
        )
    return math.prod(max(n, 1) for n in shape), dtype.itemsize  # an array without columns has rows all the same


def make_loss(name: str, settings: list[str], weights: Sequence[float], bare: bool = False) -> Any:
    """The loss of that name with its --set parameters; `weights` where it must have class weights.

    bare: cross_entropy, on bare logits, is one of them.
    """
    parameters: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise CallError(f"--set takes NAME=VALUE, got {setting!r}")
        if several := re.findall(r",\s*([A-Za-z_]+)=", value):
            raise CallError(f"--set takes one parameter; give {', '.join(several)} in a --set each")
        try:
            parameters[key] = ast.literal_eval(WORDS.get(value, value))
        except (ValueError, SyntaxError):
            parameters[key] = value  # a word, such as past_pi=linear
    if name == "weighted_softmax":
        parameters.setdefault("class_weights", weights)
    try:
        return construct(BARE[name], name, parameters) if bare and name in BARE else refloss.get(name, **parameters)
    except (ValueError, TypeError) as error:
        raise CallError(str(error)) from error


def numbers(text: str | None, option: str, count: int) -> list[int] | None:
    """0,5-9 as [0, 5, 6, 7, 8, 9], all below count; None stays None."""
    if text is None:
        return None
    found: list[int] = []
    for part in text.replace(" ", "").split(","):
        first, dash, last = part.partition("-")
        last = last if dash else first
        if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last)):
            raise CallError(f"{option} takes whole numbers and ranges such as 0,5-9, got {part!r}")
        if int(last) >= count:
            raise CallError(f"{option} must lie in 0 … {count - 1}, got {last}")
        found += range(int(first), int(last) + 1)
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
        tell(message)
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
        tell(line)
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
        tell(words, self.command)


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
    vars(report)["_hint"] = in_own_words
    if (kept := getattr(options, "kept", None)) is not None:  # by a command that writes several together
        kept.append(report)
    elif options.format == "text" and options.output is None and sys.stdout is not None and sys.stdout.isatty():
        from rich.console import Console

        with written("standard output"):
            report.print(Console())
    else:
        write(text_of(report, options.format), options.output)
    return OK if report else wrong


def text_of(report: BaseReport, form: str) -> str:
    """The report in that format."""
    if form == "text":
        vars(report)["width"] = WIDTH
    forms = {"json": report.to_json, "junit": report.to_junit, "markdown": report.to_markdown}
    return forms.get(form, report.__str__)()


def text_of_several(reports: Sequence[BaseReport], form: str) -> str:
    """The reports one after the other: a list in JSON, suites of one file in JUnit's."""
    texts = [text_of(report, form) for report in reports]
    if form == "json":
        return f"[{', '.join(texts)}]"
    return f"<testsuites>{''.join(texts)}</testsuites>" if form == "junit" else "\n\n".join(texts)


def nothing_ran(why: str = "") -> int:
    """Says so. Returns the exit status."""
    tell(f"nothing ran{': ' if why else ''}{why}")
    return NOTHING_RAN


def write(text: str, path: str | None = None, option: str = "--output") -> None:
    """To standard output, or the whole file or none of it; an error names the option that gave the path."""
    with written(f"{option} {path}" if path else "standard output"):
        if path is not None:
            write_whole(path, text + "\n")
        elif sys.stdout is None:
            raise OSError(errno.EBADF, "is closed")
        else:
            sys.stdout.write(text + "\n")
            sys.stdout.flush()


@contextmanager
def written(where: str) -> Iterator[None]:
    """What goes wrong in it is a wrong call if there is no such place, else a failure to write."""
    try:
        yield
    except OSError as error:
        kind = CallError if error.errno in NO_SUCH_PLACE else UnwrittenError
        raise kind(f"{where}: {error.strerror or error}") from error


def tell(words: str, command: str = "") -> None:
    """A line on standard error; one that cannot be written is lost, and changes no verdict."""
    with suppress(OSError):
        print(f"refloss{command and ' '}{command}: {words}", file=sys.stderr, flush=True)


def in_own_words(hint: str) -> str:
    """A hint that was written for Python, as the command line takes it: `empty_mean='zero'` is `--set empty_mean=zero`.

    What stands in a call, as in ArcFace(margin=0.3), stays.
    """

    def own(found: re.Match) -> str:
        call, name, value = found.group("call", "name", "value")
        value = value and value.strip("'\"")
        if call is not None or not (name in PARAMETERS or name in OPTIONS):
            return found.group()
        if name in PARAMETERS:
            return f"--set {name}={value}"
        if (name, value) == ("cases", "all"):
            return "no --case and no --quick"
        return OPTIONS[name] if value in ("True", "False") else f"{OPTIONS[name]} {value}".rstrip()

    return OPENING.sub(lambda found: OPTIONS.get(found.group(), found.group()), KEYWORD.sub(own, hint))
