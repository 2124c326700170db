"""Masks of the data: what each kind leaves out, how often, when it is drawn anew, and the same bits on resuming."""

from __future__ import annotations

import copy
import itertools
import pickle

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from stats import assert_close_in_sigmas
from torch import Tensor, nn

import pvae
from pvae.cli import cli
from pvae.commands.runs import data_of_run
from pvae.data import load_data, minibatches
from pvae.data.binarise import derived_seed
from pvae.data.masks import MASKS, make_mask
from pvae.errors import InputError

KINDS = ("pixels", "block", "rows", "quadrants")


def pictures(size: int = 30, shape: tuple[int, ...] = (6, 5), seed: int = 0) -> Tensor:
    return torch.rand(size, *shape, generator=torch.Generator().manual_seed(seed))


def drawn(text: str, count: int, shape: tuple[int, ...]) -> Tensor:
    torch.manual_seed(0)
    return make_mask(text, shape).like(torch.zeros(count, *shape))


# --- what each kind leaves out ---


def test_pixels_are_missing_with_the_share_asked_apart_from_each_other() -> None:
    mask = drawn("pixels:share=0.3", 4000, (3, 4))
    missing = 1 - mask.flatten(1)
    assert_close_in_sigmas(missing.mean(0), 0.3, (0.3 * 0.7 / 4000) ** 0.5, effect=0.2, resolution=0.05)
    together = torch.cov(missing.T)[np.triu_indices(12, 1)]
    assert_close_in_sigmas(together, 0.0, 0.3 * 0.7 / 4000**0.5, effect=0.21, resolution=0.05)
    assert drawn("pixels:share=0", 5, (7,)).min() == 1 and drawn("pixels:share=1", 5, (7,)).max() == 0


def test_blocks_are_squares_at_every_place_alike() -> None:
    mask = drawn("block:size=3", 6000, (6, 5))
    rows, columns = (1 - mask).amax(2), (1 - mask).amax(1)
    assert set((1 - mask).sum((1, 2)).tolist()) == {9.0}
    assert torch.equal(1 - mask, rows.unsqueeze(2) * columns.unsqueeze(1))  # a product: a rectangle
    for side in (rows, columns):
        assert set(side.sum(1).tolist()) == {3.0}
        assert all("".join(str(int(each)) for each in line).strip("0") == "111" for line in side[:200])
    places = rows.argmax(1) * 3 + columns.argmax(1)  # 4 x 3 places
    shares = torch.bincount(places, minlength=12) / 6000
    assert_close_in_sigmas(shares, 1 / 12, (11 / 144 / 6000) ** 0.5)


def test_rows_are_missing_whole_and_every_choice_is_alike_probable() -> None:
    mask = drawn("rows:count=2", 6000, (4, 3))
    hidden = 1 - mask[:, :, 0]
    assert torch.equal(mask, mask[:, :, :1].expand_as(mask)) and set(hidden.sum(1).tolist()) == {2.0}
    codes = (hidden @ torch.tensor([1.0, 2.0, 4.0, 8.0])).long()
    shares = torch.bincount(codes, minlength=16)[[3, 5, 9, 6, 10, 12]] / 6000
    assert_close_in_sigmas(shares, 1 / 6, (5 / 36 / 6000) ** 0.5)
    assert shares.sum() == 1


@pytest.mark.parametrize("observed", [1, 2, 3])
def test_quadrants_are_observed_whole_and_every_choice_is_alike_probable(observed: int) -> None:
    mask = drawn(f"quadrants:observed={observed}", 4000, (4, 7))
    parts = [mask[:, top, left] for top in (slice(0, 2), slice(2, 4)) for left in (slice(0, 3), slice(3, 7))]
    assert all(torch.equal(each, each[:, :1, :1].expand_as(each)) for each in parts)
    seen = torch.stack([each[:, 0, 0] for each in parts], 1)
    assert set(seen.sum(1).tolist()) == {float(observed)}
    choices = [sum(2**place for place in chosen) for chosen in itertools.combinations(range(4), observed)]
    codes = (seen @ torch.tensor([1.0, 2.0, 4.0, 8.0])).long()
    shares, each = torch.bincount(codes, minlength=16)[choices] / 4000, 1 / len(choices)
    assert_close_in_sigmas(shares, each, (each * (1 - each) / 4000) ** 0.5)


def test_sizes_that_are_not_given_follow_from_the_shape_and_are_recorded() -> None:
    texts = {kind: make_mask(kind, (28, 20)).text for kind in KINDS}
    assert texts == {
        "pixels": "pixels:share=0.5:whole=0.1",
        "block": "block:size=10:whole=0.1",
        "rows": "rows:count=14:whole=0.1",
        "quadrants": "quadrants:observed=1:whole=0.1",
    }
    assert set(texts) == set(MASKS)
    assert all(make_mask(text, (28, 20)) == make_mask(kind, (28, 20)) for kind, text in texts.items())
    assert load_data(pictures(), mask="block").mask == "block:size=2:whole=0.1"


@pytest.mark.parametrize("kind", ["block", "rows", "quadrants"])
def test_all_channels_of_a_pixel_are_missing_together(kind: str) -> None:
    mask = drawn(kind, 50, (3, 6, 5))
    assert mask.shape == (50, 3, 6, 5) and 0 < mask.mean() < 1
    assert torch.equal(mask, mask[:, :1].expand_as(mask))


@pytest.mark.parametrize("kind", KINDS)
def test_flat_pictures_are_masked_by_the_shape_of_the_data(kind: str) -> None:
    data = load_data("digits", mask=kind)  # x is flat, and the data are pictures
    mask = data.test.mask
    assert mask.shape == data.test.x.shape == (359, 64)
    again = make_mask(kind, (8, 8))
    seeded = torch.Generator().manual_seed(derived_seed(0, "mask", "test"))
    assert torch.equal(mask.reshape(-1, 8, 8), again.like(torch.zeros(359, 8, 8), seeded))


# --- when masks are drawn ---


def test_validation_and_test_masks_are_fixed_by_the_seed_and_x_stays_complete() -> None:
    x = pictures(200)
    plain = load_data(x, seed=3)
    first, again, other = (load_data(x, mask="block", seed=seed) for seed in (3, 3, 4))
    for part in ("validation", "test"):
        assert torch.equal(first.parts[part].mask, again.parts[part].mask)
        assert not torch.equal(first.parts[part].mask, other.parts[part].mask)
        assert torch.equal(first.parts[part].x, plain.parts[part].x)
    assert not torch.equal(first.validation.mask[:20], first.test.mask[:20][: len(first.validation.mask)])
    assert first.checksum == plain.checksum
    state = torch.get_rng_state()
    load_data(x, mask="pixels")
    assert torch.equal(state, torch.get_rng_state())


def test_training_masks_are_drawn_anew_at_every_use_by_the_global_generator() -> None:
    data = load_data(pictures(40), mask="pixels", validation=0, test=0)
    assert bool((data.train.mask == 1).all()) and data.train.mask.untyped_storage().nbytes() == 4

    def epoch(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return torch.cat([b.mask for b in minibatches(data.train, 16, seed=0, epoch=0, mask=data.train_mask)])

    assert torch.equal(epoch(1), epoch(1)) and not torch.equal(epoch(1), epoch(2))
    assert 0.4 < epoch(1).mean() < 0.65
    torch.manual_seed(1)
    again = torch.cat([make_mask("pixels", (6, 5)).in_training(torch.zeros(n, 6, 5)) for n in (16, 16, 8)])
    assert torch.equal(epoch(1), again)


@pytest.mark.parametrize("whole", [0, 0.1, 0.6])
def test_a_share_of_training_data_misses_nothing_and_no_test_data(whole: float) -> None:
    mask, x = make_mask(f"rows:count=2:whole={whole}", (4, 3)), torch.zeros(4000, 4, 3)
    kept = (mask.in_training(x) == 1).flatten(1).all(1)
    assert_close_in_sigmas(kept.double().mean(), whole, max((whole * (1 - whole) / 4000) ** 0.5, 1e-12))
    assert not (mask.like(x) == 1).flatten(1).all(1).any()
    assert bool(((1 - mask.in_training(x)[~kept]).sum((1, 2)) % 6 == 0).all())  # the others miss two rows, or nothing


def test_a_mask_goes_with_a_dynamic_binarisation() -> None:
    data = load_data(pictures(40), mask="rows", binarise="dynamic", validation=0, test=0)
    (batch,) = minibatches(data.train, 40, seed=0, epoch=0, dynamic=data.train_dynamic, mask=data.train_mask)
    assert set(batch.x.unique().tolist()) == {0.0, 1.0} and set(batch.mask.unique().tolist()) == {0.0, 1.0}


def test_a_drawn_mask_multiplies_that_of_values_never_observed() -> None:
    x = pictures(300).numpy().copy()
    holes = np.random.default_rng(0).random(x.shape) < 0.2
    x[holes] = np.nan
    data = load_data({"x": x, "x_test": x}, mask="block:size=3", missing="mask", validation=0)
    assert (data.test.mask[torch.from_numpy(holes)] == 0).all() and (data.test.x[torch.from_numpy(holes)] == 0).all()
    assert_close_in_sigmas(data.test.mask.mean(), 0.8 * 0.7, 0.01)  # a block of 9 of 30 pixels
    assert torch.equal(data.train.mask, torch.from_numpy(~holes).float())
    (batch,) = minibatches(data.train, 300, seed=0, epoch=0, mask=data.train_mask)
    order = torch.argsort(pvae.data.permutation(300, seed=0, epoch=0))
    assert (batch.mask[order][torch.from_numpy(holes)] == 0).all() and 0.4 < batch.mask.mean() < 0.7


def test_masked_splits_survive_pickling_and_moving_and_say_what_they_are() -> None:
    data = load_data(pictures(), mask="block")
    again = pickle.loads(pickle.dumps(data))
    assert again.mask == data.mask and torch.equal(again.test.mask, data.test.mask)
    assert data.to("cpu").train.mask.shape == data.train.x.shape
    assert data.summary()["mask"] == "block:size=2:whole=0.1" and "mask" not in load_data(pictures()).summary()
    masked = load_data(load_data(pictures()), mask="block")
    assert torch.equal(masked.test.mask, data.test.mask)
    with pytest.raises(InputError, match=r"masked already \('block:size=2:whole=0.1'\)"):
        load_data(masked, mask="rows")


# --- training ---


class Filler(pvae.LatentModel):
    """A model of one scalar z that scores what is observed."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(30))
        self.encoder = nn.Linear(30, 1)

    def model(self, x: Tensor, mask: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.loc + z, 1.0).mask(mask.flatten(1)).to_event(1), obs=x.flatten(1))

    def guide(self, x: Tensor, mask: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.encoder((x * mask).flatten(1)), 1.0).to_event(1))


def fitted(model: nn.Module, **options: object) -> pvae.Run:
    data = load_data(pictures(40), mask="block", binarise="dynamic", validation=8, test=0)
    settings = {"batch_size": 8, "progress": False, "seed": 1, "objective": "elbo", **options}
    return pvae.fit(model, data, **settings)


class Recording(Filler):
    """Keeps the masks that it is trained with."""

    def guide(self, x: Tensor, mask: Tensor) -> None:
        if self.training and torch.is_grad_enabled():
            self.__dict__.setdefault("seen", []).append(mask.clone())
        super().guide(x, mask)


def test_each_step_of_a_training_sees_new_masks() -> None:
    model = Recording()
    fitted(model, epochs=3, step="eager")
    steps = [each for each in model.seen if len(each) == 8 and bool((each == 0).any())][-12:]
    missing = torch.stack([(1 - each).sum((1, 2)) for each in steps])
    assert set(missing.unique().tolist()) == {0.0, 4.0}  # a block of two by two, or nothing
    assert len({tuple(each.flatten().tolist()) for each in steps}) == 12


def test_a_resumed_training_with_masks_has_the_same_bits(tmp_path) -> None:
    first = Filler()
    second, third, other = (copy.deepcopy(first) for _ in range(3))
    fitted(first, epochs=3, step="graph")
    fitted(second, epochs=3, max_steps=6, out=tmp_path / "run")  # ends within the second epoch
    fitted(third, epochs=3, out=tmp_path / "run", resume=True)
    fitted(other, epochs=3, seed=2)
    assert all(torch.equal(*each) for each in zip(first.parameters(), third.parameters(), strict=True))
    assert not torch.equal(first.loc, other.loc)
    data = load_data(pictures(40), mask="rows", binarise="dynamic", validation=8, test=0)
    with pytest.raises(InputError, match=r"data mask"):
        pvae.fit(third, data, objective="elbo", batch_size=8, epochs=4, seed=1, out=tmp_path / "run", resume=True)


def test_a_run_finds_its_masked_data_again(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("mine.npz", x=pictures(60).numpy())
    data = load_data("./mine.npz", mask="quadrants:observed=2", seed=5, binarise="none", validation=6)
    run = pvae.fit(Filler(), data, objective="elbo", epochs=1, out="run", progress=False)
    run.config["data"]["name"] = "./mine.npz"
    again = data_of_run(run)
    assert again.mask == run.config["data"]["mask"] == "quadrants:observed=2:whole=0.1"
    assert torch.equal(again.test.mask, data.test.mask)


# --- bad input ---


@pytest.mark.parametrize(
    ("mask", "facts"),
    [
        ("blocks", ["Unknown mask 'blocks'", "did you mean 'block'", "none"]),
        (14, ["Unknown mask '14'"]),
        ("block:side=3", ["Unknown setting 'side' of mask 'block'", "size"]),
        ("block:size=7", ["size of the mask 'block' needs", "from 1 to 5; got 7", "(6, 5)"]),
        ("block:size=0", ["size of the mask 'block' needs", "from 1 to 5; got 0"]),
        ("block:whole=1", ["from 0 to below 1", "got 1"]),
        ("block:size=2.5", ["size of the mask 'block' needs", "got 2.5"]),
        ("rows:count=7", ["count of the mask 'rows' needs", "from 1 to 6; got 7"]),
        ("quadrants:observed=4", ["observed of the mask 'quadrants' needs", "from 1 to 3; got 4"]),
        ("pixels:share=1.5", ["from 0 to 1", "1.5"]),
        ("pixels:share=many", ["from 0 to 1", "'many'"]),
    ],
)
def test_a_mask_that_does_not_fit_is_one_clear_line(mask: object, facts: list[str]) -> None:
    with pytest.raises(InputError) as raised:
        load_data(pictures(), mask=mask)  # type: ignore[arg-type]
    assert all(fact in str(raised.value) for fact in facts), raised.value
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", ["block", "rows", "quadrants"])
def test_masks_of_pictures_refuse_data_that_are_none(kind: str) -> None:
    with pytest.raises(InputError, match=rf"mask '{kind}' needs pictures.*shape \(30,\).*mask='pixels'"):
        load_data(pictures().flatten(1), mask=kind)
    assert load_data(pictures().flatten(1), mask="pixels").test.mask.shape == (3, 30)
    with pytest.raises(InputError, match=r"at least 2 x 2 pixels; got \(1, 5\)"):
        load_data(pictures(shape=(1, 5)), mask="quadrants")


def test_a_mask_of_another_shape_is_one_clear_line() -> None:
    given = {"x": pictures(), "mask": torch.ones(30, 6)}
    assert load_data(given).train.mask.shape == (24, 6)  # a program of the user's may know what it means
    with pytest.raises(
        InputError, match=r"needs the shape of x, \(24, 6, 5\).*the mask of the train split has shape \(24, 6\)"
    ):
        load_data(given, mask="pixels")


def test_the_command_line_says_what_is_wrong_with_a_mask(capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", "vae", "--mask", "block:size=9"])
    assert ended.value.code == 2
    said = capsys.readouterr().err.strip()
    assert "size of the mask 'block' needs a whole number from 1 to 8; got 9" in said and "\n" not in said
