"""The header of a GGUF file: its metadata, and where each tensor lies. No number in it is believed before it is checked.

The `gguf` package's own reader makes arrays of every token, in two seconds for SmolLM2's vocabulary, and runs on without end where a
length was altered; its tables of types are used here. Source of the format: ggml-org/ggml, docs/gguf.md.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gguf import GGML_QUANT_SIZES, GGUF_DEFAULT_ALIGNMENT, GGMLQuantizationType, GGUFValueType

__all__ = ["GGUFHeader", "GGUFTensor", "read_header"]

_VERSIONS = (2, 3)
_MAX_DIMS = 4  # ggml's own limit
_MAX_LENGTH = 1 << 22  # of an array: sixteen times the largest vocabularies

_SCALARS = {
    GGUFValueType.UINT8: "<u1",
    GGUFValueType.INT8: "<i1",
    GGUFValueType.UINT16: "<u2",
    GGUFValueType.INT16: "<i2",
    GGUFValueType.UINT32: "<u4",
    GGUFValueType.INT32: "<i4",
    GGUFValueType.UINT64: "<u8",
    GGUFValueType.INT64: "<i8",
    GGUFValueType.FLOAT32: "<f4",
    GGUFValueType.FLOAT64: "<f8",
    GGUFValueType.BOOL: "?",
}


class GGUFTensor(NamedTuple):
    """Where a tensor lies in the file, in bytes from its beginning, in which type, and its shape as torch has it."""

    type: GGMLQuantizationType
    shape: tuple[int, ...]
    offset: int
    n_bytes: int


class GGUFHeader(NamedTuple):
    """The metadata as plain Python values, and the tensors, by their names in the file."""

    fields: dict[str, Any]
    tensors: dict[str, GGUFTensor]


def read_header(path: Path) -> GGUFHeader:
    """Read the header of a GGUF file; raises ValueError for a file that is none, is cut short or contradicts itself."""
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    size = path.stat().st_size
    with path.open("rb") as file:
        if (magic := file.read(4)) != b"GGUF":
            raise ValueError(f"{path} is no GGUF file: it begins with {magic!r}, not with b'GGUF'")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            try:
                return _read(_Cursor(content, at=4), size)
            except (ValueError, OverflowError) as error:
                raise ValueError(f"{path} is no GGUF file that can be read: {error}") from None


class _Cursor:
    """Reads one value after the other; raises ValueError where the file ends before a value does."""

    def __init__(self, content: mmap.mmap, *, at: int) -> None:
        self.content, self.at = content, at

    def take(self, n_bytes: int) -> bytes:
        end = self.at + n_bytes
        if end > len(self.content):
            raise ValueError(f"its header ends at byte {len(self.content):,}, in the middle of a value; fetch it again")
        taken = self.content[self.at : end]
        self.at = end
        return taken

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def u64(self) -> int:
        return int.from_bytes(self.take(8), "little")

    def text(self) -> str:
        return self.take(self.u64()).decode()

    def value(self) -> Any:
        kind = GGUFValueType(self.u32())
        if kind == GGUFValueType.ARRAY:
            kind, length = GGUFValueType(self.u32()), self.u64()
            if length > _MAX_LENGTH:
                raise ValueError(f"it has an array of {length:,} values, where {_MAX_LENGTH:,} are the most")
            return self._texts(length) if kind == GGUFValueType.STRING else self._scalars(kind, length)
        return self.text() if kind == GGUFValueType.STRING else self._scalars(kind, 1)[0]

    def _scalars(self, kind: GGUFValueType, length: int) -> list[Any]:
        if kind not in _SCALARS:
            raise ValueError("it has an array of arrays, which no known metadata is")
        dtype = np.dtype(_SCALARS[kind])
        values: list[Any] = np.frombuffer(self.take(length * dtype.itemsize), dtype).tolist()
        return values

    def _texts(self, length: int) -> list[str]:
        """Read strings in a loop of its own: `text` for each of 100,000 would take four times as long."""
        content, at, texts = self.content, self.at, []
        read_length: Callable[[mmap.mmap, int], tuple[int]] = struct.Struct("<Q").unpack_from
        try:
            for _ in range(length):
                start = at + 8
                at = start + read_length(content, at)[0]
                texts.append(content[start:at].decode())
        except struct.error:
            at = len(content) + 1
        self.at = at
        self.take(0)
        return texts


def _read(cursor: _Cursor, size: int) -> GGUFHeader:
    version = cursor.u32()
    if version not in _VERSIONS:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        what = "is written for big-endian machines" if swapped in _VERSIONS else f"has version {version}"
        raise ValueError(f"it {what}; expected little-endian and version {' or '.join(map(str, _VERSIONS))}")
    n_tensors, n_fields = cursor.u64(), cursor.u64()
    fields: dict[str, Any] = {}
    for _ in range(n_fields):
        key = cursor.text()
        if key in fields:
            raise ValueError(f"its metadata has {key!r} twice")
        fields[key] = cursor.value()
    alignment = fields.get("general.alignment", GGUF_DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or not 0 < alignment < 1 << 31 or alignment & (alignment - 1):
        raise ValueError(f"its alignment is {alignment!r}; expected a power of two")
    tensors: dict[str, GGUFTensor] = {}
    for _ in range(n_tensors):
        name, tensor = _read_tensor(cursor)
        if name in tensors:
            raise ValueError(f"it has the tensor {name!r} twice")
        tensors[name] = tensor
    start = -(-cursor.at // alignment) * alignment
    placed = {name: tensor._replace(offset=start + tensor.offset) for name, tensor in tensors.items()}
    for name, tensor in placed.items():
        if tensor.offset % alignment:
            raise ValueError(f"{name!r} does not begin at a multiple of {alignment} bytes")
        if tensor.offset + tensor.n_bytes > size:
            raise ValueError(
                f"{name!r} ends at byte {tensor.offset + tensor.n_bytes:,} and the file at {size:,}: it was cut short; fetch it again"
            )
    return GGUFHeader(fields, placed)


def _read_tensor(cursor: _Cursor) -> tuple[str, GGUFTensor]:
    """Read one tensor's entry; its offset counts from where the header ends."""
    name = cursor.text()
    n_dims = cursor.u32()
    if not 1 <= n_dims <= _MAX_DIMS:
        raise ValueError(f"{name!r} has {n_dims} dimensions; expected 1 to {_MAX_DIMS}")
    shape = tuple(reversed([cursor.u64() for _ in range(n_dims)]))
    kind, offset = GGMLQuantizationType(cursor.u32()), cursor.u64()
    block_size, block_bytes = GGML_QUANT_SIZES[kind]
    if min(shape) == 0 or shape[-1] % block_size:
        raise ValueError(f"{name!r} has shape {list(shape)}; expected rows of whole {kind.name} blocks of {block_size}")
    return name, GGUFTensor(kind, shape, offset, math.prod(shape) // block_size * block_bytes)
