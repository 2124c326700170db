"""`VectorQuantised`: the objective of a vector-quantised model, with gradients straight through the nearest code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pvae.densities.quantiser import NearestCode, Quantiser
from pvae.errors import InputError
from pvae.objectives.base import Objective, Terms, scaled_sums
from pvae.objectives.gradients.baselines import gradient_only
from pvae.objectives.kl.weighted_kl import not_negative
from pvae.objectives.named import named
from pvae.programs.bound import BoundPrograms
from pvae.programs.data_counter import DataCounter
from pvae.programs.program_in_context import with_guide_in, with_model_in
from pvae.programs.sites import base_distribution
from pvae.weights import LogWeights
from pvae.weights.compute import weights_of

__all__ = ["VectorQuantised"]


@named("vq", "for vector-quantised models: straight-through gradients, codebook and commitment terms; biased")
class VectorQuantised(Objective):
    """log p(x given k) + log p(k) at the nearest codes k, minus squared distances of vectors and codes, per datum.

    With the encoder's vectors h, their codes e, and sg for a stopped gradient, the objective maximises

        log p(x, k) - sum (sg(h) - e)^2 - commitment * sum (h - sg(e))^2.

    Both sums are over positions and dimensions. The gradient of log p at the codes is passed to h unchanged (straight
    through). A codebook of moving averages has no gradient: the first sum is left out, and each training step updates
    the averages.

    The loss is minus this expression. Squares are not negative, so the expression is a lower bound on log p(x). The
    bound without the squares is recorded as ``elbo``, beside ``distance`` (the sum of squares). For the codes of a
    batch, ``perplexity`` (the exponential of their entropy) and ``codes_used`` (as a share of all codes) are recorded.

    Args:
        commitment: the weight of the squares for the encoder. The default is the paper's 0.25.
        data_plate: the name of the plate over data, if several plates hold every site.

    Raises:
        InputError: for a negative weight; in use, if the programs use no `pvae.Quantiser`, or another guide site cannot
            be reparameterised.

    Source: van den Oord, Vinyals & Kavukcuoglu, Neural Discrete Representation Learning, arXiv:1711.00937, equation 3.

    Example:
        >>> import pvae, torch
        >>> model, x = pvae.VQVAE(4, codes=8, latent=2, positions=3, hidden=8), torch.eye(4)
        >>> terms = pvae.VectorQuantised(commitment=0.25).terms(model.model, model.guide, (x,), {}, "all")
        >>> sorted(terms.named)
        ['codes_used', 'distance', 'elbo', 'kl', 'log_likelihood', 'perplexity']
    """

    biased = "straight-through: the encoder gets the decoder's gradient past the choice of the code"

    def __init__(self, commitment: float = 0.25, data_plate: str | None = None) -> None:
        super().__init__(1)
        self.commitment = not_negative("commitment", commitment)
        self.data_plate = data_plate

    def settings(self) -> dict[str, Any]:
        """Return the weight of the commitment."""
        return {"commitment": self.commitment}

    def terms(self, model: Any, guide: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], player: str) -> Terms:
        """Return the loss of a batch; in training, moving averages of codes are updated afterwards."""
        programs = BoundPrograms(model, guide, args, kwargs)
        uses: dict[Quantiser, _Use] = {}
        straight_through = with_guide_in(lambda: _StraightThroughMessenger(uses), programs)
        straight_through = with_model_in(lambda: _StraightThroughMessenger(uses), straight_through)
        with DataCounter(programs, self.data_plate) as counter:
            weights = weights_of(straight_through, 1, data_plate=self.data_plate)
        _require_quantised(uses, weights)
        value, distance = self._value_and_distance(uses, weights)
        named = scaled_sums({**weights.named(), "distance": distance}, weights.scale)
        # Multiply by the count because the trainer divides by it, and these numbers are not sums over data.
        named |= {name: number * counter.count for name, number in _code_usage(uses).items()}
        if self.training:
            for quantiser, use in uses.items():
                quantiser.advance(use.vectors.detach(), use.indices)
        loss = -(value * weights.scale).sum()
        return Terms(loss.detach(), loss, named)

    def _value_and_distance(self, uses: Mapping[Quantiser, _Use], weights: LogWeights) -> tuple[Tensor, Tensor]:
        """Return the maximised value, and the sum of squares without gradient, each of shape (batch,)."""
        dims = weights.only_source().dims
        value = weights.log_w[0]
        distance = torch.zeros_like(value)
        for quantiser, use in uses.items():
            to_code = use.squared_distance(use.vectors, use.codes.detach())
            value = value - self.commitment * dims.reduce(to_code)[0]
            to_vector = dims.reduce(use.squared_distance(use.vectors.detach(), use.codes))[0]
            if not quantiser.averages:
                value = value - to_vector
            distance = distance + to_vector.detach()
        return value, distance


@dataclass(frozen=True)
class _Use:
    """The tensors of a quantiser in one run of both programs.

    Attributes:
        vectors: the encoder's vectors h, shape (*batch, *positions, dimensions).
        event_dim: the number of dimensions of the positions.
        indices: the indices k of the nearest codes, shape (*batch, *positions).
        codes: the codes e, in the shape of the vectors.
    """

    vectors: Tensor
    event_dim: int
    indices: Tensor
    codes: Tensor

    def squared_distance(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the squared distance, summed over positions and dimensions: the batch shape of the site."""
        return (first - second).square().flatten(-1 - self.event_dim).sum(-1)


class _StraightThroughMessenger(Messenger):
    """Records the vectors of the guide, and gives the model codes with the gradient of the vectors.

    Args:
        uses: filled with the tensors of each quantiser.
    """

    def __init__(self, uses: dict[Quantiser, _Use]) -> None:
        super().__init__()
        self.uses = uses
        self.calls: set[tuple[str, Quantiser]] = set()

    def _require_first_call(self, call: str, quantiser: Quantiser) -> None:
        if (call, quantiser) in self.calls:
            raise InputError(
                f"VectorQuantised needs one Quantiser per site; one is {call} twice in one run. Make another Quantiser."
            )
        self.calls.add((call, quantiser))

    def _pyro_post_pvae_assign(self, msg: Any) -> None:
        quantiser, vectors, event_dim = msg["args"]
        self._require_first_call("called", quantiser)
        self.uses[quantiser] = _Use(vectors, event_dim, vectors.new_empty(0), vectors.new_empty(0))

    def _pyro_post_pvae_embed(self, msg: Any) -> None:
        quantiser, indices = msg["args"]
        codes = msg["value"]
        self._require_first_call("asked for codes", quantiser)
        if quantiser not in self.uses or self.uses[quantiser].vectors.shape != codes.shape:
            raise InputError(
                "VectorQuantised needs the codes of the vectors that the guide quantises; the model asks for other "
                "codes. Draw k from quantiser(h) in the guide, and decode quantiser.embed(k) in the model."
            )
        vectors = self.uses[quantiser].vectors
        self.uses[quantiser] = _Use(vectors, self.uses[quantiser].event_dim, indices, codes)
        # The value equals the codes to the last bit.
        msg["value"] = codes.detach() + gradient_only(vectors)


def _require_quantised(uses: Mapping[Quantiser, _Use], weights: LogWeights) -> None:
    """Refuse programs without a quantiser, and guide sites that are neither quantised nor reparameterised."""
    if not uses or any(use.codes.numel() == 0 for use in uses.values()):
        raise InputError(
            "VectorQuantised needs a model that goes through a pvae.Quantiser; this one does not. Draw k from "
            "quantiser(h) in the guide, and decode quantiser.embed(k) in the model. Use another "
            "objective, such as 'elbo', for other latents."
        )
    sites = weights.guide_sites()
    for name in weights.not_reparameterised:
        if not isinstance(base_distribution(sites[name]["fn"]), NearestCode):
            raise InputError(
                f"VectorQuantised needs quantised or reparameterised sites; site {name!r} is neither. Quantise it, or "
                "use 'iwae'."
            )


def _code_usage(uses: Mapping[Quantiser, _Use]) -> dict[str, Tensor]:
    """Return perplexity and share of used codes in a batch, scalars; several quantisers have numbered names."""
    usage: dict[str, Tensor] = {}
    for number, (quantiser, use) in enumerate(uses.items(), 1):
        suffix = f"_{number}" if len(uses) > 1 else ""
        is_chosen = use.indices.reshape(-1, 1) == torch.arange(quantiser.codes, device=use.indices.device)
        frequency = is_chosen.to(use.vectors).mean(0).detach()
        usage[f"perplexity{suffix}"] = torch.special.entr(frequency).sum().exp()
        usage[f"codes_used{suffix}"] = (frequency > 0).to(frequency).mean()
    return usage
