"""The tensors of a model in the form of its run: bound to zeros of the recorded shapes, and their digest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pvae.batch import Batch
from pvae.data.data_digest import digest
from pvae.errors import InputError
from pvae.models.fitted_prior import is_built_in, without_prior
from pvae.programs.binding import bind
from pvae.programs.parameter_scope import scope
from pvae.randomness import preserved_randomness
from pvae.train.parameters import root_module
from pvae.train.training_state import model_tensors

__all__ = ["create_lazy_parameters", "digest_without_prior", "require_own_codes", "root_of", "tensors_of", "zero_batch"]


def zero_batch(config: Mapping[str, Any]) -> Batch:
    """Return two data of zeros in the recorded shapes, to bind programs and to create lazy parameters.

    The zeros of a field share one number in memory.

    Args:
        config: the content of ``config.toml``.
    """
    return Batch(
        **{
            name: torch.zeros((), dtype=getattr(torch, field["dtype"], torch.float32)).expand(2, *field["shape"])
            for name, field in config["data"]["fields"].items()
        }
    )


def root_of(model: Any, config: Mapping[str, Any]) -> nn.Module:
    """Return the module that holds all parameters of a model, see `root_module`.

    Args:
        model: the latent model.
        config: the content of ``config.toml``.
    """
    return root_module(model, bind(model, zero_batch(config), config.get("fields")))


def create_lazy_parameters(model: Any, config: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Run both programs once if saved parameters are missing: autoguides create theirs at the first call.

    Args:
        model: the latent model, inside its scope.
        config: the content of ``config.toml``.
        saved: the saved tensors by name.
    """
    expected = {name for name in saved if not name.startswith(("param_store/", "buffers/"))}
    if model_tensors(model, root_of(model, config)).keys() >= expected:
        return
    batch = zero_batch(config)
    programs = bind(model, batch, config.get("fields")).bound_to(batch)
    with preserved_randomness(), torch.no_grad():
        programs.trace_both()


def tensors_of(model: Any, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return copies of the tensors of a model by name, as in a checkpoint.

    Args:
        model: the latent model.
        config: the content of ``config.toml``.
    """
    with scope(model):
        tensors = model_tensors(model, root_of(model, config))
        return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}


def digest_without_prior(model: Any, tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of all tensors of a model except those of its prior.

    It is the same before and after a prior is fitted, so it identifies the model that the prior belongs to.

    Args:
        model: the latent model.
        tensors: its tensors by name, as `tensors_of` returns them.
    """
    base = without_prior(model)
    if base is not model:
        tensors = {
            name.removeprefix("inner."): value for name, value in tensors.items() if not name.startswith("prior.")
        }
    if is_built_in(base):
        tensors = {name: value for name, value in tensors.items() if not name.startswith("prior.")}
    return digest({name: value.detach() for name, value in tensors.items()})


def require_own_codes(folder: Path, config: Mapping[str, Any], model: Any, tensors: Mapping[str, Tensor]) -> None:
    """Raise InputError if the fitted prior of a run was fitted to the codes of a model with other parameters.

    Args:
        folder: the folder of the run.
        config: the content of its ``config.toml``.
        model: the latent model.
        tensors: its tensors by name.
    """
    fitted = config.get("prior", {}).get("fitted")
    if fitted is not None and fitted["parameters"] != digest_without_prior(model, tensors):
        raise InputError(
            f"The prior of {folder} was fitted to the codes of another model: the parameters of guide and likelihood "
            "have changed since the fit. Fit the prior again with pvae.fit_prior or pvae fit-prior."
        )
