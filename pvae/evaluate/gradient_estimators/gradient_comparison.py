"""`gradients`: bias, variance, signal-to-noise ratio and time of the gradients of objectives, at fixed parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from pvae.checks import require_whole
from pvae.errors import InputError
from pvae.evaluate.evaluation_context import EvaluationContext, evaluation_context
from pvae.evaluate.gradient_estimators.coordinates import Coordinates, find_coordinates
from pvae.evaluate.gradient_estimators.exact_gradient import exact_gradient
from pvae.evaluate.gradient_estimators.gradient_sampler import GradientSampler, draw_gradients
from pvae.evaluate.gradient_estimators.gradient_study import GradientStudy, GroupGradient
from pvae.evaluate.gradient_estimators.reference_comparison import Reference, group_gradient
from pvae.evaluate.gradient_estimators.study_objectives import (
    identity_of,
    named_objectives,
    named_references,
    target_of,
)
from pvae.objectives import Objective, describe
from pvae.randomness import evaluating
from pvae.train.graph.preserve import preserve_state

__all__ = ["Progress", "gradients"]

#: A function that is called with lines of text about the progress.
Progress = Callable[[str], None]

#: The random streams of a study: of the objectives' draws, and of the references' draws.
_DRAWS_STREAM, _REFERENCES_STREAM = 1, 2


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
    """Return bias, variance and cost of the gradients of objectives, at the model's present parameters.

    It is the gradient of the loss per datum, as in a training step, separately for theta and phi. Its mean is compared
    with the gradient of the objective's `Objective.target`. That gradient is exact if the latent sites are discrete
    with few outcomes; otherwise it is the mean of many draws of the target itself, or of `reference`. The study changes
    neither parameters nor any other state.

    Args:
        model: a run, a latent model, a class of Pyro's tutorials, a `pvae.pair`; it is studied in evaluation mode.
        batch: a batch, a tensor, or `Splits` (data of the training split, drawn by `seed`: see ``limit``).
        objectives: a name such as ``"iwae:particles=64"``, an objective, a loss of Pyro, a sequence of these, or a dict
            from names to these.
        draws: the number of draws of each objective's gradient, at least 2. Standard errors are by the jackknife over
            blocks of draws.
        reference: unbiased estimators to sample in place of targets without an exact gradient (`DReG` for `IWAE`), in
            the forms of `objectives`. A reference is used for all objectives with the same target; a reference in a
            dict is also used for the objective of the same name.
        reference_draws: the number of draws of a sampled reference; by default 4 times `draws`. Their standard error is
            part of every z-score.
        warm_up: the number of draws in training mode that first advance an objective's state (a decaying baseline, a
            schedule).
        step: ``"auto"`` draws from a graph that is traced once, as in `pvae.fit`, if the graph agrees with the eager
            computation; ``"eager"`` never does. Times are comparable only between objectives with the same kind of
            step; the table marks objectives with the other kind.
        seed: the seed of the draws of every objective; sampled references use another random stream.
        keep: whether to keep every draw.
        skip_refused: whether an objective that refuses the model is left out with a note; otherwise an error is raised.
        notes: lines for the end of the table.
        progress: a function that is called with lines of text about the progress.
        where: ``limit``, ``device``, ``split``, ``fields``, ``data_plate``; see `pvae.evaluate`.

    Raises:
        InputError: for fewer than 2 draws, no objective or an unknown one, a biased reference, or no parameter to
            differentiate.
    Source: Rainforth et al., Tighter Variational Bounds are Not Necessarily Better, arXiv:1802.04537, section 3
        (signal-to-noise); Glynn & Whitt, The Asymptotic Efficiency of Simulation Estimators, Operations Research 40
        (1992) (variance times time).

    Example:
        >>> import pvae, torch
        >>> _ = torch.manual_seed(0)
        >>> model, x = pvae.VAE(4, latent=2, hidden=8), torch.eye(4)
        >>> study = pvae.evaluate.gradients(model, x, ["elbo", "dreg:particles=8"], draws=4, warm_up=0, step="eager")
        >>> [row.objective for row in study.rows if row.group == "phi"]
        ['elbo', 'dreg:particles=8']
    """
    draws = require_whole(draws, "draws", least=2)
    warm_up = require_whole(warm_up, "warm_up", least=0)
    many_draws = 4 * draws if reference_draws is None else require_whole(reference_draws, "reference_draws", least=2)
    if step not in ("auto", "eager"):
        raise InputError(f"step must be 'auto' or 'eager'; got {step!r}.")
    named = named_objectives(objectives)
    say = progress or (lambda line: None)
    with evaluation_context(model, batch, seed=seed, **{"split": "train", **where}) as context, ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        modules: list[nn.Module] = [*context.programs.all_modules, *named.values()]
        stack.enter_context(evaluating(*modules))
        stack.enter_context(preserve_state(context.model, modules))
        comparison = GradientComparison(context, find_coordinates(context), seed, step, say)
        samplers = comparison.make_samplers(named, warm_up, skip_refused)
        references = comparison.find_references(samplers, named_references(reference), many_draws)
        say(f"Drawing {draws} gradients of each of {len(samplers)} objectives ...")
        rows = comparison.rows(samplers, references, draws, keep)
        return GradientStudy(tuple(rows), draws, seed, context.batch.size, (*notes, *comparison.notes))


class GradientComparison:
    """Compares the gradients of several objectives at the same parameters on the same batch.

    Args:
        context: the model and the batch.
        coordinates: the parameters to differentiate.
        seed: the seed of all draws.
        step: ``"auto"`` or ``"eager"``, as for `gradients`.
        say: called with a line before each long computation.

    Attributes:
        notes: lines on objectives and references that are left out.
    """

    def __init__(
        self, context: EvaluationContext, coordinates: Coordinates, seed: int, step: str, say: Progress
    ) -> None:
        self.context = context
        self.coordinates = coordinates
        self.seed = seed
        self.step = step
        self.say = say
        self.notes: list[str] = []

    def make_samplers(
        self, named: Mapping[str, Objective], warm_up: int, skip_refused: bool
    ) -> dict[str, GradientSampler]:
        """Return a sampler for each objective, ready to draw.

        Args:
            named: the objectives by name.
            warm_up: the number of draws that advance an objective's state.
            skip_refused: whether an objective that refuses the model is left out with a note.

        Raises:
            InputError: if an objective refuses the model, or if all are left out.
        """
        samplers: dict[str, GradientSampler] = {}
        for name, objective in named.items():
            try:
                samplers[name] = self._make_sampler(objective, warm_up)
            except (
                InputError,
                NotImplementedError,
            ) as error:  # losses of Pyro raise NotImplementedError for a guide that they refuse
                if not skip_refused:
                    raise InputError(f"{name}: {error}") from error
                self.notes.append(f"{name}: refused: {error}")
        if not samplers:
            raise InputError(f"No objective can be studied, because all refuse the model. {' '.join(self.notes)}")
        return samplers

    def _make_sampler(self, objective: Objective, warm_up: int) -> GradientSampler:
        sampler = GradientSampler(self.context, objective, self.coordinates)
        sampler.warm_up(warm_up)
        if self.step == "auto":
            sampler.use_graphs()
        return sampler

    def find_references(
        self, samplers: Mapping[str, GradientSampler], substitutes: Mapping[str, Objective], draws: int
    ) -> dict[str, Reference]:
        """Return the reference of each objective: the exact gradient of its target if there is one, else draws.

        Args:
            samplers: the samplers of the objectives, by name.
            substitutes: objectives to sample in place of targets, by name.
            draws: the number of draws of a sampled reference.
        """
        studied = {identity_of(sampler.objective): sampler for sampler in samplers.values()}
        substitute_names = {identity_of(target_of(objective)): name for name, objective in substitutes.items()}
        unused = set(substitutes)
        references: dict[Any, Reference] = {}
        keys: dict[str, Any] = {}
        for name, sampler in samplers.items():
            target = target_of(sampler.objective)
            substitute = name if name in substitutes else substitute_names.get(identity_of(target))
            key = (identity_of(target), substitute)
            keys[name] = key
            if key in references:
                continue
            unbiased = target
            if substitute is not None:
                unbiased = substitutes[substitute]
                unused.discard(substitute)
            exact = self._exact_reference(target)
            references[key] = exact or self._sampled_reference(unbiased, draws, studied)
        for name in substitutes:
            if name in unused:
                self.notes.append(f"{name}: no reference, since no objective here has its target")
        return {name: references[key] for name, key in keys.items()}

    def _exact_reference(self, target: Objective) -> Reference | None:
        gradient = exact_gradient(self.context, target, self.coordinates.parameters)
        if gradient is None:
            return None
        return Reference(gradient, f"exact, all outcomes of {describe(target)}", identity_of(target))

    def _sampled_reference(self, objective: Objective, draws: int, studied: Mapping[Any, GradientSampler]) -> Reference:
        """Return the mean of draws of an objective; `studied` has the samplers that exist already, by identity."""
        self.say(f"Drawing {draws} gradients of {describe(objective)}, as reference ...")
        identity = identity_of(objective)
        with evaluating(objective):
            sampler = studied.get(identity) or self._make_sampler(objective, 1)
            blocks = draw_gradients({"": sampler}, {}, draws, seed=self.seed, stream=_REFERENCES_STREAM)[""]
        return Reference(blocks.mean(), f"mean of {draws} draws of {describe(objective)}", identity, blocks)

    def rows(
        self,
        samplers: Mapping[str, GradientSampler],
        references: Mapping[str, Reference],
        draws: int,
        keep: bool,
    ) -> list[GroupGradient]:
        """Draw the gradients of all objectives; return one row for each objective and group of parameters.

        Args:
            samplers: the sampler of each objective, by name.
            references: the reference of each objective, by name.
            draws: the number of draws of each objective.
            keep: whether to keep every draw.
        """
        centres: dict[str, Tensor | None] = {name: reference.gradient for name, reference in references.items()}
        blocks = draw_gradients(samplers, centres, draws, seed=self.seed, stream=_DRAWS_STREAM, keep=keep)
        rows = []
        for name, sampler in samplers.items():
            for group in blocks[name].groups:
                rows.append(group_gradient(name, group, sampler, blocks[name], references[name]))
        return rows
