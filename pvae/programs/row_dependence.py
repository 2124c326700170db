"""Checks whether the log-density of a datum depends on its position in the batch or on the other data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from pvae.errors import InputError, whole_reason
from pvae.programs.bound import BoundPrograms
from pvae.programs.explicit_rows import ExplicitRows
from pvae.programs.layout import GUIDE
from pvae.programs.plate_sizes import AXIS_ADVICE, plate_of_another_axis
from pvae.programs.sites import Site, UnknownDensityError, base_distribution, is_subsample, log_density, sample_sites
from pvae.randomness import evaluating

__all__ = ["PROGRAM_ERRORS", "RowReport", "disturbed_rows", "examine_rows", "require_rows_of_data", "take_parts"]

#: The errors that a user's program may raise on a batch that it is not made for.
PROGRAM_ERRORS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True)
class RowReport:
    """The changes of the log-densities of the data with the rows of a batch.

    Attributes:
        tied: the sites with a density for each position of the batch: the data move, but the densities do not. A site
            of the guide has the suffix `GUIDE`.
        mixed: the sites at which the density of a datum depends on the other data of the batch.
        fails: the reason why the programs do not run on another number of data, or on these data; "" if they run.
    """

    tied: tuple[str, ...] = ()
    mixed: tuple[str, ...] = ()
    fails: str = ""


@dataclass(frozen=True)
class _Run:
    """Both programs on some rows of a batch, with the values of the latent sites at the same rows.

    Attributes:
        guide: the trace of the guide.
        model: the trace of the model.
    """

    guide: poutine.Trace
    model: poutine.Trace

    def traces(self) -> Iterator[tuple[str, poutine.Trace]]:
        """Yield both traces, each with the suffix of its sites."""
        yield GUIDE, self.guide
        yield "", self.model


def examine_rows(programs: BoundPrograms, *, halve: bool = True) -> RowReport:
    """Run both programs on a batch, on the same data in another order, and on the first half of the data.

    The programs run in evaluation mode, without gradients, and at the same z per datum. Sites with a random density,
    for example with dropout outside modules, are left out. Random generators and buffers are restored.

    Args:
        programs: both programs with the tensors of one batch.
        halve: whether to run the first half of the data too.
    """
    size = programs.size
    is_batch = all(isinstance(value, Tensor) and value.dim() and len(value) == size for value in programs.args)
    report = RowReport()
    if size < 2 or not is_batch or programs.kwargs:
        return report
    with programs.preserved_state(), evaluating(*programs.modules), pyro.validation_enabled(False):
        try:
            rows = _Rows(programs)
        except PROGRAM_ERRORS as error:
            return RowReport(fails=whole_reason(error))
        for dim in rows.data_dims():
            report = rows.report(dim, halve)
            if not report.tied and not report.mixed:  # other plates of this size are not over the data
                break
    return report


def require_rows_of_data(programs: BoundPrograms) -> None:
    """Raise InputError if the plate over data is not over the first axis, or has rows that differ from the batch's.

    Args:
        programs: both programs with the tensors of one batch.

    Raises:
        InputError: with the plate; or with the site, found by a run of both programs on the data in another order.
    """
    other = plate_of_another_axis(programs.layout, programs.args, programs.size)
    if other is not None:
        # the layout is kept for all batches of a kind, so its plates may have a size from another batch
        with programs.preserved_state():
            layout = programs.find_layout(*programs.trace_both())
        other = plate_of_another_axis(layout, programs.args, programs.size)
    if other is not None:
        raise InputError(f"An evaluation needs a plate over axis 0 of the data; {other[1]} {AXIS_ADVICE}")
    frames = [frame for plates in programs.layout.frames.values() for frame in plates.values()]
    if all(frame.full_size is None or frame.full_size == frame.size for frame in frames):
        return
    tied = examine_rows(programs, halve=False).tied
    if tied:
        raise InputError(
            f"Site {tied[0].removesuffix(GUIDE)!r} is in a subsampled plate with rows that differ from the data of the "
            "batch. Give the plate the indices of the data, subsample=index, in both programs; an autoguide takes them "
            "from create_plates=."
        )


def take_parts(first: BoundPrograms, bind_part: Callable[[], BoundPrograms], data: int) -> bool:
    """Return whether programs give a part of the data the same densities in any order, without error.

    Args:
        first: both programs with the tensors of the first data, as many as fit into memory.
        bind_part: a function that returns both programs with the tensors of a part.
        data: the number of all data.
    """
    try:
        first.layout  # noqa: B018 - an autoguide takes its shapes from its first batch
        part = bind_part()
        report = examine_rows(part, halve=False)
        return not report.tied and not report.fails and not _has_plate_of_size(part, data)
    except PROGRAM_ERRORS:
        return False


def _has_plate_of_size(programs: BoundPrograms, size: int) -> bool:
    """Return whether the guide has a plate of all data for a part of them, like an autoguide after its first run."""
    with programs.preserved_state():
        sites = sample_sites(programs.trace_guide())
    frames = [frame for site in sites for frame in site["cond_indep_stack"] if frame.vectorized]
    return any(frame.size == size for frame in frames)


class _Rows:
    """Runs of two programs on rows of one batch; the first run is on the batch itself.

    Args:
        programs: both programs with the tensors of the batch.
    """

    def __init__(self, programs: BoundPrograms) -> None:
        self.programs, self.size, self.dim = programs, programs.size, -1
        # The indices that a program gives its plates itself change with the data, and are not replayed.
        self.in_guide, self.in_model = ExplicitRows(), ExplicitRows()
        recorded = programs.with_programs(self.in_model(programs.model), self.in_guide(programs.guide))
        self.first = _Run(*recorded.trace_both())

    def data_dims(self) -> list[int]:
        """Return the dimensions of the plates with all observed sites and one row for each datum of the batch."""
        observed = [site for site in sample_sites(self.first.model) if site["is_observed"]]
        dims = [
            {frame.dim for frame in site["cond_indep_stack"] if frame.dim is not None and frame.size == self.size}
            for site in observed
        ]
        return sorted(set.intersection(*dims)) if dims else []

    def report(self, dim: int, halve: bool) -> RowReport:
        """Return the report of the programs; the data are on dimension `dim` of each log-density."""
        self.dim = dim
        first, order = self.first, torch.arange(self.size).roll(1)
        # The first half of the moved data shows both faults in one run, and most programs have neither.
        if halve and self._differing(first, order[: self.size // 2]) == set():
            return RowReport()
        moved = self._differing(first, order)
        if isinstance(moved, str):
            return RowReport(fails=moved)
        half = self._differing(first, torch.arange(self.size // 2)) if halve else set()
        fails = half if isinstance(half, str) else ""
        mixed: set[str] = set() if isinstance(half, str) else half - moved
        if moved or mixed:
            again = self._differing(first, torch.arange(self.size))
            random = set() if isinstance(again, str) else again
            moved, mixed = moved - random, mixed - random
        names = [site["name"] + suffix for suffix, trace in first.traces() for site in sample_sites(trace)]
        return RowReport(tuple(filter(moved.__contains__, names)), tuple(filter(mixed.__contains__, names)), fails)

    def _differing(self, first: _Run, rows: Tensor) -> set[str] | str:
        """Return the sites with densities that differ from the first run at `rows`, or the reason of a failure."""
        try:
            run = self._run(first, rows)
            pairs = [
                (site["name"] + suffix, site, other.nodes.get(site["name"]))
                for (suffix, trace), (_, other) in zip(first.traces(), run.traces(), strict=True)
                for site in sample_sites(trace)
                if self._is_inside(site)
            ]
            return {name for name, site, other in pairs if not self._follows(site, other, rows)}
        except PROGRAM_ERRORS as error:
            return whole_reason(error)

    def _run(self, first: _Run, rows: Tensor) -> _Run:
        """Run both programs on rows of the batch, at the z of the first run for these data."""
        arguments = tuple(value[rows.to(value.device)] for value in self.programs.args)
        programs = BoundPrograms(self.programs.model, self.programs.guide, arguments)
        guide = programs.trace_guide(self._at_rows(first.guide, rows, self.in_guide))
        fixed = self._at_rows(first.model, rows, self.in_model)
        for name, site in guide.nodes.items():
            if site["type"] == "sample":
                fixed.nodes[name] = site
        return _Run(guide, programs.trace_model(fixed))

    def _at_rows(self, trace: poutine.Trace, rows: Tensor, explicit: ExplicitRows) -> poutine.Trace:
        """Return a trace that holds the values of the latent sites and plates at `rows`."""
        selected = poutine.Trace()
        for name, node in trace.nodes.items():
            site: Site = node
            if site["type"] != "sample" or site["is_observed"] or name in explicit.indices:
                continue
            value = site["value"]
            if is_subsample(site):
                value = value[: len(rows)] if len(value) == self.size else value
            elif self._is_inside(site):
                value = _take(value, self.dim - site["fn"].event_dim, rows, self.size)
            selected.add_node(name, **(site | {"value": value}))
        return selected

    def _is_inside(self, site: Site) -> bool:
        return any(frame.dim == self.dim and frame.size == self.size for frame in site["cond_indep_stack"])

    def _follows(self, site: Site, other: Site | None, rows: Tensor) -> bool:
        """Return whether the density of a site at `rows` equals the one in a run on these rows, or is unknown."""
        if other is None:
            return True
        one, two = _quantity(site), _quantity(other)
        if one is None or two is None:
            return True
        (before, event_dim), (after, _) = one, two
        expected = _take(before, self.dim - event_dim, rows, self.size)
        return expected.shape != after.shape or _is_close(expected, after)


def _quantity(site: Site) -> tuple[Tensor, int] | None:
    """Return the compared tensor, and the number of its event dimensions: the log-density, or the point of a Delta.

    The density of a Delta at a value that differs by rounding is 0. The result is None for an unknown density.
    """
    density = base_distribution(site["fn"])
    if isinstance(density, dist.Delta):
        return density.v, site["fn"].event_dim
    try:
        return log_density(site), 0
    except (NotImplementedError, UnknownDensityError):
        return None


def _take(values: Tensor, dim: int, rows: Tensor, size: int) -> Tensor:
    """Return the entries `rows` of a dimension, counted from the right, if it has all `size` of them."""
    if values.dim() < -dim or values.shape[dim] != size:
        return values
    return values.index_select(dim, rows.to(values.device))


def _is_close(one: Tensor, other: Tensor) -> bool:
    tolerance = 1e-6 if one.dtype == torch.float64 else 2e-3
    return torch.allclose(one.double(), other.double(), rtol=tolerance, atol=tolerance, equal_nan=True)


@contextmanager
def disturbed_rows(parameters: Mapping[str, Tensor], sizes: Iterable[int]) -> Iterator[None]:
    """Inside a block, change parameters that may have one row per datum slightly, so that their rows differ.

    Before a training, all rows are often equal, and then positions of the batch cannot be distinguished. Each
    entry keeps its sign. The random generators advance.

    Args:
        parameters: parameters by name.
        sizes: the lengths that count as one row per datum.
    """
    wanted = set(sizes)
    chosen = [tensor for tensor in parameters.values() if tensor.is_floating_point() and wanted & set(tensor.shape)]
    before: list[tuple[Tensor, Any]] = [(tensor, tensor.detach().clone()) for tensor in chosen]
    try:
        with torch.no_grad():
            for tensor, old in before:
                noise = torch.rand_like(old) * 2 - 1
                tensor.copy_(torch.where(old == 0, 0.05 * noise, old * (1 + 0.1 * noise)))
        yield
    finally:
        with torch.no_grad():
            for tensor, old in before:
                tensor.copy_(old)
