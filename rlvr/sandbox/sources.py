"""What the sandbox's image is made from: the folder `sandbox/`, which travels inside the wheel."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
_IN_WHEEL, _IN_CHECKOUT = _PACKAGE / "_sandbox", _PACKAGE.parent / "sandbox"
RUNNER, RECIPE = ("runner",), ("rootfs", "Dockerfile")  # what runs inside; what the rest of the image is made by


def sandbox_folder() -> Path:
    """Where Dockerfile, runner, root file system builder and seccomp profile lie."""
    return _IN_WHEEL if _IN_WHEEL.is_dir() else _IN_CHECKOUT


def digest_of(parts: Sequence[str]) -> str:
    """16 hex digits that change when a source file below one of `parts` does."""
    found = hashlib.sha256()
    for path in files_of(parts):
        content = path.read_bytes()
        found.update(f"{path.relative_to(sandbox_folder())}\0{len(content)}\0".encode() + content)
    return found.hexdigest()[:16]


def files_of(parts: Sequence[str]) -> list[Path]:
    """The source files of parts of the folder, sorted, without bytecode."""
    places = [sandbox_folder() / part for part in parts]
    files = [path for place in places for path in (place.rglob("*") if place.is_dir() else (place,))]
    return sorted(path for path in files if path.is_file() and "__pycache__" not in path.parts)


def build_context(parts: Sequence[str], dockerfile: str | None = None) -> bytes:
    """A build's context as a tar file: parts of the folder, and the Dockerfile, if it is another one than the folder's."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        contents = [(str(path.relative_to(sandbox_folder())), path.read_bytes()) for path in files_of(parts)]
        for name, content in [*contents, *([("Dockerfile", dockerfile.encode())] if dockerfile is not None else [])]:
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o644
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()
