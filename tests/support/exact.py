"""The reference models of ``docs/exact-models.md``, as a user would write them, beside their closed forms.

The linear-Gaussian model (probabilistic PCA, names ``A_``), the enumerable categorical model (names ``C_``), a Gaussian
chain of two layers, and a Gaussian model with labels (names ``LABELLED_``). The closed forms use neither pvae nor Pyro.
"""

from __future__ import annotations

import itertools

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pvae.densities import GivenLabel, label_posterior
from pvae.programs.base import LatentModel

LOG_2PI = float(np.log(2 * np.pi))


def normal_log_prob(x: np.ndarray, mean: np.ndarray, cov: np.ndarray) -> float:
    """log N(x; mean, cov) of one x."""
    d = np.asarray(x) - mean
    return float(-0.5 * (d @ np.linalg.solve(cov, d) + np.linalg.slogdet(cov)[1] + len(d) * LOG_2PI))


# ---- The linear-Gaussian model

A_WEIGHT = np.array([[1.0, 0.5], [0.0, 1.0], [-1.0, 0.3]])
A_BIAS = np.array([0.1, -0.2, 0.3])
A_VARIANCE = 0.25
A_X = np.array([1.0, -0.5, 0.2])
A_PRIOR = (np.zeros(2), np.ones(2))
A_Q1 = (np.array([0.8, -0.4]), np.array([0.3, 0.2]))


class LinearGaussian:
    """Closed forms of z ~ N(0, I), x ~ N(W z + b, v I), for one x and q(z) = N(mean, diag(variance))."""

    def __init__(self, weight: np.ndarray = A_WEIGHT, bias: np.ndarray = A_BIAS, variance: float = A_VARIANCE) -> None:
        self.weight, self.bias, self.variance = weight, bias, variance
        self.data, self.latent = weight.shape
        self.precision = np.eye(self.latent) + weight.T @ weight / variance

    def log_evidence(self, x: np.ndarray = A_X) -> float:
        """log p(x)."""
        cov = self.weight @ self.weight.T + self.variance * np.eye(self.data)
        return normal_log_prob(x, self.bias, cov)

    def posterior(self, x: np.ndarray = A_X) -> tuple[np.ndarray, np.ndarray]:
        """Mean and covariance of p(z given x)."""
        cov = np.linalg.inv(self.precision)
        return cov @ self.weight.T @ (x - self.bias) / self.variance, cov

    def best_diagonal(self, x: np.ndarray = A_X) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance of the diagonal Gaussian with the highest ELBO."""
        return self.posterior(x)[0], 1 / np.diag(self.precision)

    def kl_to_posterior(self, mean: np.ndarray, variance: np.ndarray, x: np.ndarray = A_X) -> float:
        """KL(q to p(z given x))."""
        m, cov = self.posterior(x)
        d, precision = m - mean, self.precision
        logs = np.linalg.slogdet(cov)[1] - np.log(variance).sum()
        return float(0.5 * (np.diag(precision) @ variance + d @ precision @ d - len(d) + logs))

    def elbo(self, mean: np.ndarray, variance: np.ndarray, x: np.ndarray = A_X) -> float:
        """E_q[log p(x, z) - log q(z)], from its own parts: not through the evidence."""
        d = x - self.bias - self.weight @ mean
        trace = np.diag(self.weight.T @ self.weight) @ variance
        likelihood = -0.5 * ((d @ d + trace) / self.variance + self.data * np.log(2 * np.pi * self.variance))
        return float(likelihood - 0.5 * (mean @ mean + variance.sum() - len(mean) - np.log(variance).sum()))

    def elbo_gradient(
        self, mean: np.ndarray, variance: np.ndarray, x: np.ndarray = A_X
    ) -> tuple[np.ndarray, np.ndarray]:
        """Gradient of the ELBO in q's mean and in the logarithm of its scale."""
        in_mean = self.precision @ (self.posterior(x)[0] - mean)
        return in_mean, 1 - np.diag(self.precision) * variance

    def renyi(self, alpha: float, mean: np.ndarray, variance: np.ndarray, x: np.ndarray = A_X) -> float:
        """The Renyi bound L_alpha = log p(x) - D_alpha(q to posterior); infinite where that diverges."""
        if alpha == 1:
            return self.elbo(mean, variance, x)
        m, cov = self.posterior(x)
        mixed = alpha * cov + (1 - alpha) * np.diag(variance)
        if np.linalg.eigvalsh(mixed).min() <= 0:
            return -np.inf if alpha > 1 else np.inf
        d = m - mean
        logs = np.linalg.slogdet(mixed)[1] - (1 - alpha) * np.log(variance).sum()
        logs -= alpha * np.linalg.slogdet(cov)[1]
        divergence = 0.5 * alpha * d @ np.linalg.solve(mixed, d) - logs / (2 * (alpha - 1))
        return float(self.log_evidence(x) - divergence)

    def chi2(self, mean: np.ndarray, variance: np.ndarray, x: np.ndarray = A_X) -> float:
        """Var_q[w / p(x)] = exp D_2(posterior to q) - 1, the variance of one weight; may be infinite."""
        m, cov = self.posterior(x)
        mixed = 2 * np.diag(variance) - cov
        if np.linalg.eigvalsh(mixed).min() <= 0:
            return np.inf
        d = m - mean
        logs = np.linalg.slogdet(mixed)[1] + np.linalg.slogdet(cov)[1] - 2 * np.log(variance).sum()
        return float(np.exp(d @ np.linalg.solve(mixed, d) - 0.5 * logs) - 1)


class LinearGaussianModel(LatentModel):
    """The linear-Gaussian model in float64, with a guide N(q_loc, exp(q_log_scale)) whose parameters are free.

    Args:
        mean, variance: those of q, shape (latent,) for all data or (batch, latent).
        exact: model whose weight, bias and variance are taken.
    """

    def __init__(
        self, mean: np.ndarray = A_Q1[0], variance: np.ndarray = A_Q1[1], exact: LinearGaussian | None = None
    ) -> None:
        super().__init__()
        exact = exact or LinearGaussian()
        self.weight = nn.Parameter(torch.tensor(exact.weight, dtype=torch.float64))
        self.bias = nn.Parameter(torch.tensor(exact.bias, dtype=torch.float64))
        self.log_scale = nn.Parameter(torch.tensor(0.5 * np.log(exact.variance), dtype=torch.float64))
        self.q_loc = nn.Parameter(torch.tensor(mean, dtype=torch.float64))
        self.q_log_scale = nn.Parameter(torch.tensor(0.5 * np.log(variance), dtype=torch.float64))

    def model(self, x: Tensor) -> Tensor:
        with pyro.plate("data", len(x)):
            zeros = x.new_zeros(len(x), self.weight.shape[1])
            z = pyro.sample("z", dist.Normal(zeros, 1.0).to_event(1))
            mean = z @ self.weight.T + self.bias
            return pyro.sample("x", dist.Normal(mean, self.log_scale.exp()).to_event(1), obs=x)

    def guide(self, x: Tensor) -> Tensor:
        with pyro.plate("data", len(x)):
            loc = self.q_loc.expand(len(x), -1)
            return pyro.sample("z", dist.Normal(loc, self.q_log_scale.exp()).to_event(1))

    def theta(self) -> list[nn.Parameter]:
        return [self.weight, self.bias, self.log_scale]

    def phi(self) -> list[nn.Parameter]:
        return [self.q_loc, self.q_log_scale]


# ---- The enumerable categorical model

C_PRIOR = np.array([0.5, 0.3, 0.2])
C_LIKELIHOOD = np.array([[0.7, 0.1, 0.1, 0.1], [0.1, 0.6, 0.2, 0.1], [0.25, 0.25, 0.25, 0.25]])
C_DATA = np.array([0.4, 0.3, 0.2, 0.1])
C_LOGITS = np.array([[0.2, -0.1, 0.3], [0.0, 0.5, -0.5], [1.0, 0.0, 0.0], [-0.3, 0.3, 0.1]])


class Discrete:
    """Closed forms of the enumerable categorical model, one number for each of the four values of x."""

    def __init__(self, logits: np.ndarray = C_LOGITS) -> None:
        self.log_joint = np.log(C_PRIOR[:, None] * C_LIKELIHOOD).T
        self.log_guide = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
        self.guide = np.exp(self.log_guide)
        self.log_w = self.log_joint - self.log_guide

    def log_evidence(self) -> np.ndarray:
        """log p(x), shape (4,)."""
        return np.logaddexp.reduce(self.log_joint, axis=1)

    def elbo(self) -> np.ndarray:
        """E_q[log w], shape (4,)."""
        return (self.guide * self.log_w).sum(1)

    def elbo_gradient(self) -> np.ndarray:
        """Gradient of each ELBO in its logits, shape (4, 3): E_q[score * log w]."""
        return self.guide * (self.log_w - self.elbo()[:, None])

    def iwae(self, particles: int, x: int = 0) -> float:
        """The exact importance-weighted bound, over all 3^particles outcomes."""
        total = 0.0
        for draws in itertools.product(range(3), repeat=particles):
            bound = np.logaddexp.reduce(self.log_w[x, list(draws)]) - np.log(particles)
            total += np.exp(self.log_guide[x, list(draws)].sum()) * bound
        return float(total)

    def renyi(self, alpha: float) -> np.ndarray:
        """The exact Renyi bound for alpha != 1, shape (4,)."""
        return np.logaddexp.reduce(self.log_guide + (1 - alpha) * self.log_w, axis=1) / (1 - alpha)


class DiscreteModel(LatentModel):
    """The enumerable categorical model as a user would write it; x holds class indices, shape (batch,).

    Args:
        enumerate: the guide's (and an enumerated model's) ``infer={"enumerate": ...}``; None leaves it out.
    """

    def __init__(self, logits: np.ndarray = C_LOGITS, enumerate: str | None = None) -> None:
        super().__init__()
        self.prior_logits = nn.Parameter(torch.tensor(np.log(C_PRIOR)))
        self.likelihood_logits = nn.Parameter(torch.tensor(np.log(C_LIKELIHOOD)))
        self.logits = nn.Parameter(torch.tensor(logits))
        self.infer = {"enumerate": enumerate} if enumerate else {}

    def model(self, x: Tensor) -> Tensor:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Categorical(logits=self.prior_logits))
            return pyro.sample("x", dist.Categorical(logits=self.likelihood_logits[z]), obs=x)

    def guide(self, x: Tensor) -> Tensor:
        with pyro.plate("data", len(x)):
            return pyro.sample("z", dist.Categorical(logits=self.logits[x.long()]), infer=self.infer)

    def theta(self) -> list[nn.Parameter]:
        return [self.prior_logits, self.likelihood_logits]

    def phi(self) -> list[nn.Parameter]:
        return [self.logits]


# ---- Two stochastic layers


class TwoLayer:
    """Closed forms of a Gaussian chain z2, z1, x, whose guide goes the other way: z1 given x, z2 given z1."""

    def __init__(self) -> None:
        self.A, self.a, self.s1 = np.array([[0.8, -0.4], [0.3, 0.9]]), np.array([0.2, -0.1]), 0.6
        self.B, self.b, self.s2 = (
            np.array([[1.0, 0.2], [-0.5, 0.7], [0.4, -0.9]]),
            np.array([0.0, 0.1, -0.2]),
            0.5,
        )
        self.C, self.c, self.t1 = np.array([[0.5, -0.2, 0.1], [0.0, 0.3, -0.4]]), np.array([0.1, 0.0]), 0.4
        self.D, self.d, self.t2 = np.array([[0.4, 0.1], [-0.2, 0.5]]), np.array([0.0, 0.2]), 0.7
        self.x = np.array([[0.6, -0.3, 0.8], [-1.1, 0.4, 0.2]])

    def log_evidence(self, x: np.ndarray) -> float:
        """log p(x) of one x."""
        z1 = self.A @ self.A.T + self.s1**2 * np.eye(2)
        cov = self.B @ z1 @ self.B.T + self.s2**2 * np.eye(3)
        return normal_log_prob(x, self.B @ self.a + self.b, cov)

    def elbo(self, x: np.ndarray) -> float:
        """E_q[log p(x, z1, z2) - log q(z1, z2 given x)] of one x."""
        m1, v1 = self.C @ x + self.c, self.t1**2 * np.eye(2)
        m2, v2 = self.D @ m1 + self.d, self.D @ v1 @ self.D.T + self.t2**2 * np.eye(2)
        cross = self.A @ self.D @ v1
        residual = x - self.B @ m1 - self.b
        top = m2 @ m2 + np.trace(v2)
        middle = m1 - self.A @ m2 - self.a
        middle = middle @ middle + np.trace(v1 + self.A @ v2 @ self.A.T - cross - cross.T)
        bottom = residual @ residual + np.trace(self.B @ v1 @ self.B.T)
        likelihoods = (
            -0.5 * (top + middle / self.s1**2 + bottom / self.s2**2 + 7 * LOG_2PI)
            - 2 * np.log(self.s1)
            - 3 * np.log(self.s2)
        )
        entropy = 2 * (1 + LOG_2PI) + 2 * np.log(self.t1) + 2 * np.log(self.t2)
        return float(likelihoods + entropy)


class TwoLayerModel(LatentModel):
    """The two-layer chain with its two-layer guide, in float64; sites ``z2``, ``z1``, ``x``."""

    def __init__(self, exact: TwoLayer | None = None) -> None:
        super().__init__()
        exact = exact or TwoLayer()
        for name in ("A", "a", "s1", "B", "b", "s2", "C", "c", "t1", "D", "d", "t2"):
            value = torch.tensor(getattr(exact, name), dtype=torch.float64)
            setattr(self, name, nn.Parameter(value.log() if name[0] in "st" else value))

    def model(self, x: Tensor) -> Tensor:
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            z1 = pyro.sample("z1", dist.Normal(z2 @ self.A.T + self.a, self.s1.exp()).to_event(1))
            return pyro.sample("x", dist.Normal(z1 @ self.B.T + self.b, self.s2.exp()).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(x @ self.C.T + self.c, self.t1.exp()).to_event(1))
            pyro.sample("z2", dist.Normal(z1 @ self.D.T + self.d, self.t2.exp()).to_event(1))

    def theta(self) -> list[nn.Parameter]:
        return [self.A, self.a, self.s1, self.B, self.b, self.s2]

    def phi(self) -> list[nn.Parameter]:
        return [self.C, self.c, self.t1, self.D, self.d, self.t2]


# ---- A Gaussian model with labels

LABELLED_X = 0.4
# Golden numbers at this x, found without pvae and torch: log p(x, y) for both labels and log p(x), by normal densities;
# p(y given x); and the best ELBO of a guide q(y given x) q(z given x), by a search.
LABELLED_LOG_JOINT = torch.tensor([-2.5076574894, -1.7047764106], dtype=torch.float64)
LABELLED_LOG_EVIDENCE = -1.3345680652
LABELLED_POSTERIOR = torch.tensor([0.30941, 0.69059], dtype=torch.float64)
LABELLED_BEST_FACTORISED = -1.5731166087


class Labelled:
    """Closed forms of y ~ Bernoulli(1/2), z ~ N(0, 1), x given y, z ~ N(shift_y + slope_y z, scale_y^2)."""

    def __init__(self) -> None:
        self.shift, self.slope, self.scale = torch.tensor([[-1.0, 1.0], [1.0, -0.5], [0.5, 0.7]], dtype=torch.float64)

    def log_joint(self, x: Tensor) -> Tensor:
        """log p(x, y), shape (batch, 2), by the normal density."""
        variance = self.slope**2 + self.scale**2
        return -0.5 * ((x.unsqueeze(-1) - self.shift) ** 2 / variance + variance.log() + LOG_2PI) - np.log(2)

    def posterior(self, label: Tensor, x: Tensor) -> dist.Normal:
        """p(z given x, y)."""
        shift, slope, scale = self.shift[label], self.slope[label], self.scale[label]
        variance = 1 / (1 + slope**2 / scale**2)
        return dist.Normal(variance * slope * (x - shift) / scale**2, variance.sqrt())


def labelled_batch(*y: int, x: float = LABELLED_X) -> dict[str, Tensor]:
    """One x for each label; -1 hides the label."""
    return {"x": torch.full((len(y),), x, dtype=torch.float64), "y": torch.tensor(y)}


class LabelledModel(LatentModel):
    """As a user would write it: z given x and y from the exact posterior, y given x from a linear classifier.

    Every log weight is then known whatever z is drawn: no test of it has noise.
    """

    def __init__(self, marked: bool = True, slope: tuple[float, float] = (0.0, 0.0)) -> None:
        super().__init__()
        self.exact = Labelled()
        self.slope = nn.Parameter(torch.tensor(slope, dtype=torch.float64))
        self.bias = nn.Parameter(torch.tensor([0.3, -0.2], dtype=torch.float64))
        self.infer = {"enumerate": "parallel"} if marked else {}

    def classify(self, x: Tensor) -> dist.Categorical:
        return dist.Categorical(logits=x.unsqueeze(-1) * self.slope + self.bias)

    def model(self, x: Tensor, y: Tensor) -> None:
        shift, slope, scale = self.exact.shift, self.exact.slope, self.exact.scale
        with pyro.plate("data", len(x)):
            label = pyro.sample("y", dist.Categorical(logits=x.new_zeros(2)))
            pyro.sample("given", GivenLabel(label, 2, dtype=torch.float64), obs=y)
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            pyro.sample("x", dist.Normal(shift[label] + slope[label] * z, scale[label]), obs=x)

    def guide(self, x: Tensor, y: Tensor) -> None:
        with pyro.plate("data", len(x)):
            density = label_posterior(self.classify(x).logits, y)
            label = pyro.sample("y", density, infer=dict(self.infer))
            pyro.sample("z", self.exact.posterior(label, x))

    def theta(self) -> list[nn.Parameter]:
        return []

    def phi(self) -> list[nn.Parameter]:
        return [self.slope, self.bias]
