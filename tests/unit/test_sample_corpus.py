"""The sample corpus: what it holds, whose it is, and the tables that refer to it."""

from __future__ import annotations

import json
import re
import runpy
import shlex
from collections import defaultdict
from pathlib import Path

import click
from PIL import Image

from muomni_search.cli.main import cli
from muomni_search.cli.search import command as search
from muomni_search.ingest.audio import decode_audio
from muomni_search.ingest.manifest import read_corpus
from muomni_search.items import Modality, Record

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
CORPUS = EXAMPLES / "corpus"
RECORDS = EXAMPLES / "records.jsonl"
MODALITIES = {
    ".jpg": Modality.IMAGE,
    ".png": Modality.IMAGE,
    ".ogg": Modality.AUDIO,
    ".flac": Modality.AUDIO,
    ".txt": Modality.TEXT,
}


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix in MODALITIES)


def test_every_file_is_an_item_of_the_modality_that_its_name_says() -> None:
    found = list(read_corpus([CORPUS]))
    assert all(isinstance(record, Record) for record in found)
    told = {record.key: record.modality for record in found if isinstance(record, Record)}
    assert told == {
        path.relative_to(CORPUS).as_posix(): MODALITIES[path.suffix] for path in files(CORPUS)
    }


def test_it_is_small_and_still_holds_enough_of_everything() -> None:
    kinds: dict[str, set[Modality]] = defaultdict(set)
    counts: dict[Modality, int] = defaultdict(int)
    for path in files(CORPUS):
        modality = MODALITIES[path.suffix]
        kinds[path.relative_to(CORPUS).with_suffix("").as_posix()].add(modality)
        counts[modality] += 1
    assert sum(path.stat().st_size for path in EXAMPLES.rglob("*") if path.is_file()) < 12_000_000
    assert 140 <= sum(counts.values()) <= 170
    assert len(list(CORPUS.rglob("*.jpg"))) >= 20  # the photographs; cut-outs are .png
    assert counts[Modality.AUDIO] >= 40
    assert sum(len(modalities) == 3 for modalities in kinds.values()) >= 25


def test_pictures_sounds_and_texts_are_short() -> None:
    for path in files(EXAMPLES):
        if MODALITIES[path.suffix] == Modality.IMAGE:
            with Image.open(path) as picture:
                assert max(picture.size) <= 640, path
        elif MODALITIES[path.suffix] == Modality.AUDIO:
            assert len(decode_audio(path.read_bytes(), path)) <= 10 * 16_000, path
        else:
            assert 1 <= len(re.findall(r"[.!?](?=\s)", path.read_text())) <= 4, path


def test_the_page_of_licences_names_every_file_and_nothing_else() -> None:
    page = (EXAMPLES / "LICENSES.md").read_text()
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| `")]
    named = [row[0].strip("|` ") for row in rows]
    assert len(set(named)) == len(named)
    assert sorted(named) == [path.relative_to(EXAMPLES).as_posix() for path in files(EXAMPLES)]
    for row in rows:
        assert all(cell.strip() for cell in row[1:3]), f"{row[0]} has no author or no licence"
        assert row[0].endswith(".txt`") or row[3].strip(), f"{row[0]} comes from no package"


def test_records_have_different_keys_metadata_and_files_of_the_corpus() -> None:
    records = [record for record in read_corpus([RECORDS]) if isinstance(record, Record)]
    lines = (RECORDS).read_text().splitlines()
    assert len({record.key for record in records}) == len(lines) == len(records)
    for record in records:
        assert record.metadata["kind"] in ("place", "instrument", "animal")
        if record.modality != Modality.TEXT:
            assert record.path is not None
            assert record.path.is_relative_to(CORPUS)
            assert record.path.is_file()


def test_queries_refer_to_files_and_items_that_are_there() -> None:
    folder = EXAMPLES / "queries"
    rows = [json.loads(line) for line in (folder / "mixed.jsonl").read_text().splitlines()]
    assert len({row["query_id"] for row in rows}) == len(rows)
    asked: set[str] = set()
    for row in rows:
        parts = [(kind, row[kind]) for kind in ("text", "image", "audio", "id") if kind in row]
        parts += [part.split(":", 1) for part in (*row.get("plus", []), *row.get("minus", []))]
        asked |= {kind for kind, _ in parts}
        for kind, value in parts:
            if kind in ("image", "audio"):
                assert (folder / value).is_file()
            elif kind == "id":
                assert (CORPUS / value).is_file()
    assert asked == {"text", "image", "audio", "id"}


def test_the_demo_asks_in_all_nine_directions_and_about_what_is_there() -> None:
    directions = set()
    for step in runpy.run_path(str(EXAMPLES / "demo.py"))["STEPS"]:
        asked = search.make_context(
            "search",
            shlex.split(step.command)[2:],
            # Under its group: a command keeps the names of --help that it met first.
            parent=click.Context(cli, info_name="muomni", **cli.context_settings),
        ).params
        for kind, value in asked["given"]:
            if kind in ("image", "audio"):
                assert (EXAMPLES.parent / value).is_file()
            elif kind == "id":
                assert (CORPUS / value).is_file()
                kind = MODALITIES[Path(value).suffix]
            if len(asked["given"]) == 1:
                directions |= {(str(kind), modality) for modality in asked["modalities"]}
    modalities = {str(modality) for modality in Modality}
    assert {(one, other) for one in modalities for other in modalities} <= directions
