"""Quality checks: one file a check, one line here. Bits are never reused; docs/quality.md has a row for each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from processors.quality import (
    attenuated_signal,
    climatology,
    flat_line,
    gap,
    gross_range,
    instrument,
    missing,
    plausible_range,
    rate_of_change,
    spike,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qingtu.contracts import Check

CHECKS: Final[Mapping[str, Check]] = {
    check.key: check
    for check in (
        gross_range.GrossRange(),
        plausible_range.PlausibleRange(),
        rate_of_change.RateOfChange(),
        missing.Missing(),
        spike.Spike(),
        flat_line.FlatLine(),
        gap.Gap(),
        climatology.Climatology(),
        attenuated_signal.AttenuatedSignal(),
        instrument.Instrument(),
    )
}
