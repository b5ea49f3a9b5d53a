"""The training itself: steps, checkpoints that go on bit for bit, and reports on held-out rows."""

from __future__ import annotations

import io
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path
from typing import Any, Protocol
from warnings import catch_warnings, simplefilter
from zipfile import ZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from muomni_search import durable
from muomni_search.documents import hash_content
from muomni_search.encoders.description import DESCRIPTION
from muomni_search.encoders.model import load_model
from muomni_search.encoders.muomni.encoders import Tokenizer, train_tokenizer
from muomni_search.encoders.muomni.layers import freeze
from muomni_search.encoders.muomni.network import MuOmni
from muomni_search.encoders.protocol import Model
from muomni_search.errors import CheckpointError, Conflict, InvalidInput, TrainingError
from muomni_search.extras import load_extra
from muomni_search.items import DIM, Modality
from muomni_search.metrics import first_relevant_ranks, mean_reciprocal_rank, success_at_k
from muomni_search.store.sqlite import disk_errors
from muomni_search.training import examples as prepared
from muomni_search.training.batches import Ahead, Batches, Inputs, tensor
from muomni_search.training.examples import Examples
from muomni_search.training.groups import shared
from muomni_search.training.losses import contrastive, distillation
from muomni_search.training.recipe import Optimiser, Recipe
from muomni_search.training.result import Trained, read_log, write_model
from muomni_search.training.towers import Tower, build_network, load_starts, plan_towers
from muomni_search.view import encode_all

__all__ = ["Progress", "Training", "train"]

WORK, CHECKPOINT, LOG = "training", "checkpoint.pt", "log.jsonl"
# Says that what lies beside it, be it half a model, was written by a training.
WRITING = "writing"
# Tokens, pictures and sounds in one run of a tower while measuring, and texts of like length
# that go through it together while learning.
MEASURED_AT_ONCE, TEXTS_AT_ONCE = 64, 64
# A model is saved in half precision.
LARGEST_WEIGHT = torch.finfo(torch.float16).max


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
        directory: Where to: a directory that is empty, or not there, or of a training that was
            interrupted. Whatever else is there stays as it is.
        device: ``cpu``, ``cuda``, ``mps``, or ``auto`` for the fastest that is there.
        threads: How many threads computing may use; all by default.
        restart: Begin anew: the checkpoint that is there is removed, once all that the recipe
            says was found to be in order.
        finish: Take no more steps: make a model of the last checkpoint. Not with ``restart``.
        progress: Told of what happens.

    Raises:
        Conflict: There is a model or anything else, or the checkpoint of another recipe or of
            other data; or another process trains there.
        InvalidInput: The recipe or its data cannot be used.
        TrainingError: The loss, or anything else that decides the weights, is no number any more,
            or they are too large for a model; the last good checkpoint is kept.
        NotFound: A table, model or package is missing.
    """
    if restart and finish:
        raise InvalidInput(
            "restart and finish together: there would be nothing to finish", hint="leave one out"
        )
    load_extra("matplotlib", extra="explore")  # for the curves: not to be missed after hours
    progress = progress or _Silent()
    place = torch.device(_device(device))
    before = torch.get_num_threads()
    count = threads or before
    work = directory / WORK
    with disk_errors(work):
        _check_place(directory)
        if finish:
            _check_checkpoint(work)
        directory.mkdir(parents=True, exist_ok=True)
        with durable.held_folder(work, "another process trains there"):
            try:
                run = _Run(recipe, work, place, count, progress)
                # Models that were loaded have set a number of their own.
                torch.set_num_threads(count)
                if restart:
                    durable.unlink(work / CHECKPOINT)
                with _deterministic(place), _fast_products(place):
                    run.go(finish=finish)
                report = run.report()
                trained = Trained(
                    recipe, run.mean_network(), run.tokenizer, run.examples, report, work / LOG
                )
                _check_place(directory)  # hours later
                (work / WRITING).touch()
                write_model(directory, trained, progress.note)
            finally:
                torch.set_num_threads(before)
    return Training(directory, report, run.examples.problems)


def _check_checkpoint(work: Path) -> None:
    """Refuse to finish what was not begun.

    Raises:
        InvalidInput: There is no checkpoint.
    """
    if not (work / CHECKPOINT).exists():
        raise InvalidInput(
            f"{work / CHECKPOINT} is not there: nothing was trained yet",
            hint="leave --finish out",
        )


def _check_place(directory: Path) -> None:
    """Refuse to write over anything but what an interrupted training left.

    Raises:
        Conflict: There is something else.
    """
    if not directory.exists():
        return
    if not directory.is_dir():
        raise Conflict(f"{directory} is a file", hint="name another directory")
    if (directory / DESCRIPTION).exists():
        raise Conflict(f"{directory} holds a model already", hint="name another directory")
    others = sorted(one.name for one in directory.iterdir() if one.name != WORK)
    if others and not (directory / WORK / WRITING).exists():
        raise Conflict(
            f"{directory} holds {others[0]!r}, which no training wrote",
            hint="name a directory that is empty or not there",
        )


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
        self._teacher = teacher = _teacher(recipe, threads)
        starts = load_starts(recipe)
        towers = plan_towers(recipe, starts)
        vision = towers.get(Modality.IMAGE)
        self.examples = self._prepared(vision.config.size if vision else 1, teacher)
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
        if (text := towers.get(Modality.TEXT)) is not None:
            self.tokenizer = self._tokenizer(text)
            tokenizer = Tokenizer(self.tokenizer, text.config.vocabulary)
            tokenise = tokenizer.ids
            if text.start is None:
                # Few texts give fewer pieces than were asked for.
                config = replace(text.config, vocabulary=tokenizer.size)
                towers[Modality.TEXT] = replace(text, config=config)
        torch.manual_seed(recipe.seed)
        self._network = build_network(towers)
        freeze(self._network, recipe.freeze)
        if not any(one.requires_grad for one in self._network.parameters()):
            raise InvalidInput("freeze holds all parts still: nothing to learn")
        self._network.to(device)
        self._scale = nn.Parameter(torch.tensor(-math.log(recipe.loss.temperature)))
        self._scale.data = self._scale.data.to(device)
        # Those of the network, whatever they come to hold; asking for them takes a while.
        self._weights = self._network.state_dict()
        self._mean = {name: value.clone() for name, value in self._weights.items()}
        self._optimiser = _adamw(self._network, self._scale, recipe.optimiser)
        # MPS lacks some of what alters pictures.
        altering = device if device.type == "cuda" else torch.device("cpu")
        self._batches = Batches(recipe, self.examples, tokenise, altering)
        self._made_from = {
            "the data": self.examples.digest,
            "the teacher": teacher.fingerprint() if teacher else "",
            "a start": [start.fingerprint() for start in starts],
        }
        # Beside another device the CPU draws the next step while it computes this one.
        self._draw = (
            self._batches.draw
            if device.type == "cpu"
            else Ahead(self._batches.draw, recipe.optimiser.steps)
        )
        self._done = 0
        self._seconds = 0.0
        self._last: dict[str, Any] = {}

    def _prepared(self, size: int, teacher: Model | None) -> Examples:
        """Return the examples, written anew where what was written is damaged."""
        folder = self._work / "examples"

        def prepare() -> None:
            prepared.prepare(
                self._recipe, folder, size=size, teacher=teacher, step=self._progress.stage
            )

        prepare()
        try:
            return prepared.load(folder)
        except CheckpointError as error:
            self._progress.note(f"{error.what}: it is written again")
            prepared.forget(folder)
            prepare()
            return prepared.load(folder)

    def _tokenizer(self, tower: Tower) -> Path:
        """Return the tokenizer: of the start that has the tower, else trained on the texts.

        Raises:
            InvalidInput: The start has none.
        """
        if tower.start is not None:
            path = tower.start.tokenizer()
            if path is None:
                raise InvalidInput(
                    f"start: {tower.start.name!r} has a tower for text and no tokenizer",
                    hint="put its tokenizer beside the checkpoint",
                )
            return path
        numbers = self.examples.numbers[Modality.TEXT]
        known = np.unique(numbers[(numbers >= 0) & ~self.examples.is_held_out])
        texts = [self.examples.texts[number] for number in known]
        facts = (tower.config.vocabulary, self._recipe.fold_case, texts)
        # One that was made of other texts, before the recipe changed, has another name.
        path = self._work / f"tokenizer-{hash_content(json.dumps(facts).encode())[:12]}.model"
        if not path.exists():
            with durable.whole_file(path) as partial:
                partial.write_bytes(
                    train_tokenizer(
                        texts, tower.config.vocabulary, fold_case=self._recipe.fold_case
                    )
                )
        return path

    # ---- steps -------------------------------------------------------------------------------

    def go(self, *, finish: bool) -> None:
        """Go on from the checkpoint, and take the steps that are left, or none to ``finish``."""
        recipe, steps = self._recipe, self._recipe.optimiser.steps
        self._resume()
        steps = self._done if finish else steps
        while self._done < steps:
            began = time.monotonic()
            facts = self._step(self._done)
            self._done += 1
            self._seconds += time.monotonic() - began
            is_last = self._done == steps
            is_measured = self._done % recipe.report_every == 0 or is_last
            is_kept = self._done % recipe.checkpoint_every == 0 or is_last
            if is_measured or is_kept:
                self._check_weights()
            if is_measured:
                self._last = {
                    "step": self._done,
                    "seconds": round(self._seconds, 1),
                    **facts,
                    "held_out": self._measure(),
                }
                self._write_log(self._last)
            if is_kept:
                self._save()
            self._progress.step(self._done, steps, {**self._last, **facts})

    def _step(self, step: int) -> dict[str, float]:
        """Take one step; return its losses.

        Raises:
            TrainingError: There is nothing to learn from in it, or something is no number any more.
        """
        optimiser = self._recipe.optimiser
        # Whatever is drawn in a step, dropout too, depends on its number alone.
        torch.manual_seed((self._recipe.seed << 32) + step)
        self._network.train()
        rate = learning_rate(step, optimiser)
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        losses = self._losses(self._draw(step))
        if not losses:
            raise TrainingError(
                f"step {step + 1} drew no pair, and nothing that the teacher speaks of",
                hint="raise optimiser.batch, or the shares of tables with pairs",
            )
        total = sum(losses.values(), start=torch.zeros((), device=self._device))
        value = float(total.detach())
        if not math.isfinite(value):
            raise self._astray(f"the loss of step {step + 1} is {value}")
        self._optimiser.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        norm = float(
            nn.utils.clip_grad_norm_(
                [*self._network.parameters(), self._scale], optimiser.clip, foreach=True
            )
        )
        if not math.isfinite(norm):
            raise self._astray(f"the gradient of step {step + 1} is {norm}")
        try:
            self._optimiser.step()
        except RuntimeError as error:
            if "overflow" not in str(error):
                raise
            # PyTorch refuses to multiply by what single precision cannot hold.
            what = f"the rate of step {step + 1} is {rate:.4g}, beyond all weights"
            raise self._astray(what) from error
        with torch.no_grad():
            self._scale.clamp_(max=-math.log(self._recipe.loss.least_temperature))
            keep = min(optimiser.ema, (1 + step) / (10 + step)) if optimiser.ema else 0.0
            torch._foreach_lerp_(
                list(self._mean.values()), [self._weights[name] for name in self._mean], 1 - keep
            )
            temperature = float((-self._scale).exp())
        if not math.isfinite(temperature):
            raise self._astray(f"the temperature of step {step + 1} is {temperature}")
        return {
            "loss": value,
            **{name: float(loss.detach()) for name, loss in losses.items()},
            "gradient": norm,
            "rate": rate,
            "temperature": temperature,
        }

    def _astray(self, what: str) -> TrainingError:
        """Return an error about a training that went astray; its last checkpoint is still good."""
        return TrainingError(
            what, hint=f"{self._kept()}; try a lower optimiser.learning_rate with --restart"
        )

    def _check_weights(self) -> None:
        """Stop before weights are kept of which no model can be made.

        Raises:
            TrainingError: Some are no numbers, or too large for a model's half precision.
        """
        for name, weights in (*self._weights.items(), *self._mean.items()):
            largest = float(weights.abs().max())
            if not largest <= LARGEST_WEIGHT:  # NaN is no less than anything
                raise self._astray(
                    f"after step {self._done} the weights of {name} reach {largest:.4g}, "
                    "and no model can hold that"
                )

    def _losses(self, inputs: Mapping[Modality, Inputs]) -> dict[str, Tensor]:
        recipe = self._recipe
        vectors = {modality: self._embed(modality, one) for modality, one in inputs.items()}
        scale = self._scale.exp()
        losses = {}
        if recipe.loss.contrastive and len(vectors) > 1:
            rows = {modality: one.rows for modality, one in inputs.items()}
            told_apart = contrastive(vectors, rows, self.examples.contents, scale)
            if told_apart is not None:
                losses["contrastive"] = recipe.loss.contrastive * told_apart
        if recipe.distillation is not None:
            how = recipe.distillation
            for modality, one in inputs.items():
                said_anew = self._ask(one) if modality == Modality.IMAGE and how.anew else None
                targets = self.examples.targets(modality, one.rows, how.own, said_anew)
                said = np.flatnonzero(targets.any(axis=1))
                if len(said):
                    losses[f"teacher_{modality}"] = how.weight * distillation(
                        vectors[modality].index_select(0, tensor(said).to(self._device)),
                        tensor(targets[said]).to(self._device),
                        shared(self.examples.contents[one.rows[said]]),
                        scale,
                        how.contrast,
                    )
        return losses

    def _ask(self, inputs: Inputs) -> NDArray[np.float32] | None:
        """Return what the teacher says of pictures as they were altered, unit rows (n, 256)."""
        if self._teacher is None or Modality.IMAGE not in self.examples.teacher:
            return None
        encoder = self._teacher.encoder(Modality.IMAGE)
        pixels = (inputs.tensors[0] * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
        return encode_all(encoder, list(pixels.cpu().numpy()))

    def _embed(self, modality: Modality, inputs: Inputs) -> Tensor:
        """Return unit vectors (n, 256) of a batch."""
        tensors = [tensor.to(self._device) for tensor in inputs.tensors]
        if modality == Modality.IMAGE:
            # Measuring looks at whole pictures.
            seen = self._recipe.augmentation.squares if self._network.training else 1.0
            return self._network.embed_images(*tensors, seen=seen)
        if modality == Modality.AUDIO:
            return self._network.embed_sounds(*tensors)
        # Texts of like length go together: what pads them costs as much as they do, where there
        # are few cores.
        ids, lengths = tensors
        order = torch.argsort(lengths, stable=True)
        together = TEXTS_AT_ONCE if self._device.type == "cpu" else len(ids)
        parts = [
            self._network.embed_text(ids[some, : int(lengths[some].max())], lengths[some])
            for some in order.split(together)  # type: ignore[no-untyped-call]
        ]
        return torch.cat(parts)[torch.argsort(order)]

    # ---- measuring -----------------------------------------------------------------------------

    @torch.inference_mode()
    def _measure(self) -> dict[str, Any]:
        """Return what the mean weights find among the held-out examples."""
        rows = np.flatnonzero(self.examples.is_measured)
        kept = {name: value.clone() for name, value in self._weights.items()}
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
        numbers = self.examples.numbers
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
                # Each content asks and is asked once, in however many rows it stands.
                _, first, asks = np.unique(
                    numbers[asking][both], return_index=True, return_inverse=True
                )
                _, other, answers = np.unique(
                    numbers[asked][both], return_index=True, return_inverse=True
                )
                relevant = np.zeros((len(first), len(other)), bool)
                one, another = np.nonzero(shared(self.examples.contents[both]))
                relevant[asks[one], answers[another]] = True
                cosines = vectors[asking][both[first]] @ vectors[asked][both[other]].T
                ranks = first_relevant_ranks(cosines, relevant)
                found[f"{asking}→{asked}"] = {
                    "queries": len(first),
                    "success@1": success_at_k(ranks, 1),
                    "success@10": success_at_k(ranks, 10),
                    "mrr": mean_reciprocal_rank(ranks),
                }
        return found

    # ---- what stays ----------------------------------------------------------------------------

    def _write_log(self, facts: Mapping[str, Any]) -> None:
        with (self._work / LOG).open("a", encoding="utf-8") as log:
            log.write(_line(facts))

    def _save(self) -> None:
        state = {
            "recipe": self._recipe.digest(),
            "made_from": self._made_from,
            "step": self._done,
            "seconds": self._seconds,
            "network": self._weights,
            "mean": self._mean,
            "scale": self._scale.detach(),
            "optimiser": self._optimiser.state_dict(),
            "last": json.dumps(self._last),
        }
        written = io.BytesIO()  # what PyTorch writes itself ends on a full disk without saying so
        torch.save(state, written)
        with durable.whole_file(self._work / CHECKPOINT) as partial:
            partial.write_bytes(written.getbuffer())

    def _resume(self) -> None:
        """Go on from the checkpoint, where there is one.

        Raises:
            Conflict: It is of another recipe, or was made from other data or models.
            CheckpointError: It is damaged, or of a version before this one.
        """
        path = self._work / CHECKPOINT
        log = self._work / LOG
        if not path.exists():
            log.unlink(missing_ok=True)
            return
        try:
            with ZipFile(path) as parts:  # PyTorch holds them against no checksum
                if part := parts.testzip():
                    raise ValueError(f"{part} is not what was written")
            with catch_warnings():  # an error says what there is to say
                simplefilter("ignore")
                state = torch.load(path, map_location=self._device, weights_only=True)
            digest, done, made_from = state["recipe"], int(state["step"]), state["made_from"]
        except Exception as error:
            raise CheckpointError(
                f"{path} cannot be read: it is damaged, or of another version",
                hint="begin anew with --restart",
            ) from error
        if digest != self._recipe.digest():
            raise Conflict(
                f"{path} is of another recipe, or of this one before it was changed",
                hint="name another directory, or begin anew with --restart",
            )
        changed = [what for what, now in self._made_from.items() if made_from.get(what) != now]
        if changed:
            raise Conflict(
                f"{path} was made before {' and '.join(changed)} changed",
                hint="name another directory, or begin anew with --restart",
            )
        self._network.load_state_dict(state["network"])
        self._mean = state["mean"]
        self._scale.data = state["scale"]
        self._optimiser.load_state_dict(state["optimiser"])
        self._done, self._seconds = done, float(state["seconds"])
        self._last = json.loads(state["last"])
        # What was logged after the checkpoint comes again.
        entries = read_log(log) if log.exists() else []
        with durable.whole_file(log) as partial:
            partial.write_text(
                "".join(_line(one) for one in entries if one["step"] <= done), encoding="utf-8"
            )
        self._progress.note(f"going on after step {done}")

    def _kept(self) -> str:
        path = self._work / CHECKPOINT
        if not path.exists():
            return "nothing was kept yet"
        return f"the last good state is in {path}, of which --finish makes a model"

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
            "measured_examples": int(self.examples.is_measured.sum()),
            "skipped_rows": len(self.examples.problems),
            "last": self._last,
        }


def _line(facts: Mapping[str, Any]) -> str:
    """Return a line of the log."""
    return json.dumps(facts, ensure_ascii=False) + "\n"


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
def _deterministic(device: torch.device) -> Iterator[None]:
    """Let PyTorch choose only ways that give the same bits again, where it knows any."""
    if device.type == "cuda":  # https://docs.nvidia.com/cuda/cublas/#results-reproducibility
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


@contextmanager
def _fast_products(device: torch.device) -> Iterator[None]:
    """Let a GPU round what it multiplies to 19 bits (TF32): several times as fast."""
    before = torch.get_float32_matmul_precision()
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


class _Silent:
    """Progress that nobody watches."""

    def stage(self, name: str, done: int, total: int) -> None:
        """Say nothing."""

    def step(self, done: int, total: int, facts: Mapping[str, Any]) -> None:
        """Say nothing."""

    def note(self, line: str) -> None:
        """Say nothing."""
