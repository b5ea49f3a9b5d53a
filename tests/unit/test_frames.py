"""Tables and dicts in and out: the same items come back, and vectors are not copied one by one."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from muomni_search import Collection, InvalidInput, Modality, Query, Record, read_records
from muomni_search.items import DIM
from muomni_search.vectors import normalise

LONG = " ".join(f"Sentence {number} tells of the number {number}." for number in range(40))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Collection]:
    monkeypatch.chdir(tmp_path)
    with Collection.create(tmp_path / "c", model="hashing") as collection:
        yield collection


@pytest.fixture
def filled(place: Collection) -> Collection:
    vectors = normalise(np.random.default_rng(5).standard_normal((40, DIM)))
    place.add(
        Record(
            f"k{number:02d}",
            list(Modality)[number % 3],
            "made",
            vector=vector,
            metadata={"year": 2000 + number, "tags": ["a", "b"]} if number % 2 else {},
        )
        for number, vector in enumerate(vectors)
    )
    place.add([{"key": "long", "text": LONG}, {"key": "owl", "text": "An owl calls."}])
    return place


def column(table: pa.Table) -> np.ndarray[Any, Any]:
    """Return the vectors of a table as the array that they are, or fail."""
    (chunk,) = table.column("vector").chunks
    return chunk.flatten().to_numpy(zero_copy_only=True).reshape(-1, DIM)


def test_items_come_as_a_table_with_their_vectors(filled: Collection) -> None:
    table = filled.to_arrow()
    assert table.schema.field("vector").type == pa.list_(pa.float32(), DIM)
    items = filled.get([item.key for item in filled.items()], vectors=True)
    assert table.column("key").to_pylist() == [item.key for item in items]
    for item, vector in zip(items, column(table), strict=True):
        assert item.vector is not None
        assert vector.tobytes() == item.vector.tobytes()  # of several segments too
    assert [json.loads(one) for one in table.column("metadata").to_pylist()] == [
        item.metadata for item in items
    ]
    some = filled.to_arrow(where="year >= 2021", modality="image", vectors=False)
    assert "vector" not in some.column_names
    assert some.column("key").to_pylist() == [
        item.key for item in filled.items(where="year >= 2021", modality="image")
    ]
    assert filled.to_arrow(where="year = 1").num_rows == 0


def test_a_table_makes_the_same_collection_again(filled: Collection, tmp_path: Path) -> None:
    table = filled.to_arrow()
    with Collection.create(tmp_path / "again", model="hashing") as again:
        assert again.add(table).added == 42
        assert again.to_arrow().equals(table)
        report = again.add(table)
        assert (report.unchanged, report.updated) == (42, 0)
        # Also in many batches and slices.
        chunks = pa.concat_tables([table.slice(0, 5), table.slice(5, 1), table.slice(6)])
        assert again.add(chunks).unchanged == 42
        assert again.add(table.to_reader(max_chunksize=7)).unchanged == 42
        assert again.add(table.slice(10, 3).to_batches()[0]).unchanged == 3


def test_the_vectors_of_a_table_reach_the_records_as_views(tmp_path: Path) -> None:
    vectors = normalise(np.random.default_rng(6).standard_normal((3000, DIM)))
    block = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), DIM)
    table = pa.table(
        {"key": [f"k{n}" for n in range(3000)], "modality": ["image"] * 3000, "vector": block}
    )
    from muomni_search.ingest.rows import stream_rows

    rows = [row for _, row in stream_rows(table.slice(100))]
    assert len(rows) == 2900
    for number, row in enumerate(rows):
        assert isinstance(row, dict)
        assert np.shares_memory(row["vector"], vectors[number + 100])


def test_dicts_are_rows(place: Collection, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (32, 32), "red").save(tmp_path / "pictures/red.png")
    rows = [
        {
            "key": "owl",
            "text": "An owl calls.",
            "year": np.int64(1999),
            "seen": dt.date(2020, 1, 2),
        },
        {"key": np.int64(7), "image": Path("pictures/red.png"), "size": np.float32(0.5)},
        {"key": "v", "modality": "audio", "vector": np.ones(DIM), "tags": ["a"], "nan": np.nan},
        Record("r", Modality.TEXT, "made", text="A record."),
        {"key": "d", "path": "pictures/red.png", "metadata": {"deep": {"er": True}}},
    ]
    report = place.add(row for row in rows)
    assert (report.added, report.failed) == (5, 0), report.problems
    assert {item.key: item.metadata for item in place.items()} == {
        "7": {"size": 0.5},
        "d": {"deep": {"er": True}},
        "owl": {"year": 1999, "seen": "2020-01-02"},
        "r": {},
        "v": {"tags": ["a"]},
    }
    assert place.get("7")[0].source == str(tmp_path / "pictures/red.png")
    assert place.add(rows).unchanged == 5
    assert place.add(read_records(rows, prefix="p/")).added == 4


def test_bad_rows_are_told_and_the_others_are_in(place: Collection, tmp_path: Path) -> None:
    (tmp_path / "outside.txt").write_text("Outside.")
    (tmp_path / "inside").mkdir()
    bad: list[dict[str, Any]] = [
        {"text": "no key"},
        {"key": "nothing"},
        {"key": "v", "vector": [1.0] * 3, "modality": "image"},
        {"key": "n", "vector": [np.nan] * DIM, "modality": "image"},
        {"key": "big", "vector": [1e308] * DIM, "modality": "image"},
        {"key": "m", "vector": [1.0] * DIM},
        {"key": "\ud800", "text": "half"},
        {"key": "x", "text": "half \ud800"},
        {"key": "o", "text": "object", "field": object()},
        {"key": "out", "path": str(tmp_path / "outside.txt")},
        {"key": "up", "path": "../outside.txt"},
    ]
    good = {"key": "good", "text": "Good."}
    report = place.add(read_records([good, *bad], folder=tmp_path / "inside"))
    # 1e308 is a number like any other: what counts is the direction.
    assert (report.added, report.failed) == (2, len(bad) - 1)
    assert {item.key for item in place.items()} == {"good", "big"}
    assert all(problem.hint for problem in report.problems)
    assert report.problems[0].source == "row 2"
    assert place.verify() == []
    with pytest.raises(InvalidInput, match="no record"):
        place.add([{"key": "later", "text": "Later."}, 42])  # type: ignore[list-item]


def test_tables_that_are_none_say_so(place: Collection) -> None:
    twice = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], ["key", "key"])
    with pytest.raises(InvalidInput, match="two columns"):
        place.add(twice)
    assert place.add(pa.table({"key": pa.array([], pa.string())})).as_dict()["failed"] == 0
    report = place.add(pa.table({"key": ["a", "b"], "other": [1, 2]}))
    assert (report.added, report.failed) == (0, 2)


def test_a_failed_row_is_mended_by_the_same_row(place: Collection) -> None:
    assert place.add([{"key": "a"}]).failed == 1
    assert [failure.source for failure in place.failures()] == ["row 1"]
    assert place.add([{"key": "a", "text": "Now."}]).added == 1
    assert place.failures() == []


def test_a_data_frame_makes_the_same_collection_again(filled: Collection, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = filled.to_pandas()
    assert frame["metadata"][1] == {"year": 2001, "tags": ["a", "b"]}
    assert frame["vector"][0].shape == (DIM,)
    first = frame["vector"][0]
    assert np.shares_memory(first.base, frame["vector"][5].base)  # one block
    with Collection.create(tmp_path / "again", model="hashing") as again:
        # Filtered and sorted, as data frames are.
        assert again.add(frame[frame["modality"] != "text"].sort_values("key")).failed == 0
        again.add(frame)
        assert again.to_arrow().equals(filled.to_arrow())
    made = pandas.DataFrame(
        {
            "key": ["a", "b"],
            "text": ["One.", "Two."],
            "year": [2001, None],
            "when": pandas.to_datetime(["2020-01-01", None]),
        }
    ).set_index("key")
    assert filled.add(made).added == 2
    assert [item.metadata for item in filled.get(["a", "b"])] == [
        {"year": 2001.0, "when": "2020-01-01T00:00:00"},
        {},
    ]
    with pytest.raises(InvalidInput, match="DataFrame"):
        filled.add(pandas.DataFrame({"key": ["a", "b"], "mixed": [object(), 1]}))


def test_frames_of_polars_come_in_the_same_way(place: Collection) -> None:
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame({"key": ["a"], "modality": ["image"], "vector": [[0.5] * DIM]})
    assert place.add(frame).added == 1
    assert place.query(Query.vector([1.0] * DIM), k=1)[0].cosine == pytest.approx(1)


def test_a_bar_is_no_hindrance(place: Collection, capsys: pytest.CaptureFixture[str]) -> None:
    assert place.add([{"key": "a", "text": "One."}], progress=True).added == 1
    assert place.add([{"key": "b", "text": "Two."}], progress=False).added == 1
    captured = capsys.readouterr()
    assert captured.out == ""
