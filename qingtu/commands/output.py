"""What commands print: JSON and tables. Names and payloads are untrusted text: shown, never obeyed."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from qingtu.logs import printable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

MESSAGES: Final = {
    "received": "收到 received",
    "stored": "入库 stored",
    "duplicate": "重复 duplicate",
    "quarantined": "隔离 quarantined",
    "ignored": "按规则忽略 ignored",
    "in_flight": "在途 in flight",
}
READINGS: Final = {
    "decoded": "解码 decoded",
    "stored": "入库 stored",
    "revised": "修订 revised",
    "repeated": "重复值 repeated",
    "duplicate": "重复 duplicate",
    "quarantined": "隔离 quarantined",
}

_PIPE_WIDTH: Final = 400


def out() -> Console:
    """Return the console of standard output; made when needed, since a test or pipe may have replaced it."""
    # a pipe has no width: whoever reads it wants whole cells
    return Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH)


def err() -> Console:
    """Return the console of standard error, for notes and progress."""
    return Console(stderr=True, highlight=False, markup=False)


def print_json(data: Any, *, line: bool = False) -> None:
    """Print JSON: indented, or as one line."""
    text = json.dumps(data, ensure_ascii=False, indent=None if line else 2)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str | None = None, whole: Collection[str] = ()
) -> None:
    """Print a table; numbers stand on the right, and what is in a column of ``whole`` is never broken into lines."""
    made = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    kept = [list(row) for row in rows]
    for i, name in enumerate(columns):
        numbers = bool(kept) and all(isinstance(row[i], int | float) for row in kept)
        made.add_column(name, justify="right" if numbers else "left", overflow="fold", no_wrap=name in whole)
    for row in kept:
        made.add_row(*(cell(value) for value in row))
    out().print(made)


def cell(value: Any) -> Text:
    """Show a value as it is, without markup and without characters that do not print."""
    if value is None:
        return Text("")
    if isinstance(value, bool):
        return Text("是 yes" if value else "否 no")
    return Text(printable(f"{value:g}" if isinstance(value, float) else str(value)))


def ledger_table(ledger: Mapping[str, Any]) -> None:
    """Print a ledger for people."""
    out().print(ledger_line(ledger), soft_wrap=True)
    for title, labels, sums in (
        ("消息 messages", MESSAGES, ledger["messages"]),
        ("读数 readings", READINGS, ledger["readings"]),
    ):
        rows = [(labels.get(key, key), f"{count:,}".rjust(12)) for key, count in sums.items()]
        print_table((title, ""), rows)


def ledger_line(ledger: Mapping[str, Any]) -> str:
    """Write a ledger in one line."""
    word = "平衡 balanced" if ledger["balanced"] else "不平衡 NOT BALANCED"
    sums = " · ".join(f"{MESSAGES.get(key, key)} {count:,}" for key, count in ledger["messages"].items())
    return f"台账 ledger: {word} · {sums}"
