"""`qingtu tides`: a gauge's record in, the attributes of its block out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
import yaml

from processors.indices.harmonics import constants_of, predict
from qingtu.clock import HOUR
from qingtu.records import times
from tests.cli.conftest import inside

if TYPE_CHECKING:
    from pathlib import Path

GAUGE = "QD-TG-001"
START = 1_795_392_000_000_000
TRUTH = constants_of({"tide_mean_m": 2.4, "tide_set": "shijiusuo"}, 36.085)


def record(path: Path, hours: int, **more: Any) -> Path:
    """Write a record as export does: good hours, one bad reading of 99 m, and another gauge."""
    assert TRUTH is not None
    moments = START + HOUR * np.arange(hours, dtype=np.int64)
    heights = predict(TRUTH, moments)
    columns = {
        "station": [GAUGE] * hours + [GAUGE, "QD-TG-002"],
        "property": ["water_level"] * (hours + 2),
        "channel": ["main"] * (hours + 2),
        "time": times(np.append(moments, moments[:2] + 60_000_000)),
        "value": np.append(heights, [99.0, 50.0]),
        "flag": np.array([1] * hours + [4, 1], np.uint8),
    }
    with duckdb.connect() as db:
        db.register("rows", pa.table(columns | more))
        kind = "FORMAT csv, HEADER" if path.suffix == ".csv" else "FORMAT parquet"
        db.execute(f"COPY rows TO '{path}' ({kind})")
    return path


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_attributes_predict_the_record(tmp_path: Path, ending: str) -> None:
    """What is printed is read by the catalogue's side and gives the tide back; bad readings do not count."""
    assert TRUTH is not None
    ran = inside("tides", GAUGE, record(tmp_path / f"r.{ending}", 24 * 370))
    assert ran.code == 0, ran.err
    found = constants_of(yaml.safe_load(ran.out)["attributes"], 36.085)
    assert found is not None
    moments = START + HOUR * np.arange(24 * 370, dtype=np.int64)
    assert np.abs(predict(found, moments) - predict(TRUTH, moments)).max() < 0.01
    told = inside("tides", GAUGE, tmp_path / f"r.{ending}", "--json").json
    assert (told["readings"], told["days"]) == (24 * 370, 370.0)
    assert told["residual_m"] < 0.01
    assert "less than a year" not in ran.err


def test_refusals(tmp_path: Path) -> None:
    """One line each: a station that is not there, a record too short, a file of something else, its name."""
    short = record(tmp_path / "short.parquet", 24)
    assert inside("tides", "NOBODY", short).code == 4
    month = inside("tides", GAUGE, record(tmp_path / "month.parquet", 24 * 30))
    assert (month.code, "less than a year" in month.err) == (0, True)
    too_short = inside("tides", GAUGE, short)
    assert (too_short.code, "two days" in too_short.err) == (4, True)
    (tmp_path / "x.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    assert inside("tides", GAUGE, tmp_path / "x.csv").code == 2
    (tmp_path / "x.txt").write_text("", encoding="utf-8")
    assert inside("tides", GAUGE, tmp_path / "x.txt").code == 2
