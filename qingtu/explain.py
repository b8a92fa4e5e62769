"""Why a reading is what it is: from the raw bytes to the value, step by step, by doing again what the pass did.

Nothing here decides anything: decoders, mapping and conversion are those of the pass, run on the bytes that raw still
holds, with the catalogue that was in use when they came.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, Protocol
from zoneinfo import ZoneInfo

import numpy as np
import orjson

from ingest.decoders import DECODERS
from ingest.decoders.native import BOOLEAN_UNIT
from processors import convert, deduplicate
from processors.quality import CHECKS
from qingtu.clock import HOUR
from qingtu.contracts import NO_TIME, ReadingQuery
from qingtu.errors import NotFound
from qingtu.properties import load_properties
from qingtu.records import RAW, Cause, MessageFlag, decode_header
from qingtu.units import UnknownUnit, conversion

if TYPE_CHECKING:
    from qingtu.catalogue import Catalogue, DeviceEntry, FieldMap
    from qingtu.contracts import Bus, Decoded
    from qingtu.folder import DataFolder
    from qingtu.settings import Settings
    from qingtu.store.queries import Queries

_SHOWN_BYTES: Final = 4096
_CAUSES: Final = {Cause.READING: "reading", Cause.QUALITY_DECIDED: "quality_decided", Cause.REDRIVE: "redrive"}
Step = dict[str, Any]


class Explained(Protocol):
    """What :func:`explain` asks; :class:`qingtu.app.Service` is one."""

    settings: Settings
    folder: DataFolder
    catalogue: Catalogue

    @property
    def bus(self) -> Bus:
        """Where raw is read."""
        ...

    @property
    def store(self) -> Queries:
        """Where readings, corrections, figures and alerts are read."""
        ...

    def raw_row(self, position: int) -> dict[str, Any]:
        """Return a raw row; NotFound when raw does not hold it any more."""
        ...


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
    steps = _origin(service, key, reading, revision)
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
        "value": _finite(reading["value"]), "flag": reading["flag"], "tests": reading["tests"],
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


# ----------------------------------------------------------------------------------------- raw, decode, locate, convert


def _origin(service: Explained, key: tuple[str, str, str], reading: dict[str, Any], revision: int) -> list[Step]:
    """Return the steps from the bytes to the value."""
    where = {"position": str(revision), "frame": revision >> 16, "row": revision & 0xFFFF}
    try:
        row = service.raw_row(revision)
    except NotFound as error:
        zh = f"原始数据只保留 {service.settings.bus.raw_keep_h} 小时, 这条已过期"
        return [_step("raw", zh, str(error), {"held": False, **where})]
    catalogue, version = _catalogue_of(service, revision)
    steps = [_raw(row, where, version)]
    decoder = next((r.decoder for r in service.settings.routes if r.name == row["route"]), "")
    if decoder not in DECODERS:
        zh, en = f"路由 {row['route']} 已没有解码器", f"route {row['route']} has no decoder any more"
        return [*steps, _step("decode", zh, en, {})]
    decoded = DECODERS[decoder]([row["payload"]], [row["device"]])
    entry = catalogue.devices.get((row["network"], row["device"]))
    mine = _matching(decoded, row, entry, catalogue, key, reading["time"])
    steps.append(_decode_step(decoder, decoded, mine, row))
    if entry is None or mine is None:
        zh = f"台账版本 {version} 中该报文不给出此序列"
        return [*steps, _step("locate", zh, f"with catalogue {version} this payload does not give this series", {})]
    steps.append(_locate(entry, decoded.names[decoded.name[mine]], version))
    steps.append(_convert(entry, decoded, mine, key[1], reading))
    return steps


def _catalogue_of(service: Explained, revision: int) -> tuple[Catalogue, str]:
    """Return the catalogue that the frame names; the one in use now when it names none or that is gone."""
    found = service.bus.read(RAW, 0, revision >> 16, 1)
    version = decode_header(found[0].data).get("catalogue") if found else None
    if version:
        try:
            return service.folder.catalogue(version), version
        except NotFound:
            pass  # the archive was not restored: say which one is used instead, below
    return service.catalogue, service.catalogue.version


def _raw(row: dict[str, Any], where: dict[str, Any], version: str) -> Step:
    payload: bytes = row["payload"] or b""
    flags = MessageFlag(row["flags"])
    hash_ = deduplicate.fingerprints([deduplicate.sender(row["network"], row["device"])], [row["digest"] or payload])[
        0
    ].tobytes()
    data = {
        "held": True,
        **where,
        "received_ms": _ms(row["received_at"]),
        "topic": row["topic"],
        "network": row["network"],
        "device": row["device"],
        "route": row["route"],
        "gateway": row["gateway"],
        "qos": int(flags & MessageFlag.QOS),
        "flags": [f.name.lower() for f in flags if f.name and f not in MessageFlag.QOS],
        "packet_id": row["packet_id"],
        "size": row["size"],
        "payload_text": payload[:_SHOWN_BYTES].decode("utf-8", "backslashreplace"),
        "payload_hex": payload[:_SHOWN_BYTES].hex(),
        "hash": hash_.hex(),
        "redrive_of": None if row["redrive_of"] is None else str(row["redrive_of"]),
        "shift_s": (row["shift_us"] or 0) / 1e6,
        "catalogue": version,
    }
    zh = f"设备 {row['device']} 在主题 {row['topic']} 上发来 {row['size']} 字节"
    return _step("raw", zh, f"device {row['device']} sent {row['size']} bytes on {row['topic']}", data)


def _matching(
    decoded: Decoded,
    row: dict[str, Any],
    entry: DeviceEntry | None,
    catalogue: Catalogue,
    key: tuple[str, str, str],
    time_us: int,
) -> int | None:
    """Return which decoded reading became ours: same series and time; of several the last, as in the store."""
    number = catalogue.series_index(*key)
    if entry is None or number is None:
        return None
    found = None
    for i, code in enumerate(decoded.name.tolist()):
        spec = entry.fields.get(decoded.names[code])
        if spec is not None and spec.series_index == number and _time_of(decoded, i, row, entry) == time_us:
            found = i
    return found


def _time_of(decoded: Decoded, i: int, row: dict[str, Any], entry: DeviceEntry) -> int:
    claimed = int(decoded.time_us[i])
    if claimed == NO_TIME:
        return _us(row["received_at"])
    claimed += row["shift_us"] or 0
    if decoded.local[i]:
        return int(convert.to_utc(np.array([claimed], np.int64), ZoneInfo(entry.timezone))[0])
    return claimed


def _decode_step(decoder: str, decoded: Decoded, mine: int | None, row: dict[str, Any]) -> Step:
    fields = [
        {
            "name": decoded.names[n], "value": _finite(v), "unit": decoded.units[u],
            "time_ms": None if t == NO_TIME else t // 1000,
        }
        for n, v, u, t in zip(
            decoded.name.tolist(), decoded.value.tolist(), decoded.unit.tolist(), decoded.time_us.tolist(), strict=True
        )
    ]  # fmt: skip
    data: dict[str, Any] = {
        "decoder": decoder,
        "readings": len(fields),
        "this": None if mine is None else fields[mine],
        "all": fields[:64],
        "refused": [f"{reason}: {detail}" for _, reason, detail, _ in decoded.refused],
        "own_identity": bool(decoded.own_identity[0]),
        "time": "received" if mine is not None and decoded.time_us[mine] == NO_TIME else "claimed",
    }
    if data["time"] == "received":
        data["received_ms"] = _ms(row["received_at"])
    zh, en = f"解码器 {decoder} 读出 {len(fields)} 个读数", f"decoder {decoder} read {len(fields)} readings"
    return _step("decode", zh, en, data)


def _locate(entry: DeviceEntry, name: str, version: str) -> Step:
    spec: FieldMap = entry.fields[name]
    data = {
        "catalogue": version, "network": entry.network, "device": entry.device.id, "station": entry.station.id,
        "station_zh": entry.station.zh, "station_en": entry.station.en, "field": name, "unit": spec.unit,
        "scale": spec.scale, "offset": spec.offset, "sentinels": list(spec.sentinels), "timezone": entry.timezone,
    }  # fmt: skip
    zh = f"台账 {version}: 字段 {name} 属于站点 {entry.station.zh}"
    return _step("locate", zh, f"catalogue {version}: field {name} belongs to {entry.station.en}", data)


def _convert(entry: DeviceEntry, decoded: Decoded, mine: int, prop: str, reading: dict[str, Any]) -> Step:
    spec = entry.fields[decoded.names[decoded.name[mine]]]
    sent, given = float(decoded.value[mine]), decoded.units[decoded.unit[mine]]
    unit = given or spec.unit
    canonical = load_properties()[prop].unit
    missing = math.isnan(sent) or sent in spec.sentinels
    data: dict[str, Any] = {
        "sent": _finite(sent), "unit_sent": unit, "unit_from": "payload" if given else "catalogue",
        "field_scale": spec.scale, "field_offset": spec.offset, "canonical_unit": canonical, "missing": missing,
        "stored": _finite(reading["value"]),
    }  # fmt: skip
    if missing:
        why = "无值" if math.isnan(sent) else f"{sent:g} 表示缺测"
        return _step("convert", f"没有数值: {why}", "no value: null, not a number, or a sentinel", data)
    if given == BOOLEAN_UNIT:
        value = sent
    else:
        try:
            to = conversion(load_properties()[prop], unit)
        except UnknownUnit as error:
            return _step("convert", f"单位 {unit} 不能换算", str(error), data)
        value = sent * (spec.scale * to.scale) + (spec.offset * to.scale + to.offset)
        data |= {"unit_scale": to.scale, "unit_offset": to.offset}
    data |= {
        "value": _finite(value),
        "agrees": reading["value"] is not None and math.isclose(value, reading["value"], rel_tol=1e-12, abs_tol=1e-300),
    }
    shown = f"{sent:g} {unit} → {value:g} {canonical}"
    return _step("convert", f"换算 {shown}", f"converted {shown}", data)


# ----------------------------------------------------------------------------- quality, store, figures, alerts, history


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
    return _step("quality", zh, en, {"flag": reading["flag"], "tests": tests, "checks": checks})


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
        "value": _finite(reading["value"]), "flag": reading["flag"], "tests": reading["tests"],
        "revision": str(reading["revision"]), "known_ms": reading["known_at"] // 1000,
        "corrections": len(reading["corrections"]),
    }  # fmt: skip
    n = len(reading["corrections"])
    return _step("store", f"入库, 更正 {n} 次", f"stored, corrected {n} times", data)


def _figures(service: Explained, key: tuple[str, str, str], reading: dict[str, Any]) -> Step:
    hour = reading["time"] // HOUR * HOUR
    rows = service.store.figures(key[0], key[1], hour, hour + 1, channel=key[2])
    shown = [
        {
            "what": row["what"], "start_ms": row["start"] // 1000, "value": _finite(row["value"]),
            "count": row["count"], "expected": row["expected"], "valid": row["valid"], "reason": row["reason"],
            "inputs": orjson.loads(row["inputs"]),
        }
        for row in rows
    ]  # fmt: skip
    if not shown:
        return _step(
            "figures", "所在小时尚未统计", "its hour has no figure yet", {"hour_ms": hour // 1000, "figures": []}
        )
    zh, en = f"计入 {len(shown)} 个统计值的时段", f"falls into the period of {len(shown)} figures"
    return _step("figures", zh, en, {"hour_ms": hour // 1000, "figures": shown})


def _alerts(service: Explained, key: tuple[str, str, str], reading: dict[str, Any], revision: int) -> Step:
    revisions = {revision, int(reading["revision"])}
    rows = [row for r in sorted(revisions) for row in service.store.alerts_of(key[0], key[1], r)]
    shown = [
        {
            "alert": row["alert"], "rule": row["rule"], "state": row["state"], "level": row["level"],
            "time_ms": row["time"] // 1000, "value": _finite(row["value"]), "limit": _finite(row["limit"]),
        }
        for row in rows
    ]  # fmt: skip
    if not shown:
        return _step("alerts", "没有引起预警变化", "it changed no alert", {"transitions": []})
    zh, en = f"引起 {len(shown)} 次预警变化", f"it caused {len(shown)} transitions of alerts"
    return _step("alerts", zh, en, {"transitions": shown})


def _corrections(service: Explained, reading: dict[str, Any]) -> Step:
    rows = []
    for c in reading["corrections"]:
        row = {
            "cause": _CAUSES.get(Cause(c["cause"]), str(c["cause"])),
            "old": {"value": _finite(c["old_value"]), "flag": c["old_flag"], "tests": c["old_tests"]},
            "new": {"value": _finite(c["new_value"]), "flag": c["new_flag"], "tests": c["new_tests"]},
            "old_revision": str(c["old_revision"]), "new_revision": str(c["new_revision"]),
            "known_ms": c["known_at"] // 1000,
        }  # fmt: skip
        try:
            by = service.raw_row(c["new_revision"])
        except NotFound:
            row["by"] = None
        else:
            payload = (by["payload"] or b"")[:_SHOWN_BYTES].decode("utf-8", "backslashreplace")
            row["by"] = {"device": by["device"], "received_ms": _ms(by["received_at"]), "payload_text": payload}
        rows.append(row)
    n = len(rows)
    return _step(
        "corrections", f"更正 {n} 次, 原值保留", f"corrected {n} times, what was replaced is kept", {"rows": rows}
    )


def _step(step: str, zh: str, en: str, data: dict[str, Any]) -> Step:
    return {"step": step, "zh": zh, "en": en, "data": data}


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


def _us(at: Any) -> int:
    """Return a time of a raw row (a datetime with zone) as µs UTC."""
    return int(np.datetime64(at.replace(tzinfo=None), "us").astype(np.int64))


def _ms(at: Any) -> int:
    return _us(at) // 1000
