"""How a command ends."""

from __future__ import annotations

OK, WRONG, USAGE, ORACLE, NOTHING_RAN, INTERRUPTED, UNREAD = 0, 1, 2, 3, 5, 130, 141


class CallError(Exception):
    """The call was wrong; the message says how."""
