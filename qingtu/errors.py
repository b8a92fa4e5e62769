"""The error tree: few, typed, and each message says how to mend it.

::

    QingtuError                 everything that Qingtu raises on purpose
    ├── ConfigError             a setting or the catalogue is wrong; retrying cannot help; carries Problems
    ├── StartError              the environment refuses (port, folder, lock, broker program); one line, way out
    ├── RetryLater              a bus, store or broker refuses now; retrying can help; carries retry_after_s
    ├── FrameError              bytes on the bus are not a frame of a version we read
    ├── VersionError            what is on disk was written by a newer program
    ├── Undecided               whether something was done is not known: look before doing it again
    └── NotFound                what was asked for does not exist
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence


_HAN: Final = re.compile("[\u4e00-\u9fff]")


class QingtuError(Exception):
    """Base of everything that Qingtu raises on purpose. Users see messages as "中文 / English"."""


def halves(message: str) -> tuple[str, str]:
    """Return the Chinese and the English half of a message; one of a single language stands for both.

    Details that both need, such as what a database said, stand in the English half.

    >>> halves("总线已关闭 / the bus is closed"), halves("HTTP 502")
    (('总线已关闭', 'the bus is closed'), ('HTTP 502', 'HTTP 502'))
    """
    one, _, other = message.partition(" / ")
    if other and _HAN.search(one):
        return one, other
    if other and _HAN.search(other):
        return other, one
    return message, message


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in a settings or catalogue file.

    Attributes:
        file: path as the user gave it, or ``environment`` for ``QINGTU_*`` variables.
        line: 1-based line in the file; 0 when the file has no such line.
        key: dotted path of the key, such as ``stations[3].position``.
        value: what was found, as text, cut to 80 characters; empty when nothing was, or it would say nothing.
        message: what is wrong and what is allowed.
    """

    file: str
    line: int
    key: str
    value: str
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.key}{f' = {self.value}' if self.value else ''}: {self.message}"


class ConfigError(QingtuError):
    """Settings or catalogue are wrong. ``problems`` holds all of them, not only the first."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(p) for p in self.problems))


class StartError(QingtuError):
    """The environment refuses the start; the message is one line with the way out."""


class RetryLater(QingtuError):  # noqa: N818 - names what to do, as quixstreams' back-pressure does
    """A bus, store or broker cannot take it now. Nothing was done; the same call may be repeated.

    Attributes:
        retry_after_s: seconds after which a retry makes sense.
    """

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class FrameError(QingtuError):
    """Bytes on the bus are not a frame, or of a version that this program does not read."""


class VersionError(QingtuError):
    """What is on disk was written by a newer program; the message names both versions."""


class Undecided(QingtuError):  # noqa: N818 - says what is the case
    """Whether something was done is not known, and cannot be asked: look before doing it again."""


class NotFound(QingtuError):  # noqa: N818 - reads as the answer that it is
    """What was asked for does not exist."""
