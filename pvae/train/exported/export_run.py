"""Export the encoder, the decoder or the parameters of a run to a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pvae import __version__
from pvae.errors import InputError
from pvae.models.tensor_functions import TensorFunction, decoder_function, encoder_function
from pvae.programs.binding import bind
from pvae.programs.model_traits import traits_of
from pvae.programs.parameter_scope import scope
from pvae.train.exported.export_files import require_onnx, write_onnx, write_parameters, write_program
from pvae.train.exported.traced_parts import Call, TracedPart, require_same_values, trace_part
from pvae.train.parameters import root_module
from pvae.train.training_state import model_tensors

__all__ = ["PARTS", "SUFFIXES", "check_export", "export_run"]

PARTS = ("encoder", "decoder")
SUFFIXES = (".pt2", ".onnx", ".safetensors")
_SIZES = (1, 2, 9)  # of the batches at which an exported function is compared with the model
_MAKERS: dict[str, Callable[..., TensorFunction]] = {"encoder": encoder_function, "decoder": decoder_function}
#: Entries of the schema of the data that describe how x and y were computed from the user's data.
_PREPROCESSING = ("columns", "categories", "scaling", "channels", "label", "classes")


def check_export(path: str | Path, part: str | None) -> Path:
    """Return the path of a file to export to.

    Args:
        path: the file; its ending is the format.
        part: a name of `PARTS`, or None.

    Raises:
        InputError: if the path has another ending or no folder, `part` does not fit it, or a package is missing.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"An export needs a path that ends in {', '.join(SUFFIXES)}; got {str(path)!r}.")
    if not path.resolve().parent.is_dir():
        raise InputError(f"An export needs a path in an existing folder; the folder {path.parent} does not exist.")
    if suffix == ".safetensors":
        if part is not None:
            raise InputError(f"A .safetensors file holds all parameters; got part={part!r}. Leave the part out.")
    elif part not in PARTS:
        raise InputError(f"A {suffix} file needs the part 'encoder' or 'decoder'; got part={part!r}. Name one of them.")
    if suffix == ".onnx":
        require_onnx()
    return path


def export_run(model: Any, config: Mapping[str, Any], checkpoint: str, path: str | Path, part: str | None) -> Path:
    """Write a file; see `pvae.train.trained_model.TrainedModel.export`.

    Args:
        model: the latent model.
        config: the content of ``config.toml``.
        checkpoint: the checkpoint of the parameters.
        path: the file.
        part: a name of `PARTS`, or None for parameters.

    Returns:
        The path.
    """
    path = check_export(path, part)
    about = {"pvae": __version__, "model": config["model"]["class"], "checkpoint": checkpoint}
    if part is None:
        _write_parameters(path, model, config, about)
        return path
    try:
        batches = [_trial_batch(model, config, size) for size in (5, *_SIZES)]
        traced = trace_part(_MAKERS[part](model, batches[0], config.get("fields")))
        metadata = {**about, "part": part, **_interface(traced, config), "preprocessing": _preprocessing(config)}
        trials = [_MAKERS[part](model, batch, config.get("fields")) for batch in batches]
        arguments = [trial.with_inputs(traced.function.inputs).example for trial in trials]

        def check(call: Call) -> None:
            require_same_values(traced.function, call, arguments)

        write = write_onnx if path.suffix.lower() == ".onnx" else write_program
        write(path, traced, metadata, check)
    except InputError as error:
        raise InputError(
            f"The {part} of {type(model).__name__} cannot be exported to {path.name}: {str(error).rstrip('.')}. A file "
            "weights.safetensors holds its parameters."
        ) from error
    return path


def _write_parameters(path: Path, model: Any, config: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    batch = _trial_batch(model, config, 2)
    with scope(model):
        tensors = model_tensors(model, root_module(model, bind(model, batch, config.get("fields"))))
    recipe = {"recipe": config["model"], "preprocessing": _preprocessing(config)}
    write_parameters(path, tensors, {**about, "part": "parameters", **recipe})


def _trial_batch(model: Any, config: Mapping[str, Any], size: int) -> dict[str, Tensor]:
    """Return made-up values of the fields that the programs take, in the recorded shapes and types.

    Real numbers lie between 0 and 1, and whole numbers are labels. Labels are hidden if the model infers them.
    """
    data, generator = config["data"], torch.Generator().manual_seed(size)
    dtype = torch.float64 if config["training"]["precision"] == "float64" else torch.float32
    batch: dict[str, Tensor] = {}
    for name, field in data["fields"].items():
        shape, kind = (size, *field["shape"]), getattr(torch, field["dtype"])
        if kind.is_floating_point:
            batch[name] = torch.rand(shape, generator=generator, dtype=dtype)
        else:
            most = max(2, int(data.get("classes") or 2)) if name == "y" else 2
            batch[name] = torch.randint(0, most, shape, generator=generator).to(kind)
    if data.get("mask", "none") != "none" and "mask" not in batch:
        batch["mask"] = torch.randint(0, 2, batch["x"].shape, generator=generator).to(dtype)
    if "y" in batch and callable(traits_of(model).classify):
        batch["y"] = torch.full_like(batch["y"], -1)
    fields = bind(model, batch, config.get("fields"))
    _require_cpu(fields.modules)
    return _accepted(model, {name: value for name, value in batch.items() if name == "x" or name in fields.fields})


def _accepted(model: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return made-up values that the model accepts. Models of counts or of lengths accept only whole numbers.

    Args:
        model: the latent model.
        batch: values between 0 and 1, and labels.
    """
    check_data = traits_of(model).check_data
    if check_data is None:
        return batch
    whole = {name for name, value in batch.items() if not value.is_floating_point() and name != "y"}
    changes: tuple[Callable[[str, Tensor], Tensor], ...] = (
        lambda name, value: value,
        lambda name, value: value + 1 if name in whole else value,
        lambda name, value: torch.ones_like(value) if name in whole else value,
        lambda name, value: (4 * value).floor() if name == "x" else value,
    )
    for change in changes:
        changed = {name: change(name, value) for name, value in batch.items()}
        with suppress(InputError):
            check_data(changed)
            return changed
    return batch


def _require_cpu(modules: torch.nn.Module) -> None:
    device = next((parameter.device for parameter in modules.parameters()), torch.device("cpu"))
    if device.type != "cpu":
        raise InputError(
            f"An export needs the model on the CPU; its parameters are on {device}. Open the folder of the run with "
            "pvae.open_run, or call run.model.cpu()."
        )


def _interface(traced: TracedPart, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments and the outputs of a function: their names, shapes and types."""
    function = traced.function
    with torch.no_grad():
        outputs = function(*function.example)
    inputs = [_described(name, value) for name, value in zip(function.inputs, function.example, strict=True)]
    for entry in inputs:
        entry["is"] = "latent site" if entry["name"] in function.latents else "field"
        if entry["name"] == "y" and "classes" in config["data"]:
            entry["values"] = f"0 to {config['data']['classes'] - 1}"
    described = [_described(name, value) for name, value in outputs.items()]
    for entry in described:
        entry["distribution"] = function.families[entry["name"].rpartition(".")[0]]
    return {"inputs": inputs, "outputs": described}


def _described(name: str, value: Tensor) -> dict[str, Any]:
    return {"name": name, "shape": ["batch", *value.shape[1:]], "dtype": str(value.dtype).removeprefix("torch.")}


def _preprocessing(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return how x and y were computed from the user's data."""
    data = config["data"]
    schema = data.get("schema", {})
    recorded = {name: schema[name] for name in _PREPROCESSING if name in schema}
    return {"data_shape": list(data["data_shape"]), "binarise": data["binarise"], **recorded}
