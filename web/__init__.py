"""The one map and its API: a page without build step, JSON over HTTP, server-sent events. Reads; acts go to raw."""
