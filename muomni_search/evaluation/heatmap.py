"""A picture of a matrix of modalities: who asks, who is asked, how well it is found."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from muomni_search import durable
from muomni_search.errors import InvalidInput
from muomni_search.evaluation.figures import Figure
from muomni_search.extras import load_extra
from muomni_search.store.sqlite import disk_errors

__all__ = ["check_heatmap", "write_heatmap"]

PANEL_INCHES = 3.6
DPI = 150
# Above, the colours are too bright for white figures.
BRIGHT = 0.6


def check_heatmap(path: Path) -> None:
    """Refuse what cannot be written, before anything is measured.

    Raises:
        InvalidInput: The name does not end in .png.
        Conflict: There is a file that is no PNG.
        NotFound: There is no folder for it; or matplotlib is not installed.
    """
    if path.suffix.lower() != ".png":
        raise InvalidInput(f"{path}: no picture's name", hint="name a .png file")
    with disk_errors(path):
        durable.check_kind(path, durable.PNG_HEAD)
    load_extra("matplotlib", extra="explore")


def write_heatmap(path: Path, figures: Mapping[str, Sequence[Figure]], metric: str) -> None:
    """Write one metric of each pair of modalities as a PNG, a panel a model.

    Args:
        path: The file; a PNG that is there is replaced.
        figures: The figures of each model, by its name.
        metric: Which of their metrics.
    """
    load_extra("matplotlib", extra="explore")
    # The object interface draws without a window system and keeps nothing open.
    figure_module = load_extra("matplotlib.figure", extra="explore")
    picture = figure_module.Figure(
        figsize=(PANEL_INCHES * len(figures) + 0.6, PANEL_INCHES), dpi=DPI, layout="constrained"
    )
    panels = picture.subplots(1, len(figures), squeeze=False)[0]
    for panel, (name, own) in zip(panels, figures.items(), strict=True):
        cells = {
            (one.of["asking"], one.of["asked"]): one.value for one in own if one.metric == metric
        }
        rows = list(dict.fromkeys(asking for asking, _ in cells))
        columns = [
            one
            for one in ("text", "image", "audio", "any")
            if any(asked == one for _, asked in cells)
        ]
        values = [[cells.get((row, column), float("nan")) for column in columns] for row in rows]
        image = panel.imshow(values, vmin=0, vmax=1, cmap="viridis")
        panel.set_xticks(range(len(columns)), columns)
        panel.set_yticks(range(len(rows)), rows)
        panel.set_xlabel("asked for")
        panel.set_ylabel("asked with")
        # The name may be a path with signs that mean formulas.
        panel.set_title(f"{name}: {metric}", fontsize="medium", parse_math=False)
        for row, line in enumerate(values):
            for column, value in enumerate(line):
                shown = "–" if math.isnan(value) else f"{value:.2f}"
                colour = "white" if value < BRIGHT else "black"
                panel.text(column, row, shown, ha="center", va="center", color=colour)
    picture.colorbar(image, ax=list(panels), shrink=0.8)
    with disk_errors(path), durable.whole_file(path) as partial:
        picture.savefig(partial, format="png", metadata={"Software": "muomni"})
