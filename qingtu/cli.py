"""The command line. Errors are one line with the way out; ``--debug`` shows where they come from.

Exit codes: 0 done; 1 the answer is no (problems found, not balanced, refused, degraded); 2 the command line, the
settings or the catalogue are wrong; 3 this machine refuses (port, folder, disk, broker); 4 there is no such thing;
5 not now, try again; 70 an internal error; 128 + n ended by signal n.
"""

from __future__ import annotations

import errno
import sqlite3
import sys
from typing import TYPE_CHECKING, Annotated, Final

import duckdb
import typer

import qingtu
from qingtu.commands import (
    alerts,
    broker_config,
    check,
    copies,
    corrections,
    decode,
    demo,
    grafana,
    notify,
    questions,
    rejected,
    reload,
    replay,
    rules,
    scenario,
    service,
    simulate,
    tides,
)
from qingtu.errors import ConfigError, NotFound, QingtuError, RetryLater, StartError
from qingtu.logs import printable, set_up_logs, where

if TYPE_CHECKING:
    from collections.abc import Sequence

_CODES: Final[tuple[tuple[type[QingtuError], int], ...]] = (
    (ConfigError, 2), (StartError, 3), (NotFound, 4), (RetryLater, 5), (QingtuError, 1),
)  # fmt: skip
_DISK_FULL: Final = (
    "磁盘已满 / the disk is full ({what}): free some space, or choose another folder with --data; "
    "what was acknowledged is safe"
)

app = typer.Typer(
    help="Qingtu 青图: sensor messages in, one trusted dataset and one live map out / 感知数据汇成一张可信的图",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 110},
)


def _version(on: bool) -> None:
    if on:
        sys.stdout.write(f"qingtu {qingtu.__version__}\n")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Whole tracebacks / 显示完整调用栈")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Also log what is normal / 记录正常事件")] = False,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Version / 版本")
    ] = False,
) -> None:
    """Take options that hold for every command."""
    del version
    set_up_logs(verbose=verbose, debug=debug)


app.command("setup")(service.setup)
app.command("run")(service.run)
app.command("demo")(demo.demo)
app.command("simulate")(simulate.simulate)
app.command("scenario")(scenario.scenario)
app.command("status")(questions.status)
app.command("check")(check.check)
app.command("stations")(questions.stations)
app.command("reload")(reload.reload)
app.command("decode")(decode.decode)
app.add_typer(rejected.rejected_app, name="rejected")
app.command("ledger")(questions.ledger)
app.command("explain")(questions.explain)
app.command("corrections")(corrections.corrections)
app.command("override")(questions.override)
app.add_typer(rules.rules_app, name="rules")
questions.alerts_app.command("comment")(alerts.comment)
questions.alerts_app.command("mute")(alerts.mute)
questions.alerts_app.command("maintenance")(alerts.maintenance)
questions.alerts_app.command("mutes")(alerts.mutes)
app.add_typer(questions.alerts_app, name="alerts")
app.add_typer(notify.notify_app, name="notify")
app.command("export")(copies.export)
app.command("tides")(tides.tides)
app.command("backup")(copies.backup)
app.command("replay")(replay.replay)
app.command("broker-config")(broker_config.broker_config)
app.command("grafana")(grafana.grafana)


def main(args: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        args: words of the command line after the program's name; None takes those of the process.

    Returns:
        the exit code.
    """
    words = list(sys.argv[1:] if args is None else args)
    try:
        app(words, prog_name="qingtu")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except Exception as error:
        if "--debug" in words:
            raise
        return _say(error)
    return 0


def _say(error: Exception) -> int:
    """Print an error as one line (wrong settings: a line each) and return the exit code."""
    code, text = _line(error)
    print(text, file=sys.stderr)  # noqa: T201 - the console of the command line
    return code


def _line(error: Exception) -> tuple[int, str]:
    full = _disk_full(error)
    if full is not None:
        return 3, "qingtu: " + _DISK_FULL.format(what=full)
    if isinstance(error, ConfigError):
        return 2, "\n".join(f"qingtu: {printable(str(problem))}" for problem in error.problems)
    if isinstance(error, QingtuError):
        code = next(code for kind, code in _CODES if isinstance(error, kind))
        return code, f"qingtu: {printable(str(error))}"
    if isinstance(error, OSError):
        name = f"{error.filename}: " if error.filename else ""
        return 3, f"qingtu: 系统拒绝 / the system refuses: {printable(name)}{error.strerror or error}"
    text = f"qingtu: 内部错误 / internal error: {type(error).__name__}: {error} ({where(error.__traceback__)})"
    return 70, printable(text) + "; --debug"


def _disk_full(error: BaseException | None) -> str | None:
    """Return what says so when an error, or what caused it, is that no space is left."""
    while error is not None:
        text = str(error).partition("\n")[0]
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return printable(str(error.filename or error.strerror))
        if isinstance(error, sqlite3.Error | duckdb.Error | QingtuError) and (
            "disk is full" in text or "No space left" in text or "File too large" in text
        ):
            return printable(text)
        error = error.__cause__ or error.__context__
    return None


if __name__ == "__main__":
    sys.exit(main())
