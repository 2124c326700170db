"""Other values of one site whose weighted differences are its gradient: measure-valued derivatives, ARM and DisARM.

Every proposal has the form sum_r (F(z_r) - F(z)) * d handle_r, where z is the site's own draw, and z_r differs from it
in one coordinate (measure-valued) or in all (ARM, DisARM).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from pvae.errors import InputError
from pvae.programs.sites import Site, base_distribution
from pvae.weights import LogWeights

__all__ = ["Branches", "propose"]


@dataclass(frozen=True)
class Branches:
    """Other values of a site, and what their differences multiply.

    Attributes:
        site: its name.
        values: shape (branches, *batch, *event).
        handles: shape (branches, [outcomes,] particles, batch); their gradients count, their values do not.
    """

    site: str
    values: Tensor
    handles: Tensor


@dataclass(frozen=True)
class _Cells:
    """A site's value as cells: shape (*left, particles, batch, cells, *inner), of which each is drawn by itself.

    Attributes:
        nesting: the number of plates.
        data_dim: the data plate's dimension.
        left: dimensions left of the particles'.
        event: dimensions of the site's event that are independent cells.
        inner: dimensions of one cell, 1 for a one-hot vector.
    """

    nesting: int
    data_dim: int
    left: int
    event: int
    inner: int

    @property
    def dims(self) -> int:
        return self.left + 1 + self.nesting + self.event

    def full(self, tensor: Tensor, inner: int) -> Tensor:
        """A tensor of the site with ones in front, up to the left."""
        missing = self.dims + inner - tensor.dim()
        return tensor.reshape((1,) * missing + tuple(tensor.shape)) if missing > 0 else tensor

    def of(self, tensor: Tensor, shape: torch.Size, inner: int) -> Tensor:
        """A parameter or value of shape (..., *inner) at the cells of a value of shape `shape`."""
        wide = self.full(tensor, inner)
        wide = wide.expand(*shape, *wide.shape[wide.dim() - inner :])
        data = self.left + 1 + self.nesting + self.data_dim
        moved = wide.movedim(data, self.left + 1)
        return moved.flatten(self.left + 2, self.dims - 1) if self.dims > self.left + 2 else moved.unsqueeze(self.dims)

    def back(self, cells: Tensor, shape: torch.Size, inner: int) -> Tensor:
        """Cells with a dimension of branches in front, as values of the site."""
        data = self.left + 1 + self.nesting + self.data_dim
        order = [*shape[: self.left + 1], shape[data]]
        rest = [size for dim, size in enumerate(shape) if dim > self.left and dim != data]
        tail = cells.shape[cells.dim() - inner :] if inner else ()
        return cells.reshape(len(cells), *order, *rest, *tail).movedim(self.left + 2, data + 1)


#: (value, parameters) at the cells -> per variant: the cell's other value, and its handle
Variants = list[tuple[Tensor, Tensor]]


def _bernoulli(base: Any, z: Tensor, at: Callable[[Tensor], Tensor]) -> Variants:
    return [(1 - z, (1 - 2 * z) * at(base.probs))]


def _normal(base: Any, z: Tensor, at: Callable[[Tensor], Tensor]) -> Variants:
    """Source: Mohamed et al., Monte Carlo Gradient Estimation, arXiv:1906.10652, table 1 (coupled as in section 6)."""
    loc, scale = at(base.loc), at(base.scale)
    fixed, width = loc.detach(), scale.detach()
    rayleigh = torch.sqrt(-2 * torch.log1p(-torch.rand_like(z)))
    sign = torch.where(torch.rand_like(z) < 0.5, -1.0, 1.0).to(z.dtype)
    normals = torch.randn((3, *z.shape), dtype=z.dtype, device=z.device)
    maxwell = sign * torch.sqrt((normals**2).sum(0))
    by_loc, by_scale = loc / (width * math.sqrt(2 * math.pi)), scale / width
    return [
        (fixed + width * rayleigh, by_loc),
        (fixed - width * rayleigh, -by_loc),
        (fixed + width * maxwell, by_scale),
        # a double-sided Maxwell draw times a uniform one is normal
        (fixed + width * maxwell * torch.rand_like(z), -by_scale),
    ]


def _poisson(base: Any, z: Tensor, at: Callable[[Tensor], Tensor]) -> Variants:
    return [(z + 1, at(base.rate))]


def _gamma(base: Any, z: Tensor, at: Callable[[Tensor], Tensor]) -> Variants:
    """The rate by Gamma(a + 1) = Gamma(a) + exponential; the shape, which has no such pair, by its score.

    The score is paired with an independent draw: (F(z') - F(z)) * (score(z') - score(z)) / 2 is unbiased.
    """
    concentration, rate = at(base.concentration), at(base.rate)
    a, b = concentration.detach(), rate.detach()
    exponential = -torch.log1p(-torch.rand_like(z)) / b
    other = dist.Gamma(a, b, validate_args=False).sample()
    return [(z + exponential, -(a / b) * rate), (other, 0.5 * (other.log() - z.log()) * concentration)]


_BY_CELL: dict[type, Callable[..., Variants]] = {
    torch.distributions.Bernoulli: _bernoulli,
    torch.distributions.Normal: _normal,
    torch.distributions.Poisson: _poisson,
    torch.distributions.Gamma: _gamma,
}


def _cells(weights: LogWeights, site: Site, inner: int) -> _Cells:
    dims = weights.only_source().dims
    return _Cells(dims.nesting, dims.data_dim, dims.left, site["fn"].event_dim - inner, inner)


def propose(weights: LogWeights, name: str, strategy: str) -> Branches:
    """Return the other values of a site that its strategy asks for.

    Raises:
        InputError: if the site is of a kind that the strategy is not for, or depends on a summed-out site.
    """
    site = weights.guide_sites()[name]
    base = base_distribution(site["fn"])
    inner = len(base.event_shape)
    cells = _cells(weights, site, inner)
    value = cells.full(site["value"].detach(), 0)
    shape = value.shape[: value.dim() - inner]

    def at(parameter: Tensor, inside: int = 0) -> Tensor:
        return cells.of(parameter, shape, inside)

    z = cells.of(value, shape, inner)
    if strategy in ("disarm", "arm"):
        others, handles = _antithetic(base, z, at, strategy)
        values, handle = others.unsqueeze(0), handles.sum(-1).unsqueeze(0)
    elif isinstance(base, torch.distributions.Categorical | torch.distributions.OneHotCategorical):
        values, handle = _categorical(base, z, at, inner)
    else:
        made = next((make for kind, make in _BY_CELL.items() if isinstance(base, kind)), None)
        if made is None:
            raise InputError(
                f"Site {name!r}: {type(base).__name__} has no measure-valued derivative here; use 'score'."
            )
        values, handle = _one_at_a_time(z, made(base, z, at))
    return Branches(name, cells.back(values, shape, inner), _by_outcome(weights, handle, name))


def _one_at_a_time(z: Tensor, variants: Variants) -> tuple[Tensor, Tensor]:
    """Each cell in turn at each variant's value, the others at their own."""
    eye = torch.eye(z.shape[-1], dtype=torch.bool, device=z.device)
    eye = eye.reshape(-1, *(1,) * (z.dim() - 1), z.shape[-1])
    values = torch.cat([torch.where(eye, other.detach(), z) for other, _ in variants])
    return values, torch.cat([handle.movedim(-1, 0) for _, handle in variants])


def _categorical(base: Any, z: Tensor, at: Callable[..., Tensor], inner: int) -> tuple[Tensor, Tensor]:
    """Each cell in turn at each category: the sum over categories of F times the probability."""
    probs = at(base.probs, 1)
    kinds = probs.shape[-1]
    cells = probs.shape[-2]
    eye = torch.eye(cells, dtype=torch.bool, device=z.device).repeat_interleave(kinds, 0)
    eye = eye.reshape(cells * kinds, *(1,) * (probs.dim() - 2), cells)
    category = torch.arange(kinds, device=z.device).repeat(cells)
    if inner:
        every = torch.eye(kinds, dtype=z.dtype, device=z.device)[category]
        every = every.reshape(cells * kinds, *(1,) * (z.dim() - 1), kinds)
        values = torch.where(eye.unsqueeze(-1), every, z)
    else:
        values = torch.where(eye, category.to(z.dtype).reshape(-1, *(1,) * z.dim()), z)
    return values, probs.movedim((-2, -1), (0, 1)).flatten(0, 1)


def _antithetic(base: Any, z: Tensor, at: Callable[[Tensor], Tensor], strategy: str) -> tuple[Tensor, Tensor]:
    """The antithetic partner of a Bernoulli draw, 1[u < p] beside z = 1[u > 1 - p], all cells at once.

    Sources: Yin & Zhou, ARM, arXiv:1807.11143, equation 9; Dong, Mnih & Tucker, DisARM, arXiv:2006.10680, equation 6;
    the same estimator is U2G of Yin et al., arXiv:2004.11448.
    """
    logits = at(base.logits)
    p = torch.sigmoid(logits.detach())
    uniform = torch.rand_like(z)
    u = torch.where(z > 0.5, 1 - p + p * uniform, (1 - p) * uniform)
    other = (u < p).to(z.dtype)
    if strategy == "arm":
        return other, -(u - 0.5) * logits
    sign = 1 - 2 * other
    differs = (other != z).to(z.dtype)
    return other, -0.5 * sign * differs * torch.sigmoid(logits.detach().abs()) * logits


def _by_outcome(weights: LogWeights, handle: Tensor, name: str) -> Tensor:
    """Handles of shape (branches, *left, particles, batch) with what is on the left as outcomes."""
    dims = weights.only_source().pairs[0].dims
    summed = [1 + position for position in dims.positions("sum")]
    if any(handle.shape[dim] > 1 for dim in summed):
        raise InputError(
            f"Site {name!r} depends on a summed-out site, where its gradient cannot be branched: use 'score' for it."
        )
    sizes = [size for dim, size in enumerate(dims.shape) if 1 + dim not in summed]
    if not dims.sites:
        return handle
    kept = handle.sum(summed) if summed else handle
    return kept.expand(len(kept), *sizes, *kept.shape[-2:]).flatten(1, len(sizes)) if sizes else kept
