"""The data and the fits of ``pvae em``."""

from __future__ import annotations

import time
import warnings
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pvae.commands.mixture_assignments import row_chunks
from pvae.commands.options.table_flags import reading_options
from pvae.commands.output import print_reading
from pvae.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from pvae.batch import Batch
    from pvae.commands.mixture_progress import EMProgress
    from pvae.data import Splits
    from pvae.em import GaussianMixture
    from pvae.evaluate import Estimate

__all__ = ["MixtureFit", "fit_mixture", "load_tables", "log_likelihood", "split_tables"]

#: Options of the command that are parameters of `GaussianMixture` of the same name.
_SAME_NAME = ("max_iter", "tol", "reg_covar", "missing", "merge", "split_merge", "matmul")


def load_tables(options: dict[str, Any]) -> tuple[Splits, dict[str, np.ndarray]]:
    """Return the splits, and x of each split as a table.

    Args:
        options: the options of ``pvae em``.

    Returns:
        The splits, and for each split that exists x as float64, shape (data, features), with NaN for missing values.
    """
    from pvae.data import load_data

    reading = reading_options(options) | {"missing": _missing_words(options["missing"])}
    try:
        splits = load_data(
            options["data"],
            binarise="none",
            seed=options["data_seed"],
            folder=options["data_folder"],
            validation=options["validation"],
            test=options["test"],
            **reading,
        )
    except InputError as error:
        raise InputError(
            str(error).replace("missing='mask'", "--missing marginalise").replace("'mask'", "'marginalise'")
        ) from error
    options["missing"] = "error" if options["missing"] == "error" else "marginalise"
    print_reading(splits)
    return splits, split_tables(splits, options["missing"])


def split_tables(splits: Splits, missing: str) -> dict[str, np.ndarray]:
    """Return x of each split as float64, shape (data, features), with NaN for missing values.

    Args:
        splits: the data.
        missing: ``"error"`` or ``"marginalise"``.

    Raises:
        InputError: if values are missing and ``missing`` is ``"error"``.
    """
    return {name: _table(part, missing) for name, part in splits.parts.items() if part is not None}


def log_likelihood(mixture: GaussianMixture, x: np.ndarray) -> Estimate:
    """Return the mean of log p(x) with its standard error, nats per datum.

    Args:
        mixture: the fitted mixture.
        x: (data, features).
    """
    import numpy as np
    import torch

    from pvae.evaluate import Estimate

    values = [mixture.score_samples(np.asarray(x[rows], dtype=np.float64)) for rows in row_chunks(x)]
    return Estimate.mean_of(torch.as_tensor(np.concatenate(values)))


def _missing_words(missing: str) -> str:
    """Return the option ``missing`` of `load_data` for that of ``pvae em``."""
    return {"marginalise": "mask"}.get(missing, missing)


def _table(part: Batch, missing: str) -> np.ndarray:
    """Return x of one split as float64, shape (data, features), with NaN for the values that a mask hides."""
    x = part.x.double()
    if "mask" in part and not bool((part.mask == 1).all()):
        if missing == "error":
            raise InputError("The mask of the data says that values are missing; use --missing marginalise.")
        x = x.masked_fill(part.mask == 0, float("nan"))
    return x.reshape(part.size, -1).numpy()


@dataclass(frozen=True)
class MixtureFit:
    """A fitted mixture and its record.

    Attributes:
        mixture: the fitted mixture.
        record: the results by name, as the JSON output holds them.
    """

    mixture: GaussianMixture
    record: dict[str, Any]

    def criterion(self, name: str) -> float:
        """Return the value that the selection minimises: BIC, AIC, or minus the log-likelihood of the validation data.

        Args:
            name: ``"bic"``, ``"aic"`` or ``"held-out"``.
        """
        if name == "held-out":
            return -self.record["log_likelihood"]["validation"].value
        return self.record[name]

    def selection_record(self) -> dict[str, Any]:
        """Return the part of the record that the table of ``--select`` shows."""
        names = ("asked", "components", "bic", "aic", "log_likelihood", "steps", "converged", "seconds")
        return {name: self.record[name] for name in names}


def fit_mixture(
    tables: dict[str, np.ndarray], components: int, options: dict[str, Any], progress: EMProgress
) -> MixtureFit:
    """Fit a mixture to the training split.

    Args:
        tables: x of each split, shape (data, features).
        components: number of components.
        options: the options of ``pvae em``.
        progress: display of the steps.
    """
    from pvae.em import GaussianMixture

    mixture = GaussianMixture(
        components,
        covariance_type=options["covariance"],
        n_init=options["starts"],
        init_params=options["init"],
        device=options["device"],
        random_state=options["seed"],
        **{name: options[name] for name in _SAME_NAME},
    )
    start_time = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        mixture.fit(tables["train"], watch=progress.callback(components))
    record = _fit_record(mixture, tables, time.perf_counter() - start_time)
    record["notes"] = [str(warning.message) for warning in caught]
    return MixtureFit(mixture, record)


def _fit_record(mixture: GaussianMixture, tables: dict[str, np.ndarray], seconds: float) -> dict[str, Any]:
    return {
        "components": len(mixture.weights_),
        "asked": mixture.n_components,
        "steps": mixture.n_iter_,
        "converged": mixture.converged_,
        "seconds": seconds,
        "log_likelihood": {name: log_likelihood(mixture, x) for name, x in tables.items()},
        "bic": mixture.bic(tables["train"]),
        "aic": mixture.aic(tables["train"]),
        "weights": mixture.weights_,
        "n_effective": mixture.n_effective_,
        "status": mixture.status_,
        "merged": mixture.merged_,
        "split_merges": [asdict(move) for move in mixture.split_merges_],
        "lower_bounds": mixture.lower_bounds_,
    }
