"""What waits for a channel becomes messages: groups, digests after quiet hours, summaries of storms. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from qingtu.clock import SECOND
from sinks.notify.messages import ALERT, DIGEST, ESCALATION, GROUP, SUMMARY
from sinks.notify.routing import breaks_through, is_quiet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qingtu.settings_notify import ChannelSettings, NotifySettings


@dataclass(frozen=True, slots=True)
class Waiting:
    """A transition that waits to be told.

    Attributes:
        id: its place in the order in which transitions came.
        level: 1 to 4, the highest of the alert when it has ended.
        group: those with the same one become one message.
        at_us: since when it waits, clock of the stream.
        escalated: it is told because nobody acknowledged.
        held: it came in quiet hours.
        piled: it came in a storm.
    """

    id: int
    level: int
    group: str
    at_us: int
    escalated: bool = False
    held: bool = False
    piled: bool = False


@dataclass(slots=True)
class Plan:
    """What to do with what waits.

    Attributes:
        messages: kind and ids of each message to make now, in order.
        hold: ids that wait for the end of quiet hours from now on.
        pile: ids that wait for the summary of the storm from now on.
    """

    messages: list[tuple[str, list[int]]] = field(default_factory=list)
    hold: list[int] = field(default_factory=list)
    pile: list[int] = field(default_factory=list)


def plan(
    waiting: Sequence[Waiting],
    now_us: int,
    channel: ChannelSettings,
    settings: NotifySettings,
    made_us: Sequence[int],
    summary_us: int | None,
) -> Plan:
    """Decide; nothing is ever dropped: each id is in a message, or goes on waiting.

    Args:
        waiting: all that waits for the channel, in order.
        now_us: clock of the stream.
        channel: quiet hours and limits.
        settings: grouping and zone.
        made_us: when messages to this channel were made lately.
        summary_us: when its last summary was made; None: never.
    """
    out = Plan()
    rest = _quiet(waiting, now_us, channel, settings, out)
    pile = [one for one in rest if one.piled]
    fresh = [one for one in rest if not one.piled]
    if not pile:
        ripe = _ripe(fresh, now_us, settings.group_s * SECOND)
        since = now_us - channel.storm_s * SECOND
        room = max(0, channel.storm_limit - sum(at > since for at in made_us) - len(out.messages))
        told = sorted(ripe[:room], key=lambda group: group[0].id)  # the worst, in the order in which they came
        out.messages += [(_kind(group), [one.id for one in group]) for group in told]
        fresh = [one for group in ripe[room:] for one in group]
    if over := sorted([*pile, *fresh], key=lambda one: one.id):
        if summary_us is None or not 0 <= now_us - summary_us < channel.storm_s * SECOND:
            out.messages.append((SUMMARY, [one.id for one in over]))
        else:
            out.pile += [one.id for one in fresh]
    return out


def _quiet(
    waiting: Sequence[Waiting], now_us: int, channel: ChannelSettings, settings: NotifySettings, out: Plan
) -> list[Waiting]:
    """Hold back what came in quiet hours, or tell it when they are over; return the others."""
    others = [one for one in waiting if not one.held]
    if is_quiet(channel, settings.timezone, now_us):
        out.hold += [one.id for one in others if not breaks_through(channel, one.level)]
        return [one for one in others if breaks_through(channel, one.level)]
    if held := [one.id for one in waiting if one.held]:
        out.messages.append((DIGEST, held))
    return others


def _ripe(fresh: Sequence[Waiting], now_us: int, wait_us: int) -> list[list[Waiting]]:
    """Return the groups that need not wait any more, the highest level first, then the oldest."""
    groups: dict[tuple[bool, str], list[Waiting]] = {}
    for one in fresh:
        groups.setdefault((one.escalated, one.group or f"alone {one.id}"), []).append(one)
    ripe = [
        group
        for group in groups.values()
        if group[0].escalated or not group[0].group or now_us - min(one.at_us for one in group) >= wait_us
    ]
    return sorted(ripe, key=lambda group: (-max(one.level for one in group), group[0].id))


def _kind(group: Sequence[Waiting]) -> str:
    if group[0].escalated:
        return ESCALATION
    return ALERT if len(group) == 1 else GROUP
