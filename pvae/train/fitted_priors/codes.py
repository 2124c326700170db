"""`Codes`: draws of z given x for all training data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pvae.batch import Batch
from pvae.data import Splits, minibatches
from pvae.errors import InputError
from pvae.programs.binding import Fields
from pvae.programs.queries import inference_mode, mean_of_site
from pvae.structures import moved
from pvae.train.fitted_priors.code_site import CodeSite

__all__ = ["Codes", "encode_training_data", "first_data"]

_CHUNK = 1000


@dataclass(frozen=True)
class Codes:
    """The codes of all training data.

    Attributes:
        site: the site that they are values of.
        values: shape (draws * data, size), real numbers or whole ones; the first draw of all data comes first.
        draws: the number of codes of each datum.
    """

    site: CodeSite
    values: Tensor
    draws: int

    @property
    def count(self) -> int:
        """The number of data."""
        return len(self.values) // self.draws

    def split(self, share: float, seed: int) -> tuple[Tensor, Tensor]:
        """Return the codes of some data, and those of the others, which are left out to stop a training in time.

        Args:
            share: the share of the data that are left out.
            seed: the seed of the choice.
        """
        order = torch.randperm(self.count, generator=torch.Generator().manual_seed(seed))
        left_out = order[: max(1, int(share * self.count))]
        by_draw = self.values.unflatten(0, (self.draws, self.count))
        kept = torch.ones(self.count, dtype=torch.bool)
        kept[left_out] = False
        return by_draw[:, kept].flatten(0, 1), by_draw[:, left_out].flatten(0, 1)


def first_data(splits: Splits, latent_model: Any, size: int = 8) -> Batch:
    """Return the first training data, on the device of the model.

    Raises:
        InputError: if there are fewer than two.
    """
    batch = next(_batches(splits, latent_model, size), None)
    if batch is None or batch.size < 2:
        raise InputError(
            f"A fitted prior needs at least two training data; {splits.name} has {splits.train.known_size}."
        )
    return batch


def encode_training_data(
    latent_model: Any, splits: Splits, site: CodeSite, fields: Fields, *, draws: int, means: bool
) -> Codes:
    """Return draws of q(z given x) for all training data, or the means of q.

    Data that are binarised or masked at every use are drawn anew for each draw of z.

    Args:
        latent_model: any object with ``model`` and ``guide``.
        splits: the data, in the form of the training.
        site: the latent site.
        fields: the batch fields of the programs.
        draws: the number of draws of each datum.
        means: whether to take the mean of q in place of a draw.

    Raises:
        InputError: if a code is not finite, or a unit has the same value for all data.
    """

    def code(batch: Batch) -> Tensor:
        with inference_mode(latent_model, batch, fields) as programs:
            found: Any = programs.bound_to(batch).trace_guide().nodes[site.name]
            value: Tensor = mean_of_site(found) if means else found["value"]
        return value.detach().cpu().reshape(batch.size, site.size)

    values = torch.cat([code(batch) for _ in range(draws) for batch in _batches(splits, latent_model, _CHUNK)])
    codes = Codes(site, values, draws)
    if not site.codes:
        _require_density(codes)
    return codes


def _batches(splits: Splits, latent_model: Any, size: int) -> Any:
    """Yield the training data in the order of epoch 0 of seed 0, on the device of the model."""
    first = next(latent_model.parameters(), None) if isinstance(latent_model, torch.nn.Module) else None
    device = torch.device("cpu") if first is None else first.device
    for batch in minibatches(splits.train, size, seed=0, epoch=0, dynamic=splits.train_dynamic, mask=splits.train_mask):
        yield Batch(**{name: moved(value, device) for name, value in batch.items()})


def _require_density(codes: Codes) -> None:
    """Raise InputError for codes that no density on the real numbers fits."""
    name, values = codes.site.name, codes.values
    if not bool(values.isfinite().all()):
        raise InputError(
            f"A fitted prior needs finite codes; the guide's {name} is not finite for some data. Train again."
        )
    constant = (values.amax(0) == values.amin(0)).nonzero().flatten()
    if len(constant):
        raise InputError(
            f"Unit {int(constant[0])} of {name} has the same value for all data, so that these codes have no density. "
            "Use fewer latent dimensions, or draws in place of means."
        )
