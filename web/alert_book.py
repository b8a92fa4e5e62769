"""Alerts as the page sees them, followed transition by transition so that one shows before the store commits it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import orjson

from qingtu.records import times_of
from web import words

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pyarrow as pa

    from qingtu.catalogue import Catalogue

ACTIVE: Final = ("open", "acknowledged")
_ENDED_KEPT: Final = 1000
_COLUMNS: Final = (
    "alert", "rule", "station", "property", "channel", "level", "state", "value", "limit", "evidence", "who", "note",
)  # fmt: skip


class AlertBook:
    """Active alerts, and the last of those that ended, by id; rows as ``PrimaryStore.alerts`` returns them."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[str, Any]] = {}
        self._ended: dict[str, dict[str, Any]] = {}

    def start(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Take up what the store holds."""
        self._rows = {row["alert"]: dict(row) for row in rows}

    def apply(self, batch: pa.RecordBatch) -> list[dict[str, Any]]:
        """Take transitions (``ALERT_ROWS``) up and return the alerts that changed, as they are now."""
        columns = {name: batch.column(name).to_pylist() for name in _COLUMNS}
        columns["opened_at"] = times_of(batch.column("opened_at")).tolist()
        columns["changed_at"] = times_of(batch.column("time")).tolist()
        changed: dict[str, dict[str, Any]] = {}
        for values in zip(*columns.values(), strict=True):
            row = dict(zip(columns, values, strict=True))
            changed[row["alert"]] = self._take(row)
        return list(changed.values())

    def _take(self, row: dict[str, Any]) -> dict[str, Any]:
        key = row["alert"]
        old = self._rows.get(key) or self._ended.get(key)
        now = _follow(old, row)
        if now["state"] in ACTIVE:
            self._rows[key] = now
            self._ended.pop(key, None)
        else:
            self._rows.pop(key, None)
            self._ended[key] = now
            if len(self._ended) > _ENDED_KEPT:
                self._ended.pop(next(iter(self._ended)))
        return now

    def active(self) -> list[dict[str, Any]]:
        """Return active alerts, unacknowledged and highest first."""
        return sorted(self._rows.values(), key=lambda r: (r["state"] != "open", -r["level"], -r["opened_at"]))

    def get(self, alert: str) -> dict[str, Any] | None:
        """Return an alert that is active or has ended lately."""
        return self._rows.get(alert) or self._ended.get(alert)


def _follow(old: dict[str, Any] | None, new: dict[str, Any]) -> dict[str, Any]:
    """Return the alert after a transition; what a transition by hand does not carry stays."""
    by_hand = {"who": new["who"], "note": new["note"]}
    known = old or {"shown_value": None, "shown_limit": None, "top_level": 0, "who": "", "note": "", "state": "open"}
    now = {**known, **new, "who": known["who"], "note": known["note"]}
    if not _absent(new["value"]):
        now["shown_value"] = new["value"]
    if not _absent(new["limit"]):
        now["shown_limit"] = new["limit"]
    now["top_level"] = max(known["top_level"], new["level"])
    if new["state"] == "comment":
        now["state"] = known["state"]
    if new["state"] == "acknowledged" and by_hand["who"]:
        now["who"] = by_hand["who"]
    if by_hand["note"]:
        now["note"] = by_hand["note"]
    if by_hand["who"] and old is not None:
        # By hand nothing of what the rule saw changes.
        now["evidence"] = old["evidence"]
    return now


def alert_json(row: Mapping[str, Any], catalogue: Catalogue) -> dict[str, Any]:
    """Return an alert as the API gives it.

    Args:
        row: as ``PrimaryStore.alerts`` returns it.
        catalogue: for the names of its rule; a rule that is gone is called by its id.
    """
    rule = next((r for r in catalogue.rules if r.id == row["rule"]), None)
    number = catalogue.series_index(row["station"], row["property"], row["channel"]) if row["property"] else None
    evidence = orjson.loads(row["evidence"] or b"{}")
    # A rule that measures something else than the reading (a change per hour, a share) says in what unit.
    unit = evidence.get("unit", "" if number is None else catalogue.series[number].unit)
    active = row["state"] in ACTIVE
    level = row["level"] if active else row["top_level"]
    return {
        "id": row["alert"],
        "rule": row["rule"],
        "rule_zh": rule.zh if rule else row["rule"],
        "rule_en": rule.en if rule else row["rule"],
        "station": row["station"],
        "property": row["property"] or None,
        "channel": row["channel"] or None,
        "level": level,
        "level_key": words.level_key(level),
        "top_level": row["top_level"],
        "state": row["state"],
        "opened_ms": row["opened_at"] // 1000,
        "changed_ms": row["changed_at"] // 1000,
        "value": _number(row["shown_value"]),
        "limit": _number(row["shown_limit"]),
        "unit_label": words.unit_label(unit),
        "who": row["who"],
        "note": row["note"],
        "evidence": evidence,
    }


def _absent(value: float | None) -> bool:
    return value is None or math.isnan(value)


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value
