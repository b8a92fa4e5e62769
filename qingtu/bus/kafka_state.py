"""State of groups in a compacted topic: whole, or not at all.

For each partition of the streams the topic has two. In the first stand *claims* and *snapshots*: a claim says that a
process begins to work on a partition, and its offset is the process's *epoch*; a snapshot names all parts with their
offsets and the next offset of the input. In the second stand the parts themselves, cut into chunks, under keys that are
never used again. A snapshot is written when its parts are durable, so it is complete or it does not exist.

The greatest (epoch, number) wins. A process whose epoch was superseded before its snapshot has lost its partition: it
learns so from the log itself, not from a clock. It never deletes anything. See docs/decisions/0009-kafka.md.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Final

import orjson
import structlog

from qingtu.bus.kafka_client import STATE, topic
from qingtu.bus.kafka_producer import Item
from qingtu.contracts import SavedState
from qingtu.errors import RetryLater, VersionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from qingtu.bus.kafka_log import Log
    from qingtu.bus.kafka_producer import Producer
    from qingtu.contracts import StateDelta
    from qingtu.settings import KafkaSettings

VERSION: Final = 1
CHUNK_BYTES: Final = 1024 * 1024
_PAUSE_S: Final = 0.5
_MARKS: Final = 10_000
"""Own records of a partition that are remembered: who has not looked for so long looks into the log."""
_CLAIM, _SNAPSHOT = "claim", "snapshot"


@dataclass(frozen=True, slots=True)
class Part:
    """Where a part stands: who wrote it (epoch, number), its size in bytes, the offsets of its chunks."""

    epoch: int
    number: int
    size: int
    offsets: tuple[int, ...]


@dataclass(slots=True)
class _Own:
    """What this process holds of one group and partition.

    Attributes:
        epoch: offset of the claim.
        number: of the snapshot written last.
        next_offset: of the input; None when nothing was ever saved.
        parts: where they stand.
        looked: up to which offset of the log of claims and snapshots no newer claim stands.
        litter: keys of chunks that the snapshot we began from does not need; whoever claims now still begins from it.
        free: keys of chunks that were replaced, and that nobody needs: deleted with the parts that are written next.
        older: epochs that have snapshots.
    """

    epoch: int
    looked: int
    number: int = 0
    next_offset: int | None = None
    parts: dict[str, Part] = field(default_factory=dict)
    litter: list[bytes] = field(default_factory=list)
    free: list[bytes] = field(default_factory=list)
    older: list[int] = field(default_factory=list)


class _Superseded(RetryLater):
    """Another process has claimed the partition."""


class StateLog:
    """Saves and loads. Any thread may call; one partition of one group at a time.

    Args:
        settings: names of topics.
        partitions: of each stream.
        producer: gives the producer, opened when first needed.
        log: reads the topic.
        member: name of this process, for people who read the topic.
        closed: tells whether the bus was closed.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        partitions: int,
        producer: Callable[[], Producer],
        log: Log,
        member: str,
        closed: Callable[[], bool],
    ) -> None:
        self._topic = topic(settings, STATE)
        self._partitions = partitions
        self._producer = producer
        self._asked = log
        self._member = member
        self._closed = closed
        self._locks: defaultdict[tuple[str, int], threading.Lock] = defaultdict(threading.Lock)
        self._own: dict[tuple[str, int], _Own] = {}
        self._lost: set[tuple[str, int]] = set()
        self._written: defaultdict[int, set[int]] = defaultdict(set)
        self._marks = threading.Lock()
        self._log = structlog.get_logger("bus-kafka")

    def load(self, group: str, partition: int, *, mine: bool) -> SavedState | None:
        """Return the newest complete state. What is not held yet is claimed, and held from then on.

        Args:
            group: whose state.
            partition: of its input.
            mine: whether this process may claim it.

        Raises:
            RetryLater: the servers do not answer, or the partition went to another process.
        """
        with self._locks[group, partition]:
            if mine and (group, partition) not in self._own:
                self._lost.discard((group, partition))
            own = self._hold(group, partition, mine=mine)
            self._still(group, partition, own, None)
            if own.next_offset is None:
                return None
            parts = self._values(partition, own.parts)
            if parts is None:
                self.release(group, [partition])
                raise RetryLater(
                    f"状态已被另一进程删除 / state of {group}/{partition} was deleted by another process; "
                    "it is read again"
                )
            return SavedState(own.next_offset, parts)

    def save(self, group: str, partition: int, delta: StateDelta, *, mine: bool) -> None:
        """Save; see the contract. Waits for the servers as long as it takes: the caller has forgotten its changes.

        What was lost is not saved again before it is loaded: the changes of one process must never be put on top of
        the parts of another.

        Raises:
            RetryLater: the partition went to another process, or the bus is closed.
        """
        with self._locks[group, partition]:
            own = self._hold(group, partition, mine=mine)
            own.number += 1
            parts = {name: part for name, part in own.parts.items() if name not in delta.drop}
            parts |= self._write(group, partition, own, delta)
            body = {
                "v": VERSION,
                "number": own.number,
                "next": delta.next_offset,
                "parts": {name: [p.epoch, p.number, p.size, p.offsets] for name, p in parts.items()},
            }
            key = _key(_SNAPSHOT, group, own.epoch)
            (offset,) = self._put(partition, [Item(orjson.dumps(body), key)])
            self._mark(partition, offset)
            replaced = {name: p for name, p in own.parts.items() if parts.get(name) != p}
            own.parts, own.next_offset = parts, delta.next_offset
            while not self._stood(group, partition, own, offset):
                threading.Event().wait(_PAUSE_S)
            # Only now: whoever claims next begins from this snapshot, and nobody from one before it.
            self._set_free(group, partition, own, replaced)

    def release(self, group: str, partitions: Iterable[int]) -> None:
        """Forget what is held: the partitions went to another process, or may have."""
        for partition in partitions:
            self._lost.add((group, partition))
            self._own.pop((group, partition), None)

    def held(self, group: str, partition: int) -> bool:
        """Return whether a claim of this process stands, as far as it knows."""
        return (group, partition) in self._own

    def sizes(self) -> dict[str, int]:
        """Return the bytes of all parts, by "group/partition"."""
        return {
            f"{group}/{partition}": sum(p.size for p in list(own.parts.values()))
            for (group, partition), own in sorted(self._own.copy().items())
        }

    def offsets(self, group: str) -> dict[int, int]:
        """Return the next input offset of what was saved last, by partition."""
        return {p: own.next_offset for (g, p), own in self._own.copy().items() if g == group and own.next_offset}

    # --------------------------------------------------------------------------------------------- claiming

    def _hold(self, group: str, partition: int, *, mine: bool) -> _Own:
        own = self._own.get((group, partition))
        if own is not None:
            return own
        if not mine or (group, partition) in self._lost:
            raise RetryLater(
                f"分区由另一进程处理 / partition {partition} of {group} is not ours now; another process works on it"
            )
        (epoch,) = self._put(partition, [Item(orjson.dumps({"v": VERSION, "by": self._member}), _key(_CLAIM, group))])
        own = self._restore(group, partition, epoch)
        self._own[group, partition] = own
        return own

    def _restore(self, group: str, partition: int, epoch: int) -> _Own:
        """Find the newest complete snapshot, and what is left of older ones and of saves that were cut short."""
        found: dict[int, tuple[int, int, dict[str, Part]]] = {}
        for entry in self._asked.scan(self._topic, partition, 0):
            kind, name, of = _parse(entry.key)
            if kind != _SNAPSHOT or name != group or of >= epoch:
                continue
            if entry.value is None:
                found.pop(of, None)
                continue
            body = orjson.loads(entry.value)
            if body["v"] > VERSION:
                raise VersionError(
                    f"由更新的程序写入 / state of {group}/{partition} has version {body['v']}, written by a newer "
                    f"program; this reads {VERSION}"
                )
            parts = {key: Part(e, n, size, tuple(offsets)) for key, (e, n, size, offsets) in body["parts"].items()}
            found[of] = (body["number"], body["next"], parts)
        keys = self._keys(group, partition)
        for of in sorted(found, reverse=True):
            _, next_offset, parts = found[of]
            if all(offset in keys for part in parts.values() for offset in part.offsets):
                needed = {offset for part in parts.values() for offset in part.offsets}
                litter = [key for offset, key in keys.items() if offset not in needed]
                return _Own(epoch, epoch + 1, 0, next_offset, parts, litter, older=list(found))
            self._log.warning("state_incomplete", group=group, partition=partition, epoch=of, next="an older one")
        if found:
            raise RetryLater(
                f"没有完整的状态 / no state of {group}/{partition} is complete: see docs/kafka.md, state",
                retry_after_s=10,
            )
        return _Own(epoch, epoch + 1, litter=list(keys.values()))

    def _keys(self, group: str, partition: int) -> dict[int, bytes]:
        """Return the keys of all chunks of a group that stand, by offset."""
        out: dict[int, bytes] = {}
        at: dict[bytes, int] = {}
        prefix = f"{group}\0".encode()
        for entry in self._asked.scan(self._topic, self._partitions + partition, 0):
            if entry.key is None or not entry.key.startswith(prefix):
                continue
            if entry.value is None:
                out.pop(at.pop(entry.key, -1), None)
            else:
                out[entry.offset], at[entry.key] = entry.key, entry.offset
        return out

    def _stood(self, group: str, partition: int, own: _Own, offset: int) -> bool:
        """Look whether the snapshot at an offset counts; False while the servers do not answer.

        Raises:
            RetryLater: it does not, or the bus is closed.
        """
        try:
            self._still(group, partition, own, offset)
        except _Superseded:
            raise
        except RetryLater:
            if self._closed():
                raise
            return False
        return True

    def _still(self, group: str, partition: int, own: _Own, before: int | None) -> None:
        """Look whether a newer claim stands before an offset (None: the end).

        Raises:
            _Superseded: there is one. What is held is forgotten.
            RetryLater: the servers do not answer.
        """
        if before is not None and self._all_ours(partition, own.looked, before):
            own.looked = before + 1
            return
        claim = _key(_CLAIM, group)
        seen = own.looked
        for entry in self._asked.scan(self._topic, partition, own.looked, before):
            if entry.key == claim:
                self.release(group, [partition])
                raise _Superseded(f"partition {partition} of {group} went to another process")
            seen = entry.offset + 1
        own.looked = seen if before is None else before + 1

    def _all_ours(self, partition: int, since: int, until: int) -> bool:
        """Return whether this process itself wrote everything between two offsets: then nobody has claimed there."""
        with self._marks:
            ours = self._written[partition]
            return all(offset in ours for offset in range(since, until))

    def _mark(self, partition: int, offset: int) -> None:
        """Remember that a record is this process's own, as long as any of its groups may ask."""
        with self._marks:
            ours = self._written[partition]
            ours.add(offset)
            if len(ours) > _MARKS:
                looked = [own.looked for (_, p), own in self._own.copy().items() if p == partition]
                oldest = max(min(looked, default=offset), offset - _MARKS // 2)
                self._written[partition] = {one for one in ours if one >= oldest}

    # --------------------------------------------------------------------------------------- parts and chunks

    def _write(self, group: str, partition: int, own: _Own, delta: StateDelta) -> dict[str, Part]:
        """Write all parts in one append, and delete what is free: their order tells where the chunks of each stand."""
        items: list[Item] = []
        for name, data in delta.put.items():
            pieces = [data[at : at + CHUNK_BYTES] for at in range(0, len(data), CHUNK_BYTES)]
            items += [Item(piece, _chunk_key(group, own.epoch, own.number, name, n)) for n, piece in enumerate(pieces)]
        gone = [Item(None, key) for key in own.free]
        offsets = iter(self._put(self._partitions + partition, [*items, *gone]))
        own.free = []
        return {
            name: Part(own.epoch, own.number, len(data), tuple(islice(offsets, -(-len(data) // CHUNK_BYTES))))
            for name, data in delta.put.items()
        }

    def _values(self, partition: int, parts: dict[str, Part]) -> dict[str, bytes] | None:
        """Read all parts; None when a chunk is not there any more."""
        needed = sorted(offset for part in parts.values() for offset in part.offsets)
        values: dict[int, bytes] = {}
        at = 0
        while at < len(needed):
            # Chunks that were written together are read together; what lies between is passed over.
            last = at
            while last + 1 < len(needed) and needed[last + 1] - needed[last] <= 16:
                last += 1
            wanted = set(needed[at : last + 1])
            for entry in self._asked.scan(self._topic, self._partitions + partition, needed[at], needed[last] + 1):
                if entry.offset in wanted and entry.value is not None:
                    values[entry.offset] = entry.value
            at = last + 1
        if len(values) < len(needed):
            return None
        return {name: b"".join(values[offset] for offset in part.offsets) for name, part in parts.items()}

    def _set_free(self, group: str, partition: int, own: _Own, parts: dict[str, Part]) -> None:
        """Delete what was found lying, which the snapshot just written does not need; note what it replaced."""
        own.free += [
            _chunk_key(group, part.epoch, part.number, name, n)
            for name, part in parts.items()
            for n in range(len(part.offsets))
        ]
        self._put_later(self._partitions + partition, own.litter)
        self._put_later(partition, [_key(_SNAPSHOT, group, epoch) for epoch in own.older])
        own.litter, own.older = [], []

    def _put(self, partition: int, items: Sequence[Item]) -> list[int]:
        """Write, and wait for it as long as it takes."""
        while True:
            try:
                return self._producer().put(self._topic, partition, items, force=True).result()
            except TimeoutError as error:
                raise RetryLater("总线已关闭 / the bus is closed") from error
            except RetryLater:
                # Nothing was written. The caller has forgotten what changed, so it cannot come again with it.
                if self._closed():
                    raise
                threading.Event().wait(_PAUSE_S)

    def _put_later(self, partition: int, keys: Sequence[bytes]) -> None:
        """Delete keys without waiting: what stays by a crash is deleted by who claims next."""
        if keys:
            self._producer().put(self._topic, partition, [Item(None, key) for key in keys], force=True)


def _key(kind: str, group: str, epoch: int | None = None) -> bytes:
    return f"{kind}\0{group}\0{'' if epoch is None else epoch}".encode()


def _parse(key: bytes | None) -> tuple[str, str, int]:
    """Take a key of a claim or snapshot apart."""
    kind, _, rest = (key or b"").decode().partition("\0")
    group, _, epoch = rest.partition("\0")
    return kind, group, int(epoch or 0)


def _chunk_key(group: str, epoch: int, number: int, name: str, chunk: int) -> bytes:
    return f"{group}\0{epoch}\0{number}\0{name}\0{chunk}".encode()
