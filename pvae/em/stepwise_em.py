"""Stepwise EM: fits a mixture to a stream of batches, each seen once."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pvae.em.base import Mixture, Statistics
from pvae.em.e_step import EStep
from pvae.em.em_options import make_options
from pvae.em.fit_mixture import FitInputs, fit_mixture
from pvae.em.m_step import m_step
from pvae.em.rows.row_sources import RowSource, as_tensor
from pvae.em.rows.standardise import Standardiser
from pvae.em.rows.standardised_chunks import StandardisedChunks
from pvae.em.rows.value_checks import compute_observed_share
from pvae.errors import InputError
from pvae.process_group import ProcessGroup
from pvae.products import default_products

__all__ = ["StepwiseEM"]

#: The step size at batch t is (t + 2) to this power. Above 1/2 the noise of the batches averages out; near 1/2 the
#: influence of the start fades fast.
STEP_POWER = -0.6
#: The parameters change only after this number of data for each component.
WARM_UP_ROWS = 10


@dataclass
class StepwiseEM:
    """Running statistics of a stream, in the standardised coordinates of its first batch.

    Attributes:
        inputs: of the fit.
        standardiser: the coordinates.
        mixture: the parameters so far, in these coordinates.
        statistics: the running statistics, or None before the first batch.
        batches: number of batches so far.
        total_weight: sum of the sample weights so far.
        bounds: mean log-likelihood of each batch under the parameters before it, nats per datum.
        counts: sums of the responsibilities of all data so far, (components,).

    Source: Liang & Klein, Online EM for unsupervised models, NAACL 2009.
    """

    inputs: FitInputs
    standardiser: Standardiser
    mixture: Mixture
    statistics: Statistics | None
    batches: int
    total_weight: float
    bounds: list[float]
    counts: Tensor

    @classmethod
    def start(cls, rows: RowSource, inputs: FitInputs) -> StepwiseEM:
        """Start a stream at its first batch, which determines coordinates and initial parameters.

        Args:
            rows: the first batch.
            inputs: of the fit.

        Raises:
            InputError: if components are to be merged or split.
        """
        if inputs.settings["merge"] is not None or inputs.settings["split_merge"]:
            raise InputError(
                "partial_fit needs merge=None and split_merge=0, because it sees each batch once; got "
                f"merge={inputs.settings['merge']!r} and split_merge={inputs.settings['split_merge']!r}. Use "
                "fit_batches to merge or split components."
            )
        fit = fit_mixture(rows, replace(inputs, settings={**inputs.settings, "max_iter": 0, "n_init": 1}))
        mixture = fit.run.mixture
        return cls(inputs, fit.standardiser, mixture, None, 0, 0.0, [], torch.zeros_like(mixture.weights))

    @classmethod
    def continued(cls, kept: dict[str, Any], inputs: FitInputs, device: torch.device) -> StepwiseEM:
        """Return the stream that `to_arrays` returned as plain values.

        Args:
            kept: the plain values.
            inputs: of the fit.
            device: of its tensors.
        """

        def tensors(name: str) -> dict[str, Any]:
            return {
                key: as_tensor(value).to(device) if isinstance(value, np.ndarray) else value
                for key, value in kept[name].items()
            }

        return cls(
            inputs=inputs,
            standardiser=Standardiser(**tensors("standardiser")),
            mixture=Mixture(inputs.family, **tensors("mixture")),
            statistics=Statistics(**tensors("statistics")),
            counts=as_tensor(kept["counts"]).to(device),
            bounds=list(kept["bounds"]),
            **{name: kept[name] for name in ("batches", "total_weight")},
        )

    def to_arrays(self) -> dict[str, Any]:
        """Return the stream as numbers and NumPy arrays in dicts; after at least one batch."""
        parts = {"standardiser": self.standardiser, "mixture": self.mixture, "statistics": self.statistics}
        return {
            **{name: _arrays(part) for name, part in parts.items()},
            "counts": self.counts.cpu().numpy().copy(),
            "bounds": list(self.bounds),
            "batches": self.batches,
            "total_weight": self.total_weight,
        }

    def update(self, rows: RowSource) -> Mixture:
        """Update the parameters with a batch.

        Args:
            rows: the batch.

        Returns:
            The new parameters, in the units of the data.
        """
        e_step = self._make_e_step(rows)
        batch = e_step.statistics(e_step.make_kernel(self.mixture))
        weight = float(batch.weight)
        self.bounds.append(float(batch.log_likelihood) / weight - e_step.data.standardiser.log_scale())
        self.counts = self.counts + batch.counts
        self.statistics = self._average(_move_origins_to_zero(batch.scale(1 / weight), self.mixture))
        self.batches += 1
        self.total_weight += weight
        if self.total_weight >= WARM_UP_ROWS * self.mixture.components:
            # The statistics of all data so far: empty components are recognised, and a prior counts once.
            total = self.statistics.scale(self.total_weight)
            options = make_options(self.inputs.settings, self.standardiser)
            self.mixture = m_step(total, self.mixture, options.regularisation, options.prior).mixture
        return self.standardiser.unstandardise(self.mixture)

    def _make_e_step(self, rows: RowSource) -> EStep:
        has_missing = self.inputs.has_missing
        observed_share = compute_observed_share(rows) if has_missing else self.standardiser.observed_share
        standardiser = replace(self.standardiser, rows=rows.count_rows(), observed_share=observed_share)
        data = StandardisedChunks(rows, standardiser)
        products = default_products(self.inputs.settings["matmul"])
        return EStep(data, self.inputs.dtype, has_missing, ProcessGroup(), products)

    def _average(self, batch: Statistics) -> Statistics:
        """Return the running statistics, moved towards those of a batch by the step size."""
        if self.statistics is None:
            return batch
        step_size = (self.batches + 2) ** STEP_POWER
        return self.statistics.scale(1 - step_size) + batch.scale(step_size)


def _arrays(part: Any) -> dict[str, Any]:
    """Return the fields of a dataclass by name, tensors as NumPy arrays; without the family of the covariances."""
    values = {each.name: getattr(part, each.name) for each in fields(part) if each.name != "family"}
    return {name: value.cpu().numpy().copy() if isinstance(value, Tensor) else value for name, value in values.items()}


def _move_origins_to_zero(statistics: Statistics, mixture: Mixture) -> Statistics:
    """Return the statistics with origins at 0, so that those of different parameters can be averaged."""
    origins = statistics.origins
    second = mixture.family.shift_second_moments(
        statistics.second_moments, statistics.first_moments, statistics.counts, -origins
    )
    first = statistics.first_moments + statistics.counts.unsqueeze(1) * origins
    return replace(statistics, first_moments=first, second_moments=second, origins=torch.zeros_like(origins))
