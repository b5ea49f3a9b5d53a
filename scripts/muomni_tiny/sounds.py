"""Sounds that are made, with what they are: instruments of soundfonts, speech, tones and noises.

Instruments are played by fluidsynth, speech comes from espeak-ng and flite, the rest from
formulas.
"""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import soundfile
from base_model.packages import Named
from numpy.typing import NDArray

RATE = 16_000  # Hz
SOUNDFONTS = {
    "fluid": "fluid-soundfont-gm/usr/share/sounds/sf2/FluidR3_GM.sf2",
    "timgm": "timgm6mb-soundfont/usr/share/sounds/sf2/TimGM6mb.sf2",
}
# General MIDI level 1, programs 0–127 and the drums from note 35 on (MMA RP-003), as people
# would call what they hear.
PROGRAM_NAMES = (
    "grand piano|bright piano|electric grand piano|honky-tonk piano|electric piano|"
    "electric piano chorus|harpsichord|clavinet|celesta|glockenspiel|music box|vibraphone|"
    "marimba|xylophone|tubular bells|dulcimer|drawbar organ|percussive organ|rock organ|"
    "church organ|reed organ|accordion|harmonica|tango accordion|classical guitar|"
    "acoustic guitar|jazz guitar|electric guitar|muted guitar|overdriven guitar|"
    "distorted electric guitar|guitar harmonics|acoustic bass|electric bass|picked bass guitar|"
    "fretless bass|slap bass|slap bass guitar|synth bass|synthesizer bass|violin|viola|cello|"
    "double bass|tremolo strings|pizzicato strings|harp|timpani|string orchestra|"
    "slow strings|synth strings|synthesizer strings|choir|singing voices|synth voice|"
    "orchestra hit|trumpet|trombone|tuba|muted trumpet|french horn|brass section|synth brass|"
    "synthesizer brass|soprano saxophone|alto saxophone|tenor saxophone|baritone saxophone|"
    "oboe|english horn|bassoon|clarinet|piccolo|flute|recorder|pan flute|blown bottle|"
    "shakuhachi|whistling|ocarina|square wave synthesizer|sawtooth synthesizer|"
    "calliope|chiff synthesizer|charang|synthesizer voice|synthesizer fifths|"
    "synthesizer bass and lead|new age synthesizer|warm synthesizer pad|polyphonic synthesizer|"
    "choir pad|bowed glass|metallic pad|halo pad|sweep pad|rain synthesizer|soundtrack|crystal|"
    "atmosphere|brightness|goblins|echoes|science fiction music|sitar|banjo|shamisen|koto|"
    "kalimba|bagpipes|fiddle|shanai|tinkle bell|agogo bells|steel drums|woodblock|taiko drum|"
    "tom-tom drum|synth drum|reverse cymbal|guitar fret noise|breath|seashore waves|"
    "bird tweeting|telephone ringing|helicopter|applause|gunshot"
)
DRUM_NAMES = (
    "bass drum|kick drum|side stick|snare drum|hand clap|electric snare drum|low floor tom|"
    "closed hi-hat|high floor tom|pedal hi-hat|low tom|open hi-hat|low-mid tom|high-mid tom|"
    "crash cymbal|high tom|ride cymbal|chinese cymbal|ride bell|tambourine|splash cymbal|"
    "cowbell|crash cymbal|vibraslap|ride cymbal|high bongo|low bongo|muted conga|conga|low conga|"
    "high timbale|low timbale|high agogo|low agogo|cabasa|maracas|short whistle|long whistle|"
    "short guiro|long guiro|claves|high woodblock|low woodblock|muted cuica|cuica|"
    "muted triangle|triangle"
)
PROGRAMS, DRUMS = (names.split("|") for names in (PROGRAM_NAMES, DRUM_NAMES))
EFFECT_FROM = 119  # programs that are noises rather than instruments
FAMILIES = {
    (0, 8): "piano", (16, 21): "organ", (24, 32): "guitar", (32, 40): "bass guitar",
    (40, 44): "string instrument", (48, 52): "orchestra", (56, 64): "brass instrument",
    (64, 68): "saxophone", (68, 80): "woodwind instrument", (80, 104): "synthesizer music",
    (104, 112): "folk instrument", (112, 119): "percussion",
}  # fmt: skip
VOICES = (
    ("en+m1", "a man speaking"), ("en+m3", "a man talking"), ("en-us+m7", "a man reading aloud"),
    ("en+f2", "a woman speaking"), ("en-us+f3", "a woman talking"), ("en+f5", "a woman reading"),
    ("en+whisper", "whispering"), ("en+croak", "a hoarse voice"),
)  # fmt: skip


def sound_tables(packages: Path, folder: Path) -> dict[str, list[Named]]:
    """Make all of them below ``folder``; return them with what they are."""
    folder.mkdir(parents=True, exist_ok=True)
    return {
        "instruments": instruments(packages, folder / "instruments"),
        "speech": speech(folder / "speech"),
        "tones": tones(folder / "tones"),
    }


# ---- instruments -----------------------------------------------------------------------------


def instruments(packages: Path, folder: Path, takes: int = 5) -> list[Named]:
    """Play every instrument of two soundfonts several times, and every drum twice."""
    folder.mkdir(exist_ok=True)
    jobs = []
    for font, place in SOUNDFONTS.items():
        for program, name in enumerate(PROGRAMS):
            for take in range(takes):
                called = [name, f"the sound of a {name}", f"{name} music", name]
                for (first, last), family in FAMILIES.items():
                    if first <= program < last and take == 4:
                        called = [family]
                if program >= EFFECT_FROM:
                    called = [name]
                jobs.append(
                    (
                        packages / place,
                        folder / f"{font}-{program:03}-{take}.wav",
                        tune(program, np.random.default_rng((program, take))),
                        called[take % len(called)],
                    )
                )
        for number, name in enumerate(DRUMS):
            jobs.append(
                (
                    packages / place,
                    folder / f"{font}-drum-{number:02}.wav",
                    beat(35 + number, np.random.default_rng(number)),
                    name,
                )
            )
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda job: play(*job[:3]), jobs))
    return [(path, name) for _, path, _, name in jobs]


def tune(program: int, rng: np.random.Generator) -> bytes:
    """Return the events of a few random notes: a melody, or chords."""
    events = bytes([0, 0xC0, program])
    base = int(rng.integers(43, 72))
    scale = np.array([0, 2, 4, 7, 9, 12])  # pentatonic: any order sounds like music
    for _ in range(int(rng.integers(2, 7))):
        chord = rng.choice(scale, int(rng.choice([1, 1, 1, 3])), replace=False) + base
        length = int(rng.integers(50, 200))
        for note in chord:
            events += bytes([0, 0x90, int(note), int(rng.integers(70, 120))])
        for place, note in enumerate(chord):
            events += (variable(length) if not place else b"\0") + bytes([0x80, int(note), 0])
    return events


def beat(note: int, rng: np.random.Generator) -> bytes:
    """Return the events of a drum that is struck some times."""
    events = b""
    for _ in range(int(rng.integers(2, 6))):
        events += bytes([0, 0x99, note, int(rng.integers(80, 120))])
        events += variable(int(rng.integers(40, 120))) + bytes([0x89, note, 0])
    return events


def variable(number: int) -> bytes:
    """Return a number as MIDI files write durations: seven bits a byte."""
    last = bytes([number & 0x7F])
    return bytes([0x80 | number >> 7]) + last if number > 0x7F else last


def play(font: Path, target: Path, events: bytes) -> None:
    """Write what a soundfont makes of events: mono, at most 4 s."""
    if target.exists():
        return
    track = events + bytes([0x60, 0xFF, 0x2F, 0])  # a little silence, and the end
    score = target.with_suffix(".mid")
    score.write_bytes(
        b"MThd"
        + struct.pack(">IHHH", 6, 0, 1, 200)
        + b"MTrk"
        + struct.pack(">I", len(track))
        + track
    )
    raw = target.with_suffix(".raw.wav")
    subprocess.run(
        ["fluidsynth", "-niq", "-r", str(RATE), "-g", "0.6", "-F", str(raw), str(font), str(score)],
        check=True,
        capture_output=True,
    )
    samples, _ = soundfile.read(raw, dtype="float32", always_2d=True)
    save(target, samples.mean(axis=1)[: 4 * RATE])
    score.unlink()
    raw.unlink()


def save(target: Path, samples: NDArray[np.floating]) -> None:
    partial = target.with_suffix(".partial.wav")
    soundfile.write(partial, samples, RATE)
    partial.replace(target)


# ---- speech ----------------------------------------------------------------------------------

SENTENCES = (
    "The weather will be fine tomorrow morning.", "Where did you put my keys?",
    "Once upon a time there was a small house near the river.", "Please turn left at the bridge.",
    "One, two, three, four, five, six, seven.", "I would like a cup of tea, please.",
    "This is the news at nine o'clock.", "Welcome to the museum.", "Hello! How are you today?",
    "The train to the coast leaves in ten minutes.", "We have never seen anything like it.",
    "She sells sea shells by the sea shore.",
)  # fmt: skip


def speech(folder: Path) -> list[Named]:
    """Speak sentences in several voices."""
    folder.mkdir(exist_ok=True)
    found = []
    for number, sentence in enumerate(SENTENCES):
        for voice, name in VOICES:
            path = folder / f"espeak-{voice}-{number}.wav"
            speed = str(130 + 10 * (number % 6))
            speak(path, ["espeak-ng", "-v", voice, "-s", speed, "-w", "{}", sentence])
            found.append((path, name))
        for voice, name in (("slt", "a woman speaking"), ("rms", "a man speaking")):
            path = folder / f"flite-{voice}-{number}.wav"
            speak(path, ["flite", "-voice", voice, "-t", sentence, "-o", "{}"])
            found.append((path, "speech" if number % 3 == 0 else name))
    return found


def speak(target: Path, command: Sequence[str]) -> None:
    if not target.exists():
        partial = target.with_suffix(".partial.wav")
        words = [str(partial) if word == "{}" else word for word in command]
        subprocess.run(words, check=True, capture_output=True)
        partial.replace(target)


# ---- tones and noises ------------------------------------------------------------------------


def tones(folder: Path, takes: int = 8) -> list[Named]:
    """Write sounds that formulas make."""
    folder.mkdir(exist_ok=True)
    found = []
    for name, make in FORMULAS.items():
        for take in range(takes):
            path = folder / f"{name.replace(' ', '-')}-{take}.wav"
            if not path.exists():
                rng = np.random.default_rng((take, len(name)))
                time = np.arange(int(RATE * rng.uniform(1, 3))) / RATE
                made = make(time, rng)
                save(path, made / max(1e-6, np.abs(made).max()) * rng.uniform(0.2, 0.8))
            found.append((path, name))
    return found


def _sine(time: NDArray[np.floating], hertz: NDArray[np.floating] | float) -> NDArray[np.floating]:
    steps = np.broadcast_to(np.asarray(hertz, float), time.shape)
    return np.sin(2 * np.pi * np.cumsum(steps) / RATE)


def _smooth(noise: NDArray[np.floating], samples: int) -> NDArray[np.floating]:
    return np.convolve(noise, np.ones(samples) / samples, mode="same")


Formula = Callable[[NDArray[np.floating], np.random.Generator], NDArray[np.floating]]
FORMULAS: dict[str, Formula] = {
    "beep": lambda t, r: _sine(t, r.uniform(400, 2000)) * (t % 0.5 < 0.25),
    "sine wave tone": lambda t, r: _sine(t, r.uniform(100, 2000)),
    "siren": lambda t, r: _sine(t, 700 + 300 * np.sin(2 * np.pi * t * r.uniform(0.3, 1.5))),
    "white noise": lambda t, r: r.standard_normal(len(t)),
    "static": lambda t, r: r.standard_normal(len(t)) * (r.random(len(t)) < 0.2),
    "wind": lambda t, r: _smooth(r.standard_normal(len(t)), 30) * (1.2 + np.sin(2 * t)),
    "rumble": lambda t, r: _smooth(r.standard_normal(len(t)), 150),
    "clock ticking": lambda t, r: r.standard_normal(len(t)) * (t % 0.5 < 0.01),
    "buzzing": lambda t, r: np.sign(_sine(t, r.uniform(80, 200))),
    "rising tone": lambda t, r: _sine(t, 200 + 600 * t * r.uniform(0.5, 1.5)),
    "falling tone": lambda t, r: _sine(t, np.maximum(60, 1500 - 500 * t * r.uniform(0.5, 1.5))),
    "heartbeat": lambda t, r: _sine(t, r.uniform(50, 70)) * (np.abs(t % 0.9 - 0.2) % 0.2 < 0.1),
    "engine": lambda t, r: np.sign(_sine(t, r.uniform(30, 70))) + _sine(t, r.uniform(90, 140)) / 2,
    "silence": lambda t, r: r.standard_normal(len(t)) * 1e-4,
}
