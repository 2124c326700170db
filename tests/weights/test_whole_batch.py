"""Programs without a plate that holds every site: objectives that are linear in the log weights need none."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from forcing import Forced
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import Tensor, nn

import pvae
from pvae.errors import InputError
from pvae.evaluate import diagnose, elbo
from pvae.objectives import adapt, make_objective

pytestmark = pytest.mark.usefixtures("own_store", "seeded")

N, B = 6, 3

#: Objectives that are minus the ELBO, each with a gradient of the ELBO.
ELBOS = ("beta:beta=1", "renyi:alpha=1:particles=1", "iwae:particles=1")


class Gaussian(pvae.LatentModel):
    """w that all data share, z of each datum, and x; `rows` of the data are in the plate."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.noise = nn.Parameter(torch.tensor(0.2, dtype=torch.float64))
        self.loc = nn.Parameter(torch.tensor([0.3, -0.4], dtype=torch.float64))
        self.scale = scale

    def model(self, x: Tensor) -> None:
        with poutine.scale(scale=self.scale):
            w = pyro.sample("w", dist.Normal(x.new_zeros(()), 1.0))
            with pyro.plate("data", N, subsample=torch.arange(len(x))):
                z = pyro.sample("z", dist.Normal(w, 1.0))
                pyro.sample("x", dist.Normal(z, self.noise.exp()), obs=x)

    def guide(self, x: Tensor) -> None:
        with poutine.scale(scale=self.scale):
            pyro.sample("w", dist.Normal(self.loc[0], 0.5))
            with pyro.plate("data", N, subsample=torch.arange(len(x))):
                pyro.sample("z", dist.Normal(self.loc[1] * x, 0.7))

    def elbo(self, x: Tensor) -> Tensor:
        """The ELBO of a batch as an estimate of that of N data, in closed form."""
        var = self.noise.exp().square()
        kl_w = 0.5 * (0.25 + self.loc[0].square() - 1) - np.log(0.5)
        mean = self.loc[1] * x
        of_z = -0.5 * ((mean - self.loc[0]).square() + 0.49 + 0.25 - 1) + np.log(0.7)
        of_x = -0.5 * (((x - mean).square() + 0.49) / var + var.log() + np.log(2 * np.pi))
        return self.scale * (N / len(x) * (of_z + of_x).sum() - kl_w)


class Coins(pvae.LatentModel):
    """A coin that all data share, and a coin of each datum."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.tensor([-0.5, 0.8], dtype=torch.float64))
        self.logit = nn.Parameter(torch.tensor([0.3, -0.7], dtype=torch.float64))

    def model(self, x: Tensor) -> None:
        w = pyro.sample("w", dist.Bernoulli(x.new_tensor(0.4)))
        with pyro.plate("data", N, subsample=torch.arange(len(x))):
            d = pyro.sample("d", dist.Bernoulli(0.3 + 0.4 * w))
            pyro.sample("x", dist.Normal(self.mean[0] * d + self.mean[1] * w, 1.0), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.sample("w", dist.Bernoulli(logits=self.logit[0]))
        with pyro.plate("data", N, subsample=torch.arange(len(x))):
            pyro.sample("d", dist.Bernoulli(logits=self.logit[1] * x))


def gradients(loss: Tensor, model: nn.Module) -> list[Tensor]:
    found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    return [torch.zeros(()) if each is None else each for each in found]


@pytest.mark.parametrize("text", ELBOS)
@pytest.mark.parametrize("size", [B, N])
def test_loss_and_gradient_are_those_of_trace_elbo_on_the_same_draws(text: str, size: int) -> None:
    model, x = Gaussian(), torch.linspace(-1, 2, size, dtype=torch.float64)
    found = []
    for objective in (make_objective(text)(), adapt(Trace_ELBO)):
        objective.loss(model.model, model.guide, x)  # the layout is known from here on
        torch.manual_seed(3)
        terms = objective.terms(model.model, model.guide, (x,), {}, "all")
        found.append([terms.loss, *gradients(terms.surrogate, model)])
    torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("scale", [1.0, 0.1])
def test_the_mean_is_the_elbo_in_closed_form(scale: float) -> None:
    model, x = Gaussian(scale), torch.linspace(-1, 2, B, dtype=torch.float64)
    objective = pvae.Beta(1.0, particles=4000)
    terms = objective.terms(model.model, model.guide, (x,), {}, "all")
    exact = model.elbo(x)
    assert -terms.loss.item() == pytest.approx(exact.item(), abs=0.5 * scale)
    torch.testing.assert_close(gradients(-terms.surrogate, model), gradients(exact, model), rtol=0.05, atol=0.4 * scale)


@pytest.mark.parametrize(
    "text",
    ["beta:beta=1", "reinforce:baseline=none:particles=1", "reinforce:baseline=2:particles=1", "reinforce:particles=2"],
)
def test_the_mean_gradient_over_all_outcomes_is_that_of_the_elbo(text: str) -> None:
    """Two data of six, three coins: eight outcomes of one particle, 64 of two."""
    model, x = Coins(), torch.tensor([0.5, -1.0], dtype=torch.float64)
    outcomes = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3)), dtype=torch.float64)
    log_q = dist.Bernoulli(logits=model.logit[0]).log_prob(outcomes[:, 0])
    log_q_d = dist.Bernoulli(logits=model.logit[1] * x).log_prob(outcomes[:, 1:])
    w, d = outcomes[:, :1], outcomes[:, 1:]
    log_p_w = dist.Bernoulli(torch.tensor(0.4, dtype=torch.float64)).log_prob(w[:, 0])
    log_p_d = dist.Bernoulli(0.3 + 0.4 * w).log_prob(d)
    log_p_x = dist.Normal(model.mean[0] * d + model.mean[1] * w, 1.0).log_prob(x)
    log_w = log_p_w - log_q + N / 2 * (log_p_d + log_p_x - log_q_d).sum(1)
    probability = (log_q + log_q_d.sum(1)).exp()
    exact = gradients((probability * log_w).sum(), model)
    objective = make_objective(text)()
    mean = [torch.zeros_like(each) for each in model.parameters()]
    value = 0.0
    for picks in itertools.product(range(8), repeat=objective.particles):
        drawn = outcomes[list(picks)]
        with Forced({"w": drawn[:, 0], "d": drawn[:, 1:]}):
            terms = objective.terms(model.model, model.guide, (x,), {}, "all")
        share = float(probability[list(picks)].detach().prod())
        value -= share * terms.loss.item()
        mean = [m - share * g for m, g in zip(mean, gradients(terms.surrogate, model), strict=True)]
    assert value == pytest.approx(float((probability * log_w).sum().detach()), abs=1e-10)
    torch.testing.assert_close(mean, exact, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("text", [*ELBOS, "geco:target=-2", "dirac", "reinforce:gradients=w=score"])
def test_a_training_records_numbers_per_datum(text: str) -> None:
    x = torch.linspace(-1, 2, N, dtype=torch.float64)
    data = pvae.load_data({"x": x}, binarise="none", validation=0, test=0)
    options = {"epochs": 2, "batch_size": B, "precision": "float64", "progress": False}
    run = pvae.fit(Gaussian(), data, objective=text, **options)
    plain = pvae.fit(Gaussian(), data, objective="elbo", **options)
    record = run.history[0]
    if text in ELBOS:
        assert record["loss"] == pytest.approx(plain.history[0]["loss"], abs=2.0)
        assert record["elbo"] == pytest.approx(-record["loss"], rel=1e-6)
        assert record["kl"] == pytest.approx(record["log_likelihood"] - record["elbo"], rel=1e-6)


def test_an_objective_of_a_weight_per_datum_says_what_to_use() -> None:
    model, x = Gaussian(), torch.zeros(B, dtype=torch.float64)
    for objective in (pvae.IWAE(4), pvae.Renyi(0.5), pvae.StickingTheLanding(), pvae.FreeBits()):
        with pytest.raises(
            InputError, match=r"'w' is outside the data plate.*train and evaluate by 'elbo', or train by 'beta'"
        ):
            objective.loss(model.model, model.guide, x)
    with pytest.raises(InputError, match=r"'optimal' needs a signal for each datum.*reinforce:baseline=leave-one-out"):
        pvae.ScoreFunction("optimal", gradients="w=score").loss(model.model, model.guide, x)


class TwoPlates(pvae.LatentModel):
    """Data in the batch, and other data in a plate of another length that the model holds; both share w."""

    def __init__(self, others: int = 5) -> None:
        super().__init__()
        self.others = torch.linspace(0, 1, others, dtype=torch.float64)
        self.loc = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

    def model(self, x: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(x.new_zeros(()), 1.0))
        with pyro.plate("others", len(self.others)):
            pyro.sample("y", dist.Normal(w, 1.0), obs=self.others)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(w, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.sample("w", dist.Normal(self.loc, 0.5))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.7))

    def elbo(self, x: Tensor) -> Tensor:
        """The ELBO of all data, in closed form."""
        kl_w = 0.5 * (0.25 + self.loc.square() - 1) - np.log(0.5)
        of_y = -0.5 * ((self.others - self.loc).square() + 0.25 + np.log(2 * np.pi))
        of_z = -0.5 * ((x / 2 - self.loc).square() + 0.49 + 0.25 - 1) + np.log(0.7)
        of_x = -0.5 * ((x / 2).square() + 0.49 + np.log(2 * np.pi))
        return (of_z + of_x).sum() + of_y.sum() - kl_w


@pytest.mark.parametrize("others", [5, 9])
@pytest.mark.parametrize("objective", ["elbo", "beta:beta=1"])
def test_two_plates_of_different_lengths_train_and_have_an_elbo(others: int, objective: str) -> None:
    model, x = TwoPlates(others), torch.linspace(-1, 2, 7, dtype=torch.float64)
    exact = float(model.elbo(x).detach()) / 7
    assert elbo(model, {"x": x}, 4000).value == pytest.approx(exact, abs=0.1)
    data = pvae.load_data({"x": x}, binarise="none", validation=0, test=0)
    run = pvae.fit(model, data, objective=objective, epochs=1, precision="float64", progress=False)
    assert run.history[0]["loss"] == pytest.approx(-exact, abs=4.0)
    with pytest.raises(InputError, match=r"evaluate by pvae\.evaluate\.log_evidence"):
        diagnose(model, {"x": x}, 30)


def test_the_elbo_of_shared_latents_is_exact() -> None:
    model, x = Gaussian(), torch.linspace(-1, 2, N, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert elbo(model, {"x": x}, 4000).value == pytest.approx(float(model.elbo(x).detach()) / N, abs=0.1)
