"""The hierarchical VAE: layers of latents, inferred bottom-up or by a ladder that comes down again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Unpack

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from pvae.checks import require_sizes, require_whole
from pvae.densities import DiagonalGaussian, part
from pvae.errors import InputError
from pvae.models.base import NETWORKS, Amortised, NetworkParts, shaped
from pvae.models.density_traits import density_traits_of
from pvae.names import unknown
from pvae.networks import MLP, Conditioned, initialise

__all__ = ["LadderVAE", "combined"]


_SMALLEST_SCALE = 1e-3
_ONE = math.log(math.expm1(1 - _SMALLEST_SCALE))  # gives a scale of 1


class _Gaussian(nn.Module):
    """Normal(loc(h), scale(h)), whose scale starts at 1 and is softplus of a linear layer.

    Its input may be a draw, of which exp(linear) would now and then make a scale of 0 or infinity.
    """

    def __init__(self, in_features: int, latent: int, initialisation: str) -> None:
        super().__init__()
        self.loc, self.scale = nn.Linear(in_features, latent), nn.Linear(in_features, latent)
        initialise(self, initialisation)
        nn.init.zeros_(self.scale.weight)
        nn.init.constant_(self.scale.bias, _ONE)

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        return dist.Normal(self.loc(h), softplus(self.scale(h)) + _SMALLEST_SCALE).to_event(1)


class _Layer(nn.Module):
    """A network and the diagonal Gaussian on top of it."""

    def __init__(self, in_features: int, latent: int, hidden: tuple[int, ...], **style: Any) -> None:
        super().__init__()
        self.network = MLP(in_features, hidden=hidden, **style)
        self.density = _Gaussian(self.network.out_features, latent, style["initialisation"])

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        return self.density(self.network(h))


def combined(first: dist.TorchDistribution, second: dist.TorchDistribution) -> dist.TorchDistribution:
    """Return the normalised product of two diagonal Gaussians: precisions add, means are weighted by them.

    Source: Sonderby et al., Ladder Variational Autoencoders, arXiv:1602.02282, equations 18 and 19.
    """
    (loc, scale), (other_loc, other_scale) = ((each.base_dist.loc, each.base_dist.scale) for each in (first, second))
    own, other = scale.pow(-2), other_scale.pow(-2)
    total = own + other
    return dist.Normal((loc * own + other_loc * other) / total, total.rsqrt()).to_event(1)


class LadderVAE(Amortised):
    """Layers of latents: z_L ~ prior, z_l ~ Normal given the layer above, x ~ likelihood(decoder(z_1)).

    The sites are ``z1``, the layer next to x, to ``zL``, and ``x``. One layer is a `VAE` whose z is called ``z1``.

    Args:
        data_shape: as for `pvae.models.base.Amortised`.
        layers: number L of layers; by default as many as `latent` has sizes, or 2.
        latent: sizes of z_1, ..., z_L; one number is the size of z_1, and each layer above has half the size of the
            one below.
        inference: ``"ladder"``: deterministic features go up from x and give a Gaussian message at each layer; on the
            way down q(z_l given z_(l+1), x) is the product of the message and the model's own p(z_l given z_(l+1)).
            Or ``"bottom-up"``: q(z_1 given x), then q(z_(l+1) given z_l).
        skip: whether x and the lower layers see all layers above them, not the next one alone.
        between: sizes of the hidden layers between two layers of latents, in both directions; 0 or () makes
            them linear.
        prior: of z_L; a name of `pvae.densities.PRIORS`, or a module.
        posterior: of z_1, as for `Amortised`; a ladder of several layers needs ``"diagonal"``. Layers above are
            diagonal Gaussians, as the model's own, with a scale by softplus as in the source.
        parts: ``hidden``, ``network``, ``activation``, ``initialisation``, ``output_bias`` and ``likelihood`` of
            `Amortised`.

    Raises:
        InputError: for an argument that cannot be used, in one line.

    There is no batch normalisation, which the source has: it makes each datum's q depend on the other data of
    the batch, so that there is no log weight per datum, and on the other particles.

    Source: Sonderby et al., Ladder Variational Autoencoders, arXiv:1602.02282; bottom-up: Burda, Grosse &
    Salakhutdinov, arXiv:1509.00519, section 2.
    """

    encoder: Any
    decoder: Any
    posterior: Any
    downward: Any
    upward: Any

    def __init__(
        self,
        data_shape: int | Sequence[int],
        *,
        layers: int | None = None,
        latent: int | Sequence[int] = 16,
        inference: str = "ladder",
        skip: bool = False,
        between: int | Sequence[int] = (100, 100),
        prior: str | nn.Module = "standard",
        posterior: str | nn.Module = "diagonal",
        **parts: Unpack[NetworkParts],
    ) -> None:
        if inference not in ("ladder", "bottom-up"):
            raise unknown("inference", str(inference), ("ladder", "bottom-up"))
        if not isinstance(skip, bool):
            raise InputError(f"skip needs true or false; got {skip!r}.")
        sizes = _sizes(latent, layers)
        super().__init__(data_shape, latent=sizes[0], prior=prior, posterior=posterior, **parts)
        self.sizes, self.inference, self.skip = sizes, inference, skip
        self._above(prior, _hidden(between), parts.get("activation") or NETWORKS[parts.get("network", "mlp")][2])

    def _above(self, prior: str | nn.Module, hidden: tuple[int, ...], activation: str | None) -> None:
        """Make the layers above the first, after all that a model of one layer has."""
        sizes, ladder = self.sizes, self.inference == "ladder"
        style = {"activation": activation or "tanh", "initialisation": self.initialisation}
        self.downward, self.upward = nn.ModuleList(), nn.ModuleList()
        if len(sizes) == 1:
            return
        self.prior = part("prior", prior, sizes[-1], data_shape=self._input_shape, **style)
        self._check()
        below: int = self.encoder.out_features
        for number, size in enumerate(sizes[1:], 1):
            seen = sum(sizes[number:]) if self.skip else size
            self.downward.append(_Layer(seen, sizes[number - 1], hidden, **style))
            rising = _Layer(below if ladder else sizes[number - 1], size, hidden, **style)
            self.upward.append(rising)
            below = rising.network.out_features
        if self.skip:
            self.decoder = Conditioned(self.decoder, sum(sizes[1:]), initialisation=self.initialisation)

    def _check(self) -> None:
        if density_traits_of(self.prior).takes_posterior:
            raise InputError(
                f"{type(self.prior).__name__} is made of q(z given x), and with several layers q of the topmost has no "
                "density given x alone: use layers=1, or another prior such as 'mixture'."
            )
        if self.inference == "ladder" and not isinstance(self.posterior, DiagonalGaussian):
            raise InputError(
                "A ladder weighs Gaussians by their precision and needs posterior='diagonal'; got "
                f"{type(self.posterior).__name__}. Use inference='bottom-up'."
            )

    def descend(self, above: Sequence[Tensor]) -> dist.TorchDistribution:
        """Return p(z_l given the layers above it).

        Args:
            above: their values, the topmost, z_L, first, each (..., size).
        """
        layer = self.downward[len(self.sizes) - len(above) - 1]
        return layer(torch.cat(list(above), -1) if self.skip else above[-1])

    def decode_from(self, values: Sequence[Tensor]) -> dist.TorchDistribution:
        """Return p(x given all layers), with values as for `descend`, z_1 the last."""
        *above, lowest = values
        return self.decode(lowest, torch.cat(above, -1)) if self.skip and above else self.decode(lowest)

    def messages(self, x: Tensor) -> list[dist.TorchDistribution]:
        """Return what x says of each layer on its own, for ``inference="ladder"``, of z_1 first.

        That of the topmost layer is its posterior.
        """
        features = self.encoder(shaped(x, self._input_shape))
        found = [self.posterior(features)]
        for layer in self.upward:
            features = layer.network(features)
            found.append(layer.density(features))
        return found

    def model(self, x: Tensor) -> Tensor:
        """Generate: from the topmost layer down to x, observed. Returns x."""
        with pyro.plate("data", x.shape[0]):
            values = [pyro.sample(f"z{len(self.sizes)}", self.prior_density())]
            for number in range(len(self.sizes) - 1, 0, -1):
                values.append(pyro.sample(f"z{number}", self.descend(values)))
            return pyro.sample("x", self.decode_from(values), obs=self.observed(x))

    def guide(self, x: Tensor) -> Tensor:
        """Infer all layers. Returns z_1, shape (batch, size)."""
        with pyro.plate("data", x.shape[0]):
            return self._infer(x, pyro.sample)[-1]

    def _infer(self, x: Tensor, take: Any) -> list[Tensor]:
        """The values that `take` makes of the name and the posterior of each layer, the topmost first."""
        if self.inference == "bottom-up" or not self.upward:
            rising = [take("z1", self.encode(x))]
            for number, layer in enumerate(self.upward, 2):
                rising.append(take(f"z{number}", layer(rising[-1])))
            return rising[::-1]
        *lower, top = self.messages(x)
        values = [take(f"z{len(self.sizes)}", top)]
        for number in range(len(lower), 0, -1):
            values.append(take(f"z{number}", combined(lower[number - 1], self.descend(values))))
        return values

    @torch.no_grad()
    def sample(self, n: int, *, mean: bool = False) -> Tensor:
        """Return `n` new data, shape (n,) + data_shape: draws of x, or with `mean` the means of x given z."""
        values = [self.prior_density().sample((require_whole(n, "n", least=0),))]
        while len(values) < len(self.sizes):
            values.append(self.descend(values).sample())
        return self.as_data(self.decode_from(values), mean=mean)

    @torch.no_grad()
    def codes(self, x: Tensor) -> list[Tensor]:
        """Return the posterior's mean of z_1, ..., z_L, each given the means of those it depends on."""
        return self._infer(x, lambda name, density: density.mean)[::-1]

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """Return the mean of x at the means of all layers, shape (batch,) + data_shape."""
        return self.as_data(self.decode_from(self.codes(x)[::-1]), mean=True)

    def theta(self) -> list[nn.Parameter]:
        """Return the parameters of the model: a ladder's way down, which its guide shares, among them."""
        return [*super().theta(), *self.downward.parameters()]


def _sizes(latent: int | Sequence[int], layers: int | None) -> tuple[int, ...]:
    """The size of each layer, z_1 first."""
    advice = "It is the size of each layer, such as latent=16,8."
    sizes = require_sizes(latent, "latent", advice=advice)
    if not sizes:
        raise InputError(f"latent needs at least one size; got {latent!r}. {advice}")
    layers = None if layers is None else require_whole(layers, "layers")
    if not isinstance(latent, Sequence):
        return tuple(max(1, sizes[0] >> number) for number in range(layers or 2))
    if layers not in (None, len(sizes)):
        raise InputError(f"latent has the sizes of {len(sizes)} layers, and layers={layers}: leave one of them out.")
    return sizes


def _hidden(between: int | Sequence[int]) -> tuple[int, ...]:
    advice = "For example between=100,100; 0 means no hidden layer."
    return require_sizes(between, "between", zero=True, advice=advice)
