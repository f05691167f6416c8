"""What goes between the two processes: JSON and the bytes of arrays, nothing that could run.

A message is 16 bytes, the lengths of both parts, then the JSON, then the arrays' bytes one after the other. In the
JSON an array is {"array": [its dtype, its shape]}.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Generator, Mapping
from math import prod
from typing import Any, BinaryIO

import numpy as np

LENGTHS = struct.Struct("<QQ")
UNHEARD = 125  # the exit status of a process that lost its channel
WORDS = 1 << 24  # bytes: the longest JSON
KINDS = {"float64": 8, "float32": 4, "float16": 2, "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1}


class BadMessage(Exception):
    """What came is no message."""


def send(stream: BinaryIO, message: Mapping[str, Any]) -> None:
    """Writes one message; dicts, lists, numbers, words and NumPy arrays of `KINDS`."""
    parts: list[bytes] = []

    def put(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            parts.append(value.tobytes())
            return {"array": [value.dtype.name, list(value.shape)]}
        raise TypeError(type(value).__name__)

    head = json.dumps(message, default=put).encode()
    stream.write(LENGTHS.pack(len(head), sum(map(len, parts))) + head)
    for part in parts:
        stream.write(part)
    stream.flush()


def receive(stream: BinaryIO, limit: int) -> dict[str, Any]:
    """Reads one message whose arrays take at most `limit` bytes. EOFError at the end, BadMessage for no message."""
    head, rest = LENGTHS.unpack(_exactly(stream, LENGTHS.size))
    if head > WORDS or rest > limit:
        raise BadMessage(f"an answer of {head + rest:,} bytes")
    words, data = _exactly(stream, head), memoryview(_exactly(stream, rest))
    try:
        arrays = _taken(data)
        next(arrays)

        def read(value: dict[str, Any]) -> Any:
            return arrays.send(value["array"]) if value.keys() == {"array"} else value

        found = json.loads(words, object_hook=read)
        if not isinstance(found, dict):
            raise TypeError
    except (ValueError, TypeError, KeyError, LookupError, RecursionError) as error:
        raise BadMessage("an answer that cannot be read") from error
    return found


def _taken(data: memoryview) -> Generator[Any, Any, None]:
    """Sent (dtype, shape), gives the next array."""
    array: Any = None
    while True:
        name, shape = yield array
        if name not in KINDS or not all(isinstance(n, int) and n >= 0 for n in shape) or len(shape) > 32:
            raise ValueError("no array")
        size = prod(shape) * KINDS[name]
        if size > len(data):
            raise ValueError("too few bytes")
        array = np.frombuffer(data[:size], dtype=name).reshape(shape).copy()
        data = data[size:]


def _exactly(stream: BinaryIO, count: int) -> bytes:
    found = stream.read(count)
    if len(found) != count:
        raise EOFError
    return found
