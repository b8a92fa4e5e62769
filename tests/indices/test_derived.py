"""Indices as derive makes them: a changed hour changes the indices of the hours behind it that were made already."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from processors.indices.derived import indices
from qingtu.clock import HOUR
from tests.indices.support import DAY, Figures, catalogue

if TYPE_CHECKING:
    from qingtu.catalogue import Catalogue


def made(cat: Catalogue, figures: Figures, hours: range) -> dict[tuple[str, int], dict[str, Any]]:
    """Let the indices of some hours be made one after the other; return the newest of each."""
    out: dict[tuple[str, int], dict[str, Any]] = {}
    for hour in hours:
        at = DAY + hour * HOUR
        reached = [at, *(start for _, start in indices.again(cat, "A", "hour", at, figures.get()))]
        for row in (row for start in reached for row in indices(cat, "A", "hour", start, figures.get())):
            out[row["key"][1], (row["start"] - DAY) // HOUR] = row
    return out


def test_hours_behind_it_are_made_again_in_the_end_as_if_it_had_come_in_time() -> None:
    """The value of a late hour ends in the same indices as when it had been there from the start."""
    cat = catalogue()
    usual = [40.0, 50.0, 60.0, 55.0, 45.0, 300.0, 40.0]
    late, whole = Figures(), Figures()
    for figures in (late, whole):
        figures.hours("pm25", DAY, usual)
    late.put("pm25", "hour", DAY + 2 * HOUR, 10.0)
    first = made(cat, late, range(7))
    late.put("pm25", "hour", DAY + 2 * HOUR, 60.0)
    again = made(cat, late, range(2, 3))
    wanted = made(cat, whole, range(7))
    assert {hour for key, hour in again if key == "aqi_us"} == {2, 3, 4, 5, 6}
    assert repr({**first, **again}) == repr(wanted)  # as text: NaN is equal to itself
    assert any(first[at]["value"] != wanted[at]["value"] for at in wanted)


def test_hours_that_have_no_index_yet_are_left_alone() -> None:
    """They see the change when they are made; hours of which there is a figure, even a bad one, are made again."""
    cat, figures = catalogue(), Figures()
    figures.hours("pm25", DAY, [40.0, 40.0, None])
    found = indices.again(cat, "A", "hour", DAY, figures.get())
    assert found == [("hour", DAY + HOUR), ("hour", DAY + 2 * HOUR)]
    assert indices.again(cat, "A", "day", DAY, figures.get()) == []
