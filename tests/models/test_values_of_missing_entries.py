"""Missing and padded entries get a value in the support of the likelihood, so that gradients are those of the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import pvae
from pvae.data.support import check_support, value_inside
from pvae.densities.base import Likelihood
from pvae.errors import InputError

FAMILIES: dict[str, Callable[[Tensor], Any]] = {
    "log-normal": lambda value: dist.LogNormal(value, 1.0),
    "pareto": lambda value: dist.Pareto(torch.full_like(value, 0.05), value.exp()),
    "inverse-gamma": lambda value: dist.InverseGamma(value.exp(), value.exp()),
}


class OwnLikelihood(Likelihood):
    """A family of distributions of one parameter, in each entry."""

    def __init__(self, family: str, data_shape: tuple[int, ...]) -> None:
        super().__init__(4, data_shape)
        self.family, self.dims = FAMILIES[family], len(data_shape)

    def forward(self, context: Tensor) -> Any:
        return self.family(self.head(context)).to_event(self.dims)

    def initialise_from(self, x: Tensor) -> None:
        pass


def masked_vae(family: str) -> tuple[Any, dict[str, Tensor], Tensor]:
    model = pvae.MaskedVAE(3, latent=2, hidden=4, likelihood=OwnLikelihood(family, (3,)))
    mask = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
    return model, {"mask": mask}, mask


def sequence_vae(family: str) -> tuple[Any, dict[str, Tensor], Tensor]:
    model = pvae.SequenceVAE((3, 1), latent=2, hidden=4, likelihood=OwnLikelihood(family, (1,)))
    return model, {"lengths": torch.tensor([2, 1])}, torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]]).unsqueeze(-1)


def multimodal_vae(family: str) -> tuple[Any, dict[str, Tensor], Tensor]:
    parts = {"x": OwnLikelihood(family, (3,)), "w": "gaussian"}
    model = pvae.MultimodalVAE(3, parts, field_shapes=[("w", (1,))], latent=2, hidden=4)
    mask = torch.tensor([1.0, 0.0])
    return model, {"w": torch.ones(2, 1), "mask": mask}, mask.unsqueeze(-1)


@pytest.mark.parametrize("make", [masked_vae, sequence_vae, multimodal_vae])
@pytest.mark.parametrize("family", list(FAMILIES))
@pytest.mark.usefixtures("own_store")
def test_the_value_of_a_missing_entry_changes_neither_the_weights_nor_the_gradients(
    make: Callable[[str], tuple[Any, dict[str, Tensor], Tensor]], family: str
) -> None:
    torch.manual_seed(0)
    model, fields, mask = make(family)
    complete = (torch.rand(2, 3) + 0.1).reshape(2, *mask.shape[1:-1], -1)
    results = []
    for x in (complete, torch.where(mask > 0, complete, 0.0), torch.where(mask > 0, complete, torch.nan)):
        torch.manual_seed(1)
        log_w = pvae.log_weights(model, pvae.Batch(x=x, **fields), 4).log_w
        gradients = torch.autograd.grad(log_w.sum(), list(model.parameters()), allow_unused=True)
        results.append([log_w, *[gradient for gradient in gradients if gradient is not None]])
    assert all(tensor.isfinite().all() for tensor in results[0])
    for other in results[1:]:
        assert all(torch.equal(one, same) for one, same in zip(results[0], other, strict=True))


@pytest.mark.parametrize(
    ("distribution", "value"),
    [
        (dist.Normal(0.0, 1.0), 0.0),
        (dist.Poisson(torch.ones(2)).to_event(1), 0.0),
        (dist.LogNormal(torch.zeros(2), 1.0).mask(False).to_event(1), 1.0),
        (dist.Beta(torch.ones(2), 1.0), 0.5),
        (dist.Pareto(torch.tensor([1.0, 3.0]), 1.0), 4.0),
        (dist.Uniform(2.0, torch.tensor([3.0, 5.0])), torch.tensor([2.5, 3.5])),
        (dist.AffineBeta(1.0, 1.0, 2.0, 4.0), 4.0),
        (torch.distributions.HalfCauchy(1.0), 1.0),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_inside_has_a_finite_log_density(distribution: Any, value: Any) -> None:
    inside = torch.as_tensor(value_inside(distribution))
    torch.testing.assert_close(inside, torch.as_tensor(value), check_dtype=False)
    base = distribution
    while hasattr(base, "base_dist") and type(base).__name__ in ("Independent", "MaskedDistribution"):
        base = base.base_dist
    assert base.log_prob(inside.expand(base.batch_shape)).isfinite().all()


class MaskedProgram(pvae.LatentModel):
    """A user's model that scores the observed entries only, and reads x as it is."""

    def __init__(self, family: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.decoder, self.family = nn.Linear(1, 3), family

    def model(self, x: Tensor, mask: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", self.family(self.decoder(z)).mask(mask > 0).to_event(1), obs=x)

    def guide(self, x: Tensor, mask: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))


def program_findings(family: Callable[[Tensor], Any], x: Tensor) -> pvae.linter.Findings:
    mask = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
    return pvae.check(MaskedProgram(family), {"x": torch.where(mask > 0, x, 0.0), "mask": mask})


def test_the_check_advises_a_value_of_the_support_for_masked_entries_and_judges_observed_ones() -> None:
    positive = torch.full((2, 3), 0.5)
    found = program_findings(FAMILIES["log-normal"], positive)
    assert [finding.kind for finding in found.fatal] == ["outside the support"]
    assert "2 of 6 values lie outside, the first at [0, 1]." in str(found)
    assert "as by torch.where(mask > 0, x, 1)." in str(found)
    # 0 lies on the bound of this support, and its gradient where it is masked is 0
    assert not program_findings(lambda value: dist.Gamma(value.exp(), 1.0), positive).fatal
    observed = program_findings(FAMILIES["log-normal"], torch.tensor([[0.5, 0.5, -1.0]]).expand(2, 3))
    assert "got values from -1 to 0.5, 2 of 6 outside, the first at [0, 2]. Use a likelihood" in str(observed)


def test_gradients_that_are_not_finite_are_found_before_the_training() -> None:
    def root(value: Tensor) -> Any:
        return dist.Normal((value * 0).sqrt(), 1.0)

    found = program_findings(root, torch.ones(2, 3))
    assert [(finding.kind, finding.subject) for finding in found.fatal] == [("not finite", "decoder.weight")]


def test_bounds_that_differ_are_given_as_a_range() -> None:
    with pytest.raises(InputError, match=r"Pareto needs x in GreaterThanEq\(lower_bound from 1 to 3\); got values"):
        check_support("x", torch.zeros(2), dist.Pareto(torch.tensor([1.0, 3.0]), 1.0))
