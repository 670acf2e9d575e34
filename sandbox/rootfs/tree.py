"""A root file system that is put together in a folder: paths of the image on one side, files of this machine on the other."""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

# One folder for both, as on every system of today, so that a library has one path whatever names it.
MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
# Docker mounts over these; on a read-only root they must be there. `sock` and `box` belong to the runner.
MOUNT_POINTS = ("proc", "sys", "dev", "etc", "sock", "box")
PASSWD = "root:x:0:0:root:/:/nonexistent\nnobody:x:65534:65534:nobody:/nonexistent:/nonexistent\n"
GROUP = "root:x:0:\nnogroup:x:65534:\n"


class StagingError(Exception):
    """The root file system cannot be made from what is here; the text says what is missing."""


class Tree:
    """A root file system in the folder `root`. Later files never replace earlier ones."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, target: str | PurePosixPath) -> Path:
        """Where the image's absolute path `target` lies on this machine."""
        parts = PurePosixPath("/", target).parts[1:]
        if ".." in parts:
            raise StagingError(f"the path {str(target)!r} leads upwards")
        if parts and parts[0] in MERGED:
            parts = ("usr", *parts)
        return self.root.joinpath(*parts)

    def copy(self, source: Path, target: str | PurePosixPath) -> None:
        """One file; a symbolic link is followed."""
        place = self.path(target)
        if not os.path.lexists(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, place)
            seen = source.stat()
            place.chmod(_mode(seen.st_mode))
            os.utime(place, ns=(seen.st_atime_ns, seen.st_mtime_ns))  # bytecode is valid for one time of its source

    def copy_as_is(self, source: Path, target: str | PurePosixPath) -> None:
        """One file, or a symbolic link as a link."""
        if not source.is_symlink():
            self.copy(source, target)
            return
        place = self.path(target)
        if not os.path.lexists(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(os.readlink(source))

    def copy_folder(self, source: Path, target: str | PurePosixPath, *, skip: Callable[[PurePosixPath], bool]) -> None:
        """A folder with everything in it but what `skip` names by its path inside the folder. Broken links are left out."""
        for folder, folders, files in os.walk(source, followlinks=True):
            inside = PurePosixPath(os.path.relpath(folder, source))
            folders[:] = sorted(name for name in folders if not skip(inside / name))
            for name in sorted(files):
                file = Path(folder, name)
                if not skip(inside / name) and file.is_file():
                    self.copy(file, PurePosixPath(target) / inside / name)

    def write(self, target: str, text: str) -> None:
        place = self.path(target)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")

    def link(self, target: str, to: str) -> None:
        place = self.path(target)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        place.symlink_to(to)

    def files(self) -> Iterable[Path]:
        """Regular files, sorted."""
        for folder, folders, files in os.walk(self.root):
            folders.sort()
            yield from (path for name in sorted(files) if (path := Path(folder, name)).is_file() and not path.is_symlink())

    def furnish(self) -> None:
        """What a container needs besides programs."""
        for name in MOUNT_POINTS:
            (self.root / name).mkdir(exist_ok=True)
        for name in MERGED:
            if (self.root / "usr" / name).is_dir() and not os.path.lexists(self.root / name):
                (self.root / name).symlink_to(f"usr/{name}")
        self.write("/etc/passwd", PASSWD)
        self.write("/etc/group", GROUP)
        self.write("/etc/resolv.conf", "")
        # Every submission has a folder of its own as its working directory, so each finds only its own files in /tmp.
        self.link("/tmp", "/proc/self/cwd")

    def pack(self, tar: Path) -> None:
        """The tree as a tar file in which root owns everything and no file is setuid or writable by others."""
        with tarfile.open(tar, "w", format=tarfile.PAX_FORMAT) as archive:
            for name in sorted(os.listdir(self.root)):
                archive.add(self.root / name, arcname=name, filter=_plain)

    def size_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.files())


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    entry.mtime = int(entry.mtime)
    entry.mode = 0o777 if entry.issym() else 0o755 if entry.isdir() else _mode(entry.mode)
    return entry


def _mode(mode: int) -> int:
    """Never setuid, setgid or writable by others."""
    return 0o755 if mode & stat.S_IXUSR else 0o644
