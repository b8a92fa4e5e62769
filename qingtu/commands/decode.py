"""``qingtu decode``: what a payload becomes; with a device, what the pass and the catalogue make of it."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path  # noqa: TC003 - typer reads annotations at run time
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import orjson
import typer

from ingest.decoders import DECODERS
from ingest.peeler import KEPT_BYTES
from ingest.privacy import REDACTORS, Unparsable
from ingest.raw import RawBuilder, Source
from ingest.sources import Refused, misfit
from processors.alerts import rule_kinds
from processors.alerts.quiet import Quiet
from processors.bits import named
from processors.messages import Messages, Readings
from processors.output import Output
from processors.passes import Pass
from processors.plan import Plan
from processors.quality.run import Quality
from qingtu.catalogue import load_catalogue
from qingtu.clock import SystemClock, iso
from qingtu.commands.options import Catalogue, SettingsFile, settings_of
from qingtu.commands.output import print_json
from qingtu.contracts import NO_TIME
from qingtu.errors import NotFound, StartError
from qingtu.records import Flag
from qingtu.records import decode as decode_frame
from qingtu.store.merging import NEW, NONE, Versions, merge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from processors.messages import Refusals
    from qingtu.catalogue import Catalogue as Loaded
    from qingtu.catalogue import DeviceEntry, Series
    from qingtu.contracts import Decoded
    from qingtu.settings import Settings


def decode(
    fmt: Annotated[str, typer.Argument(metavar="FORMAT", help=f"One of: {', '.join(DECODERS)} / 格式")],
    source: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="Payload; standard input if none / 报文")
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="ID or NETWORK/ID: what the catalogue makes of it / 设备")
    ] = None,
    file: SettingsFile = None,
    catalogue: Catalogue = None,
) -> None:
    """Show what a payload becomes / 试解报文.

    One JSON object a reading or event; of what is refused, one with its reason. With --device it goes through gateway
    and pass as if that device sent it now: limit of its route, series, canonical value and unit, flag, and whether it
    is stored or repeats what stands before it. Without, it may name any device. Exit code 1 when a part is refused.
    """
    if fmt not in DECODERS:
        raise typer.BadParameter(f"no format {fmt!r} (allowed: {', '.join(DECODERS)}) / 没有此格式")
    payload = _read(source)
    if device is None:
        lines = plain(DECODERS[fmt]([payload], [None]))
    else:
        settings = settings_of(file, None, catalogue)
        loaded = load_catalogue(settings.catalogue)
        lines = located(payload, fmt, find_device(loaded, device), loaded, settings, SystemClock().now_us())
    for line in lines:
        print_json(line, line=True)
    if any("refused" in line for line in lines):
        raise typer.Exit(1)


def plain(decoded: Decoded) -> list[dict[str, Any]]:
    """Return what a decoder made of one payload, as JSON objects: readings, events, refusals."""
    lines: list[dict[str, Any]] = [
        {
            "name": decoded.names[name],
            "value": None if math.isnan(value) else value,
            "unit": decoded.units[unit] or None,
            "time": _claimed(time, local=local),
        }
        for name, value, unit, time, local in zip(
            decoded.name.tolist(), decoded.value.tolist(), decoded.unit.tolist(), decoded.time_us.tolist(),
            decoded.local.tolist(), strict=True,
        )
    ]  # fmt: skip
    lines += [
        {"event": kind, "level": level, "time": _claimed(time, local=local), "attributes": _kept(attributes)}
        for _, kind, level, time, attributes, local in decoded.events
    ]
    lines += [
        {"refused": reason, "detail": detail, "readings": readings} for _, reason, detail, readings in decoded.refused
    ]
    return lines


def find_device(catalogue: Loaded, text: str) -> DeviceEntry:
    """Return the device that a person names, as ID or NETWORK/ID.

    Raises:
        NotFound: there is none, or several networks have it.
    """
    network, _, ident = text.rpartition("/")
    found = [entry for (n, d), entry in catalogue.devices.items() if d == ident and (not network or n == network)]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(f"{entry.network}/{ident}" for entry in found)
        raise NotFound(f"多个网络有此设备 / several networks have a device {ident}: name one of {names}")
    raise NotFound(f"目录中没有此设备 / no device {text} in the catalogue: 'qingtu stations --json' lists all")


def located(
    payload: bytes, fmt: str, entry: DeviceEntry, catalogue: Loaded, settings: Settings, now_us: int
) -> list[dict[str, Any]]:
    """Return what the whole pass makes of a payload that the device sends now, without any memory.

    Args:
        payload: as the device sends it.
        fmt: key of the decoder, whatever the device's route says.
        entry: the device.
        catalogue: its catalogue.
        settings: for the size that the device's route takes, and the limits of claimed times.
        now_us: taken as time of receipt, µs UTC.
    """
    size = len(payload)
    payload, reason = _taken(payload, fmt, entry, catalogue, settings)
    plan = Plan(catalogue)
    limits = {"routes": {entry.route: fmt}, **settings.process.model_dump()}
    rules = rule_kinds()
    for kind in rules.values():
        kind.adopt(plan, None, 0, 0)
    builder = RawBuilder("decode")
    source = Source("", entry.network, entry.route, entry.device.id)
    builder.append((source, payload, 1, 1, None, now_us, 0, size, reason, None))
    rows = decode_frame(builder.build(catalogue.version, now_us)).sections["rows"]
    output = _Told()
    ran = _TellingPass(plan, Quality(plan), rules, Quiet(plan), limits)
    ran.run(Messages.of(rows, 0, 1, 0), None, 0, output)
    return [*_readings(output, catalogue, ran.named), *_events(output), *output.refused]


def _taken(payload: bytes, fmt: str, entry: DeviceEntry, catalogue: Loaded, settings: Settings) -> tuple[bytes, str]:
    """Return what the gateway keeps of a payload that comes by the device's route, and why it refuses it, "": not."""
    private = catalogue.networks[entry.network].private
    # A route that the settings have not is told by `qingtu check`; no limit is known then.
    limits = [route.max_payload_bytes for route in settings.routes if route.name == entry.route]
    if limits and (reason := misfit(len(payload), limits[0])):
        return b"" if private else payload[:KEPT_BYTES], reason
    if not private:
        return payload, ""
    redact = REDACTORS.get(fmt)
    try:
        return (b"", Refused.UNPARSABLE_PRIVATE.value) if redact is None else (redact(payload, b"decode"), "")
    except Unparsable:
        return b"", Refused.UNPARSABLE_PRIVATE.value


@dataclass(slots=True)
class _Told(Output):
    """What the pass says, with every refusal on its own: quarantine joins those of a message, under the first reason.

    Attributes:
        refused: one JSON object a refused part, in the order in which the steps found them.
    """

    refused: list[dict[str, Any]] = field(default_factory=list)


class _TellingPass(Pass):
    """A pass over one message that keeps every refusal on its own.

    Attributes:
        named: (series, field name) of each reading that was taken, as the payload has them.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.named: list[tuple[int, str]] = []

    def _block(
        self, messages: Messages, device: NDArray[np.int64], rows: NDArray[np.int64], decoded: Decoded,
        refusals: Refusals,
    ) -> Readings:  # fmt: skip
        """Take each reading alone: behind this step nobody knows its name, and two names may be one series."""
        blocks = []
        for i, name in enumerate(decoded.name.tolist()):
            block = super()._block(messages, device, rows, _only(decoded, i), refusals)
            self.named += [(series, decoded.names[name]) for series in block.series.tolist()]
            blocks.append(block)
        return Readings.join(blocks) if blocks else super()._block(messages, device, rows, decoded, refusals)

    @staticmethod
    def _report(
        messages: Messages, outcome: NDArray[np.uint8], decoded_count: NDArray[np.int64], refusals: Refusals,
        output: Output,
    ) -> None:  # fmt: skip
        super(_TellingPass, _TellingPass)._report(messages, outcome, decoded_count, refusals, output)
        assert isinstance(output, _Told)
        output.refused += [
            {"refused": reason, "stage": stage, "detail": detail}
            for _, notes in sorted(refusals.notes.items())
            for stage, reason, detail in notes
        ]


def _readings(output: Output, catalogue: Loaded, named: Sequence[tuple[int, str]]) -> list[dict[str, Any]]:
    """Return the readings, by series, with what a store that holds none of them makes of each."""
    if not output.readings:
        return []
    ((_, columns),) = output.readings  # of one message: readings by series, then late verdicts on them
    names = [name for _, name in sorted(named, key=lambda pair: pair[0])]
    order = np.lexsort((columns["time"], columns["series"]))  # stable: of equal keys the first in the payload is first
    series, time = columns["series"][order], columns["time"][order]
    key = np.cumsum(np.diff(series, prepend=-1).astype(np.bool_) | np.diff(time, prepend=NO_TIME).astype(np.bool_)) - 1
    versions = Versions(*(columns[name][order] for name in ("value", "flag", "tests", "revision", "known", "cause")))
    merged = merge(key, np.full(len(key), NONE, np.int64), versions)
    lines: list[tuple[int, dict[str, Any]]] = []
    for place, row in enumerate(order.tolist()):
        if row < len(names):
            new = merged.state[place] == NEW
            # A verdict on a reading may come with it: what is stored is the reading as it stands at last.
            judged = int(order[merged.now[key[place]]]) if new else row
            line = _reading(catalogue.series[series[place]], columns, judged)
            lines.append((row, {"name": names[row], **line, "outcome": "stored" if new else "repeated"}))
    return [line for _, line in sorted(lines, key=lambda pair: pair[0])]


def _reading(series: Series, columns: dict[str, NDArray[Any]], row: int) -> dict[str, Any]:
    value, flag, tests = (columns[name][row].item() for name in ("value", "flag", "tests"))
    return {
        "station": series.station,
        "property": series.property,
        "channel": series.channel,
        "time": iso(columns["time"][row].item()),
        "value": None if math.isnan(value) else value,
        "unit": series.unit,
        "flag": flag,
        "flag_name": Flag(flag).name.lower(),
        "tests": named(tests),
    }


def _only(decoded: Decoded, i: int) -> Decoded:
    """Return one reading of what was decoded."""
    columns = {name: getattr(decoded, name)[i : i + 1] for name in ("row", "name", "unit", "value", "time_us", "local")}
    return replace(decoded, **columns, mark=None if decoded.mark is None else decoded.mark[i : i + 1])


def _kept(attributes: dict[str, Any]) -> Any:
    """Return an event's attributes as they are stored: NaN and Infinity, which JSON has not, become null."""
    return orjson.loads(orjson.dumps(attributes))


def _events(output: Output) -> list[dict[str, Any]]:
    return [
        {"event": kind, "station": station, "level": level, "time": iso(time), "attributes": _kept(attributes)}
        for station, kind, level, time, attributes, _, _ in output.events
    ]


def _claimed(time_us: int, *, local: bool) -> str | None:
    if time_us == NO_TIME:
        return None
    text = np.datetime_as_string(np.datetime64(time_us, "us"), unit="us").item()
    text = text.removesuffix(".000000")
    return f"{text} (zone of the station)" if local else f"{text}Z"


def _read(source: Path | None) -> bytes:
    if source is None:
        return sys.stdin.buffer.read()
    try:
        return source.read_bytes()
    except OSError as error:
        raise StartError(f"文件无法读取 / {source} cannot be read: {error.strerror}") from error
