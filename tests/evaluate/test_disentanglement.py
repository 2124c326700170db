"""MIG and DCI against codes whose scores are known, and the sprites whose factors are."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

import pvae
from pvae.data.sprites import FACTORS, draw_sprites
from pvae.errors import InputError
from pvae.evaluate.disentanglement import disentanglement, importance_scores, mutual_information_gap

EVERY = torch.cartesian_prod(torch.arange(3), torch.arange(4))  # two independent factors, each combination once


def test_mutual_information_of_known_tables():
    codes = EVERY.double()
    gap, information = mutual_information_gap(codes, EVERY)
    expected = torch.diag(torch.tensor([3.0, 4.0]).double().log())
    torch.testing.assert_close(information, expected, rtol=1e-12, atol=1e-12)
    assert gap == pytest.approx(1.0, rel=1e-12)


def test_gap_is_nothing_where_two_units_tell_the_same():
    both = torch.stack([EVERY[:, 0], -EVERY[:, 0], EVERY[:, 1], 2 * EVERY[:, 1]], 1).double()
    assert mutual_information_gap(both, EVERY)[0] == pytest.approx(0.0, abs=1e-12)


def test_gap_of_a_unit_that_tells_half():
    """Unit 0 tells factor b wholly (log 4), unit 1 tells whether b >= 2 (log 2): a gap of one half."""
    codes = torch.stack([EVERY[:, 1], (EVERY[:, 1] >= 2).long()], 1).double()
    assert mutual_information_gap(codes, EVERY[:, 1:])[0] == pytest.approx(0.5, rel=1e-12)


def test_bins_are_equally_wide():
    """Values 0, 1, 2, 100 fall into two bins as 3 to 1: the information is the entropy of a quarter."""
    codes = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [100.0, 0.0]])
    information = mutual_information_gap(codes, torch.arange(4)[:, None], bins=2)[1]
    assert information[0, 0] == pytest.approx(-0.25 * math.log(0.25) - 0.75 * math.log(0.75))


def test_importance_scores_by_hand():
    assert importance_scores(torch.eye(3)) == (1.0, 1.0)
    assert importance_scores(torch.ones(4, 3).double()) == pytest.approx((0.0, 0.0), abs=1e-12)
    # unit 0 tells both factors evenly, unit 1 the second alone, unit 2 nothing
    scores = importance_scores(torch.tensor([[1.0, 1.0], [0.0, 2.0], [0.0, 0.0]]).double())
    halves, thirds = math.log(2), -(1 / 3 * math.log(1 / 3) + 2 / 3 * math.log(2 / 3))
    assert scores[0] == pytest.approx(0.5 * (1 - halves / math.log(2)) + 0.5)
    assert scores[1] == pytest.approx((1.0 + 1 - thirds / math.log(3)) / 2)


def test_a_factor_that_no_unit_tells_of_is_not_complete():
    assert importance_scores(torch.tensor([[1.0, 0.0], [0.0, 0.0]])) == (1.0, 0.5)
    assert importance_scores(torch.zeros(2, 2)) == (0.0, 0.0)


def coded(mix):
    """A latent model whose codes are the factors, mixed."""

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x @ mix, 0.01).to_event(1))

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), mix.shape[1]), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True).expand(-1, 2), 1.0).to_event(1), obs=x)

    return pvae.pair(model, guide)


def test_axes_score_one_and_a_rotation_less():
    torch.manual_seed(0)
    factors = torch.randint(0, 5, (600, 2))
    batch = pvae.Batch(x=factors.float(), factors=factors)
    straight = disentanglement(coded(torch.tensor([[0.0, 1.0], [3.0, 0.0]])), batch)
    assert straight.mig > 0.97 and straight.informativeness == 1.0
    assert straight.disentanglement > 0.97 and straight.completeness > 0.97
    turned = disentanglement(coded(torch.tensor([[1.0, 1.0], [1.0, -1.0]])), batch)
    assert turned.mig < 0.1 and turned.disentanglement < 0.4 and turned.informativeness > 0.9


def test_factors_beside_the_data_follow_the_random_subset():
    torch.manual_seed(0)
    factors = torch.randint(0, 5, (600, 2))
    inside = disentanglement(coded(torch.eye(2)), pvae.Batch(x=factors.float(), factors=factors), limit=300)
    beside = disentanglement(coded(torch.eye(2)), pvae.Batch(x=factors.float()), factors, limit=300)
    assert beside.mig == inside.mig > 0.95 and beside.informativeness == 1.0


def test_data_in_the_order_of_a_grid_are_judged_as_any_other():
    """Every second row of this grid has one value of the second factor."""
    factors = torch.cartesian_prod(torch.arange(3), torch.arange(2)).repeat(40, 1)
    found = disentanglement(coded(torch.eye(2)), pvae.Batch(x=factors.float(), factors=factors))
    assert found.informativeness == 1.0
    torch.testing.assert_close(found.importance, torch.eye(2).double(), atol=0.03, rtol=0)


def test_sprites_are_all_different_and_know_their_factors():
    pictures, factors = draw_sprites()
    assert pictures.shape == (729, 16, 16) and set(pictures.ravel()) == {0.0, 1.0}
    assert len({picture.tobytes() for picture in pictures}) == 729
    assert (factors.max(0) + 1).tolist() == list(FACTORS.values())
    across = (pictures.sum(1) * range(16)).sum(1) / pictures.sum((1, 2))  # the centre of gravity
    for column in range(9):
        here = across[factors[:, 2] == column]
        assert here.min() == pytest.approx(column + 4) and here.max() == pytest.approx(column + 4)
    areas = pictures.sum((1, 2))
    for shape in range(3):
        sizes = [areas[(factors[:, 0] == shape) & (factors[:, 1] == size)] for size in range(3)]
        assert all(each.min() == each.max() for each in sizes) and sizes[0][0] < sizes[1][0] < sizes[2][0]


def test_sprites_are_a_data_set_with_a_name():
    data = pvae.load_data("sprites")
    assert data.data_shape == (16, 16) and data.train["factors"].shape == (data.train.size, 4)
    found = pvae.check(pvae.VAE(data.data_shape, latent=2, hidden=4), data.train.take(slice(0, 4)))
    assert [str(each) for each in found] == [
        "unused field (factors): no program takes 'factors'; it serves metrics only."
    ]


def test_what_cannot_be_judged_is_refused():
    with pytest.raises(InputError, match="field 'factors'"):
        disentanglement(coded(torch.eye(2)), pvae.Batch(x=torch.randn(6, 2)))
    with pytest.raises(InputError, match="Factor 1 has one value only"):
        disentanglement(
            coded(torch.eye(2)), pvae.Batch(x=torch.randn(6, 2), factors=torch.tensor([[0, 1], [1, 1]] * 3))
        )
    with pytest.raises(InputError, match="at least two latent units"):
        mutual_information_gap(torch.randn(5, 1), torch.zeros(5, 1).long())
