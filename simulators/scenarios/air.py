"""Stories of the air: an episode over several stations, an afternoon of ozone, a sensor that drifts away."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulators.scenarios.scenario import Effect, Expected, ExpectedFigure, ExpectedFlag, Story, able

if TYPE_CHECKING:
    from qingtu.catalogue import Catalogue

_YELLOW, _ORANGE = 2, 3


def pm25_episode(catalogue: Catalogue) -> Story:
    """Still air: PM2.5, and PM10 with it, over five stations within an hour, one episode; a sixth stays clean."""
    *struck, clean = (station.id for station in able(catalogue, ["air"], "pm25", "pm10", count=6))
    effects, expected = [], []
    for number, station in enumerate(struck):
        begins = 4.0 + 0.2 * number
        effects += [
            Effect(station, "pm25", 130.0, begins, rise_h=3.0, hold_h=4.0, fall_h=3.0),
            Effect(station, "pm10", 175.0, begins, rise_h=3.0, hold_h=4.0, fall_h=3.0),
        ]
        expected += [
            Expected("air-pm25", station, _YELLOW, begins, begins + 4.0),
            Expected("air-pm10", station, 1, begins, begins + 4.0),
        ]
    expected.append(Expected("pm25-episode", struck[0], _YELLOW, 4.0, 8.5, tuple(struck)))
    figures = (
        *(ExpectedFigure(station, "pm25", "hour", 9.0, low=125.0, high=135.0) for station in struck),
        *(ExpectedFigure(station, "aqi", "hour_index", 9.0, low=151.0, high=200.0, level=4) for station in struck),
        ExpectedFigure(clean, "pm25", "hour", 9.0, high=75.0),
        ExpectedFigure(clean, "aqi", "hour_index", 9.0, high=100.0),
    )
    return Story(16.0, (*struck, clean), tuple(effects), tuple(expected), figures)


def ozone_afternoon(catalogue: Catalogue) -> Story:
    """A hot afternoon: ozone over the hourly limit at three stations, gone by the evening."""
    struck = [station.id for station in able(catalogue, ["air"], "o3", count=3)]
    effects = [Effect(station, "o3", 240.0, 11.0, rise_h=3.0, hold_h=3.0, fall_h=3.0) for station in struck]
    expected = [Expected("air-o3", station, 1, 12.0, 15.0) for station in struck]
    figures = [ExpectedFigure(station, "o3", "hour", 15.0, low=235.0, high=245.0) for station in struck]
    figures += [
        ExpectedFigure(station, "aqi", "hour_index", 15.0, low=118.0, high=123.0, level=3) for station in struck
    ]
    return Story(19.5, tuple(struck), tuple(effects), tuple(expected), tuple(figures))


def sensor_drift(catalogue: Catalogue) -> Story:
    """An ozone sensor creeps up while its neighbours stay: no limit is passed, only the neighbours can tell."""
    first, *others = (station.id for station in able(catalogue, ["air"], "o3", count=4))
    drift = Effect(first, "o3", 58.0, 2.0, rise_h=10.0, hold_h=6.0, fall_h=1.0, added=True)
    figures = [ExpectedFigure(station, "aqi", "hour_index", 14.0, high=100.0) for station in others]
    apart = Expected("air-o3-apart", first, 1, 6.0, 14.0)
    flag = ExpectedFlag(first, "o3", "neighbour", 8.0, 19.0)
    return Story(20.0, (first, *others), (drift,), (apart,), figures=tuple(figures), flags=(flag,))
