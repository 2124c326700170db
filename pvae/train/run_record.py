"""The record of a run, ``config.toml``, and the values that must be the same when the run is resumed."""

from __future__ import annotations

import json
import platform
from collections.abc import Collection, Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from pvae import __version__
from pvae.data import Splits
from pvae.data.streams.looks import first_datum
from pvae.errors import InputError
from pvae.models.build import ModelSpec, describe_arguments, describe_value
from pvae.models.fitted_prior import prior_recipe_of, without_prior
from pvae.models.source_code import code_digests
from pvae.names import require_known
from pvae.programs.binding import Fields
from pvae.structures import is_structure
from pvae.train.checkpoint import Snapshot, describe_difference
from pvae.train.encoding import canonical, digest
from pvae.train.options import FREE, MATMUL_OF_EARLIER_RUNS, Options

__all__ = [
    "KINDS",
    "changes_since_training",
    "config_hash",
    "describe_run",
    "find_changes",
    "former_hashes",
    "kinds_of_changes",
    "require_config_of_snapshot",
]

#: The kinds of changes between a run and its continuation that a user may accept, by name.
KINDS = ("model", "objective", "data", "training", "versions")
# the words for the values of each kind in a message
_WORDS = {
    "model": "settings",
    "objective": "objectives",
    "data": "facts",
    "training": "options",
    "versions": "versions",
}


def describe_run(
    options: Options, splits: Splits, objective: tuple[str, Any], model: Any, spec: ModelSpec | None, fields: Fields
) -> dict[str, Any]:
    """Return the content of ``config.toml``: versions, objective, model, data and options.

    Args:
        options: the checked options.
        splits: the data.
        objective: the objective as text, and the objective itself.
        model: the latent model.
        spec: how to build the model again, or None.
        fields: the batch fields of the programs, or None.
    """
    data_fields = {name: _form(value) for name, value in first_datum(splits.train).items()}
    made = type(without_prior(model))
    recipe: dict[str, Any] = {"class": f"{made.__module__}.{made.__qualname__}"}
    if spec is not None:
        recipe |= {
            "name": spec.name,
            "settings": {name: describe_value(value) for name, value in spec.settings.items()},
        }
    else:
        recipe |= {"arguments": describe_arguments(without_prior(model))}
    fitted = prior_recipe_of(model)
    prior = {} if fitted is None else {"prior": fitted.record()}
    text, itself = objective
    named = {} if fields is None else {"fields": dict(fields) if isinstance(fields, Mapping) else list(fields)}
    return {
        "pvae": _versions(),
        "objective": text,
        **named,
        "model": recipe,
        **prior,
        "code": code_digests(model, itself),
        "data": {
            **splits.summary(),
            "fields": data_fields,
            "notes": list(splits.notes),
            **({"path": splits.path} if splits.path else {}),
        },
        "training": options.record(),
    }


def _form(value: Any) -> dict[str, Any]:
    """Return shape and type of one datum of a field; the type of a field that is not a tensor is "structure"."""
    if is_structure(value):
        return {"shape": [], "dtype": "structure"}
    return {"shape": list(value.shape[1:]), "dtype": str(value.dtype).removeprefix("torch.")}


def _versions() -> dict[str, str]:
    return {
        "version": __version__,
        "torch": torch.__version__,
        "pyro": version("pyro-ppl"),
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def _bound_values(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the values of ``config.toml`` that must be the same when a run is resumed, by kind and name."""
    recipe, data = config["model"], config["data"]
    settings = {**recipe.get("settings", {}), **recipe.get("arguments", {})}
    names_of_data = [name for name in ("name", "checksum", "binarise", "sizes", "mask", "labels") if name in data]
    fields = {"model fields": config["fields"]} if "fields" in config else {}
    return {
        "model": {
            "model class": recipe["class"],
            **{f"model {name}": value for name, value in settings.items()},
            **({"fitted prior": config["prior"]} if "prior" in config else {}),
            **fields,
            **_short_digests(config.get("code", {})),
        },
        "objective": {"objective": config["objective"]},
        "data": {f"data {name}": data[name] for name in names_of_data},
        "training": {name: value for name, value in config["training"].items() if name not in FREE},
        "versions": _named_versions(config["pvae"]),
    }


def _short_digests(code: Mapping[str, str]) -> dict[str, str]:
    return {f"code {file}": f"sha256 {checksum[:12]}..." for file, checksum in code.items()}


def kinds_of_changes(names: str | Iterable[str]) -> tuple[str, ...]:
    """Return the kinds of changes that a user accepts.

    Args:
        names: names of `KINDS`; or a text with commas between them.

    Raises:
        InputError: for a name that is not one of `KINDS`.
    """
    parts = names.split(",") if isinstance(names, str) else names
    kinds = tuple(str(part).strip() for part in parts if str(part).strip())
    for kind in kinds:
        require_known("kind of change", kind, KINDS)
    return kinds


def find_changes(current: Mapping[str, Any], recorded: Mapping[str, Any], accepted: Collection[str]) -> str:
    """Return the differences between two records of a run as text; "" if there are none.

    Args:
        current: the record of the continuation.
        recorded: the record of the run.
        accepted: kinds of `KINDS` that may differ.
    """
    now, then = _bound_values(current), _bound_values(recorded)
    then["training"].setdefault("matmul", MATMUL_OF_EARLIER_RUNS)
    texts = [describe_difference(now[kind], then[kind], _WORDS[kind]) for kind in KINDS if kind not in accepted]
    return "; ".join(filter(None, texts))


def changes_since_training(model: Any, config: Mapping[str, Any]) -> list[str]:
    """Return one line for each file of the user's code and each version that has changed since a run was trained.

    Args:
        model: the latent model of the run, as it has been built.
        config: the content of ``config.toml``.
    """
    then = {**_short_digests(config.get("code", {})), **_named_versions(config["pvae"])}
    now = {**_short_digests(code_digests(model)), **_named_versions(_versions())}
    return [
        f"{name} is {now[name]}; it was {then[name]} in the training"
        for name in now
        if name in then and now[name] != then[name]
    ]


def _named_versions(versions: Mapping[str, str]) -> dict[str, str]:
    return {f"version of {name.replace('version', 'pvae')}": value for name, value in versions.items()}


def require_config_of_snapshot(folder: Path, config: Mapping[str, Any], snapshot: Snapshot) -> None:
    """Raise InputError if ``config.toml`` is not the one of the training that wrote a checkpoint.

    Args:
        folder: the folder of the run.
        config: the content of its ``config.toml``.
        snapshot: the checkpoint.
    """
    known = (config_hash(config), _earlier_hash(config), *config.get("former", ()))
    if snapshot.state.get("config") not in known:
        raise InputError(
            f"{folder / 'config.toml'} is damaged, or was changed since the checkpoint was written. Restore the "
            "original file."
        )


def _earlier_hash(config: Mapping[str, Any]) -> str:
    """Return the hash that earlier versions computed, without data seeds, scales and names.

    "" if they computed none.
    """
    try:
        return digest(canonical(_bound_values(config)))
    except ValueError:  # a value is not finite
        return ""


def former_hashes(recorded: Mapping[str, Any], current: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the earlier hashes of a record, to accept checkpoints that were written before an accepted change.

    Args:
        recorded: the record of the run.
        current: the record of its continuation.
    """
    hashes = [*recorded.get("former", ()), config_hash(recorded)]
    former = [each for each in dict.fromkeys(hashes) if each != config_hash(current)]
    return {"former": former} if former else {}


def config_hash(config: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the values that must be the same when a run is resumed, and of the description of its data.

    The seed of the splits, the scales, the names of columns and labels and the shapes are included, because the results
    of a run for data depend on them. The path of the data is not.
    """
    data = {name: value for name, value in config["data"].items() if name not in ("notes", "path")}
    return digest(json.dumps([_bound_values(config), data], sort_keys=True).encode())
