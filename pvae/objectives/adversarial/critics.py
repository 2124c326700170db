"""Critics: networks that tell draws of q from draws of p, their losses, and what these say of the two."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.nn.utils.parametrizations import spectral_norm

__all__ = ["LOSSES", "CriticLoss", "gradient_penalty", "held_still", "new_critic"]

_SLOPE = 0.2  # of the leaky rectifiers, for negative inputs: Radford et al., arXiv:1511.06434


@dataclass(frozen=True)
class CriticLoss:
    """How a critic is trained, how it is fooled, and what its outputs say. Class 1 is q, class 0 is p.

    All functions are of the critic's output a number each, of any shape.

    Attributes:
        on_q: what the critic pays at a draw of q.
        on_p: what the critic pays at a draw of p.
        fool_q: what a draw of q pays for being told as one.
        fool_p: what a draw of p pays for being told as one.
        divergence: the name of what `implied` estimates.
        implied: from what the critic pays at a draw of q and at one of p to that divergence between the two.
        log_ratio: from the output to log q - log p, nats; None where it says nothing of it.
    """

    on_q: Callable[[Tensor], Tensor]
    on_p: Callable[[Tensor], Tensor]
    fool_q: Callable[[Tensor], Tensor]
    fool_p: Callable[[Tensor], Tensor]
    divergence: str
    implied: Callable[[Tensor], Tensor]
    log_ratio: Callable[[Tensor], Tensor] | None


def _as_it_is(output: Tensor) -> Tensor:
    return output


def _negative(output: Tensor) -> Tensor:
    return -output


def _not_q(output: Tensor) -> Tensor:
    """-log D, where D = sigmoid(output) is the probability of q."""
    return softplus(-output)


def _not_p(output: Tensor) -> Tensor:
    """-log(1 - D)."""
    return softplus(output)


def _far_from_one(output: Tensor) -> Tensor:
    return 0.5 * (output - 1.0) ** 2


def _far_from_zero(output: Tensor) -> Tensor:
    return 0.5 * output**2


def _jensen_shannon(paid: Tensor) -> Tensor:
    """The value of the game is V = -paid = -2 log 2 + 2 JS at the best critic, and never above that."""
    return math.log(2.0) - 0.5 * paid


def _le_cam(paid: Tensor) -> Tensor:
    """The best critic is q / (q + p), where the payment is 1/2 E q p / (q + p): a quarter of 1 - Le Cam's distance."""
    return 1.0 - 4.0 * paid


def _logit(output: Tensor) -> Tensor:
    """The log ratio that a critic at q / (q + p) tells; an output outside 0 to 1 is taken as the nearest inside."""
    room = torch.finfo(output.dtype).eps
    return torch.logit(output, eps=room)


def _opposed(output: Tensor) -> Tensor:
    return -softplus(-output)


def _opposed_p(output: Tensor) -> Tensor:
    return -softplus(output)


#: command-line name -> the loss
LOSSES: dict[str, CriticLoss] = {
    "non-saturating": CriticLoss(_not_q, _not_p, _not_p, _not_q, "jensen_shannon", _jensen_shannon, _as_it_is),
    "minimax": CriticLoss(_not_q, _not_p, _opposed, _opposed_p, "jensen_shannon", _jensen_shannon, _as_it_is),
    "least-squares": CriticLoss(
        _far_from_one, _far_from_zero, _far_from_zero, _far_from_one, "le_cam", _le_cam, _logit
    ),
    "wasserstein": CriticLoss(_negative, _as_it_is, _as_it_is, _negative, "wasserstein", _negative, None),
}


def new_critic(features: int, hidden: Sequence[int], spectral: bool) -> nn.Module:
    """Return a multilayer perceptron with leaky rectifiers, shape (batch, features) to (batch, 1).

    Args:
        features: numbers of one datum.
        hidden: sizes of the hidden layers, in order.
        spectral: whether each weight matrix is divided by its largest singular value, so that the critic's slope is at
            most 1; the singular vectors are buffers, which power iteration moves in training alone.
    Source: Miyato et al., Spectral Normalization for Generative Adversarial Networks, arXiv:1802.05957.
    """
    layers: list[nn.Module] = []
    size = features
    for width in (*hidden, 1):
        linear: nn.Module = nn.Linear(size, width)
        layers += [spectral_norm(linear) if spectral else linear, nn.LeakyReLU(_SLOPE)]
        size = width
    return nn.Sequential(*layers[:-1])


@contextmanager
def held_still(critic: nn.Module) -> Iterator[None]:
    """Run a block in which the critic's parameters get no gradient: whoever fools it must not train it."""
    trained = [each for each in critic.parameters() if each.requires_grad]
    try:
        for each in trained:
            each.requires_grad_(False)
        yield
    finally:
        for each in trained:
            each.requires_grad_(True)


def gradient_penalty(critic: Callable[[Tensor], Tensor], q: Tensor, p: Tensor, judged: int) -> Tensor:
    """Return (||slope|| - 1)^2 of the critic between each draw of q and one of p, shape (batch,).

    Args:
        critic: from features to one number per datum, shape (batch,).
        q: features of one side, shape (batch, features), without gradient.
        p: features of the other.
        judged: how many of the features are drawn: those after are conditions, which both sides share.
    Source: Gulrajani et al., Improved Training of Wasserstein GANs, arXiv:1704.00028, section 4.
    """
    train = torch.is_grad_enabled()
    share = torch.rand(len(q), 1, dtype=q.dtype, device=q.device)
    with torch.enable_grad():
        between = (share * q + (1.0 - share) * p).detach().requires_grad_()
        (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=train)
    return (torch.linalg.vector_norm(slope[:, :judged], dim=1) - 1.0) ** 2
