"""gcca/farewell/round_a/ascii_art: what follows "Case #x: " for the test case on standard input."""


def solve():
    index = int(input()) - 1
    times = 1
    while index >= 26 * times:
        index -= 26 * times
        times += 1
    return chr(65 + index // times)
