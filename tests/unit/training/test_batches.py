import numpy as np
import pytest
import torch
from torch.nn import functional

from muomni_search.errors import InvalidInput
from muomni_search.items import Modality
from muomni_search.training import examples as prepared
from muomni_search.training.batches import (
    Ahead,
    Batches,
    _colours,
    _grid,
    _places,
    alter_pictures,
    alter_sounds,
    apportion,
    mask_bands,
    part_of,
)
from muomni_search.training.recipe import Augmentation, read_recipe


@pytest.fixture
def batches(write_recipe, tmp_path):
    recipe = read_recipe(write_recipe())
    prepared.prepare(recipe, tmp_path, size=32, teacher=None, step=lambda *_: None)
    examples = prepared.load(tmp_path)
    return Batches(recipe, examples, lambda text: np.arange(2, 2 + len(text.split()))), examples


def test_each_table_gives_all_of_its_own_before_it_begins_again(batches):
    draws, examples = batches
    learned = np.flatnonzero(~examples.is_held_out)
    drawn = np.concatenate([draws.rows(step) for step in range(len(learned))])
    counts = np.bincount(drawn, minlength=len(examples.groups))
    assert (counts[learned] == 8).all()
    assert (counts[examples.is_held_out] == 0).all()


def test_a_step_is_a_function_of_its_number(batches):
    draws, _ = batches
    for step in (0, 5):
        first, again = draws.draw(step), draws.draw(step)
        assert first.keys() == again.keys()
        for modality in first:
            assert np.array_equal(first[modality].rows, again[modality].rows)
            pairs = zip(first[modality].tensors, again[modality].tensors, strict=True)
            assert all(torch.equal(one, other) for one, other in pairs)
    assert not np.array_equal(draws.rows(0), draws.rows(1))


def test_texts_are_padded_behind_their_lengths(batches):
    draws, examples = batches
    ids, lengths = draws.inputs(np.arange(4))[Modality.TEXT].tensors
    words = [len(examples.texts[number].split()) for number in range(4)]
    assert lengths.tolist() == [1 + count for count in words]
    assert (ids[:, 0] == 1).all()


def test_shares_become_whole_numbers():
    assert apportion(10, np.array([0.5, 0.3, 0.2])) == [5, 3, 2]
    assert apportion(7, np.array([1.0, 1.0])) == [4, 3]
    assert apportion(4, np.array([1.0, 0.001]))[1] == 1
    assert apportion(4, np.array([1.0, 1.0, 1000.0])) == [1, 1, 2]
    assert apportion(9, np.array([0.001, 4.0, 0.001, 0.001, 4.0])) == [1, 3, 1, 1, 3]


def test_more_tables_than_a_batch_has_room_for_are_refused():
    with pytest.raises(InvalidInput, match="a batch of 2 has no room for 3 tables"):
        apportion(2, np.ones(3))


def test_unaltered_pictures_have_white_behind_what_is_transparent():
    picture = torch.zeros(1, 4, 4, 4, dtype=torch.uint8)
    picture[0, :2, :, 3] = 255  # the upper half is black, the lower nothing
    pixels = alter_pictures(picture, Augmentation(), None)
    assert pixels.shape == (1, 3, 4, 4)
    assert (pixels[0, :, :2] == 0).all()
    assert (pixels[0, :, 2:] == 1).all()


def test_nothing_is_altered_when_everything_is_zero(rng):
    picture = torch.from_numpy(rng.integers(0, 255, (2, 16, 16, 4), dtype=np.uint8))
    still = Augmentation(crop=0, turn=0, mirror=0, colour=0, grey=0, background=0)
    altered = alter_pictures(picture, still, np.random.default_rng(0))
    assert torch.allclose(altered, alter_pictures(picture, still, None), atol=1e-5)


def test_colours_come_behind_what_is_transparent_and_nowhere_else():
    pictures = torch.zeros(40, 4, 4, 4, dtype=torch.uint8)
    pictures[:, :2, :, 3] = 255  # the upper half is black, the lower nothing
    how = Augmentation(crop=0, turn=0, mirror=0, colour=0, grey=0, background=0.5)
    pixels = alter_pictures(pictures, how, np.random.default_rng(0)).numpy()
    assert np.abs(pixels[:, :, :2]).max() < 1e-5
    behind = pixels[:, :, 2:]
    assert np.abs(behind - behind[:, :, :1, :1]).max() < 1e-5
    white = (behind > 1 - 1e-5).all(axis=(1, 2, 3))
    assert 10 <= white.sum() <= 30
    seen = behind[~white, :, 0, 0]
    assert (seen.std(axis=0) > 0.2).all()
    assert np.abs(seen - seen.mean(axis=1, keepdims=True)).max() > 0.2  # not only greys


def test_altered_pictures_stay_pictures_and_differ(rng):
    picture = torch.from_numpy(rng.integers(0, 255, (3, 16, 16, 4), dtype=np.uint8))
    altered = alter_pictures(picture, Augmentation(), np.random.default_rng(0))
    assert 0 <= float(altered.min()) <= float(altered.max()) <= 1
    assert float((altered - alter_pictures(picture, Augmentation(), None)).abs().mean()) > 0.05


def test_places_are_those_of_affine_grid():
    maps = _places(3, Augmentation(), np.random.default_rng(0))
    wanted = functional.affine_grid(maps, [3, 3, 6, 9], align_corners=False)
    assert torch.allclose(_grid(maps, 6, 9), wanted, atol=1e-6)


def test_colours_change_one_after_another():
    pixels = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    how = Augmentation(colour=0.4, grey=0.5)
    rng = np.random.default_rng(3)
    brightness, contrast, saturation = (rng.uniform(0.6, 1.4, (5, 1, 1, 1)) for _ in range(3))
    saturation[rng.random(5) < how.grey] = 0
    wanted = pixels.double().numpy() * brightness
    middle = wanted.mean(axis=(1, 2, 3), keepdims=True)
    wanted = middle + (wanted - middle) * contrast
    grey = np.tensordot(wanted, [0.299, 0.587, 0.114], axes=([1], [0]))[:, None]
    wanted = np.clip(grey + (wanted - grey) * saturation, 0, 1)
    found = _colours(pixels, how, np.random.default_rng(3)).numpy()
    assert np.abs(found - wanted).max() < 1e-5


def test_parts_of_sounds(rng):
    wave = np.arange(10, dtype=np.float32)
    assert part_of(wave, 4, None).tolist() == [0, 1, 2, 3]
    assert part_of(wave[:3], 7, None).tolist() == [0, 1, 2, 0, 1, 2, 0]
    part = part_of(wave, 4, rng)
    assert (np.diff(part) == 1).all()
    assert part_of(wave[:0], 3, rng).tolist() == [0, 0, 0]


def test_a_part_of_a_sound_begins_anywhere(rng):
    wave = np.arange(10, dtype=np.float32)
    assert {part_of(wave, 4, rng)[0] for _ in range(200)} == set(range(7))
    # So does a shorter one that is repeated, which keeps its order but where its end is.
    parts = [part_of(wave[:3], 7, rng).tolist() for _ in range(200)]
    assert {tuple(part) for part in parts} == {
        tuple(np.roll([0, 1, 2, 0, 1, 2, 0], shift)) for shift in range(7)
    }


def test_sounds_are_moved_in_time_within_their_share_and_nothing_of_them_is_lost(rng):
    waves = torch.arange(10.0).expand(400, 10)
    how = Augmentation(gain=0, noise=0, shift=0.3)
    moved = alter_sounds(waves, how, rng)
    turned = {move: np.roll(np.arange(10), move).tolist() for move in range(-3, 4)}
    assert {tuple(one) for one in moved.tolist()} == {tuple(one) for one in turned.values()}
    again = alter_sounds(waves, how, np.random.default_rng(5))
    assert torch.equal(again, alter_sounds(waves, how, np.random.default_rng(5)))
    assert torch.equal(waves, torch.arange(10.0).expand(400, 10))
    assert torch.equal(alter_sounds(waves, Augmentation(gain=0, noise=0), rng), waves)


def test_sounds_become_louder_and_softer_within_their_decibels(rng):
    wave = rng.standard_normal(100).astype(np.float32)
    how = Augmentation(gain=6, noise=0)
    ratios = alter_sounds(torch.from_numpy(np.tile(wave, (200, 1))), how, rng).numpy() / wave
    assert np.abs(ratios - ratios[:, :1]).max() < 1e-5
    decibels = 20 * np.log10(ratios[:, 0])
    assert -6 <= decibels.min() < -5
    assert 5 < decibels.max() <= 6


def test_noise_is_in_proportion_to_a_sound_and_new_each_time(rng):
    how = Augmentation(gain=0, noise=0.5)
    for loudness in (0.01, 1.0):
        wave = loudness * np.sin(np.arange(4_000, dtype=np.float32))
        waves = torch.from_numpy(np.tile(wave, (100, 1)))
        noises = (alter_sounds(waves, how, rng) - waves).numpy()
        levels = np.sqrt(np.mean(noises**2, axis=1) / np.mean(wave**2))
        assert levels.min() < 0.1
        assert 0.4 < levels.max() < 0.55
        assert np.abs(np.corrcoef(noises)[np.triu_indices(100, 1)]).max() < 0.1
    assert not alter_sounds(torch.zeros(1, 9), how, rng).any()


STILL = ("crop", "turn", "mirror", "colour", "grey", "background", "mix", "gain", "noise", "mask")


@pytest.mark.parametrize(
    ("altered", "by"),
    [
        ("", {}),
        ("image", {"crop": 0.5}),
        ("image", {"turn": 90}),
        ("image", {"mirror": 1}),
        ("image", {"colour": 0.5}),
        ("image", {"grey": 1}),
        ("image", {"mix": 1}),
        ("audio", {"gain": 20}),
        ("audio", {"noise": 0.5}),
        ("audio", {"mask": 0.5}),
        ("audio", {"seconds": 0.1}),
        ("audio", {"shift": 0.5}),
    ],
)
def test_each_alteration_is_in_a_step_and_in_no_measurement(write_recipe, tmp_path, altered, by):
    said = {**dict.fromkeys(STILL, 0), "seconds": 0.3, **by}  # the sounds are as long
    lines = "\n".join(f"{name} = {value}" for name, value in said.items())
    recipe = read_recipe(write_recipe(("seconds = 0.2", lines)))
    prepared.prepare(recipe, tmp_path, size=32, teacher=None, step=lambda *_: None)
    draws = Batches(recipe, prepared.load(tmp_path), lambda _: np.zeros(1, np.int64))
    drawn, plain = draws.draw(0), draws.inputs(draws.rows(0))
    assert drawn.keys() == set(Modality)
    for modality, inputs in drawn.items():
        for one, other in zip(inputs.tensors, plain[modality].tensors, strict=True):
            is_same = torch.allclose(one.float(), other.float(), rtol=1e-3, atol=1e-4)
            assert is_same == (modality != altered), modality


def test_bands_are_silenced_and_no_more_than_asked_for(rng):
    mel = torch.ones(20, 40, 30)
    mask_bands(mel, 0.5, rng)
    silent = 1 - float(mel.mean())
    assert 0.1 < silent < 0.75
    untouched = torch.ones(2, 4, 4)
    mask_bands(untouched, 0.0, rng)
    assert bool(untouched.all())


def test_another_picture_shows_through_and_no_stronger_than_the_first():
    pictures = torch.zeros(60, 4, 4, 4, dtype=torch.uint8)
    pictures[:30, ..., :3] = 255  # half of them white, half black
    pictures[..., 3] = 255
    still = {"crop": 0, "turn": 0, "mirror": 0, "colour": 0, "grey": 0, "background": 0}
    mixed = alter_pictures(pictures, Augmentation(**still, mix=0.5), np.random.default_rng(0))
    values = mixed[:, 0, 0, 0]
    assert float((mixed - values[:, None, None, None]).abs().max()) < 1e-5
    assert bool((values[:30] >= 0.5).all())
    assert bool((values[30:] <= 0.5).all())
    shown = ((values > 0.01) & (values < 0.99)).sum()
    assert 5 <= int(shown) <= 25  # a half, of which a half by one of the same colour


def test_steps_are_drawn_ahead_and_come_in_any_order():
    drawn = []

    def draw(step):
        drawn.append(step)
        if step == 9:
            raise InvalidInput("no such step")
        return {step: None}

    ahead = Ahead(draw, 10)
    assert [ahead(step) for step in (0, 1, 2, 7)] == [{0: None}, {1: None}, {2: None}, {7: None}]
    assert ahead(8) == {8: None}
    with pytest.raises(InvalidInput, match="no such step"):
        ahead(9)
    assert drawn == [0, 1, 2, 3, 7, 8, 9]  # none behind the last


def test_no_more_of_a_long_text_is_kept_than_is_read(write_recipe, tmp_path):
    recipe = read_recipe(write_recipe())
    prepared.prepare(recipe, tmp_path, size=32, teacher=None, step=lambda *_: None)
    draws = Batches(recipe, prepared.load(tmp_path), lambda _: np.zeros(100_000, np.int64))
    ids, lengths = draws.inputs(np.arange(4))[Modality.TEXT].tensors
    assert ids.shape == (4, 48)
    assert lengths.tolist() == [48] * 4
    assert draws._ids(0).base is None
