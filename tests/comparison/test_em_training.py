"""The Gaussian mixture as a Pyro model, and EM beside SVI in one comparison."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pyro
import pytest
import torch
from command_line import run
from numpy.testing import assert_allclose

import pvae
from pvae.comparison.cells.em_training import fit_by_em
from pvae.comparison.table.mixture_agreement import match_components
from pvae.em import GaussianMixture, mixture_of, responsibilities
from pvae.errors import InputError
from pvae.models.mixture import GMM
from pvae.objectives import make_objective

KINDS = ("full", "tied", "diag", "spherical")
RANDOM = np.random.default_rng(0)
CENTRES = np.array([[-3.0, 0.0], [3.0, 1.0], [0.0, 4.0]])
X = CENTRES[RANDOM.integers(3, size=500)] + RANDOM.normal(size=(500, 2))


def model_of(kind: str, x: np.ndarray = X) -> GMM:
    """A mixture in float64 that has started from data."""
    torch.manual_seed(0)
    model = GMM(x.shape[1], components=3, covariance=kind).double()
    model.initialise_from({"x": torch.as_tensor(x)})
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_the_program_has_the_density_and_the_posterior_of_the_estimator(kind: str) -> None:
    model, x = model_of(kind), torch.as_tensor(X)
    mixture = mixture_of(*model.parameters_of_mixture(), kind)
    posterior, log_likelihood = responsibilities(X, mixture)
    assert_allclose(model.log_evidence(x), log_likelihood, rtol=1e-12)
    assert_allclose(model.posterior(x), posterior, rtol=0, atol=1e-14)
    weights = pvae.log_weights(model, {"x": x}, particles=2)
    assert_allclose(weights.log_w.detach(), log_likelihood.expand(2, -1), rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_the_parameters_go_in_and_out(kind: str) -> None:
    fitted = GaussianMixture(3, covariance_type=kind, random_state=0).fit(X)
    model = model_of(kind)
    given = [torch.as_tensor(each) for each in (fitted.weights_, fitted.means_, fitted.covariances_)]
    model.set_parameters(*given)
    for out, each in zip(model.parameters_of_mixture(), given, strict=True):
        assert_allclose(out.detach(), each, rtol=1e-12, atol=1e-14)
    assert_allclose(model.log_evidence(torch.as_tensor(X)), fitted.score_samples(X), rtol=1e-11)


@pytest.mark.parametrize("name", ["elbo-enum", "em", "iwae:particles=2"])
def test_objectives_have_the_gradient_of_the_exact_evidence(name: str) -> None:
    """The guide is the E-step's posterior held fixed: the gradient of the bound is that of the evidence."""
    model, x = model_of("full"), torch.as_tensor(X[:40])
    logits = torch.log_softmax(model.logits, 0) + model.component().log_prob(x.unsqueeze(1))
    exact = torch.autograd.grad(logits.logsumexp(1).sum(), model.theta())
    with pyro.get_param_store().scope():
        loss = make_objective(name)().differentiable_loss(model.model, model.guide, x)
    assert float(loss.detach()) == pytest.approx(-float(model.log_evidence(x).sum()), rel=1e-12)
    for found, each in zip(torch.autograd.grad(-loss, model.theta()), exact, strict=True):
        assert_allclose(found, each, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_em_in_a_comparison_ends_where_the_estimator_ends(kind: str) -> None:
    data = pvae.load_data({"x": X.astype(np.float32)}, binarise="none")
    model = model_of(kind, data.train.x.double().numpy())
    start = copy.deepcopy(model)
    summary = fit_by_em(model, data)
    weights, means, covariances = start.parameters_of_mixture()
    precisions = 1 / covariances if kind in ("diag", "spherical") else torch.linalg.inv(covariances)
    given = {"weights_init": weights, "means_init": means, "precisions_init": precisions, "tol": 1e-7, "max_iter": 2000}
    fitted = GaussianMixture(3, covariance_type=kind, **given).fit(data.train.x.double())
    assert_allclose(model.log_evidence(data.test.x.double()), fitted.score_samples(data.test.x.double()), atol=1e-4)
    assert summary.curve.points[-1].value == pytest.approx(
        float(model.log_evidence(data.validation.x.double()).mean()), abs=1e-9
    )
    seconds = [point.seconds for point in summary.curve.points]
    assert seconds == sorted(seconds)


def test_em_needs_a_closed_form() -> None:
    with pytest.raises(InputError, match=r"VAE has none\. Use it with gmm"):
        fit_by_em(pvae.VAE(4), pvae.load_data("digits"))


def test_components_are_matched_whatever_their_order() -> None:
    shares = torch.as_tensor(np.random.default_rng(0).dirichlet(np.full(5, 0.1), size=200))
    order = torch.tensor([3, 0, 4, 1, 2])
    other = (shares + 0.01)[:, order]
    assert (order[match_components(other, shares)] == torch.arange(5)).all()


@pytest.mark.parametrize(("settings", "words"), [({"covariance": "round"}, "round"), ({"components": 0}, "at least 1")])
def test_wrong_settings_are_refused(settings: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        GMM(2, **settings)


def test_em_and_svi_are_in_one_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", X)
    command = "compare gmm --data ./x.npy --set components=3 --objectives em,elbo-enum --seeds 1 --epochs 40 --json"
    more = ["--learning-rate", "0.02", "--particles", "2", "--workers", "0", "--out", "report"]
    ended = run(*command.split(), *more)
    assert ended.code == 0, ended.err
    first, second = json.loads(ended.out)["mixtures"]
    assert first["label"] == "gmm, em, seed 0" and first["difference"] == first["gap"] == 0
    assert 0 < second["difference"] < 0.1 and second["mean_difference"] < 0.01 and abs(second["gap"]) < 0.02
    assert second["gap"] > 0 and (second["seconds"] is None or second["seconds"] > first["seconds"] > 0)
    page = (tmp_path / "report" / "index.html").read_text()
    assert "posteriors of matched components" in page
    assert "Quantities: validation bound, exact for A; validation bound, 25 particles for B." in page
    wrong = ["compare", "vae", "--objectives", "em", "--seeds", "1", "--epochs", "1", "--out", "no", "--workers", "0"]
    refused = run(*wrong)
    assert refused.code == 2 and "closed-form M-step" in refused.err
