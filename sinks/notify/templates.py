"""Texts of messages. Names and notes are untrusted: cleaned, put in once, and never read as a template or markup."""

from __future__ import annotations

import html
import math
import re
from datetime import datetime
from functools import lru_cache
from string import Template
from typing import TYPE_CHECKING, Any, Final
from zoneinfo import ZoneInfo

from qingtu.clock import SECOND
from qingtu.properties import load_properties
from sinks.notify.messages import ALERT, DIGEST, ESCALATION, GROUP, SUMMARY, TEST, Message, ident
from web.words import LEVEL_WORDS, unit_label

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qingtu.catalogue_model import Station
    from qingtu.contracts import Transition
    from qingtu.settings_notify import NotifySettings

LISTED: Final = 50
"""Transitions that one message names at most; of the others it says how many there are."""
STATES: Final = {
    "open": ("发生", "open"),
    "acknowledged": ("已确认", "acknowledged"),
    "comment": ("备注", "comment"),
    "resolved": ("已解除", "resolved"),
    "withdrawn": ("已撤销", "withdrawn"),
}
_LONGEST: Final = 300
_SPACE: Final = re.compile(r"\s+")


@lru_cache(maxsize=1024)
def clean(text: str, longest: int = _LONGEST) -> str:
    r"""Make one line of untrusted text: no control, format or direction characters, no line ends, not too long.

    >>> clean("a\r\nBcc: x\x1b[31m\u202e"), clean("x" * 9, 4)
    ('a Bcc: x[31m', 'xxx…')
    """
    line = text if text.isprintable() and "  " not in text else _SPACE.sub(" ", text)
    if not line.isprintable():
        line = _SPACE.sub(" ", "".join(c for c in line if c.isprintable()))
    line = line.strip()
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def as_html(text: str) -> str:
    r"""Write lines as HTML: everything in them is text.

    >>> as_html("<b>\n&")
    '<p>&lt;b&gt;<br>&amp;</p>'
    """
    return f"<p>{'<br>'.join(html.escape(line) for line in text.split(chr(10)))}</p>"


def fields(row: Transition, level: int, station: Station | None, rule: tuple[str, str], zone: str) -> dict[str, str]:
    """Return what templates may name (``qingtu.settings_notify.FIELDS``), each cleaned.

    Args:
        row: the transition.
        level: to show; for an end the highest that the alert had.
        station: None when the catalogue does not have it any more.
        rule: its names, Chinese and English.
        zone: IANA name for the times.
    """
    known = load_properties()
    what = known[row.property] if row.property in known else None  # noqa: SIM401 - it is no dict and has no get
    unit = what.unit if what else str(row.evidence.get("unit", "1"))
    words = LEVEL_WORDS.get(_key(level), ("", ""))
    state = STATES.get(row.state, (row.state, row.state))
    found: dict[str, str | None] = {
        "alert": row.alert, "rule": row.rule, "rule_zh": rule[0], "rule_en": rule[1],
        "station": row.station, "station_zh": station.zh if station else _about(row),
        "station_en": station.en if station else _about(row), "network": station.network if station else "",
        "domain": station.domain if station else "", "district": station.district if station else "",
        "property": row.property, "property_zh": what.zh if what else row.property,
        "property_en": what.en if what else row.property, "channel": row.channel,
        "level_zh": words[0], "level_en": words[1], "state_zh": state[0], "state_en": state[1],
        "value": _number(row.value), "limit": _number(row.limit), "unit": unit_label(unit),
        "time": local(row.time_us, zone), "opened": local(row.opened_us, zone), "who": row.who, "note": row.note,
    }  # fmt: skip
    return {name: clean(value or "") for name, value in found.items()}


def _about(row: Transition) -> str:
    """Say what an alert without a station is about: its network or route and the stations it names, or who tells."""
    told, named = row.evidence, row.evidence.get("stations", ())
    about = told.get("network") or told.get("route") or told.get("source")
    if row.station or not about:
        return row.station
    return f"{about} ({len(named)}: {', '.join(named)})" if named else str(about)


def as_data(row: Transition, level: int, values: Mapping[str, str]) -> dict[str, Any]:
    """Return a transition as a webhook gives it: raw values beside the cleaned names."""
    names = ("station_zh", "station_en", "rule_zh", "rule_en", "network", "domain", "district", "unit")
    return {
        "alert": row.alert, "rule": row.rule, "station": row.station, "property": row.property,
        "channel": row.channel, "state": row.state, "level": row.level, "top_level": level,
        "time_ms": row.time_us // 1000, "opened_ms": row.opened_us // 1000, "known_ms": row.known_us // 1000,
        "value": _finite(row.value), "limit": _finite(row.limit), "evidence": row.evidence, "who": row.who,
        "note": row.note, **{name: values[name] for name in names},
    }  # fmt: skip


@lru_cache(maxsize=1024)
def local(us: int, zone: str) -> str:
    """Write µs UTC in a zone, to the second, with its offset.

    >>> local(1_795_392_000_000_000, "Asia/Shanghai")
    '2026-11-23 08:00:00+08:00'
    """
    return datetime.fromtimestamp(us // SECOND, tz=ZoneInfo(zone)).isoformat(" ")


def compose(
    kind: str,
    channel: str,
    made_us: int,
    keys: Sequence[tuple[Sequence[str | int], int]],
    worst: Sequence[Mapping[str, Any]],
    settings: NotifySettings,
) -> Message:
    """Make a message.

    Args:
        kind: of ``sinks.notify.messages.KINDS``.
        channel: its name.
        made_us: clock of the stream.
        keys: key and level of every transition in it, at least one.
        worst: of these the ones that are named, the highest level first; each has fields, data, and escalated.
        settings: templates.
    """
    level = max(one for _, one in keys)
    texts = {}
    for n, language in enumerate(("zh", "en")):
        titles = [_title(row, settings, language) for row in worst]
        if kind in (ALERT, ESCALATION) and len(keys) == 1:
            texts[f"title_{language}"] = titles[0]
            texts[f"text_{language}"] = "\n".join(_lines(worst[0]["fields"], getattr(settings, f"text_{language}")))
        else:
            texts[f"title_{language}"] = _heading(kind, len(keys), titles[0])[n]
            texts[f"text_{language}"] = _list([one for _, one in keys], titles)[n]
    return Message(
        id=ident(channel, kind, [key for key, _ in keys]), kind=kind, channel=channel, made_us=made_us,
        level=level, count=len(keys), **texts, alerts=[row["data"] for row in worst],
    )  # fmt: skip


def trial(channel: str, made_us: int) -> Message:
    """Make the message of ``qingtu notify test``."""
    return Message(
        id=ident(channel, TEST, [["", "", 0, made_us]]), kind=TEST, channel=channel, made_us=made_us, level=0, count=0,
        title_zh="青图测试通知", title_en="Qingtu test notification",
        text_zh=f"渠道 {channel} 工作正常, 无需处理。", text_en=f"Channel {channel} works; nothing is to be done.",
        alerts=[],
    )  # fmt: skip


def _title(row: Mapping[str, Any], settings: NotifySettings, language: str) -> str:
    line = _filled(getattr(settings, f"title_{language}"), row["fields"])
    if not row["escalated"]:
        return line
    return f"[升级·无人确认] {line}" if language == "zh" else f"[escalated, nobody acknowledged] {line}"


def _heading(kind: str, count: int, worst: str) -> tuple[str, str]:
    return {
        GROUP: (f"{count} 条预警通知, 最高: {worst}", f"{count} notifications, the worst: {worst}"),
        ESCALATION: (f"{count} 条预警无人确认, 最高: {worst}", f"{count} alerts unacknowledged, the worst: {worst}"),
        DIGEST: (f"免打扰时段共 {count} 条, 最高: {worst}", f"{count} came in quiet hours, the worst: {worst}"),
        SUMMARY: (f"预警风暴: 共 {count} 条, 最高: {worst}", f"Storm of {count} notifications, the worst: {worst}"),
    }[kind]


def _list(levels: Sequence[int], titles: list[str]) -> tuple[str, str]:
    """Return counts by level, then the worst titles; the language of the titles decides which one is used."""
    counts = {n: levels.count(n) for n in (4, 3, 2, 1)}
    told = [(LEVEL_WORDS[_key(n)], count) for n, count in counts.items() if count]
    more = len(levels) - len(titles)
    zh = [", ".join(f"{words[0]} {count}" for words, count in told), *titles, *([f"… 另有 {more} 条"] if more else [])]
    en = [", ".join(f"{words[1]} {count}" for words, count in told), *titles, *([f"… {more} more"] if more else [])]
    return "\n".join(zh), "\n".join(en)


def _lines(values: Mapping[str, str], templates: Sequence[str]) -> list[str]:
    """Fill templates; a line that names fields, all of which are empty, is left out."""
    out = []
    for line in templates:
        named = Template(line).get_identifiers()
        if not named or any(values[name] for name in named):
            out.append(_filled(line, values))
    return out


def _filled(line: str, values: Mapping[str, str]) -> str:
    """Put cleaned values into a template, once: a ``$`` in a value is a character like any other."""
    return re.sub(" {2,}", " ", Template(line).substitute(values)).strip()


def _key(level: int) -> str:
    return ("", "blue", "yellow", "orange", "red")[level] if 0 <= level <= 4 else ""


def _number(value: float) -> str:
    return f"{value:.6g}" if math.isfinite(value) else ""


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
