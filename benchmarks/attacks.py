"""Attacks on graders of code: which naive harnesses each one fools, and what this project's sandbox says to it, in the same run.

    python benchmarks/attacks.py [--theme equality] [--markdown]

Needs a container engine. The naive harnesses reject a plain wrong answer (a test shows it), and run in a plain container of the
same image. Prints one line for each attack and the sums. Exit code 1 where an attack is taken for a solution or left without a
score, or where it fools no naive harness and so shows nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from rlvr.sandbox.docker import DockerBackend
from rlvr.sandbox.pool import SandboxPool
from tests.docker.attacks.catalog import ALL, BY_THEME
from tests.docker.attacks.model import Attack, Machine, Naive
from tests.docker.attacks.naive import PlainContainer
from tests.docker.attacks.ours import WRONG, answers_to

MEANING = {
    Naive.EXIT: "submission and tests in one script, its exit status decides",
    Naive.FLAG: "both in one process, which prints a secret at the end",
    Naive.VALUES: "called and compared in one process",
    Naive.FOLDER: "programs beside their expected output",
    Naive.CPP_EXIT: "C++ with a main() of asserts, its exit status decides",
    Naive.CPP_FOLDER: "C++ programs beside their expected output",
    Naive.SERVER: "a server that starts submissions under its own user",
    Naive.SECRET: "the same server, which keeps a secret",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--theme", choices=tuple(BY_THEME))
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    attacks = BY_THEME[options.theme] if options.theme else ALL
    host = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    plain = PlainContainer(host)
    try:
        with SandboxPool([DockerBackend(host)], slots=4) as pool:
            pool.warm_up()
            return report(attacks, plain, pool, is_markdown=options.markdown)
    finally:
        plain.close()


def report(attacks: list[Attack | Machine], plain: PlainContainer, pool: SandboxPool, *, is_markdown: bool) -> int:
    fooled = plain.fooled_by(attacks)
    sums: Counter[Naive] = Counter()
    is_good = True
    show(("theme", "attack", "naive harnesses fooled", "here"), is_markdown=is_markdown)
    if is_markdown:
        show(("---",) * 4, is_markdown=True)
    for attack in attacks:
        answers = answers_to(pool, attack)
        sums.update(fooled[attack.name])
        said = ", ".join(f"{route}: {answer}" for route, answer in answers.items() if answer != WRONG)
        is_good &= not said and bool(fooled[attack.name])
        ours = said or f"score 0 ({len(answers)} route{'s' * (len(answers) > 1)})"
        show((attack.theme, attack.name, ", ".join(sorted(fooled[attack.name])) or "NONE", ours), is_markdown=is_markdown)
    print()
    tried = Counter(naive for attack in attacks for naive in attack.fools)
    for naive, meaning in MEANING.items():
        if tried[naive]:
            print(f"{sums[naive]:4} of {tried[naive]:3} fool {naive.value!r}: {meaning}")
    print(f"{len(attacks)} attacks; {'none' if is_good else 'NOT none'} fools this sandbox")
    return 0 if is_good else 1


def show(cells: tuple[str, ...], *, is_markdown: bool) -> None:
    widths = (12, 52, 24, 0)
    print("| " + " | ".join(cells) + " |" if is_markdown else " ".join(map(str.ljust, cells, widths)).rstrip(), flush=True)


if __name__ == "__main__":
    sys.exit(main())
