"""Measure the own sound tower on the held-out sounds, beside the model `base`.

    python scripts/evaluate_own_sound.py [--work .work/packages]

Prints Markdown: R@10 of each direction with 95 % bootstrap intervals. Words and pictures are those
of `base` in both columns. The sets are for evaluation alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from base_model.evaluation_sets import instruments, tux_paint
from evaluate_models import ROOT, comparison, embed, sound_figures, sounding

from muomni_search.encoders.base.own_sound import OwnSoundEncoder
from muomni_search.encoders.model import fetch_model, load_model
from muomni_search.encoders.protocol import Encoder, Model
from muomni_search.evaluation.figures import Figure
from muomni_search.items import Modality

WEIGHTS = ROOT / "muomni_search/encoders/base/weights"


class WithOwnSound(Model):
    """The words and pictures of a model, and the own sound tower."""

    def __init__(self, model: Model) -> None:
        super().__init__("own sound", model.kind, None, threads=model.threads)
        self._model = model

    def fingerprint(self) -> str:
        """Return no hash: nothing is kept under it."""
        return "own sound"

    def _load(self, modality: Modality) -> Encoder:
        if modality is not Modality.AUDIO:
            return self._model.encoder(modality)
        tower, head = WEIGHTS / "own_sound.onnx", WEIGHTS / "own_sound.head.npz"
        return OwnSoundEncoder(tower, head, self.fingerprint(), threads=self.threads)


def figures(model: Model, work: Path) -> list[Figure]:
    examples = [example for example in tux_paint(work) if example.sound]
    pictures = embed(model, Modality.IMAGE, [one.picture for one in examples if one.picture])
    found = sounding(model, examples, pictures)
    return [*found, *sound_figures(model, "instrument sounds", instruments(work))]


def main() -> None:
    parser = argparse.ArgumentParser(description="measure the own sound tower")
    parser.add_argument("--work", type=Path, default=ROOT / ".work/packages")
    options = parser.parse_args()
    fetch_model("base")
    base = load_model("base")
    models = {"base": base, "own sound": WithOwnSound(base)}
    found = {name: figures(model, options.work) for name, model in models.items()}
    print("\n".join(comparison(found)))


if __name__ == "__main__":
    main()
