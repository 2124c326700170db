"""Values as JSON can hold them: one rule for records, tables, reports and the command line."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pvae.evaluate import Estimate
from pvae.json_values import finite_or_none, is_plain, json_value, without_numpy


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (3, 3),
        ("a", "a"),
        (0.5, 0.5),
        (math.nan, None),
        (-math.inf, None),
        (np.float64(math.inf), None),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.array([1.0, math.nan]), [1.0, None]),
        (torch.tensor([[1, 2]]), [[1, 2]]),
        (torch.tensor(math.nan), None),
        ((1, (2.0, math.inf)), [1, [2.0, None]]),
        (frozenset({1}), [1]),
        (Path("/a/b"), "/a/b"),
        ({1: Path("a"), "b": (np.float32(0.5),)}, {"1": "a", "b": [0.5]}),
        (Estimate(1.0, math.nan, 1), {"value": 1.0, "error": None, "count": 1}),
        ([Estimate(1.0, 0.5, 2)], [{"value": 1.0, "error": 0.5, "count": 2}]),
    ],
)
def test_a_value_as_json_holds_it(value: Any, expected: Any) -> None:
    found = json_value(value)
    assert found == expected and type(found) is type(expected)
    assert json.loads(json.dumps(found, allow_nan=False)) == expected


def test_other_objects_need_a_default() -> None:
    with pytest.raises(TypeError, match="Fraction has no JSON form"):
        json_value({"a": [Fraction(1, 2)]})
    assert json_value({"a": [Fraction(1, 2)]}, str) == {"a": ["1/2"]}
    with pytest.raises(TypeError, match="type has no JSON form"):
        json_value(Estimate)


def test_plain_values_are_those_that_any_format_holds() -> None:
    assert all(map(is_plain, (None, "a", True, 1, 0.5, (1, ["a", None]), {"a": {"b": 1}})))
    assert not any(map(is_plain, (Fraction(1, 2), {1: 1}, {"a": Fraction(1, 2)}, (1, Fraction(1, 2)), torch.tensor(1))))
    held = without_numpy((np.int64(2), [np.float64(0.5), np.bool_(True)], "a"))
    assert held == (2, [0.5, True], "a")
    assert [type(entry) for entry in (held[0], *held[1])] == [int, float, bool]
    assert finite_or_none(math.inf) is None and finite_or_none(2) == 2.0
