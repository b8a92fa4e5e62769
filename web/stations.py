"""Stations as the map shows them: who they are, their state, their worst alert, and the value that stands for them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import orjson

from qingtu.clock import MINUTE, SECOND
from qingtu.properties import load_properties
from qingtu.records import Flag
from web import quiet, words
from web.latest import NEVER
from web.states import Facts, Standing, state_of
from web.status import STARTING_S, TICKS_MISSED

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from qingtu.app import Service
    from qingtu.catalogue import Catalogue
    from qingtu.catalogue_model import Station
    from web.live import LiveView

_SILENT_INTERVALS: Final = 3
_SILENT_FLOOR: Final = 10 * MINUTE


@dataclass(frozen=True, slots=True)
class Table:
    """What a catalogue says about its stations, looked up once a version.

    Attributes:
        properties: station → the constant properties of its GeoJSON feature.
        headline: station → property that stands for it.
        silent_us: station → silent when nothing was heard for so long.
        routes: station → routes of its devices.
    """

    version: str
    properties: dict[str, dict[str, Any]] = field(default_factory=dict)
    headline: dict[str, str | None] = field(default_factory=dict)
    silent_us: dict[str, int] = field(default_factory=dict)
    routes: dict[str, set[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, catalogue: Catalogue) -> Table:
        """Make the table of a catalogue."""
        table = cls(catalogue.version)
        interval: dict[str, float] = {}
        for entry in catalogue.devices.values():
            ident = entry.station.id
            table.routes.setdefault(ident, set()).add(entry.route)
            interval[ident] = max(entry.interval_s, interval.get(ident, 0))
        measured: dict[str, list[str]] = {}
        for s in catalogue.series:
            if s.channel == "main":
                measured.setdefault(s.station, []).append(s.property)
        for ident, station in catalogue.stations.items():
            network = catalogue.networks[station.network]
            every = interval.get(ident) or station.interval_s or network.interval_s
            table.properties[ident] = _constant(station, every, station.timezone or network.timezone)
            table.headline[ident] = words.headline(station.kind, station.domain, measured.get(ident, []))
            table.silent_us[ident] = max(round(_SILENT_INTERVALS * every * SECOND), _SILENT_FLOOR)
        return table


@dataclass(frozen=True, slots=True)
class Index:
    """Which series belong to which station, looked up once for as long as no series is added.

    Attributes:
        station: int64 (series,), index into ``names``.
        names: ids of the stations that series were seen of.
        main: (station, property) → row of its main series.
    """

    station: NDArray[np.int64]
    names: list[str]
    main: dict[tuple[str, str], int]

    @classmethod
    def of(cls, keys: list[tuple[str, str, str]]) -> Index:
        """Make the index of series, given as (station, property, channel)."""
        number: dict[str, int] = {}
        station = np.array([number.setdefault(key[0], len(number)) for key in keys], np.int64)
        main = {(s, p): i for i, (s, p, channel) in enumerate(keys) if channel == "main"}
        return cls(station, list(number), main)


class Stations:
    """Answers what the map asks. Any thread may call."""

    def __init__(self, service: Service, live: LiveView) -> None:
        self._service = service
        self._live = live
        self._table = Table.of(service.catalogue)
        self._index = Index.of([])

    def states(self, *, headlines: bool = True) -> dict[str, dict[str, Any]]:
        """Return by station: state, since when and by what, heard_ms, alert_level, unacknowledged; perhaps headline.

        :mod:`web.states` says what the states are.
        """
        table = self._use()
        catalogue = self._service.catalogue
        now = self._service.clock.now_us()
        keys, arrays = self._live.readings()
        index = self._index
        if len(index.station) != len(keys):
            index = self._index = Index.of(keys)
        heard, series, bad = self._by_station(index, arrays)
        alerts = self._live.active_alerts()
        marks, known = _marks(alerts), self._known(alerts, now)
        out: dict[str, dict[str, Any]] = {}
        for ident in catalogue.stations:
            at = heard.get(ident)
            bad_now = 2 * bad.get(ident, 0) >= series.get(ident, 0) > 0
            state = state_of(known.of(ident, table, at, now, bad=bad_now))
            level, unacknowledged = marks.get(ident, (0, False))
            out[ident] = {
                "state": state.name,
                "state_since_ms": None if state.since_us is None else state.since_us // 1000,
                "state_by": state.by,
                "heard_ms": None if at is None else at // 1000,
                "alert_level": level,
                "unacknowledged": unacknowledged,
            }
            if headlines:
                out[ident]["headline"] = self._headline(ident, table, index, arrays)
        return out

    def _known(self, alerts: list[dict[str, Any]], now: int) -> _Known:
        catalogue = self._service.catalogue
        found = quiet.maintenance(list(self._live.quiet.values()), catalogue, now)
        worked = {m.station: Standing(m.from_us, m.who) for m in found if m.from_us <= now}
        return _Known(worked, self._hearing(now), *_reasons(alerts, {r.id: r.kind for r in catalogue.rules}))

    def _hearing(self, now: int) -> dict[str, int] | None:
        """Return since when each route is heard, µs UTC, without those that are not; None: that is not known (yet)."""
        service = self._service
        young = now - service.started_us < STARTING_S * SECOND
        if service.gateway is not None:
            hearing = service.gateway.hearing()
            return None if young and not hearing else hearing
        if young or "gateway" in service.options.stages:
            return None
        # The gateway is another process: ticks tell which routes are heard, but not here since when.
        before = now - round(TICKS_MISSED * service.settings.figures.tick_s * SECOND)
        return {route: now for route, at in self._live.heard_us.items() if at >= before}

    def headlines(self, idents: Iterable[str]) -> dict[str, dict[str, Any] | None]:
        """Return the value that stands for each of some stations, None where there is none."""
        keys, arrays = self._live.readings()
        index = self._index if len(self._index.station) == len(keys) else Index.of(keys)
        table = self._use()
        return {ident: self._headline(ident, table, index, arrays) for ident in idents}

    def features(self) -> list[dict[str, Any]]:
        """Return the stations as GeoJSON features (RFC 7946: longitude, latitude)."""
        states = self.states()
        table = self._use()
        return [
            {
                "type": "Feature",
                "id": ident,
                "geometry": {"type": "Point", "coordinates": list(station.position)},
                "properties": {**table.properties[ident], **states[ident]},
            }
            for ident, station in self._service.catalogue.stations.items()
            if ident in states and ident in table.properties
        ]

    def _use(self) -> Table:
        catalogue = self._service.catalogue
        if self._table.version != catalogue.version:
            self._table = Table.of(catalogue)
        return self._table

    def _by_station(
        self, index: Index, arrays: dict[str, Any]
    ) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
        """Return by station: when it was heard (µs UTC), its series with a reading, and those with a bad latest one."""
        of, names = index.station, index.names
        newest = np.full(len(names), NEVER, np.int64)
        np.maximum.at(newest, of, arrays["heard"])
        bad = (arrays["flag"] == Flag.FAIL) | (arrays["flag"] == Flag.MISSING)
        heard = {name: int(at) for name, at in zip(names, newest.tolist(), strict=True) if at != NEVER}
        for name, at in self._live.events_heard().items():
            heard[name] = max(at, heard.get(name, at))
        all_ = dict(zip(names, np.bincount(of, minlength=len(names)).tolist(), strict=True))
        bad_ = dict(zip(names, np.bincount(of[bad], minlength=len(names)).tolist(), strict=True))
        return heard, all_, bad_

    @staticmethod
    def _headline(ident: str, table: Table, index: Index, arrays: dict[str, Any]) -> dict[str, Any] | None:
        prop = table.headline.get(ident)
        at = index.main.get((ident, prop)) if prop else None
        if prop is None or at is None:
            return None
        value = float(arrays["value"][at])
        return {
            "property": prop,
            "value": None if np.isnan(value) else value,
            "unit_label": words.unit_label(load_properties()[prop].unit),
            "flag": int(arrays["flag"][at]),
            "time_ms": int(arrays["time"][at]) // 1000,
        }


def _constant(station: Station, interval_s: float, timezone: str) -> dict[str, Any]:
    zh, en = words.DISTRICTS.get(station.district or "", (None, None))
    return {
        "id": station.id,
        "zh": station.zh,
        "en": station.en,
        "domain": station.domain,
        "kind": station.kind,
        "network": station.network,
        "district": station.district,
        "district_zh": zh,
        "district_en": en,
        "street": station.street,
        "community": station.community,
        "interval_s": interval_s,
        "timezone": timezone,
        "datum": station.datum,
        "water_class": station.water_class,
        "noise_class": station.noise_class,
        "attributes": dict(station.attributes),
    }


class _Known(NamedTuple):
    """What states are made of, beside what was received.

    Attributes:
        worked: station → maintenance of now.
        hearing: route → since when it is heard, µs UTC; None: not known.
        alerts: station → rule kind → the oldest alert that stands on it or names it.
        deaf: route → since when it is not heard, by its alert.
    """

    worked: dict[str, Standing]
    hearing: dict[str, int] | None
    alerts: dict[str, dict[str, Standing]]
    deaf: dict[str, int]

    def of(self, ident: str, table: Table, heard_us: int | None, now: int, *, bad: bool) -> Facts:
        """Return the facts of one station."""
        routes, hearing = table.routes.get(ident, set()), self.hearing
        missed = [] if hearing is None else sorted(routes - set(hearing))
        since = max((now if hearing is None else hearing.get(route, now) for route in routes), default=now)
        return Facts(
            maintenance=self.worked.get(ident),
            deaf=Standing(self.deaf.get(missed[0]), missed[0]) if missed else None,
            alerts=self.alerts.get(ident, {}),
            heard_us=heard_us,
            quiet_us=0 if heard_us is None else now - max(heard_us, since),
            patience_us=table.silent_us[ident],
            bad=bad,
        )


def _marks(alerts: list[dict[str, Any]]) -> dict[str, tuple[int, bool]]:
    """Return by station: worst active level, and whether an alert is not acknowledged."""
    marks: dict[str, tuple[int, bool]] = {}
    for row in alerts:
        level, open_ = marks.get(row["station"], (0, False))
        marks[row["station"]] = (max(level, row["level"]), open_ or row["state"] == "open")
    return marks


def _reasons(
    alerts: list[dict[str, Any]], kinds: dict[str, str]
) -> tuple[dict[str, dict[str, Standing]], dict[str, int]]:
    """Sort alerts, rows of ``PrimaryStore.alerts``, by what they say about which station; the oldest counts."""
    told: dict[str, dict[str, Standing]] = {}
    deaf: dict[str, int] = {}
    for row in sorted(alerts, key=lambda row: row["opened_at"]):
        kind = kinds.get(row["rule"], "")
        if row["station"]:
            named = [row["station"]]
        else:
            evidence = orjson.loads(row["evidence"] or b"{}")
            named = evidence.get("stations", []) if kind == "network" else []
            if kind == "link":
                deaf.setdefault(evidence.get("route", ""), evidence.get("since_us", row["opened_at"]))
        for station in named:
            told.setdefault(station, {}).setdefault(kind, Standing(row["opened_at"], row["alert"]))
    return told, deaf
