"""`process`: the one ordered pass, as an operator over raw frames of one partition.

It cuts a frame into runs of messages and single ticks and commands, so that the order of raw rows decides
everything, and keeps all memory: duplicates, quality, alerts. The catalogue, the decoders of routes and the limits
in force are themselves told by a raw row (command ``configure``), so replay decides the same again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import orjson

from processors.alerts import RULES
from processors.messages import Messages
from processors.output import Output
from processors.passes import Pass
from processors.plan import Plan, carry, remap
from processors.quality.run import Quality
from qingtu.records import RAW, Frame, Kind, position, times_of
from qingtu.state import pack, unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pyarrow as pa
    from numpy.typing import NDArray

    from qingtu.catalogue import Catalogue
    from qingtu.contracts import RuleKind

GROUP: Final = "process"
CONFIGURE: Final = "configure"
_MAIN: Final = "main"


class Process:
    """See :class:`qingtu.contracts.Operator`.

    Args:
        catalogues: returns the archived catalogue of a version; it must have every version named on raw.
        partition: the one that this is for.
    """

    group = GROUP
    source = RAW

    def __init__(self, catalogues: Callable[[str], Catalogue], partition: int = 0) -> None:
        self._catalogues = catalogues
        self._partition = partition
        self._pass: Pass | None = None
        self._config: dict[str, Any] = {}
        self._driven_us = 0

    def restore(self, parts: Mapping[str, bytes] | None) -> None:
        """Take up saved state or start empty."""
        self._pass, self._config, self._driven_us = None, {}, 0
        if not parts:
            return
        arrays, values = unpack(parts[_MAIN])
        if not values["config"]:
            return
        again = self._start(values["config"])
        self._driven_us = values["driven_us"]
        again.clock_wrong = arrays["clock_wrong"]
        again.quality.restore(_under(arrays, "quality/"))
        for key, kind in again.kinds.items():
            if mine := _under(arrays, f"rule/{key}/"):
                kind.restore(mine)
        again.segments.restore(parts, values["newest_us"])
        again.in_flight.restore(parts.get("in_flight"))

    def snapshot(self) -> tuple[dict[str, bytes], list[str]]:
        """Return what changed since the last snapshot."""
        values = {"config": self._config, "driven_us": self._driven_us}
        if self._pass is None:
            return {_MAIN: pack({}, values)}, []
        values["newest_us"] = self._pass.segments.now_us
        arrays = {"clock_wrong": self._pass.clock_wrong}
        arrays |= {f"quality/{name}": a for name, a in self._pass.quality.state().items()}
        for key, kind in self._pass.kinds.items():
            arrays |= {f"rule/{key}/{name}": a for name, a in kind.state().items()}
        put, drop = self._pass.segments.snapshot()
        return {**put, _MAIN: pack(arrays, values), "in_flight": self._pass.in_flight.snapshot()}, drop

    def apply(self, frame: Frame, offset: int, only: NDArray[np.bool_] | None = None) -> dict[str, bytes]:
        """Process one raw frame; see the contract."""
        rows = frame.sections["rows"]
        kinds = np.asarray(rows.column("kind"))
        output = Output()
        ticks: list[tuple[int, int, str | None]] = []
        edges = np.flatnonzero(kinds != Kind.MESSAGE)
        at = 0
        for edge in (*edges.tolist(), len(kinds)):
            if edge > at:
                self._messages(rows, at, edge, offset, only, output)
            if edge < len(kinds):
                if only is not None and not only[edge]:
                    output.rejected.append((edge, "process", "internal_error", "this row makes the pass fail", 0))
                elif kinds[edge] == Kind.TICK:
                    ticks.append(self._tick(rows, edge, offset, output))
                else:
                    self._command(rows, edge, offset, output)
            at = edge + 1
        header = {
            "origin": [self._partition, offset],
            "clock": frame.clock_us,
            "catalogue": self._config.get("catalogue"),
            "ticks": ticks,
        }
        return output.frames(header, rows, offset)

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
        guilty = None if only is None else ~only[start:stop]
        self._pass.run(Messages.of(rows, start, stop), offset, guilty, self._driven_us, output)

    def _tick(self, rows: pa.RecordBatch, row: int, offset: int, output: Output) -> tuple[int, int, str | None]:
        """Let rules know the time; return clock, position and the catalogue in force, which derive goes by."""
        clock_us = int(times_of(rows.column("received_at").slice(row, 1))[0])
        hearing = orjson.loads(rows.column("payload")[row].as_py())["hearing"]
        if self._pass is not None:
            for kind in self._pass.kinds.values():
                output.transitions.extend(kind.on_tick(clock_us, hearing, position(offset, row)))
        return clock_us, position(offset, row), self._config.get("catalogue")

    def _command(self, rows: pa.RecordBatch, row: int, offset: int, output: Output) -> None:
        at_us = int(times_of(rows.column("received_at").slice(row, 1))[0])
        body = orjson.loads(rows.column("payload")[row].as_py())
        name, args, who = body["name"], body["args"], body["who"]
        if name == CONFIGURE:
            self._configure(args, at_us, position(offset, row), output)
        elif name == "redrive":
            self._driven_us = at_us
        elif name in ("acknowledge", "comment") and self._pass is not None:
            for kind in self._pass.kinds.values():
                done = kind.on_command(name, args["alert"], who, args.get("note", ""), at_us, position(offset, row))
                if done is not None:
                    output.transitions.append(done)
                    return
            output.rejected.append((row, "process", "unknown_alert", f"no open alert {args['alert'][:80]!r}", 0))
        else:
            output.rejected.append((row, "process", "unknown_command", f"no command {name[:80]!r}", 0))

    def _configure(self, config: dict[str, Any], at_us: int, revision: int, output: Output) -> None:
        """Go on with another catalogue or other limits; memory is carried over by name."""
        if self._pass is None:
            self._start(config)
            return
        before = self._pass.plan
        self._config = config
        if before.version == config["catalogue"]:
            self._pass.configure(before, config)
            return
        plan = Plan(self._catalogues(config["catalogue"]))
        source = remap(before, plan)
        self._pass.configure(plan, config)
        self._pass.quality.adopt(plan, source)
        devices = np.array([before.device.get(key, -1) for key in plan.device], np.int64)
        self._pass.clock_wrong = carry(self._pass.clock_wrong, devices, np.zeros(len(plan.device), np.bool_))
        for kind in self._pass.kinds.values():
            output.transitions.extend(kind.adopt(plan, source, at_us, revision))

    def _start(self, config: dict[str, Any]) -> Pass:
        self._config = config
        plan = Plan(self._catalogues(config["catalogue"]))
        kinds: dict[str, RuleKind] = {key: make() for key, make in RULES.items()}
        for kind in kinds.values():
            kind.adopt(plan, None, 0, 0)
        self._pass = Pass(plan, Quality(plan), kinds, config)
        return self._pass


def _under(arrays: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}
