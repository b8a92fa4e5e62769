"""Stores: one implementation each, all pass tests/suites/store.py. The contract is in qingtu/contracts.py."""
