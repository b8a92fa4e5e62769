"""The browser, and the real service with the demonstration catalogue, broker and page, on free ports."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from playwright.sync_api import Browser, sync_playwright

from qingtu.app import Options
from qingtu.commands.host import Host
from qingtu.settings import load_settings
from tests.browser.support import ARGS, CHROMIUM, WAIT_MS, Watched

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from qingtu.catalogue_model import Station


class RunningService:
    """What the tests of the page need; see ``LiveService`` in support.py."""

    def __init__(self, host: Host) -> None:
        self.url = host.url
        self.token = host.token
        self.stations: Mapping[str, Station] = host.service.catalogue.stations
        broker = host.service.broker
        assert broker is not None
        self._client = paho.Client(CallbackAPIVersion.VERSION2, "page-tests", protocol=paho.MQTTv311)
        self._client.connect(broker.host, broker.port)
        self._client.loop_start()

    def publish(self, topic: str, payload: bytes) -> None:
        """Publish one message with QoS 1 and return when the broker has it."""
        self._client.publish(topic, payload, qos=1).wait_for_publish(10)

    def close(self) -> None:
        """End the publisher's connection."""
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture(scope="module")
def live_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A running service, ended after the module's tests."""
    data = tmp_path_factory.mktemp("live") / "data"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environ = {"QINGTU_DATA": str(data), "QINGTU_MQTT__PORT": str(port), "QINGTU_WEB__PORT": "0"}
    settings = load_settings(Path(os.devnull), environ=environ)
    with Host(settings, Options()) as host:
        gateway = host.service.gateway
        assert gateway is not None
        deadline = time.monotonic() + 20
        while not gateway.status()["connected"]:
            assert time.monotonic() < deadline, gateway.status()
            time.sleep(0.05)
        running = RunningService(host)
        try:
            yield running
        finally:
            running.close()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """The system's browser, headless, drawing WebGL in software."""
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine (looked for chromium, chromium-browser, google-chrome)")
    with sync_playwright() as playwright:
        #  with the scrollbars that people have: they take room from the panels
        bars = ["--hide-scrollbars"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS, ignore_default_args=bars)
        yield browser
        browser.close()


@pytest.fixture
def watched(chromium: Browser) -> Iterator[Watched]:
    """A fresh page, without anything kept from the tests before."""
    context = chromium.new_context(viewport={"width": 1440, "height": 900}, locale="zh-CN")
    context.set_default_timeout(WAIT_MS)
    yield Watched(context.new_page())
    context.close()
