"""Taking data out: ``export`` and ``backup``, also while the service runs."""

from __future__ import annotations

import shutil
import time
from pathlib import Path  # noqa: TC003 - typer reads annotations at run time
from typing import Annotated

import typer

from qingtu.commands.host import reach
from qingtu.commands.options import Data, SettingsFile, settings_of, time_us
from qingtu.commands.output import err, out
from qingtu.commands.progress import waiting
from qingtu.errors import StartError

FORMATS = {".parquet": "parquet", ".csv": "csv"}
_END_MS = 253_402_214_400_000
"""31 December 9999: later than any reading."""


def export(
    target: Annotated[Path, typer.Argument(metavar="FILE", help="FILE.parquet or FILE.csv / 目标文件")],
    since: Annotated[str | None, typer.Option("--from", help="First time, inclusive / 起始时间")] = None,
    until: Annotated[str | None, typer.Option("--to", help="Last time, exclusive / 结束时间")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there / 覆盖已有文件")] = False,
    file: SettingsFile = None,
    data: Data = None,
) -> None:
    """Write readings to a Parquet or CSV file / 导出读数."""
    fmt = FORMATS.get(target.suffix.lower())
    if fmt is None:
        raise typer.BadParameter(f"{target} must end in {' or '.join(FORMATS)} / 文件名须以此结尾")
    if target.exists() and not force:
        raise typer.BadParameter(f"{target} is there already; --force replaces it / 已存在, 加 --force 覆盖")
    span = {"from_ms": time_us(since) // 1000 if since else 0, "to_ms": time_us(until) // 1000 if until else _END_MS}
    broken_off = f"已中断, 未写出 / broken off: {target} was not written"
    with reach(settings_of(file, data)) as client, waiting(err(), f"导出 / exporting {target}", broken_off):
        size = client.download("/api/export", target, format=fmt, **span)
    out().print(f"已导出 / exported: {target} ({size:,} bytes)", soft_wrap=True)


def backup(
    target: Annotated[Path, typer.Argument(metavar="FOLDER", help="New folder / 新文件夹")],
    file: SettingsFile = None,
    data: Data = None,
) -> None:
    """Back the dataset up into a new folder / 备份.

    Store, bus and every catalogue used, also while the service runs. Secret and tokens are not copied: keep them
    elsewhere.
    """
    if target.exists():
        raise typer.BadParameter(f"{target} is there already / 已存在")
    settings = settings_of(file, data)
    with reach(settings) as client:
        name = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        folder = settings.data / "backups" / name  # the service may have another working folder
        with waiting(err(), f"备份 / backing up to {target}", _broken_off(folder, stays=client.stays)):
            made = client.post("/api/backup", {"name": name}, patient=True)
        try:
            target.absolute().parent.mkdir(parents=True, exist_ok=True)
            shutil.move(folder, target)
        except OSError as error:
            raise StartError(
                f"备份已在 {folder}, 但无法移到 {target} / the back-up was made in {folder}, but "
                f"cannot be moved to {target}: {error.strerror}"
            ) from error
    out().print(f"已备份 / backed up: {target} ({made['bytes']:,} bytes)", soft_wrap=True)


def _broken_off(folder: Path, *, stays: bool) -> str:
    if stays:
        return f"已中断, 服务仍会完成备份 / broken off: the service finishes the back-up, in {folder}"
    return (
        f"已中断, 仅当已完成时才有备份 / broken off: there is a back-up, {folder}, only if it was done already; what "
        "is half is removed at the next start"
    )
