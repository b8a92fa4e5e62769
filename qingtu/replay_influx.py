"""Promote into InfluxDB: every line is worked out and kept first, then written, and again until it is done.

InfluxDB knows no rename, so a promote cannot be seen all at once there. It can be cut off: then the server says that
one has begun, processes with a store do not start, and the same command finishes it from what it has kept.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from qingtu import replay
from qingtu.bus import open_bus
from qingtu.errors import QingtuError, RetryLater, StartError
from qingtu.folder import DataFolder
from qingtu.ledger import Ledger
from qingtu.records import RAW, decode, position
from qingtu.replay_acts import act_frame, overtaken, remember, say
from qingtu.replay_diff import drawn, taken_over
from qingtu.replay_log import PromoteLog
from qingtu.replay_settle import settle
from qingtu.store import token_of
from qingtu.store.influx.promoting import Booking, PromotingStore
from qingtu.store.influx.promotions import PromoteState, Promotion

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from qingtu.clock import Clock
    from qingtu.contracts import Bus
    from qingtu.replay import Generation
    from qingtu.replay_settle import Settled
    from qingtu.replay_takeover import NextStore, Takeover
    from qingtu.settings import InfluxSettings, Settings

    Progress = Callable[[int, int, str], None]
_READINGS: Final = 20_000
"""Of one file of lines."""


def promote(
    settings: Settings, generation: Generation, *, who: str, clock: Clock, limit: int, progress: Progress
) -> dict[str, Any]:
    """Publish a generation, or finish doing so; see :func:`qingtu.replay_promote.promote`.

    Raises:
        StartError: the service runs, the server does not answer, or the disk is too full.
        QingtuError: another promote must be finished first, another program writes raw, or the books would not be
            right: nothing was changed. Or the server does not take lines: it is finished by doing it again.
    """
    folder = replay.folder_of(settings, generation.name)
    data = DataFolder(settings.data)  # refuses while the service runs
    try:
        data.archive(replay.archived(folder))
        bus = open_bus(settings, ())
        try:
            with _opened(settings, bus) as store:
                log = PromoteLog(folder)
                if not _goes_on(store, log, generation):
                    settled = _settled(settings, bus, store, data, clock)
                    found = _planned(settings, generation, bus, store, log, settled, (who, clock.now_us()), limit)
                    if found.empty:
                        remember(folder, generation, found.promoted_us)
                        return {**found.as_dict(), "swapped": False}
                done = _written(bus, store, log, progress)
        finally:
            bus.close()
        remember(folder, generation, done.pop("now_us"))
    finally:
        data.close()
    return done


@contextmanager
def _opened(settings: Settings, bus: Bus) -> Iterator[PromotingStore]:
    token = token_of(settings.influx.token_file, "influx.token_file")
    try:
        store = PromotingStore(settings.influx, token, bus)
        store.check()
    except RetryLater as later:
        raise StartError(
            f"InfluxDB 无应答 / InfluxDB at {settings.influx.url} does not answer: {later}; start it, then try again"
        ) from later
    try:
        yield store
    finally:
        store.close()


def _goes_on(store: PromotingStore, log: PromoteLog, generation: Generation) -> bool:
    """Say whether what is kept is to be finished; what was never begun, or is done, is forgotten.

    Raises:
        StartError: another promote has begun, or what was kept is not here.
    """
    unfinished = store.unfinished()
    if not unfinished:
        if log.there:
            log.forget()
        return False
    if unfinished[0].name != generation.name or not log.there:
        store.refuse_unfinished()
    return True


def _settled(settings: Settings, bus: Bus, store: PromotingStore, data: DataFolder, clock: Clock) -> Settled:
    settled = settle(settings, bus, store, data, clock)
    store.catch_up(now=True)  # what is drawn reads what others are told
    return settled


def _planned(
    settings: Settings, generation: Generation, bus: Bus, store: PromotingStore, log: PromoteLog, settled: Settled,
    act: tuple[str, int], limit: int,
) -> Takeover:  # fmt: skip
    """Take the generation over in a picture of what is stored, and keep what changes; nothing is written.

    Raises:
        QingtuError: the books would not balance.
    """
    who, now_us = act
    folder = replay.folder_of(settings, generation.name)
    at = [position(end, 0) for end in settled.ends]  # of the rows on raw: nobody else appends
    with (
        drawn(settings, generation, folder / "next.duckdb") as copy,
        taken_over(settings, generation, copy, at, now_us, limit) as (picture, found),
    ):
        if found.empty:
            return found
        if not Ledger(bus, picture).report()["balanced"]:
            raise QingtuError(
                "新台账不平, 未发布 / the books would not balance; nothing was promoted: report this as a fault"
            )
        log.begin()
        plan = _kept(store, picture, log, found, settings.influx, at, now_us)
        version = replay.archived(folder).version
        acts = []
        for partition in found.partitions:
            span = generation.spans[partition]
            one = Promotion(
                generation.name, partition, now_us, at[partition], version, span.low, span.high, who, PromoteState.BEGUN
            )
            acts.append({"act": one._asdict(), "config": settled.configs[partition] or generation.config})
        log.finish({**plan, "acts": acts, "now_us": now_us, "found": found.as_dict()})
    return found


def _kept(
    store: PromotingStore, picture: NextStore, log: PromoteLog, found: Takeover, names: InfluxSettings,
    at: list[int], now_us: int,
) -> dict[str, Any]:  # fmt: skip
    """Keep all lines; return what is deleted before, and booked afterwards.

    A reading is written behind what it replaces and where it comes from, a figure behind the readings.
    """
    bookings, deleted = list[Booking](), list[dict[str, str]]()
    for partition in found.partitions:
        booking = store.booking(partition, at[partition], picture.booked.changes[partition], picture.received)
        bookings.append(booking)
        for rows in picture.changed(partition, _READINGS):
            log.add(names.bucket, store.reading_lines(rows, booking, now_us))
        log.add(names.bucket, store.event_lines(picture.happened(partition), booking))
        for bucket, lines in store.figure_lines(picture.made[partition]).items():
            log.add(bucket, lines)
        told = [number for p, number in picture.booked.told if p == partition]
        gone, lines = store.refusals(picture.refusals(partition), told, booking)
        deleted += gone
        log.add(names.daily, lines)
    return {"deleted": deleted, "bookings": [booking.as_dict() for booking in bookings]}


def _written(bus: Bus, store: PromotingStore, log: PromoteLog, progress: Progress) -> dict[str, Any]:
    """Write what is kept; when something fails the same is done again, from the start.

    Raises:
        QingtuError: see :func:`promote`.
    """
    plan = log.plan()
    acts = [Promotion(**{**one["act"], "state": PromoteState.BEGUN}) for one in plan["acts"]]
    steps = plan["files"] + 3
    patient = _Patient(progress, steps)
    patient(0, partial(store.tell, acts))
    if not log.said:
        try:
            patient(0, partial(_said, bus, plan["acts"], plan["now_us"]))
        except QingtuError:  # never that the bus does not answer now: that is waited for
            patient(0, partial(store.tell, [one._replace(state=PromoteState.GIVEN_UP) for one in acts]))
            log.forget()
            raise
        log.note_said()
    patient(1, partial(store.delete, plan["deleted"]))
    for number, (bucket, lines) in enumerate(log.lines(), 2):
        patient(number, partial(store.write, bucket, lines))
    for data in plan["bookings"]:
        patient(steps - 1, partial(store.book, Booking.of(data)))
    patient(steps, partial(store.tell, [one._replace(state=PromoteState.DONE) for one in acts]))
    log.forget()
    revisions = {str(one.partition): str(one.revision) for one in acts}
    ledger = {"balanced": Ledger(bus, store).report()["balanced"]}
    return {**plan["found"], "swapped": True, "revisions": revisions, "ledger": ledger, "now_us": plan["now_us"]}


def _said(bus: Bus, acts: list[dict[str, Any]], now_us: int) -> None:
    """Write the rows into raw that are not there yet.

    Raises:
        QingtuError: another program wrote raw; no row but such rows was written.
    """
    for one in acts:
        act = Promotion(**one["act"])
        wanted = act.revision >> 16
        frame = act_frame(one["config"], act.name, act.who, now_us)
        stands = next((r for r in bus.read(RAW, act.partition, wanted, 1) if r.offset == wanted), None)
        if stands is None:
            say(bus, act.partition, wanted, frame)
        elif decode(stands.data).sections["rows"] != decode(frame).sections["rows"]:
            raise overtaken(act.partition, bus.end(RAW, act.partition), wanted)


class _Patient:
    """Does steps, again while the server does not answer: half a promote is no state to stop in."""

    def __init__(self, progress: Progress, steps: int) -> None:
        self._progress = progress
        self._steps = steps

    def __call__(self, step: int, do: Callable[[], None]) -> None:
        self._progress(step, self._steps, "")
        while True:
            try:
                return do()
            except RetryLater as later:
                self._progress(step, self._steps, str(later))
                time.sleep(later.retry_after_s)
