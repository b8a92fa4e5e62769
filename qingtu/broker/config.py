"""mosquitto.conf for a city: TLS only, no anonymous client, queues that fit the outage budget, saved often.

Written for mosquitto 2.0; every choice was tried on 2.0.11 (docs/broker.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from qingtu.budget import BrokerQueue

if TYPE_CHECKING:
    from pathlib import PurePosixPath

INT_MAX: Final = 2**31 - 1
"""mosquitto 2.0 reads numbers with atoi into an int. ``max_queued_bytes 4000000000`` becomes negative, then 0: no
bound, without a word."""
MESSAGE_BYTES: Final = 500
"""Of memory, beside its payload, that a queued message takes: 376 on 2.0.11 with a topic of 9 bytes (docs/broker.md);
longer topics and MQTT 5 properties add to it."""
LEAST_MESSAGES: Final = 100_000
MARGIN: Final = 2.0
"""Bursts, and messages that the catalogue does not know of."""
PORT: Final = 8883


@dataclass(frozen=True, slots=True)
class BrokerOptions:
    """What the city decides.

    Attributes:
        folder: where the broker sees the files of this configuration.
        store: where it keeps its own.
        port: of the TLS listener.
        queue: for one client that is away.
        session_h: the longest session expiry of all gateways, hours.
        autosave_s: seconds between two saves of sessions and queues.
    """

    folder: PurePosixPath
    store: PurePosixPath
    queue: BrokerQueue
    port: int = PORT
    session_h: int = 48
    autosave_s: int = 15


def queue_for(messages_per_s: float, payload_bytes: float, away_s: float, memory_bytes: int) -> BrokerQueue:
    """Return limits that hold an outage, with a margin, within the memory that the broker may take.

    Args:
        messages_per_s: that come.
        payload_bytes: mean of a message.
        away_s: how long a gateway may be away.
        memory_bytes: that the queue of one gateway may take.
    """
    fits = int(memory_bytes / (payload_bytes + MESSAGE_BYTES))
    wanted = max(LEAST_MESSAGES, math.ceil(messages_per_s * away_s * MARGIN))
    messages = max(1, min(wanted, fits, INT_MAX))
    # The count bounds usual messages, the bytes a flood of large ones.
    return BrokerQueue(messages, memory_bytes if memory_bytes <= INT_MAX else 0)


def mosquitto_conf(options: BrokerOptions) -> str:
    """Write mosquitto.conf."""
    folder, queue = options.folder, options.queue
    days = max(14, math.ceil(options.session_h / 24) + 1)
    return f"""\
# Written by `qingtu broker-config` for mosquitto 2.0: run it again instead of changing this file. docs/broker.md

# --- who may connect -------------------------------------------------------------------------------------------
# One set of rules for every listener: with per_listener_settings true, a session that was saved finds its rules only
# while its listener keeps its port.
per_listener_settings false
allow_anonymous false
password_file {folder / "passwords"}
acl_file {folder / "acl"}

listener {options.port}
certfile {folder / "server.pem"}
keyfile {folder / "server.key"}
tls_version tlsv1.2
# The broker takes the account's name for the client id. Without it every device that may log in could connect with
# the gateway's client id, and so end its connection and wipe its queue.
use_username_as_clientid true

# --- nothing may be dropped without a word ---------------------------------------------------------------------
# What is held for one client that is away; more is dropped silently, after the device has got its PUBACK. Not 0 for
# messages: 2.0 then ends the connection of a client whose PUBLISH is denied.
max_queued_messages {queue.messages}
# Of payload. At most {INT_MAX}: a greater number is read as none, without a word. 0 = no bound.
max_queued_bytes {queue.payload_bytes}
# No limit of messages in flight: the gateway acknowledges by flush, 100 ms of messages at once.
max_inflight_messages 0
# message_size_limit and max_packet_size are left out on purpose: too large a payload shall reach the quarantine, where
# it is seen, instead of being dropped here.

# --- what a killed broker keeps --------------------------------------------------------------------------------
persistence true
persistence_location {options.store}/
# Every save writes the whole queue and stops the broker meanwhile; what came since the last one is lost with kill -9
# while the gateway is away.
autosave_on_changes false
autosave_interval {options.autosave_s}
# Sessions of clients that never come back; longer than any gateway's session expiry ({options.session_h} h).
persistent_client_expiration {days}d

# --- logs ------------------------------------------------------------------------------------------------------
log_dest stderr
log_timestamp_format %Y-%m-%dT%H:%M:%S
log_type error
log_type warning
log_type notice
connection_messages true
"""
