"""The commands of ``qingtu``, one file an idea; :mod:`qingtu.cli` puts them together."""
