"""All levels computed a second time, with pandas over the raw readings, and nothing of processors/aggregates."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Samples = Mapping[str, list[tuple[int, float]]]

HOUR: Final = 3600
Wanted = dict[tuple[str, str, int], tuple[float, int, int, bool]]
"""(what, property, start µs UTC) → (value, count, expected, valid)."""
_GB: Final = {"pm25": {"8h": 6, "day": 20, "month": 27, "year": 324}, "o3": {"8h": 6, "day": 20, "month": 27}}


def _mean(values: pd.Series) -> float:
    return float(values.mean())


def _energy(values: pd.Series) -> float:
    return 10 * math.log10(float((10 ** (values / 10)).mean()))


def _rms(values: pd.Series) -> float:
    return math.sqrt(float((values**2).mean()))


HOW: Final[Mapping[str, Callable[[pd.Series], float]]] = {
    "mean": _mean,
    "energy": _energy,
    "rms": _rms,
    "sum": lambda values: float(values.sum()),
    "counter": lambda values: float(values.sum()),
    "max": lambda values: float(values.max()),
    "last": lambda values: float(values.iloc[-1]),
}
_KEEP_ALL: Final = ("sum", "counter", "max", "last")


def levels(samples: Samples, kinds: Mapping[str, str], zone: str, interval_s: int) -> Wanted:
    """Return hours, eight hours of ozone, days, months and years of one station."""
    out: Wanted = {}
    for prop, kind in kinds.items():
        if kind == "vector":
            _vectors(out, samples, prop, zone, interval_s)
            continue
        rows = pd.Series(dict(samples[prop]), dtype=float).sort_index()
        rows.index = pd.to_datetime(rows.index, unit="us", utc=True)
        if kind == "counter":  # a step over a gap of more than six hours before its period is not known to be of it
            before = pd.Series(rows.index, index=rows.index).shift()
            near = before >= rows.index.floor("h") - pd.Timedelta(hours=6)
            rows = rows.diff().clip(lower=0)[near]
        expected = round(HOUR / interval_s)
        groups = rows.groupby(rows.index.floor("h"))
        hours = pd.DataFrame({"value": groups.apply(HOW[kind]), "count": groups.size()})
        hours["valid"] = hours["count"] >= 0.75 * expected
        hours["expected"] = expected
        _put(out, "hour", prop, hours)
        if prop == "o3":
            _moving(out, prop, hours)
        days = _up(out, "day", prop, kind, hours, zone)
        _up(out, "month", prop, kind, days, zone)
        _up(out, "year", prop, kind, days, zone)
        if prop == "noise_leq":
            _day_night(out, prop, hours, zone)
    return out


def _put(out: Wanted, what: str, prop: str, frame: pd.DataFrame) -> None:
    for at, row in frame.iterrows():
        start = int(pd.Timestamp(at).value // 1000)
        out[what, prop, start] = (float(row["value"]), int(row["count"]), int(row["expected"]), bool(row["valid"]))


def _moving(out: Wanted, prop: str, hours: pd.DataFrame) -> None:
    first, last = hours.index[0] - pd.Timedelta(hours=7), hours.index[-1]
    for start in pd.date_range(first, last, freq="h"):
        some = hours[(hours.index >= start) & (hours.index < start + pd.Timedelta(hours=8))]
        good = some[some["valid"]]
        if len(some):
            value = float(good["value"].mean()) if len(good) else math.nan
            out["8h", prop, int(start.value // 1000)] = (value, len(good), 8, len(good) >= _GB[prop]["8h"])


def _up(out: Wanted, what: str, prop: str, kind: str, parts: pd.DataFrame, zone: str) -> pd.DataFrame:
    code, unit = {"day": ("D", "h"), "month": ("M", "D"), "year": ("Y", "D")}[what]
    local = parts.index.tz_convert(zone)
    rows = {}
    for period, some in parts.groupby(local.tz_localize(None).to_period(code)):
        start = period.start_time.tz_localize(zone)
        end = (period + 1).start_time.tz_localize(zone)
        if unit == "h":
            expected = round((end - start).total_seconds() / HOUR)
        else:
            expected = (period + 1).start_time.toordinal() - period.start_time.toordinal()
        used = some if kind in _KEEP_ALL else some[some["valid"]]
        used = used[used["value"].notna()]
        count = int(some["valid"].sum())
        needed = _GB.get(prop, {}).get(what, 0.75 * expected)
        value = HOW[kind](used["value"]) if len(used) else math.nan
        rows[start.tz_convert("UTC")] = (value, count, expected, count >= needed)
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=["value", "count", "expected", "valid"])
    _put(out, what, prop, frame)
    return frame


def _day_night(out: Wanted, prop: str, hours: pd.DataFrame, zone: str) -> None:
    local = hours.index.tz_convert(zone)
    for day, some in hours.groupby(local.date):
        start = pd.Timestamp(day).tz_localize(zone)
        every = pd.date_range(start, start + pd.DateOffset(days=1), freq="h", inclusive="left")
        at = some.index.tz_convert(zone).hour
        day_time = (at >= 6) & (at < 22)
        found = {}
        for name, mask, by in (("ld", day_time, True), ("ln", ~day_time, False)):
            good = some[mask & some["valid"].to_numpy()]
            expected = int((((every.hour >= 6) & (every.hour < 22)) == by).sum())
            value = _energy(good["value"]) if len(good) else math.nan
            found[name] = (value, len(good), expected, len(good) >= 0.75 * expected)
            out[f"day_{name}", prop, int(start.value // 1000)] = found[name]
        (ld, n, day_n, one), (ln, m, night_n, other) = found["ld"], found["ln"]
        ldn = 10 * np.log10((day_n * 10 ** (ld / 10) + night_n * 10 ** ((ln + 10) / 10)) / (day_n + night_n))
        out["day_ldn", prop, int(start.value // 1000)] = (float(ldn), n + m, day_n + night_n, one and other)


def _vectors(out: Wanted, samples: Samples, prop: str, zone: str, interval_s: int) -> None:
    """Directions weighted by the speed of the same moment; complex numbers instead of sines."""
    speed = dict(samples["wind_speed"])
    rows = {t: speed[t] * np.exp(1j * math.radians(v)) for t, v in samples[prop] if t in speed}
    vectors = pd.Series(rows).sort_index()
    vectors.index = pd.to_datetime(vectors.index, unit="us", utc=True)

    def put(what: str, parts: pd.Series, keys: Any, expected: Callable[[Any], int], start: Callable[[Any], int]) -> Any:
        means = {}
        for key, some in parts.groupby(keys):
            mean = complex(some.mean())
            valid = len(some) >= 0.75 * expected(key)
            out[what, prop, start(key)] = (math.degrees(math.atan2(mean.imag, mean.real)) % 360, len(some),
                                           expected(key), valid)  # fmt: skip
            if valid:
                means[key] = mean
        return pd.Series(means, dtype=complex)

    hours = put(
        "hour", vectors, vectors.index.floor("h"), lambda _: round(HOUR / interval_s), lambda k: k.value // 1000
    )
    hours.index = pd.DatetimeIndex(hours.index)

    def begin(day: Any) -> pd.Timestamp:
        return pd.Timestamp(day).tz_localize(zone)

    put(
        "day", hours, hours.index.tz_convert(zone).date,
        lambda d: round(((begin(d) + pd.DateOffset(days=1)) - begin(d)).total_seconds() / HOUR),
        lambda d: begin(d).value // 1000,
    )  # fmt: skip
