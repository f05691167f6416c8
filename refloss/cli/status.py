"""How a command ends."""

from __future__ import annotations

OK, WRONG, USAGE, ORACLE, UNWRITTEN, NOTHING_RAN, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130


class CallError(Exception):
    """The call was wrong; the message says how."""


class UnwrittenError(Exception):
    """The result could not be written: a full disk, a pipe that nobody reads; the message says where and why."""
