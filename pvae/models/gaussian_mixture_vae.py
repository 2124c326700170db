"""The Gaussian-mixture VAE: which component a code comes from is a latent variable too, summed out exactly."""

from __future__ import annotations

import copy
from typing import Any, Unpack

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pvae.checks import require_whole
from pvae.densities import MixturePrior
from pvae.models.base import Amortised, NetworkParts, shaped
from pvae.names import unknown
from pvae.networks import Conditioned, initialise

__all__ = ["GMVAE"]

_ENUMERATED: Any = {"enumerate": "parallel"}


class GMVAE(Amortised):
    """y ~ Categorical(mixing), z ~ Normal(loc[y], scale[y]), x ~ likelihood(decoder(z)); y is summed out.

    The sites are ``y`` (the component), ``z`` and ``x``. The objective ``elbo-enum`` sums over y in each term, ``iwae``
    and its kin within each weight. With ``inference="exact"`` the model is a `VAE` with ``prior="mixture"``, whose
    components have become a site.

    Args:
        data_shape: as for `pvae.models.base.Amortised`.
        components: number of Gaussians.
        mixing: ``"learned"``, or ``"uniform"``: every component has the probability 1 / components.
        inference: ``"exact"``: q(z given x), and q(y given z) = p(y given z), which leaves no gap; or ``"amortised"``:
            q(y given x) from a classifier, and q(z given x, y) from an encoder that gets y beside x, so that each
            component has a z of its own. Each term then costs as many decodings as there are components.
        latent: number of latent dimensions of z.
        posterior: as for `Amortised`.
        parts: ``hidden``, ``network``, ``activation``, ``initialisation``, ``output_bias`` and ``likelihood`` of
            `Amortised`.

    Raises:
        InputError: for an argument that cannot be used, in one line.
    Source: Jiang et al., Variational Deep Embedding, arXiv:1611.05148, equations 1 to 3 (model) and 16 (exact q(y)).
    """

    default_objective = "elbo-enum"
    prior: MixturePrior
    encoder: Any
    _eye: Tensor

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
        for name, given, known in (
            ("mixing", mixing, ("learned", "uniform")),
            ("inference", inference, ("exact", "amortised")),
        ):
            if given not in known:
                raise unknown(name, str(given), known)
        components = require_whole(components, "components")
        super().__init__(
            data_shape, latent=latent, prior=f"mixture:components={components}", posterior=posterior, **parts
        )
        self.components, self.inference = components, inference
        if mixing == "uniform":
            self.prior.logits.requires_grad_(False)
        self.register_buffer("_eye", torch.eye(components), persistent=False)
        if inference == "amortised":
            self._make_amortised()

    def _make_amortised(self) -> None:
        features = copy.deepcopy(self.encoder)
        initialise(features, self.initialisation)
        head = nn.Linear(self.encoder.out_features, self.components)
        self.classifier = nn.Sequential(features, head)
        initialise(head, self.initialisation)
        self.encoder = Conditioned(self.encoder, self.components, initialisation=self.initialisation)

    def component(self, y: Tensor) -> dist.TorchDistribution:
        """Return p(z given y), with the batch shape of y and event shape (latent,)."""
        return dist.Normal(self.prior.loc[y], self.prior.log_scale[y].exp()).to_event(1)

    def component_logits(self, z: Tensor) -> Tensor:
        """Return log p(y, z) of each component, shape (..., components), as a function of z: theta is held fixed.

        The posterior p(y given z) that it gives is the best q(y given z), where the bound does not move with q to
        first order: theta misses nothing by it, and stays the model's own.
        """
        logits, loc, log_scale = (each.detach() for each in (self.prior.logits, self.prior.loc, self.prior.log_scale))
        density = dist.Normal(loc, log_scale.exp()).to_event(1)
        return logits.log_softmax(-1) + density.log_prob(z.unsqueeze(-2))

    def indicator(self, y: Tensor) -> Tensor:
        """Return a component as the encoder's condition: its indicator, centred, so that a single one is no condition.

        Shape (...) to (..., components).
        """
        return self._eye[y] - 1 / self.components

    def assign(self, x: Tensor) -> dist.Categorical:
        """Return q(y given x) of ``inference="amortised"``, batch shape (batch,); components, which are no labels."""
        return dist.Categorical(logits=self.classifier(shaped(x, self._input_shape)))

    def model(self, x: Tensor) -> Tensor:
        """Generate: a component, z from it, x from the likelihood, observed. Returns x."""
        with pyro.plate("data", x.shape[0]):
            y = pyro.sample("y", dist.Categorical(logits=self.prior.logits))
            z = pyro.sample("z", self.component(y))
            return pyro.sample("x", self.decode(z), obs=self.observed(x))

    def guide(self, x: Tensor) -> Tensor:
        """Infer: z given x, then the component from its exact posterior; or the component, then z. Returns y."""
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
            draws: of z per datum, over which p(y given z) is averaged; ``inference="amortised"`` needs none.
        """
        if self.inference == "amortised":
            return self.assign(x).probs
        return self.component_logits(self.encode(x).sample((require_whole(draws, "draws"),))).softmax(-1).mean(0)

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """Return the mean of x given the posterior's mean of z at `x`, shape (batch,) + data_shape.

        With ``inference="amortised"`` z is that of the most probable component.
        """
        if self.inference == "exact":
            return super().reconstruct(x)
        likely = self.assign(x).logits.argmax(-1)
        return self.as_data(self.decode(self.encode(x, self.indicator(likely)).mean), mean=True)
