"""What a notebook shows of an answer, in a real browser, in the middle of somebody else's page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image

from muomni_search import Hit, Hits, Modality

EVIL = '<img src=x onerror="document.title=1"></style><script>document.title=2</script>'
HOST = "<!DOCTYPE html><meta charset=utf-8><title>mine</title><h2>Mine</h2><ol><li>One</ol>"
LOOKS = """() => ["h2", "body", "ol", "li"].map(name => {
    const look = getComputedStyle(document.querySelector(name));
    return [look.fontSize, look.color, look.backgroundColor, look.margin, look.listStyleType]
})"""


def make_hit(key: str, modality: str, source: Path | None, text: str | None = None) -> Hit:
    where = None if source is None else str(source)
    return Hit(1, key, Modality(modality), 3.0, 0.5, where, text, None, {"k": EVIL}, "exact")


def test_an_answer_shows_itself_and_leaves_the_page_alone(chromium: Any, tmp_path: Path) -> None:
    Image.new("RGB", (300, 200), "red").save(tmp_path / "p.png")
    soundfile.write(tmp_path / "s.wav", np.sin(np.arange(16_000) / 9), 16_000)
    answer = Hits(
        [
            make_hit("p", "image", tmp_path / "p.png"),
            make_hit("s", "audio", tmp_path / "s.wav"),
            make_hit(EVIL, "text", None, EVIL),
        ]
    )
    page = chromium.new_page(viewport={"width": 900, "height": 700})
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.set_content(HOST)
    before = page.evaluate(LOOKS)
    # As Jupyter does it: the output comes into the page when that is there.
    page.evaluate(
        "html => document.body.insertAdjacentHTML('beforeend', html)", answer._repr_html_()
    )
    page.wait_for_function("document.querySelector('.muomni-hits img').complete")
    assert page.evaluate(LOOKS) == before
    assert page.title() == "mine"
    assert all(url.startswith("data:") for url in asked)
    cards = page.locator(".muomni-hits .hit")
    boxes = [cards.nth(number).bounding_box() for number in range(3)]
    assert len({box["y"] for box in boxes}) == 1  # side by side, so the style holds
    assert page.locator(".muomni-hits img").evaluate("one => one.naturalWidth") == 240
    page.locator(".muomni-hits audio").evaluate("one => one.load()")
    page.wait_for_function("document.querySelector('.muomni-hits audio').duration > 0.9")
    assert EVIL in cards.nth(2).inner_text()
    page.close()
