"""Callbacks that send the options and the numbers of a run to a tracker: TensorBoard, MLflow, Weights & Biases."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pvae.callbacks.base import Callback
from pvae.checks import is_number
from pvae.errors import InputError

__all__ = ["MLflow", "TensorBoard", "WandB"]


class TensorBoard(Callback):
    """Writes the numbers of each epoch for TensorBoard; it needs ``pip install 'pvae[tensorboard]'``.

    Args:
        folder: the folder of the event files; ``tensorboard --logdir FOLDER`` shows them. A resumed training replaces
            the epochs that it computes again.
    """

    def __init__(self, folder: str | Path) -> None:
        _require("tensorboard")
        self.folder = Path(folder)
        self._options: dict[str, Any] = {}
        self._writer: Any = None

    def on_start(self, config: Mapping[str, Any], model: Any) -> None:
        """Keep the options for the event file."""
        self._options = _flat_settings(config)
        self._writer = None

    def _open(self, epoch: int) -> None:
        """Open an event file that replaces earlier files from an epoch on, and write the options as text."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(self.folder), purge_step=epoch)
        lines = [f"| {name} | {value} |" for name, value in self._options.items()]
        self._writer.add_text("config", "\n".join(["| option | value |", "|---|---|", *lines]), epoch)

    def on_epoch(self, record: Mapping[str, Any], model: Any) -> bool | None:
        """Write each number of the record at its epoch."""
        if self._writer is None:
            self._open(record["epoch"])
        for name, value in _numbers_of(record).items():
            self._writer.add_scalar(name, value, record["epoch"])
        self._writer.flush()
        return None

    def on_end(self, run: Any) -> None:
        """Close the event file."""
        self._close()

    def on_error(self, error: BaseException) -> None:
        """Close the event file."""
        self._close()

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class MLflow(Callback):
    """Logs options and the numbers of each epoch to MLflow; it needs ``pip install 'pvae[mlflow]'``.

    Args:
        experiment: the name of the experiment.
        name: the name of the run; with None, MLflow chooses one.
        uri: the address of the tracking server, or of a folder or database; None means the setting of MLflow.
    """

    def __init__(self, experiment: str = "pvae", name: str | None = None, uri: str | None = None) -> None:
        self._mlflow = _require("mlflow")
        self.experiment, self.name, self.uri = experiment, name, uri
        self._client: Any = None
        self._run = ""

    def on_start(self, config: Mapping[str, Any], model: Any) -> None:
        """Make a run of the experiment, and log the options."""
        self._client = self._mlflow.MlflowClient(self.uri)
        experiment = self._client.get_experiment_by_name(self.experiment)
        number = experiment.experiment_id if experiment else self._client.create_experiment(self.experiment)
        self._run = self._client.create_run(number, run_name=self.name).info.run_id
        for name, value in _flat_settings(config).items():
            self._client.log_param(self._run, name, str(value)[:500])

    def on_epoch(self, record: Mapping[str, Any], model: Any) -> bool | None:
        """Log each number of the record at its epoch."""
        for name, value in _numbers_of(record).items():
            self._client.log_metric(self._run, name, value, step=record["epoch"])
        return None

    def on_end(self, run: Any) -> None:
        """Mark the run as finished."""
        self._client.set_terminated(self._run, "FINISHED")

    def on_error(self, error: BaseException) -> None:
        """Mark the run as failed, or as killed if it was interrupted."""
        if self._run:
            self._client.set_terminated(self._run, "FAILED" if isinstance(error, Exception) else "KILLED")


class WandB(Callback):
    """Logs options and the numbers of each epoch to Weights & Biases; it needs ``pip install 'pvae[wandb]'``.

    Args:
        project: the name of the project.
        name: the name of the run; with None, the service chooses one.
        mode: ``"offline"`` writes to the folder ``wandb`` only, and ``wandb sync`` sends it later; ``"online"`` sends.
        folder: the parent folder of the folder ``wandb``; None means the working folder.
    """

    def __init__(
        self, project: str = "pvae", name: str | None = None, mode: str = "offline", folder: str | Path | None = None
    ) -> None:
        self._wandb = _require("wandb")
        self.project, self.name, self.mode, self.folder = project, name, mode, folder
        self._run: Any = None

    def on_start(self, config: Mapping[str, Any], model: Any) -> None:
        """Make a run with the options."""
        self._run = self._wandb.init(
            project=self.project, name=self.name, mode=self.mode, dir=self.folder, config=_flat_settings(config)
        )

    def on_epoch(self, record: Mapping[str, Any], model: Any) -> bool | None:
        """Log the numbers of the record at its epoch."""
        self._run.log(_numbers_of(record), step=record["epoch"], commit=True)
        return None

    def on_end(self, run: Any) -> None:
        """Finish the run."""
        self._run.finish()

    def on_error(self, error: BaseException) -> None:
        """Finish the run as failed."""
        if self._run is not None:
            self._run.finish(exit_code=1)


def _numbers_of(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the finite numbers of a record of an epoch by name, with numbers of parameter groups as ``name/group``.

    >>> _numbers_of({"epoch": 1, "loss": 2.5, "learning_rate": {"theta": 0.1}, "validation_bound": None})
    {'loss': 2.5, 'learning_rate/theta': 0.1}
    """
    flat = {name: value for name, value in _flat_settings(record).items() if name not in ("epoch", "step")}
    return {name: float(value) for name, value in flat.items() if is_number(value) and math.isfinite(value)}


def _flat_settings(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of nested tables by their path.

    >>> _flat_settings({"objective": "elbo", "training": {"epochs": 3}})
    {'objective': 'elbo', 'training/epochs': 3}
    """
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat |= _flat_settings(value, f"{prefix}{name}/")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _require(package: str) -> Any:
    """Return an installed package.

    Raises:
        InputError: if it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise InputError(
            f"This callback needs the package {package}. Install it: pip install 'pvae[{package}]'."
        ) from error
