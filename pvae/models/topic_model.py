"""ProdLDA: a topic model of bags of words with an amortised posterior of the topics of each document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyro
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.nn.functional import log_softmax, softmax

from pvae.checks import require_sizes, require_whole
from pvae.densities import part
from pvae.densities.bag_of_words import BagOfWords, DirichletLaplace
from pvae.errors import InputError
from pvae.models.base import code_of
from pvae.models.datum_shapes import reshape_data
from pvae.models.direct_calls import takes_data
from pvae.names import unknown
from pvae.networks import MLP
from pvae.programs.base import LatentModel
from pvae.weights.tracing import is_traced

__all__ = ["ProdLDA"]

COMBINATIONS = ("product", "mixture")
# A word that no document has starts at this share, because its logarithm must be finite.
_RAREST = 1e-6


class ProdLDA(LatentModel):
    """A topic model: z ~ a Gaussian near a Dirichlet in softmax(z), and the words of a document given softmax(z).

    x are the counts of words of a document. Their total is given: the model is p(x given the number of words). With
    ``combine="product"`` (ProdLDA) the topics are combined as a product of experts: the probabilities of words are
    softmax(sum_k share_k beta_k), where ``beta`` are the weights of words in topics. With ``"mixture"`` (LDA, with an
    amortised posterior) they are sum_k share_k softmax(beta_k). Log-probabilities contain the multinomial coefficient.
    The sites are ``z`` and ``x``.

    Unlike in the source, there is no batch normalisation, because q of each document would depend on the other
    documents. The encoder reads log(1 + counts), and the topics start from the shares of words in the training data.

    Args:
        data_shape: the number of words of the vocabulary.
        topics: the number of topics, at least 2.
        combine: ``"product"`` or ``"mixture"``.
        concentration: the parameter of the Dirichlet, one number or one for each topic. With smaller numbers a document
            has fewer topics.
        hidden: sizes of the encoder's hidden layers; 0 or () makes it linear.
        activation: a name of `pvae.networks.ACTIVATIONS`.
        initialisation: a name of `pvae.networks.INITIALISATIONS`.
        posterior: the posterior of z, a name of `pvae.densities.POSTERIORS`, or a density as a module.

    Raises:
        InputError: for an argument that cannot be used; in use, for data that are not counts.
    Source: Srivastava & Sutton, Autoencoding Variational Inference For Topic Models, arXiv:1703.01488.

    Example:
        >>> import pvae, torch
        >>> _ = torch.manual_seed(0)
        >>> model = pvae.ProdLDA(6, topics=2, hidden=8)
        >>> counts = torch.tensor([[3.0, 1.0, 0.0, 0.0, 2.0, 0.0], [0.0, 0.0, 4.0, 1.0, 0.0, 1.0]])
        >>> model.shares(counts).shape, model.sample(3, words=20).sum(1)
        (torch.Size([2, 2]), tensor([20., 20., 20.]))
    """

    def __init__(
        self,
        data_shape: int | Sequence[int],
        *,
        topics: int = 20,
        combine: str = "product",
        concentration: float | Sequence[float] = 1.0,
        hidden: int | Sequence[int] = (100, 100),
        activation: str = "softplus",
        initialisation: str = "glorot",
        posterior: str | nn.Module = "diagonal",
    ) -> None:
        super().__init__()
        self.data_shape = require_sizes(data_shape, "data_shape", advice="It is the number of words.")
        words = int(torch.Size(self.data_shape).numel())
        if combine not in COMBINATIONS:
            raise unknown("combine", str(combine), COMBINATIONS)
        self.combine = combine
        sizes = require_sizes(
            hidden, "hidden", zero=True, advice="For example hidden=100,100; 0 means no hidden layer."
        )
        style: dict[str, Any] = {"activation": activation, "initialisation": initialisation}
        self.prior = DirichletLaplace(topics, concentration)
        self.topics = require_whole(topics, "topics")
        self.encoder = MLP(words, hidden=sizes, **style)
        self.posterior = part("posterior", posterior, self.encoder.out_features, self.topics, **style)
        self.beta = nn.Parameter(torch.empty(self.topics, words))
        nn.init.xavier_uniform_(self.beta)
        # The buffer is saved with the model, so that a resumed or a second training does not reset trained topics.
        self.register_buffer("initialised", torch.tensor(False))

    initialised: Tensor

    def model(self, x: Tensor) -> Tensor:
        """Generate z from the prior and observe the counts x. Returns x, (batch, words).

        Args:
            x: counts, (batch, words).
        """
        counts = self._counts(x)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", self.prior())
            return pyro.sample("x", self.decode(z, counts.sum(-1)), obs=counts)

    def guide(self, x: Tensor) -> Tensor:
        """Infer z from the counts. Returns z, shape (batch, topics).

        Args:
            x: counts, (batch, words).
        """
        with pyro.plate("data", x.shape[0]):
            return pyro.sample("z", self.encode(x))

    @takes_data
    def encode(self, x: Tensor) -> TorchDistribution:
        """Return q(z given x), with batch shape (batch,) and event shape (topics,).

        Args:
            x: counts, (batch, words).
        """
        return self.posterior(self.encoder(self._counts(x).log1p()))

    def decode(self, z: Tensor, total: Tensor) -> TorchDistribution:
        """Return p(x given z and the number of words), with batch shape (...) and event shape (words,).

        Args:
            z: the logarithms of the shares of topics, up to a constant, (..., topics).
            total: the number of words of each document, (...).
        """
        return BagOfWords(self.log_probs(z), total)

    def log_probs(self, z: Tensor) -> Tensor:
        """Return the log-probability of each word, (..., words).

        Args:
            z: the logarithms of the shares of topics, up to a constant, (..., topics).
        """
        shares = softmax(z, -1)
        if self.combine == "product":
            return log_softmax(shares @ self.beta, -1)
        mixed = shares @ softmax(self.beta, -1)
        # float32 has no probability below 1e-45; its logarithm would be minus infinity, and the gradient NaN
        return mixed.clamp_min(torch.finfo(mixed.dtype).tiny).log()

    def _counts(self, x: Tensor) -> Tensor:
        """Return the counts as (batch, words), checked unless a step is traced."""
        counts = reshape_data(x, (self.beta.shape[1],), self.data_shape)
        if not is_traced():
            _check_counts(counts)
        return counts

    @torch.no_grad()
    def shares(self, x: Tensor) -> Tensor:
        """Return the share of each topic in documents at the posterior mean of z, (batch, topics); rows sum to 1.

        Args:
            x: counts, (batch, words).
        """
        return softmax(code_of(self.encode(x)), -1)

    @torch.no_grad()
    def topic_words(self) -> Tensor:
        """Return the probability of each word in a document of only one topic, (topics, words); rows sum to 1."""
        return softmax(self.beta, -1)

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """Return the expected counts of documents of the lengths in x, at the posterior mean of z, (batch, words).

        Args:
            x: counts, (batch, words).
        """
        density = self.decode(code_of(self.encode(x)), self._counts(x).sum(-1))
        return reshape_data(density.mean, self.data_shape)

    @torch.no_grad()
    def sample(self, n: int, *, words: int = 100, mean: bool = False) -> Tensor:
        """Return the counts of new documents, shape (n,) + data_shape.

        Args:
            n: number of documents, at least 0.
            words: the number of words of each document.
            mean: whether to return the expected counts given z; otherwise draws.
        """
        n, words = require_whole(n, "n", least=0), require_whole(words, "words", least=0)
        z = self.prior().sample((n,))
        density = self.decode(z, z.new_full((n,), words))
        return reshape_data(density.mean if mean else density.sample(), self.data_shape)

    def theta(self) -> list[nn.Parameter]:
        """Return the parameters of the model: the weights of words in topics, and the parameters of a fitted prior."""
        return [*self.prior.parameters(), self.beta]

    def phi(self) -> list[nn.Parameter]:
        """Return the parameters of the guide."""
        return [*self.encoder.parameters(), *self.posterior.parameters()]

    def check_data(self, batch: Mapping[str, Tensor]) -> None:
        """Check that the data are counts.

        Args:
            batch: the data, with x.

        Raises:
            InputError: for values that are not counts 0, 1, 2, ...
        """
        self._counts(batch["x"])

    @torch.no_grad()
    def initialise_from(self, batch: Mapping[str, Tensor]) -> None:
        """Add the logarithm of the share of each word in the training data to the weights of all topics; only once.

        Args:
            batch: the training data, with x.

        Raises:
            InputError: for values that are not counts, or for data without a word.
        """
        counts = self._counts(batch["x"])
        if self.initialised:
            return
        total = counts.double().sum()
        if not bool(total > 0):
            raise InputError("A topic model needs documents with words; all counts of the training data are 0.")
        shares = (counts.double().sum(0) / total).clamp_min(_RAREST)
        self.beta.add_(shares.log().to(self.beta))
        self.initialised.fill_(True)


def _check_counts(counts: Tensor) -> None:
    """Raise InputError if a value, of shape (batch, words), is not a count."""
    is_outside = ~((counts >= 0) & (counts == counts.round()) & counts.isfinite())
    if bool(is_outside.any()):
        datum, word = is_outside.nonzero()[0].tolist()
        raise InputError(
            f"A topic model needs counts of words, 0, 1, 2, ...; got {float(counts[datum, word]):g} for word {word} of "
            f"datum {datum}. Give the counts themselves, without scaling, shares or weights."
        )
