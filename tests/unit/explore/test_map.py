"""A collection as a map, and the map as files: the right points, harmless and reproducible."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import soundfile
from PIL import Image

from muomni_search import Collection, Map, Modality, Query, Record, make_map, write_map
from muomni_search.errors import Conflict, InvalidInput, NotFound
from muomni_search.explore import drawing
from muomni_search.vectors import mean_vector, normalise

EVIL = (
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    "<!--<script>",
    '"><svg onload=alert(1)>',
    "a\u2028b\u2029c & $x^2$ _y",
    "{{ 7 * 7 }}{% raw %}",
    "日本語 🦉",
)
LONG = " ".join(f"Sentence {number} tells of the number {number}." for number in range(60))


def record(key: str, modality: str = "text", **fields: Any) -> Record:
    return Record(key, Modality(modality), "here", **fields)


@pytest.fixture
def collection(tmp_path: Path) -> Iterator[Collection]:
    """Nine texts, one of them long, with metadata; two pictures and two sounds with files."""
    rng = np.random.default_rng(1)
    records = [
        record(f"t{n}", text=f"Text number {n}.", metadata={"year": 2000 + n, "kind": "ab"[n % 2]})
        for n in range(8)
    ]
    records.append(record("long", text=LONG))
    for n in range(2):
        picture, sound = tmp_path / f"p{n}.png", tmp_path / f"s{n}.wav"
        pixels = rng.integers(0, 256, (300, 200, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(picture)
        soundfile.write(sound, 0.3 * rng.standard_normal(16_000), 16_000)
        records.append(record(f"p{n}", "image", path=picture, source=str(picture)))
        records.append(record(f"s{n}", "audio", path=sound, source=str(sound)))
    with Collection.create(tmp_path / "c", model="hashing") as made:
        assert made.add(records).failed == 0
        yield made


def small(collection: Collection, **options: Any) -> Map:
    return make_map(collection, **{"method": "pca", **options})


def page_data(path: Path) -> dict[str, Any]:
    """Return what the script of a page finds, as a browser hands it to it."""
    page = path.read_text(encoding="utf-8")
    (data,) = re.findall(
        r'<script type="application/json" id="data">(.*?)</script', page, re.DOTALL
    )
    found: dict[str, Any] = json.loads(data)
    return found


def places_of(data: dict[str, Any]) -> np.ndarray[Any, Any]:
    return np.frombuffer(base64.b64decode(data["places"]), "<f4").reshape(-1, 2)


# ---- points --------------------------------------------------------------------------------


def test_every_item_is_a_point_at_the_mean_of_its_segments(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {}

    def watch(rows: Any, **options: Any) -> Any:
        given["rows"] = rows
        return np.zeros((len(rows), 2), np.float32), "pca"

    monkeypatch.setattr("muomni_search.explore.map.lay_out", watch)
    drawn = make_map(collection, centre=False)
    assert [point.key for point in drawn.points] == sorted(i.key for i in collection.items())
    items = collection.get([point.key for point in drawn.points], vectors=True)
    np.testing.assert_allclose(given["rows"], [item.vector for item in items], atol=1e-6)
    assert items[0].segments > 1  # "long"
    many = make_map(collection, centre=False, segments=True)
    own = [n for n, point in enumerate(many.points) if point.key == "long"]
    assert len(own) == items[0].segments
    assert many.points[own[1]].text == LONG[slice(*_ends(many, own[1]))][:400]
    np.testing.assert_allclose(mean_vector(given["rows"][own]), items[0].vector, atol=1e-6)


def _ends(drawn: Map, number: int) -> tuple[int, int]:
    span = drawn.points[number].span
    assert span is not None
    return span.start, span.end


def test_filters_and_modalities_choose_the_points(collection: Collection) -> None:
    assert {p.key for p in small(collection, where="year >= 2006").points} == {"t6", "t7"}
    assert {p.key for p in small(collection, modality="image").points} == {"p0", "p1"}
    with pytest.raises(InvalidInput, match="no item to show"):
        small(collection, where="year > 3000")
    with pytest.raises(InvalidInput, match="bad filter"):
        small(collection, where="year >")


def test_an_empty_collection_has_no_map(tmp_path: Path) -> None:
    with (
        Collection.create(tmp_path / "empty", model="hashing") as empty,
        pytest.raises(InvalidInput, match="no item to show"),
    ):
        make_map(empty)


def test_a_limit_samples_by_the_seed(collection: Collection) -> None:
    drawn = small(collection, limit=5, seed=1)
    assert (len(drawn.points), drawn.found) == (5, 13)
    keys = [point.key for point in drawn.points]
    assert keys == sorted(set(keys))
    assert [p.key for p in small(collection, limit=5, seed=1).points] == keys
    others = {tuple(p.key for p in small(collection, limit=5, seed=s).points) for s in range(5)}
    assert len(others) > 1
    parts = small(collection, limit=5, segments=True)
    assert len(parts.points) == 5
    assert parts.found > 13


def test_a_querys_neighbourhood_is_its_hits_and_the_query(collection: Collection) -> None:
    hits = collection.query("Text number 3.", 4)
    drawn = small(collection, query="Text number 3.", k=4)
    assert [(p.key, p.rank, p.score) for p in drawn.points] == [
        (hit.key, hit.rank, hit.score) for hit in hits
    ]
    assert drawn.places.shape == (4, 2)
    assert drawn.query_place is not None
    assert drawn.query_title == "Text number 3."
    # The query is t3 itself: it lies where t3 does.
    (own,) = [n for n, point in enumerate(drawn.points) if point.key == "t3"]
    np.testing.assert_allclose(drawn.query_place, drawn.places[own], atol=1e-5)


def test_an_item_is_in_its_own_neighbourhood_and_segments_may_be_asked(
    collection: Collection,
) -> None:
    assert small(collection, query=Query.id("t1"), k=3).points[0].key == "t1"
    drawn = small(collection, query=Query.id("long"), k=3, segments=True, modality="text")
    assert all(point.span is not None for point in drawn.points if point.key == "long")
    with pytest.raises(NotFound, match="lark"):
        small(collection, query=Query.id("lark"))


def test_the_same_seed_gives_the_same_files(collection: Collection, tmp_path: Path) -> None:
    for name in ("a", "b"):
        drawn = make_map(collection, method="umap", seed=5)
        assert drawn.method == "umap"
        for suffix in ("html", "png", "svg"):
            write_map(drawn, tmp_path / f"{name}.{suffix}")
    assert len(page_data(tmp_path / "a.html")["sounds"]) == 2
    for suffix in ("html", "png", "svg"):
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


def test_a_bad_field_or_method_is_told_before_the_layout(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("muomni_search.explore.map.lay_out", None)
    with pytest.raises(InvalidInput, match=r"no point has a field 'colour'.*kind, year"):
        make_map(collection, color="colour")
    with pytest.raises(InvalidInput, match="no method 'mds'"):
        make_map(collection, method="mds")
    with pytest.raises(InvalidInput, match="1 or more"):
        make_map(collection, limit=0)
    with pytest.raises(InvalidInput, match="the seed is -1"):
        make_map(collection, limit=2, seed=-1)


# ---- the page ------------------------------------------------------------------------------


def test_a_page_holds_the_points_with_pictures_and_sounds(
    collection: Collection, tmp_path: Path
) -> None:
    drawn = small(collection, color="kind", title="Things")
    write_map(drawn, tmp_path / "map.html")
    data = page_data(tmp_path / "map.html")
    assert data["keys"] == [point.key for point in drawn.points]
    assert places_of(data).tobytes() == drawn.places.tobytes()
    assert [group["name"] for group in data["groups"]] == ["a", "b", "none"]
    assert data["facts"][data["keys"].index("t3")] == [["kind", "b"], ["year", "2003"]]
    assert data["texts"][data["keys"].index("t3")] == "Text number 3."
    assert len(data["texts"][0]) <= 401  # of the long one the beginning
    number = data["keys"].index("p0")
    uri, width, height, is_cutout = data["pictures"][str(number)]
    assert (width, height, is_cutout) == (85, 128, False)
    assert uri.startswith("data:image/webp;base64,")
    assert data["sources"][number] == str(tmp_path / "p0.png")
    assert data["sounds"][str(data["keys"].index("s1"))][0].startswith("data:audio/ogg;base64,")
    assert "<title>Things</title>" in (tmp_path / "map.html").read_text()


def test_numbers_are_a_scale_on_the_page(collection: Collection, tmp_path: Path) -> None:
    write_map(small(collection, color="year"), tmp_path / "map.html")
    scale = page_data(tmp_path / "map.html")["scale"]
    assert (scale["low"], scale["high"]) == ("2000", "2007")


def test_pictures_and_sounds_have_a_limit(collection: Collection, tmp_path: Path) -> None:
    drawn = small(collection)
    write_map(drawn, tmp_path / "map.html", thumbnails=1, sounds=0)
    data = page_data(tmp_path / "map.html")
    assert (len(data["pictures"]), len(data["sounds"])) == (1, 0)
    assert all(data["sources"][data["keys"].index(key)] for key in ("p0", "p1", "s0", "s1"))


def test_a_page_without_files_shows_the_rest(collection: Collection, tmp_path: Path) -> None:
    (tmp_path / "p0.png").unlink()
    (tmp_path / "s0.wav").write_bytes(b"no sound")
    write_map(small(collection), tmp_path / "map.html")
    data = page_data(tmp_path / "map.html")
    assert (len(data["pictures"]), len(data["sounds"])) == (1, 1)


def test_the_page_runs_its_own_script_alone_and_asks_nothing_of_anyone(
    collection: Collection, tmp_path: Path
) -> None:
    write_map(small(collection), tmp_path / "map.html")
    page = (tmp_path / "map.html").read_text()
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    for kind, text in (("script", script), ("style", style)):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; img-src data:; media-src data:;")
    without_names = page.replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|//cdn|@import|url\(http", without_names)
    # What comes from outside reaches the page as text nodes alone.
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", script)


def test_whatever_keys_and_texts_hold_is_shown_and_nothing_else(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = normalise(rng.standard_normal((len(EVIL), 256)))
    records = [
        record(text, vector=row, text=text, source=text, metadata={text: text, "f": text})
        for text, row in zip(EVIL, rows, strict=True)
    ]
    with Collection.create(tmp_path / "c", model="hashing") as collection:
        assert collection.add(records).failed == 0
        harmless = tmp_path / "harmless.html"
        write_map(small(collection, title="x"), harmless)
        for title in EVIL:
            drawn = small(collection, title=title, color="f", query=Query.id(EVIL[0]),
                          query_title=title)  # fmt: skip
            write_map(drawn, tmp_path / "map.html")
            page = (tmp_path / "map.html").read_text(encoding="utf-8")
            elements = r"<[a-zA-Z/!][a-z0-9]*"
            assert re.findall(elements, page) == re.findall(elements, harmless.read_text())
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                write_map(drawn, tmp_path / "map.svg")
                write_map(drawn, tmp_path / "map.png")
            ET.parse(tmp_path / "map.svg")
        data = page_data(tmp_path / "map.html")
    assert sorted(data["keys"]) == sorted(EVIL)
    assert sorted(data["texts"]) == sorted(EVIL)
    assert data["query"]["title"] == EVIL[-1]


# ---- files ---------------------------------------------------------------------------------


def test_pictures_are_what_their_names_say(collection: Collection, tmp_path: Path) -> None:
    for options in ({}, {"color": "kind"}, {"color": "year", "query": "Text", "k": 5}):
        drawn = small(collection, **options)
        write_map(drawn, tmp_path / "map.png")
        with Image.open(tmp_path / "map.png") as image:
            assert image.format == "PNG"
            assert image.size == (1500, 1050)
            assert not image.info.get("Software")
            colours = {c for _, c in image.convert("RGB").getcolors(1 << 20) or []}
        assert len(colours) > 20
        write_map(drawn, tmp_path / "map.svg")
        assert "<dc:date>" not in (tmp_path / "map.svg").read_text()


def test_a_map_never_replaces_a_file_of_another_kind(
    collection: Collection, tmp_path: Path
) -> None:
    drawn = small(collection)
    for suffix in ("html", "png", "svg"):
        target = tmp_path / f"mine.{suffix}"
        target.write_text("something of mine")
        with pytest.raises(Conflict, match="something else"):
            write_map(drawn, target)
        with pytest.raises(Conflict, match="something else"):
            drawing.check_map_output(collection, target)
        assert target.read_text() == "something of mine"
        target.unlink()
        write_map(drawn, target)
        write_map(drawn, target)


def test_names_that_no_map_can_have_are_refused(collection: Collection, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"no name of a map.*\.html"):
        write_map(small(collection), tmp_path / "map.pdf")
    for path, message in [
        (tmp_path / "map.jpg", "no name of a map"),
        (collection.directory / "vectors" / "map.png", "keeps its own files"),
    ]:
        with pytest.raises(InvalidInput, match=message):
            drawing.check_map_output(collection, path)
    with pytest.raises(NotFound, match="there is no folder"):
        drawing.check_map_output(collection, tmp_path / "nowhere" / "map.png")


def test_pages_need_no_matplotlib_and_pictures_say_that_they_do(
    collection: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = small(collection)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    write_map(drawn, tmp_path / "map.html")
    with pytest.raises(NotFound, match=r"'matplotlib'.*muomni_search\[explore\]"):
        write_map(drawn, tmp_path / "map.png")
    assert not (tmp_path / "map.png").exists()
