"""docs/api.md and the application name the same addresses."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.web.conftest import Running

PAGE = Path(__file__).parents[2] / "docs" / "api.md"


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
