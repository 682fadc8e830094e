"""A syntax tree as a polars expression: every node and every function has an entry, or is refused.

Types are checked while building: what has been built can be evaluated, whatever the cells hold.
Whole numbers are exact where they are compared; arithmetic and functions of numbers are in double
precision, where a division by zero and whatever is not a number are null.  LIKE and the names of
columns heed the case.  Not here: `||`, which makes text of any size out of a short condition.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import polars as pl
from sqlglot import exp

from foretaste.errors import UsageError
from foretaste.recommending.conditions import (
    DEEPEST,
    EXAMPLE,
    like_pattern,
    not_callable,
    positions,
    quoted,
    shortened,
    too_deep,
)
from foretaste.recommending.operands import (
    MOST_STEPS,
    NULL,
    REWRITE,
    SEARCH,
    TIME,
    Value,
    alike,
    as_type,
    column,
    computed,
    constant_of,
    number,
)  # fmt: skip

LONGEST_PATTERN = 128  # `positions` of all patterns of a condition
_COMPARISONS: dict[type[exp.Expr], Callable[[Any, Any], Any]] = {
    exp.EQ: operator.eq, exp.NEQ: operator.ne, exp.LT: operator.lt, exp.LTE: operator.le,
    exp.GT: operator.gt, exp.GTE: operator.ge,
}  # fmt: skip
_ARITHMETIC: dict[type[exp.Expr], Callable[[Any, Any], Any]] = {
    exp.Add: operator.add, exp.Sub: operator.sub, exp.Mul: operator.mul,
    exp.Div: operator.truediv,
}  # fmt: skip


class Builder:
    """Expressions from the tree of one condition.

    It knows what the columns are called and of which type they are, not what they hold.

    Attributes:
        read: Name and type of the columns read; the expression calls the first "0", and so on.
        made_bytes: How much text of the condition itself a row can get, at most.
    """

    def __init__(self, schema: Mapping[str, pl.DataType]) -> None:
        """Build for one table.

        Args:
            schema: Name and type of its columns.
        """
        self._schema = schema
        self.read: dict[str, pl.DataType] = {}
        self.made_bytes = 0
        self._positions = 0
        self._depth = 0

    def value(self, node: exp.Expr) -> Value:
        """Build a node of the tree, and what is below it.

        Args:
            node: As `syntax_tree` gives it.

        Raises:
            UsageError: It is none of `_NODES`, or has other arguments than these may have, or
                types or costs are against it.
        """
        while type(node) is exp.Paren:
            node = node.this
        build, allowed = _NODES.get(type(node), (None, ""))
        extra = [name for name, arg in node.args.items() if arg and name not in allowed.split()]
        if build is None or extra:
            raise UsageError(f"where: {quoted(node)} has no place in a condition.", fix=EXAMPLE)
        self._depth += 1
        if self._depth > 2 * DEEPEST:  # AND, OR and comparisons stand between the parentheses
            too_deep()
        made = build(self, node)
        self._depth -= 1
        return made

    def _values(self, nodes: Sequence[exp.Expr]) -> list[Value]:
        """Build several nodes."""
        return [self.value(node) for node in nodes]

    def _column(self, node: exp.Column) -> Value:
        """A column as one of six types: Boolean, Int64, Int128, Float64, String, Datetime."""
        name = ".".join(part.name for part in node.parts)
        if name not in self._schema:
            raise UsageError(
                f"where: there is no column {shortened(name)}.",
                fix=f"Columns: {', '.join(self._schema)}.",
            )
        dtype = self.read.setdefault(name, self._schema[name])
        return column(pl.col(str(list(self.read).index(name))), dtype)

    def _literal(self, node: exp.Literal) -> Value:
        """A text or a number as it is written."""
        if node.is_string:
            return Value(pl.lit(node.name, dtype=pl.String), pl.String(), constant=node.name)
        if re.fullmatch(r"[0-9]+", node.name):
            return number(int(node.name), node)
        if not re.fullmatch(r"[0-9]+\.?[0-9]*([eE][+-]?[0-9]+)?", node.name):
            raise UsageError(f"where: {quoted(node)} is not a number.", fix=EXAMPLE)
        return number(float(node.name), node)

    def _boolean(self, node: exp.Boolean) -> Value:
        """TRUE or FALSE."""
        return Value(pl.lit(node.this), pl.Boolean(), constant=node.this)

    def _connected(self, node: exp.Connector) -> Value:
        """AND or OR of any number of terms, which sqlglot hangs below each other."""
        terms, left = [], [node]
        while left:
            term = left.pop()
            if type(term) is type(node):
                left += [term.expression, term.this]
            else:
                terms.append(self._truth(term, node))
        join = pl.all_horizontal if type(node) is exp.And else pl.any_horizontal
        return computed(join([term.expr for term in terms]), pl.Boolean(), terms)

    def _negated(self, node: exp.Not) -> Value:
        """NOT."""
        value = self._truth(node.this, node)
        return computed(~value.expr, pl.Boolean(), [value])

    def _truth(self, node: exp.Expr, whole: exp.Expr) -> Value:
        """A part of `whole` that must be true or false."""
        return as_type(self.value(node), pl.Boolean(), node, whole)

    def _compared(self, node: exp.Binary) -> Value:
        """= <> < <= > >=."""
        sides = self._values([node.this, node.expression])
        return _compared(_COMPARISONS[type(node)], sides, node)

    def _between(self, node: exp.Between) -> Value:
        """BETWEEN, both ends included."""
        parts = self._values([node.this, node.args["low"], node.args["high"]])
        (x, low, high), _ = alike(parts, node)
        return computed(x.is_between(low, high), pl.Boolean(), parts, 2)

    def _one_of(self, node: exp.In) -> Value:
        """IN a list: the constants at once, what varies by comparisons; with null as in SQL."""
        if not node.expressions:
            raise UsageError(
                f"where: {quoted(node)} has no list of values.", fix="Write year IN (1990, 1991)."
            )
        x, *others = parts = self._values([node.this, *node.expressions])
        (needle, *exprs), dtype = alike(parts, node)
        at_once = [x.varies and v.constant is not None for v in others]
        tests = [needle == e for e, listed in zip(exprs, at_once, strict=True) if not listed]
        if any(at_once):
            constants = [constant_of(v, dtype) for v in others if v.constant is not None]
            tests.append(needle.is_in(pl.Series(constants, dtype=dtype).implode()))
        steps = len(tests) + (len(tests) - 1) * x.steps
        return computed(pl.any_horizontal(tests), pl.Boolean(), parts, steps)

    def _like(self, node: exp.Like | exp.ILike) -> Value:
        """LIKE, or ILIKE without case: % is any text, _ any character, nothing escapes them."""
        text = as_type(self.value(node.this), pl.String(), node.this, node)
        pattern = self._pattern(node.expression, node)
        self._costs(2 * pattern.count("_") + pattern.count("%"), node)
        found = text.expr.str.contains(like_pattern(pattern, case=type(node) is exp.Like))
        found = ~found if node.args.get("negate") else found
        return computed(found, pl.Boolean(), [text], SEARCH)

    def _pattern(self, node: exp.Expr, whole: exp.Expr) -> str:
        """A pattern, which must stand in the text: one per row would be compiled per row."""
        value = self.value(node)
        if not isinstance(value.constant, str):
            raise UsageError(
                f"where: the pattern in {quoted(whole)} is not a text.",
                fix="Write it in quotes: title LIKE '%Night%'.",
            )
        return value.constant

    def _costs(self, positions: int, node: exp.Expr) -> None:
        """Count what a pattern costs; UsageError where all of them cost too much."""
        self._positions += positions
        if self._positions > LONGEST_PATTERN:
            raise UsageError(
                f"where: the patterns are longer than {LONGEST_PATTERN} characters with their "
                f"repetitions, at {quoted(node)}.",
                fix="Write shorter ones, with * or + in place of {n}.",
            )

    def _tested(self, node: exp.Is) -> Value:
        """IS NULL, IS TRUE, IS FALSE; never null."""
        value = self.value(node.this)
        if type(node.expression) is exp.Null:
            return computed(value.expr.is_null(), pl.Boolean(), [value])
        if type(node.expression) is not exp.Boolean:
            raise UsageError(
                f"where: {quoted(node)} tests for what is not NULL, TRUE or FALSE.",
                fix="Write = in place of IS.",
            )
        truth = as_type(value, pl.Boolean(), node.this, node).expr
        found = truth if node.expression.this else ~truth
        return computed(found.fill_null(False), pl.Boolean(), [value], 2)

    def _cased(self, node: exp.Case) -> Value:
        """CASE WHEN condition THEN value, or CASE value WHEN value THEN value."""
        branches = node.args["ifs"]
        if self._depth + len(branches) > 2 * DEEPEST:  # each stands in the ELSE of the one before
            too_deep()
        results = self._values([branch.args["true"] for branch in branches])
        default = node.args.get("default")
        results.append(NULL if default is None else self.value(default))
        if node.this is None:
            tests = [self._truth(branch.this, node) for branch in branches]
        else:
            subject = self.value(node.this)
            tests = [_compared(operator.eq, [subject, self.value(b.this)], node) for b in branches]
        (*exprs, made), dtype = alike(results, node)
        for test, expr in zip(reversed(tests), reversed(exprs), strict=True):
            made = pl.when(test.expr).then(expr).otherwise(made)
        self._makes(results)
        return computed(made, dtype, [*tests, *results], len(branches))

    def _makes(self, values: Sequence[Value]) -> None:
        """Count the text that rows can get from constants."""
        self.made_bytes += max(
            len(v.constant.encode()) if isinstance(v.constant, str) else 0 for v in values
        )

    def _calculated(self, node: exp.Binary) -> Value:
        """+ - * / % in double precision; null where the divisor is zero; -7 % 3 is -1."""
        sides = self._values([node.this, node.expression])
        a, b = (as_type(v, pl.Float64(), n, node)
                for v, n in zip(sides, [node.this, node.expression], strict=True))  # fmt: skip
        x, y, steps = a.expr, b.expr, 2
        if type(node) in (exp.Div, exp.Mod):
            y = y.replace([0.0], [None])
        if type(node) is exp.Mod:  # polars' own has the sign of the divisor
            made, steps = (x.abs() % y.abs()) * x.sign(), 5 + a.steps
        else:
            made = _ARITHMETIC[type(node)](x, y)
        # fill_nan would repeat all that is below it three times, at every level
        return computed(made.replace([math.nan], [None]), pl.Float64(), sides, steps)

    def _minus(self, node: exp.Neg) -> Value:
        """A sign; that of a number belongs to it."""
        value = self.value(node.this)
        if value.constant is not None and value.dtype.is_numeric():
            return number(-value.constant, node)
        return computed(-as_type(value, pl.Float64(), node.this, node).expr, pl.Float64(), [value])

    def _called(self, node: exp.Anonymous) -> Value:
        """A function of `_FUNCTIONS`."""
        name = node.this.lower() if isinstance(node.this, str) else node.name
        if name not in _FUNCTIONS or not isinstance(node.this, str):
            not_callable(name)
        build, least, most = _FUNCTIONS[name]
        if not least <= len(node.expressions) <= most:
            wanted = f"{least}" if least == most else f"{least} to {most}"
            raise UsageError(
                f"where: {quoted(node)} has {len(node.expressions)} arguments.",
                fix=f"{name} takes {wanted}.",
            )
        return build(self, node)

    def _coalesced(self, node: exp.Anonymous) -> Value:
        """The first that is not null."""
        values = self._values(node.expressions)
        exprs, dtype = alike(values, node)
        self._makes(values)
        return computed(pl.coalesce(exprs), dtype, values)

    def _dated(self, node: exp.Anonymous) -> Value:
        """The day of a date; of a text that varies, null where it is none."""
        value = self.value(node.expressions[0])
        if value.dtype == pl.String and value.constant is None:
            day = value.expr.str.to_date("%Y-%m-%d", strict=False)
            return computed(day.cast(TIME), TIME, [value], SEARCH)
        (expr, _), dtype = alike([value, Value(pl.lit(None, TIME), TIME)], node)
        return computed(expr.dt.truncate("1d"), dtype, [value])

    def _rounded(self, node: exp.Anonymous) -> Value:
        """ROUND to a number of decimals; a half goes to the even neighbour."""
        x, *rest = self._arguments(node, pl.Float64())
        decimals = self.value(node.expressions[1]).constant if rest else 0
        if type(decimals) is not int or not 0 <= decimals <= 15:
            raise UsageError(
                f"where: {quoted(node)} has no number of decimals.", fix="Write 0 to 15."
            )
        return computed(x.expr.round(decimals, mode="half_to_even"), pl.Float64(), [x])

    def _searched(self, node: exp.Anonymous) -> Value:
        """REGEXP_LIKE in the syntax of Rust's regex, in time linear in the text."""
        text = as_type(self.value(node.expressions[0]), pl.String(), node.expressions[0], node)
        pattern, *flags = [self._pattern(n, node) for n in node.expressions[1:]]
        if flags and not re.fullmatch("[ims]+", flags[0]):
            raise UsageError(
                f"where: {shortened(flags[0])} are no flags of a pattern.",
                fix="Use 'i' (without case), 'm' and 's'.",
            )
        self._costs(positions(pattern), node)
        pattern = f"(?{flags[0]}){pattern}" if flags else pattern
        try:
            pl.Series([""]).str.contains(pattern)
        except pl.exceptions.PolarsError:
            raise UsageError(
                f"where: {shortened(pattern)} is not a regular expression.",
                fix="Close its brackets, and escape what stands for itself: '\\('.",
            ) from None
        return computed(text.expr.str.contains(pattern), pl.Boolean(), [text], SEARCH)

    def _arguments(self, node: exp.Anonymous, dtype: pl.DataType) -> list[Value]:
        """The arguments of a call, all of one type."""
        return [as_type(self.value(arg), dtype, arg, node) for arg in node.expressions]


def _compared(compare: Callable[[Any, Any], Any], sides: Sequence[Value], node: exp.Expr) -> Value:
    (a, b), _ = alike(sides, node)
    return computed(compare(a, b), pl.Boolean(), sides)


def _of_number(compute: Callable[[pl.Expr], pl.Expr]) -> _Build:
    """A function of one number."""

    def build(builder: Builder, node: exp.Anonymous) -> Value:
        values = builder._arguments(node, pl.Float64())
        return computed(compute(values[0].expr), pl.Float64(), values)

    return build


def _of_text(compute: Callable[..., pl.Expr], dtype: pl.DataType, weight: int) -> _Build:
    """A function of one text, or of a text and what is looked for in it."""

    def build(builder: Builder, node: exp.Anonymous) -> Value:
        values = builder._arguments(node, pl.String())
        return computed(compute(*(v.expr for v in values)), dtype, values, weight)

    return build


_Build = Callable[[Builder, Any], Value]
_TRUTH, _TEXT = pl.Boolean(), pl.String()
# name: what builds it, and how many arguments it takes at least and at most
_FUNCTIONS: dict[str, tuple[_Build, int, int]] = {
    "abs": (_of_number(lambda x: x.abs()), 1, 1),
    "ceil": (_of_number(lambda x: x.ceil()), 1, 1),
    "coalesce": (Builder._coalesced, 1, MOST_STEPS),
    "contains": (_of_text(lambda s, t: s.str.contains(t, literal=True), _TRUTH, SEARCH), 2, 2),
    "date": (Builder._dated, 1, 1),
    "ends_with": (_of_text(lambda s, t: s.str.ends_with(t), _TRUTH, SEARCH), 2, 2),
    "floor": (_of_number(lambda x: x.floor()), 1, 1),
    "length": (_of_text(lambda s: s.str.len_chars().cast(pl.Int64), pl.Int64(), SEARCH), 1, 1),
    "lower": (_of_text(lambda s: s.str.to_lowercase(), _TEXT, REWRITE), 1, 1),
    "regexp_like": (Builder._searched, 2, 3),
    "round": (Builder._rounded, 1, 2),
    "starts_with": (_of_text(lambda s, t: s.str.starts_with(t), _TRUTH, SEARCH), 2, 2),
    "trim": (_of_text(lambda s: s.str.strip_chars(), _TEXT, REWRITE), 1, 1),
    "upper": (_of_text(lambda s: s.str.to_uppercase(), _TEXT, REWRITE), 1, 1),
}
# kind of node: what builds it, and the arguments that it may have; none other is evaluated
_NODES: dict[type[exp.Expr], tuple[_Build, str]] = {
    **dict.fromkeys((exp.And, exp.Or), (Builder._connected, "this expression")),
    **dict.fromkeys(_COMPARISONS, (Builder._compared, "this expression")),
    **dict.fromkeys((*_ARITHMETIC, exp.Mod), (Builder._calculated, "this expression")),
    **dict.fromkeys((exp.Like, exp.ILike), (Builder._like, "this expression negate")),
    exp.Anonymous: (Builder._called, "this expressions"),
    exp.Between: (Builder._between, "this low high"),
    exp.Boolean: (Builder._boolean, "this"),
    exp.Case: (Builder._cased, "this ifs default"),
    exp.Column: (Builder._column, "this table db catalog"),
    exp.In: (Builder._one_of, "this expressions"),
    exp.Is: (Builder._tested, "this expression"),
    exp.Literal: (Builder._literal, "this is_string"),
    exp.Neg: (Builder._minus, "this"),
    exp.Not: (Builder._negated, "this"),
    exp.Null: (lambda builder, node: NULL, ""),
}
