"""How the value of a latent site comes about: drawn, cut off from its draw, relaxed, or all values side by side."""

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
from pvae.programs.layout import Site

__all__ = [
    "ENUMERATE",
    "PATHWISE",
    "SUMMED",
    "Axes",
    "Branching",
    "Choose",
    "Steering",
    "base_of",
    "finite_support",
    "marked",
    "side_by_side",
    "support_size",
]

#: a strategy for each latent site of a guide, by its message
Choose = Callable[[Site], str]

PATHWISE, ENUMERATE, SUMMED, FIRST = "pathwise", "enumerate", "sum", "first"
_MOST_VALUES = 4096


def marked(site: Site) -> bool:
    """Whether a program asks, in Pyro's way, that a site be summed out."""
    return bool(site["infer"].get("enumerate")) and not site["is_observed"]


@contextmanager
def side_by_side(sites: Collection[tuple[str, int]]) -> Iterator[None]:
    """Say which sites' values stand side by side where a program fails, which is then for want of broadcasting.

    Raises:
        InputError: in place of what the program raises.
    """
    try:
        yield
    except InputError:
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if not sites:
            raise
        raise InputError(
            f"All values of site {', '.join(repr(name) for name, _ in sites)} stand side by side on a dimension of "
            f"their own, and the programs fail there ({type(error).__name__}: {first_line(error)}): let them broadcast "
            "(torch.broadcast_tensors before stack, cat and gather; pyro.ops.indexing.Vindex), or use 'score'."
        ) from error


def base_of(distribution: Any) -> Any:
    """Return the distribution under `Independent` and `Masked` wrappers."""
    while isinstance(distribution, torch.distributions.Independent | dist.MaskedDistribution):
        distribution = distribution.base_dist
    return distribution


def finite_support(name: str, distribution: Any) -> Tensor:
    """Return every value of a distribution, shape (values, *event).

    Raises:
        InputError: if the support is continuous, infinite, or too large.
    """
    single, cells = _parts_of_support(name, distribution)
    picks = torch.tensor(list(itertools.product(range(len(single)), repeat=cells)), device=single.device)
    return single[picks].reshape(-1, *distribution.event_shape)


def support_size(name: str, distribution: Any) -> int:
    """Return the number of values of a distribution, without making them.

    Raises:
        InputError: as `finite_support`.
    """
    single, cells = _parts_of_support(name, distribution)
    return int(len(single) ** cells)


def _parts_of_support(name: str, distribution: Any) -> tuple[Tensor, int]:
    """The values of one cell of an event, and the number of cells."""
    event = tuple(distribution.event_shape)
    base = base_of(distribution)
    if not getattr(base, "has_enumerate_support", False):
        raise InputError(
            f"Site {name!r} cannot be enumerated: {type(base).__name__} has no finite support. Enumeration is for "
            "Bernoulli, Categorical and the like; use 'pathwise' or 'score' here."
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
            f"Site {name!r} has {len(single)}^{cells} joint values, more than the {_MOST_VALUES} that can be "
            "enumerated: use 'measure', 'disarm' or 'score:leave-one-out', or split it into sites."
        )
    return single, cells


@dataclass
class Axes:
    """Dimensions left of the particles', one for each site whose values all stand side by side.

    Attributes:
        nesting: the greatest number of nested plates of the programs; particles are at dimension ``-1 - nesting``.
        sites: name and number of values of each site, in order of appearance, from right to left.
        kinds: "enumerate" or "sum", for each.
        plates: the plates in which such a site may lie: those of particles and data.
    """

    nesting: int
    plates: Collection[str]
    sites: list[tuple[str, int]] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes, from left to right."""
        return tuple(size for _, size in reversed(self.sites))

    def of_kind(self, kind: str) -> list[int]:
        """Positions in `shape` of the axes of one kind."""
        return [len(self.kinds) - 1 - index for index, each in enumerate(self.kinds) if each == kind]

    def names(self, kind: str) -> list[str]:
        """Sites of one kind."""
        return [name for (name, _), each in zip(self.sites, self.kinds, strict=True) if each == kind]

    def add(self, site: Site, kind: str) -> Tensor:
        """Give a site the next dimension, and return all its values along it."""
        inner = [frame.name for frame in site["cond_indep_stack"] if frame.vectorized and frame.name not in self.plates]
        if inner:
            raise InputError(
                f"Site {site['name']!r} lies in the plate {inner[0]!r} within the data's: its joint values are too "
                "many to enumerate together. Use the objective 'elbo-enum', or 'measure' or 'disarm' for its gradient."
            )
        values = finite_support(site["name"], site["fn"])
        singles = (1,) * (1 + self.nesting + len(self.sites))
        self.sites.append((site["name"], len(values)))
        self.kinds.append(kind)
        return values.reshape(len(values), *singles, *values.shape[1:])


def _relaxed(name: str, distribution: Any, strategy: str) -> Tensor:
    """A draw that carries a gradient which is not that of the draw: biased by construction.

    Sources: Maddison et al., arXiv:1611.00712, and Jang et al., arXiv:1611.01144 (concrete, here at temperature 2/3);
    Bengio et al., arXiv:1308.3432 (straight-through).
    """
    base = base_of(distribution)
    if isinstance(base, torch.distributions.Bernoulli):
        relaxed: Any = dist.RelaxedBernoulli
    elif isinstance(base, torch.distributions.OneHotCategorical):
        relaxed = dist.RelaxedOneHotCategorical
    else:
        raise InputError(
            f"Site {name!r} cannot be relaxed: {strategy!r} is for Bernoulli and OneHotCategorical, and this is "
            f"{type(base).__name__}. Use 'score:leave-one-out', 'measure' or 'enumerate'."
        )
    if strategy == "concrete":
        temperature = torch.full((), 2.0 / 3.0, dtype=base.logits.dtype, device=base.logits.device)
        drawn: Tensor = relaxed(temperature, logits=base.logits).rsample()
        return drawn
    drawn = base.sample()
    return drawn + (base.probs - base.probs.detach())


class Steering(Messenger):
    """Decides at each latent site how its value comes about, and notes the strategy in the site's ``infer``.

    Args:
        choose: a strategy for each site: ``"pathwise"`` leaves the draw as it is, ``"enumerate"`` and ``"sum"`` put
            all values side by side, ``"first"`` takes the first of them, relaxations draw with a gradient; any other
            cuts the draw off.
        axes: the dimensions of values side by side, shared by guide and model.
        in_model: whether the program is the model, whose own sites are asked about with ``infer["_in_model"]``.
    """

    def __init__(self, choose: Choose, axes: Axes, *, in_model: bool = False) -> None:
        super().__init__()
        self.choose, self.axes, self.in_model = choose, axes, in_model

    def _pyro_sample(self, msg: Any) -> None:
        infer = msg["infer"]
        if msg["is_observed"] or type(msg["fn"]).__name__ == "_Subsample" or infer.get("_deterministic"):
            return
        if "_strategy" in infer:  # the guide's draw, replayed in the model
            return
        msg["infer"] = {**infer, "_in_model": self.in_model}
        strategy = self.choose(msg)
        msg["infer"] = {**infer, "_strategy": strategy}
        value = None if msg["done"] else self._value(msg, strategy)
        if value is not None:
            msg["value"], msg["done"] = value, True

    def _value(self, msg: Any, strategy: str) -> Tensor | None:
        if strategy == PATHWISE:
            return None
        if strategy in (ENUMERATE, SUMMED):
            return self.axes.add(msg, strategy)
        if strategy == FIRST:
            values = finite_support(msg["name"], msg["fn"])
            return values[0].expand(msg["fn"].batch_shape + msg["fn"].event_shape)
        if strategy in ("concrete", "straight-through"):
            return _relaxed(msg["name"], msg["fn"], strategy)
        drawn: Tensor = msg["fn"](*msg["args"], **msg["kwargs"])
        return drawn.detach()


class Branching(Messenger):
    """Runs a guide again with one site at other values, on a dimension left of all others.

    Sites that the change reaches (whose distribution has got that dimension) are drawn anew, all others keep
    their values: the branches share everything that they can.

    Args:
        values: the first run's values by site.
        site: the site to be changed.
        branches: its values, with the dimension of branches in front.
        axes: the first run's dimensions of values side by side.
    """

    def __init__(self, values: Mapping[str, Tensor], site: str, branches: Tensor, axes: Axes) -> None:
        super().__init__()
        self.values, self.site, self.branches = values, site, branches
        self.dims = 2 + axes.nesting + len(axes.sites)
        self.enumerated = {name for name, _ in axes.sites}

    def _pyro_sample(self, msg: Any) -> None:
        name = msg["name"]
        if msg["done"] or msg["is_observed"] or name not in self.values:
            return
        reached = len(msg["fn"].batch_shape) >= self.dims
        if name == self.site:
            value = self.branches
        elif reached and name not in self.enumerated:
            value = msg["fn"](*msg["args"], **msg["kwargs"]).detach()
        else:
            value = self.values[name]
        msg["value"], msg["done"] = value, True
