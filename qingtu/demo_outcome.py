"""What the pipeline made of a simulated run, as the simulator's ground truth asks for it."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from processors.bits import named
from qingtu.records import PROCESSED, codes_of, decode, times_of
from qingtu.store.duckdb import DuckStore
from simulators.truth import Stored

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from qingtu.app import Service
    from simulators.truth import Fact, Truth

Key = tuple[str, str, str, int]
_ALL = 1 << 31


class StoreOutcome:
    """See :class:`simulators.truth.Outcome`. Reads everything once, after the service came to rest.

    Args:
        service: stopped, with its files still open.
        ledger: its last report.
        truth: says which readings will be asked for.
    """

    def __init__(self, service: Service, ledger: Mapping[str, Any], truth: Truth) -> None:
        self._messages: Mapping[str, int] = ledger["messages"]
        self._private = {n.id for n in service.catalogue.networks.values() if n.private}
        facts = [fact for fact in truth.facts if fact.asked_us() is not None]
        self._stored = _readings(service, facts)
        self._late = _late(service, [fact for fact in facts if fact.expected == "late"])
        self._reasons: dict[str, set[str]] = {}
        self._by_sender: dict[tuple[str, str], set[str]] = {}
        for row in service.store.quarantine(limit=_ALL):
            payload = hashlib.sha256(row["payload"] or b"").hexdigest()
            self._reasons.setdefault(payload, set()).add(row["reason"])
            self._by_sender.setdefault((row["network"], row["device"]), set()).add(row["reason"])

    def totals(self) -> Mapping[str, int]:
        """Return the ledger's sums of messages."""
        return self._messages

    def reading(self, series: tuple[str, str, str], time_us: int) -> Stored | None:
        """Return the reading at exactly this time."""
        return self._stored.get((*series, time_us))

    def reasons(self, fact: Fact) -> Collection[str]:
        """Return why the payload of a fact is in quarantine; of a private network, why its sender's messages are."""
        if fact.network not in self._private:
            return self._reasons.get(fact.message, set())
        found = self._by_sender.get((fact.network, fact.device), set())
        # What the redactor cannot read is refused before a decoder could say why it cannot be read.
        return {*found, fact.expected.partition(":")[2]} if "unparsable_private" in found else found

    def late(self, series: tuple[str, str, str], time_us: int) -> bool:
        """Return whether the reading was marked late when it came."""
        return (*series, time_us) in self._late


def _readings(service: Service, facts: list[Fact]) -> dict[Key, Stored]:
    wanted = pa.table(
        {
            "station": [f.station for f in facts],
            "property": [f.property for f in facts],
            "channel": [f.channel for f in facts],
            "at": pa.array([f.asked_us() for f in facts], pa.int64()),
        }
    )
    assert isinstance(service.store, DuckStore)  # a demonstration has no server
    with service.store.cursor() as db:
        db.register("wanted", wanted)
        rows = db.execute(
            "SELECT s.station, s.property, s.channel, epoch_us(r.time), r.flag, r.tests FROM readings r "
            "JOIN series s ON s.id = r.series JOIN wanted w ON w.station = s.station AND w.property = s.property "
            "AND w.channel = s.channel AND w.at = epoch_us(r.time)"
        ).fetchall()
    return {
        (station, prop, channel, time): Stored(flag, named(tests)) for station, prop, channel, time, flag, tests in rows
    }


def _late(service: Service, facts: list[Fact]) -> set[Key]:
    """Return which of the readings came marked late: only the stream tells that, the store does not keep it."""
    found: set[Key] = set()
    if not facts:
        return found
    times = np.unique(np.array([fact.from_us for fact in facts], np.int64))
    at, end = service.bus.start(PROCESSED, 0), service.bus.end(PROCESSED, 0)
    while at < end:
        for record in service.bus.read(PROCESSED, 0, at, 64):
            at = record.offset + 1
            readings = decode(record.data).get("readings")
            if readings is None:
                continue
            time = times_of(readings.column("time"))
            rows = np.flatnonzero(np.isin(time, times) & np.asarray(readings.column("late")))
            names = [codes_of(readings.column(name)) for name in ("station", "property", "channel")]
            found.update((*(values[codes[row]] for codes, values in names), int(time[row])) for row in rows.tolist())
    return found
