"""pvae: a laboratory for deep latent-variable models in Pyro.

Write a generative model and its encoder as two Pyro programs; :func:`fit` trains them with any inference
algorithm, :mod:`pvae.evaluate` says how good the result is, and :func:`compare` shows which algorithm suits
the model.

The names below are loaded when they are first used, so that ``import pvae`` costs no torch import.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "AAE": "objectives",
    "ALI": "objectives",
    "Alternate": "objectives",
    "Autoencoder": "models",
    "Batch": "batch",
    "Bernoulli": "densities",
    "Beta": "objectives",
    "CIWAE": "objectives",
    "Capacity": "objectives",
    "Categorical": "densities",
    "ConditionalVAE": "models",
    "Constrained": "objectives",
    "ContinuousBernoulli": "densities",
    "ConvDecoder": "networks",
    "ConvEncoder": "networks",
    "DReG": "objectives",
    "DiagonalGaussian": "densities",
    "Dirac": "objectives",
    "DiscretisedLogistic": "densities",
    "DivergenceError": "errors",
    "Estimate": "evaluate",
    "FreeBits": "objectives",
    "GatedMLP": "networks",
    "GAN": "objectives",
    "GMVAE": "models",
    "Gaussian": "densities",
    "GaussianMixture": "em",
    "IWAE": "objectives",
    "InfoMMD": "objectives",
    "InputError": "errors",
    "LadderVAE": "models",
    "LatentModel": "models",
    "LocalGuide": "models",
    "LogVariance": "objectives",
    "LogWeights": "weights",
    "MIWAE": "objectives",
    "MLP": "networks",
    "Marginal": "objectives",
    "MaskedVAE": "models",
    "ModelSpec": "models",
    "NegativeBinomial": "densities",
    "Objective": "objectives",
    "PIWAE": "objectives",
    "Poisson": "densities",
    "Quantiser": "models",
    "Renyi": "objectives",
    "Run": "train",
    "ScoreFunction": "objectives",
    "SemiAmortised": "models",
    "SemiSupervised": "objectives",
    "SemiSupervisedVAE": "models",
    "Splits": "data",
    "StandardNormal": "densities",
    "StickingTheLanding": "objectives",
    "Terms": "objectives",
    "Thermodynamic": "objectives",
    "TotalCorrelation": "objectives",
    "VAE": "models",
    "VIMCO": "objectives",
    "VQVAE": "models",
    "VarianceRegularised": "objectives",
    "VectorQuantised": "objectives",
    "WakeSleep": "objectives",
    "WeightsObjective": "objectives",
    "check": "objectives",
    "compare": "comparison",
    "fit": "train",
    "load_data": "data",
    "log_weights": "weights",
    "open_run": "train",
    "pair": "models",
    "program": "models",
}
_FOLDERS = {
    "batch",
    "comparison",
    "data",
    "densities",
    "em",
    "errors",
    "evaluate",
    "models",
    "names",
    "networks",
    "objectives",
    "plots",
    "report",
    "train",
    "weights",
}

# Written out, not computed from _HOMES: linters and type checkers read this list and do not run the file.
__all__ = [
    "AAE",
    "ALI",
    "CIWAE",
    "GAN",
    "GMVAE",
    "IWAE",
    "MIWAE",
    "MLP",
    "PIWAE",
    "VAE",
    "VIMCO",
    "VQVAE",
    "Alternate",
    "Autoencoder",
    "Batch",
    "Bernoulli",
    "Beta",
    "Capacity",
    "Categorical",
    "ConditionalVAE",
    "Constrained",
    "ContinuousBernoulli",
    "ConvDecoder",
    "ConvEncoder",
    "DReG",
    "DiagonalGaussian",
    "Dirac",
    "DiscretisedLogistic",
    "DivergenceError",
    "Estimate",
    "FreeBits",
    "GatedMLP",
    "Gaussian",
    "GaussianMixture",
    "InfoMMD",
    "InputError",
    "LadderVAE",
    "LatentModel",
    "LocalGuide",
    "LogVariance",
    "LogWeights",
    "Marginal",
    "MaskedVAE",
    "ModelSpec",
    "NegativeBinomial",
    "Objective",
    "Poisson",
    "Quantiser",
    "Renyi",
    "Run",
    "ScoreFunction",
    "SemiAmortised",
    "SemiSupervised",
    "SemiSupervisedVAE",
    "Splits",
    "StandardNormal",
    "StickingTheLanding",
    "Terms",
    "Thermodynamic",
    "TotalCorrelation",
    "VarianceRegularised",
    "VectorQuantised",
    "WakeSleep",
    "WeightsObjective",
    "__version__",
    "check",
    "compare",
    "fit",
    "load_data",
    "log_weights",
    "open_run",
    "pair",
    "program",
]

if TYPE_CHECKING:
    from pvae.batch import Batch
    from pvae.comparison import compare
    from pvae.data import Splits, load_data
    from pvae.densities import (
        Bernoulli,
        Categorical,
        ContinuousBernoulli,
        DiagonalGaussian,
        DiscretisedLogistic,
        Gaussian,
        NegativeBinomial,
        Poisson,
        StandardNormal,
    )
    from pvae.em import GaussianMixture
    from pvae.errors import DivergenceError, InputError
    from pvae.evaluate import Estimate
    from pvae.models import (
        GMVAE,
        VAE,
        VQVAE,
        Autoencoder,
        ConditionalVAE,
        LadderVAE,
        LatentModel,
        LocalGuide,
        MaskedVAE,
        ModelSpec,
        Quantiser,
        SemiAmortised,
        SemiSupervisedVAE,
        pair,
        program,
    )
    from pvae.networks import MLP, ConvDecoder, ConvEncoder, GatedMLP
    from pvae.objectives import (
        AAE,
        ALI,
        CIWAE,
        GAN,
        IWAE,
        MIWAE,
        PIWAE,
        VIMCO,
        Alternate,
        Beta,
        Capacity,
        Constrained,
        Dirac,
        DReG,
        FreeBits,
        InfoMMD,
        LogVariance,
        Marginal,
        Objective,
        Renyi,
        ScoreFunction,
        SemiSupervised,
        StickingTheLanding,
        Terms,
        Thermodynamic,
        TotalCorrelation,
        VarianceRegularised,
        VectorQuantised,
        WakeSleep,
        WeightsObjective,
        check,
    )
    from pvae.train import Run, fit, open_run
    from pvae.weights import LogWeights, log_weights


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        found = getattr(importlib.import_module(f"pvae.{_HOMES[name]}"), name)
        globals()[name] = found
        return found
    if name in _FOLDERS:
        return importlib.import_module(f"pvae.{name}")
    raise AttributeError(f"module 'pvae' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *_FOLDERS})
