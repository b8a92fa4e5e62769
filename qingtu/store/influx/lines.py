"""Line protocol text: how names are escaped, and how columns of readings become wide lines. Pure, no server.

One line holds the readings of one station, channel and time. What most readings of a line share stands in it once
(``rev``, ``known``); what differs stands beside the reading::

    air,station=QD01,channel=main pm25=35.2,pm25_flag=1i,o3_flag=9i,rev=65536i,known=17953920000i 1795391990

The text is made with Arrow's string kernels on whole columns: every reading becomes one piece of text, and the pieces
stand behind each other in one buffer, which is the request.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qingtu.properties import load_properties

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from qingtu.store.merging import Versions
    from qingtu.store.names import SeriesNames

UNKNOWN_DOMAIN: Final = "other"
"""Measurement of a property that this program's dictionary does not have: a newer program wrote it to the bus."""
_FLAGS: Final = 256
_TAG: Final = str.maketrans({",": "\\,", "=": "\\=", " ": "\\ ", "\n": "\\ ", "\r": "\\ "})
_STRING: Final = str.maketrans({"\\": "\\\\", '"': '\\"'})


def measurement_of(prop: str) -> str:
    """Return the measurement that a property's readings stand in: its domain."""
    known = load_properties().get(prop)
    return UNKNOWN_DOMAIN if known is None else known.domain


def tag(text: str) -> str:
    r"""Write a tag's value. Line protocol cannot hold a line break in it, nor a backslash at its end.

    >>> print(tag("a b,c=d"), tag("x" + chr(92)))
    a\ b\,c\=d x＼
    """
    text = text.translate(_TAG)
    return text[:-1] + "＼" if text.endswith("\\") else text


def tags(**values: str) -> str:
    """Write tags behind a measurement; an empty value is no tag at all."""
    return "".join(f",{name}={tag(value)}" for name, value in values.items() if value)


def string(text: str) -> str:
    r"""Write a string field; line breaks are allowed.

    >>> print(string('say "x"'))
    "say \"x\""
    """
    return f'"{text.translate(_STRING)}"'


def fields(**values: str | float | bytes | None) -> str:
    """Write fields: text, integers (bool too) and floats; None and NaN are left out."""
    out = []
    for name, value in values.items():
        if isinstance(value, str):
            out.append(f"{name}={string(value)}")
        elif isinstance(value, float):
            if value == value:  # noqa: PLR0124 - NaN is not equal to itself
                out.append(f"{name}={value!r}")
        elif value is not None:
            out.append(f"{name}={int(value)}i")
    return ",".join(out)


@dataclass(frozen=True, slots=True)
class Lines:
    """Lines of text for one bucket.

    Attributes:
        text: UTF-8, each line with its line break.
        edges: int64 (lines + 1,), where each line begins, and the end.
    """

    text: memoryview
    edges: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.edges) - 1

    @classmethod
    def of(cls, lines: Sequence[str]) -> Lines:
        """Take lines without their line breaks."""
        data = [line.encode() + b"\n" for line in lines]
        edges = np.zeros(len(data) + 1, np.int64)
        np.cumsum([len(line) for line in data], out=edges[1:])
        return cls(memoryview(b"".join(data)), edges)

    def part(self, first: int, last: int) -> bytes:
        """Return lines first to last - 1 as one text."""
        return bytes(self.text[self.edges[first] : self.edges[last]])

    def line(self, at: int) -> str:
        """Return one line without its line break."""
        return self.part(at, at + 1)[:-1].decode()

    def take(self, which: NDArray[np.int64]) -> Lines:
        """Return some of the lines, by number."""
        edges = np.zeros(len(which) + 1, np.int64)
        np.cumsum(self.edges[which + 1] - self.edges[which], out=edges[1:])
        return Lines(memoryview(b"".join([self.part(at, at + 1) for at in which.tolist()])), edges)


@dataclass(frozen=True, slots=True)
class Explicit:
    """What stands beside a reading, because it is not that of its line.

    Attributes:
        at: int64 (k,), which readings have it.
        revision: bool (k,), write revision and time of knowledge, too.
        steps: int64 (k,), how often the reading was replaced; -1: never, and nothing stood there before.
        void: int8 (k,), 1: the old number in the field is withdrawn; 0: it counts again; -1: nothing to say.
    """

    at: NDArray[np.int64]
    revision: NDArray[np.bool_]
    steps: NDArray[np.int64]
    void: NDArray[np.int8]


class ReadingText:
    """Makes lines of readings. Grows with the series of ``names``.

    Attributes:
        line_of: int32 (series,), number of (measurement, station, channel): readings of one number share lines.
        lines: how many such numbers there are.
    """

    def __init__(self, names: SeriesNames) -> None:
        self._names = names
        self._numbers: dict[tuple[str, str, str], int] = {}
        self._properties: dict[str, int] = {}
        self._first: list[str] = []
        self._middle: list[str] = []
        self._heads = pa.array([], pa.string())
        self._flags = pa.array([], pa.string())
        self.line_of: NDArray[np.int32] = np.zeros(0, np.int32)
        self._property_of: NDArray[np.int64] = np.zeros(0, np.int64)

    @property
    def lines(self) -> int:
        """How many (measurement, station, channel) there are."""
        return len(self._numbers)

    def grow(self) -> None:
        """Take up the series that are new in ``names``."""
        new = self._names.keys[len(self.line_of) :]
        if not new:
            return
        line, place = [], []
        for station, prop, channel in new:
            key = (measurement_of(prop), station, channel)
            line.append(self._numbers.setdefault(key, len(self._numbers)))
            place.append(self._properties.setdefault(prop, len(self._properties)))
            point = f"{key[0]}{tags(station=station, channel=channel)} "
            self._first += [f"{point}{prop}=", point]
            self._middle += [f",{prop}=", ","]
        self.line_of = np.concatenate([self.line_of, np.array(line, np.int32)])
        self._property_of = np.concatenate([self._property_of, np.array(place, np.int64)])
        self._heads = pa.array([*self._first, *self._middle], pa.string())
        self._flags = pa.array(
            [
                f"{comma}{prop}_flag={flag}i"
                for prop in self._properties
                for comma in (",", "")
                for flag in range(_FLAGS)
            ],
            pa.string(),
        )

    def text(
        self,
        series: NDArray[np.int32],
        time_us: NDArray[np.int64],
        versions: Versions,
        starts: NDArray[np.bool_],
        shared: NDArray[np.bool_],
        explicit: Explicit,
    ) -> Lines:
        """Make lines.

        Args:
            series: (m,), in the order of the lines.
            time_us: (m,).
            versions: of the m readings.
            starts: bool (m,), the first reading of each line.
            shared: bool (lines,), the line says revision and time of knowledge of its first reading for all.
            explicit: what stands beside some of the readings.
        """
        m = len(series)
        if not m:
            return Lines.of(())
        missing = np.isnan(versions.value)
        no_value = missing.astype(np.int64)
        values = pc.cast(pa.array(versions.value, mask=missing), pa.string()).fill_null("")
        heads = self._heads.take(pa.array(np.where(starts, 0, len(self._first)) + 2 * series + no_value))
        place = (self._property_of[series] * 2 + no_value) * _FLAGS + versions.flag
        pieces = [heads, values, self._flags.take(pa.array(place))]
        if len(explicit.at):
            pieces.append(self._beside(series, versions, explicit))
        pieces.append(_tails(time_us, versions, starts, shared))
        joined = pc.binary_join_element_wise(*pieces, "")
        buffers = joined.buffers()
        at = np.frombuffer(buffers[1], np.int32)[: m + 1].astype(np.int64)
        first = np.flatnonzero(starts)
        return Lines(memoryview(buffers[2]), np.append(at[first], at[m]))

    def _beside(self, series: NDArray[np.int32], versions: Versions, explicit: Explicit) -> pa.Array:
        at = explicit.at
        some = versions.take(at)
        out: list[str] = [""] * len(series)
        columns = zip(
            at.tolist(), series[at].tolist(), some.tests.tolist(), some.revision.tolist(), some.known_us.tolist(),
            explicit.revision.tolist(), explicit.steps.tolist(), explicit.void.tolist(), strict=True,
        )  # fmt: skip
        for i, number, tests, revision, known, own, steps, void in columns:
            prop = self._names.keys[number][1]
            text = f",{prop}_tests={tests}i" if tests or steps >= 0 else ""
            if own:
                text += f",{prop}_rev={revision}i,{prop}_known={known}i"
            if steps >= 0:
                text += f",{prop}_n={steps}i"
            if void >= 0:
                text += f",{prop}_void={void}i"
            out[i] = text
        return pa.array(out, pa.string())


def _tails(
    time_us: NDArray[np.int64], versions: Versions, starts: NDArray[np.bool_], shared: NDArray[np.bool_]
) -> pa.Array:
    """Return what ends each line, at its last reading; "" at the others."""
    m = len(starts)
    first = np.flatnonzero(starts)
    time = pc.cast(pa.array(time_us[first]), pa.string())
    plain = pc.binary_join_element_wise(" ", time, "000\n", "")
    if shared.any():
        revision, known = (pc.cast(pa.array(c[first]), pa.string()) for c in (versions.revision, versions.known_us))
        whole = pc.binary_join_element_wise(",rev=", revision, "i,known=", known, "i ", time, "000\n", "")
        plain = pc.if_else(pa.array(shared), whole, plain)
    last = np.append(first[1:], m) - 1
    place = np.full(m, -1, np.int64)
    place[last] = np.arange(len(first))
    return plain.take(pa.array(place, mask=place < 0)).fill_null("")


def nanoseconds(time_us: int, slot: int = 0) -> int:
    """Return a time in ns; ``slot`` (0 to 999) keeps points apart that would otherwise be one."""
    return time_us * 1000 + slot


def plain(versions: Versions, shared: NDArray[np.bool_]) -> Explicit:
    """Say what readings that were never replaced need beside them: their tests, and a revision that is not shared.

    Args:
        versions: of m readings.
        shared: bool (m,), the line's revision is that of the reading.
    """
    at = np.flatnonzero((versions.tests != 0) | ~shared)
    return Explicit(at, ~shared[at], np.full(len(at), -1, np.int64), np.full(len(at), -1, np.int8))
