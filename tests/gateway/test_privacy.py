"""Redaction of native JSON: identifiers leave, all else stays."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ingest import private_keys
from ingest.privacy import REDACTORS, Unparsable, keyed_digest, pseudonym, redact_native
from ingest.private_keys import kind_of
from qingtu.catalogue import load_catalogue
from qingtu.properties import load_properties
from tests.cli.conftest import CATALOGUE

KEY = b"secret"
FILE = Path(private_keys.__file__).with_suffix(".yaml")
IDENTIFIER = "鲁B-62220011"
SPELLINGS = {
    "card": "card card_no cardNo CARD-NO cardNum cards ic_card ICCard rfid cardNo2 ｃａｒｄ 卡号 门禁卡号 IC卡号 uid",
    "plate": "plate plateNum plates licensePlateNumber vehicleNo carNumber carPlate car_no hphm 车牌号码 号牌号码 车号",
    "id_card": "ID-Card idCardNumber IDcard ownerIdNo idno passportNo sfzmhm 身份证号码 证件号码",
    "phone": "phone phoneNum mobile homeTel tel_2 telephones 手机号码 电话号码 card_holder_phone 业主手机号",
    "name": "name names userName visitor_name 姓名 访客姓名 xm",
    "person": "person userId employee_no 工号",
    "email": "email e-mail mail",
}
HARMLESS = (
    "cardinal cardinality cardiac template plateau hydrophone hotel cards_total card_count plate_color plateConfidence "
    "phone_battery plate_temperature cardReaderId car_door car_noise vehicle_noise grid_no x_m hpzl station_name "
    "device_name card_fault nameplate_power 车牌颜色 号牌种类 证件类型 刷卡次数"
)
STRUCTURE = (
    "time readings seq device events kind level attributes value unit mark "  # native
    "bn bt bu bv bs bver n u v vs vb vd s t ut "  # SenML
    "@iot.id @iot.selfLink phenomenonTime resultTime result Datastream FeatureOfInterest parameters validTime "
    "timestamp metrics alias dataType is_historical is_null int_value float_value body uuid"  # Sparkplug
)


def test_pseudonyms_are_stable_and_keyed() -> None:
    """The value of a known case; another key, kind or value gives another one."""
    base = pseudonym(KEY, "card", "6222")
    assert base == "p-536edb6706dc417ada55"  # openssl dgst -sha256 -hmac secret
    assert (
        len({base, pseudonym(b"x", "card", "6222"), pseudonym(KEY, "plate", "6222"), pseudonym(KEY, "card", "6223")})
        == 4
    )


@pytest.mark.parametrize("name", ["card", "card_no", "cardNo", "CARD-NO", "Card No", "卡号"])
def test_spellings_of_a_key_give_the_same_pseudonym(name: str) -> None:
    """The same card under differently spelled keys is the same person; 6222 and "6222" too."""
    for value in (6222, "6222", " 6222 "):
        out = json.loads(redact_native(json.dumps({"events": [{"attributes": {name: value}}]}).encode(), KEY))
        assert out == {"events": [{"attributes": {name: pseudonym(KEY, "card", "6222")}}]}


def test_what_has_no_identifier_is_unchanged_byte_for_byte() -> None:
    """Spacing, number spelling and NaN survive, so a repetition still has the same bytes."""
    payload = b'{ "readings": {"pm2_5": 1.50, "x": NaN}, "time": "2026-11-22T00:00:00Z",\n"card": null, "name": ""}'
    assert redact_native(payload, KEY) == payload


@pytest.mark.parametrize(("kind", "key"), [(kind, key) for kind, keys in SPELLINGS.items() for key in keys.split()])
def test_keys_are_known_by_their_parts(kind: str, key: str) -> None:
    """However a maker spells it; all spellings of a kind share pseudonyms."""
    assert kind_of(key) == kind
    assert json.loads(redact_native(json.dumps({key: 6222}).encode(), KEY)) == {key: pseudonym(KEY, kind, "6222")}


@pytest.mark.parametrize("key", [*HARMLESS.split(), *STRUCTURE.split()])
def test_keys_that_name_nobody_are_left_alone(key: str) -> None:
    """Words with such letters inside, what is counted or said of identifiers, and what formats are built of."""
    assert kind_of(key) is None


def test_the_file_of_keys_is_as_it_is_read() -> None:
    """Folded texts alone (an unquoted no is false in YAML), none of them of two kinds, none twice."""
    data = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    rows = [row for kind in data.pop("kinds").values() for part in kind.values() for row in part]
    assert len(rows) == len(set(rows))
    for listed in (rows, *data.values()):
        assert all(isinstance(row, str) and row == row.casefold() and row.isalnum() for row in listed)
        assert len(listed) == len(set(listed))


def test_no_observed_property_is_taken_for_an_identifier() -> None:
    """No key and no alias of the dictionary, and no field of a private device of the demonstration."""
    catalogue = load_catalogue(CATALOGUE)
    names = {name for prop in load_properties() for name in (prop.key, *prop.aliases)}
    for (network, _), entry in catalogue.devices.items():
        if catalogue.networks[network].private:
            names |= set(entry.fields)
    assert len(names) > 200
    assert {name for name in names if kind_of(name)} == set()


@pytest.mark.parametrize(("label", "value"), [("key", "value"), ("name", "Value"), ("type", "no"), ("n", "vs")])
def test_a_label_says_what_its_value_is(label: str, value: str) -> None:
    """A pair of label and value counts as the key that the label names, whichever comes first."""
    for document in ({label: "cardNum", value: 6222, "ok": 1}, {"ok": 1, value: "6222", label: "cardNum"}):
        out = json.loads(redact_native(json.dumps({"list": [document]}).encode(), KEY))["list"][0]
        assert (out[value], out["ok"]) == (pseudonym(KEY, "card", "6222"), 1)
    other = json.dumps({label + "x": "cardNum", value: 1}).encode()
    assert redact_native(other, KEY) == other


def test_lists_and_objects_are_replaced_leaf_by_leaf() -> None:
    """So that one of them is the same as when it stands alone; true, false and null tell nobody apart."""
    card, plate = pseudonym(KEY, "card", "6222"), pseudonym(KEY, "plate", "鲁B1")
    document = {"cards": ["6222", [6222, None, ""]], "plate": {"no": "鲁B1", "valid": True, "cardNo": " 6222 "}}
    assert json.loads(redact_native(json.dumps(document).encode(), KEY)) == {
        "cards": [card, [card, None, ""]], "plate": {"no": plate, "valid": True, "cardNo": card},
    }  # fmt: skip


def test_keys_inside_an_identifier_go_unless_they_are_plain() -> None:
    """An identifier may be a key itself."""
    document = json.dumps({"cards": {"6222": {"valid": True, "tel": 2, "Ricard": 1, "a@mail.cn": 1}}}).encode()
    one, two = pseudonym(KEY, "card", "1"), pseudonym(KEY, "phone", "2")
    name, mail = pseudonym(KEY, "card", "Ricard"), pseudonym(KEY, "card", "a@mail.cn")
    inner = {"valid": True, "tel": two, name: one, mail: pseudonym(KEY, "email", "1")}
    assert json.loads(redact_native(document, KEY)) == {"cards": {pseudonym(KEY, "card", "6222"): inner}}


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"\xff",
        b'{"a":1,"a":2}',
        b"[" * 100_000,
        b'{"card":' + b"9" * 5000 + b"}",
        b'{"a":"\\ud800","card":1}',
    ],
)
def test_what_cannot_be_read_is_said_to_be_so(payload: bytes) -> None:
    """Broken, ambiguous, too deep, too long or unwritable: Unparsable, and the message quotes nothing."""
    with pytest.raises(Unparsable) as caught:
        redact_native(payload, KEY)
    assert "9999" not in str(caught.value)


ALL_KEYS = " ".join(SPELLINGS.values()).split()

plain: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["a", "b", "readings"]), plain), st.sampled_from(ALL_KEYS), st.integers(0, 3))
def test_no_identifier_survives_at_any_depth(around: dict[str, Any], key: str, depth: int) -> None:
    """Under every listed key, however deep: the original is gone, its neighbours stay."""
    document: Any = {**around, key: IDENTIFIER}
    for _ in range(depth):
        document = {"events": [{"attributes": document}]}
    out = (
        redact_native(json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogatepass"), KEY)
        if _writable(document)
        else b""
    )
    assert IDENTIFIER.encode() not in out
    if out:
        inner = json.loads(out)
        for _ in range(depth):
            inner = inner["events"][0]["attributes"]
        expected = json.loads(redact_native(json.dumps(around, ensure_ascii=False).encode(), KEY))
        assert {k: v for k, v in inner.items() if k != key} == expected


def _writable(document: Any) -> bool:
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


@given(st.lists(st.sampled_from(ALL_KEYS[:12]), min_size=1, max_size=3), plain)
def test_nothing_under_an_identifier_survives_but_plain_words(keys: list[str], value: Any) -> None:
    """Whatever stands under such keys: what is left are pseudonyms, plain keys, "", null, true and false."""
    document: Any = {"a": value, "b": [IDENTIFIER, {IDENTIFIER: IDENTIFIER}]}
    for key in keys:
        document = {key: document}
    if not _writable(document):
        return
    out = redact_native(json.dumps(document, ensure_ascii=False).encode(), KEY)
    assert IDENTIFIER.encode() not in out
    assert {str(leaf)[:2] for leaf in _leaves(json.loads(out))} <= {"p-", "", "No", "Tr", "Fa"}


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for inner in value.values() for leaf in _leaves(inner)]
    return [leaf for inner in value for leaf in _leaves(inner)] if isinstance(value, list) else [value]


def test_a_key_without_end_takes_no_time() -> None:
    """Keys are invented by devices: the work grows with their length, no faster."""
    begin = time.process_time()
    for part in ("card", "nos", "a_", "卡"):
        assert kind_of(part * (20_000 // len(part)) + "!") in {None, "card"}
    assert time.process_time() - begin < 2


def test_keyed_digest_needs_the_key() -> None:
    """Without the key nobody can try all plates against it."""
    assert keyed_digest(KEY, b"h" * 32) != keyed_digest(b"other", b"h" * 32)
    assert len(keyed_digest(KEY, b"h" * 32)) == 32


def test_every_redactor_is_pure() -> None:
    """The same input gives the same output."""
    for redact in REDACTORS.values():
        assert redact(b'{"card":"1"}', KEY) == redact(b'{"card":"1"}', KEY)
