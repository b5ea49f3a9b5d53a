"""The page that `map` writes, in a real browser: what people do with it, and evil data in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from muomni_search import Collection, Modality, Record, make_map, write_map

POINTS = 240
EVIL = '<img src=x onerror="document.title=1">{{ 7 * 7 }}</script><script>document.title=2</script>'
# The map's own area, right of the panel.
LEFT, RIGHT, TOP, BOTTOM = 340, 1_180, 60, 740


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A map of texts of two kinds, one of them evil, of a few pictures, and of a sound."""
    folder = tmp_path_factory.mktemp("map")
    records = [
        Record(
            f"text/{n}",
            Modality.TEXT,
            "here",
            text=f"owl number {n}" if n % 2 else f"engine number {n}",
            metadata={"kind": "bird" if n % 2 else "machine"},
        )
        for n in range(POINTS - 6)
    ]
    records.append(Record(EVIL, Modality.TEXT, "here", text=EVIL, metadata={"kind": EVIL}))
    for n in range(4):
        path = folder / f"{n}.png"
        colour = tuple(np.random.default_rng(n).integers(0, 255, 3).tolist())
        Image.new("RGB", (60, 40), colour).save(path)
        records.append(Record(f"p{n}", Modality.IMAGE, "here", path=path, source=str(path)))
    soundfile.write(folder / "s.wav", np.sin(np.arange(8_000) / 9), 16_000)
    sound = {"path": folder / "s.wav", "source": str(folder / "s.wav")}
    records.append(Record("sound", Modality.AUDIO, "here", **sound))
    with Collection.create(folder / "c", model="hashing") as collection:
        assert collection.add(records).failed == 0
        drawn = make_map(collection, method="pca", color="kind", title="A map of owls")
    write_map(drawn, folder / "map.html")
    return folder / "map.html"


Open = Callable[..., Any]


@pytest.fixture
def opened(chromium: Any, page_file: Path) -> Iterator[Open]:
    """Opens the page; afterwards nothing went wrong in it and nothing was asked of a network."""
    contexts, wrong = [], []

    def open_page(script: str = "", **options: Any) -> Any:
        context = chromium.new_context(
            **{"viewport": {"width": 1_200, "height": 800}, "accept_downloads": True, **options}
        )
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        page.on(
            "request",
            lambda asked: (
                wrong.append(asked.url)
                if not asked.url.startswith(("file:", "data:", "blob:"))
                else None
            ),
        )
        if script:
            page.add_init_script(script)
        page.goto(page_file.as_uri())
        settle(page)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


def settle(page: Any) -> None:
    """Wait until the page has painted what it was told."""
    page.evaluate(
        "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
    )


def contrast(page: Any) -> np.ndarray[Any, Any]:
    """Return how far each pixel of the screenshot's map is from the background."""
    import io

    shot = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB"), int)
    shown = shot[TOP:BOTTOM, LEFT:RIGHT]
    return np.asarray(np.abs(shown - shown[0, 0]).sum(axis=2))


def ink(page: Any) -> int:
    """Return how many pixels of the screenshot's map are not the background."""
    return int((contrast(page) > 30).sum())


def drag(page: Any, line: list[tuple[float, float]]) -> None:
    page.mouse.move(*line[0])
    page.mouse.down()
    for place in line[1:]:
        page.mouse.move(*place, steps=4)
    page.mouse.up()
    settle(page)


WHOLE = [(330, 20), (1_195, 5), (1_195, 795), (330, 795), (330, 60)]


# Software WebGL, which the page would not choose by itself: a renderer whose name is not told is
# taken for a graphics card.
COUNTED = """const old = HTMLCanvasElement.prototype.getContext;
HTMLCanvasElement.prototype.getContext = function (kind, ...rest) {
  if (this.id) (window.kinds ||= []).push(`${this.id} ${kind}`);
  return old.call(this, kind, ...rest);
};"""
WEBGL = COUNTED + "WebGL2RenderingContext.prototype.getExtension = () => null;"
PLAIN = COUNTED
PAINTERS = pytest.mark.parametrize("painter", [WEBGL, PLAIN], ids=["webgl", "plain"])


@PAINTERS
def test_the_points_are_drawn_and_the_legend_counts_them(painter: str, opened: Open) -> None:
    page = opened(painter)
    kind = "webgl2" if painter == WEBGL else "2d"
    assert page.evaluate("window.kinds") == [f"points {kind}", "marks 2d"]
    assert page.title() == "A map of owls"
    assert ink(page) > POINTS * 5
    told = page.locator("#legend button").all_inner_texts()
    assert sum(int(one.split()[-1]) for one in told) == POINTS


@PAINTERS
def test_a_group_is_hidden_and_shown_by_its_button(painter: str, opened: Open) -> None:
    page = opened(painter)
    before = ink(page)
    button = page.locator("#legend button", has_text="bird")
    button.click()
    settle(page)
    assert button.get_attribute("aria-pressed") == "false"
    assert ink(page) < 0.8 * before
    button.click()
    settle(page)
    assert ink(page) == before


def test_the_search_box_lights_up_and_lists_hits(opened: Open) -> None:
    page = opened()
    page.locator("#search").fill("OWL number 11")
    settle(page)
    assert page.locator("#count").inner_text() == "7 points"
    assert "text/11" in page.locator("#list li").all_inner_texts()
    page.locator("#search").press("Enter")
    settle(page)
    assert "owl number 11" in page.locator("#card").inner_text()
    page.locator("#clear").click()
    assert page.locator("#chosen").is_hidden()


@pytest.mark.parametrize("how", ["button", "shift"])
def test_a_lasso_becomes_a_list_of_keys(how: str, opened: Open, tmp_path: Path) -> None:
    page = opened()
    if how == "button":
        page.locator("#lasso").click()
        assert page.locator("#lasso").get_attribute("aria-pressed") == "true"
        drag(page, WHOLE)
    else:
        page.keyboard.down("Shift")
        drag(page, WHOLE)
        page.keyboard.up("Shift")
    assert page.locator("#lasso").get_attribute("aria-pressed") == "false"
    assert page.locator("#count").inner_text() == f"{POINTS} points, the first 200 here"
    with page.expect_download() as waiting:
        page.locator("#save").click()
    waiting.value.save_as(tmp_path / "keys.txt")
    keys = (tmp_path / "keys.txt").read_text().splitlines()
    assert len(keys) == POINTS
    assert EVIL in keys


def test_a_small_lasso_chooses_what_is_inside(opened: Open) -> None:
    page = opened()
    middle = (LEFT + RIGHT) / 2
    page.keyboard.down("Shift")
    drag(page, [(LEFT, TOP), (middle, TOP), (middle, BOTTOM), (LEFT, BOTTOM), (LEFT, TOP + 20)])
    page.keyboard.up("Shift")
    count = int(page.locator("#count").inner_text().split()[0].replace(",", ""))
    assert 0 < count < POINTS


@pytest.mark.parametrize("clipboard", ["allowed", "missing"])
def test_keys_are_copied(clipboard: str, opened: Open) -> None:
    """Also where a page from a file has no clipboard of its own, by the older way."""
    script = """Object.defineProperty(navigator, "clipboard", {value: GIVEN});
    document.addEventListener("copy", () => { window.copied = document.activeElement.value; });"""
    given = "{writeText: async text => { window.copied = text; }}"
    script = script.replace("GIVEN", given if clipboard == "allowed" else "undefined")
    page = opened(script)
    page.locator("#search").fill("p1")
    page.locator("#copy").click()
    page.wait_for_function("() => window.copied !== undefined")
    assert page.evaluate("window.copied") == "p1\n"
    assert page.locator("#copy").inner_text() == "Copied"


def test_a_point_under_the_pointer_shows_its_card_and_a_click_keeps_it(opened: Open) -> None:
    page = opened()
    page.locator("#search").fill("p2")
    settle(page)
    # All others are dim.
    y, x = map(int, np.argwhere(contrast(page) > 150).mean(axis=0))
    card = page.locator("#card")
    assert card.is_hidden()
    page.mouse.move(LEFT + x, TOP + y)
    settle(page)
    assert card.locator("h2").inner_text() == "p2"
    page.mouse.move(5, 795)
    settle(page)
    assert card.is_hidden()
    page.mouse.click(LEFT + x, TOP + y)
    page.mouse.move(5, 795)
    settle(page)
    assert card.locator("h2").inner_text() == "p2"


def test_the_card_of_a_sound_plays_it(opened: Open) -> None:
    page = opened()
    page.locator("#search").fill("sound")
    page.locator("#search").press("Enter")
    settle(page)
    player = page.locator("#card audio[controls]")
    assert player.get_attribute("aria-label") == "Sound sound"
    assert player.get_attribute("src").startswith("data:audio/ogg")
    seconds = player.evaluate("""one => new Promise((done, fail) => {
        one.onloadedmetadata = () => done(one.duration);
        one.onerror = () => fail(one.error.message);
        one.preload = "auto";
        one.load();
    })""")
    assert seconds == pytest.approx(0.5, abs=0.05)


def test_what_was_found_shows_its_card_until_escape_and_keys_open_another(opened: Open) -> None:
    page = opened()
    page.locator("#search").fill("p2")
    page.locator("#search").press("Enter")
    settle(page)
    card = page.locator("#card")
    assert "p2" in card.inner_text()
    assert card.locator("img").evaluate("one => one.complete && one.naturalWidth > 0")
    page.keyboard.press("Escape")
    settle(page)
    assert card.is_hidden()
    page.locator("#points").focus()
    page.keyboard.press("Enter")
    settle(page)
    assert card.is_visible()


@PAINTERS
def test_wheel_and_keys_zoom_and_move(painter: str, opened: Open) -> None:
    page = opened(painter)
    seen = [page.screenshot()]
    page.mouse.move(700, 400)
    page.mouse.wheel(0, -600)
    settle(page)
    seen.append(page.screenshot())
    page.locator("#points").focus()
    for key in ("+", "ArrowLeft", "0"):
        page.keyboard.press(key)
        settle(page)
        seen.append(page.screenshot())
    assert len(set(seen[:4])) == 4


def test_two_fingers_pinch(opened: Open) -> None:
    page = opened(has_touch=True)
    before = ink(page)
    touch = page.context.new_cdp_session(page)

    def send(kind: str, *places: tuple[int, int]) -> None:
        touch.send(
            "Input.dispatchTouchEvent",
            {
                "type": kind,
                "touchPoints": [{"x": x, "y": y, "id": k} for k, (x, y) in enumerate(places)],
            },
        )

    send("touchStart", (740, 400), (780, 400))
    for far in range(20, 300, 20):
        send("touchMove", (740 - far, 400), (780 + far, 400))
    send("touchEnd")
    settle(page)
    assert ink(page) != before
    page.locator("#fit").click()
    settle(page)
    page.mouse.move(5, 795)
    settle(page)
    assert abs(ink(page) - before) < 0.02 * before


def test_evil_keys_texts_and_metadata_stay_text(opened: Open) -> None:
    page = opened()
    page.locator("#search").fill("onerror")
    page.locator("#search").press("Enter")
    settle(page)
    assert EVIL in page.locator("#card").inner_text()
    assert page.title() == "A map of owls"
    assert page.locator("#card img").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_in_either_scheme_shows_map_and_panel(scheme: str, opened: Open) -> None:
    page = opened(viewport={"width": 390, "height": 780}, color_scheme=scheme, has_touch=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.locator("#search").is_visible()
    page.locator("#lasso").click()
    assert page.locator("#lasso").get_attribute("aria-pressed") == "true"
