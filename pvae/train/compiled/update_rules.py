"""The updates of torch's optimisers as plain tensor operations, which can be compiled together with a step.

The numbers that change from step to step (learning rates and corrections of the bias) enter as one tensor, because a
compiler freezes Python numbers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim import optimizer as torch_optimiser

__all__ = ["UpdateRule", "find_rule", "has_state"]

Group = dict[str, Any]


class UpdateRule(ABC):
    """The update of one parameter of one parameter group of an optimiser.

    Args:
        group: the parameter group, its settings other than the learning rate are frozen.
    """

    #: the names of the tensors that the optimiser keeps for a parameter, and that the update changes
    state_names: tuple[str, ...] = ()
    #: whether the optimiser counts the steps of each parameter
    counts_steps = False

    def __init__(self, group: Group) -> None:
        self.group = group

    @abstractmethod
    def numbers(self, step: int) -> tuple[float, ...]:
        """Return the numbers of one step that change from step to step.

        Args:
            step: the number of steps, this one included.
        """

    @abstractmethod
    def update(self, parameter: Tensor, gradient: Tensor, state: Sequence[Tensor], numbers: Tensor) -> None:
        """Update a parameter and the tensors of its state in place.

        Args:
            parameter: the parameter.
            gradient: its gradient, of the same shape.
            state: the tensors of `state_names`.
            numbers: what `numbers` returned, shape (numbers,).
        """


class AdamRule(UpdateRule):
    """The update of Adam, with weight decay as part of the gradient.

    Source: Kingma & Ba, Adam, arXiv:1412.6980, algorithm 1.
    """

    state_names = ("exp_avg", "exp_avg_sq")
    counts_steps = True

    def numbers(self, step: int) -> tuple[float, ...]:
        """Return minus the learning rate over the bias correction, and the inverse correction of the root."""
        first, second = self.group["betas"]
        rate = float(self.group["lr"])
        return -rate / (1 - first**step), (1 - second**step) ** -0.5, 1 - rate * self.group["weight_decay"]

    def update(self, parameter: Tensor, gradient: Tensor, state: Sequence[Tensor], numbers: Tensor) -> None:
        """Update the averages, then the parameter."""
        first, second = self.group["betas"]
        average, average_of_squares = state
        gradient = self.with_decay(parameter, gradient, numbers)
        average.lerp_(gradient, 1 - first)
        average_of_squares.mul_(second).addcmul_(gradient, gradient, value=1 - second)
        parameter.add_(average / (average_of_squares.sqrt() * numbers[1] + self.group["eps"]) * numbers[0])

    def with_decay(self, parameter: Tensor, gradient: Tensor, numbers: Tensor) -> Tensor:
        """Return the gradient with the decay of weights.

        Args:
            parameter: the parameter.
            gradient: its gradient.
            numbers: the numbers of the step.
        """
        decay = self.group["weight_decay"]
        return gradient.add(parameter, alpha=decay) if decay else gradient


class AdamWRule(AdamRule):
    """The update of AdamW, in which weight decay is not part of the gradient.

    Source: Loshchilov & Hutter, Decoupled Weight Decay Regularization, arXiv:1711.05101, algorithm 2.
    """

    def with_decay(self, parameter: Tensor, gradient: Tensor, numbers: Tensor) -> Tensor:
        """Let the parameter decay; return the gradient."""
        if self.group["weight_decay"]:
            parameter.mul_(numbers[2])
        return gradient


class SGDRule(UpdateRule):
    """The update of stochastic gradient descent, with or without momentum."""

    def __init__(self, group: Group) -> None:
        super().__init__(group)
        self.state_names = ("momentum_buffer",) if group["momentum"] else ()

    def numbers(self, step: int) -> tuple[float, ...]:
        """Return minus the learning rate."""
        return (-float(self.group["lr"]),)

    def update(self, parameter: Tensor, gradient: Tensor, state: Sequence[Tensor], numbers: Tensor) -> None:
        """Update the momentum, if there is one, then the parameter."""
        group = self.group
        if group["weight_decay"]:
            gradient = gradient.add(parameter, alpha=group["weight_decay"])
        if state:
            (momentum,) = state
            momentum.mul_(group["momentum"]).add_(gradient, alpha=1 - group["dampening"])
            gradient = gradient.add(momentum, alpha=group["momentum"]) if group["nesterov"] else momentum
        parameter.add_(gradient * numbers[0])


_RULES: dict[type[Optimizer], type[UpdateRule]] = {Adam: AdamRule, AdamW: AdamWRule, SGD: SGDRule}
#: Settings of a parameter group that change the formula of the update.
_OTHER_UPDATES = ("amsgrad", "maximize", "capturable", "differentiable")


#: The functions that torch calls around the steps of all optimisers; a compiled update would not call them.
_GLOBAL_HOOKS = (torch_optimiser._global_optimizer_pre_hooks, torch_optimiser._global_optimizer_post_hooks)


def _own_hooks(optimiser: Optimizer) -> tuple[Any, Any]:
    """Return the functions that an optimiser calls around its step."""
    return optimiser._optimizer_step_pre_hooks, optimiser._optimizer_step_post_hooks


def find_rule(optimiser: Optimizer, group: Group) -> UpdateRule | None:
    """Return the update of a parameter group; None if it is not available as tensor operations.

    Args:
        optimiser: the optimiser.
        group: one of its parameter groups.
    """
    rule = _RULES.get(type(optimiser))
    has_hooks = any(hooks for hooks in (*_GLOBAL_HOOKS, *_own_hooks(optimiser)))
    if rule is None or has_hooks or any(group.get(setting) for setting in _OTHER_UPDATES):
        return None
    if isinstance(group["lr"], Tensor) or any(torch.is_complex(parameter) for parameter in group["params"]):
        return None
    if rule is AdamRule and group.get("decoupled_weight_decay"):
        return AdamWRule(group)
    return rule(group)


def has_state(optimiser: Optimizer, parameters: Sequence[Tensor]) -> bool:
    """Return whether an optimiser has the state that the update of each parameter needs.

    Before its first step it has no state. Optimisers without a rule make the update themselves, and need no state here.

    Args:
        optimiser: the optimiser.
        parameters: parameters of the optimiser.
    """
    wanted = {id(parameter) for parameter in parameters}
    for group in optimiser.param_groups:
        rule = find_rule(optimiser, group)
        if rule is None:
            return True
        names = {*rule.state_names, *(("step",) if rule.counts_steps else ())}
        members = [parameter for parameter in group["params"] if id(parameter) in wanted]
        if not all(names <= optimiser.state.get(parameter, {}).keys() for parameter in members):
            return False
    return True
