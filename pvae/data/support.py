"""The check that values lie in the support of a distribution, such as data in the support of a likelihood."""

from __future__ import annotations

import math
import re
from typing import Any

import torch
from torch import Tensor

from pvae.errors import InputError

__all__ = ["check_support", "value_inside"]

_MOST_LEVELS = 256
_INTERVAL = re.compile(r"(Integer)?Interval\(lower_bound=([-\d.e]+), upper_bound=([-\d.e]+)\)")
#: the name of the distribution of a time step, which leaves out sequences that have ended
_PADDED = "PaddedStep"
_WRAPPERS = frozenset({"Completion", "Independent", "ExpandedDistribution", "MaskedDistribution", _PADDED})


def check_support(name: str, x: Tensor, distribution: Any, mask: Tensor | None = None) -> None:
    """Check that values lie in the support of the distribution that scores them.

    Args:
        name: name of the values for the message, such as the name of the site.
        x: the values, in the shape of the distribution or a shape that broadcasts with it.
        distribution: a distribution of PyTorch or Pyro. One that does not define its support accepts all values.
        mask: True where the log-density counts; it broadcasts to the batch and event shape of the distribution. None if
            every value counts.

    Raises:
        InputError: if a value is outside the support; the message gives the support, the range of the values, the
            position of the first such value, and the likelihoods that fit. If only values that do not count are
            outside, it gives a value that can be put in their place.
    """
    inner = _unwrapped(distribution)
    support = _support_of(inner)
    if support is None:
        return
    inside = support.check(x)
    present = distribution.present if type(distribution).__name__ == _PADDED else None
    if present is not None:  # padding may have any value
        inside = inside | ~present.reshape(present.shape + (1,) * (inside.dim() - present.dim()))
    if inside.all():
        return
    words = _support_words(support)
    counts = torch.ones_like(inside) if mask is None else _like_check(mask, support, inside)
    if bool((inside | ~counts).all()):
        raise InputError(_masked_outside(f"{type(inner).__name__} needs {name} in {words}", inside, support))
    inside = inside | ~counts
    first = (~inside).nonzero()[0].tolist()
    x = x if present is None else x[present]
    x = x if x.shape != counts.shape else x[counts]
    raise InputError(
        f"{type(inner).__name__} needs {name} in {words}; got values from {x.min():.3g} to {x.max():.3g}, "
        f"{int((~inside).sum())} of {inside.numel()} outside, the first at {first}. {_advice(words, x)}"
    )


def _like_check(mask: Tensor, support: Any, inside: Tensor) -> Tensor:
    """Return a mask of the batch and event shape in the shape in which a support checks values."""
    for _ in range(min(support.event_dim, mask.dim())):
        mask = mask.squeeze(-1)
    return mask.to(inside.device).expand(inside.shape)


def _masked_outside(needed: str, inside: Tensor, support: Any) -> str:
    value = torch.as_tensor(_value_inside(support))
    example = f"{float(value):g}" if value.dim() == 0 else "value"
    return (
        f"{needed}; {int((~inside).sum())} of {inside.numel()} values lie outside, the first at "
        f"{(~inside).nonzero()[0].tolist()}. A mask leaves them out, but their log-density is computed, and its "
        "gradients need not be finite. Put a value of the support in their place in the model, as by "
        f"torch.where(mask > 0, x, {example})."
    )


def value_inside(distribution: Any) -> Tensor | float:
    """Return a value in the support of a distribution, for entries that do not count; 0 where it lies in the support.

    The log-density there is finite, which it need not be at the bounds of the support.

    Args:
        distribution: a distribution of PyTorch or Pyro; 0 if it does not define its support.

    Returns:
        A number; or a tensor that broadcasts to the batch shape of the innermost distribution, if the bounds differ.
    """
    support = _support_of(_unwrapped(distribution))
    return 0.0 if support is None else _value_inside(support)


def _value_inside(support: Any) -> Tensor | float:
    bounds = vars(support)
    low, high = (
        bound.detach() if isinstance(bound, Tensor) else bound
        for bound in (bounds.get("lower_bound"), bounds.get("upper_bound"))
    )
    if low is None and high is None:
        return 0.0
    if support.is_discrete:
        return high if low is None else low
    if low is None:
        return _one_bound(high, torch.amin) - 1
    return _one_bound(low, torch.amax) + 1 if high is None else (low + high) / 2


def _one_bound(bound: Any, choose: Any) -> Any:
    """Return one bound for all entries, so that a value inside has no shape of its own."""
    return choose(bound) if isinstance(bound, Tensor) else bound


def _support_of(distribution: Any) -> Any:
    """Return the support of a single value of a distribution; None if the distribution does not define it."""
    try:
        support = distribution.support
    except (AttributeError, NotImplementedError):
        return None
    while hasattr(support, "base_constraint"):  # of an event: its values are checked one by one
        support = support.base_constraint
    return support


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
    if "tensor(" in words:
        ends = {name: torch.as_tensor(bound) for name, bound in vars(support).items() if name.endswith("_bound")}
        return f"{type(support).__name__.strip('_')}({', '.join(_range(*end) for end in ends.items())})"
    return {"Boolean()": "{0, 1}", "IntegerGreaterThan(lower_bound=0)": "{0, 1, 2, ...}"}.get(words, words[:80])


def _range(name: str, bound: Tensor) -> str:
    low, high = float(bound.min()), float(bound.max())
    return f"{name}={low:g}" if low == high else f"{name} from {low:g} to {high:g}"


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
