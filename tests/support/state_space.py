"""A linear-Gaussian state space in NumPy: evidence by the Kalman filter, the posterior, and forecasts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from exact import normal_log_prob


@dataclass(frozen=True)
class LinearStateSpace:
    """z_t ~ N(step z_(t-1) + drift, state_scale^2), x_t ~ N(emission z_t + offset, scale^2), with z_0 = start.

    Args:
        start: shape (latent,).
        step: shape (latent, latent).
        drift: shape (latent,).
        state_scale: standard deviations, shape (latent,).
        emission: shape (features, latent).
        offset: shape (features,).
        scale: standard deviations, shape (features,).
    """

    start: np.ndarray
    step: np.ndarray
    drift: np.ndarray
    state_scale: np.ndarray
    emission: np.ndarray
    offset: np.ndarray
    scale: np.ndarray

    @property
    def state_noise(self) -> np.ndarray:
        return np.diag(self.state_scale**2)

    @property
    def noise(self) -> np.ndarray:
        return np.diag(self.scale**2)

    def filtered(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """Mean and covariance of z at the end of one sequence, (length, features), and its log evidence."""
        mean, cov, total = self.start, np.zeros((len(self.start), len(self.start))), 0.0
        for seen in x:
            mean, cov, ahead, spread = self.predicted(mean, cov)
            total += normal_log_prob(seen, ahead, spread)
            gain = cov @ self.emission.T @ np.linalg.inv(spread)
            mean, cov = mean + gain @ (seen - ahead), cov - gain @ self.emission @ cov
        return mean, cov, total

    def predicted(self, mean: np.ndarray, cov: np.ndarray) -> tuple[np.ndarray, ...]:
        """Mean and covariance of z one step later, and of x there, from those of z."""
        mean, cov = self.step @ mean + self.drift, self.step @ cov @ self.step.T + self.state_noise
        return mean, cov, self.emission @ mean + self.offset, self.emission @ cov @ self.emission.T + self.noise

    def log_evidence(self, x: np.ndarray) -> float:
        """log p of one sequence, (length, features), by filtering."""
        return self.filtered(x)[2]

    def posterior_steps(self, x: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """For each t, covariance C, matrix G and vector h with z_t given z_(t-1) and x ~ N(G z_(t-1) + h, C).

        The future's likelihood of z_t is exp(-z'Lz/2 + z'l); L and l are summed from the end backwards.
        """
        precision, prior = np.linalg.inv(self.noise), np.linalg.inv(self.state_noise)
        latent = len(self.start)
        matrix, vector, found = np.zeros((latent, latent)), np.zeros(latent), []
        for seen in x[::-1]:
            matrix = matrix + self.emission.T @ precision @ self.emission
            vector = vector + self.emission.T @ precision @ (seen - self.offset)
            cov = np.linalg.inv(prior + matrix)
            found.append((cov, cov @ prior @ self.step, cov @ (prior @ self.drift + vector)))
            # z_t integrated out: what the future says of z_(t-1)
            rest = prior @ self.drift + vector
            matrix, vector = (
                self.step.T @ (prior - prior @ cov @ prior) @ self.step,
                self.step.T @ (prior @ cov @ rest - prior @ self.drift),
            )
        return found[::-1]
