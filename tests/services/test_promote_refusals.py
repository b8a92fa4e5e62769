"""Promote into InfluxDB that replaces a refusal whose point a delete cannot name alone."""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING, Any

import pytest

from qingtu import replay
from qingtu.records import RAW
from tests.process.support import frame_of, reading
from tests.services.replay_support import MORE, Town, influx_environ
from tests.services.test_influx_promote import agreed, everything, killed, starts

if TYPE_CHECKING:
    from pathlib import Path

    from deploy.native.influx import InfluxServer

pytestmark = pytest.mark.services
_NAMES = itertools.count()
REFUSALS = 2002
LARGE = b" \t\n" * 300_000
"""Of JSON, more than one field of InfluxDB holds."""


@pytest.fixture
def towns(influx: InfluxServer, tmp_path: Path) -> list[Town]:
    """Two with the same history on SQLite: thousands of refusals of one microsecond, in InfluxDB and in DuckDB.

    Of devices that nobody knows: the first and the 1,002nd are x, which will be known, all others z.
    """
    more = influx_environ(influx, tmp_path / "token", f"refusals{os.getpid()}x{next(_NAMES)}")
    towns = [Town(tmp_path / "influx", None, more), Town(tmp_path / "duckdb", None)]
    rows = [reading("x" if i in {0, 1001} else "z", 600, weird=i) for i in range(REFUSALS)]
    # Of those in the place of the first, one is too large for a field, and what is empty is not what is absent.
    odd = {"topic": 'a\\ "b"\n, c = 青', "packet_id": 7}
    rows[1000] |= {**odd, "payload": rows[1000]["payload"] + LARGE, "properties": b'{"a":"\xe4\xb8\xad"}'}
    rows[2000] |= {**odd, "properties": b"", "digest": b"\x00\xff", "gateway": ""}
    for town in towns:
        town.live([])
        with town.open() as it:
            it.bus.append(RAW, 0, [frame_of(rows)]).result()
            town.finish(it)
    return towns


def refusals(town: Town) -> list[tuple[Any, ...]]:
    """All that the store says of each refusal, bytes too."""
    with town.open() as it:
        return sorted(tuple(map(repr, row.values())) for row in it.store.quarantine(limit=2 * REFUSALS))


def test_only_its_own_point_is_replaced(towns: list[Town]) -> None:
    """Those of the same microsecond, stage and reason stay as they are: point, bytes and all."""
    assert refusals(towns[0]) == refusals(towns[1])
    assert len(refusals(towns[0])) == REFUSALS
    for town in towns:
        town.write(more=MORE)
        made = town.replay()
        assert town.promote(made)["messages"] == {"left": 0, "entered": 0, "stay": 2}
        assert len(refusals(town)) == REFUSALS
        agreed(town)
        assert not town.promote(made)["swapped"]
    assert refusals(towns[0]) == refusals(towns[1])
    assert everything(towns[0]) == everything(towns[1])


def test_killed_at_any_step_none_is_lost(towns: list[Town]) -> None:
    """Kill -9 before and behind each request: what was deleted in vain is there again when the promote is done."""
    for town in towns:
        town.write(more=MORE)
        town.replay()
    towns[1].promote(replay.find(towns[1].settings, "g"))
    begun = next(at for at in range(1, 80) if killed(towns[0], at) and not starts(towns[0]))
    assert begun > 4, "what it keeps is kept before"
    # From here on each one goes on, and gets a step further: a delete is between two others.
    last = next(at for at in range(1, 80) if not killed(towns[0], at))
    assert last > 8, "it says that it begins, deletes twice, writes, tells, is done: each is two steps"
    agreed(towns[0])
    assert refusals(towns[0]) == refusals(towns[1])
    assert everything(towns[0]) == everything(towns[1])
