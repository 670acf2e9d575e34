"""lm-eval's own command line, with our model known to it: `python -m rlvr.evaluation.lm_eval run --model rlvr ...`.

lm-eval finds models in its own list alone, so that somebody has to add ours before its command line looks there.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec

from rlvr.errors import ConfigError, PluginError, RlvrError


def main() -> int:
    """Exit codes as those of `rlvr`: 2 for what can be changed in the command, 3 for what failed around it."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # torch reads this when it is imported
    try:
        if find_spec("lm_eval") is None:
            raise PluginError("the package 'lm-eval' is not installed; pip install 'rlvr[lm-eval]'")
        from lm_eval.__main__ import cli_evaluate

        import rlvr.evaluation.lm_eval.model  # noqa: F401

        cli_evaluate()
    except RlvrError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2 if isinstance(error, ConfigError | PluginError) else 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
