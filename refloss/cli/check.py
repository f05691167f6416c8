"""`refloss check`: your kernel against the truth; `refloss suspects`: the bugs that it knows by name."""

from __future__ import annotations

import argparse
from textwrap import fill, indent
from typing import Any

import refloss
from refloss.cli.shared import add_common, add_set, finish, make_loss, nothing_ran, progress, text_of_several, write
from refloss.cli.status import NOTHING_RAN, OK, ORACLE, WRONG, CallError
from refloss.report import strict_json

TAKES = (
    "The function is called as f(x, W, labels), or f(logits, targets) for cross_entropy; with b, upstream and "
    "out (a dict of buffers to fill) by keyword if it has parameters of these names. It returns the loss, () "
    "or (N,), or a mapping with any of: x_norm, W_norm, cos_theta, theta, logits, probabilities, losses, "
    "loss, grad_logits, grad_x, grad_W, grad_b, grad_scale, grad_margin, grad_alpha."
)


def add_to(commands: Any) -> None:
    """Adds both commands to the parser."""
    parser = commands.add_parser(
        "check",
        help="check your own implementation: grade it, find the first wrong stage, name the bug",
        description="Runs FILE.py:FUNCTION on aimed cases and compares every stage that it returns, and the gradients "
        "through it, with the truth. Tolerances are derived from the dtype; none is set by hand.",
        epilog=TAKES
        + " Exit status: 0 it passed, 1 it is wrong, 2 the call was wrong, 3 the oracle could not have told, 4 "
        "the result could not be written, 5 nothing ran.",
    )
    parser.add_argument(
        "implementation", nargs="?", metavar="FILE.py:FUNCTION", help="f(x, W, labels); or MODULE:FUNCTION"
    )
    parser.add_argument("--outputs", metavar="FILE", help="in its place: what it gave of `refloss vectors`, id/stage")
    parser.add_argument("--loss", required=True, metavar="NAME", help="see `refloss list`; or cross_entropy")
    add_set(parser)
    framework = "numpy (default), torch, jax, or FILE.py:NAME of a refloss.testing.Framework"
    parser.add_argument("--framework", default="numpy", metavar="NAME", help=framework)
    parser.add_argument(
        "--dtype", default="float32", metavar="NAME,…", help="float64, float32 (default), float16, bfloat16"
    )
    parser.add_argument("--device", metavar="NAME", help="where the arrays live, such as cuda")
    parser.add_argument(
        "--require", metavar="GRADE", help="the worst grade that passes: A to E; by default D in 16 bits, else C"
    )
    parser.add_argument("--compute", metavar="DTYPE", help="what grades A to C compute in")
    parser.add_argument("--slack", type=float, default=1.0, metavar="X", help="times what a formula may err by")
    parser.add_argument("--case", action="append", metavar="NAME", help="only cases of this name")
    parser.add_argument("--quick", action="store_true", help="the most telling dozen of cases")
    parser.add_argument("--fuzz", type=int, metavar="N", help="N cases drawn by --seed in place of the named ones")
    parser.add_argument(
        "--argument", action="append", default=[], metavar="OURS=YOURS", help="your name for an argument: b=bias"
    )
    parser.add_argument("--returns", type=int, metavar="N", help="which of the tuple that comes back is the result")
    parser.add_argument("--mutates", action="append", default=[], metavar="NAME", help="it may overwrite this argument")
    parser.add_argument("--nondeterministic", action="store_true", help="sums may come in varying order")
    parser.add_argument("--second", action="store_true", help="second derivatives too (torch, jax)")
    parser.add_argument("--forward-mode", action="store_true", help="derivatives by forward mode too (torch, jax)")
    parser.add_argument("--without", action="append", default=[], metavar="FLAG", help="leave out cases of this flag")
    parser.add_argument("--soft-targets", action="store_true", help="soft targets in place of labels")
    parser.add_argument("--time-limit", type=float, default=60.0, metavar="S", help="seconds a call (default 60)")
    parser.add_argument("--memory-limit", type=float, default=4096, metavar="MIB", help="for its arrays (default 4096)")
    parser.add_argument("--html", metavar="FILE", help="write the report as a page too")
    add_common(parser, "json", "junit", jobs=1, seed=True)
    parser.set_defaults(command=run)

    listing = commands.add_parser(
        "suspects",
        help="the bugs that check knows by name, and where they were seen",
        description="Lists every known wrong implementation: what it does wrong and where it was really seen.",
    )
    listing.add_argument("names", nargs="*", metavar="NAME", help="only these")
    listing.add_argument("--loss", metavar="NAME", help="only those of this loss with its defaults")
    add_common(listing, "json")
    listing.set_defaults(command=run_suspects)


def run(options: argparse.Namespace) -> int:
    """The command. Returns its exit status."""
    dtypes = list(dict.fromkeys(options.dtype.split(",")))
    if len(dtypes) == 1:
        return _of_one_dtype(options)
    from refloss.precision.dtypes import DTYPES

    if unknown := [name for name in dtypes if name not in DTYPES]:
        raise CallError(f"--dtype must be one or more of {', '.join(DTYPES)}, got {unknown[0]!r}")
    if one := [name for name in ("html", "outputs") if getattr(options, name, None)]:
        raise CallError(f"--{one[0]} is for one --dtype")
    kept: list[Any] = []
    each = [_of_one_dtype(argparse.Namespace(**vars(options) | {"dtype": name, "kept": kept})) for name in dtypes]
    write(text_of_several(kept, options.format), options.output)
    return max(each, key=(OK, NOTHING_RAN, ORACLE, WRONG).index)


def _of_one_dtype(options: argparse.Namespace) -> int:
    from refloss.cases.configurations import WEIGHTS
    from refloss.testing.check import Checker

    if (options.implementation is None) == (options.outputs is None):
        raise CallError("check takes either FILE.py:FUNCTION or --outputs FILE")
    if sum(map(bool, (options.quick, options.case, options.fuzz is not None))) > 1:
        raise CallError("--quick, --case and --fuzz exclude each other")
    if options.fuzz is not None and options.fuzz < 1:
        raise CallError(f"--fuzz must be at least 1, got {options.fuzz}")
    loss = make_loss(options.loss, options.set, WEIGHTS, bare=True)
    try:
        if options.outputs is not None:
            return _run_outputs(options, loss)
        chosen: Any = options.case or ("quick" if options.quick else "all")
        if options.fuzz is not None:
            from refloss.cases.fuzz import draws

            chosen = draws(loss, options.fuzz, options.dtype, options.seed, options.soft_targets)
        checker = Checker(
            options.implementation, loss, dtype=options.dtype, framework=options.framework,
            cases=chosen, require=options.require,
            compute=options.compute, device=options.device, slack=options.slack, seed=options.seed,
            soft_targets=options.soft_targets, isolated=True, time_limit=options.time_limit,
            memory_limit=options.memory_limit, arguments=_arguments(options.argument), returns=options.returns,
            mutates=options.mutates, deterministic=not options.nondeterministic, without=options.without,
            second=options.second, forward_mode=options.forward_mode, jobs=options.jobs,
        )  # fmt: skip
        for _ in progress(checker.run(), len(checker.cases), "check"):
            pass
    except (ValueError, TypeError) as error:  # what the implementation raises is in the report
        raise CallError(" ".join(str(error).split())) from error
    return _finished(checker, options)


def _finished(checker: Any, options: argparse.Namespace) -> int:
    report = checker.report()
    report.implementation = options.implementation or options.outputs
    report.chosen = report.chosen if options.fuzz is None else "drawn "
    status = finish(report, options, wrong=ORACLE if report.oracle_faults or not report.failures else WRONG)
    if options.html is not None:
        write(report.to_html(), options.html, "--html")
    ran = report.oracle_faults or any(result.grades or result.failures for result in report.results)
    return status if ran else nothing_ran()


def _run_outputs(options: argparse.Namespace, loss: Any) -> int:
    """Judges a file of outputs."""
    from refloss.testing.vectors.outputs import OutputsChecker

    called = {"--framework": options.framework != "numpy", "--device": options.device, "--quick": options.quick,
              "--argument": options.argument, "--returns": options.returns is not None, "--mutates": options.mutates,
              "--nondeterministic": options.nondeterministic, "--second": options.second, "--case": options.case,
              "--forward-mode": options.forward_mode, "--without": options.without, "--fuzz": options.fuzz is not None,
              "--soft-targets": options.soft_targets}  # fmt: skip
    if unfit := [name for name, given in called.items() if given]:
        raise CallError(f"{unfit[0]} is about calls of a function, and --outputs is a file")
    checker = OutputsChecker(
        options.outputs, loss, dtype=options.dtype, require=options.require, compute=options.compute,
        slack=options.slack, seed=options.seed,
    )  # fmt: skip
    return _finished(checker, options)


def _arguments(given: list[str]) -> dict[str, str] | None:
    """--argument OURS=YOURS, in order."""
    pairs = [each.partition("=") for each in given]
    if wrong := [each for each, (ours, _, yours) in zip(given, pairs, strict=True) if not (ours and yours)]:
        raise CallError(f"--argument takes OURS=YOURS, such as b=bias, got {wrong[0]!r}")
    return {ours: yours for ours, _, yours in pairs} or None


def run_suspects(options: argparse.Namespace) -> int:
    """Lists the suspects."""
    from refloss.cases.configurations import WEIGHTS, make
    from refloss.testing.diagnosis.suspects import SUSPECTS, suspects

    known = (
        list(SUSPECTS.values()) if options.loss is None else suspects(make_loss(options.loss, [], WEIGHTS, bare=True))
    )
    unknown = [name for name in options.names if name not in SUSPECTS]
    if unknown:
        raise CallError(f"no suspect called {', '.join(unknown)}; `refloss suspects` lists them")
    chosen = [suspect for suspect in known if not options.names or suspect.name in options.names]
    if options.format == "json":
        losses = [make(name) for name in refloss.losses()]
        text = strict_json({"suspects": [_as_dict(suspect, losses) for suspect in chosen]})
    else:
        text = "\n".join([*map(_shown, chosen), f"{len(chosen)} suspects"])
    write(text, options.output)
    return OK


def _as_dict(suspect: Any, losses: list[Any]) -> dict[str, Any]:
    fields = ("name", "group", "explanation", "seen_in", "only_precision", "where")
    return {name: getattr(suspect, name) for name in fields} | {
        "losses": [loss.name for loss in losses if suspect.applies(loss)]
    }


def _shown(suspect: Any) -> str:
    body = fill(f"{suspect.explanation} Seen in: {suspect.seen_in}", 104)
    return f"{suspect.name} ({suspect.group}; {suspect.where})\n{indent(body, '    ')}"
