"""The one place that knows ArviZ, of the 0.2x and of the 1.x line. ArviZ is imported on first use (1.5 s)."""

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
    "arviz",
    "compare_pointwise",
    "good_khat",
    "groups_of",
    "is_v1",
    "load",
    "pareto_khat",
    "tail_length",
    "wrap",
]

_LEAST_TAIL = 5  # the generalised Pareto fit of either line needs as many values above its threshold
_CONSTANT = 1e-9  # nats: weights that differ by less are constant up to rounding

Array = NDArray[np.float64]


def is_v1() -> bool:
    """Whether ArviZ is of the 1.x line. ``hasattr(arviz, "InferenceData")`` is true on both lines."""
    return int(version("arviz").split(".")[0]) >= 1


def arviz() -> Any:
    """Import ArviZ without its daily warning.

    ArviZ 0.23 fails to import where its cache folder cannot be made, or where two processes make it at one
    moment; the second attempt uses a folder of its own.

    Raises:
        InputError: if there is no folder that can be written at all.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        try:
            return import_module("arviz")
        except OSError:
            with _own_cache():
                return import_module("arviz")


@contextmanager
def _own_cache() -> Iterator[None]:
    before = os.environ.get("XDG_CACHE_HOME")
    try:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["XDG_CACHE_HOME"] = folder
            yield
    except OSError as error:
        raise InputError(
            f"ArviZ needs a cache folder it can write ({error}); set XDG_CACHE_HOME or TMPDIR to one."
        ) from error
    finally:
        os.environ.pop("XDG_CACHE_HOME", None)
        if before is not None:
            os.environ["XDG_CACHE_HOME"] = before


def wrap(groups: Mapping[str, xr.Dataset]) -> Any:
    """Return what ArviZ's functions take: `xarray.DataTree` (1.x) or `arviz.InferenceData` (0.2x)."""
    if is_v1():
        return import_module("xarray").DataTree.from_dict(dict(groups))
    return arviz().InferenceData(**groups)


def groups_of(tree: Any) -> dict[str, xr.Dataset]:
    """Return the groups of a `wrap` result, or of what ArviZ reads from a file, as plain datasets."""
    if hasattr(tree, "children"):
        return {name: node.to_dataset() for name, node in tree.children.items()}
    return {name: tree[name] for name in tree.groups()}


def load(path: str | Path) -> Any:
    """Return what `save` wrote, as ArviZ reads it."""
    return arviz().from_netcdf(str(path))


def good_khat(draws: int) -> float:
    """Return the k-hat below which this many draws suffice: min(1 - 1 / log10(draws), 0.7).

    Source: Vehtari, Simpson, Gelman, Yao & Gabry, Pareto Smoothed Importance Sampling, JMLR 25 (2024).
    """
    return min(1.0 - 1.0 / math.log10(draws), 0.7) if draws > 10 else 0.0


def tail_length(draws: int) -> int:
    """Number of largest weights that the tail fit uses: min(draws / 5, 3 sqrt(draws)), rounded up."""
    return math.ceil(min(0.2 * draws, 3.0 * math.sqrt(draws)))


def pareto_khat(tail: Array, draws: int) -> Array:
    """Return the Pareto k-hat of each row's weights, from the largest alone.

    Where the largest weights are constant (the guide is the posterior) there is no tail, and k-hat is 0. NaN
    where there are fewer than 21 draws, or a weight is not finite.

    Args:
        tail: the ``tail_length(draws) + 1`` largest log weights of each datum, shape (data, kept).
        draws: how many log weights there were.
    """
    length = tail_length(draws)
    khat = np.full(len(tail), np.nan)
    if length < _LEAST_TAIL:
        return khat
    finite = np.asarray(np.isfinite(tail).all(axis=1))
    # the value below the tail apart: with discrete latents many draws share the greatest weight; 1.x raises
    spread = np.where(finite[:, None], tail, 0.0)[:, :length]
    constant = finite & np.asarray(spread.max(axis=1) - spread.min(axis=1) < _CONSTANT)
    khat[constant] = 0.0
    varied = finite & ~constant
    if varied.any():
        khat[varied] = _fit(tail[varied], length)
    return khat


def _fit(tail: Array, length: int) -> Array:
    """ArviZ's fit on rows padded with zero weights, told such an efficiency that its tail is `length`."""
    padded = np.full((len(tail), 5 * (length + 1)), -np.inf)
    padded[:, : tail.shape[1]] = tail
    # 3 sqrt(n / r) is the tail length; 0.2x rounds it up, 1.x down
    wanted = length + 0.5 if is_v1() else length - 0.5
    efficiency = 9.0 * padded.shape[1] / wanted**2
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if not is_v1():
            return np.asarray(arviz().psislw(padded, reff=efficiency)[1], dtype=float)
        arviz()
        statistics = import_module("arviz_stats.base").array_stats
        # 1.x takes log likelihoods, that is the negated log weights; the sign is wrong in silence otherwise
        return np.asarray(statistics.psislw(-padded, r_eff=efficiency, axis=-1)[1], dtype=float)


def _elpd(pointwise: Array, khat: Array, draws: int) -> Any:
    """ArviZ's record of a pointwise evidence, with the guide's k-hat in the place of PSIS-LOO's."""
    xarray = import_module("xarray")
    count = len(pointwise)
    total, error = float(pointwise.sum()), float(np.sqrt(count * np.var(pointwise)))
    each = xarray.DataArray(pointwise, dims="datum", name="loo_i")
    shape = xarray.DataArray(khat, dims="datum", name="pareto_shape")
    warned = bool((khat > good_khat(draws)).any())
    if is_v1():
        arviz()
        make = import_module("arviz_stats.utils").ELPDDataLOO
        return make(
            elpd=total, se=error, p=0.0, n_samples=draws, n_data_points=count, scale="log", warning=warned,
            good_k=good_khat(draws), elpd_i=each, pareto_k=shape,
        )  # fmt: skip
    arviz()
    make = import_module("arviz.stats.stats_utils").ELPDData
    record = {
        "elpd_loo": total, "se": error, "p_loo": 0.0, "n_samples": draws, "n_data_points": count,
        "warning": warned, "loo_i": each, "pareto_k": shape, "scale": "log", "good_k": good_khat(draws),
    }  # fmt: skip
    return make(list(record.values()), index=list(record))


def compare_pointwise(judged: Mapping[str, tuple[Array, Array, int]]) -> pd.DataFrame:
    """Return ArviZ's comparison, best first: columns ``rank``, ``difference`` (<= 0), ``error``, ``weight``.

    Differences are sums over data in nats, as ArviZ gives them, with one sign for both lines.

    Args:
        judged: for each name, pointwise log evidence (data,), k-hat (data,), and the number of draws.
    """
    # ArviZ's stacking exponentiates each value: without the shift, which changes no difference and no
    # stacking weight, pictures below exp(-745) have probability 0 in every model
    shift = np.max([pointwise for pointwise, _, _ in judged.values()], axis=0)
    records = {name: _elpd(each - shift, khat, draws) for name, (each, khat, draws) in judged.items()}
    settings: dict[str, Any] = {"round_to": "none"} if is_v1() else {"scale": "log"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", (FutureWarning, DeprecationWarning))
        table = arviz().compare(records, method="stacking", **settings)
    table = table.rename(columns={"elpd_diff": "difference", "dse": "error"})
    table["difference"] = 0.0 - table["difference"].abs()
    return table[["rank", "difference", "error", "weight"]]
