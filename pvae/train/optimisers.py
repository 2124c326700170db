"""Optimisers and schedules of the learning rate: those of torch by name with settings, by class, or by a function."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer, lr_scheduler

from pvae.errors import InputError
from pvae.names import parse, parse_known, unknown

__all__ = ["label", "make_optimiser", "make_schedule", "rates", "runs_own_code", "step_schedule", "track_parameters"]

#: Types of devices for which torch has no optimisers that count their steps on the device.
_WITHOUT_CAPTURE = {"cpu", "mps", "meta"}
#: The learning rate of the objective's own networks, if the other groups have rates of their own.
_DEFAULT_RATE = 1e-3

Factory = Callable[[Any], Any]
Groups = list[dict[str, Any]]


def _subclasses(module: Any, base: type) -> dict[str, type]:
    """Return the public classes of a module that derive from a base class, by name in lower case."""
    classes = {name: value for name, value in vars(module).items() if isinstance(value, type)}
    return {
        name.lower(): value
        for name, value in classes.items()
        if issubclass(value, base) and value is not base and not name.startswith("_")
    }


_OPTIMISERS = _subclasses(torch.optim, Optimizer)
_SCHEDULES = {
    name.removesuffix("lr"): schedule
    for name, schedule in _subclasses(lr_scheduler, lr_scheduler.LRScheduler).items()
    if name != "lrscheduler"
}


def label(spec: Any) -> str:
    """Return the record of an optimiser or a schedule: the text that names it, or the name of its class."""
    if spec is None or isinstance(spec, str):
        return spec or ""
    return getattr(spec, "__qualname__", type(spec).__qualname__)


def make_optimiser(
    spec: str | type | Factory | Optimizer,
    groups: Mapping[str, list[Tensor]],
    rate: float | Mapping[str, float],
    optional: Collection[str] = ("objective",),
) -> Optimizer:
    """Return one torch optimiser over all parameters, fused if the device has a fused kernel.

    Args:
        spec: a name of ``torch.optim`` in any case, with settings (``"adamw:weight_decay=0.01"``); a class; a
            function of the parameters that returns an optimiser; or an optimiser that holds them already.
        groups: the parameters by group; each becomes one parameter group of the optimiser.
        rate: the learning rate for names and classes; or one for each group; a function gets them as ``lr`` in its
            parameter groups.
        optional: the groups that need no rate if `rate` is a mapping.

    Raises:
        InputError: for an unknown name or setting, an optimiser that does not fit, or rates of groups that do not
            exist.
    """
    if isinstance(spec, Optimizer):
        if isinstance(rate, Mapping):
            raise InputError(
                "learning_rate by group needs an optimiser by name, class or function; got an optimiser. Set the rates "
                "in the parameter groups of the optimiser, and give one learning_rate."
            )
        return _require_parameters(spec, groups)
    settings = {name: _group_settings(name, groups, rate, name in optional) for name in groups}
    torch_groups: Groups = [{"params": list(members), **settings[name]} for name, members in groups.items()]
    rate = _DEFAULT_RATE if isinstance(rate, Mapping) else rate
    if isinstance(spec, str):
        _refuse_rate(spec)
        name, options = parse_known(spec, "optimiser", _OPTIMISERS, _settings_of, spelling=str.lower)
        return _construct(_OPTIMISERS[name], torch_groups, {"lr": rate, **options})
    if isinstance(spec, type) and issubclass(spec, Optimizer):
        return _construct(spec, torch_groups, {"lr": rate})
    parameters = torch_groups if len(torch_groups) > 1 else torch_groups[0]["params"]
    optimiser = spec(parameters) if callable(spec) else None
    if not isinstance(optimiser, Optimizer):
        raise InputError(
            "optimiser needs a name such as 'adam', a class of torch.optim, or a function of the parameters that "
            f"returns a torch optimiser; got {type(spec).__name__}."
        )
    return optimiser


def _group_settings(
    name: str, groups: Mapping[str, list[Tensor]], rate: float | Mapping[str, float], is_optional: bool
) -> dict[str, Any]:
    """Return the name of a parameter group if there are several, and its learning rate if it has its own."""
    if not isinstance(rate, Mapping):
        return {"name": name} if len(groups) > 1 else {}
    for key in rate:
        if key not in groups:
            raise unknown("group of learning_rate", key, groups)
    if name not in rate and not is_optional:
        raise InputError(f"learning_rate by group needs one for {name!r} too; got {', '.join(rate)}.")
    return {"name": name, "lr": rate.get(name, _DEFAULT_RATE)}


def rates(optimiser: Optimizer) -> float | dict[str, float]:
    """Return the current learning rate; by group if the groups have different rates."""
    by_group = {str(group.get("name", index)): float(group["lr"]) for index, group in enumerate(optimiser.param_groups)}
    return next(iter(by_group.values())) if len(set(by_group.values())) == 1 else by_group


def _settings_of(torch_class: type) -> list[str]:
    """Return the settings that may follow a name: all parameters but the first one and the learning rate."""
    return [name for name in list(inspect.signature(torch_class).parameters)[1:] if name != "lr"]


def _refuse_rate(spec: str) -> None:
    """Raise InputError for a text that sets the learning rate."""
    name, settings = parse(spec)
    if "lr" in settings:
        raise InputError(f"{name!r} takes its learning rate from learning_rate=; got lr=. Use learning_rate=.")


def _construct(optimiser_class: type, groups: Groups, settings: dict[str, Any]) -> Optimizer:
    """Return an optimiser, with a fused kernel if it exists and the settings do not choose an implementation.

    On an accelerator, the optimiser counts its steps on the device, if it can, and reads no number from there.
    """
    if optimiser_class is torch.optim.LBFGS:
        raise InputError(
            "LBFGS evaluates the loss many times per step, and fit evaluates it once. Use another optimiser, such as "
            "'adam'."
        )
    accepted = inspect.signature(optimiser_class).parameters
    implementations = {"foreach", "fused", "capturable", "differentiable"} & settings.keys()
    if "capturable" in accepted and not implementations and _is_capturable(groups):
        settings = {**settings, "capturable": True}
    is_complex = any(parameter.is_complex() for group in groups for parameter in group["params"])
    if "fused" in accepted and not implementations and not is_complex:
        try:
            return optimiser_class(groups, **settings, fused=True)
        except RuntimeError:  # there is no fused kernel for this device or dtype
            pass
    try:
        return optimiser_class(groups, **settings)
    except (TypeError, ValueError) as error:
        raise InputError(f"{optimiser_class.__name__} does not accept its settings: {error}") from error


def _is_capturable(groups: Groups) -> bool:
    """Return whether torch's optimisers can count their steps on the devices of all parameters."""
    devices = {parameter.device.type for group in groups for parameter in group["params"]}
    return bool(devices) and devices.isdisjoint(_WITHOUT_CAPTURE)


def _require_parameters(optimiser: Optimizer, groups: Mapping[str, list[Tensor]]) -> Optimizer:
    """Return the optimiser; raise InputError if a parameter is not in it."""
    members = {id(parameter) for group in optimiser.param_groups for parameter in group["params"]}
    missing = sum(id(parameter) not in members for group in groups.values() for parameter in group)
    if missing:
        raise InputError(
            f"The optimiser has other tensors: {missing} parameters of the model are not in it. Give a name, "
            "a class or a function of the parameters."
        )
    return optimiser


def runs_own_code(optimiser: Optimizer) -> bool:
    """Return whether an optimiser runs code of the user in a step: its class is no class of torch, or it has hooks.

    Args:
        optimiser: the optimiser.
    """
    has_hooks = bool(optimiser._optimizer_step_pre_hooks or optimiser._optimizer_step_post_hooks)
    return has_hooks or not type(optimiser).__module__.startswith(("torch.", "pyro."))


def track_parameters(
    optimiser: Optimizer, named: Mapping[str, Tensor], known: dict[str, Tensor], group_of: Callable[[Tensor], str]
) -> None:
    """Let the optimiser hold the current parameters: new ones are added, and replaced ones keep their state.

    A parameter that is frozen or has been removed stays in the optimiser, without a gradient. So the optimiser leaves
    it as it is, and a frozen parameter that is trained again has its state and is updated once for each step.

    Args:
        optimiser: the optimiser; it is changed in place.
        named: the current parameters by name.
        known: the parameters that the optimiser holds, by name; it is updated.
        group_of: returns the name of the group that a new parameter belongs to.
    """
    for name in known.keys() - named.keys():
        known[name].grad = None  # otherwise the gradient of its last step would be applied again at each step
    members = {id(parameter) for group in optimiser.param_groups for parameter in group["params"]}
    new = []
    for name, parameter in named.items():
        if id(parameter) in members:
            continue
        if name in known and id(known[name]) in members:
            _replace_parameter(optimiser, known[name], parameter)
        else:
            new.append(parameter)
    groups = {group["name"]: group for group in optimiser.param_groups if "name" in group}
    for parameter in new:
        group = groups.get(group_of(parameter)) if groups else None
        (group or optimiser.param_groups[0])["params"].append(parameter)
    known.update(named)


def _replace_parameter(optimiser: Optimizer, former: Tensor, parameter: Tensor) -> None:
    """Replace a parameter of the optimiser by a new one, which keeps the state of the old one."""
    for group in optimiser.param_groups:
        group["params"] = [parameter if member is former else member for member in group["params"]]
    if former in optimiser.state:
        optimiser.state[parameter] = optimiser.state.pop(former)


def _schedule_name(name: str) -> str:
    """Return the name of a schedule as in the table: ``"step"`` for ``"stepLR"``."""
    return name.lower().removesuffix("lr")


def make_schedule(spec: str | Factory | None, optimiser: Optimizer) -> Any:
    """Return a schedule of the learning rate, which has one step per epoch; None without `spec`.

    Args:
        spec: a name of ``torch.optim.lr_scheduler`` in any case, with or without LR, with settings
            (``"cosineannealing:T_max=50"``); or a function of the optimiser that returns a schedule.
        optimiser: the optimiser with the learning rate.

    Raises:
        InputError: for an unknown name or setting, or a required setting that is missing.
    """
    if spec is None:
        return None
    if not isinstance(spec, str):
        schedule = spec(optimiser) if callable(spec) else None
        if not hasattr(schedule, "step") or not hasattr(schedule, "state_dict"):
            raise InputError(
                "schedule needs a name such as 'cosineannealing:T_max=50', or a function of the optimiser that "
                f"returns a torch schedule; got {type(spec).__name__}."
            )
        return schedule
    _refuse_rate(spec)
    name, options = parse_known(spec, "schedule", _SCHEDULES, _settings_of, spelling=_schedule_name)
    settings = {option: list(value) if isinstance(value, tuple) else value for option, value in options.items()}
    try:
        return _SCHEDULES[name](optimiser, **settings)
    except (TypeError, ValueError) as error:
        raise InputError(f"schedule {name!r} does not accept its settings: {error}") from error


def step_schedule(schedule: Any, bound: float | None) -> None:
    """Call the step of a schedule after one epoch.

    Args:
        schedule: a schedule of torch, or None.
        bound: the validation bound, or minus the loss, in nats per datum. `ReduceLROnPlateau` uses it in both modes; it
            takes no step if the bound is None.
    """
    if isinstance(schedule, lr_scheduler.ReduceLROnPlateau):
        if bound is not None:
            schedule.step(bound if schedule.mode == "max" else -bound)
    elif schedule is not None:
        with warnings.catch_warnings():
            # if a run is resumed at the end of an epoch, another process has made the steps of the optimiser
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step", category=UserWarning)
            schedule.step()
