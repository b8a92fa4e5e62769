"""What all stages of Qingtu share: contracts, records, bus, store, catalogue, settings.

Read :mod:`qingtu.contracts` first; it suffices to write a plug-in.
"""

__version__ = "0.1.0"
