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
from pvae.models.base import BaseVAE, Parts, code_of
from pvae.models.conditions import QuadrantCondition, make_condition
from pvae.models.density_traits import density_traits_of
from pvae.names import parse, require_settings
from pvae.networks import Conditioned
from pvae.programs.usable_data import require_usable
from pvae.randomness import preserved_randomness

__all__ = ["ConditionalVAE"]

_PRIOR_SETTINGS = ("hidden", "activation", "initialisation")


class ConditionalVAE(BaseVAE):
    """A VAE of x given c: z ~ prior (given c), x ~ likelihood(decoder(z, c)), q(z given x, c).

    The condition is a label y, a vector c, or some quadrants of x itself. With quadrants the likelihood scores the
    other quadrants only, and the evidence is log p(missing given observed). The condition enters the first layer of
    encoder and decoder by a linear layer without bias. It is centred and scaled by the training data, so that with a
    constant condition the model equals the VAE, bit for bit.

    Both programs take ``(x, y)``, ``(x, c)`` or ``(x)``. The sites are ``z`` and ``x``.

    Args:
        data_shape: shape of one x.
        condition: ``"y"``, ``"c"`` or ``"quadrants"``; by default y if `classes` is given, else c.
        classes: number of classes, for labels 0 to classes - 1. `pvae.ModelSpec` and the command line take it from
            the data.
        condition_shape: shape of one c. `pvae.ModelSpec` and the command line take it from the data too.
        observed: number of observed quadrants, 1 (the default) to 3: lower left, upper left, upper right.
        parts: the arguments of `pvae.models.base.BaseVAE`. The prior may also be ``"conditional"``, a Gaussian with
            mean and scale from a network of c (``"conditional:hidden=50"``), or a module with ``takes_condition =
            True``. Any other prior is independent of c. The pseudo-inputs of a VampPrior have the mean condition.

    Raises:
        InputError: for an argument that cannot be used; in use, for labels outside the classes, for conditions of
            another shape, or without a condition.
    Source: Sohn, Lee & Yan, Learning Structured Output Representation using Deep Conditional Generative Models, NeurIPS
    2015; Kingma et al., Semi-supervised Learning with Deep Generative Models, arXiv:1406.5298. Quadrants as in Sohn et
    al., section 5.1, in the order of Pyro's example.

    Example:
        >>> import pvae, torch
        >>> _ = torch.manual_seed(0)
        >>> data = pvae.Batch(x=torch.eye(4).repeat(10, 1), y=torch.arange(40) % 2)
        >>> model = pvae.ConditionalVAE(4, classes=2, latent=2, hidden=8)
        >>> run = pvae.fit(model, data, epochs=1, step="eager", progress=False)
        >>> run.model.sample(3, y=1).shape
        torch.Size([3, 4])
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
        prior_settings = _conditional_prior_settings(parts.get("prior"))
        if prior_settings is not None:
            parts["prior"] = "standard"  # only for the constructor; the conditional prior replaces it below
        super().__init__(data_shape, **parts)
        self.condition = make_condition(
            condition, self.data_shape, classes=classes, condition_shape=condition_shape, observed=observed
        )
        self.fields = ("x",) if self.condition.field == "x" else ("x", self.condition.field)
        # The initial values of these layers use no draws of the generator, so a training has the same noise as a
        # training of the VAE without a condition.
        with preserved_randomness():
            self._add_condition(prior_settings)

    def _add_condition(self, prior_settings: Mapping[str, Any] | None) -> None:
        """Give encoder and decoder the condition, and also the prior if it has settings for it."""
        features, style = self.condition.features, {"initialisation": self.initialisation}
        self.encoder: nn.Module = Conditioned(self.encoder, features, **style)
        self.decoder: nn.Module = Conditioned(self.decoder, features, **style)
        if prior_settings is not None:
            self.prior = ConditionalGaussian(features, self.latent, **{**style, **prior_settings})

    def check_data(self, batch: Mapping[str, Tensor]) -> None:
        """Check the conditions of data.

        Args:
            batch: the data, with the field of the condition.

        Raises:
            InputError: for labels outside the classes, or conditions of another shape.
        """
        self.condition.check(batch[self.condition.field])

    def model(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Generate z from the prior and observe x under the likelihood, both given the condition.

        Args:
            x: the data, (batch,) + data_shape, or flat.
            condition: labels, (batch,), or vectors, (batch,) + condition_shape; None if the condition is a part of x.

        Returns:
            x, (batch,) + event shape.
        """
        c = self._condition_features(x, condition)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", self._prior_given(c))
            return pyro.sample("x", self._likelihood_given(z, c, x), obs=self.observed(x))

    def guide(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Infer z from the posterior given x and the condition. Returns z, shape (batch, latent).

        Args:
            x: the data, (batch,) + data_shape, or flat.
            condition: labels, (batch,), or vectors, (batch,) + condition_shape; None if the condition is a part of x.
        """
        with pyro.plate("data", x.shape[0]):
            return pyro.sample("z", self.encode(x, condition))

    def encode(self, x: Tensor, condition: Tensor | None = None) -> TorchDistribution:  # type: ignore[override]
        """Return q(z given x, c), with batch shape (batch,) and event shape (latent,).

        Args:
            x: data, (batch, features) or (batch,) + data_shape.
            condition: labels (batch,) or vectors (batch,) + condition_shape; None for quadrants, which are in x.
        """
        return super().encode(x, self._condition_features(x, condition))

    def decode(self, z: Tensor, condition: Tensor) -> TorchDistribution:  # type: ignore[override]
        """Return p(x given z, c), with batch shape (...).

        Args:
            z: latent values, (..., latent).
            condition: labels (batch,) or vectors (batch,) + condition_shape; for quadrants x, (batch,) + data_shape.
        """
        return self._likelihood_given(z, self.condition(condition), condition)

    @torch.no_grad()
    def sample(self, n: int, *, mean: bool = False, y: Any = None, c: Any = None, x: Any = None) -> Tensor:
        """Return `n` new data given a condition, shape (n,) + data_shape: draws of x, or the means of x given z.

        Args:
            n: number of new data.
            mean: whether to return means of x given z.
            y: one label for all, or one for each.
            c: one condition for all, or one for each.
            x: images with the observed quadrants as condition, one for all or one for each. Their missing quadrants are
                not read.

        Raises:
            InputError: without the model's condition, or with another one.
        """
        conditions = {name: value for name, value in (("y", y), ("c", c), ("x", x)) if value is not None}
        field = self.condition.field
        if list(conditions) != [field]:
            raise InputError(
                f"This model is of x given {self._condition_name}: sample(n, {field}=...) needs this condition only; "
                f"got {', '.join(conditions) or 'no condition'}. Pass {field} only."
            )
        n = require_whole(n, "n", least=0)
        return self._sample_given(self.condition.expand_to(n, conditions[field]), mean=mean)

    @torch.no_grad()
    def impute(self, x: Tensor, n: int = 1, *, mean: bool = False) -> Tensor:
        """Return `n` completions of each image, draws of p(missing given observed quadrants).

        Args:
            x: images, (batch,) + data_shape; their missing quadrants are not read.
            n: number of completions of each image.
            mean: whether to return means of x given z instead of draws.

        Returns:
            The completed images, shape (n, batch) + data_shape.

        Raises:
            InputError: if the condition is not quadrants, or the observed ones have values that are not finite.
        """
        if not isinstance(self.condition, QuadrantCondition):
            raise InputError(
                f"impute completes quadrants, and this model is of x given {self._condition_name}. Use sample."
            )
        n = require_whole(n, "n")
        self.condition.check(x)
        require_usable({"x": self.condition.raw_features(x) if len(x) else x})
        repeated = x.repeat(n, *[1] * (x.dim() - 1))
        return self._sample_given(repeated, mean=mean).unflatten(0, (n, len(x)))

    @torch.no_grad()
    def reconstruct(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return the mean of x given c and the posterior mean of z, shape (batch,) + data_shape.

        Args:
            x: data, (batch, features) or (batch,) + data_shape.
            condition: labels (batch,) or vectors (batch,) + condition_shape; None for quadrants, which are in x.
        """
        c = self._condition_features(x, condition)
        return self.as_data(self._likelihood_given(code_of(super().encode(x, c)), c, x), mean=True)

    def initialise_from(self, batch: Mapping[str, Tensor]) -> None:
        """Centre and scale the condition by the training data, and initialise as `BaseVAE` does; only once.

        Args:
            batch: the training data, with x and the condition.
        """
        if not self.initialised:
            self.condition.initialise_from(batch[self.condition.field])
        super().initialise_from(batch)

    @property
    def missing_entries(self) -> Tensor | None:
        """True at the entries of x that the model completes, shape data_shape; None if no quadrants are given."""
        return self.condition.missing if isinstance(self.condition, QuadrantCondition) else None

    @property
    def _condition_name(self) -> str:
        """The name of the condition in error messages."""
        return "its observed quadrants" if self.condition.field == "x" else self.condition.field

    def _condition_features(self, x: Tensor, condition: Tensor | None) -> Tensor:
        """Return the centred features of the condition, shape (batch, features)."""
        value = x if self.condition.field == "x" else condition
        if value is None:
            raise InputError(
                f"This model is of x given {self._condition_name}: pass {self._condition_name} after x; got only x."
            )
        return self.condition(value)

    def _prior_given(self, c: Tensor) -> TorchDistribution:
        """Return p(z given c) for condition features (batch, features); its batch shape is () if it ignores c."""
        traits = density_traits_of(self.prior)
        if traits.takes_condition:
            return self.prior(c)
        if traits.takes_posterior:
            mean_condition = c.new_zeros(self.condition.features)
            return self.prior(lambda u: super(ConditionalVAE, self).encode(u, mean_condition))
        return self.prior(None)

    def _likelihood_given(self, z: Tensor, c: Tensor, x: Tensor) -> TorchDistribution:
        """Return p(x given z, c); with quadrants it scores and draws the missing entries of `x` only."""
        density = super().decode(z, c)
        if not isinstance(self.condition, QuadrantCondition):
            return density
        return Completion(density, self.observed(x), self.condition.missing.reshape(self._event_shape))

    def _sample_given(self, condition: Tensor, *, mean: bool) -> Tensor:
        """Return new data for conditions (n, ...), shape (n,) + data_shape: draws of x, or the means of x given z."""
        c = self.condition(condition)
        prior = self._prior_given(c)
        z = prior.sample() if prior.batch_shape else prior.sample((len(c),))
        return self.as_data(self._likelihood_given(z, c, condition), mean=mean)


def _conditional_prior_settings(prior: str | nn.Module | None) -> dict[str, Any] | None:
    """Return the settings of the prior ``"conditional"``; None for any other prior."""
    name, settings = parse(prior) if isinstance(prior, str) else ("", {})
    if name != "conditional":
        return None
    require_settings("prior 'conditional'", settings, _PRIOR_SETTINGS)
    return settings
