"""Random subsets of data by a seed."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import IterableDataset

import pvae
from pvae.batch import Batch
from pvae.data.subset import Subset, draw_subset

BATCH = Batch(x=torch.arange(1000.0)[:, None], y=torch.arange(1000))


def test_a_subset_is_random_in_order_and_the_same_for_the_same_seed() -> None:
    drawn, subset = draw_subset(BATCH, 200, 3)
    positions = drawn["y"]
    assert len(positions) == len(set(positions.tolist())) == 200 and bool((positions.diff() > 0).all())
    assert torch.equal(positions, subset.indices()) and str(subset) == "200 of 1,000, drawn with seed 3"
    assert torch.equal(draw_subset(BATCH, 200, 3)[0]["y"], positions)
    assert not torch.equal(draw_subset(BATCH, 200, 4)[0]["y"], positions)
    # The mean position of 200 of 1000 has a standard error of 18.3 around 499.5.
    assert abs(positions.double().mean() - 499.5) < 4.5 * 18.3


def test_every_datum_is_drawn_with_the_same_probability() -> None:
    counts = torch.zeros(10)
    for seed in range(2000):
        counts[Subset(3, 10, seed).indices()] += 1
    assert bool(((counts - 600).abs() < 4.5 * (2000 * 0.3 * 0.7) ** 0.5).all())


def test_a_smaller_subset_is_a_part_of_a_larger_one() -> None:
    small, large = (set(Subset(count, 50, 0).indices().tolist()) for count in (5, 20))
    assert small < large


@pytest.mark.parametrize("limit", [None, 1000, 5000])
def test_a_limit_that_is_not_reached_keeps_all_data(limit: int | None) -> None:
    drawn, subset = draw_subset(BATCH, limit, 0)
    assert drawn is BATCH and subset.is_whole and str(subset) == "all 1,000"
    assert torch.equal(subset.rows_of(BATCH["y"]), BATCH["y"])


def test_the_rows_of_other_numbers_follow_the_subset() -> None:
    drawn, subset = draw_subset(BATCH, 7, 0)
    assert torch.equal(subset.rows_of(BATCH["y"]), drawn["y"])
    assert torch.equal(subset.rows_of(drawn["y"]), drawn["y"])  # of the drawn data alone


class Stream(IterableDataset):
    def __iter__(self):
        yield from torch.arange(30.0)[:, None]


def test_a_stream_gives_its_first_data_and_says_so() -> None:
    stream = pvae.load_data(Stream(), validation=0, test=0).train
    drawn, subset = draw_subset(stream, 4, 0)
    assert drawn.x.ravel().tolist() == [0.0, 1.0, 2.0, 3.0] and str(subset) == "the first 4 of a stream"


def test_all_trainings_have_the_same_subset_of_the_validation_data(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    original = pvae.train.prepare.Validation

    def record(computation, batch, **options):
        seen.append(batch.x)
        return original(computation, batch, **options)

    monkeypatch.setattr(pvae.train.prepare, "Validation", record)
    x = torch.rand(60, 4, generator=torch.Generator().manual_seed(0)).round()
    data = pvae.load_data(x, validation=0.5, test=0)
    for seed in (0, 1):
        model = pvae.VAE((4,), latent=1, hidden=())
        pvae.fit(model, data, epochs=0, seed=seed, validation_limit=6, progress=False, step="eager")
    assert len(seen) == 2 and torch.equal(*seen)
    assert torch.equal(seen[0].reshape(6, 4), data.validation.x[Subset(6, 30, 0).indices()].reshape(6, 4))
