"""Checkpoints of every layout load; the others are refused with a list of what does not fit."""

from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from muomni_search.encoders.muomni.aut import AuTConfig
from muomni_search.encoders.muomni.checkpoint import load_network
from muomni_search.encoders.muomni.layouts import find_checkpoint
from muomni_search.encoders.muomni.network import MuOmni
from muomni_search.encoders.muomni.thinker import ThinkerConfig
from muomni_search.encoders.muomni.vit import ViTConfig
from muomni_search.errors import CheckpointError

THINKER = ThinkerConfig(vocabulary=40, layers=2, heads=4, kv_heads=2, hidden=24)
VIT = ViTConfig(size=32, patch=8, dim=16, layers=2, heads=2, hidden=24)
AUT = AuTConfig(channels=4, dim=12, layers=2, heads=3, hidden=20)
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def network() -> MuOmni:
    torch.manual_seed(7)
    return MuOmni(THINKER, VIT, AUT).eval().requires_grad_(False)


def states(network: MuOmni) -> dict[str, State]:
    return {name: dict(part.state_dict()) for name, part in network.named_children()}


def compiled(state: State) -> State:
    """The names that ``torch.compile`` leaves, on the whole and on blocks of it."""
    return {
        "_orig_mod." + name.replace("blocks.0.", "blocks.0._orig_mod."): tensor
        for name, tensor in state.items()
    }


def fused(state: State) -> State:
    """The tensors of a Thinker with as many key/value heads as queries, in one ``qkv``."""
    out = {name: tensor for name, tensor in state.items() if ".attn." not in name}
    for number in range(2):
        attn = f"blocks.{number}.attn."
        out[attn + "o.weight"] = state[attn + "o.weight"]
        out[attn + "qkv.weight"] = torch.cat([state[f"{attn}{one}.weight"] for one in "qkv"])
    return out


def write_separate(folder: Path, network: MuOmni, **changes: Any) -> Path:
    """Write the checkpoint as training leaves it: a folder a tower."""
    part = states(network)
    files = {
        "thinker_tiny/thinker.pt": {
            "model": part["thinker"] | {"lm_head.weight": torch.zeros(40, 256)},
            "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}},
            "step": 1000,
        },
        "vision_tiny/vision.pt": {
            "vit": part["vision_encoder"],
            "img_proj": part["proj_v"],
            "text_proj": {"weight": torch.zeros(3, 3)},
        },
        "audio_enc_tiny/audio_enc.pt": {
            "enc": part["audio_encoder"],
            "head": {"weight": torch.zeros(5, 12)},
        },
        "omni_sft_tiny/omni.pt": {"proj_a": part["proj_a"]},
        **changes,
    }
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is not None:
            torch.save(content, path)
    return folder


def write_export(folder: Path, network: MuOmni, config: dict[str, Any] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    tensors["talker.blocks.0.weight"] = torch.zeros(2, 2)
    tensors["thinker.lm_head.weight"] = torch.zeros(40, 256)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config or {}))
    return folder


def load(path: Path) -> MuOmni:
    found = find_checkpoint(path)
    assert found is not None
    return load_network(found)


def check_same(found: MuOmni, expected: MuOmni) -> None:
    ids, lengths = torch.tensor([[1, 5, 9]]), torch.tensor([3])
    pictures = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    mel = torch.rand(1, 20, 128, generator=torch.Generator().manual_seed(2))
    assert not found.training
    assert not any(parameter.requires_grad for parameter in found.parameters())
    assert torch.allclose(
        found.embed_text(ids, lengths), expected.embed_text(ids, lengths), atol=1e-6
    )
    assert torch.allclose(found.embed_images(pictures), expected.embed_images(pictures), atol=1e-6)
    assert torch.allclose(found.embed_sounds(mel), expected.embed_sounds(mel), atol=1e-6)


# ---- layouts -----------------------------------------------------------------------------


def test_the_one_file_export_loads(network: MuOmni, tmp_path: Path) -> None:
    folder = write_export(tmp_path / "export", network)
    check_same(load(folder), network)
    check_same(load(folder / "model.safetensors"), network)


def test_half_precision_is_read_as_float32(network: MuOmni, tmp_path: Path) -> None:
    halves = {name: one.half().contiguous() for name, one in network.state_dict().items()}
    save_file(halves, tmp_path / "model.safetensors")
    found = load(tmp_path)
    assert {parameter.dtype for parameter in found.parameters()} == {torch.float32}


def test_separate_files_of_nested_tensors_load(network: MuOmni, tmp_path: Path) -> None:
    check_same(load(write_separate(tmp_path, network)), network)


@pytest.mark.parametrize(
    "content",
    [
        lambda state: state,
        lambda state: {"thinker": state},
        lambda state: {"model": compiled(state)},
        lambda state: compiled(state),
        lambda state: {"model": {name: one.half() for name, one in state.items()}},
    ],
    ids=["bare", "thinker", "compiled", "bare and compiled", "half"],
)
def test_the_thinker_may_be_bare_or_nested_or_compiled(
    network: MuOmni, tmp_path: Path, content: Callable[[State], Any]
) -> None:
    state = states(network)["thinker"]
    torch.save(content(state), tmp_path / "thinker.pt")
    found = load(tmp_path)
    assert found.vision_encoder is None
    assert found.thinker is not None
    ids = torch.tensor([[1, 2, 3]])
    assert torch.allclose(found.thinker(ids), network.thinker(ids), atol=2e-2)  # type: ignore[misc]


@pytest.mark.parametrize("nest", [lambda state: state, lambda state: {"model": compiled(state)}])
def test_the_towers_may_be_bare_or_nested_too(
    network: MuOmni, tmp_path: Path, nest: Callable[[State], Any]
) -> None:
    part = states(network)
    changes = {
        "vision_tiny/vision.pt": nest(part["vision_encoder"]),
        "audio_enc_tiny/audio_enc.pt": nest(part["audio_encoder"]),
        "omni_sft_tiny/omni.pt": {"proj_a": part["proj_a"], "proj_v": part["proj_v"]},
    }
    check_same(load(write_separate(tmp_path, network, **changes)), network)


def test_a_configuration_that_bears_a_parts_name_is_that_parts_alone(tmp_path: Path) -> None:
    thinker = ThinkerConfig(vocabulary=40, layers=2, heads=8, kv_heads=8, hidden=24)
    vision = ViTConfig(size=32, patch=16, dim=24, layers=1, heads=4, hidden=20)
    whole = MuOmni(thinker, vision)
    part = states(whole)
    for name, file, state, config in (
        ("thinker_tiny", "thinker.pt", part["thinker"], {"n_heads": 8}),
        # As the reference writes it, of what it was trained beside.
        (
            "vision_tiny",
            "vision.pt",
            part["vision_encoder"],
            {"n_heads": 4, "thinker": {"n_heads": 2}},
        ),
    ):
        (tmp_path / name).mkdir()
        torch.save(state, tmp_path / name / file)
        (tmp_path / name / f"{name}.json").write_text(json.dumps(config))
    found = load(tmp_path)
    assert found.thinker is not None
    assert found.vision_encoder is not None
    assert (found.thinker.config, found.vision_encoder.config) == (thinker, vision)


def test_the_highest_step_stands_in_for_the_final_file(network: MuOmni, tmp_path: Path) -> None:
    state = states(network)["thinker"]
    for step in (900, 1_000, 20):
        torch.save({"model": state, "step": step}, tmp_path / f"thinker_step_{step}.pt")
    found = find_checkpoint(tmp_path)
    assert found is not None
    assert found.files["thinker.pt"].name == "thinker_step_1000.pt"
    torch.save({"model": state}, tmp_path / "thinker.pt")
    found = find_checkpoint(tmp_path)
    assert found is not None
    assert found.files["thinker.pt"].name == "thinker.pt"


def test_what_was_trained_together_goes_before_what_was_trained_alone(
    network: MuOmni, tmp_path: Path
) -> None:
    part = states(network)
    other = {name: tensor + 1 for name, tensor in part["proj_v"].items()}
    omni = {name: part[name] for name in ("proj_a", "proj_v", "thinker")}
    write_separate(
        tmp_path,
        network,
        **{
            "omni_sft_tiny/omni.pt": omni,
            "vision_tiny/vision.pt": {"vit": part["vision_encoder"], "img_proj": other},
            "thinker_tiny/thinker.pt": {
                "model": {name: tensor + 1 for name, tensor in part["thinker"].items()}
            },
        },
    )
    check_same(load(tmp_path), network)


@pytest.mark.parametrize("files", ["all", "vision.pt alone"])
def test_a_projector_into_another_space_is_passed_over(
    network: MuOmni, tmp_path: Path, files: str
) -> None:
    # What the reference's vision training leaves: its pictures meet captions in 128 dimensions.
    elsewhere = {"weight": torch.zeros(128, 16), "bias": torch.zeros(128)}
    vision = {"vit": states(network)["vision_encoder"], "img_proj": elsewhere}
    write_separate(tmp_path, network, **{"vision_tiny/vision.pt": vision})
    found = load(tmp_path if files == "all" else tmp_path / "vision_tiny/vision.pt")
    assert found.vision_encoder is not None
    assert found.proj_v is None
    if files == "all":
        ids, lengths = torch.tensor([[1, 5, 9]]), torch.tensor([3])
        assert torch.equal(found.embed_text(ids, lengths), network.embed_text(ids, lengths))
        mel = torch.rand(1, 20, 128)
        assert torch.equal(found.embed_sounds(mel), network.embed_sounds(mel))


def test_a_projector_into_another_space_gives_way_to_the_one_trained_together(
    network: MuOmni, tmp_path: Path
) -> None:
    part = states(network)
    vision = {"vit": part["vision_encoder"], "img_proj": {"weight": torch.zeros(128, 16)}}
    omni = {name: part[name] for name in ("proj_a", "proj_v")}
    changes = {"vision_tiny/vision.pt": vision, "omni_sft_tiny/omni.pt": omni}
    check_same(load(write_separate(tmp_path, network, **changes)), network)
    omni["proj_v"] = vision["img_proj"]
    with pytest.raises(CheckpointError, match=r"proj_v\.weight \(128, 16\), not \(256, 16\)"):
        load(write_separate(tmp_path, network, **changes))


@pytest.mark.parametrize("heads", [2, 4])
def test_a_fused_thinker_has_as_many_keys_as_queries(tmp_path: Path, heads: int) -> None:
    config = ThinkerConfig(vocabulary=40, layers=2, heads=heads, kv_heads=heads, hidden=24)
    whole = MuOmni(config).eval()
    assert whole.thinker is not None
    torch.save(fused(dict(whole.thinker.state_dict())), tmp_path / "thinker.pt")
    (tmp_path / "config.json").write_text(json.dumps({"thinker": {"n_heads": heads}}))
    found = load(tmp_path).thinker
    assert found is not None
    assert found.config == config
    ids = torch.tensor([[1, 2, 3]])
    assert torch.allclose(found(ids), whole.thinker(ids), atol=1e-6)


@pytest.mark.parametrize("downsample", [4, 8])
def test_sounds_are_halved_two_or_three_times(tmp_path: Path, downsample: int) -> None:
    config = AuTConfig(channels=4, downsample=downsample, dim=12, layers=1, heads=3, hidden=20)
    whole = MuOmni(audio=config).eval()
    assert whole.audio_encoder is not None
    torch.save({"enc": whole.audio_encoder.state_dict()}, tmp_path / "audio_enc.pt")
    found = load(tmp_path)
    assert found.audio_encoder is not None
    assert found.audio_encoder.config == config
    assert found.proj_a is None
    mel = torch.rand(1, 9, 128)
    assert torch.allclose(found.audio_encoder(mel), whole.audio_encoder(mel), atol=1e-6)


def test_sizes_come_from_the_tensors_and_the_rest_from_the_configuration(tmp_path: Path) -> None:
    config = ThinkerConfig(
        vocabulary=123, layers=3, heads=8, kv_heads=2, hidden=31, context=64, rope_theta=500.0
    )
    folder = tmp_path / "thinker_tiny"
    folder.mkdir()
    whole = MuOmni(config)
    assert whole.thinker is not None
    torch.save(whole.thinker.state_dict(), folder / "thinker.pt")
    # What the tensors tell is not asked of it.
    told = {"n_heads": 8, "ctx_len": 64, "rope_theta": 500, "n_layers": 99, "vocab_size": 5}
    (folder / "thinker_tiny.json").write_text(json.dumps(told))
    found = load(tmp_path).thinker
    assert found is not None
    assert found.config == config


# ---- what is refused ---------------------------------------------------------------------


def test_a_folder_without_a_checkpoint_has_none(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    assert find_checkpoint(tmp_path) is None
    assert find_checkpoint(tmp_path / "notes.txt") is None
    assert find_checkpoint(tmp_path / "nowhere") is None


def test_missing_unexpected_and_misshapen_tensors_are_listed(
    network: MuOmni, tmp_path: Path
) -> None:
    state = states(network)["thinker"]
    del state["blocks.1.norm2.weight"]
    state["blocks.0.attn.bias"] = torch.zeros(3)
    state["blocks.1.mlp.up_proj.weight"] = torch.zeros(9, 256)
    torch.save(state, tmp_path / "thinker.pt")
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path)
    said = caught.value.what
    assert "missing: thinker.blocks.1.norm2.weight" in said
    assert "unexpected: thinker.blocks.0.attn.bias" in said
    assert "of another shape: thinker.blocks.1.mlp.up_proj.weight (9, 256), not (24, 256)" in said
    assert str(tmp_path) in said


def test_names_are_listed_too_where_a_size_cannot_be_read(network: MuOmni, tmp_path: Path) -> None:
    plain = {
        name.replace("gate_proj", "fc1").replace("down_proj", "fc2"): tensor
        for name, tensor in states(network)["thinker"].items()
        if "up_proj" not in name
    }
    torch.save(plain, tmp_path / "thinker.pt")
    sounds = states(network)["audio_encoder"]
    del sounds["down.0.net.0.weight"], sounds["norm.weight"]
    torch.save({"enc": sounds}, tmp_path / "audio_enc.pt")
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path)
    mlps = [f"thinker.blocks.{number}.mlp" for number in (0, 1)]
    missing = [f"{mlp}.{name}_proj.weight" for mlp in mlps for name in ("down", "gate", "up")]
    unexpected = [f"{mlp}.{name}.weight" for mlp in mlps for name in ("fc1", "fc2")]
    first = ["audio_encoder.down.0.net.0.weight", "audio_encoder.norm.weight", *missing][:6]
    assert caught.value.what == (
        f"{tmp_path} does not fit μOmni's encoders; missing: {', '.join(first)} and 2 more; "
        f"unexpected: {', '.join(unexpected)}"
    )


@pytest.mark.parametrize(
    ("file", "part", "name"),
    [
        ("thinker.pt", "thinker", "tok_emb.weight"),
        ("thinker.pt", "thinker", "blocks.0.attn.k.weight"),
        ("thinker.pt", "thinker", "blocks.0.mlp.gate_proj.weight"),
        ("vision.pt", "vision_encoder", "proj.weight"),
        ("vision.pt", "vision_encoder", "pos"),
        ("vision.pt", "vision_encoder", "blocks.0.linear1.weight"),
        ("audio_enc.pt", "audio_encoder", "proj.weight"),
        ("audio_enc.pt", "audio_encoder", "blocks.0.mlp.0.weight"),
    ],
)
def test_a_size_that_cannot_be_read_is_the_only_fault_where_it_is(
    network: MuOmni, tmp_path: Path, file: str, part: str, name: str
) -> None:
    state = states(network)[part]
    del state[name]
    within = {"thinker.pt": "model", "vision.pt": "vit", "audio_enc.pt": "enc"}[file]
    torch.save({within: state}, tmp_path / file)
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path)
    assert caught.value.what.endswith(f"encoders; missing: {part}.{name}")


def test_a_checkpoint_of_something_else_says_what_it_lacks(tmp_path: Path) -> None:
    torch.save({"fc.weight": torch.zeros(2, 2)}, tmp_path / "thinker.pt")
    said = r"missing: thinker\.blocks\.0\..* and 5 more; unexpected: thinker\.fc\.weight$"
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path)
    assert re.search(said, caught.value.what)
    torch.save({"enc": {}}, tmp_path / "audio_enc.pt")
    (tmp_path / "thinker.pt").unlink()
    with pytest.raises(CheckpointError, match="none of μOmni's encoders"):
        load(tmp_path)


def test_a_mixture_of_experts_is_refused_by_name(network: MuOmni, tmp_path: Path) -> None:
    state = states(network)["thinker"]
    state["blocks.0.moe.router.weight"] = torch.zeros(8, 256)
    torch.save(state, tmp_path / "thinker.pt")
    with pytest.raises(CheckpointError, match="mixture of experts"):
        load(tmp_path)


class Opens:
    """A pickle that would run a command."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


def test_a_pickle_with_code_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    torch.save({"model": Opens(mark)}, tmp_path / "thinker.pt")
    with pytest.raises(CheckpointError, match=r"thinker\.pt holds more than tensors"):
        load(tmp_path)
    (tmp_path / "thinker.pt").write_bytes(pickle.dumps(Opens(mark)))
    with pytest.raises(CheckpointError, match=r"thinker\.pt"):
        load(tmp_path)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["thinker.pt", "model.safetensors"])
@pytest.mark.parametrize("keep", [0, 1, 3, 300, 5_000, 20_000, 0.3, 0.99])
def test_a_truncated_file_is_refused(
    network: MuOmni, tmp_path: Path, name: str, keep: float
) -> None:
    if name.endswith(".pt"):
        torch.save(states(network)["thinker"], tmp_path / name)
    else:
        write_export(tmp_path, network)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: int(keep * len(data) if 0 < keep < 1 else keep)])
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.") + ".* damaged"):
        load(tmp_path)


def test_a_pointer_to_a_file_that_was_not_fetched_is_named(tmp_path: Path) -> None:
    (tmp_path / "audio_enc.pt").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"
    )
    with pytest.raises(CheckpointError, match="git lfs pull"):
        load(tmp_path)


def test_weights_that_are_no_numbers_are_refused(network: MuOmni, tmp_path: Path) -> None:
    state = states(network)["thinker"]
    state["norm.weight"] = torch.full((256,), torch.nan)
    torch.save(state, tmp_path / "thinker.pt")
    with pytest.raises(CheckpointError, match=r"thinker\.norm\.weight holds NaN"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "config.json cannot be read"),
        ("[]", "no JSON object"),
        ('{"thinker": {"n_heads": 7}}', "7 heads cannot share"),
        ('{"thinker": {"n_heads": 0}}', "n_heads 0"),
        ('{"thinker": {"n_heads": "four"}}', "n_heads 'four'"),
        ('{"thinker": {"ctx_len": NaN}}', "ctx_len nan"),
        ('{"vision": {"n_heads": 3}}', "16 wide"),
        ('{"thinker": {"ctx_len": Infinity}}', "ctx_len inf"),
        ('{"thinker": {"ctx_len": 1e999}}', "ctx_len inf"),
        ('{"thinker": {"ctx_len": 1000000000000}}', "ctx_len 1000000000000"),
        (f'{{"thinker": {{"ctx_len": 1{"0" * 400}}}}}', "ctx_len 10+…"),
        ('{"thinker": {"ctx_len": 64.5}}', "ctx_len 64.5"),
        ('{"thinker": {"n_heads": Infinity}}', "n_heads inf"),
        ('{"audio": {"n_heads": Infinity}}', "n_heads inf"),
        ('{"thinker": {"rope_theta": 1e999}}', "rope_theta inf"),
        ('{"thinker": {"rope_theta": true}}', "rope_theta True"),
        ('{"thinker": {"n_heads": 256}}', "heads 1 wide"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(
    network: MuOmni, tmp_path: Path, content: str, said: str
) -> None:
    write_export(tmp_path, network)
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=said):
        load(tmp_path)


def looped() -> dict[str, Any]:
    content: dict[str, Any] = {}
    content["model"] = content
    return content


def widening() -> dict[str, Any]:
    """Dictionaries with 100 references to the next each: 10^12 paths through few of them."""
    content: dict[str, Any] = {"end": 0}
    for _ in range(6):
        content = {str(number): content for number in range(100)}
    return content


@pytest.mark.parametrize("content", [looped, widening])
def test_dictionaries_without_end_are_refused(
    tmp_path: Path, content: Callable[[], dict[str, Any]]
) -> None:
    torch.save(content(), tmp_path / "thinker.pt")
    with pytest.raises(CheckpointError, match="nested without end"):
        load(tmp_path)


@pytest.mark.parametrize(
    "empty",
    [
        torch.zeros(1).expand(40, 256),
        torch.zeros(256).expand(40, 256),
        torch.zeros(40, 256, device="meta"),
        torch.zeros(40, 256).to_sparse(),
    ],
    ids=["one number", "one row", "meta", "sparse"],
)
def test_a_tensor_without_its_values_is_refused(
    network: MuOmni, tmp_path: Path, empty: Tensor
) -> None:
    state = states(network)["thinker"] | {"tok_emb.weight": empty}
    torch.save(state, tmp_path / "thinker.pt")
    with pytest.raises(CheckpointError, match=r"thinker\.tok_emb\.weight is a tensor without"):
        load(tmp_path)


def test_what_is_not_read_may_be_anything(network: MuOmni, tmp_path: Path) -> None:
    state = states(network)["thinker"] | {"lm_head.weight": torch.zeros(1).expand(40, 256)}
    torch.save({"model": state, "extra": torch.zeros(3, device="meta")}, tmp_path / "thinker.pt")
    assert load(tmp_path).thinker is not None


def test_no_block_is_built_for_a_number_that_a_name_has(
    network: MuOmni, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[ThinkerConfig] = []

    class Counted(MuOmni):
        def __init__(self, thinker: ThinkerConfig, *rest: Any, **named: Any) -> None:
            built.append(thinker)
            super().__init__(thinker, *rest, **named)
            assert all(one.is_meta for one in self.parameters())

    monkeypatch.setattr("muomni_search.encoders.muomni.checkpoint.MuOmni", Counted)
    state = states(network)["thinker"] | {f"blocks.{'9' * 5_000}.x": torch.zeros(1)}
    torch.save(state, tmp_path / "thinker.pt")
    with pytest.raises(CheckpointError, match=r"missing: thinker\.blocks\.2\..*unexpected: .*999"):
        load(tmp_path)
    assert [one.layers for one in built] == [3]
