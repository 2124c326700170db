"""Data, initial parameters and fits of Gaussian mixtures, for tests of EM."""

from __future__ import annotations

import warnings

import numpy as np

KINDS = ("full", "tied", "diag", "spherical")


def blobs(count: int = 900, components: int = 4, features: int = 3, seed: int = 0) -> np.ndarray:
    """Data of correlated, overlapping components."""
    random = np.random.default_rng(seed)
    means = 2.5 * random.normal(size=(components, features))
    roots = np.eye(features) + 0.4 * random.normal(size=(components, features, features))
    which = random.integers(components, size=count)
    return means[which] + np.einsum("nij,nj->ni", roots[which], random.normal(size=(count, features)))


def quietly(estimator, x, **more):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return estimator.fit(x, **more)


def initial(x: np.ndarray, kind: str, components: int) -> dict:
    """Initial parameters for either library."""
    random = np.random.default_rng(5)
    spread = np.linalg.inv(np.cov(x.T).reshape(x.shape[1], -1))
    precisions = {
        "full": np.repeat(spread[None], components, 0),
        "tied": spread,
        "diag": np.repeat(np.diag(spread)[None], components, 0),
        "spherical": np.full(components, np.diag(spread).mean()),
    }[kind]
    means = x[random.choice(len(x), components, replace=False)]
    return {
        "weights_init": random.dirichlet(np.full(components, 5.0)),
        "means_init": means,
        "precisions_init": precisions,
    }
