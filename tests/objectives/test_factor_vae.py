"""FactorVAE against the exact total correlation of a Gaussian, its gradient, and hand-written gradients."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from critics import Quadratic, assert_equal_gradients_by_any_route, best_critic, covariance
from scipy.stats import chisquare
from stats import assert_close_in_sigmas, mean_and_error
from torch import Tensor, nn

import pvae
from pvae.objectives import describe, make_objective
from pvae.objectives.adversarial.factor_vae import permute_units

pytestmark = pytest.mark.usefixtures("own_store", "seeded")

MIXING = [[1.0, 0.2, -0.3], [0.5, 0.8, 0.1], [0.0, -0.4, 0.9]]


class Correlated(pvae.LatentModel):
    """A guide z ~ N(A x, s^2) of x ~ N(0, 1): the aggregate posterior is N(0, A A' + s^2)."""

    def __init__(self, units: int = 3) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))
        self.mixing = nn.Parameter(torch.tensor(MIXING, dtype=torch.float64)[:units, :units].clone())
        self.spread = nn.Parameter(torch.tensor(-0.5, dtype=torch.float64))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.slope * z, 0.5).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x @ self.mixing.mT, self.spread.exp()).to_event(1))

    def theta(self) -> list[nn.Parameter]:
        return [self.slope]

    def phi(self) -> list[nn.Parameter]:
        return [self.mixing, self.spread]

    def aggregate(self) -> Tensor:
        """The covariance of the aggregate posterior."""
        return self.mixing @ self.mixing.mT + torch.eye(len(self.mixing)).double() * (2 * self.spread).exp()


def total_correlation(covariance: Tensor) -> Tensor:
    """-1/2 log det of the correlation matrix."""
    scale = covariance.diagonal().sqrt()
    return -0.5 * torch.linalg.slogdet(covariance / scale / scale[:, None]).logabsdet


def exact_critic(covariance: Tensor) -> Quadratic:
    """The log ratio of N(0, covariance) to the product of its marginals, as coefficients of 1, z and products of z."""
    units = len(covariance)
    quadratic = -0.5 * (torch.linalg.inv(covariance) - torch.diag(1 / covariance.diagonal()))
    pairs = [quadratic[i, j] * (1 if i == j else 2) for i in range(units) for j in range(i, units)]
    return Quadratic(units, [float(total_correlation(covariance)), *[0.0] * units, *map(float, pairs)])


def normal(size: int, units: int = 3, seed: int = 0) -> Tensor:
    """Data, by other seeds than those of the noise of the guide."""
    return torch.randn(size, units, generator=torch.Generator().manual_seed(1000 + seed), dtype=torch.float64)


def terms(objective: Any, model: Any, x: Tensor, player: str = "together") -> pvae.Terms:
    return objective.terms(model.model, model.guide, (x,), {}, player)


def test_the_best_critic_gives_the_exact_total_correlation() -> None:
    model, x = Correlated(), normal(20_000)
    exact = float(total_correlation(model.aggregate().detach()))
    objective = pvae.FactorVAE(critic=exact_critic(model.aggregate().detach()))
    found = terms(objective, model, x).named["total_correlation"] / len(x)
    z = torch.distributions.MultivariateNormal(torch.zeros(3).double(), model.aggregate()).sample((len(x),))
    ratio = objective.log_ratio(z)
    by_density = torch.distributions.MultivariateNormal(torch.zeros(3).double(), model.aggregate()).log_prob(z)
    by_density = by_density - dist.Normal(0.0, model.aggregate().diagonal().sqrt()).log_prob(z).sum(1)
    torch.testing.assert_close(ratio, by_density.detach(), rtol=1e-10, atol=1e-10)
    error = mean_and_error(ratio)[1]
    assert_close_in_sigmas(ratio.mean(), exact, error, effect=exact, resolution=0.04)
    assert_close_in_sigmas(found, exact, error, effect=exact, resolution=0.04)


def test_a_trained_critic_recovers_the_log_ratio() -> None:
    model, x = Correlated(2), normal(20_000, 2)
    exact = exact_critic(model.aggregate().detach())
    objective = best_critic(pvae.FactorVAE(critic=Quadratic(2)), model, x, 15)
    sides = objective.sides(model.model, model.guide, (x,), {})
    error = covariance(objective.network, sides.q[0].detach(), sides.p[0]).diagonal().sqrt()
    assert_close_in_sigmas(objective.network.weight, exact.weight, error, effect=0.5, resolution=0.1)


def test_at_the_best_critic_phi_follows_the_gradient_of_the_total_correlation() -> None:
    model = Correlated()
    exact = torch.autograd.grad(total_correlation(model.aggregate()), model.phi())
    critic = exact_critic(model.aggregate().detach())
    rows = []
    for seed in range(20):
        torch.manual_seed(seed)
        x, size = normal(2000, seed=seed), 2000
        found = [
            torch.autograd.grad(terms(pvae.FactorVAE(gamma, critic=critic), model, x).surrogate / size, model.phi())
            for gamma in (0.0, 1.0)
            if torch.manual_seed(seed) is not None  # the same draws for both
        ]
        rows.append(torch.cat([(second - first).flatten() for first, second in zip(*found, strict=True)]))
    value, error = mean_and_error(torch.stack(rows))
    assert_close_in_sigmas(value, torch.cat([each.flatten() for each in exact]), error, effect=0.5, resolution=0.05)


def test_each_player_has_the_hand_written_gradient_and_no_other() -> None:
    torch.manual_seed(2)
    model, x = Correlated(), normal(7)
    critic = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    objective = pvae.FactorVAE(5.0, critic=critic)
    everything = [*model.theta(), *model.phi(), *objective.critic()]
    objective.loss(model.model, model.guide, x)  # the first batch, which looks at the sites
    for player, reached in (("together", 3), ("critic", 4)):
        torch.manual_seed(3)
        ours = terms(objective, model, x, player)
        torch.manual_seed(3)
        z = x @ model.mixing.mT + model.spread.exp() * torch.randn(7, 3, dtype=torch.float64)
        if player == "together":
            prior = dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(model.slope * z, 0.5).log_prob(x)
            guide = dist.Normal(x @ model.mixing.mT, model.spread.exp()).log_prob(z)
            frozen = [each.detach() for each in critic.parameters()]
            logit = torch.tanh(z @ frozen[0].mT + frozen[1]) @ frozen[2].mT + frozen[3]
            expected = (5.0 * logit.sum(1) - (prior - guide).sum(1)).sum()
        else:
            z = z.detach()
            permuted = torch.stack([z[torch.randperm(7), unit] for unit in range(3)], 1)
            bce = nn.functional.binary_cross_entropy_with_logits
            sides = (critic(z), torch.ones(7, 1).double()), (critic(permuted), torch.zeros(7, 1).double())
            expected = sum(bce(logit, target, reduction="sum") for logit, target in sides)
        torch.testing.assert_close(ours.loss, expected.detach(), rtol=1e-12, atol=0)
        first = torch.autograd.grad(ours.surrogate, everything, allow_unused=True)
        second = torch.autograd.grad(expected, everything, allow_unused=True)
        assert [each is None for each in first] == [each is None for each in second]
        assert sum(each is not None for each in first) == reached
        for one, other in zip(first, second, strict=True):
            if one is not None:
                torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_units_are_permuted_in_the_batch_each_on_its_own() -> None:
    codes = torch.arange(6.0).reshape(3, 2).requires_grad_()
    seen = Counter()
    for _ in range(3600):
        permuted = permute_units(codes)
        assert not permuted.requires_grad
        seen[tuple(permuted.flatten().tolist())] += 1
    for each in seen:
        assert sorted(each[::2]) == [0.0, 2.0, 4.0] and sorted(each[1::2]) == [1.0, 3.0, 5.0]
    assert len(seen) == 36  # each pair of permutations of three data
    assert chisquare(list(seen.values())).pvalue > 1e-3


def test_plain_svi_and_the_module_agree_with_the_players() -> None:
    model, objective, x = Correlated(), pvae.FactorVAE(hidden=(4,)), normal(16)
    objective.loss(model.model, model.guide, x)
    assert_equal_gradients_by_any_route(objective, model, x)


def test_groups_have_rates_of_their_own_and_a_resumed_run_has_the_same_bits(tmp_path: Path) -> None:
    rates = {"theta": 1e-2, "phi": 1e-3, "critic": 1e-4}
    options = {"batch_size": 16, "learning_rate": rates, "step": "eager", "progress": False, "precision": "float64"}

    def trained(folder: str, epochs: tuple[int, ...]) -> dict[str, Tensor]:
        for count in epochs:
            torch.manual_seed(1)
            objective, model, out = pvae.FactorVAE(hidden=(8,), critic_steps=2), Correlated(), tmp_path / folder
            run = pvae.fit(
                model, normal(64), objective=objective, epochs=count, out=out, resume=out.exists(), **options
            )
            run.load("last")
        return {**model.state_dict(), **objective.state_dict()}

    whole, broken = trained("whole", (2,)), trained("broken", (1, 2))
    assert whole.keys() == broken.keys() and len(whole) == 7
    assert all(torch.equal(each, broken[name]) for name, each in whole.items())

    torch.manual_seed(1)
    objective, model = pvae.FactorVAE(hidden=(8,)), Correlated()
    pvae.fit(model, normal(16), objective=objective, epochs=1, **options)
    moved = (model.slope - Correlated().slope).abs(), (model.mixing - Correlated().mixing).abs()
    for by, rate in zip(moved, (1e-2, 1e-3), strict=True):  # Adam's first step
        torch.testing.assert_close(by, torch.full_like(by, rate), rtol=2e-3, atol=0)


def trained_on(model: Any, **options: Any) -> Callable[[], Any]:
    return lambda: pvae.fit(
        model(), torch.eye(6).repeat(4, 1), objective="factor-vae:hidden=4", epochs=1, step="eager", progress=False,
        **options,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("use", "said"),
    [
        (lambda: make_objective("factor-vae:gamma=-1"), "gamma needs a number of at least 0; got -1"),
        (lambda: make_objective("factor-vae:critic=mine"), "critic needs to be a torch.nn.Module; got 'mine'"),
        (lambda: make_objective("factor-vae:loss=minimax"), "loss"),
        (trained_on(lambda: pvae.VAE(6, latent=1, hidden=4)), "at least 2 units.*and 1 units"),
        (trained_on(lambda: pvae.VAE(6, latent=2, hidden=4), batch_size=1), "batches of at least 2 data.*got 1 data"),
        (trained_on(lambda: pvae.LadderVAE(6, latent=(2, 2), hidden=4)), "needs a guide with one latent site.*has 2"),
        (
            trained_on(lambda: pvae.Autoencoder(6, latent=2, hidden=4)),
            "needs a density of z; guide site 'z' is a Delta",
        ),
        (trained_on(lambda: pvae.VQVAE(6, latent=2, hidden=4, codes=3)), "needs reparameterised guide sites; 'k'"),
        (
            trained_on(lambda: pvae.VAE(6, latent=3, hidden=4, prior="sphere", posterior="von-mises-fisher")),
            "is infinite if the units of z constrain each other; site 'z' .VonMisesFisher.",
        ),
    ],
)
def test_what_has_no_total_correlation_is_refused_in_a_line(use: Callable[[], Any], said: str) -> None:
    with pytest.raises(pvae.InputError, match=said):
        use()


def test_a_run_has_an_evidence_and_records_the_total_correlation() -> None:
    splits = pvae.load_data(normal(60, 3).float().numpy(), validation=0.2, test=0.2)
    run = pvae.fit(
        Correlated(), splits, objective=pvae.FactorVAE(2.0, hidden=4), epochs=2, step="eager", progress=False
    )
    assert {"elbo", "total_correlation", "jensen_shannon", "critic_accuracy", "validation_bound"} <= run.history[
        0
    ].keys()
    assert describe(pvae.FactorVAE(2.0, hidden=4)) == "factor-vae:gamma=2.0:hidden=4"
    assert pvae.evaluate.elbo(run, splits).count == 12


def test_units_are_drawn_in_proportion_to_the_scales_of_their_data() -> None:
    """A permutation would give both values the same share, and its first unit the scale of another datum."""
    scale = torch.tensor([1.0, 3.0]).repeat(2000)
    codes = torch.tensor([[0.0, 0.0], [1.0, 1.0]]).repeat(2000, 1)
    drawn = permute_units(codes, scale)
    for values in (drawn[:, 0], drawn[:, 1]):  # the share of 1 in the scaled data is 3 / 4
        assert_close_in_sigmas(*_against(values, 0.75))
    # the units are independent, and independent of the scale of their row
    assert_close_in_sigmas(*_against(drawn[:, 0] * drawn[:, 1], 0.75**2))
    assert_close_in_sigmas(*_against(scale * (drawn[:, 0] - 0.75), 0.0))


def _against(values: Tensor, exact: float) -> tuple[Any, float, Any]:
    mean, error = mean_and_error(values)
    return mean, exact, error
