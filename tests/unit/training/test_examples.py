import json

import numpy as np
import pytest

from muomni_search.encoders.hashing import HashingModel
from muomni_search.errors import InvalidInput
from muomni_search.items import Modality
from muomni_search.training import examples as prepared
from muomni_search.training.recipe import read_recipe

TEACHER = '[distillation]\nteacher = "hashing"\n'


def prepare(path, folder, teacher=None):
    seen = []
    recipe = read_recipe(path)
    prepared.prepare(
        recipe, folder, size=32, teacher=teacher, step=lambda *facts: seen.append(facts)
    )
    return prepared.load(folder)


def test_contents_are_written_once_and_numbered(write_recipe, tmp_path):
    examples = prepare(write_recipe(), tmp_path)
    assert len(examples.texts) == 24
    assert examples.images.shape == (16, 32, 32, 4)
    assert len(examples.sound_ends) == 12
    assert examples.numbers[Modality.IMAGE][:4].tolist() == [-1, 0, 1, -1]
    assert len(examples.sound(0)) == len(examples.sound(11)) == 4800
    assert np.abs(examples.sound(3)).max() == pytest.approx(0.4, abs=0.01)


def test_what_is_prepared_is_not_prepared_again(write_recipe, tmp_path, monkeypatch):
    path = write_recipe()
    prepare(path, tmp_path)
    monkeypatch.setattr(prepared, "_Writer", None)
    prepare(path, tmp_path)


def test_another_table_is_prepared_anew(write_recipe, tmp_path, corpus):
    prepare(write_recipe(), tmp_path)
    (corpus / "few.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n', encoding="utf-8")
    assert len(prepare(write_recipe(("pairs", "few")), tmp_path).texts) == 2


def test_bad_rows_are_set_aside_with_their_reasons(write_recipe, tmp_path, corpus):
    (corpus / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing more")
    rows = [
        {"text": "good"},
        {"text": "half good", "image": "broken.png"},
        {"image": "missing.png"},
        {"image": "../outside.png"},
        {"text": 7},
        {},
    ]
    (corpus / "bad.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n{", encoding="utf-8")
    examples = prepare(write_recipe(("pairs", "bad")), tmp_path)
    assert examples.texts == ["good", "half good"]
    said = "\n".join(problem.error for problem in examples.problems)
    for part in ("broken.png", "missing.png", "leaves the folder", "text is 7", "neither text"):
        assert part in said
    assert len(examples.problems) == 6


def test_a_table_of_bad_rows_alone_is_refused(write_recipe, tmp_path, corpus):
    (corpus / "worst.jsonl").write_text('{"image": "missing.png"}', encoding="utf-8")
    with pytest.raises(InvalidInput, match=r"none of the 1 rows can be used; the first: .*missing"):
        prepare(write_recipe(("pairs", "worst")), tmp_path)


def test_no_text_is_on_both_sides(write_recipe, tmp_path, corpus):
    lines = [json.dumps({"text": f"word {number % 10}"}) for number in range(100)]
    (corpus / "twins.jsonl").write_text("\n".join(lines), encoding="utf-8")
    examples = prepare(write_recipe(("pairs", "twins")), tmp_path)
    held = set(examples.groups[examples.is_held_out])
    assert held
    assert not held & set(examples.groups[~examples.is_held_out])
    assert 10 <= examples.is_held_out.sum() <= 25


def test_the_teacher_says_what_examples_should_become(write_recipe, tmp_path):
    model = HashingModel()
    examples = prepare(write_recipe(more=TEACHER), tmp_path, model)
    rows = np.array([1, 5])
    words = model.encoder(Modality.TEXT)
    said = np.concatenate([words.encode(words.prepare(examples.texts[number])) for number in rows])
    # float16 on the disk.
    assert examples.targets(Modality.TEXT, rows, 1.0) == pytest.approx(said, abs=2e-3)
    mixed = examples.targets(Modality.IMAGE, rows, 0.5)
    assert np.linalg.norm(mixed, axis=1) == pytest.approx(1, abs=1e-5)
    alone = examples.targets(Modality.TEXT, np.array([0]), 0.5)  # has no picture, no sound
    assert alone == pytest.approx(examples.targets(Modality.TEXT, np.array([0]), 1.0))


def test_a_teacher_that_reads_words_alone_says_nothing_of_lone_pictures(
    write_recipe, tmp_path, corpus
):
    rows = [{"text": "named", "image": "1.png"}, {"image": "2.png"}]
    (corpus / "lone.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    path = write_recipe(("pairs", "lone"), more=f'{TEACHER}reads = ["text"]\n')
    examples = prepare(path, tmp_path, HashingModel())
    assert set(examples.teacher) == {Modality.TEXT}
    targets = examples.targets(Modality.IMAGE, np.array([0, 1]), 0.5)
    assert targets[0] == pytest.approx(examples.targets(Modality.TEXT, np.array([0]), 1.0)[0])
    assert not targets[1].any()
