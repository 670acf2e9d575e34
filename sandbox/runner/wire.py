"""Bytes in and out: exact reads and writes, memory files, descriptors that no child's numbering can clobber."""

import fcntl
import os

LOWEST_KEPT = 10  # children use 0 to 5; whatever the server keeps lies above


def read_exactly(fd: int, count: int) -> bytes:
    """Raises EOFError where the other side closed."""
    data = os.read(fd, count)
    while len(data) < count:
        more = os.read(fd, count - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def keep(fd: int) -> int:
    """The same open file under a number that children do not use."""
    if fd >= LOWEST_KEPT:
        return fd
    kept = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, LOWEST_KEPT)
    os.close(fd)
    return kept


def memory_file(name: str) -> int:
    return keep(os.memfd_create(name, os.MFD_CLOEXEC))


def read_file(fd: int, limit: int) -> bytes:
    """The first `limit` bytes of a file, from its start, wherever its position is."""
    size = min(os.fstat(fd).st_size, limit)
    parts, offset = [], 0
    while offset < size:
        part = os.pread(fd, size - offset, offset)
        if not part:
            break
        parts.append(part)
        offset += len(part)
    return b"".join(parts)
