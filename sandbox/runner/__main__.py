"""Entry of the container: `python3 -s -P -X utf8 /opt/rlvr/runner --listen /sock --slots 4 --uid 20000`."""

import os
import sys

if not __package__:  # started as a folder: make it a package, then forget where it came from
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[0] = os.path.dirname(here)
    __package__ = os.path.basename(here)
    __import__(__package__)

from .service import main

if sys.path and sys.path[0] == os.path.dirname(os.path.dirname(os.path.abspath(__file__))):
    del sys.path[0]

if __name__ == "__main__":
    main()
