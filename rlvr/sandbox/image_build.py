"""Making the image: from the Dockerfile where a registry can be reached, else from this machine's Python or Debian's packages."""

from __future__ import annotations

import fcntl
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlvr.errors import SandboxError
from rlvr.sandbox.engine import describe_engine, engine_error
from rlvr.sandbox.image import (
    ALL_LAYERS,
    LABEL_ORIGIN,
    Image,
    Layer,
    Progress,
    base_tag_of,
    described,
    find_image,
    image_labels,
    sorted_layers,
    tag_of,
)
from rlvr.sandbox.owner import LABEL, LABEL_OWNER, this_owner
from rlvr.sandbox.sources import RUNNER, build_context, sandbox_folder

if TYPE_CHECKING:
    from docker import DockerClient

BASE = "python:3.12-slim"
PULL_TIMEOUT_S = 20.0  # of silence: a registry behind a wall drops packets without a word
STAGING_TIMEOUT_S = 1800.0  # wheels or packages may have to be fetched
ENVIRONMENT = ("PATH=/usr/local/bin:/usr/bin", "LANG=C.UTF-8")
TEST_FOLDER = "/box/test"  # runc gives a mount on an existing folder that folder's mode, so it must be a new one
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}

# The last step: only the runner. Its bytecode is made now, because a container cannot keep it.
_FINAL = """\
FROM {base}
COPY runner /opt/rlvr/runner
RUN ["python3", "-I", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", "/opt/rlvr/runner"]
"""


class Origin(StrEnum):
    """What the image's Python comes from."""

    AUTO = "auto"  # the first of these that works
    REGISTRY = "registry"  # the Dockerfile
    HOST = "host"  # a copy of the Python that runs this
    DEBIAN = "debian"  # Debian's packages, fetched with apt


def ensure_image(client: DockerClient, layers: Sequence[Layer] | None = None, *, progress: Progress | None = None) -> Image:
    """The image of this rlvr with at least `layers`, made now if the engine has none. Two processes do not make it twice.

    `layers` None: all of them, unless the user has built an image with fewer.

    Raises:
        SandboxError: there is none, and it cannot be made.
    """
    found = find_image(client, layers)
    if found is None:
        with one_at_a_time():
            made_meanwhile = find_image(client, layers)
            found = made_meanwhile or build_image(client, ALL_LAYERS if layers is None else layers, progress=progress)
    return found


def build_image(
    client: DockerClient,
    layers: Sequence[Layer] = ALL_LAYERS,
    *,
    origin: Origin = Origin.AUTO,
    base: str = BASE,
    is_fresh: bool = False,
    is_chosen: bool = False,
    progress: Progress | None = None,
) -> Image:
    """Make the image and test it. `base`: for the Dockerfile; `is_fresh`: everything anew, also what is there already;
    `is_chosen`: the user wants just these layers, so that they are not made up for later.

    Raises:
        SandboxError: nothing that it could be made from is here; what was tried, and why it failed.
    """
    say = progress or (lambda _: None)
    bottom = None if is_fresh or origin is not Origin.AUTO else _existing_base(client, layers)
    if bottom is None:
        bottom = _make_base(client, layers, origin, base, say)
    say("testing it")
    versions = _self_test(client, bottom.id, layers)
    say("adding the runner")
    labels = image_labels(layers, bottom.labels.get(LABEL_ORIGIN, ""), versions, is_chosen=is_chosen)
    context = build_context(RUNNER, _FINAL.format(base=base_tag_of(layers)))
    return described(_build(client, context, tag=tag_of(layers), labels=labels, network_mode="none"))


def _existing_base(client: DockerClient, layers: Sequence[Layer]) -> Any | None:
    with engine_error("listing images"):
        found = client.images.list(name=base_tag_of(layers))
    return found[0] if found else None


def _make_base(client: DockerClient, layers: Sequence[Layer], origin: Origin, base: str, say: Progress) -> Any:
    routes = [origin] if origin is not Origin.AUTO else [Origin.REGISTRY, Origin.HOST, Origin.DEBIAN]
    failures: list[str] = []
    for route in routes:
        try:
            if route is Origin.REGISTRY:
                return _from_registry(client, layers, base, say)
            return _from_here(client, layers, route, say)
        except SandboxError as error:
            say(str(error))
            failures.append(str(error))
    fewer = f" (without layers: rlvr sandbox build --layers ''; asked for: {_names(layers)})" if layers else ""
    raise SandboxError(f"the sandbox's image cannot be made{fewer}: " + "; ".join(failures))


def _from_registry(client: DockerClient, layers: Sequence[Layer], base: str, say: Progress) -> Any:
    _pull(client, base, say)
    say(f"building from {base} with {_names(layers)}")
    labels = {LABEL: "1", LABEL_ORIGIN: f"Dockerfile, {base}"}
    return _build(
        client, build_context(("rootfs", "runner", "Dockerfile")), tag=base_tag_of(layers), labels=labels,
        network_mode="host",  # where the engine has no bridge, too
        buildargs={"BASE": base, "LAYERS": ",".join(sorted_layers(layers))},
    )  # fmt: skip


def _pull(client: DockerClient, base: str, say: Progress) -> None:
    with engine_error("listing images"):
        if client.images.list(name=base):
            return
    say(f"pulling {base}")
    previous, client.api.timeout = client.api.timeout, PULL_TIMEOUT_S
    try:
        with engine_error(f"pulling {base}"):
            for line in client.api.pull(*base.rsplit(":", 1), stream=True, decode=True):
                _raise_error_of(line, f"pulling {base}")
    finally:
        client.api.timeout = previous


def _from_here(client: DockerClient, layers: Sequence[Layer], route: Origin, say: Progress) -> Any:
    _require_same_machine(client)
    own = route is Origin.HOST
    say(f"{'copying the Python that runs this' if own else 'fetching Debian packages'}, with {_names(layers)}")
    with tempfile.TemporaryDirectory(prefix="rlvr-image-") as folder:
        tar = Path(folder, "rootfs.tar")
        facts = _stage(tar, layers, "own" if own else "debian")
        say(f"importing {tar.stat().st_size / 1e6:.0f} MB")
        words = f"{'copy of this machine' if own else 'Debian packages'}, Python {facts['python']}"
        changes = [
            *(f"ENV {setting}" for setting in ENVIRONMENT),
            "WORKDIR /box",
            f"LABEL {LABEL}=1 {LABEL_ORIGIN}={json.dumps(words)}",
        ]
        repository, _, tag = base_tag_of(layers).partition(":")
        with engine_error("importing the image"):
            answer = client.api.import_image_from_file(str(tar), repository=repository, tag=tag, changes=changes)
            for line in answer.splitlines():
                _raise_error_of(json.loads(line), "importing the image")
            return client.images.get(base_tag_of(layers))


def _require_same_machine(client: DockerClient) -> None:
    engine = describe_engine(client).architecture
    here = os.uname()
    if here.sysname != "Linux" or MACHINES.get(engine, engine) != here.machine:
        raise SandboxError(
            f"the engine runs on Linux, {engine}, but this is {here.sysname}, {here.machine}: this Python cannot be copied there"
        )


def _stage(tar: Path, layers: Sequence[Layer], python: str) -> Mapping[str, Any]:
    command = [sys.executable, "-m", "rootfs", "--python", python, "--layers", ",".join(sorted_layers(layers)), "--tar", str(tar)]
    try:
        answer = subprocess.run(
            command, cwd=sandbox_folder(), capture_output=True, text=True, check=False, timeout=STAGING_TIMEOUT_S,
            env={**os.environ, "TMPDIR": str(tar.parent), "PYTHONDONTWRITEBYTECODE": "1"},
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise SandboxError(f"putting the root file system together took more than {STAGING_TIMEOUT_S:.0f} s") from error
    if answer.returncode != 0:
        cause = " ".join(answer.stderr.split())[-600:].removeprefix("rootfs: ")
        if "No space left on device" in cause:
            free_mb = shutil.disk_usage(tar.parent).free / 1e6
            raise SandboxError(f"{tempfile.gettempdir()} is full ({free_mb:.0f} MB free): free some space there, or set TMPDIR")
        raise SandboxError(f"a root file system {'of this Python' if python == 'own' else 'of Debian packages'}: {cause}")
    facts: Mapping[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    return facts


def _build(client: DockerClient, context: bytes, **settings: Any) -> Any:
    """The classic builder, which every engine since 20.10 has without a plugin."""
    output: list[str] = []
    with engine_error("building the image"):
        lines = client.api.build(fileobj=io.BytesIO(context), custom_context=True, rm=True, forcerm=True, decode=True, **settings)
        for line in lines:
            output.append(str(line.get("stream", "")))
            _raise_error_of(line, "building the image", "".join(output)[-600:])
        return client.images.get(settings["tag"])


def _self_test(client: DockerClient, image: str, layers: Sequence[Layer]) -> Mapping[str, str]:
    source = (sandbox_folder() / "rootfs" / "selftest.py").read_text(encoding="utf-8")
    with engine_error("testing the image"):
        answer = client.containers.run(
            image,
            ["python3", "-s", "-P", "-X", "utf8", "-c", source, TEST_FOLDER, *sorted_layers(layers)],
            user="65534:65534",
            working_dir="/",  # the engine makes a working directory before it mounts
            network_mode="none",
            read_only=True,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            tmpfs={TEST_FOLDER: "mode=1777,size=64m,exec,nosuid,nodev"},
            labels={LABEL: "1", LABEL_OWNER: this_owner()},
            remove=True,
        )
    report = json.loads(answer.decode().splitlines()[-1])
    if report["faults"]:
        shown = "; ".join(report["faults"][:5])
        raise SandboxError(f"the new image failed its self-test: {shown}; try another origin: rlvr sandbox build --from debian")
    return {name: str(version) for name, version in report["facts"].items()}


def _raise_error_of(line: Mapping[str, Any], doing: str, output: str = "") -> None:
    message = str(line.get("error") or "")
    if "no space left on device" in message.lower():
        raise SandboxError(f"{doing}: the engine's disk is full: free some (`rlvr sandbox prune`, `docker system df`)")
    if message:
        said = f"\n{output.strip()}" if output.strip() else ""
        raise SandboxError(f"{doing}: {message.strip()[:400]}{said}")


def _names(layers: Sequence[Layer]) -> str:
    return " and ".join(sorted_layers(layers)) or "no layers"


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Of all processes of this user on this machine, one is inside at a time."""
    path = Path(tempfile.gettempdir(), f"rlvr-image-{os.getuid()}.lock")
    try:
        # Nobody else may own it, or a link in a shared folder could name any file of ours.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SandboxError(f"the lock {path} cannot be opened ({error}): remove it, or set TMPDIR") from error
    with os.fdopen(descriptor, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
