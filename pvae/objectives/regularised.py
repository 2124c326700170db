"""`RAE`: the regularised autoencoder, with penalties of the code and of the decoder in place of noise."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from pvae.checks import require_number
from pvae.errors import InputError
from pvae.names import require_known
from pvae.objectives.base import Objective, Terms, scaled_sums
from pvae.objectives.dirac import weights_at_means
from pvae.objectives.kl.kl_by_unit import LatentSite, only_latent_site
from pvae.objectives.named import named
from pvae.objectives.phases.player_groups import GroupsInStore
from pvae.programs.bound import BoundPrograms
from pvae.programs.parameter_groups import declared_group
from pvae.programs.sites import Site, base_distribution
from pvae.weights import LogWeights

__all__ = ["PENALTIES", "RAE", "squared_jacobian"]

#: the penalties of the decoder, by name
PENALTIES = ("l2", "gradient", "none")


@named("rae", "regularised autoencoder: reconstruction, penalties of the code and of the decoder, no noise")
class RAE(Objective):
    """Regularised autoencoder: log p(x given z) - code ||z||^2 / 2 - weight * penalty of the decoder, per datum.

    z is the mean of the guide, as for `Dirac`. The penalties replace the noise and the KL divergence of a VAE: one
    keeps codes near 0, the other keeps the decoder smooth. The prior of the model is not used, and must have no
    parameters; it is flat in `pvae.Autoencoder`. To sample new data, fit a density to the codes after the training by
    `pvae.fit_prior`.

    The penalty of the decoder is one of:

    - ``"l2"``: the sum of the squares of the weights of theta, without biases (parameters of fewer than 2 dimensions).
      With ``spectral=True`` it has no use, because the decoder does not depend on the scale of these weights.
    - ``"gradient"``: the squared norm of the Jacobian of E[x given z] by z, the sum over all its entries, for each
      datum. A random vector v of signs gives the unbiased estimate ||v' Jacobian||^2 by one differentiation.
    - ``"none"``: no penalty, for example if the decoder has ``spectral=True``.

    Validation uses the objective's own value. ``log_likelihood``, ``code_penalty`` (||z||^2 / 2) and
    ``decoder_penalty`` are recorded too, without their weights.

    Args:
        code: the weight of ||z||^2 / 2, beta in the paper; 1 is the weight of a standard normal prior.
        penalty: a name of the list above.
        weight: the weight of the penalty of the decoder, lambda in the paper.
        data_plate: the name of the plate over data, if several plates hold every site.

    Raises:
        InputError: for a negative weight or an unknown penalty; in use, if the guide has several latent sites or
            discrete ones, if the prior has parameters, for ``"l2"`` if theta and phi share parameters and are not
            declared, and for ``"gradient"`` if x has no mean or the guide is fixed.

    Source: Ghosh, Sajjadi, Vergari, Black & Schoelkopf, From Variational to Deterministic Autoencoders,
        arXiv:1903.12436, equations 8 to 10 and section 3.1. The weights of the paper are chosen by validation; the
        defaults are chosen by pvae. The estimate by signs: Hutchinson, A stochastic estimator of the trace of the
        influence matrix, Communications in Statistics 18 (1989).

    Example:
        >>> import pvae, torch
        >>> model, x = pvae.Autoencoder(4, latent=2, hidden=8), torch.eye(4)
        >>> terms = pvae.RAE(penalty="gradient").terms(model.model, model.guide, (x,), {}, "all")
        >>> sorted(terms.named)
        ['code_penalty', 'decoder_penalty', 'log_likelihood']
    """

    no_bound = "reconstruction and penalties are not a bound on log p(x)"

    def __init__(
        self, code: float = 0.1, penalty: str | None = "l2", weight: float = 0.01, data_plate: str | None = None
    ) -> None:
        super().__init__(1)
        self.penalty = "none" if penalty is None else penalty  # the command line reads none as None
        require_known("penalty of RAE", self.penalty, PENALTIES)
        self.code = float(require_number(code, "code", least=0))
        self.weight = float(require_number(weight, "weight", least=0))
        self.data_plate = data_plate
        self._groups_in_store = GroupsInStore("RAE")

    def settings(self) -> dict[str, Any]:
        """Return the weight of the code's penalty, the penalty of the decoder and its weight."""
        weight = {} if self.penalty == "none" else {"weight": self.weight}
        return {"code": self.code, "penalty": self.penalty, **weight}

    def terms(self, model: Any, guide: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], player: str) -> Terms:
        """Return minus the sum over data of the objective, each times its scale."""
        is_training = torch.is_grad_enabled()
        with torch.enable_grad() if self.penalty == "gradient" else nullcontext():
            programs = BoundPrograms(model, guide, args, kwargs)
            weights, _ = weights_at_means(programs, self.data_plate, "RAE")
            latent = only_latent_site(weights, self.data_plate, "RAE")[0]
            _require_fixed_prior(latent)
            code = latent.by_unit(latent.guide["value"], latent.guide["fn"].event_dim)[0]
            named = {"log_likelihood": weights.log_likelihood()[0], "code_penalty": 0.5 * code.square().sum(-1)}
            if self.penalty == "l2":
                named["decoder_penalty"] = self._squared_weights(programs) * code.new_ones(len(code))
            elif self.penalty == "gradient":
                named["decoder_penalty"] = _squared_gradient(weights, latent, create_graph=is_training)
            value = named["log_likelihood"] - self.code * named["code_penalty"]
            if "decoder_penalty" in named:
                value = value - self.weight * named["decoder_penalty"]
            loss = -(value * weights.scale).sum()
        return Terms(loss.detach(), loss if is_training else loss.detach(), scaled_sums(named, weights.scale))

    def _squared_weights(self, programs: BoundPrograms) -> Tensor:
        """Return the sum of the squares of the weights of theta, without biases, shape ()."""
        theta = declared_group(programs.owners, "theta")
        if theta is None:
            theta = self._groups_in_store.group(programs.model, programs.guide, programs.args, programs.kwargs, "theta")
        matrices = [parameter for parameter in theta if parameter.dim() > 1]
        if not matrices:
            raise InputError(
                "RAE with penalty='l2' needs weights of the decoder, parameters of theta with at least 2 dimensions; "
                "this model has none. Use penalty='gradient'."
            )
        return torch.stack([matrix.square().sum() for matrix in matrices]).sum()


def _require_fixed_prior(latent: LatentSite) -> None:
    """Refuse a prior with parameters, because no term trains it.

    Raises:
        InputError: with the name of the site.
    """
    if latent.model["fn"].log_prob(latent.guide["value"].detach()).requires_grad:
        raise InputError(
            f"RAE uses no prior, and the prior of site {latent.model['name']!r} has parameters, which would not be "
            "trained. Use prior='flat', and fit a prior to the codes after the training by pvae.fit_prior."
        )


def _squared_gradient(weights: LogWeights, latent: LatentSite, *, create_graph: bool) -> Tensor:
    """Return the estimate of the squared norm of the Jacobian of the means of x, shape (batch,)."""
    z = latent.guide["value"]
    if not z.requires_grad:
        raise InputError(
            "RAE with penalty='gradient' differentiates by z, and no parameter of the guide is trained, so z has no "
            "gradient. Use penalty='l2' for a fixed guide."
        )
    observed = [site for site in weights.draws[0].model_sites if site["is_observed"] and not _is_factor(site)]
    means = [_mean_of_data(site) for site in observed]
    signs = [(torch.rand_like(mean) < 0.5).to(mean) * 2.0 - 1.0 for mean in means]
    squared = squared_jacobian(means, signs, z, create_graph=create_graph)
    return latent.by_unit(squared, latent.guide["fn"].event_dim)[0].sum(-1)


def squared_jacobian(means: list[Tensor], signs: list[Tensor], z: Tensor, *, create_graph: bool) -> Tensor:
    """Return the square of v' Jacobian of the means by z, entry by entry, in the shape of z.

    For data that do not influence each other, the expectation over random signs v is the sum of the squares of the
    column of the Jacobian. It is 0 for means that do not depend on z.

    Args:
        means: tensors that may depend on z.
        signs: v, for each mean in its shape.
        z: the code.
        create_graph: whether the result can be differentiated.
    """
    dependent = [number for number, mean in enumerate(means) if mean.requires_grad]
    if not dependent:
        return torch.zeros_like(z)
    outputs, factors = [means[number] for number in dependent], [signs[number] for number in dependent]
    (gradient,) = torch.autograd.grad(outputs, z, factors, create_graph=create_graph, materialize_grads=True)
    return gradient.square()


def _is_factor(site: Site) -> bool:
    """Return whether a site is a `pyro.factor`, a term of log p(x, z) without data."""
    return isinstance(base_distribution(site["fn"]), dist.Unit)


def _mean_of_data(site: Site) -> Tensor:
    """Return E[x given z] of an observed site.

    Raises:
        InputError: if x has no mean, with the name of the site.
    """
    family = base_distribution(site["fn"])
    mean: Tensor | None
    try:
        mean = None if isinstance(family, dist.Categorical | dist.OneHotCategorical) else site["fn"].mean
    except (AttributeError, NotImplementedError):
        mean = None
    if mean is None:
        raise InputError(
            f"RAE with penalty='gradient' needs the mean of x given z; site {site['name']!r} is "
            f"{type(family).__name__}, which has none. Use penalty='l2'."
        )
    return mean
