"""The objective of a vector-quantised model: gradients pass straight through the choice of the nearest code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pvae.densities.quantiser import NearestCode, Quantiser
from pvae.errors import InputError
from pvae.objectives.base import Call, Objective, Terms
from pvae.objectives.kl.weighted_kl import not_negative
from pvae.objectives.named import named
from pvae.objectives.phases.alternating import Within
from pvae.programs.bound import BoundPrograms
from pvae.programs.sites import base_distribution
from pvae.weights import LogWeights, trace_weights

__all__ = ["VectorQuantised"]


@named("vq", "vector-quantised models: straight-through gradients, codebook, commitment; biased")
class VectorQuantised(Objective):
    """log p(x given k) + log p(k) at the nearest codes k, less what draws vectors and codes together, per datum.

    With the encoder's vectors h, their codes e and sg for stopped gradients, a step climbs

        log p(x, k) - sum (sg(h) - e)^2 - commitment * sum (h - sg(e))^2,

    where both sums are over positions and dimensions, and the gradient of log p at the codes is given to h unchanged:
    straight through. A codebook of averages has no gradient: the first sum is left out, and in training each step moves
    the averages on.

    The loss is minus the line above. Squares are not negative, so it stays minus a lower bound of log p(x); the bound
    itself is recorded as ``elbo``, beside ``distance`` (the sum of squares), and for the codes over the batch
    ``perplexity`` (the exponential of their entropy) and ``codes_used`` (a share of all).

    Args:
        commitment: weight of the squares for the encoder; the paper's 0.25 is the default.
        data_plate: the name of the plate over data, where several hold every site.

    Raises:
        InputError: for a negative weight; in use, if the programs do not go through a `pvae.Quantiser`, or another
            guide site cannot be reparameterised.
    Source: van den Oord, Vinyals & Kavukcuoglu, Neural Discrete Representation Learning, arXiv:1711.00937, equation 3.
    """

    #: why the mean of the gradient is not that of the loss
    biased = "straight-through: the encoder gets the decoder's gradient past the choice of the code"

    def __init__(self, commitment: float = 0.25, data_plate: str | None = None) -> None:
        super().__init__(1)
        self.commitment, self.data_plate = not_negative("commitment", commitment), data_plate

    def settings(self) -> dict[str, Any]:
        """Return the weight of the commitment."""
        return {"commitment": self.commitment}

    def terms(self, model: Any, guide: Any, args: Call, kwargs: Mapping[str, Any], player: str) -> Terms:
        """Return the loss of a batch; in training, move averages of codes on."""
        # before the terms: a first look at a layout writes buffers back, which autograd would find changed
        count = BoundPrograms(model, guide, args, kwargs).count
        uses: dict[Quantiser, _Use] = {}
        p, q = (Within(each, lambda: _Following(uses)) for each in (model, guide))
        weights = trace_weights(p, q, args, kwargs, 1, data_plate=self.data_plate)
        _require(uses, weights)
        dims = weights.only_source().dims
        value, distance = weights.log_w[0], torch.zeros_like(weights.log_w[0])
        for quantiser, use in uses.items():
            value = value - self.commitment * dims.reduce(use.apart(use.h, use.e.detach()))[0]
            apart = dims.reduce(use.apart(use.h.detach(), use.e))[0]
            value = value if quantiser.averages else value - apart
            distance = distance + apart.detach()
        named = {**weights.named(), "distance": distance}
        totals = {name: (each * weights.scale).sum().detach() for name, each in named.items()}
        # these are no sums over data: times the count, so that the trainer's division gives them back
        totals |= {name: each * count for name, each in _usage(uses).items()}
        if self.training:
            for quantiser, use in uses.items():
                quantiser.advance(use.h.detach(), use.k)
        loss = -(value * weights.scale).sum()
        return Terms(loss.detach(), loss, totals)


@dataclass(frozen=True)
class _Use:
    """What passed through a quantiser in one run: vectors h, their codes e and the codes' indices k."""

    h: Tensor
    event_dim: int
    k: Tensor
    e: Tensor

    def apart(self, first: Tensor, second: Tensor) -> Tensor:
        """The squared distance over positions and dimensions, of the batch shape of the site."""
        return (first - second).square().flatten(-1 - self.event_dim).sum(-1)


class _Following(Messenger):
    """Notes the vectors in the guide, and gives the model codes whose gradient is the vectors' own."""

    def __init__(self, uses: dict[Quantiser, _Use]) -> None:
        super().__init__()
        self.uses = uses
        self.seen: set[tuple[str, Quantiser]] = set()

    def _once(self, what: str, quantiser: Quantiser) -> None:
        if (what, quantiser) in self.seen:
            raise InputError(f"A Quantiser is {what} twice in one run; give each site one of its own.")
        self.seen.add((what, quantiser))

    def _pyro_post_pvae_assign(self, msg: Any) -> None:
        quantiser, h, event_dim = msg["args"]
        self._once("called", quantiser)
        self.uses[quantiser] = _Use(h, event_dim, h.new_empty(0), h.new_empty(0))

    def _pyro_post_pvae_embed(self, msg: Any) -> None:
        (quantiser, k), e = msg["args"], msg["value"]
        self._once("asked for codes", quantiser)
        if quantiser not in self.uses or self.uses[quantiser].h.shape != e.shape:
            raise InputError(
                "VectorQuantised needs the codes of the vectors that the guide has quantised: draw k from quantiser(h) "
                "in the guide, and decode quantiser.embed(k) in the model."
            )
        h = self.uses[quantiser].h
        self.uses[quantiser] = _Use(h, self.uses[quantiser].event_dim, k, e)
        msg["value"] = e.detach() + (h - h.detach())  # the codes to the last bit


def _require(uses: Mapping[Quantiser, _Use], weights: LogWeights) -> None:
    if not uses or any(use.e.numel() == 0 for use in uses.values()):
        raise InputError(
            "VectorQuantised needs a model that goes through a pvae.Quantiser: draw k from quantiser(h) in the guide, "
            "and decode quantiser.embed(k) in the model. Use 'iwae' or 'elbo-enum' for other discrete latents."
        )
    sites = weights.guide_sites()
    for name in weights.not_reparameterised:
        if not isinstance(base_distribution(sites[name]["fn"]), NearestCode):
            raise InputError(
                f"VectorQuantised trains quantised and reparameterised sites, and {name!r} is neither: quantise it, or "
                "use 'iwae'."
            )


def _usage(uses: Mapping[Quantiser, _Use]) -> dict[str, Tensor]:
    """Perplexity and share of the codes of a batch, by quantiser where there are several."""
    found: dict[str, Tensor] = {}
    for number, (quantiser, use) in enumerate(uses.items(), 1):
        ending = f"_{number}" if len(uses) > 1 else ""
        chosen = use.k.reshape(-1, 1) == torch.arange(quantiser.codes, device=use.k.device)
        share = chosen.to(use.h).mean(0).detach()
        found[f"perplexity{ending}"] = torch.special.entr(share).sum().exp()
        found[f"codes_used{ending}"] = (share > 0).to(share).mean()
    return found
