"""Settings that are right alone and wrong together: each contradiction names the keys that it follows from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from qingtu.settings import Settings

Key = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Contradiction:
    """Two settings that do not go together.

    Attributes:
        where: the key that is to be changed.
        value: what it holds, as text.
        message: what is wrong and what is allowed.
        needs: the other keys it follows from; while one of them is broken nothing can be said.
    """

    where: Key
    value: str
    message: str
    needs: tuple[Key, ...]


def contradictions(settings: Settings) -> list[Contradiction]:
    """Return what contradicts itself, in the order of the sections."""
    return [*_process(settings), *_logins(settings), *_stores(settings), *_routes(settings), *_notify(settings)]


def _process(settings: Settings) -> Iterator[Contradiction]:
    horizon, expiry = settings.process.dedup_horizon_h, settings.mqtt.session_expiry_h
    if horizon <= expiry:
        message = f"须大于 / must exceed mqtt.session_expiry_h ({expiry}): the broker may send again what is that old"
        yield Contradiction(
            ("process", "dedup_horizon_h"), str(horizon), message, (("mqtt", "session_expiry_h"),)
        )  # fmt: skip
    keep, backfill = settings.store.keep_days, settings.process.backfill_limit_d
    if keep <= backfill:
        message = (
            f"须大于 / must exceed process.backfill_limit_d ({backfill}): what is taken in would be expired at once"
        )
        yield Contradiction(("store", "keep_days"), str(keep), message, (("process", "backfill_limit_d"),))


def _logins(settings: Settings) -> Iterator[Contradiction]:
    mqtt, kafka = settings.mqtt, settings.kafka
    for one, other in (("cert_file", "key_file"), ("key_file", "cert_file")):
        if getattr(mqtt, one) is not None and getattr(mqtt, other) is None:
            message = f"须同时设置 / needs mqtt.{other} as well: a certificate and its private key go together"
            yield Contradiction(("mqtt", one), str(getattr(mqtt, one)), message, (("mqtt", other),))
    if kafka.username is not None and kafka.password_file is None:
        message = "须同时设置 / needs kafka.password_file as well: SCRAM-SHA-512 does not log in without a password"
        yield Contradiction(("kafka", "username"), repr(kafka.username), message, (("kafka", "password_file"),))


def _stores(settings: Settings) -> Iterator[Contradiction]:
    copies, enough = settings.kafka.replication, settings.kafka.min_in_sync
    if enough > copies:
        message = f"不得大于 / must be at most kafka.replication ({copies}): no frame could ever be durable"
        yield Contradiction(("kafka", "min_in_sync"), str(enough), message, (("kafka", "replication"),))
    if settings.store.kind == "influx" and settings.influx.token_file is None:
        message = "须设置 influx.token_file / needs influx.token_file: a file with a token for the InfluxDB server"
        yield Contradiction(("store", "kind"), repr(settings.store.kind), message, (("influx", "token_file"),))


def _routes(settings: Settings) -> Iterator[Contradiction]:
    return _names(("routes",), "route", [route.name for route in settings.routes])


def _names(table: Key, word: str, names: Sequence[str]) -> Iterator[Contradiction]:
    """Yield names of a list of tables that stand there twice."""
    seen: dict[str, int] = {}
    for number, name in enumerate(names):
        if name in seen:
            message = f"名称重复 / {word} {seen[name] + 1} has this name already: names must differ"
            needs = ((*table, str(seen[name]), "name"),)
            yield Contradiction((*table, str(number), "name"), repr(name), message, needs)
        seen.setdefault(name, number)


def _notify(settings: Settings) -> Iterator[Contradiction]:
    notify, follows = settings.notify, "notify" in settings.sinks
    if follows and not notify.channels:
        message = "须设置 [[notify.channels]] / needs [[notify.channels]] and [[notify.routes]]: docs/notify.md"
        yield Contradiction(("sinks",), repr(list(settings.sinks)), message, (("notify", "channels"),))
    if (notify.channels or notify.routes) and not follows:
        message = '须在 sinks 中列出 notify / needs sinks = ["notify"]: nobody would be told'
        yield Contradiction(("notify", "channels" if notify.channels else "routes"), "", message, (("sinks",),))
    if notify.channels and not notify.routes:
        message = "须设置 [[notify.routes]] / needs [[notify.routes]]: no alert would go to any channel"
        yield Contradiction(("notify", "channels"), "", message, (("notify", "routes"),))
    yield from _names(("notify", "channels"), "channel", [channel.name for channel in notify.channels])
    for number, channel in enumerate(notify.channels):
        where = ("notify", "channels", str(number))
        for one, other in (("quiet_from", "quiet_to"), ("quiet_to", "quiet_from")):
            if getattr(channel, one) is not None and getattr(channel, other) is None:
                message = f"须同时设置 / needs {other} as well"
                yield Contradiction((*where, one), repr(getattr(channel, one)), message, ((*where, other),))
        if channel.quiet_from is not None and channel.quiet_from == channel.quiet_to:
            message = "不得等于 quiet_from / must differ from quiet_from: it would be quiet for ever, or never"
            yield Contradiction((*where, "quiet_to"), repr(channel.quiet_to), message, ((*where, "quiet_from"),))
        if channel.kind == "apprise" and channel.secret_file is not None:
            message = "仅用于 webhook / only webhooks are signed: an apprise address holds its own secret"
            yield Contradiction((*where, "secret_file"), str(channel.secret_file), message, ((*where, "kind"),))
    yield from _known_channels(settings)


def _known_channels(settings: Settings) -> Iterator[Contradiction]:
    known = {channel.name for channel in settings.notify.channels}
    allowed = f"(allowed: {', '.join(sorted(known)) or '-'})"
    for number, route in enumerate(settings.notify.routes):
        for key, names in (("channels", route.channels), ("escalate_to", route.escalate_to)):
            if unknown := [name for name in names if name not in known]:
                message = f"没有此渠道 / no channel {unknown[0]!r} {allowed}"
                where = ("notify", "routes", str(number), key)
                yield Contradiction(where, repr(list(names)), message, (("notify", "channels"),))
        if twice := sorted(set(route.channels) & set(route.escalate_to)):
            message = f"{twice[0]!r} 已在 channels 中 / is told at once already: see channels"
            where = ("notify", "routes", str(number), "escalate_to")
            needs = (("notify", "routes", str(number), "channels"),)
            yield Contradiction(where, repr(list(route.escalate_to)), message, needs)
