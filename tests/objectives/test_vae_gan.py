"""VAE-GAN: gradients by hand, the best critic by quadrature, groups that stay apart, and refusals of an evidence."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from command_line import run as command
from critics import Quadratic, assert_equal_gradients_by_any_route
from models import Line, draws
from scipy.stats import norm
from stats import assert_close_in_sigmas, mean_and_error
from torch import Tensor, nn

import pvae
from pvae.objectives import describe, make_objective, no_density_by

pytestmark = pytest.mark.usefixtures("own_store", "seeded")

DOUBLE = torch.float64


class Tiny(pvae.LatentModel):
    """z ~ N(prior, 1), the mean of x is V z, and q(z given x) is N(W x, exp(spread)^2); three features, two units."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        shapes = {"prior": (2,), "decoder": (3, 2), "encoder": (2, 3), "spread": (2,)}
        for name, shape in shapes.items():
            setattr(self, name, nn.Parameter(0.5 * torch.randn(shape, generator=generator, dtype=DOUBLE)))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.prior.expand(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.decoder.mT, 0.3).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x @ self.encoder.mT, self.spread.exp()).to_event(1))

    def theta(self) -> list[nn.Parameter]:
        return [self.prior, self.decoder]

    def phi(self) -> list[nn.Parameter]:
        return [self.encoder, self.spread]


def tiny(size: int = 5, **settings: Any) -> tuple[Tiny, pvae.VAEGAN, Tensor]:
    """The model, an objective with a critic of linear features, and data."""
    torch.manual_seed(8)
    critic = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 1)).double()
    model, objective = Tiny(), pvae.VAEGAN(critic=critic, **settings)
    x = torch.randn(size, 3, generator=torch.Generator().manual_seed(9), dtype=DOUBLE)
    objective.loss(model.model, model.guide, x)  # the first batch, which looks for conditions
    return model, objective, x


def by_hand(model: Tiny, objective: Any, x: Tensor, player: str) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a player and its gradients, by the chain rule, at the draws that follow in the generator."""
    features, weight, bias = (each.detach() for each in objective.critic())
    encoder, decoder, prior = model.encoder.detach(), model.decoder.detach(), model.prior.detach()
    scale, loc = model.spread.detach().exp(), x @ encoder.mT
    noise = torch.randn(len(x), 2, dtype=DOUBLE)
    z = loc + scale * noise
    reconstructed = z @ decoder.mT
    apart = (reconstructed - x) @ features.mT  # f(reconstruction) - f(x)
    s = objective.scale
    distance = 0.5 * (apart**2).sum() / s**2 + 4 * len(x) * math.log(s * math.sqrt(2.0 * math.pi))  # of four features
    if player == "phi":
        kl = (0.5 * (scale**2 + (loc - prior) ** 2 - 1.0) - scale.log()).sum()
        slope = apart @ features @ decoder / s**2  # of the distance, by z
        to_loc = loc - prior + slope
        return kl + distance, {
            "encoder": to_loc.mT @ x,
            "spread": len(x) * (scale**2 - 1.0) + (slope * scale * noise).sum(0),
        }
    of_prior = prior + torch.randn(len(x), 2, dtype=DOUBLE)
    sampled = of_prior @ decoder.mT
    logits = [rows @ features.mT @ weight.mT + bias for rows in (x, reconstructed, sampled)]
    share = [torch.sigmoid(logit) for logit in logits]
    if player == "theta":
        minimax = objective.kind == "minimax"
        judged = sum((torch.log(1 - each) if minimax else -torch.log(each)).sum() for each in share[1:])
        by_logit = [-each if minimax else each - 1.0 for each in share[1:]]
        by_x = [each @ weight @ features for each in by_logit]
        by_x[0] = by_x[0] + objective.gamma * apart @ features / s**2
        return judged + objective.gamma * distance, {
            "decoder": by_x[0].mT @ z + by_x[1].mT @ of_prior,
            "prior": (by_x[1] @ decoder).sum(0),
        }
    loss = -torch.log(share[0]).sum() - sum(torch.log(1 - each).sum() for each in share[1:])
    by_logit = torch.cat([share[0] - 1.0, *share[1:]])
    rows = torch.cat([x, reconstructed, sampled])
    return loss, {
        "0.weight": (by_logit @ weight).mT @ rows,
        "1.weight": (by_logit * (rows @ features.mT)).sum(0, keepdim=True),
        "1.bias": by_logit.sum(0),
    }


@pytest.mark.parametrize("loss", ["minimax", "non-saturating"])
@pytest.mark.parametrize("player", ["phi", "theta", "critic"])
def test_each_player_has_the_gradient_by_hand_and_no_other(player: str, loss: str) -> None:
    model, objective, x = tiny(loss=loss, gamma=0.7, scale=0.6)
    parameters = {**dict(model.named_parameters()), **dict(objective.network.named_parameters())}
    torch.manual_seed(3)
    terms = objective.terms(model.model, model.guide, (x,), {}, player)
    torch.manual_seed(3)
    expected, gradients = by_hand(model, objective, x, player)
    torch.testing.assert_close(terms.loss, expected, rtol=1e-12, atol=0)
    found = torch.autograd.grad(terms.surrogate, list(parameters.values()), allow_unused=True)
    reached = {name: gradient for name, gradient in zip(parameters, found, strict=True) if gradient is not None}
    assert reached.keys() == gradients.keys()
    for name, gradient in reached.items():
        torch.testing.assert_close(gradient, gradients[name], rtol=1e-10, atol=1e-12)


def test_plain_svi_and_the_module_agree_with_the_players() -> None:
    model, objective, x = tiny()
    assert_equal_gradients_by_any_route(objective, model, x)


def test_the_features_are_those_of_the_layer() -> None:
    torch.manual_seed(0)
    model, x = Tiny(), torch.randn(6, 3, dtype=DOUBLE)
    for layer, modules in ((1, 2), (2, 4), (None, 2)):
        objective = pvae.VAEGAN(layer=layer, hidden=(5, 4))
        objective.loss(model.model, model.guide, x)
        torch.manual_seed(3)
        found = objective.terms(model.model, model.guide, (x,), {}, "phi").named["feature_log_likelihood"]
        torch.manual_seed(3)
        z = x @ model.encoder.mT + model.spread.exp() * torch.randn(6, 2, dtype=DOUBLE)
        ours, theirs = (objective.network[:modules](rows) for rows in (x, z @ model.decoder.mT))
        torch.testing.assert_close(found, dist.Normal(theirs, 0.1).log_prob(ours).sum().detach(), rtol=1e-6, atol=0)


# ---- The best critic: data N(0, 1), reconstructions N(1, .36) (the guide has variance .25), samples N(1, 1.44)

GRID = np.linspace(-12.0, 14.0, 20001)
STEP = GRID[1] - GRID[0]
Q = norm(0, 1).pdf(GRID)
P = 0.5 * (norm(1, 0.6).pdf(GRID) + norm(1, 1.2).pdf(GRID))


class Best(nn.Module):
    """log q - log p - log 2 with the densities above, and a shift linear in 1, x, x^2 that has no use."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = Quadratic(1)

    def forward(self, x: Tensor) -> Tensor:
        loc, scale = torch.tensor([0.0, 1.0, 1.0], dtype=DOUBLE), torch.tensor([1.0, 0.6, 1.2], dtype=DOUBLE)
        log_densities = dist.Normal(loc, scale).log_prob(x)
        return log_densities[:, 0] - log_densities[:, 1:].logsumexp(1) + self.shift(x)


def test_the_best_critic_has_the_log_ratio_to_reconstructions_and_samples() -> None:
    model, x, rows = Line(variance=0.25), draws(40_000, 7), []
    objective = pvae.VAEGAN(critic=nn.Sequential(nn.Identity(), Best()))
    for part in x.chunk(20):
        loss = objective.terms(model.model, model.guide, (part,), {}, "critic").surrogate
        rows.append(torch.autograd.grad(loss / len(part), objective.critic())[0])
    slope, error = mean_and_error(torch.stack(rows))
    assert_close_in_sigmas(slope, np.zeros(3), error, effect=0.5, resolution=0.02)  # one class less or more gives 0.5

    exact = 0.5 * STEP * float((Q * np.log(2 * Q / (Q + P)) + P * np.log(2 * P / (Q + P)))[Q > 0].sum())
    torch.testing.assert_close(
        objective.log_ratio(torch.from_numpy(GRID)[5000:15000, None]),
        torch.from_numpy(np.log(Q / P)[5000:15000]), rtol=1e-9, atol=1e-9,
    )  # fmt: skip
    found = objective.divergence(model.model, model.guide, x)
    assert_close_in_sigmas(found, exact, 0.25 / math.sqrt(len(x)), effect=exact, resolution=0.05)
    right = 0.5 * STEP * float((Q * (Q > P) + P * (Q < P)).sum())
    accuracy = objective.terms(model.model, model.guide, (x,), {}, "critic").named["critic_accuracy"] / len(x)
    assert_close_in_sigmas(accuracy, right, 0.5 / math.sqrt(2 * len(x)), effect=0.2)


def test_the_critic_gets_the_conditions_of_the_model() -> None:
    model = pvae.ConditionalVAE((4,), classes=3, latent=2, hidden=4, likelihood="gaussian")
    objective, batch = pvae.VAEGAN(hidden=(5,)), pvae.Batch(x=torch.randn(12, 4), y=torch.arange(12) % 3)
    objective.loss_and_grads(model.model, model.guide, *batch.values())
    assert objective.network[0].in_features == 4 + 1
    assert objective.log_ratio(batch.x, batch["y"]).shape == (12,)


# ---- Training


def test_groups_have_rates_of_their_own_and_a_resumed_run_has_the_same_bits(tmp_path: Path) -> None:
    rates = {"theta": 1e-2, "phi": 1e-3, "critic": 1e-4}
    options = {"batch_size": 16, "learning_rate": rates, "step": "eager", "progress": False, "precision": "float64"}
    x = torch.randn(32, 3, dtype=DOUBLE)

    def trained(folder: str, epochs: tuple[int, ...]) -> dict[str, Tensor]:
        for count in epochs:
            torch.manual_seed(1)
            objective, model, out = pvae.VAEGAN(hidden=(8,), spectral=True, critic_steps=2), Tiny(), tmp_path / folder
            run = pvae.fit(model, x, objective=objective, epochs=count, out=out, resume=out.exists(), **options)
            run.load("last")
        return {**model.state_dict(), **objective.state_dict()}

    whole, broken = trained("whole", (2,)), trained("broken", (1, 2))
    assert whole.keys() == broken.keys() and len(whole) > 8
    assert all(torch.equal(each, broken[name]) for name, each in whole.items())

    objective, model = pvae.VAEGAN(hidden=(8,)), Tiny()
    pvae.fit(model, x[:16], objective=objective, epochs=1, **options)
    for name, rate in {"decoder": 1e-2, "prior": 1e-2, "encoder": 1e-3, "spread": 1e-3}.items():  # Adam's first step
        moved = (getattr(model, name) - getattr(Tiny(), name)).abs()
        torch.testing.assert_close(moved, torch.full_like(moved, rate), rtol=2e-3, atol=0)


def test_a_run_shows_reconstructions_and_samples_and_has_no_evidence(tmp_path: Path) -> None:
    folder = str(tmp_path / "run")
    trained = command(
        *("train", "vae-gan", "--data", "digits"),
        *("--latent", "2", "--hidden", "4", "--epochs", "1", "--batch-size", "600", "--step", "eager", "--out", folder),
    )
    assert trained.code == 0, trained.err
    assert "pvae show" in trained.out and "pvae evaluate" not in trained.out
    for what in ("reconstructions", "samples"):
        shown = command("show", folder, "--what", what, "--count", "2", "--out", str(tmp_path / f"{what}.png"))
        assert shown.code == 0, shown.err
    judged = command("evaluate", folder)
    assert judged.code == 2 and "There is no evidence for a run that was trained by 'vae-gan" in judged.err
    assert "features of a critic replace the likelihood" in judged.err and "Traceback" not in judged.err

    run = pvae.open_run(folder)
    assert {"kl", "feature_log_likelihood", "theta_loss", "jensen_shannon"} <= run.history[0].keys()
    assert "validation_bound" not in run.history[0]
    assert run.sample(3, mean=True).shape == (3, 64) and run.reconstruct("digits").shape[1:] == (64,)
    assert 0 <= pvae.evaluate.aggregate_test(run, permutations=19, limit=50).p_value <= 1
    for use, said in {
        lambda: run.sample(3): "`sample` needs a density p.x given z.*mean=True",
        lambda: run.impute("digits"): "`impute` needs a density",
        lambda: pvae.evaluate.diagnose(run): "There is no evidence",
        lambda: pvae.compare({"vae": "vae"}, "digits", ["vae-gan"], out=tmp_path / "x"): "'vae-gan' has none",
    }.items():
        with pytest.raises(pvae.InputError, match=said):
            use()
    assert not (tmp_path / "x").exists()


def test_names_of_runs_are_recorded() -> None:
    assert describe(pvae.VAEGAN()) == "vae-gan:gamma=0.1"
    settings = pvae.VAEGAN(0.5, 1, 0.3, "non-saturating", hidden=(4, 3), spectral=True)
    assert describe(settings) == "vae-gan:gamma=0.5:layer=1:scale=0.3:loss=non-saturating:hidden=4,3:spectral=True"
    assert (
        make_objective("vae-gan:gamma=0.5:layer=1:scale=0.3:loss=non-saturating:hidden=4,3:spectral=true")().layer == 1
    )
    assert no_density_by("vae-gan:gamma=2") and not no_density_by("aae") and not no_density_by("MyLoss")


class Deeper(pvae.VAE):
    """The prior of z depends on a site that only the model has."""

    def __init__(self) -> None:
        super().__init__(6, latent=2, hidden=4)

    def model(self, x: Tensor) -> Tensor:
        with pyro.plate("data", x.shape[0]):
            u = pyro.sample("u", self.prior_density())
            z = pyro.sample("z", dist.Normal(u, 1.0).to_event(1))
            return pyro.sample("x", self.decode(z), obs=self.observed(x))


def loss_of(model: pvae.LatentModel) -> float:
    return pvae.VAEGAN(hidden=4).loss(model.model, model.guide, torch.eye(6))


def trained_on(model: Any) -> Callable[[], Any]:
    return lambda: pvae.fit(
        model(), torch.eye(6).repeat(4, 1), objective="vae-gan:hidden=4", epochs=1, step="eager", progress=False
    )


@pytest.mark.parametrize(
    ("use", "said"),
    [
        (lambda: make_objective("vae-gan:gamma=-1"), "gamma needs a number of at least 0; got -1"),
        (lambda: make_objective("vae-gan:scale=0"), "scale needs .*; got 0"),
        (lambda: make_objective("vae-gan:layer=3"), "from 1 to 2; got layer=3"),
        (lambda: make_objective("vae-gan:layer=0"), "layer needs a whole number of at least 1; got 0"),
        (lambda: make_objective("vae-gan:loss=wasserstein"), "needs loss='minimax' or 'non-saturating'"),
        (lambda: pvae.VAEGAN(critic=nn.Linear(3, 1)), "a torch.nn.Sequential; got Linear"),
        (lambda: pvae.VAEGAN(critic=nn.Sequential(nn.Linear(3, 1))), "from 1 to 0; got layer=0"),
        (trained_on(lambda: pvae.LadderVAE(6, latent=(2, 2), hidden=4)), "needs a guide with one latent site.*has 2"),
        (lambda: loss_of(Deeper()), "same latent site in both programs; the guide draws z, and the model draws u, z"),
        (trained_on(lambda: pvae.Autoencoder(6, latent=2, hidden=4, prior="standard")), "guide site 'z' is a Delta"),
        (
            trained_on(lambda: pvae.VQVAE(6, latent=2, hidden=4, codes=3)),
            "needs a continuous z.*guide site .k. is discrete",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_a_line(use: Callable[[], Any], said: str) -> None:
    with pytest.raises(pvae.InputError, match=said):
        use()
