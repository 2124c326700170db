"""The context of an evaluation: model, data, mode, parameter store, device and random state."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from pvae.batch import Batch
from pvae.checks import require_whole
from pvae.data.scaling import check_narrowing, narrowed
from pvae.data.streams.looks import first_of, some_of
from pvae.data.streams.stored_batch import StoredBatch
from pvae.data.subset import Subset
from pvae.errors import InputError
from pvae.evaluate.base import Estimate
from pvae.evaluate.evaluated_data import HoldsLatentModel, evaluated_data
from pvae.evaluate.selected_data import FIRST_DATA, binarised_split, first_data, limited_data
from pvae.logs import timed
from pvae.names import require_known
from pvae.objectives import no_density_by, untrained_by
from pvae.products import MATMULS
from pvae.programs.binding import Fields, Programs, bind
from pvae.programs.bound import BoundPrograms
from pvae.programs.classifier import require_known_labels
from pvae.programs.fitting_runs import look_within_memory
from pvae.programs.ignored_masks import require_masks_taken
from pvae.programs.model_traits import is_latent_model
from pvae.programs.parameter_scope import scope
from pvae.programs.row_dependence import require_rows_of_data, take_parts
from pvae.programs.usable_data import require_usable
from pvae.randomness import evaluating
from pvae.train.devices import isolated, resolve
from pvae.train.run import Run
from pvae.weights import LogWeights
from pvae.weights.compute import weights_of

_LOG = logging.getLogger(__name__)
#: The number of data with which a cast of x is checked.
_ENOUGH_FOR_SPREAD = 100

__all__ = ["EvaluationContext", "evaluation_context", "latent_model_of"]


@dataclass(frozen=True)
class EvaluationContext:
    """A latent model in evaluation mode and the data to evaluate it on, both on one device.

    Attributes:
        model: the latent model.
        batch: all the data, in order.
        fields: the batch fields that the programs get, as for `pvae.models.bind`.
        data_plate: the name of the plate over data, if several plates hold every site.
        subset: a description of which data these are; None if it is not known.
        matmul: the library of the matrix products of many log weights, as for `evaluation_context`.
    """

    model: Any
    batch: Batch
    fields: Fields = None
    data_plate: str | None = None
    subset: Subset | None = None
    matmul: str = MATMULS[0]
    _known_parts: dict[int, bool] = field(default_factory=dict, init=False, repr=False, compare=False)

    def estimate(self, pointwise: Tensor) -> Estimate:
        """Return the mean of one number per datum, with the description of the data.

        Args:
            pointwise: shape (data,).
        """
        return replace(Estimate.mean_of(pointwise), subset=self.subset)

    def rows_of(self, values: Any) -> Tensor:
        """Return the rows of the evaluated data from numbers of all data.

        Args:
            values: one row per datum, shape (data, ...), of all data or of only the evaluated data.
        """
        tensor = torch.as_tensor(values)
        return tensor if self.subset is None else self.subset.rows_of(tensor)

    @cached_property
    def programs(self) -> Programs:
        """The model and the guide, both callable with the same tensors."""
        return bind(self.model, self.batch, self.fields)

    def bound_to(self, batch: Mapping[str, Tensor]) -> BoundPrograms:
        """Return both programs with the fields of `batch` as arguments; the guide has only the sites of q."""
        return self.programs.bound_to(batch).without_loss_terms()

    def log_weights(self, batch: Batch, particles: int) -> LogWeights:
        """Return the log weights of a batch, in nats; each table has shape (particles, batch).

        Args:
            batch: the data.
            particles: the number of draws of z per datum.

        Raises:
            InputError: if the programs give no weight per datum.
        """
        return weights_of(self.bound_to(batch), particles, data_plate=self.data_plate)

    def data_dim(self, programs: BoundPrograms) -> int:
        """Return the dimension of the plate over data, counted from the right of a site's batch shape."""
        return programs.layout.data_plate(self.data_plate)[1]

    def chunks(self, size: int) -> Iterator[Batch]:
        """Yield the data in order, at most `size` at a time.

        All at once if the programs cannot run on a part of the data.
        """
        size = require_whole(size, "chunk")
        require_rows_of_data(self.first_data)
        size = self.data_at_once(size)
        for start in range(0, self.batch.size, size):
            yield self.batch.take(slice(start, start + size))

    def data_at_once(self, size: int) -> int:
        """Return the number of data of one run: at most `size`, or all if the programs cannot run on a part.

        Programs may be made for a fixed number of data, or may have parameters for each position of the batch. A part
        has no more data than fit into memory in the first run of the programs.

        Args:
            size: the largest number of data at once.
        """
        if self.first_data.size < min(self.batch.size, FIRST_DATA):
            size = min(size, self.first_data.size)
        return size if size >= self.batch.size or self._takes_parts(size) else self.batch.size

    def _takes_parts(self, size: int) -> bool:
        """Return whether the programs give the first data the same densities in any order, without an error."""
        known = self._known_parts
        if size not in known:
            part = self.batch.take(slice(0, max(size, 2)))
            known[size] = take_parts(self.first_data, lambda: self.bound_to(part), self.batch.size)
        return known[size]

    @cached_property
    def first_data(self) -> BoundPrograms:
        """The programs on the data of a first run: all, at most 10000, or as many as fit into memory."""

        def look(part: Mapping[str, Tensor]) -> BoundPrograms:
            programs = self.bound_to(part)
            programs.layout  # noqa: B018 - this runs both programs, and is kept for all batches of this kind
            return programs

        return look_within_memory(look, self.programs.modules, first_of(self.batch, FIRST_DATA))


def latent_model_of(model: Any) -> Any:
    """Return the object with ``.model`` and ``.guide``: `model` itself, or the latent model of a run.

    Raises:
        InputError: if it is neither.
    """
    if is_latent_model(model):
        return model
    if isinstance(model, HoldsLatentModel) and is_latent_model(model.model):
        return model.model
    raise InputError(
        "An evaluation needs a run or a latent model with .model and .guide; "
        f"got {type(model).__name__}. Use pvae.pair(model, guide) for two functions."
    )


def _require_trained_guide(model: Any) -> None:
    """Raise InputError if a run did not train its guide, because every estimate here uses the guide's draws."""
    if not isinstance(model, Run):
        return
    objective = str(model.config.get("objective", ""))
    if objective and "phi" in untrained_by(objective):
        raise InputError(
            "An evaluation uses draws from a trained guide. This run was trained by "
            f"{objective!r}, which leaves the guide untrained. Look at samples of the model (`pvae show`), or train "
            "with 'ali', which trains a guide too."
        )


def _require_density(model: Any) -> None:
    """Raise InputError if p(x given z) of a run is not a trained density, because the evidence needs a density."""
    objective = str(model.config.get("objective", "")) if isinstance(model, Run) else ""
    reason = no_density_by(objective) if objective else ""
    if reason:
        raise InputError(
            f"There is no evidence for a run that was trained by {objective!r}: {reason}. Look at its samples and "
            "reconstructions (`pvae show`), or train with 'elbo'."
        )


@contextmanager
def evaluation_context(
    model: Any,
    data: Any = None,
    *,
    split: str = "test",
    limit: int | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    fields: Fields = None,
    data_plate: str | None = None,
    matmul: str = MATMULS[0],
    needs_density: bool = True,
) -> Iterator[EvaluationContext]:
    """Enter the context of an evaluation; on exit, modules, parameter store and random generators are restored.

    Inside, the modules are in evaluation mode and on `device`, gradients are off, Pyro's parameter store is the
    model's own, and the random generators start from `seed`.

    Args:
        model: a run, a latent model, a class of Pyro's tutorials, a `pvae.pair`.
        data: `Splits`, or the name or path of data, and then `split` is used; a `Batch`, or anything else that
            `pvae.load_data` accepts, and then all data are used. For a run, columns and labels are matched with those
            of its training, and None means the data of its training.
        split: ``"test"``, ``"validation"`` or ``"train"`` of `Splits`.
        limit: the largest number of data; a random subset is drawn by `seed`, the same for all models.
        seed: the seed of the subset and of the random generators inside the context.
        device: the device of the computation; by default the device of the parameters.
        fields: the batch fields that the programs get, if their signatures do not name them; by default those that a
            run was trained with.
        data_plate: the name of the plate over data, if several plates hold every site.
        matmul: the library of the matrix products of long evaluations: ``"auto"``, the fastest one for each shape, or
            ``"aten"``, torch only, with which the log weights have the same bits as those of Pyro.
        needs_density: whether the evaluation uses the density p(x given z).

    Raises:
        InputError: if there is no such split, no data, no latent model, or a run with an objective that does not train
            the guide or the density that the evaluation needs; or if values are missing and the model takes no mask.
    """
    seed = require_whole(seed, "seed", least=0)
    require_known("matmul", matmul, MATMULS)
    latent_model = latent_model_of(model)
    _require_trained_guide(model)
    if needs_density:
        _require_density(model)
    data = evaluated_data(model, data)
    if fields is None and isinstance(model, Run):
        fields = model.fields
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(scope(latent_model, inherit=True))
        programs = bind(latent_model, first_data(data, split), fields)
        modules = nn.ModuleList(programs.all_modules)
        stack.enter_context(evaluating(modules))
        batch, subset = limited_data(binarised_split(latent_model, data, split, fields), limit, seed)
        batch = _with_checks(latent_model, programs, batch)
        batch = _match_parameters(batch, modules, stack.enter_context(_moved_to(modules, device)))
        stack.enter_context(isolated(seed))
        stack.enter_context(timed(_LOG, f"evaluate {'data' if batch.known_size is None else batch.known_size} data"))
        yield EvaluationContext(latent_model, batch, fields, data_plate, subset, matmul)


def _with_checks(latent_model: Any, programs: Programs, batch: Batch) -> Batch:
    """Return the data after the checks of their values; data that are read later are checked then."""

    def checked(part: Batch) -> Batch:
        if "y" in programs.fields:
            require_known_labels(latent_model, part)
        require_usable(part)
        require_masks_taken(programs, part)
        return part

    return batch.changed(checked) if isinstance(batch, StoredBatch) else checked(batch)


@contextmanager
def _moved_to(modules: nn.Module, device: str | torch.device | None) -> Iterator[torch.device | None]:
    """Move the modules to `device` inside the block; yield their device, or None if they hold no tensors."""
    first = next(modules.parameters(), next(modules.buffers(), None))
    original = None if first is None else first.device
    target = original if device is None else resolve(device)
    if original is None or target == original:
        yield target
        return
    modules.to(target)
    try:
        yield target
    finally:
        modules.to(original)


def _match_parameters(batch: Batch, modules: nn.Module, device: torch.device | None) -> Batch:
    """Return the batch on `device` and in the precision of the parameters, because NumPy arrays are float64."""
    if device is not None:
        batch = batch.to(device)
    dtypes = {parameter.dtype for parameter in modules.parameters() if parameter.is_floating_point()}
    if len(dtypes) != 1:
        return batch
    dtype = dtypes.pop()
    if batch.size >= _ENOUGH_FOR_SPREAD:
        check_narrowing(some_of(batch), dtype)
    return batch.changed(partial(narrowed, dtype=dtype)) if isinstance(batch, StoredBatch) else narrowed(batch, dtype)
