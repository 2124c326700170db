"""Encoder and decoder as functions of tensors: they return the parameters of distributions, and draw nothing."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pyro
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pvae.errors import InputError
from pvae.models.site_values import has_finite_support, most_probable_value
from pvae.programs.binding import Fields, bind
from pvae.programs.distribution_parameters import parameter_names
from pvae.programs.parameter_scope import scope
from pvae.programs.queries import inference_mode, site_of_data, trace_model_at_any_z
from pvae.programs.sites import base_distribution, is_delta, is_subsample, sample_sites
from pvae.randomness import evaluating, preserved_randomness

__all__ = ["TensorFunction", "decoder_function", "encoder_function"]


class _ParameterMessenger(Messenger):
    """Collects the parameters of distributions by ``site.parameter``, and gives every latent site a value.

    Args:
        values: the values of latent sites by name.
        data_sites: the observed sites to collect. Without any, the latent sites are collected, each at its mean or its
            most probable value, which is collected too.
    """

    def __init__(self, values: Mapping[str, Tensor], data_sites: Collection[str]) -> None:
        super().__init__()
        self.values, self.data_sites = values, data_sites
        self.outputs: dict[str, Tensor] = {}
        self.families: dict[str, str] = {}

    def _pyro_sample(self, msg: Any) -> None:
        name, density = msg["name"], msg["fn"]
        if is_subsample(msg) or msg["infer"].get("_deterministic"):
            return
        if name in self.data_sites:
            self._collect(name, density, "mean", _mean(density))
        elif not msg["is_observed"]:
            msg["value"] = self._latent_value(msg)
            msg["done"] = True

    def _latent_value(self, msg: Any) -> Tensor:
        """Return the value of a latent site; if none is chosen, collect its parameters too."""
        name, density = msg["name"], msg["fn"]
        if name in self.values:
            return self.values[name]
        if msg["infer"].get("is_auxiliary"):
            raise InputError(f"site {name!r} is auxiliary, so that other sites are functions of its draw")
        kind, value = (
            ("mode", most_probable_value(density)) if has_finite_support(density) else ("mean", _mean(density))
        )
        if value is None:
            raise InputError(f"site {name!r} has a {_family(density)}, which has no mean in closed form")
        self._collect(name, density, kind, value)
        return value

    def _collect(self, name: str, density: Any, kind: str, value: Tensor | None) -> None:
        base = base_distribution(density)
        self.families[name] = _family(density)
        parameters = {} if is_delta({"fn": density}) else {key: getattr(base, key) for key in parameter_names(base)}
        outputs = {f"{name}.{key}": part for key, part in parameters.items() if isinstance(part, Tensor)}
        if value is not None and not any(value is part for part in parameters.values()):
            outputs[f"{name}.{kind}"] = value
        if not outputs:
            raise InputError(f"site {name!r} has a {_family(density)}, which has no parameters and no mean")
        self.outputs |= outputs


def _family(density: Any) -> str:
    return type(base_distribution(density)).__name__


def _mean(density: Any) -> Tensor | None:
    """Return the mean of a distribution; None if it has no closed form."""
    try:
        mean: Tensor = base_distribution(density).mean
    except NotImplementedError:
        return None
    return mean


class TensorFunction(nn.Module):
    """One program of a latent model as a function of tensors.

    Args:
        latent_model: any object with ``model`` and ``guide``.
        batch: an example of the fields of a batch, each of shape (batch, ...).
        latents: an example of the values of latent sites, each of shape (batch, ...).
        inputs: the names of the fields and sites that are arguments, in order. Other fields and sites have the first
            row of the example as their value for all data.
        data_sites: the observed sites of a decoder; () for an encoder.
        fields: as for `pvae.models.bind`.

    Attributes:
        families: the names of the distributions by site, from the last call.
        omitted: the names of outputs that are left out.
    """

    latent_model: Any
    batch: dict[str, Tensor]
    latents: dict[str, Tensor]

    def __init__(
        self,
        latent_model: Any,
        batch: Mapping[str, Tensor],
        latents: Mapping[str, Tensor],
        inputs: Sequence[str],
        *,
        data_sites: Sequence[str] = (),
        fields: Fields = None,
    ) -> None:
        super().__init__()
        # not registered as submodules and buffers, because a latent model may be any object
        self.__dict__ |= {"latent_model": latent_model, "batch": dict(batch), "latents": dict(latents)}
        self.inputs, self.data_sites, self.fields = tuple(inputs), tuple(data_sites), fields
        self.families: dict[str, str] = {}
        self.omitted: frozenset[str] = frozenset()

    @property
    def example(self) -> tuple[Tensor, ...]:
        """Examples of the arguments, each of shape (batch, ...)."""
        values = {**self.batch, **self.latents}
        return tuple([values[name] for name in self.inputs])

    def with_inputs(self, inputs: Sequence[str]) -> TensorFunction:
        """Return the function with other arguments.

        Args:
            inputs: names of fields and sites, in order.
        """
        changed = TensorFunction(
            self.latent_model, self.batch, self.latents, inputs, data_sites=self.data_sites, fields=self.fields
        )
        changed.omitted = self.omitted
        return changed

    def forward(self, *arguments: Tensor) -> dict[str, Tensor]:
        """Return the outputs by ``site.parameter``, each of shape (batch, ...).

        Args:
            arguments: the tensors of `inputs`, each of shape (batch, ...).
        """
        given = dict(zip(self.inputs, arguments, strict=True))
        size = arguments[0].shape[0]
        latents = _values(self.latents, given, size)
        # a latent site may have the name of a field, which is then not an argument
        batch = _values(self.batch, {name: value for name, value in given.items() if name not in latents}, size)
        messenger = _ParameterMessenger(latents, self.data_sites)
        programs = bind(self.latent_model, batch, self.fields).in_dtype_of_parameters()
        with scope(self.latent_model, inherit=True), evaluating(*programs.all_modules), pyro.validation_enabled(False):
            bound = programs.bound_to(batch)
            if self.data_sites:
                bound.with_programs(messenger(programs.model), programs.guide).trace_model()
            else:
                bound.with_programs(programs.model, messenger(programs.guide)).trace_guide()
        self.families = messenger.families
        shape = self.batch["x"].shape[1:]
        kept = {name: value for name, value in messenger.outputs.items() if name not in self.omitted}
        return {name: _in_shape_of_datum(value, shape) for name, value in kept.items()}


def _values(examples: Mapping[str, Tensor], given: Mapping[str, Tensor], size: int) -> dict[str, Tensor]:
    """Return the values of all names: the given ones, or the first row of the example, shape (size, ...)."""
    return {
        name: given[name] if name in given else example[:1].expand(size, *example.shape[1:])
        for name, example in examples.items()
    }


def _in_shape_of_datum(value: Tensor, shape: torch.Size) -> Tensor:
    """Return a value in the shape of x, (batch, ...), if it has as many numbers for each datum; else unchanged."""
    if value.dim() == 0 or math.prod(value.shape[1:]) != math.prod(shape):
        return value
    return value.reshape(value.shape[0], *shape)


def encoder_function(latent_model: Any, batch: Mapping[str, Tensor], fields: Fields = None) -> TensorFunction:
    """Return the guide as a function of the fields of a batch; see `TensorFunction`.

    The outputs are the parameters of q for each latent site. If a site depends on another one, it is computed at the
    mean or at the most probable value of the other one. This value is an output too: the code of `Run.encode`.

    Args:
        latent_model: any object with ``model`` and ``guide``.
        batch: some data, with the fields that both programs take.
        fields: as for `pvae.models.bind`.
    """
    return TensorFunction(latent_model, batch, {}, tuple(batch), fields=fields)


def decoder_function(latent_model: Any, batch: Mapping[str, Tensor], fields: Fields = None) -> TensorFunction:
    """Return the model as a function of latent values and of the fields of a batch; see `TensorFunction`.

    The outputs are the parameters and the mean of p(x given z), for all observed sites if x is observed in parts.

    Args:
        latent_model: any object with ``model`` and ``guide``.
        batch: some data, with the fields that both programs take.
        fields: as for `pvae.models.bind`.

    Raises:
        InputError: if all data share a latent site.
    """
    with preserved_randomness(), inference_mode(latent_model, batch, fields) as programs:
        sites = sample_sites(trace_model_at_any_z(programs.bound_to(batch)))
    latents = {site["name"]: site["value"] for site in sites if not site["is_observed"]}
    for name, value in latents.items():
        if value.dim() == 0 or len(value) != len(batch["x"]):
            raise InputError(f"all data share the latent site {name!r}, so x is not a function of one datum only")
    inputs = (*latents, *[name for name in batch if name not in latents])
    data_site = site_of_data(sites, batch)
    observed = [site["name"] for site in sites if site["is_observed"]]
    data_sites = [data_site["name"]] if data_site["value"].numel() == batch["x"].numel() else observed
    return TensorFunction(latent_model, batch, latents, inputs, data_sites=data_sites, fields=fields)
