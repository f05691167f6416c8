"""Fixtures for every test."""

from __future__ import annotations

import zlib

import numpy as np
import pytest


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Random numbers with a seed of its own for each test, the same on every run and in any order."""
    return np.random.default_rng(zlib.crc32(request.node.nodeid.encode()))
