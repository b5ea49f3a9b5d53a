"""The training itself: steps, checkpoints that go on bit for bit, and reports on held-out rows."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import permutations
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from muomni_search import durable
from muomni_search.encoders.model import load_model
from muomni_search.encoders.muomni.aut import MEL_BANDS, AuTConfig
from muomni_search.encoders.muomni.encoders import Tokenizer, train_tokenizer
from muomni_search.encoders.muomni.layers import freeze
from muomni_search.encoders.muomni.layouts import TOKENIZER
from muomni_search.encoders.muomni.model import MuOmniModel
from muomni_search.encoders.muomni.network import MuOmni
from muomni_search.encoders.muomni.thinker import ThinkerConfig
from muomni_search.encoders.muomni.vit import ViTConfig
from muomni_search.encoders.protocol import Model
from muomni_search.errors import CheckpointError, Conflict, InvalidInput, TrainingError
from muomni_search.extras import load_extra
from muomni_search.items import DIM, Modality
from muomni_search.metrics import first_relevant_ranks, mean_reciprocal_rank, success_at_k
from muomni_search.training import examples as prepared
from muomni_search.training.batches import Batches, Inputs, tensor
from muomni_search.training.examples import Examples
from muomni_search.training.losses import contrastive, distillation
from muomni_search.training.recipe import Optimiser, Recipe
from muomni_search.training.result import Trained, write_model

__all__ = ["Progress", "Training", "train"]

CHECKPOINT, LOG = "checkpoint.pt", "log.jsonl"
# Tokens, pictures and sounds in one run of a tower while measuring, and texts of like length
# that go through it together while learning.
MEASURED_AT_ONCE, TEXTS_AT_ONCE = 64, 64
TOWERS: Mapping[Modality, tuple[str, str | None, type[Any]]] = {
    Modality.TEXT: ("thinker", None, ThinkerConfig),
    Modality.IMAGE: ("vision_encoder", "proj_v", ViTConfig),
    Modality.AUDIO: ("audio_encoder", "proj_a", AuTConfig),
}


class Progress(Protocol):
    """Told of what happens."""

    def stage(self, name: str, done: int, total: int) -> None:
        """Preparing: how much of a stage is done."""
        ...

    def step(self, done: int, total: int, facts: Mapping[str, Any]) -> None:
        """Training: a step is done; the facts are what was measured last."""
        ...

    def note(self, line: str) -> None:
        """Something that a person should read."""
        ...


@dataclass(frozen=True, slots=True)
class Training:
    """What came of a training.

    Args:
        directory: Where the model is.
        report: Steps, seconds, memory, and the last measurement.
        problems: The rows that were skipped, with their reasons.
    """

    directory: Path
    report: Mapping[str, Any]
    problems: list[Any]


def train(
    recipe: Recipe,
    directory: Path,
    *,
    device: str = "auto",
    threads: int | None = None,
    restart: bool = False,
    finish: bool = False,
    progress: Progress | None = None,
) -> Training:
    """Train what a recipe says; leave a model in ``directory``.

    While it goes on ``directory/training`` holds the prepared examples, the log and the last
    checkpoint, from which the same call goes on after an interruption, bit for bit where the
    machine and its threads are the same.

    Args:
        recipe: What ``read_recipe`` returned.
        directory: Where to; a model that is there already stays as it is.
        device: ``cpu``, ``cuda``, ``mps``, or ``auto`` for the fastest that is there.
        threads: How many threads computing may use; all by default.
        restart: Begin anew, whatever was trained in this place before.
        finish: Take no more steps: make a model of the last checkpoint.
        progress: Told of what happens.

    Raises:
        Conflict: There is a model, or the checkpoint of another recipe.
        InvalidInput: The recipe or its data cannot be used.
        TrainingError: The loss is no number any more; the last good checkpoint is kept.
        NotFound: A table, model or package is missing.
    """
    if (directory / "model.json").exists():
        raise Conflict(f"{directory} holds a model already", hint="name another directory")
    load_extra("matplotlib", extra="explore")  # for the curves: not to be missed after hours
    progress = progress or _Silent()
    work = directory / "training"
    work.mkdir(parents=True, exist_ok=True)
    if restart:
        (work / CHECKPOINT).unlink(missing_ok=True)
    before = torch.get_num_threads()
    count = threads or before
    try:
        run = _Run(recipe, work, torch.device(_device(device)), count, progress)
        # Models that were loaded have set a number of their own.
        torch.set_num_threads(count)
        with _deterministic():
            run.go(finish=finish)
        report = run.report()
        trained = Trained(
            recipe, run.mean_network(), run.tokenizer, run.examples, report, work / LOG
        )
        write_model(directory, trained, progress.note)
    finally:
        torch.set_num_threads(before)
    return Training(directory, report, run.examples.problems)


class _Run:
    """One training, from its recipe to its last step."""

    def __init__(
        self,
        recipe: Recipe,
        work: Path,
        device: torch.device,
        threads: int,
        progress: Progress,
    ) -> None:
        self._recipe, self._work, self._device, self._progress = recipe, work, device, progress
        teacher = _teacher(recipe, threads)
        starts = [_start(recipe, name) for name in recipe.start]
        network_configs = _configs(recipe, starts)
        vision = network_configs.get(Modality.IMAGE)
        prepared.prepare(
            recipe,
            work / "examples",
            size=vision.size if vision else 1,
            teacher=teacher,
            step=progress.stage,
        )
        self.examples: Examples = prepared.load(work / "examples")
        for modality in recipe.towers:
            if not (self.examples.numbers[Modality(modality)] >= 0).any():
                raise InvalidInput(
                    f"there is a tower for {modality}, and no row of the data that holds any",
                    hint="add some, or leave the tower out",
                )
        if teacher is None and not _has_pairs(self.examples):
            raise InvalidInput(
                "no row holds two modalities, and there is no teacher: nothing to learn",
                hint="give rows with a text and an image, say, or a section [distillation]",
            )
        self.tokenizer: Path | None = None
        tokenise: Callable[[str], NDArray[np.int64]] = _no_ids
        if (text := network_configs.get(Modality.TEXT)) is not None:
            self.tokenizer = self._tokenizer(starts, text.vocabulary)
            tokenizer = Tokenizer(self.tokenizer, text.vocabulary)
            tokenise = tokenizer.ids
            if not starts:
                # Few texts give fewer pieces than were asked for.
                network_configs[Modality.TEXT] = replace(text, vocabulary=tokenizer.size)
        torch.manual_seed(recipe.seed)
        self._network = MuOmni(
            network_configs.get(Modality.TEXT),
            vision,
            network_configs.get(Modality.AUDIO),
        )
        for start in starts:
            _take_over(self._network, start.network())
        freeze(self._network, recipe.freeze)
        self._network.to(device)
        self._scale = nn.Parameter(torch.tensor(-math.log(recipe.loss.temperature)))
        self._scale.data = self._scale.data.to(device)
        self._mean = {
            name: value.detach().clone() for name, value in self._network.state_dict().items()
        }
        self._optimiser = _adamw(self._network, self._scale, recipe.optimiser)
        self._batches = Batches(recipe, self.examples, tokenise)
        self._groups = torch.from_numpy(self.examples.groups)
        self._done = 0
        self._seconds = 0.0
        self._last: dict[str, Any] = {}

    def _tokenizer(self, starts: list[MuOmniModel], vocabulary: int) -> Path:
        """Return the tokenizer: of the last start that has one, else trained on the texts."""
        path = self._work / TOKENIZER
        inherited = [found for start in starts if (found := start.tokenizer())]
        if path.exists():
            return path
        with durable.whole_file(path) as partial:
            if inherited:
                partial.write_bytes(inherited[-1].read_bytes())
            else:
                numbers = self.examples.numbers[Modality.TEXT]
                known = np.unique(numbers[(numbers >= 0) & ~self.examples.is_held_out])
                partial.write_bytes(
                    train_tokenizer(
                        [self.examples.texts[number] for number in known],
                        vocabulary,
                        fold_case=self._recipe.fold_case,
                    )
                )
        return path

    # ---- steps -------------------------------------------------------------------------------

    def go(self, *, finish: bool) -> None:
        """Go on from the checkpoint, and take the steps that are left, or none to ``finish``.

        Raises:
            InvalidInput: There is no checkpoint to finish with.
        """
        recipe, steps = self._recipe, self._recipe.optimiser.steps
        self._resume()
        if finish and not self._done:
            raise InvalidInput(
                f"{self._work / CHECKPOINT} is not there: nothing was trained yet",
                hint="leave --finish out",
            )
        steps = self._done if finish else steps
        while self._done < steps:
            began = time.monotonic()
            facts = self._step(self._done)
            self._done += 1
            self._seconds += time.monotonic() - began
            is_last = self._done == steps
            if self._done % recipe.report_every == 0 or is_last:
                self._last = {
                    "step": self._done,
                    "seconds": round(self._seconds, 1),
                    **facts,
                    "held_out": self._measure(),
                }
                self._write_log(self._last)
            if self._done % recipe.checkpoint_every == 0 or is_last:
                self._save()
            self._progress.step(self._done, steps, {**self._last, **facts})

    def _step(self, step: int) -> dict[str, float]:
        """Take one step; return its losses."""
        optimiser = self._recipe.optimiser
        # Whatever is drawn in a step, dropout too, depends on its number alone.
        torch.manual_seed((self._recipe.seed << 32) + step)
        self._network.train()
        rate = learning_rate(step, optimiser)
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        losses = self._losses(self._batches.draw(step))
        if not losses:
            raise TrainingError(
                f"step {step + 1} drew no pair, and nothing that the teacher speaks of",
                hint="raise optimiser.batch, or the shares of tables with pairs",
            )
        total = sum(losses.values(), start=torch.zeros((), device=self._device))
        value = float(total.detach())
        if not math.isfinite(value):
            raise TrainingError(
                f"the loss of step {step + 1} is {value}",
                hint=f"{self._kept()}; try a lower optimiser.learning_rate with --restart",
            )
        self._optimiser.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        norm = float(
            nn.utils.clip_grad_norm_(
                [*self._network.parameters(), self._scale], optimiser.clip, foreach=True
            )
        )
        if not math.isfinite(norm):
            raise TrainingError(
                f"the gradient of step {step + 1} is {norm}",
                hint=f"{self._kept()}; try a lower optimiser.learning_rate with --restart",
            )
        self._optimiser.step()
        with torch.no_grad():
            self._scale.clamp_(max=-math.log(self._recipe.loss.least_temperature))
            keep = min(optimiser.ema, (1 + step) / (10 + step)) if optimiser.ema else 0.0
            for name, mean in self._mean.items():
                mean.lerp_(self._network.state_dict()[name], 1 - keep)
        return {
            "loss": value,
            **{name: float(loss.detach()) for name, loss in losses.items()},
            "gradient": norm,
            "rate": rate,
            "temperature": math.exp(-float(self._scale.detach())),
        }

    def _losses(self, inputs: Mapping[Modality, Inputs]) -> dict[str, Tensor]:
        recipe = self._recipe
        vectors = {modality: self._embed(modality, one) for modality, one in inputs.items()}
        scale = self._scale.exp()
        losses = {}
        if recipe.loss.contrastive and len(vectors) > 1:
            rows = {modality: torch.from_numpy(one.rows) for modality, one in inputs.items()}
            told_apart = contrastive(vectors, rows, self._groups, scale)
            if told_apart is not None:
                losses["contrastive"] = recipe.loss.contrastive * told_apart
        if recipe.distillation is not None:
            how = recipe.distillation
            for modality, one in inputs.items():
                targets = self.examples.targets(modality, one.rows, how.own)
                said = np.flatnonzero(targets.any(axis=1))
                if len(said):
                    losses[f"teacher_{modality}"] = how.weight * distillation(
                        vectors[modality][said],
                        tensor(targets[said]).to(self._device),
                        self._groups[one.rows[said]].to(self._device),
                        scale,
                        how.contrast,
                    )
        return losses

    def _embed(self, modality: Modality, inputs: Inputs) -> Tensor:
        """Return unit vectors (n, 256) of a batch."""
        tensors = [tensor.to(self._device) for tensor in inputs.tensors]
        if modality == Modality.IMAGE:
            # Measuring looks at whole pictures.
            seen = self._recipe.augmentation.squares if self._network.training else 1.0
            return self._network.embed_images(*tensors, seen=seen)
        if modality == Modality.AUDIO:
            return self._network.embed_sounds(*tensors)
        # Texts of like length go together: what pads them costs as much as they do.
        ids, lengths = tensors
        order = torch.argsort(lengths, stable=True)
        parts = [
            self._network.embed_text(ids[some, : int(lengths[some].max())], lengths[some])
            for some in order.split(TEXTS_AT_ONCE)  # type: ignore[no-untyped-call]
        ]
        return torch.cat(parts)[torch.argsort(order)]

    # ---- measuring -----------------------------------------------------------------------------

    @torch.inference_mode()
    def _measure(self) -> dict[str, Any]:
        """Return what the mean weights find among the held-out examples."""
        rows = np.flatnonzero(self.examples.is_held_out)
        kept = {name: value.clone() for name, value in self._network.state_dict().items()}
        self._network.load_state_dict(self._mean)
        self._network.eval()
        try:
            vectors: dict[Modality, NDArray[np.float32]] = {}
            for modality in map(Modality, self._recipe.towers):
                here = rows[self.examples.numbers[modality][rows] >= 0]
                parts = [
                    self._embed(modality, self._batches.inputs(some)[modality]).cpu().numpy()
                    for start in range(0, len(here), MEASURED_AT_ONCE)
                    if len(some := here[start : start + MEASURED_AT_ONCE])
                ]
                full = np.zeros((len(self.examples.groups), DIM), np.float32)
                if parts:
                    full[here] = np.concatenate(parts)
                vectors[modality] = full
            return self._found(rows, vectors)
        finally:
            self._network.load_state_dict(kept)

    def _found(
        self, rows: NDArray[np.int64], vectors: Mapping[Modality, NDArray[np.float32]]
    ) -> dict[str, Any]:
        numbers, groups = self.examples.numbers, self.examples.groups
        found: dict[str, Any] = {}
        if self._recipe.distillation is not None:
            for modality, mine in vectors.items():
                here = rows[numbers[modality][rows] >= 0]
                if len(here):
                    theirs = self.examples.targets(modality, here, self._recipe.distillation.own)
                    found[f"cosine_{modality}"] = float(np.sum(mine[here] * theirs, axis=1).mean())
        for asking, asked in permutations(vectors, 2):
            both = rows[(numbers[asking][rows] >= 0) & (numbers[asked][rows] >= 0)]
            if len(both) >= 2:
                same = groups[both][:, None] == groups[both][None]
                cosines = vectors[asking][both] @ vectors[asked][both].T
                ranks = first_relevant_ranks(cosines, same)
                found[f"{asking}→{asked}"] = {
                    "queries": len(both),
                    "recall@1": success_at_k(ranks, 1),
                    "recall@10": success_at_k(ranks, 10),
                    "mrr": mean_reciprocal_rank(ranks),
                }
        return found

    # ---- what stays ----------------------------------------------------------------------------

    def _write_log(self, facts: Mapping[str, Any]) -> None:
        with (self._work / LOG).open("a", encoding="utf-8") as log:
            log.write(json.dumps(facts, ensure_ascii=False) + "\n")

    def _save(self) -> None:
        state = {
            "recipe": self._recipe.digest(),
            "step": self._done,
            "seconds": self._seconds,
            "network": self._network.state_dict(),
            "mean": self._mean,
            "scale": self._scale.detach(),
            "optimiser": self._optimiser.state_dict(),
            "last": json.dumps(self._last),
        }
        with durable.whole_file(self._work / CHECKPOINT) as partial:
            torch.save(state, partial)

    def _resume(self) -> None:
        """Go on from the checkpoint, where there is one.

        Raises:
            Conflict: It is of another recipe.
            CheckpointError: It is damaged.
        """
        path = self._work / CHECKPOINT
        log = self._work / LOG
        if not path.exists():
            log.unlink(missing_ok=True)
            return
        try:
            state = torch.load(path, map_location=self._device, weights_only=True)
            digest, done = state["recipe"], int(state["step"])
        except Exception as error:
            raise CheckpointError(
                f"{path} cannot be read", hint="begin anew with --restart"
            ) from error
        if digest != self._recipe.digest():
            raise Conflict(
                f"{path} is of another recipe, or of this one before it was changed",
                hint="name another directory, or begin anew with --restart",
            )
        self._network.load_state_dict(state["network"])
        self._mean = state["mean"]
        self._scale.data = state["scale"]
        self._optimiser.load_state_dict(state["optimiser"])
        self._done, self._seconds = done, float(state["seconds"])
        self._last = json.loads(state["last"])
        # What was logged after the checkpoint comes again.
        lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
        with durable.whole_file(log) as partial:
            partial.write_text(
                "".join(f"{line}\n" for line in lines if json.loads(line)["step"] <= done),
                encoding="utf-8",
            )
        self._progress.note(f"going on after step {done}")

    def _kept(self) -> str:
        path = self._work / CHECKPOINT
        return f"the last good state is in {path}" if path.exists() else "nothing was kept yet"

    def mean_network(self) -> MuOmni:
        """Return the network with its mean weights, on the CPU, in evaluation mode."""
        self._network.load_state_dict(self._mean)
        return self._network.cpu().eval().requires_grad_(False)

    def report(self) -> dict[str, Any]:
        """Return what the training took and came to."""
        import resource
        import sys

        # Linux counts kilobytes, macOS bytes.
        unit = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        return {
            "steps": self._done,
            "planned_steps": self._recipe.optimiser.steps,
            "hours": round(self._seconds / 3600, 3),
            "peak_memory_bytes": peak,
            "threads": torch.get_num_threads(),
            "device": str(self._device),
            "examples": int((~self.examples.is_held_out).sum()),
            "held_out_examples": int(self.examples.is_held_out.sum()),
            "skipped_rows": len(self.examples.problems),
            "last": self._last,
        }


def _no_ids(_: str) -> NDArray[np.int64]:
    """Return what a text is to towers that read none."""
    return np.zeros(0, np.int64)


def learning_rate(step: int, how: Optimiser) -> float:
    """Return the rate of a step: rising in a line to its highest, then a cosine to a hundredth."""
    if step < how.warm_up:
        return how.learning_rate * (step + 1) / how.warm_up
    through = (step - how.warm_up) / max(1, how.steps - how.warm_up)
    return how.learning_rate * (0.01 + 0.99 * (1 + math.cos(math.pi * through)) / 2)


def _adamw(network: nn.Module, scale: nn.Parameter, how: Optimiser) -> torch.optim.AdamW:
    """Return the optimiser: matrices decay, norms, biases and embeddings do not."""
    decays: list[nn.Parameter] = []
    stays: list[nn.Parameter] = [scale]
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            is_matrix = parameter.dim() >= 2 and not name.endswith(("tok_emb.weight", "pos", "cls"))
            (decays if is_matrix else stays).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": decays, "weight_decay": how.weight_decay},
            {"params": stays, "weight_decay": 0.0},
        ],
        lr=how.learning_rate,
        betas=(0.9, 0.98),
    )


def _configs(recipe: Recipe, starts: list[MuOmniModel]) -> dict[Modality, Any]:
    """Return the sizes of each tower: as a start has them, else as the recipe says.

    Raises:
        InvalidInput: The recipe has a size that no such tower has.
    """
    configs = {}
    for name, sizes in recipe.towers.items():
        modality = Modality(name)
        part, _, kind = TOWERS[modality]
        inherited = [tower.config for start in starts if (tower := getattr(start.network(), part))]
        try:
            configs[modality] = inherited[-1] if inherited else kind(**_heads(modality, sizes))
        except TypeError as error:
            known = ", ".join(kind.__dataclass_fields__)
            raise InvalidInput(
                f"towers.{name}: {str(error).rpartition('() ')[2]}", hint=f"there are {known}"
            ) from error
        _check_sizes(f"towers.{name}", configs[modality])
    return configs


def _heads(modality: Modality, sizes: Mapping[str, Any]) -> dict[str, Any]:
    """Return sizes with as many key/value heads as heads, where nothing else is said."""
    if modality == Modality.TEXT and "heads" in sizes:
        return {"kv_heads": sizes["heads"], **sizes}
    return dict(sizes)


def _check_sizes(where: str, config: Any) -> None:
    """Refuse sizes that do not go together.

    Raises:
        InvalidInput: They do not.
    """
    for name, value in asdict(config).items():
        if name not in ("dropout", "logarithm") and not value >= 1:
            raise InvalidInput(f"{where}: {name} is {value!r}, not 1 or more")
    faults = {
        f"dim {config.dim} cannot be shared by {config.heads} heads": config.dim % config.heads
    }
    match config:
        case ThinkerConfig():
            faults[f"dim is {config.dim}, and only {DIM} fits the space"] = config.dim != DIM
            faults[
                f"{config.heads} heads cannot be served by {config.kv_heads} key/value heads"
            ] = config.heads % config.kv_heads
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


def _take_over(network: MuOmni, start: MuOmni) -> None:
    """Give a network the towers of another one that both have."""
    for part, projector, _ in TOWERS.values():
        for name in (part, projector):
            theirs = getattr(start, name) if name else None
            mine = getattr(network, name) if name else None
            if theirs is not None and mine is not None:
                mine.load_state_dict(theirs.state_dict())


def _start(recipe: Recipe, name: str) -> MuOmniModel:
    model = load_model(recipe.model_path(name))
    if not isinstance(model, MuOmniModel):
        raise InvalidInput(f"start: {name!r} is a model of the kind {model.kind!r}, not 'muomni'")
    return model


def _teacher(recipe: Recipe, threads: int) -> Model | None:
    if recipe.distillation is None:
        return None
    return load_model(recipe.model_path(recipe.distillation.teacher), threads=threads)


def _has_pairs(examples: Examples) -> bool:
    filled = np.sum([numbers >= 0 for numbers in examples.numbers.values()], axis=0)
    return int((filled >= 2).sum()) >= 2


def _device(name: str) -> str:
    """Return a device that is there.

    Raises:
        InvalidInput: It is not.
    """
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return next(kind for kind, is_there in there.items() if is_there)
    if not there.get(name.partition(":")[0], False):
        raise InvalidInput(f"there is no device {name!r}", hint="leave --device out")
    return name


@contextmanager
def _deterministic() -> Iterator[None]:
    """Let PyTorch choose only ways that give the same bits again."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


class _Silent:
    """Progress that nobody watches."""

    def stage(self, name: str, done: int, total: int) -> None:
        """Say nothing."""

    def step(self, done: int, total: int, facts: Mapping[str, Any]) -> None:
        """Say nothing."""

    def note(self, line: str) -> None:
        """Say nothing."""
