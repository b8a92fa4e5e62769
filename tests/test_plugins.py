"""One table per kind of plug-in: folder, table, docs and test cases agree."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from ingest.decoders import DECODERS
from processors.alerts import RULES
from processors.quality import CHECKS
from qingtu.catalogue_model import SilenceRule, ThresholdRule

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
    assert modules("processors/quality", "run") == set(CHECKS)
    bits = [check.bit for check in CHECKS.values()]
    assert len(set(bits)) == len(bits)
    assert all(0 <= bit < 32 for bit in bits)
    page = (ROOT / "docs/quality.md").read_text(encoding="utf-8")
    rows = {key: int(bit) for key, bit in re.findall(r"^\| `(\w+)` \| (\d+) \|", page, re.MULTILINE)}
    assert rows == {key: check.bit for key, check in CHECKS.items()}
    assert set(CHECKS) <= sections("quality.md")
    for key, check in CHECKS.items():
        assert key == check.key
        assert re.search(rf"## {key}\n\nBit {check.bit}\.", page)


def test_bits_stay_what_they_were() -> None:
    """Bits stand in stored readings: a new check takes a new one, none is ever changed or used again."""
    stored = {"gross_range": 0, "plausible_range": 1, "rate_of_change": 2, "missing": 3, "spike": 4}
    assert {key: check.bit for key, check in CHECKS.items()}.items() >= stored.items()


def test_rules() -> None:
    """A file, a line in RULES, a model in the catalogue, and a section on the page."""
    assert modules("processors/alerts", "batch") == set(RULES)
    models = {get_args(model.model_fields["kind"].annotation)[0] for model in (ThresholdRule, SilenceRule)}
    assert models == set(RULES)
    assert set(RULES) <= sections("alerts.md")
