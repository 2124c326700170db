"""The semi-supervised variational autoencoder: a label y besides z, known for some data and inferred for the rest."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pvae.checks import require_whole
from pvae.densities import GivenLabel, label_posterior
from pvae.errors import InputError
from pvae.models.base import BaseVAE, Parts
from pvae.models.datum_shapes import reshape_data
from pvae.models.direct_calls import takes_data
from pvae.names import unknown
from pvae.networks import Conditioned, initialise
from pvae.programs.classifier import outside_classes

__all__ = ["SemiSupervisedVAE"]

INFERENCES = ("enumerated", "sampled")
LABEL_PRIORS = ("uniform", "learned")


class SemiSupervisedVAE(BaseVAE):
    """M2: y ~ Categorical, z ~ prior, x ~ likelihood(decoder(z, y)); guide q(y given x) q(z given x, y).

    A label of -1 is hidden: the guide then infers y, and log p(x) is scored; otherwise log p(x, y) is scored. Labelled
    and unlabelled data go through the same programs in one batch. Decoder and encoder get y as a centred one-hot vector
    (`pvae.networks.Conditioned`); the classifier is a separate encoder with a linear layer on top.

    The sites are ``y``, ``z``, ``x``, and ``given``, which observes the label of the data.

    Args:
        data_shape: shape of one x.
        classes: number of classes; labels are 0 to classes - 1.
        infer_labels: ``"enumerated"`` sums over all labels exactly; ``"sampled"`` draws one, with a score-function
            gradient.
        factorised: whether q(z given x) ignores y. This is cheaper, but the bound is looser if z depends on the label.
        label_prior: ``"uniform"``, or ``"learned"``.
        parts: the arguments of `pvae.models.base.BaseVAE`.

    Raises:
        InputError: for an argument that cannot be used; from `initialise_from`, if no datum has a label, or if a label
            is outside the classes.
    Source: Kingma, Rezende, Mohamed & Welling, Semi-supervised Learning with Deep Generative Models, arXiv:1406.5298,
        section 3.

    Example:
        >>> import pvae, torch
        >>> _ = torch.manual_seed(0)
        >>> model = pvae.SemiSupervisedVAE(4, classes=3, latent=2, hidden=8)
        >>> model.classify(torch.eye(4)).probs.shape  # q(y given x) of 4 data
        torch.Size([4, 3])
        >>> model.sample(5, y=2).shape
        torch.Size([5, 4])
    """

    default_objective = "semi-supervised"

    def __init__(
        self,
        data_shape: int | Sequence[int],
        classes: int,
        *,
        infer_labels: str = "enumerated",
        factorised: bool = False,
        label_prior: str = "uniform",
        **parts: Unpack[Parts],
    ) -> None:
        super().__init__(data_shape, **parts)
        classes = require_whole(classes, "classes")
        if infer_labels not in INFERENCES:
            raise unknown("infer_labels", str(infer_labels), INFERENCES)
        if label_prior not in LABEL_PRIORS:
            raise unknown("label_prior", str(label_prior), LABEL_PRIORS)
        self.classes, self.factorised = classes, bool(factorised)
        self._infer: Any = {"enumerate": "parallel"} if infer_labels == "enumerated" else {}
        classifier_encoder: Any = copy.deepcopy(self.encoder)
        self.decoder: nn.Module = Conditioned(self.decoder, classes, initialisation=self.initialisation)
        if not self.factorised:
            self.encoder: nn.Module = Conditioned(self.encoder, classes, initialisation=self.initialisation)
        self.classifier = nn.Sequential(classifier_encoder, nn.Linear(classifier_encoder.out_features, classes))
        _reinitialise(self.classifier, self.initialisation)
        self.label_logits = nn.Parameter(torch.zeros(classes), requires_grad=label_prior == "learned")

    def model(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Generate y and z, and observe x and the known labels. Returns x.

        Args:
            x: data, (batch, features) or (batch,) + data_shape.
            y: labels, (batch,), -1 for a hidden label; None if all are hidden.
        """
        with pyro.plate("data", x.shape[0]):
            label = pyro.sample("y", dist.Categorical(logits=self.label_logits))
            known_label = GivenLabel(label, self.classes, dtype=self.label_logits.dtype)
            pyro.sample("given", known_label, obs=_labels_or_hidden(y, x))
            z = pyro.sample("z", self.prior_density())
            return pyro.sample("x", self.decode(z, self.code(label)), obs=self.observed(x))

    def guide(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Infer y if it is hidden, and z. Returns z, shape (batch, latent).

        Args:
            x: data, (batch, features) or (batch,) + data_shape.
            y: labels, (batch,), -1 for a hidden label; None if all are hidden.
        """
        with pyro.plate("data", x.shape[0]):
            density = label_posterior(self.classify(x).logits, _labels_or_hidden(y, x))
            label = pyro.sample("y", density, infer=self._infer.copy())
            return pyro.sample("z", self.encode(x, self.code(label)))

    @takes_data
    def classify(self, x: Tensor) -> dist.Categorical:
        """Return q(y given x), batch shape (batch,)."""
        return dist.Categorical(logits=self.classifier(reshape_data(x, self._input_shape)))

    def code(self, label: Tensor) -> Tensor:
        """Return labels, shape (...), as one-hot vectors minus their mean, shape (..., classes)."""
        one_hot = label.unsqueeze(-1) == torch.arange(self.classes, device=label.device)
        return one_hot.to(self.label_logits.dtype) - 1.0 / self.classes

    def encode(self, x: Tensor, *context: Tensor) -> TorchDistribution:
        """Return q(z given x, y), with batch shape (batch,) and event shape (latent,).

        Args:
            x: data, (batch, features) or (batch,) + data_shape.
            context: y as `code` returns it, shape (..., classes); by default the centred probabilities of the
                classifier.
        """
        if self.factorised:
            return super().encode(x)
        if not context:
            context = (self.classify(x).probs - 1.0 / self.classes,)
        return super().encode(x, *context)

    @torch.no_grad()
    def sample(self, n: int, *, y: Tensor | None = None, mean: bool = False) -> Tensor:
        """Return `n` new data, shape (n,) + data_shape: draws of x, or with `mean` the means of x given y and z.

        Args:
            n: number of new data.
            y: one label for all, or one for each, (n,); by default labels are drawn from p(y).
            mean: whether to return means of x given y and z.
        """
        n = require_whole(n, "n", least=0)
        label = dist.Categorical(logits=self.label_logits).sample((n,)) if y is None else self._expand_labels(y, n)
        return self.as_data(self.decode(self.prior_density().sample((n,)), self.code(label)), mean=mean)

    @torch.no_grad()
    def reconstruct(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the mean of x given y and the posterior mean of z, shape (batch,) + data_shape.

        Args:
            x: data, (batch, features) or (batch,) + data_shape.
            y: one label for all, or one for each, (batch,); by default the most probable labels.
        """
        label = self.classify(x).logits.argmax(-1) if y is None else self._expand_labels(y, len(x))
        code = self.code(label)
        return self.as_data(self.decode(self.encode(x, code).mean, code), mean=True)

    def _expand_labels(self, y: Tensor, n: int) -> Tensor:
        """Return the labels of `n` data, (n,), from one label for all or from one for each."""
        y = torch.as_tensor(y, device=self.label_logits.device)
        y = y.expand(n) if y.dim() == 0 else y
        if y.shape != (n,) or bool(outside_classes(y, self.classes).any()):
            raise InputError(
                f"y needs one whole number from 0 to {self.classes - 1}, or {n} of them; got {y!r:.60}. Pass labels of "
                "the classes that the model was built for."
            )
        return y.long()

    def theta(self) -> list[nn.Parameter]:
        """Return the parameters of the model: prior, decoder, likelihood and the logits of p(y)."""
        return [*super().theta(), self.label_logits]

    def initialise_from(self, batch: Mapping[str, Tensor]) -> None:
        """Check the labels, then initialise as `BaseVAE` does.

        Args:
            batch: the training data, with x and y.
        """
        _check_labels(batch, self.classes)
        super().initialise_from(batch)


def _labels_or_hidden(y: Tensor | None, x: Tensor) -> Tensor:
    """Return the labels, (batch,); -1 for every datum if there are none."""
    return torch.full((x.shape[0],), -1, device=x.device) if y is None else y


def _reinitialise(network: nn.Module, initialisation: str) -> None:
    """Draw new initial values for all layers of a network."""
    for layer in network.modules():
        reset: Any = getattr(layer, "reset_parameters", None)
        if reset is not None:
            reset()
    initialise(network, initialisation)


def _check_labels(batch: Mapping[str, Tensor], classes: int) -> None:
    """Raise InputError if no datum of the training data has a label, or if a label is outside the classes."""
    y = batch.get("y")
    if y is None or not bool((y >= 0).any()):
        labels = "no field y" if y is None else f"-1, hidden, for all {len(y)}"
        raise InputError(
            f"SemiSupervisedVAE needs training data with labels; these have {labels}. Load them with labels=100 "
            "(--labels 100), or use a vae, or a gmvae for classes without labels."
        )
    is_outside = outside_classes(y, classes, hidden=True)
    if bool(is_outside.any()):
        first = int(is_outside.nonzero()[0])
        advice = f"Give classes={int(y.max()) + 1}, or correct y." if int(y.max()) >= classes else "Correct y."
        raise InputError(
            f"{int(is_outside.sum())} labels are outside the {classes} classes, 0 to {classes - 1} (-1: hidden): the "
            f"first is y={float(y[first]):g}, of datum {first}. {advice}"
        )
