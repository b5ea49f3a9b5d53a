"""The commands that look after collections: stats, rebuild, verify, export, import, drop, …."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from cli_helpers import Run, answers, on_terminal, plain

from muomni_search import Collection
from muomni_search.cli.main import COMMANDS
from muomni_search.index.faiss_index import blas_core

MINUTE = r"\d{4}-\d\d-\d\d \d\d:\d\d"


def test_stats_is_one_object(muomni: Run, shared: Path) -> None:
    (stats,) = answers(muomni("stats", "-c", shared))
    assert stats["items"] == 8
    assert stats["model"]["name"] == "hashing"
    assert stats["blas"] is None
    assert stats["text"]["items"] == 4
    assert stats["text"]["segments"] > 4
    for modality in ("text", "image", "audio"):
        assert stats[modality]["bytes"] >= stats[modality]["segments"] * 1024
        assert stats[modality]["index"]["kind"] == "exact"
        assert stats[modality]["model"]["name"] == "hashing"


def test_rebuild_tells_what_each_modality_has(muomni: Run, collection: Path) -> None:
    (built,) = answers(muomni("rebuild", "-c", collection))
    assert {name: index["kind"] for name, index in built.items()} == dict.fromkeys(
        ("text", "image", "audio"), "exact"
    )
    (built,) = answers(muomni("rebuild", "--modality", "text", "-c", collection))
    assert list(built) == ["text"]
    assert muomni("rebuild", "--kind", "best", "-c", collection).exit_code == 2


def test_tune_tells_what_each_index_holds_to(muomni: Run, collection: Path) -> None:
    (tuned,) = answers(muomni("tune", "--recall", "0.99", "--memory", "2 GB", "-c", collection))
    assert {name: (one["kind"], one["promise"], one["why"]) for name, one in tuned.items()} == (
        dict.fromkeys(("text", "image", "audio"), ("exact", None, None))
    )
    assert answers(muomni("rebuild", "--kind", "ann", "--modality", "text", "-c", collection))
    (stats,) = answers(muomni("stats", "-c", collection))
    promise = stats["text"]["index"]["promise"]
    assert (promise["recall"], promise["k"]) == (0.99, 10)
    assert all(one["low"] <= one["recall"] <= 1 for one in promise["measured"].values())
    assert stats["blas"] == blas_core()
    hits = answers(muomni("search", "owl", "-c", collection))
    assert {hit["recall"] for hit in hits if hit["how"] == "exact"} <= {1.0}
    assert {hit["recall"] for hit in hits if hit["how"] == "ann"} <= {0.99}


def test_a_person_is_told_of_the_promise_its_date_and_the_processor(
    muomni: Run, collection: Path
) -> None:
    assert answers(muomni("rebuild", "--kind", "ann", "--modality", "text", "-c", collection))
    for command in ("stats", "tune"):
        code, shown = on_terminal(command, "-c", collection)
        assert code == 0
        told = (
            rf"text is searched with a recall@10 of 0\.95, measured {MINUTE} UTC: "
            r"(0\.9[5-9]\d\d|1\.0000), surely (0\.9[5-9]\d\d|1\.0000), at worst"
        )
        assert re.search(told, plain(shown))
        assert (f"FAISS multiplies as on {blas_core()}" in plain(shown)) is (command == "stats")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--recall", "0"],
        ["--recall", "1.5"],
        ["--recall", "nan"],
        ["--memory", "much"],
        ["--memory", "-2GB"],
        ["--memory", "0.5"],
    ],
)
def test_a_promise_that_is_none_is_refused(muomni: Run, shared: Path, arguments: list[str]) -> None:
    result = muomni("tune", *arguments, "-c", shared)
    assert (result.exit_code, "Traceback" in result.stderr) == (2, False)


def test_fields_tells_what_a_filter_can_ask_for(muomni: Run, tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text(
        '{"key": "a", "text": "owl", "year": 2000, "place": {"a city": "Ulm"}, "tags": ["x"]}\n'
        '{"key": "b", "text": "cat", "year": "old", "and": 1}\n'
    )
    answers(muomni("add", "t.jsonl", "--model", "hashing", "-c", "c"))
    (fields,) = answers(muomni("fields", "--index", "year", "-c", "c"))
    assert fields == {
        '"and"': {"items": 1, "types": {"number": 1}, "indexed": False},
        'place."a city"': {"items": 1, "types": {"string": 1}, "indexed": False},
        "tags": {"items": 1, "types": {"array": 1}, "indexed": False},
        "year": {"items": 2, "types": {"number": 1, "string": 1}, "indexed": True},
    }
    for field in fields:
        answers(muomni("fields", "--index", field, "-c", "c"))
        answers(muomni("search", "owl", "--where", f"{field} is not null", "-c", "c"))
    (fields,) = answers(muomni("fields", "--drop", "year", "-c", "c"))
    assert [name for name, one in fields.items() if not one["indexed"]] == ["year"]
    for wrong in (["--drop", "year"], ["--index", "key"], ["--index", "a b"], ["--drop", ""]):
        result = muomni("fields", *wrong, "-c", "c")
        assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    # All or nothing.
    for wrong in (["--index", "year", "--drop", "none"], ["--index", "year", "--index", "key"]):
        assert muomni("fields", *wrong, "-c", "c").exit_code == 1
        assert answers(muomni("fields", "-c", "c")) == [fields]
    (fields,) = answers(muomni("fields", "--index", "year", "--drop", "tags", "-c", "c"))
    assert [name for name, one in fields.items() if not one["indexed"]] == ["tags"]


def test_metadata_called_like_a_column_is_asked_for_from_the_root(
    muomni: Run, tmp_path: Path
) -> None:
    (tmp_path / "t.jsonl").write_text(
        '{"key": "a", "text": "owl", "source": "BBC", "metadata": {"key": 7, "year": 2000}}\n'
        '{"key": "b", "text": "cat", "source": "ARD", "metadata": {"key": 8, "year": 2001}}\n'
    )
    answers(muomni("add", "t.jsonl", "--model", "hashing", "-c", "c"))
    (fields,) = answers(muomni("fields", "--index", "$.source", "-c", "c"))
    assert {name: one["indexed"] for name, one in fields.items()} == {
        "$.key": False,
        "$.source": True,
        "year": False,
    }

    def keys(where: str) -> list[str]:
        return [one["key"] for one in answers(muomni("list", "--where", where, "-c", "c"))]

    assert keys("$.source = 'BBC' and $.year = 2000") == ["a"]
    assert keys("$.key > 7") == ["b"]
    # By its name alone a column stays the item's own.
    assert keys("key = 'b' and source is null") == ["b"]
    result = muomni("fields", "--index", "source", "-c", "c")
    assert (result.exit_code, "metadata of this name is $.source" in result.stderr) == (1, True)
    told = "no item has the field $.added: see: muomni fields\n"
    assert muomni("list", "--where", "$.added = 1", "-c", "c").stderr == told


def test_an_index_of_a_field_that_nothing_has_is_told_of_and_no_field(
    muomni: Run, tmp_path: Path
) -> None:
    (tmp_path / "t.jsonl").write_text('{"key": "a", "text": "owl", "year": 2000}\n')
    answers(muomni("add", "t.jsonl", "--model", "hashing", "-c", "c"))
    told = "no item has the field yeer: did you mean year?\n"
    assert muomni("fields", "--index", "yeer", "--index", "year", "-c", "c").stderr == told
    assert muomni("list", "--where", "yeer > 3", "-c", "c").stderr == told


def test_answers_are_the_same_after_a_rebuild(muomni: Run, collection: Path) -> None:
    before = answers(muomni("search", "owl", "-c", collection))
    answers(muomni("rebuild", "-c", collection))
    assert answers(muomni("search", "owl", "-c", collection)) == before


def test_verify_of_a_whole_collection(muomni: Run, shared: Path) -> None:
    assert answers(muomni("verify", "-c", shared)) == [{"ok": True, "problems": []}]


def test_a_backup_is_a_collection_like_any_other(
    muomni: Run, collection: Path, tmp_path: Path
) -> None:
    (done,) = answers(muomni("backup", tmp_path / "copy", "-c", collection))
    assert (done["items"], done["bytes"] > 8 * 1024) == (8, True)
    assert answers(muomni("verify", "-c", tmp_path / "copy"))[0]["ok"]
    found = answers(muomni("search", "owl", "-c", tmp_path / "copy"))
    assert found == answers(muomni("search", "owl", "-c", collection))
    again = muomni("backup", tmp_path / "copy", "-c", collection)
    assert again.exit_code == 1
    assert "not empty" in again.stderr


def test_compact_tells_what_it_gave_back(muomni: Run, collection: Path) -> None:
    before = answers(muomni("search", "owl", "-k", "3", "-c", collection))
    doomed = [item["key"] for item in answers(muomni("list", "-c", collection))]
    doomed = [key for key in doomed if key not in {hit["key"] for hit in before}]
    answers(muomni("delete", doomed[0], "-c", collection))
    (done,) = answers(muomni("compact", "-c", collection))
    assert list(done) == ["text", "image", "audio", "bytes_before", "bytes_after", "remains"]
    rows = {name: (done[name]["rows_before"], done[name]["rows_after"]) for name in list(done)[:3]}
    assert sum(old - new for old, new in rows.values()) > 0
    assert done["bytes_after"] < done["bytes_before"]
    assert done["remains"] == []
    assert answers(muomni("verify", "-c", collection))[0]["ok"]
    found = answers(muomni("search", "owl", "-k", "3", "-c", collection))
    assert [hit["key"] for hit in found] == [hit["key"] for hit in before]


def test_compact_says_what_a_reader_keeps(
    muomni: Run, collection: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("muomni_search.store.store.READER_SECONDS", 0.01)
    with Collection.open(collection) as other, other.view():
        result = muomni("compact", "-c", collection)
    (done,) = answers(result)
    assert done["remains"]
    assert "collection.db-wal" in result.stderr


def is_anywhere(directory: Path, content: str) -> bool:
    paths = [path for path in directory.rglob("*") if path.is_file()]
    return any(content.encode() in path.read_bytes() for path in paths)


def test_purge_leaves_nothing_and_may_be_run_again(muomni: Run, collection: Path) -> None:
    assert is_anywhere(collection, "notes/owl.md")
    assert answers(muomni("purge", "notes/owl.md", "-f", "-c", collection)) == [
        {"purged": 1, "absent": [], "remains": []}
    ]
    assert not is_anywhere(collection, "notes/owl.md")
    assert not is_anywhere(collection, "An owl calls")
    result = muomni("purge", "notes/owl.md", "-f", "-c", collection)
    assert answers(result)[0]["absent"] == ["notes/owl.md"]
    assert "notes/owl.md was not there" in result.stderr
    assert answers(muomni("purge", "--where", "key = 'dog.txt'", "-f", "-c", collection))[0][
        "purged"
    ]
    answers(muomni("delete", "notes/sea.txt", "-c", collection))
    assert answers(muomni("purge", "-f", "-c", collection))[0]["purged"] == 0
    assert not is_anywhere(collection, "Waves roll")
    assert len(answers(muomni("list", "-c", collection))) == 5
    assert answers(muomni("verify", "-c", collection))[0]["ok"]


def test_purge_asks(muomni: Run, collection: Path) -> None:
    for answer in ("n\n", ""):
        for what, told in (
            (("dog.txt",), "Purge 1 key and all"),
            (("--where", "key = 'x'"), "Purge 0 items that the filter matches and all"),
        ):
            result = muomni("purge", *what, "-c", collection, answer=answer)
            assert result.exit_code == 1
            assert told in result.stderr
            assert "-f" in result.stderr.splitlines()[-1]
    result = muomni("purge", "dog.txt", "--where", "key = 'x'", "-f", "-c", collection)
    assert result.exit_code == 2
    assert "not both" in result.stderr
    assert len(answers(muomni("list", "-c", collection))) == 8
    assert muomni("purge", "dog.txt", "-c", collection, answer="y\n").exit_code == 0
    assert len(answers(muomni("list", "-c", collection))) == 7


def test_purge_says_what_remains_and_how_to_finish(
    muomni: Run, collection: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("muomni_search.store.store.READER_SECONDS", 0.01)
    with Collection.open(collection) as other, other.view():
        result = muomni("purge", "dog.txt", "-f", "-c", collection)
        assert result.exit_code == 1
        assert '"purged": 1' in result.stdout
        (line,) = result.stderr.splitlines()
        assert "collection.db-wal" in line
        assert "the same command again" in line
        assert is_anywhere(collection, "barks at the postman")
    (again,) = answers(muomni("purge", "dog.txt", "-f", "-c", collection))
    assert again == {"purged": 0, "absent": ["dog.txt"], "remains": []}
    assert not is_anywhere(collection, "barks at the postman")


def test_verify_finds_what_was_altered_and_repair_mends_it(
    muomni: Run, collection: Path, corpus: Path
) -> None:
    (row_file,) = (collection / "vectors").glob("image.*")
    content = bytearray(row_file.read_bytes())
    content[100] ^= 0xFF
    row_file.write_bytes(content)
    result = muomni("verify", "-c", collection)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("muomni: error: ")
    assert "muomni verify --repair" in line
    assert '"ok": false' in result.stdout
    assert row_file.name in result.stdout

    result = muomni("verify", "--repair", "-c", collection)
    assert answers(result) == [{"ok": True, "problems": []}]
    assert "repaired: " in result.stderr
    (report,) = answers(muomni("add", corpus, "-c", collection))
    assert report["failed"] == 0
    assert len(answers(muomni("list", "-c", collection))) == 8
    assert answers(muomni("verify", "-c", collection))[0]["ok"]


def test_what_repair_cannot_mend_is_told_with_the_way_out(muomni: Run, collection: Path) -> None:
    path = collection / "collection.db"
    with closing(sqlite3.connect(path)) as database:
        ((page,),) = database.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'segments'")
        ((size,),) = database.execute("PRAGMA page_size")
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)
    for command in (["verify"], ["verify", "--repair"]):
        result = muomni(*command, "-c", collection)
        assert result.exit_code == 1
        assert "muomni export --salvage" in result.stderr.splitlines()[-1]
        told = json.loads(result.stdout)
        assert not told["ok"]
        assert {one["kind"] for one in told["problems"]} >= {"database"}
    # What was saved says that something is lost, as `verify` does.
    assert muomni("export", "saved.parquet", "--salvage", "-c", collection).exit_code == 1


def test_what_is_no_database_is_a_problem_too(muomni: Run, collection: Path) -> None:
    path = collection / "collection.db"
    path.write_bytes(b"words " * 1_000)
    result = muomni("verify", "-c", collection)
    assert result.exit_code == 1
    told = json.loads(result.stdout)
    (problem,) = told.pop("problems")
    assert told == {"ok": False}
    assert (problem["kind"], problem["where"]) == ("database", str(path.absolute()))
    assert "no collection" in problem["detail"]
    assert muomni("verify", "-c", "nowhere").stdout == ""


def test_an_export_needs_a_folder(muomni: Run, shared: Path) -> None:
    result = muomni("export", "nowhere/all.parquet", "-c", shared)
    assert result.exit_code == 1
    assert result.stderr == (
        "muomni: error: nowhere/all.parquet: there is no folder nowhere: make it first\n"
    )


def test_what_is_exported_can_be_imported(muomni: Run, shared: Path, tmp_path: Path) -> None:
    assert answers(muomni("export", "all.parquet", "-c", shared)) == [{"exported": 8}]
    result = muomni("import", "all.parquet", "--create", "--model", "hashing", "-c", "copy")
    (report,) = answers(result)
    assert report["added"] == 8

    def without_date(directory: str | Path) -> list[dict[str, object]]:
        items = answers(muomni("list", "-c", directory))
        return [{**item, "added": None} for item in items]

    assert without_date("copy") == without_date(shared)
    assert answers(muomni("search", "owl", "-c", "copy")) == answers(
        muomni("search", "owl", "-c", shared)
    )
    (report,) = answers(muomni("import", "all.parquet", "--create", "-c", "copy"))
    assert report["unchanged"] == 8


def test_what_is_damaged_is_left_out_of_a_salvage_and_said(muomni: Run, collection: Path) -> None:
    (report,) = answers(muomni("export", "all.parquet", "--salvage", "-c", collection))
    assert report == {"exported": 8, "left_out": []}
    (collection / "vectors/audio.0.f32").unlink()
    assert muomni("export", "all.parquet", "-c", collection).exit_code == 1
    result = muomni("export", "rest.parquet", "--salvage", "-c", collection)
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert report["exported"] == 6
    assert len(report["left_out"]) == 3  # the file, and two sounds
    assert result.stderr.count("left out: ") == 3
    assert "muomni import --create" in result.stderr.splitlines()[-1]
    into = ("--create", "--model", "hashing", "-c", "c")
    (taken,) = answers(muomni("import", "rest.parquet", *into))
    assert taken["added"] == 6


def test_a_salvage_replaces_no_file(muomni: Run, collection: Path, tmp_path: Path) -> None:
    muomni("export", "all.parquet", "-c", collection)
    before = (tmp_path / "all.parquet").read_bytes()
    refused = muomni("export", "all.parquet", "--salvage", "-c", collection)
    assert refused.exit_code == 1
    assert "name another file" in refused.stderr
    assert (tmp_path / "all.parquet").read_bytes() == before


def test_many_that_are_left_out_are_counted(muomni: Run, tmp_path: Path) -> None:
    lines = (f'{{"key": "a: {number}", "text": "owl {number}"}}\n' for number in range(1_200))
    (tmp_path / "t.jsonl").write_text("".join(lines))
    answers(muomni("add", "t.jsonl", "--model", "hashing", "-c", "c"))
    (tmp_path / "c/vectors/text.0.f32").unlink()
    result = muomni("export", "all.parquet", "--salvage", "-c", "c")
    report = json.loads(result.stdout)
    assert len(report["left_out"]) == 1_201  # the file first
    told = [line for line in result.stderr.splitlines() if "left out: " in line]
    assert [line.partition("left out: ")[2] for line in told] == [
        *report["left_out"][:10],
        "1,191 more: its vectors are damaged, or another item's",
    ]


def test_an_import_makes_a_collection_only_when_told_to(
    muomni: Run, shared: Path, tmp_path: Path
) -> None:
    answers(muomni("export", "all.parquet", "-c", shared))
    result = muomni("import", "all.parquet", "-c", "copy")
    assert result.exit_code == 1
    assert "--create makes it" in result.stderr
    assert not (tmp_path / "copy").exists()
    # The model of the new collection, `base`, is not the one that the vectors came from.
    result = muomni("import", "all.parquet", "--create", "-c", "copy")
    assert result.exit_code == 1
    assert "hashing" in result.stderr
    assert "base" in result.stderr
    # Nothing is left in the way of the same call with the right model.
    assert not (tmp_path / "copy").exists()
    assert answers(muomni("import", "all.parquet", "--create", "--model", "hashing", "-c", "copy"))


def test_an_export_of_another_version_of_the_model_is_taken_in_and_can_be_moved(
    muomni: Run, collection: Path
) -> None:
    """A file may be all that is left of a collection when the model has got new weights."""
    with closing(sqlite3.connect(collection / "collection.db")) as database, database:
        database.execute("UPDATE collection SET fingerprint = 'feedfacefeedface'")
    answers(muomni("export", "all.parquet", "-c", collection))
    result = muomni("import", "all.parquet", "--create", "--model", "hashing", "-c", "copy")
    assert answers(result)[0]["added"] == 8
    assert "'hashing' (feedfacefeed), not of" in result.stderr
    assert "move it: muomni reembed --model hashing -c " in result.stderr
    assert len(answers(muomni("list", "-c", "copy"))) == 8
    for named in ([], ["--model", "hashing"]):
        result = muomni("search", "owl", "-c", "copy", *named)
        assert result.exit_code == 1
        assert "move it: muomni reembed --model hashing -c " in result.stderr
    assert answers(muomni("verify", "-c", "copy")) == [{"ok": True, "problems": []}]
    (moved,) = answers(muomni("reembed", "--model", "hashing", "-c", "copy"))
    assert moved["items"] == 8
    assert len(answers(muomni("search", "owl", "-k", "3", "-c", "copy"))) == 3


def test_import_refuses_what_is_no_export(muomni: Run, collection: Path, tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"not parquet")
    result = muomni("import", "x.parquet", "-c", collection)
    assert result.exit_code == 1
    assert "x.parquet" in result.stderr
    assert muomni("import", "missing.parquet", "-c", collection).exit_code == 2


def test_collections_lists_each_also_a_damaged_one(
    muomni: Run, shared: Path, tmp_path: Path
) -> None:
    assert answers(muomni("collections")) == []
    for name in ("a", "b"):
        shutil.copytree(shared, tmp_path / "indexes" / name)
    (tmp_path / "indexes/b/collection.db").write_bytes(b"no database " * 1000)
    (tmp_path / "indexes/folder").mkdir()
    (tmp_path / "indexes/README.md").touch()
    first, second = answers(muomni("collections"))
    assert first == {
        "directory": "indexes/a", "model": "hashing", "error": None,
        "items": 8, "text": 4, "image": 2, "audio": 2,
    }  # fmt: skip
    assert second["directory"] == "indexes/b"
    assert second["error"]
    assert answers(muomni("collections", "indexes/folder")) == []
    assert muomni("collections", "missing").exit_code == 2


def test_collections_goes_on_past_those_that_cannot_be_opened(
    muomni: Run, shared: Path, tmp_path: Path
) -> None:
    places = [Path(shutil.copytree(shared, tmp_path / "indexes" / name)) for name in "abcde"]
    (places[0] / "collection.db").write_bytes(b"")
    (places[1] / "vectors/image.0.f32").unlink()
    for path in places[2].glob("collection.db*"):
        path.unlink()
    (places[2] / "collection.db").mkdir()
    with sqlite3.connect(places[3] / "collection.db") as database:
        database.execute("UPDATE collection SET fingerprint = 'another'")
    database.close()
    found = {Path(one["directory"]).name: one for one in answers(muomni("collections"))}
    assert found["e"]["items"] == 8
    assert found["e"]["error"] is None
    assert found["d"]["items"] == 8  # of another model: counted, but not to be asked with words
    assert found["a"]["error"]
    assert [*found] == sorted(found)


def test_drop_asks(muomni: Run, collection: Path) -> None:
    result = muomni("drop", "-c", collection, answer="n\n")
    assert result.exit_code == 1
    assert "8 items" in result.stderr
    assert len(answers(muomni("list", "-c", collection))) == 8
    result = muomni("drop", "-c", collection, answer="y\n")
    assert result.exit_code == 0
    assert not collection.exists()


def test_drop_without_an_answer_keeps_everything(muomni: Run, collection: Path) -> None:
    result = muomni("drop", "-c", collection, answer="")
    assert result.exit_code == 1
    assert "-f" in result.stderr.splitlines()[-1]
    assert len(answers(muomni("list", "-c", collection))) == 8


def test_drop_with_force_does_not_ask(muomni: Run, collection: Path) -> None:
    assert answers(muomni("drop", "-f", "-c", collection)) == [{"dropped": str(collection)}]
    assert not collection.exists()


@pytest.mark.parametrize("missing", ["vectors", "index"])
def test_drop_needs_no_whole_collection(muomni: Run, collection: Path, missing: str) -> None:
    shutil.rmtree(collection / missing)
    assert answers(muomni("drop", "-f", "-c", collection)) == [{"dropped": str(collection)}]
    assert not collection.exists()


def test_drop_leaves_files_that_are_not_its_own(muomni: Run, collection: Path) -> None:
    (collection / "mine.txt").write_text("mine")
    result = muomni("drop", "-f", "-c", collection)
    assert result.exit_code == 0
    assert [path.name for path in collection.iterdir()] == ["mine.txt"]
    assert muomni("list", "-c", collection).exit_code == 1


def test_drop_refuses_a_directory_that_is_no_collection(muomni: Run, tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / "vectors").mkdir(parents=True)
    (other / "vectors/mine.txt").write_text("mine")
    assert muomni("drop", "-f", "-c", other).exit_code == 1
    (other / "collection.db").write_text("mine too")
    assert muomni("drop", "-f", "-c", other).exit_code == 1
    assert (other / "vectors/mine.txt").exists()
    assert (other / "collection.db").exists()


def test_models_are_listed_and_shown(muomni: Run) -> None:
    (model,) = answers(muomni("model", "show", "hashing"))
    assert list(model) == ["name", "kind", "dim", "fingerprint", "directory", "missing"]
    assert model["dim"] == 256
    assert model["missing"] == []
    assert answers(muomni("model", "fetch", "hashing")) == [{"fetched": []}]
    for verb in ("show", "fetch"):
        result = muomni("model", verb, "no-such-model")
        assert result.exit_code == 1
        assert "no-such-model" in result.stderr


def test_base_and_hashing_come_with_the_package(muomni: Run) -> None:
    models = answers(muomni("model", "list"))
    assert [one["name"] for one in models] == ["base", "base-offline", "muomni-tiny", "hashing"]
    assert "default" in models[0]["purpose"]


NEED_A_COLLECTION = [name for name in COMMANDS if name not in {"collections", "model", "train"}]
ARGUMENTS = {
    "watch": [".", "--once"],
    "search": ["owl"],
    "explain": ["owl", "k"],
    "map": ["map.png"],
    "eval": ["retrieval", "--same", "folder"],
    "align": ["q.jsonl", "model"],
    "reembed": ["--model", "hashing"],
    "batch": ["q.jsonl", "-o", "out.jsonl"],
    "neighbors": ["-o", "out.jsonl"],
    "get": ["k"],
    "delete": ["k"],
    "purge": ["k", "-f"],
    "backup": ["copy"],
    "export": ["out.parquet"],
    "import": ["q.jsonl"],
    "drop": ["-f"],
}


@pytest.mark.parametrize("name", [name for name in NEED_A_COLLECTION if name != "add"])
def test_every_command_but_add_refuses_a_collection_that_is_not_there(
    muomni: Run, tmp_path: Path, name: str
) -> None:
    (tmp_path / "q.jsonl").write_text('{"text": "owl"}\n')
    for missing in ("nowhere", "."):
        result = muomni(name, *ARGUMENTS.get(name, []), "-c", missing)
        assert result.exit_code == 1
        (line,) = result.stderr.splitlines()
        assert line.startswith("muomni: error: ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["q.jsonl"]


@pytest.mark.parametrize("name", NEED_A_COLLECTION)
@pytest.mark.parametrize("damage", ["foreign", "empty", "cut"])
def test_a_database_that_is_none_is_one_line_and_left_alone(
    muomni: Run, collection: Path, tmp_path: Path, name: str, damage: str
) -> None:
    database = collection / "collection.db"
    content = {
        "foreign": b"#!/bin/sh\n" * 1000,
        "empty": b"",
        "cut": database.read_bytes()[:5000],
    }[damage]
    database.write_bytes(content)
    (tmp_path / "q.jsonl").write_text('{"text": "owl"}\n')
    arguments = {**ARGUMENTS, "add": ["q.jsonl"]}.get(name, [])
    result = muomni(name, *arguments, "-c", collection)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("muomni: error: ")
    assert str(collection) in line
    assert database.read_bytes() == content


@pytest.mark.parametrize("call", [["search", "owl"], ["list"], ["stats"], ["failures"]])
def test_an_empty_collection_answers_with_nothing(
    muomni: Run, tmp_path: Path, call: list[str]
) -> None:
    (tmp_path / "empty").mkdir()
    answers(muomni("add", "empty", "--model", "hashing", "-c", "c"))
    found = answers(muomni(*call, "-c", "c"))
    assert found == [] or found[0]["items"] == 0
