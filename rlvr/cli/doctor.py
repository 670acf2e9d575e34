"""`rlvr doctor`: is this machine ready, and with what?"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Literal

HELP = (
    "Check this machine: Python, packages, device, threads, memory, disk, Docker, data. Exit code 3 if training cannot run here."
)

NEEDED_EXTRAS = ("math", "train")  # without these `rlvr train` cannot run; the others are choices
LOW_DISK_GB = 5.0
LOW_MEMORY_GB = 2.0


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. `off` is a choice, `warn` is worth reading, `missing` means that training cannot run here."""

    name: str
    status: Literal["ok", "off", "warn", "missing"]
    value: str
    do: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help='print {"ok": bool, "checks": [...]}')


def run(args: argparse.Namespace) -> int:
    checks = list(examine())
    is_ready = all(check.status != "missing" for check in checks)
    if args.json:
        print(json.dumps({"ok": is_ready, "checks": [asdict(check) for check in checks]}, indent=2))
    else:
        for check in checks:
            hint = f"  -> {check.do}" if check.do else ""
            print(f"{check.status:<8} {check.name:<22} {check.value}{hint}")
        print("\nready to train" if is_ready else "\nnot ready: install what is missing above")
    return 0 if is_ready else 3


def examine() -> Iterator[Check]:
    """All checks, cheap ones first."""
    yield Check("python", "ok", f"{sys.version.split()[0]} on {sys.platform}, {sys.executable}")
    yield from _packages()
    yield from _torch()
    yield _memory()
    yield _disk()
    yield _data()
    yield from _sandbox()


def _packages() -> Iterator[Check]:
    extras = requirements()
    needed = extras[""] | extras["train"]  # without these `rlvr train` cannot run; the others are choices
    seen: set[str] = set()
    for extra, packages in extras.items():
        for name, wanted in packages.items():
            if name not in seen:
                yield _package(name, wanted, extra, is_needed=name in needed)
            seen.add(name)


def _package(name: str, wanted: str, extra: str, *, is_needed: bool) -> Check:
    installed = _version(name)
    label = f"{name} [{extra}]" if extra else name
    install = f"pip install 'rlvr[{'train' if is_needed else extra}]'"
    if installed is None:
        return Check(label, "missing" if is_needed else "off", "not installed", install)
    if not _satisfies(installed, wanted):
        return Check(label, "missing" if is_needed else "warn", f"{installed}, but rlvr needs {wanted}", install)
    return Check(label, "ok", installed)


def requirements() -> dict[str, dict[str, str]]:
    """Extra -> package -> version range, of everything that rlvr declares, development tools aside; "" is the core.

    Small extras come first, so that the first one with a package is the least to install for it.
    """
    import re
    from importlib.metadata import requires

    found: dict[str, dict[str, str]] = {"": {}, "train": {}}
    for requirement in requires("rlvr") or []:
        declared, _, marker = requirement.partition(";")
        match = re.search(r"extra == ['\"]([\w-]+)['\"]", marker)
        extra = match[1] if match else ""
        parts = re.match(r"([\w.-]+)(?:\[[^]]*\])?\s*(.*)", declared.strip())
        if parts and parts[1] != "rlvr" and extra != "dev":
            found.setdefault(extra, {})[parts[1]] = parts[2].strip()
    return dict(sorted(found.items(), key=lambda item: (item[0] != "", len(item[1]), item[0])))


def _version(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _satisfies(installed: str, wanted: str) -> bool:
    try:
        from packaging.specifiers import SpecifierSet
    except ImportError:  # comes with torch's friends; a machine without them is reported as such
        return True
    return SpecifierSet(wanted).contains(installed, prereleases=True)


def _torch() -> Iterator[Check]:
    if _version("torch") is None:
        return
    import torch

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            precision = "bf16" if torch.cuda.is_bf16_supported() else "no bf16"
            yield Check(f"device cuda:{index}", "ok", f"{properties.name}, {properties.total_memory / 1e9:.0f} GB, {precision}")
    elif torch.backends.mps.is_available():
        yield Check("device", "ok", "mps (Apple GPU)")
    else:
        yield Check("device", "ok", "cpu: enough for the quickstart and for tests")
    yield Check("threads", "ok", f"torch uses {torch.get_num_threads()} of {os.cpu_count()} CPUs")
    policy = os.environ.get("OMP_WAIT_POLICY", "unset")
    is_passive = policy.upper() == "PASSIVE"
    hint = "" if is_passive else "export OMP_WAIT_POLICY=PASSIVE: spinning threads are up to 50 times slower on a busy machine"
    yield Check("OMP_WAIT_POLICY", "ok" if is_passive else "warn", policy, hint)


def _memory() -> Check:
    total_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    free_gb = _free_memory_gb()
    if free_gb is None:
        return Check("memory", "ok", f"{total_gb:.1f} GB")
    value = f"{free_gb:.1f} of {total_gb:.1f} GB free"
    return Check("memory", "warn", value, "close programs") if free_gb < LOW_MEMORY_GB else Check("memory", "ok", value)


def _free_memory_gb() -> float | None:
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            fields = dict(line.split(":", 1) for line in lines)
    except OSError:  # not Linux
        return None
    return int(fields["MemAvailable"].split()[0]) * 1024 / 1e9


def _disk() -> Check:
    import shutil

    usage = shutil.disk_usage(".")
    value = f"{usage.free / 1e9:.1f} of {usage.total / 1e9:.1f} GB free in {os.getcwd()}"
    if usage.free / 1e9 < LOW_DISK_GB:
        return Check("disk", "warn", value, "runs write checkpoints and rollouts here; free some space or set out=...")
    return Check("disk", "ok", value)


def _sandbox() -> Iterator[Check]:
    """Code is verified there; training on other tasks does without."""
    from rlvr.sandbox.health import examine as examine_sandbox

    for finding in examine_sandbox():
        yield Check(finding.name, finding.level, finding.value, finding.do)


def _data() -> Check:
    folder = os.environ.get("RLVR_DATA")
    if folder is None:
        return Check("RLVR_DATA", "off", "unset: real tasks load from the Hugging Face hub")
    if not os.path.isdir(folder):
        return Check("RLVR_DATA", "warn", f"{folder} is not a folder", "point it at a folder of JSONL or Parquet files")
    return Check("RLVR_DATA", "ok", f"{folder}, {len(os.listdir(folder))} files")
