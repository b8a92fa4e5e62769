"""What tests of the page share: the browser's settings, a page that is watched, messages of demonstration devices."""

from __future__ import annotations

import json
import shutil
import time
from typing import TYPE_CHECKING, Any, Protocol

from playwright.sync_api import ConsoleMessage, Page, expect

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qingtu.catalogue_model import Station

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
]  # fmt: skip
WAIT_MS = 20_000


class LiveService(Protocol):
    """A running service.

    Attributes:
        url: where the page is, such as ``http://127.0.0.1:8080/``.
        token: a duty token that the service accepts.
        stations: the catalogue's stations by id; their devices speak native JSON.
    """

    url: str
    token: str
    stations: Mapping[str, Station]

    def publish(self, topic: str, payload: bytes) -> None:
        """Publish one message with QoS 1 and return when the broker has it."""
        ...


class Watched:
    """A page together with everything that went wrong on it and every host it asked."""

    def __init__(self, page: Page) -> None:
        """Listen to the page from its first request on."""
        self.page = page
        self.errors: list[str] = []
        self.urls: list[str] = []
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self.urls.append(request.url))

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(message.text)

    def open(self, service: LiveService, **choices: str) -> Page:
        """Go to the page with these choices in its address and wait until it holds data."""
        choices = {"lang": "zh", "theme": "light"} | choices
        address = "&".join(f"{name}={value}" for name, value in choices.items())
        self.page.goto(f"{service.url.rstrip('/')}/#{address}")
        self.page.wait_for_selector("body[data-loaded=yes]", timeout=WAIT_MS)
        return self.page


def sender_of(service: LiveService, prop: str, skip: int = 0) -> tuple[Station, str]:
    """Return a station that measures ``prop`` and the topic on which its device sends it."""
    found = [
        (station, f"qt/{device.network or station.network}/{device.id}/up")
        for station in service.stations.values()
        for device in station.devices
        if prop in device.properties and station.domain in {"air", "weather"}
    ]
    return found[skip]


def message(readings: dict[str, float], age_s: float = 0.0) -> dict[str, Any]:
    """Return one native JSON message; ``age_s`` seconds old."""
    return {"time": int((time.time() - age_s) * 1000), "readings": readings}


def send(service: LiveService, topic: str, *messages: dict[str, Any]) -> None:
    service.publish(topic, json.dumps(list(messages)).encode())


def value_of(page: Page, prop: str) -> Any:
    return expect(page.locator(f"#station tr[data-property={prop}] .v b"), f"the value of {prop}")
