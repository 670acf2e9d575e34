"""gcca/codejam/2009/qualification_round/welcome_to_code_jam: what follows "Case #x: " for the test case on standard input."""


def solve():
    text, wanted = input(), "welcome to code jam"
    ways = [1] + [0] * len(wanted)
    for letter in text:
        for i in range(len(wanted), 0, -1):
            if wanted[i - 1] == letter:
                ways[i] = (ways[i] + ways[i - 1]) % 10000
    return f"{ways[-1]:04d}"
