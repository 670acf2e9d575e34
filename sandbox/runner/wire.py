"""Bytes in and out: exact reads and writes, memory files, descriptors that no child's numbering can clobber.

A server's own memory is what its next children begin with. Whatever one submission sends or receives passes through one buffer
that is zeroed, or not through the server at all: another one would find it otherwise.
"""

import fcntl
import os

LOWEST_KEPT = 10  # children use 0 to 5; whatever the server keeps lies above

_chunk = bytearray(1 << 17)
_view = memoryview(_chunk)
_zeros = bytes(1 << 17)


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


def take_low_numbers(null: int) -> None:
    """Fill the numbers that children use, so that new files lie above them at once, without a copy."""
    while (fd := os.dup(null)) < LOWEST_KEPT:
        continue
    os.close(fd)


def memory_file() -> int:
    return keep(os.memfd_create("file", os.MFD_CLOEXEC))


def receive_into(reader: int, file: int, limit: int) -> int:
    """Move at most `limit` bytes from a stream to a file; returns how many, 0 where the stream ended."""
    count = os.readv(reader, [_view[:limit]])
    try:
        write_all(file, _view[:count])
    finally:
        _chunk[:count] = _zeros[:count]
    return count


def send_with_files(writer: int, head: bytes, files: list[tuple[int, int, int]]) -> None:
    """Send `head` and then parts of files: (descriptor, offset, length). A file that has become shorter ends in zeros."""
    total = 0
    for _, _, length in files:
        total += length
    if total > len(_chunk):
        write_all(writer, head)
        for fd, offset, length in files:
            while length:
                sent = os.sendfile(writer, fd, offset, length)
                if not sent:
                    sent = os.write(writer, _zeros[:length])
                offset, length = offset + sent, length - sent
        return
    at = 0
    try:
        for fd, offset, length in files:
            if length:
                os.preadv(fd, [_view[at : at + length]], offset)
                at += length
        sent = os.writev(writer, [head, _view[:at]])
        if sent < len(head) + at:
            write_all(writer, head[sent:])
            write_all(writer, _view[max(sent - len(head), 0) : at])
    finally:
        _chunk[:total] = _zeros[:total]


def length_of(fd: int) -> int:
    """In bytes. Moves the file's position to its end."""
    return os.lseek(fd, 0, os.SEEK_END)


def size_of(fd: int, limit: int) -> int:
    return min(os.fstat(fd).st_size, limit)
