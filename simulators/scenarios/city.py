"""Stories of the city: noise at night, radiation with and without rain, a fire, a gateway that fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

from processors.indices.tables import table
from simulators.scenarios.scenario import Effect, Expected, ExpectedFigure, Story, able, beside

if TYPE_CHECKING:
    from qingtu.catalogue import Catalogue

_BLUE, _YELLOW, _ORANGE, _RED = 1, 2, 3, 4
_AT_HOME_DB = 74
"""What homes beside a building site hear. An alert is blue at the limit of their zone by day, and goes up each 5 dB."""


def night_noise(catalogue: Catalogue) -> Story:
    """A building site works before midnight; the homes beside it hear it, those further away do not."""
    site = able(catalogue, ["construction"], "noise_leq")[0]
    near, far, *_ = beside(catalogue, site, ["noise"], "noise_leq", "noise_lmax")
    effects = (
        Effect(site.id, "noise_leq", 78.0, 22.0, rise_h=0.5, hold_h=1.0, fall_h=0.25),
        Effect(near.id, "noise_leq", _AT_HOME_DB, 22.0, rise_h=0.5, hold_h=1.0, fall_h=0.25),
        Effect(near.id, "noise_lmax", 82.0, 22.0, rise_h=0.5, hold_h=1.0, fall_h=0.25),
    )
    above = (_AT_HOME_DB - table("gb3096")["zones"][near.noise_class]["day"]) // 5
    expected = (
        Expected("site-noise", site.id, _ORANGE, 22.0, 23.2),
        Expected(f"noise-{(near.noise_class or '')[:1]}", near.id, min(_BLUE + int(above), _RED), 22.0, 23.2),
    )
    figures = (
        ExpectedFigure(near.id, "noise_excess", "day_index", 0.0, low=10.0, high=25.0, level=2),
        ExpectedFigure(far.id, "noise_excess", "day_index", 0.0, high=0.0, level=1),
    )
    return Story(24.5, (site.id, near.id, far.id), effects, expected, figures)


def radiation_rain(catalogue: Catalogue) -> Story:
    """Rain washes radon's daughters down: the dose rate rises by half, as it always does, and nobody is called."""
    station, other = able(catalogue, ["radiation"], "gamma_dose_rate", "rainfall", count=2)
    effects = (
        Effect(station.id, "rainfall", 6.0, 4.0, rise_h=0.5, hold_h=2.0, fall_h=0.5),
        Effect(station.id, "gamma_dose_rate", 35.0, 4.2, rise_h=1.0, hold_h=1.5, fall_h=2.0, added=True),
    )
    # The background in the catalogue is that of one seed: what is judged here leaves room for another.
    figures = (ExpectedFigure(station.id, "gamma_excess", "hour_index", 5.0, low=10.0, high=60.0, level=2),)
    return Story(12.0, (station.id, other.id), effects, figures=figures)


def radiation_dry(catalogue: Catalogue) -> Story:
    """The dose rate rises in dry weather: this must be told."""
    station, other = able(catalogue, ["radiation"], "gamma_dose_rate", "rainfall", count=2)
    effects = (
        Effect(station.id, "rainfall", 0.0, 0.0, rise_h=0.0, hold_h=12.0, fall_h=0.0),
        Effect(station.id, "gamma_dose_rate", 190.0, 4.0, rise_h=1.0, hold_h=2.0, fall_h=1.0, added=True),
    )
    expected = (
        Expected("radiation-gamma", station.id, _YELLOW, 4.0, 6.0),
        Expected("radiation-gamma-dose-rate-rise", station.id, _YELLOW, 4.0, 5.5),
        Expected("radiation-dry", station.id, _ORANGE, 4.0, 5.5),
    )
    figures = (ExpectedFigure(station.id, "gamma_excess", "hour_index", 5.0, low=101.0),)
    return Story(12.0, (station.id, other.id), effects, expected, figures)


def community_fire(catalogue: Catalogue) -> Story:
    """A cable glows, then there is smoke; the current that leaks had told of it before."""
    place = able(catalogue, ["community"], "smoke_density", "cable_temperature", "residual_current")[0]
    effects = (
        Effect(place.id, "residual_current", 620.0, 2.0, rise_h=0.4, hold_h=2.0, fall_h=0.2),
        Effect(place.id, "cable_temperature", 96.0, 2.3, rise_h=0.7, hold_h=1.5, fall_h=1.0),
        Effect(place.id, "smoke_density", 0.6, 3.0, rise_h=0.3, hold_h=0.8, fall_h=0.5),
    )
    expected = (
        Expected("community-residual", place.id, _ORANGE, 2.0, 3.0),
        # 70 K in 0.7 h, more than twice the 40 K/h of the rule's highest level.
        Expected("community-cable-temperature-rise", place.id, _ORANGE, 2.3, 3.3),
        Expected("community-cable", place.id, _RED, 2.3, 3.3),
        Expected("community-fire", place.id, _RED, 3.0, 3.6),
        Expected("community-smoke", place.id, _RED, 3.0, 3.6),
    )
    return Story(8.0, (place.id,), effects, expected)


def gateway_failure(catalogue: Catalogue) -> Story:
    """All stations of one network fall silent at once and come back after an hour; a station of another goes on."""
    network = able(catalogue, ["noise"], "noise_leq", count=4)[0].network
    quiet = sorted(station.id for station in catalogue.stations.values() if station.network == network)
    other = able(catalogue, ["air"], "pm25")[0]
    silent = tuple((station, 3.0, 4.0) for station in quiet)
    expected = (Expected("network-dead", "", _ORANGE, 3.0, 3.25),)
    figures = (
        ExpectedFigure(quiet[0], "noise_leq", "hour", 2.0),
        ExpectedFigure(quiet[0], "noise_leq", "hour", 3.0, holds=False),
        ExpectedFigure(quiet[0], "noise_leq", "hour", 4.0),
        ExpectedFigure(other.id, "pm25", "hour", 3.0),
    )
    return Story(6.0, (*quiet, other.id), (), expected, figures, silent=silent)
