"""The sizes of the plates of two programs: a guide with parameters for each datum fits its own data only."""

from __future__ import annotations

from pyro import poutine

from pvae.errors import InputError
from pvae.programs.sites import sample_sites

__all__ = ["require_same_sizes"]


def require_same_sizes(guide: poutine.Trace, model: poutine.Trace) -> None:
    """Refuse observed data of another number than the guide has in the plate of the same name.

    Args:
        guide: a trace of the guide, without particles.
        model: a trace of the model at the guide's draws.

    Raises:
        InputError: with the plate and both numbers.
    """
    sizes = {frame.name: frame.size for site in sample_sites(guide) for frame in site["cond_indep_stack"]}
    for site in sample_sites(model):
        if not site["is_observed"]:
            continue
        for frame in site["cond_indep_stack"]:
            axis = 0 if frame.dim is None else frame.dim - site["fn"].event_dim
            if axis == 0 or frame.name not in sizes or site["value"].dim() < -axis:
                continue
            count, expected = site["value"].shape[axis], sizes[frame.name]
            if count not in (1, expected):
                raise InputError(
                    f"The guide has {expected} data in the plate {frame.name!r}, and site {site['name']!r} has "
                    f"{count}. A guide with parameters for each datum, such as an autoguide, fits the data of its "
                    "first run only. Use it on these data, or write a guide that is a function of the data."
                )
