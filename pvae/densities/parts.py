"""Priors, posteriors and likelihoods by the names of the command line."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, get_args, get_type_hints, is_typeddict

from torch import nn

from pvae.densities.counts import Categorical, NegativeBinomial, Poisson
from pvae.densities.discretised import DiscretisedLogistic
from pvae.densities.flows import FlowPosterior, FlowPrior, HouseholderPosterior
from pvae.densities.likelihoods import Bernoulli, ContinuousBernoulli, Gaussian
from pvae.densities.mixtures import MixturePosterior, MixturePrior
from pvae.densities.posteriors import DiagonalGaussian, FullGaussian
from pvae.densities.priors import StandardNormal
from pvae.densities.spheres import SpherePrior, VonMisesFisherPosterior
from pvae.densities.vamp import VampPrior
from pvae.errors import InputError
from pvae.names import parse_known, require_settings

__all__ = ["LIKELIHOODS", "POSTERIORS", "PRIORS", "accepted", "check_settings", "part", "require_matching_parts"]

PRIORS: dict[str, Callable[..., nn.Module]] = {
    "flow": FlowPrior,
    "mixture": MixturePrior,
    "sphere": SpherePrior,
    "standard": StandardNormal,
    "vamp": VampPrior,
}
POSTERIORS: dict[str, Callable[..., nn.Module]] = {
    "diagonal": DiagonalGaussian,
    "flow": FlowPosterior,
    "full": FullGaussian,
    "householder": HouseholderPosterior,
    "mixture": MixturePosterior,
    "von-mises-fisher": VonMisesFisherPosterior,
}
LIKELIHOODS: dict[str, Callable[..., nn.Module]] = {
    "bernoulli": Bernoulli,
    "categorical": Categorical,
    "continuous-bernoulli": ContinuousBernoulli,
    "discretised-logistic": DiscretisedLogistic,
    "gaussian": Gaussian,
    "negative-binomial": NegativeBinomial,
    "poisson": Poisson,
}
_TABLES = {"prior": PRIORS, "posterior": POSTERIORS, "likelihood": LIKELIHOODS}


_ON_SPHERE = (SpherePrior, VonMisesFisherPosterior)
_FOLLOWS_POSTERIOR = (VampPrior,)


def require_matching_parts(prior: nn.Module, posterior: nn.Module) -> None:
    """Raise InputError if only one of a prior and a posterior is on a sphere, for the densities of the tables.

    Modules of a user are not compared here; the weights and the check before a training compare the sites.

    Args:
        prior: a density over z.
        posterior: another density.

    Raises:
        InputError: with both names.
    """
    priors, posteriors = ({kind: name for name, kind in table.items()} for table in (PRIORS, POSTERIORS))
    if type(prior) not in priors or type(posterior) not in posteriors or isinstance(prior, _FOLLOWS_POSTERIOR):
        return
    if isinstance(prior, _ON_SPHERE) != isinstance(posterior, _ON_SPHERE):
        raise InputError(
            f"The prior {priors[type(prior)]!r} and the posterior {posteriors[type(posterior)]!r} are not both on a "
            "sphere, so their densities cannot be compared. Use prior='sphere' with posterior='von-mises-fisher', or "
            "neither."
        )


_NAMED_KINDS = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def accepted(constructor: Callable[..., Any]) -> tuple[dict[str, bool], bool]:
    """Return the keyword arguments that a constructor accepts.

    Args:
        constructor: a class or a function.

    Returns:
        A mapping from each name to whether it is required, and whether the constructor accepts any other name too.
    """
    parameters = list(inspect.signature(constructor).parameters.values())
    named = [parameter for parameter in parameters if parameter.kind in _NAMED_KINDS]
    names = {parameter.name: parameter.default is parameter.empty for parameter in named}
    keywords = [parameter.name for parameter in parameters if parameter.kind is parameter.VAR_KEYWORD]
    unpacked = _unpacked_names(constructor, keywords[0]) if keywords else None
    return names | dict.fromkeys(unpacked or (), False), bool(keywords) and unpacked is None


def _unpacked_names(constructor: Callable[..., Any], name: str) -> list[str] | None:
    """Return the names that ``**name: Unpack[...]`` lists; None if the constructor accepts any name."""
    function = getattr(constructor, "__init__", constructor) if isinstance(constructor, type) else constructor
    try:
        unpacked = get_args(get_type_hints(function).get(name))
    except (NameError, TypeError):  # annotations of a user's code may be undefined at run time
        return None
    return list(get_type_hints(unpacked[0])) if unpacked and is_typeddict(unpacked[0]) else None


def check_settings(label: str, constructor: Callable[..., Any], settings: Mapping[str, Any]) -> None:
    """Check that a constructor accepts these settings, and that none is missing.

    Args:
        label: the object that the constructor makes, for the message.
        constructor: a class or a function.
        settings: its arguments by name.

    Raises:
        InputError: for a setting that it does not accept (the message gives the nearest), or a missing one.
    """
    names, anything = accepted(constructor)
    if not anything:
        require_settings(label, settings, names)
    missing = [name for name, required in names.items() if required and name not in settings]
    if missing:
        raise InputError(f"{label} needs {', '.join(missing)}. Give a value with --set {missing[0]}=...")


def part(role: str, given: str | nn.Module, *context: Any, **style: Any) -> nn.Module:
    """Return a density by its name, such as ``"gaussian:scale=0.1"``; a module is returned unchanged.

    Args:
        role: ``"prior"``, ``"posterior"`` or ``"likelihood"``.
        given: a name, with settings after colons, or a module whose ``forward(context)`` returns a distribution.
        context: positional arguments of the named density, such as features and the shape of the data.
        style: settings for a density that accepts them, unless `given` sets them.

    Raises:
        InputError: if the name or a setting is not known (the message gives the nearest), or a setting is missing.
    """
    if isinstance(given, nn.Module):
        return given
    table = _TABLES[role]
    if not isinstance(given, str):
        raise InputError(f"A {role} needs to be a name ({', '.join(table)}) or a module; got {type(given).__name__}.")
    name, settings = parse_known(given, role, table, lambda kind: list(accepted(kind)[0])[len(context) :])
    constructor = table[name]
    names, _ = accepted(constructor)
    free = list(names)[len(context) :]
    settings = {**{key: style[key] for key in style if key in free}, **settings}
    missing = [setting for setting in free if names[setting] and setting not in settings]
    if missing:
        raise InputError(f"The {role} {name!r} needs {missing[0]}. Write {name}:{missing[0]}=...")
    return constructor(*context, **settings)
