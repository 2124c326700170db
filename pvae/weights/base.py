"""The class `LogWeights`: the log weights of a batch, and their parts that estimators need."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pvae.deprecation import renamed_method
from pvae.errors import InputError
from pvae.programs.sites import Site, sample_sites
from pvae.weights.enumeration import SUMMED
from pvae.weights.log_probs import log_probs_by_site, sum_tensors
from pvae.weights.source import ONE_RUN, WeightsSource
from pvae.weights.traces import TracePair

__all__ = ["REVERSE", "LogWeights", "log_mean_exp"]

#: The name of the score of a reverse kernel's draws among the guide's sites.
REVERSE = "reverse kernel"


def log_mean_exp(log_w: Tensor, dim: int = 0) -> Tensor:
    """Return log((1/K) sum exp(log_w)) over the K entries of dimension `dim`, without that dimension.

    Args:
        log_w: logarithms, of any shape.
        dim: the dimension of the mean.
    """
    return torch.logsumexp(log_w, dim) - math.log(log_w.shape[dim])


@dataclass(frozen=True)
class LogWeights:
    """The weights of one batch, unscaled and differentiable, and their parts that estimators need.

    Attributes:
        log_joint: log p(x, z), shape (particles, batch), nats.
        log_guide: log q(z given x), shape (particles, batch), nats.
        scale: the factor of each datum: N/B in a subsampled plate, else 1; a number, or shape (batch,).
        count: the number of data that the batch represents: N in a subsampled plate, else B.
        values: the drawn z by site, shape (particles, batch, *event) if the data plate is the only plate of the site.
        not_reparameterised: the guide's sites without a pathwise gradient.
        strategies: the strategy of each guide site's gradient, by site.
        log_outcome: the log-probability of the values of the sites that are enumerated for their gradient, shape
            (outcomes, particles, batch); all tensors then have this shape. None if no site is enumerated.
        site_log_guide: log q of each guide site at its draw, shape (particles, batch).
        beneath: the guide's sites that depend on a summed-out site: they are drawn for each of its values.

    Example:
        >>> import pvae, torch
        >>> weights = pvae.log_weights(pvae.VAE(4, latent=2, hidden=8), torch.eye(4), particles=3)
        >>> weights.log_joint.shape, weights.values["z"].shape
        (torch.Size([3, 4]), torch.Size([3, 4, 2]))
        >>> bool(torch.equal(weights.log_w, weights.log_joint - weights.log_guide))
        True
    """

    log_joint: Tensor
    log_guide: Tensor
    scale: float | Tensor
    count: int
    values: Mapping[str, Tensor]
    not_reparameterised: tuple[str, ...]
    strategies: Mapping[str, str] = dataclasses.field(default_factory=dict)
    log_outcome: Tensor | None = None
    site_log_guide: Mapping[str, Tensor] = dataclasses.field(default_factory=dict, repr=False)
    beneath: tuple[str, ...] = ()
    _site_log_joint: Mapping[str, Tensor] = dataclasses.field(default_factory=dict, repr=False)
    _observed: tuple[str, ...] = ()
    _split: bool = True
    _points: tuple[str, ...] = ()
    _loss_terms: tuple[str, ...] = ()
    _source: WeightsSource | None = dataclasses.field(default=None, repr=False)

    @property
    def log_w(self) -> Tensor:
        """Log p(x, z) - log q(z given x), shape (particles, batch), nats.

        Raises:
            InputError: if a guide site is a `pyro.distributions.Delta` of a continuous z: log p(x, z) is not a bound.
        """
        if self._points:
            raise InputError(
                f"A weight needs a density of z; guide site {self._points[0]!r} is a Delta, a point without a density, "
                "so there is no weight and no bound. Use the objective 'dirac' for its loss. For a bound, draw the "
                "site from a density, as pvae.VAE does."
            )
        return self.log_joint - self.log_guide

    @property
    def has_density(self) -> bool:
        """Whether the guide has a density; a guide with points has no ELBO, no KL divergence and no `log_w`."""
        return not self._points

    @property
    def particles(self) -> int:
        """The number of draws of z per datum."""
        return self.log_joint.shape[-2]

    def log_likelihood(self) -> Tensor:
        """Return log p(x given z), the sum over the observed sites of the model, shape (particles, batch), nats.

        Raises:
            InputError: if a site is summed out or auxiliary; log p(x given z) is then not a term of the weight.
        """
        self._require_split("log p(x given z)")
        sites = [self._site_log_joint[name] for name in self._observed]
        return sum_tensors(sites) if sites else torch.zeros_like(self.log_joint)

    def log_prior_by_site(self) -> dict[str, Tensor]:
        """Return log p of each latent site given the sites it depends on, shape (particles, batch), nats."""
        self._require_split("log p(z)")
        return {name: table for name, table in self._site_log_joint.items() if name not in self._observed}

    def log_guide_by_site(self) -> dict[str, Tensor]:
        """Return log q of each latent site given the sites it depends on, shape (particles, batch), nats."""
        self._require_split("log q(z given x)")
        return dict(self.site_log_guide)

    def _require_split(self, part: str) -> None:
        if not self._split:
            raise InputError(
                f"{part} needs every site separately, but a site is summed out or auxiliary. Use an objective of the "
                "whole weight, such as 'iwae'."
            )

    def named(self) -> dict[str, Tensor]:
        """Return the means over particles that a training records, each of shape (batch,), nats, without gradient.

        ``kl`` is the single-sample estimate log q(z given x) - log p(z), with the KL divergence as its mean. If guide
        sites are summed out, the mean log weight is not an ELBO and is called ``summed_out_elbo``.
        """
        with torch.no_grad():
            # A further loss of the guide is in the weights because it is trained, but it is not part of q.
            elbo = self._mean(sum_tensors([self.log_w, *map(self.site_log_guide.__getitem__, self._loss_terms)]))
            if SUMMED in self.strategies.values():  # q of these sites is not in the weights
                return {"summed_out_elbo": elbo}
            if not self._split:
                return {"elbo": elbo}
            likelihood = self._mean(self.log_likelihood())
            return {"elbo": elbo, "log_likelihood": likelihood, "kl": likelihood - elbo}

    def _mean(self, table: Tensor) -> Tensor:
        if self.log_outcome is not None:
            table = (self.log_outcome.exp() * table).sum(0)
        return table.mean(0)

    def map(self, change: Callable[[Tensor], Tensor]) -> LogWeights:
        """Return weights with one function applied to every tensor, for example to select particles.

        Args:
            change: a function of a tensor of shape (*left, particles, batch).

        Returns:
            Weights without a source: they cannot be traced back to a run of the programs.
        """
        return self.zip_with(self, lambda table, _: change(table))

    def with_log_w(self, log_w: Tensor) -> LogWeights:
        """Return weights with another log_w, shape (particles, batch), by a change of log_joint."""
        return dataclasses.replace(self, log_joint=log_w + self.log_guide)

    def zip_with(self, other: LogWeights, change: Callable[[Tensor, Tensor], Tensor]) -> LogWeights:
        """Return weights in which every tensor is a function of the tensors of that name in two weights.

        Args:
            other: weights of the same programs.
            change: a function of the tensor of these weights and the tensor of `other`.

        Returns:
            Weights without a source: they cannot be traced back to a run of the programs.
        """
        site_log_guide = {
            name: change(table, other.site_log_guide[name]) for name, table in self.site_log_guide.items()
        }
        site_log_joint = {
            name: change(table, other._site_log_joint[name]) for name, table in self._site_log_joint.items()
        }
        return dataclasses.replace(
            self,
            log_joint=change(self.log_joint, other.log_joint),
            log_guide=change(self.log_guide, other.log_guide),
            log_outcome=None,
            values={},
            site_log_guide=site_log_guide,
            _site_log_joint=site_log_joint,
            _source=None,
        )

    @property
    def draws(self) -> tuple[TracePair, ...]:
        """The traces of both programs: one pair for all particles, or one pair for each particle.

        Raises:
            InputError: if a site is enumerated, or the weights have no source.
        """
        return self._source_without_enumeration().pairs

    def _source_without_enumeration(self) -> WeightsSource:
        source = self._any_source()
        sites = source.pairs[0].dims.sites
        if sites:
            raise InputError(
                f"This objective needs a run of the guide at one value of each site, but site {sites[0].name!r} is "
                "summed out or enumerated. Remove its mark, or use 'iwae' or 'renyi'."
            )
        return source

    def _any_source(self) -> WeightsSource:
        if self._source is None:
            raise InputError("These weights come from other weights, not from a run. Use pvae.log_weights.")
        return self._source

    def site_scores(self) -> dict[str, Tensor]:
        """Return log q of each latent guide site at fixed z, shape (particles, batch); its gradient is the score."""
        source = self._source_without_enumeration()
        runs = [sample_sites(pair.guide_at_fixed_z()) for pair in source.pairs]
        return log_probs_by_site(runs, source.dims)

    def log_guide_at_fixed_z(self) -> Tensor:
        """Return log q(z given x) at z detached from its draw, shape (particles, batch); with gradient by phi only."""
        return sum_tensors(self.site_scores().values())

    def _require_one_density(self) -> None:
        source = self._source_without_enumeration()
        if len(source.pairs[0].latent_sites) > 1:  # the guide is then run again
            source.require_repeatable()

    def log_guide_with_phi_stopped(self) -> Tensor:
        """Return log q(z given x) with its gradient through z only, shape (particles, batch).

        The gradient at fixed z is subtracted from the whole gradient. (If each site's distribution was detached,
        the gradient of one latent site through the parameters of another site would be lost too.)
        """
        self._require_one_density()
        fixed = self.log_guide_at_fixed_z()
        return self.log_guide - (fixed - fixed.detach())

    def guide_sites(self) -> dict[str, Site]:
        """Return the guide's latent sites from the trace, with all particles in one run."""
        return {site["name"]: site for site in self.only_source().pairs[0].latent_sites}

    def expand_to_site(self, per_datum: Tensor, site: Site) -> Tensor:
        """Return numbers with the dimensions of a site's value, of size 1 except for particles and data.

        Args:
            per_datum: (particles, batch).
            site: a site of either program.
        """
        return self._any_source().dims.expand_to_site(per_datum, site)

    def log_guide_at_model_z(self) -> tuple[Tensor, list[tuple[slice, Site, Tensor]]]:
        """Return log q at the z that the model received, without gradient by phi, and this z.

        A hook on this z gets only the gradient of log_w, without the gradient from one latent site to another.

        Returns:
            log q(z given x), shape (particles, batch), nats; and for each run and each site, the particles of the run,
            the site and the z.

        Raises:
            InputError: if a site is auxiliary, or a second run of the guide has another density.
        """
        source = self._source_without_enumeration()
        auxiliary = source.pairs[0].auxiliary_sites
        if auxiliary:
            raise InputError(
                "The doubly reparameterised gradient needs the guide's own log q, without a mean over the auxiliary "
                f"site {auxiliary[0]['name']!r}. Use 'iwae' or 'stl'."
            )
        self._require_one_density()
        runs = []
        received_values: list[tuple[slice, Site, Tensor]] = []
        for index, pair in enumerate(source.pairs):
            particles = slice(None) if len(source.pairs) == 1 else slice(index, index + 1)
            received: dict[str, Tensor] = {}
            for site in pair.latent_sites:
                if site["name"] not in pair.bijection.auxiliary:
                    value: Any = pair.model.nodes[site["name"]]["value"]
                    received[site["name"]] = value
                    received_values.append((particles, site, value))
            runs.append(sample_sites(pair.guide_at(received)))
        # The order of the two log q determines the order of sums in backward(), and so the last bits of the gradients.
        fixed = self.log_guide_at_fixed_z()
        log_guide = sum_tensors(log_probs_by_site(runs, source.dims).values())
        return log_guide - (fixed - fixed.detach()), received_values

    def only_source(self) -> WeightsSource:
        """Return the source of the weights, with all particles in one run.

        Raises:
            InputError: if particles were drawn one by one.
        """
        if self._source is None or len(self._source.pairs) > 1:
            raise InputError(ONE_RUN[0].upper() + ONE_RUN[1:])
        return self._source

    # The names of version 0.1, kept for one version.
    rearranged = renamed_method("rearranged", map)
    combined = renamed_method("combined", zip_with)
    entering = renamed_method("entering", log_guide_at_model_z)
    spread = renamed_method("spread", expand_to_site)
