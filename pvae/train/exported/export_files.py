"""Write an exported function or parameters, with a description as JSON: `.pt2`, `.onnx` and `.safetensors`."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from pvae.errors import InputError, first_line
from pvae.files import replace_file, write_bytes
from pvae.train.exported.traced_parts import Call, TracedPart, silent

__all__ = ["METADATA", "require_onnx", "write_onnx", "write_parameters", "write_program"]

#: The name of the description: of a ``.json`` file inside ``.pt2``, and of an entry of the metadata of the other
#: formats.
METADATA = "pvae"
_ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def require_onnx() -> None:
    """Raise InputError if a package is missing that ONNX files need."""
    missing = [name for name in _ONNX_PACKAGES if find_spec(name) is None]
    if missing:
        raise InputError(
            f'ONNX files need {", ".join(missing)}: pip install "pvae[onnx]". Or write a .pt2 file, for PyTorch.'
        )


def write_parameters(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write tensors by name as safetensors; the metadata are JSON under the key `METADATA`."""
    contiguous = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    write_bytes(path, save(contiguous, {"format": "pt", METADATA: json.dumps(metadata)}))


def write_program(path: Path, part: TracedPart, metadata: Mapping[str, Any], check: Callable[[Call], None]) -> None:
    """Write a program of `torch.export`; the metadata are its extra file ``pvae.json``.

    Args:
        path: the file.
        part: the traced part.
        metadata: the description of the arguments and results of the function.
        check: called with the function, loaded from the file, before the file gets its final name.
    """
    with replace_file(path) as unfinished:
        with unfinished.open("wb") as file:
            torch.export.save(part.program, file, extra_files={f"{METADATA}.json": json.dumps(metadata)})
        with unfinished.open("rb") as file:
            check(torch.export.load(file).module())


def write_onnx(path: Path, part: TracedPart, metadata: Mapping[str, Any], check: Callable[[Call], None]) -> None:
    """Write an ONNX file; the metadata are its entry `METADATA`. The arguments are those of `write_program`.

    Raises:
        InputError: if ONNX cannot express an operation.
    """
    names = [output["name"] for output in metadata["outputs"]]
    inputs = [value["name"] for value in metadata["inputs"]]
    try:
        with warnings.catch_warnings(), silent("torch.onnx._internal.exporter._registration"):
            warnings.simplefilter("ignore")
            converted: Any = torch.onnx.export(
                part.program, part.function.example, input_names=inputs, output_names=names, dynamo=True, verbose=False
            )
    except Exception as error:
        raise InputError(f"ONNX cannot express one of its operations: {first_line(error)}") from error
    converted.model.metadata_props[METADATA] = json.dumps(metadata)
    with replace_file(path) as unfinished:
        converted.save(unfinished)
        check(_onnx_function(unfinished, inputs, names))


def _onnx_function(path: Path, inputs: list[str], outputs: list[str]) -> Call:
    """Return an ONNX file as a function of tensors."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])

    def call(*arguments: Tensor) -> dict[str, Tensor]:
        values = {name: argument.numpy() for name, argument in zip(inputs, arguments, strict=True)}
        return {
            name: torch.from_numpy(value) for name, value in zip(outputs, session.run(outputs, values), strict=True)
        }

    return call
