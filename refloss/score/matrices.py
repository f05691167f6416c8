"""What the two tables about the oracle have in common: their losses, and how they are printed."""

from __future__ import annotations

from typing import Any, ClassVar

from refloss.report import BaseReport


class MatrixReport(BaseReport):
    """A table made of jobs, each of one loss in one dtype, and what follows from it in a few facts.

    title, about   head the page of docs/
    rows           what the jobs gave
    """

    width = 240
    title: ClassVar[str]
    about: ClassVar[str]
    rows: list[Any]

    @property
    def dtypes(self) -> list[str]:
        return list(dict.fromkeys(row.dtype for row in self.rows))

    def facts(self) -> list[str]:
        """What the rows come to, a line each."""
        raise NotImplementedError

    def verdict(self) -> str:
        """The facts in one line."""
        return f"{'PASSED' if self.passed else 'FAILED'}: {'; '.join(self.facts())}"

    def to_markdown(self) -> str:
        """The page of docs/."""
        facts = "\n".join(f"- {fact}" for fact in self.facts())
        return "\n\n".join([f"# {self.title}", self.about, facts, self.grid().markdown()])
