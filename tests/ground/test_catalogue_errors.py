"""A wrong catalogue: every fault is reported at once, with file, line, key, value and what is allowed."""

from pathlib import Path

import pytest

from qingtu.catalogue import load_catalogue
from qingtu.errors import ConfigError, Problem

HEAD = """\
networks:
  - {id: n, zh: 网, en: Net}
stations:
  - id: A
    zh: 甲
    en: A
    network: n
    domain: air
    kind: air
    position: [120.3, 36.1]
    devices:
      - {id: a, properties: [pm25]}
"""


def problems(folder: Path, text: str, name: str = "c.yaml") -> list[Problem]:
    (folder / name).write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_catalogue(folder)
    return list(caught.value.problems)


def one(folder: Path, old: str, new: str) -> Problem:
    """Make one fault in a right file; exactly one problem must come of it."""
    assert old in HEAD
    found = problems(folder, HEAD.replace(old, new))
    assert len(found) == 1, found
    assert found[0].file == str(folder / "c.yaml")
    return found[0]


def test_the_file_that_the_faults_are_made_in_is_right(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(HEAD, encoding="utf-8")
    assert list(load_catalogue(tmp_path).stations) == ["A"]


@pytest.mark.parametrize(
    ("old", "new", "line", "key", "says"),
    [
        ("domain: air", "domain: aire", 8, "stations[0].domain", "must be one of air, weather, water"),
        ("domain: air", "domain: aire", 8, "stations[0].domain", "did you mean 'air'?"),
        ("zh: 甲", "zh: 甲\n    strete: x", 6, "stations[0].strete", "did you mean 'street'?"),
        ("[120.3, 36.1]", "[36.1, 120.3]", 10, "stations[0].position", "look swapped"),
        ("[120.3, 36.1]", "[120.3]", 10, "stations[0].position", "[longitude, latitude]"),
        ("[120.3, 36.1]", "[120.3, 360]", 10, "stations[0].position", "not [longitude, latitude]"),
        ("[120.3, 36.1]", "[120.3, .nan]", 10, "stations[0].position", "not [longitude, latitude]"),
        ("network: n", "network: m", 7, "stations[0].network", "is not a network; known: n"),
        ("[pm25]", "[PM2.5]", 12, "stations[0].devices[0].properties[0]", "did you mean 'pm25'?"),
        ("[pm25]", "[]", 12, "stations[0].devices[0]", "needs `fields` or `properties`"),
        ("id: a,", "id: a/b,", 12, "stations[0].devices[0].id", "should match pattern"),
        ("id: a,", "", 12, "stations[0].devices[0].id", "is missing"),
        ("zh: 甲", "zh: 甲\n    timezone: Asia/Beijing", 6, "stations[0].timezone", "IANA"),
        ("zh: 甲", "zh: 甲\n    timezone: ../etc", 6, "stations[0].timezone", "IANA"),
        ("zh: 甲", "zh: 甲\n    interval_s: 0", 6, "stations[0].interval_s", "greater than 0"),
        ("zh: 甲", "zh: 甲\n    zh: 乙", 6, "stations[0].zh", "stands twice; first on line 5"),
        ("zh: 甲", "zh: 甲\n    noise_class: 4", 6, "stations[0].noise_class", "must be one of 0, 1, 2, 3, 4a, 4b"),
        ("zh: 甲", "zh: 甲\n    limits: {pm25: {suspect: [0, 2000]}}", 6, "stations[0].limits.pm25", "inside range"),
        ("zh: 甲", "zh: 甲\n    limits: {co: {range: [5, 5]}}", 6, "stations[0].limits.co.range", "[smallest, larg"),
        ("zh: 甲", "zh: 甲\n    limits: {co: {spike: {suspect: 9, fail: 3}}}", 6, "stations[0].limits.co", "spike:"),
        ("zh: 甲", "zh: 甲\n    limits: {pm225: {}}", 6, "stations[0].limits.pm225", "did you mean 'pm25'?"),
        ("networks:", "netwrks: []\nnetworks:", 1, "netwrks", "did you mean 'networks'?"),
        ("networks:", "demonstration: maybe\nnetworks:", 1, "demonstration", "true or false"),
    ],
)  # fmt: skip
def test_fault_is_found_with_its_line(tmp_path: Path, old: str, new: str, line: int, key: str, says: str) -> None:
    problem = one(tmp_path, old, new)
    assert (problem.line, problem.key) == (line, key)
    assert says in problem.message


@pytest.mark.parametrize(
    ("fields", "key", "says"),
    [
        ("{x: pm2_5}", "fields.x.property", "did you mean 'pm25'?"),
        ("{x: {property: pm25, unit: ppb}}", "fields.x.unit", "accepted: ug/m3"),
        ("{x: {property: pm25, unti: ug/m3}}", "fields.x.unti", "did you mean 'unit'?"),
        ("{x: {property: pm25, scale: 0}}", "fields.x.scale", "must not be 0"),
        ("{x: {property: pm25, scale: .inf}}", "fields.x.scale", "finite"),
        ("{x: {property: pm25, channel: 'A b'}}", "fields.x.channel", "pattern"),
        ("{no: nitric_oxide}", "fields.False", "in quotes"),
    ],
)
def test_fault_of_a_field(tmp_path: Path, fields: str, key: str, says: str) -> None:
    problem = one(tmp_path, "properties: [pm25]", f"fields: {fields}")
    assert (problem.line, problem.key) == (12, f"stations[0].devices[0].{key}")
    assert says in problem.message


@pytest.mark.parametrize(
    ("rule", "key", "says"),
    [
        ("kind: threshold, property: pm_25, levels: {blue: 1}", "property", "did you mean 'pm25'?"),
        ("kind: threshold, property: pm25, levels: {}", "levels", "at least 1"),
        ("kind: threshold, property: pm25, levels: {purple: 1}", "levels.purple", "must be one of blue, yellow"),
        ("kind: threshold, property: pm25, levels: {blue: 2, red: 1}", "", "must rise"),
        ("kind: threshold, property: pm25, direction: below, levels: {blue: 1, red: 2}", "", "must fall"),
        ("kind: threshold, property: pm25, levels: {blue: 1}, where: {knd: air}", "where.knd", "did you mean 'kind'?"),
        ("kind: threshold, property: pm25, levels: {blue: 1}, where: {kind: airr}", "where.kind[0]", "must be one of"),
        ("kind: threshold, property: pm25, levels: {blue: 1}, where: {network: m}", "where.network", "not a network"),
        ("kind: silence, after_s: 5, where: {station: B}", "where.station", "is not a station"),
        ("kind: silence", "", "exactly one of after_intervals and after_s"),
        ("kind: silence, after_s: 5, after_intervals: 2", "", "exactly one of"),
        ("kind: silence, after_s: 5, levels: red", "levels", "did you mean 'level'?"),
        ("kind: thresold", "", "'threshold', 'silence'"),
    ],
)
def test_fault_of_a_rule(tmp_path: Path, rule: str, key: str, says: str) -> None:
    found = problems(tmp_path, f"{HEAD}rules:\n  - {{id: r, zh: 规, en: Rule, {rule}}}\n")
    assert len(found) == 1, found
    assert (found[0].line, found[0].key) == (14, f"rules[0].{key}".rstrip("."))
    assert says in found[0].message


def test_all_faults_come_at_once(tmp_path: Path) -> None:
    text = HEAD.replace("domain: air", "domain: aire").replace("[pm25]", "[pm2_5]").replace("id: n,", "id: n, x: 1,")
    found = problems(tmp_path, text + "  - {id: B}\nrules: [{id: r, kind: silence}]\nwhat: 1\n")
    keys = {problem.key for problem in found}
    assert {"what", "networks[0].x", "stations[0].domain", "stations[0].devices[0].properties[0]"} <= keys
    assert {"stations[1].zh", "stations[1].position", "rules[0].zh", "rules[0].en"} <= keys
    assert all(problem.line > 0 for problem in found)
    assert not any("is not a network" in problem.message for problem in found), "blamed on a network that has a fault"


def test_two_sources_for_one_series_name_both_devices_with_their_lines(tmp_path: Path) -> None:
    text = HEAD + "      - id: b\n        fields:\n          dust: {property: pm25, unit: mg/m3}\n"
    [problem] = problems(tmp_path, text)
    file = tmp_path / "c.yaml"
    assert (problem.line, problem.key) == (15, "stations[0].devices[1].fields.dust")
    assert f"device a field 'pm25' at {file}:12" in problem.message
    assert f"device b field 'dust' at {file}:15" in problem.message
    assert "一数一源" in problem.message


def test_two_fields_of_one_device_are_two_sources_too(tmp_path: Path) -> None:
    [problem] = problems(tmp_path, HEAD.replace("properties: [pm25]", "fields: {x: pm25, y: pm25}"))
    assert "field 'x'" in problem.message
    assert "field 'y'" in problem.message


def test_another_channel_is_another_series(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(HEAD + "      - {id: b, fields: {pm25: {property: pm25, channel: backup}}}\n")
    assert len(load_catalogue(tmp_path).series) == 2


def test_duplicate_ids_across_files_name_the_first_place(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(HEAD, encoding="utf-8")
    found = problems(tmp_path, HEAD, "b.yaml")
    places = {problem.key: problem.message for problem in found}
    assert all(problem.file == str(tmp_path / "b.yaml") for problem in found)
    assert f"{tmp_path / 'a.yaml'}:2" in places["networks[0].id"]
    assert f"{tmp_path / 'a.yaml'}:4" in places["stations[0].id"]
    assert f"{tmp_path / 'a.yaml'}:12" in places["stations[0].devices[0].id"]


def test_duplicate_rule(tmp_path: Path) -> None:
    rule = "  - {id: r, zh: 规, en: R, kind: silence, after_s: 5}\n"
    [problem] = problems(tmp_path, f"{HEAD}rules:\n{rule}{rule}")
    assert (problem.line, problem.key) == (15, "rules[1].id")


def test_defaults_set_twice(tmp_path: Path) -> None:
    text = "defaults: {sentinels: [-999], limits: {air: {pm25: {range: [0, 900]}}}}\n"
    (tmp_path / "a.yaml").write_text(text)
    found = problems(tmp_path, HEAD + text)
    assert {problem.key for problem in found} == {"defaults.sentinels", "defaults.limits.air.pm25"}
    assert all(f"{tmp_path / 'a.yaml'}:1" in problem.message for problem in found)


@pytest.mark.parametrize(
    ("defaults", "key", "says"),
    [
        ("{limits: {sea: {}}}", "defaults.limits.sea", "must be one of"),
        ("{limits: {air: {pm25: {suspect: [0, 5000]}}}}", "defaults.limits.air.pm25", "inside range"),
        ("{limits: {air: {pm25: {rnge: [0, 1]}}}}", "defaults.limits.air.pm25.rnge", "did you mean 'range'?"),
        ("{limits: {air: {pm25: {spike: {fial: 1}}}}}", "defaults.limits.air.pm25.spike.fial", "did you mean 'fail'?"),
        ("{sentinels: [x]}", "defaults.sentinels[0]", "valid number"),
    ],
)
def test_fault_of_defaults(tmp_path: Path, defaults: str, key: str, says: str) -> None:
    [problem] = problems(tmp_path, f"{HEAD}defaults: {defaults}\n")
    assert (problem.line, problem.key) == (13, key)
    assert says in problem.message


@pytest.mark.parametrize(
    ("content", "line", "says"),
    [
        (b"stations: [", 2, "not valid YAML"),
        (b"a: 1\n\tb: 2\n", 2, "not valid YAML"),
        (b"a: \xff\n", 0, "not UTF-8 at byte 3"),
        (b"a: !!python/object:os.system {}\n", 1, "not valid YAML"),
        (b"[1, 2]\n", 1, "must be a mapping"),
        (b"stations: {id: A}\n", 1, "must be a list"),
    ],
)
def test_what_is_no_catalogue_file(tmp_path: Path, content: bytes, line: int, says: str) -> None:
    (tmp_path / "c.yaml").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_catalogue(tmp_path)
    [problem] = caught.value.problems
    assert says in problem.message
    assert problem.line in {line, max(line - 1, 0)}


def test_empty_folder_and_empty_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no \\*\\.yaml"):
        load_catalogue(tmp_path)
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert load_catalogue(tmp_path).stations == {}


def test_value_from_outside_is_cut(tmp_path: Path) -> None:
    problem = one(tmp_path, "domain: air", f"domain: {'x' * 500}")
    assert len(problem.value) == 80


def test_fault_in_a_merged_block_points_at_what_the_user_wrote_last(tmp_path: Path) -> None:
    text = HEAD.replace("- id: A", "- &a\n    id: A") + "  - <<: *a\n    id: B\n    domain: aire\n    devices: []\n"
    [problem] = problems(tmp_path, text)
    assert (problem.line, problem.key) == (16, "stations[1].domain")


def test_unit_as_long_as_a_book_is_refused_and_cut(tmp_path: Path) -> None:
    problem = one(tmp_path, "properties: [pm25]", f"fields: {{x: {{property: pm25, unit: {'u' * 5000}}}}}")
    assert len(problem.message) < 300
