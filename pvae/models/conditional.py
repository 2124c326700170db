"""The conditional variational autoencoder: p(x, z given c)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import pyro
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pvae.checks import require_whole
from pvae.densities.completion import Completion
from pvae.densities.conditional_prior import ConditionalGaussian
from pvae.errors import InputError
from pvae.models.base import Amortised, Parts
from pvae.models.conditions import Condition, Labels, Quadrants, Vectors
from pvae.models.density_traits import density_traits_of
from pvae.names import parse, require_settings, unknown
from pvae.networks import Conditioned
from pvae.randomness import preserved_randomness

__all__ = ["ConditionalVAE"]

CONDITIONS = ("y", "c", "quadrants")


class ConditionalVAE(Amortised):
    """A VAE of x given c: z ~ prior (given c), x ~ likelihood(decoder(z, c)), q(z given x, c).

    The condition is a label y, a vector c, or some quadrants of x itself; then the likelihood scores the other
    quadrants alone, and the evidence is log p(missing given observed). It enters the first layer of encoder and
    decoder by a linear layer without bias, centred and scaled by the training data, so that with a constant
    condition the model is the VAE, bit for bit.

    Both programs take ``(x, y)``, ``(x, c)`` or ``(x)``. The sites are ``z`` and ``x``.

    Args:
        data_shape: shape of one x.
        condition: ``"y"``, ``"c"`` or ``"quadrants"``; by default y where `classes` is given, else c.
        classes: number of classes, for labels 0 to classes - 1; `pvae.ModelSpec` and the command line give it.
        condition_shape: shape of one c; given likewise.
        observed: how many quadrants are given, 1 (the default) to 3: lower left, upper left, upper right.
        parts: the arguments of `pvae.models.base.Amortised`. The prior may also be ``"conditional"``, a Gaussian
            whose mean and scale a network makes from c (``"conditional:hidden=50"``), or a module with
            ``takes_condition = True``; any other is independent of c. A VampPrior's pseudo-inputs stand at the mean
            condition.

    Raises:
        InputError: for an argument that cannot be used; in use, for labels outside the classes, conditions of another
            shape, or none where one is needed.
    Source: Sohn, Lee & Yan, Learning Structured Output Representation using Deep Conditional Generative Models, NeurIPS
    2015; Kingma et al., Semi-supervised Learning with Deep Generative Models, arXiv:1406.5298. Quadrants as in Sohn et
    al., section 5.1, and in their order in Pyro's example.
    """

    def __init__(
        self,
        data_shape: int | Sequence[int],
        *,
        condition: str | None = None,
        classes: int | None = None,
        condition_shape: int | Sequence[int] | None = None,
        observed: int | None = None,
        **parts: Unpack[Parts],
    ) -> None:
        own = _conditional(parts.get("prior"))
        super().__init__(data_shape, **parts if own is None else {**parts, "prior": "standard"})
        self.condition = _condition(condition, self.data_shape, classes, condition_shape, observed)
        self.fields = ("x",) if self.condition.field == "x" else ("x", self.condition.field)
        # The noise of a training that comes after is drawn as it is for the VAE without a condition.
        with preserved_randomness():
            features, style = self.condition.features, {"initialisation": self.initialisation}
            self.encoder: nn.Module = Conditioned(self.encoder, features, **style)
            self.decoder: nn.Module = Conditioned(self.decoder, features, **style)
            if own is not None:
                self.prior = ConditionalGaussian(features, self.latent, **{**style, **own})

    def model(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Generate: z from the prior, x from the likelihood, observed; both given the condition. Returns x."""
        c = self._features(x, condition)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", self._prior(c))
            return pyro.sample("x", self._likelihood(z, c, x), obs=self.observed(x))

    def guide(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Infer: z from the posterior given x and the condition. Returns z, shape (batch, latent)."""
        with pyro.plate("data", x.shape[0]):
            return pyro.sample("z", self.encode(x, condition))

    def encode(self, x: Tensor, condition: Tensor | None = None) -> TorchDistribution:  # type: ignore[override]
        """Return q(z given x, c), with batch shape (batch,) and event shape (latent,).

        Args:
            x: data, (batch, features) or (batch,) + data_shape.
            condition: labels (batch,) or vectors (batch,) + condition_shape; for quadrants they are in x.
        """
        return super().encode(x, self._features(x, condition))

    def decode(self, z: Tensor, condition: Tensor) -> TorchDistribution:  # type: ignore[override]
        """Return p(x given z, c) for z of shape (..., latent); the condition as in `encode`, and x for quadrants."""
        return self._likelihood(z, self.condition(condition), condition)

    @torch.no_grad()
    def sample(self, n: int, *, mean: bool = False, y: Any = None, c: Any = None, x: Any = None) -> Tensor:
        """Return `n` new data given a condition, shape (n,) + data_shape: draws of x, or the means of x given z.

        Args:
            n: how many.
            mean: whether to return means of x given z.
            y: one label for all, or one for each.
            c: one condition for all, or one for each.
            x: pictures whose observed quadrants are the condition, one for all or one for each; the others are not
                looked at.

        Raises:
            InputError: without the condition that the model was made for, or with another.
        """
        given = {name: each for name, each in (("y", y), ("c", c), ("x", x)) if each is not None}
        if list(given) != [self.condition.field]:
            raise InputError(
                f"This model is of x given {self._given}: sample(n, {self.condition.field}=...) needs that alone; got "
                f"{', '.join(given) or 'no condition'}."
            )
        n = require_whole(n, "n", least=0)
        return self._drawn(self.condition.of(n, given[self.condition.field]), mean)

    @torch.no_grad()
    def impute(self, x: Tensor, n: int = 1, *, mean: bool = False) -> Tensor:
        """Return `n` completions of each picture, shape (n, batch) + data_shape: p(missing given observed quadrants).

        Args:
            x: pictures, whose missing quadrants are not looked at.
            n: how many for each.
            mean: whether to return means of x given z in place of draws.

        Raises:
            InputError: if the condition is not quadrants.
        """
        if not isinstance(self.condition, Quadrants):
            raise InputError(f"impute completes quadrants, and this model is of x given {self._given}: use sample.")
        n = require_whole(n, "n")
        self.condition.check(x)
        return self._drawn(x.repeat(n, *[1] * (x.dim() - 1)), mean).unflatten(0, (n, len(x)))

    @torch.no_grad()
    def reconstruct(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return the mean of x given c and the posterior's mean of z, shape (batch,) + data_shape."""
        c = self._features(x, condition)
        return self.as_data(self._likelihood(super().encode(x, c).mean, c, x), mean=True)

    def initialise_from(self, batch: Mapping[str, Tensor]) -> None:
        """Centre and scale the condition by the data, and start as `Amortised` does, once."""
        if not self.initialised:
            self.condition.initialise_from(batch[self.condition.field])
        super().initialise_from(batch)

    @property
    def missing_entries(self) -> Tensor | None:
        """True at the entries of x that the model completes, shape data_shape; None if no quadrants are given."""
        return self.condition.missing if isinstance(self.condition, Quadrants) else None

    @property
    def _given(self) -> str:
        return "its observed quadrants" if self.condition.field == "x" else self.condition.field

    def _features(self, x: Tensor, condition: Tensor | None) -> Tensor:
        value = x if self.condition.field == "x" else condition
        if value is None:
            raise InputError(f"This model is of x given {self._given}: pass {self._given} after x.")
        return self.condition(value)

    def _prior(self, c: Tensor) -> TorchDistribution:
        traits = density_traits_of(self.prior)
        if traits.takes_condition:
            return self.prior(c)
        if traits.takes_posterior:
            mean_condition = c.new_zeros(self.condition.features)
            return self.prior(lambda u: super(ConditionalVAE, self).encode(u, mean_condition))
        return self.prior(None)

    def _likelihood(self, z: Tensor, c: Tensor, x: Tensor) -> TorchDistribution:
        density = super().decode(z, c)
        if not isinstance(self.condition, Quadrants):
            return density
        return Completion(density, self.observed(x), self.condition.missing.reshape(self._event_shape))

    def _drawn(self, condition: Tensor, mean: bool) -> Tensor:
        c = self.condition(condition)
        prior = self._prior(c)
        z = prior.sample() if prior.batch_shape else prior.sample((len(c),))
        return self.as_data(self._likelihood(z, c, condition), mean=mean)


def _conditional(prior: str | nn.Module | None) -> dict[str, Any] | None:
    """The settings of a prior given c; None for any other prior."""
    name, settings = parse(prior) if isinstance(prior, str) else ("", {})
    if name != "conditional":
        return None
    require_settings("prior 'conditional'", settings, ("hidden", "activation", "initialisation"))
    return settings


def _condition(
    name: str | None,
    data_shape: tuple[int, ...],
    classes: int | None,
    shape: int | Sequence[int] | None,
    observed: int | None,
) -> Condition:
    found = name or ("y" if classes is not None else "c" if shape is not None else None)
    needed = {"y": classes, "c": shape, "quadrants": data_shape}
    if found is None or (found in needed and needed[found] is None):
        raise InputError(
            "A conditional VAE needs a condition: labels y (classes=10), vectors c (condition_shape=3), or "
            f"condition='quadrants' for pictures; got condition={name!r}, and data without "
            f"{found or 'y and c'}{'' if found == 'c' else ' (labels are whole numbers)'}."
        )
    if found not in needed:
        raise unknown("condition", str(found), CONDITIONS)
    if observed is not None and found != "quadrants":
        raise InputError(f"observed={observed!r} counts quadrants; it goes with condition='quadrants', not {found!r}.")
    if found == "y":
        return Labels(classes)  # type: ignore[arg-type]
    if found == "c":
        return Vectors(tuple(shape) if isinstance(shape, Sequence) else (shape,))  # type: ignore[arg-type]
    return Quadrants(data_shape, 1 if observed is None else observed)
