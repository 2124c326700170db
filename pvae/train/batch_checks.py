"""Checks of each batch of data that are read in parts, because the check before training reads only the first data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pvae.batch import Batch
from pvae.data import check_support
from pvae.programs.binding import Programs
from pvae.programs.classifier import require_known_labels
from pvae.programs.ignored_masks import require_masks_taken
from pvae.programs.model_traits import traits_of
from pvae.programs.site_masks import is_masked
from pvae.programs.sites import Site, base_distribution, sample_sites
from pvae.structures import is_structure

__all__ = ["BatchChecks"]


@dataclass(frozen=True)
class BatchChecks:
    """Checks the labels and masks of a batch, and that its values lie in the supports of the sites that observe them.

    Attributes:
        latent_model: any object with ``model`` and ``guide``.
        supports: for each field, the name of the site that observes it and its distribution.
        programs: the two programs.
    """

    latent_model: Any
    supports: Mapping[str, tuple[str, Any]]
    programs: Programs

    @classmethod
    def of_programs(cls, latent_model: Any, programs: Programs, batch: Batch, *, is_drawn_at_use: bool) -> BatchChecks:
        """Return the checks for a model, from one run of its programs.

        Args:
            latent_model: any object with ``model`` and ``guide``.
            programs: its programs.
            batch: some of the data.
            is_drawn_at_use: whether x is binarised at every use.
        """
        bound = programs.bound_to(batch)
        with bound.preserved_state(), torch.no_grad():
            _, trace = bound.trace_both()
        supports = {}
        for site in sample_sites(trace):
            fields = [name for name, tensor in batch.items() if _is_view(site["value"], tensor)]
            if site["is_observed"] and fields and not is_masked(site) and _has_fixed_support(site, batch[fields[0]]):
                supports[fields[0]] = site["name"], site["fn"]
        if is_drawn_at_use:
            supports.pop("x", None)  # the values of x are drawn later; their range is checked before the draw
        return cls(latent_model, supports, programs)

    def __call__(self, batch: Batch) -> Batch:
        """Return a batch as it is.

        Raises:
            InputError: if a label is not a class of the model, a value lies outside a support, or values are missing
                and the model takes no mask.
        """
        check_data = traits_of(self.latent_model).check_data
        if check_data is not None:
            check_data(batch)
        require_masks_taken(self.programs, batch)
        if "y" in self.programs.fields:
            require_known_labels(self.latent_model, batch)
        for field, (site, distribution) in self.supports.items():
            check_support(site, batch[field], distribution)
        return batch


def _is_view(value: Any, tensor: Any) -> bool:
    """Return whether a value is a tensor of the batch, possibly reshaped, with all entries of that tensor."""
    if (
        is_structure(tensor)
        or not isinstance(value, Tensor)
        or value.numel() != tensor.numel()
        or value.dtype != tensor.dtype
    ):
        return False
    return value.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr()


def _has_fixed_support(site: Site, tensor: Tensor) -> bool:
    """Return whether the support of a site is the same for each batch.

    It is not if its bounds differ between data, or are unknown.
    """
    try:
        support = base_distribution(site["fn"]).support
    except (AttributeError, NotImplementedError):
        return False
    bounds = [bound for bound in vars(support).values() if isinstance(bound, Tensor)]
    return not any(bound.dim() for bound in bounds) and (not support.event_dim or site["value"].shape == tensor.shape)
