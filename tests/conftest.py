"""Fixtures for every test."""

from __future__ import annotations

import zlib

import numpy as np
import pytest


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Random numbers with a seed of its own for each test, the same on every run and in any order."""
    return np.random.default_rng(zlib.crc32(request.node.nodeid.encode()))


@pytest.fixture
def arrays(tmp_path, rng):
    """An .npz file of x, W and labels for the commands."""
    path = tmp_path / "features.npz"
    np.savez(path, x=rng.normal(size=(6, 8)), W=rng.normal(size=(5, 8)), labels=np.arange(6) % 5)
    return path
