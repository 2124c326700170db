"""`Codes`: draws of z given x for all training data; `CodeSource`: the model and the data that they come from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pvae.batch import Batch
from pvae.data import Splits, minibatches
from pvae.errors import InputError
from pvae.programs.binding import Fields
from pvae.programs.queries import inference_mode, mean_of_site
from pvae.programs.sites import Site
from pvae.structures import moved
from pvae.train.fitted_priors.code_site import CodeSite

__all__ = ["CodeSource", "Codes", "encode_training_data"]

_CHUNK = 1000


@dataclass(frozen=True)
class CodeSource:
    """A trained model and the data of its training.

    Attributes:
        model: any object with ``model`` and ``guide``.
        splits: the data, in the form of the training.
        fields: the batch fields of the programs.
    """

    model: Any
    splits: Splits
    fields: Fields = None

    @property
    def device(self) -> torch.device:
        """The device of the parameters of the model."""
        first = next(self.model.parameters(), None) if isinstance(self.model, nn.Module) else None
        return torch.device("cpu") if first is None else first.device

    def batches(self, size: int = _CHUNK) -> Iterator[Batch]:
        """Yield the training data in the order of epoch 0 of seed 0, on the device of the model.

        Data that are binarised or masked at every use are drawn.

        Args:
            size: the number of data of a batch.
        """
        device, splits = self.device, self.splits
        batches = minibatches(splits.train, size, seed=0, epoch=0, dynamic=splits.train_dynamic, mask=splits.train_mask)
        for batch in batches:
            yield Batch(**{name: moved(value, device) for name, value in batch.items()})

    def first(self, size: int = 8) -> Batch:
        """Return the first data.

        Args:
            size: the number of data.

        Raises:
            InputError: if there are fewer than two.
        """
        batch = next(self.batches(size), None)
        if batch is None or batch.size < 2:
            raise InputError(
                f"A fitted prior needs at least two training data; {self.splits.name} has "
                f"{self.splits.train.known_size}. Give more data."
            )
        return batch

    def guide_site(self, batch: Batch, name: str) -> Site:
        """Return a site of the guide on a batch, with its distribution and a draw.

        Args:
            batch: the data.
            name: the name of the site.
        """
        with inference_mode(self.model, batch, self.fields) as programs:
            return programs.bound_to(batch).trace_guide().nodes[name]


@dataclass(frozen=True)
class Codes:
    """The codes of all training data.

    Attributes:
        site: the site of the codes.
        values: shape (draws * data, size), real numbers or whole ones; the first draw of all data comes first.
        draws: the number of codes of each datum.
        source: the model and the data; None for codes from another source.
    """

    site: CodeSite
    values: Tensor
    draws: int
    source: CodeSource | None = None

    @property
    def count(self) -> int:
        """The number of data."""
        return len(self.values) // self.draws

    def split(self, share: float, seed: int) -> tuple[Tensor, Tensor]:
        """Return the codes of some data, and the codes of the other data, which are left out to stop the fit in time.

        Args:
            share: the share of the data that is left out.
            seed: the seed of the choice.
        """
        order = torch.randperm(self.count, generator=torch.Generator().manual_seed(seed))
        left_out = order[: max(1, int(share * self.count))]
        by_draw = self.values.unflatten(0, (self.draws, self.count))
        is_kept = torch.ones(self.count, dtype=torch.bool)
        is_kept[left_out] = False
        return by_draw[:, is_kept].flatten(0, 1), by_draw[:, left_out].flatten(0, 1)


def encode_training_data(source: CodeSource, site: CodeSite, *, draws: int, means: bool) -> Codes:
    """Return draws of q(z given x) for all training data, or the means of q.

    Args:
        source: the model and the data; data that are binarised or masked at every use are drawn again for each draw of
            z.
        site: the latent site.
        draws: the number of draws of each datum.
        means: whether to take the mean of q in place of a draw.

    Raises:
        InputError: if a code is not finite, or a unit has the same value for all data.
    """

    def code(batch: Batch) -> Tensor:
        found = source.guide_site(batch, site.name)
        with torch.no_grad():
            value: Tensor = mean_of_site(found) if means else found["value"]
        return value.detach().cpu().reshape(batch.size, site.size)

    values = torch.cat([code(batch) for _ in range(draws) for batch in source.batches()])
    codes = Codes(site, values, draws, source)
    if not site.codes:
        _require_density(codes)
    return codes


def _require_density(codes: Codes) -> None:
    """Raise InputError for codes that are not finite, or constant in a unit, because no density fits them."""
    name, values = codes.site.name, codes.values
    if not bool(values.isfinite().all()):
        raise InputError(
            f"A fitted prior needs finite codes; the guide's {name} is not finite for some data. Train again."
        )
    constant = (values.amax(0) == values.amin(0)).nonzero().flatten()
    if len(constant):
        raise InputError(
            f"Unit {int(constant[0])} of {name} has the same value for all data, so these codes have no density. "
            "Use fewer latent dimensions, or draws in place of means."
        )
