"""The outage budget: how long something may be away before messages are lost.

``min(session expiry, broker queue ÷ rate, bus retention, disk ÷ rate)``. The first two are used up while the gateway
is away from the broker, which then holds the messages; the other two while what works on raw stands still. Everything
here is a function of numbers that the caller has measured: no clock, no files, no connection. docs/broker.md explains
the figures to operators.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qingtu.catalogue import Catalogue
    from qingtu.settings import Settings

Side = Literal["broker", "bus"]

WARN: Final = 0.5
"""Used up to this part: said."""
SEVERE: Final = 0.8
"""Used up to this part: said with urgency."""
_HOUR_S: Final = 3600.0
_MIB: Final = 1024 * 1024
_WINDOW_S: Final = 3600
_WINDOWS: Final = 24


@dataclass(frozen=True, slots=True)
class BrokerQueue:
    """What a broker holds for one client that is away. mosquitto drops silently what comes beyond it.

    Attributes:
        messages: ``max_queued_messages``; 0 = no bound.
        payload_bytes: ``max_queued_bytes``, which counts payloads only; 0 = no bound.
    """

    messages: int
    payload_bytes: int = 0

    def holds(self, payload_bytes: float) -> float:
        """Return how many messages of this size fit; infinite without a bound."""
        by_count = float(self.messages) if self.messages else math.inf
        by_bytes = self.payload_bytes / payload_bytes if self.payload_bytes and payload_bytes else math.inf
        return min(by_count, by_bytes)


@dataclass(frozen=True, slots=True)
class Load:
    """What comes in while all is well. Never measured during an outage: it would be 0, and the budget endless.

    Attributes:
        messages_per_s: mean.
        payload_bytes: mean of a message's payload.
        disk_bytes: that the bus's disk loses a message.
    """

    messages_per_s: float
    payload_bytes: float
    disk_bytes: float


@dataclass(frozen=True, slots=True)
class Bound:
    """One thing that ends an outage's safety.

    Attributes:
        key: ``session``, ``queue``, ``retention`` or ``disk``.
        side: whose absence uses it up: the gateway's from the ``broker``, or that of the readers of the ``bus``.
        seconds: how long it lasts; infinite when nothing ends it, None when not known.
        left: True when ``seconds`` is what is left from now on (disk), not what there is in all.
        zh: where the number comes from.
        en: the same in English.
    """

    key: str
    side: Side
    seconds: float | None
    left: bool
    zh: str
    en: str


@dataclass(frozen=True, slots=True)
class OutageBudget:
    """All bounds. ``seconds`` and ``smallest`` leave out those that are not known; ``unknown`` names them."""

    load: Load
    bounds: tuple[Bound, ...]

    @property
    def smallest(self) -> Bound | None:
        """The bound that ends first; None when none is known."""
        known = [bound for bound in self.bounds if bound.seconds is not None]
        return min(known, key=lambda bound: bound.seconds or 0.0, default=None)

    @property
    def seconds(self) -> float | None:
        """How long an outage may last; None when nothing is known."""
        return None if self.smallest is None else self.smallest.seconds

    @property
    def unknown(self) -> tuple[Bound, ...]:
        """Bounds that nobody could tell."""
        return tuple(bound for bound in self.bounds if bound.seconds is None)

    def used(self, away_s: float, behind_s: float = 0.0) -> tuple[float, Bound | None]:
        """Return the greatest part that is used up, 0 to 1 and beyond, and by which bound.

        Args:
            away_s: since the gateway was last connected to the broker.
            behind_s: age of the oldest raw frame that not every stage is done with.
        """
        worst: tuple[float, Bound | None] = (0.0, None)
        for bound in self.bounds:
            spent = away_s if bound.side == "broker" else behind_s
            if bound.seconds is None or spent <= 0 or math.isinf(bound.seconds):
                continue
            whole = spent + bound.seconds if bound.left else bound.seconds
            part = spent / whole if whole > 0 else math.inf
            worst = max(worst, (part, bound), key=lambda found: found[0])
        return worst

    def as_json(self, away_s: float = 0.0, behind_s: float = 0.0) -> dict[str, Any]:
        """Return everything in the form of the API; endless and unknown times are None, ``known`` tells them apart."""
        part, bound = self.used(away_s, behind_s)
        smallest = self.smallest
        return {
            "seconds": _finite(self.seconds),
            "smallest": None if smallest is None else smallest.key,
            "used": round(part, 4) if math.isfinite(part) else 1.0,
            "used_of": None if bound is None else bound.key,
            "away_s": round(away_s, 1),
            "behind_s": round(behind_s, 1),
            "rate_per_s": round(self.load.messages_per_s, 3),
            "bounds": [
                {
                    "key": b.key, "side": b.side, "seconds": _finite(b.seconds), "known": b.seconds is not None,
                    "zh": b.zh, "en": b.en,
                }
                for b in self.bounds
            ],
        }  # fmt: skip


def outage_budget(settings: Settings, load: Load, *, queue: BrokerQueue | None, free_bytes: int | None) -> OutageBudget:
    """Put the bounds together.

    Args:
        settings: session expiry, retention of raw, floor of free space.
        load: in times when all is well: :class:`LoadMeter`, or :func:`declared_load` until that knows.
        queue: of the broker; None when it is not known.
        free_bytes: on the disk of the bus; None when it is another machine's.
    """
    expiry_h, keep_h, floor_mb = settings.mqtt.session_expiry_h, settings.bus.raw_keep_h, settings.bus.free_floor_mb
    return OutageBudget(
        load,
        (
            Bound(
                "session", "broker", expiry_h * _HOUR_S, left=False,
                zh=f"代理保留会话 {expiry_h} 小时 (mqtt.session_expiry_h)",
                en=f"the broker keeps our session for {expiry_h} h (mqtt.session_expiry_h)",
            ),
            _queue_bound(queue, load),
            Bound(
                "retention", "bus", keep_h * _HOUR_S, left=False,
                zh=f"原始数据保留 {keep_h} 小时 (bus.raw_keep_h)", en=f"raw is kept for {keep_h} h (bus.raw_keep_h)",
            ),
            _disk_bound(free_bytes, floor_mb, load),
        ),
    )  # fmt: skip


def problems(budget: OutageBudget, away_s: float, behind_s: float = 0.0) -> list[dict[str, str]]:
    """Say, in the form of ``Service.problems``, when an outage has used up half of its budget, and four fifths.

    Args:
        budget: of now.
        away_s: since the gateway was last connected to the broker; 0 while it is.
        behind_s: age of the oldest raw frame that not every stage is done with; 0 when none waits.
    """
    part, bound = budget.used(away_s, behind_s)
    if bound is None or part < WARN:
        return []
    severe = part >= SEVERE
    spent = away_s if bound.side == "broker" else behind_s
    whole = spent / part if math.isfinite(part) and part > 0 else 0.0
    left = max(0.0, whole - spent)
    who_zh, who_en = ("网关离线", "gateway away") if bound.side == "broker" else ("处理滞后", "stages behind")
    if left:
        end_zh, end_en = f"约 {_span(left)} 后开始丢失数据", f"messages are lost in about {_span(left)}"
    else:
        end_zh, end_en = "数据可能已经丢失", "messages may be lost already"
    return [
        {
            "key": "outage_severe" if severe else "outage",
            "zh": f"{'紧急: ' if severe else ''}中断预算已用 {min(part, 9.99):.0%} ({who_zh} {_span(spent)}, "
            f"上限 {_span(whole)}: {bound.zh}); {end_zh}",
            "en": f"{'urgent: ' if severe else ''}{min(part, 9.99):.0%} of the outage budget is used ({who_en} for "
            f"{_span(spent)} of {_span(whole)}: {bound.en}); {end_en}",
        }
    ]


def declared_load(catalogue: Catalogue, *, payload_bytes: float = 300.0, disk_bytes: float = 600.0) -> Load:
    """Return the load that the catalogue promises: each device sends once an interval.

    Args:
        catalogue: with the declared intervals.
        payload_bytes: of a message.
        disk_bytes: of a message. Eight readings in native JSON took 89 bytes in raw and 74 in processed at
            full speed (docs/decisions/0007-speed.md), and some times that in small frames.
    """
    rate = sum(1.0 / entry.interval_s for entry in catalogue.devices.values())
    return Load(rate, payload_bytes, disk_bytes)


class LoadMeter:
    """The load of the last day, from the hours in which all was heard. No clock: the caller gives the time.

    The greatest hourly mean counts: an outage may begin before the busiest hour. Time in which the gateway is away,
    and the backlog that comes after it, is left out.
    """

    def __init__(self) -> None:
        self._before: tuple[float, int, int] | None = None
        self._hours: dict[int, tuple[float, int, int]] = {}

    def add(self, now_s: float, messages: int, payload_bytes: int, *, hearing: bool) -> None:
        """Take the state of two counters; call it every few seconds.

        Args:
            now_s: monotonic seconds.
            messages: taken since the start.
            payload_bytes: of them, since the start.
            hearing: connected, and no backlog waits.
        """
        before, self._before = self._before, (now_s, messages, payload_bytes) if hearing else None
        if before is None or not hearing or now_s <= before[0]:
            return
        hour = int(now_s // _WINDOW_S)
        seconds, count, size = self._hours.get(hour, (0.0, 0, 0))
        self._hours[hour] = (
            seconds + now_s - before[0], count + messages - before[1], size + payload_bytes - before[2]
        )  # fmt: skip
        for old in [one for one in self._hours if one <= hour - _WINDOWS]:
            del self._hours[old]

    def load(self, disk_bytes: float) -> Load | None:
        """Return the load; None before a minute was heard, or when nothing came in it.

        Args:
            disk_bytes: of a message.
        """
        heard = [(count / seconds, size / count) for seconds, count, size in self._heard() if count]
        if not heard:
            return None
        rate, size = max(heard)
        return Load(rate, size, disk_bytes)

    def _heard(self) -> Iterable[tuple[float, int, int]]:
        return (hour for hour in [*self._hours.values()] if hour[0] >= 60)


def _queue_bound(queue: BrokerQueue | None, load: Load) -> Bound:
    if queue is None:
        return Bound(
            "queue", "broker", None, left=False,
            zh="代理队列上限未知: 请按 qingtu broker-config 的输出设置 mqtt.queue_messages 与 mqtt.queue_bytes",
            en="the broker's queue is not known: set mqtt.queue_messages and mqtt.queue_bytes as qingtu broker-config "
            "prints them",
        )  # fmt: skip
    holds = queue.holds(load.payload_bytes)
    seconds = math.inf if load.messages_per_s <= 0 else holds / load.messages_per_s
    size = "∞" if math.isinf(holds) else f"{holds:,.0f}"
    return Bound(
        "queue", "broker", seconds, left=False,
        zh=f"代理队列 {size} 条, 每秒 {load.messages_per_s:.3g} 条",
        en=f"the broker queues {size} messages, {load.messages_per_s:.3g} come a second",
    )  # fmt: skip


def _disk_bound(free_bytes: int | None, floor_mb: int, load: Load) -> Bound:
    if free_bytes is None:
        zh, en = "总线磁盘在其他机器上, 剩余空间未知", "the bus is on other machines: its free disk is not known"
        return Bound("disk", "bus", None, left=True, zh=zh, en=en)
    usable = max(0, free_bytes - floor_mb * _MIB)
    per_s = load.messages_per_s * load.disk_bytes
    return Bound(
        "disk", "bus", math.inf if per_s <= 0 else usable / per_s, left=True,
        zh=f"磁盘可用 {usable // _MIB:,} MiB, 每秒写入 {per_s / 1024:.3g} KiB",
        en=f"{usable // _MIB:,} MiB of disk left, {per_s / 1024:.3g} KiB written a second",
    )  # fmt: skip


def _finite(seconds: float | None) -> float | None:
    return None if seconds is None or math.isinf(seconds) else round(seconds, 1)


def _span(seconds: float) -> str:
    """Write a duration for people of both languages.

    >>> _span(90), _span(5400), _span(172_800)
    ('90 s', '90 min', '48 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / _HOUR_S:.0f} h"
