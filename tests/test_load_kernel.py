"""Finding the kernel that a command names: what is loaded, and what is said of wrong names."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from refloss.testing.adapters import UnfitImplementation, load

FILE = """
import helper_beside
from dataclasses import dataclass

def arcface(x, W, labels):
    return helper_beside.VALUE

@dataclass
class Kernel:
    scale: float = 64.0

    def __call__(self, x, W, labels):
        return self.scale

    def forward(self, x, W, labels):
        return -self.scale

kernel = Kernel()
number = 3
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "kernels.py").write_text(FILE)
    (tmp_path / "helper_beside.py").write_text("VALUE = 0.125\n")
    (tmp_path / "broken.py").write_text("import math\n\nmath.sqrt(-1)\n")
    (tmp_path / "unreadable.py").write_text("x = 1\ndef f(:\n")
    (tmp_path / "script.py").write_text("import sys\nsys.exit(2)\n")
    (tmp_path / "missing.py").write_text("import no_such_package\n")
    (tmp_path / "notes.txt").write_text("no Python")
    yield tmp_path
    for name in ("helper_beside", "refloss_checked_kernels"):
        sys.modules.pop(name, None)


def test_load(folder, monkeypatch):
    path = folder / "kernels.py"
    before = list(sys.path)
    assert load(f"{path}:arcface")(0, 0, 0) == 0.125
    assert load(f"{path}:kernel")(0, 0, 0) == 64.0
    assert load(f"{path}:kernel.forward")(0, 0, 0) == -64.0
    assert load("numpy.linalg:norm") is np.linalg.norm
    monkeypatch.chdir(folder)
    assert load("kernels.py:arcface")(0, 0, 0) == 0.125
    assert load("helper_beside:VALUE.is_integer")() is False  # a module of the current folder
    assert sys.path == before


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("kernels.py", "a kernel is named FILE.py:FUNCTION or package.module:FUNCTION, got 'kernels.py'"),
        ("kernels.py:", "a kernel is named FILE.py:FUNCTION or package.module:FUNCTION, got 'kernels.py:'"),
        ("none.py:f", "none.py does not exist"),
        ("./notes.txt:f", "./notes.txt is no Python file"),
        ("broken.py:f", "broken.py fails on import, line 3: ValueError: math domain error"),
        ("unreadable.py:f", "unreadable.py fails on import, line 2: SyntaxError: invalid syntax"),
        ("script.py:f", "script.py fails on import, line 2: SystemExit: 2"),
        ("missing.py:f", "missing.py fails on import, line 1: ModuleNotFoundError: No module named 'no_such_package'"),
        ("no_such_package.part:f", "there is no module 'no_such_package'"),
        ("numpy.no_such_part:f", "there is no module 'numpy.no_such_part'"),
        ("kernels.py:arcfac", "kernels.py:arcfac: there is no 'arcfac'; similar names are arcface"),
        ("kernels.py:zzz", "kernels.py:zzz: there is no 'zzz'"),
        ("kernels.py:kernel.backward", "kernels.py:kernel.backward: there is no 'backward'"),
        ("kernels.py:number", "kernels.py:number is python int, and not callable"),
        ("kernels.py:Kernel", "kernels.py:Kernel is a class: name an instance or a function"),
    ],
)
def test_wrong_names(where, words, folder, monkeypatch):
    monkeypatch.chdir(folder)
    before = list(sys.path)
    with pytest.raises(UnfitImplementation) as raised:
        load(where)
    assert str(raised.value) == words or str(raised.value).startswith(words + ":")
    assert sys.path == before
