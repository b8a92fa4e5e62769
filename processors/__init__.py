"""The ordered pass (decode, locate, convert, deduplicate, quality, station alerts) and what is derived."""
