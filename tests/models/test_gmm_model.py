"""The Gaussian mixture as a Pyro model: where SVI and EM meet, with and without a prior, exact guide and network."""

from __future__ import annotations

import copy
import functools

import numpy as np
import pyro
import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor

import pvae
from pvae.comparison.cells.em_training import fit_by_em
from pvae.comparison.cells.likelihood_recorder import LikelihoodRecorder
from pvae.em import GaussianMixture, Prior, maximise, mixture_of, responsibilities
from pvae.models.mixture import GMM
from pvae.objectives import make_objective

KINDS = ("full", "tied", "diag", "spherical")
RANDOM = np.random.default_rng(3)
CENTRES = np.array([[-2.5, 0.0], [2.5, 1.0], [0.0, 3.5]])
SHARES = RANDOM.choice(3, p=[0.5, 0.3, 0.2], size=240)
X = torch.as_tensor(CENTRES[SHARES] + RANDOM.normal(size=(240, 2)) * np.array([1.0, 0.6]))
CONJUGATE = "conjugate:concentration=3:scale=0.5:degrees=4"

pytestmark = pytest.mark.usefixtures("own_store")


def mixture_model(kind: str = "full", **settings) -> GMM:
    """A mixture in float64 that has started from the data, and then moved away from where k-means ends."""
    torch.manual_seed(0)
    model = GMM(2, components=3, covariance=kind, data_size=len(X), **settings).double()
    model.initialise_from({"x": X})
    with torch.no_grad():
        model.means.add_(torch.tensor([[0.6, -0.3]], dtype=torch.float64))
        model.scales.add_(0.3)
    return model


def splits() -> pvae.Splits:
    return pvae.load_data({"x": X.numpy()}, validation=0, test=0, binarise="none")


def trained(model: GMM, objective: str) -> GMM:
    data = splits()
    options = {"precision": "float64", "schedule": "cosineannealing:T_max=150", "progress": False}
    pvae.fit(model, data, objective=objective, epochs=150, batch_size=len(X), learning_rate=0.1, **options)
    return model


@functools.cache
def trained_by_svi() -> GMM:
    """The mixture with full covariances and without a prior after its training; no test changes it."""
    return trained(mixture_model(), "elbo-enum")


def elbo(model: GMM, x: Tensor) -> Tensor:
    """E_q[log p(x, z) - log q(z given x)] with q's gradient, by a sum over components, shape (batch,)."""
    log_q = torch.log_softmax(model.recogniser(x), 1)
    log_joint = torch.log_softmax(model.logits, 0) + model.component().log_prob(x.unsqueeze(1))
    return (log_q.exp() * (log_joint - log_q)).sum(1)


# ---- where EM and SVI meet


@pytest.mark.parametrize(("kind", "objective"), [("full", "elbo-enum"), ("diag", "em")])
def test_svi_ends_where_em_ends(kind: str, objective: str) -> None:
    model = mixture_model(kind)
    weights, means, covariances = model.parameters_of_mixture()
    precisions = 1 / covariances if kind == "diag" else torch.linalg.inv(covariances)
    given = {"weights_init": weights, "means_init": means, "precisions_init": precisions}
    fitted = GaussianMixture(3, covariance_type=kind, tol=1e-10, max_iter=5000, **given).fit(X)
    start = float(model.log_evidence(X).mean())
    model = trained_by_svi() if objective == "elbo-enum" else trained(model, objective)
    evidence = float(model.log_evidence(X).mean())
    assert abs(evidence - float(fitted.score(X))) < 1e-4 < 0.01 < evidence - start
    assert_allclose(model.log_evidence(X), fitted.score_samples(X), atol=0.02)


def test_one_em_step_is_a_matrix_times_the_gradient_of_the_log_evidence() -> None:
    """Weights, means and covariances of the M-step from the gradient that the objective gives, in closed form.

    Source: Xu & Jordan, On convergence properties of the EM algorithm for Gaussian mixtures, Neural Computation 8,
    1996, theorem 1. The covariances there are about the old means.
    """
    model = mixture_model("full")
    weights, means, covariances = (each.detach() for each in model.parameters_of_mixture())
    shares, _ = responsibilities(X, mixture_of(weights, means, covariances))
    after, counts = maximise(X, shares), shares.sum(0)
    loss = make_objective("elbo-enum")().differentiable_loss(model.model, model.guide, X)
    logits, middle, scales = torch.autograd.grad(-loss, model.theta())
    assert_allclose(after.weights - weights, logits / len(X), atol=1e-12)
    step = (covariances @ middle.unsqueeze(2)).squeeze(2) / counts.unsqueeze(1)
    assert_allclose(after.means - means, step, atol=1e-12)
    about = after.covariances + step.unsqueeze(2) * step.unsqueeze(1)
    precisions = torch.linalg.inv(covariances)
    towards = counts[:, None, None] * precisions @ (about - covariances) @ precisions
    factors = torch.linalg.cholesky(covariances)
    expected = (towards @ factors).tril()
    diagonal = torch.diag_embed(factors.diagonal(dim1=1, dim2=2) * expected.diagonal(dim1=1, dim2=2))
    assert_allclose(scales.tril(), expected.tril(-1) + diagonal, atol=1e-9)
    assert float(step.abs().max()) > 1e-3


# ---- priors


def map_em(model: GMM, steps: int = 300) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """MAP-EM for full covariances in NumPy: pseudo-counts for the weights, pseudo-scatter for the covariances."""
    x = X.numpy()
    weights, means, covariances = (each.detach().numpy() for each in model.parameters_of_mixture())
    for _ in range(steps):
        apart = x[:, None] - means
        quadratic = np.einsum("nki,kij,nkj->nk", apart, np.linalg.inv(covariances), apart)
        logits = np.log(weights) - 0.5 * (quadratic + np.linalg.slogdet(covariances)[1])
        shares = np.exp(logits - logits.max(1, keepdims=True))
        shares /= shares.sum(1, keepdims=True)
        counts = shares.sum(0)
        weights = (counts + 3 - 1) / (len(x) + 3 * (3 - 1))
        means = shares.T @ x / counts[:, None]
        apart = x[:, None] - means
        scatter = np.einsum("nk,nki,nkj->kij", shares, apart, apart) + 0.5 * np.eye(2)
        covariances = scatter / (counts + 4 + 2 + 1)[:, None, None]
    return weights, means, covariances


def test_the_mode_under_a_prior_is_that_of_map_em() -> None:
    model = trained(mixture_model(prior=CONJUGATE), "elbo-enum")
    for found, expected in zip(model.parameters_of_mixture(), map_em(mixture_model()), strict=True):
        assert_allclose(found.detach(), expected, rtol=1e-3, atol=1e-3)
    without = trained_by_svi().parameters_of_mixture()[2]
    assert float((without - model.parameters_of_mixture()[2]).detach().abs().max()) > 0.02


@pytest.mark.parametrize("kind", KINDS)
def test_em_and_the_program_climb_one_function_under_a_prior(kind: str) -> None:
    model = mixture_model(kind, prior=CONJUGATE)
    prior = Prior(3.0, 0.5 * torch.eye(2, dtype=torch.float64), 4.0)
    mixture = mixture_of(*model.parameters_of_mixture(), kind)
    assert float(model.log_prior().detach()) == pytest.approx(float(prior.log_density(mixture)), rel=1e-12)
    fit_by_em(model, splits())
    loss = make_objective("elbo-enum")().differentiable_loss(model.model, model.guide, X)
    away = copy.deepcopy(model)
    with torch.no_grad():
        away.scales.add_(0.1)
    other = make_objective("elbo-enum")().differentiable_loss(away.model, away.guide, X)
    at, off = (
        max(float(each.abs().max()) for each in torch.autograd.grad(value, net.theta()))
        for value, net in ((loss, model), (other, away))
    )
    assert at < 0.02 < 5 < off
    whole = float(model.log_evidence(X).sum() + model.log_prior().detach())
    assert float(loss.detach()) == pytest.approx(-whole, rel=1e-12)


def test_a_prior_counts_once_in_all_batches_and_scales() -> None:
    """Over the batches of an epoch, and under a scale N/B of each, the log prior is in the sum once."""
    model, objective = mixture_model(prior=CONJUGATE), make_objective("elbo-enum")()
    whole = -float(model.log_evidence(X).sum() + model.log_prior().detach())
    parts = X.split(100)
    assert sum(objective.loss(model.model, model.guide, each) for each in parts) == pytest.approx(whole, rel=1e-12)
    scaled = [objective.loss(*_scaled(model, len(X) / len(each)), each) for each in parts]
    mean = sum(len(each) * loss for each, loss in zip(parts, scaled, strict=True)) / len(X)
    assert mean == pytest.approx(whole, rel=1e-12)
    model.eval()
    assert objective.loss(model.model, model.guide, X) == pytest.approx(-float(model.log_evidence(X).sum()), rel=1e-12)
    assert_allclose(pvae.evaluate.log_evidence(model, X, particles=1).value, model.log_evidence(X).mean(), rtol=1e-12)


def _scaled(model: GMM, scale: float):
    return pyro.poutine.scale(model.model, scale), pyro.poutine.scale(model.guide, scale)


def test_the_scale_comes_from_the_data_where_none_is_given() -> None:
    model = mixture_model(prior="conjugate")
    assert_allclose(model.prior.scale, X.var(0, correction=0) / 3, rtol=1e-12)
    model.initialise_from({"x": 2 * X})
    assert_allclose(model.prior.scale, X.var(0, correction=0) / 3, rtol=1e-12)
    assert model.prior.degrees == 4


# ---- the amortised guide


def test_an_amortised_guide_falls_short_by_its_divergence() -> None:
    model = mixture_model(guide="amortised", hidden=(8,))
    gap, evidence = model.gap(X), model.log_evidence(X)
    assert_allclose((evidence - elbo(model, X)).detach(), gap, atol=1e-12)
    assert float(gap.min()) >= 0 and float(gap.mean()) > 0.1
    loss = make_objective("elbo-enum")().differentiable_loss(model.model, model.guide, X)
    assert float(loss.detach()) == pytest.approx(float((gap - evidence).sum()), rel=1e-12)
    for found, expected in zip(
        torch.autograd.grad(-loss, [*model.theta(), *model.phi()]),
        torch.autograd.grad(elbo(model, X).sum(), [*model.theta(), *model.phi()]),
        strict=True,
    ):
        assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
    assert float(mixture_model().gap(X).abs().max()) < 1e-14


def test_training_closes_the_gap_of_an_amortised_guide() -> None:
    model = mixture_model(guide="amortised", hidden=(16,))
    before = float(model.gap(X).mean())
    trained(model, "elbo-enum")
    assert float(model.gap(X).mean()) < 0.05 < before
    best = float(trained_by_svi().log_evidence(X).mean())
    assert abs(float(model.log_evidence(X).mean()) - best) < 0.05


# ---- settings, and the command line


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"guide": "exakt"}, "did you mean 'exact'"),
        ({"prior": "conjugal", "data_size": 5}, "did you mean 'conjugate'"),
        ({"prior": "conjugate"}, "needs data_size"),
        ({"prior": "conjugate:degree=4", "data_size": 5}, "did you mean 'degrees'"),
        ({"prior": "conjugate:degrees=0.5", "data_size": 5}, "more than 1"),
        ({"prior": "conjugate:concentration=0.5", "data_size": 5}, "at least 1"),
        ({"prior": "conjugate:scale=-1", "data_size": 5}, "positive"),
        ({"prior": "conjugate:scale=big", "data_size": 5}, "scale of prior 'conjugate' needs a finite number"),
    ],
)
def test_wrong_settings_are_told(settings: dict, words: str) -> None:
    with pytest.raises(pvae.InputError, match=words):
        GMM(2, **settings)


@pytest.mark.parametrize("rows", [torch.arange(8.0).reshape(4, 2), torch.arange(8.0).reshape(4, 2).repeat(5, 1)])
def test_more_components_than_different_data_are_told(rows: torch.Tensor) -> None:
    with pytest.raises(pvae.InputError, match=r"5 components .* got 4 among .* Choose components=4 or fewer"):
        GMM(2, components=5).initialise_from({"x": rows})
    GMM(2, components=4).initialise_from({"x": rows})


def test_data_of_another_width_are_told() -> None:
    with pytest.raises(pvae.InputError, match=r"x needs 2 values for each datum, .* got \(3,\)"):
        GMM(2, components=2).model(torch.zeros(4, 3))


def test_a_comparison_records_the_log_likelihood_plus_log_prior() -> None:
    data, model = splits(), mixture_model(prior=CONJUGATE)
    recorder = LikelihoodRecorder(data)
    recorder({"epoch": 1, "seconds": 0.0}, model)
    start = float(model.log_evidence(X).mean()) + float(model.log_prior().detach()) / len(X)
    assert recorder.points[0].value == pytest.approx(start, rel=1e-6)
    summary = fit_by_em(model, data)
    recorder({"epoch": 2, "seconds": 0.0}, model)
    assert recorder.points[1].value == pytest.approx(summary.log_likelihoods[-1].value, rel=1e-6)
    values = [point.value for point in summary.log_likelihoods]
    assert values == sorted(values) and values[0] > start
