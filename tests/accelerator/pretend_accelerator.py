"""Run objectives, models, evaluations, EM and optimisers on fake tensors of a pretend accelerator.

It prints one line for each: the part, the name, and "fine", a fault, or "not for this model". With ``--plant``, the
first case of each part has a fault of each kind. With --all-pairs, every model has every objective; 0/4 is the first
of four shares of the models.

    python pretend_accelerator.py PART... [--plant cpu,item,tolist,bool,numpy,copy] [--all-pairs 0/4]
"""

from __future__ import annotations

import itertools
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pretend_device as device  # registers the device before pvae is imported
import pyro
import torch
import zoo
from models import FEATURES
from objective_models import beside, model_of
from torch import Tensor, nn
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

import pvae.train.graph.trace
from pvae.batch import Batch
from pvae.em import mixture_of
from pvae.em.kernels.component_kernel import ComponentKernel
from pvae.em.kernels.feature_kernel import FeatureKernel
from pvae.em.kernels.whitened_kernel import WhitenedKernel
from pvae.errors import InputError
from pvae.models import bind, scope
from pvae.objectives import adapt, make_objective
from pvae.objectives.pyro.patches import without_synchronisation
from pvae.products import ProductChoices
from pvae.train.clipping import clipped
from pvae.train.optimisers import make_optimiser
from pvae.train.progress_state import ProgressState
from pvae.train.traced_weights.particle_blocks import in_blocks, in_one_run
from pvae.weights.compute import weights_of
from pvae.weights.elbo import elbo_terms
from pvae.weights.tracing import is_traced

SIZE = 6
NOT_FOR = "not for this model"
Line = tuple[str, str]


class Case:
    """A model and an objective that have run once on the CPU, which finds the layout of the programs, and are moved.

    Args:
        make: makes the latent model.
        text: the objective.
        batch: the data.
        particles: for how many particles the log weights are computed on the CPU too.
    """

    def __init__(self, make: Callable[[], Any], text: str, batch: Batch, particles: int = 0) -> None:
        torch.manual_seed(0)
        self.model, self.objective = make(), adapt(make_objective(text))
        with scope(self.model):
            self.programs = bind(self.model, batch)
            arguments = self.programs.arguments(batch)
            for player in self.objective.players:
                self.objective.terms(self.programs.model, self.programs.guide, arguments, {}, player)
            if particles:
                elbo_terms(weights_of(self.programs.bound_with(arguments).without_loss_terms(), particles))
        self.mode = FakeTensorMode()
        modules = [module for module in (self.model, self.objective) if isinstance(module, nn.Module)]
        for module in modules:
            device.move(module, self.mode)
        self.arguments = tuple(device.on_accelerator(self.mode, argument) for argument in arguments)
        self.parameters = [
            parameter for module in modules for parameter in module.parameters() if parameter.requires_grad
        ]

    def step(self, player: str, arguments: tuple[Tensor, ...], plant: str = "") -> tuple[Tensor | None, ...]:
        """Return the loss, the other numbers, the surrogate, and the gradients of a player."""
        terms = self.objective.terms(self.programs.model, self.programs.guide, arguments, {}, player)
        surrogate = device.planted(terms.surrogate, plant)
        gradients: tuple[Tensor | None, ...] = (None,) * len(self.parameters)
        if surrogate.requires_grad:
            gradients = torch.autograd.grad(surrogate.sum(), self.parameters, allow_unused=True)
        return (terms.loss, *terms.named.values(), surrogate.detach(), *gradients)


def _guarded(run: Callable[[], str | None]) -> str:
    """Return "fine", or the fault that a run returns or raises."""
    try:
        return run() or "fine"
    except Exception as error:  # each error is a fault
        return device.describe(error)


def _step_fault(make: Callable[[], Any], text: str, batch: Batch, plant: str, *, traced: bool = False) -> str:
    """Compute the terms and gradients of an objective for a model, eagerly or by a graph that is traced on the device.

    An eager step may check values, such as labels; the steps of a graph do not, and here neither does.
    """
    try:
        case = Case(make, text, batch)
    except Exception:  # the objective does not fit the model, also on the CPU
        return NOT_FOR

    def run() -> str | None:
        with case.mode, scope(case.model):
            for player in case.objective.players:
                fault = device.place_of(_results(case, player, plant, traced))
                if fault:
                    return fault
        return None

    return _guarded(run)


def _results(case: Case, player: str, plant: str, traced: bool) -> Any:
    """Return the results of a step of one player."""
    if traced:
        graph = pvae.train.graph.trace.trace(lambda *values: case.step(player, values, plant), case.arguments)
        return graph.run(*case.arguments)
    with without_synchronisation(), _as_traced():
        return case.step(player, case.arguments, plant)


def objectives(plant: str, all_pairs: slice | None) -> Iterator[Line]:
    """Every objective with the model of its kind."""
    for text, case in zoo.OBJECTIVES.items():
        x = torch.rand(SIZE, FEATURES).round()
        batch = Batch(x=x).replace(**beside(case.guide, SIZE))
        yield text, _step_fault(model_of(case.guide), text, batch, plant)


def models(plant: str, all_pairs: slice | None) -> Iterator[Line]:
    """Every model with its own objective, or with every objective and by a graph."""
    for name, case in list(zoo.MODELS.items())[all_pairs or slice(None)]:
        own = case.objective or getattr(case.make(), "default_objective", "elbo")
        for text in zoo.OBJECTIVES if all_pairs else [own]:
            traced = (
                all_pairs is not None and case.traced and (text not in zoo.OBJECTIVES or zoo.OBJECTIVES[text].traced)
            )
            yield f"{name}, {text}", _step_fault(case.make, text, case.batch(SIZE), plant, traced=traced)


def evaluations(plant: str, all_pairs: slice | None) -> Iterator[Line]:
    """Log weights and ELBO of models, as a graph that is traced on the device, in blocks and in one run."""
    names = [name for name, case in zoo.MODELS.items() if case.traced] if all_pairs else EVALUATED
    for name in names[all_pairs or slice(None)]:
        yield name, _guarded(lambda case=zoo.MODELS[name]: _evaluation_fault(case, plant))


EVALUATED = ("vae", "vae-conv", "vae-vamp", "vae-gaussian", "ladder-vae", "linear-gaussian")


def _evaluation_fault(model_case: zoo.ModelCase, plant: str) -> str | None:
    try:
        case = Case(model_case.make, "elbo", model_case.batch(SIZE), particles=4)
    except InputError:  # a guide of points has no evidence, also on the CPU
        return NOT_FOR

    def outputs(*values: Tensor) -> tuple[Tensor, ...]:
        weights = weights_of(case.programs.bound_with(values).without_loss_terms(), 4)
        terms = elbo_terms(weights)
        return device.planted(weights.log_w, plant), terms, torch.isfinite(terms).all()

    with case.mode, scope(case.model), torch.no_grad():
        graph = pvae.train.graph.trace.trace(outputs, case.arguments)
        aten = ProductChoices("aten")
        blocks = in_blocks(graph, 4, aten)
        runs = [in_one_run(graph, 4, aten)(case.arguments, 4)]
        runs += [] if blocks is None else [blocks(case.arguments, 12)]
        for tables in runs:
            fault = device.place_of(tables)
            if fault:
                return fault
    return None


def mixtures(plant: str, all_pairs: slice | None) -> Iterator[Line]:
    """E-steps of Gaussian mixtures: every kernel, family of covariances and type of the arithmetic."""
    for family in ("full", "tied", "diag", "spherical"):
        for kernel, dtype in KERNELS:
            if kernel is ComponentKernel and family != "full":
                continue
            yield (
                f"{kernel.__name__}, {family}, {dtype}",
                _guarded(lambda family=family, kernel=kernel, dtype=dtype: _kernel_fault(kernel, family, dtype, plant)),
            )


KERNELS = (
    (WhitenedKernel, torch.float64),
    (WhitenedKernel, torch.float32),
    (FeatureKernel, torch.float64),
    (FeatureKernel, torch.float32),
    (ComponentKernel, torch.float64),
)


def _kernel_fault(kernel_class: Any, family: str, dtype: torch.dtype, plant: str) -> str | None:
    components, features, rows = 3, 4, 10
    covariances = {
        "full": torch.eye(features).expand(components, features, features),
        "tied": torch.eye(features),
        "diag": torch.ones(components, features),
        "spherical": torch.ones(components),
    }
    made = mixture_of(
        torch.ones(components) / components, torch.randn(components, features), covariances[family], family
    )
    mode = FakeTensorMode()
    tensors = {
        name: device.on_accelerator(mode, value) if isinstance(value, Tensor) else value
        for name, value in vars(made).items()
    }
    u = device.on_accelerator(mode, torch.randn(features, rows, dtype=dtype))
    weights = device.on_accelerator(mode, torch.rand(rows, dtype=dtype))
    with mode:
        mixture = type(made)(**tensors)
        options = (mixture,) if kernel_class is ComponentKernel else (mixture, dtype)
        kernel = kernel_class(*options, products=ProductChoices("aten"))
        prepared = kernel.prepare(u, {})
        kernel.add(device.planted(prepared, plant), None)
        kernel.add(prepared, weights)
        outer = u.double() @ u.double().mT if kernel.needs_outer_sum else None
        statistics = kernel.statistics(outer)
        common = kernel.common_term(prepared)
        return device.place_of([*vars(statistics).values(), kernel.logits(prepared), common])


def optimisers(plant: str, all_pairs: slice | None) -> Iterator[Line]:
    """Whole steps: gradients, clipping, the update, and the sums of the epoch, twice."""
    for text in ("adam", "adamw", "rmsprop", "nadam", "adamax", "radam", "adadelta"):
        yield text, _guarded(lambda text=text: _update_fault(text, plant))


def _update_fault(text: str, plant: str) -> str | None:
    case = Case(zoo.MODELS["vae"].make, "iwae:particles=3", zoo.MODELS["vae"].batch(SIZE))
    progress = ProgressState()
    with case.mode, scope(case.model), without_synchronisation():
        optimiser = make_optimiser(text, {"all": case.parameters}, 1e-3)
        for _ in range(2):
            outputs = case.step("all", case.arguments)
            numbers, gradients = outputs[: -len(case.parameters)], outputs[-len(case.parameters) :]
            for parameter, gradient in zip(case.parameters, clipped(gradients, 1.0), strict=True):
                parameter.grad = None if gradient is None else device.planted(gradient, plant)
            optimiser.step()
            progress.add_step(tuple(map(str, range(len(numbers)))), tuple(numbers), SIZE)
        state = [value for values in optimiser.state.values() for value in values.values()]
        return device.place_of([*case.parameters, *progress._totals, *state])


PARTS = {part.__name__: part for part in (objectives, models, evaluations, mixtures, optimisers)}


def main() -> None:
    """Print each case and its fault."""
    warnings.simplefilter("ignore")
    pyro.enable_validation(False)
    pvae.train.graph.trace._one_fake_mode = _active_mode
    # Fake tensors refuse reads themselves, and use some of the refused methods.
    pvae.train.graph.trace.values_refused = nullcontext
    # Constants are computed from numbers, which fake tensors do not have.
    pvae.train.graph.trace.simplify = lambda graph: None
    arguments = sys.argv[1:]
    plants = arguments[arguments.index("--plant") + 1].split(",") if "--plant" in arguments else [""]
    all_pairs = None
    if "--all-pairs" in arguments:
        share, shares = map(int, arguments[arguments.index("--all-pairs") + 1].split("/"))
        all_pairs = slice(share, None, shares)
    for part, plant in itertools.product([argument for argument in arguments if argument in PARTS], plants):
        lines = PARTS[part](plant, all_pairs)
        for name, fault in itertools.islice(lines, 1) if plant else lines:
            print(f"{part}\t{plant or name}\t{fault}", flush=True)


@contextmanager
def _as_traced() -> Iterator[None]:
    """Let an eager step leave out its checks of values, such as labels, which a graph does not have."""
    modules = [
        module for name, module in sys.modules.items() if name.startswith("pvae.") and "is_traced" in vars(module)
    ]
    for module in modules:
        module.is_traced = lambda: True  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for module in modules:
            module.is_traced = is_traced  # type: ignore[attr-defined]


def _active_mode() -> Any:
    """Return the context in which the tracer uses the fake mode of the arguments, in place of one of its own."""
    modes = _get_current_dispatch_mode_stack()
    return tracing(TracingContext(next(mode for mode in reversed(modes) if isinstance(mode, FakeTensorMode))))


if __name__ == "__main__":
    main()
    os._exit(0)  # an orderly exit aborts where the private device has no hooks for the threads of autograd
