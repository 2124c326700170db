"""Data against a likelihood's support, where a likelihood is known."""

from __future__ import annotations

import math
import re
from typing import Any

from torch import Tensor

from pvae.errors import InputError

__all__ = ["check_support"]

_MOST_LEVELS = 256
_INTERVAL = re.compile(r"(Integer)?Interval\(lower_bound=([-\d.e]+), upper_bound=([-\d.e]+)\)")
_WRAPPERS = frozenset({"Completion", "Independent", "ExpandedDistribution", "MaskedDistribution"})


def check_support(name: str, x: Tensor, distribution: Any) -> None:
    """Raise where values lie outside the support of the distribution that is to score them.

    Args:
        name: what the values are called, such as the site's name.
        x: the values, of the distribution's shape or one that broadcasts with it.
        distribution: a torch or Pyro distribution, as the program gives it.

    Raises:
        InputError: with the support, the range that came, the first place, and what to do.
    """
    inner = _unwrapped(distribution)
    try:
        support = inner.support
    except (AttributeError, NotImplementedError):
        return  # a distribution that does not say its support refuses nothing
    inside = support.check(x)
    if inside.all():
        return
    first = (~inside).nonzero()[0].tolist()
    words = _support_words(support)
    raise InputError(
        f"{type(inner).__name__} needs {name} in {words}; got values from {x.min():.3g} to {x.max():.3g}, "
        f"{int((~inside).sum())} of {inside.numel()} outside, the first at {first}. {_advice(words, x)}"
    )


def _unwrapped(distribution: Any) -> Any:
    # By name, so that the data floor needs no import of Pyro.
    while type(distribution).__name__ in _WRAPPERS:
        distribution = distribution.base_dist
    return distribution


def _support_words(support: Any) -> str:
    # Bounds may be tensors, which print over many lines.
    words = " ".join(str(support).split())
    if found := _INTERVAL.fullmatch(words):
        low, high = (f"{float(bound):g}" for bound in found.groups()[1:])
        return f"{{{low}, ..., {high}}}" if found[1] else f"[{low}, {high}]"
    return {"Boolean()": "{0, 1}", "IntegerGreaterThan(lower_bound=0)": "{0, 1, 2, ...}"}.get(words, words[:80])


def _advice(words: str, x: Tensor) -> str:
    fitting = _fitting(x)
    if words == "{0, 1}" and x.min() >= 0 and x.max() <= 1:
        return f"Binarise the data (binarise='static' or 'dynamic'), or use a likelihood that fits: {fitting}."
    if words == "{0, 1}":
        return f"Rescale the data to [0, 1] and binarise them, or use a likelihood that fits: {fitting}."
    if words.startswith("{0, 1/") and (x == x.round()).all() and x.min() >= 0:
        return f"Divide the data by their largest possible value, or use a likelihood that fits: {fitting}."
    return f"Use a likelihood that fits: {fitting}; or transform the data into the support."


def _fitting(x: Tensor) -> str:
    """The likelihoods, by the names of the command line, whose support holds x."""
    if not ((x >= 0) & (x < math.inf)).all():
        return "gaussian"
    if (x == x.round()).all():
        classes = int(x.max()) + 1
        return "bernoulli" if classes <= 2 else f"poisson or negative-binomial (counts), categorical:classes={classes}"
    if (x > 1).any():
        return "gaussian"
    levels = next((each for each in range(3, _MOST_LEVELS + 1) if _on_grid(x, each)), None)
    discrete = "" if levels is None else f"discretised-logistic:levels={levels}, "
    return f"{discrete}continuous-bernoulli or gaussian"


def _on_grid(x: Tensor, levels: int) -> bool:
    steps = x * (levels - 1)
    return bool(((steps - steps.round()).abs() < 0.01).all())
