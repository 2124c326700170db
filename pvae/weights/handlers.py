"""Message handlers that decide how the value of a latent site is obtained: drawn, detached, relaxed or enumerated."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pvae.errors import InputError, first_line
from pvae.programs.sites import Site, base_distribution, is_latent_draw

__all__ = [
    "ENUMERATE",
    "FIRST_VALUE",
    "PATHWISE",
    "SUMMED",
    "BranchMessenger",
    "ChooseStrategy",
    "EnumerationDims",
    "SiteStrategyMessenger",
    "explain_broadcast_errors",
    "finite_support",
    "keep_draw",
    "support_size",
]

#: A function from the message of a latent site to its strategy.
ChooseStrategy = Callable[[Site], str]

PATHWISE, ENUMERATE, SUMMED, FIRST_VALUE = "pathwise", "enumerate", "sum", "first"
_MOST_VALUES = 4096


def keep_draw(site: Site) -> str:
    """Return the strategy that leaves the value of a site as it is drawn."""
    return PATHWISE


@contextmanager
def explain_broadcast_errors(sites: Collection[tuple[str, int]]) -> Iterator[None]:
    """Run programs with enumerated sites; if one fails, name the sites, because broadcasting is the likely cause.

    Args:
        sites: name and number of values of each enumerated site. It may grow inside the block.

    Raises:
        InputError: in place of the error that the program raises.
    """
    try:
        yield
    except InputError:
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if not sites:
            raise
        names = ", ".join(repr(name) for name, _ in sites)
        raise InputError(
            f"Enumeration of site {names} adds a dimension to the left of all others, and the programs must broadcast "
            f"over it; they fail ({type(error).__name__}: {first_line(error)}). Make them broadcast "
            "(torch.broadcast_tensors before stack, cat and gather; pyro.ops.indexing.Vindex), or use 'score'."
        ) from error


def finite_support(name: str, distribution: Any) -> Tensor:
    """Return every value of a distribution, shape (values, *event).

    Args:
        name: the site, for the error.
        distribution: a distribution of Pyro.

    Raises:
        InputError: if the support is continuous, infinite, or too large.
    """
    cell_values, cells = _support_of_a_cell(name, distribution)
    choices = list(itertools.product(range(len(cell_values)), repeat=cells))
    indices = torch.tensor(choices, device=cell_values.device)
    return cell_values[indices].reshape(-1, *distribution.event_shape)


def support_size(name: str, distribution: Any) -> int:
    """Return the number of values of a distribution, without listing them.

    Args:
        name: the site, for the error.
        distribution: a distribution of Pyro.

    Raises:
        InputError: if the support is continuous, infinite, or too large.
    """
    cell_values, cells = _support_of_a_cell(name, distribution)
    return int(len(cell_values) ** cells)


def _support_of_a_cell(name: str, distribution: Any) -> tuple[Tensor, int]:
    """Return the values of one cell of an event, shape (values, *base event), and the number of cells."""
    event = tuple(distribution.event_shape)
    base = base_distribution(distribution)
    if not getattr(base, "has_enumerate_support", False):
        raise InputError(
            f"Enumeration needs a finite support, such as that of Bernoulli or Categorical; site {name!r} cannot be "
            f"enumerated, because {type(base).__name__} has none. Use 'pathwise' or 'score' for it."
        )
    try:
        single = base.enumerate_support(expand=False)
    except NotImplementedError as error:  # a Binomial whose counts differ
        raise InputError(
            f"Site {name!r} cannot be enumerated: {error} Use 'score' or 'score:leave-one-out'."
        ) from error
    single = single.reshape(len(single), *base.event_shape)
    cells = torch.Size(event[: len(event) - len(base.event_shape)]).numel()
    if len(single) ** cells > _MOST_VALUES:
        raise InputError(
            f"Enumeration is limited to {_MOST_VALUES} values; site {name!r} has {len(single)}^{cells} joint values. "
            "Use 'measure', 'disarm' or 'score:leave-one-out', or split it into several sites."
        )
    return single, cells


@dataclass
class EnumerationDims:
    """The dimensions of enumerated sites: one for each site, to the left of the particles' dimension.

    Attributes:
        nesting: the greatest number of nested plates of the programs; particles are at dimension ``-1 - nesting``.
        plates: the plates in which an enumerated site may be: those of particles and data.
        sites: name and number of values of each site, in order of appearance, from right to left.
        kinds: ``"enumerate"`` or ``"sum"``, for each site.
    """

    nesting: int
    plates: Collection[str]
    sites: list[tuple[str, int]] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of the dimensions, from left to right."""
        return tuple(size for _, size in reversed(self.sites))

    def positions(self, kind: str) -> list[int]:
        """Return the positions in `shape` of the sites of one kind."""
        last = len(self.kinds) - 1
        return [last - index for index, this_kind in enumerate(self.kinds) if this_kind == kind]

    def names(self, kind: str) -> list[str]:
        """Return the names of the sites of one kind."""
        if not self.sites:
            return []
        return [name for (name, _), this_kind in zip(self.sites, self.kinds, strict=True) if this_kind == kind]

    def add(self, site: Site, kind: str) -> Tensor:
        """Give a site the next dimension to the left, and return all its values along it.

        Args:
            site: the message of a latent site.
            kind: ``"enumerate"`` or ``"sum"``.

        Returns:
            The values, shape (values, 1, ..., 1, *event).

        Raises:
            InputError: if the support is not finite, or the site is in a plate inside the data plate.
        """
        inner = [frame.name for frame in site["cond_indep_stack"] if frame.vectorized and frame.name not in self.plates]
        if inner:
            raise InputError(
                f"Enumeration needs a site in the data plate alone; site {site['name']!r} lies in the plate "
                f"{inner[0]!r} too, so its joint values are too many. Use the objective 'elbo-enum', or 'measure' or "
                "'disarm' for its gradient."
            )
        values = finite_support(site["name"], site["fn"])
        ones = (1,) * (1 + self.nesting + len(self.sites))
        self.sites.append((site["name"], len(values)))
        self.kinds.append(kind)
        return values.reshape(len(values), *ones, *values.shape[1:])


def _relaxed(name: str, distribution: Any, strategy: str) -> Tensor:
    """Return a draw with a gradient that is not the gradient of the draw; this is biased by construction.

    Sources: Maddison et al., arXiv:1611.00712, and Jang et al., arXiv:1611.01144 (concrete, here at temperature 2/3);
    Bengio et al., arXiv:1308.3432 (straight-through).
    """
    base = base_distribution(distribution)
    if isinstance(base, torch.distributions.Bernoulli):
        relaxed: Any = dist.RelaxedBernoulli
    elif isinstance(base, torch.distributions.OneHotCategorical):
        relaxed = dist.RelaxedOneHotCategorical
    else:
        raise InputError(
            f"The gradient {strategy!r} needs a Bernoulli or a OneHotCategorical; site {name!r} cannot be relaxed, "
            f"because it is {type(base).__name__}. Use 'score:leave-one-out', 'measure' or 'enumerate'."
        )
    if strategy == "concrete":
        temperature = torch.full((), 2.0 / 3.0, dtype=base.logits.dtype, device=base.logits.device)
        drawn: Tensor = relaxed(temperature, logits=base.logits).rsample()
        return drawn
    drawn = base.sample()
    return drawn + (base.probs - base.probs.detach())


class SiteStrategyMessenger(Messenger):
    """Gives each latent site its value by a strategy, and records the strategy in the site's ``infer["_strategy"]``.

    Args:
        choose: the strategy of each site: ``"pathwise"`` leaves the draw as it is; ``"enumerate"`` and ``"sum"`` put
            all values on a dimension of their own; ``"first"`` takes the first of these values; ``"concrete"`` and
            ``"straight-through"`` draw with a biased gradient; every other strategy detaches the draw.
        dims: the dimensions of enumerated sites, shared by guide and model.
        in_model: whether the program is the model. Its own latent sites carry ``infer["_in_model"]`` while `choose`
            is asked.
    """

    def __init__(self, choose: ChooseStrategy, dims: EnumerationDims, *, in_model: bool = False) -> None:
        super().__init__()
        self.choose, self.dims, self.in_model = choose, dims, in_model

    def _pyro_sample(self, msg: Any) -> None:
        infer = msg["infer"]
        if not is_latent_draw(msg) or "_strategy" in infer:  # the second: a draw of the guide, replayed in the model
            return
        msg["infer"] = {**infer, "_in_model": self.in_model}
        strategy = self.choose(msg)
        msg["infer"] = {**infer, "_strategy": strategy}
        if strategy == PATHWISE or msg["done"]:
            return
        msg["value"], msg["done"] = self._value(msg, strategy), True

    def _value(self, msg: Any, strategy: str) -> Tensor:
        if strategy in (ENUMERATE, SUMMED):
            return self.dims.add(msg, strategy)
        if strategy == FIRST_VALUE:
            values = finite_support(msg["name"], msg["fn"])
            return values[0].expand(msg["fn"].batch_shape + msg["fn"].event_shape)
        if strategy in ("concrete", "straight-through"):
            return _relaxed(msg["name"], msg["fn"], strategy)
        drawn: Tensor = msg["fn"](*msg["args"], **msg["kwargs"])
        return drawn.detach()


class BranchMessenger(Messenger):
    """Runs a guide again with one site at other values, on a dimension to the left of all others.

    Sites that depend on the changed site (their distribution then has the new dimension) are drawn again. All other
    sites keep their values, so that the branches share as much as possible.

    Args:
        values: the values of the first run by site.
        site: the site to change.
        branches: its new values, shape (branches, *batch, *event).
        dims: the dimensions of enumerated sites of the first run.
    """

    def __init__(self, values: Mapping[str, Tensor], site: str, branches: Tensor, dims: EnumerationDims) -> None:
        super().__init__()
        self.values, self.site, self.branches = values, site, branches
        self.branch_dims = 2 + dims.nesting + len(dims.sites)
        self.enumerated = {name for name, _ in dims.sites}

    def _pyro_sample(self, msg: Any) -> None:
        name = msg["name"]
        if msg["done"] or msg["is_observed"] or name not in self.values:
            return
        depends_on_site = len(msg["fn"].batch_shape) >= self.branch_dims
        if name == self.site:
            value = self.branches
        elif depends_on_site and name not in self.enumerated:
            value = msg["fn"](*msg["args"], **msg["kwargs"]).detach()
        else:
            value = self.values[name]
        msg["value"], msg["done"] = value, True
