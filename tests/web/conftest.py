"""A real service behind a real server on a free port of 127.0.0.1; messages come through the gateway's core."""

from __future__ import annotations

import json
import re
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import jsonschema  # type: ignore[import-untyped]
import orjson
import pytest

from ingest.core import GatewayCore
from ingest.routes import RouteTable
from qingtu.app import Options, Service
from qingtu.catalogue import Catalogue
from qingtu.catalogue_model import Content
from qingtu.records import RAW
from qingtu.settings import Settings
from tests.waiting import until
from web.server import WebServer, url_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from web.context import Context

HOSTILE = "<img src=x onerror=alert(1)>"
FORMULA = '=HYPERLINK("http://example.invalid","x")'
WAIT_S = 20.0
"""How long a test waits for what must come; a guard against hanging, never a measure."""


def small_catalogue() -> Catalogue:
    """Stations A (pm25, air_temperature), B (dust in mg/m3 with a sentinel, hostile names) and C, never heard."""
    limits = {"pm25": {"range": [0, 1000], "spike": {"suspect": 60, "fail": 120}}}
    position = [120.3, 36.1]
    common = {"network": "n", "domain": "air", "kind": "air", "position": position, "district": "370202"}
    dust = {"dust": {"property": "pm25", "unit": "mg/m3", "sentinels": [-999]}}
    content = {
        "networks": [{"id": "n", "zh": "网", "en": "Net", "interval_s": 60}],
        "stations": [
            {"id": "A", "zh": "甲", "en": "Alpha", "devices": [{"id": "a", "properties": ["pm25", "air_temperature"]}],
             "limits": limits, **common},
            {"id": "B", "zh": HOSTILE, "en": FORMULA, "devices": [{"id": "b", "fields": dust}], **common},
            {"id": "C", "zh": "丙", "en": "Gamma", "devices": [{"id": "c", "properties": ["o3"]}], **common},
        ],
        "rules": [
            {"id": "dust", "kind": "threshold", "zh": "尘", "en": "Dust", "property": "pm25",
             "levels": {"blue": 75, "orange": 150, "red": 250}, "hysteresis": 5},
            {"id": "quiet", "kind": "silence", "zh": "静", "en": "Quiet", "after_s": 86400, "level": "orange"},
        ],
    }  # fmt: skip
    return Catalogue(Content.model_validate(content))


class Stream:
    """One open event stream, read by a thread."""

    def __init__(self, url: str) -> None:
        """Connect, and return when the first event came."""
        self.events: list[tuple[str, Any]] = []
        self.ended = threading.Event()
        self._news = threading.Condition()
        self._url = url
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        self.until(lambda name, _: name == "hello")

    def _read(self) -> None:
        name = ""
        try:
            with httpx.stream("GET", self._url, timeout=None) as answer:
                for line in answer.iter_lines():
                    if line.startswith("event: "):
                        name = line.removeprefix("event: ")
                    elif line.startswith("data: "):
                        with self._news:
                            self.events.append((name, json.loads(line.removeprefix("data: "))))
                            self._news.notify_all()
        finally:
            self.ended.set()

    def until(self, wanted: Callable[[str, Any], bool]) -> Any:
        """Return the data of the first event that is wanted."""
        found: list[Any] = []

        def look() -> bool:
            found[:] = [data for name, data in self.events if wanted(name, data)][:1]
            return bool(found)

        with self._news:
            assert self._news.wait_for(look, WAIT_S), f"did not come; there were {[n for n, _ in self.events]}"
        return found[0]

    def named(self, name: str) -> list[Any]:
        """Return the data of all events of one name so far."""
        with self._news:
            return [data for event, data in self.events if event == name]


class Running:
    """A service with its page.

    Attributes:
        service: started, without a broker.
        url: of the page.
        http: a client for it.
        acts: headers that carry the operator's token.
    """

    def __init__(self, service: Service, server: WebServer, address: tuple[str, int]) -> None:
        """Wrap what was started."""
        self.service, self.server = service, server
        self.url = url_of(*address)
        self.http = httpx.Client(base_url=self.url, timeout=WAIT_S, event_hooks={"response": [self._as_documented]})
        token = next(token for token, person in service.tokens.items() if person == "operator")
        self.acts = {"Authorization": f"Bearer {token}"}
        self.core = GatewayCore(
            RouteTable(service.settings.routes), service.settings.mqtt, gateway="g", partitions=1, key=b"k",
            catalogue=service.catalogue.version,
        )  # fmt: skip
        self._packet = 0

    def _as_documented(self, response: httpx.Response) -> None:
        """Hold every JSON answer of every test against what /openapi.json says of its address."""
        kind = response.headers.get("content-type", "")
        if not kind.startswith("application/json") or response.request.url.path == "/openapi.json":
            return
        response.read()
        schema = self.schema_of(response.request.method, response.request.url.path, response.status_code)
        if schema is not None:
            jsonschema.validate(response.json(), schema)

    def schema_of(self, method: str, path: str, status: int) -> dict[str, Any] | None:
        """Return the JSON schema of an answer; None for an address that is not there."""
        assert self.server.app is not None
        api = self.server.app.openapi()
        for template, methods in api["paths"].items():
            spec = methods.get(method.lower())
            if spec is None or re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path) is None:
                continue
            answers = spec["responses"]
            found = answers.get(str(status)) or answers[f"{status // 100}XX"]
            return {**found["content"]["application/json"]["schema"], "components": api["components"]}
        return None

    @property
    def context(self) -> Context:
        """What the server follows the bus with."""
        app = self.server.app
        assert app is not None
        found: Context = app.state.context
        return found

    def now_ms(self) -> int:
        """The service's clock."""
        return self.service.clock.now_us() // 1000

    def publish(self, device: str, *bodies: Any, network: str = "n", received_ms: int | None = None) -> None:
        """Take messages as the gateway does, now or at another time, and make them durable, all in one frame."""
        now = self.service.clock.now_us() if received_ms is None else received_ms * 1000
        for body in bodies:
            self._packet += 1
            payload = body if isinstance(body, bytes) else orjson.dumps(body)
            topic = f"qt/{network}/{device}/up".encode()
            self.core.receive(
                topic, payload, qos=1, dup=False, retain=False, packet_id=self._packet % 65535 + 1, properties=None,
                now_us=now,
            )  # fmt: skip
        while (flush := self.core.take(now)) is not None:
            for partition, frame in flush.frames.items():
                self.service.bus.append(RAW, partition, [frame]).result()
            self.core.flushed(flush)

    def send(self, device: str, at_ms: int, **readings: Any) -> None:
        """Publish one message of readings."""
        self.publish(device, {"time": at_ms, "readings": readings})

    def settle(self) -> None:
        """Wait until everything published is stored and seen by the page's server."""
        assert self.service.drain(WAIT_S)
        end = self.service.bus.end
        until(lambda: all(at >= end(*key) for key, at in self.context.live.next_offset.items()), "all is told")

    def get(self, path: str, **query: Any) -> Any:
        """GET JSON under /api."""
        answer = self.http.get(f"/api/{path}", params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, body: Any = None, **headers: str) -> httpx.Response:
        """POST under /api with the operator's token unless told otherwise."""
        return self.http.post(f"/api/{path}", json=body, headers=headers or self.acts)

    def stream(self) -> Stream:
        """Open an event stream."""
        return Stream(f"{self.url}api/stream")


@contextmanager
def running(data: Path, catalogue: Catalogue, settings: dict[str, Any] | None = None) -> Iterator[Running]:
    """Start service and page; stop and close both."""
    chosen = Settings.model_validate({"data": data, "web": {"port": 0}, "figures": {"tick_s": 1}, **(settings or {})})
    service = Service(chosen, Options(gateway=False), catalogue=catalogue)
    server = WebServer(service)
    try:
        service.start()
        run = Running(service, server, server.start())
        yield run
        run.http.close()
    finally:
        server.stop()
        service.stop()
        service.close()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Running]:
    """A service with the small catalogue and nothing in it."""
    with running(tmp_path / "data", small_catalogue()) as started:
        yield started
