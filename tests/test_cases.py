"""Every case folder of every decoder (tests/cases/README.md)."""

from __future__ import annotations

import json
import math
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from ingest.decoders import DECODERS
from qingtu.clock import SECOND
from qingtu.contracts import NO_TIME, Decoded

CASES = Path(__file__).parent / "cases"
FOLDERS = sorted(path.parent for path in CASES.glob("*/*/case.json"))


def _time_us(text: str | None) -> int:
    if text is None:
        return NO_TIME
    since = datetime.fromisoformat(text) - datetime.fromisoformat("1970-01-01T00:00:00Z")
    return (since.days * 86_400 + since.seconds) * SECOND + since.microseconds


def _payload(folder: Path) -> bytes:
    (file,) = folder.glob("payload.*")
    return file.read_bytes()


def _readings(decoded: Decoded, row: int) -> list[tuple[str, str, float | None, int, bool]]:
    return [
        (
            decoded.names[decoded.name[i]],
            decoded.units[decoded.unit[i]],
            None if math.isnan(decoded.value[i]) else float(decoded.value[i]),
            int(decoded.time_us[i]),
            bool(decoded.local[i]),
        )
        for i in range(len(decoded.row))
        if decoded.row[i] == row
    ]


def _expected(case: dict[str, Any]) -> dict[str, Any]:
    return {
        "readings": [
            (r["name"], r["unit"], r["value"], _time_us(r["time"]), r.get("local", False)) for r in case["readings"]
        ],
        "events": [
            (e["kind"], e["level"], _time_us(e["time"]), e["attributes"], e.get("local", False))
            for e in case.get("events", [])
        ],
        "refused": sorted((r["reason"], r["readings"]) for r in case.get("refused", [])),
        "own_identity": case["own_identity"],
    }


def _found(decoded: Decoded, row: int) -> dict[str, Any]:
    return {
        "readings": _readings(decoded, row),
        "events": [event[1:] for event in decoded.events if event[0] == row],
        "refused": sorted((reason, n) for at, reason, _, n in decoded.refused if at == row),
        "own_identity": bool(decoded.own_identity[row]),
    }


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: f"{f.parent.name}/{f.name}")
def test_case(folder: Path) -> None:
    """The payload becomes what the case says, alone and between two other payloads, which stay as they are."""
    case = json.loads((folder / "case.json").read_text(encoding="utf-8"))
    decoder, payload = DECODERS[folder.parent.name], _payload(folder)
    assert _found(decoder([payload], [case["device"]]), 0) == _expected(case)
    good = _payload(CASES / folder.parent.name / "usual")
    alone = _found(decoder([good], ["d1"]), 0)
    beside = decoder([good, payload, good], ["d1", case["device"], "d1"])
    assert [_found(beside, row) for row in range(3)] == [alone, _expected(case), alone]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: f"{f.parent.name}/{f.name}")
def test_without_a_topic_any_device_is_taken(folder: Path) -> None:
    """No device given: nothing to compare with, and all else is as the case says."""
    case = json.loads((folder / "case.json").read_text(encoding="utf-8"))
    found = _found(DECODERS[folder.parent.name]([_payload(folder)], [None]), 0)
    expected = _expected(case)
    if any(reason == "device_mismatch" for reason, _ in expected["refused"]):
        assert found["readings"]
        assert found["refused"] == []
    else:
        assert found == expected


def test_every_case_says_why() -> None:
    """A case explains itself in a sentence."""
    for folder in FOLDERS:
        why = json.loads((folder / "case.json").read_text(encoding="utf-8"))["why"]
        assert why.endswith("."), folder
