"""The same data sources and dashboards as provisioning files, for a Grafana whose API is out of reach, and for compose.

::

    DIR/provisioning/datasources/qingtu.yaml
    DIR/provisioning/dashboards/qingtu.yaml
    DIR/dashboards/<uid>.json

No secret is written: the token stays in a file that Grafana reads itself (``$__file{…}``). What Grafana made from files
it lets nobody change by API or by hand, so use either this or the API for one Grafana, not both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
import yaml

from qingtu.errors import StartError
from qingtu.grafana.names import FOLDER, SOURCE_NAMES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_HEAD = "# Made by `qingtu grafana --files`; do not edit.\n"


def render(dashboard: Mapping[str, Any], *, for_people: bool = False) -> str:
    """Write a dashboard as the text of its file; ``for_people`` with a line for each key, twice as long."""
    return orjson.dumps(dashboard, option=orjson.OPT_INDENT_2 if for_people else 0).decode() + "\n"


def provisioning(
    dashboards: Sequence[Mapping[str, Any]],
    *,
    folder: str,
    influx_url: str,
    databases: Mapping[str, str],
    token_file: str,
    dashboards_at: str,
) -> dict[str, str]:
    """Return the text of each file by its path below the folder.

    Args:
        dashboards: as :func:`qingtu.grafana.dashboards.build` makes them.
        folder: title of the folder in Grafana.
        influx_url: InfluxDB as Grafana's server reaches it.
        databases: bucket of each data source, by uid.
        token_file: where Grafana's server finds the token that may read the buckets.
        dashboards_at: where Grafana's server finds the folder ``dashboards``.
    """
    sources = [
        {
            "uid": uid,
            "name": SOURCE_NAMES[uid],
            "type": "influxdb",
            "access": "proxy",
            "url": influx_url,
            "database": database,
            "editable": False,
            "jsonData": {
                "version": "InfluxQL",
                "dbName": database,
                "httpMode": "POST",
                "httpHeaderName1": "Authorization",
            },
            "secureJsonData": {"httpHeaderValue1": f"Token $__file{{{token_file}}}"},
        }
        for uid, database in databases.items()
    ]
    provider = {
        "name": "qingtu",
        "orgId": 1,
        "folder": folder,
        "folderUid": FOLDER,
        "type": "file",
        "disableDeletion": True,
        "allowUiUpdates": False,
        "updateIntervalSeconds": 30,
        "options": {"path": dashboards_at},
    }
    made = {
        "provisioning/datasources/qingtu.yaml": _yaml({"apiVersion": 1, "datasources": sources}),
        "provisioning/dashboards/qingtu.yaml": _yaml({"apiVersion": 1, "providers": [provider]}),
    }
    return made | {f"dashboards/{dashboard['uid']}.json": render(dashboard) for dashboard in dashboards}


def differing(folder: Path, texts: Mapping[str, str]) -> list[str]:
    """Return the paths whose file is absent or has another content, and those of ours that are no longer made."""
    differing = [path for path, text in texts.items() if _text_of(folder / path) != text]
    left = [f"dashboards/{file.name}" for file in sorted(folder.glob("dashboards/qingtu*.json"))]
    return differing + [path for path in left if path not in texts]


def write(folder: Path, texts: Mapping[str, str]) -> list[str]:
    """Write what differs and remove dashboards of ours that are no longer made.

    Returns:
        the paths that were changed.

    Raises:
        StartError: the folder cannot be written.
    """
    changed = differing(folder, texts)
    try:
        for path in changed:
            file = folder / path
            if path not in texts:
                file.unlink()
                continue
            file.parent.mkdir(parents=True, exist_ok=True)
            half = file.with_suffix(file.suffix + ".new")  # Grafana may read the folder at any time
            half.write_text(texts[path], encoding="utf-8")
            half.replace(file)
    except OSError as error:
        raise StartError(f"{error.filename}: 无法写入 / cannot be written: {error.strerror}") from error
    return changed


def _text_of(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _yaml(content: dict[str, Any]) -> str:
    return _HEAD + yaml.safe_dump(content, allow_unicode=True, sort_keys=False, width=100)
