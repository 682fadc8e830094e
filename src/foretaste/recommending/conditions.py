"""The text of a condition as a syntax tree: sqlglot reads it, in a dialect of SQL without queries.

The dialect has the keywords of conditions and no others: SELECT, FROM or CAST are names like any
other there, so that sqlglot cannot build a query, a cast or a window, whatever the text.  Before
it parses, the tokens are checked against a list of what may occur: sqlglot's own lexer finds them,
so a comment or a quotation hides nothing from the check that the parser would see.

What the names mean, and which nodes of the tree may be evaluated, `filters` decides.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar, NoReturn

import polars as pl
from sqlglot import exp, parser, tokens
from sqlglot.dialects.dialect import Dialect
from sqlglot.errors import ErrorLevel, ParseError, SqlglotError
from sqlglot.tokens import Token, TokenType

from foretaste.errors import UsageError

DEEPEST = 16  # parentheses, calls, CASE, NOT and signs inside each other; sqlglot recurses
FUNCTIONS = (
    "abs", "ceil", "coalesce", "contains", "date", "ends_with", "floor", "length", "lower",
    "regexp_like", "round", "starts_with", "trim", "upper",
)  # fmt: skip
EXAMPLE = "Write one like year >= 1990 AND genres LIKE '%Drama%'."
LONGEST_QUOTE = 60  # characters of the condition in an error

_KEYWORDS = (
    "AND", "BETWEEN", "CASE", "ELSE", "END", "FALSE", "ILIKE", "IN", "IS", "LIKE", "NOT", "NULL",
    "OR", "THEN", "TRUE", "WHEN",
)  # fmt: skip
_COMPARISONS = {
    "==": TokenType.EQ, "<>": TokenType.NEQ, "!=": TokenType.NEQ,
    "<=": TokenType.LTE, ">=": TokenType.GTE,
}  # fmt: skip
_ALLOWED = {
    *(TokenType[word] for word in _KEYWORDS), *_COMPARISONS.values(), TokenType.LT, TokenType.GT,
    TokenType.VAR, TokenType.IDENTIFIER, TokenType.STRING, TokenType.NUMBER, TokenType.L_PAREN,
    TokenType.R_PAREN, TokenType.COMMA, TokenType.DOT, TokenType.PLUS, TokenType.DASH,
    TokenType.STAR, TokenType.SLASH, TokenType.MOD,
}  # fmt: skip
_NAMES = (TokenType.VAR, TokenType.IDENTIFIER)
_VALUES = {*_NAMES, TokenType.STRING, TokenType.NUMBER, TokenType.R_PAREN, TokenType.END}
_BOUNDARIES = {
    TokenType.AND, TokenType.OR, TokenType.COMMA, TokenType.WHEN, TokenType.THEN,
    TokenType.ELSE,
}  # fmt: skip


class Conditions(Dialect):
    """SQL without queries, casts, windows, types and functions of its own: every call is a name."""

    class Tokenizer(tokens.Tokenizer):
        """The keywords of conditions; every other word is a name."""

        KEYWORDS: ClassVar[dict[str, TokenType]] = {
            **{word: TokenType[word] for word in _KEYWORDS},
            **_COMPARISONS,
        }
        COMMANDS: ClassVar[set[TokenType]] = set()

    class Parser(parser.Parser):
        """No function has a syntax of its own, so `f(a, b)` is always a name and its arguments."""

        FUNCTIONS: ClassVar[dict[str, Any]] = {}
        FUNCTION_PARSERS: ClassVar[dict[str, Any]] = {}
        NO_PAREN_FUNCTIONS: ClassVar[dict[TokenType, Any]] = {}
        NO_PAREN_FUNCTION_PARSERS: ClassVar[dict[str, Any]] = {
            "CASE": parser.Parser.NO_PAREN_FUNCTION_PARSERS["CASE"]
        }
        PLACEHOLDER_PARSERS: ClassVar[dict[TokenType, Any]] = {}
        SUBQUERY_PREDICATES: ClassVar[dict[TokenType, Any]] = {}


_DIALECT = Conditions()


def syntax_tree(text: str) -> exp.Expr:
    """Parse the text of a condition; no name in it is looked up, and nothing is opened.

    Args:
        text: SQL, of a length that the caller has bounded.

    Returns:
        The tree as sqlglot built it.  It holds only what the dialect has, but it need not make
        sense: `year + 1` is a tree too.

    Raises:
        UsageError: The text is no condition; the message names the character and the word.
    """
    try:
        words = _checked(_DIALECT.tokenize(text))
        trees = _DIALECT.parser(
            error_level=ErrorLevel.IMMEDIATE, error_message_context=len(text) + 1
        ).parse_into(exp.Condition, words, text)
    except ParseError as error:
        raise _unexpected(text, error) from None
    except SqlglotError:
        raise UsageError(
            "where: a quotation or a comment in the condition is not closed.",
            fix="Write text as 'Don''t Look Now', and quote names as \"my column\".",
        ) from None
    except RecursionError:  # where the caller itself stands deep in the stack
        too_deep()
    if len(trees) != 1 or trees[0] is None:
        raise UsageError("where: the condition is empty.", fix=EXAMPLE)
    return trees[0]


def quoted(node: exp.Expr) -> str:
    """Return the part of a condition that a node stands for, shortened, for an error.

    Args:
        node: Part of a tree of `syntax_tree`.
    """
    try:
        text = node.sql(Conditions, normalize_functions=False, unsupported_level=ErrorLevel.IGNORE)
    except Exception:  # sqlglot cannot write all that it can read, and recurses on a.a.a.a...
        text = "..."
    return shortened(text)


def shortened(text: str) -> str:
    """Return text with quotation marks and escapes on one line, cut to `LONGEST_QUOTE` characters.

    Args:
        text: Any text.
    """
    return repr(text if len(text) <= LONGEST_QUOTE else text[: LONGEST_QUOTE - 3] + "...")


def like_pattern(pattern: str, *, case: bool) -> str:
    """Return a LIKE pattern as a regular expression of Rust.

    Args:
        pattern: `%` stands for any text, `_` for any character; nothing escapes them.
        case: Whether upper and lower case differ.
    """
    body = "".join({"%": ".*", "_": "."}.get(c) or pl.escape_regex(c) for c in pattern.strip("%"))
    start = "" if pattern.startswith("%") else "^"
    stop = "" if pattern.endswith("%") else "$"
    return f"(?s{'' if case else 'i'}){start}{body}{stop}"


def positions(pattern: str) -> int:
    """How many characters a pattern has with {n} written out, at most; what matching it costs.

    {n} behind one character adds n; behind a group, where {n} may stand inside of {n}, all is
    multiplied.  Refused: braces that might be counted otherwise, and the flag x, which allows
    blanks and comments before {n}.
    """
    plain = re.sub(r"\\.", "x", pattern, flags=re.DOTALL)
    names = r"\{[A-Za-z_=^:]+\}"
    counts = list(re.finditer(r"(.?)\{([0-9]{1,4})(?:,([0-9]{0,4}))?\}", plain, re.DOTALL))
    braces = plain.count("{") - len(re.findall(names, plain)) - len(counts)
    if braces or re.search(r"\(\?[A-Za-z-]*x", plain):
        raise UsageError(
            f"where: {shortened(pattern)} has a brace that is no {{n}}, or the flag x.",
            fix="Write {4} or {2,4}, and \\{ for a brace.",
        )
    length, times = len(pattern), 1
    for before, least, most in (count.groups() for count in counts):
        n = max(int(least), int(most or 0), 1)
        if before and before not in ")}*+?":
            length += n
        else:
            times *= n
    return length * times


def too_deep() -> NoReturn:
    """Raise the UsageError of a condition with too much inside each other."""
    raise UsageError(
        f"where: the condition is nested more than {DEEPEST} deep.",
        fix="Write fewer parentheses, calls, CASE, NOT and signs inside each other, shorter sums, "
        "and fewer WHEN.",
    ) from None


def not_callable(name: str) -> NoReturn:
    """Raise the UsageError of a function that conditions do not have.

    Args:
        name: What was called.
    """
    raise UsageError(
        f"where: {shortened(name.lower())} cannot be called in a condition.",
        fix=f"Functions: {', '.join(FUNCTIONS)}.",
    ) from None


def _checked(words: Sequence[Token]) -> list[Token]:
    """The tokens, DATE '...' written as a call; UsageError for one that has no place here."""
    checked: list[Token] = []
    for token, after in zip(words, [*words, None][1:], strict=True):
        called = after is not None and after.token_type == TokenType.L_PAREN
        if token.token_type not in _ALLOWED:
            raise UsageError(
                f"where: character {token.start + 1}, {shortened(token.text)}, has no place in a "
                "condition.",
                fix="Write comparisons, AND, OR, NOT, IN, BETWEEN, LIKE, IS NULL, CASE, + - * / % "
                f"and the functions {', '.join(FUNCTIONS)}.",
            )
        unknown = token.token_type == TokenType.IDENTIFIER or token.text.lower() not in FUNCTIONS
        word = token.token_type == TokenType.VAR and token.text.lower()
        if word == "select" or (called and token.token_type in _NAMES and unknown):
            not_callable(token.text)
        checked.append(token)
        if word == "date" and after is not None and after.token_type == TokenType.STRING:
            checked.append(_bracket(TokenType.L_PAREN, "(", after))
        elif len(checked) > 1 and checked[-2].text == "(" and checked[-2].end < 0:
            checked.append(_bracket(TokenType.R_PAREN, ")", token))
    _measure(checked)
    return checked


def _bracket(kind: TokenType, text: str, beside: Token) -> Token:
    """A parenthesis that the text does not have: its end is -1."""
    return Token(kind, text, beside.line, beside.col, beside.start, -1)


def _measure(words: Sequence[Token]) -> None:
    """UsageError where sqlglot would recurse too deeply.

    Every open parenthesis and CASE is a level, and so is every NOT and every sign since the last
    AND, OR, comma, WHEN, THEN or ELSE: what stands behind them is parsed inside of them.
    """
    levels, before = [0], None
    for token in words:
        kind = token.token_type
        if kind in (TokenType.L_PAREN, TokenType.CASE):
            levels.append(0)
        elif kind in (TokenType.R_PAREN, TokenType.END) and len(levels) > 1:
            levels.pop()
        elif kind in _BOUNDARIES:
            levels[-1] = 0
        elif kind == TokenType.NOT or (
            kind in (TokenType.DASH, TokenType.PLUS) and before not in _VALUES
        ):
            levels[-1] += 1
        if len(levels) - 1 + sum(levels) > DEEPEST:
            too_deep()
        before = kind


def _unexpected(text: str, error: ParseError) -> UsageError:
    """Where sqlglot could not go on."""
    found = error.errors[0]
    start, word = len(found["start_context"] or ""), found["highlight"] or ""
    if "Unexpected" not in found["description"] and start + len(word) >= len(text.rstrip()):
        what = f"where: the condition ends too early, after {shortened(text.rstrip())}."
    else:
        what = f"where: character {start + 1}, {shortened(word)}, is not expected there."
    return UsageError(what, fix=EXAMPLE)
