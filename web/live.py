"""What is true now, followed on the bus: latest readings, active alerts, rates; and the stream of events for pages.

The page does not wait for the store's commit. :class:`LiveView` starts from what the store holds and follows the
streams from there on; a thread takes frames up and sends events to whoever listens.
"""

from __future__ import annotations

import threading
import time
import traceback
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import orjson
import structlog

from processors import neighbour, override
from processors.process import GROUP, quiet_of
from qingtu.bus.sqlite import SqliteBus
from qingtu.records import ALERTS, FIGURES, PROCESSED, decode, times_of
from web.alert_book import AlertBook, alert_json
from web.fanout import Fanout, event
from web.latest import Latest, Rows
from web.rates import Rates

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa
    from numpy.typing import NDArray

    from qingtu.app import Service
    from qingtu.records import Frame
    from web.quiet import Told

COLUMNS: Final = ("station", "property", "channel", "time_ms", "value", "flag", "tests")
EVENT_ROWS: Final = 10_000
"""Rows of one event at most, more than a pass gives under load. Of more, only the latest of each series is told, and
what does not fit with the next events: nothing on the map stays old, and the page's chart asks the store anyway."""
_SAID_HERE: Final = (override.EVENT, neighbour.EVENT)
"""Kinds of events that nothing was received for: what a person or the neighbours say of readings."""
_BATCH: Final = 16
_EVERY_S: Final = 0.05
"""Events of readings are at least so far apart; the first after a pause goes out at once."""
_WAIT_S: Final = 0.1
_RETRY_S: Final = 1.0


class LiveView:
    """Follows the bus. ``start``, then ask from any thread, then ``stop``.

    Args:
        service: whose bus is followed.

    Attributes:
        fanout: open streams.
        problem: what is wrong with following, "" when nothing is.
        next_offset: by (stream, partition), where it reads on.
        heard_us: by route, the newest tick at which a gateway heard it without backlog.
        quiet: by partition, what people have switched off (:mod:`web.quiet`).
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._bus = service.bus
        self._log = structlog.get_logger("live")
        self._lock = threading.Lock()
        self._latest = Latest()
        self._alerts = AlertBook()
        self._rates = Rates()
        self._events_heard: dict[str, int] = {}
        self.fanout = Fanout()
        self.problem = ""
        self.next_offset: dict[tuple[str, int], int] = {}
        self.heard_us: dict[str, int] = {}
        self.quiet: dict[int, Told] = {}
        self._waiting: list[Rows] = []
        self._sent_s = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="live", daemon=True)
        self._by: dict[str, Callable[[Frame], None]] = {
            PROCESSED: self._processed,
            ALERTS: self._transitions,
            FIGURES: self._figures,
        }

    def start(self) -> None:
        """Take up what the store holds and start following."""
        store = self._service.store
        # Offsets first: what is committed in between is applied twice, which changes nothing.
        for stream in self._by:
            for partition in range(self._bus.partitions):
                self.next_offset[stream, partition] = store.progress(stream, partition).next_offset
        if isinstance(self._bus, SqliteBus):  # on Kafka, asking for a state claims it; there the next tick tells
            for partition in range(self._bus.partitions):
                saved = self._bus.load_state(GROUP, partition)
                if saved is not None:
                    self.quiet[partition] = quiet_of(saved.parts)
        self._latest.start(store.latest())
        self._alerts.start(store.alerts(active=True, limit=1_000_000))
        self._thread.start()

    def stop(self) -> None:
        """End the thread and all streams."""
        self._stop.set()
        self.fanout.close()
        if self._thread.is_alive():
            self._thread.join(5)

    def alive(self) -> bool:
        """Return whether the thread runs."""
        return self._thread.is_alive()

    # --------------------------------------------------------------------------------------------------- questions

    def readings(self) -> tuple[list[tuple[str, str, str]], dict[str, NDArray[Any]]]:
        """Return (station, property, channel) of every series, and copies of the arrays of :class:`Latest`."""
        with self._lock:
            return self._latest.names.keys[: len(self._latest)], self._latest.copy()

    def series(self, key: tuple[str, str, str]) -> dict[str, Any] | None:
        """Return the latest reading of one series, or None: time_us, value (None: missing), flag, tests."""
        with self._lock:
            number = self._latest.names.number(key)
            if number is None:
                return None
            value = float(self._latest.value[number])
            return {
                "time_us": int(self._latest.time[number]),
                "value": None if np.isnan(value) else value,
                "flag": int(self._latest.flag[number]),
                "tests": int(self._latest.tests[number]),
            }

    def knows(self, station: str) -> bool:
        """Return whether a reading of a station is stored, or a reading or event of it came since the start."""
        with self._lock:
            return self._latest.names.has_station(station) or station in self._events_heard

    def events_heard(self) -> dict[str, int]:
        """Return station → time of receipt of its newest event since the start, µs UTC."""
        with self._lock:
            return dict(self._events_heard)

    def active_alerts(self) -> list[dict[str, Any]]:
        """Return active alerts as rows of ``PrimaryStore.alerts``, unacknowledged and highest first."""
        with self._lock:
            return self._alerts.active()

    def alert(self, alert: str) -> dict[str, Any] | None:
        """Return one alert that is active or has ended lately."""
        with self._lock:
            return self._alerts.get(alert)

    def rate_per_s(self) -> float:
        """Return messages a second."""
        with self._lock:
            return self._rates.per_s(self._service.clock.now_us())

    def latency_p99_ms(self) -> float | None:
        """Return the 99th percentile of the time from receipt to here, ms, over the last minute."""
        with self._lock:
            return self._rates.p99_ms(self._service.clock.now_us())

    def now_ms(self) -> int:
        """Return the service's clock in ms."""
        return self._service.clock.now_us() // 1000

    # --------------------------------------------------------------------------------------------------- following

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                busy = self.step()
            except Exception as error:  # noqa: BLE001 - shown in the status, logged, tried again
                self.problem = f"{type(error).__name__}: {error}"
                # Without local variables, which a pretty traceback would print: they hold payloads.
                self._log.error("live_failed", next="tried again in 1 s", traceback=traceback.format_exc())
                self._stop.wait(_RETRY_S)
                continue
            self.problem = ""
            if not busy:
                seen = [self.next_offset[PROCESSED, p] for p in range(self._bus.partitions)]
                due = self._sent_s + _EVERY_S - time.monotonic() if self._waiting else _WAIT_S
                self._bus.wait(PROCESSED, seen, max(0.005, min(due, _WAIT_S)))

    def step(self) -> bool:
        """Take up some frames of each stream and send what is due; True when there were any."""
        busy = False
        for (stream, partition), at in self.next_offset.items():
            for record in self._bus.read(stream, partition, at, _BATCH):
                self._by[stream](decode(record.data))
                self.next_offset[stream, partition] = record.offset + 1
                busy = True
        if self._waiting and time.monotonic() - self._sent_s >= _EVERY_S:
            self._send_readings()
        return busy

    def _processed(self, frame: Frame) -> None:
        manifest, readings, events = (frame.get(name) for name in ("manifest", "readings", "events"))
        now = self._service.clock.now_us()
        for route, at in frame.header.get("hearing", {}).items():  # absent in frames of older programs
            self.heard_us[route] = max(at, self.heard_us.get(route, at))
        if "quiet" in frame.header:
            self.quiet[frame.header["origin"][0]] = frame.header["quiet"]
        with self._lock:
            if manifest is not None:
                first = ~manifest.column("redrive_of").is_valid().to_numpy(zero_copy_only=False)
                received = times_of(manifest.column("received_at"))
                self._rates.add(now, manifest.num_rows, now - (received if first.all() else received[first]))
            if events is not None:
                self._hear(events)
            if readings is None:
                return
            rows = self._latest.apply(readings)
        if len(self.fanout):
            self._waiting.append(rows)

    def _hear(self, events: pa.RecordBatch) -> None:
        known = times_of(events.column("known_at")).tolist()
        kinds = events.column("kind").to_pylist()
        for station, kind, at in zip(events.column("station").to_pylist(), kinds, known, strict=True):
            if kind not in _SAID_HERE:
                self._events_heard[station] = max(at, self._events_heard.get(station, at))

    def _transitions(self, frame: Frame) -> None:
        with self._lock:
            changed = self._alerts.apply(frame.sections["alerts"])
        if len(self.fanout):
            alerts = [alert_json(row, self._service.catalogue) for row in changed]
            self.fanout.send(event("alerts", orjson.dumps({"now_ms": self.now_ms(), "alerts": alerts})))

    def _figures(self, frame: Frame) -> None:
        if len(self.fanout):
            rows = figure_rows(frame.sections["figures"])
            for i in range(0, len(rows), EVENT_ROWS):
                self.fanout.send(event("figures", orjson.dumps({"rows": rows[i : i + EVENT_ROWS]})))

    def _send_readings(self) -> None:
        waiting, self._waiting = self._waiting, []
        self._sent_s = time.monotonic()
        if not len(self.fanout):
            return
        rows = Rows.joined(waiting)
        if len(rows) > EVENT_ROWS:
            rows = rows.thinned()
            self._waiting = [rows.take(slice(EVENT_ROWS, None))] if len(rows) > EVENT_ROWS else []
            rows = rows.take(slice(0, EVENT_ROWS))
        self.fanout.send(event("readings", rows_json(self._latest.names.keys, rows, self.now_ms())))


def rows_json(keys: list[tuple[str, str, str]], rows: Rows, now_ms: int) -> bytes:
    """Write readings as the stream gives them.

    Args:
        keys: names by series number.
        rows: oldest first.
        now_ms: the service's clock.
    """

    def column(name: str) -> list[Any]:
        array: NDArray[Any] = getattr(rows, name)
        if name == "time_us":
            array = array // 1000
        elif name == "moved":
            array = (~array).astype(np.uint8)
        values: list[Any] = array.tolist()
        return values

    parts = [column(name) for name in ("time_us", "value", "flag", "tests", "moved")]
    # orjson writes NaN as null: a missing value.
    told = [(*keys[s], *rest) for s, *rest in zip(column("series"), *parts, strict=True)]
    return orjson.dumps({"now_ms": now_ms, "columns": (*COLUMNS, "late"), "rows": told})


def figure_rows(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """Return figures (``FIGURE_ROWS``) as the API gives them."""
    names = ("what", "station", "property", "channel", "value", "count", "expected", "valid", "reason", "revision")
    columns = {name: batch.column(name).to_pylist() for name in names}
    columns["start_ms"] = (times_of(batch.column("start")) // 1000).tolist()
    columns["revision"] = [str(revision) for revision in columns["revision"]]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
