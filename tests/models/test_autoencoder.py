"""The autoencoder: on Gaussian data it is principal component analysis, and the limit of the VAE without noise."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from forcing import Forced, sigma_points
from stats import assert_close_in_sigmas, mean_and_error
from torch import Tensor, nn

import pvae
from pvae.cli import cli
from pvae.data.toy import fit_ppca
from pvae.densities import DiagonalGaussian
from pvae.models import ModelSpec
from pvae.models.build import spec_of
from pvae.networks import GaussianNoise, MaskingNoise

DOUBLE = torch.float64
EIGENVALUES = torch.tensor([4.0, 2.0, 1.0, 0.5, 0.1], dtype=DOUBLE)
MEAN = torch.tensor([0.1, -0.2, 0.3, 1.0, -1.0], dtype=DOUBLE)
VARIANCE = 0.25  # of the linear VAE's likelihood

pytestmark = pytest.mark.usefixtures("own_store", "seeded")


def gaussian_data(size: int = 64) -> tuple[Tensor, Tensor]:
    """Data whose mean and covariance are exact, and the eigenvectors of the covariance in columns."""
    generator = torch.Generator().manual_seed(0)
    vectors, _ = torch.linalg.qr(torch.randn(5, 5, generator=generator, dtype=DOUBLE))
    z = torch.randn(size, 5, generator=generator, dtype=DOUBLE)
    white, _ = torch.linalg.qr(z - z.mean(0))
    return size**0.5 * white * EIGENVALUES.sqrt() @ vectors.T + MEAN, vectors


def fit(model: Any, x: Tensor, **options: Any) -> pvae.Run:
    data = pvae.Splits(pvae.Batch(x=x), None, None, name="x", data_shape=tuple(x.shape[1:]))
    settings = {"epochs": 150, "batch_size": len(x), "precision": "float64", "progress": False}
    return pvae.fit(model, data, **{**settings, "optimiser": "rprop", "learning_rate": 0.05, **options})


def linear(latent: int, **settings: Any) -> pvae.Autoencoder:
    return pvae.Autoencoder((5,), latent=latent, hidden=(), likelihood="gaussian:scale=1", **settings)


def error_of(model: Any, x: Tensor) -> float:
    """Mean squared error of reconstructions, summed over features."""
    return (model.reconstruct(x) - x).square().sum(1).mean().item()


def projector(columns: Tensor) -> Tensor:
    q, _ = torch.linalg.qr(columns)
    return q @ q.T


def test_a_linear_autoencoder_is_pca() -> None:
    """The error is the sum of the discarded eigenvalues, and the decoder spans the leading eigenvectors."""
    x, _ = gaussian_data()
    model = linear(2)
    run = fit(model, x)
    assert error_of(model, x) == pytest.approx(1.6, abs=1e-6)
    assert run.history[-1]["loss"] == pytest.approx(0.5 * 1.6 + 2.5 * math.log(2 * math.pi), abs=1e-6)
    assert (run.step, run.history[-1]["log_prior"]) == ("graph", 0.0)
    decoder = model.likelihood.head.layer.weight.detach()
    torch.testing.assert_close(projector(decoder), projector(fit_ppca(x, 2).weight), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("beta", "norms"),
    [(10.0, (1.5, 0, 0)), (4.0, (3, 1, 0)), (1.0, (3.75, 1.75, 0.75)), (0.25, (3.9375, 1.9375, 0.9375))],
)
def test_the_linear_vae_under_beta_has_the_known_optimum_and_tends_to_pca(
    beta: float, norms: tuple[float, ...]
) -> None:
    """Column norms^2 are max(eigenvalue - beta variance, 0); q's variance is beta variance / eigenvalue, or 1.

    As beta goes to 0, so does q's variance, and the error falls to the sum of the discarded eigenvalues, 0.6.
    """
    x, _ = gaussian_data()
    model = pvae.VAE(
        (5,), latent=3, hidden=(), likelihood="gaussian:scale=0.5", posterior=DiagonalGaussian(5, 3)
    ).double()
    loss = pvae.Beta(beta, particles=6)(model.model, model.guide)
    exact_draws = Forced(noise={"z": sigma_points(3, len(x))})  # the ELBO of a linear decoder then has no noise
    search = {"max_iter": 250, "tolerance_grad": 1e-6, "tolerance_change": 0.0, "history_size": 50}
    optimiser = torch.optim.LBFGS(model.parameters(), **search, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        with exact_draws:
            value = loss(x) / len(x)
        value.backward()
        return value

    optimiser.step(closure)
    weight = model.likelihood.head.layer.weight.detach()
    gram = weight.T @ weight
    order = gram.diagonal().argsort(descending=True)
    torch.testing.assert_close(gram[order][:, order], torch.diag(torch.tensor(norms, dtype=DOUBLE)), rtol=0, atol=2e-4)
    kept, noise = EIGENVALUES[:3], beta * VARIANCE
    active = kept > noise
    spread = torch.where(active, noise / kept, 1.0)
    torch.testing.assert_close(model.encode(x).variance[0].detach()[order], spread, rtol=1e-3, atol=0)
    left = torch.where(active, noise**2 / kept, kept).sum() + EIGENVALUES[3:].sum()
    assert error_of(model, x) == pytest.approx(left.item(), abs=1e-4)


def _gaussian(vectors: Tensor, latent: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best linear code under Gaussian noise of scale .8: ridge in each kept direction."""
    kept = vectors[:, :latent]
    shrink = EIGENVALUES[:latent] / (EIGENVALUES[:latent] + 0.8**2)
    encoder = shrink[:, None] * kept.T
    return encoder, kept, MEAN - kept @ encoder @ MEAN


def _masking(vectors: Tensor, latent: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best linear map from x with 30% of its entries at 0: cov(x, x~) cov(x~)^-1."""
    covariance = vectors @ torch.diag(EIGENVALUES) @ vectors.T
    own = 0.49 * covariance + 0.21 * torch.diag(covariance.diagonal() + MEAN.square())
    encoder = 0.7 * covariance @ torch.linalg.inv(own)
    return encoder, torch.eye(5, dtype=DOUBLE), MEAN - 0.7 * encoder @ MEAN


def put(model: pvae.Autoencoder, encoder: Tensor, decoder: Tensor, bias: Tensor) -> pvae.Autoencoder:
    with torch.no_grad():
        model.posterior.loc.weight.copy_(encoder)
        model.posterior.loc.bias.zero_()
        model.likelihood.head.layer.weight.copy_(decoder)
        model.likelihood.head.layer.bias.copy_(bias)
    return model


def mean_gradient(model: pvae.Autoencoder, x: Tensor) -> tuple[Any, Any]:
    """Mean of the gradient per datum over draws of the noise, and its standard error."""
    objective, found = pvae.Dirac(), []
    for _ in range(50):
        surrogate = objective.terms(model.model, model.guide, (x,), {}, "all").surrogate / len(x)
        found.append(torch.cat([each.flatten() for each in torch.autograd.grad(surrogate, list(model.parameters()))]))
    return mean_and_error(torch.stack(found))


@pytest.mark.parametrize(
    ("noise", "latent", "optimum"),
    [("gaussian:scale=0.8", 5, _gaussian), ("gaussian:scale=0.8", 2, _gaussian), ("masking:share=0.3", 5, _masking)],
)
def test_the_denoising_optimum_is_ridge_regression(noise: str, latent: int, optimum: Any) -> None:
    """No gradient at the closed form, where the optimum without noise has a clear one."""
    x, vectors = gaussian_data()
    x, model = x.repeat(50, 1), linear(latent, noise=noise).double()
    mean, error = mean_gradient(put(model, *optimum(vectors, latent)), x)
    clean, _ = mean_gradient(put(model, vectors[:, :latent].T, vectors[:, :latent], 0 * MEAN), x)
    assert_close_in_sigmas(mean, 0.0, error, effect=abs(clean).max(), resolution=0.02)


def test_noise_is_for_the_encoder_in_training_alone() -> None:
    x, _ = gaussian_data()
    plain, noisy = linear(2).double(), linear(2, noise="gaussian").double()
    noisy.load_state_dict(plain.state_dict())
    value = pvae.Dirac().loss(plain.model, plain.guide, x)
    assert pvae.Dirac().loss(noisy.model, noisy.guide, x) != value
    assert pvae.Dirac().loss(noisy.eval().model, noisy.guide, x) == value
    assert torch.equal(noisy.train().reconstruct(x), plain.reconstruct(x))


def test_masking_leaves_the_other_entries_as_they_are() -> None:
    x = 1 + torch.rand(20_000, 5, dtype=DOUBLE)
    masked = MaskingNoise(0.3)(x)
    kept = masked != 0
    assert torch.equal(masked[kept], x[kept])
    assert_close_in_sigmas(kept.double().mean(), 0.7, (0.21 / x.numel()) ** 0.5, effect=0.4)
    assert torch.equal(MaskingNoise(0.3).eval()(x), x) and torch.equal(GaussianNoise().eval()(x), x)


def test_the_validation_value_has_no_noise() -> None:
    """The autoencoder that cannot learn has the same validation value with noise and without."""
    x, _ = gaussian_data()
    data = pvae.Splits(pvae.Batch(x=x), pvae.Batch(x=x), None, name="x", data_shape=(5,))
    found = []
    for noise in (None, "gaussian:scale=3"):
        model = linear(2, noise=noise)
        model.load_state_dict(found[0][0] if found else model.state_dict())
        start = {name: each.clone() for name, each in model.state_dict().items()}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The validation bound")
            run = pvae.fit(
                model, data, epochs=1, batch_size=64, precision="float64", learning_rate=1e-12, progress=False
            )
        found.append((start, run.history[-1]["validation_bound"], run.history[-1]["loss"]))
    assert found[0][1] == pytest.approx(found[1][1], abs=1e-6)
    assert found[1][2] > found[0][2] + 1


def test_the_standard_prior_is_the_maximum_a_posteriori() -> None:
    """The loss has -log N(z; 0, I) beside the reconstruction. (What it leads to is in test_dirac.py.)"""
    x, _ = gaussian_data()
    flat, standard = linear(2).double(), linear(2, prior="standard").double()
    standard.load_state_dict(flat.state_dict())
    z = flat.encode(x).mean
    penalty = (0.5 * z.square() + 0.5 * math.log(2 * math.pi)).sum().item()
    losses = [pvae.Dirac().loss(each.model, each.guide, x) for each in (standard, flat)]
    assert losses[0] - losses[1] == pytest.approx(penalty, rel=1e-12)
    again = flat.decode(z)
    assert losses[1] == pytest.approx(-again.log_prob(x).sum().item(), rel=1e-12)
    assert standard.sample(7).shape == (7, 5)


def test_no_hidden_layers_make_the_linear_vae() -> None:
    """Encoder and decoder without layers: the heads alone, in Python by () and on the command line by 0."""
    for hidden in ((), 0):
        vae = pvae.VAE((2, 3), latent=2, hidden=hidden)
        assert [tuple(each.shape) for each in vae.parameters()] == [(2, 6), (2,), (2, 6), (2,), (6, 2), (6,)]
        x = torch.randn(4, 6)
        assert torch.equal(vae.encode(x).mean, nn.functional.linear(x, vae.posterior.loc.weight))
        assert spec_of(vae) == ModelSpec("vae", {"data_shape": (2, 3), "latent": 2, "hidden": hidden})
    with pytest.raises(pvae.InputError, match="at least one number of filters"):
        pvae.VAE((4, 4), hidden=0, network="conv")
    with pytest.raises(pvae.InputError, match="hidden needs whole numbers of at least 1; got False"):
        pvae.VAE((4, 4), hidden=False)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"noise": "gausian"}, "did you mean 'gaussian'"),
        ({"noise": "gaussian:share=1"}, "Unknown setting 'share' of noise 'gaussian'"),
        ({"noise": "gaussian:scale=-1"}, "scale needs a positive number; got -1"),
        ({"noise": "gaussian:scale=high"}, "scale needs a positive number; got 'high'"),
        ({"noise": "masking:share=1"}, "share needs a number above 0 and below 1; got 1"),
        ({"prior": "vamp:components=2"}, "codes are points without a density; VampPrior is made of posteriors"),
        ({"prior": "flatt"}, "Unknown prior 'flatt'"),
    ],
)
def test_bad_arguments_are_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(pvae.InputError, match=said) as caught:
        pvae.Autoencoder((5,), **settings)
    assert "\n" not in str(caught.value)


def test_there_are_no_samples_and_no_evidence() -> None:
    x, _ = gaussian_data()
    model = linear(2).double()
    for asked in (lambda: model.sample(3), lambda: pvae.models.sample(model, {"x": x})):
        with pytest.raises(pvae.InputError, match=r"an autoencoder has no samples\. Fit a prior to its codes") as said:
            asked()
        assert "\n" not in str(said.value)
    for asked in (pvae.evaluate.log_evidence, pvae.evaluate.elbo):
        with pytest.raises(pvae.InputError, match="'z' is a Delta") as said:
            asked(model, x, 2)
        assert "\n" not in str(said.value)


@pytest.fixture
def trained(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    small = ["--latent", "3", "--hidden", "0", "--noise", "masking:share=0.2", "--max-steps", "3", "--out", "run"]
    done = CliRunner().invoke(cli, ["train", "autoencoder", "--data", "digits", *small, "--no-progress"])
    assert done.exit_code == 0 and "objective dirac" in " ".join(done.stdout.split()), done.stderr
    assert "nan" not in done.stdout
    return "run"


@pytest.mark.filterwarnings("ignore:The validation bound is the objective")
def test_on_the_command_line(trained: str) -> None:
    for what in ("reconstructions", "latent", "interpolation", "history"):
        assert CliRunner().invoke(cli, ["show", trained, "--what", what]).exit_code == 0
    for asked in (
        ["show", trained, "--what", "samples"],
        ["show", trained, "--what", "traversal"],
        ["evaluate", trained, "--particles", "2"],
    ):
        done = CliRunner().invoke(cli, asked)
        last = done.stderr.strip().splitlines()[-1]
        assert done.exit_code == 2 and last.startswith("pvae: error: ") and "Traceback" not in done.stderr
        assert "Trace Shapes" not in done.stderr and len(last) < 250
