"""A flow prior of values that are shifted and scaled first, for codes of any location and scale."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import AffineTransform

from pvae.densities.flows import FlowDistribution, FlowPrior
from pvae.densities.transforms import compose

__all__ = ["StandardisedFlowPrior"]


class StandardisedFlowPrior(nn.Module):
    """A prior p(z) of z = loc + scale u, where u has a `pvae.FlowPrior`; loc and scale are set from codes.

    The maps of a flow start as the identity, and the maps of a spline have the range -5 to 5 only. Both suit values
    with mean 0 and standard deviation 1.

    Args:
        latent: number of latent dimensions.
        kind: as for `pvae.FlowPrior`.
        transforms: number of maps.
        hidden: sizes of the hidden layers of each map's network.

    Raises:
        InputError: for an argument that `pvae.FlowPrior` does not accept.
    """

    loc: Tensor
    scale: Tensor

    def __init__(
        self, latent: int, kind: str = "maf", *, transforms: int = 3, hidden: int | Sequence[int] = (64, 64)
    ) -> None:
        super().__init__()
        self.flow = FlowPrior(latent, kind, transforms=transforms, hidden=hidden)
        self.register_buffer("loc", torch.zeros(latent))
        self.register_buffer("scale", torch.ones(latent))

    def forward(self, context: Tensor | None = None) -> FlowDistribution:
        """Return p(z), with batch shape () and event shape (latent,); `context` is not used."""
        standardise = AffineTransform(self.loc, self.scale, event_dim=1).inv
        return FlowDistribution.of(compose(standardise, self.flow.maps(None)), self.flow.zeros)

    @torch.no_grad()
    def initialise_from(self, codes: Tensor) -> None:
        """Set loc and scale to the mean and the standard deviation of codes.

        Args:
            codes: shape (codes, latent), with different values of each unit.
        """
        self.loc.copy_(codes.mean(0))
        self.scale.copy_(codes.std(0))
