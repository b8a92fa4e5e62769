"""``qingtu rejected``: what could not be used, why, and driving it again once the reason is mended."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qingtu.client import ServiceError
from qingtu.commands.host import reach
from qingtu.commands.options import Data, Json, SettingsFile, duration_s, local_time, settings_of
from qingtu.commands.output import MESSAGES, out, print_json, print_table

if TYPE_CHECKING:
    from collections.abc import Iterator

rejected_app = typer.Typer(help="The quarantine: list, show, redrive / 隔离区", no_args_is_help=True)

Reason = Annotated[str | None, typer.Option("--reason", help="Only this reason code / 只要此原因码")]


@rejected_app.command("list")
def list_rejected(
    reason: Reason = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many rows / 最多行数")] = 50,
    file: SettingsFile = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """List rejected messages, newest first, and what became of each / 列出被隔离的消息及其结果.

    Those that were driven again with success stay in the list; the counts by reason are of what is in quarantine now.
    """
    with reach(settings_of(file, data)) as client, _known_reason():
        found = client.get("/api/quarantine", reason=reason, limit=limit)
    if json:
        print_json(found)
        return
    print_table(
        ("原因 reason", "环节 stage", "条数 count"), [(c["reason"], c["stage"], c["count"]) for c in found["counts"]]
    )
    if found["expired"]:
        print_table(
            ("已过期 expired", "环节 stage", "条数 count", "收到早于 received before"),
            [(e["reason"], e["stage"], e["count"], local_time(e["until_ms"] * 1000)) for e in found["expired"]],
        )
    print_table(
        ("id", "收到 received", "网 network", "设备 device", "结果 outcome", "原因 reason", "说明 detail"),
        [
            (
                r["id"], local_time(r["received_ms"] * 1000), r["network"], r["device"], _outcome(r), r["reason"],
                r["detail"],
            )
            for r in found["rows"]
        ],
        whole=("id",),
    )  # fmt: skip


def _outcome(row: dict[str, Any]) -> str:
    """Say whether a message is still in quarantine, or where it ended when it was driven again."""
    again = row["redriven"]
    if again is None:
        return "隔离中 in quarantine"
    return f"重投后 re-driven: {MESSAGES.get(again['outcome'], again['outcome'])}"


@rejected_app.command()
def show(
    ident: Annotated[str, typer.Argument(metavar="ID", help="As the list shows it, such as 0:196608 / 编号")],
    file: SettingsFile = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Show one rejected message with its bytes and what to do / 查看一条被隔离的消息."""
    with reach(settings_of(file, data)) as client:
        found = client.get(f"/api/quarantine/{ident}")
    if json:
        print_json(found)
        return
    told = {key: value for key, value in found.items() if key not in ("payload_text", "payload_hex", "before")}
    before = [("before", f"{old['reason']}: {old['detail']}") for old in found["before"]]
    print_table(("", ""), [*(told | {"redriven": _outcome(found)}).items(), *before])
    out().print(_dump(bytes.fromhex(found["payload_hex"])))


@rejected_app.command()
def redrive(
    ids: Annotated[list[str] | None, typer.Argument(help="Ids of messages / 编号")] = None,
    reason: Reason = None,
    everything: Annotated[bool, typer.Option("--all", help="All that is in quarantine / 全部")] = False,
    shift: Annotated[
        str, typer.Option("--shift", help="Added to claimed times, such as 8h or -2h / 时间修正量")
    ] = "0s",
    file: SettingsFile = None,
    data: Data = None,
) -> None:
    """Drive rejected messages through the pass again / 目录修正后重投."""
    if bool(ids) + bool(reason) + everything != 1:
        raise typer.BadParameter("give ids, or --reason, or --all / 请给出编号, 或 --reason, 或 --all")
    sign = -1 if shift.startswith("-") else 1
    shift_s = sign * duration_s(shift.lstrip("+-"))
    body = {"ids": ids or None, "reason": reason, "all": everything, "shift_s": shift_s}
    with reach(settings_of(file, data), acts=True) as client, _known_reason():
        count = client.post("/api/quarantine/redrive", body)["count"]
    out().print(f"重投 / driven again: {count}")


@contextmanager
def _known_reason() -> Iterator[None]:
    """Make the service's refusal of a reason code one of the command line: it says what is allowed."""
    try:
        yield
    except ServiceError as error:
        if error.code != "unknown_reason":
            raise
        raise typer.BadParameter(str(error), param_hint="--reason") from error


def _dump(data: bytes) -> str:
    """Write bytes as hex and text, 16 a line, the first 1,024 of them."""
    lines = []
    for at in range(0, min(len(data), 1024), 16):
        part = data[at : at + 16]
        text = "".join(chr(b) if 32 <= b < 127 else "." for b in part)
        lines.append(f"{at:08x}  {part.hex(' '):<47}  {text}")
    rest = len(data) - 1024
    return "\n".join([*lines, f"… {rest} bytes more"] if rest > 0 else lines)
