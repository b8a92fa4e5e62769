"""The observed-property dictionary: complete, unambiguous, and the page made from it is current."""

from dataclasses import replace
from pathlib import Path

import pytest

from qingtu.properties import PropertyDictionary, load_properties, markdown_table
from qingtu.units import canonical_unit, conversion

ROOT = Path(__file__).parents[2]
# ug/m3 per ppb as published (rounded to 3 decimals): ideal gas at 298.15 K, 1013.25 hPa, molar volume 24.465 L/mol
PUBLISHED_UG_M3_PER_PPB = {
    "so2": 2.618, "no2": 1.880, "nitric_oxide": 1.226, "co": 1.145, "o3": 1.962, "nh3": 0.696, "h2s": 1.393,
}  # fmt: skip


def test_dictionary_has_all_157_properties_in_the_order_of_the_file() -> None:
    keys = load_properties().keys()
    assert len(keys) == 157
    assert (keys[0], keys[-1]) == ("pm25", "snr")


def test_every_row_is_whole() -> None:
    for prop in load_properties():
        assert all((prop.zh, prop.en, prop.domain)), prop.key
        assert prop.precision >= 0, prop.key
        assert prop.plausible[0] < prop.plausible[1], prop.key
        assert prop.accepted_units[0] == prop.unit == canonical_unit(prop.unit), prop.key
        assert conversion(prop, prop.unit) == (1.0, 0.0), prop.key


def test_sources_and_unconfirmed_marks_are_kept() -> None:
    dictionary = load_properties()
    assert "CF standard name table v93" in dictionary.source
    assert "unconfirmed" in dictionary.confidence


@pytest.mark.parametrize("name", ["pm25", "PM2.5", "SDS_P2", "P2"])
def test_key_and_aliases_resolve_exactly(name: str) -> None:
    found = load_properties().resolve(name)
    assert found is not None
    assert found.key == "pm25"


@pytest.mark.parametrize("name", ["Pm25", "pm2_5", " pm25", ""])
def test_what_is_not_a_name_resolves_to_nothing(name: str) -> None:
    assert load_properties().resolve(name) is None


def test_get_takes_keys_only() -> None:
    assert load_properties().get("SO2") is None
    assert load_properties()["so2"].zh == "二氧化硫"


def test_hj212_code_means_different_things_under_different_system_types() -> None:
    dictionary = load_properties()
    ambient, stack = dictionary.by_hj212("22", "a21026"), dictionary.by_hj212("31", "a21026")
    assert ambient is not None
    assert stack is not None
    assert (ambient.key, stack.key) == ("so2", "flue_so2")
    assert dictionary.by_hj212("99", "a21026") is None


def test_hj212_factor_agrees_with_the_unit_tables() -> None:
    """Two sources for one number: the factor of the row, and the conversion of its HJ 212 unit."""
    rows = [prop for prop in load_properties() if prop.hj212_unit is not None]
    assert len(rows) > 60
    for prop in rows:
        assert prop.hj212_unit is not None
        scale, offset = conversion(prop, prop.hj212_unit)
        assert scale == pytest.approx(prop.hj212_factor, rel=1e-12), prop.key
        assert offset == 0, prop.key


@pytest.mark.parametrize(("key", "published"), PUBLISHED_UG_M3_PER_PPB.items())
def test_gas_factors_agree_with_published_ones(key: str, published: float) -> None:
    assert load_properties()[key].ug_m3_per_ppb == pytest.approx(published, abs=0.001)


def test_ambiguous_alias_is_refused() -> None:
    pm25, pm10 = load_properties()["pm25"], load_properties()["pm10"]
    with pytest.raises(ValueError, match=r"'PM2\.5' means both pm25 and pm10"):
        PropertyDictionary([pm25, replace(pm10, aliases=("PM2.5",))], source="", confidence="")


def test_page_is_current() -> None:
    page = (ROOT / "docs" / "properties.md").read_text(encoding="utf-8")
    assert page == markdown_table(load_properties()), "run: python -m qingtu.properties > docs/properties.md"
