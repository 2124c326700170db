"""The file ``findings.json`` of a run: the answers about its model, with a checksum."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pvae.errors import InputError
from pvae.evaluate.all_checks.model_findings import ModelFindings
from pvae.files import write_text
from pvae.json_values import json_value
from pvae.outside_files import read_json
from pvae.train.encoding import canonical, digest

__all__ = ["FINDINGS_FILE", "read_findings", "write_findings"]

FINDINGS_FILE = "findings.json"
"""The name of the file in a run folder."""

_CHECKSUM, _MOST_BYTES = "sha256", 2**28


def write_findings(folder: Path, findings: ModelFindings, checkpoint: str = "best") -> Path:
    """Write the answers about a model into its run folder, in one step, and return the file.

    Args:
        folder: the run folder; a file of an earlier evaluation is replaced.
        findings: the answers.
        checkpoint: the checkpoint with the parameters of the model, ``"best"`` or ``"last"``.
    """
    of_parameters = {"checkpoint": checkpoint, "parameters": _parameters_of(Path(folder), checkpoint)}
    content = {**json_value(findings.to_json()), **of_parameters}
    path = Path(folder) / FINDINGS_FILE
    write_text(path, json.dumps({**content, _CHECKSUM: digest(canonical(content))}, indent=1, allow_nan=False))
    return path


def read_findings(folder: str | Path, checkpoint: str | None = None) -> dict[str, Any] | None:
    """Return the content of ``findings.json`` of a run folder; None if there are no answers about its parameters.

    Args:
        folder: the run folder.
        checkpoint: the checkpoint that the answers must be about; None for the checkpoint that the file names.

    Raises:
        InputError: if the file cannot be read, its checksum does not match its content, or the run was trained further.

    Example:
        >>> import tempfile
        >>> import pvae
        >>> pvae.evaluate.read_findings(tempfile.mkdtemp()) is None  # `pvae.evaluate.all` writes the file
        True
    """
    path = Path(folder) / FINDINGS_FILE
    if not path.exists():
        return None
    content = _read(path)
    evaluated, parameters = str(content.get("checkpoint", "best")), content.get("parameters", "")
    if parameters and parameters != _parameters_of(Path(folder), evaluated):
        raise InputError(
            f"{path} is about earlier parameters of the run, which was trained further since. Run `pvae evaluate "
            "--checks all` again."
        )
    if checkpoint is not None and checkpoint != evaluated:
        is_same = parameters and parameters == _parameters_of(Path(folder), checkpoint)
        return content if is_same else None
    return content


def _parameters_of(folder: Path, checkpoint: str) -> str:
    """Return the checksum of the parameters of a checkpoint in a run folder; "" if there is no such file."""
    path = folder / checkpoint / "parameters.safetensors"
    return digest(path.read_bytes()) if path.is_file() else ""


def _read(path: Path) -> dict[str, Any]:
    """Return the content of a file of findings after checking its checksum.

    Raises:
        InputError: if the file is damaged.
    """
    try:
        content = read_json(path, _MOST_BYTES)
        expected = content.pop(_CHECKSUM)
        is_intact = digest(canonical(content)) == expected
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is damaged ({type(error).__name__}). Run `pvae evaluate --checks all` again."
        ) from error
    if not is_intact:
        raise InputError(
            f"{path} is damaged: its checksum does not match its content. Run `pvae evaluate --checks all` again."
        )
    return content
