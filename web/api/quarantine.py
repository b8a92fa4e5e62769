"""What could not be used: look at it, mend the catalogue, drive it again."""

import difflib
import re
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator

from qingtu.clock import DAY
from qingtu.records import MessageFlag, Outcome
from qingtu.store.contract import PrimaryStore
from web import words
from web.api import answers
from web.api.answers import told
from web.context import Ctx, Person, answer, is_private, known_person
from web.guard import ApiError

router = APIRouter(prefix="/api/quarantine", tags=["quarantine"])
_SHOWN: Final = 64 * 1024
_ID: Final = re.compile(r"(\d{1,6}):(\d{1,18})")
_YEAR_S: Final = 400 * 86_400


class Redrive(BaseModel):
    """What to drive again: these, or those with a reason, or all. One of the three must be said."""

    model_config = ConfigDict(extra="forbid")
    ids: list[str] | None = Field(None, max_length=10_000, description="ids as the list gives them")
    reason: str | None = Field(None, max_length=64, description="only with this reason code")
    all: bool = Field(False, description="everything that is in quarantine")
    shift_s: float = Field(0, ge=-_YEAR_S, le=_YEAR_S, allow_inf_nan=False, description="added to claimed times")

    @model_validator(mode="after")
    def _says_what(self) -> "Redrive":
        if self.all == (self.ids is not None or self.reason is not None):
            raise ValueError("say what: ids or reason, or all: true / 请给出 ids 或 reason, 或 all: true")
        return self


@router.get("", response_class=Response, responses=told(answers.Quarantine))
def quarantine(
    request: Request,
    context: Ctx,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 200,
    reason: Annotated[str | None, Query(max_length=64)] = None,
) -> Response:
    """How many messages are in quarantine by reason, and the newest of them, with what became of them.

    The reason of a message that was driven again and refused again is its newest one, in counts and rows.
    ``expired`` counts those that left it because of their age.
    """
    store = context.service.store
    _check_reason(store, reason)
    shown: dict[str, dict[str, Any]] = {}
    for row in store.quarantine(reason=reason, limit=limit):
        shown.setdefault(_ident(row), _row(row))  # once, though two stages refused it
    expired = [
        {**{name: row[name] for name in ("reason", "stage", "count")}, "until_ms": (row["last_day"] + 1) * DAY // 1000}
        for row in store.quarantine_expired()
    ]
    return answer(request, {"counts": store.quarantine_counts(), "rows": list(shown.values()), "expired": expired})


@router.post("/redrive", status_code=202, response_class=Response, responses=told(answers.Count, 202))
def redrive(request: Request, context: Ctx, person: Person, body: Redrive) -> Response:
    """Send messages of the quarantine through the pass again, with the catalogue as it is now."""
    _check_reason(context.service.store, body.reason)
    ids = None if body.ids is None else [_parse(ident) for ident in body.ids]
    count = context.service.redrive(ids, person, reason=body.reason, shift_s=body.shift_s)
    return answer(request, {"count": count}, 202)


@router.get("/{ident}", response_class=Response, responses=told(answers.RejectedMessage))
def message(request: Request, context: Ctx, ident: str) -> Response:
    """One message with its bytes as text and hex, why it was refused, and what to do about it.

    ``before`` tells what it was refused for before it was driven again, newest first. The id may be that of a row that
    drove it again, too.
    The bytes of a private network's message are for those who have a token: ``withheld`` says that they are kept back.
    """
    rows = context.service.store.refusals_of(_parse(ident))
    if not rows:
        raise ApiError(404, "unknown_message", "隔离区没有这条报文", "this message is not in quarantine")
    row = rows[0]
    payload: bytes = row["payload"] or b""
    withheld = is_private(context, row["network"], row["topic"]) and known_person(request, context) is None
    zh, en, advice_zh, advice_en = words.REASONS.get(row["reason"], (row["reason"], row["reason"], "", ""))
    flags = MessageFlag(row["flags"])
    data = {
        **_row(row),
        "reason_zh": zh,
        "reason_en": en,
        "advice_zh": advice_zh,
        "advice_en": advice_en,
        "payload_text": None if withheld else payload[:_SHOWN].decode("utf-8", "backslashreplace"),
        "payload_hex": None if withheld else payload[:_SHOWN].hex(),
        "withheld": withheld,
        "payload_size": row["size"],
        "payload_kept": len(payload),
        "sha256": row["digest"].hex() if row["digest"] else None,
        "qos": int(flags & MessageFlag.QOS),
        "retained": bool(flags & MessageFlag.RETAIN),
        "route": row["route"],
        "before": [_before(old) for old in rows if old["position"] < row["position"]],
    }
    return answer(request, data)


def _check_reason(store: PrimaryStore, reason: str | None) -> None:
    """Refuse a reason code that neither this program knows nor any message in quarantine has."""
    if reason is None or reason in words.REASONS:
        return
    known = sorted({*words.REASONS, *(row["reason"] for row in store.quarantine_counts())})
    if reason not in known:
        near = difflib.get_close_matches(reason, known, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        allowed = ", ".join(known)
        raise ApiError(
            422, "unknown_reason", f"没有原因码 {reason[:64]!r}",
            f"there is no reason code {reason[:64]!r}{hint} (allowed: {allowed})",
        )  # fmt: skip


def _ident(row: dict[str, Any]) -> str:
    first = row["position"] if row["redrive_of"] is None else row["redrive_of"]
    return f"{row['partition']}:{first}"


def _parse(ident: str) -> tuple[int, int]:
    found = _ID.fullmatch(ident)
    if found is None:
        raise ApiError(404, "unknown_message", "编号应为 分区:位置", "an id is partition:position")
    return int(found[1]), int(found[2])


def _before(row: dict[str, Any]) -> dict[str, Any]:
    zh, en, *_ = words.REASONS.get(row["reason"], (row["reason"], row["reason"]))
    return {**{name: row[name] for name in ("stage", "reason", "detail")}, "reason_zh": zh, "reason_en": en}


def _row(row: dict[str, Any]) -> dict[str, Any]:
    left = row["outcome"] not in (None, Outcome.QUARANTINED)
    return {
        "id": _ident(row),
        "received_ms": row["received_at"] // 1000,
        "network": row["network"] or None,
        "device": row["device"] or None,
        "topic": row["topic"],
        "stage": row["stage"],
        "reason": row["reason"],
        "detail": row["detail"],
        "size": row["size"],
        "redriven": {"outcome": Outcome(row["outcome"]).name.lower(), "position": str(row["moved_by"])}
        if left
        else None,
    }
