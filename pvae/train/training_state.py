"""The state of a running training, taken as a snapshot and put back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pvae.errors import InputError
from pvae.programs.parameter_scope import restore_store, store_tensors
from pvae.train.checkpoint import Snapshot, describe_difference
from pvae.train.devices import capture, restore
from pvae.train.encoding import decode, encode, is_encodable
from pvae.train.parameters import Parameters, is_average, root_module

__all__ = ["load_parameters", "model_tensors", "put_back", "signature", "take"]

_STORE = "param_store/"
_COUNTERS = ("step", "mu_product", "eta", "mu")


def model_tensors(latent_model: Any, root: nn.Module) -> dict[str, Tensor]:
    """Return the model's state by name, and its store's tensors under a prefix; nothing is copied."""
    held = {name: each for name, each in root.state_dict().items() if isinstance(each, Tensor)}
    return held | {_STORE + name: each for name, each in store_tensors(latent_model).items()}


def signature(tensors: Mapping[str, Tensor]) -> dict[str, list[Any]]:
    """Return shape and type of each tensor."""
    return {name: [list(each.shape), str(each.dtype).removeprefix("torch.")] for name, each in tensors.items()}


def load_parameters(latent_model: Any, root: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy saved tensors into a model, inside its scope.

    Raises:
        InputError: if the model is another one; the error says what differs.
    """
    own = {name: each for name, each in root.state_dict().items() if isinstance(each, Tensor)}
    saved = {name: each for name, each in tensors.items() if not name.startswith(_STORE)}
    here, there = signature(own), signature(saved)
    if difference := describe_difference(here, there, "parameters"):
        raise InputError(f"This checkpoint is of another model: {difference}.")
    with torch.no_grad():
        for name, each in own.items():
            each.copy_(saved[name])
    device = next((each.device for each in own.values()), torch.device("cpu"))
    store = {name.removeprefix(_STORE): each for name, each in tensors.items() if name.startswith(_STORE)}
    restore_store(latent_model, {name: each.to(device) for name, each in store.items()})


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: each.detach().clone() for name, each in tensors.items()}


def _objective_tensors(objective: Any) -> dict[str, Tensor]:
    held = objective.state_dict() if isinstance(objective, nn.Module) else {}
    return {f"objective/{name}": each for name, each in held.items() if isinstance(each, Tensor)}


def take(parameters: Parameters, optimiser: torch.optim.Optimizer, schedule: Any, state: Mapping[str, Any]) -> Snapshot:
    """Return a snapshot of the training, copied; `state` is what the loop adds: counts and sums."""
    model = parameters.latent_model
    held = model_tensors(model, root_module(model, parameters.programs))
    tensors, plain = _optimiser_state(optimiser, parameters.named)
    training = {
        **{f"random/{name}": each for name, each in capture().items()},
        **_objective_tensors(parameters.objective),
        **tensors,
    }
    schedule_state = {} if schedule is None else schedule.state_dict()
    return Snapshot(
        parameters=_copies(held),
        training=_copies(training),
        state={
            **state,
            "signature": signature(held),
            "optimiser": plain,
            "schedule": encode({name: each for name, each in schedule_state.items() if is_encodable(each)}),
        },
    )


def _optimiser_state(optimiser: torch.optim.Optimizer, named: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Any]:
    tensors: dict[str, Tensor] = {}
    values: dict[str, dict[str, Any]] = {}
    for name, parameter in named.items():
        for key, value in optimiser.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"optimiser/{name}/{key}"] = value
            elif is_encodable(value):
                values.setdefault(name, {})[key] = encode(value)
            else:
                kind = type(optimiser).__name__
                raise InputError(f"{kind} keeps {key} as {type(value).__name__}, which no checkpoint can hold.")
    groups = [
        {key: encode(value) for key, value in group.items() if key != "params" and is_encodable(value)}
        for group in optimiser.param_groups
    ]
    return tensors, {"groups": groups, "values": values}


def put_back(parameters: Parameters, optimiser: torch.optim.Optimizer, schedule: Any, snapshot: Snapshot) -> None:
    """Make the training what it was at a snapshot, in place.

    Raises:
        InputError: if the model or the objective is another one.
    """
    model = parameters.latent_model
    load_parameters(model, root_module(model, parameters.programs), snapshot.parameters)
    _require_same_store(model, snapshot)
    own = _objective_tensors(parameters.objective)
    saved = {name: each for name, each in snapshot.training.items() if name.startswith("objective/")}
    if difference := describe_difference(signature(own), signature(saved), "tensors of the objective"):
        raise InputError(f"This checkpoint is of another objective: {difference}.")
    with torch.no_grad():
        for name, each in own.items():
            each.copy_(saved[name])
    _put_back_optimiser(optimiser, parameters.named, snapshot)
    if schedule is not None:
        _put_back_schedule(schedule, decode(snapshot.state["schedule"]))
    generators = {name: each for name, each in snapshot.training.items() if name.startswith("random/")}
    restore({name.removeprefix("random/"): each for name, each in generators.items()})


def _require_same_store(latent_model: Any, snapshot: Snapshot) -> None:
    """Compare the ``pyro.param`` entries that are trained."""
    here = {name: each for name, each in store_tensors(latent_model).items() if not is_average(name)}
    there = {name.removeprefix(_STORE): each for name, each in snapshot.parameters.items() if name.startswith(_STORE)}
    there = {name: each for name, each in there.items() if not is_average(name)}
    if difference := describe_difference(signature(here), signature(there), "pyro.param"):
        raise InputError(f"This checkpoint is of another model: {difference}.")


def _put_back_optimiser(optimiser: torch.optim.Optimizer, named: Mapping[str, Tensor], snapshot: Snapshot) -> None:
    optimiser.state.clear()
    plain = snapshot.state["optimiser"]
    for path, value in snapshot.training.items():
        if path.startswith("optimiser/"):
            name, _, key = path.removeprefix("optimiser/").rpartition("/")
            parameter = named[name]
            optimiser.state[parameter][key] = value.to(_home(optimiser, parameter, key)).clone()
    for name, values in plain["values"].items():
        optimiser.state[named[name]].update({key: decode(each) for key, each in values.items()})
    for group, saved in zip(optimiser.param_groups, plain["groups"], strict=True):
        group.update({key: decode(each) for key, each in saved.items()})


def _home(optimiser: torch.optim.Optimizer, parameter: Tensor, key: str) -> torch.device:
    """Where an optimiser keeps its state: counters on the CPU, unless a fused or captured step counts them."""
    group = optimiser.param_groups[0]
    counts = key in _COUNTERS and not (group.get("fused") or group.get("capturable"))
    return torch.device("cpu") if counts else parameter.device


def _put_back_schedule(schedule: Any, saved: Mapping[str, Any]) -> None:
    present = schedule.state_dict()
    kept = {name: each for name, each in present.items() if name not in saved}
    for name, each in saved.items():
        kept[name] = Counter(each) if isinstance(present.get(name), Counter) else each
    schedule.load_state_dict(kept)
