import json
import tracemalloc

import numpy as np
import pytest
from PIL import Image
from training_helpers import TEACHER

from muomni_search.encoders.hashing import HashingModel
from muomni_search.errors import InvalidInput
from muomni_search.items import Modality
from muomni_search.training import examples as prepared
from muomni_search.training.recipe import read_recipe


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
        {"text": True},
        {"text": "half empty", "audio": ""},
        {"text": " "},
        {},
    ]
    (corpus / "bad.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n{", encoding="utf-8")
    examples = prepare(write_recipe(("pairs", "bad")), tmp_path)
    assert examples.texts == ["good", "half good", "7"]
    said = "\n".join(problem.error for problem in examples.problems)
    for part in ("broken.png", "missing.png", "leaves the folder", "neither text"):
        assert part in said
    for part in (
        "bad.jsonl:6: text is True",
        "bad.jsonl:7: audio is ''",
        "bad.jsonl:8: text is ' '",
    ):
        assert part in said
    assert len(examples.problems) == 8


def test_a_table_of_bad_rows_alone_is_refused(write_recipe, tmp_path, corpus):
    (corpus / "worst.jsonl").write_text('{"image": "missing.png"}', encoding="utf-8")
    with pytest.raises(InvalidInput, match=r"none of the 1 rows can be used; the first: .*missing"):
        prepare(write_recipe(("pairs", "worst")), tmp_path)


def write_table(corpus, name, rows):
    lines = [json.dumps(row) for row in rows]
    (corpus / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")


def write_pictures(corpus, count, kind="picture"):
    rng = np.random.default_rng(1)
    for number in range(count):
        pixels = rng.integers(0, 255, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(corpus / f"{kind}{number}.png")
    return [f"{kind}{number}.png" for number in range(count)]


def sides(examples, modality):
    """Return the contents of a modality that are held out, and those that are learned from."""
    numbers, held = examples.numbers[modality], examples.is_held_out
    return set(numbers[held]) - {-1}, set(numbers[~held]) - {-1}


def test_no_text_is_on_both_sides(write_recipe, tmp_path, corpus):
    write_table(corpus, "twins", [{"text": f"word {number % 10}"} for number in range(100)])
    examples = prepare(write_recipe(("pairs", "twins")), tmp_path)
    held, learned = sides(examples, Modality.TEXT)
    assert held
    assert not held & learned


def test_captions_of_one_picture_are_held_out_together(write_recipe, tmp_path, corpus):
    pictures = write_pictures(corpus, 20)
    rows = [
        {"text": f"caption {caption} of picture {number}", "image": picture}
        for caption in range(5)
        for number, picture in enumerate(pictures)
    ]
    # One caption stands under two pictures.
    rows[0]["text"] = rows[1]["text"]
    write_table(corpus, "captions", rows)
    examples = prepare(write_recipe(("pairs", "captions")), tmp_path)
    assert 5 <= examples.is_held_out.sum() <= 50
    for modality in (Modality.TEXT, Modality.IMAGE):
        held, learned = sides(examples, modality)
        assert held
        assert not held & learned
    assert examples.groups[0] == examples.groups[1]


def test_a_name_of_many_pictures_is_not_held_out_whole(write_recipe, tmp_path, corpus):
    pictures = write_pictures(corpus, 60, "many")
    rows = [{"text": f"kind {n % 2}", "image": one} for n, one in enumerate(pictures)]
    # Another name for one of them: it goes where the picture goes.
    rows.append({"text": "another name", "image": pictures[0]})
    write_table(corpus, "kinds", rows)
    examples = prepare(write_recipe(("pairs", "kinds")), tmp_path)
    assert 5 <= examples.is_held_out.sum() <= 30
    held, learned = sides(examples, Modality.IMAGE)
    assert not held & learned
    assert examples.is_held_out[0] == examples.is_held_out[60]


def test_a_copy_of_a_picture_is_the_same_picture(write_recipe, tmp_path, corpus):
    pictures = write_pictures(corpus, 2, "copied")
    (corpus / "copy.png").write_bytes((corpus / pictures[0]).read_bytes())
    rows = [{"text": one, "image": one} for one in (*pictures, "copy.png")]
    write_table(corpus, "copies", rows)
    examples = prepare(write_recipe(("pairs", "copies")), tmp_path)
    assert examples.numbers[Modality.IMAGE].tolist() == [0, 1, 0]
    assert examples.groups.tolist() == [0, 1, 0]


def test_every_recipe_keeps_the_same_aside(write_recipe, tmp_path, corpus):
    pictures = write_pictures(corpus, 40, "told")
    rows = [{"text": f"told {n}", "image": one} for n, one in enumerate(pictures)]
    write_table(corpus, "together", rows)
    others = [{"text": f"other {n}"} for n in range(40)]
    write_table(corpus, "words", [*others, *({"text": row["text"]} for row in reversed(rows))])
    pairs = prepare(write_recipe(("pairs", "together")), tmp_path / "pairs")
    words = prepare(write_recipe(("pairs", "words")), tmp_path / "words")
    seen = {words.texts[one] for one in sides(words, Modality.TEXT)[1]}
    held = {pairs.texts[one] for one in sides(pairs, Modality.TEXT)[0]}
    assert held
    assert not held & seen
    # A tower fewer, and the same rows.
    said = write_recipe(("pairs", "together")).read_text(encoding="utf-8")
    head, *sections = said.split("\n[")
    path = corpus / "without-text.toml"
    kept = [one for one in sections if not one.startswith("towers.text")]
    path.write_text("\n[".join([head, *kept]), encoding="utf-8")
    assert np.array_equal(prepare(path, tmp_path / "fewer").is_held_out, pairs.is_held_out)
    other = prepare(
        write_recipe(("pairs", "together"), ("held_out", "seed = 1\nheld_out")), tmp_path
    )
    assert not np.array_equal(other.is_held_out, pairs.is_held_out)


def test_no_more_than_asked_for_are_measured_with_and_the_others_are_not_learned(
    write_recipe, tmp_path, corpus
):
    write_table(corpus, "lines", [{"text": f"line {number}"} for number in range(60)])
    all_of_them = prepare(write_recipe(("pairs", "lines")), tmp_path / "all")
    some = ("held_out", "most_held_out = 3\nheld_out")
    few = prepare(write_recipe(("pairs", "lines"), some), tmp_path / "few")
    assert np.array_equal(few.is_held_out, all_of_them.is_held_out)
    assert few.is_measured.sum() == 3
    assert not (few.is_measured & ~few.is_held_out).any()
    assert np.array_equal(all_of_them.is_measured, all_of_them.is_held_out)


def test_sounds_are_written_without_being_held_in_memory(write_recipe, tmp_path):
    recipe = read_recipe(write_recipe())
    writer = prepared._Writer(recipe, tmp_path, 32, None, lambda *_: None)
    count, length = 64, 100_000
    tracemalloc.start()
    try:
        writer._write_sounds((np.full(length, one, np.int16) for one in range(count)), count)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * 2 * length
    written = prepared._mapped(tmp_path / "sounds.pcm")
    assert written.reshape(count, length)[:, 7].tolist() == list(range(count))


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
