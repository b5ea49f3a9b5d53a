"""What may be stored of an item, and how its metadata is looked into."""

from __future__ import annotations

import zlib
from typing import Any

import pytest

from muomni_search.documents import item_bytes, item_checksum, to_json, value_of


@pytest.mark.parametrize(
    ("metadata", "field", "value"),
    [
        ({"a": 1}, "a", 1),
        ({"a": {"b": 2}}, "a.b", 2),
        ({"a.b": 3, "a": {"b": 2}}, "a.b", 3),
        ({"a": {"b": 2}}, "a.c", None),
        ({"a": 1}, "a.b", None),
        ({}, "a", None),
    ],
)
def test_a_field_is_a_name_or_a_path(metadata: dict[str, Any], field: str, value: Any) -> None:
    assert value_of(metadata, field) == value


def test_what_is_json_already_stays_as_it_is() -> None:
    document = to_json({"b": 1, "a": "ü"}, "key")
    assert document == '{"a":"ü","b":1}'
    assert to_json(document, "key") is document


@pytest.mark.parametrize("blank", [(), (2,), (2, 3), (5,)])
def test_the_checksum_is_of_the_columns_as_they_lie_in_the_store(blank: tuple[int, ...]) -> None:
    texts: list[Any] = ["käy", "text", "/a.txt", "words\0and", "{}", "0f", "2026-01-01"]
    for column in blank:
        texts[column] = None
    stored = [None if one is None else one.encode() for one in texts]
    assert item_checksum(*texts) == zlib.crc32(item_bytes(stored))
