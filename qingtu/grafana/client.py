"""The one module that talks to Grafana: grafana-api behind typed methods and errors that say the way out.

Nothing else imports grafana-api or requests. Each method is one request and is not retried: ``qingtu grafana`` can be
run again at any time. Source of paths, fields and status codes: Grafana's HTTP API documentation (folder, data_source,
dashboard, dashboard_versions, other/health), which the tests' server follows too.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlsplit

import requests
from grafana_api.grafana_api import (  # type: ignore[import-untyped]
    GrafanaClientError,
    GrafanaException,
    GrafanaServerError,
)
from grafana_api.grafana_face import GrafanaFace  # type: ignore[import-untyped]

from qingtu.errors import QingtuError, RetryLater, StartError

if TYPE_CHECKING:
    from collections.abc import Callable

OLDEST: Final = (9, 0)
"""The first version that has uids in every path used here."""

_SAID_AT_MOST: Final = 300


class Conflict(QingtuError):  # noqa: N818 - reads as the answer that it is
    """Somebody else changed it at the same time, or it is there under another uid; the message says which."""


class GrafanaClient:
    """A Grafana server, seen with one token.

    Args:
        url: of the server, with the path prefix if it has one.
        token: of a service account.
        timeout_s: for one request.
    """

    def __init__(self, url: str, token: str, *, timeout_s: float = 15.0) -> None:
        parts = urlsplit(url)
        prefix = parts.path.strip("/")
        self.url = url.rstrip("/")
        self._face = GrafanaFace(
            auth=token,
            host=parts.netloc,
            protocol=parts.scheme,
            url_path_prefix=f"{prefix}/" if prefix else "",
            timeout=timeout_s,
        )

    def close(self) -> None:
        """Close connections that are kept open."""
        self._face.api.s.close()

    # ---------------------------------------------------------------------------------------------- server

    def version(self) -> str:
        """Return the server's version.

        Raises:
            StartError: nothing answers, it is no Grafana, or one that is too old.
        """
        told = self._ask("", lambda: self._face.api.GET("/health"))
        if not isinstance(told, dict) or "version" not in told:
            # [auth.anonymous] hide_version leaves it out; dashboards need no exact version then
            if isinstance(told, dict) and "database" in told:
                return "?"
            raise StartError(
                f"{self.url} 不是 Grafana / is not Grafana: its /api/health has no version; check grafana.url"
            )
        version = str(told["version"])
        found = re.match(r"(\d+)\.(\d+)", version)
        if found and (int(found[1]), int(found[2])) < OLDEST:
            raise StartError(
                f"Grafana {version} 太旧 / is too old: {OLDEST[0]}.{OLDEST[1]} or newer is needed; upgrade it, or take "
                "the files of `qingtu grafana --files DIR` for what they are worth"
            )
        return version

    # ---------------------------------------------------------------------------------------------- folder

    def folder(self, uid: str) -> dict[str, Any] | None:
        """Return the folder, or None."""
        return self._find("folders:read", lambda: self._face.folder.get_folder(uid))

    def create_folder(self, uid: str, title: str) -> None:
        """Create a folder.

        Raises:
            Conflict: another folder has this title.
        """
        self._ask("folders:create", lambda: self._face.folder.create_folder(title, uid))

    def rename_folder(self, uid: str, title: str, version: int) -> None:
        """Give a folder another title.

        Raises:
            Conflict: it is not at ``version`` any more, or another folder has this title.
        """
        self._ask("folders:write", lambda: self._face.folder.update_folder(uid, title, version=version))

    # ----------------------------------------------------------------------------------------- data source

    def datasource(self, uid: str) -> dict[str, Any] | None:
        """Return the data source without its secrets, which Grafana never tells, or None."""
        return self._find("datasources:read", lambda: self._face.api.GET(f"/datasources/uid/{quote(uid)}"))

    def create_datasource(self, source: dict[str, Any]) -> None:
        """Create a data source.

        Raises:
            Conflict: another data source has this name or uid.
        """
        self._ask("datasources:create", lambda: self._face.datasource.create_datasource(source))

    def update_datasource(self, uid: str, source: dict[str, Any]) -> None:
        """Replace a data source, secrets included."""
        # by uid: the package's own method goes by id, a path that Grafana removes
        self._ask("datasources:write", lambda: self._face.api.PUT(f"/datasources/uid/{quote(uid)}", json=source))

    def datasource_trouble(self, uid: str) -> str | None:
        """Let Grafana ask the data source.

        Returns:
            None when it answers, else Grafana's words.
        """
        try:
            told = self._ask("datasources:query", lambda: self._face.api.GET(f"/datasources/uid/{quote(uid)}/health"))
        except (QingtuError, RetryLater) as error:
            return str(error)
        status = str(told.get("status", "")) if isinstance(told, dict) else ""
        return None if status.upper() == "OK" else str(told)[:_SAID_AT_MOST]

    # ------------------------------------------------------------------------------------------- dashboard

    def dashboard(self, uid: str) -> dict[str, Any] | None:
        """Return ``{"dashboard": …, "meta": …}``, or None."""
        return self._find("dashboards:read", lambda: self._face.dashboard.get_dashboard(uid))

    def last_message(self, uid: str) -> str:
        """Return the message of the newest version of a dashboard; empty when it has none."""
        path = f"/dashboards/uid/{quote(uid)}/versions?limit=1"
        told = self._ask("dashboards:write", lambda: self._face.api.GET(path))
        # a list up to Grafana 11; {"versions": […]} in newer ones
        versions = told.get("versions", []) if isinstance(told, dict) else told
        newest = max(versions, key=lambda version: int(version["version"]), default=None)
        return "" if newest is None else str(newest.get("message") or "")

    def save_dashboard(self, dashboard: dict[str, Any], *, folder: str, message: str) -> int:
        """Save a dashboard over the version that it names; one without ``version`` must be new.

        Returns:
            its new version.

        Raises:
            Conflict: it is at another version by now, or its title is taken.
        """
        body = {"dashboard": dashboard, "folderUid": folder, "message": message, "overwrite": False}
        told = self._ask("dashboards:create, dashboards:write", lambda: self._face.dashboard.update_dashboard(body))
        return int(told["version"])

    # --------------------------------------------------------------------------------------------- errors

    def _find(self, needs: str, request: Callable[[], Any]) -> dict[str, Any] | None:
        try:
            found = self._ask(needs, request)
        except _Absent:
            return None
        if not isinstance(found, dict):
            raise self._not_grafana(f"answers {str(found)[:80]!r}")
        return found

    def _ask(self, needs: str, request: Callable[[], Any]) -> Any:
        try:
            return request()
        except GrafanaServerError as error:
            raise RetryLater(
                f"Grafana 有故障 / Grafana has trouble ({_said(error)}); run it again later", retry_after_s=30
            ) from error
        except GrafanaClientError as error:
            raise self._refusal(error, needs) from error
        except requests.exceptions.InvalidJSONError as error:  # 200 and a page: a proxy, a log-in form
            raise self._not_grafana("answers with something that is not JSON") from error
        except requests.exceptions.SSLError as error:
            raise StartError(
                f"{self.url}: 证书不可信 / its certificate is not trusted: {_root(error)}; add its authority to the "
                "system's, or name it in REQUESTS_CA_BUNDLE"
            ) from error
        except requests.exceptions.RequestException as error:
            raise StartError(
                f"{self.url}: 无法连接 Grafana / Grafana cannot be reached: {_root(error)}; check that it runs and "
                "grafana.url, or write files with `qingtu grafana --files DIR`"
            ) from error

    def _refusal(self, error: GrafanaClientError, needs: str) -> QingtuError:
        status, said = error.status_code, _said(error)
        if status == 401:
            return StartError(
                f"Grafana 不认此令牌 / Grafana does not know the token ({said}): make one for a service account with "
                "role Admin (Administration → Service accounts) and put it into the file of grafana.token_file"
            )
        if status == 403:
            return StartError(
                f"令牌权限不足 / the token may not do this ({said}): it needs {needs or 'more rights'}; role Admin has "
                "all, role Editor all but data sources"
            )
        if status == 404:
            return _Absent(f"{self.url}: 没有 / not there ({said})")
        if status in (409, 412):
            return Conflict(f"Grafana: {said}")
        return QingtuError(f"Grafana 拒绝 / Grafana refuses ({status}): {said}")

    def _not_grafana(self, what: str) -> StartError:
        return StartError(
            f"{self.url} {what}: 不像 Grafana / this is not like Grafana; check grafana.url (with its path prefix)"
        )


class _Absent(QingtuError):  # noqa: N818 - as above
    """404."""


def _said(error: GrafanaException) -> str:
    """Return Grafana's own words, cut: an answer may be a whole page."""
    told = error.response
    text = str(told.get("message") or told) if isinstance(told, dict) else str(told)
    return " ".join(text.split())[:_SAID_AT_MOST]


def _root(error: BaseException) -> str:
    """Return the last cause of a chain of network errors; it is the one that says something."""
    reason = getattr(error.args[0], "reason", None) if error.args else None
    text = str(reason or error)
    return (text.rpartition(": ")[2] or text)[:_SAID_AT_MOST]
