"""gcca/codejam/2011/qualification_round/bot_trust: what follows "Case #x: " for the test case on standard input."""


def solve():
    words = input().split()[1:]
    at, since, time = {"O": 1, "B": 1}, {"O": 0, "B": 0}, 0
    for robot, button in zip(words[::2], map(int, words[1::2]), strict=True):
        time = max(time, since[robot] + abs(button - at[robot])) + 1
        at[robot], since[robot] = button, time
    return time
