"""UCUM units of the dictionary as Grafana's units.

Grafana has two kinds: ids of its list (``celsius``) and ``suffix:TEXT``. Some ids rescale (``lengthm`` shows a tide of
0.35 m as 350 mm), so only ids with a fixed unit are used. Source: ``packages/grafana-data/src/valueFormats/
categories.ts`` of Grafana 11, entries made with ``toFixedUnit``, ``toPercent`` and the plain ``none``.
"""

from __future__ import annotations

from typing import Final

GRAFANA_IDS: Final = {
    "1": "none",
    "%": "percent",
    "Cel": "celsius",
    "dB": "dB",
    "deg": "degree",
    "hPa": "pressurehpa",
    "lx": "lux",
    "m/s": "velocityms",
    "mg/m3": "conmgm3",
    "ug/m3": "conμgm3",  # Greek mu, as in Grafana's list
    "W/m2": "Wm2",
    "[ppm]": "ppm",
}

_WRITTEN: Final = {
    "[pH]": "pH",
    "[kn_i]": "kn",
    "{NTU}": "NTU",
    "{cells}/L": "cells/L",
    "{count}": "",
    "{count}/L": "1/L",
    "{dBm}": "dBm",
    "%{LEL}": "%LEL",
    "kW.h": "kWh",
}


def written(unit: str) -> str:
    """Write a UCUM unit as people read it; empty for a pure number.

    >>> written("ug/m3"), written("Cel"), written("m3/s"), written("1")
    ('µg/m³', '°C', 'm³/s', '')
    """
    if unit in _WRITTEN:
        return _WRITTEN[unit]
    text = {"Cel": "°C", "deg": "°", "1": "", "[ppm]": "ppm"}.get(unit, unit)
    if text.startswith("u"):
        text = "µ" + text[1:]
    return text.replace("m3", "m³").replace("m2", "m²")


def grafana_unit(unit: str) -> str:
    """Return the Grafana unit of a UCUM unit.

    >>> grafana_unit("Cel"), grafana_unit("mg/L"), grafana_unit("{count}")
    ('celsius', 'suffix: mg/L', 'none')
    """
    if unit in GRAFANA_IDS:
        return GRAFANA_IDS[unit]
    text = written(unit)
    return f"suffix: {text}" if text else "none"
