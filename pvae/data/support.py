"""The check that values lie in the support of a distribution, such as data in the support of a likelihood."""

from __future__ import annotations

import math
import re
from typing import Any

from torch import Tensor

from pvae.errors import InputError

__all__ = ["check_support"]

_MOST_LEVELS = 256
_INTERVAL = re.compile(r"(Integer)?Interval\(lower_bound=([-\d.e]+), upper_bound=([-\d.e]+)\)")
#: the name of the distribution of a time step, which leaves out sequences that have ended
_PADDED = "PaddedStep"
_WRAPPERS = frozenset({"Completion", "Independent", "ExpandedDistribution", "MaskedDistribution", _PADDED})


def check_support(name: str, x: Tensor, distribution: Any) -> None:
    """Check that values lie in the support of the distribution that scores them.

    Args:
        name: name of the values for the message, such as the name of the site.
        x: the values, in the shape of the distribution or a shape that broadcasts with it.
        distribution: a distribution of PyTorch or Pyro. One that does not define its support accepts all values.

    Raises:
        InputError: if a value is outside the support; the message gives the support, the range of the values, the
            position of the first such value, and the likelihoods that fit.
    """
    inner = _unwrapped(distribution)
    try:
        support = inner.support
    except (AttributeError, NotImplementedError):
        return  # the distribution does not define its support
    while hasattr(support, "base_constraint"):  # of an event: its values are checked one by one
        support = support.base_constraint
    inside = support.check(x)
    present = distribution.present if type(distribution).__name__ == _PADDED else None
    if present is not None:  # padding may have any value
        inside = inside | ~present.reshape(present.shape + (1,) * (inside.dim() - present.dim()))
    if inside.all():
        return
    first = (~inside).nonzero()[0].tolist()
    words = _support_words(support)
    x = x if present is None else x[present]
    raise InputError(
        f"{type(inner).__name__} needs {name} in {words}; got values from {x.min():.3g} to {x.max():.3g}, "
        f"{int((~inside).sum())} of {inside.numel()} outside, the first at {first}. {_advice(words, x)}"
    )


def _unwrapped(distribution: Any) -> Any:
    # The classes are compared by name, because this folder does not import Pyro.
    while type(distribution).__name__ in _WRAPPERS:
        distribution = distribution.base_dist
    return distribution


def _support_words(support: Any) -> str:
    # Bounds may be tensors, whose text has several lines.
    words = " ".join(str(support).split())
    if match := _INTERVAL.fullmatch(words):
        low, high = (f"{float(bound):g}" for bound in match.groups()[1:])
        return f"{{{low}, ..., {high}}}" if match[1] else f"[{low}, {high}]"
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
    """Return the likelihoods with a support that contains x, by their names on the command line."""
    if not ((x >= 0) & (x < math.inf)).all():
        return "gaussian"
    if (x == x.round()).all():
        classes = int(x.max()) + 1
        return "bernoulli" if classes <= 2 else f"poisson or negative-binomial (counts), categorical:classes={classes}"
    if (x > 1).any():
        return "gaussian"
    levels = next((count for count in range(3, _MOST_LEVELS + 1) if _on_grid(x, count)), None)
    discrete = "" if levels is None else f"discretised-logistic:levels={levels}, "
    return f"{discrete}continuous-bernoulli or gaussian"


def _on_grid(x: Tensor, levels: int) -> bool:
    steps = x * (levels - 1)
    return bool(((steps - steps.round()).abs() < 0.01).all())
