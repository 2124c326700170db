"""Log weights: what they hold, and the pieces that estimators need."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pvae.errors import InputError
from pvae.programs.layout import Site
from pvae.weights.auxiliary import Marginal, auxiliary_sites
from pvae.weights.log_probs import Shape, by_site, total
from pvae.weights.traces import Draw

__all__ = ["ONE_RUN", "REVERSE", "LogWeights", "Source", "log_mean_exp"]

Change = Callable[[Tensor], Tensor]

#: the name under which the score of a reverse kernel's draws stands among the guide's sites
REVERSE = "reverse kernel"

#: why values of a site cannot stand side by side
ONE_RUN = (
    "this strategy needs programs that treat dimensions left of the data's as free (see the warning on particles): use "
    "'score' or 'score:leave-one-out'."
)


def log_mean_exp(log_w: Tensor, dim: int = 0) -> Tensor:
    """Return log((1/K) sum exp(log_w)) over the K entries of dimension `dim`."""
    return torch.logsumexp(log_w, dim) - math.log(log_w.shape[dim])


@dataclass(frozen=True)
class Source:
    """Where weights come from.

    Attributes:
        draws: the runs of both programs, one for all particles or one for each.
        shape: how the sites' log-densities are summed.
        auxiliary: how auxiliary sites are marginalised.
        repeatable: whether the guide gives the same density when it is run again at the same z.
    """

    draws: tuple[Draw, ...]
    shape: Shape
    auxiliary: Marginal | None
    repeatable: bool = True

    def require_repeatable(self) -> None:
        """Refuse to compare a run of the guide with another, where they are of different densities.

        Raises:
            InputError: with what to do.
        """
        if not self.repeatable:
            raise InputError(
                "The guide, run again at the same z, has another density (dropout, or draws beside its sites), and "
                "this gradient compares two runs: put dropout into evaluation mode, or use 'iwae' with 'pathwise' and "
                "'score' sites."
            )

    def first(self) -> Draw:
        """Return the first run."""
        return self.draws[0]


@dataclass(frozen=True)
class LogWeights:
    """The weights of one batch, unscaled and differentiable, and the pieces that estimators need.

    Attributes:
        log_joint: log p(x, z), shape (particles, batch), nats.
        log_guide: log q(z given x), shape (particles, batch), nats.
        scale: what each datum counts for: N/B under a subsampled plate, else 1; a number or shape (batch,).
        count: the number of data that the batch stands for: N under a subsampled plate, else B.
        values: the drawn z by site, shape (particles, batch, *event) where the site has no plate but the data's.
        not_reparameterised: the guide's sites without a pathwise gradient.
        strategies: how each guide site's gradient is taken, by site.
        log_outcome: where sites are enumerated for their gradient, the log-probability of their values, shape
            (outcomes, particles, batch), as all tensors then are; else None.
        site_log_guide: log q of each guide site at its draw, shape (particles, batch).
        beneath: the guide's sites that depend on one that is summed out: drawn for each of its values.
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
    _source: Source | None = dataclasses.field(default=None, repr=False)

    @property
    def log_w(self) -> Tensor:
        """Log p(x, z) - log q(z given x), shape (particles, batch), nats.

        Raises:
            InputError: if a guide site is a `pyro.distributions.Delta` of a continuous z: log p(x, z) bounds nothing.
        """
        if self._points:
            raise InputError(
                f"Guide site {self._points[0]!r} is a Delta, a point without a density, so there is no weight and no "
                "bound: its loss under the objective 'dirac' is all there is. For a bound, draw it from a density, as "
                "pvae.VAE does."
            )
        return self.log_joint - self.log_guide

    @property
    def particles(self) -> int:
        """The number of draws of z per datum."""
        return self.log_joint.shape[-2]

    def log_likelihood(self) -> Tensor:
        """Return log p(x given z), the observed sites of the model, shape (particles, batch), nats.

        Raises:
            InputError: if a site is summed out: log p(x given z) is then no term of the weight.
        """
        self._require_split("log p(x given z)")
        sites = [self._site_log_joint[name] for name in self._observed]
        return total(sites) if sites else torch.zeros_like(self.log_joint)

    def log_prior_by_site(self) -> dict[str, Tensor]:
        """Return log p of each latent site given those it depends on, shape (particles, batch), nats."""
        self._require_split("log p(z)")
        return {name: each for name, each in self._site_log_joint.items() if name not in self._observed}

    def log_guide_by_site(self) -> dict[str, Tensor]:
        """Return log q of each latent site given those it depends on, shape (particles, batch), nats."""
        self._require_split("log q(z given x)")
        return dict(self.site_log_guide)

    def _require_split(self, part: str) -> None:
        if not self._split:
            raise InputError(
                f"{part} is no part of these weights: a site is summed out or auxiliary. Use an objective of the whole "
                "weight, such as 'iwae' or 'elbo-enum'."
            )

    def named(self) -> dict[str, Tensor]:
        """Return the means over particles worth recording, each of shape (batch,), nats, without gradient.

        ``kl`` is the single-sample estimate log q(z given x) - log p(z), whose mean is the KL divergence.
        """
        with torch.no_grad():
            elbo = self._mean(self.log_w)
            if not self._split:
                return {"elbo": elbo}
            likelihood = self._mean(self.log_likelihood())
            return {"elbo": elbo, "log_likelihood": likelihood, "kl": likelihood - elbo}

    def _mean(self, table: Tensor) -> Tensor:
        if self.log_outcome is not None:
            table = (self.log_outcome.exp() * table).sum(0)
        return table.mean(0)

    def rearranged(self, change: Change) -> LogWeights:
        """Return weights with every table changed alike, such as particles picked or replaced; without their source."""
        return self.combined(self, lambda table, _: change(table))

    def with_log_w(self, log_w: Tensor) -> LogWeights:
        """Return weights with another log_w, put down to log_joint."""
        return dataclasses.replace(self, log_joint=log_w + self.log_guide)

    def combined(self, other: LogWeights, change: Callable[[Tensor, Tensor], Tensor]) -> LogWeights:
        """Return weights whose every table comes from the two tables of that name; without a source."""
        pairs = {name: (each, other._site_log_joint[name]) for name, each in self._site_log_joint.items()}
        guides = {name: (each, other.site_log_guide[name]) for name, each in self.site_log_guide.items()}
        return dataclasses.replace(
            self,
            log_joint=change(self.log_joint, other.log_joint),
            log_guide=change(self.log_guide, other.log_guide),
            log_outcome=None,
            values={},
            site_log_guide={name: change(*each) for name, each in guides.items()},
            _site_log_joint={name: change(*each) for name, each in pairs.items()},
            _source=None,
        )

    @property
    def draws(self) -> tuple[Draw, ...]:
        """The runs of both programs: one for all particles, or one for each."""
        return self._traced().draws

    def _traced(self) -> Source:
        if self._source is None:
            raise InputError("These weights have no run of the guide.")
        sites = self._source.first().axes.sites
        if sites:
            raise InputError(
                f"Site {sites[0][0]!r} is summed out or enumerated, and this objective needs a run of the guide at one "
                "value of it: remove its mark, or use 'iwae', 'renyi' or 'elbo-enum'."
            )
        return self._source

    def site_scores(self) -> dict[str, Tensor]:
        """Return log q of each latent guide site at fixed z, shape (particles, batch): its gradient is the score."""
        source = self._traced()
        return by_site([draw.guide_at_fixed_z() for draw in source.draws], source.shape)

    def log_guide_at_fixed_z(self) -> Tensor:
        """Return log q(z given x) at z cut off from its draw, shape (particles, batch): only phi differentiates it."""
        return total(self.site_scores().values())

    def _require_one_density(self) -> None:
        if len(self._traced().first().latent()) > 1:  # the guide is then run again
            self._traced().require_repeatable()

    def log_guide_with_phi_stopped(self) -> Tensor:
        """Return log q(z given x) that differentiates through z alone, shape (particles, batch).

        The gradient at fixed z is taken off the whole one. (Detaching each site's distribution would also cut
        the path from one latent site through another's parameters.)
        """
        self._require_one_density()
        fixed = self.log_guide_at_fixed_z()
        return self.log_guide - (fixed - fixed.detach())

    def guide_sites(self) -> dict[str, Site]:
        """Return the guide's latent sites as Pyro traced them, all particles in one."""
        return {site["name"]: site for site in self._one_draw().latent()}

    def spread(self, per_datum: Tensor, site: Site) -> Tensor:
        """Return numbers of shape (particles, batch) in the shape of a site's value."""
        if self._source is None:
            raise InputError("These weights have no run of the guide.")
        return self._source.shape.spread(per_datum, site)

    def entering(self) -> tuple[Tensor, list[tuple[slice, Site, Tensor]]]:
        """Return log q at z as the model has received it, phi stopped; and that z, which all of log_w goes through.

        A hook on such a z sees the gradient of log_w alone, and not what one latent site hands to another in the
        guide.

        Returns:
            log q(z given x), shape (particles, batch), nats; and for each run and site its particles, the site and z.
        """
        source = self._traced()
        hidden = auxiliary_sites(source.first())
        if hidden:
            raise InputError(
                f"Site {hidden[0]['name']!r} is auxiliary, and the doubly reparameterised gradient has no mean over "
                "it: use 'iwae' or 'stl'."
            )
        self._require_one_density()
        runs, found = [], []
        for index, draw in enumerate(source.draws):
            received = draw.guide.copy()
            for site in draw.latent():
                entered: Site = draw.model.nodes[site["name"]]
                received.nodes[site["name"]] = site.copy() | {"value": entered["value"]}
                place = slice(None) if len(source.draws) == 1 else slice(index, index + 1)
                found.append((place, site, entered["value"]))
            runs.append(received if len(draw.latent()) == 1 else draw.guide_at(received))
        fixed = self.log_guide_at_fixed_z()
        return total(by_site(runs, source.shape).values()) - (fixed - fixed.detach()), found

    def _one_draw(self) -> Draw:
        return self.only_source().first()

    def only_source(self) -> Source:
        """Return where the weights come from, where one run holds all particles.

        Raises:
            InputError: if particles were drawn one by one.
        """
        if self._source is None or len(self._source.draws) > 1:
            raise InputError(ONE_RUN[0].upper() + ONE_RUN[1:])
        return self._source
