"""What a filter means, in plain Python: CONTRACT's words, one `if` after the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from muomni_search.filters import And, Filter, Not, Or, Test, names_inside

COLUMNS = ("key", "modality", "source", "added")
COMPARE = {
    "=": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


def matches(condition: Filter, item: Mapping[str, Any]) -> bool:
    """Whether a filter lets an item through: a dict of the columns and ``metadata``."""
    if isinstance(condition, And):
        return all(matches(term, item) for term in condition.terms)
    if isinstance(condition, Or):
        return any(matches(term, item) for term in condition.terms)
    if isinstance(condition, Not):
        return not matches(condition.term, item)
    return passes(condition, value_of(condition.field, item))


def value_of(field: tuple[str, ...], item: Mapping[str, Any]) -> Any:
    if len(field) == 1 and field[0] in COLUMNS:
        return item[field[0]]
    value: Any = item["metadata"]
    for name in names_inside(field):
        if not isinstance(value, dict) or name not in value:
            return None
        value = value[name]
    return value


def passes(test: Test, value: Any) -> bool:
    if test.op == "is null":
        return value is None
    if value is None:
        return False
    if test.op == "is not null":
        return True
    if test.op == "contains":
        if isinstance(value, str):
            return isinstance(test.value, str) and test.value in value
        return isinstance(value, list) and any(equal(one, test.value) for one in value)
    if test.op == "in":
        return any(equal(value, one) for one in test.value)
    if test.op == "not in":
        comparable = any(kind(value) == kind(one) for one in test.value) or not test.value
        return comparable and not any(equal(value, one) for one in test.value)
    if kind(value) != kind(test.value) or kind(value) not in ("flag", "number", "text"):
        return False
    if kind(value) == "flag" and test.op not in ("=", "!="):
        return False
    return COMPARE[test.op](value, test.value)


def equal(value: Any, literal: Any) -> bool:
    return kind(value) == kind(literal) and value == literal


def kind(value: Any) -> str:
    if isinstance(value, bool):
        return "flag"
    if isinstance(value, int | float):
        return "number"
    return "text" if isinstance(value, str) else type(value).__name__
