"""The change of the ELBO by a fitted prior, on validation data, which the fit has not used."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from pvae.batch import Batch
from pvae.data.subset import draw_subset
from pvae.errors import InputError
from pvae.programs.binding import held_modules
from pvae.randomness import evaluating
from pvae.structures import moved
from pvae.train.devices import reseed
from pvae.train.fitted_priors.codes import CodeSource
from pvae.weights import log_weights

__all__ = ["change_of_bound"]

_MOST_DATA, _CHUNK, _PARTICLES = 500, 50, 10
#: A decrease of more standard errors than this is reported.
_CLEAR = 3.0


def change_of_bound(source: CodeSource, fitted: Any, seed: int) -> dict[str, Any]:
    """Return the increase of the ELBO of validation data by the fitted prior, as values of TOML.

    They are ``elbo_change`` in nats per datum, its standard error over data ``elbo_change_error``, and the number of
    data ``elbo_change_count``. The result is empty without validation data, and for a guide without a density, which
    has no ELBO. A warning is given if the ELBO decreases.

    Args:
        source: the model before, and the data.
        fitted: the model with the fitted prior.
        seed: the seed of the draws; both models get the same ones.
    """
    if source.splits.validation is None:
        return {}
    data, _ = draw_subset(source.splits.validation, _MOST_DATA, 0)
    try:
        bounds = [_bounds(model, data, source, seed) for model in (source.model, fitted)]
    except InputError:  # the guide returns points without a density
        return {}
    changes = bounds[1] - bounds[0]
    change, error = float(changes.mean()), float(changes.std() / len(changes) ** 0.5)
    if change < -_CLEAR * error:
        warnings.warn(
            f"The fitted prior lowers the ELBO of {len(changes)} validation data by {-change:.4g} ± {error:.2g} nats: "
            "it fits their codes worse than the prior of the training. Use another kind such as 'mixture', more "
            "components, or "
            "more "
            "epochs.",
            stacklevel=3,
        )
    return {
        "elbo_change": round(change, 6),
        "elbo_change_error": round(error, 6),
        "elbo_change_count": len(changes),
    }


def _bounds(model: Any, data: Batch, source: CodeSource, seed: int) -> torch.Tensor:
    """Return an estimate of the ELBO of each datum, shape (data,), in nats."""
    device = source.device
    bounds = []
    for start in range(0, data.size, _CHUNK):
        part = data.take(slice(start, start + _CHUNK))
        batch = Batch(**{name: moved(value, device) for name, value in part.items()})
        reseed(seed, start)
        with torch.no_grad(), evaluating(model, *held_modules(model).values()):
            bounds.append(log_weights(model, batch, _PARTICLES, fields=source.fields).log_w.mean(0).double().cpu())
    return torch.cat(bounds)
