"""Alert rules as they stand in a catalogue: one model a kind; docs/alerts.md says what each does.

``processors/alerts/`` has a file of the same name for each kind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal, Self

from pydantic import BeforeValidator, Field, TypeAdapter, model_validator

from qingtu.catalogue_limits import COMPARED
from qingtu.catalogue_words import (
    LEVELS,
    Channel,
    Domain,
    Id,
    Kind,
    Level,
    NoiseClass,
    Number,
    PropertyKey,
    Seconds,
    Strict,
    Text,
    WaterClass,
    Words,
    as_list,
    nearest,
    property_fault,
    refusal,
)
from qingtu.expressions import ExpressionError, compiled
from qingtu.properties import load_properties

if TYPE_CHECKING:
    from qingtu.catalogue_model import Station

What = Literal[
    "10min", "hour", "8h", "day", "month", "year", "hour_index", "day_index", "month_index", "neighbour"
]  # fmt: skip
"""Kinds of figures: levels of aggregates, indices made of them, and how far a station is from those around it."""
_INDEX_OF: Final[dict[What, str]] = {"hour_index": "hour", "day_index": "day", "month_index": "month"}
"""Level that an index is made of."""
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: Final[tuple[Day, ...]] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
Clock = Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Hold = Annotated[float, Field(ge=0, le=7 * 86400)]


class Where(Strict):
    """Which stations a rule is for: every key that is given must hold one of its words; none = all stations."""

    domain: Annotated[tuple[Domain, ...], BeforeValidator(as_list)] | None = None
    kind: Annotated[tuple[Kind, ...], BeforeValidator(as_list)] | None = None
    network: Words | None = None
    district: Words | None = None
    station: Words | None = None
    water_class: Annotated[tuple[WaterClass, ...], BeforeValidator(as_list)] | None = None
    noise_class: Annotated[tuple[NoiseClass, ...], BeforeValidator(as_list)] | None = None

    def covers(self, station: Station) -> bool:
        """Say whether the rule is for this station."""
        wanted = {
            "domain": self.domain, "kind": self.kind, "network": self.network, "district": self.district,
            "station": self.station, "water_class": self.water_class, "noise_class": self.noise_class,
        }  # fmt: skip
        own = {
            **{name: getattr(station, name) for name in wanted if name != "station"},
            "station": station.id,
        }
        return all(words is None or own[name] in words for name, words in wanted.items())


class Schedule(Strict):
    """When a rule holds, in the station's zone.

    ``start`` is inclusive, ``end`` exclusive; an end that is not after the start lies on the next day. ``days`` are
    those on which the window begins.
    """

    days: Annotated[tuple[Day, ...], BeforeValidator(as_list), Field(min_length=1)] = DAYS
    start: Clock = "00:00"
    end: Clock = "00:00"


class BaseRule(Strict):
    """What all rules have."""

    WHOLE: ClassVar[tuple[str, ...]] = ()
    """Keys that must be right before :meth:`fault` can be asked."""

    id: Id
    zh: Text
    en: Text
    where: Where = Where()
    schedule: Schedule | None = None

    @model_validator(mode="after")
    def _judged(self) -> Self:
        if fault := self.fault():
            raise refusal("bad_rule", fault[1], fault[0])
        return self

    def fault(self) -> tuple[str, str] | None:
        """Return the key whose value does not go with the others ("": the rule itself), and what is wrong with it."""
        return None


class OneLevel(BaseRule):
    """A rule that holds or does not."""

    level: Level = "yellow"


class Levelled(BaseRule):
    """A rule with levels that are reached when met exactly, left with hysteresis, and may have to be held.

    It holds for ``hold_s`` seconds of event time before it opens; standing and not acknowledged, it says so again
    every ``renotify_s``.
    """

    WHOLE: ClassVar[tuple[str, ...]] = ("levels",)

    levels: dict[Level, Number] = Field(min_length=1)
    hysteresis: NotNegative = 0.0
    hold_s: Hold = 0.0
    renotify_s: Seconds | None = None

    def falling(self) -> bool:
        """Return whether the levels go down as they become worse."""
        return False

    def fault(self) -> tuple[str, str] | None:
        """Say when levels do not rise."""
        values = [self.levels[level] for level in LEVELS if level in self.levels]
        if values == sorted(set(values), reverse=self.falling()):
            return None
        zh, order = ("递减", "fall") if self.falling() else ("递增", "rise")
        return "levels", f"由 blue 至 red 须{zh} / levels must {order} from blue to red"


class ThresholdRule(Levelled):
    """An alert while a value is beyond a level, in the property's canonical unit."""

    WHOLE: ClassVar[tuple[str, ...]] = ("direction", "levels")

    kind: Literal["threshold"]
    property: PropertyKey
    channel: Channel = "main"
    direction: Literal["above", "below"] = "above"

    def falling(self) -> bool:
        """Below means smaller is worse."""
        return self.direction == "below"

    def fault(self) -> tuple[str, str] | None:
        """Say when levels do not go the way of the direction."""
        found = super().fault()
        return found and (found[0], f"{found[1]} when the direction is {self.direction}")


class RateOfChangeRule(Levelled):
    """An alert while a value changes faster than a level, in canonical unit per hour, over the last ``over_s``."""

    kind: Literal["rate_of_change"]
    property: PropertyKey
    channel: Channel = "main"
    direction: Literal["rise", "fall", "either"] = "either"
    levels: dict[Level, Positive] = Field(min_length=1)
    over_s: Annotated[float, Field(ge=60, le=86400)] = 3600.0


class StuckRule(OneLevel):
    """An alert when a value has not left a band of ``tolerance`` for ``for_s``, in at least ``readings`` readings.

    At the values ``normal`` it may stand still: no rain, no wind.
    """

    kind: Literal["stuck"]
    property: PropertyKey
    channel: Channel = "main"
    tolerance: NotNegative = 0.0
    for_s: Seconds
    readings: Annotated[int, Field(ge=2, le=10_000)] = 6
    normal: tuple[Number, ...] = ()
    renotify_s: Seconds | None = None


class QualityRule(Levelled):
    """An alert while the share of readings flagged 3, 4 or 9 among the last ``readings``, or of ``span_s``, is high."""

    WHOLE: ClassVar[tuple[str, ...]] = ("levels", "readings", "span_s")

    kind: Literal["quality"]
    property: PropertyKey | None = None
    channel: Channel | None = None
    levels: dict[Level, Annotated[float, Field(gt=0, le=1)]] = Field(min_length=1)
    readings: Annotated[int, Field(ge=2, le=64)] | None = None
    span_s: Seconds | None = None

    def fault(self) -> tuple[str, str] | None:
        """Say when it is not clear over what the share is taken."""
        if (self.readings is None) == (self.span_s is None):
            return "", "须且只能有其一 / needs exactly one of readings and span_s"
        return super().fault()


class DeviationRule(Levelled):
    """An alert while a value is so many spreads away from what the same hour of past days had.

    ``least`` is the smallest difference that counts, in canonical unit; nothing is judged before ``min_days`` days of
    that hour are known; older ones than ``days`` fade.
    """

    WHOLE: ClassVar[tuple[str, ...]] = ("levels", "min_days", "days")

    kind: Literal["deviation"]
    property: PropertyKey
    channel: Channel = "main"
    direction: Literal["above", "below", "either"] = "either"
    levels: dict[Level, Positive] = Field(min_length=1)
    least: Positive
    min_days: Annotated[int, Field(ge=3, le=60)] = 7
    days: Annotated[int, Field(ge=3, le=366)] = 28

    def fault(self) -> tuple[str, str] | None:
        """Say when more days are wanted than are remembered."""
        if self.min_days > self.days:
            return "min_days", f"不得大于 days / must not be greater than days, {self.days}"
        return super().fault()


class FigureRule(Levelled):
    """An alert while a figure, such as an hour mean, a day value or an index, is beyond a level.

    A figure that does not hold (``valid`` is false) raises and ends nothing. A figure is of a whole period and told
    once: it has neither a schedule, nor is it held or said again. ``property`` is that of the figure; of an index its
    key.
    """

    WHOLE: ClassVar[tuple[str, ...]] = ("what", "property", "direction", "levels")

    kind: Literal["figure"]
    what: What
    property: Annotated[str, Field(min_length=1)]
    channel: Channel = "main"
    direction: Literal["above", "below"] = "above"

    def falling(self) -> bool:
        """Below means smaller is worse."""
        return self.direction == "below"

    def fault(self) -> tuple[str, str] | None:
        """Say when nothing makes such figures, levels go the wrong way, or a key is set that figures do not know."""
        if text := _index_fault(self.what, self.property) if self.what in _INDEX_OF else property_fault(self.property):
            return "property", text
        if self.what == "neighbour" and load_properties()[self.property].agg not in COMPARED:
            return "property", "此要素不能取平均 / has no mean to compare with that of the stations around"
        for key in ("schedule", "hold_s", "renotify_s"):
            if getattr(self, key, None):
                return key, "不适用于统计值 / does not apply to figures: leave it out"
        return super().fault()


def _index_fault(what: What, key: str) -> str:
    """Return what is wrong with the key of an index, "" when it is made of such periods."""
    from processors.indices import INDICES  # noqa: PLC0415 - few catalogues name one, and it reads many tables

    made = [index.key for index in INDICES.values() if _INDEX_OF[what] in index.periods]
    if key in made:
        return ""
    return f"不是 {what} 的指数 / is not an index of {what}{nearest(key, made)}; there are {', '.join(made)}"


class ExpressionRule(OneLevel):
    """An alert while a CEL expression over the newest readings of a station is true."""

    WHOLE: ClassVar[tuple[str, ...]] = ("when",)

    kind: Literal["expression"]
    when: Annotated[str, Field(min_length=1, max_length=2000)]
    hold_s: Hold = 0.0
    renotify_s: Seconds | None = None
    max_age_s: Seconds = 3600.0

    def fault(self) -> tuple[str, str] | None:
        """Say when it cannot be compiled or names what there is not."""
        try:
            compiled(self.when)
        except ExpressionError as error:
            return "when", str(error)
        return None


class ClockWrongRule(OneLevel):
    """An alert while a device of the station claims impossible times, after ``after_s`` seconds of it."""

    kind: Literal["clock_wrong"]
    after_s: Hold = 0.0


class SilenceRule(OneLevel):
    """An alert when nothing was heard of a station for so many of its intervals, or so many seconds."""

    WHOLE: ClassVar[tuple[str, ...]] = ("after_intervals", "after_s")

    kind: Literal["silence"]
    after_intervals: Annotated[float, Field(gt=0)] | None = None
    after_s: Seconds | None = None

    def fault(self) -> tuple[str, str] | None:
        """Say when it is not clear after how long."""
        if (self.after_intervals is None) != (self.after_s is None):
            return None
        return "", "须且只能有其一 / needs exactly one of after_intervals and after_s"


class LinkRule(OneLevel):
    """An alert when a route was not heard, or not without backlog, for ``after_s``: one for each route."""

    kind: Literal["link"]
    after_s: Seconds = 300.0

    def fault(self) -> tuple[str, str] | None:
        """Say when it has hours, which are those of a station."""
        return _no_schedule(self)


class NetworkRule(OneLevel):
    """An alert when most stations of a network fell silent at about the same time: one for each network.

    Silent means ``after_intervals`` of a station's longest interval. A network is dead when at least ``least`` stations
    and the share ``share`` of those that lived until then, may have died at one moment, by when they were last heard,
    their interval and ``together_s``. Own silence alerts wait ``grace_s`` while it may come, and when it has ended.
    """

    kind: Literal["network"]
    after_intervals: Annotated[float, Field(ge=1, le=1000)] = 3.0
    share: Annotated[float, Field(gt=0, le=1)] = 0.8
    least: Annotated[int, Field(ge=2, le=100_000)] = 3
    together_s: Hold = 60.0
    grace_s: Seconds = 300.0

    def fault(self) -> tuple[str, str] | None:
        """Say when it has hours, which are those of a station."""
        return _no_schedule(self)


def _no_schedule(rule: BaseRule) -> tuple[str, str] | None:
    if rule.schedule is None:
        return None
    return "schedule", "不适用于链路和网络 / does not apply to links and networks: leave it out"


class SituationRule(BaseRule):
    """One alert for several of one place and time: those of ``rules``, or on ``properties``, at ``where``.

    It opens when alerts of so many ``stations`` opened within ``within_s`` at one ``place``: stations of one district,
    of one network, within ``radius_km`` of the first, or ``downstream``: an alert of ``then`` at a station below one of
    ``rules``, at most ``early_s`` before it. Its level is ``level``, or that of the highest alert in it; it is over
    when all of them ended ``clear_s`` ago.
    """

    WHOLE: ClassVar[tuple[str, ...]] = ("rules", "properties", "then", "place", "radius_km", "early_s")

    kind: Literal["situation"]
    rules: Annotated[Words, Field(min_length=1)] | None = None
    properties: Annotated[tuple[PropertyKey, ...], BeforeValidator(as_list), Field(min_length=1)] | None = None
    then: Annotated[Words, Field(min_length=1)] | None = None
    place: Literal["district", "network", "radius", "downstream"]
    radius_km: Annotated[float, Field(gt=0, le=1000)] | None = None
    stations: Annotated[int, Field(ge=2, le=1000)] = 2
    within_s: Seconds
    early_s: Hold = 0.0
    clear_s: Hold = 1800.0
    level: Level | None = None

    def fault(self) -> tuple[str, str] | None:
        """Say when it is not clear which alerts count, or a key belongs to another place."""
        if self.rules is None and self.properties is None:
            return "", "须有 rules 或 properties / needs `rules` or `properties`"
        if self.schedule is not None:
            return "schedule", "不适用于情形 / does not apply to situations: leave it out"
        owner = {"radius_km": "radius", "then": "downstream", "early_s": "downstream"}
        for key, place in owner.items():
            if getattr(self, key) and self.place != place:
                return key, f"仅用于 place: {place} / is for place: {place} alone"
        for key in ("radius_km", "then"):
            if self.place == owner[key] and getattr(self, key) is None:
                return "", f"须有 {key} / place: {self.place} needs `{key}`"
        return None


class SystemRule(Levelled):
    """An alert while a fact that the service tells of itself is at or beyond a level; of no station.

    ``ledger_off``: messages and readings by which the ledger does not balance. ``outage_used``: of the outage budget,
    in percent. ``store_behind``: seconds that the store is behind.
    """

    kind: Literal["system"]
    fact: Literal["ledger_off", "outage_used", "store_behind"]
    levels: dict[Level, Positive] = Field(min_length=1)

    def fault(self) -> tuple[str, str] | None:
        """Say when a key is set that belongs to stations."""
        if self.schedule is not None:
            return "schedule", "不适用于系统规则 / does not apply to the system: leave it out"
        if self.where != Where():
            return "where", "系统规则不分站点 / the system is not at a station: leave it out"
        return super().fault()


AnyRule = (
    ThresholdRule
    | RateOfChangeRule
    | StuckRule
    | QualityRule
    | DeviationRule
    | FigureRule
    | ExpressionRule
    | ClockWrongRule
    | LinkRule
    | NetworkRule
    | SilenceRule
    | SituationRule
    | SystemRule
)
Rule = Annotated[AnyRule, Field(discriminator="kind")]
RULE: TypeAdapter[AnyRule] = TypeAdapter(Rule)
RULE_MODELS: Final[dict[str, type[BaseRule]]] = {
    "threshold": ThresholdRule,
    "rate_of_change": RateOfChangeRule,
    "stuck": StuckRule,
    "quality": QualityRule,
    "deviation": DeviationRule,
    "figure": FigureRule,
    "expression": ExpressionRule,
    "clock_wrong": ClockWrongRule,
    "link": LinkRule,
    "network": NetworkRule,
    "silence": SilenceRule,
    "situation": SituationRule,
    "system": SystemRule,
}
"""By kind."""
