"""Filters spelled out and read again; and whatever else is read, told what is wrong with it.

That SQL finds what a filter means is tested beside the store.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from muomni_search.errors import InvalidInput
from muomni_search.filters import JOINING, And, Filter, Not, Or, Test, parse_filter

COMPARISONS = {"=": "$eq", "!=": "$ne", "<": "$lt", "<=": "$lte", ">": "$gt", ">=": "$gte"}

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.sampled_from(
    ["'", '"', "''", "and", "a' or 'b", "\\", "%", "null", ")", "日本"]
)
literals = st.one_of(
    texts,
    st.booleans(),
    st.integers(-(2**63) + 1, 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
)
names = (
    st.sampled_from(["year", "in", "not", "AND", "Or", "is", "null", "ß", "a b", "1", ""]) | texts
)
fields = st.lists(names, min_size=1, max_size=3).map(tuple)
tests = st.one_of(
    st.builds(Test, fields, st.sampled_from([*COMPARISONS, "contains"]), literals),
    st.builds(Test, fields, st.sampled_from(["is null", "is not null"])),
    st.builds(
        Test, fields, st.sampled_from(["in", "not in"]), st.lists(literals, max_size=4).map(tuple)
    ),
)
filters: st.SearchStrategy[Filter] = st.recursive(
    tests,
    lambda inner: st.one_of(
        st.builds(And, st.lists(inner, min_size=2, max_size=3).map(tuple)),
        st.builds(Or, st.lists(inner, min_size=2, max_size=3).map(tuple)),
        st.builds(Not, inner),
    ),
    max_leaves=8,
)


def spelled(one: Filter) -> str:
    """Return a text that means a filter."""
    if isinstance(one, Not):
        return f"not ({spelled(one.term)})"
    if isinstance(one, And | Or):
        return (" and " if isinstance(one, And) else " or ").join(
            spelled(term) if isinstance(term, Test) else f"({spelled(term)})" for term in one.terms
        )
    field = ".".join(map(spelled_name, one.field))
    if one.value is None:
        return f"{field} {one.op}"
    if isinstance(one.value, tuple):
        return f"{field} {one.op} ({', '.join(map(spelled_literal, one.value))})"
    return f"{field} {one.op} {spelled_literal(one.value)}"


def spelled_name(name: str) -> str:
    if name.isascii() and name.isidentifier() and name.lower() not in JOINING:
        return name
    return '"' + name.replace('"', '""') + '"'


def spelled_literal(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else repr(value)


def as_dict(one: Filter) -> dict[str, Any]:
    """Return a dict that means a filter."""
    if isinstance(one, Not):
        return {"$not": as_dict(one.term)}
    if isinstance(one, And | Or):
        return {"$and" if isinstance(one, And) else "$or": [as_dict(term) for term in one.terms]}
    if one.op in ("is null", "is not null"):
        test: dict[str, Any] = {"$exists": one.op == "is not null"}
    elif isinstance(one.value, tuple):
        test = {"$in" if one.op == "in" else "$nin": list(one.value)}
    else:
        test = {COMPARISONS.get(one.op, "$contains"): one.value}
    # In quotes where a dot or a quote would be read as more than that.
    spelt = [
        '"' + name.replace('"', '""') + '"' if '"' in name or "." in name else name
        for name in one.field
    ]
    return {".".join(spelt): test}


def has_plain_names(one: Filter) -> bool:
    if isinstance(one, Test):
        whole = ".".join(one.field)
        return bool(whole) and whole[0] != "$"
    return all(map(has_plain_names, [one.term] if isinstance(one, Not) else one.terms))


@given(filters)
def test_a_filter_that_is_spelled_out_reads_the_same(one: Filter) -> None:
    # Its text, for 1, 1.0 and true are equal to Python.
    assert repr(parse_filter(spelled(one))) == repr(one)


@given(filters.filter(has_plain_names))
def test_a_filter_as_a_dict_reads_the_same(one: Filter) -> None:
    assert repr(parse_filter(as_dict(one))) == repr(one)


words = st.sampled_from(
    ["a", "year", "=", "<=", "!", "(", ")", ",", ".", "and", "or", "not", "in", "is", "null",
     "contains", "'x'", "'", '"', "1", "-", "1e9", "true", " ", "\n", "é", "~"]
)  # fmt: skip


@given(st.text(max_size=30) | st.lists(words, max_size=12).map(" ".join))
def test_any_text_is_a_filter_or_told_what_is_wrong(text: str) -> None:
    try:
        found = parse_filter(text)
    except InvalidInput as bad:
        error = bad.what
    else:
        assert found is not None
        assert repr(parse_filter(spelled(found))) == repr(found)
        return
    assert "bad filter at character" in error


operators = st.sampled_from(["$and", "$or", "$not", "$in", "$gt", "$exists", "$x", "a", "a.b", ""])
anything = st.recursive(
    literals | st.none() | st.floats() | st.binary(max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(operators, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(operators, anything, max_size=3) | anything.filter(lambda x: x is not None))
def test_any_value_is_a_filter_or_told_what_is_wrong(value: Any) -> None:
    with suppress(InvalidInput):
        parse_filter(value)
