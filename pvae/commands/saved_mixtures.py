"""The folder that ``pvae em --out`` wrote: its mixture, and the data again, for ``pvae evaluate`` and ``pvae show``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pvae.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

    from pvae.data import Splits
    from pvae.em import GaussianMixture

__all__ = ["SavedMixture", "draw_mixture_figure", "evaluate_mixture", "open_mixture"]

_MOST_BYTES = 1 << 25


@dataclass(frozen=True)
class SavedMixture:
    """A mixture from a folder.

    Attributes:
        folder: the folder.
        mixture: the fitted mixture.
        config: the record of its data and the precision, in the form of the record of a run.
        missing: ``"error"`` or ``"marginalise"``.
    """

    folder: Path
    mixture: GaussianMixture
    config: dict[str, Any]
    missing: str

    def tables(
        self, data: str | None, folder: str | None, reading: Mapping[str, Any]
    ) -> tuple[Splits, dict[str, np.ndarray]]:
        """Return the data of the fit, or other data, and x of each split as a table of the same columns.

        Args:
            data: name or file of other data; None for those of the fit.
            folder: searched for named data first.
            reading: options of `load_data` that the user gives.

        Raises:
            InputError: if the data cannot be loaded, have changed, or have other columns.
        """
        from pvae.commands.mixture_fits import split_tables
        from pvae.commands.runs import data_of_run

        splits = data_of_run(cast(Any, self), data, folder, reading)
        tables = split_tables(splits, self.missing)
        features = self.mixture.n_features_in_
        came = tables["train"].shape[1]
        if came != features:
            raise InputError(
                f"{splits.name} has {came} features, and the mixture in {self.folder} has {features}. Choose the "
                "columns with --columns."
            )
        return splits, tables


def open_mixture(folder: str) -> SavedMixture | None:
    """Return the mixture in a folder, or None where the folder is that of a run, or does not exist.

    Raises:
        InputError: if the folder has a mixture, and its files are damaged.
    """
    path = Path(folder)
    if not (path / "mixture.safetensors").exists() or (path / "config.toml").exists():
        return None
    from pvae.em import GaussianMixture
    from pvae.outside_files import check_form, read_json

    mixture = GaussianMixture.load(path / "mixture.safetensors")
    mixture.__dict__.pop("feature_names_in_", None)  # the data are brought into the order of the names by the schema
    record = read_json(path / "em.json", _MOST_BYTES)
    data_form = {"name": str, "checksum": str, "seed": int, "binarise": str, "sizes": {"*": int}}
    check_form(path / "em.json", record, {"data_set": data_form, "missing": str})
    config = {"data": record["data_set"], "training": {"precision": "float64"}}
    return SavedMixture(path, mixture, config, record["missing"])


def evaluate_mixture(saved: SavedMixture, data: str | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the exact log-likelihood of a split, and write the table of assignments if one is asked for.

    Args:
        saved: the mixture.
        data: name or file of other data.
        options: the options of ``pvae evaluate``.

    Raises:
        InputError: if an option is for runs only, or the data cannot be used.
    """
    from pvae.commands.mixture_assignments import write_assignments
    from pvae.commands.mixture_fits import log_likelihood
    from pvae.commands.options.table_flags import reading_options
    from pvae.commands.runs import require_split
    from pvae.data.subset import Subset

    if options["method"] in ("ais", "sandwich"):
        raise InputError(
            f"--method {options['method']} estimates a log evidence; for a mixture it is known exactly. Leave --method "
            "out."
        )
    if options["method"] == "accuracy":
        raise InputError("--method accuracy needs a model that predicts labels; a mixture has none. Use --assign.")
    if options["arviz"] is not None:
        raise InputError(
            "--arviz needs a run with latent sites to draw; a mixture of pvae em has none. Leave --arviz out."
        )
    splits, tables = saved.tables(data, options["data_folder"], reading_options(options))
    require_split(splits, options["split"])
    table = tables[options["split"]]
    subset = Subset(min(options["limit"] or len(table), len(table)), len(table), options["seed"])
    x = table[subset.indices().numpy()]
    record = {
        "data_set": splits.summary(),
        "split": options["split"],
        "subset": str(subset),
        "components": len(saved.mixture.weights_),
        "log_evidence": log_likelihood(saved.mixture, x),
    }
    if options["assign"] is not None:
        path, keep_formulas = Path(options["assign"]), options["keep_formulas"]
        write_assignments(path, saved.mixture, splits, tables, keep_formulas=keep_formulas)
        record["assign"] = options["assign"]
    return record


def draw_mixture_figure(saved: SavedMixture, what: str, options: Mapping[str, Any]) -> Figure:
    """Return a figure of a mixture: the history of the bound, or its components with the data of one split.

    Args:
        saved: the mixture.
        what: the option ``--what``.
        options: the options of ``pvae show``.

    Raises:
        InputError: for another figure, or data that cannot be used.
    """
    from pvae.commands.mixture_output import components_figure, history_figure
    from pvae.commands.options.table_flags import reading_options
    from pvae.commands.runs import require_split

    if what == "history":
        return history_figure(saved.mixture)
    if what != "components":
        raise InputError(f"A mixture has the figures components and history; got {what!r}. Choose one with --what.")
    splits, tables = saved.tables(options["data"], options["data_folder"], reading_options(options))
    require_split(splits, options["split"])
    figure = components_figure(saved.mixture, splits, tables[options["split"]])
    if figure is None:
        raise InputError("A figure of components needs two features; these data have one. Use --what history.")
    return figure
