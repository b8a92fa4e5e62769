"""Numbers of the standards: YAML files under ``data/``, each block with its source and how sure it is.

Numbers with decimals are read as :class:`decimal.Decimal` from their text, so that 0.1 is a tenth.
"""

from __future__ import annotations

from decimal import Decimal
from functools import cache
from importlib.resources import files
from typing import Any, Final

import yaml

CONFIDENCE: Final = ("official", "secondary", "unconfirmed")
"""How sure a number is: read in the official document; a public page or program repeats it; from memory."""


class _Loader(yaml.SafeLoader):
    """A safe loader for which a number with decimals is a Decimal."""


def _decimal(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> Decimal:
    return Decimal(str(loader.construct_scalar(node)))


_Loader.add_constructor("tag:yaml.org,2002:float", _decimal)


@cache
def table(name: str) -> dict[str, Any]:
    """Return the data file ``data/<name>.yaml``; read once per process.

    Args:
        name: of the file, without its ending.
    """
    text = files("processors.indices").joinpath("data", f"{name}.yaml").read_text(encoding="utf-8")
    data: dict[str, Any] = yaml.load(text, Loader=_Loader)  # noqa: S506 - derived from the safe loader
    return data


def weakest(*confidence: str) -> str:
    """Return the least sure of several words of :data:`CONFIDENCE`."""
    return max(confidence, key=CONFIDENCE.index)
