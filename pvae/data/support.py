"""Data against a likelihood's support, where a likelihood is known."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pvae.errors import InputError

__all__ = ["check_support"]

_WRAPPERS = frozenset({"Independent", "ExpandedDistribution", "MaskedDistribution"})


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
    return "{0, 1}" if words == "Boolean()" else words[:80]


def _advice(words: str, x: Tensor) -> str:
    if words == "{0, 1}" and x.min() >= 0 and x.max() <= 1:
        return "Binarise the data (binarise='static' or 'dynamic'), or use a Gaussian likelihood."
    if words == "{0, 1}":
        return "Rescale the data to [0, 1] and binarise them, or use a Gaussian likelihood."
    return "Transform the data into the support, or use a likelihood whose support holds them."
