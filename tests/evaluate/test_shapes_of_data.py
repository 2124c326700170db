"""Data of another form than those of the training, and latent sites that all data share, in the methods of runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from torch import Tensor, nn

import pvae
from pvae.evaluate import disentanglement, elbo
from pvae.models import codes_of

pytestmark = pytest.mark.usefixtures("own_store")
QUICK: dict[str, Any] = {"epochs": 1, "step": "eager", "progress": False, "batch_size": 8}
X = torch.arange(24.0).reshape(8, 3) / 24
# The guides of these models are the posteriors, so that the ELBO is the log evidence of the sum of a datum.
EVIDENCE = dist.Normal(0.0, 2**0.5).log_prob


class Sums(pvae.LatentModel):
    """Each datum is its own z with noise; its entries are summed, so that a single entry would be broadcast."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor([0.5, 0.2, -0.1]))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=(x * self.slope).sum(-1))

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((x * self.slope).sum(-1) / 2, 0.5**0.5))


class Hidden(Sums):
    """Whole data are missing: the mask has one number for each datum, and it is required."""

    def model(self, x: Tensor, mask: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            with pyro.poutine.mask(mask=mask > 0):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x.sum(-1) + 0 * self.slope.sum())

    def guide(self, x: Tensor, mask: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(mask * x.sum(-1) / 2, 0.5**0.5))


class Sequences(Sums):
    """Time steps are summed."""

    def model(self, x: Tensor, lengths: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x.sum((1, 2)) + 0 * self.slope.sum())

    def guide(self, x: Tensor, lengths: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.sum((1, 2)) / 2, 0.5**0.5))


class Shared(pvae.LatentModel):
    """The location w is a latent variable that all data share, and z is one of each datum."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.tensor([3.0, 4.0, 5.0]))

    def model(self, x: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        with pyro.plate("data", len(X), subsample=torch.arange(len(x))):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(w + z.sum(-1, keepdim=True), 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.sample("w", dist.Normal(self.loc, 1.0).to_event(1))
        with pyro.plate("data", len(X), subsample=torch.arange(len(x))):
            pyro.sample("z", dist.Normal(x[:, :2], 1.0).to_event(1))


class Separate(Shared):
    """As `Shared`, without the shared site."""

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.loc + z.sum(-1, keepdim=True), 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, :2], 1.0).to_event(1))


def mean_only(x: Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
    with pyro.plate("data", len(X), subsample=torch.arange(len(x))):
        pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)


def fit(model: Any, **fields: Tensor) -> pvae.Run:
    return pvae.fit(model, pvae.load_data(fields, validation=0, test=0, binarise="none"), **QUICK)


@pytest.mark.parametrize("use", [elbo, lambda run, data: run.encode(data), lambda run, data: run.reconstruct(data)])
@pytest.mark.parametrize("shape", [(5, 1), (5,), (5, 3, 2)])
def test_a_run_refuses_data_that_would_be_broadcast(
    use: Callable[[pvae.Run, Any], Any], shape: tuple[int, ...]
) -> None:
    run = fit(Sums(), x=X)
    for data in (torch.ones(shape), pvae.Batch(x=torch.ones(shape))):
        with pytest.raises(
            pvae.InputError, match=r"x needs data of the shape \(3,\).*Give data with the same features"
        ):
            use(run, data)
    use(run, X[:5])


def test_other_shapes_that_are_meant_are_accepted() -> None:
    run = fit(Sequences(), x=X.reshape(8, 3, 1), lengths=torch.full((8,), 3))
    first = elbo(run, pvae.Batch(x=X[:, :1].unsqueeze(-1), lengths=torch.ones(8, dtype=torch.int64)), particles=3)
    torch.testing.assert_close(first.pointwise, EVIDENCE(X[:, 0]).double(), rtol=1e-5, atol=1e-5)
    pictures = fit(pvae.VAE((1, 4, 2), latent=1, hidden=3, likelihood="gaussian"), x=torch.randn(8, 1, 4, 2))
    same = torch.randn(3, 1, 4, 2)
    assert elbo(pictures, pvae.Batch(x=same.flatten(1))).value == elbo(pictures, pvae.Batch(x=same)).value


def test_complete_data_are_observed_in_a_run_that_was_trained_with_a_mask() -> None:
    run = fit(Hidden(), x=X, mask=torch.tensor([1.0, 0.0] * 4))
    found = elbo(run, X, particles=3).pointwise
    torch.testing.assert_close(found, EVIDENCE(X.sum(-1)).double(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(run.encode(X).flatten(), X.sum(-1) / 2)
    splits = pvae.load_data(X, validation=0, test=4, binarise="none")
    assert elbo(run, splits, particles=3).value == elbo(run, splits.test, particles=3).value
    with pytest.raises(pvae.InputError, match=r"requires 'mask'.* Complete data have no mask: add one of ones"):
        fit(Hidden(), x=X)


def test_codes_leave_out_sites_that_all_data_share() -> None:
    run = fit(Shared(), x=X)
    for count in (3, 5):  # w has three entries, too
        torch.testing.assert_close(run.encode(X[:count]), X[:count, :2])
    splits = pvae.load_data(X, binarise="none", validation=0, test=0)
    torch.testing.assert_close(codes_of(run.model, splits).train.x, X[:, :2])  # z is the only site with codes
    assert disentanglement(run, X, torch.arange(8) % 2).importance.shape[0] == 2
    with pytest.raises(pvae.InputError, match=r"Data have codes of the latent sites z; got site='w'"):
        run.encode(X[:3], site="w")


def test_a_model_without_latents_of_a_datum_has_no_codes() -> None:
    run = fit(pvae.pair(mean_only, AutoNormal(mean_only)), x=X)
    with pytest.raises(pvae.InputError, match=r"All data share the latent site mean, so that a datum has no code"):
        run.encode(X)


def test_samples_share_the_draw_of_a_site_that_all_data_share() -> None:
    run = fit(pvae.pair(mean_only, AutoNormal(mean_only)), x=X)
    drawn = run.sample(4000)
    # x given the mean is Normal(mean, 1); with a mean of its own, each half would have another average
    difference = drawn[:2000].mean(0) - drawn[2000:].mean(0)
    assert bool((difference.abs() < 5 * (2 / 2000) ** 0.5).all())
    torch.testing.assert_close(run.sample(3, chunk=1), run.sample(3))
    independent = fit(Separate(), x=X)
    assert not torch.equal(independent.sample(3, chunk=1), independent.sample(3))


def test_a_value_of_another_shape_than_its_distribution_has_the_site_and_the_shapes() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z[:, None, None], torch.ones(2, 4)).to_event(2), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))

    (finding,) = pvae.check(pvae.pair(model, guide), {"x": torch.zeros(6, 8)}, "elbo").fatal
    assert (finding.kind, finding.subject) == ("wrong shape", "x")
    assert "batch shape [6] and the event shape [2, 4], and its value has the shape [6, 8]" in finding.message
    assert finding.message.endswith("Reshape the value or the distribution.")


def test_the_folder_of_another_program_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[core]\nname = 'other'\n")
    with pytest.raises(pvae.InputError, match=r"is not a run folder: its config\.toml was not written by pvae\. Give"):
        pvae.open_run(tmp_path)
