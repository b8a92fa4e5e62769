"""One history: everything that one seed decides, in one thread, with no time but the simulated one."""

from __future__ import annotations

import random
from random import Random
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from ingest.raw import command_row, raw_frame, redrive_rows, tick_row
from processors.process import CONFIGURE
from qingtu.clock import DAY, HOUR, MINUTE, SECOND
from qingtu.contracts import ReadingQuery
from qingtu.errors import RetryLater
from qingtu.partitions import partition_of
from qingtu.records import ALERTS, PROCESSED, RAW, away
from tests.histories import city
from tests.histories.around import Word
from tests.histories.broker import Message, SimBroker
from tests.histories.bus import BusClient, Crash, SimBus
from tests.histories.devices import Fleet
from tests.histories.faults import Faults
from tests.histories.hosts import STORED, Gateway, Notifier, Processor, Storer
from tests.histories.invariants import Judge
from tests.histories.store import FullStore, ModelStore
from tests.histories.story import Story, Violation

if TYPE_CHECKING:
    from collections.abc import Callable, Collection


Host = Gateway | Processor | Storer | Notifier
T0: Final = 1_795_392_000_000_000  # 2026-11-23T00:00:00Z
_TURNS: Final = (10, 18)
_RESTING_TICKS: Final = 4
"""Figures are due at the first; what is told of them goes through raw, and is looked at again at the next ones."""
_REST: Final = 400
"""Rounds without faults after which everything must have come to rest."""


class World:
    """A city, its servers and our processes.

    Args:
        seed: decides everything.
        kinds: of faults that are on; None lets the seed choose.
        store: the primary store; None makes a model.

    Attributes:
        true_us: the true time; ``now_us`` is what our clock says.
        commits: of the store so far.
        words: what people said of readings, in order.
    """

    def __init__(self, seed: int, kinds: Collection[str] | None = None, store: FullStore | None = None) -> None:
        random.seed(seed)  # the pauses of the gateway's bus writer are jittered with it
        self.seed = seed
        self.rng = Random(f"{seed}/schedule")
        self.faults = Faults(seed, kinds)
        self.story = Story()
        self.true_us = self.story.now_us = T0
        self._clock_off = 0
        self.store: FullStore = store or ModelStore()
        self.bus = SimBus(self.rng.choice([1, 1, 2, 3]), self.faults, slow=True)
        self.catalogue = city.catalogues()[0]
        self.broker = SimBroker(self.rng.choice([4, 20, 100]))
        self.fleet = Fleet(Random(f"{seed}/devices"), self.faults)
        self.judge = Judge(self)
        self.bus.on_durable = self.judge.durable
        self.commits = 0
        self._uid = 0
        self._orders: list[tuple[int, bytes]] = []
        self.words: list[Word] = []
        self._operator = self.bus.client("operator")
        self._makers: dict[str, Callable[[BusClient], Host]] = {
            "gateway": lambda c: Gateway(self, c),
            "processor-1": lambda c: Processor(self, c),
            "processor-2": lambda c: Processor(self, c),
            "store": lambda c: Storer(self, c),
            "notify": lambda c: Notifier(self, c),
        }
        if not {"rebalances", "zombies"} & set(self.faults.kinds):
            del self._makers["processor-2"]
        self.hosts: dict[str, Host] = {}
        self._down: dict[str, int] = dict.fromkeys(self._makers, 0)
        self._zombies: list[tuple[Storer, int]] = []

    # --------------------------------------------------------------------------------------------- what others ask

    def now_us(self) -> int:
        """Return what our clock says: this is the clock of all our processes."""
        return self.true_us + self._clock_off

    def station_of(self, network: str, device: str) -> str | None:
        """Return the station of a device in the catalogue of now."""
        entry = self.catalogue.devices.get((network, device))
        return None if entry is None else entry.station.id

    def partition_of(self, station: str) -> int:
        """Return the partition in which a station lives, as the gateway decides it."""
        return partition_of(station, self.bus.partitions)

    # ------------------------------------------------------------------------------------------------- the history

    def run(self) -> None:
        """Live through the history.

        Raises:
            Violation: a promise was broken.
        """
        self._begin()
        for turn in range(self.rng.randint(*_TURNS)):
            self._pass_time()
            self._trouble()
            self._publish()
            self._order()
            for _ in range(self.rng.randint(5, 9)):
                self._act()
            if turn % 2 or self.rng.random() < 0.3:
                self._tick()
            self._act()
        self._come_to_rest()
        self.judge.final()

    def _begin(self) -> None:
        self.story.tell("seed %d, %d partitions, faults: %s", self.seed, self.bus.partitions,
                        ", ".join(self.faults.kinds) or "none")  # fmt: skip
        self.faults.on = False
        for partition in range(self.bus.partitions):
            self.bus.assignment[partition] = "processor-1"
            self._operator.append(RAW, partition, [self._configure()]).result()
        self._restart()
        self.faults.on = True

    def _pass_time(self, longest_us: int = 15 * MINUTE) -> None:
        step = self.rng.randint(MINUTE, longest_us)
        if self.faults.chance("days_pass", 0.12):
            step = self.faults.draw("days_pass").choice([20 * HOUR, 2 * DAY, 4 * DAY])
        if self.faults.chance("our_clock", 0.15):
            self._clock_off = self.faults.draw("our_clock").choice([0, 0, 7 * SECOND, -40 * MINUTE, 3 * HOUR, -DAY])
            self.story.tell("our clock is now %+d s from the truth", self._clock_off // SECOND)
        self._move(step)

    def _move(self, us: int) -> None:
        self.true_us += us
        self.story.now_us = self.true_us

    def _publish(self) -> None:
        sent = self.fleet.turn(self.true_us)
        for device, topic, payload, qos in sent:
            message = Message(self._uid, device, topic, payload, qos)
            if self.broker.publish(message) and qos:
                self.judge.published(message)
            self._uid += 1
        if sent:
            self.story.tell("devices: published %s", ", ".join(d for d, *_ in sent))

    def _act(self) -> None:
        """Let some time pass and one host do something, or the bus decide."""
        self._move(self.rng.randint(1, 300_000))
        names = [*self.hosts, *(["bus"] * 2), *(["zombie"] if self._zombies else [])]
        name = self.rng.choice(names)
        if name == "bus":
            self.bus.decide()
        elif name == "zombie":
            storer, left = self._zombies.pop(0)
            self._guard("zombie", lambda: storer.step_one(self.rng.choice(storer.stages)))
            if left:
                self._zombies.append((storer, left - 1))
        else:
            self._guard(name, self.hosts[name].step)

    def _guard(self, name: str, step: Callable[[], object]) -> None:
        """Step a host; when it dies in it, bury it."""
        try:
            step()
        except RetryLater as later:
            self.story.tell("%s: waits: %s", name, later)
        except Crash:
            self.story.tell("%s: KILLED in the middle of a step", name)
            self._bury(name)

    def _bury(self, name: str) -> None:
        host = self.hosts.pop(name, None)
        if host is None:
            return
        host.client.dead = True
        self.bus.orphan(host.client, lost=self.rng.random() < 0.5)
        self._down[name] = self.rng.randint(0, 2)
        if isinstance(host, Gateway):
            # A session that raw was not told of dies with us here: docs/histories.md, what is not simulated.
            (self.broker.restart(forget=True) if host.untold else self.broker.cut())

    def _restart(self) -> None:
        """Start what is down, when its pause is over and the bus lets it."""
        for name, make in self._makers.items():
            if name in self.hosts:
                continue
            if self._down[name]:
                self._down[name] -= 1
                continue
            try:
                self.hosts[name] = make(self.bus.client(name))
            except RetryLater:
                continue
            self.story.tell("%s: started", name)

    # ---------------------------------------------------------------------------------------------------- commands

    def _configure(self) -> bytes:
        args = {"catalogue": self.catalogue.version, **city.CONFIG}
        return self._frame([command_row(self.now_us(), CONFIGURE, "system", args)])

    def _frame(self, batches: list[pa.RecordBatch]) -> bytes:
        return raw_frame(batches, gateway="", catalogue=self.catalogue.version, clock_us=self.now_us())

    def _order(self) -> None:
        """Let people do what they do, and write what they ordered, as far as the bus takes it."""
        if self.faults.chance("catalogue", 0.15):
            first, second = city.catalogues()
            self.catalogue = second if self.catalogue is first else first
            gateway = self.hosts.get("gateway")
            if isinstance(gateway, Gateway):
                gateway.core.configure(city.routes(), self.catalogue.version, self.station_of)
            self._orders += [(p, self._configure()) for p in range(self.bus.partitions)]
            self.story.tell("operator: catalogue %s", self.catalogue.version)
        if self.faults.chance("redrives", 0.3):
            self._redrive(self.faults.draw("redrives"))
        if self.faults.chance("commands", 0.4):
            self._command(self.faults.draw("commands"))
        if self.faults.chance("overrides", 0.4):
            self._override(self.faults.draw("overrides"))
        left: list[tuple[int, bytes]] = []
        for partition, frame in self._orders:
            try:
                self._operator.append(RAW, partition, [frame]).result()
            except RetryLater:
                left.append((partition, frame))
        self._orders = left

    def _redrive(self, rng: Random) -> None:
        waiting = self.store.in_quarantine()
        if not waiting:
            return
        partition = rng.choice(waiting)[0]
        ids = [at for at in waiting if at[0] == partition and rng.random() < 0.6] or waiting[:1]
        shift = rng.choice([0, 0, -2 * HOUR, 2 * HOUR, 30 * DAY])
        partition = ids[0][0]
        times = rng.choice([1, 1, 2])
        by: dict[int, list[int]] = {}
        rows = self.store.raw_rows(ids)
        senders = zip(rows.column("network").to_pylist(), rows.column("device").to_pylist(), strict=True)
        for i, sender in enumerate(senders):
            station = self.station_of(*sender)
            by.setdefault(partition if station is None else self.partition_of(station), []).append(i)
        for place, some in by.items():
            of = [ids[i][1] if place == partition else away(*ids[i]) for i in some]
            driven = redrive_rows(rows.take(pa.array(some)), of, shift)
            command = command_row(self.now_us(), "redrive", "li", {"count": len(some)})
            self._orders += [(place, self._frame([command, driven]))] * times
        self.story.tell("operator: drives %d messages of partition %d again, %+d s", len(ids), partition,
                        shift // SECOND)  # fmt: skip

    def _command(self, rng: Random) -> None:
        told = self.judge.told[-10:]
        alert, station = rng.choice([("nonsense", "A"), *((t[0], t[1]) for t in told)])
        name = rng.choice(["acknowledge", "comment", "acknowledge", "dance"])
        row = command_row(self.now_us(), name, "li", {"alert": alert, "note": "seen"})
        self._orders.append((self.partition_of(station), self._frame([row])))
        self.story.tell("operator: %s alert %s", name, alert)

    def _override(self, rng: Random) -> None:
        key = (rng.choice(["A", "B", "C"]), "pm25", "main")
        newest = self.true_us
        query = ReadingQuery([key], newest - rng.choice([2 * HOUR, 2 * DAY]), newest)
        rows = self.store.readings(query).to_pylist()
        if not rows:
            return
        row = rng.choice(rows)
        value = None if row["value"] is None or row["value"] != row["value"] else row["value"]
        word = Word((*key, row["time"]), value, rng.choice([1, 3, 4]))
        args = {
            "station": key[0], "property": key[1], "channel": key[2], "time_us": row["time"], "value": value,
            "tests": row["tests"], "flag": word.flag, "reason": "seen on site",
        }  # fmt: skip
        frame = self._frame([command_row(self.now_us(), "override", "li", args)])
        self._orders.append((self.partition_of(key[0]), frame))
        self.words.append(word)
        self.story.tell("operator: sets %s at %d to %d", key[0], row["time"], word.flag)

    def _tick(self) -> None:
        """Write the clock into every partition, with what the gateway hears."""
        gateway = self.hosts.get("gateway")
        if not isinstance(gateway, Gateway):
            return
        hearing = gateway.hearing()
        self.judge.ticked(hearing)
        frame = self._frame([tick_row(self.now_us(), hearing)])
        self.story.tell("tick: hears %s", hearing or "nothing")
        for partition in range(self.bus.partitions):
            try:
                self._operator.append(RAW, partition, [frame]).result()
            except RetryLater:
                self.story.tell("tick: not taken by partition %d", partition)

    # ------------------------------------------------------------------------------------------------------ faults

    def _trouble(self) -> None:
        faults, before = self.faults, (self.faults.bus_down, self.faults.disk_full, self.faults.store_down)
        faults.turn()
        for name, was in zip(("bus_down", "disk_full", "store_down"), before, strict=True):
            if bool(getattr(faults, name)) != bool(was):
                self.story.tell("%s: %s", name, "over" if was else "begins")
        if faults.chance("disconnects", 0.4):
            self.broker.cut()
            self.story.tell("network: the connection breaks")
        if faults.chance("broker_restarts", 0.15):
            self.broker.restart(forget=False)
            self.story.tell("broker: restarts with its store")
        if faults.chance("broker_forgets", 0.1):
            self.broker.restart(forget=True)
            self.story.tell("broker: restarts and has forgotten everything")
        self._kill()
        self._reassign()
        if faults.chance("trims", 0.5):
            self._trim()
        self._restart()

    def _kill(self) -> None:
        for kind, names in (
            ("gateway_crashes", ("gateway",)), ("processor_crashes", ("processor-1", "processor-2")),
            ("store_crashes", ("store",)), ("notify_crashes", ("notify",)),
        ):  # fmt: skip
            for name in names:
                if name in self.hosts and self.faults.chance(kind, 0.25):
                    self.hosts[name].client.crash_in = self.faults.draw(kind).choice([0, 1, 2, 3, 4, 6, 9, 14])
        if self.faults.chance("power_cuts", 0.08):
            self.story.tell("power cut: everything of ours is killed")
            for name in list(self.hosts):
                self._bury(name)

    def _reassign(self) -> None:
        """Move a partition to the other processor; a zombie does not notice for a while."""
        for kind in ("rebalances", "zombies"):
            if not self.faults.chance(kind, 0.25):
                continue
            partition = self.faults.draw(kind).randrange(self.bus.partitions)
            old = self.bus.assignment[partition]
            new = "processor-2" if old == "processor-1" else "processor-1"
            self.bus.assignment[partition] = new
            host = self.hosts.get(old)
            if kind == "zombies" and isinstance(host, Processor):
                host.asleep = self.faults.draw(kind).randint(2, 6)
            self.story.tell("bus: partition %d goes from %s to %s (%s)", partition, old, new, kind)
        if self.faults.chance("zombies", 0.1) and isinstance(store := self.hosts.get("store"), Storer):
            del self.hosts["store"]
            self._zombies.append((store, self.faults.draw("zombies").randint(2, 8)))
            self.story.tell("store: thought dead, goes on as a zombie beside its successor")

    def _trim(self) -> None:
        """Trim what is done with: committed, in what every reader has saved, and passed by all that live.

        The last because a zombie may have saved more than its successor has read. Kafka trims by age, hours behind.
        """
        loops = [loop for h in self.hosts.values() if isinstance(h, Processor) for loop in h.loops.items()]

        def saved(group: str, partition: int) -> int:
            found = self.bus.best(group, partition)
            place = {"process": 0, "derive": 1}.get(group)
            reached = [pair[place].next_offset for p, pair in loops if p == partition and place is not None]
            return min([found.next_offset if found else 0, *reached])

        for p in range(self.bus.partitions):
            applied = self.store.progress(PROCESSED, p).origin
            self._operator.trim(RAW, p, min(applied, saved("process", p), saved("ledger", p)))
            for stream in STORED:
                done = self.store.progress(stream, p).next_offset
                group = {PROCESSED: "derive", ALERTS: "sink-bell"}.get(stream)
                self._operator.trim(stream, p, done if group is None else min(done, saved(group, p)))
        self.story.tell("housekeeping: trimmed")

    # -------------------------------------------------------------------------------------------------------- rest

    def _come_to_rest(self) -> None:
        """Let everything heal and drain; then ticks, so that all figures are due."""
        self.story.tell("from here on nothing goes wrong any more")
        self.faults.calm()
        self._clock_off = 0
        self._zombies.clear()
        self._publish()
        for ticks in range(1 + _RESTING_TICKS):
            self._order()
            self._drain()
            if ticks < _RESTING_TICKS:
                self._move(3 * HOUR)
                self._tick()

    def _drain(self) -> None:
        for _ in range(_REST):
            self._down = dict.fromkeys(self._makers, 0)
            self._restart()
            for name in ("gateway", "gateway", "gateway", *self._makers):
                self._move(2 * SECOND)
                self.bus.decide()
                self._guard(name, self.hosts[name].step if name in self.hosts else bool)
            if not (left := self._left()):
                return
        raise Violation("comes-to-rest", f"still {left} after {_REST} rounds without faults")

    def _left(self) -> dict[str, Any]:
        """Return what is not done yet, by name; empty at rest."""
        left: dict[str, Any] = {"messages at the broker": len(self.broker.waiting()), "orders": len(self._orders)}
        for host in self.hosts.values():
            if isinstance(host, Gateway):
                left["rows in the gateway"] = host.core.rows
                left["a deaf gateway"] = not host.hearing()
            elif isinstance(host, Storer):
                for stage in host.stages:
                    left[stage.name] = stage.behind()
                    stage.hurry()
            elif isinstance(host, Notifier):
                left["alerts to tell"] = sum(f.behind() for f in host.followers)
                for follower in host.followers:
                    follower.hurry()
            else:
                for p, (process, derive) in host.loops.items():
                    left[process.name] = self.bus.of(RAW, p).end - process.next_offset
                    left[derive.name] = self.bus.of(PROCESSED, p).end - derive.next_offset
                host.asleep = 0
        left["partitions without a processor"] = self.bus.partitions - sum(
            len(h.loops) for h in self.hosts.values() if isinstance(h, Processor)
        )
        left["hosts down"] = len(self._makers) - len(self.hosts)
        return {name: n for name, n in left.items() if n}
