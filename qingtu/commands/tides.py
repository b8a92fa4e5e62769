"""``qingtu tides``: the tidal constants of a gauge from its record, as a block for the catalogue."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer reads annotations at run time
from typing import TYPE_CHECKING, Annotated, Any

import duckdb
import numpy as np
import typer
import yaml

from processors.indices import harmonics
from qingtu.catalogue import load_catalogue
from qingtu.commands.options import Catalogue, Json, SettingsFile, settings_of
from qingtu.commands.output import err, out, print_json
from qingtu.errors import NotFound, StartError
from qingtu.records import Flag

if TYPE_CHECKING:
    from numpy.typing import NDArray

_A_YEAR_DAYS = 365
_READERS = {".parquet": "read_parquet", ".csv": "read_csv"}


def tides(
    station: Annotated[str, typer.Argument(metavar="STATION", help="Tide gauge of the catalogue / 验潮站")],
    source: Annotated[
        Path, typer.Argument(metavar="FILE", help="What export wrote (.parquet, .csv) / 导出的文件", exists=True)
    ],
    channel: Annotated[str, typer.Option("--channel", help="Channel of water_level / 通道")] = "main",
    file: SettingsFile = None,
    catalogue: Catalogue = None,
    json: Json = False,
) -> None:
    """Find the tidal constants of a gauge from its record / 由潮位记录求调和常数.

    Prints attributes for the station's block in the catalogue; with them its surge is computed. A year of hours tells
    all large waves apart; a shorter record predicts badly what lies outside of it. It needs the extra tides (utide).
    """
    if not harmonics.available():
        raise StartError("需要附加组件 / needs the extra: pip install 'qingtu[tides]'")
    found = load_catalogue(settings_of(file, None, catalogue).catalogue).stations.get(station)
    if found is None:
        raise NotFound(f"目录中没有此站 / the catalogue has no station {station}")
    times, heights = _record(source, station, channel)
    try:
        constants = harmonics.analyse(times, heights, found.position[1])
    except ValueError as error:
        raise NotFound(f"{source}: {error}") from error
    left = heights - harmonics.predict(constants, times)
    told: dict[str, Any] = {
        "attributes": harmonics.attributes_of(constants),
        "readings": len(times),
        "days": round(float(np.ptp(times)) / 86_400e6, 1),
        "residual_m": round(float(np.std(left)), 4),
        "error_m": {wave.name: round(wave.error_m, 4) for wave in constants.constituents},
    }
    if json:
        print_json(told)
        return
    if told["days"] < _A_YEAR_DAYS:
        short = "不足一年, 分潮不能分开, 记录外的预报偏差较大 / less than a year: waves are not told apart"
        err().print(f"# {short}; the forecast outside of the record is poor", soft_wrap=True)
    text = yaml.safe_dump({"attributes": told["attributes"]}, sort_keys=False)
    out().print(text, end="", soft_wrap=True)
    err().print(
        f"# {told['readings']:,} 条 readings, {told['days']} 天 days; "
        f"残差标准差 residual {told['residual_m']} m (1 sigma)",
        soft_wrap=True,
    )


def _record(source: Path, station: str, channel: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return times (µs UTC) and heights (m) of the good readings of a gauge in an exported file, in order of time.

    Raises:
        typer.BadParameter: the file is not one that export writes.
    """
    reader = _READERS.get(source.suffix.lower())
    if reader is None:
        raise typer.BadParameter(f"{source} must end in {' or '.join(_READERS)} / 文件名须以此结尾")
    query = (
        f"SELECT epoch_us(time::TIMESTAMPTZ) AS time, value FROM {reader}(?) WHERE station = ? "  # noqa: S608 - ours
        "AND property = 'water_level' AND channel = ? AND flag <= ? AND value IS NOT NULL ORDER BY time"
    )
    try:
        with duckdb.connect() as db:
            columns = db.execute(query, [str(source), station, channel, int(Flag.NOT_EVALUATED)]).fetchnumpy()
    except duckdb.Error as error:
        raise typer.BadParameter(f"{source}: 不是导出的文件 / is no file that export wrote: {error}") from error
    return np.asarray(columns["time"], np.int64), np.asarray(columns["value"], np.float64)
