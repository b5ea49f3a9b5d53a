"""Filters as SQL: two-valued, and never a type coerced.

A test on a field that is missing or null is false, save ``is null``; a comparison with a value
of another type is false, ``!=`` and ``not in`` among them. ``not`` turns what it is given around.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, and_, exists, false, func, not_, or_, select, true

from muomni_search.errors import InvalidInput
from muomni_search.filters import And, Filter, Literal, Not, Or, Test
from muomni_search.store.tables import items

__all__ = ["filter_to_sql"]

Expression = ColumnElement[Any]
COLUMNS = {
    ("key",): items.c.key,
    ("modality",): items.c.modality,
    ("source",): items.c.source,
    ("added",): items.c.added,
}
# What SQLite's json_type calls the types of a literal.
NUMBERS = ("integer", "real")


def filter_to_sql(condition: Filter) -> Expression:
    """Return a condition on rows of ``items``."""
    if isinstance(condition, And):
        return and_(true(), *map(filter_to_sql, condition.terms))
    if isinstance(condition, Or):
        return or_(false(), *map(filter_to_sql, condition.terms))
    if isinstance(condition, Not):
        return not_(filter_to_sql(condition.term))
    # Three-valued logic ends here: what is unknown is false.
    return func.coalesce(_test(condition), 0) == 1


def _test(test: Test) -> Expression:
    value, kind = _field(test.field)
    if test.op == "is null":
        return _absent(kind)
    if test.op == "is not null":
        return not_(_absent(kind))
    if test.op == "contains":
        return _contains(test, value, kind)
    if test.op in ("in", "not in"):
        return _in(test, value, kind)
    literal = test.value
    assert isinstance(literal, str | int | float)
    if isinstance(literal, bool):
        if test.op not in ("=", "!="):
            return false()
        wanted = literal if test.op == "=" else not literal
        return kind == ("true" if wanted else "false")
    return and_(_same_type(kind, literal), value.op(test.op)(literal))


def _in(test: Test, value: Expression, kind: Expression) -> Expression:
    literals = test.value
    assert isinstance(literals, tuple)
    equal = or_(false(), *(_equals(value, kind, literal) for literal in literals))
    if test.op == "in":
        return equal
    comparable = or_(false(), *(_same_type(kind, literal) for literal in literals))
    return and_(comparable if literals else not_(_absent(kind)), not_(equal))


def _contains(test: Test, value: Expression, kind: Expression) -> Expression:
    literal = test.value
    assert isinstance(literal, str | int | float)
    inside = and_(false())
    if isinstance(literal, str):
        inside = and_(kind == "text", func.instr(value, literal) > 0)
    if test.field in COLUMNS:
        return inside
    element = func.json_each(items.c.metadata, _path(test.field)).table_valued(
        "value", "type", name="element"
    )
    among = exists(
        select(element.c.value).where(_equals(element.c.value, element.c.type, literal))
    )
    return or_(inside, and_(kind == "array", among))


def _field(field: tuple[str, ...]) -> tuple[Expression, Expression]:
    """Return the value of a field and the name of its JSON type."""
    column = COLUMNS.get(field)
    if column is not None:
        return column, func.iif(column.is_(None), "null", "text")
    path = _path(field)
    return func.json_extract(items.c.metadata, path), func.json_type(items.c.metadata, path)


def _path(field: tuple[str, ...]) -> str:
    for name in field:
        if '"' in name or "\\" in name or not name:
            raise InvalidInput(
                f"the field name {name!r} cannot be filtered by",
                hint="rename the field so that it has no quotes or backslashes",
            )
    return "$" + "".join(f'."{name}"' for name in field)


def _absent(kind: Expression) -> Expression:
    return func.coalesce(kind, "null") == "null"


def _same_type(kind: Expression, literal: Literal) -> Expression:
    if isinstance(literal, bool):
        return kind.in_(("true", "false"))
    return kind == "text" if isinstance(literal, str) else kind.in_(NUMBERS)


def _equals(value: Expression, kind: Expression, literal: Literal) -> Expression:
    if isinstance(literal, bool):
        return kind == ("true" if literal else "false")
    return and_(_same_type(kind, literal), value == literal)
