"""Enumerated sites: their values, and the tensor dimensions of these values."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pvae.errors import InputError
from pvae.programs.sites import Site, base_distribution

__all__ = ["AUXILIARY", "ENUMERATE", "SUMMED", "EnumeratedSite", "EnumerationDims", "finite_support", "support_size"]

ENUMERATE, SUMMED, AUXILIARY = "enumerate", "sum", "auxiliary"
_MOST_VALUES = 4096
#: PyTorch's limit is 64 dimensions; the rest is for the events of the sites.
_MOST_DIMS = 56
#: The number of local dimensions that are not used again immediately, so that a value outside its window is found.
_UNUSED_FOR = 8


def finite_support(name: str, distribution: Any) -> Tensor:
    """Return every value of a distribution, shape (values, *event).

    Args:
        name: the site, for the error.
        distribution: a distribution of Pyro.

    Raises:
        InputError: if the support is continuous, infinite, or too large.
    """
    cell_values, cells = _support_of_a_cell(name, distribution)
    choices = list(itertools.product(range(len(cell_values)), repeat=cells))
    indices = torch.tensor(choices, device=cell_values.device)
    return cell_values[indices].reshape(-1, *distribution.event_shape)


def support_size(name: str, distribution: Any) -> int:
    """Return the number of values of a distribution, without listing them.

    Args:
        name: the site, for the error.
        distribution: a distribution of Pyro.

    Raises:
        InputError: if the support is continuous, infinite, or too large.
    """
    cell_values, cells = _support_of_a_cell(name, distribution)
    return int(len(cell_values) ** cells)


def _support_of_a_cell(name: str, distribution: Any) -> tuple[Tensor, int]:
    """Return the values of one cell of an event, shape (values, *base event), and the number of cells."""
    event = tuple(distribution.event_shape)
    base = base_distribution(distribution)
    if not getattr(base, "has_enumerate_support", False):
        raise InputError(
            f"Enumeration needs a finite support, as for Bernoulli or Categorical; site {name!r} cannot be "
            f"enumerated, because {type(base).__name__} has none. Use 'pathwise' or 'score' for it."
        )
    try:
        single = base.enumerate_support(expand=False)
    except NotImplementedError as error:  # a Binomial with different counts
        raise InputError(
            f"Site {name!r} cannot be enumerated: {error} Use 'score' or 'score:leave-one-out'."
        ) from error
    single = single.reshape(len(single), *base.event_shape)
    cells = torch.Size(event[: len(event) - len(base.event_shape)]).numel()
    if len(single) ** cells > _MOST_VALUES:
        raise InputError(
            f"Enumeration is limited to {_MOST_VALUES} values; site {name!r} has {len(single)}^{cells} joint values. "
            "Use 'measure', 'disarm' or 'score:leave-one-out', or split it into several sites."
        )
    return single, cells


@dataclass(frozen=True)
class EnumeratedSite:
    """A site with its values on a separate dimension.

    Attributes:
        name: the site.
        size: the number of its values.
        kind: ``"enumerate"`` (for its gradient), ``"sum"`` (summed out) or ``"auxiliary"``.
        place: the place of the dimension to the left of the particles' dimension, 0 for the nearest.
        in_model: whether only the model has the site.
    """

    name: str
    size: int
    kind: str
    place: int
    in_model: bool = False


@dataclass
class EnumerationDims:
    """The dimensions of enumerated sites, to the left of the particles' dimension.

    A site has a separate dimension for the rest of both programs. Only the dimension of a summed-out site inside
    `pyro.markov` is used again when the site leaves the window of the chain, so that a chain of any length needs few
    dimensions. The index of a site in `sites` distinguishes the sites that use one dimension in turn.

    Attributes:
        nesting: the largest number of nested plates of the programs; particles are at dimension ``-1 - nesting``.
        plates: the plates allowed for a site that is enumerated for its gradient: the plates of particles and data.
        sites: the enumerated sites, in order of appearance.
        lasting: for each place that is never used again, the index of its site.
        of_sites: for each site of the guide and of the model (``(in_model, name)``), the index of the enumerated site
            on each place along which its log-density may vary.
    """

    nesting: int
    plates: Collection[str]
    sites: list[EnumeratedSite] = field(default_factory=list)
    lasting: dict[int, int] = field(default_factory=dict)
    of_sites: dict[tuple[bool, str], Mapping[int, int]] = field(default_factory=dict)

    @property
    def width(self) -> int:
        """The number of dimensions to the left of the particles' dimension."""
        return max([site.place for site in self.sites]) + 1 if self.sites else 0

    def sizes(self, kind: str) -> list[int]:
        """Return the numbers of values of the sites of one kind, from left to right."""
        return [site.size for site in reversed(self.sites) if site.kind == kind]

    def positions(self, kind: str) -> list[int]:
        """Return the dimensions of the sites of one kind, counted from the leftmost of all enumerated dimensions."""
        return sorted({self.width - 1 - site.place for site in self.sites if site.kind == kind})

    def names(self, kind: str) -> list[str]:
        """Return the names of the sites of one kind."""
        return [site.name for site in self.sites if site.kind == kind]

    def reserve(self, count: int) -> EnumerationDims:
        """Return dimensions with `count` more places in use on the left, of size 1."""
        sites = [*self.sites, *[EnumeratedSite("", 1, "branch", self.width + index) for index in range(count)]]
        return EnumerationDims(self.nesting, self.plates, sites, dict(self.lasting), dict(self.of_sites))

    def add(self, site: Site, kind: str, *, window: Collection[int] | None = None, in_model: bool = False) -> Tensor:
        """Give a site a dimension, and return all its values along it.

        Args:
            site: the message of a latent site.
            kind: ``"enumerate"``, ``"sum"`` or ``"auxiliary"``.
            window: inside `pyro.markov`, the places of the sites in the window of the chain; else None.
            in_model: whether only the model has the site.

        Returns:
            The values, shape (values, 1, ..., 1, *event).

        Raises:
            InputError: if the support is not finite, there are too many dimensions, or the site is in a plate inside
                the data plate and is not summed out.
        """
        if kind != SUMMED:
            self._require_data_plate_alone(site)
        values = finite_support(site["name"], site["fn"])
        place = self._lasting_place() if window is None or kind != SUMMED else self._free_place(window)
        if 1 + self.nesting + place > _MOST_DIMS:
            raise InputError(
                f"Enumeration gives each site a dimension, and PyTorch has {_MOST_DIMS} of them; site {site['name']!r} "
                f"is enumerated site {len(self.sites) + 1}. Write a chain as `for t in pyro.markov(range(length))`, "
                "which uses dimensions again, or put independent sites into a plate."
            )
        if window is None or kind != SUMMED:
            self.lasting[place] = len(self.sites)
        self.sites.append(EnumeratedSite(site["name"], len(values), kind, place, in_model))
        event = tuple(values.shape[1:])
        ones = (1,) * (1 + self.nesting + place)
        values = values.reshape(len(values), *ones, *event)
        if site["infer"].get("expand"):
            batch = tuple(site["fn"].batch_shape)
            values = values.expand(len(values), *ones[len(batch) :], *batch, *event)
        return values

    def _lasting_place(self) -> int:
        """Return the first place that was never used."""
        return self.width

    def _free_place(self, window: Collection[int]) -> int:
        """Return a place that is not in the window and was not used by the sites just before."""
        taken = {*self.lasting, *window, *(site.place for site in self.sites[-_UNUSED_FOR:])}
        return next(place for place in itertools.count() if place not in taken)

    def _require_data_plate_alone(self, site: Site) -> None:
        inner = [frame.name for frame in site["cond_indep_stack"] if frame.vectorized and frame.name not in self.plates]
        if inner:
            raise InputError(
                f"Enumeration needs a site in the data plate only; site {site['name']!r} is in the plate {inner[0]!r} "
                "too, so it has too many joint values. Use the objective 'elbo-enum', or 'measure' or "
                "'disarm' for its gradient."
            )
