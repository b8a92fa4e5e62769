"""How flags combine (QARTOD: FAIL > SUSPECT > PASS > NOT EVALUATED > MISSING; qartod.yaml, flags.aggregate)."""

from __future__ import annotations

from typing import Final

import numpy as np

from qingtu.records import Flag

_ORDER: Final = [Flag.MISSING, Flag.NOT_EVALUATED, Flag.PASS, Flag.SUSPECT, Flag.FAIL]
FLAG: Final = np.array(_ORDER, np.uint8)
"""Flag of each rank: a pass hides what was not evaluated."""
RANK: Final = np.zeros(10, np.uint8)
"""Rank of each flag."""
RANK[_ORDER] = np.arange(len(_ORDER))
