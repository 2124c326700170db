"""`declared_group`: the one place that reads theta(), phi() and critic()."""

from __future__ import annotations

import pytest
from torch import nn

import pvae
from pvae.programs.parameter_groups import Groups, declared_group, require_disjoint_groups


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
    with pytest.raises(pvae.InputError, match=r"WakeSleep trains theta and phi apart.*'shared'.*Declare theta"):
        require_disjoint_groups(Groups(both={"shared": weight}), "WakeSleep")
