"""gcca/codejam/2016/round_1b/getting_the_digits: what follows "Case #x: " for the test case on standard input."""

from collections import Counter

ORDER = [
    ("Z", "ZERO", 0),
    ("W", "TWO", 2),
    ("U", "FOUR", 4),
    ("X", "SIX", 6),
    ("G", "EIGHT", 8),
    ("O", "ONE", 1),
    ("H", "THREE", 3),
    ("F", "FIVE", 5),
    ("S", "SEVEN", 7),
    ("I", "NINE", 9),
]


def solve():
    letters = Counter(input().strip())
    digits = []
    for sign, word, digit in ORDER:
        count = letters[sign]
        for letter in word:
            letters[letter] -= count
        digits += [digit] * count
    return "".join(map(str, sorted(digits)))
