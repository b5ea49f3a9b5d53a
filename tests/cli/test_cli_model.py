"""`model check` on checkpoints that have some of the encoders."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from cli_helpers import Run, answers

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
