"""`CompiledStep`: a step and the update of the parameters in one function of torch's compiler, inductor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.optim import Optimizer

from pvae.memory_layout import set_gradients
from pvae.products.compiled_calls import call_directly
from pvae.products.numpy_products import warnings_silenced
from pvae.products.opaque_products import make_products_opaque
from pvae.train.clipping import clipped
from pvae.train.compiled.inductor import compile_graph
from pvae.train.compiled.lifted_graph import lift
from pvae.train.compiled.update_rules import UpdateRule, find_rule, has_state
from pvae.train.gradient_hooks import has_gradient_hooks

__all__ = ["CompiledStep", "OptimiserChangedError"]

#: Draws by the generators of torch, in the order of the graph; one process of the compiler, as for the training itself.
#: The step checks itself whether its tensors have kept their shapes, which is faster than the check of compiled code.
_OPTIONS: dict[str, Any] = {
    "fallback_random": True,
    "reorder_for_peak_memory": False,
    "compile_threads": 1,
    "size_asserts": False,
    "alignment_asserts": False,
}
#: On the CPU, another layout makes convolutions slower.
_OPTIONS_ON_CPU = {"layout_optimization": False}


class OptimiserChangedError(RuntimeError):
    """A setting of the optimiser has changed that the compiled function has frozen."""


class CompiledStep:
    """A step as one compiled function: numbers, gradients, clipping and the update of the parameters in place.

    The update of Adam, AdamW and SGD is compiled too; other optimisers update outside of the compiled function. The
    learning rate may change from step to step, other settings of the optimiser may not. The function uses the tensors
    that torch's optimiser keeps, so checkpoints do not depend on which code made the update.

    Args:
        module: the graph of the step, which returns the numbers and the gradients of the parameters.
        parameters: the parameters of the gradients.
        optimiser: the optimiser of the parameters.
        clip: the largest norm of all gradients together; None for no limit.
        arguments: tensors with the shapes, strides and dtypes of later calls.

    Attributes:
        updates: whether the function updates the parameters; otherwise the optimiser updates them.
        held: the tensors of the graph: parameters, buffers and constants.

    Raises:
        Exception: any error of the compiler, for instance if the machine has no C++ compiler.
    """

    def __init__(
        self,
        module: GraphModule,
        parameters: Sequence[Tensor],
        optimiser: Optimizer,
        clip: float | None,
        arguments: Sequence[Tensor],
    ) -> None:
        self.optimiser, self.clip, self.parameters = optimiser, clip, list(parameters)
        lifted = lift(module)
        call_directly(make_products_opaque(lifted.module))
        self.held = lifted.tensors
        outputs = next(node for node in lifted.module.graph.nodes if node.op == "output").args[0]
        self.count = len(outputs) - len(parameters)
        self._is_updated = [output is not None for output in outputs[self.count :]]
        self.updated = [p for p, has_gradient in zip(parameters, self._is_updated, strict=True) if has_gradient]
        self._find_rules()
        self._state: list[Tensor] = []
        self._steps = torch.zeros(0)
        device = self.updated[0].device if self.updated else torch.device("cpu")
        self._numbers = torch.zeros(max(self._count_of_numbers, 1), dtype=torch.float64, device=device)
        self._bound_to: Any = None
        self._inputs: tuple[Tensor, ...] = ()
        self.bind()  # the caller checks by `has_state` whether each parameter has a state
        self._layouts = _layouts(self._inputs)
        self._function = self._compiled(lifted.module, arguments)

    def _find_rules(self) -> None:
        """Find the update of each parameter group, and the position of its numbers in the tensor of all numbers."""
        groups = self.optimiser.param_groups
        rules = [find_rule(self.optimiser, group) for group in groups]
        self._rules: list[UpdateRule] = [rule for rule in rules if rule is not None]
        has_hooks = has_gradient_hooks(self.parameters)
        self.updates = len(self._rules) == len(groups) and bool(self.updated) and not has_hooks
        self._frozen = self._settings()
        self._starts: list[int] = []
        self._count_of_numbers = 0
        for rule in self._rules:
            self._starts.append(self._count_of_numbers)
            self._count_of_numbers += len(rule.numbers(1))
        index_of = {id(member): index for index, group in enumerate(groups) for member in group["params"]}
        self._group_of = [index_of[id(parameter)] for parameter in self.updated] if self.updates else []

    def _settings(self) -> list[dict[str, Any]]:
        """Return the settings of the parameter groups that the function freezes."""
        varying = ("params", "lr", "initial_lr", "name")
        groups = self.optimiser.param_groups
        return [{name: value for name, value in group.items() if name not in varying} for group in groups]

    @property
    def is_ready(self) -> bool:
        """Whether the optimiser has a state for each parameter; before its first step it has none."""
        if not self.updates or self.optimiser.state.get(self.updated[0]) is self._bound_to:
            return True
        return has_state(self.optimiser, self.updated)

    def bind(self) -> None:
        """Use the state that the optimiser has now."""
        if self.updates:
            self._bind_state()
        self._inputs = (self._numbers, *self.held, *self._state)
        self._addresses: list[int] = []  # so that the next step checks the layouts

    def _bind_state(self) -> None:
        states = [self.optimiser.state[parameter] for parameter in self.updated]
        rules = [self._rules[index] for index in self._group_of]
        self._state = [state[name] for state, rule in zip(states, rules, strict=True) for name in rule.state_names]
        counting = [state for state, rule in zip(states, rules, strict=True) if rule.counts_steps]
        if len({int(state["step"]) for state in counting}) > 1:
            raise OptimiserChangedError("the optimiser has counted other numbers of steps for some parameters")
        if counting:  # the counters become parts of one tensor, which one operation increases
            self._steps = torch.stack([state["step"] for state in counting])
            for index, state in enumerate(counting):
                state["step"] = self._steps[index]
        self._bound_to = self.optimiser.state.get(self.updated[0])

    def _compiled(self, module: GraphModule, arguments: Sequence[Tensor]) -> Callable[..., Any]:
        """Return the compiled function of the arguments, the numbers, the tensors of the graph and the state."""
        inputs = (*arguments, *self._inputs)
        options = _OPTIONS | (_OPTIONS_ON_CPU if self._numbers.device.type == "cpu" else {})
        with torch.no_grad():
            graph = make_fx(self._step_function(module, len(arguments)), tracing_mode="fake")(*inputs)
            return compile_graph(graph, inputs, options)

    def _step_function(self, module: GraphModule, count: int) -> Callable[..., Any]:
        """Return the step as a function of tensors; `count` of them are the arguments of the programs."""
        positions = {id(tensor): index for index, tensor in enumerate(self.held)}

        def step(*inputs: Tensor) -> tuple[Tensor, ...]:
            arguments, numbers, held = inputs[:count], inputs[count], inputs[count + 1 : count + 1 + len(self.held)]
            outputs = module(*arguments, *held)
            gradients = tuple(gradient for gradient in outputs[self.count :] if gradient is not None)
            if self.updates:
                state = iter(inputs[count + 1 + len(self.held) :])
                scaled = gradients if self.clip is None else clipped(gradients, self.clip)
                for parameter, gradient, index in zip(self.updated, scaled, self._group_of, strict=True):
                    rule, start = self._rules[index], self._starts[index]
                    own_state = [next(state) for _ in rule.state_names]
                    own_numbers = numbers[start:].to(parameter.dtype)
                    rule.update(held[positions[id(parameter)]], gradient, own_state, own_numbers)
            return (*outputs[: self.count], *gradients)

        return step

    def __call__(self, arguments: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
        """Take a step; return the numbers and the gradients.

        Args:
            arguments: the tensors that the programs take.

        Raises:
            OptimiserChangedError: if a setting of the optimiser has changed; nothing was updated.
        """
        if self.updates and self.optimiser.state.get(self.updated[0]) is not self._bound_to:
            self.bind()
        if [tensor.data_ptr() for tensor in self._inputs] != self._addresses:
            self._require_layouts()
        if self.updates:
            self._count_step()
        with torch.no_grad(), warnings_silenced():
            outputs = self._function(*arguments, *self._inputs)
        gradients = iter(outputs[self.count :])
        return (*outputs[: self.count], *(next(gradients) if is_updated else None for is_updated in self._is_updated))

    def _count_step(self) -> None:
        """Count the step, and set the numbers of the update."""
        if self._settings() != self._frozen:
            raise OptimiserChangedError("settings of the optimiser besides the learning rate change")
        # steps of other batches may run as graphs, and the optimiser of torch then counts in the same tensor
        on_cpu = self._steps.is_cpu and self._numbers.is_cpu
        # arrays of NumPy on the same memory take less time than operations of torch
        steps: Any = self._steps.numpy() if on_cpu else self._steps
        numbers: Any = self._numbers.numpy() if on_cpu else self._numbers
        steps += 1
        count = int(steps[0]) if len(steps) else 0
        values = [number for rule in self._rules for number in rule.numbers(count)]
        numbers[:] = values if on_cpu else torch.tensor(values, dtype=torch.float64)

    def _require_layouts(self) -> None:
        """Raise OptimiserChangedError if the memory layout of a tensor has changed, as by ``parameter.data = ...``."""
        if _layouts(self._inputs) != self._layouts:
            raise OptimiserChangedError("a parameter or a tensor of the optimiser has another shape or layout now")
        self._addresses = [tensor.data_ptr() for tensor in self._inputs]

    @property
    def changed_tensors(self) -> list[Tensor]:
        """The tensors that a step changes: those of the graph, and the state of the optimiser."""
        return [*self.held, *self._state, self._steps]

    def finish(self, outputs: Sequence[Tensor | None]) -> None:
        """Update the parameters by the outputs of a step if the compiled function does not.

        Args:
            outputs: what the step returned.
        """
        if not self.updates:
            self.eager_update(outputs[self.count :])

    def eager_update(self, gradients: Sequence[Tensor | None]) -> None:
        """Let torch's optimiser update the parameters, with the same clipping.

        Args:
            gradients: the gradient of each parameter of the step, or None.
        """
        scaled = gradients if self.clip is None else clipped(gradients, self.clip)
        for group in self.optimiser.param_groups:
            for parameter in group["params"]:
                parameter.grad = None
        set_gradients(self.parameters, scaled)
        self.optimiser.step()


def _layouts(tensors: Sequence[Tensor]) -> list[tuple[Any, ...]]:
    """Return the properties of its tensors that compiled code relies on."""
    return [(tensor.shape, tensor.stride(), tensor.dtype, tensor.device) for tensor in tensors]
