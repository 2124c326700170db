"""The decaying baseline of `TraceGraph_ELBO`: one average of the costs, whatever the size of the batch."""

from __future__ import annotations

import exact
import pyro
import pytest
import torch

from pvae import InputError
from pvae.objectives import GraphELBO


def test_the_decaying_average_follows_the_costs_of_earlier_steps() -> None:
    with pyro.get_param_store().scope():
        torch.manual_seed(0)
        objective, model = GraphELBO("decaying", decay=0.5), exact.DiscreteModel()
        expected = 0.0
        for size in (3, 4, 3, 1):  # Pyro's own average fails where the size of the batch changes
            x = torch.zeros(size, dtype=torch.long)
            assert getattr(objective, "average_z", torch.zeros(())).item() == pytest.approx(expected, abs=1e-12)
            terms = objective.terms(model.model, model.guide, (x,), {}, "all")
            expected = 0.5 * expected + 0.5 * (-terms.loss.item() / size)
        before = objective.average_z.clone()
        objective.loss(model.model, model.guide, torch.zeros(2, dtype=torch.long))
        assert torch.equal(objective.average_z, before)


def test_a_baseline_leaves_the_mean_of_the_gradient() -> None:
    found = []
    for baseline in ("none", "decaying"):
        with pyro.get_param_store().scope():
            torch.manual_seed(0)
            objective, model = GraphELBO(baseline), exact.DiscreteModel()
            draws = []
            for _ in range(40):
                terms = objective.terms(model.model, model.guide, (torch.zeros(500, dtype=torch.long),), {}, "all")
                draws.append(-torch.autograd.grad(terms.surrogate, model.logits)[0][0] / 500)
            found.append(torch.stack(draws))
    exactly = torch.tensor(exact.Discrete().elbo_gradient()[0])
    for draws in found:
        assert ((draws.mean(0) - exactly).abs() / (draws.std(0) / 40**0.5)).max() < 4.5
    assert found[1][5:].var(0).sum() < 0.5 * found[0][5:].var(0).sum()


@pytest.mark.parametrize("settings", [{"baseline": "decay"}, {"decay": 1.0}, {"particles": 0}])
def test_settings_that_are_none_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(InputError):
        GraphELBO(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("baseline", ["decaying", "network"])
@pytest.mark.parametrize("size", [1, 3])
def test_a_batch_of_any_size_has_a_baseline(baseline: str, size: int) -> None:
    with pyro.get_param_store().scope():
        objective, model = GraphELBO(baseline), exact.DiscreteModel()
        terms = objective.terms(model.model, model.guide, (torch.zeros(size, dtype=torch.long),), {}, "all")
        assert terms.loss.shape == () and terms.surrogate.requires_grad
