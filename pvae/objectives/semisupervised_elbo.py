"""`SemiSupervised`: the ELBO of labelled and unlabelled data together with the cross-entropy of a classifier."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Unpack

import torch
from torch import Tensor

from pvae.checks import require_number
from pvae.errors import InputError
from pvae.objectives.base import Terms
from pvae.objectives.gradients.strategies import enumerating_guide
from pvae.objectives.kl.weighted_kl import not_negative
from pvae.objectives.named import named
from pvae.objectives.weights_objective import WeightsObjective, WeightsOptions
from pvae.programs.binding import fields_of, owner_of
from pvae.programs.bound import BoundPrograms
from pvae.programs.classifier import classifier_of, most_probable
from pvae.programs.data_counter import DataCounter
from pvae.weights import LogWeights
from pvae.weights.handlers import ChooseStrategy

__all__ = ["SemiSupervised"]


@named("semi-supervised", "M2: ELBO of labelled and unlabelled data, plus a classifier's cross-entropy")
class SemiSupervised(WeightsObjective):
    """The ELBO of labelled and unlabelled data, and ``weight`` times the cross-entropy of a classifier.

    It maximises, per datum,

        mean over all data of the bound + weight * mean over labelled data of log q(y given x).

    The bound is L(x, y) <= log p(x, y) for labelled data and U(x) <= log p(x) for unlabelled data. This is the paper's
    J of equation 9 divided by N, with alpha = weight * N. The paper uses alpha = 0.1 N and thousands of epochs. With
    few epochs, such a small weight lets q(y given x) find clusters of x that are not the classes, because a good
    clustering raises the bound on log p(x) by more nats than the term of the labels. The default, 100, is for pictures;
    for short x, such as codes, use 1 to 10.

    Sites marked for enumeration are summed over with the guide's probabilities, so that the bound trains q(y given x)
    too. Other label sites are drawn, with a score-function gradient.

    The labels are the field ``y``, with -1 for an unlabelled datum. The classifier is the latent model's method
    ``classify(x)``, which returns q(y given x) as a distribution of batch shape (batch,).

    In a batch of B data with n labelled data, the cross-entropy is the mean over these n, times B. If the share s of
    labelled data among all data is known, the bound of each labelled datum counts s B / n times, and the bound of each
    unlabelled datum counts (1 - s) B / (B - n) times. Batches may then have more labelled data than their share, as
    `pvae.fit` makes them, and loss and gradient stay unbiased. Without a share each datum counts once. With
    ``labelled=0``, for batches at random from all data, each datum counts once too, and the cross-entropy is the sum
    over the n labelled data divided by s.

    Bound and cross-entropy have the same scale: both represent N data under a plate that is a subsample of N data, and
    a scale that both programs have, as by `pyro.poutine.scale`, multiplies both.

    Args:
        weight: the weight of the cross-entropy; 0 leaves it out.
        labelled: the least share of each batch that `pvae.fit` takes from the labelled data. 0 takes all data at
            random, and with few labels most batches then have none.
        share: the share of labelled data among all data; None lets `pvae.fit` compute it.
        generative: False leaves the bound out and trains the classifier on labelled data only, for a comparison.
        classify: a function from x to q(y given x), used instead of the latent model's method.
        particles: draws of z per datum.
        options: see `WeightsOptions`.

    Raises:
        InputError: for a negative weight or a share outside [0, 1]; in use, if the programs take no y, there is no
            classifier, or there are no labels or no weight to train with.

    Source: Kingma, Rezende, Mohamed & Welling, Semi-supervised Learning with Deep Generative Models, arXiv:1406.5298,
        equations 6 to 9.

    Example:
        >>> import pvae, torch
        >>> y = torch.arange(40) % 4
        >>> y = torch.where(torch.arange(40) < 20, y, -1)  # half of the data have no label
        >>> model = pvae.SemiSupervisedVAE(4, classes=4, latent=2, hidden=8)
        >>> data, objective = pvae.Batch(x=torch.eye(4).repeat(10, 1), y=y), pvae.SemiSupervised(10.0)
        >>> run = pvae.fit(model, data, objective=objective, epochs=1, step="eager", progress=False)
        >>> run.model.classify(torch.eye(4)).probs.shape
        torch.Size([4, 4])
    """

    pathwise = False
    averages = True
    enumerates = True

    def __init__(
        self,
        weight: float = 100.0,
        *,
        labelled: float = 0.1,
        share: float | None = None,
        generative: bool = True,
        classify: Callable[[Tensor], Any] | None = None,
        particles: int = 1,
        **options: Unpack[WeightsOptions],
    ) -> None:
        super().__init__(particles, **options)
        self.weight = not_negative("weight", weight)
        self.labelled = _checked_share("labelled", labelled)
        self.generative = bool(generative)
        self.classifier = classify
        self.share = None if share is None else _checked_share("share", share)
        if classify is not None and not callable(classify):
            raise InputError(f"classify needs a function of x that returns a distribution of labels; got {classify!r}.")
        self._share_of_training: float | None = None
        self.ranks_by_loss = not self.generative  # without the generative model there is no bound on log p(x)
        if not self.generative and self.weight == 0:
            raise InputError(
                "SemiSupervised needs a bound or a cross-entropy; got generative=False and weight=0, so there is "
                "nothing to train. Change one of them."
            )

    def settings(self) -> dict[str, Any]:
        """Return the weight, the other settings that are not the defaults, and the number of particles."""
        settings: dict[str, Any] = {"weight": self.weight}
        if self.share is not None:
            settings["share"] = self.share
        if self.labelled != 0.1:
            settings["labelled"] = self.labelled
        if not self.generative:
            settings["generative"] = False
        return {**settings, **super().settings()}

    def look_at(self, data: Mapping[str, Tensor]) -> None:
        """Compute the share of labelled data among all training data; `pvae.fit` calls this before a training.

        Args:
            data: the training data, as named tensors.

        Raises:
            InputError: if no datum is labelled.
        """
        y = data.get("y")
        count = 0 if y is None else int((y >= 0).sum())
        if y is None or count == 0:
            raise InputError(
                "SemiSupervised needs labelled training data; no datum has a label. Load them with labels=100 "
                "(--labels 100), or use the objective 'elbo-enum'."
            )
        self._share_of_training = count / len(y)

    def surrogate(self, weights: LogWeights) -> Tensor:
        """Return the mean of log_w over particles, shape (batch,), in nats."""
        return weights.log_w.mean(0)

    def is_linear(self) -> bool:
        """Return False: labelled and unlabelled data count differently, so each datum needs a weight."""
        return False

    def choose(self) -> ChooseStrategy:
        """Return the strategy of each site as `WeightsObjective` does, but enumerate the guide's marked sites."""
        return enumerating_guide(super().choose())

    def weights(self, model: Any, guide: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> LogWeights:
        """Return the log weights of a batch, in which the scale of each datum is multiplied by how often it counts.

        Args:
            model: p(x, z).
            guide: q(z given x).
            args: the positional arguments of both programs.
            kwargs: the keyword arguments of both programs.
        """
        weights = super().weights(model, guide, args, kwargs)
        y = _labels(fields_of(guide, args, kwargs), weights.log_joint.shape[-1])
        counts = self._counts_of_data(y, weights.log_joint.dtype)
        return weights if counts is None else dataclasses.replace(weights, scale=weights.scale * counts)

    def terms(self, model: Any, guide: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], player: str) -> Terms:
        """Return the loss of a batch; ``cross_entropy`` and ``accuracy`` are computed on its labelled data."""
        programs = BoundPrograms(model, guide, args, kwargs)
        cross_entropy, right, labelled = self._classify(programs)
        with DataCounter(programs, self.data_plate) as counter:
            terms = super().terms(model, guide, args, kwargs, player) if self.generative else None
        scale = counter.count / labelled
        loss = self.weight * (cross_entropy * scale)
        named = {"cross_entropy": (cross_entropy * scale).detach(), "accuracy": right * scale}
        if terms is None:
            return Terms(loss.detach(), loss, named)
        return Terms(terms.loss + loss.detach(), terms.surrogate + loss, {**terms.named, **named})

    def _classify(self, programs: BoundPrograms) -> tuple[Tensor, Tensor, Tensor | float]:
        """Return the sums over labelled data of cross-entropy (nats) and right labels, and the number of these data."""
        of_guide = fields_of(programs.guide, programs.args, programs.kwargs)
        fields = of_guide | fields_of(programs.model, programs.args, programs.kwargs)
        x = fields["x"]
        y = _labels(fields, len(x))
        classify = self.classifier or classifier_of(
            owner_of(programs.guide), owner_of(programs.model), caller="SemiSupervised"
        )
        density = classify(x)
        is_labelled = y >= 0
        log_q = density.log_prob(y.clamp_min(0))
        if log_q.shape != y.shape:
            raise InputError(
                f"classify(x) needs to return a distribution of batch shape {tuple(y.shape)}; got "
                f"{tuple(log_q.shape)}. Return one distribution over labels for each datum."
            )
        with torch.no_grad():
            is_right = (most_probable(density) == y.clamp_min(0)) & is_labelled
        cross_entropy = -torch.where(is_labelled, log_q, torch.zeros_like(log_q)).sum()
        return cross_entropy, is_right.to(log_q.dtype).sum(), self._labelled_count(is_labelled, log_q.dtype)

    def _labelled_count(self, is_labelled: Tensor, dtype: torch.dtype) -> Tensor | float:
        """Return the divisor of a mean over labelled data: their number in the batch, or the expected number.

        Args:
            is_labelled: shape (batch,).
            dtype: the type of the result.
        """
        share = self._known_share()
        if share is None or self.labelled:
            return is_labelled.sum().clamp_min(1).to(dtype)
        return share * len(is_labelled)

    def _counts_of_data(self, y: Tensor, dtype: torch.dtype) -> Tensor | None:
        """Return how often each datum counts in the bound, shape (batch,); None if each datum counts once."""
        share = self._known_share()
        if share is None or not self.labelled:
            return None
        is_labelled = (y >= 0).to(dtype)
        labelled_count = is_labelled.sum().clamp_min(1)
        unlabelled_count = (1 - is_labelled).sum().clamp_min(1)
        return len(y) * (is_labelled * (share / labelled_count) + (1 - is_labelled) * ((1 - share) / unlabelled_count))

    def _known_share(self) -> float | None:
        """Return the share of labelled data among all data, if it is known."""
        return self._share_of_training if self.share is None else self.share


def _checked_share(name: str, share: float) -> float:
    return float(require_number(share, name, least=0, most=1))


def _labels(fields: Mapping[str, Tensor], size: int) -> Tensor:
    """Return the labels among the arguments of the programs, shape (batch,), with -1 for an unlabelled datum."""
    y = fields.get("y")
    if y is None or y.shape != (size,) or y.is_floating_point():
        if y is None:
            problem = "they take none"
        else:
            problem = f"got {str(y.dtype).removeprefix('torch.')} of shape {tuple(y.shape)}"
        raise InputError(
            "SemiSupervised needs labels as an argument y of the programs, one whole number per datum (-1 for an "
            f"unlabelled one); {problem}. Load the data with labels."
        )
    return y
