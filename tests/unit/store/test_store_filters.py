"""Filters in SQL against what they mean in plain Python."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filter_oracle import matches
from hypothesis import given, settings
from hypothesis import strategies as st

from muomni_search.errors import InvalidInput
from muomni_search.filters import (
    COLUMNS,
    And,
    Filter,
    Not,
    Or,
    Test,
    fields_of,
    metadata_field,
    parse_filter,
    spell_field,
)
from muomni_search.items import DIM, Modality
from muomni_search.store.columns import Columns
from muomni_search.store.snapshot import ROWS_BY_ID, Snapshot
from muomni_search.store.sql_filter import field_expressions, filter_to_sql, sql
from muomni_search.store.store import NewItem, Store

VECTOR = np.eye(1, DIM, dtype=np.float32)
# How many filters columns did not tell, and how many they did.
IN_COLUMNS = [0, 0]


def make(path: Path, documents: list[dict[str, Any]]) -> Store:
    store = Store.create(path, model="m", fingerprint="f")
    items = [
        NewItem(
            f"k{number}",
            list(Modality)[number % 3],
            VECTOR,
            [None],
            source=None if number % 2 else f"/files/k{number}",
            metadata=document,
        )
        for number, document in enumerate(documents)
    ]
    with store.write() as writer:
        writer.put(items)
    return store


def found(store: Store, condition: Filter) -> set[str]:
    """Return the keys that pass, asked for in all ways that there are."""
    with store.snapshot() as snapshot:
        keys = {item.key for item in snapshot.iter_items(condition)}
        by_row = {
            match.item_id
            for modality in Modality
            for match in snapshot.matches(modality, snapshot.matching_rows(modality, condition))
        }
        assert set(snapshot.keys_of(by_row).values()) == keys
        in_columns = Columns().matching(
            condition, fields_of(condition), snapshot._ids, snapshot._values
        )
        IN_COLUMNS[in_columns is not None] += 1
        if in_columns is not None:
            assert set(snapshot.keys_of(in_columns.tolist()).values()) == keys
            assert np.all(np.diff(in_columns) > 0)
    return keys


def expected(store: Store, condition: Filter) -> set[str]:
    with store.snapshot() as snapshot:
        return {
            item.key
            for item in snapshot.iter_items()
            if matches(
                condition,
                {
                    "key": item.key,
                    "modality": str(item.modality),
                    "source": item.source,
                    "added": item.added,
                    "metadata": item.metadata,
                },
            )
        }


# Values and names that are near each other, so that tests often pass and often just fail.
# SQLite's JSON ends texts at a NUL, so none is compared here.
TEXTS = [
    "",
    "a",
    "A",
    "ab",
    "b",
    "1",
    "1.0",
    "true",
    "null",
    "%",
    "_",
    "a%",
    "ü",
    "😀",
    "'",
    '"',
    "\\",
]
NUMBERS = [0, 1, -1, 2, 1.0, 1.5, -0.0, 0.1, 2**53, 2**53 + 1, float(2**53), 2**63 - 1, 1e300]
scalars = st.sampled_from([*TEXTS, *NUMBERS, True, False])
names = st.sampled_from(
    ["x", "y", "a.b", "", '"', "'", "\\", "a b", "ü", "$", "[0]", "0", "\n",
     "x'; drop table items", "source"]
)  # fmt: skip
values = st.recursive(
    scalars | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=5,
)
documents = st.lists(st.dictionaries(names, values, max_size=4), min_size=1, max_size=6)
fields = st.lists(names, min_size=1, max_size=2).map(tuple) | st.sampled_from(
    [*COLUMNS, metadata_field(("source",))]
)
tests = st.one_of(
    st.builds(Test, fields, st.sampled_from(["=", "!=", "<", "<=", ">", ">="]), scalars),
    st.builds(Test, fields, st.just("contains"), scalars),
    st.builds(Test, fields, st.sampled_from(["is null", "is not null"])),
    st.builds(
        Test,
        fields,
        st.sampled_from(["in", "not in"]),
        st.lists(scalars | st.sampled_from(["k1", "text"]), max_size=4).map(tuple),
    ),
)
filters = st.recursive(
    tests,
    lambda inner: st.one_of(
        st.builds(And, st.lists(inner, min_size=1, max_size=3).map(tuple)),
        st.builds(Or, st.lists(inner, min_size=1, max_size=3).map(tuple)),
        st.builds(Not, inner),
    ),
    max_leaves=6,
)


@settings(max_examples=40, deadline=None)
@given(documents=documents, conditions=st.lists(filters, min_size=15, max_size=15))
def test_sql_finds_what_the_filter_means(
    tmp_path_factory: pytest.TempPathFactory,
    documents: list[dict[str, Any]],
    conditions: list[Filter],
) -> None:
    with make(tmp_path_factory.mktemp("filters") / "c", documents) as store:
        for condition in conditions:
            assert found(store, condition) == expected(store, condition), condition
    assert IN_COLUMNS[True] > IN_COLUMNS[False] / 4


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    documents = [
        {"year": 2020, "tags": ["red", "1", 7], "camera": {"make": "Leica"}, "seen": True},
        {"year": 2021.5, "tags": "a red barn", "camera": {"make": None}, "seen": False},
        {"year": "2020", "tags": [], "a.b": 1, 'q"t': 1, "seen": 1},
        {"year": None, "tags": [True, None], "": 3, "a": {"b": 2}, "100%": "50% of a_b"},
        {},
    ]
    with make(tmp_path_factory.mktemp("shelf") / "c", documents) as store:
        yield store


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("year = 2020", {"k0"}),
        ("year = 2020.0", {"k0"}),
        ("year = '2020'", {"k2"}),
        ("year != 2020", {"k1"}),
        ("year < '3'", {"k2"}),
        ("year is null", {"k3", "k4"}),
        ("not year is null", {"k0", "k1", "k2"}),
        ("not year = 2020", {"k1", "k2", "k3", "k4"}),
        ("not (year >= 2020 or year is null)", {"k2"}),
        ("year in (2020, '2020')", {"k0", "k2"}),
        ("year not in (2020)", {"k1"}),
        ("year in ()", set()),
        ("year not in ()", {"k0", "k1", "k2"}),
        ("seen = true", {"k0"}),
        ("seen != true", {"k1"}),
        ("seen = 1", {"k2"}),
        ("seen > false", set()),
        ("seen in (true, 1)", {"k0", "k2"}),
        ("tags contains 'red'", {"k0", "k1"}),
        ("tags contains 'RED'", set()),
        ("tags contains '1'", {"k0"}),
        ("tags contains 1", set()),
        ("tags contains 7.0", {"k0"}),
        ("tags contains true", {"k3"}),
        ("\"100%\" contains '0%'", {"k3"}),
        ("\"100%\" contains '_b'", {"k3"}),
        ("\"100%\" contains 'xb'", set()),
        ("camera.make = 'Leica'", {"k0"}),
        ("camera.make is null", {"k1", "k2", "k3", "k4"}),
        ("camera is null", {"k2", "k3", "k4"}),
        ("camera = 'Leica'", set()),
        ("a.b = 2", {"k3"}),
        ('"a.b" = 1', {"k2"}),
        ('"q""t" = 1', {"k2"}),
        ('"" = 3', {"k3"}),
        ("key = 'k1'", {"k1"}),
        ("key in ('k1', 'k4', 5)", {"k1", "k4"}),
        ("key = 1", set()),
        ("modality = 'text'", {"k0", "k3"}),
        ("source is null", {"k1", "k3"}),
        ("source contains '/k2'", {"k2"}),
        ("added > '2000' and added < '9999'", {"k0", "k1", "k2", "k3", "k4"}),
        ("key = 'x'' or 1=1 --'", set()),
    ],
)
def test_a_filter_finds(shelf: Store, text: str, keys: set[str]) -> None:
    condition = parse_filter(text)
    assert condition is not None
    assert found(shelf, condition) == keys == expected(shelf, condition)


def test_one_and_true_are_two_filters_also_when_asked_one_after_the_other(shelf: Store) -> None:
    for value, keys in ((1, {"k2"}), (True, {"k0"}), (1.0, {"k2"})):
        assert found(shelf, Test(("seen",), "=", value)) == keys


def test_in_takes_more_values_than_sql_has_parameters(shelf: Store) -> None:
    many = tuple(f"k{number}" for number in range(1, 50_000, 2))
    assert found(shelf, Test(("key",), "in", many)) == {"k1", "k3"}
    assert found(shelf, Test(("key",), "not in", many)) == {"k0", "k2", "k4"}


@pytest.mark.parametrize("join", [And, Or])
@pytest.mark.parametrize("op", ["=", "contains", "not in"])
def test_a_filter_may_have_200_tests_and_not_one_more(shelf: Store, join: Any, op: str) -> None:
    test = Test(("year",), op, ("2021",) if op == "not in" else "2020")
    assert found(shelf, join((test,) * 200)) == {"k2"}
    with pytest.raises(InvalidInput, match="more than 200 tests"):
        found(shelf, join((test,) * 201))


@pytest.mark.parametrize(
    "test",
    [
        Test(("year",), "=", "2020"),
        Test(("year",), "not in", ("2021", 1, True)),
        Test(('a"b', "c"), "is null"),
        Test(('a"b', "c"), "contains", True),
    ],
)
def test_groups_may_be_15_deep_and_not_one_deeper(shelf: Store, test: Test) -> None:
    deep: Filter = test
    for number in range(15):
        deep = (And if number % 2 else Or)((test, Not(Not(deep))))
    assert found(shelf, deep) == found(shelf, test)
    with pytest.raises(InvalidInput, match="more than 15 deep: write it flatter"):
        found(shelf, And((test, deep)) if isinstance(deep, Or) else Or((test, deep)))
    # What joins in the same way is no deeper.
    flat: Filter = test
    for _ in range(100):
        flat = And((test, flat))
    assert found(shelf, flat) == found(shelf, test)


def test_what_is_too_deep_for_sqlite_is_said_of_the_filter(shelf: Store) -> None:
    with pytest.raises(InvalidInput, match="the filter is nested too deep"):
        found(shelf, Test(('a"b',) * 20, "=", 1))


@pytest.mark.parametrize(
    "test",
    [
        Test(("x",), "=", "\udc80"),
        Test(("x",), "in", ("\udc80",)),
        Test(("x",), "contains", "\udc80"),
        Test(("x\udc80",), "is null"),
        Test(("x",), "="),
    ],
)
def test_half_a_character_or_no_value_is_bad_input(shelf: Store, test: Test) -> None:
    with pytest.raises(InvalidInput):
        found(shelf, test)


@settings(max_examples=200, deadline=None)
@given(number=st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**63), 2**63 - 1))
def test_every_number_equals_itself_after_it_was_stored(number: float) -> None:
    import sqlite3

    # Straight to SQLite, whose reading of decimals is what this is about.
    stored = json.dumps({"x": number})
    equal = sqlite3.connect(":memory:").execute(
        "SELECT json_extract(?, '$.\"x\"') = ?", (stored, number)
    )
    assert equal.fetchone() == (1,)


# ---- indexed fields ------------------------------------------------------------------------------

INDEXED = [
    *[("year",), ("place", "city"), ("it's",), ("größe",), ("a b",)],
    metadata_field(("source",)),
]


def plan(snapshot: Snapshot, condition: str) -> str:
    wanted = filter_to_sql(parse_filter(condition))  # type: ignore[arg-type]
    query, values = sql("EXPLAIN QUERY PLAN SELECT id FROM items WHERE {}", wanted)
    return " ".join(detail for *_, detail in snapshot.connection.execute(query, values))


def test_an_index_of_a_field_is_used_and_changes_no_answer(tmp_path: Path) -> None:
    values: list[object] = [1999, 2000, 2000.5, "2000", True, None, [2000], {"x": 2000}]
    documents = [
        dict.fromkeys(["year", "it's", "größe", "a b", "source"], value)
        | {"place": {"city": value}}
        for value in values
    ] + [{}]
    conditions = [
        f"{spell_field(names)} {test}"
        for names in INDEXED
        for test in ("= 2000", ">= 2000", "< '3'", "= true", "in (1999, '2000')", "is null",
                     "is not null", "!= 2000", "contains 2000")
    ]  # fmt: skip
    with Store.create(tmp_path / "c", model="m", fingerprint="f") as store:
        with store.write() as writer:
            writer.put(
                [
                    NewItem(str(n), Modality.TEXT, np.eye(1, 256, n, np.float32), [None],
                            metadata=document)
                    for n, document in enumerate(documents)
                ]
            )  # fmt: skip
        with store.snapshot() as snapshot:
            before = [
                snapshot.matching_rows(Modality.TEXT, parse_filter(one)).tolist()  # type: ignore[arg-type]
                for one in conditions
            ]
        with store.write() as writer:
            for names in INDEXED:
                writer.index_field(names)
                writer.index_field(names)  # once more is no error
            writer.put([NewItem("new", Modality.IMAGE, np.eye(1, 256, 0, np.float32), [None])])
        with store.snapshot() as snapshot:
            assert snapshot.indexed_fields() == sorted(INDEXED)
            after = [
                snapshot.matching_rows(Modality.TEXT, parse_filter(one)).tolist()  # type: ignore[arg-type]
                for one in conditions
            ]
            assert after == before
            for names in INDEXED:
                for test in ("= 2000", ">= 2000", "in (1999, 2000)"):
                    assert "USING INDEX field" in plan(snapshot, f"{spell_field(names)} {test}")
        assert list(store.problems()) == []
        with store.write() as writer:
            for names in INDEXED[1:]:
                writer.drop_field_index(names)
        with store.snapshot() as snapshot:
            assert snapshot.indexed_fields() == [("year",)]


def test_fields_that_differ_in_case_alone_have_an_index_each(tmp_path: Path) -> None:
    fields = [("YEAR",), ("Year",), ("year",)]
    with Store.create(tmp_path / "c", model="m", fingerprint="f") as store:
        with store.write() as writer:
            for names in fields:
                writer.index_field(names)
        with store.snapshot() as snapshot:
            assert snapshot.indexed_fields() == fields
            for (name,) in fields:
                assert "USING INDEX field" in plan(snapshot, f"{name} = 2000")
        with store.write() as writer:
            writer.drop_field_index(("Year",))
            writer.drop_field_index(("yeaR",))  # has none
        with store.snapshot() as snapshot:
            assert snapshot.indexed_fields() == [("YEAR",), ("year",)]
        assert list(store.problems()) == []


def test_an_index_of_the_name_that_it_had_before_is_known(tmp_path: Path) -> None:
    with (
        Store.create(tmp_path / "c", model="m", fingerprint="f") as store,
        store.write() as writer,
    ):
        expressions = field_expressions(("year",))
        writer.connection.execute(f"""CREATE INDEX "field [""year""]" ON items ({expressions})""")
        writer.index_field(("year",))
        kept = writer.connection.execute("SELECT name FROM sqlite_master WHERE name LIKE 'field %'")
        assert len(kept.fetchall()) == 1
        assert writer.indexed_fields() == [("year",)]
        writer.index_field(("Year",))
        writer.drop_field_index(("year",))
        assert writer.indexed_fields() == [("Year",)]


@pytest.mark.parametrize("names", [("key",), ("modality",), ('a"b',), ("a\\b",)])
def test_what_no_path_spells_has_no_index(tmp_path: Path, names: tuple[str, ...]) -> None:
    with Store.create(tmp_path / "c", model="m", fingerprint="f") as store:
        with pytest.raises(InvalidInput), store.write() as writer:
            writer.index_field(names)
        with store.snapshot() as snapshot:
            assert snapshot.indexed_fields() == []


def test_the_rows_of_a_few_items_are_found_by_their_ids(tmp_path: Path) -> None:
    with make(tmp_path / "c", [{"n": n} for n in range(9)]) as store, store.snapshot() as snapshot:
        for statement in (ROWS_BY_ID._few, ROWS_BY_ID._many):
            values = ["[1]"] * 17
            rows = snapshot.connection.execute(f"EXPLAIN QUERY PLAN {statement._query}", values)
            assert "segments_by_item" in " ".join(detail for *_, detail in rows)


@pytest.mark.parametrize("more", [0, 20])
def test_a_key_that_is_no_text_is_nobodys(tmp_path: Path, more: int) -> None:
    with make(tmp_path / "c", [{"n": n} for n in range(60)]) as store, store.snapshot() as snapshot:
        keys = list(snapshot.iter_keys())[:more]
        assert sorted(snapshot.find(["\udcff", *keys])) == keys
        assert sorted(snapshot.item_ids([*keys, "\udcff"])) == keys
        assert snapshot.item_rows(["\udcff"]) == {}


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 40])
def test_what_belongs_to_some_keys_is_found_however_many_they_are(
    tmp_path: Path, count: int
) -> None:
    with make(tmp_path / "c", [{"n": n} for n in range(60)]) as store, store.snapshot() as snapshot:
        keys = list(snapshot.iter_keys())[:count]
        found = snapshot.find([*keys, "none"] if count else [])
        assert sorted(found) == sorted(keys)
        shown = snapshot.shown(snapshot.item_ids(keys).values())
        assert sorted(one.metadata["n"] for one in shown.values()) == sorted(
            found[key].metadata["n"] for key in keys
        )


def test_what_filters_found_is_kept_until_it_is_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Filter] = []
    matching = Snapshot._matching

    def counted(self: Snapshot, condition: Filter) -> Any:
        asked.append(condition)
        return matching(self, condition)

    monkeypatch.setattr(Snapshot, "_matching", counted)
    documents = [{"n": number} for number in range(300)]
    conditions = [parse_filter(f"n >= {number}") for number in range(0, 300, 10)]

    def ask(store: Store) -> list[int]:
        asked.clear()
        with store.snapshot() as snapshot:
            return [
                len(snapshot.matching_rows(modality, one))
                for one in conditions
                if one is not None
                for modality in Modality
            ]

    with make(tmp_path / "c", documents) as store:
        counts = ask(store)
        assert len(asked) == len(conditions)
        assert ask(store) == counts
        assert asked == []
        # The oldest give way, and are found anew.
        monkeypatch.setattr("muomni_search.store.snapshot.ARRAY_BYTES", 30_000)
        with store.write() as writer:
            writer.put([NewItem("new", Modality.TEXT, VECTOR, [None])])
        assert ask(store) == counts
        assert ask(store) == counts
        assert len(asked) > 0
        with store.snapshot() as snapshot:
            arrays = snapshot.state.arrays
            kept = sum(one.nbytes + 1_000 for one in arrays._arrays.values())
            assert kept == arrays._bytes <= 30_000
