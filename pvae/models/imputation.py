"""Impute missing entries by importance sampling with any latent model that takes a mask: means and draws."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro.poutine import Trace
from torch import Tensor

from pvae.batch import Batch
from pvae.checks import require_whole
from pvae.errors import InputError
from pvae.programs.binding import Fields, Programs
from pvae.programs.data_sites import DataSites, find_data_sites
from pvae.programs.fitting_runs import map_fitting_parts
from pvae.programs.queries import inference_mode
from pvae.programs.sites import sample_sites
from pvae.programs.usable_data import require_usable
from pvae.randomness import preserved_randomness
from pvae.weights.log_probs import PlateDims, log_probs_by_site, sum_tensors
from pvae.weights.site_validation import delta_sites
from pvae.weights.traces import TracePair
from pvae.weights.vectorise import trace_particles

__all__ = ["Imputation", "impute"]

_MOST_EVALUATIONS = 10_000  # of the model in one run: particles times data


@dataclass(frozen=True)
class Imputation:
    """Data with their missing entries filled in; observed entries are unchanged.

    Attributes:
        mean: the mean of p(missing given observed) at missing entries, shape (batch, *x): single imputation.
        draws: draws of p(missing given observed) at missing entries, shape (n, batch, *x): multiple imputation. To
            estimate a statistic of the data, compute it on each of the n completed data sets. The estimate is the mean
            of the n results. Its variance is the mean of their n variances plus (1 + 1/n) times the variance between
            the n results.
        effective_sample_size: (sum of w)^2 / sum of w^2 of the importance weights, from 1 to the number of particles,
            shape (batch,). Draws are repeated if it is not much larger than n.
    """

    mean: Tensor
    draws: Tensor
    effective_sample_size: Tensor


def impute(
    latent_model: Any, batch: Mapping[str, Tensor], n: int = 10, particles: int = 1000, fields: Fields = None
) -> Imputation:
    """Return x with its missing entries filled in, by their mean and by draws given the observed entries.

    z is drawn from the guide given the observed entries, and x from the model given z. Both are weighted by
    w = p(observed, z) / q(z given observed). The mean is the weighted mean of x given z; draws are resampled with
    probabilities proportional to w. Both are exact in the limit of many particles. With one particle they follow the
    guide.

    Args:
        latent_model: any object with ``model`` and ``guide`` that take a mask and score observed entries only.
        batch: named tensors with ``x`` and ``mask`` (1 observed, 0 missing, in the shape of x). Missing entries of x
            are set to 0 before a program runs; they may be NaN.
        n: number of draws for each datum.
        particles: number of weighted draws of z for each datum.
        fields: as for `pvae.models.bind`.

    Raises:
        InputError: if there is no mask, if the programs do not take it, or if its shape is not that of x; if the
            programs give no log weight per datum; if all weights of a datum are 0; if the particles of one datum need
            more memory than is free.
    Source: Mattei & Frellsen, MIWAE, arXiv:1812.02633, section 3.3; for the use of n completed data sets, Rubin,
    Multiple Imputation for Nonresponse in Surveys, 1987.
    """
    n, particles = require_whole(n, "n"), require_whole(particles, "particles")
    zeroed = _zero_missing_entries(batch)
    require_usable(zeroed)
    with inference_mode(latent_model, zeroed, fields) as programs:
        if "mask" not in programs.fields:
            raise InputError(
                "The programs do not take a mask, so they cannot leave out missing entries. Use a model such as "
                "masked-vae, or programs with the arguments (x, mask)."
            )
        parts = map_fitting_parts(
            lambda part: _impute_part(programs, part, n, particles),
            zeroed,
            max(1, _MOST_EVALUATIONS // particles),
            programs.modules,
            particles=particles,
            advice="Lower particles.",
        )
    return Imputation(
        torch.cat([part.mean for part in parts]),
        torch.cat([part.draws for part in parts], 1),
        torch.cat([part.effective_sample_size for part in parts]),
    )


def _zero_missing_entries(batch: Mapping[str, Tensor]) -> Batch:
    """Return the batch with 0 at missing entries of x."""
    if "x" not in batch or "mask" not in batch:
        raise InputError(
            f"Imputation needs x and mask in the batch; it has {', '.join(batch) or 'nothing'}. Add the missing field."
        )
    x, mask = batch["x"], batch["mask"]
    if len(mask) != len(x) or mask.numel() != x.numel():
        raise InputError(
            f"A mask needs one entry for each of x: x has shape {tuple(x.shape)}, and the mask {tuple(mask.shape)}. "
            "Give the mask the shape of x."
        )
    return Batch(**{**batch, "x": torch.where(mask.reshape(x.shape) > 0, x, torch.zeros_like(x))})


def _impute_part(programs: Programs, batch: Batch, n: int, particles: int) -> Imputation:
    """Return the imputation of a part of the data, in one run."""
    bound = programs.bound_to(batch).without_loss_terms()
    layout = bound.layout
    plate, data_dim = layout.data_plate()
    pairs = trace_particles(bound, particles, data_plate=plate)
    weights = _normalised_weights(pairs, PlateDims(layout.nesting, data_dim, particles // len(pairs)))
    with preserved_randomness():
        data_sites = find_data_sites(sample_sites(bound.trace_model()), programs, bound)
    place = _SitePlace(layout.nesting, data_dim, batch.x.shape)
    completions = [_complete(pair.model, data_sites, place) for pair in pairs]
    means = torch.cat([mean for mean, _ in completions])
    samples = torch.cat([sample for _, sample in completions])
    chosen = torch.multinomial(weights.T, n, replacement=True).T
    mean = torch.einsum("kb,kb...->b...", weights.to(means), means)
    is_observed = batch["mask"].reshape(batch.x.shape) > 0
    resampled = samples[chosen, torch.arange(batch.size, device=chosen.device)]
    return Imputation(
        torch.where(is_observed, batch.x, mean),
        torch.where(is_observed, batch.x, resampled),
        1 / weights.square().sum(0),
    )


def _normalised_weights(pairs: list[TracePair], dims: PlateDims) -> Tensor:
    """Return the importance weights, normalised over particles, shape (particles, batch), float64.

    A latent site of the model only is drawn from its prior. Its density in the guide is then the same, and cancels.
    """
    if pairs[0].auxiliary_sites or delta_sites(pairs[0]):
        raise InputError(
            "Imputation weighs draws of z by p(x, z) / q(z given x), and a guide with auxiliary sites or points "
            "(Delta) has no such density. Draw every site of the guide from a density."
        )
    log_guide = log_probs_by_site([pair.guide_sites for pair in pairs], dims)
    log_joint = log_probs_by_site([pair.model_sites for pair in pairs], dims)
    latent_sites = {site["name"] for site in pairs[0].model_sites if not site["is_observed"]}
    prior_drawn = latent_sites - log_guide.keys()
    model_terms = [log_prob.double() for name, log_prob in log_joint.items() if name not in prior_drawn]
    guide_terms = [-log_prob.double() for log_prob in log_guide.values()]
    weights = sum_tensors([*model_terms, *guide_terms]).softmax(0)
    is_finite = torch.isfinite(weights)
    if not bool(is_finite.all()):
        datum = int((~is_finite.all(0)).nonzero()[0])
        raise InputError(f"No draw of z gives datum {datum} a weight above 0: check its values and the model.")
    return weights


@dataclass(frozen=True)
class _SitePlace:
    """The dimensions of particles and data in the values of sites, and the shape of x.

    Attributes:
        nesting: the largest number of nested plates of the programs; particles are at dimension ``-1 - nesting``.
        data_dim: dimension of the data plate.
        shape: the shape of x, (batch, *x).
    """

    nesting: int
    data_dim: int
    shape: tuple[int, ...]

    def flat(self, values: Tensor, event_dim: int) -> Tensor:
        """Return values of a site as (particles, batch, values of a datum)."""
        with_particles = values if values.dim() - event_dim > self.nesting else values.unsqueeze(0)
        by_datum = with_particles.movedim(self.data_dim - event_dim, 1)
        return by_datum.reshape(with_particles.shape[0], self.shape[0], -1)


def _complete(model: Trace, sites: DataSites, place: _SitePlace) -> tuple[Tensor, Tensor]:
    """Return means of x given z, and draws, of the particles of one run: shape (particles, batch, *x) each."""
    densities: dict[str, Any] = {name: model.nodes[name]["fn"] for name in sites.names}
    if not sites.positions:
        mean, sample = _complete_site(densities[sites.names[0]], place)
        return mean.reshape(len(mean), *place.shape), sample.reshape(len(sample), *place.shape)
    columns = {
        name: place.flat(positions, densities[name].event_dim)[0, 0] for name, positions in sites.positions.items()
    }
    order = torch.cat(list(columns.values())).argsort()
    if len(order) != math.prod(place.shape[1:]):
        raise InputError(
            "Imputation needs sites that observe the same part of x for each datum. Observe x at one site."
        )
    completed = [_complete_site(densities[name], place, len(columns[name])) for name in sites.names]
    mean, sample = (torch.cat(parts, -1)[..., order.to(parts[0].device)] for parts in zip(*completed, strict=True))
    return mean.reshape(len(mean), *place.shape), sample.reshape(len(sample), *place.shape)


def _complete_site(density: Any, place: _SitePlace, count: int = -1) -> tuple[Tensor, Tensor]:
    """Return means and draws of one site, shape (particles, batch, count) each."""
    sample = place.flat(density.sample(), density.event_dim).expand(-1, -1, count)
    try:
        mean = place.flat(density.mean, density.event_dim).expand(-1, -1, count)
    except NotImplementedError:
        return sample, sample
    return (mean if bool(torch.isfinite(mean).all()) else sample), sample
