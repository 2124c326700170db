"""`ConstantDraws`: random operations return constants, so that no datum depends on the draws for other data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pvae.errors import InputError

__all__ = ["ConstantDraws"]

#: The constants of uniform, standard normal and exponential draws.
_UNIFORM, _NORMAL, _EXPONENTIAL = 0.37, 0.3, 0.7


def _uniform(out: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
    return out.fill_(low + _UNIFORM * (high - low))


def _normal(mean: Any, std: Any = 1.0, size: Any = None) -> Tensor:
    if size is not None:
        return torch.full(size, mean + _NORMAL * std)
    return mean + _NORMAL * torch.as_tensor(std)


def _bernoulli(p: Tensor, *_: Any) -> Tensor:
    return (p > _UNIFORM).to(p.dtype)


def _bernoulli_in_place(out: Tensor, p: Any = 0.5) -> Tensor:
    return out.copy_(torch.as_tensor(p, device=out.device) > _UNIFORM)


def _multinomial(weights: Tensor, count: int, *_: Any) -> Tensor:
    return weights.topk(1, -1).indices.expand(*weights.shape[:-1], count).clone()


#: operation of torch -> function that returns a constant in its place
_REPLACEMENTS: Mapping[str, Callable[..., Any]] = {
    "normal_": lambda out, mean=0.0, std=1.0: out.fill_(mean + _NORMAL * std),
    "normal": _normal,
    "uniform_": _uniform,
    "bernoulli": _bernoulli,
    "bernoulli_": _bernoulli_in_place,
    "exponential_": lambda out, rate=1.0: out.fill_(_EXPONENTIAL / rate),
    "geometric_": lambda out, p: out.fill_(1.0),
    "cauchy_": lambda out, median=0.0, sigma=1.0: out.fill_(median + _NORMAL * sigma),
    "poisson": lambda rate: rate.round(),
    "binomial": lambda count, p: (count * p).round(),
    "_standard_gamma": lambda concentration: concentration.clone(),
    "_sample_dirichlet": lambda concentration: concentration / concentration.sum(-1, keepdim=True),
    "multinomial": _multinomial,
}
#: operations that make a new tensor -> the constant that fills it
_FILLED = {"rand": _UNIFORM, "rand_like": _UNIFORM, "randn": _NORMAL, "randn_like": _NORMAL}


class ConstantDraws(TorchDispatchMode):
    """Inside this context, each random operation of torch returns the same constant for each datum.

    Raises:
        InputError: for a random operation for which there is no constant; for permutations, which mix data.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Return the result of an operation, or a constant in its place."""
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        name = func.overloadpacket.__name__
        if name in _FILLED:
            return func(*args, **kwargs).fill_(_FILLED[name])
        if name not in _REPLACEMENTS:
            raise InputError(f"it draws random numbers by torch.{name}")
        return _REPLACEMENTS[name](*args, **{key: value for key, value in kwargs.items() if key != "generator"})
