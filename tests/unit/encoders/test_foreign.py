"""Encoders that are not ours: functions, and pretrained models on disk, tiny and random ones.

The pretrained ones are real CLIP, CLAP and sentence-transformers models, written by those
libraries; these tests are skipped where the libraries are not installed.
"""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from muomni_search.alignment import align
from muomni_search.collection import Collection
from muomni_search.encoders.aligned import AlignedModel
from muomni_search.encoders.foreign import registered
from muomni_search.encoders.foreign.registered import (
    FunctionEncoder,
    find_function,
    register_encoder,
)
from muomni_search.encoders.foreign.source import find_source
from muomni_search.encoders.model import load_model
from muomni_search.encoders.protocol import Encoder
from muomni_search.errors import CheckpointError, InvalidInput, NoEncoder, NotFound
from muomni_search.ingest.manifest import read_corpus
from muomni_search.items import Modality, Query

TEXT, IMAGE, AUDIO = Modality.TEXT, Modality.IMAGE, Modality.AUDIO
SECOND = np.sin(np.arange(16_000) / 20).astype(np.float32)


@pytest.fixture(autouse=True)
def _registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registered, "_functions", {})


def find(name: str | Path, modality: Modality) -> Encoder:
    return find_source(name, modality, load_model, threads=1)[1]


def encode(encoder: Encoder, *contents: Any) -> NDArray[np.float32]:
    return encoder.encode([piece for one in contents for piece in encoder.prepare(one)])


# ---- functions -----------------------------------------------------------------------------------


def colours(pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.float64]:
    """Return the mean colour of each picture, and one more number."""
    return np.stack([np.append(one.reshape(-1, 3).mean(axis=0), 1.0) for one in pictures])


def test_a_function_encodes_in_a_space_of_its_own() -> None:
    register_encoder("colours", colours)
    encoder = find("colours", IMAGE)
    assert (encoder.modality, encoder.dim) == (IMAGE, 4)
    rows = encode(encoder, np.full((5, 9, 3), (255, 0, 0), np.uint8))
    assert np.allclose(rows[0], np.array([255, 0, 0, 1]) / np.hypot(255, 1), atol=1e-6)
    assert encoder.encode([]).shape == (0, 4)


def test_a_function_sees_pictures_on_white_and_not_too_large() -> None:
    seen: list[tuple[int, ...]] = []

    def look(pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.float64]:
        seen.extend(one.shape for one in pictures)
        return colours(pictures)

    encoder = FunctionEncoder("look", look, IMAGE)
    clear = np.zeros((3_000, 1_500, 4), np.uint8)
    rows = encode(encoder, clear)
    assert seen[-1] == (1_024, 512, 3)
    assert np.allclose(rows[0, :3], rows[0, 0])
    assert rows[0, 0] > 0.5


def test_a_function_reads_long_texts_in_passages_and_long_sounds_in_windows() -> None:
    text = FunctionEncoder("t", lambda texts: [[len(one), 1.0] for one in texts], TEXT)
    sentence = "one two three four five six seven eight nine ten. "
    pieces = text.prepare(sentence * 25)
    assert [len(piece.data.split()) for piece in pieces] == [100, 100, 50]
    assert [piece.data for piece in pieces] == [
        (sentence * 25)[piece.span.start : piece.span.end] for piece in pieces if piece.span
    ]
    (whole,) = text.prepare("  a short one ")
    assert (whole.data, whole.span) == ("  a short one ", None)
    with pytest.raises(InvalidInput, match="no words"):
        text.prepare(" … ")
    sound = FunctionEncoder("s", lambda sounds: [[len(one), 1.0] for one in sounds], AUDIO)
    pieces = sound.prepare(np.tile(SECOND, 20))
    assert {len(piece.data) for piece in pieces} == {160_000}
    assert [piece.span.start for piece in pieces if piece.span] == [0, 8_000, 10_000]


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda texts: 1 / 0, "ZeroDivisionError"),
        (lambda texts: [1.0] * len(texts), r"gave \(1,\) for 1"),
        (lambda texts: [[1.0, 2.0]] * 3, r"gave \(3, 2\) for 1"),
        (lambda texts: [[np.nan, 1.0] for _ in texts], "NaN"),
        (lambda texts: [[0.0, 0.0] for _ in texts], "zero"),
        (lambda texts: [["a", "b"] for _ in texts], "not a vector"),
        (lambda texts: np.empty((len(texts), 0)), r"gave \(1, 0\)"),
    ],
    ids=["raises", "flat", "many", "nan", "zero", "words", "empty"],
)
def test_a_function_that_gives_no_vectors_is_named(function: Any, said: str) -> None:
    register_encoder("bad", function)
    with pytest.raises(CheckpointError, match=said) as caught:
        find("bad", TEXT)
    assert "'bad'" in caught.value.what
    assert caught.value.hint


def test_a_function_whose_width_changes_is_refused() -> None:
    widths = iter([3, 4])
    encoder = FunctionEncoder("w", lambda texts: np.ones((len(texts), next(widths))), TEXT)
    with pytest.raises(CheckpointError, match="4 numbers a vector, expected 3"):
        encode(encoder, "a word")


@pytest.mark.parametrize("name", ["", "a b", "../x", "/x", "-x", "a:b"])
def test_names_that_are_none_are_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match="no name"):
        register_encoder(name, colours)


def test_what_cannot_be_called_is_refused() -> None:
    with pytest.raises(InvalidInput, match="cannot be called"):
        register_encoder("colours", "colours")  # type: ignore[arg-type]


def test_an_installed_package_brings_a_function(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plugin.py").write_text(
        "def embed(texts):\n    return [[1.0, 2.0] for _ in texts]\n"
    )
    information = tmp_path / "plugin-1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1\n")
    (information / "entry_points.txt").write_text(
        "[muomni_search.encoders]\nours = plugin:embed\nbroken = plugin:nothing\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert find("ours", TEXT).dim == 2
    with pytest.raises(CheckpointError, match=r"'broken' \(plugin:nothing\) cannot be imported"):
        find_function("broken")


def test_no_such_encoder(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="neither a registered function nor a model"):
        find("nothing", TEXT)
    with pytest.raises(NotFound, match="no encoder"):
        find(tmp_path, TEXT)


def test_another_model_of_ours_lends_its_encoder() -> None:
    source, encoder = find_source("hashing", IMAGE, load_model, threads=1)
    assert (source.source, source.name, source.dim) == ("model", "hashing", 256)
    assert encoder is not None
    assert source.fingerprint == load_model("hashing").fingerprint()


def test_a_model_that_lost_the_encoder_that_it_lent_is_damaged(
    muomni_checkpoint: Path, tmp_path: Path
) -> None:
    lender = shutil.copytree(muomni_checkpoint, tmp_path / "lender")
    source, _ = find_source(lender, IMAGE, load_model, threads=1)
    (vision,) = lender.rglob("vision.pt")
    vision.unlink()
    with pytest.raises(CheckpointError, match="the encoder of image") as raised:
        source.open(IMAGE, load_model, threads=1)
    assert not isinstance(raised.value, NoEncoder)


def test_an_aligned_model_lends_none(aligned_model: Path) -> None:
    with pytest.raises(CheckpointError, match="is an aligned model"):
        find(aligned_model, IMAGE)


# ---- pretrained models on disk -------------------------------------------------------------------


def word_tokenizer() -> Any:
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    words = [
        "a",
        "red",
        "dog",
        "and",
        "blue",
        "cat",
        "sing",
        "in",
        "the",
        "green",
        "rain",
        ".",
        "one",
        "two",
        "three",
    ]
    vocabulary = {word: number for number, word in enumerate([*marks, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=16,
    )


TEXT_CONFIG = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 18,
    "eos_token_id": 3,
    "bos_token_id": 2,
    "pad_token_id": 0,
}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of one layer a side, random, as ``save_pretrained`` writes it."""
    transformers = pytest.importorskip("transformers")
    import torch

    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("clip")
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 16,
    }
    config = transformers.CLIPConfig(
        text_config={**TEXT_CONFIG, "projection_dim": 24},
        vision_config={**vision, "projection_dim": 24},
        projection_dim=24,
    )
    transformers.CLIPModel(config).save_pretrained(directory)
    word_tokenizer().save_pretrained(directory)
    said = {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": 32},
        "do_center_crop": True,
        "crop_size": {"height": 32, "width": 32},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.3, 0.3, 0.2],
        "do_convert_rgb": True,
        "resample": 3,
    }
    (directory / "preprocessor_config.json").write_text(json.dumps(said))
    return directory


@pytest.fixture(scope="module")
def clap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLAP of one layer a side, random."""
    transformers = pytest.importorskip("transformers")
    import torch

    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("clap")
    config = transformers.ClapConfig(
        text_config={**TEXT_CONFIG, "projection_dim": 20, "max_position_embeddings": 20},
        audio_config={
            "hidden_size": 64,
            "patch_embeds_hidden_size": 8,
            "depths": [1, 1, 1, 1],
            "num_attention_heads": [1, 1, 2, 2],
            "projection_dim": 20,
            "enable_fusion": False,
        },
        projection_dim=20,
    )
    transformers.ClapModel(config).save_pretrained(directory)
    word_tokenizer().save_pretrained(directory)
    transformers.ClapFeatureExtractor(truncation="rand_trunc").save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence-transformers model of one layer, random."""
    transformers = pytest.importorskip("transformers")
    library = pytest.importorskip("sentence_transformers")
    import torch

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("sentences")
    config = transformers.BertConfig(**{**TEXT_CONFIG, "max_position_embeddings": 16})
    transformers.BertModel(config).save_pretrained(folder / "bert")
    word_tokenizer().save_pretrained(folder / "bert")
    modules = library.sentence_transformer.modules
    words = modules.Transformer(str(folder / "bert"))
    pooling = modules.Pooling(32, pooling_mode="mean")
    model = library.SentenceTransformer(modules=[words, pooling], device="cpu")
    model.save(str(folder / "model"))
    return folder / "model"


def test_both_sides_of_clip_give_what_the_library_gives(clip: Path) -> None:
    import torch
    import transformers

    model = transformers.CLIPModel.from_pretrained(clip).eval()
    tokens = word_tokenizer()(["a red dog", "cat"], padding=True, return_tensors="pt")
    processor = transformers.AutoImageProcessor.from_pretrained(clip)
    picture = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    with torch.inference_mode():
        words = model.get_text_features(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        )
        pictures = model.get_image_features(**processor(images=[picture], return_tensors="pt"))
    for found, expected in (
        (encode(find(clip, TEXT), "a red dog", "cat"), words),
        (encode(find(clip, IMAGE), picture), pictures),
    ):
        rows = getattr(expected, "pooler_output", expected).numpy()
        assert np.allclose(found, rows / np.linalg.norm(rows, axis=1, keepdims=True), atol=1e-5)


def test_long_texts_become_passages_that_the_model_reads_whole(clip: Path) -> None:
    encoder = find(clip, TEXT)
    text = "a red dog and a blue cat . " * 5
    pieces = encoder.prepare(text)
    assert [piece.data for piece in pieces] == ["a red dog and a blue cat ."] * 5
    assert all(piece.span is not None for piece in pieces)
    rows = encoder.encode(pieces)
    assert np.allclose(rows, rows[0], atol=1e-6)
    (short,) = encoder.prepare("the green rain")
    assert short.span is None
    with pytest.raises(InvalidInput, match="no words"):
        encoder.prepare("   ")


def test_clap_hears_windows_that_it_reads_whole_and_says_the_same_twice(clap: Path) -> None:
    encoder = find(clap, AUDIO)
    assert encoder.dim == 20
    sound = np.tile(SECOND, 11)
    pieces = encoder.prepare(sound)
    assert [(p.span.start, p.span.end) for p in pieces if p.span] == [(0, 10_000), (1_000, 11_000)]
    rows = encoder.encode(pieces)
    assert np.array_equal(rows, encoder.encode(encoder.prepare(sound)))
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert encode(encoder, SECOND[:100]).shape == (1, 20)
    assert encode(find(clap, TEXT), "a red dog").shape == (1, 20)


def test_a_sentence_model_reads_words_alone(sentences: Path) -> None:
    from sentence_transformers import SentenceTransformer

    encoder = find(sentences, TEXT)
    expected = SentenceTransformer(str(sentences), device="cpu").encode(["a red dog", "rain"])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert np.allclose(encode(encoder, "a red dog", "rain"), expected, atol=1e-5)
    assert len(encoder.prepare("a red dog and a blue cat . " * 5)) == 5
    with pytest.raises(CheckpointError, match="reads text and no image"):
        find(sentences, IMAGE)


def test_a_side_that_is_not_there_is_named(clip: Path, clap: Path) -> None:
    with pytest.raises(CheckpointError, match=r"'clip' has no side that reads audio"):
        find(clip, AUDIO)
    with pytest.raises(CheckpointError, match=r"'clap' has no side that reads image"):
        find(clap, IMAGE)


# ---- a model that reads by one ------------------------------------------------------------------

COLOURS = {"red": (200, 30, 30), "green": (30, 190, 40), "blue": (30, 40, 210)}


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """A table of pictures of three colours with their names."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(18):
        name = list(COLOURS)[number % 3]
        pixels = np.array(COLOURS[name]) + rng.integers(-20, 20, (8, 8, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{name}-{number}.png")
        rows.append(json.dumps({"text": name, "image": f"{name}-{number}.png"}))
    (tmp_path / "pairs.jsonl").write_text("\n".join(rows))
    return tmp_path / "pairs.jsonl"


def test_a_clip_reads_the_pictures_of_a_model_and_a_collection_is_searched_by_it(
    clip: Path, pairs: Path, tmp_path: Path
) -> None:
    folder = copied(clip, tmp_path)
    done = align(pairs, tmp_path / "model", model="hashing", encoders={"image": folder}, folds=2)
    model = load_model(tmp_path / "model")
    assert isinstance(model, AlignedModel)
    assert (model.sources[IMAGE].source, model.sources[IMAGE].name) == ("pretrained", str(folder))
    assert done.as_dict()["encoders"]["image"]["dim"] == model.sources[IMAGE].dim == 24
    assert min(one["after"]["mrr"] for one in done.learned.retrieval) > 0.9

    picture = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    mapped = encode(find(folder, IMAGE), picture) @ model.maps()[IMAGE]
    mapped /= np.linalg.norm(mapped, axis=1, keepdims=True)
    assert np.allclose(encode(model.encoder(IMAGE), picture), mapped, atol=1e-5)
    with Collection.create(tmp_path / "collection", model=tmp_path / "model") as collection:
        collection.add(read_corpus(sorted(tmp_path.glob("*.png"))))
        for name in COLOURS:
            hits = collection.query(Query.text(name), modality="image", k=6)
            assert {Path(hit.key).name.partition("-")[0] for hit in hits} == {name}

    # Other weights under the same name are another encoder.
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match="is another one now"):
        load_model(tmp_path / "model").encoder(IMAGE)
    assert load_model(tmp_path / "model").encoder(TEXT).modality == TEXT


# ---- folders that cannot be trusted --------------------------------------------------------------

EVIL = "import pathlib\npathlib.Path({mark!r}).write_text('ran')\n"


def copied(place: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(place, tmp_path / "copy"))


def edited(path: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    said = json.loads(path.read_text())
    edit(said)
    path.write_text(json.dumps(said))


def test_nothing_is_fetched_from_elsewhere(
    clip: Path, clap: Path, sentences: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network is not asked, and the libraries are told not to ask it for what is missing."""
    import sentence_transformers
    import transformers

    asked, told = [], []

    def refuse(*address: Any, **_: Any) -> Any:
        asked.append(address)
        raise OSError("there is no network")

    def spied(load: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **options: Any) -> Any:
            told.append((options.get("local_files_only"), options.get("trust_remote_code")))
            return load(*args, **options)

        return run

    for place, name in ((socket, "getaddrinfo"), (socket.socket, "connect")):
        monkeypatch.setattr(place, name, refuse)
    kinds = ("AutoModel", "AutoTokenizer", "AutoImageProcessor", "AutoFeatureExtractor")
    with monkeypatch.context() as patched:
        for kind in kinds:
            loader = getattr(transformers, kind)
            patched.setattr(loader, "from_pretrained", spied(loader.from_pretrained))
        for folder, modality in ((clip, TEXT), (clip, IMAGE), (clap, AUDIO)):
            assert find(folder, modality).modality == modality
    assert told == [(True, False)] * 6  # a model each, and what prepares a content for it
    told.clear()
    whole = sentence_transformers.SentenceTransformer
    with monkeypatch.context() as patched:
        patched.setattr(sentence_transformers, "SentenceTransformer", spied(whole))
        assert find(sentences, TEXT).modality == TEXT
    assert told == [(True, False)]
    with pytest.raises(NotFound, match="neither a registered function nor a model"):
        find("openai/clip-vit-base-patch32", IMAGE)
    assert asked == []


def test_code_in_a_folder_is_not_run(clip: Path, tmp_path: Path) -> None:
    folder, mark = copied(clip, tmp_path), tmp_path / "mark"
    (folder / "evil.py").write_text(EVIL.format(mark=str(mark)) + "class Model: ...\n")
    names = {"AutoModel": "evil.Model", "AutoConfig": "evil.Model", "AutoTokenizer": "evil.Model"}
    edited(folder / "config.json", lambda said: said.update(auto_map=names, model_type="evil"))
    with pytest.raises(CheckpointError, match="copy cannot be loaded"):
        find(folder, TEXT)
    assert not mark.exists()


def test_a_part_of_a_sentence_model_from_elsewhere_is_refused(
    sentences: Path, tmp_path: Path
) -> None:
    folder, mark = copied(sentences, tmp_path), tmp_path / "mark"
    (folder / "evil.py").write_text(EVIL.format(mark=str(mark)) + "class Pooling: ...\n")
    for kind in ("evil.Pooling", "sentence_transformers.util.Pooler"):
        path = folder / "modules.json"
        modules = json.loads(path.read_text())
        modules[1]["type"] = kind
        path.write_text(json.dumps(modules))
        with pytest.raises(CheckpointError, match="is not used here"):
            find(folder, TEXT)
    assert not mark.exists()


def test_pickles_are_not_read(clip: Path, tmp_path: Path) -> None:
    folder = copied(clip, tmp_path)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin is a pickle"):
        find(folder, TEXT)


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"{"])
def test_damaged_weights_are_an_error_that_names_the_folder(
    content: bytes, clip: Path, tmp_path: Path
) -> None:
    folder = copied(clip, tmp_path)
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="copy"):
        find(folder, IMAGE)


def test_a_damaged_configuration_is_an_error_that_names_the_folder(
    clip: Path, tmp_path: Path
) -> None:
    folder = copied(clip, tmp_path)
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="copy"):
        find(folder, IMAGE)


def test_a_folder_without_its_preprocessing_is_named(clip: Path, tmp_path: Path) -> None:
    folder = copied(clip, tmp_path)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(CheckpointError, match="copy cannot be loaded"):
        find(folder, IMAGE)


def test_without_the_packages_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 8)
    with pytest.raises(NotFound, match="transformers") as caught:
        find(tmp_path, IMAGE)
    assert "muomni_search[foreign]" in (caught.value.hint or "")


def test_a_picture_of_the_clip_fixture_is_seen(clip: Path) -> None:
    one, other = (np.asarray(Image.new("RGB", (50, 50), name)) for name in ("red", "blue"))
    rows = encode(find(clip, IMAGE), one, other)
    assert rows[0] @ rows[1] < 0.9999
