"""The root file system builder, run as the program that it is: once for real, and its parts on small trees."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from types import ModuleType

import pytest

from rlvr.sandbox.sources import sandbox_folder

ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="a Python of another system does not run in a container")


@pytest.fixture
def rootfs(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """A module of `sandbox/rootfs`, which is no part of the package."""
    import importlib

    monkeypatch.syspath_prepend(str(sandbox_folder()))
    return lambda name: importlib.import_module(f"rootfs.{name}")


@pytest.fixture(scope="session")
def staged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    """A tar file made from the Python that runs the tests, and what the program printed about it."""
    tar = tmp_path_factory.mktemp("rootfs") / "rootfs.tar"
    command = [sys.executable, "-m", "rootfs", "--tar", str(tar)]
    answer = subprocess.run(command, cwd=sandbox_folder(), capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    return tar, json.loads(answer.stdout)


@ON_LINUX
def test_this_python_becomes_a_root_file_system_of_its_own(staged: tuple[Path, dict[str, object]]) -> None:
    tar, facts = staged
    assert facts["python"] == sys.version.split()[0]
    name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    with tarfile.open(tar) as archive:
        entries = {entry.name: entry for entry in archive}
    assert entries["usr/local/bin/python3"].linkname == name
    assert entries[f"usr/local/bin/{name}"].mode == 0o755
    assert entries["tmp"].linkname == "/proc/self/cwd"
    assert {"proc", "sys", "dev", "sock", "box", "etc/passwd", "etc/group", "etc/resolv.conf"} <= set(entries)
    library = f"usr/local/{sys.platlibdir}/{name}"
    assert f"{library}/json/__init__.py" in entries
    assert any(entry.startswith(f"{library}/json/__pycache__/__init__.") for entry in entries)
    left_out = ("test", "idlelib", "tkinter", "ensurepip", "lib2to3", "site-packages/pip")
    assert not [entry for entry in entries if entry.startswith(tuple(f"{library}/{part}/" for part in left_out))]


@ON_LINUX
def test_root_owns_everything_and_nothing_is_setuid_or_writable_by_others(staged: tuple[Path, dict[str, object]]) -> None:
    with tarfile.open(staged[0]) as archive:
        for entry in archive:
            assert (entry.uid, entry.gid) == (0, 0)
            assert entry.issym() or entry.mode in (0o755, 0o644), f"{entry.name} has mode {entry.mode:o}"
            assert entry.isfile() or entry.isdir() or entry.issym(), f"{entry.name} is special"


@ON_LINUX
def test_no_path_of_this_machine_and_no_shell_is_in_it(staged: tuple[Path, dict[str, object]]) -> None:
    with tarfile.open(staged[0]) as archive:
        names = archive.getnames()
    assert not {"root", "home", "usr/bin/sh", "usr/bin/bash", "usr/bin/su"} & set(names)
    assert not [name for name in names if "pyenv" in name or "conda" in name]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tar", "x", "--layers", "java"], "unknown layer 'java'; known: science, cpp"),
        ([], "give one of --tar and --folder"),
        (["--tar", "x", "--folder", "y"], "give one of --tar and --folder"),
    ],
)
def test_wrong_arguments_are_explained(arguments: list[str], message: str) -> None:
    command = [sys.executable, "-m", "rootfs", *arguments]
    answer = subprocess.run(command, cwd=sandbox_folder(), capture_output=True, text=True, check=False)
    assert answer.returncode == 2
    assert message in answer.stderr


def test_setuid_programs_lose_the_bit_and_keep_their_time(rootfs: Callable[[str], ModuleType], tmp_path: Path) -> None:
    tree = rootfs("tree").Tree(tmp_path / "root")
    program = tmp_path / "su"
    program.write_bytes(b"#!")
    program.chmod(0o4777)
    os.utime(program, (1_000_000, 1_000_000))
    tree.copy(program, "/bin/su")
    placed = tree.path("/bin/su").stat()
    assert stat.S_IMODE(placed.st_mode) == 0o755
    assert placed.st_mtime == 1_000_000


def test_old_and_new_names_of_a_folder_are_one_folder(rootfs: Callable[[str], ModuleType], tmp_path: Path) -> None:
    tree = rootfs("tree").Tree(tmp_path)
    assert tree.path("/lib/x.so") == tree.path("/usr/lib/x.so")
    assert tree.path("/lib64/ld.so") == tmp_path / "usr/lib64/ld.so"
    tree.write("/lib/x.so", "")
    tree.furnish()
    assert os.readlink(tmp_path / "lib") == "usr/lib"
    assert (tmp_path / "lib" / "x.so").exists()


def test_a_path_that_leads_upwards_is_refused(rootfs: Callable[[str], ModuleType], tmp_path: Path) -> None:
    module = rootfs("tree")
    with pytest.raises(module.StagingError, match="leads upwards"):
        module.Tree(tmp_path).path("/usr/../../etc/passwd")


def test_the_first_file_of_a_name_stays(rootfs: Callable[[str], ModuleType], tmp_path: Path) -> None:
    tree = rootfs("tree").Tree(tmp_path / "root")
    for text in ("first", "second"):
        (tmp_path / "file").write_text(text)
        tree.copy(tmp_path / "file", "/opt/file")
    assert tree.path("/opt/file").read_text() == "first"


@pytest.mark.parametrize(
    ("path", "is_out"),
    [
        ("json/decoder.py", False),
        ("lib-dynload/_ssl.cpython-311-x86_64-linux-gnu.so", False),
        ("json/__pycache__/decoder.cpython-311.pyc", False),
        ("json/__pycache__/decoder.cpython-311.opt-2.pyc", True),
        ("test/test_json.py", True),
        ("unittest/test/test_case.py", True),
        ("unittest/case.py", False),
        ("tkinter/__init__.py", True),
        ("ensurepip/__init__.py", True),
        ("config-3.11-x86_64-linux-gnu/libpython3.11.a", True),
        ("lib-dynload/_tkinter.cpython-311-x86_64-linux-gnu.so", True),
        ("lib-dynload/_testcapi.cpython-311-x86_64-linux-gnu.so", True),
        ("site-packages", True),
    ],
)
def test_what_of_the_standard_library_stays_outside(rootfs: Callable[[str], ModuleType], path: str, *, is_out: bool) -> None:
    inside = PurePosixPath(path)
    skipped = any(rootfs("interpreter").is_left_out(part) for part in (inside, *inside.parents) if part.parts)
    assert skipped is is_out


@pytest.mark.parametrize(
    ("path", "is_needed"),
    [
        ("/usr/bin/g++", True),
        ("/usr/bin/x86_64-linux-gnu-g++-12", True),
        ("/usr/bin/x86_64-linux-gnu-ld.bfd", True),
        ("/usr/lib/gcc/x86_64-linux-gnu/12/cc1plus", True),
        ("/usr/libexec/gcc/x86_64-linux-gnu/14/cc1plus", True),
        ("/usr/lib/gcc/aarch64-linux-gnu/12/collect2", True),
        ("/usr/lib/gcc/x86_64-linux-gnu/12/include/stddef.h", True),
        ("/usr/include/c++/12/bits/stl_vector.h", True),
        ("/usr/include/linux/errno.h", True),
        ("/usr/lib/linux/uapi/x86/asm/errno.h", True),
        ("/usr/lib/x86_64-linux-gnu/crt1.o", True),
        ("/usr/lib/x86_64-linux-gnu/libisl.so.23.2.0", True),
        ("/usr/lib/gcc/x86_64-linux-gnu/12/cc1", False),
        ("/usr/lib/gcc/x86_64-linux-gnu/12/lto1", False),
        ("/usr/lib/gcc/x86_64-linux-gnu/12/libasan.a", False),
        ("/usr/bin/x86_64-linux-gnu-gcc-12", False),
        ("/usr/bin/x86_64-linux-gnu-objdump", False),
        ("/usr/bin/dpkg", False),
        ("/usr/include/drm/drm.h", False),
        ("/usr/share/doc/g++/copyright", False),
        ("/usr/lib/x86_64-linux-gnu/libssl.so.3", False),
    ],
)
def test_of_the_compilers_packages_only_what_compiling_needs_is_taken(
    rootfs: Callable[[str], ModuleType], path: str, *, is_needed: bool
) -> None:
    assert rootfs("compiler").is_part(path) is is_needed


def test_dependencies_are_read_by_their_first_alternative(rootfs: Callable[[str], ModuleType]) -> None:
    read = rootfs("debian")._first_names
    assert read("libc6 (>= 2.34), libgcc-s1 | libgcc1, python3:any") == ["libc6", "libgcc-s1", "python3"]
    assert read("") == []


def test_without_debians_tools_the_missing_one_is_named(
    rootfs: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    debian = rootfs("debian")
    assert not debian.is_installed("g++")
    with pytest.raises(rootfs("tree").StagingError, match="'dpkg' is not installed: this is no Debian"):
        debian.files_of(["g++"])


def test_a_package_is_copied_without_tests_and_headers(rootfs: Callable[[str], ModuleType]) -> None:
    left_out = rootfs("packages").is_left_out
    assert left_out(PurePosixPath("sympy/core/tests/test_basic.py"))
    assert left_out(PurePosixPath("numpy/_core/include/numpy/arrayobject.h"))
    assert not left_out(PurePosixPath("numpy/_core/_multiarray_umath.cpython-311-x86_64-linux-gnu.so"))
    assert not left_out(PurePosixPath("numpy.libs/libscipy_openblas64_.so"))
    assert not left_out(PurePosixPath("sympy/testing/runtests.py"))


@ON_LINUX
def test_libraries_of_a_program_are_found_with_their_loader(rootfs: Callable[[str], ModuleType]) -> None:
    found = rootfs("elf").needs([Path(os.path.realpath("/bin/ls"))])
    assert found.libraries["libc.so.6"].is_file()
    assert all(loader.is_file() for loader in found.loaders)
    assert found.loaders
    assert not found.missing


def test_what_is_no_program_needs_nothing(rootfs: Callable[[str], ModuleType], tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    elf = rootfs("elf")
    assert not elf.is_elf(tmp_path / "text")
    assert elf.needs([]).libraries == {}
