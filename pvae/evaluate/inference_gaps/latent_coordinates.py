"""All continuous latents of a datum as one vector of real coordinates, with the model's log-density at it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Transform, biject_to

from pvae.errors import InputError
from pvae.evaluate.evaluation_context import EvaluationContext
from pvae.programs.bound import BoundPrograms
from pvae.programs.site_masks import require_every_entry
from pvae.programs.sites import Site, sample_sites
from pvae.weights.log_probs import PlateDims, log_probs_by_site, sum_tensors
from pvae.weights.traces import in_particle_plate
from pvae.weights.vectorise import can_vectorise

__all__ = ["LatentCoordinates"]


@dataclass(frozen=True)
class _SiteCoordinates:
    """The coordinates of one site.

    Attributes:
        name: the site.
        transform: from real coordinates to the support.
        shape: the shape of the coordinates of one draw, with the plates.
        dim: the dimension of the data in this shape, counted from the right.
        plates: the number of plates of the site; they are the first dimensions of the shape.
    """

    name: str
    transform: Transform
    shape: torch.Size
    dim: int
    plates: int

    @property
    def count(self) -> int:
        """The number of coordinates of one datum."""
        return self.shape.numel() // self.shape[self.dim]

    def flatten(self, values: Tensor) -> Tensor:
        """Return values of shape (particles, *own) as coordinates, shape (particles, batch, count)."""
        real = self.transform.inv(values)
        return real.movedim(self.dim, 1).reshape(len(real), self.shape[self.dim], -1)

    def unflatten(self, coordinates: Tensor) -> Tensor:
        """Return coordinates of shape (particles, batch, count) in the shape (particles, *own), still real."""
        rest = list(self.shape)
        size = rest.pop(self.dim)
        return coordinates.reshape(len(coordinates), size, *rest).movedim(1, self.dim)

    def log_det(self, real: Tensor, value: Tensor, data_dim: int) -> Tensor:
        """Return log |dz / du| of the site, shape (particles, batch).

        Args:
            real: coordinates, shape (particles, *own).
            value: the values at these coordinates, shape (particles, *plates, *event).
            data_dim: the dimension of the plate over data in the batch shape, counted from the right.
        """
        table = self.transform.log_abs_det_jacobian(real, value)
        table = table.reshape(*table.shape[: 1 + self.plates], -1).sum(-1)
        return table.movedim(data_dim, 1).reshape(len(real), self.shape[self.dim], -1).sum(-1)


@dataclass(frozen=True)
class LatentCoordinates:
    """The continuous latents of a batch as vectors of real coordinates.

    Attributes:
        programs: both programs on the batch.
        sites: the coordinates of each latent site, in order.
        dims: the dimensions of particles and data of one run.
    """

    programs: BoundPrograms
    sites: tuple[_SiteCoordinates, ...]
    dims: PlateDims

    @classmethod
    def of(cls, context: EvaluationContext, programs: BoundPrograms) -> LatentCoordinates:
        """Return the coordinates of the latents of a batch.

        Args:
            context: the model.
            programs: both programs on the batch.

        Raises:
            InputError: if a latent site is discrete or masked, or the model sums a site out.
        """
        if programs.layout.undrawn:
            raise InputError(
                f"Coordinates need a value of every latent site; site {programs.layout.undrawn[0]!r} is summed out."
            )
        data_dim = context.data_dim(programs)
        with programs.preserved_state():
            guide_trace, trace = programs.trace_both()
        in_guide = {site["name"]: site for site in sample_sites(guide_trace)}
        sites = []
        for site in sample_sites(trace):
            if site["is_observed"]:
                continue
            require_every_entry(site, "A richer family")
            transform = _transform([site, *[in_guide[name] for name in [site["name"]] if name in in_guide]])
            real = transform.inv(site["value"])
            plates = len(site["fn"].batch_shape)
            dim = data_dim - (real.dim() - plates)
            sites.append(_SiteCoordinates(site["name"], transform, real.shape, dim, plates))
        return cls(programs, tuple(sites), PlateDims(programs.layout.nesting, data_dim, 1))

    @property
    def count(self) -> int:
        """The number of coordinates of one datum."""
        return sum(site.count for site in self.sites)

    def of_values(self, values: Mapping[str, Tensor]) -> Tensor:
        """Return draws of the guide as coordinates, shape (particles, batch, count).

        Args:
            values: the draws by site, shape (particles, *plates, *event).
        """
        return torch.cat([site.flatten(values[site.name]) for site in self.sites], -1)

    def log_joint(self, coordinates: Tensor) -> Tensor:
        """Return log p(x, z) + log |dz / du| at coordinates u, shape (particles, batch), nats; differentiable.

        Args:
            coordinates: u, shape (particles, batch, count).
        """
        particles = len(coordinates)
        if particles > 1 and not can_vectorise(self.programs, 2):
            return torch.cat([self._log_joint_of_run(coordinates[index : index + 1]) for index in range(particles)])
        return self._log_joint_of_run(coordinates)

    def _log_joint_of_run(self, coordinates: Tensor) -> Tensor:
        """Return `log_joint` from one run of the model with all particles."""
        particles, nesting = len(coordinates), self.dims.nesting
        dims = PlateDims(nesting, self.dims.data_dim, particles)
        plates = {site.name: site.plates for site in self.sites}
        values, log_dets = {}, []
        for site, part in zip(self.sites, coordinates.split([site.count for site in self.sites], -1), strict=True):
            real = site.unflatten(part)
            value = site.transform(real)
            log_dets.append(site.log_det(real, value, dims.data_dim))
            # Plates outside of the site are dimensions of size 1 between the particles and the data.
            values[site.name] = value.reshape(particles, *(1,) * (nesting - site.plates), *value.shape[1:])
        programs = self.programs
        if particles > 1:
            model = in_particle_plate(programs.model, particles, nesting)
            programs = programs.with_programs(model, programs.guide)
        else:
            values = {name: value[(0,) * (1 + nesting - plates[name])] for name, value in values.items()}
        tables = log_probs_by_site([sample_sites(programs.trace_model(values=values))], dims)
        return sum_tensors([*tables.values(), *log_dets])


def _transform(sites: Sequence[Site]) -> Transform:
    """Return the transform from real coordinates to the support of a latent site.

    Args:
        sites: the site in the model and, if it exists, in the guide. A mixture has no transform; then the support of
            the guide's site is used.

    Raises:
        InputError: if the site is discrete, or its support has no transform.
    """
    for site in sites:
        support = site["fn"].support
        if support.is_discrete:
            break
        try:
            return biject_to(support)
        except NotImplementedError:
            continue
    raise InputError(f"Coordinates need continuous latents; the support of site {sites[0]['name']!r} is {support}.")
