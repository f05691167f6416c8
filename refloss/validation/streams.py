"""W that is read, and its gradient that is written, some rows at a time: the caller's arrays, or memory maps."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from refloss.validation.arrays import as_array, real_array

ROWS_AT_ONCE = 1 << 20  # numbers of W looked at in one go


class Stream:
    """An array (C, D) of real numbers that is not copied: some of its rows are doubles when they are asked for."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.shape = array, array.shape

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, index: Any) -> np.ndarray:
        return np.array(self.array[index], dtype=np.float64, order="C")

    def parts(self) -> Iterator[slice]:
        """Slices of the rows, to go through them once."""
        step = max(1, ROWS_AT_ONCE // max(1, self.shape[1]))
        return (slice(start, start + step) for start in range(0, len(self), step))


def stream(W: Any, columns: int, zero_rows: Callable[[np.ndarray, int], None]) -> Stream:
    """W (C, D), not copied, once every row was seen to be finite. zero_rows(rows, first) refuses zero rows."""
    array = as_array(W, "W")
    if array.ndim != 2 or array.shape[0] == 0 or array.shape[1] != columns:
        raise ValueError(f"W must be 2-D (C, D) with at least one class and D = {columns} columns, got {array.shape}")
    rows = Stream(array)
    for part in rows.parts():
        first = part.start
        zero_rows(real_array(array[part], "W", place=lambda i, j, first=first: (int(i) + first, int(j))), first)
    return rows


def target_of_gradient(out: Any, W: np.ndarray, inputs: Mapping[str, Any]) -> np.ndarray:
    """out["W"], where it can take the gradient in W. inputs: what the caller gave, by name; none may overlap it."""
    if not isinstance(out, Mapping) or set(out) != {"W"}:
        given = sorted(map(str, out)) if isinstance(out, Mapping) else type(out).__name__
        raise ValueError(f'out must be a mapping with the key "W" alone, got {given}')
    array = out["W"]
    if not isinstance(array, np.ndarray) or isinstance(array, np.ma.MaskedArray):
        raise TypeError(f'out["W"] must be a NumPy array, got {type(array).__name__}')
    if array.shape != W.shape:
        raise ValueError(f'out["W"] must have the shape of W, {W.shape}, got {array.shape}')
    least = W.dtype if W.dtype.kind == "f" else np.dtype(np.float64)
    if array.dtype.kind != "f" or np.finfo(array.dtype).max < np.finfo(least).max:
        raise TypeError(f'out["W"] must be of a float type with at least the range of {least}, got {array.dtype}')
    if not array.flags.writeable:
        raise ValueError('out["W"] is read-only')
    if _overlaps_itself(array):
        raise ValueError(f'out["W"] has several entries in one place: its strides are {array.strides}')
    for name, other in inputs.items():
        if isinstance(other, np.ndarray) and (_share_memory(array, other) or _same_part_of_file(array, other)):
            raise ValueError(f'out["W"] overlaps {name}, which would be overwritten while it is read')
    return array


def _overlaps_itself(array: np.ndarray) -> bool:
    """Whether entries may lie in one place: the steps along one axis must leap over all that lies along the other."""
    axes = sorted((abs(step), count) for step, count in zip(array.strides, array.shape, strict=True) if count > 1)
    room = array.itemsize
    for step, count in axes:
        if step < room:
            return True
        room = step * (count - 1) + room
    return False


def _share_memory(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether an entry of both lies in one place, as far as that is found out quickly."""
    try:
        return np.shares_memory(a, b, max_work=1 << 20)  # type: ignore[arg-type]  # any bound will do
    except np.exceptions.TooHardError:
        return True


def _same_part_of_file(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two parts of memory maps hold some of the same bytes of one file."""
    (file_of_a, start_of_a), (file_of_b, start_of_b) = _place_in_file(a), _place_in_file(b)
    if not (file_of_a and file_of_b and os.path.samefile(file_of_a, file_of_b)):
        return False
    return start_of_a < start_of_b + b.nbytes and start_of_b < start_of_a + a.nbytes


def _place_in_file(array: np.ndarray) -> tuple[Any, int]:
    """The file of a memory map, or None, and the first byte of the array there."""
    root = array
    while isinstance(root.base, np.memmap):
        root = root.base
    if not isinstance(root, np.memmap) or root.filename is None:
        return None, 0
    return root.filename, root.offset + array.ctypes.data - root.ctypes.data
