"""Branches: other values of one site, with coefficients; the weighted differences of the bound are its gradient.

Every branching strategy has the form sum_r (F(z_r) - F(z)) * dc_r, where z is the site's own draw, z_r is a branch, and
c_r is a function of the parameters of q. A branch differs from z in one coordinate (measure-valued derivatives) or in
any number of them (ARM, DisARM).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from pvae.errors import InputError
from pvae.programs.sites import base_distribution
from pvae.weights import LogWeights

__all__ = ["Branches", "propose_branches"]


@dataclass(frozen=True)
class Branches:
    """Other values of a site, and the coefficients of the differences of the bound.

    Attributes:
        site: the name of the site.
        values: the branches z_r, shape (branches, *batch, *event).
        coefficients: c_r, shape (branches, [outcomes,] particles, batch). Only their gradient is used.
    """

    site: str
    values: Tensor
    coefficients: Tensor


@dataclass(frozen=True)
class _CellLayout:
    """The mapping from the value of a site to cells, the coordinates that are drawn independently of each other.

    Cells have shape (*left, particles, batch, cells, *inner).

    Attributes:
        nesting: the largest number of nested plates.
        data_dim: the dimension of the data plate, from the right of the batch shape.
        left: the number of dimensions to the left of the particles.
        event: the number of event dimensions of the site that hold independent cells.
        inner: the number of dimensions of one cell: 1 for a one-hot vector, else 0.
        shape: the shape of the value without the dimensions of a cell.
    """

    nesting: int
    data_dim: int
    left: int
    event: int
    inner: int
    shape: torch.Size

    @property
    def _dims(self) -> int:
        """The number of dimensions of the value without the dimensions of a cell."""
        return self.left + 1 + self.nesting + self.event

    @property
    def _data_axis(self) -> int:
        """The dimension of the data, from the left."""
        return self.left + 1 + self.nesting + self.data_dim

    def pad_left(self, tensor: Tensor, inner: int) -> Tensor:
        """Return a tensor of the site with dimensions of size 1 on the left, up to the left of the particles."""
        missing = self._dims + inner - tensor.dim()
        return tensor.reshape((1,) * missing + tuple(tensor.shape)) if missing > 0 else tensor

    def to_cells(self, tensor: Tensor, inner: int = 0) -> Tensor:
        """Return a parameter or a value as cells.

        Args:
            tensor: shape (..., *inner), which broadcasts with the value of the site.
            inner: the number of dimensions of the tensor that belong to one cell.

        Returns:
            Shape (*left, particles, batch, cells, *inner).
        """
        padded = self.pad_left(tensor, inner)
        expanded = padded.expand(*self.shape, *padded.shape[padded.dim() - inner :])
        moved = expanded.movedim(self._data_axis, self.left + 1)
        if self._dims > self.left + 2:
            return moved.flatten(self.left + 2, self._dims - 1)
        return moved.unsqueeze(self._dims)

    def to_values(self, cells: Tensor) -> Tensor:
        """Return cells as values of the site.

        Args:
            cells: shape (branches, *left, particles, batch, cells, *inner).

        Returns:
            Shape (branches, *batch, *event).
        """
        axis = self._data_axis
        front = [*self.shape[: self.left + 1], self.shape[axis]]
        rest = [size for dim, size in enumerate(self.shape) if dim > self.left and dim != axis]
        inner = cells.shape[cells.dim() - self.inner :] if self.inner else ()
        return cells.reshape(len(cells), *front, *rest, *inner).movedim(self.left + 2, axis + 1)


#: for each variant of a branch, the other value of each cell and its coefficient, both of the shape of the cells
Variants = list[tuple[Tensor, Tensor]]

#: maps a parameter of q to the cells
ToCells = Callable[[Tensor], Tensor]


def _bernoulli(base: Any, z: Tensor, to_cells: ToCells) -> Variants:
    return [(1 - z, (1 - 2 * z) * to_cells(base.probs))]


def _normal(base: Any, z: Tensor, to_cells: ToCells) -> Variants:
    """Source: Mohamed et al., Monte Carlo Gradient Estimation, arXiv:1906.10652, table 1 (coupled as in section 6)."""
    loc = to_cells(base.loc)
    scale = to_cells(base.scale)
    fixed_loc = loc.detach()
    fixed_scale = scale.detach()
    rayleigh = torch.sqrt(-2 * torch.log1p(-torch.rand_like(z)))
    sign = torch.where(torch.rand_like(z) < 0.5, -1.0, 1.0).to(z.dtype)
    normals = torch.randn((3, *z.shape), dtype=z.dtype, device=z.device)
    maxwell = sign * torch.sqrt((normals**2).sum(0))
    loc_coefficient = loc / (fixed_scale * math.sqrt(2 * math.pi))
    scale_coefficient = scale / fixed_scale
    return [
        (fixed_loc + fixed_scale * rayleigh, loc_coefficient),
        (fixed_loc - fixed_scale * rayleigh, -loc_coefficient),
        (fixed_loc + fixed_scale * maxwell, scale_coefficient),
        # A double-sided Maxwell draw times a uniform draw is normal.
        (fixed_loc + fixed_scale * maxwell * torch.rand_like(z), -scale_coefficient),
    ]


def _poisson(base: Any, z: Tensor, to_cells: ToCells) -> Variants:
    return [(z + 1, to_cells(base.rate))]


def _gamma(base: Any, z: Tensor, to_cells: ToCells) -> Variants:
    """Return branches for the rate, by Gamma(a + 1) = Gamma(a) + exponential, and for the shape, by its score.

    The shape has no coupled pair of draws. Its score is paired with an independent draw z':
    (F(z') - F(z)) * (score(z') - score(z)) / 2 is unbiased.
    """
    concentration = to_cells(base.concentration)
    rate = to_cells(base.rate)
    fixed_concentration = concentration.detach()
    fixed_rate = rate.detach()
    exponential = -torch.log1p(-torch.rand_like(z)) / fixed_rate
    independent = dist.Gamma(fixed_concentration, fixed_rate, validate_args=False).sample()
    return [
        (z + exponential, -(fixed_concentration / fixed_rate) * rate),
        (independent, 0.5 * (independent.log() - z.log()) * concentration),
    ]


_MAKE_VARIANTS: dict[type, Callable[[Any, Tensor, ToCells], Variants]] = {
    torch.distributions.Bernoulli: _bernoulli,
    torch.distributions.Normal: _normal,
    torch.distributions.Poisson: _poisson,
    torch.distributions.Gamma: _gamma,
}


def propose_branches(weights: LogWeights, name: str, strategy: str) -> Branches:
    """Return the branches of a site by its strategy.

    Args:
        weights: the weights of a batch, from one run for all particles.
        name: a latent site of the guide.
        strategy: ``"measure"``, ``"disarm"`` or ``"arm"``.

    Raises:
        InputError: if the strategy is not for this kind of site, or the site depends on a summed-out site.
    """
    site = weights.guide_sites()[name]
    base = base_distribution(site["fn"])
    inner = len(base.event_shape)
    dims = weights.only_source().dims
    layout = _CellLayout(dims.nesting, dims.data_dim, dims.left, site["fn"].event_dim - inner, inner, torch.Size())
    value = layout.pad_left(site["value"].detach(), 0)
    layout = dataclasses.replace(layout, shape=value.shape[: value.dim() - inner])
    z = layout.to_cells(value, inner)
    if strategy in ("disarm", "arm"):
        cells, coefficients = _antithetic(base, z, layout.to_cells, strategy)
    elif isinstance(base, torch.distributions.Categorical | torch.distributions.OneHotCategorical):
        cells, coefficients = _categorical(base, z, layout)
    else:
        cells, coefficients = _measure_valued(name, base, z, layout.to_cells)
    return Branches(name, layout.to_values(cells), _join_outcomes(weights, coefficients, name))


def _measure_valued(name: str, base: Any, z: Tensor, to_cells: ToCells) -> tuple[Tensor, Tensor]:
    """Return branches in which one cell has the value of one variant and all other cells have their own values.

    Returns:
        Cells of shape (variants * cells, *z.shape), and coefficients of shape (variants * cells, *left, particles,
        batch).
    """
    make_variants = next((make for kind, make in _MAKE_VARIANTS.items() if isinstance(base, kind)), None)
    if make_variants is None:
        raise InputError(
            f"The gradient 'measure' needs a site with a known measure-valued derivative; site {name!r} is a "
            f"{type(base).__name__}. Use 'score' for it."
        )
    variants = make_variants(base, z, to_cells)
    is_changed = torch.eye(z.shape[-1], dtype=torch.bool, device=z.device)
    is_changed = is_changed.reshape(-1, *(1,) * (z.dim() - 1), z.shape[-1])
    cells = torch.cat([torch.where(is_changed, value.detach(), z) for value, _ in variants])
    return cells, torch.cat([coefficient.movedim(-1, 0) for _, coefficient in variants])


def _categorical(base: Any, z: Tensor, layout: _CellLayout) -> tuple[Tensor, Tensor]:
    """Return branches in which one cell has one category; the coefficient is the probability of the category.

    Returns:
        Cells of shape (cells * categories, *z.shape), and coefficients of shape (cells * categories, *left, particles,
        batch).
    """
    probs = layout.to_cells(base.probs, 1)
    cells, categories = probs.shape[-2:]
    is_changed = torch.eye(cells, dtype=torch.bool, device=z.device).repeat_interleave(categories, 0)
    is_changed = is_changed.reshape(cells * categories, *(1,) * (probs.dim() - 2), cells)
    category = torch.arange(categories, device=z.device).repeat(cells)
    if layout.inner:
        one_hot = torch.eye(categories, dtype=z.dtype, device=z.device)[category]
        one_hot = one_hot.reshape(cells * categories, *(1,) * (z.dim() - 1), categories)
        values = torch.where(is_changed.unsqueeze(-1), one_hot, z)
    else:
        values = torch.where(is_changed, category.to(z.dtype).reshape(-1, *(1,) * z.dim()), z)
    return values, probs.movedim((-2, -1), (0, 1)).flatten(0, 1)


def _antithetic(base: Any, z: Tensor, to_cells: ToCells, strategy: str) -> tuple[Tensor, Tensor]:
    """Return the antithetic partner 1[u < p] of a Bernoulli draw z = 1[u > 1 - p], for all cells at once.

    Returns:
        Cells of shape (1, *z.shape), and coefficients of shape (1, *left, particles, batch).

    Sources: Yin & Zhou, ARM, arXiv:1807.11143, equation 9; Dong, Mnih & Tucker, DisARM, arXiv:2006.10680, equation 6;
        the same estimator is U2G of Yin et al., arXiv:2004.11448.
    """
    logits = to_cells(base.logits)
    p = torch.sigmoid(logits.detach())
    uniform = torch.rand_like(z)
    u = torch.where(z > 0.5, 1 - p + p * uniform, (1 - p) * uniform)
    partner = (u < p).to(z.dtype)
    if strategy == "arm":
        coefficients = -(u - 0.5) * logits
    else:
        sign = 1 - 2 * partner
        differs = (partner != z).to(z.dtype)
        coefficients = -0.5 * sign * differs * torch.sigmoid(logits.detach().abs()) * logits
    return partner.unsqueeze(0), coefficients.sum(-1).unsqueeze(0)


def _join_outcomes(weights: LogWeights, coefficients: Tensor, name: str) -> Tensor:
    """Return coefficients with the enumerated dimensions joined to one.

    Args:
        weights: the weights, which know the enumerated and summed-out dimensions.
        coefficients: shape (branches, *left, particles, batch).
        name: the site, for the error.

    Returns:
        Shape (branches, [outcomes,] particles, batch).

    Raises:
        InputError: if the site depends on a summed-out site.
    """
    dims = weights.only_source().pairs[0].dims
    summed = [1 + position for position in dims.positions("sum")]
    if any(coefficients.shape[dim] > 1 for dim in summed):
        raise InputError(
            f"A gradient by branches needs a site that depends on no summed-out site; site {name!r} depends on one. "
            "Use 'score' for it."
        )
    if not dims.sites:
        return coefficients
    kept = coefficients.sum(summed) if summed else coefficients
    sizes = dims.sizes("enumerate")
    if not sizes:
        return kept
    return kept.expand(len(kept), *sizes, *kept.shape[-2:]).flatten(1, len(sizes))
