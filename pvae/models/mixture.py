"""The Gaussian mixture as two Pyro programs, to compare gradient-based inference with EM."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pvae.checks import require_sizes, require_whole
from pvae.models.classifier_network import ClassifierNetwork
from pvae.models.conjugate_prior import make_prior
from pvae.models.datum_shapes import reshape_data
from pvae.models.mixture_start import start_by_kmeans
from pvae.names import unknown
from pvae.programs.base import LatentModel

__all__ = ["GMM"]

COVARIANCES = ("full", "tied", "diag", "spherical")
GUIDES = ("exact", "amortised")


class GMM(LatentModel):
    """A Gaussian mixture: z ~ Categorical(weights), x ~ Normal(mean, covariance) of component z.

    Its guide is the exact posterior of z under the present parameters, held constant, as in the E-step of EM. This
    guide has no parameters, and the log weights equal the log evidence. An amortised guide is a network; its bound is
    below the log evidence by `gap`. z is marked for enumeration, so ``elbo-enum`` sums it out. `pvae.GaussianMixture`
    fits the same model without gradients.

    Args:
        data_shape: shape of one x; its values form one vector.
        components: number of components.
        covariance: ``"full"``, ``"tied"``, ``"diag"`` or ``"spherical"``.
        guide: ``"exact"``, the posterior; or ``"amortised"``, a network from x to q(z given x).
        hidden: sizes of the network's hidden layers.
        prior: ``"none"``, or ``"conjugate"`` for the mode of the parameters' posterior: a Dirichlet and an inverse
            Wishart density, with the settings of `pvae.models.conjugate_prior.ConjugatePrior` after colons. In
            training, 1/data_size of the log-density is added for each datum, for any size or scale of the batch.
            Evaluation leaves it out.
        data_size: number of training data; only a prior needs it.
        floor: the number that is added to each initial variance, as a share of the variance of the data. Without it a
            cluster of one datum would have variance 0.

    Raises:
        InputError: for an argument that cannot be used.
    """

    default_objective = "elbo-enum"
    # The names of buffers and modules are keys in saved runs, so they must not change.
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
        self.logits = nn.Parameter(torch.zeros(components))
        self.means = nn.Parameter(torch.randn(components, self.features))
        # Full and tied: the Cholesky factor with the logarithm of its diagonal. Else: logarithms of deviations.
        self.scales = nn.Parameter(torch.zeros(self._scale_shape()))
        self.register_buffer("initialised", torch.tensor(False))
        self.register_buffer("seed", torch.randint(1 << 31, ()))
        self.register_buffer("seen", torch.tensor(False))
        self.prior = make_prior(prior or "none", self.features, components, data_size)
        sizes = require_sizes(hidden, "hidden")
        self.recogniser = ClassifierNetwork(self.features, components, sizes) if guide == "amortised" else None

    def _scale_shape(self) -> tuple[int, ...]:
        """Return the shape of the parameter `scales` for the form of the covariances."""
        components, features = self.components, self.features
        shapes = {
            "full": (components, features, features),
            "tied": (features, features),
            "diag": (components, features),
            "spherical": (components,),
        }
        return shapes[self.covariance]

    def component(self) -> dist.MultivariateNormal:
        """Return p(x given z) of each component, batch shape (components,), event shape (features,)."""
        return dist.MultivariateNormal(self.means, scale_tril=self._cholesky_factors())

    def _cholesky_factors(self) -> Tensor:
        """Return the Cholesky factor of each covariance, shape (components, features, features)."""
        if self.covariance in ("full", "tied"):
            diagonal = torch.diag_embed(self.scales.diagonal(dim1=-2, dim2=-1).exp())
            factors = self.scales.tril(-1) + diagonal
        else:
            deviations = self.scales.exp().reshape(self.components, -1)
            factors = torch.diag_embed(deviations.expand(self.components, self.features))
        return factors.expand(self.components, self.features, self.features)

    def _log_joint(self, x: Tensor) -> Tensor:
        """Return log p(x, z) of each component, shape (batch, components), for x of shape (batch, features)."""
        return torch.log_softmax(self.logits, 0) + self.component().log_prob(x.unsqueeze(1))

    def log_prior(self) -> Tensor:
        """Return log p of the parameters, shape (), in nats, up to a constant; 0 without a prior."""
        if self.prior is None:
            return self.means.new_zeros(())
        factors = self._cholesky_factors()
        distinct = factors[:1] if self.covariance == "tied" else factors
        return self.prior.log_density(torch.log_softmax(self.logits, 0), distinct)

    def model(self, x: Tensor) -> Tensor:
        """Generate a component and observe x under it. Returns x, shape (batch, features)."""
        x = reshape_data(x, (self.features,))
        means, factors = self.means, self._cholesky_factors()
        with pyro.plate("data", len(x)):
            if self.prior is not None and self.training:
                pyro.factor("parameters", (self.log_prior() / self.prior.data_size).expand(len(x)))
            z = pyro.sample("z", dist.Categorical(logits=self.logits))
            return pyro.sample("x", dist.MultivariateNormal(means[z], scale_tril=factors[z]), obs=x)

    def guide(self, x: Tensor) -> Tensor:
        """Infer the component from q(z given x). Returns z, shape (batch,)."""
        logits = self._guide_logits(reshape_data(x, (self.features,)))
        with pyro.plate("data", len(x)):
            return pyro.sample("z", dist.Categorical(logits=logits), infer={"enumerate": "parallel"})

    def _guide_logits(self, x: Tensor) -> Tensor:
        """Return the logits of q(z given x), shape (batch, components), for x of shape (batch, features)."""
        return self._log_joint(x).detach() if self.recogniser is None else self.recogniser(x)

    @torch.no_grad()
    def posterior(self, x: Tensor) -> Tensor:
        """Return p(z given x), shape (batch, components)."""
        return torch.softmax(self._log_joint(reshape_data(x, (self.features,))), 1)

    @torch.no_grad()
    def log_evidence(self, x: Tensor) -> Tensor:
        """Return log p(x), shape (batch,), in nats."""
        return self._log_joint(reshape_data(x, (self.features,))).logsumexp(1)

    @torch.no_grad()
    def gap(self, x: Tensor) -> Tensor:
        """Return KL(q to p(z given x)), shape (batch,), in nats: log p(x) minus the ELBO; 0 for the exact guide."""
        x = reshape_data(x, (self.features,))
        log_q = torch.log_softmax(self._guide_logits(x), 1)
        log_p = torch.log_softmax(self._log_joint(x), 1)
        return (log_q.exp() * (log_q - log_p)).sum(1)

    def theta(self) -> list[nn.Parameter]:
        """Return the parameters of the model."""
        return [self.logits, self.means, self.scales]

    def phi(self) -> list[nn.Parameter]:
        """Return the parameters of the guide's network; none without a network."""
        return [] if self.recogniser is None else list(self.recogniser.parameters())

    @torch.no_grad()
    def set_parameters(self, weights: Tensor, means: Tensor, covariances: Tensor) -> None:
        """Set the parameters of the mixture; a training afterwards continues from them.

        Args:
            weights: probabilities of the components, (components,).
            means: (components, features).
            covariances: in the shape that `pvae.GaussianMixture` has for this form of covariance.
        """
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
            factors = self._cholesky_factors().double()
            covariances = factors @ factors.mT
            covariances = covariances[0] if self.covariance == "tied" else covariances
        else:
            covariances = (2 * self.scales.double()).exp()
        return torch.softmax(self.logits.double(), 0), self.means.double(), covariances

    def initialise_from(self, batch: Mapping[str, Tensor]) -> None:
        """Initialise by k-means, and set the values of prior and guide that depend on the data; each only once.

        Without k-means, from unit variances around random means, gradients do not find the clusters.

        Args:
            batch: the training data.

        Raises:
            InputError: if there are fewer distinct data than components.
        """
        x = reshape_data(batch["x"], (self.features,)).double()
        if not self.seen:
            self._initialise_parts(x)
            self.seen.fill_(True)
        if not self.initialised:
            seed = int(self.seed)
            self.set_parameters(*start_by_kmeans(x, self.components, self.covariance, floor=self.floor, seed=seed))

    def _initialise_parts(self, x: Tensor) -> None:
        if self.prior is not None:
            self.prior.initialise_from(x)
        if self.recogniser is not None:
            self.recogniser.initialise_from(x)
