"""What all sections of the settings share."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A table of the settings: no keys but its own, and it never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)
