"""What every report of refloss has: a verdict, a table, and the forms it is written in."""

from __future__ import annotations

import io
import json
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar
from xml.etree import ElementTree

from refloss.writing import plain, write_whole

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


class MismatchError(AssertionError):
    """What `report.raise_if_failed()` raises, an AssertionError; its message is the report after one line of its own.

    Attributes:
        report (BaseReport): the report.
    """

    def __init__(self, report: BaseReport) -> None:
        super().__init__(f"{report._headline}\n\n{report}")  # a runner's summary shows the first line
        self.report = report


@dataclass(frozen=True)
class Grid:
    """A table of words.

    Attributes:
        header (sequence of str): the columns' names.
        rows (sequence of sequences of str): the cells.
        align (str): a letter for each column: "l" left and never wrapped, "w" left and wrapped, "r" right, "c"
            centred. All "l" if it is "".
        wrong (sequence of bool): for each row whether it is shown in red; empty: none is.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    align: str = ""
    wrong: Sequence[bool] = ()

    def table(self) -> Table:
        """The table, for a rich console.

        Returns:
            rich.table.Table: to be printed.
        """
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="bold")
        justify: dict[str, Any] = {"l": "left", "w": "left", "r": "right", "c": "center"}
        for heading, letter in zip(self.header, self._letters, strict=True):
            table.add_column(heading, justify=justify[letter], no_wrap=letter in "lc")
        for row, wrong in zip(self.rows, self.wrong or [False] * len(self.rows), strict=True):
            table.add_row(*map(Text, row), style="bold red" if wrong else None)
        return table

    def _folded(self, width: int) -> list[Grid]:
        """The table as one or more no wider than so many characters, no number cut; the names come again in each."""
        letters, columns = self._letters, range(len(self.header))
        parts = [[line for text in column for line in text.split(" " if letter == "w" else "\n")]
                 for letter, *column in zip(letters, self.header, *self.rows, strict=True)]  # fmt: skip
        sizes = [2 + max(map(len, lines)) for lines in parts]
        names = max(len(letters) - len(letters.lstrip("l")), 1) if "l" * len(letters) != letters else 1
        chunks, used = [list(columns[:names])], sum(sizes[:names])
        for k in columns[names:]:
            if used + sizes[k] > width + 2 and len(chunks[-1]) > names:
                chunks.append(list(columns[:names]))
                used = sum(sizes[:names])
            chunks[-1].append(k)
            used += sizes[k]
        return [
            Grid([self.header[k] for k in chunk], [[row[k] for k in chunk] for row in self.rows],
                 "".join(letters[k] for k in chunk), self.wrong)
            for chunk in chunks
        ]  # fmt: skip

    def markdown(self) -> str:
        """The table in Markdown.

        Returns:
            str: the Markdown.
        """
        rules = {"r": "---:", "c": ":---:"}
        lines = [self.header, [rules.get(letter, "---") for letter in self._letters], *self.rows]
        return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)

    @property
    def _letters(self) -> str:
        return self.align or "l" * len(self.header)


class BaseReport(ABC):
    """The base of all reports. Its truth value is the verdict, its text what it prints on a console of this width.

    A report has `passed`, `verdict`, `grid` and `to_dict`; `details` are the lines between table and verdict.
    """

    width: ClassVar[int] = 120
    suite: ClassVar[str] = "refloss"  # of the JUnit file
    _hint: Callable[[str], str] = staticmethod(str)  # a hint in the reader's words; the command line has its own

    # -- what a report gives -----------------------------------------------------------------------

    @property
    @abstractmethod
    def passed(self) -> bool:
        """Whether the verdict is good."""

    @abstractmethod
    def verdict(self) -> str:
        """The verdict in one line.

        Returns:
            str: the line.
        """

    @abstractmethod
    def grid(self) -> Grid:
        """The table, as words.

        Returns:
            Grid: header and rows.
        """

    def details(self) -> list[str]:
        """What is said besides the table, failures above all.

        Returns:
            list of str: the lines.
        """
        return []

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON.

        Returns:
            dict: of plain values.
        """

    @property
    def _heading(self) -> str:
        """What stands above the table."""
        return ""

    @property
    def _headline(self) -> str:
        """The whole in one line, for where there is room for no more."""
        return self.verdict().split("\n", 1)[0]

    def _tests(self) -> list[tuple[str, str, list[str]]]:
        """Test cases of the JUnit file: class, name, what is wrong."""
        return [(type(self).__name__, "verdict", [] if self.passed else [self.verdict()])]

    # -- what follows from it ----------------------------------------------------------------------

    def __bool__(self) -> bool:
        return self.passed

    def __str__(self) -> str:
        from rich.console import Console

        text = io.StringIO()
        self.print(Console(file=text, width=self.width, force_terminal=False, color_system=None))
        return "\n".join(line.rstrip() for line in text.getvalue().rstrip().split("\n"))

    def raise_if_failed(self) -> None:
        """For a test, raises unless the verdict is good.

        Raises:
            MismatchError: an AssertionError whose message is this report, unless it passed.
        """
        if not self.passed:
            raise MismatchError(self)

    def print(self, console: Console) -> None:
        """Prints the table, the failures and the verdict.

        Args:
            console (rich.console.Console): where to.
        """
        if self._heading:
            say(console, self._heading, "bold")
        for grid in self.grid()._folded(console.width):
            console.print(grid.table())
        for line in (*self.details(), self.verdict()):
            say(console, line)

    def table(self) -> Table:
        """The table, for a rich console.

        Returns:
            rich.table.Table: to be printed on a rich console.
        """
        return self.grid().table()

    def to_json(self, path: str | None = None) -> str:
        """The report as strict JSON.

        Args:
            path (str): a file to write it to as well, whole or not at all; or None.

        Returns:
            str: the JSON.

        Raises:
            OSError: the file cannot be written.
        """
        return self._kept(strict_json(self.to_dict()), path)

    @staticmethod
    def _kept(text: str, path: str | None) -> str:
        if path is not None:
            write_whole(path, text + "\n")
        return text

    def to_markdown(self) -> str:
        """The verdict and the table in Markdown.

        Returns:
            str: the Markdown.
        """
        return f"{self.verdict()}\n\n{self.grid().markdown()}"

    def to_junit(self) -> str:
        """JUnit XML: a test case for each case, and one for whatever else went wrong.

        Returns:
            str: the XML.
        """
        tests = self._tests()
        failures = sum(bool(wrong) for *_, wrong in tests)
        suite = ElementTree.Element("testsuite", name=self.suite, tests=str(len(tests)), failures=str(failures))
        for group, name, wrong in tests:
            test = ElementTree.SubElement(suite, "testcase", classname=group, name=name)
            if wrong:
                ElementTree.SubElement(test, "failure", message=_legal(wrong[0])).text = _legal("\n".join(wrong))
        return ElementTree.tostring(suite, encoding="unicode")

    def _wrapped(self, line: str, indent: int = 0) -> list[str]:
        """The line cut to the report's width; what follows the first is indented."""
        return textwrap.wrap(line, self.width, subsequent_indent=" " * indent)


def say(console: Console, line: str = "", style: str | None = None) -> None:
    """The line as it is: no markup, no colours of rich's own, and where it is too long the terminal breaks it."""
    console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)


def capped(lines: Sequence[str], most: int, what: str) -> list[str]:
    """The first lines, and how many more of `what` there are."""
    rest = len(lines) - most
    return list(lines) if rest <= 0 else [*lines[:most], f"… and {rest} more {what}"]


def first_of_each(groups: Iterable[Sequence[Any]], most: int, what: str) -> list[str]:
    """A line for the first of every group of failures, and how many more cases have the same; at most `most` lines."""
    lines = []
    for first, *others in groups:
        more = f"  [and {len(others)} more case{'s' * (len(others) > 1)}]" if others else ""
        lines.append(f"{first}{more}")
    return capped(lines, most, what)


def counted(counts: Iterable[tuple[str, int]]) -> str:
    """'name (count), …'."""
    return ", ".join(f"{name} ({count})" for name, count in counts)


def strict_json(value: Any) -> str:
    """Strict JSON: inf and NaN as their names."""
    return json.dumps(plain(value), indent=1, ensure_ascii=False, allow_nan=False)


def _legal(text: str) -> str:
    """Without the control characters that XML forbids."""
    return "".join(c if c in "\t\n\r" or ord(c) >= 32 else "?" for c in text)
