"""Frames and their columns."""

from __future__ import annotations

import numpy as np
import orjson
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qingtu import records
from qingtu.errors import FrameError, QingtuError, VersionError
from qingtu.records import FRAME_VERSION, MAX_ROWS, RAW_ROWS, REJECTED_ROWS, SECTIONS, decode, decode_header, encode
from tests.process.support import batch_of, configure, message

HEADER = {"stream": "raw", "clock": 7, "origin": [1, 2], "catalogue": "c"}
FRAME = encode(HEADER, {"rows": batch_of([message("a", b"x"), configure(0, "v")])})


def test_round_trip_of_every_section() -> None:
    """Every schema can be written empty columns and all, and read again; the header comes back."""
    for name, schema in SECTIONS.items():
        batch = pa.RecordBatch.from_arrays([pa.nulls(2, spec.type) for spec in schema], schema=schema)
        frame = decode(encode(HEADER, {name: batch}))
        assert frame.sections[name].equals(batch), name
        assert frame.sections[name].schema.equals(schema), name
    assert (frame.origin, frame.clock_us, frame.header["catalogue"]) == ((1, 2), 7, "c")


def test_columns_of_a_section_have_different_names() -> None:
    """A rejected row holds the raw row beside its own columns: none may hide another."""
    for name, schema in SECTIONS.items():
        assert len(set(schema.names)) == len(schema.names), name
    assert set(RAW_ROWS.names) < set(REJECTED_ROWS.names)


def test_empty_sections_are_absent() -> None:
    """A reader asks with ``get`` and gets None."""
    frame = decode(encode({**HEADER, "origin": None}, {"rows": batch_of([]), "readings": batch_of([])}))
    assert (frame.sections, frame.get("rows"), frame.origin) == ({}, None, None)


def test_several_sections_keep_their_order() -> None:
    """One frame carries several tables."""
    two = {"rows": batch_of([message("a", b"x")]), "other": batch_of([message("b", b"y")] * 3)}
    found = decode(encode(HEADER, two)).sections
    assert [(name, batch.num_rows) for name, batch in found.items()] == [("rows", 1), ("other", 3)]


def test_only_the_sections_that_are_wanted_are_read() -> None:
    """A reader that looks at one table does not unpack the others; a frame that is cut short is one all the same."""
    data = encode(HEADER, {"rows": batch_of([message("a", b"x")]), "other": batch_of([message("b", b"y")] * 3)})
    assert {name: batch.num_rows for name, batch in decode(data, ("other", "absent")).sections.items()} == {"other": 3}
    assert decode(data, ()).sections == {}
    with pytest.raises(FrameError):
        decode(data[:-1], ("rows",))


def test_header_is_read_without_arrow() -> None:
    """The ledger counts from headers alone."""
    assert decode_header(FRAME)["sections"][0][0] == "rows"
    assert decode_header(FRAME[: len(FRAME) // 2])["v"] == FRAME_VERSION


@given(st.integers(0, len(FRAME) - 1))
def test_a_frame_cut_anywhere_is_refused(at: int) -> None:
    """Half a frame is a FrameError."""
    with pytest.raises(FrameError):
        decode(FRAME[:at])


@given(st.integers(0, decode_header(FRAME)["sections"][0][1] // 2), st.integers(1, 255))
@settings(max_examples=200, deadline=None)
def test_a_changed_header_is_refused_or_read(at: int, by: int) -> None:
    """Bytes changed in front give one of our errors or a frame, never another exception."""
    changed = bytearray(FRAME)
    changed[at % 120] ^= by
    try:
        decode_header(bytes(changed))
    except QingtuError:
        return
    assert changed[:4] == FRAME[:4]


@given(st.binary(max_size=80))
def test_other_bytes_are_refused(data: bytes) -> None:
    """Noise is a FrameError."""
    with pytest.raises(FrameError):
        decode(data)


def test_sections_that_are_not_arrow_are_refused() -> None:
    """Whatever stands where a record batch should."""
    head = orjson.dumps({"v": 1, "sections": [["rows", 8]]})
    for body in (b"\xff" * 8, bytes(8), b"ARROW1\0\0"):
        with pytest.raises(FrameError, match="section rows"):
            decode(records._HEAD.pack(b"QTF1", len(head)) + head + body)


def test_a_newer_version_is_refused() -> None:
    """By name of both versions; an older or equal one is read."""
    head = orjson.dumps({"v": FRAME_VERSION + 1, "sections": []})
    with pytest.raises(VersionError, match=rf"{FRAME_VERSION + 1}.*newer.*{FRAME_VERSION}"):
        decode(records._HEAD.pack(b"QTF1", len(head)) + head)


def test_more_raw_rows_than_positions_are_refused() -> None:
    """The 65,537th row would have the position of the next frame's first."""
    row = batch_of([message("a", b"")])
    most = pa.Table.from_batches([row] * MAX_ROWS).combine_chunks().to_batches()[0]
    assert decode(encode(HEADER, {"rows": most})).sections["rows"].num_rows == MAX_ROWS
    more = pa.Table.from_batches([row] * (MAX_ROWS + 1)).combine_chunks().to_batches()[0]
    with pytest.raises(ValueError, match="at most 65536 raw rows"):
        encode(HEADER, {"rows": more})


@given(st.integers(0, 1 << 46), st.integers(0, MAX_ROWS - 1))
def test_positions_order_as_rows_do(offset: int, row: int) -> None:
    """Offset and row come back, and the order is that of raw."""
    at = records.position(offset, row)
    assert (at >> 16, at & 0xFFFF) == (offset, row)
    assert at < records.position(offset + 1, 0) < 1 << 63


@given(st.lists(st.sampled_from(["a", "b", "岛", ""]), min_size=1))
def test_name_columns_round_trip(values: list[str]) -> None:
    """Codes and names say what was put in."""
    distinct = sorted(set(values))
    column = records.names(np.array([distinct.index(v) for v in values]), distinct)
    codes, found = records.codes_of(column)
    assert [found[c] for c in codes] == values == column.to_pylist()
    assert records.same_name("x", 3).to_pylist() == ["x"] * 3


@given(st.lists(st.integers(-(1 << 62), 1 << 62)))
def test_time_columns_round_trip(values: list[int]) -> None:
    """µs in, µs out."""
    assert records.times_of(records.times(np.array(values, np.int64))).tolist() == values


def test_batch_takes_numpy_lists_and_arrow() -> None:
    """Columns of any of the three kinds end in the schema's types and order."""
    schema = pa.schema([("a", pa.int32()), ("b", pa.string()), ("c", pa.uint8())])
    found = records.batch(schema, {"c": np.array([1, 2]), "b": ["x", None], "a": pa.array([5, 6], pa.int32())})
    assert found.schema == schema
    assert found.to_pylist() == [{"a": 5, "b": "x", "c": 1}, {"a": 6, "b": None, "c": 2}]
