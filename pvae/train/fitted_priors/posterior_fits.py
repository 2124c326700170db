"""Priors that are mixtures of q(z given x): at training data, or at learned pseudo-inputs."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from pvae.checks import require_whole
from pvae.densities.full_mixture import FullMixturePrior
from pvae.densities.mixtures import MixturePrior
from pvae.densities.vamp import VampPrior
from pvae.errors import InputError
from pvae.models.vae import VAE
from pvae.programs.sites import base_distribution
from pvae.train.fitted_priors.codes import Codes, CodeSource
from pvae.train.fitted_priors.fitted_density import FitSettings, FittedDensity
from pvae.train.fitted_priors.gradient_fit import fit_by_gradients

__all__ = ["fit_aggregate", "fit_vamp"]

_COMPONENTS_OF_AGGREGATE = 500
_COMPONENTS_OF_VAMP = 100


def fit_aggregate(codes: Codes, settings: FitSettings, *, components: int | None = None) -> FittedDensity:
    """Return the mixture of q(z given x) at training data, the aggregate posterior.

    Args:
        codes: the codes; their source has the guide.
        settings: the settings of the fit; nothing is trained.
        components: the number of training data; by default 500, or all if there are fewer.

    Raises:
        InputError: for more components than data, or a q that is not a Gaussian.
    """
    source = _source_of(codes)
    most = min(codes.count, _COMPONENTS_OF_AGGREGATE)
    count = most if components is None else require_whole(components, "components", most=codes.count)
    batches = []
    for batch in source.batches():  # in a random order, so that the first data are a random part
        batches.append(base_distribution(source.guide_site(batch, codes.site.name)["fn"]))
        if sum(len(density.loc) for density in batches if isinstance(density, Normal | MultivariateNormal)) >= count:
            break
    if all(isinstance(density, Normal) for density in batches):
        return FittedDensity(*_diagonal(batches, count))
    if all(isinstance(density, MultivariateNormal) for density in batches):
        return FittedDensity(*_full(batches, count))
    raise InputError(
        f"The kind 'aggregate' needs a Gaussian q(z given x); the guide's {codes.site.name} is a "
        f"{type(batches[0]).__name__}. Use 'mixture' or 'flow'."
    )


def _source_of(codes: Codes) -> CodeSource:
    if codes.source is None:
        raise InputError("A prior of posteriors needs the model that the codes come from; these codes have none.")
    return codes.source


def _diagonal(batches: list[Any], count: int) -> tuple[MixturePrior, dict[str, Any]]:
    loc, scale = (_joined([getattr(density, name) for density in batches], count) for name in ("loc", "scale"))
    prior = MixturePrior(loc.shape[1], count).to(loc.dtype)
    with torch.no_grad():
        prior.loc.copy_(loc)
        prior.log_scale.copy_(scale.log())
    return prior, {"components": count}


def _full(batches: list[Any], count: int) -> tuple[FullMixturePrior, dict[str, Any]]:
    loc = _joined([density.loc for density in batches], count)
    covariances = _joined([density.covariance_matrix for density in batches], count, 2)
    prior = FullMixturePrior(loc.shape[1], count).to(loc.dtype)
    prior.set_parameters(torch.full((count,), 1 / count), loc, covariances)
    return prior, {"components": count, "covariance": "full"}


def _joined(parts: list[Tensor], count: int, event_dims: int = 1) -> Tensor:
    """Return the first values of several batches, shape (count, size) or (count, size, size)."""
    values = torch.cat([part.detach().cpu().flatten(1) if event_dims == 1 else part.detach().cpu() for part in parts])
    return values[:count]


def fit_vamp(codes: Codes, settings: FitSettings, *, components: int | None = None) -> FittedDensity:
    """Return a mixture of q(z given u) at learned pseudo-inputs u, which start at training data.

    Args:
        codes: the codes; their source has the encoder, which is not trained.
        settings: the settings of the fit.
        components: the number of pseudo-inputs; by default 100, or as many as there are data if they are fewer.

    Raises:
        InputError: for more pseudo-inputs than data, or a model other than `pvae.VAE`.
    """
    source = _source_of(codes)
    if type(source.model) is not VAE:
        raise InputError(
            f"The kind 'vamp' needs the encoder of a pvae.VAE; this model is a {type(source.model).__name__}. Use "
            "'aggregate' or 'mixture'."
        )
    default = min(codes.count, _COMPONENTS_OF_VAMP)
    count = default if components is None else require_whole(components, "components", most=codes.count)
    model = copy.deepcopy(source.model).cpu().requires_grad_(False).eval()
    choices: dict[str, Any] = {"components": count, "data_shape": model.data_shape}

    def make() -> VampPrior:
        prior = VampPrior(codes.site.size, **choices)
        x = torch.cat([batch.x.cpu() for batch in source.batches()])
        prior.to(x.dtype).initialise_from(x.reshape(len(x), *model.data_shape))
        return prior

    density, facts = fit_by_gradients(codes, settings, make, context=model.encode)
    return FittedDensity(density, choices, facts)
