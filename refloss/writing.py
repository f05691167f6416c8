"""Files written whole or not at all, and numbers as strict JSON takes them."""

from __future__ import annotations

import math
import os
import tempfile
from typing import Any


def write_whole(path: str | os.PathLike, content: str | bytes) -> None:
    """The whole file or none of it; text as UTF-8, with escapes for what that has not. Raises OSError."""
    path = os.fspath(path)
    if os.path.isdir(path):
        raise IsADirectoryError(21, "is a folder")
    descriptor, temporary = tempfile.mkstemp(dir=os.path.dirname(os.path.abspath(path)), prefix=".refloss-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content.encode(errors="backslashreplace") if isinstance(content, str) else content)
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
