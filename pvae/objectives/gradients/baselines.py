"""What may be taken off a learning signal without moving the mean of a score-function gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pvae.errors import InputError
from pvae.programs.sites import Site, base_distribution
from pvae.weights import LogWeights

__all__ = ["checked_decay", "coordinate_scores", "new_network", "optimal", "others", "seen_by", "zero"]


def others(numbers: Tensor) -> Tensor:
    """Return the mean of all entries along the first dimension but each itself."""
    return (numbers.sum(0) - numbers) / (len(numbers) - 1)


def optimal(signals: Tensor, squares: Tensor) -> Tensor:
    """Return c* = E[s^2 log_w] / E[s^2] from the other particles, so that it does not depend on a particle's own draw.

    Args:
        signals: log_w, shape (particles, batch), nats.
        squares: squared scores, shape (particles, batch, coordinates).

    Returns:
        Shape (particles, batch, coordinates), nats; 0 where all the others' scores are 0.
    Source: Ranganath, Gerrish & Blei, Black Box Variational Inference, arXiv:1401.0118, equation 9.
    """
    weighted = (squares * signals.unsqueeze(-1)).sum(0) - squares * signals.unsqueeze(-1)
    total = squares.sum(0) - squares
    return torch.where(total > 0, weighted / total.clamp_min(torch.finfo(total.dtype).tiny), torch.zeros_like(total))


def zero(handle: Tensor) -> Tensor:
    """Return zeros with the gradient of a tensor."""
    return handle - handle.detach()


def new_network() -> nn.Module:
    """Return a network from x to one number per datum, whose sizes are found at its first use."""
    return nn.Sequential(nn.LazyLinear(100), nn.Tanh(), nn.LazyLinear(1))


def seen_by(network: nn.Module, args: tuple[Any, ...]) -> Tensor:
    """Return what a baseline network is given: x, the first tensor of the programs' arguments, a row for each datum.

    Raises:
        InputError: if there is none.
    """
    x = next((each for each in args if isinstance(each, Tensor)), None)
    if x is None:
        raise InputError("A baseline network needs x, the first argument of the programs.")
    return x.reshape(len(x), -1).to(next(iter(network.parameters())).dtype)


def checked_decay(decay: float) -> float:
    """Return the decay of a running average.

    Raises:
        InputError: if it does not lie between 0 and 1.
    """
    if not 0.0 < decay < 1.0:
        raise InputError(f"decay must lie between 0 and 1; got {decay!r}.")
    return decay


def coordinate_scores(weights: LogWeights) -> tuple[Tensor, Tensor]:
    """Return the scores of q's own parameters (logits, loc, scale, ...) at score-function sites, and those parameters.

    Returns:
        Both of shape (particles, batch, coordinates): the derivative of log q(z given x) in its parameters, without
        gradient, and the parameters, attached.

    Raises:
        InputError: if a distribution cannot be rebuilt from its parameters, or sites are enumerated.
    """
    summed = weights.only_source().pairs[0].dims.sites
    if summed:
        raise InputError(
            f"The optimal baseline is for programs without enumerated sites, and {summed[0][0]!r} is one: use "
            "'leave-one-out'."
        )
    sites = weights.guide_sites()
    scored = [sites[name] for name, each in weights.strategies.items() if each == "score" and name in sites]
    return _joined([pair for site in scored for pair in _of_site(weights, site)])


def _joined(pairs: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    scores, parameters = zip(*pairs, strict=True)
    return torch.cat(scores, -1), torch.cat(parameters, -1)


def _of_site(weights: LogWeights, site: Site) -> list[tuple[Tensor, Tensor]]:
    base = base_distribution(site["fn"])
    value: Tensor = site["value"].detach()
    batch = value.shape[: value.dim() - len(base.event_shape)]
    parameters = {name: _wide(getattr(base, name), base, batch) for name in _parameters(base)}
    leaves = {name: each.detach().clone().requires_grad_() for name, each in parameters.items()}
    with torch.enable_grad():
        log_q = _rebuilt(site["name"], base, leaves).log_prob(value)
        found = torch.autograd.grad(log_q.sum(), list(leaves.values()), allow_unused=True)
    plates = value.dim() - site["fn"].event_dim
    return [
        (_cells(weights, gradient, plates), _cells(weights, parameter, plates))
        for gradient, parameter in zip(found, parameters.values(), strict=True)
        if gradient is not None
    ]


def _parameters(base: Any) -> list[str]:
    """The names of a distribution's parameters: those it keeps, else those it can tell (OneHotCategorical, Beta)."""
    given = [name for name in base.arg_constraints if name in vars(base)] or list(base.arg_constraints)
    if {"probs", "logits"} <= set(given):  # torch keeps the one that was given, and the other once it was asked for
        given.remove("probs")
    return given


def _rebuilt(name: str, base: Any, parameters: dict[str, Tensor]) -> Any:
    try:
        return type(base)(**parameters, validate_args=False)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"Site {name!r}: the optimal baseline needs the score of each parameter, and {type(base).__name__} cannot "
            "be rebuilt from its parameters. Use 'leave-one-out'."
        ) from error


def _wide(parameter: Tensor, base: Any, batch: torch.Size) -> Tensor:
    """A parameter for every draw: the scores of particles that share it are told apart."""
    inner = parameter.shape[len(base.batch_shape) :] if parameter.dim() >= len(base.batch_shape) else ()
    return parameter.expand(*batch, *inner)


def _cells(weights: LogWeights, tensor: Tensor, plates: int) -> Tensor:
    """Coordinates of a site in shape (particles, batch, coordinates)."""
    dims = weights.only_source().dims
    missing = 1 + dims.nesting - plates
    wide = tensor.reshape((1,) * missing + tuple(tensor.shape)) if missing > 0 else tensor
    moved = wide.movedim(1 + dims.nesting + dims.data_dim, 1)
    return moved.flatten(2) if moved.dim() > 2 else moved.unsqueeze(-1)
