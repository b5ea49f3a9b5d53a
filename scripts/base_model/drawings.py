"""Drawings to learn from, and what they are called.

Emoji of many styles, icons, clip art, and pictures of furniture: each package's own way of naming.
"""

from __future__ import annotations

import html
import io
import json
import re
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

CLIPART = [
    "transportation", "food", "people", "animals", "tools", "office", "plants", "buildings",
    "education", "electronics", "decorations", "science", "containers", "recreation", "geography",
    "unsorted",
]  # fmt: skip
# Words that say who drew it, and how, not what.
NOT_SHOWN = {
    *("architetto", "francesco", "rollandin", "aiga", "symbol", "signs"),
    *("clipart", "icon", "svg", "remix", "outline"),
}
TITLE_WORDS, FILE_WORDS = 6, 3
DECKS = "/recreation/games/cards/"  # four times the same 52
# Sets of emoji, drawn again and again: found by their code points or their names.
EMOJI = [
    "twemoji", "fluent-emoji", "noto-v1", "emojione", "emojione-v1", "fxemoji",
    "streamline-emojis", "noto", "fluent-emoji-flat", "fluent-emoji-high-contrast",
    "emojione-monotone",
]  # fmt: skip
# Sets of icons whose names say what they show, and the end of the names of those that are taken.
ICONS = {
    "game-icons": "", "flat-color-icons": "", "temaki": "", "ph": "-fill",
    "streamline-cyber-color": "", "streamline-freehand-color": "",
    "streamline-kameleon-color": "", "streamline-plump-color": "-flat",
    "streamline-ultimate-color": "",
}  # fmt: skip
# Drawings whose licence asks for nothing but its own text: rows of numbers of these are shipped.
FREE = {
    "google", "openclipart", "fluent-emoji", "noto-v1", "fxemoji", "noto", "fluent-emoji-flat",
    "fluent-emoji-high-contrast", "fluent-emoji-3d", "flat-color-icons", "temaki", "ph",
}  # fmt: skip
# Styles, each with its next of kin, that are held back to see what a tower makes of a style unseen.
STYLES = [
    (("openclipart",), ("openclipart",)),
    (("openmoji",), ("openmoji",)),
    (("google", "noto-v1"), ("google", "noto-v1", "noto")),
]
UNSEEN = [name for _, kin in STYLES for name in kin]
VAGUE_EMOJI = {None, 2, 8, 9}  # components, symbols, flags


def read_drawings(packages: Path) -> dict[str, list[tuple[Path, str]]]:
    """Return the drawings of each package with their names, in a fixed order."""
    made = packages / "iconify-png"
    return {
        "openmoji": _openmoji(packages, packages / "openmoji-png"),
        "google": _google_emoji(packages),
        "openclipart": _openclipart(packages),
        **{name: _emoji_icons(packages, made / name, name) for name in EMOJI},
        **{name: _named_icons(packages, made / name, name) for name in ICONS},
        "fluent-emoji-3d": _fluent_3d(packages),
        "sweethome3d-furniture": list(things(packages, packages / "furniture-png")),
    }


def _emoji_icons(packages: Path, scratch: Path, name: str) -> list[tuple[Path, str]]:
    """Return the emoji of one style, found by their code point or by their name."""
    folder = packages / "@iconify-json" / name / "package"
    icons = json.loads((folder / "icons.json").read_text(encoding="utf-8"))
    characters = json.loads((folder / "chars.json").read_text(encoding="utf-8"))
    emoji = _emoji(packages)
    codes = {_letters(entry["label"]): code for code, entry in reversed(emoji.items())}
    by_icon = {icon: _plain(code) for code, icon in reversed(characters.items())}
    scratch.mkdir(parents=True, exist_ok=True)
    drawings = []
    for icon, drawing in sorted(icons["icons"].items()):
        code = by_icon.get(icon) or codes.get(_letters(re.sub(r"-\d+$", "", icon)))
        entry: Any = emoji.get(code or "")
        if entry is None or entry.get("group") in VAGUE_EMOJI:
            continue
        target = scratch / f"{code}_{icon}.png"
        if target.exists() or _render(drawing, icons, target):
            drawings.append((target, entry["label"]))
    return drawings


def _named_icons(packages: Path, scratch: Path, name: str) -> list[tuple[Path, str]]:
    """Return the icons of a set that are called after what they show."""
    path = packages / "@iconify-json" / name / "package/icons.json"
    icons = json.loads(path.read_text(encoding="utf-8"))
    scratch.mkdir(parents=True, exist_ok=True)
    drawings = []
    for icon, drawing in sorted(icons["icons"].items()):
        stem = icon.removesuffix("-duo")
        twin = stem != icon and stem in icons["icons"]  # the same in two colours
        if drawing.get("hidden") or twin or not icon.endswith(ICONS[name]):
            continue
        words = re.sub(r"-(\d+|alternate)(?=-|$)", "", stem.removesuffix(ICONS[name]))
        target = scratch / f"{icon}.png"
        if target.exists() or _render(drawing, icons, target):
            drawings.append((target, words.replace("-", " ").strip()))
    return drawings


def _emoji(packages: Path) -> dict[str, Any]:
    """Return what is said of each emoji, by its plain code point."""
    path = packages / "emojibase-data/package/en/data.json"
    entries = json.loads(path.read_text(encoding="utf-8"))
    return {_plain(entry["hexcode"]): entry for entry in entries}


def _plain(code: str) -> str:
    """Return a code point without the marks that choose a coloured picture."""
    return "-".join(part for part in code.upper().split("-") if part != "FE0F")


def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def _render(drawing: dict[str, Any], defaults: dict[str, Any], target: Path) -> bool:
    """Write one icon of a set as a picture of 224 pixels; return whether it could be drawn.

    Some of a few hundred filters are too much for librsvg 2.54 ("NoMemory").
    """
    left, top = drawing.get("left", 0), drawing.get("top", 0)
    width = drawing.get("width", defaults.get("width", 16))
    height = drawing.get("height", defaults.get("height", 16))
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}" width="{width}" height="{height}">'
        f"{drawing['body']}</svg>"
    )
    partial = target.with_suffix(".partial")  # what fails leaves an empty file
    command = ["rsvg-convert", "-w", "224", "-h", "224", "--keep-aspect-ratio", "-o", str(partial)]
    drawn = subprocess.run(command, input=svg.encode(), capture_output=True)
    if drawn.returncode:
        partial.unlink(missing_ok=True)
        return False
    partial.replace(target)
    return True


def _openmoji(packages: Path, scratch: Path) -> list[tuple[Path, str]]:
    folder = packages / "openmoji/package"
    scratch.mkdir(parents=True, exist_ok=True)
    drawings = []
    for entry in json.loads((folder / "data/openmoji.json").read_text(encoding="utf-8")):
        vague = entry.get("group") in ("flags", "symbols", "extras-openmoji", "extras-unicode")
        source = folder / "color/svg" / f"{entry['hexcode']}.svg"
        if entry.get("skintone") or vague or not source.exists():
            continue
        target = scratch / f"{entry['hexcode']}.png"
        if not target.exists():
            subprocess.run(["rsvg-convert", "-w", "256", "-o", target, source], check=True)
        drawings.append((target, entry["annotation"]))
    return drawings


def _google_emoji(packages: Path) -> list[tuple[Path, str]]:
    path = packages / "emojibase-data/package/en/data.json"
    named = {entry["hexcode"]: entry for entry in json.loads(path.read_text(encoding="utf-8"))}
    folder = packages / "emoji-datasource-google/package/img/google/64"
    drawings = []
    for source in sorted(folder.glob("*.png")):
        code = source.stem.upper()
        entry: Any = named.get(code) or named.get(code.replace("-FE0F", ""))
        if entry and entry.get("group") not in VAGUE_EMOJI:
            drawings.append((source, entry["label"]))
    return drawings


def _fluent_3d(packages: Path) -> list[tuple[Path, str]]:
    """Return Fluent's emoji as they were rendered, found by their code points."""
    emoji = _emoji(packages)
    drawings = []
    for path in sorted((packages / "@lobehub/fluent-emoji-3d/package/assets").glob("*.webp")):
        entry = emoji.get(_plain(path.stem))
        if entry and entry.get("group") not in VAGUE_EMOJI:
            drawings.append((path, entry["label"]))
    return drawings


def _openclipart(packages: Path) -> list[tuple[Path, str]]:
    """Return clip art that can be told what it shows, in a fixed order."""
    folder = packages / "openclipart-png/usr/share/openclipart/png"
    titled = packages / "openclipart-svg/usr/share/openclipart/svg"
    sources = [
        source
        for group in CLIPART
        for source in sorted((folder / group).rglob("*.png"))
        if DECKS not in source.as_posix()
    ]
    drawings = []
    for source in sources:
        title = _title(titled / source.relative_to(folder).with_suffix(".svg"))
        if name := clipart_name(source.stem, title):
            drawings.append((source, name))
    return drawings


def _title(drawing: Path) -> str:
    """Return the title that an SVG file gives itself."""
    if not drawing.exists():
        return ""
    content = drawing.read_text(encoding="utf-8", errors="replace")
    found = re.search(r"<dc:title>(.*?)</dc:title>", content, re.DOTALL)
    return html.unescape(found[1]).strip() if found else ""


def clipart_name(stem: str, title: str) -> str:
    """Return what clip art shows by its file's name and its title; empty where neither says it.

    File names end in their author's, and titles may be those of a series: one counts that shares a
    word with the file's name.
    """
    of_file = _words(stem)
    of_title = _words(re.split(r"\bby\b|,| - ", re.sub(r"\(.*?\)", "", title))[0])
    if of_file and not set(of_title) & set(of_file):
        return " ".join(of_file[:FILE_WORDS])
    return " ".join(of_title[:TITLE_WORDS])


def _words(text: str) -> list[str]:
    """Return words of three letters and more, without those that say who drew it, and how."""
    words = re.findall(r"[a-z']+", text.lower())
    return [word for word in words if len(word) > 2 and word not in NOT_SHOWN]


def things(packages: Path, folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield the pictures of a catalogue of furniture with the names of what they show."""
    folder.mkdir(parents=True, exist_ok=True)
    for archive in sorted((packages / "sweethome3d-furniture").rglob("*.sh3f")):
        with zipfile.ZipFile(archive) as pack:
            entries: dict[str, dict[str, str]] = {}
            said = pack.read("PluginFurnitureCatalog.properties").decode("latin-1")
            for line in said.splitlines():
                if found := re.match(r"(name|icon)#(\d+)=(.*)", line.strip()):
                    entries.setdefault(found[2], {})[found[1]] = found[3]
            for number, entry in entries.items():
                if len(entry) < 2:
                    continue
                target = folder / f"{archive.stem}-{number}.png"
                if not target.exists():
                    picture = Image.open(io.BytesIO(pack.read(entry["icon"].lstrip("/"))))
                    partial = target.with_suffix(".partial")
                    picture.convert("RGBA").save(partial, "PNG")
                    partial.replace(target)
                yield target, re.sub(r"\s*[\d#]+$", "", entry["name"].lower())
