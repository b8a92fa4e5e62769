"""What the routers share: the service and its live view, who acts, and how an answer is written."""

from __future__ import annotations

import gzip
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

import orjson
import structlog
from fastapi import Depends, Request
from fastapi.responses import Response

from qingtu.records import PROCESSED
from web.backups import Backups
from web.fanout import event
from web.guard import ApiError, person_of
from web.live import LiveView
from web.stations import Stations
from web.status import Monitor

if TYPE_CHECKING:
    from qingtu.app import Service

_GZIP_FROM: Final = 32 * 1024
_PULSE_S: Final = 2.0
_STORE_S: Final = 3.0
_LOOK_S: Final = 0.02
_LOG: Final = structlog.get_logger("web")


@dataclass(slots=True)
class Context:
    """One running page: the service, what follows it, and the pulse that tells pages how it is.

    Attributes:
        service: the pipeline.
        live: latest readings, active alerts, open streams.
        stations: states of stations.
        monitor: status.
        backups: makes them.
    """

    service: Service
    live: LiveView
    stations: Stations
    monitor: Monitor
    backups: Backups
    _stop: threading.Event
    _thread: threading.Thread | None = None

    @classmethod
    def of(cls, service: Service) -> Context:
        """Put one together; :meth:`start` makes it follow."""
        live = LiveView(service)
        stations, monitor = Stations(service, live), Monitor(service, live)
        return cls(service, live, stations, monitor, Backups(service), threading.Event())

    def start(self) -> None:
        """Follow the bus, and tell pages every two seconds how things are."""
        self.backups.clean()
        self.live.start()
        self._thread = threading.Thread(target=self._pulse, name="web-pulse", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop following and end all streams."""
        self._stop.set()
        self.live.stop()
        if self._thread is not None:
            self._thread.join(5)

    def wait_for_store(self) -> None:
        """Wait until the store has committed what pages were told so far, or three seconds.

        A page asks about a reading as soon as it sees it; an answer from the store alone would say that there is none.
        """
        store = self.service.store
        told = {at: offset for (stream, at), offset in self.live.next_offset.items() if stream == PROCESSED}
        deadline = time.monotonic() + _STORE_S
        while time.monotonic() < deadline and not self._stop.wait(_LOOK_S):
            if all(store.progress(PROCESSED, at).next_offset >= offset for at, offset in told.items()):
                return

    def hello(self) -> bytes:
        """Return the first event of a stream; sent again when the catalogue changes, so that pages load anew."""
        body = {"now_ms": self.live.now_ms(), "catalogue": self.service.catalogue.version}
        return event("hello", orjson.dumps(body))

    def _pulse(self) -> None:
        version = self.service.catalogue.version
        shown: dict[str, tuple[Any, ...]] = {}
        while not self._stop.wait(_PULSE_S):
            try:
                # Looked at even when nobody listens: that a stage stands still takes two looks to see.
                status = self.monitor.look()
                if not len(self.live.fanout):
                    shown.clear()
                    continue
                if version != self.service.catalogue.version:
                    version = self.service.catalogue.version
                    self.live.fanout.send(self.hello())
                self.live.fanout.send(event("status", orjson.dumps(status)))
                shown = self._tell_stations(shown)
            except Exception:  # noqa: BLE001 - logged and tried again; pages notice the silence
                _LOG.exception("pulse_failed", next="tried again in 2 s")

    def _tell_stations(self, shown: dict[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
        """Send the stations whose state or alert changed since the last look; return what is shown now."""
        states = self.stations.states(headlines=False)
        marks = {k: (s["state"], s["alert_level"], s["unacknowledged"]) for k, s in states.items()}
        changed = [k for k, mark in marks.items() if k in shown and shown[k] != mark]
        if changed:
            heads = self.stations.headlines(changed)
            told = [{"id": k, **states[k], "headline": heads[k]} for k in changed]
            self.live.fanout.send(event("stations", orjson.dumps({"stations": told})))
        return marks


def _context(request: Request) -> Context:
    found: Context = request.app.state.context
    return found


def _person(request: Request) -> str:
    return person_of(request, _context(request).service.tokens)


def known_person(request: Request, context: Context) -> str | None:
    """Return the person whose token a question carries; None for none, and for one that is not known (any more).

    Questions are answered to everybody; who is known is shown more.
    """
    try:
        return person_of(request, context.service.tokens)
    except ApiError:
        return None


def is_private(context: Context, network: str | None, topic: str | None) -> bool:
    """Return whether what came belongs to a private network, by its name or, where no route took it, by its topic."""
    named = {network, *(topic or "").split("/")}
    return any(n.private and n.id in named for n in context.service.catalogue.networks.values())


Ctx = Annotated[Context, Depends(_context)]
"""The context, as a parameter of an endpoint."""
Person = Annotated[str, Depends(_person)]
"""The person whose token the request carries; without one the answer is 401 or 403."""


def answer(request: Request, data: Any, status: int = 200) -> Response:
    """Write JSON; large answers are compressed for clients that take it.

    Args:
        request: whose ``Accept-Encoding`` counts.
        data: anything that orjson writes (NaN becomes null), or bytes that are JSON already.
        status: HTTP status.
    """
    body = data if isinstance(data, bytes) else orjson.dumps(data, option=orjson.OPT_SERIALIZE_NUMPY)
    headers = {"Cache-Control": "no-store", "Vary": "Accept-Encoding"}
    if len(body) >= _GZIP_FROM and "gzip" in request.headers.get("accept-encoding", ""):
        # Level 1: 50,000 readings (3 MB) take 20 ms; level 6 takes five times that for a fifth less.
        body = gzip.compress(body, 1, mtime=0)
        headers["Content-Encoding"] = "gzip"
    return Response(body, status, headers, "application/json")
