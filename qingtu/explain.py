"""Why a reading is what it is: from the raw bytes to the value, step by step, by doing again what the pass did.

Nothing here decides anything: decoders, mapping and conversion are those of the pass, run on the bytes that raw still
holds, with the catalogue that was in use when they came.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import orjson

from processors.quality import CHECKS
from qingtu.clock import HOUR
from qingtu.contracts import ReadingQuery
from qingtu.errors import NotFound
from qingtu.explain_origin import SHOWN_BYTES, Explained, Step, finite, ms_of, origin, step
from qingtu.properties import load_properties
from qingtu.records import Cause

if TYPE_CHECKING:
    from qingtu.store.queries import Queries

_CAUSES: Final = {Cause.READING: "reading", Cause.QUALITY_DECIDED: "quality_decided", Cause.REDRIVE: "redrive"}


def explain(service: Explained, station: str, prop: str, time_us: int, channel: str = "main") -> dict[str, Any]:
    """Explain the reading of a series at a time.

    Args:
        service: a running service, or anything with its stores open.
        station: id of the station.
        prop: key of the property.
        time_us: time of the phenomenon, µs UTC; when there is none at exactly this time, the last one of the same
            millisecond is taken, which is how finely the API tells times.
        channel: of the series.

    Returns:
        ``found``; ``reading``; and ``steps``, each with step, zh, en and data. Steps are raw, decode, locate, convert,
        quality, store, figures, alerts, corrections; those before quality are absent when raw no longer holds the
        bytes, and the raw step says so.
    """
    key = (station, prop, channel)
    reading = service.store.reading(key, time_us) or _same_millisecond(service.store, key, time_us)
    if reading is None:
        return {"found": False, "reading": None, "steps": []}
    revision = _brought_by(reading)
    steps = origin(service, key, reading, revision)
    steps += [
        _quality(service, key, reading),
        _store(reading),
        _figures(service, key, reading),
        _alerts(service, key, reading, revision),
    ]
    if reading["corrections"]:
        steps.append(_corrections(service, reading))
    shown = {
        "station": station, "property": prop, "channel": channel, "time_ms": reading["time"] // 1000,
        "value": finite(reading["value"]), "flag": reading["flag"], "tests": reading["tests"],
        "revision": str(reading["revision"]),
    }  # fmt: skip
    return {"found": True, "reading": shown, "steps": steps}


def _same_millisecond(store: Queries, key: tuple[str, str, str], time_us: int) -> dict[str, Any] | None:
    start = time_us // 1000 * 1000
    table = store.readings(ReadingQuery([key], start, start + 1000, limit=1))
    return store.reading(key, int(table.column("time")[0].as_py())) if table.num_rows else None


def _brought_by(reading: dict[str, Any]) -> int:
    """Return the revision that brought the value; later ones that only changed the flag are walked back."""
    revision = int(reading["revision"])
    for correction in reversed(reading["corrections"]):
        if correction["new_revision"] != revision:
            continue
        if correction["cause"] != Cause.QUALITY_DECIDED:
            break
        revision = int(correction["old_revision"])
    return revision


def _quality(service: Explained, key: tuple[str, str, str], reading: dict[str, Any]) -> Step:
    number = service.catalogue.series_index(*key)
    limits = service.catalogue.series[number].limits if number is not None else None
    tests = int(reading["tests"])
    checks = [
        {
            "check": name, "bit": check.bit, "passed": not tests >> check.bit & 1,
            "limits": _limits(name, limits, key[1]),
        }
        for name, check in CHECKS.items()
    ]  # fmt: skip
    failed = [c["check"] for c in checks if not c["passed"]]
    zh = f"标记 {reading['flag']}: " + ("未通过 " + ", ".join(map(str, failed)) if failed else "没有检查不通过")
    en = f"flag {reading['flag']}: " + ("not passed: " + ", ".join(map(str, failed)) if failed else "no check failed")
    return step("quality", zh, en, {"flag": reading["flag"], "tests": tests, "checks": checks})


def _limits(check: str, limits: Any, prop: str) -> dict[str, float]:
    """Return the finite limits that a check used, by name, in the canonical unit."""
    if check == "plausible_range":
        spec = load_properties().get(prop)
        return dict(zip(("min", "max"), spec.plausible, strict=True)) if spec else {}
    names = {
        "gross_range": ("fail_min", "fail_max", "suspect_min", "suspect_max"),
        "rate_of_change": ("rate_suspect_per_h", "rate_fail_per_h"),
        "spike": ("spike_suspect", "spike_fail"),
    }.get(check, ())
    if limits is None:
        return {}
    return {name: value for name in names if math.isfinite(value := getattr(limits, name))}


def _store(reading: dict[str, Any]) -> Step:
    data = {
        "value": finite(reading["value"]), "flag": reading["flag"], "tests": reading["tests"],
        "revision": str(reading["revision"]), "known_ms": reading["known_at"] // 1000,
        "corrections": len(reading["corrections"]),
    }  # fmt: skip
    n = len(reading["corrections"])
    return step("store", f"入库, 更正 {n} 次", f"stored, corrected {n} times", data)


def _figures(service: Explained, key: tuple[str, str, str], reading: dict[str, Any]) -> Step:
    hour = reading["time"] // HOUR * HOUR
    rows = service.store.figures(key[0], key[1], hour, hour + 1, channel=key[2])
    shown = [
        {
            "what": row["what"], "start_ms": row["start"] // 1000, "value": finite(row["value"]),
            "count": row["count"], "expected": row["expected"], "valid": row["valid"], "reason": row["reason"],
            "inputs": orjson.loads(row["inputs"]),
        }
        for row in rows
    ]  # fmt: skip
    if not shown:
        return step(
            "figures", "所在小时尚未统计", "its hour has no figure yet", {"hour_ms": hour // 1000, "figures": []}
        )
    zh, en = f"计入 {len(shown)} 个统计值的时段", f"falls into the period of {len(shown)} figures"
    return step("figures", zh, en, {"hour_ms": hour // 1000, "figures": shown})


def _alerts(service: Explained, key: tuple[str, str, str], reading: dict[str, Any], revision: int) -> Step:
    revisions = {revision, int(reading["revision"])}
    rows = [row for r in sorted(revisions) for row in service.store.alerts_of(key[0], key[1], r)]
    shown = [
        {
            "alert": row["alert"], "rule": row["rule"], "state": row["state"], "level": row["level"],
            "time_ms": row["time"] // 1000, "value": finite(row["value"]), "limit": finite(row["limit"]),
        }
        for row in rows
    ]  # fmt: skip
    if not shown:
        return step("alerts", "没有引起预警变化", "it changed no alert", {"transitions": []})
    zh, en = f"引起 {len(shown)} 次预警变化", f"it caused {len(shown)} transitions of alerts"
    return step("alerts", zh, en, {"transitions": shown})


def _corrections(service: Explained, reading: dict[str, Any]) -> Step:
    rows = []
    for c in reading["corrections"]:
        row = {
            "cause": _CAUSES.get(Cause(c["cause"]), str(c["cause"])),
            "old": {"value": finite(c["old_value"]), "flag": c["old_flag"], "tests": c["old_tests"]},
            "new": {"value": finite(c["new_value"]), "flag": c["new_flag"], "tests": c["new_tests"]},
            "old_revision": str(c["old_revision"]), "new_revision": str(c["new_revision"]),
            "known_ms": c["known_at"] // 1000,
        }  # fmt: skip
        try:
            by = service.raw_row(c["new_revision"])
        except NotFound:
            row["by"] = None
        else:
            payload = (by["payload"] or b"")[:SHOWN_BYTES].decode("utf-8", "backslashreplace")
            row["by"] = {"device": by["device"], "received_ms": ms_of(by["received_at"]), "payload_text": payload}
        rows.append(row)
    n = len(rows)
    return step(
        "corrections", f"更正 {n} 次, 原值保留", f"corrected {n} times, what was replaced is kept", {"rows": rows}
    )
