"""What the tests of wrong catalogues share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from qingtu.catalogue import load_catalogue
from qingtu.errors import ConfigError, Problem

if TYPE_CHECKING:
    from pathlib import Path


def problems(folder: Path, text: str, name: str = "c.yaml") -> list[Problem]:
    """Write one more file into a catalogue, load all, and return what is wrong: something must be."""
    (folder / name).write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_catalogue(folder)
    return list(caught.value.problems)
