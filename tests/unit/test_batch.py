"""Batch jobs: the answers of single queries, in files, whatever is killed on the way."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from PIL import Image

from muomni_search import batch, view
from muomni_search.batch import run_batch, write_neighbors
from muomni_search.collection import Collection
from muomni_search.errors import Conflict, InvalidInput, NotFound, UnreadableFile
from muomni_search.items import DIM, Modality, Query, Record
from muomni_search.query_parts import parse_part
from muomni_search.vectors import cosines, normalise

ROWS = 120
VECTORS = normalise(np.random.default_rng(11).standard_normal((ROWS, DIM)))
# Every fifth is the one before it once more, so that there are ties.
VECTORS[5::5] = VECTORS[4:-1:5]
LONG = " ".join(f"Sentence {number} tells of the number {number}." for number in range(20))
ASKED = np.random.default_rng(12).standard_normal((40, DIM)).astype(np.float32)


def records() -> Iterator[Record]:
    # Keys that do not sort as the rows do.
    for number, vector in enumerate(VECTORS):
        yield Record(
            key=f"k{(number * 7) % ROWS:03d}",
            modality=list(Modality)[number % 3],
            origin="test",
            vector=vector,
            metadata={"year": 2000 + number % 10},
        )
    for key, text in (("long one", LONG), ("owl", "an owl at night"), ("007", "a number")):
        yield Record(key=key, modality=Modality.TEXT, origin="test", text=text)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collection]:
    """A collection whose items no test changes."""
    with Collection.create(tmp_path_factory.mktemp("batch") / "shelf", model="hashing") as made:
        made.add(records())
        yield made


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Collection]:
    """A collection to be changed."""
    with Collection.create(tmp_path / "own", model="hashing") as made:
        made.add(records())
        yield made


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "BLOCK_QUERIES", 8)


def write_jsonl(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def errors_of(output: Path) -> dict[Any, str]:
    rows = read_jsonl(output.with_name(output.name + ".errors.jsonl"))
    return {row["query_id"]: row["error"] for row in rows}


def expected(
    collection: Collection, asked: Sequence[tuple[Any, Query]], k: int = 10, **options: Any
) -> list[dict[str, Any]]:
    """Return the rows that one query after the other gives."""
    return [
        {
            "query_id": query_id,
            "rank": hit.rank,
            "key": hit.key,
            "modality": str(hit.modality),
            "score": hit.score,
            "cosine": hit.cosine,
            "how": "exact",
        }
        for query_id, query in asked
        for hit in collection.query(query, k, exact=True, **options)
    ]


def answered(collection: Collection, queries: Path, **options: Any) -> list[dict[str, Any]]:
    output = queries.with_name("answers.jsonl")
    run_batch(collection, queries, output, force=True, **options)
    return read_jsonl(output)


# ---- kinds of queries ------------------------------------------------------------------------


def write_picture(path: Path) -> Path:
    pixels = np.random.default_rng(3).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def write_sound(path: Path) -> Path:
    soundfile.write(path, 0.5 * np.sin(np.arange(80_000) / 7), 16_000)
    return path


KINDS: list[dict[str, Any]] = [
    {"query_id": "words", "text": "owl night"},
    {"query_id": "picture", "image": "picture.png"},
    {"query_id": "sound", "audio": "sound.wav"},
    {"query_id": "item", "id": "k007"},
    {"query_id": "number", "id": "007"},
    {"query_id": "long", "id": "long one"},
    {"query_id": "vector", "vector": ASKED[0].tolist()},
    {"query_id": "sum", "text": "owl", "plus": ["0.5*id:k003", "image:picture.png"]},
    {"query_id": "difference", "id": "k001", "minus": ["text:number", "2*id:k002"]},
]


def queries_of(folder: Path) -> list[tuple[str, Query]]:
    picture, sound = folder / "picture.png", folder / "sound.wav"
    return [
        ("words", Query.text("owl night")),
        ("picture", Query.image(picture)),
        ("sound", Query.audio(sound)),
        ("item", Query.id("k007")),
        ("number", Query.id("007")),
        ("long", Query.id("long one")),
        ("vector", Query.vector(ASKED[0])),
        ("sum", Query.text("owl") + 0.5 * Query.id("k003") + Query.image(picture)),
        ("difference", Query.id("k001") - Query.text("number") - 2.0 * Query.id("k002")),
    ]


def write_kinds(path: Path) -> Path:
    """Write every kind of query in the format of the suffix."""
    write_picture(path.with_name("picture.png"))
    write_sound(path.with_name("sound.wav"))
    if path.suffix == ".jsonl":
        return write_jsonl(path, *KINDS)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(KINDS_IN_COLUMNS), path)
        return path
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for row in KINDS:
            writer.writerow(
                {name: json.dumps(v) if isinstance(v, list) else v for name, v in row.items()}
            )
    return path


COLUMNS = ("query_id", "text", "image", "audio", "id", "vector", "plus", "minus")
KINDS_IN_COLUMNS = [{name: row.get(name) for name in COLUMNS} for row in KINDS]


@pytest.mark.parametrize("name", ["q.jsonl", "q.csv", "q.parquet"])
def test_every_kind_of_query_is_answered_as_on_its_own(
    shelf: Collection, tmp_path: Path, name: str
) -> None:
    queries = write_kinds(tmp_path / name)
    assert answered(shelf, queries) == expected(shelf, queries_of(tmp_path))


def test_a_number_that_no_float_holds_is_its_querys_error(
    shelf: Collection, tmp_path: Path
) -> None:
    huge = {"query_id": "huge", "vector": [10**400] * DIM}
    queries = write_jsonl(tmp_path / "q.jsonl", huge, {"query_id": "good", "id": "k007"})
    assert answered(shelf, queries) == expected(shelf, [("good", Query.id("k007"))])
    assert "not numbers" in errors_of(tmp_path / "answers.jsonl")["huge"]


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("share", [0.0, 0.5, 100.0])
def test_it_is_the_same_whether_items_are_looked_up_or_all_read(
    shelf: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    monkeypatch.setattr(view, "LOOKED_UP_SHARE", share)
    queries = write_kinds(tmp_path / "q.jsonl")
    assert answered(shelf, queries) == expected(shelf, queries_of(tmp_path))


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_a_matrix_is_a_query_a_row(shelf: Collection, tmp_path: Path, kind: Any) -> None:
    np.save(tmp_path / "q.npy", ASKED.astype(kind))
    rows = answered(shelf, tmp_path / "q.npy", k=7)
    assert rows == expected(shelf, [(n, Query.vector(v)) for n, v in enumerate(ASKED)], 7)


def test_ties_come_as_in_single_queries(shelf: Collection, tmp_path: Path) -> None:
    np.save(tmp_path / "q.npy", VECTORS)
    asked = [(number, Query.vector(vector)) for number, vector in enumerate(VECTORS)]
    for k in (1, 2, 3):
        assert answered(shelf, tmp_path / "q.npy", k=k) == expected(shelf, asked, k)


def test_a_row_may_say_k_filter_and_modality_itself(shelf: Collection, tmp_path: Path) -> None:
    queries = write_jsonl(
        tmp_path / "q.jsonl",
        {"id": "k001"},
        {"id": "k001", "k": 2},
        {"id": "k001", "where": "year = 2003"},
        {"id": "k001", "where": {"year": {"$in": [2003, 2004]}}, "k": 50},
        {"id": "k001", "modality": "audio"},
        {"id": "k001", "modality": ["audio", "text"], "where": "key != '007'"},
    )
    common = {"modality": "image", "where": "year > 2005"}
    single = [
        {"k": 4, **common},
        {"k": 2, **common},
        {"k": 4, **common, "where": "year = 2003"},
        {"k": 50, **common, "where": "year in (2003, 2004)"},
        {"k": 4, **common, "modality": "audio"},
        {"k": 4, "modality": ["audio", "text"], "where": "key != '007'"},
    ]
    rows = [
        row
        for number, options in enumerate(single)
        for row in expected(shelf, [(number, Query.id("k001"))], **options)
    ]
    assert answered(shelf, queries, k=4, **common) == rows


@pytest.mark.parametrize("spelled", ["3", "3.0"])
def test_k_in_a_table_may_be_a_number_beside_gaps(
    shelf: Collection, tmp_path: Path, spelled: str
) -> None:
    (tmp_path / "q.csv").write_text(f"id,k\nk001,{spelled}\nk002,\nk003,many\n")
    rows = answered(shelf, tmp_path / "q.csv", k=5)
    counts = Counter(row["query_id"] for row in rows)
    if spelled == "3":
        assert counts == {0: 3, 1: 5}
    else:  # beside "many" the column is text, and "3.0" no whole number
        assert counts == {1: 5}
    assert "k is 'many'" in errors_of(tmp_path / "answers.jsonl")[2]
    pq.write_table(pa.table({"id": ["k001", "k002"], "k": [float(spelled), None]}),
                   tmp_path / "q.parquet")  # fmt: skip
    rows = answered(shelf, tmp_path / "q.parquet", k=5)
    assert Counter(row["query_id"] for row in rows) == {0: 3, 1: 5}


def test_queries_keep_their_names_and_their_order(shelf: Collection, tmp_path: Path) -> None:
    queries = write_jsonl(
        tmp_path / "q.jsonl",
        {"query_id": "z", "id": "k001"},
        {"query_id": 7, "id": "k002"},
        {"id": "k003"},
        {"query_id": "z", "id": "k004"},
    )
    rows = answered(shelf, queries, k=1)
    assert [row["query_id"] for row in rows] == ["z", 7, 2, "z"]


def test_whole_numbers_beside_a_gap_stay_the_names_that_they_are(
    shelf: Collection, tmp_path: Path
) -> None:
    columns = {"query_id": pa.array([5.0, None, np.nan]), "id": ["k001", "k002", "k003"]}
    pq.write_table(pa.table(columns), tmp_path / "q.parquet")
    rows = answered(shelf, tmp_path / "q.parquet", k=1)
    assert [(row["query_id"], type(row["query_id"])) for row in rows] == [
        (5, int),
        (1, int),
        (2, int),
    ]


def test_numbers_in_csv_stay_the_names_that_they_are(shelf: Collection, tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text("query_id,id\n1.10,007\n1.20,k001\n")
    rows = answered(shelf, tmp_path / "q.csv", k=1)
    assert [row["query_id"] for row in rows] == ["1.10", "1.20"]


def test_k_beyond_the_collection_gives_all_of_it(shelf: Collection, tmp_path: Path) -> None:
    queries = write_jsonl(tmp_path / "q.jsonl", {"id": "k001"}, {"text": "owl"})
    rows = answered(shelf, queries, k=10**9)
    items = ROWS + 3
    assert Counter(row["query_id"] for row in rows) == {0: items - 1, 1: items}
    assert rows == expected(shelf, [(0, Query.id("k001")), (1, Query.text("owl"))], 10**9)


def test_blocks_hold_fewer_queries_that_ask_for_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "BLOCK_QUERIES", 4)
    monkeypatch.setattr(batch, "BLOCK_HITS", 100)

    counted = []

    def sizes(*wanted: int, items: int = 1_000) -> list[int]:
        counted.clear()
        tasks = (batch.Task(0, Query(()), k, None, None) for k in wanted)
        return [len(block) for block in batch._blocks(tasks, lambda: counted.append(1) or items)]

    assert sizes(*[1] * 10) == [4, 4, 2]
    assert sizes(*[40] * 5) == [2, 2, 1]
    assert sizes(500, 500, 1, 1) == [1, 1, 2]
    assert sizes(*[10**9] * 4, items=20) == [4]
    assert sizes(26, 1, 1, 1, items=20) == [4]
    assert counted
    # However many there are, a block holds as many queries for so few.
    assert sizes(*[25] * 8) == [4, 4]
    assert not counted


def test_blocks_are_cut_by_items_and_not_by_their_segments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As an earlier version cut them, whose half-done jobs are gone on with.
    long = " ".join(f"word{number}." for number in range(2_000))
    seen: list[int] = []
    real = batch._answer
    monkeypatch.setattr(
        batch,
        "_answer",
        lambda view, block, **more: seen.append(len(block)) or real(view, block, **more),
    )
    with Collection.create(tmp_path / "c", model="hashing") as collection:
        collection.add(Record(f"k{n}", Modality.TEXT, "t", text=f"{n} {long}") for n in range(4))
        assert collection.stats()["segments"] > 3 * 4
        queries = write_jsonl(tmp_path / "q.jsonl", *[{"text": "owl"}] * 4)
        monkeypatch.setattr(batch, "BLOCK_QUERIES", 2)
        monkeypatch.setattr(batch, "BLOCK_HITS", 8)
        batch.run_batch(collection, queries, tmp_path / "o.jsonl", k=100)
    assert seen == [2, 2]


# ---- empty and bad ---------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".trec"])
def test_an_empty_collection_answers_with_nothing(tmp_path: Path, suffix: str) -> None:
    queries = write_jsonl(tmp_path / "q.jsonl", {"text": "owl"}, {"id": "gone"})
    output = tmp_path / f"out{suffix}"
    with Collection.create(tmp_path / "empty", model="hashing") as empty:
        report = run_batch(empty, queries, output)
        assert (report.answered, report.failed) == (1, 1)
        assert write_neighbors(empty, tmp_path / f"graph{suffix}").answered == 0
    if suffix == ".parquet":
        assert pq.read_table(output).num_rows == 0
        assert pq.read_schema(tmp_path / "graph.parquet") == pq.read_schema(output)
    else:
        assert output.read_bytes() == (tmp_path / f"graph{suffix}").read_bytes() == b""


def test_a_file_without_queries_gives_an_empty_output(shelf: Collection, tmp_path: Path) -> None:
    queries = write_jsonl(tmp_path / "q.jsonl")
    assert run_batch(shelf, queries, tmp_path / "out.jsonl").answered == 0
    assert (tmp_path / "out.jsonl").read_bytes() == b""
    assert not (tmp_path / "out.jsonl.errors.jsonl").exists()


BAD: list[tuple[Any, str]] = [
    ({"id": "gone"}, "gone"),
    ({"txt": "owl"}, "without a part"),
    ({"text": ""}, "no words"),
    ({"text": 5}, "text holds 5"),
    ({"image": "gone.png"}, "gone.png"),
    ({"image": "nul\0byte.png"}, "nul"),
    ({"image": "broken.png"}, "broken.png"),
    ({"audio": "empty.wav"}, "empty.wav"),
    ({"vector": [1.0, 2.0]}, "2 numbers"),
    ({"vector": [0.0] * DIM}, "zero"),
    ({"vector": ["x"] * DIM}, "numbers"),
    ({"vector": [[1.0] * DIM] * 2}, "vector"),
    ({"vector": [[1.0], [1.0, 2.0]]}, "vector"),
    ({"id": "k001", "minus": ["id:k001"]}, "cancels out"),
    ({"plus": ["owl"]}, "no part"),
    ({"plus": ["0*text:owl"]}, "weight"),
    ({"text": "owl", "k": 0}, "k is 0"),
    ({"text": "owl", "k": 2.5}, "k is 2.5"),
    ({"text": "owl", "k": True}, "k is True"),
    ({"text": "owl", "k": "9" * 5_000}, "k is '999"),
    ({"text": "owl", "k": 2**63}, "k is 9223372036854775808"),
    ({"text": "owl", "where": "year >"}, "character 7"),
    ({"text": "owl", "where": 5}, "filter"),
    ({"text": "owl", "modality": "smell"}, "smell"),
    ({"text": "owl", "modality": {"a": 1}}, "modality"),
    ({"text": "owl", "query_id": [1]}, "query_id"),
    ([1, 2], "object"),
]


def test_bad_rows_are_written_down_and_the_others_answered(
    shelf: Collection, tmp_path: Path
) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    (tmp_path / "empty.wav").touch()
    rows = [row for bad, _ in BAD for row in ({"id": "k001"}, bad)]
    queries = write_jsonl(tmp_path / "q.jsonl", *rows)
    with queries.open("ab") as file:
        file.write(b'{"text": \n\xff\n{"text": NaN}\n')
    output = tmp_path / "out.jsonl"
    report = run_batch(shelf, queries, output, k=2)
    assert (report.answered, report.failed) == (len(BAD), len(BAD) + 3)
    good = [(2 * number, Query.id("k001")) for number in range(len(BAD))]
    assert read_jsonl(output) == expected(shelf, good, 2)
    errors = errors_of(output)
    for number, (_, told) in enumerate(BAD):
        assert told in errors[2 * number + 1]
    assert list(errors)[len(BAD) :] == [2 * len(BAD) + number for number in range(3)]


def test_bad_rows_of_a_matrix_and_of_csv_are_written_down(
    shelf: Collection, tmp_path: Path
) -> None:
    matrix = ASKED.copy()
    matrix[1, 3], matrix[2] = np.nan, 0
    np.save(tmp_path / "q.npy", matrix)
    report = run_batch(shelf, tmp_path / "q.npy", tmp_path / "m.jsonl")
    assert (report.answered, report.failed) == (len(ASKED) - 2, 2)
    assert errors_of(tmp_path / "m.jsonl").keys() == {1, 2}
    (tmp_path / "q.csv").write_text('id,plus\nk001,\nk002,"[""text:owl"""\nk003,x,y\nk004,\n')
    report = run_batch(shelf, tmp_path / "q.csv", tmp_path / "c.jsonl")
    assert (report.answered, report.failed) == (2, 2)
    assert errors_of(tmp_path / "c.jsonl").keys() == {1, 2}


def test_errors_of_an_earlier_job_go_away_with_it(shelf: Collection, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    run_batch(shelf, write_jsonl(tmp_path / "bad.jsonl", {"id": "gone"}), output)
    assert errors_of(output)
    run_batch(shelf, write_jsonl(tmp_path / "q.jsonl", {"id": "k001"}), output, force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.jsonl", "out.jsonl", "q.jsonl"]


@pytest.mark.parametrize(
    ("name", "content", "error", "told"),
    [
        ("gone.jsonl", None, NotFound, "gone.jsonl"),
        ("q.txt", b"owl", InvalidInput, "q.txt"),
        ("q.parquet", b"no table", UnreadableFile, "q.parquet"),
        ("q.npy", b"no matrix", UnreadableFile, "q.npy"),
        ("q.csv", b"", UnreadableFile, "q.csv"),
        ("narrow.npy", np.ones((3, 7)), InvalidInput, "(3, 7)"),
        ("flat.npy", np.ones(DIM), InvalidInput, "(256,)"),
        ("words.npy", np.array([["a"] * DIM]), InvalidInput, "words.npy"),
    ],
)
def test_a_file_that_holds_no_queries_is_an_error(
    shelf: Collection, tmp_path: Path, name: str, content: Any, error: Any, told: str
) -> None:
    if isinstance(content, np.ndarray):
        np.save(tmp_path / name, content)
    elif content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=r".*" + told.replace("(", r"\(").replace(")", r"\)")):
        run_batch(shelf, tmp_path / name, tmp_path / "out.jsonl")
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(
    ("output", "options", "error"),
    [
        ("out.xlsx", {}, InvalidInput),
        ("gone/out.jsonl", {}, NotFound),
        ("folder.jsonl", {}, InvalidInput),
        ("out.jsonl", {"k": 0}, InvalidInput),
        ("out.jsonl", {"modality": "smell"}, InvalidInput),
        ("out.jsonl", {"where": "year >"}, InvalidInput),
    ],
)
def test_a_job_that_makes_no_sense_is_refused_before_it_begins(
    shelf: Collection, tmp_path: Path, output: str, options: dict[str, Any], error: Any
) -> None:
    queries = write_jsonl(tmp_path / "q.jsonl", {"id": "k001"})
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(error):
        run_batch(shelf, queries, tmp_path / output, **options)
    assert not list(tmp_path.glob("out*"))


def test_paths_may_be_strings(shelf: Collection, tmp_path: Path) -> None:
    queries = write_jsonl(tmp_path / "q.jsonl", {"id": "k001"})
    report = run_batch(shelf, str(queries), str(tmp_path / "out.jsonl"), k=2)
    assert (report.answered, report.output) == (1, tmp_path / "out.jsonl")
    assert write_neighbors(shelf, str(tmp_path / "graph.jsonl"), k=2).failed == 0


# ---- formats of the output -------------------------------------------------------------------


@pytest.mark.usefixtures("small_blocks")
def test_all_formats_tell_the_same(shelf: Collection, tmp_path: Path) -> None:
    np.save(tmp_path / "q.npy", ASKED)
    for suffix in ("jsonl", "parquet", "trec"):
        run_batch(shelf, tmp_path / "q.npy", tmp_path / f"out.{suffix}", k=3)
    rows = read_jsonl(tmp_path / "out.jsonl")
    assert len(rows) == 3 * len(ASKED)
    table = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert table == [{**row, "query_id": str(row["query_id"])} for row in rows]
    run = [line.split(" ") for line in (tmp_path / "out.trec").read_text().splitlines()]
    assert run == [
        [str(row["query_id"]), "Q0", key, str(row["rank"]), str(row["score"]), "muomni"]
        for row in rows
        for key in [row["key"].replace(" ", "%20")]
    ]


def test_a_trec_run_has_six_words_a_line_whatever_the_names(
    own: Collection, tmp_path: Path
) -> None:
    key = "a b\t100%\u00a0ü"
    own.add([Record(key=key, modality=Modality.TEXT, origin="t", vector=VECTORS[0])])
    queries = write_jsonl(
        tmp_path / "q.jsonl", {"query_id": "x y", "vector": VECTORS[0].tolist(), "k": 1}
    )  # fmt: skip
    run_batch(own, queries, tmp_path / "out.trec")
    words = (tmp_path / "out.trec").read_text(encoding="utf-8").split()
    assert words[0] == "x%20y"
    assert words[2] == "a%20b%09100%25%C2%A0ü"
    assert len(words) == 6


# ---- going on --------------------------------------------------------------------------------

CHILD = """
import os, signal, sys
from muomni_search import batch, durable
from muomni_search.collection import Collection
from pathlib import Path

collection, queries, output, log, die_at = sys.argv[1:]
batch.BLOCK_QUERIES = 8
steps, answer = 0, batch._answer

def step_or_die(name):
    global steps
    steps += 1
    if steps == int(die_at):
        os.kill(os.getpid(), signal.SIGKILL)

def answer_and_log(view, block, **options):
    with open(log, "a") as file:
        print(block[0].query_id, file=file)
    return answer(view, block, **options)

durable.step, batch._answer = step_or_die, answer_and_log
with Collection.open(collection) as opened:
    batch.run_batch(opened, Path(queries), Path(output), k=3)
"""


def run_child(*arguments: Any) -> int:
    command = [sys.executable, "-c", CHILD, *map(str, arguments)]
    return subprocess.run(command, check=False, timeout=60).returncode


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_job_killed_again_and_again_ends_with_the_same_bytes_and_repeats_no_block(
    shelf: Collection, tmp_path: Path, suffix: str
) -> None:
    rows: list[Any] = [{"vector": vector.tolist()} for vector in ASKED]
    rows[13] = {"id": "gone"}
    queries = write_jsonl(tmp_path / "q.jsonl", *rows)
    whole, output = tmp_path / f"whole.{suffix}", tmp_path / f"out.{suffix}"
    run_batch(shelf, queries, whole, k=3)
    log = tmp_path / "log"
    log.touch()
    for die_at in range(1, 100, 3):
        finished = {str(8 * int(path.stem)) for path in tmp_path.glob(f"out*.parts/0*.{suffix}")}
        before = len(log.read_text().split())
        code = run_child(shelf.directory, queries, output, log, die_at)
        assert code in (0, -signal.SIGKILL)
        assert finished.isdisjoint(log.read_text().split()[before:])
        assert shelf.verify() == []
        if code == 0:
            break
    assert code == 0
    assert die_at > 12
    assert set(log.read_text().split()) == {"0", "8", "16", "24", "32"}
    assert output.read_bytes() == whole.read_bytes()
    for name in ("whole", "out"):
        assert errors_of(tmp_path / f"{name}.{suffix}").keys() == {13}
    assert not list(tmp_path.glob("*.parts"))


class Stop:
    """A progress during which somebody presses Ctrl-C after some steps."""

    def __init__(self, after: int) -> None:
        self.left = after
        self.steps = 0

    def start(self, total: int | None, label: str) -> None:
        self.total = total

    def advance(self, steps: int = 1) -> None:
        self.steps += steps
        self.left -= 1
        if not self.left:
            signal.raise_signal(signal.SIGINT)

    def finish(self) -> None:
        self.finished = True


@pytest.fixture
def half(shelf: Collection, tmp_path: Path, small_blocks: None) -> Path:
    """The output of a job that was interrupted after two of five blocks."""
    np.save(tmp_path / "q.npy", ASKED)
    stop = Stop(after=2)
    with pytest.raises(KeyboardInterrupt):
        run_batch(shelf, tmp_path / "q.npy", tmp_path / "out.jsonl", progress=stop)
    assert (stop.total, stop.steps, stop.finished) == (len(ASKED), 16, True)
    assert not (tmp_path / "out.jsonl").exists()
    return tmp_path / "out.jsonl"


def test_an_interrupted_job_goes_on_after_its_finished_blocks(
    shelf: Collection, half: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, blocks = batch._answer, []
    monkeypatch.setattr(
        batch, "_answer", lambda *given, **options: blocks.append(1) or answer(*given, **options)
    )
    report = run_batch(shelf, tmp_path / "q.npy", half)
    assert (report.answered, report.resumed_blocks, len(blocks)) == (len(ASKED), 2, 3)
    run_batch(shelf, tmp_path / "q.npy", tmp_path / "whole.jsonl")
    assert half.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


@pytest.mark.parametrize(
    "damaged", ["000000.jsonl", "000001.jsonl", "000000.errors", "000001.sha256"]
)
def test_a_part_that_was_damaged_is_made_again_with_those_after_it(
    shelf: Collection, half: Path, tmp_path: Path, damaged: str
) -> None:
    part = tmp_path / "out.jsonl.parts" / damaged
    part.write_bytes(part.read_bytes()[:-1] + b"?")
    report = run_batch(shelf, tmp_path / "q.npy", half)
    assert report.resumed_blocks == int(damaged[:6])
    run_batch(shelf, tmp_path / "q.npy", tmp_path / "whole.jsonl")
    assert half.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert report.failed == 0


def test_a_job_that_ended_before_its_first_answer_is_in_nobodys_way(
    shelf: Collection, tmp_path: Path
) -> None:
    np.save(tmp_path / "q.npy", ASKED)
    parts = tmp_path / "out.jsonl.parts"
    parts.mkdir()
    (parts / f"{'0' * 64}.job").touch()
    (parts / "000000.errors").touch()
    assert run_batch(shelf, tmp_path / "q.npy", tmp_path / "out.jsonl").answered == len(ASKED)


def test_an_output_without_a_name_is_refused(shelf: Collection, tmp_path: Path) -> None:
    np.save(tmp_path / "q.npy", ASKED)
    with pytest.raises(InvalidInput, match="is a folder"):
        run_batch(shelf, tmp_path / "q.npy", "")


@pytest.mark.parametrize("k", [0, -1, 3.0, "3", None, True, 10**20, np.float64(2)])
def test_a_k_that_is_no_number_of_hits_is_refused(
    shelf: Collection, tmp_path: Path, k: Any
) -> None:
    queries = write_jsonl(tmp_path / "q.jsonl", {"id": "k001"})
    with pytest.raises(InvalidInput, match="k is"):
        run_batch(shelf, queries, tmp_path / "out.jsonl", k=k)
    with pytest.raises(InvalidInput, match="k is"):
        write_neighbors(shelf, tmp_path / "out.jsonl", k=k)
    with pytest.raises(InvalidInput, match="k is more than 1,000,000,000"):
        run_batch(shelf, queries, tmp_path / "out.jsonl", k=10**5_000)
    assert not (tmp_path / "out.jsonl.parts").exists()


def test_a_k_of_numpy_makes_the_same_job(shelf: Collection, tmp_path: Path) -> None:
    queries = write_jsonl(tmp_path / "q.jsonl", {"id": "k001"})
    for number, k in enumerate((np.int64(3), np.uint8(3), 3)):
        report = run_batch(shelf, queries, tmp_path / "out.jsonl", k=k)
        assert report.resumed_blocks == (number > 0)
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 3


def test_a_finished_job_is_not_done_again(
    shelf: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_blocks: None
) -> None:
    rows = [*({"id": f"k{number:03d}"} for number in range(20)), {"id": "gone"}]
    queries = write_jsonl(tmp_path / "q.jsonl", *rows)
    output = tmp_path / "out.jsonl"
    first = run_batch(shelf, queries, output)
    before = output.stat()
    monkeypatch.setattr(batch, "_answer", None)
    again = run_batch(shelf, queries, output, modality=["audio", "image", "text"])
    assert (again.answered, again.failed) == (first.answered, first.failed) == (20, 1)
    assert (first.resumed_blocks, again.resumed_blocks) == (0, 3)
    after = output.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert not list(tmp_path.glob("*.parts"))


def test_an_output_that_was_removed_is_made_again(shelf: Collection, tmp_path: Path) -> None:
    np.save(tmp_path / "q.npy", ASKED)
    output = tmp_path / "out.jsonl"
    run_batch(shelf, tmp_path / "q.npy", output)
    content = output.read_bytes()
    output.unlink()
    run_batch(shelf, tmp_path / "q.npy", output)
    assert output.read_bytes() == content
    output.unlink()
    run_batch(shelf, tmp_path / "q.npy", output, k=2)  # nothing is there to be replaced
    assert len(read_jsonl(output)) == 2 * len(ASKED)


@pytest.mark.parametrize("changed", ["input", "k", "modality", "where"])
def test_what_another_job_began_or_made_is_refused_unless_forced(
    shelf: Collection, half: Path, tmp_path: Path, changed: str
) -> None:
    np.save(tmp_path / "other.npy", ASKED[:9])
    queries = tmp_path / ("other.npy" if changed == "input" else "q.npy")
    options: dict[str, Any] = {
        "input": {}, "k": {"k": 3}, "modality": {"modality": "text"}, "where": {"where": "year > 2"}
    }[changed]  # fmt: skip
    with pytest.raises(Conflict, match="--force"):
        run_batch(shelf, queries, half, **options)
    # The half is still there, and goes on.
    assert run_batch(shelf, tmp_path / "q.npy", half).resumed_blocks == 2
    content = half.read_bytes()
    with pytest.raises(Conflict, match="--force"):
        run_batch(shelf, queries, half, **options)
    assert half.read_bytes() == content
    run_batch(shelf, queries, half, force=True, **options)
    run_batch(shelf, queries, tmp_path / "whole.jsonl", **options)
    assert half.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not list(tmp_path.glob("*.parts"))


@pytest.mark.usefixtures("small_blocks")
def test_a_half_of_an_older_state_of_the_collection_is_refused_unless_forced(
    own: Collection, tmp_path: Path
) -> None:
    np.save(tmp_path / "q.npy", ASKED)
    output = tmp_path / "out.jsonl"
    with pytest.raises(KeyboardInterrupt):
        run_batch(own, tmp_path / "q.npy", output, progress=Stop(after=3))
    own.delete(["k001"])
    with pytest.raises(Conflict, match="--force"):
        run_batch(own, tmp_path / "q.npy", output)
    report = run_batch(own, tmp_path / "q.npy", output, force=True)
    assert report.resumed_blocks == 0
    assert "k001" not in {row["key"] for row in read_jsonl(output)}


@pytest.mark.usefixtures("small_blocks")
def test_another_collection_does_not_go_on_with_the_half(
    half: Path, own: Collection, tmp_path: Path
) -> None:
    with pytest.raises(Conflict, match="--force"):
        run_batch(own, tmp_path / "q.npy", half)
    assert run_batch(own, tmp_path / "q.npy", half, force=True).resumed_blocks == 0


def test_a_file_of_somebody_else_is_not_replaced(shelf: Collection, tmp_path: Path) -> None:
    np.save(tmp_path / "q.npy", ASKED)
    (tmp_path / "out.jsonl").write_text("precious")
    with pytest.raises(Conflict):
        run_batch(shelf, tmp_path / "q.npy", tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_text() == "precious"
    assert not list(tmp_path.glob("*.parts"))


def asks_for_a_picture(folder: Path, seed: int) -> Path:
    """Write the query file that is the same to the byte in each folder, beside its own picture."""
    folder.mkdir()
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    # Of one size and time: only where it lies tells it from another.
    Image.fromarray(pixels).save(folder / "picture.bmp")
    os.utime(folder / "picture.bmp", (1e9, 1e9))
    return write_jsonl(folder / "q.jsonl", {"image": "picture.bmp"})


def test_the_same_queries_beside_another_picture_are_another_job(
    shelf: Collection, tmp_path: Path
) -> None:
    one, other = (asks_for_a_picture(tmp_path / name, seed) for seed, name in enumerate("ab"))
    output = tmp_path / "out.jsonl"
    run_batch(shelf, one, output)
    assert run_batch(shelf, one, output).resumed_blocks == 1
    content = output.read_bytes()
    with pytest.raises(Conflict, match="--force"):
        run_batch(shelf, other, output)
    assert output.read_bytes() == content
    run_batch(shelf, other, output, force=True)
    asked = [(0, Query.image(other.with_name("picture.bmp")))]
    assert read_jsonl(output) == expected(shelf, asked)


def test_a_picture_that_was_changed_in_place_makes_another_job(
    shelf: Collection, tmp_path: Path
) -> None:
    queries = asks_for_a_picture(tmp_path / "a", 0)
    output, picture = tmp_path / "out.jsonl", queries.with_name("picture.bmp")
    run_batch(shelf, queries, output)
    write_picture(picture)
    with pytest.raises(Conflict, match="--force"):
        run_batch(shelf, queries, output)
    assert run_batch(shelf, queries, output, force=True).resumed_blocks == 0
    assert read_jsonl(output) == expected(shelf, [(0, Query.image(picture))])


def test_an_output_that_another_collection_overwrote_is_not_taken_for_done(
    shelf: Collection, own: Collection, tmp_path: Path
) -> None:
    own.delete(["k001"])
    np.save(tmp_path / "q.npy", ASKED)
    output = tmp_path / "out.jsonl"
    run_batch(shelf, tmp_path / "q.npy", output)
    content = output.read_bytes()
    run_batch(own, tmp_path / "q.npy", output, force=True)
    assert output.read_bytes() != content
    # The books of the first still call its job done.
    with pytest.raises(Conflict, match="--force"):
        run_batch(shelf, tmp_path / "q.npy", output)
    assert run_batch(shelf, tmp_path / "q.npy", output, force=True).resumed_blocks == 0
    assert output.read_bytes() == content


@pytest.mark.parametrize("name", ["q.jsonl", "folder/../q.jsonl", "link.jsonl"])
def test_the_file_of_the_queries_is_no_output_whatever_it_is_called(
    shelf: Collection, tmp_path: Path, name: str
) -> None:
    queries = write_jsonl(tmp_path / "q.jsonl", {"text": "owl"})
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.jsonl").symlink_to(queries)
    before = queries.read_bytes()
    with pytest.raises(InvalidInput, match="holds the queries"):
        run_batch(shelf, queries, tmp_path / name, force=True)
    assert queries.read_bytes() == before
    assert not list(tmp_path.glob("*.parts"))


@pytest.mark.parametrize(
    "place",
    ["vectors/out.jsonl", "index/out.trec", "to vectors/x.jsonl", "collection.db-wal.jsonl"],
)
@pytest.mark.parametrize("ask", ["queries", "neighbors"])
def test_no_output_goes_where_the_collection_keeps_its_own_files(
    own: Collection, tmp_path: Path, place: str, ask: str
) -> None:
    (own.directory / "to vectors").symlink_to("vectors")
    before = sorted(own.directory.rglob("*"))
    queries = write_jsonl(tmp_path / "q.jsonl", {"text": "owl"})
    run = {"queries": partial(run_batch, own, queries), "neighbors": partial(write_neighbors, own)}
    with pytest.raises(InvalidInput, match="keeps its own files"):
        run[ask](own.directory / place, force=True)
    assert sorted(own.directory.rglob("*")) == before
    assert own.verify() == []
    # Beside them is a place like any other.
    assert write_neighbors(own, own.directory / "graph.jsonl", k=1).failed == 0
    assert own.verify() == []


@pytest.mark.usefixtures("small_blocks")
def test_one_output_is_made_by_one_job_at_a_time(shelf: Collection, tmp_path: Path) -> None:
    np.save(tmp_path / "q.npy", ASKED)
    output = tmp_path / "out.jsonl"
    refused = []

    class Meanwhile(Stop):
        def advance(self, steps: int = 1) -> None:
            with pytest.raises(Conflict, match="in use"):
                run_batch(shelf, tmp_path / "q.npy", output, force=True)
            refused.append(steps)

    run_batch(shelf, tmp_path / "q.npy", output, progress=Meanwhile(0))
    assert len(refused) == 5
    assert len(read_jsonl(output)) == 10 * len(ASKED)


@pytest.mark.usefixtures("small_blocks")
def test_a_job_sees_one_state_of_the_collection_whatever_others_write(
    own: Collection, tmp_path: Path
) -> None:
    np.save(tmp_path / "q.npy", ASKED)
    run_batch(own, tmp_path / "q.npy", tmp_path / "before.jsonl")

    class Meanwhile(Stop):
        def advance(self, steps: int = 1) -> None:
            own.add(
                Record(key=f"new {n}", modality=Modality.TEXT, origin="t", vector=normalise(vector))
                for n, vector in enumerate(ASKED)
            )
            own.delete(where="year = 2003")

    run_batch(own, tmp_path / "q.npy", tmp_path / "during.jsonl", progress=Meanwhile(0))
    content = (tmp_path / "during.jsonl").read_bytes()
    assert content == (tmp_path / "before.jsonl").read_bytes()


# ---- neighbours ------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("modality", list(Modality))
def test_neighbors_are_those_of_brute_force_without_the_item_itself(
    own: Collection, tmp_path: Path, modality: Modality
) -> None:
    own.delete(["long one", "owl", "007", "k000", "k100"])
    items = {item.key: item for item in own.items()}
    vectors = {item.key: item.vector for item in own.get(sorted(items), vectors=True)}
    output = tmp_path / "graph.jsonl"
    report = write_neighbors(own, output, k=6, modality=modality)
    assert (report.answered, report.failed) == (len(items), 0)
    rows = iter(read_jsonl(output))
    among = [key for key in sorted(items) if items[key].modality == modality]
    for key in sorted(items):
        cosine = dict(
            zip(
                among, cosines(np.stack([vectors[one] for one in among]), vectors[key]), strict=True
            )
        )
        cosine.pop(key, None)
        best = sorted(cosine, key=lambda one: (-cosine[one], one))[:6]
        for rank, one in enumerate(best, start=1):
            row = next(rows)
            assert (row["query_id"], row["rank"], row["key"]) == (key, rank, one)
            assert row["cosine"] == cosine[one]
    assert next(rows, None) is None


def test_neighbors_over_all_modalities_are_those_of_single_queries(
    shelf: Collection, tmp_path: Path
) -> None:
    output = tmp_path / "graph.jsonl"
    write_neighbors(shelf, output, k=5)
    keys = [item.key for item in shelf.items()]
    assert read_jsonl(output) == expected(shelf, [(key, Query.id(key)) for key in keys], 5)


def test_plus_in_csv_is_one_part_or_a_list(shelf: Collection, tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text('plus,minus\nid:k001,\n"[""id:k001"", ""text:owl""]",id:k002\n')
    rows = answered(shelf, tmp_path / "q.csv")
    both = parse_part("id:k001") + parse_part("text:owl") - parse_part("id:k002")
    assert rows == expected(shelf, [(0, Query.id("k001")), (1, both)])


def test_a_collection_that_one_may_only_read_is_searched(
    own: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "q.npy", ASKED)
    run_batch(own, tmp_path / "q.npy", tmp_path / "whole.jsonl")
    # Root may write to everything; what decides is what the system answers.
    monkeypatch.setattr(batch.os, "access", lambda *_: False)
    monkeypatch.setattr(own.store, "write", None)
    run_batch(own, tmp_path / "q.npy", tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_files_of_others_beside_an_output_stay(own: Collection, tmp_path: Path) -> None:
    np.save(tmp_path / "q.npy", ASKED)
    (tmp_path / "out.jsonl.errors.jsonl").write_text("my own notes")
    with pytest.raises(Conflict, match="no list of errors"):
        run_batch(own, tmp_path / "q.npy", tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl.errors.jsonl").read_text() == "my own notes"
    (tmp_path / "other.jsonl.parts").mkdir()
    (tmp_path / "other.jsonl.parts/thesis.txt").write_text("years of work")
    with pytest.raises(Conflict, match="no part of a job"):
        run_batch(own, tmp_path / "q.npy", tmp_path / "other.jsonl", force=True)
    assert (tmp_path / "other.jsonl.parts/thesis.txt").exists()
    queries = write_jsonl(tmp_path / "x.jsonl.errors.jsonl", {"id": "k001"})
    with pytest.raises(InvalidInput, match="holds the queries"):
        run_batch(own, queries, tmp_path / "x.jsonl")


@pytest.mark.parametrize("gap", [None, float("nan")])
def test_a_gap_among_numbers_asks_for_as_many_as_the_others(
    shelf: Collection, tmp_path: Path, gap: float | None
) -> None:
    pq.write_table(pa.table({"id": ["k001", "k002"], "k": [1.0, gap]}), tmp_path / "q.parquet")
    report = run_batch(shelf, tmp_path / "q.parquet", tmp_path / "a.jsonl", k=2)
    assert (report.answered, report.failed) == (2, 0)
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 3
