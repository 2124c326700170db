"""What a model makes of given latent values: one unit at a time, between two data, over a plane, value by value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pvae.batch import Batch
from pvae.errors import InputError
from pvae.names import unknown
from pvae.programs.binding import Fields, bind
from pvae.programs.queries import _as_data, _asked, _mean, _observed, _scored, encode
from pvae.programs.sites import Site, base_distribution, sample_sites
from pvae.randomness import preserved_randomness
from pvae.weights.handlers import finite_support

__all__ = ["Rows", "interpolate", "plane", "render", "traverse", "value_by_value"]

_DRAWS = 4000  # for the quantiles of a prior that does not know its own


class _Held(Messenger):
    """Gives sites the values that are held for them; the others their most plausible one, or a draw.

    Args:
        values: by site.
        seen: the site of x, which is left alone.
        draw: whether the others are drawn.
    """

    def __init__(self, values: Mapping[str, Tensor], seen: str, *, draw: bool) -> None:
        super().__init__()
        self.values, self.seen, self.draw = values, seen, draw

    def _pyro_sample(self, msg: Any) -> None:
        if msg["done"] or msg["name"] == self.seen or type(msg["fn"]).__name__ == "_Subsample":
            return
        if msg["name"] in self.values:
            msg["value"], msg["done"] = self.values[msg["name"]], True
        elif not self.draw and not msg["infer"].get("_deterministic"):
            msg["value"], msg["done"] = _plausible(msg["fn"]), True


def _plausible(density: Any) -> Tensor:
    """The mean of a density; the most probable value of a discrete one, entry by entry."""
    base = base_distribution(density)
    if not getattr(base, "has_enumerate_support", False):
        return _mean({"fn": density, "value": density()})
    values = base.enumerate_support(expand=True)
    best = base.log_prob(values).argmax(0, keepdim=True)
    picked = best.reshape(best.shape + (1,) * len(base.event_shape)).expand(1, *values.shape[1:])
    return values.gather(0, picked)[0]


def _run(
    latent_model: Any, batch: Batch, values: Mapping[str, Tensor], fields: Fields, *, draw: bool = False
) -> tuple[dict[str, Site], Site]:
    """The latent sites of a run of the model at held values, and the site of x."""
    with _asked(latent_model, batch, fields) as programs:
        bound = programs.bound_to(batch)
        with preserved_randomness():
            seen = _observed(sample_sites(_scored(bound)), batch)["name"]
        held = _Held(values, seen, draw=draw)(poutine.uncondition(programs.model))
        trace = bound.with_programs(held, programs.guide).trace_model()
        sites = {site["name"]: site for site in sample_sites(trace)}
    return sites, sites.pop(seen)


def render(
    latent_model: Any, batch: Batch, values: Mapping[str, Tensor], fields: Fields = None, *, draw: bool = False
) -> Tensor:
    """Return the mean of x where latent sites take these values, in the shape of ``batch["x"]``.

    Args:
        latent_model: any object with ``model`` and ``guide``.
        batch: named tensors: their number, shape and conditions matter; the observed x does not.
        values: of some latent sites, each of shape (batch, ...).
        fields: as for `pvae.models.bind`.
        draw: draw the other sites; by default they are at their mean given those before them, and discrete ones at
            their most probable value.

    Raises:
        InputError: if the model observes nothing.
    """
    return _as_data(_mean(_run(latent_model, batch, values, fields, draw=draw)[1]), batch)


def _first(batch: Batch, count: int) -> Batch:
    """The first datum, so many times."""
    return batch.take(torch.zeros(count, dtype=torch.long, device=batch.device))


def _real(latent_model: Any, batch: Batch, fields: Fields, site: str | None) -> Site:
    """A latent site with real values for each datum: the one named, else the first."""
    sites, _ = _run(latent_model, batch, {}, fields)
    real = {
        name: each
        for name, each in sites.items()
        if each["value"].is_floating_point()
        and not getattr(base_distribution(each["fn"]), "has_enumerate_support", False)
        and each["value"].shape[:1] == (batch.size,)
    }
    if site is not None and site not in real:
        raise unknown("site of real values", site, real)
    if not real:
        raise InputError(f"The model has no latent site of real values for each datum; it has {', '.join(sites)}.")
    return real[site or next(iter(real))]


def traverse(
    latent_model: Any, batch: Batch, values: Tensor, fields: Fields = None, *, site: str | None = None
) -> Tensor:
    """Return the mean of x where one unit of z moves and all others are at their prior mean, (units, steps, *x).

    Args:
        latent_model: any object with ``model`` and ``guide``.
        batch: named tensors; the first datum gives shapes and conditions, its x does not matter.
        values: what the moving unit takes, shape (steps,).
        fields: as for `pvae.models.bind`.
        site: whose units move; by default the model's first real-valued site, the top of a hierarchy. Sites below it
            follow at their mean.

    Raises:
        InputError: for an unknown site, or a model without one of real values.
    """
    at_rest = _real(latent_model, batch.take(slice(0, 1)), fields, site)
    centre = at_rest["value"].reshape(-1)
    units, steps = len(centre), len(values)
    z = centre.repeat(units, steps, 1)
    z[range(units), :, range(units)] = values.to(z)
    moved = {at_rest["name"]: z.reshape(-1, *at_rest["value"].shape[1:])}
    return render(latent_model, _first(batch, units * steps), moved, fields).unflatten(0, (units, steps))


def interpolate(latent_model: Any, start: Batch, end: Batch, steps: int = 9, fields: Fields = None) -> Tensor:
    """Return the mean of x on straight lines between the codes of two data, shape (lines, steps, *x).

    Args:
        latent_model: any object with ``model`` and ``guide``.
        start: where the lines begin; their conditions hold along the line.
        end: where they end, as many data.
        steps: points of a line, with both ends.
        fields: as for `pvae.models.bind`.

    Raises:
        InputError: if the batches differ in size, or a line has fewer than two points.
    """
    if start.size != end.size or steps < 2:
        raise InputError(f"Lines need as many ends as starts, and two points; got {end.size}, {start.size}, {steps}.")
    along = torch.linspace(0, 1, steps, device=start.device)
    begun, ended = (encode(latent_model, each, fields) for each in (start, end))
    values = {}
    for name, here in begun.items():
        share = along.reshape(steps, *[1] * (here.dim() - 1)).to(here)
        there = ended[name].unsqueeze(1)
        line = torch.lerp(here.unsqueeze(1), there, share) if here.is_floating_point() else here.unsqueeze(1)
        values[name] = line.expand(-1, steps, *here.shape[1:]).flatten(0, 1)
    rows = torch.arange(start.size, device=start.device).repeat_interleave(steps)
    return render(latent_model, start.take(rows), values, fields).unflatten(0, (start.size, steps))


def plane(latent_model: Any, batch: Batch, size: int = 15, fields: Fields = None) -> tuple[Tensor, Tensor]:
    """Return the mean of x over the plane of a two-dimensional z, (size, size, *x), and z's values, (2, size).

    The values are quantiles of the prior of each dimension, so that equal shares of it lie between the pictures. Rows
    go along the second dimension, from its greatest value down, and columns along the first.

    Args:
        latent_model: any object with ``model`` and ``guide``.
        batch: named tensors; the first datum gives shapes and conditions, its x does not matter.
        size: pictures along a side.
        fields: as for `pvae.models.bind`.

    Raises:
        InputError: if no latent site of real values has two units.
    """
    site = _real(latent_model, batch.take(slice(0, 1)), fields, None)
    if site["value"][0].numel() != 2:
        raise InputError(
            f"A plane needs a latent site of two units; {site['name']} has {site['value'][0].numel()}. Train with "
            "latent=2, or show a traversal or an interpolation."
        )
    levels = (torch.arange(size, dtype=site["value"].dtype, device=site["value"].device) + 0.5) / size
    values = _quantiles(site["fn"], levels)
    first, second = torch.meshgrid(values[0], values[1].flip(0), indexing="xy")
    z = torch.stack([first, second], -1).reshape(-1, *site["value"].shape[1:])
    pictures = render(latent_model, _first(batch, size * size), {site["name"]: z}, fields)
    return pictures.unflatten(0, (size, size)), values


def _quantiles(density: Any, levels: Tensor) -> Tensor:
    """Quantiles of the first datum's density in each dimension, shape (dimensions, levels)."""
    try:
        found = base_distribution(density).icdf(levels.reshape(-1, *[1] * len(density.batch_shape), 1))
        return found.reshape(len(levels), -1, 2)[:, 0].T
    except NotImplementedError:
        draws = density.sample((_DRAWS,)).reshape(_DRAWS, -1, 2)[:, 0]
        return torch.quantile(draws, levels, dim=0).T


@dataclass(frozen=True)
class Rows:
    """Pictures for each value of a label or a component.

    Attributes:
        name: the site or the field.
        pictures: shape (values, columns, *x).
        shares: prior probability of each value, shape (values,); None for a condition, which has none.
    """

    name: str
    pictures: Tensor
    shares: Tensor | None


def value_by_value(latent_model: Any, batch: Batch, columns: int | None = None, fields: Fields = None) -> Rows:
    """Return means of x for each value of a discrete latent site, or of the label y that conditions the model.

    Args:
        latent_model: any object with ``model`` and ``guide``.
        batch: named tensors; the first datum gives shapes and other conditions, its x does not matter.
        columns: pictures for each value, with the other sites drawn, from the same noise for each value; one where
            there are none. None for one, with the others at their mean.
        fields: as for `pvae.models.bind`.

    Raises:
        InputError: if the model has neither a discrete site of few values nor a label.
    """
    sites, _ = _run(latent_model, batch.take(slice(0, 1)), {}, fields)
    found = next((each for each in sites.values() if _is_label(each)), None)
    if found is None and "y" not in bind(latent_model, batch, fields).fields:
        raise InputError(
            "There is nothing to show value by value: the model has no discrete latent site of its own for each "
            f"datum (it has {', '.join(sites) or 'none'}), and takes no label y."
        )
    if found is not None:
        values, name = finite_support(found["name"], found["fn"]), found["name"]
        shares = base_distribution(found["fn"]).log_prob(values.reshape(-1, *[1] * found["value"].dim()))
        shares = shares.reshape(len(values), -1)[:, 0].exp()
    else:
        values, name, shares = torch.arange(int(batch["y"].max()) + 1, device=batch.device), "y", None
    if columns is not None and not sites.keys() - {name}:
        columns = 1  # nothing is left to be drawn
    pictures = []
    for value in values:
        rows = _first(batch, columns or 1)
        given = value.expand(rows.size)
        rows = rows.replace(y=given.to(rows["y"])) if "y" in rows else rows
        with preserved_randomness():
            pictures.append(render(latent_model, rows, {name: given}, fields, draw=columns is not None))
    return Rows(name, torch.stack(pictures), shares)


def _is_label(site: Site) -> bool:
    """Whether a site has one discrete value for each datum, of few."""
    enumerable = getattr(base_distribution(site["fn"]), "has_enumerate_support", False)
    return enumerable and not site["fn"].event_shape and site["value"].dim() == 1
