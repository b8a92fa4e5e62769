"""State of stages as bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qingtu.errors import FrameError, VersionError
from qingtu.state import _HEAD, _MAGIC, STATE_VERSION, pack, unpack

if TYPE_CHECKING:
    from numpy.typing import NDArray

INNER = np.dtype([("hi", "<u8"), ("lo", "<u8")])
DTYPES = ["<i8", "<f8", "u1", "?", "<U3", INNER, np.dtype([("a", INNER), ("b", "<i4", (2,))])]


@given(st.sampled_from(DTYPES), st.lists(st.integers(0, 3), max_size=3), st.dictionaries(st.text(), st.integers(0, 9)))
def test_round_trip(dtype: Any, shape: list[int], values: dict[str, int]) -> None:
    """Any shape and dtype, structured within structured too, comes back equal and writable."""
    array = np.frombuffer(bytes(range(64)) * 64, np.uint8)[: int(np.prod(shape)) * np.dtype(dtype).itemsize]
    array = (array % 2).view(dtype).reshape(shape) if array.size else np.zeros(shape, dtype)
    arrays, found = unpack(pack({"x": array, "empty": np.zeros(0)}, values))
    assert found == values
    assert arrays["x"].dtype == array.dtype
    assert arrays["x"].shape == tuple(shape)
    assert arrays["x"].tobytes() == array.tobytes()
    assert arrays["x"].flags.writeable


def test_strided_arrays_are_packed_by_value() -> None:
    """A view packs what it shows."""
    table: NDArray[np.int64] = np.arange(12).reshape(3, 4)
    assert unpack(pack({"x": table[:, ::2]}))[0]["x"].tolist() == [[0, 2], [4, 6], [8, 10]]


def test_large_states_are_packed() -> None:
    """What series start as takes next to no room, and comes back whole."""
    array = np.zeros(100_000)
    array[::1000] = np.nan
    data = pack({"a": np.arange(9), "x": array}, {"n": 1})
    assert len(data) < array.nbytes / 50
    arrays, values = unpack(data)
    assert arrays["x"].tobytes() == array.tobytes()
    assert (arrays["a"].tolist(), values) == (list(range(9)), {"n": 1})


def test_the_plain_states_of_before_are_read() -> None:
    """Version 1 had no packing."""
    array = np.arange(10_000)
    head = b'{"v": 1, "arrays": [["x", "<i8", [10000], 80000]], "values": {}}'
    data = _HEAD.pack(_MAGIC, len(head)) + head + array.tobytes()
    assert unpack(data)[0]["x"].tolist() == array.tolist()


@pytest.mark.parametrize(
    "data",
    [
        b"", b"QTS", b"QTS2" + bytes(9), pack({})[:-1], pack({"x": np.arange(9)})[:-1],
        pack({"x": np.arange(9000)})[:-9], pack({"x": np.arange(9000)})[:200],
    ],
)  # fmt: skip
def test_other_bytes_are_refused(data: bytes) -> None:
    """What is not a whole state is a FrameError, never half of one."""
    with pytest.raises(FrameError):
        unpack(data)


def test_a_newer_version_is_refused() -> None:
    """An older program does not read what a newer one wrote."""
    head = b'{"v": %d, "arrays": [], "values": {}}' % (STATE_VERSION + 1)
    with pytest.raises(VersionError, match="newer program"):
        unpack(_HEAD.pack(_MAGIC, len(head)) + head)
