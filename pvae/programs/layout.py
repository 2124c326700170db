"""The layout of a pair of programs: the plates of each site, the data plate, and the latent sites."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import Unit

from pvae.errors import InputError
from pvae.programs.bijections import NO_BIJECTION, Bijection
from pvae.programs.sites import Site, base_distribution, is_delta, sample_sites

__all__ = [
    "GUIDE",
    "Layout",
    "has_same_densities",
    "layout_of_traces",
    "population_of",
]

#: the suffix of the guide's sites in `Layout.frames`
GUIDE = " (guide)"


@dataclass(frozen=True)
class Layout:
    """The plates and latent sites of one run of both programs; assumed for every batch of the same kind.

    Attributes:
        nesting: the largest number of nested vectorised plates; particles go to dimension ``-1 - nesting``.
        frames: for each sample site, its plates by name; a site of the guide has the suffix `GUIDE`.
        latent_dims: for each latent site of the guide, the number of dimensions of its value in a single run.
        vectorised: whether all particles may share one run; None until this is checked.
        repeatable: whether a second run of the guide at the same z gives the same density. With dropout it does not.
        bijection: the auxiliary draws of the guide that Delta sites map one to one.
        loss_terms: the observed sites of the guide that are not part of q, such as a `pyro.factor` for a classifier.
        unclear_terms: the observed sites of a guide with Delta sites; `pyro.factor(..., has_rsample=False)` may then be
            a loss or a density.
        undrawn: the latent sites of the model that the guide does not draw, such as enumerated ones.
    """

    nesting: int
    frames: Mapping[str, Mapping[str, Any]]
    latent_dims: Mapping[str, int]
    vectorised: bool | None = None
    repeatable: bool = True
    bijection: Bijection = NO_BIJECTION
    loss_terms: tuple[str, ...] = ()
    unclear_terms: tuple[str, ...] = ()
    undrawn: tuple[str, ...] = ()

    @cached_property
    def observed_sites(self) -> tuple[str, ...]:
        """The observed sites of the model."""
        latent = {*self.latent_dims, *self.undrawn}
        return tuple(name for name in self.frames if not name.endswith(GUIDE) and name not in latent)

    @cached_property
    def common_plates(self) -> list[str]:
        """The names of the plates that hold every sample site of both programs."""
        return _common_plates(self.frames.values())

    def data_plate(self, wanted: str | None = None) -> tuple[str, int]:
        """Return the name and the dimension of the plate over data, which holds all sample sites.

        Args:
            wanted: the name of the plate, if several plates hold all sites.

        Raises:
            InputError: if no plate holds all sites (the error names a site outside), if several do and `wanted` is
                None, or if the plate is sequential.
        """
        if wanted is not None:
            outside = next((site for site, plates in self.frames.items() if wanted not in plates), None)
            if outside is not None:
                raise InputError(
                    f"Weights per datum need every site in the data plate {wanted!r}; site {outside!r} is outside. "
                    "Move it inside, or name another plate with data_plate=."
                )
        elif not self.common_plates:
            raise InputError(_no_plate(self.frames, self.observed_plate()))
        elif len(self.common_plates) > 1:
            raise InputError(
                f"Weights per datum need to know the plate over data; the plates {', '.join(self.common_plates)} all "
                f"hold every site. Name one, such as data_plate='{self.common_plates[0]}'."
            )
        name = wanted or self.common_plates[0]
        dim = next(iter(self.frames.values()))[name].dim
        if dim is None:
            raise InputError(
                f"Weights per datum need a vectorised data plate; plate {name!r} is sequential (a for loop). Write "
                "`with pyro.plate(...)`."
            )
        return name, dim

    def observed_plate(self, size: int | None = None) -> tuple[str, int] | None:
        """Return the name and the dimension of the plate of the observed data; None if there is none.

        If several plates hold every observed site (one may be over pixels), this is the plate with the most sites. If
        no plate does, it is a plate with the most observed sites, and of the length of the batch if there is one.

        Args:
            size: the length of the batch, if it is known.
        """
        observed = [self.frames[name] for name in self.observed_sites]
        frames = {name: frame for plates in observed for name, frame in plates.items() if frame.dim is not None}
        names = [name for name in _common_plates(observed) if name in frames] or list(frames)

        def preference(name: str) -> tuple[int, bool, int]:
            in_plate = sum(name in plates for plates in observed)
            return in_plate, frames[name].size == size, sum(name in plates for plates in self.frames.values())

        best = max(names, key=preference, default=None)
        return None if best is None else (best, int(frames[best].dim))

    def describe_missing_weights(self, size: int) -> str:
        """Return the reason why the programs have no weight for each datum, and a remedy.

        Args:
            size: the length of the batch.
        """
        return _no_plate(self.frames, self.observed_plate(size))

    def shared(self, size: int | None = None) -> tuple[str, ...]:
        """Return the latent sites of both programs outside the plate of the observed data; all data share them.

        An auxiliary draw outside that Delta sites map one to one counts too: log q has one term of it for all data.

        Args:
            size: the length of the batch, if it is known.
        """
        plate = self.observed_plate(size)
        if plate is None:
            return ()
        in_both = [name for name in self.latent_dims if name in self.frames and name + GUIDE in self.frames]
        outside = [name for name in in_both if plate[0] not in self.frames[name]]
        return (*outside, *[name for name in self.bijection.auxiliary if plate[0] not in self.frames[name + GUIDE]])


def _common_plates(frames: Iterable[Mapping[str, Any]]) -> list[str]:
    first, *rest = list(frames) or [{}]
    return [name for name in first if all(name in plates for plates in rest)]


def _no_plate(frames: Mapping[str, Mapping[str, Any]], observed: tuple[str, int] | None) -> str:
    """Return the message for programs without a plate that holds all sites.

    `observed` holds the names of the observed sites.
    """
    counts = Counter(name for plates in frames.values() for name in plates)
    if not counts:
        sites = ", ".join(repr(site) for site in frames)
        return (
            f"Weights per datum need a plate over data; the sites {sites} are not in a plate. Write `with "
            "pyro.plate('data', len(x))` in the model and in the guide. Only a training by 'elbo' needs no plate."
        )
    plate = observed[0] if observed is not None else counts.most_common(1)[0][0]
    outside = next(site for site, plates in frames.items() if plate not in plates)
    own = next(iter(frames[outside]), None)
    is_of_guide = outside.endswith(GUIDE)
    if own is not None and all(own not in frames[site] for site in frames if site.endswith(GUIDE) != is_of_guide):
        return (
            f"Weights per datum need one plate over data, with the same name in both programs; site {outside!r} is in "
            "plate "
            f"{own!r}, which only one program has, and not in {plate!r}. Give both plates the same name."
        )
    return (
        f"Weights per datum need every sample site of the model and the guide in one common plate; site {outside!r} is "
        f"outside the data plate {plate!r}. Move it inside. If all data share it, train and evaluate by 'elbo', "
        "or train by 'beta' or another objective that is linear in the log weights, and evaluate by "
        "pvae.evaluate.log_evidence."
    )


def population_of(model: poutine.Trace, size: int) -> int | None:
    """Return N if the observed data are a subsample of N data, else None.

    Scales that a user sets with `pyro.poutine.scale` are not subsampling scales and do not count.

    Args:
        model: a trace of the model.
        size: the length of the batch, B.
    """
    observed = [site for site in sample_sites(model) if site["is_observed"]]
    frames = [{frame.name: frame for frame in site["cond_indep_stack"]} for site in observed]
    common = [frames[0][name] for name in _common_plates(frames)] if frames else []
    data_plate = next((frame for frame in common if frame.size == size), common[0] if common else None)
    full_size = getattr(data_plate, "full_size", None)
    if full_size is None or data_plate is None or full_size == data_plate.size:
        return None
    return int(full_size)


def layout_of_traces(model: poutine.Trace, guide: poutine.Trace, repeatable: bool, bijection: Bijection) -> Layout:
    """Return the layout of the traces of both programs.

    Args:
        model: a trace of the model at the guide's draws.
        guide: a trace of the guide.
        repeatable: whether a second run of the guide at the same draws has the same densities.
        bijection: the auxiliary draws of the guide that Delta sites map one to one.
    """
    frames: dict[str, Mapping[str, Any]] = {}
    for suffix, trace in (("", model), (GUIDE, guide)):
        for site in sample_sites(trace):
            frames[site["name"] + suffix] = {frame.name: frame for frame in site["cond_indep_stack"]}
    dims = [frame.dim for plates in frames.values() for frame in plates.values() if frame.dim is not None]
    latent_dims = {site["name"]: site["value"].dim() for site in sample_sites(guide) if not site["is_observed"]}
    in_model = [site["name"] for site in sample_sites(model) if not site["is_observed"]]
    loss_terms, unclear_terms = _observed_in_guide(sample_sites(guide))
    return Layout(
        max((-dim for dim in dims), default=0),
        frames,
        latent_dims,
        None,
        repeatable,
        bijection or Bijection(),
        loss_terms,
        unclear_terms,
        tuple(name for name in in_model if name not in latent_dims),
    )


def _observed_in_guide(sites: Iterable[Site]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of a guide's observed auxiliary sites that are not densities of q, and of sites that may be.

    If every latent site is drawn from a density, the product of these densities is q, and q has no other factor. Only
    the density of a Delta can be a factor: `pyro.factor(..., has_rsample=True)` is then a log-determinant, as in
    `pyro.infer.autoguide.AutoGaussian`.
    """
    has_points = any(is_delta(site) and not site["is_observed"] for site in sites)
    terms, unclear = [], []
    for site in sites:
        if site["is_observed"] and site["infer"].get("is_auxiliary"):
            is_factor = isinstance(base_distribution(site["fn"]), Unit)
            if not has_points or not is_factor:
                terms.append(site["name"])
            elif not site["fn"].has_rsample:
                unclear.append(site["name"])
    return tuple(terms), tuple(unclear)


def has_same_densities(first: poutine.Trace, second: poutine.Trace) -> bool:
    """Return whether two runs of one program at the same values have the same log-densities.

    Dropout makes them differ. A site that cannot be scored again counts as equal.

    Args:
        first: a trace of the program.
        second: a trace of the program at the values of the first.
    """
    for site in sample_sites(first):
        try:
            again: Site = second.nodes[site["name"]]
            one, other = (node["fn"].log_prob(node["value"]) for node in (site, again))
        except (KeyError, NotImplementedError):
            continue
        if one.shape != other.shape or not torch.allclose(one, other, rtol=1e-3, atol=1e-3, equal_nan=True):
            return False
    return True
