"""gcca/kickstart/2016/round_b/sherlock_and_parentheses: what follows "Case #x: " for the test case on standard input."""


def solve():
    pairs = min(map(int, input().split()))
    return pairs * (pairs + 1) // 2
