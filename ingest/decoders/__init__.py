"""Payload formats. One file a format, one line here; tests/cases/<key>/ holds its cases, docs/formats/ its page.

A decoder is pure (:class:`qingtu.contracts.Decoder`): no catalogue, no clock, no memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ingest.decoders import native

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qingtu.contracts import Decoder

DECODERS: Final[Mapping[str, Decoder]] = {
    "native": native.decode,
}
