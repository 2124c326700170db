"""Check that the step on a batch is the mean of the steps on its shares, before a training in several processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pvae.batch import Batch
from pvae.errors import InputError, first_line
from pvae.objectives import describe
from pvae.programs.parameter_scope import store_tensors
from pvae.train.computation import Computation
from pvae.train.distributed.constant_draws import ConstantDraws
from pvae.train.graph.preserve import preserve_step
from pvae.train.parameters import is_average

__all__ = ["find_batch_norms", "require_mean_of_shares", "require_small_share"]

#: The relative difference that counts as rounding.
_TOLERANCES = {torch.float64: 1e-7, torch.float32: 2e-3}


def find_batch_norms(computation: Computation) -> list[nn.Module]:
    """Return the layers that normalise over the batch."""
    layers = {id(layer): layer for module in computation.parameters.modules for layer in module.modules()}
    return [layer for layer in layers.values() if isinstance(layer, _BatchNorm)]


def require_mean_of_shares(computation: Computation, batch: Batch, count: int) -> None:
    """Raise InputError unless numbers, gradients and buffers of a batch are the weighted means over its shares.

    The shares and the whole batch are computed with the same constants in place of random draws. Layers that normalise
    over the batch use their running averages here.

    Args:
        computation: the computation of one step.
        batch: a batch of full size.
        count: the number of shares.
    """
    computation = replace(computation, autocast=None)
    shares = [batch.take(slice(rank, None, count)) for rank in range(count)]
    with _evaluated(find_batch_norms(computation)):
        for player in computation.parameters.players:
            try:
                whole = _outputs(computation, batch, player)
                parts = [_outputs(computation, share, player) for share in shares]
            except InputError as error:
                raise _refused(computation, first_line(error)) from error
            name = _first_difference(whole, parts, [share.size / batch.size for share in shares])
            if name is not None:
                raise _refused(computation, f"its {name} for a batch is not the mean over the shares of the processes")
    if any(is_average(name) for name in store_tensors(computation.parameters.latent_model)):
        raise _refused(computation, "its decaying averages are kept in Pyro's store by each process")


def require_small_share(computation: Computation, batch: Batch, size: int) -> None:
    """Raise InputError if a step fails on the smallest share of the last batch of an epoch.

    Args:
        computation: the computation of one step.
        batch: a batch of full size.
        size: the number of data of the share.
    """
    small = batch.take(slice(0, size))
    try:
        for player in computation.parameters.players:
            _outputs(computation, small, player)
    except InputError:
        return  # some draws have no constants; the other check reports this
    except Exception as error:
        raise InputError(
            f"Each process needs a share of a batch that the programs accept; the smallest has {size} data, and the "
            f"step fails on it: {type(error).__name__}: {first_line(error)}. Choose another batch_size, or fewer "
            "processes."
        ) from error


def _refused(computation: Computation, reason: str) -> InputError:
    return InputError(
        "Training in several processes needs a step that is a mean over the data; the step of this model with the "
        f"objective {describe(computation.objective)!r} is not one: {reason}. Train in one process, or choose another "
        "objective, such as 'elbo' or 'iwae'."
    )


def _outputs(computation: Computation, batch: Batch, player: str) -> dict[str, Tensor | None]:
    """Return numbers, gradients and buffers after a step on a batch with constant draws, by name."""
    parameters = computation.parameters
    with preserve_step(parameters), ConstantDraws():
        names, outputs = computation(computation.programs.arguments(batch), player)
        gradients = [f"gradient of {name}" for name in parameters.names(player)]
        found = dict(zip([*names, *gradients], outputs, strict=True))
        return found | {
            f"buffer {name}": buffer.clone() for name, buffer in floating_buffers(parameters.modules).items()
        }


def floating_buffers(modules: Sequence[nn.Module]) -> dict[str, Tensor]:
    """Return the floating-point buffers of modules by name, each once."""
    found: dict[int, tuple[str, Tensor]] = {}
    for module in modules:
        for name, buffer in module.named_buffers():
            if buffer.is_floating_point():
                found.setdefault(id(buffer), (name, buffer))
    return {f"{name} ({number})": buffer for number, (name, buffer) in enumerate(found.values())}


def _first_difference(
    whole: dict[str, Tensor | None], parts: Sequence[dict[str, Tensor | None]], weights: Sequence[float]
) -> str | None:
    """Return the name of the first value that is not the weighted mean over the parts; None if all are."""
    for name, value in whole.items():
        values = [part.get(name) for part in parts]
        tensors = [part.detach().double() for part in values if part is not None]
        if value is None and not tensors:
            continue
        if value is None or len(tensors) < len(parts):
            return name
        if not value.numel():
            continue
        mean = torch.stack([weight * part for weight, part in zip(weights, tensors, strict=True)]).sum(0)
        scale = max(float(part.abs().max()) for part in (value.detach(), *tensors))
        tolerance = _TOLERANCES.get(value.dtype, _TOLERANCES[torch.float32]) * max(scale, 1e-6)
        if not float((mean - value.detach()).abs().max()) <= tolerance:
            return name
    return None


@contextmanager
def _evaluated(layers: Sequence[nn.Module]) -> Iterator[None]:
    """Let layers use their running averages inside a block."""
    modes = [layer.training for layer in layers]
    for layer in layers:
        layer.training = False
    try:
        yield
    finally:
        for layer, mode in zip(layers, modes, strict=True):
            layer.training = mode
