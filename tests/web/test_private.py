"""Networks about people's homes: their readings are on the map, their raw bytes are for those who have a token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from qingtu.catalogue import Catalogue
from qingtu.catalogue_model import Content
from tests.web.conftest import Running, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Running]:
    """Station H in private network p, station O in open network n, both with pm25."""
    has = {"properties": ["pm25"]}
    place = {"domain": "community", "kind": "community", "position": [120.3, 36.1]}
    content = {
        "networks": [
            {"id": "p", "zh": "社区", "en": "Homes", "private": True, "route": "homes"},
            {"id": "n", "zh": "网", "en": "Net"},
        ],
        "stations": [
            {"id": "H", "zh": "甲", "en": "H", "network": "p", "devices": [{"id": "h", **has}], **place},
            {"id": "O", "zh": "乙", "en": "O", "network": "n", "devices": [{"id": "o", **has}], **place},
        ],
    }
    routes = [
        {"name": "homes", "topic": "qt/p/{device}/up", "network": "p", "redact": "native"},
        {"name": "native", "topic": "qt/{network}/{device}/up"},
    ]
    catalogue = Catalogue(Content.model_validate(content))
    with running(tmp_path / "data", catalogue, {"routes": routes}) as started:
        yield started


def _payloads(found: Any) -> list[Any]:
    """Return every payload in an answer, wherever it stands."""
    if isinstance(found, list):
        return [payload for one in found for payload in _payloads(one)]
    if not isinstance(found, dict):
        return []
    own = [found[name] for name in ("payload_text", "payload_hex") if name in found]
    return own + [payload for one in found.values() for payload in _payloads(one)]


def _asked(run: Running, path: str, *, known: bool, **query: Any) -> Any:
    answer = run.http.get(f"/api/{path}", params=query, headers=run.acts if known else {})
    assert answer.status_code == 200
    return answer.json()


def test_quarantine_shows_bytes_of_a_private_network_to_people_who_are_known(home: Running) -> None:
    """Without a token reason and advice are there, the bytes are not; of an open network everything is."""
    home.publish("h", {"readings": {"nonsense": 1}}, network="p")
    home.publish("o", {"readings": {"nonsense": 1}})
    home.settle()
    rows = {row["network"]: row["id"] for row in home.get("quarantine")["rows"]}
    kept_back = _asked(home, f"quarantine/{rows['p']}", known=False)
    assert (kept_back["withheld"], _payloads(kept_back)) == (True, [None, None])
    assert kept_back["advice_zh"]
    shown = _asked(home, f"quarantine/{rows['p']}", known=True)
    assert (shown["withheld"], "nonsense" in shown["payload_text"]) == (False, True)
    open_ = _asked(home, f"quarantine/{rows['n']}", known=False)
    assert (open_["withheld"], "nonsense" in open_["payload_text"]) == (False, True)
    stranger = home.http.get(f"/api/quarantine/{rows['p']}", headers={"Authorization": "Bearer nobody"}).json()
    assert stranger["withheld"] is True


def test_a_message_that_no_route_takes_is_private_by_its_topic(home: Running) -> None:
    """Its network is not known, but a level of the topic names it."""
    home.publish("h/more", {"readings": {"pm25": 1}}, network="p")
    home.settle()
    (row,) = home.get("quarantine")["rows"]
    assert _asked(home, f"quarantine/{row['id']}", known=False)["withheld"] is True


def test_explain_keeps_the_bytes_back_and_tells_the_rest(home: Running) -> None:
    """Raw bytes and those of corrections; value, mapping and checks are told to everybody, as on the map."""
    at = home.now_ms()
    for device, network in (("h", "p"), ("o", "n")):
        for value in (31, 32):
            home.publish(device, {"time": at, "readings": {"pm25": value}, "seq": value}, network=network)
    home.settle()
    ask = {"property": "pm25", "time_ms": at}
    found = _asked(home, "explain", known=False, station="H", **ask)
    assert found["reading"]["value"] in (31, 32)
    assert set(_payloads(found)) == {None}
    assert next(step for step in found["steps"] if step["step"] == "raw")["data"]["withheld"] is True
    for station, known in (("H", True), ("O", False)):
        payloads = _payloads(_asked(home, "explain", known=known, station=station, **ask))
        assert payloads
        assert None not in payloads
    assert {row[0] for row in home.get("latest")["rows"]} == {"H", "O"}
