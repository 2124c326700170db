"""Parts of a model by name: which prior, posterior or likelihood a word of the command line means."""

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
from pvae.densities.vamp import VampPrior
from pvae.errors import InputError
from pvae.names import parse_known, require_settings

__all__ = ["LIKELIHOODS", "POSTERIORS", "PRIORS", "accepted", "check_settings", "part"]

PRIORS: dict[str, Callable[..., nn.Module]] = {
    "flow": FlowPrior,
    "mixture": MixturePrior,
    "standard": StandardNormal,
    "vamp": VampPrior,
}
POSTERIORS: dict[str, Callable[..., nn.Module]] = {
    "diagonal": DiagonalGaussian,
    "flow": FlowPosterior,
    "full": FullGaussian,
    "householder": HouseholderPosterior,
    "mixture": MixturePosterior,
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


def accepted(constructor: Callable[..., Any]) -> tuple[dict[str, bool], bool]:
    """Return the names a constructor accepts, each with whether it is required, and if it takes any."""
    given = list(inspect.signature(constructor).parameters.values())
    named = [each for each in given if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
    names = {each.name: each.default is each.empty for each in named}
    others = [each.name for each in given if each.kind is each.VAR_KEYWORD]
    listed = _listed(constructor, others[0]) if others else None
    return names | dict.fromkeys(listed or (), False), bool(others) and listed is None


def _listed(constructor: Callable[..., Any], name: str) -> list[str] | None:
    """The names that ``**name: Unpack[...]`` lists; None where anything goes."""
    made = getattr(constructor, "__init__", constructor) if isinstance(constructor, type) else constructor
    try:
        found = get_args(get_type_hints(made).get(name))
    except (NameError, TypeError):  # annotations of a user's code that mean nothing at run time
        return None
    return list(get_type_hints(found[0])) if found and is_typeddict(found[0]) else None


def check_settings(label: str, constructor: Callable[..., Any], settings: Mapping[str, Any]) -> None:
    """Check, before it is called, that `constructor` takes these settings and needs no other.

    Args:
        label: what is built, for the message.
        constructor: a class or a function.
        settings: its arguments by name.

    Raises:
        InputError: for a setting that it does not take (the nearest is named), or a missing one.
    """
    names, anything = accepted(constructor)
    if not anything:
        require_settings(label, settings, names)
    missing = [name for name, required in names.items() if required and name not in settings]
    if missing:
        raise InputError(f"{label} needs {', '.join(missing)}; give it with --set {missing[0]}=...")


def part(role: str, given: str | nn.Module, *context: Any, **style: Any) -> nn.Module:
    """Return a density by name, such as ``"gaussian:scale=0.1"``, or the module that was given, as it is.

    Args:
        role: ``"prior"``, ``"posterior"`` or ``"likelihood"``.
        given: a name, with settings after colons, or a module whose ``forward(context)`` is one.
        context: positional arguments of the named density, such as features and the data's shape.
        style: settings that hold unless `given` names them, and where the named density takes them.

    Raises:
        InputError: if the name or one of its settings is not known (the nearest is named), or one is missing.
    """
    if isinstance(given, nn.Module):
        return given
    table = _TABLES[role]
    if not isinstance(given, str):
        raise InputError(f"A {role} is a name ({', '.join(table)}) or a module; got {type(given).__name__}.")
    name, settings = parse_known(given, role, table, lambda kind: list(accepted(kind)[0])[len(context) :])
    constructor = table[name]
    names, _ = accepted(constructor)
    free = list(names)[len(context) :]
    settings = {**{key: style[key] for key in style if key in free}, **settings}
    missing = [each for each in free if names[each] and each not in settings]
    if missing:
        raise InputError(f"The {role} {name!r} needs {missing[0]}; write {name}:{missing[0]}=...")
    return constructor(*context, **settings)
