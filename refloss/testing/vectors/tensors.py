"""Tensors in a file: .safetensors and .npz, written byte for byte alike on every run, read without trust.

A .safetensors file is eight bytes that say how long its header is, the header, which is JSON and says of each tensor
its dtype, shape and bytes, and these bytes, little-endian. An .npz file holds the same tensors, one .npy each, without
pickles; NumPy has no bfloat16, so that its numbers lie there as the 16 bits that they are, uint16.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import stat
import zipfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from refloss.testing.adapters.numpy import to_bits, to_values

TAGS = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64"}
DTYPE_OF = {tag: dtype for dtype, tag in TAGS.items()}
STORED = {"float64": "<f8", "float32": "<f4", "float16": "<f2", "bfloat16": "<u2", "int64": "<i8"}  # in NumPy
NAME = re.compile(r"[A-Za-z0-9_]+(?:-[0-9a-f]{8})?(?:/[A-Za-z0-9_]+){1,2}")  # case-hash/stage, case-hash/stage/bound_C
LARGEST = 256 * 2**20  # bytes of a file that is read at all
LONGEST = 16 * 2**20  # bytes of a header
FORMS = ("safetensors", "npz")


class VectorsError(ValueError):
    """A file that is no test vectors, or not those that it says: one line that names the file and what."""

    def __init__(self, path: str | os.PathLike, words: str) -> None:
        super().__init__(f"{os.fspath(path)}: {words}")


class Tensor(NamedTuple):
    """An array in a dtype. bits: integers of its width."""

    dtype: str
    bits: np.ndarray

    @classmethod
    def of(cls, values: Any, dtype: str = "float64") -> Tensor:
        """The values rounded to the dtype."""
        values = np.asarray(values)
        return cls(dtype, np.asarray(to_bits(values, dtype)).reshape(values.shape))

    @property
    def values(self) -> np.ndarray:
        """float64; int64 as it is."""
        return np.asarray(to_values(self.bits, self.dtype))

    @property
    def shape(self) -> tuple[int, ...]:
        return self.bits.shape

    def data(self) -> bytes:
        """Its bytes, little-endian, rows first."""
        return self.bits.astype(self.bits.dtype.newbyteorder("<")).tobytes()


# -- writing ---------------------------------------------------------------------------------------


def to_safetensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """The file. Wider dtypes come first, so that every tensor is aligned; the header is padded to eight bytes."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    parts, end = [], 0
    for name in sorted(tensors, key=lambda name: -tensors[name].bits.dtype.itemsize):
        tensor = tensors[name]
        parts.append(tensor.data())
        begin, end = end, end + len(parts[-1])
        header[name] = {"dtype": TAGS[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=True).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(parts)


def to_npz(tensors: Mapping[str, Tensor]) -> bytes:
    """The file. Entries have no date."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, tensor in tensors.items():
            entry = io.BytesIO()
            array = np.frombuffer(tensor.data(), dtype=STORED[tensor.dtype]).reshape(tensor.shape)
            np.lib.format.write_array(entry, array, version=(1, 0), allow_pickle=False)
            file.writestr(zipfile.ZipInfo(f"{name}.npy"), entry.getvalue())
    return buffer.getvalue()


# -- reading ---------------------------------------------------------------------------------------


def read_bytes(path: str, largest: int = LARGEST) -> bytes:
    """The whole of an ordinary file that is not larger than it may be."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise VectorsError(path, "is no ordinary file")
        if status.st_size > largest:
            raise VectorsError(path, f"has {status.st_size} bytes, more than {largest}")
        with open(path, "rb") as file:
            return file.read(largest + 1)
    except OSError as error:
        raise VectorsError(path, error.strerror or str(error)) from error


def read_tensors(path: str, content: bytes, bits16: str = "float16") -> tuple[dict[str, Tensor], dict[str, str]]:
    """(the tensors by name, metadata) of a .safetensors or .npz file, by the ending of its name.

    bits16: the dtype of what lies in an .npz file as uint16.
    """
    if path.endswith(".safetensors"):
        return from_safetensors(path, content)
    if path.endswith(".npz"):
        return from_npz(path, content, bits16), {}
    raise VectorsError(path, f"must end in .{' or .'.join(FORMS)}")


def from_safetensors(path: str, content: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(the tensors by name, metadata); every claim of the header is checked before anything is read by it."""

    def refuse(words: str) -> VectorsError:
        return VectorsError(path, words)

    if len(content) < 8:
        raise refuse(f"has {len(content)} bytes, and the length of a header takes 8: no .safetensors file")
    length = int.from_bytes(content[:8], "little")
    if length > min(LONGEST, len(content) - 8):
        raise refuse(f"claims a header of {length} bytes: no .safetensors file, or cut off")
    header = strict_object(path, content[8 : 8 + length], "header")
    metadata = header.pop("__metadata__", {})
    if not (isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())):
        raise refuse("the header's __metadata__ must map strings to strings")
    data, found, ranges = memoryview(content)[8 + length :], {}, []
    for name, entry in header.items():
        checked_name(path, name)
        if not (isinstance(entry, dict) and entry.keys() == {"dtype", "shape", "data_offsets"}):
            raise refuse(f"tensor {name} must have dtype, shape, data_offsets and nothing else")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or dtype not in DTYPE_OF:
            raise refuse(f"tensor {name} has dtype {dtype!r}; there are {', '.join(DTYPE_OF)}")
        if not (_counts(shape) and len(shape) <= 8):
            raise refuse(f"tensor {name} has shape {str(shape)[:80]}: not up to 8 whole numbers")
        if not (_counts(offsets) and len(offsets) == 2):
            raise refuse(f"tensor {name} has data_offsets {str(offsets)[:80]}: not two whole numbers")
        kind = np.dtype(STORED[DTYPE_OF[dtype]])
        due, (begin, end) = math.prod(shape) * kind.itemsize, offsets
        if end - begin != due:
            raise refuse(f"tensor {name} of shape {tuple(shape)} has {end - begin} bytes, {due} are due")
        if end > len(data):
            raise refuse(f"tensor {name} ends at byte {end} of {len(data)}: cut off")
        ranges.append((begin, end, name))
        if max(shape, default=0) > len(content):
            raise refuse(f"tensor {name} has shape {tuple(shape)}, which is no array's")
        array = np.frombuffer(data[begin:end], dtype=kind).reshape(shape)
        found[name] = _tensor(DTYPE_OF[dtype], array)
    reached = 0
    for begin, end, name in sorted(ranges):
        if begin != reached:
            word = "overlaps with another" if begin < reached else "has a hole before it"
            raise refuse(f"tensor {name} begins at byte {begin}, {reached} is due: {word}")
        reached = end
    if reached != len(data):
        raise refuse(f"has {len(data) - reached} bytes beyond its tensors")
    return found, metadata


def from_npz(path: str, content: bytes, bits16: str = "float16") -> dict[str, Tensor]:
    """The tensors by name: plain arrays, as large as the file itself, of which no name is there twice."""
    found: dict[str, Tensor] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            for info in file.infolist():
                name = checked_name(path, info.filename.removesuffix(".npy"))
                if name in found:
                    raise VectorsError(path, f"holds {name} twice")
                if info.compress_type != zipfile.ZIP_STORED or info.file_size > len(content):
                    raise VectorsError(path, f"{name} is compressed or larger than the file")
                array = _npy(path, name, file.read(info))
                kinds = {v: k for k, v in STORED.items()} | {"<u2": bits16}
                if array.dtype.str not in kinds:
                    words = f"{name} has dtype {array.dtype}; there are float64, float32, float16, int64, and uint16"
                    raise VectorsError(path, f"{words} for bfloat16")
                found[name] = _tensor(kinds[array.dtype.str], array)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise VectorsError(path, f"is no .npz file, or damaged: {error}") from error
    return found


def _npy(path: str, name: str, content: bytes) -> np.ndarray:
    """The array of an .npy file, whose size is checked before it is made."""
    stream = io.BytesIO(content)
    try:
        if np.lib.format.read_magic(stream) != (1, 0):
            raise ValueError("not version 1.0")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    except (ValueError, EOFError, SyntaxError) as error:
        raise VectorsError(path, f"{name} is no .npy array: {' '.join(str(error).split())[:120]}") from error
    rest = content[stream.tell() :]
    claimed = math.prod(shape) * dtype.itemsize
    if dtype.hasobject or dtype.fields or claimed != len(rest) or max(shape, default=0) > len(content):
        raise VectorsError(path, f"{name} of shape {shape} and dtype {dtype} has {len(rest)} bytes")
    return np.frombuffer(rest, dtype=dtype).reshape(shape, order="F" if fortran else "C")


def _tensor(dtype: str, array: np.ndarray) -> Tensor:
    width = array.dtype.itemsize
    native = array.astype(array.dtype.newbyteorder("="))
    return Tensor(dtype, np.ascontiguousarray(native).view(f"i{width}").reshape(array.shape))


def strict_object(path: str, content: bytes, what: str) -> dict[str, Any]:
    """A JSON object without a key twice, NaN or Infinity."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            keys = [key for key, _ in pairs]
            raise VectorsError(path, f"the {what} has {next(k for k in keys if keys.count(k) > 1)!r} twice")
        return made

    def constant(name: str) -> Any:
        raise VectorsError(path, f"the {what} holds {name}, which is no JSON")

    try:
        found = json.loads(content.decode(), object_pairs_hook=once, parse_constant=constant)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise VectorsError(path, f"the {what} is no JSON: {str(error)[:120]}") from error
    except VectorsError:
        raise
    except ValueError as error:  # a number of thousands of digits
        raise VectorsError(path, f"the {what} is no JSON that is read here: {str(error)[:120]}") from error
    if not isinstance(found, dict):
        raise VectorsError(path, f"the {what} is no JSON object")
    return found


def checked_name(path: str, name: str) -> str:
    """The name of a tensor, such as typical-1f03a2bc/grad_x."""
    if not NAME.fullmatch(name):
        raise VectorsError(path, f"{name[:80]!r} is no name of a tensor, such as typical-1f03a2bc/grad_x")
    return name


def _counts(values: Any) -> bool:
    return isinstance(values, list) and all(
        isinstance(v, int) and not isinstance(v, bool) and 0 <= v < 2**63 for v in values
    )
