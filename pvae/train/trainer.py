"""Train a latent model: from a model, data and options to a run."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tomli_w
import torch
from torch import nn

from pvae.batch import Batch
from pvae.data import Splits, load_data
from pvae.errors import InputError
from pvae.models.build import ModelSpec
from pvae.models.programs import Fields, Programs, bind
from pvae.models.registration import scope, store_tensors
from pvae.objectives import adapt, check, describe, make_objective
from pvae.randomness import preserved_randomness
from pvae.train.checkpoint import describe_difference, read_newest
from pvae.train.devices import isolated, resolve
from pvae.train.frozen import unmoved
from pvae.train.history import History
from pvae.train.loop import Loop, Setting
from pvae.train.optimisers import make_optimiser, make_schedule
from pvae.train.options import Options, binding, config_hash, describe_run, resolved
from pvae.train.parameters import Parameters
from pvae.train.progress import make_progress
from pvae.train.run import Run, read_config
from pvae.train.signals import interrupts
from pvae.train.step import Computation, Stepper
from pvae.train.validation import Validation, observes_bernoulli

__all__ = ["fit"]

_LOOK = 16  # data that the checks before a training look at


def fit(
    model: Any,
    data: Any,
    *,
    objective: Any = "elbo",
    epochs: int = 50,
    batch_size: int = 100,
    learning_rate: float = 1e-3,
    optimiser: Any = "adam",
    schedule: Any = None,
    device: str = "auto",
    precision: str = "float32",
    step: str = "auto",
    seed: int = 0,
    out: str | Path | None = None,
    resume: bool = False,
    clip: float | None = None,
    patience: int | None = None,
    validation_particles: int = 100,
    validation_limit: int = 500,
    callbacks: Sequence[Callable[..., Any]] = (),
    progress: bool | None = None,
    on_divergence: str = "stop",
    threads: int | None = None,
    fields: Fields = None,
    model_spec: ModelSpec | None = None,
    max_steps: int | None = None,
    checkpoint_seconds: float = 30.0,
) -> Run:
    """Train a latent model, and return the run.

    The model holds the best parameters by the validation bound afterwards, or the last ones where the data have
    no validation split. The caller's random generators, parameter store and number of threads stay as they were.

    Args:
        model: a `LatentModel`, a `pair`, the VAE of a Pyro tutorial, or a `ModelSpec`, which is built from `seed`.
        data: `Splits`, or what `pvae.load_data` takes.
        objective: a `pvae.Objective`, a loss of `pyro.infer`, a factory of one, or a name such as
            ``"iwae:particles=8"``.
        epochs: passes over the training data, in all: a continued run goes on to this number.
        batch_size: data per step.
        learning_rate: for optimisers by name or class.
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
        model_spec: how to build `model` again, so that `open_run` can.
        max_steps: end after so many steps in all.
        checkpoint_seconds: time between checkpoints (one is written at the end and on SIGTERM in any case).
    Raises:
        InputError: for input that cannot be used; `out` is then untouched.
        DivergenceError: if a number went non-finite; the last good state is kept.
        OSError: if a checkpoint cannot be written; the one before is intact.
    """
    folder = Path(out) if out is not None else None
    recorded = _recorded(folder, resume)
    names = Options.__dataclass_fields__
    given = {name: value for name, value in locals().items() if name in names}
    options = resolved(given, None if recorded is None else recorded["training"])
    if torch.device(options.device).type == "cuda":
        torch.cuda.init()  # so that its generators are seeded inside, and put back
    with isolated(options.seed, options.threads):
        splits = data if isinstance(data, Splits) else load_data(data)
        if isinstance(model, ModelSpec):
            model_spec, model = model, model.build(splits)
        own = adapt(make_objective(objective) if isinstance(objective, str) else objective)
        with scope(model, inherit=recorded is None), interrupts() as stop:
            task = _Task(model, own, options, fields, fresh=recorded is None)
            splits = task.prepare(splits)
            config = describe_run(options, splits, describe(own), model, model_spec)
            display = make_progress(progress)
            history = History(None if folder is None else folder / "metrics.jsonl")
            setting = task.setting(splits, config, history, folder, callbacks, display, stop)
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
    if not (folder / "config.toml").exists() and not (folder / "last").exists():
        raise InputError(f"{folder} holds no run to be continued (no config.toml), and was not touched.")
    return read_config(folder)


class _Task:
    """Gets model, data and objective ready for the loop."""

    def __init__(self, model: Any, objective: Any, options: Options, fields: Fields, *, fresh: bool) -> None:
        self.model, self.objective, self.options = model, objective, options
        self.fields, self.fresh = fields, fresh
        self.device = resolve(options.device)
        self.notes: list[str] = []

    def prepare(self, splits: Splits) -> Splits:
        """Return the data as the model needs them, on the device; initialise, move and check the model."""
        few = _typed(splits.train.take(slice(0, _LOOK)), self._dtype())
        programs = bind(self.model, few, self.fields)
        with preserved_randomness(), torch.no_grad():
            bernoulli = observes_bernoulli(programs, _beside(programs, few))
        splits = _typed_splits(splits.for_likelihood(bernoulli), self.options.dtype)
        if self.fresh and hasattr(self.model, "initialise_from"):
            self.model.initialise_from(splits.train)
        for module in (*programs.modules, self.objective):
            if isinstance(module, nn.Module):
                module.to(device=self.device, dtype=self.options.dtype)
        for each in store_tensors(self.model).values():
            each.data = each.data.to(self.device, self.options.dtype if each.is_floating_point() else each.dtype)
        splits = splits.to(self.device)
        self._check(splits)
        return splits

    def _dtype(self) -> torch.dtype:
        """The floating type that the model has now, before it is moved."""
        held = self.model.parameters() if isinstance(self.model, nn.Module) else iter(())
        return next((each.dtype for each in held if each.is_floating_point()), self.options.dtype)

    def _check(self, splits: Splits) -> None:
        batch = splits.train.take(slice(0, min(_LOOK, self.options.batch_size)))
        if splits.train_dynamic:
            batch = batch.replace(x=batch.x.round())
        findings = check(self.model, batch, self.objective, self.fields)
        findings.require()
        self.notes += [f"note: {each}" for each in findings]

    def setting(self, splits: Splits, config: dict[str, Any], history: History, folder: Path | None,
                callbacks: Sequence[Callable[..., Any]], display: Any, stop: Any) -> Setting:  # fmt: skip
        """Return everything that the loop works with."""
        options = self.options
        first = splits.train.take(slice(0, options.batch_size))
        programs = bind(self.model, first, self.fields)
        self._settle(programs, first)
        parameters = Parameters(self.model, programs, self.objective, first)
        groups = {player: parameters.of(player) for player in parameters.players}
        optimiser = make_optimiser(options.optimiser, groups, options.learning_rate)
        computation = Computation(programs, self.objective, parameters, options.autocast)
        validation = None
        if splits.validation is not None:
            few = splits.validation.take(slice(0, options.validation_limit))
            validation = Validation(computation, few, particles=options.validation_particles, seed=options.seed)
        elif options.patience is not None:
            raise InputError("patience needs a validation split: load the data with validation=0.1, say.")
        return Setting(
            options=options,
            splits=splits,
            stepper=Stepper(computation, optimiser, graph=options.step != "eager", clip=options.clip),
            schedule=make_schedule(options.schedule, optimiser),
            validation=validation,
            history=history,
            folder=folder,
            callbacks=tuple(callbacks),
            progress=display,
            interrupts=stop,
            identity={"data": splits.checksum, "config": config_hash(config)},
        )

    def _settle(self, programs: Programs, batch: Batch) -> None:
        """One validated eager pass creates what programs create lazily; it leaves nothing else behind."""
        modules = [each for each in (*programs.modules, self.objective) if isinstance(each, nn.Module)]
        with unmoved(self.model, modules):
            for player in self.objective.players:
                self.objective.terms(programs.model, programs.guide, programs.arguments(batch), {}, player)


def _beside(programs: Programs, batch: Batch) -> tuple[torch.Tensor, ...]:
    """The programs' arguments on the device where the model is now."""
    held = [each.device for module in programs.modules for each in module.parameters()]
    return programs.arguments(batch.to(held[0]) if held else batch)


def _typed(batch: Batch, dtype: torch.dtype) -> Batch:
    return Batch(**{name: each.to(dtype) if each.is_floating_point() else each for name, each in batch.items()})


def _typed_splits(splits: Splits, dtype: torch.dtype) -> Splits:
    return splits._each(lambda _, batch: _typed(batch, dtype))


def _train(loop: Loop, config: dict[str, Any], recorded: dict[str, Any] | None, folder: Path | None) -> Run:
    if recorded is not None and folder is not None:
        if difference := describe_difference(binding(config), binding(recorded), "options"):
            raise InputError(f"{folder} cannot be continued as another run: {difference}.")
        loop.resume(read_newest(folder, "last"))
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.toml").write_text(tomli_w.dumps(config), encoding="utf-8")
    loop.run()
    setting = loop.setting
    if setting.validation is not None and setting.validation.reason:
        warnings.warn(
            f"The validation bound is the objective's own, for want of weights: {setting.validation.reason}",
            stacklevel=3,
        )
    held = {"last": loop.good.parameters} if loop.good is not None else {}
    best = loop.best.parameters if loop.best is not None else None
    if best is not None or setting.validation is None:
        held["best"] = best if best is not None else held["last"]
    run = Run(
        loop.parameters.latent_model, setting.history.records, folder, config, loop.position.seconds, "last", held
    )
    return run.load("best") if "best" in held or folder is not None else run
