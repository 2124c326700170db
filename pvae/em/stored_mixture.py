"""Saving a mixture to a file, and loading it."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from pvae.em.check_parameters import check_parameters
from pvae.em.merging.split_merge import Move
from pvae.em.mixture_file import plain_settings, read_mixture_file, write_mixture_file
from pvae.em.public_parameters import PUBLIC, PublicMixture, kept_mixture, mixture_of_values
from pvae.em.read_inputs import OutputFormat
from pvae.em.rows.row_sources import as_tensor
from pvae.errors import InputError

__all__ = ["StoredMixture"]

_RESULTS = (
    "converged_", "n_iter_", "lower_bound_", "lower_bounds_", "log_likelihoods_", "status_", "merged_", "split_merges_",
)  # fmt: skip


class StoredMixture(PublicMixture):
    """A mixture that can be saved to a file, without pickle."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the mixture to a safetensors file: parameters in float64, settings, results, and names of features.

        The statistics of `partial_fit` are not written. `load` returns NumPy arrays, also after a fit on tensors.

        Args:
            path: the file, such as ``mixture.safetensors``; a file of that name is replaced.

        Raises:
            InputError: if there is no mixture, or the file cannot be written.
        """
        check_is_fitted(self)
        self._mixture(torch.device("cpu"))
        settings, given = plain_settings(self.get_params(deep=False))
        arrays = {name.rstrip("_"): self._kept[name] for name in (*PUBLIC, "roots")}
        if hasattr(self, "n_effective_"):
            arrays["n_effective"] = as_tensor(self.n_effective_).double().cpu().numpy()
        results = {name: getattr(self, name) for name in _RESULTS if hasattr(self, name)}
        if "split_merges_" in results:
            results["split_merges_"] = [asdict(move) for move in self.split_merges_]
        record = {
            "settings": settings,
            "dtype": self._kept["dtype"],
            "by_hand": self._kept["by_hand"],
            "fitted_components": self._kept["n_components"],
            "results": results,
        }
        if hasattr(self, "feature_names_in_"):
            record["feature_names"] = [str(name) for name in self.feature_names_in_]
        write_mixture_file(Path(path), arrays | {f"settings.{name}": array for name, array in given.items()}, record)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Return the mixture of a file that `save` wrote, or `pvae em --out`.

        Args:
            path: the file.

        Raises:
            InputError: if it is missing, damaged, or no mixture.
        """
        arrays, record = read_mixture_file(Path(path))
        settings = record["settings"] | {
            name.removeprefix("settings."): array for name, array in arrays.items() if name.startswith("settings.")
        }
        try:
            mixture = cls(**settings)
            check_parameters(mixture.get_params(deep=False))
            mixture._publish_arrays(arrays, record)
        except (InputError, TypeError, KeyError, ValueError) as error:
            raise InputError(f"{path} is damaged, or of another version ({' '.join(str(error).split())}).") from error
        return mixture

    def _publish_arrays(self, arrays: dict[str, np.ndarray], record: dict[str, Any]) -> None:
        """Set the parameters and results of a file, after a check that they fit each other."""
        kept = {name: arrays[name.rstrip("_")] for name in (*PUBLIC, "roots")}
        read = mixture_of_values(
            self.covariance_type, {name: as_tensor(kept[name]) for name in PUBLIC}, list(PUBLIC[2:])
        )
        if kept["roots"].shape != tuple(read.roots.shape) or not np.allclose(kept["roots"], read.roots, rtol=1e-4):
            raise InputError("the roots are not those of the covariances")
        output = OutputFormat(
            False, {"float32": torch.float32}.get(record["dtype"], torch.float64), torch.device("cpu")
        )
        kept["covariance_type"] = self.covariance_type
        self._publish(kept_mixture(kept), output, by_hand=record["by_hand"])
        self._kept["n_components"] = record["fitted_components"]
        self.n_features_in_ = read.features
        results = dict(record["results"])
        if "split_merges_" in results:
            moves = results["split_merges_"]
            results["split_merges_"] = [Move(tuple(move["merged"]), move["split"], move["gain"]) for move in moves]
        for name, value in results.items():
            setattr(self, name, value)
        if "n_effective" in arrays:
            self.n_effective_ = output.convert(as_tensor(arrays["n_effective"])).copy()
        if "feature_names" in record:
            self.feature_names_in_ = np.array(record["feature_names"], dtype=object)
