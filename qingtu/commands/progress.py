"""Progress on standard error; nothing where that is not a terminal."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

_BROKEN_OFF: Final = 130
"""What shells give for a command that Ctrl-C ended."""


@contextmanager
def bars(console: Console) -> Iterator[Progress]:
    """Show bars as long as the context lasts."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, refresh_per_second=4, disable=not console.is_terminal) as progress:
        yield progress


@contextmanager
def waiting(console: Console, doing: str, broken_off: str) -> Iterator[None]:
    """Show for how long something goes on whose end nobody knows, as long as the context lasts.

    Args:
        console: of standard error.
        doing: what goes on.
        broken_off: what becomes of it when Ctrl-C ends the waiting.

    Raises:
        typer.Exit: Ctrl-C, after saying so.
    """
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    shown = console.is_terminal
    try:
        with Progress(*columns, console=console, refresh_per_second=4, disable=not shown, transient=True) as progress:
            progress.add_task(doing, total=None)
            yield
    except KeyboardInterrupt:
        console.print(broken_off, soft_wrap=True)
        raise typer.Exit(_BROKEN_OFF) from None
