"""The conditional VAE: exact on linear-Gaussian models, the VAE bit for bit where the condition is constant."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from click.testing import CliRunner
from pyro import poutine
from stats import assert_close_in_sigmas, mean_and_error
from torch import Tensor

import pvae
from pvae.cli import cli
from pvae.models import ModelSpec
from pvae.models.conditions import LabelCondition, QuadrantCondition, VectorCondition

DOUBLE = torch.float64
EXACT = {"rtol": 1e-10, "atol": 1e-10}
SD = 0.5
X = torch.tensor([[1.0, -0.5, 0.2, 0.7], [0.3, 0.9, -1.1, 0.4], [-0.6, 0.1, 0.8, -0.2]], dtype=DOUBLE)
Y = torch.tensor([0, 2, 1])
C = torch.tensor([[0.5, -1.0, 0.3], [1.5, 0.2, -0.4], [-0.7, 0.6, 1.1]], dtype=DOUBLE)

pytestmark = pytest.mark.usefixtures("own_store", "seeded")


class Exact:
    """A linear CVAE whose encoder is its exact posterior, and its p(x given c) by hand.

    z ~ N(M c + m, S), x ~ N(W (z + V c) + mu, sd^2 I) on the rows that are scored. W has orthogonal columns there, so
    that the posterior is diagonal.
    """

    def __init__(self, condition: str, prior: str = "standard", latent: int = 2, **settings: Any) -> None:
        shape = (2, 2) if condition == "quadrants" else (4,)
        facts = {"y": {"classes": 3}, "c": {"condition_shape": 3}, "quadrants": {}}[condition]
        parts = {"hidden": (), "likelihood": f"gaussian:scale={SD}", "prior": prior}
        self.model = pvae.ConditionalVAE(
            shape, condition=condition, latent=latent, **facts, **parts, **settings
        ).double()
        features, generator = self.model.condition.features, torch.Generator().manual_seed(1)

        def draw(*size: int) -> Tensor:
            return torch.randn(*size, generator=generator, dtype=DOUBLE)

        self.rows = torch.ones(4, dtype=torch.bool)
        if condition == "quadrants":
            self.rows = self.model.condition.missing.flatten()
        columns, _ = torch.linalg.qr(draw(int(self.rows.sum()), latent))
        self.W, self.V, self.mu = draw(4, latent), draw(latent, features), draw(4)
        self.W[self.rows] = columns * torch.tensor([2.0, 0.7], dtype=DOUBLE)[:latent]
        self.M, self.m, self.S = (
            torch.zeros(latent, features).double(),
            torch.zeros(latent).double(),
            torch.ones(latent),
        )
        if prior != "standard":
            self.M, self.m, self.S = draw(latent, features), draw(latent), draw(latent).exp()
        self._put()

    @torch.no_grad()
    def _put(self) -> None:
        model, W = self.model, self.W * self.rows[:, None]
        precision = W.square().sum(0) / SD**2 + 1 / self.S
        A = W.T / SD**2 / precision[:, None]
        pull = 1 / (self.S * precision)
        model.likelihood.head.layer.weight.copy_(self.W)
        model.likelihood.head.layer.bias.copy_(self.mu)
        model.decoder.layer.weight.copy_(self.V)
        model.posterior.loc.weight.copy_(A)
        model.posterior.loc.bias.copy_(pull * self.m - A @ self.mu)
        model.encoder.layer.weight.copy_(-W @ self.V + torch.linalg.pinv(A) @ (pull[:, None] * self.M))
        model.posterior.log_scale.weight.zero_()
        model.posterior.log_scale.bias.copy_(-0.5 * precision.log())
        if not isinstance(model.prior, pvae.StandardNormal):
            model.prior.density.loc.weight.copy_(self.M)
            model.prior.density.loc.bias.copy_(self.m)
            model.prior.density.log_scale.weight.zero_()
            model.prior.density.log_scale.bias.copy_(0.5 * self.S.log())

    def density(self, c: Tensor) -> torch.distributions.MultivariateNormal:
        """p of the scored rows of x given features c, shape (batch, features)."""
        W = self.W[self.rows]
        mean = (c @ self.M.T + self.m + c @ self.V.T) @ W.T + self.mu[self.rows]
        return torch.distributions.MultivariateNormal(mean, W * self.S @ W.T + SD**2 * torch.eye(len(W)).double())


def one_hot(y: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(y, 3).double()


CASES = {
    "y": ({"x": X, "y": Y}, one_hot(Y)),
    "c": ({"x": X, "c": C}, C),
    "quadrants": ({"x": X.reshape(3, 2, 2)}, X[:, [0, 2]]),  # observed: lower left and upper left
}


def exact(condition: str, prior: str = "standard") -> Exact:
    more = {"latent": 1, "observed": 2} if condition == "quadrants" else {}
    return Exact(condition, prior, **more)


@pytest.mark.parametrize("prior", ["standard", "conditional:hidden=0"])
@pytest.mark.parametrize("condition", CASES)
def test_weights_at_the_exact_posterior_are_the_conditional_evidence(condition: str, prior: str) -> None:
    """log p(x, z given c) - log q(z given x, c) is log p(x given c) at every z; for quadrants, of the missing ones."""
    case, (batch, c) = exact(condition, prior), CASES[condition]
    expected = case.density(c).log_prob(X[:, case.rows])
    weights = pvae.log_weights(case.model, batch, 4)
    torch.testing.assert_close(weights.log_w.detach(), expected.expand(4, 3), **EXACT)
    found = pvae.evaluate.log_evidence(case.model, pvae.Batch(**batch), 3)
    assert found.value == pytest.approx(expected.mean().item(), rel=1e-10)


def test_the_kl_is_against_the_conditional_prior() -> None:
    case = exact("y", "conditional:hidden=0")
    guide = poutine.trace(case.model.guide).get_trace(X, Y)
    model = poutine.trace(poutine.replay(case.model.model, trace=guide)).get_trace(X, Y)
    prior, q = model.nodes["z"]["fn"], guide.nodes["z"]["fn"]
    mean, variance = one_hot(Y) @ case.M.T + case.m, case.S
    by_hand = 0.5 * ((q.variance + (q.mean - mean).square()) / variance - 1 - (q.variance / variance).log()).sum(1)
    torch.testing.assert_close(torch.distributions.kl_divergence(q, prior), by_hand, **EXACT)
    z = case.model.encode(X, Y).sample((20_000,))
    likelihoods = case.model.decode(z, Y).log_prob(X).sum(1)
    mean_likelihood, error = mean_and_error(likelihoods)
    total = case.density(one_hot(Y)).log_prob(X).sum() + by_hand.sum()
    assert_close_in_sigmas(mean_likelihood, total, error, effect=by_hand.sum(), resolution=0.02)


def test_labels_summed_out_are_a_mixture() -> None:
    case, shares = exact("y", "conditional:hidden=0"), torch.tensor([0.5, 0.3, 0.2], dtype=DOUBLE)
    joint = []
    for y, share in enumerate(shares):
        batch = pvae.Batch(x=X, y=torch.full((3,), y))
        joint.append(pvae.log_weights(case.model, batch, 1).log_w[0].detach() + share.log())
    mixture = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(shares), case.density(torch.eye(3).double())
    )
    torch.testing.assert_close(torch.stack(joint).logsumexp(0), mixture.log_prob(X), **EXACT)


@pytest.mark.parametrize("observed", [1, 2, 3])
def test_the_missing_quadrants_are_scored_and_sum_to_one(observed: int) -> None:
    """p(missing given observed, z) over all pictures that have these observed pixels, and no others."""
    model = pvae.ConditionalVAE((2, 3), condition="quadrants", observed=observed, latent=2, hidden=(5,)).double()
    pictures = torch.tensor(list(itertools.product([0.0, 1.0], repeat=6)), dtype=DOUBLE).reshape(-1, 2, 3)
    missing = model.condition.missing
    x = pictures[37]
    alike = pictures[((pictures == x) | missing).all(2).all(1)]
    assert len(alike) == 2 ** int(missing.sum())
    z = torch.randn(1, 2, dtype=DOUBLE).expand(len(alike), 2)
    total = model.decode(z, alike).log_prob(alike.flatten(1)).exp().sum()
    assert total.item() == pytest.approx(1.0, rel=1e-12)


def test_quadrants_come_in_the_documented_order() -> None:
    """Lower left, upper left, upper right; the middle row and column of odd sizes are lower and right."""
    expected = {
        1: [[0, 0, 0], [0, 0, 0], [1, 0, 0], [1, 0, 0], [1, 0, 0]],
        2: [[1, 0, 0], [1, 0, 0], [1, 0, 0], [1, 0, 0], [1, 0, 0]],
        3: [[1, 1, 1], [1, 1, 1], [1, 0, 0], [1, 0, 0], [1, 0, 0]],
    }
    for observed, given in expected.items():
        condition = QuadrantCondition((5, 3), observed)
        assert (~condition.missing).long().tolist() == given
        assert (~QuadrantCondition((2, 5, 3), observed).missing).long().tolist() == [given, given]
        x = torch.arange(15.0).reshape(1, 5, 3)
        assert torch.equal(condition.raw_features(x)[0], x[0][torch.tensor(given).bool()])


def fit(name: str, data: Any, **settings: Any) -> pvae.Run:
    options = {key: settings.pop(key) for key in ("step", "objective") if key in settings}
    spec = ModelSpec(name, {"latent": 3, "hidden": (7, 5), **settings})
    options |= {"epochs": 3, "batch_size": 10, "progress": False, "seed": 5, "validation_particles": 5}
    return pvae.fit(spec, data, **options)


def pictures(**fields: Any) -> pvae.Splits:
    x = torch.rand(26, 6, 5, generator=torch.Generator().manual_seed(2)).round()
    return pvae.load_data({"x": x, **fields}, validation=6, test=0, binarise="none")


CONSTANT = {"y": torch.full((26,), 2), "c": torch.full((26, 2), 0.1)}
NETWORKS = [
    ("y", {"network": "mlp"}),
    ("c", {"network": "mlp", "step": "eager"}),
    ("c", {"network": "gated"}),
    ("y", {"network": "conv", "hidden": (2, 3)}),
]


@pytest.mark.parametrize(("condition", "settings"), NETWORKS, ids=str)
def test_with_a_constant_condition_it_is_the_vae_bit_for_bit(condition: str, settings: dict[str, Any]) -> None:
    plain = fit("vae", pictures(), **settings)
    conditional = fit("cvae", pictures(**{condition: CONSTANT[condition]}), condition=condition, **settings)
    assert conditional.step == plain.step == settings.get("step", "graph")
    for ours, theirs in zip(conditional.history, plain.history, strict=True):
        assert {key: each for key, each in ours.items() if key != "seconds"} == {
            key: each for key, each in theirs.items() if key != "seconds"
        }
    own = {name.replace("coder.network.", "coder."): each for name, each in conditional.model.named_parameters()}
    for name, parameter in plain.model.named_parameters():
        assert torch.equal(own.pop(name), parameter), name
    assert own.keys() == {"encoder.layer.weight", "decoder.layer.weight"}


def test_with_labels_that_vary_it_is_another_model() -> None:
    """And under a VampPrior too a constant label changes no bit: its pseudo-inputs stand at the mean condition."""
    values = {}
    for prior in ("standard", "vamp:components=3"):
        for name, y in (("none", None), ("constant", CONSTANT["y"]), ("varying", torch.arange(26) % 3)):
            torch.manual_seed(0)
            settings = {"latent": 3, "hidden": (7, 5), "prior": prior}
            model = pvae.VAE((6, 5), **settings) if y is None else pvae.ConditionalVAE((6, 5), classes=3, **settings)
            batch = pvae.Batch(x=pictures().train["x"][:8], **({} if y is None else {"y": y[:8]}))
            model.initialise_from(batch)
            torch.manual_seed(1)
            values[prior, name] = pvae.log_weights(model, batch, 2).log_w
        assert torch.equal(values[prior, "none"], values[prior, "constant"])
        assert (values[prior, "none"] - values[prior, "varying"]).abs().min() > 1e-3


def test_conditions_are_centred_and_scaled_by_the_training_data() -> None:
    """Vectors by each number's own deviation, labels and pixels by one for all; what never varies is 0."""
    c = torch.tensor([[1.0, 0.1, -3.0], [5.0, 0.1, 1.0], [3.0, 0.1, 2.0], [2.0, 0.1, 7.0]])
    vectors = VectorCondition((3,))
    vectors.initialise_from(c)
    assert (vectors(c)[:, 1] == 0).all() and (vectors(c + 1)[:, 1] == 0).all()
    by_hand = (c.numpy() - c.numpy().mean(0)) / np.where([True, False, True], c.numpy().std(0), 1)
    np.testing.assert_allclose(vectors(c).numpy()[:, [0, 2]], by_hand[:, [0, 2]], rtol=1e-5)
    y = torch.tensor([0, 0, 3, 3, 3, 1])
    labels = LabelCondition(5)
    labels.initialise_from(y)
    share = np.array([2, 1, 0, 3, 0]) / 6
    deviation = math.sqrt((share * (1 - share)).sum() / 3)
    np.testing.assert_allclose(labels(y).numpy(), (np.eye(5)[y] - share) / deviation * (share > 0), rtol=1e-5)
    pixels = QuadrantCondition((2, 2), 2)
    x = torch.tensor([[[0.0, 5.0], [1.0, 5.0]], [[0.0, 5.0], [3.0, 6.0]]])
    pixels.initialise_from(x)
    assert pixels(x).tolist() == [[0.0, -1.0], [0.0, 1.0]]


def test_samples_follow_their_condition() -> None:
    case = exact("y", "conditional:hidden=0")
    for y in (0, 2):
        density = case.density(one_hot(torch.tensor([y])))
        x = case.model.sample(20_000, y=y)
        mean, error = mean_and_error(x)
        assert_close_in_sigmas(mean, density.mean[0], error, effect=2.0, resolution=0.02)
        spread, error = mean_and_error((x - density.mean).square())
        assert_close_in_sigmas(spread, density.variance[0], error, effect=density.variance[0], resolution=0.02)
    each = case.model.sample(2, y=[0, 2], mean=True)
    assert each.shape == (2, 4)
    by_c = exact("c")
    assert by_c.model.sample(3, c=C).shape == by_c.model.sample(3, c=C[0]).shape == (3, 4)


def test_completions_follow_the_observed_quadrants_and_look_at_no_other() -> None:
    case, (batch, c) = exact("quadrants", "conditional:hidden=0"), CASES["quadrants"]
    hidden = torch.where(case.model.condition.missing, torch.nan, batch["x"])
    torch.manual_seed(3)
    draws = case.model.impute(hidden, 20_000)
    torch.manual_seed(3)
    assert torch.equal(draws, case.model.impute(batch["x"], 20_000))
    assert torch.equal(draws.flatten(2)[..., ~case.rows], X[:, ~case.rows].expand(20_000, 3, 2))
    mean, error = mean_and_error(draws.flatten(2)[..., case.rows])
    assert_close_in_sigmas(mean, case.density(c).mean, error, effect=1.0, resolution=0.02)
    both = draws.flatten(2)[..., case.rows] - case.density(c).mean
    product, error = mean_and_error(both[..., 0] * both[..., 1])
    covariance = case.density(c).covariance_matrix
    assert_close_in_sigmas(product, covariance[..., 0, 1].expand(3), error, effect=1.0, resolution=0.03)
    again = case.model.sample(3, x=batch["x"], mean=True)
    assert torch.equal(again.flatten(1)[:, ~case.rows], X[:, ~case.rows])
    assert case.model.impute(batch["x"], mean=True).shape == (1, 3, 2, 2)


def test_reconstructions_are_means_at_the_posteriors_mean() -> None:
    for condition in ("y", "c", "quadrants"):
        case, (batch, c) = exact(condition), CASES[condition]
        beside = [each for name, each in batch.items() if name != "x"]
        z = case.model.encode(batch["x"], *beside).mean
        by_hand = (z + c @ case.V.T) @ case.W.T + case.mu
        by_hand = torch.where(case.rows, by_hand, X)
        torch.testing.assert_close(case.model.reconstruct(batch["x"], *beside).flatten(1), by_hand.detach(), **EXACT)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "needs a condition: labels y"),
        ({"condition": "y"}, "data without y"),
        ({"condition": "c", "classes": 3}, "data without c"),
        ({"condition": "quadrant"}, "did you mean 'quadrants'"),
        ({"condition": "quadrants"}, r"needs pictures, \(height, width\)"),
        (
            {"condition": "quadrants", "data_shape": (4, 4), "observed": 4},
            "observed needs a whole number from 1 to 3; got 4",
        ),
        ({"classes": 3, "observed": 2}, "needs condition='quadrants', not 'y'"),
        ({"classes": 0}, "at least 1; got 0"),
        (
            {"condition_shape": (2, 0)},
            r"condition_shape needs whole numbers of at least 1; got \(2, 0\).*shape of one c",
        ),
        ({"classes": 3, "prior": "conditional:hiden=3"}, "did you mean 'hidden'"),
        ({"classes": 3, "prior": "conditional:hidden=-3"}, "hidden needs whole numbers of at least 1; got -3"),
        ({"classes": 3, "prior": "conditonal"}, "Unknown prior 'conditonal'"),
    ],
)
def test_bad_arguments_are_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(pvae.InputError, match=said) as caught:
        pvae.ConditionalVAE(**{"data_shape": (4,), **settings})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("settings", [{"condition_shape": 3}, {"classes": 3}, {"condition": "c", "condition_shape": 3}])
def test_a_model_made_for_one_condition_of_two_is_opened_again(settings: dict[str, Any], tmp_path: Any) -> None:
    made = pvae.ConditionalVAE((4,), latent=2, hidden=3, likelihood="gaussian", **settings)
    data = pvae.load_data({"x": X, "y": Y, "c": C}, validation=0, test=0)
    pvae.fit(made, data, epochs=1, out=tmp_path / "run", progress=False)
    opened = pvae.open_run(tmp_path / "run").model
    assert opened.condition.field == made.condition.field
    assert all(torch.equal(each, opened.state_dict()[name]) for name, each in made.state_dict().items())


def _by_label() -> Any:
    return exact("y").model


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (lambda: _by_label().sample(3), "of x given y: sample.* got no condition"),
        (lambda: _by_label().sample(3, c=[1.0]), "of x given y: .* got c"),
        (lambda: _by_label().sample(3, y=5), "labels from 0 to 2 .* from 5 to 5"),
        (lambda: _by_label().sample(3, y=[1, 2]), "one y for all, or 3 of them; got 2"),
        (lambda: _by_label().sample(3, y=0.5), "one whole number for each datum"),
        (lambda: _by_label().encode(X), "of x given y: pass y after x"),
        (lambda: _by_label().impute(X), "impute completes quadrants"),
        (lambda: exact("c").model.sample(3, c=[1.0]), r"c needs the shape \(data, 3\), as in training; got \(1,\)"),
        (lambda: exact("quadrants").model.sample(3), "given its observed quadrants: sample.* got no condition"),
        (lambda: exact("quadrants").model.impute(X[:, :2]), r"pictures of shape \(2, 2\); got \(2,\)"),
        (lambda: pvae.evaluate.elbo(_by_label(), pvae.Batch(x=X, y=Y + 1), 2), "labels from 0 to 2"),
        (lambda: pvae.log_weights(_by_label(), pvae.Batch(x=X, y=Y - 1), 2), "labels from 0 to 2"),
        (lambda: pvae.log_weights(_by_label(), pvae.Batch(x=X), 2), "take 'y', but the batch has only x"),
        (lambda: pvae.log_weights(exact("c").model, pvae.Batch(x=X, c=C[:, :2]), 2), r"needs the shape \(data, 3\)"),
        (lambda: pvae.models.sample(_by_label(), pvae.Batch(x=X, y=Y + 1)), "labels from 0 to 2"),
        (lambda: pvae.fit(_by_label(), {"x": X, "y": Y + 3 * (Y == 2)}, epochs=1), "labels from 0 to 2"),
        (lambda: pvae.fit(_by_label(), {"x": X}, epochs=1), "take 'y', but the batch has only x"),
        (lambda: fit("cvae", pictures()), "needs a condition"),
        (
            lambda: fit("cvae", pictures(), condition="quadrants", likelihood=_Joint()),
            "independent in each entry; got MultivariateNormal",
        ),
    ],
)
def test_bad_conditions_are_answered_in_one_line(asked: Any, said: str) -> None:
    with pytest.raises(pvae.InputError, match=said) as caught:
        asked()
    assert "\n" not in str(caught.value)


class _Joint(torch.nn.Module):
    """A likelihood that is no product over entries."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(7, 30)

    def forward(self, context: Tensor) -> Any:
        return dist.MultivariateNormal(self.layer(context), torch.eye(30))


def command(*arguments: str) -> Any:
    return CliRunner().invoke(cli, list(arguments))


@pytest.mark.parametrize("options", [[], ["--condition", "quadrants", "--set", "observed=2"]], ids=["y", "quadrants"])
def test_on_the_command_line(options: list[str], tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Conditions come from the data at every turn."""
    monkeypatch.chdir(tmp_path)
    small = ["--latent", "3", "--hidden", "8", "--max-steps", "3", "--out", "run", "--no-progress"]
    done = command("train", "cvae", "--data", "digits", *small, *options)
    assert done.exit_code == 0, done.stderr
    for what in ("samples", "reconstructions", "traversal", "latent"):
        assert command("show", "run", "--what", what).exit_code == 0, what
    drawn = command("show", "run", "--what", "inpainting", "--count", "3").exit_code
    assert drawn == (0 if "quadrants" in options else 2)
    done = command("evaluate", "run", "--particles", "2", "--limit", "20")
    assert done.exit_code == 0 and "log evidence" in done.stdout
