"""``qingtu notify``: how channels fare, a trial message, and messages that were given up.

It opens the delivery book itself, whether a service runs or not: a running one sees a dead letter that is queued again
within a second.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qingtu.client import running_service
from qingtu.clock import SystemClock
from qingtu.commands.options import Data, Json, SettingsFile, local_time, settings_of
from qingtu.commands.output import out, print_json, print_table
from qingtu.errors import NotFound, RetryLater
from sinks.notify import book as books
from sinks.notify.channels import open_channel
from sinks.notify.messages import Message
from sinks.notify.templates import trial

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qingtu.settings import Settings

notify_app = typer.Typer(help="Notifications: status, test, dead, retry / 通知", no_args_is_help=True)

Channel = Annotated[str | None, typer.Option("--channel", help="Only this channel / 只要此渠道")]


@notify_app.command()
def status(file: SettingsFile = None, data: Data = None, json: Json = False) -> None:
    """Show what waits and what failed, by channel, and how far the sink is behind / 各渠道状态.

    Exit code 1 when a channel fails or has dead letters.
    """
    settings = settings_of(file, data)
    with closing(_book(settings)) as book:
        rows = [_state(book, channel.name) for channel in settings.notify.channels]
    running = running_service(settings.data)
    stages = running.get("/api/status")["stages"] if running is not None else []
    lag = sum(stage["lag_frames"] for stage in stages if stage["name"].startswith("sink-notify"))
    if json:
        print_json({"lag_frames": lag if running is not None else None, "channels": rows})
    else:
        word = f"{lag} 帧 frames" if running is not None else "服务未运行 / no service runs"
        out().print(f"待取 behind: {word}", soft_wrap=True)
        heads = (
            "渠道 channel", "等待 waiting", "免打扰 held", "风暴 piled", "待发 queued", "最早 oldest", "未送达 dead",
            "已发 sent", "最近 last sent", "错误 last error",
        )  # fmt: skip
        print_table(
            heads,
            [
                (
                    row["channel"], row["waiting"], row["held"], row["piled"], row["queued"],
                    local_time(_us(row["oldest_ms"])), row["dead"], row["sent"], local_time(_us(row["sent_ms"])),
                    row["error"],
                )
                for row in rows
            ],
        )  # fmt: skip
    if any(row["dead"] or row["failing"] for row in rows):
        raise typer.Exit(1)


@notify_app.command("test")
def try_out(
    channel: Annotated[str | None, typer.Argument(help="Its name; all when left out / 渠道名, 缺省为全部")] = None,
    file: SettingsFile = None,
    data: Data = None,
) -> None:
    """Send a trial message at once, past book and quiet hours / 发送测试通知.

    Exit code 1 when one is not taken.
    """
    settings = settings_of(file, data)
    wanted = [one for one in settings.notify.channels if channel in (None, one.name)]
    if not wanted:
        names = ", ".join(one.name for one in settings.notify.channels) or "-"
        raise NotFound(f"没有此渠道 / no such channel (allowed: {names}); see [[notify.channels]] in docs/notify.md")
    clock, good = SystemClock(), True
    for one in wanted:
        try:
            open_channel(one, settings.notify.language, clock).send(trial(one.name, clock.now_us()))
        except RetryLater as error:
            good = False
            out().print(f"{one.name}: 未送达 / not taken: {error}", soft_wrap=True)
        else:
            out().print(f"{one.name}: 已送达 / taken", soft_wrap=True)
    if not good:
        raise typer.Exit(1)


@notify_app.command()
def dead(
    channel: Channel = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many / 最多条数")] = 50,
    file: SettingsFile = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """List messages that were given up, newest first / 列出未送达的通知."""
    with closing(_book(settings_of(file, data))) as book:
        found = book.rows(
            "SELECT id, channel, kind, level, count, made_us, attempts, error, body FROM messages "
            "WHERE state = 'dead' AND (? IS NULL OR channel = ?) ORDER BY seq DESC LIMIT ?",
            channel, channel, limit,
        )  # fmt: skip
    rows = [_dead(row) for row in found]
    if json:
        print_json(rows)
        return
    print_table(
        ("id", "渠道 channel", "时间 made", "条数 count", "次数 attempts", "标题 title", "错误 error"),
        [
            (r["id"], r["channel"], local_time(_us(r["made_ms"])), r["count"], r["attempts"], r["title_zh"], r["error"])
            for r in rows
        ],
    )


@notify_app.command()
def retry(
    ids: Annotated[list[str] | None, typer.Argument(help="As `dead` lists them / 编号")] = None,
    channel: Channel = None,
    everything: Annotated[bool, typer.Option("--all", help="All that were given up / 全部")] = False,
    file: SettingsFile = None,
    data: Data = None,
) -> None:
    """Queue messages again that were given up; the service sends them / 重新发送."""
    if bool(ids) + (channel is not None) + everything != 1:
        raise typer.BadParameter("give ids, or --channel, or --all / 请给出编号, 或 --channel, 或 --all")
    with closing(_book(settings_of(file, data))) as book:
        count = _queue_again(book, ids, channel)
    out().print(f"重新排队 / queued again: {count}")


def _queue_again(book: books.Book, ids: Sequence[str] | None, channel: str | None) -> int:
    now = SystemClock().now_us()
    again = (
        "UPDATE messages SET state = 'queued', attempts = 0, next_us = 0, queued_us = ?, done_us = NULL "
        "WHERE state = 'dead'"
    )
    with book.writing() as db:
        if ids is None or not ids:
            return db.execute(f"{again} AND (? IS NULL OR channel = ?)", (now, channel, channel)).rowcount
        for one in ids:
            if not db.execute(f"{again} AND id = ?", (now, one)).rowcount:
                raise NotFound(f"{one}: 没有此未送达通知 / there is no such dead letter; nothing was queued")
        return len(ids)


def _book(settings: Settings) -> books.Book:
    folder = settings.data / "notify"
    if not (folder / books.FILE).exists():
        raise NotFound(
            f"{settings.data} 中没有通知记录 / the data folder {settings.data} has no notifications: "
            'name "notify" in `sinks` and start the service (docs/notify.md)'
        )
    return books.Book(folder, SystemClock().now_us())


def _state(book: books.Book, channel: str) -> dict[str, Any]:
    (items,) = book.rows(
        "SELECT count(*) AS n, total(held) AS held, total(piled) AS piled FROM items WHERE channel = ?", channel
    )
    (queue,) = book.rows(
        "SELECT total(state IN ('queued', 'sending')) AS queued, total(state = 'dead') AS dead, "
        "min(CASE WHEN state IN ('queued', 'sending') THEN queued_us END) AS oldest, "
        "total(state IN ('queued', 'sending') AND error != '') AS failing FROM messages WHERE channel = ?",
        channel,
    )
    found = book.rows("SELECT * FROM channels WHERE channel = ?", channel)
    last = found[0] if found else None
    return {
        "channel": channel,
        "waiting": items["n"],
        "held": int(items["held"]),
        "piled": int(items["piled"]),
        "queued": int(queue["queued"]),
        "oldest_ms": _ms(queue["oldest"]),
        "dead": int(queue["dead"]),
        "failing": bool(queue["failing"]),
        "sent": last["sent"] if last else 0,
        "sent_ms": _ms(last["sent_us"]) if last else None,
        "error": last["error"] if last else "",
        "error_ms": _ms(last["error_us"]) if last else None,
    }


def _dead(row: Any) -> dict[str, Any]:
    message = Message.from_json(row["body"])
    return {
        "id": row["id"], "channel": row["channel"], "kind": row["kind"], "level": row["level"], "count": row["count"],
        "made_ms": row["made_us"] // 1000, "attempts": row["attempts"], "error": row["error"],
        "title_zh": message.title_zh, "title_en": message.title_en,
    }  # fmt: skip


def _ms(us: int | None) -> int | None:
    return None if us is None else us // 1000


def _us(ms: int | None) -> int | None:
    return None if ms is None else ms * 1000
