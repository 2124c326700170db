"""Pictures of several digits: their number, places and splits."""

from __future__ import annotations

import numpy as np
import pytest
from stats import assert_close_in_sigmas

import pvae
from pvae.data import draw_multi_digits
from pvae.errors import InputError


def test_the_label_is_the_number_of_digits() -> None:
    """Digits of one bright pixel each at a corner of their picture: as many bright pixels as digits, in any place."""
    digit = np.zeros((1, 2, 3))
    digit[0, 0, 2] = 1.0
    x, y = draw_multi_digits(digit, 4000, side=6, most=3, seed=0)
    assert x.shape == (4000, 6, 6) and x.dtype == np.float32 and y.dtype == np.int64
    assert np.array_equal(x.sum((1, 2)), y)
    for number in range(4):
        assert_close_in_sigmas((y == number).mean(), 0.25, np.sqrt(0.25 * 0.75 / 4000), 4.5)
    alone = x[y == 1]
    assert (alone[:, 5].max(), alone[:, :, :2].max()) == (0, 0)  # a digit lies inside of the canvas
    share = alone.mean(0)[:5, 2:]
    assert np.abs(share - 1 / 20).max() < 4.5 * np.sqrt(1 / 20 / len(alone))


def test_digits_do_not_cover_each_other_and_the_seed_decides() -> None:
    x, y = draw_multi_digits(np.ones((1, 2, 2)), 300, side=6, seed=3)
    assert x.max() == 1 and np.array_equal(x.sum((1, 2)), 4 * y)
    again, other = (draw_multi_digits(np.ones((1, 2, 2)), 300, side=6, seed=seed)[0] for seed in (3, 4))
    assert np.array_equal(x, again) and not np.array_equal(x, other)


def test_the_named_set_has_its_own_test_split_of_other_digits() -> None:
    data = pvae.load_data("multi_digits")
    assert (data.train.size, data.validation.size, data.test.size) == (4500, 500, 1000)
    assert data.data_shape == (24, 24) and data.classes == 3
    digits = pvae.load_data("digits", validation=0, test=0).train.x
    assert data.train.x.unique().tolist() == digits.unique().tolist()
    sums = {float(total) for total in digits[1437:].sum(1)} | {0.0}
    assert {float(total) for total in data.test.x[data.test.y < 2].sum(1)} <= sums


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"digits": np.ones((2, 2))}, "digits needs pictures of shape"),
        ({"digits": np.full((1, 2, 2), 16.0)}, "values from 16 to 16"),
        ({"digits": np.full((1, 2, 2), np.nan)}, "digits needs pictures"),
        ({"side": 1}, "side needs to be at least 2"),
        ({"side": 3, "most": 4}, "have no free place"),
        ({"count": 0}, "count needs a whole number"),
        ({"most": 0}, "most needs a whole number"),
    ],
)
def test_unusable_arguments_are_refused_in_one_line(change, message) -> None:
    with pytest.raises(InputError, match=message) as refusal:
        draw_multi_digits(**{"digits": np.ones((1, 2, 2)), "count": 30, "side": 6, **change})
    assert "\n" not in str(refusal.value)
