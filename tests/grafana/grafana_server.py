"""An HTTP server with state that answers as Grafana's documentation says, for tests where no Grafana can be had.

Source of paths, bodies and status codes: Grafana's repository, docs/sources/developers/http_api/ (folder.md,
data_source.md, dashboard.md, dashboard_versions.md, other.md), whose examples the bodies follow. Where the
documentation is silent, what a Grafana 9.3 said: 403's words.
"""

from __future__ import annotations

import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from types import TracebackType

TOKEN = "glsa_documented"
VIEWER = "glsa_viewer"


class Answer(NamedTuple):
    status: int
    body: Any


@dataclass
class GrafanaState:
    """What stands in the server.

    Attributes:
        version: that it tells.
        new_versions_form: answer the list of versions as newer Grafanas do.
        source_answers: whether the data sources reach InfluxDB.
        page_instead: answer everything with a log-in page, as a proxy does.
        broken: answer everything with 500.
        requests: (method, path) of each request.
    """

    version: str = "11.6.0"
    new_versions_form: bool = False
    source_answers: bool = True
    page_instead: bool = False
    broken: bool = False
    folders: dict[str, dict[str, Any]] = field(default_factory=dict)
    sources: dict[str, dict[str, Any]] = field(default_factory=dict)
    secrets: dict[str, dict[str, str]] = field(default_factory=dict)
    dashboards: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    meta: dict[str, dict[str, Any]] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)

    def writes(self) -> list[str]:
        """Return the paths that were written to."""
        return [path for method, path in self.requests if method != "GET"]

    def save(self, uid: str, content: dict[str, Any], message: str) -> None:
        """Save a dashboard as somebody in the browser does."""
        versions = self.dashboards[uid]
        number = versions[-1]["version"] + 1
        versions.append({"version": number, "message": message, "data": content | {"version": number}})

    # ------------------------------------------------------------------------------------------ answers

    def answer(self, method: str, path: str, token: str, body: Any) -> Answer:
        self.requests.append((method, path))
        if self.broken:
            return Answer(500, {"message": "Internal Server Error"})
        if path == "/api/health":
            return Answer(200, {"commit": "087143285", "database": "ok", "version": self.version})
        if token not in (TOKEN, VIEWER):
            return Answer(401, {"message": "Invalid API key"})
        if token == VIEWER and method != "GET":
            return Answer(403, {"message": "You'll need additional permissions to perform this action."})
        for pattern, handle in (
            (r"/api/folders(?:/([^/]+))?", self._folder),
            (r"/api/datasources", self._new_source),
            (r"/api/datasources/uid/([^/]+)/health", self._source_health),
            (r"/api/datasources/uid/([^/]+)", self._source),
            (r"/api/dashboards/db", self._save),
            (r"/api/dashboards/uid/([^/]+)", self._dashboard),
            (r"/api/dashboards/uid/([^/]+)/versions", self._versions),
        ):
            if found := re.fullmatch(pattern, path):
                return handle(method, found[1] if found.re.groups else "", body)
        return Answer(404, {"message": "Not found"})

    def _folder(self, method: str, uid: str | None, body: Any) -> Answer:
        if method == "POST":
            if any(folder["title"] == body["title"] for folder in self.folders.values()):
                return Answer(409, {"message": "a folder with the same name already exists in the current location"})
            self.folders[body["uid"]] = {"id": len(self.folders) + 1, **body, "version": 1}
            return Answer(200, self.folders[body["uid"]])
        if uid not in self.folders:
            return Answer(404, {"message": "folder not found"})
        if method == "PUT":
            folder = self.folders[uid]
            if body.get("version") != folder["version"]:
                said = "The folder has been changed by someone else"
                return Answer(412, {"message": said, "status": "version-mismatch"})
            folder |= {"title": body["title"], "version": folder["version"] + 1}
        return Answer(200, self.folders[uid])

    def _new_source(self, method: str, uid: str, body: Any) -> Answer:
        del method, uid
        if any(source["name"] == body["name"] for source in self.sources.values()):
            return Answer(409, {"message": "data source with the same name already exists"})
        return self._keep_source(body, "Datasource added")

    def _keep_source(self, body: dict[str, Any], said: str) -> Answer:
        body = dict(body)
        self.secrets.setdefault(body["uid"], {}).update(body.pop("secureJsonData", {}))
        kept = {"id": 1, "readOnly": False, **body, "secureJsonFields": dict.fromkeys(self.secrets[body["uid"]], True)}
        self.sources[body["uid"]] = kept
        return Answer(200, {"datasource": kept, "id": 1, "message": said, "name": kept["name"]})

    def _source(self, method: str, uid: str, body: Any) -> Answer:
        if uid not in self.sources:
            return Answer(404, {"message": "Data source not found"})
        if method == "PUT":
            return self._keep_source(body, "Datasource updated")
        return Answer(200, self.sources[uid])

    def _source_health(self, method: str, uid: str, body: Any) -> Answer:
        del method, uid, body
        if self.source_answers:
            return Answer(200, {"message": "datasource is working. 9 measurements found", "status": "OK"})
        return Answer(400, {"message": "error reading InfluxDB. Status Code: 401", "status": "ERROR"})

    def _save(self, method: str, uid: str, body: Any) -> Answer:
        del method
        dashboard = dict(body["dashboard"])
        uid = dashboard["uid"]
        versions = self.dashboards.setdefault(uid, [])
        now = versions[-1]["version"] if versions else None
        if now is not None and not body["overwrite"] and dashboard.get("version") != now:
            said = "The dashboard has been changed by someone else"
            return Answer(412, {"message": said, "status": "version-mismatch"})
        version = (now or 0) + 1
        dashboard |= {"id": 1, "version": version}
        versions.append({"version": version, "message": body["message"], "data": dashboard})
        self.meta.setdefault(uid, {"provisioned": False})["folderUid"] = body["folderUid"]
        return Answer(200, {"id": 1, "uid": uid, "url": f"/d/{uid}/x", "status": "success", "version": version})

    def _dashboard(self, method: str, uid: str, body: Any) -> Answer:
        del method, body
        if not self.dashboards.get(uid):
            return Answer(404, {"message": "Dashboard not found"})
        return Answer(200, {"dashboard": self.dashboards[uid][-1]["data"], "meta": self.meta[uid]})

    def _versions(self, method: str, uid: str, body: Any) -> Answer:
        del method, body
        told = [{k: v for k, v in version.items() if k != "data"} for version in reversed(self.dashboards[uid])]
        return Answer(200, {"continueToken": "", "versions": told} if self.new_versions_form else told)


class DocumentedGrafana:
    """Serves a :class:`GrafanaState` on 127.0.0.1 as long as the context lasts; ``prefix`` as behind a proxy."""

    def __init__(self, *, prefix: str = "") -> None:
        self.state = state = GrafanaState()

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                path = urlsplit(self.path).path.removeprefix(prefix)
                token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
                status, told = state.answer(self.command, path, token, body)
                data = json.dumps(told).encode()
                if state.page_instead:
                    status, data = 200, b"<!doctype html><title>Log in</title>"
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PUT = _answer  # noqa: N815 - the base class looks for these

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class calls it so
                del format, args

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}{prefix}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
