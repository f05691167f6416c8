"""Reports as text, files written whole or not at all, and numbers as strict JSON takes them."""

from __future__ import annotations

import io
import math
import os
import tempfile
from typing import Any, ClassVar


class Printed:
    """A report: its truth value is its verdict, its text what it prints on a rich console of this width."""

    width: ClassVar[int] = 120

    @property
    def passed(self) -> bool:
        raise NotImplementedError

    def print(self, console: Any) -> None:
        raise NotImplementedError

    def __bool__(self) -> bool:
        return self.passed

    def __str__(self) -> str:
        from rich.console import Console

        text = io.StringIO()
        self.print(Console(file=text, width=self.width, force_terminal=False, color_system=None))
        return text.getvalue().rstrip()


def write_whole(path: str | os.PathLike, content: str | bytes) -> None:
    """The whole file or none of it; text as UTF-8. Raises OSError."""
    path = os.fspath(path)
    if os.path.isdir(path):
        raise IsADirectoryError(21, "is a folder")
    descriptor, temporary = tempfile.mkstemp(dir=os.path.dirname(os.path.abspath(path)), prefix=".refloss-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)  # as any new file, not private as a temporary one
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def plain(value: Any) -> Any:
    """Nested dicts and lists that strict JSON can hold: inf and NaN as their names."""
    if isinstance(value, dict):
        return {str(key): plain(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
