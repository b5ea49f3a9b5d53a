"""Read a checkpoint into a network, without unpickling anything but tensors.

Names may carry ``_orig_mod.``, which ``torch.compile`` leaves. Sizes come from the tensors; what
they do not tell (heads, rotary base, context) from the configuration beside, else from defaults.
"""

from __future__ import annotations

import json
import math
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from muomni_search.encoders.muomni.aut import AuTConfig
from muomni_search.encoders.muomni.layouts import PLACES, SECTIONS, Found
from muomni_search.encoders.muomni.network import MuOmni
from muomni_search.encoders.muomni.thinker import ThinkerConfig
from muomni_search.encoders.muomni.vit import ViTConfig
from muomni_search.errors import CheckpointError

__all__ = ["load_network"]

Tensors = dict[str, Tensor]
FITTING = "name a checkpoint of Thinker, ViT-Tiny or AuT-Tiny"
COPY_AGAIN = "copy or save it again"
LFS_POINTER = b"version https://git-lfs"
ZIP_HEAD = b"PK\x03\x04"  # what PyTorch writes begins so
# How many names an error lists of each kind.
NAMES_SHOWN = 6
# How much of a value an error shows.
VALUE_SHOWN = 40
# What a checkpoint may hold beside the encoders: heads for training and for speech.
IGNORED = ("lm_head.",)
# A file comes from anywhere: what a configuration may say, and how its tensors may be nested. The
# reference's own have a context of 512, a base of 10,000, and tensors two dictionaries deep.
MOST_HEADS, MOST_TOKENS, MOST_THETA = 1_024, 65_536, 1e12
MOST_NESTED, MOST_NAMES = 8, 1_000_000


def load_network(found: Found) -> MuOmni:
    """Return the network of a checkpoint, float32, in evaluation mode.

    Raises:
        CheckpointError: A file is damaged, would run code, or its tensors do not fit; the error
            lists what is missing, unexpected or of the wrong shape.
    """
    tensors = {name: _read(path) for name, path in found.files.items()}
    parts = dict(_parts(tensors))
    if not parts:
        raise CheckpointError(
            f"{found.path} holds none of μOmni's encoders", hint="name the folder of a checkpoint"
        )
    told = _configuration(found)
    configs: dict[str, Any] = {}
    all_sized = True
    for part in (one for one in SECTIONS if one in parts):
        read = _Reader(found, part, parts[part], told.get(SECTIONS[part], {}))
        try:
            configs[part] = CONFIGS[part](read)
        except KeyError:
            # It will be refused, and a network of other sizes has the names to say with.
            configs[part], all_sized = NAMED_ALIKE[part](read), False
    # Without memory until the tensors are known to be those that it needs.
    with torch.device("meta"):
        network = MuOmni(
            configs.get("thinker"),
            configs.get("vision_encoder"),
            configs.get("audio_encoder"),
            projects_vision="proj_v" in parts,
            projects_audio="proj_a" in parts,
        )
    _fill(network, parts, found, has_shapes=all_sized)
    return network.eval().requires_grad_(False)


def _parts(tensors: Mapping[str, Tensors]) -> Iterator[tuple[str, Tensors]]:
    """Yield each part that is there with its tensors, from the first place that has it.

    Tensors that are ignored are left out.
    """
    seen = set()
    for place in PLACES:
        found = {
            name.removeprefix(place.prefix): tensor
            for name, tensor in tensors.get(place.file, {}).items()
            if name.startswith(place.prefix)
            and not name.removeprefix(place.prefix).startswith(IGNORED)
        }
        if found and place.part not in seen and _has_width(found, place.width):
            seen.add(place.part)
            yield place.part, found


def _has_width(projector: Tensors, width: int | None) -> bool:
    """Return whether a projector gives so many numbers, as far as its weight says; None is any."""
    weight = projector.get("weight")
    return width is None or weight is None or weight.shape[:1] == (width,)


def _fill(network: MuOmni, parts: Mapping[str, Tensors], found: Found, *, has_shapes: bool) -> None:
    """Give a network without memory its tensors, as float32.

    Args:
        network: The network.
        parts: Its tensors.
        found: Where they are from.
        has_shapes: Whether it has the sizes of the checkpoint, and not only the names.

    Raises:
        CheckpointError: They are not exactly those that it needs, or hold more than the file.
    """
    for part, tensors in parts.items():
        for name, tensor in tensors.items():
            if not _is_whole(tensor):
                raise CheckpointError(
                    f"{found.path}: {part}.{name} is a tensor without its values in the file",
                    hint="save contiguous tensors, on the CPU",
                )
    given = {
        f"{part}.{name}": tensor
        for part, tensors in parts.items()
        if getattr(network, part) is not None
        for name, tensor in _split_fused(tensors).items()
    }
    needed = network.state_dict()
    _refuse(
        found,
        {
            "missing": sorted(needed.keys() - given.keys()),
            "unexpected": sorted(given.keys() - needed.keys()),
            "of another shape": [
                f"{name} {tuple(given[name].shape)}, not {tuple(needed[name].shape)}"
                for name in sorted(needed.keys() & given.keys())
                if has_shapes and given[name].shape != needed[name].shape
            ],
        },
    )
    network.to_empty(device="cpu").load_state_dict(given)
    for name, tensor in network.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(
                f"{found.path}: {name} holds NaN or infinity", hint="take an earlier checkpoint"
            )


def _is_whole(tensor: Tensor) -> bool:
    """Return whether a tensor's values are all there: of a broadcast one the file has a few."""
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_nested:
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def _split_fused(tensors: Tensors) -> Tensors:
    """Return the tensors with ``attn.qkv`` cut into q, k and v, in this order."""
    split: Tensors = {}
    for name, tensor in tensors.items():
        if name.endswith("attn.qkv.weight"):
            for letter, third in zip("qkv", tensor.chunk(3), strict=False):
                split[name.replace("qkv", letter)] = third
        else:
            split[name] = tensor
    return split


def _refuse(found: Found, faults: Mapping[str, list[str]]) -> None:
    said = []
    for kind, names in faults.items():
        if names:
            more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
            said.append(f"{kind}: {', '.join(names[:NAMES_SHOWN])}{more}")
    if said:
        raise CheckpointError(
            f"{found.path} does not fit μOmni's encoders; {'; '.join(said)}",
            hint=FITTING,
        )


# ---- sizes -----------------------------------------------------------------------------------


class _Reader:
    """The sizes of one part, as its tensors tell them, and what the configuration says besides."""

    def __init__(self, found: Found, part: str, tensors: Tensors, told: Mapping[str, Any]) -> None:
        self._found, self._part, self._tensors, self._told = found, part, tensors, told

    def size(self, name: str, axis: int) -> int:
        """Return the length of a tensor along an axis.

        Raises:
            KeyError: There is no such tensor.
            CheckpointError: It has no such axis.
        """
        tensor = self._tensors[name]
        if tensor.dim() <= axis or not tensor.numel():
            raise self.refusal(f"has no axis {axis} in {name}")
        return int(tensor.shape[axis])

    def has(self, name: str) -> bool:
        """Whether a tensor's name contains this."""
        return any(name in one for one in self._tensors)

    def layers(self) -> int:
        """Return how many blocks there are, whatever their numbers."""
        numbers = (re.match(r"blocks\.(\d+)\.", name) for name in self._tensors)
        return len({number[1] for number in numbers if number})

    def told(self, name: str, default: float, most: float) -> float:
        """Return a number of the configuration.

        Raises:
            CheckpointError: It is none, or not from 1 to ``most``.
        """
        value = self._told.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value <= most:
            raise self._mistold(name)
        return value

    def count(self, name: str, default: int, most: int) -> int:
        """Return a whole number of the configuration.

        Raises:
            CheckpointError: It is none, or not from 1 to ``most``.
        """
        value = self.told(name, default, most)
        if value != int(value):
            raise self._mistold(name)
        return int(value)

    def _mistold(self, name: str) -> CheckpointError:
        shown = repr(self._told.get(name))
        shown = shown if len(shown) <= VALUE_SHOWN else f"{shown[:VALUE_SHOWN]}…"
        return self.refusal(
            f"has the {name} {shown} in its configuration",
            hint="mend the configuration beside the checkpoint",
        )

    def is_told(self, name: str) -> bool:
        """Return whether the configuration says that something is so."""
        return self._told.get(name) is True

    def heads(self, dim: int, default: int) -> int:
        """Return the heads of a block: as the configuration says, else by default.

        Raises:
            CheckpointError: The width cannot be shared among so many.
        """
        heads = self.count("n_heads", default, MOST_HEADS)
        if dim % heads:
            raise self.refusal(
                f"is {dim} wide, which {heads} heads cannot share",
                hint="put a configuration with its n_heads beside the checkpoint",
            )
        return heads

    def refusal(self, what: str, *, hint: str = "") -> CheckpointError:
        """Return an error about this part."""
        return CheckpointError(f"{self._found.path}: {self._part} {what}", hint=hint or FITTING)


def _thinker(read: _Reader) -> ThinkerConfig:
    if read.has(".moe."):
        raise read.refusal(
            "is a mixture of experts, which cannot be read here",
            hint="take a checkpoint with one MLP in each block",
        )
    default = ThinkerConfig()
    dim = read.size("tok_emb.weight", 1)
    heads = read.heads(dim, default.heads)
    if dim // heads % 2:
        raise read.refusal(f"has heads {dim // heads} wide, whose dimensions cannot turn in pairs")
    kv_heads = heads
    if not read.has("attn.qkv."):
        kv_dim = read.size("blocks.0.attn.k.weight", 0)
        kv_heads = kv_dim * heads // dim
        if not kv_heads or heads % kv_heads or kv_heads * (dim // heads) != kv_dim:
            raise read.refusal(f"has keys {kv_dim} wide, which {heads} heads cannot share")
    return ThinkerConfig(
        vocabulary=read.size("tok_emb.weight", 0),
        dim=dim,
        layers=read.layers(),
        heads=heads,
        kv_heads=kv_heads,
        hidden=read.size("blocks.0.mlp.gate_proj.weight", 0),
        context=read.count("ctx_len", default.context, MOST_TOKENS),
        rope_theta=float(read.told("rope_theta", default.rope_theta, MOST_THETA)),
    )


def _vit(read: _Reader) -> ViTConfig:
    dim, patch = read.size("proj.weight", 0), read.size("proj.weight", 2)
    squares = read.size("pos", 1) - 1
    side = math.isqrt(squares)
    if side * side != squares:
        raise read.refusal(f"has {squares} positions, no square grid")
    return ViTConfig(
        size=side * patch,
        patch=patch,
        dim=dim,
        layers=read.layers(),
        heads=read.heads(dim, ViTConfig().heads),
        hidden=read.size("blocks.0.linear1.weight", 0),
    )


def _aut(read: _Reader) -> AuTConfig:
    downsample = _downsample(read)
    first = "down.0.net.0.weight" if downsample == 8 else "down.net.0.weight"
    channels, dim = read.size(first, 0), read.size("proj.weight", 0)
    return AuTConfig(
        channels=channels,
        bands=read.size("proj.weight", 1) // channels * downsample,
        downsample=downsample,
        dim=dim,
        layers=read.layers(),
        heads=read.heads(dim, AuTConfig().heads),
        hidden=read.size("blocks.0.mlp.0.weight", 0),
        logarithm=read.is_told("logarithm"),
    )


def _downsample(read: _Reader) -> int:
    return 8 if read.has("down.0.net.") else 4


CONFIGS: Mapping[str, Callable[[_Reader], Any]] = {
    "thinker": _thinker,
    "vision_encoder": _vit,
    "audio_encoder": _aut,
}
# Sizes of a part that is called the same down to its last tensor, whatever their lengths.
NAMED_ALIKE: Mapping[str, Callable[[_Reader], Any]] = {
    "thinker": lambda read: ThinkerConfig(layers=max(1, read.layers())),
    "vision_encoder": lambda read: ViTConfig(layers=max(1, read.layers())),
    "audio_encoder": lambda read: AuTConfig(
        layers=max(1, read.layers()), downsample=_downsample(read)
    ),
}


# ---- files -----------------------------------------------------------------------------------


def _read(path: Path) -> Tensors:
    """Return the tensors of a file, nested names joined by dots.

    Raises:
        CheckpointError: It is no checkpoint, damaged, or would have to be unpickled.
    """
    try:
        with path.open("rb") as file:
            head = file.read(len(LFS_POINTER))
        if head == LFS_POINTER:
            raise CheckpointError(
                f"{path} only points to a file that was not fetched", hint="run: git lfs pull"
            )
        # PyTorch calls some of these an invalid argument, and short ones a pickle with code.
        if ZIP_HEAD.startswith(head[: len(ZIP_HEAD)]) and not zipfile.is_zipfile(path):
            raise CheckpointError(f"{path} is damaged: its end is not there", hint=COPY_AGAIN)
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(path)
        else:
            with warnings.catch_warnings():  # an error says what there is to say
                warnings.simplefilter("ignore")
                content = torch.load(path, map_location="cpu", weights_only=True)
        return {
            name.replace("_orig_mod.", ""): tensor
            for name, tensor in _flatten(content)
            if tensor.is_floating_point()
        }
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than tensors, and nothing of it was run",
            hint="save its state_dict alone",
        ) from error
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}", hint=COPY_AGAIN) from error
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{path} cannot be read, and may be damaged or cut off: {reason}", hint=COPY_AGAIN
        ) from error


def _flatten(content: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of nested dictionaries with their dotted names.

    Raises:
        ValueError: They are nested too deeply, as one that holds itself, or too many.
    """
    waiting = [("", content, 0)]
    looked_at = 0
    while waiting:
        prefix, one, depth = waiting.pop()
        for name, value in one.items() if isinstance(one, Mapping) else ():
            looked_at += 1
            if depth >= MOST_NESTED or looked_at > MOST_NAMES:
                raise ValueError("its dictionaries are nested without end")
            if isinstance(name, str) and isinstance(value, Tensor):
                yield prefix + name, value
            elif isinstance(name, str):
                waiting.append((f"{prefix}{name}.", value, depth + 1))


def _configuration(found: Found) -> dict[str, dict[str, Any]]:
    """Return what the configurations beside a checkpoint say of each part.

    One may have a section for each part, or be the one of the part whose folder bears its name.

    Raises:
        CheckpointError: One is no JSON object.
    """
    told: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS.values()}
    for path in found.configs:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}", hint="mend it") from error
        if not isinstance(content, dict):
            raise CheckpointError(f"{path} holds no JSON object", hint="mend it")
        own = next((name for name in told if path.name.startswith(name)), None)
        if own and not isinstance(content.get(own), dict):
            # It may have sections all the same: of what its part was trained beside.
            sections = {own: content}
        else:
            sections = {name: content[name] for name in told if isinstance(content.get(name), dict)}
        for name, section in sections.items():
            told[name] |= section
    return told
