"""The filter language: text or a dict in, one small tree out.

Grammar (keywords in any case)::

    expr := or;  or := and ("or" and)*;  and := not ("and" not)*
    not  := "not" not | "(" expr ")" | test
    test := field ("=" | "!=" | "<" | "<=" | ">" | ">=") literal
          | field ["not"] "in" "(" literal, … ")" | field "contains" literal
          | field "is" ["not"] "null"
    field := ["$" "."] name ("." name)*
    name := identifier | '"' … '"', a quote inside doubled
    literal := "'" … "'", a quote inside doubled | number | "true" | "false"

What a test means is decided where it is turned into SQL, and said in
``docs/reference/filters.md``.
"""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from muomni_search.errors import InvalidInput

__all__ = [
    "COLUMNS",
    "And",
    "Filter",
    "Literal",
    "Not",
    "Or",
    "Test",
    "fields_of",
    "metadata_field",
    "names_inside",
    "parse_field",
    "parse_filter",
    "refuse_source",
    "spell_field",
]

Literal = str | int | float | bool
# The fields that are the item's own, and no metadata.
COLUMNS = (("key",), ("modality",), ("source",), ("added",))
# Stands before the names of metadata that is called like one of them. No name of metadata has a
# NUL (``documents.to_json``).
METADATA = "\0"
COMPARISONS = ("=", "!=", "<", "<=", ">", ">=")
# Deeper than any person writes, shallower than Python's stack.
MAX_DEPTH = 50
# The words that join tests: as the name of a field they stand in quotes.
JOINING = ("and", "or", "not")
# How many characters an error shows on either side of the place that it means.
SHOWN = 20


@dataclass(frozen=True, slots=True)
class Test:
    """One comparison.

    Args:
        field: The names from the outside in: ``("camera", "make")`` for ``camera.make``; what
            ``metadata_field`` returns for ``$.source``.
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


def parse_filter(expr: str | Mapping[str, Any] | Filter | None) -> Filter | None:
    """Return the tree of a filter, or None for no filter.

    Args:
        expr: The text form (``year >= 2020 and kind = 'photo'``), the dict form
            (``{"year": {"$gte": 2020}, "kind": "photo"}``), or a tree.

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
    if isinstance(expr, Filter):
        return _checked_tree(expr)
    return _from_dict(expr, 0)


def refuse_source(condition: Filter | None) -> None:
    """Refuse a filter that asks where files lie, for those who may not find out letter by letter.

    Raises:
        InvalidInput: It does.
    """
    if isinstance(condition, And | Or):
        for term in condition.terms:
            refuse_source(term)
    elif isinstance(condition, Not):
        refuse_source(condition.term)
    elif condition is not None and condition.field == ("source",):
        raise InvalidInput(
            "a server does not say where its files lie",
            hint="filter by key, or by $.source where metadata is called so",
        )


# ---- the text form ---------------------------------------------------------------------------

WORD = r"[^\W\d]\w*"
TOKEN = re.compile(
    rf"""\s*(?:
        (?P<string>'(?:[^']|'')*')
      | (?P<quoted>"(?:[^"]|"")*")
      | (?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)
      | (?P<word>{WORD})
      | (?P<sign><=|>=|!=|=|<|>|\(|\)|,|\.|\$)
      | (?P<end>\Z)
    )""",
    re.VERBOSE,
)


def parse_field(text: str) -> tuple[str, ...]:
    """Return the names that lead to a field: ``place.city`` is ``("place", "city")``.

    Raises:
        InvalidInput: It is no field as filters spell them.
    """
    try:
        test = parse_filter(f"{text} is null")
    except InvalidInput as error:
        raise InvalidInput(f"{text!r} is no field", hint='write place.city, or "a b"') from error
    if not isinstance(test, Test):
        raise InvalidInput(f"{text!r} is no field", hint='write place.city, or "a b"')
    return test.field


def fields_of(condition: Filter) -> set[tuple[str, ...]]:
    """Return the fields that a filter looks at."""
    match condition:
        case Test(field=names):
            return {names}
        case Not(term=term):
            return fields_of(term)
        case And(terms=terms) | Or(terms=terms):
            return set().union(*map(fields_of, terms))


def metadata_field(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the field at some names in the metadata, also where these alone are an own column."""
    return (METADATA, *names) if names in COLUMNS else names


def names_inside(field: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names that lead to a field in the metadata: ``metadata_field`` undone."""
    inside = field[1:]
    return inside if metadata_field(inside) == field else field


def spell_field(names: tuple[str, ...]) -> str:
    """Return a field as filters spell it, quoted where that is needed."""
    inside = names_inside(names)
    root = "$." if inside != names else ""
    return root + ".".join(
        name
        if re.fullmatch(WORD, name) and name.lower() not in JOINING
        else '"' + name.replace('"', '""') + '"'
        for name in inside
    )


class _Token(NamedTuple):
    kind: str
    text: str
    at: int


class _Parser:
    """Recursive descent, one method a rule of the grammar."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = self._read()
        self._next = 0
        self._depth = 0

    def parse(self) -> Filter:
        result = self._or()
        if self._peek().kind != "end":
            raise self._error("expected 'and', 'or' or the end")
        return result

    def _read(self) -> list[_Token]:
        tokens: list[_Token] = []
        at = 0
        while not tokens or tokens[-1].kind != "end":
            match = TOKEN.match(self._text, at)
            if match is None:
                at += len(self._text[at:]) - len(self._text[at:].lstrip())
                is_quote = self._text[at] in "'\""
                raise self._error(
                    "a quote that is not closed" if is_quote else "a sign without a meaning", at
                )
            kind = match.lastgroup or "end"
            tokens.append(_Token(kind, match.group(kind), match.start(kind)))
            at = match.end()
        return tokens

    def _error(self, what: str, at: int | None = None) -> InvalidInput:
        at = self._peek().at if at is None else at
        before = self._text[max(at - SHOWN, 0) : at]
        near = f"{before}▸{self._text[at : at + SHOWN]}"
        return InvalidInput(
            f"bad filter at character {at + 1}, {near!r}: {what}",
            hint="write it like: year >= 2020 and kind in ('photo', 'drawing')",
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
            return self._take().text.lower()
        return None

    def _expect(self, text: str) -> None:
        if not self._accept(text):
            raise self._error(f"expected {text!r}")

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
            raise self._error(f"nested deeper than {MAX_DEPTH}")
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
        raise self._error("expected a comparison, 'in', 'contains' or 'is'")

    def _field(self) -> tuple[str, ...]:
        is_of_metadata = self._accept("$")
        if is_of_metadata:
            self._expect(".")
        names = [self._name()]
        while self._accept("."):
            names.append(self._name())
        return metadata_field(tuple(names)) if is_of_metadata else tuple(names)

    def _name(self) -> str:
        token = self._peek()
        if token.kind == "quoted":
            return self._take().text[1:-1].replace('""', '"')
        if token.kind == "word" and token.text.lower() not in JOINING:
            return self._take().text
        raise self._error("expected the name of a field")

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
            try:
                number = _number(token.text)
            except InvalidInput as error:
                raise self._error(error.what) from error
            self._take()
            return number
        word = self._accept("true", "false")
        if word is None:
            hint = "; a test for null is `is null`" if token.text.lower() == "null" else ""
            raise self._error(f"expected a 'string', a number, true or false{hint}")
        return word == "true"


def _number(text: str) -> Literal:
    if not text.lstrip("+-").isdigit():
        return _checked(float(text))
    try:
        return _checked(int(text))
    except ValueError:  # more digits than Python reads
        return _checked(math.inf)


# ---- the dict form ---------------------------------------------------------------------------

DICT_NAME = re.compile(r'(?:(?<=\.)|\A)(?:"((?:[^"]|"")*)"(?=\.|\Z)|([^.]*))')
DICT_COMPARISONS = {"$eq": "=", "$ne": "!=", "$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}


def _from_dict(expr: Any, depth: int) -> Filter:
    if not isinstance(expr, Mapping) or not expr:
        raise InvalidInput(
            f"a filter is a dict with at least one field, not {_shown(expr)}",
            hint='write it like: {"year": {"$gte": 2020}}',
        )
    _check_depth(depth)
    terms: list[Filter] = []
    for name, value in expr.items():
        if name in ("$and", "$or"):
            if not _is_list(value) or not value:
                raise InvalidInput(f"{name} needs a list of filters, not {_shown(value)}")
            parts = tuple(_from_dict(part, depth + 1) for part in value)
            joined = And(parts) if name == "$and" else Or(parts)
            terms.append(parts[0] if len(parts) == 1 else joined)
        elif name == "$not":
            terms.append(Not(_from_dict(value, depth + 1)))
        elif not isinstance(name, str) or not name or re.match(r"(?s)\$(?!\..)", name):
            raise InvalidInput(f"{_shown(name)} is neither a field nor an operator")
        else:
            names = _names_of(name.removeprefix("$."))
            field = metadata_field(names) if name.startswith("$.") else names
            terms.append(_field_tests(field, value, depth))
    return _all(terms)


def _names_of(field: str) -> tuple[str, ...]:
    """Return the names that lead to a field: between dots, or in double quotes with dots in."""
    found = DICT_NAME.finditer(field)
    return tuple(one[2] if one[1] is None else one[1].replace('""', '"') for one in found)


def _field_tests(field: tuple[str, ...], value: Any, depth: int) -> Filter:
    _check_depth(depth)
    tests = value if isinstance(value, Mapping) else {"$eq": value}
    if not tests:
        raise InvalidInput(f"the field {spell_field(field)!r} has no test")
    return _all([_field_test(field, op, operand, depth) for op, operand in tests.items()])


def _field_test(field: tuple[str, ...], op: Any, operand: Any, depth: int) -> Filter:
    if op == "$not":
        return Not(_field_tests(field, operand, depth + 1))
    if op == "$exists":
        if not isinstance(operand, bool):
            raise InvalidInput(
                f"$exists of {spell_field(field)!r} takes true or false, not {_shown(operand)}"
            )
        return Test(field, "is not null" if operand else "is null")
    if op in ("$in", "$nin"):
        is_array = hasattr(operand, "dtype") and getattr(operand, "ndim", 0) == 1
        if not (is_array or _is_list(operand) or isinstance(operand, AbstractSet)):
            raise InvalidInput(
                f"{op} of {spell_field(field)!r} needs a list, not {_shown(operand)}"
            )
        values = tuple(_compared(field, one) for one in operand)
        return Test(field, "in" if op == "$in" else "not in", values)
    if op in ("$eq", "$ne") and operand is None:
        return Test(field, "is null" if op == "$eq" else "is not null")
    if op == "$contains":
        return Test(field, "contains", _compared(field, operand))
    if op in DICT_COMPARISONS:
        return Test(field, DICT_COMPARISONS[op], _compared(field, operand))
    known = ", ".join([*DICT_COMPARISONS, "$in", "$nin", "$contains", "$exists", "$not"])
    raise InvalidInput(
        f"unknown operator {_shown(op)} of the field {spell_field(field)!r}", hint=f"one of {known}"
    )


def _all(terms: list[Filter]) -> Filter:
    return terms[0] if len(terms) == 1 else And(tuple(terms))


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray)


def _check_depth(depth: int) -> None:
    if depth >= MAX_DEPTH:
        raise InvalidInput(f"the filter is nested deeper than {MAX_DEPTH}")


def _compared(field: tuple[str, ...], value: Any) -> Literal:
    """Return a literal that a field can be compared with."""
    try:
        return _checked(value)
    except InvalidInput as error:
        raise InvalidInput(f"{error.what}, in the test of {spell_field(field)!r}") from error


def _checked(value: Any) -> Literal:
    """Return a literal that can be compared; integers past 64 bits as SQLite sees them."""
    # Of NumPy, as the cells of a data frame are. A date makes a whole number there, and what is
    # masked a 0.
    kind = getattr(getattr(value, "dtype", None), "kind", "")
    if kind and kind in "biufU" and value.ndim == 0 and not hasattr(value, "mask"):
        value = value.item()
    if not isinstance(value, str | int | float):
        raise InvalidInput(f"a value is a string, a number, true or false, not {_shown(value)}")
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 2**63:
        try:
            value = float(value)
        except OverflowError:
            value = math.inf
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidInput("a number must be finite, and smaller than 1e308")
    literal: Literal = value
    return literal


def _checked_tree(condition: Filter) -> Filter:
    """Return a tree whose literals can be compared."""
    if isinstance(condition, Not):
        return Not(_checked_tree(condition.term))
    if isinstance(condition, And | Or):
        return type(condition)(tuple(map(_checked_tree, condition.terms)))
    if isinstance(condition.value, tuple):
        values = tuple(_compared(condition.field, one) for one in condition.value)
        return replace(condition, value=values)
    if condition.value is None:
        return condition
    return replace(condition, value=_compared(condition.field, condition.value))


def _shown(value: Any) -> str:
    """Return a value as one short line for an error."""
    return reprlib.repr(value)
