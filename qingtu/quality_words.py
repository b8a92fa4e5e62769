"""Which check found a reading bad, by which limit, in words: for explain, API and page. Data and sentences only."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from processors.bits import BITS
from qingtu.clock import SECOND
from qingtu.properties import load_properties

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from qingtu.catalogue import Catalogue, Series

CHECK_WORDS: Final[Mapping[str, tuple[str, str]]] = {
    "gross_range": ("超出量程", "Gross range"),
    "plausible_range": ("超出合理范围", "Plausible range"),
    "rate_of_change": ("变化过快", "Rate of change"),
    "missing": ("缺测", "Missing"),
    "spike": ("尖峰", "Spike"),
    "flat_line": ("数值不变", "Flat line"),
    "gap": ("间断之后", "Gap before"),
    "climatology": ("超出当月常态", "Climatology"),
    "attenuated_signal": ("信号衰减", "Attenuated signal"),
    "instrument": ("仪器状态", "Instrument status"),
    "location": ("位置异常", "Location"),
    "density_inversion": ("密度倒置", "Density inversion"),
    "multi_variate": ("要素间不符", "Multi-variate"),
    "nitrogen_oxides": ("氮氧化物不平衡", "Nitrogen oxides do not add up"),
    "particle_sizes": ("PM2.5 大于 PM10", "PM2.5 above PM10"),
    "calm_wind": ("静风时的风向", "Direction at calm"),
    "override": ("人工改标", "Set by a person"),
    "neighbour": ("与周边站点不符", "Neighbour"),
    "receipt_time": ("以接收时间为准", "Time of receipt"),
}
"""(zh, en) of every bit; a test holds that none is missing."""
_NO_CHECK: Final = ("override", "receipt_time")
_NAMES: Final[Mapping[str, str]] = {
    "fail_min": "失败下限 / fails below", "fail_max": "失败上限 / fails above",
    "suspect_min": "可疑下限 / suspect below", "suspect_max": "可疑上限 / suspect above",
    "suspect": "可疑 / suspect", "fail": "失败 / fails", "min": "下限 / from", "max": "上限 / to",
    "suspect_s": "可疑时长 / suspect after", "fail_s": "失败时长 / fails after", "tolerance": "容差 / tolerance",
    "window_s": "时窗 / window", "min_readings": "至少读数 / readings at least", "measure": "量度 / measure",
    "method": "方法 / method", "suspect_per_h": "可疑每小时 / suspect per hour",
    "fail_per_h": "失败每小时 / fails per hour",
    "share": "份额 / share", "floor": "底限 / floor", "below": "低于 / below", "box": "范围 / box",
    "suspect_m": "可疑距离 m / suspect beyond m", "fail_m": "失败距离 m / fails beyond m",
    "relations": "关系 / relations", "radius_km": "半径 km / radius km", "minimum": "至少站点 / stations at least",
}  # fmt: skip
_RELATIONS: Final[Mapping[str, str]] = {
    "location": "location", "density_inversion": "density", "multi_variate": "multi_variate",
    "nitrogen_oxides": "nitrogen_oxides", "particle_sizes": "particle_sizes", "calm_wind": "calm_wind",
}  # fmt: skip


class Told(NamedTuple):
    """One check and its limits.

    Attributes:
        check: key.
        bit: of ``tests``.
        limits: those in force, canonical unit of the property; empty when nothing is limited.
        zh, en: name of the check with its limits.
    """

    check: str
    bit: int
    limits: dict[str, Any]
    zh: str
    en: str


def checks_of(catalogue: Catalogue, key: tuple[str, str, str], time_us: int) -> list[Told]:
    """Return every check with the limits that this catalogue has for a series at a time.

    Args:
        catalogue: in use.
        key: (station, property, channel); may have left the catalogue, and has no limits then.
        time_us: of the reading: what is usual depends on the month.
    """
    number = catalogue.series_index(*key)
    series = None if number is None else catalogue.series[number]
    return [_told(name, bit, _limits(catalogue, series, name, time_us), series) for name, bit in BITS.items()
            if name not in _NO_CHECK]  # fmt: skip


def _told(name: str, bit: int, limits: dict[str, Any], series: Series | None) -> Told:
    zh, en = CHECK_WORDS[name]
    if limits:
        unit = f" [{series.unit}]" if series and name not in _RELATIONS else ""
        zh += f" ({', '.join(f'{_word(k, 0)} {_plain(v)}' for k, v in limits.items())}{unit})"
        en += f" ({', '.join(f'{_word(k, 1)} {_plain(v)}' for k, v in limits.items())}{unit})"
    return Told(name, bit, limits, zh, en)


def _word(name: str, language: int) -> str:
    return _NAMES[name].split(" / ")[language]


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(list(value)) if isinstance(value, tuple) else str(value)


def _limits(catalogue: Catalogue, series: Series | None, check: str, time_us: int) -> dict[str, Any]:
    if series is None:
        return {}
    if check in _RELATIONS:
        given = getattr(catalogue.relations_of(series.station), _RELATIONS[check])
        if isinstance(given, tuple):
            mine = [
                f"{one.when} {list(one.within)} → {one.expect} {list(one.range)}"
                for one in given
                if one.expect == series.property
            ]
            return {"relations": "; ".join(mine)} if mine else {}
        return _some(given.model_dump(exclude_none=True)) if given else {}
    return _some(_OF_SERIES[check](catalogue, series, time_us)) if check in _OF_SERIES else {}


def _some(limits: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what limits nothing."""
    return {k: v for k, v in limits.items() if v is not None and not (isinstance(v, float) and math.isinf(v))}


def _month(catalogue: Catalogue, series: Series, time_us: int) -> dict[str, Any]:
    del catalogue
    month = datetime.fromtimestamp(time_us // SECOND, tz=UTC).month
    found: dict[str, Any] = {}
    for one in series.limits.climatology:
        if month in one.months and (one.depth is None or one.depth[0] <= series.depth_m <= one.depth[1]):
            low, high = one.fail or (-math.inf, math.inf)
            found = {
                "fail_min": low, "suspect_min": one.suspect[0], "suspect_max": one.suspect[1], "fail_max": high,
            }  # fmt: skip
    return found


def _spike(catalogue: Catalogue, series: Series, time_us: int) -> dict[str, Any]:
    del catalogue, time_us
    found = _some({"suspect": series.limits.spike_suspect, "fail": series.limits.spike_fail})
    method = "differential" if series.limits.spike_differential else "average"
    return {**found, "method": method} if found else {}


def _flat_line(catalogue: Catalogue, series: Series, time_us: int) -> dict[str, Any]:
    del catalogue, time_us
    of = series.limits
    if not of.flat_tolerance:
        return {}
    return {"tolerance": of.flat_tolerance, "suspect_s": of.flat_suspect_s, "fail_s": of.flat_fail_s}


_OF_SERIES: Final[Mapping[str, Callable[[Catalogue, Series, int], Mapping[str, Any]]]] = {
    "gross_range": lambda _, s, __: {
        "fail_min": s.limits.fail_min, "suspect_min": s.limits.suspect_min, "suspect_max": s.limits.suspect_max,
        "fail_max": s.limits.fail_max,
    },
    "plausible_range": lambda _, s, __: dict(zip(("min", "max"), load_properties()[s.property].plausible, strict=True)),
    "rate_of_change": lambda _, s, __: {
        "suspect_per_h": s.limits.rate_suspect_per_h, "fail_per_h": s.limits.rate_fail_per_h,
    },
    "spike": _spike,
    "flat_line": _flat_line,
    "gap": lambda _, s, __: {"suspect_s": s.limits.gap_suspect_s, "fail_s": s.limits.gap_fail_s},
    "climatology": _month,
    "attenuated_signal": lambda _, s, __: s.limits.attenuated.model_dump() if s.limits.attenuated else {},
    "neighbour": lambda _, s, __: s.limits.neighbour.model_dump() if s.limits.neighbour else {},
}  # fmt: skip
