"""`muomni search`: the query from its parts, the options, both kinds of output."""

from __future__ import annotations

import html
import json
import shlex
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from cli_helpers import Run, answers, write_picture, write_vector

from muomni_search.cli.main import cli
from muomni_search.cli.query import query_of
from muomni_search.cli.search import _how, command
from muomni_search.items import Hit, Modality

FIELDS = [
    "rank", "key", "modality", "score", "cosine", "source", "text", "span", "metadata", "how",
    "recall",
]  # fmt: skip


def parts(*args: str) -> list[tuple[float, str, object]]:
    """Return weight, kind and value of each part of the query that a call asks."""
    # Under its group: a command keeps the names of --help that it met first.
    group = click.Context(cli, info_name="muomni", **cli.context_settings)
    context = command.make_context("search", list(args), parent=group)
    query = query_of(context.params["given"])
    return [(part.weight, part.kind, part.value) for part in query.parts]


def test_parts_keep_the_order_in_which_they_were_given() -> None:
    given = parts(
        "--image", "a.png", "--text", "b", "--minus", "2*text:c", "--image", "d.png", "words",
        "--plus", "0.5*id:e",
    )  # fmt: skip
    assert given == [
        (1.0, "text", "words"),
        (1.0, "image", Path("a.png")),
        (1.0, "text", "b"),
        (-2.0, "text", "c"),
        (1.0, "image", Path("d.png")),
        (0.5, "id", "e"),
    ]


def test_a_part_may_hold_colons_stars_and_line_breaks() -> None:
    assert parts("--plus", "text:a*b: c\nd") == [(1.0, "text", "a*b: c\nd")]
    assert parts("--minus", "id:-x") == [(-1.0, "id", "-x")]


@pytest.mark.parametrize(
    "part",
    [
        "dog",
        "0*text:dog",
        "-1*text:dog",
        "nan*text:dog",
        "inf*text:dog",
        "x*text:dog",
        "*text:dog",
        "video:dog",
        "text:",
        "vector:v.npy",
        "1*2*text:dog",
    ],
)
def test_a_bad_part_is_a_usage_error(part: str) -> None:
    with pytest.raises(click.BadParameter):
        parts("--plus", part)


def test_words_find_the_text_that_holds_them(muomni: Run, shared: Path) -> None:
    hits = answers(muomni("search", "a dog barks at the postman", "-c", shared, "-k", "3"))
    assert [hit["rank"] for hit in hits] == [1, 2, 3]
    assert list(hits[0]) == FIELDS
    assert hits[0]["key"] == "dog.txt"
    assert hits[0]["modality"] == "text"
    assert hits[0]["text"] == "A dog barks at the postman."
    assert Path(hits[0]["source"]).is_absolute()
    assert hits[0]["how"] == "exact"
    assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)


def test_a_picture_finds_itself(muomni: Run, shared: Path, corpus: Path) -> None:
    hit, *_ = answers(
        muomni("search", "--image", corpus / "red.png", "--modality", "image", "-c", shared)
    )
    assert hit["key"] == "red.png"
    assert hit["cosine"] == pytest.approx(1, abs=1e-5)


def test_a_sound_finds_itself(muomni: Run, shared: Path, corpus: Path) -> None:
    hit, *_ = answers(
        muomni("search", "--audio", corpus / "low.wav", "--modality", "audio", "-c", shared)
    )
    assert hit["key"] == "low.wav"
    assert hit["span"] is None


def test_an_item_is_left_out_of_its_own_answer_unless_asked_for(muomni: Run, shared: Path) -> None:
    without = answers(muomni("search", "--id", "dog.txt", "-c", shared))
    assert len(without) == 7
    assert "dog.txt" not in {hit["key"] for hit in without}
    hits = answers(muomni("search", "--id", "dog.txt", "--include-self", "-c", shared))
    assert "dog.txt" in {hit["key"] for hit in hits}


def test_a_vector_file_asks_like_the_item_that_it_came_from(
    muomni: Run, shared: Path, tmp_path: Path
) -> None:
    (item,) = answers(muomni("get", "dog.txt", "--vectors", "-c", shared))
    np.save(tmp_path / "dog.npy", np.asarray(item["vector"]) * 7)
    hit, *_ = answers(muomni("search", "--vector", "dog.npy", "--modality", "text", "-c", shared))
    assert hit["key"] == "dog.txt"
    assert hit["cosine"] == pytest.approx(1, abs=1e-5)


def test_minus_turns_the_order_around(muomni: Run, shared: Path) -> None:
    ask = ("--modality", "text", "-c", shared)
    towards = answers(muomni("search", "--plus", "text:owl night", *ask))
    away = answers(muomni("search", "--minus", "text:owl night", *ask))
    assert [hit["key"] for hit in towards] == ["notes/owl.md", *[hit["key"] for hit in towards[1:]]]
    assert away[-1]["key"] == "notes/owl.md"


def test_offset_goes_on_where_the_first_page_ended(muomni: Run, shared: Path) -> None:
    both = answers(muomni("search", "sand", "-k", "6", "-c", shared))
    second = answers(muomni("search", "sand", "-k", "3", "--offset", "3", "-c", shared))
    assert second == both[3:]


def test_modality_repeats(muomni: Run, shared: Path) -> None:
    hits = answers(
        muomni("search", "x", "--modality", "image", "--modality", "audio", "-c", shared)
    )
    assert sorted(hit["key"] for hit in hits) == ["blue.jpg", "high.flac", "low.wav", "red.png"]


def test_a_filter_narrows(muomni: Run, shared: Path) -> None:
    hits = answers(muomni("search", "owl", "--where", "key contains 'notes/'", "-c", shared))
    assert sorted(hit["key"] for hit in hits) == ["notes/owl.md", "notes/sea.txt"]


def test_min_score_cuts_the_tail(muomni: Run, shared: Path) -> None:
    hits = answers(muomni("search", "owl night", "-c", shared))
    limit = hits[2]["score"]
    kept = answers(muomni("search", "owl night", "--min-score", str(limit), "-c", shared))
    assert kept == [hit for hit in hits if hit["score"] >= limit]


@pytest.mark.parametrize(
    ("hows", "told"),
    [
        ([("text", "ann", 0.95), ("text", "ann", 0.95)], "ann, recall 0.95"),
        ([("text", "exact", 1.0), ("image", "exact", 1.0)], "exact"),
        ([("audio", "ann", None)], "ann, recall not measured"),
        ([("text", "ann", 0.99), ("image", "exact", 1.0)], "text ann, recall 0.99; image exact"),
    ],
)
def test_a_person_is_told_what_was_searched_and_what_that_promises(
    hows: list[tuple[str, Any, float | None]], told: str
) -> None:
    hits = [
        Hit(1, "k", Modality(modality), 1.0, 0.5, None, None, None, {}, how, recall)
        for modality, how, recall in hows
    ]
    assert _how(hits) == told


def test_an_automatic_min_score_is_taken_and_another_word_is_not(muomni: Run, shared: Path) -> None:
    hits = answers(muomni("search", "owl night", "-c", shared))
    kept = answers(muomni("search", "owl night", "--min-score", "auto", "-c", shared))
    assert all(hit["key"] in {one["key"] for one in hits} for hit in kept)
    refused = muomni("search", "owl", "--min-score", "some", "-c", shared)
    assert refused.exit_code == 2
    assert "'some' is not a finite number" in refused.stderr


def test_segments_are_hits_of_their_own(muomni: Run, shared: Path) -> None:
    hits = answers(
        muomni("search", "sentence 7", "--segments", "--modality", "text", "-k", "30", "-c", shared)
    )
    spans = [hit["span"] for hit in hits if hit["key"] == "long.txt"]
    assert len(spans) > 1
    assert all(span["unit"] == "char" and span["start"] < span["end"] for span in spans)
    assert len([hit for hit in hits if hit["key"] == "dog.txt"]) == 1


def test_exact_says_so(muomni: Run, shared: Path) -> None:
    hits = answers(muomni("search", "owl", "--exact", "-c", shared))
    assert {hit["how"] for hit in hits} == {"exact"}


def test_no_hits_is_no_error(muomni: Run, shared: Path) -> None:
    result = muomni("search", "owl", "--where", "year > 3000", "-c", shared)
    assert answers(result) == []


def test_html_writes_a_page_and_prints_the_hits_too(
    muomni: Run, shared: Path, tmp_path: Path
) -> None:
    result = muomni("search", "owl", "--html", "owl.html", "-c", shared)
    assert len(answers(result)) == 8
    page = (tmp_path / "owl.html").read_text(encoding="utf-8")
    assert "notes/owl.md" in page
    assert "<html" in page


def test_the_page_shows_every_part_and_how_to_ask_again(
    muomni: Run, shared: Path, corpus: Path, tmp_path: Path
) -> None:
    call = (
        "search", "an owl", "--image", corpus / "red.png", "--minus", "0.5*id:low.wav", "-k", "8",
        "--html", "sum.html", "-c", shared,
    )  # fmt: skip
    result = muomni(*call)
    assert len(answers(result)) == 7
    assert result.stderr == "page: sum.html\n"
    page = html.unescape((tmp_path / "sum.html").read_text(encoding="utf-8"))
    assert "an owl + red.png − 0.5 × low.wav</bdi></h2>" in page
    assert shlex.join(["muomni", *map(str, call)]) in page
    # The picture asked with, the two that were found; the sound asked with, the one found.
    assert page.count("data:image/webp;") == 3
    assert page.count("data:audio/ogg;") == 2
    assert "not shown" not in page


def test_a_page_that_cannot_be_written_is_one_line_and_exits_with_1(
    muomni: Run, shared: Path
) -> None:
    result = muomni("search", "owl", "--html", "nowhere/owl.html", "-c", shared)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert "nowhere/owl.html: there is no folder nowhere" in line
    assert not result.stdout


def test_the_model_of_another_collection_is_refused(muomni: Run, shared: Path) -> None:
    result = muomni("search", "owl", "--model", "nothing/here", "-c", shared)
    assert result.exit_code == 1
    assert "nothing/here" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["owl", "-k", "0"],
        ["owl", "-k", "-3"],
        ["owl", "--offset", "-1"],
        ["owl", "--min-score", "nan"],
        ["owl", "--modality", "video"],
        ["owl", "--no-such-option"],
        ["owl", "bear"],
        ["--plus", "dog"],
    ],
)
def test_a_wrong_call_exits_with_2(muomni: Run, shared: Path, arguments: list[str]) -> None:
    result = muomni("search", *arguments, "-c", shared)
    assert result.exit_code == 2
    assert "Usage: muomni search" in result.stderr
    assert result.stdout == ""


def broken_inputs(folder: Path) -> None:
    (folder / "empty.png").touch()
    whole = write_picture(folder / "whole.png", 3).read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "text.png").write_text("no picture")
    (folder / "noise.npy").write_bytes(b"\x00\x01\x02")
    np.save(folder / "short.npy", np.ones(255))
    np.save(folder / "zero.npy", np.zeros(256))
    np.save(folder / "nan.npy", np.full(256, np.nan))
    np.save(folder / "words.npy", np.array(["a"] * 256))
    np.save(folder / "many.npy", np.ones((3, 256)))
    np.save(folder / "objects.npy", np.array([{}] * 256), allow_pickle=True)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--image", "missing.png"], "missing.png"),
        (["--audio", "missing.wav"], "missing.wav"),
        (["--vector", "missing.npy"], "missing.npy"),
        (["--image", "empty.png"], "empty.png"),
        (["--image", "cut.png"], "cut.png"),
        (["--image", "text.png"], "text.png"),
        (["--image", "."], "."),
        (["--audio", "whole.png"], "whole.png"),
        (["--vector", "noise.npy"], "noise.npy"),
        (["--vector", "short.npy"], "short.npy"),
        (["--vector", "zero.npy"], "zero.npy"),
        (["--vector", "nan.npy"], "nan.npy"),
        (["--vector", "words.npy"], "words.npy"),
        (["--vector", "many.npy"], "many.npy"),
        (["--vector", "objects.npy"], "objects.npy"),
        (["--vector", "."], "."),
        (["--id", "missing.txt"], "missing.txt"),
        (["--plus", "image:missing.png"], "missing.png"),
        (["owl", "--where", "year >="], "year >="),
        (["owl", "--where", ""], "filter"),
        (["owl", "--minus", "text:owl"], "cancels out"),
        ([""], "no words"),
    ],
)
def test_a_query_that_cannot_be_asked_is_one_line_and_exits_with_1(
    muomni: Run, shared: Path, tmp_path: Path, arguments: list[str], told: str
) -> None:
    broken_inputs(tmp_path)
    result = muomni("search", *arguments, "-c", shared)
    assert result.exit_code == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("muomni: error: ")
    assert told in line


def test_json_lines_hold_no_character_that_acts_on_a_terminal(muomni: Run, tmp_path: Path) -> None:
    text = "owl \x1b[31m \x9b31m \u202e \u2028 end"
    (tmp_path / "rows.jsonl").write_text(json.dumps({"key": "k", "text": text}) + "\n")
    answers(muomni("add", "rows.jsonl", "--model", "hashing", "-c", "c"))
    result = muomni("search", "owl", "-c", "c")
    assert not set(result.stdout) & set("\x1b\x9b\u202e\u2028")
    assert answers(result)[0]["text"] == text


def test_many_hits_do_not_need_a_collection_of_that_size(
    muomni: Run, shared: Path, tmp_path: Path
) -> None:
    write_vector(tmp_path / "v.npy", 1)
    assert len(answers(muomni("search", "--vector", "v.npy", "-k", "1000000", "-c", shared))) == 8


@pytest.mark.parametrize("place", ["collection.db", "vectors/page.html", "index/page.html"])
def test_a_page_over_files_of_the_collection_is_refused(
    muomni: Run, collection: Path, place: str
) -> None:
    before = (collection / "collection.db").read_bytes()
    result = muomni("search", "owl", "--html", collection / place, "-c", collection)
    assert result.exit_code == 1
    assert "keeps its own files" in result.stderr
    assert (collection / "collection.db").read_bytes() == before
    assert answers(muomni("verify", "-c", collection)) == [{"ok": True, "problems": []}]
