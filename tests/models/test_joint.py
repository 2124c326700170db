"""JointVAE: its weights and bounds by sums over the categories; both channels of KL against closed forms."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from command_line import run
from torch import Tensor, nn

import pvae
from pvae.models import GMVAE, JointVAE
from pvae.objectives import make_objective

DOUBLE = torch.float64
SIZES = (3, 2)

pytestmark = pytest.mark.usefixtures("own_store", "seeded")


def made(categories: int | tuple[int, ...] = SIZES) -> JointVAE:
    """A model with parameters that are not near those of its start."""
    model = JointVAE(5, categories=categories, latent=2, hidden=4).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return model


def data(size: int = 6) -> Tensor:
    return torch.rand(size, 5, dtype=DOUBLE, generator=torch.Generator().manual_seed(1)).round()


def log_likelihoods(model: JointVAE, x: Tensor, z: Tensor) -> dict[tuple[int, ...], Tensor]:
    """log p(x given z, y) for each joint value of the categories, shape of z without its last dimension."""
    found = {}
    for values in product(*map(range, model.categories.values())):
        code = [torch.eye(size, dtype=DOUBLE)[value] - 1 / size for value, size in zip(values, SIZES, strict=False)]
        found[values] = model.decode(z, torch.cat(code)).log_prob(x)
    return found


def closed_forms(model: JointVAE, x: Tensor) -> tuple[Tensor, Tensor]:
    """The KL of z and that of all categories, written out, shape (batch,) each."""
    q = model.encode(x).base_dist
    of_z = 0.5 * (q.loc**2 + q.scale**2 - 1 - 2 * q.scale.log()).sum(-1)
    of_y = x.new_zeros(len(x))
    for density in model.assign(x).values():
        of_y = of_y + (density.probs * (density.probs * density.probs.shape[-1]).log()).sum(-1)
    return of_z, of_y


def expected_likelihood(model: JointVAE, x: Tensor, z: Tensor) -> Tensor:
    """The exact mean of log p(x given z, y) over q(y given x), shape of z without its last dimension."""
    probabilities = [density.probs for density in model.assign(x).values()]
    total = torch.zeros((), dtype=DOUBLE)
    for values, log_p in log_likelihoods(model, x, z).items():
        weight = math.prod([probs[:, value] for probs, value in zip(probabilities, values, strict=True)])
        total = total + weight * log_p
    return total


# --- the model ---


@pytest.mark.parametrize("categories", [3, SIZES])
def test_weights_sum_over_the_categories_exactly(categories: int | tuple[int, ...]) -> None:
    model, x = made(categories), data()
    weights = pvae.log_weights(model, x, particles=4)
    z = weights.values["z"]
    log_p = torch.stack(list(log_likelihoods(model, x, z).values()))
    log_prior = dist.Normal(0, 1).log_prob(z).sum(-1)
    expected = log_p.logsumexp(0) - math.log(len(log_p)) + log_prior - model.encode(x).log_prob(z)
    torch.testing.assert_close(weights.log_w, expected)


def test_without_an_effect_of_the_categories_it_is_the_vae() -> None:
    joint, vae = made(), pvae.VAE(5, latent=2, hidden=4).double()
    with torch.no_grad():
        joint.decoder.layer.weight.zero_()
    state = {name.replace("decoder.network.", "decoder."): tensor for name, tensor in joint.state_dict().items()}
    vae.load_state_dict(state, strict=False)
    found = []
    for model in (joint, vae):
        torch.manual_seed(2)
        found.append(pvae.log_weights(model, data(), particles=3).log_w)
    torch.testing.assert_close(*found)


def test_the_elbo_sums_over_the_categories() -> None:
    model, x = made(), data()
    torch.manual_seed(4)
    loss = make_objective("elbo-enum")().loss(model.model, model.guide, x)
    torch.manual_seed(4)
    z = model.encode(x).rsample()
    kl_of_z = model.encode(x).log_prob(z) - dist.Normal(0, 1).log_prob(z).sum(-1)
    expected = expected_likelihood(model, x, z) - kl_of_z - closed_forms(model, x)[1]
    assert loss == pytest.approx(-float(expected.sum().detach()))


def test_new_data_have_the_chosen_categories() -> None:
    """The decoder sees the categories alone, so that the mean of x shows them."""
    model = made()
    with torch.no_grad():
        model.decoder.network[0].weight.zero_()
        means = model.sample(3, y=(2, 1), mean=True)
        code = torch.cat([torch.eye(3, dtype=DOUBLE)[2] - 1 / 3, torch.eye(2, dtype=DOUBLE)[1] - 1 / 2])
        expected = model.decode(torch.zeros(3, 2, dtype=DOUBLE), code.expand(3, 5)).mean
    torch.testing.assert_close(means, expected)
    assert len(model.sample(200, mean=True).round(decimals=6).unique(dim=0)) == 6


# --- the objective ---


@pytest.mark.parametrize(("at_step", "particles"), [(0, 1), (50, 2), (1000, 1)])
def test_the_capacity_objective_and_its_gradient_are_those_of_the_formula(at_step: int, particles: int) -> None:
    """Hand-written on the same draws of z. At the end the discrete capacity is clipped to the largest KL, log 6."""
    model, x = made(), data()
    text = f"joint-capacity:continuous=9:steps=100:gamma=3:particles={particles}"
    objective = make_objective(text)()
    objective.steps.fill_(at_step)
    objective.eval()
    torch.manual_seed(7)
    terms = objective.terms(model.model, model.guide, (x,), {}, "all")
    parameters = list(model.parameters())
    found = torch.autograd.grad(terms.surrogate, parameters)
    torch.manual_seed(7)
    z = model.encode(x).rsample((particles,) if particles > 1 else ())
    likelihood = expected_likelihood(model, x, z).reshape(particles, 6).mean(0)
    of_z, of_y = closed_forms(model, x)
    share = min(at_step / 100, 1.0)
    capacities = {"continuous": 9 * share, "discrete": min(5 * share, math.log(6))}
    distances = (of_z.mean() - capacities["continuous"]).abs() + (of_y.mean() - capacities["discrete"]).abs()
    expected = -(likelihood - 3 * distances).sum()
    assert float(terms.loss) == pytest.approx(float(expected.detach()), abs=1e-9)
    torch.testing.assert_close(found, torch.autograd.grad(expected, parameters))
    named = {name: float(value) / 6 for name, value in terms.named.items()}
    means = {"kl_continuous": float(of_z.detach().mean()), "kl_discrete": float(of_y.detach().mean())}
    means |= {f"capacity_{name}": value for name, value in capacities.items()}
    assert {name: named[name] for name in means} == pytest.approx(means, abs=1e-9)
    assert named["elbo"] == pytest.approx(float((likelihood - of_z - of_y).mean().detach()), abs=1e-9)


class Relaxable(pvae.LatentModel):
    """A one-hot category and a Normal, which are independent in both programs."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder, self.encoder = nn.Linear(4, 5), nn.Linear(5, 5)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.OneHotCategorical(logits=x.new_zeros(3)))
            z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
            code = torch.cat([y, z], -1)
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(code)).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        logits, loc, log_scale = self.encoder(x).split([3, 1, 1], -1)
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.OneHotCategorical(logits=logits))
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def test_the_kl_of_a_relaxed_category_is_that_of_the_category() -> None:
    """Under Gumbel-softmax draws, as in the source; the gradient is declared as biased."""
    model, x = Relaxable().double(), data()
    objective = make_objective("joint-capacity:gradients=y=concrete")()
    terms = objective.terms(model.model, model.guide, (x,), {}, "all")
    probs = model.encoder(x)[:, :3].softmax(-1)
    assert float(terms.named["kl_discrete"]) == pytest.approx(float((probs * (3 * probs).log()).sum().detach()))
    assert "relaxed draws" in objective.biased
    gradients = torch.autograd.grad(terms.surrogate, list(model.parameters()))
    assert all(bool(gradient.any()) for gradient in gradients)


# --- the command line, and bad input ---


def test_it_trains_and_shows_its_categories_from_the_command_line(tmp_path) -> None:
    x = np.random.default_rng(0).random((40, 4, 3)).round()
    np.savez(tmp_path / "x.npz", x=x)
    folder, source = str(tmp_path / "run"), str(tmp_path / "x.npz")
    train = ["train", "joint-vae", "--data", source, "--set", "categories=3", "--hidden", "4", "--latent", "2"]
    train += ["--objective", "joint-capacity:steps=1", "--epochs", "1", "--step", "eager", "--out", folder]
    done = run(*train)
    assert done.code == 0, done.err
    done = run("show", folder, "--what", "classes", "--out", str(tmp_path / "y.png"))
    assert done.code == 0, done.err
    done = run("train", "joint-vae", "--data", source, "--set", "categories=1")
    assert done.code == 2 and "categories needs at least 2 for each variable; got 1" in done.err


REFUSED = {
    "one category": (lambda: JointVAE(4, categories=(3, 1)), "at least 2 for each variable"),
    "no variable": (lambda: JointVAE(4, categories=()), "at least 2 for each variable"),
    "a category of another variable": (lambda: made().sample(2, y=(1, 2)), "one category for each of"),
    "too few categories": (lambda: made().sample(2, y=1), "one category for each of"),
    "a category that is too large": (lambda: made().sample(2, y=(3, 2)), "y1 from 0 to 2, y2 from 0 to 1; got"),
    "a capacity that no KL reaches": (
        lambda: _loss(made().float(), f"joint-capacity:discrete={math.log(6) + 0.01}"),
        "at most 1.792, the logarithm of the number of their values",
    ),
    "negative capacity": (lambda: pvae.JointCapacity(discrete=-1.0), "discrete"),
    "z depends on y": (
        lambda: _loss(GMVAE(5, components=3, inference="amortised", latent=2, hidden=4), "joint-capacity"),
        "do not depend on a summed-out one",
    ),
    "a score function": (
        lambda: _loss(Relaxable(), "joint-capacity"),
        "needs latent sites that are reparameterised or enumerated; site 'y'",
    ),
}


def _loss(model: pvae.LatentModel, text: str) -> float:
    return make_objective(text)().loss(model.model, model.guide, data().float())


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_used_is_refused_in_one_line(name: str) -> None:
    make, message = REFUSED[name]
    with pytest.raises(pvae.InputError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_the_largest_capacity_itself_is_allowed_and_the_default_stops_there() -> None:
    for text in (f"joint-capacity:steps=1:discrete={math.log(6)}", "joint-capacity:steps=1"):
        objective, model = make_objective(text)(), made().float()
        objective.steps.fill_(1)
        terms = objective.terms(model.model, model.guide, (data().float(),), {}, "all")
        assert float(terms.named["capacity_discrete"].sum()) == pytest.approx(math.log(6) * len(data()))
