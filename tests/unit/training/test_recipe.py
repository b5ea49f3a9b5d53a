import dataclasses
import json
import re
from pathlib import Path

import pytest

from muomni_search.errors import InvalidInput, NotFound, UnreadableFile
from muomni_search.training.recipe import (
    Augmentation,
    Distillation,
    Loss,
    Optimiser,
    Recipe,
    Table,
    read_recipe,
)
from muomni_search.training.towers import KINDS

GUIDE = Path(__file__).parents[3] / "docs/how-to/train.md"


def test_what_a_recipe_leaves_out_has_its_default(write_recipe):
    recipe = read_recipe(write_recipe())
    assert (recipe.optimiser.batch, recipe.optimiser.clip) == (8, 1.0)
    assert recipe.data[0].share == 1.0
    assert recipe.distillation is None
    assert set(recipe.towers) == {"text", "image", "audio"}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("steps = 4", "stpes = 4", r"optimiser: unknown key 'stpes': there are steps, batch"),
        ("steps = 4", "steps = 0", r"optimiser: steps is 0, not from 1 to inf"),
        ("steps = 4", "steps = 1.5", r"optimiser: steps is 1.5, no whole number"),
        ("steps = 4", "steps = true", r"optimiser: steps is True, no whole number"),
        ("seconds = 0.2", "shift = 1.5", r"augmentation: shift is 1.5, not from 0 to 1"),
        ("warm_up = 2", "learning_rate = nan", r"optimiser: learning_rate is nan, not from"),
        ("held_out = 0.25", "held_out = 0.9", r"held_out is 0.9, not from 0 to 0.5"),
        ("held_out = 0.25", "freeze = [1]", r"freeze is \[1\], no list of texts"),
        ("held_out = 0.25", 'seed = "one"', r"seed is 'one', no whole number"),
        ("held_out = 0.25", "seed = 5000000000", r"seed is 5000000000, not from 0 to 2147483647"),
        ('name = "toy"', "name = 7", r"name is 7, no text: put it in quotes"),
        ('name = "toy"', "", r"name is missing"),
        ("[towers.audio]", "[towers.smell]", r"there is no tower 'smell': towers are text"),
        ('data = [{ path = "pairs.jsonl" }]', "", r"data names no table"),
        ('path = "pairs.jsonl"', 'paht = "pairs.jsonl"', r"data\[0\]: unknown key 'paht'"),
        ('path = "pairs.jsonl"', 'path = "pairs.jsonl", share = 0', r"data\[0\]: share is 0"),
    ],
)
def test_what_no_recipe_says_is_refused_by_its_key(write_recipe, old, new, said):
    path = write_recipe((old, new))
    with pytest.raises(InvalidInput) as error:
        read_recipe(path)
    where, _, what = str(error.value).partition(str(path))  # whose name is that of the test
    assert (where, bool(re.search(said, what))) == ("", True), what


def test_a_recipe_without_anything_to_learn_is_refused(write_recipe):
    with pytest.raises(InvalidInput, match="nothing to learn"):
        read_recipe(write_recipe(more="[loss]\ncontrastive = 0\n"))


def test_a_teacher_reads_only_what_there_is(write_recipe):
    with pytest.raises(InvalidInput, match=r"reads is \['smell'\]"):
        read_recipe(write_recipe(more='[distillation]\nteacher = "base"\nreads = ["smell"]\n'))


def test_a_table_that_is_not_there_is_named(write_recipe):
    with pytest.raises(NotFound, match=r"names the table .*elsewhere\.csv"):
        read_recipe(write_recipe(("pairs.jsonl", "elsewhere.csv")))


def test_no_toml_and_no_file_are_told_apart(tmp_path: Path):
    with pytest.raises(NotFound, match="no such file"):
        read_recipe(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("name = ", encoding="utf-8")
    with pytest.raises(UnreadableFile, match=r"bad\.toml is no recipe"):
        read_recipe(tmp_path / "bad.toml")


def test_only_what_decides_the_weights_is_in_the_digest(write_recipe):
    first = read_recipe(write_recipe()).digest()
    renamed = read_recipe(write_recipe(('name = "toy"', 'name = "other"\nnotes = "new"'))).digest()
    longer = read_recipe(write_recipe(("steps = 4", "steps = 5"))).digest()
    assert first == renamed
    assert first != longer


def test_the_guide_lists_every_key_with_its_default():
    sections = {
        "": Recipe,
        "data.": Table,
        "distillation.": Distillation,
        "loss.": Loss,
        "optimiser.": Optimiser,
        "augmentation.": Augmentation,
        **{f"towers.{modality}.": kind for modality, kind in KINDS.items()},
    }
    guide = GUIDE.read_text(encoding="utf-8")
    for section, kind in sections.items():
        for one in dataclasses.fields(kind):
            if one.name in {"towers", "folder"} or (
                one.name != "data" and f"{one.name}." in sections
            ):
                continue
            if one.default is dataclasses.MISSING:
                default = "must be given"
            elif isinstance(one.default, float):
                default = f"`{one.default:g}`"
            else:
                value = list(one.default) if isinstance(one.default, tuple) else one.default
                default = f"`{json.dumps(value)}`"
            assert f"| `{section}{one.name}` | {default} | " in guide
