"""`muomni explain`: the call, both kinds of output, the picture."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_helpers import Run, answers, on_terminal, plain
from PIL import Image


def test_words_a_picture_and_a_sound_are_explained_as_json(muomni: Run, shared: Path) -> None:
    kinds = {"red.png": "grid", "low.wav": "curve", "dog.txt": "words"}
    for key, kind in kinds.items():
        [answer] = answers(muomni("explain", "a dog barks", key, "-c", shared))
        assert (answer["key"], answer["evidence"]["kind"]) == (key, kind)
        assert [word["text"] for word in answer["query_words"]] == ["a", "dog", "barks"]


def test_score_and_cosine_are_those_of_the_search(muomni: Run, shared: Path, corpus: Path) -> None:
    query = ("--image", corpus / "red.png", "--minus", "0.5*text:dog")
    for hit in answers(muomni("search", *query, "-c", shared)):
        [answer] = answers(muomni("explain", *query, hit["key"], "-c", shared))
        assert (answer["score"], answer["cosine"]) == (hit["score"], hit["cosine"])
        shares = [part["share"] for part in answer["parts"]]
        assert sum(shares) == pytest.approx(hit["cosine"], abs=1e-3)
        assert [part["weight"] for part in answer["parts"]] == [1, -0.5]


def test_the_picture_is_written_beside_the_answer(
    muomni: Run, shared: Path, tmp_path: Path
) -> None:
    for key in ("red.png", "low.wav"):
        result = muomni("explain", "a dog", key, "-o", tmp_path / f"{key}.png", "-c", shared)
        assert answers(result)
        assert f"{key}.png" in result.stderr
        with Image.open(tmp_path / f"{key}.png") as drawn:
            assert drawn.format == "PNG"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (["a dog", "nowhere.png"], "no item 'nowhere.png'"),
        (["a dog", "dog.txt", "-o", "why.png"], "is a text"),
        (["a dog", "red.png", "--patches"], "no vectors for the patches"),
        (["--image", "nowhere.png", "red.png"], "no such file"),
    ],
)
def test_what_cannot_be_explained_is_an_error(
    muomni: Run, shared: Path, call: list[str], message: str
) -> None:
    result = muomni("explain", *call, "-c", shared)
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stdout == ""
    assert not Path("why.png").exists()


@pytest.mark.parametrize("call", [[], ["red.png"], ["a", "b", "c"]])
def test_a_query_and_one_key_are_asked_for(muomni: Run, shared: Path, call: list[str]) -> None:
    assert muomni("explain", *call, "-c", shared).exit_code == 2


@pytest.mark.parametrize(
    ("key", "shown"),
    [("dog.txt", "postman."), ("high.flac", "best"), ("red.png", "the most"), ("long.txt", "char")],
)
def test_a_terminal_gets_it_in_words_and_bars(shared: Path, key: str, shown: str) -> None:
    call = ["explain", "number the dog", "--minus", "text:sea", key, "-c", str(shared)]
    code, printed = on_terminal(*call, columns=60)
    assert code == 0
    assert shown in printed
    assert "-1 × text:sea" in plain(printed)
    assert max(len(line) for line in plain(printed).splitlines()) <= 60


def test_a_file_of_the_collection_is_not_written_over(muomni: Run, collection: Path) -> None:
    before = (collection / "collection.db").read_bytes()
    output = collection / "collection.db"
    result = muomni("explain", "a dog", "red.png", "-o", output, "-c", collection)
    assert result.exit_code == 1
    assert "its own files" in result.stderr
    assert output.read_bytes() == before
