"""Sites marked for several draws (tensor Monte Carlo): read by Pyro's losses, drawn or summed by evaluations."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceEnum_ELBO, TraceTMC_ELBO, config_enumerate
from torch import Tensor

import pvae
from pvae import Batch, InputError, log_weights, pair
from pvae.evaluate import elbo, log_evidence
from pvae.objectives import adapt

X = torch.randn(6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
ONE = torch.ones((), dtype=torch.float64)


def model(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0 * ONE, ONE))
        pyro.sample("x", dist.Normal(z, ONE), obs=x)


def guide(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 2, ONE))


def mixture(x: Tensor, draws: int | None = 4) -> None:
    infer: Any = {"enumerate": "parallel", **({"num_samples": draws} if draws else {})}
    with pyro.plate("data", len(x)):
        k = pyro.sample("k", dist.Categorical(ONE.expand(3)), infer=infer)
        pyro.sample("x", dist.Normal(k * ONE, ONE), obs=x)


def nothing(x: Tensor) -> None:
    pass


MARKED = config_enumerate(guide, num_samples=5)


@pytest.mark.parametrize("estimate", [elbo, log_evidence])
def test_evaluations_draw_a_marked_guide_site_as_one_without_the_mark(estimate: Any) -> None:
    found, expected = (estimate(pair(model, q), Batch(x=X), 500) for q in (MARKED, guide))
    assert found.value == expected.value


def test_a_site_of_the_model_alone_is_summed_out_where_its_values_are_finite() -> None:
    exact = torch.logsumexp(dist.Normal(torch.arange(3) * ONE, ONE).log_prob(X[:, None]), -1) - (3 * ONE).log()
    weights = log_weights(pair(mixture, nothing), Batch(x=X), 2)
    torch.testing.assert_close(weights.log_w, exact.expand(2, -1), rtol=0, atol=1e-12)
    with pytest.raises(InputError, match=r"'z' is marked with num_samples=3.*TraceTMC_ELBO, or draw the site in the"):
        log_weights(pair(config_enumerate(model, num_samples=3), nothing), Batch(x=X), 2)


def test_tensor_monte_carlo_has_the_value_of_pyro_and_passes_the_check() -> None:
    values = []
    for objective in (TraceTMC_ELBO(max_plate_nesting=1), adapt(TraceTMC_ELBO(max_plate_nesting=1))):
        pyro.set_rng_seed(3)
        values.append(objective.loss(model, MARKED, X))
    assert values[0] == values[1]
    kinds = {finding.kind for finding in pvae.check(pair(model, MARKED), Batch(x=X), TraceTMC_ELBO())}
    assert not kinds & {"no bound", "missing site", "enumeration"}


def test_objectives_of_weights_and_unweighted_draws_are_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"'z' is marked with num_samples=5.*remove num_samples and use particles"):
        pvae.IWAE(2).loss(model, MARKED, X)
    (fatal,) = [f for f in pvae.check(pair(mixture, nothing), Batch(x=X), TraceEnum_ELBO()) if f.kind == "no bound"]
    assert fatal.fatal and fatal.subject == "k" and "TraceTMC_ELBO" in fatal.fix
    kinds = {finding.kind for finding in pvae.check(pair(mixture, nothing), Batch(x=X), TraceTMC_ELBO())}
    assert not kinds & {"no bound", "missing site", "enumeration"}
