"""The checked options of a training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from pvae.accelerators import has_double
from pvae.checks import require_number, require_positive, require_whole
from pvae.data import Splits
from pvae.data.streams.stored_batch import StoredBatch
from pvae.errors import InputError
from pvae.fit_options import FitOptions
from pvae.names import unknown
from pvae.train.devices import resolve
from pvae.train.optimisers import label

__all__ = ["FREE", "MATMUL_OF_EARLIER_RUNS", "Options", "resolved", "with_own_batch_size"]

_DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.float32, "tf32": torch.float32}
# option that is a count -> its smallest value
_COUNTS = {
    "epochs": 0,
    "batch_size": 1,
    "validation_particles": 1,
    "validation_limit": 1,
    "threads": 1,
    "patience": 1,
    "max_steps": 1,
    "max_evaluations": 1,
    "seed": 0,
}
_OPTIONAL = ("patience", "max_steps", "max_evaluations")
#: The option ``matmul`` of runs of earlier versions, which did not have it.
MATMUL_OF_EARLIER_RUNS = "aten"
# Options that may differ when a run is resumed, because they do not change the numbers of a step.
FREE = ("epochs", "checkpoint_seconds", "max_steps", "max_seconds", "max_evaluations", "step")


@dataclass(frozen=True)
class Options(FitOptions):
    """The checked options of one training, with the device and the number of threads resolved by `resolved`."""

    def __post_init__(self) -> None:
        """Raise InputError for a value that cannot be used."""
        for name, least in _COUNTS.items():
            if getattr(self, name) is not None or name not in _OPTIONAL:
                self._set(name, require_whole(getattr(self, name), name, least=least))
        if self.clip is not None:
            self._set("clip", require_positive(self.clip, "clip"))
        if self.max_seconds is not None:
            self._set("max_seconds", require_positive(self.max_seconds, "max_seconds"))
        self._set(
            "checkpoint_seconds",
            require_number(self.checkpoint_seconds, "checkpoint_seconds", least=0.0, infinite=True),
        )
        self._set("learning_rate", _checked_rates(self.learning_rate))
        for option in fields(self):
            choices = option.metadata["choices"]
            if choices and getattr(self, option.name) not in choices:
                raise unknown(option.name, str(getattr(self, option.name)), choices)

        kind = self.device.partition(":")[0]
        _check_precision(self.precision, kind)
        _check_capture(self.step, kind)

    def _set(self, name: str, value: Any) -> None:
        """Replace an option by its plain Python value, although the class is frozen; only `__post_init__` does this."""
        object.__setattr__(self, name, value)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of parameters and data."""
        return _DTYPES[self.precision]

    @property
    def autocast(self) -> torch.dtype | None:
        """The dtype that operations are cast to by autocast; None without autocast.

        Raises:
            InputError: if the device does not support bfloat16.
        """
        if self.precision != "bfloat16":
            return None
        kind = torch.device(self.device).type
        if kind in ("cuda", "xpu") and not torch.get_device_module(kind).is_bf16_supported():
            raise InputError(
                f"precision='bfloat16' needs a device with bfloat16 arithmetic; {self.device} has none. Use 'float32'."
            )
        return torch.bfloat16

    def record(self) -> dict[str, Any]:
        """Return the options for ``config.toml``, without those that are None, because TOML cannot express None."""
        values = {option.name: getattr(self, option.name) for option in fields(self)}
        values |= {name: label(values[name]) for name in ("optimiser", "schedule")}
        if isinstance(self.learning_rate, Mapping):
            values["learning_rate"] = {group: float(rate) for group, rate in self.learning_rate.items()}
        return {name: value for name, value in values.items() if value is not None}


def _check_precision(precision: str, kind: str) -> None:
    """Raise InputError if a kind of device does not have the arithmetic of a precision."""
    if precision == "tf32" and kind != "cuda":
        raise InputError(f"precision='tf32' needs a CUDA device; the device is {kind}. Use 'float32'.")
    if precision == "float64" and not has_double(torch.device(kind)):
        raise InputError(f"precision='float64' needs a device with numbers of 64 bits; {kind} has none. Use 'float32'.")


def _check_capture(step: str, kind: str) -> None:
    """Raise InputError for step="capture" on a device that is not a CUDA device."""
    if step == "capture" and kind != "cuda":
        raise InputError(
            f"step='capture' needs a CUDA device, which launches it at once; the device is {kind}. Use 'graph'."
        )


def _checked_rates(rates: float | Mapping[str, float]) -> float | dict[str, float]:
    """Return one learning rate, or one for each parameter group, as plain numbers."""
    if isinstance(rates, Mapping):
        return {group: require_positive(rate, f"learning_rate of {group}") for group, rate in rates.items()}
    return require_positive(rates, "learning_rate")


def resolved(arguments: Mapping[str, Any], recorded: Mapping[str, Any] | None) -> Options:
    """Return the checked options, with the device and the number of threads resolved.

    Args:
        arguments: the arguments of `pvae.fit` that are fields of `FitOptions`.
        recorded: the options of the run to be resumed, which give the default number of threads; or None.

    Raises:
        InputError: for a value that cannot be used.
    """
    values = dict(arguments)
    values["device"] = str(resolve(values["device"]))
    if recorded is not None and "matmul" not in recorded and values["matmul"] == FitOptions.matmul:
        values["matmul"] = MATMUL_OF_EARLIER_RUNS
    if values["threads"] is None:
        values["threads"] = int((recorded or {}).get("threads", torch.get_num_threads()))
    return Options(**values)


def with_own_batch_size(options: Options, splits: Splits) -> tuple[Options, list[str]]:
    """Return the options with the batch size of a loader that makes its own batches, and a note about it.

    Args:
        options: the checked options.
        splits: the data.
    """
    train = splits.train
    size = train.own_batch_size if isinstance(train, StoredBatch) else None
    if size is None or size == options.batch_size:
        return options, []
    note = (
        f"note: batches have up to {size} data, as the loader makes them; batch_size={options.batch_size} is not used"
    )
    return replace(options, batch_size=size), [note]
