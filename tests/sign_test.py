"""Does the first failure of the quick suite name the step whose sign was changed? `python tests/sign_test.py [--all]`

In a copy of the package one sign is changed under every number of refloss/steps/ and refloss/losses/ in turn (with
--all every sign): a + b for a − b, or an expression negated. For each change `pytest tests/quick -x` runs, and its
first failure must hold the file and line of that number. Last run: 100 of 100 (of one per number).
"""

from __future__ import annotations

import argparse
import ast
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from quick.traced import numbered_lines, step_at

ROOT = Path(__file__).resolve().parents[1]


def signs(file: Path) -> Iterator[tuple[int, str, str]]:
    """(line of a number, what is changed, the changed source) of every sign under a number."""
    source = file.read_text(encoding="utf-8")
    lines = source.splitlines()
    numbers = numbered_lines(lines)
    tree = ast.parse(source)
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef):
            continue
        for node in _numbers_in(function):
            line, _ = step_at(lines, numbers, function.lineno, node.lineno)
            old = ast.get_source_segment(source, node)
            # the powers of two that a sum keeps apart are 0 in doubles
            if line != function.lineno and old != "-exponent":
                yield line, old, _with(source, node, _flipped(node, source))


def _numbers_in(node: ast.AST) -> Iterator[ast.expr]:
    """Sums, products and negated terms; where there are none, the result of a call or what a step is called with."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Compare | ast.Slice | ast.FunctionDef):
            continue
        inner = list(_numbers_in(child))
        match child:
            case ast.BinOp(op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div()) if ".start" not in ast.unparse(child):
                yield child
            case ast.UnaryOp(op=ast.USub()):
                yield child
            case ast.Call(func=ast.Name(), args=[_, ast.Name(id="m") | ast.Attribute(attr="margin") as m, *_]):
                yield m
            case ast.Return(value=value) | ast.Assign(value=value) if not inner:
                match value:
                    case ast.Call(func=ast.Attribute(value=ast.Name(id="np"))):
                        yield value
                    case ast.Call(args=[ast.Name() | ast.Subscript() as first, *_]):
                        yield first
        yield from inner


def _flipped(node: ast.expr, source: str) -> str:
    match node:
        case ast.BinOp(op=ast.Add() | ast.Sub()):
            left, right = (ast.get_source_segment(source, part) for part in (node.left, node.right))
            return f"(({left}) {'-' if isinstance(node.op, ast.Add) else '+'} ({right}))"
        case ast.UnaryOp():
            return f"({ast.get_source_segment(source, node.operand)})"
    return f"(-({ast.get_source_segment(source, node)}))"


def _with(source: str, node: ast.expr, new: str) -> str:
    lines = source.splitlines(keepends=True)
    first, last = lines[node.lineno - 1].encode(), lines[node.end_lineno - 1].encode()
    changed = first[: node.col_offset] + new.encode() + last[node.end_col_offset :]
    # as many lines as before, so that the numbers stay where they are
    inner = "\n" * (node.end_lineno - node.lineno - new.count("\n"))
    return "".join(lines[: node.lineno - 1]) + changed.decode() + inner + "".join(lines[node.end_lineno :])


def first_failure(copy: Path) -> str:
    """What the quick suite of a copy of the repository prints of its first failure."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "tests/quick",
        "-x",
        "-q",
        "-n",
        "0",
        "--tb=short",
        "-p",
        "no:cacheprovider",
    ]
    return subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--all", action="store_true", help="every sign, not one of each step")
    every = parser.parse_args().all
    named = tried = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        shutil.copytree(ROOT / "refloss", copy / "refloss")
        shutil.copytree(ROOT / "tests/quick", copy / "tests/quick")
        for name in ("tests/helpers.py", "tests/conftest.py", "setup.cfg"):
            shutil.copy(ROOT / name, copy / name)
        for file in sorted([*(ROOT / "refloss/steps").glob("*.py"), *(ROOT / "refloss/losses").glob("*.py")]):
            place = file.relative_to(ROOT)
            # where one will do, a term rather than what a call is given
            found = sorted(signs(file), key=lambda sign: (sign[0], sign[1].isidentifier()))
            for k, (line, what, source) in enumerate(found):
                if not every and k and line == found[k - 1][0]:
                    continue
                (copy / place).write_text(source, encoding="utf-8")
                printed = first_failure(copy)
                right = f"{place}:{line}:" in printed
                named, tried = named + right, tried + 1
                print(f"{'named ' if right else 'MISSED'} {place}:{line}  {' '.join(what.split())[:70]}", flush=True)
                if not right:
                    print(
                        "       ", [p for p in printed.splitlines() if "refloss/" in p or "Error" in p][:2], flush=True
                    )
            shutil.copy(file, copy / place)
    print(f"{named} of {tried} named by the first failure")
    sys.exit(named < 0.9 * tried)


if __name__ == "__main__":
    main()
