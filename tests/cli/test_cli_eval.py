"""`muomni eval`: its tables, its JSON, its picture and its errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import Run, answers
from click.testing import CliRunner
from PIL import Image

from muomni_search.cli import eval as eval_module
from muomni_search.cli.main import cli

RATINGS = "dog\thound\t8\ndog postman\tdog\t9\nowl\tsand\t1\nnight owl\towl night\t10\n"


def write(name: str, text: str) -> Path:
    path = Path(name)
    path.write_text(text, encoding="utf-8")
    return path


def figures(rows: list[dict[str, Any]], *names: str) -> dict[tuple[str, ...], float]:
    return {tuple(row[name] for name in (*names, "metric")): row["value"] for row in rows}


@pytest.fixture
def tables() -> Run:
    """Call `muomni eval` as on a wide terminal; return what it prints."""

    def run(*args: str | Path) -> str:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(eval_module, "on_terminal", lambda as_json: not as_json)
            runner = CliRunner(env={"COLUMNS": "240"})
            result = runner.invoke(cli, ["eval", *map(str, args)])
        assert result.exit_code == 0, result.output
        return result.stdout

    return run


# ---- finding ---------------------------------------------------------------------------------


def test_retrieval_by_label_prints_a_line_a_figure(muomni: Run, shared: Path) -> None:
    rows = answers(muomni("eval", "retrieval", "--same", "folder", "-c", shared))
    assert list(rows[0]) == [
        "model", "asking", "asked", "metric", "n", "value", "low", "high",
    ]  # fmt: skip
    # Two notes lie in one folder; what lies in none has no label.
    assert {(row["asking"], row["asked"], row["n"]) for row in rows} == {
        ("text", "text", 2), ("text", "any", 2),
    }  # fmt: skip
    assert {row["model"] for row in rows} == {"hashing"}
    assert [row["metric"] for row in rows[:3]] == ["recall@10", "ndcg@10", "mrr"]
    assert rows[0]["value"] == 1


def test_retrieval_by_judgements_with_a_query_file_and_a_heat_map(
    muomni: Run, shared: Path
) -> None:
    qrels = write("j.qrels", "q1 0 dog.txt 1\nq1 0 red.png 1\nq2 0 notes/owl.md 2\n")
    queries = write(
        "q.jsonl",
        '{"query_id": "q1", "text": "a dog barks"}\n{"query_id": "q2", "text": "owl night"}\n',
    )
    call = ("retrieval", "--qrels", qrels, "--queries", queries, "-c", shared)
    result = muomni("eval", *call, "--metric", "MRR", "--heatmap", "map.png")
    found = figures(answers(result), "asking", "asked")
    assert found["text", "text", "mrr"] == 1
    assert found["text", "image", "mrr"] in (0.5, 1)
    assert "heat map: map.png" in result.stderr
    with Image.open("map.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > 300
        # Not of one colour.
        assert len(picture.convert("RGB").getcolors(1_000_000)) > 20


def test_the_same_call_draws_the_same_picture(muomni: Run, shared: Path) -> None:
    for name in ("a.png", "b.png"):
        call = ("eval", "retrieval", "--same", "folder", "-c", shared, "--heatmap", name)
        assert muomni(*call).exit_code == 0
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()


def test_models_are_compared_on_the_same_items(
    muomni: Run, tables: Run, shared: Path, muomni_checkpoint: Path
) -> None:
    write("j.qrels", "dog.txt 0 red.png 1\ndog.txt 0 low.wav 1\nlow.wav 0 long.txt 1\n")
    call = (
        *("retrieval", "--qrels", "j.qrels", "-c", shared, "--metric", "recall@1"),
        *("--model", "hashing", "--model", muomni_checkpoint, "--heatmap", "both.png"),
    )
    rows = answers(muomni("eval", *call, "--json"))
    one, two = (
        figures([row for row in rows if row["model"] == model and "minus" not in row], "asked")
        for model in ("hashing", str(muomni_checkpoint))
    )
    more = [row for row in rows if "minus" in row]
    assert one.keys() == two.keys() == figures(more, "asked").keys()
    for (asked, metric), value in figures(more, "asked").items():
        assert value == pytest.approx(two[asked, metric] - one[asked, metric])
    assert {row["minus"] for row in more} == {"hashing"}
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows)
    lines = [line.split() for line in tables(*call).splitlines()]
    assert lines[0] == ["asking", "asked", "model", "n", "recall@1"]
    # The models and their difference stand together.
    cells = [line for line in lines if line[:2] == ["text", "image"]]
    assert [line[2] for line in cells] == [
        "hashing",
        str(muomni_checkpoint),
        str(muomni_checkpoint),
    ]
    assert cells[2][3:5] == ["−", "hashing"]
    with Image.open("both.png") as picture:
        assert picture.width > picture.height


def test_a_run_is_measured_and_compared_with_another(
    muomni: Run, tables: Run, shared: Path
) -> None:
    write("q.jsonl", '{"query_id": "q 1", "text": "dog"}\n{"query_id": "q 2", "text": "owl"}\n')
    write("j.qrels", "q%201 0 dog.txt 1\nq%202 0 notes/owl.md 1\nq%203 0 red.png 1\n")
    for name, more in (("good.trec", ()), ("bad.trec", ("--modality", "image"))):
        assert muomni("batch", "q.jsonl", "-o", name, "-c", shared, *more).exit_code == 0
    call = ("run", "good.trec", "bad.trec", "--qrels", "j.qrels", "--metric", "recall@5")
    rows = answers(muomni("eval", *call))
    assert [(row["run"], row.get("minus"), row["value"], row["n"]) for row in rows] == [
        ("good.trec", None, pytest.approx(2 / 3), 3),
        ("bad.trec", None, 0, 3),
        ("bad.trec", "good.trec", pytest.approx(-2 / 3), 3),
    ]
    printed = tables(*call)
    assert "bad.trec − good.trec" in printed
    assert "-0.667" in printed


# ---- words, labels, shape --------------------------------------------------------------------


def test_pairs_analogies_and_contexts_need_no_collection(muomni: Run, tables: Run) -> None:
    write("r.tsv", RATINGS)
    rows = answers(muomni("eval", "pairs", "r.tsv", "--model", "hashing"))
    assert figures(rows, "file").keys() == {("r.tsv", "spearman"), ("r.tsv", "pearson")}
    assert rows[0]["value"] > 0.8
    write("a.txt", ": one\na b c d\na c b d\n: two\nx y z w\n")
    write("more.txt", "another\nword\n")
    result = muomni(
        *("eval", "analogies", "a.txt", "--candidates", "more.txt", "--model", "hashing")
    )
    assert [row["section"] for row in answers(result)] == ["one", "two", "all"]
    assert "chosen among 10 words" in result.stderr
    (row,) = answers(muomni("eval", "contexts", "--model", "hashing"))
    assert (row["file"], row["n"]) == ("contexts.tsv", 40)
    assert 0.2 < row["value"] < 0.8
    assert "accuracy" in tables("contexts", "--model", "hashing")


def test_models_are_compared_on_words(muomni: Run, muomni_checkpoint: Path) -> None:
    write("r.tsv", RATINGS)
    call = ("eval", "pairs", "r.tsv", "--model", "hashing", "--model", muomni_checkpoint)
    rows = answers(muomni(*call))
    assert [row.get("minus") for row in rows] == [None] * 4 + ["hashing"] * 2
    assert rows[4]["value"] == pytest.approx(rows[2]["value"] - rows[0]["value"])


def test_labels_and_shape_of_a_collection(muomni: Run, tables: Run) -> None:
    for number in range(12):
        for kind in ("owl", "sea"):
            Path(f"things/{kind}").mkdir(parents=True, exist_ok=True)
            write(f"things/{kind}/{number}.txt", f"the {kind} number {number}")
    assert muomni("add", "things", "--model", "hashing", "-c", "c").exit_code == 0
    call = ("labels", "--label", "folder", "-c", "c", "--folds", "3")
    rows = figures(answers(muomni("eval", *call)), "modality")
    assert rows["text", "knn"] == rows["text", "zero-shot"] == 1
    assert rows["text", "majority"] == 0.5
    assert "zero-shot" in tables(*call)
    rows = answers(muomni("eval", "shape", "-c", "c", "--same", "folder", "-k", "3"))
    assert {row["metric"] for row in rows} == {"effective rank", "uniformity", "hubness@3"}
    assert rows[0]["low"] is None
    assert "effective rank" in tables("shape", "-c", "c")


# ---- errors ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (["retrieval", "--same", "nothing"], "no item of"),
        (["retrieval", "--same", "stem"], "no two items"),
        (["retrieval", "--same", "folder", "--metric", "map"], "no metric 'map'"),
        (["retrieval", "--same", "folder", "--where", "key = 'none'"], "no item of"),
        (["retrieval", "--same", "folder", "--model", "none"], "no model 'none'"),
        (["retrieval", "--same", "folder", "--heatmap", "x.jpg"], "name a .png file"),
        (["retrieval", "--same", "folder", "--heatmap", "no/x.png"], "there is no folder no"),
        (["retrieval", "--same", "folder", "--heatmap", "text.png"], "something else"),
        (["retrieval", "--qrels", "bad.qrels"], "bad.qrels:2: 3 fields"),
        (["retrieval", "--qrels", "lost.qrels"], "'no.txt'"),
        (["retrieval", "--qrels", "zero.qrels"], "no query has a relevant item"),
        (["labels", "--label", "colour"], "colour"),
        (["labels", "--label", "folder"], "have the same: 'notes'"),
    ],
)
def test_what_cannot_be_measured_is_one_line_and_exit_code_1(
    muomni: Run, collection: Path, call: list[str], said: str
) -> None:
    write("bad.qrels", "dog.txt 0 red.png 1\ndog.txt 0 red.png\n")
    write("lost.qrels", "dog.txt 0 no.txt 1\n")
    write("zero.qrels", "dog.txt 0 red.png 0\n")
    write("text.png", "no picture")
    result = muomni("eval", *call, "-c", collection)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert said in line
    assert result.stdout == ""
    assert Path("text.png").read_text() == "no picture"


def test_a_heat_map_never_replaces_a_file_of_the_collection(muomni: Run, collection: Path) -> None:
    target = collection / "vectors" / "map.png"
    call = ("eval", "retrieval", "--same", "folder", "-c", collection, "--heatmap", target)
    result = muomni(*call)
    assert result.exit_code == 1
    assert "keeps its own files" in result.stderr
    assert not target.exists()


@pytest.mark.parametrize(
    "call",
    [
        ["retrieval"],
        ["retrieval", "--same", "folder", "--qrels", "q"],
        ["retrieval", "--same", "folder", "--queries", "q"],
        ["run", "q"],
        ["run", "--qrels", "q"],
        ["pairs"],
        ["pairs", "missing.tsv"],
        ["labels"],
        ["labels", "--label", "folder", "--folds", "1"],
    ],
)
def test_a_wrong_call_exits_with_2(muomni: Run, shared: Path, call: list[str]) -> None:
    write("q", "x 0 y 1\n")
    collection = ["-c", shared] if call[0] in ("retrieval", "labels") else []
    assert muomni("eval", *call, *collection).exit_code == 2


def test_json_has_no_nan(muomni: Run) -> None:
    write("r.tsv", "a\tb\t1\nc\td\t1\ne\tf\t1\n")
    result = muomni("eval", "pairs", "r.tsv", "--model", "hashing", "--json")
    rows = [
        json.loads(line, parse_constant=lambda name: pytest.fail(name))
        for line in result.stdout.splitlines()
    ]
    assert rows[0]["value"] is None
