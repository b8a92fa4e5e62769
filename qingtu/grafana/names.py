"""Uids and names of what Qingtu keeps in Grafana.

Letters and digits only: with "-" in a data source's uid Grafana 9.3 forwards queries to a wrong path.
"""

from __future__ import annotations

from typing import Final

FOLDER: Final = "qingtu"
READINGS: Final = "qingtureadings"
HOURLY: Final = "qingtuhourly"
DAILY: Final = "qingtudaily"

SOURCE_NAMES: Final = {
    READINGS: "青图读数 Qingtu readings",
    HOURLY: "青图小时值 Qingtu hourly figures",
    DAILY: "青图日值与预警 Qingtu daily figures and alerts",
}
"""One data source for each bucket of docs/influxdb.md, since InfluxQL sees a bucket as a database."""

CITY: Final = "qingtucity"
STATION: Final = "qingtustation"
AIR: Final = "qingtuair"
WATER: Final = "qingtuwater"
OCEAN: Final = "qingtuocean"
COMMUNITY: Final = "qingtucommunity"
ALERTS: Final = "qingtualerts"
PIPELINE: Final = "qingtupipeline"
TAG: Final = "qingtu"
