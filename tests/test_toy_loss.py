"""A loss that is not in the survey, added as docs/architecture.md says, is checked, judged, proven and derived.

Its files stand in tests/toy_loss. They are put into a copy of the repository, and nothing else is touched there but the
lines that the page "To add a loss" names. A part that is left out is an error that names the file.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import need

ROOT = Path(__file__).resolve().parents[1]
TOY = Path(__file__).parent / "toy_loss"
NAME = "norm_face"

FORMULA = '''
def norm_face(xp: Any, q: Any, x: Array, W: Array, b: Array, y: Array) -> Array:
    """NormFace, eq. (8): s cos θ_j."""
    return _each(_each(q.scale)) * inner(xp, unit(xp, x, q.zero_x), unit(xp, W, q.zero_W))
'''
ENTRY = """    "norm_face": Member(
        logits=formulas.norm_face,
        radius="scale",
        factor="scale",
        parameters={"scale": POSITIVE},
        zero_rows=EVERY,
        steps=_ANGLES | {"logits": "(3)", "grad_x": "(5), (6)", "grad_W": "(5), (6)", "grad_scale": "(7)"},
    ),
"""
KERNEL = """
import numpy as np
import refloss

loss = refloss.get("norm_face")

def right(x, W, labels, upstream=1.0):
    out = loss.forward(x, W, labels)
    stages = {**out.stages(), **loss.backward(out, upstream).stages()}
    return {name: np.asarray(value, x.dtype) for name, value in stages.items()}

def wrong(x, W, labels, upstream=1.0):
    stages = right(x, W, labels, upstream)
    return stages | {"grad_scale": -stages["grad_scale"]}
"""


def before(file: str, mark: str, text: str) -> Callable[[Path], None]:
    """Puts a text before the first place of a mark in a file."""

    def put(root: Path) -> None:
        path = root / file
        whole = path.read_text(encoding="utf-8")
        assert mark in whole
        path.write_text(whole.replace(mark, text + mark, 1), encoding="utf-8")

    return put


API_PAGE = "# NormFace\n\n```{eval-rst}\n.. autoclass:: refloss.NormFace(*, scale=64.0, **options)\n```\n"

# the file that lacks a part → what adds it, in the order of the page
PARTS: dict[str, list[Callable[[Path], None]]] = {
    "derivations/norm_face.md": [lambda root: shutil.copy(TOY / "norm_face.md", root / "derivations")],
    "derivations/README.md": [
        before(
            "derivations/README.md",
            "| [Cross-entropy]",
            "| [NormFace](norm_face.md) | [norm_face.py](../refloss/losses/norm_face.py) | 1–7 |\n",
        )
    ],
    "refloss/textbook/family.py": [
        before("refloss/textbook/formulas.py", "\n\ndef margin_logits(", "\n" + FORMULA),
        before("refloss/textbook/family.py", '    "margin_softmax": Member(', ENTRY),
    ],
    "refloss/losses/norm_face.py": [lambda root: shutil.copy(TOY / "norm_face.py", root / "refloss/losses")],
    "refloss/losses/__init__.py": [
        before(
            "refloss/losses/__init__.py",
            "from refloss.losses.softmax import",
            "from refloss.losses.norm_face import NormFace\n",
        ),
        before("refloss/losses/__init__.py", "    )\n}", "        NormFace,\n"),
        before("refloss/losses/__init__.py", '    "Softmax",\n', '    "NormFace",\n'),
    ],
    "README.md": [before("README.md", "| `ArcFace` |", "| `NormFace` | `norm_face` | s cos θ_j | the same | |\n")],
    "docs/api/losses.md": [
        before(
            "docs/api/losses.md",
            "| [A margin of your own]",
            "| [NormFace](losses/norm_face.md) | `refloss.NormFace` | |\n",
        )
    ],
    "docs/api/losses/norm_face.md": [
        lambda root: (root / "docs/api/losses/norm_face.md").write_text(API_PAGE, encoding="utf-8")
    ],
}


def copy(root: Path, without: str = "") -> Path:
    """The repository with the toy loss in it, but for what one file has of it."""
    for name in ("refloss", "derivations", "docs", "tests"):
        shutil.copytree(
            ROOT / name, root / name, ignore=shutil.ignore_patterns("_build", "node_modules", "__pycache__", "*.svg")
        )
    for name in ("README.md", "CHANGELOG.md", "setup.cfg", ".ruff.toml"):
        shutil.copy(ROOT / name, root)
    for file, put in PARTS.items():
        for part in put if file != without else ():
            part(root)
    return root


def environment(root: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}


def run(root: Path, *command: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=root, env=environment(root), capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    return copy(tmp_path_factory.mktemp("with_toy_loss"))


@pytest.mark.parametrize(
    ("command", "status", "says"),
    [
        (("refloss", "gradcheck", NAME), 0, "0 wrong"),
        (("refloss", "check", "kernel.py:right", "--loss", NAME, "--dtype", "float32", "--quick"), 0, "PASSED"),
        (
            ("refloss", "check", "kernel.py:wrong", "--loss", NAME, "--dtype", "float32", "--quick"),
            1,
            "first stage that diverges: grad_scale (derivations/norm_face.md (7))",
        ),
        (("refloss", "certify", NAME, "--quick"), 0, "0 over a limit"),
    ],
    ids=["gradcheck", "check a right kernel", "check a wrong kernel", "certify"],
)
def test_the_commands_take_it(repository, command, status, says):
    """gradcheck confirms it, check judges kernels of it and cites its page, certify proves it."""
    if "certify" in command:
        need("flint")
    (repository / "kernel.py").write_text(KERNEL, encoding="utf-8")
    result = run(repository, *command)
    assert (result.returncode, says in " ".join(result.stdout.split())) == (status, True), result.stdout + result.stderr


@pytest.mark.parametrize(
    "tests", ["tests/test_family.py", "tests/pages/test_derivations.py", "tests/pages/test_page_code.py"]
)
def test_the_tests_take_it(repository, tests):
    """Those of the family, of derivations and of the code on pages, which find it by themselves."""
    result = run(repository, "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", tests, "-k", NAME)
    assert result.returncode == 0, result.stdout[-3000:]
    assert "passed" in result.stdout


@pytest.mark.parametrize("file", PARTS)
def test_a_forgotten_part_is_an_error_that_names_the_file(tmp_path, file):
    """Each part in turn is left out."""
    root = copy(tmp_path, without=file)
    ask = f"import sys; sys.path.insert(0, 'tests'); from test_family import lacking; print(lacking({NAME!r}))"
    result = subprocess.run(
        [sys.executable, "-c", ask], cwd=root, env=environment(root), capture_output=True, text=True, check=False
    )
    said = result.stdout + result.stderr
    assert file in said or file.removesuffix(".py").replace("/", ".") in said  # Python names a missing module so
