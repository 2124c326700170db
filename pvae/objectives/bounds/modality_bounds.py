"""Objectives of multimodal models: ELBOs of subsets of the modalities, and bounds with draws of each expert."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Unpack

import torch
from torch import Tensor

from pvae.checks import require_whole
from pvae.densities.experts import ExpertMixture, stratified_draws
from pvae.errors import InputError
from pvae.objectives.base import Terms
from pvae.objectives.bounds.miwae import MIWAE
from pvae.objectives.kl.weighted_kl import Beta
from pvae.objectives.named import named
from pvae.objectives.weights_objective import WeightsObjective, WeightsOptions
from pvae.programs.binding import fields_of, owner_of
from pvae.programs.model_traits import traits_of
from pvae.programs.sites import base_distribution
from pvae.weights import LogWeights

__all__ = ["StratifiedIWAE", "SubsampledELBO"]


@named("subsampled-elbo", "ELBO of all modalities, plus those of each alone and of random subsets (MVAE)")
class SubsampledELBO(Beta):
    """The ELBO of all modalities, plus the ELBO of each modality alone, plus the ELBO of random subsets of modalities.

    With a product of experts, the ELBO of all modalities trains the experts only together. The further terms train q(z
    given x) for data with only some known modalities. Each term counts only the modalities that a datum has; a term
    without modalities is 0. The value is a sum of bounds and not a bound on log p(x), so ``elbo``, ``kl`` and
    ``log_likelihood`` of all modalities are recorded too.

    Args:
        subsets: the number of random subsets for each datum, k in the paper. Each non-empty subset has the same
            probability. A model with two modalities needs none, because each subset is a term already.
        single: whether there is a term for each modality alone.
        particles: draws of z per datum and term.
        warm_up: the number of training steps in which the weight of the KL grows linearly from 0 to 1; 0 for none. The
            paper uses one. Without it, the units of a product of experts may become inactive.
        options: see `WeightsOptions`.

    Raises:
        InputError: if ``subsets < 0`` or ``warm_up < 0``, or there is no term besides the ELBO of all modalities; in
            use, for a model without modalities.

    Source: Wu & Goodman, Multimodal Generative Models for Scalable Weakly-Supervised Learning, arXiv:1802.05335,
        section 2.3 and equation 4.

    Example:
        >>> import pvae, torch
        >>> model = pvae.MultimodalVAE(4, {"x": "bernoulli", "w": "gaussian:shape=3"}, latent=2, hidden=8)
        >>> data = {"x": torch.eye(4).repeat(10, 1), "w": torch.ones(40, 3)}
        >>> run = pvae.fit(model, data, objective="subsampled-elbo", epochs=1, step="eager", progress=False)
        >>> run.history[-1]["loss"] > -run.history[-1]["elbo"]  # three losses in place of one
        True
    """

    def __init__(
        self,
        subsets: int = 1,
        single: bool = True,
        particles: int = 1,
        warm_up: int = 0,
        **options: Unpack[WeightsOptions],
    ) -> None:
        steps = require_whole(warm_up, "warm_up", least=0)
        super().__init__(1.0, particles, "linear" if steps else "constant", max(steps, 1), **options)
        self.subsets = require_whole(subsets, "subsets", least=0)
        if not isinstance(single, bool) or not (single or self.subsets):
            raise InputError(
                "SubsampledELBO needs single=true, or subsets of at least 1 with single=false; got "
                f"single={single!r}, subsets={subsets!r}. For all modalities alone, use 'elbo'."
            )
        self.single = single

    def settings(self) -> dict[str, Any]:
        """Return the subsets, the warm-up if there is one, and the number of particles."""
        warm_up = 0 if self.schedule.kind == "constant" else self.schedule.steps
        settings = {"subsets": self.subsets, "single": self.single, **({"warm_up": warm_up} if warm_up else {})}
        return {**settings, **WeightsObjective.settings(self)}

    def terms(self, model: Any, guide: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], player: str) -> Terms:
        """Return the loss of a batch: minus the sum over data of all ELBOs, each times its scale."""
        count = len(traits_of(owner_of(guide)).modalities)
        if not count:
            raise InputError(
                "SubsampledELBO needs a model with several modalities, such as pvae.MultimodalVAE; this model has no "
                "modalities. Choose an objective without them (`pvae list`)."
            )
        # this is before the terms of all modalities, because those change the weight of the KL for the next step
        further = [
            WeightsObjective.terms(self, model, guide, args, {**kwargs, "_subset": subset}, player)
            for subset in self._drawn_subsets(count, fields_of(guide, args, kwargs)["x"])
        ]
        terms = super().terms(model, guide, args, kwargs, player)
        loss = terms.loss + sum(each.loss for each in further)
        return Terms(loss, terms.surrogate + sum(each.surrogate for each in further), terms.named)

    def _drawn_subsets(self, count: int, x: Tensor) -> Iterator[Tensor]:
        """Yield the modalities that count in each further term, shape (batch, modalities), boolean."""
        numbers = torch.arange(count, device=x.device)
        if self.single:
            for number in range(count):
                yield (numbers == number).expand(len(x), count)
        for _ in range(self.subsets):
            # the binary digits of a number from 1 to 2^count - 1 are a subset that is not empty
            code = torch.randint(1, 2**count, (len(x), 1), device=x.device)
            yield (code >> numbers) % 2 == 1


@named("stratified-iwae", "mean of importance-weighted bounds, each with draws of one expert of a mixture (MMVAE)")
class StratifiedIWAE(MIWAE):
    """The mean over the experts of a mixture of importance-weighted bounds with K draws of each expert.

    One particle gives the ELBO with one draw of each expert in place of a random expert, so its gradient has less
    variance. With several particles, each bound uses the draws of one expert only. A bound with the draws of all
    experts, `IWAE`, is tighter, but then only one of the experts may become a good density of z. If a datum has fewer
    modalities than there are bounds, its draws are divided among the experts that it has.

    Args:
        particles: K, draws of each expert. The default 1 is the ELBO.
        experts: the number of experts, which is the number of modalities.
        options: see `WeightsOptions`.

    Raises:
        InputError: if a number is below 1; in use, if the guide is not a mixture of that number of experts.

    Source: Shi, Siddharth, Paige & Torr, Variational Mixture-of-Experts Autoencoders for Multi-Modal Deep Generative
        Models, arXiv:1911.03393, section 3.1 and equation 3. Their doubly reparameterised gradient is not used: the
        gradient here is that of the bound itself.

    Example:
        >>> import pvae, torch
        >>> modalities = {"x": "bernoulli", "w": "gaussian:shape=3"}
        >>> model = pvae.MultimodalVAE(4, modalities, combine="mixture", latent=2, hidden=8)
        >>> objective = pvae.StratifiedIWAE(particles=3, experts=2)
        >>> objective.loss(model.model, model.guide, torch.eye(4), w=torch.ones(4, 3)) > 0
        True
    """

    pathwise = True

    def __init__(self, particles: int = 1, experts: int = 2, **options: Unpack[WeightsOptions]) -> None:
        self.experts = require_whole(experts, "experts")
        super().__init__(particles, self.experts, **options)

    def settings(self) -> dict[str, Any]:
        """Return the number of experts, and the draws of each."""
        return {"experts": self.experts, **{key: each for key, each in super().settings().items() if key != "batches"}}

    def weights(self, model: Any, guide: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> LogWeights:
        """Return the log weights of a batch, with equally many draws of each expert.

        Args:
            model: p(x, z).
            guide: q(z given x).
            args: the positional arguments of both programs.
            kwargs: the keyword arguments of both programs.

        Raises:
            InputError: if the guide is not a mixture of this number of experts, or cannot draw all particles at once.
        """
        with stratified_draws():
            weights = super().weights(model, guide, args, kwargs)
        densities = [base_distribution(site["fn"]) for site in weights.guide_sites().values()]
        count = len(traits_of(owner_of(guide)).modalities)
        if not all(isinstance(density, ExpertMixture) for density in densities) or count != self.experts:
            raise InputError(
                f"StratifiedIWAE needs a mixture of {self.experts} experts, a pvae.MultimodalVAE with "
                f"combine='mixture'; this guide has {count} modalities and draws from "
                f"{', '.join(type(density).__name__ for density in densities)}. Set experts."
            )
        return weights
