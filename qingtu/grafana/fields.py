"""How the values of panels are shown: names, units, decimals, levels and their colours; and how tables are joined.

A colour never stands alone: levels have words and signs, thresholds have lines. Grafana calls what changes one field
(column, series) an override.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from qingtu.grafana.names import STATION
from qingtu.grafana.scope import name_of
from qingtu.grafana.units import grafana_unit, written

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from qingtu.catalogue_model import Station
    from qingtu.grafana.scope import Measure, Threshold

COLOURS: Final = {"normal": "green", "blue": "blue", "yellow": "yellow", "orange": "orange", "red": "red"}
LEVEL_WORDS: Final = {
    0: ("normal", "✓ 正常 normal"),
    1: ("blue", "◆ 蓝 blue"),
    2: ("yellow", "▲ 黄 yellow"),
    3: ("orange", "▲▲ 橙 orange"),
    4: ("red", "▲▲▲ 红 red"),
}


def field_of(measure: Measure) -> dict[str, Any]:
    """Return unit, decimals and the rule's levels as thresholds, for a panel of one measure."""
    made: dict[str, Any] = {"unit": grafana_unit(measure.prop.unit), "decimals": measure.prop.precision}
    if measure.threshold is not None:
        made["thresholds"] = thresholds(measure.threshold)
        made["color"] = {"mode": "palette-classic"}
    return made


def thresholds(levels: Threshold) -> dict[str, Any]:
    """Write a rule's levels as Grafana's steps: each colour holds from its value upwards."""
    if levels.below:
        names = [name for name, _ in levels.steps]  # blue 5, yellow 3, orange 2: orange below 2 … green from 5 on
        values = [value for _, value in reversed(levels.steps)]
        colours = [*reversed(names), "normal"]
    else:
        values = [value for _, value in levels.steps]
        colours = ["normal", *(name for name, _ in levels.steps)]
    steps = [{"color": COLOURS[name], "value": value} for name, value in zip(colours, [None, *values], strict=True)]
    return {"mode": "absolute", "steps": steps}


def words_of(measure: Measure) -> str:
    """Say in words what a panel of one measure shows."""
    unit = written(measure.prop.unit)
    said = "只含合格数据 (标志 1, 2) / good readings only (flags 1 and 2)"
    if unit:
        said += f"; 单位 unit {unit}"
    if measure.threshold is not None:
        sign = "≤" if measure.threshold.below else "≥"
        levels = ", ".join(f"{name} {sign} {value:g}" for name, value in measure.threshold.steps)
        said += f"; 预警级别 alert levels: {levels}"
    return said


def level_field() -> dict[str, Any]:
    """Return how an alert level is shown: words and signs beside the colour."""
    options = {
        str(level): {"text": words, "color": COLOURS[name], "index": level}
        for level, (name, words) in LEVEL_WORDS.items()
    }
    steps = [
        {"color": COLOURS[name], "value": None if level == 0 else level} for level, (name, _) in LEVEL_WORDS.items()
    ]
    return {
        "mappings": [{"type": "value", "options": options}],
        "thresholds": {"mode": "absolute", "steps": steps},
        "color": {"mode": "thresholds"},
    }


def count_field() -> dict[str, Any]:
    """Return how a count is shown; without rows it is 0."""
    return {"unit": "none", "decimals": 0, "noValue": "0"}


def override(name: str, **properties: Any) -> dict[str, Any]:
    """Change how the field (column, series) of this name is shown; ``__`` in a property's name stands for a dot."""
    changed = [{"id": key.replace("__", "."), "value": value} for key, value in properties.items()]
    return {"matcher": {"id": "byName", "options": name}, "properties": changed}


def headed(heads: Mapping[str, str]) -> list[dict[str, Any]]:
    """Show columns or series of these names with these heads."""
    return [override(name, displayName=head) for name, head in heads.items()]


def named_stations(stations: Iterable[Station]) -> list[dict[str, Any]]:
    """Show series that are called by a station's id by its name."""
    return headed({station.id: name_of(station) for station in stations})


def station_column(stations: Iterable[Station]) -> dict[str, Any]:
    """Show names in the column ``station``, with a link to the station's dashboard."""
    options = {station.id: {"text": name_of(station), "index": i} for i, station in enumerate(stations)}
    link = {"title": "站点 Station", "url": f"/d/{STATION}?var-station=${{__value.raw}}"}
    return override(
        "station",
        displayName="站点 Station",
        mappings=[{"type": "value", "options": options}],
        links=[link],
    )


def measure_columns(measures: Iterable[Measure]) -> list[dict[str, Any]]:
    """Show columns that are called by a property's key with its name and unit."""
    made = []
    for measure in measures:
        unit = written(measure.prop.unit)
        head = measure.prop.zh + (f" {unit}" if unit else "")
        made.append(override(measure.key, displayName=head, decimals=measure.prop.precision))
    return made


def without_time() -> dict[str, Any]:
    """Drop the time column: of an aggregate it is the beginning of the range, which says nothing."""
    return {"id": "filterFieldsByName", "options": {"exclude": {"names": ["Time", "time"]}}}


def joined_by_shared_columns() -> list[dict[str, Any]]:
    """Make one table of several by the column that they share, ``station``."""
    return [without_time(), {"id": "merge", "options": {}}]
