"""What clip art is called, of which the model `base` learns (`scripts/base_model/drawings.py`)."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.mark.parametrize(
    ("stem", "title", "name"),
    [
        ("camera_michael_tunniclif_01", "Camera", "camera"),
        (
            "dog_05_drawn_with_strai_02",
            "Dog 05 Drawn With Straight Lines",
            "dog drawn with straight lines",
        ),
        ("trefoil_architectural_e_01", "Trefoil (Architectural Element, a symbol)", "trefoil"),
        ("hat_-_clothing_nicu_bucu_03", "Hat - Clothing", "hat"),
        ("jupiter_dan_gerhards_01", "Jupiter by Dan Gerhards", "jupiter"),
        # A series is no name, and nothing is said in two letters.
        ("aiga_stairs_up_", "AIGA_Symbol_Signs", "stairs"),
        ("crosswind", "SVG Road Signs", "crosswind"),
        ("button_01", "", "button"),
        ("sm_013", "Stick man", "stick man"),
        ("architetto_francesco_ro_01", "Architetto Francesco Rollandin", ""),
    ],
)
def test_clip_art_is_called_by_what_it_shows(
    stem: str, title: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    from base_model.drawings import clipart_name

    assert clipart_name(stem, title) == name
    monkeypatch.delitem(sys.modules, "base_model.drawings", raising=False)
