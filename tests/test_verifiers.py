"""The verifiers in other languages pass a right kernel and refuse ten wrong ones."""

from __future__ import annotations

import subprocess

import pytest
from helpers import need_program
from pages.markdown import ROOT

import refloss
from refloss.testing.vectors import write

MISTAKES = ("zero_gradient", "sign", "sum_for_mean", "target_only", "upstream_ignored", "no_max", "label_off_by_one",
            "clamp", "float16_accumulation", "transposed")  # fmt: skip
HERE = ROOT / "tests" / "verifiers"
COMPILED = {"cpp": ("g++", "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror")}  # language → compiler, its options


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vectors")
    write(str(folder), refloss.Softmax(), "float32")
    return folder / "softmax.float32.safetensors"


@pytest.fixture(scope="module", params=COMPILED)
def program(request, tmp_path_factory):
    compiler, *options = COMPILED[request.param]
    built = tmp_path_factory.mktemp(request.param) / "softmax"
    subprocess.run([need_program(compiler), *options, "-o", built, HERE / f"softmax.{request.param}"], check=True)
    return built


def ran(program, *arguments):
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout


def test_a_right_kernel_passes(program, vectors):
    status, out = ran(program, vectors)
    assert status == 0, out


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_kernel_is_refused(program, vectors, mistake):
    status, out = ran(program, vectors, mistake)
    assert status == 1, out
    assert " is due: " in out.splitlines()[0]


def test_verifiers_are_short():
    for path in HERE.glob("refloss_vectors.*"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 200
