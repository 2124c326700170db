"""The regularised autoencoder: its penalties and their gradients by hand, a known optimum, and spectral layers."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from click.testing import CliRunner
from forcing import DOUBLE
from models import first_of_plate
from torch import Tensor, nn

import pvae
from pvae.cli import cli
from pvae.networks import normalise_spectrally
from pvae.objectives import RAE, describe, make_objective
from pvae.objectives.regularised import squared_jacobian

pytestmark = [
    pytest.mark.usefixtures("own_store", "seeded"),
    pytest.mark.filterwarnings("ignore:The validation bound is the objective"),
]


class Coder(pvae.LatentModel):
    """A decoder with one hidden layer of tanh, and a linear encoder; a subsampled plate if it has a size."""

    def __init__(self, plate: int | None = None) -> None:
        super().__init__()
        self.decoder = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 3)).double()
        self.encoder = nn.Linear(3, 2).double()
        self.plate = plate

    def model(self, x: Tensor) -> None:
        with first_of_plate(x, self.plate):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with first_of_plate(x, self.plate):
            pyro.sample("z", dist.Delta(self.encoder(x)).to_event(1))


def squared_norms(model: Coder, z: Tensor) -> Tensor:
    """The squared norm of the whole Jacobian of the mean of x, for each z, entry by entry."""
    jacobian = torch.func.vmap(torch.func.jacrev(lambda code: model.decoder(code).sigmoid()))(z)
    return jacobian.square().sum((1, 2))


def penalty_by_hand(penalty: str, model: Coder, z: Tensor) -> Tensor:
    """The penalty of the decoder, for each datum; that of the gradient for the signs that the same seed draws."""
    if penalty == "l2":
        return (model.decoder[0].weight.square().sum() + model.decoder[2].weight.square().sum()).expand(len(z))
    if penalty == "none":
        return torch.zeros(len(z), dtype=DOUBLE)
    signs = (torch.rand(len(z), 3, dtype=DOUBLE) < 0.5).double() * 2.0 - 1.0
    jacobian = torch.func.vmap(torch.func.jacrev(lambda code: model.decoder(code).sigmoid()))(z)
    return torch.einsum("nx,nxz->nz", signs, jacobian).square().sum(1)


@pytest.mark.parametrize("penalty", ["l2", "gradient", "none"])
@pytest.mark.parametrize("plate", [None, 20])
def test_value_and_gradient_are_those_of_the_formula(penalty: str, plate: int | None) -> None:
    """Each datum counts 20 / 5 times in a subsampled plate, with all penalties."""
    model, x = Coder(plate), torch.rand(5, 3, dtype=DOUBLE).round()
    objective = RAE(0.7, penalty, 0.3)
    torch.manual_seed(5)
    terms = objective.terms(model.model, model.guide, (x,), {}, "all")
    torch.manual_seed(5)
    z = model.encoder(x)
    likelihood = dist.Bernoulli(logits=model.decoder(z)).log_prob(x).sum(1)
    of_decoder = penalty_by_hand(penalty, model, z)
    loss = (20 / 5 if plate else 1) * (0.35 * z.square().sum(1) + 0.3 * of_decoder - likelihood).sum()
    assert terms.loss.item() == pytest.approx(loss.item(), rel=1e-12)
    parameters = list(model.parameters())
    ours, theirs = torch.autograd.grad(terms.surrogate, parameters), torch.autograd.grad(loss, parameters)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-12)
    torch.manual_seed(5)
    assert objective.loss(model.model, model.guide, x) == pytest.approx(loss.item(), rel=1e-12)  # without gradients


def test_the_gradient_of_the_weight_decay_is_twice_the_weights() -> None:
    model, x = Coder(), torch.rand(5, 3, dtype=DOUBLE).round()
    gradients = []
    for weight in (0.0, 0.3):
        surrogate = RAE(0.0, "l2", weight).terms(model.model, model.guide, (x,), {}, "all").surrogate / len(x)
        gradients.append(torch.autograd.grad(surrogate, list(model.decoder.parameters())))
    for parameter, without, decayed in zip(model.decoder.parameters(), *gradients, strict=True):
        expected = 2 * 0.3 * parameter.detach() * (parameter.dim() > 1)  # biases are free
        torch.testing.assert_close(decayed - without, expected, rtol=1e-10, atol=1e-12)


def test_the_mean_over_all_signs_is_the_norm_of_the_jacobian() -> None:
    """Value and gradient of the penalty, for 2^3 vectors of signs."""
    model = Coder()
    z = torch.randn(4, 2, dtype=DOUBLE, requires_grad=True)
    mean = model.decoder(z).sigmoid()
    found = torch.zeros(4, dtype=DOUBLE)
    for signs in itertools.product((-1.0, 1.0), repeat=3):
        v = torch.tensor(signs, dtype=DOUBLE).expand(4, 3)
        found = found + squared_jacobian([mean], [v], z, create_graph=True).sum(1) / 8
    expected = squared_norms(model, z)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    weights = [model.decoder[0].weight, model.decoder[2].weight, z]
    ours, theirs = torch.autograd.grad(found.sum(), weights), torch.autograd.grad(expected.sum(), weights)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-12)


def test_a_linear_rae_has_the_known_optimum() -> None:
    """A direction of variance v has a column of squared length sqrt(v code / (2 weight)) - code, or none.

    With encoder e and decoder s in this direction the mean loss is v (1 - s e)^2 / 2 + code v e^2 / 2 + weight s^2. Its
    best e is s / (s^2 + code), and the rest is v code / (2 (s^2 + code)) + weight s^2.
    """
    variances, code, weight = torch.tensor([4.0, 2.0, 1.0, 0.1], dtype=DOUBLE), 0.5, 0.25
    z = torch.randn(64, 4, dtype=DOUBLE)
    white, _ = torch.linalg.qr(z - z.mean(0))
    x = 8.0 * white * variances.sqrt()
    model = pvae.Autoencoder((4,), latent=4, hidden=(), likelihood="gaussian:scale=1")
    data = pvae.Splits(pvae.Batch(x=x), None, None, name="x", data_shape=(4,))
    settings = {"batch_size": 64, "precision": "float64", "optimiser": "rprop", "learning_rate": 0.05}
    run = pvae.fit(model, data, objective=RAE(code, "l2", weight), epochs=200, progress=False, **settings)
    lengths = ((variances * code / (2 * weight)).sqrt() - code).clamp_min(0.0)
    columns = model.likelihood.head.layer.weight.detach()
    torch.testing.assert_close(columns @ columns.T, torch.diag(lengths), rtol=0, atol=1e-3)
    best = variances * code / (2 * (lengths + code)) + weight * lengths
    expected = best.sum().item() + 2 * math.log(2 * math.pi)
    assert run.history[-1]["loss"] == pytest.approx(expected, abs=1e-5)


def test_spectral_layers_change_no_distance_by_a_factor_above_one() -> None:
    model = pvae.Autoencoder((6,), latent=3, hidden=(8, 7), likelihood="gaussian:scale=1", spectral=True).double()
    x = 5 * torch.randn(20, 6, dtype=DOUBLE)
    settings = {"epochs": 3, "batch_size": 10, "precision": "float64", "learning_rate": 0.01, "progress": False}
    pvae.fit(model, x, objective=RAE(0.01, "none"), step="eager", **settings)
    for _ in range(100):  # the singular vectors follow the weights with a delay
        model.train().decode(torch.zeros(1, 3, dtype=DOUBLE))
    model.eval()
    layers = [
        layer for layer in [*model.decoder.modules(), *model.likelihood.modules()] if isinstance(layer, nn.Linear)
    ]
    assert len(layers) == 3 and not any("original" in name for name, _ in model.encoder.named_parameters())
    norms = [torch.linalg.matrix_norm(layer.weight.detach(), 2).item() for layer in layers]
    assert norms == pytest.approx([1.0] * 3, abs=1e-4)
    with torch.no_grad():
        one, two = torch.randn(50, 3, dtype=DOUBLE), torch.randn(50, 3, dtype=DOUBLE)
        moved = (model.decode(one).mean - model.decode(two).mean).norm(dim=1)
        assert (moved <= 1.001 * (one - two).norm(dim=1)).all()
    plain = nn.Sequential(nn.ConvTranspose2d(2, 3, 4), nn.Conv2d(3, 2, 3))
    normalise_spectrally(plain)
    assert all("original" in name for name, _ in plain.named_parameters() if "weight" in name)


def test_a_fitted_prior_gives_samples_and_an_opened_run_is_the_same(tmp_path: Path) -> None:
    data = pvae.load_data(torch.rand(60, 6).round(), validation=0, test=0)
    settings = {"latent": 2, "hidden": (5,), "spectral": True}
    spec = pvae.ModelSpec("autoencoder", settings)
    run = pvae.fit(
        spec, data, objective="rae:penalty=none", max_steps=1, step="eager", progress=False, out=tmp_path / "run"
    )
    fitted = pvae.fit_prior(run, "full-gaussian", data, out=tmp_path / "fitted")
    codes = run.model.encode(data.train["x"]).mean.detach()
    torch.testing.assert_close(fitted.model.prior_density().mean, codes.mean(0), rtol=1e-4, atol=1e-5)
    again = pvae.open_run(tmp_path / "fitted")
    assert again.sample(5).shape == (5, 6)
    assert torch.equal(again.model.encode(data.train["x"]).mean, codes)
    with pytest.raises(pvae.InputError, match="a point without a density"):
        pvae.evaluate.log_evidence(again, data.train["x"], particles=3)


def test_the_text_of_an_objective_makes_it_again() -> None:
    for text in ("rae", "rae:penalty=gradient:weight=0.5", "rae:penalty=none:code=2"):
        made = make_objective(text)()
        assert make_objective(describe(made))().settings() == made.settings()
    assert describe(RAE()) == "rae:code=0.1:penalty=l2:weight=0.01"


def test_the_command_line_has_a_preset_and_refuses_an_evidence(tmp_path: Path) -> None:
    small = ["--latent", "2", "--hidden", "4", "--max-steps", "2", "--step", "eager", "--out", str(tmp_path / "run")]
    done = CliRunner().invoke(cli, ["train", "rae", "--data", "digits", *small, "--set", "spectral=true", "--json"])
    record = json.loads(done.stdout)
    assert (record["model"], record["objective"]) == ("autoencoder", "rae:code=0.1:penalty=l2:weight=0.01")
    done = CliRunner().invoke(cli, ["evaluate", str(tmp_path / "run")])
    assert done.exit_code == 2 and "'z' is a Delta" in done.stderr.replace("\n", " ")


def used(objective: RAE, model: Any, x: Tensor) -> None:
    objective.terms(model.model, model.guide, (x,), {}, "all")


class Shared(Coder):
    """The encoder is the transposed decoder, and no groups are declared."""

    def guide(self, x: Tensor) -> None:
        with first_of_plate(x, self.plate):
            hidden = (x @ self.decoder[2].weight).tanh()
            pyro.sample("z", dist.Delta(hidden @ self.decoder[0].weight).to_event(1))


class Further(Coder):
    """A site of data that does not depend on z, and a factor of 1, beside x."""

    def model(self, x: Tensor) -> None:
        with first_of_plate(x, self.plate):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("w", dist.Normal(x.new_zeros(3), 1.0).to_event(1), obs=x)
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)
            pyro.factor("one", x.new_zeros(len(x)))


def test_only_means_that_depend_on_z_are_penalised() -> None:
    model, x = Further(), torch.rand(5, 3, dtype=DOUBLE).round()
    torch.manual_seed(5)
    found = RAE(penalty="gradient").terms(model.model, model.guide, (x,), {}, "all").named["decoder_penalty"]
    torch.manual_seed(5)
    torch.rand(5, 3, dtype=DOUBLE)  # the signs of w
    expected = penalty_by_hand("gradient", model, model.encoder(x)).sum()
    torch.testing.assert_close(found, expected.detach(), rtol=1e-12, atol=1e-12)


def fixed_guide() -> Coder:
    model = Coder()
    model.encoder.requires_grad_(False)
    return model


BINARY = torch.rand(5, 3, dtype=DOUBLE, generator=torch.Generator().manual_seed(0)).round()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: RAE(-1.0), "code needs a number of at least 0; got -1.0"),
        (lambda: RAE(weight=math.nan), "weight needs a number of at least 0; got nan"),
        (lambda: RAE(penalty="gradeint"), "did you mean 'gradient'"),
        (lambda: pvae.Autoencoder(4, spectral=2), "spectral needs true or false; got 2"),
        (lambda: used(RAE(), pvae.Autoencoder(3, prior="mixture", hidden=4).double(), BINARY), "has parameters"),
        (lambda: used(RAE(penalty="gradient"), fixed_guide(), BINARY), "no parameter of the guide is trained"),
        (lambda: used(RAE(), Shared(), BINARY), "RAE trains theta and phi separately and needs disjoint groups"),
        (lambda: used(RAE(), pvae.VQVAE(3, codes=2, latent=2, hidden=4).double(), BINARY), "continuous guide sites"),
        (lambda: used(RAE(), pvae.LadderVAE(3, latent=(2, 2), hidden=4).double(), BINARY), "one latent site"),
        (
            lambda: used(
                RAE(penalty="gradient"), pvae.Autoencoder(3, likelihood="categorical:classes=2").double(), BINARY
            ),
            "needs the mean of x given z; site 'x' is",
        ),
    ],
)
def test_what_cannot_be_used_is_one_clear_line(make: Any, said: str) -> None:
    with pytest.raises(pvae.InputError) as caught:
        make()
    assert said in str(caught.value) and "\n" not in str(caught.value)
