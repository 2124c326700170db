"""Log weights of two Pyro programs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pvae.errors import InputError
from pvae.programs.binding import Fields, bind
from pvae.programs.layout import Site, find_layout, sample_sites
from pvae.programs.registration import scope
from pvae.weights.auxiliary import Marginal, auxiliary_sites, log_marginal
from pvae.weights.base import ONE_RUN, REVERSE, LogWeights, Source
from pvae.weights.handlers import SUMMED, Choose, marked
from pvae.weights.log_probs import Shape, Tables, collapse, tabulate, total
from pvae.weights.site_validation import common_scale, points_of, require_weights_exist
from pvae.weights.traces import Draw
from pvae.weights.vectorise import can_vectorise, draw_particles

__all__ = ["branch", "log_weights", "trace_weights"]


def branch(weights: LogWeights, name: str, values: Tensor) -> LogWeights:
    """Return the weights of runs with one site at other values, every table with a dimension of branches in front.

    Args:
        weights: of the first run.
        name: a latent site.
        values: shape (branches, *batch, *event): as the site's own value, with ones up to a dimension left of all.
    """
    source = weights.only_source()
    first = source.first()
    source.require_repeatable()
    if source.shape.particles == 1 and not can_vectorise(*first.programs, *first.arguments, 2):
        raise InputError(f"Site {name!r}: {ONE_RUN}")
    wide = dataclasses.replace(source.shape, left=source.shape.left + 1)
    other = dataclasses.replace(source, draws=(source.first().branch(name, values),), shape=wide)
    return _weights(other, weights.count, weights.scale, keep=1)


def _weights(source: Source, count: int, scale: float | Tensor, keep: int = 0) -> LogWeights:
    """The weights of one pair of runs, or of several with `keep` dimensions of branches in front."""
    draws, axes = list(source.draws), source.first().axes
    tables = tabulate(draws, source.shape)
    log_guide, reverse = _guide_total(source, tables)
    if reverse is not None:
        tables = dataclasses.replace(tables, guide={**tables.guide, REVERSE: reverse})
    table = collapse(tables, log_guide, axes, keep)
    latent = source.first().latent()
    return LogWeights(
        log_joint=table.log_joint,
        log_guide=table.log_guide,
        scale=scale,
        count=count,
        values={} if keep else _values(draws, source.shape),
        not_reparameterised=tuple(site["name"] for site in latent if not site["fn"].has_rsample),
        strategies={site["name"]: _strategy(site) for site in latent} | ({} if reverse is None else {REVERSE: "score"}),
        log_outcome=table.log_outcome,
        site_log_guide=table.guide,
        _site_log_joint=table.joint,
        _observed=tuple(site["name"] for site in sample_sites(draws[0].model) if site["is_observed"]),
        beneath=table.beneath,
        _split=not axes.names(SUMMED) and not auxiliary_sites(draws[0]),
        _points=points_of(draws[0]),
        _source=source,
    )


def _strategy(site: Site) -> str:
    return str(site["infer"].get("_strategy", "pathwise"))


def _guide_total(source: Source, tables: Tables) -> tuple[Tensor, Tensor | None]:
    """Log q(z given x), and the score of a reverse kernel's draws where it has drawn without a gradient."""
    if not auxiliary_sites(source.first()):
        return total(tables.guide.values()), None
    parts = [log_marginal(draw, source.shape, source.auxiliary) for draw in source.draws]
    scores = [score for _, score in parts if score is not None]
    return torch.cat([each for each, _ in parts], -2), torch.cat(scores, -2) if scores else None


def _values(draws: list[Draw], shape: Shape) -> dict[str, Tensor]:
    """The drawn z by site, particles in front; without sites that stand for all their values, or depend on such."""

    def of(name: str) -> Tensor:
        drawn: list[Any] = [draw.guide.nodes[name]["value"] for draw in draws]
        return drawn[0] if len(draws) == 1 and shape.particles > 1 else torch.stack(drawn)

    def single(site: Site) -> bool:
        return bool(site["value"].dim() <= 1 + shape.nesting + site["fn"].event_dim)

    return {site["name"]: of(site["name"]) for site in draws[0].latent() if single(site)}


def _by_mark(site: Site) -> str:
    return SUMMED if marked(site) else "pathwise"


def _count(draw: Draw, plate: str) -> int:
    frame = next(each for each in draw.latent()[0]["cond_indep_stack"] if each.name == plate)
    return int(frame.full_size or frame.size)


def trace_weights(
    model: Any,
    guide: Any,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    particles: int,
    *,
    data_plate: str | None = None,
    choose: Choose = _by_mark,
    auxiliary: Marginal | None = None,
) -> LogWeights:
    """Return the log weights of two Pyro programs on the same arguments.

    Sites that a program marks with ``infer={"enumerate": "parallel"}`` are summed out exactly within each weight;
    the guide's sites marked with ``infer={"is_auxiliary": True}`` are marginalised.

    Args:
        model: p(x, z).
        guide: q(z given x).
        args: positional arguments of both.
        kwargs: keyword arguments of both.
        particles: how many z are drawn per datum, at least 1.
        data_plate: the name of the plate over data, where several hold every site.
        choose: how the gradient of each site is taken, by default as it is drawn.
        auxiliary: how auxiliary sites are marginalised; None for the exact sum.

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
    draws = draw_particles(model, guide, args, options, particles, choose, plate)
    require_weights_exist(draws[0])
    shape = Shape(layout.nesting, data_dim, particles // len(draws), len(draws[0].axes.sites))
    source = Source(tuple(draws), shape, auxiliary, layout.repeatable)
    if auxiliary_sites(draws[0]):
        source.require_repeatable()
    return _weights(source, _count(draws[0], plate), common_scale(draws[0]))


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
