"""Densities of codes with networks: flows, autoregressive networks, and the second stage of a two-stage VAE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pvae.checks import require_sizes
from pvae.densities.autoregressive import AutoregressivePrior
from pvae.densities.standardised_flow import StandardisedFlowPrior
from pvae.models.second_stage import SecondStage
from pvae.models.vae import VAE
from pvae.train.fitted_priors.codes import Codes
from pvae.train.fitted_priors.fitted_density import FitSettings, FittedDensity
from pvae.train.fitted_priors.gradient_fit import fit_by_gradients

__all__ = ["fit_autoregressive", "fit_flow", "fit_second_stage"]


def fit_flow(
    codes: Codes,
    settings: FitSettings,
    *,
    kind: str = "maf",
    transforms: int = 3,
    hidden: int | Sequence[int] = (64, 64),
) -> FittedDensity:
    """Return a normalising flow.

    Args:
        codes: the codes, real numbers.
        settings: the settings of the fit.
        kind: ``"maf"``, ``"coupling"`` or ``"spline"``, as for `pvae.FlowPrior`.
        transforms: number of maps.
        hidden: sizes of the hidden layers of each map's network.
    """
    choices: dict[str, Any] = {"kind": kind, "transforms": transforms, "hidden": require_sizes(hidden, "hidden")}

    def make() -> StandardisedFlowPrior:
        flow = StandardisedFlowPrior(codes.site.size, **choices)
        flow.initialise_from(codes.values)
        return flow

    density, facts = fit_by_gradients(codes, settings, make)
    return FittedDensity(density, choices, facts)


def fit_autoregressive(
    codes: Codes, settings: FitSettings, *, width: int = 64, layers: int = 2, heads: int = 4
) -> FittedDensity:
    """Return a causal transformer of discrete codes.

    Args:
        codes: the codes, whole numbers.
        settings: the settings of the fit.
        width: number of features.
        layers: number of layers.
        heads: number of heads of attention.
    """
    choices: dict[str, Any] = {"codes": codes.site.codes, "width": width, "layers": layers, "heads": heads}
    density, facts = fit_by_gradients(codes, settings, lambda: AutoregressivePrior(codes.site.size, **choices))
    return FittedDensity(density, choices, facts)


def fit_second_stage(
    codes: Codes, settings: FitSettings, *, latent: int | None = None, hidden: int | Sequence[int] = (64, 64)
) -> FittedDensity:
    """Return a VAE of the codes.

    Args:
        codes: the codes, real numbers.
        settings: the settings of the fit.
        latent: number of latent dimensions of u; by default as many as the codes have.
        hidden: sizes of the hidden layers.
    """
    choices: dict[str, Any] = {
        "latent": codes.site.size if latent is None else latent,
        "hidden": require_sizes(hidden, "hidden"),
    }
    stage: list[SecondStage] = []

    def make() -> VAE:
        stage.append(SecondStage(codes.site.size, **choices))
        stage[0].set_standardisation(codes.values)
        return stage[0].vae

    standardised = (codes.values - codes.values.mean(0)) / codes.values.std(0)
    _, facts = fit_by_gradients(Codes(codes.site, standardised, codes.draws), settings, make)
    of_codes = facts["held_out"] - float(codes.values.std(0).log().sum())
    return FittedDensity(stage[0], choices, {**facts, "held_out": round(of_codes, 6)})
