"""A wrong catalogue: every fault is reported at once, with file, line, key, value and what is allowed."""

import re
from pathlib import Path

import pytest

from qingtu.catalogue import load_catalogue
from qingtu.errors import ConfigError, Problem
from tests.ground.support import problems

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
        ("zh: 甲", "zh: 甲\n    attributes: {a: [1]}", 6, "stations[0].attributes.a", "must be text, a number"),
        ("[pm25]", "[]", 12, "stations[0].devices[0]", "needs `fields` or `properties`"),
        ("id: a,", "id: a/b,", 12, "stations[0].devices[0].id", "no space, / + or #"),
        ("id: a,", "", 12, "stations[0].devices[0].id", "is missing"),
        ("zh: 甲", "zh: 甲\n    timezone: Asia/Beijing", 6, "stations[0].timezone", "IANA"),
        ("zh: 甲", "zh: 甲\n    timezone: ../etc", 6, "stations[0].timezone", "IANA"),
        ("zh: 甲", "zh: 甲\n    interval_s: 0", 6, "stations[0].interval_s", "greater than 0"),
        ("zh: 甲", "zh: 甲\n    zh: 乙", 6, "stations[0].zh", "stands twice; first on line 5"),
        ("zh: 甲", "zh: 甲\n    noise_class: 4", 6, "stations[0].noise_class", "must be one of 0, 1, 2, 3, 4a, 4b"),
        ("zh: 甲", "zh: 甲\n    limits: {pm25: {suspect: [0, 2000]}}", 6, "stations[0].limits.pm25", "inside range"),
        ("zh: 甲", "zh: 甲\n    limits: {co: {range: [5, 5]}}", 6, "stations[0].limits.co.range", "[smallest, larg"),
        ("zh: 甲", "zh: 甲\n    limits: {co: {spike: {suspect: 9, fail: 3}}}", 6, "stations[0].limits.co", "spike:"),
        ("zh: 甲", "zh: 甲\n    limits: {wind_direction: {neighbour: {suspect: 9}}}", 6,
         "stations[0].limits.wind_direction", "no mean to compare"),
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
        ("{x: {property: pm25, channel: 'A b'}}", "fields.x.channel", "a small letter or digit"),
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
        ("kind: threshold, property: pm25, levels: {blue: 2, red: 1}", "levels", "须递增 / levels must rise"),
        (
            "kind: threshold, property: pm25, direction: below, levels: {blue: 1, red: 2}",
            "levels",
            "须递减 / levels must f",
        ),
        ("kind: threshold, property: pm25, levels: {blue: 1}, where: {knd: air}", "where.knd", "did you mean 'kind'?"),
        ("kind: threshold, property: pm25, levels: {blue: 1}, where: {kind: airr}", "where.kind[0]", "must be one of"),
        ("kind: threshold, property: pm25, levels: {blue: 1}, where: {network: m}", "where.network", "not a network"),
        ("kind: silence, after_s: 5, where: {station: B}", "where.station", "is not a station"),
        ("kind: silence", "", "exactly one of after_intervals and after_s"),
        ("kind: silence, after_s: 5, after_intervals: 2", "", "exactly one of"),
        ("kind: silence, after_s: 5, levels: red", "levels", "did you mean 'level'?"),
        ("kind: rate_of_change, property: pm25, levels: {blue: 0}", "levels.blue", "must be greater than 0"),
        (
            "kind: rate_of_change, property: pm25, levels: {blue: 5}, direction: above",
            "direction",
            "rise, fall, either",
        ),
        ("kind: rate_of_change, property: pm25, levels: {blue: 5, red: 4}", "levels", "levels must rise from blue"),
        ("kind: rate_of_change, property: pm25, levels: {blue: 5}, over_s: 5", "over_s", "must be at least 60"),
        ("kind: stuck, property: pm25", "for_s", "is missing"),
        ("kind: stuck, property: pm25, for_s: 60, levels: {red: 1}", "levels", "did you mean 'level'?"),
        ("kind: stuck, property: pm25, for_s: 60, tolerance: -1", "tolerance", "must be at least 0"),
        ("kind: quality, levels: {red: 0.5}", "", "exactly one of readings and span_s"),
        ("kind: quality, levels: {red: 5}, readings: 9", "levels.red", "must be at most 1"),
        ("kind: quality, levels: {red: 1}, readings: 65", "readings", "must be at most 64"),
        ("kind: deviation, property: pm25, levels: {red: 3}", "least", "is missing"),
        (
            "kind: deviation, property: pm25, levels: {red: 3}, least: 1, days: 5",
            "min_days",
            "not be greater than days",
        ),
        ("kind: expression, when: 'pm25 >'", "when", "is not a CEL expression"),
        ("kind: expression, when: 'pm2_5 > 1.0'", "when", "did you mean 'pm25'?"),
        ("kind: expression, when: 'pm25 > 1.0 || o3_aeg < 9.0'", "when", "'o3_aeg' is not known"),
        ("kind: expression, when: 'pm25 + 1 > 2.0'", "when", "numbers are written with a point"),
        ("kind: expression, when: 'pm25 > 1.0 || pm25 > \"x\"'", "when", "No such overload"),
        ("kind: expression, when: 'pm25 > 1.0 && !(pm25 < 0.0 || pm25 == station_id)'", "when", "never equal"),
        ("kind: expression, when: 'pm25 + 1.0'", "when", "neither true nor false"),
        ("kind: expression, when: 'station_kind == \"air\"'", "when", "names no reading"),
        ("kind: expression, when: 'int(pm25) > 1'", "when", "int cannot be used here"),
        ("kind: expression, when: 'pm25 > attribute_limit'", "when", "has all of attribute_limit"),
        ("kind: figure, what: hour, property: pm_25, levels: {red: 1}", "property", "did you mean 'pm25'?"),
        ("kind: figure, what: hour, property: red_tide_warning, levels: {red: 1}", "property", "observed property"),
        ("kind: figure, what: hour_index, property: pm25, levels: {red: 1}", "property", "not an index of hour_index"),
        ("kind: figure, what: neighbour, property: wind_direction, levels: {red: 1}", "property", "no mean to compare"),
        (
            "kind: figure, what: day_index, property: red_tide_warnin, levels: {red: 1}",
            "property",
            "'red_tide_warning'?",
        ),
        ("kind: figure, what: day_index, property: surge_residual, levels: {red: 1}", "property", "there are aqi,"),
        ("kind: expression, when: 'pm25 > 1.0', where: {kind: airr}", "where.kind[0]", "must be one of"),
        ("kind: silence, after_s: 5, where: {district: 370202}", "where.district[0]", "must be text; put it in quotes"),
        ("kind: silence, after_s: 5, where: {district: [370202]}", "where.district[0]", "must be text; put it in quo"),
        ("kind: clock_wrong, after: 5", "after", "did you mean 'after_s'?"),
        ("kind: clock_wrong, schedule: {start: '24:00'}", "schedule.start", "a time of day such as"),
        ("kind: clock_wrong, schedule: {start: 22}", "schedule.start", "in quotes"),
        ("kind: clock_wrong, schedule: {days: [sat, son]}", "schedule.days[1]", "must be one of mon"),
        ("kind: clock_wrong, schedule: {days: []}", "schedule.days", "at least 1"),
        ("kind: clock_wrong, schedule: {begin: '01:00'}", "schedule.begin", "allowed: days, start, end"),
        ("kind: situation, rules: x, place: network, within_s: 60", "rules[0]", "is not a rule"),
        ("kind: situation, rules: r, place: network, within_s: 60", "rules[0]", "is a situation itself"),
        ("kind: situation, place: network, within_s: 60", "", "needs `rules` or `properties`"),
        ("kind: situation, properties: pm_25, place: network, within_s: 60", "properties[0]", "did you mean 'pm25'?"),
        ("kind: situation, properties: pm25, place: city, within_s: 60", "place", "must be one of district, network"),
        ("kind: situation, properties: pm25, place: radius, within_s: 60", "", "place: radius needs `radius_km`"),
        ("kind: situation, properties: pm25, place: downstream, within_s: 60", "", "needs `then`"),
        ("kind: situation, properties: pm25, place: network, radius_km: 3, within_s: 60", "radius_km", "radius alone"),
        ("kind: situation, properties: pm25, place: network, stations: 1, within_s: 60", "stations", "at least 2"),
        ("kind: situation, properties: pm25, place: network, within_s: 60, schedule: {}", "schedule", "leave it out"),
        ("kind: thresold", "kind", "'threshold', 'rate_of_change', 'stuck'"),
    ],
)
def test_fault_of_a_rule(tmp_path: Path, rule: str, key: str, says: str) -> None:
    found = problems(tmp_path, f"{HEAD}rules:\n  - {{id: r, zh: 规, en: Rule, {rule}}}\n")
    assert len(found) == 1, found
    assert (found[0].line, found[0].key) == (14, f"rules[0].{key}".rstrip("."))
    assert says in found[0].message


@pytest.mark.parametrize(
    ("rule", "hidden"),
    [
        ("kind: threshold, property: pm25, levels: {blue: 2, red: 1}", ("levels", "{blue: 2, red: 1}")),
        ("kind: silence", ("", "")),
        ("kind: silence, after_s: 5, after_intervals: 2", ("", "")),
    ],
)
def test_a_wrong_key_of_where_hides_nothing_of_its_rule(tmp_path: Path, rule: str, hidden: tuple[str, str]) -> None:
    """What is wrong between the rule's own keys is told beside it, with a value as it was written."""
    found = problems(tmp_path, f"{HEAD}rules:\n  - {{id: r, zh: 规, en: Rule, {rule}, where: {{knd: air}}}}\n")
    key, value = hidden
    assert [(p.key, p.value) for p in found] == [
        ("rules[0].where.knd", "air"), (f"rules[0].{key}".rstrip("."), value),
    ]  # fmt: skip
    assert [
        (p.key, p.value) for p in problems(tmp_path, f"{HEAD}rules:\n  - {{id: r, zh: 规, en: Rule, {rule}}}\n")
    ] == [(f"rules[0].{key}".rstrip("."), value)]


def test_every_sentence_has_both_languages(tmp_path: Path) -> None:
    """One fault of each kind that our own checks know."""
    text = """\
stations:
  - {id: A, zh: 甲, en: A, network: n, domain: air, kind: air, position: [36.1, 120.3], timezone: Beijing,
     devices: [{id: a, fields: {x: {property: pm_25}, y: {property: pm25, unit: ppb, scale: 0}}}, {id: b}]}
  - {id: B, zh: 乙, en: B, network: m, domain: air, kind: air, position: here, limits: {co: {range: [2, 1]}},
     devices: [{id: c, fields: {x: pm25, y: pm25}}]}
rules:
  - {id: r, zh: 规, en: R, kind: thresold}
  - {id: s, zh: 规, en: S, kind: silence, where: {station: Z, network: Z}}
networks: [{id: n, zh: 网, en: N}]
"""
    found = problems(tmp_path, text)
    assert len(found) == 14, found
    assert [str(p) for p in found if not re.search(r"[\u4e00-\u9fff].* / .*[a-z]", p.message)] == []
    assert [p.line for p in found] == sorted(p.line for p in found)
    assert not any("': " in p.value for p in found), "a Python dict was shown"


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


def test_two_short_forms_are_told_once_for_each_property(tmp_path: Path) -> None:
    """Not once for each alias of the property, of which nobody wrote a word."""
    text = HEAD.replace("[pm25]", "[pm25, pm10]") + "      - {id: b, properties: [pm10, pm25, o3]}\n"
    found = problems(tmp_path, text)
    assert [(p.line, p.key, p.value) for p in found] == [
        (13, "stations[0].devices[1].properties", key) for key in ("pm10", "pm25")
    ]  # fmt: skip


def test_a_short_form_beside_fields_is_told_once_for_each_field(tmp_path: Path) -> None:
    """Each is a line of its own that must go, whichever comes first."""
    fields = "{id: b, fields: {x: pm25, y: pm25}}"
    found = problems(tmp_path, f"{HEAD}      - {fields}\n")
    assert [p.key for p in found] == [f"stations[0].devices[1].fields.{name}" for name in ("x", "y")]
    head = HEAD.replace("{id: a, properties: [pm25]}", fields)
    found = problems(tmp_path, f"{head}      - {{id: a, properties: [pm25]}}\n")
    assert [p.key for p in found] == ["stations[0].devices[0].fields.y", "stations[0].devices[1].properties"]


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
        ("{sentinels: [x]}", "defaults.sentinels[0]", "须为数值 / must be a number"),
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
    with pytest.raises(ConfigError, match=r"没有 \*\.yaml 文件 / folder has no \*\.yaml"):
        load_catalogue(tmp_path)
    with pytest.raises(ConfigError, match="没有此文件夹 / there is no such folder"):
        load_catalogue(tmp_path / "none")
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert load_catalogue(tmp_path).stations == {}


@pytest.mark.parametrize("name", ["b.yml", "b.YML", "b.Yaml", "deep/b.yml"])
def test_a_file_that_would_not_be_read_is_told(tmp_path: Path, name: str) -> None:
    """In silence its stations would be missing; what others name of it is not doubted meanwhile."""
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("networks: [{id: other, zh: 网, en: N}]\n", encoding="utf-8")
    [problem] = problems(tmp_path, HEAD.replace("network: n", "network: other"))
    assert (problem.file, problem.line) == (str(tmp_path / name), 0)
    assert problem.message == "须以 .yaml 结尾, 否则不读 / is not read: rename it to b.yaml"


def test_a_folder_of_files_with_another_ending_is_not_called_empty(tmp_path: Path) -> None:
    (tmp_path / "b.yml").write_text(HEAD, encoding="utf-8")
    with pytest.raises(ConfigError, match="rename it to") as caught:
        load_catalogue(tmp_path)
    assert len(caught.value.problems) == 1


def test_value_from_outside_is_cut(tmp_path: Path) -> None:
    problem = one(tmp_path, "domain: air", f"domain: {'x' * 500}")
    assert len(problem.value) == 80


def test_fault_in_a_merged_block_points_at_what_the_user_wrote_last(tmp_path: Path) -> None:
    text = HEAD.replace("- id: A", "- &a\n    id: A") + "  - <<: *a\n    id: B\n    domain: aire\n    devices: []\n"
    [problem] = problems(tmp_path, text)
    assert (problem.line, problem.key) == (16, "stations[1].domain")


@pytest.mark.parametrize(
    ("window", "key", "says"),
    [
        ("start: '2026-11-23T08:00:00', end: '2026-11-24T08:00:00+08:00'", "start", "with its offset from UTC"),
        ("start: '2026-11-23T08:00:00+08:00', end: soon", "end", "with its offset from UTC"),
        ("start: '2026-11-23T08:00:00+08:00', end: '2026-11-23T00:00:00Z'", "end", "must be later than start"),
    ],
)
def test_fault_of_a_maintenance_window(tmp_path: Path, window: str, key: str, says: str) -> None:
    problem = one(tmp_path, "zh: 甲", f"zh: 甲\n    maintenance: [{{{window}}}]")
    assert (problem.line, problem.key) == (6, f"stations[0].maintenance[0].{key}")
    assert says in problem.message


def test_unit_as_long_as_a_book_is_refused_and_cut(tmp_path: Path) -> None:
    problem = one(tmp_path, "properties: [pm25]", f"fields: {{x: {{property: pm25, unit: {'u' * 5000}}}}}")
    assert len(problem.message) < 300


def test_one_fault_hides_no_other(tmp_path: Path) -> None:
    """What is right in a block with a fault is compared with the other blocks all the same."""
    text = (
        HEAD.replace("domain: air", "domain: aire").replace("network: n", "network: m")
        + """\
      - {id: b, fields: {dust: {property: pm25, unit: ppb}}}
      - {id: a, properties: [pm10, pm2_5]}
rules:
  - {id: r, zh: 规, en: R, kind: silence, after_s: 0, where: {station: Z}}
  - {id: r, zh: 规, en: R, kind: silence, after_s: 5}
defaults:
  limits: {air: {pm25: {range: [0, 9000], spike: {fail: x}}}, all: {co: {suspect: [0, 1e9]}}}
"""
    )
    found = {(p.line, p.key): p.message for p in problems(tmp_path, text)}
    assert sorted(found) == [
        (7, "stations[0].network"), (8, "stations[0].domain"), (13, "stations[0].devices[1].fields.dust"),
        (13, "stations[0].devices[1].fields.dust.unit"), (14, "stations[0].devices[2].id"),
        (14, "stations[0].devices[2].properties[1]"), (16, "rules[0].after_s"), (16, "rules[0].where.station"),
        (17, "rules[1].id"), (19, "defaults.limits.air.pm25.spike.fail"), (19, "defaults.limits.all.co"),
    ], found  # fmt: skip
    assert "一数一源" in found[13, "stations[0].devices[1].fields.dust"]


def test_what_follows_from_a_fault_is_not_told(tmp_path: Path) -> None:
    """A network with a wrong id, a file that cannot be read, limits whose default is wrong: nobody is blamed twice."""
    text = HEAD.replace("zh: 甲", "zh: 甲\n    limits: {pm25: {suspect: [0, 2000]}}")
    (tmp_path / "d.yaml").write_text("defaults: {limits: {air: {pm25: {range: [0, x]}}}}\n")
    found = problems(tmp_path, text.replace("{id: n,", "{id: n/,"))
    assert [p.key for p in found] == ["networks[0].id", "defaults.limits.air.pm25.range[1]"]
    (tmp_path / "d.yaml").write_text("networks: [\n")
    found = problems(tmp_path, HEAD.replace("network: n", "network: other"))
    assert [p.file for p in found] == [str(tmp_path / "d.yaml")]


def test_a_fault_in_an_anchor_is_told_once_where_its_text_stands(tmp_path: Path) -> None:
    """Of a block, a list and a single word, however often they are used."""
    text = """\
rules:
  - id: r
    zh: 规
    en: R
    kind: silence
    after_s: &wait soon
  - {id: s, zh: 规, en: S, kind: silence, after_s: *wait, where: &all {knd: air}}
  - {id: t, zh: 规, en: T, kind: silence, after_s: 5, where: *all}
"""
    found = [(p.line, p.key) for p in problems(tmp_path, HEAD + text)]
    assert found == [(18, "rules[0].after_s"), (19, "rules[1].where.knd")]


def test_an_anchor_whose_use_is_the_fault_is_told_where_it_is_used(tmp_path: Path) -> None:
    """The same devices at two stations: the line of the anchor would name the station that is right."""
    text = (
        HEAD.replace("devices:", "devices: &d")
        + """\
  - {id: B, zh: 乙, en: B, network: n, domain: air, kind: air, position: [120.3, 36.1], devices: *d}
"""
    )
    [problem] = problems(tmp_path, text)
    assert (problem.line, problem.key) == (13, "stations[1].devices[0].id")
    assert f"{tmp_path / 'c.yaml'}:12" in problem.message


@pytest.mark.parametrize(
    ("where", "key", "says"),
    [
        (
            '{district: "370203"}',
            "where.district",
            "没有站点在此区 / no station lies in this district, six digits of GB/T",
        ),
        ('{district: ["370202", "370220"]}', "where.district", "did you mean '370202'?"),
        ("{district: abc, domain: air}", "where.district", "no station lies in this district"),
        ('{district: "370202", domain: water}', "where", "没有站点全部符合 / no station fits all of this"),
        ('{district: "370202", station: B}', "where", "no station fits all of this"),
    ],
)
def test_a_rule_of_a_district_without_its_stations_is_told(tmp_path: Path, where: str, key: str, says: str) -> None:
    """Six wrong digits look like six right ones, and the rule would never raise an alert."""
    text = _districts(where)
    [problem] = problems(tmp_path, text)
    assert (problem.line, problem.key) == (1 + text[: text.index("rules:")].count("\n") + 1, f"rules[0].{key}")
    assert says in problem.message


@pytest.mark.parametrize("where", ['{district: "370202"}', '{district: ["370202"], domain: air}', "{domain: water}"])
def test_a_rule_that_waits_for_no_slip_is_right(tmp_path: Path, where: str) -> None:
    """A domain is of a closed list, where no wrong word passes: it may be named before its first station is there."""
    (tmp_path / "c.yaml").write_text(_districts(where), encoding="utf-8")
    assert [rule.id for rule in load_catalogue(tmp_path).rules] == ["r"]


def test_a_district_is_not_doubted_while_a_station_is_broken(tmp_path: Path) -> None:
    """The station that cannot be read may be the one that lies there."""
    [problem] = problems(tmp_path, _districts('{district: "370203"}').replace('district: "370299"', "district: [x]"))
    assert problem.key == "stations[1].district"


def _districts(where: str) -> str:
    """Write a city of station A in 370202 and B in 370299, and one rule."""
    second = HEAD[HEAD.index("  - id: A") :].replace("A", "B").replace("id: a,", "id: b,")
    first = HEAD.replace("zh: 甲", 'zh: 甲\n    district: "370202"')
    second = second.replace("zh: 甲", 'zh: 乙\n    district: "370299"')
    rule = f"  - {{id: r, zh: 规则, en: R, kind: silence, after_s: 5, where: {where}}}\n"
    return f"{first}{second}rules:\n{rule}"


def test_topology_names_stations_and_goes_one_way(tmp_path: Path) -> None:
    """What is not a station, and a loop, are told with their line; a branch that meets again is no loop."""
    rest = "en: S, network: n, domain: air, kind: air, position: [120.3, 36.1]"
    above = {"A": "[B, X]", "B": "[C]", "C": "[A]", "D": "[E, F]", "E": "[G]", "F": "G", "G": "[]"}
    listed = "".join(
        f"  - {{id: {name}, zh: 站, {rest}, downstream_of: {names}, devices: [{{id: d{name}, properties: [pm25]}}]}}\n"
        for name, names in above.items()
    )
    found = problems(tmp_path, f"networks: [{{id: n, zh: 网, en: N}}]\nstations:\n{listed}")
    assert [(p.line, p.key) for p in found] == [(3, "stations[0].downstream_of[1]"), (3, "stations[0].downstream_of")]
    assert "is not a station" in found[0].message
    assert "A is downstream of B is downstream of C is downstream of A" in found[1].message


_CHANNELS = HEAD.replace("properties: [pm25]", "fields: {x: {property: pm25, channel: d10}, y: {property: pm10}}")


@pytest.mark.parametrize(
    ("rule", "key", "value", "says"),
    [
        ("threshold, property: pm25, channel: d1, levels: {red: 1}", "channel", "d1",
         "no station that it is for has this channel of pm25 (是否指 / did you mean 'd10'?); there are d10"),
        ("threshold, property: pm25, levels: {red: 1}", "channel", "main", "there are d10"),
        ("rate_of_change, property: pm10, channel: d10, levels: {red: 1}", "channel", "d10", "there are main"),
        ("stuck, property: pm10, channel: d10, for_s: 60", "channel", "d10", "there are main"),
        ("quality, property: pm10, channel: d10, levels: {red: 1}, readings: 5", "channel", "d10", "there are main"),
        ("deviation, property: pm10, channel: d10, levels: {red: 1}, least: 1", "channel", "d10", "there are main"),
    ],
)  # fmt: skip
def test_a_rule_of_a_channel_that_its_stations_do_not_have_is_told(
    tmp_path: Path, rule: str, key: str, value: str, says: str
) -> None:
    """It would never raise an alert."""
    [problem] = problems(tmp_path, f"{_CHANNELS}rules:\n  - {{id: r, zh: 规, en: R, kind: {rule}}}\n")
    assert (problem.line, problem.key, problem.value) == (14, f"rules[0].{key}", value)
    assert says in problem.message


@pytest.mark.parametrize(
    "rule",
    [
        "threshold, property: pm25, channel: d10, levels: {red: 1}",
        "threshold, property: o3, levels: {red: 1}",
        "threshold, property: o3, levels: {red: 1}, where: {station: A}",
        "threshold, property: pm25, channel: d1, levels: {red: 1}, where: {domain: water}",
        "quality, property: pm25, levels: {red: 1}, readings: 5",
    ],
)
def test_a_rule_may_wait_for_the_first_station_that_has_its_property(tmp_path: Path, rule: str) -> None:
    """A list of rules may be whole before all instruments stand."""
    (tmp_path / "c.yaml").write_text(f"{_CHANNELS}rules: [{{id: r, zh: 规, en: R, kind: {rule}}}]\n", "utf-8")
    assert [found.id for found in load_catalogue(tmp_path).rules] == ["r"]


def test_channels_are_not_doubted_while_a_device_is_broken(tmp_path: Path) -> None:
    """The field that cannot be read may be the one that has the channel."""
    text = _CHANNELS.replace("d10}", "D10}")
    rule = "{id: r, zh: 规, en: R, kind: threshold, property: pm10, channel: d10, levels: {red: 1}}"
    [problem] = problems(tmp_path, f"{text}rules: [{rule}]\n")
    assert problem.key.endswith("fields.x.channel")
