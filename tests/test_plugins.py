"""One table per kind of plug-in: folder, table, docs and test cases agree."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from ingest.decoders import DECODERS
from processors.aggregates.neighbours import APART
from processors.aggregates.rules import load_rules
from processors.alerts import RULES
from processors.bits import BITS
from processors.indices.run import WHATS
from processors.quality import CHECKS
from processors.relations import MESSAGE_CHECKS
from qingtu.catalogue_rules import RULE_MODELS, What

ROOT = Path(__file__).parents[1]


def modules(folder: str, *helpers: str) -> set[str]:
    """Names of the plug-in modules in a folder."""
    return {path.stem for path in (ROOT / folder).glob("*.py")} - {"__init__", *helpers}


def sections(page: str) -> set[str]:
    """Headings of the second level of a page under docs/."""
    return set(re.findall(r"^## (.+)$", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.MULTILINE))


def test_decoders() -> None:
    """A file, a line in DECODERS, a page and cases, of which one is called usual."""
    keys = set(DECODERS)
    assert modules("ingest/decoders", *(f"{key}_model" for key in keys)) == keys
    assert {path.name for path in (ROOT / "tests/cases").iterdir() if path.is_dir()} == keys
    for key in keys:
        assert (ROOT / "docs/formats" / f"{key}.md").is_file()
        assert (ROOT / "tests/cases" / key / "usual" / "case.json").is_file()
        assert (ROOT / "simulators/payloads" / f"{key}.py").is_file()


@pytest.mark.parametrize("key", sorted(DECODERS))
def test_every_reason_of_a_decoder_stands_on_its_page(key: str) -> None:
    """A reason code that a payload can be refused with is explained to the operator."""
    source = (ROOT / "ingest/decoders" / f"{key}.py").read_text(encoding="utf-8")
    page = (ROOT / "docs/formats" / f"{key}.md").read_text(encoding="utf-8")
    reasons = set(re.findall(r'_Refusal\(\s*"(\w+)"', source)) | set(re.findall(r'\(row, "(\w+)"', source))
    assert reasons
    assert {reason for reason in reasons if f"`{reason}`" not in page} == set()


@pytest.mark.parametrize("key", sorted(DECODERS))
def test_every_reason_of_a_decoder_has_a_case(key: str) -> None:
    """No refusal without an example."""
    source = (ROOT / "ingest/decoders" / f"{key}.py").read_text(encoding="utf-8")
    reasons = set(re.findall(r'_Refusal\(\s*"(\w+)"', source))
    cases = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "tests/cases" / key).glob("*/case.json"))
    assert {reason for reason in reasons if f'"{reason}"' not in cases} == set()


def test_checks() -> None:
    """A file, a line in CHECKS, a bit of its own, a row with that bit and a section on the page."""
    assert modules("processors/quality", "run", "memory", "flags") == set(CHECKS)
    bits = [check.bit for check in CHECKS.values()]
    assert len(set(bits)) == len(bits)
    assert all(0 <= bit < 32 for bit in bits)
    page = (ROOT / "docs/quality.md").read_text(encoding="utf-8")
    rows = {key: int(bit) for key, bit in re.findall(r"^\| `(\w+)` \| (\d+) \|", page, re.MULTILINE) if key in CHECKS}
    assert rows == {key: check.bit for key, check in CHECKS.items()}
    assert set(CHECKS) <= sections("quality.md")
    for key, check in CHECKS.items():
        assert key == check.key
        assert re.search(rf"## {key}\n\nBit {check.bit}\.", page)


def test_message_checks() -> None:
    """The same of checks of several properties; no bit is that of another check."""
    assert modules("processors/relations", "run", "groups") == set(MESSAGE_CHECKS)
    assert len(set(BITS.values())) == len(BITS)
    page = (ROOT / "docs/quality.md").read_text(encoding="utf-8")
    for key, check in MESSAGE_CHECKS.items():
        assert key == check.key
        assert re.search(rf"^\| `{key}` \| {check.bit} \|", page, re.MULTILINE)
        assert re.search(rf"## {key}\n\nBit {check.bit}\.", page)


def test_bits_stay_what_they_were() -> None:
    """Bits stand in stored readings: a new check takes a new one, none is ever changed or used again."""
    stored = {
        "gross_range": 0, "plausible_range": 1, "rate_of_change": 2, "missing": 3, "spike": 4, "flat_line": 5, "gap": 6,
        "climatology": 7, "attenuated_signal": 8, "location": 9, "density_inversion": 10, "multi_variate": 11,
        "nitrogen_oxides": 12, "particle_sizes": 13, "calm_wind": 14, "instrument": 15,
        "override": 16,
    }  # fmt: skip
    assert BITS.items() >= stored.items()


def test_rules() -> None:
    """A file, a line in RULES, a model in the catalogue, and a section on the page."""
    helpers = {
        "batch", "facts", "grouped", "incidents", "ladder", "places", "quiet", "schedule", "telling", "timeline",
        "watching",
    }  # fmt: skip
    assert modules("processors/alerts", *helpers) == set(RULES)
    kinds = {kind: get_args(model.model_fields["kind"].annotation) for kind, model in RULE_MODELS.items()}
    assert kinds == {kind: (kind,) for kind in RULES}
    assert set(RULES) <= sections("alerts.md")


def test_rules_on_figures_know_every_level_and_index() -> None:
    """What a figure rule may watch is what derive makes."""
    assert set(get_args(What)) == {level.name for level in load_rules().levels} | set(WHATS.values()) | {APART}
