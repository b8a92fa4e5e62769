"""Units: spellings are understood, conversions agree with pint, and what is unknown is refused."""

import math

import pint
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qingtu.errors import QingtuError
from qingtu.properties import Property, load_properties
from qingtu.units import UnknownUnit, canonical_unit, conversion

# UCUM → pint, for every unit with a physical meaning that pint knows. The oracle is pint's own registry.
PINT = {
    "K": "kelvin", "Cel": "degC", "[degF]": "degF",
    "Pa": "pascal", "hPa": "hectopascal", "kPa": "kilopascal", "MPa": "megapascal", "mbar": "millibar",
    "dbar": "decibar", "bar": "bar", "atm": "atm", "mm[Hg]": "mmHg", "m[H2O]": "98.0665 * hectopascal",
    "[psi]": "psi",
    "m/s": "m/s", "cm/s": "cm/s", "mm/s": "mm/s", "km/h": "km/h", "[kn_i]": "knot", "[mi_i]/h": "mile/hour",
    "[ft_i]/s": "ft/s",
    "g/m3": "g/m^3", "mg/m3": "mg/m^3", "ug/m3": "ug/m^3", "ng/m3": "ng/m^3", "kg/m3": "kg/m^3", "g/L": "g/L",
    "mg/L": "mg/L", "ug/L": "ug/L", "ng/L": "ng/L", "mg/dL": "mg/dL", "ug/mL": "ug/mL",
    "mol/L": "mol/L", "mmol/L": "mmol/L", "umol/L": "umol/L", "nmol/L": "nmol/L", "mol/m3": "mol/m^3",
    "mmol/m3": "mmol/m^3",
    "mol/mol": "dimensionless", "mmol/mol": "mmol/mol", "umol/mol": "umol/mol", "nmol/mol": "nmol/mol",
    "[ppm]": "ppm", "[ppb]": "1e-9 * dimensionless", "%": "percent", "[ppth]": "permille", "1": "dimensionless",
    "S/m": "S/m", "mS/m": "mS/m", "uS/m": "uS/m", "dS/m": "dS/m", "S/cm": "S/cm", "mS/cm": "mS/cm", "uS/cm": "uS/cm",
    "m": "m", "mm": "mm", "cm": "cm", "dm": "dm", "um": "um", "km": "km", "[ft_i]": "ft", "[in_i]": "inch",
    "[mi_i]": "mile", "[nmi_i]": "nautical_mile", "L/m2": "L/m^2",
    "mm/h": "mm/hour", "mm/min": "mm/minute", "mm/d": "mm/day", "cm/h": "cm/hour", "[in_i]/h": "inch/hour",
    "m3/s": "m^3/s", "m3/min": "m^3/minute", "m3/h": "m^3/hour", "m3/d": "m^3/day", "L/s": "L/s",
    "L/min": "L/minute", "L/h": "L/hour",
    "m3": "m^3", "L": "L", "mL": "mL", "dm3": "dm^3",
    "deg": "degree", "rad": "radian", "'": "arcminute",
    "s": "s", "ms": "ms", "min": "minute", "h": "hour",
    "W/m2": "W/m^2", "kW/m2": "kW/m^2", "mW/cm2": "mW/cm^2", "lx": "lux", "klx": "kilolux",
    "nGy/h": "nGy/hour", "uGy/h": "uGy/hour", "mGy/h": "mGy/hour", "Gy/h": "Gy/hour", "nGy/s": "nGy/s",
    "uGy/s": "uGy/s",
    "V/m": "V/m", "mV/m": "mV/m", "kV/m": "kV/m", "V": "V", "mV": "mV", "uV": "uV", "kV": "kV",
    "A": "A", "mA": "mA", "uA": "uA", "kA": "kA", "kW": "kW", "W": "W", "MW": "MW", "mW": "mW",
    "mg/kg": "mg/kg", "ug/kg": "ug/kg", "g/kg": "g/kg", "km2": "km^2", "m2": "m^2", "har": "hectare",
    "kW.h": "kW*hour", "W.h": "W*hour", "MW.h": "MW*hour", "J": "J", "kJ": "kJ", "MJ": "MJ", "GJ": "GJ",
}  # fmt: skip
# Annotated or arbitrary units have no meaning outside their own name, so only the scale within the name is stated.
NO_ORACLE = {
    "[pH]", "dB", "dB/m", "{dBm}", "{NTU}", "{count}", "10*3{count}", "10*4{count}", "{count}/L", "{count}/mL",
    "{count}/dL", "{cells}/L", "{cells}/mL", "10*4{cells}/L", "10*6{cells}/L", "%{LEL}", "t/km2/mo", "g/m2/mo",
    "mg/m2/mo",
}  # fmt: skip
REGISTRY: pint.UnitRegistry[float] = pint.UnitRegistry()
MOLAR_VOLUME = (REGISTRY.molar_gas_constant * 298.15 * REGISTRY.kelvin / (1013.25 * REGISTRY.hectopascal)).to("L/mol")
PAIRS = [(prop, unit) for prop in load_properties() for unit in prop.accepted_units if unit not in NO_ORACLE]


def _pint(value: float, from_unit: str, prop: Property) -> float:
    """Convert with pint, with the gas law spelled out where amount and mass meet."""
    quantity = REGISTRY.Quantity(value, REGISTRY.parse_expression(PINT[from_unit]).units)
    factor = REGISTRY.parse_expression(PINT[from_unit]).magnitude if "*" in PINT[from_unit] else 1
    target = REGISTRY.parse_expression(PINT[prop.unit]).units
    quantity = quantity * factor if factor != 1 else quantity
    mass = REGISTRY.Quantity(prop.gas_molar_mass or prop.solute_molar_mass or 1.0, "g/mol")
    if quantity.check("[]") and REGISTRY.Quantity(1, target).check("[mass]/[volume]"):
        quantity = quantity / MOLAR_VOLUME * mass
    elif quantity.check("[mass]/[volume]") and REGISTRY.Quantity(1, target).check("[]"):
        quantity = quantity / mass * MOLAR_VOLUME
    elif quantity.check("[substance]/[volume]") and REGISTRY.Quantity(1, target).check("[mass]/[volume]"):
        quantity = quantity * mass
    return float(quantity.to(target).magnitude)


def test_oracle_covers_every_unit_with_a_physical_meaning() -> None:
    accepted = {unit for prop in load_properties() for unit in prop.accepted_units}
    assert accepted - set(PINT) - NO_ORACLE == set()


@pytest.mark.parametrize(("prop", "unit"), PAIRS, ids=lambda x: x if isinstance(x, str) else x.key)
def test_conversion_agrees_with_pint(prop: Property, unit: str) -> None:
    if prop.unit in NO_ORACLE:
        assert unit == "1", f"{prop.key} converts {unit} without an oracle"
        assert conversion(prop, unit) == (1.0, 0.0)
        return
    scale, offset = conversion(prop, unit)
    for value in (-40.0, 0.0, 1.0, 1234.5):
        assert value * scale + offset == pytest.approx(_pint(value, unit, prop), rel=1e-9, abs=1e-12)


@given(st.sampled_from(PAIRS), st.floats(-1e6, 1e6))
def test_conversion_keeps_order_and_inverts(pair: tuple[Property, str], value: float) -> None:
    prop, unit = pair
    scale, offset = conversion(prop, unit)
    assert scale > 0
    there = value * scale + offset
    assert math.isclose((there - offset) / scale, value, rel_tol=1e-9, abs_tol=1e-6 / scale + 1e-6)


@pytest.mark.parametrize(
    ("text", "ucum"),
    [
        ("µg/m³", "ug/m3"), ("μg/m³", "ug/m3"), ("ug/m^3", "ug/m3"), ("ug/m**3", "ug/m3"), ("µg m-3", "ug/m3"),
        ("µg·m⁻³", "ug/m3"), ("ｕｇ／ｍ３", "ug/m3"), ("微克/立方米", "ug/m3"), ("㎎/㎥", "mg/m3"),
        ("℃", "Cel"), ("°C", "Cel"), ("Cel", "Cel"), ("摄氏度", "Cel"), ("deg C", "Cel"), ("℉", "[degF]"),
        ("%RH", "%"), ("％", "%"), ("mg/l", "mg/L"), ("毫克/升", "mg/L"), ("mg·L⁻¹", "mg/L"),
        ("dB(A)", "dB"), ("NTU", "{NTU}"), ("ppb", "[ppb]"), ("kWh", "kW.h"), ("kW·h", "kW.h"), ("节", "[kn_i]"),
        ("μS/cm", "uS/cm"), ("mS/cm", "mS/cm"), ("MPN/100mL", "{count}/dL"), ("万个/L", "10*4{cells}/L"),
        ("W / m²", "W/m2"), ("无量纲", "1"), ("pH", "[pH]"), ("dBm", "{dBm}"), ("%LEL", "%{LEL}"),
        ("t/(km²·月)", "t/km2/mo"), ("m³/h", "m3/h"), ("mmHg", "mm[Hg]"), ("10*4{cells}/L", "10*4{cells}/L"),
    ],
)  # fmt: skip
def test_spellings(text: str, ucum: str) -> None:
    assert canonical_unit(text) == ucum


@pytest.mark.parametrize("text", ["", " ", "furlong", "mpa", "MPA", "mg", "ug/m33", "Sv/h", "°", "m/s2", "\x00", "µ"])
def test_what_is_no_known_unit_is_none_or_only_itself(text: str) -> None:
    assert canonical_unit(text) == {"°": "deg"}.get(text)


@given(st.text(max_size=30))
def test_any_text_gives_a_known_unit_or_none(text: str) -> None:
    unit = canonical_unit(text)
    assert unit is None or canonical_unit(unit) == unit


@given(st.sampled_from([*PINT, *NO_ORACLE]))
def test_a_unit_spells_itself(unit: str) -> None:
    assert canonical_unit(unit) == unit


@pytest.mark.parametrize(
    ("key", "unit"),
    [
        ("pm25", "ppb"),  # a particle has no molar mass
        ("tvoc", "ppb"),  # nor has a mixture
        ("flue_so2", "ppm"),  # another reference state than ambient air
        ("gamma_dose_rate", "uSv/h"),  # dose equivalent is not absorbed dose
        ("gas_leak", "%"),  # per cent of volume or of the explosive limit?
        ("practical_salinity", "%"),
        ("rssi", "dB"),
        ("nitrate", "mg/L"),  # as N or as NO3?
        ("air_pressure", "m/s"),
        ("so2", "furlong"),
        ("so2", ""),
    ],
)
def test_unit_not_known_for_the_property_is_refused_with_what_is_accepted(key: str, unit: str) -> None:
    prop = load_properties()[key]
    with pytest.raises(UnknownUnit) as caught:
        conversion(prop, unit)
    assert isinstance(caught.value, QingtuError)
    assert key in str(caught.value)
    assert all(accepted in str(caught.value) for accepted in prop.accepted_units)


def test_known_values() -> None:
    """Worked by hand: 10 °C; 40 ppb of SO2 = 40 × 64.066 / 24.4654; 1 mmol/L O2 = 31.9988 mg/L; 1 kn = 1852 m/h."""
    dictionary = load_properties()
    scale, offset = conversion(dictionary["air_temperature"], "℉")
    assert 50 * scale + offset == pytest.approx(10.0, abs=1e-12)
    assert 40 * conversion(dictionary["so2"], "ppb").scale == pytest.approx(104.745, abs=0.001)
    assert conversion(dictionary["sea_dissolved_oxygen"], "mmol/L").scale == 31.9988
    assert 36 * conversion(dictionary["wind_speed"], "kn").scale == pytest.approx(18.52)
    assert conversion(dictionary["air_pressure"], "kPa") == (10.0, 0.0)
