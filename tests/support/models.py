"""Small latent models, as a user would write them: for training steps, comparisons, and models built of parts.

Workers of a comparison import this file too. Models with closed forms beside them are in `exact`.
"""

from __future__ import annotations

import math
import os
import signal
from typing import Any

import exact
import pyro
import pyro.distributions as dist
import torch
import tutorial_vae
from pyro.distributions import constraints
from pyro.infer import config_enumerate
from pyro.infer.autoguide import AutoDiagonalNormal
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import Tensor, nn

import pvae
from pvae.batch import Batch
from pvae.models import LatentModel, pair
from pvae.models.semisupervised import SemiSupervisedVAE

DOUBLE = torch.float64

# ---- Models of six binary features, for training steps: each holds one thing that a traced step must get right

FEATURES, HIDDEN, LATENT = 6, 5, 2


def data(size: int = 8, dtype: torch.dtype = torch.float32) -> Batch:
    """A batch of binary x, shape (size, FEATURES), the same at each call."""
    generator = torch.Generator().manual_seed(1)
    return Batch(x=torch.rand(size, FEATURES, generator=generator).round().to(dtype))


class Plain(LatentModel):
    """A Bernoulli VAE of nn.Modules; `dropout` and `norm` put a random layer and running averages in."""

    def __init__(self, dropout: float = 0.0, norm: bool = False) -> None:
        super().__init__()
        layers = [nn.Linear(FEATURES, HIDDEN), nn.BatchNorm1d(HIDDEN) if norm else nn.Tanh()]
        self.encoder = nn.Sequential(*layers, nn.Dropout(dropout), nn.Linear(HIDDEN, 2 * LATENT))
        self.decoder = nn.Sequential(nn.Linear(LATENT, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, FEATURES))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), LATENT), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            loc, log_scale = self.encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


class TwoNumbers(LatentModel):
    """Two layers, as a user writes them: u given no other site, z given u; both scalars of each datum."""

    def __init__(self) -> None:
        super().__init__()
        self.slope, self.shift = nn.Parameter(torch.tensor(0.7)), nn.Parameter(torch.zeros(()))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            u = pyro.sample("u", dist.Normal(x.new_zeros(()), 1.0))
            z = pyro.sample("z", dist.Normal(self.slope * u, 0.5))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1) + self.shift, 0.3).expand([*z.shape, 6]).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.mean(-1), 0.2))
            pyro.sample("u", dist.Normal(self.slope * z, 0.4))


class OfPyroModules(LatentModel):
    """Networks as PyroModules, one weight constrained."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = PyroModule[nn.Linear](LATENT, FEATURES)
        self.encoder = PyroModule[nn.Linear](FEATURES, LATENT)
        self.decoder.width = PyroParam(torch.ones(FEATURES), constraint=constraints.positive)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), LATENT), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), self.decoder.width).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.encoder(x), 0.5).to_event(1))


def global_model(x: Tensor) -> None:
    weight = pyro.param("weight", lambda: torch.randn(LATENT, FEATURES, dtype=x.dtype))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), LATENT), 1.0).to_event(1))
        pyro.sample("x", dist.Bernoulli(logits=z @ weight).to_event(1), obs=x)


def global_guide(x: Tensor) -> None:
    weight = pyro.param("guide weight", lambda: torch.randn(FEATURES, LATENT, dtype=x.dtype))
    scale = pyro.param("scale", torch.ones(LATENT, dtype=x.dtype), constraint=constraints.positive)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x @ weight, scale).to_event(1))


class Discrete(LatentModel):
    """A latent z in {0, 1}^2 whose guide has no pathwise gradient."""

    def __init__(self, baseline: bool = False) -> None:
        super().__init__()
        self.decoder, self.encoder = nn.Linear(LATENT, FEATURES), nn.Linear(FEATURES, LATENT)
        self.baseline = {"baseline": {"use_decaying_avg_baseline": True}} if baseline else {}

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(logits=x.new_zeros(len(x), LATENT)).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(logits=self.encoder(x)).to_event(1), infer=dict(self.baseline))


class Enumerated(LatentModel):
    """A mixture whose label is summed out."""

    def __init__(self) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.randn(3, FEATURES))
        self.encoder = nn.Linear(FEATURES, 3)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(logits=x.new_zeros(3)))
            pyro.sample("x", dist.Bernoulli(logits=self.centres[k]).to_event(1), obs=x)

    @config_enumerate
    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Categorical(logits=self.encoder(x)))


class Subsampled(Plain):
    """The batch stands for 40 data, through the scale of its plate."""

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", 40, subsample=torch.arange(len(x))):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), LATENT), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", 40, subsample=torch.arange(len(x))):
            loc, log_scale = self.encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


class Drawn(Plain):
    """A plate that draws its own subsample at each run, of data it is given whole."""

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x), subsample_size=4) as index:
            z = pyro.sample("z", dist.Normal(x.new_zeros(4, LATENT), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x[index])

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x), subsample_size=4) as index:
            loc, log_scale = self.encoder(x[index]).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def first_of_plate(x: Tensor, size: int | None) -> Any:
    """A plate over the data, which are the first of `size` data, or all if it is None."""
    return pyro.plate("data", size or len(x), subsample=torch.arange(len(x)) if size else None)


class Counted(Plain):
    """Reads a buffer through a view, before and after writing to it: the two readings are not one."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("clock", torch.zeros(()))

    def guide(self, x: Tensor) -> None:
        clock = self.clock.view(1)
        before = clock * 0.5
        self.clock.add_(1.0)
        with pyro.plate("data", len(x)):
            loc, log_scale = self.encoder(x).chunk(2, -1)
            shift = before + clock * 0.5
            pyro.sample("z", dist.Normal(loc + shift, log_scale.exp()).to_event(1))


class Repeated(Plain):
    """Draws twice with the same arguments: the two draws are not one."""

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            loc, log_scale = self.encoder(x).chunk(2, -1)
            noise = torch.bernoulli(torch.full_like(loc, 0.5)) - torch.bernoulli(torch.full_like(loc, 0.5))
            pyro.sample("z", dist.Normal(loc + noise, log_scale.exp()).to_event(1))


class Bayesian(PyroModule):
    """A regression of weights that are latent themselves, under an autoguide: no latent per datum at all."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = PyroModule[nn.Linear](FEATURES - 1, 1)
        self.linear.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, FEATURES - 1]).to_event(2))

    def forward(self, x: Tensor) -> None:
        mean = self.linear(x[:, 1:]).squeeze(-1)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x[:, 0])


def autoguided() -> LatentModel:
    model = Bayesian()
    return pair(model, AutoDiagonalNormal(model))


# ---- One latent and one observed number


class Line(pvae.LatentModel):
    """z ~ N(0, 1), x ~ N(loc + slope z, noise^2): p(x) = N(loc, slope^2 + noise^2); guide N(weight x, variance)."""

    def __init__(
        self, loc: float = 1.0, slope: float = 1.2, noise: float = 0.9, weight: float = 0.0, variance: float = 1.0
    ) -> None:
        super().__init__()
        self.loc, self.slope, self.weight, self.spread = (
            nn.Parameter(torch.tensor(each, dtype=torch.float64))
            for each in (loc, slope, weight, math.log(variance) / 2)
        )
        self.noise = noise

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.loc + self.slope * z, self.noise).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.weight * x, self.spread.exp()).to_event(1))

    def theta(self) -> list[nn.Parameter]:
        return [self.loc, self.slope]

    def phi(self) -> list[nn.Parameter]:
        return [self.weight, self.spread]


class Point(Line):
    """The same model with a deterministic encoder."""

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(self.weight * x, event_dim=1))


def draws(size: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    """Normal numbers of mean 0 and standard deviation `scale`, shape (size, 1)."""
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(size, 1, generator=generator, dtype=torch.float64)


# ---- Models of four features, for comparisons in worker processes


class Linear(pvae.LatentModel):
    """Two latent units, four features; as a user would write it, without methods to sample or to reconstruct."""

    def __init__(self):
        super().__init__()
        self.decoder, self.encoder = nn.Linear(2, 4), nn.Linear(4, 2)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 0.5).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.encoder(x), 0.5).to_event(1))


class Killed(Linear):
    """Its process dies in the first training step."""

    def guide(self, x):
        if self.training:
            os.kill(os.getpid(), signal.SIGKILL)
        super().guide(x)


class Failing(Linear):
    """Raises in the first training step."""

    def guide(self, x):
        raise RuntimeError("this guide has a bug")


class TutorialVAE(tutorial_vae.VAE):
    """The class of Pyro's VAE tutorial, on pictures of 4x4 pixels."""

    def __init__(self) -> None:
        super().__init__(z_dim=2, hidden_dim=8, pixels=16)


class Mixture(pvae.LatentModel):
    """One discrete latent, no continuous one: nothing to scatter."""

    def __init__(self):
        super().__init__()
        self.centres, self.encoder = nn.Parameter(torch.randn(3, 4)), nn.Linear(4, 3)

    def model(self, x):
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(logits=torch.zeros(3)))
            pyro.sample("x", dist.Normal(self.centres[k], 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Categorical(logits=self.encoder(x)))


def build_linear(splits):
    """A factory that asks for the data."""
    if splits.data_shape != (4,):
        raise ValueError(f"expected 4 features, got {splits.data_shape}")
    return Linear()


# ---- The labelled Gaussian model, built of the parts of a `SemiSupervisedVAE`

LABELLED = exact.Labelled()
_ROOM = 1000.0  # a rectifier passes z + _ROOM as it is


class _Exact(nn.Module):
    """p(x given y, z), or p(z given x, y), of two features: that of the label is its input + _ROOM, the other 0."""

    def __init__(self, posterior_of_z: bool) -> None:
        super().__init__()
        self.posterior_of_z, self.data_shape = posterior_of_z, (1,)

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        label = (h > 0).long().argmax(-1)
        value = h.max(-1).values - _ROOM
        if self.posterior_of_z:
            density = LABELLED.posterior(label, value)
        else:
            density = dist.Normal(LABELLED.shift[label] + LABELLED.slope[label] * value, LABELLED.scale[label])
        return dist.Normal(density.loc.unsqueeze(-1), density.scale.unsqueeze(-1)).to_event(1)


class FreeGaussian(nn.Module):
    """q(z given x) = N(loc, scale) for a factorised guide, with one location and one scale for all data."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(1, dtype=DOUBLE))
        self.log_scale = nn.Parameter(torch.zeros(1, dtype=DOUBLE))

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        return dist.Normal(self.loc.expand(len(h), 1), self.log_scale.exp()).to_event(1)


def labelled_vae(posterior_of_z: nn.Module | None = None, **settings: object) -> SemiSupervisedVAE:
    """The labelled Gaussian model of `exact` as a `SemiSupervisedVAE`.

    Rectifiers pass z, or x, as it is; the label switches them.
    """
    parts = {"likelihood": _Exact(False), "posterior": posterior_of_z or _Exact(True)}
    vae = SemiSupervisedVAE(1, 2, latent=1, hidden=2, activation="relu", output_bias=None, **parts, **settings)
    vae.double()
    with torch.no_grad():
        for network in (vae.decoder, vae.encoder):
            if hasattr(network, "layer"):  # which takes the label: + or - half, so + or - _ROOM
                network.layer.weight.copy_(2 * _ROOM * torch.eye(2))
                first = next(each for each in network.network.modules() if isinstance(each, nn.Linear))
                first.weight.fill_(1.0)
                first.bias.zero_()
        head = vae.classifier[1]
        head.weight.zero_()
        head.bias.copy_(exact.LABELLED_LOG_JOINT)
    return vae
