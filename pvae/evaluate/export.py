"""Export to ArviZ, and ArviZ's comparison of models on pointwise log evidence."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pyro import poutine
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from pvae import __version__
from pvae.checks import require_whole
from pvae.errors import InputError
from pvae.evaluate.adapter import arviz, compare_pointwise, good_khat, groups_of, load, wrap
from pvae.evaluate.evaluation_context import Setting, prepared
from pvae.evaluate.judgement import Judgement
from pvae.files import replace_file
from pvae.weights import log_weights

__all__ = ["compare_evidence", "load", "save", "to_arviz"]

_SAMPLE = ("chain", "draw", "datum")
Draws = dict[str, dict[str, Tensor]]
Site = dict[str, Any]


def to_arviz(model: Any, data: Any, draws: int = 100, *, limit: int | None = 100, **where: Any) -> Any:
    """Return draws as ArviZ takes them: `arviz.InferenceData` (ArviZ 0.2x) or `xarray.DataTree` (1.x).

    Groups: ``posterior`` (z from the guide, so amortised: not from the exact posterior), ``sample_stats``
    with ``log_weights`` (log p(x, z) - log q(z given x), nats), ``posterior_predictive``, ``prior``,
    ``prior_predictive``, ``observed_data``, and ``constant_data`` for the other fields. Dimensions are chain
    (one), draw, datum, and those of the event. There is no ``log_likelihood`` on purpose: `arviz.loo` on
    draws of latents that belong to one datum each is the wrong quantity; `compare_evidence` is right.

    Args:
        model: a run, a latent model, a class of Pyro's tutorials, a `pvae.pair`.
        data: `Splits` (the test split), a `Batch`, a tensor or an array: the data that the draws are for.
        draws: draws of z per datum, and of the prior.
        limit: only this many data, the first ones; None for all. The file grows with draws times limit.
        where: ``seed``, ``device``, ``split``, ``fields``, ``data_plate`` of `prepared`.

    Raises:
        InputError: if there are no data, `draws` is below 1, or the programs give no weight per datum.
    """
    draws = require_whole(draws, "draws")
    with prepared(model, data, limit=limit, **where) as setting:
        axes = _axes(setting)
        drawn = [_one(setting, axes) for _ in range(draws)]
        observed = _observed(setting)
    groups = {
        group: _dataset({name: torch.stack([each[group][name] for each in drawn]) for name in drawn[0][group]})
        for group in drawn[0]
    }
    groups["observed_data"] = _dataset(observed, ("datum",))
    constant = {name: each.cpu() for name, each in setting.batch.items() if name not in observed}
    if constant:
        groups["constant_data"] = _dataset(constant, ("datum",))
    return wrap({name: group for name, group in groups.items() if group.data_vars})


def save(tree: Any, path: str | Path) -> Path:
    """Write what `to_arviz` gave as one netCDF-4 file, which ``arviz.from_netcdf`` of either line reads.

    Args:
        tree: from `to_arviz`.
        path: the file, such as ``draws.nc``; replaced where it exists.

    Raises:
        InputError: if the folder does not exist.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise InputError(f"{path} cannot be written: there is no folder {path.parent}.")
    tree = import_module("xarray").DataTree.from_dict(groups_of(tree))
    with replace_file(path) as unfinished:
        tree.to_netcdf(unfinished, engine="h5netcdf")
    return path


def compare_evidence(judged: Mapping[str, Judgement | tuple[Any, Any, int]]) -> Any:
    """Return a pandas table of models by log evidence, best first, as `arviz.compare` ranks them.

    Columns, in nats per datum: ``rank`` (0 is best), ``log_evidence`` and ``error``, ``difference`` to the
    best (at most 0) and ``difference_error`` (paired), ``weight`` (stacking), and ``unreliable``: the number
    of data whose k-hat says that the evidence is too low.

    Args:
        judged: for each name a `Judgement`, or pointwise log evidence (data,), k-hat (data,) and the number
            of particles; all on the same data in the same order.

    Raises:
        InputError: if there is nothing to compare, data differ in number, or an evidence is not finite.
    """
    records = {name: _record(name, each) for name, each in judged.items()}
    counts = {name: len(record[0]) for name, record in records.items()}
    if not records or len(set(counts.values())) != 1:
        raise InputError(f"A comparison needs models judged on the same data; got {counts or 'none'}.")
    table = compare_pointwise(records)
    count = next(iter(counts.values()))
    root = np.sqrt(count)
    table["log_evidence"] = [records[name][0].mean() for name in table.index]
    table["error"], table["difference_error"] = (
        [records[name][0].std(ddof=1) / root if count > 1 else np.nan for name in table.index],
        table["error"] / count,
    )
    table["difference"] = table["difference"] / count
    table["unreliable"] = [_unreliable(records[name]) for name in table.index]
    columns = ["rank", "log_evidence", "error", "difference", "difference_error", "weight", "unreliable"]
    return table[columns]


def _unreliable(record: tuple[Any, Any, int]) -> int:
    _, khat, particles = record
    return int((~(khat <= good_khat(particles))).sum())


def _record(name: str, judged: Judgement | tuple[Any, Any, int]) -> tuple[Any, Any, int]:
    if isinstance(judged, Judgement):
        judged = judged.log_evidence.pointwise, judged.khat, judged.particles
    pointwise, khat = (np.asarray(each, dtype=float) for each in judged[:2])
    if not np.isfinite(pointwise).all():
        bad = int((~np.isfinite(pointwise)).sum())
        raise InputError(f"{name!r} has no finite log evidence for {bad} of {len(pointwise)} data.")
    return pointwise, khat, int(judged[2])


def _axes(setting: Setting) -> dict[str, int]:
    """The dimension of the data in each sample site's value, counted from the right."""
    dim = setting.data_dim(setting.batch)
    sites = [site for trace in setting.traces(setting.batch) for site in _samples(trace)]
    return {site["name"]: dim - site["fn"].event_dim for site in sites}


def _samples(trace: poutine.Trace) -> list[Site]:
    sites: list[Any] = list(prune_subsample_sites(trace).nodes.values())
    return [site for site in sites if site["type"] == "sample"]


def _front(value: Tensor, axis: int) -> Tensor:
    return value.movedim(axis, 0).cpu()


def _one(setting: Setting, axes: Mapping[str, int]) -> Draws:
    """One draw of everything, with the data first in every tensor."""
    programs = setting.programs().bound_to(setting.batch)
    weights = log_weights(setting.model, setting.batch, 1, data_plate=setting.data_plate, fields=setting.fields)
    latents = {name: value[0] for name, value in weights.values.items()}
    prior = _samples(programs.trace_model(simulate=True))
    posterior = _samples(programs.trace_model(values=latents, simulate=True))

    def kept(sites: list[Site], latent: bool) -> dict[str, Tensor]:
        chosen = [site for site in sites if (site["name"] in latents) is latent]
        return {site["name"]: _front(site["value"], axes[site["name"]]) for site in chosen}

    return {
        "posterior": kept(posterior, True),
        "sample_stats": {"log_weights": weights.log_w[0].to("cpu", torch.float64)},
        "posterior_predictive": kept(posterior, False),
        "prior": kept(prior, True),
        "prior_predictive": kept(prior, False),
    }


def _observed(setting: Setting) -> dict[str, Tensor]:
    dim = setting.data_dim(setting.batch)
    _, model = setting.traces(setting.batch)
    return {
        site["name"]: _front(site["value"], dim - site["fn"].event_dim)
        for site in _samples(model)
        if site["is_observed"]
    }


def _dataset(values: Mapping[str, Tensor], leading: tuple[str, ...] = _SAMPLE) -> Any:
    """A dataset with ArviZ's names of dimensions: those leading, then ``z_dim_0``, ``z_dim_1``, ..."""
    arviz()  # with its cache folder and its warnings seen to, before xarray finds its accessors
    xarray = import_module("xarray")
    variables = {}
    for name, value in values.items():
        array = value.unsqueeze(0).numpy() if leading == _SAMPLE else value.numpy()
        dims = [*leading, *(f"{name}_dim_{place}" for place in range(array.ndim - len(leading)))]
        variables[name] = (dims, array)
    attributes = {"inference_library": "pvae", "inference_library_version": __version__}
    if leading == _SAMPLE:
        attributes["draws"] = "from the guide q(z | x): amortised, not from the exact posterior"
    return xarray.Dataset(variables, coords=_counted(variables), attrs=attributes)


def _counted(variables: Mapping[str, tuple[list[str], Any]]) -> dict[str, Any]:
    return {
        dim: np.arange(size) for dims, array in variables.values() for dim, size in zip(dims, array.shape, strict=True)
    }
