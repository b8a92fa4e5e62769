"""Raw frames: what is put in comes out, and the counts are what the ledger may believe."""

from __future__ import annotations

from collections import Counter
from typing import Any

import orjson
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.raw import RawBuilder, Source, command_row, raw_frame, redrive_rows, tick_row
from qingtu.clock import HOUR
from qingtu.records import RAW_ROWS, Kind, decode

SOURCES = [Source(f"t/{n}/{d}", n, "r" if n else "", d) for n in ("", "air", "sea") for d in ("", "a", "b")]

messages = st.tuples(
    st.sampled_from(SOURCES), st.binary(max_size=20), st.integers(0, 63), st.integers(0, 65_535),
    st.none() | st.binary(min_size=1, max_size=5), st.integers(0, 10 * HOUR), st.integers(0, 2**50),
    st.integers(0, 2**40),
    st.sampled_from(["", "no_route", "too_large"]), st.none() | st.binary(min_size=32, max_size=32),
)  # fmt: skip


@given(st.lists(messages, min_size=1, max_size=50))
@settings(deadline=None)
def test_rows_come_out_as_they_went_in(rows: list[Any]) -> None:
    """Every field of every message, and n messages by network and hour of receipt."""
    builder = RawBuilder("gate")
    for row in rows:
        builder.append(row)
    frame = decode(builder.build("v", 7))
    batch = frame.sections["rows"]
    batch.validate(full=True)
    assert batch.schema == RAW_ROWS
    got = batch.set_column(1, "received_at", batch.column("received_at").cast(pa.int64())).to_pylist()
    assert [
        (r["topic"], r["network"], r["route"], r["device"], r["payload"], r["flags"], r["packet_id"], r["properties"],
         r["received_at"], r["connection"], r["size"], r["refused"], r["digest"])
        for r in got
    ] == [(s.topic, s.network, s.route, s.device, *rest) for s, *rest in rows]  # fmt: skip
    assert {(r["kind"], r["gateway"], r["redrive_of"], r["shift_us"]) for r in got} == {(0, "gate", None, None)}
    counts = Counter((s.network, received // HOUR * HOUR) for s, _, _, _, _, received, *_ in rows)
    assert {(n, h): c for n, h, c in frame.header["counts"]} == counts
    assert (frame.header["stream"], frame.header["gateway"], frame.clock_us) == ("raw", "gate", 7)


def test_one_frame_may_mix_ticks_commands_and_redriven_rows() -> None:
    """They keep their order; none of them counts as received, as re-driven messages were counted before."""
    builder = RawBuilder("gate")
    for i in range(3):
        builder.append((SOURCES[4], b"m%d" % i, 1, i, None, HOUR + i, 9, 2, "", None))
    first = decode(builder.build("v", 1)).sections["rows"]
    again = redrive_rows(first.slice(1, 2), [65_537, 65_538], -5)
    parts = [tick_row(8, {"native": 3}, gateway="g"), command_row(9, "acknowledge", "王", {"alert": "x"}), again]
    frame = decode(raw_frame(parts, gateway="g", catalogue=None, clock_us=9))
    rows = frame.sections["rows"].to_pylist()
    frame.sections["rows"].validate(full=True)
    assert [r["kind"] for r in rows] == [Kind.TICK, Kind.COMMAND, Kind.MESSAGE, Kind.MESSAGE]
    assert orjson.loads(rows[0]["payload"]) == {"hearing": {"native": 3}}
    assert orjson.loads(rows[1]["payload"]) == {"name": "acknowledge", "who": "王", "args": {"alert": "x"}}
    original = first.to_pylist()
    assert rows[2] == {**original[1], "redrive_of": 65_537, "shift_us": -5}
    assert rows[3] == {**original[2], "redrive_of": 65_538, "shift_us": -5}
    assert frame.header["counts"] == []
    mixed = decode(raw_frame([first, again], gateway="g", catalogue=None, clock_us=9))
    assert mixed.header["counts"] == [["air", HOUR, 3]]
