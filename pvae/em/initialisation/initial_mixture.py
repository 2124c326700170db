"""Initial parameters of EM: those that the user gave, and the others from the data."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pvae.em.base import CovarianceFamily, Mixture, mixture_from_whitening
from pvae.em.em_options import EMOptions
from pvae.em.initialisation.initial_statistics import initialise_statistics, make_equal_components
from pvae.em.m_step import m_step
from pvae.em.read_inputs import InitialParameters
from pvae.em.rows.row_sources import ArrayRows
from pvae.em.rows.standardised_chunks import StandardisedChunks
from pvae.process_group import ProcessGroup

__all__ = ["Initialisation", "initialise_mixture"]

#: With more rows, the initial parameters are found on a sample.
MAX_ROWS = 1 << 20
#: Number of values in this sample, and smallest number of its rows.
SAMPLE_ROWS = 1 << 12
SAMPLE_VALUES = 1 << 21


@dataclass(frozen=True)
class Initialisation:
    """The inputs of an initialisation.

    Attributes:
        family: of the covariances.
        components: number of components.
        init_params: the method, a name in `INITIALISERS`.
        parameters: initial parameters that the user gave, in the units of the data.
        is_relative: whether k-means measures distance in standard deviations of each feature; otherwise in the units
            of the data.
        random: for the draws.
    """

    family: CovarianceFamily
    components: int
    init_params: str
    parameters: InitialParameters
    is_relative: bool
    random: np.random.RandomState


def initialise_mixture(
    data: StandardisedChunks, initialisation: Initialisation, options: EMOptions, group: ProcessGroup
) -> Mixture:
    """Return initial parameters in standardised coordinates.

    Args:
        data: the standardised data.
        initialisation: the method, and parameters that the user gave.
        options: regularisation and prior of the first M-step.
        group: the processes that share the data.

    Raises:
        InputError: for a singular covariance without regularisation.
    """
    standardiser = data.standardiser
    parameters = initialisation.parameters.to(standardiser.shift.device)
    weights, means, whitening = parameters.weights, parameters.means, parameters.whitening
    if weights is None or means is None or whitening is None:
        estimated = _estimate_mixture(data, initialisation, options, group)
        in_data_units = standardiser.unstandardise(estimated)
        weights = in_data_units.weights if weights is None else weights
        means = in_data_units.means if means is None else means
        if whitening is None:
            # The estimated covariances stay as they are: inverting them twice would round.
            return replace(estimated, weights=weights, means=(means - standardiser.shift) / standardiser.scale)
    return standardiser.standardise(mixture_from_whitening(initialisation.family, weights, means, whitening))


def _estimate_mixture(
    data: StandardisedChunks, initialisation: Initialisation, options: EMOptions, group: ProcessGroup
) -> Mixture:
    """Return initial parameters from the data, in standardised coordinates; the same for all processes."""
    family = initialisation.family
    standardiser = data.standardiser
    scale = standardiser.scale
    feature_scale = torch.ones_like(scale) if initialisation.is_relative else scale / scale.max()
    sample = _sample_rows(data, initialisation.random, group)
    statistics = initialise_statistics(
        initialisation.init_params, family, sample, feature_scale, initialisation.components, initialisation.random
    )
    equal = make_equal_components(family, statistics.origins, standardiser.mean_square, options.regularisation)
    estimated = m_step(statistics, equal, options.regularisation, options.prior, strict=True).mixture
    if not group.is_distributed:
        return estimated
    weights = group.broadcast(estimated.weights)
    means = group.broadcast(estimated.means)
    return family.make_mixture(weights, means, group.broadcast(estimated.covariances))


def _sample_rows(data: StandardisedChunks, random: np.random.RandomState, group: ProcessGroup) -> StandardisedChunks:
    """Return the data, or a sample where there are many rows or several processes, in the same coordinates."""
    rows = data.rows
    standardiser = data.standardiser
    if standardiser.rows <= MAX_ROWS and not group.is_distributed:
        return data
    own_rows = rows.count_rows() if group.is_distributed else standardiser.rows
    wanted_rows = max(SAMPLE_ROWS, SAMPLE_VALUES // rows.features)
    share = min(1.0, wanted_rows / standardiser.rows)
    if share == 1.0:
        indices = np.arange(own_rows)
    else:
        indices = np.unique(random.randint(0, own_rows, size=max(1, int(share * own_rows))))
    sample: Tensor = group.gather_rows(rows.take(indices).double())
    sample_standardiser = replace(standardiser, rows=len(sample), weight=float(len(sample)))
    return StandardisedChunks(ArrayRows(sample), sample_standardiser)
