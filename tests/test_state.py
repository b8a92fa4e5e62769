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
    """What is mostly the same takes little room, and comes back whole; what cannot be packed comes back as well."""
    noise = np.random.default_rng(1).integers(0, 256, 100_000, np.uint8)
    data = pack({"x": np.zeros(100_000), "noise": noise}, {"names": ["a"] * 10_000})
    assert len(data) < 110_000
    arrays, values = unpack(data)
    assert not arrays["x"].any()
    assert len(arrays["x"]) == 100_000
    assert (arrays["noise"] == noise).all()
    assert values == {"names": ["a"] * 10_000}


def test_a_state_of_version_1_is_read() -> None:
    """Which was never packed, however large."""
    head = b'{"v":1,"arrays":[["x","<i8",[9000],72000]],"values":{"n":3}}'
    arrays, values = unpack(_HEAD.pack(_MAGIC, len(head)) + head + np.arange(9000).tobytes())
    assert arrays["x"].tolist() == list(range(9000))
    assert values == {"n": 3}


@pytest.mark.parametrize(
    "data",
    [
        b"", b"QTS", b"QTS2" + bytes(9), pack({})[:-1], pack({"x": np.arange(9)})[:-1],
        pack({"x": np.arange(9000)})[:-1], pack({"x": np.arange(9000)})[:-9000],
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
