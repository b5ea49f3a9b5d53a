"""Tables are read by the letter; a bad row is a reason in its place, and the others go on."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from muomni_search.errors import UnreadableFile
from muomni_search.ingest.rows import (
    BATCH_ROWS,
    MAX_LINE_BYTES,
    count_rows,
    parquet_columns,
    parse_json,
    read_rows,
)

TOO_LONG = f"a line of more than {MAX_LINE_BYTES} "


def rows_of(path: Path, data: str | bytes, **options: Any) -> list[Any]:
    """Write a table and return its rows, bad ones too; there are as many as are counted."""
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    rows = list(read_rows(path, **options))
    assert count_rows(path) == len(rows)
    return rows


def check_unreadable(path: Path, reason: str) -> None:
    """Check that a table is refused as a whole, read or counted, in one line and with advice."""
    for attempt in (count_rows, lambda path: list(read_rows(path))):
        with pytest.raises(UnreadableFile) as caught:
            attempt(path)
        assert caught.value.what.startswith(f"{path}: ")
        assert reason in caught.value.what
        assert "\n" not in caught.value.what
        assert caught.value.hint


@pytest.fixture
def jsonl(tmp_path: Path) -> Path:
    return tmp_path / "rows.jsonl"


@pytest.fixture
def sheet(tmp_path: Path) -> Path:
    return tmp_path / "rows.csv"


# ---- JSONL -----------------------------------------------------------------------------------


def test_rows_of_jsonl_are_numbered_by_lines_and_blank_lines_are_no_rows(jsonl: Path) -> None:
    data = (
        b'\xef\xbb\xbf{"a": 1}\r\n\n \t \r\n{"a": 2}\n\xef\xbb\xbf{"a": 3}\n{"a": "\xe2\x80\xa8"}'
    )
    first, second, marked, last = rows_of(jsonl, data)
    assert (first, second) == ((1, {"a": 1}), (4, {"a": 2}))
    assert marked[0] == 5  # a byte order mark is one on the first line alone
    assert "no JSON: " in marked[1]
    assert last == (6, {"a": "\u2028"})  # which ends a line for Python, not in a file
    assert rows_of(jsonl, b'\xef\xbb\xbf\n{"a": 1}') == [(2, {"a": 1})]
    assert rows_of(jsonl, "\n\n") == []


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"a": ', "no JSON: "),
        ("{'a': 1}", "no JSON: "),
        ('{"a": 1} {"a": 2}', "no JSON: "),
        ('{"a": 1}\0', "no JSON: "),
        ('{"a": "\0"}', "no JSON: "),
        ("[1]", "a JSON value that is no object"),
        ('"text"', "a JSON value that is no object"),
        ("null", "a JSON value that is no object"),
        (b'{"a": "\xe9"}', "no UTF-8"),
        ('{"a": NaN}', "NaN is no JSON number"),
        ('{"a": [Infinity]}', "Infinity is no JSON number"),
        ('{"a": -Infinity}', "-Infinity is no JSON number"),
        ('{"a": 1, "b": 2, "a": 1}', "the name 'a' stands there twice"),
        ('{"a": [{"b": 1, "b": 2}]}', "the name 'b' stands there twice"),
        (r'{"a": "\ud83d"}', "half a surrogate pair"),
        (r'{"a": [{"b": "x\uDE00"}]}', "half a surrogate pair"),
        (r'{"\udC00": 1}', "half a surrogate pair"),
        (r'{"a": "\ude00\ud83d"}', "half a surrogate pair"),
        ('{"a": ' + "[" * 5_000 + "]" * 5_000 + "}", "nested too deep"),
        ('{"a": ' * 100_000, "nested too deep"),
        ('{"a": ' + "1" * 5_000 + "}", "no JSON: "),  # more digits than Python reads
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_broken_line_is_a_reason_among_good_ones(
    jsonl: Path, line: str | bytes, reason: str
) -> None:
    line = line.encode() if isinstance(line, str) else line
    good, bad, after = rows_of(jsonl, b'{"a": 1}\n' + line + b'\n{"b": 2}\n')
    assert (good, bad[0], after) == ((1, {"a": 1}), 2, (3, {"b": 2}))
    assert reason in bad[1]


def test_a_line_that_is_too_long_is_skipped_to_its_end(jsonl: Path) -> None:
    longest = b'{"a": "' + b"x" * (MAX_LINE_BYTES - 10) + b'"}\n'
    assert len(longest) == MAX_LINE_BYTES
    with jsonl.open("wb") as file:
        file.write(longest)
        file.write(b'{"a": "' + b"x" * 2 * MAX_LINE_BYTES + b'"}\n')
        file.write(b'{"a": 3}\n')
        file.write(longest.replace(b"\n", b" \n"))
        file.write(b'{"a": 5}')
    (_, first), *others = read_rows(jsonl)
    assert first == {"a": "x" * (MAX_LINE_BYTES - 10)}
    assert [number for number, _ in others] == [2, 3, 4, 5]
    assert [row for _, row in others[1::2]] == [{"a": 3}, {"a": 5}]
    assert all(TOO_LONG in str(row) for _, row in others[::2])
    assert count_rows(jsonl) == 5


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r'"\ud83d\ude00"', "😀"),
        ('"😀"', "😀"),
        (r'"\\ud83d"', r"\ud83d"),  # a backslash and a word
        (r'["\\ud83d", "\ud83d\ude00"]', [r"\ud83d", "😀"]),
        ("123456789012345678901234567890", 123456789012345678901234567890),
        ("[1, 1.0, 1e-100, true, null]", [1, 1.0, 1e-100, True, None]),
        ('{"a": {"a": 1}, "b": {"a": 2}}', {"a": {"a": 1}, "b": {"a": 2}}),
    ],
)
def test_json_is_read_by_the_letter(text: str, value: Any) -> None:
    assert repr(parse_json(text)) == repr(value)


# ---- CSV: types ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["1", "-2", "+3", "0"], [1, -2, 3, 0]),
        (["9223372036854775808", "-1"], [9223372036854775808, -1]),
        (["1234567890123456789", "9" * 60], [1234567890123456789, int("9" * 60)]),
        (["1", "", "3"], [1, None, 3]),
        (["", ""], [None, None]),
        (["1.5", "-2.25", "4"], [1.5, -2.25, 4.0]),
        (["4", "1.5"], [4.0, 1.5]),
        ([".5", "5.", "-.5", "1e5", "1E+2", "25e-1"], [0.5, 5.0, -0.5, 1e5, 100.0, 2.5]),
        (["1e-100", "2"], [1e-100, 2.0]),
        (["5e-324", "", "1.7976931348623157e+308"], [5e-324, None, 1.7976931348623157e308]),
        # Beside fractions an integer that no float can hold stays one.
        (["1.5", "9007199254740993"], [1.5, 9007199254740993]),
        (["-9007199254740993", "1.5"], [-9007199254740993, 1.5]),
        (["9007199254740992", "1.5"], [9007199254740992.0, 1.5]),
        (["true", "FALSE", "", "True"], [True, False, None, True]),
        # What is not of one type is text, as it was written.
        (["7", "007"], ["7", "007"]),
        (["007", "7"], ["007", "7"]),
        (["00"], ["00"]),
        (["-01.5"], ["-01.5"]),
        (["1", "true"], ["1", "true"]),
        (["1.5", "false"], ["1.5", "false"]),
        (["1", "x", "2", "1.5"], ["1", "x", "2", "1.5"]),
        (["1", "1e999"], ["1", "1e999"]),
        (["nan", "1.5"], ["nan", "1.5"]),
        (["1.5", "-inf"], ["1.5", "-inf"]),
        (["1", " 2"], ["1", " 2"]),
        (["1_000"], ["1_000"]),
        (["0x10"], ["0x10"]),
        (["1,5"], ["1,5"]),
        (["٣"], ["٣"]),  # a digit for Python
        (["."], ["."]),
        (["-"], ["-"]),
        (["1e"], ["1e"]),
        (["yes", "no"], ["yes", "no"]),
    ],
    ids=lambda value: ",".join(map(str, value))[:40],
)
def test_a_column_has_the_narrowest_type_of_all_its_cells(
    sheet: Path, cells: list[str], values: list[Any]
) -> None:
    file = io.StringIO()
    csv.writer(file).writerows([("column", "other"), *((cell, "x") for cell in cells)])
    rows = [row for _, row in rows_of(sheet, file.getvalue())]
    expected = [{"column": value, "other": "x"} for value in values]
    for row in expected:
        if row["column"] is None:
            del row["column"]
    assert repr(rows) == repr(expected)  # == takes 1, 1.0 and True for the same


def test_columns_that_have_a_meaning_are_text_whatever_they_look_like(sheet: Path) -> None:
    names = ["key", "modality", "text", "image", "audio", "path", "source", "vector", "metadata"]
    cells = ["1", "1.5", "true", "1e5", "-2", "0", "12", "3", "false"]
    data = ",".join(names) + ",year\n" + ",".join(cells) + ",2024\n"
    expected = dict(zip(names, cells, strict=True)) | {"year": 2024}
    assert rows_of(sheet, data) == [(1, expected)]
    ((_, row),) = rows_of(sheet, "id,key\n1,2\n", texts=("id",))
    assert row == {"id": "1", "key": 2}


def test_rows_that_cannot_be_read_say_nothing_about_the_type_of_a_column(sheet: Path) -> None:
    rows = rows_of(sheet, b"a,b\n1,x\ny,z,z\nt\xe9,x\n2,x\n")
    assert [row["a"] for _, row in (rows[0], rows[3])] == [1, 2]


# ---- CSV: rows -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "rows"),
    [
        ("a,b\n1,2\n", [{"a": 1, "b": 2}]),
        ("a;b\n1;2,5\n", [{"a": 1, "b": "2,5"}]),
        ("a\tb\n1\t2;5\n", [{"a": 1, "b": "2;5"}]),
        ("a,b;c\n1,2\n", [{"a": 1, "b;c": 2}]),
        ("a\n1;2\n", [{"a": "1;2"}]),
        ("\ufeffa,b\r\n1,2\r\n", [{"a": 1, "b": 2}]),
        ('\ufeff"a",b\n1,2', [{"a": 1, "b": 2}]),
        ('a,b\n"x\n\ny","z, ""q"""\n1,2\n', [{"a": "x\n\ny", "b": 'z, "q"'}, {"a": "1", "b": "2"}]),
        ('a,b\n"x\r\ny",1\n', [{"a": "x\r\ny", "b": 1}]),
        ("a,b\n\n1,2\n\r\n3,4\n\n", [{"a": 1, "b": 2}, {"a": 3, "b": 4}]),
        ("a,b\n1\n,2\n,\n", [{"a": 1}, {"b": 2}, {}]),
        (" a ,,b\n1,2,3\n", [{"a": 1, "b": 3}]),
        ("a,,\n1,2,3\n", [{"a": 1}]),
        ("a,b\n", []),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_csv_is_read_as_spreadsheets_write_it(sheet: Path, data: str, rows: list[Any]) -> None:
    # Numbered by rows: a spreadsheet does not show how many lines a row has in the file.
    assert rows_of(sheet, data) == list(enumerate(rows, start=1))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b"1,2,3", "3 cells under 2 columns"),
        (b"1,2,", "3 cells under 2 columns"),
        (b"caf\xe9,2", "no UTF-8"),
        (b'"x"y,2', "no CSV: "),
        (b'"x\n"y,2', "no CSV: "),
    ],
)
def test_a_bad_row_of_csv_is_a_reason_among_good_ones(sheet: Path, row: bytes, reason: str) -> None:
    good, bad, after = rows_of(sheet, b"a,b\n1,2\n" + row + b"\n3,4\n")
    assert (good, after) == ((1, {"a": 1, "b": 2}), (3, {"a": 3, "b": 4}))
    assert bad[0] == 2
    assert reason in bad[1]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_bad_row_of_csv_tells_the_line_on_which_it_begins(sheet: Path, end: str) -> None:
    lines = ["a,b", "", '"x', "", 'y",1', "1,2,3", '"x"y,2', '1,"x', 'y",3', "1,\xe9", '"5', "6"]
    rows = rows_of(sheet, end.join(lines).encode("latin-1"))
    told = [row.rpartition(" (the row begins on ")[2] for _, row in rows if isinstance(row, str)]
    assert told == ["line 6)", "line 7)", "line 8)", "line 10)", "line 11)"]
    assert [number for number, _ in rows] == [1, 2, 3, 4, 5, 6]


def test_a_quote_that_is_never_closed_is_a_reason_after_the_good_rows(sheet: Path) -> None:
    good, bad = rows_of(sheet, 'a,b\n1,2\n"3,4\n5,6\n')
    assert good == (1, {"a": 1, "b": 2})
    assert bad[0] == 2
    assert "no CSV: a quote is left open, and all that follows is in it" in bad[1]


def test_a_cell_is_as_long_as_a_line_may_be(sheet: Path) -> None:
    # The module csv gives up at 128 KiB by default.
    text = "x" * 1_000_000
    assert rows_of(sheet, f"a,b\n{text},1\n") == [(1, {"a": text, "b": 1})]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no line with the names of the columns"),
        (b"\na,b\n1,2\n", "no line with the names of the columns"),
        (b" ,\n1,2\n", "no line with the names of the columns"),
        (b"a,b,a\n1,2,3\n", "two columns are called 'a'"),
        (b"a,b, a\n1,2,3\n", "two columns are called 'a'"),
        (b"a,caf\xe9\n1,2\n", "no UTF-8"),
        (b"a,b\0\n1,2\n", "no UTF-8"),
        ("a,b\n1,2\n".encode("utf-16"), "no UTF-8"),
        (b'a,"b\n1,2\n', "no CSV: "),
        (b"a,b\n1,2\n" + b"x" * (MAX_LINE_BYTES + 1), TOO_LONG),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_csv_table_without_good_columns_is_refused(sheet: Path, data: bytes, reason: str) -> None:
    sheet.write_bytes(data)
    check_unreadable(sheet, reason)


# ---- Parquet ---------------------------------------------------------------------------------


def test_rows_of_parquet_are_numbered_across_its_batches(tmp_path: Path) -> None:
    count = 2 * BATCH_ROWS + 3
    path = tmp_path / "rows.PARQUET"  # a suffix is one in capitals too
    table = pa.table({"a": range(count), "b": ["x"] * count})
    pq.write_table(table, path, row_group_size=700)
    assert parquet_columns(path) == ["a", "b"]
    assert count_rows(path) == count
    assert list(read_rows(path)) == [(n + 1, {"a": n, "b": "x"}) for n in range(count)]


@pytest.mark.parametrize("damage", ["half", "magic", "empty", "text"])
def test_a_damaged_parquet_table_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"a": range(1_000)}), path)
    whole = path.read_bytes()
    broken = {"half": whole[: len(whole) // 2], "magic": whole[:-4] + b"PAR2"}
    path.write_bytes({**broken, "empty": b"", "text": b'{"a": 1}\n' * 9}[damage])
    check_unreadable(path, "Parquet")
    with pytest.raises(UnreadableFile, match=r"rows\.parquet: .*Parquet"):
        parquet_columns(path)


def test_what_stands_before_a_damaged_part_of_a_parquet_table_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"a": range(3 * BATCH_ROWS)}), path, row_group_size=BATCH_ROWS)
    column = pq.read_metadata(path).row_group(1).column(0)
    data = bytearray(path.read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    data[start : start + 20] = b"\xff" * 20
    path.write_bytes(data)
    rows = read_rows(path)
    assert [next(rows)[0] for _ in range(BATCH_ROWS)] == list(range(1, BATCH_ROWS + 1))
    with pytest.raises(UnreadableFile, match=r"rows\.parquet: ") as caught:
        next(rows)
    assert caught.value.hint


def test_two_columns_of_one_name_are_refused_in_parquet(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    columns = [pa.array([1]), pa.array([2])]
    pq.write_table(pa.Table.from_arrays(columns, names=["a", "a"]), path)
    with pytest.raises(UnreadableFile, match="two columns are called 'a'"):
        list(read_rows(path))


# ---- files -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.ndjson", "rows.csv", "rows.parquet"])
@pytest.mark.parametrize("kind", ["missing", "a folder", "a loop"])
def test_what_is_no_file_is_our_error(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / name
    if kind == "a folder":
        path.mkdir()
    elif kind == "a loop":
        path.symlink_to(path)
    reason = {
        "missing": os.strerror(2),
        "a folder": "directory",
        "a loop": "symbolic links",
    }
    check_unreadable(path, reason[kind])
