"""Try changed alert rules on stored raw: which alerts would appear, vanish or move.

Raw of the span is run twice through the pass of today, under the rules as they are and under the changed ones, each on
a bus in memory. Nothing of the live store is touched, and the service may run. When a rule looks at figures, raw is run
once more before that, to make them (:mod:`qingtu.rules_figures`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from qingtu.catalogue import Catalogue
from qingtu.catalogue_checks import content_of
from qingtu.catalogue_files import read_blocks, read_one
from qingtu.clock import HOUR
from qingtu.records import ALERTS, PROCESSED, REJECTED, decode, times_of
from qingtu.replay_bus import ReplayBus
from qingtu.replay_pass import config_of
from qingtu.replay_raw import RawSource, Span, clock_us, locate, open_raw
from qingtu.rules_figures import Needed, TodayWith, Told, figures_told
from qingtu.stage import StageLoop

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import pyarrow as pa

    from qingtu.settings import Settings

_NEVER_S: Final = 1 << 40
_ENDED: Final = ("resolved", "withdrawn")


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert of a run.

    Attributes:
        id, rule, station, property, channel: as on the stream.
        opened_us: µs UTC.
        ended_us: µs UTC; None: it stands at the end of raw.
        level: highest that it had.
        state: the last one.
    """

    id: str
    rule: str
    station: str
    property: str
    channel: str
    opened_us: int
    ended_us: int | None
    level: int
    state: str

    def watch(self) -> tuple[str, str, str, str]:
        """What two alerts must share to be the same thing, moved."""
        return self.rule, self.station, self.property, self.channel

    def meets(self, other: Alert) -> bool:
        """Return whether both stood at one time."""
        ends = [one.ended_us if one.ended_us is not None else _NEVER_S * 1_000_000 for one in (self, other)]
        return self.opened_us <= ends[1] and other.opened_us <= ends[0]


@dataclass(frozen=True, slots=True)
class Tried:
    """What changed rules would change.

    Attributes:
        appear: alerts that there would be as well.
        vanish: alerts that there would not be.
        move: pairs (now, then) that open, end or rise otherwise.
        same: how many stay as they are.
        from_us, to_us: of raw that was run, µs UTC.
    """

    appear: list[Alert]
    vanish: list[Alert]
    move: list[tuple[Alert, Alert]]
    same: int
    from_us: int
    to_us: int

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return {
            "from_us": self.from_us,
            "to_us": self.to_us,
            "appear": [asdict(alert) for alert in self.appear],
            "vanish": [asdict(alert) for alert in self.vanish],
            "move": [{"now": asdict(now), "then": asdict(then)} for now, then in self.move],
            "same": self.same,
        }


def changed_catalogue(folder: Path, file: Path, *, whole: bool) -> Catalogue:
    """Return the catalogue with the rules of a file in place of those with the same ids.

    Args:
        folder: of the catalogue.
        file: YAML with ``rules``.
        whole: the file has all rules: those that it lacks are gone.

    Raises:
        ConfigError: anything is wrong; carries every problem with file and line.
    """
    blocks, changed = read_blocks(folder), read_one(file)
    ids = {getattr(block.item, "id", None) for block in changed.rules}
    kept = [block for block in blocks.rules if not whole and getattr(block.item, "id", None) not in ids]
    blocks.rules = [*kept, *changed.rules]
    blocks.problems += changed.problems
    return Catalogue(content_of(blocks))


def try_rules(
    settings: Settings, now: Catalogue, then: Catalogue, from_us: int,
    *, progress: Callable[[int, int], None] | None = None,
) -> Tried:  # fmt: skip
    """Run raw from a time of receipt to its end under both catalogues, and compare their alerts.

    Args:
        settings: name the data folder; their limits hold for both.
        now: the catalogue with the rules as they are.
        then: the one with the changed rules.
        from_us: alerts with a step from here on count, µs UTC; raw in front of it warms the memory.
        progress: is called with frames done and in all.

    Raises:
        NotFound: raw holds nothing of the span.
        StartError: the servers of the bus cannot be reached.
    """
    raw = open_raw(settings)
    try:
        return try_on(raw, settings, now, then, from_us, progress=progress)
    finally:
        raw.close()


def try_on(
    raw: RawSource, settings: Settings, now: Catalogue, then: Catalogue, from_us: int,
    *, progress: Callable[[int, int], None] | None = None,
) -> Tried:  # fmt: skip
    """Do what :func:`try_rules` does on raw that is open."""
    spans = locate(raw, from_us, None, settings.process.dedup_horizon_h * HOUR)
    frames = sum(span.last - span.warm for span in spans)
    needed = Needed(now, then)
    first_run = 1 if needed else 0

    def told(run: int) -> Callable[[int], None]:
        return lambda done: None if progress is None else progress(run * frames + done, (first_run + 2) * frames)

    figures = figures_told(settings, raw, spans, needed, told(0)) if first_run else {}
    before = _alerts(settings, raw, spans, now, figures, told(first_run))
    after = _alerts(settings, raw, spans, then, figures, told(first_run + 1))
    some = [(partition, span) for partition, span in enumerate(spans) if span.first < span.last]
    first = min(clock_us(raw, partition, span.first) for partition, span in some)
    last = max(clock_us(raw, partition, span.last - 1) for partition, span in some)
    return _compare(before, after, first, last)


def _alerts(
    settings: Settings, raw: RawSource, spans: Sequence[Span], catalogue: Catalogue, figures: Mapping[int, Told],
    told: Callable[[int], None],
) -> list[Alert]:  # fmt: skip
    bus, found, done = ReplayBus(raw, spans), dict[str, Alert](), 0
    for p, span in enumerate(spans):
        today = TodayWith(catalogue, config_of(settings, catalogue), p, len(spans), figures.get(p, []))
        loop = StageLoop(bus, today, p, state_every_s=_NEVER_S)
        while loop.step():
            for record in bus.read(ALERTS, p, bus.start(ALERTS, p), _NEVER_S):
                batch = decode(record.data).get("alerts")
                if batch is not None:
                    _follow(batch, span.low, found)
            for stream in (PROCESSED, ALERTS, REJECTED):
                bus.trim(stream, p, bus.end(stream, p))
            told(done + loop.next_offset - span.warm)
        done += span.last - span.warm
    return sorted(found.values(), key=lambda alert: (alert.opened_us, alert.id))


def _follow(batch: pa.RecordBatch, low: int, found: dict[str, Alert]) -> None:
    names = ("alert", "rule", "station", "property", "channel", "level", "state", "revision")
    columns = [batch.column(name).to_pylist() for name in names]
    times = times_of(batch.column("time")).tolist(), times_of(batch.column("opened_at")).tolist()
    for alert, rule, station, prop, channel, level, state, revision, time, opened in zip(*columns, *times, strict=True):
        if state == "comment":
            continue
        old = found.get(alert)
        top = max(level, old.level if old is not None else 0)
        ended = time if state in _ENDED else None
        if ended is not None and revision < low:
            found.pop(alert, None)  # it was over before the span
        else:
            found[alert] = Alert(alert, rule, station, prop, channel, opened, ended, top, state)


def _compare(before: list[Alert], after: list[Alert], from_us: int, to_us: int) -> Tried:
    left = {alert.id: alert for alert in before}
    same, move, new = 0, [], []
    for alert in after:
        was = left.pop(alert.id, None)
        if was is None:
            new.append(alert)
        elif was == alert:
            same += 1
        else:
            move.append((was, alert))
    appear = []
    for alert in new:
        was = next((old for old in left.values() if old.watch() == alert.watch() and old.meets(alert)), None)
        if was is None:
            appear.append(alert)
        else:
            move.append((left.pop(was.id), alert))
    return Tried(appear, list(left.values()), move, same, from_us, to_us)
