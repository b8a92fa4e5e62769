"""Buckets and tokens: made once, scoped, kept in files that only the owner reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from qingtu.bus.sqlite import SqliteBus
from qingtu.errors import RetryLater, StartError
from qingtu.records import PROCESSED
from qingtu.settings import Settings
from qingtu.store.influx import InfluxStore, setup
from qingtu.store.influx.client import InfluxClient
from tests.process.support import catalogue
from tests.store.build import T0, Message, Reading, processed
from tests.suites.store import stored

if TYPE_CHECKING:
    from pathlib import Path

    from deploy.native.influx import InfluxServer

pytestmark = pytest.mark.services


def settings_of(server: InfluxServer, folder: Path, name: str, **store: object) -> Settings:
    """Return settings with names of their own."""
    influx = {
        "url": server.url, "org": server.org, "bucket": name, "hourly": f"{name}_h", "daily": f"{name}_d",
        "token_file": folder / "tokens" / "store",
    }  # fmt: skip
    grafana = {"influx_token_file": folder / "tokens" / "reader"}
    return Settings.model_validate({"influx": influx, "grafana": grafana, "store": store})


def test_setup_makes_what_is_missing_and_nothing_twice(influx: InfluxServer, tmp_path: Path) -> None:
    """The second run changes nothing; another keep_days changes one bucket."""
    settings = settings_of(influx, tmp_path, "setup1", keep_days=500)
    done = setup(settings, influx.token)
    assert [one.split(" ")[3] for one in done[:3]] == ["setup1:", "setup1_h:", "setup1_d:"]
    assert len(done) == 5
    for name in ("store", "reader"):
        assert (tmp_path / "tokens" / name).stat().st_mode & 0o777 == 0o600
    assert setup(settings, influx.token) == []
    client = InfluxClient(settings.influx, influx.token)
    names = ("setup1", "setup1_h", "setup1_d")
    found = [client.call("GET", f"/api/v2/buckets?name={name}")["buckets"][0] for name in names]
    kept = [bucket["retentionRules"][0]["everySeconds"] for bucket in found]
    assert kept == [502 * 86400, 3660 * 86400, 0]
    longer = settings_of(influx, tmp_path, "setup1", keep_days=600)
    assert [one.split(" ")[3] for one in setup(longer, influx.token)] == ["setup1:"]
    client.close()


def test_the_tokens_may_do_what_they_must_and_no_more(influx: InfluxServer, tmp_path: Path) -> None:
    """The store's token writes and reads its buckets; the reader's only reads; neither sees another bucket."""
    settings = settings_of(influx, tmp_path, "setup2")
    setup(settings, influx.token)
    other = settings_of(influx, tmp_path / "other", "setup3")
    setup(other, influx.token)
    token, reader = ((tmp_path / "tokens" / name).read_text().strip() for name in ("store", "reader"))
    bus = SqliteBus(tmp_path / "bus", free_floor_bytes=0)
    store = InfluxStore(settings.influx, token, bus)
    store.check()
    store.apply(PROCESSED, 0, [processed(0, [Message((Reading(0, 1, 1.0),))])], 1)
    store.describe(catalogue(), T0)
    assert len(stored(store)) == 1
    asked = InfluxClient(settings.influx, reader)
    assert asked.query("setup2", "SELECT name_zh, lat FROM station").count(b"\n") == 3
    with pytest.raises(RetryLater, match=r"40[13]"):
        asked.write("setup2", b"x y=1 1\n")
    for one in (asked, InfluxClient(settings.influx, token)):
        with pytest.raises(RetryLater, match="404"):
            one.query("setup3", "SELECT x FROM y")
        one.close()
    store.close()
    bus.close()


def test_what_is_wrong_is_told(influx: InfluxServer, tmp_path: Path) -> None:
    """A token that may not set up, a token file that does not work, an organisation that is not there."""
    settings = settings_of(influx, tmp_path, "setup4")
    with pytest.raises(StartError, match="token must be one that may make"):
        setup(settings, "no-such-token")
    setup(settings, influx.token)
    (tmp_path / "tokens" / "store").write_text("something else\n")
    with pytest.raises(StartError, match=r"does not work.*remove the file"):
        setup(settings, influx.token)
    (tmp_path / "tokens" / "store").write_text((tmp_path / "tokens" / "reader").read_text())
    with pytest.raises(StartError, match=r"does not work.*remove the file"):  # it may only read
        setup(settings, influx.token)
    nobody = settings.model_copy(update={"influx": settings.influx.model_copy(update={"org": "nobody"})})
    with pytest.raises(StartError, match="nobody"):
        setup(nobody, influx.token)
