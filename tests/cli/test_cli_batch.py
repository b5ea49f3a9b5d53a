"""`muomni batch` and `muomni neighbors`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from cli_helpers import Run, answers
from vector_helpers import rows_of

from muomni_search import Collection, Modality, Record
from muomni_search.index import planner

FIELDS = ["query_id", "rank", "key", "modality", "score", "cosine", "how"]


def write_queries(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_batch_answers_each_query_in_the_order_of_the_file(
    muomni: Run, shared: Path, tmp_path: Path
) -> None:
    queries = write_queries(
        tmp_path / "q.jsonl",
        {"query_id": "b", "text": "a dog barks at the postman"},
        {"query_id": "a", "id": "red.png"},
    )
    (report,) = answers(muomni("batch", queries, "-o", "out.jsonl", "-k", "3", "-c", shared))
    assert report["answered"] == 2
    assert report["failed"] == 0
    rows = lines(tmp_path / "out.jsonl")
    assert [list(row) for row in rows] == [FIELDS] * 6
    assert [(row["query_id"], row["rank"]) for row in rows] == [
        ("b", 1), ("b", 2), ("b", 3), ("a", 1), ("a", 2), ("a", 3),
    ]  # fmt: skip
    assert rows[0]["key"] == "dog.txt"
    assert "red.png" not in {row["key"] for row in rows[3:]}


def test_batch_agrees_with_search(muomni: Run, shared: Path, tmp_path: Path) -> None:
    queries = write_queries(tmp_path / "q.jsonl", {"text": "owl night"})
    ask = ("--modality", "text", "--where", "key != 'dog.txt'", "-k", "3", "-c", shared)
    answers(muomni("batch", queries, "--output", "out.jsonl", *ask))
    hits = answers(muomni("search", "owl night", *ask))
    lacking = muomni("batch", queries, "-o", "x.jsonl", "--where", "nn = 3", "-c", shared)
    assert "no item has the field nn" in lacking.stderr
    rows = lines(tmp_path / "out.jsonl")
    assert [(row["key"], row["score"], row["cosine"]) for row in rows] == [
        (hit["key"], hit["score"], hit["cosine"]) for hit in hits
    ]


def test_bad_rows_are_written_down_and_make_the_exit_code_1(
    muomni: Run, shared: Path, tmp_path: Path
) -> None:
    queries = write_queries(
        tmp_path / "q.jsonl",
        {"query_id": "good", "text": "owl"},
        {"query_id": "bad", "id": "missing.txt"},
    )
    result = muomni("batch", queries, "-o", "out.jsonl", "-c", shared)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert "out.jsonl.errors.jsonl" in line
    assert {row["query_id"] for row in lines(tmp_path / "out.jsonl")} == {"good"}
    (error,) = lines(tmp_path / "out.jsonl.errors.jsonl")
    assert error["query_id"] == "bad"
    assert "missing.txt" in error["error"]


def test_the_output_of_another_job_is_replaced_only_with_force(
    muomni: Run, shared: Path, tmp_path: Path
) -> None:
    first = write_queries(tmp_path / "a.jsonl", {"text": "owl"})
    second = write_queries(tmp_path / "b.jsonl", {"text": "dog"})
    answers(muomni("batch", first, "-o", "out.jsonl", "-c", shared))
    before = (tmp_path / "out.jsonl").read_bytes()
    result = muomni("batch", second, "-o", "out.jsonl", "-c", shared)
    assert result.exit_code == 1
    assert "--force" in result.stderr
    assert (tmp_path / "out.jsonl").read_bytes() == before
    answers(muomni("batch", second, "-o", "out.jsonl", "--force", "-c", shared))
    assert (tmp_path / "out.jsonl").read_bytes() != before


def test_neighbors_writes_the_graph_of_all_items(muomni: Run, shared: Path, tmp_path: Path) -> None:
    assert muomni("neighbors", "-k", "2", "-o", "graph.parquet", "-c", shared).exit_code == 0
    rows = pq.read_table(tmp_path / "graph.parquet").to_pylist()
    assert len(rows) == 8 * 2
    assert all(row["query_id"] != row["key"] for row in rows)
    (report,) = answers(
        muomni("neighbors", "-o", "pictures.jsonl", "--modality", "image", "-c", shared)
    )
    assert report["answered"] >= 2
    assert {row["modality"] for row in lines(tmp_path / "pictures.jsonl")} == {"image"}


def test_both_go_by_the_index_on_demand(
    muomni: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planner, "EXACT_ROWS", 1_000)
    monkeypatch.setattr(planner, "COMPARING_TIME", 0)
    monkeypatch.setattr(planner, "RUNAWAY_SHARE", 0.5)
    with Collection.create(tmp_path / "c", model="hashing") as collection:
        collection.add(
            Record(f"{number:04}", Modality.IMAGE, "made up", vector=row)
            for number, row in enumerate(rows_of(3_000, 1))
        )
    np.save(tmp_path / "q.npy", rows_of(50, 2))
    for command in (["batch", "q.npy"], ["neighbors", "-k", "3"]):
        for options, expected in (([], {"exact"}), (["--ann"], {"exact", "ann"})):
            output = f"{command[0]}{len(options)}.parquet"
            answers(muomni(*command, *options, "-o", output, "-c", "c"))
            how = pq.read_table(tmp_path / output)["how"].to_pylist()
            assert set(how) | {"exact"} == expected


def test_a_wrong_call_exits_with_2(muomni: Run, shared: Path, tmp_path: Path) -> None:
    queries = write_queries(tmp_path / "q.jsonl", {"text": "owl"})
    for arguments in (
        ["batch", "missing.jsonl", "-o", "out.jsonl"],
        ["batch", queries],
        ["batch", queries, "-o", "out.jsonl", "-k", "0"],
        ["neighbors"],
        ["neighbors", "-o", "g.parquet", "-k", "0"],
    ):
        assert muomni(*arguments, "-c", shared).exit_code == 2


def test_an_unknown_suffix_is_an_error(muomni: Run, shared: Path, tmp_path: Path) -> None:
    queries = write_queries(tmp_path / "q.jsonl", {"text": "owl"})
    for call in (["batch", queries, "-o", "out.xlsx"], ["neighbors", "-o", "out.xlsx"]):
        result = muomni(*call, "-c", shared)
        assert result.exit_code == 1
        assert "out.xlsx" in result.stderr
        assert not (tmp_path / "out.xlsx").exists()


def test_duplicates_are_listed_by_group(muomni: Run, collection: Path, tmp_path: Path) -> None:
    table = tmp_path / "more.jsonl"
    rows = [{"key": f"again/{n}", "text": "a dog barks at the postman"} for n in range(3)]
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    answers(muomni("add", table, "-c", collection))
    group, *_ = answers(muomni("duplicates", "--above", "0.99", "-c", collection))
    assert group["modality"] == "text"
    assert {f"again/{n}" for n in range(3)} <= {item["key"] for item in group["items"]}
    assert all(item["cosine"] >= 0.99 for item in group["items"])
    only = muomni("duplicates", "--modality", "audio", "-c", collection)
    assert (only.exit_code, answers(only)) == (0, [])
    assert muomni("duplicates", "--above", "2", "-c", collection).exit_code == 2
