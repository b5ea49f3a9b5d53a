"""The evaluation sets. Nothing is ever trained or tuned on them."""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from base_model.packages import EVALUATION, unpack

TUX_LEFT_OUT = ("symbols/", "town/flags", "seasonal/hanukkah")  # no pictures of things
ARTICLE = re.compile(r"^(an?|the|some|this is an?)\s+")
# French names in the package, and the name that is asked for.
INSTRUMENTS = {
    "traversiere": "", "clarinette": "clarinet", "guitare": "guitar", "violon": "violin",
}  # fmt: skip


@dataclass(frozen=True)
class Example:
    """A thing with its name, its picture and, where there is one, its sound."""

    name: str
    picture: Path | None = None
    sound: Path | None = None


def tux_paint(work: Path) -> list[Example]:
    """Return the 417 pictures that are no cartoons, with text, and 94 of them with sound."""
    folder = unpack(EVALUATION[0], work) / "usr/share/tuxpaint/stamps"
    examples = []
    for picture in sorted(folder.rglob("*.png")):
        place = picture.relative_to(folder).as_posix()
        text = picture.with_suffix(".txt")
        if place.startswith(TUX_LEFT_OUT) or "cartoon" in place or not text.exists():
            continue
        if "_mirror" in place or "_flip" in place:
            continue
        name = clean(text.read_text(encoding="utf-8").splitlines()[0])
        sounds = [picture.with_suffix(suffix) for suffix in (".ogg", ".wav")]
        examples.append(Example(name, picture, next((one for one in sounds if one.exists()), None)))
    return examples


def clean(text: str) -> str:
    """Return a caption without its article and full stop."""
    return ARTICLE.sub("", text.strip().rstrip(".!").lower())


def animal_photos(work: Path) -> list[Example]:
    """Return the 24 photographs of the gcompris animal activities."""
    folder = gcompris(work)
    return [
        Example(re.sub(r"(?<!^)(?=[A-Z])", " ", path.stem).replace("_", " ").lower(), path)
        for path in sorted(folder.glob("explore_*animals/resource/animals/*.webp"))
    ]


def word_drawings(work: Path) -> list[Example]:
    """Return the 116 drawings of the gcompris word activities."""
    paths = sorted(gcompris(work).glob("lang/resource/words_sample/*.webp"))
    return [Example(path.stem.replace("_", " "), path) for path in paths]


def instruments(work: Path) -> list[Example]:
    """Return the 26 instruments of the gcompris instrument activity."""
    examples = []
    for path in sorted(gcompris(work).glob("instruments/resource/*.ogg")):
        name = path.stem.replace("_", " ")
        for french, english in INSTRUMENTS.items():
            name = name.replace(french, english).strip()
        examples.append(Example(name, sound=path))
    return examples


def gcompris(work: Path) -> Path:
    """Return the folder of the gcompris activities, unpacked from their resource files."""
    target = work / "gcompris"
    if not (target / ".complete").exists():
        for archive in sorted(unpack(EVALUATION[1], work).rglob("*.rcc")):
            unpack_rcc(archive, target)
        (target / ".complete").touch()
    return target / "gcompris/src/activities"


def unpack_rcc(archive: Path, target: Path) -> None:
    """Unpack a Qt resource file (format: qtbase, src/corelib/io/qresource.cpp)."""
    data = archive.read_bytes()
    version, tree, blobs, names = struct.unpack(">4I", data[4:20])
    size = 22 if version >= 2 else 14

    def name_at(offset: int) -> str:
        (length,) = struct.unpack(">H", data[names + offset : names + offset + 2])
        return data[names + offset + 6 : names + offset + 6 + 2 * length].decode("utf-16-be")

    def walk(node: int, folder: Path) -> None:
        at = tree + node * size
        name_offset, flags = struct.unpack(">IH", data[at : at + 6])
        path = folder / name_at(name_offset) if node else folder
        if flags & 2:  # a folder
            count, first = struct.unpack(">II", data[at + 6 : at + 14])
            for child in range(first, first + count):
                walk(child, path)
            return
        (offset,) = struct.unpack(">I", data[at + 10 : at + 14])
        (length,) = struct.unpack(">I", data[blobs + offset : blobs + offset + 4])
        content = data[blobs + offset + 4 : blobs + offset + 4 + length]
        if flags & 4:  # Zstandard: none of the media are
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(zlib.decompress(content[4:]) if flags & 1 else content)

    walk(0, target)


def word_files(work: Path) -> tuple[list[Path], Path]:
    """Return the files of WordSim-353 and SimLex-999, and that of Google's analogies."""
    folder = next(unpack(EVALUATION[2], work).rglob("wordsim353.tsv")).parent
    return [folder / "wordsim353.tsv", folder / "simlex999.txt"], folder / "questions-words.txt"
