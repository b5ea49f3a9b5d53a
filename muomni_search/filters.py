"""The filter language: text or a dict in, one small tree out.

Grammar (keywords in any case)::

    expr := or;  or := and ("or" and)*;  and := not ("and" not)*
    not  := "not" not | "(" expr ")" | test
    test := field ("=" | "!=" | "<" | "<=" | ">" | ">=") literal
          | field ["not"] "in" "(" literal, … ")" | field "contains" literal
          | field "is" ["not"] "null"

What a test means is decided where it is turned into SQL, and said in
``docs/reference/filters.md``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

from muomni_search.errors import InvalidInput

__all__ = ["And", "Filter", "Literal", "Not", "Or", "Test", "parse_filter"]

Literal = str | int | float | bool
COMPARISONS = ("=", "!=", "<", "<=", ">", ">=")
# Deeper than any person writes, shallower than Python's stack.
MAX_DEPTH = 50


@dataclass(frozen=True, slots=True)
class Test:
    """One comparison.

    Args:
        field: The names from the outside in: ``("camera", "make")`` for ``camera.make``.
        op: ``=``, ``!=``, ``<``, ``<=``, ``>``, ``>=``, ``in``, ``not in``, ``contains``,
            ``is null`` or ``is not null``.
        value: A literal; a tuple of them for ``in`` and ``not in``; None for the null tests.
    """

    __test__ = False  # for pytest: this is no test class

    field: tuple[str, ...]
    op: str
    value: Literal | tuple[Literal, ...] | None = None


@dataclass(frozen=True, slots=True)
class And:
    """True when all of its terms are."""

    terms: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """True when one of its terms is."""

    terms: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """True when its term is not."""

    term: Filter


Filter = Test | And | Or | Not


def parse_filter(expr: str | Mapping[str, Any] | None) -> Filter | None:
    """Return the tree of a filter, or None for no filter.

    Args:
        expr: The text form (``year >= 2020 and kind = 'photo'``) or the dict form
            (``{"year": {"$gte": 2020}, "kind": "photo"}``).

    Raises:
        InvalidInput: It is malformed; the message shows where.

    Example:
        >>> parse_filter("year >= 2020")
        Test(field=('year',), op='>=', value=2020)
        >>> parse_filter("year >= 2020") == parse_filter({"year": {"$gte": 2020}})
        True
    """
    if expr is None:
        return None
    if isinstance(expr, str):
        return _Parser(expr).parse()
    return _from_dict(expr, 0)


# ---- the text form ---------------------------------------------------------------------------

TOKEN = re.compile(
    r"""\s*(?:
        (?P<string>'(?:[^']|'')*')
      | (?P<quoted>"(?:[^"]|"")*")
      | (?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)
      | (?P<word>[^\W\d]\w*)
      | (?P<sign><=|>=|!=|=|<|>|\(|\)|,|\.)
      | (?P<end>\Z)
    )""",
    re.VERBOSE,
)


class _Token(NamedTuple):
    kind: str
    text: str
    at: int


class _Parser:
    """Recursive descent, one method a rule of the grammar."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = list(self._read())
        self._next = 0
        self._depth = 0

    def parse(self) -> Filter:
        result = self._or()
        if self._peek().kind != "end":
            self._fail("expected 'and', 'or' or the end")
        return result

    def _read(self) -> Sequence[_Token]:
        tokens, at = [], 0
        while True:
            match = TOKEN.match(self._text, at)
            if match is None:
                at += len(self._text[at:]) - len(self._text[at:].lstrip())
                self._fail("cannot read this", at)
            kind = match.lastgroup or "end"
            tokens.append(_Token(kind, match.group(kind), match.start(kind)))
            if kind == "end":
                return tokens
            at = match.end()

    def _fail(self, what: str, at: int | None = None) -> NoReturn:
        at = self._peek().at if at is None else at
        near = self._text[at : at + 20] or "the end"
        raise InvalidInput(
            f"bad filter at character {at + 1}, near {near!r}: {what}",
            hint="for example: year >= 2020 and kind in ('photo', 'drawing')",
        )

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self) -> _Token:
        token = self._peek()
        self._next = min(self._next + 1, len(self._tokens) - 1)
        return token

    def _accept(self, *texts: str) -> str | None:
        token = self._peek()
        if token.kind in ("word", "sign") and token.text.lower() in texts:
            self._take()
            return token.text.lower()
        return None

    def _expect(self, text: str) -> None:
        if not self._accept(text):
            self._fail(f"expected {text!r}")

    def _or(self) -> Filter:
        terms = [self._and()]
        while self._accept("or"):
            terms.append(self._and())
        return terms[0] if len(terms) == 1 else Or(tuple(terms))

    def _and(self) -> Filter:
        terms = [self._not()]
        while self._accept("and"):
            terms.append(self._not())
        return terms[0] if len(terms) == 1 else And(tuple(terms))

    def _not(self) -> Filter:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            self._fail(f"nested deeper than {MAX_DEPTH}")
        try:
            if self._accept("not"):
                return Not(self._not())
            if self._accept("("):
                inner = self._or()
                self._expect(")")
                return inner
            return self._test()
        finally:
            self._depth -= 1

    def _test(self) -> Filter:
        field = self._field()
        comparison = self._accept(*COMPARISONS)
        if comparison:
            return Test(field, comparison, self._literal())
        if self._accept("contains"):
            return Test(field, "contains", self._literal())
        if self._accept("is"):
            negated = self._accept("not")
            self._expect("null")
            return Test(field, "is not null" if negated else "is null")
        negated = self._accept("not")
        if self._accept("in"):
            return Test(field, "not in" if negated else "in", self._literals())
        self._fail("expected a comparison, 'in', 'contains' or 'is'")

    def _field(self) -> tuple[str, ...]:
        names = [self._name()]
        while self._accept("."):
            names.append(self._name())
        return tuple(names)

    def _name(self) -> str:
        token = self._peek()
        if token.kind == "word":
            return self._take().text
        if token.kind == "quoted":
            return self._take().text[1:-1].replace('""', '"')
        self._fail("expected the name of a field")

    def _literals(self) -> tuple[Literal, ...]:
        self._expect("(")
        values: list[Literal] = []
        if self._accept(")"):
            return ()
        values.append(self._literal())
        while self._accept(","):
            values.append(self._literal())
        self._expect(")")
        return tuple(values)

    def _literal(self) -> Literal:
        token = self._peek()
        if token.kind == "string":
            return self._take().text[1:-1].replace("''", "'")
        if token.kind == "number":
            return _number(self._take().text)
        word = self._accept("true", "false")
        if word is None:
            self._fail("expected a 'string', a number, true or false")
        return word == "true"


def _number(text: str) -> int | float:
    try:
        return _checked(int(text))
    except ValueError:
        return _checked(float(text))


# ---- the dict form ---------------------------------------------------------------------------

DICT_COMPARISONS = {"$eq": "=", "$ne": "!=", "$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}


def _from_dict(expr: Any, depth: int) -> Filter:
    if not isinstance(expr, Mapping) or not expr:
        raise InvalidInput(
            f"a filter is a dict with at least one field, not {expr!r}",
            hint='for example: {"year": {"$gte": 2020}}',
        )
    if depth > MAX_DEPTH:
        raise InvalidInput(f"the filter is nested deeper than {MAX_DEPTH}")
    terms: list[Filter] = []
    for name, value in expr.items():
        if name in ("$and", "$or"):
            if not isinstance(value, Sequence) or isinstance(value, str) or not value:
                raise InvalidInput(f"{name} needs a list of filters, not {value!r}")
            parts = tuple(_from_dict(part, depth + 1) for part in value)
            joined = And(parts) if name == "$and" else Or(parts)
            terms.append(parts[0] if len(parts) == 1 else joined)
        elif name == "$not":
            terms.append(Not(_from_dict(value, depth + 1)))
        else:
            terms += _field_tests(name, value)
    return terms[0] if len(terms) == 1 else And(tuple(terms))


def _field_tests(name: Any, value: Any) -> list[Filter]:
    if not isinstance(name, str) or not name or name.startswith("$"):
        raise InvalidInput(f"{name!r} is neither a field nor an operator")
    field = tuple(name.split("."))
    tests = value if isinstance(value, Mapping) else {"$eq": value}
    if not tests:
        raise InvalidInput(f"the field {name!r} has no test")
    return [_field_test(field, op, operand) for op, operand in tests.items()]


def _field_test(field: tuple[str, ...], op: Any, operand: Any) -> Filter:
    if op == "$not":
        inner = _field_tests(".".join(field), operand)
        return Not(inner[0] if len(inner) == 1 else And(tuple(inner)))
    if op == "$exists":
        if not isinstance(operand, bool):
            raise InvalidInput(f"$exists takes true or false, not {operand!r}")
        return Test(field, "is not null" if operand else "is null")
    if op in ("$in", "$nin"):
        if not isinstance(operand, Sequence) or isinstance(operand, str):
            raise InvalidInput(f"{op} needs a list, not {operand!r}")
        return Test(
            field, "in" if op == "$in" else "not in", tuple(_checked(value) for value in operand)
        )
    if op in ("$eq", "$ne") and operand is None:
        return Test(field, "is null" if op == "$eq" else "is not null")
    if op == "$contains":
        return Test(field, "contains", _checked(operand))
    if op in DICT_COMPARISONS:
        return Test(field, DICT_COMPARISONS[op], _checked(operand))
    known = ", ".join([*DICT_COMPARISONS, "$in", "$nin", "$contains", "$exists", "$not"])
    raise InvalidInput(f"unknown operator {op!r} of the field {'.'.join(field)!r}: one of {known}")


def _checked(value: Any) -> Any:
    """Return a literal that can be compared."""
    if not isinstance(value, str | int | float):
        raise InvalidInput(f"a value is a string, a number, true or false, not {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidInput(f"{value} cannot be compared with")
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 2**63:
        return float(value)
    return value
