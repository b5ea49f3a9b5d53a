"""Filters as SQL: two-valued, and never a type coerced.

A test on a field that is missing or null is false, save ``is null``; a comparison with a value
of another type is false, ``!=`` and ``not in`` among them. ``not`` turns what it is given around.

Inside, SQL's unknown stands for false: ``and`` and ``or`` keep it that way, and ``not`` asks for
``IS NOT TRUE``. A value is compared before its type is looked at, because each look reads the JSON
document anew and most values fail the comparison.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from muomni_search.errors import InvalidInput
from muomni_search.filters import (
    COLUMNS,
    And,
    Filter,
    Literal,
    Not,
    Or,
    Test,
    names_inside,
    spell_field,
)
from muomni_search.store.columns import LONGEST_TEXT

__all__ = ["Sql", "all_of", "field_expressions", "field_values", "filter_to_sql", "sql"]


class Sql(NamedTuple):
    """A piece of SQL that no comparison takes apart, and the values of its marks."""

    text: str
    values: tuple[Any, ...] = ()


def sql(template: str, *parts: Any) -> Sql:
    """Return a template with its ``{}`` filled: by pieces of SQL as they are, by values as marks.

    Example:
        >>> sql("{} = {}", Sql("items.key"), "a")
        Sql(text='items.key = ?', values=('a',))
    """
    pieces = [part if isinstance(part, Sql) else Sql("?", (part,)) for part in parts]
    values = tuple(value for piece in pieces for value in piece.values)
    return Sql(template.format(*(piece.text for piece in pieces)), values)


def all_of(*conditions: Sql) -> Sql:
    """Return the condition that all of them hold; of none it does."""
    return _joined("AND", conditions, TRUE)


def _any_of(*conditions: Sql) -> Sql:
    return _joined("OR", conditions, FALSE)


def _joined(word: str, conditions: Sequence[Sql], none: Sql) -> Sql:
    if len(conditions) < 2:
        return conditions[0] if conditions else none
    return sql(f"({f' {word} '.join(['{}'] * len(conditions))})", *conditions)


TRUE, FALSE = Sql("1"), Sql("0")
# What SQLite's json_type calls numbers, and true and false.
NUMBERS, FLAGS = ("integer", "real"), ("true", "false")
# Names that JSON writes as they are, so that a JSON path finds them by their bytes; how a path
# could spell any other differs from one version of SQLite to the next.
PLAIN_NAME = re.compile(r'[^"\\\x00-\x1f]+')
# The only one of the columns that an item may lack. What ``added`` is read from is not looked at
# twice.
MAY_LACK = ("source",)
# SQLite refuses expressions nested deeper than 1000, and a chain of "and" is as deep as it is long;
# a test takes up to four of these.
MAX_TESTS = 200
# Its parser's stack holds 100 words; of the longest tests 17 groups fit, of short ones 28.
MAX_NESTED = 15


class _Field(NamedTuple):
    """What a test looks at: a value, and the name of its JSON type (null when it is missing)."""

    value: Sql
    kind: Sql


def filter_to_sql(condition: Filter) -> Sql:
    """Return a condition on rows of ``items``; false or unknown leaves a row out.

    Raises:
        InvalidInput: More tests than SQLite takes, or deeper ones; or a text that is none.
    """
    if _depth(condition) > MAX_NESTED:
        raise InvalidInput(
            f"the filter has `and` and `or` in one another more than {MAX_NESTED} deep",
            hint="write it flatter, or with `field in (…)`",
        )
    if _count(condition) > MAX_TESTS:
        raise InvalidInput(
            f"the filter has more than {MAX_TESTS} tests",
            hint="write `field in (…)` instead of many `or`",
        )
    return _condition(condition)


def _count(condition: Filter) -> int:
    if isinstance(condition, Test):
        return 1
    return sum(map(_count, (condition.term,) if isinstance(condition, Not) else condition.terms))


def _depth(condition: Filter) -> int:
    """Return how many groups of terms lie in one another."""
    if isinstance(condition, Test):
        return 0
    if isinstance(condition, Not):
        return _depth(condition.term)
    return 1 + max(map(_depth, _terms(condition)), default=0)


def _terms(group: And | Or) -> Iterator[Filter]:
    """Yield the terms of a group, and of those in it that join in the same way."""
    for term in group.terms:
        if isinstance(term, type(group)):
            yield from _terms(term)
        else:
            yield term


def _condition(condition: Filter) -> Sql:
    if isinstance(condition, And):
        return all_of(*map(_condition, _terms(condition)))
    if isinstance(condition, Or):
        return _any_of(*map(_condition, _terms(condition)))
    if isinstance(condition, Not):
        return _is_not(_condition(condition.term))
    return _test(condition)


def _is_not(condition: Sql) -> Sql:
    return sql("{} IS NOT TRUE", condition)


def _test(test: Test) -> Sql:
    field = _field(test.field)
    if test.op == "is null":
        return _is_null(field)
    if test.op == "is not null":
        return _is_not(_is_null(field))
    if test.op in ("in", "not in"):
        return _among(test, field)
    value = test.value
    if value is None or isinstance(value, tuple):
        raise InvalidInput(f"`{test.op}` needs one value, not {value!r}")
    _check_text(value)
    if test.op == "contains":
        return _contains(field, value)
    if isinstance(value, bool):
        if test.op not in ("=", "!="):
            return FALSE
        return _equals(field, value if test.op == "=" else not value)
    return all_of(sql(f"{{}} {test.op} {{}}", field.value, value), _same_type(field, value))


def _check_text(value: Literal) -> None:
    try:
        str(value).encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(f"{value!r} in the filter is no valid text") from error


# ---- tests -------------------------------------------------------------------------------------


def _is_null(field: _Field) -> Sql:
    return sql("coalesce({}, 'null') = 'null'", field.kind)


def _same_type(field: _Field, value: Literal) -> Sql:
    if isinstance(value, bool):
        return _is_of(field, FLAGS)
    return _is_of(field, ("text",) if isinstance(value, str) else NUMBERS)


def _is_of(field: _Field, kinds: Iterable[str]) -> Sql:
    named = ", ".join(f"'{kind}'" for kind in kinds)
    return sql(f"{{}} IN ({named})", field.kind)


def _equals(field: _Field, value: Literal) -> Sql:
    if isinstance(value, bool):
        return _is_of(field, ("true" if value else "false",))
    return all_of(sql("{} = {}", field.value, value), _same_type(field, value))


def _among(test: Test, field: _Field) -> Sql:
    values = test.value if isinstance(test.value, tuple) else ()
    groups: dict[str, list[Literal]] = {"flag": [], "text": [], "number": []}
    for value in values:
        _check_text(value)
        is_flag, is_text = isinstance(value, bool), isinstance(value, str)
        groups["flag" if is_flag else "text" if is_text else "number"].append(value)
    used = [group for group in groups.values() if group]
    inside = _any_of(*(_is_one_of(field, group) for group in used))
    if test.op == "in":
        return inside
    # As with "!=", a value of a type that is not asked for is not compared at all.
    comparable = _any_of(*(_same_type(field, group[0]) for group in used))
    return all_of(comparable if used else _is_not(_is_null(field)), _is_not(inside))


def _is_one_of(field: _Field, values: Sequence[Literal]) -> Sql:
    """Compare with many values of one type: one parameter however many they are."""
    if isinstance(values[0], bool):
        return _any_of(*(_equals(field, value) for value in sorted(set(values))))
    # SQLite's JSON ends a text at a NUL; no stored one has any.
    wanted = json.dumps([one for one in values if not (isinstance(one, str) and "\0" in one)])
    return all_of(
        sql("{} IN (SELECT value FROM json_each({}))", field.value, wanted),
        _same_type(field, values[0]),
    )


def _contains(field: _Field, value: Literal) -> Sql:
    words = FALSE
    if isinstance(value, str):
        words = all_of(_is_of(field, ("text",)), sql("instr({}, {}) > 0", field.value, value))
    element = _Field(Sql("element.value"), Sql("element.type"))
    # Whatever is no array has no elements, instead of an error where it is no JSON.
    among = sql(
        "EXISTS (SELECT 1 FROM json_each(CASE WHEN {} = 'array' THEN {} ELSE '[]' END) AS element"
        " WHERE {})",
        field.kind,
        field.value,
        _equals(element, value),
    )
    return _any_of(words, all_of(_is_of(field, ("array",)), among))


# ---- fields ------------------------------------------------------------------------------------


def _field(names: tuple[str, ...]) -> _Field:
    for name in names:
        _check_text(name)
    if names in COLUMNS:
        column = Sql(f"items.{names[0]}")
        if names != MAY_LACK:
            return _Field(column, Sql("'text'"))
        return _Field(column, sql("iif({} IS NULL, 'null', 'text')", column))
    names = names_inside(names)
    path = _path(names)
    if path is None:
        return _looked_up(names)
    # Part of the statement instead of a parameter: SQLite then reads the path once, not per row,
    # and knows the expression again when the field has an index.
    return _Field(
        Sql(f"json_extract(items.metadata, {path})"), Sql(f"json_type(items.metadata, {path})")
    )


def field_values(names: tuple[str, ...]) -> Sql:
    """Return the query of a field of all items, by id: its JSON type and value, a text's bytes.

    Of arrays, objects and longer texts the value is left out.
    """
    field = _field(names)
    return sql(
        "SELECT kind, CASE kind WHEN 'text'"
        " THEN iif(length(value) <= {}, CAST(value AS BLOB), NULL)"
        " WHEN 'array' THEN NULL WHEN 'object' THEN NULL ELSE value END FROM"
        # LIMIT: else SQLite writes the two expressions out wherever they stand.
        " (SELECT {} AS kind, {} AS value FROM items ORDER BY id LIMIT -1)",
        *(LONGEST_TEXT, field.kind, field.value),
    )


def _path(names: tuple[str, ...]) -> str | None:
    """Return a field as the literal of a JSON path, or None when no path spells it."""
    if not all(map(PLAIN_NAME.fullmatch, names)):
        return None
    path = "$" + "".join(f'."{name}"' for name in names)
    return "'" + path.replace("'", "''") + "'"


def field_expressions(names: tuple[str, ...]) -> str:
    """Return the expressions by which a metadata field is found, as an index has them.

    Raises:
        InvalidInput: It is no metadata, or has a name that no JSON path spells.
    """
    path = _path(names_inside(names))
    if names in COLUMNS or path is None:
        what = f"{spell_field(names)!r} is no metadata field that can have an index"
        if names in COLUMNS:
            hint = f"it is the item's own; metadata of this name is $.{names[0]}"
            raise InvalidInput(what, hint=hint)
        raise InvalidInput(what, hint="its names must be without quotes, backslashes and controls")
    return f"json_extract(metadata, {path}), json_type(metadata, {path})"


def _looked_up(names: tuple[str, ...]) -> _Field:
    """Return a field with a name that no path spells, found by walking the objects."""
    document = Sql("items.metadata")
    for name in names[:-1]:
        inner = "(SELECT value FROM json_each({}) WHERE key = {} AND type = 'object')"
        document = sql(f"coalesce({inner}, '{{{{}}}}')", document, name)

    def of(column: str) -> Sql:
        found = "(SELECT {} FROM json_each({}) AS one WHERE one.key = {})"
        return sql(found, Sql(f"one.{column}"), document, names[-1])

    return _Field(of("value"), of("type"))
