"""The latent model of a run folder, built by the record of the folder or by a name that the reader gives.

A run folder is data. A built-in model that it names is built; a user's code runs only if the reader names it, or trusts
the folder.
"""

from __future__ import annotations

import importlib.machinery
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from pvae.errors import InputError
from pvae.memory import MemoryLimit, format_bytes
from pvae.models.build import MODELS, ModelSpec
from pvae.models.fitted_prior import PriorRecipe, with_prior
from pvae.names import short_label
from pvae.randomness import preserved_randomness

__all__ = ["build_recorded_model", "code_of_run"]

# Limits while a model is built: the bytes of its tensors as a multiple of the bytes of its checkpoint plus a constant,
# and the same for the number of tensors.
_MOST_EXPANSION, _SMALL, _FEW = 4, 100_000_000, 1000


def build_recorded_model(
    folder: Path, config: Mapping[str, Any], saved: Mapping[str, Tensor], model: Any = None, *, trust: bool = False
) -> Any:
    """Return the latent model of a run, without its trained parameters.

    Args:
        folder: the folder of the run.
        config: the content of its ``config.toml``.
        saved: the tensors of its checkpoint; a model that needs far more memory is refused while it is built.
        model: a latent model, which is returned; or a recipe: a `ModelSpec`, or a text such as
            ``"my_model.py:MyModel"``, which gets the recorded settings. None means the recorded model.
        trust: whether code that is not part of pvae may run because the folder names it.

    Raises:
        InputError: if the model is much larger than the checkpoint, if the folder names such code without `trust`, if
            that code lies in the folder itself or is not a class with ``model`` and ``guide``, if the recorded name and
            class do not match, or if the folder does not record how to build its model.
    """
    recipe = config["model"]
    settings = {key: _setting(value) for key, value in recipe.get("settings", {}).items()}
    if isinstance(model, str):
        model = ModelSpec(model, settings)
    if model is None:
        model = ModelSpec(_accepted_name(folder, recipe, trust=trust), settings)
        model.check(programs=True)
    if not isinstance(model, ModelSpec) and "prior" not in config:
        return model
    size = sum(tensor.nbytes for tensor in saved.values())
    with (
        preserved_randomness(),
        MemoryLimit(
            _MOST_EXPANSION * size + _SMALL,
            lambda needed: _too_large(folder, saved, needed),
            _MOST_EXPANSION * len(saved) + _FEW,
        ),
    ):
        built = model.build(_recorded_shapes(config["data"])) if isinstance(model, ModelSpec) else model
        if isinstance(model, ModelSpec) and model.name == recipe.get("name"):
            _require_class(folder, recipe, built)
        return built if "prior" not in config else with_prior(built, PriorRecipe.of_record(config["prior"]))


def _require_class(folder: Path, recipe: Mapping[str, Any], built: Any) -> None:
    """Raise InputError if the recorded name of a model made another class than the recorded one."""
    if type(built).__name__ != recipe["class"].rpartition(".")[2]:
        raise InputError(
            f"{folder / 'config.toml'} is damaged: model.name is {short_label(recipe['name'])!r}, and model.class is "
            f"{short_label(recipe['class'])!r}. Restore it from a copy."
        )


def _too_large(folder: Path, saved: Mapping[str, Tensor], needed: float) -> InputError:
    size = sum(tensor.nbytes for tensor in saved.values())
    return InputError(
        f"The model that {folder} records needs {format_bytes(needed)} in its tensors, or more, but its checkpoint has "
        f"{format_bytes(size)} in {len(saved)}: config.toml belongs to another model, or is damaged. Restore it "
        "from a copy."
    )


def code_of_run(config: Mapping[str, Any]) -> str:
    """Return the name of the user's class that a run folder names, with its file; "" for a built-in model.

    Args:
        config: the content of the ``config.toml`` of the run.
    """
    name = str(config["model"].get("name", ""))
    if not name or name in MODELS:
        return ""
    file = _source_file(name)
    return f"{name!r}" if file is None else f"{name!r} ({file})"


def _accepted_name(folder: Path, recipe: Mapping[str, Any], *, trust: bool) -> str:
    """Return the recorded name of the model; raise InputError if it may not be built."""
    if "name" not in recipe:
        raise InputError(
            f"{folder} does not say how to build its model ({recipe.get('class')}). Build it, and pass it: "
            "open_run(..., model=...)."
        )
    name = str(recipe["name"])
    if name in MODELS:
        return name
    file = _source_file(name)
    if file is not None and file.is_relative_to(folder.resolve()):
        raise InputError(
            f"{file} lies inside the run folder, and pvae runs no code of a run folder. Move the file out of it."
        )
    if not trust:
        place = "" if file is None else f", in {file}"
        raise InputError(
            f"The model of {folder} needs your consent: the folder names {name!r}{place}, which is not part of pvae, "
            "and its code would run. If you know it, name it yourself (--model, or open_run(..., model=...)), or trust "
            "the folder (--trust, or open_run(..., trust=True))."
        )
    return name


def _source_file(name: str) -> Path | None:
    """Return the file with the code of a model, or of its package, by the model's recorded name; None if unknown."""
    module = name.rpartition(":")[0]
    if not module or not name.isprintable():
        return None
    if module.endswith(".py"):
        return Path(module).expanduser().resolve()
    spec = importlib.machinery.PathFinder.find_spec(module.partition(".")[0])
    return Path(spec.origin).resolve() if spec is not None and spec.origin is not None else None


def _setting(value: Any) -> Any:
    """Return a setting of a model as a Python value: TOML has lists for tuples, and the word none for None."""
    if isinstance(value, list):
        return tuple(value)
    return None if value == "none" else value


def _recorded_shapes(data: Mapping[str, Any]) -> SimpleNamespace:
    """Return the properties of the recorded data that a constructor may ask for."""
    return SimpleNamespace(
        data_shape=tuple(data["data_shape"]),
        classes=data.get("classes"),
        condition_shape=tuple(data["fields"]["c"]["shape"]) if "c" in data["fields"] else None,
        field_shapes=tuple(
            (name, tuple(field["shape"])) for name, field in data["fields"].items() if name != "x" and "shape" in field
        ),
        data_size=data["sizes"].get("train"),
    )
