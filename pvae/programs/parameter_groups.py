"""The parameter groups theta and phi: the parameters of the model and of the guide."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from pvae.errors import InputError
from pvae.programs.binding import Fields, bind
from pvae.programs.bound import BoundPrograms
from pvae.programs.parameter_scope import scope, store_tensors
from pvae.programs.sites import UnknownDensityError, log_density
from pvae.randomness import preserved_randomness

__all__ = [
    "Groups",
    "declared_group",
    "find_groups",
    "model_has_parameters",
    "named_parameters",
    "program_groups",
    "require_disjoint_groups",
]


@dataclass(frozen=True)
class Groups:
    """Parameters by name, in disjoint groups.

    Attributes:
        theta: the parameters that log p(x, z) depends on at fixed z.
        phi: the parameters that log q(z given x) depends on at fixed z, or that a drawn z depends on.
        both: the parameters of both kinds, for instance of a prior that uses the encoder. Declare ``theta()`` and
            ``phi()`` if an objective trains the groups separately.
        neither: the parameters of neither kind; no objective updates them.
    """

    theta: dict[str, Tensor] = field(default_factory=dict)
    phi: dict[str, Tensor] = field(default_factory=dict)
    both: dict[str, Tensor] = field(default_factory=dict)
    neither: dict[str, Tensor] = field(default_factory=dict)


def declared_group(owners: Iterable[Any], group: str) -> list[nn.Parameter] | None:
    """Return the parameter group that the first owner with a method of this name declares.

    Only this function reads declarations such as ``theta()``, ``phi()`` and ``critic()``.

    Args:
        owners: objects that may have the method: a latent model, an objective, the owner of a program.
        group: the name of the group and of the method.

    Returns:
        All parameters of the group, frozen ones too; None if no owner declares it. The methods of `LatentModel` raise
        an `InputError` until a subclass overrides them, so they declare nothing.
    """
    for owner in owners:
        method = getattr(owner, group, None)
        if callable(method):
            try:
                return list(method())
            except InputError:
                return None
    return None


def require_disjoint_groups(groups: Groups, objective: str) -> None:
    """Raise InputError for parameters of both programs, for an objective that updates theta and phi separately.

    Args:
        groups: the groups of both programs.
        objective: the name of the objective, for the error.

    Raises:
        InputError: if a parameter belongs to both programs.
    """
    if groups.both:
        raise InputError(
            f"{objective} trains theta and phi separately and needs disjoint groups; parameter "
            f"{next(iter(groups.both))!r} "
            "belongs to the model and to the guide. Declare theta() and phi() on the latent model."
        )


def named_parameters(latent_model: Any, modules: Iterable[nn.Module]) -> dict[str, Tensor]:
    """Return every trainable tensor once, by name: the modules' parameters, and other ``pyro.param`` entries.

    If two tensors have the same name, the second one gets a number.

    Args:
        latent_model: any object with ``model`` and ``guide``; its scope is the current store.
        modules: the modules that hold parameters.
    """
    by_id: dict[int, tuple[str, Tensor]] = {}
    for module in modules:
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                by_id.setdefault(id(parameter), (name, parameter))
    for name, tensor in store_tensors(latent_model).items():
        if tensor.requires_grad:
            by_id.setdefault(id(tensor), (name, tensor))
    named: dict[str, Tensor] = {}
    for name, tensor in by_id.values():
        named[name if name not in named else f"{name}#{len(named)}"] = tensor
    return named


def _sum(terms: Iterable[Any]) -> Tensor | None:
    """Return the sum of all terms with a gradient in double precision, shape (); None if there is none."""
    sums = [term.sum() for term in terms if isinstance(term, Tensor) and term.requires_grad]
    return torch.stack([total.double() for total in sums]).sum() if sums else None


def _names_with_gradient(total: Tensor | None, parameters: Mapping[str, Tensor]) -> set[str]:
    """Return the names of the parameters that a sum depends on."""
    if total is None:
        return set()
    gradients = torch.autograd.grad(total, list(parameters.values()), allow_unused=True, retain_graph=True)
    return {name for name, gradient in zip(parameters, gradients, strict=True) if gradient is not None}


def _latent_sites(trace: poutine.Trace) -> list[Any]:
    return [site for site in trace.nodes.values() if site["type"] == "sample" and not site["is_observed"]]


def _log_densities(trace: poutine.Trace) -> Iterable[Tensor]:
    """Yield the log-density of each sample site, of any shape, unless it is known at the site's own draw only.

    All parameters of such a site are found from its draw.
    """
    for node in prune_subsample_sites(trace).nodes.values():
        site: Any = node
        if site["type"] == "sample":
            with suppress(UnknownDensityError):
                yield log_density(site)


@dataclass(frozen=True)
class _Dependencies:
    """The parameters of two programs, and the names of the parameters that each program depends on.

    Attributes:
        parameters: all parameters by name.
        theta: the names of the parameters that log p(x, z) depends on.
        phi: the names of the parameters that log q(z given x) or a drawn z depends on.
    """

    parameters: dict[str, Tensor]
    theta: set[str]
    phi: set[str]

    def groups(self) -> Groups:
        """Return the parameters in disjoint groups."""
        groups = Groups()
        group_of = {(True, False): groups.theta, (False, True): groups.phi, (True, True): groups.both}
        for name, parameter in self.parameters.items():
            group_of.get((name in self.theta, name in self.phi), groups.neither)[name] = parameter
        return groups


def _find_dependencies(programs: BoundPrograms, list_parameters: Callable[[], dict[str, Tensor]]) -> _Dependencies:
    """Differentiate the densities of both programs, and the draws of the guide.

    Args:
        programs: both programs with their arguments.
        list_parameters: returns all parameters; it is called after the runs, because they may create some.
    """
    drawn = prune_subsample_sites(programs.trace_guide())
    fixed = drawn.copy()
    for site in _latent_sites(fixed):
        fixed.nodes[site["name"]] = site.copy() | {"value": site["value"].detach()}
    guide_at_fixed_z = programs.trace_guide(fixed)
    model_at_fixed_z = programs.trace_model(fixed)
    parameters = list_parameters()
    theta = _names_with_gradient(_sum(_log_densities(model_at_fixed_z)), parameters)
    phi = _names_with_gradient(_sum(_log_densities(guide_at_fixed_z)), parameters)
    phi |= _names_with_gradient(_sum(site["value"] for site in _latent_sites(drawn)), parameters)
    return _Dependencies(parameters, theta, phi)


def program_groups(model: Any, guide: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Groups:
    """Find the groups of two programs among the entries of the current parameter store, by their names in it.

    This is for plain `pyro.infer.SVI` scripts, in which no latent model holds both programs.

    Args:
        model: p(x, z).
        guide: q(z given x).
        args: the positional arguments of both programs.
        kwargs: the keyword arguments of both programs.
    """

    def list_parameters() -> dict[str, Tensor]:
        return {
            name: parameter
            for name, parameter in pyro.get_param_store().named_parameters()
            if parameter.requires_grad and not isinstance(parameter, UninitializedParameter)
        }

    with preserved_randomness(), torch.enable_grad():
        return _find_dependencies(BoundPrograms(model, guide, args, kwargs), list_parameters).groups()


def find_groups(latent_model: Any, batches: Iterable[Mapping[str, Tensor]], fields: Fields = None) -> Groups:
    """Find the parameters of the model and of the guide by differentiating log p and log q.

    Args:
        latent_model: any object with ``model`` and ``guide``.
        batches: one batch of each kind, for instance labelled and unlabelled: some parameters are used only on one.
        fields: as for `pvae.models.bind`.

    Returns:
        The groups, without frozen parameters.
    """
    all_dependencies = _Dependencies({}, set(), set())
    with scope(latent_model), preserved_randomness(), torch.enable_grad():
        for batch in batches:
            programs = bind(latent_model, batch, fields)
            list_parameters = partial(named_parameters, latent_model, programs.modules)
            dependencies = _find_dependencies(programs.bound_to(batch), list_parameters)
            all_dependencies = _Dependencies(
                all_dependencies.parameters | dependencies.parameters,
                all_dependencies.theta | dependencies.theta,
                all_dependencies.phi | dependencies.phi,
            )
    return all_dependencies.groups()


def model_has_parameters(latent_model: Any, batch: Mapping[str, Tensor], fields: Fields = None) -> bool:
    """Return whether log p(x, z) depends on a parameter, by ``theta()`` if it is declared, or by a run of the model.

    Args:
        latent_model: any object with ``model`` and ``guide``.
        batch: a few data.
        fields: as for `pvae.models.bind`.
    """
    declared = declared_group([latent_model], "theta")
    if declared is not None:
        return any(parameter.requires_grad for parameter in declared)
    with scope(latent_model), preserved_randomness(), torch.enable_grad():
        programs = bind(latent_model, batch, fields)
        try:
            trace = prune_subsample_sites(programs.bound_to(batch).trace_model())
        except (
            ArithmeticError,
            RuntimeError,
            ValueError,
        ):  # an improper prior, or a prior with draws of infinite density
            groups = find_groups(latent_model, [batch], fields)
            return bool(groups.theta or groups.both)
        return bool(_names_with_gradient(_sum(_log_densities(trace)), named_parameters(latent_model, programs.modules)))
