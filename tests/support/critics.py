"""Critics with known best coefficients, for the exact tests of adversarial objectives."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Quadratic(nn.Module):
    """A logit linear in 1, the features, and their products: for (x, z) in 1, x, z, x^2, xz, z^2."""

    def __init__(self, features: int, coefficients: Any = None) -> None:
        super().__init__()
        self.pairs = [(i, j) for i in range(features) for j in range(i, features)]
        size = 1 + features + len(self.pairs)
        held = (
            torch.zeros(size, dtype=torch.float64)
            if coefficients is None
            else torch.tensor(coefficients, dtype=torch.float64)
        )
        self.weight = nn.Parameter(held.double())

    def seen(self, rows: Tensor) -> Tensor:
        squares = [rows[:, i] * rows[:, j] for i, j in self.pairs]
        return torch.stack([torch.ones_like(rows[:, 0]), *rows.unbind(1), *squares], 1)

    def forward(self, rows: Tensor) -> Tensor:
        return self.seen(rows) @ self.weight


def best_critic(objective: Any, latent_model: Any, x: Tensor, rounds: int = 40) -> Any:
    """Train the critic alone, on the same noise each time, by second-order steps."""
    optimiser = torch.optim.LBFGS(objective.critic(), max_iter=rounds, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        torch.manual_seed(1)
        loss = objective.terms(latent_model.model, latent_model.guide, (x,), {}, "critic").surrogate / len(x)
        loss.backward()
        return loss

    optimiser.step(closure)
    return objective


def assert_equal_gradients_by_any_route(objective: Any, latent_model: Any, x: Tensor) -> None:
    """Compare the gradients of ``loss_and_grads``, by which SVI trains, with those of ``differentiable_loss``."""
    torch.manual_seed(4)
    objective.loss_and_grads(latent_model.model, latent_model.guide, x)
    torch.manual_seed(4)
    whole = objective.differentiable_loss(latent_model.model, latent_model.guide, x)
    parameters = [*latent_model.theta(), *latent_model.phi(), *objective.critic()]
    for parameter, gradient in zip(parameters, torch.autograd.grad(whole, parameters, allow_unused=True), strict=True):
        assert parameter.grad is gradient is None if gradient is None else torch.equal(parameter.grad, gradient)


def covariance(critic: Quadratic, q: Tensor, p: Tensor) -> Tensor:
    """Of the coefficients of a logistic regression, by the score's variance and the curvature at its best fit."""
    with torch.no_grad():
        seen = [critic.seen(each) for each in (q, p)]
        sure = [torch.sigmoid(critic(each)) for each in (q, p)]
        curvature = sum((s * (1 - s)).mul(f.T) @ f for s, f in zip(sure, seen, strict=True))
        scores = [(1 - sure[0])[:, None] * seen[0], sure[1][:, None] * seen[1]]
        noise = sum(torch.cov(each.T) * len(each) for each in scores)
        inverse = torch.linalg.inv(curvature)
        return inverse @ noise @ inverse
