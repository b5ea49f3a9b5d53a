"""Whether something relevant is there at all: the score that unrelated rows rarely reach."""

import math

import numpy as np
import pytest

from muomni_search.items import Modality
from muomni_search.ranking import (
    ALARM_ROWS,
    FALSE_ALARMS,
    SAMPLE_ROWS,
    UNKNOWN,
    Prior,
    background,
    fit_prior,
    prior_for,
)
from muomni_search.vectors import normalise


def directions(rng, count):
    return normalise(rng.standard_normal((count, 256)))


def test_of_queries_without_an_answer_one_in_ten_gives_an_alarm(rng):
    fitted = fit_prior({Modality.TEXT: directions(rng, 400), Modality.IMAGE: directions(rng, 400)})
    prior = prior_for(fitted, ["text"], Modality.IMAGE)
    sample = directions(rng, 400)
    alarms = 0
    for query in directions(rng, 1000):
        found = background(query, sample, prior)
        alarms += found.score(float((sample @ query).max())) >= found.alarm
    assert FALSE_ALARMS / 2 < alarms / 1000 < 2 * FALSE_ALARMS


def test_more_rows_need_a_higher_score_as_far_as_was_measured(rng):
    prior = Prior(0.0, 0.06, alarm=4.0, growth=0.5)
    query = directions(rng, 1)[0]
    alarms = [
        background(query, directions(rng, count), prior).alarm for count in (10, 50, 400, 1024)
    ]
    assert alarms[0] == alarms[1] == pytest.approx(4.0 + 0.5 * math.log(50 / ALARM_ROWS))
    assert alarms[2] == 4.0
    assert alarms[3] == pytest.approx(4.0 + 0.5 * math.log(SAMPLE_ROWS / ALARM_ROWS))


def test_what_is_of_the_same_thing_is_not_counted_as_unrelated(rng):
    rows = directions(rng, 60)
    labels = {Modality.TEXT: list(range(60)), Modality.IMAGE: list(range(60))}
    pairs = {Modality.TEXT: rows, Modality.IMAGE: rows}
    told = fit_prior(pairs, labels)["text"]["image"]
    untold = fit_prior(pairs)["text"]["image"]
    assert told["alarm"] < 5 < untold["alarm"]
    assert untold["growth"] >= 0


def test_where_all_is_of_the_same_thing_the_common_values_stand_in(rng):
    rows = {Modality.IMAGE: directions(rng, 30), Modality.AUDIO: directions(rng, 30)}
    told = fit_prior(rows, {Modality.IMAGE: ["dog"] * 30, Modality.AUDIO: ["cat"] * 30})
    assert Prior(**told["image"]["image"]) == UNKNOWN
    assert Prior(**told["image"]["audio"]) != UNKNOWN


def test_queries_to_which_all_is_related_are_left_out(rng):
    images, sounds = directions(rng, 20), directions(rng, 20)
    labels = ["dog"] * 10 + ["cat"] * 10
    told = fit_prior(
        {Modality.IMAGE: images, Modality.AUDIO: sounds},
        {Modality.IMAGE: labels, Modality.AUDIO: ["dog"] * 20},
    )
    cats = fit_prior(
        {Modality.IMAGE: images[10:], Modality.AUDIO: sounds},
        {Modality.IMAGE: ["cat"] * 10, Modality.AUDIO: ["dog"] * 20},
    )
    assert told["image"]["audio"] == cats["image"]["audio"]


@pytest.mark.parametrize("count", [2, 3, 8, 9])
def test_few_rows_have_a_finite_prior(rng, count):
    rows = {Modality.IMAGE: directions(rng, count), Modality.AUDIO: directions(rng, 2)}
    labels = {Modality.IMAGE: [*["dog"] * (count - 1), "cat"], Modality.AUDIO: ["dog", "cat"]}
    for told in (fit_prior(rows), fit_prior(rows, labels)):
        for one in (told[asking][asked] for asking in told for asked in told):
            assert all(map(math.isfinite, one.values()))


def test_a_model_that_knows_no_alarm_has_a_common_one():
    prior = prior_for({"text": {"image": {"median": 0.1, "scale": 0.2}}}, ["text"], Modality.IMAGE)
    assert prior == Prior(0.1, 0.2, UNKNOWN.alarm, UNKNOWN.growth)


def test_sums_take_the_mean_of_what_their_kinds_know():
    known = {
        kind: {"audio": {"median": 0.0, "scale": 0.1, "alarm": alarm, "growth": 0.2}}
        for kind, alarm in (("text", 4.0), ("image", 6.0))
    }
    assert prior_for(known, ["text", "image"], Modality.AUDIO).alarm == pytest.approx(5.0)
    assert np.isfinite(prior_for(known, ["id"], Modality.AUDIO).alarm)
