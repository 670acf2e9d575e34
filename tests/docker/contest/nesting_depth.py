"""gcca/codejam/2020/qualification_round/nesting_depth: what follows "Case #x: " for the test case on standard input."""


def solve():
    out, depth = [], 0
    for digit in input().strip():
        wanted = int(digit)
        out.append("(" * (wanted - depth) + ")" * (depth - wanted) + digit)
        depth = wanted
    return "".join(out) + ")" * depth
