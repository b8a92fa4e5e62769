"""Ways in: transports take bytes and make raw frames; decoders read payloads. Neither knows the other."""
