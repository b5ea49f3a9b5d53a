"""The answer as a list, as what a notebook shows, and as a table."""

from __future__ import annotations

import json
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from muomni_search import Hits, NotFound, hits
from muomni_search.items import Hit, Modality, Span

EVIL = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</style></mark></bdi><iframe src=//example.org>",
    "{{ 7 * 7 }}{% raw %}",
    "\x00\x1b[31m\u202e",
)


def make_hit(key: str = "a", modality: str = "text", **facts: Any) -> Hit:
    given = {"source": None, "text": None, "span": None, "metadata": {}, "how": "exact", **facts}
    return Hit(1, key, Modality(modality), 3.5, 0.25, **given)


class Fragment(HTMLParser):
    """What a browser makes of an answer: elements with attributes, and all text."""

    def __init__(self, found: Hits) -> None:
        super().__init__()
        self.html = found._repr_html_()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.feed(self.html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture
def media(tmp_path: Path) -> Hits:
    pixels = np.random.default_rng(3).integers(0, 256, (600, 800, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "p.png")
    soundfile.write(tmp_path / "s.wav", np.sin(np.arange(16_000) / 9), 16_000)
    return Hits(
        [
            make_hit("p.png", "image", source=str(tmp_path / "p.png"), metadata={"year": 1990}),
            make_hit("s.wav", "audio", source=str(tmp_path / "s.wav"), span=Span("ms", 0, 500)),
            make_hit("t", text="An owl calls.", span=Span("char", 0, 13)),
            make_hit("gone.png", "image", source=str(tmp_path / "gone.png")),
        ]
    )


def test_it_is_a_list_and_so_are_its_parts(media: Hits) -> None:
    assert media == list(media)
    assert isinstance(media[:2], Hits)
    assert [hit.key for hit in media[1:3]] == ["s.wav", "t"]
    assert media[0].key == "p.png"
    assert media[-1].key == "gone.png"


def test_a_notebook_shows_pictures_players_and_passages(media: Hits) -> None:
    shown = Fragment(media)
    (picture,) = shown.all("img")
    assert picture["src"].startswith("data:image/webp;base64,")
    assert max(int(picture["width"]), int(picture["height"])) == hits.SHOWN_PIXELS
    (player,) = shown.all("audio")
    assert player["src"].startswith("data:audio/ogg;base64,")
    assert "An owl calls." in shown.texts
    assert "1990" in shown.texts
    assert any("no such file" in text for text in shown.texts)
    assert shown.elements[0] == ("div", {"class": "muomni-hits"})


def test_its_style_holds_nowhere_else(media: Hits) -> None:
    style = Fragment(media).html.partition("<style>")[2].partition("</style>")[0]
    depth = 0
    # All rules stand inside of the one for the element.
    for place, sign in enumerate(style.strip()):
        depth += {"{": 1, "}": -1}.get(sign, 0)
        assert depth > 0 or place < len(".muomni-hits {") or place == len(style.strip()) - 1
    assert style.strip().startswith(".muomni-hits {")
    assert ":root" not in style


@pytest.mark.parametrize("evil", EVIL)
def test_nothing_in_a_hit_acts_in_the_notebook(evil: str) -> None:
    evil_hit = make_hit(evil, text=evil, metadata={evil: evil, "more": [evil]}, source=evil)
    plain = make_hit("k", text="t", metadata={"k": "v", "more": ["v"]}, source="s")
    picture = make_hit(evil, "image", text=evil, source=f"/{evil}")
    shown, expected = Fragment(Hits([evil_hit, picture])), Fragment(Hits([plain]))
    assert {tag for tag, _ in shown.elements} <= {tag for tag, _ in expected.elements} | {"p"}
    names = {name for _, attributes in shown.elements for name in attributes}
    assert not {name for name in names if name.startswith("on")}
    assert evil.replace("\x00", "\ufffd") in "".join(shown.texts).replace("\x00", "\ufffd")


def test_many_hits_and_large_ones_stay_within_bounds(
    media: Hits, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = Fragment(Hits([*media[:1]] * 1000))
    assert len(shown.all("img")) == hits.SHOWN_HITS
    assert "976 more are not shown." in "".join(shown.texts)
    assert len(shown.html) < hits.SHOWN_BYTES
    monkeypatch.setattr(hits, "SHOWN_BYTES", 100_000)
    assert len(Fragment(Hits([*media[:1]] * 1000)).html) < 300_000
    assert "No hits." in "".join(Fragment(Hits()).texts)


def test_a_table_has_a_row_a_hit(media: Hits) -> None:
    table = media.to_arrow()
    assert table.column_names == list(media[0].as_dict())
    assert table.column("key").to_pylist() == [hit.key for hit in media]
    assert [json.loads(one) for one in table.column("metadata").to_pylist()] == [
        hit.metadata for hit in media
    ]
    assert [one and json.loads(one) for one in table.column("span").to_pylist()] == [
        hit.span and hit.span.as_dict() for hit in media
    ]
    # An empty answer has the same columns and types.
    assert Hits().to_arrow().schema == table.schema


def test_a_data_frame_has_dicts(media: Hits) -> None:
    pytest.importorskip("pandas")
    frame = media.to_pandas()
    assert list(frame.columns) == list(media[0].as_dict())
    assert frame["metadata"][0] == {"year": 1990}
    assert frame["span"][1] == {"unit": "ms", "start": 0, "end": 500}
    assert frame["score"].tolist() == [hit.score for hit in media]
    assert list(Hits().to_pandas().columns) == list(frame.columns)


def test_without_pandas_the_mend_is_told(media: Hits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(NotFound, match=r"pip install 'muomni_search\[notebook\]'"):
        media.to_pandas()
