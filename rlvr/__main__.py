"""`python -m rlvr`."""

from __future__ import annotations

import sys

from rlvr.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
