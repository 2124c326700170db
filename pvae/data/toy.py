"""The linear Gaussian model, with exact evidence and posterior, and its maximum-likelihood fit in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pvae.batch import Batch
from pvae.checks import require_whole
from pvae.errors import InputError

__all__ = ["LinearGaussian", "fit_ppca"]


@dataclass(frozen=True, eq=False)
class LinearGaussian:
    """Probabilistic PCA: z ~ N(0, I), and x given z ~ N(W z + mu, sigma2 I). Evidence and posterior are exact.

    Attributes:
        weight: W, shape (features, latent).
        mean: mu, shape (features,).
        variance: sigma2 > 0, the variance of the noise.
    Source: Tipping & Bishop, Probabilistic Principal Component Analysis, JRSS B 61 (1999), section 3.
    """

    weight: Tensor
    mean: Tensor
    variance: float

    def __post_init__(self) -> None:
        if self.weight.ndim != 2 or self.mean.shape != self.weight.shape[:1] or not self.variance > 0:
            raise InputError(
                "A linear Gaussian model needs weight (features, latent), mean (features,) and variance > 0; "
                f"got {tuple(self.weight.shape)}, {tuple(self.mean.shape)} and {self.variance}."
            )

    @property
    def covariance(self) -> Tensor:
        """The covariance of x, W W' + sigma2 I, shape (features, features)."""
        return self.weight @ self.weight.T + self.variance * torch.eye(len(self.mean), dtype=self.mean.dtype)

    def sample(self, size: int, *, seed: int = 0) -> Batch:
        """Return a batch with ``x`` of shape (size, features), drawn by a new generator.

        Args:
            size: number of data, at least 1.
            seed: the seed of the generator.
        """
        size = require_whole(size, "size")
        generator = torch.Generator().manual_seed(seed)
        features, latent = self.weight.shape
        z = torch.randn(size, latent, generator=generator, dtype=self.mean.dtype)
        noise = torch.randn(size, features, generator=generator, dtype=self.mean.dtype)
        return Batch(x=z @ self.weight.T + self.mean + self.variance**0.5 * noise)

    def log_evidence(self, x: Tensor) -> Tensor:
        """Return log p(x) in nats, shape (batch,), for data of shape (batch, features)."""
        return torch.distributions.MultivariateNormal(self.mean, self.covariance).log_prob(x)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean, shape (batch, latent), and the covariance, shape (latent, latent), of p(z given x)."""
        latent = self.weight.shape[1]
        precision = self.weight.T @ self.weight + self.variance * torch.eye(latent, dtype=self.mean.dtype)
        mean = torch.linalg.solve(precision, self.weight.T @ (x - self.mean).T).T
        return mean, self.variance * torch.linalg.inv(precision)


def fit_ppca(x: Tensor, latent: int) -> LinearGaussian:
    """Return the linear Gaussian model with maximum likelihood, in closed form.

    A linear VAE with one learned Gaussian scale cannot have a larger log evidence on these data.

    Args:
        x: data, shape (batch, features).
        latent: number of latent dimensions, from 1 to features - 1.

    Raises:
        InputError: if `latent` is out of range, or the latent dimensions explain all variance of the data.
    Source: Tipping & Bishop (1999), equations 7 and 8; the rotation is the identity.
    """
    latent = require_whole(latent, "latent")
    if x.ndim != 2 or not 1 <= latent < x.shape[1]:
        raise InputError(f"pPCA needs x (batch, features) and 1 <= latent < features; got {tuple(x.shape)}, {latent}.")
    mean = x.mean(0)
    centred = x - mean
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(x))
    variance = values[:-latent].mean().item()
    if not variance > 0:
        raise InputError(
            f"pPCA needs variance that {latent} components do not explain; the data have none. Give a smaller number "
            "of components."
        )
    kept = (values[-latent:] - variance).clamp(min=0).sqrt()
    return LinearGaussian(vectors[:, -latent:] * kept, mean, variance)
