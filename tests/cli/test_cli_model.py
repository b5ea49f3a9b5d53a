"""`model check` on checkpoints with some of the encoders; damaged models, there and in `add`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from cli_helpers import Run, answers
from PIL import Image

from muomni_search.encoders.base.model import packaged_directory

THINKER = "thinker_tiny/thinker.pt"
TOKENIZER = "thinker_tiny/tokenizer.model"
VISION = "vision_tiny/vision.pt"
AUDIO = "audio_enc_tiny/audio_enc.pt"
PROJECTORS = "omni_sft_tiny/omni.pt"
NO_TOWER = {
    "text": "lacks a Thinker",
    "image": "lacks a ViT with a projector to 256",
    "audio": "lacks an AuT with a projector to 256",
}


def partial(checkpoint: Path, folder: Path, files: list[str]) -> Path:
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(checkpoint / name, folder / name)
    return folder


@pytest.mark.parametrize(
    ("files", "encodes", "parts", "lacking"),
    [
        ([THINKER, TOKENIZER], "text", ["thinker"], {}),
        ([VISION, PROJECTORS], "image", ["vision_encoder", "proj_v"], {}),
        ([AUDIO, PROJECTORS], "audio", ["audio_encoder", "proj_a"], {}),
        (
            [THINKER, VISION, PROJECTORS],
            "image",
            ["thinker", "vision_encoder", "proj_v"],
            {"text": "lacks a tokenizer (tokenizer.model)"},
        ),
    ],
    ids=["words", "pictures", "sounds", "words without a tokenizer"],
)
def test_a_part_of_a_checkpoint_encodes_what_it_has_and_the_rest_is_a_problem(
    files: list[str],
    encodes: str,
    parts: list[str],
    lacking: dict[str, str],
    muomni: Run,
    muomni_checkpoint: Path,
    tmp_path: Path,
) -> None:
    folder = partial(muomni_checkpoint, tmp_path / "part", files)
    (found,) = answers(muomni("model", "check", folder))
    assert found["encodes"] == {one: one == encodes for one in NO_TOWER}
    assert list(found["parts"]) == parts
    assert all(part["weights"] > 0 for part in found["parts"].values())
    assert found["problems"].keys() == NO_TOWER.keys() - {encodes}
    for modality, said in found["problems"].items():
        assert (NO_TOWER | lacking)[modality] in said
        assert str(folder) in said


@pytest.mark.parametrize(
    ("files", "lacking"),
    [
        ([AUDIO], NO_TOWER),
        ([VISION], NO_TOWER),
        ([THINKER], NO_TOWER | {"text": "lacks a tokenizer"}),
    ],
    ids=["sounds without a projector", "pictures without a projector", "words without a tokenizer"],
)
def test_a_checkpoint_that_encodes_nothing_is_an_error_with_every_reason(
    files: list[str],
    lacking: dict[str, str],
    muomni: Run,
    muomni_checkpoint: Path,
    tmp_path: Path,
) -> None:
    folder = partial(muomni_checkpoint, tmp_path / "part", files)
    result = muomni("model", "check", folder)
    assert (result.exit_code, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("muomni: error: ")
    for said in lacking.values():
        assert said in line


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A copy of `base` without its picture tower."""
    model = tmp_path / "base"
    model.mkdir()
    for path in packaged_directory().iterdir():
        (model / path.name).symlink_to(path)
    (model / "image.onnx").unlink()
    (model / "image.onnx").write_bytes(b"no tower")
    return model


@pytest.mark.parametrize("count", [3, 200])
def test_what_a_damaged_model_cannot_encode_is_no_fault_of_the_files(
    muomni: Run, damaged: Path, tmp_path: Path, count: int
) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number in range(count):
        (corpus / f"a{number:03}.txt").write_text(f"the text number {number}")
    for number in range(3):
        Image.new("RGB", (8, 8), (0, 80 * number, 0)).save(corpus / f"b{number}.png")
    collection = tmp_path / "collection"
    result = muomni("add", corpus, "-c", collection, "--model", damaged)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("muomni: error: ")
    assert "image.onnx is not the file that model.json describes" in line
    assert answers(muomni("failures", "-c", collection)) == []
    other = muomni("add", corpus, "-c", collection, "--model", "muomni-tiny")
    assert other.exit_code == 1
    assert "holds vectors of the model" in other.stderr
    # What was encoded before it is kept, and the next run goes on from there.
    kept = len(answers(muomni("list", "-c", collection)))
    assert 0 < kept <= count
    (damaged / "image.onnx").unlink()
    (damaged / "image.onnx").symlink_to(packaged_directory() / "image.onnx")
    (report,) = answers(muomni("add", corpus, "-c", collection, "--model", damaged))
    assert (report["unchanged"], report["added"], report["failed"]) == (kept, count + 3 - kept, 0)


def test_an_empty_collection_of_another_model_says_so(
    muomni: Run, damaged: Path, tmp_path: Path
) -> None:
    picture = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(picture)
    assert muomni("add", picture, "-c", tmp_path / "c", "--model", damaged).exit_code == 1
    result = muomni("add", picture, "-c", tmp_path / "c", "--model", "muomni-tiny")
    assert result.exit_code == 1
    assert f"{tmp_path / 'c'} is empty and of the model" in result.stderr
    assert f"or: muomni drop -c {tmp_path / 'c'}" in result.stderr
    assert muomni("drop", "-f", "-c", tmp_path / "c").exit_code == 0
    assert muomni("add", picture, "-c", tmp_path / "c").exit_code == 0


def test_a_damaged_tower_is_told_and_ends_with_1(muomni: Run, damaged: Path) -> None:
    result = muomni("model", "check", damaged)
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert (found["encodes"]["text"], found["encodes"]["image"]) == (True, False)
    assert "image.onnx is not the file" in found["problems"]["image"]
    (line,) = result.stderr.splitlines()
    assert line.startswith("muomni: error: ")
    assert found["problems"]["image"] in line


def test_a_tower_that_was_not_fetched_is_told_and_ends_with_1(
    muomni: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUOMNI_CACHE", str(tmp_path / "cache"))
    result = muomni("model", "check", "base")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["encodes"] == {"text": True, "image": True, "audio": False}
    assert "run: muomni model fetch base" in result.stderr


def test_a_checkpoint_with_a_damaged_tokenizer_ends_with_1(
    muomni: Run, muomni_checkpoint: Path, tmp_path: Path
) -> None:
    folder = partial(muomni_checkpoint, tmp_path / "part", [THINKER, VISION, PROJECTORS])
    (folder / TOKENIZER).write_bytes(b"no tokenizer")
    result = muomni("model", "check", folder)
    found = json.loads(result.stdout)
    assert found["encodes"] == {"text": False, "image": True, "audio": False}
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert found["problems"]["text"] in line
    # That there is no tower of sounds is no damage.
    assert found["problems"]["audio"] not in line
