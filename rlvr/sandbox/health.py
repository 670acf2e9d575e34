"""Is there a sandbox on this machine, and does it hold? Findings in words, for `rlvr doctor` and `rlvr sandbox status`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rlvr.errors import SandboxError

if TYPE_CHECKING:
    from rlvr.sandbox.engine import Engine
    from rlvr.sandbox.image import Image
    from rlvr.sandbox.leftovers import Container

LOW_DISK_GB = 2.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding. `off`: not there, which is a choice; `warn`: there, and something is wrong with it."""

    name: str
    level: Literal["ok", "off", "warn"]
    value: str
    do: str = ""


@dataclass(frozen=True, slots=True)
class HostStatus:
    """One engine: what it is, our images and containers on it; `error` says why it cannot be asked."""

    host: str
    engine: Engine | None = None
    images: tuple[Image, ...] = ()
    containers: tuple[Container, ...] = ()
    error: str = ""


def host_status(host: str) -> HostStatus:
    """Everything that rlvr knows about an engine; a failure is part of the answer."""
    from rlvr.sandbox.engine import connect_engine, describe_engine
    from rlvr.sandbox.image import list_images
    from rlvr.sandbox.leftovers import list_containers

    try:
        with closing(connect_engine(host, timeout_s=10.0)) as client:
            engine = describe_engine(client, host)
            return HostStatus(host, engine, tuple(list_images(client)), tuple(list_containers(client)))
    except SandboxError as error:
        return HostStatus(host, error=str(error))


def examine() -> Iterator[Finding]:
    """What is there, what is missing, and what to do; then an attempt to break out, where that costs seconds."""
    if find_spec("docker") is None:
        yield Finding("docker engine", "off", "docker-py is not installed", "pip install 'rlvr[docker]'")
        yield _bubblewrap()
        return
    from rlvr.sandbox.engine import engine_addresses
    from rlvr.sandbox.image import fitting_image

    hosts = [host_status(host) for host in engine_addresses()]
    for host in hosts:
        yield from _host(host)
    working = [host for host in hosts if host.engine is not None]
    if not working:
        yield _bubblewrap()
    elif all(fitting_image(host.images) is not None for host in working):
        yield self_test()


def _host(host: HostStatus) -> Iterator[Finding]:
    engine = host.engine
    if engine is None:
        yield Finding("docker engine", "off", host.error)
        return
    value = f"{engine.version} (API {engine.api}), cgroup v{engine.cgroup_version}, {engine.storage}, at {host.host}"
    if engine.lacks:
        cure = "containers run without them; use cgroup v2, or a rootful engine" if engine.is_rootless else "see the engine's log"
        yield Finding("docker engine", "warn", f"{value}; it cannot enforce {', '.join(engine.lacks)}", cure)
    else:
        yield Finding("docker engine", "ok", value)
    yield from _disk(host, engine)
    from rlvr.sandbox.image import fitting_image

    image = fitting_image(host.images)
    if image is None:
        yield Finding("sandbox image", "off", "none yet; it is made at its first use", "rlvr sandbox build makes it now")
    else:
        versions = ", ".join(f"{name} {version}" for name, version in image.versions.items())
        yield Finding("sandbox image", "ok", f"{image.tag}, {image.size_mb:.0f} MB, {versions}")
    left = [container.name for container in host.containers if container.is_left]
    if left:
        yield Finding("sandbox leftovers", "warn", f"{len(left)} containers of crashed runs", "rlvr sandbox prune")


def _disk(host: HostStatus, engine: Engine) -> Iterator[Finding]:
    if not host.host.startswith("unix://") or not Path(engine.root_folder).is_dir():
        return  # another machine's disk
    free_gb = shutil.disk_usage(engine.root_folder).free / 1e9
    if free_gb < LOW_DISK_GB:
        value = f"{free_gb:.1f} GB free in {engine.root_folder}"
        yield Finding("docker disk", "warn", value, "an image needs 0.5 GB: rlvr sandbox prune --images, docker system prune")


def _bubblewrap() -> Finding:
    program = shutil.which("bwrap")
    if program is None:
        return Finding("bubblewrap", "off", "not installed", "without Docker it is what runs code: apt-get install bubblewrap")
    return Finding("bubblewrap", "ok", f"{program}, used where no Docker engine answers")


def self_test() -> Finding:
    """Run the escapes in this machine's sandbox."""
    from rlvr.sandbox.escapes import run_escapes
    from rlvr.sandbox.shared import make_sandbox

    try:
        sandbox = make_sandbox("auto", slots=2)
        try:
            outcomes = run_escapes(sandbox)
        finally:
            sandbox.close()
    except SandboxError as error:
        return Finding("sandbox self-test", "warn", str(error), "rlvr sandbox test says more")
    escaped = [outcome for outcome in outcomes if not outcome.is_contained]
    if escaped:
        words = "; ".join(f"{outcome.name}: {outcome.detail}" for outcome in escaped)
        return Finding(
            "sandbox self-test", "warn", f"{len(escaped)} of {len(outcomes)} escapes succeeded: {words}", "do not use it"
        )
    return Finding("sandbox self-test", "ok", f"{len(outcomes)} of {len(outcomes)} attempts to break out were stopped")
