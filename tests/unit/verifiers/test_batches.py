from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from rlvr.errors import TaskError, VerifierError
from rlvr.verifiers.batches import BATCHES_AHEAD, CHUNK_CHARS, CHUNK_LINES, Batch, in_batches


def test_no_line_is_lost_and_each_batch_knows_where_it_begins() -> None:
    lines = [f"{number}\n" for number in range(4_321)]
    batches = list(in_batches(lines, first=10))
    assert [line for batch in batches for line in batch.lines] == lines
    assert all(batch.lines[0] == f"{batch.first - 10}\n" for batch in batches)
    assert max(len(batch.lines) for batch in batches) <= CHUNK_LINES


def test_a_line_that_comes_alone_is_handed_on_alone() -> None:
    taken = threading.Event()

    def slowly() -> Iterator[str]:
        yield "first"
        assert taken.wait(30)
        yield "second"

    batches = in_batches(slowly())
    assert next(batches).lines == ("first",)
    taken.set()
    assert next(batches).lines == ("second",)


def test_long_lines_make_short_batches() -> None:
    batches = list(in_batches(["x" * (CHUNK_CHARS // 2)] * 7))
    assert sum(len(batch.lines) for batch in batches) == 7
    assert max(len(batch.lines) for batch in batches) <= 2


def test_no_more_is_read_than_is_held() -> None:
    read = 0

    def endless() -> Iterator[str]:
        nonlocal read
        while True:
            read += 1
            yield "line"

    taken = 0
    batches = in_batches(endless())
    for _ in range(20):
        taken += len(next(batches).lines)
        assert read <= taken + BATCHES_AHEAD * CHUNK_LINES + 1  # one more waits in the reader's hand
    batches.close()


@pytest.mark.parametrize(("failure", "kind"), [(TaskError("line 3 is bad"), TaskError), (OSError("gone"), VerifierError)])
def test_what_the_source_raises_comes_after_the_lines_before_it(failure: Exception, kind: type[Exception]) -> None:
    def breaking() -> Iterator[str]:
        yield "a"
        yield "b"
        raise failure

    found: list[Batch] = []
    with pytest.raises(kind, match=str(failure)):
        found.extend(in_batches(breaking()))
    assert [line for batch in found for line in batch.lines] == ["a", "b"]
