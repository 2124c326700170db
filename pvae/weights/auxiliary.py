"""Guides with auxiliary sites, which the model does not have: log q(z given x) with these sites marginalised."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pvae.checks import require_whole
from pvae.errors import InputError
from pvae.programs.bijections import value_of
from pvae.programs.sites import Site, base_distribution, sample_sites
from pvae.weights.enumeration import AUXILIARY, EnumerationDims
from pvae.weights.fixed_values import FixedValues
from pvae.weights.log_probs import PlateDims, log_probs_by_site, sum_tensors
from pvae.weights.traces import PARTICLE_PLATE, TracePair
from pvae.weights.tracing import is_traced

__all__ = ["Marginal", "log_marginal"]


class Marginal:
    """The method to marginalise auxiliary guide sites u: draws of a reverse kernel r(u given x, z).

    log q(z given x) is replaced by log (1/m) sum_i q(u_i, z given x) / r(u_i given x, z), where u_1 is the guide's own
    draw and the other draws are from the reverse kernel. In expectation this is never below log q(z given x), so every
    lower bound remains a lower bound; it becomes larger with m.

    Args:
        reverse: a Pyro program with the guide's arguments and the latent sites of the model by name, such as
            ``reverse(x, z)``; it draws exactly the auxiliary sites. Its parameters are trained with the guide's
            parameters.
        particles: m, at least 1.

    Raises:
        InputError: if ``particles < 1`` or the kernel cannot be called.
    Sources: Ranganath, Tran & Blei, Hierarchical Variational Models, arXiv:1511.02386 (m = 1); Sobolev & Vetrov,
        Importance Weighted Hierarchical Variational Inference, arXiv:1905.03290, equation 6.

    Example:
        >>> import pvae, pyro, torch
        >>> from pyro.distributions import Normal
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("x", Normal(pyro.sample("z", Normal(0.0, 1.0)), 1.0), obs=x)
        >>> def guide(x):
        ...     with pyro.plate("data", len(x)):
        ...         u = pyro.sample("u", Normal(0.0, 1.0), infer={"is_auxiliary": True})
        ...         pyro.sample("z", Normal(x / 2 + u / 10, 0.7))
        >>> def reverse(x, z):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("u", Normal(0.2 * (z - x / 2), 1.0))
        >>> objective = pvae.IWAE(particles=8, auxiliary=pvae.Marginal(reverse, particles=4))
        >>> objective.loss(model, guide, torch.randn(5)) > 0
        True
    """

    def __init__(self, reverse: Callable[..., Any], particles: int = 1) -> None:
        particles = require_whole(particles, "particles")
        if not callable(reverse):
            raise InputError(
                f"reverse needs a Pyro program such as reverse(x, z); got {type(reverse).__name__}. Give a function or "
                "a module."
            )
        self.reverse, self.particles = reverse, particles


class _EnumerateAuxiliary(Messenger):
    """Puts all values of each auxiliary site on a separate dimension."""

    def __init__(self, dims: EnumerationDims) -> None:
        super().__init__()
        self.dims = dims

    def _pyro_sample(self, msg: Any) -> None:
        if msg["infer"].get("is_auxiliary") and not msg["done"] and not msg["is_observed"]:
            msg["value"], msg["done"] = self.dims.add(msg, AUXILIARY), True


def log_marginal(pair: TracePair, dims: PlateDims, marginal: Marginal | None) -> tuple[Tensor, Tensor | None]:
    """Return log q(z given x) of a run, with its auxiliary sites marginalised.

    Args:
        pair: a run of programs with auxiliary sites in the guide.
        dims: the dimensions of particles and data.
        marginal: the reverse kernel; None for the exact sum over all values.

    Returns:
        The log-density, shape (*left, particles, batch); and log r of the kernel's draws without a gradient, of the
        same shape. Its gradient is the score; it is None if there are no such draws.

    Raises:
        InputError: if the sites have no finite support and there is no kernel, or if the kernel draws other sites.
    """
    if marginal is None:
        return _exact_log_marginal(pair, dims), None
    return _ReverseKernel(pair, dims, marginal).log_marginal()


def _fixed_z(pair: TracePair) -> dict[str, Tensor]:
    """Return the values of the latent sites that are not marginalised."""
    marginalised = {site["name"] for site in pair.auxiliary_sites}
    return {site["name"]: site["value"] for site in pair.latent_sites if site["name"] not in marginalised}


def _without_images(values: Mapping[str, Tensor], pair: TracePair) -> dict[str, Tensor]:
    """Return the values without the Delta sites of a one-to-one map, which follow from their draws."""
    return {name: value for name, value in values.items() if name not in pair.bijection.points}


def _sum_at_same_z(trace: poutine.Trace, pair: TracePair, dims: PlateDims) -> Tensor:
    """Return the sum of the guide's log-densities, shape (*left, particles, batch).

    Raises:
        InputError: if a Delta site depends on a marginalised site, so that z differs for each of its values.
    """
    for name in pair.bijection.points:
        value, drawn = value_of(trace, name), value_of(pair.guide, name)
        if not is_traced() and not torch.allclose(value, drawn.expand(value.shape)):
            raise InputError(
                f"Site {name!r} is a Delta of auxiliary draws that are not all mapped one to one: it depends on "
                f"{pair.auxiliary_sites[0]['name']!r} too, which needs to be marginalised. Draw {name!r} from a "
                "distribution with a density."
            )
    return sum_tensors(log_probs_by_site([sample_sites(trace)], dims).values())


def _exact_log_marginal(pair: TracePair, dims: PlateDims) -> Tensor:
    """Return log q(z given x), summed over all values of the auxiliary sites."""
    for site in pair.auxiliary_sites:
        if not getattr(base_distribution(site["fn"]), "has_enumerate_support", False):
            raise InputError(
                f"The exact sum over auxiliary sites needs finite supports; site {site['name']!r} has no finite "
                "support. Give the objective a reverse kernel, auxiliary=pvae.Marginal(reverse=..., particles=5)."
            )
    # Dimensions of branches are in use already, although no site has them.
    enumeration = pair.dims.reserve(dims.left - pair.dims.width)
    fixed = FixedValues(_without_images(_fixed_z(pair), pair))
    guide = pair.programs.with_programs(pair.programs.model, fixed(pair.programs.guide))
    trace = guide.with_programs(guide.model, _EnumerateAuxiliary(enumeration)(guide.guide)).trace_guide()
    wide = dataclasses.replace(dims, left=enumeration.width)
    log_probs = _sum_at_same_z(trace, pair, wide)
    return torch.logsumexp(log_probs, tuple(range(len(pair.auxiliary_sites))))


class _ReverseKernel:
    """A reverse kernel r(u given x, z) at the z of one run.

    Args:
        pair: a run of programs with auxiliary sites in the guide.
        dims: the dimensions of particles and data.
        marginal: the kernel, and the number of its draws.
    """

    def __init__(self, pair: TracePair, dims: PlateDims, marginal: Marginal) -> None:
        self.pair, self.marginal = pair, marginal
        self.particles, self.particle_dim = dims.particles, -1 - dims.nesting
        self.dims = dataclasses.replace(dims, left=dims.left + 1)
        self.fixed_z = _fixed_z(pair)
        self.auxiliary = {site["name"]: site for site in pair.auxiliary_sites}

    def log_marginal(self) -> tuple[Tensor, Tensor | None]:
        """Return log (1/m) sum_i q(u_i, z given x) / r(u_i given x, z), and the score of the kernel's draws."""
        values = {name: _with_left_dims(site, self.dims) for name, site in self.auxiliary.items()}
        score = None
        if self.marginal.particles > 1:
            sites = self._draw(self.marginal.particles - 1)
            score = self._score(sites)
            values = {name: _concatenate(values[name], sites[name]["value"]) for name in values}
        # This order of log q and log r determines the order in which backward() sums the gradients, and so their last
        # bits.
        kernel_sites = self._sites(FixedValues(values)(self._program))
        fixed = FixedValues({**_without_images(self.fixed_z, self.pair), **values})
        programs = self.pair.programs
        trace = programs.with_programs(programs.model, fixed(programs.guide)).trace_guide()
        log_q = _sum_at_same_z(trace, self.pair, self.dims)
        log_r = sum_tensors(log_probs_by_site([kernel_sites], self.dims).values())
        ratio = log_q - log_r
        return torch.logsumexp(ratio, 0) - math.log(ratio.shape[0]), score

    def _draw(self, count: int) -> dict[str, Site]:
        """Draw the auxiliary sites `count` times, on a dimension to the left of all others."""
        left_dim = -1 - self.dims.nesting - self.dims.left

        def many(*args: Any, **kwargs: Any) -> Any:
            with pyro.plate("reverse_draws_of_pvae", count, dim=left_dim):
                return self._program(*args, **kwargs)

        return {site["name"]: site for site in self._sites(many)}

    def _score(self, sites: Mapping[str, Site]) -> Tensor | None:
        """Return log r of the draws without a pathwise gradient, summed over draws, shape (*left, particles, batch)."""
        blind = [site for site in sites.values() if not site["fn"].has_rsample]
        if not blind:
            return None
        return sum_tensors(log_probs_by_site([blind], self.dims).values()).sum(0)

    def _sites(self, program: Callable[..., Any]) -> list[Site]:
        """Run the kernel, and return its sites.

        Raises:
            InputError: if they are not exactly the auxiliary sites of the guide.
        """
        trace = self.pair.programs.with_programs(self.pair.programs.model, program).trace_guide()
        sites = sample_sites(trace)
        names = {site["name"] for site in sites if not site["is_observed"]}
        if names != self.auxiliary.keys():
            raise InputError(
                f"The reverse kernel must draw exactly the auxiliary sites of the guide, {', '.join(self.auxiliary)}, "
                f"but it draws {', '.join(sorted(names)) or 'nothing'}. Draw the guide's auxiliary sites, by their "
                "names."
            )
        return sites

    def _program(self, *args: Any, **kwargs: Any) -> Any:
        """Run the kernel with the arguments of the guide and the latent sites that it names, in the particle plate."""
        parameters = inspect.signature(self.marginal.reverse).parameters.values()
        takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
        names = {parameter.name for parameter in parameters}
        latents = {name: value for name, value in self.fixed_z.items() if takes_any or name in names}
        if self.particles == 1:
            return self.marginal.reverse(*args, **kwargs, **latents)
        with pyro.plate(PARTICLE_PLATE, self.particles, dim=self.particle_dim):
            return self.marginal.reverse(*args, **kwargs, **latents)


def _with_left_dims(site: Site, dims: PlateDims) -> Tensor:
    """Return the value of a site with dimensions of size 1 on the left, up to a new leftmost dimension."""
    value: Tensor = site["value"]
    wanted = 1 + dims.nesting + dims.left + site["fn"].event_dim
    return value.reshape((1,) * (wanted - value.dim()) + tuple(value.shape))


def _concatenate(own: Tensor, drawn: Tensor) -> Tensor:
    """Return the guide's own value, shape (1, ...), followed by the draws of the kernel, shape (draws, ...)."""
    shape = torch.broadcast_shapes(own.shape[1:], drawn.shape[1:])
    return torch.cat([own.expand(1, *shape), drawn.expand(drawn.shape[0], *shape)])
