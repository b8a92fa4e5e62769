"""Tables of the DuckDB store. Times are TIMESTAMP in UTC; a missing value is NULL."""

from __future__ import annotations

from typing import Final

SCHEMA_VERSION: Final = 2

TABLES: Final = """
CREATE TABLE IF NOT EXISTS meta (key VARCHAR PRIMARY KEY, value VARCHAR);
-- What a series number means; numbers are local to this store.
CREATE TABLE IF NOT EXISTS series (id INTEGER, station VARCHAR, property VARCHAR, channel VARCHAR);
-- Current value of each (series, time); no key: only rows that are not newer than their series are merged.
CREATE TABLE IF NOT EXISTS readings (
    series INTEGER, time TIMESTAMP, value DOUBLE, flag UTINYINT, tests UINTEGER, revision BIGINT, known_at TIMESTAMP);
-- What was replaced. As-of = current rows minus later corrections.
CREATE TABLE IF NOT EXISTS corrections (
    series INTEGER, time TIMESTAMP,
    old_value DOUBLE, old_flag UTINYINT, old_tests UINTEGER, old_revision BIGINT, old_known_at TIMESTAMP,
    new_value DOUBLE, new_flag UTINYINT, new_tests UINTEGER, new_revision BIGINT, known_at TIMESTAMP, cause UTINYINT);
CREATE TABLE IF NOT EXISTS events (
    station VARCHAR, kind VARCHAR, level UTINYINT, time TIMESTAMP, attributes VARCHAR,
    revision BIGINT, known_at TIMESTAMP);
CREATE TABLE IF NOT EXISTS figures (
    what VARCHAR, station VARCHAR, property VARCHAR, channel VARCHAR, start TIMESTAMP, value DOUBLE, count INTEGER,
    expected INTEGER, valid BOOLEAN, reason VARCHAR, inputs VARCHAR, revision BIGINT, known_at TIMESTAMP);
CREATE TABLE IF NOT EXISTS figure_corrections (
    what VARCHAR, station VARCHAR, property VARCHAR, channel VARCHAR, start TIMESTAMP,
    old_value DOUBLE, old_count INTEGER, old_valid BOOLEAN, old_inputs VARCHAR, old_revision BIGINT,
    old_known_at TIMESTAMP, new_value DOUBLE, new_count INTEGER, new_valid BOOLEAN, new_inputs VARCHAR,
    new_revision BIGINT, known_at TIMESTAMP, old_expected INTEGER, old_reason VARCHAR, new_expected INTEGER,
    new_reason VARCHAR);
CREATE TABLE IF NOT EXISTS alerts (
    seq BIGINT, alert VARCHAR, rule VARCHAR, station VARCHAR, property VARCHAR, channel VARCHAR, level UTINYINT,
    state VARCHAR, time TIMESTAMP, opened_at TIMESTAMP, value DOUBLE, "limit" DOUBLE, revision BIGINT,
    known_at TIMESTAMP, evidence VARCHAR, who VARCHAR, note VARCHAR);
CREATE TABLE IF NOT EXISTS rejected (
    partition INTEGER, position BIGINT, stage VARCHAR, reason VARCHAR, detail VARCHAR, refused INTEGER,
    kind TINYINT, received_at TIMESTAMP, gateway VARCHAR, network VARCHAR, route VARCHAR, device VARCHAR,
    topic VARCHAR, payload BLOB, size BIGINT, flags UTINYINT, packet_id INTEGER, connection BIGINT,
    properties BLOB, refused_by_gateway VARCHAR, digest BLOB, redrive_of BIGINT, shift_us BIGINT);
-- The ledger: outcomes of messages and readings by network and hour of receipt.
CREATE TABLE IF NOT EXISTS ledger (
    network VARCHAR, hour BIGINT, stored BIGINT, duplicate BIGINT, quarantined BIGINT, ignored BIGINT,
    decoded BIGINT, r_stored BIGINT, r_revised BIGINT, r_repeated BIGINT, r_duplicate BIGINT, r_quarantined BIGINT,
    reflagged BIGINT, redriven BIGINT);
-- Messages that are or were in quarantine, for booking a move when they are driven again.
CREATE TABLE IF NOT EXISTS quarantine_book (
    partition INTEGER, position BIGINT, network VARCHAR, hour BIGINT, decoded INTEGER, refused INTEGER,
    outcome UTINYINT, moved_by BIGINT);
-- How many messages left quarantine because of their age, by day of receipt (since 1970); they stay booked.
CREATE TABLE IF NOT EXISTS rejected_expired (
    network VARCHAR, day BIGINT, stage VARCHAR, reason VARCHAR, count BIGINT);
CREATE TABLE IF NOT EXISTS progress (stream VARCHAR, partition INTEGER, next_offset BIGINT, origin BIGINT);
"""

REPLAY_TABLES: Final = """
-- Which raw row brought a value whose revision is that of a promote.
CREATE TABLE IF NOT EXISTS replayed (
    series INTEGER, time TIMESTAMP, revision BIGINT, origin BIGINT, partition INTEGER, origin_partition INTEGER);
-- The promotes of this store: one row for each partition in which something changed.
CREATE TABLE IF NOT EXISTS promotions (
    revision BIGINT, name VARCHAR, promoted_at TIMESTAMP, catalogue VARCHAR, low BIGINT, high BIGINT,
    partition INTEGER);
"""
"""Of a store into which a replay was promoted, and of generations: made when they are needed."""

MIGRATIONS: Final = {
    # Figures as they were published once: what a correction replaced is kept whole.
    1: """
ALTER TABLE figure_corrections ADD COLUMN old_expected INTEGER;
ALTER TABLE figure_corrections ADD COLUMN old_reason VARCHAR;
ALTER TABLE figure_corrections ADD COLUMN new_expected INTEGER;
ALTER TABLE figure_corrections ADD COLUMN new_reason VARCHAR;
UPDATE figure_corrections c SET old_expected = f.expected, new_expected = f.expected,
    old_reason = CASE WHEN old_valid THEN '' WHEN old_count > 0 THEN 'too_few' ELSE 'none_good' END,
    new_reason = CASE WHEN new_valid THEN '' WHEN new_count > 0 THEN 'too_few' ELSE 'none_good' END
FROM figures f WHERE f.what = c.what AND f.station = c.station AND f.property = c.property
    AND f.channel = c.channel AND f.start = c.start;
""",
}
"""By the version that they lead on from."""
