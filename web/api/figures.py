"""Figures as they are or were published, and what of them changed, because of which messages."""

from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from processors.indices import INDICES
from processors.indices.contract import MAIN, Index
from processors.indices.run import area_members
from qingtu.causes import told as told_correction
from qingtu.clock import DAY
from qingtu.contracts import FigureQuery
from web import words
from web.api import answers
from web.api.answers import told
from web.api.readings import Ms, SeriesQuery
from web.context import Ctx, answer
from web.unknown import check_figures, check_property, check_station, check_statistic

router = APIRouter(prefix="/api", tags=["figures"])
_What = Annotated[str | None, Query(min_length=1, max_length=64)]
_Named = Annotated[str | None, Query(min_length=1, max_length=128)]


class FiguresQuery(SeriesQuery):
    """Which figures, and as they were published when."""

    what: str | None = Field(None, min_length=1, max_length=64, description="one statistic, such as hour or day_ld")
    as_of_ms: int | None = Field(
        None, ge=0, le=253_402_300_799_000, description="as published then, ms since 1970, UTC; none: as they are now"
    )


@router.get("/figures", response_class=Response, responses=told(answers.Figures))
def figures(request: Request, context: Ctx, asked: Annotated[FiguresQuery, Query()]) -> Response:
    """Figures of one series whose period starts in the range (the last seven days unless told), oldest first."""
    station, property_, channel = asked.key()
    start, end = asked.span_ms(context, 7)
    rows = context.service.store.figures(
        station, property_, start * 1000, end * 1000 + 1000, channel=channel, what=asked.what,
        known_by_us=None if asked.as_of_ms is None else asked.as_of_ms * 1000 + 999,
    )  # fmt: skip
    if not rows:
        if asked.what is not None:
            check_statistic(asked.what)
        check_figures(context, asked.key())
    shown = [
        {
            "what": row["what"], "start_ms": row["start"] // 1000, "value": row["value"], "count": row["count"],
            "expected": row["expected"], "valid": row["valid"], "reason": row["reason"],
            "stats": orjson.loads(row["inputs"] or "{}").get("stats", {}),
            "revision": str(row["revision"]), "known_ms": row["known_at"] // 1000,
        }
        for row in rows
    ]  # fmt: skip
    return answer(request, {"station": station, "property": property_, "channel": channel, "rows": shown})


@router.get("/areas", response_class=Response, responses=told(answers.Areas))
def areas(request: Request, context: Ctx) -> Response:
    """Districts and cities that have indices, with the newest hour and day figure of each (of the last three days)."""
    catalogue = context.service.catalogue
    members = area_members(catalogue)
    of_areas = [index for index in INDICES.values() if index.of_area is not None]
    keys = [(area, index.key, MAIN) for area in members for index in of_areas]
    now = context.service.clock.now_us()
    newest: dict[tuple[str, str, str], dict[str, Any]] = {}
    for what in ("hour_index", "day_index"):
        table = context.service.store.figures_of(FigureQuery(keys, now - 3 * DAY, now + 1, what=what))
        for row in sorted(table.to_pylist(), key=lambda one: int(one["start"])):
            area, index, _ = keys[row["series"]]
            newest[area, index, what] = row
    shown = [
        {
            "area": area, **words.both(words.DISTRICTS.get(area, (area, area))), "stations": list(stations),
            "indices": [
                _index(index, what, newest[area, index.key, what])
                for index in of_areas
                for what in ("hour_index", "day_index")
                if (area, index.key, what) in newest
            ],
        }
        for area, stations in members.items()
    ]  # fmt: skip
    return answer(request, {"areas": shown})


def _index(index: Index, what: str, row: dict[str, Any]) -> dict[str, Any]:
    inputs = orjson.loads(row["inputs"] or "{}")
    level = {name: inputs.get(name) for name in ("level", "zh", "en", "colour")}
    return {
        "property": index.key, "zh": index.zh, "en": index.en, "what": what, "start_ms": int(row["start"]) // 1000,
        "value": row["value"], "valid": row["valid"], "reason": row["reason"], "primary": inputs.get("primary", []),
        "level": None if level["level"] is None else level,
    }  # fmt: skip


@router.get("/corrections", response_class=Response, responses=told(answers.FigureCorrections))
def corrections(
    request: Request,
    context: Ctx,
    station: _Named = None,
    property: _Named = None,  # noqa: A002 - the name of the parameter in the address
    what: _What = None,
    since_ms: Ms = 0,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> Response:
    """Published figures that changed, newest first: from what to what, because of which raw rows."""
    store = context.service.store
    rows = store.figure_corrections(since_ms * 1000, limit, station=station, prop=property, what=what)
    if not rows:
        if what is not None:
            check_statistic(what)
        if property is not None:
            check_property(property)
        if station is not None:
            check_station(context, station, areas=True)
    shown = [_correction(told_correction(row, store, context.service.catalogue)) for row in rows]
    return answer(request, {"corrections": shown})


def _correction(row: dict[str, Any]) -> dict[str, Any]:
    def side(one: dict[str, Any]) -> dict[str, Any]:
        kept = {name: value for name, value in one.items() if name not in ("revision", "known_at")}
        return {**kept, "revision": str(one["revision"]), "known_ms": one["known_at"] // 1000}

    because = [
        {
            "station": one["station"],
            "position": str(one["position"]),
            "property": one["property"],
            "time_ms": one["time"] // 1000,
        }
        for one in row["because"]
    ]
    names = ("what", "station", "property", "channel", "causes")
    return {
        **{name: row[name] for name in names}, "start_ms": row["start"] // 1000, "old": side(row["old"]),
        "new": side(row["new"]), "because": because,
    }  # fmt: skip
