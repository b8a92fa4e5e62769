"""Buses: one file an implementation, each passes tests/suites/bus.py. The contract is in qingtu/contracts.py."""
