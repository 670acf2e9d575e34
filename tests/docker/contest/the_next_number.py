"""gcca/codejam/2009/round_1b/the_next_number: what follows "Case #x: " for the test case on standard input."""


def solve():
    digits = list("0" + input().strip())
    i = len(digits) - 2
    while digits[i] >= digits[i + 1]:
        i -= 1
    j = max(j for j in range(i + 1, len(digits)) if digits[j] > digits[i])
    digits[i], digits[j] = digits[j], digits[i]
    return int("".join(digits[: i + 1] + digits[:i:-1]))
