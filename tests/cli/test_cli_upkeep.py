"""The commands that look after collections: stats, rebuild, verify, export, import, drop, …."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest
from cli_helpers import Run, answers

from muomni_search.cli.main import COMMANDS


def test_stats_is_one_object(muomni: Run, shared: Path) -> None:
    (stats,) = answers(muomni("stats", "-c", shared))
    assert stats["items"] == 8
    assert stats["model"]["name"] == "hashing"
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
    result = muomni("export", "all.parquet", "--salvage", "-c", collection)
    (report,) = answers(result)
    assert report["exported"] == 6
    assert len(report["left_out"]) == 3  # the file, and two sounds
    assert result.stderr.count("left out: ") == 3


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
    assert [model["name"] for model in answers(muomni("model", "list"))] == [
        "base",
        "base-offline",
        "muomni-tiny",
        "hashing",
    ]


NEED_A_COLLECTION = [name for name in COMMANDS if name not in {"collections", "model", "train"}]
ARGUMENTS = {
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
