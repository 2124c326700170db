"""Run a model with chosen values at some latent sites, and the other sites at their mean or drawn."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from pyro.poutine.messenger import Messenger
from torch import Tensor

from pvae.batch import Batch
from pvae.programs.binding import Fields
from pvae.programs.data_sites import find_data_sites
from pvae.programs.queries import inference_mode, mean_of_site, trace_model_at_any_z
from pvae.programs.simulation import simulated
from pvae.programs.sites import Site, base_distribution, is_subsample, sample_sites
from pvae.randomness import preserved_randomness

__all__ = ["has_finite_support", "most_probable_value", "run_at_values"]


class SiteValueMessenger(Messenger):
    """Sets sites to chosen values. The other sites have their most plausible value, or are drawn.

    Args:
        values: the chosen values, by site.
        data_sites: names of the sites of x, which are not changed.
        draw: whether the other sites are drawn.
    """

    def __init__(self, values: Mapping[str, Tensor], data_sites: Collection[str], *, draw: bool) -> None:
        super().__init__()
        self.values, self.data_sites, self.draw = values, data_sites, draw

    def _pyro_sample(self, msg: Any) -> None:
        name = msg["name"]
        if msg["done"] or name in self.data_sites or is_subsample(msg):
            return
        if name in self.values:
            msg["value"], msg["done"] = self.values[name], True
        elif not self.draw and not msg["infer"].get("_deterministic"):
            msg["value"], msg["done"] = _most_plausible(msg["fn"]), True


def has_finite_support(distribution: Any) -> bool:
    """Return whether the values of a distribution can be enumerated."""
    return bool(getattr(base_distribution(distribution), "has_enumerate_support", False))


def _most_plausible(distribution: Any) -> Tensor:
    """Return the mean of a distribution, or the most probable value of each entry of a discrete one.

    Shape: batch shape + event shape.
    """
    if not has_finite_support(distribution):
        return mean_of_site({"fn": distribution, "value": distribution()})
    return most_probable_value(distribution)


def most_probable_value(distribution: Any) -> Tensor:
    """Return the most probable value of each entry of a distribution with few values, shape batch shape + event shape.

    Args:
        distribution: a distribution with values that can be enumerated, with or without wrappers.
    """
    base = base_distribution(distribution)
    values = base.enumerate_support(expand=True)
    best = base.log_prob(values).argmax(0, keepdim=True)
    index = best.reshape(best.shape + (1,) * len(base.event_shape)).expand(1, *values.shape[1:])
    return values.gather(0, index)[0]


def run_at_values(
    latent_model: Any, batch: Batch, values: Mapping[str, Tensor], fields: Fields, *, draw: bool = False
) -> tuple[dict[str, Site], Tensor]:
    """Run the model with chosen values at latent sites.

    Args:
        latent_model: any object with ``model`` and ``guide``.
        batch: named tensors.
        values: the chosen values, by site, each of shape (batch, ...).
        fields: as for `pvae.models.bind`.
        draw: whether the other sites are drawn; otherwise they have their most plausible value.

    Returns:
        The latent sites by name, and the mean of x in the shape of ``batch["x"]``.
    """
    with inference_mode(latent_model, batch, fields) as programs:
        bound = programs.bound_to(batch)
        with preserved_randomness():
            data_sites = find_data_sites(sample_sites(trace_model_at_any_z(bound)), programs, bound)
        messenger = SiteValueMessenger(values, data_sites.names, draw=draw)
        model_at_values = messenger(simulated(programs.model))
        trace = bound.with_programs(model_at_values, programs.guide).trace_model()
    sites = {site["name"]: site for site in sample_sites(trace)}
    means = {name: mean_of_site(sites.pop(name)) for name in data_sites.names}
    return sites, data_sites.joined(means, batch)
