"""Compute the terms and gradients of objectives on fake tensors of a pretend accelerator, and print one line for each.

torch's CPU build can register a device from Python and give it tensors that have shapes, types and a device, and no
numbers. Operations raise where tensors of two devices meet, and where a number is read off the device. The registration
cannot be undone, so this script runs in a process of its own.

    python pretend_accelerator.py [--plant cpu|item|tolist|bool|numpy]
"""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

torch.utils.backend_registration._setup_privateuseone_for_python_backend("accel")

import zoo  # noqa: E402
from models import FEATURES  # noqa: E402
from objective_models import beside, model_of  # noqa: E402

from pvae.batch import Batch  # noqa: E402
from pvae.models import bind, scope  # noqa: E402
from pvae.objectives import adapt, make_objective  # noqa: E402
from pvae.objectives.pyro.patches import without_synchronisation  # noqa: E402

SIZE = 6
#: Reads of a number from the device, by name.
READS: dict[str, Any] = {
    "item": Tensor.item,
    "tolist": Tensor.tolist,
    "bool": bool,
    "numpy": lambda loss: loss.detach().numpy(),
}


def _new(fill: Any) -> Any:
    """Return a method such as ``Tensor.new_zeros`` that fake tensors of a private device lack."""

    def new(tensor: Tensor, *size: Any, dtype: Any = None, device: Any = None) -> Tensor:
        return fill(*size, dtype=dtype or tensor.dtype, device=device or tensor.device)

    return new


_FILLS = {"new_zeros": torch.zeros, "new_ones": torch.ones, "new_empty": torch.empty, "new_full": torch.full}
for _name, _fill in _FILLS.items():
    setattr(Tensor, _name, _new(_fill))


_tensor = torch.tensor


def _literal(data: Any, *, dtype: Any = None, device: Any = None, **options: Any) -> Tensor:
    """Return ``torch.tensor``, which copies to a private device below the fake mode."""
    made = _tensor(data, dtype=dtype, **options)
    if device is None or torch.device(device).type != "accel":
        return made
    return torch.full(made.shape, 0, dtype=made.dtype, device=device)


torch.tensor = _literal


def on_accelerator(mode: FakeTensorMode, tensor: Tensor) -> FakeTensor:
    """Return a tensor without numbers on the pretend device."""
    return FakeTensor(mode, torch.empty_like(tensor, device="meta"), torch.device("accel", 0))


def move(module: nn.Module, mode: FakeTensorMode) -> None:
    """Replace every parameter and buffer of a module by one on the pretend device."""
    for each in module.modules():
        for name, parameter in list(each._parameters.items()):
            if parameter is not None:
                moved = nn.Parameter(on_accelerator(mode, parameter.detach()), parameter.requires_grad)
                each._parameters[name] = moved
        for name, buffer in list(each._buffers.items()):
            if buffer is not None:
                each._buffers[name] = on_accelerator(mode, buffer)


def find_fault(text: str, kind: str, plant: str) -> str | None:
    """Return why an objective does not compute on an accelerator alone, or None.

    The first run, on the CPU, finds the layout of the programs, which reads numbers, and is done once in a training.
    """
    torch.manual_seed(0)
    model, objective = model_of(kind)(), adapt(make_objective(text))
    x = torch.rand(SIZE, FEATURES).round()
    batch = Batch(x=x).replace(**beside(kind, SIZE))
    with scope(model):
        programs = bind(model, batch)
        arguments = programs.arguments(batch)
        for player in objective.players:
            objective.terms(programs.model, programs.guide, arguments, {}, player)
    mode = FakeTensorMode()
    for module in (model, *([objective] if isinstance(objective, nn.Module) else [])):
        move(module, mode)
    moved = tuple(on_accelerator(mode, argument) for argument in arguments)
    parameters = [*model.parameters(), *(objective.parameters() if isinstance(objective, nn.Module) else [])]
    try:
        with mode, scope(model), without_synchronisation():
            for player in objective.players:
                terms = objective.terms(programs.model, programs.guide, moved, {}, player)
                loss, surrogate = planted(terms, plant)
                results = [loss, *terms.named.values()]
                if surrogate.requires_grad:
                    results += torch.autograd.grad(surrogate, parameters, allow_unused=True)
                for result in results:
                    if result is not None and result.device.type != "accel":
                        return f"a result is on {result.device}"
    except Exception as error:  # each error is a fault
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"
    return None


def planted(terms: Any, plant: str) -> tuple[Tensor, Tensor]:
    """Return the loss and the surrogate, with a fault if one is wanted."""
    loss, surrogate = terms.loss, terms.surrogate
    if plant == "cpu":
        surrogate = (surrogate + torch.zeros(SIZE)).mean()
    if plant in READS:
        READS[plant](loss)
    return loss, surrogate


def main() -> None:
    """Print each objective and its fault, or "fine"."""
    warnings.simplefilter("ignore")
    plant = sys.argv[sys.argv.index("--plant") + 1] if "--plant" in sys.argv else ""
    texts = zoo.OBJECTIVES if not plant else {"iwae:particles=3": zoo.OBJECTIVES["iwae:particles=3"]}
    for text, case in texts.items():
        print(f"{text}\t{find_fault(text, case.guide, plant) or 'fine'}", flush=True)


if __name__ == "__main__":
    main()
    os._exit(0)  # an orderly exit aborts where the private device has no hooks for the threads of autograd
