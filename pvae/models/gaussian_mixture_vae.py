"""The Gaussian-mixture VAE: the component of a code is a latent variable, which is summed out exactly."""

from __future__ import annotations

import copy
from typing import Any, Unpack

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pvae.checks import require_whole
from pvae.densities import MixturePrior
from pvae.errors import InputError
from pvae.models.base import BaseVAE, NetworkParts
from pvae.models.datum_shapes import reshape_data
from pvae.models.direct_calls import takes_data
from pvae.names import unknown
from pvae.networks import Conditioned, initialise

__all__ = ["GMVAE"]

MIXINGS = ("learned", "uniform")
INFERENCES = ("exact", "amortised")
_ENUMERATED: Any = {"enumerate": "parallel"}


class GMVAE(BaseVAE):
    """y ~ Categorical(mixing), z ~ Normal(loc[y], scale[y]), x ~ likelihood(decoder(z)); y is summed out.

    The sites are ``y`` (the component), ``z`` and ``x``. The objective ``elbo-enum`` sums over y in each term; ``iwae``
    and the other importance-weighted bounds sum over y within each weight. With ``inference="exact"`` the model is a
    `VAE` with ``prior="mixture"``, with the component of the prior as a site.

    Args:
        data_shape: as for `pvae.models.base.BaseVAE`.
        components: number of components.
        mixing: ``"learned"``, or ``"uniform"``: every component has probability 1 / components.
        inference: ``"exact"``: q(z given x), and q(y given z) = p(y given z), which is the best choice; or
            ``"amortised"``: q(y given x) from a classifier, and q(z given x, y) from an encoder with the two inputs x
            and y, so that z differs between components. Each term then decodes z once for each component.
        latent: number of latent dimensions of z.
        posterior: as for `BaseVAE`.
        parts: ``hidden``, ``network``, ``activation``, ``initialisation``, ``output_bias`` and ``likelihood`` of
            `BaseVAE`.

    Raises:
        InputError: for an argument that cannot be used, in one line.
    Source: Jiang et al., Variational Deep Embedding, arXiv:1611.05148, equations 1 to 3 (model) and 16 (exact q(y)).

    Example:
        >>> import pvae, torch
        >>> _ = torch.manual_seed(0)
        >>> model = pvae.GMVAE(4, components=3, latent=2, hidden=8)
        >>> run = pvae.fit(model, torch.eye(4).repeat(10, 1), epochs=1, step="eager", progress=False)
        >>> run.model.sample(5).shape
        torch.Size([5, 4])
    """

    default_objective = "elbo-enum"
    prior: MixturePrior
    encoder: Any
    _one_hot: Tensor

    def __init__(
        self,
        data_shape: int | tuple[int, ...],
        *,
        components: int = 10,
        mixing: str = "learned",
        inference: str = "exact",
        latent: int = 16,
        posterior: str | nn.Module = "diagonal",
        **parts: Unpack[NetworkParts],
    ) -> None:
        if mixing not in MIXINGS:
            raise unknown("mixing", str(mixing), MIXINGS)
        if inference not in INFERENCES:
            raise unknown("inference", str(inference), INFERENCES)
        components = require_whole(components, "components")
        super().__init__(
            data_shape, latent=latent, prior=f"mixture:components={components}", posterior=posterior, **parts
        )
        self.components, self.inference = components, inference
        if mixing == "uniform":
            self.prior.logits.requires_grad_(False)
        self.register_buffer("_one_hot", torch.eye(components), persistent=False)
        if inference == "amortised":
            self._add_classifier()

    def _add_classifier(self) -> None:
        """Add q(y given x), a network like the encoder, and give the encoder y as its second input."""
        features = copy.deepcopy(self.encoder)
        initialise(features, self.initialisation)
        head = nn.Linear(self.encoder.out_features, self.components)
        self.classifier = nn.Sequential(features, head)
        initialise(head, self.initialisation)
        self.encoder = Conditioned(self.encoder, self.components, initialisation=self.initialisation)

    def component(self, y: Tensor) -> dist.TorchDistribution:
        """Return p(z given y) for components y, shape (...): batch shape (...), event shape (latent,)."""
        return dist.Normal(self.prior.loc[y], self.prior.log_scale[y].exp()).to_event(1)

    def component_logits(self, z: Tensor) -> Tensor:
        """Return log p(y, z) of each component, shape (..., components), with the parameters of the prior detached.

        Its softmax is p(y given z), the best q(y given z). At this q the derivative of the bound with respect to q is
        0, so the gradient for theta is complete although it does not flow through q.

        Args:
            z: latent values, (..., latent).
        """
        logits = self.prior.logits.detach()
        density = dist.Normal(self.prior.loc.detach(), self.prior.log_scale.detach().exp()).to_event(1)
        return logits.log_softmax(-1) + density.log_prob(z.unsqueeze(-2))

    def indicator(self, y: Tensor) -> Tensor:
        """Return a component as the condition of the encoder: a one-hot vector minus its mean.

        With one component the condition is 0. Shape (...) to (..., components).
        """
        return self._one_hot[y] - 1 / self.components

    @takes_data
    def assign(self, x: Tensor) -> dist.Categorical:
        """Return q(y given x) of ``inference="amortised"``, batch shape (batch,).

        It is not called `classify`, because components are not labels of the data.

        Args:
            x: data, (batch, features) or (batch,) + data_shape.

        Raises:
            InputError: for ``inference="exact"``, which has no q(y given x) in closed form.
        """
        if self.inference != "amortised":
            raise InputError(
                f"assign needs inference='amortised'; got inference={self.inference!r}, and then no q(y given x). "
                "Use cluster(x), which averages p(y given z) over draws of z."
            )
        return dist.Categorical(logits=self.classifier(reshape_data(x, self._input_shape)))

    def model(self, x: Tensor) -> Tensor:
        """Generate a component and z from it, and observe x under the likelihood. Returns x, (batch,) + event shape."""
        with pyro.plate("data", x.shape[0]):
            y = pyro.sample("y", dist.Categorical(logits=self.prior.logits))
            z = pyro.sample("z", self.component(y))
            return pyro.sample("x", self.decode(z), obs=self.observed(x))

    def guide(self, x: Tensor) -> Tensor:
        """Infer z and the component given x. Returns y, the component.

        With ``inference="exact"``, z is inferred first, and the component has its exact posterior given z. Otherwise
        the component is inferred first, then z given x and the component. The shape of y is (batch,), with an
        enumeration dimension on the left if y is enumerated.
        """
        with pyro.plate("data", x.shape[0]):
            if self.inference == "exact":
                z = pyro.sample("z", self.encode(x))
                return pyro.sample("y", dist.Categorical(logits=self.component_logits(z)), infer=_ENUMERATED)
            y = pyro.sample("y", self.assign(x), infer=_ENUMERATED)
            pyro.sample("z", self.encode(x, self.indicator(y)))
            return y

    @torch.no_grad()
    def cluster(self, x: Tensor, draws: int = 100) -> Tensor:
        """Return q(y given x), the responsibilities of the components for each datum, shape (batch, components).

        Args:
            x: data, (batch, features) or (batch,) + data_shape.
            draws: number of draws of z per datum, over which p(y given z) is averaged; ``inference="amortised"`` uses
                no draws.
        """
        if self.inference == "amortised":
            return self.assign(x).probs
        z = self.encode(x).sample((require_whole(draws, "draws"),))
        return self.component_logits(z).softmax(-1).mean(0)

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """Return the mean of x given the posterior mean of z at `x`, shape (batch,) + data_shape.

        With ``inference="amortised"`` it is the posterior of z given the most probable component.
        """
        if self.inference == "exact":
            return super().reconstruct(x)
        most_probable = self.assign(x).logits.argmax(-1)
        z = self.encode(x, self.indicator(most_probable)).mean
        return self.as_data(self.decode(z), mean=True)
