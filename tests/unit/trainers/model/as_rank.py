"""What one rank of a test runs: the command line, or a script. `runpy` starts it in a process that has torch loaded."""

import os
import runpy
import sys

os.environ.update(ENVIRONMENT)  # type: ignore[name-defined]  # noqa: F821
_log = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)  # type: ignore[name-defined]  # noqa: F821
os.dup2(_log, 1)
os.dup2(_log, 2)

if ARGV[0].endswith(".py"):  # type: ignore[name-defined]  # noqa: F821
    sys.argv = list(ARGV)  # type: ignore[name-defined]  # noqa: F821
    runpy.run_path(ARGV[0], run_name="__main__")  # type: ignore[name-defined]  # noqa: F821
else:
    from rlvr.cli.main import main

    sys.exit(main(ARGV))  # type: ignore[name-defined]  # noqa: F821
