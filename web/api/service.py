"""How the service is: status, ledger, audit, explain, back-up, metrics, health."""

import os
import shutil
from pathlib import Path
from typing import Annotated, Any, Final

import orjson
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from qingtu.bus.gauges import gauges
from web import explain as explaining
from web.api import answers
from web.api.answers import sent, told
from web.api.readings import Ms, Name, span_ms
from web.context import Context, Ctx, Person, answer, known_person

router = APIRouter(tags=["service"])
_TEXT: Final = "text/plain; charset=utf-8"


@router.get("/api/status", response_class=Response, responses=told(answers.Status))
def status(request: Request, context: Ctx) -> Response:
    """Whether all is well, and what is not; never ``ok`` while something is lost or does not move."""
    return answer(request, context.monitor.look())


@router.get("/api/ledger", response_class=Response, responses=told(answers.Ledger))
def ledger(request: Request, context: Ctx) -> Response:
    """What came in and what became of it, in sum and by network and hour."""
    report = context.service.ledger.report()
    by = [{**{k: v for k, v in row.items() if k != "hour"}, "hour_ms": row["hour"] // 1000} for row in report["by"]]
    return answer(request, {**report, "by": by})


@router.post("/api/audit", response_class=Response, responses=told(answers.Audit))
def audit(request: Request, context: Ctx, person: Person) -> Response:
    """Recount everything from raw, store and quarantine, and compare with the ledger. Takes its time."""
    del person
    return answer(request, context.service.audit())


@router.get("/api/explain", response_class=Response, responses=told(answers.Explanation))
def explain(
    request: Request,
    context: Ctx,
    station: Name,
    property: Name,  # noqa: A002 - the name of the parameter in the address
    time_ms: Ms,
    channel: Name = "main",
) -> Response:
    """Why a reading is what it is: from the raw bytes to the value, step by step."""
    person = known_person(request, context)
    return answer(request, explaining.explain(context, station, property, time_ms * 1000, channel, person=person))


class Backup(BaseModel):
    """Name of the folder under ``data/backups``; the time when none is given."""

    model_config = ConfigDict(extra="forbid")
    name: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")


@router.post("/api/backup", status_code=201, response_class=Response, responses=told(answers.Backup, 201))
def backup(request: Request, context: Ctx, person: Person, body: Backup | None = None) -> Response:
    """Copy store, bus and catalogues while they are in use. Secret and tokens are not copied: keep them elsewhere."""
    del person
    folder = context.backups.make(body.name if body is not None else None)
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    size = sum(p.stat().st_size for p in files)
    data = {
        "folder": str(folder),
        "name": folder.name,
        "files": [str(p.relative_to(folder)) for p in files],
        "bytes": size,
    }
    return answer(request, data, 201)


@router.get("/api/events", response_class=Response, responses=told(answers.Events))
def events(
    request: Request,
    context: Ctx,
    from_ms: Ms | None = None,
    to_ms: Ms | None = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 500,
) -> Response:
    """Events of devices (doors, alarms, clocks found wrong) in a range, newest first; the last day unless told."""
    start, end = span_ms(context, from_ms, to_ms, 1)
    rows = [
        {
            "station": row["station"], "kind": row["kind"], "level": row["level"], "time_ms": row["time"] // 1000,
            "attributes": orjson.loads(row["attributes"]), "revision": str(row["revision"]),
            "known_ms": row["known_at"] // 1000,
        }
        for row in context.service.store.events(start * 1000, end * 1000 + 1000, limit)
    ]  # fmt: skip
    return answer(request, {"events": rows})


@router.get("/metrics", response_class=Response, responses=sent("text/plain"))
def metrics(context: Ctx) -> Response:
    """Counters and gauges in Prometheus' text format."""
    _gauges(context)
    text = context.service.metrics.text() + gauges(context.service.bus)
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


def _gauges(context: Context) -> None:
    look: dict[str, Any] = context.monitor.look()
    gauge = context.service.metrics.gauge
    for stage in look["stages"]:
        gauge("stage_lag_frames", stage["lag_frames"], stage=stage["name"])
    for sink in context.service.followers.stages:
        gauge("sink_lost_frames", sink.lost_frames, sink=sink.name)
    for name in ("received", "stored", "duplicate", "quarantined", "ignored", "in_flight"):
        gauge("ledger_messages", look["ledger"][name], outcome=name)
    gauge("ledger_balanced", float(look["ledger"]["balanced"]))
    gauge("message_rate_per_second", look["rate_per_s"])
    if look["latency_p99_ms"] is not None:
        gauge("latency_p99_seconds", look["latency_p99_ms"] / 1000)
    gauge("problems", len(look["problems"]))
    gauge("streams_open", look["streams_open"])
    gauge("alerts_active", len(context.live.active_alerts()))
    gauge("disk_free_bytes", shutil.disk_usage(context.service.settings.data).free)


@router.get("/healthz", response_class=Response, responses=sent("text/plain"))
def healthz() -> Response:
    """The process answers."""
    return Response(f"ok {os.getpid()}\n", media_type=_TEXT)


@router.get("/readyz", response_class=Response, responses=sent("text/plain"))
def readyz(context: Ctx) -> Response:
    """200 when messages are taken and worked on, else 503 with what is waited for."""
    waits = context.monitor.ready()
    if waits:
        return Response(f"waiting for {', '.join(waits)}\n", 503, media_type=_TEXT)
    return Response("ready\n", media_type=_TEXT)


def export_folder(data: Path) -> Path:
    """Return the folder of half-made exports; what a killed process left there is removed."""
    folder = data / "export"
    for left in folder.glob("*.part"):
        left.unlink(missing_ok=True)
    return folder
