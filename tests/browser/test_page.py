"""The page of a running server in a real browser: what people do with it, and what goes wrong."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from muomni_search.figures import FULL_SCORE
from muomni_search.server.routes.front import PAGE
from muomni_search.server.schemas import MOST_PARTS

EXAMPLES = Path(__file__).parents[2] / "examples"
CORPUS = EXAMPLES / "corpus" / "animals"
AXE = Path(__file__).parent / "vendor" / "axe.min.js"
NAMES = ("bison", "cat", "chicken", "cow", "dog", "lion", "owl")
EVIL = '<img src=x onerror="document.title=1">'
MANY = 3_000
PATIENCE = 15_000

Open = Callable[..., Any]


# ---- a server ----------------------------------------------------------------------------------


@contextmanager
def serving(*options: str) -> Iterator[str]:
    """Run ``muomni serve``; give its address."""
    command = [sys.executable, "-m", "muomni_search", "serve", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().decode().strip()
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(30)


def send_files(client: httpx.Client, collection: str, paths: list[Path], metadata: Any) -> None:
    files = [("files", (path.name, path.read_bytes())) for path in paths]
    answer = client.post(
        f"/v1/collections/{collection}/items", files=files, data={"metadata": json.dumps(metadata)}
    )
    assert answer.json()["failed"] == 0, answer.text


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("collections")


@pytest.fixture(scope="module")
def address(root: Path) -> Iterator[str]:
    """A server of collections: animals, few of them, one to add to, one with evil, a long one."""
    with (
        serving("--root", str(root), "--port", "0") as url,
        httpx.Client(base_url=url, timeout=120) as client,
    ):
        for name, model in {
            "animals": "base-offline",
            "few": "base-offline",
            "empty": "base-offline",
            "evil": "hashing",
            "long": "hashing",
        }.items():
            client.post("/v1/collections", json={"name": name, "model": model}).raise_for_status()
        paths = [path for path in sorted(CORPUS.iterdir()) if path.stem in NAMES]
        wild = ("bison", "lion", "owl")
        metadata = {
            path.name: {"kept": path.stem not in wild, "letters": len(path.stem), "of": path.stem}
            for path in paths
        }
        send_files(client, "animals", paths, metadata)
        send_files(client, "few", [path for path in paths if path.stem == "owl"], {})
        texts = [path.read_text() for path in sorted(EXAMPLES.glob("corpus/*/*.txt"))]
        rows = [{"key": "lexicon", "text": "\n".join(texts)}]
        client.post("/v1/collections/animals/items", json={"items": rows}).raise_for_status()
        rows = [{"key": EVIL, "text": EVIL, "metadata": {EVIL: EVIL}}]
        client.post("/v1/collections/evil/items", json={"items": rows}).raise_for_status()
        rows = [{"key": f"{n:05}", "text": f"item number {n}"} for n in range(MANY)]
        client.post("/v1/collections/long/items", json={"items": rows}).raise_for_status()
        yield url


@pytest.fixture
def opened(chromium: Any, address: str) -> Iterator[Open]:
    """Opens the page; afterwards nothing went wrong in it and nothing came from elsewhere."""
    with ExitStack() as stack:
        wrong: list[str] = []

        def listen(page: Any, base: str) -> None:
            page.on("pageerror", lambda error: wrong.append(f"{error.stack}"))
            page.on("console", lambda said: wrong.append(said.text) if is_wrong(said) else None)
            page.on("request", lambda asked: is_own(asked.url, base) or wrong.append(asked.url))

        def open_page(state: str = "c=animals", base: str = address, **options: Any) -> Any:
            tab_of = options.pop("tab_of", None)
            context = tab_of or stack.enter_context(
                chromium.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
            )
            page = context.new_page()
            page.set_default_timeout(PATIENCE)
            listen(page, base)
            page.goto(f"{base}/#{state}")
            return page

        yield open_page
    assert wrong == []


def is_wrong(said: Any) -> bool:
    """Whether a message of the console is one: a refusal that is a status is also told there."""
    return said.type == "error" and "Failed to load resource" not in said.text


def is_own(url: str, base: str) -> bool:
    return url.startswith((base, "blob:", "data:"))


# ---- what the tests look at --------------------------------------------------------------------


def titles(page: Any) -> list[str]:
    return page.locator(".hits:not(.stale) .card .title").all_inner_texts()


def wait_for_hits(page: Any, part: str = "p=") -> list[str]:
    """Wait until the hits of an address with this in it are there."""
    page.wait_for_function(
        "part => location.hash.includes(part) && document.querySelector('.hits:not(.stale) .card')",
        arg=part,
    )
    return titles(page)


def search(page: Any, words: str) -> None:
    page.locator("#words").fill(words)
    page.locator("#words").press("Enter")
    wait_for_hits(page, part="p=text")


def card(page: Any, title: str) -> Any:
    return page.locator(".card", has=page.locator(f".title bdi:text-is({json.dumps(title)})"))


def parts(page: Any) -> list[str]:
    """Return the parts of the sum, each with its weight."""
    names = page.locator(".part .name").all_inner_texts()
    weights = page.locator(".part output").all_inner_texts()
    return [f"{name} {weight}" for name, weight in zip(names, weights, strict=True)]


FILES = """files => {
  const transfer = new DataTransfer();
  for (const {name, type, data} of files) {
    const bytes = Uint8Array.from(atob(data), one => one.charCodeAt(0));
    transfer.items.add(new File([bytes], name, {type}));
  }
  return transfer;
}"""
# Only what is in sight under the mouse is told of it.
DROP = """([transfer, zone]) => {
  const send = (name, target) => target.dispatchEvent(
    new DragEvent(name, {dataTransfer: transfer, bubbles: true, cancelable: true}));
  const box = document.querySelector(`[data-drop=${zone}]`).getBoundingClientRect();
  const target = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
  send("dragover", target);
  send("drop", target);
}"""
ENTER = """transfer => document.body.dispatchEvent(
  new DragEvent("dragenter", {dataTransfer: transfer, bubbles: true, cancelable: true}))"""
PASTE = """transfer => document.body.dispatchEvent(
  new ClipboardEvent("paste", {clipboardData: transfer, bubbles: true, cancelable: true}))"""


def carried(page: Any, *files: tuple[Path, str]) -> Any:
    """Return what a mouse or a clipboard would carry: files, each with its media type."""
    told = [
        {"name": path.name, "type": kind, "data": b64encode(path.read_bytes()).decode()}
        for path, kind in files
    ]
    return page.evaluate_handle(FILES, told)


def drop(page: Any, zone: str, *files: tuple[Path, str]) -> None:
    transfer = carried(page, *files)
    page.evaluate(ENTER, transfer)
    page.locator(f"[data-drop={zone}]").wait_for()
    page.evaluate(DROP, [transfer, zone])


# ---- searching ---------------------------------------------------------------------------------


def test_words_find_and_the_score_is_told_in_words(opened: Open) -> None:
    page = opened()
    search(page, "dog barking")
    found = titles(page)
    assert set(found[:3]) & {"dog.jpg", "dog.ogg", "dog.txt"}
    first = page.locator('.card[aria-posinset="1"]')
    name = first.locator(".open").get_attribute("aria-label")
    assert re.search(r", score [\d.]+, stronger than [\d.]+ % of unrelated pairs$", name)
    assert first.locator(".cosine").is_hidden()
    first.hover()
    assert re.fullmatch(r"cosine 0\.\d{3}", first.locator(".cosine").inner_text())
    assert "The best: " in page.locator("p.aside[role=status]").inner_text()
    assert page.title() == "dog barking · animals · muomni"


def test_typing_searches_and_is_one_step_back(opened: Open) -> None:
    page = opened()
    page.locator("#words").press_sequentially("lion", delay=5)
    wait_for_hits(page, part="p=text%3Alion")
    page.locator("#words").press_sequentially(" roars", delay=5)
    wait_for_hits(page, part="p=text%3Alion+roars")
    page.go_back()
    page.wait_for_function("() => !location.hash.includes('p=')")
    page.wait_for_function("() => document.querySelector('#words').value === ''")
    page.go_forward()
    wait_for_hits(page, part="p=text%3Alion+roars")
    assert page.locator("#words").input_value() == "lion roars"


@pytest.mark.parametrize("way", ["file", "paste", "drop"])
def test_a_picture_finds(way: str, opened: Open) -> None:
    page = opened()
    picture = EXAMPLES / "queries" / "kitten.jpg"
    if way == "file":
        page.locator("#query-file").set_input_files(picture)
    elif way == "paste":
        page.evaluate(PASTE, carried(page, (picture, "image/jpeg")))
    else:
        drop(page, "search", (picture, "image/jpeg"))
    assert any("cat" in title for title in wait_for_hits(page, part="p=image")[:3])
    assert page.locator("img.thumb").evaluate("one => one.decode().then(() => one.naturalWidth)")


def test_a_sound_finds_and_plays(opened: Open) -> None:
    page = opened()
    page.locator("#query-file").set_input_files(EXAMPLES / "queries" / "bark.ogg")
    found = wait_for_hits(page, part="p=audio")
    assert any("dog" in title for title in found[:5])
    player = card(page, "dog.ogg")
    player.locator(".wave path.bars").wait_for(state="attached")
    player.locator(".play").click()
    player.locator('.play[aria-label^="Pause"], .wave path.played').first.wait_for(state="attached")


def test_a_recording_finds(opened: Open) -> None:
    page = opened(permissions=["microphone"])
    # A tone in the place of a microphone; all that follows is the page's own.
    page.evaluate("""() => { navigator.mediaDevices.getUserMedia = async () => {
      const context = new AudioContext(), tone = context.createOscillator();
      const end = context.createMediaStreamDestination();
      tone.connect(end); tone.start();
      return end.stream; }; }""")
    page.get_by_role("button", name="Record a sound").click()
    page.get_by_role("timer").wait_for()
    page.wait_for_timeout(600)
    page.get_by_role("button", name="Stop and search").click()
    wait_for_hits(page, part="p=audio")
    assert parts(page) == ["recording.wav 1.0"]


def test_without_a_microphone_the_page_says_so(opened: Open) -> None:
    page = opened()
    page.get_by_role("button", name="Record a sound").click()
    page.locator("dialog .wrong").wait_for()
    assert "microphone" in page.locator("dialog .wrong").inner_text()
    page.get_by_role("button", name="Cancel").click()
    page.locator("dialog").wait_for(state="detached")


def test_a_file_that_cannot_be_searched_with(opened: Open, tmp_path: Path) -> None:
    bad = tmp_path / "torn.png"
    bad.write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    page = opened()
    page.locator("#query-file").set_input_files(bad)
    page.locator(".notice.wrong").wait_for()
    assert "torn.png cannot be searched with" in page.locator(".notice").inner_text()


# ---- sums --------------------------------------------------------------------------------------


def test_a_sum_is_built_weighed_and_taken_apart(opened: Open) -> None:
    page = opened()
    search(page, "an animal")
    card(page, "dog.jpg").hover()
    card(page, "dog.jpg").get_by_role("button", name="Subtract dog.jpg").click()
    wait_for_hits(page, part="-1*id%3Adog.jpg")
    assert parts(page) == ["“an animal” 1.0", "dog.jpg −1.0"]
    assert "dog.jpg" not in titles(page)
    page.locator("#words").fill("feathers")
    page.locator("#words").press("Enter")
    page.locator(".part", has_text="feathers").wait_for()
    weight = page.get_by_role("slider", name="Weight of “feathers”")
    weight.focus()
    for _ in range(5):
        weight.press("ArrowRight")
    page.wait_for_function("() => location.hash.includes('1.5*text')")
    assert parts(page)[2] == "“feathers” 1.5"
    box = weight.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + 2, box["y"] + box["height"] / 2, steps=4)
    page.mouse.up()
    page.wait_for_function("() => location.hash.includes('-2*text')")
    page.get_by_role("button", name="Remove dog.jpg").click()
    page.get_by_role("button", name="Remove “feathers”").click()
    page.locator(".part").first.wait_for(state="detached")
    assert page.locator("#words").input_value() == "an animal"


def test_a_weight_is_changed_before_the_page_is_painted(opened: Open) -> None:
    """On a busy machine the keys come before the first paint; each of them counts."""
    page = opened("c=animals&p=text:a+bird&sum=1")
    page.locator(".part").wait_for()
    page.evaluate("""() => new MutationObserver(async (_, observer) => {
        const slider = document.querySelector("[aria-label='Weight of “feathers”']");
        if (!slider) return;
        observer.disconnect();
        for (let press = 0; press < 2; press++) {
            slider.stepUp();
            slider.dispatchEvent(new Event("input", { bubbles: true }));
            for (let turn = 0; turn < 20; turn++) await null;  // drawn anew, not painted yet
        }
    }).observe(document.body, { childList: true, subtree: true })""")
    page.locator("#words").fill("feathers")
    page.locator("#words").press("Enter")
    page.wait_for_function("() => location.hash.includes('1.2*text')")
    assert parts(page)[1] == "“feathers” 1.2"


def test_words_are_subtracted_with_shift_and_enter(opened: Open) -> None:
    page = opened("c=animals&p=text:a+bird&sum=1")
    page.locator(".part").wait_for()
    page.locator("#words").fill("night")
    page.locator("#words").press("Shift+Enter")
    wait_for_hits(page, part="-1*text")
    assert parts(page) == ["“a bird” 1.0", "“night” −1.0"]


def test_words_pasted_anywhere_are_asked_with(opened: Open) -> None:
    page = opened("c=animals")
    page.locator(".card").first.wait_for()
    paste = """words => {
        const data = new DataTransfer(), how = {clipboardData: data, bubbles: true};
        data.setData("text/plain", words);
        document.body.dispatchEvent(new ClipboardEvent("paste", how));
    }"""
    page.evaluate(paste, " a dog barking ")
    assert wait_for_hits(page, part="a+dog+barking")
    assert page.get_by_role("searchbox").input_value() == "a dog barking"


def test_a_sum_has_so_many_parts_and_no_more(opened: Open) -> None:
    page = opened("c=animals&" + "&".join(f"p=text:word{number}" for number in range(40)))
    wait_for_hits(page)
    assert len(parts(page)) == 32
    page.get_by_role("searchbox").fill("one more")
    page.get_by_role("searchbox").press("Enter")
    page.get_by_role("alert").filter(has_text="32 parts at most").wait_for()
    assert len(parts(page)) == 32
    assert MOST_PARTS == 32


def test_a_part_is_that_of_the_collection_that_is_asked(opened: Open, address: str) -> None:
    url = f"{address}/v1/collections"
    httpx.post(url, json={"name": "words", "model": "hashing"})
    rows = [{"key": "owl.jpg", "text": "No picture.", "metadata": {"title": "A note"}}]
    httpx.post(f"{url}/words/items", json={"items": rows}).raise_for_status()
    page = opened("c=words")
    page.locator(".card .open").click()
    page.get_by_role("button", name="Add to the query").click()
    page.locator(".part").wait_for()
    assert parts(page) == ["A note 1.0"]
    assert page.locator("img.thumb").count() == 0
    page.goto(f"{address}/#c=animals&p=id:owl.jpg")
    page.locator(".chooser select").wait_for()
    wait_for_hits(page, part="c=animals")
    assert parts(page) == ["owl.jpg 1.0"]
    assert page.locator("img.thumb").evaluate("one => one.decode().then(() => one.naturalWidth)")


def test_more_like_this(opened: Open) -> None:
    page = opened("c=animals&p=text:moo")
    wait_for_hits(page)
    card(page, "cow.jpg").hover()
    card(page, "cow.jpg").get_by_role("button", name="More like cow.jpg").click()
    found = wait_for_hits(page, part="p=id")
    assert "cow.jpg" not in found
    assert parts(page) == ["cow.jpg 1.0"]


# ---- tabs and filters --------------------------------------------------------------------------


def test_tabs_count_and_choose(opened: Open) -> None:
    page = opened("c=animals&p=text:cat")
    wait_for_hits(page)
    told = {
        one.split()[0]: int(one.split()[1]) for one in page.get_by_role("tab").all_inner_texts()
    }
    assert told["All"] == told["Pictures"] + told["Sounds"] + told["Texts"] > 15
    page.get_by_role("tab", name="Sounds").click()
    found = wait_for_hits(page, part="tab=audio")
    assert len(found) == told["Sounds"]
    assert all(title.endswith((".ogg", ".flac")) for title in found)
    page.get_by_role("tab", name="Sounds").press("ArrowRight")
    wait_for_hits(page, part="tab=text")
    assert page.get_by_role("tab", name="Texts").get_attribute("aria-selected") == "true"


def test_filters_from_the_metadata(opened: Open) -> None:
    page = opened("c=animals&p=text:animal")
    wait_for_hits(page)
    page.get_by_role("button", name="Filter").click()
    page.locator("summary", has_text="of").click()
    page.locator(".choices label", has_text="owl").click()
    page.locator(".choices label", has_text="cow").click()
    page.wait_for_function(
        "() => document.querySelectorAll('.hits:not(.stale) .card').length === 6"
    )
    assert {title.split(".")[0] for title in titles(page)} == {"owl", "cow"}
    page.locator("summary", has_text="kept").click()
    page.locator(".choices label", has_text="false").click()
    page.wait_for_function(
        "() => document.querySelectorAll('.hits:not(.stale) .card').length === 3"
    )
    page.get_by_role("tab", name="All 3").wait_for()
    page.get_by_role("button", name="Clear all").click()
    page.locator("summary", has_text="letters").click()
    page.get_by_role("spinbutton", name="from").fill("5")
    page.get_by_role("spinbutton", name="from").press("Enter")
    page.wait_for_function("() => location.hash.includes('f.letters')")
    page.locator('.card:has-text("bison.jpg")').first.wait_for()
    wait_for_hits(page, part="f.letters")
    assert {title.split(".")[0] for title in titles(page)} == {"bison", "chicken"}


def test_a_filter_that_cannot_be_read_says_so_at_its_field(opened: Open) -> None:
    page = opened("c=animals&p=text:animal")
    wait_for_hits(page)
    page.get_by_role("button", name="Filter").click()
    page.get_by_label("Where", exact=True).fill("letters >> 3")
    page.get_by_label("Where", exact=True).press("Enter")
    page.locator("#where-wrong").wait_for()
    assert "bad filter at character" in page.locator("#where-wrong").inner_text()
    assert page.get_by_label("Where", exact=True).get_attribute("aria-invalid") == "true"
    page.get_by_label("Where", exact=True).fill("letters = 3 and not modality = 'audio'")
    page.get_by_label("Where", exact=True).press("Enter")
    page.locator("#where-wrong").wait_for(state="detached")
    assert {title.rpartition(".")[2] for title in wait_for_hits(page)} == {"jpg", "txt"}


def test_nothing_left_offers_the_ways_out(opened: Open) -> None:
    page = opened("c=animals&p=text:cat&where=letters+>+99")
    page.get_by_role("button", name="Take the filters away").click()
    wait_for_hits(page)


# ---- one item, and why -------------------------------------------------------------------------


def test_why_marks_words_and_they_go_on_into_the_query(opened: Open) -> None:
    page = opened("c=animals&p=text:dog+barking&item=dog.txt&why=1")
    word = page.locator(".word", has_text="barks")
    word.click()
    page.get_by_role("button", name="Subtract “barks” from the query").click()
    wait_for_hits(page, part="-1*text")
    assert parts(page) == ["“dog barking” 1.0", "“barks” −1.0"]


def test_the_passage_that_answers_is_marked_in_its_text(opened: Open) -> None:
    page = opened("c=animals&p=text:an+orchestra+with+violins&tab=text&item=lexicon")
    mark = page.locator("dialog mark")
    mark.wait_for()
    assert "orchestra" in mark.inner_text()
    whole = page.locator("dialog .passage").inner_text()
    assert whole.startswith("The American bison")
    assert len(mark.inner_text()) < len(whole) / 2


def test_why_marks_the_passage_that_answers_within_its_whole_text(
    opened: Open, address: str
) -> None:
    url = f"{address}/v1/collections"
    httpx.post(url, json={"name": "letters", "model": "hashing"})
    text = f"It begins. {'Much ado. ' * 200} An orchestra plays. {'Nothing. ' * 200} It ends."
    httpx.post(f"{url}/letters/items", json={"items": [{"key": "a", "text": text}]})
    page = opened("c=letters&p=text:orchestra&item=a&why=1")
    strongest = page.locator(".word", has_text="orchestra")
    strongest.wait_for()
    assert 0 < strongest.bounding_box()["y"] < 800
    whole = page.locator("dialog .passage").inner_text()
    assert whole.startswith("It begins.")
    assert whole.endswith("It ends.")


def test_why_lays_a_picture_over_a_picture(opened: Open) -> None:
    page = opened("c=animals&p=text:dog+barking&item=dog.jpg")
    page.locator("dialog img.large").wait_for()
    page.get_by_role("button", name="Why?").click()
    shown = page.locator('dialog img.large[src^="data:image/png"]')
    shown.wait_for()
    assert page.locator(".shares li").count() == 2
    page.get_by_label("Show what carries the match").uncheck()
    page.locator('dialog img.large[src*="original"]').wait_for()


# ---- the map -----------------------------------------------------------------------------------


def test_the_map_and_the_hits_lead_to_each_other(opened: Open) -> None:
    """Of so few items that no layout by UMAP has to be compiled: tests/server has one."""
    pytest.importorskip("umap")
    page = opened("c=few&p=text:owl+hooting&view=map")
    page.locator(".map canvas").wait_for()
    first = page.locator(".strip .open").first
    first.click()
    page.wait_for_function("() => location.hash.includes('at=')")
    page.wait_for_timeout(450)  # the map moves there
    box = page.locator(".map canvas").bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.locator("dialog.item").wait_for()
    assert first.get_attribute("aria-label").startswith(page.locator("#item-title").inner_text())
    page.keyboard.press("Escape")
    page.locator("dialog.item").wait_for(state="detached")
    page.get_by_role("button", name="Results").click()
    wait_for_hits(page)


# ---- adding ------------------------------------------------------------------------------------


def test_files_are_added_and_failures_are_told_in_both_tabs(opened: Open, tmp_path: Path) -> None:
    page = opened("c=empty")
    page.get_by_role("heading", name="empty is empty").wait_for()
    other = opened("c=empty", tab_of=page.context)
    other.get_by_role("heading", name="empty is empty").wait_for()
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    files = [
        (CORPUS / "dog.jpg", "image/jpeg"),
        (CORPUS / "dog.ogg", "audio/ogg"),
        (bad, "image/png"),
    ]
    drop(page, "add", *files)
    page.locator(".adding", has_text="2 added, 1 failed").wait_for()
    assert "bad.png" in page.locator(".failures").inner_text()
    for tab in (page, other):
        tab.locator(".card").nth(1).wait_for()
        assert titles(tab) == ["dog.jpg", "dog.ogg"]
    page.locator(".adding").get_by_role("button", name="Close").click()
    quoted = tmp_path / 'an "owl".txt'
    quoted.write_text((CORPUS / "owl.txt").read_text())
    page.locator("#add-files").set_input_files(quoted)
    page.locator(".adding", has_text="1 added").wait_for()
    card(page, quoted.name).locator(".open").click()
    page.get_by_role("button", name="Remove from the collection").click()
    page.get_by_role("button", name="Really remove it?").click()
    page.locator(".notice", has_text=f"{quoted.name} was removed").wait_for()
    card(page, quoted.name).wait_for(state="detached")
    card(other, quoted.name).wait_for(state="detached")


def test_files_that_are_dropped_on_an_item_are_asked_what_they_are_for(opened: Open) -> None:
    page = opened("c=animals&item=cow.ogg")
    page.locator("dialog .bars").wait_for()
    page.evaluate(
        """transfer => { for (const name of ["dragenter", "dragleave"]) document.body.dispatchEvent(
        new DragEvent(name, {dataTransfer: transfer, bubbles: true})); }""",
        carried(page, (CORPUS / "dog.jpg", "image/jpeg")),
    )
    page.keyboard.press("p")  # what was under the files has the focus again
    page.get_by_role("dialog").get_by_role("button", name="Pause cow.ogg").wait_for()
    drop(page, "search", (CORPUS / "dog.jpg", "image/jpeg"))
    wait_for_hits(page, part="p=image")
    page.locator("dialog").first.wait_for(state="detached")


# ---- addresses ---------------------------------------------------------------------------------


def test_an_address_brings_everything_back(opened: Open) -> None:
    state = "c=animals&p=text:pet&p=-0.5*id:dog.jpg&tab=image&f.kept=[true]&item=cat.jpg"
    page = opened(state)
    page.locator("#item-title", has_text="cat.jpg").wait_for()
    page.keyboard.press("Escape")
    page.wait_for_function("() => !location.hash.includes('item')")
    assert parts(page) == ["“pet” 1.0", "dog.jpg −0.5"]
    wait_for_hits(page)
    assert set(titles(page)) == {"cat.jpg", "chicken.jpg", "cow.jpg"}
    page.go_back()
    page.locator("dialog.item").wait_for()
    page.reload()
    page.locator("dialog.item").wait_for()


def test_an_upload_that_the_server_forgot_is_asked_for_again(opened: Open) -> None:
    page = opened(f"c=animals&p=image:{'0' * 32}")
    page.get_by_role("heading", name="The server has forgotten your picture").wait_for()
    page.locator("#query-file").set_input_files(EXAMPLES / "queries" / "kitten.jpg")
    wait_for_hits(page)
    page.locator(".state").wait_for(state="detached")


def test_a_collection_that_is_not_there(opened: Open) -> None:
    page = opened("c=gone")
    page.get_by_role("heading", name="There is no collection gone").wait_for()
    page.get_by_role("button", name="animals").click()
    page.locator(".card").first.wait_for()


def test_another_collection_is_not_asked_for_what_the_last_one_had(opened: Open) -> None:
    page = opened("c=animals")
    page.locator(".card img").first.wait_for()
    refused: list[str] = []
    page.on("response", lambda answer: answer.status == 404 and refused.append(answer.url))
    page.get_by_label("Collection").select_option("long")
    page.locator(".card", has_text="item number 0").first.wait_for()
    page.wait_for_load_state("networkidle")
    assert refused == []


def test_a_collection_that_goes_while_it_is_looked_at(
    opened: Open, address: str, root: Path
) -> None:
    url = f"{address}/v1/collections"
    httpx.post(url, json={"name": "brief", "model": "hashing"})
    httpx.post(f"{url}/brief/items", json={"items": [{"key": "a", "text": "a robin"}]})
    page = opened("c=brief")
    page.locator(".card").wait_for()
    shutil.rmtree(root / "brief")
    page.locator("#words").fill("robin")
    page.get_by_role("heading", name="There is no collection brief").wait_for()


def test_an_item_of_the_sum_that_is_gone_can_be_left_out(opened: Open) -> None:
    page = opened("c=animals&p=text:owl&p=id:gone.jpg")
    page.get_by_role("heading", name="gone.jpg is not here any more").wait_for()
    page.get_by_role("button", name="Search without it").click()
    wait_for_hits(page)
    assert page.locator("#words").input_value() == "owl"


# ---- keys --------------------------------------------------------------------------------------


def test_all_of_it_by_keyboard(opened: Open) -> None:
    page = opened()
    page.locator(".card").first.wait_for()
    page.keyboard.type("o")  # the box has the focus, and ``/`` leads to it from everywhere
    page.keyboard.press("ArrowDown")
    page.keyboard.press("/")
    page.keyboard.type("owl")
    page.keyboard.press("Enter")
    wait_for_hits(page, part="p=text%3Aowl")
    page.keyboard.press("ArrowDown")
    page.wait_for_function("() => document.activeElement.dataset.at === '0'")
    lefts = page.locator(".card").evaluate_all("all => all.map(one => one.style.transform)")
    columns = len({transform.partition(",")[0] for transform in lefts})
    for key, at in (("ArrowRight", 1), ("ArrowDown", 1 + columns), ("ArrowUp", 1), ("Home", 0)):
        page.keyboard.press(key)
        page.wait_for_function(f"() => document.activeElement.dataset.at === '{at}'")
    page.keyboard.press("End")
    page.wait_for_function("() => Number(document.activeElement.dataset.at) > 10")
    page.keyboard.press("Home")
    page.wait_for_function("() => document.activeElement.dataset.at === '0'")
    title = titles(page)[0]
    page.keyboard.press("Enter")
    page.locator("dialog.item").wait_for()
    page.keyboard.press("ArrowRight")
    page.locator(f'#item-title:not(:text-is("{title}"))').wait_for()
    page.keyboard.press("Escape")
    page.locator("dialog.item").wait_for(state="detached")
    page.wait_for_function("() => document.activeElement.dataset.at === '1'")
    second = titles(page)[1]
    page.keyboard.press("-")
    page.locator(".part.minus").wait_for()
    assert parts(page) == ["“owl” 1.0", f"{second} −1.0"]
    assert page.locator(".part img").count() == second.endswith(".jpg")
    page.keyboard.press("Escape")
    assert page.evaluate("() => document.activeElement.id") == "words"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("?")
    page.get_by_role("heading", name="How to search here").wait_for()
    page.keyboard.press("Escape")
    page.locator("dialog").wait_for(state="detached")
    page.keyboard.press("2")
    page.wait_for_function("() => location.hash.includes('tab=image')")


def test_after_a_key_on_a_hit_the_focus_is_at_the_first_of_the_new_hits(opened: Open) -> None:
    page = opened("c=animals&p=text:pet")
    wait_for_hits(page)
    for key, presses, sum_of in (("+", 2, 2), ("m", 1, 1)):
        page.locator('[data-at="3"]').focus()
        chosen = titles(page)[3]
        # At once: on a busy machine new hits may be there, and have the focus, before the second.
        page.evaluate(
            """([key, presses]) => {
                const chosen = document.activeElement;
                for (let press = 0; press < presses; press++)
                    chosen.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
            }""",
            [key, presses],
        )
        page.locator(f".part:nth-child({sum_of})", has_text=chosen).wait_for()
        wait_for_hits(page)
        assert len(parts(page)) == sum_of
        page.wait_for_function("() => document.activeElement.dataset.at === '0'")
    title = titles(page)[1]
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.locator("dialog.item").wait_for()
    page.keyboard.press("+")
    page.locator(".part", has_text=title).wait_for()
    wait_for_hits(page)
    page.wait_for_function("() => document.activeElement.dataset.at === '0'")


# ---- what is to be the same here and there ----------------------------------------------------


def test_all_modules_are_asked_for_at_once() -> None:
    """A module that only another one names is asked for when that one is there."""
    modules = {
        f"/page/{path.relative_to(PAGE)}" for path in PAGE.rglob("*.js") if path.name != "main.js"
    }
    preloaded = re.findall(r'rel="modulepreload" href="(.+?)"', (PAGE / "index.html").read_text())
    assert sorted(preloaded) == sorted(modules)


def test_a_bar_is_full_where_that_of_an_exported_page_is() -> None:
    (full,) = re.findall(r"const FULL_SCORE = (\d+);", (PAGE / "words.js").read_text())
    assert float(full) == FULL_SCORE


# ---- much, evil, small -------------------------------------------------------------------------


def test_hits_that_moved_between_two_pages_are_there_once(opened: Open, address: str) -> None:
    url = f"{address}/v1/collections"
    httpx.post(url, json={"name": "moving", "model": "hashing"})

    def add(*keys: str, text: str) -> None:
        rows = [{"key": key, "text": f"{text} {key}"} for key in keys]
        httpx.post(f"{url}/moving/items", json={"items": rows}).raise_for_status()

    keys = [f"{number:03}" for number in range(150)]
    add(*keys, text="an item of number")
    page = opened("c=moving&p=text:owl")
    wait_for_hits(page)
    # Better than all of them: the second page has what the first one had.
    better = [f"better{number}" for number in range(60)]
    add(*better, text="owl owl owl")
    shown: set[str] = set()
    for _ in range(60):
        shown |= set(titles(page))
        if page.locator(".end", has_text="That is all").count() and set(keys) <= shown:
            break
        page.mouse.wheel(0, 600)
        page.wait_for_timeout(50)
    assert shown == {*keys}
    assert page.locator(".card").last.get_attribute("aria-setsize") == "150"


def test_a_long_list_is_drawn_where_it_is_looked_at(opened: Open) -> None:
    page = opened("c=long")
    page.locator(".card").first.wait_for()
    last = "Math.max(...[...document.querySelectorAll('.card')].map(one => one.ariaPosInSet))"
    seen = 0
    while seen < 300:
        page.evaluate("() => scrollTo(0, document.documentElement.scrollHeight)")
        page.wait_for_function(f"() => {last} > {seen}")
        seen = page.evaluate(last)
        assert page.locator(".card").count() < 100


def test_a_further_page_that_fails_can_be_asked_for_again(opened: Open) -> None:
    page = opened("c=long")
    page.locator(".card").first.wait_for()
    fails = re.compile(r"/items\?.*after=")
    page.route(fails, lambda route: route.fulfill(status=500, body="no"))
    page.evaluate("() => scrollTo(0, document.documentElement.scrollHeight)")
    again = page.get_by_role("button", name="Try again")
    again.wait_for()
    page.unroute(fails)
    again.click()
    page.wait_for_function(
        """() => {
            scrollTo(0, document.documentElement.scrollHeight);
            return [...document.querySelectorAll('.card')].some(one => one.ariaPosInSet > 100);
        }"""
    )


def test_a_page_full_of_hits_and_no_more_is_all_of_them(opened: Open, address: str) -> None:
    url = f"{address}/v1/collections"
    httpx.post(url, json={"name": "sixty", "model": "hashing"})
    rows = [{"key": f"{n}", "text": f"item number {n}"} for n in range(60)]
    httpx.post(f"{url}/sixty/items", json={"items": rows})
    page = opened("c=sixty&p=text:number")
    wait_for_hits(page)
    assert page.locator("p.aside[role=status]").inner_text().startswith("60 hits. The best")


def test_items_of_the_same_name_are_told_apart(opened: Open, address: str) -> None:
    url = f"{address}/v1/collections"
    httpx.post(url, json={"name": "twins", "model": "hashing"})
    rows = [{"key": key, "text": key} for key in ("x/a/1.txt", "x/b/1.txt", "y/a/1.txt", "z/2.txt")]
    httpx.post(f"{url}/twins/items", json={"items": rows})
    page = opened("c=twins")
    page.locator(".card").first.wait_for()
    assert titles(page) == ["x/a/1.txt", "x/b/1.txt", "y/a/1.txt", "2.txt"]


def test_evil_keys_texts_and_metadata_stay_text(opened: Open) -> None:
    page = opened("c=evil")
    page.locator(".card .open").click()
    page.locator("dialog.item").wait_for()
    assert EVIL in page.locator("dialog.item").inner_text()
    page.get_by_role("button", name="Add to the query").click()
    page.locator(".part").wait_for()
    assert page.locator("img:not(.thumb)").count() == 0
    assert page.title() != "1"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling(scheme: str, opened: Open) -> None:
    page = opened(
        "c=animals&p=text:owl&p=-0.5*text:day&where=letters+>+2",
        viewport={"width": 360, "height": 740},
        has_touch=True,
        is_mobile=True,
        color_scheme=scheme,
    )
    wait_for_hits(page)
    wide = "() => document.documentElement.scrollWidth"
    assert page.evaluate(wide) <= 360
    page.locator(".card .open").first.tap()
    page.locator("dialog.item").wait_for()
    assert page.evaluate(wide) <= 360
    page.get_by_role("button", name="Close").tap()


# ---- the server: away, or asking for a token ---------------------------------------------------


def test_a_server_that_goes_and_comes_back(opened: Open, tmp_path: Path) -> None:
    with serving("--root", str(tmp_path), "--port", "0") as url:
        httpx.post(f"{url}/v1/collections", json={"name": "here", "model": "hashing"})
        rows = {"items": [{"key": "a", "text": "a robin at dawn"}]}
        httpx.post(f"{url}/v1/collections/here/items", json=rows)
        page = opened("c=here", url)
        page.locator(".card").wait_for()
    page.locator("#words").fill("robin")
    page.locator("#words").press("Enter")
    page.locator(".banner", has_text="The server does not answer").wait_for()
    with serving("--root", str(tmp_path), "--port", url.rpartition(":")[2]):
        page.locator(".banner").wait_for(state="detached")
        page.locator(".card .means").wait_for()


def test_a_first_collection_is_made_on_the_page_behind_a_token(
    opened: Open, tmp_path: Path
) -> None:
    with serving("--root", str(tmp_path), "--port", "0", "--token", "sesame") as url:
        page = opened("", url)
        page.get_by_role("textbox", name="Token").fill("wrong")
        page.get_by_role("button", name="Enter").click()
        page.locator("#token-wrong", has_text="This is not the token").wait_for()
        page.get_by_role("textbox", name="Token").fill("sesame")
        page.get_by_role("button", name="Enter").click()
        page.get_by_label("Name").fill("first")
        page.get_by_role("button", name="Make it").click()
        page.get_by_role("heading", name="first is empty").wait_for()
        page.locator("#add-files").set_input_files(CORPUS / "dog.jpg")
        shown = page.locator(".card img")
        shown.wait_for()
        page.wait_for_function("() => document.querySelector('.card img').naturalWidth > 0")


# ---- for everybody -----------------------------------------------------------------------------

RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
# Of each an element that is there when it is shown.
STATES = {
    "browsing": ("c=animals", ".lead"),
    "hits": (
        "c=animals&p=text:owl&p=-0.5*id:dog.jpg&f.kept=[true]&where=letters+>+2",
        ".hits:not(.stale) .means",
    ),
    "a text and why": ("c=animals&p=text:dog+barking&item=dog.txt&why=1", ".word"),
    "a sound": ("c=animals&p=text:dog+barking&item=dog.ogg", ".player.large .bars"),
    "a bad filter": ("c=animals&where=x+>>", "#where-wrong"),
    "nothing": ("c=evil&tab=audio", ".state h2"),
}


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_axe_finds_nothing(scheme: str, width: int, opened: Open) -> None:
    """Of WCAG 2.2 AA and good practice, in each state."""
    page = opened(
        color_scheme=scheme, reduced_motion="reduce", viewport={"width": width, "height": 800}
    )
    page.locator(".card").first.wait_for()
    # The page's own policy lets no other script in: it comes by the protocol of the debugger.
    page.evaluate(AXE.read_text())
    for name, (state, shown) in STATES.items():
        page.goto(f"{page.url.partition('#')[0]}#{state}")
        page.locator(shown).first.wait_for()
        page.wait_for_load_state("networkidle")
        found = page.evaluate("tags => axe.run(document, {runOnly: tags})", RULES)
        told = [(one["id"], one["nodes"][0]["html"]) for one in found["violations"]]
        assert told == [], name
