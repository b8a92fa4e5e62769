"""What must hold: some at every moment of a history, the rest at its end. docs/histories.md lists them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from qingtu.audit import audit
from qingtu.clock import HOUR, SECOND
from qingtu.ledger import Ledger
from qingtu.records import PROCESSED, RAW, Frame, Kind, decode
from tests.histories import city, reference
from tests.histories.around import look_at_neighbours, look_at_words
from tests.histories.hosts import GRACE_S, Gateway, Processor, Storer
from tests.histories.store import ModelStore
from tests.histories.story import Violation
from tests.histories.truth import Row, Truth, effective, look_at_told

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.histories.broker import Message, Wire
    from tests.histories.city import Said
    from tests.histories.reference import Raw
    from tests.histories.world import World


class Judge:
    """Sees everything and changes nothing.

    Attributes:
        told: (alert, station, state, level, revision) of each transition that people were told.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._promised: dict[int, Message] = {}
        self._wires: dict[int, Wire] = {}
        self._uid_of: dict[tuple[int, int], int] = {}
        self._durable: set[tuple[int, int]] = set()
        self._durable_uids: set[int] = set()
        self._markers: set[tuple[int, int]] = set()
        self._raw: dict[int, Raw] = {p: [] for p in range(world.bus.partitions)}
        self.told: list[tuple[str, str, str, int, int]] = []

    # ---------------------------------------------------------------------------------------------- at every moment

    def published(self, message: Message) -> None:
        """The broker took a QoS 1 message for us."""
        self._promised[message.uid] = message

    def connected(self, connection: int, wire: Wire, *, session: bool) -> None:
        """A connection was numbered."""
        del session
        self._wires[connection] = wire

    def delivered(self, connection: int, number: int, message: Message) -> None:
        """The gateway took a packet."""
        if message.uid < 0:
            self._markers.add((connection, number))
        elif number:
            self._uid_of[connection, number] = message.uid

    def durable(self, stream: str, partition: int, offset: int, data: bytes) -> None:
        """A frame has become durable."""
        if stream != RAW:
            return
        frame = decode(data)
        self._raw[partition].append((offset, frame))
        batch = frame.sections["rows"]
        if batch.num_rows == 1 and batch.column("kind")[0].as_py() != Kind.MESSAGE:
            return
        for at in zip(batch.column("connection").to_pylist(), batch.column("packet_id").to_pylist(), strict=True):
            if at[1]:
                self._durable.add(at)
                if at in self._uid_of:
                    self._durable_uids.add(self._uid_of[at])

    def acknowledged(self, connection: int, number: int) -> None:
        """A PUBACK goes out: what it stands for must be durable, and have come on this connection."""
        at = (connection, number)
        if at not in self._durable and at not in self._markers:
            raise Violation("durable-before-puback", f"packet {number} of connection {connection} is not durable")

    def buffered(self, rows: int, most: int) -> None:
        """The gateway holds so many rows."""
        if rows > most:
            raise Violation("bounded", f"the gateway holds {rows} rows, more than {most}")

    def ticked(self, hearing: Mapping[str, int]) -> None:
        """A tick claims since when routes hear: what the broker had before must be durable."""
        for since in set(hearing.values()):
            before = self._wires[since].next_uid
            for message in self._world.broker.waiting():
                if 0 <= message.uid < before and message.uid not in self._durable_uids:
                    raise Violation("hearing", f"said to hear since {since}, but publish {message.uid} is not durable")

    def books(self, report: Mapping[str, Any]) -> None:
        """The ledger, at some moment."""
        if not report["balanced"]:
            raise Violation("ledger", f"does not balance: {report['messages']} {report['readings']}")

    def notified(self, frame: Frame) -> None:
        """People were told of transitions."""
        for row in frame.sections["alerts"].to_pylist():
            self.told.append((row["alert"], row["station"], row["state"], row["level"], row["revision"]))

    # --------------------------------------------------------------------------------------------------- at the end

    def final(self) -> None:
        """Everything has come to rest."""
        lost = [u for u in self._promised if u not in self._durable_uids and u not in self._world.broker.lost]
        if lost:
            raise Violation("nothing-lost", f"publishes {lost[:5]} were acknowledged or forgotten, but are not in raw")
        truths = self._truths()
        look_at_told(truths.values())
        self._ledger(sum(truth.messages for truth in truths.values()))
        found = reference.contents(self._world.store)
        alone = reference.replay(self._raw)
        for partition, truth in truths.items():
            truth.look_at_values(found["rows"], lambda s, p=partition: self._world.partition_of(s) == p)  # type: ignore[misc]
            mine = [a for a in alone.alerts if self._world.partition_of(a["station"]) == partition]
            truth.look_at_alerts(mine)
        if "catalogue" not in self._world.faults.kinds:  # else an hour was judged by the stations of its day
            look_at_neighbours(found["rows"])
        look_at_words(self._world.words, found["rows"], found["corrections"])
        difference = reference.first_difference(found, reference.contents(alone))
        if difference is not None:
            raise Violation(f"same-{difference[0].replace(' ', '-')}", difference[1])
        self._latest()
        missing = {(a["alert"], a["state"], a["revision"]) for a in alone.alerts} - {
            (t[0], t[2], t[4]) for t in self.told
        }
        if missing:
            raise Violation("told", f"nobody was told of {sorted(missing)[:3]}")
        self._bounded(truths)

    def _truths(self) -> dict[int, Truth]:
        out = {}
        for partition, raw in self._raw.items():
            stream = self._world.bus.of(PROCESSED, partition)
            frames = effective([decode(data) for data in stream.frames])
            out[partition] = Truth(self._said, self._uid_of, (partition, len(self._raw)))
            out[partition].judge(raw, frames)
        return out

    def _said(self, row: Row) -> Said:
        said = self._world.fleet.said
        found = said.get((row.device, row.payload))
        if found is None:  # too large, or empty: the gateway kept less than was sent
            assert row.refused, row
            return city.Said(own=False, whole=True)
        return found

    def _ledger(self, messages: int) -> None:
        storer = self._world.hosts["store"]
        assert isinstance(storer, Storer)
        report = orjson.loads(orjson.dumps(storer.ledger.report()))
        self.books(report)
        counts = report["messages"]
        if counts["in_flight"] or counts["received"] != messages:
            raise Violation("ledger", f"at rest, with {messages} messages in raw, it says {counts}")
        checked = audit(storer.client, self._world.store, storer.ledger)  # type: ignore[arg-type]  # the model fulfils it
        again = orjson.loads(orjson.dumps(Ledger(storer.client, self._world.store).report()))  # type: ignore[arg-type]
        if again != report:
            raise Violation("ledger", f"opened again it says {again['messages']}, before {counts}")
        if not checked["agrees"]:
            raise Violation("audit", f"{checked['checks']}")

    def _latest(self) -> None:
        store = self._world.store
        if isinstance(store, ModelStore):
            newest: dict[Any, int] = {}
            for key, time in store.chains:
                newest[key] = max(time, newest.get(key, time))
            if {key: at for key, (at, _) in store.latest().items()} != newest:
                raise Violation("latest", "the newest reading of a series is not the latest")

    def _bounded(self, truths: Mapping[int, Truth]) -> None:
        """Nothing that is over is remembered, nothing waits, and memory is not more than the input asks for."""
        for host in self._world.hosts.values():
            if isinstance(host, Gateway) and (host.core.rows or host.core.size):
                raise Violation("bounded", f"the gateway counts {host.core.size} bytes at rest")
            if not isinstance(host, Processor):
                continue
            for partition, (process, derive) in host.loops.items():
                inside: Any = process._operator
                kept, most = len(inside._pass.segments), truths[partition].remembered()
                if kept > most:
                    raise Violation("bounded", f"{kept} hashes are kept, {most} are within the horizon")
                now = self._world.now_us()
                oldest = derive._operator.oldest_touched_us()  # type: ignore[attr-defined]
                if oldest is not None and oldest + (GRACE_S + 60) * SECOND < now - 4 * HOUR:
                    raise Violation("bounded", "a window that is over is still touched")
                if process.emitting or derive.emitting or process._guilty:
                    raise Violation("bounded", "a stage at rest has something left")
