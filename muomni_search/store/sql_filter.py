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
from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    ScalarSelect,
    and_,
    case,
    exists,
    false,
    func,
    literal,
    or_,
    select,
    true,
)

from muomni_search.errors import InvalidInput
from muomni_search.filters import And, Filter, Literal, Not, Or, Test
from muomni_search.store.tables import items

__all__ = ["field_expressions", "filter_to_sql"]

Expression = ColumnElement[Any]
COLUMNS: dict[tuple[str, ...], Expression] = {
    ("key",): items.c.key,
    ("modality",): items.c.modality,
    ("source",): items.c.source,
    ("added",): items.c.added,
}
# What SQLite's json_type calls the types of a literal.
NUMBERS = ("integer", "real")
# Names that JSON writes as they are, so that a JSON path finds them by their bytes; how a path
# could spell any other differs from one version of SQLite to the next.
PLAIN_NAME = re.compile(r'[^"\\\x00-\x1f]+')
# SQLite refuses expressions nested deeper than 1000, and a chain of "and" is as deep as it is long;
# a test takes up to four of these.
MAX_TESTS = 200


class _Field(NamedTuple):
    """What a test looks at: a value, and the name of its JSON type (null when it is missing)."""

    value: Expression
    kind: Expression


def filter_to_sql(condition: Filter) -> Expression:
    """Return a condition on rows of ``items``; false or unknown leaves a row out.

    Raises:
        InvalidInput: More tests than SQLite takes, or a text that is none.
    """
    if _count(condition) > MAX_TESTS:
        raise InvalidInput(
            f"the filter has more than {MAX_TESTS} tests",
            hint="write `field in (…)` instead of many `or`",
        )
    return _sql(condition)


def _count(condition: Filter) -> int:
    if isinstance(condition, Test):
        return 1
    return sum(map(_count, (condition.term,) if isinstance(condition, Not) else condition.terms))


def _sql(condition: Filter) -> Expression:
    if isinstance(condition, And):
        return and_(true(), *map(_sql, condition.terms))
    if isinstance(condition, Or):
        return or_(false(), *map(_sql, condition.terms))
    if isinstance(condition, Not):
        return _sql(condition.term).is_not(true())
    return _test(condition)


def _test(test: Test) -> Expression:
    field = _field(test.field)
    if test.op == "is null":
        return _is_null(field)
    if test.op == "is not null":
        return _is_null(field).is_not(true())
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
            return false()
        return _equals(field, value if test.op == "=" else not value)
    return and_(field.value.op(test.op)(value), _same_type(field, value))


def _check_text(value: Literal) -> None:
    try:
        str(value).encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(f"{value!r} in the filter is no valid text") from error


# ---- tests -------------------------------------------------------------------------------------


def _is_null(field: _Field) -> Expression:
    return func.coalesce(field.kind, "null") == "null"


def _same_type(field: _Field, value: Literal) -> Expression:
    if isinstance(value, bool):
        return field.kind.in_(("true", "false"))
    return field.kind == "text" if isinstance(value, str) else field.kind.in_(NUMBERS)


def _equals(field: _Field, value: Literal) -> Expression:
    if isinstance(value, bool):
        return field.kind == ("true" if value else "false")
    return and_(field.value == value, _same_type(field, value))


def _among(test: Test, field: _Field) -> Expression:
    values = test.value if isinstance(test.value, tuple) else ()
    groups: dict[str, list[Literal]] = {"flag": [], "text": [], "number": []}
    for value in values:
        _check_text(value)
        is_flag, is_text = isinstance(value, bool), isinstance(value, str)
        groups["flag" if is_flag else "text" if is_text else "number"].append(value)
    used = [group for group in groups.values() if group]
    inside = or_(false(), *(_is_one_of(field, group) for group in used))
    if test.op == "in":
        return inside
    # As with "!=", a value of a type that is not asked for is not compared at all.
    comparable = or_(false(), *(_same_type(field, group[0]) for group in used))
    return and_(comparable if used else _is_null(field).is_not(true()), inside.is_not(true()))


def _is_one_of(field: _Field, values: Sequence[Literal]) -> Expression:
    """Compare with many values of one type: one parameter however many they are."""
    if isinstance(values[0], bool):
        return or_(*(_equals(field, value) for value in set(values)))
    wanted = func.json_each(json.dumps(list(values))).table_valued("value")
    return and_(field.value.in_(select(wanted.c.value)), _same_type(field, values[0]))


def _contains(field: _Field, value: Literal) -> Expression:
    inside = false() if not isinstance(value, str) else func.instr(field.value, value) > 0
    array = case((field.kind == "array", field.value), else_="[]")
    element = func.json_each(array).table_valued("value", "type")
    among = exists(
        select(element.c.value).where(_equals(_Field(element.c.value, element.c.type), value))
    )
    return or_(and_(field.kind == "text", inside), and_(field.kind == "array", among))


# ---- fields ------------------------------------------------------------------------------------


def _field(names: tuple[str, ...]) -> _Field:
    for name in names:
        _check_text(name)
    column = COLUMNS.get(names)
    if column is not None:
        return _Field(column, func.iif(column.is_(None), "null", "text"))
    path_text = _path(names)
    if path_text is None:
        return _looked_up(names)
    # Part of the statement instead of a parameter: SQLite then reads the path once, not per row,
    # and knows the expression again when the field has an index.
    path = literal(path_text, literal_execute=True)
    return _Field(func.json_extract(items.c.metadata, path), func.json_type(items.c.metadata, path))


def _path(names: tuple[str, ...]) -> str | None:
    """Return a field as a JSON path, or None when no path spells it."""
    if not all(map(PLAIN_NAME.fullmatch, names)):
        return None
    return "$" + "".join(f'."{name}"' for name in names)


def field_expressions(names: tuple[str, ...]) -> str:
    """Return the expressions by which a metadata field is found, as an index has them.

    Raises:
        InvalidInput: It is no metadata, or has a name that no JSON path spells.
    """
    path = _path(names)
    if names in COLUMNS or path is None:
        raise InvalidInput(f"{'.'.join(names)!r} is no metadata field that can have an index")
    quoted = path.replace("'", "''")
    return f"json_extract(metadata, '{quoted}'), json_type(metadata, '{quoted}')"


def _looked_up(names: tuple[str, ...]) -> _Field:
    """Return a field with a name that no path spells, found by walking the objects."""
    document: Expression = items.c.metadata
    for name in names[:-1]:
        entry = func.json_each(document).table_valued("key", "value", "type")
        inner = select(entry.c.value).where(entry.c.key == name, entry.c.type == "object")
        document = func.coalesce(inner.scalar_subquery(), "{}")
    entry = func.json_each(document).table_valued("key", "value", "type")

    def of(column: Expression) -> ScalarSelect[Any]:
        return select(column).where(entry.c.key == names[-1]).scalar_subquery()

    return _Field(of(entry.c.value), of(entry.c.type))
