"""A fit of a mixture to rows of data: several runs of EM, the best of them, and merging of components."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import torch

from pvae.em.base import CovarianceFamily, Mixture
from pvae.em.e_step import EStep
from pvae.em.em_options import EMOptions, make_options
from pvae.em.em_run import EMRun, run_em
from pvae.em.initialisation.initial_mixture import Initialisation, initialise_mixture
from pvae.em.merging.merge_components import merge_components
from pvae.em.merging.split_merge import Move, split_and_merge
from pvae.em.read_inputs import InitialParameters
from pvae.em.rows.row_sources import RowSource
from pvae.em.rows.standardise import Standardiser, fit_standardiser
from pvae.em.rows.standardised_chunks import StandardisedChunks
from pvae.em.run_reports import RunReporter, Watch
from pvae.errors import InputError
from pvae.process_group import ProcessGroup
from pvae.products import default_products

__all__ = ["EMFit", "FitInputs", "WarmStart", "fit_mixture"]


@dataclass(frozen=True)
class WarmStart:
    """The result of an earlier fit, from which EM continues.

    Attributes:
        mixture: the parameters, in the units of the data.
        bound: the bound that they reached, nats per datum.
    """

    mixture: Mixture
    bound: float


@dataclass(frozen=True)
class FitInputs:
    """The inputs of a fit besides the data.

    Attributes:
        family: of the covariances.
        settings: the parameters of the estimator by name.
        initial: initial parameters that the user gave.
        warm_start: the earlier fit from which EM continues, or None.
        random: for the draws.
        dtype: of the arithmetic and the results.
        watch: called after each step of EM, or None.
    """

    family: CovarianceFamily
    settings: dict[str, Any]
    initial: InitialParameters
    warm_start: WarmStart | None
    random: np.random.RandomState
    dtype: torch.dtype
    watch: Watch | None = None

    @property
    def has_missing(self) -> bool:
        """Whether NaN marks missing values."""
        return bool(self.settings["missing"] == "marginalise")

    def make_initialisation(self) -> Initialisation:
        """Return the inputs of an initialisation."""
        return Initialisation(
            family=self.family,
            components=int(self.settings["n_components"]),
            init_params=self.settings["init_params"],
            parameters=self.initial,
            is_relative=isinstance(self.settings["reg_covar"], str),
            random=self.random,
        )


@dataclass(frozen=True)
class EMFit:
    """The result of a fit.

    Attributes:
        mixture: the parameters, in the units of the data.
        run: the best run of EM, in standardised coordinates.
        standardiser: the standardised coordinates.
        options: of EM.
        moves: the split-and-merge moves that raised the bound.
        merged: for each component, the numbers of the components that were merged into it; its own number alone if
            none was.
    """

    mixture: Mixture
    run: EMRun
    standardiser: Standardiser
    options: EMOptions
    moves: list[Move]
    merged: list[list[int]]


def fit_mixture(rows: RowSource, inputs: FitInputs) -> EMFit:
    """Fit a mixture by EM.

    Args:
        rows: the data.
        inputs: the other inputs.

    Returns:
        The best run.

    Raises:
        InputError: for data that cannot be fitted; the message is one line.
    """
    settings = inputs.settings
    group = ProcessGroup(settings["distributed"])
    standardiser = fit_standardiser(
        rows,
        one_scale=inputs.family.name == "spherical",
        has_missing=inputs.has_missing,
        sum_over_processes=group.sum,
    )
    _check_rows(standardiser, settings["n_components"])
    options = make_options(settings, standardiser)
    data = StandardisedChunks(rows, standardiser)
    e_step = EStep(data, inputs.dtype, inputs.has_missing, group, default_products(settings["matmul"]))
    runner = _Runner(e_step, inputs, options)
    best = runner.run_best()
    best, moves, merged = _split_and_merge_components(runner, best)
    return EMFit(standardiser.unstandardise(best.mixture), best, standardiser, options, moves, merged)


class _Runner:
    """Runs EM on the same data several times and numbers the runs.

    Args:
        e_step: the E-step over the data.
        inputs: of the fit.
        options: of EM.
    """

    def __init__(self, e_step: EStep, inputs: FitInputs, options: EMOptions) -> None:
        self.e_step = e_step
        self.inputs = inputs
        self.options = options
        self._numbers = count()

    def run_best(self) -> EMRun:
        """Run EM from each start, and return the run with the highest bound."""
        best = self._run_from_start()
        runs = 1 if self.inputs.warm_start is not None else int(self.inputs.settings["n_init"])
        for _ in range(runs - 1):
            run = self._run_from_start()
            if not best.bounds or run.bounds[-1] > best.bounds[-1]:
                best = run
        return best

    def run_from(self, mixture: Mixture) -> EMRun:
        """Run EM from a mixture in standardised coordinates."""
        reporter = self._make_reporter()
        return self._run(mixture, float("-inf"), reporter)

    def _run_from_start(self) -> EMRun:
        reporter = self._make_reporter()
        warm_start = self.inputs.warm_start
        data = self.e_step.data
        if warm_start is not None:
            return self._run(data.standardiser.standardise(warm_start.mixture), warm_start.bound, reporter)
        initialisation = self.inputs.make_initialisation()
        mixture = initialise_mixture(data, initialisation, self.options, self.e_step.group)
        return self._run(mixture, float("-inf"), reporter)

    def _make_reporter(self) -> RunReporter:
        settings = self.inputs.settings
        number = next(self._numbers)
        reporter = RunReporter(settings["verbose"], settings["verbose_interval"], number, self.inputs.watch)
        reporter.report_start()
        return reporter

    def _run(self, mixture: Mixture, previous_bound: float, reporter: RunReporter) -> EMRun:
        run = run_em(self.e_step, mixture, self.options, previous_bound, reporter.report_step)
        reporter.report_end(run)
        return run


def _split_and_merge_components(runner: _Runner, run: EMRun) -> tuple[EMRun, list[Move], list[list[int]]]:
    """Return the run after the requested splits and merges, the moves, and the origins of each component."""
    settings = runner.inputs.settings
    e_step = runner.e_step
    options = runner.options
    moves: list[Move] = []
    if settings["split_merge"] and run.bounds:
        trials = int(settings["split_merge"])
        run, moves = split_and_merge(e_step, run, options, trials, runner.inputs.random, runner.run_from)
    if settings["merge"] is None:
        return run, moves, [[number] for number in range(run.mixture.components)]
    run, merged = merge_components(e_step, run, options, float(settings["merge"]), runner.run_from)
    return run, moves, merged


def _check_rows(standardiser: Standardiser, components: int) -> None:
    if standardiser.rows < components:
        raise InputError(
            f"Expected n_samples >= n_components but got n_components = {components}, n_samples = {standardiser.rows}"
        )
