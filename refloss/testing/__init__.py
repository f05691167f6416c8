"""The oracle kit: somebody's kernel against the truth, with a grade, the first wrong stage and the bug's name::

    report = refloss.testing.check(kernel, refloss.ArcFace(), dtype="float32", framework="torch")
    print(report)

What each part is worth: docs/oracle.md. Its names are in `refloss/testing/public.py`, which is imported when the first
of them is asked for: pytest imports this package on every start, for `refloss.testing.plugin`.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from refloss.testing.public import *  # noqa: F403  (its __all__ is the public list)
else:

    class _Package(ModuleType):
        """Names that are fetched when they are first used."""

        def __getattr__(self, name: str) -> Any:
            public = None if name.startswith("_") and name != "__all__" else _public()
            if public is None or name not in (*public.__all__, "__all__"):
                raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
            return getattr(public, name)

        def __dir__(self) -> list[str]:
            return sorted({*super().__dir__(), *_public().__all__})

        def __setattr__(self, name: str, value: Any) -> None:
            if name != "check" or not isinstance(value, ModuleType):  # the module would hide the function
                super().__setattr__(name, value)

    def _public() -> ModuleType:
        return importlib.import_module("refloss.testing.public")

    sys.modules[__name__].__class__ = _Package
