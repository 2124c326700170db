"""The output of ``pvae em``: parameters, results and figures in a folder, and a summary as text."""

from __future__ import annotations

from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvae.commands.mixture_assignments import write_assignments
from pvae.commands.output import format_rows, format_table, json_text
from pvae.files import write_text

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

    from pvae.data import Splits
    from pvae.em import GaussianMixture

__all__ = ["components_figure", "history_figure", "summary_text", "write_results"]

MOST_POINTS = 2000  # of the figure with ellipses


def write_results(
    folder: Path,
    result: dict[str, Any],
    mixture: GaussianMixture,
    splits: Splits,
    tables: dict[str, np.ndarray],
    *,
    keep_formulas: bool = False,
) -> None:
    """Write ``mixture.safetensors``, ``em.json``, ``assignments.csv`` and the figures to a folder.

    Args:
        folder: the folder, which is made if it does not exist.
        result: the results by name.
        mixture: the fitted mixture.
        splits: the data.
        tables: x of each split, shape (data, features).
        keep_formulas: whether names of rows that a spreadsheet would run as a formula are written as they are.
    """
    from pvae.plots import save_figure

    folder.mkdir(parents=True, exist_ok=True)
    x = tables["train"]
    _named(mixture, splits).save(folder / "mixture.safetensors")
    write_assignments(folder / "assignments.csv", mixture, splits, tables, keep_formulas=keep_formulas)
    write_text(folder / "em.json", json_text(result) + "\n")
    figures = {
        "history": history_figure(mixture),
        "components": components_figure(mixture, splits, x),
        "selection": _selection_figure(result, mixture, len(x)),
    }
    for name, figure in figures.items():
        if figure is not None:
            facts = {"run": folder, "figure": name, "data": splits.name, "seed": mixture.random_state}
            save_figure(figure, folder / f"{name}.png", facts)


def _named(mixture: GaussianMixture, splits: Splits) -> GaussianMixture:
    """Return the mixture with the names of its features, where the data have names."""
    named = copy(mixture)
    if splits.schema.columns:
        import numpy as np

        named.feature_names_in_ = np.array(splits.schema.columns, dtype=object)
    return named


def history_figure(mixture: GaussianMixture) -> Figure:
    """Return the log-likelihood of each EM step."""
    import numpy as np

    from pvae import plots

    steps = np.arange(1, len(mixture.lower_bounds_) + 1)
    curves = {f"{len(mixture.weights_)} components": [(steps, mixture.lower_bounds_)]}
    return plots.learning_curves(
        curves,
        xlabel="step",
        ylabel="log-likelihood (nats per datum)",
        title="Log-likelihood of the training data after each step of EM",
    )


def components_figure(mixture: GaussianMixture, splits: Splits, x: np.ndarray) -> Figure | None:
    """Return the components as pictures, or as ellipses over the data; None for data of one feature."""
    from pvae import plots

    if len(splits.data_shape) > 1:
        return plots.mixture_pictures(mixture.means_.reshape(-1, *splits.data_shape), mixture.weights_)
    if x.shape[1] == 1:
        return None
    points = mixture.impute(x[:: max(1, len(x) // MOST_POINTS)])
    return plots.mixture_ellipses(
        points,
        mixture.predict(points),
        mixture.weights_,
        mixture.means_,
        mixture.dense_covariances(),
        feature_names=splits.schema.columns,
    )


def _selection_figure(result: dict[str, Any], mixture: GaussianMixture, data: int) -> Figure | None:
    """Return BIC and AIC for each number of components, in nats per datum; None without ``--select``."""
    from pvae import plots

    if "selection" not in result:
        return None
    fits = result["selection"]["fits"]
    criteria = {name.upper(): [fit[name] / data for fit in fits] for name in ("bic", "aic")}
    return plots.selection_curve([fit["asked"] for fit in fits], criteria, best=mixture.n_components)


def summary_text(result: dict[str, Any]) -> str:
    """Return the results as text for a person.

    Args:
        result: the results by name.
    """
    sizes = ", ".join(f"{count} {name}" for name, count in result["data_set"]["sizes"].items() if count)
    merged = f", merged from {result['asked']}" if result["components"] < result["asked"] else ""
    end = "converged" if result["converged"] else "not converged"
    rows = {
        "data": f"{result['data_set']['name']}: {sizes}",
        "mixture": f"{result['components']} components, {result['covariance']} covariances{merged}",
        "EM": f"{result['steps']} steps in {result['seconds']:.2f} s, {end}",
    }
    for name, estimate in result["log_likelihood"].items():
        rows[f"log p, {name}"] = f"{estimate.value:.4f} ± {estimate.error:.4f} nats per datum"
    rows["BIC, AIC"] = f"{result['bic']:.1f}, {result['aic']:.1f}"
    rows |= _status_rows(result["status"])
    if "out" in result:
        rows["written to"] = result["out"]
    selection = f"{_selection_table(result)}\n\n" if "selection" in result else ""
    return selection + format_rows(rows)


def _status_rows(status: list[str]) -> dict[str, str]:
    """Return for each status except "fitted", such as "empty", the numbers of the components that have it."""
    from pvae.em.component_status import format_ranges

    rows = {}
    for word in dict.fromkeys(status):
        if word != "fitted":
            numbers = [number for number, component_status in enumerate(status) if component_status == word]
            rows[word] = f"components {format_ranges(numbers)}"
    return rows


def _selection_table(result: dict[str, Any]) -> str:
    """Return a table with one row for each number of components, the chosen one marked by a star."""
    header = ["components", "BIC", "AIC", "log p, held out", "steps", "chosen"]
    rows = []
    for fit in result["selection"]["fits"]:
        held_out = fit["log_likelihood"].get("validation")
        held_out_text = "" if held_out is None else f"{held_out.value:.3f} ± {held_out.error:.3f}"
        star = "*" if fit["asked"] == result["asked"] else ""
        rows.append([fit["asked"], f"{fit['bic']:.0f}", f"{fit['aic']:.0f}", held_out_text, fit["steps"], star])
    return format_table(header, rows)
