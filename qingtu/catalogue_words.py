"""The words that catalogue blocks are written in: ids, numbers, properties, positions, and what a wrong one is told."""

from __future__ import annotations

import difflib
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from qingtu.properties import load_properties

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Domain = Literal["air", "weather", "water", "ocean", "noise", "soil", "radiation", "source", "community"]
Kind = Literal[
    "air", "weather", "river", "reservoir", "sea_water", "tide_gauge", "buoy", "beach", "ranch", "noise",
    "radiation", "soil", "source", "construction", "park", "community",
]  # fmt: skip
Level = Literal["blue", "yellow", "orange", "red"]
LEVELS: tuple[Level, ...] = ("blue", "yellow", "orange", "red")


def nearest(word: str, allowed: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the closest allowed word, or an empty string.

    >>> nearest("pm2_5", ["pm25", "pm10"])
    " (是否指 / did you mean 'pm25'?)"
    """
    close = difflib.get_close_matches(word, list(allowed), n=1, cutoff=0.6)
    return f" (是否指 / did you mean {close[0]!r}?)" if close else ""


def refusal(kind: str, message: str, at: str = "") -> PydanticCustomError:
    """Return the error of one of our own validators.

    Args:
        kind: of the error.
        message: "中文 / English".
        at: the key of the block that it is about, when the block is judged as a whole.
    """
    # the message is data here: braces of what the user wrote must not be read as a template
    return PydanticCustomError(kind, "{text}", {"text": message, "at": at})


def property_fault(key: str) -> str:
    """Return what is wrong with the key of an observed property, "" when nothing is."""
    dictionary = load_properties()
    if key in dictionary:
        return ""
    resolved = dictionary.resolve(key)
    hint = f" (是否指 / did you mean {resolved.key!r}?)" if resolved else nearest(key, dictionary.keys())
    return f"不是观测量 / is not an observed property{hint}; all are listed in docs/properties.md"


def _known_property(key: str) -> str:
    if text := property_fault(key):
        raise refusal("unknown_property", text)
    return key


def _known_timezone(name: str) -> str:
    if not _timezone_exists(name):
        raise refusal("unknown_timezone", "不是 IANA 时区 / is not an IANA time zone, such as 'Asia/Shanghai'")
    return name


@cache
def _timezone_exists(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # not found is a KeyError; an odd path or a folder is one of the others
        return False
    return True


_POSITION = "不是 [经度, 纬度] (WGS84, 度) / is not [longitude, latitude] in WGS84 degrees"


def _as_position(value: Any) -> Any:
    if isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(v, int | float) for v in value):
        lon, lat = value
        if not (-180 <= lon <= 180 and -90 <= lat <= 90):
            turned = -90 <= lon <= 90 and -180 <= lat <= 180
            swapped = "; 经纬度似乎颠倒 / longitude and latitude look swapped" if turned else ""
            raise refusal("bad_position", f"{_POSITION}{swapped}")
        return value
    raise refusal("bad_position", f"{_POSITION}, such as [120.38, 36.07]")


def as_list(value: Any) -> Any:
    """Take one word, or one number that stands for a word, for a list of it."""
    return [value] if isinstance(value, str | int) else value


def _as_class(value: Any) -> Any:
    """Take the number of a class for its word: of a class, 2 can mean nothing but "2"."""
    return str(value) if type(value) is int else value


def _rising(value: tuple[float, float]) -> tuple[float, float]:
    if not value[0] < value[1]:
        raise refusal("bad_range", "须为 [最小, 最大] / must be [smallest, largest]")
    return value


WaterClass = Annotated[Literal["I", "II", "III", "IV", "V", "1", "2", "3", "4"], BeforeValidator(_as_class)]
NoiseClass = Annotated[Literal["0", "1", "2", "3", "4a", "4b"], BeforeValidator(_as_class)]
Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
DeviceId = Annotated[str, Field(pattern=r"^[^\s/+#$][^\s/+#]{0,127}$")]  # it stands in an MQTT topic
Channel = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")]
Text = Annotated[str, Field(min_length=1, max_length=200)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Seconds = Annotated[float, Field(gt=0, le=31 * 86400)]
PropertyKey = Annotated[str, AfterValidator(_known_property)]
Timezone = Annotated[str, AfterValidator(_known_timezone)]
Position = Annotated[tuple[float, float], BeforeValidator(_as_position)]
Range = Annotated[tuple[Number, Number], AfterValidator(_rising)]
Words = Annotated[tuple[str, ...], BeforeValidator(as_list)]


class Strict(BaseModel):
    """A block: unknown keys are faults, every number is finite and no truth value, and nothing of it changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_truth_values(cls, data: Any) -> Any:
        return without_truth_values(cls, data) if isinstance(data, dict) else data


def without_truth_values(model: type[BaseModel], data: dict[Any, Any]) -> dict[Any, Any]:
    """Return the keys of a block with words for the truth values where it holds numbers: they are faults there."""
    return data | {name: _as_words(data[name]) for name in _numeric(model) if name in data}


def _as_words(value: Any) -> Any:
    """Turn truth values, alone or in a list or mapping, into what is no number: pydantic takes true for 1.

    >>> _as_words({"blue": True, "red": 2})
    {'blue': 'true', 'red': 2}
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return {key: _as_words(one) for key, one in value.items()}
    return [_as_words(one) for one in value] if isinstance(value, list) else value


@cache
def _numeric(model: type[BaseModel]) -> tuple[str, ...]:
    """Return the fields that hold numbers, alone or in a list or mapping, and neither truth values nor blocks."""
    kinds = {
        name: [leaf for leaf in leaves(spec.annotation) if isinstance(leaf, type)]
        for name, spec in model.model_fields.items()
    }
    return tuple(
        name
        for name, found in kinds.items()
        if (int in found or float in found) and not any(issubclass(kind, bool | BaseModel) for kind in found)
    )


def leaves(annotation: object) -> Iterator[object]:
    """Yield what a field's annotation is made of, without lists, mappings and alternatives around it."""
    args = get_args(annotation)
    if not args:
        yield annotation
    for arg in args:
        yield from leaves(arg)
