"""Which keys of a payload name an identifier of a person. Rows in ``private_keys.yaml``, with the rules beside them.

Keys are recognised by their parts, as every maker spells them in another way; ``redact`` uses it (ingest/privacy.py).
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_FILE: Final = Path(__file__).with_name("private_keys.yaml")
_CACHED_KEYS: Final = 4096
_CACHED_CHARACTERS: Final = 128  # keys are invented by devices; with the number of them this bounds the memory
_RUN: Final = 4
"""Longest run of words that is looked for."""
_NUMBER_WORDS: Final = "(?:nos?|num(?:ber)?s?|ids?|codes?|号码?|抓拍|识别|检测)"
_CASE: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_WORD: Final = re.compile(r"[^\W\d_]+|\d+")


class _Rules(NamedTuple):
    """The file, ready for use.

    Attributes:
        inside: matches a part that may stand anywhere in a word.
        kinds: part, or run of words → kind.
        whole: only word of a key → kind.
        harmless: matches what is taken out of a word first.
        named: matches a folded key that is an identifier's name and nothing more.
        about: matches a folded key that says something about identifiers.
        labels, values, plain: folded keys, see the file.
    """

    inside: re.Pattern[str]
    kinds: Mapping[str, str]
    whole: Mapping[str, str]
    harmless: re.Pattern[str]
    named: re.Pattern[str]
    about: re.Pattern[str]
    labels: frozenset[str]
    values: frozenset[str]
    plain: frozenset[str]


@cache
def _rules() -> _Rules:
    data: dict[str, Any] = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
    kinds = data["kinds"]

    def listed(how: str) -> dict[str, str]:
        return {part: kind for kind, rows in kinds.items() for part in rows.get(how, ())}

    parts, whole = listed("inside") | listed("words"), listed("whole")
    number = f"s?{_NUMBER_WORDS}{{0,2}}"
    return _Rules(
        re.compile(_any_of(listed("inside"))),
        parts,
        whole,
        re.compile(_any_of(data["harmless"])),
        re.compile(_any_of(parts | whole) + number),
        re.compile(f"{_any_of(parts)}{number}{_any_of(data['about'])}$"),
        *(frozenset(data[name]) for name in ("labels", "values", "plain")),
    )


def kind_of(key: str) -> str | None:
    """Return the kind of identifier that a key names, None: of none.

    >>> [kind_of(key) for key in ("icCardNum", "车牌号码", "driver_tel_2", "station_name", "cards_total", "car_noise")]
    ['card', 'plate', 'phone', None, None, None]
    """
    return _known(key) if len(key) <= _CACHED_CHARACTERS else _find(key)


def label_of(pairs: Iterable[tuple[str, Any]]) -> tuple[str, str] | None:
    """Return (label's key, kind) of an object that tells by a label what its value is, None: it does not.

    >>> label_of([("key", "card_no"), ("value", 6222)])
    ('key', 'card')
    """
    labels = _rules().labels
    for key, value in pairs:
        if isinstance(value, str) and value and _folded(key) in labels and (kind := kind_of(value)):
            return key, kind
    return None


def holds_value(key: str) -> bool:
    """Return whether a key of an object with a label holds the value."""
    return _folded(key) in _rules().values


def may_stay(key: str) -> bool:
    """Return whether a key inside an object of an identifier cannot be an identifier itself."""
    folded = _folded(key)
    return folded in _rules().plain or _rules().named.fullmatch(folded) is not None


def _find(key: str) -> str | None:
    rules = _rules()
    words = [rules.harmless.sub(" ", word) for word in _words(key) if not word.isdigit()]
    if rules.about.search("".join(words)):
        return None
    if len(words) == 1 and (kind := rules.whole.get(words[0].removesuffix("s"))):
        return kind
    # The last one is what the key is about: a card holder's phone is a phone.
    for stop in range(len(words), 0, -1):
        for start in range(max(stop - _RUN, 0), stop):
            run = "".join(words[start:stop])
            if kind := rules.kinds.get(run) or rules.kinds.get(run.removesuffix("s")):
                return kind
        if parts := rules.inside.findall(words[stop - 1]):  # never across words: "card" is no part of car_door
            return rules.kinds[parts[-1]]
    return None


def _words(key: str) -> list[str]:
    """Return the words of a key, folded: NFKC, as full-width letters are met, and lower case."""
    return [word.casefold() for word in _WORD.findall(_CASE.sub(" ", unicodedata.normalize("NFKC", key)))]


def _any_of(words: Iterable[str]) -> str:
    return f"(?:{'|'.join(map(re.escape, sorted(words, key=len, reverse=True)))})"


@lru_cache(_CACHED_KEYS)
def _short_folded(key: str) -> str:
    return "".join(_words(key))


def _folded(key: str) -> str:
    return _short_folded(key) if len(key) <= _CACHED_CHARACTERS else ""


_known = lru_cache(_CACHED_KEYS)(_find)
