"""Logs: one plain line an event, nothing that obeys untrusted text, no variables."""

from __future__ import annotations

import errno
import io
import logging
import re

import pytest
import structlog

from qingtu.logs import printable, set_up_logs


@pytest.fixture
def out() -> io.StringIO:
    """Where the lines go."""
    return io.StringIO()


def test_one_line_an_event(out: io.StringIO) -> None:
    """Time, level, logger, what happened, and fields; values with spaces in quotes."""
    set_up_logs(stream=out)
    structlog.get_logger("qingtu.mqtt").warning("no connection", address="127.0.0.1:1883", why='it said "no"')
    line = out.getvalue()
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT[\d:.]+Z WARN qingtu\.mqtt no connection  address=127\.0\.0\.1:1883 "
        r'why="it said \\"no\\""\n',
        line,
    ), line


def test_normal_running_is_silent(out: io.StringIO) -> None:
    """What is normal is told only on request."""
    set_up_logs(stream=out)
    structlog.get_logger("x").info("connected")
    logging.getLogger("library").info("hello")
    assert out.getvalue() == ""
    set_up_logs(stream=out, verbose=True)
    structlog.get_logger("x").info("connected")
    assert " INFO x connected\n" in out.getvalue()


def test_untrusted_text_cannot_end_a_line(out: io.StringIO) -> None:
    """Line ends, escapes and direction marks are written as escapes."""
    set_up_logs(stream=out)
    structlog.get_logger("x").error("bad\nERROR forged", topic="a\x1b[31m\r\n\u202eb")
    assert out.getvalue().count("\n") == 1
    assert "\x1b" not in out.getvalue()
    assert "\\u202e" in out.getvalue()
    assert printable("站 é") == "站 é"


def test_exception_is_one_line_without_variables(out: io.StringIO) -> None:
    """Error, and file, line and function of the last frames; the value of a variable does not show."""
    set_up_logs(stream=out)
    secret = "hunter2"
    try:
        int(f"x{len(secret)}")
    except ValueError:
        structlog.get_logger("x").exception("failed")
    line = out.getvalue()
    assert line.count("\n") == 1
    assert " ERROR x failed " in line
    assert "error=\"ValueError: invalid literal for int() with base 10: 'x7'\"" in line
    assert "test_logs.py:" in line
    assert secret not in line


def test_debug_shows_the_whole_traceback(out: io.StringIO) -> None:
    """Also of what a library logs, and of a traceback that is given as text."""
    set_up_logs(stream=out, debug=True)
    try:
        int("x")
    except ValueError:
        logging.getLogger("library").exception("failed")
    assert "Traceback (most recent call last)" in out.getvalue()
    set_up_logs(stream=out)
    structlog.get_logger("x").error("fault", traceback="Traceback\n  deep\nValueError: no\n")
    assert out.getvalue().splitlines()[-1].endswith('fault  error="ValueError: no"')


class _Disk(io.StringIO):
    """A log file on a disk that can be full."""

    full = False

    def write(self, text: str) -> int:
        """Write, or refuse as the system does."""
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(text)


def test_a_log_that_cannot_be_written_ends_nobody(out: io.StringIO) -> None:
    """Who logs goes on; how many lines were lost is the first thing told when there is space again."""
    del out
    disk = _Disk()
    set_up_logs(stream=disk)
    log = structlog.get_logger("stage")
    log.warning("one")
    disk.full = True
    log.warning("two")
    structlog.get_logger("other").warning("three")
    disk.full = False
    log.warning("four")
    log.warning("five")
    lines = [line.split(" ", 1)[1] for line in disk.getvalue().splitlines()]
    assert lines == ["WARN stage one", "WARN qingtu log_lines_lost lines=2", "WARN stage four", "WARN stage five"]


def test_a_log_that_is_closed_ends_nobody(out: io.StringIO) -> None:
    """A thread that logs to a standard error that somebody has closed goes on with its work."""
    set_up_logs(stream=out)
    log = structlog.get_logger("stage")
    out.close()
    log.warning("one")
