"""All attacks, by theme."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.docker.attacks import equality, leaving, machine, patching, programs, reading
from tests.docker.attacks.model import Attack, Machine

ALL: Sequence[Attack | Machine] = [
    *equality.ATTACKS,
    *reading.ATTACKS,
    *leaving.ATTACKS,
    *patching.ATTACKS,
    *programs.ATTACKS,
    *machine.ATTACKS,
]
BY_THEME: Mapping[str, Sequence[Attack | Machine]] = {
    theme: [attack for attack in ALL if attack.theme == theme] for theme in dict.fromkeys(attack.theme for attack in ALL)
}
