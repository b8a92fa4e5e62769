"""What must have become of each raw row, worked out from what the devices said: a second opinion in plain Python.

It shares no code with the pass: duplicates are a dictionary, the newest time of a series is a number, a value is what
the device meant. What quality and figures make of values is left to :mod:`tests.histories.reference`.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from qingtu.clock import HOUR, SECOND
from qingtu.partitions import partition_of
from qingtu.records import VERDICTS, Frame, Kind, MessageFlag, Outcome, codes_of, home, position, times_of
from tests.histories import city
from tests.histories.story import Violation

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from tests.histories.city import Key, Said
    from tests.histories.reference import Raw


@dataclass(slots=True)
class Row:
    """One raw row, as far as it matters here."""

    kind: int
    device: str
    payload: bytes
    digest: bytes | None
    refused: str
    received: int
    flags: int
    packet_id: int
    connection: int
    redrive_of: int | None
    shift: int

    @property
    def redriven(self) -> bool:
        """Whether it was driven again."""
        return self.redrive_of is not None


def rows_of(frame: Frame) -> list[Row]:
    """Return the rows of a raw frame."""
    batch = frame.sections["rows"]
    names = ("kind", "device", "payload", "digest", "refused")
    first = [batch.column(name).to_pylist() for name in names]
    rest = [batch.column(name).to_pylist() for name in ("flags", "packet_id", "connection")]
    of = batch.column("redrive_of").to_pylist()
    shift = batch.column("shift_us").fill_null(0).to_pylist()
    return list(map(Row, *first, times_of(batch.column("received_at")).tolist(), *rest, of, shift))


@dataclass
class Truth:
    """Judges one partition.

    Args:
        said: (device, payload) → what it says.
        uid_of: (connection, packet identifier) → number of the publish.
        place: which partition, and of how many.

    Attributes:
        decided: what became of messages of other partitions, by partition and position.
        told: what this partition was told of its messages.
    """

    said: Callable[[Row], Said]
    uid_of: Mapping[tuple[int, int], int]
    place: tuple[int, int]
    version: str = ""
    heard: dict[str, int] = field(default_factory=dict)
    newest: dict[Key, int] = field(default_factory=dict)
    values: dict[tuple[Key, int], tuple[float, int]] = field(default_factory=dict)
    late: dict[tuple[Key, int, int], bool] = field(default_factory=dict)
    ticks: dict[int, tuple[int, dict[str, int], dict[str, int]]] = field(default_factory=dict)
    hashes: dict[tuple[str, bytes], int] = field(default_factory=dict)
    clock: int = 0
    messages: int = 0
    decided: dict[tuple[int, int], list[int]] = field(default_factory=dict)
    told: dict[tuple[int, int], list[int]] = field(default_factory=dict)
    _verdicts: list[int] = field(default_factory=list)
    _seen: set[int] = field(default_factory=set)

    def judge(self, raw: Raw, processed: Sequence[Frame]) -> None:
        """Compare what `process` said of each raw row with what must be.

        Args:
            raw: of this partition.
            processed: the frames made from it that count: the first of each origin.
        """
        outcomes = _outcomes(processed)
        for offset, frame in raw:
            for number, row in enumerate(rows_of(frame)):
                at = position(offset, number)
                if row.kind == Kind.MESSAGE:
                    found = outcomes.pop(at, [])
                    if len(found) != 1:
                        raise Violation("exactly-once", f"raw row {at} of {row.device} has outcomes {found}")
                    self._message(row, at, found[0])
                elif row.kind == Kind.TICK:
                    hearing = orjson.loads(row.payload)["hearing"]
                    self.ticks[at] = (row.received, hearing, dict(self.heard))
                elif (body := orjson.loads(row.payload))["name"] == "configure":
                    self._use(body["args"]["catalogue"])
                elif body["name"] == "driven":
                    self._verdicts = [verdict[0] for verdict in body["args"]["verdicts"]]
        if outcomes:
            raise Violation("exactly-once", f"outcomes of rows that are not there: {list(outcomes)[:5]}")
        self._look_at_late(processed)

    def _use(self, version: str) -> None:
        """Go on with another catalogue; what it does not have is forgotten, and begins anew when it comes back."""
        self.version = version
        held = {field.key for fields in city.devices_of(version).values() for field in fields.values()}
        stations = {key[0] for key in held}
        self.newest = {key: at for key, at in self.newest.items() if key in held}
        self.heard = {station: at for station, at in self.heard.items() if station in stations}

    def _message(self, row: Row, at: int, found: int) -> None:
        if self._verdicts:
            assert row.redrive_of is not None
            if found != (wanted := self._verdicts.pop(0)):
                raise Violation("outcome", f"raw row {at} of {row.device} is {found}, elsewhere it was {wanted}")
            self.told.setdefault((self.place[0], row.redrive_of), []).append(found)
            return
        self.messages += not row.redriven
        said = self.said(row)
        known = row.device in city.devices_of(self.version)
        # Of a station that lives elsewhere nothing is taken here.
        known = known and partition_of(city.STATION_OF[row.device], self.place[1]) == self.place[0]
        again = not row.redriven and self._came_before(row, said, found)
        accepted = [] if again or not known else city.accepted(said, row.device, self.version, row.received, row.shift)
        whole = known and not said.whole and len(accepted) == len(said.items)
        wanted = Outcome.DUPLICATE if again else Outcome.STORED if whole else Outcome.QUARANTINED
        if row.redrive_of is not None and row.redrive_of < 0:
            self.decided.setdefault(home(row.redrive_of, self.place[0]), []).append(wanted)
            wanted = Outcome.STORED  # what it is stands where it is in quarantine
        if found != wanted:
            raise Violation(
                "outcome", f"raw row {at} of {row.device} is {Outcome(found).name}, must be {wanted.name}: "
                f"{row.payload[:60]!r} packet {row.packet_id} connection {row.connection} flags {row.flags}",
            )  # fmt: skip
        if known and not row.redriven:
            station = city.STATION_OF[row.device]
            self.heard[station] = max(self.heard.get(station, 0), row.received)
        for key, time, value in accepted:
            newest = self.newest.get(key)
            is_late = (newest is not None and time <= newest) or row.received - time > city.late_after_us()
            self.late[key, time, at] = is_late or row.redriven
            self.newest[key] = time if newest is None else max(newest, time)
            old = self.values.get((key, time))
            if old is None or not _same(old[0], value):
                self.values[key, time] = (value, at)

    def _came_before(self, row: Row, said: Said, found: int) -> bool:
        """Say whether a row is a duplicate; between the horizon and an hour more, it may be or not."""
        uid = self.uid_of.get((row.connection, row.packet_id)) if row.flags & MessageFlag.QOS else None
        if not said.own:
            # What comes again into another partition, as its device moved there meanwhile, is not known there.
            again = uid is not None and uid in self._seen
            if uid is not None:
                self._seen.add(uid)
            return again
        self.clock = max(self.clock, row.received)
        key = (row.device, row.payload)
        first = self.hashes.get(key)
        if first is not None:
            if self.clock - first <= city.HORIZON_H * HOUR:
                return True
            if self.clock // HOUR - first // HOUR <= city.HORIZON_H and found == Outcome.DUPLICATE:
                return True
        self.hashes[key] = self.clock
        return False

    def remembered(self) -> int:
        """Return how many messages with identity `process` may remember at most."""
        return sum(self.clock // HOUR - first // HOUR <= city.HORIZON_H for first in self.hashes.values())

    def _look_at_late(self, processed: Sequence[Frame]) -> None:
        found: Counter[tuple[tuple[Key, int, int], bool]] = Counter()
        for frame in processed:
            batch = frame.get("readings")
            if batch is None:
                continue
            parts = [codes_of(batch.column(name)) for name in ("station", "property", "channel")]
            keys = zip(*([names[c] for c in codes.tolist()] for codes, names in parts), strict=True)
            columns = (batch.column(n).to_pylist() for n in ("revision", "late", "cause"))
            for key, time, revision, late, cause in zip(
                keys, times_of(batch.column("time")).tolist(), *columns, strict=True
            ):
                if cause not in VERDICTS:
                    found[(key, time, revision), late] += 1
        wanted = Counter(self.late.items())
        if found != wanted:
            some = list((found - wanted) + (wanted - found))[:3]
            raise Violation("late", f"readings and whether they are late, found against must be: {some}")

    def look_at_alerts(self, alerts: Sequence[Mapping[str, Any]]) -> None:
        """Check the alerts of this partition that were opened, each against what may open it."""
        for alert in alerts:
            if alert["state"] != "open":
                continue
            if alert["rule"] == "quiet":
                if alert["revision"] not in self.ticks:
                    raise Violation(
                        "silence", f"{alert['station']} is called silent by a partition it does not live in"
                    )
                clock, hearing, heard = self.ticks[alert["revision"]]
                since = max(hearing.get(route, clock) for route in city.ROUTES_OF[alert["station"]])
                quiet = clock - max(since, heard.get(alert["station"], 0))
                if quiet <= city.SILENT_S * SECOND:
                    raise Violation("silence", f"{alert['station']} is called silent after {quiet // SECOND} s")
            else:
                key = (alert["station"], alert["property"], alert["channel"])
                if self.late.get((key, alert["time"], alert["revision"]), True):
                    raise Violation("alert-source", f"{alert['rule']} at {key} was opened by what may open nothing")

    def look_at_values(self, rows: Sequence[Sequence[Any]], mine: Callable[[str], bool]) -> None:
        """Compare the current values of this partition's stations: (station, property, channel, time, value, …)."""
        found = {((s, p, c), t): math.nan if v is None else v for s, p, c, t, v, *_ in rows if mine(s)}
        wanted = {key: value for key, (value, _) in self.values.items()}
        if found.keys() != wanted.keys():
            raise Violation("stored-once", f"readings stored against said: {list(found.keys() ^ wanted.keys())[:3]}")
        wrong = [key for key, value in wanted.items() if not _same(found[key], value)]
        if wrong:
            raise Violation("values", f"{wrong[0]} is {found[wrong[0]]}, the device meant {wanted[wrong[0]]}")


def look_at_told(truths: Collection[Truth]) -> None:
    """Check that each partition was told what became of its messages that were driven again in another one."""
    decided: dict[tuple[int, int], list[int]] = {}
    told: dict[tuple[int, int], list[int]] = {}
    for truth in truths:
        told |= truth.told
        for message, outcomes in truth.decided.items():
            decided.setdefault(message, []).extend(outcomes)
    for message in decided.keys() | told.keys():
        was, heard = decided.get(message, []), told.get(message, [])
        if set(was) != set(heard) or was[-1] != heard[-1]:
            raise Violation("told-home", f"message {message} became {was}, its partition heard {heard}")


def effective(frames: Sequence[Frame]) -> list[Frame]:
    """Return the frames that count: each origin once, in growing order."""
    out, last = [], -1
    for frame in frames:
        assert frame.origin is not None
        if frame.origin[1] > last:
            last = frame.origin[1]
            out.append(frame)
    return out


def _outcomes(processed: Sequence[Frame]) -> dict[int, list[int]]:
    out: dict[int, list[int]] = {}
    for frame in processed:
        assert frame.origin is not None
        manifest = frame.get("manifest")
        if manifest is not None:
            pairs = zip(manifest.column("row").to_pylist(), manifest.column("outcome").to_pylist(), strict=True)
            for row, outcome in pairs:
                out.setdefault(position(frame.origin[1], row), []).append(outcome)
    return out


def _same(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-9) or (math.isnan(one) and math.isnan(other))
