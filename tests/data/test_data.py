"""Splits, binarisation and minibatches: exact recipes, and functions of the seed alone."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from pvae.batch import Batch
from pvae.data import Splits, catalogue, load_data, minibatches, permutation
from pvae.errors import InputError


@pytest.fixture(scope="module")
def digits() -> Splits:
    return load_data("digits")


@pytest.fixture(scope="module")
def mnist(mnist_folder: Path) -> Splits:
    return load_data("mnist", folder=mnist_folder)


def _numbered(size: int) -> np.ndarray:
    return np.arange(size, dtype=np.float32).reshape(size, 1)


def _values(splits: Splits) -> list[float]:
    return [v for part in splits.parts.values() if part is not None for v in part.x.flatten().tolist()]


# --- splits ---


def test_digits_are_the_images_of_scikit_learn_over_sixteen(digits):
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    every = {tuple(np.float32(row / 16).tolist()): int(label) for row, label in zip(images, labels, strict=True)}
    assert [part.size for part in digits.parts.values()] == [1294, 144, 359] and digits.data_shape == (8, 8)
    for part in digits.parts.values():
        assert part.x.dtype == torch.float32 and part.y.dtype == torch.int64 and part.x.shape[1:] == (64,)
        assert all(every[tuple(x.tolist())] == y for x, y in zip(part.x, part.y.tolist(), strict=True))


@pytest.mark.parametrize(
    ("validation", "test", "sizes"),
    [
        (None, None, (81, 9, 10)), (0, 0, (100, 0, 0)), (0.5, 0.2, (40, 40, 20)), (7, 0, (93, 7, 0)),
        (0.001, 1, (98, 1, 1)), (np.int64(3), np.float32(0.5), (47, 3, 50)), (0.0, None, (90, 0, 10)),
    ],
)  # fmt: skip
def test_splits_are_disjoint_cover_the_data_and_have_the_sizes_asked(validation, test, sizes):
    splits = load_data(_numbered(100), validation=validation, test=test)
    assert tuple(0 if part is None else part.size for part in splits.parts.values()) == sizes
    assert sorted(_values(splits)) == list(range(100))
    assert splits.train.x.flatten().tolist() == sorted(splits.train.x.flatten().tolist())


def test_splits_depend_on_the_seed_alone():
    first, again, other = (load_data(_numbered(100), seed=seed) for seed in (3, 3, 4))
    torch.manual_seed(99)
    assert _values(first) == _values(again) != _values(other)
    assert first.checksum == again.checksum != other.checksum


def test_the_checksum_sees_content_dtype_and_split_but_not_binarisation(digits):
    x = _numbered(20) / 20
    same = load_data(x).checksum
    changed = x.copy()
    changed[17] += 0.01
    assert load_data({"x": x}, binarise="static").checksum == same
    for other in (changed, x.astype(np.float64), (x, np.arange(20)), x.reshape(20, 1, 1)):
        assert load_data(other).checksum != same
    assert load_data(x, test=0).checksum != same and len(digits.checksum) == 64


def test_labels_travel_with_their_data():
    splits = load_data((_numbered(50), np.arange(50)))
    assert all(part.x.flatten().tolist() == part.y.tolist() for part in splits.parts.values())


def test_a_source_may_bring_its_own_splits():
    own = {"x": _numbered(20), "x_test": _numbered(5), "y": np.arange(20), "y_test": np.arange(5)}
    splits = load_data(own)
    assert splits.test.x.flatten().tolist() == splits.test.y.tolist() == list(range(5))
    assert (splits.train.size, splits.validation.size) == (18, 2)
    assert load_data(own, test=0).test is None
    with pytest.raises(InputError, match=r"its own test split of 5 data.*Got test=3"):
        load_data(own, test=3)


def test_splits_given_are_returned_as_they_are(digits):
    assert load_data(digits) is digits
    static = load_data(digits, binarise="static")
    assert static.binarise == "static" and load_data(static, binarise="static") is static
    with pytest.raises(InputError, match="binarised already"):
        load_data(static, binarise="dynamic")
    with pytest.raises(InputError, match="split already"):
        load_data(digits, validation=0.5)


def test_splits_survive_pickling_and_say_what_a_run_records(digits):
    again = pickle.loads(pickle.dumps(digits))
    assert torch.equal(again.train.x, digits.train.x)
    assert again.summary() == digits.summary() == {
        "name": "digits", "checksum": digits.checksum,
        "sizes": {"train": 1294, "validation": 144, "test": 359},
        "binarise": "auto", "seed": 0, "data_shape": [8, 8], "classes": 10,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        ({"validation": -1}, ["validation needs a fraction", "-1"]),
        ({"validation": 1.0}, ["validation needs a fraction", "1.0"]),
        ({"test": True}, ["test needs a fraction", "True"]),
        ({"test": "half"}, ["test needs a fraction", "'half'"]),
        ({"test": float("nan")}, ["test needs a fraction", "nan"]),
        ({"validation": 9}, ["validation would take 9 of the 9", "validation=0"]),
        ({"test": 99}, ["test would take 99 of the 10"]),
        ({"binarise": "statik"}, ["'statik'", "'static'"]),
        ({"binarise": "static"}, ["in [0, 1]", "8 values outside", "from 0 to 9"]),
        ({"binarise": "dynamic"}, ["in [0, 1]"]),
        ({"binarise": "threshold"}, ["in [0, 1]"]),
    ],
)
def test_unfit_settings_give_one_line(arguments, facts):
    given = {"test": 0, "validation": 0} if arguments.get("binarise") == "static" else {"test": 1}
    with pytest.raises(InputError) as error:
        load_data(_numbered(10), **{**given, **arguments})
    text = str(error.value)
    assert "\n" not in text and all(fact in text for fact in facts), text


@pytest.mark.parametrize(
    ("source", "facts"),
    [
        ("mnits", ["'mnits'", "'mnist'"]),
        ({"images": np.ones((5, 2))}, ["named x", "images"]),
        ({"x": np.ones((9, 2)), "x_test": np.ones((3, 4))}, ["x_test has shape (4,)", "(2,)"]),
        ({"x": np.ones((9, 2)), "x_test": np.ones((0, 2))}, ["test split", "no data"]),
        ({"x": np.ones((9, 2)), "y_test": np.ones(3)}, ["y_test but no x_test"]),
        ({"x": np.ones((9, 2)), "x_train": np.ones((9, 2))}, ["both 'x' and 'x_train'"]),
        ({"x": np.ones((9, 2)), "y": np.ones(8)}, ["x has 9 data", "y has 8"]),
        (np.full((4, 1), np.nan), ["4 of 4", "4 NaN", "[0, 0]"]),
        (np.ones((1, 3)), ["test would take 1 of the 1", "test=0"]),
        (3.5, ["got float"]),
        (None, ["got NoneType"]),
    ],
)
def test_unfit_sources_give_one_line(source, facts):
    with pytest.raises(InputError) as error:
        load_data(source)
    text = str(error.value)
    assert "\n" not in text and all(fact in text for fact in facts), text


# --- binarisation ---


def test_test_images_are_drawn_whole_by_the_published_recipe(digits):
    for how in ("static", "dynamic"):
        expected = torch.bernoulli(digits.test.x, generator=torch.Generator().manual_seed(0))
        assert torch.equal(load_data("digits", binarise=how).test.x, expected)


def test_static_draws_every_split_once_with_a_generator_of_its_own(digits):
    torch.manual_seed(5)
    first = digits.binarised("static")
    torch.manual_seed(6)
    second = digits.binarised("static")
    for name, part in first.parts.items():
        assert set(part.x.unique().tolist()) == {0.0, 1.0} and torch.equal(part.x, second.parts[name].x)
        assert torch.equal(part.y, digits.parts[name].y)
    replayed = torch.bernoulli(digits.train.x, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(first.train.x, replayed)  # train and test share no stream


def test_dynamic_leaves_the_training_split_grey(digits):
    dynamic = digits.binarised("dynamic")
    assert torch.equal(dynamic.train.x, digits.train.x) and dynamic.train_dynamic and not digits.train_dynamic
    assert set(dynamic.validation.x.unique().tolist()) == {0.0, 1.0}


def test_threshold_cuts_above_one_half():
    splits = load_data(np.array([[0.0, 0.5, 0.51, 1.0]]), binarise="threshold", validation=0, test=0)
    assert splits.train.x.tolist() == [[0, 0, 1, 1]] and splits.train.x.dtype == torch.float64


def test_auto_is_settled_by_the_likelihood_and_says_so(digits):
    bernoulli, gaussian = digits.for_likelihood(True), digits.for_likelihood(False)
    assert (digits.binarise, bernoulli.binarise, gaussian.binarise) == ("auto", "static", "none")
    assert torch.equal(bernoulli.test.x, digits.binarised("static").test.x)
    assert "statically for a Bernoulli likelihood (seed 0)" in bernoulli.notes[-1]
    assert torch.equal(gaussian.train.x, digits.train.x) and gaussian.notes == digits.notes
    assert bernoulli.for_likelihood(False) is bernoulli
    for x in (
        np.array([[0.0], [1.0], [1.0]]),
        np.array([[0.5], [3.0], [1.0]]),
    ):  # binary already; not in [0, 1]
        untouched = load_data(x).for_likelihood(True)
        assert untouched.binarise == "none" and sorted(_values(untouched)) == sorted(x.flatten().tolist())


# --- minibatches ---


def _joined(parts: list[list[float]]) -> list[float]:
    return [value for part in parts for value in part]


def _epoch(batch: Batch, size: int, **settings) -> list[list[float]]:
    return [part.x.flatten().tolist() for part in minibatches(batch, size, **{"seed": 0, "epoch": 0, **settings})]


def test_an_epoch_takes_every_datum_once_in_an_order_of_seed_and_epoch():
    batch = Batch(x=torch.arange(25.0))
    first = _epoch(batch, 10)
    torch.manual_seed(17)
    assert [len(part) for part in first] == [10, 10, 5] and sorted(_joined(first)) == list(range(25))
    assert first == _epoch(batch, 10)
    assert _joined(first) == permutation(25, seed=0, epoch=0).float().tolist()
    orders = {tuple(permutation(25, seed=s, epoch=e).tolist()) for s in range(20) for e in range(20)}
    assert len(orders) == 400


def test_start_equals_slicing():
    batch = Batch(x=torch.arange(25.0))
    every = _epoch(batch, 10)
    for start in range(5):
        assert _epoch(batch, 10, start=start) == every[start:]


def test_start_draws_nothing_for_the_batches_left_out():
    batch = Batch(x=torch.full((30, 4), 0.5))
    torch.manual_seed(1)
    skipped = _epoch(batch, 10, start=2, dynamic=True)
    torch.manual_seed(1)
    assert skipped == _epoch(batch.take(slice(10)), 10, dynamic=True)


def test_no_minibatch_touches_the_global_generator_unless_it_draws(digits):
    state = torch.get_rng_state()
    list(minibatches(digits.train, 100, seed=0, epoch=3))
    assert torch.equal(state, torch.get_rng_state())
    list(minibatches(digits.train, 100, seed=0, epoch=3, dynamic=True))
    assert not torch.equal(state, torch.get_rng_state())


def test_dynamic_draws_have_the_grey_level_as_mean():
    """Each of 11 levels, 40000 draws: within 4.5 standard errors, and 0 and 1 exact."""
    levels = torch.arange(11, dtype=torch.float64) / 10
    batch = Batch(x=levels.repeat(40_000, 1))
    torch.manual_seed(0)
    drawn = torch.cat([part.x for part in minibatches(batch, 1000, seed=0, epoch=0, dynamic=True)])
    assert set(drawn.unique().tolist()) == {0.0, 1.0} and drawn.dtype == torch.float64
    error = (levels * (1 - levels) / len(drawn)).sqrt()
    assert ((drawn.mean(0) - levels).abs() <= 4.5 * error).all()
    # Neighbours are drawn apart: the variance of a row's sum is the sum of the variances.
    spread = drawn.sum(1).var() / (levels * (1 - levels)).sum()
    assert abs(spread - 1) <= 4.5 * (2 / len(drawn)) ** 0.5
    assert torch.equal(batch.x[0], levels)


def test_fields_stay_together_through_minibatches(digits):
    known = {tuple(x.tolist()): int(y) for x, y in zip(digits.train.x, digits.train.y, strict=True)}
    for part in minibatches(digits.train, 100, seed=1, epoch=2):
        assert all(known[tuple(x.tolist())] == y for x, y in zip(part.x, part.y.tolist(), strict=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, "size needs a whole number of at least 1; got 0"),
        ({"size": 5, "start": -1}, "start needs a whole number of at least 0; got -1"),
    ],
)
def test_unfit_minibatches_are_refused_at_the_call(arguments, message):
    with pytest.raises(InputError, match=message):
        minibatches(Batch(x=torch.zeros(5)), seed=0, epoch=0, **arguments)


# --- the named sets with files ---


def test_mnist_has_its_own_test_split_and_the_images_of_the_reference(mnist, mnist_folder):
    import gzip

    content = gzip.decompress((mnist_folder / "mnist" / "t10k-images-idx3-ubyte.gz").read_bytes())
    raw = np.frombuffer(content[16:], np.uint8)
    grey = torch.from_numpy(raw.reshape(-1, 784).astype(np.float32) / 255)
    assert [part.size for part in mnist.parts.values()] == [50_000, 10_000, 10_000]
    assert mnist.data_shape == (28, 28) and torch.equal(mnist.test.x, grey)
    assert mnist.test.y[:5].tolist() == [7, 2, 1, 0, 4]
    drawn = torch.bernoulli(grey, generator=torch.Generator().manual_seed(0))
    assert torch.equal(mnist.binarised("dynamic").test.x, drawn)


def test_mnist_without_validation_is_the_training_file_in_its_order(mnist_folder):
    whole = load_data("mnist", validation=0, folder=mnist_folder)
    assert whole.validation is None and whole.train.size == 60_000
    assert whole.train.y[:6].tolist() == [5, 0, 4, 1, 9, 2]


def _or_skip(name: str, folder: Path) -> Splits:
    if not (folder / name).is_dir():
        pytest.skip(f"needs {name}: no such folder in {folder}")
    return load_data(name, folder=folder)


def test_static_mnist_brings_three_binary_splits(data_folder):
    splits = _or_skip("mnist_static", data_folder)
    assert [part.size for part in splits.parts.values()] == [50_000, 10_000, 10_000]
    assert splits.data_shape == (28, 28) and splits.train.names == ("x",)
    with np.load(data_folder / "mnist_static" / "mnist_static.npz") as archive:
        assert torch.equal(splits.test.x, torch.from_numpy(np.unpackbits(archive["test"], axis=1)).float())
    assert splits.for_likelihood(True).binarise == "none"


def test_frey_faces_are_grey_and_split_by_seed(data_folder):
    splits = _or_skip("freyfaces", data_folder)
    assert [part.size for part in splits.parts.values()] == [1592, 177, 196] and splits.data_shape == (28, 20)
    assert splits.train.x.shape[1:] == (560,) and 0 < splits.train.x.mean() < 1 and splits.train.x.max() <= 1


@pytest.mark.parametrize("is_as_expected", [True, False])
def test_the_digits_are_those_of_scikit_learn_also_if_its_file_changes(
    is_as_expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sklearn.datasets import load_digits

    expected = load_digits()
    if is_as_expected:
        monkeypatch.delattr("sklearn.datasets.load_digits")  # it is not called
    else:
        monkeypatch.setattr("pvae.data.catalogue.np.loadtxt", lambda *_, **__: np.ones((1797, 3)))
        monkeypatch.setattr("sklearn.datasets.load_digits", lambda: expected)
    images, labels = catalogue._digit_arrays()
    for found, array in ((images, expected.images), (labels, expected.target)):
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)
