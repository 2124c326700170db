"""Arrays for figures of a model: the mean of x while one unit changes, between two data, over a plane, or by label."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pvae.batch import Batch
from pvae.errors import InputError
from pvae.models.posterior_values import discrete_sites, plausible_codes, summed_out_values
from pvae.models.site_values import has_finite_support, run_at_values
from pvae.names import unknown
from pvae.programs.binding import Fields, bind
from pvae.programs.sites import Site, base_distribution
from pvae.randomness import preserved_randomness
from pvae.weights.enumeration import finite_support

__all__ = ["ValueRows", "interpolate", "plane", "render", "traverse", "value_by_value"]

_QUANTILE_DRAWS = 4000  # draws to estimate the quantiles of a prior without a closed form


def render(
    latent_model: Any, batch: Batch, values: Mapping[str, Tensor], fields: Fields = None, *, draw: bool = False
) -> Tensor:
    """Return the mean of x given values of latent sites, in the shape of ``batch["x"]``.

    Args:
        latent_model: any object with ``model`` and ``guide``.
        batch: named tensors. Their number, shape and conditions are used; the values of x are not.
        values: the values of some latent sites, by name, each of shape (batch, ...).
        fields: as for `pvae.models.bind`.
        draw: whether to draw the other sites. Otherwise a continuous site has its mean given the sites before it, and a
            discrete site its most probable value.

    Raises:
        InputError: if the model observes nothing.
    """
    return run_at_values(latent_model, batch, values, fields, draw=draw)[1]


def traverse(
    latent_model: Any, batch: Batch, values: Tensor, fields: Fields = None, *, site: str | None = None
) -> Tensor:
    """Return the mean of x while one unit of z changes and all other units have their prior mean.

    Args:
        latent_model: any object with ``model`` and ``guide``.
        batch: named tensors. The first datum gives shapes and conditions; the values of its x are not used.
        values: the values of the changing unit, shape (steps,).
        fields: as for `pvae.models.bind`.
        site: name of the site with the changing units; by default the model's first real-valued site, the top of a
            hierarchy. The sites below have their mean given this site.

    Returns:
        Shape (units, steps, *x).

    Raises:
        InputError: for an unknown site, or a model without a real-valued site.
    """
    rest = _real_site(latent_model, batch.take(slice(0, 1)), fields, site)
    centre = rest["value"].reshape(-1)
    units, steps = len(centre), len(values)
    z = centre.repeat(units, steps, 1)
    z[range(units), :, range(units)] = values.to(z)
    moved = {rest["name"]: z.reshape(-1, *rest["value"].shape[1:])}
    return render(latent_model, _repeat_first(batch, units * steps), moved, fields).unflatten(0, (units, steps))


def interpolate(latent_model: Any, start: Batch, end: Batch, steps: int = 9, fields: Fields = None) -> Tensor:
    """Return the mean of x on straight lines between the codes of pairs of data.

    Args:
        latent_model: any object with ``model`` and ``guide``.
        start: the data at which the lines begin; their conditions are used for the whole line.
        end: the data at which the lines end, of the same number.
        steps: number of points of a line, both ends included.
        fields: as for `pvae.models.bind`.

    Returns:
        Shape (lines, steps, *x).

    Raises:
        InputError: if the batches differ in size, or a line has fewer than two points.
    """
    if start.size != end.size or steps < 2:
        raise InputError(
            f"Lines need as many ends as starts, and two points; got {end.size} ends, {start.size} starts and "
            f"{steps} points. Pass batches of one size, and steps=2 or more."
        )
    shares = torch.linspace(0, 1, steps, device=start.device)
    start_codes, end_codes = (plausible_codes(latent_model, batch, fields) for batch in (start, end))
    discrete = discrete_sites(latent_model, start, fields)
    ends = {name: start_codes[name] if name in discrete else code for name, code in end_codes.items()}
    values = {name: _points_between(code, ends[name], shares) for name, code in start_codes.items()}
    # sites of the model only, such as a component, keep the value of the start
    values |= {
        name: _points_between(value, value, shares)
        for name, value in summed_out_values(latent_model, start, fields).items()
    }
    rows = torch.arange(start.size, device=start.device).repeat_interleave(steps)
    return render(latent_model, start.take(rows), values, fields).unflatten(0, (start.size, steps))


def _points_between(start: Tensor, end: Tensor, shares: Tensor) -> Tensor:
    """Return points on the lines from start to end, (lines, ...) each, shape (lines * steps, ...).

    Discrete sites keep the value of the start.

    Args:
        start: codes of the first data.
        end: codes of the last data.
        shares: the part of the way to the end, from 0 to 1, (steps,).
    """
    points = start.unsqueeze(1)
    if start.is_floating_point():
        weights = shares.reshape(-1, *[1] * (start.dim() - 1)).to(start)
        points = torch.lerp(points, end.unsqueeze(1), weights)
    return points.expand(-1, len(shares), *start.shape[1:]).flatten(0, 1)


def plane(latent_model: Any, batch: Batch, size: int = 15, fields: Fields = None) -> tuple[Tensor, Tensor]:
    """Return the mean of x over the plane of a two-dimensional z, and the values of z.

    The values are quantiles of the prior of each dimension, with equal probability between neighbours. The second
    dimension decreases from row to row, starting at its largest value; the first dimension increases from column to
    column.

    Args:
        latent_model: any object with ``model`` and ``guide``.
        batch: named tensors. The first datum gives shapes and conditions; the values of its x are not used.
        size: number of pictures along a side.
        fields: as for `pvae.models.bind`.

    Returns:
        The means, shape (size, size, *x), and the values of z, shape (2, size).

    Raises:
        InputError: if no real-valued latent site has two units.
    """
    site = _real_site(latent_model, batch.take(slice(0, 1)), fields, None)
    units = site["value"][0].numel()
    if units != 2:
        raise InputError(
            f"A plane needs a latent site of two units; {site['name']} has {units}. Train with latent=2, or show a "
            "traversal or an interpolation."
        )
    levels = (torch.arange(size, dtype=site["value"].dtype, device=site["value"].device) + 0.5) / size
    values = _quantiles(site["fn"], levels)
    first, second = torch.meshgrid(values[0], values[1].flip(0), indexing="xy")
    z = torch.stack([first, second], -1).reshape(-1, *site["value"].shape[1:])
    pictures = render(latent_model, _repeat_first(batch, size * size), {site["name"]: z}, fields)
    return pictures.unflatten(0, (size, size)), values


def _quantiles(density: Any, levels: Tensor) -> Tensor:
    """Return the quantiles of both dimensions of the first datum's density, shape (2, levels).

    They are estimated from draws if the density has no inverse of its distribution function.
    """
    try:
        quantiles = base_distribution(density).icdf(levels.reshape(-1, *[1] * len(density.batch_shape), 1))
        return quantiles.reshape(len(levels), -1, 2)[:, 0].T
    except NotImplementedError:
        draws = density.sample((_QUANTILE_DRAWS,)).reshape(_QUANTILE_DRAWS, -1, 2)[:, 0]
        return torch.quantile(draws, levels, dim=0).T


@dataclass(frozen=True)
class ValueRows:
    """Pictures for each value of a label or a component.

    Attributes:
        name: the latent site, or the field of the batch.
        pictures: shape (values, columns, *x).
        shares: prior probability of each value, shape (values,); None for a condition, which has no prior.
    """

    name: str
    pictures: Tensor
    shares: Tensor | None


def value_by_value(latent_model: Any, batch: Batch, columns: int | None = None, fields: Fields = None) -> ValueRows:
    """Return means of x for each value of a discrete latent site, or of the label y that conditions the model.

    Args:
        latent_model: any object with ``model`` and ``guide``.
        batch: named tensors. The first datum gives shapes and other conditions; the values of its x are not used.
        columns: number of pictures for each value. The other sites are drawn with the same noise for each value; there
            is one picture if there are no other sites. None for one picture with the other sites at their mean.
        fields: as for `pvae.models.bind`.

    Raises:
        InputError: if the model has neither a discrete site of few values nor a label.
    """
    sites, _ = run_at_values(latent_model, batch.take(slice(0, 1)), {}, fields)
    label_site = next((site for site in sites.values() if _is_label(site)), None)
    shares: Tensor | None = None
    if label_site is not None:
        name = label_site["name"]
        values, shares = _values_and_shares(label_site)
    elif "y" in bind(latent_model, batch, fields).fields:
        name, values = "y", torch.arange(int(batch["y"].max()) + 1, device=batch.device)
    else:
        raise InputError(
            "There is nothing to show value by value: the model has no discrete latent site with one value per datum "
            f"(it has {', '.join(sites) or 'none'}), and takes no label y. Show samples or a traversal."
        )
    has_other_sites = bool(sites.keys() - {name})
    rows = _repeat_first(batch, columns if columns and has_other_sites else 1)
    draw = columns is not None
    pictures = [_render_value(latent_model, rows, name, value, fields, draw=draw) for value in values]
    return ValueRows(name, torch.stack(pictures), shares)


def _values_and_shares(site: Site) -> tuple[Tensor, Tensor]:
    """Return the values of a discrete site, and the prior probability of each for the first datum, (values,) each."""
    values = finite_support(site["name"], site["fn"])
    log_shares = base_distribution(site["fn"]).log_prob(values.reshape(-1, *[1] * site["value"].dim()))
    return values, log_shares.reshape(len(values), -1)[:, 0].exp()


def _render_value(latent_model: Any, rows: Batch, name: str, value: Tensor, fields: Fields, *, draw: bool) -> Tensor:
    """Return means of x with one value at a latent site and in the label y, shape (columns, *x)."""
    labels = value.expand(rows.size)
    if "y" in rows:
        rows = rows.replace(y=labels.to(rows["y"]))
    with preserved_randomness():
        return render(latent_model, rows, {name: labels}, fields, draw=draw)


def _repeat_first(batch: Batch, count: int) -> Batch:
    """Return a batch of `count` copies of the first datum."""
    return batch.take(torch.zeros(count, dtype=torch.long, device=batch.device))


def _real_site(latent_model: Any, batch: Batch, fields: Fields, name: str | None) -> Site:
    """Return the real-valued latent site of a name; without a name, the first."""
    sites, _ = run_at_values(latent_model, batch, {}, fields)
    real_sites = {site_name: site for site_name, site in sites.items() if _is_real(site, batch.size)}
    if name is not None and name not in real_sites:
        raise unknown("site of real values", name, real_sites)
    if not real_sites:
        raise InputError(
            f"The model has no latent site of real values for each datum; it has {', '.join(sites)}. Use "
            "value_by_value for a discrete site."
        )
    return real_sites[name or next(iter(real_sites))]


def _is_real(site: Site, size: int) -> bool:
    """Return whether a site has real values for each of `size` data."""
    is_continuous = site["value"].is_floating_point() and not has_finite_support(site["fn"])
    return is_continuous and site["value"].shape[:1] == (size,)


def _is_label(site: Site) -> bool:
    """Return whether a site has one discrete value for each datum."""
    return has_finite_support(site["fn"]) and not site["fn"].event_shape and site["value"].dim() == 1
