"""gcca/codejam/2011/qualification_round/candy_splitting: what follows "Case #x: " for the test case on standard input."""

from functools import reduce
from operator import xor


def solve():
    input()
    candies = list(map(int, input().split()))
    return "NO" if reduce(xor, candies) else sum(candies) - min(candies)
