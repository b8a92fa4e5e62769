"""Logs: one plain line an event on standard error. Normal running is silent.

WARN means that nothing was lost, ERROR that something was. Names and payloads in a line are untrusted: whatever could
end a line or move a cursor is escaped. A traceback has file, line and function of its last frames, never variables.

::

    2026-11-23T08:00:00.123Z WARN qingtu.mqtt no connection to the broker  address=127.0.0.1:1883
"""

from __future__ import annotations

import logging
import sys
import time
import traceback
from typing import TYPE_CHECKING, Any, Final, TextIO

import structlog

from qingtu.clock import iso

if TYPE_CHECKING:
    from types import TracebackType

    from structlog.typing import EventDict, WrappedLogger

_FRAMES: Final = 6
_WORDS: Final = {"warning": "WARN", "exception": "ERROR", "critical": "ERROR"}


def set_up_logs(*, verbose: bool = False, debug: bool = False, stream: TextIO | None = None) -> None:
    """Send the logs of all threads to one stream; what libraries log comes out in the same form.

    Args:
        verbose: also tell what is normal.
        debug: whole tracebacks, over several lines.
        stream: standard error by default.
    """
    out = stream or sys.stderr
    level = logging.INFO if verbose or debug else logging.WARNING
    structlog.configure(
        processors=[_stamp, _Error(whole=debug), render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_Factory(out),
        cache_logger_on_first_use=False,
    )
    handler = _Bridge(level)
    logging.basicConfig(level=level, handlers=[handler], force=True)


def render(_logger: WrappedLogger, method: str, event: EventDict) -> str:
    """Write an event as one line; a whole traceback, asked for with ``--debug``, follows below it."""
    at, name, text = event.pop("at"), event.pop("logger"), event.pop("event", "")
    trace = event.pop("whole_traceback", None)
    pairs = "".join(f" {key}={_value(value)}" for key, value in event.items())
    line = f"{at} {_WORDS.get(method, method.upper())} {name} {printable(str(text))}{' ' if pairs else ''}{pairs}"
    return f"{line}\n{trace.rstrip()}" if trace else line


class _Out:
    """Writes lines for all loggers. A log on a full disk ends nobody's work: lines are lost then, and counted."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._lost = 0

    def write(self, line: str) -> None:
        """Write one line in one call, so that lines of threads do not mix."""
        try:
            if lost := self._lost:
                self._out.write(f"{iso(time.time_ns() // 1_000_000 * 1000)} WARN qingtu log_lines_lost lines={lost}\n")
            self._out.write(line + "\n")
            self._out.flush()
        except (OSError, ValueError):  # the disk is full, whoever read our standard error has ended, or it is closed
            self._lost += 1
        else:
            self._lost -= lost


class _Line:
    """A named logger that writes whole lines; what is below WARN was filtered before."""

    def __init__(self, name: str, out: _Out) -> None:
        self.name = name
        self._out = out

    def msg(self, line: str) -> None:
        """Write one line."""
        self._out.write(line)

    debug = info = warning = error = critical = exception = msg


class _Factory:
    """Gives structlog its loggers."""

    def __init__(self, out: TextIO) -> None:
        self._out = _Out(out)

    def __call__(self, *names: Any) -> _Line:
        return _Line(str(names[0]) if names else "qingtu", self._out)


class _Bridge(logging.Handler):
    """Takes what libraries log through the standard library."""

    def emit(self, record: logging.LogRecord) -> None:
        """Pass a record on."""
        logger = structlog.get_logger(record.name)
        logger.log(record.levelno, record.getMessage(), exc_info=record.exc_info or None)


def _stamp(logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return {"at": iso(time.time_ns() // 1_000_000 * 1000), "logger": logger.name, **event}


class _Error:
    """Turns ``exc_info`` into fields."""

    def __init__(self, *, whole: bool) -> None:
        self._whole = whole

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        """Replace ``exc_info`` by ``error`` and ``where``; a ``traceback`` text by its last line."""
        info = event.pop("exc_info", None)
        if info is True:
            info = sys.exc_info()
        elif isinstance(info, BaseException):
            info = (type(info), info, info.__traceback__)
        if info and info[1] is not None:
            event["error"] = f"{type(info[1]).__name__}: {info[1]}"
            event["where"] = where(info[2])
            if self._whole:
                event["whole_traceback"] = "".join(traceback.format_exception(*info))
        text = event.pop("traceback", None)
        if isinstance(text, str) and text:
            event["error"] = text.strip().rpartition("\n")[2]
            if self._whole:
                event["whole_traceback"] = text
        return event


def where(trace: TracebackType | None) -> str:
    """Return the last frames of a traceback, innermost first: ``passes.py:120 run < process.py:98 apply``."""
    frames = traceback.extract_tb(trace)[-_FRAMES:]
    return " < ".join(f"{f.filename.rpartition('/')[2]}:{f.lineno} {f.name}" for f in reversed(frames))


def _value(value: Any) -> str:
    text = printable(str(value))
    return text if text and " " not in text and '"' not in text else '"' + text.replace('"', '\\"') + '"'


def printable(text: str) -> str:
    """Escape what does not print."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
