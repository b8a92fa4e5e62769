"""What the service says of itself to the ordered pass: facts that a rule of kind ``system`` watches, through raw.

A fact is told when it has crossed a bound of a rule since it was told last, and once after a start or with another
catalogue; never because time went by. Told twice it changes nothing, so one whose fate is not known is told again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from processors.alerts.system import SYSTEM
from qingtu.catalogue_rules import SystemRule
from qingtu.clock import SECOND
from qingtu.records import PROCESSED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qingtu.app import Service
    from qingtu.catalogue import Catalogue

_STORE: Final = "store"
_MOST: Final = 1e6
"""JSON has no infinity: told of a budget that was empty from the start."""
_ASKED_S: Final = 30.0
"""A store that is further behind is not asked for its ledger: it may not answer, and this must be told."""


class Bounds:
    """Where facts cross from one side to the other, by the rules of a catalogue."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._by: dict[str, set[float]] = {}
        for rule in catalogue.rules:
            if isinstance(rule, SystemRule):
                for level in rule.levels.values():
                    self._by.setdefault(rule.fact, set()).update((level, level - rule.hysteresis))

    def watch(self, fact: str) -> bool:
        """Say whether any rule looks at a fact."""
        return fact in self._by

    def band(self, fact: str, value: float) -> int:
        """Return between which bounds a value lies: two values of one band mean the same to every rule."""
        return sum(value >= bound for bound in self._by.get(fact, ()))


class Facts:
    """Tells what this process knows. ``step`` is called every few seconds by one thread.

    Args:
        service: what is looked at, and whose orders are written.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._bounds: tuple[str, Bounds] | None = None
        self._told: dict[tuple[str, str], int] = {}

    def step(self) -> None:
        """Look at all facts, and tell those that crossed a bound.

        Raises:
            RetryLater, Undecided: raw does not take it now; it is told next time.
        """
        catalogue = self._service.catalogue
        if self._bounds is None or self._bounds[0] != catalogue.version:
            self._bounds, self._told = (catalogue.version, Bounds(catalogue)), {}
        bounds = self._bounds[1]
        found: dict[str, dict[str, float]] = {}
        bands: dict[tuple[str, str], int] = {}
        for source, fact, value in self._all(bounds):
            band = bounds.band(fact, value)
            if self._told.get((source, fact)) != band:
                found.setdefault(source, {})[fact] = value
                bands[source, fact] = band
        for source, facts in found.items():
            self._service.tell(SYSTEM, {"source": source, "facts": facts})
            self._told |= {key: band for key, band in bands.items() if key[0] == source}

    def _all(self, bounds: Bounds) -> Iterator[tuple[str, str, float]]:
        """Yield source, fact and value of what is known here and a rule looks at."""
        service = self._service
        if "gateway" in service.options.stages and bounds.watch("outage_used"):
            yield service.settings.mqtt.client_id, "outage_used", min(_MOST, 100 * service.outage.used())
        if not service.stores:
            return
        behind = store_behind_s(service)
        if bounds.watch("store_behind"):
            yield _STORE, "store_behind", behind
        if bounds.watch("ledger_off") and behind < _ASKED_S:
            yield _STORE, "ledger_off", float(service.ledger.off())


def store_behind_s(service: Service) -> float:
    """Return the age of the oldest readings that the store has in hand and could not apply yet."""
    waiting = [at for stage in service.stores if stage.stream == PROCESSED and (at := stage.oldest_us()) is not None]
    return max(0.0, (service.clock.now_us() - min(waiting)) / SECOND) if waiting else 0.0
