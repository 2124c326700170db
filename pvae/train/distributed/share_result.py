"""Give the result of the first process to all processes of a training."""

from __future__ import annotations

from pvae.train.distributed.training_group import TrainingGroup
from pvae.train.parameters import Parameters, root_module
from pvae.train.run import Run
from pvae.train.training_context import TrainingContext
from pvae.train.training_state import model_tensors

__all__ = ["copy_model_from_first", "share_result"]


def share_result(run: Run, context: TrainingContext) -> Run:
    """Return the run of this process with the parameters and the records of the first process.

    Args:
        run: the run of this process.
        context: the objects of the training.
    """
    if not context.group.is_shared:
        return run
    copy_model_from_first(context.group, context.parameters)
    facts = context.group.from_first(
        lambda: {"checkpoint": run.checkpoint, "history": run.history, "seconds": run.seconds}
    )
    run.checkpoint, run.history, run.seconds = facts["checkpoint"], facts["history"], facts["seconds"]
    if not context.group.is_first:
        run._held = {}  # only the first process keeps the best states
    return run


def copy_model_from_first(group: TrainingGroup, parameters: Parameters) -> None:
    """Copy the tensors of the model and of the objective from the first process to all.

    Args:
        group: the processes.
        parameters: the trained tensors.
    """
    if not group.is_shared:
        return
    tensors = model_tensors(parameters.latent_model, root_module(parameters.latent_model, parameters.programs))
    group.copy_from_first([*tensors.values(), *parameters.objective.state_dict().values()])
