"""Kernels that the command line names."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
import sys
import traceback
from typing import Any

from refloss.testing.adapters.words import UnfitImplementation, kind_of, one_line, quiet

FROM_FILE = "refloss_checked_"  # before the name of a module that `load` made of a file


def load(where: str) -> Any:
    """The kernel "FILE.py:FUNCTION" or "package.module:FUNCTION"; FUNCTION may have dots."""
    found = named_object(where, "a kernel is named FILE.py:FUNCTION or package.module:FUNCTION")
    if isinstance(found, type):
        raise UnfitImplementation(f"{where} is a class: name an instance or a function")
    if not callable(found):
        raise UnfitImplementation(f"{where} is {kind_of(found)}, and not callable")
    return found


def named_object(where: str, words: str) -> Any:
    """The object of that name in a file or module; `words` say how one is named."""
    place, colon, path = where.rpartition(":")
    if not colon or not place or not path:
        raise UnfitImplementation(f"{words}, got {where!r}")
    found = _imported(place)
    for name in path.split("."):
        if not hasattr(found, name):
            known = [n for n, v in getattr(found, "__dict__", {}).items() if callable(v)]
            close = difflib.get_close_matches(name, known, cutoff=0.5)
            hint = f"; similar names are {', '.join(close)}" if close else ""
            raise UnfitImplementation(f"{where}: there is no {name!r}{hint}")
        found = getattr(found, name)
    return found


def _imported(place: str) -> Any:
    """The module of a file, or of that name; its folder, or the current one, is on sys.path meanwhile."""
    is_file = place.endswith(".py") or os.sep in place
    path = os.path.abspath(place)
    if is_file and not (place.endswith(".py") and os.path.isfile(path)):
        raise UnfitImplementation(f"{place} {'is no Python file' if os.path.exists(path) else 'does not exist'}")
    folder = os.path.dirname(path) if is_file else os.getcwd()
    name = FROM_FILE + os.path.basename(path).removesuffix(".py") if is_file else place
    sys.path.insert(0, folder)
    try:
        with quiet():
            return _executed(name, path) if is_file else importlib.import_module(name)
    except (Exception, SystemExit) as error:  # SystemExit: a script that ends itself
        lines = [line for f, line in traceback.walk_tb(error.__traceback__) if f.f_code.co_filename == path]
        if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
            raise UnfitImplementation(f"there is no module {error.name!r}") from None
        words = f"{type(error).__name__}: {one_line(error)}"
        if isinstance(error, SyntaxError) and error.filename == path:
            lines, words = [error.lineno or 1], f"{type(error).__name__}: {error.msg}"
        at = f", line {lines[-1]}" if lines else ""
        raise UnfitImplementation(f"{place} fails on import{at}: {words}") from error
    finally:
        if folder in sys.path:
            sys.path.remove(folder)


def _executed(name: str, path: str) -> Any:
    """The file as a module that others find by name (dataclasses do); not a failed one."""
    spec: Any = importlib.util.spec_from_file_location(name, path)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
