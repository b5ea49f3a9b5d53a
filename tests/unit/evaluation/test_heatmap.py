"""A matrix of modalities as a picture: each figure lies in the row that asks for its column."""

from __future__ import annotations

from pathlib import Path

import matplotlib.figure
import numpy as np
import pytest

from muomni_search.evaluation.figures import Figure
from muomni_search.evaluation.heatmap import write_heatmap

# A text finds pictures better than a picture finds texts; nobody asked a sound for pictures.
VALUES = {
    ("text", "image"): 0.9,
    ("text", "audio"): 0.3,
    ("image", "image"): 0.7,
    ("image", "text"): 0.2,
    ("audio", "text"): 0.4,
}


def test_a_cell_is_what_its_row_finds_of_its_column(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    save = matplotlib.figure.Figure.savefig

    def watched(picture: matplotlib.figure.Figure, *given: object, **named: object) -> None:
        drawn.append(picture)
        save(picture, *given, **named)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", watched)
    figures = [
        Figure({"asking": asking, "asked": asked}, metric, 8, value)
        for (asking, asked), right in VALUES.items()
        for metric, value in (("mrr", right), ("recall@10", 1.0))
    ]
    write_heatmap(tmp_path / "map.png", {"base": figures}, "mrr")
    panel = drawn[0].axes[0]
    rows = [label.get_text() for label in panel.get_yticklabels()]
    columns = [label.get_text() for label in panel.get_xticklabels()]
    assert (rows, columns) == (["text", "image", "audio"], ["text", "image", "audio"])
    assert (panel.get_ylabel(), panel.get_xlabel()) == ("asked with", "asked for")
    right = [[VALUES.get((row, column), np.nan) for column in columns] for row in rows]
    np.testing.assert_array_equal(panel.images[0].get_array().filled(np.nan), right)
    shown = {text.get_position(): text.get_text() for text in panel.texts}
    assert (shown[1, 0], shown[0, 1], shown[1, 2]) == ("0.90", "0.20", "–")
