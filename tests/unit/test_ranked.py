"""Hits by columns: held against the same thing done one hit at a time."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muomni_search.items import Modality
from muomni_search.ranked import MODALITIES, RankedLists, Rows

QUERIES = 4
# Few values, so that many are equal.
HIT = st.tuples(st.integers(0, QUERIES - 1), st.integers(1, 12), st.sampled_from([0.1, 0.2, 0.3]))


def rows_of(hits):
    queries, items, cosines = zip(*hits, strict=True) if hits else ((), (), ())
    return Rows(
        np.array(queries, np.int64),
        np.array(items, np.int64),
        np.array(cosines, "f4"),
        np.array([item % 3 > 0 for item in items], bool),
    )


def key_of(item):
    return f"{item * 7 % 13:x}/{item}"  # in another order than the ids


def lists_of(k, *parts):
    asked = []

    def keys_of(items):
        asked.extend(items)
        return [key_of(item) for item in items]

    lists = RankedLists.of(QUERIES, k, parts, keys_of)
    assert len(set(asked)) == len(asked)
    return lists


def hits_of(lists):
    """Return (score, key, modality, cosine, how) of the hits of each query."""
    columns = zip(
        lists.scores.tolist(),
        [lists.keys[place] for place in lists.places],
        [MODALITIES[number] for number in lists.modalities],
        lists.cosines.tolist(),
        lists.how.tolist(),
        strict=True,
    )
    flat = list(columns)
    starts = lists.starts.tolist()
    return [flat[start:end] for start, end in pairwise(starts)]


@given(st.lists(HIT, max_size=30), st.lists(HIT, max_size=30), st.integers(1, 8))
def test_hits_come_by_score_then_key_and_k_a_query_at_most(pictures, sounds, k):
    parts = []
    for modality, hits in ((Modality.IMAGE, pictures), (Modality.AUDIO, sounds)):
        # An item has one modality, and is there once a query.
        rows = rows_of(dict.fromkeys((q, 2 * i + (modality == "audio"), c) for q, i, c in hits))
        rows = rows.best_of_items()
        parts.append((modality, rows, np.round(rows.cosines.astype(float) * 10)))
    found = hits_of(lists_of(k, *parts))
    for number in range(QUERIES):
        own = [
            (score, key_of(item), modality, cosine, "exact" if is_exact else "ann")
            for modality, rows, scores in parts
            for query, item, cosine, is_exact, score in zip(
                *map(np.ndarray.tolist, (*rows, scores)), strict=True
            )
            if query == number
        ]
        assert found[number] == sorted(own, key=lambda hit: (-hit[0], hit[1]))[:k]


@given(st.lists(HIT, max_size=30))
def test_the_first_row_of_an_item_stands_for_it(hits):
    seen = set()
    expected = [
        hit for hit in hits if (pair := hit[:2]) not in seen and not seen.add(pair)
    ]  # fmt: skip
    assert rows_of(hits).best_of_items().items.tolist() == [item for _, item, _ in expected]


def test_a_row_that_is_nobodys_is_no_other_row():
    rows = rows_of([(0, 5, 0.3), (1, -1, 0.2), (1, 5, 0.1)])
    assert rows.best_of_items().items.tolist() == [5, -1, 5]


@given(st.lists(HIT, max_size=30), st.sets(st.tuples(st.integers(0, 3), st.integers(1, 40))))
def test_items_are_left_out_of_the_queries_that_name_them_alone(hits, named):
    queries, items = (np.array([pair[at] for pair in named], np.int64) for at in (0, 1))
    left = rows_of(hits).without(queries, items)
    expected = [hit[:2] for hit in hits if hit[:2] not in named]
    assert list(zip(left.queries.tolist(), left.items.tolist(), strict=True)) == expected


def test_ranks_count_from_one_in_each_query():
    rows = rows_of([(0, 1, 0.3), (0, 2, 0.2), (2, 1, 0.3)])
    lists = lists_of(5, (Modality.TEXT, rows, rows.cosines.astype(float)))
    assert lists.ranks.tolist() == [1, 2, 1]
    assert list(lists.found_keys()) == [[key_of(1), key_of(2)], [], [key_of(1)], []]


@pytest.mark.parametrize("groups", [[[0, 1, 2, 3]], [[2, 0], [3, 1]], [[3, 0, 2, 1]], [[1]], []])
def test_groups_are_put_back_into_the_order_of_the_queries(groups):
    joined = []
    for numbers in groups:
        rows = rows_of([(at, number + 1, 0.5) for at, number in enumerate(numbers)])
        parts = [(Modality.IMAGE, rows, rows.cosines.astype(float))]
        keys = lambda items: [key_of(item) for item in items]  # noqa: E731
        joined.append((numbers, RankedLists.of(len(numbers), 3, parts, keys)))
    lists = RankedLists.joined(QUERIES, joined)
    present = {number for numbers in groups for number in numbers}
    expected = [[key_of(number + 1)] if number in present else [] for number in range(QUERIES)]
    assert list(lists.found_keys()) == expected
