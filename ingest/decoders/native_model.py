"""The native format as a model, and its JSON Schema; for people and their tools, not for decoding.

``python -m ingest.decoders.native_model`` writes docs/formats/native.schema.json. What a schema cannot say (dates that
do not exist, a device that must be the topic's) stands in docs/formats/native.md.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

SCHEMA_FILE: Final = Path("docs/formats/native.schema.json")

_RFC_3339: Final = (
    r"^\s*\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}(:\d{2}([.,]\d*)?)?\s*([Zz]|[+-]\d{2}(:?\d{2})?)?\s*$"
    r"|^\s*(\d{10}|\d{13}|\d{16}|\d{19})\s*$"
)
_NUMBER: Final = r"^\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$|^\s*[+-]?[Nn][Aa][Nn]\s*$"

EpochTime = Annotated[float, Field(gt=-1e20, lt=1e20, description="s, ms, µs or ns since 1970, told by magnitude")]
TextTime = Annotated[str, Field(pattern=_RFC_3339, description="RFC 3339; without a zone: the station's zone")]
Number = Annotated[float, Field(allow_inf_nan=False)]
NumberText = Annotated[str, Field(pattern=_NUMBER, description="a number as text")]
Plain = Annotated[Number | NumberText | bool | None, Field(description="null: the device has no value")]

Mark = Annotated[str | None, Field(description="what the device says of the reading: docs/quality.md, instrument")]


class _Open(BaseModel):
    """Other keys are left alone: devices write their firmware, signal strength and more."""

    model_config = ConfigDict(strict=True, extra="allow")


class NumberWithUnit(_Open):
    """A number in a unit that the device names; any spelling that docs/properties.md lists."""

    value: Number | NumberText | None
    unit: Annotated[str, Field(max_length=40)] | None = None
    mark: Mark = None


class State(_Open):
    """A state; it has no unit."""

    value: bool
    unit: Annotated[str, Field(pattern=r"^\s*1?\s*$")] | None = None
    mark: Mark = None


class Event(_Open):
    """Something that happened."""

    kind: Annotated[str, Field(min_length=1, description="such as fire; 64 characters are kept")]
    level: Annotated[int, Field(ge=0, le=4)] = 0
    time: EpochTime | TextTime | None = Field(None, description="the object's when absent")
    attributes: dict[str, Any] = Field(default_factory=dict)


class Message(_Open):
    """What a device measured at one time."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"required": ["readings"], "properties": {"readings": {"type": "object", "minProperties": 1}}},
                {"required": ["events"], "properties": {"events": {"type": "array", "minItems": 1}}},
            ]
        }
    )

    time: EpochTime | TextTime | None = Field(None, description="none: the time of receipt is taken")
    readings: dict[str, Plain | NumberWithUnit | State] | None = Field(None, description="by the device's field names")
    events: list[Event] | None = None
    seq: Any = Field(None, description="a counter: with it equal bytes are a repetition, as they are with a time")
    device: str | None = Field(None, description="must be the device that the topic names")

    @model_validator(mode="after")
    def _says_something(self) -> Message:
        if not self.readings and not self.events:
            raise ValueError("neither readings nor events inside")
        return self


Payload = Message | Annotated[list[Message], Field(min_length=1)]
PAYLOAD: TypeAdapter[Message | list[Message]] = TypeAdapter(Payload)


def schema_text() -> str:
    """Return the JSON Schema as the file holds it."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Qingtu native JSON"}
    return json.dumps(schema | PAYLOAD.json_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    SCHEMA_FILE.write_text(schema_text(), encoding="utf-8")
