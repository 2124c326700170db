"""float64 in x: kept until a training casts it, refused where the cast would lose data, scaled on request."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import pvae
from pvae import evaluate
from pvae.data import Schema, load_data
from pvae.data.scaling import check_narrowing
from pvae.errors import InputError

RNG = np.random.default_rng(0)
METRES = RNG.normal(size=(300, 2)) * 0.05 + np.array([500000, 5400000])
WHOLE = {"validation": 0, "test": 0, "binarise": "none"}


def vae(features: int) -> pvae.VAE:
    torch.manual_seed(0)
    return pvae.VAE((features,), latent=1, hidden=4, likelihood="gaussian")


def test_x_keeps_float64_and_a_training_in_float32_refuses_what_it_would_merge() -> None:
    frame = pd.DataFrame(METRES, columns=["east", "north"])
    splits = load_data(frame, **WHOLE)
    assert len(splits.train.x[:, 1].unique()) == 300
    with pytest.raises(InputError, match=r"float32 is too coarse for the column 'east' of x.*standardise=True"):
        pvae.fit(vae(2), splits, epochs=1, step="eager", progress=False)
    scaled = load_data(frame, standardise=True, **WHOLE)
    run = pvae.fit(vae(2), scaled, epochs=1, step="eager", progress=False)
    assert run.config["data"]["schema"]["scaling"]["kind"] == "standardise"


def test_scaling_of_padded_sequences_gives_a_warning() -> None:
    x = RNG.normal(size=(4, 3, 2))
    with pytest.warns(UserWarning, match=r"padding after the ends of sequences \(lengths\) counts as data") as caught:
        load_data({"x": x, "lengths": np.array([3, 1, 2, 3])}, standardise=True, **WHOLE)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # neither complete sequences nor real numbers of another meaning
        load_data({"x": x, "lengths": np.array([3, 3, 3, 3])}, standardise=True, **WHOLE)
        load_data({"x": x, "lengths": np.array([1.5, 1.0, 2.0, 3.0])}, standardise=True, **WHOLE)


@pytest.mark.parametrize(
    ("values", "fine"),
    [
        (RNG.random(20000), True),
        (RNG.normal(size=20000) * 0.1 + 10, True),
        (RNG.standard_cauchy(20000), True),
        (np.exp(3 * RNG.normal(size=20000)), True),
        (np.full(300, 0.1), True),
        (METRES[:, 1], False),
        (np.r_[0.0, METRES[:, 1]], False),  # the range is wide, and all but one value merge
        (np.arange(80.0) + 2**25, False),
        (np.array([20240101.0, 20240102.0] * 50), False),
    ],
)
def test_a_cast_is_refused_where_it_merges_values_or_loses_a_millionth_of_their_range(
    values: np.ndarray, fine: bool
) -> None:
    batch = pvae.Batch(x=torch.from_numpy(values).unsqueeze(1))
    if fine:
        check_narrowing(batch, torch.float32)
    else:
        with pytest.raises(InputError, match="too coarse for the column number 0 of x"):
            check_narrowing(batch, torch.float32)
        check_narrowing(batch, torch.float64)


def test_zeros_in_place_of_missing_values_do_not_widen_the_range() -> None:
    mask = torch.ones(300, 2)
    mask[::2, 1] = 0
    x = torch.from_numpy(METRES) * mask
    with pytest.raises(InputError, match=r"number 1 of x, with values from 5399999\.8\d* to 5400000\.1"):
        check_narrowing(pvae.Batch(x=torch.stack([torch.zeros(300), x[:, 1]], 1), mask=mask), torch.float32)


def test_scaling_is_by_the_observed_training_data_and_undone_exactly() -> None:
    x = np.array([[1.0, 5.0, 2.0], [3.0, np.nan, 2.0], [8.0, 7.0, 2.0], [np.nan, 9.0, 2.0]])
    own = {"x": x, "x_test": x[:1] + 1}
    standard = load_data(own, missing="mask", standardise=True, validation=0, binarise="none")
    scaling = standard.schema.scaling
    assert scaling is not None and scaling.shift == (4.0, 7.0, 2.0)
    assert np.allclose(scaling.scale, [np.std([1, 3, 8]), np.std([5, 7, 9]), 1])
    assert standard.train.x[3, 0] == 0 and standard.train["mask"][3, 0] == 0
    assert torch.allclose(scaling.original(standard.test.x), torch.tensor([[2.0, 6.0, 3.0]], dtype=torch.float64))
    unit = load_data(own, missing="mask", scale="minmax", validation=0, binarise="none")
    assert unit.train.x[:, 0].tolist() == [0, 2 / 7, 1, 0] and unit.schema.scaling.scale == (7.0, 4.0, 1.0)
    assert unit.checksum != standard.checksum != load_data(own, missing="mask", validation=0).checksum
    for again in (lambda: unit.scaled("minmax"), lambda: load_data(own, scale="minmax", standardise=True)):
        with pytest.raises(InputError):
            again()


def test_pictures_are_scaled_pixel_by_pixel_in_their_shape() -> None:
    pictures = RNG.random((50, 3, 4, 5)) * 255
    splits = load_data(pictures, scale="minmax", **WHOLE)
    scaling = splits.schema.scaling
    assert splits.train.x.amin(0).abs().max() == 0 and (splits.train.x.amax(0) == 1).all()
    assert torch.allclose(scaling.original(splits.train.x), torch.from_numpy(pictures))
    flat = splits.train.x.reshape(2, 25, 60)
    assert torch.allclose(scaling.original(flat), torch.from_numpy(pictures).reshape(2, 25, 60))
    assert scaling.log_scale == pytest.approx(np.log(np.ptp(pictures, axis=0)).sum())


def test_a_schema_survives_its_record() -> None:
    frame = pd.DataFrame({"a": [0.1, 0.7, 3.0], "c": ["u", "v", "u"], "label": [5, 7, 5]})
    schema = load_data(frame, categories="c", standardise=True, **WHOLE).schema
    assert Schema.from_record(schema.to_record()) == schema and schema.classes == (5, 7)
    with pytest.raises(InputError, match="damaged"):
        Schema.from_record({"scaling": {"kind": "minmax"}})


# --- a run and the data that it is evaluated on

TABLE = pd.DataFrame(
    {"a": RNG.normal(size=200), "b": RNG.normal(size=200) * 20 + 5, "label": RNG.choice(["u", "v"], 200)}
)


@pytest.fixture(scope="module")
def run() -> pvae.Run:
    return pvae.fit(
        vae(2), load_data(TABLE, standardise=True, validation=0, test=0), epochs=2, step="eager", progress=False
    )


def value(run: pvae.Run, data: object) -> float:
    return evaluate.elbo(run, data, 20, split="train").value


def test_columns_are_put_in_the_order_of_the_training(run: pvae.Run) -> None:
    expected = value(run, load_data(TABLE, standardise=True, validation=0, test=0))
    assert value(run, TABLE) == value(run, TABLE[["label", "b", "a"]]) == expected
    assert value(run, load_data(TABLE[["b", "a"]], standardise=True, validation=0, test=0)) == pytest.approx(expected)
    assert value(run, TABLE[["a", "b"]].to_numpy()) == expected  # no names: by their place, scaled as in training
    scaled = run.config["data"]["schema"]["scaling"]
    by_hand = (TABLE[["a", "b"]].to_numpy() - scaled["shift"]) / scaled["scale"]
    assert value(run, pvae.Batch(x=torch.as_tensor(by_hand))) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda frame: frame.rename(columns={"b": "c"}), "'b' is missing; 'c' was not in training. Needed are a, b"),
        (lambda frame: frame.assign(c=1.0), "'c' was not in training"),
        (lambda frame: frame.assign(label="z"), "'z' is not one of the labels of the training: u, v"),
        (lambda frame: frame.assign(b="w"), "'b' has text"),
    ],
)
def test_other_columns_and_labels_are_refused(run: pvae.Run, change: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        value(run, change(TABLE))  # type: ignore[operator]


def test_labels_get_the_numbers_of_the_training_in_splits_too(run: pvae.Run) -> None:
    only = load_data(TABLE[TABLE.label == "v"], validation=0, test=0)
    assert only.train.y.unique().tolist() == [0] and only.schema.classes == ("v",)
    again = load_data(only, like=load_data(TABLE, validation=0, test=0))
    assert again.train.y.unique().tolist() == [1] and again.classes == 2
    hidden = replace(only, train=only.train.replace(y=torch.full_like(only.train.y, -1)))
    assert load_data(hidden, like=load_data(TABLE, validation=0, test=0)).train.y.unique().tolist() == [-1]


def test_arviz_names_the_features(run: pvae.Run) -> None:
    tree = evaluate.to_arviz(run, load_data(TABLE, standardise=True, validation=0, test=0), 2, limit=3, split="train")
    assert list(tree["observed_data"]["x_dim_0"].values) == ["a", "b"]
    assert list(tree["prior_predictive"]["x_dim_0"].values) == ["a", "b"]


def test_data_in_float64_fit_the_queries_and_the_check_of_a_float32_model(run: pvae.Run) -> None:
    data = load_data(TABLE, standardise=True, validation=0, test=0)
    assert data.train.x.dtype == torch.float64
    for query in (pvae.models.reconstruct, pvae.models.sample):
        assert query(run.model, data.train).shape == (200, 2)
    assert pvae.models.encode(run.model, data.train)["z"].dtype == torch.float32
    assert not [finding for finding in pvae.check(run.model, data.train.take(slice(0, 20))) if finding.fatal]
