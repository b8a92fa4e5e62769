"""What is wrong with a transport now, in Chinese and English, for ``status``."""

from __future__ import annotations


class Problems:
    """Problems by key; one thread changes them, any thread may read."""

    def __init__(self) -> None:
        self._now: dict[str, tuple[str, str]] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._now

    def show(self, key: str, zh: str, en: str) -> None:
        """Add a problem, or replace its text."""
        self._now[key] = (zh, en)

    def over(self, *keys: str) -> None:
        """Take problems away; what is not there is no matter."""
        for key in keys:
            self._now.pop(key, None)

    def listed(self) -> list[dict[str, str]]:
        """Return ``{"key", "zh", "en"}`` of each, oldest first."""
        return [{"key": key, "zh": zh, "en": en} for key, (zh, en) in self._now.copy().items()]
