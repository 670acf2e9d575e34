"""Read one expression from tokens into a tree. Recursive descent, depth-limited, no backtracking."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from rlvr.verifiers.algebra.tokens import Kind, Token, UnreadableError
from rlvr.verifiers.algebra.vocabulary import FUNCTIONS, GREEK

MAX_DEPTH = 40
MAX_DIGITS = 3_000
MAX_POSTFIXES = 4
MAX_QUOTIENTS = 30

_POSTFIX_STOPS = frozenset(
    {"le", "ge", "ne", "in", "approx", "equiv", "cup", "cap", "setminus", "and", "or", "to", "Rightarrow", "bmod", "pmod"}
)
_REPEATING = re.compile(r"(\d*)\.(\d*?)(?:\\overline\s?\{(\d+)\}|\\dot\s?\{?(\d)\}?(?:(\d*)\\dot\s?\{?(\d)\}?)?|\((\d+)\))$")


@dataclass(frozen=True, slots=True)
class Node:
    """A tree: `kind` is number, symbol, constant, add, multiply, divide, power, negate or the name of a function."""

    kind: str
    args: tuple[Node, ...] = ()
    value: Fraction = Fraction(0)
    name: str = ""

    def symbols(self) -> Iterator[str]:
        """The names of its symbols, with repetitions."""
        if self.kind == "symbol":
            yield self.name
        for arg in self.args:
            yield from arg.symbols()

    def kinds(self) -> Iterator[str]:
        yield self.kind
        for arg in self.args:
            yield from arg.kinds()


def number(value: Fraction | int, written: str = "") -> Node:
    return Node("number", value=Fraction(value), name=written)


def read_expression(tokens: list[Token]) -> tuple[Node, list[Token]]:
    """The expression that `tokens` begin with, and what is left of them.

    Raises:
        UnreadableError
    """
    reader = _Reader(list(tokens))
    node = reader.sum()
    return node, reader.tokens[reader.at :]


class _Reader:
    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.at = 0
        self._depth = 0
        self._bars = 0

    def sum(self) -> Node:
        terms = [self._product()]
        while self._is_mark("+", "-"):
            sign = self._take().text
            term = self._product()
            terms.append(term if sign == "+" else Node("negate", (term,)))
        return terms[0] if len(terms) == 1 else Node("add", tuple(terms))

    def _product(self) -> Node:
        factors = [self._signed()]
        quotients = 0
        while True:
            if self._is_mark("*"):
                self._take()
                factors.append(self._signed())
            elif self._is_mark("/"):
                self._take()
                factors = [Node("divide", (_product_of(factors), self._signed()))]
                quotients += 1
                if quotients > MAX_QUOTIENTS:
                    raise UnreadableError("too many divisions")
            elif self._begins_factor():
                factors.append(self._power())
            else:
                return _product_of(factors)

    def _signed(self) -> Node:
        negative = False
        while self._is_mark("+", "-"):
            negative ^= self._take().text == "-"
        node = self._power()
        return Node("negate", (node,)) if negative else node

    def _power(self) -> Node:
        node = self._postfix(self._atom())
        if not self._is_mark("^"):
            return node
        self._take()
        if self._is_degree():
            return self._postfix(Node("degrees", (node,)))
        exponent = self._exponent()
        node = Node("power", (node, exponent))
        return self._postfix(node)

    def _exponent(self) -> Node:
        negative = False
        while self._is_mark("+", "-"):
            negative ^= self._take().text == "-"
        node = self._group() if self._is_mark("{") else self._postfix(self._atom())
        if self._is_mark("^"):
            self._take()
            node = Node("power", (node, self._exponent()))
        return Node("negate", (node,)) if negative else node

    def _is_degree(self) -> bool:
        window = [token.text for token in self.tokens[self.at : self.at + 3]]
        if window[:1] == ["circ"]:
            self.at += 1
            return True
        if window == ["{", "circ", "}"]:
            self.at += 3
            return True
        return False

    def _postfix(self, node: Node) -> Node:
        for _ in range(MAX_POSTFIXES):
            if self._is_mark("!"):
                self._take()
                node = Node("factorial", (node,))
            elif self._peek_command("circ"):
                self._take()
                node = Node("degrees", (node,))
            else:
                return node
        raise UnreadableError("too many signs after a value")

    def _atom(self) -> Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise UnreadableError("nested too deep")
        node = self._atom_inside()
        self._depth -= 1
        return node

    def _atom_inside(self) -> Node:
        token = self._take()
        if token.kind is Kind.NUMBER:
            return self._number(token)
        if token.kind is Kind.SYMBOL:
            return _symbol(token.text)
        if token.kind is Kind.COMMAND:
            return self._command(token.text)
        if token.kind is Kind.MARK and token.text in "([{":
            self.at -= 1
            return self._group()
        if token.text == "|":
            self._bars += 1
            inner = self.sum()
            self._expect("|")
            self._bars -= 1
            return Node("abs", (inner,))
        raise UnreadableError(f"{token.text!r} is out of place")

    def _number(self, token: Token) -> Node:
        if len(token.text) > MAX_DIGITS:
            raise UnreadableError("a number is too long")
        if "\\" in token.text or "(" in token.text:
            return number(_repeating(token.text))
        mantissa, _, exponent = token.text.lower().partition("e")
        if exponent and abs(int(exponent)) > MAX_DIGITS:
            raise UnreadableError("an exponent is too large")
        value = Fraction(mantissa) * (Fraction(10) ** int(exponent or 0))
        # 2\frac{1}{3} and "2 1/3" are mixed numbers where the fraction is proper and in digits.
        if value.denominator == 1 and "." not in token.text and (part := self._proper_fraction()) is not None:
            return number(value + part)
        return number(value, token.text)

    def _proper_fraction(self) -> Fraction | None:
        rest = self.tokens[self.at : self.at + 8]
        texts = [token.text for token in rest]
        if texts[:1] == ["frac"]:
            digits, size = _fraction_digits(texts)
        elif (
            len(rest) >= 3
            and rest[0].after_space
            and rest[0].kind is Kind.NUMBER
            and texts[1] == "/"
            and rest[2].kind is Kind.NUMBER
        ):
            digits, size = (texts[0], texts[2]), 3
        else:
            return None
        if digits is None or not (digits[0].isdigit() and digits[1].isdigit()) or not 0 < int(digits[0]) < int(digits[1]):
            return None
        self.at += size
        return Fraction(int(digits[0]), int(digits[1]))

    def _command(self, name: str) -> Node:
        if name == "frac":
            return Node("divide", (self._argument(takes_one_digit=True), self._argument(takes_one_digit=True)))
        if name == "sqrt":
            return self._root()
        if name == "binom":
            return Node("binomial", (self._argument(takes_one_digit=True), self._argument(takes_one_digit=True)))
        if name in ("pi", "infty"):
            return Node("constant", name=name)
        if name in GREEK:
            return Node("symbol", name=name)
        if name in ("lfloor", "lceil"):
            inner = self.sum()
            self._expect_command("rfloor" if name == "lfloor" else "rceil")
            return Node("floor" if name == "lfloor" else "ceil", (inner,))
        if name in ("boxed", "overline", "mathop", "underline", "fbox", "ensuremath"):
            if name == "overline":
                raise UnreadableError("a line over an expression")
            return self._group()
        if name in FUNCTIONS:
            return self._function(name)
        raise UnreadableError(f"\\{name} is not read")

    def _root(self) -> Node:
        index = None
        if self._is_mark("["):
            self._take()
            index = self.sum()
            self._expect("]")
        radicand = self._argument()
        return Node("root", (radicand, index if index is not None else number(2)))

    def _function(self, name: str) -> Node:
        power = base = None
        if self._is_mark("_"):
            self._take()
            base = self._argument()
        if self._is_mark("^"):
            self._take()
            power = self._exponent()
        args = self._arguments() if name in ("gcd", "lcm", "max", "min") else (self._function_argument(),)
        if power is not None and power.kind == "negate" and power.args[0].value == 1 and name in ("sin", "cos", "tan"):
            return Node(f"arc{name}", args)
        if base is not None and name == "log":
            node = Node("divide", (Node("ln", args), Node("ln", (base,))))
        elif base is not None:
            raise UnreadableError(f"a subscript of \\{name}")
        else:
            node = Node(name, args)
        return node if power is None else Node("power", (node, power))

    def _function_argument(self) -> Node:
        """What a function without brackets applies to: the factors that follow, up to a sign or another function."""
        if self._is_mark("(", "[", "{", "|"):
            return self._power()
        negative = False
        while self._is_mark("-", "+"):
            negative ^= self._take().text == "-"
        node = self._power()
        factors = [node]
        while self._begins_factor() and not self._is_function() and not self._is_mark("(", "[", "|"):
            factors.append(self._power())
        node = _product_of(factors)
        if self._is_mark("/") and node.kind in ("number", "symbol", "constant", "multiply") and self._is_simple_quotient():
            self._take()
            node = Node("divide", (node, self._power()))
        return Node("negate", (node,)) if negative else node

    def _is_simple_quotient(self) -> bool:
        """`sin x/2` is sin(x/2), `sin x/cos x` is a quotient."""
        following = self.tokens[self.at + 1 : self.at + 2]
        return bool(following) and following[0].kind is Kind.NUMBER

    def _arguments(self) -> tuple[Node, ...]:
        self._expect("(")
        args = [self.sum()]
        while self._is_mark(","):
            self._take()
            args.append(self.sum())
        self._expect(")")
        return tuple(args)

    def _argument(self, *, takes_one_digit: bool = False) -> Node:
        r"""A braced group, or one token: \frac12 is 1/2; \sqrt13 is read as people mean it."""
        if self._is_mark("{", "("):
            return self._group()
        token = self._take()
        if token.kind is Kind.NUMBER:
            if takes_one_digit and len(token.text) > 1 and token.text.isdigit():
                self.at -= 1
                self.tokens[self.at : self.at + 1] = [Token(Kind.NUMBER, token.text[0]), Token(Kind.NUMBER, token.text[1:])]
                self.at += 1
                return number(int(token.text[0]))
            return number(Fraction(token.text), token.text)
        self.at -= 1
        return self._atom()

    def _group(self) -> Node:
        opening = self._take().text
        closing = {"(": ")", "[": "]", "{": "}"}[opening]
        bars, self._bars = self._bars, 0
        inner = self.sum()
        self._expect(closing)
        self._bars = bars
        return inner

    def _begins_factor(self) -> bool:
        if self.at >= len(self.tokens):
            return False
        token = self.tokens[self.at]
        if token.kind is Kind.MARK:
            return token.text in "([{" or (token.text == "|" and self._bars == 0)
        if token.kind is Kind.COMMAND:
            name = token.text
            return (
                name in FUNCTIONS or name in GREEK or name in ("frac", "sqrt", "binom", "pi", "infty", "lfloor", "lceil", "boxed")
            )
        if token.kind is Kind.NUMBER and self.at > 0 and self.tokens[self.at - 1].kind is Kind.NUMBER:
            is_power = self.at > 1 and self.tokens[self.at - 2].text == "^"
            if token.after_space and not is_power:
                raise UnreadableError("two numbers side by side")
            return True
        return token.kind in (Kind.NUMBER, Kind.SYMBOL)

    def _is_function(self) -> bool:
        token = self.tokens[self.at]
        return token.kind is Kind.COMMAND and token.text in FUNCTIONS and token.text != "sqrt"

    def _is_mark(self, *marks: str) -> bool:
        return self.at < len(self.tokens) and self.tokens[self.at].kind is Kind.MARK and self.tokens[self.at].text in marks

    def _peek_command(self, name: str) -> bool:
        return self.at < len(self.tokens) and self.tokens[self.at].kind is Kind.COMMAND and self.tokens[self.at].text == name

    def _take(self) -> Token:
        if self.at >= len(self.tokens):
            raise UnreadableError("it ends too early")
        self.at += 1
        return self.tokens[self.at - 1]

    def _expect(self, mark: str) -> None:
        if not self._is_mark(mark):
            raise UnreadableError(f"{mark!r} is missing")
        self._take()

    def _expect_command(self, name: str) -> None:
        if not self._peek_command(name):
            raise UnreadableError(f"\\{name} is missing")
        self._take()


def _product_of(factors: list[Node]) -> Node:
    return factors[0] if len(factors) == 1 else Node("multiply", tuple(factors))


def _symbol(name: str) -> Node:
    return Node("constant", name=name) if name in ("e", "i") else Node("symbol", name=name)


def _fraction_digits(texts: list[str]) -> tuple[tuple[str, str] | None, int]:
    if texts[1:2] == ["{"] and texts[3:5] == ["}", "{"] and texts[6:7] == ["}"]:
        return (texts[2], texts[5]), 7
    if len(texts) > 1 and texts[1].isdigit() and len(texts[1]) == 2:
        return (texts[1][0], texts[1][1]), 2
    return None, 0


def _repeating(text: str) -> Fraction:
    """0.1\\overline{6}, 0.\\dot{3}, 0.\\dot{1}4\\dot{2} and 0.(3) as exact fractions."""
    match = _REPEATING.match(text)
    if match is None:
        raise UnreadableError("a repeating decimal that is not understood")
    whole, fixed = match[1] or "0", match[2]
    period = match[3] or match[7] or (match[4] + (match[5] or "") + (match[6] or ""))
    scale = 10 ** len(fixed)
    return Fraction(int(whole + fixed), scale) + Fraction(int(period), (10 ** len(period) - 1) * scale)
