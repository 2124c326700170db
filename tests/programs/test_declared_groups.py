"""`declared_group`, the one place that reads theta(), phi() and critic(); and whether a model has parameters."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import pvae
from pvae.programs.parameter_groups import Groups, declared_group, model_has_parameters, require_disjoint_groups


class Declared(pvae.LatentModel):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.Linear(1, 1).weight)

    def theta(self) -> list[nn.Parameter]:
        return [self.weight]


def test_the_first_owner_with_the_method_declares_the_group() -> None:
    model = Declared()
    assert declared_group([object(), model, Declared()], "theta") == [model.weight]


def test_a_latent_model_declares_nothing_until_a_subclass_does() -> None:
    assert declared_group([Declared()], "phi") is None
    assert declared_group([object(), None], "theta") is None


def test_shared_parameters_are_refused_by_name() -> None:
    weight = nn.Linear(1, 1).weight
    require_disjoint_groups(Groups(theta={"a": weight}), "WakeSleep")
    with pytest.raises(pvae.InputError, match=r"WakeSleep trains theta and phi separately.*'shared'.*Declare theta"):
        require_disjoint_groups(Groups(both={"shared": weight}), "WakeSleep")


class OfTheGuide(pvae.LatentModel):
    """Parameters in the guide only: z ~ prior, x ~ Normal(z, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5))

    def prior(self) -> dist.Distribution:
        return dist.Normal(0.0, 1.0)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior().expand([len(x)]))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.weight * x, 1.0))


class OfThePrior(OfTheGuide):
    """A parameter in the prior's scale."""

    def prior(self) -> dist.Distribution:
        return dist.Normal(0.0, self.weight)


class WithoutDraws(OfTheGuide):
    """A prior that has a density and no draws."""

    def prior(self) -> dist.Distribution:
        return dist.ImproperUniform(dist.constraints.real, (), ())


@pytest.mark.parametrize(("model", "expected"), [(OfTheGuide, False), (OfThePrior, True), (WithoutDraws, False)])
def test_parameters_of_the_guide_alone_are_none_of_the_model(model: type[OfTheGuide], expected: bool) -> None:
    assert model_has_parameters(model(), {"x": torch.linspace(-1, 1, 4)}) is expected


def test_a_declared_group_needs_a_parameter_that_is_trained() -> None:
    model = Declared()
    assert model_has_parameters(model, {})
    model.weight.requires_grad_(False)
    assert not model_has_parameters(model, {})
