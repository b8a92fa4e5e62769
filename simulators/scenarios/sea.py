"""Stories of the sea: oxygen that runs out, a green tide that drifts in, a red tide, a storm."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulators.scenarios.scenario import Effect, Expected, ExpectedFigure, Story, able, beside

if TYPE_CHECKING:
    from qingtu.catalogue import Catalogue

_BLUE, _YELLOW, _ORANGE = 1, 2, 3


def low_oxygen(catalogue: Catalogue) -> Story:
    """Oxygen runs out over a warm marine ranch before dawn; the ranch beside it keeps its own."""
    ranch, other = (one.id for one in able(catalogue, ["ranch"], "sea_dissolved_oxygen", count=2))
    effects = (
        Effect(ranch, "sea_water_temperature", 1.5, -2.0, rise_h=4.0, hold_h=16.0, fall_h=4.0, added=True),
        Effect(ranch, "sea_dissolved_oxygen", 2.6, 2.0, rise_h=6.0, hold_h=2.0, fall_h=6.0),
    )
    expected = (
        Expected("ocean-do", ranch, _ORANGE, 3.0, 8.0),
        Expected("ranch-stress", ranch, _ORANGE, 3.0, 8.0),
    )
    figures = (
        ExpectedFigure(ranch, "sea_dissolved_oxygen", "hour", 8.0, low=2.4, high=2.8),
        ExpectedFigure(ranch, "sea_water_class", "hour_index", 8.0, level=5),
        ExpectedFigure(other, "sea_dissolved_oxygen", "hour", 8.0, low=5.0),
    )
    return Story(18.0, (ranch, other), effects, expected, figures)


def green_tide(catalogue: Catalogue) -> Story:
    """A green tide comes from the south: to Lingshan Island, ten hours later off Dagong Island, never to the shore."""
    lingshan, dagong, urban = (
        able(catalogue, ["sea_water"], "green_tide_distribution", "green_tide_coverage", green_tide_zone=zone)[0].id
        for zone in ("lingshan", "dagong", "urban")
    )
    effects = (
        Effect(lingshan, "green_tide_distribution", 2600.0, 3.0, rise_h=6.0, hold_h=14.0, fall_h=5.0),
        Effect(lingshan, "green_tide_coverage", 18.0, 3.0, rise_h=6.0, hold_h=14.0, fall_h=5.0),
        Effect(dagong, "green_tide_distribution", 640.0, 13.0, rise_h=6.0, hold_h=5.0, fall_h=4.0),
        Effect(dagong, "green_tide_coverage", 4.2, 13.0, rise_h=6.0, hold_h=5.0, fall_h=4.0),
    )
    expected = (
        Expected("green-tide", lingshan, _YELLOW, 4.0, 9.0),
        Expected("green-tide", dagong, _ORANGE, 15.0, 20.0),
    )
    figures = (
        ExpectedFigure(lingshan, "green_tide_warning", "hour_index", 2.0, level=0),
        ExpectedFigure(lingshan, "green_tide_warning", "hour_index", 12.0, level=2),
        ExpectedFigure(lingshan, "green_tide_warning", "day_index", 0.0, level=2),
        ExpectedFigure(dagong, "green_tide_warning", "hour_index", 12.0, level=0),
        ExpectedFigure(dagong, "green_tide_warning", "hour_index", 20.0, level=3),
        ExpectedFigure(urban, "green_tide_warning", "day_index", 0.0, level=0),
        ExpectedFigure(lingshan, "green_tide_warning", "hour_index", 29.0, level=0),
    )
    return Story(31.0, (lingshan, dagong, urban), effects, expected, figures)


def red_tide(catalogue: Catalogue) -> Story:
    """A bloom grows in a bay: chlorophyll, oxygen and pH rise with light; then people see the water turn red."""
    watch = able(catalogue, ["sea_water"], "red_tide_area", red_tide_kind="toxic")[0]
    near, far, *_ = beside(catalogue, watch, ["sea_water"], "sea_chlorophyll_a", "sea_dissolved_oxygen", "sea_water_ph")
    effects = (
        Effect(near.id, "sea_chlorophyll_a", 32.0, 2.0, rise_h=8.0, hold_h=6.0, fall_h=6.0),
        Effect(near.id, "sea_dissolved_oxygen", 2.4, 2.0, rise_h=8.0, hold_h=6.0, fall_h=6.0, added=True),
        Effect(near.id, "sea_water_ph", 0.25, 2.0, rise_h=8.0, hold_h=6.0, fall_h=6.0, added=True),
        Effect(watch.id, "red_tide_area", 35.0, 9.0, rise_h=3.0, hold_h=6.0, fall_h=4.0),
    )
    expected = (
        Expected("ocean-chlorophyll", near.id, _YELLOW, 2.0, 10.0),
        Expected("red-tide", watch.id, _BLUE, 9.0, 11.0),
    )
    figures = (
        ExpectedFigure(near.id, "sea_chlorophyll_a", "hour", 11.0, low=31.0, high=33.0),
        ExpectedFigure(far.id, "sea_chlorophyll_a", "hour", 11.0, high=10.0),
        ExpectedFigure(watch.id, "red_tide_warning", "hour_index", 8.0, level=0),
        ExpectedFigure(watch.id, "red_tide_warning", "hour_index", 14.0, level=1),
        ExpectedFigure(watch.id, "red_tide_warning", "day_index", 0.0, level=1),
    )
    return Story(24.5, (watch.id, near.id, far.id), effects, expected, figures)


def storm_surge(catalogue: Catalogue) -> Story:
    """A storm: waves and wind at two buoys, one storm; the wind piles the water up at a tide gauge."""
    buoys = [one.id for one in able(catalogue, ["buoy"], "significant_wave_height", "wind_speed", count=2)]
    gauge = able(catalogue, ["tide_gauge"], "water_level")[0].id
    effects = [Effect(gauge, "water_level", 1.1, 3.0, rise_h=6.0, hold_h=3.0, fall_h=6.0, added=True)]
    expected: list[Expected] = []
    figures = [
        ExpectedFigure(gauge, "surge_residual", "hour_index", 1.0, low=-0.4, high=0.4),
        ExpectedFigure(gauge, "surge_residual", "hour_index", 10.0, low=0.7, high=1.5),
    ]
    for number, buoy in enumerate(buoys):
        begins = 3.0 + number
        effects += [
            Effect(buoy, "significant_wave_height", 4.0, begins, rise_h=5.0, hold_h=3.0, fall_h=6.0),
            Effect(buoy, "max_wave_height", 6.6, begins, rise_h=5.0, hold_h=3.0, fall_h=6.0),
            Effect(buoy, "wind_speed", 19.0, begins, rise_h=5.0, hold_h=3.0, fall_h=6.0),
        ]
        expected.append(Expected("ocean-wave", buoy, _YELLOW, begins, begins + 6.0))
        figures.append(ExpectedFigure(buoy, "wave_warning", "hour_index", 1.0, level=0))
        figures.append(ExpectedFigure(buoy, "wave_warning", "hour_index", 9.0, level=2))
    expected.append(Expected("storm-waves", buoys[0], _YELLOW, 4.0, 10.0, tuple(buoys)))
    return Story(20.0, (*buoys, gauge), tuple(effects), tuple(expected), tuple(figures))
