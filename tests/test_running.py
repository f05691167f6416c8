"""How the tests are run: without pytest-xdist, by the quick suite, by one loss."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import losses_named

ROOT = Path(__file__).resolve().parents[1]


def run(*options):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("options", [("-p", "no:xdist"), ("-n", "0"), ()], ids=" ".join)
def test_quick_suite_runs_in_one_process(options):
    """Also where there is no pytest-xdist."""
    assert " passed" in run("tests/quick", *options)


def test_other_tests_run_on_every_core_unless_told():
    assert "workers" in run("tests/test_schedules.py", "-v")
    assert "workers" not in run("tests/test_schedules.py", "-v", "-n", "0")


def test_one_loss():
    """Its own tests, and none of another whose name holds its name."""
    found = run("tests/quick", "tests/test_schedules.py", "--loss", "softmax", "--co")
    assert "test_steps.py::test_loss[softmax]" in found
    assert "am_softmax" not in found
    assert losses_named("test_check.py::test_of[CosFace-f_norm_sphereface]") == {"am_softmax", "f_norm_sphereface"}
