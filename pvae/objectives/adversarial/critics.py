"""Critics: networks that classify draws of q and of p, their losses, and the divergences that these estimate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.nn.utils.parametrizations import spectral_norm

from pvae.checks import require_number
from pvae.errors import InputError

__all__ = [
    "LOSSES",
    "CriticLoss",
    "as_output",
    "checked_penalty",
    "frozen_parameters",
    "gradient_penalty",
    "new_critic",
    "require_fitting",
]

#: the slope of the leaky rectifiers for negative inputs: Radford et al., arXiv:1511.06434
_NEGATIVE_SLOPE = 0.2


@dataclass(frozen=True)
class CriticLoss:
    """The losses of a critic and of the programs that it is trained against. Class 1 is q, and class 0 is p.

    All functions map tensors of any shape elementwise.

    Attributes:
        on_q: from the critic's output at a draw of q to the critic's loss.
        on_p: from the critic's output at a draw of p to the critic's loss.
        fool_q: from the critic's output at a draw of q to the loss of the guide, which is high if the critic is right.
        fool_p: from the critic's output at a draw of p to the loss of the model, which is high if the critic is right.
        divergence: the name of the divergence that `implied` estimates.
        implied: from the sum of the critic's losses at a draw of q and at a draw of p to the divergence of q and p.
        log_ratio: from the critic's output to log q - log p, nats; None if the output does not estimate it.
    """

    on_q: Callable[[Tensor], Tensor]
    on_p: Callable[[Tensor], Tensor]
    fool_q: Callable[[Tensor], Tensor]
    fool_p: Callable[[Tensor], Tensor]
    divergence: str
    implied: Callable[[Tensor], Tensor]
    log_ratio: Callable[[Tensor], Tensor] | None


def _identity(output: Tensor) -> Tensor:
    return output


def _negative(output: Tensor) -> Tensor:
    return -output


def _minus_log_q(output: Tensor) -> Tensor:
    """Return -log D, where D = sigmoid(output) is the critic's probability of q."""
    return softplus(-output)


def _minus_log_p(output: Tensor) -> Tensor:
    """Return -log(1 - D), where 1 - D is the critic's probability of p."""
    return softplus(output)


def _log_q(output: Tensor) -> Tensor:
    """Return log D."""
    return -softplus(-output)


def _log_p(output: Tensor) -> Tensor:
    """Return log(1 - D)."""
    return -softplus(output)


def _squared_distance_to_one(output: Tensor) -> Tensor:
    return 0.5 * (output - 1.0) ** 2


def _squared_distance_to_zero(output: Tensor) -> Tensor:
    return 0.5 * output**2


def _jensen_shannon(critic_loss: Tensor) -> Tensor:
    """Return the Jensen-Shannon divergence JS: the loss of the best critic is 2 log 2 - 2 JS, and no loss is lower."""
    return math.log(2.0) - 0.5 * critic_loss


def _le_cam(critic_loss: Tensor) -> Tensor:
    """Return Le Cam's squared distance L.

    The best critic is q / (q + p). Its loss is 1/2 the integral of q p / (q + p), which is (1 - L) / 4.
    """
    return 1.0 - 4.0 * critic_loss


def _logit(output: Tensor) -> Tensor:
    """Return the log ratio of a critic that estimates q / (q + p); outputs are clamped to the interval (0, 1)."""
    smallest = torch.finfo(output.dtype).eps
    return torch.logit(output, eps=smallest)


#: command-line name -> the loss
LOSSES: dict[str, CriticLoss] = {
    "non-saturating": CriticLoss(
        on_q=_minus_log_q,
        on_p=_minus_log_p,
        fool_q=_minus_log_p,
        fool_p=_minus_log_q,
        divergence="jensen_shannon",
        implied=_jensen_shannon,
        log_ratio=_identity,
    ),
    "minimax": CriticLoss(
        on_q=_minus_log_q,
        on_p=_minus_log_p,
        fool_q=_log_q,
        fool_p=_log_p,
        divergence="jensen_shannon",
        implied=_jensen_shannon,
        log_ratio=_identity,
    ),
    "least-squares": CriticLoss(
        on_q=_squared_distance_to_one,
        on_p=_squared_distance_to_zero,
        fool_q=_squared_distance_to_zero,
        fool_p=_squared_distance_to_one,
        divergence="le_cam",
        implied=_le_cam,
        log_ratio=_logit,
    ),
    "wasserstein": CriticLoss(
        on_q=_negative,
        on_p=_identity,
        fool_q=_identity,
        fool_p=_negative,
        divergence="wasserstein",
        implied=_negative,
        log_ratio=None,
    ),
}


def new_critic(features: int, hidden: Sequence[int], spectral: bool) -> nn.Module:
    """Return a multilayer perceptron with leaky rectifiers, shape (batch, features) to (batch, 1).

    Args:
        features: the number of features of a datum.
        hidden: the sizes of the hidden layers, in order.
        spectral: whether each weight matrix is divided by its largest singular value, so that the norm of the critic's
            gradient is at most 1. The singular vectors are buffers; power iteration updates them only in training mode.

    Source: Miyato et al., Spectral Normalization for Generative Adversarial Networks, arXiv:1802.05957.
    """
    layers: list[nn.Module] = []
    size = features
    for width in (*hidden, 1):
        linear: nn.Module = nn.Linear(size, width)
        layers += [spectral_norm(linear) if spectral else linear, nn.LeakyReLU(_NEGATIVE_SLOPE)]
        size = width
    return nn.Sequential(*layers[:-1])


@contextmanager
def frozen_parameters(critic: nn.Module) -> Iterator[None]:
    """Run a block in which the critic's parameters get no gradient, for the update of another parameter group."""
    trainable = [parameter for parameter in critic.parameters() if parameter.requires_grad]
    try:
        for parameter in trainable:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


def gradient_penalty(critic: Callable[[Tensor], Tensor], q: Tensor, p: Tensor, drawn: int) -> Tensor:
    """Return (||gradient|| - 1)^2 of the critic at a random point between each draw of q and one of p, shape (batch,).

    Args:
        critic: from features to one number per datum, shape (batch,).
        q: features of q, shape (batch, features), without gradient.
        p: features of p, shape (batch, features), without gradient.
        drawn: the number of features that are drawn; the others, on the right, are conditions that both sides share.

    Source: Gulrajani et al., Improved Training of Wasserstein GANs, arXiv:1704.00028, section 4.
    """
    is_training = torch.is_grad_enabled()
    share = torch.rand(len(q), 1, dtype=q.dtype, device=q.device)
    with torch.enable_grad():
        between = (share * q + (1.0 - share) * p).detach().requires_grad_()
        (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=is_training)
    return (torch.linalg.vector_norm(gradient[:, :drawn], dim=1) - 1.0) ** 2


def as_output(output: Tensor, rows: int) -> Tensor:
    """Return the output of a critic's network as one number per row, shape (rows,).

    Args:
        output: shape (rows,) or (rows, 1).
        rows: the number of rows that the network got.

    Raises:
        InputError: for another shape.
    """
    if output.shape not in ((rows,), (rows, 1)):
        raise InputError(
            f"A critic needs to return one number per datum, shape ({rows},) or ({rows}, 1); got "
            f"{tuple(output.shape)}. Reshape its output."
        )
    return output.reshape(-1)


def checked_penalty(penalty: float | None, default: float) -> float:
    """Return the weight of a gradient penalty.

    Args:
        penalty: the weight, or None for the default.
        default: the weight if none is given.

    Raises:
        InputError: if it is not a number of at least 0.
    """
    return default if penalty is None else float(require_number(penalty, "penalty", least=0, infinite=True))


def require_fitting(critic: nn.Module | None, loss: str, penalty: float, spectral: bool) -> None:
    """Refuse settings that contradict each other.

    Args:
        critic: a critic of the user, or None.
        loss: a name in `LOSSES`.
        penalty: the weight of the gradient penalty.
        spectral: whether the built-in critic has spectral normalisation.

    Raises:
        InputError: if `critic` is not a module or cannot be normalised, or if a Wasserstein critic has no bound.
    """
    if critic is not None and not isinstance(critic, nn.Module):
        raise InputError(
            f"critic needs to be a torch.nn.Module; got {critic!r}, a {type(critic).__name__}. The sizes of the "
            "built-in critic are the setting hidden."
        )
    if critic is not None and spectral:
        raise InputError(
            f"spectral=True needs the built-in critic; got the critic {type(critic).__name__}. Normalise the weights "
            "inside the module."
        )
    if loss == "wasserstein" and not penalty and not spectral and critic is None:
        raise InputError(
            "The gradient of a Wasserstein critic has to be bounded; got penalty=0 and spectral=False. Give "
            "penalty > 0 or spectral=True."
        )
