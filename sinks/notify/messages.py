"""What is sent: one message about one or many transitions, as it stands in the delivery book."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import orjson

if TYPE_CHECKING:
    from collections.abc import Sequence

ALERT, GROUP, ESCALATION, DIGEST, SUMMARY, TEST = "alert", "group", "escalation", "digest", "summary", "test"
KINDS: Final = (ALERT, GROUP, ESCALATION, DIGEST, SUMMARY, TEST)
"""One transition; several of one group; one that nobody acknowledged; quiet hours; a storm; by hand."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message to one channel; once made it never changes, however often it is sent.

    Attributes:
        id: 24 hex digits of a hash over channel, kind and transitions: a receiver knows a repetition by it.
        kind: of :data:`KINDS`.
        channel: name of the channel.
        made_us: clock of the stream when it was made, µs UTC.
        level: highest level in it, 1 to 4; 0 for a test.
        count: of the transitions in it.
        title_zh: one line, free of control characters.
        title_en: the same in English.
        text_zh: lines.
        text_en: the same in English.
        alerts: the worst transitions as plain data, at most :data:`sinks.notify.templates.LISTED`.
    """

    id: str
    kind: str
    channel: str
    made_us: int
    level: int
    count: int
    title_zh: str
    title_en: str
    text_zh: str
    text_en: str
    alerts: list[dict[str, Any]]

    def to_json(self) -> str:
        """Write it for the book."""
        return orjson.dumps(asdict(self)).decode()

    @classmethod
    def from_json(cls, text: str) -> Message:
        """Read what :meth:`to_json` wrote."""
        return cls(**orjson.loads(text))

    def title(self, language: str) -> str:
        """Return the title in ``zh``, ``en`` or ``both``."""
        return {"zh": self.title_zh, "en": self.title_en}.get(language, f"{self.title_zh} / {self.title_en}")

    def text(self, language: str) -> str:
        """Return the lines in ``zh``, ``en`` or ``both``, Chinese first."""
        return {"zh": self.text_zh, "en": self.text_en}.get(language, f"{self.text_zh}\n\n{self.text_en}")


def ident(channel: str, kind: str, keys: Sequence[Sequence[str | int]]) -> str:
    """Return the id of a message about transitions with these keys (alert, state, level, time)."""
    return hashlib.sha256(orjson.dumps([channel, kind, sorted(map(list, keys))])).hexdigest()[:24]
