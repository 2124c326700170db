"""`DataCounter`: the number of data that a loss represents; a loss divided by it is a loss per datum."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pyro.poutine.messenger import Messenger
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor

from pvae.programs.bound import BoundPrograms
from pvae.programs.sites import PARTICLE_PLATES, is_subsample

__all__ = ["DataCounter"]


@dataclass(frozen=True)
class _ScaledSite:
    """The plates and the scale of a sample site.

    Attributes:
        is_observed: whether the site is observed.
        frames: the plates by name, without the plates of particles.
        scale: the product of all scales, from subsampled plates and from `pyro.poutine.scale`.
    """

    is_observed: bool
    frames: Mapping[str, Any]
    scale: float | Tensor

    def scale_of_user(self) -> float | Tensor:
        """Return the part of the scale that is not from a subsampled plate."""
        subsampling = math.prod((frame.full_size or frame.size) / frame.size for frame in self.frames.values())
        return self.scale / subsampling


class DataCounter(Messenger):
    """Records the scales of the sites while an objective runs the programs.

    A loss of Pyro is a sum over data, each times its scale. Divided by the sum of the scales over the data plate, it is
    a loss per datum. This sum is B without a scale, N in a plate that is a subsample of N, and B/N if both programs are
    scaled by 1/N. A scale of only some sites in the plate, such as a weight of the likelihood or of the KL, is a part
    of the objective and does not count.

    Args:
        programs: both programs with their arguments.
        data_plate: the name of the plate over data; None finds it.
    """

    def __init__(self, programs: BoundPrograms, data_plate: str | None) -> None:
        super().__init__()
        self.programs, self.data_plate = programs, data_plate
        self._messages: list[Any] = []
        self._pyro_post_sample = self._messages.append  # a built-in method, because it runs in each eager step

    @cached_property
    def count(self) -> float | Tensor:
        """The number of data that the loss represents, known after the block: a number, or a scalar tensor."""
        count = self._size_of_only_plate()
        return self._find_count() if count is None else count

    def _size_of_only_plate(self) -> int | None:
        """Return the full size of the plate that holds every site, if there is no other plate or scale: the usual case.

        It is written with few calls, because it runs in each eager step.
        """
        only: Any = None
        for message in self._messages:
            if isinstance(message["fn"], _Subsample):
                continue
            own = None
            for frame in message["cond_indep_stack"]:
                if frame.name not in PARTICLE_PLATES:
                    if only not in (None, frame):
                        return None
                    own = only = frame
            scale = message["scale"]
            if own is None or isinstance(scale, Tensor) or scale * own.size != (own.full_size or own.size):
                return None
        return None if only is None or self.data_plate not in (None, only.name) else int(only.full_size or only.size)

    def _find_count(self) -> float | Tensor:
        sites = self._sites()
        plate = self.data_plate or self._find_plate(sites)
        inside = [site for site in sites if plate is None or plate in site.frames]
        if not inside:
            return self.programs.count
        frame = None if plate is None else inside[0].frames[plate]
        size: int = self.programs.count if frame is None else frame.full_size or frame.size
        scales = [site.scale_of_user() for site in sorted(inside, key=lambda site: not site.is_observed)]
        if any(not isinstance(scale, Tensor) and math.isclose(scale, 1.0) for scale in scales):
            return size
        # Every site has a scale, so one scale is common to all. Further scales are usually for latent sites.
        common = scales[0]
        return common.mean() * size if isinstance(common, Tensor) else common * size

    def _sites(self) -> list[_ScaledSite]:
        """Return the sites of both programs, each from its first run."""
        sites: dict[tuple[str, bool], _ScaledSite] = {}
        for message in self._messages:
            key = (message["name"], bool(message["is_observed"]))
            if is_subsample(message) or message["infer"].get("_deterministic") or key in sites:
                continue
            frames = {frame.name: frame for frame in message["cond_indep_stack"] if frame.name not in PARTICLE_PLATES}
            sites[key] = _ScaledSite(key[1], frames, message["scale"])
        return list(sites.values())

    def _find_plate(self, sites: list[_ScaledSite]) -> str | None:
        """Return the name of the plate over data; None if no observed site is in a plate.

        It is a plate of observed sites, if there are any. A plate of the length of the batch is preferred, then a plate
        to plates inside it, then a plate of many observed sites.
        """
        observed = [site for site in sites if site.is_observed] or sites
        members = {
            name: {index for index, site in enumerate(sites) if name in site.frames}
            for name in dict.fromkeys(name for site in observed for name in site.frames)
        }

        def preference(name: str) -> tuple[bool, bool, int]:
            frames = [site.frames[name] for site in observed if name in site.frames]
            is_outer = not any(members[name] < other for other in members.values())
            return self.programs.size in (frames[0].size, frames[0].full_size), is_outer, len(frames)

        return max(members, key=preference, default=None)
