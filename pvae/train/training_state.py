"""The tensors and plain values of a training: captured as a snapshot, and restored from one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pvae.errors import InputError
from pvae.memory_layout import in_layout_of
from pvae.names import short_label
from pvae.objectives.base import Objective
from pvae.programs.binding import held_modules
from pvae.programs.parameter_scope import restore_store, store_tensors
from pvae.train.checkpoint import Snapshot, describe_difference
from pvae.train.devices import capture_generators, restore_generators
from pvae.train.encoding import decode, encode, is_encodable
from pvae.train.module_flags import flags_of
from pvae.train.parameters import Parameters, is_average, root_module

__all__ = ["capture_training", "load_parameters", "model_tensors", "restore_training", "shapes_and_dtypes"]

# Prefixes of the names of tensors in a snapshot.
_STORE = "param_store/"
_BUFFERS = "buffers/"
_OBJECTIVE = "objective/"
_OPTIMISER = "optimiser/"
_RANDOM = "random/"

# State that torch's optimisers keep on the CPU for each parameter.
_COUNTERS = ("step", "mu_product", "eta", "mu")


def model_tensors(latent_model: Any, root: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a latent model by name, without copies.

    Args:
        latent_model: any object with ``model`` and ``guide``.
        root: the module that holds all parameters, from `root_module`.

    Returns:
        The state of `root`; the tensors of the parameter store under the prefix ``param_store/``; and the buffers of
        modules that the programs use and that are not in `root`, under the prefix ``buffers/``.
    """
    state = {name: tensor for name, tensor in root.state_dict().items() if isinstance(tensor, Tensor)}
    state |= {_STORE + name: tensor for name, tensor in store_tensors(latent_model).items()}
    return state | _held_buffers(latent_model)


def _held_buffers(latent_model: Any) -> dict[str, Tensor]:
    """Return the buffers of the modules that functions use, such as running averages, by name."""
    buffers: dict[str, Tensor] = {}
    for label, module in held_modules(latent_model).items():
        kept = module.state_dict().keys()  # some buffers are no part of the state
        named = module.named_buffers()
        buffers |= {f"{_BUFFERS}{label}.{name}": buffer for name, buffer in named if name in kept}
    return buffers


def shapes_and_dtypes(tensors: Mapping[str, Tensor]) -> dict[str, list[Any]]:
    """Return the shape and the dtype of each tensor, as JSON values."""
    return {name: [list(tensor.shape), str(tensor.dtype).removeprefix("torch.")] for name, tensor in tensors.items()}


def load_parameters(latent_model: Any, root: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy saved tensors into a latent model, inside its scope.

    Args:
        latent_model: any object with ``model`` and ``guide``.
        root: the module that holds all parameters, from `root_module`.
        tensors: tensors by name, as `model_tensors` returned them.

    Raises:
        InputError: if the tensors belong to another model; the error names the differences. Also if a parameter is not
            finite, because no training writes that.
    """
    present = {name: tensor for name, tensor in root.state_dict().items() if isinstance(tensor, Tensor)}
    saved = {name: tensor for name, tensor in tensors.items() if not name.startswith((_STORE, _BUFFERS))}
    _require_same(present, saved, "parameters", "model")
    held = _held_buffers(latent_model)
    _require_same(held, {name: tensors[name] for name in tensors if name.startswith(_BUFFERS)}, "buffers", "model")
    _require_finite(root, tensors)
    with torch.no_grad():
        for name, tensor in present.items():
            tensor.copy_(saved[name])
        for name, buffer in held.items():
            buffer.copy_(tensors[name])
    device = next((tensor.device for tensor in present.values()), torch.device("cpu"))
    restore_store(latent_model, {name: tensor.to(device) for name, tensor in _with_prefix(tensors, _STORE).items()})


def _require_finite(root: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Raise InputError if a trained parameter is not finite; buffers and fixed parameters may be."""
    trained = [name for name, parameter in root.named_parameters() if parameter.requires_grad]
    wrong = [name for name in trained if name in tensors and not torch.isfinite(tensors[name]).all()]
    wrong += [name for name, tensor in _with_prefix(tensors, _STORE).items() if tensor.isnan().any()]
    if wrong:
        raise InputError(
            f"A checkpoint needs parameters that are finite, as every training writes them; {short_label(wrong[0])} "
            "has NaN or infinite numbers. Restore the checkpoint from a copy, or train again."
        )


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors with names that start with a prefix, by the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _require_same(present: Mapping[str, Tensor], saved: Mapping[str, Tensor], kind: str, owner: str) -> None:
    """Raise InputError unless both mappings have the same names, shapes and dtypes."""
    difference = describe_difference(shapes_and_dtypes(present), shapes_and_dtypes(saved), kind)
    if difference:
        raise InputError(
            f"This checkpoint belongs to another {owner}: {difference}. Use the {owner} that wrote the checkpoint."
        )


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def _objective_tensors(objective: Objective) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in objective.state_dict().items() if isinstance(tensor, Tensor)}


def capture_training(
    parameters: Parameters, optimiser: torch.optim.Optimizer, schedule: Any, progress: Mapping[str, Any]
) -> Snapshot:
    """Return a copy of the state of a training.

    Args:
        parameters: the trained tensors.
        optimiser: the optimiser.
        schedule: the schedule of the learning rate, or None.
        progress: the counts and sums of the training loop, as JSON values.

    Raises:
        InputError: if the optimiser keeps a value that a checkpoint cannot hold.
    """
    model = parameters.latent_model
    tensors = model_tensors(model, root_module(model, parameters.programs))
    optimiser_tensors, optimiser_values = _optimiser_state(optimiser, parameters.with_frozen())
    training = {
        **{f"{_RANDOM}{name}": state for name, state in capture_generators().items()},
        **{f"{_OBJECTIVE}{name}": tensor for name, tensor in _objective_tensors(parameters.objective).items()},
        **{f"{_OPTIMISER}{name}": tensor for name, tensor in optimiser_tensors.items()},
    }
    schedule_state = {} if schedule is None else schedule.state_dict()
    return Snapshot(
        parameters=_copies(tensors),
        training=_copies(training),
        state={
            **progress,
            **flags_of(parameters.modules),
            "signature": shapes_and_dtypes(tensors),
            "optimiser": optimiser_values,
            "schedule": encode({name: value for name, value in schedule_state.items() if is_encodable(value)}),
        },
    )


def _optimiser_state(optimiser: torch.optim.Optimizer, named: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Any]:
    """Return the tensors of an optimiser by ``parameter/key``, and its plain values."""
    tensors: dict[str, Tensor] = {}
    values: dict[str, dict[str, Any]] = {}
    for name, parameter in named.items():
        for key, value in optimiser.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"{name}/{key}"] = value
            elif is_encodable(value):
                values.setdefault(name, {})[key] = encode(value)
            else:
                raise InputError(
                    f"A checkpoint needs tensors and plain values; {type(optimiser).__name__} keeps {key} as "
                    f"{type(value).__name__}. Use another optimiser, such as 'adam'."
                )
    groups = [
        {key: encode(value) for key, value in group.items() if key != "params" and is_encodable(value)}
        for group in optimiser.param_groups
    ]
    return tensors, {"groups": groups, "values": values}


def restore_training(
    parameters: Parameters, optimiser: torch.optim.Optimizer, schedule: Any, snapshot: Snapshot
) -> None:
    """Set parameters, optimiser, schedule, objective and random generators to the state of a snapshot, in place.

    Args:
        parameters: the trained tensors.
        optimiser: the optimiser.
        schedule: the schedule of the learning rate, or None.
        snapshot: a snapshot of the same training.

    Raises:
        InputError: if the snapshot belongs to another model or another objective.
    """
    model = parameters.latent_model
    load_parameters(model, root_module(model, parameters.programs), snapshot.parameters)
    _require_same_store(model, snapshot)
    present = _objective_tensors(parameters.objective)
    saved = _with_prefix(snapshot.training, _OBJECTIVE)
    _require_same(present, saved, "tensors of the objective", "objective")
    with torch.no_grad():
        for name, tensor in present.items():
            tensor.copy_(saved[name])
    _restore_optimiser(optimiser, parameters.with_frozen(), snapshot)
    if schedule is not None:
        _restore_schedule(schedule, decode(snapshot.state["schedule"]))
    restore_generators(_with_prefix(snapshot.training, _RANDOM))


def _require_same_store(latent_model: Any, snapshot: Snapshot) -> None:
    """Raise InputError unless the trained ``pyro.param`` entries are those of the snapshot."""
    present = {name: tensor for name, tensor in store_tensors(latent_model).items() if not is_average(name)}
    saved = _with_prefix(snapshot.parameters, _STORE)
    trained = {name: tensor for name, tensor in saved.items() if not is_average(name)}
    _require_same(present, trained, "pyro.param", "model")


def _restore_optimiser(optimiser: torch.optim.Optimizer, named: Mapping[str, Tensor], snapshot: Snapshot) -> None:
    optimiser.state.clear()
    plain = snapshot.state["optimiser"]
    for path, value in _with_prefix(snapshot.training, _OPTIMISER).items():
        name, _, key = path.rpartition("/")
        parameter = named[name]
        if value.dim() and value.shape != parameter.shape and _is_uniform(optimiser):
            raise ValueError(f"{path} of the optimiser has shape {tuple(value.shape)}, not {tuple(parameter.shape)}")
        own = value.to(_device_of_state(optimiser, parameter, key)).clone()
        optimiser.state[parameter][key] = in_layout_of(own, parameter)  # a file does not store the memory layout
    for name, values in plain["values"].items():
        optimiser.state[named[name]].update({key: decode(value) for key, value in values.items()})
    for group, saved in zip(optimiser.param_groups, plain["groups"], strict=True):
        values = {key: decode(value) for key, value in saved.items()}
        odd = [key for key, value in values.items() if isinstance(value, str) and not isinstance(group.get(key), str)]
        if odd:
            raise ValueError(f"the optimiser has a text for {', '.join(odd)}")
        group.update(values)
    _require_complete(optimiser, named)


def _is_uniform(optimiser: torch.optim.Optimizer) -> bool:
    """Return whether an optimiser keeps the same values for each parameter, in its shape.

    A user's own optimiser may differ.
    """
    has_other_shapes = isinstance(optimiser, torch.optim.Adafactor | torch.optim.LBFGS)
    return type(optimiser).__module__.startswith("torch.optim.") and not has_other_shapes


def _require_complete(optimiser: torch.optim.Optimizer, named: Mapping[str, Tensor]) -> None:
    """Raise ValueError if a parameter with a state of the optimiser lacks a value that another one has."""
    states = {
        name: set(optimiser.state[parameter]) for name, parameter in named.items() if parameter in optimiser.state
    }
    for name, keys in states.items():
        missing = set().union(*states.values()) - keys
        if missing and _is_uniform(optimiser):
            raise ValueError(f"the state of the optimiser for {name} has no {', '.join(sorted(missing))}")


def _device_of_state(optimiser: torch.optim.Optimizer, parameter: Tensor, key: str) -> torch.device:
    """Return the device of an optimiser's state: counters are on the CPU, except in fused and capturable optimisers."""
    group = optimiser.param_groups[0]
    is_on_cpu = key in _COUNTERS and not (group.get("fused") or group.get("capturable"))
    return torch.device("cpu") if is_on_cpu else parameter.device


def _restore_schedule(schedule: Any, saved: Mapping[str, Any]) -> None:
    """Load the saved values of a schedule; values that were not saved stay."""
    present = schedule.state_dict()
    state = {name: value for name, value in present.items() if name not in saved}
    for name, value in saved.items():
        state[name] = Counter(value) if isinstance(present.get(name), Counter) else value
    schedule.load_state_dict(state)
