"""What the API answers, as models: they make ``/openapi.json``, and tests hold every answer against them.

Answers are written straight from arrays (:func:`web.context.answer`), many times faster than through a model; so
the models stand in ``responses=`` and check nothing at run time.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Words(_Answer):
    """A name in both languages."""

    zh: str
    en: str


class Error(_Answer):
    """What is wrong, for programs and for people."""

    class Said(_Answer):
        """The error itself; ``fields`` with 422, ``problems`` with 409 of a reload."""

        code: str
        zh: str
        en: str
        fields: list[dict[str, Any]] | None = None
        problems: list[dict[str, Any]] | None = None

    error: Said


# ------------------------------------------------------------------------------------------------------ catalogue


class PropertyWords(Words):
    """An observed property."""

    unit: str
    unit_label: str
    precision: float | None
    domain: str


class Keyed(Words):
    """A name with its key."""

    key: str


class Level(Keyed):
    """An alert level."""

    n: int


class Advice(Words):
    """A reason code."""

    advice_zh: str
    advice_en: str


class NetworkWords(Words):
    """A network."""

    private: bool


class Catalogue(_Answer):
    """What codes mean."""

    version: str
    demonstration: bool
    domains: list[Keyed]
    properties: dict[str, PropertyWords]
    tests: dict[str, Keyed]
    flags: dict[str, Words]
    levels: list[Level]
    reasons: dict[str, Advice]
    networks: dict[str, NetworkWords]


class Headline(_Answer):
    """The value that stands for a station."""

    property: str
    value: float | None
    unit_label: str
    flag: int
    time_ms: int


class StationProperties(_Answer):
    """A station: what the catalogue says, and how it is."""

    id: str
    zh: str
    en: str
    domain: str
    kind: str
    network: str
    district: str | None
    district_zh: str | None
    district_en: str | None
    street: str | None
    community: str | None
    interval_s: float
    timezone: str
    datum: str | None
    water_class: str | None
    noise_class: str | None
    attributes: dict[str, str | bool | int | float]
    state: Literal["maintenance", "link_down", "unheard", "gateway_down", "silent", "clock_wrong", "failing", "ok"]
    state_since_ms: int | None
    state_by: str | None
    heard_ms: int | None
    alert_level: int
    unacknowledged: bool
    headline: Headline | None


class Point(_Answer):
    """WGS84, longitude first."""

    type: Literal["Point"]
    coordinates: tuple[float, float]


class Feature(_Answer):
    """One station."""

    type: Literal["Feature"]
    id: str
    geometry: Point
    properties: StationProperties


class Stations(_Answer):
    """All stations, RFC 7946."""

    type: Literal["FeatureCollection"]
    features: list[Feature]


class Reloaded(_Answer):
    """The catalogue that is used from the next message on."""

    catalogue: str
    changed: bool


# ------------------------------------------------------------------------------------------------------- readings


class Latest(_Answer):
    """Rows under column names: station, property, channel, time_ms, value, flag, tests."""

    now_ms: int
    columns: list[str]
    rows: list[tuple[str, str, str, int, float | None, int, int]]


class Limit(_Answer):
    """A level of a rule."""

    rule: str
    name_zh: str
    name_en: str
    value: float
    level: int
    direction: Literal["above", "below"]


class Series(_Answer):
    """Readings of one series in columns of equal length, in order of time."""

    station: str
    property: str
    channel: str
    unit: str
    unit_label: str
    times_ms: list[int]
    values: list[float | None]
    flags: list[int]
    tests: list[int]
    revisions: list[str]
    known_ms: list[int]
    limits: list[Limit]
    truncated: bool


class Figure(_Answer):
    """One statistic of a period."""

    what: str
    start_ms: int
    value: float | None
    count: int
    expected: int
    valid: bool
    reason: str
    stats: dict[str, float | str | None]
    revision: str
    known_ms: int


class Figures(_Answer):
    """Figures of one series."""

    station: str
    property: str
    channel: str
    rows: list[Figure]


class Published(_Answer):
    """One side of a correction."""

    value: float | None
    count: int
    expected: int | None
    valid: bool
    reason: str | None
    stats: dict[str, float | None]
    revision: str
    known_ms: int


class IndexLevel(_Answer):
    """A class or level by its standard."""

    level: int
    zh: str
    en: str
    colour: str


class AreaIndex(_Answer):
    """An index of an area; ``level`` is none where there is no value, ``primary`` are properties."""

    property: str
    zh: str
    en: str
    what: str
    start_ms: int
    value: float | None
    valid: bool
    reason: str | None
    primary: list[str]
    level: IndexLevel | None


class Area(_Answer):
    """A district or city, and its newest indices."""

    area: str
    zh: str
    en: str
    stations: list[str]
    indices: list[AreaIndex]


class Areas(_Answer):
    """Areas in order of their codes."""

    areas: list[Area]


class CorrectionCause(_Answer):
    """A raw row that changed a reading: its position in the station's partition, and which reading."""

    station: str
    position: str
    property: str
    time_ms: int


class FigureCorrection(_Answer):
    """A published figure that changed."""

    what: str
    station: str
    property: str
    channel: str
    start_ms: int
    old: Published
    new: Published
    causes: int
    because: list[CorrectionCause]


class FigureCorrections(_Answer):
    """Corrections of figures, newest first."""

    corrections: list[FigureCorrection]


class Event(_Answer):
    """Something that happened."""

    station: str
    kind: str
    level: int
    time_ms: int
    attributes: dict[str, Any]
    revision: str
    known_ms: int


class Events(_Answer):
    """Events, newest first."""

    events: list[Event]


# --------------------------------------------------------------------------------------------------------- alerts


class MuteInForce(_Answer):
    """What is muted: all words that are not empty must fit; until when, by whom, why."""

    station: str
    district: str
    rule: str
    until_ms: int
    who: str
    note: str


class MaintenanceInForce(_Answer):
    """Which station is worked on, or will be by plan; ``who`` is "" when it stands in the catalogue."""

    station: str
    from_ms: int
    until_ms: int
    who: str
    note: str


class Quiet(_Answer):
    """What people have switched off."""

    now_ms: int
    mutes: list[MuteInForce]
    maintenance: list[MaintenanceInForce]


class Alert(_Answer):
    """An alert as its last transition left it."""

    id: str
    rule: str
    rule_zh: str
    rule_en: str
    station: str
    property: str | None
    channel: str | None
    level: int
    level_key: str
    top_level: int
    state: str
    opened_ms: int
    changed_ms: int
    value: float | None
    limit: float | None
    unit_label: str
    who: str
    note: str
    evidence: dict[str, Any]


class Alerts(_Answer):
    """Alerts, unacknowledged and highest first."""

    now_ms: int
    alerts: list[Alert]


class Transition(_Answer):
    """One step of an alert's life."""

    state: str
    level: int
    time_ms: int
    known_ms: int
    value: float | None
    limit: float | None
    revision: str
    who: str
    note: str


class AlertLife(Alert):
    """An alert with all of its transitions, oldest first."""

    transitions: list[Transition]


class Acted(_Answer):
    """The command is durable."""

    position: str
    who: str


class Done(_Answer):
    """The command is durable and holds until then."""

    until_ms: int
    who: str


# ----------------------------------------------------------------------------------------------------- quarantine


class ReasonCount(_Answer):
    """How many messages are in quarantine for a reason."""

    reason: str
    stage: str
    count: int


class ExpiredCount(ReasonCount):
    """How many messages left quarantine because of their age, all received before ``until_ms``."""

    until_ms: int


class Redriven(_Answer):
    """What became of a message that left quarantine."""

    outcome: str
    position: str


class Rejected(_Answer):
    """A message that could not be used."""

    id: str
    received_ms: int
    network: str | None
    device: str | None
    topic: str | None
    stage: str
    reason: str
    detail: str
    size: int
    redriven: Redriven | None


class Quarantine(_Answer):
    """The quarantine."""

    counts: list[ReasonCount]
    rows: list[Rejected]
    expired: list[ExpiredCount]


class RefusedBefore(_Answer):
    """Why a message was refused before it was driven again."""

    stage: str
    reason: str
    detail: str
    reason_zh: str
    reason_en: str


class RejectedMessage(Rejected):
    """A message with its bytes. ``withheld``: it came from a private network, and nobody known asks."""

    reason_zh: str
    reason_en: str
    advice_zh: str
    advice_en: str
    payload_text: str | None
    payload_hex: str | None
    withheld: bool
    payload_size: int
    payload_kept: int
    sha256: str | None
    qos: int
    retained: bool
    route: str | None
    before: list[RefusedBefore]


class Count(_Answer):
    """How many."""

    count: int


# -------------------------------------------------------------------------------------------------------- service


class Messages(_Answer):
    """Where messages are."""

    received: int
    stored: int
    duplicate: int
    quarantined: int
    ignored: int
    in_flight: int


class Readings(_Answer):
    """What became of decoded readings."""

    decoded: int
    stored: int
    revised: int
    repeated: int
    duplicate: int
    quarantined: int


class LedgerRow(Messages):
    """The ledger of a network and hour of receipt."""

    network: str
    hour_ms: int
    balanced: bool
    readings: Readings


class Ledger(_Answer):
    """The ledger, in sum and by network and hour."""

    balanced: bool
    messages: Messages
    readings: Readings
    reflagged: int
    redriven: int
    by: list[LedgerRow]
    raw_end: list[int]


class Check(_Answer):
    """One recount."""

    name: str
    counted: int
    booked: int
    agrees: bool


class Audit(_Answer):
    """Everything recounted, beside the ledger that was checked."""

    ledger: dict[str, Any]
    agrees: bool
    checks: list[Check]


class ExplainedReading(_Answer):
    """The reading that is explained."""

    station: str
    property: str
    channel: str
    time_ms: int
    value: float | None
    flag: int
    tests: int
    revision: str


class Step(Words):
    """One step on the way of a value; ``data`` depends on the step."""

    step: str
    data: dict[str, Any]


class Explanation(_Answer):
    """Why a reading is what it is."""

    found: bool
    reading: ExplainedReading | None
    steps: list[Step]


class Backup(_Answer):
    """A back-up that was made."""

    folder: str
    name: str
    files: list[str]
    bytes: int


class Broker(Words):
    """Which broker."""

    kind: str


class StageStatus(_Answer):
    """How far a stage is."""

    name: str
    lag_frames: int
    last_ms: int | None


class LedgerSum(Messages):
    """The ledger's sum."""

    balanced: bool


class OutageBound(_Answer):
    """One thing that ends how long an outage may last; ``seconds`` is null when endless or not known."""

    key: str
    side: Literal["broker", "bus"]
    seconds: float | None
    known: bool
    zh: str
    en: str


class Outage(_Answer):
    """How long what is away may stay away before messages are lost, and how much of it is used up (0 to 1)."""

    seconds: float | None
    smallest: str | None
    used: float
    used_of: str | None
    away_s: float
    behind_s: float
    rate_per_s: float
    bounds: list[OutageBound]


class Status(_Answer):
    """How the service is."""

    state: Literal["ok", "degraded", "starting"]
    since_ms: int
    now_ms: int
    problems: list[Keyed]
    rate_per_s: float
    latency_p99_ms: float | None
    broker: Broker
    in_flight: int
    quarantined: int
    catalogue: str
    version: str
    started_ms: int
    ledger: LedgerSum
    demonstration: bool
    stages: list[StageStatus]
    streams_open: int
    outage: Outage


def told(model: type[BaseModel], status: int = 200) -> dict[int | str, dict[str, Any]]:
    """Return ``responses=`` of an address that answers with a model, and with an error else."""
    return {status: {"model": model}, "4XX": {"model": Error}, "5XX": {"model": Error}}


def sent(*kinds: str) -> dict[int | str, dict[str, Any]]:
    """Return ``responses=`` of an address that answers with something else than JSON."""
    text = {"schema": {"type": "string"}}
    return {200: {"content": dict.fromkeys(kinds, text)}, "4XX": {"model": Error}, "5XX": {"model": Error}}
