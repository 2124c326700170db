"""The objective of semi-supervised models: the ELBO of labelled and hidden data, and a classifier's cross-entropy."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Unpack

import torch
from torch import Tensor

from pvae.checks import require_number
from pvae.errors import InputError
from pvae.objectives.base import Call, Terms
from pvae.objectives.kl.weighted_kl import not_negative
from pvae.objectives.named import named
from pvae.objectives.weights_objective import WeightsObjective, WeightsOptions
from pvae.programs.binding import fields_of, owner_of
from pvae.programs.bound import BoundPrograms
from pvae.programs.classifier import classifier_of, most_probable
from pvae.weights import LogWeights
from pvae.weights.handlers import ENUMERATE, SUMMED, ChooseStrategy

__all__ = ["SemiSupervised"]


@named("semi-supervised", "M2: ELBO of labelled and hidden data, and a classifier's cross-entropy")
class SemiSupervised(WeightsObjective):
    """The ELBO of labelled and hidden data together, and beside it ``weight`` times the classifier's cross-entropy.

    Per datum, what is maximised is

        mean over all data of the bound + weight * mean over labelled data of log q(y given x),

    where the bound is L(x, y) <= log p(x, y) for labelled data and U(x) <= log p(x) for hidden ones. That is the
    paper's J of equation 9 over N, with alpha = weight * N. The paper has alpha = 0.1 N, in thousands of epochs; in few
    epochs the bound then takes q(y given x) for clusters of its own: a label must outweigh the nats of x that a cluster
    explains. The default, 100, is for pictures; for short x, such as codes, 1 to 10 leave the bound more say.

    Sites marked for enumeration are summed over with the guide's probabilities, so that the bound trains q(y given x)
    too; other label sites are drawn, with a score-function gradient.

    The labels are the field ``y``, -1 where hidden. The classifier is the latent model's method ``classify(x)``, which
    returns q(y given x) as a distribution of batch shape (batch,).

    In a batch of B data of which n are labelled, the cross-entropy is the mean over these n, times B. Where the share s
    of labelled data among all is known, the bound of each labelled datum counts s B / n times, and that of each hidden
    one (1 - s) B / (B - n) times: so batches may hold more labelled data than their share, as `pvae.fit` makes them,
    and loss and gradient stay unbiased. Without a share each datum counts once. With ``labelled=0``, for batches of all
    data at random, each datum counts once too, and the cross-entropy is the sum over the n, over s.

    Under a plate that is a subsample of N data, bound and cross-entropy both stand for N. A scale that the programs set
    themselves, as by `pyro.poutine.scale`, multiplies the bound alone: give `weight` times that scale.

    Args:
        weight: of the cross-entropy; 0 leaves it out.
        labelled: least part of each batch that `pvae.fit` takes from the labelled data; 0 takes data as they fall, and
            with few labels most batches have none.
        share: part of all data that is labelled; None lets `pvae.fit` find it.
        generative: False leaves the bound out: a classifier trained on labelled data alone, to compare with.
        classify: x to q(y given x), in the place of the latent model's method.
        particles: draws of z per datum.
        options: see `WeightsOptions`.

    Raises:
        InputError: for a negative weight or a part outside [0, 1]; in use, if the programs take no y, there is no
            classifier, or there is nothing to train for want of labels or weight.
    Source: Kingma, Rezende, Mohamed & Welling, Semi-supervised Learning with Deep Generative Models, arXiv:1406.5298,
        equations 6 to 9.
    """

    pathwise = False
    averages = True

    #: sites marked for enumeration are summed over with the guide's probabilities, which so get a gradient
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
        self.labelled, self.generative, self.classifier = _part("labelled", labelled), bool(generative), classify
        self.share = None if share is None else _part("share", share)
        if classify is not None and not callable(classify):
            raise InputError(f"classify needs a function of x that returns a distribution of labels; got {classify!r}.")
        self._found: float | None = None
        #: whether held-out data rank parameters by this loss: the classifier alone has no bound on log p(x)
        self.ranks_by_loss = not self.generative
        if not self.generative and self.weight == 0:
            raise InputError("With generative=False and weight=0 there is nothing to train; give one of them.")

    def settings(self) -> dict[str, Any]:
        """Return the weight, what is not the default of the rest, and the number of particles."""
        given = {} if self.share is None else {"share": self.share}
        given |= {} if self.labelled == 0.1 else {"labelled": self.labelled}
        given |= {} if self.generative else {"generative": False}
        return {"weight": self.weight, **given, **super().settings()}

    def look_at(self, data: Mapping[str, Tensor]) -> None:
        """Take the share of labelled data from all training data; `pvae.fit` calls it before a training.

        Raises:
            InputError: if none is labelled.
        """
        y = data.get("y")
        known = 0 if y is None else int((y >= 0).sum())
        if not known:
            raise InputError(
                "SemiSupervised needs labelled training data, and none has a label: load them with labels=100 "
                "(--labels 100), or take the objective 'elbo-enum'."
            )
        self._found = known / len(y)  # type: ignore[arg-type]

    def surrogate(self, weights: LogWeights) -> Tensor:
        """Return the mean of log_w over particles, shape (batch,), in nats."""
        return weights.log_w.mean(0)

    def choose(self) -> ChooseStrategy:
        """Return the strategy of each site: what `WeightsObjective` gives it, but that marked ones are enumerated."""
        usual = super().choose()

        def enumerating(site: Any) -> str:
            strategy = usual(site)
            return ENUMERATE if strategy == SUMMED and not site["infer"].get("_in_model") else strategy

        return enumerating

    def weights(self, model: Any, guide: Any, args: Call, kwargs: Mapping[str, Any]) -> LogWeights:
        """Return the log weights of a batch, with each datum's count as its scale."""
        weights = super().weights(model, guide, args, kwargs)
        counts = self._counts(_labels(guide, args, kwargs, weights.log_joint.shape[-1]), weights.log_joint.dtype)
        return weights if counts is None else dataclasses.replace(weights, scale=weights.scale * counts)

    def terms(self, model: Any, guide: Any, args: Call, kwargs: Mapping[str, Any], player: str) -> Terms:
        """Return the loss of a batch; ``cross_entropy`` and ``accuracy`` are of its labelled data."""
        cross_entropy, accuracy = self._classified(model, guide, args, kwargs)
        loss = self.weight * cross_entropy
        named = {"cross_entropy": cross_entropy.detach(), "accuracy": accuracy}
        if not self.generative:
            return Terms(loss.detach(), loss, named)
        terms = super().terms(model, guide, args, kwargs, player)
        return Terms(terms.loss + loss.detach(), terms.surrogate + loss, {**terms.named, **named})

    def _classified(self, model: Any, guide: Any, args: Call, kwargs: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Cross-entropy and accuracy, means over the batch's labelled data, times the data that it stands for."""
        fields = fields_of(guide, args, kwargs) | fields_of(model, args, kwargs)
        x = fields["x"]
        y = _labels(guide, args, kwargs, len(x), fields)
        classify = self.classifier or classifier_of(owner_of(guide), owner_of(model), caller="SemiSupervised")
        density = classify(x)
        known, label = y >= 0, y.clamp_min(0)
        log_q = density.log_prob(label)
        if log_q.shape != y.shape:
            raise InputError(f"classify(x) needs batch shape {tuple(y.shape)}; got {tuple(log_q.shape)}.")
        share = self._share()
        among = known.sum().clamp_min(1).to(log_q.dtype) if share is None or self.labelled else share * len(y)
        count = BoundPrograms(model, guide, args, kwargs).count / among
        with torch.no_grad():
            right = (most_probable(density) == label) & known
        return -torch.where(known, log_q, torch.zeros_like(log_q)).sum() * count, right.to(log_q.dtype).sum() * count

    def _counts(self, y: Tensor, dtype: torch.dtype) -> Tensor | None:
        """How often each datum counts in the bound, shape (batch,)."""
        share = self._share()
        if share is None or not self.labelled:
            return None
        known = (y >= 0).to(dtype)
        labelled, hidden = known.sum().clamp_min(1), (1 - known).sum().clamp_min(1)
        return len(y) * (known * (share / labelled) + (1 - known) * ((1 - share) / hidden))

    def _share(self) -> float | None:
        """The part of all data that is labelled, where it is known."""
        return self._found if self.share is None else self.share


def _part(name: str, given: float) -> float:
    return float(require_number(given, name, least=0, most=1))


def _labels(
    guide: Any, args: Call, kwargs: Mapping[str, Any], size: int, fields: Mapping[str, Tensor] | None = None
) -> Tensor:
    y = (fields or fields_of(guide, args, kwargs)).get("y")
    if y is None or y.shape != (size,) or y.is_floating_point():
        came = "they take none" if y is None else f"got {str(y.dtype).removeprefix('torch.')} of {tuple(y.shape)}"
        raise InputError(
            f"SemiSupervised needs labels as an argument y of the programs, one whole number per datum (-1: hidden); "
            f"{came}."
        )
    return y
