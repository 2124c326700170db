"""Theta and phi: which parameters belong to the model, and which to the guide."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from pvae.programs.binding import Fields, bind
from pvae.programs.parameter_scope import scope, store_tensors
from pvae.randomness import preserved_randomness

__all__ = ["Groups", "find_groups", "named_parameters", "program_groups"]


@dataclass(frozen=True)
class Groups:
    """Parameters by name, in disjoint groups.

    Attributes:
        theta: reached from log p(x, z) at fixed z.
        phi: reached from log q(z given x) at fixed z, or from a drawn z.
        both: reached from both (a prior built on the encoder, say): declare ``theta()`` and ``phi()`` where an
            objective treats the groups apart.
        neither: reached from neither; no objective updates them.
    """

    theta: dict[str, Tensor] = field(default_factory=dict)
    phi: dict[str, Tensor] = field(default_factory=dict)
    both: dict[str, Tensor] = field(default_factory=dict)
    neither: dict[str, Tensor] = field(default_factory=dict)


def named_parameters(latent_model: Any, modules: Iterable[nn.Module]) -> dict[str, Tensor]:
    """Return every trainable tensor once, by name: the modules' parameters, and the scope's other ``pyro.param``.

    A name that two of them share is told apart by a number.
    """
    found: dict[int, tuple[str, Tensor]] = {}
    for module in modules:
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                found.setdefault(id(parameter), (name, parameter))
    for name, tensor in store_tensors(latent_model).items():
        if tensor.requires_grad:
            found.setdefault(id(tensor), (name, tensor))
    named: dict[str, Tensor] = {}
    for name, tensor in found.values():
        named[name if name not in named else f"{name}#{len(named)}"] = tensor
    return named


def _sum(terms: Iterable[Any]) -> Tensor | None:
    reached = [term.sum() for term in terms if isinstance(term, Tensor) and term.requires_grad]
    return torch.stack([each.double() for each in reached]).sum() if reached else None


def _reached(total: Tensor | None, parameters: Mapping[str, Tensor]) -> set[str]:
    if total is None:
        return set()
    gradients = torch.autograd.grad(total, list(parameters.values()), allow_unused=True, retain_graph=True)
    return {name for name, gradient in zip(parameters, gradients, strict=True) if gradient is not None}


def _latent(trace: poutine.Trace) -> list[Any]:
    return [each for each in trace.nodes.values() if each["type"] == "sample" and not each["is_observed"]]


def _scored(trace: poutine.Trace) -> Iterable[Tensor]:
    sites: list[Any] = [each for each in trace.nodes.values() if each["type"] == "sample"]
    return (each["fn"].log_prob(each["value"]) for each in sites)


def _reach(
    model: Any,
    guide: Any,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    parameters: Callable[[], dict[str, Tensor]],
) -> tuple[dict[str, Tensor], set[str], set[str]]:
    """All parameters, and the names that the model's and the guide's densities reach on these arguments."""
    drawn = prune_subsample_sites(poutine.trace(guide).get_trace(*args, **kwargs))
    fixed = drawn.copy()
    for site in _latent(fixed):
        fixed.nodes[site["name"]] = site.copy() | {"value": site["value"].detach()}
    at_fixed = poutine.trace(poutine.replay(guide, trace=fixed)).get_trace(*args, **kwargs)
    scored = poutine.trace(poutine.replay(model, trace=fixed)).get_trace(*args, **kwargs)
    named = parameters()  # after the runs, which may create some
    theta = _reached(_sum(_scored(prune_subsample_sites(scored))), named)
    phi = _reached(_sum(_scored(prune_subsample_sites(at_fixed))), named)
    phi |= _reached(_sum(each["value"] for each in _latent(drawn)), named)
    return named, theta, phi


def _grouped(parameters: Mapping[str, Tensor], theta: set[str], phi: set[str]) -> Groups:
    groups = Groups()
    for name, parameter in parameters.items():
        group = {(True, False): groups.theta, (False, True): groups.phi, (True, True): groups.both}
        group.get((name in theta, name in phi), groups.neither)[name] = parameter
    return groups


def program_groups(model: Any, guide: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Groups:
    """Find the groups of two programs among the entries of the present parameter store, by their names there.

    For plain `pyro.infer.SVI` scripts, where no latent model holds both programs.
    """

    def parameters() -> dict[str, Tensor]:
        store = pyro.get_param_store().named_parameters()
        return {
            name: each for name, each in store if each.requires_grad and not isinstance(each, UninitializedParameter)
        }

    with preserved_randomness(), torch.enable_grad():
        return _grouped(*_reach(model, guide, args, kwargs, parameters))


def find_groups(latent_model: Any, batches: Iterable[Mapping[str, Tensor]], fields: Fields = None) -> Groups:
    """Find the parameters of the model and of the guide by differentiating log p and log q.

    Args:
        latent_model: any object with ``model`` and ``guide``.
        batches: one batch of each kind (labelled and unlabelled, say): some parameters show only on one of them.
        fields: as for `pvae.models.bind`.

    Returns:
        The groups; frozen parameters are in none of them.
    """
    parameters: dict[str, Tensor] = {}
    theta: set[str] = set()
    phi: set[str] = set()
    with scope(latent_model), preserved_randomness(), torch.enable_grad():
        for batch in batches:
            programs = bind(latent_model, batch, fields)
            named = partial(named_parameters, latent_model, programs.modules)
            arguments = programs.arguments(batch)
            found, from_model, from_guide = _reach(programs.model, programs.guide, arguments, {}, named)
            parameters |= found
            theta |= from_model
            phi |= from_guide
    return _grouped(parameters, theta, phi)
