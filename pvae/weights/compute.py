"""Log weights of two Pyro programs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pvae.checks import require_whole
from pvae.errors import InputError
from pvae.programs.binding import Fields, bind
from pvae.programs.bound import BoundPrograms
from pvae.programs.ignored_masks import require_masks_taken
from pvae.programs.parameter_scope import scope
from pvae.programs.sites import Site
from pvae.programs.usable_data import require_usable
from pvae.weights.auxiliary import Marginal, log_marginal
from pvae.weights.base import REVERSE, LogWeights
from pvae.weights.batch_of_data import batch_of_data
from pvae.weights.enumeration import SUMMED
from pvae.weights.handlers import PATHWISE, ChooseStrategy, is_score, sum_marked
from pvae.weights.log_probs import MarginalisedLogProbs, PlateDims, join_outcomes, site_log_probs, sum_tensors
from pvae.weights.site_validation import common_scale, delta_sites, require_same_masks, require_weights_exist
from pvae.weights.source import ONE_RUN, WeightsSource
from pvae.weights.summed_sites import SummedSites
from pvae.weights.traces import TracePair
from pvae.weights.vectorise import can_vectorise, trace_particles
from pvae.weights.whole_batch import weights_of_batch

__all__ = ["branch", "log_weights", "trace_weights", "weights_of"]


def branch(weights: LogWeights, name: str, values: Tensor) -> LogWeights:
    """Return the weights of runs with one site at other values; every tensor has a dimension of branches on the left.

    Args:
        weights: the weights of the first run.
        name: a latent site.
        values: shape (branches, *batch, *event), like the site's own value, with ones up to a new dimension on the
            left.

    Raises:
        InputError: if the programs do not broadcast over dimensions to the left of the data dimension.
    """
    source = weights.only_source()
    source.require_repeatable()
    pair = source.pairs[0]
    if source.dims.particles == 1 and not can_vectorise(pair.programs, 2):
        raise InputError(f"Site {name!r}: {ONE_RUN}")
    wide = dataclasses.replace(source.dims, left=source.dims.left + 1)
    branched = dataclasses.replace(source, pairs=(pair.branch(name, values),), dims=wide)
    return _weights_of_source(branched, weights.count, weights.scale, keep=1)


def _weights_of_source(source: WeightsSource, count: int, scale: float | Tensor, keep: int = 0) -> LogWeights:
    """Return the weights of runs of both programs.

    Args:
        source: the runs.
        count: the number of data that the batch represents.
        scale: the factor of each datum.
        keep: the number of dimensions of branches on the left.
    """
    pair = source.pairs[0]
    strategies = {site["name"]: str(site["infer"].get("_strategy", PATHWISE)) for site in pair.latent_sites}
    at_fixed_z = bool(pair.bijection.points) and _has_scored_points(pair, strategies)
    marginal = _marginalise(source, keep, at_fixed_z=at_fixed_z)
    if REVERSE in marginal.guide:
        strategies[REVERSE] = "score"
    return LogWeights(
        log_joint=marginal.log_joint,
        log_guide=marginal.log_guide,
        scale=scale,
        count=count,
        values={} if keep else _values(source.pairs, source.dims),
        not_reparameterised=tuple([site["name"] for site in pair.latent_sites if not site["fn"].has_rsample]),
        strategies=strategies,
        log_outcome=marginal.log_outcome,
        site_log_guide=marginal.guide,
        _site_log_joint=marginal.joint,
        _observed=tuple([site["name"] for site in pair.model_sites if site["is_observed"]]),
        beneath=marginal.beneath,
        _split=not (pair.dims.sites and pair.dims.names(SUMMED)) and not pair.auxiliary_sites,
        _points=delta_sites(pair),
        _source=source,
    )


def _marginalise(source: WeightsSource, keep: int, *, at_fixed_z: bool) -> MarginalisedLogProbs:
    """Return the log-densities of the runs without summed-out sites.

    Args:
        source: the runs.
        keep: the number of dimensions of branches on the left, which are kept.
        at_fixed_z: whether log q is at the guide's own z, detached.
    """
    dims = source.pairs[0].dims
    if dims.sites and dims.names(SUMMED):
        return SummedSites(source.pairs[0], source.dims, keep).marginalise(*_log_marginals(source))
    log_probs = site_log_probs(source.pairs, source.dims, at_fixed_z=at_fixed_z)
    log_guide, reverse_scores = _log_marginals(source)
    if log_guide is None:
        log_guide = sum_tensors(log_probs.guide.values())
    log_probs = dataclasses.replace(log_probs, guide={**log_probs.guide, **reverse_scores})
    return join_outcomes(sum_tensors(log_probs.joint.values()), log_guide, log_probs, dims, keep)


def _has_scored_points(pair: TracePair, strategies: Mapping[str, str]) -> bool:
    """Return whether Delta sites of a one-to-one map are detached, so that their score is of log q at a fixed z.

    Raises:
        InputError: if some of the sites of the map are detached and others are not.
    """
    scored = {name: is_score(strategies[name]) for name in pair.bijection.points}
    if not any(scored.values()):
        return False
    scored |= {name: is_score(strategies[name]) for name in pair.bijection.auxiliary}
    other = next((name for name, is_scored in scored.items() if not is_scored), None)
    if other is not None:
        raise InputError(
            f"The sites {', '.join(scored)} are one draw of the guide, so they need the same strategy, but {other!r} "
            "has no score. Use 'score' only for the auxiliary site, or for all of them."
        )
    if pair.dims.width:
        raise InputError(
            f"The score of {', '.join(scored)} at a fixed z needs a run of the guide at one value of each site, but a "
            "site is enumerated. Use 'score' only for the auxiliary site."
        )
    return True


def _log_marginals(source: WeightsSource) -> tuple[Tensor | None, dict[str, Tensor]]:
    """Return log q(z given x) with auxiliary sites marginalised, or None; and the score of a reverse kernel by name.

    Tensors have the shape (*left, particles, batch).
    """
    if not source.pairs[0].auxiliary_sites:
        return None, {}
    parts = [log_marginal(pair, source.dims, source.auxiliary) for pair in source.pairs]
    scores = [score for _, score in parts if score is not None]
    log_guide = torch.cat([log_q for log_q, _ in parts], -2)
    return log_guide, {REVERSE: torch.cat(scores, -2)} if scores else {}


def _values(pairs: Sequence[TracePair], dims: PlateDims) -> dict[str, Tensor]:
    """Return the drawn z by site, shape (particles, batch, *event).

    Sites are left out if they are enumerated or depend on an enumerated site.
    """
    values = {}
    for site in pairs[0].latent_sites:
        name, value = site["name"], site["value"]
        if value.dim() > 1 + dims.nesting + site["fn"].event_dim:
            continue
        if len(pairs) == 1 and dims.particles > 1:
            values[name] = value
        else:
            drawn: list[Any] = [pair.guide.nodes[name]["value"] for pair in pairs]
            values[name] = torch.stack(drawn)
    return values


def _sum_marked(site: Site) -> str:
    """Return the strategy of a site by Pyro's mark: marked sites are summed out, other sites keep their draws.

    A guide site that is marked for several draws (``num_samples``) is drawn once for each particle: an evaluation uses
    many particles, and the ELBO does not depend on the mark by definition.
    """
    is_multiply_drawn = site["infer"].get("num_samples") is not None and not site["infer"].get("_in_model")
    return PATHWISE if is_multiply_drawn else sum_marked(site, PATHWISE)


def _data_count(pair: TracePair, plate: str) -> int:
    """Return the number of data that a batch represents: the full size of the data plate."""
    first_site = (pair.latent_sites or pair.model_sites)[0]
    for frame in first_site["cond_indep_stack"]:
        if frame.name == plate:
            return int(frame.full_size or frame.size)
    raise InputError(
        f"Weights need every site in the plate {plate!r}; {first_site['name']!r} is outside it. Move it inside."
    )


def weights_of(
    programs: BoundPrograms,
    particles: int,
    *,
    data_plate: str | None = None,
    choose: ChooseStrategy = _sum_marked,
    auxiliary: Marginal | None = None,
    per_datum: bool = True,
) -> LogWeights:
    """Return the log weights of two Pyro programs on the arguments of one batch.

    Sites that a program marks with ``infer={"enumerate": "parallel"}`` are summed out exactly within each weight. If
    these are all latent sites, the guide draws nothing, and each weight is log p(x).
    The guide's sites marked with ``infer={"is_auxiliary": True}`` are marginalised. A `pyro.factor` of the guide is in
    log q, as Pyro trains it; `BoundPrograms.without_loss_terms` leaves it out.

    Args:
        programs: both programs with their arguments.
        particles: the number of draws of z per datum, at least 1.
        data_plate: the name of the plate over data, if several plates hold every site.
        choose: the strategy of each site; by default marked sites are summed out and other sites keep their draws.
        auxiliary: the method to marginalise auxiliary sites; None for the exact sum.
        per_datum: whether each datum needs a separate weight. If not, programs without a plate that holds every site
            have one weight for the whole batch, `pvae.weights.whole_batch.weights_of_batch`.

    Raises:
        InputError: if there is no weight per datum (the error names the site that is the cause), or ``particles < 1``.
    """
    particles = require_whole(particles, "particles")
    layout = programs.layout
    if not (per_datum or layout.common_plates):
        return weights_of_batch(programs, particles, choose)
    plate, data_dim = layout.data_plate(data_plate)
    # If the guide draws nothing, all particles are equal, and one run gives the weight of each.
    pairs = trace_particles(programs, particles if layout.latent_dims else 1, choose, plate)
    require_weights_exist(pairs[0])
    require_same_masks(pairs[0])
    enumerated = pairs[0].dims
    width = enumerated.width if enumerated.sites else 0
    dims = PlateDims(layout.nesting, data_dim, particles // len(pairs), width)
    source = WeightsSource(tuple(pairs), dims, auxiliary, layout.repeatable)
    if pairs[0].auxiliary_sites:
        source.require_repeatable()
    weights = _weights_of_source(source, _data_count(pairs[0], plate), common_scale(pairs[0]))
    return dataclasses.replace(weights, _loss_terms=layout.loss_terms) if layout.loss_terms else weights


def trace_weights(
    model: Any,
    guide: Any,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    particles: int,
    *,
    data_plate: str | None = None,
    choose: ChooseStrategy = _sum_marked,
    auxiliary: Marginal | None = None,
) -> LogWeights:
    """Return the log weights of two Pyro programs on the same arguments; `weights_of` for programs that are not bound.

    Args:
        model: p(x, z).
        guide: q(z given x).
        args: the positional arguments of both programs.
        kwargs: the keyword arguments of both programs.
        particles: the number of draws of z per datum, at least 1.
        data_plate: the name of the plate over data, if several plates hold every site.
        choose: the strategy of each site; by default marked sites are summed out and other sites keep their draws.
        auxiliary: the method to marginalise auxiliary sites; None for the exact sum.

    Raises:
        InputError: if there is no weight per datum, or ``particles < 1``.
    """
    programs = BoundPrograms(model, guide, args, kwargs)
    return weights_of(programs, particles, data_plate=data_plate, choose=choose, auxiliary=auxiliary)


def log_weights(
    latent_model: Any,
    batch: Any,
    particles: int,
    *,
    data_plate: str | None = None,
    fields: Fields = None,
    split: str = "test",
) -> LogWeights:
    """Return the log weights of a latent model on a batch, run in the model's own parameter scope.

    A `pyro.factor` of the guide that is a further loss of the training is not part of q, and is left out with a
    warning.

    Args:
        latent_model: a `LatentModel`, a `pair`, or any object with ``model`` and ``guide``.
        batch: named tensors of the same data; or data in another form that `pvae.fit` takes: `pvae.data.Splits`, or the
            name or path of data, of which `split` is used; or a complete frame, array or tensor. All data are one
            batch, in the precision of the parameters.
        particles: the number of draws of z per datum, at least 1.
        data_plate: the name of the plate over data, if several plates hold every site.
        fields: as for `pvae.models.bind`.
        split: ``"train"``, ``"validation"`` or ``"test"``.

    Raises:
        InputError: as for `trace_weights` and `pvae.models.bind`.
    Source: Burda, Grosse & Salakhutdinov, Importance Weighted Autoencoders, arXiv:1509.00519, section 3 (the weights).

    Example:
        >>> import pvae, torch
        >>> weights = pvae.log_weights(pvae.VAE(4, latent=2, hidden=8), torch.eye(4), particles=100)
        >>> weights.log_w.shape  # (particles, batch)
        torch.Size([100, 4])
        >>> log_evidence = weights.log_w.logsumexp(0) - torch.tensor(100.0).log()
        >>> log_evidence.shape  # an estimate of log p(x) for each datum, nats
        torch.Size([4])
    """
    given, batch = batch, batch_of_data(latent_model, batch, split, fields)
    programs = bind(latent_model, batch, fields)
    require_usable(batch)
    require_masks_taken(programs, batch)
    if batch is not given:  # data that were read may be float64
        programs = programs.in_dtype_of_parameters()
    with scope(latent_model, inherit=True):
        return weights_of(programs.bound_to(batch).without_loss_terms(), particles, data_plate=data_plate)
