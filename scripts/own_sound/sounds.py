"""Sounds to learn from, with what is heard: recordings of packages, soundfonts, speech, tones.

`names.tsv` says which recordings and what they are, `words.tsv` what words in file names stand
for, `drums.tsv` the same for drum samples.
"""

from __future__ import annotations

import random
import re
import struct
import subprocess
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
from base_model.packages import Named, unpack
from muomni_tiny import sounds as tiny

from own_sound.packages import FONTS, RECORDED

HERE = Path(__file__).resolve().parent
SUFFIXES = (".wav", ".ogg", ".oga", ".flac", ".mp3")
ARCHIVES = (".pk3", ".wz", ".zip")
MOST_OF_A_NAME = 12  # sounds that one package gives one name
SLOT_TICKS, SLOT_SAMPLES, KEPT_SAMPLES = 2000, 80_000, 64_000  # a preset of a soundfont
QUIET = 1e-3
# Banks that repeat others: expression, and the drum kits.
LEFT_OUT_BANKS = (17, 18, 21, 26, 31, 41, 51, 128)
SPELLED = {
    "gtr.": "guitar", "fl.": "flute", "lazergun": "laser gun", "ep": "electric piano",
    "syn.": "synthesizer", "synth": "synthesizer", "celli": "cellos", "basses": "double basses",
    "sax": "saxophone", "elec": "electric", "acou": "acoustic", "trem": "tremolo",
    "melo": "melodic",
}  # fmt: skip


def named_sounds(work: Path) -> list[Named]:
    """Return all sounds to learn from; make what has to be made below ``work``."""
    packages, made = work / "packages", work / "own-sound"
    tables = tiny.sound_tables(packages, made)
    takes = [one for one in tables["instruments"] if not re.search(r"\d{3}-[24]\.wav", one[0].name)]
    return [
        *recordings(packages),
        *tables["speech"],
        *tables["tones"],
        *takes,
        *played(packages, made / "fonts"),
    ]


def lines(name: str) -> Iterator[list[str]]:
    for line in (HERE / name).read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            yield [*line.split("\t"), ""]


def recordings(packages: Path) -> list[Named]:
    """Return the recordings with their names, sorted."""
    rules: dict[str, list[tuple[str, str]]] = {}
    for package, pattern, name, *_ in lines("names.tsv"):
        rules.setdefault(package, []).append((pattern, name))
    for one in RECORDED:
        unpack_archives(unpack(one, packages))
    found = []
    for package, own in rules.items():
        folder = packages / package
        paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
        paths = [path for path in paths if path.is_file() and not path.is_symlink()]
        random.Random(0).shuffle(paths)  # which dozen of a name is kept
        count: Counter[str] = Counter()
        for path in paths:
            place = path.as_posix()[len(str(folder)) :].replace("/usr/share/games/", "/")
            name = next((name for rule, name in own if re.search(rule, place, re.I)), "")
            name = name.replace("{drum}", drum(path.stem)).replace("{}", spelled(path.stem))
            count[name] += 1
            if len(name) > 2 and count[name] <= MOST_OF_A_NAME:
                found.append((path, name))
    return sorted(found)


def unpack_archives(folder: Path) -> None:
    """Unpack the sounds of a game's own archives beside them."""
    for archive in sorted(path for path in folder.rglob("*") if path.suffix in ARCHIVES):
        target = archive.with_name(f"{archive.name}.d")
        if not target.exists():
            with zipfile.ZipFile(archive) as pack:
                pack.extractall(
                    target, [n for n in pack.namelist() if n.endswith((".ogg", ".wav"))]
                )


def spelled(stem: str) -> str:
    """Return the words of a file's name."""
    stands = {word: means for word, means, *_ in lines("words.tsv")}
    apart = re.sub(r"([a-z])([A-Z])", r"\1 \2", stem)
    words = re.sub(r"[-_.~\d\[\]()]+", " ", apart).lower().split()
    return " ".join(word for word in (stands.get(word, word) for word in words) if word).strip()


def drum(stem: str) -> str:
    """Return what a drum sample is; empty where its name does not say."""
    apart = re.sub(r"([a-z])([A-Z])", r"\1 \2", stem)
    words = re.sub(r"[-_.\d]+", " ", apart).lower()
    words = words.replace("wood block", "woodblock").replace("bass drum", "bassdrum")
    return next((name for rule, name, *_ in lines("drums.tsv") if re.search(rule, words)), "")


def played(packages: Path, folder: Path) -> Iterator[Named]:
    """Yield every preset of the soundfonts, played: two takes of General MIDI, one of others."""
    for package in FONTS:
        font = next(unpack(package, packages).rglob("*.sf[23]"))
        target = folder / package.name
        target.mkdir(parents=True, exist_ok=True)
        jobs = list(presets(font))
        score, raw = target / "all.mid", target / "all.wav"
        score.write_bytes(midi([events(bank, program, take) for bank, program, _, take in jobs]))
        command = ["fluidsynth", "-niq", "-o", "synth.midi-bank-select=gs", "-r", str(tiny.RATE)]
        command += ["-g", "0.6", "-F", str(raw), str(font), str(score)]
        subprocess.run(command, check=True, capture_output=True)
        samples = soundfile.read(raw, dtype="float32", always_2d=True)[0].mean(axis=1)
        raw.unlink()
        for number, (bank, program, name, take) in enumerate(jobs):
            start = number * SLOT_SAMPLES
            part = samples[start : start + KEPT_SAMPLES]
            if np.abs(part).max(initial=0) >= QUIET:
                path = target / f"{bank:03}-{program:03}-{take}.wav"
                soundfile.write(path, part, tiny.RATE)
                yield path, name


def presets(font: Path) -> Iterator[tuple[int, int, str, int]]:
    """Yield bank, program, name and take of what a soundfont holds (SoundFont 2.04, 7.2)."""
    data = font.read_bytes()
    start = data.rfind(b"phdr") + 8
    (length,) = struct.unpack("<I", data[start - 4 : start])
    records = [data[at : at + 38] for at in range(start, start + length - 38, 38)]
    for bank, program, name in sorted(
        (*struct.unpack("<HH", one[20:24])[::-1], one[:20].split(b"\0")[0].decode("latin-1"))
        for one in records
    ):
        if not bank:
            yield from ((0, program, tiny.PROGRAMS[program], take) for take in range(2))
        elif bank not in LEFT_OUT_BANKS:
            called = preset_name(name)
            if bank != 127 or len(called) > 2:
                yield bank, program, called, 0


def preset_name(name: str) -> str:
    name = re.sub(r"\b(MT|Expr\.|Expr|\d+)\b\.?", "", name)
    name = re.sub(r"[/\d]", " ", name).replace("-", " ")
    return " ".join(SPELLED.get(word, word) for word in name.lower().split())


def events(bank: int, program: int, take: int) -> list[tuple[int, bytes]]:
    """Return the (tick, event) of a preset's slot: a few random notes, long ones of noises."""
    noise = program >= 115
    rng = np.random.default_rng((program, bank, take + 50))
    found = [(0, bytes([0xB0, 0, bank])), (0, bytes([0xB0, 32, 0])), (0, bytes([0xC0, program]))]
    base = int(rng.integers(43, 72)) if not noise else 60
    scale = np.array([0, 1, -1, 2, -3, 0] if noise else [0, 2, 4, 7, 9, 12])
    at = 4
    while at < 1250:
        count = 1 if noise or rng.random() < 0.7 else 3
        length = int(rng.integers(500, 1200) if noise else rng.integers(80, 320))
        keys = sorted({int(step) + base for step in rng.choice(scale, count)})
        loud = int(rng.integers(70, 120))
        found += [(at, bytes([0x90, key, loud])) for key in keys]
        found += [(at + length, bytes([0x80, key, 0])) for key in keys]
        at += length
    return [*found, (1600, bytes([0xB0, 123, 0])), (1900, bytes([0xB0, 120, 0]))]


def midi(slots: list[list[tuple[int, bytes]]]) -> bytes:
    """Return a MIDI file of slots of 5 s one after the other."""
    ordered = sorted(
        (number * SLOT_TICKS + tick, place, event)
        for number, slot in enumerate(slots)
        for place, (tick, event) in enumerate(slot)
    )
    track, last = b"", 0
    for tick, _, event in ordered:
        track += tiny.variable(tick - last) + event
        last = tick
    track += tiny.variable(400) + bytes([0xFF, 0x2F, 0])
    head = b"MThd" + struct.pack(">IHHH", 6, 0, 1, 200)
    return head + b"MTrk" + struct.pack(">I", len(track)) + track
