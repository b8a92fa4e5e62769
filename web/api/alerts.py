"""Alerts, and what people do about them."""

from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from processors.alerts.quiet import Maintenance as Maintained
from processors.alerts.quiet import Mute as Muted
from qingtu.clock import SECOND
from web import quiet
from web.alert_book import ACTIVE, alert_json
from web.api import answers
from web.api.answers import told
from web.context import Context, Ctx, Person, answer
from web.guard import ApiError
from web.unknown import close, meant, refusal

router = APIRouter(prefix="/api/alerts", tags=["alerts"])
Ident = Annotated[str, Path(max_length=128)]


class Note(BaseModel):
    """What the person says."""

    model_config = ConfigDict(extra="forbid")
    note: str = Field("", max_length=2000)


_ForS = Annotated[float, Field(ge=0, le=366 * 86400)]


class Mute(BaseModel):
    """What to mute, all words that are given must fit, and for how many seconds from now; 0 ends it."""

    model_config = ConfigDict(extra="forbid")
    station: str = Field("", max_length=64)
    district: str = Field("", max_length=64)
    rule: str = Field("", max_length=64)
    for_s: _ForS
    note: str = Field("", max_length=2000)


class Maintenance(BaseModel):
    """Which station is worked on, and for how many seconds from now; 0 ends it."""

    model_config = ConfigDict(extra="forbid")
    station: str = Field(min_length=1, max_length=64)
    for_s: _ForS
    note: str = Field("", max_length=2000)


@router.get("", response_class=Response, responses=told(answers.Alerts))
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


@router.get("/mutes", response_class=Response, responses=told(answers.Quiet))
def mutes(request: Request, context: Ctx) -> Response:
    """What people have switched off: mutes and maintenance in force, and what the catalogue plans."""
    now_ms = context.live.now_ms()
    muted = [
        {"station": m.station, "district": m.district, "rule": m.rule, "until_ms": m.until_us // 1000, "who": m.who,
         "note": m.note}
        for m in _mutes(context)
    ]  # fmt: skip
    worked = [
        {"station": m.station, "from_ms": m.from_us // 1000, "until_ms": m.until_us // 1000, "who": m.who,
         "note": m.note}
        for m in _maintenance(context)
    ]  # fmt: skip
    return answer(request, {"now_ms": now_ms, "mutes": muted, "maintenance": worked})


@router.get("/{ident}", response_class=Response, responses=told(answers.AlertLife))
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


@router.post("/{ident}/acknowledge", status_code=202, response_class=Response, responses=told(answers.Acted, 202))
def acknowledge(request: Request, context: Ctx, person: Person, ident: Ident, body: Note) -> Response:
    """Say that somebody looks after it. The answer is that the command is durable; its effect comes on the stream."""
    return _act(request, context, "acknowledge", person, ident, body.note)


@router.post("/{ident}/comment", status_code=202, response_class=Response, responses=told(answers.Acted, 202))
def comment(request: Request, context: Ctx, person: Person, ident: Ident, body: Note) -> Response:
    """Write a note to it."""
    if not body.note.strip():
        raise ApiError(422, "empty_note", "备注不能为空", "a comment needs a note")
    return _act(request, context, "comment", person, ident, body.note)


@router.post("/mute", status_code=202, response_class=Response, responses=told(answers.Done, 202))
def mute(request: Request, context: Ctx, person: Person, body: Mute) -> Response:
    """Mute alerts by station, district or rule until an end: they are recorded, marked as muted."""
    scope = {"station": body.station, "district": body.district, "rule": body.rule}
    if not any(scope.values()):
        raise ApiError(422, "empty_mute", "须指定站点、区或规则", "a mute needs a station, a district or a rule")
    # What is in force can be ended, also when its station, district or rule has left the catalogue meanwhile.
    if not (body.for_s == 0 and tuple(scope.values()) in {m[:3] for m in _mutes(context)}):
        _known_scope(context, body)
    until_us = context.live.now_ms() * 1000 + round(body.for_s * SECOND)
    context.service.command_all("mute", person, {**scope, "until_us": until_us, "note": body.note.strip()})
    return answer(request, {"until_ms": until_us // 1000, "who": person}, 202)


@router.post("/maintenance", status_code=202, response_class=Response, responses=told(answers.Done, 202))
def maintenance(request: Request, context: Ctx, person: Person, body: Maintenance) -> Response:
    """Begin maintenance of a station, or end it with 0 seconds: no alert of it opens meanwhile."""
    if not (body.for_s == 0 and body.station in {m.station for m in _maintenance(context) if m.who}):
        _known_station(context, body.station)
    until_us = context.live.now_ms() * 1000 + round(body.for_s * SECOND)
    args = {"station": body.station, "until_us": until_us, "note": body.note.strip()}
    context.service.command("maintenance", person, args, body.station)
    return answer(request, {"until_ms": until_us // 1000, "who": person}, 202)


def _mutes(context: Context) -> list[Muted]:
    return quiet.mutes(list(context.live.quiet.values()), context.live.now_ms() * 1000)


def _maintenance(context: Context) -> list[Maintained]:
    return quiet.maintenance(list(context.live.quiet.values()), context.service.catalogue, context.live.now_ms() * 1000)


def _known_scope(context: Context, body: Mute) -> None:
    """Refuse a mute of what the catalogue has not: it would mute nothing."""
    catalogue = context.service.catalogue
    _known_station(context, body.station)
    districts = {station.district for station in catalogue.stations.values() if station.district}
    if body.district and body.district not in districts:
        zh, en = meant(close(body.district, districts))
        message = "no station lies in this district (six digits of GB/T 2260)"
        raise ApiError(404, "unknown_district", f"没有站点在此区 (GB/T 2260 六位代码){zh}", f"{message}{en}")
    rules = {rule.id for rule in catalogue.rules}
    if body.rule and body.rule not in rules:
        raise refusal(404, "unknown_rule", ("规则", "rule"), body.rule, close(body.rule, rules))


def _known_station(context: Context, station: str) -> None:
    stations = context.service.catalogue.stations
    if station and station not in stations:
        raise refusal(404, "unknown_station", ("站点", "station"), station, close(station, stations))


def _act(request: Request, context: Context, name: str, person: str, ident: str, note: str) -> Response:
    found = _find(context, ident)
    if found["state"] not in ACTIVE:
        raise ApiError(409, "alert_ended", "该预警已结束", "this alert has ended")
    # A situation stands in the first partition; an alert on a network or route names no station, and stands in the
    # partition of those that it tells of.
    situations = {rule.id for rule in context.service.catalogue.rules if rule.kind == "situation"}
    named = found["station"] or next(iter(orjson.loads(found["evidence"] or b"{}").get("stations", ())), "")
    place = None if found["rule"] in situations else named
    offset = context.service.command(name, person, {"alert": ident, "note": note.strip()}, place)
    return answer(request, {"position": str(offset << 16), "who": person}, 202)


def _find(context: Context, ident: str) -> dict[str, Any]:
    row = context.live.alert(ident)
    if row is None:
        row = context.service.store.alert_now(ident)
    if row is None:
        raise ApiError(404, "unknown_alert", "没有这条预警", "there is no such alert")
    return row
