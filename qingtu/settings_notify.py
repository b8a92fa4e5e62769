"""The settings of the sink ``notify``: channels, routes, quiet hours, storms, templates (docs/notify.md)."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - pydantic reads annotations at run time
from string import Template
from typing import Final, Literal
from zoneinfo import ZoneInfo

from pydantic import Field, field_validator

from qingtu.settings_section import Section

CHANNEL_NAME: Final = r"^[a-z][a-z0-9_-]{0,31}$"
TIME_OF_DAY: Final = r"^([01]\d|2[0-3]):[0-5]\d$"
NO_APPRISE: Final = (
    "需要 apprise / kind = 'apprise' needs the package apprise: pip install 'qingtu[notify]', or use kind = 'webhook'"
)
Language = Literal["zh", "en", "both"]
Level = Literal["blue", "yellow", "orange", "red"]
FIELDS: Final = frozenset(
    (
        "alert", "rule", "rule_zh", "rule_en", "station", "station_zh", "station_en", "network", "domain", "district",
        "property", "property_zh", "property_en", "channel", "level_zh", "level_en", "state_zh", "state_en", "value",
        "limit", "unit", "time", "opened", "who", "note",
    )
)  # fmt: skip
"""What a template may name."""


def _template(text: str) -> str:
    template = Template(text)
    if not template.is_valid():
        raise ValueError(f"{text!r}: $ 须写作 $$ / a $ that begins no field is written $$")
    if unknown := sorted(set(template.get_identifiers()) - FIELDS):
        allowed = ", ".join(sorted(FIELDS))
        raise ValueError(f"没有字段 / no field ${', $'.join(unknown)} (allowed: {allowed})")
    return text


class ChannelSettings(Section):
    """One place where notifications go."""

    name: str = Field(pattern=CHANNEL_NAME, description="in routes, logs, status and commands")
    kind: Literal["webhook", "apprise"] = Field(
        "webhook", description="our own JSON over HTTP, or a service that apprise knows (needs the extra `notify`)"
    )
    url_file: Path = Field(description="file with the address; addresses hold secrets, so they never stand here")
    secret_file: Path | None = Field(None, description="webhook: file with the key that signs each body")
    language: Language | None = Field(None, description="of its texts; none: notify.language")
    quiet_from: str | None = Field(None, pattern=TIME_OF_DAY, description="quiet hours begin, HH:MM in notify.timezone")
    quiet_to: str | None = Field(None, pattern=TIME_OF_DAY, description="quiet hours end; may be on the next day")
    quiet_level: Level = Field("red", description="this level and those above break through quiet hours")
    storm_limit: int = Field(20, ge=1, le=1000, description="messages in storm_s at most; the rest become one summary")
    storm_s: int = Field(300, ge=1, le=86_400, description="span of storm_limit, and between two summaries")
    timeout_s: float = Field(10, gt=0, le=300, description="webhook: waits at most this long for each answer")


class NotifyRouteSettings(Section):
    """Which alerts go to which channels: all that is given must hold; what is left out holds for every alert."""

    channels: tuple[str, ...] = Field(min_length=1, description="names of channels that are told")
    levels: tuple[Level, ...] = Field(("blue", "yellow", "orange", "red"), description="of the alert; at least one")
    states: tuple[Literal["open", "acknowledged", "comment"], ...] = Field(
        ("open",), description="that are told; the end is always told to those who were told of the alert"
    )
    domains: tuple[str, ...] = Field((), description="of stations")
    networks: tuple[str, ...] = Field((), description="of stations")
    districts: tuple[str, ...] = Field((), description="of stations")
    stations: tuple[str, ...] = Field((), description="ids of stations")
    rules: tuple[str, ...] = Field((), description="ids of rules")
    escalate_to: tuple[str, ...] = Field((), description="channels that are told one after the other while nobody acts")
    escalate_s: int = Field(
        900, ge=1, le=604_800, description="open and not acknowledged for so long: the next is told"
    )

    @field_validator("levels", "states")
    @classmethod
    def _some(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        if not words:  # not by min_length: a wrong word in the list would be told as a list too short as well
            raise ValueError("至少一项 / must have at least one: else the route fits no alert")
        return words


class NotifySettings(Section):
    """Notifications of alerts, by the sink `notify`; see docs/notify.md."""

    language: Language = Field("both", description="of texts")
    timezone: str = Field("Asia/Shanghai", description="of quiet hours and of times in texts")
    group_by: Literal["station", "rule", "none"] = Field("station", description="what becomes one message")
    group_s: int = Field(10, ge=0, le=3600, description="waits so long for more of the same group")
    give_up_h: float = Field(24, gt=0, le=720, description="tried again for so long, then kept as a dead letter")
    keep_days: int = Field(90, ge=1, description="what was told is remembered so long; older transitions are not told")
    title_zh: str = Field(
        "【$level_zh】$station_zh $rule_zh: $state_zh", description="one line; a field that is empty leaves nothing"
    )
    title_en: str = Field("[$level_en] $station_en $rule_en: $state_en", description="the same in English")
    text_zh: tuple[str, ...] = Field(
        (
            "数值: $property_zh $value $unit (限值 $limit)", "时间: $time", "起始: $opened", "人员: $who",
            "备注: $note", "编号: $alert",
        ),
        description="lines; one whose fields are all empty is left out",
    )  # fmt: skip
    text_en: tuple[str, ...] = Field(
        (
            "Value: $property_en $value $unit (limit $limit)", "Time: $time", "Opened: $opened", "Person: $who",
            "Note: $note", "Id: $alert",
        ),
        description="the same in English",
    )  # fmt: skip
    channels: tuple[ChannelSettings, ...] = ()
    routes: tuple[NotifyRouteSettings, ...] = ()

    @field_validator("title_zh", "title_en")
    @classmethod
    def _title(cls, text: str) -> str:
        return _template(text)

    @field_validator("text_zh", "text_en")
    @classmethod
    def _text(cls, lines: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(_template, lines))

    @field_validator("timezone")
    @classmethod
    def _zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (KeyError, ValueError, OSError):
            raise ValueError("不是 IANA 时区 / is not an IANA time zone, such as 'Asia/Shanghai'") from None
        return name
