"""docs/api.md and the application name the same addresses."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.web.conftest import Running

PAGE = Path(__file__).parents[2] / "docs" / "api.md"


def test_every_answer_is_described(run: Running) -> None:
    """Each address names what it answers with, and its errors; that answers are so, every test of the API checks."""
    api = run.http.get("/openapi.json").json()
    kinds = {}
    for path, methods in api["paths"].items():
        for method, spec in methods.items():
            good = [status for status in spec["responses"] if status.startswith("2")]
            assert len(good) == 1, (method, path, list(spec["responses"]))
            kinds[path] = set(spec["responses"][good[0]]["content"])
            schema = spec["responses"]["4XX"]["content"]["application/json"]["schema"]
            assert schema == {"$ref": "#/components/schemas/Error"}
            if kinds[path] == {"application/json"}:
                assert "$ref" in spec["responses"][good[0]]["content"]["application/json"]["schema"], path
    assert kinds["/api/stream"] == {"text/event-stream"}
    assert kinds["/api/series"] == {"application/json", "text/csv"}
    assert kinds["/api/export"] == {"application/vnd.apache.parquet", "text/csv"}


def test_every_address_is_described_and_exists(run: Running) -> None:
    """An address, parameter or method that is only in the code or only in the docs fails here."""
    paths = run.http.get("/openapi.json").json()["paths"]
    made = {
        (method.upper(), path): {p["name"] for p in spec.get("parameters", []) if p["in"] == "query"}
        for path, methods in paths.items()
        for method, spec in methods.items()
    }
    told: dict[tuple[str, str], set[str]] = {}
    named = re.findall(r"`(GET|POST) (/[^?`]*)\??([^`]*)`", PAGE.read_text(encoding="utf-8"))
    for method, path, query in named:
        told.setdefault((method, path), set()).update(re.findall(r"(\w+)=", query))
    assert told == made
