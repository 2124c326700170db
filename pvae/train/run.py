"""`Run`: the result of a training; `open_run` reads it from its folder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pvae.errors import InputError
from pvae.models.fitted_prior import without_prior
from pvae.names import require_known, unknown
from pvae.outside_files import check_form, read_toml
from pvae.programs.binding import held_modules
from pvae.programs.parameter_scope import scope
from pvae.shown_tables import ShownTable
from pvae.train.checkpoint import Snapshot, read_newest, read_state
from pvae.train.devices import move_module
from pvae.train.figures.run_plots import RunPlots
from pvae.train.history import read_history
from pvae.train.recorded_model import build_recorded_model
from pvae.train.recorded_tensors import create_lazy_parameters, require_own_codes, root_of
from pvae.train.records import Records
from pvae.train.run_record import require_config_of_snapshot
from pvae.train.trained_model import TrainedModel
from pvae.train.training_state import load_parameters

__all__ = ["Run", "open_run", "read_config"]

#: The largest size of config.toml, in bytes: it has a name, a shift and a scale for each column.
_MOST_CONFIG = 20_000_000
_CHECKPOINTS = ("best", "last")

# The part of ``config.toml`` that is needed to open a run.
_TEXTS = {"*": str}
_VALUES = (str, int, float, bool, list, dict)
_SCHEMA = {
    **{f"{name}?": str for name in ("account", "label", "channels")},
    "columns?": [str],
    "classes?": [(str, int, float, bool)],
    "types?": _TEXTS,
    "missing?": {"*": int},
    "categories?": {"*": [(str, int, float, bool)]},
    "options?": {"*": (str, int, float, bool, list)},
    "rows?": int,
    "scaling?": {"kind": str, "shift": [(int, float)], "scale": [(int, float)]},
}
_FORM = {
    "pvae": {"*": str},
    "objective": str,
    "fields?": (dict, list),  # of texts
    "model": {"class": str, "name?": str, "settings?": dict, "arguments?": dict},
    "prior?": {
        "kind": str,
        "site": str,
        "shape": [int],
        "settings": dict,
        "fitted?": {"parameters": str, "*": _VALUES},
    },
    "code?": {"*": str},
    "former?": [str],
    "data": {
        "name": str,
        "path?": str,
        "checksum": str,
        "binarise": str,
        "seed": int,
        "sizes": {"train?": int, "validation?": int, "test?": int},
        "data_shape": [int],
        "classes?": int,
        "schema?": _SCHEMA,
        **dict.fromkeys(("mask?", "labels?"), (str, int, float)),
        "notes?": [str],
        "fields": {"*": {"shape": [int], "dtype": str}},
    },
    "training": {"precision": str, "validation_particles": int, "epochs": int, "*": (str, int, float, bool, dict)},
}
_DTYPES = ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64", "structure")
_MOST_NUMBERS = 10**8  # in one field of one datum


@dataclass
class Run(TrainedModel):
    """The result of a training, by `pvae.fit` or from a folder; the methods of `TrainedModel` use it on data.

    Attributes:
        model: the latent model, with the parameters of `checkpoint`.
        history: one record per epoch, numbers in nats per datum: ``epoch``, ``step``, ``loss`` and the
            objective's named terms, ``validation_bound`` and ``validation_error`` if there is a validation
            split, ``learning_rate``, ``evaluations``, ``seconds``; and one record with ``event`` per rollback, and for
            a budget that ended within an epoch. A run of `pvae.fit_prior` has the history of the original training.
            ``to_pandas()``, ``to_markdown()`` and ``to_latex()`` return a table.
        folder: the folder of the run, or None.
        config: the content of ``config.toml``: all resolved options, versions, data and model.
        seconds: the time spent in training without validation and callbacks, in seconds.
        checkpoint: ``"best"`` by the validation bound, or ``"last"``; they are the same if no validation bound ranks
            parameters.
        step: how the last steps ran, ``"compile"``, ``"graph"`` or ``"eager"``; "" for a run that was opened from a
            folder.

    Example:
        >>> import pvae, torch
        >>> run = pvae.fit("vae:latent=2:hidden=8", torch.eye(4).repeat(10, 1), epochs=2, step="eager", progress=False)
        >>> [record["epoch"] for record in run.history]
        [1, 2]
        >>> run.sample(3).shape, run.checkpoint
        (torch.Size([3, 4]), 'best')
    """

    model: Any
    history: list[dict[str, Any]]
    folder: Path | None
    config: dict[str, Any]
    seconds: float
    checkpoint: str = "best"
    step: str = ""
    # the parameters in memory, by the name of their checkpoint
    _held: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.history: Records = Records(self.history)

    @property
    def plot(self) -> RunPlots:
        """The figures of the run: ``run.plot.history()``, ``.samples()``, ``.reconstructions()``, ``.latent()``."""
        return RunPlots(self)

    @property
    def epoch(self) -> int:
        """The number of completed epochs."""
        return max((record["epoch"] for record in self.history if "epoch" in record), default=0)

    def load(self, which: str) -> Run:
        """Load the parameters of a checkpoint into the model; return this run.

        Args:
            which: ``"best"`` or ``"last"``.

        Raises:
            InputError: for another name, or a checkpoint that cannot be read.
        """
        if which not in _CHECKPOINTS:
            raise unknown("checkpoint", which, _CHECKPOINTS)
        tensors = self._held.get(which)
        if tensors is None:
            tensors = _read_snapshot(self._require_folder(), which).parameters
        with scope(self.model):
            load_parameters(self.model, root_of(self.model, self.config), tensors)
        self.checkpoint = which
        return self

    def _repr_html_(self) -> str:
        data, bound = self.config.get("data", {}), self._last_bound()
        of_training = ", with the prior of the training" if "fitted" in self.config.get("prior", {}) else ""
        sizes = ", ".join(f"{count} {part}" for part, count in data.get("sizes", {}).items() if count)
        facts = {
            "model": type(without_prior(self.model)).__name__,
            "prior": self.config["prior"]["kind"] + ", fitted to the codes" if "prior" in self.config else None,
            "objective": self.config.get("objective"),
            "data": f"{data['name']}: {sizes}" if data else None,
            "epochs": self.epoch,
            "validation bound": bound and f"{bound} nats per datum, last epoch{of_training}",
            "training": f"{self.seconds:.1f} s",
            "parameters": f"those of the checkpoint {self.checkpoint!r}",
            "folder": self.folder or "none, the run is in memory",
        }
        rows = [[name, str(value)] for name, value in facts.items() if value is not None]
        return ShownTable([], rows, "Run").to_html()

    def _last_bound(self) -> str | None:
        """Return the validation bound of the last epoch with its error as text; None without one."""
        for record in reversed(self.history):
            if record.get("validation_bound") is not None:
                error = record.get("validation_error")
                return f"{record['validation_bound']:.4f}{f' ± {error:.4f}' if error else ''}"
        return None

    def _require_folder(self) -> Path:
        if self.folder is None:
            raise InputError(
                "This run has no folder, so its other parameters were not kept. Give pvae.fit a folder, out=."
            )
        return self.folder


def read_config(folder: Path) -> dict[str, Any]:
    """Return the content of the ``config.toml`` of a run.

    Args:
        folder: the folder of the run.

    Raises:
        InputError: if the folder is not a run, or the file is damaged.
    """
    path = folder / "config.toml"
    if not path.exists():
        raise InputError(
            f"{folder} is not a run folder: it has no config.toml. Give the folder out= of pvae.fit, or the folder "
            "that pvae train printed; pvae runs lists the runs of a folder."
        )
    config = read_toml(path, most=_MOST_CONFIG)
    if not {"pvae", "model", "training"} & config.keys():
        raise InputError(
            f"{folder} is not a run folder: its config.toml was not written by pvae. Give the folder of a run."
        )
    check_form(path, config, _FORM)
    fields = config.get("fields", {})
    check_form(path, fields, [str] if isinstance(fields, list) else _TEXTS, "fields")
    _check_sizes(path, config["data"])
    return config


def _check_sizes(path: Path, data: Mapping[str, Any]) -> None:
    """Raise InputError if recorded shapes are impossible, because programs run on zeros of these shapes."""
    for name, form in data["fields"].items():
        require_known(f"dtype of {name} in {path}", form["dtype"], _DTYPES)
        if min(form["shape"], default=0) < 0 or math.prod(form["shape"]) > _MOST_NUMBERS:
            raise InputError(f"{path} is damaged: {form['shape']} is not a possible shape of {name}.")


def _read_snapshot(folder: Path, name: str) -> Snapshot:
    """Return the best or the last checkpoint; the last one if there is no best one yet.

    Raises:
        InputError: if it cannot be read, or the best one is missing although the training had one.
    """
    has_best = any((folder / path).exists() for path in ("best", "best.previous"))
    snapshot = read_newest(folder, "best" if name == "best" and has_best else "last")
    if name == "best" and not has_best and snapshot.state["best_bound"] is not None:
        raise InputError(
            f"{folder / 'best'} is missing, but the best parameters are from epoch "
            f"{snapshot.state['best_epoch']}. Restore it from a copy, or use the last parameters: checkpoint='last' "
            "(--checkpoint last)."
        )
    return snapshot


def _read_records(folder: Path, snapshot: Snapshot) -> list[dict[str, Any]]:
    """Return the records of a run, and check those before its last checkpoint; `snapshot` is the opened checkpoint."""
    try:
        state = read_state(folder / "last")
    except InputError:  # this checkpoint is damaged, and another one is opened
        state = dict(snapshot.state)
    return read_history(folder / "metrics.jsonl", state)


def open_run(folder: str | Path, model: Any = None, checkpoint: str = "best", *, trust: bool = False) -> Run:
    """Open the folder of a run; the model is built again, and its parameters are loaded on the CPU.

    Nothing in the folder is unpickled, and no code in it is run. Code outside pvae that the folder names runs only with
    `trust`, or if `model` names it.

    Args:
        folder: the folder of the run.
        model: a latent model to load the parameters into; or a recipe for it, a `ModelSpec` or a text such as
            ``"my_model.py:MyModel"``, which gets the recorded settings.
        checkpoint: ``"best"`` for the best parameters by the validation bound, or ``"last"``.
        trust: whether a class outside pvae that the folder names may be imported and built.

    Returns:
        The run, with its model and history.

    Raises:
        InputError: if the folder is not a run, a checkpoint is damaged, the model does not fit the checkpoint, or the
            folder names code that is not part of pvae and neither `model` nor `trust` is given.

    Example:
        >>> import pathlib, tempfile
        >>> import pvae, torch
        >>> folder, x = pathlib.Path(tempfile.mkdtemp()) / "run", torch.eye(4).repeat(10, 1)
        >>> _ = pvae.fit("vae:latent=2:hidden=8", x, epochs=1, step="eager", progress=False, out=folder)
        >>> run = pvae.open_run(folder)
        >>> run.model.sample(3).shape
        torch.Size([3, 4])
    """
    folder = Path(folder)
    if checkpoint not in _CHECKPOINTS:
        raise unknown("checkpoint", checkpoint, _CHECKPOINTS)
    config = read_config(folder)
    snapshot = _read_snapshot(folder, checkpoint)
    require_config_of_snapshot(folder, config, snapshot)
    model = build_recorded_model(folder, config, snapshot.parameters, model, trust=trust)
    with scope(model):
        create_lazy_parameters(model, config, snapshot.parameters)
        root = root_of(model, config)
        if config["training"]["precision"] == "float64":
            for module in (root, *held_modules(model).values()):
                move_module(module, None, torch.float64)
        load_parameters(model, root, snapshot.parameters)
    require_own_codes(folder, config, model, snapshot.parameters)
    history = _read_records(folder, snapshot)
    return Run(model, history, folder, config, float(snapshot.state["seconds"]), checkpoint)
