"""Follows ``alerts`` and tells people: docs/notify.md says what users see, decision 0016 why it is built so.

::

    write ──► intake ──► book ◄── clockwork: time of the stream, escalations, groups, digests, summaries
              routing     ▲
                          └────── delivery, one thread a channel ──► channels
"""

from __future__ import annotations

from sinks.notify.sink import NotifySink

__all__ = ["NotifySink"]
