"""All calls of ArviZ, for its versions 0.2x and 1.x. ArviZ is imported on first use, because the import takes 1.5 s."""

from __future__ import annotations

import math
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pvae.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = [
    "Array",
    "arviz",
    "chain_diagnostics",
    "compare_pointwise",
    "good_khat",
    "groups_of",
    "is_v1",
    "load",
    "pareto_khat",
    "tail_length",
    "wrap",
]

#: The generalised Pareto fit of both version lines needs this many values above its threshold.
_SHORTEST_TAIL = 5
#: Log weights that differ by less than this, in nats, are constant up to rounding.
_LARGEST_ROUNDING = 1e-9

Array = NDArray[np.float64]


def is_v1() -> bool:
    """Return whether the installed ArviZ is version 1 or later.

    The version number decides, because ``hasattr(arviz, "InferenceData")`` is true for 0.2x and 1.x.
    """
    return int(version("arviz").split(".")[0]) >= 1


def arviz() -> Any:
    """Import ArviZ without its daily warning, and return the module.

    The import of ArviZ 0.23 fails if its cache folder cannot be made, or if two processes make it at the same time. A
    second attempt then uses a temporary cache folder.

    Raises:
        InputError: if no folder can be written.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        try:
            return import_module("arviz")
        except OSError:
            with _temporary_cache():
                return import_module("arviz")


@contextmanager
def _temporary_cache() -> Iterator[None]:
    """Run a block with a temporary cache folder, then restore the environment variable with its path."""
    former = os.environ.get("XDG_CACHE_HOME")
    try:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["XDG_CACHE_HOME"] = folder
            yield
    except OSError as error:
        raise InputError(
            f"ArviZ needs a cache folder that it can write to; the attempt failed ({error}). Set XDG_CACHE_HOME or "
            "TMPDIR "
            "to such a folder."
        ) from error
    finally:
        os.environ.pop("XDG_CACHE_HOME", None)
        if former is not None:
            os.environ["XDG_CACHE_HOME"] = former


def wrap(groups: Mapping[str, xr.Dataset]) -> Any:
    """Return groups in the form that ArviZ's functions take: `xarray.DataTree` (1.x) or `arviz.InferenceData` (0.2x).

    Args:
        groups: datasets by the name of the group.
    """
    if is_v1():
        return import_module("xarray").DataTree.from_dict(dict(groups))
    return arviz().InferenceData(**groups)


def groups_of(tree: Any) -> dict[str, xr.Dataset]:
    """Return the groups of a result of `wrap`, or of a file that ArviZ has read, as datasets by name."""
    if isinstance(tree, import_module("xarray").DataTree):
        return {name: node.to_dataset() for name, node in tree.children.items()}
    return {name: tree[name] for name in tree.groups()}


def load(path: str | Path) -> Any:
    """Read a file that `save` wrote; the type of the result depends on the installed version of ArviZ."""
    return arviz().from_netcdf(str(path))


def good_khat(draws: int) -> float:
    """Return the k-hat below which this number of draws is enough: min(1 - 1 / log10(draws), 0.7).

    Source: Vehtari, Simpson, Gelman, Yao & Gabry, Pareto Smoothed Importance Sampling, JMLR 25 (2024).
    """
    return min(1.0 - 1.0 / math.log10(draws), 0.7) if draws > 10 else 0.0


def tail_length(draws: int) -> int:
    """Return the number of largest weights that the tail fit uses: min(draws / 5, 3 sqrt(draws)), rounded up."""
    return math.ceil(min(0.2 * draws, 3.0 * math.sqrt(draws)))


def pareto_khat(tail: Array, draws: int) -> Array:
    """Return the Pareto k-hat of each row's weights, shape (data,), from the largest weights only.

    If the largest weights are constant (the guide is the posterior), there is no tail and k-hat is 0. It is NaN for
    fewer than 21 draws, and if a weight is not finite.

    Args:
        tail: the ``tail_length(draws) + 1`` largest log weights of each datum, shape (data, tail), largest first.
        draws: the number of all log weights.
    """
    length = tail_length(draws)
    khat = np.full(len(tail), np.nan)
    if length < _SHORTEST_TAIL:
        return khat
    finite = np.asarray(np.isfinite(tail).all(axis=1))
    # The last value is below the tail and is not used here. With discrete latents, many draws may have the largest
    # weight. The tail is then constant, and ArviZ 1.x raises an error for a constant tail.
    values = np.where(finite[:, None], tail, 0.0)[:, :length]
    constant = finite & np.asarray(values.max(axis=1) - values.min(axis=1) < _LARGEST_ROUNDING)
    khat[constant] = 0.0
    varied = finite & ~constant
    if varied.any():
        khat[varied] = _fit_tail(tail[varied], length)
    return khat


def _fit_tail(tail: Array, length: int) -> Array:
    """Return ArviZ's k-hat of each row, shape (data,).

    ArviZ expects all weights and finds the length of the tail from their number. The rows are therefore padded with
    zero weights, and the relative efficiency is chosen so that ArviZ finds a tail of `length` values.

    Args:
        tail: the largest log weights, shape (data, length + 1).
        length: the length of the tail.
    """
    padded = np.full((len(tail), 5 * (length + 1)), -np.inf)
    padded[:, : tail.shape[1]] = tail
    # ArviZ's tail length is 3 sqrt(n / efficiency), which 0.2x rounds up and 1.x rounds down.
    before_rounding = length + 0.5 if is_v1() else length - 0.5
    efficiency = 9.0 * padded.shape[1] / before_rounding**2
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if not is_v1():
            return np.asarray(arviz().psislw(padded, reff=efficiency)[1], dtype=float)
        arviz()
        statistics = import_module("arviz_stats.base").array_stats
        # 1.x expects log likelihoods, which are the negated log weights. It gives no error for the wrong sign.
        return np.asarray(statistics.psislw(-padded, r_eff=efficiency, axis=-1)[1], dtype=float)


def _elpd_data(pointwise: Array, khat: Array, draws: int) -> Any:
    """Return ArviZ's record of a pointwise log evidence; k-hat of the guide replaces k-hat of PSIS-LOO.

    Args:
        pointwise: log evidence of each datum, shape (data,), nats.
        khat: k-hat of each datum, shape (data,).
        draws: the number of draws per datum.
    """
    xarray = import_module("xarray")
    count = len(pointwise)
    total, error = float(pointwise.sum()), float(np.sqrt(count * np.var(pointwise)))
    evidence = xarray.DataArray(pointwise, dims="datum", name="loo_i")
    shape = xarray.DataArray(khat, dims="datum", name="pareto_shape")
    warning = bool((khat > good_khat(draws)).any())
    arviz()
    if is_v1():
        return import_module("arviz_stats.utils").ELPDDataLOO(
            elpd=total, se=error, p=0.0, n_samples=draws, n_data_points=count, scale="log", warning=warning,
            good_k=good_khat(draws), elpd_i=evidence, pareto_k=shape,
        )  # fmt: skip
    record = {
        "elpd_loo": total, "se": error, "p_loo": 0.0, "n_samples": draws, "n_data_points": count,
        "warning": warning, "loo_i": evidence, "pareto_k": shape, "scale": "log", "good_k": good_khat(draws),
    }  # fmt: skip
    return import_module("arviz.stats.stats_utils").ELPDData(list(record.values()), index=list(record))


def compare_pointwise(judged: Mapping[str, tuple[Array, Array, int]]) -> pd.DataFrame:
    """Return ArviZ's comparison, best first: columns ``rank``, ``difference`` (<= 0), ``error``, ``weight``.

    Differences are sums over data in nats, as in ArviZ, with the same sign for both version lines.

    Args:
        judged: for each name the pointwise log evidence, shape (data,), k-hat, shape (data,), and the number of draws.
    """
    # ArviZ's stacking exponentiates each value, so a datum with a log evidence below -745 nats would have probability 0
    # in every model. The shift of each datum prevents this; it changes no difference and no stacking weight.
    shift = np.max([pointwise for pointwise, _, _ in judged.values()], axis=0)
    records = {name: _elpd_data(pointwise - shift, khat, draws) for name, (pointwise, khat, draws) in judged.items()}
    settings: dict[str, Any] = {"round_to": "none"} if is_v1() else {"scale": "log"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", (FutureWarning, DeprecationWarning))
        table = arviz().compare(records, method="stacking", **settings)
    table = table.rename(columns={"elpd_diff": "difference", "dse": "error"})
    table["difference"] = 0.0 - table["difference"].abs()
    return table[["rank", "difference", "error", "weight"]]


def chain_diagnostics(chains: Array) -> tuple[Array, Array]:
    """Return the rank-normalised split R-hat and the bulk effective sample size of each unit, shape (units,) each.

    Args:
        chains: draws, shape (chains, draws, units).
    Source: Vehtari, Gelman, Simpson, Carpenter & Bürkner, Rank-Normalization, Folding, and Localization, Bayesian
        Analysis 16 (2021).
    """
    if is_v1():
        arviz()
        statistics = import_module("arviz_stats.base").array_stats
        by_unit = np.asarray(chains, dtype=float).transpose(2, 0, 1)
        results = [function(by_unit, chain_axis=1, draw_axis=2) for function in (statistics.rhat, statistics.ess)]
    else:
        library = arviz()
        dataset = import_module("xarray").Dataset({"z": (("chain", "draw", "unit"), np.asarray(chains, dtype=float))})
        results = [function(dataset)["z"].values for function in (library.rhat, library.ess)]
    rhat, ess = (np.asarray(result, dtype=float) for result in results)
    return rhat, ess
