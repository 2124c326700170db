"""`fit`: train a latent model on data, and return the run."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pyro.infer import ELBO

from pvae.accelerators import start
from pvae.callbacks.base import Callback, as_callbacks, call_at_start_and_error
from pvae.data import Splits, load_data
from pvae.fit_options import FitOptions
from pvae.logs import timed
from pvae.models.build import ModelSpec, spec_of
from pvae.models.fitted_prior import without_prior
from pvae.models.make_model import ModelOrRecipe, build_model, is_recipe, spec_from_text
from pvae.objectives import adapt, describe, make_objective
from pvae.programs.binding import Fields
from pvae.programs.model_traits import require_latent_model, traits_of
from pvae.programs.parameter_scope import scope
from pvae.train.devices import float32_products, isolated
from pvae.train.distributed.objective_state import without_own_advances
from pvae.train.distributed.share_result import share_result
from pvae.train.distributed.training_group import TrainingGroup
from pvae.train.loop import Loop
from pvae.train.options import resolved, with_own_batch_size
from pvae.train.prepare import TrainingSetup
from pvae.train.run import Run
from pvae.train.run_folder import locked_config, snapshot_to_resume, write_config
from pvae.train.run_record import (
    config_hash,
    describe_run,
    former_hashes,
    kinds_of_changes,
)
from pvae.train.signals import catch_interrupts
from pvae.train.training_request import TrainingRequest, checked_folder
from pvae.train.unfinished_schedules import warn_of_unfinished_schedules

__all__ = ["fit"]

_LOG = logging.getLogger(__name__)


def fit(
    model: ModelOrRecipe,
    data: Any,
    *,
    objective: ELBO | Callable[..., Any] | str | None = None,
    epochs: int = FitOptions.epochs,
    batch_size: int = FitOptions.batch_size,
    learning_rate: float | Mapping[str, float] = FitOptions.learning_rate,
    optimiser: Any = FitOptions.optimiser,
    schedule: Any = FitOptions.schedule,
    device: str = FitOptions.device,
    precision: str = FitOptions.precision,
    step: str = FitOptions.step,
    matmul: str = FitOptions.matmul,
    seed: int = FitOptions.seed,
    out: str | Path | None = None,
    resume: bool = False,
    clip: float | None = FitOptions.clip,
    patience: int | None = FitOptions.patience,
    validation_particles: int = FitOptions.validation_particles,
    validation_limit: int = FitOptions.validation_limit,
    callbacks: Sequence[Callback | Callable[..., Any]] = (),
    progress: bool | None = None,
    on_divergence: str = FitOptions.on_divergence,
    threads: int | None = FitOptions.threads,
    fields: Fields = None,
    model_spec: ModelSpec | None = None,
    max_steps: int | None = FitOptions.max_steps,
    max_seconds: float | None = FitOptions.max_seconds,
    max_evaluations: int | None = FitOptions.max_evaluations,
    checkpoint_seconds: float = FitOptions.checkpoint_seconds,
    allow_changed: str | Sequence[str] = (),
) -> Run:
    """Train a latent model, and return the run.

    Afterwards the model holds the parameters with the best validation bound; if the model has no parameters, those with
    the least validation loss. It holds the last ones if the data have no validation split, if parameters belong to
    positions of the batch, or if the objective (`GAN`, `AAE`, `ALI`) has no score that ranks parameters. The caller's
    random generators, parameter store and number of threads stay as they are.

    In an initialised process group of `torch.distributed` with several processes, all processes call this function with
    the same arguments and train one model together; each computes its share of every batch.

    Args:
        model: a `LatentModel`, a `pair`, or the VAE of a Pyro tutorial; or a recipe for one, which gets its initial
            parameters from `seed`: a text such as ``"vae:latent=8"``, a `ModelSpec`, a class or a function, as for
            `compare`.
        data: `Splits`, or another argument of `pvae.load_data`, such as a loader of PyTorch.
        objective: a `pvae.Objective`, a loss of `pyro.infer`, a function that makes one, or a name such as
            ``"iwae:particles=8"``; the default is the model's ``default_objective``, else ``"elbo"``.
        epochs: the number of passes over the training data in all; a resumed run continues to this number.
        batch_size: the number of data per step, in all processes together; a loader of PyTorch has its own.
        learning_rate: the learning rate for an optimiser that is given by name or class; or one for each parameter
            group, ``{"theta": 1e-3, "phi": 3e-4}``, with the declared groups, or those that are found (``"critic"`` if
            there is one; ``"objective"`` for other networks of an objective).
        optimiser: a name of ``torch.optim`` with settings (``"sgd:momentum=0.9"``), a class, a function of the
            parameters that returns an optimiser, or an optimiser.
        schedule: a name of ``torch.optim.lr_scheduler`` (``"exponential:gamma=0.99"``), or a function of the optimiser
            that returns a schedule. The schedule has one step per epoch.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"xpu"`` or ``"mps"``; ``"auto"`` means CUDA if the machine has
            it, else the CPU.
        precision: ``"float32"``, ``"float64"``, ``"bfloat16"`` (autocast, with parameters in float32), or ``"tf32"``
            (float32, of which CUDA rounds the factors of matrix products to 10 bits of mantissa).
        step: ``"graph"`` traces the step once and runs the graph, with the same result up to rounding; other programs
            run eagerly after a warning. ``"compile"`` compiles the graph and the update of the parameters (Adam,
            AdamW, SGD) by torch's compiler, which takes some 10 s and a C++ compiler. ``"eager"`` runs the programs in
            each step. ``"auto"`` means graph, and compile in a training that is long enough to save time by it.
            ``"capture"`` launches the graph as one CUDA graph.
        matmul: the library of the matrix products of a graph: ``"auto"``, the library that is the fastest for each
            shape on this machine; or ``"aten"``, torch itself, with the same bits as the eager step. A resumed run
            keeps the libraries of the run.
        seed: the seed of the order of data, of all draws, and of the parameters of a `ModelSpec`.
        out: the folder of the run; None keeps everything in memory.
        resume: whether to continue the run in `out`; if there is none, a new one starts.
        clip: the largest norm of all gradients together, in nats per datum; None for no limit.
        patience: the number of epochs without a better validation bound after which training stops; None for no limit.
        validation_particles: the number of draws of z per datum for the validation bound.
        validation_limit: the largest number of data for the validation bound; a random subset is drawn with seed 0, the
            same in all trainings.
        callbacks: `pvae.callbacks.Callback` objects, such as `pvae.callbacks.TensorBoard`; or functions, called as
            ``function(record, model)`` after each epoch. Training ends if one returns True after an epoch.
        progress: None for a bar on a terminal or in a notebook, and lines elsewhere; True for a bar; False for nothing.
        on_divergence: ``"stop"``; or ``"rollback"`` to the last good state with half the learning rate.
        threads: the number of threads of torch; None means the current number, or the number of the resumed run.
        fields: the batch fields for the programs, if their signatures do not name them: by position; or a mapping from
            parameter to field, and then the other parameters get the fields of their names.
        model_spec: how to build `model` again, for `open_run`. It is known for a `LatentModel` of an importable class
            that was made with numbers, texts and tuples.
        max_steps: the number of steps in all after which training ends; None for no limit.
        max_seconds: the training time in all, without validation and callbacks, after which training ends.
        max_evaluations: the number of decoder evaluations in all, particles times data, which the training does not
            exceed.
        checkpoint_seconds: the time between two checkpoints, in seconds. The end and SIGTERM write one in any case.
        allow_changed: what may differ from the run that `resume` continues: ``"model"`` (its settings and code),
            ``"objective"``, ``"data"``, ``"training"`` (the options), ``"versions"``; several in a list.

    Returns:
        The run, with the trained model and its history.

    Raises:
        InputError: for input that cannot be used; `out` is then unchanged.
        DivergenceError: if a number is not finite; the last good state is kept.
        OSError: if a checkpoint cannot be written; the previous one is intact.
        LostProcessError: if another process of the training has failed, has ended or does not answer in time.

    Example:
        >>> import pvae, torch
        >>> x = torch.eye(4).repeat(10, 1)
        >>> run = pvae.fit("vae:latent=2:hidden=8", x, objective="iwae:particles=5", epochs=2, progress=False)
        >>> [record["epoch"] for record in run.history]
        [1, 2]
        >>> run.model.sample(3).shape
        torch.Size([3, 4])
    """
    options = {name: value for name, value in locals().items() if name in FitOptions.__dataclass_fields__}
    request = TrainingRequest(
        model=model,
        data=data,
        objective=objective,
        options=options,
        folder=checked_folder(out),
        resume=resume,
        callbacks=as_callbacks(callbacks),
        progress=progress,
        fields=fields,
        model_spec=model_spec,
        allow_changed=kinds_of_changes(allow_changed),
        group=TrainingGroup(),
    )
    with ExitStack() as stack:
        return _fit(request, request.group.from_first(partial(locked_config, stack, request.folder, resume)))


def _fit(request: TrainingRequest, recorded: dict[str, Any] | None) -> Run:
    folder, request = request.folder, request.of_process()
    options = resolved(request.options, None if recorded is None else recorded["training"])
    start(torch.device(options.device).type)  # so that `isolated` seeds and restores the generators of the device
    with isolated(options.seed, options.threads), float32_products(options.precision):
        with timed(_LOG, "read the data"):
            splits = request.data if isinstance(request.data, Splits) else load_data(request.data)
        options, batch_notes = with_own_batch_size(options, splits)
        model, spec = _model_and_spec(request, splits)
        objective = _objective(request, model)
        together = without_own_advances(objective, request.group.is_shared)
        with scope(model), catch_interrupts() as interrupts, torch.enable_grad(), together:
            setup = TrainingSetup(request, model, objective, options, is_fresh=recorded is None)
            with timed(_LOG, "check the programs on the first batches"):
                splits = setup.prepare(splits)
            named = describe(objective), objective
            config = describe_run(options, splits, named, model, spec or spec_of(without_prior(model)), request.fields)
            if objective.biased:  # some objectives know it only after the check has run them
                config["biased"] = objective.biased
            context = setup.context(splits, config, interrupts)
            request.group.require_same({"data": splits.checksum, "model, objective and options": config_hash(config)})
            # the line about a file includes what was inferred from its content
            account = splits.schema.account
            notes = [note for note in splits.notes if note not in account]
            for note in (*([f"{splits.name}: {account}"] if account else []), *notes, *batch_notes, *setup.notes):
                context.display.note(note)
            loop = Loop(context)
            if recorded is not None:
                reader = partial(snapshot_to_resume, request.folder, config, recorded, request.allow_changed)
                snapshot = request.group.snapshot_from_first(reader)
                config |= former_hashes(recorded, config)
                loop.resume(snapshot)
            warn_of_unfinished_schedules(context)
            write_config(request.folder, config, is_fresh=recorded is None)
            with call_at_start_and_error(request.callbacks, config, model), timed(_LOG, "train"):
                loop.run()
            run = share_result(_result(loop, config), context)
            run.folder = folder
    for callback in request.callbacks:
        callback.on_end(run)
    return run


def _model_and_spec(request: TrainingRequest, splits: Splits) -> tuple[Any, ModelSpec | None]:
    """Return the latent model, built for the data if it is a recipe, and its specification if it is known."""
    model = spec_from_text(request.model) if isinstance(request.model, str) else request.model
    if is_recipe(model):
        return build_model(model, splits), model if isinstance(model, ModelSpec) else request.model_spec
    require_latent_model(request.model, "fit")
    return request.model, request.model_spec


def _objective(request: TrainingRequest, model: Any) -> Any:
    """Return the objective of the request, or the default of the model, as a `pvae.Objective`."""
    objective = traits_of(model).default_objective if request.objective is None else request.objective
    return adapt(make_objective(objective) if isinstance(objective, str) else objective)


def _result(loop: Loop, config: dict[str, Any]) -> Run:
    """Return the run, with the best parameters loaded if they are kept."""
    context, snapshots = loop.context, loop.snapshots
    if context.validation is not None and context.validation.reason:
        warnings.warn(
            f"The validation bound is the objective's own, because there are no weights: {context.validation.reason}",
            stacklevel=4,
        )
    parameters = {} if snapshots.good is None else {"last": snapshots.good.parameters}
    if snapshots.best is not None:
        parameters["best"] = snapshots.best.parameters
    elif parameters and not context.ranks_parameters:
        parameters["best"] = parameters["last"]
    run = Run(
        context.latent_model,
        context.history.records,
        context.folder,
        config,
        context.progress.seconds,
        "last",
        context.stepper.how,
        parameters,
    )
    return run.load("best") if "best" in parameters or context.folder is not None else run
