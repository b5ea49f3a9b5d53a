"""The model directory that a training leaves: weights, what describes them, curves and a card."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from muomni_search import durable, ranking
from muomni_search.encoders.description import DESCRIPTION, FORMAT
from muomni_search.encoders.muomni.layouts import CONFIG, SECTIONS, TOKENIZER, WEIGHTS
from muomni_search.encoders.muomni.model import KIND, PREPROCESSING, MuOmniModel
from muomni_search.encoders.muomni.network import MuOmni
from muomni_search.encoders.protocol import Model
from muomni_search.errors import CheckpointError
from muomni_search.extras import load_extra
from muomni_search.items import DIM, Modality
from muomni_search.training.examples import Examples
from muomni_search.training.recipe import Recipe
from muomni_search.view import encode_all

__all__ = ["Trained", "read_log", "write_model"]

CARD, CURVES, LOG = "README.md", "curves.png", "log.jsonl"
LEAST_SAMPLE = 3


@dataclass(frozen=True)
class Trained:
    """What a training came to.

    Args:
        recipe: What it followed.
        network: The network with its final weights.
        tokenizer: The tokenizer's file, where there is a tower for text.
        examples: What it learned from.
        report: What it took, and what was measured last.
        log: Its log, an object a measurement.
    """

    recipe: Recipe
    network: MuOmni
    tokenizer: Path | None
    examples: Examples
    report: Mapping[str, Any]
    log: Path


def write_model(directory: Path, trained: Trained, note: Callable[[str], None]) -> None:
    """Write everything; ``model.json``, which makes it a model, comes last.

    Args:
        directory: Where to. Files that bear the names of a model's are replaced, one by one.
        trained: What the training came to.
        note: Told of what takes a while.

    Raises:
        NotFound: The package that draws the curves is not installed.
        OSError: A file cannot be written; without ``model.json`` it is no model.
    """
    log = read_log(trained.log)
    _write_weights(directory, trained)
    with durable.whole_file(directory / LOG) as partial:
        partial.write_bytes(trained.log.read_bytes())
    with durable.whole_file(directory / CURVES) as partial:
        draw_curves(log, partial)
    with durable.whole_file(directory / CARD) as partial:
        partial.write_text(write_card(trained), encoding="utf-8")
    description = _description(directory, trained)
    if set(trained.recipe.towers) == set(Modality):
        note("measuring what unrelated pairs look like")
        model = MuOmniModel.described(directory, description)
        try:
            description["prior"] = fit_prior(model, trained.examples, trained.recipe.seed)
        except CheckpointError as error:  # of weights that went astray: it is a model all the same
            note(str(error))
    with durable.whole_file(directory / DESCRIPTION) as partial:
        partial.write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the entries of a log, without a last line that a full disk has torn."""
    entries = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(ValueError):
            entries.append(json.loads(line))
    return [entry for entry in entries if isinstance(entry, dict) and "step" in entry]


def _write_weights(directory: Path, trained: Trained) -> None:
    """Write the one-file export, as fp16: half the size, and vectors differ in the fourth digit."""
    from safetensors.torch import save

    tensors = {
        name: tensor.half().contiguous() for name, tensor in trained.network.state_dict().items()
    }
    with durable.whole_file(directory / WEIGHTS) as partial:
        # Not with save_file, which lets nobody but the owner read it, whatever the umask.
        partial.write_bytes(save(tensors))
    config: dict[str, Any] = {}
    for name, _, sizes in trained.network.sizes():
        if name in SECTIONS:
            said = {key: value for key, value in sizes.items() if key != "dropout"}
            # Under the reference's names too, where it has one.
            said |= {"n_heads": sizes["heads"]}
            if "context" in sizes:
                said["ctx_len"] = sizes["context"]
            config[SECTIONS[name]] = said
    with durable.whole_file(directory / CONFIG) as partial:
        partial.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if trained.tokenizer is not None:
        with durable.whole_file(directory / TOKENIZER) as partial:
            partial.write_bytes(trained.tokenizer.read_bytes())


def _description(directory: Path, trained: Trained) -> dict[str, Any]:
    """Return what ``model.json`` says, without a prior."""
    names = [WEIGHTS, CONFIG, *([TOKENIZER] if trained.tokenizer else [])]
    return {
        "format": FORMAT,
        "name": trained.recipe.name,
        "kind": KIND,
        "dim": DIM,
        "preprocessing": PREPROCESSING,
        "files": {
            name: hashlib.sha256((directory / name).read_bytes()).hexdigest() for name in names
        },
        "prior": {},
    }


def fit_prior(model: Model, examples: Examples, seed: int) -> dict[str, Any]:
    """Return the prior of a model over a sample of examples; empty when a modality has too few."""
    rng = np.random.default_rng(seed)
    rows: dict[Modality, NDArray[np.float32]] = {}
    labels: dict[Modality, list[int]] = {}
    for modality in Modality:
        numbers = np.unique(examples.numbers[modality])
        numbers = numbers[numbers >= 0]
        if len(numbers) < LEAST_SAMPLE:
            return {}
        few = rng.choice(numbers, min(ranking.PRIOR_SAMPLE, len(numbers)), replace=False)
        rows[modality] = _vectors(model, modality, examples, np.sort(few))
        owner = dict(zip(examples.numbers[modality], examples.groups, strict=True))
        labels[modality] = [int(owner[number]) for number in np.sort(few)]
    return ranking.fit_prior(rows, labels)


def _vectors(
    model: Model, modality: Modality, examples: Examples, numbers: NDArray[np.int64]
) -> NDArray[np.float32]:
    read: Mapping[Modality, Callable[[int], Any]] = {
        Modality.TEXT: lambda number: examples.texts[number],
        Modality.IMAGE: lambda number: np.array(examples.images[number]),
        Modality.AUDIO: examples.sound,
    }
    contents = [read[modality](int(number)) for number in numbers]
    return encode_all(model.encoder(modality), contents)


# ---- for people ------------------------------------------------------------------------------


def draw_curves(log: list[dict[str, Any]], path: Path) -> None:
    """Draw losses and what was found among held-out examples over the steps, as PNG."""
    figure_module = load_extra("matplotlib.figure", extra="explore")
    figure = figure_module.Figure(figsize=(10, 4), layout="constrained")
    losses, found = figure.subplots(1, 2)
    steps = [entry["step"] for entry in log]
    names = {
        name for entry in log for name in entry if name == "loss" or name.startswith("teacher_")
    } | {name for entry in log for name in entry if name == "contrastive"}
    for name in sorted(names):
        losses.plot(steps, [entry.get(name) for entry in log], label=name.replace("_", " "))
    losses.set(title="loss", xlabel="step")
    series: dict[str, list[tuple[int, float]]] = {}
    for entry in log:
        for name, value in entry["held_out"].items():
            if isinstance(value, dict):
                series.setdefault(f"{name} success@10", []).append(
                    (entry["step"], value["success@10"])
                )
            else:
                label = name.replace("_", " with the teacher, ")
                series.setdefault(label, []).append((entry["step"], value))
    for name, points in sorted(series.items()):
        found.plot(*zip(*points, strict=True), label=name)
    found.set(title="held-out examples", xlabel="step", ylim=(0, 1))
    for axes in (losses, found):
        if axes.lines:
            axes.legend(fontsize="small")
        axes.grid(alpha=0.3)
    figure.savefig(path, format="png", dpi=110, metadata={"Software": None})


def write_card(trained: Trained) -> str:
    """Return the model card, as Markdown (after Mitchell et al. 2019, "Model Cards")."""
    recipe, report = trained.recipe, trained.report
    sizes = [
        f"| {name} | {sum(one.numel() for one in part.parameters()):,} |"
        for name, part, _ in trained.network.sizes()
    ]
    tables = []
    for place, table in enumerate(recipe.data):
        here = trained.examples.table == place
        counts = [
            str(int((trained.examples.numbers[modality][here] >= 0).sum())) for modality in Modality
        ]
        tables.append(f"| {Path(table.path).name} | {int(here.sum())} | {' | '.join(counts)} |")
    found = []
    for name, value in report["last"].get("held_out", {}).items():
        if isinstance(value, dict):
            found.append(
                f"| {name} | {value['queries']} queries | success@1 {value['success@1']:.3f}, "
                f"success@10 {value['success@10']:.3f}, MRR {value['mrr']:.3f} |"
            )
        else:
            found.append(f"| {name.replace('_', ' with the teacher, ')} | | {value:.3f} |")
    parts = [
        f"# {recipe.name}",
        "A model of `muomni_search`: text, pictures and sounds in one 256-dimensional space, with "
        "μOmni's encoders.",
        recipe.notes.strip(),
        f"Licence: {recipe.licence}" if recipe.licence else "",
        "## Sizes\n\n| part | weights |\n|---|---|\n" + "\n".join(sizes),
        "## Learned from\n\n| table | rows | text | image | audio |\n|---|---|---|---|---|\n"
        + "\n".join(tables),
        f"{report['examples']:,} examples, {report['held_out_examples']:,} held out "
        f"({report['measured_examples']:,} to measure with), "
        f"{report['skipped_rows']:,} rows skipped.",
        f"{report['steps']:,} of {report['planned_steps']:,} steps of {recipe.optimiser.batch} in "
        f"{report['hours']:.2f} hours on {report['threads']} threads ({report['device']}); "
        f"peak memory {report['peak_memory_bytes'] / 1e9:.1f} GB.",
        "## Found among the held-out examples\n\n| | | |\n|---|---|---|\n" + "\n".join(found)
        if found
        else "",
        f"![curves]({CURVES})",
        "## Recipe\n\n```json\n"
        + json.dumps({**recipe.as_dict(), "notes": ""}, indent=2, ensure_ascii=False)
        + "\n```",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"
