"""Small latent models, and one training by a `Stepper`, for tests of the training step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from pyro.infer import (
    config_enumerate,
)
from pyro.infer.autoguide import AutoDiagonalNormal
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import Tensor, nn

from pvae.batch import Batch
from pvae.models import LatentModel, bind, pair, scope
from pvae.objectives import adapt
from pvae.train.computation import Computation
from pvae.train.devices import isolated
from pvae.train.optimisers import make_optimiser
from pvae.train.parameters import Parameters
from pvae.train.step import Stepper

FEATURES, HIDDEN, LATENT = 6, 5, 2


def data(size: int = 8, dtype: torch.dtype = torch.float32) -> Batch:
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


def _global_model(x: Tensor) -> None:
    weight = pyro.param("weight", lambda: torch.randn(LATENT, FEATURES, dtype=x.dtype))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), LATENT), 1.0).to_event(1))
        pyro.sample("x", dist.Bernoulli(logits=z @ weight).to_event(1), obs=x)


def _global_guide(x: Tensor) -> None:
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
    """A mixture whose label is summed out, beside a continuous z."""

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


@contextmanager
def stepper(
    latent_model: Any, objective: Any, *, graph: bool, batch: Batch, **settings: Any
) -> Iterator[tuple[Stepper, Parameters]]:
    """A stepper in the model's scope, after the pass that creates what is created lazily."""
    own = adapt(objective)
    with isolated(0), scope(latent_model):
        programs = bind(latent_model, batch)
        for player in own.players:
            own.terms(programs.model, programs.guide, programs.arguments(batch), {}, player)
        parameters = Parameters(latent_model, programs, own, batch)
        optimiser = make_optimiser("adam", parameters.groups(), 1e-2)
        yield Stepper(Computation(programs, own, parameters), optimiser, graph=graph, **settings), parameters


def after(make: Callable[[], Any], objective: Callable[[], Any], *, graph: bool, steps: int = 4, **settings: Any):
    """Losses and final parameters and buffers of some steps from one seed; and whether the graph was used."""
    dtype = settings.pop("dtype", torch.float32)
    with isolated(3):
        latent_model = make().to(dtype)
    beside = settings.pop("beside", lambda size: {})
    batches = [data(size, dtype).replace(**beside(size)) for size in (8, settings.pop("last", 5))]
    with stepper(latent_model, objective(), graph=graph, batch=batches[0], **settings) as (step, parameters):
        with isolated(4):
            numbers = [torch.stack(step(batches[i % 2])) for i in range(steps)] or [torch.zeros(1)]
            drawn = torch.rand(3)
        tensors = {name: each.detach().clone() for name, each in parameters.named.items()}
        tensors |= {name: each.clone() for name, each in latent_model.named_buffers()}
        return torch.stack(numbers), tensors, drawn, step
