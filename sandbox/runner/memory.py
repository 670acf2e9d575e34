"""How a server's memory lies. What a server or its child writes after a fork is copied first, a whole page for each object,
and that is most of what a fork costs: so what is written often should lie together, apart from what never changes.
"""

import os

SMALLEST, LARGEST, STEP = 48, 512, 16  # sizes of blocks that Python's own allocator hands out; below 48 lie few objects
POOL_BYTES, FIRST_BLOCK = 16384, 48  # it cuts blocks of one size from a pool; the first lies behind the pool's head
MOST_BYTES = 1 << 18  # of one size
HEAD_BYTES = 33  # of a bytes object

_kept = []


def fill_holes():
    """Use up the free blocks between what has been made so far: what comes next, here or in a child, gets pools of its own."""
    if os.environ.get("PYTHONMALLOC"):  # another allocator, which lies otherwise
        return
    for size in range(SMALLEST, LARGEST + 1, STEP):
        last = 0
        for _ in range(MOST_BYTES // size):
            block = bytes(size - HEAD_BYTES)
            _kept.append(block)
            if last % POOL_BYTES == FIRST_BLOCK and id(block) == last + size:
                break
            last = id(block)


def gather(functions):
    """Make the code of these functions anew, one after the other: each call writes to it."""
    for function in functions:
        _kept.append(function.__code__)  # its place must not be taken
        function.__code__ = function.__code__.replace()
