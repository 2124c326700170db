"""Densities of codes that are fitted by gradients: the likelihood of the codes is maximised by `fit`."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from pvae.batch import Batch
from pvae.data import Splits
from pvae.programs.base import LatentModel
from pvae.train.devices import reseed
from pvae.train.fitted_priors.codes import Codes
from pvae.train.fitted_priors.fitted_density import FitSettings
from pvae.train.trainer import fit

__all__ = ["fit_by_gradients"]

#: The share of the data that is left out, to choose the parameters that are kept.
_LEFT_OUT = 0.1


class _CodeModel(LatentModel):
    """A density of codes as a latent model without a latent variable: its ELBO is the log-density of the codes.

    Args:
        density: the density.
        context: the argument of its ``forward``.
    """

    def __init__(self, density: nn.Module, context: Any) -> None:
        super().__init__()
        self.density = density
        # not as a submodule: the encoder of a VampPrior is not trained
        self.__dict__["context"] = context

    def model(self, x: Tensor) -> None:
        """Observe the codes x, shape (batch, size)."""
        with pyro.plate("data", len(x)):
            pyro.sample("x", self.density(self.context), obs=x)

    def guide(self, x: Tensor) -> None:
        """Infer nothing."""


def fit_by_gradients(
    codes: Codes,
    settings: FitSettings,
    make: Callable[[], Any],
    *,
    context: Any = None,
) -> tuple[Any, dict[str, Any]]:
    """Return a density that is fitted to the codes by maximum likelihood, and the results of the fit.

    Args:
        codes: the codes.
        settings: the settings of the fit.
        make: makes the density, or a latent model of the codes.
        context: the argument of the ``forward`` of a density.
    """
    train, left_out = codes.split(_LEFT_OUT, settings.seed)
    data = Splits(
        train=Batch(x=train), validation=Batch(x=left_out), test=None, name="codes", data_shape=tuple(train.shape[1:])
    )
    reseed(settings.seed)  # inside the block of fit_prior, which restores the generators
    made = make()
    with warnings.catch_warnings():
        # a density of codes has no weights, and its loss is what ranks the parameters
        warnings.filterwarnings("ignore", message="The validation bound is the objective's own")
        run = fit(
            made if isinstance(made, LatentModel) else _CodeModel(made, context),
            data,
            objective="elbo",
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            seed=settings.seed,
            device="cpu",
            precision="float64" if train.dtype == torch.float64 else "float32",
            validation_limit=len(left_out),
            progress=False,
        )
    bounds = [record["validation_bound"] for record in run.history if record.get("validation_bound") is not None]
    facts = {"held_out": round(max(bounds), 6), "epochs": run.epoch}
    return made, facts
