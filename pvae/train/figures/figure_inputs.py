"""The inputs of the figures of a run: the run, its data, and the other fields that the programs take."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pvae.batch import Batch
    from pvae.data import Splits
    from pvae.train.run import Run

__all__ = ["FigureInputs"]


@dataclass(frozen=True)
class FigureInputs:
    """The run, the data and the options from which a figure is drawn.

    Attributes:
        run: the opened run.
        splits: its data.
        batch: the chosen split.
        split: its name.
        count: number of pictures, codes, latent units, lines or columns.
        site: latent site of a traversal, or None.
        takes_parts: whether the programs run on a part of the data; False if they are for a fixed number of data.
    """

    run: Run
    splits: Splits
    batch: Batch
    split: str
    count: int
    site: str | None
    takes_parts: bool = True

    def first_data(self) -> Batch:
        """Return the first `count` data of the split; all of them if the programs do not run on a part of the data."""
        return self.batch.take(slice(0, self.count)) if self.takes_parts else self.batch

    def as_pictures(self, x: Any, leading: int = 1) -> Any:
        """Return values of x in the units and the shape of a datum if they have as many features, else unchanged.

        Args:
            x: values, shape (*leading, features).
            leading: number of leading dimensions.

        Returns:
            The values, shape (*leading, *data_shape) or unchanged.
        """
        scaling, pictures = self.splits.schema.scaling, self.in_shape(x, leading)
        fits = math.prod(x.shape[leading:]) == math.prod(self.splits.data_shape)
        return pictures if scaling is None or not fits else scaling.original(pictures)

    def in_shape(self, x: Any, leading: int = 1) -> Any:
        """Return values, such as a mask, in the shape of a datum if they have as many features, else unchanged."""
        fits = math.prod(x.shape[leading:]) == math.prod(self.splits.data_shape)
        return x.reshape(*x.shape[:leading], *self.splits.data_shape) if fits else x

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The names of the columns of x; empty if they have none."""
        return self.splits.schema.columns

    def describe_conditions(self) -> str:
        """Return a sentence about the fields besides x that the programs take; "" if there are none."""
        names = self._conditions()
        return f"Given: {', '.join(names)} of each datum." if names else ""

    def describe_held(self) -> str:
        """Return a sentence about the values of the other sites and fields while z changes; "" if there are none."""
        from pvae.models.site_values import has_finite_support, run_at_values

        first = self.batch.take(slice(0, 1))
        sites, _ = run_at_values(self.run.model, first, {}, self.run.fields)
        held = []
        for name in self._conditions():
            is_number = first[name].numel() == 1
            held.append(f"{name}{f' = {first[name].item():g}' if is_number else ''}, that of the first datum")
        for name, site in sites.items():
            if has_finite_support(site["fn"]) and site["value"].numel() == 1:
                held.append(f"{name} = {site['value'].item():g}, the most probable value of its prior")
        return f"Held fixed: {'; '.join(held)}." if held else ""

    def _conditions(self) -> list[str]:
        """Return the fields besides x that condition the model, without labels that it infers and optional fields."""
        from pvae.models.latent_codes import without_labels
        from pvae.programs.binding import bind
        from pvae.programs.model_traits import traits_of

        _, hidden = without_labels(self.run.model, self.batch)
        known = ("x", *traits_of(self.run.model).optional_fields, *(["y"] if hidden else []))
        return [name for name in bind(self.run.model, self.batch, self.run.fields).fields if name not in known]
