"""Ground truth: what was really sent and done wrong, in a file, and whether an outcome agrees with it.

The file is JSON lines: one per injected fault (see :class:`Fact`), and at the end one ``{"summary": …}``. Tests and
users compare it with what the pipeline made of the messages: :func:`compare` asks an :class:`Outcome`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import orjson

from qingtu.errors import QingtuError
from qingtu.records import Flag

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from pathlib import Path
    from types import TracebackType
    from typing import IO, Self


@dataclass(frozen=True, slots=True)
class Fact:
    """One injected fault and what must come of it.

    Attributes:
        id: of the fault; an episode (stuck, drift) has one line.
        fault: a name of :data:`simulators.faults.FAULTS`.
        network: network id.
        device: device id.
        station: station id.
        property: the property that was hit, or one that the message holds.
        channel: of its series.
        from_us: time of the reading (before any clock was wrong), or start of the episode; µs UTC.
        to_us: the same, or end of the episode.
        message: SHA-256 of the payload, hex; "" for an episode.
        expected: what must come of it:

            ``absent``: never sent, so there is no reading at ``from_us``;
            ``stored``: the reading is there; of an episode: nothing is promised of any moment;
            ``duplicate``: the message came twice and counts once;
            ``late``: stored, and marked as late;
            ``quarantined:REASON``: the bytes are in quarantine with that reason;
            ``flag:4:CHECK``, ``flag:3:CHECK``: the reading is there with that flag or a worse one, and that check did
            not pass; of an episode: the reading at ``decided_us``.
        decided_us: an outcome may be asked for after messages up to this time came; the next sample for a spike; 0 for
            an episode of which nothing is promised.
        detail: for people.
    """

    id: str
    fault: str
    network: str
    device: str
    station: str
    property: str
    channel: str
    from_us: int
    to_us: int
    message: str
    expected: str
    decided_us: int = 0
    detail: str = ""

    def asked_us(self) -> int | None:
        """Time of the reading that the outcome is asked for, µs UTC; None when nothing is promised of any."""
        if self.message:
            return self.from_us
        return self.decided_us or None


@dataclass(frozen=True, slots=True)
class Totals:
    """How many messages were sent, and what they must become.

    Attributes:
        from_us: start of the simulated time, µs UTC.
        to_us: its end, exclusive.
        published: messages handed to the broker, copies included; re-sent ones (``resent``) not.
        distinct: different messages among them.
        stored: messages that must end as stored.
        duplicate: messages that must end as duplicate.
        quarantined: messages that must end in quarantine.
        acknowledged: PUBACKs received.
        resent: messages that were sent again because a connection broke before their PUBACK; each may have come
            twice, so each adds up to one duplicate.
        by_fault: injected faults by name.
        by_reason: messages for quarantine by reason code.
        seed: of the run.
        catalogue: version.
        faults: rates.
    """

    from_us: int
    to_us: int
    published: int
    distinct: int
    stored: int
    duplicate: int
    quarantined: int
    acknowledged: int = 0
    resent: int = 0
    by_fault: Mapping[str, int] = field(default_factory=dict)
    by_reason: Mapping[str, int] = field(default_factory=dict)
    seed: int = 0
    catalogue: str = ""
    faults: Mapping[str, float] = field(default_factory=dict)


class TruthError(QingtuError):
    """A file is not a ground-truth file, or was not finished."""


class TruthWriter:
    """Counts what is sent and writes the file as the run goes on; the summary comes with :meth:`finish`.

    Args:
        path: file to write, or None to only count.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._file: IO[bytes] | None = path.open("wb") if path else None
        self._seen: set[str] = set()
        self._by_fault: Counter[str] = Counter()
        self._by_reason: Counter[str] = Counter()
        self._by_outcome: Counter[str] = Counter()

    def fact(self, fact: Fact) -> None:
        """Note an injected fault; the samples of one episode are noted once."""
        if fact.id in self._seen:
            return
        self._seen.add(fact.id)
        self._by_fault[fact.fault] += 1
        self._line(asdict(fact))

    def sent(self, expected: str) -> None:
        """Count a message that was handed to the broker, by what must come of it (see :class:`Fact`)."""
        outcome, _, reason = expected.partition(":")
        self._by_outcome[outcome if outcome in {"duplicate", "quarantined"} else "stored"] += 1
        if outcome == "quarantined":
            self._by_reason[reason] += 1

    @property
    def published(self) -> int:
        """How many messages were sent so far."""
        return self._by_outcome.total()

    def finish(self, from_us: int, to_us: int, **about: Any) -> Totals:
        """Write the summary, close the file and return the sums.

        Args:
            from_us: start of the simulated time, µs UTC.
            to_us: its end.
            about: further fields of :class:`Totals`.
        """
        copies = self._by_outcome["duplicate"]
        totals = Totals(
            from_us=from_us,
            to_us=to_us,
            published=self.published,
            distinct=self.published - copies,
            stored=self._by_outcome["stored"],
            duplicate=copies,
            quarantined=self._by_outcome["quarantined"],
            by_fault=dict(sorted(self._by_fault.items())),
            by_reason=dict(sorted(self._by_reason.items())),
            **about,
        )
        self._line({"summary": asdict(totals)})
        self.close()
        return totals

    def close(self) -> None:
        """Close the file; without :meth:`finish` it stays without a summary, and does not load."""
        if self._file:
            self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _line(self, content: Mapping[str, Any]) -> None:
        if self._file:
            self._file.write(orjson.dumps(content, option=orjson.OPT_APPEND_NEWLINE))


@dataclass(frozen=True, slots=True)
class Truth:
    """A whole ground-truth file.

    Attributes:
        facts: the injected faults in the order in which they were published.
        totals: the summary.
    """

    facts: tuple[Fact, ...]
    totals: Totals

    @classmethod
    def load(cls, path: Path) -> Truth:
        """Read a file.

        Raises:
            TruthError: it is not a ground-truth file, or has no summary because the run was killed.
            OSError: it cannot be read.
        """
        facts: list[Fact] = []
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    content = orjson.loads(line)
                    if "summary" in content:
                        return cls(tuple(facts), Totals(**content["summary"]))
                    facts.append(Fact(**content))
                except (ValueError, TypeError) as error:
                    raise TruthError(f"{path}:{number}: not a line of a ground-truth file: {error}") from error
        raise TruthError(f"{path}: has no summary: the run that wrote it did not end by itself")


@dataclass(frozen=True, slots=True)
class Stored:
    """One reading as the pipeline has it.

    Attributes:
        flag: QARTOD flag.
        tests: keys of the checks that did not pass.
    """

    flag: int
    tests: Collection[str] = ()


class Outcome(Protocol):
    """What :func:`compare` must be able to ask about the pipeline, after it came to rest."""

    def totals(self) -> Mapping[str, int]:
        """Return the ledger's sums of messages: received, stored, duplicate, quarantined, in_flight."""
        ...

    def reading(self, series: tuple[str, str, str], time_us: int) -> Stored | None:
        """Return the reading of (station, property, channel) at exactly this time, or None when there is none."""
        ...

    def reasons(self, fact: Fact) -> Collection[str]:
        """Return the reason codes of the quarantined messages with the payload of this fact; may be empty.

        ``fact.message`` is the SHA-256 of what was published. A private route keeps other bytes than were sent: there
        an implementation may look by network and device.
        """
        ...

    def late(self, series: tuple[str, str, str], time_us: int) -> bool | None:
        """Return whether that reading was marked late, or None when the outcome does not tell."""
        ...


def compare(truth: Truth, outcome: Outcome) -> list[str]:
    """Return everything in which an outcome differs from the truth, one sentence each; empty when it agrees.

    Only the messages of this run may have been received. Faults that could not be decided before the run ended
    (a spike in a series' last sample) are held to ``stored``; a sensor that stands still is asked for once it has done
    so for as long as the check looks back.
    """
    differences = list(_compare_totals(truth.totals, outcome.totals()))
    for fact in truth.facts:
        # An episode that the run cut short promises nothing yet.
        open_ = fact.asked_us() is None or (not fact.message and fact.decided_us >= truth.totals.to_us)
        wrong = "" if open_ else _compare_fact(fact, truth.totals, outcome)
        if wrong:
            differences.append(f"{fact.fault} {fact.id}: {wrong}")
    return differences


def _compare_totals(totals: Totals, found: Mapping[str, int]) -> Iterable[str]:
    resent = totals.resent
    for name, low, high in (
        ("received", totals.published, totals.published + resent),
        ("stored", totals.stored, totals.stored),
        ("duplicate", totals.duplicate, totals.duplicate + resent),
        ("quarantined", totals.quarantined, totals.quarantined),
        ("in_flight", 0, 0),
    ):
        count = found.get(name, 0)
        if not low <= count <= high:
            wanted = str(low) if low == high else f"{low} to {high}"
            yield f"messages {name}: {count}, expected {wanted}"


def _compare_fact(fact: Fact, totals: Totals, outcome: Outcome) -> str:
    expected, _, rest = fact.expected.partition(":")
    if expected == "quarantined":
        reasons = outcome.reasons(fact)
        return "" if rest in reasons else f"quarantine has {sorted(reasons)}, expected {rest}"
    series, time_us = (fact.station, fact.property, fact.channel), fact.asked_us()
    assert time_us is not None  # else nothing is promised
    reading = outcome.reading(series, time_us)
    at = f"{'/'.join(series)} {time_us}"
    if expected == "absent":
        return "" if reading is None else f"{at} has a reading, although nothing was sent"
    if reading is None:
        return f"{at} has no reading, expected {fact.expected}"
    if expected == "late":
        return f"{at} is not marked late" if outcome.late(series, time_us) is False else ""
    if expected == "flag" and fact.decided_us < totals.to_us:
        flag, _, check = rest.partition(":")
        if not int(flag) <= reading.flag <= Flag.FAIL or check not in reading.tests:
            return f"{at} has flag {reading.flag} by {sorted(reading.tests)}, expected flag {flag} by {check}"
    return ""
