"""Takes the queries out of dashboards and fills them in as Grafana does, so that a test can ask InfluxDB itself.

Source: Grafana's ``datasource.ts`` and ``response_parser.ts`` of the InfluxDB data source (time filter, values of
variables) and ``templateSrv`` with its format ``regex`` (escaped, several values as ``(a|b)``).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode
from urllib.request import Request, urlopen

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Query:
    """One query of a dashboard.

    Attributes:
        dashboard: uid.
        panel: title of the panel, name of the variable or of the annotation.
        kind: ``panel``, ``variable`` or ``annotation``.
        source: uid of the data source.
        text: InfluxQL with Grafana's variables.
    """

    dashboard: str
    panel: str
    kind: str
    source: str
    text: str


def queries(dashboard: Mapping[str, Any]) -> Iterator[Query]:
    """Yield the queries of panels and annotations; those of variables are asked by :func:`variables`."""
    uid = dashboard["uid"]
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield Query(uid, panel["title"], "panel", target["datasource"]["uid"], target["query"])
    for mark in dashboard["annotations"]["list"]:
        yield Query(uid, mark["name"], "annotation", mark["datasource"]["uid"], mark["query"])


def fill_in(text: str, values: Mapping[str, str | Sequence[str]], *, start: str, end: str, interval: str) -> str:
    """Put times and values of variables in.

    Args:
        text: InfluxQL with Grafana's variables.
        values: of each variable; a sequence for one with several values.
        start: RFC 3339 of the beginning of the shown time.
        end: of its end.
        interval: ``$__interval``, such as ``1m``.
    """
    text = text.replace("$timeFilter", f"time >= '{start}' AND time <= '{end}'").replace("$__interval", interval)

    def value(found: re.Match[str]) -> str:
        chosen = values[found[1]]
        if found[2] != ":regex":
            assert isinstance(chosen, str), found[0]
            return chosen
        if isinstance(chosen, str):
            return chosen if chosen == ".*" else _escaped(chosen)  # a variable's own "All" is taken as it is
        return f"({'|'.join(map(_escaped, chosen))})"

    filled = re.sub(r"\$\{(\w+)(:\w+)?\}", value, text)
    assert "$" not in re.sub(r"/\^.*?\$/", "", filled), filled
    return filled


def _escaped(value: str) -> str:
    return re.sub(r"[\\^$*+?.()|\[\]{}/]", lambda found: "\\" + found[0], value)


def options(answer: Sequence[Mapping[str, Any]], regex: str) -> list[str]:
    """Return a variable's options: the second column of each row that fit its regular expression."""
    found = [str(row[1]) for series in answer for row in series["values"]]
    if regex:
        found = [text for text in found if re.search(regex.strip("/"), text)]
    return sorted(dict.fromkeys(found))


class InfluxQL:
    """Asks an InfluxDB as Grafana's data sources do: v1 ``/query``, POST, token header, database = bucket."""

    def __init__(self, url: str, token: str, databases: Mapping[str, str]) -> None:
        """Keep the address.

        Args:
            url: of InfluxDB.
            token: that may read.
            databases: bucket of each data source, by uid.
        """
        self._url, self._token, self._databases = url, token, databases

    def __call__(self, source: str, text: str) -> list[dict[str, Any]]:
        """Return the series of an answer; empty when there is none.

        Raises:
            AssertionError: InfluxDB refuses the query.
        """
        address = f"{self._url}/query?{urlencode({'db': self._databases[source], 'epoch': 'ms'})}"
        headers = {"Authorization": f"Token {self._token}", "Content-Type": "application/x-www-form-urlencoded"}
        with urlopen(Request(address, data=urlencode({"q": text}).encode(), headers=headers), timeout=30) as answer:
            (result,) = json.load(answer)["results"]
        assert "error" not in result, f"{result['error']}: {text}"
        series: list[dict[str, Any]] = result.get("series", [])
        return series
