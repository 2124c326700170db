"""Initial parameters of a Gaussian mixture by k-means."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pvae.errors import InputError

__all__ = ["start_by_kmeans"]


def start_by_kmeans(
    x: Tensor, components: int, covariance: str, *, floor: float, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return weights, means and covariances of the clusters that k-means finds.

    They have the shapes of the parameters of `pvae.GaussianMixture`.

    Args:
        x: data, (data, features), float64.
        components: number of components.
        covariance: ``"full"``, ``"tied"``, ``"diag"`` or ``"spherical"``.
        floor: added to each variance, as a share of the variance of the data; a cluster of one datum has variance 0.
        seed: the seed of k-means.

    Raises:
        InputError: if there are fewer distinct data than components.
    """
    distinct = len(torch.unique(x, dim=0))
    if distinct < components:
        raise InputError(
            f"A mixture of {components} components needs at least as many different data; got {distinct} among "
            f"{len(x)}. "
            f"Choose components={distinct} or fewer."
        )
    from sklearn.cluster import KMeans

    labels = KMeans(components, n_init=1, random_state=seed).fit(x.cpu().numpy()).labels_
    one_hot = nn.functional.one_hot(torch.as_tensor(labels).long(), components).to(x)
    counts = one_hot.sum(0)
    means = (one_hot.mT @ x) / counts.unsqueeze(1)
    least = floor * x.var(0, correction=0).clamp_min(1e-6)
    covariances = _covariances(covariance, one_hot, x - means[labels], least)
    return counts / len(x), means, covariances


def _covariances(covariance: str, one_hot: Tensor, deviations: Tensor, least: Tensor) -> Tensor:
    """Return the covariances of clusters.

    Args:
        covariance: their form.
        one_hot: the cluster of each datum, (data, components).
        deviations: each datum minus the mean of its cluster, (data, features).
        least: the number that is added to each variance, (features,).

    Returns:
        Shape (features, features) if tied, (components, features, features) if full, (components, features) if
        diagonal, (components,) if spherical.
    """
    if covariance == "tied":
        return deviations.mT @ deviations / len(deviations) + torch.diag(least)
    counts = one_hot.sum(0)
    if covariance == "full":
        scatter = torch.einsum("nk,ni,nj->kij", one_hot, deviations, deviations)
        return scatter / counts[:, None, None] + torch.diag(least)
    variances = (one_hot.mT @ deviations.square()) / counts.unsqueeze(1) + least
    return variances if covariance == "diag" else variances.mean(1)
