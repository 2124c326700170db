"""Observed sites of a guide, such as pyro.factor: a further loss is trained and is not a part of q."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pvae
from pvae import Batch, InputError, log_weights, pair
from pvae.evaluate import elbo, judge, log_evidence

X = torch.randn(20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
ZERO, ONE = torch.tensor([0.0, 1.0], dtype=torch.float64)
EVIDENCE = dist.Normal(ZERO, 2**0.5 * ONE).log_prob(X)
LEFT_OUT = "'classifier' is observed.*not a part of q"


def model(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(ZERO, ONE))
        pyro.sample("x", dist.Normal(z, ONE), obs=x)


def guide(x: Tensor, term: Any = None, outside: Any = None) -> None:
    """The exact posterior, with a further term inside or outside the plate."""
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 2, ONE * 0.5**0.5))
        if term:
            term(x)
    if outside:
        outside(x)


def factor(has_rsample: bool) -> Any:
    return lambda x: pyro.factor("classifier", torch.full_like(x, 10.0), has_rsample=has_rsample)


def observed(x: Tensor) -> None:
    label = (x > 0).to(x.dtype)
    pyro.sample("classifier", dist.Bernoulli(torch.full_like(x, 0.3)), obs=label, infer={"is_auxiliary": True})


GUIDES = {
    "factor": lambda x: guide(x, factor(False)),
    "reparameterised factor": lambda x: guide(x, factor(True)),
    "observed label": lambda x: guide(x, observed),
    "factor outside the plate": lambda x: guide(
        x, outside=lambda x: pyro.factor("classifier", 10.0 * x.sum(), has_rsample=False)
    ),
}


@pytest.mark.parametrize("name", GUIDES)
def test_evaluations_leave_a_further_loss_of_the_guide_out_and_say_so(name: str) -> None:
    programs, batch = pair(model, GUIDES[name]), Batch(x=X)
    with pytest.warns(UserWarning, match=LEFT_OUT):
        weights = log_weights(programs, batch, 3)
    torch.testing.assert_close(weights.log_w, EVIDENCE.expand(3, -1), rtol=0, atol=1e-12)
    for estimate in (log_evidence, elbo):
        with pytest.warns(UserWarning, match=LEFT_OUT):
            found = estimate(programs, batch, 3).pointwise
        torch.testing.assert_close(found, EVIDENCE, rtol=0, atol=1e-12)
    with pytest.warns(UserWarning, match=LEFT_OUT):
        assert judge(programs, batch, 30).gap.value == pytest.approx(0.0, abs=1e-12)
    notes = [finding for finding in pvae.check(programs, batch, "elbo") if finding.kind == "loss in the guide"]
    assert [(note.subject, note.fatal) for note in notes] == [("classifier", False)]


def test_a_training_keeps_the_loss_and_records_the_elbo_without_it() -> None:
    programs = pair(model, GUIDES["factor"])
    terms = pvae.IWAE(3).terms(programs.model, programs.guide, (X,), {}, "all")
    assert -terms.loss.item() == pytest.approx(EVIDENCE.sum().item() - 10 * len(X), rel=1e-12)
    assert terms.named["elbo"].item() == pytest.approx(EVIDENCE.sum().item(), rel=1e-12)
    assert (terms.named["log_likelihood"] - terms.named["kl"]).item() == pytest.approx(EVIDENCE.sum().item(), rel=1e-12)


def moved(x: Tensor) -> None:
    """z = x / 2 + sqrt(0.5) u, whose density is that of u and a factor, as in Pyro's AutoGaussian."""
    with pyro.plate("data", len(x)):
        u = pyro.sample("u", dist.Normal(ZERO, ONE), infer={"is_auxiliary": True})
        pyro.sample("z", dist.Delta(x / 2 + 0.5**0.5 * u))
        pyro.factor("determinant", torch.full_like(x, 2.0).log() / 2, has_rsample=True)


def classes(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.Bernoulli(torch.full_like(x, 0.5)))
        pyro.sample("x", dist.Normal(y, ONE), obs=x)


def drawn_elsewhere(x: Tensor) -> None:
    """The draw of y is no site, and its density may be the factor."""
    with pyro.plate("data", len(x)):
        q = dist.Bernoulli(torch.full_like(x, 0.3))
        y = q.sample()
        pyro.sample("y", dist.Delta(y))
        pyro.factor("log_q", q.log_prob(y), has_rsample=False)


def test_a_factor_beside_delta_sites_is_their_density_or_is_refused() -> None:
    weights = log_weights(pair(model, moved), Batch(x=X), 3)
    torch.testing.assert_close(weights.log_w, EVIDENCE.expand(3, -1), rtol=0, atol=1e-12)
    with pytest.raises(InputError, match=r"'log_q'.*may be their density or a further loss"):
        log_evidence(pair(classes, drawn_elsewhere), Batch(x=X), 3)
