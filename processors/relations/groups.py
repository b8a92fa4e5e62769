"""Finds series that belong together: those of one station and channel that have the properties of a check."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from qingtu.catalogue import Catalogue


def by_channel(catalogue: Catalogue, properties: Sequence[str]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield (station, series numbers in the order of the properties) wherever all of them have one channel."""
    found: dict[tuple[str, str], dict[str, int]] = {}
    for number, s in enumerate(catalogue.series):
        if s.property in properties:
            found.setdefault((s.station, s.channel), {})[s.property] = number
    for (station, _), numbers in found.items():
        if len(numbers) == len(set(properties)):
            yield station, tuple(numbers[prop] for prop in properties)
