"""Models with labels whose answers are known: y ~ Bernoulli(1/2), z ~ N(0, 1), x given y, z ~ N(m_y + w_y z, s_y^2)."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pvae.densities import GivenLabel, label_posterior
from pvae.models.semisupervised import SemiSupervisedVAE
from pvae.programs.base import LatentModel

DOUBLE = torch.float64
SHIFT, SLOPE, SCALE = (torch.tensor(each, dtype=DOUBLE) for each in ([-1.0, 1.0], [1.0, -0.5], [0.5, 0.7]))
X = 0.4

# Golden numbers, found without pvae and torch (normal densities by hand; the factorised optimum by a search)
LOG_JOINT = torch.tensor([-2.5076574894, -1.7047764106], dtype=DOUBLE)
BEST, POSTERIOR = -1.3345680652, torch.tensor([0.30941, 0.69059], dtype=DOUBLE)
BEST_FACTORISED = -1.5731166087


def log_joint(x: Tensor) -> Tensor:
    """log p(x, y), shape (batch, 2), by the normal density."""
    return dist.Normal(SHIFT, (SLOPE**2 + SCALE**2).sqrt()).log_prob(x.unsqueeze(-1)) - math.log(2)


def posterior(label: Tensor, x: Tensor) -> dist.Normal:
    """p(z given x, y)."""
    variance = 1 / (1 + SLOPE[label] ** 2 / SCALE[label] ** 2)
    return dist.Normal(variance * SLOPE[label] * (x - SHIFT[label]) / SCALE[label] ** 2, variance.sqrt())


def batch(*y: int, x: float = X) -> dict[str, Tensor]:
    """One x for each label."""
    return {"x": torch.full((len(y),), x, dtype=DOUBLE), "y": torch.tensor(y)}


class Labelled(LatentModel):
    """As a user would write it: z given x and y from the exact posterior, y given x from a linear classifier.

    Every log weight is then known whatever z is drawn: no test of it has noise.
    """

    def __init__(self, marked: bool = True, slope: tuple[float, float] = (0.0, 0.0)) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope, dtype=DOUBLE))
        self.bias = nn.Parameter(torch.tensor([0.3, -0.2], dtype=DOUBLE))
        self.infer = {"enumerate": "parallel"} if marked else {}

    def classify(self, x: Tensor) -> dist.Categorical:
        return dist.Categorical(logits=x.unsqueeze(-1) * self.slope + self.bias)

    def model(self, x: Tensor, y: Tensor) -> None:
        with pyro.plate("data", len(x)):
            label = pyro.sample("y", dist.Categorical(logits=x.new_zeros(2)))
            pyro.sample("given", GivenLabel(label, 2, dtype=DOUBLE), obs=y)
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            pyro.sample("x", dist.Normal(SHIFT[label] + SLOPE[label] * z, SCALE[label]), obs=x)

    def guide(self, x: Tensor, y: Tensor) -> None:
        with pyro.plate("data", len(x)):
            density = label_posterior(self.classify(x).logits, y)
            label = pyro.sample("y", density, infer=dict(self.infer))
            pyro.sample("z", posterior(label, x))

    def theta(self) -> list[nn.Parameter]:
        return []

    def phi(self) -> list[nn.Parameter]:
        return [self.slope, self.bias]


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
            found = posterior(label, value)
        else:
            found = dist.Normal(SHIFT[label] + SLOPE[label] * value, SCALE[label])
        return dist.Normal(found.loc.unsqueeze(-1), found.scale.unsqueeze(-1)).to_event(1)


class OnGrid(nn.Module):
    """q(z given x) = N(loc, scale) for a factorised guide, whose draws are the points of a grid, one for each datum."""

    def __init__(self, noise: Tensor) -> None:
        super().__init__()
        self.noise = noise
        self.loc = nn.Parameter(torch.zeros(1, dtype=DOUBLE))
        self.log_scale = nn.Parameter(torch.zeros(1, dtype=DOUBLE))

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        noise = self.noise.unsqueeze(-1)

        class Drawn(dist.Normal):
            def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
                return self.loc + self.scale * noise

        return Drawn(self.loc.expand(len(h), 1), self.log_scale.exp()).to_event(1)


def of_parts(posterior_of_z: nn.Module | None = None, **settings: object) -> SemiSupervisedVAE:
    """The same model as a `SemiSupervisedVAE`: rectifiers that the label switches pass z, or x, as it is."""
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
        head.bias.copy_(LOG_JOINT)
    return vae
