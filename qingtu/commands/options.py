"""Options that several commands share, and how their texts are read."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final
from zoneinfo import ZoneInfo

import typer

from qingtu.clock import SECOND
from qingtu.settings import load_settings
from qingtu.settings_file import read_settings

if TYPE_CHECKING:
    from qingtu.settings import Settings
    from qingtu.settings_file import Reading

SettingsFile = Annotated[
    Path | None, typer.Option("--settings", "-c", help="Settings file (qingtu.toml if there is one) / 设置文件")
]
Data = Annotated[Path | None, typer.Option("--data", help="Data folder / 数据目录")]
Catalogue = Annotated[Path | None, typer.Option("--catalogue", help="Folder with the catalogue / 目录文件夹")]
Json = Annotated[bool, typer.Option("--json", help="JSON on standard output / 输出 JSON")]

_ZONE: Final = ZoneInfo("Asia/Shanghai")
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def settings_of(file: Path | None, data: Path | None, catalogue: Path | None = None) -> Settings:
    """Load the settings, with what the command line says in place of it.

    Raises:
        ConfigError: with all problems at once.
    """
    given = {"data": data, "catalogue": catalogue}
    return load_settings(file).model_copy(update={key: value for key, value in given.items() if value is not None})


def reading_of(file: Path | None, data: Path | None, catalogue: Path | None) -> Reading:
    """Read the settings as :func:`settings_of` does, with the problems beside what is right."""
    reading = read_settings(file)
    given = {key: value for key, value in (("data", data), ("catalogue", catalogue)) if value is not None}
    reading.settings = reading.settings.model_copy(update=given)
    reading.broken -= {(key,) for key in given}
    reading.given |= {(key,): str(value) for key, value in given.items()}
    return reading


def duration_s(text: str) -> float:
    """Read a duration: ``90`` (seconds), ``60s``, ``5m``, ``24h``, ``1.5d``.

    >>> duration_s("5m"), duration_s("0.5h"), duration_s("90")
    (300.0, 1800.0, 90.0)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", text.strip())
    if found is None:
        raise typer.BadParameter(f"{text!r} is not a duration such as 60s, 5m, 24h or 1d / 不是时长")
    return float(found[1]) * _UNITS[found[2] or "s"]


def time_us(text: str) -> int:
    """Read a point in time: RFC 3339, or ``2026-11-23`` or ``2026-11-23 08:00`` in China's time zone; µs UTC.

    >>> time_us("2026-11-23T08:00:00+08:00") == time_us("2026-11-23 08:00") == 1_795_392_000_000_000
    True
    """
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise typer.BadParameter(
            f"{text!r} is not a time such as 2026-11-23T08:00:00+08:00 or '2026-11-23 08:00' (China) / 不是时间"
        ) from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=_ZONE)
    since = moment - datetime.fromtimestamp(0, tz=_ZONE)
    return since // timedelta(microseconds=1)


def local_time(us: int | None) -> str:
    """Write µs UTC in China's time zone, to the second; "" for none.

    >>> local_time(1_795_392_000_000_000)
    '2026-11-23 08:00:00'
    """
    return "" if us is None else f"{datetime.fromtimestamp(us // SECOND, tz=_ZONE):%Y-%m-%d %H:%M:%S}"
