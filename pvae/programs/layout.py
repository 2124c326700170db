"""How a pair of programs is laid out: plates, the data plate, and whether particles can be vectorised."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from pyro.infer.util import is_validation_enabled
from pyro.poutine.util import prune_subsample_sites
from pyro.util import check_site_shape

from pvae.errors import InputError
from pvae.randomness import preserved_buffers, preserved_randomness

__all__ = ["GUIDE", "Layout", "anchor", "data_count", "find_layout", "remember", "sample_sites"]

# a site of a trace: Pyro's message, a mapping of strings
Site = Any
#: marks the guide's sites among the frames
GUIDE = " (guide)"
# by the model's owner, then the guide's: a name or an id would outlive them, and speak for others
_LAYOUTS: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()


def sample_sites(trace: poutine.Trace) -> list[Site]:
    """Return the sample sites of a trace in order, without indices of subsampled plates and ``pyro.deterministic``."""
    sites: list[Site] = [each for each in prune_subsample_sites(trace).nodes.values() if each["type"] == "sample"]
    return [each for each in sites if not each["infer"].get("_deterministic")]


@dataclass(frozen=True)
class Layout:
    """What one run of both programs shows, and what is then assumed of every batch of that kind.

    Attributes:
        nesting: the greatest number of nested vectorised plates; particles go to dimension ``-1 - nesting``.
        frames: for each sample site of the model and the guide (marked so), its plates by name.
        latent_dims: for each latent site, the number of dimensions of its value in a single run.
        population: N where the observed data are a subsample of N, else None.
        vectorised: whether particles may share one run; None until it was checked.
        repeatable: whether the guide, run again at the same z, gives the same density: dropout does not.
    """

    nesting: int
    frames: Mapping[str, Mapping[str, Any]]
    latent_dims: Mapping[str, int]
    population: int | None
    vectorised: bool | None = None
    repeatable: bool = True

    def data_plate(self, wanted: str | None = None) -> tuple[str, int]:
        """Return the name and dimension of the plate that is common to all sample sites.

        Raises:
            InputError: if no plate is common (the site outside is named), if several are and `wanted` does not
                choose, or if it is sequential.
        """
        common = _common(self.frames.values())
        if wanted is not None:
            outside = next((site for site, frames in self.frames.items() if wanted not in frames), None)
            if outside is not None:
                raise InputError(
                    f"Site {outside!r} is outside the data plate {wanted!r}: weights per datum need every site in it."
                )
        elif not common:
            raise InputError(_no_plate(self.frames))
        elif len(common) > 1:
            raise InputError(
                f"Plates {', '.join(common)} hold every site: say which one is over data with data_plate='{common[0]}'."
            )
        name = wanted or common[0]
        dim = next(iter(self.frames.values()))[name].dim
        if dim is None:
            raise InputError(
                f"Plate {name!r} is sequential (a for loop): weights per datum need it as `with pyro.plate(...)`."
            )
        return name, dim

    def observed_plate(self) -> tuple[str, int] | None:
        """Return the name and dimension of the plate of the observed data; None without one.

        Of several that hold every observed site, such as one over pixels, it is that with the most sites.
        """
        seen = [each for name, each in self.frames.items() if not name.endswith(GUIDE) and name not in self.latent_dims]
        found = [name for name in _common(seen) if seen[0][name].dim is not None]
        if not found:
            return None
        name = max(found, key=lambda name: sum(name in each for each in self.frames.values()))
        return name, seen[0][name].dim

    def shared(self) -> tuple[str, ...]:
        """Return the latent sites of both programs outside the plate of the observed data: all data share them."""
        plate = self.observed_plate()
        both = [name for name in self.latent_dims if name in self.frames and name + GUIDE in self.frames]
        return () if plate is None else tuple(name for name in both if plate[0] not in self.frames[name])


def _common(frames: Iterable[Mapping[str, Any]]) -> list[str]:
    first, *others = list(frames) or [{}]
    return [name for name in first if all(name in each for each in others)]


def _no_plate(frames: Mapping[str, Mapping[str, Any]]) -> str:
    counts: dict[str, int] = {}
    for each in frames.values():
        for name in each:
            counts[name] = counts.get(name, 0) + 1
    if not counts:
        sites = ", ".join(repr(site) for site in frames)
        return (
            f"Sites {sites} are in no plate, so there is no weight per datum: write `with pyro.plate('data', len(x))` "
            "in the model and the guide, or use the objective 'elbo'."
        )
    plate = max(counts, key=lambda name: counts[name])
    outside = next(site for site, each in frames.items() if plate not in each)
    return (
        f"Site {outside!r} is outside the data plate {plate!r}: weights per datum need every sample site of the model "
        "and the guide in one common plate; move it inside, or, where data share it, train and evaluate by 'elbo'."
    )


def _population(sites: list[Site], size: int) -> int | None:
    """N of the plate over the observed data where that is a subsample; scales that a user sets himself do not count."""
    frames = [{frame.name: frame for frame in site["cond_indep_stack"]} for site in sites if site["is_observed"]]
    common = [frames[0][name] for name in _common(frames)] if frames else []
    over_data = next((frame for frame in common if frame.size == size), common[0] if common else None)
    full = getattr(over_data, "full_size", None)
    return int(full) if full is not None and over_data is not None and full != over_data.size else None


def _look(
    model: Callable[..., Any], guide: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Layout:
    owners = [anchor(program)[0] for program in (model, guide)]
    with preserved_randomness(), preserved_buffers(*owners), torch.no_grad():
        guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args, **kwargs)
        again = poutine.trace(poutine.replay(guide, trace=guide_trace)).get_trace(*args, **kwargs)
        repeatable = _repeats(guide_trace, again)
    guide_sites: list[Site] = sample_sites(guide_trace)
    model_sites: list[Site] = sample_sites(model_trace)
    frames: dict[str, Mapping[str, Any]] = {}
    for where, sites in (("", model_sites), (GUIDE, guide_sites)):
        for site in sites:
            frames[site["name"] + where] = {frame.name: frame for frame in site["cond_indep_stack"]}
    dims = [frame.dim for each in frames.values() for frame in each.values() if frame.dim is not None]
    latent = {site["name"]: site["value"].dim() for site in guide_sites if not site["is_observed"]}
    first = next((each for each in args if isinstance(each, torch.Tensor) and each.dim()), None)
    population = _population(model_sites, -1 if first is None else len(first))
    nesting = max((-dim for dim in dims), default=0)
    if is_validation_enabled():
        for site in guide_sites + model_sites:
            check_site_shape(site.copy() | {"log_prob": site["fn"].log_prob(site["value"])}, nesting)
    return Layout(nesting, frames, latent, population, repeatable=repeatable)


def _repeats(once: poutine.Trace, again: poutine.Trace) -> bool:
    """Whether two runs of the guide at the same z have the same densities; one that cannot be scored anew counts so."""

    def log_prob(site: Site) -> torch.Tensor:
        found: torch.Tensor = site["fn"].log_prob(site["value"])
        return found

    for site in sample_sites(once):
        try:
            first, second = log_prob(site), log_prob(again.nodes[site["name"]])
        except (KeyError, NotImplementedError):
            continue
        if first.shape != second.shape or not torch.allclose(first, second, rtol=1e-3, atol=1e-3, equal_nan=True):
            return False
    return True


def anchor(program: Any) -> tuple[Any, Any]:
    """What a layout is remembered by: an object that can die, and the name of the program on it."""
    while True:
        inner = getattr(program, "program", None) or getattr(program, "function", None)
        if inner is None or not isinstance(program, torch.nn.Module):
            break
        program = inner
    owner = getattr(program, "__self__", None)
    return (program, "") if owner is None else (owner, getattr(program, "__name__", ""))


def _kind(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    def of(value: Any) -> Any:
        return (str(value.dtype), value.dim()) if isinstance(value, torch.Tensor) else type(value).__name__

    return (*(of(each) for each in args), *((key, of(each)) for key, each in sorted(kwargs.items())))


def _modes(*owners: Any) -> tuple[bool, ...]:
    """The training flags of all modules: dropout and batch normalisation vectorise in one mode and not in the other."""
    modules = [each for owner in owners if isinstance(owner, torch.nn.Module) for each in owner.modules()]
    return tuple(each.training for each in modules)


def _shelf(model: Any, guide: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[dict[Any, Any], Any]:
    owner, name = anchor(model)
    other, other_name = anchor(guide)
    try:
        shelf = _LAYOUTS.setdefault(owner, weakref.WeakKeyDictionary()).setdefault(other, {})
    except TypeError:  # an owner that cannot be referred to weakly is looked at anew each time
        shelf = {}
    return shelf, (name, other_name, _kind(args, kwargs), _modes(owner, other))


def find_layout(model: Any, guide: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Layout:
    """Return the layout of the programs on this kind of batch: found by one run, with the random state restored.

    It is remembered per pair of programs and kind of batch, never on the objective: an objective serves many models.
    """
    shelf, key = _shelf(model, guide, args, kwargs)
    if key not in shelf:
        shelf[key] = _look(model, guide, args, kwargs)
    return shelf[key]


def remember(model: Any, guide: Any, args: tuple[Any, ...], kwargs: dict[str, Any], layout: Layout) -> None:
    """Keep a layout, completed by the check of vectorised particles, for the next batch of its kind."""
    shelf, key = _shelf(model, guide, args, kwargs)
    shelf[key] = layout


def data_count(model: Any, guide: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Return the number of data that a loss of these programs stands for: N under a plate of scale N/B, else B."""
    first = next((each for each in args if isinstance(each, torch.Tensor) and each.dim()), None)
    size = 1 if first is None else len(first)
    shelf, key = _shelf(model, guide, args, kwargs)
    if ("count", size, key) not in shelf:  # a plate that is subsampled at one size may be whole at another
        shelf["count", size, key] = _look(model, guide, args, kwargs).population or size
    return int(shelf["count", size, key])
