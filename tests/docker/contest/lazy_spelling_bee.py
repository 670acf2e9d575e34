"""gcca/kickstart/2015/round_e/lazy_spelling_bee: what follows "Case #x: " for the test case on standard input."""


def solve():
    word, ways = input().strip(), 1
    for i in range(len(word)):
        ways = ways * len(set(word[max(0, i - 1) : i + 2])) % (10**9 + 7)
    return ways
