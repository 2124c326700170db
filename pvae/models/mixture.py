"""The Gaussian mixture as two Pyro programs: for comparing inference algorithms with EM, which solves it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pvae.checks import require_sizes, require_whole
from pvae.errors import InputError
from pvae.models.base import shaped
from pvae.models.conjugate import Recogniser, make_prior
from pvae.names import unknown
from pvae.programs.base import LatentModel

__all__ = ["GMM"]

COVARIANCES = ("full", "tied", "diag", "spherical")
GUIDES = ("exact", "amortised")


class GMM(LatentModel):
    """A Gaussian mixture: z ~ Categorical(weights), x ~ Normal(mean, covariance) of component z.

    Its guide is the exact posterior of z under the present parameters, held fixed: the E-step of EM. It then has no
    parameters of its own, and log weights are the log evidence. An amortised guide is a network, whose bound falls
    short of the log evidence by `gap`. z is marked for enumeration, so that ``elbo-enum`` sums it out.
    `pvae.GaussianMixture` fits the same model without gradients.

    Args:
        data_shape: shape of one x; its values are one long vector.
        components: number of components.
        covariance: ``"full"``, ``"tied"``, ``"diag"`` or ``"spherical"``.
        guide: ``"exact"``, the posterior; or ``"amortised"``, a network from x to q(z given x).
        hidden: sizes of the network's hidden layers.
        prior: ``"none"``, or ``"conjugate"``, for the mode of the parameters' posterior: a Dirichlet and an inverse
            Wishart density, with the settings of `pvae.models.conjugate.ConjugatePrior` after colons. In training each
            datum carries 1/data_size of its logarithm, whatever the batch or its scale; evaluation leaves it out.
        data_size: number of training data; only a prior needs it.
        floor: least variance at the start, as a share of the data's; clusters of one datum would have none.

    Raises:
        InputError: for an argument that cannot be used.
    """

    default_objective = "elbo-enum"
    initialised: Tensor
    seen: Tensor
    seed: Tensor

    def __init__(
        self,
        data_shape: int | Sequence[int],
        *,
        components: int = 10,
        covariance: str = "full",
        guide: str = "exact",
        hidden: int | Sequence[int] = (32, 32),
        prior: str | None = "none",
        data_size: int | None = None,
        floor: float = 1e-3,
    ) -> None:
        super().__init__()
        if covariance not in COVARIANCES:
            raise unknown("covariance", str(covariance), COVARIANCES)
        if guide not in GUIDES:
            raise unknown("guide", str(guide), GUIDES)
        components = require_whole(components, "components")
        self.covariance, self.components, self.floor = covariance, components, floor
        self.features = math.prod(require_sizes(data_shape, "data_shape"))
        square = (self.features, self.features)
        shape = {"full": (components, *square), "tied": square, "diag": (components, self.features), "spherical": ()}
        self.logits = nn.Parameter(torch.zeros(components))
        self.means = nn.Parameter(torch.randn(components, self.features))
        # The Cholesky factor with the logarithm of its diagonal, or the logarithm of a deviation.
        self.scales = nn.Parameter(torch.zeros(shape[covariance] or (components,)))
        self.register_buffer("initialised", torch.tensor(False))
        self.register_buffer("seed", torch.randint(1 << 31, ()))
        self.register_buffer("seen", torch.tensor(False))
        self.prior = make_prior(prior or "none", self.features, components, data_size)
        sizes = require_sizes(hidden, "hidden")
        self.recogniser = Recogniser(self.features, components, sizes) if guide == "amortised" else None

    def component(self) -> dist.MultivariateNormal:
        """Return p(x given z) of each component, batch shape (components,)."""
        return dist.MultivariateNormal(self.means, scale_tril=self._factors())

    def _factors(self) -> Tensor:
        if self.covariance in ("full", "tied"):
            diagonal = torch.diag_embed(self.scales.diagonal(dim1=-2, dim2=-1).exp())
            factors = self.scales.tril(-1) + diagonal
        else:
            deviations = self.scales.exp().reshape(self.components, -1)
            factors = torch.diag_embed(deviations.expand(self.components, self.features))
        return factors.expand(self.components, self.features, self.features)

    def _log_joint(self, x: Tensor) -> Tensor:
        return torch.log_softmax(self.logits, 0) + self.component().log_prob(x.unsqueeze(1))

    def log_prior(self) -> Tensor:
        """Return log p of the parameters, (), nats, up to a constant; 0 without a prior."""
        if self.prior is None:
            return self.means.new_zeros(())
        factors = self._factors()
        different = factors[:1] if self.covariance == "tied" else factors
        return self.prior.log_density(torch.log_softmax(self.logits, 0), different)

    def model(self, x: Tensor) -> Tensor:
        """Generate: a component, and x from it, observed. Returns x."""
        x = shaped(x, (self.features,))
        means, factors = self.means, self._factors()
        with pyro.plate("data", len(x)):
            if self.prior is not None and self.training:
                pyro.factor("parameters", (self.log_prior() / self.prior.data_size).expand(len(x)))
            z = pyro.sample("z", dist.Categorical(logits=self.logits))
            return pyro.sample("x", dist.MultivariateNormal(means[z], scale_tril=factors[z]), obs=x)

    def guide(self, x: Tensor) -> Tensor:
        """Infer: the component from q(z given x). Returns z, shape (batch,)."""
        logits = self._guess(shaped(x, (self.features,)))
        with pyro.plate("data", len(x)):
            return pyro.sample("z", dist.Categorical(logits=logits), infer={"enumerate": "parallel"})

    def _guess(self, x: Tensor) -> Tensor:
        return self._log_joint(x).detach() if self.recogniser is None else self.recogniser(x)

    @torch.no_grad()
    def posterior(self, x: Tensor) -> Tensor:
        """Return p(z given x), shape (batch, components)."""
        return torch.softmax(self._log_joint(shaped(x, (self.features,))), 1)

    @torch.no_grad()
    def log_evidence(self, x: Tensor) -> Tensor:
        """Return log p(x), shape (batch,), nats."""
        return self._log_joint(shaped(x, (self.features,))).logsumexp(1)

    @torch.no_grad()
    def gap(self, x: Tensor) -> Tensor:
        """Return KL(q to p(z given x)), shape (batch,), nats: what an amortised guide's bound lacks; else 0."""
        x = shaped(x, (self.features,))
        log_q, log_p = (torch.log_softmax(each, 1) for each in (self._guess(x), self._log_joint(x)))
        return (log_q.exp() * (log_q - log_p)).sum(1)

    def theta(self) -> list[nn.Parameter]:
        """Return the parameters of the model."""
        return [self.logits, self.means, self.scales]

    def phi(self) -> list[nn.Parameter]:
        """Return the parameters of the guide: of its network, or none."""
        return [] if self.recogniser is None else list(self.recogniser.parameters())

    @torch.no_grad()
    def set_parameters(self, weights: Tensor, means: Tensor, covariances: Tensor) -> None:
        """Take the parameters of a mixture, in the shapes of `pvae.GaussianMixture`; training goes on from them."""
        self.logits.copy_(weights.clamp_min(1e-300).log())
        self.means.copy_(means)
        if self.covariance in ("full", "tied"):
            factors = torch.linalg.cholesky(covariances.double())
            logarithms = torch.diag_embed(factors.diagonal(dim1=-2, dim2=-1).log())
            self.scales.copy_(factors.tril(-1) + logarithms)
        else:
            self.scales.copy_(0.5 * covariances.log())
        self.initialised.fill_(True)

    @torch.no_grad()
    def parameters_of_mixture(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return weights, means and covariances in the shapes of `pvae.GaussianMixture`, float64."""
        if self.covariance in ("full", "tied"):
            factors = self._factors().double()
            covariances = factors @ factors.mT
            covariances = covariances[0] if self.covariance == "tied" else covariances
        else:
            covariances = (2 * self.scales.double()).exp()
        return torch.softmax(self.logits.double(), 0), self.means.double(), covariances

    def initialise_from(self, batch: Mapping[str, Tensor]) -> None:
        """Start from k-means, once: from unit variances around random means no gradient finds the way.

        Prior and guide take from the data what they need, once, too.

        Raises:
            InputError: if there are fewer different data than components.
        """
        x = shaped(batch["x"], (self.features,)).double()
        if not self.seen:
            if self.prior is not None:
                self.prior.initialise_from(x)
            if self.recogniser is not None:
                self.recogniser.initialise_from(x)
            self.seen.fill_(True)
        if self.initialised:
            return
        different = len(torch.unique(x, dim=0))
        if different < self.components:
            raise InputError(
                f"A mixture of {self.components} components starts from as many different data; got {different} among "
                f"{len(x)}. Choose components={different} or fewer."
            )
        from sklearn.cluster import KMeans

        found = KMeans(self.components, n_init=1, random_state=int(self.seed)).fit(x.cpu().numpy())
        shares = nn.functional.one_hot(torch.as_tensor(found.labels_).long(), self.components).to(x)
        counts = shares.sum(0)
        means = (shares.mT @ x) / counts.unsqueeze(1)
        deviations = x - means[found.labels_]
        least = self.floor * x.var(0, correction=0).clamp_min(1e-6)
        self.set_parameters(counts / len(x), means, self._moments(shares, counts, deviations, least))

    def _moments(self, shares: Tensor, counts: Tensor, deviations: Tensor, least: Tensor) -> Tensor:
        if self.covariance == "tied":
            return deviations.mT @ deviations / len(deviations) + torch.diag(least)
        if self.covariance == "full":
            scatter = torch.einsum("nk,ni,nj->kij", shares, deviations, deviations)
            return scatter / counts[:, None, None] + torch.diag(least)
        variances = (shares.mT @ deviations.square()) / counts.unsqueeze(1) + least
        return variances if self.covariance == "diag" else variances.mean(1)
