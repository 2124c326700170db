"""Checks of the sizes of plates: a guide with plates of its own data, and plates that are not over the first axis."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pyro import poutine
from torch import Tensor

from pvae.errors import InputError
from pvae.programs.layout import Layout
from pvae.programs.sites import sample_sites

__all__ = ["AXIS_ADVICE", "plate_of_another_axis", "require_same_sizes"]

#: the advice for a plate that is not over the first axis
AXIS_ADVICE = (
    "Give the data with this axis first, for example x.transpose(0, 1), and let the programs transpose it back."
)


def plate_of_another_axis(layout: Layout, args: Iterable[Any], size: int) -> tuple[str, str] | None:
    """Return the plate of the observed data and a description, if it is not over the first axis.

    Data sets are split, and batches are taken, along the first axis. A program for data of shape (time, series) may
    have its plate over the second one; it then gets parts of all series.

    Args:
        layout: the layout of the programs.
        args: the arguments of the programs.
        size: the length of the batch.
    """
    frames = {name: frame for plates in layout.frames.values() for name, frame in plates.items()}
    observed = layout.observed_plate(size)
    is_subsampled = any(frame.full_size not in (None, frame.size) for frame in frames.values())
    if observed is None or is_subsampled or any(frame.size == size for frame in frames.values()):
        return None
    plate, rows = observed[0], frames[observed[0]].size
    for value in args:
        if isinstance(value, Tensor) and rows in value.shape[1:]:
            axis = list(value.shape).index(rows, 1)
            return plate, (
                f"the plate {plate!r} of the observed data has {rows} rows, which is axis {axis} of data of shape "
                f"{tuple(value.shape)}. Data are divided into batches and splits along axis 0, which has {size}."
            )
    return None


def require_same_sizes(guide: poutine.Trace, model: poutine.Trace) -> None:
    """Raise InputError if the numbers of data in the model and in the guide's plate of the same name differ.

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
                    f"The guide has {expected} data in the plate {frame.name!r}, but site {site['name']!r} has "
                    f"{count}. A guide with parameters for each datum, such as an autoguide, fits only the data of its "
                    "first run. Use it on these data, or write a guide that is a function of the data."
                )
