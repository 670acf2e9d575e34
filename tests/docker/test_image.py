"""The image on a real engine: made without a registry and by the Dockerfile, tested, found again, removed."""

from __future__ import annotations

import fcntl
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from docker.errors import ImageNotFound, NotFound

from rlvr.cli.main import main
from rlvr.errors import SandboxError
from rlvr.sandbox.docker import DockerBackend
from rlvr.sandbox.engine import connect_engine
from rlvr.sandbox.image import ALL_LAYERS, Layer, base_tag_of, find_image, tag_of
from rlvr.sandbox.image_build import Origin, _build, _self_test, build_image, ensure_image
from rlvr.sandbox.leftovers import list_containers, remove_leftovers
from rlvr.sandbox.owner import LABEL, LABEL_OWNER, this_owner
from rlvr.sandbox.sources import sandbox_folder


@pytest.fixture(scope="session")
def client(docker_host: str) -> Iterator[Any]:
    with closing(connect_engine(docker_host)) as connected:
        yield connected


@pytest.fixture
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """For tests that make and remove the image without layers: of the processes that test, one at a time."""
    with (tmp_path_factory.getbasetemp().parent / "image-without-layers.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def image(client: Any) -> Any:
    return ensure_image(client)


def run_in(client: Any, image: str, code: str) -> str:
    output: bytes = client.containers.run(
        image, ["python3", "-s", "-P", "-c", code], network_mode="none", read_only=True, remove=True, user="65534:65534"
    )
    return output.decode()


def test_the_image_is_found_again_by_what_it_was_made_from(client: Any, image: Any) -> None:
    assert image.is_current
    assert image.digest.startswith("sha256:")
    assert find_image(client) == find_image(client)
    assert ensure_image(client, image.layers, progress=lambda words: pytest.fail(f"made again: {words}")).digest
    assert image.versions["python"].startswith("3.")


def test_the_image_holds_a_python_and_the_runner_and_no_shell(client: Any, image: Any) -> None:
    code = (
        "import os, json; print(json.dumps([os.listdir('/opt/rlvr/runner'), os.listdir('/usr/local/bin'), os.readlink('/tmp')]))"
    )
    runner, programs, temporary = json.loads(run_in(client, image.tag, code))
    assert {"__main__.py", "__pycache__"} <= set(runner)
    assert all(name.startswith("python") for name in programs)
    assert temporary == "/proc/self/cwd"
    with pytest.raises(Exception, match=r"executable file not found|no such file"):
        client.containers.run(image.tag, ["sh", "-c", "true"], network_mode="none", remove=True)


@pytest.mark.usefixtures("alone")
def test_a_python_without_packages_is_made_from_this_one_in_seconds(client: Any) -> None:
    said: list[str] = []
    small = build_image(client, [], origin=Origin.HOST, is_fresh=True, progress=said.append)
    assert small.layers == ()
    assert small.versions == {"python": sys.version.split()[0]}
    assert small.size_mb < 120
    assert small.tag == tag_of([])
    assert said[0] == "copying the Python that runs this, with no layers"
    assert run_in(client, small.tag, "import sys; print(sys.prefix)") == "/usr/local\n"


def test_a_broken_image_fails_its_self_test_with_the_reason(client: Any, image: Any) -> None:
    make_setuid = """RUN ["python3", "-c", "open('/usr/bin/su', 'w').close(); import os; os.chmod('/usr/bin/su', 0o4755)"]"""
    dockerfile = f"FROM {image.tag}\n{make_setuid}\nENV PYTHONPATH=/broken\nCOPY zlib.py /broken/zlib.py\n"
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as archive:
        for name, content in (("Dockerfile", dockerfile), ("zlib.py", "raise ImportError('no')")):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content.encode()))
    broken = _build(client, context.getvalue(), tag="rlvr-test-broken:1", network_mode="none")
    try:
        with pytest.raises(SandboxError, match=r"failed its self-test: import zlib: no; /usr/bin/su is there") as error:
            _self_test(client, broken.id, [])
        assert "/usr/bin/su is setuid" in str(error.value)
    finally:
        client.images.remove("rlvr-test-broken:1", force=True)


@pytest.mark.usefixtures("alone")
def test_an_image_without_the_compiler_fails_where_one_was_asked_for(client: Any) -> None:
    small = build_image(client, [])
    with pytest.raises(SandboxError, match=r"failed its self-test: g\+\+: .*No such file"):
        _self_test(client, small.digest, [Layer.CPP])


@pytest.mark.usefixtures("alone")
def test_two_processes_do_not_make_the_image_twice(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    remove_image(client, tag_of([]), base_tag_of([]))
    from rlvr.sandbox import image_build as module

    find = module.find_image
    # As if there were no image with more layers, which would do.
    monkeypatch.setattr(
        module,
        "find_image",
        lambda engine, layers=None: found if (found := find(engine, layers)) and found.layers == layers else None,
    )
    said: list[str] = []
    made: list[str] = []

    def make() -> None:
        made.append(ensure_image(client, (), progress=said.append).digest)

    threads = [threading.Thread(target=make) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 2
    assert made[0] == made[1]
    assert said.count("adding the runner") == 1
    remove_image(client, tag_of([]), base_tag_of([]))


def remove_image(client: Any, *tags: str) -> None:
    for tag in tags:
        with suppress(ImageNotFound):
            client.images.remove(tag, force=True)


def test_an_engine_that_reaches_no_registry_says_what_was_tried(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SandboxError, match=r"the sandbox's image cannot be made.*pulling no-such-image:1"):
        build_image(client, [], origin=Origin.REGISTRY, base="no-such-image:1")


def test_a_full_disk_while_the_root_file_system_is_made_is_said_so(
    client: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(small)], check=False).returncode != 0:
        pytest.skip("mounting is not allowed here")
    try:
        monkeypatch.setattr("tempfile.tempdir", str(small))
        with pytest.raises(SandboxError, match=r"small is full .* set TMPDIR"):
            build_image(client, [], origin=Origin.HOST, is_fresh=True)
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_container_of_a_killed_process_is_removed_when_the_next_sandbox_starts(
    docker_host: str, client: Any, image: Any
) -> None:
    code = (
        "import sys, time; from rlvr.sandbox.engine import connect_engine; from rlvr.sandbox.owner import *;"
        f"container = connect_engine().containers.run({image.tag!r}, ['python3', '-c', 'import time; time.sleep(600)'],"
        "detach=True, network_mode='none', labels={LABEL: '1', LABEL_OWNER: this_owner()});"
        "print(container.name, flush=True); time.sleep(600)"
    )
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    name = owner.stdout.readline().strip()
    try:
        assert {found.name: found.is_left for found in list_containers(client)}[name] is False
        assert name not in remove_leftovers(client).containers
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        # Other tests of this run may start a sandbox at any moment, which removes it too.
        assert {found.name: found.is_left for found in list_containers(client)}.get(name, True) is True
        DockerBackend(docker_host).close()
        assert name not in {found.name for found in list_containers(client)}
    finally:
        owner.kill()
        owner.wait()
        owner.stdout.close()
        for container in client.containers.list(all=True, filters={"name": f"^/{name}$"}):
            container.remove(force=True)


def test_prune_from_the_command_line_says_what_it_removed(client: Any, image: Any, capsys: pytest.CaptureFixture[str]) -> None:
    pid, started, machine = this_owner().split(":")
    labels = {LABEL: "1", LABEL_OWNER: f"{pid}:{int(started) + 1}:{machine}"}  # a process that had this one's number before
    for _ in range(5):  # another test's sandbox may be faster
        container = client.containers.run(image.tag, ["python3", "-c", "pass"], detach=True, network_mode="none", labels=labels)
        with suppress(NotFound):
            container.wait()
        assert main(["sandbox", "prune", "--json"]) == 0
        if container.name in json.loads(capsys.readouterr().out)["removed"]:
            return
    pytest.fail("nothing was removed")


def test_a_tag_names_every_layer_that_was_asked_for(client: Any, image: Any) -> None:
    if set(image.layers) == set(ALL_LAYERS):
        assert image.tag == tag_of(ALL_LAYERS)
    assert image.has([])


@pytest.fixture(scope="module")
def base_with_a_shell(client: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """What a registry would give: an image with a Python in /usr, a shell, and the tools that the Dockerfile uses."""
    if shutil.which("apt-get") is None:
        pytest.skip("the base image of this test is made from Debian packages")
    folder = tmp_path_factory.mktemp("base")
    script = """
import sys
from pathlib import Path
from rootfs import debian
from rootfs.tree import Tree
root, tree = Path(sys.argv[1], "unpacked"), Tree(Path(sys.argv[1], "tree"))
packages = debian.closure(["python3", "bash", "dash", "coreutils", "grep", "sed"], installed=False)
debian.unpack(sorted({*packages, "libc-bin"}), root)
for path in debian.leaves(root):
    tree.copy_as_is(path, "/" + str(path.relative_to(root)))
tree.furnish()
tree.path("/tmp").unlink()
tree.path("/tmp").mkdir()
tree.pack(Path(sys.argv[1], "base.tar"))
"""
    answer = subprocess.run(
        [sys.executable, "-c", script, str(folder)], cwd=sandbox_folder(), capture_output=True, text=True, check=False
    )
    if answer.returncode != 0:
        pytest.skip(f"Debian packages cannot be fetched here: {answer.stderr[-300:]}")
    client.api.import_image_from_file(
        str(folder / "base.tar"), repository="rlvr-test-base", tag="1", changes=["ENV PATH=/usr/bin:/bin"]
    )
    yield "rlvr-test-base:1"
    client.images.remove("rlvr-test-base:1", force=True)
    shutil.rmtree(folder)


@pytest.mark.usefixtures("alone")
def test_the_dockerfile_makes_the_same_kind_of_image_from_another_ones_python(client: Any, base_with_a_shell: str) -> None:
    remove_image(client, tag_of([]), base_tag_of([]))
    try:
        made = build_image(client, [], origin=Origin.REGISTRY, base=base_with_a_shell)
        assert made.origin == f"Dockerfile, {base_with_a_shell}"
        assert run_in(client, made.tag, "import os, sys; print(sys.prefix, os.path.lexists('/bin/sh'))") == "/usr/local False\n"
    finally:
        remove_image(client, tag_of([]), base_tag_of([]))
