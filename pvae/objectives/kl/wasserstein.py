"""`WAE`: the Wasserstein autoencoder, with a maximum mean discrepancy between aggregate posterior and prior."""

from __future__ import annotations

from typing import Any, Unpack

from torch import Tensor

from pvae.objectives.kl.prior_discrepancy import PriorDiscrepancy
from pvae.objectives.kl.weighted_kl import not_negative
from pvae.objectives.named import named
from pvae.objectives.weights_objective import WeightsObjective, WeightsOptions
from pvae.weights import LogWeights

__all__ = ["WAE"]

#: s^2 of the inverse multiquadratic kernels of the paper's experiments, which are added
_SQUARED_SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


@named("wae", "Wasserstein autoencoder: an MMD matches the aggregate posterior to the prior; no noise is needed")
class WAE(WeightsObjective):
    """Wasserstein autoencoder: E log p(x given z) - weight * MMD^2(aggregate of the guide to prior), per datum.

    The guide may be deterministic (`pyro.distributions.Delta` sites, `pvae.Autoencoder` with ``prior="standard"``) or
    have noise (`pvae.VAE`). Minus log p(x given z) is the cost of a reconstruction: with
    ``likelihood="gaussian:scale=0.7071"`` it is the squared distance of the paper plus a constant. No term keeps q(z
    given x) of one datum near the prior, so the noise of a guide may shrink to 0.

    One z of each datum of a random batch is a sample of the aggregate posterior. The estimate of MMD^2 leaves out pairs
    of a draw with itself, so it is unbiased, and it may be negative. A subsampled plate multiplies the whole objective.

    The loss is not a bound on log p(x), so validation uses the objective's own value, of all validation data as one
    batch. ``mmd`` and the reconstruction are recorded, and for a guide with noise also the ``elbo``. A prior with
    parameters is trained through its draws if these are reparameterised.

    Args:
        weight: the weight of MMD^2, lambda in the paper, in nats.
        kernel: ``"imq"``, c / (c + d^2) with c = 2 s^2 units; or ``"gaussian"``, exp(-d^2 / (2 s^2 units)).
        scale: the widths s of kernels that are added, or one width, in the unit of z: 1 is the standard deviation of a
            standard normal prior. A prior of another scale needs other widths. None is the paper's list for ``"imq"``:
            s^2 = 0.1, 0.2, 0.5, 1, 2, 5, 10; and 1 for ``"gaussian"``.
        particles: draws of z per datum; each is compared with the prior separately.
        options: see `WeightsOptions`.

    Raises:
        InputError: for a negative weight, an unknown kernel, or a scale that is not positive; in use, for a batch of
            one datum, for a flat prior, for several latent sites, or for a site that is not reparameterised.

    Source: Tolstikhin, Bousquet, Gelly & Schoelkopf, Wasserstein Auto-Encoders, arXiv:1711.01558, algorithm 2 and
        section 4; the list of widths is from the authors' code.

    Example:
        >>> import pvae, torch
        >>> model, x = pvae.Autoencoder(4, latent=2, hidden=8, prior="standard"), torch.eye(4)
        >>> terms = pvae.WAE(weight=10.0).terms(model.model, model.guide, (x,), {}, "all")
        >>> sorted(terms.named)
        ['log_likelihood', 'mmd']
    """

    no_bound = "reconstruction and MMD are not a bound on log p(x)"

    def __init__(
        self,
        weight: float = 10.0,
        kernel: str = "imq",
        scale: float | tuple[float, ...] | None = None,
        particles: int = 1,
        **options: Unpack[WeightsOptions],
    ) -> None:
        super().__init__(particles, **options)
        self.weight = not_negative("weight", weight)
        self._has_default_scale = scale is None
        default = tuple([squared**0.5 for squared in _SQUARED_SCALES]) if kernel == "imq" else 1.0
        self.discrepancy = PriorDiscrepancy("WAE", kernel, default if scale is None else scale)
        self._last_discrepancy: Tensor | None = None

    def settings(self) -> dict[str, Any]:
        """Return the weight, the kernel, its width if it is not the default, and the number of particles."""
        kernel = self.discrepancy.settings()
        if self._has_default_scale:
            del kernel["scale"]
        return {"weight": self.weight, **kernel, **super().settings()}

    def surrogate(self, weights: LogWeights) -> Tensor:
        """Return the objective, shape (batch,), in nats; the discrepancy is the same for every datum."""
        discrepancy = self.discrepancy(weights, self.data_plate)
        self._last_discrepancy = discrepancy.detach()
        return weights.log_likelihood().mean(0) - self.weight * discrepancy

    def recorded(self, weights: LogWeights) -> dict[str, Tensor]:
        """Return the numbers of the weights, and MMD^2 of the last `surrogate` as ``mmd``, each of shape (batch,)."""
        discrepancy, self._last_discrepancy = self._last_discrepancy, None  # a tensor of a traced step must not be kept
        if weights.has_density:
            of_weights = super().recorded(weights)
        else:
            of_weights = {"log_likelihood": weights.log_likelihood().mean(0).detach()}
        if discrepancy is None:
            return of_weights
        return {**of_weights, "mmd": discrepancy * discrepancy.new_ones(weights.log_joint.shape[-1])}
