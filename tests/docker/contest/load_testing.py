"""gcca/codejam/2010/round_1c/load_testing: what follows "Case #x: " for the test case on standard input."""


def solve():
    low, high, factor = map(int, input().split())
    steps = 0
    while low * factor < high:
        low, steps = low * factor, steps + 1
    return steps.bit_length()
