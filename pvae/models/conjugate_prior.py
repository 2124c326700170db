"""The conjugate prior of a mixture's parameters; an equal share of its log-density is added to each datum."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pvae.checks import require_number
from pvae.errors import InputError
from pvae.names import parse_known

__all__ = ["ConjugatePrior", "make_prior"]

# The settings that each prior takes, by its name.
_PRIORS: dict[str, tuple[str, ...]] = {"none": (), "conjugate": ("concentration", "degrees", "scale")}


class ConjugatePrior(nn.Module):
    """Dirichlet(concentration) of the weights and inverse Wishart(scale, degrees) of each covariance.

    Means have no prior. It is the prior of `pvae.GaussianMixture`, so EM and gradients maximise the same function, the
    log posterior of the parameters.

    Args:
        features: number of features of a datum.
        components: number of components of the mixture.
        data_size: the number N of training data; 1/N of the log-density is added to each of them.
        concentration: the parameter of the Dirichlet, at least 1. 1 is flat; 2 acts like one more datum in each
            component.
        scale: the scale matrix of the inverse Wishart is this number times the identity. None means the variances of
            the training data, divided by components^(2 / features).
        degrees: degrees of freedom of the inverse Wishart, more than features - 1. None means features + 2.

    Raises:
        InputError: for an argument that cannot be used.
    Source: Fraley & Raftery, Bayesian regularization for normal mixture estimation, Journal of Classification 24, 2007
    (the default scale and degrees).
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
            raise InputError(
                f"concentration needs at least 1, because the density has no mode below 1; got {concentration!r}. Use "
                "1 "
                "for a flat prior of the weights."
            )
        if self.degrees <= features - 1:
            raise InputError(
                f"degrees needs more than {features - 1} for {features} features; got {degrees!r}. Leave it out for "
                f"{features + 2}."
            )
        if scale is not None and not scale > 0:
            raise InputError(f"scale needs a positive number; got {scale!r}. Leave it out for a scale from the data.")
        self.scale_factor = components ** (-2 / features)
        self.scale_from_data = scale is None
        self.register_buffer("scale", torch.full((features,), 1.0 if scale is None else float(scale)))

    @torch.no_grad()
    def initialise_from(self, x: Tensor) -> None:
        """Set the scale from data, (data, features), if no scale was given."""
        if self.scale_from_data:
            self.scale.copy_(x.double().var(0, correction=0).clamp_min(1e-6) * self.scale_factor)

    def log_density(self, weights: Tensor, factors: Tensor) -> Tensor:
        """Return the log-density at a mixture, shape (), in nats, up to a constant.

        It is the density of weights and covariances, not of the unconstrained parameters: its mode is that of MAP-EM.

        Args:
            weights: logarithms of the weights, (components,).
            factors: Cholesky factors of the distinct covariances, (covariances, features, features).
        """
        inverse = torch.linalg.solve_triangular(factors, torch.diag_embed(self.scale.sqrt()), upper=False)
        log_dets = 2 * factors.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        by_covariance = (self.degrees + len(self.scale) + 1) * log_dets + inverse.square().sum((-2, -1))
        return (self.concentration - 1) * weights.sum() - 0.5 * by_covariance.sum()


def make_prior(text: str, features: int, components: int, data_size: int | None) -> ConjugatePrior | None:
    """Return None for ``"none"``, and a `ConjugatePrior` for ``"conjugate"`` with settings after colons.

    Args:
        text: such as ``"conjugate:concentration=3"``.
        features: number of features of a datum.
        components: number of components of the mixture.
        data_size: the number of training data; None if it is not known.

    Raises:
        InputError: for another name or setting, or without the number of data.
    """
    name, settings = parse_known(text, "prior", _PRIORS, lambda setting_names: setting_names)
    if name == "none":
        return None
    for setting, value in settings.items():
        require_number(value, f"{setting} of prior 'conjugate'")
    if data_size is None:
        raise InputError(
            "prior 'conjugate' needs data_size, the number of training data, because each datum gets 1/data_size of "
            "its log-density; got data_size=None. Pass data_size=len(x)."
        )
    return ConjugatePrior(features, components, data_size, **settings)
