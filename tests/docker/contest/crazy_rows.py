"""gcca/codejam/2009/round_2/crazy_rows: what follows "Case #x: " for the test case on standard input."""


def solve():
    size = int(input())
    last = [input().rfind("1") for _ in range(size)]
    swaps = 0
    for row in range(size):
        found = next(i for i, one in enumerate(last) if one <= row)
        swaps += found
        last.pop(found)
    return swaps
