"""Debian packages: what belongs to an installed one, and fetching one without installing it. Neither needs root."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

from rootfs.tree import StagingError

_RELATION = re.compile(r"[A-Za-z0-9][A-Za-z0-9+.-]*")
# Named by dependencies, but only for installing.
NOT_FOLLOWED = frozenset(("dpkg", "debconf", "debconf-2.0", "cdebconf", "perl-base", "tzdata", "install-info", "libc-bin"))


def run(*command: str, folder: Path | None = None) -> str:
    """
    Raises:
        StagingError: the command is not there, or failed.
    """
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=folder, env={**os.environ, "LC_ALL": "C"}
        )
    except FileNotFoundError as error:
        raise StagingError(f"{command[0]!r} is not installed: this is no Debian") from error
    if answer.returncode != 0:
        raise StagingError(f"{' '.join(command[:3])} failed: {answer.stderr.strip()[-300:]}")
    return answer.stdout


def is_installed(package: str) -> bool:
    try:
        return run("dpkg-query", "-W", "-f", "${db:Status-Abbrev}", package).startswith("ii")
    except StagingError:
        return False


def closure(packages: Iterable[str], *, installed: bool) -> list[str]:
    """The packages and everything that they depend on, by name; of alternatives the first.

    Raises:
        StagingError: apt knows none of `packages`.
    """
    found: dict[str, None] = {}
    wanted = [*packages]
    while wanted:
        known = _installed_dependencies(wanted) if installed else _available_dependencies(wanted)
        if not found and not known:
            raise StagingError(f"apt knows no package {', '.join(wanted)}; has 'apt-get update' been run?")
        found.update(dict.fromkeys(known))
        named = {name for relations in known.values() for name in _first_names(relations)}
        wanted = sorted(named - set(found) - NOT_FOLLOWED)
    return list(found)


def _first_names(relations: str) -> list[str]:
    """ "a (>= 1), b | c" -> ["a", "b"]"""
    matches = (_RELATION.match(relation.strip()) for relation in relations.split(","))
    return [match[0] for match in matches if match]


def _installed_dependencies(packages: list[str]) -> dict[str, str]:
    layout = "${Package}\t${db:Status-Abbrev}\t${Pre-Depends}, ${Depends}\n"
    answer = subprocess.run(["dpkg-query", "-W", "-f", layout, *packages], capture_output=True, text=True, check=False)
    rows = (line.split("\t") for line in answer.stdout.splitlines())
    return {name: relations for name, status, relations in rows if status.startswith("ii")}


def _available_dependencies(packages: list[str]) -> dict[str, str]:
    answer = subprocess.run(["apt-cache", "show", "--no-all-versions", *packages], capture_output=True, text=True, check=False)
    found: dict[str, str] = {}
    for paragraph in answer.stdout.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in paragraph.splitlines() if ": " in line and not line.startswith(" "))
        if "Package" in fields:
            found[fields["Package"]] = f"{fields.get('Pre-Depends', '')},{fields.get('Depends', '')}"
    return found


def files_of(packages: Iterable[str]) -> list[Path]:
    """What installed packages own: files and links, no folders."""
    lines = run("dpkg", "-L", *packages).splitlines()
    return sorted({path for line in lines if line.startswith("/") and _is_leaf(path := Path(line))})


def leaves(folder: Path) -> list[Path]:
    """The files and links below a folder, sorted."""
    return [path for path in sorted(folder.rglob("*")) if _is_leaf(path)]


def _is_leaf(path: Path) -> bool:
    return path.is_symlink() or path.is_file()


def unpack(packages: list[str], into: Path) -> None:
    """Fetch packages and unpack them into a folder; nothing is installed.

    Raises:
        StagingError: apt cannot fetch one.
    """
    archives = into.with_name(f"{into.name}.debs")
    archives.mkdir()
    # Run by root, apt wants to become a user who cannot write here, and says so at length.
    run("apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", *packages, folder=archives)
    into.mkdir()
    for archive in sorted(archives.glob("*.deb")):
        run("dpkg-deb", "-x", str(archive), str(into))
        archive.unlink()
