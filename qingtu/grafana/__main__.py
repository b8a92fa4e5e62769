"""Write what is made from this package and kept in the repository: ``python -m qingtu.grafana``.

``deploy/grafana/`` (for compose, from the catalogue under ``stations/``) and ``tests/grafana/golden/`` (from a small
catalogue of the tests). Run it after every change of dashboards, dictionary or catalogue, and read the difference.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from qingtu.catalogue import load_catalogue
from qingtu.grafana.dashboards import build
from qingtu.grafana.files import provisioning, render, write
from qingtu.grafana.names import DAILY, HOURLY, READINGS
from qingtu.grafana.scope import Scope
from qingtu.settings import Settings

ROOT: Final = Path(__file__).parents[2]
DEPLOY: Final = ROOT / "deploy" / "grafana"
GOLDEN: Final = ROOT / "tests" / "grafana" / "golden"
GOLDEN_CATALOGUE: Final = ROOT / "tests" / "grafana" / "catalogue"


def deployed() -> dict[str, str]:
    """Return the files of ``deploy/grafana/``: names, addresses and paths are those of deploy/compose.yaml."""
    settings = Settings()
    return provisioning(
        build(Scope(load_catalogue(ROOT / "stations"))),
        folder=settings.grafana.folder,
        influx_url="http://influxdb:8086",
        databases={READINGS: settings.influx.bucket, HOURLY: settings.influx.hourly, DAILY: settings.influx.daily},
        token_file="/run/secrets/influx_read_token",  # noqa: S106 - the place of a secret, not one
        dashboards_at="/etc/grafana/qingtu",
    )


def golden() -> dict[str, str]:
    """Return the golden files: dashboards of a catalogue with one station of each kind."""
    made = build(Scope(load_catalogue(GOLDEN_CATALOGUE)))
    return {f"dashboards/{dashboard['uid']}.json": render(dashboard, for_people=True) for dashboard in made}


if __name__ == "__main__":
    for folder, texts in ((DEPLOY, deployed()), (GOLDEN, golden())):
        for path in write(folder, texts):
            sys.stdout.write(f"{folder.relative_to(ROOT)}/{path}\n")
