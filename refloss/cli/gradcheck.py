"""`refloss gradcheck`: every loss, or yours, on aimed cases or on your own arrays."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import importlib.util
import json
import os
import sys
import tempfile
import traceback
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

import refloss
from refloss.cli.status import NOTHING_RAN, OK, WRONG, CallError
from refloss.losses import LOSSES

INPUTS = ("x", "W", "labels", "b")
WORDS = {"true": "True", "false": "False"}


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
    parser.add_argument(
        "--loss", metavar="FILE.py:OBJECT", help="your own loss, or a (function, gradient) pair"
    )
    parser.add_argument("--input", metavar="F.npz", help="your own arrays: x, W, labels and optionally b")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a parameter of the loss"
    )
    parser.add_argument(
        "--witness", action="append", metavar="NAME", help="finite_difference, autograd, complex_step"
    )
    parser.add_argument("--case", action="append", metavar="NAME", help="only cases of this name")
    parser.add_argument("--strict", action="store_true", help="undecided rows are a failure too")
    parser.add_argument("--format", choices=("text", "json", "junit"), default="text", help="of the result")
    parser.add_argument(
        "--output", metavar="F", help="write the result to this file instead of standard output"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the cases (default 0)")
    parser.add_argument("-j", "--jobs", type=int, default=1, metavar="N", help="processes (default 1)")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """The command. Returns its exit status."""
    from refloss.witnesses.gradcheck import all_branches
    from refloss.witnesses.report import Report

    witnesses = _witnesses(options.witness)
    if options.jobs < 1:
        raise CallError(f"-j must be at least 1, got {options.jobs}")
    if options.seed < 0:
        raise CallError(f"--seed must not be negative, got {options.seed}")
    options.losses = list(dict.fromkeys(options.losses))
    if options.set and not options.losses:
        raise CallError("--set needs the name of a loss of refloss")
    if options.input and options.case:
        raise CallError("--case chooses among the built-in cases; with --input there is only yours")
    own = [_load(options.loss)] if options.loss else []
    results, losses = (_on_input if options.input else _on_cases)(own, options, witnesses)
    if not results:
        print("refloss: nothing ran", file=sys.stderr)
        return NOTHING_RAN
    report = Report(results, all_branches(losses), options.strict)
    _write(report, options.format, options.output)
    return OK if report else WRONG


def _on_cases(own: list[Any], options: argparse.Namespace, witnesses: Sequence[str]) -> tuple[list, list]:
    from refloss.witnesses.cases import WEIGHTS, cases
    from refloss.witnesses.gradcheck import check_case
    from refloss.witnesses.steps import check_steps

    everything = not own and not options.losses
    names = refloss.losses() if everything else options.losses
    losses = own + [_make(name, options.set, WEIGHTS) for name in names]
    chosen = [case for loss in losses for case in cases(loss, options.seed)]
    if options.case:
        chosen = _named(chosen, options.case)
    jobs = [(case, witnesses) for case in chosen]
    if own:  # what a file of the user's defines cannot go to another process
        results = list(_progress((_of_the_user(check_case, *job) for job in jobs), len(jobs)))
    else:
        try:
            results = list(_progress(_run(check_case, jobs, options.jobs), len(jobs)))
        except (ValueError, TypeError) as error:
            if not options.set:
                raise
            raise CallError(
                f"with --set, a case does not fit the loss: {error}; choose others by --case"
            ) from error
    if everything and not options.case:
        results += check_steps(witnesses, options.seed)
    return results, [case.loss for case in chosen]


def _named(cases: list[Any], names: list[str]) -> list[Any]:
    known = sorted({case.name for case in cases})
    unknown = [name for name in names if name not in known]
    if unknown:
        message = f"no case called {', '.join(unknown)}; there are {', '.join(known)}"
        if len(unknown) < len(names):
            raise CallError(message)
        print(f"refloss: {message}", file=sys.stderr)
    return [case for case in cases if case.name in names]


def _on_input(own: list[Any], options: argparse.Namespace, witnesses: Sequence[str]) -> tuple[list, list]:
    from refloss.witnesses.gradcheck import gradcheck

    path = options.input
    arrays = read_arrays(path)
    ones = (1.0,) * max(len(np.atleast_1d(arrays["W"])), 1)
    names = options.losses or ([] if own else refloss.losses())
    losses = own + [_make(name, options.set, ones) for name in names]
    if not options.losses and np.ndim(arrays["labels"]) == 2:  # soft targets have no margin class
        losses = [loss for loss in losses if not getattr(loss, "has_margin", False)]

    def check(loss: Any) -> Any:
        b = arrays.get("b") if getattr(loss, "has_bias", True) else None
        return gradcheck(loss, arrays["x"], arrays["W"], arrays["labels"], b, witnesses).results[0]

    results: list[Any] = []
    skipped: list[str] = []
    for loss in _progress(iter(losses), len(losses)):
        if loss in own:
            result = _of_the_user(check, loss)
        else:
            try:
                result = check(loss)
            except (ValueError, TypeError) as error:
                if options.losses:
                    raise CallError(f"{path}: {error}") from error
                skipped.append(f"refloss: {path}: {loss.name} left out: {error}")
                continue
        result.case = Path(path).name
        results.append(result)
    if not results and skipped:
        raise CallError(skipped[0].removeprefix("refloss: "))
    if skipped:
        print(*skipped, sep="\n", file=sys.stderr)
    return results, losses


def _of_the_user(function: Callable, *arguments: Any) -> Any:
    """Runs code of the user's; what it raises is shown where it was raised, and is no verdict on a gradient."""
    try:
        return function(*arguments)
    except Exception as error:
        traceback.print_exc()
        case = getattr(arguments[0], "name", "your input")
        raise CallError(
            f"the loss could not be checked on {case}: {type(error).__name__}: {error}"
        ) from error


def read_arrays(path: str) -> dict[str, np.ndarray]:
    """x, W, labels and b of an .npz file, read without pickle."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except OSError as error:
        raise CallError(f"--input {path}: {error.strerror or error}") from error
    except (ValueError, EOFError, zipfile.BadZipFile, AttributeError) as error:
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


def _make(name: str, settings: list[str], weights: Sequence[float]) -> Any:
    """The loss of that name with its --set parameters; `weights` where it must have class weights."""
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
    if name in LOSSES:
        known = [field.name for field in dataclasses.fields(LOSSES[name])]
        unknown = [key for key in parameters if key not in known]
        if unknown:
            raise CallError(f"{name} has no parameter {', '.join(unknown)}; it has {', '.join(known)}")
    try:
        return refloss.get(name, **parameters)
    except (ValueError, TypeError) as error:
        raise CallError(str(error)) from error


def _load(where: str) -> Any:
    """The object of FILE.py:OBJECT; a class is made without arguments."""
    path, colon, name = where.rpartition(":")
    if not colon or not Path(path).is_file():
        raise CallError(f"--loss takes FILE.py:OBJECT with an existing file, got {where!r}")
    spec: Any = importlib.util.spec_from_file_location(Path(path).stem, path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise CallError(f"--loss {path}: {type(error).__name__}: {error}") from error
    if not hasattr(module, name):
        raise CallError(f"--loss {path} has no object called {name!r}")
    loss = getattr(module, name)
    if isinstance(loss, type):
        try:
            loss = loss()
        except Exception as error:
            raise CallError(
                f"--loss {where} cannot be made without arguments ({error}): name an object"
            ) from error
    pair = isinstance(loss, (tuple, list)) and len(loss) == 2 and all(map(callable, loss))
    if not pair and not (hasattr(loss, "forward") and hasattr(loss, "backward")):
        raise CallError(f"--loss {where}: needs forward and backward, or to be a pair (function, gradient)")
    return loss


def _witnesses(names: list[str] | None) -> tuple[str, ...]:
    from refloss.witnesses.compare import WITNESSES

    unknown = [name for name in names or () if name not in WITNESSES]
    if unknown:
        raise CallError(f"--witness must be one of {', '.join(WITNESSES)}, got {', '.join(unknown)}")
    return tuple(names or WITNESSES)


# -- running and writing ---------------------------------------------------------------------------


def _run(function: Callable, jobs: list[tuple], processes: int) -> Iterator[Any]:
    if processes == 1:
        yield from (function(*arguments) for arguments in jobs)
        return
    # loaded once, here, for every process that is forked from this one
    import autograd.numpy  # noqa: F401
    import scipy.differentiate  # noqa: F401

    with ProcessPoolExecutor(processes) as pool:
        yield from pool.map(
            function, *zip(*jobs, strict=True), chunksize=max(len(jobs) // (4 * processes), 1)
        )


def _progress(things: Iterable[Any], total: int) -> Iterator[Any]:
    """The same things, with a bar on standard error if that is a terminal."""
    if not sys.stderr.isatty():
        yield from things
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(
        things, description="gradcheck", total=total, console=Console(stderr=True), transient=True
    )


def _write(report: Any, form: str, output: str | None) -> None:
    if form == "text" and output is None and sys.stdout.isatty():
        from rich.console import Console

        report.print(Console())
        return
    writers: dict[str, Callable[[Any], str]] = {"text": str, "json": _json, "junit": _junit}
    text = writers[form](report)
    if output is None:
        print(text)
    else:
        write_atomically(output, text + "\n")


def write_atomically(path: str, text: str) -> None:
    """The whole file or none of it."""
    folder = os.path.dirname(os.path.abspath(path))
    try:
        if os.path.isdir(path):
            raise IsADirectoryError(21, "is a folder")
        descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=".refloss-")
    except OSError as error:
        raise CallError(f"--output {path}: {error.strerror}") from error
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _json(report: Any) -> str:
    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(v) for key, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(v) for v in value]
        if isinstance(value, float) and not np.isfinite(value):
            return str(value)  # JSON has no inf and no NaN
        return value

    return json.dumps(plain(report.to_dict()), indent=1, ensure_ascii=False, allow_nan=False)


def _junit(report: Any) -> str:
    suite = ElementTree.Element(
        "testsuite",
        name="refloss gradcheck",
        tests=str(len(report.results) + len(report.unseen)),
        failures=str(sum(bool(result.failures) for result in report.results) + len(report.unseen)),
    )
    for result in report.results:
        test = ElementTree.SubElement(suite, "testcase", classname=result.loss, name=result.case)
        if result.failures:
            message = "\n".join(map(str, result.failures))
            ElementTree.SubElement(test, "failure", message=str(result.failures[0])).text = message
    for loss, name in report.unseen:
        test = ElementTree.SubElement(suite, "testcase", classname=loss, name=f"grad_{name} checked")
        ElementTree.SubElement(test, "failure", message="no witness could decide any row")
    return ElementTree.tostring(suite, encoding="unicode")
