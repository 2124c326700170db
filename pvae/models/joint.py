"""JointVAE: a continuous code, and categorical variables that are summed out exactly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pvae.checks import require_sizes, require_whole
from pvae.errors import InputError
from pvae.models.base import BaseVAE, Parts, code_of
from pvae.models.datum_shapes import reshape_data
from pvae.models.direct_calls import takes_data
from pvae.networks import Conditioned, initialise

__all__ = ["JointVAE"]

_ENUMERATED: Any = {"enumerate": "parallel"}


class JointVAE(BaseVAE):
    """z ~ prior, y ~ uniform over categories, x ~ likelihood(decoder(z, y)); q(z given x) q(y given x).

    Given x, z and y are independent in the guide. The sites are ``y``, or ``y1``, ``y2`` and so on for several
    categorical variables, ``z`` and ``x``. The categorical variables are summed out exactly, with one run of the
    decoder for each of their joint values; the source draws them from a relaxation, which is biased. The objective
    ``joint-capacity`` keeps the KL divergences of z and of the categorical variables each near a separate capacity.

    Args:
        data_shape: as for `pvae.models.base.BaseVAE`.
        categories: the number of categories of each categorical variable; several as ``10,2``.
        parts: the arguments of `BaseVAE`.

    Raises:
        InputError: for an argument that cannot be used, in one line.

    Source: Dupont, Learning Disentangled Joint Continuous and Discrete Representations, arXiv:1804.00104, section 3.

    Example:
        >>> import pvae, torch
        >>> _ = torch.manual_seed(0)
        >>> model = pvae.JointVAE(4, categories=3, latent=2, hidden=8)
        >>> model.assign(torch.eye(4))["y"].probs.shape  # q(y given x)
        torch.Size([4, 3])
        >>> model.sample(5, y=2).shape
        torch.Size([5, 4])
    """

    default_objective = "elbo-enum"

    def __init__(
        self,
        data_shape: int | Sequence[int],
        *,
        categories: int | Sequence[int] = 10,
        **parts: Unpack[Parts],
    ) -> None:
        sizes = require_sizes(categories, "categories", advice="For example categories=10, or categories=10,2.")
        if not sizes or min(sizes) < 2:
            raise InputError(f"categories needs at least 2 for each variable; got {categories!r}. Use 10, or 10,2.")
        super().__init__(data_shape, **parts)
        names = ["y"] if len(sizes) == 1 else [f"y{number}" for number in range(1, len(sizes) + 1)]
        self.categories = dict(zip(names, sizes, strict=True))
        features: Any = self.encoder.out_features
        self.classifiers = nn.ModuleDict({name: nn.Linear(features, size) for name, size in self.categories.items()})
        initialise(self.classifiers, self.initialisation)
        self.decoder: nn.Module = Conditioned(self.decoder, sum(sizes), initialisation=self.initialisation)

    def model(self, x: Tensor) -> Tensor:
        """Generate the categorical variables and z, and observe x. Returns x, (batch,) + event shape."""
        with pyro.plate("data", x.shape[0]):
            values = [
                pyro.sample(name, dist.Categorical(logits=self._uniform(size)))
                for name, size in self.categories.items()
            ]
            z = pyro.sample("z", self.prior_density())
            return pyro.sample("x", self.decode(z, self.code(values)), obs=self.observed(x))

    def guide(self, x: Tensor) -> Tensor:
        """Infer the categorical variables and z given x. Returns z, shape (batch, latent)."""
        features = self.encoder(reshape_data(x, self._input_shape, self.data_shape))
        with pyro.plate("data", x.shape[0]):
            for name, classifier in self.classifiers.items():
                pyro.sample(name, dist.Categorical(logits=classifier(features)), infer=_ENUMERATED.copy())
            return pyro.sample("z", self.posterior(features))

    def _uniform(self, size: int) -> Tensor:
        """Return the logits of p(y), shape (size,)."""
        return next(self.parameters()).new_zeros(size)

    def code(self, values: Sequence[Tensor]) -> Tensor:
        """Return categories as the second input of the decoder: concatenated one-hot vectors minus their means.

        Args:
            values: for each categorical variable, whole numbers of a shape (...) that broadcasts with the others.

        Returns:
            Shape (..., sum of all categories).
        """
        shape = torch.broadcast_shapes(*(value.shape for value in values))
        codes = []
        for value, size in zip(values, self.categories.values(), strict=True):
            is_category = value.unsqueeze(-1) == torch.arange(size, device=value.device)
            codes.append(is_category.to(self._uniform(1).dtype).expand(*shape, size) - 1 / size)
        return torch.cat(codes, -1)

    @takes_data
    def assign(self, x: Tensor) -> dict[str, dist.Categorical]:
        """Return q(y given x) of each categorical variable, batch shape (batch,).

        Args:
            x: data, (batch, features) or (batch,) + data_shape.
        """
        features = self.encoder(reshape_data(x, self._input_shape, self.data_shape))
        return {name: dist.Categorical(logits=classifier(features)) for name, classifier in self.classifiers.items()}

    @torch.no_grad()
    def sample(self, n: int, *, y: int | Sequence[int] | None = None, mean: bool = False) -> Tensor:
        """Return new data, shape (n,) + data_shape.

        Args:
            n: number of data, at least 0.
            y: the category of each categorical variable, for all data; by default drawn from p(y).
            mean: whether to return means of x given z and y; otherwise draws of x.
        """
        n = require_whole(n, "n", least=0)
        z = self.prior_density().sample((n,))
        return self.as_data(self.decode(z, self.code(self._chosen(y, z))), mean=mean)

    def _chosen(self, y: int | Sequence[int] | None, z: Tensor) -> list[Tensor]:
        """Return the categories of new data, (n,) for each variable."""
        if y is None:
            return [torch.randint(size, z.shape[:1], device=z.device) for size in self.categories.values()]
        chosen = [y] if isinstance(y, int) else list(y)
        fits = len(chosen) == len(self.categories)
        if not fits or any(not 0 <= each < size for each, size in zip(chosen, self.categories.values(), strict=True)):
            ranges = ", ".join(f"{name} from 0 to {size - 1}" for name, size in self.categories.items())
            raise InputError(f"y needs one category for each of the variables, {ranges}; got {y!r}.")
        return [torch.full(z.shape[:1], each, device=z.device) for each in chosen]

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """Return the mean of x given the posterior mean of z and the most probable categories, (batch,) + data_shape.

        Args:
            x: data, (batch, features) or (batch,) + data_shape.
        """
        values = [density.logits.argmax(-1) for density in self.assign(x).values()]
        density: TorchDistribution = self.decode(code_of(self.encode(x)), self.code(values))
        return self.as_data(density, mean=True)
