"""`DataSites`: the observed sites of a model that x consists of: one site of all x, or one for each part of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pvae.errors import InputError
from pvae.programs.binding import Programs
from pvae.programs.bound import BoundPrograms
from pvae.programs.sites import Site
from pvae.structures import is_structure

__all__ = ["DataSites", "find_data_sites"]


@dataclass(frozen=True)
class DataSites:
    """The observed sites of x.

    Attributes:
        names: their names, in the order of the model.
        positions: for each site that observes a part of x, the positions of its values in x, flattened, in the shape of
            these values; empty if one site observes x.
    """

    names: tuple[str, ...]
    positions: Mapping[str, Tensor]

    def joined(self, values: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        """Return values of the sites as one tensor in the shape of ``batch["x"]``.

        If one site observes a number of values that differs from x, its values are returned unchanged.

        Args:
            values: for each site, values of its distribution.
            batch: named tensors.
        """
        x = batch.get("x")
        if not self.positions:
            value = values[self.names[0]]
            return value.reshape(x.shape) if isinstance(x, Tensor) and value.numel() == x.numel() else value
        kinds = [values[name].dtype for name in self.names]
        result = torch.empty(batch["x"].numel(), dtype=_common_type(kinds), device=values[self.names[0]].device)
        for name, positions in self.positions.items():
            value = values[name].broadcast_to(positions.shape)
            result[positions.flatten().to(result.device)] = value.flatten().to(result.dtype)
        return result.reshape(batch["x"].shape)


def find_data_sites(sites: Sequence[Site], programs: Programs, bound: BoundPrograms) -> DataSites:
    """Return the observed sites of x, from a trace of the model.

    It is the one site with as many numbers as x, or the only observed site. Several sites that observe parts of x, such
    as ``obs=x[:, 0]``, are found by the memory that they share with x.

    Args:
        sites: the sample sites of the model, of one trace.
        programs: the programs.
        bound: the same with the batch of the trace, of which x is an argument.

    Raises:
        InputError: if the model observes nothing, or several sites with unknown parts of x.
    """
    observed = [site for site in sites if site["is_observed"]]
    if not observed:
        raise InputError(
            "Samples and reconstructions need an observed site; the model observes nothing. Give a site obs=x."
        )
    x = bound.args[programs.fields.index("x")] if "x" in programs.fields else None
    if len(observed) == 1 or not isinstance(x, Tensor) or is_structure(x):
        return DataSites((observed[0]["name"],), {})
    whole = [site["name"] for site in observed if site["value"].numel() == x.numel()]
    if whole:
        return DataSites(("x" if "x" in whole else whole[0],), {})
    positions = {site["name"]: _positions(site["value"], x) for site in observed}
    parts = {name: value for name, value in positions.items() if value is not None}
    if parts and _covers(list(parts.values()), x.numel()):
        return DataSites(tuple(parts), parts)
    own = [site["name"] for site in observed if site["name"] == "x"]
    if own and not parts:
        return DataSites(tuple(own), {})
    names = ", ".join(site["name"] for site in observed)
    raise InputError(
        f"The model observes several sites ({names}), and which values of x each one observes is not clear. Observe x "
        "at one site, or each value of x at one of these sites, as a part such as obs=x[:, 0:2]."
    )


def _positions(value: Tensor, x: Tensor) -> Tensor | None:
    """Return the positions in x, flattened, of a view of a part of x; None for other values."""
    start, extent = value.storage_offset() - x.storage_offset(), _extent(x)
    if value.untyped_storage().data_ptr() != x.untyped_storage().data_ptr() or value.dtype != x.dtype:
        return None
    if start < 0 or start + _extent(value) > extent:
        return None
    numbers = torch.full((extent,), -1, dtype=torch.long)
    numbers.as_strided(x.shape, x.stride(), 0).copy_(torch.arange(x.numel()).reshape(x.shape))
    return numbers.as_strided(value.shape, value.stride(), start).clone()


def _extent(tensor: Tensor) -> int:
    """Return the number of elements of memory from the first to the last element of a tensor."""
    return 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


def _covers(positions: Sequence[Tensor], count: int) -> bool:
    """Return whether parts have each of `count` positions once."""
    found = torch.cat([each.flatten() for each in positions])
    return len(found) == count and bool((found.sort().values == torch.arange(count)).all())


def _common_type(kinds: Sequence[torch.dtype]) -> torch.dtype:
    kind = kinds[0]
    for other in kinds[1:]:
        kind = torch.promote_types(kind, other)
    return kind
