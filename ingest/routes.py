"""Routes: which topics are ours, and what a topic says about the sender.

A route's topic is written with named parts: ``qt/{network}/{device}/up``. ``{_}`` matches one level that says
nothing, a last ``{_*}`` all further levels. The first route that matches wins. Nothing here knows payloads.

A route is *private* for a message when it names a redactor, or when the message's network is declared private
in the catalogue: then nothing of the message may be stored before the redactor has seen it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ingest.privacy import REDACTORS
from qingtu.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from qingtu.settings import RouteSettings

CACHE_TOPICS: Final = 65_536
"""Topics remembered; when full the cache starts anew, so invented topics cannot grow memory."""
LONG_TOPIC: Final = 256
"""Bytes or characters of a topic beyond which it is not remembered: MQTT allows 65,535, which times all is 4 GB."""

_PART: Final = re.compile(r"\{([^{}]*)\}")
_PARTS: Final = ("network", "device", "_", "_*")


@dataclass(frozen=True, slots=True)
class Match:
    """What a topic says.

    Attributes:
        route: the route that takes the message.
        network: from the topic, else the route's own.
        device: never empty.
        private: nothing may be stored before the redactor has seen it.
        redactor: key in REDACTORS; None on a private match means that nobody can redact it: only length and
            keyed hash may be kept.
        public_levels: levels (by index) that may be stored as they are; None means all of them. The others
            were matched by ``{_}`` on a private route and may carry an identifier.
    """

    route: RouteSettings
    network: str
    device: str
    private: bool = False
    redactor: str | None = None
    public_levels: frozenset[int] | None = None


class RouteTable:
    """All routes, compiled. Immutable but for its cache; one thread matches at a time.

    Args:
        routes: in the order in which they are tried.
        private_networks: networks whose messages are private on every route.

    Raises:
        ConfigError: topics that cannot be compiled, or that no message ever reaches, all of them at once.
    """

    def __init__(self, routes: Iterable[RouteSettings], private_networks: frozenset[str] = frozenset()) -> None:
        self.routes = tuple(routes)
        self.private_networks = private_networks
        problems: list[Problem] = []
        self._compiled = [_compile(i, r, problems) for i, r in enumerate(self.routes)]
        problems.extend((*_overlapping(self.routes), *_hidden(self.routes)) if not problems else ())
        if problems:
            raise ConfigError(problems)
        self._cache: dict[str, Match | None] = {}

    def subscriptions(self) -> list[tuple[str, int]]:
        """Return (topic filter, QoS) to subscribe to, without filters that a wider one covers.

        A broker may send a message once for each overlapping subscription, and copies of a message that has no time
        of its own cannot be told from new ones. So no message may match two of our filters; filters that overlap
        without one covering the other are refused when the table is made.
        """
        wanted: dict[str, int] = {}
        for route in self.routes:
            topic_filter = filter_of(route.topic)
            wanted[topic_filter] = max(route.qos, wanted.get(topic_filter, 0))
        kept: dict[str, int] = {}
        for topic_filter in wanted:
            wider = [other for other in wanted if other != topic_filter and covers(other, topic_filter)]
            if not wider:
                covered = [qos for other, qos in wanted.items() if covers(topic_filter, other)]
                kept[topic_filter] = max(covered)
        return list(kept.items())

    def match(self, topic: str) -> Match | None:
        """Return what the topic says, or None when no route takes it."""
        try:
            return self._cache[topic]
        except KeyError:
            found = self._match(topic)
        if len(topic) > LONG_TOPIC:
            return found
        if len(self._cache) >= CACHE_TOPICS:
            self._cache.clear()
        self._cache[topic] = found
        return found

    def may_be_private(self, topic: str) -> bool:
        """Return whether a topic without a route looks like a private one: a slip must not leak identifiers.

        True when a level is the name of a private network or the topic begins as a private route's topic does.
        """
        levels = topic.split("/")
        if not self.private_networks.isdisjoint(levels):
            return True
        return any(c.begins_like(levels) for c in self._compiled if c.route.redact is not None)

    def _match(self, topic: str) -> Match | None:
        for compiled in self._compiled:
            found = compiled.pattern.fullmatch(topic)
            if found is None:
                continue
            parts = found.groupdict()
            route, network = compiled.route, parts.get("network", compiled.route.network or "")
            # The name of a private network on any level: swapped levels must not leak identifiers.
            named = {network, *topic.split("/")}
            private = route.redact is not None or not self.private_networks.isdisjoint(named)
            redactor = route.redact
            if redactor is None and private and route.decoder in REDACTORS:
                redactor = route.decoder
            levels = compiled.public_levels if private else None
            return Match(route, network, parts["device"], private, redactor, levels)
        return None


@dataclass(frozen=True, slots=True)
class _Compiled:
    route: RouteSettings
    pattern: re.Pattern[str]
    levels: tuple[str, ...]
    public_levels: frozenset[int] | None

    def begins_like(self, levels: list[str]) -> bool:
        fixed = self.levels[: next((i for i, p in enumerate(self.levels) if "{" in p), len(self.levels))]
        return tuple(levels[: len(fixed)]) == fixed


def filter_of(topic: str) -> str:
    """Return the MQTT topic filter that covers a route's topic.

    >>> filter_of("qt/{network}/{device}/up"), filter_of("a/{device}/{_*}")
    ('qt/+/+/up', 'a/+/#')
    """
    return _PART.sub(lambda part: "#" if part[1] == "_*" else "+", topic)


def _compile(index: int, route: RouteSettings, problems: list[Problem]) -> _Compiled:
    levels = tuple(route.topic.split("/"))
    wrong = list(_wrong(route, levels))
    problems += [Problem("settings", 0, f"routes.{index + 1}.{key}", value[:80], text) for key, value, text in wrong]
    if wrong:
        return _Compiled(route, re.compile("(?!)"), levels, None)
    pattern = "/".join(_level_pattern(level) for level in levels)
    if levels[-1] == "{_*}":  # as MQTT's #, which also matches its parent level
        pattern = pattern.removesuffix("/.*") + "(?:/.*)?"
    silent = [i for i, level in enumerate(levels) if level in {"{_}", "{_*}"}]
    public = frozenset(range(len(levels))) - frozenset(silent) if silent else None
    return _Compiled(route, re.compile(pattern, re.DOTALL), levels, public)


def _level_pattern(level: str) -> str:
    named = _PART.fullmatch(level)
    if named is None:
        return re.escape(level)
    return {"_": "[^/]*", "_*": ".*"}.get(named[1], f"(?P<{named[1]}>[^/]+)")


def _wrong(route: RouteSettings, levels: tuple[str, ...]) -> Iterable[tuple[str, str, str]]:
    """Yield (key, value, message) of everything wrong in one route."""
    names = _PART.findall(route.topic)
    for level in levels:
        if ("{" in level or "}" in level) and not _PART.fullmatch(level):
            yield "topic", route.topic, f"参数须占整级 / a named part must fill its whole level, '{level}' does not"
    for name in sorted(set(names) - set(_PARTS)):
        yield (
            "topic",
            route.topic,
            f"没有此参数 / no part is called {{{name}}} (allowed: {{network}} {{device}} {{_}} {{_*}})",
        )
    for name in ("network", "device", "_*"):
        if names.count(name) > 1:
            yield "topic", route.topic, f"只能出现一次 / {{{name}}} may stand only once"
    if "_*" in names and levels[-1] != "{_*}":
        yield "topic", route.topic, "须在末尾 / {_*} means all further levels and must stand last"
    if "network" not in names and not route.network:
        yield "network", repr(route.network), "须设置 network / the topic has no {network}, so network must be given"
    if route.redact is not None and route.redact not in REDACTORS:
        yield "redact", route.redact, f"没有此脱敏器 / no such redactor (allowed: {', '.join(sorted(REDACTORS))})"


def _overlapping(routes: Sequence[RouteSettings]) -> Iterable[Problem]:
    """Find routes whose filters share topics without one covering the other."""
    for i, route in enumerate(routes):
        for before in routes[:i]:
            one, other = filter_of(before.topic), filter_of(route.topic)
            if overlaps(one, other) and not covers(one, other) and not covers(other, one):
                yield Problem(
                    "settings", 0, f"routes.{i + 1}.topic", repr(route.topic),
                    f"主题部分重叠 / shares topics with route {before.name!r} ({before.topic}) without one holding all "
                    "of the other: the broker would send such a message twice; make one wider or both distinct",
                )  # fmt: skip


def _hidden(routes: Sequence[RouteSettings]) -> Iterable[Problem]:
    """Find routes that no topic reaches, because one before them takes all of theirs."""
    for i, route in enumerate(routes):
        before = next((one for one in routes[:i] if takes_all(one.topic, route.topic)), None)
        if before is not None:
            yield Problem(
                "settings", 0, f"routes.{i + 1}.topic", repr(route.topic),
                f"永远轮不到 / is never reached: route {before.name!r} ({before.topic}) stands before it and takes all "
                "of its topics; put the narrower one first, or drop one",
            )  # fmt: skip


def takes_all(wide: str, narrow: str) -> bool:
    """Say whether every topic that the route topic ``narrow`` matches is matched by ``wide`` as well.

    A level that ``{_}`` stands for may be empty, one that has a name may not.

    >>> takes_all("qt/{network}/{device}", "qt/home/{device}"), takes_all("a/{device}", "a/{_}")
    (True, False)
    """
    a, b = wide.split("/"), narrow.split("/")
    for i, level in enumerate(a):
        if level == "{_*}":
            return True
        if i >= len(b) or b[i] == "{_*}":
            return False
        named = level in ("{network}", "{device}")
        if not (level == "{_}" or (b[i] not in ("", "{_}") if named else b[i] == level)):
            return False
    return len(a) == len(b)


def covers(wide: str, narrow: str) -> bool:
    """Say whether every topic that matches ``narrow`` matches ``wide``.

    >>> covers("qt/+/+/up", "qt/home/+/up"), covers("qt/#", "qt/+/up"), covers("qt/+/a", "qt/b/+")
    (True, True, False)
    """
    a, b = wide.split("/"), narrow.split("/")
    for i, level in enumerate(a):
        if level == "#":
            return True
        if i >= len(b) or b[i] == "#" or (level not in ("+", b[i])):
            return False
    return len(a) == len(b)


def overlaps(one: str, other: str) -> bool:
    """Say whether some topic matches both filters.

    >>> overlaps("qt/+/a", "qt/b/+"), overlaps("qt/a", "qt/b")
    (True, False)
    """
    a, b = one.split("/"), other.split("/")
    for x, y in zip(a, b, strict=False):
        if "#" in (x, y):
            return True
        if x != y and "+" not in (x, y):
            return False
    return len(a) == len(b) or "#" in (a[-1], b[-1])
