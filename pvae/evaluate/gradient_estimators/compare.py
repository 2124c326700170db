"""The gradients of objectives side by side: bias, variance, signal-to-noise and time, at the model's parameters."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from pyro.infer import Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from torch import Tensor, nn

from pvae.checks import require_whole
from pvae.errors import InputError
from pvae.evaluate.evaluation_context import Setting, prepared
from pvae.evaluate.gradient_estimators.blocks import Blocks, largest_z, limit_of_z
from pvae.evaluate.gradient_estimators.exact import exact_gradient
from pvae.evaluate.gradient_estimators.gradient_study import GradientStudy, GroupGradient
from pvae.evaluate.gradient_estimators.sampling import Coordinates, Sampler, find_coordinates, sample
from pvae.objectives import Objective, PyroObjective, WeightsObjective, adapt, describe, make_objective
from pvae.randomness import evaluating
from pvae.train.graph.preserve import preserve_state

__all__ = ["gradients", "named_objectives"]

Progress = Callable[[str], None]
DRAWS, REFERENCE = 1, 2


@dataclass(frozen=True)
class _Reference:
    """What stands for the exact gradient: the vector, how it was found, and its draws where it is a sample."""

    gradient: Tensor
    text: str
    key: Any
    blocks: Blocks | None = None


def gradients(
    model: Any,
    batch: Any,
    objectives: Any,
    *,
    draws: int = 1000,
    reference: Any = None,
    reference_draws: int | None = None,
    warm_up: int = 100,
    step: str = "auto",
    seed: int = 0,
    keep: bool = False,
    skip_refused: bool = False,
    notes: Sequence[str] = (),
    progress: Progress | None = None,
    **where: Any,
) -> GradientStudy:
    """Return how good the gradients of objectives are, at the model's present parameters; nothing is moved.

    The gradient is that of the loss per datum, as a training step takes it, for theta and phi apart. Its mean is
    compared with the exact gradient of the objective's `Objective.target`: over all outcomes where the latent sites are
    discrete and few, else with the mean of many draws of the target itself, or of `reference`.

    Args:
        model: a run, a latent model, a class of Pyro's tutorials, a `pvae.pair`; judged in evaluation mode.
        batch: a batch, a tensor, or `Splits` (the first data of the training split: see ``limit``).
        objectives: a name such as ``"iwae:particles=64"``, an objective, a loss of Pyro, several, or a dict of them.
        draws: of each objective's gradient, at least 2; standard errors are by the jackknife over blocks of them.
        reference: unbiased estimators to sample in place of their targets where these have no exact gradient
            (`DReG` for `IWAE`); given as `objectives` are. One serves the objectives that share its target, and one
            of a dict also the objective of that name.
        reference_draws: of a sampled reference; by default 4 times `draws`. Their error is part of every z-score.
        warm_up: draws in training mode that first advance an objective's state (a decaying baseline, a schedule).
        step: ``"auto"`` draws from a graph traced once, as `pvae.fit` does, where the graph agrees with the eager
            computation; ``"eager"`` never does. Seconds are comparable only between alike: the table marks the others.
        seed: every objective's draws start from it; a sampled reference has a stream of its own.
        keep: whether to keep each draw.
        skip_refused: whether an objective that refuses the model is left out, with a note, instead of an error.
        notes: lines that the table is to end with.
        progress: called with a line now and then.
        where: ``limit``, ``device``, ``split``, ``fields``, ``data_plate`` of `prepared`.

    Raises:
        InputError: for fewer than 2 draws, no objective or an unknown one, a biased reference, or no parameter to
            differentiate.
    Source: Rainforth et al., Tighter Variational Bounds are Not Necessarily Better, arXiv:1802.04537, section 3
        (signal-to-noise); Glynn & Whitt, The Asymptotic Efficiency of Simulation Estimators, Operations Research 40
        (1992) (variance times time).
    """
    draws = require_whole(draws, "draws", least=2)
    if step not in ("auto", "eager"):
        raise InputError(f"step is 'auto' or 'eager'; got {step!r}.")
    named = named_objectives(objectives)
    say = progress or (lambda line: None)
    with prepared(model, batch, seed=seed, **{"split": "train", **where}) as setting, ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        held = [setting.programs().modules, *named.values()]
        stack.enter_context(evaluating(*held))
        stack.enter_context(preserve_state(setting.model, [each for each in held if isinstance(each, nn.Module)]))
        study = _Laboratory(setting, find_coordinates(setting), seed, step, say)
        samplers = study.samplers(named, require_whole(warm_up, "warm_up", least=0), skip_refused)
        many = 4 * draws if reference_draws is None else require_whole(reference_draws, "reference_draws", least=2)
        references = study.references(samplers, _unbiased(reference), many)
        centres: dict[str, Tensor | None] = {name: each.gradient for name, each in references.items()}
        say(f"Drawing {draws} gradients of each of {len(samplers)} objectives ...")
        found = sample(samplers, centres, draws, seed=seed, stream=DRAWS, keep=keep)
        rows = [row for name in samplers for row in study.rows(name, samplers[name], found[name], references[name])]
        return GradientStudy(tuple(rows), draws, seed, setting.batch.size, (*notes, *study.notes))


def named_objectives(objectives: Any) -> dict[str, Objective]:
    """Return objectives by name: from a name with settings, an objective, a loss of Pyro, several, or a dict.

    Raises:
        InputError: if there are none, or one is none.
    """
    if isinstance(objectives, Mapping):
        found = {str(name): _one(each) for name, each in objectives.items()}
    else:
        several = list(objectives) if isinstance(objectives, Sequence) and not isinstance(objectives, str) else None
        found = {}
        for each in [objectives] if several is None else several:
            own = _one(each)
            name = each if isinstance(each, str) else describe(own)
            found[name if name not in found else f"{name}#{len(found)}"] = own
    if not found:
        raise InputError("A study of gradients needs at least one objective, such as 'iwae:particles=8'.")
    return found


def _one(objective: Any) -> Objective:
    return make_objective(objective)() if isinstance(objective, str) else adapt(objective)


def _unbiased(reference: Any) -> dict[str, Objective]:
    found = {} if reference is None else named_objectives(reference)
    for name, each in found.items():
        if each.biased:
            raise InputError(f"A reference has to be unbiased, and {name} is not: {each.biased}.")
    return found


def _identity(objective: Objective) -> tuple[Any, ...]:
    """What makes two objectives the same one; the ELBO is the same for any number of particles."""
    kind = type(objective.elbo) if isinstance(objective, PyroObjective) else type(objective)
    if kind is Trace_ELBO:
        return (kind,)
    return kind, repr(sorted(objective.settings().items(), key=lambda item: item[0]))


def _target(objective: Objective) -> Objective:
    """What an objective's gradient is measured against, with the gradients that it takes where none are chosen.

    Of Pyro's ELBOs it is the one that samples every term.
    """
    if isinstance(objective, PyroObjective) and type(objective.elbo) in (TraceGraph_ELBO, TraceMeanField_ELBO):
        return PyroObjective(Trace_ELBO())
    target = objective.target()
    if isinstance(target, WeightsObjective) and target.gradients:
        target = copy.copy(target)
        target.gradients, target.biased = {}, type(target).biased
    return target


class _Laboratory:
    """One study: the setting, the coordinates, and the references found so far."""

    def __init__(self, setting: Setting, coordinates: Coordinates, seed: int, step: str, say: Progress) -> None:
        self.setting, self.coordinates, self.seed, self.step, self.say = setting, coordinates, seed, step, say
        self.notes: list[str] = []

    def samplers(self, named: Mapping[str, Objective], warm_up: int, skip_refused: bool) -> dict[str, Sampler]:
        found: dict[str, Sampler] = {}
        for name, objective in named.items():
            try:
                found[name] = self.sampler(objective, warm_up)
            except (InputError, NotImplementedError) as error:  # the second is how losses of Pyro refuse a guide
                if not skip_refused:
                    raise InputError(f"{name}: {error}") from error
                self.notes.append(f"{name}: refused: {error}")
        if not found:
            raise InputError(f"No objective can be studied. {' '.join(self.notes)}")
        return found

    def sampler(self, objective: Objective, warm_up: int) -> Sampler:
        sampler = Sampler(self.setting, objective, self.coordinates)
        sampler.warm_up(warm_up)
        if self.step == "auto":
            sampler.use_graphs()
        return sampler

    def references(
        self, samplers: Mapping[str, Sampler], instead: Mapping[str, Objective], draws: int
    ) -> dict[str, _Reference]:
        own = {_identity(each.objective): each for each in samplers.values()}
        better = {_identity(_target(each)): name for name, each in instead.items()}
        found: dict[Any, _Reference] = {}
        keys: dict[str, Any] = {}
        used = set()
        for name, sampler in samplers.items():
            target = _target(sampler.objective)
            key = _identity(target)
            chosen = name if name in instead else better.get(key)
            keys[name] = key, chosen
            if keys[name] not in found:
                exact = self._exact(target, key)
                used.add(chosen)
                found[keys[name]] = exact or self._sampled(instead.get(chosen or "", target), draws, own)
        self.notes += [
            f"{name}: no reference, since no objective here has its target" for name in instead.keys() - used
        ]
        return {name: found[key] for name, key in keys.items()}

    def _exact(self, target: Objective, key: Any) -> _Reference | None:
        found = exact_gradient(self.setting, target, self.coordinates.tensors)
        return None if found is None else _Reference(found, f"exact, all outcomes of {describe(target)}", key)

    def _sampled(self, target: Objective, draws: int, own: Mapping[Any, Sampler]) -> _Reference:
        self.say(f"Drawing {draws} gradients of {describe(target)}, as reference ...")
        with evaluating(target):
            sampler = own.get(_identity(target)) or self.sampler(target, 1)
            blocks = sample({"": sampler}, {}, draws, seed=self.seed, stream=REFERENCE)[""]
        return _Reference(blocks.mean(), f"mean of {draws} draws of {describe(target)}", _identity(target), blocks)

    def rows(self, name: str, sampler: Sampler, blocks: Blocks, reference: _Reference) -> list[GroupGradient]:
        return [self._row(name, group, sampler, blocks, reference) for group in blocks.groups]

    def _row(self, name: str, group: str, sampler: Sampler, blocks: Blocks, reference: _Reference) -> GroupGradient:
        itself = reference.blocks is not None and reference.key == _identity(sampler.objective)
        place, total = blocks.groups[group], blocks.total()
        variance, sizes = total.variance()[place] / total.count, [total.count]
        estimates = blocks.estimates(group)
        exact = reference.gradient[place]
        if reference.blocks is not None:
            other = reference.blocks.total()
            variance = variance + other.variance()[place] / other.count
            sizes.append(other.count)
            estimates["bias"] = _with_error(estimates["bias"], reference.blocks, place, exact)
        kind = self.coordinates.tensors[0].dtype
        # sums over outcomes and data round by more than a unit in the last place
        rounding = 256 * torch.finfo(kind).eps * float(exact.abs().amax())
        z = float("nan") if itself else largest_z(total.first[place] / total.count, variance, rounding)
        return GroupGradient(
            objective=name,
            group=group,
            coordinates=len(exact),
            biased=sampler.objective.biased,
            reference=reference.text + (": itself, so that a bias could not show" if itself else ""),
            step=sampler.step,
            z=z,
            limit=limit_of_z(len(exact), min(sizes)),
            mean=blocks.mean()[place],
            exact=exact,
            draws=torch.cat(blocks.draws)[:, place] if blocks.keep else None,
            **estimates,
        )


def _with_error(bias: Any, reference: Blocks, place: slice, exact: Tensor) -> Any:
    """A relative bias whose error counts the reference's own, along itself."""
    norm = float(torch.linalg.vector_norm(exact))
    along = reference.error_along(place, exact / norm) / norm if norm > 0 else float("nan")
    return type(bias)(bias.value, (bias.error**2 + along**2) ** 0.5, bias.count)
