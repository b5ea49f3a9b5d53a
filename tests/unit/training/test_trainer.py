import json
import math

import numpy as np
import pytest
import torch

from muomni_search import Modality, load_model, read_recipe, train
from muomni_search.errors import CheckpointError, Conflict, InvalidInput, TrainingError
from muomni_search.training import trainer
from muomni_search.training.trainer import learning_rate

TEACHER = '[distillation]\nteacher = "hashing"\n'


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def weights(directory):
    return (directory / "model.safetensors").read_bytes()


def read_log(directory):
    lines = (directory / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_a_training_leaves_a_model_that_encodes_all_three(write_recipe, tmp_path, corpus):
    training = train(read_recipe(write_recipe()), tmp_path / "toy")
    assert training.problems == []
    assert training.report["steps"] == 4
    assert {path.name for path in (tmp_path / "toy").iterdir()} == {
        *("README.md", "config.json", "curves.png", "log.jsonl", "model.json"),
        *("model.safetensors", "tokenizer.model", "training"),
    }
    model = load_model(tmp_path / "toy")
    assert model.name == "toy"
    for modality in Modality:
        encoder = model.encoder(modality)
        content = {
            Modality.TEXT: "a red square",
            Modality.IMAGE: np.zeros((8, 8, 3), np.uint8),
            Modality.AUDIO: np.zeros(4000, np.float32),
        }[modality]
        vectors = encoder.encode(encoder.prepare(content))
        assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    assert model.prior.keys() == set(Modality)
    card = (tmp_path / "toy/README.md").read_text(encoding="utf-8")
    assert "18 examples, 6 held out, 0 rows skipped" in card
    assert "text→image" in card
    log = read_log(tmp_path / "toy")
    assert [entry["step"] for entry in log] == [2, 4]


def test_the_same_seed_gives_the_same_weights_and_another_one_others(write_recipe, tmp_path):
    train(read_recipe(write_recipe()), tmp_path / "first")
    train(read_recipe(write_recipe()), tmp_path / "second")
    train(read_recipe(write_recipe(("held_out", "seed = 1\nheld_out"))), tmp_path / "third")
    assert weights(tmp_path / "first") == weights(tmp_path / "second")
    assert weights(tmp_path / "first") != weights(tmp_path / "third")


class Killed(BaseException):
    """What ends a process in the middle."""


@pytest.mark.parametrize("step", [0, 2, 3])
def test_a_training_that_was_killed_goes_on_bit_for_bit(write_recipe, tmp_path, monkeypatch, step):
    recipe = read_recipe(write_recipe(more=TEACHER))
    train(recipe, tmp_path / "whole")
    take = trainer._Run._step

    def killed(run, number):
        if number == step:
            raise Killed
        return take(run, number)

    monkeypatch.setattr(trainer._Run, "_step", killed)
    with pytest.raises(Killed):
        train(recipe, tmp_path / "broken")
    assert not (tmp_path / "broken/model.json").exists()
    monkeypatch.setattr(trainer._Run, "_step", take)
    train(recipe, tmp_path / "broken")
    assert weights(tmp_path / "broken") == weights(tmp_path / "whole")
    losses = [
        [entry["loss"] for entry in read_log(tmp_path / name)] for name in ("broken", "whole")
    ]
    assert losses[0] == losses[1]


def test_a_training_can_be_finished_before_its_last_step(write_recipe, tmp_path, monkeypatch):
    recipe = read_recipe(write_recipe())
    with pytest.raises(InvalidInput, match="nothing was trained yet: leave --finish out"):
        train(recipe, tmp_path / "toy", finish=True)
    take = trainer._Run._step

    def killed(run, number):
        if number == 3:
            raise Killed
        return take(run, number)

    monkeypatch.setattr(trainer._Run, "_step", killed)
    with pytest.raises(Killed):
        train(recipe, tmp_path / "toy")
    training = train(recipe, tmp_path / "toy", finish=True)
    assert (training.report["steps"], training.report["planned_steps"]) == (2, 4)
    assert "2 of 4 steps" in (tmp_path / "toy/README.md").read_text(encoding="utf-8")


def test_a_loss_that_is_no_number_stops_it_and_the_last_good_state_is_kept(
    write_recipe, tmp_path, monkeypatch
):
    recipe = read_recipe(write_recipe())
    lose = trainer._Run._losses

    def spoilt(run, inputs):
        losses = lose(run, inputs)
        return (
            {name: loss * math.nan for name, loss in losses.items()} if run._done == 3 else losses
        )

    monkeypatch.setattr(trainer._Run, "_losses", spoilt)
    with pytest.raises(
        TrainingError, match=r"the loss of step 4 is nan: the last good state"
    ) as error:
        train(recipe, tmp_path / "toy")
    assert "learning_rate" in error.value.hint
    state = torch.load(tmp_path / "toy/training/checkpoint.pt", weights_only=True)
    assert state["step"] == 2
    assert all(tensor.isfinite().all() for tensor in state["network"].values())
    assert not (tmp_path / "toy/model.json").exists()


def test_a_model_that_is_there_stays(write_recipe, tmp_path):
    recipe = read_recipe(write_recipe())
    train(recipe, tmp_path / "toy")
    before = weights(tmp_path / "toy")
    with pytest.raises(Conflict, match="holds a model already"):
        train(recipe, tmp_path / "toy", restart=True)
    assert weights(tmp_path / "toy") == before


def test_a_checkpoint_of_another_recipe_is_refused_until_it_is_told_to_begin_anew(
    write_recipe, tmp_path, monkeypatch
):
    monkeypatch.setattr(trainer, "write_model", lambda *_: None)
    train(read_recipe(write_recipe()), tmp_path / "toy")
    longer = read_recipe(write_recipe(("steps = 4", "steps = 6")))
    with pytest.raises(Conflict, match="is of another recipe"):
        train(longer, tmp_path / "toy")
    assert train(longer, tmp_path / "toy", restart=True).report["steps"] == 6


def test_a_damaged_checkpoint_is_named(write_recipe, tmp_path):
    (tmp_path / "toy/training").mkdir(parents=True)
    (tmp_path / "toy/training/checkpoint.pt").write_bytes(b"rubbish")
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt cannot be read: begin anew"):
        train(read_recipe(write_recipe()), tmp_path / "toy")


def test_parts_that_are_frozen_stay_as_they_began(write_recipe, tmp_path):
    from safetensors.numpy import load_file

    first = ('name = "toy"', 'name = "toy"\nfreeze = ["thinker"]')
    train(read_recipe(write_recipe(first)), tmp_path / "short")
    more = (("steps = 4", "steps = 8"), first)
    train(read_recipe(write_recipe(*more)), tmp_path / "long")
    short, long = (load_file(tmp_path / name / "model.safetensors") for name in ("short", "long"))
    for name in short:
        assert np.array_equal(short[name], long[name]) == name.startswith("thinker."), name


def test_a_training_goes_on_from_the_towers_of_other_models(write_recipe, tmp_path, corpus):
    from safetensors.numpy import load_file

    def only(name, **changes):
        said = write_recipe().read_text(encoding="utf-8")
        head, *sections = said.split("\n[")
        kept = [one for one in sections if not one.startswith("towers.") or f"towers.{name}" in one]
        path = corpus / f"only-{name}.toml"
        path.write_text("\n[".join([head, *kept]) + TEACHER, encoding="utf-8")
        return read_recipe(path)

    starts = []
    for name in ("text", "image"):
        train(only(name), tmp_path / name)
        starts.append(str(tmp_path / name))
    assert not (tmp_path / "image/tokenizer.model").exists()
    assert load_model(tmp_path / "image").prior == {}
    frozen = f'start = {starts}\nfreeze = ["thinker", "vision_encoder", "proj_v"]'
    train(
        read_recipe(write_recipe(("held_out = 0.25", f"held_out = 0.25\n{frozen}"))),
        tmp_path / "all",
    )
    merged = load_file(tmp_path / "all/model.safetensors")
    for name, part in (("text", "thinker."), ("image", "vision_encoder.")):
        theirs = load_file(tmp_path / name / "model.safetensors")
        for key, tensor in theirs.items():
            if key.startswith(part):
                assert np.array_equal(merged[key], tensor), key


def test_learning_lowers_the_loss(write_recipe, tmp_path):
    recipe = read_recipe(write_recipe(("steps = 4", "steps = 60"), more=TEACHER))
    train(recipe, tmp_path / "toy")
    log = read_log(tmp_path / "toy")
    assert log[-1]["loss"] < 0.8 * log[0]["loss"]
    assert log[-1]["held_out"]["cosine_text"] > log[0]["held_out"]["cosine_text"]


def test_the_rate_rises_in_a_line_and_falls_in_a_cosine(write_recipe):
    recipe = read_recipe(write_recipe(("steps = 4", "steps = 102")))
    rates = [learning_rate(step, recipe.optimiser) for step in range(102)]
    assert rates[:2] == pytest.approx([0.5e-3, 1e-3])
    assert rates[52] == pytest.approx(1e-3 * 0.505, rel=1e-3)
    assert rates[101] == pytest.approx(1e-5, rel=0.05)
    assert np.all(np.diff(rates[2:]) < 0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("size = 32", "sise = 32"), r"towers\.image: .*sise.*: there are size, patch"),
        (("vocabulary = 80", "vocabulary = 80\ndim = 64"), r"towers\.text: dim is 64"),
        (("heads = 2", "heads = 3"), r"towers\.text: dim 256 cannot be shared by 3 heads"),
        (("heads = 2", "heads = 4\nkv_heads = 3"), r"4 heads cannot be served by 3"),
        (("patch = 16", "patch = 15"), r"towers\.image: size 32 is no multiple of patch 15"),
        (("channels = 4", "channels = 4\ndownsample = 3"), r"towers\.audio: downsample is 3"),
        (("channels = 4", "channels = 0"), r"towers\.audio: channels is 0"),
        (("vocabulary = 80", "vocabulary = 2"), r"no tokenizer of 2 pieces"),
    ],
)
def test_sizes_that_no_tower_has_are_refused(write_recipe, tmp_path, change, said):
    with pytest.raises(InvalidInput, match=said):
        train(read_recipe(write_recipe(change)), tmp_path / "toy")


def test_there_are_no_more_tokens_than_the_texts_give(write_recipe, tmp_path):
    train(read_recipe(write_recipe(("vocabulary = 80", "vocabulary = 5000"))), tmp_path / "toy")
    sizes = load_model(tmp_path / "toy").parts()["thinker"]
    assert 30 < sizes["vocabulary"] < 500


def test_data_of_one_modality_without_a_teacher_is_refused(write_recipe, tmp_path, corpus):
    (corpus / "words.jsonl").write_text('{"text": "one"}\n{"text": "two"}', encoding="utf-8")
    with pytest.raises(InvalidInput, match=r"a tower for image, and no row of the data"):
        train(read_recipe(write_recipe(("pairs", "words"))), tmp_path / "toy")
    said = write_recipe().read_text(encoding="utf-8").replace("pairs", "words")
    head, *sections = said.split("\n[")
    kept = [one for one in sections if not one.startswith(("towers.image", "towers.audio"))]
    path = corpus / "words.toml"
    path.write_text("\n[".join([head, *kept]), encoding="utf-8")
    with pytest.raises(InvalidInput, match="no row holds two modalities, and there is no teacher"):
        train(read_recipe(path), tmp_path / "words")


def test_a_device_that_is_not_there_is_refused(write_recipe, tmp_path):
    with pytest.raises(InvalidInput, match="there is no device 'abacus'"):
        train(read_recipe(write_recipe()), tmp_path / "toy", device="abacus")
