"""docs/catalogue.md explains every key that a catalogue may hold, and its examples load."""

import re
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from qingtu.catalogue import load_catalogue
from qingtu.catalogue_limits import Attenuated, Climate, FlatLine, Gap, LimitSpec, Pair, Spike
from qingtu.catalogue_model import Content, Defaults, Device, FieldSpec, Network, Station, Window
from qingtu.catalogue_relations import (
    CalmWind,
    Density,
    Location,
    NitrogenOxides,
    ParticleSizes,
    Relations,
    Together,
)
from qingtu.catalogue_rules import RULE_MODELS, Schedule, Where
from qingtu.catalogue_words import Kind

PAGE = (Path(__file__).parents[2] / "docs" / "catalogue.md").read_text(encoding="utf-8")
MODELS: tuple[type[BaseModel], ...] = (
    Attenuated, Climate, Content, Defaults, Device, FieldSpec, FlatLine, Gap, LimitSpec, Network, Pair, Schedule,
    Spike, Station, Where, CalmWind, Density, Location, NitrogenOxides, ParticleSizes, Relations, Together,
    Window, *RULE_MODELS.values(),
)  # fmt: skip


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_key_is_explained(model: type[BaseModel]) -> None:
    named = set(re.findall(r"`([a-z_]+)`", PAGE)) | set(re.findall(r"`defaults\.([a-z]+)", PAGE))
    assert set(model.model_fields) - named == set()


def test_every_kind_is_listed() -> None:
    assert [kind for kind in get_args(Kind) if f"`{kind}`" not in PAGE] == []


def test_first_example_loads(tmp_path: Path) -> None:
    example = PAGE.split("```yaml\n")[1].split("```")[0]
    (tmp_path / "c.yaml").write_text(example, encoding="utf-8")
    found = load_catalogue(tmp_path)
    assert ("qd-air", "qd-aq-001") in found.devices
    assert "qt/qd-air/qd-aq-001/up" in PAGE
