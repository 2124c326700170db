"""Train a latent model: from a model, data and options to a run."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w
import torch

from pvae.data import Splits, load_data
from pvae.errors import InputError
from pvae.files import UNFINISHED, write_text
from pvae.fit_options import FitOptions
from pvae.models.build import ModelSpec, spec_of
from pvae.objectives import adapt, describe, make_objective
from pvae.programs.binding import Fields
from pvae.programs.model_traits import traits_of
from pvae.programs.parameter_scope import scope
from pvae.train.checkpoint import describe_difference, read_newest
from pvae.train.devices import isolated
from pvae.train.history import History
from pvae.train.loop import Loop
from pvae.train.options import binding, describe_run, resolved
from pvae.train.prepare import Task
from pvae.train.progress import make_progress
from pvae.train.run import Run, read_config
from pvae.train.signals import interrupts

__all__ = ["fit"]


def fit(
    model: Any,
    data: Any,
    *,
    objective: Any = None,
    epochs: int = FitOptions.epochs,
    batch_size: int = FitOptions.batch_size,
    learning_rate: float | Mapping[str, float] = FitOptions.learning_rate,
    optimiser: Any = FitOptions.optimiser,
    schedule: Any = FitOptions.schedule,
    device: str = FitOptions.device,
    precision: str = FitOptions.precision,
    step: str = FitOptions.step,
    seed: int = FitOptions.seed,
    out: str | Path | None = None,
    resume: bool = False,
    clip: float | None = FitOptions.clip,
    patience: int | None = FitOptions.patience,
    validation_particles: int = FitOptions.validation_particles,
    validation_limit: int = FitOptions.validation_limit,
    callbacks: Sequence[Callable[..., Any]] = (),
    progress: bool | None = None,
    on_divergence: str = FitOptions.on_divergence,
    threads: int | None = FitOptions.threads,
    fields: Fields = None,
    model_spec: ModelSpec | None = None,
    max_steps: int | None = FitOptions.max_steps,
    checkpoint_seconds: float = FitOptions.checkpoint_seconds,
) -> Run:
    """Train a latent model, and return the run.

    The model holds the best parameters by the validation bound afterwards, or the last ones where the data have
    no validation split, or the objective (`GAN`, `AAE`, `ALI`) nothing that ranks parameters. The caller's random
    generators, parameter store and number of threads stay as they were.

    Args:
        model: a `LatentModel`, a `pair`, the VAE of a Pyro tutorial, or a `ModelSpec`, which is built from `seed`.
        data: `Splits`, or what `pvae.load_data` takes.
        objective: a `pvae.Objective`, a loss of `pyro.infer`, a factory of one, or a name such as
            ``"iwae:particles=8"``; by default what the model names as ``default_objective``, else ``"elbo"``.
        epochs: passes over the training data, in all: a continued run goes on to this number.
        batch_size: data per step.
        learning_rate: for optimisers by name or class; or one for each group of parameters,
            ``{"theta": 1e-3, "phi": 3e-4}``, declared or found (``"critic"`` where there is one; ``"objective"`` is for
            an objective's other networks).
        optimiser: a name of ``torch.optim`` with settings (``"sgd:momentum=0.9"``), a class, a factory that takes
            the parameters, or an optimiser.
        schedule: a name of ``torch.optim.lr_scheduler`` (``"exponential:gamma=0.99"``) or a factory that takes the
            optimiser; stepped once an epoch.
        device: ``"auto"`` takes CUDA where there is one.
        precision: ``"float32"``, ``"float64"``, or ``"bfloat16"`` (autocast; parameters in float32).
        step: ``"graph"`` traces the step once and runs the trace, with the same result; ``"eager"``; ``"auto"`` is
            graph.
        seed: of data order, draws, and of a `ModelSpec`'s parameters.
        out: folder of the run; None keeps everything in memory.
        resume: continue the run in `out`; where there is none, begin it.
        clip: largest norm of all gradients together, per datum.
        patience: stop after so many epochs without a better validation bound.
        validation_particles: draws of z per datum for the validation bound.
        validation_limit: most data for the validation bound; the first ones.
        callbacks: called as ``callback(record, model)`` after each epoch; one that returns True ends the training.
        progress: a display on standard error: None for a bar on a terminal and lines elsewhere; False for none.
        on_divergence: ``"stop"``, or ``"rollback"`` to the last good state with half the learning rate.
        threads: torch's threads; as they are now, or as the continued run had.
        fields: the batch fields for the programs, where their signatures do not tell.
        model_spec: how to build `model` again, so that `open_run` can; known of itself for a `LatentModel` of an
            importable class that was made with numbers, texts and tuples.
        max_steps: end after so many steps in all.
        checkpoint_seconds: time between checkpoints (one is written at the end and on SIGTERM in any case).

    Raises:
        InputError: for input that cannot be used; `out` is then untouched.
        DivergenceError: if a number went non-finite; the last good state is kept.
        OSError: if a checkpoint cannot be written; the one before is intact.
    """
    options = {name: value for name, value in locals().items() if name in FitOptions.__dataclass_fields__}
    return _fit(model, data, objective, options, out, resume, callbacks, progress, fields, model_spec)


def _fit(
    model: Any,
    data: Any,
    objective: Any,
    given: dict[str, Any],
    out: str | Path | None,
    resume: bool,
    callbacks: Sequence[Callable[..., Any]],
    progress: bool | None,
    fields: Fields,
    spec: ModelSpec | None,
) -> Run:
    folder = Path(out) if out is not None else None
    recorded = _recorded(folder, resume)
    options = resolved(given, None if recorded is None else recorded["training"])
    if torch.device(options.device).type == "cuda":
        torch.cuda.init()  # so that its generators are seeded inside, and put back
    with isolated(options.seed, options.threads):
        splits = data if isinstance(data, Splits) else load_data(data)
        if isinstance(model, ModelSpec):
            spec, model = model, model.build(splits)
        if objective is None:
            objective = traits_of(model).default_objective
        own = adapt(make_objective(objective) if isinstance(objective, str) else objective)
        with scope(model), interrupts() as stop, torch.enable_grad():
            task = Task(model, own, options, fields, fresh=recorded is None)
            splits = task.prepare(splits)
            recipe = spec or spec_of(model)
            config = describe_run(options, splits, describe(own), model, recipe, fields)
            display = make_progress(progress)
            history = History(None if folder is None else folder / "metrics.jsonl")
            setting = task.setting(splits, config, history, folder, tuple(callbacks), display, stop)
            for note in (*splits.notes, *task.notes):
                display.note(note)
            return _train(Loop(setting), config, recorded, folder)


def _recorded(folder: Path | None, resume: bool) -> dict[str, Any] | None:
    """The config of the run to be continued; None for a fresh one."""
    if folder is None:
        if resume:
            raise InputError("resume=True needs out=, the folder of the run to be continued.")
        return None
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    if not resume:
        raise InputError(
            f"{folder} exists already, and was not touched. Continue it with resume=True, or choose another out."
        )
    if (folder / "last").exists() or (folder / "last.previous").exists():
        return read_config(folder)
    # a run that was stopped before its first checkpoint begins anew
    known = {"config.toml", f"config.toml{UNFINISHED}", "metrics.jsonl", f"last{UNFINISHED}"}
    if not {path.name for path in folder.iterdir()} <= known:
        raise InputError(f"{folder} holds no run to be continued, and was not touched.")
    return None


def _train(loop: Loop, config: dict[str, Any], recorded: dict[str, Any] | None, folder: Path | None) -> Run:
    if folder is not None and recorded is not None:
        _continue(loop, config, recorded, folder)
    elif folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "metrics.jsonl").unlink(missing_ok=True)
    if folder is not None:
        write_text(folder / "config.toml", tomli_w.dumps(config))
    loop.run()
    return _result(loop, config, folder)


def _continue(loop: Loop, config: dict[str, Any], recorded: dict[str, Any], folder: Path) -> None:
    """Put the loop where the recorded run stopped, if it is the same run."""
    if difference := describe_difference(binding(config), binding(recorded), "options"):
        raise InputError(f"{folder} cannot be continued as another run: {difference}.")
    snapshot = read_newest(folder, "last")
    if snapshot.state["epoch"] > config["training"]["epochs"]:
        asked, done = config["training"]["epochs"], snapshot.state["epoch"]
        raise InputError(f"{folder} has {done} epochs already; epochs={asked} would take some back.")
    loop.resume(snapshot)


def _result(loop: Loop, config: dict[str, Any], folder: Path | None) -> Run:
    """The run with its best parameters loaded; without a validation split these are the last ones."""
    setting = loop.setting
    if setting.validation is not None and setting.validation.reason:
        reason = f"The validation bound is the objective's own, for want of weights: {setting.validation.reason}"
        warnings.warn(reason, stacklevel=4)
    held = {} if loop.good is None else {"last": loop.good.parameters}
    if loop.best is not None:
        held["best"] = loop.best.parameters
    elif not setting.ranked and held:
        held["best"] = held["last"]
    model, seconds = loop.parameters.latent_model, loop.position.seconds
    step = "graph" if setting.stepper.graph else "eager"
    run = Run(model, setting.history.records, folder, config, seconds, "last", step, held)
    return run.load("best") if "best" in held or folder is not None else run
