"""`refloss gradcheck`: every loss, or yours, on aimed cases or on your own arrays."""

from __future__ import annotations

import argparse
import ast
import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

import refloss
from refloss.cli.main import NOTHING_RAN, OK, WRONG, CallError

INPUTS = ("x", "W", "labels", "b")


def add_to(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "gradcheck",
        help="check gradients against independent witnesses",
        description="Checks the explicit gradients of every loss (or of those named, or of your own) against "
        "finite differences, autograd and complex step. Errors are relative to each row's natural scale.",
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
    parser.add_argument("--format", choices=("text", "json", "junit"), default="text")
    parser.add_argument(
        "--output", metavar="F", help="write the result to this file instead of standard output"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the cases (default 0)")
    parser.add_argument("-j", "--jobs", type=int, default=1, metavar="N", help="processes (default 1)")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """The command. Returns its exit status."""
    from refloss.witnesses.report import Report

    witnesses = _witnesses(options.witness)
    own = [_load(options.loss)] if options.loss else []
    named = [_make(name, options.set) for name in options.losses]
    if options.input:
        results, losses = _on_input(options.input, own + named, options.set, witnesses)
    else:
        results, losses = _on_cases(own, named, options, witnesses)
    if not results:
        print("refloss: nothing ran: no case has that name", file=sys.stderr)
        return NOTHING_RAN
    from refloss.witnesses.gradcheck import _branches

    report = Report(results, _branches(losses))
    _write(report, options.format, options.output)
    return OK if report else WRONG


def _on_cases(
    own: list[Any], named: list[Any], options: argparse.Namespace, witnesses: Sequence[str]
) -> tuple[list[Any], list[Any]]:
    from refloss.witnesses.cases import cases, default_loss
    from refloss.witnesses.gradcheck import check_case
    from refloss.witnesses.steps import check_steps

    losses = own + named
    if options.set and not named:
        raise CallError("--set needs the name of a loss")
    everything = not losses
    if everything:
        losses = [default_loss(name) for name in refloss.losses()]
    chosen = [case for loss in losses for case in cases(loss, options.seed)]
    if options.case:
        known = {case.name for case in chosen}
        unknown = [name for name in options.case if name not in known]
        if unknown:
            print(
                f"refloss: no case called {', '.join(unknown)}; there are {', '.join(sorted(known))}",
                file=sys.stderr,
            )
        chosen = [case for case in chosen if case.name in options.case]
    jobs: list[tuple[Callable, tuple]] = [(check_case, (case, witnesses)) for case in chosen]
    results = list(_progress(_run(jobs, 1 if own else options.jobs), len(jobs)))
    if everything and not options.case:
        results += check_steps(witnesses, options.seed)
    return results, [case.loss for case in chosen]


def _on_input(
    path: str, losses: list[Any], settings: list[str], witnesses: Sequence[str]
) -> tuple[list[Any], list[Any]]:
    arrays = read_arrays(path)
    if not losses:
        classes = len(arrays["W"])
        names = refloss.losses()
        losses = [
            _make(n, ["class_weights=" + repr([1.0] * classes)] if n == "weighted_softmax" else [])
            for n in names
        ]
        if arrays.get("labels") is not None and np.ndim(arrays["labels"]) == 2:
            losses = [loss for loss in losses if not loss.has_margin]
    from refloss.witnesses.gradcheck import gradcheck

    results = []
    for loss in _progress(iter(losses), len(losses)):
        given = dict(arrays)
        if not getattr(loss, "has_bias", True):
            given.pop("b", None)
        try:
            results += gradcheck(loss, **given, witnesses=witnesses).results
        except (ValueError, TypeError) as error:
            raise CallError(f"{path}: {error}") from error
    for result in results:
        result.case = Path(path).name
    return results, losses


def read_arrays(path: str) -> dict[str, np.ndarray]:
    """x, W, labels and b of an .npz file, read without pickle."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError) as error:
        raise CallError(f"--input {path}: {error}") from error
    missing = [name for name in INPUTS[:3] if name not in arrays]
    unknown = [name for name in arrays if name not in INPUTS]
    if missing or unknown:
        raise CallError(
            f"--input {path} must hold x (N, D), W (C, D), labels (N,) and optionally b (C,)"
            + (f"; missing: {', '.join(missing)}" if missing else "")
            + (f"; not known: {', '.join(unknown)}" if unknown else "")
        )
    return arrays


def _make(name: str, settings: list[str]) -> Any:
    parameters = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise CallError(f"--set takes NAME=VALUE, got {setting!r}")
        try:
            parameters[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            parameters[key] = value  # a word, such as past_pi=linear
    from refloss.witnesses.cases import WEIGHTS

    if name == "weighted_softmax":
        parameters.setdefault("class_weights", WEIGHTS)
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
        loss = loss()
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


def _run(jobs: list[tuple[Callable, tuple]], processes: int) -> Iterator[Any]:
    if processes <= 1:
        yield from (function(*arguments) for function, arguments in jobs)
        return
    with ProcessPoolExecutor(processes) as pool:
        futures = [pool.submit(function, *arguments) for function, arguments in jobs]
        yield from (future.result() for future in futures)


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
    if form == "text" and output is None:
        from rich.console import Console

        report.print(Console(width=None if sys.stdout.isatty() else 120))
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
