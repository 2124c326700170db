"""Export of draws to ArviZ, as netCDF files."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Mapping
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
from pvae.data import Schema, Splits
from pvae.errors import InputError, first_line
from pvae.evaluate.arviz_versions import arviz, groups_of, load, wrap
from pvae.evaluate.evaluated_data import ModelOrRun, schema_of
from pvae.evaluate.evaluation_context import EvaluationContext, evaluation_context
from pvae.evaluate.shared_latents import draw_jointly
from pvae.files import replace_file, require_space
from pvae.memory import require_memory
from pvae.programs.bound import BoundPrograms
from pvae.programs.sites import Site, sample_sites
from pvae.weights.posterior_draws import draw_latents

__all__ = ["load", "save", "to_arviz"]

_DRAW_DIMS = ("chain", "draw", "datum")
_WEIGHTS = "log_weights"
_BYTES_OF_NAMES = 1 << 20  # the size of a netCDF file without the values

#: The attribute ``draws`` of a group, for the groups of the guide and of the prior.
_ORIGINS = (
    "from the guide q(z | x): amortised, not from the exact posterior; sites that are enumerated or summed out: from "
    "their exact posterior given the other sites",
    "from the prior",
)

#: Tensors by ArviZ's group, then by site.
Groups = dict[str, dict[str, Tensor]]


def to_arviz(model: ModelOrRun, data: Any = None, draws: int = 100, *, limit: int | None = 100, **where: Any) -> Any:
    """Return draws in the form that ArviZ reads: `arviz.InferenceData` (ArviZ 0.2x) or `xarray.DataTree` (1.x).

    The groups are ``posterior`` (z from the guide, which is amortised and not the exact posterior; a site y that is
    enumerated or summed out from its exact posterior given x and z), ``sample_stats`` with ``log_weights`` (log p(x, z)
    - log q(z given x) with y summed out, nats), ``posterior_predictive`` (x given these draws), ``prior``,
    ``prior_predictive``, ``observed_data``, and ``constant_data`` for the other fields. The dimensions are chain (of
    size one), draw, datum, and the dimensions of the event. A latent site that all data share has no dimension datum,
    and ``log_weights`` are then those of all data together. There is no group ``log_likelihood``, because `arviz.loo`
    would compute a wrong quantity from draws of latents that belong to one datum each; use `compare_evidence`.

    Args:
        model: a run, a latent model, a class of Pyro's tutorials, a `pvae.pair`.
        data: `Splits` (the test split), or another form of data; None for the data of a run. See `pvae.evaluate`.
        draws: the number of draws of z per datum, and from the prior.
        limit: the largest number of data; a random subset is drawn by the seed. None takes all. The coordinate datum is
            the position among all data. The size of the file grows with draws times limit.
        where: ``seed``, ``device``, ``split``, ``fields``, ``data_plate``; see `pvae.evaluate`.

    Raises:
        InputError: if there are no data, `draws` is below 1, the programs give no weight, or the draws need more memory
            than is free.

    Example:
        >>> import pvae, torch
        >>> _ = torch.manual_seed(0)
        >>> model, x = pvae.VAE(4, latent=2, hidden=8), torch.eye(4)
        >>> tree = pvae.evaluate.to_arviz(model, x, draws=5)
        >>> dict(tree["posterior"]["z"].sizes)
        {'chain': 1, 'draw': 5, 'datum': 4, 'z_dim_0': 2}
    """
    draws = require_whole(draws, "draws")
    schema = data.schema if isinstance(data, Splits) else schema_of(model)
    with evaluation_context(model, data, limit=limit, **where) as context:
        programs = context.bound_to(context.batch)
        data_dims = _data_dims(programs, _data_plate(context, programs))
        drawn = [_draw(context, programs, data_dims)]
        size = sum(value.nbytes for group in drawn[0].values() for value in group.values())
        advice = f"Lower draws, which is {draws}, or limit."
        # The draws and the arrays made of them are in memory at the same time.
        require_memory(2.0 * draws * size, "cpu", f"An export of {draws} draws of {context.batch.size} data", advice)
        drawn += [_draw(context, programs, data_dims) for _ in range(draws - 1)]
        observed = _observed(programs, data_dims)
    shared = {name for name, dim in data_dims.items() if dim is None}
    datasets = {}
    for group in drawn[0]:
        names = [name for name in drawn[0][group] if all(name in draw[group] for draw in drawn)]
        stacked = {name: torch.stack([draw[group][name] for draw in drawn]) for name in names}
        datasets[group] = _dataset(stacked, shared=shared).assign_attrs(draws=_ORIGINS["prior" in group])
    datasets["observed_data"] = _dataset(observed, ("datum",))
    constant = {name: value.cpu() for name, value in context.batch.items() if name not in observed}
    if constant:
        datasets["constant_data"] = _dataset(constant, ("datum",))
    positions = torch.arange(context.batch.size) if context.subset is None else context.subset.indices()
    named = {
        name: _with_names(dataset, schema, positions.numpy()) for name, dataset in datasets.items() if dataset.data_vars
    }
    return wrap(named)


def save(tree: Any, path: str | Path) -> Path:
    """Write the result of `to_arviz` as one netCDF-4 file, which ``arviz.from_netcdf`` of both version lines reads.

    Args:
        tree: the result of `to_arviz`.
        path: the file, such as ``draws.nc``; an existing file is replaced.

    Raises:
        InputError: if the folder does not exist.
        OSError: if the disk is full.

    Example:
        >>> import pvae, torch
        >>> _ = torch.manual_seed(0)
        >>> model, x = pvae.VAE(4, latent=2, hidden=8), torch.eye(4)
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "draws.nc"
        >>> written = pvae.evaluate.save(pvae.evaluate.to_arviz(model, x, draws=5), path)
        >>> path.exists()
        True
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise InputError(f"{path} cannot be written: there is no folder {path.parent}. Create the folder first.")
    tree = import_module("xarray").DataTree.from_dict(groups_of(tree))
    with replace_file(path) as unfinished:
        require_space(unfinished, tree.nbytes + _BYTES_OF_NAMES)
        tree.to_netcdf(unfinished, engine="h5netcdf")
    return path


def _data_plate(context: EvaluationContext, programs: BoundPrograms) -> tuple[str, int]:
    """Return the plate over data: the plate of all sites, or that of the observed data if they share a latent site."""
    plate = programs.layout.observed_plate()
    if programs.layout.shared() and plate is not None:
        return plate
    return programs.layout.data_plate(context.data_plate)


def _data_dims(programs: BoundPrograms, plate: tuple[str, int]) -> dict[str, int | None]:
    """Return the dimension of the data in the value of each sample site, counted from the right; None if it has none.

    Args:
        programs: both programs on all data.
        plate: the name of the plate over data, and its dimension in a site's batch shape, counted from the right.
    """
    name, plate_dim = plate
    dims: dict[str, int | None] = {_WEIGHTS: None if programs.layout.shared() else 0}
    for trace in programs.trace_both():
        for site in _sample_sites(trace):
            is_inside = name in {frame.name for frame in site["cond_indep_stack"]}
            dims[site["name"]] = _data_dim(site, plate_dim, programs.size) if is_inside else None
    return dims


def _data_dim(site: Site, plate_dim: int, size: int) -> int | None:
    """Return the dimension of the data in the value of a site in their plate, counted from the right.

    ``pyro.deterministic`` counts all dimensions as event dimensions, unless ``event_dim`` is given. Then the first
    dimension of the size of the data is returned; None if there is none.

    Args:
        site: the site.
        plate_dim: the dimension of the plate in the site's batch shape, counted from the right.
        size: the number of data.
    """
    dim: int = plate_dim - site["fn"].event_dim
    shape = site["value"].shape
    if not site["infer"].get("_deterministic") or -dim <= len(shape):
        return dim
    return next((index - len(shape) for index, length in enumerate(shape) if length == size), None)


def _sample_sites(trace: poutine.Trace) -> list[Site]:
    """Return the sample sites of a trace in order, with ``pyro.deterministic`` and without subsample indices."""
    sites: list[Site] = list(prune_subsample_sites(trace).nodes.values())
    return [site for site in sites if site["type"] == "sample"]


def _values(sites: Iterable[Site], data_dims: Mapping[str, int | None]) -> dict[str, Tensor]:
    """Return the values of sites by name, on the CPU, with the dimension of the data first."""
    values = {}
    for site in sites:
        dim, value = data_dims[site["name"]], site["value"]
        values[site["name"]] = (value if dim is None else value.movedim(dim, 0)).cpu()
    return values


def _weigh(context: EvaluationContext, programs: BoundPrograms) -> tuple[dict[str, Tensor], Tensor]:
    """Return one draw of z by site, and its log weight, shape (data,) or, if the data share a site, ()."""
    if programs.layout.shared():
        return draw_jointly(context)
    weights = context.log_weights(context.batch, 1)
    return draw_latents(weights), weights.log_w[0].to("cpu", torch.float64)


def _draw(context: EvaluationContext, programs: BoundPrograms, data_dims: Mapping[str, int | None]) -> Groups:
    """Return one draw of the groups that have draws; in tensors with a dimension of the data, it is the first."""
    latents, log_weights = _weigh(context, programs)
    prior_sites = _prior_sites(programs)
    posterior_sites = _sample_sites(programs.trace_model(values=latents, simulate=True))

    def latent_values(sites: list[Site]) -> dict[str, Tensor]:
        return _values([site for site in sites if site["name"] in latents], data_dims)

    def other_values(sites: list[Site]) -> dict[str, Tensor]:
        return _values([site for site in sites if site["name"] not in latents], data_dims)

    return {
        "posterior": latent_values(posterior_sites),
        "sample_stats": {_WEIGHTS: log_weights},
        "posterior_predictive": other_values(posterior_sites),
        "prior": latent_values(prior_sites),
        "prior_predictive": other_values(prior_sites),
    }


def _prior_sites(programs: BoundPrograms) -> list[Site]:
    """Return the sites of a simulation of the model; none, with a warning, if drawing from its prior fails."""
    try:
        return _sample_sites(programs.trace_model(simulate=True))
    except (ArithmeticError, RuntimeError, ValueError) as error:
        warnings.warn(
            f"The groups prior and prior_predictive are left out, because the model fails at a draw of its prior: "
            f"{first_line(error)}",
            stacklevel=2,
        )
        return []


def _observed(programs: BoundPrograms, data_dims: Mapping[str, int | None]) -> dict[str, Tensor]:
    """Return the values of the observed sites by name, with the dimension of the data first."""
    _, model_trace = programs.trace_both()
    return _values([site for site in sample_sites(model_trace) if site["is_observed"]], data_dims)


def _dataset(
    values: Mapping[str, Tensor], leading_dims: tuple[str, ...] = _DRAW_DIMS, shared: Collection[str] = ()
) -> Any:
    """Return a dataset with ArviZ's names of dimensions: `leading_dims`, then ``z_dim_0``, ``z_dim_1``, ...

    Args:
        values: tensors by site, of shape (draw, datum, *event), or (datum, *event) if there are no draws. The dimension
            of the chain is added.
        leading_dims: the names of the dimensions before the event dimensions.
        shared: the variables without a dimension of the data.
    """
    arviz()  # sets up the cache folder and the warnings of ArviZ before xarray loads ArviZ's accessors
    xarray = import_module("xarray")
    has_draws = leading_dims == _DRAW_DIMS
    variables = {}
    for name, value in values.items():
        array = value.unsqueeze(0).numpy() if has_draws else value.numpy()
        own_dims = [dim for dim in leading_dims if dim != "datum" or name not in shared]
        event_dims = [f"{name}_dim_{index}" for index in range(array.ndim - len(own_dims))]
        variables[name] = ([*own_dims, *event_dims], array)
    attributes = {"inference_library": "pvae", "inference_library_version": __version__}
    return xarray.Dataset(variables, coords=_coordinates(variables), attrs=attributes)


def _with_names(dataset: Any, schema: Schema, positions: Any) -> Any:
    """Return a dataset with the positions of the data, and with the names of the columns for the features of x.

    Args:
        dataset: the dataset.
        schema: the names of the columns.
        positions: the position of each datum among all data, shape (data,).
    """
    if "datum" in dataset.dims:
        dataset = dataset.assign_coords(datum=positions)
    fits = "x" in dataset and dataset.sizes.get("x_dim_0") == len(schema.columns) and "x_dim_1" not in dataset.sizes
    return dataset.assign_coords(x_dim_0=list(schema.columns)) if fits else dataset


def _coordinates(variables: Mapping[str, tuple[list[str], Any]]) -> dict[str, Any]:
    """Return the coordinates 0, 1, 2, ... of each dimension."""
    coordinates = {}
    for dims, array in variables.values():
        for dim, size in zip(dims, array.shape, strict=True):
            coordinates[dim] = np.arange(size)
    return coordinates
