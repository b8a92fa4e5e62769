"""Why a reading is what it is: from the raw bytes to the value, step by step, by doing again what the pass did.

Nothing here decides anything: decoders, mapping and conversion are those of the pass, run on the bytes that raw still
holds, with the catalogue that was in use when they came.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson

from processors.aggregates.periods import holding
from processors.aggregates.rules import load_rules
from qingtu.clock import HOUR
from qingtu.contracts import ReadingQuery
from qingtu.errors import NotFound
from qingtu.explain_origin import SHOWN_BYTES, Explained, Step, finite, ms_of, origin, step
from qingtu.quality_words import checks_of
from qingtu.records import NEIGHBOUR, OVERRIDDEN, VERDICTS, Cause

if TYPE_CHECKING:
    from qingtu.store.contract import PrimaryStore

_EVENTS: Final = 1_000_000
_CAUSES: Final = {
    Cause.READING: "reading",
    Cause.QUALITY_DECIDED: "quality_decided",
    Cause.REDRIVE: "redrive",
    Cause.REPLAY: "replay",
    Cause.OVERRIDE: "override",
    Cause.NEIGHBOUR: "neighbour",
}


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
        quality, override, store, figures, alerts, corrections; override is there when a person set the flag; those
        before quality are absent when raw no longer holds the bytes, and the raw step says so. In front of them stands
        replay when the value was published by one.
    """
    key = (station, prop, channel)
    reading = reading_at(service.store, key, time_us)
    if reading is None:
        return {"found": False, "reading": None, "steps": []}
    revision = _brought_by(reading)
    replayed = service.store.replay_of(key, reading["time"], revision)
    if replayed is None:
        steps = origin(service, key, reading, revision)
    else:
        # The revision is that of the promote; the bytes stand where the value came from.
        revision = int(replayed["origin"])
        catalogue, partition = replayed["catalogue"], replayed["partition"]
        steps = [_replayed(replayed), *origin(service, key, reading, revision, catalogue, partition)]
    steps += [
        _quality(service, key, reading),
        *_overrides(service, key, reading),
        *neighbours(service.store, key, reading),
        _store(reading),
        _figures(service, key, reading),
        _alerts(service, key, reading, revision),
    ]
    if reading["corrections"]:
        steps.append(_corrections(service, key[0], reading))
    shown = {
        "station": station, "property": prop, "channel": channel, "time_ms": reading["time"] // 1000,
        "value": finite(reading["value"]), "flag": reading["flag"], "tests": reading["tests"],
        "revision": str(reading["revision"]),
    }  # fmt: skip
    return {"found": True, "reading": shown, "steps": steps}


def _replayed(found: dict[str, Any]) -> Step:
    name, version = found["name"], found["catalogue"]
    data = {
        "cause": "replay", "generation": name, "catalogue": version, "promoted_ms": found["promoted_us"] // 1000,
        "position": str(found["origin"]),
    }  # fmt: skip
    zh = f"由回放 {name} 发布, 目录 {version}"
    return step("replay", zh, f"published by replay {name} with catalogue {version}", data)


def reading_at(store: PrimaryStore, key: tuple[str, str, str], time_us: int) -> dict[str, Any] | None:
    """Return a reading with its corrections; without one at exactly this time, the last of the same millisecond."""
    return store.reading(key, time_us) or _same_millisecond(store, key, time_us)


def _same_millisecond(store: PrimaryStore, key: tuple[str, str, str], time_us: int) -> dict[str, Any] | None:
    start = time_us // 1000 * 1000
    table = store.readings(ReadingQuery([key], start, start + 1000, limit=1))
    return store.reading(key, int(table.column("time")[0].as_py())) if table.num_rows else None


def _brought_by(reading: dict[str, Any]) -> int:
    """Return the revision that brought the value; later ones that only changed the flag are walked back."""
    revision = int(reading["revision"])
    for correction in reversed(reading["corrections"]):
        if correction["new_revision"] != revision:
            continue
        if correction["cause"] not in VERDICTS:
            break
        revision = int(correction["old_revision"])
    return revision


def _quality(service: Explained, key: tuple[str, str, str], reading: dict[str, Any]) -> Step:
    """Return which checks did not pass, each with its limits in words; limits are those of the catalogue in use."""
    tests = int(reading["tests"])
    told = checks_of(service.catalogue, key, reading["time"])
    failed = [one for one in told if tests >> one.bit & 1]
    checks = [
        {"check": one.check, "bit": one.bit, "passed": one not in failed, "limits": one.limits} for one in told
    ]  # fmt: skip
    zh = "未通过 " + ", ".join(one.zh for one in failed) if failed else "没有检查不通过"
    en = "not passed: " + ", ".join(one.en for one in failed) if failed else "no check failed"
    by_zh, by_en = (" (人工设定)", " (set by a person)") if tests & OVERRIDDEN else ("", "")
    flag = reading["flag"]
    return step(
        "quality",
        f"标记 {flag}{by_zh}: {zh}",
        f"flag {flag}{by_en}: {en}",
        {"flag": reading["flag"], "tests": tests, "checks": checks},
    )


def _overrides(service: Explained, key: tuple[str, str, str], reading: dict[str, Any]) -> list[Step]:
    """Return who set the flag of the reading, to what and why, oldest first; nothing when nobody ever did."""
    told = [
        {**attributes, "known_ms": row["known_at"] // 1000}
        for row in service.store.events(reading["time"], reading["time"] + 1)
        if (row["station"], row["kind"]) == (key[0], "override")
        and (attributes := orjson.loads(row["attributes"]))["property"] == key[1]
        and attributes["channel"] == key[2]
    ]
    if not told:
        return []
    told.sort(key=lambda one: int(one["position"]))
    last = told[-1]
    zh = f"{last['who']} 将标记改为 {last['flag']}: {last['reason']}"
    en = f"{last['who']} set the flag to {last['flag']}: {last['reason']}"
    return [step("override", zh, en, {"rows": told, "stands": bool(int(reading["tests"]) & OVERRIDDEN)})]


def neighbours(store: PrimaryStore, key: tuple[str, str, str], reading: dict[str, Any]) -> list[Step]:
    """Return what the stations around read in the periods that hold the reading, each as it was said last."""
    found: dict[int, dict[str, Any]] = {}
    # The longest period is an hour; events of all stations stand in it.
    for row in store.events(reading["time"] - HOUR, reading["time"] + 1, limit=_EVENTS):
        if (row["station"], row["kind"]) == (key[0], "neighbour"):
            told = orjson.loads(row["attributes"])
            ours = (told["property"], told["channel"]) == key[1:] and reading["time"] < told["end_us"]
            before = found.get(row["time"])
            if ours and (before is None or int(before["position"]) < int(told["position"])):
                end_ms = told.pop("end_us") // 1000
                found[row["time"]] = {**told, "start_ms": row["time"] // 1000, "end_ms": end_ms}
    if not found:
        return []
    last = found[max(found)]
    compared = f"{last['mean']:g} / {last['median']:g}" if last["median"] is not None else "-"
    zh = f"{'与' if last['bad'] else '不再与'}周边站点不符: 时段均值 / 周边中位数 {compared}"
    en = f"{'stands' if last['bad'] else 'no longer stands'} apart from the stations around: mean / median {compared}"
    stands = bool(int(reading["tests"]) & NEIGHBOUR)
    return [step("neighbour", zh, en, {"rows": [found[start] for start in sorted(found)], "stands": stands})]


def _store(reading: dict[str, Any]) -> Step:
    data = {
        "value": finite(reading["value"]), "flag": reading["flag"], "tests": reading["tests"],
        "revision": str(reading["revision"]), "known_ms": reading["known_at"] // 1000,
        "corrections": len(reading["corrections"]),
    }  # fmt: skip
    n = len(reading["corrections"])
    return step("store", f"入库, 更正 {n} 次", f"stored, corrected {n} times", data)


def _figures(service: Explained, key: tuple[str, str, str], reading: dict[str, Any]) -> Step:
    rows = _figures_over(service, key, reading["time"])
    shown = [
        {
            "what": row["what"], "start_ms": row["start"] // 1000, "value": finite(row["value"]),
            "count": row["count"], "expected": row["expected"], "valid": row["valid"], "reason": row["reason"],
            "inputs": orjson.loads(row["inputs"]),
        }
        for row in rows
    ]  # fmt: skip
    hour_ms = reading["time"] // HOUR * HOUR // 1000
    if not shown:
        return step(
            "figures", "所在时段尚未统计", "its periods have no figure yet", {"hour_ms": hour_ms, "figures": []}
        )
    zh, en = f"计入 {len(shown)} 个统计值的时段", f"falls into the period of {len(shown)} figures"
    return step("figures", zh, en, {"hour_ms": hour_ms, "figures": shown})


def _figures_over(service: Explained, key: tuple[str, str, str], time_us: int) -> list[dict[str, Any]]:
    """Return the figures of a series whose period holds a time, from ten minutes to years."""
    number = service.catalogue.series_index(*key)
    zone = "UTC" if number is None else service.catalogue.series[number].timezone
    out = []
    for level in load_rules().levels:
        starts = holding(level.name, zone, time_us)
        rows = service.store.figures(key[0], key[1], min(starts), max(starts) + 1, channel=key[2])
        out += [row for row in rows if load_rules().level_of(row["what"]) == level and row["start"] in starts]
    return out


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


def _corrections(service: Explained, station: str, reading: dict[str, Any]) -> Step:
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
            by = service.raw_row(c["new_revision"], station)
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
