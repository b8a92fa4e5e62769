"""How the indicators of air quality are made of hour and day figures; shared by the air quality indices.

Eight-hour means are made here of hour figures, and not read as figures: so an index of an hour or day needs nothing but
hours and days, which derive makes before it asks for the index.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from processors.indices.contract import largest, mean

if TYPE_CHECKING:
    from collections.abc import Mapping

    from processors.indices.contract import Input, Period


def indicator(period: Period, prop: str, how: str, name: str, needed: Mapping[str, int]) -> Input:
    """Return one indicator of a station.

    Args:
        period: of the station.
        prop: property.
        how: ``hour`` or ``day``, a figure as it is; ``8h`` and ``24h``, the mean of so many hours, this one the
            last; ``hour_max`` and ``8h_max``, the largest of the local day.
        name: how the result calls it.
        needed: by ``how``, how many hours make it valid; of ``8h_max``, how many windows.

    The windows of a day are those that lie wholly in it: they end at 8:00 to 24:00.
    """
    if how in {"8h", "24h"}:
        return mean(period.before(prop, int(how[:-1])), name, f"{how}_mean", needed[how])
    if how in {"hour_max", "8h_max"}:
        hours = [period.figure(prop, "hour", start) for start in period.day_hours()]
        if how == "hour_max":
            return largest(hours, name, how, needed[how])
        windows = [mean(hours[i : i + 8], name, "8h_mean", needed["8h"]) for i in range(len(hours) - 7)]
        return largest(windows, name, how, needed[how])
    return period.figure(prop, how, name=name)
