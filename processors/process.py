"""`process`: the one ordered pass, as an operator over raw frames of one partition.

It cuts a frame into runs of messages and single ticks and commands, so that the order of raw rows decides
everything, and keeps all memory: duplicates, quality, alerts. The catalogue, the decoders of routes and the limits
in force are themselves told by a raw row (command ``configure``), so replay decides the same again.
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import orjson

from ingest.raw import SESSION, raw_frame
from processors import elsewhere
from processors.aggregates.areas import AREAS
from processors.alerts import rule_kinds, telling
from processors.alerts.facts import FACTS, read
from processors.alerts.quiet import Quiet
from processors.alerts.system import SYSTEM
from processors.messages import Messages
from processors.neighbour import NEIGHBOURS, hear
from processors.output import Output
from processors.override import override
from processors.passes import Pass
from processors.plan import Plan, carry, remap
from processors.quality.run import Quality
from qingtu.contracts import OnFigures, OnSystem, OnTransitions
from qingtu.records import RAW, Frame, Kind, position, times_of
from qingtu.state import pack, unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    import pyarrow as pa
    from numpy.typing import NDArray

    from qingtu.catalogue import Catalogue
    from qingtu.contracts import Outputs, RuleKind, Transition

GROUP: Final = "process"
CONFIGURE: Final = "configure"
_MAIN: Final = "main"
_MESSAGE, _TICK = int(Kind.MESSAGE), int(Kind.TICK)


class Command(NamedTuple):
    """A command row of raw: see :func:`ingest.raw.command_row`.

    Attributes:
        gateway: which program wrote it.
        at_us: when it was given, µs UTC.
        row: of its frame.
        revision: its position.
    """

    name: str
    args: dict[str, Any]
    who: str
    gateway: str
    at_us: int
    row: int
    revision: int


class Process:
    """See :class:`qingtu.contracts.Operator`.

    Args:
        catalogues: returns the archived catalogue of a version; it must have every version named on raw.
        partition: the one that this is for.
        partitions: how many there are.
        tell: tell other partitions, through raw, what concerns them; never over raw that is fixed.
        everywhere: take readings here of stations that live in other partitions, too: a replay, whose catalogue is not
            the one by which raw was cut into partitions.
    """

    group = GROUP
    source = RAW

    def __init__(
        self, catalogues: Callable[[str], Catalogue], partition: int = 0, partitions: int = 1, *,
        tell: bool = False, everywhere: bool = False,
    ) -> None:  # fmt: skip
        self._catalogues = catalogues
        self._partition = partition
        self._partitions = partitions
        self._tell = tell
        self._everywhere = everywhere
        self._pass: Pass | None = None
        self._config: dict[str, Any] = {}
        self._driven_us = 0
        self._decided: list[list[Any]] | None = None  # within a frame alone
        self._heard = telling.Heard()
        self._watched: telling.Watched | None = None
        self._lookers: list[OnTransitions] = []
        self._commands: dict[str, Callable[[Command, Output], None]] = {
            CONFIGURE: self._configure,
            elsewhere.REDRIVE: self._redriven,
            elsewhere.DRIVEN: self._decided_elsewhere,
            SESSION: self._new_session,
            FACTS: self._figures,
            AREAS: self._pass_on,
            NEIGHBOURS: self._neighbours,
            telling.TRANSITIONS: self._heard_of,
            SYSTEM: self._system,
            "acknowledge": self._act,
            "comment": self._act,
            "override": self._override,
            "mute": self._hush,
            "maintenance": self._hush,
        }

    @property
    def config(self) -> dict[str, Any]:
        """What the last ``configure`` row said; empty before the first."""
        return dict(self._config)

    def restore(self, parts: Mapping[str, bytes] | None) -> None:
        """Take up saved state or start empty."""
        self._pass, self._config, self._driven_us, self._heard = None, {}, 0, telling.Heard()
        self._lookers = []
        if not parts:
            return
        arrays, values = unpack(parts[_MAIN])
        if not values["config"]:
            return
        again = self._start(values["config"])
        self._driven_us = values["driven_us"]
        self._heard = telling.Heard(values.get("heard"))
        again.clock_wrong = arrays["clock_wrong"]
        again.quiet = Quiet(again.plan, values.get("quiet"))
        again.quality.restore(_under(arrays, "quality/"))
        for key, kind in again.kinds.items():
            if mine := _under(arrays, f"rule/{key}/"):
                kind.restore(mine)
        again.segments.restore(parts, values["newest_us"])
        again.in_flight.restore(parts.get("in_flight"))

    def snapshot(self) -> tuple[dict[str, bytes], list[str]]:
        """Return what changed since the last snapshot."""
        values = {"config": self._config, "driven_us": self._driven_us, "heard": self._heard.offsets}
        if self._pass is None:
            return {_MAIN: pack({}, values)}, []
        values["newest_us"] = self._pass.segments.now_us
        values["quiet"] = self._pass.quiet.saved()
        arrays = {"clock_wrong": self._pass.clock_wrong}
        arrays |= {f"quality/{name}": a for name, a in self._pass.quality.state().items()}
        for key, kind in self._pass.kinds.items():
            arrays |= {f"rule/{key}/{name}": a for name, a in kind.state().items()}
        put, drop = self._pass.segments.snapshot()
        return {**put, _MAIN: pack(arrays, values), "in_flight": self._pass.in_flight.snapshot()}, drop

    def apply(self, frame: Frame, offset: int, only: NDArray[np.bool_] | None = None) -> Outputs:
        """Process one raw frame; see the contract."""
        rows = frame.sections["rows"]
        kinds = np.asarray(rows.column("kind"))
        output, self._decided = Output(), None
        to_tell: list[Transition] = []
        ticks: list[tuple[int, int, str | None]] = []
        hearing: dict[str, int] = {}
        edges = (kinds != _MESSAGE).nonzero()[0]
        at = 0
        for edge in (*edges.tolist(), len(kinds)):
            if edge > at:
                self._messages(rows, at, edge, offset, only, output)
                to_tell += self._looked_at(output)
            if edge < len(kinds):
                if only is not None and not only[edge]:
                    output.rejected.append((edge, "process", "internal_error", "this row makes the pass fail", 0))
                elif kinds[edge] == _TICK:
                    ticks.append(self._tick(rows, edge, offset, output, hearing))
                else:
                    self._command(rows, edge, offset, output)
                to_tell += self._looked_at(output)
            at = edge + 1
        header = self._header(frame, offset) | {"ticks": ticks, "hearing": hearing}
        if ticks and self._pass is not None:
            header["quiet"] = self._pass.quiet.saved()  # for those who ask what people have switched off
        outputs = output.frames(header, rows, offset)
        return outputs | self._to_tell(to_tell, output, rows, offset, frame.clock_us)

    def joins(self, frame: Frame) -> int:
        """Return how many messages a frame is when nothing else is in it, and none of them driven again; else 0."""
        rows = frame.get("rows")
        if rows is None or self._pass is None:
            return 0
        n = rows.num_rows
        if any(rows.column(name).null_count < n for name in ("redrive_of", "shift_us")):
            return 0
        return 0 if (np.asarray(rows.column("kind")) != _MESSAGE).any() else n

    def apply_joined(self, frames: Sequence[tuple[int, Frame]]) -> list[Outputs]:
        """Process the messages of several raw frames in one pass; see the contract."""
        assert self._pass is not None
        self._decided = None  # as at the beginning of every frame
        batches = [(offset, frame.sections["rows"]) for offset, frame in frames]
        parts = [Messages.of(rows, 0, rows.num_rows, offset) for offset, rows in batches]
        starts = [0, *accumulate(map(len, parts[:-1]))]
        output = Output()
        self._pass.run(Messages.join(parts), None, self._driven_us, output)
        to_tell = self._looked_at(output)
        made: list[Outputs] = []
        for (offset, frame), mine in zip(frames, output.cut(starts, [offset for offset, _ in frames]), strict=True):
            rows, told = frame.sections["rows"], [one for one in to_tell if one.revision >> 16 == offset]
            outputs = mine.frames(self._header(frame, offset) | {"ticks": [], "hearing": {}}, rows, offset)
            made.append(outputs | self._to_tell(told, mine, rows, offset, frame.clock_us))
        return made

    def _header(self, frame: Frame, offset: int) -> dict[str, Any]:
        return {
            "origin": [self._partition, offset],
            "clock": frame.clock_us,
            "catalogue": self._config.get("catalogue"),
        }

    def _to_tell(
        self, transitions: Sequence[Transition], output: Output, rows: pa.RecordBatch, offset: int, clock_us: int
    ) -> Outputs:
        """Return the raw frames that tell other partitions what concerns them."""
        to: dict[int, list[pa.RecordBatch]] = {}
        if self._tell and self._pass is not None:
            to = elsewhere.to_tell(output, rows, self._pass.plan, self._partitions, offset, clock_us)
        if transitions:
            to.setdefault(0, []).insert(0, telling.told(transitions, self._partition, offset, clock_us))
        version = str(self._config.get("catalogue"))
        return {(RAW, p): raw_frame(some, gateway="", catalogue=version, clock_us=clock_us) for p, some in to.items()}

    def _looked_at(self, output: Output) -> Sequence[Transition]:
        """Let situations look at what the last rows made rules say; return what the first partition must be told."""
        fresh = sorted(output.transitions[output.seen :], key=lambda transition: transition.revision)
        if not fresh:
            return ()
        away: Sequence[Transition] = ()
        if self._partition == 0:
            self._situations(fresh, output)
        elif self._watched is not None:
            away = self._watched.among(fresh)
        output.seen = len(output.transitions)
        return away

    def _situations(self, transitions: Sequence[Transition], output: Output) -> None:
        for kind in self._lookers:
            self._say(output, kind.on_transitions(transitions))

    def _heard_of(self, told: Command, output: Output) -> None:
        """Let situations look at what rules said in another partition."""
        self._situations(self._heard.read(told.args, told.at_us, told.revision), output)

    def _say(self, output: Output, transitions: Sequence[Transition]) -> None:
        if self._pass is not None:
            output.transitions.extend(map(self._pass.quiet.marked, transitions))

    def _messages(
        self,
        rows: pa.RecordBatch,
        start: int,
        stop: int,
        offset: int,
        only: NDArray[np.bool_] | None,
        output: Output,
    ) -> None:
        if self._pass is None:
            raise LookupError("a message before the first configure row: raw was not set up by this program")
        decided, self._decided = self._decided, None
        if decided is not None:  # it stands: these rows make nothing fail here, whatever they did there
            elsewhere.take(decided, rows, start, stop, output)
            return
        guilty = None if only is None else ~only[start:stop]
        self._pass.run(Messages.of(rows, start, stop, offset), guilty, self._driven_us, output)

    def _tick(
        self, rows: pa.RecordBatch, row: int, offset: int, output: Output, heard: dict[str, int]
    ) -> tuple[int, int, str | None]:
        """Let rules know the time; return clock, position and the catalogue in force, which derive goes by.

        The routes that are heard are added to ``heard``, with the clock: for those who ask how the gateways are.
        """
        clock_us = int(times_of(rows.column("received_at").slice(row, 1))[0])
        hearing = orjson.loads(rows.column("payload")[row].as_py())["hearing"]
        heard.update(dict.fromkeys(hearing, clock_us))
        if self._pass is not None:
            held = self._pass.quiet.held_now(clock_us)
            for kind in self._pass.kinds.values():
                self._say(output, kind.on_tick(clock_us, hearing, held, position(offset, row)))
        return clock_us, position(offset, row), self._config.get("catalogue")

    def _command(self, rows: pa.RecordBatch, row: int, offset: int, output: Output) -> None:
        """Carry out one command row; what nobody knows is rejected."""
        body = orjson.loads(rows.column("payload")[row].as_py())
        at_us = int(times_of(rows.column("received_at").slice(row, 1))[0])
        gateway = rows.column("gateway")[row].as_py()
        told = Command(body["name"], body["args"], body["who"], gateway, at_us, row, position(offset, row))
        carry_out = self._commands.get(told.name)
        if carry_out is None:
            output.rejected.append((row, "process", "unknown_command", f"no command {told.name[:80]!r}", 0))
        else:
            carry_out(told, output)

    def _redriven(self, told: Command, output: Output) -> None:
        del output
        self._driven_us = told.at_us

    def _decided_elsewhere(self, told: Command, output: Output) -> None:
        """Hear what became of the messages behind this row; without a verdict they are judged here."""
        self._redriven(told, output)
        self._decided = told.args["verdicts"]

    def _new_session(self, told: Command, output: Output) -> None:
        del output
        if self._pass is not None:
            self._pass.in_flight.forget(told.gateway)

    def _figures(self, told: Command, output: Output) -> None:
        if self._pass is None:
            return
        facts, quiet = read(told.args), self._pass.quiet
        held = [quiet.spoiled(fact.station, fact.start_us, told.at_us) for fact in facts]
        for kind in self._kinds():
            if isinstance(kind, OnFigures):
                self._say(output, kind.on_figures(facts, held, told.at_us, told.revision))

    @staticmethod
    def _pass_on(told: Command, output: Output) -> None:
        """Let derive know, which reads no raw."""
        output.areas.append((told.revision, told.args))

    def _system(self, told: Command, output: Output) -> None:
        for kind in self._kinds():
            if isinstance(kind, OnSystem):
                self._say(output, kind.on_system(told.args["source"], told.args["facts"], told.at_us, told.revision))

    def _act(self, told: Command, output: Output) -> None:
        """Acknowledge or comment an alert."""
        alert, note = told.args["alert"], told.args.get("note", "")
        for kind in self._kinds():
            done = kind.on_command(told.name, alert, told.who, note, told.at_us, told.revision)
            if done is not None:
                self._say(output, [done])
                return
        output.rejected.append((told.row, "process", "unknown_alert", f"no open alert {alert[:80]!r}", 0))

    def _hush(self, told: Command, output: Output) -> None:
        """Mute alerts, or say that a station is under maintenance."""
        wrong = None if self._pass is None else self._pass.quiet.command(told.name, told.args, told.who, told.at_us)
        if wrong:
            output.rejected.append((told.row, "process", "bad_command", f"{told.name}: {wrong}", 0))

    def _override(self, told: Command, output: Output) -> None:
        """Give a reading the flag that a person says."""
        mine = self._pass
        if mine is not None:
            before = len(output.transitions)
            refused = override(
                mine.plan, mine.quality, mine.kinds, told.args, told.who, told.at_us, told.revision, output
            )
            output.transitions[before:] = map(mine.quiet.marked, output.transitions[before:])
            if refused is not None:
                output.rejected.append((told.row, "process", "unknown_property", refused, 0))

    def _neighbours(self, told: Command, output: Output) -> None:
        """Revise readings that stand apart from those of the stations around, or do no more."""
        mine = self._pass
        if mine is not None:
            before = len(output.transitions)
            hear(mine.plan, mine.quality, mine.kinds, told.args["verdicts"], told.at_us, told.revision, output)
            output.transitions[before:] = map(mine.quiet.marked, output.transitions[before:])

    def _kinds(self) -> Collection[RuleKind]:
        return () if self._pass is None else self._pass.kinds.values()

    def _configure(self, told: Command, output: Output) -> None:
        """Go on with another catalogue or other limits; memory is carried over by name."""
        config = told.args
        if self._pass is None:
            self._start(config)
            return
        if config.get("promoted"):
            # A promote may have spoken of any reading: what derive saw before it must not undo that.
            np.maximum(self._pass.quality.revised, told.revision, out=self._pass.quality.revised)
        before = self._pass.plan
        self._config = config
        if before.version == config["catalogue"]:
            self._pass.configure(before, config)
            return
        plan = self._plan(config)
        source = remap(before, plan)
        self._pass.configure(plan, config)
        self._pass.quality.adopt(plan, source)
        self._pass.quiet.use(plan)
        devices = np.array([before.device.get(key, -1) for key in plan.device], np.int64)
        self._pass.clock_wrong = carry(self._pass.clock_wrong, devices, np.zeros(len(plan.device), np.bool_))
        for kind in self._pass.kinds.values():
            self._say(output, kind.adopt(plan, source, told.at_us, told.revision))

    def _plan(self, config: Mapping[str, Any]) -> Plan:
        catalogue = self._catalogues(config["catalogue"])
        if self._tell and self._partition:
            self._watched = telling.Watched(catalogue)
        return Plan(catalogue, self._partition, self._partitions, everywhere=self._everywhere)

    def _start(self, config: dict[str, Any]) -> Pass:
        self._config = config
        plan = self._plan(config)
        kinds = rule_kinds()
        for kind in kinds.values():
            kind.adopt(plan, None, 0, 0)
        # Asked once: Python looks through all methods of a protocol each time.
        self._lookers = [kind for kind in kinds.values() if isinstance(kind, OnTransitions)]
        self._pass = Pass(plan, Quality(plan), kinds, Quiet(plan), config)
        return self._pass


def quiet_of(parts: Mapping[str, bytes]) -> dict[str, list[list[Any]]]:
    """Return the mutes and maintenance of a saved state, as the header ``quiet`` of a processed frame gives them."""
    return unpack(parts[_MAIN])[1].get("quiet") or {}


def _under(arrays: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}
