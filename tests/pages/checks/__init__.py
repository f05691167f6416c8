"""The checks of each page of derivations/, in a file named like the page."""

import importlib
import pkgutil

from pages.page import PAGES

__all__ = ["PAGES"]

for module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{module.name}")
