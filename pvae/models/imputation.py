"""Missing entries filled in by any latent model that takes a mask: their mean, and draws, by importance sampling."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pvae.batch import Batch
from pvae.checks import require_whole
from pvae.errors import InputError
from pvae.programs.binding import Fields, Programs
from pvae.programs.layout import Layout
from pvae.programs.queries import _asked, _observed
from pvae.weights.log_probs import PlateDims, log_probs_by_site, sum_tensors
from pvae.weights.site_validation import delta_sites
from pvae.weights.traces import TracePair
from pvae.weights.vectorise import trace_particles

__all__ = ["Imputation", "impute"]

_AT_ONCE = 10_000  # evaluations of the model: particles times data


@dataclass(frozen=True)
class Imputation:
    """Data with their missing entries filled in; observed entries are as they were.

    Attributes:
        mean: the mean of p(missing given observed) at the missing entries, shape (batch, *x): single imputation.
        draws: from p(missing given observed), shape (n, batch, *x): multiple imputation. A statistic of the data,
            taken of each of the n completed sets, has their mean as its estimate; its variance is the mean of
            its n variances plus (1 + 1/n) times the variance between the n.
        effective_sample_size: (sum of w)^2 / sum of w^2 of the importance weights, from 1 to the number of particles,
            shape (batch,). Draws repeat each other where it is not far above n.
    """

    mean: Tensor
    draws: Tensor
    effective_sample_size: Tensor


def impute(
    latent_model: Any, batch: Mapping[str, Tensor], n: int = 10, particles: int = 1000, fields: Fields = None
) -> Imputation:
    """Return the entries of x where ``mask`` is 0, filled in by their mean and by draws given the observed ones.

    z is drawn from the guide given the observed entries, x from the model given z, and both are weighted by
    w = p(observed, z) / q(z given observed). The mean is that of x given z, weighted; draws are resampled with
    probabilities in proportion to w. Both are exact in the limit of many particles; with one they follow the guide.

    Args:
        latent_model: any object with ``model`` and ``guide`` that take a mask, and score observed entries alone.
        batch: named tensors with ``x`` and ``mask`` (1 observed, 0 missing, in the shape of x). Values of x at
            missing entries are put to 0 before any program sees them; NaN will do.
        n: draws for each datum.
        particles: draws of z that are weighted, for each datum.
        fields: as for `pvae.models.bind`.

    Raises:
        InputError: if there is no mask, the programs take none, or it has another shape than x; if the programs give
            no weight per datum; if a datum has no weight above 0.
    Source: Mattei & Frellsen, MIWAE, arXiv:1812.02633, section 3.3; for the use of n completed data sets, Rubin,
    Multiple Imputation for Nonresponse in Surveys, 1987.
    """
    n, particles = require_whole(n, "n"), require_whole(particles, "particles")
    kept = _hidden(batch)
    with _asked(latent_model, kept, fields) as programs:
        if "mask" not in programs.fields:
            raise InputError("The programs take no mask, so they cannot leave missing entries out: write (x, mask).")
        parts = [_imputed(programs, each, n, particles) for each in _slices(kept, max(1, _AT_ONCE // particles))]
    return Imputation(
        torch.cat([each.mean for each in parts]),
        torch.cat([each.draws for each in parts], 1),
        torch.cat([each.effective_sample_size for each in parts]),
    )


def _hidden(batch: Mapping[str, Tensor]) -> Batch:
    """The batch with 0 where x is missing."""
    if "x" not in batch or "mask" not in batch:
        raise InputError(f"Imputation needs x and mask in the batch; it has {', '.join(batch) or 'nothing'}.")
    x, mask = batch["x"], batch["mask"]
    if len(mask) != len(x) or mask.numel() != x.numel():
        raise InputError(
            f"A mask needs one entry for each of x: x has shape {tuple(x.shape)}, and the mask {tuple(mask.shape)}."
        )
    return Batch(**{**batch, "x": torch.where(mask.reshape(x.shape) > 0, x, torch.zeros_like(x))})


def _slices(batch: Batch, size: int) -> Iterator[Batch]:
    for start in range(0, batch.size, size):
        yield batch.take(slice(start, start + size))


def _imputed(programs: Programs, batch: Batch, n: int, particles: int) -> Imputation:
    bound = programs.bound_to(batch)
    layout = bound.layout
    plate, data_dim = layout.data_plate()
    draws = trace_particles(bound, particles, data_plate=plate)
    weights = _weights(draws, PlateDims(layout.nesting, data_dim, particles // len(draws)))
    name = _observed(draws[0].model_sites, batch)["name"]
    found = [_given_z(draw, name, layout, data_dim, batch.x) for draw in draws]
    means, drawn = (torch.cat(each) for each in zip(*found, strict=True))
    chosen = torch.multinomial(weights.T, n, replacement=True).T
    mean = torch.einsum("kb,kb...->b...", weights.to(means), means)
    seen = batch["mask"].reshape(batch.x.shape) > 0
    return Imputation(
        torch.where(seen, batch.x, mean),
        torch.where(seen, batch.x, drawn[chosen, torch.arange(batch.size, device=chosen.device)]),
        1 / weights.square().sum(0),
    )


def _weights(draws: list[TracePair], shape: PlateDims) -> Tensor:
    """Normalised importance weights, (particles, batch), float64.

    A latent site that only the model has is drawn from its prior, which so is its guide: its density cancels.
    """
    if draws[0].auxiliary_sites or delta_sites(draws[0]):
        raise InputError(
            "Imputation weighs draws of z by p(x, z) / q(z given x), which a guide with auxiliary sites or points "
            "(Delta) does not have. Draw every site of the guide from a density."
        )
    guide = log_probs_by_site([draw.guide_sites for draw in draws], shape)
    joint = log_probs_by_site([draw.model_sites for draw in draws], shape)
    free = {each["name"] for each in draws[0].model_sites if not each["is_observed"]} - guide.keys()
    terms = [each.double() for name, each in joint.items() if name not in free]
    log_w = sum_tensors([*terms, *(-each.double() for each in guide.values())])
    weights = log_w.softmax(0)
    if not bool(torch.isfinite(weights).all()):
        datum = int((~torch.isfinite(weights).all(0)).nonzero()[0])
        raise InputError(f"No draw of z gives datum {datum} a weight above 0: check its values and the model.")
    return weights


def _given_z(draw: TracePair, name: str, layout: Layout, data_dim: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """Means of x given z, and draws, of the particles of one run: (particles, batch, *x) each."""
    density: Any = draw.model.nodes[name]["fn"]

    def rows(values: Tensor) -> Tensor:
        batch_dims = values.dim() - density.event_dim
        wide = values if batch_dims > layout.nesting else values.unsqueeze(0)
        return wide.movedim(data_dim - density.event_dim, 1).reshape(wide.shape[0], *x.shape)

    drawn = rows(density.sample())
    try:
        mean = rows(density.mean)
    except NotImplementedError:
        return drawn, drawn
    return (mean if bool(torch.isfinite(mean).all()) else drawn), drawn
