"""What kind of answer a text is: a number with its unit, a list, an interval, an equation, a matrix, words ..."""

from __future__ import annotations

import re

from rlvr.verifiers.algebra.expressions import MAX_DEPTH, Node
from rlvr.verifiers.algebra.kinds import (
    REALS,
    Answer,
    Congruence,
    Field,
    Matrix,
    Ratio,
    Region,
    Relation,
    Scalar,
    Sequence,
    Span,
    Words,
)
from rlvr.verifiers.algebra.pieces import RELATIONS, depth_change, is_one_group, joined, split_at, split_relations
from rlvr.verifiers.algebra.scalars import is_unit, read_scalar, try_expression, whole_expression
from rlvr.verifiers.algebra.tokens import Kind, Token, UnreadableError, tokenize

MAX_PARTS = 200

_FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "!=": "!="}


_BOX = re.compile(r"\\boxed\s?\{")
_STRIP = " \t\n.*`:,;"
_REAL_WORDS = re.compile(r"(?:all|the|any|set of|of)*\s?(?:all\s)?real\s?(?:numbers?|values?|x)?", re.IGNORECASE)
_EMPTY_WORDS = frozenset(
    {
        "no solution",
        "no solutions",
        "none",
        "no real solution",
        "no real solutions",
        "empty set",
        "the empty set",
        "no such number",
    }
)


def strip_wrapping(text: str) -> str:
    """Without dollar signs, display delimiters, markdown and closing punctuation around the whole."""
    text = text.strip().strip("*`").strip()
    while True:
        before = text
        text = text.strip().rstrip(".").removesuffix("\\").strip()
        for begin, end in (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]")):
            inner = text[len(begin) : len(text) - len(end)]
            if (
                len(text) > len(begin) + len(end)
                and text.startswith(begin)
                and text.endswith(end)
                and begin not in inner
                and end not in inner
            ):
                text = inner
        if text == before:
            return text


def read_answer(text: str) -> Answer:
    """
    Raises:
        UnreadableError: it is none of the kinds that are known here.
    """
    tokens = _without_delimiters(tokenize(strip_wrapping(text)))
    depth = deepest = 0
    for token in tokens:
        depth += depth_change(token)
        deepest = max(deepest, depth)
    if deepest > MAX_DEPTH:
        raise UnreadableError(f"brackets are nested {deepest} deep")
    return _read(tokens)


def _without_delimiters(tokens: list[Token]) -> list[Token]:
    r"""`$...$` inside a text, and \boxed around a part, say nothing about the answer."""
    kept = [token for token in tokens if not (token.kind is Kind.MARK and token.text in ("$", "€", "£", "¥", "₹", "&"))]
    if len(kept) < len(tokens) and any(token.text == "&" for token in tokens):
        return tokens  # a matrix
    return kept


def _read(tokens: list[Token]) -> Answer:
    tokens = _trim(tokens)
    if not tokens:
        raise UnreadableError("nothing to read")
    for reader in (_words, _environment, _congruence, _parts, _plus_minus, _relation, _region, _bracketed, _ratio):
        found = reader(tokens)
        if found is not None:
            return found
    return read_scalar(tokens)


def _trim(tokens: list[Token]) -> list[Token]:
    while tokens and tokens[-1].kind is Kind.MARK and tokens[-1].text in (".", ",", ";", "*", "\\\\"):
        tokens = tokens[:-1]
    while tokens and tokens[0].kind is Kind.MARK and tokens[0].text in (",", ";", "*", ":"):
        tokens = tokens[1:]
    # "Answer: 5"
    if len(tokens) > 1 and tokens[0].kind is Kind.TEXT and tokens[0].text.rstrip().endswith((":", "=", "is")):
        return tokens[1:]
    return tokens


def _words(tokens: list[Token]) -> Answer | None:
    if len(tokens) == 1 and tokens[0].text in ("emptyset",):
        return Words("empty set")
    if len(tokens) == 2 and [token.text for token in tokens] == ["\\{", "\\}"]:
        return Words("empty set")
    if len(tokens) == 1 and tokens[0].text.startswith("mathbb "):
        name = tokens[0].text.removeprefix("mathbb ")
        return REALS if name == "R" else Field(name)
    if not any(token.kind is Kind.TEXT for token in tokens):
        return None
    if any(token.kind is Kind.NUMBER or token.text in ("=", "<", ">", "frac", "sqrt", "pi", "le", "ge") for token in tokens):
        return None
    if len(tokens) > 1 and any(token.text in (",", ";") for token in tokens):
        return None
    if tokens[0].kind is not Kind.TEXT and any(token.kind is Kind.SYMBOL for token in tokens[:1]) and is_unit(tokens[1:]):
        return None  # "x cm"
    text = " ".join(" ".join(token.text for token in tokens).split())
    if _REAL_WORDS.fullmatch(text):
        return REALS
    return Words("empty set" if text.lower().strip(" .") in _EMPTY_WORDS else text)


def _environment(tokens: list[Token]) -> Answer | None:
    if not tokens[0].text.startswith("begin "):
        if (
            tokens[0].text in ("[", "(", "|")
            and len(tokens) > 2
            and tokens[1].text.startswith("begin ")
            and tokens[-2].text.startswith("end ")
        ):
            return _environment(tokens[1:-1])
        return None
    if not tokens[-1].text.startswith("end ") or sum(token.text.startswith("begin ") for token in tokens) != 1:
        raise UnreadableError("an environment inside another, or with something beside it")
    name = tokens[0].text.removeprefix("begin ")
    if name in ("vmatrix", "Vmatrix"):
        raise UnreadableError("a determinant")
    rows = [row for row in split_at(tokens[1:-1], "\\\\") if row]
    if name in ("cases", "aligned", "align", "gathered"):
        return _list([_read([token for token in row if token.text != "&"]) for row in rows], ",")
    if name.endswith("matrix") or name == "array":
        return Matrix(tuple(tuple(_read(cell) for cell in split_at(row, "&")) for row in rows))
    raise UnreadableError(f"the environment {name}")


def _congruence(tokens: list[Token]) -> Answer | None:
    at = next((at for at, token in enumerate(tokens) if token.text in ("bmod", "pmod") and token.kind is Kind.COMMAND), None)
    if at is None:
        return None
    left, right = tokens[:at], tokens[at + 1 :]
    if left and left[-1].text == "(" and right and right[-1].text == ")":
        left, right = left[:-1], right[:-1]
    begin = next((at + 1 for at in reversed(range(len(left))) if left[at].text in ("equiv", "=")), 0)
    residue = _read(left[begin:])
    modulus = whole_expression(right)
    if isinstance(residue, Sequence) and residue.kind == "list":
        return Sequence("list", tuple(Congruence(item.node, modulus) for item in residue.items if isinstance(item, Scalar)))
    if not isinstance(residue, Scalar):
        raise UnreadableError("a congruence")
    return Congruence(residue.node, modulus)


def _parts(tokens: list[Token]) -> Answer | None:
    """Values side by side: `1, 2`, `x = 1; y = 2`, `3 or 4`."""
    for mark in (";", "or", "and", ",", "\\\\"):
        pieces = [piece for piece in split_at(tokens, mark) if piece]
        if len(pieces) > 1:
            if len(pieces) > MAX_PARTS:
                raise UnreadableError("too many parts")
            if (
                mark in ("and", "or", ",")
                and all(len(piece) == 1 and piece[0].kind is Kind.TEXT for piece in pieces)
                and mark != ","
            ):
                return Words(" ".join(" ".join(token.text for token in tokens).split()))
            items = [_read(piece) for piece in pieces]
            if mark == ";":  # "x = 1, y = 2; x = 2, y = 1": pairs
                items = [
                    Sequence("tuple", item.items) if isinstance(item, Sequence) and item.kind == "list" else item
                    for item in items
                ]
            return _list(items, mark)
    return None


def _list(items: list[Answer], joint: str) -> Answer:
    flat: list[Answer] = []
    for item in items:
        flat += item.items if isinstance(item, Sequence) and item.kind == "list" else [item]
    # "n = 2k, k in Z": the domain of a letter is no part of the answer
    values = [item for item in flat if not isinstance(item, Field)] or flat
    if len(values) == 1:
        return values[0]
    return Sequence("list", tuple(values), joint)


def _plus_minus(tokens: list[Token]) -> Answer | None:
    if not any(token.text in ("pm", "mp") for token in tokens):
        return None
    if any(token.text in (",", ";") for token in tokens):
        return None  # signs inside a list or tuple are read with its parts
    signs = ({"pm": "+", "mp": "-"}, {"pm": "-", "mp": "+"})
    both = [_read([Token(Kind.MARK, sign[token.text]) if token.text in sign else token for token in tokens]) for sign in signs]
    return Sequence("set" if isinstance(both[0], Sequence) and both[0].kind == "set" else "list", tuple(_flattened(both)))


def _flattened(items: list[Answer]) -> list[Answer]:
    return [
        inner
        for item in items
        for inner in (item.items if isinstance(item, Sequence) and item.kind in ("list", "set") else [item])
    ]


def _relation(tokens: list[Token]) -> Answer | None:
    pieces, signs = split_relations(tokens)
    if not signs:
        return None
    if len(pieces) != len(signs) + 1 or not all(pieces):
        raise UnreadableError("a relation without a side")
    if "to" in signs:
        raise UnreadableError("an arrow")
    if "in" in signs:
        return _membership(pieces, signs)
    if "approx" in signs:
        at = signs.index("approx")
        if at == 0 and _is_name(pieces[0]):
            return _assigned(pieces[0], _read(pieces[1]))
        pieces, signs = pieces[: at + 1], signs[:at]
        if not signs:
            return _read(pieces[0])
    if all(sign == "=" for sign in signs):
        return _equation(pieces)
    return _inequality(pieces, signs)


def _membership(pieces: list[list[Token]], signs: list[str]) -> Answer:
    if signs != ["in"]:
        raise UnreadableError("a chain with a membership")
    found = _read(pieces[1])
    if isinstance(found, Sequence) and found.kind == "pair":
        found = _interval(pieces[1]) or found
    return _named(found, joined(pieces[0]))


def _equation(pieces: list[list[Token]]) -> Answer:
    if _is_name(pieces[0]):
        return _assigned(pieces[0], _read(pieces[-1]))
    if (
        pieces[0][0].text == "("
        and len(pieces) == 2
        and all(token.kind is Kind.SYMBOL or token.text in "(,)" for token in pieces[0])
    ):
        return _read(pieces[1])  # (p, q) = (3, 2)
    if len(pieces) == 2 and _is_name(pieces[1]) and not _is_name(pieces[0]):
        value = try_expression(pieces[0])
        if value is not None and not any(value.symbols()):
            return _assigned(pieces[1], _read(pieces[0]))
    left, right = try_expression(pieces[0]), _read(pieces[-1])
    if left is None or (isinstance(right, Scalar) and not any((*left.symbols(), *right.node.symbols()))):
        return right  # "20 cos 60 = 10" stands for its result, and so does "f(2) + AB : CD = 7"
    if not isinstance(right, Scalar) or right.unit:
        raise UnreadableError("an equation of other things than expressions")
    if len(pieces) > 2:
        raise UnreadableError("a chain of equations")
    if left.kind == "divide" and all(_is_segment(side) for side in left.args):
        return Scalar(right.node, joined(pieces[0]), decimals=right.decimals, digits=right.digits)
    return Relation(left, "=", right.node)


def _is_segment(node: Node) -> bool:
    """AB: two capital letters, the length of a line."""
    return node.kind == "multiply" and all(arg.kind == "symbol" and arg.name.isupper() for arg in node.args)


def _inequality(pieces: list[list[Token]], signs: list[str]) -> Answer:
    sides = [whole_expression(piece) for piece in pieces]
    constant = [not any(side.symbols()) for side in sides]
    if len(sides) == 2 and constant[0] != constant[1]:
        variable, bound, sign = (sides[1], sides[0], _FLIPPED[signs[0]]) if constant[0] else (sides[0], sides[1], signs[0])
        return _bounded(variable, [(sign, bound)])
    if len(sides) == 3 and constant == [True, False, True] and "=" not in signs and "!=" not in signs:
        return _bounded(sides[1], [(_FLIPPED[signs[0]], sides[0]), (signs[1], sides[2])])
    if len(sides) == 2:
        return Relation(sides[0], signs[0], sides[1])
    raise UnreadableError("a chain of inequalities")


def _bounded(variable: Node, bounds: list[tuple[str, Node]]) -> Answer:
    """The interval that inequalities give to a letter (or to -x, 2x + 1, |x|, f(x) as a whole)."""
    turned = variable
    if variable.kind == "negate" and variable.args[0].kind == "symbol":
        turned = variable.args[0]
        bounds = [(_FLIPPED[sign], Node("negate", (bound,))) for sign, bound in bounds]
    if turned.kind not in ("symbol", "abs", "multiply") or (turned.kind == "multiply" and len(set(turned.symbols())) < 2):
        if len(bounds) == 1:
            return Relation(variable, bounds[0][0], bounds[0][1])
        raise UnreadableError("a double inequality of an expression")
    if bounds[0][0] == "!=":
        return Region(REALS.spans, (bounds[0][1],), name=_name_of(turned))
    low = high = None
    has_low = has_high = False
    for sign, bound in bounds:
        if sign in ("<", "<="):
            high, has_high = bound, sign == "<="
        else:
            low, has_low = bound, sign == ">="
    return Region((Span(_end(low), _end(high), has_low, has_high),), name=_name_of(turned))


def _end(node: Node | None) -> Node | None:
    if node is None or (node.kind == "constant" and node.name == "infty"):
        return None
    if node.kind == "negate" and node.args[0].kind == "constant" and node.args[0].name == "infty":
        return None
    return node


def _name_of(node: Node) -> str:
    return node.name if node.kind == "symbol" else node.kind


def _region(tokens: list[Token]) -> Answer | None:
    """Unions, intersections with the reals, and differences of intervals and finite sets."""
    if not any(token.text in ("cup", "setminus", "cap") for token in tokens):
        if tokens[0].text == "]" or (tokens[0].text in "([" and tokens[-1].text in ")]["):
            return _interval(tokens) if tokens[0].text + tokens[-1].text not in ("()", "[]") else None
        return None
    if any(token.text == "cap" for token in tokens):
        raise UnreadableError("an intersection")
    base, *removed = split_at(tokens, "setminus")
    if not removed and (
        minus := next(
            (
                at
                for at, token in enumerate(tokens)
                if token.text == "-" and tokens[at + 1 : at + 2] and tokens[at + 1].text == "\\{"
            ),
            None,
        )
    ):
        base, removed = tokens[:minus], [tokens[minus + 1 :]]
    spans: list[Span] = []
    points: list[Node] = []
    for piece in split_at(base, "cup"):
        found = _interval(piece) if piece and piece[0].text in "([]" else _read(piece)
        if isinstance(found, Sequence) and found.kind == "pair":
            found = _interval(piece)
        if isinstance(found, Region):
            spans += found.spans
        elif isinstance(found, Sequence) and found.kind == "set":
            points += _nodes(found)
        else:
            raise UnreadableError("a union of other things than sets of numbers")
    without = [node for piece in removed for node in _nodes(_read(piece))]
    return (
        Region(tuple(spans), tuple(without), tuple(points)) if spans else Sequence("set", tuple(Scalar(node) for node in points))
    )


def _nodes(answer: Answer) -> list[Node]:
    items = answer.items if isinstance(answer, Sequence) else (answer,)
    nodes = [item.node for item in items if isinstance(item, Scalar)]
    if len(nodes) != len(items):
        raise UnreadableError("a set of other things than numbers")
    return nodes


def _interval(tokens: list[Token]) -> Region | None:
    if tokens[0].text not in "([]" or tokens[-1].text not in ")][" or len(tokens) < 5 or not is_one_group(tokens):
        return None
    parts = split_at(tokens[1:-1], ",")
    if len(parts) == 1:
        parts = split_at(tokens[1:-1], ";")
    if len(parts) != 2:
        return None
    low, high = whole_expression(parts[0]), whole_expression(parts[1])
    return Region((Span(_end(low), _end(high), tokens[0].text == "[", tokens[-1].text == "]"),))


def _bracketed(tokens: list[Token]) -> Answer | None:
    opening = tokens[0].text
    if opening not in ("(", "[", "{", "\\{", "langle") or not is_one_group(tokens):
        return None
    inner = tokens[1:-1]
    if opening in ("{", "\\{"):
        bar = next((at for at, token in enumerate(inner) if token.text in ("|", ":") and at in (1, 2, 3)), None)
        if bar is not None and any(token.text in RELATIONS for token in inner[bar:]):
            return _read(inner[bar + 1 :])  # {x | x > 2}
    if opening == "\\{":
        return Sequence("set", tuple(_flattened([_read(piece) for piece in split_at(inner, ",") if piece])))
    if opening == "{":
        return _read(inner)
    parts = split_at(inner, ",") if opening != "langle" or any(token.text == "," for token in inner) else [inner]
    if len(parts) == 1:
        parts = split_at(inner, ";")
    if len(parts) == 1:
        if opening == "langle":
            raise UnreadableError("angle brackets around one value")
        return _read(inner) if opening == "(" and _begins_answer(inner) else None
    items = tuple(_read(part) for part in parts)
    if any(isinstance(item, Sequence) and item.kind == "list" for item in items):
        items = tuple(_flattened(list(items))) if len(parts) > 2 else items
    is_pair = len(items) == 2 and opening in ("(", "[") and all(isinstance(item, Scalar) and not item.name for item in items)
    return Sequence(f"pair{opening}" if is_pair else "tuple", items)


def _begins_answer(inner: list[Token]) -> bool:
    """Whether brackets hold a whole answer ("(x = 5)") rather than a factor."""
    return any(token.text in RELATIONS or token.kind is Kind.TEXT for token in inner)


def _ratio(tokens: list[Token]) -> Answer | None:
    parts = split_at(tokens, ":")
    if len(parts) < 2 or not all(parts):
        return None
    return Ratio(tuple(read_scalar(part) for part in parts))


def _is_name(tokens: list[Token]) -> bool:
    """`x`, `f(x)`, `AB`, `\\angle ABC`, `S_{1}`, `the area`: something that an equation gives a value to."""
    if len(tokens) == 1:
        return tokens[0].kind in (Kind.SYMBOL, Kind.TEXT) or (
            tokens[0].kind is Kind.COMMAND and tokens[0].text not in ("pi", "infty")
        )
    if tokens[0].kind is Kind.COMMAND and tokens[0].text in (
        "angle",
        "triangle",
        "measuredangle",
        "overline",
        "widehat",
        "operatorname",
    ):
        return True
    if all(token.kind is Kind.TEXT or (token.kind is Kind.SYMBOL and token.text.isupper()) for token in tokens):
        return len(tokens) <= 4
    if tokens[0].text == "|" == tokens[-1].text and all(
        token.kind is Kind.SYMBOL and token.text.isupper() for token in tokens[1:-1]
    ):
        return True
    if tokens[0].kind is Kind.SYMBOL and tokens[1].text == "^" and tokens[-1].text == ")" and _is_name([tokens[0], *tokens[-3:]]):
        return True  # f^{-1}(x)
    return (
        tokens[0].kind is Kind.SYMBOL
        and len(tokens) >= 4
        and tokens[1].text == "("
        and tokens[-1].text == ")"
        and all(token.kind is Kind.SYMBOL or token.text in (",", "(", ")") for token in tokens[2:])
    )


def _assigned(name: list[Token], value: Answer) -> Answer:
    return _named(value, joined(name))


def _named(value: Answer, name: str) -> Answer:
    if isinstance(value, Scalar):
        return Scalar(value.node, name, value.unit, value.is_percent, value.decimals, value.digits)
    if isinstance(value, Region):
        return Region(value.spans, value.without, value.points, name)
    return value
