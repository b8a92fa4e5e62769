"""How a process without page and API says that it lives: a small file in its data folder, written every few seconds.

Beside it, ``metrics.prom`` has what others show at ``/metrics``, for node_exporter's textfile collector.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

import orjson

from qingtu.bus.gauges import gauges
from qingtu.clock import SECOND

if TYPE_CHECKING:
    from pathlib import Path

    from qingtu.app import Service

EVERY_S: Final = 2.0
STALE_S: Final = 15.0
_NAME: Final = "heartbeat.json"
_METRICS: Final = "metrics.prom"


def beat(service: Service, reloads: int = 0, refused: str = "") -> None:
    """Write how the service is; replaces the file as one.

    Args:
        service: of this process.
        reloads: how often it was asked to read the catalogue again and has answered.
        refused: why the last of these was refused; "" when it was not. It is told as a problem.
    """
    problems = service.problems()
    if refused:
        problems.append({"key": "catalogue", "zh": f"新目录被拒绝, 仍用原目录: {refused}",
                         "en": f"the new catalogue is refused, the old one stays in use: {refused}"})  # fmt: skip
    _write(service, {"state": "degraded" if problems else "ok", "problems": problems,
                     "catalogue": service.catalogue.version, "reloads": reloads, "refused": refused})  # fmt: skip


def _write(service: Service, said: dict[str, Any]) -> None:
    data = {
        "time_us": service.clock.now_us(),
        "pid": os.getpid(),
        "stages": sorted(service.options.stages),
        "partitions": {"process": sorted(service.process.stages), "derive": sorted(service.derive.stages)},
        **said,
    }
    for name, text in ((_METRICS, service.metrics.text() + gauges(service.bus)), (_NAME, orjson.dumps(data))):
        path = service.settings.data / name
        part = path.with_suffix(".part")
        part.write_bytes(text)
        part.replace(path)


def over(service: Service) -> None:
    """Say that the process ends as it was told to."""
    _write(service, {"state": "stopped", "problems": []})


def forget(folder: Path) -> None:
    """Take away what an earlier process said: the folder has a process with page and API now."""
    (folder / _NAME).unlink(missing_ok=True)


def heard(folder: Path, now_us: int) -> dict[str, Any] | None:
    """Return what the process of a data folder last said of itself; None when it has page and API, or never ran.

    ``state`` is ``stopped`` when it ended as it was told to, and ``silent`` when that was longer than :data:`STALE_S`
    seconds ago: it was killed, or it hangs.
    """
    try:
        data: dict[str, Any] = orjson.loads((folder / _NAME).read_bytes())
    except FileNotFoundError:
        return None
    data["age_s"] = round((now_us - data["time_us"]) / SECOND, 1)
    if data["state"] != "stopped" and not 0 <= data["age_s"] <= STALE_S:
        data["state"] = "silent"
    return data
