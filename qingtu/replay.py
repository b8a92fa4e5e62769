"""Replay: runs raw of another day through today's code, settings and catalogue, into a generation of its own.

A generation is a folder ``data/generations/NAME`` that appears whole or not at all. Making it touches nothing that is
live and works while the service runs. What to do with it is in :mod:`qingtu.replay_promote`; what all of it means, in
docs/decisions/0014-replay.md.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import qingtu
from qingtu.catalogue import Catalogue
from qingtu.clock import HOUR, ManualClock
from qingtu.errors import NotFound, QingtuError, StartError
from qingtu.records import ALERTS, PROCESSED, REJECTED
from qingtu.replay_bus import ReplayBus
from qingtu.replay_log import PromoteLog
from qingtu.replay_pass import Today, config_of
from qingtu.replay_raw import Span, clock_us, locate, open_raw
from qingtu.replay_store import GenerationStore
from qingtu.stage import StageLoop
from sinks.primary import StoreStage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from qingtu.replay_raw import RawSource
    from qingtu.settings import Settings

_NEVER_US: Final = 1 << 62
_COMMIT_MESSAGES: Final = 20_000
_MIB: Final = 1024 * 1024
_SPARE: Final = 64 * _MIB
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True, slots=True)
class Generation:
    """What ``generation.json`` says.

    Attributes:
        name: of the folder.
        made_us: when it was made, µs UTC.
        from_us, to_us: what was asked for, µs UTC; ``to_us`` None: to the end of raw.
        spans: offsets that were run, by partition.
        warm_us: so much raw was run in front of the span, µs of receipt; of the partition that lacks most.
        warm_wanted_us: so much was wanted; 0 when raw's very first frame was run, which has nothing before it.
        catalogue: version.
        config: what a ``configure`` row says under the settings of then.
        program: version of Qingtu.
        messages: received in the span.
        promoted_us: when it was promoted last, µs UTC; None: never.
    """

    name: str
    made_us: int
    from_us: int
    to_us: int | None
    spans: tuple[Span, ...]
    warm_us: int
    warm_wanted_us: int
    catalogue: str
    config: dict[str, Any]
    program: str
    messages: int
    promoted_us: int | None = None

    @property
    def cold(self) -> bool:
        """Whether raw did not reach back far enough to warm the memory of the pass."""
        return self.warm_us < self.warm_wanted_us

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return {**asdict(self), "cold": self.cold}


def folder_of(settings: Settings, name: str) -> Path:
    """Return the folder of a generation.

    Raises:
        QingtuError: it cannot be called that.
    """
    if not _NAME.fullmatch(name) or name.endswith(".part"):
        raise QingtuError(
            f"名称无效 / {name!r} cannot be the name of a generation: use up to 64 letters, digits, '-', '_' and '.'"
        )
    return settings.data / "generations" / name


def generations(settings: Settings) -> list[Generation]:
    """Return all generations of a data folder, oldest first."""
    found = [read(path.parent) for path in (settings.data / "generations").glob("*/generation.json")]
    return sorted((g for g in found if not g.name.endswith(".part")), key=lambda g: (g.made_us, g.name))


def find(settings: Settings, name: str | None) -> Generation:
    """Return a generation by name, or the newest one.

    Raises:
        NotFound: there is none.
    """
    if name is not None:
        folder = folder_of(settings, name)
        if not (folder / "generation.json").exists():
            known = ", ".join(g.name for g in generations(settings)) or "无 none"
            raise NotFound(f"没有回放 / there is no generation {name!r} (有 there are: {known})")
        return read(folder)
    known_ = generations(settings)
    if not known_:
        raise NotFound("还没有回放 / there is no generation yet: make one with 'qingtu replay --from … --to …'")
    return known_[-1]


def read(folder: Path) -> Generation:
    """Read ``generation.json``."""
    data = json.loads((folder / "generation.json").read_text(encoding="utf-8"))
    data.pop("cold", None)
    return Generation(**{**data, "spans": tuple(Span(**span) for span in data["spans"])})


def write(folder: Path, generation: Generation) -> None:
    """Write ``generation.json``; it appears whole."""
    part = folder / "generation.json.part"
    part.write_text(json.dumps(generation.as_dict(), indent=1), encoding="utf-8")
    part.replace(folder / "generation.json")


def promote_begun(settings: Settings, name: str) -> bool:
    """Return whether a promote of a generation into InfluxDB has begun, or was about to, and is not done."""
    return PromoteLog(folder_of(settings, name)).there


def drop(settings: Settings, name: str) -> None:
    """Delete a generation, and with it the store that a promote of it replaced.

    Raises:
        QingtuError: a promote of it is not done: without it nobody could finish it.
    """
    find(settings, name)
    if promote_begun(settings, name):
        raise QingtuError(
            f"发布未完成, 不能删除 / the promote of {name} is not done: 'qingtu replay {name} --promote' finishes it"
        )
    shutil.rmtree(folder_of(settings, name))


def need_space(folder: Path, needed: int) -> None:
    """Refuse before work begins that the disk could not hold.

    Raises:
        StartError: fewer than ``needed`` bytes and some to spare are free.
    """
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < needed + _SPARE:
        raise StartError(
            f"磁盘空间不足 / {folder} has {free // _MIB} MiB free, this may need {(needed + _SPARE) // _MIB} MiB: "
            "free some space, drop old generations (qingtu replay --list, --drop), or take a shorter span"
        )


def replay(
    settings: Settings,
    catalogue: Catalogue,
    name: str,
    from_us: int,
    to_us: int | None,
    *,
    now_us: int,
    progress: Callable[[int, int], None] | None = None,
) -> Generation:
    """Make a generation.

    Broken off at any moment, by an error or Ctrl-C, it leaves nothing.

    Args:
        settings: of today; name the data folder.
        catalogue: of today.
        name: of the generation.
        from_us: first time of receipt, µs UTC.
        to_us: last one, exclusive; None: all that raw holds.
        now_us: now, µs UTC.
        progress: is called with frames done and in all.

    Raises:
        NotFound: raw holds nothing of the span.
        StartError: no space, or the servers of the bus cannot be reached.
        QingtuError: there is such a generation, or raw expires while it is read.
    """
    folder = folder_of(settings, name)
    if folder.exists():
        raise QingtuError(f"已有同名回放 / there is a generation {name!r} already: drop it, or choose another name")
    raw = open_raw(settings)
    try:
        warm_us = settings.process.dedup_horizon_h * HOUR
        spans = locate(raw, from_us, to_us, warm_us)
        need_space(folder.parent, 2 * sum(raw.size(p, span.warm, span.last) for p, span in enumerate(spans)))
        part = folder.with_name(f"{name}.part")
        shutil.rmtree(part, ignore_errors=True)  # of one that was killed
        try:
            part.mkdir()
            config = config_of(settings, catalogue)
            warmth = _warmth(raw, spans, warm_us)  # while the oldest frames are surely held
            messages = _run(settings, raw, spans, (catalogue, config), part, progress)
            (part / "catalogue.json").write_text(catalogue.to_json(), encoding="utf-8")
            made = Generation(
                name, now_us, from_us, to_us, spans, *warmth, catalogue.version, config,
                qingtu.__version__, messages,
            )  # fmt: skip
            write(part, made)
            part.rename(folder)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    finally:
        raw.close()
    return made


def _warmth(raw: RawSource, spans: Sequence[Span], warm_us: int) -> tuple[int, int]:
    """Return how much was run in front of the span, and how much was wanted, of the partition that lacks most."""
    found = []
    for partition, span in enumerate(spans):
        if span.first < span.end:
            had = max(0, clock_us(raw, partition, span.first) - clock_us(raw, partition, span.warm))
            cut = span.warm > 0 and span.warm == raw.bounds(partition)[0]
            found.append((had, warm_us if cut else 0))
    return max(found, key=lambda one: one[1] - one[0])


def _run(
    settings: Settings,
    raw: RawSource,
    spans: Sequence[Span],
    today: tuple[Catalogue, dict[str, Any]],
    folder: Path,
    progress: Callable[[int, int], None] | None,
) -> int:
    """Step pass and store until the span's last frame; return how many messages of the span were received."""
    bus = ReplayBus(raw, spans)
    store = GenerationStore(folder / "qingtu.duckdb", settings.store.memory_limit, settings.store.threads, spans=spans)
    frames = sum(span.last - span.warm for span in spans)
    done = 0
    try:
        for partition, span in enumerate(spans):
            for at in _stepped(bus, store, Today(*today, partition, len(spans)), partition):
                if progress is not None:
                    progress(done + at - span.warm, frames)
            done += span.last - span.warm
        return store.count("outcomes")
    finally:
        store.close()


def _stepped(bus: ReplayBus, store: GenerationStore, today: Today, partition: int) -> Iterator[int]:
    """Run one partition; yield the raw offset up to which it was run, now and then."""
    # State is needed only to find a row that makes the pass fail; saved by count of frames, not by their time.
    loop = StageLoop(bus, today, partition, state_every_s=_NEVER_US // 1_000_000)
    clock = ManualClock()
    stages = [
        StoreStage(bus, store, stream, partition, clock, commit_ms=_NEVER_US // 1000, commit_messages=_COMMIT_MESSAGES)
        for stream in (PROCESSED, ALERTS, REJECTED)
    ]
    while loop.step():
        for stage in stages:
            while stage.step():
                pass
            bus.trim(stage.stream, partition, stage.next_offset)
        yield loop.next_offset
    for stage in stages:
        stage.commit()


def archived(folder: Path) -> Catalogue:
    """Return the catalogue that a generation was made with."""
    return Catalogue.from_json((folder / "catalogue.json").read_text(encoding="utf-8"))
