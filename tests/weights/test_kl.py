"""The KL divergence of one site: closed form, draw by unit, or draw of the whole site."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch.distributions import kl_divergence

from pvae.weights.kl import ANALYTIC, SAMPLED, WHOLE, kl_of_site, prior_is_fixed, unit_density

Q = dist.Normal(torch.tensor([[0.3, -1.0], [0.0, 2.0]]), 0.7).to_event(1)
P = dist.Normal(torch.zeros(2, 2), 1.0).to_event(1)
Z = torch.tensor([[0.1, -0.4], [1.0, 1.5]])


def site(density: Any, mask: Any = None) -> dict[str, Any]:
    return {"name": "z", "fn": density, "value": Z, "mask": mask}


def test_independent_units_have_a_closed_form() -> None:
    kl = kl_of_site(site(Q), site(P), True)
    assert kl.how == ANALYTIC and kl.event_dim(site(Q)) == 1
    assert torch.equal(kl.terms, kl_divergence(Q.base_dist, P.base_dist))


def test_a_prior_that_depends_on_the_site_is_sampled_by_unit() -> None:
    kl = kl_of_site(site(Q), site(P), False)
    assert kl.how == SAMPLED
    assert torch.equal(kl.terms, Q.base_dist.log_prob(Z) - P.base_dist.log_prob(Z))


def test_a_masked_datum_has_no_kl() -> None:
    mask = torch.tensor([True, False])
    kl = kl_of_site(site(Q, mask), site(P, mask), True)
    assert kl.how == SAMPLED and (kl.terms[1] == 0).all() and (kl.terms[0] != 0).all()


def test_a_density_that_does_not_factorise_counts_as_a_whole() -> None:
    whole = dist.MultivariateNormal(Q.mean, torch.eye(2))
    kl = kl_of_site(site(whole), site(P), True)
    assert kl.how == WHOLE and kl.event_dim(site(whole)) == 0
    assert torch.equal(kl.terms, whole.log_prob(Z) - P.log_prob(Z))


def test_a_masked_density_has_no_unit_density() -> None:
    assert unit_density(Q) is Q.base_dist
    assert unit_density(Q.mask(torch.tensor([True, False]))) is None


def test_a_prior_is_fixed_if_the_guide_draws_in_the_order_of_the_model() -> None:
    model_order = ["top", "bottom"]
    assert prior_is_fixed("bottom", ["top", "bottom"], model_order)
    assert prior_is_fixed("top", ["bottom", "top"], model_order)
    assert not prior_is_fixed("bottom", ["bottom", "top"], model_order)
