"""`TrainingSetup`: initialise, move and check model, data and objective, and make the objects for the loop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from pvae.batch import Batch
from pvae.data import Splits
from pvae.data.scaling import check_narrowing, narrowed
from pvae.data.streams.looks import some_of
from pvae.data.streams.stored_batch import StoredBatch
from pvae.data.subset import draw_subset
from pvae.errors import InputError
from pvae.linter.row_rules import OTHER_AXIS
from pvae.linter.run_check import run_check
from pvae.objectives.base import Objective
from pvae.programs.binding import Programs, bind, held_modules
from pvae.programs.ignored_masks import require_masks_taken
from pvae.programs.model_traits import traits_of
from pvae.programs.parameter_groups import model_has_parameters
from pvae.programs.parameter_scope import store_tensors
from pvae.programs.queries import has_bernoulli_likelihood
from pvae.train.batch_checks import BatchChecks
from pvae.train.batch_sizes import require_last_batch
from pvae.train.computation import Computation
from pvae.train.devices import dtype_in_precision, move_module, resolve
from pvae.train.distributed.shared_step import make_reduction
from pvae.train.graph.preserve import preserve_state
from pvae.train.history import History
from pvae.train.limits import require_one_step
from pvae.train.make_stepper import make_stepper
from pvae.train.optimisers import make_optimiser, make_schedule
from pvae.train.options import Options
from pvae.train.parameters import Parameters
from pvae.train.progress import make_display
from pvae.train.progress_state import ProgressState
from pvae.train.run_record import config_hash
from pvae.train.signals import Interrupts
from pvae.train.training_context import TrainingContext
from pvae.train.training_request import TrainingRequest
from pvae.train.validation import Validation

__all__ = ["TrainingSetup"]

#: The seed of the subset of the validation data: all trainings have the same subset, whatever their seed.
_SEED_OF_VALIDATION = 0

#: The reason for no validation score, if parameters belong to positions in the batch of all training data.
_ONE_ROW_PER_DATUM = "the programs have parameters for each of the training data, and none for other data"


class TrainingSetup:
    """Prepares a latent model, its data and its objective for the training loop, inside the model's scope.

    Args:
        request: the arguments of `pvae.fit`.
        latent_model: the latent model of the request, built.
        objective: the objective of the request, as a `pvae.Objective`.
        options: the checked options.
        is_fresh: whether the training starts; False if it continues a run.

    Attributes:
        notes: lines that are shown to the user.
    """

    def __init__(
        self, request: TrainingRequest, latent_model: Any, objective: Objective, options: Options, *, is_fresh: bool
    ) -> None:
        self.request, self.latent_model, self.objective = request, latent_model, objective
        self.options, self.is_fresh = options, is_fresh
        self.device = resolve(options.device)
        self.notes: list[str] = []
        self._programs_create_parameters = False
        self._keeps_order = False

    def prepare(self, splits: Splits) -> Splits:
        """Initialise, move and check the model; return the data as the model needs them, on the device.

        Args:
            splits: the data.

        Raises:
            InputError: if the check has a fatal finding.
        """
        fields = self.request.fields
        first_data = narrowed(splits.train.take(slice(0, self.options.batch_size)), self._dtype_of_model())
        programs = bind(self.latent_model, first_data, fields)
        is_bernoulli = has_bernoulli_likelihood(self.latent_model, first_data, fields)
        splits = _narrowed_splits(splits.for_likelihood(is_bernoulli), self.options.dtype)
        initialise_from = traits_of(self.latent_model).initialise_from
        if self.is_fresh and initialise_from is not None:
            initialise_from(self._look_at(splits.train))
        self.objective.look_at(splits.train)
        self._move_parameters(programs)
        in_memory = splits.train
        splits = splits.to(self.device)
        if isinstance(splits.train, StoredBatch) and not isinstance(in_memory, StoredBatch):
            self.notes.append(f"note: each batch is copied to the device: {splits.train.account}")
        self._check(splits)
        return self._with_batch_checks(splits)

    def _with_batch_checks(self, splits: Splits) -> Splits:
        """Return the data with a check of each batch that is read later, like that of the first data."""
        if not isinstance(splits.train, StoredBatch):
            return splits
        batch = _first_batch(splits, self.options.batch_size)
        programs = bind(self.latent_model, batch, self.request.fields)
        checks = BatchChecks.of_programs(self.latent_model, programs, batch, is_drawn_at_use=splits.train_dynamic)
        return replace(splits, train=splits.train.changed(checks))

    def _look_at(self, train: Batch) -> Batch:
        """Return the training data that initial values are computed from: all, or some if data are read in parts."""
        look = some_of(train)
        if isinstance(train, StoredBatch) and look.size != train.known_size:
            self.notes.append(
                f"note: initial values of the model that depend on the data are computed from {look.size} of them"
            )
        return look

    def _dtype_of_model(self) -> torch.dtype:
        """Return the floating dtype that the model has before it is moved."""
        modules = (self.latent_model, *held_modules(self.latent_model).values())
        parameters = [
            parameter for module in modules if isinstance(module, nn.Module) for parameter in module.parameters()
        ]
        return next((parameter.dtype for parameter in parameters if parameter.is_floating_point()), self.options.dtype)

    def _move_parameters(self, programs: Programs) -> None:
        """Move the model, the objective and the ``pyro.param`` entries to the device and the dtype of the training."""
        dtype = self.options.dtype
        for module in self._modules(programs):
            move_module(module, self.device, dtype)
        for tensor in store_tensors(self.latent_model).values():
            tensor.data = tensor.data.to(self.device, dtype_in_precision(tensor, dtype))

    def _modules(self, programs: Programs) -> list[nn.Module]:
        return [*programs.all_modules, self.objective]

    def _check(self, splits: Splits) -> None:
        """Check the model and the objective on a batch of full size: an autoguide takes its shapes from the first one.

        Raises:
            InputError: if a finding is fatal.
        """
        batch = _first_batch(splits, self.options.batch_size)
        result = run_check(self.latent_model, batch, self.objective, self.request.fields, splits.train.known_size)
        result.findings.require()
        on_other_axis = [finding for finding in result.findings if finding.kind == OTHER_AXIS]
        if on_other_axis and splits.validation is not None:
            raise InputError(f"{on_other_axis[0]} Or load the data with validation=0.")
        programs = bind(self.latent_model, batch, self.request.fields)
        if splits.mask != "none" and "mask" not in programs.fields_of_model:
            raise InputError(
                f"mask={splits.mask!r} hides entries of x at random, and the model takes no mask, so that it reads "
                "them. Load the data without it, or use a model that takes a mask, such as masked-vae."
            )
        for part in (splits.train, splits.validation):
            if part is not None and not isinstance(part, StoredBatch):  # these are checked as they are read
                require_masks_taken(programs, part)
        self._keeps_order = result.rows is not None and bool(result.rows.tied)
        if self._keeps_order and isinstance(splits.train, StoredBatch) and splits.train.own_batch_size is not None:
            raise InputError(
                "The programs have parameters for each of the training data, so each batch must hold all data in their "
                "order, but these data come in batches of their own. Give arrays, or use resident=True."
            )
        if self._keeps_order:
            self.notes.append(
                "note: each batch holds all data in their order, because parameters belong to positions in the batch"
            )
        self.notes += [f"note: {finding}" for finding in result.findings]
        self._programs_create_parameters = bool(result.created)

    def context(self, splits: Splits, config: dict[str, Any], interrupts: Interrupts) -> TrainingContext:
        """Return the objects that the training consists of.

        Args:
            splits: the data that `prepare` returned.
            config: the content of ``config.toml``.
            interrupts: the signals that the process has received.

        Raises:
            InputError: for an optimiser, schedule or option that does not fit, or a last batch that fails.
        """
        request, options = self.request, self.options
        batch = _first_batch(splits, options.batch_size)
        programs = bind(self.latent_model, batch, request.fields)
        if self._programs_create_parameters:
            self._create_parameters(programs, batch)
        parameters = Parameters(self.latent_model, programs, self.objective, batch)
        optimiser = self._optimiser(parameters)
        computation = Computation(programs, self.objective, parameters, options.autocast)
        require_one_step(options, self.objective.num_particles, splits.train.known_size)
        require_last_batch(computation, splits, options)
        validation = self._validation(splits, computation)
        group = request.group
        reduction, notes = make_reduction(
            group, computation, splits, batch, options, interrupts, keeps_order=self._keeps_order
        )
        stepper, reason = make_stepper(computation, optimiser, options, splits.train, batch, reduction)
        if validation is not None and stepper.graph:
            validation.trace(stepper.products)
        self.notes += notes
        self.notes += [f"note: {reason}"] if reason else []
        return TrainingContext(
            latent_model=self.latent_model,
            objective=self.objective,
            parameters=parameters,
            optimiser=optimiser,
            schedule=make_schedule(options.schedule, optimiser),
            stepper=stepper,
            splits=splits,
            validation=validation,
            options=options,
            progress=ProgressState(),
            history=History(None if request.folder is None else request.folder / "metrics.jsonl"),
            folder=request.folder,
            callbacks=request.callbacks,
            display=make_display(request.progress),
            interrupts=interrupts,
            identity={"data": splits.checksum, "config": config_hash(config)},
            group=group,
            keeps_order=self._keeps_order,
        )

    def _create_parameters(self, programs: Programs, batch: Batch) -> None:
        """Run the objective once, so that ``pyro.param`` statements create their parameters; no other state changes."""
        with preserve_state(self.latent_model, self._modules(programs)):
            for player in self.objective.players:
                self.objective.terms(programs.model, programs.guide, programs.arguments(batch), {}, player)

    def _optimiser(self, parameters: Parameters) -> torch.optim.Optimizer:
        """Return the optimiser, with a parameter group for each learning rate or for each player."""
        rate = self.options.learning_rate
        groups = parameters.groups_with_rates() if isinstance(rate, Mapping) else parameters.groups()
        optional = ("objective", *self.objective.untrained)
        return make_optimiser(self.options.optimiser, groups, rate, optional=optional)

    def _has_model_parameters(self, programs: Programs, batch: Batch) -> bool:
        """Return whether log p(x, z) depends on a parameter; True if derivatives do not show it."""
        try:
            with preserve_state(self.latent_model, self._modules(programs)):
                return model_has_parameters(self.latent_model, batch, self.request.fields)
        except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError):
            return True

    def _validation(self, splits: Splits, computation: Computation) -> Validation | None:
        """Return the validation score; None without validation data, or if no score ranks parameters.

        Raises:
            InputError: if the option ``patience`` needs a score and there is none that ranks parameters.
        """
        options, unranked = self.options, self.objective.unranked
        reason = unranked if splits.validation is not None else "load the data with validation=0.1, say"
        if self._keeps_order:
            reason = _ONE_ROW_PER_DATUM
        if options.patience is not None and reason:
            raise InputError(f"patience needs a validation split and a bound that ranks parameters: {reason}.")
        if splits.validation is None:
            return None
        if self._keeps_order:
            self.notes.append(f"note: there is no validation bound, and the last parameters are kept: {reason}")
            return None
        data, _ = draw_subset(splits.validation, options.validation_limit, _SEED_OF_VALIDATION)
        validation = Validation(computation, data, particles=options.validation_particles, seed=options.seed)
        batch = _first_batch(splits, options.batch_size)
        is_bound = validation.kind == "importance-weighted"
        # `has_weights` is last because it runs the programs
        if is_bound and not self._has_model_parameters(computation.programs, batch) and validation.has_weights():
            validation.kind = "objective"
            self.notes.append(
                "note: the model has no parameters, so its evidence is the same at every epoch. The best parameters "
                "are those with the smallest loss on the validation data."
            )
        shortage = validation.fit_into_memory()
        if shortage:
            self.notes.append(f"note: {shortage}")
        if not unranked:
            return validation
        self.notes.append(f"note: the last parameters are kept, not the best by a validation bound: {unranked}")
        return validation if validation.has_weights() else None


def _first_batch(splits: Splits, size: int) -> Batch:
    """Return the first data as a batch of a step; dynamic binarisation is replaced by rounding."""
    batch = splits.train.take(slice(0, size))
    return batch.replace(x=batch.x.round()) if splits.train_dynamic else batch


def _narrowed_splits(splits: Splits, dtype: torch.dtype) -> Splits:
    """Return splits with their real numbers in a dtype, and raise if different training data become equal."""
    check_narrowing(some_of(splits.train), dtype, splits.schema.columns)
    return splits.map_data(partial(narrowed, dtype=dtype))
