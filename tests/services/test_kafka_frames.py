"""Frames on Kafka: what only a server far away can do: refuse, forget, be full, be read at many places at once."""

from __future__ import annotations

import os
import threading
from functools import partial
from typing import TYPE_CHECKING

import pytest
from kafka import TopicPartition  # type: ignore[import-untyped]
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient  # type: ignore[import-untyped]

from qingtu.bus.kafka import KafkaBus
from qingtu.bus.kafka_client import MAX_FRAME_BYTES, topic
from qingtu.bus.kafka_lane import AHEAD_BYTES, BEHIND_BYTES
from qingtu.bus.kafka_producer import WAITING_BYTES, Item, _Job
from qingtu.bus.kafka_reader import LANES
from qingtu.bus.kafka_topics import check_sizes, setup
from qingtu.errors import RetryLater, StartError
from qingtu.records import PROCESSED, RAW
from qingtu.settings import BusSettings, KafkaSettings, MqttSettings, Settings
from tests.services.kafka_support import installation, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deploy.native.kafka import KafkaServer
    from qingtu.contracts import Record

pytestmark = pytest.mark.services
MIB = 1024 * 1024


@pytest.fixture
def settings(kafka: KafkaServer) -> KafkaSettings:
    """An installation with two partitions."""
    return installation(kafka, 2)


@pytest.fixture
def bus(settings: KafkaSettings) -> Iterator[KafkaBus]:
    """A bus on it."""
    made = KafkaBus(settings)
    yield made
    made.close()


# ------------------------------------------------------------------------------------------------------- setup


def test_setup_says_what_it_did_and_does_it_once(kafka: KafkaServer) -> None:
    """Made, then changed, then nothing; other partitions are refused with the way out."""
    settings = KafkaSettings(servers=(kafka.address,), prefix=f"s-{os.getpid()}", partitions=3)
    with pytest.raises(StartError, match=r"missing.*\.raw.*\.state.*qingtu setup"):
        KafkaBus(settings)
    made = setup(settings, BusSettings())
    assert [line.split(":")[0].rpartition(".")[2] for line in made] == [
        "raw", "processed", "figures", "alerts", "rejected", "state",
    ]  # fmt: skip
    assert setup(settings, BusSettings()) == []
    changed = setup(settings, BusSettings(derived_keep_h=24))
    assert f"topic {settings.prefix}.processed: retention.ms = 86400000, was 172800000" in changed
    assert not any(".raw" in line or ".state" in line for line in changed)
    other = settings.model_copy(update={"partitions": 4})
    for refused in (lambda: setup(other, BusSettings()), lambda: KafkaBus(other)):
        with pytest.raises(StartError, match=r"3 partitions.*fixed at setup"):
            refused()
    bus = KafkaBus(settings)
    assert bus.partitions == 3
    bus.close()


def test_servers_that_do_not_answer(settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line with the address and what to do; nothing keeps running."""
    monkeypatch.setattr("qingtu.bus.kafka_client.OPEN_TIMEOUT_MS", 1000)
    before = threading.active_count()
    with pytest.raises(StartError, match=r"127\.0\.0\.1:9 cannot be reached.*kafka\.servers"):
        KafkaBus(settings.model_copy(update={"servers": ("127.0.0.1:9",)}))
    assert threading.active_count() == before


def test_settings_that_cannot_work_together() -> None:
    """More copies in sync than there are; frames longer than Kafka takes."""
    with pytest.raises(StartError, match="min_in_sync"):
        setup(KafkaSettings(min_in_sync=2), BusSettings())
    check_sizes(Settings())
    with pytest.raises(StartError, match="flush_bytes"):
        check_sizes(Settings(mqtt=MqttSettings(flush_bytes=24 * MIB)))


# ----------------------------------------------------------------------------------------------------- appends


def test_the_largest_frame_goes_through(bus: KafkaBus) -> None:
    """And one that is longer is refused before it is sent."""
    large = os.urandom(1000) * (MAX_FRAME_BYTES // 1000 - 2)
    bus.append(PROCESSED, 0, [b"before", large]).result(120)
    found = bus.read(PROCESSED, 0, 0)
    assert [record.data for record in found] == [b"before", large]
    with pytest.raises(RetryLater, match="longer than Kafka takes"):
        bus.append(PROCESSED, 0, [large + bytes(2000)]).result(0)


def test_what_the_server_refuses_was_not_written(bus: KafkaBus, settings: KafkaSettings) -> None:
    """The ticket says so, what comes after is written, and the same frame may be given again."""
    name = topic(settings, RAW)
    admin = KafkaAdminClient(bootstrap_servers=list(settings.servers))
    try:
        resource = ConfigResource(ConfigResourceType.TOPIC, name, {"max.message.bytes": "5000"})
        admin.alter_configs([resource])
        frame = os.urandom(20_000)
        with pytest.raises(RetryLater, match="Kafka refuses: MessageSizeTooLarge"):
            bus.append(RAW, 0, [frame]).result(60)
        (offset,) = bus.append(RAW, 0, [b"small"]).result(60)
        assert [record.data for record in bus.read(RAW, 0, 0)] == [b"small"]
        resource.configs = {"max.message.bytes": "50000"}
        admin.alter_configs([resource])
        assert bus.append(RAW, 0, [frame]).result(60)[0] > offset
        assert [record.data for record in bus.read(RAW, 0, 0)] == [b"small", frame]
    finally:
        admin.close()


def test_what_follows_a_batch_that_failed_is_not_written_before_it(bus: KafkaBus, settings: KafkaSettings) -> None:
    """kafka-python would go on behind it, and consumers would skip the origins that come late: lost without a word."""
    bus.append(PROCESSED, 0, [b"before"]).result(60)
    place = TopicPartition(topic(settings, PROCESSED), 0)
    # What a server answers that has lost its newest records: OUT_OF_ORDER_SEQUENCE_NUMBER.
    bus._writer()._producer._transaction_manager.increment_sequence_number(place, 7)
    frames = [b"%04d" % n + os.urandom(400_000) for n in range(6)]  # a batch each
    with bus._writer()._wake:  # both are queued before the first one fails
        tickets = [bus.append(PROCESSED, 0, frames[:4]), bus.append(PROCESSED, 0, frames[4:])]
    for ticket in tickets:
        with pytest.raises(RetryLater, match=r"OutOfOrderSequence|closed"):
            ticket.result(60)
    bus.append(PROCESSED, 0, frames).result(60)
    assert [record.data for record in bus.read(PROCESSED, 0, 0)] == [b"before", *frames]


@pytest.mark.parametrize("written", [0, 1, 2, 3])
def test_an_append_of_unknown_fate_is_looked_up(bus: KafkaBus, settings: KafkaSettings, written: int) -> None:
    """kafka-python gave it up after some of its records were written: they are found, the rest follows, none twice."""
    name = topic(settings, RAW)
    writer = bus._writer()
    items = [Item(b"%d" % n) for n in range(3)]
    ids = [os.urandom(16) for _ in items]
    for item, key in zip(items[:written], ids[:written], strict=True):
        writer._producer.send(name, value=item.value, headers=[("id", key)], partition=0).get(60)
        writer._producer.send(name, value=b"somebody else", headers=[("id", os.urandom(16))], partition=0).get(60)
    job = _Job(name, 0, items, ids, 0, 3, 0.0, offsets=[None] * 3, error=ConnectionError("gone"))
    with writer._wake:
        writer._failed.append(job)
        writer._wake.notify()
    until(job.ticket.done, "decided")
    frames = [(r.offset, r.data) for r in bus.read(RAW, 0, 0) if r.data != b"somebody else"]
    if written:
        offsets = job.ticket.result(0)
        assert frames == [(offset, item.value) for offset, item in zip(offsets, items, strict=True)]
    else:
        with pytest.raises(RetryLater, match="refuses"):
            job.ticket.result(0)
        assert frames == []


def test_a_closed_bus_refuses_and_kept_what_waited(settings: KafkaSettings) -> None:
    """Close writes what was queued; later appends are refused, not lost in silence."""
    bus = KafkaBus(settings)
    tickets = [bus.append(RAW, 0, [b"%d" % n]) for n in range(20)]
    bus.close()
    assert [ticket.result(0) for ticket in tickets] == [[n] for n in range(20)]
    with pytest.raises(RetryLater, match="closed"):
        bus.append(RAW, 0, [b"late"]).result(0)
    bus.close()  # twice does no harm


# ----------------------------------------------------------------------------------------------------- reading


def test_readers_at_many_places_read_what_is_there(bus: KafkaBus, settings: KafkaSettings) -> None:
    """More readers of one partition than there are lanes, each at a place and pace of its own."""
    frames = [b"%04d" % n + os.urandom(60_000) for n in range(400)]
    for n in range(0, 400, 40):
        bus.append(RAW, 0, frames[n : n + 40]).result(60)
    reader = KafkaBus(settings)
    problems: list[object] = []

    def work(start: int, step: int) -> None:
        at, later = start, 0
        try:
            while at < 400:
                try:
                    found = reader.read(RAW, 0, at, step)
                except RetryLater:  # a busy machine's server may be silent for so long: a stage would ask again, too
                    later += 1
                    assert later < 6, "a reader that is never served"
                    continue
                # At the edge of what was fetched a read may give less than it was asked for, never nothing.
                assert 0 < len(found) <= step
                assert [r.data for r in found] == frames[at : at + len(found)]
                at += len(found)
        except BaseException as problem:  # noqa: BLE001 - told by the main thread
            problems.append((start, at, problem))

    threads = [threading.Thread(target=work, args=(n * 55, 3 + 5 * n)) for n in range(LANES + 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    held = [sum(len(r.data) for r in w.records) for lane in reader._reader._lanes for w in lane.windows.values()]
    reader.close()
    assert problems == []
    assert len(held) <= LANES
    # a fetch that was under way may come on top
    assert max(held) <= AHEAD_BYTES + BEHIND_BYTES + 2 * 4 * MIB


def test_a_reader_that_stands_still_holds_little(bus: KafkaBus, settings: KafkaSettings) -> None:
    """What it did not take is not fetched on; when it goes on, all is there in order."""
    for _ in range(40):
        bus.append(RAW, 0, [os.urandom(1 * MIB)]).result(60)
    reader = KafkaBus(settings)
    first = reader.read(RAW, 0, 0, 1)
    until(lambda: reader._reader._lanes[0]._paused, "full")
    window = reader._reader._lanes[0].windows[RAW, 0]
    assert window.ahead <= AHEAD_BYTES + 2 * 4 * MIB
    rest: list[Record] = []
    while len(rest) < 39:
        rest += reader.read(RAW, 0, 1 + len(rest), 7)
    assert [record.offset for record in first + rest] == list(range(40))
    reader.close()


def test_a_reader_that_leaves_frames_out_reads_on(bus: KafkaBus, settings: KafkaSettings) -> None:
    """What it jumped over is not read any more: it does not fill the window for ever."""
    frames = [b"%04d" % n + os.urandom(100_000) for n in range(160)]
    for n in range(0, 160, 40):
        bus.append(RAW, 0, frames[n : n + 40]).result(60)
    reader = KafkaBus(settings)
    assert len(reader.read(RAW, 0, 0, 4)) == 4
    until(lambda: reader._reader._lanes[0]._paused, "full")
    window = reader._reader._lanes[0].windows[RAW, 0]
    at = window.high - 4  # over more than half of what may wait
    while at < 160:
        found = reader.read(RAW, 0, at, 4)
        assert [r.data for r in found] == frames[at : at + len(found)]
        at += len(found)
        with reader._reader.news:
            assert window.ahead == sum(len(r.data) for r in window.records if r.offset >= window.front)
    reader.close()


def test_what_was_trimmed_under_a_reader(bus: KafkaBus, settings: KafkaSettings) -> None:
    """It goes on at the first frame that is held."""
    frames = [b"%04d" % n + os.urandom(200_000) for n in range(60)]
    bus.append(RAW, 0, frames).result(60)
    reader = KafkaBus(settings)
    assert [record.offset for record in reader.read(RAW, 0, 0, 2)] == [0, 1]
    bus.trim(RAW, 0, 50)
    until(lambda: reader.start(RAW, 0) == 50, "noticed")
    assert [(r.offset, r.data) for r in reader.read(RAW, 0, 2, 100)] == list(enumerate(frames))[50:]
    reader.close()


def test_appends_of_another_process_wake_and_show(bus: KafkaBus, settings: KafkaSettings) -> None:
    """Its frames end a wait here, and stand at the end that we then see."""
    reader = KafkaBus(settings)
    ends = [reader.end(RAW, p) for p in range(2)]
    woken = threading.Event()

    def sleep() -> None:
        reader.wait(RAW, ends, 60)
        woken.set()

    thread = threading.Thread(target=sleep)
    thread.start()
    (offset,) = bus.append(RAW, 1, [b"hello"]).result(60)
    thread.join()
    assert reader.end(RAW, 1) == offset + 1
    assert reader.read(RAW, 1, offset) == [(offset, b"hello")]
    reader.close()


def test_too_much_is_refused_before_it_is_sent(bus: KafkaBus) -> None:
    """Memory is bounded: refused frames were not written, the others were, in order."""
    frame = os.urandom(4 * MIB)
    tickets = [bus.append(RAW, 0, [b"%03d" % n + frame]) for n in range(3 * WAITING_BYTES // len(frame))]
    kept = []
    for n, ticket in enumerate(tickets):
        try:
            ticket.result(120)
        except RetryLater:
            continue
        kept.append(b"%03d" % n)
    assert 0 < len(kept) <= len(tickets)
    found = [record.data[:3] for start in range(0, len(kept), 5) for record in bus.read(RAW, 0, start, 5)]
    assert found == kept


def test_a_partition_that_was_full_goes_on_beside_busy_ones(kafka: KafkaServer) -> None:
    """A reader that stood still, with many small frames before it, gets the rest though another partition went on."""
    settings = installation(kafka, 2)
    writer, bus = KafkaBus(settings), KafkaBus(settings)
    try:
        frames = 3 * AHEAD_BYTES // 3000
        writer.append(RAW, 0, [os.urandom(3000) for _ in range(frames)]).result(60)
        assert len(bus.read(RAW, 0, 0, 1)) == 1
        window = bus._reader._lanes[0].windows[RAW, 0]
        until(lambda: window.ahead >= AHEAD_BYTES, "it is full")
        for n in range(5):
            writer.append(RAW, 1, [b"%d" % n]).result(60)
            until(partial(bus.read, RAW, 1, n, 1), "a frame of the other")
        at = 1
        while at < frames:
            at = bus.read(RAW, 0, at, 64)[-1].offset + 1
    finally:
        bus.close()
        writer.close()
