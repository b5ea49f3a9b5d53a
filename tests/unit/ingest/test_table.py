"""Rows become records, with their files, vectors and metadata; bad ones are problems among them."""

from __future__ import annotations

import csv
import datetime as dt
import json
import pickle
import string
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from muomni_search.durable import changed_ns
from muomni_search.errors import InvalidInput, NotFound, UnreadableFile
from muomni_search.ingest.manifest import read_corpus
from muomni_search.ingest.rows import BATCH_ROWS
from muomni_search.ingest.table import RESERVED, read_table
from muomni_search.items import DIM, Modality, Problem, Record

ONES = [1.0] * DIM


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder for tables, with a file of each kind, and something secret beside it."""
    folder = tmp_path / "corpus"
    (folder / "sub").mkdir(parents=True)
    (folder / "note.txt").write_text("a note")
    (folder / "sub/code.py").write_text("print()")
    Image.new("RGB", (2, 2)).save(folder / "dot.png")
    soundfile.write(folder / "beep.wav", np.zeros(100), 16_000)
    (folder / "data.bin").write_bytes(b"\0\1\2\3")
    (tmp_path / "secret.txt").write_text("a secret")
    return folder


def written(folder: Path, *rows: dict[str, Any] | str, name: str = "t.jsonl") -> Path:
    """Write rows as JSONL; a text is a line of its own."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / name).write_text("".join(line + "\n" for line in lines))
    return folder / name


def check_problem(entry: object, source: str, reason: str) -> None:
    """Check that an entry is a problem that says what, where and what to do, a line each."""
    assert isinstance(entry, Problem), entry
    assert entry.source == source
    assert entry.error.startswith(f"{source}: ")
    assert reason in entry.error
    assert entry.hint
    assert "\n" not in entry.error + entry.hint


def record_of(folder: Path, row: dict[str, Any] | str) -> Record:
    """Return the record of one row."""
    (entry,) = read_table(written(folder, row))
    assert isinstance(entry, Record), entry
    return entry


def check_refused(folder: Path, row: dict[str, Any] | str, reason: str) -> None:
    """Check that one row is a problem, and that the rows around it are records."""
    path = written(folder, {"text": "a"}, row, {"text": "b"})
    before, entry, after = read_table(path)
    check_problem(entry, f"{path}:2", reason)
    assert [getattr(entry, "text", None) for entry in (before, after)] == ["a", "b"]


def metadata_of(folder: Path, **columns: Any) -> list[Any]:
    """Return the metadata of each row of a Parquet table, or its problem."""
    count = len(next(iter(columns.values())))
    pq.write_table(pa.table({"text": ["x"] * count, **columns}), folder / "t.parquet")
    entries = list(read_table(folder / "t.parquet"))
    return [dict(entry.metadata) if isinstance(entry, Record) else entry for entry in entries]


# ---- keys ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "key"),
    [
        ({"key": "a/b.txt"}, "a/b.txt"),
        ({"key": "007"}, "007"),
        ({"key": " "}, " "),
        ({"key": 7}, "7"),
        ({"key": 12345678901234567890123}, "12345678901234567890123"),
        ({"key": 7.0}, "7"),  # of 7 beside a gap
    ],
)
def test_a_row_has_the_key_that_it_gives(folder: Path, row: dict[str, Any], key: str) -> None:
    path = written(folder, {"text": "x", **row})
    for prefix in ("", "P/"):
        (entry,) = read_table(path, prefix=prefix)
        assert isinstance(entry, Record)
        assert (entry.key, entry.origin, entry.root) == (prefix + key, f"{path}:1", None)


@pytest.mark.parametrize("row", [{}, {"key": None}])
@pytest.mark.parametrize(
    "content",
    [{"image": "dot.png"}, {"vector": [1.0] * DIM, "modality": "audio"}, {"text": "x"}],
)
def test_a_row_without_a_key_has_its_number_in_this_very_table(
    folder: Path, row: dict[str, Any], content: dict[str, Any]
) -> None:
    path = written(folder, {**content, **row})
    for prefix in ("", "P/"):
        (entry,) = read_table(path, prefix=prefix)
        assert isinstance(entry, Record)
        assert (entry.key, entry.root) == (prefix + "t.jsonl:1", f"{path.absolute()}:")


def test_a_gap_among_the_keys_of_a_table_of_numbers_is_no_key(folder: Path) -> None:
    columns = {"key": pa.array([7.0, np.nan, None]), "text": ["a", "b", "c"]}
    pq.write_table(pa.table(columns), folder / "t.parquet")
    entries = list(read_table(folder / "t.parquet"))
    keys = [entry.key for entry in entries if isinstance(entry, Record)]
    assert keys == ["7", "t.parquet:2", "t.parquet:3"]


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("", "the key is empty"),
        (True, "the key True is no text"),
        (1.5, "the key 1.5 is no text"),
        (2.0**53, "is no text"),  # or the next number
        (["a"], "the key ['a'] is no text"),
        ("a\0b", "holds a NUL"),
    ],
)
def test_a_key_that_is_no_name_is_a_problem(folder: Path, key: Any, reason: str) -> None:
    check_refused(folder, {"text": "x", "key": key}, reason)


def test_rows_without_a_key_are_named_by_the_number_that_problems_show(folder: Path) -> None:
    path = written(folder, {"text": "a"}, "", "{", {"text": "b"})
    first, problem, last = read_table(path)
    check_problem(problem, f"{path}:3", "no JSON")
    assert [getattr(entry, "key", None) for entry in (first, last)] == ["t.jsonl:1", "t.jsonl:4"]
    (folder / "t.csv").write_text('text\n\n"a\nb"\nc,d\ne\n')
    first, problem, last = read_table(folder / "t.csv")
    check_problem(problem, f"{folder / 't.csv'}:2", "2 cells under 1 columns")
    assert [getattr(entry, "key", None) for entry in (first, last)] == ["t.csv:1", "t.csv:3"]


# ---- content ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "modality", "name"),
    [
        ({"image": "dot.png"}, Modality.IMAGE, "dot.png"),
        ({"audio": "beep.wav"}, Modality.AUDIO, "beep.wav"),
        ({"path": "note.txt"}, Modality.TEXT, "note.txt"),
        ({"path": "dot.png", "modality": "image"}, Modality.IMAGE, "dot.png"),
        ({"audio": "beep.wav", "modality": "audio"}, Modality.AUDIO, "beep.wav"),
        ({"path": "sub/../note.txt", "text": None}, Modality.TEXT, "note.txt"),
        ({"path": "sub/code.py", "modality": "text"}, Modality.TEXT, "sub/code.py"),
    ],
)
def test_a_file_is_found_beside_its_table(
    folder: Path, monkeypatch: pytest.MonkeyPatch, row: dict[str, Any], modality: str, name: str
) -> None:
    written(folder, {**row, "year": 2024})
    (folder.parent / "link").symlink_to(folder)
    monkeypatch.chdir(folder)
    for path in (folder / "t.jsonl", Path("t.jsonl"), folder.parent / "link/t.jsonl"):
        (entry,) = read_table(path)
        assert isinstance(entry, Record), entry
        facts = (folder / name).stat()
        assert (entry.modality, entry.path) == (modality, folder / name)
        assert (entry.source, entry.text, entry.vector) == (str(folder / name), None, None)
        assert (entry.size, entry.mtime_ns) == (facts.st_size, changed_ns(facts))
        assert entry.metadata == {"year": 2024}


def test_an_inline_text_has_no_source(folder: Path) -> None:
    record = record_of(folder, {"text": "note.txt", "modality": "text"})
    assert (record.modality, record.text) == (Modality.TEXT, "note.txt")
    assert (record.path, record.source) == (None, None)


@pytest.mark.parametrize("column", ["path", "image", "audio"])
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("../secret.txt", "leaves the folder of the table"),
        ("sub/../../secret.txt", "leaves the folder of the table"),
        ("../corpus2/x.txt", "leaves the folder of the table"),
        ("{folder}/../secret.txt", "leaves the folder of the table"),
        ("/etc/passwd", "leaves the folder of the table"),
        ("note.txt\0", "leaves the folder of the table"),
        ("link.txt", "is a link that leaves the folder of the table"),
        ("out/secret.txt", "is a link that leaves the folder of the table"),
        ("loop.txt", "no file"),
        ("gone.txt", "no file"),
        ("note.txt/x", "no file"),
        ("", "neither a file nor a folder"),
        ("sub", "neither a file nor a folder"),
        ("data.bin", "neither text nor picture nor sound"),
        (7, "is 7, no text"),
        (["note.txt"], "is ['note.txt'], no text"),
    ],
    ids=ascii,
)
def test_a_path_that_is_no_file_below_the_table_is_a_problem(
    folder: Path, column: str, value: Any, reason: str
) -> None:
    (folder.parent / "corpus2").mkdir()
    (folder.parent / "corpus2/x.txt").write_text("whose name begins like the folder's")
    (folder / "link.txt").symlink_to("../secret.txt")
    (folder / "out").symlink_to("..")
    (folder / "loop.txt").symlink_to("loop.txt")
    value = value.format(folder=folder) if isinstance(value, str) else value
    check_refused(folder, {column: value}, reason)


def test_a_link_inside_the_folder_is_its_file(folder: Path) -> None:
    (folder / "inside.txt").symlink_to("note.txt")
    record = record_of(folder, {"path": "inside.txt"})
    assert record.source == str(folder / "inside.txt")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"image": "note.txt"}, "note.txt is text, not image"),
        ({"audio": "dot.png"}, "dot.png is image, not audio"),
        ({"path": "beep.wav", "modality": "text"}, "beep.wav is audio, not text"),
        ({"text": "x", "modality": "image"}, "the modality is image, the content is in 'text'"),
        ({"image": "dot.png", "modality": "audio"}, "the modality is audio, the content is in"),
        ({"text": "x", "modality": "Text"}, "no modality 'Text'"),
        ({"text": "x", "modality": "video"}, "no modality 'video'"),
        ({"text": "x", "modality": 1}, "no modality 1"),
        ({"text": "x", "modality": ["text"]}, "no modality ['text']"),
        ({"text": "x", "image": "dot.png"}, "text and image: one is needed"),
        ({"image": "dot.png", "audio": "beep.wav"}, "image and audio: one is needed"),
        ({"text": "x", "path": "note.txt"}, "text and path: one is needed"),
        ({"year": 2024}, "no content: one is needed"),
        ({"text": None, "vector": None}, "no content: one is needed"),
        ({}, "no content: one is needed"),
        ({"text": ""}, "the text is empty"),
        ({"text": " \n\t"}, "the text is empty"),
        ({"text": 7}, "text is 7, no text"),
        ({"text": False}, "text is False, no text"),
    ],
    ids=str,
)
def test_a_row_says_one_content_of_one_kind(folder: Path, row: dict[str, Any], reason: str) -> None:
    check_refused(folder, row, reason)


# ---- metadata --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "metadata"),
    [
        ({"metadata": {"a": 1, "b": None}, "c": 2}, {"a": 1, "b": None, "c": 2}),
        ({"metadata": '{"a": [1, 2.0, true]}'}, {"a": [1, 2.0, True]}),
        ({"metadata": {"key": 1, "metadata": {}}}, {"key": 1, "metadata": {}}),
        ({"metadata": {}}, {}),
        ({"metadata": None, "a": None, "b": 0, "c": False}, {"b": 0, "c": False}),
        ({"metadata": "null"}, {}),
        ({"source": "x", "a": {"b": [None, {"c": 12345678901234567890}]}},
         {"source": "x", "a": {"b": [None, {"c": 12345678901234567890}]}}),
    ],
    ids=str,
)  # fmt: skip
def test_every_other_column_and_an_object_of_metadata_are_metadata(
    folder: Path, row: dict[str, Any], metadata: dict[str, Any]
) -> None:
    found = record_of(folder, {"key": "k", "text": "x", "modality": "text", **row}).metadata
    assert json.dumps(found, sort_keys=True) == json.dumps(metadata, sort_keys=True)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ('{"text": "x", "a": 1e999}', "a is infinite"),
        ('{"text": "x", "a": {"b": [-1e999]}}', "a is infinite"),
        ({"text": "x", "metadata": '{"a": 1e999}'}, "metadata is infinite"),
        ({"text": "x", "metadata": '{"a": NaN}'}, "metadata is no JSON: NaN is no JSON number"),
        ({"text": "x", "metadata": '{"a": 1, "a": 2}'}, "the name 'a' stands there twice"),
        ({"text": "x", "metadata": r'{"a": "\ud83d"}'}, "half a surrogate pair"),
        ({"text": "x", "metadata": "[" * 100_000}, "metadata is no JSON: nested too deep"),
        ({"text": "x", "metadata": "a: 1"}, "metadata is no JSON"),
        ({"text": "x", "metadata": ""}, "metadata is no JSON"),
        ({"text": "x", "metadata": [1]}, "metadata is [1], no object"),
        ({"text": "x", "metadata": "[1]"}, "metadata is [1], no object"),
        ({"text": "x", "metadata": 3}, "metadata is 3, no object"),
        ({"text": "x", "a": "b\0"}, "a holds a NUL"),
        ({"text": "x", "a": [{"b": "\0"}]}, "a holds a NUL"),
        ({"text": "x", "a": {"b\0": 1}}, "a holds a NUL"),
        ({"text": "x", "metadata": {"b\0": 1}}, "metadata holds a NUL"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_metadata_that_is_no_json_object_is_a_problem(
    folder: Path, row: dict[str, Any] | str, reason: str
) -> None:
    check_refused(folder, row, reason)


def test_vectors_in_csv_are_json_lists(folder: Path) -> None:
    with (folder / "t.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["key", "modality", "vector"])
        writer.writerow(["a", "image", json.dumps(ONES)])
        writer.writerow(["b", "image", "[1, 2"])
        writer.writerow(["c", "image", "north"])
    good, cut, word = read_table(folder / "t.csv")
    assert isinstance(good, Record)
    assert good.vector is not None
    np.testing.assert_allclose(good.vector, DIM**-0.5, atol=1e-6)
    check_problem(cut, f"{folder / 't.csv'}:2", "no JSON list")
    check_problem(word, f"{folder / 't.csv'}:3", "not a vector of 256 numbers")


def test_metadata_in_csv_is_json_and_the_other_columns_have_their_types(folder: Path) -> None:
    (folder / "t.csv").write_text(
        'key,text,metadata,year,code\n1,2,"{""a"": [1, 2.0]}",2024,007\n2,true,,,08\n'
    )
    first, second = read_table(folder / "t.csv")
    assert isinstance(first, Record)
    assert isinstance(second, Record)
    assert [(entry.key, entry.text) for entry in (first, second)] == [("1", "2"), ("2", "true")]
    assert repr(first.metadata) == repr({"a": [1, 2.0], "year": 2024, "code": "007"})
    assert second.metadata == {"code": "08"}


@pytest.mark.parametrize(
    ("column", "values"),
    [
        (pa.array([1_600_000_000_000_678, None], pa.timestamp("us")),
         ["2020-09-13T12:26:40.000678", None]),
        (pa.array([1_600_000_000], pa.timestamp("s")), ["2020-09-13T12:26:40"]),
        # Python's times are not so fine: what is below a microsecond is left out.
        (pa.array([1_600_000_000_123_456_789, None], pa.timestamp("ns")),
         ["2020-09-13T12:26:40.123456", None]),
        (pa.array([1_600_000_000_123_456_789], pa.timestamp("ns", "+02:00")),
         ["2020-09-13T14:26:40.123456+02:00"]),
        (pa.array([0], pa.timestamp("ms", "UTC")), ["1970-01-01T00:00:00+00:00"]),
        (pa.array([dt.date(2020, 1, 2)]), ["2020-01-02"]),
        (pa.array([dt.time(1, 2, 3)]), ["01:02:03"]),
        (pa.array([dt.timedelta(days=1, milliseconds=1)]), [86_400.001]),
        (pa.array([Decimal("1.25"), None]), [1.25, None]),
        (pa.array([Decimal(10**70)]), [1e70]),
        (pa.array([1.5, float("nan"), None]), [1.5, None, None]),
        (pa.array([1.5], pa.float16()), [1.5]),
        (pa.array([2**64 - 1], pa.uint64()), [2**64 - 1]),
        (pa.array([True, None]), [True, None]),
        (pa.array([None, None]), [None, None]),
        (pa.array(["u", "v"]).dictionary_encode(), ["u", "v"]),
        (pa.array(["u"], pa.large_string()), ["u"]),
        (pa.array([[[1, None], []], None]), [[[1, None], []], None]),
        (pa.array([[1.5, float("nan")]]), [[1.5, None]]),
        (pa.array([["u"]], pa.large_list(pa.string())), [["u"]]),
        (pa.array([[1, 2], None], pa.list_(pa.int8(), 2)), [[1, 2], None]),
        (pa.array([{"x": 1, "y": {"z": [True, None]}}]), [{"x": 1, "y": {"z": [True, None]}}]),
        (pa.array([[{"on": dt.date(2020, 1, 2)}]]), [[{"on": "2020-01-02"}]]),
        (pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())), [[["k", 1]]]),
    ],
    ids=lambda value: str(getattr(value, "type", ""))[:40],
)  # fmt: skip
def test_columns_of_parquet_become_json_values_and_gaps_are_left_out(
    folder: Path, column: pa.Array, values: list[Any]
) -> None:
    expected = [{} if value is None else {"column": value} for value in values]
    assert repr(metadata_of(folder, column=column)) == repr(expected)


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        (pa.array([b"x"]), "column holds bytes"),
        (pa.array([b"xy"], pa.binary(2)), "column holds bytes"),
        (pa.array([[b"x"]], pa.list_(pa.large_binary())), "column holds bytes"),
        (pa.array([{"a": b"x"}]), "column holds bytes"),
        (pa.array([float("inf")]), "column is infinite"),
        (pa.array([[1.5, float("-inf")]]), "column is infinite"),
        (pa.array(["\0"]), "column holds a NUL"),
    ],
    ids=lambda value: str(getattr(value, "type", "")),
)
def test_values_of_parquet_that_are_no_json_are_problems_of_their_rows(
    folder: Path, column: pa.Array, reason: str
) -> None:
    gap = pa.nulls(1, column.type)
    before, problem, after = metadata_of(folder, column=pa.chunked_array([gap, column, gap]))
    check_problem(problem, f"{folder / 't.parquet'}:2", reason)
    assert (before, after) == ({}, {})


def test_metadata_in_parquet_is_a_struct_or_json(folder: Path) -> None:
    expected = [{"a": 1, "b": "x"}, {}]
    for metadata in ([*expected[:1], None], ['{"a": 1, "b": "x"}', None]):
        assert metadata_of(folder, metadata=metadata) == expected


# ---- metadata: round trips -------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
words = texts | st.sampled_from(["1", "1.5", "true", "007", "nan", "a,b;c\td", 'a"b', "x\r\ny"])
floats = st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | floats | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
names = texts.filter(lambda name: name not in RESERVED)


@given(
    objects=st.lists(st.dictionaries(names, values, max_size=4), min_size=1, max_size=4),
    ascii_only=st.booleans(),
    shape=st.sampled_from(["columns", "object", "text"]),
)
@settings(max_examples=60, deadline=None)
def test_metadata_comes_back_from_jsonl_as_it_was(
    tmp_path_factory: pytest.TempPathFactory,
    objects: list[dict[str, Any]],
    ascii_only: bool,
    shape: str,
) -> None:
    path = tmp_path_factory.getbasetemp() / "round-trip.jsonl"
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for metadata in objects:
            held = json.dumps(metadata) if shape == "text" else metadata
            row = {"text": "x", **(metadata if shape == "columns" else {"metadata": held})}
            file.write(json.dumps(row, ensure_ascii=ascii_only) + "\n")
    found = [dict(entry.metadata) for entry in read_table(path) if isinstance(entry, Record)]
    if shape == "columns":  # where null is how a row says that it has no such column
        objects = [{k: v for k, v in one.items() if v is not None} for one in objects]
    assert repr(found) == repr(objects)


@st.composite
def columns(draw: st.DrawFn, rows: int) -> list[Any]:
    """Draw a column of one type, with gaps."""
    # The first cell decides that a column is of its type: 1.5 and 2 are numbers, "-" is text.
    first, others = draw(
        st.sampled_from(
            [
                (7, st.integers(-(10**30), 10**30)),
                (0.5, floats | st.integers(2**53 + 1, 2**300)),
                (True, st.booleans()),
                ("-", words),
            ]
        )
    )
    rest = draw(st.lists(st.none() | others, min_size=rows - 1, max_size=rows - 1))
    return [first, *(None if cell == "" else cell for cell in rest)]


@given(
    data=st.data(),
    delimiter=st.sampled_from(",;\t"),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
@settings(max_examples=100, deadline=None)
def test_metadata_comes_back_from_csv_with_its_types(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, delimiter: str, quoting: Any
) -> None:
    rows = data.draw(st.integers(1, 5))
    name = st.text(string.ascii_letters + "ßé日 ", min_size=1).map(str.strip)
    headers = data.draw(
        st.lists(
            name.filter(lambda n: n and n not in RESERVED), min_size=1, max_size=4, unique=True
        )
    )
    table = {header: data.draw(columns(rows)) for header in headers}
    path = tmp_path_factory.getbasetemp() / "round-trip.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter, quoting=quoting)
        writer.writerow(["text", *table])
        writer.writerows(("x", *cells) for cells in zip(*table.values(), strict=True))
    found = [entry.metadata for entry in read_table(path)]  # type: ignore[union-attr]
    expected = [
        {header: cells[row] for header, cells in table.items() if cells[row] is not None}
        for row in range(rows)
    ]
    assert repr(found) == repr(expected)


# ---- vectors ---------------------------------------------------------------------------------


def check_vector(entry: object, expected: Any) -> None:
    """Check that a record has a vector's direction at unit length."""
    assert isinstance(entry, Record), entry
    assert entry.vector is not None
    assert entry.vector.dtype == np.float32
    assert entry.vector.shape == (DIM,)
    wide = np.asarray(expected, np.float64)
    assert np.allclose(entry.vector, wide / np.linalg.norm(wide), atol=1e-6)


@pytest.fixture
def matrix(rng: np.random.Generator) -> NDArray[np.float64]:
    """Vectors of very different lengths, within what eight bits hold."""
    return np.clip(rng.normal(0, 40, (4, DIM)) * [[0.1], [0.5], [1], [3]], -127, 127)


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.float64()),
        pa.list_(pa.float32()),
        pa.list_(pa.float16()),
        pa.list_(pa.int8()),
        pa.large_list(pa.float32()),
        pa.list_(pa.float32(), DIM),
        "jsonl",
    ],
    ids=str,
)
def test_ready_vectors_are_normalised(folder: Path, matrix: NDArray[np.float64], kind: Any) -> None:
    if kind == "jsonl":
        path = written(folder, *({"vector": list(row), "modality": "image"} for row in matrix))
    else:
        dtype = kind.value_type.to_pandas_dtype()
        matrix = matrix.astype(dtype)
        vectors = pa.array([list(row) for row in matrix], kind)
        path = folder / "t.parquet"
        pq.write_table(pa.table({"vector": vectors, "modality": ["image"] * len(matrix)}), path)
    entries = list(read_table(path))
    assert len(entries) == len(matrix)
    for entry, row in zip(entries, matrix, strict=True):
        check_vector(entry, row)
        assert isinstance(entry, Record)
        assert entry.modality == Modality.IMAGE
        assert (entry.text, entry.source, entry.path, entry.metadata) == (None, None, None, {})


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int8", "uint8", ">f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_row_i_of_the_vectors_belongs_to_row_i_of_the_table(
    folder: Path, matrix: NDArray[np.float64], dtype: str, order: Any
) -> None:
    matrix = np.abs(matrix).astype(dtype, order=order)
    np.save(folder / "v.npy", matrix)
    row = {"modality": "audio", "vector": "replaced"}
    path = written(folder, row, "", "a broken row has a vector too", row, "", row)
    first, broken, third, last = read_table(path, vectors=folder / "v.npy")
    check_problem(broken, f"{path}:3", "no JSON")
    for place, entry in ((0, first), (2, third), (3, last)):
        check_vector(entry, matrix[place])


@pytest.mark.parametrize("count", [3, 5, 0])
@pytest.mark.parametrize("name", ["t.jsonl", "t.csv", "t.parquet"])
def test_there_is_a_vector_for_each_row(folder: Path, name: str, count: int) -> None:
    path = folder / name
    if name == "t.parquet":
        pq.write_table(pa.table({"modality": ["text"] * 4}), path)
    elif name == "t.csv":
        path.write_text('modality,note\ntext,"a\nb"\n\ntext,\ntext,too,many\ntext,\n')
    else:
        path.write_text('{"modality": "text"}\n\n' * 3 + "broken\n")
    np.save(folder / "v.npy", np.ones((4, DIM)))
    assert len(list(read_table(path, vectors=folder / "v.npy"))) == 4
    np.save(folder / "v.npy", np.ones((count, DIM)))
    with pytest.raises(InvalidInput, match=rf"v\.npy has {count} vectors, .*{name} has 4 rows"):
        next(read_table(path, vectors=folder / "v.npy"))


class Payload:
    """A pickle of this writes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("kind", ["pickle", "array of objects"])
def test_a_pickle_for_vectors_is_refused_and_not_loaded(folder: Path, kind: str) -> None:
    path = written(folder, {"modality": "text"})
    payload = Payload(folder / "loaded")
    if kind == "pickle":
        (folder / "v.npy").write_bytes(pickle.dumps(payload))
    else:
        objects = np.empty((1, DIM), object)
        objects[:] = payload
        np.save(folder / "v.npy", objects, allow_pickle=True)
    with pytest.raises(UnreadableFile, match=r"v\.npy: no array of numbers") as caught:
        next(read_table(path, vectors=folder / "v.npy"))
    assert caught.value.hint
    assert not payload.path.exists()


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.ones((1, 7)), "(1, 7), expected (rows, 256)"),
        (np.ones(DIM), "(256,), expected (rows, 256)"),
        (np.ones((1, DIM, 1)), "(1, 256, 1), expected (rows, 256)"),
        (np.full((1, DIM), "1"), "holds <U1, expected numbers"),
        (np.ones((1, DIM), bool), "holds bool, expected numbers"),
        (np.ones((1, DIM), complex), "holds complex128, expected numbers"),
    ],
)
def test_an_array_that_is_no_matrix_of_vectors_is_refused(
    folder: Path, array: NDArray[Any], reason: str
) -> None:
    path = written(folder, {"modality": "text"})
    np.save(folder / "v.npy", array)
    with pytest.raises(InvalidInput) as caught:
        next(read_table(path, vectors=folder / "v.npy"))
    assert str(folder / "v.npy") in caught.value.what
    assert reason in caught.value.what


@pytest.mark.parametrize("kind", ["cut", "empty", "text", "zip", "missing"])
def test_a_file_of_vectors_that_cannot_be_read_is_refused(folder: Path, kind: str) -> None:
    path = written(folder, {"modality": "text"})
    vectors = folder / "v.npy"
    np.save(vectors, np.ones((1, DIM)))
    data = {"cut": vectors.read_bytes()[:-1], "empty": b"", "text": b"1 2 3\n"}
    if kind == "missing":
        vectors.unlink()
    elif kind == "zip":
        with vectors.open("wb") as file:
            np.savez(file, vectors=np.ones((1, DIM)))
    else:
        vectors.write_bytes(data[kind])
    error = {"missing": NotFound, "zip": InvalidInput}.get(kind, UnreadableFile)
    with pytest.raises(error, match=r"v\.npy"):
        next(read_table(path, vectors=vectors))


@pytest.mark.parametrize(
    ("vector", "reason"),
    [
        ([0.0] * DIM, "is all zeros"),
        ([*ONES[1:], float("nan")], "holds NaN or infinity"),
        ([*ONES[1:], float("-inf")], "holds NaN or infinity"),
        ([*ONES[1:], None], "holds NaN or infinity"),
        (ONES[1:], "255 numbers a vector, expected 256"),
        (ONES * 2, "512 numbers a vector, expected 256"),
        ([], "0 numbers a vector, expected 256"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{str(value[-1:])[:9]}x{len(value)}",
)
@pytest.mark.parametrize("kind", ["jsonl", "list", "large list"])
def test_a_bad_vector_is_a_problem_of_its_row_alone(
    folder: Path, rng: np.random.Generator, vector: list[Any], reason: str, kind: str
) -> None:
    # Of the lists the last rows are in a second batch.
    good = rng.standard_normal((BATCH_ROWS + 3 if kind == "list" else 3, DIM))
    vectors = [list(row) for row in good]
    vectors[-2:-1] = [vector]
    if kind == "jsonl":
        lines = [json.dumps({"vector": v, "modality": "text"}) for v in vectors]
        lines = [line.replace("NaN", "null").replace("-Infinity", "-1e999") for line in lines]
        path = written(folder, *lines)
    else:
        make = pa.large_list if kind == "large list" else pa.list_
        table = {"vector": pa.array(vectors, make(pa.float64()))}
        path = folder / "t.parquet"
        pq.write_table(pa.table({**table, "modality": ["text"] * len(vectors)}), path)
    *before, problem, after = read_table(path)
    check_problem(problem, f"{path}:{len(vectors) - 1}", reason)
    for entry, row in zip([*before, after], np.delete(good, -2, axis=0), strict=True):
        check_vector(entry, row)


def test_widths_that_make_up_for_one_another_do_not_shift_the_vectors(
    folder: Path, matrix: NDArray[np.float64]
) -> None:
    vectors = [list(matrix[0]), list(matrix[1]) * 2, [], list(matrix[3])]
    pq.write_table(pa.table({"vector": vectors, "modality": ["text"] * 4}), folder / "t.parquet")
    first, wide, empty, last = read_table(folder / "t.parquet")
    check_vector(first, matrix[0])
    check_vector(last, matrix[3])
    check_problem(wide, f"{folder / 't.parquet'}:2", "512 numbers")
    check_problem(empty, f"{folder / 't.parquet'}:3", "0 numbers")


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.list_(pa.float32(), DIM)], ids=str)
def test_a_row_of_parquet_without_a_vector_may_have_another_content(
    folder: Path, matrix: NDArray[np.float64], kind: pa.DataType
) -> None:
    vectors = pa.array([list(matrix[0]), None, None, list(matrix[3])], kind)
    table = {"vector": vectors, "text": [None, "x", None, None], "modality": ["text"] * 4}
    pq.write_table(pa.table(table), folder / "t.parquet")
    first, inline, neither, last = read_table(folder / "t.parquet")
    check_vector(first, matrix[0])
    check_vector(last, matrix[3])
    assert isinstance(inline, Record)
    assert (inline.text, inline.vector) == ("x", None)
    check_problem(neither, f"{folder / 't.parquet'}:3", "no content")


@pytest.mark.parametrize(
    ("vector", "reason"),
    [
        ("x", "not a vector of 256 numbers"),
        (["x"] * DIM, "not a vector of 256 numbers"),
        ([{}] * DIM, "not a vector of 256 numbers"),
        ({"a": 1}, "not a vector of 256 numbers"),
        (1.5, "expected 256"),
        ([ONES], "expected 256"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_is_no_vector_is_a_problem(folder: Path, vector: Any, reason: str) -> None:
    check_refused(folder, {"vector": vector, "modality": "text"}, reason)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({}, "a vector without a modality"),
        ({"modality": None}, "a vector without a modality"),
        ({"modality": "video"}, "no modality 'video'"),
        ({"modality": "text", "text": 7}, "text is 7, no text"),
        ({"modality": "text", "source": 7}, "source is 7, no text"),
        ({"modality": "text", "source": "a\0b.png"}, "has a source with a NUL"),
        ({"modality": "text", "key": ""}, "the key is empty"),
        ({"modality": "text", "metadata": 3}, "metadata is 3, no object"),
    ],
    ids=str,
)
def test_a_vector_needs_a_modality_and_a_row_that_is_good(
    folder: Path, row: dict[str, Any], reason: str
) -> None:
    check_refused(folder, {"vector": ONES, **row}, reason)


def test_columns_that_would_name_a_file_are_metadata_beside_a_vector(folder: Path) -> None:
    files = {"path": "../p.jpg", "image": "gone.png", "audio": 3}
    row = {"key": "k", "modality": "image", "vector": ONES, "text": "a title", "year": 2024}
    record = record_of(folder, {**row, **files})
    check_vector(record, ONES)
    assert (record.key, record.modality, record.text) == ("k", Modality.IMAGE, "a title")
    assert (record.path, record.source) == (None, None)
    assert record.metadata == {**files, "year": 2024}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("sub/x.jpg", "{folder}/sub/x.jpg"),
        ("./sub/../x.jpg", "{folder}/x.jpg"),
        ("../x.jpg", "{folder.parent}/x.jpg"),  # it is shown and never read
        ("/a/../x.jpg", "/x.jpg"),
        ("http:x.jpg", "{folder}/http:x.jpg"),
        ("https://example.org/a/../x.jpg?y", "https://example.org/a/../x.jpg?y"),
        ("S3://bucket//x.jpg", "S3://bucket//x.jpg"),
        ("git+ssh://example.org/x", "git+ssh://example.org/x"),
    ],
)
def test_the_source_of_a_vector_is_absolute_or_a_url(
    folder: Path, monkeypatch: pytest.MonkeyPatch, source: str, expected: str
) -> None:
    path = written(folder, {"vector": ONES, "modality": "image", "source": source})
    monkeypatch.chdir(folder)
    for place in (path, Path("t.jsonl")):
        (entry,) = read_table(place)
        assert isinstance(entry, Record)
        assert entry.source == expected.format(folder=folder)
        assert entry.path is None


# ---- tables that cannot be read --------------------------------------------------------------


def broken_tables() -> Iterator[tuple[str, bytes, str]]:
    """Yield tables that cannot be read: their names, their bytes, and what is said of them."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": ["x"] * 100}), sink)
    whole = sink.getvalue().to_pybytes()
    yield "half.parquet", whole[: len(whole) // 2], "Parquet"
    yield "magic.parquet", whole[:-4] + b"PAR2", "Parquet"
    yield "empty.parquet", b"", "Parquet"
    yield "page.parquet", whole[:4] + b"\xff" * 20 + whole[24:], ""
    yield "names.csv", b"text,text\nx,y\n", "two columns are called 'text'"
    yield "none.csv", b"", "no line with the names of the columns"
    yield "latin.csv", b"text,caf\xe9\nx,y\n", "no UTF-8"


@pytest.mark.parametrize(
    ("name", "data", "reason"), [pytest.param(*case, id=case[0]) for case in broken_tables()]
)
def test_a_table_that_cannot_be_read_is_one_problem_between_what_can(
    folder: Path, name: str, data: bytes, reason: str
) -> None:
    (folder / name).write_bytes(data)
    rows = written(folder, {"text": "x"})
    note, problem, row = read_corpus([folder / "note.txt", folder / name, rows])
    check_problem(problem, str(folder / name), reason)
    assert [getattr(entry, "key", None) for entry in (note, row)] == ["note.txt", "t.jsonl:1"]


def test_a_table_that_breaks_off_gives_the_rows_before_and_then_one_problem(folder: Path) -> None:
    path = folder / "t.parquet"
    table = pa.table({"text": [f"row {n}" for n in range(3 * BATCH_ROWS)]})
    pq.write_table(table, path, row_group_size=BATCH_ROWS, use_dictionary=False)
    start = pq.read_metadata(path).row_group(1).column(0).data_page_offset
    data = bytearray(path.read_bytes())
    data[start : start + 20] = b"\xff" * 20
    path.write_bytes(data)
    *records, problem = read_table(path)
    check_problem(problem, str(path), "")
    found = [getattr(entry, "text", None) for entry in records]
    assert found == [f"row {n}" for n in range(BATCH_ROWS)]


# ---- what once ended a run -------------------------------------------------------------------


@pytest.mark.parametrize("cell", ["e5", "E1", "+e1", ".e5", "-.", "+.", "."])
def test_a_cell_that_is_almost_a_number_is_a_text(tmp_path: Path, cell: str) -> None:
    (tmp_path / "t.csv").write_text(f"text,code\nwords,{cell}\n")
    (entry,) = read_table(tmp_path / "t.csv")
    assert isinstance(entry, Record)
    assert entry.metadata == {"code": cell}


@pytest.mark.parametrize("depth", [400, 700, 985, 2_000])
def test_metadata_nested_too_deep_is_a_problem_of_its_row(tmp_path: Path, depth: int) -> None:
    deep = "[" * depth + '"\\ud83d\\ude00"' + "]" * depth
    lines = ['{"text": "good"}', f'{{"text": "deep", "a": {deep}}}', '{"text": "good too"}']
    (tmp_path / "t.jsonl").write_text("\n".join(lines) + "\n")
    entries = list(read_table(tmp_path / "t.jsonl"))
    assert isinstance(entries[0], Record)
    assert isinstance(entries[2], Record)


@pytest.mark.parametrize("value", [10**400, True, "1"])
def test_a_vector_of_what_is_no_float_is_a_problem_of_its_row(tmp_path: Path, value: Any) -> None:
    rows = [{"modality": "text", "vector": [value] * 256}]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (entry,) = read_table(tmp_path / "t.jsonl")
    assert isinstance(entry, Problem)
    assert "not a vector of 256 numbers" in entry.error


def test_good_rows_before_the_damage_are_in(tmp_path: Path) -> None:
    texts = [f"{number} " * 8_000 for number in range(800)]
    path = tmp_path / "t.parquet"
    pq.write_table(
        pa.table({"text": texts}), path, row_group_size=100, compression="none",
        use_dictionary=False, write_page_checksum=False,
    )  # fmt: skip
    data = bytearray(path.read_bytes())
    start = pq.read_metadata(path).row_group(6).column(0).data_page_offset
    data[start : start + 400] = b"\xff" * 400
    path.write_bytes(bytes(data))
    entries = list(read_table(path))
    assert isinstance(entries[-1], Problem)
    assert len(entries) > 500


def test_times_of_nanoseconds_are_read_however_deep(tmp_path: Path) -> None:
    stamp = pa.array([1_001], pa.timestamp("ns"))
    columns = {
        "text": pa.array(["words"]),
        "time": pa.array([1_001], pa.time64("ns")),
        "span": pa.array([1_001], pa.duration("ns")),
        "list": pa.ListArray.from_arrays([0, 1], stamp),
        "struct": pa.StructArray.from_arrays([stamp], ["at"]),
    }
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    (entry,) = read_table(tmp_path / "t.parquet")
    assert isinstance(entry, Record)
    assert entry.metadata == {
        "time": "00:00:00.000001",
        "span": 1e-06,
        "list": ["1970-01-01T00:00:00.000001"],
        "struct": {"at": "1970-01-01T00:00:00.000001"},
    }


def test_a_date_that_python_has_not_is_a_problem_of_its_row(tmp_path: Path) -> None:
    when = pa.array([0, 2**62, 1], pa.timestamp("us"))
    pq.write_table(pa.table({"text": ["a", "b", "c"], "when": when}), tmp_path / "t.parquet")
    kinds = [type(entry) for entry in read_table(tmp_path / "t.parquet")]
    assert kinds == [Record, Problem, Record]
