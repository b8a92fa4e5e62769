"""The stage loop: what it emits stays the same through crashes, refusals and rows that make it fail."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qingtu.bus.sqlite import SqliteBus
from qingtu.clock import SECOND
from qingtu.contracts import Record, SavedState, StateDelta, Ticket
from qingtu.errors import FrameError, QingtuError, RetryLater
from qingtu.records import ALERTS, PROCESSED, RAW, REJECTED, Frame, decode, encode
from qingtu.stage import StageLoop
from qingtu.state import pack, unpack
from tests.process.support import batch_of, message

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from qingtu.contracts import Outputs


class Summing:
    """A test operator: counts rows and the numbers in them; a row of ``!`` makes it fail.

    ``pair`` fails only when two of them are together; ``once`` fails the first time that it is met.
    """

    group = "summing"
    source = RAW

    def __init__(self) -> None:
        self.total, self.count = 0, 0
        self.applied: list[int] = []
        self.once: set[int] = set()
        self.saves = 0

    def restore(self, parts: Mapping[str, bytes] | None) -> None:
        """Take up the sum."""
        values = unpack(parts["main"])[1] if parts else {"total": 0, "count": 0}
        self.total, self.count = values["total"], values["count"]

    def snapshot(self) -> tuple[dict[str, bytes], list[str]]:
        """Save the sum."""
        self.saves += 1
        return {"main": pack({}, {"total": self.total, "count": self.count})}, []

    def apply(self, frame: Frame, offset: int, only: NDArray[np.bool_] | None = None) -> Outputs:
        """Add up; the running total is in each output, so a frame run twice would show."""
        self.applied.append(offset)
        texts = [p.decode() for p in frame.sections["rows"].column("payload").to_pylist()] if frame.sections else []
        taken = [text for i, text in enumerate(texts) if only is None or only[i]]
        self.count += 1000  # half-done work that a restore must take back
        if "!" in taken or taken.count("pair") > 1 or "never" in texts:
            raise ArithmeticError(f"offset {offset}")
        if "once" in taken and offset not in self.once:
            self.once.add(offset)
            raise ArithmeticError("once")
        self.count += len(taken) - 1000
        self.total += sum(int(text) for text in taken if text.isdigit())
        header = {"origin": [0, offset], "clock": frame.clock_us, "sum": [self.total, self.count]}
        out: Outputs = {PROCESSED: encode({**header, "stream": PROCESSED}, {})}
        if len(taken) < len(texts):
            out[REJECTED] = encode({**header, "stream": REJECTED, "left_out": len(texts) - len(taken)}, {})
        return out


def put(bus: SqliteBus, *texts: Sequence[str], clock_s: float = 0) -> None:
    """Append raw frames, each with rows of these payloads, a second apart."""
    for n, rows in enumerate(texts):
        header = {"stream": RAW, "clock": round((clock_s + n) * SECOND), "origin": None}
        frame = encode(header, {"rows": batch_of([message("a", text.encode()) for text in rows])})
        bus.append(RAW, 0, [frame]).result()


def run(loop: StageLoop) -> None:
    """Step until there is nothing to do."""
    while loop.step():
        pass


def emitted(bus: SqliteBus, stream: str = PROCESSED) -> list[bytes]:
    """All frames of a stream, as bytes."""
    return [record.data for record in bus.read(stream, 0, 0, 10_000)]


def by_origin(bus: SqliteBus, stream: str = PROCESSED) -> dict[int, bytes]:
    """What a consumer keeps: the first frame of each origin that is newer than the last."""
    kept: dict[int, bytes] = {}
    for data in emitted(bus, stream):
        origin = decode(data).origin
        assert origin is not None
        if origin[1] > max(kept, default=-1):
            kept[origin[1]] = data
    return kept


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[SqliteBus]:
    """An embedded bus."""
    made = SqliteBus(tmp_path / "bus", free_floor_bytes=0)
    yield made
    made.close()


def test_emits_one_frame_for_each_in_order(bus: SqliteBus) -> None:
    """Origins are the input's offsets; the loop says when there is nothing to do."""
    put(bus, ["1", "2"], ["3"], ["4"])
    loop = StageLoop(bus, Summing(), batch=2)
    assert [loop.step(), loop.step(), loop.step()] == [True, True, False]
    sums = [(decode(data).origin, decode(data).header["sum"]) for data in emitted(bus)]
    assert sums == [((0, 0), [3, 2]), ((0, 1), [6, 3]), ((0, 2), [10, 4])]


class Elsewhere(Summing):
    """Gives each frame to another partition as well."""

    def apply(self, frame: Frame, offset: int, only: NDArray[np.bool_] | None = None) -> Outputs:
        """Say the same in partition 0 of a second stream."""
        out = super().apply(frame, offset, only)
        data = out[PROCESSED]
        assert isinstance(data, bytes)
        return {**out, (ALERTS, 0): data}


def test_output_goes_into_the_partition_that_it_names(tmp_path: Path) -> None:
    """What names no partition goes into that of the input, what names one goes there."""
    bus = SqliteBus(tmp_path / "bus", partitions=2, free_floor_bytes=0)
    try:
        rows = batch_of([message("a", b"1")])
        for clock in (0, 1):
            bus.append(RAW, 1, [encode({"stream": RAW, "clock": clock, "origin": None}, {"rows": rows})]).result()
        run(StageLoop(bus, Elsewhere(), 1))
        own = [record.data for record in bus.read(PROCESSED, 1, 0)]
        assert len(own) == 2
        assert [record.data for record in bus.read(ALERTS, 0, 0)] == own
        assert not bus.read(PROCESSED, 0, 0)
        assert not bus.read(ALERTS, 1, 0)
    finally:
        bus.close()


@given(st.lists(st.integers(1, 6), min_size=1, max_size=8), st.integers(1, 4), st.integers(1, 9))
@settings(max_examples=25, deadline=None)
def test_killed_anywhere_emits_the_same_frames(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int], batch: int, every_s: int
) -> None:
    """Each restart takes up the last state; what is emitted again has the same origin and bytes."""
    bus = SqliteBus(tmp_path_factory.mktemp("bus"), free_floor_bytes=0)
    try:
        put(bus, *[[str(n), "!" if n % 7 == 3 else "1"] for n in range(20)])
        for n in steps:
            loop = StageLoop(bus, Summing(), batch=batch, state_every_s=every_s)
            for _ in range(n):
                loop.step()
        run(StageLoop(bus, Summing(), batch=batch, state_every_s=every_s))
        for stream in (PROCESSED, REJECTED):
            first = by_origin(bus, stream)
            assert all(first[origin[1]] == data for data in emitted(bus, stream) if (origin := decode(data).origin))
        total = sum(range(20)) + sum(n % 7 != 3 for n in range(20))
        assert decode(by_origin(bus)[19]).header["sum"] == [total, 40 - 3]
        assert set(by_origin(bus, REJECTED)) == {3, 10, 17}
    finally:
        bus.close()


def test_state_is_saved_by_time_of_the_input(bus: SqliteBus) -> None:
    """Every few seconds of the frames' clock, never per frame."""
    operator = Summing()
    loop = StageLoop(bus, operator, state_every_s=5, batch=1)
    put(bus, *[["1"]] * 12, clock_s=1000)  # clocks 1000 … 1011 s
    run(loop)
    saved = bus.load_state("summing", 0)
    assert operator.saves == 2
    assert saved is not None
    assert saved.next_offset == 11  # after the frame of 1010 s
    loop.save()
    saved = bus.load_state("summing", 0)
    assert saved is not None
    assert saved.next_offset == 12


def test_a_failure_that_passes_is_only_tried_again(bus: SqliteBus) -> None:
    """A row that fails once is not rejected; half-done work of the failed try does not count."""
    put(bus, ["1"], ["2", "once"], ["3"])
    loop = StageLoop(bus, Summing())
    run(loop)
    assert [decode(d).header["sum"] for d in emitted(bus)] == [[1, 1], [3, 3], [6, 4]]
    assert emitted(bus, REJECTED) == []
    assert loop.failures == 1


@pytest.mark.parametrize("guilty", [{0}, {6}, {12}, {2, 3}, {0, 5, 11}, set(range(13))])
def test_guilty_rows_are_found_and_the_others_pass(bus: SqliteBus, guilty: set[int]) -> None:
    """Exactly the rows that fail are left out, in a frame among others, however state was saved before."""
    rows = ["!" if n in guilty else "1" for n in range(13)]
    put(bus, ["5"], rows, ["7"], ["!"])
    loop = StageLoop(bus, Summing(), batch=1, state_every_s=1)
    run(loop)
    good = 13 - len(guilty)
    assert [decode(d).header["sum"] for d in emitted(bus)] == [
        [5, 1], [5 + good, 1 + good], [12 + good, 2 + good], [12 + good, 2 + good],
    ]  # fmt: skip
    assert [decode(d).header["left_out"] for d in emitted(bus, REJECTED)] == [len(guilty), 1]


def test_a_search_runs_nothing_again_that_came_before_its_frame(bus: SqliteBus) -> None:
    """Each try begins right before the frame, however long ago state was saved: the frames before run twice at most."""
    put(bus, *[["1"]] * 50, ["2", "!", "3", "4", "5"], ["6"])
    operator = Summing()
    run(StageLoop(bus, operator, state_every_s=1 << 30))
    assert max(operator.applied.count(offset) for offset in range(50)) == 2
    assert operator.applied.count(50) > 3
    assert decode(emitted(bus)[-1]).header["sum"] == [50 + 14 + 6, 50 + 4 + 1]
    assert [decode(d).header["left_out"] for d in emitted(bus, REJECTED)] == [1]


def test_rows_that_fail_only_together_do_not_stop_the_stage(bus: SqliteBus) -> None:
    """Neither half fails alone: as many are rejected as let the rest pass, no more."""
    put(bus, ["1", "pair", "2", "3", "pair", "4", "pair"], ["5"])
    loop = StageLoop(bus, Summing())
    run(loop)
    assert [decode(d).header["sum"] for d in emitted(bus)] == [[10, 5], [15, 6]]


def test_a_frame_that_fails_without_any_row_stops_with_its_place(bus: SqliteBus) -> None:
    """Nothing is skipped in silence: the error names stage and offset, again at each step."""
    put(bus, ["1"], ["never"], ["2"])
    loop = StageLoop(bus, Summing())
    for _ in range(2):
        with pytest.raises(QingtuError, match="summing-0 cannot get past frame 1"):
            loop.step()
    # What was emitted before stays as it was.
    assert all(decode(d).origin == (0, 0) for d in emitted(bus))


class Refused:
    """The ticket of an append that was refused."""

    def __init__(self, why: str) -> None:
        self._why = why

    def done(self) -> bool:
        """Decided at once."""
        return True

    def result(self, timeout_s: float | None = None) -> list[int]:
        """Refuse."""
        del timeout_s
        raise RetryLater(self._why)


class Gaps:
    """A bus whose offsets are even numbers only, and that refuses appends on demand; the rest is a real bus."""

    def __init__(self, bus: SqliteBus) -> None:
        self._bus = bus
        self.partitions = bus.partitions
        self.refuse: Callable[[str], bool] = lambda _: False
        self.refuse_state = False
        self.refuse_loads: list[bool] = []

    def load_state(self, group: str, partition: int) -> SavedState | None:
        """Load, or refuse as often as told."""
        if self.refuse_loads and self.refuse_loads.pop(0):
            raise RetryLater("no state now")
        return self._bus.load_state(group, partition)

    def save_state(self, group: str, partition: int, delta: StateDelta) -> None:
        """Save, or refuse."""
        if self.refuse_state:
            raise RetryLater("no room for state")
        self._bus.save_state(group, partition, delta)

    def assigned(self, group: str, stream: str) -> frozenset[int]:
        """As the bus."""
        return self._bus.assigned(group, stream)

    def append(self, stream: str, partition: int, frames: Sequence[bytes]) -> Ticket:
        """Append, or refuse at once."""
        if self.refuse(stream):
            return Refused(f"{stream} is full")
        return self._bus.append(stream, partition, frames)

    def read(self, stream: str, partition: int, start: int, max_frames: int = 64) -> list[Record]:
        """Read with doubled offsets."""
        found = self._bus.read(stream, partition, -(-start // 2), max_frames)
        return [Record(record.offset * 2, record.data) for record in found]

    def end(self, stream: str, partition: int) -> int:
        """As the bus, doubled."""
        return self._bus.end(stream, partition) * 2

    def start(self, stream: str, partition: int) -> int:
        """As the bus, doubled."""
        return self._bus.start(stream, partition) * 2

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bus, name)


def gaps(bus: SqliteBus) -> Any:
    """Make one; typed loosely because ``__getattr__`` forwards the rest of the contract."""
    return Gaps(bus)


class Pieces(Summing):
    """A test operator whose state is a piece for each frame, told once; every third one is dropped again."""

    def restore(self, parts: Mapping[str, bytes] | None) -> None:
        """Take up the pieces."""
        self.pieces = dict(parts or {})
        self.put: dict[str, bytes] = {}
        self.drop: list[str] = []

    def apply(self, frame: Frame, offset: int, only: NDArray[np.bool_] | None = None) -> Outputs:
        """Add a piece."""
        del frame, only
        self.put[str(offset)] = self.pieces[str(offset)] = b"x"
        if offset >= 4 and offset % 3 == 0:
            gone = str(offset - 4)
            self.drop.append(gone)
            self.pieces.pop(gone, None)
            self.put.pop(gone, None)
        return {}

    def snapshot(self) -> tuple[dict[str, bytes], list[str]]:
        """Tell what changed since the last time."""
        put, drop, self.put, self.drop = self.put, self.drop, {}, []
        return put, drop


@given(refused=st.lists(st.booleans(), min_size=1, max_size=12))
@settings(max_examples=50)
def test_state_that_was_refused_is_saved_at_the_next_try(refused: list[bool], tmp_path_factory: Any) -> None:
    """However often saving is refused, what is saved in the end is the whole state."""
    bus = SqliteBus(tmp_path_factory.mktemp("bus"))
    try:
        between = gaps(bus)
        operator = Pieces()
        loop = StageLoop(between, operator, batch=1)
        for no in (*refused, False):
            put(bus, ["1"])
            loop.step()
            between.refuse_state = no
            if no:
                with pytest.raises(RetryLater):
                    loop.save()
            else:
                loop.save()
        saved = bus.load_state("summing", 0)
        assert saved is not None
        assert dict(saved.parts) == operator.pieces
        assert saved.next_offset == loop.next_offset
    finally:
        bus.close()


@given(refused=st.lists(st.booleans(), min_size=1, max_size=14))
@settings(max_examples=50, deadline=None)
def test_a_bus_that_refuses_meanwhile_doubles_nothing(refused: list[bool], tmp_path_factory: Any) -> None:
    """Wherever the search is broken off: half-done work is not gone on with, and not saved."""
    bus = SqliteBus(tmp_path_factory.mktemp("bus"))
    try:
        put(bus, ["1"], ["2", "!", "4"], ["once", "8"])
        between = gaps(bus)
        loop = StageLoop(between, Summing(), batch=4)
        between.refuse_loads = refused
        sums = {0: [0, 0], 1: [1, 1], 3: [7, 3], 5: [15, 5]}
        for _ in range(len(refused) + 2):
            with suppress(RetryLater):
                loop.step()
            with suppress(RetryLater):
                loop.save()
            saved = bus.load_state("summing", 0)
            if saved is not None:
                held = unpack(saved.parts["main"])[1]
                assert [held["total"], held["count"]] == sums[saved.next_offset]
        run(loop)
        assert [decode(d).header["sum"] for d in emitted(bus)] == [[1, 1], [7, 3], [15, 5]]
    finally:
        bus.close()


def test_offsets_need_not_be_dense(bus: SqliteBus) -> None:
    """Recovery re-runs frames across gaps and ends."""
    put(bus, ["1"], ["2"], ["3", "!"], ["4"])
    run(StageLoop(gaps(bus), Summing()))
    assert [decode(d).header["sum"][0] for d in emitted(bus)] == [1, 3, 6, 10]


@pytest.mark.parametrize("full", [PROCESSED, REJECTED])
def test_refused_output_is_kept_and_sent_later(bus: SqliteBus, full: str) -> None:
    """RetryLater from the bus loses nothing, doubles nothing and re-runs nothing, whichever stream it refuses."""
    put(bus, ["1"], ["2", "!"], ["3"])
    between, operator = gaps(bus), Summing()
    loop = StageLoop(between, operator, batch=2)
    between.refuse = lambda stream: stream == full
    for _ in range(2):
        with pytest.raises(RetryLater, match=f"{full} is full"):
            loop.step()
    between.refuse = lambda _: False
    applied = len(operator.applied)
    run(loop)
    assert len(operator.applied) == applied + 1
    assert [decode(d).origin for d in emitted(bus)] == [(0, 0), (0, 2), (0, 4)]
    assert [decode(d).origin for d in emitted(bus, REJECTED)] == [(0, 2)]


class Blocking(Summing):
    """Raises RetryLater for a frame as often as told."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def apply(self, frame: Frame, offset: int, only: NDArray[np.bool_] | None = None) -> Outputs:
        """Refuse the second frame for a while."""
        if offset == 1 and self.times:
            self.times -= 1
            raise RetryLater("store is away")
        return super().apply(frame, offset, only)


def test_an_operator_that_cannot_now_is_asked_again(bus: SqliteBus) -> None:
    """What came before it in the step is sent; the frame is applied once in the end."""
    put(bus, ["1"], ["2"], ["3"])
    loop = StageLoop(bus, Blocking(2))
    for _ in range(2):
        with pytest.raises(RetryLater, match="store is away"):
            loop.step()
        assert len(emitted(bus)) == 1
    run(loop)
    assert [decode(d).header["sum"][0] for d in emitted(bus)] == [1, 3, 6]
    assert loop.failures == 0


def test_begins_at_the_oldest_frame_without_state(bus: SqliteBus) -> None:
    """After a trim the first start does not look for what is gone."""
    put(bus, ["1"], ["2"], ["3"])
    bus.trim(RAW, 0, 1)
    run(StageLoop(bus, Summing()))
    assert [decode(d).origin for d in emitted(bus)] == [(0, 1), (0, 2)]


def test_state_that_was_saved_is_not_run_again(bus: SqliteBus) -> None:
    """A clean stop saves; the next start emits nothing twice."""
    put(bus, ["1"], ["2"])
    loop = StageLoop(bus, Summing())
    run(loop)
    loop.save()
    put(bus, ["3"])
    run(StageLoop(bus, Summing()))
    assert [decode(d).header["sum"][0] for d in emitted(bus)] == [1, 3, 6]
    assert StageLoop(bus, Summing()).next_offset == 2, "state is saved by time; the third frame was not yet"
    bus.save_state("summing", 0, StateDelta(3, {}))
    assert StageLoop(bus, Summing()).next_offset == 3


class Together(Summing):
    """Takes frames together, but those with a row ``alone``; notes which; cannot now as often as told."""

    def __init__(self, later: int = 0) -> None:
        super().__init__()
        self.runs: list[list[int]] = []
        self.later = later

    def joins(self, frame: Frame) -> int:
        """Count rows."""
        payloads = frame.sections["rows"].column("payload").to_pylist()
        return 0 if b"alone" in payloads else len(payloads)

    def apply_joined(self, frames: Sequence[tuple[int, Frame]]) -> list[Outputs]:
        """Apply one after the other, and stop half-way where that is told."""
        self.runs.append([offset for offset, _ in frames])
        first = self.apply(frames[0][1], frames[0][0])
        if self.later:
            self.later -= 1
            raise RetryLater("half of it is done")
        return [first, *(self.apply(frame, offset) for offset, frame in frames[1:])]


def test_small_frames_are_taken_together(bus: SqliteBus) -> None:
    """Neighbours go together up to some rows, never past a frame that goes alone; each still gives one frame."""
    put(bus, ["1"], ["2"], ["alone"], ["3"], ["4"] * 1000, ["5"] * 24, ["6"], ["7"] * 5000, ["8"])
    operator = Together()
    run(StageLoop(bus, operator))
    assert operator.runs == [[0, 1], [3, 4], [5, 6]]
    assert [decode(data).origin for data in emitted(bus)] == [(0, n) for n in range(9)]
    assert operator.applied == list(range(9))


def test_what_fails_together_is_tried_alone(bus: SqliteBus) -> None:
    """The guilty row is found, the others pass, and each counts once."""
    put(bus, ["1"], ["2"], ["3", "!", "4"], ["5"], ["once"], ["6"])
    loop = StageLoop(bus, Together())
    run(loop)
    sums = [decode(data).header["sum"] for data in emitted(bus)]
    assert sums == [[1, 1], [3, 2], [10, 4], [15, 5], [15, 6], [21, 7]]
    assert [decode(data).header["left_out"] for data in emitted(bus, REJECTED)] == [1]
    assert [decode(data).origin for data in emitted(bus, REJECTED)] == [(0, 2)]


def test_what_cannot_be_taken_together_now_counts_once(bus: SqliteBus) -> None:
    """Half of it was done when the operator gave up: that is taken back."""
    put(bus, ["1"], ["2"], ["3"])
    run(StageLoop(bus, Together(later=1)))
    assert [decode(data).header["sum"] for data in emitted(bus)] == [[1, 1], [3, 2], [6, 3]]


def test_what_comes_before_broken_bytes_is_taken(bus: SqliteBus) -> None:
    """A frame that cannot be read stops the stage where it is, not before."""
    put(bus, ["1"], ["2"])
    bus.append(RAW, 0, [b"broken"]).result()
    loop = StageLoop(bus, Together())
    with pytest.raises(FrameError):
        loop.step()
    loop.settle()
    assert [decode(data).header["sum"] for data in emitted(bus)] == [[1, 1], [3, 2]]
    assert loop.next_offset == 2


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from(["1", "7", "!", "alone", "pair"]), min_size=1, max_size=4), max_size=12),
    st.lists(st.integers(1, 16), min_size=1, max_size=6),
    st.integers(0, 3),
)
def test_together_gives_what_alone_gives(
    tmp_path_factory: Any, texts: list[list[str]], batches: list[int], later: int
) -> None:
    """Whatever fails, however much is read at a time, and from wherever the stage begins again."""
    made = []
    for operators in ([Summing()], [Together(later) for _ in batches]):
        bus = SqliteBus(tmp_path_factory.mktemp("bus") / "bus", free_floor_bytes=0)
        put(bus, *texts)
        for operator, batch in zip(operators, batches, strict=False):
            loop = StageLoop(bus, operator, batch=batch)
            loop.step()  # then it is killed; the next one begins from what was saved
        run(loop)
        made.append([by_origin(bus, stream) for stream in (PROCESSED, REJECTED)])
        bus.close()
    assert made[1] == made[0]
