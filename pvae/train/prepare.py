"""Model, data and objective made ready for training: moved, initialised, checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pvae.batch import Batch
from pvae.data import Splits
from pvae.errors import InputError
from pvae.linter.run_check import run_check
from pvae.programs.binding import Fields, Programs, bind
from pvae.programs.model_traits import traits_of
from pvae.programs.parameter_scope import store_tensors
from pvae.programs.queries import scores_bits
from pvae.train.computation import Computation
from pvae.train.devices import resolve
from pvae.train.graph.preserve import preserve_state
from pvae.train.history import History
from pvae.train.optimisers import make_optimiser, make_schedule
from pvae.train.options import Options, config_hash
from pvae.train.parameters import Parameters
from pvae.train.progress import Silent
from pvae.train.signals import Interrupts
from pvae.train.step import Stepper
from pvae.train.training_context import Setting
from pvae.train.validation import Validation

__all__ = ["Task"]

_LOOK = 16  # data that the checks before a training look at


class Task:
    """Gets model, data and objective ready for the loop."""

    def __init__(self, model: Any, objective: Any, options: Options, fields: Fields, *, fresh: bool) -> None:
        self.model, self.objective, self.options = model, objective, options
        self.fields, self.fresh = fields, fresh
        self.device = resolve(options.device)
        self.notes: list[str] = []
        self._creates_parameters = False

    def prepare(self, splits: Splits) -> Splits:
        """Return the data as the model needs them, on the device; initialise, move and check the model."""
        few = _typed(splits.train.take(slice(0, _LOOK)), self._dtype())
        programs = bind(self.model, few, self.fields)
        settled = splits.for_likelihood(scores_bits(self.model, few, self.fields))
        splits = _typed_splits(settled, self.options.dtype)
        initialise_from = traits_of(self.model).initialise_from
        if self.fresh and initialise_from is not None:
            initialise_from(splits.train)
        self.objective.look_at(splits.train)
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
        # a whole batch: an autoguide takes its shapes from the first one it sees
        batch = _example(splits, self.options.batch_size)
        result = run_check(self.model, batch, self.objective, self.fields)
        result.findings.require()
        self.notes += [f"note: {finding}" for finding in result.findings]
        self._creates_parameters = bool(result.created)

    def setting(
        self,
        splits: Splits,
        config: dict[str, Any],
        history: History,
        folder: Path | None,
        callbacks: tuple[Callable[..., Any], ...],
        display: Silent,
        stop: Interrupts,
    ) -> Setting:
        """Return everything that the loop works with."""
        options = self.options
        first = _example(splits, options.batch_size)
        programs = bind(self.model, first, self.fields)
        if self._creates_parameters:
            self._create_parameters(programs, first)
        parameters = Parameters(self.model, programs, self.objective, first)
        by_group = isinstance(options.learning_rate, Mapping)
        groups = parameters.apart() if by_group else parameters.groups()
        idle = ("objective", *self.objective.untrained)
        optimiser = make_optimiser(options.optimiser, groups, options.learning_rate, optional=idle)
        computation = Computation(programs, self.objective, parameters, options.autocast)
        validation = self._validation(splits, computation)
        return Setting(
            options=options,
            splits=splits,
            stepper=Stepper(computation, optimiser, graph=options.step != "eager", clip=options.clip),
            schedule=make_schedule(options.schedule, optimiser),
            validation=validation,
            history=history,
            folder=folder,
            callbacks=callbacks,
            progress=display,
            interrupts=stop,
            identity={"data": splits.checksum, "config": config_hash(config)},
        )

    def _validation(self, splits: Splits, computation: Computation) -> Validation | None:
        options, unranked = self.options, self.objective.unranked
        reason = unranked if splits.validation is not None else "load the data with validation=0.1, say"
        if options.patience is not None and reason:
            raise InputError(f"patience needs a validation split and a bound that ranks parameters: {reason}.")
        if splits.validation is None:
            return None
        few = splits.validation.take(slice(0, options.validation_limit))
        found = Validation(computation, few, particles=options.validation_particles, seed=options.seed)
        if not unranked:
            return found
        self.notes.append(f"note: the last parameters are kept, not the best by a validation bound: {unranked}")
        return found if found.has_weights() else None

    def _create_parameters(self, programs: Programs, batch: Batch) -> None:
        """Run the objective once, so that ``pyro.param`` statements create their parameters; no other state changes."""
        modules = [each for each in (*programs.modules, self.objective) if isinstance(each, nn.Module)]
        with preserve_state(self.model, modules):
            for player in self.objective.players:
                self.objective.terms(programs.model, programs.guide, programs.arguments(batch), {}, player)


def _example(splits: Splits, size: int) -> Batch:
    """The first data, as a step would get them but for the draw of a dynamic binarisation."""
    batch = splits.train.take(slice(0, size))
    return batch.replace(x=batch.x.round()) if splits.train_dynamic else batch


def _typed(batch: Batch, dtype: torch.dtype) -> Batch:
    return Batch(**{name: each.to(dtype) if each.is_floating_point() else each for name, each in batch.items()})


def _typed_splits(splits: Splits, dtype: torch.dtype) -> Splits:
    return splits.map_parts(lambda _, batch: _typed(batch, dtype))
