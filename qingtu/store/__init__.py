"""The primary store: DuckDB in the data folder, or an InfluxDB server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qingtu.errors import RetryLater, StartError

if TYPE_CHECKING:
    from pathlib import Path

    from qingtu.contracts import Bus
    from qingtu.settings import Settings
    from qingtu.store.contract import PrimaryStore


def open_store(settings: Settings, bus: Bus) -> PrimaryStore:
    """Open the store that the settings name, for writing.

    Args:
        settings: checked settings.
        bus: where InfluxDB's progress and books are kept.

    Raises:
        StartError: it cannot be opened; the text says what to do.
    """
    if settings.store.kind == "duckdb":
        from qingtu.store.duckdb import DuckStore  # noqa: PLC0415 - each only where it is used

        return DuckStore(settings.data / "qingtu.duckdb", settings.store.memory_limit, settings.store.threads)
    from qingtu.store.influx.store import InfluxStore  # noqa: PLC0415 - see above

    token = token_of(settings.influx.token_file, "influx.token_file")
    try:
        store = InfluxStore(settings.influx, token, bus)
        store.check()
        store.refuse_unfinished()
    except RetryLater as later:
        raise StartError(
            f"InfluxDB 无应答 / InfluxDB at {settings.influx.url} does not answer: {later}; start it, then try again"
        ) from later
    return store


def token_of(file: Path | None, name: str) -> str:
    """Read a token of InfluxDB.

    Args:
        file: that holds nothing else.
        name: of the setting or option.

    Raises:
        StartError: there is none, or it cannot be read.
    """
    if file is None:
        raise StartError(f"缺少 {name} / {name} is not set: `qingtu setup --admin-token-file …` makes a token")
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise StartError(
            f"无法读取令牌 / {name} {file} cannot be read: {error}; `qingtu setup --admin-token-file …` makes one"
        ) from error
