"""Options and fixtures for every test."""

from __future__ import annotations

import itertools
import os
import re
import zlib
from pathlib import Path

import numpy as np
import pytest

import refloss

# the longer name first: am_softmax is not about softmax
ALIASES = {"cosface": "am_softmax", "sphereface": "a_softmax", "modified_softmax": "w_norm_softmax"}
LOSS_NAMES = sorted([*refloss.losses(), "margin_softmax", "cross_entropy", *ALIASES], key=len, reverse=True)
A_LOSS = re.compile(rf"(?<![a-z0-9])(?:{'|'.join(LOSS_NAMES)})", re.IGNORECASE)

# what --loss leaves out: these take the passes as they are, or are slow
OTHERS = {"kernels", "pages"} | {
    f"test_{name}"
    for name in (
        "balls", "certify", "check", "cli", "cli_certify", "cli_check", "digits", "extended", "fifty_digits", "figures",
        "findings", "grid", "jax", "matrix", "peers", "plugin", "proofs", "rivals", "suspects", "testing_adapters",
        "tolerances", "toy_loss", "vectors", "verifiers",
    )
}  # fmt: skip

# what takes its time, and runs where nothing may be skipped or where it is named
SLOW = {"kernels", "pages"} | {
    f"test_{name}"
    for name in (
        "checker", "cli_check", "corners", "declared", "extended", "facts", "figures", "gradcheck_large", "isolation",
        "matrix", "plugin", "rivals", "step_precision", "suspects", "toy_loss", "vectors", "verifiers",
    )
}  # fmt: skip


def pytest_addoption(parser: pytest.Parser) -> None:
    names = [name for name in LOSS_NAMES if name not in ALIASES]
    what = "only tests of this loss's passes, by their ids: none of the oracle, proofs, commands, pages, many digits"
    parser.addoption("--loss", choices=names, metavar="NAME", help=what)
    parser.addoption("--passed", metavar="FILE", help="write the ids of what passed, a line each")
    parser.addoption("--not-again", metavar="FILE", help="leave out the ids in this file")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    asked = [Path(arg.partition("::")[0]).resolve() for arg in config.args]
    named = any(collection_path in (path, *path.parents) for path in asked)
    left_out = OTHERS if config.getoption("--loss") else set()
    if os.environ.get("REFLOSS_REQUIRE_OPTIONAL") != "1":
        left_out = left_out | SLOW
    return True if collection_path.stem in left_out and not named else None


def pytest_sessionfinish(session: pytest.Session) -> None:
    path, reporter = session.config.getoption("--passed"), session.config.pluginmanager.get_plugin("terminalreporter")
    if path and not hasattr(session.config, "workerinput"):
        ids = [report.nodeid for report in reporter.stats.get("passed", [])]
        Path(path).write_text("".join(f"{each}\n" for each in ids), encoding="utf-8")


def pytest_report_header() -> str:
    """What a plain run does not do."""
    if os.environ.get("REFLOSS_REQUIRE_OPTIONAL") == "1":
        return ""
    return f"left out unless named, for they are slow: {', '.join(sorted(SLOW))}; REFLOSS_REQUIRE_OPTIONAL=1 runs all"


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Every core by default where pytest-xdist is; one process for tests/quick, whose order says what to read first."""
    here = config.pluginmanager.hasplugin("xdist") and not hasattr(config, "workerinput")
    quick = config.args and all("tests/quick" in arg for arg in config.args)
    if here and config.option.numprocesses is None and not quick:
        config.option.numprocesses = "auto"
        if config.option.dist == "no":
            config.option.dist = "worksteal"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if path := config.getoption("--not-again"):
        passed = set(Path(path).read_text(encoding="utf-8").splitlines())
        again = [item.nodeid in passed for item in items]
        config.hook.pytest_deselected(items=list(itertools.compress(items, again)))
        items[:] = itertools.compress(items, (not a for a in again))
    name = config.getoption("--loss")
    if name:
        kept = [name in losses_named(item.nodeid) for item in items]
        config.hook.pytest_deselected(items=list(itertools.compress(items, (not k for k in kept))))
        items[:] = itertools.compress(items, kept)


def losses_named(text: str) -> set[str]:
    """The losses that an id speaks of."""
    return {ALIASES.get(found.lower(), found.lower()) for found in A_LOSS.findall(text)}


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Random numbers with a seed of its own for each test, the same on every run and in any order."""
    return np.random.default_rng(zlib.crc32(request.node.nodeid.encode()))


@pytest.fixture(params=["double", "extended"])
def precision(request: pytest.FixtureRequest) -> str:
    """Both of them."""
    return request.param


@pytest.fixture
def arrays(tmp_path, rng):
    """An .npz file of x, W and labels for the commands."""
    path = tmp_path / "features.npz"
    np.savez(path, x=rng.normal(size=(6, 8)), W=rng.normal(size=(5, 8)), labels=np.arange(6) % 5)
    return path
