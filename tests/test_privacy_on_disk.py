"""Identifiers of people are nowhere in the data folder: not in a file, not in a log ahead, not inside a frame.

The broker here is one of its own, as in production. What a broker holds it holds as it came, the embedded one in
``data/broker``: queued messages until we have taken them, retained ones until somebody clears them, for no gateway
can. The last test here says so; docs/gateway.md tells devices not to retain, and operators how to clear.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from deploy.native.process import free_port
from ingest.brokers import start_broker
from qingtu.app import Options, Service
from qingtu.records import STREAMS, decode
from qingtu.settings import MqttSettings, load_settings
from qingtu.store.duckdb import DuckStore
from tests.faults.harness import World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from qingtu.records import Frame

IDENTIFIERS = ("6222021234567890123", "鲁B8K1234", "13905321234", "370202199001011234", "王小明明")
SPELLINGS = (
    "cardNum card_num ic_card_no rfid 门禁卡号 IC卡号",
    "plateNum licensePlateNumber vehicleNo carNumber carPlate hphm 车牌号码 号牌号码",
    "phoneNum mobileNo contactTel 手机号码 电话号码",
    "idCardNumber ownerIdNo sfzmhm 身份证号码 证件号码",
    "userName visitor_name 姓名",
)
"""Keys of each of the identifiers."""
CONTROL = "Control-4711"
"""Public text sent beside the identifiers: the search must find it."""
CATALOGUE = """
networks:
  - {id: qd-community, zh: 社区, en: Community, interval_s: 60, private: true, route: community}
stations:
  - {id: C, zh: 院, en: Court, network: qd-community, domain: community, kind: community, position: [120.3, 36.1],
     devices: [{id: gate, properties: [door_open]}]}
"""


def payload(seq: int) -> bytes:
    """A proper message of a gate: every identifier under its usual key, at several depths."""
    card, plate, phone, person, name = IDENTIFIERS
    attributes = {"cardNo": card, "车牌": plate, "visitor": {"phone": int(phone), "ID-Card": person}, "name": name}
    event = {"kind": "door", "attributes": {**attributes, **spelt(), "place": CONTROL}}
    return json.dumps({"seq": seq, "events": [event], "readings": {"door_open": 1}}, ensure_ascii=False).encode()


def spelt() -> dict[str, object]:
    """Identifiers under keys as makers spell them, in lists and objects, beside a label, and as keys."""
    card, plate, phone, person, name = IDENTIFIERS
    found: dict[str, object] = {key: IDENTIFIERS[i] for i, keys in enumerate(SPELLINGS) for key in keys.split()}
    found |= {"cards": [card, int(card)], "plates": [[plate]], "idCard": {"number": person}, "rfidTags": {card: True}}
    return found | {
        "fields": [{"key": "card_no", "value": card}, {"value": phone, "name": "phoneNum"}],
        "names": [name],
    }


def messages(seq: int) -> list[tuple[str, bytes]]:
    """(topic, payload) of everything that goes wrong with identifiers inside."""
    usual = "qt/qd-community/gate/up"
    good = payload(seq)
    return [
        (usual, good),
        (usual, good),
        (usual, good[:-1]),  # not JSON
        (usual, good.decode().encode("utf-16")),
        (usual, b"\xff" + good),
        (usual, ",".join(IDENTIFIERS).encode()),
        (usual, b'{"card":"' + IDENTIFIERS[0].encode() + b'","card":"' + IDENTIFIERS[0].encode() + b'"}'),
        (usual, b'{"readings":{"door_open":1},"card":"' + IDENTIFIERS[0].encode() * 30_000 + b'"}'),  # too large
        (usual, b'{"readings":{"plate":"' + IDENTIFIERS[1].encode() + b'"}}'),
        ("qt/qd-community/unknown/up", good),  # no such device
        ("qt/other/gate/up", b'{"readings":{"door_open":1},"events":[{"kind":"' + CONTROL.encode() + b'"}]}'),
    ]


def forms(text: str) -> dict[str, bytes]:
    """The shapes in which a text may stand in a file."""
    plain = text.encode()
    out = {"utf-8": plain, "utf-16-le": text.encode("utf-16-le"), "utf-16-be": text.encode("utf-16-be")}
    out |= {"hex": plain.hex().encode(), "HEX": plain.hex().upper().encode(), "json": json.dumps(text)[1:-1].encode()}
    for shift in range(3):
        # The characters of base64 that do not depend on what stands around.
        code = base64.b64encode(b"\0" * shift + plain)
        out[f"base64+{shift}"] = code[(0, 2, 3)[shift] + (2 if shift else 0) : -4]
    return out


def found(content: bytes, texts: Sequence[str]) -> set[tuple[str, str]]:
    """Return (text, form) of what stands in the content."""
    return {(text, form) for text in texts for form, code in forms(text).items() if code in content}


def inside(data: Path) -> bytes:
    """Everything that compressed frames and tables hold, unpacked."""
    parts: list[str] = []
    for name in ("raw.db", "derived.db"):
        db = sqlite3.connect(f"file:{data / 'bus' / name}?mode=ro", uri=True)
        for stream, frame in db.execute("SELECT stream, data FROM frames"):
            assert stream in STREAMS
            opened = decode(frame)
            parts.append(repr(opened.header))
            parts += [str(section.to_pylist()) for section in opened.sections.values()]
            payloads = opened.sections["rows"].column("payload").to_pylist() if "rows" in opened.sections else []
            parts += [p.decode("utf-8", "replace") for p in payloads]
        db.close()
    return "\n".join(parts).encode("utf-8", "replace")


def tables(service: Service) -> bytes:
    """All tables of the store as text."""
    assert isinstance(service.store, DuckStore)
    with service.store.cursor() as db:
        names = [row[0] for row in db.execute("SELECT table_name FROM duckdb_tables()").fetchall()]
        rows = [db.execute(f"SELECT * FROM {name}").fetchall() for name in names]
        blobs = db.execute("SELECT payload FROM rejected").fetchall()
    return repr(rows).encode() + b"\n".join(blob for (blob,) in blobs if blob)


def check_files(data: Path) -> int:
    """No file holds an identifier in any form; return how many files there are."""
    files = [path for path in data.rglob("*") if path.is_file()]
    for path in files:
        assert found(path.read_bytes(), IDENTIFIERS) == set(), path
    return len(files)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A broker, and a service on a catalogue with a private network."""
    made = World(tmp_path / "world", stations=1, settings=("QINGTU_FIGURES__TICK_S=0.2",))
    (made.catalogue / "bench.yaml").write_text(CATALOGUE, encoding="utf-8")
    yield made
    made.end()


def publish(port: int, sent: Sequence[tuple[str, bytes]], *, retain: bool = False) -> None:
    """Publish with QoS 1 and wait for every PUBACK."""
    client = mqtt.Client(CallbackAPIVersion.VERSION2)
    client.connect("127.0.0.1", port)
    client.loop_start()
    for topic, body in sent:
        client.publish(topic, body, qos=1, retain=retain).wait_for_publish(20)
    client.disconnect()
    client.loop_stop()


def await_raw(data: Path, done: Callable[[list[Frame]], bool]) -> None:
    """Wait until the frames on raw are as wanted."""
    deadline = time.monotonic() + 30
    while True:
        db = sqlite3.connect(f"file:{data / 'bus' / 'raw.db'}?mode=ro", uri=True)
        frames = [decode(row[0]) for row in db.execute("SELECT data FROM frames WHERE stream = 'raw'")]
        db.close()
        if done(frames):
            return
        assert time.monotonic() < deadline, "not within 30 s"
        time.sleep(0.05)


def start_and_listen(world: World) -> None:
    """Start broker and service; a tick tells that the routes are subscribed."""
    world.start_broker()
    world.start_service()
    await_raw(
        world.data,
        lambda frames: any(
            b'"community"' in p
            for f in frames
            for p in f.sections["rows"].column("payload").to_pylist()
            if b'"hearing"' in p
        ),
    )


def received(frames: list[Frame]) -> int:
    """Messages on raw."""
    return sum(n for frame in frames for _, _, n in frame.header["counts"])


def test_the_search_finds_what_is_there() -> None:
    """In each form, wherever it stands; else the tests below would prove nothing."""
    for text in (*IDENTIFIERS, CONTROL):
        for form in ("utf-8", "utf-16-le", "utf-16-be"):
            assert (text, form) in found(b"xx" + text.encode(form) + b"yy", [text])
        for shift in range(3):
            code = base64.b64encode(b"ab" * 6 + b"x" * shift + text.encode() + b"tail")
            assert any(form.startswith("base64") for _, form in found(code, [text]))
        assert (text, "hex") in found(text.encode().hex().encode(), [text])
        assert (text, "json") in found(json.dumps({"a": text}).encode(), [text])


def test_no_identifier_reaches_the_disk(world: World) -> None:
    """Proper, malformed, too large and misdirected messages; killed with all files open, then stopped cleanly."""
    start_and_listen(world)
    sent = messages(1)
    publish(world.port, sent)
    await_raw(world.data, lambda frames: received(frames) >= len(sent))
    world.kill_service()
    assert check_files(world.data) > 5
    unpacked = inside(world.data)
    assert found(unpacked, IDENTIFIERS) == set()
    assert (CONTROL, "utf-8") in found(unpacked, [CONTROL])
    world.start_service()
    publish(world.port, messages(2))
    await_raw(world.data, lambda frames: received(frames) >= 2 * len(sent))
    world.stop_service()
    check_files(world.data)
    assert found(inside(world.data), IDENTIFIERS) == set()
    environ = {"QINGTU_DATA": str(world.data), "QINGTU_CATALOGUE": str(world.catalogue)}
    service = Service(load_settings(Path(os.devnull), environ=environ), Options(gateway=False))
    try:
        report = service.ledger.report()
        assert report["balanced"]
        assert report["messages"]["received"] >= 2 * len(sent)  # the broker may send again after a kill
        assert report["messages"]["stored"] >= 2
        assert report["messages"]["quarantined"] >= 14
        content = tables(service)
        assert found(content, IDENTIFIERS) == set()
        assert (CONTROL, "utf-8") in found(content, [CONTROL])
        assert b"p-" in content
        service.store.export(world.folder / "all.csv", 0, 1 << 51, fmt="csv")
        service.store.backup(world.folder / "copy.duckdb")
    finally:
        service.close()
    assert found((world.folder / "copy.duckdb").read_bytes(), IDENTIFIERS) == set()


def test_swapped_topic_levels_are_private_too(world: World) -> None:
    """``qt/{device}/{network}/up`` instead of ``qt/{network}/{device}/up``: the slip is seen by the network's name."""
    start_and_listen(world)
    publish(world.port, [("qt/gate/qd-community/up", payload(1))])
    await_raw(world.data, lambda frames: received(frames) >= 1)
    world.stop_service()
    assert found(inside(world.data), IDENTIFIERS) == set()


@pytest.mark.skipif(shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin") is None, reason="no mosquitto")
def test_the_embedded_broker_keeps_what_is_retained_until_it_is_cleared(tmp_path: Path) -> None:
    """In clear, over restarts; an empty retained message to the topic ends it, as docs/gateway.md says."""
    settings = MqttSettings(port=free_port(), embedded="mosquitto")
    held = []
    for body in (payload(1), None, b""):
        broker = start_broker(settings, tmp_path)
        if body is not None:
            publish(settings.port, [("qt/qd-community/gate/up", body)], retain=True)
        broker.stop()
        content = b"".join(path.read_bytes() for path in (tmp_path / "broker").iterdir())
        held.append({text for text, _ in found(content, IDENTIFIERS)})
    assert held == [set(IDENTIFIERS), set(IDENTIFIERS), set()]
