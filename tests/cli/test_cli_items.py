"""`muomni list`, `get` and `delete`, also with keys that were chosen to do harm."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import Run, answers

FIELDS = ["key", "modality", "source", "text", "metadata", "segments", "added"]
HOSTILE = [
    "[red]x[/]",
    "[/]",
    "two\nlines",
    "-c",
    "--where",
    "\u202egnp.exe",
    "\x1b]0;title\x07",
    "漢字" * 40,
    "👩‍🚀 é",
    "k" * 4096,
    "%s {} $(touch x) `id` '\"\\",
]


@pytest.fixture(scope="module")
def hostile(muomni: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A collection whose keys are ``HOSTILE``."""
    folder = tmp_path_factory.mktemp("hostile")
    rows = [{"key": key, "text": f"text{n} of row{n}", "n": n} for n, key in enumerate(HOSTILE)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (report,) = answers(
        muomni("add", folder / "rows.jsonl", "--model", "hashing", "-c", folder / "c")
    )
    assert report["added"] == len(HOSTILE)
    return folder / "c"


def test_list_gives_a_line_an_item_by_key(muomni: Run, shared: Path) -> None:
    items = answers(muomni("list", "-c", shared))
    assert all(list(item) == FIELDS for item in items)
    keys = [item["key"] for item in items]
    assert keys == sorted(keys)
    assert len(keys) == 8
    long = items[keys.index("long.txt")]
    assert long["segments"] > 1


def test_list_narrows(muomni: Run, shared: Path) -> None:
    def keys(*args: str) -> list[str]:
        return [item["key"] for item in answers(muomni("list", *args, "-c", shared))]

    assert keys("--modality", "image") == ["blue.jpg", "red.png"]
    assert keys("--modality", "image", "--modality", "audio", "--limit", "3") == [
        "blue.jpg",
        "high.flac",
        "low.wav",
    ]
    assert keys("--where", "key = 'dog.txt'") == ["dog.txt"]


def test_get_gives_items_in_the_order_asked(muomni: Run, shared: Path) -> None:
    items = answers(muomni("get", "red.png", "dog.txt", "-c", shared))
    assert [item["key"] for item in items] == ["red.png", "dog.txt"]
    assert list(items[0]) == FIELDS


def test_get_gives_unit_vectors_on_demand(muomni: Run, shared: Path) -> None:
    (item,) = answers(muomni("get", "long.txt", "--vectors", "-c", shared))
    assert list(item) == [*FIELDS, "vector"]
    assert np.shape(item["vector"]) == (256,)
    assert np.linalg.norm(item["vector"]) == pytest.approx(1, abs=1e-6)


def test_get_of_a_missing_key_is_an_error_that_names_it(muomni: Run, shared: Path) -> None:
    result = muomni("get", "dog.txt", "cat.txt", "-c", shared)
    assert result.exit_code == 1
    assert "cat.txt" in result.stderr
    assert result.stdout == ""


def test_delete_by_key(muomni: Run, collection: Path) -> None:
    assert answers(muomni("delete", "dog.txt", "red.png", "-c", collection)) == [{"deleted": 2}]
    assert muomni("get", "dog.txt", "-c", collection).exit_code == 1
    hits = answers(muomni("search", "dog", "-c", collection))
    assert not {"dog.txt", "red.png"} & {hit["key"] for hit in hits}


def test_delete_of_a_missing_key_deletes_nothing(muomni: Run, collection: Path) -> None:
    assert muomni("delete", "dog.txt", "cat.txt", "-c", collection).exit_code == 1
    assert len(answers(muomni("list", "-c", collection))) == 8


def test_delete_by_filter(muomni: Run, collection: Path) -> None:
    result = muomni("delete", "--where", "modality in ('image', 'audio')", "-c", collection)
    assert answers(result) == [{"deleted": 4}]
    assert len(answers(muomni("list", "-c", collection))) == 4
    result = muomni("delete", "--where", "modality = 'image'", "-c", collection)
    assert answers(result) == [{"deleted": 0}]


@pytest.mark.parametrize("arguments", [[], ["dog.txt", "--where", "key = 'dog.txt'"]])
def test_delete_needs_keys_or_a_filter(muomni: Run, collection: Path, arguments: list[str]) -> None:
    assert muomni("delete", *arguments, "-c", collection).exit_code == 2
    assert len(answers(muomni("list", "-c", collection))) == 8


@pytest.mark.parametrize("key", HOSTILE, ids=range(len(HOSTILE)))
def test_any_key_is_found_again(muomni: Run, hostile: Path, key: str) -> None:
    (item,) = answers(muomni("get", "-c", hostile, "--", key))
    assert item["key"] == key
    hits = answers(muomni("search", f"--id={key}", "--include-self", "-c", hostile))
    assert hits[0]["key"] == key
    hits = answers(muomni("search", "--plus", f"id:{key}", "-c", hostile))
    assert key not in {hit["key"] for hit in hits}


def test_output_of_hostile_keys_is_one_plain_line_each(muomni: Run, hostile: Path) -> None:
    result = muomni("list", "-c", hostile)
    assert len(result.stdout.splitlines()) == len(HOSTILE)
    assert {item["key"] for item in answers(result)} == set(HOSTILE)
    assert not set(result.stdout) & set("\x1b\x07\u202e")


def test_an_error_about_a_hostile_key_is_one_plain_line(muomni: Run, hostile: Path) -> None:
    result = muomni("get", "-c", hostile, "--", "no\n\x1b[31m\u202e[red]such[/]")
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert "[red]such[/]" in line
    assert not set(line) & set("\x1b\u202e")


@pytest.mark.parametrize("key", ["-c", "two\nlines"])
def test_hostile_keys_are_deleted_like_others(
    muomni: Run, hostile: Path, tmp_path: Path, key: str
) -> None:
    collection = shutil.copytree(hostile, tmp_path / "c")
    assert answers(muomni("delete", "-c", collection, "--", key)) == [{"deleted": 1}]
    (tmp_path / "again.jsonl").write_text(json.dumps({"key": key, "text": "again"}) + "\n")
    assert answers(muomni("add", "again.jsonl", "-c", collection))[0]["added"] == 1


@pytest.mark.parametrize(
    "command",
    [("list",), ("search", "text", "--modality", "text"), ("delete",), ("purge", "-f")],
    ids=lambda command: command[0],
)
def test_a_filter_on_a_field_that_nothing_has_is_told_of(
    muomni: Run, hostile: Path, command: tuple[str, ...]
) -> None:
    lacking = muomni(*command, "--where", "nn > 3 or zebra is not null", "-c", hostile)
    told = lacking.stderr.splitlines()
    assert lacking.exit_code == 0
    assert "no item has the field nn: did you mean n?" in told
    assert "no item has the field zebra: see: muomni fields" in told
    assert "did you mean n?" in muomni(*command, "--where", "N = 3", "-c", hostile).stderr
    # A field that items have is no mistake, nor one of an item itself.
    for where in ("n > 1000", "key = 'nobody' and source is null", "source = 'nowhere'"):
        assert "no item has" not in muomni(*command, "--where", where, "-c", hostile).stderr


def test_metadata_called_like_a_column_is_pointed_at_where_nothing_matches(
    muomni: Run, tmp_path: Path
) -> None:
    rows = [{"key": "k1", "text": "a dog", "source": "BBC"}, {"key": "k2", "text": "a cat"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    c = tmp_path / "c"
    muomni("add", "rows.jsonl", "-c", c, "--model", "hashing")
    told = muomni("list", "--where", "source = 'BBC'", "-c", c)
    assert told.stdout == ""
    assert "source is the item's own: did you mean $.source?" in told.stderr
    assert answers(muomni("list", "--where", "$.source = 'BBC'", "-c", c))[0]["key"] == "k1"
    # Who found something by it meant the column.
    assert "item's own" not in muomni("list", "--where", "source is null", "-c", c).stderr
    batch = tmp_path / "q.jsonl"
    batch.write_text(json.dumps({"text": "dog", "where": "source is null"}) + "\n")
    assert "item's own" not in muomni("batch", batch, "o.jsonl", "-c", c).stderr
