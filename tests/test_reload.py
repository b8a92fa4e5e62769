"""A new catalogue where the gateways are other processes: they say which one holds, everybody else follows."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from qingtu.app import STAGES, Options, Service
from qingtu.catalogue import Catalogue, load_catalogue
from qingtu.clock import SystemClock
from qingtu.errors import NotFound, QingtuError, RetryLater
from qingtu.folder import DataFolder
from qingtu.orders import Orders
from qingtu.settings import load_settings
from tests.test_service import MENDED, STATIONS, body, send
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator


def _write(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "all.yaml").write_text(text, encoding="utf-8")
    return folder


def _open(tmp_path: Path) -> Service:
    environ = {
        "QINGTU_DATA": str(tmp_path / "data"), "QINGTU_CATALOGUE": str(tmp_path / "stations"),
        "QINGTU_STORE__COMMIT_MS": "5", "QINGTU_BUS__FREE_FLOOR_MB": "1",
    }  # fmt: skip
    settings = load_settings(Path(os.devnull), environ=environ)
    service = Service(settings, Options(stages=frozenset(STAGES) - {"gateway"}))
    service.start()
    return service


@pytest.fixture
def city(tmp_path: Path) -> Iterator[Service]:
    """All stages but the gateway, which a test stands in for; the catalogue in force is the first one."""
    _write(tmp_path / "stations", STATIONS)
    service = _open(tmp_path)
    service.configure()
    yield service
    service.stop()
    service.close()


def _told(service: Service, catalogue: Catalogue) -> None:
    """Do what a gateway elsewhere does that took up another catalogue."""
    settings = service.settings
    routes = {route.name: route.decoder for route in settings.routes}
    args = {"catalogue": catalogue.version, "routes": routes, **settings.process.model_dump()}
    Orders(service.bus, SystemClock(), catalogue.version).configure(args)


def test_what_the_gateways_use_is_taken_up(city: Service, tmp_path: Path) -> None:
    """The pass takes it from the catalogue folder, and so does the map; it is archived, so that explain finds it."""
    folder = _write(tmp_path / "stations", STATIONS + MENDED)
    new = load_catalogue(folder)
    _told(city, new)
    send(city, "x", body(city, 1, pm25=20, o3=3))
    until(lambda: city.store.latest().num_rows == 2, "readings of the new station", 20)
    until(lambda: city.catalogue.version == new.version, "the new catalogue on the map", 20)
    assert "X" in city.catalogue.stations
    assert city.folder.catalogue(new.version).version == new.version
    assert city.problems() == []


def test_what_is_not_here_yet_is_waited_for(city: Service, tmp_path: Path) -> None:
    """The status says what is missing, nothing is quarantined for it, and all goes on when the files come."""
    new = load_catalogue(_write(tmp_path / "elsewhere", STATIONS + MENDED))
    _told(city, new)
    send(city, "x", body(city, 1, pm25=20))
    until(lambda: any(new.version in problem["en"] for problem in city.problems()), "the missing catalogue", 20)
    assert city.store.latest().num_rows == 0
    _write(tmp_path / "stations", STATIONS + MENDED)
    until(lambda: city.store.latest().num_rows == 1, "the reading of the new station", 30)
    assert city.drain(20)
    assert city.ledger.report()["messages"]["quarantined"] == 0
    until(lambda: not city.problems(), "no problem any more", 20)


def test_a_start_waits_for_what_saved_state_names(tmp_path: Path) -> None:
    """A stage that cannot be taken up yet is a problem of the status, and no reason to end."""
    folder = _write(tmp_path / "stations", STATIONS)
    service = _open(tmp_path)
    service.configure()
    send(service, "a", body(service, 1, pm25=20))
    assert service.drain(20)
    service.stop()
    service.close()
    old = service.catalogue.version
    (tmp_path / "data" / "catalogues" / f"{old}.json").unlink()
    _write(folder, STATIONS + MENDED)
    service = _open(tmp_path)
    try:
        send(service, "a", body(service, 2, pm25=30))
        until(lambda: any(old in problem["en"] for problem in service.problems()), "the missing catalogue", 20)
        _write(folder, STATIONS)
        until(lambda: service.ledger.report()["messages"]["stored"] == 2, "both messages stored", 30)
        until(lambda: not service.problems(), "no problem any more", 20)
    finally:
        service.stop()
        service.close()


def test_only_a_gateway_decides(city: Service) -> None:
    """Elsewhere reload is refused, and says where to do it."""
    with pytest.raises(QingtuError, match="--data of each gateway"):
        city.reload()


def test_a_broken_catalogue_folder_is_no_catalogue(tmp_path: Path) -> None:
    """What cannot be read is waited for like what is not there; the archive alone still raises NotFound."""
    folder = DataFolder(tmp_path / "data")
    try:
        broken = _write(tmp_path / "stations", "stations: 7")
        with pytest.raises(RetryLater, match="0123"):
            folder.catalogue_in_force("0123", broken)
        with pytest.raises(NotFound, match="0123"):
            folder.catalogue("0123")
    finally:
        folder.close()
