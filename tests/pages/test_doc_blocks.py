"""Every block of code in README.md, docs/ and derivations/ runs, and prints what stands there.

- A ```python block with >>> is a doctest. Blocks of one page share their names.
- One without >>> is run in docs/, and saved under the name that its first line gives ("# my_kernel.py"),
  and its tests are called. In derivations/ such blocks are excerpts of refloss/, and other tests compare them with it.
- A ```console block is a session: refloss is run as its `$` lines say, in a folder that pages call /home/me. A block
  that does not begin with `$` goes on where the output before it was cut off.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import math
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import need

from pages.markdown import ROOT, read
from refloss.cli.main import main

PAGES = [
    str(path.relative_to(ROOT))
    for where in ("README.md", "derivations/*.md", "docs/*.md", "docs/[!_n]*/**/*.md")
    for path in sorted(ROOT.glob(where))
]
BLOCK = re.compile(r"^( *)```(python|console)\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
HOME = "/home/me"


def blocks(text: str) -> list[tuple[str, str, int]]:
    """(language, code, line of the page) of every block that is to run."""
    found: list[tuple[str, str, int]] = []
    for match in BLOCK.finditer(text):
        code = re.sub(rf"^{match[1]}", "", match[3], flags=re.MULTILINE)
        if match[2] == "console" and not code.startswith("$ "):
            language, before, line = found.pop()
            assert language == "console", f"output of no command: {code}"
            found.append((language, before + code, line))
        else:
            found.append((match[2], code, text[: match.start(3)].count("\n")))
    return found


# -- one kind each ---------------------------------------------------------------------------------


def run_doctest(code: str, names: dict, page: str, line: int) -> None:
    test = doctest.DocTestParser().get_doctest(code, names, page, page, line)
    said: list[str] = []
    result = doctest.DocTestRunner(verbose=False).run(test, out=said.append, clear_globs=False)
    names.update(test.globs)  # get_doctest copies
    assert result.failed == 0, "".join(said)


def run_code(code: str, names: dict, page: str, line: int, home: Path) -> None:
    named = re.match(r"# (\w+\.py)(: in place of .*)?\n", code)
    if named:
        with (home / named[1]).open("a" if named[2] else "w", encoding="utf-8") as file:
            file.write(code)  # at the end: a later definition replaces an earlier one
    exec(compile("\n" * line + code, page, "exec"), names)
    for test in re.findall(r"^def (test_\w+)", code, re.MULTILINE):
        names[test]()


def run_session(code: str, page: str, line: int, home: Path) -> None:
    """Runs each `$` line and compares what follows it; `$ echo $?` says how the one before ended."""
    status = 0
    for command, want in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n?)*)", code, re.MULTILINE):
        if command == "echo $?":
            got = f"{status}\n"
        else:
            program, *arguments = shlex.split(command)
            assert program == "refloss", f"{page}:{line}: cannot run {command!r}"
            shown = io.StringIO()
            with contextlib.redirect_stdout(shown):
                status = main(arguments)
            got = shown.getvalue().replace(str(home), HOME)
        difference = unlike(want, got)
        assert not difference, f"{page}:{line}: $ {command}\n{difference}\nwhole output:\n{got}"


# -- what a session prints -------------------------------------------------------------------------

NUMBER = re.compile(r"[-−]?\d+(?:\.\d+)?(?:e[+-]?\d+)?")


def unlike(want: str, got: str) -> str:
    """The first line of `want` that is not in its place in `got`, "" if all are.

    A line "..." stands for any lines; empty ones do not count.
    """
    lines = [line.rstrip() for line in got.splitlines() if line.strip()]
    position, skipping = 0, False
    for line in filter(str.strip, want.splitlines()):
        if line.strip() == "...":
            skipping = True
            continue
        rest = range(position, len(lines) if skipping else min(position + 1, len(lines)))
        found = next((i for i in rest if alike(line.rstrip(), lines[i])), None)
        if found is None:
            return f"expected: {line}\ngot:      {lines[position] if position < len(lines) else 'nothing more'}"
        position, skipping = found + 1, False
    return "" if skipping or position == len(lines) else f"not on the page: {lines[position]}"


def alike(want: str, got: str) -> bool:
    """The same words and numbers, up to what may differ between machines.

    How large a rounding error is, and whether it is graded A, B or C, depends on the order in which a machine adds. So
    A, B and C are alike; numbers written with a point or an exponent are compared if they have more than three digits,
    to 1e-4: no rounding error is printed with so many. Whole numbers count something and are the same.
    """
    if words(want) != words(got):
        return False
    return all(
        math.isclose(float(a.replace("−", "-")), float(b.replace("−", "-")), rel_tol=1e-4)
        for a, b in zip(NUMBER.findall(want), NUMBER.findall(got), strict=True)
        if not rough(a)
    )


def rough(number: str) -> bool:
    """Written with a point or an exponent, and at most three digits."""
    digits = re.sub(r"e.*|\D", "", number).lstrip("0")
    return not number.isdecimal() and len(digits) <= 3


def words(line: str) -> str:
    """The line without its inexact numbers, the width of its columns and its passing grades."""
    line = NUMBER.sub(lambda number: number[0] if number[0].isdecimal() else "#", line)
    return re.sub(r"\b[ABC]\b", "C", re.sub(r" {2,}", "  ", line))


# -- the tests -------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty folder to be in, from which modules can be imported; they and print options are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with np.printoptions():
        yield tmp_path
    for path in tmp_path.glob("*.py"):
        sys.modules.pop(path.stem, None)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(read(page))])
def test_blocks_of(page, home):
    """All blocks of a page, from top to bottom."""
    names = {"__name__": "__main__"}
    for language, code, line in blocks(read(page)):
        if "torch" in code:
            need("torch")
        if "certify" in code:
            need("flint")
        if language == "console":
            run_session(code, page, line, home)
        elif ">>>" in code:
            run_doctest(code, names, page, line)
        elif not page.startswith("derivations/"):
            run_code(code, names, page, line, home)


def test_tutorials_hold_sessions():
    """The pattern finds the blocks: each tutorial has code, most a session; pytest's output is held elsewhere."""
    kinds = [{kind for kind, *_ in blocks(read(page))} for page in PAGES if page.startswith("docs/tutorials/")]
    assert all("python" in of for of in kinds)
    assert sum(of == {"python", "console"} for of in kinds) >= 4


def test_wrong_blocks_are_noticed(home):
    """A wrong doctest, a wrong status and a wrong line fail; names are kept from block to block."""
    names: dict = {}
    run_doctest(">>> x = 2\n", names, "page", 1)
    run_doctest(">>> x\n2\n", names, "page", 1)
    with pytest.raises(AssertionError, match="Expected"):
        run_doctest(">>> x\n3\n", names, "page", 1)
    run_session("$ refloss suspects --loss nonsense\n$ echo $?\n2\n", "page", 1, home)
    with pytest.raises(AssertionError, match="expected: 0"):
        run_session("$ refloss suspects --loss nonsense\n$ echo $?\n0\n", "page", 1, home)
    with pytest.raises(AssertionError, match="cannot run 'ls'"):
        run_session("$ ls\n", "page", 1, home)


@pytest.mark.parametrize(
    ("want", "got", "same"),
    [
        ("loss  53  0  C   0.21  pole", "loss   53  0  B    0.3  pole", True),
        ("grade C, 48 of 53 wrong", "grade C, 47 of 53 wrong", False),
        ("grade F", "grade C", False),
        ("is -5044.84912, off by 5e+03", "is -5044.84911, off by 5.1e+03", True),
        ("is -5044.84912", "is -5045.84912", False),
        ("a\n...\nc", "a\nb\nb\nc", True),
        ("a\n...", "a\nb", True),
        ("a\nc", "a\nb\nc", False),
        ("a", "a\nb", False),
        ("a\nb", "a", False),
    ],
)
def test_what_counts_as_the_same_session(want, got, same):
    assert (not unlike(want, got)) == same
