"""The network of a recipe: towers of the sizes that it says, or of models that it goes on from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from muomni_search.encoders.model import load_model
from muomni_search.encoders.muomni.aut import MEL_BANDS, AuTConfig
from muomni_search.encoders.muomni.model import MuOmniModel
from muomni_search.encoders.muomni.network import MuOmni
from muomni_search.encoders.muomni.thinker import ThinkerConfig
from muomni_search.encoders.muomni.vit import ViTConfig
from muomni_search.errors import InvalidInput
from muomni_search.items import DIM, Modality
from muomni_search.training.recipe import Recipe, check_section

__all__ = ["Tower", "build_network", "load_starts", "plan_towers"]

KINDS: Mapping[Modality, type[Any]] = {
    Modality.TEXT: ThinkerConfig,
    Modality.IMAGE: ViTConfig,
    Modality.AUDIO: AuTConfig,
}
# What a tower is called in the network, and what goes over with it.
PARTS: Mapping[Modality, tuple[str, ...]] = {
    Modality.TEXT: ("thinker",),
    Modality.IMAGE: ("vision_encoder", "proj_v"),
    Modality.AUDIO: ("audio_encoder", "proj_a"),
}


@dataclass(frozen=True, slots=True)
class Tower:
    """One tower as it will be.

    Args:
        config: Its sizes.
        start: The model whose weights it begins with; None for weights that are drawn.
    """

    config: Any
    start: MuOmniModel | None = None


def load_starts(recipe: Recipe) -> list[MuOmniModel]:
    """Return the models that a recipe goes on from.

    Raises:
        InvalidInput: One is no model of μOmni's encoders.
        NotFound: One is not there.
    """
    found = []
    for name in recipe.start:
        model = load_model(recipe.model_path(name))
        if not isinstance(model, MuOmniModel):
            raise InvalidInput(
                f"start: {name!r} is a model of the kind {model.kind!r}, not 'muomni'"
            )
        found.append(model)
    return found


def plan_towers(recipe: Recipe, starts: list[MuOmniModel]) -> dict[Modality, Tower]:
    """Return the towers of a recipe; ``Recipe.towers`` says how sizes and starts combine.

    Raises:
        InvalidInput: The recipe has a size that no such tower has, or not the start's.
    """
    towers = {}
    for name, sizes in recipe.towers.items():
        modality, where = Modality(name), f"towers.{name}"
        config = check_section(KINDS[modality], _with_heads(modality, sizes), where)
        part = PARTS[modality][0]
        having = [start for start in starts if getattr(start.network(), part) is not None]
        if having:
            theirs = getattr(having[-1].network(), part).config
            _check_same(where, sizes, config, theirs)
            config = replace(theirs, dropout=config.dropout)
        _check_sizes(where, config)
        towers[modality] = Tower(config, having[-1] if having else None)
    return towers


def build_network(towers: Mapping[Modality, Tower]) -> MuOmni:
    """Return a network of towers, with the weights of their starts, or weights that are drawn."""
    configs = [towers[one].config if one in towers else None for one in Modality]
    network = MuOmni(*configs)
    for modality, tower in towers.items():
        for part in PARTS[modality] if tower.start else ():
            theirs = getattr(tower.start.network(), part) if tower.start else None
            if theirs is not None:
                getattr(network, part).load_state_dict(theirs.state_dict())
    return network


def _with_heads(modality: Modality, sizes: Mapping[str, Any]) -> dict[str, Any]:
    """Return sizes with as many key/value heads as heads, where nothing else is said."""
    if modality == Modality.TEXT and "heads" in sizes:
        return {"kv_heads": sizes["heads"], **sizes}
    return dict(sizes)


def _check_same(where: str, said: Mapping[str, Any], mine: Any, theirs: Any) -> None:
    """Refuse a size that the tower of a start does not have.

    Raises:
        InvalidInput: It does not.
    """
    for name in sorted(said.keys() - {"dropout"}):
        wanted, there = getattr(mine, name), getattr(theirs, name)
        if wanted != there and not (name == "vocabulary" and wanted > there):
            raise InvalidInput(
                f"{where}: {name} is {wanted!r}, and the tower of the start has {there!r}",
                hint="leave it out, or leave the start out",
            )


def _check_sizes(where: str, config: Any) -> None:
    """Refuse sizes that do not go together.

    Raises:
        InvalidInput: They do not.
    """
    faults = {
        f"dim {config.dim} cannot be shared by {config.heads} heads": config.dim % config.heads
    }
    match config:
        case ThinkerConfig():
            faults[f"dim is {config.dim}, and only {DIM} fits the space"] = config.dim != DIM
            faults[
                f"{config.heads} heads cannot be served by {config.kv_heads} key/value heads"
            ] = config.heads % config.kv_heads
            # Rotary positions turn pairs of dimensions.
            faults[f"{config.heads} heads are {config.dim // config.heads} wide, an odd number"] = (
                config.dim // config.heads % 2
            )
        case ViTConfig():
            faults[f"size {config.size} is no multiple of patch {config.patch}"] = (
                config.size % config.patch
            )
        case AuTConfig():
            faults[f"downsample is {config.downsample}, not 4 or 8"] = config.downsample not in (
                4,
                8,
            )
            faults[f"bands is {config.bands}, not {MEL_BANDS}"] = config.bands != MEL_BANDS
    for fault, is_there in faults.items():
        if is_there:
            raise InvalidInput(f"{where}: {fault}")
