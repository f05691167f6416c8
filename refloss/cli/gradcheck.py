"""`refloss gradcheck`: every loss, or yours, on aimed cases or on your own arrays."""

from __future__ import annotations

import argparse
import io
import shutil
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import refloss
from refloss.cli.shared import (
    add_common,
    add_set,
    bar,
    finish,
    make_loss,
    named,
    nothing_ran,
    numbers,
    progress,
    read_arrays,
    run_jobs,
    text_of,
    those_that_fit,
    write,
)
from refloss.cli.status import OK, WRONG, CallError


def add_to(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "gradcheck",
        help="check gradients against independent witnesses",
        description="Checks the explicit gradients of every loss (or of those named, or of your own) against "
        "finite differences, autograd and complex step. Errors are relative to each row's natural scale.",
        epilog="Exit status: 0 every gradient right, 1 one is wrong (or undecided, with --strict), 2 the call was "
        "wrong, 5 nothing ran.",
    )
    parser.add_argument("losses", nargs="*", metavar="LOSS", help=f"of: {', '.join(refloss.losses())}")
    parser.add_argument("--loss", metavar="FILE.py:OBJECT", help="your own loss, or a (function, gradient) pair")
    parser.add_argument("--input", metavar="F.npz", help="your own arrays: x, W, labels and optionally b")
    parser.add_argument("--rows", metavar="I,J-K", help="of --input, only these samples' rows of grad_x")
    parser.add_argument("--classes", metavar="I,J-K", help="of --input, only these classes' rows of grad_W and grad_b")
    add_set(parser)
    parser.add_argument(
        "--witness", action="append", metavar="NAME", help="finite_difference, autograd, complex_step; ball"
    )
    parser.add_argument("--case", action="append", metavar="NAME", help="only cases of this name")
    parser.add_argument(
        "--time-limit", type=float, default=60.0, metavar="S", help="seconds a case of yours (default 60)"
    )
    parser.add_argument(
        "--memory-limit", type=float, default=4096, metavar="MIB", help="for your loss, and for --input (default 4096)"
    )
    parser.add_argument("--strict", action="store_true", help="undecided rows are a failure too")
    parser.add_argument("--verbose", action="store_true", help="branches reached, what is undecided, what could pass")
    add_common(parser, "json", "junit", jobs=1, seed="of the cases, and of rows drawn from a large --input")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """The command. Returns its exit status."""
    if options.loss:
        return _isolated(options)
    report = _report(options)
    return nothing_ran() if report is None else finish(report, options)


def _isolated(options: argparse.Namespace) -> int:
    """The command where code of the user's may end the process, or never end: the process of an isolated kernel."""
    from refloss.testing.isolation import FRAMEWORK, Died, Process

    told = {key: value for key, value in vars(options).items() if key != "command"}
    to_terminal = options.format == "text" and options.output is None and sys.stdout is not None and sys.stdout.isatty()
    process = Process("refloss.cli.gradcheck")
    try:
        process.ask({"do": "start", "memory": options.memory_limit}, FRAMEWORK, 0)
        colours = shutil.get_terminal_size().columns if to_terminal else None
        answer = process.ask({"do": "gradcheck", "options": told, "colours": colours}, options.time_limit, 0)
    except Died as death:
        raise CallError(f"--loss {options.loss}: {death}") from None
    finally:
        process.close()
    if "error" in answer:
        raise CallError(str(answer["error"]))
    if answer.get("text") is None:
        return nothing_ran()
    write(str(answer["text"]), options.output)
    return OK if answer.get("passed") is True else WRONG


class Worker:
    """The other side of `_isolated`. It writes no file, and what code of the user's prints is no part of the report."""

    goes_on: Callable[[], None]

    def answer(self, message: dict[str, Any]) -> dict[str, Any]:
        """The answer to "start" or "gradcheck"."""
        from refloss.testing.adapters.words import one_line
        from refloss.testing.isolation.serving import limit_memory

        if message["do"] == "start":
            import refloss.witnesses.gradcheck  # noqa: F401 - what it takes is not the loss's

            limit_memory(message["memory"])
            return {}
        options, columns = argparse.Namespace(**message["options"]), message["colours"]
        try:
            report = _report(options, self.goes_on)
        except CallError as error:
            return {"error": str(error)}
        except BaseException as error:  # KeyboardInterrupt while the file was imported, and what nobody thought of
            traceback.print_exc()
            return {"error": f"--loss {options.loss}: {type(error).__name__}: {one_line(error)}"}
        if report is None:
            return {"text": None}
        if columns is None:
            return {"text": text_of(report, options.format), "passed": report.passed}
        from rich.console import Console

        text = io.StringIO()
        report.print(Console(file=text, width=columns, force_terminal=True))
        return {"text": text.getvalue().rstrip("\n"), "passed": report.passed}


def _report(options: argparse.Namespace, goes_on: Callable[[], None] = lambda: None) -> Any:
    """The report, or None if nothing ran. goes_on: called before each case."""
    from refloss.witnesses.gradcheck import all_branches
    from refloss.witnesses.report import Report

    witnesses = _witnesses(options.witness)
    if options.set and not options.losses:
        raise CallError("--set needs the name of a loss of refloss")
    if options.input is not None and options.case:
        raise CallError("--case chooses among the built-in cases; with --input there is only yours")
    for name in ("rows", "classes"):
        if getattr(options, name) is not None and options.input is None:
            raise CallError(f"--{name} chooses among those of --input; the built-in cases are checked whole")
    own = [_load(options.loss)] if options.loss else []
    results, losses = (_on_cases if options.input is None else _on_input)(own, options, witnesses, goes_on)
    if not results:
        return None
    return Report(results, all_branches(losses), options.strict, options.verbose or options.format != "text")


def _on_cases(
    own: list[Any], options: argparse.Namespace, witnesses: Sequence[str], goes_on: Callable[[], None]
) -> tuple[list, list]:
    from refloss.cases.configurations import WEIGHTS
    from refloss.cases.gradcheck import cases
    from refloss.witnesses.gradcheck import check_case
    from refloss.witnesses.steps import check_steps

    everything = not own and not options.losses
    names = refloss.losses() if everything else options.losses
    losses = own + [make_loss(name, options.set, WEIGHTS) for name in names]
    chosen = [case for loss in losses for case in cases(loss, options.seed)]
    if options.case:
        chosen = named(chosen, options.case, "case")
    jobs = [(case, witnesses) for case in chosen]
    if own:  # what a file of the user's defines cannot go to another process

        def check(*job: Any) -> Any:
            goes_on()
            return check_case(*job)

        results = list(progress((_of_the_user(check, *job) for job in jobs), len(jobs), "gradcheck"))
    else:
        try:
            results = run_jobs(check_case, jobs, options.jobs, "gradcheck")
        except (ValueError, TypeError) as error:
            if not options.set:
                raise
            raise CallError(f"with --set, a case does not fit the loss: {error}; choose others by --case") from error
    if everything and not options.case:
        results += check_steps(witnesses, options.seed)
    return results, [case.loss for case in chosen]


def _on_input(
    own: list[Any], options: argparse.Namespace, witnesses: Sequence[str], goes_on: Callable[[], None]
) -> tuple[list, list]:
    from refloss.witnesses.gradcheck import check_input
    from refloss.witnesses.work import Meter

    path = options.input
    arrays = read_arrays(path, options.memory_limit)
    there = {name: len(np.atleast_1d(arrays[of])) for name, of in (("rows", "x"), ("classes", "W"))}
    rows, classes = (numbers(getattr(options, name), f"--{name}", count) for name, count in there.items())
    ones = (1.0,) * max(there["classes"], 1)
    names = options.losses or ([] if own else refloss.losses())
    losses = [make_loss(name, options.set, ones) for name in names]
    if not options.losses and np.ndim(arrays["labels"]) == 2:  # soft targets have no margin class
        losses = [loss for loss in losses if not loss.has_margin]
    if "b" in arrays and not any(getattr(loss, "has_bias", True) for loss in own + losses):
        raise CallError(f"--input {path} holds b, and none of these losses has a bias: {', '.join(names)}")
    begun: list[Any] = []

    def check(loss: Any) -> Any:
        goes_on()
        begun.append(loss)
        number, total = len(begun) - 1, len(own) + len(losses)

        def before(seconds: float) -> None:
            shape = " × ".join(map(str, (*np.shape(arrays["x"]), len(arrays["W"]))))
            words = f"{getattr(loss, 'name', options.loss)} on {shape} will take about {_time(seconds)}"
            others = f"; {total - number - 1} more losses follow" if number < total - 1 else ""
            shown.say(f"{words}, by the time of pieces of it; --rows and --classes choose less{others}")

        def after(share: float) -> None:
            goes_on()
            shown.reached(number + share)

        b = arrays.get("b") if getattr(loss, "has_bias", True) else None
        result = check_input(
            loss, Path(path).name, arrays["x"], arrays["W"], arrays["labels"], b, witnesses, None, rows, classes,
            options.seed, Meter(before, after),
        )  # fmt: skip
        shown.reached(number + 1)
        return result

    with bar(len(own) + len(losses), "gradcheck") as shown:
        results = [_of_the_user(check, loss) for loss in own]
        return results + those_that_fit(losses, check, path, bool(options.losses)), own + losses


def _time(seconds: float) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _of_the_user(function: Callable, *arguments: Any) -> Any:
    """Runs code of the user's; what it raises is shown where it was raised, and is no verdict on a gradient."""
    try:
        return function(*arguments)
    except BaseException as error:
        traceback.print_exc()
        case = getattr(arguments[0], "name", "your input")
        raise CallError(f"the loss could not be checked on {case}: {type(error).__name__}: {error}") from error


def _load(where: str) -> Any:
    """The object of FILE.py:OBJECT; a class is made without arguments."""
    from refloss.testing.adapters import UnfitImplementation, named_object

    try:
        loss = named_object(where, "FILE.py:OBJECT is due")
    except UnfitImplementation as error:
        raise CallError(f"--loss: {error}") from error
    if isinstance(loss, type):
        try:
            loss = loss()
        except (Exception, SystemExit) as error:
            raise CallError(f"--loss {where} cannot be made without arguments ({error}): name an object") from error
    pair = isinstance(loss, (tuple, list)) and len(loss) == 2 and all(map(callable, loss))
    if not pair and not (hasattr(loss, "forward") and hasattr(loss, "backward")):
        raise CallError(f"--loss {where}: needs forward and backward, or to be a pair (function, gradient)")
    return loss


def _witnesses(names: list[str] | None) -> tuple[str, ...]:
    from refloss.witnesses.compare import usable

    try:
        return usable(names)
    except ValueError as error:
        raise CallError(f"--witness: {error}") from error
