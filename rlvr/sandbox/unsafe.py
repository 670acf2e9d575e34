"""Plain processes of this user: no protection at all. For submissions that are trusted, where nothing else can be had."""

from __future__ import annotations

import os
import sys

from rlvr.sandbox.folders import new_box_folder
from rlvr.sandbox.jobs import Flavor
from rlvr.sandbox.local import LocalBox, Part
from rlvr.sandbox.sources import sandbox_folder


class UnsafeBackend:
    """Runs submissions as this user, with its files and its network. Limits, time-outs and grading outside hold; nothing else."""

    name = "unsafe"

    def start(self, slots: int, flavor: Flavor, *, is_for_sessions: bool = False) -> LocalBox:
        folder = new_box_folder()
        sockets = folder / "sock"
        command = [
            *(sys.executable, "-s", "-P", "-X", "utf8", str(sandbox_folder() / "runner")),
            *("--listen", str(sockets), "--slots", str(slots), "--preload", flavor),
            *("--users", "shared", "--filter", "off", "--work", str(folder / "box")),
        ]
        environment = {"PATH": os.environ.get("PATH", os.defpath), "PYTHONHASHSEED": "0"}
        return LocalBox(folder.name, "unsafe", folder, [Part(command, sockets, slots)], environment)

    def close(self) -> None:
        """Nothing is held."""
