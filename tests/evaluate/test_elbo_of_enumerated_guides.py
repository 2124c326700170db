"""The ELBO of guides with enumerated sites, against sums over all outcomes: their q counts as without a mark."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import config_enumerate
from torch import Tensor

import pvae
from pvae import Batch, pair
from pvae.evaluate import elbo, judge, log_evidence, summed_out_elbo

DOUBLE = torch.float64
X = torch.tensor([0.3, -1.0, 2.5], dtype=DOUBLE)
SUMMED: Any = {"enumerate": "parallel"}


def normal(loc: Any, scale: float = 1.0) -> Any:
    return dist.Normal(torch.as_tensor(loc, dtype=DOUBLE), torch.tensor(scale, dtype=DOUBLE))


def bernoulli(probability: Any) -> Any:
    return dist.Bernoulli(torch.as_tensor(probability, dtype=DOUBLE))


def value(model: Callable[[Tensor], Any], guide: Callable[[Tensor], Any], x: Tensor = X, **where: Any) -> Tensor:
    """Return the ELBO of each datum, with every site of the guide marked."""
    found = elbo(pair(model, config_enumerate(guide)), Batch(x=x), 2, **where).pointwise
    assert found is not None
    return found


def classified(x: Tensor) -> None:
    """y ~ Bernoulli(0.5), z given y ~ Normal(2 y, 1), x given z ~ Normal(z, 1); k, summed out, moves x by a tenth."""
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", bernoulli(0.5))
        z = pyro.sample("z", normal(2 * y))
        k = pyro.sample("k", bernoulli(0.25 + 0.5 * y), infer=SUMMED)
        pyro.sample("x", normal(z + 0.0 * k), obs=x)


def classifier(x: Tensor) -> None:
    """q(y) is wrong, and q(z given x, y) is the exact posterior, so that no draw of z adds noise."""
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", bernoulli(0.99))
        pyro.sample("z", normal((x + 2 * y) / 2, 0.5**0.5))


def by_class() -> tuple[Tensor, Tensor]:
    """Return log p(x, y) and q(y) of `classified` and `classifier`, shapes (classes, data) and (classes, 1)."""
    joint = torch.stack([normal(2.0 * y, 2**0.5).log_prob(X) for y in (0, 1)]) + math.log(0.5)
    return joint, torch.tensor([[0.01], [0.99]], dtype=DOUBLE)


def test_a_wrong_classifier_shows_in_elbo_and_gap_with_and_without_its_mark() -> None:
    joint, q = by_class()
    exact, evidence = (q * (joint - q.log())).sum(0), joint.logsumexp(0)
    torch.testing.assert_close(value(classified, classifier), exact, rtol=0, atol=1e-12)
    marked = pair(classified, config_enumerate(classifier))
    judged = judge(marked, Batch(x=X), 30)
    assert judged.elbo.value == pytest.approx(exact.mean().item(), abs=1e-12)
    assert judged.gap.value == pytest.approx((evidence - exact).mean().item(), abs=1e-12)
    assert judged.summed_out_elbo is not None
    assert judged.summed_out_elbo.value == pytest.approx(evidence.mean().item(), abs=1e-12)
    assert judged.to_json()["summed_out_elbo"]["value"] == judged.summed_out_elbo.value
    assert summed_out_elbo(marked, Batch(x=X), 2).value == pytest.approx(evidence.mean().item(), abs=1e-12)
    assert log_evidence(marked, Batch(x=X), 2).value == pytest.approx(evidence.mean().item(), abs=1e-12)
    drawn = judge(pair(classified, classifier), Batch(x=X), 4000)
    assert drawn.summed_out_elbo is None
    torch.testing.assert_close(drawn.elbo.pointwise, exact, rtol=0, atol=0.1)


def test_a_training_records_the_bound_that_it_maximises_by_its_name() -> None:
    weights = pvae.log_weights(pair(classified, config_enumerate(classifier)), Batch(x=X), 2)
    joint, _ = by_class()
    assert weights.named().keys() == {"summed_out_elbo"}
    torch.testing.assert_close(weights.named()["summed_out_elbo"], joint.logsumexp(0), rtol=0, atol=1e-12)


LENGTH = 4
FIRST, MOVES = torch.tensor([0.6, 0.4], dtype=DOUBLE), torch.tensor([[0.8, 0.2], [0.3, 0.7]], dtype=DOUBLE)
Q_FIRST, Q_MOVES = torch.tensor([0.1, 0.9], dtype=DOUBLE), torch.tensor([[0.5, 0.5], [0.9, 0.1]], dtype=DOUBLE)
SEQUENCES = torch.randn(3, LENGTH, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)


def chain(x: Tensor, steps: Any, moves: tuple[Tensor, Tensor], lengths: Tensor | None, observe: bool) -> None:
    with pyro.plate("data", len(x)):
        state: Any = None
        for t in steps:
            seen: Any = True if lengths is None else t < lengths
            with pyro.poutine.mask(mask=seen):
                rows = moves[0] if state is None else moves[1][state]
                state = pyro.sample(f"state_{t}", dist.Categorical(rows))
                if observe:
                    note = pyro.sample(f"note_{t}", dist.Categorical(MOVES[state]), infer=SUMMED)
                    pyro.sample(f"x_{t}", normal(state + 2 * note), obs=x[:, t])


@pytest.mark.parametrize("window", [True, False])
@pytest.mark.parametrize("lengths", [None, torch.tensor([4, 1, 2])])
def test_a_chain_in_the_guide_has_the_elbo_of_the_sum_over_all_paths(window: bool, lengths: Tensor | None) -> None:
    def steps() -> Any:
        return pyro.markov(range(LENGTH)) if window else range(LENGTH)

    found = value(
        lambda x: chain(x, steps(), (FIRST, MOVES), lengths, observe=True),
        lambda x: chain(x, steps(), (Q_FIRST, Q_MOVES), lengths, observe=False),
        SEQUENCES,
    )
    for datum, x in enumerate(SEQUENCES):
        length = LENGTH if lengths is None else int(lengths[datum])
        exact = torch.zeros((), dtype=DOUBLE)
        for path in itertools.product((0, 1), repeat=length):
            log_p, log_q = FIRST[path[0]].log(), Q_FIRST[path[0]].log()
            for before, after in itertools.pairwise(path):
                log_p, log_q = log_p + MOVES[before, after].log(), log_q + Q_MOVES[before, after].log()
            for t, state in enumerate(path):
                by_note = normal(state + 2.0 * torch.arange(2)).log_prob(x[t])
                log_p = log_p + (MOVES[state].log() + by_note).logsumexp(0)
            exact = exact + log_q.exp() * (log_p - log_q)
        assert found[datum].item() == pytest.approx(exact.item(), abs=1e-12)


def test_sites_in_a_plate_inside_that_of_the_data_add_their_elbos() -> None:
    x = torch.randn(3, 5, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)

    def words(x: Tensor, q: float, observe: bool) -> None:
        with pyro.plate("data", len(x), dim=-2), pyro.plate("words", 5, dim=-1):
            y = pyro.sample("y", bernoulli(torch.full_like(x, q)))
            if observe:
                pyro.sample("x", normal(2 * y), obs=x)

    found = value(lambda x: words(x, 0.5, True), lambda x: words(x, 0.9, False), x, data_plate="data")
    terms = [q * (math.log(0.5 / q) + normal(2.0 * y).log_prob(x)) for y, q in ((0, 0.1), (1, 0.9))]
    torch.testing.assert_close(found, sum(terms).sum(-1), rtol=0, atol=1e-12)  # type: ignore[union-attr]
    joint = torch.stack([math.log(0.5) + normal(2.0 * y).log_prob(x) for y in (0, 1)]).logsumexp(0).sum(-1)
    marked = pair(lambda x: words(x, 0.5, True), config_enumerate(lambda x: words(x, 0.9, False)))
    assert log_evidence(marked, Batch(x=x), 2, data_plate="data").value == pytest.approx(joint.mean().item(), abs=1e-12)


@pytest.mark.parametrize(("q", "finite"), [(1.0, True), (0.999, False)])
def test_an_impossible_value_costs_nothing_if_q_never_draws_it(q: float, finite: bool) -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(logits=torch.tensor([0.0, -math.inf], dtype=DOUBLE)))
            pyro.sample("x", normal(y), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Categorical(logits=torch.tensor([q, 1 - q], dtype=DOUBLE).log()))

    with pyro.validation_enabled(False):
        found = value(model, guide)
    exact = normal(0.0).log_prob(X) if finite else torch.full_like(X, -math.inf)
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-12)


class Mixture(pvae.LatentModel):
    """Three unit Normals, whose component is summed out; the guide draws nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.means = torch.nn.Parameter(torch.tensor([-2.0, 0.0, 3.0], dtype=DOUBLE))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(torch.tensor([0.2, 0.5, 0.3], dtype=DOUBLE)), infer=SUMMED)
            pyro.sample("x", normal(self.means[k]), obs=x)

    def guide(self, x: Tensor) -> None:
        pass


@pytest.mark.parametrize("objective", ["iwae:particles=3", "renyi", "vimco", "elbo-enum"])
@pytest.mark.usefixtures("own_store")
def test_a_guide_that_draws_nothing_is_trained_and_judged_by_the_exact_evidence(objective: str) -> None:
    model = Mixture()
    scores = torch.tensor([0.2, 0.5, 0.3], dtype=DOUBLE).log() + normal(model.means.detach()).log_prob(X[:, None])
    exact = scores.logsumexp(-1)
    assert not pvae.check(model, Batch(x=X), objective).fatal
    judged = judge(model, Batch(x=X), 30)
    for estimate in (judged.log_evidence, judged.elbo):
        torch.testing.assert_close(estimate.pointwise, exact, rtol=0, atol=1e-12)
    assert judged.gap.value == 0.0 and judged.summed_out_elbo is None and judged.active_units is None
    loss = pvae.objectives.make_objective(objective)().loss(model.model, model.guide, X)
    assert -loss == pytest.approx(exact.sum().item(), rel=1e-12)
