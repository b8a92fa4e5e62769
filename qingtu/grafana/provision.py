"""What should stand in Grafana, what stands there, and the steps between: the same steps done twice change nothing.

Each dashboard is saved with a message that holds the digest of its content. So the newest message tells whether it is
what we would write, something older of ours, or somebody's own work since: that is kept unless asked otherwise (and
stays in Grafana's history even then). A data source carries the digest of its token, since Grafana never tells secrets.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import orjson

import qingtu
from qingtu.grafana.client import Conflict
from qingtu.grafana.names import FOLDER

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qingtu.grafana.client import GrafanaClient

_DIGEST: Final = re.compile(r"sha256:([0-9a-f]{16})\b")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Everything that should stand in Grafana.

    Attributes:
        folder: title of the folder.
        sources: data sources with their secrets, as :func:`data_source` makes them.
        dashboards: in the order in which they are saved.
    """

    folder: str
    sources: Sequence[dict[str, Any]]
    dashboards: Sequence[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Step:
    """What happens to one thing.

    Attributes:
        kind: of thing.
        uid: of it.
        title: of it.
        action: what is done; ``keep`` means that it differs but is not ours to change.
        why: for ``keep`` and ``update``.
        version: of what was found, which must still be there when the step is done; None when it is new.
        place: folder in which a dashboard was found, which stays its folder.
    """

    kind: Literal["folder", "data source", "dashboard"]
    uid: str
    title: str
    action: Literal["create", "update", "same", "keep"]
    why: str = ""
    version: int | None = None
    place: str = FOLDER


def data_source(uid: str, *, name: str, url: str, database: str, token: str) -> dict[str, Any]:
    """Make an InfluxQL data source.

    Args:
        uid: letters and digits only.
        name: shown in Grafana.
        url: of InfluxDB, as Grafana's server reaches it.
        database: the bucket: InfluxDB 2 answers for each bucket as a database of the same name.
        token: that may read the bucket.
    """
    return {
        "uid": uid,
        "name": name,
        "type": "influxdb",
        "access": "proxy",
        "url": url,
        "database": database,  # where Grafana 9.0 to 9.2 look; newer ones look into jsonData
        "basicAuth": False,
        "isDefault": False,
        "jsonData": {
            "version": "InfluxQL",
            "dbName": database,
            "httpMode": "POST",  # the list of chosen stations would make too long an address
            "httpHeaderName1": "Authorization",
            "qingtuToken": _digest(token),
        },
        "secureJsonData": {"httpHeaderValue1": f"Token {token}"},
    }


def message_of(dashboard: dict[str, Any]) -> str:
    """Return the message with which a dashboard is saved: who wrote it and what."""
    return f"qingtu {qingtu.__version__} sha256:{_digest(dashboard)}"


def plan(client: GrafanaClient, wanted: Wanted, *, overwrite: bool = False) -> list[Step]:
    """Look at what stands in Grafana and return a step for each thing wanted. Changes nothing.

    Args:
        client: the server.
        wanted: what should stand there.
        overwrite: also dashboards that people changed.

    Raises:
        StartError, RetryLater, QingtuError: see :class:`qingtu.grafana.client.GrafanaClient`.
    """
    steps = [_folder_step(client, wanted.folder)]
    steps += [_source_step(client, source) for source in wanted.sources]
    steps += [_dashboard_step(client, dashboard, overwrite=overwrite) for dashboard in wanted.dashboards]
    return steps


def apply(
    client: GrafanaClient, wanted: Wanted, steps: Sequence[Step], done: Callable[[Step], None] = lambda _step: None
) -> None:
    """Carry out the steps of :func:`plan`, telling each one that is done.

    Raises:
        Conflict: something was changed since the plan was made; running again takes it up.
    """
    sources = {source["uid"]: source for source in wanted.sources}
    dashboards = {dashboard["uid"]: dashboard for dashboard in wanted.dashboards}
    for step in steps:
        if step.action in ("create", "update"):
            try:
                _carry_out(client, step, sources, dashboards)
            except Conflict as error:
                raise Conflict(
                    f"{step.title} ({step.uid}): {error}; 其他人刚修改过或名称已被占用 / somebody changed it "
                    "just now, or its name is taken by another one: run it again, or rename the other one"
                ) from error
        done(step)


def _carry_out(
    client: GrafanaClient, step: Step, sources: dict[str, dict[str, Any]], dashboards: dict[str, dict[str, Any]]
) -> None:
    if step.kind == "folder":
        if step.version is None:
            client.create_folder(step.uid, step.title)
        else:
            client.rename_folder(step.uid, step.title, step.version)
    elif step.kind == "data source":
        if step.action == "create":
            client.create_datasource(sources[step.uid])
        else:
            found = client.datasource(step.uid) or {}
            chosen = {"isDefault": bool(found.get("isDefault"))}  # which one is the default is people's choice
            client.update_datasource(step.uid, sources[step.uid] | chosen)
    else:
        body = dashboards[step.uid]
        # without a version Grafana takes it for a new one and refuses if it has come to be meanwhile
        sent = body if step.version is None else body | {"version": step.version}
        client.save_dashboard(sent, folder=step.place, message=message_of(body))


def _folder_step(client: GrafanaClient, title: str) -> Step:
    found = client.folder(FOLDER)
    if found is None:
        return Step("folder", FOLDER, title, "create")
    if found["title"] == title:
        return Step("folder", FOLDER, title, "same")
    return Step("folder", FOLDER, title, "update", f"was {found['title']!r}", int(found["version"]))


def _source_step(client: GrafanaClient, source: dict[str, Any]) -> Step:
    uid, name = source["uid"], source["name"]
    found = client.datasource(uid)
    if found is None:
        return Step("data source", uid, name, "create")
    differing = sorted(key for key, value in _told(source).items() if _told(found).get(key) != value)
    if not differing:
        return Step("data source", uid, name, "same")
    if found.get("readOnly"):
        return Step("data source", uid, name, "keep", "由文件配置 / made by provisioning files: change those")
    return Step("data source", uid, name, "update", ", ".join(differing))


def _told(source: dict[str, Any]) -> dict[str, Any]:
    """Return what can be compared: all but secrets, and but whether it is the default one."""
    flat = {key: source.get(key) for key in ("name", "type", "access", "url", "database")}
    return flat | {f"jsonData.{key}": value for key, value in (source.get("jsonData") or {}).items()}


def _dashboard_step(client: GrafanaClient, dashboard: dict[str, Any], *, overwrite: bool) -> Step:
    uid, title = dashboard["uid"], dashboard["title"]
    found = client.dashboard(uid)
    if found is None:
        return Step("dashboard", uid, title, "create")
    meta = found["meta"]
    version = int(found["dashboard"]["version"])
    if meta.get("provisioned"):
        return Step("dashboard", uid, title, "keep", "由文件配置 / made by provisioning files: change those")
    place = str(meta.get("folderUid") or "")  # people may move it to a folder with other permissions
    ours = _DIGEST.search(client.last_message(uid))
    if ours and ours[1] == _digest(dashboard):
        return Step("dashboard", uid, title, "same", version=version, place=place)
    if ours or overwrite:
        return Step("dashboard", uid, title, "update", f"version {version}", version, place)
    return Step(
        "dashboard", uid, title, "keep", "有人改过 / somebody changed it; --overwrite replaces it", version, place
    )


def _digest(content: Any) -> str:
    """Return 16 hex digits of the SHA-256 of JSON or text."""
    data = content.encode() if isinstance(content, str) else orjson.dumps(content, option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(data).hexdigest()[:16]
