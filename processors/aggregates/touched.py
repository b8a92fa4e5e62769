"""Which windows were touched since they were evaluated: a set of (window, series), kept as masks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from processors.aggregates.periods import BIN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_FIRST: Final = 64


class Window(NamedTuple):
    """A period of a level in a zone; times in µs UTC, end exclusive."""

    level: int
    start: int
    end: int
    zone: str


class Touched:
    """Readings touch bins of five minutes, at a tick bins become windows; evaluating one touches the levels above.

    Attributes:
        bins: number of the bin → mask over series.
        windows: window → mask over series.
    """

    def __init__(self) -> None:
        self.bins: dict[int, NDArray[np.bool_]] = {}
        self.windows: dict[Window, NDArray[np.bool_]] = {}

    def readings(self, series: NDArray[np.int32], time_us: NDArray[np.int64], known: int) -> None:
        """Touch the bins of readings.

        Args:
            series: (n,).
            time_us: (n,).
            known: how many series there are.
        """
        if not len(series):
            return
        bins = time_us // BIN
        first = int(bins[0])
        if (bins == first).all():  # usual
            self.bins[first] = mask = _long_enough(self.bins.get(first), known)
            mask[series] = True
            return
        for number in np.unique(bins).tolist():
            self.bins[number] = mask = _long_enough(self.bins.get(number), known)
            mask[series[bins == number]] = True

    def window(self, window: Window, series: NDArray[np.int64], known: int) -> None:
        """Touch a window for some series."""
        self.windows[window] = mask = _long_enough(self.windows.get(window), known)
        mask[series] = True

    def done(self, window: Window, series: NDArray[np.int64]) -> None:
        """Forget that these series touched a window."""
        mask = self.windows[window]
        mask[series] = False
        if not mask.any():
            del self.windows[window]

    def due(self, level: int, clock_us: int, grace_us: int, room: int) -> list[tuple[Window, NDArray[np.int64]]]:
        """Return the oldest windows of a level that ended a grace ago, with at most ``room`` series in all."""
        out = []
        ended = (w for w in self.windows if w.level == level and w.end + grace_us <= clock_us)
        for window in sorted(ended, key=lambda w: w[1:]):
            if room <= 0:
                break
            series = np.flatnonzero(self.windows[window])[:room]
            out.append((window, series))
            room -= len(series)
        return out

    def copy(self) -> Touched:
        """Return a copy that changes apart."""
        out = Touched()
        out.bins = {number: mask.copy() for number, mask in self.bins.items()}
        out.windows = {window: mask.copy() for window, mask in self.windows.items()}
        return out

    def pack(self) -> tuple[dict[str, NDArray[np.int64]], list[list[object]], NDArray[np.int64]]:
        """Return arrays and windows for a snapshot, and which series occur.

        Returns:
            ``bins`` (k, 2) of bin and series; ``windows`` (l, 2) of index of the window and series; the windows as
            lists; the series, sorted: the arrays name them by their place among these.
        """
        windows = sorted(self.windows)
        bins = [(number, np.flatnonzero(mask)) for number, mask in sorted(self.bins.items())]
        placed = [(i, np.flatnonzero(self.windows[window])) for i, window in enumerate(windows)]
        used = np.unique(np.concatenate([*(s for _, s in bins), *(s for _, s in placed), np.zeros(0, np.int64)]))
        return {"bins": _pairs(bins, used), "windows": _pairs(placed, used)}, [list(w) for w in windows], used

    @classmethod
    def unpack(cls, arrays: dict[str, NDArray[np.int64]], windows: Sequence[Sequence[object]], known: int) -> Touched:
        """Take up what :meth:`pack` gave; series are numbered by their place."""
        out = cls()
        number, series = arrays["bins"].T
        out.readings(series.astype(np.int32), number * BIN, known)
        which, series = arrays["windows"].T
        for i, (level, start, end, zone) in enumerate(windows):
            window = Window(int(str(level)), int(str(start)), int(str(end)), str(zone))
            out.window(window, series[which == i], known)
        return out


def _pairs(parts: Sequence[tuple[int, NDArray[np.int64]]], used: NDArray[np.int64]) -> NDArray[np.int64]:
    rows = [np.stack([np.full(len(s), number), np.searchsorted(used, s)], axis=1) for number, s in parts]
    return np.concatenate([*rows, np.zeros((0, 2), np.int64)])


def _long_enough(mask: NDArray[np.bool_] | None, known: int) -> NDArray[np.bool_]:
    if mask is not None and len(mask) >= known:
        return mask
    longer = np.zeros(max(_FIRST, 2 * known), np.bool_)
    if mask is not None:
        longer[: len(mask)] = mask
    return longer
