"""Messages of a station of another partition are driven again, on InfluxDB; see tests/test_redrive_elsewhere.py."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import pytest

from qingtu.clock import DAY, SECOND
from qingtu.contracts import ReadingQuery
from qingtu.records import RAW
from qingtu.store.influx import InfluxStore
from tests.process.support import T0, frame_of, reading, tick
from tests.services.influx_support import make_buckets, settings_of
from tests.test_redrive_elsewhere import AFTER, HEARD, HOME, HOUR_S, City, begin

if TYPE_CHECKING:
    from pathlib import Path

    from deploy.native.influx import InfluxServer
    from qingtu.store.contract import PrimaryStore

pytestmark = pytest.mark.services


class InfluxCity(City):
    """A city whose store is a server.

    Args:
        folder: for its bus.
        server: running.
        prefix: of its buckets.
        keep_s: their retention.
    """

    def __init__(self, folder: Path, server: InfluxServer, prefix: str, keep_s: int = 0) -> None:
        self._server = server
        self._settings = settings_of(server, prefix)
        make_buckets(server, self._settings, keep_s)
        super().__init__(folder)

    def _open_store(self) -> PrimaryStore:
        return InfluxStore(self._settings, self._server.token, self.bus)


@pytest.mark.parametrize("seed", range(3))
def test_killed_anywhere(influx: InfluxServer, tmp_path: Path, seed: int) -> None:
    """Each message moves once, figures have all readings, books and audit agree, whatever was killed when."""
    city = InfluxCity(tmp_path, influx, f"redrive{seed}")
    begin(city)
    city.run()
    city.feed(reading("x", 6900, 2 * HOUR_S + 60, pm25=40))
    city.feed(tick(2 * HOUR_S + 200))
    city.run()
    city.redrive(2 * HOUR_S + 300, times=1 + seed % 2)
    city.feed(tick(2 * HOUR_S + 400))
    rng = Random(seed)
    for _ in range(40):
        city.step([rng.choice([*city.process, *city.stores, *city.derive])])
        if rng.random() < 0.3:
            rng.choice([*city.process, *city.derive]).save()
        if rng.random() < 0.25:
            city.kill()
        assert city.ledger.summary()["balanced"]
    city.run()
    city.feed(tick(2 * HOUR_S + 500))
    city.run()
    city.kill()
    assert city.hours() == [(0, 10.0, 6), (1, pytest.approx(100 / 7), 7)]
    assert city.store.in_quarantine() == []
    books = city.audited()
    assert (books["received"], books["stored"], books["r_stored"]) == (13, 13, 13)
    city.close()


def test_what_the_server_refuses_is_in_quarantine_where_it_was_driven(influx: InfluxServer, tmp_path: Path) -> None:
    """The partition that it came from has been told that it passed: it is a message of the other one now."""
    city = InfluxCity(tmp_path, influx, "redriverefused", keep_s=3650 * 86400)
    begin(city)
    old_s = -11 * 365 * DAY // SECOND
    city.bus.append(RAW, HEARD, [frame_of([reading("x", old_s, old_s, pm25=7)])]).result()
    city.run()
    city.use(AFTER, 2 * HOUR_S + 2)
    city.run()
    assert sorted(partition for partition, _ in city.store.in_quarantine()) == [HOME, *[HEARD] * 12]
    (row,) = [row for row in city.store.quarantine() if row["partition"] == HOME]
    assert (row["reason"], row["redrive_of"], row["device"]) == ("store_refused", None, "x")
    books = city.audited()
    assert (books["stored"], books["quarantined"], books["r_quarantined"]) == (0, 13, 13)
    city.redrive(2 * HOUR_S + 300)
    city.run()
    books = city.audited()
    assert (books["stored"], books["quarantined"], books["r_quarantined"]) == (12, 1, 1)
    assert len(city.store.readings(ReadingQuery([("B2", "pm25", "main")], T0 - 20 * 365 * DAY, T0 + DAY))) == 12
    city.close()
