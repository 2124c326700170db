"""Message handlers that choose the value of a latent site: drawn, detached, relaxed or enumerated."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.replay_messenger import ReplayMessenger
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor

from pvae.errors import InputError, whole_reason
from pvae.programs.sites import Site, base_distribution, is_latent_draw, is_marked_for_enumeration
from pvae.weights.enumeration import ENUMERATE, SUMMED, EnumeratedSite, EnumerationDims, finite_support
from pvae.weights.joint_memory import JointMemoryGuard

__all__ = [
    "FIRST_VALUE",
    "PATHWISE",
    "BranchMessenger",
    "ChooseStrategy",
    "ReplayGuide",
    "SiteStrategyMessenger",
    "explain_broadcast_errors",
    "is_score",
    "keep_draw",
    "sum_marked",
]

#: A function from the message of a latent site to its strategy.
ChooseStrategy = Callable[[Site], str]

PATHWISE, FIRST_VALUE = "pathwise", "first"


def is_score(strategy: str) -> bool:
    """Return whether a strategy is the score function, with or without a baseline."""
    return strategy.startswith("score")


def keep_draw(site: Site) -> str:
    """Return the strategy that does not change the drawn value of a site."""
    return PATHWISE


def sum_marked(site: Site, default: str) -> str:
    """Return the strategy of a site by Pyro's mark: a site marked for enumeration is summed out.

    Args:
        site: the message of a latent site.
        default: the strategy of a site without a mark.

    Raises:
        InputError: if the mark asks for several draws instead of the sum, which only losses of Pyro support. A site
            that only the model has is nevertheless summed out if its values are finite, because the draws estimate this
            sum.
    """
    if not is_marked_for_enumeration(site):
        return default
    draws = site["infer"].get("num_samples")
    in_model = site["infer"].get("_in_model")
    if draws is None or (in_model and base_distribution(site["fn"]).has_enumerate_support):
        return SUMMED
    advice = "draw the site in the guide" if in_model else "remove num_samples and use particles"
    raise InputError(
        f"Site {site['name']!r} is marked with num_samples={draws}, tensor Monte Carlo, which only the losses "
        f"pyro.infer.TraceTMC_ELBO and TraceEnum_ELBO support. Use TraceTMC_ELBO, or {advice}."
    )


@contextmanager
def explain_broadcast_errors(sites: Collection[EnumeratedSite]) -> Iterator[None]:
    """Run programs with enumerated sites; an error names the sites, because broadcasting is the likely cause.

    Args:
        sites: the enumerated sites. The collection may grow inside the block.

    Raises:
        InputError: instead of the error that the program raises.
    """
    try:
        yield
    except InputError:
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if not sites:
            raise
        names = ", ".join([repr(site.name) for site in sites][:5]) + ", ..." * (len(sites) > 5)
        raise InputError(
            f"Enumeration of site {names} adds a dimension to the left of all others, and the programs need to "
            f"broadcast over it, but they fail ({type(error).__name__}: {whole_reason(error)}). Make them broadcast "
            "(torch.broadcast_tensors before stack, cat and gather; pyro.ops.indexing.Vindex), or use 'score'."
        ) from error


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
        choose: the strategy of each site: ``"pathwise"`` does not change the draw; ``"enumerate"`` and ``"sum"`` put
            all values on a separate dimension; ``"first"`` takes the first of these values; ``"concrete"`` and
            ``"straight-through"`` draw with a biased gradient; every other strategy detaches the draw.
        dims: the dimensions of enumerated sites, shared by guide and model.
        in_model: whether the program is the model. Its own latent sites have ``infer["_in_model"]`` while `choose` is
            called.
        drawn: for the model, the names of the sites that the guide has drawn; they keep the guide's values.
    """

    def __init__(
        self, choose: ChooseStrategy, dims: EnumerationDims, *, in_model: bool = False, drawn: Collection[str] = ()
    ) -> None:
        super().__init__()
        self.choose, self.dims, self.in_model, self.drawn = choose, dims, in_model, drawn
        self.depths: dict[str, int] = {}
        self.places_of_values: dict[str, dict[int, int]] = {}
        self.guard: JointMemoryGuard | None = None

    def _pyro_sample(self, msg: Any) -> None:
        if isinstance(msg["fn"], _Subsample):
            return
        window = self._window(msg) if "_markov_scope" in msg["infer"] else None
        # A dictionary of this message only: the dictionary of a replayed site belongs to the trace of the other
        # program.
        self.dims.of_sites[self.in_model, msg["name"]] = {**self.dims.lasting, **(window or {})}
        infer = msg["infer"]
        if not is_latent_draw(msg) or msg["name"] in self.drawn or "_strategy" in infer:
            return
        msg["infer"] = {**infer, "_in_model": self.in_model}
        strategy = self.choose(msg)
        msg["infer"] = {**infer, "_strategy": strategy}
        if strategy == PATHWISE or msg["done"]:
            return
        msg["value"], msg["done"] = self._value(msg, strategy, window), True

    def _window(self, msg: Any) -> dict[int, int]:
        """Return the enumerated site on each place in the window of `pyro.markov`.

        Pyro lists the sites of the window with the number of chains in which they are; a site whose inner chain has
        ended has left the window.
        """
        scope = msg["infer"]["_markov_scope"]
        self.depths[msg["name"]] = msg["infer"]["_markov_depth"]
        window: dict[int, int] = {}
        for name, depth in scope.items():
            if self.depths.get(name) == depth:
                window.update(self.places_of_values.get(name, {}))
        return window

    def _guard_memory(self, msg: Any, places: Mapping[int, int]) -> None:
        """Guard the rest of the run if the enumerated sites in the window of a site have too many joint values."""
        if self.guard is None and torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.PROXY) is None:
            sites = [self.dims.sites[index] for index in {*places.values(), len(self.dims.sites) - 1}]
            plates = msg["fn"].batch_shape[-1 - self.dims.nesting :]
            entries = torch.empty(()).expand(plates)
            self.guard = JointMemoryGuard.if_needed(
                [site.name for site in sites], [site.size for site in sites], entries
            )
            if self.guard is not None:
                self.guard.__enter__()

    def __exit__(self, *error: Any) -> None:
        if self.guard is not None:
            self.guard.__exit__(*error)
            self.guard = None
        super().__exit__(*error)

    def _pyro_post_sample(self, msg: Any) -> None:
        name, value = msg["name"], msg["value"]
        places = self.dims.of_sites.get((self.in_model, name))
        if places is None or not isinstance(value, Tensor) or not self.dims.sites:
            return
        if name in self.drawn:
            places = {**self.dims.of_sites.get((False, name), {}), **places}
        elif self.dims.sites[-1].name == name:
            places = {**places, self.dims.sites[-1].place: len(self.dims.sites) - 1}
        self.dims.of_sites[self.in_model, name] = places
        batch = value.shape[: value.dim() - msg["fn"].event_dim]
        left = len(batch) - 1 - self.dims.nesting
        self.places_of_values[name] = {
            place: site for place, site in places.items() if place < left and batch[left - 1 - place] > 1
        }

    def _value(self, msg: Any, strategy: str, window: Mapping[int, int] | None) -> Tensor:
        if strategy in (ENUMERATE, SUMMED):
            value = self.dims.add(msg, strategy, window=window, in_model=self.in_model)
            self._guard_memory(msg, {**self.dims.lasting, **(window or {})})
            return value
        if strategy == FIRST_VALUE:
            values = finite_support(msg["name"], msg["fn"])
            return values[0].expand(msg["fn"].batch_shape + msg["fn"].event_shape)
        if strategy in ("concrete", "straight-through"):
            return _relaxed(msg["name"], msg["fn"], strategy)
        drawn: Tensor = msg["fn"](*msg["args"], **msg["kwargs"])
        return drawn.detach()


class ReplayGuide(ReplayMessenger):
    """Replays a guide, and keeps entries that the guide itself adds to ``infer`` in this run.

    Pyro's `GuideMessenger` puts the prior there; the prior of a run with particles has another shape.
    """

    def _pyro_sample(self, msg: Any) -> None:
        own = msg["infer"]
        super()._pyro_sample(msg)
        msg["infer"] = {**msg["infer"], **own}


class BranchMessenger(Messenger):
    """Runs a guide again with one site at other values, on a dimension to the left of all others.

    Sites that depend on the changed site (their distribution then has the new dimension) are drawn again. All other
    sites keep their values.

    Args:
        values: the values of the first run by site.
        site: the site to change.
        branches: its new values, shape (branches, *batch, *event).
        dims: the dimensions of enumerated sites of the first run.
    """

    def __init__(self, values: Mapping[str, Tensor], site: str, branches: Tensor, dims: EnumerationDims) -> None:
        super().__init__()
        self.values, self.site, self.branches = values, site, branches
        self.branch_dims = 2 + dims.nesting + dims.width
        self.enumerated = {site.name for site in dims.sites}

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
