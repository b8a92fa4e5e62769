"""The topics of an installation: made once by ``qingtu setup``, looked at by every start.

Making is idempotent: what is there stays, settings that differ are changed, nothing is ever deleted. The number of
partitions is fixed: a station lives in one partition, and its state with it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient  # type: ignore[import-untyped]
from kafka.errors import (  # type: ignore[import-untyped]
    InvalidReplicationFactorError,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
)

from qingtu.bus.kafka_client import (
    MAX_FRAME_BYTES,
    OPEN_TIMEOUT_MS,
    STATE,
    KafkaError,
    cannot_reach,
    opened,
    options,
    told,
    topic,
    topics,
)
from qingtu.errors import StartError
from qingtu.records import ALERTS, RAW, REJECTED, STREAMS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qingtu.settings import BusSettings, KafkaSettings, Settings

_HOUR_MS: Final = 3_600_000
_ALERTS_KEEP: Final = 4
_MIB: Final = 1024 * 1024
_FENCED_S: Final = 20.0
"""Longer than a server's session, after which it counts as gone."""


def setup(settings: KafkaSettings, bus: BusSettings) -> list[str]:
    """Make the topics, or bring their settings up to date.

    Args:
        settings: servers, names, partitions, copies.
        bus: how long frames are kept.

    Returns:
        what was made or changed, one line each; empty when all was as it should be.

    Raises:
        StartError: the servers cannot be reached or refuse, or a topic has another number of partitions.
    """
    if settings.min_in_sync > settings.replication:
        raise StartError(
            f"kafka.min_in_sync ({settings.min_in_sync}) 大于 kafka.replication ({settings.replication}) / "
            "kafka.min_in_sync exceeds kafka.replication: no frame could ever count; 2 of 3 is usual"
        )
    admin = _admin(settings)
    try:
        found = _partitions(admin, topics(settings))
        _same(settings, found)
        done = []
        for stream in (*STREAMS, STATE):
            name, wanted = topic(settings, stream), configs(settings, bus, stream)
            if name in found:
                done += _change(admin, name, wanted)
            else:
                done += _make(admin, settings, stream, wanted)
    except KafkaError as error:
        raise StartError(f"Kafka 设置失败 / Kafka refuses the setup: {told(error)}") from error
    else:
        return done
    finally:
        admin.close()


def configs(settings: KafkaSettings, bus: BusSettings, stream: str) -> dict[str, str]:
    """Return the settings of a topic, as the server names them.

    Alerts and rejected are kept as long as raw, and :data:`_ALERTS_KEEP` times as long as the other derived streams at
    least: who was told what, and what could not be used, are looked for after days, the frames are few, and a sink
    that was away for long must not miss a warning.
    """
    out = {"min.insync.replicas": str(settings.min_in_sync), "max.message.bytes": str(MAX_FRAME_BYTES)}
    if stream == STATE:
        # Small segments, cleaned early: a restart reads what is not cleaned yet, too.
        return out | {
            "cleanup.policy": "compact",
            "segment.bytes": str(32 * _MIB),
            "segment.ms": str(_HOUR_MS),
            "min.cleanable.dirty.ratio": "0.2",
            "max.compaction.lag.ms": str(2 * _HOUR_MS),
            "delete.retention.ms": str(_HOUR_MS),
        }
    keep_h = bus.raw_keep_h if stream == RAW else bus.derived_keep_h
    if stream in (ALERTS, REJECTED):
        keep_h = max(bus.raw_keep_h, _ALERTS_KEEP * bus.derived_keep_h)
    # Segments are deleted whole: one that is open for a twelfth of the time keeps what is promised and little more.
    segment_ms = max(_HOUR_MS, keep_h * _HOUR_MS // 12)
    return out | {
        "cleanup.policy": "delete",
        "retention.ms": str(keep_h * _HOUR_MS),
        "segment.bytes": str(256 * _MIB),
        "segment.ms": str(segment_ms),
    }


def check(settings: KafkaSettings) -> int:
    """Look whether all topics are there.

    Returns:
        the number of partitions of each stream.

    Raises:
        StartError: the servers cannot be reached, topics are missing, or the settings name other partitions.
    """
    admin = _admin(settings)
    try:
        found = _partitions(admin, topics(settings))
    except KafkaError as error:
        raise cannot_reach(settings, error) from error
    finally:
        admin.close()
    if missing := [name for name in topics(settings) if name not in found]:
        raise StartError(
            f"Kafka 中缺少主题 / topics are missing in Kafka: {', '.join(missing)}; run `qingtu setup`, "
            "or set kafka.prefix to that of an installation"
        )
    _same(settings, found)
    return settings.partitions


def check_sizes(settings: Settings) -> None:
    """Look whether every raw frame can fit into a Kafka record.

    A raw frame holds at most ``mqtt.flush_bytes`` and the payload that went beyond. Derived frames may be longer than
    their raw frame, so raw may have a quarter of :data:`MAX_FRAME_BYTES`.

    Raises:
        StartError: with both settings and the limit.
    """
    largest = max((route.max_payload_bytes for route in settings.routes), default=0)
    limit = MAX_FRAME_BYTES // 4
    if settings.mqtt.flush_bytes + largest > limit:
        raise StartError(
            f"帧可能超过 Kafka 的上限 / frames may become too large for Kafka: mqtt.flush_bytes "
            f"({settings.mqtt.flush_bytes}) and the largest routes.max_payload_bytes ({largest}) may be {limit} "
            "together; lower one of them"
        )


def _admin(settings: KafkaSettings) -> Any:
    try:
        return opened(KafkaAdminClient, **options(settings, "setup"), request_timeout_ms=OPEN_TIMEOUT_MS)
    except KafkaError as error:
        raise cannot_reach(settings, error) from error


def _partitions(admin: Any, names: list[str]) -> dict[str, int]:
    """Return how many partitions each topic has; what does not exist is absent."""
    there = set(admin.list_topics())
    wanted = [name for name in names if name in there]
    return {t["name"]: len(t["partitions"]) for t in admin.describe_topics(wanted)} if wanted else {}


def _count(settings: KafkaSettings, name: str) -> int:
    # The state has a log of parts behind the log of snapshots for each partition: see kafka_state.
    return settings.partitions * (2 if name == topic(settings, STATE) else 1)


def _same(settings: KafkaSettings, found: Mapping[str, int]) -> None:
    # In our order, streams before the state: the servers' order is none, and the state has twice as many.
    for name in (name for name in topics(settings) if name in found):
        if (partitions := found[name]) != (wanted := _count(settings, name)):
            raise StartError(
                f"主题 {name} 有 {partitions} 个分区, 设置要求 {wanted} / topic {name} has {partitions} partitions, "
                f"kafka.partitions = {settings.partitions} asks for {wanted}; the number is fixed at setup: set "
                "kafka.partitions to what it was, or choose another kafka.prefix for a new installation"
            )


def _make(admin: Any, settings: KafkaSettings, stream: str, wanted: Mapping[str, str]) -> list[str]:
    name = topic(settings, stream)
    partitions = _count(settings, name)
    spec = {"num_partitions": partitions, "replication_factor": settings.replication, "configs": dict(wanted)}
    deadline = time.monotonic() + _FENCED_S
    while True:
        try:
            admin.create_topics({name: spec}, wait_for_metadata=True)
        except TopicAlreadyExistsError:  # by another setup, just now
            return []
        except InvalidReplicationFactorError as error:
            # A server that has just started, or could not be heard for a moment, is fenced: it counts again soon.
            if "fenced" not in str(error) or time.monotonic() >= deadline:
                raise
            time.sleep(0.5)
        else:
            break
    return [f"topic {name}: made, {partitions} partitions, {settings.replication} copies"]


def _change(admin: Any, name: str, wanted: Mapping[str, str]) -> list[str]:
    resource = ConfigResource(ConfigResourceType.TOPIC, name)
    try:
        answer = admin.describe_configs([resource], config_filter="all")
    except UnknownTopicOrPartitionError:
        return []
    held = _values(answer, name)
    differ = {key: value for key, value in wanted.items() if held.get(key) != value}
    if not differ:
        return []
    admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, differ)])
    return [f"topic {name}: {key} = {value}, was {held.get(key)}" for key, value in sorted(differ.items())]


def _values(answer: Any, name: str) -> dict[str, str]:
    """Take the values out of what describe_configs answers: resource type, name, key, entry."""
    for by_name in answer.values():
        if name in by_name:
            return {key: entry["value"] for key, entry in by_name[name].items()}
    return {}
