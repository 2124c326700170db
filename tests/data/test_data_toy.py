"""The linear Gaussian toy against independent routes, and values against a likelihood's support."""

import pyro.distributions as dist
import pytest
import torch

from pvae.data import LinearGaussian, check_support, fit_ppca
from pvae.errors import InputError

DOUBLE = torch.float64


@pytest.fixture
def toy() -> LinearGaussian:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(5, 2, generator=generator, dtype=DOUBLE)
    return LinearGaussian(weight, torch.arange(5, dtype=DOUBLE), 0.3)


def test_evidence_is_joint_over_posterior_at_any_latent(toy):
    """log p(x) = log p(x, z) - log p(z given x) for every z: exact to 1e-10."""
    x = toy.sample(7, seed=2).x
    mean, covariance = toy.posterior(x)
    z = torch.randn(7, 2, generator=torch.Generator().manual_seed(3), dtype=DOUBLE)
    prior = dist.Normal(torch.zeros(2, dtype=DOUBLE), 1.0).to_event(1).log_prob(z)
    likelihood = dist.Normal(z @ toy.weight.T + toy.mean, 0.3**0.5).to_event(1).log_prob(x)
    posterior = torch.distributions.MultivariateNormal(mean, covariance).log_prob(z)
    assert torch.allclose(toy.log_evidence(x), prior + likelihood - posterior, rtol=1e-10, atol=1e-10)


def test_samples_have_the_mean_and_covariance_of_the_model(toy):
    """Within 4.5 standard errors of every entry, 100000 draws."""
    x = toy.sample(100_000, seed=4).x
    truth, centred = toy.covariance, x - toy.mean
    assert ((x.mean(0) - toy.mean).abs() <= 4.5 * (truth.diag() / len(x)).sqrt()).all()
    error = ((truth**2 + truth.diag()[:, None] * truth.diag()) / len(x)).sqrt()
    assert ((centred.T @ centred / len(x) - truth).abs() <= 4.5 * error).all()
    assert torch.equal(toy.sample(5, seed=4).x, toy.sample(5, seed=4).x)


def test_ppca_is_a_maximum_of_the_evidence(toy):
    x = toy.sample(500, seed=5).x
    best = fit_ppca(x, 2)
    parameters = [best.weight.clone(), best.mean.clone(), torch.tensor(best.variance, dtype=DOUBLE)]

    def evidence(weight, mean, variance):
        covariance = weight @ weight.T + variance * torch.eye(5, dtype=DOUBLE)
        return torch.distributions.MultivariateNormal(mean, covariance).log_prob(x).mean()

    gradients = torch.func.grad(evidence, argnums=(0, 1, 2))(*parameters)
    assert all(g.abs().max() < 1e-10 for g in gradients)
    assert evidence(*parameters) > evidence(toy.weight, toy.mean, torch.tensor(0.3, dtype=DOUBLE))


def test_ppca_agrees_with_scikit_learn(toy):
    from sklearn.decomposition import PCA

    x = toy.sample(200, seed=6).x
    pca = PCA(2).fit(x.numpy())
    ours = fit_ppca(x, 2)
    # scikit-learn divides by N - 1, maximum likelihood by N.
    assert ours.variance == pytest.approx(pca.noise_variance_ * 199 / 200, rel=1e-10)
    assert torch.allclose(ours.covariance * 200 / 199, torch.from_numpy(pca.get_covariance()), rtol=1e-8)


def test_unfit_toys_are_refused():
    with pytest.raises(InputError, match=r"got \(5, 2\), \(4,\)"):
        LinearGaussian(torch.zeros(5, 2), torch.zeros(4), 1.0)
    with pytest.raises(InputError, match="latent < features"):
        fit_ppca(torch.zeros(9, 3), 3)
    with pytest.raises(InputError, match="none"):
        fit_ppca(torch.zeros(9, 3), 2)


@pytest.mark.parametrize(
    ("distribution", "x", "facts"),
    [
        (dist.Bernoulli(torch.full((2, 3), 0.5)).to_event(1), [[0, 1, 0.25], [1, 1, 0.5]],
         ["Bernoulli needs x in {0, 1}", "from 0 to 1", "2 of 6", "[0, 2]", "'static' or 'dynamic'"]),
        (dist.Bernoulli(0.5).expand([2, 3]).mask(True).to_event(2), [[0, 1, 0], [255, 1, 9]],
         ["Bernoulli", "from 0 to 255", "2 of 6", "[1, 0]", "Rescale"]),
        (dist.Gamma(1.0, 1.0).expand([3]), [0.5, -1, 2], ["Gamma", "from -1 to 2", "1 of 3", "[1]"]),
        (dist.Poisson(torch.ones(3)), [0, 1, 2.5], ["Poisson", "1 of 3", "[2]"]),
        (dist.Uniform(torch.zeros(3), torch.ones(3)), [0.0, 1, 2], ["Uniform", "1 of 3"]),
        (dist.Categorical(torch.ones(3)), [0, 1, 3], ["Categorical", "from 0 to 3", "1 of 3"]),
    ],
)  # fmt: skip
def test_values_outside_the_support_are_counted_and_placed(distribution, x, facts):
    with pytest.raises(InputError) as error:
        check_support("x", torch.tensor(x), distribution)
    text = str(error.value)
    assert "\n" not in text and all(fact in text for fact in facts), text


def test_values_inside_the_support_pass():
    binary = torch.tensor([[0.0, 1.0], [1.0, 1.0]])
    check_support("x", binary, dist.Bernoulli(torch.full((2, 2), 0.5)).to_event(1))
    check_support("x", binary, dist.Normal(0.0, 1.0).expand([2, 2]).to_event(2).mask(False))
    check_support("x", torch.tensor([0.0, 0.5, 1.0]), dist.ContinuousBernoulli(torch.full((3,), 0.5)))
    check_support("x", torch.tensor([[0.5, 0.5]]), dist.Dirichlet(torch.ones(2)))
