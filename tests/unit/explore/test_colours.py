"""What colours a point: groups of names, a scale of numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from muomni_search.errors import InvalidInput
from muomni_search.explore.colours import PALETTE, SCALE, Colours, colours_of
from muomni_search.items import Modality


def of(*values: Any) -> Colours:
    """Colour points by a field that has these values; None for a point without it."""
    metadata = [{} if value is None else {"f": value} for value in values]
    return colours_of("f", [Modality.TEXT] * len(values), metadata)


def named(colours: Colours) -> dict[str, int]:
    return {group.name: group.count for group in colours.groups}


def test_a_modality_has_the_same_colour_on_every_map() -> None:
    both = colours_of("modality", [Modality.TEXT, Modality.AUDIO], [{}, {}])
    alone = colours_of("modality", [Modality.AUDIO], [{}])
    assert [group.name for group in both.groups] == ["text", "audio"]
    assert both.groups[1].colour == alone.groups[0].colour
    assert both.groups[1].shape == alone.groups[0].shape
    assert both.group.tolist() == [0, 1]
    assert alone.group.tolist() == [0]


def test_names_become_groups_the_commonest_first_and_gaps_are_a_group() -> None:
    colours = of("b", "a", "b", None, "c")
    assert named(colours) == {"b": 2, "a": 1, "c": 1, "none": 1}
    assert colours.group.tolist() == [0, 1, 0, 3, 2]
    assert colours.scale is None
    assert len({group.colour for group in colours.groups}) == 4
    for number, group in enumerate(colours.groups):
        (ink,) = {tuple(one) for one in colours.rgb[colours.group == number].tolist()}
        assert "#{:02x}{:02x}{:02x}".format(*ink) == group.colour


def test_of_many_names_the_rarest_are_together() -> None:
    names = [f"n{number}" for number in range(20) for _ in range(20 - number)]
    groups = of(*names).groups
    assert [group.name for group in groups] == [*(f"n{n}" for n in range(len(PALETTE))), "other"]
    assert groups[-1].count == sum(20 - number for number in range(len(PALETTE), 20))


def test_values_of_other_types_are_told_as_json() -> None:
    assert set(named(of(True, ["a", "é"], 5, "5"))) == {"true", '["a", "é"]', "5"}
    assert set(named(of("", "  "))) == {"(empty)"}
    assert set(named(of("x" * 500))) == {"x" * 60 + "…"}


def test_a_value_that_is_called_as_a_group_of_ours_is_another_group() -> None:
    rest = [f"n{number}" for number in range(20)]
    colours = of("none", "none", "other", "other", "other", '"none"', '"none"', None, *rest)
    assert named(colours) == {
        '"other"': 3, '"none"': 2, '"none" (2)': 2,
        "n0": 1, "n1": 1, "n10": 1, "n11": 1, "other": 16, "none": 1,
    }  # fmt: skip
    assert len(set(named(of("(empty)", "")))) == 2
    assert [
        group.count for group in colours_of("none", [Modality.TEXT] * 2, [{"none": 1}, {}]).groups
    ] == [1, 1]
    assert len(named(colours_of("none", [Modality.TEXT] * 2, [{"none": 1}, {}]))) == 2


def test_values_that_begin_alike_are_groups_of_their_own() -> None:
    begun = "x" * 60
    assert named(of(begun + "a", begun + "b", begun + "b")) == {f"{begun}…": 2, f"{begun}… (2)": 1}


def test_numbers_become_a_scale() -> None:
    colours = of(10, 20.0, 30, None)
    assert (colours.scale.low, colours.scale.high) == (10, 30)  # type: ignore[union-attr]
    assert [group.count for group in colours.groups] == [3, 1]
    ends = ["#{:02x}{:02x}{:02x}".format(*one) for one in colours.rgb[[0, 2]].tolist()]
    assert ends == [SCALE[0], SCALE[-1]]
    assert colours.group.tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize("values", [(7, 7), (-1.7e308, 1.7e308), (0,)])
def test_any_numbers_have_a_scale(values: tuple[float, ...]) -> None:
    colours = of(*values)
    assert np.isfinite(colours.rgb).all()
    assert colours.scale is not None


def test_a_number_that_no_float_holds_is_a_name() -> None:
    assert of(10**400, 1).scale is None


def test_a_field_that_no_point_has_is_an_error_that_names_those_there_are() -> None:
    with pytest.raises(InvalidInput, match=r"no point has a field 'g'.*modality, folder, stem, f"):
        colours_of("g", [Modality.TEXT], [{"f": 1}])


def test_parts_of_keys_colour_where_no_metadata_has_their_name() -> None:
    keys = ["a/dog.jpg", "a/dog.txt", "cat.txt"]

    def groups(field: str, *metadata: dict[str, str]) -> dict[str, int]:
        found = colours_of(field, [Modality.TEXT] * 3, [*metadata, {}, {}, {}][:3], keys)
        return {group.name: group.count for group in found.groups}

    assert groups("folder") == {"a": 2, "none": 1}
    assert groups("stem") == {"a/dog": 2, "cat": 1}
    assert groups("folder", {"folder": "own"}) == {"own": 1, "none": 2}
    with pytest.raises(InvalidInput, match="no point has a field 'folder'"):
        colours_of("folder", [Modality.TEXT], [{}], ["cat.txt"])
