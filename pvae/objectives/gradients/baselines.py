"""Baselines: numbers that are subtracted from a learning signal without changing the mean of the gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pvae.errors import InputError
from pvae.programs.sites import Site, base_distribution
from pvae.weights import LogWeights

__all__ = [
    "baseline_input",
    "checked_decay",
    "coordinate_scores",
    "gradient_only",
    "kind_and_network",
    "leave_one_out_mean",
    "optimal_baseline",
]


def leave_one_out_mean(values: Tensor) -> Tensor:
    """Return for each entry along the first dimension the mean of all other entries.

    Args:
        values: shape (entries, ...), at least 2 entries.

    Returns:
        Shape (entries, ...).
    """
    return (values.sum(0) - values) / (len(values) - 1)


def gradient_only(tensor: Tensor) -> Tensor:
    """Return zeros with the gradient of `tensor`, in its shape."""
    return tensor - tensor.detach()


def optimal_baseline(signals: Tensor, squared_scores: Tensor) -> Tensor:
    """Return c* = E[s^2 log_w] / E[s^2], estimated from the other particles.

    A particle's own draw is left out, because a baseline must not depend on it.

    Args:
        signals: log_w, shape (particles, batch), nats.
        squared_scores: squared scores s^2, shape (particles, batch, coordinates).

    Returns:
        Shape (particles, batch, coordinates), nats; 0 if the scores of all other particles are 0.

    Source: Ranganath, Gerrish & Blei, Black Box Variational Inference, arXiv:1401.0118, equation 9.
    """
    weighted = (squared_scores * signals.unsqueeze(-1)).sum(0) - squared_scores * signals.unsqueeze(-1)
    total = squared_scores.sum(0) - squared_scores
    smallest = torch.finfo(total.dtype).tiny
    return torch.where(total > 0, weighted / total.clamp_min(smallest), torch.zeros_like(total))


def kind_and_network(baseline: Any) -> tuple[Any, nn.Module | None]:
    """Return the kind of a baseline, and its network; None for another kind than ``"network"``.

    Args:
        baseline: the kind, or a network. The kind ``"network"`` makes a network from x to one number per datum; its
            input size is found at the first call.
    """
    if isinstance(baseline, nn.Module):
        return "network", baseline
    if baseline == "network":
        return baseline, nn.Sequential(nn.LazyLinear(100), nn.Tanh(), nn.LazyLinear(1))
    return baseline, None


def baseline_input(network: nn.Module, args: tuple[Any, ...]) -> Tensor:
    """Return the input of a baseline network: x, the first tensor among the arguments of the programs.

    Args:
        network: the baseline network; the input gets the data type of its parameters.
        args: the positional arguments of the programs.

    Returns:
        Shape (batch, features).

    Raises:
        InputError: if no argument is a tensor.
    """
    x = next((argument for argument in args if isinstance(argument, Tensor)), None)
    if x is None:
        raise InputError(
            "A baseline network needs x as a positional argument of the programs; no argument is a tensor. Pass x "
            "first, or use another baseline."
        )
    return x.reshape(len(x), -1).to(next(iter(network.parameters())).dtype)


def checked_decay(decay: float) -> float:
    """Return the decay of a moving average.

    Raises:
        InputError: if it is not between 0 and 1.
    """
    if not 0.0 < decay < 1.0:
        raise InputError(f"decay must be between 0 and 1; got {decay!r}.")
    return decay


def coordinate_scores(weights: LogWeights) -> tuple[Tensor, Tensor]:
    """Return the scores of q's own parameters (logits, loc, scale, ...) at score-function sites, and these parameters.

    Args:
        weights: the weights of a batch, from one run for all particles.

    Returns:
        Two tensors of shape (particles, batch, coordinates): the derivative of log q(z given x) with respect to its
        parameters, without gradient; and the parameters, with their gradient.

    Raises:
        InputError: if a distribution cannot be rebuilt from its parameters, or a site is enumerated.
    """
    enumerated = weights.only_source().pairs[0].dims.sites
    if enumerated:
        raise InputError(
            f"The optimal baseline needs programs without enumerated sites; {enumerated[0].name!r} is enumerated. Use "
            "the baseline 'leave-one-out'."
        )
    sites = weights.guide_sites()
    names = [name for name, strategy in weights.strategies.items() if strategy == "score" and name in sites]
    pairs = [pair for name in names for pair in _scores_of_site(weights, sites[name])]
    scores = [score for score, _ in pairs]
    parameters = [parameter for _, parameter in pairs]
    return torch.cat(scores, -1), torch.cat(parameters, -1)


def _scores_of_site(weights: LogWeights, site: Site) -> list[tuple[Tensor, Tensor]]:
    """Return the score and the value of each parameter of a site, each of shape (particles, batch, coordinates)."""
    base = base_distribution(site["fn"])
    value: Tensor = site["value"].detach()
    batch = value.shape[: value.dim() - len(base.event_shape)]
    parameters = {name: _expand_to_draws(getattr(base, name), base, batch) for name in _parameter_names(base)}
    leaves = {name: parameter.detach().clone().requires_grad_() for name, parameter in parameters.items()}
    with torch.enable_grad():
        log_q = _rebuild(site["name"], base, leaves).log_prob(value)
        scores = torch.autograd.grad(log_q.sum(), list(leaves.values()), allow_unused=True)
    plates = value.dim() - site["fn"].event_dim
    pairs = []
    for score, parameter in zip(scores, parameters.values(), strict=True):
        if score is not None:
            pairs.append((_by_coordinate(weights, score, plates), _by_coordinate(weights, parameter, plates)))
    return pairs


def _parameter_names(base: Any) -> list[str]:
    """Return the names of the parameters that a distribution stores, else of those that it can compute.

    OneHotCategorical and Beta store none.
    """
    names = [name for name in base.arg_constraints if name in vars(base)] or list(base.arg_constraints)
    # PyTorch stores the parameter that the program gave, and computes and stores the other one at its first use.
    if {"probs", "logits"} <= set(names):
        names.remove("probs")
    return names


def _rebuild(site: str, base: Any, parameters: dict[str, Tensor]) -> Any:
    try:
        return type(base)(**parameters, validate_args=False)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"The optimal baseline needs the score of each parameter; site {site!r} is a {type(base).__name__}, which "
            "cannot be rebuilt from its parameters. Use the baseline 'leave-one-out'."
        ) from error


def _expand_to_draws(parameter: Tensor, base: Any, batch: torch.Size) -> Tensor:
    """Return a parameter expanded to shape (*batch, *inner), so that each draw has its own score."""
    inner = parameter.shape[len(base.batch_shape) :] if parameter.dim() >= len(base.batch_shape) else ()
    return parameter.expand(*batch, *inner)


def _by_coordinate(weights: LogWeights, tensor: Tensor, plates: int) -> Tensor:
    """Return a tensor of a site as (particles, batch, coordinates).

    Args:
        weights: the weights, which know the dimensions of particles and data.
        tensor: shape (*plates, ...); the dimension of the particles and outer plates may be missing.
        plates: the number of plate dimensions of the tensor.
    """
    dims = weights.only_source().dims
    missing = 1 + dims.nesting - plates
    padded = tensor.reshape((1,) * missing + tuple(tensor.shape)) if missing > 0 else tensor
    moved = padded.movedim(1 + dims.nesting + dims.data_dim, 1)
    return moved.flatten(2) if moved.dim() > 2 else moved.unsqueeze(-1)
