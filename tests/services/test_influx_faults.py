"""The InfluxDB store when things break: whatever happens between a write and its save, the end is as undisturbed."""

from __future__ import annotations

import itertools
import threading
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from qingtu.bus.sqlite import SqliteBus
from qingtu.clock import HOUR, MINUTE
from qingtu.errors import QingtuError, RetryLater, StartError
from qingtu.records import ALERTS, FIGURES, PROCESSED, REJECTED
from qingtu.store.influx import InfluxStore
from tests.services.influx_proxy import CUT, LOSE, Proxy
from tests.services.influx_support import Bench
from tests.store.build import (
    SERIES,
    T0,
    Message,
    Reading,
    alert_frame,
    event_frame,
    figure_frame,
    frames_of,
    processed,
    refused,
    rejected_frame,
)
from tests.store.model import Model
from tests.suites.store import MESSAGES, SLOW, corrections_in, counted, stored

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from deploy.native.influx import InfluxServer
    from qingtu.contracts import StateDelta
    from qingtu.records import Frame
    from qingtu.store.influx.store import At

pytestmark = pytest.mark.services

# Shrinking a failure takes minutes here: the failing case is printed as it was found.
FAULTY = settings(SLOW, phases=(Phase.explicit, Phase.reuse, Phase.generate))
DIE_UNSAVED = "die before the save"
DIE_SAVED = "die after the save"
REFUSE = "the bus does not take the state"
_AT_SAVES = (DIE_UNSAVED, DIE_SAVED, REFUSE)
_faults: st.SearchStrategy[list[Any]] = st.lists(st.sampled_from([CUT, LOSE, (503, {}), *_AT_SAVES, None]), max_size=12)


class Died(BaseException):
    """What a kill does to a process: nothing after it runs."""


class MortalBus(SqliteBus):
    """A bus whose process may be killed at a save, and that may refuse one."""

    orders: list[Any]

    def save_state(self, group: str, partition: int, delta: StateDelta) -> None:
        """Save, and die before or after as told, or refuse."""
        order = self.orders.pop(0) if self.orders else None
        if order == DIE_UNSAVED:
            raise Died
        if order == REFUSE:
            raise RetryLater("as the test says")
        super().save_state(group, partition, delta)
        if order == DIE_SAVED:
            raise Died


@contextmanager
def noted(failed: list[type[BaseException]]) -> Iterator[None]:
    """Note what fails, instead of raising it."""
    try:
        yield
    except (Died, RetryLater) as error:
        failed.append(type(error))


class Mortal:
    """A store behind a proxy, that is killed and opened again."""

    def __init__(self, server: InfluxServer, folder: Path, faults: Sequence[Any], **more: Any) -> None:
        self.bench = Bench(server, folder, **more)
        self.proxy = Proxy(server.url)
        self.at_writes: list[Any] = [f for f in faults if f not in _AT_SAVES]
        self.at_saves: list[Any] = [f if f in _AT_SAVES else None for f in faults]
        self.proxy.orders(self.at_writes)
        self.deaths = 0
        self.open()

    def open(self) -> None:
        """Open the store on what was saved."""
        self.bus = MortalBus(self.bench.folder, self.bench.partitions, free_floor_bytes=0)
        self.bus.orders = self.at_saves
        settings = self.bench.settings.model_copy(update={"url": self.proxy.url})
        self.store = InfluxStore(settings, self.bench.server.token, self.bus)

    def kill(self) -> None:
        """Forget what was not saved."""
        self.deaths += 1
        self.store.close()
        self.bus.close()
        self.open()

    def apply(self, stream: str, frames: Sequence[Frame], sizes: Sequence[int], *, restart: bool) -> None:
        """Apply all frames as a stage does, in calls of these sizes in turn; after a failure from what is saved."""
        size = itertools.cycle(sizes)
        while (at := self.store.progress(stream, 0).next_offset) < len(frames):
            part = frames[at : at + next(size)]
            for _ in range(len(self.at_writes) + 2):
                try:
                    self.store.apply(stream, 0, part, at + len(part))
                    break
                except Died:
                    self.kill()
                    break
                except RetryLater:
                    if restart:
                        self.kill()
                        break

    def apply_beside(self, work: Mapping[At, Sequence[Frame]], sizes: Sequence[int], *, restart: bool) -> None:
        """Apply several streams as the service does: all begin a commit before any is waited for."""
        size = itertools.cycle(sizes)
        while todo := {
            at: n for at, frames in work.items() if (n := self.store.progress(*at).next_offset) < len(frames)
        }:
            begun: list[Callable[[], object]] = []
            failed: list[type[BaseException]] = []
            for (stream, partition), first in todo.items():
                part = work[stream, partition][first : first + next(size)]
                end = first + len(part)
                with noted(failed):
                    begun.append(self.store.begin(stream, partition, part, end))
            for settle in begun:
                with noted(failed):
                    settle()
            if Died in failed or (failed and restart):
                self.kill()

    def rest(self) -> InfluxStore:
        """Stop all faults, kill once more, and return what opens then."""
        self.proxy.orders([])
        self.at_saves.clear()
        self.kill()
        return self.store

    def close(self) -> None:
        """Let go."""
        self.store.close()
        self.bus.close()
        self.proxy.close()


@pytest.fixture(scope="module")
def mortal(influx: InfluxServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Mortal]]:
    """Make stores that may die."""
    made: list[Mortal] = []

    def make(faults: Sequence[Any], **more: Any) -> Mortal:
        while made:
            made.pop().close()
        made.append(Mortal(influx, tmp_path_factory.mktemp("bus"), faults, **more))
        return made[-1]

    yield make
    while made:
        made.pop().close()


@FAULTY
@given(
    messages=st.lists(MESSAGES, min_size=2, max_size=12),
    cuts=st.lists(st.integers(1, 11), min_size=2),
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=5),
    faults=_faults,
    restart=st.booleans(),
)
def test_whatever_fails_the_end_is_as_undisturbed(
    mortal: Callable[..., Mortal],
    messages: list[Message],
    cuts: list[int],
    sizes: list[int],
    faults: list[Any],
    restart: bool,
) -> None:
    """Rows, corrections, as-of and books; writes cut, answered late or refused, the process killed around saves."""
    one = mortal(faults, batch_lines=3)
    frames = frames_of(messages, cuts)
    one.apply(PROCESSED, frames, sizes, restart=restart)
    model = Model.of(messages, cuts)
    store = one.rest()
    assert stored(store) == model.rows()
    for offset in range(len(frames)):
        assert stored(store, as_of=offset << 16) == model.rows(as_of=offset << 16)
    assert counted(store) == (model.stored, model.revised, model.repeated, model.reflagged)
    found = [corrections_in(store.reading(SERIES[series], time), series, time) for series, time in model.chains]
    assert sorted(map(repr, itertools.chain(*found))) == sorted(map(repr, model.corrections()))
    assert store.count("readings") == model.stored
    assert store.count("corrections") == len(model.corrections())


@FAULTY
@given(
    messages=st.lists(MESSAGES, min_size=2, max_size=12),
    cuts=st.lists(st.integers(1, 11), min_size=2),
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=5),
    faults=_faults,
    restart=st.booleans(),
)
def test_commits_under_way_at_once_do_not_disturb_each_other(
    mortal: Callable[..., Mortal],
    messages: list[Message],
    cuts: list[int],
    sizes: list[int],
    faults: list[Any],
    restart: bool,
) -> None:
    """Two partitions and the alerts of one, in commits of their own, whatever fails of one while others are written."""
    one = mortal(faults, partitions=2, batch_lines=3)
    parts = [
        [replace(m, readings=tuple(r for r in m.readings if (r.series == 2) == p)) for m in messages] for p in (0, 1)
    ]
    alerts = [alert_frame(i, [(f"n{i}", "open", 1, "")]) for i in range(4)]
    work = {(PROCESSED, p): frames_of(part, cuts) for p, part in enumerate(parts)}
    one.apply_beside({**work, (ALERTS, 0): alerts}, sizes, restart=restart)
    models = [Model.of(part, cuts) for part in parts]
    store: Any = one.rest()
    assert stored(store) == models[0].rows() + models[1].rows()
    each = [(m.stored, m.revised, m.repeated, m.reflagged) for m in models]
    assert counted(store) == tuple(map(sum, zip(*each, strict=True)))
    assert store.count("readings") == sum(m.stored for m in models)
    assert store.count("corrections") == sum(len(m.corrections()) for m in models)
    assert store.count("alerts") == len(alerts)


def test_who_asks_what_stands_waits_for_what_is_written(mortal: Callable[..., Mortal]) -> None:
    """A reading that another partition is just writing is found: the second one of its key is a revision, not new."""
    one = mortal([], partitions=2)
    store = one.store
    first = store.begin(PROCESSED, 0, [processed(0, [Message((Reading(0, 1, 1.0),))])], 1)
    second = store.begin(PROCESSED, 1, [processed(1, [Message((Reading(0, 1, 2.0),))])], 2)
    first()
    second()
    assert [row[2] for row in stored(store)] == [2.0]
    assert counted(store) == (1, 1, 0, 0)
    assert store.progress(PROCESSED, 1).next_offset == 2


@FAULTY
@given(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=5), faults=_faults, restart=st.booleans())
def test_other_streams_too(mortal: Callable[..., Mortal], sizes: list[int], faults: list[Any], restart: bool) -> None:
    """Alerts, refusals, quarantine, moves out of it, events and figures: each once, however often it was written."""
    one = mortal(faults)
    alerts = [alert_frame(i, [("one", "open", 2, ""), (f"n{i}", "open", 1, "")]) for i in range(5)]
    refusals = [rejected_frame(i, [(0, "bad_json", b"a"), (1, "no_route", bytes([i]))]) for i in range(5)]
    messages = [processed(i, [refused(), refused(), Message((Reading(0, i, 1.0),))]) for i in range(3)]
    messages += [processed(3, [refused(0, 0), refused(0, 1)]), processed(4, [Message((), redrive_of=0)])]
    messages += [processed(5, [Message((), redrive_of=0), refused(0, 1 << 16), Message((), redrive_of=1 << 16)])]
    messages += [
        event_frame(6, [("A", "door", 1, "{}"), ("A", "door", 1, "[]")]),
        event_frame(7, [("A", "door", 1, "[]")]),
    ]
    figures = [figure_frame(i, [(0, value, 60), (1, 5.0, 60)]) for i, value in enumerate([1.0, 2.0, 2.0, 3.0, 2.0])]
    for stream, frames in ((ALERTS, alerts), (REJECTED, refusals), (PROCESSED, messages), (FIGURES, figures)):
        one.apply(stream, frames, sizes, restart=restart)
    store: Any = one.rest()
    assert [t["state"] for t in store.alert("one")] == ["open"] * 5
    assert store.count("alerts") == 10
    rows = store.quarantine()
    assert len(rows) == 10
    assert sorted(bytes(r["payload"]) for r in rows) == sorted([b"a"] * 5 + [bytes([i]) for i in range(5)])
    assert store.in_quarantine() == [(0, 1), (0, (1 << 16) + 1), (0, 2 << 16), (0, (2 << 16) + 1)]
    (book,) = store.ledger()[0].values()
    assert [book[c] for c in ("stored", "quarantined", "redriven", "decoded", "r_stored")] == [5, 4, 5, 11, 3]
    assert len(store.events(T0, T0 + HOUR)) == 2
    assert [f["value"] for f in store.figures("A", "pm25", T0, T0 + 9 * HOUR)] == [2.0, 5.0]
    steps = [(c["old_value"], c["new_value"]) for c in store.figure_corrections()]
    assert steps == [(3.0, 2.0), (2.0, 3.0), (1.0, 2.0)]


@pytest.mark.parametrize(("status", "headers", "pause"), [(429, {"Retry-After": "7"}, 7), (503, {}, 1), (500, {}, 1)])
def test_not_now_is_asked_again_after_the_pause_that_the_server_names(
    mortal: Callable[..., Mortal], status: int, headers: dict[str, str], pause: float
) -> None:
    """Nothing is applied, and the words are the server's."""
    one = mortal([(status, headers)])
    frame = processed(0, [Message((Reading(0, 1, 1.0),))])
    with pytest.raises(RetryLater, match="as the test says") as caught:
        one.store.apply(PROCESSED, 0, [frame], 1)
    assert caught.value.retry_after_s == pause
    assert one.store.progress(PROCESSED, 0).origin == -1
    one.store.apply(PROCESSED, 0, [frame], 1)
    assert len(stored(one.store)) == 1


def test_a_wrong_token_or_bucket_is_told_with_the_way_out(influx: InfluxServer, tmp_path: Path) -> None:
    """At the start it is an error; later it is tried again, slowly, and goes on once it is mended."""
    bench = Bench(influx, tmp_path / "bus")
    frame = processed(0, [Message((Reading(0, 1, 1.0),))])
    bus = SqliteBus(tmp_path / "other", free_floor_bytes=0)
    wrong = InfluxStore(bench.settings, "no-such-token", bus)
    with pytest.raises(RetryLater, match=r"401.*token.*qingtu setup") as caught:
        wrong.apply(PROCESSED, 0, [frame], 1)
    assert caught.value.retry_after_s >= 30
    with pytest.raises(StartError, match="qingtu setup"):
        wrong.check()
    wrong.close()
    nowhere = bench.settings.model_copy(update={"bucket": "no-such-bucket"})
    store = InfluxStore(nowhere, influx.token, bus)
    with pytest.raises(RetryLater, match=r"404.*no-such-bucket") as caught:
        store.apply(PROCESSED, 0, [frame], 1)
    assert caught.value.retry_after_s >= 30
    with pytest.raises(RetryLater, match="404"):  # a question to it is no empty answer
        stored(store)
    store.close()
    good = InfluxStore(bench.settings, influx.token, bus)
    good.check()
    good.apply(PROCESSED, 0, [frame], 1)
    assert len(stored(good)) == 1
    good.close()
    bus.close()


def test_a_token_without_the_right_is_told(influx: InfluxServer, tmp_path: Path) -> None:
    """403: it may read, not write."""
    bench = Bench(influx, tmp_path / "bus")
    client = bench.client
    org = client.call("GET", f"/api/v2/orgs?org={influx.org}")["orgs"][0]["id"]
    rights = [{"action": "read", "resource": {"type": "buckets", "orgID": org}}]
    token = client.call("POST", "/api/v2/authorizations", {"orgID": org, "permissions": rights})["token"]
    bus = SqliteBus(tmp_path / "bus", free_floor_bytes=0)
    store = InfluxStore(bench.settings, token, bus)
    store.check()
    with pytest.raises(RetryLater, match=r"403.*may not use this bucket") as caught:
        store.apply(PROCESSED, 0, [processed(0, [Message((Reading(0, 1, 1.0),))])], 1)
    assert caught.value.retry_after_s >= 30
    store.close()
    bus.close()


def test_kill_9_of_the_server_while_it_writes(new_influx: Callable[[], InfluxServer], tmp_path: Path) -> None:
    """Every reading once, every correction once, the books exact; the store goes on by itself."""
    server = new_influx()
    bench = Bench(server, tmp_path / "bus", batch_lines=50)
    store = bench.open()
    count, size = 60, 200
    frames = [
        processed(
            i,
            [
                Message((Reading(n % 3, i * size + n, float(n)), Reading(0, i * size // 2, float(i))))
                for n in range(size)
            ],
        )
        for i in range(count)
    ]
    refused_ = 0
    stop = threading.Event()

    def killer() -> None:
        for _ in range(3):
            if stop.wait(0.7):
                return
            server.kill()
            server.start()

    thread = threading.Thread(target=killer)
    thread.start()
    try:
        while (at := store.progress(PROCESSED, 0).next_offset) < count:
            try:
                store.apply(PROCESSED, 0, [frames[at]], at + 1)
            except RetryLater:
                refused_ += 1
                stop.wait(0.1)
    finally:
        stop.set()
        thread.join()
    model = Model()
    for i in range(count):
        for n in range(size):
            for one in (Reading(n % 3, i * size + n, float(n)), Reading(0, i * size // 2, float(i))):
                model.apply(one, (i << 16) + n, T0)
    assert stored(store) == model.rows()
    assert counted(store) == (model.stored, model.revised, model.repeated, model.reflagged)
    assert store.count("corrections") == len(model.corrections())
    assert refused_ > 0
    bench.close()


def test_an_own_row_that_is_refused_stops_with_advice(influx: InfluxServer, tmp_path: Path) -> None:
    """Somebody else's `corrections` of another type: nothing is saved, so nothing is lost once it is mended."""
    bench = Bench(influx, tmp_path / "bus")
    bench.client.write(bench.settings.bucket, f'corrections,x=y old_flag="text" {(T0 + MINUTE) * 1000}\n'.encode())
    store = bench.open()
    store.apply(PROCESSED, 0, [processed(0, [Message((Reading(0, 1, 1.0),))])], 1)
    with pytest.raises(QingtuError, match=r"own .*rows.*old_flag.*influx\.bucket"):
        store.apply(PROCESSED, 0, [processed(1, [Message((Reading(0, 1, 2.0),))])], 2)
    assert store.progress(PROCESSED, 0).origin == 0
    assert [row[2] for row in stored(store)] == [1.0]
    bench.close()
