"""State of stages as bytes: named numpy arrays and JSON values, with a version in front.

A part is ``b"QTS1" | u32 header bytes | header JSON | array bytes …``. A large one is packed: its header says only how
long it is, and behind it stands the part as above, as lz4. Never pickle: state crosses versions.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import orjson
import pyarrow as pa

from qingtu.errors import FrameError, VersionError

if TYPE_CHECKING:
    from collections.abc import Mapping

STATE_VERSION: Final = 2
_HEAD: Final = struct.Struct("<4sI")
_MAGIC: Final = b"QTS1"
_SMALL: Final = 16 * 1024
# The pass of 2,000 stations saves 13 MB, most of it zeros and times at even distances: 0.4 MB packed. The bus writes
# each byte two or three times.
_CODEC: Final = "lz4"


def pack(arrays: Mapping[str, np.ndarray[Any, Any]], values: Mapping[str, Any] | None = None) -> bytes:
    """Write arrays (any shape, plain or structured dtype) and JSON values."""
    index = []
    bodies: list[np.ndarray[Any, Any]] = []
    for name, array in arrays.items():
        body = np.ascontiguousarray(array)
        index.append([name, np.lib.format.dtype_to_descr(array.dtype), list(array.shape), body.nbytes])
        bodies.append(body.reshape(-1).view(np.uint8))
    parts: list[Any] = [*_head({"arrays": index, "values": dict(values or {})}), *bodies]
    size = sum(len(part) for part in parts)
    if size < _SMALL:
        return b"".join(parts)
    # Array by array: to touch as much new memory as the whole has costs ten times as much as to pack it.
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, _CODEC) as stream:
        for part in parts:
            stream.write(part)
    return b"".join((*_head({"plain": size}), sink.getvalue()))


def _head(head: Mapping[str, Any]) -> tuple[bytes, bytes]:
    packed = orjson.dumps({"v": STATE_VERSION, **head})
    return _HEAD.pack(_MAGIC, len(packed)), packed


def unpack(data: bytes) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, Any]]:
    """Read what :func:`pack` wrote; the arrays are copies that may be written to.

    Raises:
        FrameError: not a packed state.
        VersionError: written by a newer program.
    """
    if len(data) < _HEAD.size or data[:4] != _MAGIC:
        raise FrameError("not a saved state")
    size = _HEAD.unpack_from(data)[1]
    try:
        head = orjson.loads(data[_HEAD.size : _HEAD.size + size])
    except orjson.JSONDecodeError as error:
        raise FrameError(f"not a saved state: {error}") from error
    if head["v"] > STATE_VERSION:
        raise VersionError(
            f"由更新的程序写入 / state version {head['v']} was written by a newer program; this reads {STATE_VERSION}"
        )
    at = _HEAD.size + size
    if "plain" in head:
        try:
            return unpack(pa.decompress(pa.py_buffer(data).slice(at), head["plain"], _CODEC, asbytes=True))
        except OSError as error:
            raise FrameError(f"a saved state cannot be unpacked: {error}") from error
    arrays = {}
    for name, descr, shape, length in head["arrays"]:
        if at + length > len(data):
            raise FrameError(f"a saved state is cut short in {name}")
        arrays[name] = np.frombuffer(data[at : at + length], _dtype(descr)).reshape(shape).copy()
        at += length
    return arrays, head["values"]


def _dtype(descr: Any) -> np.dtype[Any]:
    """Read a dtype as JSON keeps it: fields, which may be structured themselves, are lists, not tuples."""
    if isinstance(descr, str):
        return np.dtype(descr)
    return np.dtype([(name, _dtype(kind), *shape) for name, kind, *shape in descr])
