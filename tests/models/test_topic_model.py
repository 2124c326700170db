"""The topic model: multinomial probabilities, evidence by quadrature, known topics found again, coherence by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from command_line import run
from scipy import stats
from scipy.special import logsumexp, roots_hermitenorm, softmax
from stats import assert_close_in_sigmas
from torch import Tensor

import pvae
from pvae.densities.bag_of_words import BagOfWords, DirichletLaplace, log_coefficient
from pvae.errors import InputError
from pvae.evaluate.topic_quality import npmi

COUNTS = torch.tensor([[2.0, 0.0, 1.0], [0.0, 4.0, 1.0], [0.0, 0.0, 0.0], [7.0, 1.0, 0.0]], dtype=torch.float64)

pytestmark = pytest.mark.usefixtures("own_store", "seeded")


def small(words: int = 3, **settings: object) -> pvae.ProdLDA:
    model = pvae.ProdLDA(words, **{"topics": 2, "hidden": 4, **settings}).double()
    torch.nn.init.normal_(model.beta, std=1.5)
    return model


def with_prior_as_guide(**settings: object) -> pvae.ProdLDA:
    """A small model of which q(z given x) is p(z), so that all weights are bounded."""
    model = small(**settings)
    prior, posterior = model.prior().base_dist, model.posterior
    with torch.no_grad():
        posterior.loc.weight.zero_(), posterior.loc.bias.copy_(prior.loc)
        posterior.log_scale.weight.zero_(), posterior.log_scale.bias.copy_(prior.scale.log())
    return model


def corpus(documents: int, topics: int, words: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Documents of about 50 words of the mixture of topics, and the topics: each has words of its own for 80%."""
    own = words // topics
    beta = torch.full((topics, words), 0.2 / (words - own))
    for topic in range(topics):
        weights = torch.arange(own, 0, -1.0)
        beta[topic, topic * own : (topic + 1) * own] = 0.8 * weights / weights.sum()
    torch.manual_seed(seed)
    shares = torch.distributions.Dirichlet(torch.full((topics,), 0.1)).sample((documents,))
    totals = torch.randint(25, 75, (documents,))
    return BagOfWords((shares @ beta).log(), totals).sample(), beta


def test_a_bag_of_words_is_the_multinomial_of_scipy_and_sums_to_one() -> None:
    p = np.array([0.2, 0.5, 0.3])
    bags = BagOfWords(torch.tensor(np.log(p)), torch.tensor(4.0))
    expected = [stats.multinomial.logpmf(x, int(x.sum()), p) for x in COUNTS.numpy()]
    np.testing.assert_allclose(bags.log_prob(COUNTS), expected, rtol=1e-12, atol=1e-12)
    every = [x for x in itertools.product(range(5), repeat=3) if sum(x) == 4]
    assert float(bags.log_prob(torch.tensor(every).double()).exp().sum()) == pytest.approx(1, abs=1e-12)


def test_draws_of_bags_have_their_totals_means_and_variances() -> None:
    p, totals, draws = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64), torch.tensor([9.0, 0.0, 4.0]), 20_000
    bags = BagOfWords(p.log(), totals)
    x = bags.sample((draws,))
    assert torch.equal(x.sum(-1), totals.double().expand(draws, -1))
    errors = (bags.variance / draws).sqrt()
    assert bool(((x.mean(0) - bags.mean).abs() <= 4.5 * errors).all())
    torch.testing.assert_close(x.var(0), bags.variance, rtol=0.06, atol=0)
    assert torch.equal(bags.mean, totals.unsqueeze(-1) * p)


@pytest.mark.parametrize("concentration", [1.0, (0.5, 2.0, 1.0)])
def test_the_prior_is_laplaces_approximation_of_the_dirichlet(concentration: object) -> None:
    """Its mode is that of the Dirichlet density in the softmax basis, with the curvature there, projected to sum 0."""
    a = np.broadcast_to(concentration, 3).astype(float)
    prior = DirichletLaplace(3, concentration)().base_dist
    mode = np.log(a) - np.log(a).mean()
    np.testing.assert_allclose(softmax(prior.loc.numpy()), a / a.sum(), rtol=1e-6)
    np.testing.assert_allclose(prior.loc, mode, rtol=1e-6, atol=1e-6)
    expected = (1 / a) * (1 - 2 / 3) + (1 / a).sum() / 9
    np.testing.assert_allclose(prior.scale.numpy() ** 2, expected, rtol=1e-6)


def word_probabilities(model: pvae.ProdLDA, share: float) -> np.ndarray:
    beta, shares = model.beta.detach().numpy(), np.array([share, 1 - share])
    return softmax(shares @ beta) if model.combine == "product" else shares @ softmax(beta, axis=1)


def exact_evidence(model: pvae.ProdLDA, x: np.ndarray) -> float:
    """log p(x) of two topics: the share depends on z_0 - z_1 alone, a Gaussian, so that 60 nodes integrate it."""
    prior = model.prior().base_dist
    loc, scale = float(prior.loc[0] - prior.loc[1]), math.hypot(*prior.scale.tolist())
    nodes, weights = roots_hermitenorm(60)
    shares = 1 / (1 + np.exp(-(loc + scale * nodes)))
    scores = [stats.multinomial.logpmf(x, int(x.sum()), word_probabilities(model, share)) for share in shares]
    return float(logsumexp(scores, b=weights / weights.sum()))


@pytest.mark.parametrize("combine", ["product", "mixture"])
def test_the_log_evidence_of_two_topics_is_that_of_a_quadrature(combine: str) -> None:
    model = with_prior_as_guide(combine=combine, concentration=(0.7, 1.5))
    expected = np.array([exact_evidence(model, x) for x in COUNTS.numpy()])
    assert expected[2] == 0  # no words have probability 1
    log_w = pvae.log_weights(model, COUNTS, 40_000).log_w.detach()
    assert bool((log_w[:, 2] == 0).all())
    for row in (0, 1, 3):
        weights = (log_w[:, row] - expected[row]).exp()
        assert_close_in_sigmas(float(weights.mean()), 1.0, float(weights.std()) / 200)


def test_the_perplexity_is_that_of_the_exact_evidence_without_its_coefficient() -> None:
    model = with_prior_as_guide()
    nats = np.array([exact_evidence(model, x) for x in COUNTS.numpy()]) - log_coefficient(COUNTS).numpy()
    found = pvae.evaluate.perplexity(model, COUNTS, particles=5000)
    assert found.value == pytest.approx(math.exp(-nats.sum() / float(COUNTS.sum())), rel=0.01)
    totals = COUNTS.sum(1).numpy()
    rate = nats.sum() / totals.sum()
    error = np.std((nats - rate * totals) / totals.mean(), ddof=1) / 2
    assert found.error == pytest.approx(found.value * error, rel=0.05)


def test_a_uniform_choice_of_words_has_the_perplexity_of_the_vocabulary() -> None:
    model = with_prior_as_guide()
    torch.nn.init.zeros_(model.beta)
    assert pvae.evaluate.perplexity(model, COUNTS, particles=30).value == pytest.approx(3, rel=1e-9)


def test_log_weights_are_those_of_the_formula() -> None:
    model = small(4, topics=3, combine="mixture")
    x = torch.tensor([[3.0, 0.0, 1.0, 2.0], [0.0, 5.0, 0.0, 1.0]], dtype=torch.float64)
    weights = pvae.log_weights(model, x, 5)
    z = weights.values["z"]
    q, p = model.encode(x), model.prior()
    probabilities = torch.einsum("kdt,tw->kdw", z.softmax(-1), model.beta.softmax(-1))
    likelihood = torch.distributions.Multinomial(total_count=6, probs=probabilities).log_prob(x)
    torch.testing.assert_close(weights.log_w, likelihood + p.log_prob(z) - q.log_prob(z), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("combine", ["product", "mixture"])
def test_known_topics_are_found_again(combine: str) -> None:
    x, beta = corpus(400, topics=4, words=40)
    data = pvae.load_data(x)
    model = pvae.ProdLDA(40, topics=4, combine=combine, hidden=50)
    run = pvae.fit(model, data, epochs=30, batch_size=100, learning_rate=0.02, step="eager", progress=False, seed=1)
    top = run.model.topic_words().topk(8).indices
    owners = top // 10
    assert (owners == owners[:, :1]).all() and sorted(owners[:, 0].tolist()) == [0, 1, 2, 3]
    quality = pvae.evaluate.topics(run, data, words=8, split="train")
    assert quality.diversity == 1 and bool((quality.coherence > 0.1).all())
    order = owners[:, 0]
    if combine == "mixture":
        found = run.model.topic_words()
        distance = (found - beta[order]).abs().sum(1) / 2
        assert bool((distance < 0.15).all())


def test_coherence_is_that_of_a_tiny_corpus_by_hand() -> None:
    # words 0 and 1 together in 2 of 4 documents; 0 in 3, 1 in 2; word 2 alone in 1
    occurs = torch.tensor([[1, 1, 0], [1, 1, 0], [1, 0, 0], [0, 0, 1]]).bool()
    first = math.log(0.5 / (0.75 * 0.5)) / -math.log(0.5)
    assert float(npmi(occurs[:, :2])) == pytest.approx(first)
    assert float(npmi(occurs)) == pytest.approx((first - 1 - 1) / 3)
    assert float(npmi(torch.ones(4, 2).bool())) == 1
    assert float(npmi(torch.tensor([[1, 1], [0, 0]]).bool())) == pytest.approx(1)


def test_topics_have_the_names_of_the_columns_and_the_most_probable_words_first() -> None:
    model = small(4, topics=2)
    with torch.no_grad():
        model.beta.copy_(torch.tensor([[0.0, 1.0, 3.0, 2.0], [4.0, 0.0, 1.0, 0.5]]))
    found = pvae.evaluate.topics(model, torch.eye(4).double(), words=2, names=["a", "b", "c", "d"])
    assert found.words == (("c", "d"), ("a", "c"))
    assert found.diversity == 3 / 4 and found.documents == 4
    expected = model.beta.detach().softmax(-1)
    torch.testing.assert_close(found.probabilities, torch.stack([expected[0, [2, 3]], expected[1, [0, 2]]]))
    torch.testing.assert_close(found.shares, model.shares(torch.eye(4).double()).mean(0))
    assert "c d" in str(found).splitlines()[0]


def test_topics_start_from_the_shares_of_words() -> None:
    model = small()
    torch.nn.init.zeros_(model.beta)
    model.initialise_from({"x": COUNTS})
    torch.testing.assert_close(model.topic_words(), (COUNTS.sum(0) / COUNTS.sum()).expand(2, -1))


def test_reconstructions_have_the_lengths_of_the_documents() -> None:
    model = small()
    torch.testing.assert_close(model.reconstruct(COUNTS).sum(1), COUNTS.sum(1))
    assert model.sample(5, words=7).sum(1).tolist() == [7.0] * 5
    torch.testing.assert_close(model.shares(COUNTS).sum(1), torch.ones(4, dtype=torch.float64))


def test_a_fitted_prior_belongs_to_theta() -> None:
    counts = COUNTS[[0, 1, 3]].repeat(10, 1)
    run = pvae.fit(small(), counts, epochs=1, step="eager", precision="float64", progress=False)
    model = pvae.fit_prior(run, "full-gaussian", counts, epochs=1).model
    in_groups = {id(parameter) for parameter in [*model.theta(), *model.phi()]}
    assert {name for name, parameter in model.named_parameters() if id(parameter) not in in_groups} == set()
    assert len(list(model.prior.parameters())) > 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"topics": 1}, "topics needs a whole number of at least 2"),
        ({"combine": "sum"}, "product"),
        ({"concentration": 0.0}, "concentration needs a positive number"),
        ({"concentration": (1.0, 2.0, 3.0)}, "one for each of 2 topics; got 3"),
        ({"hidden": -3}, "hidden needs"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        small(**settings)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (torch.tensor([[1.0, -1.0, 0.0]]), "got -1 for word 1 of datum 0"),
        (torch.tensor([[0.5, 1.0, 0.0]]), "got 0.5 for word 0 of datum 0"),
        (torch.tensor([[math.inf, 1.0, 0.0]]), "got inf for word 0 of datum 0"),
        (torch.zeros(2, 3), "all counts"),
        (torch.ones(2, 4), "3 values for each datum"),
    ],
)
def test_data_that_are_no_documents_are_refused(x: Tensor, words: str) -> None:
    model = small()
    with pytest.raises(InputError, match=words):
        model.initialise_from({"x": x.double()})


def test_topics_of_other_models_and_of_too_few_words_are_refused() -> None:
    with pytest.raises(InputError, match="topic model; got VAE"):
        pvae.evaluate.topics(pvae.VAE(3, latent=2, hidden=4), COUNTS.float())
    with pytest.raises(InputError, match="from 2 to 3; got 10"):
        pvae.evaluate.topics(small(), COUNTS, words=10)
    with pytest.raises(InputError, match="names needs the 3 words"):
        pvae.evaluate.topics(small(), COUNTS, words=2, names=["a"])
    with pytest.raises(InputError, match="all counts of these data are 0"):
        pvae.evaluate.perplexity(small(), torch.zeros(2, 3))


def test_the_command_line_prints_topics_and_draws_them(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    x, _ = corpus(40, topics=2, words=6)
    header = "wave,sail,tide,oven,salt,cake"
    np.savetxt("words.csv", x.numpy(), fmt="%d", delimiter=",", header=header, comments="")
    train = ("train", "prodlda", "--data", "words.csv", "--set", "topics=2", "--hidden", "4", "--epochs", "1")
    assert run(*train, "--step", "eager", "--out", "run").code == 0
    done = run("evaluate", "run", "--method", "topics", "--particles", "30")
    assert done.code == 0 and "perplexity" in done.out and "The perplexity is too high" in done.out
    line = next(line for line in done.out.splitlines() if line.startswith("topic 0"))
    assert set(header.split(",")) == set(line.split()[-6:])
    assert run("show", "run", "--what", "topics").code == 0
    assert run("train", "prodlda", "--data", "words.csv", "--set", "topics=1").code == 2


def test_documents_without_a_word_are_left_out_of_the_coherence_and_of_the_shares() -> None:
    counts = torch.tensor([[2.0, 1.0, 0.0, 0.0], [1.0, 0.0, 3.0, 0.0], [0.0, 1.0, 1.0, 2.0]])
    padded = torch.cat([counts, torch.zeros(5, 4)])
    torch.manual_seed(0)
    model = pvae.ProdLDA(4, topics=2, hidden=4)
    expected = pvae.evaluate.topics(model, counts, words=3)
    with pytest.warns(UserWarning, match=r"^5 of 8 documents have no word, and are left out\.$"):
        found = pvae.evaluate.topics(model, padded, words=3)
    torch.testing.assert_close(found.coherence, expected.coherence)
    torch.testing.assert_close(found.shares, expected.shares)
    assert found.documents == 3
    with pytest.raises(InputError, match="needs documents with words; all counts of these data are 0"):
        pvae.evaluate.topics(model, torch.zeros(2, 4), words=3)
    with pytest.warns(UserWarning, match=r"1 of the 4 words of the topics are in no document"):
        pvae.evaluate.topics(model, counts[:2], words=4)
