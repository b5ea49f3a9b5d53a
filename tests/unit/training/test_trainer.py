import json
import math
import shutil
from contextlib import suppress
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from file_helpers import mounted_disk
from model_helpers import train_tokenizer
from PIL import Image
from training_helpers import TEACHER

from muomni_search import Modality, durable, load_model, read_recipe, train
from muomni_search.encoders.hashing import HashingModel
from muomni_search.encoders.muomni.network import MuOmni
from muomni_search.errors import (
    CheckpointError,
    Conflict,
    InvalidInput,
    MuomniError,
    TrainingError,
)
from muomni_search.training import examples as prepared
from muomni_search.training import trainer
from muomni_search.training.batches import Ahead
from muomni_search.training.trainer import learning_rate


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
    modes = {path.stat().st_mode for path in (tmp_path / "toy").iterdir() if path.is_file()}
    assert len(modes) == 1  # the one that the umask gives
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
    held = training.report["held_out_examples"]
    assert 2 <= held <= 12
    assert f"{24 - held} examples, {held} held out ({held} to measure with), 0 rows" in card
    assert "text→image" in card
    assert "success@10" in card
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
    shifted = ("seconds = 0.2", "seconds = 0.3\nshift = 0.5")
    recipe = read_recipe(write_recipe(shifted, more=TEACHER))
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
    assert not (tmp_path / "toy").exists()
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


@pytest.mark.parametrize(
    ("what", "spoil"),
    [
        ("loss", lambda loss: loss * math.nan),
        # A root of nothing is nothing, and its slope is infinite.
        ("gradient", lambda loss: loss + (loss * 0).sqrt()),
    ],
    ids=["loss", "gradient"],
)
def test_what_is_no_number_stops_it_and_the_last_good_state_is_kept(
    write_recipe, tmp_path, monkeypatch, what, spoil
):
    recipe = read_recipe(write_recipe())
    lose = trainer._Run._losses

    def spoilt(run, inputs):
        losses = lose(run, inputs)
        return {name: spoil(loss) for name, loss in losses.items()} if run._done == 3 else losses

    monkeypatch.setattr(trainer._Run, "_losses", spoilt)
    with pytest.raises(
        TrainingError, match=rf"the {what} of step 4 is nan: the last good state"
    ) as error:
        train(recipe, tmp_path / "toy")
    assert "learning_rate" in error.value.hint
    state = torch.load(tmp_path / "toy/training/checkpoint.pt", weights_only=True)
    assert state["step"] == 2
    assert all(tensor.isfinite().all() for tensor in state["network"].values())
    assert not (tmp_path / "toy/model.json").exists()


@pytest.mark.parametrize(
    ("rate", "said"),
    [
        (1e3, "the temperature of step 1 is inf"),
        (1e5, "the temperature of step 1 is inf"),
        (1e38, r"the rate of step 1 is 5e\+37"),
    ],
)
def test_a_rate_beyond_sense_stops_it_like_a_loss_that_is_no_number(
    write_recipe, tmp_path, rate, said
):
    recipe = read_recipe(write_recipe(("steps = 4", f"steps = 4\nlearning_rate = {rate}")))
    with pytest.raises(TrainingError, match=rf"{said}.*: nothing was kept yet; try a lower"):
        train(recipe, tmp_path / "toy")
    assert not (tmp_path / "toy/training/checkpoint.pt").exists()


def test_weights_that_no_model_holds_are_noticed_before_they_are_kept(write_recipe, tmp_path):
    # Nothing but the weights grows: decaying by five times their size makes four times as much.
    astray = ("steps = 4", "steps = 40\nlearning_rate = 100")
    plain = "[loss]\ncontrastive = 0\n" + TEACHER + "contrast = 0\n"
    recipe = read_recipe(write_recipe(astray, more=plain))
    said = r"after step (\d+) the weights of .* reach .* --finish makes a model"
    with pytest.raises(TrainingError, match=said) as error:
        train(recipe, tmp_path / "toy")
    step = int(str(error.value).split()[2])
    state = torch.load(tmp_path / "toy/training/checkpoint.pt", weights_only=True)
    assert state["step"] == step - 2
    assert all(tensor.half().isfinite().all() for tensor in state["mean"].values())
    assert [path.name for path in (tmp_path / "toy").iterdir()] == ["training"]
    assert train(recipe, tmp_path / "toy", finish=True).report["steps"] == step - 2
    encoder = load_model(tmp_path / "toy").encoder(Modality.TEXT)
    with suppress(CheckpointError):  # weights so large that on some processors sums overflow
        vectors = encoder.encode(encoder.prepare("a red square"))
        assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("which", ["_weights", "_mean"])
def test_weights_that_the_last_step_spoilt_are_not_kept(write_recipe, tmp_path, monkeypatch, which):
    take = trainer._Run._step

    def spoiling(run, number):
        facts = take(run, number)
        if number == 3:
            getattr(run, which)["proj_v.bias"][7] = math.nan
        return facts

    monkeypatch.setattr(trainer._Run, "_step", spoiling)
    with pytest.raises(TrainingError, match=r"after step 4 the weights of proj_v\.bias reach nan"):
        train(read_recipe(write_recipe()), tmp_path / "toy")
    state = torch.load(tmp_path / "toy/training/checkpoint.pt", weights_only=True)
    assert state["step"] == 2
    assert "NaN" not in (tmp_path / "toy/training/log.jsonl").read_text(encoding="utf-8")


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
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt cannot be read: it is .*begin anew"):
        train(read_recipe(write_recipe()), tmp_path / "toy")


def test_a_flipped_bit_of_a_checkpoint_is_noticed(stopped, write_recipe):
    path = stopped / "training/checkpoint.pt"
    content = bytearray(path.read_bytes())
    with ZipFile(path) as parts:
        largest = max(parts.infolist(), key=lambda part: part.file_size)
    # Behind the head of the part, and before its end: 64 bytes at most are padding.
    content[largest.header_offset + 30 + len(largest.filename) + 64 + 8] ^= 4
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt cannot be read: it is damaged"):
        train(read_recipe(write_recipe(more=TEACHER)), stopped)


@pytest.mark.parametrize(
    "name",
    ["images.npy", "sounds.pcm", "rows.npz", "teacher.npz", "texts.json", "problems.json", "key"],
)
@pytest.mark.parametrize("damage", ["cut", "gone", "other bytes"])
def test_damaged_examples_are_written_again(stopped, write_recipe, name, damage):
    path = stopped / "training/examples" / name
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2 // 2 * 2])
    elif name not in ("images.npy", "sounds.pcm"):  # of which a byte is a pixel
        path.write_bytes(b"\xff" * len(content))
    assert train(read_recipe(write_recipe(more=TEACHER)), stopped).report["steps"] == 4
    assert path.read_bytes() == content or name.endswith(".npz")


def test_a_full_disk_is_told(write_recipe, tmp_path):
    with (
        mounted_disk(tmp_path / "small", 700_000),
        pytest.raises(MuomniError, match="No space left"),
    ):
        train(read_recipe(write_recipe()), tmp_path / "small/toy")


def test_a_teacher_that_is_asked_nothing_is_refused(write_recipe):
    with pytest.raises(InvalidInput, match=r"reads is \[\]"):
        read_recipe(write_recipe(more=TEACHER + "reads = []\n"))


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
        (("vocabulary = 80", "vocabulary = 2"), r"towers.text: vocabulary is 2, not from 8"),
        (("vocabulary = 80", "vocabulary = 8"), r"alone need \d+: raise towers.text.vocabulary"),
        (("heads = 2", 'heads = "2"'), r"towers\.text: kv_heads is '2', no whole number"),
        (("heads = 2", "heads = 256"), r"towers\.text: 256 heads are 1 wide"),
        (("patch = 16", "patch = 16.5"), r"towers\.image: patch is 16\.5, no whole number"),
        (("patch = 16", "patch = 16\ndropout = 3"), r"towers\.image: dropout is 3, not from 0 to"),
        (("logarithm = true", 'logarithm = "yes"'), r"towers\.audio: logarithm is 'yes'"),
        (
            (
                "held_out = 0.25",
                'freeze = ["thinker", "vision_encoder", "audio_encoder", "proj_v", "proj_a"]',
            ),
            r"freeze holds all parts still",
        ),
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


@pytest.mark.parametrize(
    ("there", "chosen"),
    [
        ({"cuda", "mps"}, "cuda"),
        ({"cuda"}, "cuda"),
        ({"mps"}, "mps"),
        (set(), "cpu"),
    ],
)
def test_the_fastest_device_that_is_there_is_chosen(monkeypatch, there, chosen):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in there)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in there)
    assert trainer._device("auto") == chosen
    assert trainer._device("cpu") == "cpu"


# ---- a step ----------------------------------------------------------------------------------


@pytest.fixture
def begin(write_recipe, tmp_path):
    """Return a function that begins a training and takes no step yet."""

    def begin(*changes, more=""):
        recipe = read_recipe(write_recipe(*changes, more=more))
        (tmp_path / "work").mkdir()
        cpu = torch.device("cpu")
        return trainer._Run(recipe, tmp_path / "work", cpu, 1, trainer._Silent())

    return begin


def copied(tensors):
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def test_mean_weights_follow_fast_at_first_and_then_as_the_recipe_says(begin):
    run = begin(("steps = 4", "steps = 40\nema = 0.5"))
    assert all(torch.equal(run._mean[name], one) for name, one in run._weights.items())
    for step, kept in ((0, 1 / 10), (1, 2 / 11), (20, 0.5)):
        before = copied(run._mean)
        run._step(step)
        for name, mean in run._mean.items():
            wanted = kept * before[name] + (1 - kept) * run._weights[name]
            assert torch.allclose(mean, wanted, atol=1e-7), (step, name)
        assert not torch.allclose(run._mean["proj_v.weight"], run._weights["proj_v.weight"])


def test_without_ema_the_mean_weights_are_the_last_ones(begin):
    run = begin(("steps = 4", "steps = 4\nema = 0"))
    run._step(0)
    assert all(torch.equal(run._mean[name], one) for name, one in run._weights.items())


def test_mean_weights_are_measured_and_become_the_model(begin):
    run = begin(more=TEACHER)
    run._step(0)
    measured = run._measure()
    assert measured
    for one in run._weights.values():
        one.zero_()
    assert run._measure() == measured
    assert not any(one.any() for one in run._weights.values())  # these are learned on
    mean = copied(run._mean)
    made = run.mean_network().state_dict()
    assert all(torch.equal(made[name], one) for name, one in mean.items())


def test_a_step_looks_at_a_share_of_the_squares_and_a_measurement_at_all(begin):
    run = begin(("[augmentation]", "[augmentation]\nsquares = 0.5"))
    counts = []
    run._network.vision_encoder.norm.register_forward_hook(
        lambda _, given, __: counts.append(given[0].shape[1])
    )
    run._step(0)
    assert set(counts) == {1 + 2}  # of the four squares of a picture, behind the class
    counts.clear()
    run._measure()
    assert set(counts) == {1 + 4}


def test_a_gradient_is_cut_to_its_largest_norm(begin):
    run = begin(("batch = 8", "batch = 8\nclip = 0.001"))
    facts = run._step(0)
    gradients = [one.grad.flatten() for one in (*run._network.parameters(), run._scale)]
    assert facts["gradient"] > 0.01  # what it was before
    assert float(torch.cat(gradients).norm()) == pytest.approx(0.001, rel=1e-3)


def test_the_temperature_is_learned_and_has_a_least(begin):
    recipe = ("[optimiser]", "[loss]\ntemperature = 0.2\nleast_temperature = 0.05\n[optimiser]")
    run = begin(recipe)
    facts = run._step(0)
    # Adam's first step is as long as the rate, and nothing pulls the scale towards zero.
    assert abs(math.log(facts["temperature"] / 0.2)) == pytest.approx(facts["rate"], rel=1e-2)
    run._scale.data.fill_(10)
    assert run._step(1)["temperature"] == pytest.approx(0.05)


def test_matrices_decay_and_norms_biases_embeddings_and_the_temperature_stay(begin):
    run = begin(("warm_up = 2", "warm_up = 2\nweight_decay = 0.5\nlearning_rate = 0.1"))
    parameters = dict(run._network.named_parameters()) | {"temperature": run._scale}
    for one in parameters.values():
        one.data.fill_(1)
        one.grad = torch.zeros_like(one)
    run._optimiser.step()
    after = {name: one.detach().unique().tolist() for name, one in parameters.items()}
    stay = ("bias", "norm.weight", "norm1.weight", "norm2.weight", "tok_emb.weight", "pos", "cls")
    for name, values in after.items():
        is_still = name.endswith((*stay, "temperature"))
        assert values == pytest.approx([1.0 if is_still else 1 - 0.1 * 0.5]), name
    assert {"thinker.tok_emb.weight", "proj_a.weight", "vision_encoder.pos"} <= after.keys()


# ---- going on, and what else is there --------------------------------------------------------


def checkpoint(directory):
    return (directory / "training/checkpoint.pt").read_bytes()


@pytest.fixture
def stopped(write_recipe, tmp_path, monkeypatch):
    """A training that was killed after its checkpoint."""
    recipe = read_recipe(write_recipe(more=TEACHER))
    with monkeypatch.context() as patched:
        take = trainer._Run._step

        def killed(run, number):
            if number == 2:
                raise Killed
            return take(run, number)

        patched.setattr(trainer._Run, "_step", killed)
        with pytest.raises(Killed):
            train(recipe, tmp_path / "toy")
    return tmp_path / "toy"


def test_a_checkpoint_is_kept_until_all_is_in_order(stopped, write_recipe):
    before = checkpoint(stopped)
    recipe = read_recipe(write_recipe(more=TEACHER))
    with pytest.raises(InvalidInput, match="restart and finish together"):
        train(recipe, stopped, restart=True, finish=True)
    for change in (("heads = 2", "heads = 3"), ("held_out", 'freeze = ["nothing"]\nheld_out')):
        with pytest.raises(InvalidInput):
            train(read_recipe(write_recipe(change, more=TEACHER)), stopped, restart=True)
    assert checkpoint(stopped) == before
    assert train(recipe, stopped, restart=True).report["steps"] == 4


def test_what_else_is_in_a_directory_stays(write_recipe, tmp_path):
    recipe = read_recipe(write_recipe())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/README.md").write_text("mine", encoding="utf-8")
    with pytest.raises(Conflict, match=r"holds 'README\.md', which no training wrote"):
        train(recipe, tmp_path / "mine", restart=True)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["README.md"]
    with pytest.raises(Conflict, match="is a file"):
        train(recipe, tmp_path / "mine/README.md")


def test_a_model_that_was_half_written_is_written_again(write_recipe, tmp_path, monkeypatch):
    recipe = read_recipe(write_recipe())

    def killed(*_):
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr("muomni_search.training.result.draw_curves", killed)
        with pytest.raises(Killed):
            train(recipe, tmp_path / "toy")
    assert (tmp_path / "toy/model.safetensors").exists()
    train(recipe, tmp_path / "toy")
    assert (tmp_path / "toy/model.json").exists()


def test_a_new_beginning_has_a_new_tokenizer(write_recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "write_model", lambda *_: None)
    other = (("vocabulary = 80", "vocabulary = 60"), ("held_out", "fold_case = false\nheld_out"))
    sizes = []
    for changes in ((), other):
        train(read_recipe(write_recipe(*changes)), tmp_path / "toy", restart=True)
        state = torch.load(tmp_path / "toy/training/checkpoint.pt", weights_only=True)
        sizes.append(len(state["network"]["thinker.tok_emb.weight"]))
    train(read_recipe(write_recipe(*other)), tmp_path / "fresh")
    fresh = torch.load(tmp_path / "fresh/training/checkpoint.pt", weights_only=True)
    assert sizes[1] == len(fresh["network"]["thinker.tok_emb.weight"]) != sizes[0]


def test_data_that_changed_since_the_checkpoint_are_refused(stopped, write_recipe, corpus):
    recipe = read_recipe(write_recipe(more=TEACHER))
    table = corpus / "pairs.jsonl"
    said = table.read_text(encoding="utf-8")
    try:
        table.write_text(said.replace("number 5", "number five"), encoding="utf-8")
        with pytest.raises(Conflict, match=r"made before the data changed: .*--restart"):
            train(recipe, stopped)
    finally:
        table.write_text(said, encoding="utf-8")
    # The same bytes, written again.
    picture = corpus / "1.png"
    picture.write_bytes(picture.read_bytes())
    assert train(recipe, stopped).report["steps"] == 4


def test_a_teacher_that_changed_since_the_checkpoint_is_refused(stopped, write_recipe, monkeypatch):
    monkeypatch.setattr(HashingModel, "fingerprint", lambda _: "another")
    with pytest.raises(Conflict, match="made before the teacher changed"):
        train(read_recipe(write_recipe(more=TEACHER)), stopped)


def test_a_torn_line_of_the_log_ends_nothing(stopped, write_recipe):
    with (stopped / "training/log.jsonl").open("a", encoding="utf-8") as log:
        log.write('{"step": 4, "lo')
    train(read_recipe(write_recipe(more=TEACHER)), stopped)
    assert [entry["step"] for entry in read_log(stopped)] == [2, 4]


def test_two_trainings_do_not_share_a_directory(stopped, write_recipe):
    before = checkpoint(stopped)
    with (
        durable.held_folder(stopped / "training", "a test is here"),
        pytest.raises(Conflict, match="another process trains there"),
    ):
        train(read_recipe(write_recipe(more=TEACHER)), stopped, restart=True)
    assert checkpoint(stopped) == before


def test_a_step_does_not_ask_for_all_weights_by_name(write_recipe, tmp_path, monkeypatch):
    counted, ask, take = [], MuOmni.state_dict, trainer._Run._step

    def counting(network, *args, **options):
        counted.append(None)
        return ask(network, *args, **options)

    def step(run, number):
        before = len(counted)
        facts = take(run, number)
        assert len(counted) == before
        return facts

    monkeypatch.setattr(MuOmni, "state_dict", counting)
    monkeypatch.setattr(trainer._Run, "_step", step)
    train(read_recipe(write_recipe()), tmp_path / "toy")
    assert counted


def test_a_start_and_a_recipe_agree_about_sizes(write_recipe, tmp_path, monkeypatch):
    train(read_recipe(write_recipe()), tmp_path / "first")
    start = ("held_out", f'start = ["{tmp_path / "first"}"]\nheld_out')
    networks = []
    build = trainer.build_network
    monkeypatch.setattr(
        trainer, "build_network", lambda towers: networks.append(build(towers)) or networks[-1]
    )
    without = ("layers = 1\nheads = 2", "layers = 1\nheads = 2\ndropout = 0.5")
    train(read_recipe(write_recipe(start, without)), tmp_path / "second")
    assert networks[0].thinker.config.dropout == networks[0].thinker.drop.p == 0.5
    assert networks[0].thinker.config.layers == 1
    more = ("layers = 1\nheads = 2", "layers = 3\nheads = 2")
    with pytest.raises(InvalidInput, match=r"layers is 3, and the tower of the start has 1"):
        train(read_recipe(write_recipe(start, more)), tmp_path / "third")


@pytest.mark.parametrize(
    ("spoil", "error", "said"),
    [
        (
            lambda path: path.unlink(),
            InvalidInput,
            "has a tower for text and no tokenizer: put its tokenizer beside",
        ),
        (
            lambda path: path.write_bytes(b"rubbish"),
            CheckpointError,
            r"tokenizer\.model is no sentencepiece tokenizer: copy it again",
        ),
        (
            lambda path: path.write_bytes(b""),
            CheckpointError,
            r"tokenizer\.model is no sentencepiece tokenizer: copy it again",
        ),
        (
            lambda path: path.write_bytes(train_tokenizer(90)),
            CheckpointError,
            r"has \d+ tokens, and the network beside it knows 60: take the tokenizer",
        ),
    ],
    ids=["missing", "rubbish", "empty", "too large"],
)
def test_a_start_whose_tokenizer_is_of_no_use_is_named(
    write_recipe, tmp_path, muomni_checkpoint, spoil, error, said
):
    start = tmp_path / "start"
    shutil.copytree(muomni_checkpoint / "thinker_tiny", start)
    spoil(start / "tokenizer.model")
    sizes = "vocabulary = 80\nlayers = 1\nheads = 2\nhidden = 16\n"
    recipe = write_recipe((sizes, ""), ("held_out", f'start = ["{start}"]\nheld_out'))
    with pytest.raises(error, match=said) as caught:
        train(read_recipe(recipe), tmp_path / "toy")
    assert str(start) in caught.value.what or repr(start.name) in caught.value.what
    assert not (tmp_path / "toy/model.json").exists()


def test_a_tower_comes_from_the_last_start_that_has_it(write_recipe, tmp_path):
    for name, layers in (("one", 1), ("two", 2)):
        sizes = ("layers = 1\nheads = 2", f"layers = {layers}\nheads = 2")
        train(read_recipe(write_recipe(sizes)), tmp_path / name)
    starts = [str(tmp_path / name) for name in ("one", "two")]
    start = ("held_out", f"start = {starts}\nheld_out")
    plain = ("layers = 1\nheads = 2\nhidden = 16\n", "")
    train(read_recipe(write_recipe(start, plain)), tmp_path / "both")
    assert load_model(tmp_path / "both").parts()["thinker"]["layers"] == 2


def test_captions_of_one_picture_are_all_found_by_it(write_recipe, tmp_path, corpus, monkeypatch):
    rng = np.random.default_rng(2)
    rows = []
    for number in range(12):
        pixels = rng.integers(0, 255, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(corpus / f"found{number}.png")
        rows += [
            {"text": f"{caption} of {number}", "image": f"found{number}.png"}
            for caption in range(3)
        ]
    (corpus / "found.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    said = write_recipe(("pairs", "found")).read_text(encoding="utf-8")
    head, *sections = said.split("\n[")
    path = corpus / "found.toml"
    path.write_text(
        "\n[".join([head, *(one for one in sections if not one.startswith("towers.audio"))]),
        encoding="utf-8",
    )
    perfect = np.linalg.qr(rng.standard_normal((256, 256)))[0].astype(np.float32)

    def embed(run, modality, inputs):
        number = run.examples.numbers[Modality.IMAGE][inputs.rows]
        return torch.from_numpy(perfect[number]).requires_grad_(run._network.training)

    monkeypatch.setattr(trainer._Run, "_embed", embed)
    monkeypatch.setattr(trainer._Run, "_step", lambda *_: {"loss": 0.0})
    monkeypatch.setattr(trainer, "write_model", lambda *_: None)
    found = train(read_recipe(path), tmp_path / "toy").report["last"]["held_out"]
    pictures, texts = found["image→text"]["queries"], found["text→image"]["queries"]
    assert texts == 3 * pictures > 3
    for direction in ("image→text", "text→image"):
        assert found[direction]["success@1"] == found[direction]["mrr"] == 1


class Looker(HashingModel):
    """A teacher that remembers what pictures it was asked about."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def encoder(self, modality):
        encoder = super().encoder(modality)
        if modality == Modality.IMAGE:
            return Watched(encoder, self.seen)
        return encoder


class Watched:
    def __init__(self, encoder, seen):
        self._encoder, self._seen = encoder, seen

    def __getattr__(self, name):
        return getattr(self._encoder, name)

    def prepare(self, picture):
        self._seen.append(picture)
        return self._encoder.prepare(picture)


def test_a_teacher_is_asked_anew_about_pictures_as_they_were_altered(
    write_recipe, tmp_path, monkeypatch
):
    seen = {}
    anew, words_alone = "anew = true\n", 'anew = true\nreads = ["text"]\n'
    for said in (anew, "", words_alone):
        teacher = Looker()
        monkeypatch.setattr(trainer, "_teacher", lambda *_, teacher=teacher: teacher)
        recipe = read_recipe(write_recipe(more=TEACHER + said))
        training = train(recipe, tmp_path / f"toy{len(seen)}")
        assert math.isfinite(training.report["last"]["teacher_image"])
        seen[said] = teacher.seen
    once = len(seen[""])  # each picture, when the examples are prepared
    assert once == 16
    assert not seen[words_alone]
    altered = seen[anew][once:]
    assert 4 * 3 <= len(altered) <= 4 * 8  # what four steps of eight examples hold of pictures
    assert {picture.shape for picture in altered} == {(32, 32, 3)}
    assert len({picture.tobytes() for picture in altered}) == len(altered)


def test_steps_that_are_drawn_ahead_give_the_same_weights(write_recipe, tmp_path, monkeypatch):
    recipe = read_recipe(write_recipe())
    train(recipe, tmp_path / "toy")
    begin = trainer._Run.__init__

    def ahead(run, *args):
        begin(run, *args)
        run._draw = Ahead(run._batches.draw, recipe.optimiser.steps)

    monkeypatch.setattr(trainer._Run, "__init__", ahead)
    train(recipe, tmp_path / "ahead")
    assert weights(tmp_path / "ahead") == weights(tmp_path / "toy")


def test_how_much_a_teacher_counts_leaves_the_examples_as_they_are(
    stopped, write_recipe, monkeypatch
):
    def written(*_):
        raise AssertionError("the examples were written again")

    monkeypatch.setattr(prepared._Writer, "write", written)
    more = TEACHER + "weight = 0.5\nown = 0.5\ncontrast = 0.5\nanew = true\n"
    assert train(read_recipe(write_recipe(more=more)), stopped, restart=True).report["steps"] == 4
    shutil.rmtree(stopped)
    other = read_recipe(write_recipe(more=TEACHER + 'reads = ["text"]\n'))
    with pytest.raises(AssertionError, match="again"):
        train(other, stopped)


def test_what_the_teacher_says_anew_is_learned_with_what_it_says_of_the_text(
    write_recipe, tmp_path
):
    recipe = read_recipe(write_recipe(more=TEACHER + "own = 0.5\n"))
    train(recipe, tmp_path / "toy")
    examples = prepared.load(tmp_path / "toy/training/examples")
    has = {modality: examples.numbers[modality] >= 0 for modality in Modality}
    rows = np.flatnonzero(has[Modality.IMAGE] & ~has[Modality.AUDIO])[:3]
    said = np.eye(3, 256, dtype=np.float32)
    targets = examples.targets(Modality.IMAGE, rows, 0.5, said)
    texts = examples.teacher[Modality.TEXT][examples.numbers[Modality.TEXT][rows]]
    wanted = said + texts
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    assert np.allclose(targets, wanted, atol=1e-3)
