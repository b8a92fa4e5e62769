"""The first half of an explanation: bytes, decoder, mapping, conversion, done again as the pass did them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, Protocol
from zoneinfo import ZoneInfo

import numpy as np

from ingest.decoders import DECODERS
from ingest.decoders.native import BOOLEAN_UNIT
from processors import convert, deduplicate
from qingtu.contracts import NO_TIME
from qingtu.errors import NotFound
from qingtu.marks import load_marks
from qingtu.partitions import partition_of
from qingtu.properties import load_properties
from qingtu.records import RAW, MessageFlag, decode_header, home
from qingtu.units import UnknownUnit, conversion

if TYPE_CHECKING:
    from qingtu.catalogue import Catalogue, DeviceEntry, FieldMap
    from qingtu.contracts import Bus, Decoded
    from qingtu.folder import DataFolder
    from qingtu.settings import Settings
    from qingtu.store.contract import PrimaryStore

SHOWN_BYTES: Final = 4096
"""Bytes of a payload that are shown."""
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
    def store(self) -> PrimaryStore:
        """Where readings, corrections, figures and alerts are read."""
        ...

    def raw_row(self, position: int, station: str = "", partition: int | None = None) -> dict[str, Any]:
        """Return a raw row of a station, or of a partition; NotFound when raw does not hold it any more."""
        ...


def origin(
    service: Explained, key: tuple[str, str, str], reading: dict[str, Any], revision: int, version: str | None = None,
    partition: int | None = None,
) -> list[Step]:  # fmt: skip
    """Return the steps from the bytes to the value.

    Args:
        service: see :class:`Explained`.
        key: (station, property, channel).
        reading: as ``PrimaryStore.reading`` returns it.
        revision: position of the raw row that brought the value.
        version: of the catalogue that it was made with, when that is not the one in use when the bytes came.
        partition: where the raw row stands, when that need not be the station's.
    """
    where = {"position": str(revision), "frame": revision >> 16, "row": revision & 0xFFFF}
    try:
        row = service.raw_row(revision, key[0], partition)
    except NotFound as error:
        zh = f"原始数据只保留 {service.settings.bus.raw_keep_h} 小时, 这条已过期"
        return [step("raw", zh, str(error), {"held": False, **where})]
    catalogue, version = _catalogue_of(service, key[0], revision, version)
    steps = [_raw(row, where, version)]
    decoder = next((r.decoder for r in service.settings.routes if r.name == row["route"]), "")
    if decoder not in DECODERS:
        zh, en = f"路由 {row['route']} 已没有解码器", f"route {row['route']} has no decoder any more"
        return [*steps, step("decode", zh, en, {})]
    decoded = DECODERS[decoder]([row["payload"]], [row["device"]])
    entry = catalogue.devices.get((row["network"], row["device"]))
    mine = _matching(decoded, row, entry, catalogue, key, reading["time"])
    steps.append(_decode_step(decoder, decoded, mine, row))
    if entry is None or mine is None:
        zh = f"目录版本 {version} 中该报文不给出此序列"
        return [*steps, step("locate", zh, f"with catalogue {version} this payload does not give this series", {})]
    steps.append(_locate(entry, decoded.names[decoded.name[mine]], version))
    steps.append(_convert(entry, decoded, mine, key[1], reading))
    return steps


def _catalogue_of(service: Explained, station: str, revision: int, version: str | None) -> tuple[Catalogue, str]:
    """Return the catalogue asked for, else that which the frame names; the one in use now when that is gone."""
    found = service.bus.read(RAW, partition_of(station, service.bus.partitions), revision >> 16, 1)
    if version is None and found:
        version = decode_header(found[0].data).get("catalogue")
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
    of = row["redrive_of"]
    if of is not None:  # what is of another partition is named as its id
        of = str(of) if of >= 0 else ":".join(map(str, home(of, 0)))
    data = {
        "held": True,
        **where,
        "received_ms": ms_of(row["received_at"]),
        "topic": row["topic"],
        "network": row["network"],
        "device": row["device"],
        "route": row["route"],
        "gateway": row["gateway"],
        "qos": int(flags & MessageFlag.QOS),
        "flags": [f.name.lower() for f in flags if f.name and f not in MessageFlag.QOS],
        "packet_id": row["packet_id"],
        "size": row["size"],
        "payload_text": payload[:SHOWN_BYTES].decode("utf-8", "backslashreplace"),
        "payload_hex": payload[:SHOWN_BYTES].hex(),
        "hash": hash_.hex(),
        "redrive_of": of,
        "shift_s": (row["shift_us"] or 0) / 1e6,
        "catalogue": version,
    }
    zh = f"设备 {row['device']} 在主题 {row['topic']} 上发来 {row['size']} 字节"
    return step("raw", zh, f"device {row['device']} sent {row['size']} bytes on {row['topic']}", data)


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
            "name": decoded.names[n], "value": finite(v), "unit": decoded.units[u],
            "time_ms": None if t == NO_TIME else t // 1000, **({"mark": load_marks()[m - 1].key} if m else {}),
        }
        for n, v, u, t, m in zip(
            decoded.name.tolist(), decoded.value.tolist(), decoded.unit.tolist(), decoded.time_us.tolist(),
            [0] * len(decoded.name) if decoded.mark is None else decoded.mark.tolist(), strict=True,
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
        data["received_ms"] = ms_of(row["received_at"])
    zh, en = f"解码器 {decoder} 读出 {len(fields)} 个读数", f"decoder {decoder} read {len(fields)} readings"
    return step("decode", zh, en, data)


def _locate(entry: DeviceEntry, name: str, version: str) -> Step:
    spec: FieldMap = entry.fields[name]
    data = {
        "catalogue": version, "network": entry.network, "device": entry.device.id, "station": entry.station.id,
        "station_zh": entry.station.zh, "station_en": entry.station.en, "field": name, "unit": spec.unit,
        "scale": spec.scale, "offset": spec.offset, "sentinels": list(spec.sentinels), "timezone": entry.timezone,
    }  # fmt: skip
    zh = f"目录 {version}: 字段 {name} 属于站点 {entry.station.zh}"
    return step("locate", zh, f"catalogue {version}: field {name} belongs to {entry.station.en}", data)


def _convert(entry: DeviceEntry, decoded: Decoded, mine: int, prop: str, reading: dict[str, Any]) -> Step:
    spec = entry.fields[decoded.names[decoded.name[mine]]]
    sent, given = float(decoded.value[mine]), decoded.units[decoded.unit[mine]]
    unit = given or spec.unit
    canonical = load_properties()[prop].unit
    missing = math.isnan(sent) or sent in spec.sentinels
    data: dict[str, Any] = {
        "sent": finite(sent), "unit_sent": unit, "unit_from": "payload" if given else "catalogue",
        "field_scale": spec.scale, "field_offset": spec.offset, "canonical_unit": canonical, "missing": missing,
        "stored": finite(reading["value"]),
    }  # fmt: skip
    if missing:
        why = "无值" if math.isnan(sent) else f"{sent:g} 表示缺测"
        return step("convert", f"没有数值: {why}", "no value: null, not a number, or a sentinel", data)
    if given == BOOLEAN_UNIT:
        value = sent
    else:
        try:
            to = conversion(load_properties()[prop], unit)
        except UnknownUnit as error:
            return step("convert", f"单位 {unit} 不能换算", str(error), data)
        value = sent * (spec.scale * to.scale) + (spec.offset * to.scale + to.offset)
        data |= {"unit_scale": to.scale, "unit_offset": to.offset}
    data |= {
        "value": finite(value),
        "agrees": reading["value"] is not None and math.isclose(value, reading["value"], rel_tol=1e-12, abs_tol=1e-300),
    }
    shown = f"{sent:g} {unit} → {value:g} {canonical}"
    return step("convert", f"换算 {shown}", f"converted {shown}", data)


def step(name: str, zh: str, en: str, data: dict[str, Any]) -> Step:
    """Write one step: its name, a line in each language, and what it found."""
    return {"step": name, "zh": zh, "en": en, "data": data}


def finite(value: float | None) -> float | None:
    """Return a number that JSON has, or None."""
    return None if value is None or not math.isfinite(value) else value


def _us(at: Any) -> int:
    """Return a time of a raw row (a datetime with zone) as µs UTC."""
    return int(np.datetime64(at.replace(tzinfo=None), "us").astype(np.int64))


def ms_of(at: Any) -> int:
    """Return a time of a raw row (a datetime with zone) as ms UTC."""
    return _us(at) // 1000
