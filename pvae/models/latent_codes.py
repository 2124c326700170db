"""Codes of data for figures: continuous sites as numbers, discrete sites as categories, without given fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pvae.batch import Batch
from pvae.models.posterior_values import discrete_sites, plausible_codes
from pvae.programs.binding import Fields, bind
from pvae.programs.model_traits import traits_of

__all__ = ["LatentCodes", "infer_codes", "without_labels"]


@dataclass(frozen=True)
class LatentCodes:
    """The inferred values of the latent sites of data. A site that only repeats a given field is left out.

    Attributes:
        continuous: the guide's mean of each continuous site, shape (batch, units) each.
        categories: the most probable value of each discrete site, whole numbers of shape (batch, positions) each.
        given: the fields besides x that the programs get, such as a condition.
        hidden: whether labels were hidden from the model, which infers them.
    """

    continuous: Mapping[str, Tensor]
    categories: Mapping[str, Tensor]
    given: tuple[str, ...] = ()
    hidden: bool = False

    def joined(self) -> Tensor:
        """Return the continuous codes in one tensor, shape (batch, units)."""
        parts = list(self.continuous.values())
        return torch.cat(parts, 1) if parts else torch.empty(0, 0)

    @property
    def unit_names(self) -> tuple[str, ...]:
        """The name of each continuous unit, such as ``z[0]``."""
        return tuple(f"{name}[{unit}]" for name, code in self.continuous.items() for unit in range(code.shape[1]))

    def describe(self) -> str:
        """Return the inferred sites and the given fields, in one sentence."""
        inferred = ", ".join((*self.continuous, *self.categories)) or "nothing"
        if self.given:
            return f"Inferred: {inferred}. Given: x, {', '.join(self.given)}."
        return f"Inferred: {inferred}, from x only."


def without_labels(latent_model: Any, batch: Batch) -> tuple[Batch, bool]:
    """Return a batch in which labels are hidden (-1) if the model infers them, and whether they were hidden.

    Otherwise a figure would show given labels as if they were inferred.

    Args:
        latent_model: any object with ``model`` and ``guide``.
        batch: named tensors.
    """
    y = batch.get("y")
    infers_labels = callable(traits_of(latent_model).classify)
    if y is None or not infers_labels or y.is_floating_point() or y.dim() != 1:
        return batch, False
    return batch.replace(y=torch.full_like(y, -1)), True


def infer_codes(latent_model: Any, batch: Batch, fields: Fields = None) -> LatentCodes:
    """Return the codes that the guide infers: means of continuous sites, most probable values of discrete sites.

    Labels are hidden from a model that infers them. A site with the values of a given field is not a code.

    Args:
        latent_model: any object with ``model`` and ``guide``.
        batch: named tensors.
        fields: as for `pvae.models.bind`.
    """
    batch, hidden = without_labels(latent_model, batch)
    names = bind(latent_model, batch, fields).fields
    given = {name: batch[name] for name in names if name != "x" and not (hidden and name == "y")}
    codes = {name: code.detach() for name, code in plausible_codes(latent_model, batch, fields).items()}
    discrete = discrete_sites(latent_model, batch, fields)
    repeated = _repeated_fields(latent_model, batch, fields, codes, given)
    continuous, categories = {}, {}
    for name, code in codes.items():
        if code.dim() == 0 or len(code) != batch.size or name in repeated:
            continue
        if name in discrete or not code.is_floating_point():
            categories[name] = _as_categories(code, is_one_hot=discrete.get(name, False))
        else:
            continuous[name] = code.reshape(batch.size, -1)
    return LatentCodes(continuous, categories, tuple(given), hidden)


def _repeated_fields(
    latent_model: Any, batch: Batch, fields: Fields, codes: Mapping[str, Tensor], given: Mapping[str, Tensor]
) -> set[str]:
    """Return the sites that equal a given field on the data, and still equal it if the field is shifted by one datum.

    One comparison is not enough: the inferred labels of a perfect classifier equal the labels too.
    """
    suspects = {name: field for name in codes for field in given if _is_same(codes[name], given[field])}
    if not suspects or batch.size < 2:
        return set(suspects)
    moved = batch.replace(**{field: given[field].roll(1, 0) for field in set(suspects.values())})
    codes_again = plausible_codes(latent_model, moved, fields)
    return {name for name, field in suspects.items() if _is_same(codes_again[name], moved[field])}


def _is_same(code: Tensor, field: Tensor) -> bool:
    """Return whether a code has the values of a field where the field is not hidden (-1)."""
    if code.numel() != field.numel() or not field.numel():
        return False
    known = field.reshape(-1).double()
    shown = known >= 0 if not field.is_floating_point() else torch.ones_like(known, dtype=torch.bool)
    return bool(shown.any()) and bool(torch.equal(code.reshape(-1).double()[shown], known[shown]))


def _as_categories(code: Tensor, *, is_one_hot: bool) -> Tensor:
    """Return the values of a discrete site as whole numbers, shape (batch, positions)."""
    if is_one_hot:
        code = code.argmax(-1)
    return code.reshape(len(code), -1).long()
