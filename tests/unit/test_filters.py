"""The filter language by examples: what a text means, and where a bad one is bad."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from muomni_search.errors import InvalidInput
from muomni_search.filters import (
    MAX_DEPTH,
    And,
    Filter,
    Not,
    Or,
    Test,
    metadata_field,
    parse_field,
    parse_filter,
    spell_field,
)

A, B, C = (Test((name,), "=", number) for number, name in enumerate("abc", start=1))


def test_no_filter_is_no_filter() -> None:
    assert parse_filter(None) is None


@pytest.mark.parametrize("op", ["=", "!=", "<", "<=", ">", ">="])
def test_every_comparison_with_or_without_space(op: str) -> None:
    expected = Test(("year",), op, 2020)
    assert parse_filter(f"year {op} 2020") == expected
    assert parse_filter(f"year{op}2020") == expected
    assert parse_filter(f"\n\tyear\u00a0{op}\r\n2020 ") == expected


@pytest.mark.parametrize(
    ("spelled", "value"),
    [
        ("'photo'", "photo"),
        ("''", ""),
        ("'it''s'", "it's"),
        ("''''", "'"),
        ("'say \"yes\"'", 'say "yes"'),
        ("'two\nlines'", "two\nlines"),
        ("'a\\b%_'", "a\\b%_"),
        ("'日本 and 語'", "日本 and 語"),
        ("0", 0),
        ("-7", -7),
        ("+7", 7),
        ("007", 7),
        ("1.5", 1.5),
        (".5", 0.5),
        ("5.", 5.0),
        ("-2.5e-3", -0.0025),
        ("1E3", 1000.0),
        ("9223372036854775807", 2**63 - 1),
        ("9223372036854775808", float(2**63)),
        ("true", True),
        ("FALSE", False),
    ],
)
def test_every_literal(spelled: str, value: Any) -> None:
    found = parse_filter(f"x = {spelled}")
    assert found == Test(("x",), "=", value)
    assert isinstance(found, Test)
    assert type(found.value) is type(value)


@pytest.mark.parametrize(
    ("spelled", "field"),
    [
        ("year", ("year",)),
        ("_x1", ("_x1",)),
        ("größe", ("größe",)),
        ("camera.make.name", ("camera", "make", "name")),
        ("camera . make", ("camera", "make")),
        ('"a.b"', ("a.b",)),
        ('"a b"."c"', ("a b", "c")),
        ('camera."f/2"', ("camera", "f/2")),
        ('"say ""yes"""', ('say "yes"',)),
        ('""', ("",)),
        ('"and"', ("and",)),
        ("key", ("key",)),
        # Words that join nothing are names.
        ("in", ("in",)),
        ("contains", ("contains",)),
        ("null", ("null",)),
        ("true", ("true",)),
        ("Android", ("Android",)),
        ("order", ("order",)),
        # From the root of the metadata: the same, but for what is called like an own column.
        ("$.year", ("year",)),
        ("$ . camera.make", ("camera", "make")),
        ("$.source.name", ("source", "name")),
        ('"$".source', ("$", "source")),
        ("$.source", metadata_field(("source",))),
        ('$."key"', metadata_field(("key",))),
    ],
)
def test_every_kind_of_field(spelled: str, field: tuple[str, ...]) -> None:
    assert parse_filter(f"{spelled} = 1") == Test(field, "=", 1)
    assert parse_field(spell_field(field)) == field
    assert metadata_field(("source",)) != ("source",)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x in (1, 'a', true)", Test(("x",), "in", (1, "a", True))),
        ("x in(1)", Test(("x",), "in", (1,))),
        ("x in ()", Test(("x",), "in", ())),
        ("x NOT IN (1)", Test(("x",), "not in", (1,))),
        ("in in ('in')", Test(("in",), "in", ("in",))),
        ("x contains 'a'", Test(("x",), "contains", "a")),
        ("x Contains 1", Test(("x",), "contains", 1)),
        ("x is null", Test(("x",), "is null")),
        ("x IS NOT NULL", Test(("x",), "is not null")),
        ("a = 1 and b = 2", And((A, B))),
        ("a = 1 or b = 2 or c = 3", Or((A, B, C))),
        ("a = 1 and b = 2 and c = 3", And((A, B, C))),
        # "and" binds more strongly than "or", "not" more strongly than both.
        ("a = 1 or b = 2 and c = 3", Or((A, And((B, C))))),
        ("a = 1 and b = 2 or c = 3", Or((And((A, B)), C))),
        ("(a = 1 or b = 2) and c = 3", And((Or((A, B)), C))),
        ("not a = 1 and b = 2", And((Not(A), B))),
        ("not (a = 1 and b = 2)", Not(And((A, B)))),
        ("not not a = 1", Not(Not(A))),
        ("((a = 1))", A),
        ("a=1AND b=2", And((A, B))),
        ("a = 1 and (b = 2 and c = 3)", And((A, And((B, C))))),
    ],
)
def test_tests_and_what_joins_them(text: str, expected: Filter) -> None:
    assert parse_filter(text) == expected


@pytest.mark.parametrize(
    ("text", "at", "told"),
    [
        ("", 1, "the name of a field"),
        ("   ", 4, "the name of a field"),
        ("year", 5, "a comparison"),
        ("year >", 7, "a 'string', a number"),
        ("year > and", 8, "a 'string', a number"),
        ("year > 5 7", 10, "'and', 'or' or the end"),
        ("year > 5 and", 13, "the name of a field"),
        ("year > 5 or or a = 1", 13, "the name of a field"),
        ("and = 1", 1, "the name of a field"),
        ("5 = 5", 1, "the name of a field"),
        ("'a' = 'a'", 1, "the name of a field"),
        ("(a = 1", 7, "')'"),
        ("a = 1)", 6, "'and', 'or' or the end"),
        ("a in 1", 6, "'('"),
        ("a in (1,)", 9, "a 'string', a number"),
        ("a in (1 2)", 9, "')'"),
        ("a in (b)", 7, "a 'string', a number"),
        ("a not 5", 7, "a comparison, 'in'"),
        ("a is 5", 6, "'null'"),
        ("a is not 5", 10, "'null'"),
        ("a = null", 5, "`is null`"),
        ("a == 1", 4, "a 'string', a number"),
        ("a = 1 && b = 2", 7, "a sign without a meaning"),
        ("a = 'x", 5, "a quote that is not closed"),
        ('"a = 1', 1, "a quote that is not closed"),
        ("a = 'it's'", 10, "a quote that is not closed"),
        ("a. = 1", 4, "the name of a field"),
        ("a..b = 1", 3, "the name of a field"),
        ("a = b", 5, "a 'string', a number"),
        ("a contains", 11, "a 'string', a number"),
        ("a like 'x'", 3, "a comparison"),
        ("a = 1e999", 5, "finite"),
        ("a = " + "9" * 400, 5, "finite"),
        ("a = 1; drop table items", 6, "a sign without a meaning"),
    ],
)
def test_an_error_names_the_place_and_what_is_missing(text: str, at: int, told: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        parse_filter(text)
    what = raised.value.what
    assert f"bad filter at character {at}," in what
    assert told in what
    near = text[max(at - 21, 0) : at - 1] + "▸" + text[at - 1 : at + 19]
    assert repr(near) in what
    assert "year >= 2020" in raised.value.hint


def test_an_error_in_a_long_filter_shows_the_place_alone() -> None:
    text = " and ".join(["year > 2000"] * 100) + " and year ~ 5 and " + "x = 1 or " * 100
    with pytest.raises(InvalidInput, match=re.escape("2000 and year ▸~ 5 and x = 1")) as raised:
        parse_filter(text)
    assert len(raised.value.what) < 200


@pytest.mark.parametrize("opening", ["(", "not ", "not ("])
def test_filters_are_as_deep_as_people_write_and_no_deeper(opening: str) -> None:
    levels = 2 if opening == "not (" else 1
    deep = (MAX_DEPTH - 1) // levels
    assert parse_filter(opening * deep + "a = 1" + ")" * (deep * opening.count("("))) is not None
    with pytest.raises(InvalidInput, match="nested deeper"):
        parse_filter(opening * 100_000 + "a = 1")


# ---- dicts -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expr", "text"),
    [
        ({"year": 2020}, "year = 2020"),
        ({"year": {"$eq": 2020}}, "year = 2020"),
        ({"year": {"$ne": 2020}}, "year != 2020"),
        ({"year": {"$gt": 1, "$lte": 5}}, "year > 1 and year <= 5"),
        ({"year": {"$gte": 1, "$lt": 5}}, "year >= 1 and year < 5"),
        ({"a": 1, "b": 2}, "a = 1 and b = 2"),
        ({"a": {"$in": [1, "x"]}}, "a in (1, 'x')"),
        ({"a": {"$in": {1}}}, "a in (1)"),
        ({"a": {"$nin": {"x": 2}.keys()}}, "a not in ('x')"),
        ({"a": {"$nin": []}}, "a not in ()"),
        ({"a": {"$contains": "x"}}, "a contains 'x'"),
        ({"a": {"$exists": True}}, "a is not null"),
        ({"a": {"$exists": False}}, "a is null"),
        ({"$.source": "x"}, "$.source = 'x'"),
        ({"$.a.b": {"$gt": 1}}, "a.b > 1"),
        ({"$.\na": 1}, '"\na" = 1'),
        ({'"a.b"': 1}, '"a.b" = 1'),
        ({'c."a.b".d': 1}, 'c."a.b".d = 1'),
        ({'$."key"': 1}, "$.key = 1"),
        ({'"a ""b"".c"': 1}, '"a ""b"".c" = 1'),
        ({'5" disk.x': 1}, '"5"" disk".x = 1'),
        ({'"a.b': 1}, '"""a".b = 1'),
        ({"a": None}, "a is null"),
        ({"a": {"$ne": None}}, "a is not null"),
        ({"a": {"$not": {"$gt": 1}}}, "not a > 1"),
        ({"camera.make": "Leica"}, "camera.make = 'Leica'"),
        ({"$and": [{"a": 1}, {"b": 2}]}, "a = 1 and b = 2"),
        ({"$or": [{"a": 1}, {"b": 2}]}, "a = 1 or b = 2"),
        ({"$or": [{"a": 1}]}, "a = 1"),
        ({"$not": {"a": 1, "b": 2}}, "not (a = 1 and b = 2)"),
        ({"c": 3, "$or": [{"a": 1}, {"b": 2}]}, "c = 3 and (a = 1 or b = 2)"),
    ],
)
def test_a_dict_means_what_its_text_means(expr: dict[str, Any], text: str) -> None:
    assert parse_filter(expr) == parse_filter(text)


@pytest.mark.parametrize(
    "value", [float("nan"), np.float32("inf"), 10**400, np.arange(1), 1j, b"a", [1], ("a", b"")]
)
def test_a_tree_of_ones_own_has_literals_as_other_filters_do(value: Any) -> None:
    with pytest.raises(InvalidInput):
        parse_filter(Not(And((A, Test(("x",), "in" if isinstance(value, tuple) else "<", value)))))


def test_values_of_numpy_are_literals() -> None:
    for value in (np.int64(3), np.uint8(3), np.array(3)):
        assert repr(parse_filter({"x": value})) == "Test(field=('x',), op='=', value=3)"
    assert repr(parse_filter(Test(("x",), "=", np.bool_(1)))) == repr(parse_filter("x = true"))
    assert parse_filter({"x": {"$gt": np.float32(0.5)}}) == parse_filter("x > 0.5")
    assert parse_filter({"x": {"$in": np.arange(3)}}) == parse_filter("x in (0, 1, 2)")
    dates = [np.datetime64("2020"), np.datetime64("2020-01-01T00", "ns"), np.timedelta64(5, "ns")]
    for bad in (*dates, np.zeros((1, 1)), np.array(b"a"), np.ma.masked):
        with pytest.raises(InvalidInput):
            parse_filter({"x": bad})
    for filters in ({"x": {"$in": np.array(dates[1:2])}}, {"$and": np.array([{"a": 1}, {"b": 2}])}):
        with pytest.raises(InvalidInput):
            parse_filter(filters)


def test_a_tree_of_ones_own_stays_what_it_is() -> None:
    tree = Or(
        (
            Not(A),
            And(
                (B, Test(("x",), "in", (1, "a", True))),
            ),
            Test(("y",), "is null"),
        )
    )
    assert repr(parse_filter(tree)) == repr(tree)
    assert parse_filter(Test(("x",), "=", 2**64)) == Test(("x",), "=", float(2**64))


@pytest.mark.parametrize("field", [("a",), ("a.b", "c"), ("", "x"), ('say "hi"', "a b"), ("$.a",)])
def test_a_field_as_it_is_listed_is_one_in_a_dict(field: tuple[str, ...]) -> None:
    assert parse_filter({spell_field(field): 1}) == Test(field, "=", 1)


@pytest.mark.parametrize(
    ("expr", "told"),
    [
        ({}, "at least one field"),
        ([], "at least one field"),
        (5, "at least one field"),
        ({"a": {}}, "'a' has no test"),
        ({"a": {"$like": 1}}, "'$like' of the field 'a'"),
        ({"$nor": [{"a": 1}]}, "'$nor'"),
        ({"$": 1}, "'$' is neither"),
        ({"$.": 1}, "'$.' is neither"),
        ({"$.source": {}}, "field '$.source' has no test"),
        ({"$.source": {"$like": 1}}, "'$like' of the field '$.source'"),
        ({"": 1}, "''"),
        ({5: 1}, "5"),
        ({"$or": []}, "$or needs a list"),
        ({"$or": {"a": 1}}, "$or needs a list"),
        ({"$and": "ab"}, "$and needs a list"),
        ({"$and": [5]}, "at least one field"),
        ({"$not": []}, "at least one field"),
        ({"a": {"$in": 5}}, "$in of 'a' needs a list"),
        ({"a": {"$in": "abc"}}, "$in of 'a' needs a list"),
        ({"a": {"$in": [[1]]}}, "[1], in the test of 'a'"),
        ({"a": {"$exists": 1}}, "$exists of 'a' takes true or false"),
        ({"b": 2, "a": [1]}, "[1], in the test of 'a'"),
        ({"a": {"$gt": None}}, "None"),
        ({"a": {"$contains": None}}, "None"),
        ({"$.source": float("nan")}, "finite, and smaller than 1e308, in the test of '$.source'"),
        ({"a": float("inf")}, "finite"),
        ({"a": 10**400}, "finite"),
        ({"a": b"bytes"}, "bytes"),
        ({"a": {"$in": [*range(10_000), None]}}, "None"),
    ],
)
def test_a_bad_dict_is_told_what_is_wrong_in_one_line(expr: Any, told: str) -> None:
    with pytest.raises(InvalidInput, match=re.escape(told)) as raised:
        parse_filter(expr)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 300


@pytest.mark.parametrize("wrap", [lambda e: {"$not": e}, lambda e: {"$or": [e, e]}])
def test_a_dict_is_as_deep_as_people_write_and_no_deeper(wrap: Any) -> None:
    expr: dict[str, Any] = {"a": 1}
    for _ in range(100_000):
        expr = wrap(expr)
    with pytest.raises(InvalidInput, match="nested deeper"):
        parse_filter(expr)
    test: dict[str, Any] = {"$gt": 1}
    for _ in range(MAX_DEPTH + 1):
        test = {"$not": test}
    with pytest.raises(InvalidInput, match="nested deeper"):
        parse_filter({"a": test})
