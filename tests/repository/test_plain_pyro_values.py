"""The evaluations of the programs in plain Pyro of docs/examples, against exact values and against Pyro's losses."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro_examples import EXAMPLES, FOLDER, Example
from scipy import integrate, stats
from stats import assert_close_in_sigmas, mean_and_error
from torch import Tensor

import pvae
from pvae.train.devices import isolated

pytestmark = [
    pytest.mark.usefixtures("own_store", "seeded"),
    # As most users' programs, some of these do not broadcast over particles.
    pytest.mark.filterwarnings("ignore:Particles are drawn one by one"),
    pytest.mark.filterwarnings("ignore:Guide site 'classification' is observed"),
]

WITH_ELBO = {name: example for name, example in EXAMPLES.items() if not example.is_point_estimate}


@pytest.mark.parametrize("name", sorted(WITH_ELBO.keys() - {"scanvi"}))
def test_the_elbo_is_that_of_pyros_loss(name: str) -> None:
    """Except for the factor in the guide of scanvi, which Pyro's loss contains and the ELBO does not."""
    example = WITH_ELBO[name]
    programs, batch = example.make(), example.batch()
    draws = 40
    with pvae.programs.scope(programs):
        pyro.set_rng_seed(3)
        programs.guide(*example.data().values())
        losses = [example.loss().loss(programs.model, programs.guide, *example.data().values()) for _ in range(draws)]
    mean, error = mean_and_error(torch.tensor(losses) / batch.size / example.scale)
    found = pvae.evaluate.elbo(programs, batch, particles=draws)
    # The evaluation has the same noise as the mean of as many losses.
    assert_close_in_sigmas(found.value, -mean, error * math.sqrt(2))


@pytest.mark.parametrize("name", WITH_ELBO)
def test_compare_reports_the_elbo_of_the_same_fit(name: str, tmp_path, without_pictures) -> None:
    example = WITH_ELBO[name]
    splits = example.splits()
    options = {"epochs": 1, "batch_size": splits.train.size, "learning_rate": 0.01, "step": "eager", "progress": False}
    found = pvae.compare(
        {"example": example.make},
        splits,
        [example.objective],
        seeds=1,
        out=tmp_path / "c",
        particles=5,
        workers=0,
        **options,
    )
    with isolated(0):
        programs = example.make()
    run = pvae.fit(programs, splits, objective=example.objective, seed=0, **options)
    assert found.table.rows[0].elbo.value == pytest.approx(pvae.evaluate.elbo(run, splits, particles=5).value, rel=1e-6)


PAGE = FOLDER.parent / "how-to" / "plain-pyro.md"


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_page_says_how_each_example_is_trained_and_evaluated(name: str) -> None:
    example = EXAMPLES[name]
    (row, *_) = re.findall(rf"^\| `{example.file}`.*$", PAGE.read_text(), flags=re.MULTILINE)
    step, evaluation = (row.split("|")[column].strip() for column in (3, 5))
    assert step == {"auto": "graph"}.get(example.step, example.step)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All data share site")  # few draws and no training
        if example.is_point_estimate:
            assert "none with AutoDelta" in evaluation
            for evaluate in (pvae.evaluate.elbo, pvae.evaluate.log_evidence):
                with pytest.raises(pvae.InputError, match="is a Delta, a point without a density"):
                    evaluate(example.make(), example.batch(), particles=2)
        else:
            assert "`log_evidence`" in evaluation
            assert math.isfinite(pvae.evaluate.log_evidence(example.make(), example.batch(), particles=2).value)


@pytest.mark.parametrize(("name", "plate"), [("mixture", "data"), ("lda", "documents"), ("hmm 1", "sequences")])
def test_a_refusal_of_weights_names_the_plate_of_the_observed_data(name: str, plate: str) -> None:
    example = EXAMPLES[name]
    with pytest.raises(pvae.InputError, match=f"outside the data plate '{plate}'"):
        pvae.log_weights(example.make(), example.batch(), 2)


def estimates_of(example: Example) -> dict[str, Tensor]:
    """Return the point estimates of an AutoDelta after its first run."""
    programs, arguments = example.make(), tuple(example.data().values())
    programs.guide(*arguments)
    return {name: value.detach() for name, value in programs.guide(*arguments).items()}


def test_the_mixture_at_its_estimates_has_the_density_of_a_mixture() -> None:
    example = EXAMPLES["mixture"]
    estimates, x = estimates_of(example), example.data()["x"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # one weight is enough where nothing is drawn
        found = pvae.evaluate.log_evidence(example.module.at(estimates), {"x": x}, particles=1)
    weights, locs, scale = (estimates[name].numpy() for name in ("weights", "locs", "scale"))
    exact = np.log(sum(weights[k] * stats.norm.pdf(x.numpy(), locs[k], scale) for k in range(2)))
    np.testing.assert_allclose(found.pointwise, exact, rtol=1e-4)


def forward(start: np.ndarray, moves: np.ndarray, emission: Callable[[int], np.ndarray], length: int) -> float:
    """Return log p of one sequence, by the forward algorithm; `emission` gives log p(y_t) in each state."""
    log_state = np.log(start)
    for t in range(length):
        if t:
            log_state = np.logaddexp.reduce(log_state[:, None] + np.log(moves), 0)
        log_state = log_state + emission(t)
    return float(np.logaddexp.reduce(log_state))


def emission_of(number: int, tones: np.ndarray, x: np.ndarray) -> Callable[[int], np.ndarray]:
    """Return log p(y_t) in each state, or in each pair of colour and state for model 3."""

    def emission(t: int) -> np.ndarray:
        table = tones.reshape(-1, tones.shape[-1])
        if number == 2:
            before = np.zeros(x.shape[1]) if t == 0 else x[t - 1]
            table = np.where(before == 1, tones[:, 1], tones[:, 0])
        return stats.bernoulli.logpmf(x[t], table).sum(1)

    return emission


@pytest.mark.parametrize("number", [1, 2, 3])
def test_the_hidden_markov_models_have_the_evidence_of_the_forward_algorithm(number: int) -> None:
    example = EXAMPLES[f"hmm {number}"]
    estimates, data = estimates_of(example), example.data()
    found = pvae.evaluate.log_evidence(example.module.at(number, estimates), pvae.Batch(**data), particles=1)
    matrices = {name: value.double().numpy() for name, value in estimates.items()}
    moves = matrices["moves"] if number < 3 else np.kron(matrices["turns"], matrices["moves"])
    exact = [
        forward(moves[0], moves, emission_of(number, matrices["tones"], x), int(length))
        for x, length in zip(data["x"].numpy(), data["lengths"], strict=True)
    ]
    np.testing.assert_allclose(found.pointwise, exact, rtol=1e-4)


def trained(example: Example, steps: int, learning_rate: float) -> pvae.Run:
    splits = example.splits()
    options = {"epochs": steps, "batch_size": splits.train.size, "learning_rate": learning_rate, "progress": False}
    return pvae.fit(example.make(), splits, objective=example.objective, **options)


def test_the_regression_comes_close_to_its_evidence() -> None:
    example = EXAMPLES["regression"]
    x, y = (example.data()[name].double().numpy() for name in ("x", "y"))
    prior = x @ x.T + 100.0  # the covariance of the mean under the priors of the weights and of the intercept

    def integrand(sigma: float) -> float:
        return stats.multivariate_normal.pdf(y, cov=prior + sigma**2 * np.eye(len(y))) / 10

    evidence = math.log(integrate.quad(integrand, 0.1, 10.0, points=[0.4, 0.5, 0.7], epsabs=0)[0]) / len(y)
    run = trained(example, steps=300, learning_rate=0.05)
    bound = pvae.evaluate.elbo(run, example.batch(), particles=300).value
    assert evidence - 0.05 < bound < evidence + 0.005
    # Four standard errors; the ELBO is three times as far away.
    assert pvae.evaluate.log_evidence(run, example.batch(), particles=600).value == pytest.approx(evidence, abs=0.006)


def test_the_eight_schools_come_close_to_their_evidence() -> None:
    example = EXAMPLES["eight schools"]
    y, sigma = (example.data()[name].double().numpy() for name in ("x", "sigma"))

    def integrand(tau: float) -> float:
        covariance = np.diag(sigma**2 + tau**2) + 100.0
        return stats.multivariate_normal.pdf(y, cov=covariance) * stats.halfcauchy.pdf(tau, scale=25)

    evidence = math.log(integrate.quad(integrand, 0.0, np.inf, epsabs=0)[0]) / len(y)
    run = trained(example, steps=300, learning_rate=0.05)
    bound = pvae.evaluate.elbo(run, example.batch(), particles=1000).value
    assert evidence - 0.2 < bound < evidence + 0.01
    found = pvae.evaluate.log_evidence(run, example.batch(), particles=5000).value
    assert found == pytest.approx(evidence, abs=0.02)


def test_documents_given_the_topics_have_the_evidence_of_a_quadrature() -> None:
    """With two topics, the mixture of a document is one number, and the topics of its words are summed out."""
    example = EXAMPLES["lda"]
    programs, x = example.make(), example.data()["x"]
    topics = dist.Dirichlet(torch.ones(2, 12)).sample()
    shared = {"share": torch.tensor([0.8, 1.3]), "topic": topics}
    given = [
        poutine.block(poutine.condition(f, data=shared), hide=list(shared)) for f in (programs.model, programs.guide)
    ]
    found = pvae.evaluate.log_evidence(pvae.pair(*given), pvae.Batch(x=x), particles=2000)
    nodes, weights = np.polynomial.legendre.leggauss(400)
    share, topic = (np.asarray(value, dtype=float) for value in shared.values())
    first = (nodes + 1) / 2
    words = np.log(first[:, None] * topic[0] + (1 - first)[:, None] * topic[1])
    prior = stats.beta.pdf(first, *share)
    exact = [math.log((weights / 2 * prior * np.exp(words[:, document].sum(1))).sum()) for document in x.numpy()]
    assert found.value == pytest.approx(np.mean(exact), abs=0.01)
