"""The page of answers: whole in itself, harmless whatever is on it, and honest about gaps."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from muomni_search import figures
from muomni_search.collection import Collection
from muomni_search.errors import Conflict, MuomniError, NotFound
from muomni_search.items import Hit, Item, Modality, Part, Query, Record, Span
from muomni_search.report import Section, asked_parts, write_page

VOID = {"meta", "img", "br"}
# All that a page is made of: nothing here loads, runs or sends anything.
TAGS = {
    "html", "head", "meta", "title", "style", "body", "a", "header", "h1", "p", "b", "nav",
    "ol", "ul", "li", "main", "section", "h2", "h3", "pre", "code", "bdi", "div", "span", "img",
    "svg", "rect", "path", "audio", "blockquote", "mark", "dl", "dt", "dd", "details",
    "summary",
}  # fmt: skip
ATTRIBUTES = {
    "lang", "charset", "http-equiv", "content", "name", "class", "href", "id", "aria-label",
    "aria-labelledby", "aria-hidden", "tabindex", "role", "src", "width", "height", "alt",
    "decoding", "viewbox", "preserveaspectratio", "x", "y", "d", "controls",
    "preload", "dir",
}  # fmt: skip
EVIL = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</style></mark></bdi></code><iframe src=//example.org>",
    "javascript:alert(1)",
    "{{ 7 * 7 }}{% raw %}",
    "\x00\x1b[31m\u202e\udcff",
)


class Page(HTMLParser):
    """A page as a browser takes it: elements with attributes and all text in them."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self._open: list[int] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self.texts.append("")
        if tag not in VOID and not (self.get_starttag_text() or "").endswith("/>"):
            self._open.append(len(self.elements) - 1)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.elements[self._open.pop()][0] == tag

    def handle_data(self, data: str) -> None:
        for number in self._open:
            self.texts[number] += data

    def all(self, tag: str, **wanted: str) -> list[dict[str, str]]:
        """Return the attributes of each element, with its text as ``text``."""
        return [
            {**attributes, "text": text}
            for (name, attributes), text in zip(self.elements, self.texts, strict=True)
            if name == tag
            and all(value in attributes.get(key.rstrip("_"), "") for key, value in wanted.items())
        ]

    def placeholders(self) -> list[str]:
        return [element["text"] for element in self.all("p", class_="placeholder")]


def make_hit(key: str = "key", modality: str = "text", **fields: Any) -> Hit:
    given: dict[str, Any] = {
        "rank": 1, "score": 3.14, "cosine": 0.271, "source": None, "text": None, "span": None,
        "metadata": {}, "how": "exact",
    }  # fmt: skip
    return Hit(key=key, modality=Modality(modality), **{**given, **fields})


def write(folder: Path, *hits: Hit, parts: tuple[Part, ...] = (), **texts: str) -> Page:
    texts = {"title": "answers", "command": "muomni search x", **texts}
    section = Section(texts["title"], texts["command"], parts, hits)
    write_page(folder / "page.html", texts["title"], [section])
    return Page(folder / "page.html")


def decoded(uri: str, kind: str) -> io.BytesIO:
    data, _, _ = uri.partition("#")
    head, _, body = data.partition(",")
    assert head == f"data:{kind};base64"
    return io.BytesIO(base64.b64decode(body, validate=True))


def write_picture(path: Path, size: tuple[int, int] = (800, 600), mode: str = "RGB") -> Path:
    rng = np.random.default_rng(7)
    small = rng.integers(0, 256, (6, 8, len(mode)), dtype=np.uint8)
    Image.fromarray(small, mode).resize(size).save(path)
    return path


def write_sound(path: Path, seconds: float, loud: tuple[float, float] = (0, 0)) -> Path:
    rate = 8_000
    time = np.arange(int(seconds * rate)) / rate
    is_loud = (time >= loud[0]) & (time < loud[1])
    soundfile.write(path, np.sin(2 * np.pi * 440 * time) * np.where(is_loud, 0.9, 0.05), rate)
    return path


# ---- pictures ------------------------------------------------------------------------------


def test_a_picture_is_inlined_small(tmp_path: Path) -> None:
    source = write_picture(tmp_path / "a.png")
    page = write(tmp_path, make_hit("a.png", "image", source=str(source)))
    (shown,) = page.all("img")
    with Image.open(decoded(shown["src"], "image/webp")) as image:
        assert image.size == (320, 240)
        assert image.mode == "RGB"
        difference = np.abs(
            np.asarray(image, float) - np.asarray(Image.open(source).resize((320, 240)), float)
        )
    assert difference.mean() < 6
    assert (shown["width"], shown["height"]) == ("320", "240")
    assert shown["alt"] == "Picture a.png"


def test_transparency_is_kept(tmp_path: Path) -> None:
    source = write_picture(tmp_path / "a.png", (40, 30), "RGBA")
    page = write(tmp_path, make_hit("a.png", "image", source=str(source)))
    (shown,) = page.all("img")
    with Image.open(decoded(shown["src"], "image/webp")) as image:
        assert image.size == (40, 30)
        assert image.mode == "RGBA"
    assert page.all("div", class_="cutout")


def test_a_picture_is_shown_upright_and_without_what_the_camera_wrote(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    exif[0x010F] = "a camera"
    write_picture(tmp_path / "flat.png", (200, 100))
    Image.open(tmp_path / "flat.png").save(tmp_path / "a.jpg", exif=exif)
    page = write(tmp_path, make_hit("a.jpg", "image", source=str(tmp_path / "a.jpg")))
    (shown,) = page.all("img")
    with Image.open(decoded(shown["src"], "image/webp")) as image:
        assert image.size == (100, 200)
        assert not image.getexif()


def test_a_picture_with_words_is_described_by_them(tmp_path: Path) -> None:
    source = write_picture(tmp_path / "a.png")
    page = write(tmp_path, make_hit("a.png", "image", source=str(source), text="A red kite"))
    assert page.all("img")[0]["alt"] == "A red kite"
    assert page.all("p", class_="caption")[0]["text"] == "A red kite"


# ---- sounds --------------------------------------------------------------------------------


def test_a_sound_gets_a_player_with_the_place_of_the_hit(tmp_path: Path) -> None:
    source = write_sound(tmp_path / "a.wav", 4, loud=(1, 2))
    hit = make_hit("a.wav", "audio", source=str(source), span=Span("ms", 1000, 2000))
    page = write(tmp_path, hit)
    (player,) = page.all("audio")
    assert "controls" in player
    assert player["aria-label"] == "Sound a.wav"
    assert player["src"].endswith("#t=1.00")
    samples, rate = soundfile.read(decoded(player["src"], "audio/ogg"))
    assert len(samples) / rate == pytest.approx(4, abs=0.05)
    inside = np.abs(samples[int(1.1 * rate) : int(1.9 * rate)]).max()
    assert inside > 5 * np.abs(samples[int(2.2 * rate) :]).max()
    mark = page.all("rect", y="-0.3")[0]
    assert (float(mark["x"]), float(mark["width"])) == (24, 24)  # of 96
    assert page.all("p", class_="told")[0]["text"] == "4.0 s, found at 1.0–2.0 s"


def test_a_whole_sound_has_no_mark(tmp_path: Path) -> None:
    source = write_sound(tmp_path / "a.wav", 0.25)
    page = write(tmp_path, make_hit("a.wav", "audio", source=str(source)))
    assert "#" not in page.all("audio")[0]["src"]
    assert not page.all("rect", y="-0.3")
    assert page.all("p", class_="told")[0]["text"] == "0.25 s"


@pytest.mark.parametrize(
    ("span", "told", "begin"),
    [
        (None, "0.0–30.0 of 70.0 s", 0),
        (Span("ms", 5000, 7000), "0.0–30.0 of 70.0 s, found at 5.0–7.0 s", 0),
        (Span("ms", 29500, 31000), "27.5–57.5 of 70.0 s, found at 29.5–31.0 s", 27.5),
        (Span("ms", 69000, 70000), "40.0–70.0 of 70.0 s, found at 69.0–70.0 s", 40),
        # The file was cut since it was added.
        (Span("ms", 90000, 91000), "40.0–70.0 of 70.0 s, found at 90.0–91.0 s", 40),
    ],
)
def test_a_long_sound_is_cut_to_where_the_hit_is(
    tmp_path: Path, span: Span | None, told: str, begin: float
) -> None:
    source = write_sound(tmp_path / "a.flac", 70)
    page = write(tmp_path, make_hit("a.flac", "audio", source=str(source), span=span))
    (player,) = page.all("audio")
    assert soundfile.info(decoded(player["src"], "audio/ogg")).duration == pytest.approx(30, 0.01)
    assert page.all("p", class_="told")[0]["text"] == told
    if span is not None:
        start = float(player["src"].partition("#t=")[2])
        assert start == pytest.approx(min(span.start / 1000 - begin, 30), abs=0.01)
        mark = page.all("rect", y="-0.3")[0]
        assert float(mark["x"]) + float(mark["width"]) <= 96.5


@pytest.mark.parametrize("count", [1, 10, 95])
def test_a_click_of_a_few_samples_is_a_sound_too(tmp_path: Path, count: int) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(count), 16_000)
    page = write(tmp_path, make_hit("a.wav", "audio", source=str(tmp_path / "a.wav")))
    assert len(page.all("audio")) == 1


# ---- texts ---------------------------------------------------------------------------------

HERON = "A heron stands in the reeds. It does not move."


def test_a_passage_is_marked_in_its_surroundings(tmp_path: Path) -> None:
    whole = f"{'The river is long. ' * 30}{HERON} {'Later it flies away. ' * 30}"
    (tmp_path / "a.txt").write_text(whole)
    start = whole.index(HERON)
    span = Span("char", start, start + len(HERON))
    page = write(tmp_path, make_hit(source=str(tmp_path / "a.txt"), text=HERON, span=span))
    assert [mark["text"] for mark in page.all("mark")] == [HERON]
    (shown,) = page.all("blockquote")
    assert shown["tabindex"] == "0"  # it scrolls, so a keyboard must reach it
    before, after = shown["text"].split(HERON)
    assert re.fullmatch(r"…(\w+\.? )*The river is long\. ", before)
    assert after.startswith(" Later it flies away. ")
    assert after.endswith("…")
    assert len(shown["text"]) < 350


@pytest.mark.parametrize("now", [None, "something else " * 9, "short", b"\x00\xff binary"])
def test_a_passage_stands_alone_when_its_file_no_longer_tells(
    tmp_path: Path, now: str | bytes | None
) -> None:
    if now is not None:
        (tmp_path / "a.txt").write_bytes(now.encode() if isinstance(now, str) else now)
    hit = make_hit(source=str(tmp_path / "a.txt"), text=HERON, span=Span("char", 5, 51))
    page = write(tmp_path, hit)
    assert page.all("blockquote")[0]["text"] == f"…{HERON}"
    assert not page.placeholders()


def test_a_whole_text_is_unmarked_and_cut_when_long(tmp_path: Path) -> None:
    page = write(tmp_path, make_hit(text="Short.\nTwo lines."), make_hit(text="word " * 1000))
    short, long = page.all("blockquote")
    assert short["text"] == "Short.\nTwo lines."
    assert "tabindex" not in short
    assert len(long["text"]) <= figures.PASSAGE_CHARACTERS + 1
    assert long["text"].endswith("word…")
    assert not page.all("mark")


# ---- what the question was -----------------------------------------------------------------


def test_the_parts_of_the_question_are_shown_as_they_were_asked(tmp_path: Path) -> None:
    picture = write_picture(tmp_path / "a.png")
    sound = write_sound(tmp_path / "b.wav", 1)
    item = Item("it/b.wav", Modality.AUDIO, str(sound), None, {}, 1, "2031-02-03T04:05:06Z")
    text = Item("a text", Modality.TEXT, None, "An owl calls.", {}, 1, "2031-02-03T04:05:06Z")
    page = write(
        tmp_path,
        parts=(
            Part(1.0, "image", picture),
            Part(-1.0, "text", "beach"),
            Part(0.5, "audio", sound),
            Part(-0.25, "id", item),
            Part(1.0, "id", text),
            Part(1.0, "id", "only-a-key"),
            Part(2.0, "vector", np.zeros(256)),
        ),
    )
    parts = [" ".join(part["text"].split()) for part in page.all("li", class_="part")]
    assert parts[0] == "+plus picture a.png"
    assert parts[1] == "−minus words beach"
    assert parts[2].startswith("+ 0.5 ×plus 0.5 times sound b.wav")
    assert parts[3].startswith("− 0.25 ×minus 0.25 times item it/b.wav")
    assert parts[4] == "+plus item a text An owl calls."
    assert parts[5] == "+plus item only-a-key an item of the collection"
    assert parts[6] == "+ 2 ×plus 2 times vector a vector of 256 numbers"
    assert len(page.all("img")) == 1
    assert len(page.all("audio")) == 2
    assert page.all("p", class_="none")[0]["text"] == "No hits."


def test_one_part_alone_has_no_sign(tmp_path: Path) -> None:
    assert not write(tmp_path, parts=Query.text("owl").parts).all("span", class_="sign")
    assert write(tmp_path, parts=(-Query.text("owl")).parts).all("span", class_="sign")


def test_a_file_of_the_question_may_be_named_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_picture(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    assert write(tmp_path, parts=Query.image("a.png").parts).all("img")


def test_items_take_the_place_of_their_keys(tmp_path: Path) -> None:
    with Collection.create(tmp_path / "c", model="hashing") as collection:
        collection.add([Record("owl", Modality.TEXT, "here", text="An owl calls.")])
        parts = asked_parts(collection, Query.id("owl") - Query.text("day"))
        assert [(part.weight, part.kind) for part in parts] == [(1.0, "id"), (-1.0, "text")]
        assert parts[0].value.text == "An owl calls."
        assert parts[1].value == "day"
        with pytest.raises(NotFound, match="lark"):
            asked_parts(collection, Query.id("lark"))


# ---- the hits ------------------------------------------------------------------------------


def test_a_hit_shows_score_cosine_key_and_metadata(tmp_path: Path) -> None:
    metadata = {"year": 1902, "tags": ["a", "é"], "a": "b", "c": None, "more": "x" * 999}
    page = write(
        tmp_path, make_hit("birds/owl.txt", text="Owl", source="/x/owl.txt", metadata=metadata)
    )
    (hit,) = page.all("li", class_="hit")
    for told in ("birds/owl.txt", "3.14", "cosine 0.271", "1902", '["a", "é"]', "/x/owl.txt"):
        assert told in hit["text"]
    assert "x" * 300 + "…" in hit["text"]
    assert "x" * 301 not in hit["text"]
    assert [name["text"] for name in page.all("dt")] == [*metadata, "source", "search"]


def test_sections_are_listed_and_found_by_their_links(tmp_path: Path) -> None:
    sections = [Section(f"question {n}", "", (), [make_hit(text="x")]) for n in range(3)]
    write_page(tmp_path / "p.html", "three", sections)
    page = Page(tmp_path / "p.html")
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [link["href"].removeprefix("#") for link in page.all("a")]
    assert set(links) <= set(ids)
    assert len(links) == 4
    headings = [tag for tag, _ in page.elements if re.fullmatch(r"h\d", tag)]
    assert headings == ["h1", *["h2", "h3"] * 3]
    assert not page.all("pre")


# ---- harm ----------------------------------------------------------------------------------


def harmless(page: Page) -> None:
    """Check that all on a page is known, loads nothing and runs nothing."""
    assert {tag for tag, _ in page.elements} <= TAGS
    assert {name for _, attributes in page.elements for name in attributes} <= ATTRIBUTES
    sources = [attributes["src"] for _, attributes in page.elements if "src" in attributes]
    assert all(source.startswith(("data:image/webp;", "data:audio/ogg;")) for source in sources)
    assert all(link["href"].startswith("#") for link in page.all("a"))


@pytest.mark.parametrize("evil", EVIL)
def test_nothing_written_anywhere_becomes_markup(tmp_path: Path, evil: str) -> None:
    picture = write_picture(tmp_path / "a.png")
    sound = write_sound(tmp_path / "a.wav", 1)
    item = Item(evil, Modality.IMAGE, str(picture), evil, {}, 1, "")
    page = write(
        tmp_path,
        make_hit(evil, text=evil, source=evil, metadata={evil: evil, "deep": {evil: [evil]}}),
        make_hit(evil, text=evil, span=Span("char", 1, 2)),
        make_hit(evil, "image", text=evil, source=evil),
        make_hit(evil, "image", text=evil, source=str(picture)),
        make_hit(evil, "audio", source=str(sound)),
        make_hit(evil, "audio", source=f"/{evil}"),
        parts=(
            Part(1.0, "text", evil),
            Part(1.0, "id", evil),
            Part(1.0, "id", item),
            Part(1.0, "image", Path(evil)),
        ),
        title=evil,
        command=evil,
    )
    harmless(page)
    assert len(page.all("li", class_="hit")) == 6
    if evil.isprintable():
        assert page.all("title")[0]["text"] == page.all("h1")[0]["text"] == evil
        assert page.all("code")[0]["text"] == evil
        assert page.all("blockquote")[1]["text"] == evil


def test_the_policy_allows_the_own_style_and_inlined_media_only(tmp_path: Path) -> None:
    page = write(tmp_path, make_hit(text="x"))
    (policy,) = [meta["content"] for meta in page.all("meta") if "http-equiv" in meta]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    (style,) = page.all("style")
    digest = base64.b64encode(hashlib.sha256(style["text"].encode()).digest()).decode()
    assert rules == {
        "default-src": "'none'",
        "img-src": "data:",
        "media-src": "data:",
        "style-src": f"'sha256-{digest}'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert "url(" not in style["text"]
    assert "@import" not in style["text"]


# ---- gaps ----------------------------------------------------------------------------------


def unreadable(folder: Path) -> Iterator[tuple[str, str | None, str]]:
    """Yield modality, source and what the placeholder says."""
    whole = write_picture(folder / "whole.png", (64, 64)).read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "words.png").write_text("no picture")
    (folder / "empty.wav").touch()
    (folder / "locked").mkdir()
    os.mkfifo(folder / "pipe.png")
    # 50,000 × 50,000 pixels, as the header says.
    (folder / "huge.png").write_bytes(whole[:16] + b"\x00\x00\xc3\x50" * 2 + whole[24:])
    yield "image", None, "it came without a file"
    yield "audio", str(folder / "gone.wav"), "gone.wav: no such file"
    yield "image", str(folder / "cut.png"), "cut.png: damaged or truncated"
    yield "image", str(folder / "words.png"), "words.png: damaged, or no picture"
    yield "image", str(folder / "pipe.png"), "pipe.png: no file"
    yield "image", str(folder / "locked"), "locked: no file"
    yield "image", str(folder / "huge.png"), "huge.png"
    yield "audio", str(folder / "empty.wav"), "empty.wav: an empty file"
    yield "audio", str(folder / "whole.png"), "whole.png: no sound"
    yield "image", "whole.png", "whole.png: no path of a file on this machine"
    yield "image", "https://example.org/x.png", "no path of a file on this machine"
    yield "image", "/a\x00b", "no path of a file on this machine"
    yield "image", "/\ud800", "no path of a file on this machine"
    yield "image", f"/{'x' * 5000}", "File name too long"


def test_what_cannot_be_shown_says_why_and_the_others_are_shown(tmp_path: Path) -> None:
    cases = list(unreadable(tmp_path))
    hits = [make_hit(f"hit {n}", case[0], source=case[1]) for n, case in enumerate(cases)]
    page = write(tmp_path, *hits, make_hit("whole", "image", source=str(tmp_path / "whole.png")))
    told = page.placeholders()
    assert len(told) == len(cases)
    for (_, _, wanted), shown in zip(cases, told, strict=True):
        assert shown.startswith("not shown: ")
        assert wanted in shown
    assert len(page.all("img")) == 1


def test_a_text_that_is_not_kept_says_so(tmp_path: Path) -> None:
    assert write(tmp_path, make_hit()).placeholders() == ["no text is kept"]


def test_a_full_page_goes_on_without_media(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "PAGE_BYTES", 5_000)
    source = write_picture(tmp_path / "a.png", (1600, 1200))
    page = write(tmp_path, *[make_hit("a", "image", source=str(source))] * 40)
    shown, left_out = len(page.all("img")), len(page.placeholders())
    assert shown + left_out == 40
    assert 1 <= shown < 40
    assert set(page.placeholders()) == {"not shown: the page is full"}


# ---- the file ------------------------------------------------------------------------------


def test_the_page_before_stays_when_a_new_one_fails(tmp_path: Path) -> None:
    def hits() -> Iterator[Hit]:
        yield make_hit(text="first")
        raise RuntimeError("gone")

    write(tmp_path, make_hit(text="before"))
    with pytest.raises(RuntimeError):
        write_page(tmp_path / "page.html", "x", [Section("x", "x", (), hits())])  # type: ignore[arg-type]
    assert "before" in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_a_page_replaces_a_page_and_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("<html>precious")
    with pytest.raises(Conflict, match="something else"):
        write_page(path, "new", [])
    assert path.read_text() == "<html>precious"
    path.unlink()
    write_page(path, "old", [])
    write_page(path, "new", [])
    assert [element["text"] for element in Page(path).all("h1")] == ["new"]
    assert [one.name for one in tmp_path.iterdir()] == ["page.html"]


def test_a_page_that_cannot_be_written_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(MuomniError, match=r"nowhere/page\.html"):
        write_page(tmp_path / "nowhere/page.html", "x", [])
    (tmp_path / "folder").mkdir()
    with pytest.raises(MuomniError, match="folder"):
        write_page(tmp_path / "folder", "x", [])


def test_a_page_without_questions_is_a_page(tmp_path: Path) -> None:
    write_page(tmp_path / "page.html", "empty", [])
    assert Page(tmp_path / "page.html").all("h1")[0]["text"] == "empty"
