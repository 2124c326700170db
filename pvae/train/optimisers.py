"""Optimisers and schedules: any of torch's, by name with settings, by class, or by a factory."""

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

__all__ = ["adopt", "label", "make_optimiser", "make_schedule", "rates", "step_schedule"]

_DEFAULT_RATE = 1e-3  # of an objective's own networks, where the other groups are given theirs

Factory = Callable[[Any], Any]
Groups = list[dict[str, Any]]


def _subclasses(home: Any, base: type) -> dict[str, type]:
    found = {name: each for name, each in vars(home).items() if isinstance(each, type)}
    own = {name: each for name, each in found.items() if issubclass(each, base) and not name.startswith("_")}
    return {name.lower(): each for name, each in own.items() if each is not base}


_OPTIMISERS = _subclasses(torch.optim, Optimizer)
_SCHEDULES = _subclasses(lr_scheduler, lr_scheduler.LRScheduler)
_SCHEDULES = {name.removesuffix("lr"): each for name, each in _SCHEDULES.items() if name != "lrscheduler"}


def label(spec: Any) -> str:
    """Return how a run records an optimiser or a schedule: its text, or the name of its class or factory."""
    if spec is None or isinstance(spec, str):
        return spec or ""
    return getattr(spec, "__qualname__", type(spec).__qualname__)


def make_optimiser(
    spec: str | type | Factory | Optimizer,
    groups: Mapping[str, list[Tensor]],
    rate: float | Mapping[str, float],
    optional: Collection[str] = ("objective",),
) -> Optimizer:
    """Return one torch optimiser over all parameters, fused where the device has a fused kernel.

    Args:
        spec: a name of ``torch.optim`` in any case, with settings (``"adamw:weight_decay=0.01"``); a class; a
            factory that takes the parameters; or an optimiser that holds them already.
        groups: parameters by player; each player is one parameter group.
        rate: the learning rate, for names and classes; or one for each group, which a factory finds as ``lr`` in
            the groups that it is given.
        optional: groups that need no rate of their own beside the others.

    Raises:
        InputError: for an unknown name or setting, an optimiser that does not fit, or rates of other groups.
    """
    if isinstance(spec, Optimizer):
        if isinstance(rate, Mapping):
            raise InputError("learning_rate by group needs an optimiser by name, class or factory, not one made.")
        return _checked_holding(spec, groups)
    named = {name: _named(name, groups, rate, name in optional) for name in groups}
    given: Groups = [{"params": list(each), **named[name]} for name, each in groups.items()]
    rate = _DEFAULT_RATE if isinstance(rate, Mapping) else rate
    if isinstance(spec, str):
        _refuse_rate(spec)
        name, settings = parse_known(spec, "optimiser", _OPTIMISERS, _settings_of, spelling=str.lower)
        return _construct(_OPTIMISERS[name], given, {"lr": rate, **settings})
    if isinstance(spec, type) and issubclass(spec, Optimizer):
        return _construct(spec, given, {"lr": rate})
    made = spec(given if len(given) > 1 else given[0]["params"]) if callable(spec) else None
    if not isinstance(made, Optimizer):
        raise InputError(
            "optimiser needs a name such as 'adam', a class of torch.optim, or a function of the parameters that "
            f"returns a torch optimiser; got {type(spec).__name__}."
        )
    return made


def _named(
    name: str, groups: Mapping[str, list[Tensor]], rate: float | Mapping[str, float], optional: bool
) -> dict[str, Any]:
    """The name of one group among several, and its learning rate where each has its own."""
    if not isinstance(rate, Mapping):
        return {"name": name} if len(groups) > 1 else {}
    for key in rate:
        if key not in groups:
            raise unknown("group of learning_rate", key, groups)
    if name not in rate and not optional:
        raise InputError(f"learning_rate by group needs one for {name!r} too; got {', '.join(rate)}.")
    return {"name": name, "lr": rate.get(name, _DEFAULT_RATE)}


def rates(optimiser: Optimizer) -> float | dict[str, float]:
    """Return the learning rate of now; by group where groups have different ones."""
    held = {str(group.get("name", place)): float(group["lr"]) for place, group in enumerate(optimiser.param_groups)}
    return next(iter(held.values())) if len(set(held.values())) == 1 else held


def _settings_of(kind: type) -> list[str]:
    """Return the settings that may follow a name: all arguments but the first, and the learning rate."""
    return [name for name in list(inspect.signature(kind).parameters)[1:] if name != "lr"]


def _refuse_rate(spec: str) -> None:
    name, settings = parse(spec)
    if "lr" in settings:
        raise InputError(f"The learning rate of {name!r} is said by learning_rate=, not by lr=.")


def _construct(made: type, groups: Groups, settings: dict[str, Any]) -> Optimizer:
    if made is torch.optim.LBFGS:
        raise InputError("LBFGS evaluates the loss many times a step, and fit once: use another, such as 'adam'.")
    accepted = inspect.signature(made).parameters
    chosen = {"foreach", "fused", "capturable", "differentiable"} & settings.keys()
    if "fused" in accepted and not chosen:
        try:
            return made(groups, **settings, fused=True)
        except RuntimeError:  # no fused kernel for this device or type
            pass
    try:
        return made(groups, **settings)
    except (TypeError, ValueError) as error:
        raise InputError(f"{made.__name__} refuses its settings: {error}") from error


def _checked_holding(optimiser: Optimizer, groups: Mapping[str, list[Tensor]]) -> Optimizer:
    held = {id(each) for group in optimiser.param_groups for each in group["params"]}
    missing = sum(id(each) not in held for group in groups.values() for each in group)
    if missing:
        raise InputError(
            f"The optimiser holds other tensors: {missing} parameters of the model are not in it. Give a name, "
            "a class or a function of the parameters."
        )
    return optimiser


def adopt(
    optimiser: Optimizer, named: Mapping[str, Tensor], known: dict[str, Tensor], group_of: Callable[[Tensor], str]
) -> None:
    """Let the optimiser hold what is trained now: new parameters are added, replaced ones keep their state.

    Args:
        optimiser: to be changed.
        named: the parameters of now, by name.
        known: the parameters that the optimiser holds, by name; brought up to date.
        group_of: says to which of several groups a new parameter belongs.
    """
    new = []
    for name, parameter in named.items():
        before = known.get(name)
        if before is parameter:
            continue
        if before is None:
            new.append(parameter)
            continue
        for group in optimiser.param_groups:
            group["params"] = [parameter if each is before else each for each in group["params"]]
        if before in optimiser.state:
            optimiser.state[parameter] = optimiser.state.pop(before)
    homes = {group["name"]: group for group in optimiser.param_groups if "name" in group}
    for parameter in new:
        home = homes.get(group_of(parameter)) if homes else None
        (home or optimiser.param_groups[0])["params"].append(parameter)
    known.clear()
    known.update(named)


def _schedule_name(name: str) -> str:
    """Return a schedule's name as in the table: ``"stepLR"`` gives ``"step"``."""
    return name.lower().removesuffix("lr")


def make_schedule(spec: str | Factory | None, optimiser: Optimizer) -> Any:
    """Return a schedule of the learning rate, to be stepped once an epoch, or None.

    Args:
        spec: a name of ``torch.optim.lr_scheduler`` in any case, with or without LR, with settings
            (``"cosineannealing:T_max=50"``); or a factory that takes the optimiser.
        optimiser: whose learning rate is scheduled.

    Raises:
        InputError: for an unknown name or setting, or a required setting that is missing.
    """
    if spec is None:
        return None
    if not isinstance(spec, str):
        made = spec(optimiser) if callable(spec) else None
        if not hasattr(made, "step") or not hasattr(made, "state_dict"):
            raise InputError(
                "schedule needs a name such as 'cosineannealing:T_max=50', or a function of the optimiser that "
                f"returns a torch schedule; got {type(spec).__name__}."
            )
        return made
    _refuse_rate(spec)
    name, settings = parse_known(spec, "schedule", _SCHEDULES, _settings_of, spelling=_schedule_name)
    settings = {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()}
    try:
        return _SCHEDULES[name](optimiser, **settings)
    except (TypeError, ValueError) as error:
        raise InputError(f"schedule {name!r} refuses its settings: {error}") from error


def step_schedule(schedule: Any, bound: float | None) -> None:
    """Move a schedule by one epoch; `ReduceLROnPlateau` sees the validation bound, whichever way it looks."""
    if isinstance(schedule, lr_scheduler.ReduceLROnPlateau):
        if bound is not None:
            schedule.step(bound if schedule.mode == "max" else -bound)
    elif schedule is not None:
        with warnings.catch_warnings():
            # a run that is continued at the end of an epoch has taken its steps in another process
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step", category=UserWarning)
            schedule.step()
