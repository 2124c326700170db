"""A flow without an inverse: its bound is right, and an objective that needs its density elsewhere says so."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import transforms
from torch import Tensor, nn

import pvae
from pvae import InputError
from pvae.objectives import make_objective

pytestmark = pytest.mark.usefixtures("own_store", "seeded")

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


class Planar(pvae.LatentModel):
    """A guide by a planar flow, which torch cannot invert."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder, self.flow = nn.Linear(3, 4), nn.Linear(2, 3), transforms.planar(2)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    def base(self, x: Tensor) -> dist.Independent:
        loc, log_scale = self.encoder(x).chunk(2, -1)
        return dist.Normal(loc, log_scale.exp()).to_event(1)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.TransformedDistribution(self.base(x), [self.flow]))


@pytest.mark.parametrize("objective", ["stl", "dreg:particles=3", "tvo", "rws:particles=3", "rws:particles=3:phi=both"])
def test_objectives_of_other_values_name_the_site_and_the_way_out(objective: str) -> None:
    model = Planar()
    with pytest.raises(InputError, match=r"'z' is drawn through a flow without an inverse.*Use 'elbo', 'iwae'"):
        make_objective(objective)().loss_and_grads(model.model, model.guide, X)
    assert "flow without an inverse" in str(pvae.check(model, {"x": X}, objective).fatal)


def test_the_advice_works_and_the_bound_is_that_of_the_change_of_variables() -> None:
    model = Planar()
    for objective in ("elbo", "iwae:particles=3", "renyi:alpha=0.5:particles=3"):
        assert not pvae.check(model, {"x": X}, objective).fatal
    torch.manual_seed(3)
    loss = pvae.IWAE(1).loss(model.model, model.guide, X)
    torch.manual_seed(3)
    with torch.no_grad():
        base = model.base(X)
        u = base.rsample()
        z = model.flow(u)
        log_q = base.log_prob(u) - model.flow.log_abs_det_jacobian(u, z)
        prior = dist.Normal(torch.zeros(2), 1.0).to_event(1).log_prob(z)
        likelihood = dist.Normal(model.decoder(z), 1.0).to_event(1).log_prob(X)
    assert loss == pytest.approx(-(prior + likelihood - log_q).sum().item(), rel=1e-5)


def test_the_parameters_of_the_flow_belong_to_the_guide() -> None:
    groups = pvae.models.find_groups(Planar(), [{"x": X}])
    assert {name for name in groups.phi if "flow" in name} and not groups.both and not groups.neither
