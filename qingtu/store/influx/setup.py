"""What an InfluxDB server needs before the store can use it: buckets with their retention, and two scoped tokens."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from qingtu.errors import StartError
from qingtu.store.influx.client import InfluxClient, NeedsMending

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from qingtu.settings import Settings

_DAY_S: Final = 86400
_SLACK_D: Final = 2
"""The server keeps readings a little longer than they count, so that what it deletes was counted as expired before."""
_PAGE: Final = 100
WRITER: Final = "qingtu store"
READER: Final = "qingtu read only"


def setup(settings: Settings, admin_token: str) -> list[str]:
    """Make buckets and tokens, or bring them to what the settings say; running it again changes nothing.

    Args:
        settings: ``influx.token_file`` is written when there is none: a token that may read and write the three
            buckets and nothing else; so is ``grafana.influx_token_file``, which may only read them.
        admin_token: may make buckets and tokens in the organisation; it is not kept.

    Returns:
        what was made or changed, a line each; empty when all was there.

    Raises:
        StartError: the server refuses, or a token file is there that does not work; the message says what to do.
        RetryLater: the server does not answer.
    """
    client = InfluxClient(settings.influx, admin_token)
    try:
        return _setup(client, settings)
    except NeedsMending as error:
        raise StartError(
            f"InfluxDB {settings.influx.url} 拒绝设置 / refuses to be set up: the token must be one that may make "
            f"buckets and tokens in organisation {settings.influx.org!r} ({error})"
        ) from error
    finally:
        client.close()


def _setup(client: InfluxClient, settings: Settings) -> list[str]:
    s = settings.influx
    org = client.call("GET", f"/api/v2/orgs?org={quote(s.org)}")["orgs"][0]["id"]
    keep_s = {
        s.bucket: (settings.store.keep_days + _SLACK_D) * _DAY_S,
        s.hourly: s.hourly_keep_d * _DAY_S,
        s.daily: 0,
    }
    if len(keep_s) < 3:
        raise StartError("influx.bucket, influx.hourly 与 influx.daily 须不同 / must be three different names")
    done: list[str] = []
    ids = [_bucket(client, org, name, seconds, done) for name, seconds in keep_s.items()]
    if s.token_file is None:
        raise StartError("请设置 influx.token_file / set influx.token_file: the token is written there")
    _token(client, settings, org, (s.token_file, WRITER), ("read", "write"), ids, done)
    if settings.grafana.influx_token_file is not None:
        _token(client, settings, org, (settings.grafana.influx_token_file, READER), ("read",), ids, done)
    return done


def _bucket(client: InfluxClient, org: str, name: str, seconds: int, done: list[str]) -> str:
    """Return the id of a bucket; make it, or set its retention."""
    rules = [{"type": "expire", "everySeconds": seconds}]
    kept = f"{seconds // _DAY_S} d" if seconds else "for ever"
    found = [b for b in _buckets(client, org) if b["name"] == name]
    if not found:
        made = client.call("POST", "/api/v2/buckets", {"orgID": org, "name": name, "retentionRules": rules})
        done.append(f"存储桶 / bucket {name}: made, keeps {kept}")
        return str(made["id"])
    now = next((rule["everySeconds"] for rule in found[0]["retentionRules"]), 0)
    if now != seconds:
        client.call("PATCH", f"/api/v2/buckets/{found[0]['id']}", {"retentionRules": rules})
        done.append(f"存储桶 / bucket {name}: keeps {kept} from now on (before: {now // _DAY_S or 'for ever'})")
    return str(found[0]["id"])


def _buckets(client: InfluxClient, org: str) -> list[dict[str, Any]]:
    """Return all buckets: asking for one that is not there is an error that looks like a missing right."""
    found: list[dict[str, Any]] = []
    while True:
        part = client.call("GET", f"/api/v2/buckets?orgID={org}&limit={_PAGE}&offset={len(found)}")["buckets"]
        found += part
        if len(part) < _PAGE:
            return found


def _token(
    client: InfluxClient,
    settings: Settings,
    org: str,
    file: tuple[Path, str],
    actions: tuple[str, ...],
    buckets: list[str],
    done: list[str],
) -> None:
    """Make sure that a file holds a token that may do this much."""
    path, description = file
    if path.exists():
        _try(settings, path, writes="write" in actions)
        return
    rights: list[Mapping[str, Any]] = [
        {"action": action, "resource": {"type": "buckets", "id": bucket, "orgID": org}}
        for bucket in buckets
        for action in actions
    ]
    body = {"orgID": org, "description": description, "permissions": rights}
    token = client.call("POST", "/api/v2/authorizations", body)["token"]
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as out:
        out.write(token + "\n")
    done.append(f"令牌 / token {description!r}: written to {path}")


def _try(settings: Settings, path: Path, *, writes: bool) -> None:
    """Use a token that is there.

    Raises:
        StartError: it does not work.
    """
    s = settings.influx
    client = InfluxClient(s, path.read_text(encoding="utf-8").strip())
    try:
        client.check([s.bucket, s.hourly, s.daily])
        for bucket in (s.bucket, s.hourly, s.daily) if writes else ():
            client.call("POST", f"/api/v2/write?org={quote(s.org)}&bucket={quote(bucket)}")
    except (StartError, NeedsMending) as error:
        raise StartError(
            f"{path} 中的令牌不可用 / the token in {path} does not work: {error}; remove the file, and qingtu setup "
            "makes a new one"
        ) from error
    finally:
        client.close()
