"""Takes transitions into the book, once each, and decides who is to be told."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import orjson

from qingtu.contracts import Transition
from qingtu.records import times_of
from sinks.notify.routing import ENDS, escalations, told_by_routes
from sinks.notify.templates import as_data, fields

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

    import pyarrow as pa

    from qingtu.catalogue import Catalogue
    from qingtu.settings_notify import NotifySettings

_PLAIN: Final = ("alert", "rule", "station", "property", "channel", "level", "state", "value", "limit", "revision")


def transitions_of(batch: pa.RecordBatch) -> Iterator[Transition]:
    """Yield the rows of a section ``alerts``."""
    columns = {name: batch.column(name).to_pylist() for name in (*_PLAIN, "evidence", "who", "note")}
    columns["time_us"] = times_of(batch.column("time")).tolist()
    columns["opened_us"] = times_of(batch.column("opened_at")).tolist()
    columns["known_us"] = times_of(batch.column("known_at")).tolist()
    for values in zip(*columns.values(), strict=True):
        row: dict[str, Any] = dict(zip(columns, values, strict=True))
        for name in ("value", "limit"):
            row[name] = math.nan if row[name] is None else row[name]
        for name in ("property", "channel", "station", "rule", "who", "note"):
            row[name] = row[name] or ""
        yield Transition(**{**row, "evidence": orjson.loads(row["evidence"] or b"{}")})


class Intake:
    """Belongs to one transaction of the book.

    Args:
        db: of the transaction.
        settings: channels and routes.
        since_us: what was known before is history: its state is kept, nobody is told.
    """

    def __init__(self, db: sqlite3.Connection, settings: NotifySettings, since_us: int) -> None:
        self._db = db
        self._settings = settings
        self._since_us = since_us

    def take(self, row: Transition, catalogue: Catalogue | None) -> None:
        """Take one transition; one that was taken before changes nothing.

        Args:
            row: the transition.
            catalogue: in force when it happened; None when it cannot be had: ids take the place of names.
        """
        before = self._db.execute("SELECT top FROM alerts WHERE alert = ?", (row.alert,)).fetchone()
        top = max(row.level, before["top"] if before else 0)
        shown = row.level or top
        station = catalogue.stations.get(row.station) if catalogue else None
        rule = next(((r.zh, r.en) for r in catalogue.rules if r.id == row.rule), None) if catalogue else None
        values = fields(row, shown, station, rule or (row.rule, row.rule), self._settings.timezone)
        text = orjson.dumps({"fields": values, "data": as_data(row, top, values)}).decode()
        made = self._db.execute(
            "INSERT OR IGNORE INTO transitions (alert, state, level, time_us, known_us, shown, row) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (row.alert, row.state, row.level, row.time_us, row.known_us, shown, text),
        )
        if not made.rowcount:
            return
        number = made.lastrowid
        if row.state != "comment":
            self._db.execute(
                "INSERT OR REPLACE INTO alerts VALUES (?, ?, ?, ?, ?)",
                (row.alert, top, row.state in ENDS, number, row.known_us),
            )
        if row.state in (*ENDS, "acknowledged"):
            self._db.execute("DELETE FROM escalations WHERE alert = ?", (row.alert,))
        # Of a muted alert nobody hears more than that it is over, and only who had heard of it.
        muted = "muted" in row.evidence and row.state not in ENDS
        if row.known_us < self._since_us or muted:
            return
        where = {"rule": row.rule, "station_id": row.station, "station": station}
        for channel in sorted(self._channels(row, shown, where)):
            self._tell(row, channel, number, shown)
        if row.state == "open":
            self._escalate_later(row, shown, where)

    def _channels(self, row: Transition, level: int, where: dict[str, Any]) -> set[str]:
        """Return who is told: by routes, and of what becomes of an alert everybody who was told of it."""
        told = {
            found["channel"]: bool(found["escalated"])
            for found in self._db.execute("SELECT channel, escalated FROM told WHERE alert = ?", (row.alert,))
        }
        known = {channel.name for channel in self._settings.channels}
        if row.state in ENDS:
            return set(told) & known
        names = told_by_routes(self._settings.routes, state=row.state, level=level, **where)
        if row.state == "open":
            names |= set(told)
        elif row.state == "acknowledged":
            names |= {channel for channel, escalated in told.items() if escalated}
        return names & known

    def _tell(self, row: Transition, channel: str, number: int | None, level: int) -> None:
        group = {"station": row.station or row.rule, "rule": row.rule, "none": ""}[self._settings.group_by]
        self._db.execute(
            "INSERT INTO items (channel, transition_id, level, grp, at_us, escalated) VALUES (?, ?, ?, ?, ?, 0)",
            (channel, number, level, group, row.known_us),
        )
        self._db.execute("INSERT OR IGNORE INTO told VALUES (?, ?, 0)", (row.alert, channel))

    def _escalate_later(self, row: Transition, level: int, where: dict[str, Any]) -> None:
        for channel, after_us in escalations(self._settings.routes, level=level, **where):
            self._db.execute(
                "INSERT INTO escalations SELECT ?, ?, ? WHERE NOT EXISTS "
                "(SELECT 1 FROM told WHERE alert = ? AND channel = ?) "
                "ON CONFLICT DO UPDATE SET due_us = min(due_us, excluded.due_us)",
                (row.alert, channel, row.known_us + after_us, row.alert, channel),
            )
