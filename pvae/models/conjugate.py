"""A prior of a mixture's parameters, as a share that each datum carries; and what a network needs to see data."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pvae.checks import require_number
from pvae.errors import InputError
from pvae.names import parse_known
from pvae.networks import MLP

__all__ = ["ConjugatePrior", "Recogniser", "make_prior"]


class ConjugatePrior(nn.Module):
    """Dirichlet(concentration) of the weights, and inverse Wishart(scale, degrees) of each covariance, for MAP.

    Means have no prior. It is the prior of `pvae.GaussianMixture`, so that EM and gradients climb one function.

    Args:
        features: of a datum.
        components: of the mixture.
        data_size: the number N of training data: each of them carries 1/N of the log density.
        concentration: the Dirichlet's, at least 1; 1 is flat, and 2 is as one more datum in each component.
        scale: the inverse Wishart's scale matrix, as this number times the identity; None takes the variances of the
            training data, divided by components^(2 / features).
        degrees: its degrees of freedom, above features - 1; None is features + 2.

    Raises:
        InputError: for an argument that cannot be used.
    Source: Fraley & Raftery, Bayesian regularization for normal mixture estimation, Journal of Classification 24, 2007
    (scale and degrees where none are given).
    """

    scale: Tensor

    def __init__(
        self,
        features: int,
        components: int,
        data_size: int,
        *,
        concentration: float = 2.0,
        scale: float | None = None,
        degrees: float | None = None,
    ) -> None:
        super().__init__()
        self.data_size, self.concentration = data_size, float(concentration)
        self.degrees = float(features + 2 if degrees is None else degrees)
        if self.concentration < 1:
            raise InputError(f"concentration needs at least 1, for a mode to exist; got {concentration!r}.")
        if self.degrees <= features - 1:
            raise InputError(f"degrees needs more than {features - 1} for {features} features; got {degrees!r}.")
        if scale is not None and not scale > 0:
            raise InputError(f"scale needs a positive number; got {scale!r}.")
        self.spread = components ** (-2 / features)
        self.from_data = scale is None
        self.register_buffer("scale", torch.full((features,), 1.0 if scale is None else float(scale)))

    @torch.no_grad()
    def initialise_from(self, x: Tensor) -> None:
        """Take the scale from data, (data, features), where none was given."""
        if self.from_data:
            self.scale.copy_(x.double().var(0, correction=0).clamp_min(1e-6) * self.spread)

    def log_density(self, weights: Tensor, factors: Tensor) -> Tensor:
        """Return the log density at a mixture, (), nats, up to a constant.

        It is the density of weights and covariances, not of the unbounded numbers that stand for them: its mode is
        that of MAP-EM.

        Args:
            weights: logarithms of the weights, (components,).
            factors: Cholesky factors of the different covariances, (covariances, features, features).
        """
        inverse = torch.linalg.solve_triangular(factors, torch.diag_embed(self.scale.sqrt()), upper=False)
        log_dets = 2 * factors.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        each = (self.degrees + len(self.scale) + 1) * log_dets + inverse.square().sum((-2, -1))
        return (self.concentration - 1) * weights.sum() - 0.5 * each.sum()


#: name of a prior -> the settings that it takes
_PRIORS: dict[str, tuple[str, ...]] = {"none": (), "conjugate": ("concentration", "degrees", "scale")}


def make_prior(text: str, features: int, components: int, data_size: int | None) -> ConjugatePrior | None:
    """Return the prior of a text: None for ``"none"``, else of ``"conjugate"`` with settings after colons.

    Raises:
        InputError: for another name or setting, or without the number of data.
    """
    name, settings = parse_known(text, "prior", _PRIORS, lambda keys: keys)
    if name == "none":
        return None
    for key, number in settings.items():
        require_number(number, f"{key} of prior 'conjugate'")
    if data_size is None:
        raise InputError("prior 'conjugate' needs data_size, the number of training data: it is counted once for them.")
    return ConjugatePrior(features, components, data_size, **settings)


class Recogniser(nn.Module):
    """q(component given x) by a network, of data standardised by the mean and deviation of the training data.

    Args:
        features: of a datum.
        components: of the mixture.
        hidden: sizes of the hidden layers.

    Shapes: (batch, features) to logits (batch, components).
    """

    centre: Tensor
    spread: Tensor

    def __init__(self, features: int, components: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.network = MLP(features, components, hidden=hidden)
        self.register_buffer("centre", torch.zeros(features))
        self.register_buffer("spread", torch.ones(features))

    @torch.no_grad()
    def initialise_from(self, x: Tensor) -> None:
        """Take mean and deviation from data, (data, features); a feature that never varies keeps deviation 1."""
        deviation = x.double().std(0, correction=0)
        self.centre.copy_(x.double().mean(0))
        self.spread.copy_(torch.where(deviation > 0, deviation, 1.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.network((x - self.centre) / self.spread)
