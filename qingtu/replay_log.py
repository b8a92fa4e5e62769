"""What a promote into a server is going to write, in a folder of the generation: whole or not at all, and durable.

::

    data/generations/NAME/promote/
        plan.json     what changes, when, by whom; the rows for raw; what is deleted; what is booked
        00000.json …  lines of one bucket each, in the order in which they are written
        said          is there once the rows stand on raw
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any, Final

import orjson

from qingtu.files import sync

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

NAME: Final = "promote"


class PromoteLog:
    """Written once, read as often as it takes.

    Args:
        folder: of the generation.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / NAME
        self._part = folder / f"{NAME}.part"
        self._files = 0

    @property
    def there(self) -> bool:
        """Whether it is there, and so whole."""
        return self._folder.is_dir()

    def begin(self) -> None:
        """Begin a new one; what an earlier attempt left is cleared away."""
        self.forget()
        self._part.mkdir()
        self._files = 0

    def add(self, bucket: str, lines: Sequence[str]) -> None:
        """Add lines."""
        if lines:
            path = self._part / f"{self._files:05}.json"
            path.write_bytes(orjson.dumps({"bucket": bucket, "lines": lines}))
            sync(path)
            self._files += 1

    def finish(self, plan: dict[str, Any]) -> None:
        """Let it appear."""
        path = self._part / "plan.json"
        path.write_bytes(orjson.dumps({**plan, "files": self._files}))
        sync(path)
        sync(self._part)
        self._part.replace(self._folder)
        sync(self._folder.parent)

    def plan(self) -> dict[str, Any]:
        """Return the plan; ``files`` says how many files of lines there are."""
        found: dict[str, Any] = orjson.loads((self._folder / "plan.json").read_bytes())
        return found

    def lines(self) -> Iterator[tuple[str, list[str]]]:
        """Give bucket and lines of each file, in order."""
        for path in sorted(self._folder.glob("[0-9]*.json")):
            found = orjson.loads(path.read_bytes())
            yield found["bucket"], found["lines"]

    @property
    def said(self) -> bool:
        """Whether the rows stand on raw."""
        return (self._folder / "said").exists()

    def note_said(self) -> None:
        """Note that the rows stand on raw."""
        (self._folder / "said").touch()
        sync(self._folder)

    def forget(self) -> None:
        """Delete it. Its name goes first, so that what is left when this is cut off is no log."""
        shutil.rmtree(self._part, ignore_errors=True)
        if self.there:
            self._folder.replace(self._part)
            shutil.rmtree(self._part)
