"""How long `rlvr --help` and `import rlvr` take, against a Python that does nothing.

    python benchmarks/startup.py

Prints medians in milliseconds and the ratio to `python -c pass`, taken alternately. Exit code 1 above the limits.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import rlvr": [sys.executable, "-c", "import rlvr"],
    "rlvr --help": [str(Path(sys.executable).parent / "rlvr"), "--help"],
}
LIMITS_MS = {"import rlvr": 150.0, "rlvr --help": 400.0}
REPETITIONS = 15


def wall_ms(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - started) * 1e3


def main() -> int:
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for command in COMMANDS.values():
        wall_ms(command)  # the first one fills the disk cache and writes bytecode
    for _ in range(REPETITIONS):
        for name, command in COMMANDS.items():
            times[name].append(wall_ms(command))
    medians = {name: statistics.median(values) for name, values in times.items()}
    nothing = medians["python -c pass"]
    print(f"{'command':<16} {'median ms':>10} {'slowest':>9} {'/ python -c pass':>18} {'limit ms':>9}")
    for name, median in medians.items():
        limit = f"{LIMITS_MS[name]:.0f}" if name in LIMITS_MS else ""
        print(f"{name:<16} {median:>10.0f} {max(times[name]):>9.0f} {median / nothing:>17.1f}x {limit:>9}")
    return int(any(medians[name] > limit for name, limit in LIMITS_MS.items()))


if __name__ == "__main__":
    sys.exit(main())
