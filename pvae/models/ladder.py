"""The hierarchical VAE: several layers of latents, inferred bottom-up or by a ladder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Unpack

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pvae.checks import require_sizes, require_whole
from pvae.densities import DiagonalGaussian, part
from pvae.errors import InputError
from pvae.models.base import BaseVAE, NetworkParts, network_kind
from pvae.models.datum_shapes import reshape_data
from pvae.models.density_traits import density_traits_of
from pvae.models.direct_calls import takes_data
from pvae.models.stochastic_layer import StochasticLayer
from pvae.names import unknown
from pvae.networks import Conditioned

__all__ = ["LadderVAE", "multiply_gaussians"]

INFERENCES = ("ladder", "bottom-up")


def multiply_gaussians(first: dist.TorchDistribution, second: dist.TorchDistribution) -> dist.TorchDistribution:
    """Return the normalised product of two diagonal Gaussians: add the precisions, and weight the means by them.

    Args:
        first: an independent Normal, batch shape (...), event shape (size,).
        second: another Normal of the same shapes.

    Source: Sonderby et al., Ladder Variational Autoencoders, arXiv:1602.02282, equations 18 and 19.
    """
    first_loc, second_loc = first.base_dist.loc, second.base_dist.loc
    first_precision, second_precision = first.base_dist.scale.pow(-2), second.base_dist.scale.pow(-2)
    precision = first_precision + second_precision
    loc = (first_loc * first_precision + second_loc * second_precision) / precision
    return dist.Normal(loc, precision.rsqrt()).to_event(1)


class LadderVAE(BaseVAE):
    """Layers of latents: z_L ~ prior, z_l ~ Normal given the layer above, x ~ likelihood(decoder(z_1)).

    The sites are ``z1``, the layer next to x, to ``zL``, and ``x``. With one layer it is a `VAE` with a site ``z1``.

    Unlike in the source, there is no batch normalisation, because q of each datum would depend on the other data and
    particles of the batch, and there would be no log weight per datum.

    Args:
        data_shape: as for `pvae.models.base.BaseVAE`.
        layers: number L of layers; by default the number of sizes in `latent`, or 2.
        latent: sizes of z_1, ..., z_L. One number is the size of z_1; each higher layer has half the size of the layer
            below it.
        inference: ``"ladder"`` or ``"bottom-up"``. In a ladder, deterministic features of x give a Gaussian message
            for each layer; then, from the top down, q(z_l given z_(l+1), x) is the product of the message and the
            model's own p(z_l given z_(l+1)). Bottom-up: q(z_1 given x), then q(z_(l+1) given z_l).
        skip: whether x and the lower layers depend on all layers above them, not only on the next one.
        between: sizes of the hidden layers between two layers of latents, in both directions; 0 or () makes
            them linear.
        prior: the prior of z_L; a name of `pvae.densities.PRIORS`, or a module.
        posterior: the posterior of z_1, as for `BaseVAE`; a ladder of several layers needs ``"diagonal"``. Higher
            layers are diagonal Gaussians with a softplus scale, as in the source.
        parts: ``hidden``, ``network``, ``activation``, ``initialisation``, ``output_bias`` and ``likelihood`` of
            `BaseVAE`.

    Raises:
        InputError: for an argument that cannot be used, in one line.

    Source: Sonderby et al., Ladder Variational Autoencoders, arXiv:1602.02282; bottom-up: Burda, Grosse &
    Salakhutdinov, arXiv:1509.00519, section 2.

    Example:
        >>> import pvae, torch
        >>> model = pvae.LadderVAE(4, latent=(3, 2), hidden=8)
        >>> weights = pvae.log_weights(model, torch.eye(4), particles=5)
        >>> {site: tuple(z.shape) for site, z in weights.values.items()}
        {'z2': (5, 4, 2), 'z1': (5, 4, 3)}
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
        if inference not in INFERENCES:
            raise unknown("inference", str(inference), INFERENCES)
        if not isinstance(skip, bool):
            raise InputError(f"skip needs true or false; got {skip!r}. Write skip=true or skip=false.")
        sizes, hidden = _layer_sizes(latent, layers), _check_between(between)
        super().__init__(data_shape, latent=sizes[0], prior=prior, posterior=posterior, **parts)
        self.sizes, self.inference, self.skip = sizes, inference, skip
        self.downward, self.upward = nn.ModuleList(), nn.ModuleList()
        if len(sizes) > 1:
            activation = parts.get("activation") or network_kind(parts.get("network", "mlp")).activation or "tanh"
            self._add_layers(prior, hidden, activation)

    def _add_layers(self, prior: str | nn.Module, hidden: tuple[int, ...], activation: str) -> None:
        """Make the layers above z_1 and the prior of z_L, after all parts of a model with one layer."""
        style = {"activation": activation, "initialisation": self.initialisation}
        self.prior = part("prior", prior, self.sizes[-1], data_shape=self._input_shape, **style)
        self._check_parts()
        features: int = self.encoder.out_features
        for number, size in enumerate(self.sizes[1:], 1):
            size_below = self.sizes[number - 1]
            inputs_above = sum(self.sizes[number:]) if self.skip else size
            self.downward.append(StochasticLayer(inputs_above, size_below, hidden, **style))
            inputs_below = features if self.inference == "ladder" else size_below
            layer = StochasticLayer(inputs_below, size, hidden, **style)
            self.upward.append(layer)
            features = layer.network.out_features
        if self.skip:
            self.decoder = Conditioned(self.decoder, sum(self.sizes[1:]), initialisation=self.initialisation)

    def _check_parts(self) -> None:
        """Raise InputError if prior or posterior do not work with several layers."""
        if density_traits_of(self.prior).takes_posterior:
            raise InputError(
                f"{type(self.prior).__name__} is made of q(z given x), and with several layers the topmost z has no "
                "density given only x. Use layers=1, or another prior such as 'mixture'."
            )
        if self.inference == "ladder" and not isinstance(self.posterior, DiagonalGaussian):
            raise InputError(
                "A ladder weights Gaussians by their precision and needs posterior='diagonal'; got "
                f"{type(self.posterior).__name__}. Use inference='bottom-up'."
            )

    def descend(self, above: Sequence[Tensor]) -> dist.TorchDistribution:
        """Return p(z_l given the layers above it), batch shape (...), event shape (size of z_l,).

        Args:
            above: the values of the layers above, (..., size) each, the topmost, z_L, first.
        """
        layer = self.downward[len(self.sizes) - len(above) - 1]
        return layer(torch.cat(list(above), -1) if self.skip else above[-1])

    def decode_from(self, values: Sequence[Tensor]) -> dist.TorchDistribution:
        """Return p(x given all layers), with values as for `descend`, z_1 last."""
        *above, lowest = values
        return self.decode(lowest, torch.cat(above, -1)) if self.skip and above else self.decode(lowest)

    def messages(self, x: Tensor) -> list[dist.TorchDistribution]:
        """Return the Gaussian message of x for each layer in ``inference="ladder"``, z_1 first.

        The message of the topmost layer is its posterior. Batch shape (batch,), event shape (size,) each.
        """
        features = self.encoder(reshape_data(x, self._input_shape))
        messages = [self.posterior(features)]
        for layer in self.upward:
            features = layer.network(features)
            messages.append(layer.density(features))
        return messages

    def model(self, x: Tensor) -> Tensor:
        """Generate the layers from the topmost down, and observe x. Returns x, (batch,) + event shape."""
        with pyro.plate("data", x.shape[0]):
            values = [pyro.sample(f"z{len(self.sizes)}", self.prior_density())]
            for number in range(len(self.sizes) - 1, 0, -1):
                values.append(pyro.sample(f"z{number}", self.descend(values)))
            return pyro.sample("x", self.decode_from(values), obs=self.observed(x))

    def guide(self, x: Tensor) -> Tensor:
        """Infer all layers. Returns z_1, shape (batch, size)."""
        with pyro.plate("data", x.shape[0]):
            return self._infer(x, pyro.sample)[-1]

    def _infer(self, x: Tensor, choose: Callable[[str, Any], Tensor]) -> list[Tensor]:
        """Return a value of each layer, (batch, size) each, the topmost first.

        Args:
            x: data, (batch, features) or (batch,) + data_shape.
            choose: a function that returns a value from the name and the posterior of a layer.
        """
        if self.inference == "bottom-up" or not self.upward:
            return self._infer_bottom_up(x, choose)
        *lower, top = self.messages(x)
        values = [choose(f"z{len(self.sizes)}", top)]
        for number in range(len(lower), 0, -1):
            posterior = multiply_gaussians(lower[number - 1], self.descend(values))
            values.append(choose(f"z{number}", posterior))
        return values

    def _infer_bottom_up(self, x: Tensor, choose: Callable[[str, Any], Tensor]) -> list[Tensor]:
        values = [choose("z1", self.encode(x))]
        for number, layer in enumerate(self.upward, 2):
            values.append(choose(f"z{number}", layer(values[-1])))
        return values[::-1]

    @torch.no_grad()
    def sample(self, n: int, *, mean: bool = False) -> Tensor:
        """Return new data, shape (n,) + data_shape.

        Args:
            n: number of data, at least 0.
            mean: whether to return the means of x given z; otherwise draws of x.
        """
        n = require_whole(n, "n", least=0)
        values = [self.prior_density().sample((n,))]
        while len(values) < len(self.sizes):
            values.append(self.descend(values).sample())
        return self.as_data(self.decode_from(values), mean=mean)

    @torch.no_grad()
    @takes_data
    def codes(self, x: Tensor) -> list[Tensor]:
        """Return the posterior means of z_1, ..., z_L, (batch, size) each.

        The mean of a layer is computed given the means of the layers that its posterior depends on.
        """
        return self._infer(x, lambda name, density: density.mean)[::-1]

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """Return the mean of x given the means of all layers, shape (batch,) + data_shape."""
        return self.as_data(self.decode_from(self.codes(x)[::-1]), mean=True)

    def theta(self) -> list[nn.Parameter]:
        """Return the parameters of the model, with the layers from the top down, which a ladder's guide shares."""
        return [*super().theta(), *self.downward.parameters()]


def _layer_sizes(latent: int | Sequence[int], layers: int | None) -> tuple[int, ...]:
    """Return the size of each layer, z_1 first.

    Args:
        latent: the size of z_1, which is halved from layer to layer; or all sizes.
        layers: the number of layers; None for the number of sizes, or 2.
    """
    advice = "It is the size of each layer, such as latent=16,8."
    sizes = require_sizes(latent, "latent", advice=advice)
    if not sizes:
        raise InputError(f"latent needs at least one size; got {latent!r}. {advice}")
    count = None if layers is None else require_whole(layers, "layers")
    if not isinstance(latent, Sequence):
        return tuple(max(1, sizes[0] >> number) for number in range(count or 2))
    if count not in (None, len(sizes)):
        raise InputError(f"latent has the sizes of {len(sizes)} layers, and layers={count}. Leave one of them out.")
    return sizes


def _check_between(between: int | Sequence[int]) -> tuple[int, ...]:
    """Return the sizes of the hidden layers between two layers of latents; () for 0."""
    advice = "For example between=100,100; 0 means no hidden layer."
    return require_sizes(between, "between", zero=True, advice=advice)
