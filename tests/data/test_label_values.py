"""Labels of any kind become numbers from 0 on, and the original values are kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pvae.data import load_data
from pvae.data.label_values import _like, number_labels
from pvae.errors import InputError

X = np.zeros((6, 2))


def load(y: Any, **options: Any) -> Any:
    return load_data({"x": X, "y": y}, **{"validation": 0, "test": 0, "binarise": "none", **options})


@pytest.mark.parametrize(
    ("y", "numbers", "classes"),
    [
        (["b", "a", "c", "a", "b", "c"], [1, 0, 2, 0, 1, 2], ("a", "b", "c")),
        ([20240102, 20240101] * 3, [1, 0] * 3, (20240101, 20240102)),
        ([-1, 1] * 3, [0, 1] * 3, (-1, 1)),
        ([3, 1, 2, 3, 1, 2], [2, 0, 1, 2, 0, 1], (1, 2, 3)),
        ([[2], [1], [2], [1], [1], [1]], [1, 0, 1, 0, 0, 0], (1, 2)),
        ([True, False] * 3, [1, 0] * 3, (False, True)),
        ([-2, -1, 0, 1, 2, 2], [0, 1, 2, 3, 4, 4], (-2, -1, 0, 1, 2)),
        ([0, 7, 0, 7, 7, 7], [0, 1, 0, 1, 1, 1], (0, 7)),
        (np.eye(3)[[0, 2, 1, 0, 0, 0]], [0, 2, 1, 0, 0, 0], ()),
        ([0, 1, 2, 0, 1, 2], [0, 1, 2, 0, 1, 2], ()),
        ([0, 1, -1, 1, -1, -1], [0, 1, -1, 1, -1, -1], ()),
        ([0, 2, 0, 2, 3, 3], [0, 2, 0, 2, 3, 3], ()),
    ],
)
def test_labels_are_numbered_and_their_values_kept(y: Any, numbers: list[int], classes: tuple[Any, ...]) -> None:
    for given in (np.asarray(y), torch.as_tensor(np.asarray(y)) if not isinstance(y[0], str) else y):
        splits = load(given)
        assert splits.train.y.tolist() == numbers and splits.train.y.dtype == torch.int64
        assert splits.schema.classes == classes and splits.classes == (len(classes) or max(numbers) + 1)
        assert not classes or "labels are numbered from 0 on" in splits.notes[0]


def test_labels_of_a_tensor_stay_on_its_device() -> None:
    numbered = number_labels({"x": torch.zeros(2, 1), "y": torch.tensor([7, 3])})
    assert isinstance(numbered.fields["y"], torch.Tensor) and numbered.fields["y"].tolist() == [1, 0]
    meta = _like(torch.zeros(2, device="meta"), np.array([1, 0]))
    assert meta.device.type == "meta"


def test_minus_one_as_hidden_is_said_or_asked_about() -> None:
    assert "3 labels are -1, which means hidden" in load([0, 1, -1, 1, -1, -1]).notes[0]
    with pytest.raises(InputError, match="y has -1 and 1 to 3"):
        load([-1, 1, 2, 3, 1, 2])
    kept = load_data({"x": np.zeros((300, 2)), "y": np.array([-1, 1] * 150)}, labels=20, validation=0, test=0)
    assert torch.bincount(kept.train.y + 1).tolist() == [280, 10, 10]


def test_real_numbers_are_no_labels() -> None:
    y = np.array([0.5, 1, 2, 1, 1, 1])
    for given in (y, y.astype(np.float32), y[:, None], np.round(y)):
        splits = load(given)
        assert splits.train.y.is_floating_point() and splits.classes is None


def test_every_split_has_the_same_numbers() -> None:
    splits = load_data({"x": X, "y": list("abcabc"), "x_test": X[:2], "y_test": ["c", "b"]}, validation=0)
    assert splits.test.y.tolist() == [2, 1] and splits.schema.classes == ("a", "b", "c")
    again = load_data({"x": X, "y": list("cccccc")}, validation=0, test=0, like=splits)
    assert again.train.y.tolist() == [2] * 6 and again.classes == 3
    with pytest.raises(InputError, match="The label 'z' is not one of the labels of the training: a, b, c"):
        load_data({"x": X, "y": list("zccccc")}, like=splits)


def test_many_classes_are_warned_of() -> None:
    with pytest.warns(UserWarning, match="y has 1500 classes"):
        load_data({"x": np.zeros((1500, 1)), "y": np.arange(1500)}, validation=0, test=0)


def test_missing_labels_are_refused_or_hidden() -> None:
    y = np.array(["a", None, "b", "a", float("nan"), "b"], dtype=object)
    with pytest.raises(InputError, match="y has 2 missing labels, the first at 1"):
        load(y)
    assert load(y, missing="mask").train.y.tolist() == [0, -1, 1, 0, -1, 1]
    masked = np.ma.masked_array([0, 1, 9, 0, 1, 9], mask=[0, 0, 1, 0, 0, 1])
    assert load(masked, missing="mask").train.y.tolist() == [0, 1, -1, 0, 1, -1]
