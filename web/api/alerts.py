"""Alerts, and what people do about them."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from web.alert_book import ACTIVE, alert_json
from web.context import Context, Ctx, Person, answer
from web.guard import ApiError

router = APIRouter(prefix="/api/alerts", tags=["alerts"])
Ident = Annotated[str, Path(max_length=128)]


class Note(BaseModel):
    """What the person says."""

    model_config = ConfigDict(extra="forbid")
    note: str = Field("", max_length=2000)


@router.get("")
def alerts(
    request: Request,
    context: Ctx,
    state: Literal["active", "all"] = "active",
    limit: Annotated[int, Query(ge=1, le=10_000)] = 500,
) -> Response:
    """Alerts, unacknowledged and highest first; ``all`` also those that ended and are stored."""
    rows = context.live.active_alerts()[:limit]
    if state == "all":
        # What the bus told is newer than what the store has committed.
        known = {row["alert"] for row in rows}
        stored = context.service.store.alerts(active=False, limit=limit)
        rest = [context.live.alert(row["alert"]) or row for row in stored if row["alert"] not in known]
        rows = [*rows, *rest][:limit]
    catalogue = context.service.catalogue
    return answer(request, {"now_ms": context.live.now_ms(), "alerts": [alert_json(row, catalogue) for row in rows]})


@router.get("/{ident}")
def alert(request: Request, context: Ctx, ident: Ident) -> Response:
    """One alert with every transition of its life, oldest first (as far as they are stored)."""
    row = _find(context, ident)
    transitions = [
        {
            "state": t["state"], "level": t["level"], "time_ms": t["time"] // 1000, "known_ms": t["known_at"] // 1000,
            "value": t["value"], "limit": t["limit"], "revision": str(t["revision"]), "who": t["who"],
            "note": t["note"],
        }
        for t in context.service.store.alert(ident)
    ]  # fmt: skip
    return answer(request, {**alert_json(row, context.service.catalogue), "transitions": transitions})


@router.post("/{ident}/acknowledge")
def acknowledge(request: Request, context: Ctx, person: Person, ident: Ident, body: Note) -> Response:
    """Say that somebody looks after it. The answer is that the command is durable; its effect comes on the stream."""
    return _act(request, context, "acknowledge", person, ident, body.note)


@router.post("/{ident}/comment")
def comment(request: Request, context: Ctx, person: Person, ident: Ident, body: Note) -> Response:
    """Write a note to it."""
    if not body.note.strip():
        raise ApiError(422, "empty_note", "备注不能为空", "a comment needs a note")
    return _act(request, context, "comment", person, ident, body.note)


def _act(request: Request, context: Context, name: str, person: str, ident: str, note: str) -> Response:
    if _find(context, ident)["state"] not in ACTIVE:
        raise ApiError(409, "alert_ended", "该预警已结束", "this alert has ended")
    offset = context.service.command(name, person, {"alert": ident, "note": note.strip()})
    return answer(request, {"position": str(offset << 16), "who": person}, 202)


def _find(context: Context, ident: str) -> dict[str, Any]:
    row = context.live.alert(ident)
    if row is None:
        row = context.service.store.alert_now(ident)
    if row is None:
        raise ApiError(404, "unknown_alert", "没有这条预警", "there is no such alert")
    return row
