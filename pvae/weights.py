"""The waist: log p(x, z) and log q(z given x), per particle and per datum, from one pair of traces.

Every objective and every evaluation starts from here. The weights are unscaled; the scale of a subsampled plate is kept
beside them and belongs outside a logarithm of a mean (inside it, the result is no bound).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pvae.errors import InputError
from pvae.models.draws import Draw, draw_particles, sample_sites, site_log_prob
from pvae.models.layout import Layout, Site, find_layout
from pvae.models.programs import Fields, bind
from pvae.models.registration import scope

__all__ = ["LogWeights", "log_mean_exp", "log_weights", "trace_weights"]

Reduce = Callable[[Tensor], Tensor]


def log_mean_exp(log_w: Tensor, dim: int = 0) -> Tensor:
    """Return log((1/K) sum exp(log_w)) over the K entries of dimension `dim`."""
    return torch.logsumexp(log_w, dim) - math.log(log_w.shape[dim])


def _total(terms: list[Tensor]) -> Tensor:
    return functools.reduce(torch.add, terms)


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
    """

    log_joint: Tensor
    log_guide: Tensor
    scale: float | Tensor
    count: int
    values: Mapping[str, Tensor]
    not_reparameterised: tuple[str, ...]
    _site_log_joint: Mapping[str, Tensor] = dataclasses.field(repr=False)
    _draws: tuple[Draw, ...] = dataclasses.field(repr=False)
    _reduce: Reduce = dataclasses.field(repr=False)

    @property
    def log_w(self) -> Tensor:
        """log p(x, z) - log q(z given x), shape (particles, batch), nats."""
        return self.log_joint - self.log_guide

    @property
    def particles(self) -> int:
        """The number of draws of z per datum."""
        return self.log_joint.shape[0]

    def log_likelihood(self) -> Tensor:
        """Return log p(x given z), the observed sites of the model, shape (particles, batch), nats."""
        observed = [site["name"] for site in sample_sites(self._draws[0].model) if site["is_observed"]]
        return (
            _total([self._site_log_joint[name] for name in observed]) if observed else torch.zeros_like(self.log_joint)
        )

    def named(self) -> dict[str, Tensor]:
        """Return the means over particles worth recording, each of shape (batch,), nats, without gradient.

        ``kl`` is the single-sample estimate log q(z given x) - log p(z), whose mean is the KL divergence.
        """
        with torch.no_grad():
            elbo, likelihood = self.log_w.mean(0), self.log_likelihood().mean(0)
            return {"elbo": elbo, "log_likelihood": likelihood, "kl": likelihood - elbo}

    def site_scores(self) -> dict[str, Tensor]:
        """Return log q of each latent guide site at fixed z, shape (particles, batch): its gradient is the score."""
        traces = [draw.guide_at_fixed_z() for draw in self._draws]

        def of(name: str) -> Tensor:
            sites: list[Site] = [trace.nodes[name] for trace in traces]
            return torch.cat([self._reduce(site_log_prob(site)) for site in sites])

        return {site["name"]: of(site["name"]) for site in self._draws[0].latent()}

    def log_guide_at_fixed_z(self) -> Tensor:
        """Return log q(z given x) at z cut off from its draw, shape (particles, batch): only phi differentiates it."""
        return _total(list(self.site_scores().values()))

    def log_guide_with_phi_stopped(self) -> Tensor:
        """Return log q(z given x) that differentiates through z alone, shape (particles, batch).

        The gradient at fixed z is taken off the whole one. (Detaching each site's distribution would also cut
        the path from one latent site through another's parameters.)
        """
        fixed = self.log_guide_at_fixed_z()
        return self.log_guide - (fixed - fixed.detach())


def _reducer(layout: Layout, data_dim: int, particles: int) -> Reduce:
    """Sum a site's log-density to shape (particles, batch): over all plates except the two."""
    particle_dim = -1 - layout.nesting

    def reduce(log_prob: Tensor) -> Tensor:
        rest = [dim for dim in range(-log_prob.dim(), 0) if dim not in (data_dim, particle_dim)]
        summed = log_prob.sum(rest) if rest else log_prob
        return (summed if log_prob.dim() >= -particle_dim else summed.unsqueeze(0)).expand(particles, -1)

    return reduce


def _require_weights_exist(draw: Draw) -> None:
    """Refuse what has no weight per datum: sites in one program only, sites left to enumeration."""
    latent = {site["name"] for site in draw.latent()}
    for site in sample_sites(draw.model) + draw.latent():
        if site["infer"].get("enumerate") and not site["is_observed"]:
            raise InputError(
                f"Site {site['name']!r} is marked for enumeration: use the objective 'elbo-enum', which sums it out."
            )
    for site in sample_sites(draw.model):
        if not site["is_observed"] and site["name"] not in latent:
            raise InputError(
                f"Model site {site['name']!r} is neither observed nor in the guide: draw it in the guide too."
            )
    for site in sample_sites(draw.guide):
        other = draw.model.nodes.get(site["name"])
        if site["is_observed"] or other is None or other["type"] != "sample":
            raise InputError(
                f"Guide site {site['name']!r} is not a latent site of the model: weights need the same z in both."
            )
        if other["is_observed"]:
            raise InputError(
                f"Site {site['name']!r} is drawn in the guide and observed in the model: leave it out of one."
            )


def _is_traced() -> bool:
    """Whether a step is being traced below Pyro: values are then not to be looked at."""
    return torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.PROXY) is not None


def _same_scale(scale: float | Tensor, first: float | Tensor) -> bool:
    if not isinstance(scale, Tensor) and not isinstance(first, Tensor):
        return scale == first
    if _is_traced():  # the eager step before a traced one has compared the tensors
        return True
    one, other = torch.as_tensor(scale), torch.as_tensor(first)
    return one.shape == other.shape and bool((one == other).all())


def _common_scale(draw: Draw, data_dim: int) -> float | Tensor:
    """The one scale of all sites. Scales that differ between sites have no place outside the logarithm."""
    scales = [(site["name"], site["scale"]) for site in sample_sites(draw.guide) + sample_sites(draw.model)]
    name, first = scales[0]
    for other, scale in scales:
        if scale is not first and not _same_scale(scale, first):
            raise InputError(
                f"Sites {name!r} (guide) and {other!r} carry different scales: weights need one scale per datum. "
                "Scale both programs alike, or use the objective 'elbo'."
            )
    return first.flatten() if isinstance(first, Tensor) and first.dim() else first


def _values(draws: list[Draw], particles: int) -> dict[str, Tensor]:
    def of(name: str) -> Tensor:
        drawn: list[Any] = [draw.guide.nodes[name]["value"] for draw in draws]
        return drawn[0] if len(draws) == 1 and particles > 1 else torch.stack(drawn)

    return {site["name"]: of(site["name"]) for site in draws[0].latent()}


def _collect(draws: list[Draw], layout: Layout, particles: int, plate: str, data_dim: int) -> LogWeights:
    reduce = _reducer(layout, data_dim, particles // len(draws))

    def by_site(traces: list[poutine.Trace]) -> dict[str, Tensor]:
        def of(name: str) -> Tensor:
            sites: list[Site] = [trace.nodes[name] for trace in traces]
            return torch.cat([reduce(site_log_prob(site)) for site in sites])

        return {site["name"]: of(site["name"]) for site in sample_sites(traces[0])}

    log_joint = by_site([draw.model for draw in draws])
    latent = draws[0].latent()
    frame = next(each for each in latent[0]["cond_indep_stack"] if each.name == plate)
    return LogWeights(
        log_joint=_total(list(log_joint.values())),
        log_guide=_total(list(by_site([draw.guide for draw in draws]).values())),
        scale=_common_scale(draws[0], data_dim),
        count=int(frame.full_size or frame.size),
        values=_values(draws, particles),
        not_reparameterised=tuple(site["name"] for site in latent if not site["fn"].has_rsample),
        _site_log_joint=log_joint,
        _draws=tuple(draws),
        _reduce=reduce,
    )


def trace_weights(
    model: Any,
    guide: Any,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    particles: int,
    *,
    data_plate: str | None = None,
) -> LogWeights:
    """Return the log weights of two Pyro programs on the same arguments.

    Args:
        model: p(x, z).
        guide: q(z given x).
        args: positional arguments of both.
        kwargs: keyword arguments of both.
        particles: how many z are drawn per datum, at least 1.
        data_plate: the name of the plate over data, where several hold every site.
    Raises:
        InputError: if there is no weight per datum, with the site that stands in the way; or ``particles < 1``.
    """
    if not isinstance(particles, int) or particles < 1:
        raise InputError(f"particles must be a whole number of at least 1; got {particles!r}.")
    options = dict(kwargs)
    layout = find_layout(model, guide, args, options)
    if not layout.latent_dims:
        raise InputError("The guide draws nothing: weights need at least one latent site.")
    plate, data_dim = layout.data_plate(data_plate)
    draws = draw_particles(model, guide, args, options, particles)
    _require_weights_exist(draws[0])
    return _collect(draws, layout, particles, plate, data_dim)


def log_weights(
    latent_model: Any,
    batch: Mapping[str, Tensor],
    particles: int,
    *,
    data_plate: str | None = None,
    fields: Fields = None,
) -> LogWeights:
    """Return the log weights of a latent model on a batch, run in the model's own parameter scope.

    Args:
        latent_model: a `LatentModel`, a `pair`, or any object with ``model`` and ``guide``.
        batch: named tensors of the same data.
        particles: how many z are drawn per datum, at least 1.
        data_plate: the name of the plate over data, where several hold every site.
        fields: as for `pvae.models.bind`.
    Raises:
        InputError: as `trace_weights` and `pvae.models.bind`.
    Source: Burda, Grosse & Salakhutdinov, Importance Weighted Autoencoders, arXiv:1509.00519, section 3 (the weights).
    """
    programs = bind(latent_model, batch, fields)
    with scope(latent_model, inherit=True):
        return trace_weights(
            programs.model, programs.guide, programs.arguments(batch), {}, particles, data_plate=data_plate
        )
