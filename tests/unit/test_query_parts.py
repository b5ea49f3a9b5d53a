"""The spelling of parts of queries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muomni_search.errors import InvalidInput
from muomni_search.query_parts import make_part, parse_part


def only(spelled: str, **named: Any) -> tuple[float, str, Any]:
    (part,) = parse_part(spelled, **named).parts
    return part.weight, part.kind, part.value


@pytest.mark.parametrize(
    ("spelled", "expected"),
    [
        ("text:snow", (1.0, "text", "snow")),
        ("0.5*text:snow", (0.5, "text", "snow")),
        ("2*id:a/b.jpg", (2.0, "id", "a/b.jpg")),
        (".25*image:b.jpg", (0.25, "image", Path("b.jpg"))),
        ("1e2*audio:x.wav", (100.0, "audio", Path("x.wav"))),
        # Only the first signs count: what follows the kind is the value.
        ("text:2*text:snow", (1.0, "text", "2*text:snow")),
        ("id:http://x/y?a=1*2", (1.0, "id", "http://x/y?a=1*2")),
        ("text: two\nlines ", (1.0, "text", " two\nlines ")),
        ("3*id:007", (3.0, "id", "007")),
        ("image:/abs/b.jpg", (1.0, "image", Path("/abs/b.jpg"))),
    ],
)
def test_a_part_is_weight_kind_and_value(spelled: str, expected: tuple[float, str, Any]) -> None:
    assert only(spelled) == expected


@pytest.mark.parametrize(
    "spelled",
    ["", "snow", "text:", "text", "video:x.mp4", "TEXT:snow", ":snow", "2*", "2text:snow"],
)
def test_what_is_no_part_is_told_how_one_is_written(spelled: str) -> None:
    with pytest.raises(InvalidInput, match="no part of a query") as raised:
        parse_part(spelled)
    assert "[weight*]kind:value" in raised.value.hint


@pytest.mark.parametrize("weight", ["", "0", "-1", "nan", "inf", "x", "1,5", "0x10", "1e999"])
def test_a_weight_is_a_positive_number(weight: str) -> None:
    with pytest.raises(InvalidInput, match="weight") as raised:
        parse_part(f"{weight}*text:snow")
    assert "positive" in raised.value.hint


@pytest.mark.parametrize("value", [None, 5, ["text:snow"]])
def test_what_is_no_text_is_no_part(value: Any) -> None:
    with pytest.raises(InvalidInput):
        parse_part(value)


def test_files_are_looked_for_where_the_table_is_and_nothing_else_is() -> None:
    folder = Path("/corpus")
    assert only("image:a/b.jpg", folder=folder) == (1.0, "image", Path("/corpus/a/b.jpg"))
    assert only("audio:/abs/c.wav", folder=folder) == (1.0, "audio", Path("/abs/c.wav"))
    assert only("text:a/b", folder=folder) == (1.0, "text", "a/b")
    assert only("id:a/b", folder=folder) == (1.0, "id", "a/b")


@given(
    kind=st.sampled_from(["text", "id"]),
    value=st.text(min_size=1),
    weight=st.none() | st.floats(min_value=1e-300, max_value=1e300),
)
def test_a_part_that_is_spelled_out_reads_the_same(
    kind: str, value: str, weight: float | None
) -> None:
    spelled = f"{kind}:{value}" if weight is None else f"{weight!r}*{kind}:{value}"
    assert only(spelled) == (1.0 if weight is None else weight, kind, value)
    (part,) = make_part(kind, value).parts
    assert (part.weight, part.kind, part.value) == (1.0, kind, value)
