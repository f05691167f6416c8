"""Files written whole or not at all, numbers as strict JSON takes them, docstrings also where Python drops them."""

from __future__ import annotations

import ast
import inspect
import math
import os
import stat
import sys
import tempfile
import textwrap
from typing import Any


def write_whole(path: str | os.PathLike, content: str | bytes) -> None:
    """The whole file or none of it; text as UTF-8, with escapes for what that has not. Raises OSError.

    Links are followed: the file that they lead to is the one replaced, with its permissions. A device, a pipe or an
    open file of this process (/dev/stdout, /dev/fd/3) is written into.
    """
    path = os.fspath(path)
    data = content.encode(errors="backslashreplace") if isinstance(content, str) else content
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        mask = os.umask(0)
        os.umask(mask)
        mode = stat.S_IFREG | 0o666 & ~mask  # as any new file, not private as a temporary one
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(21, "is a folder")
    number = _own_descriptor(path)
    if number is not None or not stat.S_ISREG(mode):
        with os.fdopen(os.open(path, os.O_WRONLY) if number is None else os.dup(number), "wb") as file:
            file.write(data)
        return
    path = os.path.realpath(path)
    descriptor, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".refloss-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        os.chmod(temporary, stat.S_IMODE(mode))
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _own_descriptor(path: str) -> int | None:
    """The number of the open file of this process that a path such as /dev/stdout leads to."""
    own = os.path.realpath("/proc/self/fd")
    while os.path.islink(path):
        folder, name = os.path.split(path)
        if os.path.realpath(folder) == own:
            return int(name)
        path = os.path.join(folder, os.readlink(path))
    return None


def docstring(thing: Any) -> str:
    """The docstring of a class or function, indentation removed; under `python -OO` read from its source; or ""."""
    if sys.flags.optimize < 2 or (inspect.isfunction(thing) and thing.__doc__ is not None):
        return inspect.getdoc(thing) or ""
    try:  # what stands in __doc__ of a dataclass is then made of its fields
        node = ast.parse(textwrap.dedent(inspect.getsource(thing))).body[0]
    except (OSError, TypeError, SyntaxError):  # no source is at hand
        return ""
    return ast.get_docstring(node) or ""  # type: ignore[arg-type]


def plain(value: Any) -> Any:
    """Nested dicts and lists that strict JSON can hold: inf and NaN as their names."""
    if isinstance(value, dict):
        return {str(key): plain(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
