"""Stories of rivers: a discharge that moves downstream."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulators.scenarios.scenario import Effect, Expected, ExpectedFigure, Story, able, beside

if TYPE_CHECKING:
    from qingtu.catalogue import Catalogue

_YELLOW, _ORANGE = 2, 3
_TRAVEL_H = 2.0
"""From the outlet to the section below it."""


def sewage_discharge(catalogue: Catalogue) -> Story:
    """An outlet sends too much; two hours later the section below it has it, thinned: one discharge."""
    outlet = able(catalogue, ["source"], "sewage_cod", "sewage_nh3n")[0]
    below, *others = beside(catalogue, outlet, ["river"], "nh3n", "dissolved_oxygen", "total_phosphorus")
    at = 3.0
    later = at + _TRAVEL_H
    effects = (
        Effect(outlet.id, "sewage_cod", 95.0, at, rise_h=0.5, hold_h=3.0),
        Effect(outlet.id, "sewage_nh3n", 11.0, at, rise_h=0.5, hold_h=3.0),
        Effect(below.id, "nh3n", 2.6, later, rise_h=1.5, hold_h=3.0, fall_h=2.0),
        Effect(below.id, "dissolved_oxygen", 2.6, later, rise_h=2.0, hold_h=3.0, fall_h=2.0),
    )
    expected = (
        Expected("source-cod", outlet.id, _ORANGE, at, at + 1.5),
        Expected("source-nh3n", outlet.id, _ORANGE, at, at + 1.5),
        Expected("source-sewage-cod-rise", outlet.id, _YELLOW, at, at + 1.5),
        Expected("river-nh3n", below.id, _ORANGE, later, later + 3.0),
        Expected("river-do", below.id, _YELLOW, later, later + 3.0),
        Expected("water-dissolved-oxygen-fall", below.id, _YELLOW, later, later + 3.0),
        Expected("river-pollution", below.id, _ORANGE, later, later + 3.0),
        Expected("discharge-downstream", outlet.id, _ORANGE, later, later + 3.0, (outlet.id, below.id)),
    )
    quality = "surface_water_class"
    figures = (
        ExpectedFigure(below.id, quality, "hour_index", 2.0, high=3.0),
        ExpectedFigure(below.id, quality, "hour_index", 7.0, level=6),
        ExpectedFigure(below.id, quality, "hour_index", 12.0, high=3.0),
        ExpectedFigure(others[0].id, quality, "hour_index", 7.0, high=3.0),
    )
    return Story(14.0, (outlet.id, below.id, others[0].id), effects, expected, figures)
