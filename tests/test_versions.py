"""Everything kept on disk carries a version: what a newer program wrote is refused in words, and left as it is."""

from __future__ import annotations

import hashlib
import os
import re
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import numpy as np
import pytest

from qingtu import records, state
from qingtu.app import Options, Service
from qingtu.bus import sqlite as bus
from qingtu.errors import ConfigError, VersionError
from qingtu.settings import load_settings
from qingtu.store import schema

if TYPE_CHECKING:
    from collections.abc import Callable

STATIONS = """
networks: [{id: n, zh: 网, en: Net, interval_s: 60}]
stations:
  - {id: A, zh: 站, en: A, network: n, domain: air, kind: air, position: [120.3, 36.1],
     devices: [{id: a, properties: [pm25]}]}
"""


def open_service(folder: Path) -> Service:
    """Open the data folder; not started."""
    environ = {"QINGTU_DATA": str(folder / "data"), "QINGTU_CATALOGUE": str(folder / "stations")}
    return Service(load_settings(Path(os.devnull), environ=environ), Options(gateway=False))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder as a clean stop leaves it."""
    (tmp_path / "stations").mkdir()
    (tmp_path / "stations" / "all.yaml").write_text(STATIONS, encoding="utf-8")
    service = open_service(tmp_path)
    service.start()
    service.stop()
    service.close()
    return tmp_path


def _newer_bus(name: str) -> Callable[[Path], None]:
    def change(data: Path) -> None:
        db = sqlite3.connect(data / "bus" / name)
        db.execute(f"PRAGMA user_version={bus.SCHEMA_VERSION + 1}")
        db.commit()
        db.close()

    return change


def _newer_store(data: Path) -> None:
    db = duckdb.connect(str(data / "qingtu.duckdb"))
    db.execute("UPDATE meta SET value = ? WHERE key = 'version'", [str(schema.SCHEMA_VERSION + 1)])
    db.close()


def _of_a_newer_program(saved: bytes) -> bytes:
    """Return a saved state, plain or packed, with a version that this program does not know."""
    return re.sub(rb'"v":\d+', b'"v":%d' % (state.STATE_VERSION + 1), saved, count=1)


def _newer_state(data: Path) -> None:
    db = sqlite3.connect(data / "bus" / "derived.db")
    found = db.execute("SELECT rowid, data FROM parts WHERE grp = 'process' AND name = 'main'").fetchone()
    changed = _of_a_newer_program(found[1])
    assert changed != found[1]
    db.execute("UPDATE parts SET data = ? WHERE rowid = ?", [changed, found[0]])
    db.commit()
    db.close()


@pytest.mark.parametrize(
    "change",
    [_newer_bus("raw.db"), _newer_bus("derived.db"), _newer_store, _newer_state],
    ids=["raw", "derived", "store", "state"],
)
def test_a_folder_of_a_newer_program_is_refused(folder: Path, change: Callable[[Path], None]) -> None:
    """The message names both versions; nothing is changed, and the folder is free for the newer program."""
    change(folder / "data")
    content = {path: _content(path) for path in (folder / "data").rglob("*.d*b") if path.is_file()}
    for _ in range(2):
        with pytest.raises(VersionError, match="newer program"):
            open_service(folder)
    assert {path: _content(path) for path in content} == content


def _content(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_folder_of_this_program_opens(folder: Path) -> None:
    """The other way round: nothing above is refused for another reason."""
    service = open_service(folder)
    assert service.audit()["agrees"]
    service.close()


def test_a_newer_frame_is_refused() -> None:
    """By its header, before anything else is looked at."""
    data = records.encode({"stream": "raw", "clock": 0}, {})
    newer = data.replace(b'"v":%d' % records.FRAME_VERSION, b'"v":%d' % (records.FRAME_VERSION + 1))
    assert records.decode(data).clock_us == 0
    with pytest.raises(VersionError, match="newer program"):
        records.decode(newer)


def test_a_newer_state_is_refused() -> None:
    """A stage must not go on with half of what it knew."""
    for n in (1, 100_000):
        with pytest.raises(VersionError, match="newer program"):
            state.unpack(_of_a_newer_program(state.pack({"a": np.zeros(n)})))


def test_an_archived_catalogue_of_another_format_is_refused(folder: Path) -> None:
    """It is read when raw names it; the message says what it is."""
    service = open_service(folder)
    version = service.catalogue.version
    path = folder / "data" / "catalogues" / f"{version}.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"format":1', '"format":2'), encoding="utf-8")
    service.folder._catalogues.clear()
    with pytest.raises(ConfigError, match="another format"):
        service.folder.catalogue(version)
    service.close()
