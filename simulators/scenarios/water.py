"""Stories of rivers and sea: a discharge that moves downstream, oxygen, algae, a storm."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulators.scenarios.scenario import Effect, Expected, Story, able, beside

if TYPE_CHECKING:
    from qingtu.catalogue import Catalogue

_BLUE, _YELLOW, _ORANGE = 1, 2, 3
_TRAVEL_H = 2.0
"""From the outlet to the section below it."""


def sewage_discharge(catalogue: Catalogue) -> Story:
    """An outlet sends too much; two hours later the section below it has it, thinned: one discharge."""
    outlet = able(catalogue, ["source"], "sewage_cod", "sewage_nh3n")[0]
    below, *others = beside(catalogue, outlet, ["river"], "nh3n", "dissolved_oxygen", "total_phosphorus")
    at = 3.0
    later = at + _TRAVEL_H
    effects = (
        Effect(outlet.id, "sewage_cod", 82.0, at, rise_h=0.5, hold_h=3.0),
        Effect(outlet.id, "sewage_nh3n", 11.0, at, rise_h=0.5, hold_h=3.0),
        Effect(below.id, "nh3n", 2.6, later, rise_h=1.5, hold_h=3.0, fall_h=2.0),
        Effect(below.id, "dissolved_oxygen", 2.6, later, rise_h=2.0, hold_h=3.0, fall_h=2.0),
    )
    expected = (
        Expected("source-cod", outlet.id, _ORANGE, at, at + 1.5),
        Expected("source-nh3n", outlet.id, _ORANGE, at, at + 1.5),
        Expected("river-nh3n", below.id, _ORANGE, later, later + 3.0),
        Expected("river-do", below.id, _YELLOW, later, later + 3.0),
        Expected("discharge-downstream", outlet.id, _ORANGE, later, later + 3.0, (outlet.id, below.id)),
    )
    return Story(14.0, (outlet.id, below.id, others[0].id), effects, expected)


def low_oxygen(catalogue: Catalogue) -> Story:
    """Oxygen runs out over a marine ranch before dawn; the ranch beside it keeps its own."""
    ranch, other = able(catalogue, ["ranch"], "sea_dissolved_oxygen", count=2)
    effect = Effect(ranch.id, "sea_dissolved_oxygen", 2.6, 2.0, rise_h=6.0, hold_h=2.0, fall_h=6.0)
    expected = Expected("ocean-do", ranch.id, _ORANGE, 3.0, 10.0)
    return Story(18.0, (ranch.id, other.id), (effect,), (expected,))


def storm_surge(catalogue: Catalogue) -> Story:
    """A storm: waves at two buoys, one of them offshore, wind and pressure with them: one storm."""
    buoys = able(catalogue, ["buoy"], "significant_wave_height", "wind_speed", "air_pressure", count=2)
    effects: list[Effect] = []
    expected: list[Expected] = []
    for number, buoy in enumerate(buoys):
        begins = 3.0 + number
        effects += [
            Effect(buoy.id, "significant_wave_height", 4.0, begins, rise_h=5.0, hold_h=3.0, fall_h=6.0),
            Effect(buoy.id, "max_wave_height", 6.6, begins, rise_h=5.0, hold_h=3.0, fall_h=6.0),
            Effect(buoy.id, "wind_speed", 19.0, begins, rise_h=5.0, hold_h=3.0, fall_h=6.0),
        ]
        expected.append(Expected("ocean-wave", buoy.id, _YELLOW, begins, begins + 6.0))
    expected.append(Expected("storm-waves", buoys[0].id, _YELLOW, 4.0, 10.0, tuple(buoy.id for buoy in buoys)))
    return Story(20.0, tuple(buoy.id for buoy in buoys), tuple(effects), tuple(expected))
