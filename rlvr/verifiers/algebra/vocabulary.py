"""The words of mathematics: functions, Greek letters, synonyms of commands, Unicode signs, short words."""
# ruff: noqa: SIM905
# fmt: off

from __future__ import annotations

FUNCTIONS = frozenset(
    {
        "sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "arccot", "arcsec", "arccsc", "sinh",
        "cosh", "tanh",
        "coth", "asin", "acos", "atan", "arcsinh", "arccosh", "arctanh", "log", "ln", "lg", "exp", "sqrt", "abs", "gcd",
        "lcm", "max",
        "min", "floor", "ceil",
    }
)

GREEK = frozenset(
    "alpha beta gamma delta varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau upsilon varphi "
    "chi psi omega "
    "Gamma Delta Theta Lambda Xi Sigma Upsilon Phi Psi Omega ell hbar".split()
)

SYNONYMS = {
    "dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "leq": "le", "leqslant": "le", "geq": "ge", "geqslant": "ge", "neq": "ne",
    "lt": "<", "gt": ">", "lvert": "|", "rvert": "|", "vert": "|", "mid": "|", "lbrace": "\\{", "rbrace": "\\}", "lbrack": "[",
    "rbrack": "]", "times": "*", "cdot": "*", "ast": "*", "div": "/", "colon": ":", "varnothing": "emptyset", "land": "and",
    "lor": "or", "wedge": "and", "vee": "or", "backslash": "setminus", "approxeq": "approx", "simeq": "approx", "dbinom": "binom",
    "tbinom": "binom", "epsilon": "varepsilon", "phi": "varphi", "infin": "infty", "operatorname*": "operatorname", "mod": "bmod",
    "degree": "circ", "lg": "lg", "rm": "", "bf": "", "it": "", "textdegree": "circ", "lparen": "(", "rparen": ")",
    "smallsetminus": "setminus", "ne": "ne", "ldots": "dots", "cdots": "dots", "Re": "mathbb R", "isin": "in", "to": "to",
    "rightarrow": "to", "longrightarrow": "to", "Longrightarrow": "Rightarrow", "implies": "Rightarrow", "prime": "'",
}

UNICODE = str.maketrans(
    {
        "π": r"\pi ", "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "×": "*", "·": "*", "⋅": "*", "∙": "*", "÷": "/",
        "±": r"\pm ", "∓": r"\mp ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ", "°": r"^{\circ}", "−": "-",
        "–": "-", "—": "-", "﹣": "-", "－": "-", "＋": "+", "＝": "=", "（": "(", "）": ")", "，": ",", "；": ";", "：": ":",
        "。": ".",
        "．": ".", "％": "%", "／": "/", "⁄": "/", "∕": "/", "√": r"\sqrt ", "≈": r"\approx ", "≡": r"\equiv ",
        "∖": r"\setminus ",
        "⩽": r"\le ", "⩾": r"\ge ", "≦": r"\le ", "≧": r"\ge ", "→": r"\to ", "′": "'", "’": "'", "∗": "*", "、": ",", "？": "?",
        "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "δ": r"\delta ", "θ": r"\theta ", "λ": r"\lambda ", "μ": r"\mu ",
        "φ": r"\varphi ", "ϕ": r"\varphi ", "ω": r"\omega ", "σ": r"\sigma ", "ρ": r"\rho ", "τ": r"\tau ", "ε": r"\varepsilon ",
        "½": r"\frac12 ", "⅓": r"\frac13 ", "⅔": r"\frac23 ", "¼": r"\frac14 ", "¾": r"\frac34 ", "⅕": r"\frac15 ",
        "⅛": r"\frac18 ",
        "⅜": r"\frac38 ", "⅝": r"\frac58 ", "⅞": r"\frac78 ", "⅖": r"\frac25 ", "⅗": r"\frac35 ", "⅘": r"\frac45 ",
        "⅙": r"\frac16 ",
        "⅚": r"\frac56 ", "²": "^{2}", "³": "^{3}", "⁴": "^{4}", "⁵": "^{5}", "⁻": "^{-}", "¹": "^{1}", "ℝ": r"\mathbb{R}",
        "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}", "⟨": r"\langle ", "⟩": r"\rangle ", "￥": "¥", "＄": "$",
        "\u00a0": " ", "\u2003": " ", "\u2009": " ", "\u202f": " ", "\u3000": " ", "\u2002": " ", "\u2007": " ", "\u200a": " ",
        "\u200b": None, "\ufeff": None, "\u2061": None,
        **{chr(0xFF10 + digit): str(digit) for digit in range(10)},
    }
)

SHORT_WORDS = frozenset(
    "no yes odd all not the are for was has its but can any per you get and or day one two six ten red min sec km cm mm kg mg ml "
    "mL ft mph lb pct cal usd rad".split()
)

# Words after a space, products of two letters elsewhere.
PAIRS_OF_LETTERS = frozenset("am pm in is of hr oz".split())

WORD_UNITS = frozenset("km cm mm kg mg ml mL ft lb oz hr min sec mi pct nm kJ Hz kN MPa kPa ms us rad".split())

SEPARATOR_WORDS = frozenset({"and", "or"})

UNIT_LETTERS = frozenset("mgshlLNJWVAKCF")
