"""CSV as RFC 4180 wants it, and safe to open: text that a spreadsheet would run as a formula is kept text."""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

_RUNS: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""First characters that spreadsheets take for a formula, full-width forms too (OWASP: CSV injection)."""


def safe(value: Any) -> Any:
    """Return a cell; text that would be a formula gets an apostrophe in front, numbers stay numbers.

    >>> safe("=1+1"), safe(-1.5), safe(None)
    ("'=1+1", -1.5, '')
    """
    if value is None:
        return ""
    return f"'{value}" if isinstance(value, str) and value.startswith(_RUNS) else value


def csv_lines(rows: Iterable[Sequence[Any]]) -> str:
    """Write rows with CRLF ends, quoted where needed."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\r\n").writerows([safe(cell) for cell in row] for row in rows)
    return out.getvalue()


def file_name(stem: str, ending: str) -> str:
    """Return a name for a download: ASCII letters, digits, dots, dashes and underscores."""
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', stem)[:120]}.{ending}"
