"""``python -m tests.histories``: see :mod:`tests.histories.run`."""

from __future__ import annotations

import sys

from tests.histories.run import main

if __name__ == "__main__":
    sys.exit(main())
