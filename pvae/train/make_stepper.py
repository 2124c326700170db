"""Make the stepper of a training: how its steps are executed, by the options and the data."""

from __future__ import annotations

import torch

from pvae.batch import Batch
from pvae.data.streams.stored_batch import StoredBatch
from pvae.products import ProductChoices
from pvae.structures import is_structure
from pvae.train.compiled.compiled_steps import CompiledSteps
from pvae.train.computation import Computation
from pvae.train.distributed.gradient_reduction import GradientReduction
from pvae.train.options import Options
from pvae.train.step import Stepper

__all__ = ["make_stepper"]


def make_stepper(
    computation: Computation,
    optimiser: torch.optim.Optimizer,
    options: Options,
    train: Batch,
    batch: Batch,
    reduction: GradientReduction | None = None,
) -> tuple[Stepper, str]:
    """Return the stepper of a training, and the reason if its steps do not run as the options ask, else "".

    Steps run eagerly for fields that are not tensors. Batches of many shapes run eagerly too, unless the option asks
    for a graph; they are not compiled.

    Args:
        computation: the computation of one step.
        optimiser: the optimiser.
        options: the checked options.
        train: the training data.
        batch: a batch of the full size.
        reduction: the sums over the processes of the training; None for one process.
    """
    asked, reason = options.step, ""
    if reduction is not None and asked in ("auto", "compile", "capture"):
        reason = "" if asked == "auto" else f"steps run as graphs, because step={asked!r} is for one process"
        asked = "graph"
    structures = [name for name in computation.programs.fields if is_structure(batch[name])]
    varies = isinstance(train, StoredBatch) and train.varies
    if structures and asked != "eager":
        asked, reason = "eager", f"steps run eagerly, because the field {structures[0]!r} is not a tensor"
    elif varies and asked == "auto":
        asked = "eager"
        reason = (
            "steps run eagerly, because a collate function makes the batches, which may have many shapes; step='graph' "
            "makes a graph for each shape"
        )
    elif varies and asked in ("compile", "capture"):
        asked = "graph"
        reason = "steps run as graphs, because a collate function makes the batches, which may have many shapes"
    stepper = Stepper(
        computation,
        optimiser,
        graph=asked != "eager",
        clip=options.clip,
        products=ProductChoices(options.matmul),
        compiled=CompiledSteps("graph" if asked == "capture" else asked, optimiser, options.clip),
        full_size=batch.size,
        reduction=reduction,
        capture=asked == "capture",
    )
    return stepper, reason
