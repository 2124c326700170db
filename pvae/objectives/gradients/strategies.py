"""Gradient strategies: how the gradient of each guide site is estimated, chosen by the program or the objective."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, TypedDict

import torch

from pvae.errors import InputError
from pvae.names import unknown
from pvae.programs.sites import Site, base_distribution
from pvae.weights import LogWeights
from pvae.weights.auxiliary import Marginal
from pvae.weights.enumeration import ENUMERATE, SUMMED, support_size
from pvae.weights.handlers import ChooseStrategy, sum_marked

__all__ = [
    "BIASED",
    "BRANCHING",
    "STRATEGIES",
    "Gradients",
    "WeightsOptions",
    "admissible",
    "enumerating_guide",
    "format_gradients",
    "parse_gradients",
    "require_matches",
    "require_pathwise",
    "strategy_chooser",
]

#: strategies by site name or glob, as a mapping or as text
Gradients = Mapping[str, str] | str | tuple[str, ...] | None

LEAVE_ONE_OUT = "score:leave-one-out"

#: a one-line description of each strategy, by its name
STRATEGIES: dict[str, str] = {
    "pathwise": "differentiates through the draw; for Normal and all other reparameterised distributions",
    "score": "score function: the gradient of log q at a fixed draw times the bound",
    LEAVE_ONE_OUT: "score with a baseline from the other particles (VIMCO; RLOO for means over particles)",
    "enumerate": "the exact expectation over all values of a finite support",
    "measure": "measure-valued derivative: differences of the bound at coupled draws, one coordinate at a time",
    "disarm": "difference of the bound at one antithetic pair for all coordinates of a Bernoulli site",
    "arm": "like disarm, but given the uniform draw instead of its mean, with more variance",
    "concrete": "biased: a continuous relaxation at temperature 2/3",
    "straight-through": "biased: the derivative of the mean replaces that of the draw",
}
BIASED = ("concrete", "straight-through")
BRANCHING = ("measure", "disarm", "arm")
_WITH_MEASURE_VALUED_DERIVATIVE = (
    torch.distributions.Bernoulli,
    torch.distributions.Categorical,
    torch.distributions.OneHotCategorical,
    torch.distributions.Normal,
    torch.distributions.Poisson,
    torch.distributions.Gamma,
)
_ALIASES = {"leave-one-out": LEAVE_ONE_OUT, "score-leave-one-out": LEAVE_ONE_OUT, "vimco": LEAVE_ONE_OUT}


class WeightsOptions(TypedDict, total=False):
    """Keyword arguments of every `WeightsObjective`.

    Attributes:
        data_plate: the name of the plate over data, if several plates hold every site.
        gradients: how the gradient of guide sites is estimated, by site name or glob: ``{"z_*": "measure"}``, or as
            text ``"z_*=measure+c=enumerate"``. It has precedence over a program's ``infer={"gradient": ...}``; see
            `pvae.objectives.STRATEGIES`.
        auxiliary: a `pvae.Marginal` that defines how guide sites marked ``infer={"is_auxiliary": True}`` are
            marginalised; None for the exact sum over their values.
    """

    data_plate: str | None
    gradients: Gradients
    auxiliary: Marginal | None


def admissible(site: Site, particles: int = 2) -> tuple[str, ...]:
    """Return the strategies that a guide site can have.

    Args:
        site: a sample site of a guide's trace.
        particles: the number of draws of z per datum; leave-one-out needs two.
    """
    distribution = site["fn"]
    base = base_distribution(distribution)
    strategies = ["pathwise"] if distribution.has_rsample else []
    strategies.append("score")
    if particles > 1:
        strategies.append(LEAVE_ONE_OUT)
    if _has_small_support(site):
        strategies.append("enumerate")
    if isinstance(base, _WITH_MEASURE_VALUED_DERIVATIVE):
        strategies.append("measure")
    if isinstance(base, torch.distributions.Bernoulli):
        strategies += ["disarm", "arm"]
    if isinstance(base, torch.distributions.Bernoulli | torch.distributions.OneHotCategorical):
        strategies += BIASED
    return tuple(strategies)


def _has_small_support(site: Site) -> bool:
    """Return whether all values of a site can be enumerated."""
    try:
        support_size(site["name"], site["fn"])
    except InputError:
        return False
    return True


def parse_gradients(gradients: Gradients) -> dict[str, str]:
    """Return strategies by site name or glob, from a mapping or from text such as ``"z_*=measure"``.

    Args:
        gradients: a mapping, a text, several texts, or None for no strategy.

    Raises:
        InputError: for an unknown strategy (the error names the nearest known one), or text without ``=``.
    """
    if gradients is None:
        return {}
    if not isinstance(gradients, Mapping | str | tuple | list):
        raise InputError(
            "gradients needs a mapping from site to strategy, such as {'z': 'score'}, or text such as 'z=score'; "
            f"got {gradients!r}."
        )
    pairs = list(gradients.items()) if isinstance(gradients, Mapping) else _parse_pairs(gradients)
    return {glob: _known_strategy(strategy) for glob, strategy in pairs}


def format_gradients(gradients: Mapping[str, str]) -> str:
    """Return strategies by site as text that `parse_gradients` reads, without colons and commas."""
    return "+".join(f"{site}={strategy.removeprefix('score:')}" for site, strategy in gradients.items())


def _parse_pairs(gradients: str | tuple[str, ...]) -> list[tuple[str, str]]:
    """Return the pairs of a site and a strategy in texts that are joined by plus signs or commas."""
    pairs = []
    for text in [gradients] if isinstance(gradients, str) else gradients:
        pairs += [_parse_pair(part) for part in text.replace(",", "+").split("+") if part.strip()]
    return pairs


def _parse_pair(text: str) -> tuple[str, str]:
    glob, separator, strategy = text.partition("=")
    if not separator or not glob.strip():
        raise InputError(f"gradients needs texts of the form site=strategy, such as z_pres_*=measure; got {text!r}.")
    return glob.strip(), strategy.strip()


def _known_strategy(strategy: Any) -> str:
    name = _ALIASES.get(strategy, strategy)
    if name not in STRATEGIES:
        raise unknown("gradient strategy", str(strategy), STRATEGIES)
    return str(name)


def strategy_chooser(gradients: Mapping[str, str], particles: int, without_pathwise: str | None) -> ChooseStrategy:
    """Return the function that gives each site its strategy.

    A site has the strategy of `gradients`, else the one that the program asks for, else a default by its distribution.

    Args:
        gradients: strategies by site name or glob; the first match counts.
        particles: the number of draws of z per datum.
        without_pathwise: the default strategy of sites that cannot be reparameterised; None for the score,
            leave-one-out if there are several particles.
    """
    default = without_pathwise or (LEAVE_ONE_OUT if particles > 1 else "score")

    def choose(site: Site) -> str:
        name = site["name"]
        if site["infer"].get("_in_model"):  # only the guide's sites have a strategy
            return sum_marked(site, "pathwise")
        matches = (strategy for glob, strategy in gradients.items() if _is_match(name, glob)) if gradients else ()
        of_objective = next(iter(matches), None)
        strategy = of_objective or site["infer"].get("gradient")
        if strategy is None:
            return sum_marked(site, "pathwise" if site["fn"].has_rsample else default)
        if of_objective is None and strategy in BIASED:
            raise InputError(
                f"A biased gradient needs the objective's setting, so that tables show it; site {name!r} asks for "
                f"{strategy!r}, which is biased, in the program. Give the objective "
                f"gradients={{{name!r}: {strategy!r}}} instead."
            )
        return _admissible_strategy(site, _known_strategy(strategy), particles)

    return choose


def enumerating_guide(choose: ChooseStrategy) -> ChooseStrategy:
    """Return a function that enumerates the guide's sites that another function sums out.

    The terms of enumerated sites keep a dimension for each outcome, so that parts of the bound can be read separately.

    Args:
        choose: the function that gives each site its strategy.
    """

    def choose_enumeration(site: Site) -> str:
        strategy = choose(site)
        return ENUMERATE if strategy == SUMMED and not site["infer"].get("_in_model") else strategy

    return choose_enumeration


def _is_match(name: str, glob: str) -> bool:
    """Return whether a glob matches a site. Brackets in a glob mean a set of characters, so equal names match too."""
    return name == glob or fnmatchcase(name, glob)


def _admissible_strategy(site: Site, strategy: str, particles: int) -> str:
    """Return the strategy if the site can have it.

    Raises:
        InputError: if it cannot, with the strategies that it can have.
    """
    if strategy == LEAVE_ONE_OUT and particles < 2:
        raise InputError(
            f"The gradient {LEAVE_ONE_OUT!r} of site {site['name']!r} needs a baseline from the other particles; there "
            "is one particle. Use particles=2 or more, or 'score'."
        )
    if strategy == "enumerate":
        support_size(site["name"], site["fn"])  # raises with the reason
    elif strategy not in admissible(site, particles):
        raise InputError(
            f"Site {site['name']!r} cannot have the gradient {strategy!r}; it is a "
            f"{type(base_distribution(site['fn'])).__name__}. It can have {', '.join(admissible(site, particles))}."
        )
    return strategy


def require_matches(gradients: Mapping[str, str], strategies: Mapping[str, str]) -> None:
    """Refuse a name or glob of `gradients` that matches no guide site.

    Args:
        gradients: strategies by site name or glob.
        strategies: the strategy of each guide site, by its name.

    Raises:
        InputError: with the names of the guide's sites.
    """
    for glob in gradients:
        if not any(_is_match(site, glob) for site in strategies):
            raise InputError(
                f"gradients needs names or globs of guide sites; no guide site matches {glob!r}. Use one of "
                f"{', '.join(strategies)}."
            )


def require_pathwise(objective: str, weights: LogWeights) -> None:
    """Refuse sites without a pathwise gradient, for an objective with a surrogate that is wrong for them.

    Args:
        objective: the name of the objective, for the error.
        weights: the weights of a batch, with the strategy of each site.

    Raises:
        InputError: with the names of the sites, and the objective to use instead.
    """
    summed = [site for site, strategy in weights.strategies.items() if strategy == SUMMED]
    wrong = [site for site in weights.not_reparameterised if site not in summed]
    if wrong:
        raise InputError(
            f"{objective} needs reparameterised guide sites; {', '.join(map(repr, wrong))} cannot be reparameterised, "
            "so the gradient for the guide would be wrong. Use 'vimco' or 'iwae' for a multi-sample bound, 'reinforce' "
            "or 'elbo-graph' for the ELBO, or 'elbo-enum' for discrete sites marked for enumeration."
        )
    for site, strategy in weights.strategies.items():
        if strategy not in ("pathwise", SUMMED, *BIASED):
            raise InputError(
                f"{objective} needs pathwise gradients; site {site!r} asks for {strategy!r}. Use 'iwae', 'renyi' or "
                "'reinforce', which take any strategy."
            )
