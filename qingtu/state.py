"""State of stages as bytes: named numpy arrays and JSON values, with a version in front.

A part is ``b"QTS1" | u32 header bytes | header JSON | array bytes …``. Never pickle: state crosses versions.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import orjson

from qingtu.errors import FrameError, VersionError

if TYPE_CHECKING:
    from collections.abc import Mapping

STATE_VERSION: Final = 1
_HEAD: Final = struct.Struct("<4sI")
_MAGIC: Final = b"QTS1"


def pack(arrays: Mapping[str, np.ndarray[Any, Any]], values: Mapping[str, Any] | None = None) -> bytes:
    """Write arrays (any shape, plain or structured dtype) and JSON values."""
    index = []
    bodies = []
    for name, array in arrays.items():
        body = np.ascontiguousarray(array).data
        index.append([name, np.lib.format.dtype_to_descr(array.dtype), list(array.shape), body.nbytes])
        bodies.append(body)
    head = orjson.dumps({"v": STATE_VERSION, "arrays": index, "values": dict(values or {})})
    return b"".join((_HEAD.pack(_MAGIC, len(head)), head, *bodies))


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
        raise VersionError(f"state version {head['v']} was written by a newer program; this reads {STATE_VERSION}")
    at = _HEAD.size + size
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
