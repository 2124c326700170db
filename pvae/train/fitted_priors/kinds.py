"""The kinds of fitted priors by name, and the codes that each of them fits."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pvae.errors import InputError
from pvae.names import parse_known
from pvae.train.fitted_priors.code_site import CodeSite
from pvae.train.fitted_priors.fitted_density import FittedDensity
from pvae.train.fitted_priors.mixture_fit import fit_full_gaussian, fit_mixture
from pvae.train.fitted_priors.network_fits import fit_autoregressive, fit_flow, fit_second_stage
from pvae.train.fitted_priors.posterior_fits import fit_aggregate, fit_vamp

__all__ = ["PRIOR_KINDS", "PriorKind", "default_kind", "parse_kind", "require_fitting_kind"]


@dataclass(frozen=True)
class PriorKind:
    """A kind of fitted prior.

    Attributes:
        fit: a function of codes, `FitSettings` and the settings of the kind.
        fits_codes: whether the kind is for discrete codes; otherwise it is for real numbers.
        needs_density: whether it needs the density of q, which a point does not have.
    """

    fit: Callable[..., FittedDensity]
    fits_codes: bool = False
    needs_density: bool = False

    def settings(self) -> list[str]:
        """Return the names of the settings of the kind."""
        parameters = inspect.signature(self.fit).parameters.values()
        return [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]


# Saved runs contain these names, so a name must not change.
PRIOR_KINDS: dict[str, PriorKind] = {
    "aggregate": PriorKind(fit_aggregate, needs_density=True),
    "autoregressive": PriorKind(fit_autoregressive, fits_codes=True),
    "flow": PriorKind(fit_flow),
    "full-gaussian": PriorKind(fit_full_gaussian),
    "mixture": PriorKind(fit_mixture),
    "vae": PriorKind(fit_second_stage),
    "vamp": PriorKind(fit_vamp, needs_density=True),
}


def parse_kind(text: Any) -> tuple[str, dict[str, Any]]:
    """Return the name of a kind and its settings, from a text such as ``"mixture:components=5"``.

    Raises:
        InputError: for an unknown name or setting, or a value that is not text.
    """
    if not isinstance(text, str):
        raise InputError(f"kind needs a name ({', '.join(PRIOR_KINDS)}); got {type(text).__name__}.")
    return parse_known(text, "kind of prior", PRIOR_KINDS, PriorKind.settings)


def default_kind(site: CodeSite) -> str:
    """Return the default kind for the codes of a site."""
    return "autoregressive" if site.codes else "mixture"


def require_fitting_kind(name: str, site: CodeSite) -> None:
    """Raise InputError if a kind does not fit the codes of a site.

    Args:
        name: the name of the kind.
        site: the site.
    """
    kind = PRIOR_KINDS[name]
    if kind.fits_codes != bool(site.codes):
        fitting = [repr(known) for known, other in PRIOR_KINDS.items() if other.fits_codes == bool(site.codes)]
        values = f"discrete codes 0 to {site.codes - 1}" if site.codes else "real numbers"
        raise InputError(
            f"The kind {name!r} is for {'discrete codes' if kind.fits_codes else 'real numbers'}; the values of "
            f"{site.name} are {values}. Use {' or '.join(fitting)}."
        )
    if kind.needs_density and site.is_point:
        raise InputError(
            f"The kind {name!r} is made of the densities q(z given x); the guide of this model returns points, which "
            "have no density. Use 'mixture' or 'flow'."
        )
