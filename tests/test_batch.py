"""Batch: named tensors, and every way in which arrays can be unfit to become one."""

import copy
import pickle

import numpy as np
import pytest
import torch

from pvae.batch import Batch, as_batch
from pvae.errors import InputError


def _one_line(error: pytest.ExceptionInfo[InputError]) -> str:
    text = str(error.value)
    assert "\n" not in text and len(text) < 300
    return text


def test_fields_are_reached_by_name_and_attribute():
    batch = Batch(x=torch.zeros(5, 3), y=torch.arange(5))
    assert batch.x is batch["x"] and batch.names == ("x", "y") and batch.size == 5 and len(batch) == 2
    assert dict(batch).keys() == {"x", "y"} and "c" not in batch
    with pytest.raises(AttributeError, match="no field 'c'; it has x, y"):
        _ = batch.c


def test_a_batch_is_frozen_and_replace_leaves_it_alone():
    batch = Batch(x=torch.zeros(5))
    with pytest.raises(AttributeError, match="frozen"):
        batch.x = torch.ones(5)
    assert batch.replace(y=torch.ones(5)).names == ("x", "y") and batch.names == ("x",)
    with pytest.raises(InputError, match="5 data and y has 4"):
        batch.replace(y=torch.ones(4))


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda b: pickle.loads(pickle.dumps(b))])
def test_a_batch_survives_copies_and_pickles(again):
    batch = Batch(x=torch.arange(4.0), y=torch.arange(4))
    other = again(batch)
    assert other.names == batch.names and all(torch.equal(other[k], batch[k]) for k in batch)


def test_take_by_slice_positions_and_mask_agree():
    batch = Batch(x=torch.arange(6.0).reshape(6, 1), y=torch.arange(6))
    for index in (slice(1, 3), [1, 2], torch.tensor([1, 2]), np.array([1, 2], dtype=np.int32), range(1, 3)):
        taken = batch.take(index)
        assert taken.y.tolist() == [1, 2] and taken.x.shape == (2, 1)
    assert batch.take(batch.y > 3).y.tolist() == [4, 5]
    assert batch.take(slice(0, 2)).x.data_ptr() == batch.x.data_ptr()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (np.float16, torch.float32), (np.float32, torch.float32), (np.float64, torch.float64),
        (np.longdouble, torch.float64), (np.uint8, torch.float32), (np.uint16, torch.float32),
        (np.int64, torch.float32), (bool, torch.float32), (">f8", torch.float64), (">i2", torch.float32),
    ],
)  # fmt: skip
def test_x_keeps_its_values_and_becomes_floating(given, expected):
    batch = as_batch(np.array([[0, 1], [1, 1]], dtype=given))
    assert batch.x.dtype == expected and batch.x.tolist() == [[0.0, 1.0], [1.0, 1.0]]


def test_labels_masks_and_indices_get_their_dtypes():
    batch = as_batch(
        {
            "x": np.ones((2, 3)),
            "y": np.array([1, 2], np.uint8),
            "mask": np.ones((2, 3), bool),
            "index": [4, 5],
        }
    )
    assert (batch.y.dtype, batch.mask.dtype, batch["index"].dtype) == (
        torch.int64,
        torch.float64,
        torch.int64,
    )
    assert as_batch((np.ones(2), np.array([0.5, 1], np.float32))).y.dtype == torch.float32


def test_arrays_that_torch_cannot_wrap_are_read_all_the_same():
    array = np.arange(6, dtype=np.float32).reshape(3, 2)
    array.flags.writeable = False
    assert as_batch(array).x.tolist() == array.tolist()
    assert as_batch(array[::-1]).x.tolist() == array[::-1].tolist()


def test_not_finite_values_are_counted_and_placed():
    x = torch.zeros(4, 3)
    x[1, 2], x[3, 0], x[3, 1] = torch.nan, torch.inf, -torch.inf
    with pytest.raises(InputError) as error:
        as_batch({"x": x})
    text = _one_line(error)
    assert "3 of 12" in text and "1 NaN, 2 infinite" in text and "[1, 2]" in text


@pytest.mark.parametrize(
    ("data", "facts"),
    [
        ((np.zeros((6, 2)), np.zeros(5)), ["x has 6 data", "y has 5"]),
        (np.zeros((0, 2)), ["no data"]),
        ({}, ["at least one field"]),
        (np.array(1.0), ["first dimension"]),
        (np.array([{}, None]), ["Python objects"]),
        (np.array(["a", "b"]), ["x needs numbers", "<U1"]),
        (np.zeros(2, complex), ["real numbers", "complex128"]),
        ({"x": np.zeros(2), "mask": np.array([0.5, 1])}, ["mask", "1 of 2"]),
        ({"x": np.zeros(2), "index": np.zeros(2)}, ["index needs integers"]),
        ({"x": np.zeros(2), "size": np.zeros(2)}, ["'size' cannot be the name of a field"]),
        ({"x": np.zeros(2), "two words": np.zeros(2)}, ["'two words' cannot be the name of a field"]),
        ({1: np.zeros(2)}, ["name of a field needs to be text"]),
        ("digits", ["got str"]),
        ([1.0, 2.0], ["got list"]),
    ],
)
def test_unfit_data_give_one_line(data, facts):
    with pytest.raises(InputError) as error:
        as_batch(data)
    text = _one_line(error)
    assert all(fact in text for fact in facts), text


# --- integers, booleans and masked values ---


def test_integers_and_booleans_stay_what_they_are_beside_x():
    kinds = {"int8": np.int8, "int32": np.int32, "int64": np.int64, "uint8": np.uint8, "seen": bool, "seen_mask": bool}
    batch = as_batch({"x": np.ones((2, 3)), "c": np.array([3, 4]), **{k: np.ones(2, v) for k, v in kinds.items()}})
    assert {name: batch[name].dtype for name in kinds} == {
        "int8": torch.int8, "int32": torch.int32, "int64": torch.int64, "uint8": torch.uint8, "seen": torch.bool,
        "seen_mask": torch.bool,
    }  # fmt: skip
    assert batch.c.dtype == torch.int64
    wide = as_batch({"x": np.ones(2), "id": np.array([1, 2**31 + 1], np.uint32)})
    assert wide["id"].tolist() == [1, 2**31 + 1] and wide.take([1])["id"].tolist() == [2**31 + 1]


def test_whole_numbers_in_x_keep_their_values():
    assert as_batch(np.arange(3) + 2**24).x.tolist() == [2**24, 2**24 + 1, 2**24 + 2]
    assert as_batch(torch.tensor([2**53, 1])).x.dtype == torch.float32  # a power of two is exact in float32
    for x in (np.array([2**53 + 1, 1]), torch.tensor([2**62 + 1])):
        with pytest.raises(InputError, match="x has whole numbers beyond 2"):
            as_batch(x)


def test_masked_values_and_numbers_beyond_int64_are_refused():
    masked = np.ma.masked_array([[1.0, -9999.0]], mask=[[False, True]])
    with pytest.raises(InputError, match=r"x is a masked array, and 1 of its 2 values are masked.*missing='mask'"):
        as_batch(masked)
    assert as_batch(np.ma.masked_array([[1.0, 2.0]])).x.tolist() == [[1.0, 2.0]]
    with pytest.raises(InputError, match=f"code has the whole number {2**64 - 1}"):
        as_batch({"x": np.ones(1), "code": np.array([2**64 - 1], np.uint64)})
