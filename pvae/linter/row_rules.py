"""Rules for the rows of a batch: both programs run on the data in another order, and on half of the data."""

from __future__ import annotations

from collections.abc import Iterator

from pvae.linter.check_context import CheckContext
from pvae.linter.findings import Finding
from pvae.programs.layout import GUIDE
from pvae.programs.parameter_groups import named_parameters
from pvae.programs.plate_sizes import AXIS_ADVICE, plate_of_another_axis
from pvae.programs.row_dependence import RowReport, disturbed_rows, examine_rows
from pvae.programs.sites import Site

__all__ = ["OTHER_AXIS", "examine_rows_of", "find_other_axis", "find_tied_rows"]

#: the kind of a finding: the plate over data is not over the first axis
OTHER_AXIS = "data on another axis"


def examine_rows_of(context: CheckContext) -> RowReport:
    """Return the changes of the log-densities with the rows of the batch; all parameters are restored.

    Args:
        context: one run of both programs, with the objective.
    """
    sizes = {context.bound.size}
    for site in context.guide_sites + context.model_sites:
        sizes |= {size for frame in site["cond_indep_stack"] for size in (frame.size, frame.full_size) if size}
    parameters = named_parameters(context.latent_model, context.programs.modules)
    with disturbed_rows(parameters, sizes):
        return examine_rows(context.bound)


def find_other_axis(context: CheckContext) -> Iterator[Finding]:
    """Report a plate that is not over the first axis of the data, along which they are divided into batches.

    It is right only if each batch holds all data.

    Args:
        context: one run of both programs, with the objective.
    """
    bound, data_size = context.bound, context.data_size
    other = plate_of_another_axis(bound.layout, bound.args, bound.size)
    if other is not None:
        fatal = data_size is not None and data_size > bound.size
        yield Finding(OTHER_AXIS, other[0], other[1], AXIS_ADVICE, fatal=fatal)


def find_tied_rows(context: CheckContext, rows: RowReport) -> Iterator[Finding]:
    """Report densities that belong to positions of the batch, and densities that depend on the other data of it.

    Args:
        context: one run of both programs, with the objective.
        rows: the result of `examine_rows_of`.
    """
    size, data_size = context.bound.size, context.data_size
    has_all_data = data_size is not None and data_size <= size
    of_guide = [name for name in rows.tied if name.endswith(GUIDE)]
    tied = (of_guide or list(rows.tied))[:1]
    for name in tied:
        if _is_subsampled(context, name):
            yield _other_rows(name, _subject(context, name))
        elif not has_all_data:
            yield _one_row_per_position(name, _subject(context, name), size, data_size)
    if rows.mixed and not rows.tied:
        message = "its log-density depends on the other data of the batch, not only on its own datum."
        fix = "A weight per datum then depends on how the data are divided into batches. Compute it from one datum."
        yield Finding("data mixed", _site_name(rows.mixed[0]), message, fix, fatal=False)


def _site_name(name: str) -> str:
    return name.removesuffix(GUIDE)


def _subject(context: CheckContext, name: str) -> str:
    """Return the latent site of the model that an autoguide draws by means of this site, or the site itself."""
    own_name = _site_name(name)
    latent = own_name.removesuffix("_unconstrained")
    return latent if latent in context.model_latents else own_name


def _is_subsampled(context: CheckContext, name: str) -> bool:
    """Return whether a site is in a subsampled plate; such a plate has indices of its rows."""
    sites = context.guide_sites if name.endswith(GUIDE) else context.model_sites
    site: Site = next(site for site in sites if site["name"] == _site_name(name))
    return any(frame.full_size is not None and frame.full_size != frame.size for frame in site["cond_indep_stack"])


def _other_rows(name: str, subject: str) -> Finding:
    program = "guide" if name.endswith(GUIDE) else "model"
    message = (
        f"its rows in the {program} do not follow the data of the batch: the subsample of its plate differs from the "
        "indices of the data."
    )
    fix = (
        "Give the plate the indices of the batch, subsample=index, in both programs; an autoguide takes them from "
        "create_plates=lambda x, index: pyro.plate('data', data_size, subsample=index)."
    )
    return Finding("rows in one program", subject, message, fix)


def _one_row_per_position(name: str, subject: str, size: int, data_size: int | None) -> Finding:
    program = "guide" if name.endswith(GUIDE) else "model"
    message = (
        f"its distribution in the {program} belongs to a position in the batch and not to a datum: if the order of the "
        "data changes, the order of the distributions does not. "
    )
    if data_size is None:
        message += f"That is right only if each batch holds all data; this one has {size}."
    else:
        message += (
            f"Data in the same position of different batches share it, because a batch has {size} of {data_size} data."
        )
    all_data = "all data" if data_size is None else f"all {data_size} data (batch_size={data_size})"
    fix = (
        "Compute it from the datum, as an encoder does; or take the parameters of the data by their numbers, the field "
        f"index (pvae.LocalGuide does); or train on {all_data} in each batch."
    )
    return Finding("one row per position", subject, message, fix, fatal=data_size is not None)
