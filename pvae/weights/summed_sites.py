"""Summed-out sites: log weights and the ELBO with the sum over their values taken site by site."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from pvae.errors import InputError
from pvae.programs.sites import Site
from pvae.weights.contraction import Factor, FactorTree, align, draw_from_tree, named, sum_of_tree
from pvae.weights.enumeration import ENUMERATE, SUMMED, EnumerationDims
from pvae.weights.log_probs import MarginalisedLogProbs, PlateDims, SiteLogProbs, join_outcomes, sum_tensors
from pvae.weights.traces import TracePair, site_log_prob

__all__ = ["DATA", "PARTICLES", "SummedSites", "as_tree", "merge_trees"]

_FIRST_LETTER = 0x100
PARTICLES, DATA, _BRANCHES = [chr(_FIRST_LETTER + index) for index in range(3)]


@dataclass(frozen=True)
class SummedSites:
    """The log-densities of one run as factors with named dimensions, and their sums over summed-out sites.

    Attributes:
        pair: a run of both programs, with at least one summed-out site.
        dims: the dimensions of particles and data.
        keep: the number of dimensions of branches on the left, 0 or 1.
    """

    pair: TracePair
    dims: PlateDims
    keep: int = 0

    @property
    def enumerated(self) -> EnumerationDims:
        """The dimensions of enumerated sites."""
        return self.pair.dims

    @cached_property
    def plates(self) -> dict[str, str]:
        """For each plate inside the data plate, its letter."""
        names = [
            frame.name
            for site in self.pair.model_sites + self.pair.guide_sites
            for frame in self._inner_plates(site).values()
        ]
        return {name: chr(_FIRST_LETTER + 4 + 2 * index) for index, name in enumerate(dict.fromkeys(names))}

    @cached_property
    def sites(self) -> dict[str, str]:
        """For each letter of a summed-out dimension, its site."""
        return {_letter(index): site.name for index, site in enumerate(self.enumerated.sites) if site.kind == SUMMED}

    def _inner_plates(self, site: Site) -> dict[int, Any]:
        """Return the plates of a site except those of particles and data, by dimension."""
        outer = (-1 - self.dims.nesting, self.dims.data_dim)
        frames = [frame for frame in site["cond_indep_stack"] if frame.vectorized and frame.dim not in outer]
        return {frame.dim: frame for frame in frames}

    def factor(self, site: Site, *, in_model: bool, log_prob: Tensor) -> tuple[frozenset[str], Factor]:
        """Return the letters of the inner plates of a site, and its log-density with a letter for each dimension.

        Args:
            site: a site of either program.
            in_model: whether it is a site of the model.
            log_prob: its log-density, shape (*left, particles, *plates).

        Raises:
            InputError: if it varies along a dimension that is not one of the site's.
        """
        letters, plates = self.letters(site, in_model=in_model)
        shape = log_prob.shape
        wide = [dim for dim in range(-len(shape), 0) if shape[dim] > 1]
        foreign = [dim for dim in wide if dim not in letters]
        if foreign:
            self._refuse_dimension(site, foreign[0])
        factor = named(log_prob.reshape([shape[dim] for dim in wide]), "".join([letters[dim] for dim in wide]))
        return plates, factor

    def letters(self, site: Site, *, in_model: bool) -> tuple[dict[int, str], frozenset[str]]:
        """Return the letter of each batch dimension of a site, counted from the right, and the letters of inner plates.

        Args:
            site: a site of either program.
            in_model: whether it is a site of the model.
        """
        particle_dim = -1 - self.dims.nesting
        plates = {dim: self.plates[frame.name] for dim, frame in self._inner_plates(site).items()}
        letters = {particle_dim: PARTICLES, self.dims.data_dim: DATA, **plates}
        for place, index in self.enumerated.of_sites[in_model, site["name"]].items():
            letters[particle_dim - 1 - place] = _letter(index)
        if self.keep:
            letters[particle_dim - 1 - self.enumerated.width] = _BRANCHES
        return letters, frozenset(plates.values())

    def _refuse_dimension(self, site: Site, dim: int) -> None:
        place = -2 - self.dims.nesting - dim
        users = [enumerated.name for enumerated in self.enumerated.sites if enumerated.place == place]
        if not users:
            raise InputError(
                f"The log-density of site {site['name']!r} varies along dimension {dim}, which does not belong to a "
                "plate of the site or to an enumerated site. Declare the dimension with pyro.plate, or as part of the "
                "event "
                "with .to_event(1)."
            )
        raise InputError(
            f"Site {site['name']!r} depends on a site that has left the window of its chain, one of "
            f"{', '.join(map(repr, users[:3]))}. With pyro.markov(..., history=1), a step may depend only on the "
            "previous step. Give pyro.markov the history that the program uses, in both programs, or leave it out."
        )

    def table(self, factor: Factor) -> Tensor:
        """Return a factor without summed-out dimensions as a table of shape (*keep, *enumerated, particles, batch).

        The size is 1 in dimensions on the left along which it does not vary.
        """
        kept = [_letter(index) for index, site in enumerate(self.enumerated.sites) if site.kind == ENUMERATE]
        letters = [*[_BRANCHES] * self.keep, *reversed(kept), PARTICLES, DATA]
        table = align(factor, letters)
        return table.expand(*table.shape[:-2], self.dims.particles, -1)

    def from_table(self, table: Tensor) -> Factor:
        """Return the factor of a table of shape (*keep, *places, particles, batch), with a dimension for each place."""
        lasting = self.enumerated.lasting
        if len(lasting) < self.enumerated.width:
            raise InputError(
                "Auxiliary guide sites cannot be marginalised together with a chain of summed-out sites. Remove the "
                "mark for enumeration of the chain, or write it without pyro.markov."
            )
        places = [_letter(lasting[place]) for place in reversed(range(self.enumerated.width))]
        letters = [*[_BRANCHES] * self.keep, *places, PARTICLES, DATA]
        wide = [index for index, size in enumerate(table.shape) if size > 1]
        return named(table.reshape([table.shape[index] for index in wide]), "".join([letters[index] for index in wide]))

    def model_factors(self, summed: Collection[str]) -> FactorTree:
        """Return log p of each site of the model; log p of a summed-out site is not masked.

        Its values then have the total probability 1 at masked entries, as in `pyro.infer.TraceEnum_ELBO`.

        Args:
            summed: the sites that will be summed out.
        """
        return as_tree(self._factors(self.pair.model_sites, summed, in_model=True).values())

    def guide_factors(self, summed: Collection[str]) -> dict[str, tuple[frozenset[str], Factor]]:
        """Return log q of each site of the guide with its inner plates, by site; not masked for the sites `summed`."""
        return self._factors(self.pair.guide_sites, summed, in_model=False)

    def _factors(
        self, sites: Iterable[Site], summed: Collection[str], *, in_model: bool
    ) -> dict[str, tuple[frozenset[str], Factor]]:
        factors = {}
        for site in sites:
            unmasked = {**site, "mask": None} if site["name"] in summed else site
            factors[site["name"]] = self.factor(site, in_model=in_model, log_prob=site_log_prob(unmasked))
        return factors

    def over_values(self, plates: frozenset[str], factor: Factor, *, mean: bool) -> Tensor:
        """Return a factor summed over inner plates, and summed or averaged over the values of summed-out sites.

        Args:
            plates: the letters of its inner plates.
            factor: the factor.
            mean: whether the values are averaged.

        Returns:
            Shape (*keep, *enumerated, particles, batch).
        """
        names = factor._pyro_dims
        values = [index for index, letter in enumerate(names) if letter in self.sites]
        inner = [index for index, letter in enumerate(names) if letter in plates]
        reduced = factor.sum(inner, keepdim=True) if inner else factor
        if values:
            reduced = reduced.mean(values, keepdim=True) if mean else reduced.sum(values, keepdim=True)
        kept = [index for index in range(len(names)) if index not in values + inner]
        return self.table(
            named(reduced.reshape([factor.shape[index] for index in kept]), "".join(names[index] for index in kept))
        )

    def _guide_terms(
        self, log_guide: Tensor | None
    ) -> tuple[dict[str, tuple[frozenset[str], Factor]], list[tuple[frozenset[str], Factor]]]:
        """Return log q of the sites that are not summed out, by site, and the terms of log q in the weights."""
        guide = self.guide_factors(self.sites.values())
        kept = {name: guide[name] for name in guide if name not in self.sites.values()}
        if log_guide is None:
            return kept, list(kept.values())
        # q of a summed-out site cancels, so any finite number may replace its log of 0.
        inside = [guide[name] for name in guide if name not in kept]
        finite = [
            (plates, named(-factor.masked_fill(factor == -math.inf, 0.0), factor._pyro_dims))
            for plates, factor in inside
        ]
        return kept, [(frozenset(), self.from_table(log_guide)), *finite]

    def _weight_tree(self, guide_terms: Iterable[tuple[frozenset[str], Factor]]) -> FactorTree:
        """Return log p - log q at each joint value of the summed-out sites, as factors."""
        negative = as_tree([(plates, named(-factor, factor._pyro_dims)) for plates, factor in guide_terms])
        return merge_trees(self.model_factors(self.sites.values()), negative)

    def draw_values(self, log_guide: Tensor | None) -> dict[str, Factor]:
        """Return one joint draw of the summed-out sites, with probabilities proportional to their part of each weight.

        Without a site of the guide that depends on them it is their exact posterior given all other sites.

        Args:
            log_guide: as for `marginalise`.

        Returns:
            The indices of the values, by the letter of the site's dimension.
        """
        return draw_from_tree(self._weight_tree(self._guide_terms(log_guide)[1]), self.sites)

    def marginalise(self, log_guide: Tensor | None, reverse_scores: Mapping[str, Tensor]) -> MarginalisedLogProbs:
        """Return the log-densities with w = sum over the values of summed-out sites of q(value) w(value).

        log q is the mean over the values of summed-out sites, and log p is log w + log q.

        Args:
            log_guide: log q(z given x) with auxiliary sites marginalised, shape (*keep, *places, particles, batch);
                None without auxiliary sites.
            reverse_scores: the score of a reverse kernel, of the same shape, by its name; empty without one.

        Raises:
            InputError: if an enumerated site depends on a summed-out site of the guide.
        """
        kept, rest = self._guide_terms(log_guide)
        log_w = self.table(sum_of_tree(self._weight_tree(rest), self.sites))
        means = [self.over_values(plates, factor, mean=True) for plates, factor in rest]
        log_q = sum_tensors(means) if means else log_w.new_zeros(()).expand_as(log_w)
        tables = {name: self.over_values(plates, factor, mean=False) for name, (plates, factor) in kept.items()}
        scores = {
            name: self.over_values(frozenset(), self.from_table(table), mean=False)
            for name, table in reverse_scores.items()
        }
        beneath = [name for name, (_, factor) in kept.items() if not set(self.sites).isdisjoint(factor._pyro_dims)]
        return join_outcomes(
            log_w + log_q, log_q, SiteLogProbs({}, {**tables, **scores}), self.enumerated, self.keep, beneath
        )


def merge_trees(*trees: FactorTree) -> FactorTree:
    """Return one tree with the factors of all trees."""
    merged: FactorTree = OrderedDict()
    for tree in trees:
        for plates, factors in tree.items():
            merged.setdefault(plates, []).extend(factors)
    return merged


def _letter(index: int) -> str:
    """Return the letter of the dimension of an enumerated site."""
    return chr(_FIRST_LETTER + 5 + 2 * index)


def as_tree(factors: Iterable[tuple[frozenset[str], Factor]]) -> FactorTree:
    """Return factors by the letters of their inner plates."""
    tree: FactorTree = OrderedDict()
    for plates, factor in factors:
        tree.setdefault(plates, []).append(factor)
    return tree
