"""One pass over a run of messages: decode, locate, convert, deduplicate, quality, station alerts, on arrays."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ingest.decoders import DECODERS
from processors import convert, deduplicate, locate
from processors.alerts.batch import Batch, Unmoved
from processors.decode import decode
from processors.elsewhere import Verdict
from processors.messages import Messages, Readings, Refusals
from processors.plan import UNKNOWN, Plan
from qingtu.clock import DAY, SECOND
from qingtu.contracts import NO_TIME, Decoded
from qingtu.grouped import by_series
from qingtu.records import Cause, MessageFlag, Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from processors.alerts.quiet import Quiet
    from processors.output import Output
    from processors.quality.run import Quality
    from qingtu.contracts import RuleKind

_IGNORED_REASON: Final = "sys_topic"
# Looking up a member of an enumeration takes as long as a call of numpy.
_STORED, _IGNORED = int(Outcome.STORED), int(Outcome.IGNORED)
_DUPLICATE, _QUARANTINED = int(Outcome.DUPLICATE), int(Outcome.QUARANTINED)
_QOS, _DUP, _RETAIN = int(MessageFlag.QOS), int(MessageFlag.DUP), int(MessageFlag.RETAIN)
_FAR: Final = 1 << 61
"""A time of receipt after all times: makes a reading late."""


class Pass:
    """What a pass over messages needs, and the memory it keeps.

    Attributes:
        clock_wrong: bool (devices,), whose last message claimed an impossible time.
    """

    def __init__(
        self, plan: Plan, quality: Quality, kinds: Mapping[str, RuleKind], quiet: Quiet, limits: Mapping[str, Any]
    ) -> None:
        """Make one.

        Args:
            plan: look-up tables.
            quality: checks with their memory.
            kinds: rule kinds with theirs.
            quiet: mutes and maintenance.
            limits: ``ahead_limit_s``, ``backfill_limit_d``, ``dedup_horizon_h``, ``dedup_max`` and ``routes``.
        """
        self.quality = quality
        self.kinds = kinds
        self._readers, self._hearers = _moved_by(kinds, "on_readings"), _moved_by(kinds, "on_heard")
        self.quiet = quiet
        self.segments = deduplicate.Segments(0, 0)
        self.in_flight = deduplicate.InFlight()
        self.configure(plan, limits)
        self.clock_wrong = np.zeros(len(plan.device_names), np.bool_)

    def configure(self, plan: Plan, limits: Mapping[str, Any]) -> None:
        """Take up another catalogue or other limits; the caller carries the memory over."""
        self.plan = plan
        self._routes: Mapping[str, str] = limits["routes"]
        self._ahead_us = limits["ahead_limit_s"] * SECOND
        self._backfill_us = limits["backfill_limit_d"] * DAY
        self.segments.horizon_us = limits["dedup_horizon_h"] * 3600 * SECOND
        self.segments.maximum = limits["dedup_max"]

    def run(self, messages: Messages, guilty: NDArray[np.bool_] | None, driven_us: int, output: Output) -> None:
        """Take a run of messages and add everything it causes to ``output``.

        Args:
            messages: n of them.
            guilty: bool (n,), rows that crash this stage; rejected without a look. None: none.
            driven_us: when re-driven rows were driven again.
            output: is added to.
        """
        n = len(messages)
        refusals = Refusals(np.zeros(n, np.int64), np.zeros(n, np.int64))
        outcome = np.full(n, _STORED, np.uint8)
        active = self._gateway_refusals(messages, refusals, outcome)
        if guilty is not None:
            active &= ~guilty
            for i in guilty.nonzero()[0].tolist():
                refusals.add(i, "process", "internal_error", "this message makes the pass fail", 0)
        own = np.zeros(n, np.bool_)
        decoded_count = np.zeros(n, np.int64)
        device = locate.devices(self.plan, messages)
        strangers = self._strangers(device)
        blocks: list[Readings] = []
        claimed: list[tuple[int, str, int, int, dict[str, Any], bool]] = []
        made: list[tuple[NDArray[np.int64], Decoded]] = []
        for rows, decoded in decode(messages, active, self._routes, DECODERS, refusals):
            own[rows] = decoded.own_identity
            decoded_count[rows] += np.bincount(decoded.row, minlength=len(rows))
            for row, kind, level, time, attributes, local in decoded.events:
                claimed.append((int(rows[row]), kind, level, time, attributes, local))
            made.append((rows, decoded))
            blocks.append(self._block(messages, device, rows, decoded, refusals))
        # Events are no readings; only those that are refused are booked beside refused readings.
        events: list[tuple[int, str, int, int, dict[str, Any]]] = []
        if claimed:
            refused_before = refusals.count.copy()
            events = self._locate_events(messages, device, claimed, refusals)
            decoded_count += refusals.count - refused_before
        self._unknown_devices(messages, device, active, strangers, decoded_count, refusals)
        duplicate = self._duplicates(messages, device, own)
        outcome[list(refusals.notes)] = _QUARANTINED
        output.astray += messages.row[active & strangers & ~duplicate & ~messages.away].tolist()
        repeats = bool(duplicate.any())
        if repeats:
            outcome[duplicate] = _DUPLICATE
        self._mark_clocks(messages, device, made, duplicate, refusals, output)
        known = (
            np.where(messages.redriven, driven_us, messages.received_us) if messages.driven else messages.received_us
        )
        if blocks:
            readings = Readings.join(blocks)
            readings = readings.keep(~duplicate[readings.message]) if repeats else readings
            self._judge(messages, readings, known, output)
        self._heard(messages, device, output)
        self._report(messages, outcome, decoded_count, refusals, output)
        for i, kind, level, time, attributes in events:
            if not duplicate[i]:
                station = self.plan.station_names[self.plan.device_station[device[i]]]
                at = int(messages.received_us[i]) if time == NO_TIME else time
                output.events.append((station, kind, level, at, attributes, int(messages.at[i]), int(known[i])))

    @staticmethod
    def _gateway_refusals(messages: Messages, refusals: Refusals, outcome: NDArray[np.uint8]) -> NDArray[np.bool_]:
        codes, names = messages.refused
        if names == [""]:
            return np.ones(len(messages), np.bool_)
        taken: NDArray[np.bool_] = np.array([name == "" for name in names], np.bool_)[codes]
        for i in (~taken).nonzero()[0].tolist():
            reason = names[codes[i]]
            if reason == _IGNORED_REASON:
                outcome[i] = _IGNORED
            else:
                refusals.add(i, "gateway", reason, f"{len(messages.payload[i])} bytes kept", 0)
        return taken

    def _block(
        self,
        messages: Messages,
        device: NDArray[np.int64],
        rows: NDArray[np.int64],
        decoded: Decoded,
        refusals: Refusals,
    ) -> Readings:
        """Locate and convert what one decoder made; refuse what cannot be."""
        message = rows.take(decoded.row)
        sender = device.take(message)
        decoded, message, sender = _subset(decoded, sender != UNKNOWN, message, sender)
        entry = locate.entries(self.plan, sender, decoded)
        missing = entry < 0
        if missing.any():
            names = [f"{decoded.names[c][:80]!r} is not a field of this device" for c in decoded.name[missing].tolist()]
            refusals.add_many(message[missing], "locate", "unknown_property", names)
            decoded, message, sender, entry = _subset(decoded, ~missing, message, sender, entry)
        value, refused = convert.values(self.plan, entry, decoded)
        if refused.any():
            self._refuse_units(decoded, message, entry, refused, refusals)
        time, wrong, timeless = self._times(messages, message, sender, decoded, refusals)
        good = ~(refused | wrong)
        return Readings(message, self.plan.entry_series[entry], time, value, decoded.mark, timeless).keep(good)

    def _refuse_units(
        self,
        decoded: Decoded,
        message: NDArray[np.int64],
        entry: NDArray[np.int64],
        refused: NDArray[np.bool_],
        refusals: Refusals,
    ) -> None:
        for i in refused.nonzero()[0].tolist():
            name, unit = decoded.names[decoded.name[i]][:80], decoded.units[decoded.unit[i]]
            if unit == "" or self.plan.unit(int(entry[i]), unit) is not None:
                reason, detail = "not_finite", f"{name}: too large in its unit"
            elif unit == "bool":
                reason, detail = "bad_value", f"{name}: true or false where a number is expected"
            else:
                reason, detail = "unknown_unit", f"{name}: unit {unit[:40]!r} is not known for this property"
            refusals.add(int(message[i]), "convert", reason, detail, 1)

    def _times(
        self,
        messages: Messages,
        message: NDArray[np.int64],
        sender: NDArray[np.int64],
        decoded: Decoded,
        refusals: Refusals,
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_] | None]:
        """Return times in UTC, which readings are refused for theirs, and which have that of receipt (None: none)."""
        received = messages.received_us.take(message)
        time = decoded.time_us + messages.shift_us.take(message) if messages.driven else decoded.time_us
        none = decoded.time_us == NO_TIME
        timeless = bool(none.any())
        if timeless:
            time = np.where(none, received, time)
        if decoded.local.any():
            time = time.copy()
            for zone in np.unique(self.plan.device_zone[sender[decoded.local]]).tolist():
                mine = decoded.local & (self.plan.device_zone[sender] == zone)
                time[mine] = convert.to_utc(time[mine], self.plan.zones[zone])
        ahead_us = time - received
        wrong = (ahead_us > self._ahead_us) | (ahead_us < -self._backfill_us)
        for i in wrong.nonzero()[0].tolist():
            ahead = (int(time[i]) - int(received[i])) / SECOND
            refusals.add(int(message[i]), "convert", "clock_wrong", f"claims a time {ahead:+.0f} s from receipt", 1)
        if not timeless:
            return time, wrong, None
        old = none & ((messages.flags[message] & _RETAIN) > 0)
        for i in old.nonzero()[0].tolist():
            refusals.add(int(message[i]), "convert", "retained_no_time", "kept by the broker, age unknown", 1)
        return time, wrong | old, none

    def _locate_events(
        self,
        messages: Messages,
        device: NDArray[np.int64],
        events: list[tuple[int, str, int, int, dict[str, Any], bool]],
        refusals: Refusals,
    ) -> list[tuple[int, str, int, int, dict[str, Any]]]:
        kept = []
        for event in events:
            i, kind, level, time, attributes, local = event
            received = int(messages.received_us[i])
            if device[i] == UNKNOWN:
                continue  # the whole message is refused
            if time != NO_TIME:
                time += int(messages.shift_us[i])
                if local:
                    zone = self.plan.zones[self.plan.device_zone[device[i]]]
                    time = int(convert.to_utc(np.array([time]), zone)[0])
            elif messages.flags[i] & _RETAIN:
                refusals.add(i, "convert", "retained_no_time", f"event {kind}: kept by the broker, age unknown", 1)
                continue
            if time != NO_TIME and not -self._backfill_us <= time - received <= self._ahead_us:
                refusals.add(i, "convert", "clock_wrong", f"event {kind}: impossible time", 1)
            else:
                kept.append((i, kind, level, time, attributes))
        return kept

    def _strangers(self, device: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Say which messages came here though their station lives in another partition; make their devices unknown.

        They were sent while the catalogue changed, or by a gateway with another one. What is in the store of that
        station has positions of its partition, which say nothing beside those of this one.
        """
        here = self.plan.lives_here
        if here is None:
            return np.zeros(len(device), np.bool_)
        out: NDArray[np.bool_] = device != UNKNOWN
        out[out] = ~here[self.plan.device_station[device[out]]]
        device[out] = UNKNOWN
        return out

    @staticmethod
    def _unknown_devices(
        messages: Messages,
        device: NDArray[np.int64],
        active: NDArray[np.bool_],
        strangers: NDArray[np.bool_],
        decoded_count: NDArray[np.int64],
        refusals: Refusals,
    ) -> None:
        for i in (active & (device == UNKNOWN)).nonzero()[0].tolist():
            name = "/".join(messages.sender(i))
            why = f"no device {name[:160]!r} in the catalogue"
            if strangers[i]:
                why = f"the station of {name[:160]!r} lives in another partition: driven again there"
            refusals.add(i, "locate", "unknown_device", why, int(decoded_count[i]))

    def _duplicates(self, messages: Messages, device: NDArray[np.int64], own: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Say which messages came before, and remember the others."""
        known = self.plan.device_sender
        senders = [
            known[number] if number != UNKNOWN else deduplicate.sender(*messages.sender(i))
            for i, number in enumerate(device.tolist())
        ]
        whole = messages.payload
        if any(messages.digest):
            whole = [p if d is None else d for p, d in zip(whole, messages.digest, strict=True)]
        hashes = deduplicate.fingerprints(senders, whole)
        qos = (messages.flags & _QOS) > 0
        dup = (messages.flags & _DUP) > 0
        first_time = ~messages.redriven
        if own.all() and not messages.driven:
            self.in_flight.count(qos)
            return self.segments.decide(hashes, messages.received_us)
        timeless = np.flatnonzero(first_time & ~own)
        duplicate = self.in_flight.decide(
            timeless, qos & first_time, dup, messages.packet_id, messages.connection, messages.gateway, hashes
        )
        identified = np.flatnonzero(first_time & own)
        duplicate[identified] = self.segments.decide(hashes[identified], messages.received_us[identified])
        return duplicate

    def _mark_clocks(
        self,
        messages: Messages,
        device: NDArray[np.int64],
        made: Sequence[tuple[NDArray[np.int64], Decoded]],
        duplicate: NDArray[np.bool_],
        refusals: Refusals,
        output: Output,
    ) -> None:
        """Keep which devices claim impossible times; a change is an event. Only messages that claim one count."""
        wrong = {i for i, notes in refusals.notes.items() if any(note[1] == "clock_wrong" for note in notes)}
        if not wrong and not self.clock_wrong.any():
            return
        claims = _claims(made, len(messages)) & ~duplicate
        counted = np.flatnonzero(claims & ~messages.redriven & (device != UNKNOWN))
        looked_at = self.clock_wrong.copy()
        looked_at[device[[i for i in wrong if device[i] != UNKNOWN]]] = True
        marks: list[tuple[int, bool, int, int]] = []
        for i in counted[looked_at[device[counted]]].tolist():
            number = int(device[i])
            bad = i in wrong
            if bad == self.clock_wrong[number]:
                continue
            self.clock_wrong[number] = bad
            revision, at = int(messages.at[i]), int(messages.received_us[i])
            attributes = {"device": self.plan.device_names[number]}
            kind = "clock_wrong" if bad else "clock_right"
            station = self.plan.station_names[self.plan.device_station[number]]
            output.events.append((station, kind, 0, at, attributes, revision, at))
            marks.append((number, bad, at, revision))
        if marks:
            numbers, bads, times, revisions = (np.array(column) for column in zip(*marks, strict=True))
            for rule in self.kinds.values():
                output.transitions.extend(map(self.quiet.marked, rule.on_clock(numbers, bads, times, revisions)))

    def _judge(self, messages: Messages, readings: Readings, known: NDArray[np.int64], output: Output) -> None:
        """Quality and station alerts of the readings that are stored."""
        order = by_series(readings.series, len(self.plan.series_station))
        message, series = readings.message.take(order), readings.series.take(order)
        time, value = readings.time_us.take(order), readings.value.take(order)
        revision = messages.at.take(message)
        received_us = received = messages.received_us.take(message)
        cause = np.zeros(len(series), np.uint8)
        if messages.driven:
            # What is driven again is late whatever its time: it moves no memory and raises nothing.
            redriven = messages.redriven[message]
            received = np.where(redriven, _FAR, received)
            cause[redriven] = Cause.REDRIVE
        sample = self.quality.samples(readings.message, readings.time_us)
        sample = None if sample is None else sample[order]
        mark = None if readings.mark is None else readings.mark[order]
        timeless = None if readings.timeless is None else readings.timeless[order]
        judged = self.quality.judge(series, time, value, received, sample, mark, timeless)
        held = self.quiet.held(self.plan.series_station[series], time) if self.quiet.holds else None
        batch = Batch(series, time, value, received_us, revision, judged, held)
        if judged.late.any():
            np.maximum.at(self.quality.revised, series[judged.late], revision[judged.late])
        known_us = known.take(message) if messages.driven else received_us
        columns: dict[str, NDArray[Any]] = {
            "series": series, "time": time, "value": value, "flag": judged.flag, "tests": judged.tests,
            "revision": revision, "known": known_us, "cause": cause, "late": judged.late,
        }  # fmt: skip
        if len(by := judged.again_by):
            np.maximum.at(self.quality.revised, series[by], revision[by])
            again: dict[str, NDArray[Any]] = {
                "series": series[by], "time": judged.again_time_us, "value": judged.again_value,
                "flag": judged.again_flag, "tests": judged.again_tests,
                "revision": revision[by], "known": columns["known"][by],
                "cause": np.full(len(by), Cause.QUALITY_DECIDED, np.uint8), "late": np.zeros(len(by), np.bool_),
            }  # fmt: skip
            columns = {name: np.concatenate([column, again[name]]) for name, column in columns.items()}
        output.readings.append((self.plan, columns))
        for kind in self._readers:
            output.transitions.extend(map(self.quiet.marked, kind.on_readings(batch)))

    def _heard(self, messages: Messages, device: NDArray[np.int64], output: Output) -> None:
        # A retained message is sent because we subscribed: it does not tell that its device lives.
        retained = (messages.flags & _RETAIN) > 0
        rows = ((device != UNKNOWN) & ~messages.redriven & ~retained).nonzero()[0]
        if not len(rows):
            return
        station = self.plan.device_station[device[rows]]
        revision, received = messages.at[rows], messages.received_us[rows]
        for kind in self._hearers:
            output.transitions.extend(map(self.quiet.marked, kind.on_heard(station, received, revision)))

    @staticmethod
    def _report(
        messages: Messages,
        outcome: NDArray[np.uint8],
        decoded_count: NDArray[np.int64],
        refusals: Refusals,
        output: Output,
    ) -> None:
        """Write the manifest and the rejected rows. A duplicate is not rejected again."""
        decoded, refused = decoded_count + refusals.undecoded, refusals.count
        notes = {i: _note(said) for i, said in sorted(refusals.notes.items()) if outcome[i] != _DUPLICATE}
        if messages.driven and (away := messages.away.nonzero()[0].tolist()):
            output.away += [
                Verdict(int(messages.row[i]), int(outcome[i]), int(refused[i]), *notes.pop(i, ())) for i in away
            ]
            # Here is what it brings; what it is, and what was refused of it, is booked where it is in quarantine.
            outcome = np.where(messages.away, _STORED, outcome)
            decoded, refused = np.where(messages.away, decoded - refused, decoded), np.where(messages.away, 0, refused)
        output.manifest.append(
            {
                "row": messages.row.astype(np.uint16),
                "network": messages.network,
                "received_at": messages.received_us,
                "outcome": outcome,
                "decoded": decoded.astype(np.int32),
                "refused": refused.astype(np.int32),
                "redrive_of": messages.redrive_of,
            }
        )
        for i, note in notes.items():
            output.rejected.append((int(messages.row[i]), *note, int(refused[i])))


def _note(notes: Sequence[tuple[str, str, str]]) -> tuple[str, str, str]:
    """Return stage, reason and detail of a message: those of what was refused first, and all details."""
    stage, reason, _ = notes[0]
    # Each text once: a device whose clock is wrong says the same of every reading.
    said = Counter(note[2] for note in notes)
    return stage, reason, "; ".join(text if n == 1 else f"{text} ({n} readings)" for text, n in said.items())


def _moved_by(kinds: Mapping[str, RuleKind], what: str) -> list[RuleKind]:
    """Return the kinds that something may move: of a dozen few look at readings, and fewer at being heard."""
    return [kind for kind in kinds.values() if getattr(type(kind), what) is not getattr(Unmoved, what)]


def _claims(made: Sequence[tuple[NDArray[np.int64], Decoded]], n: int) -> NDArray[np.bool_]:
    """Say which of n messages claim a time."""
    out = np.zeros(n, np.bool_)
    for rows, decoded in made:
        out[rows[decoded.row[decoded.time_us != NO_TIME]]] = True
        out[[rows[row] for row, _, _, time, *_ in decoded.events if time != NO_TIME]] = True
    return out


def _subset(decoded: Decoded, mask: NDArray[np.bool_], *columns: NDArray[Any]) -> tuple[Any, ...]:
    """Return the decoded readings, and further columns, under the mask."""
    if mask.all():
        return (decoded, *columns)
    out = Decoded(
        decoded.names, decoded.units, decoded.row[mask], decoded.name[mask], decoded.unit[mask],
        decoded.value[mask], decoded.time_us[mask], decoded.local[mask], decoded.own_identity,
        mark=None if decoded.mark is None else decoded.mark[mask],
    )  # fmt: skip
    return (out, *(column[mask] for column in columns))
