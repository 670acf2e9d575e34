"""Token lists taken apart where no bracket is open."""

from __future__ import annotations

from rlvr.verifiers.algebra.tokens import Kind, Token

_OPENING = frozenset({"(", "[", "{", "\\{", "langle", "lfloor", "lceil"})
_CLOSING = frozenset({")", "]", "}", "\\}", "rangle", "rfloor", "rceil"})
RELATIONS = {
    "=": "=", "<": "<", ">": ">", "le": "<=", "ge": ">=", "ne": "!=", "in": "in", "approx": "approx", "equiv": "=", "to": "to",
    "Rightarrow": "to",
}  # fmt: skip


def joined(tokens: list[Token]) -> str:
    return "".join(token.text for token in tokens)


def split_at(tokens: list[Token], mark: str) -> list[list[Token]]:
    pieces: list[list[Token]] = [[]]
    depth = 0
    for token in tokens:
        depth += depth_change(token)
        if depth == 0 and token.text == mark and token.kind is not Kind.TEXT:
            pieces.append([])
        else:
            pieces[-1].append(token)
    return pieces


def depth_change(token: Token) -> int:
    if token.kind is Kind.TEXT or token.kind is Kind.SYMBOL:
        return 0
    is_opening = token.text in _OPENING or token.text.startswith("begin ")
    return is_opening - (token.text in _CLOSING or token.text.startswith("end "))


def split_relations(tokens: list[Token]) -> tuple[list[list[Token]], list[str]]:
    pieces: list[list[Token]] = [[]]
    signs: list[str] = []
    depth = 0
    for token in tokens:
        depth += depth_change(token)
        if depth == 0 and token.kind is not Kind.TEXT and token.text in RELATIONS:
            signs.append(RELATIONS[token.text])
            pieces.append([])
        else:
            pieces[-1].append(token)
    return pieces, signs


def is_one_group(tokens: list[Token]) -> bool:
    """Whether the first bracket closes with the last token."""
    depth = 0
    for at, token in enumerate(tokens):
        change = depth_change(token)
        depth += 1 if at == 0 else (-1 if at == len(tokens) - 1 else change)
        if depth == 0 and at < len(tokens) - 1:
            return False
    return depth == 0
