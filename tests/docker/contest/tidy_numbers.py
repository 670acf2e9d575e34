"""gcca/codejam/2017/qualification_round/tidy_numbers: what follows "Case #x: " for the test case on standard input."""


def solve():
    digits = input().strip()
    for i in range(len(digits) - 1, 0, -1):
        if digits[i - 1] > digits[i]:
            digits = str(int(digits[:i]) - 1).rjust(i, "0") + "9" * (len(digits) - i)
    return int(digits)
