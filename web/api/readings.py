"""Latest readings, series, and the export of a range."""

import math
import os
import tempfile
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import FileResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.background import BackgroundTask

from qingtu.catalogue import Catalogue
from qingtu.catalogue_rules import ThresholdRule
from qingtu.catalogue_words import LEVELS
from qingtu.clock import DAY, iso
from qingtu.contracts import ReadingQuery
from qingtu.explain import reading_at
from qingtu.properties import load_properties
from web import words
from web.api import answers
from web.api.answers import sent, told
from web.api.csv import file_name
from web.api.series_csv import lines, pieces
from web.context import Context, Ctx, Person, answer
from web.guard import ApiError
from web.live import COLUMNS
from web.unknown import check_series, check_station

router = APIRouter(prefix="/api", tags=["readings"])

SERIES_ROWS = 50_000
"""Readings of one JSON answer at most; the newest are kept, and ``truncated`` says so."""
_DAY_MS = DAY // 1000


def _ms(description: str) -> Any:
    return Field(None, ge=_FIRST_MS, le=_LAST_MS, description=f"{description}; ms since 1970, UTC")


# Ten thousand years in ms: what is beyond is no time that the store can compare with.
_FIRST_MS, _LAST_MS = -62_135_596_800_000, 253_402_300_799_000
Ms = Annotated[int, Query(ge=_FIRST_MS, le=_LAST_MS, description="ms since 1970, UTC")]
Name = Annotated[str, Query(min_length=1, max_length=128)]
_SERIES = told(answers.Series) | {200: {"model": answers.Series, "content": {"text/csv": {}}}}


def span_ms(context: Context, from_ms: int | None, to_ms: int | None, days: int) -> tuple[int, int]:
    """Return first and last time of a range, so many days up to now unless told; no earlier than there is a time.

    Raises:
        ApiError: both are told, and the last one comes first.
    """
    if from_ms is not None and to_ms is not None and to_ms < from_ms:
        raise ApiError(422, "bad_request", "to_ms 不得小于 from_ms", "to_ms must not be less than from_ms")
    end = context.live.now_ms() if to_ms is None else to_ms
    return max(_FIRST_MS, end - days * _DAY_MS) if from_ms is None else from_ms, end


class SeriesQuery(BaseModel):
    """Which series, and which part of it."""

    station: str = Field(min_length=1, max_length=128)
    property: str = Field(min_length=1, max_length=128)
    channel: str = Field("main", min_length=1, max_length=128)
    from_ms: int | None = _ms("first time; none: so much before the last as the address tells")
    to_ms: int | None = _ms("last time; none: now")

    def key(self) -> tuple[str, str, str]:
        """Return what names the series."""
        return self.station, self.property, self.channel

    def span_ms(self, context: Context, days: int) -> tuple[int, int]:
        """Return first and last time, so many days up to now unless told."""
        return span_ms(context, self.from_ms, self.to_ms, days)


class ReadingsQuery(SeriesQuery):
    """Which readings, as known when, and written how."""

    as_of_ms: int | None = _ms("as it was known then; none: as it is known now")
    format: Literal["json", "csv"] = "json"


class Override(BaseModel):
    """Which reading gets which flag, and why."""

    model_config = ConfigDict(extra="forbid")
    station: str = Field(min_length=1, max_length=128)
    property: str = Field(min_length=1, max_length=128)
    channel: str = Field("main", min_length=1, max_length=128)
    time_ms: int = Field(ge=_FIRST_MS, le=_LAST_MS, description="of the reading; ms since 1970, UTC")
    flag: Literal[1, 2, 3, 4] = Field(description="QARTOD: 1 pass, 2 not evaluated, 3 suspect, 4 fail")
    reason: str = Field(min_length=1, max_length=2000)


@router.post("/override", status_code=202, response_class=Response, responses=told(answers.Acted, 202))
def override(request: Request, context: Ctx, person: Person, body: Override) -> Response:
    """Set the flag of one reading by hand. The answer is that the command is durable; figures follow at a next tick.

    A later override takes its place; a reading whose value changes afterwards is judged anew.
    """
    reason = body.reason.strip()
    if not reason:
        raise ApiError(422, "empty_note", "须写明原因", "an override needs a reason")
    key = (body.station, body.property, body.channel)
    context.wait_for_store()
    found = reading_at(context.service.store, key, body.time_ms * 1000)
    if found is None or context.service.catalogue.series_index(*key) is None:
        raise ApiError(404, "unknown_reading", "没有此读数", "there is no such reading")
    value = found["value"]
    args = {
        "station": key[0], "property": key[1], "channel": key[2], "time_us": found["time"],
        "value": None if value is None or math.isnan(value) else value, "tests": int(found["tests"]),
        "flag": body.flag, "reason": reason,
    }  # fmt: skip
    offset = context.service.command("override", person, args, body.station)
    return answer(request, {"position": str(offset << 16), "who": person}, 202)


@router.get("/latest", response_class=Response, responses=told(answers.Latest))
def latest(request: Request, context: Ctx, station: Annotated[str | None, Query(max_length=128)] = None) -> Response:
    """Newest reading of every series, or of one station's, as rows under column names."""
    keys, arrays = context.live.readings()
    chosen = np.arange(len(keys)) if station is None else _of(keys, station)
    if station is not None and not len(chosen):
        check_station(context, station)
    columns = [(arrays[name][chosen]).tolist() for name in ("value", "flag", "tests")]
    times = (arrays["time"][chosen] // 1000).tolist()
    if station is not None:
        keys = [keys[i] for i in chosen.tolist()]
    # orjson writes NaN as null: a missing value.
    rows = [(*key, *rest) for key, *rest in zip(keys, times, *columns, strict=True)]
    return answer(request, {"now_ms": context.live.now_ms(), "columns": COLUMNS, "rows": rows})


def _of(keys: list[tuple[str, str, str]], station: str) -> Any:
    return np.array([i for i, key in enumerate(keys) if key[0] == station], np.int64)


@router.get("/series", response_class=Response, responses=_SERIES)
def series(request: Request, context: Ctx, asked: Annotated[ReadingsQuery, Query()]) -> Response:
    """Readings of one series in a range (the last day unless told), as known now or at ``as_of_ms``."""
    key = asked.key()
    unit = _unit(context, key)
    start, end = asked.span_ms(context, 1)
    known_by = None if asked.as_of_ms is None else asked.as_of_ms * 1000 + 999
    limit = 1 if asked.format == "csv" else SERIES_ROWS + 1
    query = ReadingQuery([key], start * 1000, end * 1000 + 1000, known_by_us=known_by, limit=limit)
    table = context.service.store.readings(query)
    if asked.as_of_ms is None and _is_behind(context, key, query, table):
        context.wait_for_store()
        table = context.service.store.readings(query)
    if asked.format == "csv":
        return _csv(context, key, unit, query)
    truncated = table.num_rows > SERIES_ROWS
    if truncated:
        table = table.slice(1)
    data = {
        "station": asked.station, "property": asked.property, "channel": asked.channel, "unit": unit,
        "unit_label": words.unit_label(unit),
        "times_ms": (np.asarray(table.column("time")) // 1000).tolist(),
        "values": table.column("value").to_pylist(),
        "flags": table.column("flag").to_pylist(),
        "tests": table.column("tests").to_pylist(),
        "revisions": [str(revision) for revision in table.column("revision").to_pylist()],
        "known_ms": (np.asarray(table.column("known_at")) // 1000).tolist(),
        "limits": limits_of(context.service.catalogue, key), "truncated": truncated,
    }  # fmt: skip
    return answer(request, data)


def _is_behind(context: Context, key: tuple[str, str, str], query: ReadingQuery, table: Any) -> bool:
    """Return whether pages were told a newer reading of the range than the store gives."""
    told = context.live.series(key)
    if told is None or not query.start_us <= told["time_us"] < query.end_us:
        return False
    newest = int(table.column("time")[-1].as_py()) if table.num_rows else None
    return newest is None or newest < told["time_us"]


def _unit(context: Context, key: tuple[str, str, str]) -> str:
    """Return the unit of a series that the catalogue has, or that there are readings of; else it is refused."""
    catalogue = context.service.catalogue
    number = catalogue.series_index(*key)
    if number is not None:
        return catalogue.series[number].unit
    check_series(context, key)
    spec = load_properties().get(key[1])
    return spec.unit if spec else ""


def limits_of(catalogue: Catalogue, key: tuple[str, str, str]) -> list[dict[str, Any]]:
    """Return the thresholds of the rules for a series, lowest level first."""
    station = catalogue.stations.get(key[0])
    if station is None:
        return []
    out = []
    for rule in catalogue.rules:
        if not isinstance(rule, ThresholdRule) or (rule.property, rule.channel) != key[1:]:
            continue
        if not rule.where.covers(station):
            continue
        for n, level in enumerate(LEVELS, 1):
            if level in rule.levels:
                zh, en = words.LEVEL_WORDS[level]
                out.append({"rule": rule.id, "name_zh": f"{rule.zh} {zh}", "name_en": f"{rule.en}, {en.lower()}",
                            "value": rule.levels[level], "level": n, "direction": rule.direction})  # fmt: skip
    return out


def _csv(context: Context, key: tuple[str, str, str], unit: str, query: ReadingQuery) -> Response:
    """Send all readings, in pieces: one answer of ten years would fill memory, and a cut one would be taken for all."""
    text = lines(context.service.catalogue, key, unit, pieces(context.service.store, query))
    # The first piece before the first byte: a store that refuses is then told as such, and no file begins.
    first = [next(text), next(text, "")]
    name = file_name("_".join(key), "csv")
    return StreamingResponse(chain(first, text), media_type="text/csv; charset=utf-8", headers={
        "Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"})  # fmt: skip


@router.get("/export", response_class=Response, responses=sent("application/vnd.apache.parquet", "text/csv"))
def export(
    context: Ctx,
    from_ms: Ms,
    to_ms: Ms,
    format: Literal["parquet", "csv"] = "parquet",  # noqa: A002
) -> Response:
    """All readings with a time in [from_ms, to_ms), as a Parquet or CSV file."""
    if to_ms <= from_ms:
        raise ApiError(422, "bad_request", "to_ms 必须大于 from_ms", "to_ms must be greater than from_ms")
    folder = context.service.settings.data / "export"
    folder.mkdir(exist_ok=True)
    handle, made = tempfile.mkstemp(".part", dir=folder)
    os.close(handle)
    path = Path(made)
    try:
        count = context.service.store.export(path, from_ms * 1000, to_ms * 1000, fmt=format)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    kind = {"parquet": "application/vnd.apache.parquet", "csv": "text/csv; charset=utf-8"}[format]
    return FileResponse(
        path, media_type=kind, filename=file_name(f"qingtu_{iso(from_ms * 1000)}_{iso(to_ms * 1000)}", format),
        headers={"Cache-Control": "no-store", "X-Qingtu-Readings": str(count)},
        background=BackgroundTask(path.unlink, missing_ok=True),
    )  # fmt: skip
