"""A fit from data to parameters: frame, starts, runs of EM, and the best of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pvae.em.ascent import Ascent, Rules, ascend
from pvae.em.base import Family, Mixture, with_whitening
from pvae.em.frame import Columns, Frame, survey
from pvae.em.merging import merge_duplicates
from pvae.em.passes import Passes
from pvae.em.processes import Processes
from pvae.em.row_sources import ArrayRows, Rows
from pvae.em.settings import rules_of
from pvae.em.split_merge import Move, split_and_merge
from pvae.em.starts import fallback, start
from pvae.em.updates import maximised
from pvae.errors import InputError

__all__ = ["Fit", "Given", "Watch", "each", "fit_rows", "ranges", "status_of"]

#: Above so many rows a start is found on a sample of them.
START_ROWS = 1 << 20
Partial = tuple[Tensor | None, Tensor | None, Tensor | None]
Watch = Callable[[int, int, float, bool], None]


@dataclass(frozen=True)
class Given:
    """What a fit is given beside the data.

    Attributes:
        family: of the covariances.
        settings: the estimator's parameters.
        partial: initial weights, means and whitening, each may be None; of x.
        warm: parameters to go on from, of x, and the bound that they reached; or None.
        random: where draws come from.
        dtype: of the work.
        watch: called after each step with the number of the start, from 0, that of the step, from 1, the bound, and
            whether it was the start's last; or None.
    """

    family: Family
    settings: dict[str, Any]
    partial: Partial
    warm: tuple[Mixture, float] | None
    random: np.random.RandomState
    dtype: torch.dtype
    watch: Watch | None = None


@dataclass(frozen=True)
class Fit:
    """The best run, and its parameters in the units of the data.

    Attributes:
        mixture: the parameters.
        run: of EM, in the coordinates of the frame.
        frame: the coordinates.
        rules: how EM ran.
        moves: of split-and-merge, that raised the bound.
        merged: for each component, the numbers of those that were merged into it; its own alone where none were.
    """

    mixture: Mixture
    run: Ascent
    frame: Frame
    rules: Rules
    moves: list[Move]
    merged: list[list[int]]


def fit_rows(rows: Rows, given: Given) -> Fit:
    """Return the best of the runs of EM over the rows.

    Raises:
        InputError: for data that cannot be fitted, in one line.
    """
    settings = given.settings
    missing = settings["missing"] == "marginalise"
    processes = Processes(settings["distributed"])
    frame = survey(rows, uniform=given.family.name == "spherical", missing=missing, reduce=processes.total)
    _check_count(frame, settings["n_components"])
    rules = rules_of(settings, given.family, frame)
    columns = Columns(rows, frame)
    passes = Passes(columns, given.dtype, missing, processes)
    best: Ascent | None = None
    runs = 1 if given.warm is not None else int(settings["n_init"])
    for number in range(runs):
        teller = _Teller(settings["verbose"], settings["verbose_interval"], number, given.watch)
        teller.begin()
        if given.warm is not None:
            mixture, before = frame.inside(given.warm[0]), given.warm[1]
        else:
            mixture, before = _start(columns, given, rules, processes), float("-inf")
        run = ascend(passes, mixture, rules, before, teller.step)
        teller.end(run)
        if best is None or not best.bounds or run.bounds[-1] > best.bounds[-1]:
            best = run
    if best is None:
        raise RuntimeError("no run of EM")
    best, moves, merged = _reshaped(passes, best, rules, given, runs)
    return Fit(frame.outside(best.mixture), best, frame, rules, moves, merged)


def _reshaped(
    passes: Passes, run: Ascent, rules: Rules, given: Given, runs: int
) -> tuple[Ascent, list[Move], list[list[int]]]:
    """Return the run after the splits and merges that are asked for; runs of EM count on from `runs`."""
    settings, numbers = given.settings, count(runs)

    def climb(mixture: Mixture) -> Ascent:
        teller = _Teller(settings["verbose"], settings["verbose_interval"], next(numbers), given.watch)
        teller.begin()
        run = ascend(passes, mixture, rules, float("-inf"), teller.step)
        teller.end(run)
        return run

    moves: list[Move] = []
    if settings["split_merge"] and run.bounds:
        run, moves = split_and_merge(passes, run, rules, int(settings["split_merge"]), given.random, climb)
    if settings["merge"] is None:
        return run, moves, [[number] for number in range(run.mixture.components)]
    run, merged = merge_duplicates(passes, run, rules, float(settings["merge"]), climb)
    return run, moves, merged


def _check_count(frame: Frame, components: int) -> None:
    if frame.count < components:
        raise InputError(
            f"Expected n_samples >= n_components but got n_components = {components}, n_samples = {frame.count}"
        )


def _start(columns: Columns, given: Given, rules: Rules, processes: Processes) -> Mixture:
    """Return where a run starts, in the frame: what is given of it, and the rest from the data."""
    family, frame = given.family, columns.frame
    weights, means, whitening = given.partial
    found = None
    if weights is None or means is None or whitening is None:
        found = _found(columns, given, rules, processes)
        outside = frame.outside(found)
        weights = outside.weights if weights is None else weights.to(frame.shift.device)
        means = outside.means if means is None else means.to(frame.shift.device)
        whitening = outside.whitening if whitening is None else whitening.to(frame.shift.device)
        if given.partial[2] is None:
            # The covariances as they were found, and not twice inverted.
            return replace(found, weights=weights, means=(means - frame.shift) / frame.scale)
    device = frame.shift.device
    return frame.inside(with_whitening(family, weights.to(device), means.to(device), whitening.to(device)))


def _found(columns: Columns, given: Given, rules: Rules, processes: Processes) -> Mixture:
    """Return a start from the data, in the frame; the first process's where there are several."""
    frame, components = columns.frame, int(given.settings["n_components"])
    relative = isinstance(given.settings["reg_covar"], str)
    stretch = torch.ones_like(frame.scale) if relative else frame.scale / frame.scale.max()
    sample = _sampled(columns, given.random, processes)
    statistics = start(given.settings["init_params"], given.family, sample, stretch, components, given.random)
    kept = fallback(given.family, statistics.about, frame.spread, rules.regularisation)
    found = maximised(statistics, kept, rules.regularisation, rules.prior, strict=True).mixture
    if processes.together:
        parts = [processes.from_first(each) for each in (found.weights, found.means, found.covariances)]
        found = given.family.mixture(*parts)
    return found


def _sampled(columns: Columns, random: np.random.RandomState, processes: Processes) -> Columns:
    """Return the data, or where they are many or in several processes a sample of them, in the same frame."""
    rows, frame = columns.rows, columns.frame
    if frame.count <= START_ROWS and not processes.together:
        return columns
    own = frame.count if not processes.together else sum(len(x) for x, _ in rows.chunks(1 << 16))
    most = max(1 << 12, (1 << 21) // rows.features)
    share = min(1.0, most / frame.count)
    numbers = np.arange(own) if share == 1.0 else np.unique(random.randint(0, own, size=max(1, int(share * own))))
    taken = processes.gathered(rows.take(numbers).double())
    sample = ArrayRows(taken)
    return Columns(sample, replace(frame, count=len(taken), weight=float(len(taken))))


def status_of(fit: Fit) -> tuple[list[str], Tensor]:
    """Return a word for each component, and where a variance is regularisation, (components, features) bool.

    Words: fitted, regularised (a variance, given the features before, is below ten times reg_covar), floored (its
    covariance had no Cholesky factor), merged, reseeded, empty. The last that applies is said.
    """
    family, run = fit.mixture.family, fit.run
    components, features = run.mixture.means.shape
    # A factor's diagonal is the variance that is left given the features before: it shows directions too.
    roots = family.dense(run.mixture.roots, components, features).diagonal(dim1=1, dim2=2)
    low = roots.square() < 10 * fit.rules.regularisation
    words = ["fitted"] * components
    for word, mask in (
        ("regularised", low.any(1)),
        ("floored", run.floored),
        ("merged", torch.tensor([len(numbers) > 1 for numbers in fit.merged])),
        ("reseeded", run.reseeded),
        ("empty", run.empty),
    ):
        for component in mask.nonzero().flatten().tolist():
            words[component] = word
    return words, low


class _Teller:
    """Tells of a run: as scikit-learn does, on standard output, where ``verbose`` asks for it; and to who watches."""

    def __init__(self, verbose: int, interval: int, number: int, watch: Watch | None) -> None:
        self.verbose, self.interval, self.number, self.watch = int(verbose), interval, number, watch
        self.begun = self.last = time.perf_counter()

    def begin(self) -> None:
        if self.verbose:
            print(f"Initialization {self.number}")

    def step(self, number: int, bound: float, change: float) -> None:
        if self.watch is not None:
            self.watch(self.number, number, bound, False)
        if not self.verbose or number % self.interval:
            return
        now = time.perf_counter()
        more = f"\t time lapse {now - self.last:.5f}s\t ll change {change:.5f}" if self.verbose > 1 else ""
        print(f"  Iteration {number}{more}")
        self.last = now

    def end(self, run: Ascent) -> None:
        if self.watch is not None and run.bounds:
            self.watch(self.number, len(run.bounds), run.bounds[-1], True)
        if not self.verbose or not run.bounds:
            return
        how = "converged" if run.converged else "did not converge"
        lapse = time.perf_counter() - self.begun
        more = f" time lapse {lapse:.5f}s\t lower bound {run.bounds[-1]:.5f}." if self.verbose > 1 else ""
        print(f"Initialization {how}.{more}")


def ranges(numbers: list[int], most: int = 8) -> str:
    """Return numbers as text, cut short.

    >>> ranges([0, 1, 2, 7])
    '0-2, 7'
    """
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    said = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    return ", ".join(said[:most]) + (", ..." if len(said) > most else "")


def each(values: Tensor) -> Iterator[int]:
    """Yield the numbers of what is true."""
    yield from values.nonzero().flatten().tolist()
