"""The ordered pass as it runs today, over raw of another day."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pyarrow as pa

from ingest.raw import command_row, raw_frame
from processors.elsewhere import DRIVEN
from processors.process import CONFIGURE, GROUP, Process
from qingtu.records import RAW, Frame, Kind, decode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from qingtu.catalogue import Catalogue
    from qingtu.settings import Settings


def config_of(settings: Settings, catalogue: Catalogue) -> dict[str, Any]:
    """Return what a ``configure`` row says under these settings."""
    return {
        "catalogue": catalogue.version,
        "routes": {route.name: route.decoder for route in settings.routes},
        **settings.process.model_dump(),
    }


class Today:
    """`process` with one catalogue and one configuration, whatever raw says. See :class:`qingtu.contracts.Operator`.

    Every ``configure`` row is given today's arguments before `process` sees it, and what one partition told another of
    messages that it drove again is left out. Raw may have been trimmed behind the
    last such row, so one is said in front of the first frame; everything else is as it stands on raw.

    Args:
        catalogue: in place of all that raw names.
        config: as :func:`config_of` gives it.
        partition: the one that this is for.
        partitions: how many there are.
    """

    group = GROUP
    source = RAW

    def __init__(
        self, catalogue: Catalogue, config: Mapping[str, Any], partition: int = 0, partitions: int = 1
    ) -> None:
        self._inner = Process(lambda _: catalogue, partition, partitions, everywhere=True)
        self._config = dict(config)
        self._told = False

    def restore(self, parts: Mapping[str, bytes] | None) -> None:
        """Take up saved state or start empty."""
        self._inner.restore(parts)
        self._told = bool(parts)

    def snapshot(self) -> tuple[dict[str, bytes], list[str]]:
        """Return what changed since the last snapshot."""
        return self._inner.snapshot()

    def apply(self, frame: Frame, offset: int, only: NDArray[np.bool_] | None = None) -> Outputs:
        """Process one raw frame as of today."""
        if not self._told:
            row = command_row(frame.clock_us, CONFIGURE, "replay", self._config)
            first = raw_frame([row], gateway="", catalogue=None, clock_us=frame.clock_us)
            self._inner.apply(decode(first), offset - 1)
            self._told = True
        return self._inner.apply(self._today(frame), offset, only)

    def _today(self, frame: Frame) -> Frame:
        rows = frame.sections["rows"]
        commands = np.flatnonzero(np.asarray(rows.column("kind")) == Kind.COMMAND).tolist()
        bodies = {i: orjson.loads(rows.column("payload")[i].as_py()) for i in commands}
        # What another partition decided then, it might decide otherwise today: such messages are judged here.
        today = {CONFIGURE: self._config, DRIVEN: {"verdicts": None}}
        told = {i: body for i, body in bodies.items() if body["name"] in today}
        if not told:
            return frame
        payloads = rows.column("payload").to_pylist()
        for i, body in told.items():
            payloads[i] = orjson.dumps({**body, "args": today[body["name"]]})
        place = rows.schema.get_field_index("payload")
        columns = list(rows.columns)
        columns[place] = pa.array(payloads, pa.binary())
        return Frame(frame.header, {**frame.sections, "rows": pa.RecordBatch.from_arrays(columns, schema=rows.schema)})


if TYPE_CHECKING:
    from collections.abc import Callable

    from qingtu.contracts import Operator, Outputs

    _check: Callable[[Today], Operator] = lambda today: today  # noqa: E731 - mypy proves the contract
