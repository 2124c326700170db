"""The setting of an evaluation: which model, which data, in which mode, store, device and random state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from pyro import poutine
from torch import Tensor, nn

from pvae.batch import Batch, as_batch
from pvae.checks import require_whole
from pvae.errors import InputError
from pvae.objectives import untrained_by
from pvae.programs.binding import Programs, bind
from pvae.programs.classifier import outside_classes
from pvae.programs.model_traits import is_latent_model, traits_of
from pvae.programs.parameter_scope import scope
from pvae.programs.queries import scores_bits
from pvae.randomness import evaluating
from pvae.train.devices import isolated, resolve

__all__ = ["Setting", "latent_model_of", "prepared"]

Fields: TypeAlias = Sequence[str] | Mapping[str, str] | None


@dataclass(frozen=True)
class Setting:
    """A model in eval mode and the data to judge it on, both on one device.

    Args:
        model: the latent model.
        batch: all the data, in order.
        fields: which batch fields the programs get (`pvae.models.bind`).
        data_plate: name of the plate over data, where it is not evident.
    """

    model: Any
    batch: Batch
    fields: Fields = None
    data_plate: str | None = None

    def programs(self) -> Programs:
        """Return the model and guide as callables over the same tensors."""
        return bind(self.model, self.batch, self.fields)

    def traces(self, batch: Batch) -> tuple[poutine.Trace, poutine.Trace]:
        """Return the traces of one draw: the guide's, and the model's at the same z."""
        return self.programs().bound_to(batch).trace_both()

    def data_dim(self, batch: Batch) -> int:
        """Return the dimension of the plate over data, counted from the right of a site's batch shape."""
        return self.programs().bound_to(batch).layout.data_plate(self.data_plate)[1]

    def slices(self, size: int) -> Iterator[Batch]:
        """Return the data in order, at most `size` at a time."""
        for start in range(0, self.batch.size, size):
            yield self.batch.take(slice(start, start + size))


def latent_model_of(model: Any) -> Any:
    """Return the object with ``.model`` and ``.guide``: `model` itself, or the model of a run.

    Raises:
        InputError: if it is neither.
    """
    for candidate in (model, getattr(model, "model", None)):
        if is_latent_model(candidate):
            return candidate
    raise InputError(
        "An evaluation needs a run or a latent model with .model and .guide; "
        f"got {type(model).__name__}. Use pvae.pair(model, guide) for two functions."
    )


def _require_guide(model: Any) -> None:
    """Refuse a run whose guide was never trained: every number here comes of its weights or its draws."""
    config = getattr(model, "config", None)
    text = str(config.get("objective", "")) if isinstance(config, dict) else ""
    if text and "phi" in untrained_by(text):
        raise InputError(
            f"This run was trained by {text!r}, which leaves the guide untrained: evidence and codes by it would say "
            "nothing of the model. Look at its samples (`pvae show`), or train by 'ali', which trains a guide too."
        )


@contextmanager
def prepared(
    model: Any,
    data: Any,
    *,
    split: str = "test",
    limit: int | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    fields: Fields = None,
    data_plate: str | None = None,
) -> Iterator[Setting]:
    """Enter the setting of an evaluation; on leaving, everything is as it was.

    Inside: the modules are in eval mode and on `device`, gradients are off, Pyro's parameter store is the
    model's own, and the random generators start from `seed`.

    Args:
        model: a run, a latent model, a class of Pyro's tutorials, a `pvae.pair`.
        data: `Splits` (its `split`), a `Batch`, or what `as_batch` takes.
        split: ``"test"``, ``"validation"`` or ``"train"`` of `Splits`.
        limit: only this many data, the first ones, so that all models are judged on the same.
        seed: of the random generators inside.
        device: where to compute; by default where the parameters are.
        fields: the batch fields for the programs, where their signatures do not tell.
        data_plate: name of the plate over data, where it is not evident.

    Raises:
        InputError: if there is no such split, no data, no latent model, or a run whose objective trains no guide.
    """
    latent = latent_model_of(model)
    _require_guide(model)
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(scope(latent, inherit=True))
        programs = bind(latent, _sample(data, split), fields)
        modules = programs.modules
        stack.enter_context(evaluating(modules))
        batch = _limited(_chosen(latent, data, split, fields), limit)
        _check_labels(latent, batch if "y" in programs.fields else {})
        batch = _like_parameters(batch, modules, stack.enter_context(_placed(modules, device)))
        stack.enter_context(isolated(seed))
        yield Setting(latent, batch, fields, data_plate)


def _is_splits(data: Any) -> bool:
    return hasattr(data, "for_likelihood") and hasattr(data, "train")


def _split(data: Any, split: str) -> Batch:
    if not _is_splits(data):
        return data if isinstance(data, Batch) else as_batch(data)
    if split not in ("train", "validation", "test"):
        raise InputError(f"Splits are train, validation and test; got split={split!r}.")
    chosen = getattr(data, split)
    if chosen is None or chosen.size == 0:
        raise InputError(f"The data have no {split} split; pass a batch, or split='train'.")
    return chosen


def _sample(data: Any, split: str) -> Batch:
    return _split(data, split).take(slice(0, 2))


def _chosen(latent: Any, data: Any, split: str, fields: Fields) -> Batch:
    """The split's data; an open binarisation is settled by the likelihood, as in training."""
    if _is_splits(data) and getattr(data, "binarise", None) == "auto":
        data = data.for_likelihood(scores_bits(latent, _sample(data, split), fields))
    return _split(data, split)


def _check_labels(latent: Any, batch: Mapping[str, Tensor]) -> None:
    """Refuse labels that a model of so many classes has not: they would have probability 0."""
    classes, y = traits_of(latent).classes, batch.get("y")
    if not isinstance(classes, int) or y is None or y.dim() > 1:
        return
    outside = outside_classes(y, classes, hidden=True)
    if bool(outside.any()):
        raise InputError(
            f"{int(outside.sum())} labels of these data lie outside the {classes} classes of the model, 0 to "
            f"{classes - 1} (-1: hidden); the first is {y[outside][0].item():g}."
        )


def _limited(batch: Batch, limit: int | None) -> Batch:
    if limit is not None:
        limit = require_whole(limit, "limit", advice="It is the number of data to evaluate; None takes all.")
    if batch.size == 0:
        raise InputError("An evaluation needs at least one datum; the data are empty.")
    return batch if limit is None else batch.take(slice(0, limit))


@contextmanager
def _placed(modules: nn.Module, device: str | torch.device | None) -> Iterator[torch.device | None]:
    """Move the modules to `device` for the block; return where they then are (None: anywhere)."""
    first = next(modules.parameters(), next(modules.buffers(), None))
    home = None if first is None else first.device
    target = home if device is None else resolve(device)
    if home is None or target == home:
        yield target
        return
    modules.to(target)
    try:
        yield target
    finally:
        modules.to(home)


def _like_parameters(batch: Batch, modules: nn.Module, device: torch.device | None) -> Batch:
    """The batch on the device of the parameters and in their precision (NumPy's arrays are float64)."""
    if device is not None:
        batch = batch.to(device)
    kinds = {each.dtype for each in modules.parameters() if each.is_floating_point()}
    if len(kinds) != 1:
        return batch
    kind = kinds.pop()
    cast: dict[str, Tensor] = {name: each.to(kind) for name, each in batch.items() if each.is_floating_point()}
    return batch.replace(**cast) if cast else batch
