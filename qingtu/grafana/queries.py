"""Every InfluxQL text of the dashboards, on the measurements of docs/influxdb.md. Grafana fills in what begins with $.

``$timeFilter`` and ``$__interval`` are Grafana's; ``${station:regex}`` is written as ``(A|B)``, escaped. Only readings
with flag 1 or 2 are drawn, unless the query is about flags; only the main channel, so that a backup source is never
mixed in silently. Which bucket a measurement is in stands beside the name of its data source in the dashboards.
"""

# ruff: noqa: S608 - these texts are InfluxQL; names in them come from the dictionary and the catalogue's checked ids

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from qingtu.grafana.scope import Measure

_CHOSEN: Final = '"station" =~ /^${station:regex}$/'
_ONE: Final = "\"station\" = '${station}'"
_MAIN: Final = "\"channel\" = 'main'"
_AGGREGATE: Final = {"sum": "sum", "max": "max", "last": "last", "circular": "last", "counter": "last", "none": "last"}
"""How values of one interval of the screen become one; a direction's mean would need vectors, so its last one."""


# ------------------------------------------------------------------------------------------------------- readings


def over_time(measure: Measure) -> str:
    """Return good values over time, a series for each chosen station; levels in dB by their energy mean."""
    where = f"$timeFilter AND {_CHOSEN} AND {_MAIN} AND {_good(measure.key)}"
    source, field = _name(measure.measurement), _name(measure.key)
    group = 'GROUP BY time($__interval), "station" fill(null)'
    if measure.prop.agg == "energy":
        energy = f"exp({field} * {math.log(10) / 10:.12f})"
        inner = f'SELECT {energy} AS "energy" FROM {source} WHERE {where} GROUP BY "station"'
        return f'SELECT 10 * log10(mean("energy")) AS "level" FROM ({inner}) WHERE $timeFilter {group}'
    how = _AGGREGATE.get(measure.prop.agg, "mean")
    return f"SELECT {how}({field}) FROM {source} WHERE {where} {group}"


def latest(measure: Measure) -> str:
    """Return a row for each chosen station with its newest good value, in a column called by the key."""
    field, source = _name(measure.key), _name(measure.measurement)
    where = f"$timeFilter AND {_CHOSEN} AND {_MAIN} AND {_good(measure.key)}"
    return f'SELECT last({field}) AS {field} FROM {source} WHERE {where} GROUP BY "station"'


def newest(measure: Measure, how: str) -> str:
    """Return one number: how the newest good values of all stations combine (``mean``, ``max``, ``min``)."""
    where = f"$timeFilter AND {_MAIN} AND {_good(measure.key)}"
    inner = (
        f'SELECT last({_name(measure.key)}) AS "v" FROM {_name(measure.measurement)} WHERE {where} GROUP BY "station"'
    )
    return f'SELECT {how}("v") AS "v" FROM ({inner}) WHERE $timeFilter'


def any_property(domains: Iterable[str]) -> str:
    """Return good values of the chosen property of one station; each point is the newest reading of its interval."""
    return _any_field(domains, "last", "${property}", ' AND "${property}_flag" <= 2')


def any_flag(domains: Iterable[str]) -> str:
    """Return the worst flag of each interval of the chosen property of one station."""
    return _any_field(domains, "max", "${property}_flag")


def _any_field(domains: Iterable[str], how: str, field: str, condition: str = "") -> str:
    # a property stands in one measurement only, so asking all of them gives one series
    where = f"$timeFilter AND {_ONE} AND {_MAIN}{condition}"
    return f'SELECT {how}("{field}") FROM /^({"|".join(domains)})$/ WHERE {where} GROUP BY time($__interval) fill(null)'


def stored(measures: Sequence[Measure]) -> str:
    """Return how many readings of one measurement were stored in each interval."""
    source = _name(measures[0].measurement)
    return (
        f'SELECT {_counts(measures)} AS "readings" FROM {source} WHERE $timeFilter GROUP BY time($__interval) fill(0)'
    )


def stored_by_station(measures: Sequence[Measure], column: str) -> str:
    """Return how many readings of one measurement each station has in the chosen time, as ``column``."""
    source = _name(measures[0].measurement)
    return f'SELECT {_counts(measures)} AS {_name(column)} FROM {source} WHERE $timeFilter GROUP BY "station" fill(0)'


def doubted(measure: Measure) -> str:
    """Return how many values of a measure of the chosen stations were flagged 3, 4 or 9."""
    # flags 1 and 2 become 0, flags 3, 4 and 9 become 1: so that none is a 0 and not an empty answer
    doubt = f"ceil(({_name(measure.key + '_flag')} - 2) / 7.0)"
    inner = f'SELECT {doubt} AS "doubted" FROM {_name(measure.measurement)} WHERE $timeFilter AND {_CHOSEN}'
    return f'SELECT sum("doubted") AS "doubted" FROM ({inner}) WHERE $timeFilter'


CORRECTIONS: Final = (
    'SELECT count("cause") AS "corrections" FROM "corrections" WHERE $timeFilter GROUP BY time($__interval) fill(0)'
)

# -------------------------------------------------------------------------------------------------------- figures


def hourly(measure: Measure) -> str:
    """Return the valid hour figures of the chosen stations."""
    field, valid = _name(f"{measure.key}_{_statistic(measure)}"), _name(f"{measure.key}_valid")
    where = f"$timeFilter AND {_CHOSEN} AND {_MAIN} AND {valid} = 1"
    group = 'GROUP BY time(1h), "station" fill(none)'
    return f"SELECT last({field}) FROM {_name(measure.measurement + '_hour')} WHERE {where} {group}"


def _statistic(measure: Measure) -> str:
    """Return which statistic of a period is kept: ``mean`` also of directions, levels and wave heights."""
    agg = measure.prop.agg
    return {"sum": "sum", "counter": "sum", "max": "max", "last": "last"}.get(agg, "mean")


PROPERTIES: Final = f'SHOW TAG VALUES FROM "figures" WITH KEY = "property" WHERE {_ONE}'
"""What a station measures, in the hourly bucket: figures have the property as a tag, which alone can be listed."""

# ------------------------------------------------------------------------------------------------------- stations

STATIONS: Final = 'SHOW TAG VALUES FROM "station" WITH KEY = "station"'
DISTRICTS: Final = 'SELECT distinct("d") FROM (SELECT last("district") AS "d" FROM "station" GROUP BY "station")'
STATION_COUNT: Final = (
    'SELECT count("lat") AS "stations" FROM (SELECT last("lat") AS "lat" FROM "station" GROUP BY "station")'
)
DESCRIPTION: Final = (
    "SELECT "
    + ", ".join(
        f'last("{name}") AS "{name}"'
        for name in ("name_zh", "name_en", "kind", "domain", "network", "district", "street", "lat", "lon")
    )
    + f' FROM "station" WHERE {_ONE}'
)
POSITIONS: Final = (
    'SELECT last("lat") AS "latitude", last("lon") AS "longitude", last("kind") AS "kind" FROM "station" '
    f'WHERE {_CHOSEN} GROUP BY "station"'
)


def stations_of(domains: Iterable[str] = ()) -> str:
    """Return the ids of the stations in the chosen districts, of some domains or of all."""
    inner = 'SELECT last("district") AS "district", last("domain") AS "domain" FROM "station" GROUP BY "station"'
    where = '"district" =~ /^${district:regex}$/'
    words = "|".join(domains)
    if words:
        where += f' AND "domain" =~ /^({words})$/'
    return f'SELECT "station" FROM ({inner}) WHERE {where}'


# --------------------------------------------------------------------------------------------- alerts, quarantine


def open_alerts(rules: Iterable[str] = ()) -> str:
    """Return how many alerts stand open now, of some rules or of all."""
    words = "|".join(re.escape(rule) for rule in rules)
    states = _states(f' WHERE "rule" =~ /^({words})$/' if words else "")
    # level 0 is 0, levels 1 to 4 are 1: so that no open alert is a 0 and not an empty answer
    return f'SELECT sum("open") AS "open" FROM (SELECT ceil("level" / 4.0) AS "open" FROM ({states}))'


def _states(where: str = "") -> str:
    """Return the newest transition for each thing that can have an alert; each has at most one open at a time."""
    # by sequence, not by time: who acknowledges does it after the reading that resolves what he had before him
    return f'SELECT max("seq") AS "seq", "level" FROM "alert"{where} GROUP BY "station", "rule", "property", "channel"'


WORST: Final = f'SELECT max("level") AS "level" FROM ({_states()})'
WORST_BY_STATION: Final = f'SELECT max("level") AS "level" FROM ({_states(f" WHERE {_CHOSEN}")}) GROUP BY "station"'
WORST_HERE: Final = f'SELECT max("level") AS "level" FROM ({_states(f" WHERE {_ONE}")})'
TRANSITIONS: Final = (
    'SELECT "station", "rule", "property", "level", "state", "value", "limit", "who", "note" FROM "alert" '
    f"WHERE $timeFilter AND {_CHOSEN} ORDER BY time DESC LIMIT 200"
)
OPENED: Final = (
    'SELECT count("level") AS "opened" FROM "alert" '
    f"WHERE $timeFilter AND \"state\" = 'open' AND {_CHOSEN} "
    'GROUP BY time($__interval), "rule" fill(none)'
)
REJECTED: Final = (
    'SELECT count("position") AS "rejected" FROM "rejected" '
    'WHERE $timeFilter GROUP BY time($__interval), "reason" fill(none)'
)
QUARANTINED: Final = 'SELECT count("position") AS "messages" FROM "quarantine" WHERE "outcome" = 3'


def alert_marks(*, one_station: bool = False) -> str:
    """Return openings and ends of alerts, with texts in both languages."""
    where = _ONE if one_station else _CHOSEN
    return (
        'SELECT "title", "text", "station", "rule", "state" FROM "alert" '
        f'WHERE $timeFilter AND {where} AND "state" =~ /^(open|resolved|withdrawn)$/'
    )


# --------------------------------------------------------------------------------------------------------- pieces


def _name(name: str) -> str:
    """Quote a name for InfluxQL."""
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _good(key: str) -> str:
    return f"{_name(key + '_flag')} <= 2"


def _counts(measures: Sequence[Measure]) -> str:
    return " + ".join(f"count({_name(m.key)})" for m in measures)
