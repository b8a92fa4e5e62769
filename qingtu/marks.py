"""Marks: what an instrument says of its own reading (calibration, maintenance, power-on …). Rows in ``marks.yaml``."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

import yaml

OTHER: Final = "other"
_FILE: Final = Path(__file__).with_name("marks.yaml")


class Mark(NamedTuple):
    """One mark.

    Attributes:
        key: as the native format writes it.
        hj212: letter of HJ 212, None when it has none.
        flag: QARTOD flag that it gives a reading.
        zh, en: for people.
    """

    key: str
    hj212: str | None
    flag: int
    zh: str
    en: str


@cache
def load_marks() -> tuple[Mark, ...]:
    """Return all marks; the number of a mark in :class:`qingtu.contracts.Decoded` is its place here plus one."""
    rows = yaml.safe_load(_FILE.read_text(encoding="utf-8"))["marks"]
    return tuple(Mark(**row) for row in rows)


def mark_number(text: str) -> int:
    """Return the number of a mark by key; of a word that is none, that of ``other``: it is not normal.

    >>> mark_number("normal"), mark_number(" Calibration "), mark_number("what?")
    (1, 6, 11)
    """
    return _numbers().get(text.strip().lower(), _numbers()[OTHER])


@cache
def _numbers() -> dict[str, int]:
    return {mark.key: number for number, mark in enumerate(load_marks(), 1)}
